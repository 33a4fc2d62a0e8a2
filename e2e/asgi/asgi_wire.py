"""The frames between server and worker, written down a second time: a mistake in the Rust crate
that both ends share would not be seen by tests that use it too."""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from dataclasses import dataclass, field

END, FD = 1, 2
REQ_HEAD, REQ_BODY, CANCEL, CREDIT, PING, PONG, DRAIN = 1, 2, 3, 4, 5, 6, 7
RESP_INFO, RESP_HEAD, RESP_BODY, RESP_FILE, RESP_TRAILERS, RESP_ABORT = 16, 17, 18, 19, 20, 21
WS_ACCEPT, WS_MESSAGE, WS_CLOSE = 32, 33, 34

NO_BODY, INLINE, FILE, STREAM = 0, 1, 2, 3

WINDOW = 256 * 1024
"""Bytes of credit a stream starts with, each way."""

KNOWN = {b"host": 6, b"cookie": 10, b"user-agent": 28, b"content-length": 46}
"""Some of the header names that travel as a number."""

SECONDS = 20
"""How long a test waits for a frame before it fails."""


def frame(kind: int, payload: bytes = b"", stream: int = 0, flags: int = 0) -> bytes:
    return struct.pack("<IBBHI", len(payload), kind, flags, 0, stream) + payload


def short(text: bytes) -> bytes:
    return struct.pack("<H", len(text)) + text


def request(
    stream: int,
    path: bytes = b"/",
    *,
    method: bytes = b"GET",
    target: bytes | None = None,
    query: bytes = b"",
    root: bytes = b"",
    headers: list[tuple[bytes, bytes]] = (),
    body: bytes | None = None,
    kind: int | None = None,
    length: int | None = None,
    version: int = 11,
    https: bool = False,
    websocket: bool = False,
    request_id: int = 7,
    client: tuple[bytes, int] = (b"192.0.2.1", 4711),
    server: tuple[bytes, int] = (b"shop.example", 443),
) -> bytes:
    """A `ReqHead` frame."""
    if kind is None:
        kind = NO_BODY if body is None else INLINE
    if length is None and body is not None:
        length = len(body)
    target = target if target is not None else root + path + (b"?" + query if query else b"")
    payload = struct.pack("<BBB", version, kind, https | websocket << 1)
    payload += struct.pack("<QQ", 2**64 - 1 if length is None else length, request_id)
    payload += struct.pack("<HH", client[1], server[1])
    for text in (client[0], server[0], method, target, root, path, query):
        payload += short(text)
    payload += struct.pack("<H", len(headers))
    for name, value in headers:
        number = KNOWN.get(name, 0)
        payload += bytes([number]) + (b"" if number else short(name)) + short(value)
    payload += body or b""
    return frame(REQ_HEAD, payload, stream, FD if kind == FILE else 0)


def credit(stream: int, count: int) -> bytes:
    return frame(CREDIT, struct.pack("<I", count), stream)


def ws_message(stream: int, message: str | bytes, *, end: bool = True) -> bytes:
    opcode = b"\1" if isinstance(message, str) else b"\2"
    data = message.encode() if isinstance(message, str) else message
    return frame(WS_MESSAGE, opcode + data, stream, END if end else 0)


def ws_close(stream: int, code: int, reason: bytes = b"") -> bytes:
    return frame(WS_CLOSE, struct.pack("<H", code) + reason, stream)


@dataclass
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes
    fd: int | None = None

    @property
    def end(self) -> bool:
        return bool(self.flags & END)


@dataclass
class Head:
    """A decoded `RespHead`, `RespInfo`, `RespTrailers` or `WsAccept`."""

    status: int
    headers: list[tuple[bytes, bytes]]
    inline: bytes
    end: bool


def head(got: Frame) -> Head:
    status, reason = struct.unpack_from("<HH", got.payload)
    at = 4 + reason
    (count,) = struct.unpack_from("<H", got.payload, at)
    at += 2
    headers = []
    for _ in range(count):
        pair = []
        for _ in range(2):
            (length,) = struct.unpack_from("<H", got.payload, at)
            pair.append(got.payload[at + 2 : at + 2 + length])
            at += 2 + length
        headers.append(tuple(pair))
    return Head(status, headers, got.payload[at:], got.end)


