package examples_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/examples"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/script"
)

// shelf is the example workflows as a module store.
type shelf map[string]string

func (s shelf) Snapshot(context.Context, string) (string, map[string]string, error) {
	return "1", s, nil
}

func setup(t *testing.T) *script.Runner {
	t.Helper()
	return script.New(published(t), script.Options{})
}

// published returns the examples as they are published.
func published(t *testing.T) shelf {
	t.Helper()
	s := shelf{}
	require.NoError(t, fs.WalkDir(examples.Workflows(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		source, err := fs.ReadFile(examples.Workflows(), path)
		s[path] = string(source)
		return err
	}))
	return s
}

func run(r *script.Runner, workflow, params string) (string, error) {
	value, err := r.Run(context.Background(), &runner.Call{ID: "x", Workflow: workflow, Function: "main", Params: json.RawMessage(params)})
	return string(value), err
}

func TestAllRealRecordsSucceed(t *testing.T) {
	t.Parallel()
	r := setup(t)
	records, err := examples.DebianPackages()
	require.NoError(t, err)
	require.Len(t, records, 5000)
	for _, record := range records {
		_, err := run(r, "debian/depends.star", string(record))
		require.NoError(t, err, "%s", record)
	}
}

// alternative is what a person reads in one alternative.
type alternative struct {
	Name, Qualifier string
	Version         struct{ Op, Version string }
	Architectures   []string
	Profiles        [][]string
}

func plain(name string) alternative {
	return alternative{Name: name, Architectures: []string{}, Profiles: [][]string{}}
}

func (a alternative) any() alternative { a.Qualifier = "any"; return a }

func (a alternative) versioned(op, version string) alternative {
	a.Version.Op, a.Version.Version = op, version
	return a
}

func (a alternative) on(architectures ...string) alternative {
	a.Architectures = architectures
	return a
}

func (a alternative) profiles(profiles ...[]string) alternative { a.Profiles = profiles; return a }

type parsed struct {
	Version struct {
		Epoch              int
		Upstream, Revision string
	}
	Groups       [][]alternative
	Alternatives int
}

// What the package records say, read by hand.
func TestSpotChecks(t *testing.T) {
	t.Parallel()
	r := setup(t)
	type group = []alternative
	records, err := examples.DebianPackages()
	require.NoError(t, err)
	byName := map[string]string{}
	for _, record := range records {
		var p struct{ Package string }
		require.NoError(t, json.Unmarshal(record, &p))
		byName[p.Package] = string(record)
	}
	for name, want := range map[string]parsed{
		"fonts-tlwg-norasi": {Groups: []group{{plain("fonts-tlwg-norasi-ttf"), plain("fonts-tlwg-norasi-otf")}}, Alternatives: 1},
		"libbz2-dev": {Groups: []group{
			{plain("libbz2-1.0").versioned("=", "1.0.8-5+b1")}, {plain("libc6-dev"), plain("libc-dev")},
		}, Alternatives: 1},
		"libstarpufft-1.3-2": {Groups: []group{
			{plain("libc6").versioned(">=", "2.4")}, {plain("libfftw3-double3").versioned(">=", "3.3.5")},
			{plain("libfftw3-single3").versioned(">=", "3.3.5")},
			{plain("libstarpu-1.3-9").versioned(">=", "1.3.3+dfsg~"), plain("libstarpu-any-1.3-9")},
		}, Alternatives: 1},
		"pppconfig":       {Groups: []group{{plain("ppp").versioned(">=", "2.3.7")}, {plain("whiptail"), plain("dialog")}}, Alternatives: 1},
		"android-libetc1": {Groups: []group{{plain("libc6").versioned(">=", "2.4")}}},
		"gccgo": {Groups: []group{
			{plain("cpp").versioned(">=", "4:12.2.0-3")}, {plain("gcc").versioned(">=", "4:12.2.0-3")}, {plain("gccgo-12").versioned(">=", "12.2.0-1~")},
		}},
		"libmodule-pluggable-ordered-perl": {Groups: []group{
			{plain("perl").any()}, {plain("libmodule-pluggable-perl"), plain("perl").any().versioned("<<", "5.17.0")}, {plain("libuniversal-require-perl")},
		}, Alternatives: 1},
		"bioperl": {Groups: []group{{plain("libbio-perl-perl").versioned("=", "1.7.8-1")}, {plain("perl").any()}, {plain("libtest-most-perl")}}},
	} {
		require.Contains(t, byName, name)
		value, err := run(r, "debian/depends.star", byName[name])
		require.NoError(t, err)
		var got parsed
		require.NoError(t, json.Unmarshal([]byte(value), &got))
		require.Equal(t, want.Groups, got.Groups, name)
		require.Equal(t, want.Alternatives, got.Alternatives, name)
	}
	for name, want := range map[string]struct {
		epoch              int
		upstream, revision string
	}{
		"fonts-tlwg-norasi": {1, "0.7.3", "1"}, "libbz2-dev": {0, "1.0.8", "5+b1"}, "pppconfig": {0, "2.3.27", ""},
		"android-libetc1": {1, "10.0.0+r36", "1"}, "ansible-core": {0, "2.14.18", "0+deb12u2"}, "gccgo": {4, "12.2.0", "3"},
	} {
		value, err := run(r, "debian/depends.star", byName[name])
		require.NoError(t, err)
		var got parsed
		require.NoError(t, json.Unmarshal([]byte(value), &got))
		require.Equal(t, want.epoch, got.Version.Epoch, name)
		require.Equal(t, want.upstream, got.Version.Upstream, name)
		require.Equal(t, want.revision, got.Version.Revision, name)
	}
}

