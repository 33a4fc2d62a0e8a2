"""The wire of crates/ostler-wire, written a second time: a server's end of a WSGI slot in Python.

It must not import anything of the extension, so that the two cannot be wrong together.
"""

import array
import pathlib
import re
import socket
import struct
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).resolve().parents[2]
END, FD = 1, 2
REQ_HEAD, REQ_BODY, CANCEL = 1, 2, 3
RESP_INFO, RESP_HEAD, RESP_BODY, RESP_FILE, RESP_ABORT, HIJACK, TAKEN = 16, 17, 18, 19, 21, 22, 23
NONE, INLINE, FILE, STREAM = 0, 1, 2, 3
HEAD = struct.Struct("<IBBHI")


def _names():
    source = (ROOT / "crates/ostler-wire/src/names.rs").read_text()
    table = source[source.index("pub const NAMES") : source.index("];")]
    return re.findall(r'"([a-z0-9-]+)"', table)


NAMES = {name.encode(): index + 1 for index, name in enumerate(_names())}


def short(text):
    return struct.pack("<H", len(text)) + text


def frame(kind, payload=b"", flags=0):
    return HEAD.pack(len(payload), kind, flags, 0, 0) + payload


def request(
    method=b"GET",
    path=b"/",
    *,
    query=b"",
    target=None,
    root=b"",
    headers=(),
    body=None,
    kind=None,
    length=None,
    version=11,
    https=False,
    websocket=False,
    client=b"192.0.2.7",
    client_port=4711,
    server=b"example.test",
    server_port=80,
    request_id=0x2A,
    literal_names=False,
):
    """A ReqHead frame. `body` goes inline; `kind` overrides how the body is announced."""
    if kind is None:
        kind = NONE if body is None else INLINE
    if length is None and body is not None:
        length = len(body)
    if target is None:
        target = path + (b"?" + query if query else b"")
    out = bytes([version, kind, https * 1 + websocket * 2])
    out += struct.pack("<Q", 2**64 - 1 if length is None else length)
    out += struct.pack("<QHH", request_id, client_port, server_port)
    for text in (client, server, method, target, root, path, query):
        out += short(text)
    out += struct.pack("<H", len(headers))
    for name, value in headers:
        number = 0 if literal_names else NAMES.get(name, 0)
        out += bytes([number]) + (short(name) if number == 0 else b"") + short(value)
    return frame(REQ_HEAD, out + (body or b""), FD if kind == FILE else 0)


@dataclass
class Frame:
    kind: int
    flags: int
    payload: bytes
    stream: int = 0
    fds: list = field(default_factory=list)

    @property
    def last(self):
        return bool(self.flags & END)


@dataclass
class Response:
    """What a worker answered to one request."""

    status: int = 0
    reason: bytes = b""
    headers: list = field(default_factory=list)
    body: bytes = b""
    frames: list = field(default_factory=list)
    interim: list = field(default_factory=list)
    file: tuple = None
    aborted: bytes = None

    def header(self, name):
        return [value for key, value in self.headers if key.lower() == name.lower()]


def decode_head(payload):
    status, size = struct.unpack_from("<HH", payload)
    at = 4 + size
    reason = payload[4:at]
    (count,) = struct.unpack_from("<H", payload, at)
    at += 2
    texts = []
    for _ in range(2 * count):
        (size,) = struct.unpack_from("<H", payload, at)
        texts.append(payload[at + 2 : at + 2 + size])
        assert len(texts[-1]) == size
        at += 2 + size
    return status, reason, list(zip(texts[::2], texts[1::2])), payload[at:]


class Closed(Exception):
    """The worker's end is closed."""


class ServerEnd:
    """The server's end of a slot."""

    def __init__(self, sock):
        self.sock = sock
        self.received = b""
        self.fds = []

    def send(self, *frames):
        self.sock.sendall(b"".join(frames))

    def send_with_fd(self, data, fd):
        rights = array.array("i", [fd])
        self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def _more(self):
        space = socket.CMSG_SPACE(4 * 4)
        data, ancillary, _, _ = self.sock.recvmsg(1 << 18, space)
        for level, kind, rights in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(rights)
                self.fds.extend(numbers)
        if not data:
            raise Closed
        self.received += data

    def frame(self):
        while len(self.received) < HEAD.size:
            self._more()
        size, kind, flags, zero, stream = HEAD.unpack_from(self.received)
        assert size <= 1 << 20 and zero == 0 and (stream == 0) == (kind != TAKEN)
        while len(self.received) < HEAD.size + size:
            self._more()
        payload = self.received[HEAD.size : HEAD.size + size]
        self.received = self.received[HEAD.size + size :]
        fds = [self.fds.pop(0)] if flags & FD else []
        return Frame(kind, flags, payload, stream, fds)

    def response(self, started=False, tickets=None):
        """Reads frames to the end of one response and checks their order. `started`: the head was
        read before. `tickets`: a list to which the next request may be added that the worker takes."""
        answer = Response()
        while True:
            got = self.frame()
            if got.kind == TAKEN:
                tickets.append(got.stream)
                got = self.frame()
                assert got.last
            answer.frames.append(got)
            if got.kind == RESP_INFO:
                assert not started
                answer.interim.append(decode_head(got.payload)[:3])
                continue
            if got.kind == RESP_ABORT:
                answer.aborted = got.payload
                return answer
            if got.kind == RESP_HEAD:
                assert not started
                started = True
                answer.status, answer.reason, answer.headers, answer.body = decode_head(got.payload)
            elif got.kind == RESP_BODY:
                assert started
                answer.body += got.payload
            elif got.kind == RESP_FILE:
                assert started and got.fds and got.last
                answer.file = (got.fds[0], *struct.unpack("<QQ", got.payload))
            else:
                raise AssertionError(f"frame kind {got.kind}")
            if got.last:
                return answer
