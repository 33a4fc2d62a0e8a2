"""environ["werkzeug.socket"]: a real socket that takes the connection over once it is used."""

import os
import selectors
import socket
import threading

import pytest
import wsgi_wire as wire

HANDSHAKE = dict(
    headers=[(b"upgrade", b"websocket"), (b"connection", b"Upgrade")], websocket=True
)


def start(serve, app, **options):
    slot = serve(app, **options)
    slot.send(wire.request(**HANDSHAKE))
    return slot


def test_ordinary_requests_have_no_socket(serve):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"%d" % ("werkzeug.socket" in environ)]

    assert serve(app).ask().body == b"0"


def echo(environ, start_response):
    sock = environ["werkzeug.socket"]
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    while data := sock.recv(100):
        sock.send(data.upper())
    return []


def test_first_use_tells_the_server_and_then_the_bytes_are_raw(serve):
    order = []

    def app(environ, start_response):
        assert isinstance(environ["werkzeug.socket"], socket.socket)
        order.append("app")
        return echo(environ, start_response)

    slot = start(serve, app, new_slot=lambda: order.append("new slot"))
    assert slot.frame().kind == wire.HIJACK
    assert order == ["app", "new slot"]
    raw = slot.received
    while len(raw) < 36:
        raw += slot.sock.recv(100)
    assert raw == b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    slot.sock.sendall(b"ping")
    assert slot.sock.recv(100) == b"PING"
    slot.sock.shutdown(socket.SHUT_WR)
    assert slot.sock.recv(100) == b""
    assert slot.finish() == "hijacked"


def test_end_of_the_call_ends_the_connection(serve):
    kept = []

    def app(environ, start_response):
        sock = environ["werkzeug.socket"]
        kept.append(sock)
        sock.send(b"bye")
        start_response("200 OK", [])
        return [b"not sent"]

    slot = start(serve, app)
    assert slot.frame().kind == wire.HIJACK
    raw = slot.received
    while more := slot.sock.recv(100):
        raw += more
    assert raw == b"bye"
    assert slot.finish() == "hijacked" and slot.log == ""


@pytest.mark.parametrize("error, reported", [(ConnectionError, False), (StopIteration, False), (KeyError, True)])
def test_exception_behind_the_hijack_ends_the_connection(serve, error, reported):
    def app(environ, start_response):
        environ["werkzeug.socket"].fileno()
        raise error

    slot = start(serve, app)
    assert slot.frame().kind == wire.HIJACK
    assert slot.sock.recv(100) == b""
    assert slot.finish() == "hijacked"
    assert (error.__name__ in slot.log) == reported


def test_close_of_what_is_returned_is_called(serve):
    closed = []

    class Result(list):
        def close(self):
            closed.append(True)

    def app(environ, start_response):
        environ["werkzeug.socket"].fileno()
        return Result()

    start(serve, app).finish()
    assert closed == [True]


def test_looking_is_not_using(serve):
    def app(environ, start_response):
        sock = environ["werkzeug.socket"]
        text = f"{environ!r} {sock} {sock.family} {sock.type} {sock.gettimeout()} {bool(sock)}"
        start_response("426 Upgrade Required", [])
        return [text[:0].encode()]

    slot = start(serve, app)
    assert slot.response().status == 426
    slot.send(wire.request(**HANDSHAKE))
    assert slot.response().status == 426
    assert slot.finish() == "eof"


@pytest.mark.parametrize(
    "use",
    [
        lambda sock: sock.fileno(),
        lambda sock: sock.send(b""),
        lambda sock: sock.settimeout(5),
        lambda sock: sock.setblocking(True),
        lambda sock: sock.makefile("rb"),
        lambda sock: sock.dup(),
        lambda sock: selectors.DefaultSelector().register(sock, selectors.EVENT_READ),
        lambda sock: sock.shutdown(socket.SHUT_WR),
        lambda sock: os.close(sock.detach()),
        lambda sock: sock.sendmsg([b""]),
    ],
)
def test_every_use_takes_over_once(serve, use):
    def app(environ, start_response):
        sock = environ["werkzeug.socket"]
        use(sock)
        if sock.fileno() != -1:
            use(sock)
        return []

    calls = []
    slot = start(serve, app, new_slot=lambda: calls.append(True))
    assert slot.frame().kind == wire.HIJACK
    assert slot.sock.recv(100) == b"" and slot.received == b""
    assert slot.finish() == "hijacked" and calls == [True]
    assert "Traceback" not in slot.log, slot.log


def test_use_after_the_request_is_refused(serve):
    kept = []

    def app(environ, start_response):
        for sock in kept:
            with pytest.raises(OSError):
                sock.recv(1)
        kept.append(environ["werkzeug.socket"])
        start_response("200 OK", [])
        return [b"ok"]

    slot = start(serve, app)
    assert slot.response().body == b"ok"
    assert slot.ask(**HANDSHAKE).body == b"ok"


def test_use_behind_the_head_is_refused(serve):
    def app(environ, start_response):
        start_response("200 OK", [])(b"begun ")
        with pytest.raises(OSError):
            environ["werkzeug.socket"].recv(1)
        return [b"done"]

    assert start(serve, app).response().body == b"begun done"


def test_no_room_for_another_slot_is_the_apps_to_answer(serve):
    def full():
        raise ConnectionRefusedError("all threads in use")

    def app(environ, start_response):
        with pytest.raises(ConnectionRefusedError):
            environ["werkzeug.socket"].recv(1)
        with pytest.raises(ConnectionRefusedError):
            environ["werkzeug.socket"].recv(1)
        start_response("503 Busy", [])
        return []

    slot = start(serve, app, new_slot=full)
    assert slot.response().status == 503
    assert slot.ask().status == 500
    assert slot.finish() == "eof"


def test_a_thread_of_the_app_may_use_it(serve):
    def app(environ, start_response):
        sock = environ["werkzeug.socket"]
        sock.send(b"hi")
        thread = threading.Thread(target=lambda: sock.send(sock.recv(10)))
        thread.start()
        thread.join()
        return []

    slot = start(serve, app)
    assert slot.frame().kind == wire.HIJACK
    raw = slot.received
    while len(raw) < 2:
        raw += slot.sock.recv(10)
    slot.sock.sendall(b"back")
    assert slot.sock.recv(10) == b"back"


def test_descriptors_are_closed(serve):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"ok"]

    slot = serve(app)
    slot.ask(**HANDSHAKE)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        slot.ask(**HANDSHAKE)
    slot.ask()
    assert len(os.listdir("/proc/self/fd")) <= before
