"""Clients that wear a server out, for the tests of one kind and for the test of all kinds at once."""

import socket
import threading

from hyperframe.frame import (
    ContinuationFrame, DataFrame, HeadersFrame, PingFrame, PriorityFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame,
)


class Crowd:
    """Many slow connections, each doing as `act(socket)` says now and then; from addresses of their own, or all
    from `source`, which may be sent away: `refused` counts."""

    def __init__(self, host, count, first, act, source=None, narrow=False):
        self.sockets, self.refused = [], 0
        for n in range(count):
            one = socket.socket()
            if narrow:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(10)
            one.bind((source or f"127.0.{10 + n // 200}.{1 + n % 200}", 0))
            self.sockets.append(one)
            try:
                one.connect(("127.0.0.1", host.port))
                one.sendall(first)
            except OSError:
                if source is None:
                    raise
                self.refused += 1
        self.act, self.over = act, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over.wait(0.5):
            for one in self.sockets:
                try:
                    self.act(one)
                except OSError:
                    pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        for one in self.sockets:
            one.close()


CROWDS = {
    "heads": (b"GET / HTTP/1.1\r\nHost: a\r\n", lambda s: s.sendall(b"X: y\r\n")),
    "bodies": (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n", lambda s: s.sendall(b"x")),
    "readers": (b"GET /large/2000000 HTTP/1.1\r\nHost: a\r\n\r\n", lambda s: s.recv(32, socket.MSG_DONTWAIT)),
}


# HTTP/2: each makes the next bytes of a flood


def request(client, path="/slow", end=True, **more):
    stream, fields = client.take_stream(), [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", path)]
    flags = ["END_HEADERS", *(["END_STREAM"] if end else [])]
    return stream, HeadersFrame(stream, client.encoder.encode(fields), flags=flags, **more).serialize()


def rapid_reset(client):
    """CVE-2023-44487."""

    def make():
        stream, head = request(client)
        return head + RstStreamFrame(stream, 8).serialize()

    return make


OFFENCES = ["window", "zero increment", "data behind the end", "headers behind the end", "dependency"]


def made_you_reset(client, how):
    """CVE-2025-8671: the client's offence makes the server reset the stream."""

    def make():
        stream, head = request(client, end=how not in ("window", "zero increment"))
        return head + {
            "window": lambda: WindowUpdateFrame(stream, 2**31 - 1).serialize(),
            "zero increment": lambda: b"\0\0\4\x08\0" + stream.to_bytes(4) + b"\0\0\0\0",
            "data behind the end": lambda: DataFrame(stream, b"x").serialize(),
            "headers behind the end": lambda: HeadersFrame(stream, client.encoder.encode([("a", "b")]), flags=["END_HEADERS"]).serialize(),
            "dependency": lambda: PriorityFrame(stream, depends_on=stream, stream_weight=1).serialize(),
        }[how]()

    return make


FLOODS = {
    "ping": lambda: PingFrame(0, b"12345678").serialize(),
    "settings": lambda: SettingsFrame(0, settings={4: 65535}).serialize(),
    "priority": lambda: PriorityFrame(3, depends_on=1, stream_weight=5).serialize(),
    "unknown": lambda: b"\0\0\4\x99\0\0\0\0\0" + b"1234",
}


def empty_data(client):
    """RUSTSEC-2026-0258: frames that bring a body no further."""
    stream, head = request(client, "/body", end=False)
    client.write(head)
    return lambda: DataFrame(stream, b"").serialize()


def continuation(client, is_empty):
    """RUSTSEC-2024-0332."""
    stream = client.take_stream()
    client.write(HeadersFrame(stream, client.encoder.encode([(":method", "GET")]), flags=["END_STREAM"]).serialize())
    block = b"" if is_empty else client.encoder.encode([("x", "y" * 100)])
    return lambda: ContinuationFrame(stream, block).serialize()


def hpack_bomb(client):
    """One large entry of the dynamic table, named again and again: small on the wire, large in memory."""
    base = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/bomb"), ("x", "y" * 3900)]
    client.encoder.huffman = False

    def make():
        stream = client.take_stream()
        block = client.encoder.encode(base) + b"\xbe" * 16_000
        first = HeadersFrame(stream, block[:16384], flags=["END_STREAM"])
        return first.serialize() + ContinuationFrame(stream, block[16384:], flags=["END_HEADERS"]).serialize()

    return make
