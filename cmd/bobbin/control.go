package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// controlCommands are the commands that address workers.
func (a *app) controlCommands() []*cobra.Command {
	commands := []*cobra.Command{}
	for verb, short := range map[control.Verb]string{
		control.Drain:    "Have workers finish what they run and leave for good (exit code 0)",
		control.Recycle:  "Have workers finish what they run and be replaced (exit code 75)",
		control.Shutdown: "Have workers cancel what they run, release it, and leave",
		control.Pause:    "Have workers claim nothing until resumed",
		control.Resume:   "Have paused workers claim again",
		control.Stacks:   "Show what each running execution is doing",
	} {
		commands = append(commands, a.controlCommand(verb, short))
	}
	return commands
}

func (a *app) controlCommand(verb control.Verb, short string) *cobra.Command {
	var all bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: string(verb) + " WORKER|GLOB|--all", Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := targetOf(verb, args, all)
			if err != nil {
				return err
			}
			if timeout <= 0 {
				return usageError("--timeout is %s, expected a duration above 0 such as 15s", timeout)
			}
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.command(ctx, q, control.Command{Verb: verb, Worker: target}, timeout)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "address every worker of the queue")
	cmd.Flags().DurationVar(&timeout, "timeout", 15*time.Second, "how long to wait for the workers' answers")
	return cmd
}

func targetOf(verb control.Verb, args []string, all bool) (string, error) {
	switch {
	case all && len(args) > 0:
		return "", usageError("%s: name a worker or give --all, not both", verb)
	case all:
		return control.Everyone, nil
	case len(args) == 0:
		return "", usageError("%s: name a worker (bobbin status lists them), a pattern such as 'web-*', or --all", verb)
	case len(args) > 1:
		return "", usageError("%s: expected one worker or pattern, got %d (quote patterns, or the shell expands them)", verb, len(args))
	}
	return args[0], nil
}

// command sends a command to every registered worker it targets, through the doorbell and as a stored intent, and waits for
// their answers.
func (a *app) command(ctx context.Context, q *queue.Queue, c control.Command, timeout time.Duration) error {
	c.RequestID = uuid.NewString()
	c, err := sign(ctx, q, c)
	if err != nil {
		return err
	}
	if _, err := control.Parse(c.Encode()); err != nil {
		return usageError("%v", err)
	}
	workers, err := q.Workers(ctx)
	if err != nil {
		return err
	}
	awaited := map[string]bool{}
	var unstored error
	for _, w := range workers {
		if w.HeartbeatMS > 0 && c.Targets(w.Incarnation) {
			awaited[w.Incarnation] = true
			if err := q.SetIntent(ctx, w.Incarnation, c.Encode()); writesNothing(err) {
				unstored = err
			} else if err != nil {
				return err
			}
		}
	}
	if len(awaited) == 0 {
		return fmt.Errorf("no registered worker matches %q; bobbin status lists them", c.Worker)
	}
	if _, err := q.PublishControl(ctx, c.Encode()); err != nil {
		return err
	}
	if unstored != nil {
		return publishedOnly(c.Verb, unstored)
	}
	return a.awaitReceipts(ctx, q, c, awaited, timeout)
}

// writesNothing says that Redis refused to store a command for what it is in: full, a replica, unable to save. What is published it passes
// on all the same.
func writesNothing(err error) bool { return errors.Is(err, queue.ErrRefused) && queue.IsPassing(err) }

func publishedOnly(verb control.Verb, why error) error {
	obey := "obey"
	if verb == control.Stacks {
		obey = "write them to their logs"
	}
	return fmt.Errorf("%s was published: workers that listen %s, but can neither answer nor find it stored, since Redis writes nothing "+
		"(one that is SILENT in bobbin status may listen under a new name, which --all reaches): %w", verb, obey, why)
}

// sign signs a command, where the environment names a key.
func sign(ctx context.Context, q *queue.Queue, c control.Command) (control.Command, error) {
	cfg, err := config.Load()
	if err != nil || cfg.ControlPrivateKeyFile == "" {
		return c, err
	}
	file, err := os.ReadFile(cfg.ControlPrivateKeyFile)
	if err != nil {
		return c, usageError("BOBBIN_CONTROL_PRIVATE_KEY_FILE: %v", err)
	}
	key, err := control.ParsePrivateKey(file)
	if err != nil {
		return c, usageError("BOBBIN_CONTROL_PRIVATE_KEY_FILE=%q: %v", cfg.ControlPrivateKeyFile, err)
	}
	depths, err := q.Depths(ctx)
	if err != nil {
		return c, err
	}
	return c.Sign(key, q.Keys.Control, depths.NowMS), nil
}

// keygenCommand makes the keys of signed control.
func (a *app) keygenCommand() *cobra.Command {
	return &cobra.Command{
		Use: "keygen FILE", Short: "Make a key pair for signed commands", Args: exactly("FILE"),
		Long: "Writes a new private key to FILE, which must not exist, and prints the public key. Give workers the public key as\n" +
			"BOBBIN_CONTROL_PUBLIC_KEY and operators the file as BOBBIN_CONTROL_PRIVATE_KEY_FILE.",
		RunE: func(_ *cobra.Command, args []string) error {
			private, public, err := control.GenerateKey()
			if err != nil {
				return err
			}
			file, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = file.Write(private)
			if err = errors.Join(err, file.Close()); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, public)
			fmt.Fprintf(a.stderr, "the private key is in %s; give workers the line above as BOBBIN_CONTROL_PUBLIC_KEY\n", args[0])
			return nil
		},
	}
}

