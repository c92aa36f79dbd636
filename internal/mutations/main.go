// Command mutations takes out one mitigation at a time and shows that the suite notices. A mutation that survives means that a test
// is missing; then it exits 1. Run it from the module's root: make mutations. A mutation is caught when a test that passes with the
// mitigation fails without it, by name: a build that breaks, a test that is skipped, a crash or a time-out proves nothing.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	only := regexp.MustCompile(strings.Join(os.Args[1:], " "))
	sound := map[string]error{} // by tests: nil when they pass with everything in place
	survived := 0
	for _, m := range mutations {
		if !only.MatchString(m.what) {
			continue
		}
		if _, known := sound[m.tests]; !known {
			sound[m.tests] = baseline(m.tests)
		}
		by, err := "", sound[m.tests]
		if err == nil {
			by, err = m.try()
		}
		if err != nil {
			survived++
			fmt.Printf("SURVIVED  %-60s %s\n%v\n", m.what, m.tests, err)
			continue
		}
		fmt.Printf("caught    %-60s by %s\n", m.what, by)
	}
	if survived > 0 {
		fmt.Printf("%d mutations survived\n", survived)
		os.Exit(1)
	}
}

// baseline runs tests with every mitigation in place: some must match, and all pass.
func baseline(tests string) error {
	passed, failed, out := run(tests)
	switch {
	case len(failed) > 0:
		return fmt.Errorf("fails with every mitigation in place: %s\n%s", strings.Join(failed, ", "), out)
	case len(passed) == 0:
		return fmt.Errorf("no test matches, or all are skipped (is there a redis-server?)\n%s", out)
	}
	return nil
}

// try runs the tests without the mitigation, and returns those that failed. The error says why that is no proof.
func (m mutation) try() (by string, err error) {
	dir, err := os.MkdirTemp("", "bobbin-mutation-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	overlay, err := m.overlay(dir)
	if err != nil {
		return "", err
	}
	if out, err := command("build", overlay, "./..."); err != nil {
		return "", fmt.Errorf("does not build: %s", out)
	}
	passed, failed, out := run(m.tests, overlay)
	switch {
	case len(failed) > 0:
		return strings.Join(failed, ", "), nil
	case len(passed) > 0:
		return "", fmt.Errorf("the tests pass without it")
	default:
		return "", fmt.Errorf("no test failed by name; a crash or a time-out is no proof\n%s", out)
	}
}

// overlay writes the mutated file beside the tree, and returns the flag that has the go command read it instead.
func (m mutation) overlay(dir string) (flag string, err error) {
	path, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := bytes.Count(source, []byte(m.before)); n != 1 {
		return "", fmt.Errorf("the piece to take out is %d times in %s, expected once", n, m.file)
	}
	mutated, replacements := filepath.Join(dir, filepath.Base(path)), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(mutated, bytes.Replace(source, []byte(m.before), []byte(m.with), 1), 0o600); err != nil {
		return "", err
	}
	document, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutated}})
	if err != nil {
		return "", err
	}
	return "-overlay=" + replacements, os.WriteFile(replacements, document, 0o600)
}

var (
	pass = regexp.MustCompile(`(?m)^--- PASS: (\S+)`)
	fail = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
)

// run runs the tests of a package that match, "./queue TestModel", and returns which passed and which failed. Of those that fail in
// parts only the whole is named.
func run(tests string, flags ...string) (passed, failed []string, out string) {
	pkg, pattern, _ := strings.Cut(tests, " ")
	args := append([]string{"test", "-v", "-count=1", "-vet=off", "-timeout=4m", "-run", pattern}, flags...)
	out, _ = command(append(args, pkg)...) // what its error would say is in the output
	return whole(pass, out), whole(fail, out), tail(out)
}

func whole(result *regexp.Regexp, out string) (names []string) {
	for _, match := range result.FindAllStringSubmatch(out, -1) {
		if name, _, _ := strings.Cut(match[1], "/"); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func tail(out string) string { return out[max(0, len(out)-4000):] }

func command(args ...string) (string, error) {
	out, err := exec.Command("go", args...).CombinedOutput()
	return string(out), err
}
