"""Clients that notice everything: what fails is told with its time, and with what was done at that moment.

They run on an event loop of their own beside the test. Each keeps to the rules for correct clients: a request is sent
again only where the standards say that the server cannot have begun it (RFC 9112 section 9.3.1, RFC 9113 section 8.7), and
that is counted, because a server that is careful gives no reason for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import ssl
import statistics
import threading
import time
from collections import Counter

import h2.config
import h2.connection
import h2.errors
import h2.events
import websockets
from websockets.asyncio.client import connect

ASGI = """
import asyncio, hashlib, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/deaf":
            while not os.path.exists("heard"):
                await asyncio.sleep(0.05)
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": message.get("text") or ""})
        return
    kind = b"text/event-stream" if scope["path"] == "/events" else b"text/plain"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    if scope["path"] == "/events":
        gone, number = asyncio.ensure_future(left(receive)), 0
        while not gone.done():
            await send({"type": "http.response.body", "body": b"data: %d\\n\\n" % number, "more_body": True})
            number += 1
            await asyncio.sleep(0.1)
        return
    total, more = hashlib.sha256(), True
    while more:
        message = await receive()
        total.update(message.get("body", b""))
        more = message.get("more_body")
    body = total.hexdigest().encode() if scope["method"] == "POST" else b"ok"
    await send({"type": "http.response.body", "body": body})

async def left(receive):
    while (await receive())["type"] != "http.disconnect":
        pass
"""
"""What some of them speak to: echoes, events without an end, and the digest of what was sent."""

PATIENCE = 40.0
"""Seconds for an answer, an echo or an event: ostler's own longest wait in line is 30 s."""

TIMES = 3
"""A request that the server says it has not begun is sent so often at most."""


def p99(values):
    return statistics.quantiles(values, n=100)[98]


class Tally:
    """What happened, and what was being done meanwhile."""

    def __init__(self, host):
        self.host, self.began = host, time.monotonic()
        self.counts, self.failures, self.acts = Counter(), [], []
        self.latencies = []

    def now(self):
        return time.monotonic() - self.began

    def failed(self, what, error):
        said = str(error) or type(error).__name__
        self.failures.append((self.now(), f"{what}: {said}", len(self.host.log.lines)))

    @contextlib.contextmanager
    def act(self, what):
        """Something that is done to the server."""
        begun = self.now()
        self.acts.append([begun, None, what])
        yield
        self.acts[-1][1] = self.now()

    def report(self, most=8):
        told = [f"{len(self.failures)} failures; {dict(self.counts)}"]
        for at, what, line in self.failures[:most]:
            doing = [f"{a} ({begun:.2f}–{ended or 0:.2f} s)" for begun, ended, a in self.acts if begun - 0.1 <= at <= (ended or at) + 2]
            told += [f"\nat {at:.2f} s {what}\n  meanwhile: {', '.join(doing) or 'nothing'}"]
            told += [f"  | {text}" for text in self.host.log.lines[max(0, line - 12) : line + 6]]
        return "\n".join(told)


class Closed(Exception):
    """The server closed a connection without a byte of an answer."""


class Refused(Exception):
    """The server says that it has not begun with this stream."""


class Unsent(Exception):
    """The server had said that it leaves, or had left, before the request was sent."""


class Http1:
    """One connection of HTTP/1.1."""

    def __init__(self, address, tls=None):
        self.address, self.tls, self.reader, self.used = address, tls, None, 0

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(*self.address, ssl=self.tls, server_hostname=self.tls and "localhost")
        self.used = 0

    def close(self):
        if self.reader:
            self.writer.close()
            self.reader = None

    async def ask(self, head, pieces=(), pause=0.0):
        """Status and body; closes where the answer says so."""
        if self.reader is None:
            await self.open()
        try:
            self.writer.write(head)
            for piece in pieces:
                await asyncio.sleep(pause)
                self.writer.write(piece)
                await self.writer.drain()
            first = await self.reader.read(1)
        except (ConnectionResetError, BrokenPipeError):
            first = b""
        if not first:
            self.close()
            raise Closed("closed without an answer")
        head = first + await self.reader.readuntil(b"\r\n\r\n")
        status, fields = self.parse(head)
        body = await self.body(fields)
        self.used += 1
        if fields.get("connection", "").lower() == "close":
            self.close()
        return status, body

    @staticmethod
    def parse(head):
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        fields = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        return int(first.split(" ")[1]), fields

    async def body(self, fields):
        if "content-length" in fields:
            return await self.reader.readexactly(int(fields["content-length"]))
        assert fields["transfer-encoding"] == "chunked", fields
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return body


