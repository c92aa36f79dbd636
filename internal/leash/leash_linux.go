package leash

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// start asks the kernel to kill the process when its parent dies. To the kernel the parent is the thread that forked, and
// threads of Go come and go (golang.org/issue/27505): one goroutine keeps one thread for all starts, for ever.
func start(cmd *exec.Cmd) error {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error, 1)
	starter() <- func() { started <- cmd.Start() }
	return <-started
}

var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go serve(work) // for the life of the process
	return work
})

// serve starts processes on a thread of its own. A test that looks for goroutines left behind may ignore it by its name.
func serve(work <-chan func()) {
	runtime.LockOSThread()
	for do := range work {
		do()
	}
}
