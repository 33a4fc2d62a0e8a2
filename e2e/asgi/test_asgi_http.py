"""HTTP over a channel: scopes, bodies both ways, order, disconnects, time, errors."""

import ast
import os
import tempfile

import pytest
from asgi_wire import (
    CANCEL, CREDIT, END, FILE, PING, PONG, REQ_BODY, RESP_ABORT, RESP_BODY, RESP_FILE, RESP_HEAD, RESP_INFO,
    RESP_TRAILERS, STREAM, WINDOW, credit, frame, head, request,
)


def test_a_plain_response_is_one_frame(start, any_python):
    worker = start("hello", python=any_python)
    worker.peer.send(request(1))
    got = worker.peer.next()
    assert (got.kind, got.flags, got.stream) == (RESP_HEAD, END, 1)
    response = head(got)
    assert (response.status, response.inline) == (200, b"Hello, world!")
    assert response.headers == [(b"content-type", b"text/plain")]
    assert worker.finish() == 0
    assert worker.log.splitlines()[-1] == "served"
    assert "Error" not in worker.log and "Warning" not in worker.log


def test_the_scope_says_everything(start, any_python):
    worker = start("scope_app", python=any_python, lifespan="off")
    headers = [(b"host", b"shop.example"), (b"x-odd", b"\xe4"), (b"cookie", b"a=1; b=2")]
    sent = dict(target="/caf%C3%A9?a=%20b".encode(), query=b"a=%20b", headers=headers, https=True, version=10)
    for stream in (1, 2):
        response = worker.peer.get(stream, "/café".encode(), method=b"PUT", **sent)
        scope = ast.literal_eval(response.body.decode())
        extensions = {"http.response.early_hint", "http.response.pathsend", "http.response.trailers"}
        assert scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"} | ({} if stream == 0 else {"mine": {}}),
            "http_version": "1.0",
            "method": "PUT",
            "scheme": "https",
            "path": "/café",
            "raw_path": b"/caf%C3%A9",
            "root_path": "",
            "query_string": b"a=%20b",
            "headers": headers,
            "client": ("192.0.2.1", 4711),
            "server": ("shop.example", 443),
            "state": {"seen": True},
            "extensions": dict.fromkeys([*extensions, "mine"], {}),
        }
        assert type(scope["headers"]) is list and type(scope["client"][1]) is int


def test_what_an_app_writes_into_its_scope_stays_there(start):
    worker = start("scope_app")
    first, second = (worker.peer.get(stream).body for stream in (1, 2))
    assert first == second


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (dict(version=20), {"http_version": "2", "scheme": "http"}),
        (dict(target=b"http://shop.example/a?b", path=b"/a"), {"raw_path": b"/a", "path": "/a"}),
        (dict(target=b"http://shop.example", path=b"/"), {"raw_path": b"/", "path": "/"}),
        (dict(target=b"*", path=b"*", method=b"OPTIONS"), {"raw_path": b"*", "method": "OPTIONS"}),
        (dict(path=b"/\xff\xfe", target=b"/%ff%fe"), {"path": "/\ufffd\ufffd", "raw_path": b"/%ff%fe"}),
        (dict(client=(b"", 0), server=(b"", 0)), {"client": None, "server": None}),
        (dict(method=b"PROPFIND"), {"method": "PROPFIND"}),
        (dict(path=b"/x", root=b"/shop"), {"path": "/shop/x", "root_path": "/shop", "raw_path": b"/shop/x"}),
        (
            dict(path=b"/x", root=b"/shop", target=b"/x"),
            {"path": "/shop/x", "root_path": "/shop", "raw_path": b"/shop/x"},
        ),
        (
            dict(path=b"/shops", root=b"/shop", target=b"/shops"),
            {"path": "/shop/shops", "root_path": "/shop", "raw_path": b"/shop/shops"},
        ),
        (dict(path=b"", root=b"/shop", target=b"/shop"), {"path": "/shop", "raw_path": b"/shop"}),
    ],
)
def test_scope_corners(start, sent, expected):
    worker = start("scope_app")
    scope = ast.literal_eval(worker.peer.get(1, **sent).body.decode())
    assert {key: scope[key] for key in expected} == expected