class Farewell(h2.connection.H2ConnectionStateMachine):
    """h2 takes nothing more after a GOAWAY; but the streams that are open go on to their end (RFC 9113 section 6.8)."""

    OPEN, GOAWAY = h2.connection.ConnectionState.CLIENT_OPEN, h2.connection.ConnectionInputs.RECV_GOAWAY
    _transitions = {**h2.connection.H2ConnectionStateMachine._transitions, (OPEN, GOAWAY): (None, OPEN)}


class Http2:
    """One connection of HTTP/2."""

    def __init__(self, address, tls):
        self.address, self.tls = address, tls
        self.h2, self.waiting, self.heads, self.leaving = None, {}, {}, False

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(*self.address, ssl=self.tls, server_hostname="localhost")
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.state_machine = Farewell()
        self.h2.initiate_connection()
        self.flush()
        self.task = asyncio.create_task(self.read())

    def flush(self):
        self.writer.write(self.h2.data_to_send())

    async def ask(self, host, path):
        if self.leaving:
            raise Unsent("another connection is needed")
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", path)], end_stream=True)
        self.flush()
        self.waiting[number] = asyncio.get_running_loop().create_future()
        return await self.waiting[number]

    async def read(self):
        try:
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self.take(event)
                self.flush()
            self.end(Closed("the connection ended before the answer"))
        except Exception as error:
            self.end(error)
        finally:
            self.leaving = True
            self.writer.close()

    def end(self, error):
        for number in list(self.waiting):
            self.over(number, error=error)

    def take(self, event):
        match event:
            case h2.events.ResponseReceived():
                self.heads[event.stream_id] = int(dict(event.headers)[":status"])
            case h2.events.DataReceived():
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.over(event.stream_id, self.heads.pop(event.stream_id, None))
            case h2.events.StreamReset():
                refused = event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
                self.over(event.stream_id, error=(Refused if refused else Closed)(f"reset: {event.error_code}"))
            case h2.events.ConnectionTerminated():
                self.leaving = True
                for number in [n for n in self.waiting if n > event.last_stream_id]:
                    self.over(number, error=Refused("behind the last stream"))

    def over(self, number, status=None, error=None):
        future = self.waiting.pop(number, None)
        if future and not future.done():
            future.set_exception(error) if error else future.set_result(status)


