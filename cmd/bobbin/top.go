package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/queue"
)

const (
	topEvery = time.Second
	topPause = 2 * time.Second // how long a reading may take before Redis counts as away
)

func (a *app) topCommand() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use: "top", Short: "Watch the queue, its workers and what they run, and steer them", Args: exactly(),
		Long: "A live view, renewed every second. Rates and percentiles are of the last minute, from the results stream. Workers that\n" +
			"are silent or have stuck executions come first.\n" +
			"Keys: up and down, PgUp and PgDn, g and G (Home and End) select, tab goes to the next worker, f shows workers alone or\n" +
			"with what they run; d drain, r recycle, p pause or resume the worker; c cancel the execution; s the worker's stacks; q quit.",
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
			m := newTop(ctx, a, cfg, q)
			if once {
				m.take(m.read(m.speed.next()))
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
	now    func() time.Time
	width  int
	height int // 0: any

	busy    bool // a reading is on its way
	reading *reading
	failure error // of the last reading
	readAt  time.Time
	speed   speed
	rows    []row
	folded  bool      // workers without what they run
	at      identity  // what is selected: rows come, go and change places, so their number says nothing
	room    int       // rows that the last view had room for
	asking  *question // to be answered with y
	said    string    // the last line: what became of a command
	page    *page     // shown instead of the queue
}

func newTop(ctx context.Context, a *app, cfg *config.Config, q *queue.Queue) *top {
	return &top{ctx: ctx, app: a, cfg: cfg, queue: q, now: time.Now, width: 120}
}

// reading is one look at everything.
type reading struct {
	status      *queueStatus
	oldest      string
	quarantined int
	added       int64 // results ever written
	results     []queue.Entry
	most        int64 // results that were asked for
	err         error
}

type tick struct{}

func tickLater() tea.Cmd { return tea.Tick(topEvery, func(time.Time) tea.Msg { return tick{} }) }

// Init begins reading.
func (m *top) Init() tea.Cmd { return tea.Batch(m.readLater(), tickLater()) }

func (m *top) readLater() tea.Cmd {
	m.busy = true
	since, most := m.speed.next()
	return func() tea.Msg { return m.read(since, most) }
}

// read runs beside the model and touches none of what changes in it.
func (m *top) read(since string, most int64) *reading {
	ctx, cancel := context.WithTimeout(m.ctx, topPause)
	defer cancel()
	r := &reading{most: most}
	if r.status, r.err = readStatus(ctx, m.cfg, m.queue); r.err != nil {
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
	if r.added, r.err = m.queue.ResultsAdded(ctx); r.err != nil {
		return r
	}
	r.results, r.err = m.queue.NewestSince(ctx, since, most)
	return r
}

// Update takes in what happened.
func (m *top) Update(message tea.Msg) (tea.Model, tea.Cmd) {
	switch message := message.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = message.Width, message.Height
	case *reading:
		m.busy = false
		m.take(message)
	case tick: // drawn again in any case: a view that Redis does not renew says how old it is
		if m.busy {
			return m, tickLater()
		}
		return m, tea.Batch(m.readLater(), tickLater())
	case answer:
		m.hear(message)
	case tea.KeyMsg:
		return m, m.key(message.String())
	}
	return m, nil
}

// take takes over a reading.
func (m *top) take(r *reading) {
	m.failure = r.err
	if r.err != nil {
		return
	}
	m.reading, m.readAt = r, m.now()
	m.speed.take(r)
	m.list()
}

// list makes the rows and keeps the selection.
func (m *top) list() {
	before := m.index()
	m.rows = nil
	for i := range m.reading.status.Workers {
		w := &m.reading.status.Workers[i]
		m.rows = append(m.rows, row{worker: w})
		for j := range w.runs {
			if !m.folded {
				m.rows = append(m.rows, row{w, &w.runs[j]})
			}
		}
	}
	m.follow(before)
}

// row is a line that can be selected: a worker, or an execution on it.
type row struct {
	worker *workerStatus
	run    *consumer.Run // nil: the worker itself
}

// identity is what a row is about, whatever its place.
type identity struct{ worker, execution string }

func (r row) identity() identity {
	if r.run == nil {
		return identity{worker: r.worker.Worker}
	}
	return identity{r.worker.Worker, r.run.ID}
}

// index is where the selected row is now; -1 when it is gone.
func (m *top) index() int {
	return slices.IndexFunc(m.rows, func(r row) bool { return r.identity() == m.at })
}

// follow finds what was selected again. Of an execution that has ended its worker stays selected; of a worker that has left, its
// place, and that is said: the next key is not for another worker unseen.
func (m *top) follow(before int) {
	if len(m.rows) == 0 || m.index() >= 0 {
		return
	}
	gone := m.at
	m.at = identity{worker: gone.worker}
	if m.index() >= 0 {
		return
	}
	m.at = m.rows[min(max(before, 0), len(m.rows)-1)].identity()
	if gone.worker != "" {
		m.said = fmt.Sprintf("%s has left; %s is selected now", gone.worker, m.at.worker)
	}
}
