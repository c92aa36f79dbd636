// Bobbin's side of the frame protocol inside Node.js (docs/frames.md). Node.js 20 or later, no packages. The worker starts
// `node --experimental-vm-modules --no-warnings -e <bootstrap>`, which runs this file.
//
// One execution runs at a time. Frames are read and written synchronously: between two executions nothing runs, what a workflow
// says is out before it goes on, and a question to the worker is a call. What an execution leaves behind (a timer, a socket) runs
// on while others do; AsyncLocalStorage knows whose it is. A function that was cancelled is told through bobbin.signal; JavaScript
// cannot be stopped from within, so the worker kills what does not listen.
import { AsyncLocalStorage } from "node:async_hooks";
import { getEventListeners } from "node:events";
import fs from "node:fs";
import path from "node:path";
import { Writable } from "node:stream";
import timers from "node:timers";
import { format, inspect } from "node:util";
import vm from "node:vm";

const PROTOCOL = 1, WIRE = 3, LINE = 65536;

// A workflow may replace what it likes of JavaScript's own, and its interpreter lives on. What an answer passes through is taken
// here, before any workflow runs; frames are put together from text, where no toJSON of a workflow's has a say.
const { parse, stringify } = JSON;
const { from: bytesOf, byteLength } = Buffer;
const { writeSync } = fs;
const { join, normalize, dirname } = path.posix;
const { exit, setUncaughtExceptionCaptureCallback: capture } = process;
const { apply, ownKeys, getOwnPropertyDescriptor, defineProperty, deleteProperty } = Reflect;
const { AbortController, Number, Promise, String } = globalThis;
const { isFinite } = Number;
const { setImmediate, setTimeout } = timers;
const method = (f) => Function.prototype.call.bind(f);
const slice = method("".slice), indexOf = method("".indexOf), includes = method([].includes), utf8 = method(Buffer.prototype.utf8Slice);
const quote = (text) => stringify(slice(`${text}`, 0, LINE));

// keeper returns a function that gives a thing back what these names have now; of all names, what was added goes.
const keeper = (thing, names) => {
  const keys = names ?? ownKeys(thing), had = { __proto__: null };
  for (const key of keys) had[key] = { value: thing[key], as: { __proto__: null, ...getOwnPropertyDescriptor(thing, key) } };
  return () => {
    const now = names ?? ownKeys(thing);
    for (let i = 0; i < now.length; i++) if (!(now[i] in had)) deleteProperty(thing, now[i]);
    for (let i = 0; i < keys.length; i++) if (thing[keys[i]] !== had[keys[i]].value) defineProperty(thing, keys[i], had[keys[i]].as);
  };
};

// Answer is an error whose name says it all: it needs no traceback.
class Answer extends Error {
  constructor(name, message) { super(message); this.name = name; }
}