// awaitReceipts prints each answer as it comes and names those who did not answer.
func (a *app) awaitReceipts(ctx context.Context, q *queue.Queue, c control.Command, awaited map[string]bool, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	refused := 0
	for len(awaited) > 0 && time.Now().Before(deadline) && ctx.Err() == nil {
		receipt, err := nextReceipt(ctx, q, c.RequestID, time.Until(deadline))
		if err != nil {
			return err
		}
		if receipt == nil || !awaited[receipt.Worker] {
			continue
		}
		delete(awaited, receipt.Worker)
		if receipt.Outcome == control.Refused {
			refused++
		}
		a.printReceipt(c, receipt)
	}
	for _, worker := range slices.Sorted(maps.Keys(awaited)) {
		fmt.Fprintf(a.forPeople(), "%s: no answer within %s; the command stays stored for its next heartbeat\n", worker, timeout)
	}
	if len(awaited) > 0 || refused > 0 {
		return &exitError{code: execution.ExitFailure, message: fmt.Sprintf("%s: %d did not answer, %d refused", c.Verb, len(awaited), refused)}
	}
	return nil
}

func nextReceipt(ctx context.Context, q *queue.Queue, request string, wait time.Duration) (*control.Receipt, error) {
	document, err := q.PopReceipt(ctx, request, max(wait, time.Second))
	if err != nil || document == nil {
		return nil, err
	}
	receipt := &control.Receipt{}
	if err := json.Unmarshal(document, receipt); err != nil {
		return nil, fmt.Errorf("receipt of request %s: %w", request, err)
	}
	return receipt, nil
}

func (a *app) printReceipt(c control.Command, r *control.Receipt) {
	if c.Verb == control.Stacks && r.Outcome == control.Accepted {
		if r.Stacks == "" {
			r.Stacks = "nothing runs\n"
		}
		fmt.Fprintf(a.forPeople(), "%s, %s:\n\n%s\n\n", r.Worker, r.State, strings.TrimRight(r.Stacks, "\n"))
		return
	}
	state := string(r.State)
	if c.Verb == control.Pause && r.Outcome == control.Accepted && r.State == execution.Active {
		state += " (paused)"
	}
	line := fmt.Sprintf("%s: %s %s, now %s", r.Worker, c.Verb, r.Outcome, state)
	if r.Reason != "" {
		line += " (" + r.Reason + ")"
	}
	fmt.Fprintln(a.forPeople(), line)
}

func (a *app) cancelCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "cancel ID", Short: "Cancel one execution, waiting or running", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := execution.ParseID(args[0])
			if err != nil {
				return usageError("cancel: %v", err)
			}
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.cancel(ctx, q, id, timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 15*time.Second, "how long to wait for the worker's answer")
	return cmd
}

func (a *app) cancel(ctx context.Context, q *queue.Queue, id execution.ID, timeout time.Duration) error {
	c, err := sign(ctx, q, control.Command{Verb: control.Cancel, Worker: control.Everyone, ExecutionID: string(id), RequestID: uuid.NewString()})
	if err != nil {
		return err
	}
	result, replyTTL, err := cancelledResult(ctx, q, id)
	if err != nil {
		return err
	}
	outcome, err := q.Cancel(ctx, string(id), string(c.Encode()), result, replyTTL)
	switch {
	case writesNothing(err):
		if _, failed := q.PublishControl(ctx, c.Encode()); failed != nil {
			return failed
		}
		return fmt.Errorf("cancel was published: a worker that runs %q obeys, but cannot answer; if it waits, it still does, since Redis writes nothing: %w", id, err)
	case err != nil:
		return err
	case outcome == queue.CancelDone:
		fmt.Fprintf(a.stdout, "%s: cancelled before it ran\n", id)
		return nil
	case outcome == queue.CancelUnknown:
		return fmt.Errorf("execution %q is neither waiting nor running: it has ended, or was never submitted", id)
	}
	if _, err := q.PublishControl(ctx, c.Encode()); err != nil {
		return err
	}
	return a.awaitCancel(ctx, q, c, timeout)
}

// awaitCancel waits for the one worker that runs the execution; the others answer that they do not.
func (a *app) awaitCancel(ctx context.Context, q *queue.Queue, c control.Command, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		receipt, err := nextReceipt(ctx, q, c.RequestID, time.Until(deadline))
		if err != nil {
			return err
		}
		if receipt != nil && receipt.Outcome == control.Accepted {
			fmt.Fprintf(a.forPeople(), "%s: being cancelled by %s; its result will say what came of it\n", c.ExecutionID, receipt.Worker)
			return nil
		}
	}
	return fmt.Errorf("execution %q is claimed, and its worker has not answered within %s; the request stays stored for its next heartbeat", c.ExecutionID, timeout)
}

// cancelledResult is what is written should the execution not have been claimed.
func cancelledResult(ctx context.Context, q *queue.Queue, id execution.ID) (result *execution.Result, replyTTL time.Duration, err error) {
	document, err := q.StoredContext(ctx, string(id))
	if err != nil {
		return nil, 0, err
	}
	depths, err := q.Depths(ctx)
	if err != nil {
		return nil, 0, err
	}
	result = &execution.Result{
		ID: string(id), Worker: "bobbin cancel", Status: execution.Cancelled, FinishedMS: depths.NowMS,
		Err: &execution.Error{Type: execution.TypeCancelled, Message: "cancelled before it ran"},
	}
	if x, err := execution.ParseContext(document); err == nil {
		result.Workflow, result.Meta, replyTTL = x.Workflow, x.Meta, x.ReplyTTL
	}
	return result, replyTTL, nil
}
