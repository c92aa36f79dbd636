// Bobbin's side of the frame protocol inside Node.js (docs/frames.md). Node.js 20 or later, no packages. The worker starts
// `node --experimental-vm-modules --no-warnings --input-type=module -e <bootstrap>`, which runs this file with the socket.
// One execution runs at a time. A function that was cancelled is told through bobbin.signal; JavaScript cannot be stopped from
// within, so the worker kills what does not listen.
import { createRequire } from "node:module";
import { Console } from "node:console";
import { Writable } from "node:stream";
import path from "node:path";
import vm from "node:vm";

const PROTOCOL = 1;

export async function main(socket) {
  // ---- frames
  let buffered = Buffer.alloc(0), wants = null, limit = 64 << 20;
  const frames = [];
  socket.on("data", (piece) => {
    buffered = buffered.length ? Buffer.concat([buffered, piece]) : piece;
    while (buffered.length >= 4) {
      const size = buffered.readUInt32BE(0);
      if (size > limit) return leave(`a frame of ${size} bytes, expected at most ${limit}`);
      if (buffered.length < 4 + size) break;
      let frame;
      try { frame = JSON.parse(buffered.subarray(4, 4 + size).toString()); } catch (e) { return leave(`a frame that is not JSON: ${e.message}`); }
      if (frame === null || typeof frame !== "object" || !frame.type) return leave("a frame that is no object with a type");
      buffered = buffered.subarray(4 + size);
      if (wants) { const give = wants; wants = null; give(frame); } else frames.push(frame);
    }
  });
  socket.resume(); // the bootstrap paused it
  socket.on("close", () => process.exit(0)); // the worker is gone
  socket.on("error", () => process.exit(0));
  const read = () => frames.length ? Promise.resolve(frames.shift()) : new Promise((give) => { wants = give; });
  const send = (frame) => sendRaw(JSON.stringify(frame));
  const sendRaw = (text) => {
    const body = Buffer.from(text);
    const head = Buffer.alloc(4);
    head.writeUInt32BE(body.length);
    socket.write(Buffer.concat([head, body]));
  };
  const leave = (why) => { process.stderr.write(`bobbin: ${why}\n`); process.exit(70); };
  const answer = async (kind) => {
    const frame = await read();
    if (frame.type !== kind) leave(`a frame of type ${frame.type}, expected ${kind}`);
    return frame;
  };

  // ---- questions to the worker, one after another
  let turn = Promise.resolve();
  const ask = (question, kind) => {
    const reply = turn.then(() => { send(question); return answer(kind); });
    turn = reply.catch(() => {});
    return reply;
  };

  // ---- modules that the worker serves; all of one execution's are of one generation
  let generation = null, paths = new Set(), loaded = new Map();
  const require = createRequire(process.cwd() + "/");
  const turnTo = async (wanted) => {
    if (wanted === generation) return;
    paths = new Set((await ask({ type: "index" }, "index")).paths);
    loaded = new Map();
    generation = wanted;
  };
  class NotPublished extends Error { name = "ModuleNotFound"; }
  const resolve = (from, specifier) => {
    if (!/^(\.\.?\/|\/\/?)/.test(specifier)) return paths.has(specifier) ? specifier : null;
    const target = specifier.startsWith("/") ? path.posix.normalize(specifier.replace(/^\/+/, "")) : path.posix.join(path.posix.dirname(from), specifier);
    if (!paths.has(target)) throw new NotPublished(`module ${JSON.stringify(target)}, imported by ${from}, is not published`);
    return target;
  };
  // A module is created once, whoever asks first; linking and evaluating follow, so that circles close.
  const create = (target) => {
    let module = loaded.get(target);
    if (!module) {
      module = (async () => {
        const { source } = await ask({ type: "source", path: target }, "source");
        return new vm.SourceTextModule(source, {
          identifier: target,
          initializeImportMeta: (meta) => { meta.url = "bobbin:" + target; },
          importModuleDynamically: async (specifier, from) => ready(await link(specifier, from)),
        });
      })();
      loaded.set(target, module);
    }
    return module;
  };
  const foreign = async (specifier) => {
    let module = loaded.get("\0" + specifier);
    if (!module) {
      let exports;
      if (specifier === "bobbin") exports = api;
      else if (specifier.startsWith("node:")) exports = await import(specifier);
      else {
        try { exports = await import("file://" + require.resolve(specifier)); } catch (e) {
          if (require("node:module").isBuiltin(specifier)) exports = await import("node:" + specifier);
          else if (e.code === "MODULE_NOT_FOUND") throw new NotPublished(`module ${JSON.stringify(specifier)} is neither published nor installed`);
          else throw e;
        }
      }
      const names = [...new Set([...Object.keys(exports), "default"])];
      module = new vm.SyntheticModule(names, function () {
        for (const name of names) this.setExport(name, name === "default" && !("default" in exports) ? exports : exports[name]);
      }, { identifier: specifier });
      loaded.set("\0" + specifier, module);
    }
    return module;
  };
  const link = async (specifier, from) => {
    const target = resolve(from.identifier, specifier);
    return target === null ? foreign(specifier) : create(target);
  };
  const ready = async (module) => {
    if (module.status === "unlinked") await module.link(link);
    if (module.status !== "evaluated" && module.status !== "evaluating") await module.evaluate();
    if (module.status === "errored") throw module.error;
    return module;
  };

  // ---- what a workflow prints and imports
  const lines = (level) => {
    let rest = "";
    return new Writable({
      decodeStrings: false,
      write(text, _encoding, done) {
        const all = (rest + text).split("\n");
        rest = all.pop();
        for (const line of all) send({ type: "log", level, message: line.slice(0, 65536) });
        done();
      },
    });
  };
  globalThis.console = new Console({ stdout: lines("info"), stderr: lines("warn") });
  let running = null, stop = null, progressAt = 0;
  const say = (level) => (...words) => send({ type: "log", level, message: words.map(String).join(" ").slice(0, 65536) });
  const api = {
    get context() { return running; },
    get signal() { return stop.signal; },
    log: { debug: say("debug"), info: say("info"), warn: say("warn"), error: say("error") },
    progress(n, total = 0, note = "") {
      if (Date.now() - progressAt < 100 && n !== total) return;
      progressAt = Date.now();
      send({ type: "progress", done: Number(n), total: Number(total), note: String(note).slice(0, 1000) });
    },
  };
  api.default = api;

  // ---- one execution
  class Answer extends Error {
    constructor(type, message) { super(message); this.answer = type; }
  }
  const own = (stack) => stack.split("\n").filter((l) => !/\(?data:text|node:internal|node:vm|evalmachine|\[eval1\]/.test(l)).join("\n");
  const describe = (e) => {
    if (e instanceof Answer) return { type: "error", error_type: e.answer, message: e.message.slice(0, 65536), traceback: "" };
    const known = e !== null && typeof e === "object";
    const trace = own(known && typeof e.stack === "string" ? e.stack : String(e));
    return { type: "error", error_type: String((known && (e.name || e.constructor?.name)) || "Error").slice(0, 200), message: String(known ? e.message ?? e : e).slice(0, 65536), traceback: trace.slice(0, 65536) };
  };
  const encode = (value, most) => {
    let text;
    try {
      text = JSON.stringify(value === undefined ? null : value, (_key, v) => {
        if (typeof v === "number" && !Number.isFinite(v)) throw new TypeError(`${v} is not JSON`);
        if (typeof v === "function" || typeof v === "symbol") throw new TypeError(`a ${typeof v} is not JSON`);
        return v;
      });
    } catch (e) { throw new Answer("InvalidResult", `the result is not JSON: ${e.message}`); }
    const size = Buffer.byteLength(text);
    if (size > most) throw new Answer("ResultTooLarge", `result is ${size} bytes, expected at most ${most}`);
    return text;
  };
  const runOne = async (run, most) => {
    progressAt = 0;
    stop = new AbortController();
    running = Object.freeze({ executionId: run.execution_id, attempt: run.attempt, workflow: run.workflow, function: run.function, meta: run.meta, traceparent: run.traceparent, deadline: run.deadline_ms ? new Date(run.deadline_ms) : null });
    const cancelled = new Promise((_, fail) => stop.signal.addEventListener("abort", () => fail(stop.signal.reason)));
    cancelled.catch(() => {});
    const work = async () => {
      await turnTo(run.generation);
      const module = await ready(await create(run.workflow));
      const fn = module.namespace[run.function];
      if (typeof fn !== "function") {
        const there = Object.keys(module.namespace).filter((n) => typeof module.namespace[n] === "function").sort();
        throw new Answer("FunctionNotFound", `module "${run.workflow}" has no function "${run.function}"; it exports: ${there.join(", ") || "none"}`);
      }
      return encode(await fn(run.params), most);
    };
    try { return `{"type":"result","execution_id":${JSON.stringify(run.execution_id)},"value":${await Promise.race([work(), cancelled])}}`; } catch (e) { return JSON.stringify({ ...describe(e), execution_id: run.execution_id }); }
  };
  process.on("SIGINT", () => { if (running) stop.abort(Object.assign(new Error("execution was cancelled"), { name: "Cancelled" })); });
  for (const other of ["SIGTERM", "SIGHUP"]) process.on(other, () => {});
  process.on("unhandledRejection", (e) => say("error")("unhandled rejection: " + own(String(e?.stack ?? e))));

  const hello = await answer("hello");
  if (hello.protocol !== PROTOCOL) leave(`protocol ${hello.protocol}, expected ${PROTOCOL}`);
  limit = hello.frame_max_bytes;
  send({ type: "ready", protocol: PROTOCOL, pid: process.pid, language: "node", version: process.versions.node });
  for (;;) {
    const run = await answer("run");
    const body = await runOne(run, hello.result_max_bytes);
    await new Promise((done) => setImmediate(done)); // what it left to be said belongs to it
    sendRaw(body);
    running = null;
  }
}
