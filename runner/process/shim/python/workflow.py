# ---- what a workflow prints, logs and imports -------------------------------------------------------------------------

MAX_MESSAGE = 65536  # characters of one log line; a longer one becomes several


def say(run, level, message, **more):
    name = run.id if run else ""
    for at in range(0, max(len(message), 1), MAX_MESSAGE):
        wire.send(type="log", execution_id=name, level=level, message=message[at : at + MAX_MESSAGE], **more)


class Lines(io.TextIOBase):
    """sys.stdout and sys.stderr: every line becomes a log line of the execution. Each thread has a line of its own."""

    encoding, errors, closed, newlines, line_buffering, mode = "utf-8", "replace", False, None, True, "w"

    def __init__(self, fd, level, name):
        self.fd, self.level, self.name = fd, level, name
        self.rests = {}  # thread -> the execution and what there is of its line
        self.buffer = Bytes(self)

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError("write() argument must be str, not " + type(text).__name__)
        run, rest = self.rests.pop(_ident(), None) or (current(), "")
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            say(run, self.level, line)
            run = current()
        whole = len(rest) // MAX_MESSAGE * MAX_MESSAGE
        if whole:
            say(run, self.level, rest[:whole])
        if len(rest) > whole:
            self.rests[_ident()] = run, rest[whole:]
        return len(text)

    def flush(self):
        self.emit(_ident())

    def flush_all(self):
        """At the end of an execution: lines that nobody ended."""
        self.buffer.decoder = None
        for thread in list(self.rests) if self.rests else ():
            self.emit(thread)

    def emit(self, thread):
        run, rest = self.rests.pop(thread, None) or (None, "")
        if rest:
            say(run, self.level, rest)

    def fileno(self):
        return self.fd

    def writable(self):
        return True

    def reconfigure(self, **_):
        self.flush()

    def close(self):
        self.flush()


class Bytes(io.BufferedIOBase):
    """sys.stdout.buffer. A character may come in two pieces."""

    closed, mode = False, "wb"

    def __init__(self, text):
        self.text, self.raw, self.decoder = text, Raw(text), None

    @property
    def name(self):
        return self.text.name

    def write(self, data):
        data = bytes(data)
        if self.decoder is None:
            self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text.write(self.decoder.decode(data))
        return len(data)

    def flush(self):
        self.text.flush()

    def fileno(self):
        return self.text.fd

    def writable(self):
        return True

    def close(self):
        self.flush()


class Raw(io.RawIOBase):
    """sys.stdout.buffer.raw."""

    closed, mode = False, "wb"

    def __init__(self, text):
        self.text = text

    def write(self, data):
        return self.text.buffer.write(data)

    def fileno(self):
        return self.text.fd

    def writable(self):
        return True

    def close(self):
        self.text.flush()


class LogHandler(logging.Handler):
    def emit(self, record):
        try:
            level = "debug" if record.levelno < 20 else "info" if record.levelno < 30 else "warn" if record.levelno < 40 else "error"
            say(current(), level, self.format(record), logger=record.name)
        except Exception:
            self.handleError(record)


def basic_config(**options):
    """logging.basicConfig does nothing where the root logger has a handler, which it has here. Its level still counts; a
    workflow that asks for a file or handlers of its own has them."""
    if options.get("filename") or options.get("handlers"):
        return _basic_config(**options)
    if options.get("level") is not None:
        logging.root.setLevel(options["level"])


_basic_config = logging.basicConfig


class Context:
    """What is known of one execution."""

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


class Here:
    """bobbin.context: the context of the execution that asks, each time it is asked. A module may keep it for ever."""

    __slots__ = ()

    def __getattr__(self, name):
        return getattr(here(), name)

    def __dir__(self):
        return [name for name in dir(Context) if not name.startswith("_")]

    def __repr__(self):
        run = current()
        return repr(here()) if run and run.id else "<bobbin.context, no execution runs>"


