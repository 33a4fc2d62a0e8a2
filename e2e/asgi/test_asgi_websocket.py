"""WebSockets over a channel: handshake, messages, credit, close."""

import ast

import pytest
from asgi_wire import (
    CANCEL, CREDIT, END, RESP_ABORT, RESP_BODY, RESP_HEAD, WINDOW, WS_ACCEPT, WS_CLOSE, WS_MESSAGE, credit, frame,
    head, request, ws_close, ws_message,
)


def connect(worker, path=b"/", *, protocols=None, stream=1):
    headers = [(b"sec-websocket-protocol", protocols)] if protocols else []
    worker.peer.send(request(stream, path, websocket=True, headers=headers))
    got = worker.peer.next(stream)
    assert got.kind == WS_ACCEPT
    return head(got)


def closed(got):
    assert got.kind == WS_CLOSE, got
    return int.from_bytes(got.payload[:2], "little"), got.payload[2:]


def test_a_conversation(start, any_python):
    worker = start("websocket", python=any_python)
    accepted = connect(worker, protocols=b"chat,  superchat ,")
    assert accepted.status == 101
    assert accepted.headers == [(b"sec-websocket-protocol", b"superchat"), (b"x-hall", b"7")]
    worker.peer.send(ws_message(1, "grüße"), ws_message(1, b"abc"), ws_message(1, ""), ws_message(1, b""))
    for opcode, data in [(1, "GRÜSSE".encode()), (2, b"cba"), (1, b""), (2, b"")]:
        got = worker.peer.next(1)
        assert (got.kind, got.payload[0], got.payload[1:], got.end) == (WS_MESSAGE, opcode, data, True)
    worker.peer.send(ws_close(1, 4321, "tschüs".encode()))
    assert closed(worker.peer.next(1))[0] == 4321
    assert worker.finish() == 0
    assert worker.log.splitlines() == [
        "disconnect 4321 'tschüs'", "send raised ClientDisconnected", "again 4321", "served",
    ]


def test_the_scope(start):
    worker = start("scope_app")
    sent = dict(websocket=True, https=True, query=b"a=b", headers=[(b"sec-websocket-protocol", b"a, b")])
    worker.peer.send(request(1, b"/chat", **sent))
    worker.peer.next(1)
    scope = ast.literal_eval(worker.peer.next(1).payload[1:].decode())
    assert scope["type"] == "websocket" and scope["scheme"] == "wss" and scope["http_version"] == "1.1"
    assert scope["subprotocols"] == ["a", "b"] and scope["raw_path"] == b"/chat"
    assert scope["extensions"] == {"websocket.http.response": {}} and "method" not in scope
    # The app returned without a close.
    assert closed(worker.peer.next(1)) == (1000, b"")


@pytest.mark.parametrize(
    ("path", "status", "headers", "body"),
    [
        (b"/deny", 403, [], b""),
        (b"/respond", 401, [(b"content-type", b"text/plain")], b"who are you?"),
        (b"/raise-first", 500, [(b"x-ostler-error", b"app")], b""),
        (b"/return-first", 500, [(b"x-ostler-error", b"app")], b""),
        (b"/send-first", 403, [], b""),
    ],
)
def test_a_handshake_that_is_not_accepted(start, any_python, path, status, headers, body):
    worker = start("websocket", python=any_python)
    worker.peer.send(request(1, path, websocket=True))
    response = worker.peer.response(1)
    assert (response.status, response.headers, response.body) == (status, headers, body)
    assert worker.finish() == 0
    if path == b"/respond":
        assert "after the denial {'type': 'websocket.disconnect', 'code': 1006" in worker.log


def test_a_handshake_whose_client_leaves(start):
    worker = start("websocket_slow")
    worker.peer.send(request(1, websocket=True))
    worker.wait_log("connecting")
    worker.peer.send(frame(CANCEL, b"", 1))
    worker.wait_log("disconnect 1006")
    assert worker.peer.next(1).kind == RESP_ABORT
    assert worker.finish() == 0


def test_the_apps_close(start, loop):
    worker = start("websocket", loop=loop)
    connect(worker)
    worker.peer.send(ws_message(1, "close"))
    assert closed(worker.peer.next(1)) == (4001, b"bye")
    assert worker.finish() == 0
    assert "after my close {'type': 'websocket.disconnect', 'code': 4001, 'reason': 'bye'}" in worker.log
    assert "refused: Unexpected ASGI message" in worker.log