// Syntax that binary packages do not use, and spaces wherever deb-control allows them.
func TestTrickySyntax(t *testing.T) {
	t.Parallel()
	r := setup(t)
	type group = []alternative
	for depends, want := range map[string][]group{
		"": {}, "  ": {},
		"a (>= 1.2) | b [amd64], c:any": {{plain("a").versioned(">=", "1.2"), plain("b").on("amd64")}, {plain("c").any()}},
		" a(<<2:3~rc1-1)|b[!i386  !armhf] ,c <!nocheck> <cross stage1>": {
			{plain("a").versioned("<<", "2:3~rc1-1"), plain("b").on("!i386", "!armhf")},
			{plain("c").profiles([]string{"!nocheck"}, []string{"cross", "stage1"})},
		},
		"g++-12 (= 12.2.0-14) [any-amd64] <!x>": {{plain("g++-12").versioned("=", "12.2.0-14").on("any-amd64").profiles([]string{"!x"})}},
	} {
		params, err := json.Marshal(map[string]string{"package": "p", "version": "1", "depends": depends})
		require.NoError(t, err)
		value, err := run(r, "debian/depends.star", string(params))
		require.NoError(t, err, depends)
		var got parsed
		require.NoError(t, json.Unmarshal([]byte(value), &got))
		require.Equal(t, want, got.Groups, depends)
	}
	for depends, says := range map[string]string{
		"a, , b":     "at byte 2: expected the name of a package",
		"a (>= 1":    `at byte 2: expected ',', '|' or the end after "a", got "(>= 1"`,
		"ab | c (!)": `at byte 7: expected ',', '|' or the end after "c", got "(!)"`,
		"A":          "at byte 0: expected the name of a package",
	} {
		params, err := json.Marshal(map[string]string{"package": "p", "version": "1", "depends": depends})
		require.NoError(t, err)
		_, err = run(r, "debian/depends.star", string(params))
		var failed *execution.Error
		require.ErrorAs(t, err, &failed, depends)
		require.Contains(t, failed.Message, says)
		require.Contains(t, failed.Traceback, "debian/relation.star")
	}
}

func TestSmallExamples(t *testing.T) {
	t.Parallel()
	r := setup(t)
	value, err := run(r, "hello.star", `{"name":"Ada"}`)
	require.NoError(t, err)
	require.JSONEq(t, `{"text":"Hello, Ada!"}`, value)
	value, err = run(r, "text/wordcount.star", `{"text":"the cat and the hat","top":2}`)
	require.NoError(t, err)
	require.JSONEq(t, `[{"word":"the","count":2},{"word":"and","count":1}]`, value)
}
