# ---- one execution ----------------------------------------------------------------------------------------------------


class Answer(Exception):
    """How an execution ended, where it did not end well."""

    def __init__(self, kind, message, text=""):
        self.frame = {"type": "error", "error_type": kind[:200], "message": message[:65536], "traceback": text[-65536:]}


def load(run):
    """The function that an execution names. Code of its module's top level runs here."""
    if "problem" in run:
        raise Answer("InvalidParams", "Python cannot decode params or meta: " + run["problem"])
    modules.turn_to(run["generation"])
    with interruptible():
        module = modules.workflow(run["workflow"])
    function = getattr(module, run["function"], None)
    if run["function"].startswith("_") or not callable(function):
        name = getattr(module, "__name__", None)  # of whatever the module put in its own place
        there = [n for n, f in getattr(module, "__dict__", {}).items() if inspect.isfunction(f) and f.__module__ == name and not n.startswith("_")]
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
        state.raise_if_asked()
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


MAX_DEPTH = 9000  # the worker's JSON goes to 10,000
KEYS = {None: "null", True: "true", False: "false"}


def encode(value, limit):
    try:
        text = _dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError, UnicodeError) as e:
        raise Answer("InvalidResult", "the result is not JSON: %s" % (str(e) or type(e).__name__))
    if len(text) > limit:
        raise Answer("ResultTooLarge", "result is %d bytes, expected at most %d" % (len(text), limit))
    check(value)
    return text


def check(value):
    """Refuses what json writes and nobody reads back as it was: too deep, or keys that differ in Python alone."""
    depth, level = 0, [value]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise Answer("InvalidResult", "the result is not JSON: it is nested deeper than %d" % MAX_DEPTH)
        below = []
        for one in level:
            if isinstance(one, dict):
                check_keys(one)
                one = one.values()
            elif not isinstance(one, (list, tuple)):
                continue
            below += [v for v in one if isinstance(v, (dict, list, tuple))]
        level = below


def check_keys(one):
    if set(map(type, one)) <= {str}:
        return
    seen = {}
    for key in one:
        written = key if isinstance(key, str) else KEYS[key] if key is None or isinstance(key, bool) else _dumps(key)
        if written in seen:
            raise Answer("InvalidResult", "the result is not JSON: the keys %r and %r of a dict are the same there" % (seen[written], key))
        seen[written] = key


def begin(run):
    tidy()
    state.forget()
    state.run = Run(run)


def run_one(run, limit, function=None):
    """Runs an execution that has begun, and returns the body of the frame that answers it."""
    try:
        if function is None:
            function = load(run)
        return b'{"type":"result","execution_id":' + _dumps(run["execution_id"]).encode() + b',"value":' + encode(call(function, run["params"]), limit) + b"}"
    except BaseException as e:  # SystemExit and Cancelled as well: an execution ends here, not the interpreter
        return failed(e)
    finally:
        flush_lines()


def flush_lines():
    state.user = False
    stdout.flush_all()
    stderr.flush_all()


def failed(e):
    """The body of the frame that tells how an execution failed."""
    state.user = False
    frame = (e if isinstance(e, Answer) else failure(e)).frame
    return _dumps(dict(frame, execution_id=state.run.id)).encode()


def answer(body):
    """Ends the execution. What a thread of it asked is answered before; from here on it may ask no more."""
    if _getpid() != state.pid:
        _exit(0)  # a child that the workflow forked came back here
    with wire.asking:
        state.run = None
        wire.send_raw(body)


def failure(e):
    """An exception as an answer: its traceback begins where the workflow does."""
    tb = e.__traceback__
    while tb is not None and is_ours(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    kind = type(e).__qualname__
    try:
        report = traceback.TracebackException(type(e), e.with_traceback(tb), tb, limit=-100)
        trim(report, set())
        text = "".join(report.format())
        message = str(e)
    except BaseException as broken:  # a __str__ that raises, whatever
        text, message = "", "(%s while describing it)" % type(broken).__name__
    if isinstance(e, SystemExit):
        message = "the workflow called sys.exit(%s)" % message
    return Answer(kind, message or kind, text)


def is_ours(filename):
    return filename == SHIM or filename.startswith("<frozen importlib")


def trim(report, seen):
    """Takes our frames and those of the import machinery out, wherever in the chain of causes."""
    if report is None or id(report) in seen:
        return
    seen.add(id(report))
    report.stack = traceback.StackSummary.from_list([f for f in report.stack if not is_ours(f.filename)])
    for other in (report.__cause__, report.__context__, *(getattr(report, "exceptions", None) or ())):
        trim(other, seen)
