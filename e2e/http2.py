"""A client of HTTP/2 that shows every frame and may break any rule: `hyperframe` for the frames, `hpack` for the
fields, nothing in between."""

import socket
import ssl
import time

import hpack
from hyperframe.frame import (
    ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ENHANCE_YOUR_CALM, PROTOCOL_ERROR, NO_ERROR, REFUSED_STREAM, CANCEL = 0xB, 1, 0, 7, 8
STREAM_CLOSED, COMPRESSION_ERROR = 5, 9


class Stream:
    """What came back on one stream."""

    def __init__(self):
        self.heads, self.body, self.reset, self.ended = [], bytearray(), None, False

    @property
    def status(self):
        return int(dict(self.heads[-1])[":status"]) if self.heads else None

    @property
    def over(self):
        return self.ended or self.reset is not None


class Http2:
    """One connection. `settings` are the client's own; windows are given back unless `reads` is false."""

    def __init__(self, port, certificate, settings=None, reads=True, timeout=30, narrow=False, preface=None, source=None):
        context = ssl.create_default_context(cafile=certificate)
        context.set_alpn_protocols(["h2"])
        plain = socket.socket()
        if narrow:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        plain.settimeout(timeout)
        if source:
            plain.bind((source, 0))
        plain.connect(("127.0.0.1", port))
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.streams, self.settings, self.goaway, self.closed = {}, {}, None, False
        self.reads, self.timeout, self.unread, self.next, self.pongs = reads, timeout, b"", 1, 0
        self.taken, self.credits = {}, {}
        self.write(PREFACE + SettingsFrame(0, settings=settings or {}).serialize() if preface is None else preface)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    # Sending

    def write(self, data):
        """False when the server has closed the connection."""
        self.socket.settimeout(self.timeout)
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            return False
        return True

    def send(self, *frames):
        return self.write(b"".join(frame.serialize() for frame in frames))

    def headers(self, fields, end=True, stream=None, flags=("END_HEADERS",)):
        """Sends a head; gives the number of its stream."""
        stream = stream or self.take_stream()
        block, ends = self.encoder.encode(fields), ["END_STREAM"] if end else []
        pieces = [block[at : at + 16384] for at in range(0, len(block), 16384)]
        frames = [HeadersFrame(stream, pieces[0], flags=ends)]
        frames += [ContinuationFrame(stream, piece) for piece in pieces[1:]]
        for flag in flags:
            frames[-1].flags.add(flag)
        self.send(*frames)
        return stream

    def take_stream(self):
        self.next += 2
        self.streams[self.next - 2] = Stream()
        return self.next - 2

    def ask(self, path="/", method="GET", more=(), end=True, authority="localhost"):
        fields = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
        return self.headers(fields + list(more), end)

    def data(self, stream, data=b"", end=False):
        return self.send(DataFrame(stream, data, flags=["END_STREAM"] if end else []))

    def reset(self, stream, code=CANCEL):
        return self.send(RstStreamFrame(stream, code))

    # Receiving

    def answer(self, stream):
        """What came on a stream by its end."""
        self.until(lambda: self.streams[stream].over, f"the end of stream {stream}")
        return self.streams[stream]

    def get(self, path="/", **more):
        return self.answer(self.ask(path, **more))

    def until(self, done, what):
        deadline = time.monotonic() + self.timeout
        while not done():
            assert not self.closed, f"closed before {what}: {self.goaway}"
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            self.receive()

    def end(self, seconds=None):
        """The code of the GOAWAY that the connection ended with; None without one."""
        deadline = time.monotonic() + (seconds or self.timeout)
        while not self.closed:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            self.receive()
        return self.goaway.error_code if self.goaway else None

    def credit(self, stream, initial):
        """Bytes that may be sent on a stream in all."""
        return min(initial + self.credits.get(stream, 0), 65535 + self.credits.get(0, 0))

    def poll(self, seconds=0.05):
        """Takes what is there."""
        self.socket.settimeout(seconds)
        try:
            self.receive()
        except (TimeoutError, ssl.SSLWantReadError):
            pass

    def receive(self):
        try:
            came = self.socket.recv(65536)
        except (ConnectionResetError, ssl.SSLEOFError):
            came = b""
        self.closed |= not came
        came, at = self.unread + came, 0
        while len(came) >= at + 9:
            frame, length = Frame.parse_frame_header(memoryview(came[at : at + 9]))
            if len(came) < at + 9 + length:
                break
            frame.parse_body(memoryview(came[at + 9 : at + 9 + length]))
            at += 9 + length
            self.take(frame)
        self.unread = came[at:]

    def give_back(self, frame):
        """Credit for half a window at once, as every client does."""
        for number in (0, frame.stream_id):
            taken = self.taken[number] = self.taken.get(number, 0) + frame.flow_controlled_length
            if taken >= 32768 and (number == 0 or "END_STREAM" not in frame.flags):
                self.taken[number] = 0
                self.send(WindowUpdateFrame(number, taken))

    def take(self, frame):
        stream = self.streams.get(frame.stream_id, Stream())
        match frame:
            case SettingsFrame() if "ACK" not in frame.flags:
                self.settings.update(frame.settings)
                self.send(SettingsFrame(0, flags=["ACK"]))
            case PingFrame():
                self.pongs += "ACK" in frame.flags
                if "ACK" not in frame.flags:
                    self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
            case HeadersFrame():
                stream.heads.append(self.decoder.decode(frame.data))
            case DataFrame():
                stream.body += frame.data
                if self.reads:
                    self.give_back(frame)
            case WindowUpdateFrame():
                self.credits[frame.stream_id] = self.credits.get(frame.stream_id, 0) + frame.window_increment
            case RstStreamFrame():
                stream.reset = frame.error_code
            case GoAwayFrame():
                self.goaway = frame
        stream.ended |= "END_STREAM" in frame.flags
