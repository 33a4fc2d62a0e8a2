"""Everything that one address can do to a server with the settings it has when nobody says anything, at once: it holds
little of ours, and who comes from elsewhere is served as before."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

import harness
from traffic import ASGI, p99

BAD, GOOD = "127.0.0.2", "127.0.0.3"
"""Neither is a trusted proxy, which 127.0.0.1 is by default."""

MIB = 1 << 20
SPOOL = 256 + 4
"""MiB of spool files that one address may have, and what is not counted: up to 16 KiB of each."""

WSGI = """
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] == "POST":
        environ["wsgi.input"].read()
    if path == "/file":
        start_response("200 OK", [("Content-Length", "50000000")])
        return environ["wsgi.file_wrapper"](open("static/large", "rb"))
    if path.startswith("/large/"):
        size = int(path.split("/")[2])
        start_response("200 OK", [("Content-Length", str(size)), ("Content-Type", "application/octet-stream")])
        return (bytes(min(65536, size - at)) for at in range(0, size, 65536))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""

SERVER = """
[server]
listen = ["127.0.0.1:{port}"]
listen_tls = ["127.0.0.1:{tls}"]
state = "state"
admin = ["127.0.0.1:{admin}"]
certfile = "{certificate}"
keyfile = "{key}"
default_host = "shop.test"
[projects.shop]
source = "shop"
hosts = ["shop.test", "localhost"]
https = "optional"
[projects.shop.static]
"/static" = "static"
[projects.shop.web]
app = "app:app"
python = "{python}"
workers = 2
[projects.talk]
source = "talk"
hosts = ["talk.test"]
https = "optional"
[projects.talk.web]
app = "app:app"
python = "{python}"
"""


@pytest.fixture
def served(host, tmp_path, tls):
    for name, app in (("shop", WSGI), ("talk", ASGI)):
        (tmp_path / name / "static").mkdir(parents=True)
        (tmp_path / name / "app.py").write_text(app)
    with open(tmp_path / "shop" / "static" / "large", "wb") as file:
        file.truncate(50_000_000)
    port, tls_port, admin = (harness.free_port() for _ in range(3))
    (tmp_path / "ostler.toml").write_text(SERVER.format(
        port=port, tls=tls_port, admin=admin, certificate=tls[0], key=tls[1], python=sys.executable,
    ))
    running = host.serve(port=port, ready="shop: ready")
    running.log.wait("talk: ready")
    running.tls_port, running.certificate, running.admin = tls_port, tls[0], admin
    return running


