"""Loads the extension into the Python that runs pytest and plays the server over a socketpair.

OSTLER_WORKER_SO names a built extension; without it, cargo builds a development one first.
"""

import importlib.machinery
import importlib.util
import io
import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import wsgi_wire as wire  # noqa: E402


def _library():
    given = os.environ.get("OSTLER_WORKER_SO")
    if given:
        return given
    environment = dict(os.environ, PYO3_NO_PYTHON="1")
    command = ["cargo", "build", "--quiet", "--package", "ostler-worker"]
    subprocess.run(command, cwd=wire.ROOT, env=environment, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", wire.ROOT / "target")
    return str(pathlib.Path(target) / "debug" / "lib_ostler.so")


def _load(path):
    loader = importlib.machinery.ExtensionFileLoader("_ostler", path)
    spec = importlib.util.spec_from_file_location("_ostler", path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["_ostler"] = module
    loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ostler():
    return sys.modules.get("_ostler") or _load(_library())


class Slot(wire.ServerEnd):
    """An app served in a thread, and the server's end of its slot."""

    def __init__(self, ostler, app, options):
        server, self.worker = socket.socketpair()
        server.settimeout(20)
        super().__init__(server)
        self.errors = options.setdefault("errors", io.StringIO())
        self.result = None
        self.raised = None
        self.thread = threading.Thread(target=self._serve, args=(ostler, app, options), daemon=True)
        self.thread.start()

    def _serve(self, ostler, app, options):
        try:
            self.result = ostler.serve_wsgi(app, self.worker.fileno(), options)
        except BaseException as error:
            self.raised = error
        finally:
            self.worker.close()

    def ask(self, *args, **kwargs):
        self.send(wire.request(*args, **kwargs))
        return self.response()

    def finish(self):
        """Ends the slot as a graceful stop does; what serve_wsgi returned."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.sock.close()
        return self.result

    @property
    def log(self):
        return self.errors.getvalue()


@pytest.fixture
def serve(ostler):
    """serve(app, **options) gives a Slot; all are ended, and must end, after the test."""
    slots = []

    def start(app, **options):
        slots.append(Slot(ostler, app, options))
        return slots[-1]

    yield start
    for slot in slots:
        slot.finish()
