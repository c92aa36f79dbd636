package nice

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// Raise makes the process at least so nice: 0 is what programs are by default, 19 the most; and one that does not interrupt what
// runs when it wakes up (SCHED_BATCH in sched(7)). What it starts from now on inherits both. To be less nice again takes a privilege,
// so that this is for the life of the process. After an error some of its threads may be as nice as asked.
func Raise(nice int) error {
	// What is mounted may tell of another namespace: then its numbers are of strangers' threads.
	if own, err := os.Readlink("/proc/self"); err != nil || own != strconv.Itoa(os.Getpid()) {
		return fmt.Errorf("nice: /proc does not tell of this process, %d: it has %q", os.Getpid(), own)
	}
	// To Linux each thread has a niceness of its own, which it hands to those that it starts: again, until none is left that
	// another one started meanwhile; but not for ever where a sandbox only says that it obeys.
	const passes = 100
	for range passes {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("nice: %w", err)
		}
		raised := false
		for _, thread := range threads {
			id, err := strconv.Atoi(thread.Name())
			if err != nil {
				return fmt.Errorf("nice: thread %q: %w", thread.Name(), err)
			}
			changed, err := raise(id, nice)
			if err != nil {
				return fmt.Errorf("nice: thread %d, to %d: %w", id, nice, err)
			}
			raised = raised || changed
		}
		if !raised {
			return nil
		}
	}
	return fmt.Errorf("nice: the kernel says that it makes threads %d, but %d times they were not", nice, passes)
}

// raise changes one thread, unless it is as nice already or has ended.
func raise(thread, nice int) (bool, error) {
	changed := batch(thread)
	kernels, err := syscall.Getpriority(syscall.PRIO_PROCESS, thread) // the system call returns 20 less the niceness
	if err == nil && 20-kernels < nice {
		changed, err = true, syscall.Setpriority(syscall.PRIO_PROCESS, thread, nice)
	}
	if err == syscall.ESRCH {
		return false, nil
	}
	return changed && err == nil, err
}

// batch has one thread wait for its turn when it wakes up, where it would interrupt another of the usual policy. A thread to which
// somebody gave another policy keeps it. Where a sandbox refuses, being nice must do.
func batch(thread int) (changed bool) {
	const usual, batch = 0, 3 // SCHED_OTHER, SCHED_BATCH
	policy, _, errno := syscall.Syscall(syscall.SYS_SCHED_GETSCHEDULER, uintptr(thread), 0, 0)
	if errno != 0 || policy != usual {
		return false
	}
	var parameter struct{ priority int32 }
	_, _, errno = syscall.Syscall(syscall.SYS_SCHED_SETSCHEDULER, uintptr(thread), batch, uintptr(unsafe.Pointer(&parameter)))
	return errno == 0
}

// Yield lets every other thread that waits for this processor run before the calling one goes on. Where none waits it costs less than
// a microsecond.
func Yield() { _, _, _ = syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }
