package bench

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	begin = "<!-- figures: written by make bench -->"
	end   = "<!-- end of figures -->"
)

// Write puts the reports between the two markers of a Markdown page.
func Write(path string, reports []*Report, now time.Time) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	head, rest, ok := bytes.Cut(page, []byte(begin))
	_, tail, found := bytes.Cut(rest, []byte(end))
	if !ok || !found {
		return fmt.Errorf("bench: %s has no line %q with a line %q after it", path, begin, end)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\n\nMeasured on %s with %s.\n", head, begin, now.UTC().Format("2006-01-02"), reports[0].Machine)
	for _, r := range reports {
		fmt.Fprintf(&b, "\n**%s**: %s (`bobbin bench %s`)\n\n| what | figure | meant | |\n|---|---|---|---|\n", r.Name, r.About, r.Name)
		for _, row := range r.Rows {
			verdict := ""
			if row.Met != nil && *row.Met {
				verdict = "reached"
			} else if row.Met != nil {
				verdict = "**missed**"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", row.What, row.text(), row.Target, verdict)
		}
	}
	fmt.Fprintf(&b, "\n%s%s", end, tail)
	return os.WriteFile(path, []byte(b.String()), 0o600)
}
