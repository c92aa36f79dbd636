package queue

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
)

// LogClient sends what the Redis client says by itself to log, at level debug: each of its failures also comes back as an error
// of a call, and is reported there. Without it, the client writes lines of its own to stderr. It is one setting for the whole
// process, so it is for programs and not for libraries; call it before [Open].
func LogClient(log *slog.Logger) { redis.SetLogger(clientLog{log}) }

type clientLog struct{ log *slog.Logger }

// Printf is what go-redis calls.
func (c clientLog) Printf(ctx context.Context, format string, v ...any) {
	if c.log.Enabled(ctx, slog.LevelDebug) {
		c.log.DebugContext(ctx, "redis client", "said", fmt.Sprintf(format, v...))
	}
}
