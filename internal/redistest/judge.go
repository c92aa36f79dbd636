package redistest

import (
	"slices"
	"time"
)

// judge counts a command and returns the fault that it runs into, if any. Every fault set for one of its names counts it;
// where two would go off, the second one waits for the next command.
func (p *Proxy) judge(req *request) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := p.namesLocked(req)
	for _, name := range names {
		p.counts[name]++
	}
	var caught *Fault
	for _, f := range p.armed {
		if !slices.Contains(names, f.name) {
			continue
		}
		f.left = max(f.left-1, 0)
		if f.left == 0 && caught == nil {
			caught = f
		}
	}
	p.armed = slices.DeleteFunc(p.armed, func(f *Fault) bool { return f == caught })
	if caught == nil {
		caught = p.chanceLocked(req)
	}
	if caught != nil {
		caught.title = p.titleLocked(req)
	}
	return caught
}

func (p *Proxy) chanceLocked(req *request) *Fault {
	kind := p.loss.roll()
	if kind == "" {
		return nil
	}
	return &Fault{proxy: p, kind: kind, name: req.verb, fired: make(chan struct{})}
}

func (p *Proxy) namesLocked(req *request) []string {
	names := []string{"*", req.verb}
	if req.script == "" {
		return names
	}
	names = append(names, req.verb+":"+req.script)
	if label := p.labels[req.script]; label != "" {
		names = append(names, req.verb+":"+label, label)
	}
	return names
}

func (p *Proxy) titleLocked(req *request) string {
	if label := p.labels[req.script]; label != "" {
		return req.verb + ":" + label
	}
	return req.verb
}

func (p *Proxy) titleOf(f *Fault) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return f.title
}

func (p *Proxy) record(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recordLocked(what)
}

func (p *Proxy) recordLocked(what string) {
	p.fired = append(p.fired, what)
	close(p.changed)
	p.changed = make(chan struct{})
}

// silent returns a channel that is closed when bytes pass again, or nil when they do.
func (p *Proxy) silent() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.silence
}

// latency waits as long as answers are to be delayed, or until done.
func (p *Proxy) latency(done <-chan struct{}) {
	p.mu.Lock()
	delay := p.delay
	p.mu.Unlock()
	if delay <= 0 {
		return
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-done:
	}
}
