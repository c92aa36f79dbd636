"""Bobbin's side of the frame protocol inside a Python interpreter (docs/frames.md). CPython 3.9 or later, no packages.

The worker starts `python3 -c <bootstrap>`, which reads this and the files beside it, put together as language.go says, as the
first frame on descriptor 3 and runs them as one. What follows are frames: four bytes of length, big-endian, then that many
bytes of JSON. One execution runs at a time.

A process of this shim plays one of three parts. *resident* runs every execution itself. *mother* (mode fork) imports what is
to be shared and forks slots. A *slot* imports the workflow and forks a child for every execution, which starts clean.
"""
import _signal
import _thread
import builtins
import codecs
import collections
import faulthandler
import fcntl
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import io
import json
import linecache
import logging
import os
import re
import signal
import struct
import sys
import threading
import time
import traceback
import types

PROTOCOL = 1
SHIM = "<bobbin>"
VERSION = "%d.%d.%d" % sys.version_info[:3]
# As they are now, whatever a workflow does to these modules.
_dumps, _loads, _read, _write, _getpid, _exit = json.dumps, json.loads, os.read, os.write, os.getpid, os._exit
_ident, _this_thread, _import = _thread.get_ident, threading.current_thread, builtins.__import__
MAIN = _ident()


class Cancelled(KeyboardInterrupt):
    """Raised in a workflow that was cancelled or timed out. It is no Exception, so that `except Exception` lets it pass."""


def leave(why):
    """The other end broke the protocol, or we would have to. There is nothing to do but to go."""
    _write(2, ("bobbin: " + why + "\n").encode("utf-8", "replace"))
    _exit(70)


# ---- what runs --------------------------------------------------------------------------------------------------------


class Run:
    """One execution, from its run frame to its answer."""

    def __init__(self, frame):
        self.id, self.frame, self.context, self.progress_at = frame["execution_id"], frame, None, 0.0


class State:
    """What this process is doing. Written by the main thread alone."""

    def __init__(self):
        self.pid = _getpid()  # of the process that the wire belongs to
        self.run = None
        self.user = False  # code of a workflow runs in the main thread, and may be interrupted
        self.held = 0  # but not now: the main thread is in the middle of a frame
        self.task = self.loop = None  # of an async function
        self.forks = False  # a process of our own
        self.forget()

    def forget(self):
        self.asked = False  # an interrupt came while it could not be
        self.sent = False  # one is on its way to the task
        self.told = False  # the workflow knows, and cleans up

    def interrupt(self, _signal, _frame):
        """SIGINT: the worker cancels. The first one cancels the task of an async function, or raises where a plain function
        is. Whoever knows has the rest of the grace to clean up; the second one is for a task whose loop is blocked."""
        if self.run is None or self.told:
            return
        if self.task is not None and not self.sent:
            self.sent = True
            self.loop.call_soon_threadsafe(self.tell, self.task)
        else:
            self.asked = True
            self.raise_if_asked()

    def tell(self, task):
        if task is self.task:
            self.told = True
            task.cancel()

    def raise_if_asked(self):
        if self.asked and self.user and not self.held:
            self.asked, self.told = False, True
            raise Cancelled("execution was cancelled")

    def unraisable(self, what):
        """An interrupt that hit a finalizer was lost there: it is raised where the workflow writes next, or by the second."""
        if isinstance(what.exc_value, Cancelled):
            self.asked, self.told = True, False
        else:
            sys.__unraisablehook__(what)


class Holding:
    """Keeps an interrupt from the main thread until a frame is whole. It is raised behind it."""

    def __enter__(self):
        if _ident() == MAIN:
            state.held += 1

    def __exit__(self, *_):
        if _ident() == MAIN:
            state.held -= 1
            state.raise_if_asked()


state = State()
holding = Holding()


def current():
    """The execution that the calling thread works for: the one during which it was started. None where nothing runs."""
    if _ident() == MAIN:
        return state.run
    return getattr(_this_thread(), "_bobbin_run", state.run)


