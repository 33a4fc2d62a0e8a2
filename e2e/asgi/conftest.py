"""Starts the ASGI side of the extension alone, with the test as the server."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

from asgi_wire import SECONDS, Peer, eventually  # noqa: E402


def pythons() -> list[str]:
    """The Python that runs the tests, and every other one that the extension loads into."""
    found = {}
    for path in sorted(Path.home().glob(".pyenv/versions/3.*/bin/python")):
        version = re.match(r"3\.(\d+)", path.parent.parent.name)
        if version and int(version[1]) >= 9 and int(version[1]) != sys.version_info[1]:
            found[version[1]] = str(path)
    return [sys.executable, *found.values()]


@pytest.fixture(scope="session")
def extension() -> Path:
    """The extension, built from this tree."""
    subprocess.run(["cargo", "build", "--quiet", "--locked", "-p", "ostler-worker"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "debug" / "lib_ostler.so"


class Worker:
    """One worker process and the server's ends of its channels."""

    def __init__(self, extension: Path, log: Path, app: str, python: str, channels: int, options: dict) -> None:
        self.log_file = log
        pairs = [socket.socketpair() for _ in range(channels)]
        self.peers = [Peer(ours) for ours, _ in pairs]
        theirs = [their.fileno() for _, their in pairs]
        self.ready, told = os.pipe()
        command = [python, "-X", "dev", str(HERE / "asgi_runner.py"), str(extension), app, json.dumps(options)]
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [*command, str(told), *map(str, theirs)], pass_fds=[told, *theirs], stderr=file
            )
        os.close(told)
        for _, their in pairs:
            their.close()

    @property
    def peer(self) -> Peer:
        return self.peers[0]

    @property
    def log(self) -> str:
        """Without what asyncio's debug mode says of a busy machine: "Executing <Task …> took 0.109 seconds"."""
        lines = self.log_file.read_text(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("Executing <"))

    def is_ready(self) -> bool:
        return bool(select.select([self.ready], [], [], 0)[0]) and os.read(self.ready, 5) == b"ready"

    def wait_ready(self) -> "Worker":
        readable, _, _ = select.select([self.ready], [], [], SECONDS)
        assert readable and os.read(self.ready, 5) == b"ready", f"not ready:\n{self.log}"
        return self

    def wait_log(self, text: str) -> None:
        eventually(lambda: text in self.log, f"{text!r} in the log:\n{self.log}")

    def wait_exit(self) -> int:
        return self.process.wait(SECONDS)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def finish(self) -> int:
        """Ends the channels as the server does; gives the exit code."""
        for peer in self.peers:
            peer.finish()
        return self.wait_exit()

    def close(self) -> None:
        for peer in self.peers:
            peer.sock.close()
        os.close(self.ready)
        if self.process.poll() is None:
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the worker did not end with its channels:\n{self.log}") from None


@pytest.fixture
def start(extension, tmp_path):
    """`start("app")` serves an app of `asgi_apps`; `ready=False` does not wait for it."""
    workers = []

    def begin(app: str, *, python: str = sys.executable, channels: int = 1, ready: bool = True, **options):
        options.setdefault("graceful_timeout", 5)
        log = tmp_path / f"{len(workers)}.log"
        workers.append(Worker(extension, log, app, python, channels, options))
        return workers[-1].wait_ready() if ready else workers[-1]

    yield begin
    for worker in workers:
        worker.close()


@pytest.fixture(params=pythons(), ids=lambda path: re.search(r"[^/]*(?=/bin/python)", path)[0])
def any_python(request) -> str:
    return request.param


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request) -> str:
    return request.param
