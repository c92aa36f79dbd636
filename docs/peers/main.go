// Command peers drains the same load through asynq and through Bobbin, on the same Redis, and prints both rates: executions
// that do nothing, results kept, concurrency 16. It does so several times, in turn, and reports medians. It is a module of its own, so
// that Bobbin does not depend on its peers.
//
//	redis-server --port 7777 --save "" &
//	go build -o /tmp/bobbin ./cmd/bobbin
//	go run -C docs/peers . -redis 127.0.0.1:7777 -bobbin /tmp/bobbin
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
)

func main() {
	redis := flag.String("redis", "127.0.0.1:7777", "a Redis whose database 15 may be filled and emptied")
	bobbin := flag.String("bobbin", "bobbin", "the bobbin binary")
	tasks := flag.Int("tasks", 200_000, "how many executions")
	concurrency := flag.Int("concurrency", 16, "how many at the same time")
	rounds := flag.Int("rounds", 3, "how often to repeat; medians are reported")
	flag.Parse()
	if *tasks < 1 || *concurrency < 1 || *rounds < 1 {
		fmt.Fprintf(os.Stderr, "peers: -tasks %d -concurrency %d -rounds %d: expected at least 1 of each\n", *tasks, *concurrency, *rounds)
		os.Exit(2)
	}
	if err := run(*redis, *bobbin, *tasks, *concurrency, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(redis, bobbin string, tasks, concurrency, rounds int) error {
	var asynqs, bobbins, ratios []float64
	for round := range rounds {
		theirs, err := drainAsynq(asynq.RedisClientOpt{Addr: redis, DB: 15, PoolSize: 2 * concurrency}, tasks, concurrency)
		if err != nil {
			return fmt.Errorf("asynq: %w", err)
		}
		ours, err := drainBobbin(bobbin, tasks, concurrency)
		if err != nil {
			return fmt.Errorf("bobbin: %w", err)
		}
		asynqs, bobbins, ratios = append(asynqs, theirs), append(bobbins, ours), append(ratios, ours/theirs)
		fmt.Fprintf(os.Stderr, "round %d/%d: asynq %.0f/s, bobbin %.0f/s, ratio %.1f\n", round+1, rounds, theirs, ours, ours/theirs)
	}
	fmt.Printf("asynq    %8.0f a second, results kept for an hour\n", median(asynqs))
	fmt.Printf("bobbin   %8.0f a second\n", median(bobbins))
	fmt.Printf("ratio    %8.1f\n", median(ratios))
	return nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// drainAsynq enqueues first, then measures from the start of the server until the last task was handled.
func drainAsynq(opt asynq.RedisClientOpt, tasks, concurrency int) (rate float64, err error) {
	inspector := asynq.NewInspector(opt)
	defer func() { err = errors.Join(err, inspector.Close()) }()
	_ = inspector.DeleteQueue("default", true) // of an earlier run; absent at first
	client := asynq.NewClient(opt)
	for i := range tasks {
		if _, err := client.Enqueue(asynq.NewTask("noop", []byte(`{"customer":4711}`)), asynq.Retention(time.Hour)); err != nil {
			return 0, errors.Join(fmt.Errorf("enqueue %d: %w", i, err), client.Close())
		}
	}
	if err := client.Close(); err != nil {
		return 0, err
	}
	var handled atomic.Int64
	done := make(chan struct{})
	server := asynq.NewServer(opt, asynq.Config{Concurrency: concurrency, LogLevel: asynq.ErrorLevel})
	started := time.Now()
	err = server.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
		if _, err := t.ResultWriter().Write([]byte("null")); err != nil {
			return err
		}
		if handled.Add(1) == int64(tasks) {
			close(done)
		}
		return nil
	}))
	if err != nil {
		return 0, err
	}
	<-done
	took := time.Since(started)
	server.Shutdown()
	return float64(tasks) / took.Seconds(), inspector.DeleteQueue("default", true)
}

var workerLine = regexp.MustCompile(`"what": "worker",\s*"value": ([0-9.]+)`)

// drainBobbin asks bobbin to measure itself. It starts a redis-server of its own, with the same settings.
func drainBobbin(binary string, tasks, concurrency int) (float64, error) {
	bench := exec.Command(binary, "bench", "drain", "--json", "--runs", "1",
		"--executions", strconv.Itoa(tasks), "--concurrency", strconv.Itoa(concurrency))
	var said bytes.Buffer
	bench.Stderr = &said
	out, err := bench.Output()
	if err != nil {
		_, _ = said.WriteTo(os.Stderr)
		return 0, err
	}
	found := workerLine.FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("no rate in what bench printed: %.200s", out)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}
