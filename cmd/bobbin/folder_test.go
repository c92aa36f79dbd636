package main

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
)

// What others wrote is not published, and that is said.
func TestModulesPushPassesOverWhatOthersWrote(t *testing.T) {
	t.Parallel()
	s := setup(t, redistest.Mini(t))
	pushed := s.do("", "modules", "push", workflows(t, map[string]string{
		"a.py": "", "shared/b.py": "", ".venv/c.py": "", "env/pyvenv.cfg": "home = /usr/bin", "env/lib/d.py": "", "venv/lib/e.py": "",
		"web/node_modules/f/f.mjs": "", "web/g.mjs": "", "shared/__pycache__/h.py": "", "lib/python3/site-packages/i.py": "",
	}))
	require.Zero(t, pushed.code, pushed.err)
	require.Equal(t, "a.py\nshared/b.py\nweb/g.mjs\n", pushed.out)
	require.Contains(t, pushed.err, "passed over env, lib/python3/site-packages, shared/__pycache__, venv, web/node_modules\n")
}

func TestModulesPruneStaysWithinTheFolder(t *testing.T) {
	t.Parallel()
	s := setup(t, redistest.Mini(t))
	s.ok("modules", "push", workflows(t, map[string]string{"root.py": "", "billing/old.py": "", "billing/deep/old.py": "", "other/x.py": ""}))
	dir := workflows(t, map[string]string{"billing/new.py": ""})
	s.ok("modules", "push", dir)
	require.Len(t, strings.Split(strings.TrimSpace(s.ok("modules", "list")), "\n"), 5, "without --prune nothing is removed")
	pruned := s.do("", "modules", "push", "--prune", dir)
	require.Zero(t, pruned.code, pruned.err)
	require.Equal(t, "billing/new.py\n", pruned.out)
	require.Contains(t, pruned.err, "removed billing/deep/old.py\nremoved billing/old.py\npublished 1 modules")
	list := s.ok("modules", "list")
	for _, kept := range []string{"billing/new.py", "other/x.py", "root.py"} {
		require.Contains(t, list, kept)
	}
	require.Len(t, strings.Split(strings.TrimSpace(list), "\n"), 3)
	require.Contains(t, s.do("", "modules", "push", "--prune", workflows(t, map[string]string{"new.py": ""})).err, "removed root.py\n")
}

// A prune removes what an earlier push took from a folder that is passed over now.
func TestPruneOfWhatIsPassedOver(t *testing.T) {
	t.Parallel()
	f, err := readFolder(fstest.MapFS{"a/b.py": {}, "env/pyvenv.cfg": {}, "env/c.py": {}})
	require.NoError(t, err)
	require.Equal(t, []string{"env/c.py"}, f.gone(map[string]string{"a/b.py": "", "env/c.py": "", "root.py": "", "z/z.py": ""}))
}

func TestModulesAreUTF8(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]string{
		"plain.py":   "x = 'é'\n",
		"mark.py":    "\uFEFFx = 'é'\n",
		"cookie.py":  "# -*- coding: utf_8 -*-\nx = 'é'\n",
		"first.py":   "# coding: utf-8\n# coding: cp1252\nx = 'é'\n",
		"ascii.py":   "# coding: cp1252\nx = 'e'\n",
		"late.py":    "\n\n# coding: latin-1\nx = 'é'\n",
		"code.py":    "x = 'é'\n# coding: latin-1\n",
		"mark.star":  "\uFEFFx = 'é'\n",
		"cookie.mjs": "# coding: latin-1\nx = 'é'\n",
	} {
		text, err := moduleText(name, []byte(source))
		require.NoError(t, err, name)
		require.Equal(t, strings.TrimPrefix(source, "\uFEFF"), text)
	}
	for _, cookie := range []string{"# -*- coding: latin-1 -*-\n", "#!/usr/bin/python3\r\n# vim: set fileencoding=ISO-8859-1 :\r\n", "\n#coding:latin1\n"} {
		text, err := moduleText("l.py", []byte(cookie+"x = '\xe9'\n"))
		require.NoError(t, err, cookie)
		require.Equal(t, cookie+"x = 'é'\n", text)
	}
	for source, says := range map[string]string{
		"x = '\xe9'\n":                         `module m.py is not UTF-8 (byte 0xe9 at 5), expected UTF-8, or Latin-1 with "# coding: latin-1"`,
		"# coding: cp1252\nx = '\x80'\n":       `module m.py declares the encoding "cp1252", expected utf-8 or latin-1`,
		"# coding: utf-8\nx = '\xe9'\n":        "is not UTF-8 (byte 0xe9 at 21)",
		"\uFEFF# coding: latin-1\nx = '\xe9'":  `declares the encoding "latin-1"`,
		"x = 1\n# coding: latin-1\ny='\xe9'\n": "is not UTF-8",
		"# coding: ascii\nx = 'é'\n":           `declares the encoding "ascii"`,
	} {
		_, err := moduleText("m.py", []byte(source))
		require.ErrorContains(t, err, says, "%q", source)
	}
	_, err := moduleText("m.star", []byte("\xff"))
	require.EqualError(t, err, "module m.star is not UTF-8 (byte 0xff at 0), expected UTF-8")

	s := setup(t, redistest.Mini(t))
	refused := s.do("", "modules", "push", workflows(t, map[string]string{"good.py": "", "bad.py": "x = '\xe9'"}))
	require.Equal(t, execution.ExitFailure, refused.code)
	require.Contains(t, refused.err, "module bad.py is not UTF-8")
	require.Empty(t, s.ok("modules", "list"), "all of it or nothing")
}
