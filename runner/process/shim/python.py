"""Bobbin's side of the frame protocol inside a Python interpreter (docs/frames.md). CPython 3.9 or later, no packages.

The worker starts `python3 -c <bootstrap>`, which reads this file as the first frame on descriptor 3 and runs it. What follows
are frames: four bytes of length, big-endian, then that many bytes of JSON. One execution runs at a time.

A process of this file plays one of three parts. *resident* runs every execution itself. *mother* (mode fork) imports what is
to be shared and forks slots. A *slot* imports the workflow and forks a child for every execution, which starts clean.
"""
import builtins
import faulthandler
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import linecache
import logging
import os
import signal
import struct
import sys
import threading
import time
import traceback
import types

PROTOCOL = 1
# As they are now, whatever a workflow does to these modules.
_dumps, _loads, _read, _write, _getpid, _exit = json.dumps, json.loads, os.read, os.write, os.getpid, os._exit
WIRE = 3  # the descriptor of the frames; never 0, 1 or 2, which belong to the workflow


class ProtocolError(Exception):
    """The other end broke the protocol. There is nothing to do but to leave."""


class Cancelled(KeyboardInterrupt):
    """Raised in a workflow that was cancelled or timed out. It is no Exception, so that `except Exception` lets it pass."""


# ---- frames -----------------------------------------------------------------------------------------------------------