def good_client(running, seconds, enough=lambda: True):
    """What somebody else sees: milliseconds of each request, on one connection and now and then on a new one. It goes on
    until there is enough of what happens beside it, too, though not for ever."""
    found, end = [], time.monotonic() + seconds
    kept = running.raw(source=GOOD)
    for number in range(10**9):
        if time.monotonic() > end and (enough() or time.monotonic() > end + 60):
            break
        raw = running.raw(source=GOOD) if number % 10 == 0 else kept
        began = time.monotonic()
        answer = raw.send(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").answer()
        found.append(1000 * (time.monotonic() - began))
        assert (answer.status, answer.body) == (200, b"ok"), answer
        if raw is not kept:
            raw.socket.close()
        time.sleep(0.005)  # its pace
    kept.socket.close()
    return found


class Watch(threading.Thread):
    """The most that keeper and server take, in bytes of memory (PSS) and of spool files."""

    def __init__(self, running):
        super().__init__(daemon=True)
        self.processes = [psutil.Process(running.process.pid), running.server()]
        self.quiet, self.over = self.memory(), threading.Event()
        self.held = self.spooled = 0
        self.start()

    def memory(self):
        return sum(process.memory_full_info().pss for process in self.processes)

    def run(self):
        while not self.over.wait(0.3):
            self.held = max(self.held, self.memory() - self.quiet)
            self.spooled = max(self.spooled, spooled(self.processes[1].pid))

    def finish(self):
        self.over.set()
        self.join()
        return self.held, self.spooled


def spooled(pid):
    """Bytes of files without a name that a process has."""
    total, folder = 0, f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            target = os.readlink(f"{folder}/{name}")
            if target.endswith("(deleted)") and target.startswith("/") and "memfd" not in target:
                total += os.stat(f"{folder}/{name}").st_size
    return total


class Abuse:
    """`abuse.py`, with less of a claim to the processors than anybody else."""

    def __init__(self, port, tls_port, certificate, scale):
        command = [sys.executable, harness.HERE / "abuse.py", port, tls_port, certificate, BAD, scale]
        self.process = subprocess.Popen(
            ["nice", "-n", "10", *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        self.said = harness.Log()
        self.said.follow(self.process.stdout)
        self.said.wait("^holding$", 60)

    def enough(self):
        return bool(self.said.matches("^enough$"))

    def finish(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.said.join()
        return json.loads(self.said.lines[-1])


class Sink:
    """Accepts and reads, and does nothing else: what attackers and a good client cost each other without a server
    between them."""

    def __enter__(self):
        code = (
            "import selectors, socket\n"
            "look, listener = selectors.DefaultSelector(), socket.create_server(('127.0.0.1', 0), backlog=1024)\n"
            "print(listener.getsockname()[1], flush=True)\n"
            "look.register(listener, selectors.EVENT_READ)\n"
            "while True:\n"
            "    for key, _ in look.select():\n"
            "        try:\n"
            "            if key.fileobj is listener:\n"
            "                one = listener.accept()[0]\n"
            "                look.register(one, selectors.EVENT_READ)\n"
            "            elif not key.fileobj.recv(65536):\n"
            "                raise ConnectionResetError\n"
            "        except OSError:\n"
            "            look.unregister(key.fileobj)\n"
            "            key.fileobj.close()\n"
        )
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        return int(self.process.stdout.readline())

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def seconds_of_processor(running):
    times = running.server().cpu_times()
    return times.user + times.system


def under_abuse(running, seconds, scale):
    quiet = good_client(running, min(seconds, 10))
    with Sink() as port:
        abuse = Abuse(port, 0, running.certificate, scale)
        control = good_client(running, min(seconds, 10))
        beside = abuse.finish()
    watch, before = Watch(running), seconds_of_processor(running)
    abuse, began = Abuse(running.port, running.tls_port, running.certificate, scale), time.monotonic()
    busy = good_client(running, seconds, abuse.enough)
    used, took = seconds_of_processor(running) - before, time.monotonic() - began
    did = abuse.finish()
    held, in_files = watch.finish()
    figures = {
        "quiet p99 ms": p99(quiet), "p99 ms beside attackers of a sink": p99(control), "p99 ms": p99(busy), "p50 ms": p99(sorted(busy)[: len(busy) // 2]),
        "longest ms": max(busy), "requests": len(busy), "held MiB": held / MIB, "spooled MiB": in_files / MIB,
        "processor of the server": used / took,
    }
    figures = {name: round(value, 2) for name, value in figures.items()}
    print(json.dumps({**figures, "attackers": did, "processor of a sink's attackers": beside["seconds of processor"]}))
    return figures, did


def test_every_abuse_at_once_from_one_address_hurts_nobody(served):
    # That every answer was right is judged on the way; how soon it came, in the long form: tests run beside each other.
    figures, did = under_abuse(served, 6, 1)
    made = lambda kind: did.get(kind, 0) + did.get(f"{kind}, sent away", 0)
    assert did["came to hold"] == 165 and made("garbage") > 20 and made("floods of HTTP/2") > 3, did
    assert figures["held MiB"] <= 64 and figures["spooled MiB"] <= SPOOL, figures


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_every_abuse_at_once_for_a_minute_from_one_address_hurts_nobody(served):
    figures, did = under_abuse(served, 60, 8)
    assert figures["held MiB"] <= 64 and figures["spooled MiB"] <= SPOOL, figures
    assert figures["p99 ms"] <= max(2 * figures["quiet p99 ms"], 10), figures
