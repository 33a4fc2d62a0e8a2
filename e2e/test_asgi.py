"""ASGI 3: lifespan, http, extensions, time."""

import json
import os
import signal
import time

import pytest

from harness import Client, eventually

RAW = """
import asyncio, json, os

seen = {}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["made"] = "at startup"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if where := os.environ.get("ENDED"):
            open(where, "w").write("in order")
        await send({"type": "lifespan.shutdown.complete"})
        return
    await globals()["on_" + (scope["path"].split("/")[1] or "hello")](scope, receive, send)

async def answer(send, body, status=200, headers=()):
    body = body if isinstance(body, bytes) else body.encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body)), *headers]})
    await send({"type": "http.response.body", "body": body})

async def on_pid(scope, receive, send):
    await answer(send, str(os.getpid()))

async def on_unplug(scope, receive, send):
    # Closes the sockets to the server, as one does that closes every descriptor it does not know.
    import socket

    for name in os.listdir("/proc/self/fd"):
        try:
            it = socket.socket(fileno=int(name))
        except OSError:
            continue
        if it.family == socket.AF_UNIX and it.type == socket.SOCK_STREAM:
            it.close()
        else:
            it.detach()
    await asyncio.Event().wait()

async def on_hello(scope, receive, send):
    await answer(send, "hello")

async def on_scope(scope, receive, send):
    await answer(send, json.dumps(scope, default=lambda o: o.decode("latin-1") if isinstance(o, bytes) else repr(o)))

async def on_echo(scope, receive, send):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await answer(send, body)

async def on_state(scope, receive, send):
    scope["state"]["mine"] = 1
    await answer(send, scope["state"]["made"])

async def on_stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for n in range(10):
        await send({"type": "http.response.body", "body": b"part %d " % n, "more_body": True})
    await send({"type": "http.response.body"})

async def on_hang(scope, receive, send):
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        seen["cancelled"] = True
        raise

async def on_gone(scope, receive, send):
    seen["waits"] = True
    while (message := await receive())["type"] != "http.disconnect":
        pass
    seen["gone"] = True

async def on_seen(scope, receive, send):
    await answer(send, json.dumps(seen))

async def on_raise(scope, receive, send):
    raise RuntimeError("on purpose")

async def on_late(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    raise RuntimeError("in the middle")

async def on_nothing(scope, receive, send):
    return

async def on_sleep(scope, receive, send):
    seen["sleeps"] = True
    await asyncio.sleep(0.3)
    await answer(send, str(os.getpid()))

async def on_block(scope, receive, send):
    import time
    time.sleep(1000)

async def on_hints(scope, receive, send):
    assert "http.response.early_hint" in scope["extensions"]
    await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
    await answer(send, "page")

async def on_trailers(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"x-sum")], "trailers": True})
    await send({"type": "http.response.body", "body": b"body"})
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"42")]})

async def on_pathsend(scope, receive, send):
    assert "http.response.pathsend" in scope["extensions"]
    size = os.path.getsize(os.environ["FILE"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.pathsend", "path": os.environ["FILE"]})

async def on_loop(scope, receive, send):
    await answer(send, type(asyncio.get_running_loop()).__module__)

async def on_pid(scope, receive, send):
    await answer(send, str(os.getpid()))

async def on_bad(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\\r\\nInjected: yes")]})
    await send({"type": "http.response.body", "body": b""})

async def on_short(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
    await send({"type": "http.response.body", "body": b"short"})
"""


@pytest.fixture(scope="module")
def raw_app(module_host):
    return module_host(source=RAW)


