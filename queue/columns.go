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
	each  bool                    // the script reads it item by item: it may be a dictionary
}

var commitColumns = [...]column{
	{nil, func(c *Commit) any { return &c.Result.ID }, true},
	{func(a, b *Commit) bool { return a.took() == b.took() }, func(c *Commit) any { return c.took() }, true},
	{func(a, b *Commit) bool { return bytes.Equal(a.Result.Value, b.Result.Value) }, func(c *Commit) any { return (*rawArgument)(&c.Result.Value) }, true},
	{func(a, b *Commit) bool { return a.Token == b.Token }, func(c *Commit) any { return &c.Token }, false},
	{func(a, b *Commit) bool { return a.flags() == b.flags() }, func(c *Commit) any { return c.flags() }, false},
	{func(a, b *Commit) bool { return a.Result.Workflow == b.Result.Workflow }, func(c *Commit) any { return &c.Result.Workflow }, false},
	{func(a, b *Commit) bool { return a.Result.Worker == b.Result.Worker }, func(c *Commit) any { return &c.Result.Worker }, false},
	{func(a, b *Commit) bool { return a.Result.Attempt == b.Result.Attempt }, func(c *Commit) any { return &c.Result.Attempt }, false},
	{func(a, b *Commit) bool { return a.Result.ClaimedMS == b.Result.ClaimedMS }, func(c *Commit) any { return &c.Result.ClaimedMS }, false},
	{func(a, b *Commit) bool { return a.Result.StartedMS == b.Result.StartedMS }, func(c *Commit) any { return &c.Result.StartedMS }, false},
	{func(a, b *Commit) bool { return a.Result.FinishedMS == b.Result.FinishedMS }, func(c *Commit) any { return &c.Result.FinishedMS }, false},
	{func(a, b *Commit) bool { return bytes.Equal(a.Result.Meta, b.Result.Meta) }, func(c *Commit) any { return metaArgument(c.Result) }, false},
}

// maxDistinct is how many values a dictionary holds at most: to look through more would cost the worker more than it spares Redis.
const maxDistinct = 32

// columns appends the columns of commit.lua, each as what is shorter.
func columns(args []any, batch []Commit) []any {
	var kinds [len(commitColumns)]byte
	at := len(args)
	args = append(args, nil)
	for i, column := range commitColumns {
		runs := column.runs(batch)
		if column.each && runs > len(batch)/4 {
			if with := column.dictionary(args, batch); with != nil {
				kinds[i], args = 'd', with
				continue
			}
		}
		if runs > len(batch)/2 {
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

// dictionary appends the column as its distinct values and which of them each item has. It returns nil where that is not shorter.
func (c column) dictionary(args []any, batch []Commit) []any {
	if c.same == nil || len(batch) < 8 {
		return nil
	}
	var firsts [maxDistinct]*Commit
	codes, n := make([]byte, len(batch)), 0
	for k := range batch {
		code := 0
		for code < n && !c.same(firsts[code], &batch[k]) {
			code++
		}
		if code == n {
			if n == min(maxDistinct, len(batch)/2) {
				return nil
			}
			firsts[n] = &batch[k]
			n++
		}
		codes[k] = byte(code + 1)
	}
	args = append(args, n)
	for _, first := range firsts[:n] {
		args = append(args, c.value(first))
	}
	return append(args, codes)
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

// joined is the IDs of a batch as they are kept in ended.
func joined(batch []Commit) []byte {
	n := 0
	for i := range batch {
		n += len(batch[i].Result.ID) + 1
	}
	ids := make([]byte, 0, n)
	for i := range batch {
		if i > 0 {
			ids = append(ids, ' ')
		}
		ids = append(ids, batch[i].Result.ID...)
	}
	return ids
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
