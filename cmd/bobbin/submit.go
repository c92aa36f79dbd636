package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// submitBatch is how many executions travel to Redis at once.
const submitBatch = 1000

// submission is what the flags of submit say.
type submission struct {
	workflow, function, params, id, input string
	isolation, meta, sha256               string
	timeout                               time.Duration
	wait                                  bool
	maxBytes                              int
}

func (a *app) submitCommand() *cobra.Command {
	s := &submission{}
	cmd := &cobra.Command{
		Use: "submit WORKFLOW", Short: "Submit one execution, or one per line of a JSON Lines file",
		Long: "Submit one execution of WORKFLOW, or with --input one per line of a JSON Lines file whose lines are the params.\n" +
			"Prints the execution IDs; with --wait the results instead, each as a JSON line, and exits 1 unless all succeeded.",
		Args: exactly("WORKFLOW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s.workflow = args[0]
			if err := s.check(cmd); err != nil {
				return err
			}
			cfg, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			s.maxBytes = int(cfg.ContextMaxBytes)
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.submit(ctx, q, s)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.params, "params", "{}", "params of the workflow, a JSON object")
	flags.StringVar(&s.function, "function", execution.DefaultFunction, "function of the workflow's module")
	flags.StringVar(&s.id, "id", "", "execution ID (default: a new UUIDv7)")
	flags.StringVar(&s.input, "input", "", "JSON Lines file of params, one execution per line; - is stdin")
	flags.DurationVar(&s.timeout, "timeout", 0, "cancel an execution after this long, such as 30s (default: the worker's)")
	flags.StringVar(&s.isolation, "isolation", "", "where a .py workflow runs, resident or fork (default: the worker's)")
	flags.StringVar(&s.meta, "meta", "", "echoed in the result, a JSON object of at most 4096 bytes")
	flags.StringVar(&s.sha256, "sha256", "", "refuse to run unless the module's published source has this SHA-256")
	flags.BoolVar(&s.wait, "wait", false, "wait for the results and print them")
	return cmd
}

func (s *submission) check(cmd *cobra.Command) error {
	flags := cmd.Flags()
	if s.input != "" && (flags.Changed("id") || flags.Changed("params")) {
		return usageError("--input gives each line's params and makes IDs; leave out --params and --id")
	}
	if flags.Changed("timeout") && s.timeout <= 0 {
		return usageError("--timeout is %s, expected a duration above 0 such as 30s", s.timeout)
	}
	for _, flag := range []string{"isolation", "meta", "sha256"} {
		if flags.Changed(flag) && flags.Lookup(flag).Value.String() == "" {
			return usageError("--%s is empty; leave it out, or give it a value", flag)
		}
	}
	if flags.Changed("id") {
		if _, err := execution.ParseID(s.id); err != nil {
			return usageError("--id: %v", err)
		}
	}
	if _, err := s.context([]byte(s.params)); err != nil {
		return usageError("%v", err)
	}
	return nil
}

// context builds the document for one set of params, and checks it as a worker will.
func (s *submission) context(params []byte) ([]byte, error) {
	params = bytes.TrimSpace(params)
	if !isObject(params) {
		return nil, fmt.Errorf("params are %.60q, expected a JSON object", params)
	}
	meta := bytes.TrimSpace([]byte(s.meta))
	if len(meta) > 0 && !isObject(meta) {
		return nil, fmt.Errorf("meta is %.60q, expected a JSON object", meta)
	}
	x := &execution.Context{
		Workflow: s.workflow, Function: s.function, Params: params, Timeout: s.timeout,
		Isolation: s.isolation, Meta: meta, ContentSHA256: s.sha256,
	}
	document, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	if _, err := execution.ParseContext(document); err != nil {
		return nil, err
	}
	if s.maxBytes > 0 && len(document) > s.maxBytes {
		return nil, fmt.Errorf("context is %d bytes, expected at most %d (BOBBIN_CONTEXT_MAX_BYTES)", len(document), s.maxBytes)
	}
	return document, nil
}

func isObject(document []byte) bool {
	return len(document) > 0 && document[0] == '{' && json.Valid(document)
}

func (a *app) submit(ctx context.Context, q *queue.Queue, s *submission) error {
	source, total, err := a.source(s)
	if err != nil {
		return err
	}
	if s.wait {
		return a.submitAndWait(ctx, q, source, total)
	}
	out := bufio.NewWriter(a.stdout)
	defer func() { _ = out.Flush() }()
	return feed(source, func(batch []queue.Submission) error {
		if err := q.Submit(ctx, batch...); err != nil {
			return err
		}
		for _, one := range batch {
			fmt.Fprintln(out, one.ID)
		}
		return out.Flush()
	})
}

// source yields submissions one by one; io.EOF ends it.
type source func() (queue.Submission, error)

// feed reads a source to its end and hands it on in batches. What was read before an error is handed on too, so that the
// error says exactly how far it got.
func feed(next source, submit func([]queue.Submission) error) error {
	batch, before := make([]queue.Submission, 0, submitBatch), 0
	for {
		one, err := next()
		if err == nil {
			batch = append(batch, one)
		}
		if len(batch) == submitBatch || (err != nil && len(batch) > 0) {
			if failed := submit(batch); failed != nil {
				if before > 0 {
					failed = fmt.Errorf("%w (the first %d were submitted)", failed, before)
				}
				return failed
			}
			before += len(batch)
			batch = batch[:0]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// source opens what is to be submitted and says how many there are; -1: not known. A file is checked from end to end before
// anything of it is submitted.
func (a *app) source(s *submission) (source, int, error) {
	switch s.input {
	case "":
		return s.single(), 1, nil
	case "-":
		return s.lines(a.stdin, "submitted"), -1, nil
	}
	total, err := s.checkFile()
	if err != nil {
		return nil, 0, err
	}
	file, err := os.Open(s.input)
	if err != nil {
		return nil, 0, err
	}
	next := s.lines(file, "submitted")
	return func() (queue.Submission, error) {
		one, err := next()
		if err != nil {
			_ = file.Close()
		}
		return one, err
	}, total, nil
}

func (s *submission) checkFile() (int, error) {
	file, err := os.Open(s.input)
	if err != nil {
		return 0, usageError("--input: %v", err)
	}
	defer func() { _ = file.Close() }()
	next, total := s.lines(file, "fine, and nothing was submitted"), 0
	for {
		if _, err := next(); errors.Is(err, io.EOF) {
			return total, nil
		} else if err != nil {
			return 0, usageError("%s: %v", s.input, err)
		}
		total++
	}
}

func (s *submission) single() source {
	done := false
	return func() (queue.Submission, error) {
		if done {
			return queue.Submission{}, io.EOF
		}
		done = true
		return s.one(execution.ID(s.id), []byte(s.params))
	}
}

func (s *submission) one(id execution.ID, params []byte) (queue.Submission, error) {
	document, err := s.context(params)
	if err != nil {
		return queue.Submission{}, err
	}
	if id == "" {
		fresh, err := uuid.NewV7()
		if err != nil {
			return queue.Submission{}, err
		}
		id = execution.ID(fresh.String())
	}
	return queue.Submission{ID: id, Context: document}, nil
}

// lines yields a submission per line; empty lines are passed over. The fate of the lines before a bad one is part of its
// error.
func (s *submission) lines(in io.Reader, fate string) source {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(make([]byte, 64<<10), max(s.maxBytes, 64<<10)+1)
	number := 0
	return func() (queue.Submission, error) {
		for scanner.Scan() {
			number++
			if len(bytes.TrimSpace(scanner.Bytes())) == 0 {
				continue
			}
			one, err := s.one("", scanner.Bytes())
			if err != nil {
				return one, usageError("line %d: %v (the lines before it were %s)", number, err, fate)
			}
			return one, nil
		}
		if err := scanner.Err(); err != nil {
			return queue.Submission{}, usageError("line %d: %v, expected at most %d bytes (the lines before it were %s)", number+1, err, s.maxBytes, fate)
		}
		return queue.Submission{}, io.EOF
	}
}
