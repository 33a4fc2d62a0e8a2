"""Lifespan, the loop, and how a worker ends."""

import ast

import pytest
from asgi_wire import CANCEL, END, PONG, REQ_BODY, STREAM, WS_CLOSE, credit, frame, request


def test_lifespan_state_reaches_every_request(start, any_python):
    worker = start("lifespan_good", python=any_python, lifespan="on")
    for stream in (1, 2):
        assert ast.literal_eval(worker.peer.get(stream).body.decode()) == {"number": 5}
    assert worker.finish() == 0
    assert worker.log.splitlines() == ["shutting down", "behind the last message", "served"]


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("app", ["lifespan_failed"])
def test_a_failed_startup_is_told(start, app, mode, any_python):
    worker = start(app, lifespan=mode, ready=False, python=any_python)
    assert worker.wait_exit() == 3
    assert worker.log == "LifespanFailed: no database\n"


def test_a_startup_that_raises_counts_as_no_lifespan_unless_it_is_required(start):
    worker = start("lifespan_raises", lifespan="on", ready=False)
    assert worker.wait_exit() == 3
    assert worker.log.startswith("LifespanFailed: the app has no lifespan:\nTraceback")
    assert worker.log.rstrip().endswith("OSError: no database")
    assert start("lifespan_raises", lifespan="auto").peer.get(1).status == 200


@pytest.mark.parametrize(("mode", "code"), [("auto", 0), ("off", 0), ("on", 3)])
def test_an_app_without_lifespan(start, mode, code):
    worker = start("hello", lifespan=mode, ready=code == 0)
    if code == 0:
        assert worker.peer.get(1).status == 200
        worker.peer.finish()
    assert worker.wait_exit() == code


def test_a_failed_shutdown_is_logged(start):
    worker = start("lifespan_shutdown_failed")
    assert worker.finish() == 0
    assert "lifespan shutdown failed: could not flush" in worker.log


def test_a_shutdown_that_hangs_does_not_hold_the_worker(start):
    worker = start("lifespan_shutdown_hangs", graceful_timeout=0.2)
    assert worker.finish() == 0
    assert "took too long" in worker.log


@pytest.mark.parametrize(("asked", "used"), [("asyncio", "asyncio"), ("uvloop", "uvloop"), ("auto", "uvloop")])
def test_the_loop_is_the_one_asked_for(start, asked, used):
    assert start("running_loop", loop=asked).peer.get(1).body.decode().startswith(used)


def test_liveness_is_answered_by_the_loop(start, any_python):
    worker = start("hello", python=any_python)
    worker.peer.send(frame(5, b"\1\2\3\4\5\6\7\0"))
    got = worker.peer.next()
    assert (got.kind, got.payload, got.stream) == (PONG, b"\1\2\3\4\5\6\7\0", 0)


def test_at_eof_the_running_streams_finish_first(start, any_python, loop):
    if loop == "uvloop":
        loop = "auto"
    worker = start("drain", python=any_python, loop=loop)
    worker.peer.send(request(1, b"/background/start/last"))
    worker.peer.finish()
    assert worker.peer.response(1).body == b"last"
    assert worker.peer.eof() and worker.wait_exit() == 0
    assert worker.log.splitlines()[0] == "background done"
    assert worker.log.splitlines()[1] == "shutting down"


def test_work_behind_the_response_finishes_first(start):
    worker = start("drain")
    worker.peer.send(request(1, b"/start/last/background"))
    worker.peer.finish()
    assert worker.peer.response(1).body == b"last"
    assert worker.wait_exit() == 0
    assert worker.log.splitlines()[:2] == ["background done", "shutting down"]


def test_sigterm_is_the_same_end(start, loop):
    worker = start("drain", loop=loop)
    worker.peer.send(request(1, b"/sleep"), request(2, b"/start/more/receive/start"))
    worker.wait_log("sleeping")
    worker.terminate()
    # The stop must be noticed before the last stream ends; what comes meanwhile is served.
    worker.peer.ping()
    assert worker.peer.get(3, b"/start/last").body == b"last"
    worker.peer.send(frame(CANCEL, b"", 1, END))
    assert worker.wait_exit() == 0
    assert "shutting down" in worker.log


def test_what_outlives_the_grace_is_cancelled(start, any_python):
    worker = start("drain", python=any_python, graceful_timeout=0.3)
    worker.peer.send(request(1, b"/sleep"), request(2, b"/start/more/sleep"))
    worker.wait_log("sleeping\nsleeping")
    worker.peer.finish()
    assert worker.peer.response(1).status == 500
    assert worker.peer.response(2).aborted
    assert worker.wait_exit() == 0
    assert worker.log.count("cancelled, because the worker stops") == 2
    assert "Traceback" not in worker.log and "shutting down" in worker.log


def test_a_channel_at_eof_leaves_the_other_ones_alone(start):
    worker = start("drain", channels=3)
    worker.peers[0].finish()
    worker.peers[1].sock.close()
    for stream in range(1, 20):
        assert worker.peers[2].get(stream, b"/start/last").body == b"last"
    worker.peers[2].finish()
    assert worker.wait_exit() == 0


def test_eof_ends_what_can_not_go_on_without_the_server(start, any_python):
    worker = start("steps", python=any_python)
    worker.peer.send(request(1, b"/receive_forever", kind=STREAM), frame(REQ_BODY, b"123", 1))
    worker.peer.send(request(2, b"/start/big"))
    worker.wait_log("received http.request 3")
    # The rest fits into the socket: what a worker cannot write at its end is lost.
    worker.peer.kept += [worker.peer.next(2) for _ in range(3)]
    worker.peer.finish()
    for stream in (1, 2):
        assert worker.peer.response(stream, give_credit=False).aborted
    assert worker.wait_exit() == 0
    assert "received http.disconnect" in worker.log and "big is out" not in worker.log


def test_eof_closes_websockets_with_1012(start):
    worker = start("websocket")
    worker.peer.send(request(1, b"/", websocket=True))
    worker.peer.next(1)
    worker.peer.finish()
    assert worker.peer.next(1).kind == WS_CLOSE
    assert worker.wait_exit() == 0
    assert "disconnect 1012" in worker.log


def test_a_server_that_is_killed_ends_the_worker(start):
    worker = start("steps")
    worker.peer.send(request(1, b"/start/more/until_disconnect"), request(2, b"/start/last"), credit(1, 5))
    worker.wait_log("waiting")
    worker.peer.sock.close()
    worker.terminate()
    assert worker.wait_exit() == 0