@pytest.mark.smoke
def test_scope_is_to_the_letter(raw_app):
    with raw_app.raw() as raw:
        head = b"GET /scope/a%20b%2F%C3%A9?q=%20 HTTP/1.1\r\nHost: shop:81\r\nX-A: 1\r\nx-b: caf\xe9\r\nX-A: 2\r\n\r\n"
        scope = json.loads(raw.send(head).answer().body)
    assert scope["type"] == "http" and scope["asgi"]["version"] == "3.0" and scope["http_version"] == "1.1"
    assert scope["method"] == "GET" and scope["scheme"] == "http" and scope["path"] == "/scope/a b/\u00e9"
    assert scope["raw_path"] == "/scope/a%20b%2F%C3%A9" and scope["query_string"] == "q=%20" and scope["root_path"] == ""
    assert ["host", "shop:81"] in scope["headers"] and ["x-b", "caf\u00e9"] in scope["headers"]
    assert [v for n, v in scope["headers"] if n == "x-a"] == ["1", "2"]
    assert scope["client"][0] == "127.0.0.1" and isinstance(scope["client"][1], int) and isinstance(scope["server"][1], int)


def test_http_1_0_is_said_in_full(raw_app):
    with raw_app.raw() as raw:
        assert json.loads(raw.send(b"GET /scope HTTP/1.0\r\nHost: a\r\n\r\n").answer().body)["http_version"] == "1.0"


def test_root_path(host):
    scope = json.loads(host("app:app", "--root-path", "/shop", source=RAW.replace('scope["path"].split("/")[1]', 'scope["path"].split("/")[-1]')).get("/shop/scope").body)
    assert scope["root_path"] == "/shop" and scope["path"] == "/shop/scope"


@pytest.mark.parametrize("size", [0, 1, 65536, 70_000, 300_000, 5_000_000])
def test_body_of_any_size_comes_back(raw_app, size):
    body = os.urandom(size)
    assert raw_app.request("POST", "/echo", body=body, timeout=60).body == body


def test_chunked_body(raw_app):
    with raw_app.raw() as raw:
        raw.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
        assert raw.answer().body == b"onetwo"


def test_stream_is_chunked(raw_app):
    answer = raw_app.get("/stream")
    assert answer.body == b"".join(b"part %d " % n for n in range(10)) and answer.complete


def test_state_of_the_lifespan_is_a_copy_in_each_scope(raw_app):
    assert raw_app.get("/state").body == b"at startup"
    assert "mine" not in json.loads(raw_app.get("/scope").body)["state"]


def test_lifespan_ends_in_order(host, tmp_path):
    running = host(source=RAW, env={"ENDED": str(tmp_path / "ended")})
    assert running.stop() == 0
    assert (tmp_path / "ended").read_text() == "in order"


def test_app_without_lifespan_is_served(host):
    source = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})
