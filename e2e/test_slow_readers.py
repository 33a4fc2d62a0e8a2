"""Clients that fall behind with reading: nothing is lost, nothing waits for ever, and who reads on is served."""

import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import Raw, eventually


class Reader:
    """A client with little room of its own; behind a `narrow` line little fits into the server's send buffer as well,
    which grows with the size of a segment and holds megabytes on loopback."""

    def __init__(self, host, certificate=None, timeout=20, narrow=True):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        if narrow:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", host.port))
        if certificate:
            context = ssl.create_default_context(cafile=certificate)
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.seen = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def get(self, path, version="1.1"):
        self.socket.sendall(f"GET {path} HTTP/{version}\r\nHost: a\r\n\r\n".encode())
        return self

    def read_until(self, end):
        """Reads until `end` came; all that was read until then is gone after it."""
        while (at := self.seen.find(end)) < 0:
            piece = self.socket.recv(65536)
            assert piece, f"closed before {end!r}; the last bytes: {bytes(self.seen[-100:])!r}"
            self.seen += piece
        read = bytes(self.seen[: at + len(end)])
        del self.seen[: at + len(end)]
        return read


def secure(tls):
    return "--certfile", tls[0], "--keyfile", tls[1]


def ask(running, tls, path):
    with running.raw(20) if tls is None else tls_raw(running, tls) as raw:
        answer = raw.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()).answer()
        assert answer.status == 200
        return answer.text


def tls_raw(running, tls):
    return Raw(("127.0.0.1", running.port, tls[0]), 20)


ENDLESS = """
import threading
made, over = 0, threading.Event()

def app(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [])
    if path == "/made":
        return [b"%d" % made]
    if path == "/over":
        over.set()
        return [b"yes"]
    return endless()

def endless():
    global made
    for n in range(160):
        yield b"%07d|" % n * 8192
        made += 1
    yield b"no more for now"
    over.wait()
"""


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_slow_reader_of_an_app_that_does_not_end_gets_all_that_there_is(host, tls, kind):
    """10 MB wait in the server while the app goes on: the reader gets all of it, not only what fitted into memory."""
    tls = tls if kind == "tls" else None
    running = host("app:app", "--threads", "2", "--graceful-timeout", 1, *(secure(tls) if tls else ()), source=ENDLESS)
    with Reader(running, tls and tls[0]) as reader:
        reader.get("/")
        eventually(lambda: ask(running, tls, "/made") == "160", 20, "everything is taken off the worker")
        body = reader.read_until(b"no more for now")
        pieces = [body.index(b"%07d|" % n * 8192) for n in range(160)]
        assert pieces == sorted(pieces)
        ask(running, tls, "/over")
        reader.read_until(b"\r\n0\r\n\r\n")


EVENTS = """
import asyncio
events = None

async def app(scope, receive, send):
    global events
    kind = b"text/event-stream" if scope["path"] == "/events" else b"text/plain"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    if scope["path"] != "/events":
        first, last = map(int, scope["path"].split("/")[2:])
        for n in range(first, last):
            events.put_nowait(b"data: %07d %s\\n\\n" % (n, b"." * 1000))
        await events.join()
        await send({"type": "http.response.body", "body": b"sent"})
        return
    events = asyncio.Queue()
    await send({"type": "http.response.body", "body": b"data: hello\\n\\n", "more_body": True})
    while True:
        await send({"type": "http.response.body", "body": await events.get(), "more_body": True})
        events.task_done()
"""


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_reader_of_events_that_fell_behind_catches_up_before_the_next_event(host, tls, kind):
    """Bursts of growing size, each read only once it is sent: one of them ends where the kernel takes no more, and
    its last events must not wait for another one. (HTTP/1.0, so that no chunk may cut an event in two.)"""
    tls = tls if kind == "tls" else None
    options = secure(tls) if tls else ()
    running = host("app:app", "--interface", "asgi", "--edge-threads", 1, "--graceful-timeout", 1, *options, source=EVENTS)
    with Reader(running, tls and tls[0]) as reader:
        reader.get("/events", "1.0").read_until(b"data: hello\n\n")
        first = 0
        for burst in range(8, 320, 8):
            assert ask(running, tls, f"/emit/{first}/{first + burst}") == "sent"
            read = reader.read_until(b"data: %07d %s\n\n" % (first + burst - 1, b"." * 1000))
            assert read.count(b"data: ") == burst
            first += burst


STEADY = """
import threading
over = threading.Event()

def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/over":
        over.set()
        return []
    return body(environ["PATH_INFO"] == "/endless")

def body(endless):
    for n in range(160):
        yield b"%07d|" % n * 8192
    yield b"the end"
    if endless:
        over.wait()
"""


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_slow_but_steady_reader_is_not_given_up(host, tls, kind, tmp_path):
    """150 KB a second from a send buffer of megabytes: the socket becomes writable only every few seconds, longer than
    --write-timeout, though the client never stops reading."""
    whole = b"".join(b"%07d|" % n * 8192 for n in range(160)) + b"the end"
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "file").write_bytes(whole)
    tls = tls if kind == "tls" else None
    options = ["--write-timeout", 4, "--threads", 4, "--static", f"/static={tmp_path / 'static'}", *(secure(tls) if tls else ())]
    running = host("app:app", *options, source=STEADY)

    def read_steadily(path):
        with Reader(running, tls and tls[0], narrow=False) as reader:
            reader.get(path, "1.0")
            end = time.monotonic() + 10
            while time.monotonic() < end:
                reader.seen += reader.socket.recv(30_000)
                time.sleep(0.2)
            return reader.read_until(b"the end").endswith(whole)

    with ThreadPoolExecutor() as threads:
        asked = {path: threads.submit(read_steadily, path) for path in ["/whole", "/endless", "/static/file"]}
        failed = {path: read.exception() for path, read in asked.items() if read.exception() or not read.result()}
        ask(running, tls, "/over")
    assert not failed


HINTS = """
import threading
done = threading.Event()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/done":
        start_response("200 OK", [])
        return [b"%d" % done.is_set()]
    for n in range(20_000):
        environ["wsgi.early_hints"]([("Link", "</%d>; rel=preload; as=%s" % (n, "x" * 8000))])
    done.set()
    start_response("200 OK", [("Content-Length", "4")])
    return [b"page"]
"""


def test_early_hints_for_a_client_that_does_not_read_take_no_memory(host):
    """160 MB of hints: those that find no room are left out, the response is not."""
    running = host("app:app", "--threads", 2, source=HINTS)
    before = running.server().memory_info().rss
    with Reader(running, narrow=False) as reader:
        reader.get("/")
        eventually(lambda: ask(running, None, "/done") == "1", 20, "the app has sent all of its hints")
        assert running.server().memory_info().rss - before < 30_000_000
        assert reader.read_until(b"page").count(b"HTTP/1.1 200 OK\r\n") == 1
