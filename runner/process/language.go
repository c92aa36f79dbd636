package process

import (
	"embed"
	"path"
	"strings"
)

// Mode is how an interpreter runs executions.
type Mode string

// The modes. An execution may ask for one by its context's isolation.
const (
	Resident Mode = "resident" // in the interpreter itself: fast, module globals survive
	Fork     Mode = "fork"     // in a child forked for each execution: clean state
)

// Language is what it takes to run workflows of one language.
type Language struct {
	Name    string   // for logs: "python"
	Suffix  string   // of the workflows' names: ".py"
	Command []string // starts an interpreter that reads its shim as the first frame on descriptor 3, and runs it
	Env     []string // added to the worker's environment, from which everything that begins with BOBBIN_ is taken
	Shim    string
	Forks   bool // whether the shim knows [Fork]
	Dumps   bool // whether SIGUSR2 makes an interpreter write what it is doing to descriptor 2
}

//go:embed shim/python/*.py
var pythonFiles embed.FS

// pythonShim is one file to Python, in this order.
var pythonShim = together(pythonFiles, "shim/python", "frames.py", "modules.py", "workflow.py", "execution.py", "parts.py")

func together(files embed.FS, dir string, names ...string) string {
	var all strings.Builder
	for _, name := range names {
		source, err := files.ReadFile(path.Join(dir, name))
		if err != nil {
			panic(err) // a name above that is not embedded
		}
		all.Write(source)
		all.WriteString("\n\n")
	}
	return all.String()
}

//go:embed shim/node.mjs
var nodeShim string

const pythonBootstrap = `import os, sys
if sys.version_info < (3, 9): sys.exit("CPython 3.9 or later is needed, and this is " + sys.version.split()[0])
def read(n):
    b = b""
    while len(b) < n:
        p = os.read(3, n - len(b))
        if not p: os._exit(0)
        b += p
    return b
exec(compile(read(int.from_bytes(read(4), "big")), "<bobbin>", "exec"))`

// The shim becomes a module of its own, so that its imports are its own too. Installed packages are imported by a file that would
// be in the worker's folder: what a script of the command line could import itself crashes Node.js 20.0 once that is collected.
const nodeBootstrap = `const { readSync } = require("node:fs"), { alloc } = Buffer, { exit } = process;
const receive = (size) => {
  const all = alloc(size);
  for (let at = 0, n; at < size; at += n) if (!(n = readSync(3, all, at, size - at, null))) exit(0);
  return all;
};
const shim = "data:text/javascript;base64," + receive(receive(4).readUInt32BE()).toString("base64");
const folder = new module.constructor();
folder._compile("exports.load = (name) => import(name)", process.cwd() + "/[bobbin]");
import(shim).then(({ main }) => main(receive, folder.exports.load));`

// Python returns the language of .py workflows, run by the CPython (3.9 or later) at a path.
func Python(program string) *Language {
	return &Language{
		Name: "python", Suffix: ".py", Command: []string{program, "-c", pythonBootstrap}, Shim: pythonShim, Forks: true, Dumps: true,
		Env: []string{"PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"},
	}
}

// Node returns the language of .mjs workflows, run by the Node.js (20 or later) at a path.
func Node(program string) *Language {
	return &Language{
		Name: "node", Suffix: ".mjs", Shim: nodeShim,
		Command: []string{program, "--experimental-vm-modules", "--no-warnings", "-e", nodeBootstrap},
	}
}
