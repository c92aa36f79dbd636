package examples_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/examples"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/process"
)

// The Python example fetches the real records, over HTTP and several at a time, from a server that this test starts.
func TestMirrorFetchesRealRecords(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		require.Empty(t, os.Getenv("BOBBIN_REQUIRE_REDIS"), "CI has python3")
		t.Skip("no python3")
	}
	records, err := examples.DebianPackages()
	require.NoError(t, err)
	byName, names, kib := map[string]json.RawMessage{}, []string{}, 0
	for _, record := range records[:200] {
		var fields struct {
			Package      string `json:"package"`
			InstalledKiB int    `json:"installed_kib"`
		}
		require.NoError(t, json.Unmarshal(record, &fields))
		byName[fields.Package] = record
		names, kib = append(names, fields.Package), kib+fields.InstalledKiB
	}
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		record, ok := byName[r.URL.Path[len("/packages/"):]]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(record)
	}))
	defer server.Close()
	r := process.New(process.Python(python), published(t), process.Options{})
	defer func() { require.NoError(t, r.Close()) }()
	mirror := func(packages []string) (string, error) {
		params, err := json.Marshal(map[string]any{"base": server.URL, "packages": packages})
		require.NoError(t, err)
		value, err := r.Run(t.Context(), &runner.Call{ID: "x", Workflow: "debian/mirror.py", Function: "main", Params: params})
		return string(value), err
	}
	value, err := mirror(names)
	require.NoError(t, err)
	require.Contains(t, value, fmt.Sprintf(`"packages":200,"installed_kib":%d`, kib))
	require.EqualValues(t, 200, requests.Load())

	_, err = mirror([]string{"2048", "no-such-package"})
	failure := execution.AsError(err)
	require.Equal(t, "LookupError", failure.Type)
	require.Equal(t, "no-such-package: the server says 404", failure.Message)
	require.Contains(t, failure.Traceback, `File "debian/mirror.py"`)
}
