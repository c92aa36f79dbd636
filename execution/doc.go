// Package execution holds the words that every other room of Bobbin shares: what an execution is called ([ID]), what it is
// asked to do ([Context]), how it ended ([Result], [Status], [Error]) and the life of the worker that runs it ([State]).
//
// It is pure: no Redis, no goroutines, no clock. Each type knows its own wire form, as docs/protocol.md defines it, and
// says in one sentence what is wrong with input that does not fit: the field, the value and what was expected.
package execution