class Wire:
    """Frames on a descriptor. Threads of a workflow may log, so writing takes a lock; only the main thread reads."""

    def __init__(self, fd, limit):
        import _thread

        self.fd, self.limit, self.lock, self.buffer = fd, limit, _thread.RLock(), b""
        self.writing = False

    def send(self, **frame):
        if _getpid() != state.pid:  # a child that the workflow forked: the wire is its parent's
            if frame["type"] == "log":
                _write(2, (frame["message"] + "\n").encode("utf-8", "replace"))
            return
        self.send_raw(_dumps(frame, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode())

    def send_raw(self, body):
        if len(body) > self.limit:
            raise ProtocolError("a frame of %d bytes, expected at most %d" % (len(body), self.limit))
        data = struct.pack(">I", len(body)) + body
        with self.lock:
            self.writing = True
            try:
                while data:
                    data = data[_write(self.fd, data) :]
            finally:
                self.writing = False
        state.raise_if_asked()

    def read(self):
        head = self.exactly(4)
        (size,) = struct.unpack(">I", head)
        if size > self.limit:
            raise ProtocolError("a frame of %d bytes, expected at most %d" % (size, self.limit))
        frame = _loads(self.exactly(size))
        if not isinstance(frame, dict) or "type" not in frame:
            raise ProtocolError("a frame that is no object with a type")
        return frame

    def exactly(self, n):
        if _getpid() != state.pid:
            _exit(0)  # a child that the workflow forked came back here: the execution is its parent's
        while len(self.buffer) < n:
            piece = _read(self.fd, 65536)
            if not piece:
                _exit(0)  # the worker is gone
            self.buffer = self.buffer + piece if self.buffer else piece
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data


# ---- what runs --------------------------------------------------------------------------------------------------------


class State:
    """What this process is doing. Written by the main thread alone."""

    def __init__(self):
        self.pid = _getpid()  # of the process that the wire belongs to
        self.id = ""  # of the execution
        self.user = False  # code of a workflow runs, and may be interrupted
        self.asked = False  # an interrupt came while it could not be
        self.count = 0  # interrupts of this execution
        self.task = self.loop = None  # of an async function
        self.execution = None
        self.progress_at = 0.0

    def raise_if_asked(self):
        if self.asked and self.user:
            self.asked = False
            raise Cancelled("execution was cancelled")

    def interrupt(self, _signal, _frame):
        """SIGINT: the worker cancels. The first one cancels the task of an async function; a second one, or the first of a
        plain function, raises where the code is."""
        if not self.user:
            return
        self.count += 1
        if self.task is not None and self.count == 1:
            self.loop.call_soon_threadsafe(self.task.cancel)
        elif wire.writing:
            self.asked = True
        else:
            raise Cancelled("execution was cancelled")


state = State()
wire = Wire(WIRE, 64 << 20)


# ---- modules that the worker serves -----------------------------------------------------------------------------------

STDLIB = getattr(sys, "stdlib_module_names", None)


def is_stdlib(name):
    """Whether a top-level name belongs to Python itself. Those are never served: a published json.py would break packages."""
    if STDLIB is not None:
        return name in STDLIB or name == "bobbin"
    if name in sys.builtin_module_names or name == "bobbin":
        return True
    spec = importlib.machinery.PathFinder.find_spec(name)  # Python 3.9
    home = os.path.dirname(os.__file__) + os.sep
    return bool(spec and spec.origin and spec.origin.startswith(home) and "-packages" not in spec.origin)


class Modules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds published modules before installed packages, and after the standard library. All of one execution's modules are
    of one generation: when anything that is published for Python changes, all of them are imported afresh."""

    def __init__(self):
        self.generation, self.paths, self.folders = None, frozenset(), frozenset()
        self.sources = {}  # path -> source, of what was loaded

    def turn_to(self, generation):
        if generation == self.generation:
            return
        wire.send(type="index")
        self.paths = frozenset(wire_reply("index")["paths"])
        folders = set()
        for path in self.paths:
            while "/" in path:
                path = path.rpartition("/")[0]
                folders.add(path)
        self.folders = frozenset(folders)
        for name, module in list(sys.modules.items()):
            if getattr(getattr(module, "__spec__", None), "loader", None) is self:
                del sys.modules[name]
        for path in self.sources:
            linecache.cache.pop(path, None)
        self.sources, self.generation = {}, generation

    def locate(self, name):
        """The path of a module, whether it is a package, or None."""
        place = name.replace(".", "/")
        if place + "/__init__.py" in self.paths:
            return place + "/__init__.py", True
        if place + ".py" in self.paths:
            return place + ".py", False
        if place in self.folders:
            return None, True
        return None

    def find_spec(self, name, path=None, target=None):
        if is_stdlib(name.partition(".")[0]):
            return None
        found = self.locate(name)
        return found and self.spec(name, *found)

    def spec(self, name, path, package):
        spec = importlib.machinery.ModuleSpec(name, self, origin=path, is_package=package)
        if package:
            spec.submodule_search_locations = ["bobbin:" + name.replace(".", "/")]
        if path:
            spec.has_location, spec.cached = True, None
        spec.loader_state = path
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        path = module.__spec__.loader_state
        if path is None:
            return  # a folder without __init__.py
        exec(compile(self.source(path), path, "exec", dont_inherit=True), module.__dict__)

    def source(self, path):
        if path not in self.sources:
            wire.send(type="source", path=path)
            self.sources[path] = wire_reply("source")["source"]
        return self.sources[path]

    def get_source(self, name):
        """For tracebacks."""
        module = sys.modules.get(name)
        path = module and module.__spec__.loader_state
        return self.sources.get(path)

    def workflow(self, path):
        """The module at a path, imported. The path may hold what no import statement could name."""
        place = path[:-3]
        if place.endswith("/__init__"):
            place = place[: -len("/__init__")]
        name = place.replace("/", ".")
        if "." in place or is_stdlib(name.partition(".")[0]):
            name = "__workflow__:" + path
        if name in sys.modules:
            return sys.modules[name]
        if not name.startswith("__workflow__:"):
            return importlib.import_module(name)
        module = importlib.util.module_from_spec(self.spec(name, path, False))
        sys.modules[name] = module
        try:
            self.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        return module



def wire_reply(kind):
    """Reads the answer to a question. An interrupt waits until it is here: half a frame read is a connection lost."""
    user, state.user = state.user, False
    try:
        frame = wire.read()
    finally:
        state.user = user
    if frame["type"] != kind:
        raise ProtocolError("a frame of type %r, expected %r" % (frame["type"], kind))
    return frame


modules = Modules()


# ---- what a workflow prints, logs and imports -------------------------------------------------------------------------


class Lines:
    """sys.stdout and sys.stderr: every line becomes a log line of the execution."""

    encoding, errors, closed, newlines, line_buffering = "utf-8", "replace", False, None, True

    def __init__(self, fd, level):
        self.fd, self.level, self.rest = fd, level, ""

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError("write() argument must be str, not " + type(text).__name__)
        self.rest += text
        if "\n" in text:
            *lines, self.rest = self.rest.split("\n")
            for line in lines:
                self.emit(line)
        elif len(self.rest) > 65536:
            self.flush()
        return len(text)

    def emit(self, line):
        wire.send(type="log", execution_id=execution_id(), level=self.level, message=line[:65536])

    def flush(self):
        if self.rest:
            line, self.rest = self.rest, ""
            self.emit(line)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def fileno(self):
        return self.fd

    def isatty(self):
        return False

    def readable(self):
        return False

    def writable(self):
        return True

    def seekable(self):
        return False

    def close(self):
        self.flush()

    @property
    def buffer(self):
        return Bytes(self)


class Bytes:
    """sys.stdout.buffer."""

    def __init__(self, text):
        self.text = text

    def write(self, data):
        self.text.write(bytes(data).decode("utf-8", "replace"))
        return len(data)

    def flush(self):
        self.text.flush()


def execution_id():
    """The execution that a line belongs to: of a thread, the one during which it was started."""
    if threading.get_ident() == MAIN:
        return state.id
    return getattr(threading.current_thread(), "_bobbin_execution", state.id)


def start_thread(thread):
    thread._bobbin_execution = execution_id()
    _start(thread)


MAIN = threading.get_ident()
_start = threading.Thread.start


class LogHandler(logging.Handler):
    def emit(self, record):
        try:
            level = "debug" if record.levelno < 20 else "info" if record.levelno < 30 else "warn" if record.levelno < 40 else "error"
            wire.send(type="log", execution_id=execution_id(), level=level, message=self.format(record)[:65536], logger=record.name)
        except Exception:
            self.handleError(record)


class Context:
    """bobbin.context: what is known of the execution that runs."""

    __slots__ = ("execution_id", "attempt", "workflow", "function", "meta", "deadline", "traceparent")

    def __init__(self, run):
        import datetime

        self.execution_id, self.attempt = run["execution_id"], run["attempt"]
        self.workflow, self.function, self.meta = run["workflow"], run["function"], run["meta"]
        self.traceparent = run.get("traceparent", "")
        self.deadline = None
        if run.get("deadline_ms"):
            self.deadline = datetime.datetime.fromtimestamp(run["deadline_ms"] / 1000, datetime.timezone.utc)

    def remaining(self):
        """Seconds until the timeout; None without one."""
        return self.deadline and self.deadline.timestamp() - time.time()

    def __repr__(self):
        return "<bobbin.context %s attempt %d of %s>" % (self.execution_id, self.attempt, self.workflow)


def progress(n, total=None, note=""):
    """Tells those who watch how far the execution is: an event, at most ten a second, the last one always."""
    now = time.monotonic()
    if now - state.progress_at < 0.1 and n != total:
        return
    state.progress_at = now
    wire.send(type="progress", done=float(n), total=float(total or 0), note=str(note)[:1000])


class BobbinModule(types.ModuleType):
    @property
    def context(self):
        run = state.execution
        if isinstance(run, dict):
            run = state.execution = Context(run)
        return run


def install():
    api = BobbinModule("bobbin", "What Bobbin offers to a workflow: context, progress, log, Cancelled.")
    api.progress, api.log, api.Cancelled = progress, logging.getLogger("workflow"), Cancelled
    api.__spec__ = importlib.machinery.ModuleSpec("bobbin", None)
    sys.modules["bobbin"] = api
    sys.stdout, sys.stderr = Lines(1, "info"), Lines(2, "warn")
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    logging.root.addHandler(LogHandler())
    logging.root.setLevel(logging.INFO)
    sys.meta_path.insert(0, modules)
    while "" in sys.path:
        sys.path.remove("")  # the worker's folder is nobody's library
    builtins.input = no_input
    threading.Thread.start = start_thread
    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)  # bobbin stacks
    signal.signal(signal.SIGINT, state.interrupt)
    for other in ("SIGTERM", "SIGHUP", "SIGTSTP", "SIGUSR1"):
        signal.signal(getattr(signal, other), signal.SIG_IGN)  # the worker's own: it decides
    os.set_inheritable(WIRE, False)


def no_input(prompt=""):
    raise EOFError("a workflow has no input")


# ---- one execution ----------------------------------------------------------------------------------------------------


class Answer(Exception):
    """How an execution ended, where it did not end well."""

    def __init__(self, kind, message, text=""):
        self.frame = {"type": "error", "error_type": kind, "message": message[:65536], "traceback": text[-65536:]}


def load(run):
    """The function that an execution names. Code of its module's top level runs here."""
    modules.turn_to(run["generation"])
    with interruptible():
        module = modules.workflow(run["workflow"])
    function = getattr(module, run["function"], None)
    if run["function"].startswith("_") or not callable(function):
        there = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__ and not n.startswith("_")]
        raise Answer("FunctionNotFound", "module %r has no function %r; it has: %s" % (
            run["workflow"], run["function"], ", ".join(sorted(there)) or "none"))
    try:
        inspect.signature(function).bind(**run["params"])
    except TypeError as e:
        raise Answer("InvalidParams", "params of %r: %s" % (run["workflow"] + ":" + run["function"], e))
    except ValueError:
        pass  # no signature to be had
    return function