// main serves executions until the worker is gone. receive(n) reads n bytes of the wire, load imports an installed package.
export async function main(receive, load) {
  // ---- frames
  let limit = 64 << 20;
  const leave = (why) => { writeSync(2, `bobbin: ${why}\n`); exit(70); };
  const send = (body) => {
    const bytes = bytesOf("size" + body), size = bytes.length - 4;
    bytes[0] = size >>> 24; bytes[1] = size >>> 16; bytes[2] = size >>> 8; bytes[3] = size;
    try {
      for (let at = 0; at < bytes.length;) at += writeSync(WIRE, bytes, at, bytes.length - at);
    } catch (e) { e.code === "EPIPE" ? exit(0) : leave(e.message); } // the worker is gone, or its wire was closed
  };
  const expect = (kind) => {
    let frame;
    try {
      const head = receive(4), size = head[0] * 2 ** 24 + (head[1] << 16) + (head[2] << 8) + head[3];
      if (size > limit) throw new Error(`a frame of ${size} bytes, expected at most ${limit}`);
      frame = parse(utf8(receive(size), 0, size));
      if (frame?.type !== kind) throw new Error(`a frame of type ${frame?.type}, expected ${kind}`);
    } catch (e) { leave(e.message); }
    return frame;
  };

  // ---- whose is what runs
  const owners = new AsyncLocalStorage();
  const owner = owners.getStore.bind(owners);
  let running = null; // the execution that runs, or ran last
  const here = () => owner() ?? running;
  const say = (it, level, message) => send(`{"type":"log","execution_id":${it.id},"level":"${level}","message":${quote(message)}}`);

  // ---- what a workflow prints
  const flush = (it, level) => {
    if (it.rest[level]) say(it, level, it.rest[level]);
    it.rest[level] = "";
  };
  const print = (it, level, piece) => {
    const text = it.rest[level] + piece;
    let at = 0;
    for (let end; (end = indexOf(text, "\n", at)) >= 0; at = end + 1) say(it, level, slice(text, at, end));
    for (; text.length - at > LINE; at += LINE) say(it, level, slice(text, at, at + LINE));
    it.rest[level] = slice(text, at);
    if (it.over) flush(it, level);
  };
  const stream = (level, fd) => {
    const write = (text, _encoding, done) => { print(here(), level, text); done(); };
    const one = new Writable({ decodeStrings: false, emitClose: false, write });
    const end = (last, ...more) => { // the next execution writes to it
      if (typeof last !== "function" && last != null) one.write(last);
      setImmediate(() => { one.emit("finish"); [last, ...more].find((f) => typeof f === "function")?.(); });
      return one;
    };
    return Object.assign(one, { fd, end, destroy: () => one, write: one.write });
  };
  for (const [name, level, fd] of [["stdout", "info", 1], ["stderr", "warn", 2]]) {
    const one = stream(level, fd);
    defineProperty(process, name, { get: () => one, configurable: true, enumerable: true });
  }

  // ---- import bobbin from "bobbin"
  const log = {};
  for (const level of ["debug", "info", "warn", "error"]) log[level] = (...words) => say(here(), level, apply(format, null, words));
  const api = Object.freeze({
    get context() { return here().context; },
    get signal() { return here().stop.signal; },
    log: Object.freeze(log),
    progress(n, total = 0, note = "") {
      const it = here(), now = Date.now();
      if (it.over || (now - it.progressAt < 100 && n !== total)) return;
      it.progressAt = now;
      send(`{"type":"progress","done":${stringify(Number(n))},"total":${stringify(Number(total))},"note":${quote(slice(`${note}`, 0, 1000))}}`);
    },
  });
  const bobbin = new vm.SyntheticModule(["default", ...Object.keys(api)], function () {
    for (const name of ["log", "progress"]) this.setExport(name, api[name]);
    this.setExport("default", api);
  }, { identifier: "bobbin" });
  await bobbin.link(() => {});
  await bobbin.evaluate();

  // ---- modules that the worker serves; all of one execution's are of one generation
  let generation = null, paths, loaded, linking = null;
  const installed = { __proto__: null, bobbin };
  const turnTo = (wanted) => {
    if (wanted === generation) return;
    send('{"type":"index"}');
    const list = expect("index").paths;
    paths = { __proto__: null };
    for (let i = 0; i < list.length; i++) paths[list[i]] = true;
    loaded = { __proto__: null };
    generation = wanted;
  };
  const published = (target, from) => {
    if (!(target in paths)) throw new Answer("ModuleNotFound", `module ${quote(target)}, imported by ${from}, is not published`);
    if (target in loaded) return loaded[target];
    send(`{"type":"source","path":${quote(target)}}`);
    const { source } = expect("source");
    try {
      return loaded[target] = new vm.SourceTextModule(source, {
        identifier: target,
        initializeImportMeta: (meta) => { meta.url = "bobbin:" + target; },
        importModuleDynamically: async (specifier, { identifier }) => ready(await find(specifier, identifier)),
      });
    } catch (e) { throw new Answer(e.name, `${target}: ${e.message}`); } // a SyntaxError that does not say where
  };
  const foreign = async (name) => {
    if (name in installed) return installed[name];
    let exports;
    try { exports = await load(name); } catch (e) {
      if (e?.code !== "ERR_MODULE_NOT_FOUND" || !/ imported from .*\[bobbin\]$/.test(e.message)) throw e;
      throw new Answer("ModuleNotFound", `module ${quote(name)} is neither published nor installed`);
    }
    const names = Object.keys(exports);
    if (!("default" in exports)) names.push("default");
    return installed[name] ??= new vm.SyntheticModule(names, function () {
      for (const one of names) this.setExport(one, one in exports ? exports[one] : exports);
    }, { identifier: name });
  };
  const find = (specifier, from) => {
    if (specifier[0] === "/") return published(normalize(specifier.replace(/^\/+/, "")), from);
    if (/^\.\.?\//.test(specifier)) return published(join(dirname(from), specifier), from);
    return specifier in paths ? published(specifier, from) : foreign(specifier);
  };
  // gather finds all that a module will have imported, so that linking it waits for nothing and cannot fail half-way.
  const gather = async (module, graph) => {
    if (module.identifier in graph || module.status !== "unlinked") return;
    graph[module.identifier] = module;
    const imports = module.imports ??= { __proto__: null };
    for (const specifier of module.dependencySpecifiers ?? []) {
      imports[specifier] = await find(specifier, module.identifier);
      await gather(imports[specifier], graph);
    }
  };
  // Links are made one after another: two of them could meet in a module that is half linked.
  const link = async (module) => {
    while (linking) await linking;
    if (module.status !== "unlinked") return;
    let done;
    linking = new Promise((give) => { done = give; });
    try { await module.link((specifier, from) => from.imports[specifier]); } finally {
      linking = null;
      done();
    }
  };
  // ready links and evaluates a module. What fails is forgotten, so that it is tried anew.
  const ready = async (module) => {
    const graph = { __proto__: null };
    try {
      await gather(module, graph);
      await link(module);
      await module.evaluate();
    } catch (e) {
      for (const name in graph) if (graph[name].status === "unlinked" && loaded[name] === graph[name]) delete loaded[name];
      for (const name in loaded) if (loaded[name].status === "errored") delete loaded[name];
      throw e;
    }
    return module;
  };

  // ---- how an execution ends
  const own = (stack) => stack.split("\n").filter((line) => !/bobbin:shim|node:(internal|vm|async_hooks)|\[eval\]|\[bobbin\]/.test(line)).join("\n");
  const describe = (e) => {
    const told = { type: "Error", message: "(an error that cannot be described)", trace: "" };
    try { // a getter, a toString or a Proxy of the workflow's may throw in here
      const known = e !== null && typeof e === "object";
      told.message = `${known ? e.message ?? inspect(e) : String(e)}`;
      if (known) told.type = slice(`${e.name || e.constructor?.name || "Error"}`, 0, 200);
      if (e instanceof Answer) return told;
      for (let one = e, n = 0; one && n < 5; one = one.cause, n++) {
        told.trace += (n ? "\ncaused by: " : "") + own(typeof one.stack === "string" ? one.stack : String(one));
      }
    } catch {}
    return told;
  };
  const failure = (it, e) => {
    const { type, message, trace } = describe(e);
    return `{"type":"error","execution_id":${it.id},"error_type":${quote(type)},"message":${quote(message)},"traceback":${quote(trace)}}`;
  };
  const encode = (value, most) => {
    let text;
    try {
      text = stringify(value === undefined ? null : value, (_key, v) => {
        if (typeof v === "number" && !isFinite(v)) throw new TypeError(`${v} is not JSON`);
        if (typeof v === "function" || typeof v === "symbol") throw new TypeError(`a ${typeof v} is not JSON`);
        return v;
      });
    } catch (e) { throw new Answer("InvalidResult", `the result is not JSON: ${describe(e).message}`); }
    if (text === undefined) throw new Answer("InvalidResult", "the result is not JSON: its toJSON returns undefined");
    const size = byteLength(text);
    if (size > most) throw new Answer("ResultTooLarge", `result is ${size} bytes, expected at most ${most}`);
    return text;
  };
  const end = (it, body) => {
    if (it !== running || it.body) return; // it has ended
    it.body = body;
    setImmediate(finish); // what it left to be said belongs to it
  };
  const fail = (it, e) => end(it, failure(it, e));
  const finish = () => {
    flush(running, "info");
    flush(running, "warn");
    send(running.body);
    running.over = true;
    running.body = "sent"; // what an execution left behind may keep it for long, but not its result
    next();
  };

  // ---- one execution
  const begin = (run) => ({
    id: stringify(run.execution_id), body: "", over: false, rest: { info: "", warn: "" }, progressAt: 0, stop: new AbortController(),
    context: Object.freeze({ executionId: run.execution_id, attempt: run.attempt, workflow: run.workflow, function: run.function, meta: run.meta, traceparent: run.traceparent, deadline: run.deadline_ms ? new Date(run.deadline_ms) : null }),
  });
  const next = () => {
    const run = expect("run");
    turnTo(run.generation);
    running = begin(run);
    setImmediate(() => start(run)); // what others left behind looks after its sockets first
  };
  const start = (run) => {
    try {
      restore();
      bobbin.setExport("context", running.context);
      bobbin.setExport("signal", running.stop.signal);
      owners.run(running, work, running, run);
    } catch (e) { leave(describe(e).message); } // better another interpreter than one that fails them all
  };
  const work = async (it, run) => {
    try {
      const { namespace } = await ready(published(run.workflow, "the worker"));
      const fn = namespace[run.function];
      if (typeof fn !== "function") {
        const there = Object.keys(namespace).filter((name) => typeof namespace[name] === "function").sort();
        throw new Answer("FunctionNotFound", `module "${run.workflow}" has no function "${run.function}"; it exports: ${there.join(", ") || "none"}`);
      }
      end(it, `{"type":"result","execution_id":${it.id},"value":${encode(await fn(run.params), hello.result_max_bytes)}}`);
    } catch (e) { fail(it, e); }
  };

  // ---- what must not leak from one execution into the next
  const stray = (what, e) => {
    const { trace, message } = describe(e);
    say(here(), "error", `${what}: ${trace || message}`);
  };
  // Before listeners of a workflow's, which may want to end the process for it.
  const uncaught = (e) => owner() === running && !running.body ? fail(running, e) : stray("uncaught exception", e);
  const listens = ({ stop: { signal } }) => !signal.aborted && getEventListeners(signal, "abort").length > 0;
  const listeners = {
    SIGINT() { // told once, an execution that listens may tidy up; told twice, it had its time
      if (!running || running.over) return;
      const wait = listens(running), why = new Answer("Cancelled", "execution was cancelled");
      running.stop.abort(why);
      if (!wait) fail(running, why);
    },
    beforeExit() { // nothing is left that could wake it: it fails at once, or hears that it is cancelled
      if (listens(running)) setTimeout(() => {}, 1000);
      else fail(running, new Answer("NeverSettled", "the function waits for what nothing is left to settle: no timer, no connection, no program"));
    },
    SIGTERM() {}, // the worker's own: it decides
    SIGHUP() {},
    unhandledRejection(e) { stray("unhandled rejection", e); },
  };
  process.exit = (code = process.exitCode ?? 0) => {
    const e = new Answer("SystemExit", `the workflow called process.exit(${code})`);
    if (owner() === running) fail(running, e);
    throw e;
  };
  process.execArgv = []; // for the programs and threads that a workflow starts
  const keepers = [keeper(Object.prototype), keeper(globalThis, ["JSON", "console"]), keeper(JSON), keeper(console), keeper(process, ["exit"]), keeper(process.stdout, ["write"]), keeper(process.stderr, ["write"])];
  const restore = () => {
    capture(null);
    capture(uncaught);
    for (let i = 0; i < keepers.length; i++) keepers[i]();
    for (const name in listeners) if (!includes(process.listeners(name), listeners[name])) process.on(name, listeners[name]);
  };

  const hello = expect("hello");
  if (hello.protocol !== PROTOCOL) leave(`protocol ${hello.protocol}, expected ${PROTOCOL}`);
  limit = hello.frame_max_bytes;
  send(`{"type":"ready","protocol":${PROTOCOL},"pid":${process.pid},"language":"node","version":${quote(process.versions.node)}}`);
  next();
}
//# sourceURL=bobbin:shim
