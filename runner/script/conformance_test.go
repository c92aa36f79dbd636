package script_test

import (
	"testing"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/runnertest"
	"github.com/bobbin-run/bobbin/runner/script"
)

func TestStarlarkConforms(t *testing.T) {
	t.Parallel()
	runnertest.Run(t, runnertest.Subject{
		Suffix: script.Suffix,
		Build:  func(m consumer.Modules) runner.Runner { return script.New(m, script.Options{}) },
		Modules: map[string]string{
			"echo.star":       "def main(**params):\n    return params\n",
			"fail.star":       "load('./lib/deep.star', 'down')\ndef main():\n    down()\n",
			"lib/deep.star":   "def down():\n    fail('deliberate')\n",
			"sleeper.star":    "def main():\n    sleep(100)\n",
			"stubborn.star":   "def main():\n    while True:\n        pass\n", // nothing can be stubborn here
			"huge.star":       "def main():\n    return 'x' * 2000000\n",
			"lines.star":      "def main():\n    print('a line of its own')\n",
			"whole.star":      "load('lib/helper.star', 'version')\ndef main():\n    return version\n",
			"lib/helper.star": "version = 'one'\n",
			"missing.star":    "load('not_published.star', 'x')\ndef main():\n    pass\n",
			"flood.star":      "def main():\n    for i in range(5000):\n        print('a line of the flood')\n    print('x' * 200000)\n    return 'dry'\n",
			"leftover.star":   "def main():\n    pass\n", // nothing can be left over here
			"cyclic.star":     "load('circle.star', 'x')\ndef main():\n    pass\n",
			"circle.star":     "load('cyclic.star', 'main')\nx = 1\n",
		},
		Changed:  map[string]string{"lib/helper.star": "version = 'two'\n"},
		FailType: script.TypeStarlark, FailShows: []string{"lib/deep.star:2", "fail('deliberate')"},
		Stubborn: execution.TimedOut, MissingType: script.TypeModuleNotFound, CyclicType: script.TypeImportCycle,
	})
}
