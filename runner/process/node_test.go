package process_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/process"
)

// alone is a rig with one interpreter of Node.js, so that every execution meets what the one before left behind.
func alone(t *testing.T, sources map[string]string) *rig {
	t.Helper()
	return setup(t, node(t), process.Options{Limit: 1}, sources)
}

// as names the execution, and the function that it calls.
func as(id, function string) func(*runner.Call) {
	return func(c *runner.Call) { c.ID, c.Function = execution.ID(id), function }
}

// whose returns the execution that a log line with this text belongs to.
func (r *rig) whose(text string) string {
	r.t.Helper()
	var owner string
	require.Eventually(r.t, func() bool {
		for line := range strings.Lines(r.lines.String()) {
			if _, id, found := strings.Cut(line, "execution_id="); found && strings.Contains(line, text) {
				owner = strings.Fields(id)[0]
				return true
			}
		}
		return false
	}, 20*time.Second, 5*time.Millisecond, "no line with %q", text)
	return owner
}

func TestNodeImportsAtOnce(t *testing.T) {
	t.Parallel()
	r := alone(t, map[string]string{
		"twice.mjs": "export const main = async () => (await Promise.all([import('./h.mjs'), import('./h.mjs'), import('./i.mjs'), import('lib/j.mjs')])).map((m) => m.x);",
		"h.mjs":     "import { z } from './lib/j.mjs'; await 0; export const x = 'h' + z;",
		"i.mjs":     "import { x as h } from './h.mjs'; import { z } from './lib/j.mjs'; export const x = 'i' + h + z;",
		"lib/j.mjs": "import fs, { existsSync } from 'fs'; import * as h from '../h.mjs'; export const x = h ? 'j' : 0, z = fs.existsSync === existsSync ? 'z' : '';",
	})
	require.JSONEq(t, `["hz","hz","ihzz","j"]`, r.gives("twice.mjs", "{}"))
}

// A module that failed is tried anew by the next execution, also where it was imported by another, and not while it holds.
func TestNodeForgetsModulesThatFailed(t *testing.T) {
	t.Parallel()
	r := alone(t, map[string]string{
		"top.mjs":    "import { ok } from './deep.mjs'; export const main = () => ok;",
		"deep.mjs":   "import './kept.mjs'; globalThis.tries = (globalThis.tries ?? 0) + 1; if (tries < 3) throw new RangeError('try ' + tries); export const ok = [tries, evaluated];",
		"kept.mjs":   "globalThis.evaluated = (globalThis.evaluated ?? 0) + 1;",
		"unmade.mjs": "import { nothing } from './kept.mjs'; export const main = () => 1;",
		"wrong.mjs":  "export const main = () => {\n  return (;\n};",
	})
	for try := 1; try < 3; try++ {
		_, err := r.call("top.mjs", "{}")
		require.Equal(t, fmt.Sprint("RangeError: try ", try), err.Type+": "+err.Message)
		require.Contains(t, err.Traceback, "deep.mjs:1:")
	}
	require.Equal(t, "[3,1]", r.gives("top.mjs", "{}"))
	for range 2 {
		_, err := r.call("unmade.mjs", "{}")
		require.Equal(t, "SyntaxError", err.Type)
		require.Contains(t, err.Message, "nothing")
		_, err = r.call("wrong.mjs", "{}")
		require.Equal(t, "SyntaxError", err.Type)
		require.Contains(t, err.Message, "wrong.mjs: ")
	}
	require.Equal(t, "[3,1]", r.gives("top.mjs", "{}"))
}

// What an execution leaves running is its own: its lines, its context, its errors.
func TestNodeLeftovers(t *testing.T) {
	t.Parallel()
	r := alone(t, map[string]string{"left.mjs": `
import bobbin, { context } from 'bobbin';
import { setTimeout as sleep } from 'node:timers/promises';
let open, go;
const opened = new Promise((done) => { open = done; }), gone = new Promise((done) => { go = done; });
process.on('uncaughtException', () => process.exit(1));
export function leave() {
  opened.then(() => {
    setTimeout(() => { console.log('late line of ' + bobbin.context.executionId); bobbin.progress(1, 1, 'late'); }, 1);
    setTimeout(() => { process.stdout.write('late piece'); }, 1);
    setTimeout(() => { throw new Error('late throw'); }, 1);
    setTimeout(() => process.exit(3), 1);
    setTimeout(() => { Promise.reject(new Error('late rejection')); }, 1);
    setTimeout(() => go(), 2);
  });
  return 'left';
}
export async function main() {
  open();
  await gone;
  await sleep(1);
  console.log('a line of now');
  return [bobbin.context.executionId, context.executionId];
}
export async function throws() {
  setTimeout(() => { throw new RangeError('from a timer'); }, 1);
  await new Promise(() => {});
}
export async function exits() {
  setTimeout(() => process.exit(4), 1);
  await new Promise(() => {});
}
`})
	require.Equal(t, `"left"`, r.gives("left.mjs", "{}", as("first", "leave")))
	require.Equal(t, `["second","second"]`, r.gives("left.mjs", "{}", as("second", "main")))
	for _, text := range []string{"late line of first", "late piece", "late throw", "process.exit(3)", "late rejection"} {
		require.Equal(t, "first", r.whose(text), text)
	}
	require.Equal(t, "second", r.whose("a line of now"))
	require.Empty(t, r.notes, "no progress of the next one's")

	_, err := r.call("left.mjs", "{}", as("third", "throws"))
	require.Equal(t, "RangeError", err.Type, "its own timers fail it")
	require.Contains(t, err.Traceback, "left.mjs:")
	_, err = r.call("left.mjs", "{}", as("fourth", "exits"))
	require.Equal(t, "SystemExit", err.Type)
	require.Equal(t, `["fifth","fifth"]`, r.gives("left.mjs", "{}", as("fifth", "main")), "all in one interpreter")
}

