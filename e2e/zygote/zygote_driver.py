"""Drives a real zygote over its real sockets: the keeper's and the server's part, in the small."""

import array
import functools
import glob
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FAKES = Path(__file__).with_name("fakes.py")

# What a test waits for comes within a second, or within this many on a loaded machine.
PATIENCE = 30

BOOT = """
import sys
from importlib import machinery as m, util as u
so = "/proc/self/fd/%(so)d"
l = m.ExtensionFileLoader("_ostler", so)
s = u.spec_from_file_location("_ostler", so, loader=l)
x = u.module_from_spec(s)
sys.modules["_ostler"] = x
l.exec_module(x)
exec(open(%(fakes)r).read())
from _ostler import zygote
zygote.main(%(control)d)
"""


def _built():
    """The newest worker extension: as a crate of its own, or on the way into the binary."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    patterns = ("*/lib_ostler.so", "*/build/ostler-*/out/worker/*/*/lib_ostler.so")
    found = [path for pattern in patterns for path in target.glob(pattern)]
    if not found:
        raise RuntimeError(f"no worker extension in {target}: run `cargo build -p ostler-worker`")
    return max(found, key=lambda path: path.stat().st_mtime)


EXTENSION = Path(os.environ.get("OSTLER_WORKER_SO") or _built())


@functools.lru_cache
def pythons():
    """Every CPython from 3.9 on that is installed, the newest patch release of each minor."""
    found = {}
    names = glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3"))
    names += filter(None, (shutil.which(f"python3.{minor}") for minor in range(9, 30)))
    for name in [*names, sys.executable]:
        probe = subprocess.run(
            [name, "-c", "import sys; print(*sys.version_info[:3], getattr(sys, 'abiflags', ''))"],
            capture_output=True,
            text=True,
        )
        version = tuple(map(int, re.findall(r"\d+", probe.stdout)))
        # A free-threaded build is refused before it gets here.
        if probe.returncode == 0 and version >= (3, 9) and "t" not in probe.stdout:
            found[version[:2]] = max(found.get(version[:2], (version, name)), (version, name))
    return [(name, ".".join(map(str, version))) for _, (version, name) in sorted(found.items())]


class Peer:
    """Our end of a control socket."""

    def __init__(self, sock):
        self.sock = sock
        self.fds = []

    def send(self, message, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([json.dumps(message).encode()], rights)

    def receive(self):
        """The next message, or None at the end. Descriptors gather in `fds`."""
        self.sock.settimeout(PATIENCE)
        data, ancillary, _, _ = self.sock.recvmsg(1 << 17, socket.CMSG_SPACE(256 * 4))
        for _, _, payload in ancillary:
            self.fds += array.array("i", payload)
        return json.loads(data) if data else None

    def expect(self, kind):
        message = self.receive()
        assert message is not None and message["type"] == kind, message
        return message

    def silent(self, seconds=0.2):
        return not select.select([self.sock], [], [], seconds)[0]

    def close(self):
        self.sock.close()


def pair(kind=socket.SOCK_SEQPACKET):
    return socket.socketpair(socket.AF_UNIX, kind)


class Slot:
    """The server's end of a slot, with the request loop of fakes.py at the other."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(PATIENCE)
        self.lines = sock.makefile("rb")

    def send(self, path):
        self.sock.sendall(path.encode() + b"\n")

    def receive(self):
        return self.lines.readline().decode().strip()

    def get(self, path):
        self.send(path)
        return self.receive()

    def end(self):
        self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        self.lines.close()
        self.sock.close()


class Worker:
    def __init__(self, zygote, id, control):
        self.zygote = zygote
        self.id = id
        self.control = control
        self.pid = None
        self.pidfd = None
        self.slots = []

    def give_slots(self, count, per_message=200):
        """Sends `count` slots and keeps our ends."""
        left = count
        while left:
            now = min(left, per_message)
            pairs = [pair(socket.SOCK_STREAM) for _ in range(now)]
            left -= now
            message = {"type": "slots", "count": now, **({"more": True} if left else {})}
            self.control.send(message, [theirs.fileno() for _, theirs in pairs])
            for ours, theirs in pairs:
                theirs.close()
                self.slots.append(Slot(ours))

    def boot(self, slots=1):
        self.control.expect("booted")
        self.give_slots(slots)
        self.control.expect("ready")
        return self

    def end(self):
        for slot in self.slots:
            slot.end()

    def wait(self):
        """The exit status as the zygote reports it."""
        exited = self.zygote.control.expect("exited")
        assert (exited["worker"], exited["pid"]) == (self.id, self.pid)
        return exited["status"]


