package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// visible is a writer to a terminal of what others wrote: log lines, errors, IDs. Control characters, which would move the cursor,
// colour the screen or hide a line, come out as the JSON escapes \u001b, so that JSON stays what it was. Each call must bring
// whole characters.
type visible struct{ out io.Writer }

// Write writes p with every control character but line ends and tabs made visible.
func (v visible) Write(p []byte) (int, error) {
	if _, err := io.WriteString(v.out, escape(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// forPeople is where text for people goes that quotes what users wrote.
func (a *app) forPeople() io.Writer { return visible{a.stdout} }

// forData is a writer of JSON to out, which ends at stdout: as it is, unless a person looks at it.
func (a *app) forData(out io.Writer) io.Writer {
	if isTerminal(a.stdout) {
		return visible{out}
	}
	return out
}

// escape makes control characters visible, those that turn the direction of writing included.
func escape(text string) string {
	if utf8.ValidString(text) && strings.IndexFunc(text, unsafe) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text { // what is no UTF-8 comes as U+FFFD
		if unsafe(r) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unsafe(r rune) bool {
	if r == '\n' || r == '\t' {
		return false
	}
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
}

// shorten makes one short line of a text: limit characters and a sign that there was more.
func shorten(s string, limit int) string {
	runes := []rune(escape(strings.NewReplacer("\r", " ", "\n", " ", "\t", " ").Replace(s)))
	if len(runes) > limit {
		return string(runes[:limit]) + "…"
	}
	return string(runes)
}

// squeeze shortens a name in its middle to at most width characters: both ends tell names apart.
func squeeze(name string, width int) string {
	runes := []rune(name)
	if len(runes) <= width {
		return name
	}
	width = max(width, 3)
	head := width / 2
	return string(runes[:head]) + "…" + string(runes[len(runes)-(width-1-head):])
}
