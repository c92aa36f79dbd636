package consumer_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

// A Go program becomes a worker: register handlers, say where Redis is, run. As a whole program, consumer.Main takes the last
// step and obeys signals too.
func Example() {
	server := miniredis.NewMiniRedis() // stands in for your Redis
	if err := server.Start(); err != nil {
		panic(err)
	}
	defer server.Close()

	mux := runner.NewMux()
	runner.Handle(mux, "greet", func(_ context.Context, p struct{ Name string }) (string, error) {
		return "Hello, " + p.Name, nil
	})
	worker, err := consumer.New(consumer.Options{
		RedisURL: "redis://" + server.Addr(), Runner: mux, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	ctx, shutdown := context.WithCancel(context.Background())
	left := make(chan int)
	go func() {
		code, _ := worker.Run(ctx)
		left <- code
	}()

	q, err := queue.Open(queue.Options{URL: "redis://" + server.Addr()})
	if err != nil {
		panic(err)
	}
	defer func() { _ = q.Close() }()
	err = q.Submit(ctx, queue.Submission{ID: "7f3a", Context: []byte(`{"workflow":"greet","params":{"name":"Ada"}}`)})
	if err != nil {
		panic(err)
	}
	results, err := q.ReadResults(ctx, "0", 1, 10*time.Second)
	if err != nil {
		panic(err)
	}
	fmt.Println(results[0].Result.ID, results[0].Result.Status, string(results[0].Result.Value))
	shutdown()
	fmt.Println("exit code", <-left)
	// Output:
	// 7f3a succeeded "Hello, Ada"
	// exit code 0
}
