"""Makes the embedded sources importable as submodules of the extension."""

import importlib.abc
import importlib.machinery
import linecache
import sys


class _Embedded(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.rpartition(".")
        if package == "_ostler" and name in _ostler.sources:
            return importlib.machinery.ModuleSpec(fullname, self, origin=f"<ostler {name}>")
        return None

    def get_source(self, fullname):
        return _ostler.sources[fullname.rpartition(".")[2]]

    def exec_module(self, module):
        origin = module.__spec__.origin
        source = self.get_source(module.__name__)
        # Tracebacks of our own code show its lines although there is no file.
        linecache.cache[origin] = (len(source), None, source.splitlines(True), origin)
        exec(compile(source, origin, "exec"), module.__dict__)


_ostler.__path__ = []
sys.modules.setdefault("_ostler", _ostler)
sys.meta_path.insert(0, _Embedded())
