package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// settleTime is how long something may look wrong that is only on its way.
const settleTime = time.Second

func (a *app) doctorCommand() *cobra.Command {
	var repair, asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check that nothing is lost and that the server can keep the promise", Args: exactly(),
		Long: "Check that every execution is in exactly one place, that no claim belongs to a worker that is not there, and that\n" +
			"the server is set up to keep what it acknowledges. Prints what is wrong and what to do; exits 1 when something is.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			ailments, err := q.Examine(ctx, settleTime)
			if err != nil {
				return err
			}
			if repair {
				if ailments, err = a.repair(ctx, q, ailments); err != nil {
					_ = a.report(ailments, asJSON) // the cause may be among them
					return err
				}
			}
			return a.report(ailments, asJSON)
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "put executions that nobody would run back into pending")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

// repair mends what can be mended and returns what is left, also with an error.
func (a *app) repair(ctx context.Context, q *queue.Queue, ailments []queue.Ailment) ([]queue.Ailment, error) {
	var left []queue.Ailment
	for i, one := range ailments {
		if !one.Mends {
			left = append(left, one)
			continue
		}
		moved, err := q.Repair(ctx, one)
		if err != nil {
			return append(left, ailments[i:]...), err
		}
		fmt.Fprintf(a.stderr, "repaired: %d executions put back into pending\n", len(moved))
	}
	return left, nil
}

func (a *app) report(ailments []queue.Ailment, asJSON bool) error {
	wrong := 0
	for _, one := range ailments {
		if !one.Warning {
			wrong++
		}
	}
	if asJSON {
		if ailments == nil {
			ailments = []queue.Ailment{}
		}
		if err := json.NewEncoder(a.forData(a.stdout)).Encode(map[string]any{"wrong": wrong, "ailments": ailments}); err != nil {
			return err
		}
	} else {
		printAilments(a.forPeople(), ailments)
	}
	if wrong > 0 {
		return &exitError{code: execution.ExitFailure}
	}
	return nil
}

func printAilments(out io.Writer, ailments []queue.Ailment) {
	if len(ailments) == 0 {
		fmt.Fprintln(out, "all is well: every execution is in exactly one place, and the server keeps what it acknowledges")
		return
	}
	for _, one := range ailments {
		mark := "WRONG  "
		if one.Warning {
			mark = "NOTE   "
		}
		fmt.Fprintf(out, "%s%s: %s\n       do: %s\n", mark, one.Subject, one.Problem, one.Advice)
		for i, id := range one.IDs {
			if i == 10 {
				fmt.Fprintf(out, "       … and %d more\n", len(one.IDs)-i)
				break
			}
			fmt.Fprintf(out, "       %s\n", shorten(fmt.Sprintf("%q", id), 80))
		}
	}
}
