// Package logging makes the logger of a process: text for people, coloured on a terminal, or JSON for machines.
package logging

import (
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
)

// New returns a logger that writes to w: format is "json" or "text", level one of debug, info, warn, error; anything else
// means text and info. Colour is for terminals, and NO_COLOR turns it off there too (no-color.org).
func New(w io.Writer, format, level string, colour bool) *slog.Logger {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		least = slog.LevelInfo
	}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: least}))
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{
		Level: least, TimeFormat: time.StampMilli, NoColor: !colour || os.Getenv("NO_COLOR") != "",
	}))
}