@pytest.mark.parametrize("body", [None, b"", b"small", b"x" * 65536])
def test_inline_bodies(start, body):
    assert start("echo").peer.get(1, method=b"POST", body=body).body == (body or b"")


def test_a_spooled_body_is_read_from_its_file(start, any_python):
    worker = start("echo", python=any_python)
    content = os.urandom(300_000)
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        worker.peer.send_fd(request(1, kind=FILE, length=len(content)), file.fileno())
    assert worker.peer.response(1).body == content


def test_a_streamed_body_gives_credit_back(start, any_python):
    worker = start("echo", python=any_python)
    peer = worker.peer
    peer.send(request(1, kind=STREAM))
    content, at, window = os.urandom(1_000_000), 0, WINDOW
    while at < len(content):
        piece = content[at : at + min(window, 50_000)]
        peer.send(frame(REQ_BODY, piece, 1))
        at, window = at + len(piece), window - len(piece)
        if window < 50_000:
            window += int.from_bytes(peer.next(1, kind=CREDIT).payload, "little")
    peer.send(frame(REQ_BODY, b"", 1, END))
    assert peer.response(1).body == content


def test_an_unread_body_is_no_reason_to_give_credit(start):
    worker = start("steps")
    worker.peer.send(request(1, b"/start/sleep", kind=STREAM), frame(REQ_BODY, b"x" * WINDOW, 1))
    worker.wait_log("sleeping")
    worker.peer.ping()
    assert worker.peer.silent()
    worker.peer.send(frame(CANCEL, b"", 1, END))


def test_many_streams_at_once(start, loop):
    worker = start("echo", loop=loop, channels=2)
    for peer in worker.peers:
        peer.send(*(request(stream, body=b"%d" % stream) for stream in range(1, 500)))
    for peer in worker.peers:
        for stream in range(1, 500):
            assert peer.response(stream).body == b"%d" % stream
    assert worker.finish() == 0


def test_frames_may_arrive_byte_by_byte(start):
    worker = start("echo")
    for byte in request(1, body=b"slow") + frame(PING, b"12345678"):
        worker.peer.send(bytes([byte]))
    assert worker.peer.response(1).body == b"slow"
    assert worker.peer.next(kind=PONG).payload == b"12345678"


@pytest.mark.parametrize(
    ("path", "frames", "body"),
    [
        (b"/start/last", [RESP_HEAD], b"last"),
        (b"/start/more/last", [RESP_HEAD, RESP_BODY], b"more,last"),
        (b"/start/more/more/send_task/last", [RESP_HEAD] + [RESP_BODY] * 3, b"more,more,task,last"),
        (b"/early/start/early/last", [RESP_INFO, RESP_INFO, RESP_HEAD], b"last"),
        (b"/start_trailers/last/trailers", [RESP_HEAD, RESP_TRAILERS], b"last"),
        (b"/start_trailers/more/last/trailers", [RESP_HEAD, RESP_BODY, RESP_TRAILERS], b"more,last"),
        (b"/start/no_file/last", [RESP_HEAD], b"last"),
        (b"/start/folder/last", [RESP_HEAD], b"last"),
        (b"/receive_task/receive_timeout/start/last", [RESP_HEAD], b"last"),
    ],
)
def test_what_is_sent_becomes_these_frames(start, loop, path, frames, body):
    worker = start("steps", loop=loop)
    response = worker.peer.get(1, path)
    assert (response.status, response.frames, response.body) == (200, frames, body)
    if b"early" in path:
        links = [(b"link", b"</a.css>; rel=preload"), (b"link", b"</b.js>; rel=preload")]
        assert [(info.status, info.headers) for info in response.info] == [(103, links)] * 2
    if b"trailers" in path:
        assert response.trailers == [(b"a", b"1"), (b"b", b"2")]


def test_a_path_is_sent_as_a_descriptor(start, any_python, tmp_path, monkeypatch):
    file = tmp_path / "page"
    file.write_bytes(b"page" * 50_000)
    monkeypatch.setenv("ASGI_TEST_FILE", str(file))
    worker = start("steps", python=any_python)
    # Between other responses, so that the descriptor must find its frame.
    for stream in range(1, 40):
        worker.peer.send(request(stream, b"/start/file" if stream % 2 else b"/start/last"))
    for stream in range(1, 40):
        response = worker.peer.response(stream)
        if stream % 2:
            assert (response.frames, response.body) == ([RESP_HEAD, RESP_FILE], b"page" * 50_000)
        else:
            assert response.body == b"last"


