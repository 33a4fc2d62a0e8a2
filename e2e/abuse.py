"""Every abuse of `attackers.py` and some more at once, from one address, as a process of its own:

    python abuse.py PORT TLS_PORT CERTIFICATE SOURCE SCALE

Without a TLS_PORT (0) what needs one is left out. It says `holding` when everyone who only holds something is connected,
goes on with the floods until its standard input ends, and then says what it did. Meanwhile it says `enough` when there
were as many attacks of each kind as a test of all of them needs. SCALE is 1 for the short form: bytes that a body or an
answer has.
"""

import itertools
import json
import os
import random
import socket
import ssl
import sys
import threading
import time
import zlib
from collections import Counter
from types import SimpleNamespace

from hyperframe.frame import DataFrame

import attackers
from attackers import CROWDS, Crowd
from corpus import read
from harness import frame
from http2 import Http2

counts, over = Counter(), threading.Event()
NEVER = OSError, EOFError, AssertionError, ssl.SSLError
"""What ends an attack: it was sent away."""

ENOUGH = {"garbage": 21, "floods of HTTP/2": 4}


def nothing(_):
    pass


def crowds(host, certificate, source, scale):
    """Those who hold something: 165 connections of the 256 that an address has by default."""
    slow_read = CROWDS["readers"][1]

    def crowd(count, first, act=nothing, narrow=False, to=host):
        made = Crowd(to, count, first, act, source, narrow)
        counts["came to hold"] += count
        counts["came to hold, sent away"] += made.refused
        return made

    field = b"X: " + b"y" * 8000 + b"\r\n"
    size = scale * 2_000_000
    secure = SimpleNamespace(port=host.tls_port)
    yield crowd(20, *CROWDS["heads"])
    yield crowd(20, b"GET / HTTP/1.1\r\nHost: a\r\n" + field * 3, CROWDS["heads"][1])
    yield crowd(20, *CROWDS["bodies"])
    yield crowd(20, b"GET /large/%d HTTP/1.1\r\nHost: a\r\n\r\n" % size, slow_read, narrow=True)
    yield crowd(5, b"GET /static/large HTTP/1.1\r\nHost: a\r\n\r\n", slow_read, narrow=True)
    yield crowd(5, b"GET /large/200000 HTTP/1.1\r\nHost: a\r\n\r\n" * 200, slow_read, narrow=True)
    yield crowd(5, b"GET /events HTTP/1.1\r\nHost: talk.test\r\n\r\n", nothing, narrow=True)
    if host.tls_port:
        yield crowd(20, b"\x16\x03\x01\x02\x00\x01", to=secure)
        yield crowd(10, b"", to=secure)
    # Bodies of which only the last byte is missing.
    parked = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (size + 1)
    yield crowd(15, parked + bytes(size))
    # Messages without an end.
    head = b"GET /socket HTTP/1.1\r\nHost: talk.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    begun = bytearray(frame(2, bytes(scale * 2_000_000)))
    begun[0] &= 0x7F
    yield crowd(20, head + bytes(begun))
    yield crowd(5, head + frame(9, b"ping") * 20, lambda s: s.sendall(frame(9, b"ping") * 10))


def streams(host, certificate, source, scale):
    """Connections of HTTP/2 with a hundred open streams: answers that are not read, bodies that go nowhere."""
    for n in range(10):
        client = Http2(host.tls_port, certificate, settings={4: 0}, reads=False, timeout=5, source=source)
        for _ in range(100):
            client.ask("/large/200000")
        counts["streams that do not read"] += 100
        client.poll(0)
        yield client
    for n in range(5):
        client = Http2(host.tls_port, certificate, timeout=5, source=source)
        numbers = [client.ask("/echo", "POST", end=False) for _ in range(100)]
        for number in numbers[:8]:
            client.write(b"".join(DataFrame(number, bytes(16000)).serialize() for _ in range(8)))
        counts["streams that stop in their body"] += 100
        client.poll(0)
        yield client


