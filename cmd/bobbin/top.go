package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

const (
	topEvery  = time.Second
	topWindow = 60 * time.Second // over which rates and percentiles are taken
	topRead   = 5000             // results read at most in one go
)

func (a *app) topCommand() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use: "top", Short: "Watch the queue, its workers and what they run, and steer them", Args: exactly(),
		Long: "A live view, renewed every second. Rates and percentiles are of the last minute, from the results stream.\n" +
			"Keys: up and down select; d drain, r recycle, p pause or resume the worker; c cancel the execution; s its stacks; q quit.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !once && !isTerminal(a.stdout) {
				return usageError("top needs a terminal; bobbin top --once prints one view, bobbin status --json is for programs")
			}
			cfg, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			m := &top{ctx: ctx, app: a, cfg: cfg, queue: q, width: 120}
			if once {
				m.take(m.read())
				if m.failure != nil {
					return m.failure
				}
				fmt.Fprintln(a.stdout, m.View())
				return nil
			}
			_, err = tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(a.stdin), tea.WithOutput(a.stdout), tea.WithAltScreen()).Run()
			if ctx.Err() != nil {
				return nil // interrupted: that is how one leaves
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "print one view and leave")
	return cmd
}

// top is the model of the live view. Bubble Tea calls its methods one at a time; readings and commands run beside it and
// come back as messages.
type top struct {
	ctx    context.Context
	app    *app
	cfg    *config.Config
	queue  *queue.Queue
	width  int
	height int // 0: any

	reading  *reading
	failure  error
	ended    []ended // within the window
	since    string  // the stream ID up to which results were read
	began    time.Time
	selected int
	asking   *question // to be answered with y
	said     string    // the last line: what became of a command
}

// reading is one look at everything.
type reading struct {
	status      *queueStatus
	workers     []queue.Worker
	oldest      string
	quarantined int
	results     []queue.Entry
	err         error
}

// ended is what a result says of speed.
type ended struct {
	atMS      int64
	duration  time.Duration
	waitMS    int64 // from submission to claim; -1: not known
	succeeded bool
}

type question struct {
	text    string
	command control.Command
}

type answer string

type tick struct{}

// Init begins reading.
func (m *top) Init() tea.Cmd { return m.readLater() }

func (m *top) readLater() tea.Cmd { return func() tea.Msg { return m.read() } }

func (m *top) read() *reading {
	ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
	defer cancel()
	r := &reading{}
	if r.status, r.err = readStatus(ctx, m.cfg, m.queue); r.err != nil {
		return r
	}
	if r.workers, r.err = m.queue.Workers(ctx); r.err != nil {
		return r
	}
	if r.oldest, r.err = m.queue.Oldest(ctx); r.err != nil {
		return r
	}
	list, err := m.queue.Quarantine(ctx)
	if err != nil {
		r.err = err
		return r
	}
	r.quarantined = len(list)
	if m.since == "" {
		r.results, r.err = m.queue.LatestResults(ctx, topRead)
		slices.Reverse(r.results)
	} else {
		r.results, r.err = m.queue.ReadResults(ctx, m.since, topRead, -1)
	}
	return r
}

// Update takes in what happened.
func (m *top) Update(message tea.Msg) (tea.Model, tea.Cmd) {
	switch message := message.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = message.Width, message.Height
	case *reading:
		m.take(message)
		return m, tea.Tick(topEvery, func(time.Time) tea.Msg { return tick{} })
	case tick:
		return m, m.readLater()
	case answer:
		m.said = string(message)
	case tea.KeyMsg:
		return m.key(message.String())
	}
	return m, nil
}

// take takes over a reading.
func (m *top) take(r *reading) {
	m.failure = r.err
	if r.err != nil {
		return
	}
	m.reading = r
	if m.since == "" {
		m.since, m.began = "0", time.Now()
	}
	for _, e := range r.results {
		m.since = e.StreamID
		wait := int64(-1)
		if at, ok := submitted(e.Result.ID); ok && e.Result.ClaimedMS > 0 {
			wait = max(e.Result.ClaimedMS-at, 0)
		}
		m.ended = append(m.ended, ended{e.Result.FinishedMS, e.Result.Duration, wait, e.Result.Status == execution.Succeeded})
	}
	from := r.status.NowMS - topWindow.Milliseconds()
	m.ended = slices.DeleteFunc(m.ended, func(e ended) bool { return e.atMS < from })
	m.selected = min(m.selected, max(len(m.rows())-1, 0))
}

