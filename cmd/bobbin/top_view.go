package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bobbin-run/bobbin/config"
)

// View draws everything, in as many lines as there are.
func (m *top) View() string {
	if m.page != nil {
		return m.cut(m.page.view(m.height))
	}
	head := m.head()
	if m.reading == nil {
		return m.cut(escape(strings.Join(append(head, "reading…"), "\n")))
	}
	foot := m.foot()
	m.room = len(m.rows)
	if m.height > 0 {
		m.room = max(m.height-len(head)-len(foot)-3, 1) // the table's heading, the place, an empty line
	}
	lines := slices.Concat(head, m.table(), []string{m.place()}, foot)
	return m.cut(escape(strings.Join(lines, "\n")))
}

// head is the queue: where it is, what waits, how fast it goes.
func (m *top) head() []string {
	now := m.now()
	title := []string{"bobbin top", now.UTC().Format("15:04:05Z"), "queue " + m.cfg.Queue, config.RedactURL(m.cfg.RedisURL)}
	lines := wrapped(title, m.width)
	old := now.Sub(m.readAt)
	switch {
	case m.reading == nil && m.failure != nil:
		return append(lines, wrapText(fmt.Sprintf("! Redis does not answer: %v", m.failure), m.width)...)
	case m.reading == nil:
		return lines
	case m.failure != nil:
		lines = append(lines, wrapText(fmt.Sprintf("! Redis has not answered for %s; what follows is that old: %v", old.Round(time.Second), m.failure), m.width)...)
	case old > topPause:
		lines = append(lines, wrapText(fmt.Sprintf("! Redis has not answered for %s; what follows is that old", old.Round(time.Second)), m.width)...)
	}
	s := m.reading.status
	if warning := s.warning(); warning != "" {
		lines = append(lines, wrapText(warning, m.width)...)
	}
	oldest := ""
	if at, ok := submitted(m.reading.oldest); ok {
		oldest = fmt.Sprintf(" (the oldest waits %s)", age(s.NowMS-at))
	}
	lines = append(lines, wrapped([]string{
		fmt.Sprintf("pending %d%s", s.Pending+s.Handoff, oldest), fmt.Sprintf("in flight %d", s.Claimed), fmt.Sprintf("scheduled %d", s.Scheduled),
		fmt.Sprintf("results %d", s.Results), fmt.Sprintf("late %d", s.Late), fmt.Sprintf("dead %d", s.Dead),
		fmt.Sprintf("quarantined %d", m.reading.quarantined),
	}, m.width)...)
	lines = append(lines, wrapped(m.speed.figures(), m.width)...)
	return append(lines, "")
}

// foot is a question, or what was answered and the keys.
func (m *top) foot() []string {
	if m.asking != nil {
		return wrapText("y to do it, any other key not to: "+m.asking.text+"?", m.width)
	}
	pause := "p pause"
	if i := m.index(); i >= 0 && m.rows[i].worker.Paused {
		pause = "p resume"
	}
	keys := wrapped([]string{"up/down select", "d drain", "r recycle", pause, "c cancel", "s stacks", "q quit"}, m.width)
	return append(wrapText(m.said, m.width), keys...)
}

// place says how much there is beyond the view, and of what kind.
func (m *top) place() string {
	silent, stuck := 0, 0
	for _, w := range m.reading.status.Workers {
		if w.Silent {
			silent++
		}
		if w.Stuck > 0 {
			stuck++
		}
	}
	var parts []string
	if first, last := m.visible(); first > 0 || last < len(m.rows) {
		parts = append(parts, fmt.Sprintf("rows %d-%d of %d", first+1, last, len(m.rows)), "PgUp PgDn g G tab, f folds")
	}
	if n := len(m.reading.status.Workers); len(parts) > 0 || silent+stuck > 0 {
		parts = append(parts, fmt.Sprintf("%d workers: %d silent, %d stuck", n, silent, stuck))
	}
	return strings.Join(parts, "   ")
}

// visible is which rows there is room for, the selected one among them.
func (m *top) visible() (first, last int) {
	if len(m.rows) <= m.room {
		return 0, len(m.rows)
	}
	first = min(max(m.index()-m.room/2, 0), len(m.rows)-m.room)
	return first, first + m.room
}