class Traffic:
    """All clients of one test. `start(self.requests(...))` and its like; `finish` gives the tally."""

    def __init__(self, host, tls_port=None, certificate=None):
        self.tally, self.plain, self.secure = Tally(host), ("127.0.0.1", host.port), ("127.0.0.1", tls_port)
        self.certificate = certificate
        self.loop, self.tasks = asyncio.new_event_loop(), []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.over = asyncio.Event()
        self.loop.run_forever()

    def tls(self, *protocols):
        context = ssl.create_default_context(cafile=self.certificate)
        context.set_alpn_protocols(protocols)
        return context

    def start(self, *works):
        for work in works:
            self.tasks.append(asyncio.run_coroutine_threadsafe(self.guarded(work), self.loop))

    async def guarded(self, work):
        try:
            await work
        except Exception as error:
            self.tally.failed(f"{getattr(work, '__name__', 'client')} {type(error).__name__}", error)

    def finish(self):
        """Everything in flight comes to its end."""
        self.loop.call_soon_threadsafe(self.over.set)
        for task in self.tasks:
            task.result(PATIENCE + 10)
        return self.tally

    def close(self):
        async def cancel():
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            [task.cancel() for task in tasks]
            await asyncio.wait(tasks) if tasks else None

        asyncio.run_coroutine_threadsafe(cancel(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    async def pause(self, seconds):
        """False when it is time to end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)
        return not self.over.is_set()

    # The clients

    async def requests(self, host, path="/", keep=True, every=0.02, secure=False, judge=lambda begun, status: status == 200):
        """One request after the other. `judge` is asked with the time the request began and the status."""
        tls = self.tls("http/1.1") if secure else None
        client = Http1(self.secure if secure else self.plain, tls)
        close = "" if keep else "Connection: close\r\n"
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{close}\r\n".encode()
        while await self.pause(random.uniform(0, 2 * every)):
            await self.once(client, head, f"GET {host}{path} kept={keep} tls={secure}", judge)
        client.close()

    async def once(self, client, head, what, judge):
        reused, begun = client.reader is not None and client.used > 0, self.tally.now()
        try:
            try:
                status, _ = await asyncio.wait_for(client.ask(head), PATIENCE)
            except Closed:
                if not reused:
                    raise
                self.tally.counts["closed on reuse"] += 1
                status, _ = await asyncio.wait_for(client.ask(head), PATIENCE)
            if not judge(begun, status):
                self.tally.failed(what, f"status {status}")
        except Exception as error:
            self.tally.failed(what, error)
            client.close()
        self.tally.counts["requests"] += 1
        self.tally.latencies.append(self.tally.now() - begun)

    async def requests_of_http2(self, host, path="/", every=0.02, at_once=4):
        """Some requests at a time on one connection; another one when the server says that it leaves."""
        tls, client = self.tls("h2"), None
        while await self.pause(random.uniform(0, 2 * every)):
            left = at_once
            try:
                for _ in range(TIMES):
                    if client is None or client.leaving:
                        client = Http2(self.secure, tls)
                        await client.open()
                    works = [self.once_of_http2(client, host, path) for _ in range(left)]
                    left = (await asyncio.gather(*works)).count(False)
                    if not left:
                        break
                else:
                    raise Refused(f"{left} of {at_once} requests, {TIMES} times")
            except Exception as error:
                self.tally.failed(f"HTTP/2 {host}{path}", error)
                client = None
        if client:
            client.writer.close()

    async def once_of_http2(self, client, host, path):
        """False when it may be sent again: the server has not begun it."""
        try:
            status = await asyncio.wait_for(client.ask(host, path), PATIENCE)
        except Refused:
            self.tally.counts["streams refused"] += 1
            return False
        except Unsent:
            return False
        if status != 200:
            self.tally.failed(f"HTTP/2 {host}{path}", f"status {status}")
        self.tally.counts["requests of HTTP/2"] += 1
        return True

    async def socket(self, host, every=3.0, may_end=False):
        """A WebSocket that stays open and has something to say now and then."""
        address = f"ws://{host}:{self.plain[1]}/echo"
        try:
            async with connect(address, host="127.0.0.1", port=self.plain[1], ping_interval=None, open_timeout=PATIENCE, compression=None) as socket:
                self.tally.counts["WebSockets"] += 1
                number = 0
                while await self.pause(random.uniform(0.5, 1.5) * every):
                    await socket.send(f"{host} {number}")
                    echo = await asyncio.wait_for(socket.recv(), PATIENCE)
                    assert echo == f"{host} {number}", echo
                    number += 1
                self.tally.counts["echoes"] += number
        except websockets.ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd else None
            if may_end and code == 1012:
                self.tally.counts["WebSockets ended by 1012"] += 1
            else:
                self.tally.failed(f"WebSocket {host}", f"closed: {error}")
        except Exception as error:
            self.tally.failed(f"WebSocket {host}", error)

    async def sockets_that_come_and_go(self, host, every=0.5):
        while await self.pause(every):
            short = asyncio.create_task(self.socket_for_a_moment(host))
            await short

    async def socket_for_a_moment(self, host):
        address = f"ws://{host}:{self.plain[1]}/echo"
        try:
            async with connect(address, host="127.0.0.1", port=self.plain[1], ping_interval=None, open_timeout=PATIENCE) as socket:
                await socket.send("short")
                assert await asyncio.wait_for(socket.recv(), PATIENCE) == "short"
            self.tally.counts["short WebSockets"] += 1
        except Exception as error:
            self.tally.failed(f"short WebSocket {host}", error)

    async def events(self, host, path="/events", secure=False):
        """A stream of numbered events of which none may be missing, late or there twice."""
        client = Http1(self.secure if secure else self.plain, self.tls("http/1.1") if secure else None)
        number = 0
        try:
            await client.open()
            client.writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode())
            status, fields = client.parse(await client.reader.readuntil(b"\r\n\r\n"))
            assert status == 200 and fields.get("transfer-encoding") == "chunked", (status, fields)
            left = b""
            while not self.over.is_set():
                size = int(await asyncio.wait_for(client.reader.readline(), 10), 16)
                left += await client.reader.readexactly(size)
                await client.reader.readexactly(2)
                assert size, "the stream ended"
                while b"\n\n" in left:
                    event, _, left = left.partition(b"\n\n")
                    assert event == b"data: %d" % number, (event, number)
                    number += 1
        except Exception as error:
            self.tally.failed(f"events of {host} after {number}", error)
        self.tally.counts["events"] += number
        client.close()

    async def uploads(self, host, size=60_000, seconds=10.0, path="/sum"):
        """Bodies that take their time, one after the other; the app says what it has read."""
        while not self.over.is_set():
            client, body = Http1(self.plain), os.urandom(size)
            count = max(1, int(seconds * 4))
            step = -(-size // count)
            pieces = [body[at : at + step] for at in range(0, size, step)]
            head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n".encode()
            try:
                status, answer = await asyncio.wait_for(client.ask(head, pieces, 0.25), seconds + PATIENCE)
                assert (status, answer) == (200, hashlib.sha256(body).hexdigest().encode()), (status, answer[:300])
                self.tally.counts["uploads"] += 1
            except Exception as error:
                self.tally.failed(f"upload to {host}", error)
            client.close()
