"""WebSockets over HTTP/2 (RFC 8441): a stream of a connection that carries other requests too."""

import json
import os
import signal

import pytest

from harness import eventually, frame
from http2 import Http2
from test_http2 import ASGI, connect, seen, start  # noqa: F401

ENABLE_CONNECT_PROTOCOL = 8


class Socket:
    """A WebSocket on a stream."""

    def __init__(self, client, path="/echo", more=(), authority="localhost"):
        client.until(lambda: ENABLE_CONNECT_PROTOCOL in client.settings, "settings")
        assert client.settings[ENABLE_CONNECT_PROTOCOL] == 1
        self.client, self.at = client, 0
        self.number = client.headers([
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", path),
            (":authority", authority), ("sec-websocket-version", "13"), *more,
        ], end=False)
        self.stream = client.streams[self.number]
        client.until(lambda: self.stream.heads, "a head")

    @property
    def head(self):
        return dict(self.stream.heads[0])

    def send(self, payload, opcode=None):
        text = isinstance(payload, str)
        data = frame(opcode or (1 if text else 2), payload.encode() if text else payload)
        for at in range(0, len(data), 16384):
            self.client.data(self.number, data[at : at + 16384])

    def receive(self):
        """(opcode, payload) of the next frame."""
        opcode, length = self.take(2)
        assert length < 128, "a server does not mask"
        if length > 125:
            length = int.from_bytes(self.take(2 if length == 126 else 8))
        return opcode & 15, self.take(length)

    def take(self, count):
        self.client.until(lambda: len(self.stream.body) >= self.at + count, "bytes")
        self.at += count
        return bytes(self.stream.body[self.at - count : self.at])


@pytest.fixture(scope="module")
def asgi(module_host, module_tls):
    return start(module_host, module_tls)


@pytest.mark.smoke
def test_messages_both_ways_beside_other_requests(asgi):
    with connect(asgi) as client:
        sockets = [Socket(client) for _ in range(3)]
        for n, socket in enumerate(sockets):
            assert socket.head[":status"] == "200"
            assert not {"upgrade", "connection", "sec-websocket-accept"} & set(socket.head)
            socket.send(f"hello {n}")
            assert socket.receive() == (1, f"hello {n}".encode())
            socket.send(b"\0" * 30_000)
            assert socket.receive() == (2, b"\0" * 30_000)
        assert client.get("/scope").status == 200
        assert ["2", "wss"] in seen(asgi)


def test_closing_handshake_ends_the_stream(asgi):
    with connect(asgi) as client:
        socket = Socket(client)
        socket.send((1000).to_bytes(2), opcode=8)
        assert socket.receive() == (8, (1000).to_bytes(2))
        client.data(socket.number, end=True)
        assert client.answer(socket.number).ended
        eventually(lambda: 1000 in seen(asgi))
        assert client.get("/scope").status == 200


def test_subprotocol_and_compression(asgi):
    with connect(asgi) as client:
        socket = Socket(client, more=[
            ("sec-websocket-protocol", "chat, other"), ("sec-websocket-extensions", "permessage-deflate"),
        ])
        assert socket.head["sec-websocket-protocol"] == "chat"
        assert socket.head["sec-websocket-extensions"].startswith("permessage-deflate")


def test_refusals(asgi):
    with connect(asgi) as client:
        assert Socket(client, "/refuse").head[":status"] == "403"
        base = [(":method", "CONNECT"), (":scheme", "https"), (":path", "/echo"), (":authority", "localhost")]
        for more, status in (
            ([(":protocol", "websocket")], 426),
            ([(":protocol", "websocket"), ("sec-websocket-version", "13"), ("content-length", "5")], 400),
            ([(":protocol", "websocket"), ("sec-websocket-version", "8")], 426),
            ([(":protocol", "connect-udp")], 501),
        ):
            fields = base + more
            assert client.answer(client.headers(fields, end=False)).status == status, more
        assert client.get("/scope").status == 200


def test_a_reset_is_the_end_of_a_socket(asgi):
    with connect(asgi) as client:
        socket = Socket(client)
        socket.send("x")
        socket.receive()
        client.reset(socket.number)
        eventually(lambda: 1006 in seen(asgi))
        assert client.get("/scope").status == 200


def test_a_broken_frame_closes_with_its_code(asgi):
    with connect(asgi) as client:
        socket = Socket(client)
        client.data(socket.number, b"\x81\x01x")
        opcode, payload = socket.receive()
        assert (opcode, payload[:2]) == (8, (1002).to_bytes(2))


def test_stop_says_1012_on_every_stream(host, tls):
    served = start(host, tls)
    with connect(served) as client:
        sockets = [Socket(client) for _ in range(3)]
        served.host.kill(signal.SIGTERM)
        for socket in sockets:
            assert socket.receive() == (8, (1012).to_bytes(2))
            client.data(socket.number, frame(8, (1012).to_bytes(2)), end=True)
        assert client.end(30) == 0
    assert served.host.wait_exit() == 0


WSGI = """
import simple_websocket
def app(environ, start_response):
    if environ["PATH_INFO"] == "/plain":
        start_response("200 OK", [("Content-Length", "5")])
        return [b"plain"]
    assert environ["SERVER_PROTOCOL"] == "HTTP/2.0"
    socket = simple_websocket.Server.accept(environ)
    try:
        while True:
            socket.send(socket.receive())
    except simple_websocket.ConnectionClosed:
        pass
    return []
"""


def test_a_wsgi_app_frames_for_itself(host, tls):
    served = start(host, tls, source=WSGI, interface="wsgi")
    with connect(served) as client:
        sockets = [Socket(client) for _ in range(5)]
        for n, socket in enumerate(sockets):
            assert socket.head[":status"] == "200" and "sec-websocket-accept" not in socket.head
            socket.send(f"hello {n}")
            assert socket.receive() == (1, f"hello {n}".encode())
        assert client.get("/plain").body == b"plain"
        message = os.urandom(300_000)
        sockets[0].client.socket.settimeout(20)
        for at in range(0, 300_000, 30_000):
            sockets[0].send(message[at : at + 30_000])
            assert sockets[0].receive() == (2, message[at : at + 30_000])
        # Whether the app's library answers is open: it tells the app first, which may return before.
        sockets[1].send((1000).to_bytes(2), opcode=8)
        client.data(sockets[1].number, end=True)
        assert client.answer(sockets[1].number).ended
        assert served.host.stop() == 0