# ---- frames -----------------------------------------------------------------------------------------------------------


class Wire:
    """Frames on a descriptor. Every thread of a workflow may log, and may ask while its execution runs."""

    def __init__(self, fd, limit):
        self.limit, self.buffer = limit, b""
        self.fd = out_of_the_way(fd)
        self.renew()

    def renew(self):
        """The locks, anew: in a forked child those who held them are gone."""
        self.lock, self.writing, self.waiting = _thread.RLock(), False, collections.deque()
        self.asking, self.asker = _thread.allocate_lock(), None

    def send(self, **frame):
        if _getpid() != state.pid:  # a child that the workflow forked: the wire is its parent's
            if frame["type"] == "log":
                _write(2, (frame["message"] + "\n").encode("utf-8", "replace"))
            return
        self.send_raw(_dumps(frame, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode())

    def send_raw(self, body):
        if len(body) > self.limit:
            leave("a frame of %d bytes, expected at most %d" % (len(body), self.limit))
        with holding, self.lock:
            self.waiting.append(struct.pack(">I", len(body)) + body)
            if self.writing:
                return  # a finalizer in the middle of a frame: its own goes behind it
            self.writing = True
            while self.waiting:
                data = self.waiting.popleft()
                while data:
                    data = data[_write(self.fd, data) :]
            self.writing = False

    def ask(self, kind, **question):
        """A question to the worker, and its answer. One at a time, and only while an execution runs to which the asking
        thread belongs: then the answer is the next thing to come, and nobody takes it for something else."""
        if _getpid() != state.pid:
            raise ImportError("published modules cannot be imported in a process that the workflow forked; import them before the fork")
        if self.asker == _ident():
            raise ImportError("published modules cannot be imported by a finalizer")
        with holding, self.asking:
            run = current()
            if run is None or run is not state.run:
                raise ImportError("published modules cannot be imported by a thread whose execution is over")
            self.asker = _ident()
            try:
                self.send(type=kind, **question)
                frame = self.read()
            finally:
                self.asker = None
        if frame["type"] != kind or any(frame.get(name) != value for name, value in question.items()):
            leave("a frame of type %r, expected %r of %r" % (frame["type"], kind, question))
        return frame

    def read(self):
        (size,) = struct.unpack(">I", self.exactly(4))
        if size > self.limit:
            leave("a frame of %d bytes, expected at most %d" % (size, self.limit))
        frame = decode(self.exactly(size))
        if not isinstance(frame, dict) or "type" not in frame:
            leave("a frame that is no object with a type")
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


def out_of_the_way(fd):
    """Moves the wire to a high number: a workflow that closes descriptors it does not own and opens a file gets low ones."""
    for high in (700, 200, 50):
        try:
            moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, high)
        except OSError:
            continue  # above the limit of this process
        os.close(fd)
        return moved
    os.set_inheritable(fd, False)
    return fd


def decode(body):
    """A frame. Params that JSON allows and Python does not take are their execution's problem, not the wire's."""
    try:
        return _loads(body)
    except (ValueError, RecursionError, MemoryError) as e:
        frame = outline(body)
        if frame.get("type") != "run" or "execution_id" not in frame:
            leave("a frame that is not JSON: %s" % e)
        return dict(frame, problem="%s: %s" % (type(e).__name__, e))


TOKEN = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|[{}\[\]]', re.DOTALL)


def outline(body):
    """What a frame has at its top that is a string, whatever else is in it and however deep."""
    found, key, depth = {}, None, 0
    for token in TOKEN.finditer(body):
        if token[1] is None:
            depth += 1 if token[0] in b"{[" else -1
        elif depth == 1 and token[2]:
            key = _loads(token[1])
        elif depth == 1:
            found[key] = _loads(token[1])
    return found


wire = Wire(3, 64 << 20)
