package queue

// Keys are the names of everything one queue keeps in Redis: "<prefix>:{<queue>}:<name>". The braces make the queue the
// Redis Cluster hash tag, so that all keys of a queue share a slot and every script is legal in a cluster. This is the only
// place where key names are written; docs/protocol.md says what each holds.
type Keys struct {
	base string

	Pending, Handoff, Claims, Executions string
	Attempts, Recoveries                 string
	Ended                                string
	Results, Late, Dead                  string
	Scheduled, Cancels, Intents          string
	Workers, Reaper, Janitor             string
	Modules, ModulesVersion              string
	Quarantine                           string
	Control, Events                      string
}

// NewKeys returns the key names for a prefix and a queue.
func NewKeys(prefix, queue string) Keys {
	base := prefix + ":{" + queue + "}:"
	return Keys{
		base:    base,
		Pending: base + "pending", Handoff: base + "handoff", Claims: base + "claims", Executions: base + "executions",
		Attempts: base + "attempts", Recoveries: base + "recoveries",
		Ended:   base + "ended",
		Results: base + "results", Late: base + "late", Dead: base + "dead",
		Scheduled: base + "scheduled", Cancels: base + "cancels", Intents: base + "intents",
		Workers: base + "workers", Reaper: base + "reaper", Janitor: base + "janitor",
		Modules: base + "modules", ModulesVersion: base + "modules:version",
		Quarantine: base + "quarantine",
		Control:    base + "control", Events: base + "events",
	}
}

// Worker returns the key of an incarnation's registration.
func (k Keys) Worker(incarnation string) string { return k.base + "worker:" + incarnation }

// Reply returns the key of the list that a caller waiting for one execution pops.
func (k Keys) Reply(id string) string { return k.base + "reply:" + id }

// Receipts returns the key of the list of acknowledgements of one control request.
func (k Keys) Receipts(request string) string { return k.base + "receipts:" + request }

// Incidents returns the key of what counts against a workflow.
func (k Keys) Incidents(workflow string) string { return k.base + "incidents:" + workflow }

// Logs returns the key of the stream of an execution's log lines.
func (k Keys) Logs(id string) string { return k.base + "logs:" + id }