class interruptible:
    def __enter__(self):
        state.user = True

    def __exit__(self, *_):
        state.user = False


def call(function, params):
    with interruptible():
        value = function(**params)
        if inspect.iscoroutine(value):
            value = finish(value)
    return value


def finish(coroutine):
    """Runs a coroutine on the loop that this interpreter keeps, and ends what it left running."""
    import asyncio

    loop = state.loop
    if loop is None or loop.is_closed():
        loop = state.loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    state.task = task = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(task)
    finally:
        state.task = None
        left = asyncio.all_tasks(loop)
        if left:
            for other in left:
                other.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        if getattr(loop, "_default_executor", None):  # its threads belong to this execution
            loop.run_until_complete(loop.shutdown_default_executor())
            loop._executor_shutdown_called = False
            loop._default_executor = None
        if getattr(loop, "_asyncgens", None):
            loop.run_until_complete(loop.shutdown_asyncgens())


def encode(value, limit):
    try:
        text = _dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError, UnicodeError) as e:
        raise Answer("InvalidResult", "the result is not JSON: %s" % (str(e) or type(e).__name__))
    if len(text) > limit:
        raise Answer("ResultTooLarge", "result is %d bytes, expected at most %d" % (len(text), limit))
    return text


def run_one(run, limit, function=None):
    """Runs an execution and returns the body of the frame that answers it."""
    begin(run)
    try:
        if function is None:
            function = load(run)
        return b'{"type":"result","execution_id":' + _dumps(run["execution_id"]).encode() + b',"value":' + encode(call(function, run["params"]), limit) + b"}"
    except Answer as a:
        frame = a.frame
    except ProtocolError:
        raise
    except BaseException as e:  # SystemExit and Cancelled as well: an execution ends here, not the interpreter
        frame = failure(e).frame
    finally:
        state.user = False
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Lines):
                stream.flush()
    return _dumps(dict(frame, execution_id=run["execution_id"])).encode()


