"""Calls that would serve the app from within its own import, such as `app.run()` at the end of a
file: they bind a port, never return, and so would keep ostler waiting for ever.

They are passed over while the app is imported, with a warning, as Flask's own command line does.
Knows the servers that people call, by name; loads none of them.
"""

import functools
import sys
import threading

# Where it is defined → what people call there.
CALLS = {
    "aiohttp.web": ["run_app"],
    "bottle": ["run"],
    "cherrypy": ["quickstart"],
    "eventlet.wsgi": ["server"],
    "flask.app": ["Flask.run"],
    "flask_socketio": ["SocketIO.run"],
    "gevent.baseserver": ["BaseServer.serve_forever"],
    "gunicorn.app.base": ["BaseApplication.run"],
    "hypercorn.run": ["run"],
    "quart.app": ["Quart.run"],
    "sanic.app": ["Sanic.run"],
    "socketserver": ["BaseServer.serve_forever"],
    "tornado.ioloop": ["IOLoop.start"],
    "uvicorn": ["run"],
    "uvicorn.main": ["run"],
    "waitress": ["serve"],
    "werkzeug.serving": ["run_simple"],
}


class PassedOver:
    """While it is entered, the calls of this thread to `CALLS` return at once. `passed` is told of
    each: the name as a person would write it, the file and the line."""

    def __init__(self, passed):
        self._passed = passed
        self._thread = threading.get_ident()
        self._undo = []
        # An app may keep a stand-in (`from uvicorn import run`): later it is what it stands for.
        self._active = True

    def __enter__(self):
        sys.meta_path.insert(0, self)
        for name in CALLS:
            if name in sys.modules:
                self._replace(sys.modules[name])
        return self

    def __exit__(self, *_):
        self._active = False
        sys.meta_path.remove(self)
        for owner, name, original in reversed(self._undo):
            setattr(owner, name, original)

    def find_spec(self, name, path=None, target=None):
        """Python's importer asks us first: what we look for gets replaced when it is loaded."""
        if name not in CALLS:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find and finder is not self else None
            if spec is not None:
                break
        else:
            return None
        # Those of frozen and built-in modules are classes, which all of them share.
        if not isinstance(spec.loader, type) and hasattr(spec.loader, "exec_module"):
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                self._replace(module)

            spec.loader.exec_module = exec_module
        return spec

    def _replace(self, module):
        for dotted in CALLS.get(module.__name__, ()):
            owner, (*classes, name) = module, dotted.split(".")
            for part in classes:
                owner = getattr(owner, part, None)
            original = vars(owner).get(name) if owner is not None else None
            if callable(original):
                setattr(owner, name, self._stand_in(original, f"{module.__name__}.{dotted}"))
                self._undo.append((owner, name, original))

    def _stand_in(self, original, called):
        @functools.wraps(original)
        def passed_over(*args, **kwargs):
            if not self._active or threading.get_ident() != self._thread:
                # A metrics server in a thread of its own keeps nobody waiting.
                return original(*args, **kwargs)
            caller = sys._getframe(1)
            self._passed(_spoken(called), caller.f_code.co_filename, caller.f_lineno)
            if called.startswith("socketserver."):
                # It listens since it was made, and nobody will ever answer.
                args[0].server_close()
            return None

        return passed_over


def _spoken(called):
    """`app.run` for methods of an app, the rest under its own name."""
    module, _, name = called.rpartition(".")
    if module.rpartition(".")[2] in ("Flask", "Quart", "Sanic"):
        return f"app.{name}()"
    return f"{called}()"
