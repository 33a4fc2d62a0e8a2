"""Fixtures of the end-to-end tests."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import harness
from harness import eventually

# These drive one part over its own sockets and bring their own fixtures: see the Makefile.
collect_ignore = ["asgi", "worker", "zygote"]
if "WHEELS" not in os.environ:
    collect_ignore.append("test_wheel.py")


def pytest_configure(config):
    config.addinivalue_line("markers", "smoke: the few that `make check` runs")
    config.addinivalue_line("markers", "soak: long forms, only in `make soak`")
    if not hasattr(config, "workerinput") and not harness.OSTLER.exists():
        raise pytest.UsageError(f"{harness.OSTLER} is not there: run `cargo build`, or set OSTLER_BIN")


class Starter:
    """Starts hosts and ends them: whatever a test did, afterwards no process of it may be left."""

    def __init__(self, folder):
        self.folder = folder
        self.hosts = []

    def __call__(self, target="app:app", *args, ready=True, **options):
        host = harness.start(target, *args, folder=self.folder, **options)
        self.hosts.append(host)
        return host.wait_ready() if ready else host

    def serve(self, *args, ready=r"\bready\b", **options):
        """`ostler serve`; `ready` is the line to wait for."""
        host = harness.serve(*args, **{"folder": self.folder, **options})
        self.hosts.append(host)
        host.log.wait(ready, harness.START_SECONDS, alive=host.alive)
        return host

    def finish(self):
        """Stops what still runs. A host that a test has not ended itself must end with exit 0."""
        problems = []
        for host in self.hosts:
            try:
                if host.alive():
                    code = host.stop()
                    if code != 0:
                        problems.append(f"exit {code} after SIGTERM\n{host.log}")
                eventually(lambda: not host.processes(), 20, "every process of the host has ended")
            except AssertionError as error:
                problems.append(f"{error}\nprocesses:\n{host.tree()}\nlog:\n{host.log}")
                for process in host.processes():
                    process.send_signal(signal.SIGKILL)
        assert not problems, "\n\n".join(problems)


@pytest.fixture
def host(tmp_path):
    """Starts the binary: `host("flask_app:app", "-w", "2")` for one of `apps/`, or
    `host(source="...")` for an app written down in the test. Returns it once it is ready."""
    starter = Starter(tmp_path)
    yield starter
    starter.finish()


@pytest.fixture(scope="module")
def module_host(tmp_path_factory):
    """As `host`, for tables of many cases that share one server."""
    starter = Starter(tmp_path_factory.mktemp("host"))
    yield starter
    starter.finish()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    """A real Redis on a free port, with nothing kept on disk."""
    assert shutil.which("redis-server"), "these tests need redis-server: apt-get install redis-server"
    port = harness.free_port()
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def answers():
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as asked:
                asked.sendall(b"PING\r\n")
                return asked.recv(16).startswith(b"+PONG")
        except ConnectionRefusedError:
            return False

    try:
        eventually(answers, 10, "redis-server answers")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def tls(tmp_path):
    """A self-signed certificate for localhost: (certificate file, key file)."""
    return certificate(tmp_path)


@pytest.fixture(scope="module")
def module_tls(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("tls"))


def certificate(folder):
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    return cert, key
