"""Makes the embedded sources importable: our own as submodules of the extension, and the package
`ostler` for the app."""

import importlib.abc
import importlib.machinery
import linecache
import sys


class _Embedded(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.rpartition(".")
        if package == "_ostler" and name in _ostler.sources:
            return importlib.machinery.ModuleSpec(fullname, self, origin=f"<ostler {name}>")
        if fullname == "ostler" and not _is_installed():
            return importlib.machinery.ModuleSpec(fullname, self, origin="<ostler>", is_package=True)
        return None

    def get_source(self, fullname):
        if fullname == "ostler":
            return _ostler.package
        return _ostler.sources[fullname.rpartition(".")[2]]

    def exec_module(self, module):
        origin = module.__spec__.origin
        source = self.get_source(module.__name__)
        # Tracebacks of our own code show its lines although there is no file.
        linecache.cache[origin] = (len(source), None, source.splitlines(True), origin)
        exec(compile(source, origin, "exec"), module.__dict__)


def _is_installed():
    """Whether there is a package or module of this name: from our wheel, or the app's own. A folder
    without `__init__.py` is none; one that is called `ostler` may hold anything."""
    found = importlib.machinery.PathFinder.find_spec("ostler")
    return found is not None and found.origin is not None and found.loader is not None


_ostler.__path__ = []
sys.modules.setdefault("_ostler", _ostler)
sys.meta_path.insert(0, _Embedded())
