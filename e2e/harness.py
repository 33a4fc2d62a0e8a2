"""Starts the real binary with a real app, watches every process of it, and talks raw bytes to it.

Nothing here knows how ostler works inside: it reads the log, the process table and the socket.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
APPS = HERE / "apps"
OSTLER = Path(os.environ.get("OSTLER_BIN", ROOT / "target" / "debug" / "ostler")).resolve()

START_SECONDS = 30.0
"""From the start of the binary to `ready`; a loaded two-core machine needs a few."""

STOP_SECONDS = 40.0
"""From SIGTERM to the end: gunicorn's graceful_timeout (30 s) and some air."""

PATIENCE = 25.0
"""For what happens soon by itself. Less than 30 s: what ends by a time that nobody has set must not pass for it."""

MARK = "OSTLER_E2E_ID"
"""Set in the environment of everything a test starts, so that a process that got away is found."""


class Host:
    """One `ostler run`, its log and its processes."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str], port: int, disk=None) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.mark = uuid.uuid4().hex
        self.log = Log()
        self.command = command
        started = {**os.environ, **env, MARK: self.mark, "PYTHONUNBUFFERED": "1"}
        for name in ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY", "PORT", "VIRTUAL_ENV", "FORWARDED_ALLOW_IPS"):
            if name not in env:
                started.pop(name, None)
        self.process = subprocess.Popen(
            disk.wrap(command) if disk else command, cwd=cwd, env=started, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            pass_fds=[disk.theirs.fileno()] if disk else [],
        )
        if disk:
            disk.attach()
        self.log.follow(self.process.stdout)
        self.log.follow(self.process.stderr)

    # Waiting

    def wait_ready(self, seconds: float = START_SECONDS) -> "Host":
        self.log.wait(r"\bready\b", seconds, alive=self.alive)
        return self

    def wait_exit(self, seconds: float = STOP_SECONDS) -> int:
        """The exit code, as a shell shows it: 128 + n for a signal. The log is complete after it."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s\n{self.tree()}\n{self.log}") from None
        self.log.join()
        return code if code >= 0 else 128 - code

    def alive(self) -> bool:
        return self.process.poll() is None

    # Acting

    def kill(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.alive():
            self.kill(number)
        return self.wait_exit()

    def get(self, path: str = "/", headers: dict[str, str] | None = None, timeout: float = 20.0) -> "Answer":
        return self.request("GET", path, headers, timeout=timeout)

    def request(self, method, path="/", headers=None, body=b"", timeout=20.0, source=None) -> "Answer":
        """One request on its own connection, framed by the plainest client there is."""
        lines = {"Host": f"127.0.0.1:{self.port}", "Connection": "close", **(headers or {})}
        if body or method in ("POST", "PUT", "PATCH"):
            lines.setdefault("Content-Length", str(len(body)))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        with self.raw(timeout, source) as raw:
            raw.send(head.encode("latin-1") + b"\r\n" + body)
            return raw.answer(head_only=method == "HEAD")

    def raw(self, timeout: float = 10.0, source: str | None = None) -> "Raw":
        return Raw(("127.0.0.1", self.port), timeout, source)

    # Looking

    def processes(self) -> list[psutil.Process]:
        """Every live process that was started by this one, orphans included."""
        return marked(self.mark)

    def server(self) -> psutil.Process:
        return next(p for p in self._children(self.process.pid) if "__server" in command_line(p))

    def zygotes(self) -> list[psutil.Process]:
        return [p for p in self._children(self.process.pid) if "python" in executable(p)]

    def workers(self) -> list[psutil.Process]:
        """The processes forked from a zygote, oldest first."""
        forked = [p for zygote in self.zygotes() for p in self._children(zygote.pid) if "ostler: hooks" not in " ".join(command_line(p))]
        return sorted(forked, key=lambda p: (p.create_time(), p.pid))

    def tree(self) -> str:
        rows = [f"{p.pid} <- {p.ppid()} {p.status()} {' '.join(command_line(p))[:150]}" for p in self.processes()]
        return "\n".join(rows)

    @staticmethod
    def _children(pid: int) -> list[psutil.Process]:
        def lives(process: psutil.Process) -> bool:
            try:
                return process.status() != psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return False

        try:
            return [p for p in psutil.Process(pid).children() if lives(p)]
        except psutil.NoSuchProcess:
            return []


class Log:
    """What a process wrote, line by line, with waiting for a line instead of sleeping."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def follow(self, stream) -> None:
        thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def wait(self, pattern: str, seconds: float = PATIENCE, count: int = 1, alive=lambda: True) -> re.Match[str]:
        """The `count`-th line that matches, waiting for it. Fails at once when the process ended."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                found = self.matches(pattern)
                if len(found) >= count:
                    return found[count - 1]
                over = not alive() and not any(t.is_alive() for t in self._threads)
                left = deadline - time.monotonic()
                if over or left <= 0:
                    why = "the process ended" if over else f"{seconds} s passed"
                    raise AssertionError(f"no line matches {pattern!r} ({why}); the log:\n{self}")
                self._changed.wait(min(left, 0.2))

    def matches(self, pattern: str) -> list[re.Match[str]]:
        return [found for line in list(self.lines) if (found := re.search(pattern, line))]

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)

    def _read(self, stream) -> None:
        for line in stream:
            with self._changed:
                self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                self._changed.notify_all()

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return "\n".join(self.lines[-200:])