def test_sending_waits_for_credit(start, any_python):
    worker = start("steps", python=any_python)
    peer = worker.peer
    peer.send(request(1, b"/start/big/last"))
    got = head(peer.next(1)).inline
    inline = len(got)
    while len(got) < inline + WINDOW:
        got += peer.next(1).payload
    assert len(got) == inline + WINDOW
    peer.ping()
    assert peer.silent() and "big is out" not in worker.log
    peer.send(credit(1, 10))
    assert len(peer.next(1).payload) == 10
    peer.send(credit(1, 2_000_000))
    got += b"0123456789" + peer.response(1, give_credit=False).body
    assert len(got) == 1_000_004 and got.endswith(b"last")
    worker.wait_log("big is out")


def test_what_is_sent_without_waiting_is_sent(start):
    worker = start("steps")
    worker.peer.send(request(1, b"/start/dropped"))
    response = worker.peer.response(1)
    assert response.body == b"d" * 1_000_000 and not response.aborted
    assert worker.finish() == 0


@pytest.mark.parametrize("path", [b"/receive_forever", b"/start/more/receive_forever", b"/start/last/receive_forever"])
def test_a_client_that_leaves_is_an_event(start, loop, path):
    worker = start("steps", loop=loop)
    worker.peer.send(request(1, path, body=b"12345"))
    if b"last" not in path:
        worker.wait_log("received http.request 5")
        worker.peer.send(frame(CANCEL, b"", 1))
        assert worker.peer.response(1).aborted
    else:
        worker.peer.response(1)
    worker.wait_log("received http.disconnect 0")
    assert worker.finish() == 0


def test_every_waiting_receive_learns_of_the_disconnect(start, any_python):
    worker = start("steps", python=any_python)
    worker.peer.send(request(1, b"/receive/two_receivers/start/last"))
    worker.wait_log("received {'type': 'http.request'")
    worker.peer.ping()
    worker.peer.send(frame(CANCEL, b"", 1))
    worker.peer.response(1)
    worker.wait_log("both received http.disconnect\nboth received http.disconnect")


def test_a_cancelled_receive_loses_nothing(start, any_python):
    worker = start("steps", python=any_python)
    worker.peer.send(request(1, b"/receive_timeout/receive/start/last", kind=STREAM))
    worker.wait_log("nothing to receive in time")
    worker.peer.send(frame(REQ_BODY, b"kept", 1, END))
    worker.peer.response(1)
    assert "received {'type': 'http.request', 'body': b'kept', 'more_body': False}" in worker.log


def test_sending_to_a_client_that_left_is_an_oserror(start, loop):
    worker = start("steps", loop=loop)
    worker.peer.send(request(1, b"/start/more/until_disconnect/send_error"))
    worker.wait_log("waiting")
    worker.peer.send(frame(CANCEL, b"", 1))
    worker.wait_log("send raised ClientDisconnected, an OSError")
    assert worker.peer.response(1).aborted
    assert worker.finish() == 0
    assert "Traceback" not in worker.log


def test_a_send_that_waits_for_credit_learns_of_the_disconnect(start, any_python):
    worker = start("steps", python=any_python)
    worker.peer.send(request(1, b"/start/big"))
    for _ in range(5):
        worker.peer.next(1)
    worker.peer.send(frame(CANCEL, b"", 1))
    assert worker.peer.response(1).aborted
    assert worker.finish() == 0
    assert "big is out" not in worker.log and "Traceback" not in worker.log


