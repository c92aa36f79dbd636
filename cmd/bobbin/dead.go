package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

func (a *app) deadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "dead", Short: "Show executions that failed for good, and run them again", Args: exactly(),
		Long: "Executions that failed for good are kept with their contexts, the newest 100,000 of them, so that they can be run\n" +
			"again once what they failed of is mended.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError("dead: expected one of list, retry ID")
		},
	}
	cmd.AddCommand(a.deadList(), a.deadRetry())
	return cmd
}

func (a *app) deadList() *cobra.Command {
	var asJSON bool
	var last int64
	cmd := &cobra.Command{
		Use: "list", Short: "List the newest executions in dead, the newest first", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if last < 1 {
				return usageError("--last is %d, expected at least 1", last)
			}
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			list, err := q.DeadLately(cmd.Context(), last)
			if err != nil {
				return err
			}
			return a.printDead(list, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each as a JSON line, its context included")
	cmd.Flags().Int64Var(&last, "last", 20, "how many to list")
	return cmd
}

func (a *app) printDead(list []queue.Dead, asJSON bool) error {
	if asJSON {
		out := json.NewEncoder(a.forData(a.stdout))
		for _, d := range list {
			line := map[string]any{"stream_id": d.StreamID, "context": string(d.Context), "result": d.Result}
			if err := out.Encode(line); err != nil {
				return err
			}
		}
		return nil
	}
	if len(list) == 0 {
		fmt.Fprintln(a.stderr, "nothing is in dead")
		return nil
	}
	table := tabwriter.NewWriter(a.forPeople(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SINCE\tEXECUTION\tWORKFLOW\tSTATUS\tWHY")
	for _, d := range list {
		why := ""
		if r := d.Result; r.Err != nil {
			why = shorten(r.Err.Type+": "+r.Err.Message, 80)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", clock(d.Result.FinishedMS), d.Result.ID, d.Result.Workflow, d.Result.Status, why)
	}
	return table.Flush()
}

func (a *app) deadRetry() *cobra.Command {
	return &cobra.Command{
		Use: "retry ID", Short: "Run an execution in dead again, under its ID, and take it out of dead", Args: exactly("ID"),
		Long: "Submit an execution in dead again, under its ID and with its context, and take it out of dead. It gets a second\n" +
			"entry in results.",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := execution.ParseID(args[0])
			if err != nil {
				return usageError("dead retry: %v", err)
			}
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			found, err := q.RetryDead(cmd.Context(), id)
			switch {
			case errors.Is(err, queue.ErrDuplicate):
				return fmt.Errorf("%q waits or runs already; bobbin inspect %s says where", id, id)
			case err != nil:
				return err
			case !found:
				return fmt.Errorf("%q is not in dead; bobbin dead list shows what is", id)
			}
			fmt.Fprintln(a.stdout, id)
			return nil
		},
	}
}
