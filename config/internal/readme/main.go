// Command readme writes the table of variables into README.md, between its config markers. Run it from the module's root:
//
//	go run ./config/internal/readme
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/bobbin-run/bobbin/config"
)

const begin, end = "<!-- config -->\n", "<!-- /config -->"

func main() {
	if err := refresh("README.md"); err != nil {
		fmt.Fprintln(os.Stderr, "readme:", err)
		os.Exit(1)
	}
}

func refresh(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return fmt.Errorf("%s has no %q … %q", path, begin, end)
	}
	return os.WriteFile(path, []byte(before+begin+config.Markdown()+end+after), 0o644)
}