// Installed packages are found from the worker's folder, and as modules: as what they export to import.
func TestNodePackages(t *testing.T) {
	folder := t.TempDir()
	for path, text := range map[string]string{
		"only/package.json": `{"name":"only","exports":{"import":"./index.mjs"}}`,
		"only/index.mjs":    "export default 'only'; export const word = 'esm';",
		"dual/package.json": `{"name":"dual","exports":{"import":"./i.mjs","require":"./r.cjs"}}`,
		"dual/i.mjs":        "export const word = 'import';",
		"dual/r.cjs":        "exports.word = 'require';",
		"old/index.js":      "exports.word = 'cjs';",
		"sad/package.json":  `{"name":"sad","exports":"./i.mjs"}`,
		"sad/i.mjs":         "import 'not-there';",
	} {
		path = filepath.Join(folder, "node_modules", path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	t.Chdir(folder)
	r := alone(t, map[string]string{
		"w.mjs":    "import only, { word } from 'only'; import * as dual from 'dual'; import old, { word as w } from 'old'; import path from 'path';\nexport const main = () => [only, word, dual.word, dual.default.word, old.word, w, path.sep];",
		"none.mjs": "import 'nowhere';",
		"sad.mjs":  "import 'sad';",
	})
	require.JSONEq(t, `["only","esm","import","import","cjs","cjs","/"]`, r.gives("w.mjs", "{}"))
	_, err := r.call("none.mjs", "{}")
	require.Equal(t, "ModuleNotFound", err.Type)
	require.Contains(t, err.Message, `"nowhere"`)
	_, err = r.call("sad.mjs", "{}")
	require.Contains(t, err.Message, "'not-there'", "it is installed, and says itself what it lacks")
}

func TestNodeStartsProgramsAndThreads(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "other.mjs")
	require.NoError(t, os.WriteFile(file, []byte(`
import { parentPort } from 'node:worker_threads';
parentPort ? parentPort.postMessage('thread') : process.send('program');
`), 0o600))
	r := alone(t, map[string]string{"w.mjs": `
import { fork } from 'node:child_process';
import { Worker } from 'node:worker_threads';
const word = (other) => new Promise((done, fail) => { other.on('message', done); other.on('error', fail); });
export const main = ({ file }) => Promise.all([word(fork(file)), word(new Worker(file))]);
`})
	require.JSONEq(t, `["program","thread"]`, r.gives("w.mjs", fmt.Sprintf(`{"file":%q}`, file)))
}

// Whatever an execution does to what JavaScript itself offers, the next one is answered rightly.
func TestNodeSurvivesItsWorkflows(t *testing.T) {
	t.Parallel()
	r := alone(t, map[string]string{
		"good.mjs": "import bobbin from 'bobbin';\nexport const main = async (params) => { console.log('still said'); bobbin.log.warn('number %d', 1); await 0; return { params, pid: process.pid }; };\n",
		"bad.mjs":  "const done = () => { throw new Error('replaced'); };\nexport const main = ({ code }) => { eval(code); return 'bad'; };\n",
	})
	pid := r.gives("good.mjs", `{"n":1}`)
	codes := []string{
		"console = null",
		"process.removeAllListeners()",
		"process.exit = done",
		"console.log = console.error = done",
		"console.group(); console.group()",
		"process.stdout.write = done; process.stderr.write = done",
		"process.stdout.end('x'); process.stderr.destroy()",
		"JSON.stringify = JSON.parse = done",
		"Object.prototype.toJSON = () => 'wrong'; Array.prototype.toJSON = String.prototype.toJSON = done",
		"Object.defineProperty(Object.prototype, 'type', { get: done, set: done, configurable: true })",
		"Object.prototype.get = Object.prototype.value = 1",
		"Object.prototype.execution_id = 'another'",
		"Promise.prototype.then = Promise.prototype.catch = Promise.prototype.finally = done",
		"Promise.race = Promise.all = Promise.resolve = done",
		"Array.prototype[Symbol.iterator] = Array.prototype.push = Array.prototype.includes = Array.prototype.map = done",
		"String.prototype.slice = String.prototype.split = String.prototype.indexOf = RegExp.prototype.test = RegExp.prototype.exec = done",
		"Map.prototype.get = Map.prototype.has = Set.prototype.has = done",
		"Buffer.from = Buffer.concat = Buffer.alloc = Buffer.byteLength = Buffer.prototype.toString = done",
		"setImmediate = setTimeout = queueMicrotask = process.nextTick = done",
		"Error.prepareStackTrace = done; Error.stackTraceLimit = 0",
		"Object.freeze(Object.prototype); Object.freeze(console)",
		"JSON = Buffer = Promise = Map = Set = String = Number = Reflect = Object.keys = undefined",
	}
	for _, code := range codes {
		value, err := r.call("bad.mjs", fmt.Sprintf(`{"code":%q}`, code))
		require.Nil(t, err, code)
		require.Equal(t, `"bad"`, string(value), code)
		value, err = r.call("good.mjs", `{"n":1}`)
		require.Nil(t, err, code)
		require.Equal(t, pid, string(value), code)
	}
	_, err := r.call("bad.mjs", `{"code":"null.x"}`)
	require.Equal(t, "TypeError", err.Type, "after all of that")
	require.Equal(t, len(codes)+1, strings.Count(r.lines.String(), `msg="still said"`))
	require.Equal(t, len(codes)+1, strings.Count(r.lines.String(), `msg="number 1"`))
}

func TestNodeFailuresAreClear(t *testing.T) {
	t.Parallel()
	r := alone(t, map[string]string{"bad.mjs": `
export function main({ code }) { return eval(code); }
export const pid = () => process.pid;
`})
	pid := r.gives("bad.mjs", "{}", as("x", "pid"))
	deep := "let d = []; for (let i = 0; i < %d; i++) d = [d]; d"
	for code, says := range map[string]string{
		"({ toJSON() {} })":                                "InvalidResult: .*toJSON",
		"({ toJSON() { throw null } })":                    "InvalidResult: .*null",
		"({ a: { get b() { throw new Error('no b') } } })": "InvalidResult: .*no b",
		"10n":                                 "InvalidResult: .*BigInt",
		"[Symbol('s')]":                       "InvalidResult: .*symbol",
		"(() => 1)":                           "InvalidResult: .*function",
		"[0 / 0]":                             "InvalidResult: .*NaN",
		"const o = {}; o.o = o; o":            "InvalidResult: .*circular",
		fmt.Sprintf(deep, 9998):               "^$|InvalidResult",
		fmt.Sprintf(deep, 10005):              "InvalidResult",
		fmt.Sprintf(deep, 100000):             "InvalidResult",
		"throw { get message() { throw 1 } }": "Error: .*cannot be described",
		"throw new Proxy({}, { get() { throw 1 } })":              "Error: .*cannot be described",
		"throw Object.assign(new Error('m'), { name: Symbol() })": "Error: m",
		"throw Object.assign(new Error('m'), { stack: 7 })":       "Error: m",
		"throw null":                "Error: null",
		"throw Symbol('s')":         `Error: Symbol\(s\)`,
		"throw { code: 5 }":         "Object: .*code: 5",
		"throw Object.create(null)": "Error: ",
		"throw new Error('a', { cause: new Error('b') })": "Error: a",
		"process.exit(7)": `SystemExit: .*process.exit\(7\)`,
		"(async () => { await 0; process.exit() })()":   `SystemExit: .*process.exit\(0\)`,
		"({ then() { throw new RangeError('then') } })": "RangeError: then",
		"(function f() { f() })()":                      "RangeError: .*stack",
		"Promise.reject()":                              "Error: undefined",
	} {
		_, err := r.call("bad.mjs", fmt.Sprintf(`{"code":%q}`, code))
		got := ""
		if err != nil {
			got = err.Type + ": " + err.Message
		}
		require.Regexp(t, says, got, code)
	}
	_, err := r.call("bad.mjs", `{"code":"throw new Error('a', { cause: new Error('b') })"}`)
	require.Contains(t, err.Traceback, "caused by: Error: b")
	require.NotContains(t, err.Traceback, "bobbin:shim")
	_, err = r.call("bad.mjs", "{}", as("x", "nothing"))
	require.Equal(t, "FunctionNotFound", err.Type)
	require.Contains(t, err.Message, "main, pid")
	require.Equal(t, pid, r.gives("bad.mjs", "{}", as("x", "pid")), "none of it cost the interpreter")
}

// What ends the process, or never ends, costs its own execution and no other.
func TestNodeEndsCleanly(t *testing.T) {
	t.Parallel()
	r := alone(t, map[string]string{
		"w.mjs": `
import fs from 'node:fs';
export const main = ({ code }) => eval(code);
`,
		"never.mjs": "await new Promise(() => {}); export const main = () => 1;",
		"waits.mjs": "export const main = () => new Promise(() => {});",
		"self.mjs":  "await import('./self.mjs'); export const main = () => 1;",
		"good.mjs":  "export const main = () => 'good';",
	})
	for code, says := range map[string]string{
		"process.abort()":                              "signal 6",
		"process.kill(process.pid, 'SIGKILL')":         "signal 9",
		"process.reallyExit(3)":                        "code 3",
		"fs.closeSync(3)":                              "EBADF|closed its connection",
		"fs.closeSync(3); fs.openSync('/dev/null'); 1": "EBADF|closed its connection",
		"fs.writeSync(3, '{nonsense'); 1":              "malformed frame",
	} {
		_, err := r.call("w.mjs", fmt.Sprintf(`{"code":%q}`, code))
		require.NotNil(t, err, code)
		require.Equal(t, process.TypeCrashed, err.Type, code)
		require.Regexp(t, says, err.Message, code)
		require.Equal(t, `"good"`, r.gives("good.mjs", "{}"), code)
	}
	for _, workflow := range []string{"never.mjs", "self.mjs", "waits.mjs"} {
		_, err := r.call(workflow, "{}")
		require.Equal(t, "NeverSettled", err.Type, workflow)
		require.Equal(t, `"good"`, r.gives("good.mjs", "{}"), workflow)
	}
}

// An execution that listens to its signal may tidy up before it ends; one that does not ends at once.
func TestNodeCancelled(t *testing.T) {
	t.Parallel()
	r := setup(t, node(t), process.Options{Limit: 1, CancelGrace: 20 * time.Second}, map[string]string{"w.mjs": `
import { context, signal, default as bobbin } from 'bobbin';
import { setTimeout as sleep } from 'node:timers/promises';
export async function tidy() {
  try { console.log('at it'); await sleep(60000, null, { signal }); } finally { await sleep(1); console.log('tidied up ' + context.executionId); }
}
export async function listens() {
  await new Promise((_, fail) => { bobbin.signal.addEventListener('abort', () => fail(bobbin.signal.reason)); console.log('at it'); });
}
export async function deaf() { console.log('at it'); await sleep(60000); }
export const main = () => 'fine';
`})
	for function, kind := range map[string]string{"tidy": "AbortError", "listens": "Cancelled", "deaf": "Cancelled"} {
		ctx, cancel := context.WithCancel(t.Context())
		var err error
		var running sync.WaitGroup
		running.Go(func() {
			_, err = r.Run(ctx, &runner.Call{ID: execution.ID(function), Workflow: "w.mjs", Function: function, Params: json.RawMessage("{}"), Meta: json.RawMessage("{}"), Log: slog.New(slog.NewTextHandler(r.lines, nil))})
		})
		require.Eventually(t, func() bool { return strings.Contains(r.lines.String(), `"at it" execution_id=`+function) }, 20*time.Second, 5*time.Millisecond)
		cancel()
		running.Wait()
		require.Equal(t, kind, execution.AsError(err).Type, function)
		require.Equal(t, `"fine"`, r.gives("w.mjs", "{}"))
	}
	require.Contains(t, r.lines.String(), "tidied up tidy")
}

// Lines have an end: of the text, of the execution, or of what a line may hold; and all of it arrives.
func TestNodePrints(t *testing.T) {
	t.Parallel()
	r := alone(t, map[string]string{"w.mjs": `
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
export async function main() {
  await pipeline(Readable.from(['piped\n', 'twice\n']), process.stdout);
  process.stdout.write('é'.repeat(3 << 20));
  process.stderr.write(Buffer.from('\nhalf '));
  console.error('a line', { of: 1 });
  console.log('\ud800');
  process.stdout.write('no end');
}
`})
	require.Equal(t, "null", r.gives("w.mjs", "{}"))
	require.Equal(t, 3<<20, strings.Count(r.lines.String(), "é"))
	require.Equal(t, "x1", r.whose(`"half a line { of: 1 }"`))
	require.Equal(t, "x1", r.whose("msg=twice"))
	require.Equal(t, "x1", r.whose("no end"))
}
