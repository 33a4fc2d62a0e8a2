"""WebSockets of ASGI apps (framed by the edge) and of WSGI apps (framed by the app)."""

import asyncio
import base64
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import websockets
from websockets.sync.client import connect

from harness import Raw, eventually

KEY = base64.b64encode(b"0123456789abcdef").decode()
UPGRADE = (
    "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.fixture(scope="module")
def asgi(module_host):
    return module_host("fastapi_app:app")


def url(host, path="/echo"):
    return f"ws://127.0.0.1:{host.port}{path}"


def frame(opcode, payload, masked=True, fin=True, reserved=0):
    """One client frame, short payloads only, masked with zeros: the bytes stay readable."""
    assert len(payload) < 126
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode, (0x80 if masked else 0) | len(payload)])
    return head + (b"\0\0\0\0" if masked else b"") + payload


def opened(host, extra=""):
    raw = host.raw()
    answer = raw.send((UPGRADE + extra + "\r\n").encode()).answer()
    assert answer.status == 101, answer
    return raw


@pytest.mark.smoke
def test_text_and_binary_echo(asgi):
    with connect(url(asgi)) as socket:
        for message in ("hello", "\u00e9\U0001f984", b"\0\xff", "", b""):
            socket.send(message)
            assert socket.recv(10) == message


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 1_000_000, 10_000_000])
def test_messages_of_any_size(asgi, size):
    with connect(url(asgi), max_size=None) as socket:
        socket.send(os.urandom(size))
        assert len(socket.recv(60)) == size


@pytest.mark.parametrize("compression", ["deflate", None])
def test_compression(asgi, compression):
    with connect(url(asgi), compression=compression) as socket:
        assert bool(socket.response.headers.get("Sec-WebSocket-Extensions")) == bool(compression)
        socket.send("a" * 100_000)
        assert socket.recv(20) == "a" * 100_000


def test_subprotocol(asgi):
    with connect(url(asgi), subprotocols=["chat", "other"]) as socket:
        assert socket.subprotocol == "chat"


def test_many_at_once(asgi):
    async def one(n):
        async with websockets.connect(url(asgi)) as socket:
            for m in range(10):
                await socket.send(f"{n} {m}")
                assert await socket.recv() == f"{n} {m}"

    async def all_():
        await asyncio.gather(*(one(n) for n in range(100)))

    asyncio.run(all_())


def test_fragments_and_pings_between_them(asgi):
    with opened(asgi) as raw:
        raw.send(frame(1, b"one ", fin=False) + frame(9, b"ping") + frame(0, b"two"))
        assert raw._exactly(6) == b"\x8a\x04ping"
        assert raw._exactly(9) == b"\x81\x07one two"


def test_close_code_of_the_app_reaches_the_client(asgi):
    with connect(url(asgi, "/close")) as socket:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            socket.recv(10)
    assert closed.value.rcvd.code == 4001 and closed.value.rcvd.reason == "enough"


def test_refusal_is_403(asgi):
    with pytest.raises(websockets.InvalidStatus) as refused:
        connect(url(asgi, "/refuse"))
    assert refused.value.response.status_code == 403


def test_denial_response(host):
    source = """
async def app(scope, receive, send):
    if scope["type"] != "websocket": return
    assert "websocket.http.response" in scope["extensions"]
    await receive()
    await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"no key")]})
    await send({"type": "websocket.http.response.body", "body": b"a key is needed"})
"""
    running = host("app:app", "--interface", "asgi", source=source)
    with pytest.raises(websockets.InvalidStatus) as refused:
        connect(url(running))
    answer = refused.value.response
    assert answer.status_code == 401 and answer.headers["x-why"] == "no key" and answer.body == b"a key is needed"


@pytest.mark.parametrize(
    "sent, code",
    [
        (frame(1, b"hello", masked=False), 1002),
        (frame(1, b"hello", reserved=7), 1002),
        (frame(3, b""), 1002),
        (frame(0, b"continuation of nothing"), 1002),
        (frame(9, b"", fin=False), 1002),
        (frame(1, b"\xff\xfe"), 1007),
        (frame(8, b"\x03"), 1002),
        (frame(8, (999).to_bytes(2, "big")), 1002),
        (frame(1, b"a", fin=False) + frame(1, b"b"), 1002),
    ],
)
def test_broken_frame_closes_with_the_right_code(asgi, sent, code):
    with opened(asgi) as raw:
        raw.send(sent)
        seen = raw.rest()
    assert seen[:1] == b"\x88" and int.from_bytes(seen[2:4], "big") == code, seen


