// Package process runs workflows in other languages, in interpreters that were started before and live on after. A language
// is a program and a shim: source, embedded here, that speaks the frame protocol of docs/frames.md on descriptor 3.
// [Python] and [Node] are the two there are; another needs no more than its shim and a [Language].
//
// # Why processes
//
// A thread that hangs can never be killed, a process can. An interpreter runs one execution at a time; when that outlasts its
// timeout it is asked to stop (SIGINT, which the shim turns into an exception), and before the cancel grace is over its whole
// process group is killed. A crash costs the execution that caused it and nothing else.
//
// # Two ways to be warm
//
// Resident: the interpreter runs every execution itself, so module globals survive until a published module changes. Fork:
// one process, the mother, has imported what all share; slots forked from it import the workflow once, and fork a child for
// every execution, which begins with clean state. Slots share memory with the mother.
//
// # Modules
//
// An interpreter has no connection to Redis. It asks over the pipe, and is served from the one snapshot that its execution
// is pinned to.
package process
