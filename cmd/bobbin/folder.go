package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// moduleSuffixes are the files that modules push takes.
var moduleSuffixes = []string{".star", ".py", ".mjs"}

// maxModuleBytes bounds one module: every worker holds all of them in memory.
const maxModuleBytes = 4 << 20

// foreign are folders that hold what others wrote, whatever is beside them.
var foreign = []string{"__pycache__", "node_modules", "site-packages", "venv"}

// folder is what a folder of workflows holds.
type folder struct {
	sources map[string]string // path → source
	top     map[string]bool   // the folders in it, and "." when modules are in it directly
	passed  []string          // folders that were passed over, hidden ones aside
}

// readModules reads every module of a file system.
func readModules(files fs.FS) (map[string]string, error) {
	f, err := readFolder(files)
	if err != nil {
		return nil, err
	}
	return f.sources, nil
}

// readFolder reads every module of a file system. Hidden folders are passed over, and those that hold what others wrote.
func readFolder(files fs.FS) (*folder, error) {
	f := &folder{sources: map[string]string{}, top: map[string]bool{}}
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return f.enter(files, name)
		}
		if !slices.Contains(moduleSuffixes, path.Ext(name)) {
			return nil
		}
		source, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		text, err := moduleText(name, source)
		if err != nil {
			return err
		}
		f.sources[name] = text
		f.top[topOf(name)] = true
		return nil
	})
	return f, err
}

// enter decides whether a folder is looked into.
func (f *folder) enter(files fs.FS, name string) error {
	if name == "." {
		return nil
	}
	base := path.Base(name)
	if strings.HasPrefix(base, ".") {
		return fs.SkipDir
	}
	f.top[topOf(name+"/")] = true
	_, err := fs.Stat(files, name+"/pyvenv.cfg") // a virtual environment, whatever it is called
	if err == nil || slices.Contains(foreign, base) {
		f.passed = append(f.passed, name)
		return fs.SkipDir
	}
	return nil
}

// topOf is the first folder of a path, "." for a file in no folder.
func topOf(name string) string {
	first, _, within := strings.Cut(name, "/")
	if !within {
		return "."
	}
	return first
}

// gone are the published modules that were in this folder once, as far as can be told: where it has a folder, or modules directly
// in it, what is published there and is no file of it. What is published elsewhere belongs to others.
func (f *folder) gone(published map[string]string) []string {
	var names []string
	for name := range published {
		if _, there := f.sources[name]; !there && f.top[topOf(name)] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

var (
	byteOrderMark = []byte("\uFEFF")
	// As the Python language reference has it: in the first two lines, in the second only after a comment or nothing.
	codingCookie = regexp.MustCompile(`^(?:[ \t\f]*(?:#[^\n]*)?\n)??[ \t\f]*#[^\n]*?coding[:=][ \t]*([-_.a-zA-Z0-9]+)`)
	newlines     = strings.NewReplacer("\r\n", "\n", "\r", "\n")
	separators   = strings.NewReplacer("-", "", "_", "")
)

// moduleText is a module's source as it is published: UTF-8, without a byte order mark. A Python module that says it is Latin-1
// is converted; interpreters are given text, and heed no cookie in it.
func moduleText(name string, source []byte) (string, error) {
	source, marked := bytes.CutPrefix(source, byteOrderMark)
	declared := ""
	if match := codingCookie.FindStringSubmatch(newlines.Replace(string(source[:min(len(source), 1024)]))); match != nil && path.Ext(name) == ".py" {
		declared = match[1]
	}
	text := string(source)
	switch encoding := strings.ToLower(separators.Replace(declared)); {
	case isASCII(source), strings.HasPrefix(encoding, "utf8"), encoding == "":
	case slices.Contains([]string{"latin1", "iso88591", "isolatin1", "l1"}, encoding) && !marked:
		text = fromLatin1(source)
	default:
		return "", fmt.Errorf("module %s declares the encoding %q, expected utf-8 or latin-1: convert it, and its coding comment with it", name, declared)
	}
	if at := invalidAt(text); at >= 0 {
		return "", fmt.Errorf("module %s is not UTF-8 (byte 0x%02x at %d), expected UTF-8%s", name, text[at], at, orCookie(name))
	}
	if len(text) > maxModuleBytes {
		return "", fmt.Errorf("module %s is %d bytes, expected at most %d", name, len(text), maxModuleBytes)
	}
	return text, nil
}

func orCookie(name string) string {
	if path.Ext(name) == ".py" {
		return `, or Latin-1 with "# coding: latin-1" as its first line`
	}
	return ""
}

func isASCII(data []byte) bool {
	return !slices.ContainsFunc(data, func(b byte) bool { return b >= utf8.RuneSelf })
}

func fromLatin1(data []byte) string {
	runes := make([]rune, len(data))
	for i, b := range data {
		runes[i] = rune(b)
	}
	return string(runes)
}

// invalidAt is where a text ceases to be UTF-8; -1: nowhere.
func invalidAt(text string) int {
	for i, r := range text {
		if r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)) {
			return i
		}
	}
	return -1
}