def test_too_large_a_message_closes_with_1009(host):
    running = host("fastapi_app:app", "--websocket-max-message-size", "1000")
    with connect(url(running)) as socket:
        socket.send("a" * 2000)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            socket.recv(10)
    assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize(
    "head, statuses",
    [
        (UPGRADE.replace("13", "12"), {400, 426}),
        (UPGRADE.replace(KEY, "short"), {400}),
        (UPGRADE.replace("GET", "POST"), {400, 404, 405, 426}),
        (UPGRADE.replace("HTTP/1.1", "HTTP/1.0"), {400, 404, 426}),
        (UPGRADE.replace("Connection: Upgrade", "Connection: keep-alive"), {400, 404, 426}),
        (UPGRADE.replace(f"Sec-WebSocket-Key: {KEY}\r\n", ""), {400, 404, 426}),
        (UPGRADE + f"Sec-WebSocket-Key: {KEY}\r\n", {400}),
    ],
)
def test_broken_handshake_opens_nothing(asgi, head, statuses):
    with asgi.raw() as raw:
        assert raw.send((head + "\r\n").encode()).answer().status in statuses


def test_bytes_behind_a_refused_handshake_are_no_tunnel(asgi):
    with asgi.raw() as raw:
        raw.send((UPGRADE.replace("/echo", "/refuse") + "\r\n").encode() + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert raw.answer().status == 403


def test_stop_closes_with_1012(host):
    running = host("fastapi_app:app")
    with connect(url(running)) as socket:
        socket.send("x")
        socket.recv(10)
        running.kill(signal.SIGTERM)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            socket.recv(40)
    assert closed.value.rcvd.code == 1012
    assert running.wait_exit() == 0


def test_reload_keeps_open_sockets_for_the_graceful_time(host):
    running = host("fastapi_app:app", "--graceful-timeout", 3)
    with connect(url(running)) as socket:
        socket.send("before")
        assert socket.recv(10) == "before"
        old = running.workers()[0].pid
        running.kill(signal.SIGHUP)
        running.log.wait("reload complete")
        socket.send("after")
        assert socket.recv(10) == "after"
        with pytest.raises(websockets.ConnectionClosed) as closed:
            socket.recv(20)
        assert closed.value.rcvd.code == 1012
    eventually(lambda: old not in {w.pid for w in running.workers()}, 15)


def test_client_that_vanishes_is_told_to_the_app(host, tmp_path):
    source = f"""
async def app(scope, receive, send):
    if scope["type"] != "websocket": return
    await receive()
    await send({{"type": "websocket.accept"}})
    message = await receive()
    open({str(tmp_path / "code")!r}, "w").write(str(message.get("code")))
"""
    running = host("app:app", "--interface", "asgi", source=source)
    opened(running).socket.close()
    eventually(lambda: (tmp_path / "code").exists() and (tmp_path / "code").read_text() == "1006")


def test_no_timeout_for_open_sockets(host):
    import time

    running = host("fastapi_app:app", "--timeout", 3)
    with connect(url(running)) as socket:
        time.sleep(5)
        socket.send("still there")
        assert socket.recv(10) == "still there"


# Under WSGI


WSGI = """
import gc, threading
import simple_websocket
def app(environ, start_response):
    if environ["PATH_INFO"] == "/plain":
        start_response("200 OK", [("Content-Length", "5")])
        return [b"plain"]
    if environ["PATH_INFO"] == "/threads":
        gc.collect()
        count = str(sum(isinstance(o, threading.Thread) for o in gc.get_objects()))
        start_response("200 OK", [("Content-Length", str(len(count)))])
        return [count.encode()]
    socket = simple_websocket.Server.accept(environ)
    try:
        while True:
            socket.send(socket.receive())
    except simple_websocket.ConnectionClosed:
        pass
    return []
"""


def test_wsgi_echo(host):
    running = host(source=WSGI)
    with connect(url(running)) as socket:
        socket.send("hello")
        assert socket.recv(10) == "hello"


def test_wsgi_socket_takes_its_thread_out_of_the_pool(host):
    running = host(source=WSGI)  # one worker, one thread
    sockets = [connect(url(running)) for _ in range(20)]
    for n, socket in enumerate(sockets):
        socket.send(str(n))
    assert [socket.recv(10) for socket in sockets] == [str(n) for n in range(20)]
    assert running.get("/plain").body == b"plain"
    for socket in sockets:
        socket.close()


def test_wsgi_sockets_leave_no_threads_behind(host):
    running = host(source=WSGI)

    def serve(count):
        for _ in range(count):
            with connect(url(running)) as socket:
                socket.send("x")
                socket.recv(10)

    serve(3)
    before = int(running.get("/threads").body)
    serve(20)
    eventually(lambda: int(running.get("/threads").body) <= before + 1)


def test_wsgi_sockets_have_a_limit(host):
    running = host("app:app", "--websocket-threads", "2", source=WSGI)
    held = [connect(url(running)) for _ in range(2)]
    with pytest.raises(Exception):
        connect(url(running), open_timeout=5).recv(5)
    assert running.get("/plain").body == b"plain"
    for socket in held:
        socket.close()


def test_wsgi_101_that_does_not_fit_the_handshake_opens_no_tunnel(host):
    source = """
def app(environ, start_response):
    socket = environ["werkzeug.socket"]
    socket.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: wrong\\r\\n\\r\\n")
    return []
"""
    running = host(source=source)
    with running.raw() as raw:
        raw.send((UPGRADE + "\r\n").encode())
        assert b"101" not in raw.rest().split(b"\r\n")[0]


def test_wsgi_stop_ends_open_sockets(host):
    running = host("app:app", "--graceful-timeout", 2, source=WSGI)
    with connect(url(running)) as socket:
        socket.send("x")
        socket.recv(10)
        assert running.stop() == 0


RAW_SOCKET = """
import base64, hashlib, os, threading

def app(environ, start_response):
    key = environ["HTTP_SEC_WEBSOCKET_KEY"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest())
    socket = environ["werkzeug.socket"]
    socket.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
                   b"Sec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
    carry(socket)
    return []

def read(socket, size):
    got = 0
    while got < size and (piece := socket.recv(65536)):
        got += len(piece)
    return got
"""


def raw_socket(host, carry, *options):
    return host("app:app", *options, source=RAW_SOCKET + carry)


def test_wsgi_tunnel_carries_both_ways_at_once(host):
    """App and client each send all of theirs before the app reads: neither way waits for the other."""
    running = raw_socket(host, """
def carry(socket):
    socket.sendall(b"d" * 8_000_000)
    socket.sendall(b"%d" % read(socket, 8_000_000))
""")
    with opened(running) as raw, ThreadPoolExecutor() as threads:
        sent = threads.submit(raw.socket.sendall, b"u" * 8_000_000)
        assert raw.rest() == b"d" * 8_000_000 + b"8000000"
        sent.result()


def test_wsgi_tunnel_ends_each_way_for_itself(host):
    running = raw_socket(host, """
def carry(socket):
    socket.sendall(b"%d" % read(socket, 10_000_000))
""")
    with opened(running) as raw:
        raw.send(b"u" * 1000).finish()
        assert raw.rest() == b"1000", "the app answers a client that has sent its end"


def test_wsgi_tunnel_gives_up_a_client_that_stops_reading(host, tmp_path):
    running = raw_socket(host, """
def carry(socket):
    try:
        while True:
            socket.sendall(b"d" * 65536)
    except OSError:
        open("given up", "w")
""", "--write-timeout", 1, "--chdir", tmp_path)
    with opened(running):
        eventually((tmp_path / "given up").exists, 10, "the app's thread is free")


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_wsgi_stop_says_farewell_behind_an_app_that_does_not_read(host, tls, kind):
    options = ["--certfile", tls[0], "--keyfile", tls[1]] if kind == "tls" else []
    running = raw_socket(host, "def carry(socket): threading.Event().wait()", "--graceful-timeout", 2, *options)
    with Raw(("127.0.0.1", running.port, *tls[:1]) if options else ("127.0.0.1", running.port)) as raw:
        assert raw.send((UPGRADE + "\r\n").encode()).answer().status == 101
        raw.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            while True:
                raw.socket.sendall(b"u" * 65536)
        raw.socket.settimeout(20)
        running.kill(signal.SIGTERM)
        assert raw._exactly(4) == b"\x88\x02\x03\xf4"
    running.wait_exit()
