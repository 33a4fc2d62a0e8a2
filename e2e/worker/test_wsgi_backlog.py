"""Requests that a worker takes by itself: with the end of a response, from a socket it shares with others."""

import socket
import subprocess
import sys
import textwrap
import threading

import pytest
import wsgi_wire as wire


@pytest.fixture
def backlog():
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ends[0], ends[1]:
        yield Backlog(*ends)


class Backlog:
    def __init__(self, sender, receiver):
        self.sender, self.receiver = sender, receiver
        self.fd = receiver.fileno()

    def lay(self, ticket, frame):
        self.sender.send(ticketed(frame, ticket))

    def count(self):
        """Takes everything out."""
        taken = 0
        while True:
            try:
                self.receiver.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return taken
            taken += 1


def ticketed(frame, ticket):
    return frame[:8] + ticket.to_bytes(4, "little") + frame[12:]


def echo(environ, start_response):
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode() + environ["wsgi.input"].read()]


def in_pieces(environ, start_response):
    start_response("200 OK", [])
    yield environ["PATH_INFO"].encode()
    yield b"."


def in_a_list(environ, start_response):
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode(), b"."]


def said(slot):
    """The ticket that the worker says it took."""
    frame = slot.frame()
    assert (frame.kind, frame.flags, frame.payload) == (wire.TAKEN, 0, b"")
    return frame.stream


@pytest.mark.parametrize("app, dot", [(echo, b""), (in_pieces, b"."), (in_a_list, b".")], ids=["one", "pieces", "list"])
def test_next_request_is_taken_with_the_end_of_a_response(serve, backlog, app, dot):
    slot = serve(app, backlog=backlog.fd)
    backlog.lay(7, wire.request(path=b"/second"))
    backlog.lay(8, wire.request(path=b"/third"))
    slot.send(wire.request(path=b"/first"))
    bodies, tickets = [], []
    for _ in range(3):
        bodies.append(slot.response(tickets=tickets).body)
    assert bodies == [b"/first" + dot, b"/second" + dot, b"/third" + dot]
    assert tickets == [7, 8]
    assert slot.ask(path=b"/fourth").body == b"/fourth" + dot, "the slot's own socket is read again"


def test_body_of_a_taken_request_is_its_own(serve, backlog):
    slot = serve(echo, backlog=backlog.fd)
    backlog.lay(1, wire.request(b"POST", b"/b", body=b"B" * 9000))
    slot.send(wire.request(b"POST", b"/a", body=b"A" * 9000))
    assert slot.response(tickets=[]).body == b"/a" + b"A" * 9000
    assert slot.response().body == b"/b" + b"B" * 9000


def test_nothing_is_taken_by_a_slot_that_is_free(serve, backlog):
    slot = serve(echo, backlog=backlog.fd)
    backlog.lay(1, wire.request())
    slot.finish()
    assert backlog.count() == 1


def fails(environ, start_response):
    raise ValueError


def stops_short(environ, start_response):
    start_response("200 OK", [("Content-Length", "9")])
    return [b"1"]


def is_large(environ, start_response):
    """More than the slot's socket holds for a server that does not read."""
    start_response("200 OK", [])
    return [b"x" * 70_000]


def is_large_in_pieces(environ, start_response):
    start_response("200 OK", [])
    for _ in range(7):
        yield b"x" * 10_000


class FailsToClose(list):
    def close(self):
        raise SystemExit


def fails_to_close(environ, start_response):
    start_response("200 OK", [])
    return FailsToClose([b"x"])


@pytest.mark.parametrize("app", [fails, stops_short, is_large, is_large_in_pieces, fails_to_close])
def test_nothing_is_taken_with_a_response_that(serve, backlog, app):
    slot = serve(app, backlog=backlog.fd)
    backlog.lay(1, wire.request())
    slot.send(wire.request())
    slot.response()
    slot.finish()
    assert backlog.count() == 1


@pytest.mark.parametrize(
    "request_frames, options",
    [
        ([wire.request(b"POST", kind=wire.STREAM), wire.frame(wire.REQ_BODY, b"x", wire.END)], {}),
        ([wire.request(websocket=True)], {}),
        ([wire.request()], {"post_request": lambda environ, status: None}),
    ],
    ids=["a streamed body", "a handshake", "a hook behind it"],
)
def test_nothing_is_taken_after_a_request_with(serve, backlog, request_frames, options):
    slot = serve(echo, backlog=backlog.fd, **options)
    backlog.lay(1, wire.request())
    slot.send(*request_frames)
    assert slot.response().status == 200
    slot.finish()
    assert backlog.count() == 1


