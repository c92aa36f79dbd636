package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
)

// topTimeout is how long a command waits for a worker's answer.
const topTimeout = 10 * time.Second

// question is a command that waits for a y. It keeps what it was asked about, wherever the selection goes meanwhile.
type question struct {
	text    string
	command control.Command
}

// answer is what became of a command.
type answer struct {
	command control.Command
	text    string
}

// key does what a key asks for.
func (m *top) key(key string) tea.Cmd {
	if key == "ctrl+c" {
		return tea.Quit
	}
	if m.page != nil {
		if !m.page.scroll(key, m.height) {
			m.page = nil // and nothing else: a key that leaves the page means nothing behind it
		}
		return nil
	}
	m.said = ""
	if asked := m.asking; asked != nil {
		m.asking = nil
		if key != "y" {
			m.said = "not done: " + asked.text
			return nil
		}
		m.said = asked.text + ": sent, waiting for the answer…"
		return m.send(asked.command)
	}
	if key == "q" {
		return tea.Quit
	}
	if at := m.index(); m.reading != nil && at >= 0 && !m.move(key, at) {
		return m.steer(key, m.rows[at])
	}
	return nil
}

// move moves the selection, if that is what the key is for.
func (m *top) move(key string, at int) bool {
	switch key {
	case "up", "k":
		at--
	case "down", "j":
		at++
	case "pgup", "ctrl+b":
		at -= max(m.room, 1)
	case "pgdown", "ctrl+f", " ":
		at += max(m.room, 1)
	case "home", "g":
		at = 0
	case "end", "G":
		at = len(m.rows) - 1
	case "tab":
		for at++; at < len(m.rows) && m.rows[at].run != nil; at++ {
		}
		at %= len(m.rows)
	default:
		return false
	}
	m.at = m.rows[min(max(at, 0), len(m.rows)-1)].identity()
	return true
}

// steer asks whether a command is meant, or shows more or less.
func (m *top) steer(key string, at row) tea.Cmd {
	worker := at.worker.Worker
	switch key {
	case "f":
		m.folded = !m.folded
		m.list()
	case "d":
		m.ask(control.Command{Verb: control.Drain, Worker: worker})
	case "r":
		m.ask(control.Command{Verb: control.Recycle, Worker: worker})
	case "p":
		verb := control.Pause
		if at.worker.Paused {
			verb = control.Resume
		}
		m.ask(control.Command{Verb: verb, Worker: worker})
	case "c":
		if at.run == nil {
			m.said = "select an execution to cancel it"
			break
		}
		m.ask(control.Command{Verb: control.Cancel, ExecutionID: at.run.ID})
	case "s":
		m.said = fmt.Sprintf("asking %s what it is doing…", worker)
		if at.worker.Silent {
			m.said = fmt.Sprintf("asking %s what it is doing… it was last heard of %s, and may not answer", worker, at.worker.age())
		}
		return m.send(control.Command{Verb: control.Stacks, Worker: worker})
	}
	return nil
}

func (m *top) ask(c control.Command) {
	m.asking = &question{strings.TrimSpace(string(c.Verb) + " " + c.Worker + c.ExecutionID), c}
}

// send sends a command as its own subcommand would, and says what was answered.
func (m *top) send(c control.Command) tea.Cmd {
	return func() tea.Msg {
		var out bytes.Buffer
		quiet := &app{stdin: m.app.stdin, stdout: &out, stderr: &out}
		var err error
		if c.Verb == control.Cancel {
			err = quiet.cancel(m.ctx, m.queue, execution.ID(c.ExecutionID), topTimeout)
		} else {
			err = quiet.command(m.ctx, m.queue, c, topTimeout)
		}
		text := strings.TrimSpace(out.String())
		if err != nil {
			text = strings.TrimSpace(text + "\n" + err.Error())
		}
		return answer{c, text}
	}
}

// hear shows an answer: stacks on a page of their own, in front of a question that nobody would see, the rest below the queue.
func (m *top) hear(a answer) {
	m.said = a.text
	if a.command.Verb == control.Stacks && strings.Contains(a.text, "\n\n") {
		m.said, m.asking = "", nil
		m.page = &page{lines: wrapText(strings.ReplaceAll(escape(a.text), "\t", "    "), m.width)}
	}
}

// page is a long answer that is shown instead of the queue.
type page struct {
	lines []string
	first int // the line at the top
}

// scroll turns the page, if that is what the key is for.
func (p *page) scroll(key string, height int) bool {
	room := p.room(height)
	switch key {
	case "up", "k":
		p.first--
	case "down", "j":
		p.first++
	case "pgup", "ctrl+b":
		p.first -= room
	case "pgdown", "ctrl+f", " ":
		p.first += room
	case "home", "g":
		p.first = 0
	case "end", "G":
		p.first = len(p.lines)
	default:
		return false
	}
	p.first = max(min(p.first, len(p.lines)-room), 0)
	return true
}

func (p *page) room(height int) int {
	if height == 0 {
		return len(p.lines)
	}
	return max(height-2, 1)
}

// view is the page and a last line that says how to go on and back.
func (p *page) view(height int) string {
	room := p.room(height)
	first := max(min(p.first, len(p.lines)-room), 0)
	last := min(first+room, len(p.lines))
	foot := "any key to go back"
	if first > 0 || last < len(p.lines) {
		foot = fmt.Sprintf("lines %d-%d of %d   up/down PgUp/PgDn g G to read on, any other key to go back", first+1, last, len(p.lines))
	}
	return strings.Join(append(append([]string{}, p.lines[first:last]...), "", foot), "\n")
}
