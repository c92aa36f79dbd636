package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/examples"
	"github.com/bobbin-run/bobbin/internal/logging"
	"github.com/bobbin-run/bobbin/queue"
)

// devPoll is how often the workflow folder is looked at. Polling sees every editor's way of saving and every file system.
const devPoll = 300 * time.Millisecond

func (a *app) devCommand() *cobra.Command {
	var addr, workflows string
	cmd := &cobra.Command{
		Use: "dev", Short: "Keep an embedded Redis and a worker running to play with", Args: exactly(),
		Long: "Starts a Redis inside this process and a worker on it, until interrupted. Point the other commands and redis-cli\n" +
			"at it. With --workflows, a changed file is published again by itself; without, the examples are published.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if info, err := os.Stat(workflows); workflows != "" && (err != nil || !info.IsDir()) {
				return usageError("--workflows is %q, expected a folder", workflows)
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.dev(ctx, addr, workflows)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "127.0.0.1:6380", "address the embedded Redis listens on")
	cmd.Flags().StringVar(&workflows, "workflows", "", "folder of workflow modules to publish and watch (default: the examples)")
	return cmd
}

func (a *app) dev(ctx context.Context, addr, workflows string) error {
	l, err := startLab(ctx, addr, 4, logging.New(a.stderr, "text", "info", isTerminal(a.stderr)))
	if err != nil {
		return err
	}
	files := examples.Workflows()
	if workflows != "" {
		files = os.DirFS(workflows)
	}
	first, err := readModules(files)
	if err == nil {
		_, err = l.queue.PushModules(ctx, first)
	}
	if err != nil {
		_ = l.end()
		return err
	}
	a.devHint(l.redis.url(), first)
	a.watch(ctx, l.queue, workflows, first)
	return l.end()
}

func (a *app) devHint(url string, sources map[string]string) {
	names := slices.Sorted(maps.Keys(sources))
	port := url[strings.LastIndexByte(url, ':')+1:]
	fmt.Fprintf(a.stderr, `
An embedded Redis listens on %s, and a worker runs on it. Published: %s

In another terminal:
  export BOBBIN_REDIS_URL=%s
  bobbin submit hello.star --params '{"name":"Ada"}' --wait
  bobbin status
  redis-cli -p %s SUBSCRIBE 'bobbin:{default}:events'

Ctrl-C ends it; nothing is kept.

`, url, strings.Join(names, ", "), url, port)
}

// watch publishes what changed under the folder until ctx is done.
func (a *app) watch(ctx context.Context, q *queue.Queue, dir string, known map[string]string) {
	ticker := time.NewTicker(devPoll)
	defer ticker.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if dir == "" {
			continue
		}
		fresh, err := readModules(os.DirFS(filepath.Clean(dir)))
		if errors.Is(err, fs.ErrNotExist) { // vanished between listing and reading; the next look sees what is there
			continue
		}
		if err != nil {
			if why := err.Error(); why != said {
				fmt.Fprintln(a.stderr, "not published:", why)
				said = why
			}
			continue
		}
		said = ""
		known = a.publishChanges(ctx, q, known, fresh)
	}
}

func (a *app) publishChanges(ctx context.Context, q *queue.Queue, known, fresh map[string]string) map[string]string {
	changed, gone := map[string]string{}, []string{}
	for name, text := range fresh {
		if old, ok := known[name]; !ok || old != text {
			changed[name] = text
		}
	}
	for name := range known {
		if _, ok := fresh[name]; !ok {
			gone = append(gone, name)
		}
	}
	if len(changed) == 0 && len(gone) == 0 {
		return known
	}
	if len(changed) > 0 {
		if _, err := q.PushModules(ctx, changed); err != nil {
			fmt.Fprintln(a.stderr, "not published:", err)
			return known
		}
		fmt.Fprintln(a.stderr, "published", strings.Join(slices.Sorted(maps.Keys(changed)), ", "))
	}
	if len(gone) > 0 {
		if _, err := q.DeleteModules(ctx, gone...); err != nil {
			fmt.Fprintln(a.stderr, "not deleted:", err)
			return known
		}
		fmt.Fprintln(a.stderr, "deleted", strings.Join(gone, ", "))
	}
	return fresh
}