// row is a line that can be selected: a worker, or an execution on it.
type row struct {
	worker workerStatus
	run    *consumer.Run // nil: the worker itself
}

func (m *top) rows() []row {
	var rows []row
	for i, w := range m.reading.status.Workers {
		rows = append(rows, row{worker: w})
		if i < len(m.reading.workers) && m.reading.workers[i].Incarnation == w.Worker {
			for _, run := range runsOf(m.reading.workers[i]) {
				rows = append(rows, row{w, &run})
			}
		}
	}
	return rows
}

func (m *top) key(key string) (tea.Model, tea.Cmd) {
	if key == "q" || key == "ctrl+c" {
		return m, tea.Quit
	}
	m.said = ""
	if asked := m.asking; asked != nil {
		m.asking = nil
		if key != "y" {
			m.said = "not done"
			return m, nil
		}
		m.said = "…"
		return m, m.send(asked.command)
	}
	if m.reading == nil || len(m.rows()) == 0 {
		return m, nil
	}
	at := m.rows()[m.selected]
	switch key {
	case "up", "k":
		m.selected = max(m.selected-1, 0)
	case "down", "j":
		m.selected = min(m.selected+1, len(m.rows())-1)
	case "d":
		m.ask(control.Drain, at)
	case "r":
		m.ask(control.Recycle, at)
	case "p":
		verb := control.Pause
		if at.worker.Paused {
			verb = control.Resume
		}
		m.ask(verb, at)
	case "c":
		if at.run == nil {
			m.said = "select an execution to cancel it"
			break
		}
		m.asking = &question{"cancel " + at.run.ID, control.Command{Verb: control.Cancel, ExecutionID: at.run.ID}}
	case "s":
		return m, m.stacks(at.worker.Worker)
	}
	return m, nil
}

func (m *top) ask(verb control.Verb, at row) {
	m.asking = &question{string(verb) + " " + at.worker.Worker, control.Command{Verb: verb, Worker: at.worker.Worker}}
}

// send sends a command as its own subcommand would, and says what was answered.
func (m *top) send(c control.Command) tea.Cmd {
	return func() tea.Msg {
		var out bytes.Buffer
		quiet := &app{stdin: m.app.stdin, stdout: &out, stderr: &out}
		var err error
		if c.Verb == control.Cancel {
			err = quiet.cancel(m.ctx, m.queue, execution.ID(c.ExecutionID), 10*time.Second)
		} else {
			err = quiet.command(m.ctx, m.queue, c, 10*time.Second)
		}
		text := strings.TrimSpace(out.String())
		if err != nil {
			text = strings.TrimSpace(text + " " + err.Error())
		}
		return answer(text)
	}
}

// stacks shows what a worker's executions are doing until a key is pressed.
func (m *top) stacks(worker string) tea.Cmd {
	return m.send(control.Command{Verb: control.Stacks, Worker: worker})
}

// View draws everything.
func (m *top) View() string {
	var b strings.Builder
	fmt.Fprintf(&b, "bobbin top   queue %s   %s   %s\n", m.cfg.Queue, config.RedactURL(m.cfg.RedisURL), time.Now().UTC().Format("15:04:05Z"))
	if m.failure != nil {
		fmt.Fprintf(&b, "redis does not answer: %v\n", m.failure)
	}
	if m.reading == nil {
		return b.String() + "reading…\n"
	}
	if strings.Count(m.said, "\n") > 1 {
		return m.page(m.said)
	}
	m.figures(&b)
	m.table(&b)
	b.WriteString("\n")
	switch {
	case m.asking != nil:
		fmt.Fprintf(&b, "%s? y to do it, any other key not to\n", m.asking.text)
	case m.said != "":
		fmt.Fprintln(&b, m.said)
	default:
		fmt.Fprintln(&b, "up/down select   d drain   r recycle   p pause/resume   c cancel   s stacks   q quit")
	}
	return m.cut(b.String())
}

const aroundTable = 8 // lines above and below the rows