@dataclass
class Response:
    """A whole response as the server sees it."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    info: list[Head] = field(default_factory=list)
    trailers: list[tuple[bytes, bytes]] | None = None
    aborted: bool = False
    frames: list[int] = field(default_factory=list)


class Peer:
    """The server's end of a channel."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(SECONDS)
        self.buffer = b""
        self.fds: list[int] = []
        self.kept: list[Frame] = []

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def send_fd(self, data: bytes, fd: int) -> None:
        rights = array.array("i", [fd]).tobytes()
        sent = self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert sent == len(data)

    def read(self) -> bool:
        data, control, flags, _ = self.sock.recvmsg(1 << 20, 1024)
        assert not flags & socket.MSG_CTRUNC
        for level, kind, content in control:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            self.fds += array.array("i", content[: len(content) // 4 * 4])
        self.buffer += data
        return bool(data)

    def next(self, stream: int | None = None, *, kind: int | None = None) -> Frame | None:
        """The next frame (of a stream, of a kind); others are kept. `None` at EOF."""

        def fits(got: Frame) -> bool:
            return stream in (None, got.stream) and kind in (None, got.kind)

        for index, got in enumerate(self.kept):
            if fits(got):
                return self.kept.pop(index)
        while True:
            got = self._whole()
            if got is None:
                if not self.read():
                    assert not self.buffer, "EOF within a frame"
                    return None
            elif fits(got):
                return got
            else:
                self.kept.append(got)

    def _whole(self) -> Frame | None:
        if len(self.buffer) < 12:
            return None
        length, kind, flags, zero, stream = struct.unpack_from("<IBBHI", self.buffer)
        assert zero == 0
        if len(self.buffer) < 12 + length:
            return None
        payload, self.buffer = self.buffer[12 : 12 + length], self.buffer[12 + length :]
        fd = self.fds.pop(0) if flags & FD else None
        return Frame(kind, flags, stream, payload, fd)

    def silent(self, seconds: float = 0.2) -> bool:
        """Nothing comes for a moment. Only for what must not happen; never to wait for something."""
        if self.kept or self.buffer:
            return False
        self.sock.settimeout(seconds)
        try:
            return not self.read()
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(SECONDS)

    def response(self, stream: int, *, give_credit: bool = True) -> Response:
        """Reads until the stream's last frame."""
        response = Response()
        while True:
            got = self.next(stream)
            assert got is not None, f"EOF before the end of stream {stream}: {response}"
            if got.kind == CREDIT:
                continue
            response.frames.append(got.kind)
            if got.kind == RESP_INFO:
                response.info.append(head(got))
                continue
            if got.kind == RESP_HEAD:
                start = head(got)
                response.status, response.headers = start.status, start.headers
                response.body += start.inline
            elif got.kind == RESP_BODY:
                response.body += got.payload
                if give_credit and got.payload:
                    self.send(credit(stream, len(got.payload)))
            elif got.kind == RESP_FILE:
                offset, length = struct.unpack("<QQ", got.payload)
                assert (offset, length) == (0, 2**64 - 1)
                with os.fdopen(got.fd, "rb") as file:
                    response.body += file.read()
            elif got.kind == RESP_TRAILERS:
                response.trailers = head(got).headers
            elif got.kind == RESP_ABORT:
                response.aborted = True
            else:
                raise AssertionError(f"an unexpected frame {got}")
            if got.end or response.aborted:
                return response

    def get(self, stream: int, path: bytes = b"/", **options) -> Response:
        self.send(request(stream, path, **options))
        return self.response(stream)

    def ping(self) -> None:
        """Waits until the worker's loop has handled everything sent so far."""
        number = os.urandom(8)
        self.send(frame(PING, number))
        while self.next(kind=PONG).payload != number:
            pass

    def finish(self) -> None:
        """What the server does when it wants no more from the worker."""
        self.sock.shutdown(socket.SHUT_WR)

    def eof(self) -> bool:
        return self.next() is None


def eventually(condition, what: str, seconds: float = SECONDS):
    """Waits for an event that no frame tells."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)