@dataclass
class Answer:
    """One response as it came over the wire."""

    status: int
    reason: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = True
    """False when the connection ended before the framing said it may."""

    def header(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class Raw:
    """A socket that sends exactly the bytes it is told and reads responses one by one.

    The address is the path of a UNIX socket, (host, port), (host, port, certificate) for TLS, or
    (host, port, certificate, name) to ask for the host `name` whatever the certificate is for."""

    def __init__(self, address, timeout: float = 10.0, source: str | None = None) -> None:
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(address)
        else:
            host, port, *certificate = address
            self.socket = socket.create_connection((host, port), timeout, (source, 0) if source else None)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if certificate:
                context = ssl.create_default_context(cafile=certificate[0])
                context.check_hostname = len(certificate) == 1
                name = (certificate[1:] or ["localhost"])[0]
                self.socket = context.wrap_socket(self.socket, server_hostname=name)
        self._buffer = bytearray()

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def send(self, data: bytes) -> "Raw":
        """Sends; a peer that has hung up meanwhile is no error here, its answer is what counts."""
        try:
            self.socket.sendall(data)
        except OSError:
            pass
        return self

    def finish(self) -> "Raw":
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def answer(self, head_only: bool = False) -> Answer:
        """The next response that is not 1xx."""
        while True:
            answer = self.any_answer(head_only)
            if answer.status >= 200 or answer.status == 101:
                return answer

    def any_answer(self, head_only: bool = False) -> Answer:
        """The next response, 1xx too. Raises EOFError when the connection ends before its head."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            raise EOFError(f"closed before a response head; received {bytes(self._buffer)!r}")
        status_line, *lines = head[:-4].decode("latin-1").split("\r\n")
        _, status, *reason = status_line.split(" ", 2)
        headers = [(name, value.strip()) for name, value in (line.split(":", 1) for line in lines)]
        answer = Answer(int(status), reason[0] if reason else "", headers)
        if not head_only and answer.status >= 200 and answer.status not in (204, 304):
            answer.body, answer.complete = self.body(answer)
        return answer

    def body(self, answer: Answer) -> tuple[bytes, bool]:
        if (answer.header("Transfer-Encoding") or "").lower() == "chunked":
            return self._chunks()
        if (length := answer.header("Content-Length")) is not None:
            body = self._exactly(int(length))
            return body, len(body) == int(length)
        rest = self.rest()
        return rest, True

    def _chunks(self) -> tuple[bytes, bool]:
        body = bytearray()
        while True:
            line = self._until(b"\r\n")
            if line is None:
                return bytes(body), False
            size = int(line.split(b";")[0], 16)
            data = self._exactly(size + 2)
            if len(data) != size + 2:
                return bytes(body + data), False
            if size == 0:
                return bytes(body), True
            body += data[:-2]

    def _until(self, end: bytes) -> bytes | None:
        while end not in self._buffer:
            if not self._more():
                return None
        return self._taken(self._buffer.index(end) + len(end))

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size and self._more():
            pass
        return self._taken(size)

    def _taken(self, size: int) -> bytes:
        """The first so many bytes of the buffer, which are gone from it then."""
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except (ConnectionResetError, ssl.SSLEOFError):
            return False
        self._buffer += data
        return bool(data)

    def rest(self) -> bytes:
        """Everything until the peer closes."""
        while self._more():
            pass
        return self._taken(len(self._buffer))

    def closed_within(self, seconds: float) -> bool:
        """Whether the peer closes in time without sending another byte."""
        self.socket.settimeout(seconds)
        try:
            return not self._buffer and not self._more()
        except TimeoutError:
            return False


class Client(threading.Thread):
    """Sends one request after the other and notes what did not come back as 200. Never retries.

    `path` may hold `{n}`, which is the number of the request."""

    def __init__(self, host: Host, path="/", keep=True, method="GET", name="a") -> None:
        super().__init__(daemon=True)
        self.host, self.keep = host, keep
        body = "Content-Length: 2\r\n\r\nab" if method == "POST" else "\r\n"
        self.request = f"{method} {path} HTTP/1.1\r\nHost: {name}\r\n{body}"
        self.count, self.failures, self._stop_asked = 0, [], threading.Event()
        self.start()

    def run(self) -> None:
        raw = None
        while not self._stop_asked.is_set():
            try:
                if raw is None:
                    raw = self.host.raw(30)
                raw.send(self.request.format(n=self.count).encode())
                answer = raw.answer()
                if answer.status != 200 or not answer.complete:
                    self.failures.append(answer)
                if not self.keep or (answer.header("Connection") or "").lower() == "close":
                    raw.socket.close()
                    raw = None
            except (OSError, EOFError) as error:
                self.failures.append(error)
                raw = None
            self.count += 1

    def finish(self) -> "Client":
        self._stop_asked.set()
        self.join(60)
        return self


# WebSockets


def frame(opcode: int, payload: bytes) -> bytes:
    """One frame of a client, masked with zeros: the bytes stay readable."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2) if size < 65536 else b"\xff" + size.to_bytes(8)
    return bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload


# Metrics

SERIES = re.compile(r"([a-z_]+)(?:\{(.*)\})? (\S+)")


def scrape(address) -> dict[tuple[str, str], float]:
    """Every series there as {(name, labels): value}."""
    with Raw(address) as raw:
        answer = raw.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").answer()
    assert answer.status == 200 and answer.header("Content-Type").startswith("text/plain; version=0.0.4")
    series = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            name, labels, value = SERIES.fullmatch(line).groups()
            assert (name, labels) not in series, line
            series[name, labels or ""] = float(value)
    return series


# Processes


def marked(mark: str) -> list[psutil.Process]:
    """Every live process with this mark in the environment it was started with."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                process = psutil.Process(int(entry.name))
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        except (OSError, psutil.NoSuchProcess):
            pass
    return found


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def executable(process: psutil.Process) -> str:
    try:
        return os.path.basename(process.exe())
    except psutil.Error:
        return ""


def eventually(check, seconds: float = PATIENCE, what: str = ""):
    """The first true value of `check()`. For what has no event to wait for: the process table, files."""
    deadline = time.monotonic() + seconds
    while True:
        if value := check():
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or check}"
        time.sleep(0.02)


_taken = itertools.count()


def free_port() -> int:
    """A port below the kernel's own range, and not one that another xdist worker picks."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    while True:
        port = 18000 + (worker % 14) * 1000 + (os.getpid() + next(_taken)) % 1000
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def start(target="app:app", *args, source=None, cwd=None, env=None, bind=None, folder=None, python=sys.executable, disk=None, program=OSTLER) -> Host:
    """Starts `ostler run TARGET ARGS`; see the `host` fixture for what the parts mean."""
    if source is not None:
        cwd = cwd or folder
        module = target.partition(":")[0].replace(".", "/")
        path = Path(cwd) / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    port = free_port()
    command = [str(program), "run"]
    if target:
        command.append(target)
    if bind is None:
        bind = f"127.0.0.1:{port}"
    if bind:
        command += ["--bind", bind]
    if python:
        command += ["--python", str(python)]
    return Host(command + [str(arg) for arg in args], Path(cwd or APPS), env or {}, port, disk)


def serve(*args, folder: Path, port: int, env=None, program=OSTLER) -> Host:
    """Starts `ostler serve ARGS` in `folder`, where it is to listen on `port`."""
    command = [str(program), "serve", *map(str, args)]
    return Host(command, folder, env or {}, port)
