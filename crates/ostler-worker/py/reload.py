"""`--reload`: a thread in the worker that tells the server when a file of the app has changed."""

import glob
import os
import sys
import threading
import time

# Seconds between two looks. A few hundred stat calls take about a millisecond.
INTERVAL = 1.0


def watch(control, extra_files):
    """Starts the thread. It sends {"type":"changed","file":path} after each change, because the
    generation that a change brings may not start, and this one must notice the correction."""
    # Looked at before the server is told that we are ready: what is edited from then on is seen.
    seen = {path: _modified(path) for path in _files(extra_files)}
    threading.Thread(
        target=_watch, args=(control, extra_files, seen), name="ostler-reload", daemon=True
    ).start()


def _watch(control, extra_files, seen):
    while True:
        changed = None
        for path in _files(extra_files):
            modified = _modified(path)
            # A file that is gone is between the two steps of an editor's save.
            if modified is not None and seen.setdefault(path, modified) != modified:
                seen[path], changed = modified, path
        if changed is not None:
            try:
                control.send({"type": "changed", "file": changed})
            except OSError:
                return  # the server is gone, and so are we
        time.sleep(INTERVAL)


def _files(extra_files):
    """The source of every loaded module, and what matches the further paths, which may be patterns.
    The app imports while we look, hence the copy."""
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str):
            yield path[:-1] if path.endswith(".pyc") else path
    for pattern in extra_files:
        yield from glob.iglob(pattern, recursive=True)


def _modified(path):
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None
