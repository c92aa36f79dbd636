# ---- the three parts --------------------------------------------------------------------------------------------------


def resident(hello):
    while True:
        run = expect(wire.read(), "run")
        begin(run)
        answer(run_one(run, hello["result_max_bytes"]))


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
        except BaseException as e:
            flush_lines()
            answer(failed(e))
            continue
        flush_lines()
        if len(sys.modules) != len(known):
            fresh, known = set(sys.modules) - known, set(sys.modules)
            names = [n for n in fresh if ":" not in n and not modules.is_published(n)]
            if names:
                wire.send(type="imported", modules=names)
            gc.collect()
            gc.freeze()
        answered[0] = 0
        with wire.asking:  # what a thread of the module asked is answered; from here on the wire is the child's
            pid = fork()
            if pid:
                state.run = None
        if pid == 0:
            answer(run_one(run, hello["result_max_bytes"], function))
            answered[0] = 1
            _exit(0)
        _, status = os.waitpid(pid, 0)
        if not answered[0]:
            wire.send(type="died", execution_id=run["execution_id"], **how(status))


def how(status):
    return {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0}


def mother(hello):
    """Imports what slots share, and forks them. Each gets a wire and an output of its own, passed with its spawn frame."""
    import gc
    import select
    import socket

    control = socket.socket(fileno=os.dup(wire.fd))
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
            _exit(0)
        frame = _loads(receive(control, struct.unpack(">I", head)[0]))
        if frame["type"] == "preload":
            for name in frame["modules"]:
                quietly_import(name)
            gc.collect()
            gc.freeze()
        elif frame["type"] == "spawn":
            pid = fork()
            if pid == 0:
                os.setpgid(0, 0)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                os.close(woken), os.close(wakes)
                become(fds)
                ready_to_run()
                slot(hello)
            for fd in fds:
                os.close(fd)
            wire.send(type="spawned", pid=pid)
        else:
            leave("a frame of type %r" % frame["type"])


def receive(control, n):
    """Reads n bytes and not one more: what follows may carry descriptors, which a plain read would lose."""
    data = b""
    while len(data) < n:
        piece = control.recv(n - len(data))
        if not piece:
            _exit(0)
        data += piece
    return data


def become(fds):
    """Takes the descriptors of a new slot: the wire, and where output goes."""
    os.dup2(fds[0], wire.fd, inheritable=False)
    os.dup2(fds[1], 1)
    os.dup2(fds[1], 2)
    for fd in fds:
        if fd > 2:
            os.close(fd)


def bury():
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        wire.send(type="exited", pid=pid, **how(status))


def quietly_import(name):
    """Imports what slots imported. No execution runs here, so that nothing published can be imported along with it."""
    if name in sys.modules or modules.is_published(name):
        return
    try:
        _import(name)
    except BaseException:
        pass  # the workflow that wants it will say


# ---- processes --------------------------------------------------------------------------------------------------------

pid_before_fork = _getpid()
masks = {}  # thread -> the signals that it blocked before it forked
prctl = None


def before_fork():
    """Loads what a child needs to die with its parent: a child should not import. A signal that ends it, or the worker's
    SIGINT to the whole group, may come before it is ready: what that raises in after_fork would leave it without a leash."""
    masks[_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, (*WORKERS, signal.SIGINT))
    need_prctl()


def unmask():
    if _ident() in masks:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(_ident()))


def need_prctl():
    global prctl
    if prctl is None:
        prctl = load_prctl() or False


def after_fork():
    """In every child that is forked here: a slot, an execution, or what a workflow forks, by multiprocessing too."""
    global MAIN, pid_before_fork
    parent, pid_before_fork = pid_before_fork, _getpid()
    by_main = _ident() == MAIN
    if not by_main:
        state.run, state.user, MAIN = current(), False, _ident()
    wire.renew()
    stdout.rests.clear()
    stderr.rests.clear()
    state.task = None  # whose loop is the parent's
    if by_main and state.forks:
        state.pid = _getpid()
    else:
        for number in WORKERS:
            if signal.getsignal(number) is deaf:
                signal.signal(number, signal.SIG_DFL)
    die_with(parent, by_main)
    unmask()


def fork():
    """Forks a process that speaks for itself, unlike one that a workflow forks."""
    state.forks = True
    pid = os.fork()
    state.forks = False
    return pid


def die_with(parent, by_main):
    """Asks Linux for SIGKILL when the parent dies. To Linux the parent is the thread that forked: where that was not the main
    one, which lasts as long as the process, and elsewhere, a thread looks after it."""
    if prctl and by_main:
        prctl(1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            _exit(0)
        return

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(_getpid(), signal.SIGKILL)

    _start(threading.Thread(target=watch, name="bobbin", daemon=True))


def load_prctl():
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        return ctypes.CDLL(None, use_errno=True).prctl
    except Exception:
        return None


# ---- the beginning ----------------------------------------------------------------------------------------------------


def expect(frame, kind):
    if frame["type"] != kind:
        leave("a frame of type %r, expected %r" % (frame["type"], kind))
    return frame


def ready_to_run():
    wire.send(type="ready", protocol=PROTOCOL, pid=_getpid(), language="python", version=VERSION)


def preload(hello):
    """Imports the warm-up modules: installed ones, or published ones. One that cannot be imported is a warning."""
    names = [n.strip() for n in hello.get("preload", "").split(",") if n.strip()]
    if not names:
        return
    state.run = Run({"execution_id": ""})  # which may ask
    modules.turn_to(hello["generation"])
    for name in names:
        try:
            modules.workflow(name) if name.endswith(".py") else _import(name)
        except BaseException as e:
            why = failure(e).frame
            say(None, "error", "preload of %s: %s: %s" % (name, why["error_type"], why["message"]))
    flush_lines()
    with wire.asking:
        state.run = None


def main():
    hello = expect(wire.read(), "hello")
    if hello["protocol"] != PROTOCOL:
        leave("protocol %r, expected %d" % (hello["protocol"], PROTOCOL))
    wire.limit = hello["frame_max_bytes"]
    install()
    os.register_at_fork(before=before_fork, after_in_parent=unmask, after_in_child=after_fork)
    preload(hello)
    if hello["mode"] == "fork":
        need_prctl()
        ready_to_run()
        mother(hello)
    ready_to_run()
    resident(hello)


try:
    main()
except (BrokenPipeError, ConnectionResetError):
    _exit(0)
