package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

var streamID = regexp.MustCompile(`^(\d+(-\d+)?|\$)$`)

func (a *app) resultsCommand() *cobra.Command {
	var from string
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use: "results", Short: "Print results from the stream", Args: exactly(),
		Long: "Print the results after a place in the stream, the oldest first. Reading removes nothing.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !streamID.MatchString(from) {
				return usageError("--from is %q, expected a stream ID such as 1526919030474-55, 0 for the beginning, or $ for what comes", from)
			}
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			return a.results(cmd, q, from, follow, asJSON)
		},
	}
	cmd.Flags().StringVar(&from, "from", "0", "print what comes after this stream ID")
	cmd.Flags().BoolVar(&follow, "follow", false, "keep printing what comes")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each result as a JSON line")
	return cmd
}

func (a *app) results(cmd *cobra.Command, q *queue.Queue, from string, follow, asJSON bool) error {
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	if from == "$" {
		newest, err := newestResult(ctx, q)
		if err != nil {
			return err
		}
		from = newest
	}
	out := bufio.NewWriter(a.stdout)
	block := -time.Second // do not wait
	for {
		entries, err := q.ReadResults(ctx, from, 1000, block)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			from = e.StreamID
			if err := a.printEntry(out, e, asJSON); err != nil {
				return err
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if len(entries) == 0 && !follow {
			return nil
		}
		if len(entries) == 0 {
			block = time.Second
		}
	}
}

func (a *app) printEntry(out io.Writer, e queue.Entry, asJSON bool) error {
	r := e.Result
	if asJSON {
		document, err := json.Marshal(r)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.forData(out), "{\"stream_id\":%q,%s\n", e.StreamID, document[1:])
		return err
	}
	what := string(r.Value)
	if r.Status != execution.Succeeded {
		what = r.Err.Type + ": " + r.Err.Message
	}
	finished := time.UnixMilli(r.FinishedMS).Format("2006-01-02 15:04:05.000")
	_, err := fmt.Fprintf(visible{out}, "%s  %s  %-9s  %s  %s  %.3f ms  %s\n", e.StreamID, finished, r.Status, r.ID, r.Workflow,
		float64(r.Duration.Microseconds())/1000, shorten(what, 120))
	return err
}
