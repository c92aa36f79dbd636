// Package examples holds workflows that work, and real data to run them on. bobbin demo and bobbin dev publish them; read them
// under workflows/ as starting points for your own.
package examples

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
)

//go:embed workflows
var files embed.FS

//go:embed data/debian-packages.jsonl.gz
var debianPackages []byte

// Workflows returns the example modules under the paths at which they are published, such as debian/depends.star.
func Workflows() fs.FS {
	root, err := fs.Sub(files, "workflows")
	if err != nil {
		panic(err) // the folder is part of the build
	}
	return root
}

// DebianPackages returns 5,000 real package records of Debian, each a JSON object with the params of debian/depends.star.
func DebianPackages() ([]json.RawMessage, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(debianPackages))
	if err != nil {
		return nil, fmt.Errorf("example data: %w", err)
	}
	lines, err := io.ReadAll(unzipped)
	if err != nil {
		return nil, fmt.Errorf("example data: %w", err)
	}
	var records []json.RawMessage
	for line := range bytes.Lines(lines) {
		records = append(records, json.RawMessage(bytes.TrimSpace(line)))
	}
	return records, nil
}
