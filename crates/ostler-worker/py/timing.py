"""Runs: how long each call took, as `<folder>/<number>/<pid>.log`.

A run is the time between a start of ostler and its stop: what all workers of all generations do in
that time goes into one folder. The zygote claims it, as the user that the workers run as; a worker
appends to a file of its own, from a thread of its own, so that no request waits for a disk.
"""

import fcntl
import json
import os
import re
import sys
import time
from _thread import allocate_lock, start_new_thread

import _ostler

# Bound before the app is imported, so that gevent's patches do not reach the writer's thread.

# Seconds that a line waits at most before it is written: what a worker that is killed loses.
_SECOND = 1.0

# Seconds that a worker's end waits for a write that a disk holds up.
_LAST_CHANCE = 1.0

# How often a number that another server has just taken is tried again.
_TRIES = 100

# Between two looks at what all runs take; they may go over their limit by that much for each worker.
_LOOK_AT = 1 << 20

# What a file takes on disk at least, in bytes: files without end would fill it too.
_BLOCK = 4096

# A worker of a run whose folder has so many files writes none more.
_MOST_FILES = 100_000

_NUMBER = re.compile(r"[0-9]{1,18}")
_LOG = re.compile(r"[0-9]{1,18}\.log")
_ABOUT = "run.json"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Run:
    """The folder of a run, held open and locked for as long as a process of the run lives."""

    def __init__(self, runs, number, limit):
        self.runs = runs  # a descriptor of the folder of all runs
        self.number = number
        self.limit = limit  # bytes of all runs
        self.folder = os.open(str(number), _FOLDER | os.O_NOFOLLOW, dir_fd=runs)
        try:
            # The lock is the open folder's, which workers inherit: it ends with the last of them.
            fcntl.flock(self.folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            pass  # someone looks at it, or the file system has no locks


def claim(settings, identity, about):
    """The run of the server that `identity` names: a new one, or that which an earlier generation
    has begun. Removes the oldest beyond those to keep. Raises OSError."""
    os.makedirs(settings["folder"], exist_ok=True)
    runs = os.open(settings["folder"], _FOLDER)
    try:
        number = _begun(runs, identity)
        if number is None:
            number = _begin(runs, identity, about)
        run = Run(runs, number, settings["size"])
    except BaseException:
        os.close(runs)
        raise
    for old in _numbers(runs)[: -settings["keep"]]:
        if old != number:
            _remove(runs, old)
    return run


def identity(parent):
    """Names the keeper, the process `parent`, as nothing else is or will be named."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        with open(f"/proc/{parent}/stat") as file:
            # Field 22, when it was started; field 2 is a name in brackets that may hold spaces.
            started = file.read().rpartition(")")[2].split()[19]
    except OSError:
        return f"{parent} {time.time_ns()}"  # each generation is a run then
    return f"{boot} {parent} {started}"


def _numbers(runs):
    return sorted(int(name) for name in os.listdir(runs) if _NUMBER.fullmatch(name) and name == str(int(name)))


def _begun(runs, identity):
    for number in reversed(_numbers(runs)):
        try:
            fd = os.open(f"{number}/{_ABOUT}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=runs)
            with open(fd, "rb") as file:
                if json.loads(file.read(_BLOCK))["server"] == identity:
                    return number
        except (OSError, ValueError, LookupError, TypeError):
            pass  # a run of another kind
    return None


def _begin(runs, identity, about):
    for _ in range(_TRIES):
        number = max(_numbers(runs), default=0) + 1
        try:
            os.mkdir(str(number), dir_fd=runs)
        except FileExistsError:
            continue
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        fd = os.open(f"{number}/{_ABOUT}", flags, 0o640, dir_fd=runs)
        with open(fd, "w") as file:
            json.dump({"start": time.time_ns() // 1000, "server": identity, **about}, file)
            file.write("\n")
        return number
    raise FileExistsError(17, "other servers take every number")


def _remove(runs, number):
    """Removes a run that no process writes to; what is not ours stays, and the folder with it."""
    try:
        folder = os.open(str(number), _FOLDER | os.O_NOFOLLOW, dir_fd=runs)
    except OSError:
        return False
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in os.listdir(folder):
            if name == _ABOUT or _LOG.fullmatch(name):
                os.unlink(name, dir_fd=folder)
        os.rmdir(str(number), dir_fd=runs)
        return True
    except OSError:
        return False
    finally:
        os.close(folder)


def _size(folder):
    """What a run takes, and how many files it has."""
    size = files = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            size += max(entry.stat(follow_symlinks=False).st_size, _BLOCK)
            files += 1
    return size, files


class Writer:
    """Writes what `timings` takes to the file of this process. `write` says a line to the operator."""

    def __init__(self, run, write):
        self._run = run
        self._write = write
        self._bell = allocate_lock()
        self._bell.acquire()
        self._writing = allocate_lock()  # guards what follows
        self._file = None
        self._rest = b""  # begun, and not written to its end
        self._until_look = 0
        self._full = False
        self._said = False
        self._lost = 0
        self.timings = _ostler.Timings(self._ring)

    def start(self):
        os.register_at_fork(after_in_child=self.timings.off)
        _ostler.timings = self.timings
        start_new_thread(self._follow, ())

    def finish(self):
        """Writes what is left; for the end of the process."""
        if self._writing.acquire(timeout=_LAST_CHANCE):
            try:
                if self._rest:
                    self._save()
                self._save()
                lines, lost = self.timings.take()
                self._lost += lost + (self._rest + lines).count(b"\n")
            finally:
                self._writing.release()
        if self._lost:
            self._write(f"perf: {self._lost} calls of this worker were not written\n")

    def _ring(self):
        try:
            self._bell.release()
        except RuntimeError:
            pass  # it is on its way

    def _follow(self):
        while True:
            self._bell.acquire(timeout=_SECOND)
            with self._writing:
                self._save()

    def _save(self):
        lines, lost = self.timings.take() if not self._rest else (b"", 0)
        self._lost += lost
        if not lines and not self._rest:
            return
        if not self._rest and not self._has_room(len(lines)):
            self._lost += lines.count(b"\n")
            return
        lines = self._rest or lines
        try:
            if self._file is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                self._file = os.open(f"{os.getpid()}.log", flags, 0o640, dir_fd=self._run.folder)
            written = os.write(self._file, lines)
        except OSError as error:
            # A full disk may have room again; what has begun is written to its end then. A whole
            # batch that found none waits too, and later ones are lost while they do not fit.
            self._rest = lines
            self._say(f"its calls cannot be written: {error.strerror}")
            return
        self._rest = lines[written:]
        self._until_look -= written

    def _has_room(self, more):
        """Whether all runs stay below their limit; older ones make room."""
        if self._full:
            return False
        if self._until_look >= more:
            return True
        try:
            self._full = not self._made_room()
        except OSError as error:
            self._say(f"runs cannot be looked at: {error.strerror}")
        if self._full:
            self._say(f"all runs together have reached perf_size ({self._run.limit} bytes): nothing more is written")
        self._until_look = _LOOK_AT
        return not self._full

    def _made_room(self):
        run = self._run
        own, files = _size(run.folder)
        if files > _MOST_FILES:
            return False
        sizes = {}
        for number in _numbers(run.runs):
            if number != run.number:
                try:
                    folder = os.open(str(number), _FOLDER | os.O_NOFOLLOW, dir_fd=run.runs)
                except OSError:
                    continue
                try:
                    sizes[number] = _size(folder)[0]
                finally:
                    os.close(folder)
        total = own + sum(sizes.values())
        for number, size in sizes.items():
            if total < run.limit:
                break
            if _remove(run.runs, number):
                total -= size
        return total < run.limit

    def _say(self, what):
        if not self._said:
            self._said = True
            self._write(f"perf: worker {os.getpid()}: {what}\n")


def endpoint(scope):
    """The template of the route that Starlette has found; the endpoint's name where it cannot be told."""
    found = scope["endpoint"]
    template = _templates.get(found)
    if template is None:
        routes = getattr(scope.get("router"), "routes", ())
        paths = (getattr(route, "path", None) for route in routes if getattr(route, "endpoint", None) is found)
        template = next((path for path in paths if isinstance(path, str)), None)
        template = template or getattr(found, "__qualname__", type(found).__qualname__)
        if len(_templates) < _MOST_TEMPLATES:
            _templates[found] = template
    return template


# Templates by endpoint: looking through all routes is done once for each.
_templates = {}

# An app has fewer; one that makes them as it goes fills no memory.
_MOST_TEMPLATES = 10_000


def warn(stream, error, folder):
    """Says why there will be no timings."""
    print(f"ostler: perf: no calls are timed: {error.strerror} ({folder})", file=stream or sys.stderr)