def flood_of_http2(host, certificate, source):
    kinds = [
        attackers.rapid_reset, attackers.empty_data, attackers.hpack_bomb,
        lambda client: attackers.continuation(client, False), lambda client: attackers.continuation(client, True),
    ]
    kinds += [lambda client, how=how: attackers.made_you_reset(client, how) for how in attackers.OFFENCES]
    kinds += [lambda _, make=make: make for make in attackers.FLOODS.values()]
    for make in itertools.cycle(kinds):
        if over.wait(0.3):
            return
        with attempt("floods of HTTP/2"), Http2(host.tls_port, certificate, timeout=5, source=source) as client:
            make = make(client)
            for _ in range(200):
                if over.is_set() or not client.write(b"".join(make() for _ in range(10))) or client.closed:
                    break
                client.poll(0.005)


class attempt:
    """Counts; an attack that is sent away begins anew."""

    def __init__(self, kind):
        self.kind = kind

    def __enter__(self):
        pass

    def __exit__(self, kind, error, _):
        counts[self.kind if error is None else f"{self.kind}, sent away"] += 1
        return kind is not None and issubclass(kind, NEVER)


def say_enough():
    while any(counts[kind] + counts[f"{kind}, sent away"] < least for kind, least in ENOUGH.items()):
        if over.wait(0.05):
            return
    print("enough", flush=True)


def dial(port, source):
    return socket.create_connection(("127.0.0.1", port), 5, (source, 0))


def flood_of_garbage(host, source):
    """Everything of the corpus that has to be refused, and what belongs to other protocols."""
    bad = [case.message for case in read("http1.txt") if case.code]
    bad += [b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n\r\n", b"\r\n\r\n\0\r\nQUIT\n" + bytes(16), os.urandom(500), b"\x16\x03\x01\0\x05hello"]
    bad += [b"GET /" + b"a" * 20_000, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 2000]
    bad += [b"GET /static/../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /static/%2e%2e%2fapp.py HTTP/1.1\r\nHost: a\r\n\r\n"]
    bad += [b"GET /static/large HTTP/1.1\r\nHost: a\r\nRange: bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(800)) + b"\r\n\r\n"]
    for message in itertools.cycle(bad):
        if over.wait(0.02):
            return
        with attempt("garbage"), dial(host.port, source) as one:
            one.sendall(message)
            one.settimeout(0.05)
            one.recv(4096)


def flood_of_connections(host, source):
    while not over.wait(0.02):
        with attempt("connections"), dial(host.port, source) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def flood_of_handshakes(host, certificate, source):
    context = ssl.create_default_context(cafile=certificate)
    while not over.wait(0.05):
        with attempt("handshakes"), dial(host.tls_port, source) as one:
            if random.random() < 0.5:
                context.wrap_socket(one, server_hostname="localhost").close()
            else:
                one.sendall(b"\x16\x03\x01\x02\x00" + os.urandom(512))


def flood_of_bombs(host, source):
    """Compressed messages that become a thousand times as much."""
    head = b"GET /socket HTTP/1.1\r\nHost: talk.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    head += b"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = bytearray(frame(2, press.compress(bytes(80_000_000)) + press.flush(zlib.Z_SYNC_FLUSH)))
    bomb[0] |= 0x40
    while not over.wait(1):
        with attempt("bombs"), dial(host.port, source) as one:
            one.sendall(head + bytes(bomb))
            one.settimeout(2)
            while one.recv(65536):
                pass


def main(port, tls_port, certificate, source, scale):
    host = SimpleNamespace(port=int(port), tls_port=int(tls_port))
    held = []
    for some in (crowds, streams)[: 2 if host.tls_port else 1]:
        made = some(host, certificate, source, int(scale))
        while True:
            try:
                held.append(next(made))
            except StopIteration:
                break
            except NEVER as error:
                print(f"{some.__name__}: {error!r}", file=sys.stderr)
                counts["connections of HTTP/2 sent away"] += 1
                break
    print("holding", flush=True)
    plain = [flood_of_garbage, flood_of_connections, flood_of_bombs]
    floods = [threading.Thread(target=flood, args=(host, source)) for flood in plain]
    if host.tls_port:
        secure = [flood_of_http2, flood_of_handshakes]
        floods += [threading.Thread(target=flood, args=(host, certificate, source)) for flood in secure]
    floods.append(threading.Thread(target=say_enough))
    for flood in floods:
        flood.start()
    sys.stdin.read()
    over.set()
    for flood in floods:
        flood.join(20)
    print(json.dumps({**counts, "seconds of processor": round(time.process_time(), 1)}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
