"""Runs in the Python under test: loads the extension as a zygote does, and serves one app.

Its arguments: the extension's file, the app (`module:name`, or a name in `asgi_apps`), the options as JSON, a descriptor
on which to tell that it is ready, and the channel descriptors. Must run on Python 3.9."""

import importlib
import importlib.machinery
import importlib.util
import json
import os
import sys


def load(path):
    loader = importlib.machinery.ExtensionFileLoader("_ostler", path)
    spec = importlib.util.spec_from_file_location("_ostler", path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["_ostler"] = module
    loader.exec_module(module)


def main(path, app, options, ready, *fds):
    load(path)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    module, _, name = app.rpartition(":")
    app = getattr(importlib.import_module(module or "asgi_apps"), name)
    from _ostler import asgi

    options = json.loads(options)
    options["on_ready"] = lambda: os.write(int(ready), b"ready")
    options["errors"] = sys.stderr
    try:
        asgi.serve(app, [int(fd) for fd in fds], options)
    except asgi.LifespanFailed as error:
        print(f"LifespanFailed: {error}", file=sys.stderr)
        return 3
    print("served", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