def here():
    run = current()
    if run is None or not run.id:
        raise AttributeError("no execution runs, which bobbin.context would tell of")
    if run.context is None:
        run.context = Context(run.frame)
    return run.context


def progress(n, total=None, note=""):
    """Tells those who watch how far the execution is: an event, at most ten a second, the last one always."""
    run, now = current(), time.monotonic()
    if run is None or not run.id or now - run.progress_at < 0.1 and n != total:
        return
    run.progress_at = now
    wire.send(type="progress", execution_id=run.id, done=float(n), total=float(total or 0), note=str(note)[:1000])


def start_thread(thread):
    thread._bobbin_run = current()
    _start(thread)


_start = threading.Thread.start


def submit(pool, function, /, *args, **kwargs):
    """ThreadPoolExecutor.submit: what a pool does, it does for the execution that asked, whoever's thread it is."""
    return _submit(pool, on_behalf, current(), function, *args, **kwargs)


_submit = None


def on_behalf(run, function, /, *args, **kwargs):
    thread = _this_thread()
    before, thread._bobbin_run = getattr(thread, "_bobbin_run", None), run
    try:
        return function(*args, **kwargs)
    finally:
        thread._bobbin_run = before


def watch_pools():
    """Once concurrent.futures is imported: threads of a pool in a module's global outlive the execution that started them."""
    global _submit
    pools = sys.modules.get("concurrent.futures.thread")
    if _submit is None and hasattr(pools, "ThreadPoolExecutor"):
        _submit, pools.ThreadPoolExecutor.submit = pools.ThreadPoolExecutor.submit, submit


def no_input(prompt=""):
    raise EOFError("a workflow has no input")


bobbin = types.ModuleType("bobbin", "What Bobbin offers to a workflow: context, progress, log, Cancelled.")
stdout, stderr = Lines(1, "info", "<stdout>"), Lines(2, "warn", "<stderr>")
handler = LogHandler()


def install():
    bobbin.context, bobbin.progress, bobbin.Cancelled = Here(), progress, Cancelled
    bobbin.log = logging.getLogger("workflow")
    bobbin.log.setLevel(logging.DEBUG)  # the worker's own level decides
    bobbin.__spec__ = importlib.machinery.ModuleSpec("bobbin", None)
    sys.modules["bobbin"] = bobbin
    logging.root.setLevel(logging.INFO)
    logging.basicConfig = basic_config
    sys.meta_path.insert(0, modules)
    while "" in sys.path:
        sys.path.remove("")  # the worker's folder is nobody's library
    builtins.input = no_input
    threading.Thread.start = start_thread
    sys.unraisablehook = state.unraisable
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)  # bobbin stacks
    for number in WORKERS:
        signal.signal(number, deaf)
    tidy()


# The worker decides what these mean. They are handled and not ignored: programs that a workflow starts would inherit that, and
# nothing could terminate them.
WORKERS = signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1


def deaf(_signal, _frame):
    pass


def tidy():
    """Takes back what a workflow may have changed and every other one needs: where lines go, and SIGINT."""
    if sys.stdout is not stdout or sys.stderr is not stderr:
        sys.stdout = sys.__stdout__ = stdout
        sys.stderr = sys.__stderr__ = stderr
    root = logging.root
    if handler not in root.handlers:  # nor is any that writes to the same place: lines would come twice
        root.handlers[:] = [h for h in root.handlers if not isinstance(getattr(h, "stream", None), Lines)] + [handler]
    if root.manager.disable:
        logging.disable(logging.NOTSET)
    if bobbin.log.disabled or root.disabled:  # dictConfig does that to every logger that it does not name
        for logger in [root, *root.manager.loggerDict.values()]:
            logger.disabled = False
    if _signal.getsignal(signal.SIGINT) != state.interrupt:
        signal.signal(signal.SIGINT, state.interrupt)
    watch_pools()
