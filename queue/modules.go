package queue

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// moduleCache keeps the newest snapshot of the queue's modules, so that a worker reads them once per change.
type moduleCache struct {
	turn   chan struct{} // full while one fetches: callers of a new version wait for one fetch, or until their context ends
	newest atomic.Pointer[moduleSnapshot]
}

// moduleSnapshot is all modules as of one version. It does not change.
type moduleSnapshot struct {
	version string
	sources map[string]string
}

// serves says whether a snapshot is as new as a version.
func (s *moduleSnapshot) serves(version string) bool { return s != nil && !newer(version, s.version) }

// Snapshot returns every workflow module, path → source, as of one version that is at least as new as the given one. The
// map is shared between callers and must not be changed. Redis is asked only for a version that was not seen yet.
func (q *Queue) Snapshot(ctx context.Context, version string) (string, map[string]string, error) {
	c := &q.modules
	if s := c.newest.Load(); s.serves(version) { // every execution of a script comes here
		return s.version, s.sources, nil
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return "", nil, context.Cause(ctx)
	}
	if s := c.newest.Load(); s.serves(version) {
		return s.version, s.sources, nil
	}
	current, sources, err := q.fetchModules(ctx)
	if err != nil {
		return "", nil, err
	}
	c.newest.Store(&moduleSnapshot{current, sources})
	return current, sources, nil
}

// newer also holds when the version went back: then somebody deleted the counter, and only a fetch tells.
func newer(version, cached string) bool {
	return version != cached && number(version) != number(cached)
}

// fetchModules reads without a transaction: a Redis whose memory is full lets nobody queue one, not even to read, and what was
// claimed before is to run. The version comes first: sources that a push has just replaced are then of a newer one than they are said to
// be, and the next claim, which brings that one, has them read again.
func (q *Queue) fetchModules(ctx context.Context) (string, map[string]string, error) {
	pipe := q.rdb.Pipeline()
	version, sources := pipe.Get(ctx, q.Keys.ModulesVersion), pipe.HGetAll(ctx, q.Keys.Modules)
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return "", nil, wrap("modules", err)
	}
	if err := sources.Err(); err != nil {
		return "", nil, wrap("modules", err)
	}
	return cmp.Or(version.Val(), "0"), sources.Val(), nil
}

// Modules reads every workflow module afresh, with the version they are of.
func (q *Queue) Modules(ctx context.Context) (version string, sources map[string]string, err error) {
	return q.fetchModules(ctx)
}

// PushModules publishes modules, path → source, in one step, and returns the new version. Executions claimed from then on
// see all of them. The same step removes those that are gone.
func (q *Queue) PushModules(ctx context.Context, sources map[string]string, gone ...string) (string, error) {
	values := make([]string, 0, 2*len(sources))
	for path, source := range sources {
		values = append(values, path, source)
	}
	tx := q.rdb.TxPipeline()
	if len(values) > 0 {
		tx.HSet(ctx, q.Keys.Modules, values)
	}
	if len(gone) > 0 {
		tx.HDel(ctx, q.Keys.Modules, gone...)
	}
	version := tx.Incr(ctx, q.Keys.ModulesVersion)
	if err := execute(ctx, tx); err != nil {
		return "", wrap("push modules", err)
	}
	return strconv.FormatInt(version.Val(), 10), nil
}

// DeleteModules removes modules and returns how many of the paths were there.
func (q *Queue) DeleteModules(ctx context.Context, paths ...string) (int, error) {
	tx := q.rdb.TxPipeline()
	deleted := tx.HDel(ctx, q.Keys.Modules, paths...)
	tx.Incr(ctx, q.Keys.ModulesVersion)
	if err := execute(ctx, tx); err != nil {
		return 0, wrap("delete modules", err)
	}
	return int(deleted.Val()), nil
}
