package leash

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// First says whether this process is the first of its machine or container. To that the kernel gives every process whose
// parent has died, and it must bury them: programs that workflows leave behind, and what a killed interpreter had started.
func First() bool { return os.Getpid() == 1 }

// Bury runs the program of this process once more, as a child with the same arguments, environment and files, and does what
// the first process has to: it passes signals on, and waits for whatever ends. It returns how the child ended, as an exit
// code; 128 and the signal's number where that killed it. Nothing else in this process may start or await processes.
func Bury(env []string) (code int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals) // before the child is there: its end is one of them
	defer signal.Stop(signals)
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, os.Stdout, os.Stderr
	if err := Start(cmd); err != nil {
		return 0, err
	}
	child := cmd.Process.Pid
	for sig := range signals {
		switch sig {
		case syscall.SIGCHLD:
			if status, ended := bury(child); ended {
				return status, nil
			}
		case syscall.SIGURG, syscall.SIGPIPE, syscall.SIGTTIN, syscall.SIGTTOU: // this process's own
		default:
			_ = syscall.Kill(child, sig.(syscall.Signal))
		}
	}
	return 0, errors.New("leash: no signals") // the channel is never closed
}

// bury waits for all that have ended. Of the child it returns the exit code.
func bury(child int) (code int, ended bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil || pid == 0:
			return code, ended
		case pid == child && status.Signaled():
			code, ended = 128+int(status.Signal()), true
		case pid == child:
			code, ended = status.ExitStatus(), true
		}
	}
}