class Zygote:
    def __init__(self, python, folder):
        self.folder = folder
        self.log = open(folder / "output.log", "w+b")
        ours, theirs = pair()
        memfd = os.memfd_create("ostler-worker")
        with open(EXTENSION, "rb") as so:
            os.sendfile(memfd, so.fileno(), 0, EXTENSION.stat().st_size)
        boot = BOOT % {"so": memfd, "fakes": str(FAKES), "control": theirs.fileno()}
        self.process = subprocess.Popen(
            [python, "-c", boot],
            pass_fds=[theirs.fileno(), memfd],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        os.close(memfd)
        theirs.close()
        self.control = Peer(ours)
        self.workers = []

    def output(self):
        return (self.folder / "output.log").read_text()

    def configure(self, file=None, explicit=False, module=None, pythonpath=()):
        self.hello = self.control.expect("hello")
        self.control.send(
            {
                "type": "configure",
                "file": str(self.folder / "gunicorn.conf.py") if file is None else file,
                "explicit": explicit,
                "module": module,
                "chdir": str(self.folder),
                "pythonpath": list(pythonpath),
            }
        )
        return self.control.receive()

    def load(self, app="app:app", **changes):
        """Sends `load` and returns the answer."""
        cfg = {"workers": 2, "loglevel": "info", **changes.pop("cfg", {})}
        self.control.send(
            {
                "type": "load",
                "app": app,
                "interface": "auto",
                "preload": "auto",
                "chdir": str(self.folder),
                "env": {},
                "pythonpath": [],
                "user": None,
                "group": None,
                "groups": [],
                "umask": None,
                "workers": 2,
                "threads": 1,
                "timeout": 30,
                "graceful_timeout": 5,
                "proc_name": None,
                "error_log": None,
                "capture_output": False,
                "generation": 1,
                "websocket_threads": 4,
                "lifespan": "auto",
                "loop": "auto",
                "root_path": "",
                "cfg": cfg,
                "max_body_inline": 65536,
                **changes,
            }
        )
        return self.control.receive()

    def start(self, app="app:app", **changes):
        configured = self.configure()
        assert configured["type"] == "configured", configured
        loaded = self.load(app, **changes)
        assert loaded["type"] == "loaded", loaded
        return loaded

    def fork(self, id=1, age=None):
        ours, theirs = pair()
        worker = Worker(self, id, Peer(ours))
        self.workers.append(worker)
        age = id if age is None else age
        self.control.send({"type": "fork", "worker": id, "age": age}, [theirs.fileno()])
        theirs.close()
        forked = self.control.expect("forked")
        assert forked["worker"] == id
        worker.pid = forked["pid"]
        worker.pidfd = self.control.fds.pop()
        return worker

    def wait(self):
        return self.process.wait(PATIENCE)

    def close(self):
        self.control.close()
        for worker in self.workers:
            worker.control.close()
            for slot in worker.slots:
                slot.close()
            os.close(worker.pidfd)
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.log.close()


class HookProcess:
    """The keeper's end of the hook process."""

    def __init__(self, zygote, **message):
        ours, theirs = pair()
        zygote.control.send({"type": "hooks", **message}, [theirs.fileno()])
        theirs.close()
        self.peer = Peer(ours)
        self.seq = 0

    def call(self, hook, worker=None, **args):
        """Returns the error, or None."""
        self.seq += 1
        call = {"type": "call", "hook": hook, "seq": self.seq, "worker": worker, "args": args}
        self.peer.send(call)
        done = self.peer.expect("done")
        assert done["seq"] == self.seq
        return done["error"]

    def close(self):
        self.peer.close()


def until(condition):
    """Waits for what another process does; there is no event to wait for."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


HELLO = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hello " + environ["PATH_INFO"].encode()]
"""