def test_request_is_taken_after_close_and_not_before(serve, backlog):
    """Other workers may have it while this one is still at work."""
    closing, may_close = threading.Event(), threading.Event()

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        try:
            yield b"ok"
        finally:
            closing.set()
            assert may_close.wait(10)

    slot = serve(app, backlog=backlog.fd)
    slot.send(wire.request())
    assert slot.frame().kind == wire.RESP_HEAD
    assert closing.wait(10)
    backlog.lay(1, wire.request(path=b"/of-another"))
    assert backlog.count() == 1
    backlog.lay(2, wire.request())
    may_close.set()
    assert said(slot) == 2
    assert slot.frame().last
    assert slot.response().body == b"ok"


def endless(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/endless":
        while True:
            yield b"tick"
    yield b"end"


def test_cancel_is_for_the_request_with_its_ticket(serve, backlog):
    slot = serve(endless, backlog=backlog.fd)
    backlog.lay(5, wire.request(path=b"/endless"))
    slot.send(wire.request())
    assert slot.response(tickets=[]).body == b"end"
    # This one came late, for the request before.
    slot.send(ticketed(wire.frame(wire.CANCEL), 0))
    for _ in range(50):
        assert slot.frame().kind in (wire.RESP_HEAD, wire.RESP_BODY)
    slot.send(ticketed(wire.frame(wire.CANCEL), 5))
    assert slot.response(started=True).aborted == b""
    assert slot.ask().body == b"end"


def test_own_socket_is_read_now_and_then(serve, backlog):
    """Each client that leaves has its Cancel there, which would fill it."""
    slot = serve(echo, backlog=backlog.fd)
    for ticket in range(1, 101):
        backlog.lay(ticket, wire.request())
    tickets = []
    slot.send(wire.request())
    for _ in range(65):
        slot.response(tickets=tickets)
    assert tickets == list(range(1, 65))
    slot.send(wire.request())
    for _ in range(37):
        slot.response(tickets=tickets)
    assert tickets == list(range(1, 101))


def test_what_is_no_request_ends_the_slot_with_an_error(serve, backlog):
    slot = serve(echo, backlog=backlog.fd)
    backlog.lay(1, wire.frame(wire.REQ_BODY, b"x"))
    slot.send(wire.request())
    slot.response(tickets=[])
    slot.thread.join(10)
    assert isinstance(slot.raised, RuntimeError)


LAST_REQUEST = """
import conftest, signal, socket, sys, threading
import wsgi_wire as wire

ostler = conftest._load(sys.argv[1])
sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server, worker = socket.socketpair()
if sys.argv[2] == "signal":
    ostler.take_no_more_on_signal()

def app(environ, start_response):
    if sys.argv[2] == "signal":
        signal.raise_signal(signal.SIGRTMIN + 6)
    else:
        ostler.take_no_more()
    start_response("200 OK", [])
    return [b"last"]

sender.send(wire.request())
thread = threading.Thread(target=ostler.serve_wsgi, args=(app, worker.fileno(), {"backlog": receiver.fileno()}), daemon=True)
thread.start()
end = wire.ServerEnd(server)
end.send(wire.request())
assert end.response().body == b"last"
server.close()
thread.join(10)
assert receiver.recv(1, socket.MSG_DONTWAIT), "the request is still there"
"""


@pytest.mark.parametrize("way", ["signal", "call"])
def test_worker_that_is_to_end_takes_nothing(ostler, way):
    script = textwrap.dedent(LAST_REQUEST)
    command = [sys.executable, "-c", script, ostler.__spec__.origin, way]
    ran = subprocess.run(command, cwd=wire.ROOT / "e2e/worker", capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr) == (0, "")


HANDLER_RAISES = """
import conftest, io, signal, socket, sys, threading
import wsgi_wire as wire

ostler = conftest._load(sys.argv[1])
sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server, worker = socket.socketpair()
bell, rings = socket.socketpair()
bell.setblocking(False)
signal.set_wakeup_fd(bell.fileno())

def late(signum, frame):
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    raise TimeoutError

signal.signal(signal.SIGALRM, late)

def app(environ, start_response):
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    start_response("200 OK", [])
    return [b"x" * 4000]

def read():
    rings.recv(1)  # the worker has filled its socket and waits
    server.shutdown(socket.SHUT_WR)
    end, answers, tickets = wire.ServerEnd(server), 0, []
    try:
        while end.response(tickets=tickets):
            answers += 1
    except wire.Closed:
        print(answers - len(tickets))

for ticket in range(1, 61):
    frame = wire.request()
    sender.send(frame[:8] + ticket.to_bytes(4, "little") + frame[12:])
server.send(wire.request())
reader = threading.Thread(target=read)
reader.start()
ostler.serve_wsgi(app, worker.fileno(), {"backlog": receiver.fileno(), "errors": io.StringIO()})
worker.close()
reader.join()
"""


def test_what_was_taken_is_said_though_a_signal_handler_raises(ostler):
    """The server would take its answer for that of another."""
    command = [sys.executable, "-c", HANDLER_RAISES, ostler.__spec__.origin]
    ran = subprocess.run(command, cwd=wire.ROOT / "e2e/worker", capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == ("1\n", "")
