package nice

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// Raise makes the process at least so nice: 0 is what programs are by default, 19 the most. What it starts from now on inherits
// that. To be less nice again takes a privilege, so that this is for the life of the process.
func Raise(nice int) error {
	// To Linux each thread has a niceness of its own, which it hands to those that it starts: again, until none is left that
	// another one started meanwhile; but not for ever where a sandbox only says that it obeys.
	for raised, pass := true, 0; raised && pass < 100; pass++ {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("nice: %w", err)
		}
		raised = false
		for _, thread := range threads {
			id, err := strconv.Atoi(thread.Name())
			if err != nil {
				return fmt.Errorf("nice: thread %q: %w", thread.Name(), err)
			}
			changed, err := raise(id, nice)
			if err != nil {
				return fmt.Errorf("nice: thread %d, from %d to %d: %w", id, of(id), nice, err)
			}
			raised = raised || changed
		}
	}
	return nil
}

// raise changes one thread, unless it is as nice already or has ended.
func raise(thread, nice int) (bool, error) {
	if of(thread) >= nice {
		return false, nil
	}
	err := syscall.Setpriority(syscall.PRIO_PROCESS, thread, nice)
	if err == syscall.ESRCH {
		return false, nil
	}
	return err == nil, err
}

// of returns how nice a thread is; one that has ended is as nice as can be.
func of(thread int) int {
	kernels, err := syscall.Getpriority(syscall.PRIO_PROCESS, thread) // the system call returns 20 less the niceness
	if err != nil {
		return 19
	}
	return 20 - kernels
}
