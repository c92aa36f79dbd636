package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every piece that a mutation takes out is there, once: a mutation that has lost its place would go unnoticed until somebody runs
// make mutations.
func TestEveryMutationHasItsPlace(t *testing.T) {
	t.Parallel()
	for _, m := range mutations {
		source, err := os.ReadFile(filepath.Join("..", "..", m.file))
		require.NoError(t, err, m.what)
		if n := strings.Count(string(source), m.before); n != 1 {
			t.Errorf("%s: the piece is %d times in %s, expected once", m.what, n, m.file)
		}
	}
}