def test_a_request_over_its_time_is_cancelled(start, any_python, loop):
    if loop == "uvloop" and any_python != __import__("sys").executable:
        loop = "auto"
    worker = start("steps", python=any_python, loop=loop)
    worker.peer.send(request(1, b"/sleep"))
    worker.wait_log("sleeping")
    worker.peer.send(frame(CANCEL, b"", 1, END))
    worker.wait_log("cancelled")
    assert worker.peer.response(1).aborted
    assert worker.peer.get(2, b"/start/last").body == b"last"
    assert worker.finish() == 0
    assert "Traceback" not in worker.log


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (b"/raise", "ValueError: the app's own mistake"),
        (b"/start/raise", "ValueError: the app's own mistake"),
        (b"/exit", "SystemExit: 3"),
        (b"/return", "the app returned without a response"),
        (b"/start/return", "the app returned before its response was complete"),
    ],
)
def test_an_app_that_fails_first_gets_500(start, any_python, path, said):
    worker = start("steps", python=any_python)
    response = worker.peer.get(1, path, method=b"POST", request_id=0xABC)
    assert (response.status, response.body) == (500, b"")
    assert response.headers == [(b"x-ostler-error", b"app")]
    worker.wait_log(said)
    assert f"POST {path.decode()} (request 0000000000000abc): " in worker.log
    assert "<ostler asgi>" not in worker.log
    assert worker.peer.get(2, b"/start/last").status == 200


@pytest.mark.parametrize("path", [b"/start/more/raise", b"/start/more/return", b"/start/big/raise"])
def test_an_app_that_fails_later_aborts(start, path):
    response = start("steps").peer.get(1, path)
    assert (response.status, response.aborted, response.frames[-1]) == (200, True, RESP_ABORT)


def test_what_happens_after_the_response_is_logged_but_harms_nobody(start):
    worker = start("steps")
    assert worker.peer.get(1, b"/start/last/raise").body == b"last"
    worker.wait_log("the app's own mistake")
    assert worker.peer.get(2, b"/start/last/last").body == b"last"
    worker.wait_log("after response already completed")
    assert worker.peer.silent()


def test_a_log_line_cannot_be_forged_by_a_path(start):
    worker = start("steps")
    worker.peer.get(1, b"/return\nGET /admin (request 1): fine")
    worker.wait_log("KeyError")
    assert "\nGET /admin" not in worker.log.split("Traceback")[0]


@pytest.mark.parametrize(
    ("which", "error"),
    [
        ("no-type", "RuntimeError"), ("unknown", "RuntimeError"), ("not-a-dict", "TypeError"),
        ("body-first", "RuntimeError"), ("no-status", "RuntimeError"), ("status-text", "TypeError"),
        ("status-100", "ValueError"), ("str-header", "TypeError"), ("triple", "ValueError"), ("huge", "ValueError"),
        ("many", "ValueError"), ("websocket", "RuntimeError"), ("denial", "RuntimeError"),
    ],
)
def test_bad_messages_raise_in_the_app(start, which, error):
    assert start("bad_message").peer.get(1, b"/" + which.encode()).body == error.encode()


def test_what_the_specification_allows_is_taken(start, any_python):
    response = start("odd_types", python=any_python).peer.get(1)
    assert (response.status, response.headers) == (201, [(b"a", b"1")] * 2)
    assert response.body == b"array,view"


WAIT = b"/until_disconnect/return"


@pytest.mark.parametrize(
    "bytes_",
    [
        frame(99), frame(RESP_HEAD), b"\xff" * 12, frame(REQ_BODY, b"", 1, 64), frame(1, b"short", 1),
        frame(1, b"", 1), request(1, kind=FILE, length=5), request(1, WAIT) + request(1, WAIT),
        request(1, WAIT) + frame(CREDIT, b"abc", 1), request(1, WAIT) + frame(RESP_BODY, b"", 1),
    ],
)
def test_a_bad_frame_ends_its_channel_only(start, bytes_):
    worker = start("steps", channels=2)
    worker.peers[0].send(bytes_)
    while worker.peers[0].next() is not None:
        pass
    worker.wait_log("the channel to the server broke: ")
    assert worker.peers[1].get(1, b"/start/last").body == b"last"


def test_frames_for_a_stream_that_is_over_are_ignored(start):
    worker = start("hello")
    worker.peer.get(1)
    late = [frame(kind, b"1234", 1) for kind in (REQ_BODY, CANCEL, CREDIT, 33, 34)]
    worker.peer.send(*late)
    assert worker.peer.get(2).status == 200
