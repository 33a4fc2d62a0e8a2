"""What frameworks make of a stream: threads, middleware, disconnects, files."""

import json

import pytest
from asgi_wire import CANCEL, RESP_HEAD, WS_ACCEPT, frame, head, request, ws_close, ws_message

HEADERS = [(b"host", b"shop.example"), (b"content-type", b"application/json")]


def test_fastapi_with_middleware(start, loop):
    worker = start("asgi_frameworks:fast", loop=loop)
    response = worker.peer.get(1, b"/items/5", method=b"POST", headers=HEADERS, body=b'{"a": 1}')
    assert (response.status, json.loads(response.body)) == (200, {"number": 5, "body": {"a": 1}, "gone": False})
    assert (b"x-middleware", b"1") in response.headers
    assert worker.peer.get(2, b"/background", headers=HEADERS).body == b"first"
    worker.wait_log("then the rest")
    assert worker.finish() == 0
    assert "Traceback" not in worker.log


def test_fastapi_sends_a_file(start, tmp_path):
    page = tmp_path / "page.txt"
    page.write_bytes(b"page" * 100_000)
    response = start("asgi_frameworks:fast").peer.get(1, b"/file", query=b"name=%s" % bytes(page), headers=HEADERS)
    assert (response.status, response.body) == (200, page.read_bytes())


@pytest.mark.parametrize("app", ["streams", "django_app"])
def test_an_endless_response_ends_with_its_client(start, app, loop):
    worker = start(f"asgi_frameworks:{app}", loop=loop)
    worker.peer.send(request(1, b"/endless", headers=HEADERS))
    assert worker.peer.next(1).kind == RESP_HEAD
    worker.peer.next(1)
    worker.peer.send(frame(CANCEL, b"", 1))
    worker.wait_log("generator closed")
    assert worker.finish() == 0
    assert "Traceback" not in worker.log


def test_fastapi_websocket(start, loop):
    worker = start("asgi_frameworks:fast", loop=loop)
    worker.peer.send(request(1, b"/chat", websocket=True, headers=[(b"sec-websocket-protocol", b"chat")]))
    accepted = worker.peer.next(1)
    assert accepted.kind == WS_ACCEPT and head(accepted).headers == [(b"sec-websocket-protocol", b"chat")]
    worker.peer.send(ws_message(1, "hello"))
    assert json.loads(worker.peer.next(1).payload[1:]) == {"echo": "hello"}
    worker.peer.send(ws_close(1, 1001))
    worker.wait_log("left with 1001")
    assert worker.finish() == 0
    assert "Traceback" not in worker.log


def test_fastapi_refuses_an_unknown_websocket(start):
    worker = start("asgi_frameworks:fast")
    worker.peer.send(request(1, b"/nowhere", websocket=True))
    assert worker.peer.response(1).status == 403


def test_django(start, loop):
    worker = start("asgi_frameworks:django_app", loop=loop)
    response = worker.peer.get(1, b"/plain", root=b"/shop", method=b"POST", headers=HEADERS, body=b"abc")
    assert (response.status, response.body) == (200, b"cba")
    assert (b"X-Path", b"/shop/plain") in response.headers or (b"x-path", b"/shop/plain") in response.headers
    assert worker.finish() == 0