@pytest.mark.parametrize(("word", "code"), [("raise", 1011), ("return", 1000)])
def test_an_app_that_leaves_its_websocket_open(start, word, code):
    worker = start("websocket")
    connect(worker)
    worker.peer.send(ws_message(1, word))
    assert closed(worker.peer.next(1)) == (code, b"")
    assert worker.finish() == 0
    assert ("ValueError: in the middle" in worker.log) == (word == "raise")
    assert word == "return" or "WEBSOCKET / (request 0000000000000007)" in worker.log


def test_a_connection_that_breaks_is_1006(start, any_python):
    worker = start("websocket", python=any_python)
    connect(worker)
    worker.peer.send(ws_message(1, "before"))
    assert worker.peer.next(1).payload == b"\1BEFORE"
    worker.peer.send(frame(CANCEL, b"", 1))
    assert closed(worker.peer.next(1))[0] == 1006
    assert worker.finish() == 0
    assert "disconnect 1006 ''" in worker.log


def test_messages_before_the_close_are_delivered(start):
    worker = start("websocket")
    connect(worker)
    worker.peer.send(ws_message(1, "return"), ws_close(1, 1001))
    worker.peer.next(1, kind=WS_CLOSE)
    assert worker.finish() == 0
    assert "disconnect" not in worker.log


def test_a_long_message_comes_in_pieces_and_gives_credit_back(start, any_python):
    worker = start("websocket", python=any_python)
    connect(worker)
    content = bytes(range(256)) * 4000
    pieces = [content[at : at + 100_000] for at in range(0, len(content), 100_000)]
    window, got = WINDOW, b""
    for piece in pieces:
        while window < len(piece) + 1:
            window += int.from_bytes(worker.peer.next(1, kind=CREDIT).payload, "little")
        worker.peer.send(ws_message(1, piece, end=piece is pieces[-1]))
        window -= len(piece) + 1
    last = False
    while not last:
        message = worker.peer.next(1, kind=WS_MESSAGE)
        got, last = got + message.payload[1:], message.end
        worker.peer.send(credit(1, len(message.payload)))
    assert got == content[::-1]


def test_sending_waits_for_credit(start):
    worker = start("websocket")
    connect(worker)
    worker.peer.send(ws_message(1, "big"))
    taken, got = 0, b""
    while taken < WINDOW:
        message = worker.peer.next(1, kind=WS_MESSAGE)
        assert not message.end
        taken, got = taken + len(message.payload), got + message.payload[1:]
    assert taken == WINDOW
    worker.peer.ping()
    assert worker.peer.silent() and "big is out" not in worker.log
    worker.peer.send(credit(1, 1))
    worker.peer.ping()
    assert worker.peer.silent(), "an opcode alone is no piece of a message"
    worker.peer.send(credit(1, 2_000_000))
    while not message.end:
        message = worker.peer.next(1, kind=WS_MESSAGE)
        got += message.payload[1:]
    assert got == b"b" * 1_000_000
    worker.wait_log("big is out")


def test_messages_nobody_takes_give_no_credit_back(start):
    worker = start("websocket_slow")
    worker.peer.send(request(1, b"/accept", websocket=True))
    assert worker.peer.next(1).kind == WS_ACCEPT
    worker.peer.send(*[ws_message(1, b"x" * 1000)] * 200)
    worker.peer.ping()
    assert worker.peer.silent()
    worker.peer.send(ws_close(1, 1000))


def test_a_denial_in_two_frames(start):
    worker = start("websocket")
    worker.peer.send(request(1, b"/respond", websocket=True))
    assert [worker.peer.next(1).kind for _ in range(2)] == [RESP_HEAD, RESP_BODY]


@pytest.mark.parametrize("payload", [b"", b"\3abc"])
def test_a_bad_message_ends_the_channel(start, payload):
    worker = start("websocket")
    connect(worker)
    worker.peer.send(frame(WS_MESSAGE, payload, 1, END))
    while worker.peer.next() is not None:
        pass
    worker.wait_log("the channel to the server broke")
    worker.wait_log("disconnect 1006")
