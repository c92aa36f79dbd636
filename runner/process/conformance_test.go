package process_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/process"
	"github.com/bobbin-run/bobbin/runner/runnertest"
)

func TestMain(m *testing.M) {
	os.Exit(redistest.Main(m, goleak.IgnoreTopFunction("github.com/bobbin-run/bobbin/internal/leash.serve")))
}

// python returns the language, or skips the test where there is no Python. CI installs it.
func python(t *testing.T) *process.Language { return process.Python(find(t, "python3")) }

func node(t *testing.T) *process.Language { return process.Node(find(t, "node")) }

func find(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil && os.Getenv("BOBBIN_REQUIRE_REDIS") == "1" {
		require.NoError(t, err, "CI has every language")
	}
	if err != nil {
		t.Skip("no " + program)
	}
	return path
}

var pythonModules = map[string]string{
	"echo.py":      "async def main(**params):\n    return params\n",
	"fail.py":      "from lib.deep import down\n\ndef main():\n    down()\n",
	"left/over.py": "",
	"lib/deep.py":  "def down():\n    raise ValueError('deliberate')\n",
	"sleeper.py":   "import asyncio\nasync def main():\n    await asyncio.sleep(100)\n",
	"stubborn.py": `
import time
def main():
    while True:
        try:
            time.sleep(100)
        except BaseException:
            pass
`,
	"exits.py": "import sys\ndef main():\n    sys.exit('deliberate')\n",
	"flood.py": "def main():\n    for _ in range(5000):\n        print('a line of the flood')\n    print('x' * 200_000)\n    return 'dry'\n",
	"leftover.py": `
import bobbin, importlib, sys, threading
def work():
    for n in range(1000):
        try:
            print("left over")
            bobbin.progress(n, n)
            sys.modules.pop("left.over", None)
            importlib.import_module("left.over")
        except ImportError:
            pass
def main():
    threading.Thread(target=work, daemon=True).start()
`,
	"huge.py":       "def main():\n    return 'x' * 2_000_000\n",
	"lines.py":      "def main():\n    print('a line of its own')\n",
	"whole.py":      "def main():\n    from lib import helper\n    return helper.version\n",
	"lib/helper.py": "version = 'one'\n",
	"missing.py":    "import not_published\ndef main(): pass\n",
	"cyclic.py":     "import circle\nimport sys\ndef main():\n    return circle.word\n",
	"circle.py":     "import cyclic\nword = 'fine'\n",
}

func TestPythonConforms(t *testing.T) {
	t.Parallel()
	for _, mode := range []process.Mode{process.Resident, process.Fork} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			language := python(t)
			runnertest.Run(t, runnertest.Subject{
				Suffix: ".py", Modules: pythonModules, Changed: map[string]string{"lib/helper.py": "version = 'two'\n"},
				Build: func(m consumer.Modules) runner.Runner {
					return process.New(language, m, process.Options{Mode: mode, CancelGrace: runnertest.Grace, MaxRSS: 1 << 30})
				},
				FailType: "ValueError", FailShows: []string{`File "lib/deep.py", line 2, in down`, "raise ValueError('deliberate')"},
				FailsToo: map[string]string{"exits": "SystemExit"},
				Stubborn: execution.TimedOut, MissingType: "ModuleNotFoundError",
			})
		})
	}
}

var nodeModules = map[string]string{
	"echo.mjs":       "export async function main(params) { return params }\n",
	"fail.mjs":       "import { down } from './lib/deep.mjs';\nexport function main() { down() }\n",
	"lib/deep.mjs":   "export function down() {\n  throw new RangeError('deliberate');\n}\n",
	"sleeper.mjs":    "import { setTimeout } from 'node:timers/promises';\nimport bobbin from 'bobbin';\nexport const main = () => setTimeout(100000, null, { signal: bobbin.signal });\n",
	"stubborn.mjs":   "export function main() { for (;;) {} }\n",
	"huge.mjs":       "export const main = () => 'x'.repeat(2_000_000);\n",
	"rejects.mjs":    "export const main = async () => { throw new TypeError('deliberate') };\n",
	"flood.mjs":      "export function main() {\n  for (let i = 0; i < 5000; i++) console.log('a line of the flood');\n  console.log('x'.repeat(200_000));\n  return 'dry';\n}\n",
	"leftover.mjs":   "export function main() {\n  let n = 0;\n  const left = setInterval(() => { console.log('left over'); if (++n === 1000) clearInterval(left); }, 1);\n}\n",
	"lines.mjs":      "export const main = () => console.log('a line of its own');\n",
	"whole.mjs":      "export const main = async () => (await import('lib/helper.mjs')).version;\n",
	"lib/helper.mjs": "export const version = 'one';\n",
	"missing.mjs":    "import './not_published.mjs';\nexport const main = () => 1;\n",
	"cyclic.mjs":     "import { word } from './circle.mjs';\nexport const main = () => word;\n",
	"circle.mjs":     "import { main } from './cyclic.mjs';\nexport const word = 'fine';\nexport const other = () => main;\n",
}

func TestNodeConforms(t *testing.T) {
	t.Parallel()
	language := node(t)
	runnertest.Run(t, runnertest.Subject{
		Suffix: ".mjs", Modules: nodeModules, Changed: map[string]string{"lib/helper.mjs": "export const version = 'two';\n"},
		Build: func(m consumer.Modules) runner.Runner {
			return process.New(language, m, process.Options{CancelGrace: runnertest.Grace})
		},
		FailType: "RangeError", FailShows: []string{"lib/deep.mjs:2"},
		FailsToo: map[string]string{"rejects": "TypeError"},
		Stubborn: execution.TimedOut, MissingType: "ModuleNotFound",
	})
}
