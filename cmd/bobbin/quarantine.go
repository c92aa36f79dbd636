package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

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
			table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "WORKFLOW\tSINCE\tWHY")
			for _, one := range list {
				since := "?"
				if one.SinceMS > 0 {
					since = time.UnixMilli(one.SinceMS).UTC().Format(time.RFC3339)
				}
				fmt.Fprintf(table, "%s\t%s\t%s\n", one.Workflow, since, one.Why)
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
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			added, err := q.QuarantineAdd(cmd.Context(), args[0], why)
			if err == nil && !added {
				fmt.Fprintf(a.stderr, "%s is in quarantine already\n", args[0])
			} else if err == nil {
				fmt.Fprintf(a.stderr, "%s is refused within a heartbeat\n", args[0])
			}
			return err
		},
	}
	cmd.Flags().StringVar(&why, "why", "by an operator", "shown by list")
	return cmd
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