func (m *top) table() []string {
	if len(m.rows) == 0 {
		return []string{"no workers are registered; start one with: bobbin worker"}
	}
	first, last := m.visible()
	workers := [][]string{{"WORKER", "STATE", "RUNNING", "STUCK", "PROCESSED", "FAILED", "MEMORY", "HEARTBEAT"}}
	for _, r := range m.rows[first:last] {
		if w := r.worker; r.run == nil {
			workers = append(workers, []string{
				w.Worker, w.condition(), fmt.Sprintf("%d/%d", w.Running, w.Concurrency), fmt.Sprint(w.Stuck), fmt.Sprint(w.Processed),
				fmt.Sprint(w.Failed), fmt.Sprintf("%.0f MiB", float64(w.RSSBytes)/(1<<20)), w.age(),
			})
		}
	}
	table := columns(workers, m.width-2)
	lines := []string{"  " + table[0]}
	for _, r := range m.rows[first:last] {
		mark := []byte("  ")
		if r.identity() == m.at {
			mark[0] = '>'
		}
		if r.run == nil {
			if r.worker.Silent || r.worker.Stuck > 0 {
				mark[1] = '!'
			}
			table = table[1:]
			lines = append(lines, string(mark)+table[0])
			continue
		}
		lines = append(lines, string(mark)+"    "+m.run(r))
	}
	return lines
}

// run is an execution in the width that there is: how long it runs is never cut off.
func (m *top) run(r row) string {
	rest := "  for " + age(m.reading.status.NowMS-r.run.SinceMS)
	if r.run.Stuck {
		rest += "  STUCK"
	} else if r.run.Asked {
		rest += "  cancel asked"
	}
	room := m.width - 6 - len(rest) - 2
	workflow := squeeze(r.run.Workflow, max(room-len(r.run.ID), room/2))
	return squeeze(r.run.ID, room-utf8.RuneCountInString(workflow)) + "  " + workflow + rest
}

// spare are the columns that a narrow terminal does without, the first to go first.
var spare = []string{"PROCESSED", "MEMORY", "FAILED"}

// columns lays out rows, the first being the headings, within width: columns that one can do without are left out, then what is
// in the first one is shortened.
func columns(rows [][]string, width int) []string {
	widths := make([]int, len(rows[0]))
	for _, cells := range rows {
		for i, cell := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	left := width
	for _, w := range widths[1:] {
		left -= w + 2
	}
	for _, name := range spare {
		if i := slices.Index(rows[0], name); left < min(widths[0], 40) && i > 0 {
			left += widths[i] + 2
			widths[i] = 0
		}
	}
	widths[0] = min(widths[0], max(left, 8))
	lines := make([]string, len(rows))
	for i, cells := range rows {
		for j, cell := range cells {
			if widths[j] > 0 {
				lines[i] += fmt.Sprintf("%-*s  ", widths[j], squeeze(cell, widths[j]))
			}
		}
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

// wrapped puts parts into as few lines as there is width for; one that is too long by itself is shortened in its middle.
func wrapped(parts []string, width int) []string {
	var lines []string
	for _, part := range parts {
		part = squeeze(part, width)
		if last := len(lines) - 1; last >= 0 && utf8.RuneCountInString(lines[last])+utf8.RuneCountInString(part)+3 <= width {
			lines[last] += "   " + part
		} else {
			lines = append(lines, part)
		}
	}
	return lines
}

// wrapText breaks a text where the width ends, inside of words too: an ID that is asked about is shown whole.
func wrapText(text string, width int) []string {
	var lines []string
	for line := range strings.Lines(text) {
		runes := []rune(strings.TrimRight(line, "\n"))
		for width = max(width, 1); len(runes) > width; runes = runes[width:] {
			lines = append(lines, string(runes[:width]))
		}
		lines = append(lines, string(runes))
	}
	return lines
}

// cut keeps lines within the terminal.
func (m *top) cut(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if runes := []rune(line); len(runes) > m.width {
			lines[i] = string(runes[:max(m.width-1, 0)]) + "…"
		}
	}
	return strings.Join(lines, "\n")
}
