package queue

import (
	"bytes"
	"encoding/json"

	"github.com/bobbin-run/bobbin/execution"
)

// column is one value of every item of a batch. Every value that is sent costs Redis as much as a tenth of an entry, and most are
// as in the item before: the same workflow, the same claim, the same millisecond.
type column struct {
	same  func(a, b *Commit) bool // nil: never
	value func(*Commit) any       // by reference where that can be: boxing them was most of what a commit allocated
}

var commitColumns = [...]column{
	{nil, func(c *Commit) any { return &c.Result.ID }},
	{func(a, b *Commit) bool { return a.Token == b.Token }, func(c *Commit) any { return &c.Token }},
	{func(a, b *Commit) bool { return a.flags() == b.flags() }, func(c *Commit) any { return c.flags() }},
	{func(a, b *Commit) bool { return a.Result.Workflow == b.Result.Workflow }, func(c *Commit) any { return &c.Result.Workflow }},
	{func(a, b *Commit) bool { return a.Result.Worker == b.Result.Worker }, func(c *Commit) any { return &c.Result.Worker }},
	{func(a, b *Commit) bool { return a.Result.Attempt == b.Result.Attempt }, func(c *Commit) any { return &c.Result.Attempt }},
	{func(a, b *Commit) bool { return a.Result.ClaimedMS == b.Result.ClaimedMS }, func(c *Commit) any { return &c.Result.ClaimedMS }},
	{func(a, b *Commit) bool { return a.Result.StartedMS == b.Result.StartedMS }, func(c *Commit) any { return &c.Result.StartedMS }},
	{func(a, b *Commit) bool { return a.Result.FinishedMS == b.Result.FinishedMS }, func(c *Commit) any { return &c.Result.FinishedMS }},
	{func(a, b *Commit) bool { return a.took() == b.took() }, func(c *Commit) any { return c.took() }},
	{func(a, b *Commit) bool { return bytes.Equal(a.Result.Value, b.Result.Value) }, func(c *Commit) any { return (*rawArgument)(&c.Result.Value) }},
	{func(a, b *Commit) bool { return bytes.Equal(a.Result.Meta, b.Result.Meta) }, func(c *Commit) any { return metaArgument(c.Result) }},
}

// columns appends the columns of commit.lua, each as what is shorter.
func columns(args []any, batch []Commit) []any {
	var kinds [len(commitColumns)]byte
	at := len(args)
	args = append(args, nil)
	for i, column := range commitColumns {
		if column.runs(batch) > len(batch)/2 {
			kinds[i] = '.'
			for k := range batch {
				args = append(args, column.value(&batch[k]))
			}
			continue
		}
		kinds[i] = 'r'
		for k, begin := 1, 0; k <= len(batch); k++ {
			if k == len(batch) || !column.same(&batch[k-1], &batch[k]) {
				args = append(args, k-begin, column.value(&batch[begin]))
				begin = k
			}
		}
	}
	args[at] = string(kinds[:])
	return args
}

// runs counts how often the value changes from one item to the next, and the first.
func (c column) runs(batch []Commit) int {
	if c.same == nil {
		return len(batch)
	}
	runs := 1
	for k := 1; k < len(batch); k++ {
		if !c.same(&batch[k-1], &batch[k]) {
			runs++
		}
	}
	return runs
}

func metaArgument(r *execution.Result) any {
	if len(r.Meta) == 0 {
		return "{}"
	}
	return (*rawArgument)(&r.Meta)
}

// rawArgument is bytes as an argument, by reference.
type rawArgument json.RawMessage

// MarshalBinary is how go-redis asks for the bytes.
func (r *rawArgument) MarshalBinary() ([]byte, error) { return *r, nil }
