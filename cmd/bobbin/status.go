package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// workerStatus is a registration for people and programs.
type workerStatus struct {
	Worker         string `json:"worker"`
	State          string `json:"state"`
	Paused         bool   `json:"paused"`
	Backpressure   bool   `json:"backpressure"` // it claims nothing because too many results are unread
	Concurrency    int64  `json:"concurrency"`
	Running        int64  `json:"running"`
	Stuck          int64  `json:"stuck"`
	Processed      int64  `json:"processed"`
	Failed         int64  `json:"failed"`
	RSSBytes       int64  `json:"rss_bytes"`
	Version        string `json:"version"`
	Runners        string `json:"runners"` // the languages it has, separated by commas
	HeartbeatAgeMS int64  `json:"last_heartbeat_age_ms"`
	Silent         bool   `json:"silent"` // its lease is over
	runs           []consumer.Run
}

type queueStatus struct {
	Queue string `json:"queue"`
	*queue.Depths
	Refusal string         `json:"redis_writes_nothing,omitempty"` // and why
	Workers []workerStatus `json:"workers"`
}

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show the queue and its workers", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			s, err := readStatus(cmd.Context(), cfg, q)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(a.forData(a.stdout)).Encode(s)
			}
			return s.print(a.stdout)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

func readStatus(ctx context.Context, cfg *config.Config, q *queue.Queue) (*queueStatus, error) {
	depths, err := q.Depths(ctx)
	if err != nil {
		return nil, err
	}
	workers, err := q.Workers(ctx)
	if err != nil {
		return nil, err
	}
	refusal, err := q.Refusal(ctx)
	if err != nil {
		return nil, err
	}
	s := &queueStatus{Queue: cfg.Queue, Depths: depths, Refusal: refusal, Workers: []workerStatus{}}
	for _, w := range workers {
		s.Workers = append(s.Workers, describeWorker(w, depths.NowMS))
	}
	slices.SortFunc(s.Workers, func(a, b workerStatus) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.Worker, b.Worker))
	})
	return s, nil
}

func describeWorker(w queue.Worker, now int64) workerStatus {
	number := func(field string) int64 {
		n, _ := strconv.ParseInt(w.Fields[field], 10, 64)
		return n
	}
	age := max(now-w.HeartbeatMS, 0)
	return workerStatus{
		Worker: w.Incarnation, State: w.Fields["state"], Paused: w.Fields["paused"] == "1",
		Backpressure: w.Fields["backpressure"] == "1", Concurrency: number("concurrency"),
		Running: number("running"), Stuck: number("stuck"), Processed: number("processed"), Failed: number("failed"),
		RSSBytes: number("rss_bytes"), Version: w.Fields["version"], Runners: w.Fields["runners"], HeartbeatAgeMS: age,
		Silent: w.HeartbeatMS <= 0 || age > max(number("lease_ms"), 1), runs: runsOf(w),
	}
}

// rank puts first what somebody should look at.
func (w *workerStatus) rank() int {
	switch {
	case w.Silent:
		return 0
	case w.Stuck > 0:
		return 1
	default:
		return 2
	}
}

// warning is what stops everything, or "".
func (s *queueStatus) warning() string {
	if s.Refusal == "" {
		return ""
	}
	return "! Redis writes nothing, so that nothing is submitted, claimed or finished: " + s.Refusal
}

func (s *queueStatus) print(out io.Writer) error {
	fmt.Fprintf(out, "queue %s: %d pending, %d in flight, %d scheduled, %d results, %d late, %d dead\n",
		s.Queue, s.Pending+s.Handoff, s.Claimed, s.Scheduled, s.Results, s.Late, s.Dead)
	if warning := s.warning(); warning != "" {
		fmt.Fprintln(out, warning)
	}
	if len(s.Workers) == 0 {
		_, err := fmt.Fprintln(out, "no workers are registered; start one with: bobbin worker")
		return err
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(visible{out}, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WORKER\tSTATE\tRUNNING\tSTUCK\tPROCESSED\tFAILED\tMEMORY\tLAST HEARTBEAT")
	for _, w := range s.Workers {
		fmt.Fprintf(table, "%s\t%s\t%d/%d\t%d\t%d\t%d\t%.0f MiB\t%s\n", w.Worker, w.condition(), w.Running, w.Concurrency,
			w.Stuck, w.Processed, w.Failed, float64(w.RSSBytes)/(1<<20), w.age())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "\nThe first line is as of now, what a worker runs as of its last heartbeat.")
	return err
}

func (w *workerStatus) condition() string {
	switch {
	case w.Silent:
		return "SILENT"
	case w.Paused && w.State == string(execution.Active):
		return "ACTIVE (paused)"
	case w.Backpressure && w.State == string(execution.Active):
		return "ACTIVE (results unread)"
	default:
		return w.State
	}
}

func (w *workerStatus) age() string {
	if w.HeartbeatAgeMS > (10 * 365 * 24 * time.Hour).Milliseconds() {
		return "declared dead"
	}
	return (time.Duration(w.HeartbeatAgeMS) * time.Millisecond).Round(100*time.Millisecond).String() + " ago"
}

// healthcheckCommand is for containers, where there is no shell: is the worker of this host registered and heard of?
func (a *app) healthcheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "healthcheck", Short: "Exit 0 if a worker of this host is registered and alive", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
			defer cancel()
			return healthy(ctx, q)
		},
	}
}

func healthy(ctx context.Context, q *queue.Queue) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	depths, err := q.Depths(ctx)
	if err != nil {
		return err
	}
	workers, err := q.Workers(ctx)
	if err != nil {
		return err
	}
	for _, w := range workers {
		if s := describeWorker(w, depths.NowMS); w.Fields["host"] == host && !s.Silent {
			return nil
		}
	}
	return fmt.Errorf("no worker of host %q is registered and alive", host)
}