"""
    running = host(source=source)
    assert running.get("/").body == b"x"
    failed = host("app:app", "--lifespan", "on", source=source, ready=False)
    assert failed.wait_exit(30) != 0


def test_failed_startup_ends_the_start_with_its_reason(host):
    source = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""
    failed = host(source=source, ready=False)
    assert failed.wait_exit(30) != 0 and failed.log.matches("no database")


def test_many_requests_run_at_once_in_one_worker(raw_app):
    raws = [raw_app.raw(20) for _ in range(50)]
    began = time.monotonic()
    for raw in raws:
        raw.send(b"GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n")
    assert {raw.answer().status for raw in raws} == {200}
    assert time.monotonic() - began < 12, "one after the other they take 15 s"
    for raw in raws:
        raw.socket.close()


def test_timeout_is_504_and_cancels_the_task(host):
    running = host("app:app", "--timeout", 3, source=RAW)
    worker = running.get("/pid").body
    assert running.get("/hang").status == 504
    eventually(lambda: json.loads(running.get("/seen").body).get("cancelled"))
    assert running.get("/pid").body == worker, "the worker is not replaced"


def test_worker_whose_loop_does_not_answer_is_replaced(host):
    running = host("app:app", "--timeout", 1, source=RAW)
    assert running.get("/block", timeout=20).status in (502, 504)
    eventually(lambda: running.get("/", timeout=20).status == 200, 30)
    assert running.log.matches("on_block"), "the log shows where it stands"


def test_worker_that_closed_its_channel_is_replaced(host):
    running = host("app:app", "-w", "1", "--loop", "asyncio", source=RAW)
    deaf = running.get("/pid").body
    assert running.get("/unplug").status == 502
    assert running.get("/pid").body != deaf
    running.log.wait("is replaced: it closed a socket to the server")


def test_disconnect_is_told(raw_app):
    with raw_app.raw() as raw:
        raw.send(b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: json.loads(raw_app.get("/seen").body).get("waits"))
    eventually(lambda: json.loads(raw_app.get("/seen").body).get("gone"))


def test_exception_is_500_with_its_traceback(raw_app):
    assert raw_app.get("/raise").status == 500
    raw_app.log.wait("RuntimeError: on purpose")
    assert raw_app.get("/").body == b"hello"


def test_exception_after_the_body_began_cuts_it_off_visibly(raw_app):
    try:
        assert not raw_app.get("/late").complete
    except EOFError:
        pass


@pytest.mark.parametrize("path", ["/nothing", "/bad", "/short"])
def test_fault_of_the_app_hurts_no_other(raw_app, path):
    try:
        answer = raw_app.get(path)
        assert answer.status >= 500 or not answer.complete
        assert not answer.all("Injected")
    except EOFError:
        pass
    assert raw_app.get("/").body == b"hello"


def test_early_hints(raw_app):
    with raw_app.raw() as raw:
        first = raw.send(b"GET /hints HTTP/1.1\r\nHost: a\r\n\r\n").any_answer()
        assert first.status == 103 and first.header("Link") == "</a.css>; rel=preload"
        assert raw.answer().body == b"page"


def test_trailers(raw_app):
    with raw_app.raw() as raw:
        raw.send(b"GET /trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n")
        text = raw.rest()
    assert text.lower().endswith(b"0\r\nx-sum: 42\r\n\r\n") or text.endswith(b"0\r\n\r\n")
    assert b"body" in text


def test_pathsend(host, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(os.urandom(300_000))
    running = host(source=RAW, env={"FILE": str(file)})
    assert running.get("/pathsend").body == file.read_bytes()


@pytest.mark.parametrize("loop, module", [("asyncio", "asyncio"), ("uvloop", "uvloop"), ("auto", "uvloop")])
def test_event_loop(host, loop, module):
    assert host("app:app", "--loop", loop, source=RAW).get("/loop").text.startswith(module)


def test_head_has_no_body(raw_app):
    with raw_app.raw() as raw:
        assert raw.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").answer(head_only=True).header("Content-Length") == "5"
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"hello"


def test_stop_lets_requests_finish(host):
    running = host(source=RAW)
    with running.raw() as raw:
        raw.send(b"GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: json.loads(running.get("/seen").body).get("sleeps"))
        running.kill(signal.SIGTERM)
        assert raw.answer().status == 200
    assert running.wait_exit() == 0


def test_reload_under_load_fails_nothing(host):
    running = host("app:app", "-w", "2", source=RAW)
    clients = [Client(running) for _ in range(4)]
    for _ in range(3):
        old = {w.pid for w in running.workers()}
        running.kill(signal.SIGHUP)
        eventually(lambda: len(running.workers()) == 2 and not old & {w.pid for w in running.workers()}, 30)
    assert [c.finish().failures for c in clients] == [[]] * 4


def test_killed_worker_hurts_only_its_own_requests(host):
    running = host("app:app", "-w", "2", source=RAW)
    clients = [Client(running) for _ in range(4)]
    for _ in range(3):
        victim = running.workers()[0].pid
        os.kill(victim, signal.SIGKILL)
        # What it had is sent once more, and must be answered before another worker is killed under it.
        old = [c.count for c in clients]
        eventually(lambda: len(running.workers()) == 2 and victim not in {w.pid for w in running.workers()}, 30)
        eventually(lambda: all(c.count > o + 10 for c, o in zip(clients, old)), 20)
    assert [c.finish().failures for c in clients] == [[]] * 4
