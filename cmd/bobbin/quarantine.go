package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

func (a *app) quarantineCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "quarantine", Short: "Show and change which workflows are refused", Args: exactly(),
		Long: "A workflow of which BOBBIN_QUARANTINE_THRESHOLD executions were stuck or lost within BOBBIN_QUARANTINE_WINDOW is in\n" +
			"quarantine: every worker rejects its executions (WorkflowQuarantined) until it is removed here.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError("quarantine: expected one of list, add WORKFLOW, remove WORKFLOW")
		},
	}
	cmd.AddCommand(a.quarantineList(), a.quarantineAdd(), a.quarantineRemove())
	return cmd
}

func (a *app) quarantineList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the workflows in quarantine", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			list, err := q.Quarantine(cmd.Context())
			if err != nil {
				return err
			}
			slices.SortFunc(list, func(a, b queue.Quarantined) int { return cmp.Compare(a.Workflow, b.Workflow) })
			if asJSON {
				return json.NewEncoder(a.forData(a.stdout)).Encode(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.stderr, "no workflow is in quarantine")
				return nil
			}
			table := tabwriter.NewWriter(a.forPeople(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "WORKFLOW\tSINCE\tWHY")
			for _, one := range list {
				since := "?"
				if one.SinceMS > 0 {
					since = time.UnixMilli(one.SinceMS).UTC().Format(time.RFC3339)
				}
				fmt.Fprintf(table, "%s\t%s\t%s\n", one.Workflow, since, shorten(one.Why, 200))
			}
			return table.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

func (a *app) quarantineAdd() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "add WORKFLOW", Short: "Have a workflow refused, within a heartbeat", Args: exactly("WORKFLOW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkWorkflow(args[0]); err != nil {
				return usageError("quarantine add: %v", err)
			}
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			added, err := q.QuarantineAdd(cmd.Context(), args[0], why)
			if err != nil {
				return err
			}
			if !added {
				fmt.Fprintf(a.stderr, "%s is in quarantine already\n", args[0])
				return nil
			}
			fmt.Fprintf(a.stderr, "%s is refused within a heartbeat\n", args[0])
			return a.warnUnpublished(cmd.Context(), q, args[0])
		},
	}
	cmd.Flags().StringVar(&why, "why", "by an operator", "shown by list")
	return cmd
}

// checkWorkflow says what is wrong with the name of a workflow, as a context with it would be told.
func checkWorkflow(name string) error {
	document, err := json.Marshal(map[string]string{"workflow": name})
	if err != nil {
		return err
	}
	_, err = execution.ParseContext(document)
	return err
}

// warnUnpublished says that a name may be misspelt. The names of Go handlers are known to their workers alone.
func (a *app) warnUnpublished(ctx context.Context, q *queue.Queue, workflow string) error {
	_, sources, err := q.Modules(ctx)
	if err != nil || builtinHandlers().Has(workflow) {
		return err
	}
	if _, published := sources[workflow]; !published {
		fmt.Fprintf(a.stderr, "note: no module %q is published; unless it is a Go handler, its name is misspelt (bobbin modules list)\n", workflow)
	}
	return nil
}

func (a *app) quarantineRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove WORKFLOW", Short: "Have a workflow run again", Args: exactly("WORKFLOW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			removed, err := q.QuarantineRemove(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if !removed {
				return fmt.Errorf("%s is not in quarantine; bobbin quarantine list shows what is", args[0])
			}
			fmt.Fprintf(a.stderr, "%s runs again within a heartbeat\n", args[0])
			return nil
		},
	}
}
