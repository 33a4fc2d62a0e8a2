"""The life of a slot: waiting, cancelling, ending, signals, threads, hooks."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest
import wsgi_wire as wire


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def test_end_of_the_socket_ends_an_idle_slot(serve):
    slot = serve(hello)
    assert slot.ask().body == b"hello"
    assert slot.finish() == "eof"


def test_end_of_the_socket_lets_a_request_finish(serve):
    gate = threading.Event()
    entered = threading.Event()

    def app(environ, start_response):
        entered.set()
        assert gate.wait(10)
        start_response("200 OK", [])
        yield b"one"
        yield b"two"

    slot = serve(app)
    slot.send(wire.request())
    assert entered.wait(10)
    slot.sock.shutdown(socket.SHUT_WR)
    gate.set()
    assert slot.response().body == b"onetwo"
    assert slot.finish() == "eof"


def test_shut_down_for_reading_from_inside_ends_it_too(serve):
    slot = serve(hello)
    slot.ask()
    slot.worker.shutdown(socket.SHUT_RD)
    slot.thread.join(10)
    assert slot.result == "eof"


def test_requests_may_come_split_at_every_byte(serve):
    slot = serve(hello)
    data = wire.request(b"POST", body=b"abc", headers=[(b"host", b"a")])
    for at in range(1, len(data)):
        slot.sock.sendall(data[:at])
        slot.sock.sendall(data[at:])
        assert slot.response().body == b"hello"


def test_requests_may_come_back_to_back(serve):
    slot = serve(lambda environ, start: (start("200 OK", []), [environ["PATH_INFO"].encode()])[1])
    slot.send(*[wire.request(path=b"/%d" % turn, body=b"x" * turn * 100) for turn in range(50)])
    assert [slot.response().body for _ in range(50)] == [b"/%d" % turn for turn in range(50)]


def test_largest_head_and_body_fit(serve):
    slot = serve(lambda environ, start: (start("200 OK", []), [environ["HTTP_X_LONG"].encode()])[1])
    value = b"v" * 65535
    answer = slot.ask(b"POST", headers=[(b"x-long", value)], body=b"b" * 900_000)
    assert answer.body == value
    assert slot.ask(headers=[(b"x-long", b"short")]).body == b"short"


def test_cancel_of_an_idle_slot_is_dropped(serve):
    slot = serve(hello)
    slot.send(wire.frame(wire.CANCEL))
    assert slot.ask().body == b"hello"
    slot.send(wire.frame(wire.CANCEL), wire.request(path=b"/next"))
    assert slot.response().body == b"hello"


def test_cancelled_before_it_began_the_app_is_not_called(serve):
    called = []

    def app(environ, start_response):
        called.append(environ["PATH_INFO"])
        return hello(environ, start_response)

    slot = serve(app)
    slot.send(wire.request(path=b"/left") + wire.frame(wire.CANCEL))
    assert slot.response().aborted == b""
    assert slot.ask(path=b"/stayed").body == b"hello"
    assert called == ["/stayed"]


def test_cancel_stops_a_stream_and_closes_it(serve):
    closed = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", [])
        try:
            while True:
                yield b"tick"
        finally:
            closed.set()

    slot = serve(app)
    slot.send(wire.request())
    for _ in range(5):
        slot.frame()
    slot.send(wire.frame(wire.CANCEL))
    assert slot.response(started=True).aborted == b""
    assert closed.wait(10)
    slot.finish()
    assert slot.log == ""


def test_cancel_reaches_write_as_an_exception(serve, ostler):
    seen = []

    def app(environ, start_response):
        write = start_response("200 OK", [])
        try:
            while True:
                write(b"tick")
        except OSError as error:
            seen.append(type(error))
        return [b"never"]

    slot = serve(app)
    slot.send(wire.request())
    slot.frame()
    slot.send(wire.frame(wire.CANCEL))
    slot.response(started=True)
    slot.send(wire.frame(wire.CANCEL))
    slot.finish()
    assert seen == [ostler.ClientDisconnected]


def test_server_that_is_gone_ends_the_slot_and_closes_the_iterable(serve):
    closed = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 100_000
        finally:
            closed.set()

    slot = serve(app)
    slot.send(wire.request())
    slot.frame()
    slot.sock.close()
    assert closed.wait(10)
    slot.thread.join(10)
    assert slot.result == "eof" and slot.raised is None
    assert slot.log == ""


@pytest.mark.parametrize("stop", [SystemExit(3), KeyboardInterrupt()])
def test_system_exit_answers_and_ends_the_worker(serve, stop):
    def app(environ, start_response):
        raise stop

    slot = serve(app)
    assert slot.ask().status == 500
    slot.thread.join(10)
    assert slot.raised is stop


def test_system_exit_inside_a_stream_aborts_and_ends_the_worker(serve):
    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"begun"
        sys.exit(4)

    slot = serve(app)
    assert slot.ask().aborted
    slot.thread.join(10)
    assert isinstance(slot.raised, SystemExit) and slot.raised.code == 4


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 12,
        wire.frame(99),
        wire.frame(wire.REQ_BODY, b"x"),
        wire.frame(wire.REQ_HEAD, b"short"),
        wire.frame(wire.RESP_HEAD, b""),
        wire.request(b"POST", kind=wire.FILE, length=3),
    ],
)
def test_a_broken_frame_ends_the_slot_with_an_error(serve, data):
    slot = serve(hello)
    slot.send(data)
    slot.thread.join(10)
    assert isinstance(slot.raised, RuntimeError)


def test_descriptor_that_no_frame_claims_is_not_kept(serve):
    slot = serve(hello)
    slot.ask()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with open("/dev/null", "rb") as file:
            slot.send_with_fd(wire.request(), file.fileno())
        slot.response()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_nonblocking_socket_is_waited_for(serve, ostler):
    server, worker = socket.socketpair()
    worker.setblocking(False)
    thread = threading.Thread(target=lambda: ostler.serve_wsgi(hello, worker.fileno(), {}))
    thread.start()
    end = wire.ServerEnd(server)
    end.send(wire.request())
    assert end.response().body == b"hello"
    server.close()
    thread.join(10)
    assert not thread.is_alive()


def test_slots_of_one_process_serve_side_by_side(serve):
    together = threading.Barrier(4, timeout=10)

    def app(environ, start_response):
        together.wait()
        start_response("200 OK", [])
        return [b"x" * 300_000, environ["PATH_INFO"].encode()]

    slots = [serve(app, multithread=True) for _ in range(4)]
    for turn in range(10):
        for index, slot in enumerate(slots):
            slot.send(wire.request(path=b"/%d" % index))
        for index, slot in enumerate(slots):
            assert slot.response().body == b"x" * 300_000 + b"/%d" % index


def test_idle_slot_leaves_the_gil_to_others(serve):
    slot = serve(hello)
    slot.ask()
    assert sum(range(100_000)) == 4999950000
    assert slot.ask().status == 200


def test_hooks_are_called_around_the_app(serve):
    calls = []

    def pre(request, environ):
        calls.append((request.method, request.path, request.uri, request.query, request.version))
        calls.append((request.headers, request.scheme, request.remote_addr))
        environ["from.hook"] = "yes"

    def post(environ, status):
        calls.append((environ["from.hook"], status))

    slot = serve(hello, pre_request=pre, post_request=post)
    slot.ask(b"GET", b"/p", query=b"q=1", headers=[(b"host", b"h"), (b"x-own", b"v")])
    slot.finish()
    assert calls == [
        ("GET", "/p", "/p?q=1", "q=1", (1, 1)),
        ([("HOST", "h"), ("X-OWN", "v")], "http", ("192.0.2.7", 4711)),
        ("yes", 200),
    ]


def test_hook_that_raises_before_the_app_is_a_500(serve):
    def pre(request, environ):
        raise ValueError("hook")

    slot = serve(hello, pre_request=pre)
    assert slot.ask().status == 500
    slot.finish()
    assert "ValueError: hook" in slot.log


def test_hook_that_raises_after_the_app_is_reported(serve):
    seen = []

    def post(environ, status):
        seen.append(status)
        raise ValueError("hook")

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/fail":
            raise KeyError
        return hello(environ, start_response)

    slot = serve(app, post_request=post)
    assert slot.ask().body == b"hello"
    assert slot.ask(path=b"/fail").status == 500
    slot.finish()
    assert seen == [200, 500] and "the post_request hook failed" in slot.log


def test_nothing_leaks_over_many_requests(serve):
    import gc

    def app(environ, start_response):
        environ["cycle"] = environ
        environ["start"] = start_response
        write = start_response("200 OK", [("X-A", "b")])
        write(environ["wsgi.input"].read() or b"-")
        if environ["PATH_INFO"] == "/raise":
            raise ValueError
        return iter([b"x", b"y"])

    slot = serve(app)

    def round_trip():
        for path in (b"/", b"/raise"):
            slot.ask(b"POST", path, body=b"abc", headers=[(b"x-own", b"v")])
            slot.ask(b"GET", path)
        slot.errors.seek(0)
        slot.errors.truncate()

    for _ in range(20):
        round_trip()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(100):
        round_trip()
    gc.collect()
    assert len(gc.get_objects()) - before < 50


SIGNALS = """
    import importlib.machinery as m, importlib.util as u, signal, socket, sys
    l = m.ExtensionFileLoader("_ostler", sys.argv[1])
    s = u.spec_from_file_location("_ostler", sys.argv[1], loader=l)
    x = u.module_from_spec(s); sys.modules["_ostler"] = x; l.exec_module(x)
    sock = socket.socket(fileno=int(sys.argv[2]))

    def stop(signum, frame):
        sock.shutdown(socket.SHUT_RD)

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"begun"
        environ["wsgi.input"].read()
        yield b"x" * 10_000_000

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    print(x.serve_wsgi(app, sock.fileno(), {}), flush=True)
"""


@pytest.fixture
def process(ostler):
    server, worker = socket.socketpair()
    command = [sys.executable, "-c", textwrap.dedent(SIGNALS), ostler.__file__, str(worker.fileno())]
    child = subprocess.Popen(command, pass_fds=[worker.fileno()], stdout=subprocess.PIPE, text=True)
    worker.close()
    server.settimeout(20)
    yield child, wire.ServerEnd(server)
    server.close()
    child.kill()
    child.wait()
    child.stdout.close()


def test_signal_handler_runs_while_the_slot_waits(process):
    child, slot = process
    slot.send(wire.request())
    slot.response()
    child.send_signal(signal.SIGTERM)
    assert child.stdout.read() == "eof\n" and child.wait(10) == 0


def test_signals_inside_a_large_answer_do_not_break_its_frames(process):
    child, slot = process
    for _ in range(3):
        slot.send(wire.request())
        assert slot.frame().payload.endswith(b"begun")
        body = 0
        while True:
            child.send_signal(signal.SIGUSR1)
            got = slot.frame()
            assert got.kind == wire.RESP_BODY and set(got.payload) <= {ord("x")}
            body += len(got.payload)
            if got.last:
                break
        assert body == 10_000_000
