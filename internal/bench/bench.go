// Package bench measures a worker against what Redis itself must do: each measurement runs its baselines beside it on the same
// server, and what counts are the ratios, because absolute figures differ between machines and hours.
//
// A worker is measured as a process of its own, the way it is used: the bench starts its own executable again. Load is staged
// under another name and renamed when everything is ready, so that neither loading nor starting is in a figure.
package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// Lab is where measurements run: a Redis of its own, and the command that starts a worker.
type Lab struct {
	Redis  *Server
	Worker []string // command and arguments of a bench worker; it is configured by its environment
	Log    io.Writer
	Runs   int // how often each measurement is repeated; the medians count
}

// Report is what one measurement found.
type Report struct {
	Name    string   `json:"name"`
	About   string   `json:"about"`
	Machine *Machine `json:"machine"`
	Rows    []Row    `json:"rows"`
}

// Row is one figure, the median of all runs.
type Row struct {
	What   string  `json:"what"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit,omitempty"`
	Target string  `json:"target,omitempty"` // what the project means to reach: "at least 8", "below 6"
	Met    *bool   `json:"met,omitempty"`    // whether this run reached it; absent without a target
}

func (r *Report) add(what string, value float64, unit string) {
	r.Rows = append(r.Rows, Row{What: what, Value: value, Unit: unit})
}

func (r *Report) atLeast(what string, value float64, unit string, target float64) {
	met := value >= target
	r.Rows = append(r.Rows, Row{what, value, unit, fmt.Sprintf("at least %g", target), &met})
}

func (r *Report) below(what string, value float64, unit string, target float64) {
	met := value < target
	r.Rows = append(r.Rows, Row{what, value, unit, fmt.Sprintf("below %g", target), &met})
}

// Missed lists the figures that did not reach their target.
func (r *Report) Missed() []string {
	var missed []string
	for _, row := range r.Rows {
		if row.Met != nil && !*row.Met {
			missed = append(missed, fmt.Sprintf("%s: %s is %s, target %s", r.Name, row.What, row.text(), row.Target))
		}
	}
	return missed
}

// text renders the value with as many digits as it deserves.
func (row *Row) text() string {
	number := fmt.Sprintf("%.3f", row.Value)
	switch {
	case row.Value >= 10000:
		number = thousands(row.Value)
	case row.Value >= 100:
		number = fmt.Sprintf("%.0f", row.Value)
	case row.Value >= 1:
		number = fmt.Sprintf("%.2f", row.Value)
	}
	return strings.TrimSpace(number + " " + row.Unit)
}

func thousands(v float64) string {
	digits := fmt.Sprintf("%.0f", v)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// Table writes the report for people.
func (r *Report) Table(out io.Writer) error {
	fmt.Fprintf(out, "%s: %s\n", r.Name, r.About)
	table := tabwriter.NewWriter(out, 2, 8, 2, ' ', 0)
	for _, row := range r.Rows {
		verdict := ""
		if row.Met != nil && *row.Met {
			verdict = "reached"
		} else if row.Met != nil {
			verdict = "MISSED"
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", row.What, row.text(), row.Target, verdict)
	}
	return table.Flush()
}

// Machine says where figures were measured.
type Machine struct {
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	System  string `json:"system"`
	Redis   string `json:"redis"`
	Go      string `json:"go"`
	Bobbin  string `json:"bobbin"`
	Persist string `json:"persistence"`
}

// String is the machine in one line.
func (m *Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %s; Redis %s (%s), %s, bobbin %s", m.CPU, m.Cores, m.System, m.Redis, m.Persist, m.Go, m.Bobbin)
}

// Machine describes this machine and the lab's Redis.
func (l *Lab) Machine(ctx context.Context, version string) (*Machine, error) {
	info, err := l.Redis.Client.InfoMap(ctx, "server").Result()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	system := runtime.GOOS + "/" + runtime.GOARCH
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		system += " " + strings.TrimSpace(string(release))
	}
	return &Machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(), System: system, Redis: info["Server"]["redis_version"], Go: runtime.Version(),
		Bobbin: version, Persist: l.Redis.persistence,
	}, nil
}

func cpuModel() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

// JSON writes reports for machines, one document for all.
func JSON(out io.Writer, reports []*Report) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(reports)
}

// median of the values, which it sorts.
func median(values []float64) float64 { return percentile(values, 0.5) }

func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[int(p*float64(len(values)-1)+0.5)]
}

// series collects named figures over runs.
type series map[string][]float64

func (s series) add(name string, value float64) { s[name] = append(s[name], value) }

func (s series) median(name string) float64 { return median(s[name]) }

// mean is that of the values that the last run added, where each of the runs before it added as many.
func (s series) mean(name string, run int) float64 {
	values := s[name]
	values = values[len(values)-len(values)/(run+1):]
	sum := 0.0
	for _, value := range values {
		sum += value
	}
	return sum / float64(len(values))
}

func (l *Lab) say(format string, args ...any) { fmt.Fprintf(l.Log, format+"\n", args...) }