// visible is which rows there is room for, the selected one among them.
func (m *top) visible(rows int) (first, last int) {
	room := max(m.height-aroundTable, 3)
	if m.height == 0 || rows <= room {
		return 0, rows
	}
	first = min(max(m.selected-room/2, 0), rows-room)
	return first, first + room
}

// page shows a long answer instead of the queue, as much of it as there is room for.
func (m *top) page(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\t", "    "), "\n")
	if room := max(m.height-2, 3); m.height > 0 && len(lines) > room {
		more := len(lines) - room
		lines = append(lines[:room], fmt.Sprintf("… %d lines more: bobbin stacks WORKER prints all.", more))
	}
	return m.cut(strings.Join(append(lines, "any key to go back"), "\n"))
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

func (m *top) figures(b *strings.Builder) {
	s := m.reading.status
	oldest := ""
	if at, ok := submitted(m.reading.oldest); ok {
		oldest = fmt.Sprintf(" (the oldest waits %s)", age(s.NowMS-at))
	}
	fmt.Fprintf(b, "pending %d%s   in flight %d   scheduled %d   results %d   late %d   dead %d   quarantined %d\n",
		s.Pending+s.Handoff, oldest, s.Claimed, s.Scheduled, s.Results, s.Late, s.Dead, m.reading.quarantined)
	durations, waits, failed := []time.Duration{}, []int64{}, 0
	for _, e := range m.ended {
		durations = append(durations, e.duration)
		if e.waitMS >= 0 {
			waits = append(waits, e.waitMS)
		}
		if !e.succeeded {
			failed++
		}
	}
	fmt.Fprintf(b, "last minute: %.1f/s ended   %d not succeeded", float64(len(m.ended))/topWindow.Seconds(), failed)
	if len(durations) > 0 {
		fmt.Fprintf(b, "   ran p50 %s p95 %s p99 %s", brief(at(durations, 0.5)), brief(at(durations, 0.95)), brief(at(durations, 0.99)))
	}
	if len(waits) > 0 {
		fmt.Fprintf(b, "   waited p50 %s p99 %s", age(at(waits, 0.5)), age(at(waits, 0.99)))
	}
	b.WriteString("\n\n")
}

// brief is a duration with three digits.
func brief(d time.Duration) string {
	for unit := time.Duration(1); ; unit *= 10 {
		if d/unit < 1000 {
			return d.Round(unit).String()
		}
	}
}

// at is a percentile of values, which it sorts.
func at[T cmp.Ordered](values []T, p float64) T {
	slices.Sort(values)
	return values[int(p*float64(len(values)-1)+0.5)]
}

func (m *top) table(b *strings.Builder) {
	rows := m.rows()
	if len(rows) == 0 {
		b.WriteString("no workers are registered; start one with: bobbin worker\n")
		return
	}
	// Workers are columns, and what they run stands between: the table is made first and taken apart.
	var aligned strings.Builder
	table := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WORKER\tSTATE\tRUNNING\tSTUCK\tPROCESSED\tFAILED\tMEMORY\tLAST HEARTBEAT")
	for _, r := range rows {
		if w := r.worker; r.run == nil {
			fmt.Fprintf(table, "%s\t%s\t%d/%d\t%d\t%d\t%d\t%.0f MiB\t%s\n", w.Worker, w.condition(), w.Running, w.Concurrency,
				w.Stuck, w.Processed, w.Failed, float64(w.RSSBytes)/(1<<20), w.age())
		}
	}
	_ = table.Flush() // a strings.Builder takes everything
	lines := strings.Split(aligned.String(), "\n")
	fmt.Fprintf(b, "  %s\n", lines[0])
	first, last := m.visible(len(rows))
	for i, r := range rows {
		if r.run == nil {
			lines = lines[1:]
		}
		if i < first || i >= last {
			continue
		}
		mark := " "
		if i == m.selected {
			mark = ">"
		}
		if r.run == nil {
			fmt.Fprintf(b, "%s %s\n", mark, lines[0])
			continue
		}
		note := ""
		if r.run.Stuck {
			note = "  STUCK"
		} else if r.run.Asked {
			note = "  cancel asked"
		}
		fmt.Fprintf(b, "%s     %s  %s  for %s%s\n", mark, r.run.ID, r.run.Workflow, age(m.reading.status.NowMS-r.run.SinceMS), note)
	}
}
