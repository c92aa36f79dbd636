package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

const sweeps = 3 // what is killed may have started another in the meantime

// sweep kills what a forked execution left behind in the group of its slot. The slot stays, and so do its children: the one
// that ran the execution is on its way out, others belong to what was imported. Where the system has no /proc, what is left
// behind lives until the slot is replaced.
func (i *interpreter) sweep() {
	for range sweeps {
		left := leftIn(i.pid)
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// leftIn lists who lives in a process group and is neither its leader nor a child of it.
func leftIn(group int) []int {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = proc.Close() }()
	names, _ := proc.Readdirnames(-1)
	var left []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == group {
			continue
		}
		if its, err := syscall.Getpgid(pid); err != nil || its != group {
			continue
		}
		if state, parent := statOf(pid); parent != group && state != 'Z' && state != 'X' && state != 0 {
			left = append(left, pid)
		}
	}
	return left
}

// statOf returns the state of a process and the number of its parent; 0 where there is none.
func statOf(pid int) (state byte, parent int) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, 0
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:]) // a name may hold anything
	if len(fields) < 2 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(string(fields[1]))
	return fields[0][0], parent
}