def begin(run):
    state.id = run["execution_id"]
    if signal.getsignal(signal.SIGINT) != state.interrupt:  # the last workflow took it
        signal.signal(signal.SIGINT, state.interrupt)
    state.execution, state.count, state.asked, state.progress_at = run, 0, False, 0.0


def failure(e):
    """An exception as an answer: its traceback begins where the workflow does."""
    state.user = False
    tb = e.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename in (SHIM, "<frozen importlib._bootstrap>"):
        tb = tb.tb_next
    kept = e.with_traceback(tb)
    try:
        report = traceback.TracebackException(type(kept), kept, tb, limit=-100)
        trim(report)
        text = "".join(report.format())
        message = str(e)
    except Exception as broken:  # a __str__ that raises
        text, message = "", "(%s while describing it)" % type(broken).__name__
    kind = type(e).__qualname__
    if isinstance(e, SystemExit):
        message = "the workflow called sys.exit(%s)" % message
    return Answer(kind, message or kind, text)


def trim(report):
    """Takes the frames of the import machinery out, wherever in the chain of causes."""
    for one in (report, report.__cause__, report.__context__):
        if one is not None:
            one.stack = traceback.StackSummary.from_list(
                [f for f in one.stack if not f.filename.startswith("<frozen importlib") and f.filename != SHIM])


# ---- the three parts --------------------------------------------------------------------------------------------------


def resident(hello):
    while True:
        run = expect(wire.read(), "run")
        answer(run_one(run, hello["result_max_bytes"]))
        state.execution, state.id = None, ""


def answer(body):
    if _getpid() != state.pid:
        _exit(0)  # a child that the workflow forked came back here
    wire.send_raw(body)


def slot(hello):
    """Imports a workflow once, and forks a child for every execution of it."""
    import gc
    import mmap

    answered = mmap.mmap(-1, 1)
    known = set(sys.modules)
    while True:
        run = expect(wire.read(), "run")
        begin(run)
        try:
            function = load(run)
        except Answer as a:
            wire.send(execution_id=state.id, **a.frame)
            continue
        except ProtocolError:
            raise
        except BaseException as e:
            wire.send(execution_id=state.id, **failure(e).frame)
            continue
        if len(sys.modules) != len(known):
            fresh, known = set(sys.modules) - known, set(sys.modules)
            names = [n for n in fresh if n in sys.modules and getattr(getattr(sys.modules[n], "__spec__", None), "loader", None) is not modules and ":" not in n]
            if names:
                wire.send(type="imported", modules=names)
            gc.collect()
            gc.freeze()
        answered[0] = 0
        pid = os.fork()
        if pid == 0:
            state.pid = _getpid()
            die_with_parent()
            answer(run_one(run, hello["result_max_bytes"], function))
            answered[0] = 1
            _exit(0)
        _, status = os.waitpid(pid, 0)
        if not answered[0]:
            wire.send(type="died", execution_id=state.id, signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
                      code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0)


