// Package nice lets a process step back behind others on its machine.
//
// A worker whose workflows compute keeps every processor busy, and a Redis beside it then waits its turn for every call: a few
// milliseconds in which the worker, too, soon has nothing to run and nothing to do but wait for Redis. A lower priority costs
// the worker nothing that it could have used. Nor does it when its threads, woken up by an answer, wait until Redis has given all the
// others theirs, instead of interrupting it: each time that costs Redis what it had in the processor's caches.
//
// Linux weighs threads by their niceness within a control group, and where there are none, within a session (autogroup in sched(7)):
// between services or containers, their CPU weights decide instead.
package nice
