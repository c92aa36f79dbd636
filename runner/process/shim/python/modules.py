# ---- modules that the worker serves -----------------------------------------------------------------------------------

STDLIB = getattr(sys, "stdlib_module_names", None)
OWN = {"bobbin", "__main__"}
known_stdlib = {}  # of Python 3.9, which has no list


def is_stdlib(name):
    """Whether a top-level name belongs to Python itself. Those are never served: a published json.py would break packages."""
    if name in OWN or name in sys.builtin_module_names:
        return True
    if STDLIB is not None:
        return name in STDLIB
    if name not in known_stdlib:
        spec = importlib.machinery.PathFinder.find_spec(name)
        home = os.path.dirname(os.__file__) + os.sep
        known_stdlib[name] = bool(spec and spec.origin and spec.origin.startswith(home) and "-packages" not in spec.origin)
    return known_stdlib[name]


class Modules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds published modules before installed packages, and after the standard library. All of one execution's modules are
    of one generation: when anything that is published for Python changes, all of them are imported afresh."""

    def __init__(self):
        self.generation, self.paths, self.folders, self.tops = None, frozenset(), frozenset(), frozenset()
        self.sources = {}  # path -> source, of what was loaded
        self.served = set()  # names that were imported from here, whatever stands under them in sys.modules by now

    def turn_to(self, generation):
        if generation == self.generation:
            return
        paths = frozenset(wire.ask("index")["paths"])
        folders = set()
        for path in paths:
            while "/" in path:
                path = path.rpartition("/")[0]
                folders.add(path)
        tops = frozenset(path.partition("/")[0] if "/" in path else path[:-3] for path in paths)
        self.evict(self.tops | tops)
        for path in self.sources:
            linecache.cache.pop(path, None)
        self.paths, self.folders, self.tops = paths, frozenset(folders), tops
        self.sources, self.generation = {}, generation

    def evict(self, tops):
        """Forgets what was imported from here, and what is installed under a name that is published now."""
        for name in list(sys.modules):
            top = name.partition(".")[0]
            if name in self.served or top in tops and not is_stdlib(top):
                del sys.modules[name]
        self.served = set()

    def is_published(self, name):
        """Whether a module is, or would be, one of these, or of a package of theirs."""
        top = name.partition(".")[0]
        return name in self.served or top in self.tops and not is_stdlib(top)

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
        self.served.add(name)
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        path = module.__spec__.loader_state
        if path is None:
            return  # a folder without __init__.py
        exec(compile(self.source(path), path, "exec", dont_inherit=True), module.__dict__)

    def source(self, path):
        source = self.sources.get(path)
        if source is None:
            source = wire.ask("source", path=path)["source"]
            source = source[1:] if source.startswith("\ufeff") else source
            self.sources[path] = source
            # For tracebacks, which would look for a file of that name in the worker's folder first.
            linecache.cache[path] = len(source), None, io.StringIO(source, newline=None).readlines(), path
        return source

    def get_source(self, name):
        """For whoever asks a loader."""
        found = self.locate(name)
        return self.sources.get(found[0]) if found else None

    def workflow(self, path):
        """The module at a path, imported. The path may hold what no import statement could name."""
        place = path[:-3]
        if place.endswith("/__init__"):
            place = place[: -len("/__init__")]
        name = place.replace("/", ".")
        if not self.importable(name, path):
            name = "__workflow__:" + path
        if name not in sys.modules:
            if not name.startswith("__workflow__:"):
                _import(name)
            else:
                self.load(name, path)
        return sys.modules[name]

    def importable(self, name, path):
        """Whether importing a name runs the source at this path, and no other."""
        if is_stdlib(name.partition(".")[0]) or (self.locate(name) or [None])[0] != path:
            return False
        parts = name.split(".")
        return all((self.locate(".".join(parts[:n])) or (None, False))[1] for n in range(1, len(parts)))

    def load(self, name, path):
        module = importlib.util.module_from_spec(self.spec(name, path, False))
        sys.modules[name] = module
        try:
            self.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise


modules = Modules()
