package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Bytes is a size that may be written with a unit: 65536, 64KiB, 1MiB, 64KB, 1MB.
type Bytes int64

var (
	units   = map[string]int64{"": 1, "B": 1, "KB": 1000, "MB": 1000_000, "GB": 1000_000_000, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
	sizes   = regexp.MustCompile(`^(\d{1,12})\s?([KMG]?i?B?)$`)
	capital = regexp.MustCompile(`([a-z])([A-Z])|([A-Z])([A-Z][a-z])`)
)

// ParseBytes reads a size.
func ParseBytes(text string) (Bytes, error) {
	match := sizes.FindStringSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	unit, known := units[match[2]]
	n, err := strconv.ParseInt(match[1], 10, 64)
	if !known || err != nil || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	return Bytes(n * unit), nil
}

// UnmarshalText reads a size from the environment.
func (b *Bytes) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBytes(string(text))
	return err
}

// String writes the size with the largest unit that loses nothing.
func (b Bytes) String() string {
	for _, unit := range []string{"GiB", "MiB", "KiB"} {
		if size := Bytes(units[unit]); b >= size && b%size == 0 {
			return strconv.FormatInt(int64(b/size), 10) + unit
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// snake turns a field's name into a variable's, as envconfig's split_words does: RedisURL, REDIS_URL; HTTPAddr, HTTP_ADDR.
func snake(name string) string { return capital.ReplaceAllString(name, "${1}${3}_${2}${4}") }

// Text lists every variable for a terminal.
func Text() string {
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, v := range Table() {
		fmt.Fprintf(table, "  %s\t%s\t%s\n  \t\taccepts: %s\n", v.Name, v.Default, v.Description, v.Accepted)
	}
	_ = table.Flush() // a strings.Builder takes everything
	return b.String()
}

// Markdown lists every variable as the table that the README shows.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| variable | default | accepted | meaning |\n|---|---|---|---|\n")
	for _, v := range Table() {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", v.Name, v.Default, v.Accepted, v.Description)
	}
	return b.String()
}
