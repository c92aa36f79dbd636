// Package leash starts processes that end when this one does, however it does: after kill -9 too, where the system can do
// that. Each has a process group of its own, so that it can be killed with everything it started.
package leash

import (
	"os/exec"
	"syscall"
)

// Start starts a process on the leash. Cmd.SysProcAttr must be nil.
func Start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return start(cmd)
}

// Kill kills a process that Start started and everything in its group. It is safe to repeat until the process was waited for.
func Kill(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}
