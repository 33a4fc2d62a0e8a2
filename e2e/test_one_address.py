"""What one address makes us hold has a sum, however many connections, streams and messages it is spread over; whoever
comes from another address is served."""

import contextlib
import socket

import psutil
import pytest

from harness import Raw, eventually, frame, scrape
from http2 import REFUSED_STREAM, Http2
from test_soak_abuse import BAD, GOOD, MIB, served, spooled  # noqa: F401


def hello(running):
    with running.raw(source=GOOD) as raw:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").answer().body == b"ok"


def websocket(running, source, path="/socket"):
    raw = running.raw(20, source)
    raw.send(
        f"GET {path} HTTP/1.1\r\nHost: talk.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n".encode() +
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert raw.answer().status == 101
    return raw


def test_messages_without_an_end(served):
    begun = bytearray(frame(2, bytes(7 * MIB)))
    begun[0] &= 0x7F
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(websocket(served, BAD)) for _ in range(5)]
        for raw in sockets:
            # All of it is there when what comes behind it is answered.
            said = raw.send(bytes(begun)).send(frame(9, b"?")).socket.recv(100)
            if said != b"\x8a\x01?":
                break
        assert sockets.index(raw) >= 1 and b"\x03\xf5" in said + raw.rest(), "1013: try again later"
        other = held.enter_context(websocket(served, GOOD))
        assert other.send(bytes(begun)).send(frame(9, b"!")).socket.recv(100) == b"\x8a\x01!"
        sockets[0].send(frame(8, b"\x03\xe8"))
        sockets[0].rest()
        again = held.enter_context(websocket(served, BAD))
        again.send(bytes(begun))
        assert again.send(frame(9, b"?")).socket.recv(100) == b"\x8a\x01?", "there is room again"


def test_streams_that_nobody_reads(served):
    server = served.server()
    before = server.memory_full_info().pss
    with contextlib.ExitStack() as held:
        clients = [
            held.enter_context(Http2(served.tls_port, served.certificate, settings={4: 0}, reads=False, source=BAD))
            for _ in range(12)
        ]
        for client in clients:
            for _ in range(100):
                client.ask("/large/200000")
            # Each is answered with a head, or refused: who holds much gets nothing more of a slot.
            client.until(lambda: all(s.heads or s.reset is not None for s in client.streams.values()), "all heads")
        resets = [s.reset for client in clients for s in client.streams.values() if s.reset is not None]
        assert set(resets) == {REFUSED_STREAM} and 150 < len(resets) < 700, len(resets)
        hello(served)
        with Http2(served.tls_port, served.certificate, source=GOOD) as other:
            assert other.get("/large/200000").body == bytes(200_000)
        assert server.memory_full_info().pss - before < 64 * MIB
        assert spooled(server.pid) > 50 * MIB, "the answers are there, and not in memory"
        assert scrape(("127.0.0.1", served.admin))["ostler_refused_total", 'reason="address_full"'] == len(resets)
    eventually(lambda: spooled(server.pid) == 0, 10, "nothing is left of them")


@pytest.mark.parametrize("size", [30_000_000])
def test_bodies_of_which_the_last_byte_is_missing(served, size):
    """More than an address may have in spool files: who is too much is told so, and what was whole goes on."""
    head = b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: %d\r\n\r\n" % (size + 1)
    with contextlib.ExitStack() as held:
        parked = [held.enter_context(served.raw(20, BAD)) for _ in range(9)]
        for raw in parked[:8]:
            raw.send(head + bytes(size))
        server = psutil.Process(served.server().pid)
        eventually(lambda: spooled(server.pid) >= 8 * (size - 65536), 20, "eight bodies lie there")
        refused = parked[8].send(head + bytes(size)).answer()
        assert refused.status == 503 and "reason: address_full" in refused.text and refused.header("Retry-After")
        with served.raw(20, GOOD) as other:
            assert other.send(head + bytes(size + 1)).answer().body == b"ok"
        assert parked[0].send(b"!").answer().body == b"ok"
        again = held.enter_context(served.raw(20, BAD))
        assert again.send(head + bytes(size + 1)).answer().body == b"ok"


def test_whole_messages_that_the_app_does_not_take(served, tmp_path):
    server = served.server()
    before = server.memory_full_info().pss
    workers_before = sum(worker.memory_full_info().uss for worker in served.workers())
    message = frame(2, bytes(15 * MIB))

    def refused(raw):
        with contextlib.suppress(BlockingIOError, ConnectionError):
            return b"\x03\xf5" in raw.socket.recv(100, socket.MSG_PEEK)

    with contextlib.ExitStack() as held:
        sockets = []
        for _ in range(8):
            raw = held.enter_context(websocket(served, BAD, "/deaf"))
            raw.socket.settimeout(1)
            # One whose messages wait is not read any more; there is no room for another.
            for _ in range(4):
                raw.send(message)
                assert server.memory_full_info().pss - before < 64 * MIB
            raw.socket.setblocking(False)
            sockets.append(raw)
        eventually(lambda: sum(map(bool, map(refused, sockets))) >= 4, what="1013: try again later")
        # The worker holds a message of one that the app does not take, and asks for no other.
        assert sum(worker.memory_full_info().uss for worker in served.workers()) - workers_before < 64 * MIB
        hello(served)
        (tmp_path / "talk" / "heard").touch()


@pytest.mark.parametrize("path", ["/static/large", "/file"])
def test_files_that_nobody_reads_over_tls(served, path):
    server = served.server()
    before = server.memory_full_info().pss
    address = ("127.0.0.1", served.tls_port, str(served.certificate))
    with contextlib.ExitStack() as held:
        for _ in range(200):
            raw = held.enter_context(Raw(address, 20, BAD))
            raw.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert raw.answer(head_only=True).status == 200
        assert server.memory_full_info().pss - before < 64 * MIB
        hello(served)