def mother(hello):
    """Imports what slots share, and forks them. Each gets a wire and an output of its own, passed with its spawn frame."""
    import gc
    import select
    import socket

    control = socket.socket(fileno=os.dup(WIRE))
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.freeze()
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            try:
                os.read(woken, 4096)
            except BlockingIOError:
                pass
            bury()
        if control not in ready:
            continue
        head, fds, _, _ = socket.recv_fds(control, 4, 2)
        head += receive(control, 4 - len(head)) if head else b""
        if not head:
            os._exit(0)
        frame = json.loads(receive(control, struct.unpack(">I", head)[0]))
        if frame["type"] == "preload":
            for name in frame["modules"]:
                if name not in sys.modules:
                    quietly_import(name)
            gc.collect()
            gc.freeze()
        elif frame["type"] == "spawn":
            pid = os.fork()
            if pid == 0:
                state.pid = _getpid()
                os.setpgid(0, 0)
                die_with_parent()
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                os.close(woken), os.close(wakes)
                become(fds)
                wire.send(type="ready", protocol=PROTOCOL, pid=os.getpid(), language="python", version=VERSION)
                slot(hello)
            for fd in fds:
                os.close(fd)
            wire.send(type="spawned", pid=pid)
        else:
            raise ProtocolError("a frame of type %r" % frame["type"])


def receive(control, n):
    """Reads n bytes and not one more: what follows may carry descriptors, which a plain read would lose."""
    data = b""
    while len(data) < n:
        piece = control.recv(n - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data


def become(fds):
    """Takes the descriptors of a new slot: the wire, and where output goes."""
    os.dup2(fds[0], WIRE, inheritable=False)
    os.dup2(fds[1], 1)
    os.dup2(fds[1], 2)
    for fd in fds:
        if fd > WIRE:
            os.close(fd)


def bury():
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        wire.send(type="exited", pid=pid, signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
                  code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0)


def quietly_import(name):
    try:
        importlib.import_module(name)
    except Exception:
        pass  # the workflow that wants it will say


def die_with_parent():
    """Asks Linux for SIGKILL when the parent dies; elsewhere a thread looks after it."""
    parent = os.getppid()
    if PRCTL is not None:
        PRCTL(1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)
        return
    import threading

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def load_prctl():
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        return ctypes.CDLL(None, use_errno=True).prctl
    except Exception:
        return None


def expect(frame, kind):
    if frame["type"] != kind:
        raise ProtocolError("a frame of type %r, expected %r" % (frame["type"], kind))
    return frame


SHIM = "<bobbin>"
VERSION = "%d.%d.%d" % sys.version_info[:3]
PRCTL = None


def preload(hello):
    """Imports the warm-up modules: installed ones, or published ones."""
    names = [n.strip() for n in hello.get("preload", "").split(",") if n.strip()]
    if not names:
        return
    modules.turn_to(hello["generation"])
    for name in names:
        try:
            modules.workflow(name) if name.endswith(".py") else importlib.import_module(name)
        except Exception as e:
            wire.send(type="log", level="error", message="preload of %s: %s: %s" % (name, type(e).__name__, e))


def main():
    global PRCTL
    hello = expect(wire.read(), "hello")
    if hello["protocol"] != PROTOCOL:
        raise ProtocolError("protocol %r, expected %d" % (hello["protocol"], PROTOCOL))
    wire.limit = hello["frame_max_bytes"]
    install()
    fork = hello["mode"] == "fork"
    if fork:
        PRCTL = load_prctl()
    preload(hello)
    wire.send(type="ready", protocol=PROTOCOL, pid=os.getpid(), language="python", version=VERSION)
    mother(hello) if fork else resident(hello)


try:
    main()
except (BrokenPipeError, ConnectionResetError):
    os._exit(0)
except ProtocolError as e:
    os.write(2, ("bobbin: " + str(e) + "\n").encode())
    os._exit(70)
