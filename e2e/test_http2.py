"""HTTP/2: the same answers as over HTTP/1.1, clients that leave, stops, and who breaks the rules."""

import hashlib
import json
import os
import re
import signal
import ssl
import subprocess
import time
from types import SimpleNamespace

import httpx
import pytest
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, WindowUpdateFrame

from harness import eventually
from http2 import COMPRESSION_ERROR, NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, Http2


@pytest.fixture(scope="module")
def served(module_host, module_tls, tmp_path_factory):
    """The probe app and a folder of files, behind a certificate."""
    files = tmp_path_factory.mktemp("files")
    (files / "small.txt").write_bytes(b"s" * 1024)
    (files / "large.bin").write_bytes(os.urandom(3_000_000))
    running = module_host(
        "probe:app", "-w", "2", "--static", f"/static={files}", "--access-logfile", "-",
        "--certfile", module_tls[0], "--keyfile", module_tls[1],
    )
    return SimpleNamespace(host=running, port=running.port, certificate=module_tls[0], files=files)


@pytest.fixture
def client(served):
    with httpx.Client(
        http2=True, http1=False, verify=ssl.create_default_context(cafile=served.certificate), base_url=f"https://localhost:{served.port}", timeout=20,
    ) as client:
        yield client


def connect(served, **more):
    return Http2(served.port, served.certificate, **more)


@pytest.mark.smoke
def test_requests_of_every_kind(client, served):
    answer = client.get("/environ", params={"a": "b"})
    environ = answer.json()
    assert answer.http_version == "HTTP/2" and answer.status_code == 200
    assert environ["SERVER_PROTOCOL"] == "HTTP/2.0" and environ["wsgi.url_scheme"] == "https"
    assert environ["HTTP_HOST"] == f"localhost:{served.port}" and environ["QUERY_STRING"] == "a=b"
    body = os.urandom(1_000_000)
    assert client.post("/echo", content=body).content == body
    assert client.put("/echo", content=iter([b"a" * 70_000, b"b"])).content == b"a" * 70_000 + b"b"
    assert client.head("/large/1000").headers["content-length"] == "1000"
    assert client.get("/status/204").status_code == 204
    assert client.get("/stream/3").text == "chunk 0\nchunk 1\nchunk 2\n"
    assert len(client.get("/large/5000000").content) == 5_000_000


def test_files(client, served):
    large = (served.files / "large.bin").read_bytes()
    assert client.get("/static/large.bin").content == large
    part = client.get("/static/large.bin", headers={"range": "bytes=1000-2999"})
    assert (part.status_code, part.content) == (206, large[1000:3000])
    small = client.get("/static/small.txt")
    assert client.get("/static/small.txt", headers={"if-none-match": small.headers["etag"]}).status_code == 304
    assert client.get("/static/none").json is not None and client.get("/static/none").status_code == 404


def test_curl_speaks_it(served):
    curl = ["curl", "-sS", "--http2", "--cacert", served.certificate, "-w", "%{http_version} %{http_code}", "-o", "/dev/null"]
    url = f"https://localhost:{served.port}"
    for more in ([f"{url}/environ"], ["-d", "abc", f"{url}/echo"], ["-T", __file__, f"{url}/length"], [f"{url}/static/large.bin"]):
        assert subprocess.run([*curl, *more], capture_output=True, text=True, timeout=20).stdout == "2 200"
    old = subprocess.run([*curl, "--http1.1", url], capture_output=True, text=True, timeout=20)
    assert old.stdout == "1.1 200", "who does not ask for it gets HTTP/1.1"


def test_many_streams_at_once(served):
    with connect(served, timeout=60) as client:
        streams = [client.ask(path) for path in ["/slow/20", "/stream/50", "/static/large.bin", "/"] * 20]
        answers = [client.answer(stream) for stream in streams]
        assert {answer.status for answer in answers} == {200}
        large = hashlib.md5((served.files / "large.bin").read_bytes()).digest()
        assert all(hashlib.md5(answer.body).digest() == large for answer in answers[2::4])


def test_rows_of_the_log(client, served):
    client.get("/static/small.txt?row=1")
    client.post("/echo?row=2", content=b"abc")
    served.host.log.wait(r'"GET /static/small.txt\?row=1 HTTP/2.0" 200 1024 ')
    served.host.log.wait(r'"POST /echo\?row=2 HTTP/2.0" 200 3 ')
    with connect(served) as raw:
        assert raw.get("/%00").status == 400
    served.host.log.wait(r'"-" 400 ')


def test_cookies_are_one_field_again(served):
    with connect(served) as client:
        answer = client.get("/environ", more=[("cookie", "a=1"), ("cookie", "b=2")])
        assert '"HTTP_COOKIE": "a=1; b=2"' in answer.body.decode()


BAD = {
    "no path": ([(":method", "GET"), (":scheme", "https"), (":authority", "a")], None),
    "path without slash": ([(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "x")], None),
    "empty path": ([(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "")], None),
    "two paths": ([(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/evil"), (":path", "/x")], None),
    "no method": ([(":scheme", "https"), (":authority", "a"), (":path", "/evil")], None),
    "no host": ([(":method", "GET"), (":scheme", "https"), (":path", "/evil")], 400),
    "another scheme": ([(":method", "GET"), (":scheme", "ftp"), (":authority", "a"), (":path", "/evil")], 400),
    "pseudo after field": ([(":method", "GET"), (":scheme", "https"), (":path", "/evil"), ("a", "b"), (":authority", "a")], None),
    "unknown pseudo": ([(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/evil"), (":x", "y")], None),
    "CONNECT": ([(":method", "CONNECT"), (":authority", "a:1")], 405),
    "CONNECT to nowhere": ([(":method", "CONNECT")], None),
    "space in path": ([(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/evil HTTP/1.1")], None),
    "line in path": ([(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/evil\r\nx: y")], None),
    "space in method": ([(":method", "GET /evil"), (":scheme", "https"), (":authority", "a"), (":path", "/evil")], None),
    "space in host": ([(":method", "GET"), (":scheme", "https"), (":authority", "a b"), (":path", "/evil")], None),
}

BAD_FIELDS = {
    "another host": ("host", "b", None),
    "upper case": ("Upper", "x", None),
    "empty name": ("", "x", None),
    "space in name": ("a b", "x", None),
    "colon in name": ("a:b", "x", None),
    "connection": ("connection", "close", None),
    "keep-alive": ("keep-alive", "1", None),
    "proxy-connection": ("proxy-connection", "x", None),
    "transfer-encoding": ("transfer-encoding", "chunked", None),
    "upgrade": ("upgrade", "h2c", None),
    "te": ("te", "gzip", None),
    "http2-settings": ("http2-settings", "x", None),
    "line in value": ("x", "a\r\nb: c", None),
    "LF in value": ("x", "a\nb: c", None),
    "NUL in value": ("x", "a\0b", None),
    "space before value": ("x", " a", None),
    "space behind value": ("x", "a ", None),
    "bad length": ("content-length", "+1", None),
    "length without a body": ("content-length", "5", None),
    "expectation": ("expect", "more", 417),
}


@pytest.mark.parametrize("case", [*BAD, *BAD_FIELDS])
def test_what_is_malformed_reaches_no_app(served, case):
    if case in BAD:
        fields, status = BAD[case]
    else:
        name, value, status = BAD_FIELDS[case]
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/evil"), (name, value)]
    with connect(served) as client:
        stream = client.headers(fields)
        client.until(lambda: client.streams[stream].over or client.closed, "an end")
        answer = client.streams[stream]
        assert client.closed or client.get("/").status == 200, "the connection goes on"
        if status:
            assert answer.status == status
        else:
            refused = answer.reset if answer.reset is not None else client.goaway and client.goaway.error_code
            assert refused == PROTOCOL_ERROR and not answer.heads
        assert not served.host.log.matches("/evil")


def test_a_malformed_request_has_its_row(served):
    with connect(served) as client:
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/row"), ("x", "y\t")]
        assert client.answer(client.headers(fields)).reset == PROTOCOL_ERROR
    served.host.log.wait(r'"-" 400 [0-] ')


def frames(kind, flags, payload=b""):
    return lambda stream: kind(stream, payload, flags=flags).serialize()


HEAD_AND_END = frames(HeadersFrame, ["END_HEADERS", "END_STREAM"], b"\x83\x87\x84\x01\x01a")
HEAD = frames(HeadersFrame, ["END_HEADERS"], b"\x83\x87\x84\x01\x01a")

LAST = {
    "data behind the end": ([HEAD_AND_END, frames(DataFrame, [], b"x")], STREAM_CLOSED),
    "a request behind its end": ([HEAD_AND_END, HEAD_AND_END], STREAM_CLOSED),
    "a request behind a reset": ([HEAD, lambda stream: RstStreamFrame(stream, 8).serialize(), HEAD_AND_END], STREAM_CLOSED),
    "half a field": ([frames(HeadersFrame, ["END_HEADERS", "END_STREAM"], b"\x40")], COMPRESSION_ERROR),
    "index 0": ([frames(HeadersFrame, ["END_HEADERS", "END_STREAM"], b"\x80")], COMPRESSION_ERROR),
    "pseudo in trailers": ([HEAD, frames(DataFrame, [], b"x"), frames(HeadersFrame, ["END_HEADERS", "END_STREAM"], b"\x83")], PROTOCOL_ERROR),
}


@pytest.mark.parametrize("case", LAST)
def test_what_is_no_http_2_ends_the_connection(served, case):
    """With the code of RFC 9113 sections 4.3, 5.1 and 8.1.1."""
    sent, code = LAST[case]
    with connect(served) as client:
        stream = client.take_stream()
        client.write(b"".join(frame(stream) for frame in sent))
        assert client.end() == code


@pytest.mark.parametrize("code", [0, 0xFF])
def test_a_client_that_goes_away_may_still_ask(served, code):
    with connect(served) as client:
        client.until(lambda: client.settings, "settings")
        client.send(GoAwayFrame(0, last_stream_id=0, error_code=code))
        for count in (1, 2, 3):
            client.send(PingFrame(0, opaque_data=b"pingpong"))
            client.until(lambda: client.pongs >= count, "a pong")
        assert client.get("/static/small.txt").status == 200


@pytest.mark.parametrize("sent", [b"", b"four", b"sixsix"])
def test_a_body_that_differs_from_its_length_is_no_request(served, sent):
    with connect(served) as client:
        stream = client.ask("/length", "POST", [("content-length", "5")], end=False)
        client.data(stream, sent, end=True)
        answer = client.answer(stream)
        assert answer.reset == PROTOCOL_ERROR or answer.status == 400
        assert client.get("/").status == 200
    assert '"POST /length HTTP/2.0" 200' not in str(served.host.log)


def test_too_many_fields_and_too_long_ones(served):
    with connect(served) as client:
        assert client.get("/", more=[(f"x-{n}", "y") for n in range(101)]).status == 431
        assert client.get("/", more=[("x", "y" * 9000)]).status == 431
        assert client.get("/", more=[(f"x-{n}", "y" * 8000) for n in range(5)]).status == 431
        assert client.get("/").status == 200


# Event loops, and clients that leave


ASGI = """
import asyncio, json
seen = []

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        return await websocket(scope, receive, send)
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path == "/seen":
        return await say(send, json.dumps(seen))
    if path == "/scope":
        return await say(send, json.dumps([scope["http_version"], scope["scheme"], scope["method"]]))
    if path == "/wait":
        seen.append("came")
        while (message := await receive())["type"] != "http.disconnect":
            pass
        return seen.append("left")
    if path == "/hints":
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
    if path == "/trailers":
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"body"})
        return await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})
    if path == "/unread":
        await asyncio.sleep(3600)
    if path == "/short":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        return await send({"type": "http.response.body", "body": b"four"})
    if path == "/events":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\\n\\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        return seen.append("events left")
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await say(send, str(size))

async def say(send, text):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})

async def websocket(scope, receive, send):
    await receive()
    if scope["path"] == "/refuse":
        return await send({"type": "websocket.close"})
    await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
    seen.append([scope["http_version"], scope["scheme"]])
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return seen.append(message["code"])
        await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
"""


def start(host, tls, *options, source=ASGI, interface="asgi", **more):
    running = host(
        "app:app", "--interface", interface, "--certfile", tls[0], "--keyfile", tls[1], *options, source=source, **more,
    )
    return SimpleNamespace(host=running, port=running.port, certificate=tls[0])


@pytest.fixture(scope="module")
def asgi(module_host, module_tls):
    return start(module_host, module_tls)


def seen(served):
    with connect(served) as client:
        return json.loads(client.get("/seen").body)


def test_an_event_loop_is_told_the_version(asgi):
    with connect(asgi) as client:
        assert json.loads(client.get("/scope").body) == ["2", "https", "GET"]
        stream = client.ask("/body", "POST", end=False)
        for _ in range(10):
            client.data(stream, b"x" * 5000)
        client.data(stream, end=True)
        assert client.answer(stream).body == b"50000"


def test_early_hints_and_trailers(asgi):
    with connect(asgi) as client:
        hints = client.get("/hints")
        assert dict(hints.heads[0])[":status"] == "103" and dict(hints.heads[0])["link"] == "</a.css>; rel=preload"
        assert hints.status == 200
        trailers = client.get("/trailers")
        assert trailers.body == b"body" and dict(trailers.heads[1]) == {"x-sum": "1"}


def test_a_response_that_is_too_short_is_reset(asgi):
    with connect(asgi) as client:
        answer = client.get("/short")
        assert answer.reset is not None and not answer.ended
        assert client.get("/scope").status == 200


@pytest.mark.parametrize("path, told", [("/wait", "left"), ("/events", "events left")])
def test_a_reset_is_told_to_the_app(asgi, path, told):
    with connect(asgi) as client:
        stream = client.ask(path)
        if path == "/events":
            client.until(lambda: client.streams[stream].body, "an event")
        else:
            eventually(lambda: "came" in seen(asgi))
        client.reset(stream)
        eventually(lambda: told in seen(asgi))
        assert client.get("/scope").status == 200, "the connection goes on"


def test_a_lost_connection_is_told_to_all_its_apps(host, tls):
    served = start(host, tls)
    with connect(served) as client:
        for _ in range(5):
            client.ask("/wait")
        eventually(lambda: seen(served).count("came") == 5)
    eventually(lambda: seen(served).count("left") == 5)


def test_a_client_that_leaves_the_line_is_not_served(host, tls, tmp_path):
    served = start(host, tls, "-w", "1", source=SLOW, interface="wsgi")
    with connect(served) as client:
        first = client.ask("/gate")
        eventually((tmp_path / "begun").exists)
        gone = client.ask("/gone?0")
        client.reset(gone)
        client.send(PingFrame(0, opaque_data=b"pingpong"))
        client.until(lambda: client.pongs, "a pong: what was sent before it is known")
        (tmp_path / "go").touch()
        client.answer(first)
        assert client.get("/calls").body == b"['/gate']"


SLOW = """
import os, time
calls = []
def app(environ, start_response):
    if environ["PATH_INFO"] != "/calls":
        calls.append(environ["PATH_INFO"])
        time.sleep(int(environ["QUERY_STRING"] or 0) / 1000)
    if environ["PATH_INFO"] == "/gate":
        open("begun", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    body = str(calls).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def test_an_app_that_reads_nothing_holds_its_client_and_no_memory(asgi):
    """DATA beyond the window would be the client's fault; the server gives no credit for what nobody has taken."""
    with connect(asgi) as client:
        stream = client.ask("/unread", "POST", end=False)
        client.until(lambda: 4 in client.settings, "settings")
        window, sent = client.settings[4], 0
        client.timeout = 4  # only a long silence is the end of the credit
        while True:
            try:
                client.until(lambda: client.credit(stream, window) > sent, "credit")
            except TimeoutError:
                break
            count = min(16384, client.credit(stream, window) - sent)
            client.data(stream, b"x" * count)
            sent += count
            assert sent < 1_500_000, "the window, what the worker's socket holds, and no more"


@pytest.mark.parametrize("path", ["/large/3000000", "/static/large.bin"])
def test_a_client_that_opens_no_window_is_given_up(host, tls, tmp_path, path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files/large.bin").write_bytes(b"x" * 3_000_000)
    running = host(
        "probe:app", "--certfile", tls[0], "--keyfile", tls[1], "--write-timeout", 1, "--access-logfile", "-",
        "--static", f"/static={tmp_path / 'files'}",
    )
    served = SimpleNamespace(port=running.port, certificate=tls[0])
    with connect(served, reads=False) as client:
        answer = client.answer(client.ask(path))
        assert answer.reset is not None and len(answer.body) == 65535
        assert client.get("/status/204").status == 204, "the others go on"


def wide(served):
    """A client that takes everything by its windows, and has little room in its socket."""
    client = connect(served, narrow=True, settings={4: 2**30}, reads=False, timeout=60)
    client.send(WindowUpdateFrame(0, 2**30))
    return client


@pytest.fixture(scope="module")
def impatient(module_host, module_tls, tmp_path_factory):
    files = tmp_path_factory.mktemp("files")
    (files / "large.bin").write_bytes(os.urandom(20_000_000))
    running = module_host(
        "probe:app", "--certfile", module_tls[0], "--keyfile", module_tls[1], "--write-timeout", 2,
        "--static", f"/static={files}", "--access-logfile", "-",
    )
    return SimpleNamespace(host=running, port=running.port, certificate=module_tls[0])


@pytest.mark.parametrize("path", ["/large/20000001", "/static/large.bin?stopped"])
def test_a_client_that_stops_reading_its_socket_is_given_up(impatient, path):
    with wide(impatient) as client:
        client.ask(path)
        impatient.host.log.wait(re.escape(path) + " HTTP/2.0")
        with pytest.raises(AssertionError, match="closed"):
            client.answer(1)


@pytest.mark.parametrize("path", ["/large/20000002", "/static/large.bin?slow"])
def test_a_client_that_reads_slowly_gets_all_of_it(impatient, path):
    """Slower than the write timeout as a whole, never silent for as long; another stream waits behind it."""
    with wide(impatient) as client:
        slow, other = client.ask(path), client.ask("/large/20000003")
        for _ in range(60):
            time.sleep(0.1)
            client.receive()
        assert len(client.answer(slow).body) in (20_000_000, 20_000_002)
        assert len(client.answer(other).body) == 20_000_003


def test_a_body_that_does_not_come_is_given_up(host, tls):
    served = start(host, tls, "--body-timeout", 1, source=SLOW, interface="wsgi")
    with connect(served) as client:
        stream = client.ask("/body", "POST", end=False)
        assert client.answer(stream).status == 408
        assert client.get("/calls").body == b"[]"


# Ends


def test_stop_serves_what_is_open_and_says_goaway(host, tls, tmp_path):
    served = start(host, tls, source=SLOW, interface="wsgi")
    with connect(served) as client:
        stream = client.ask("/gate")
        eventually((tmp_path / "begun").exists)
        served.host.kill(signal.SIGTERM)
        served.host.log.wait("stopping")
        (tmp_path / "go").touch()
        answer = client.answer(stream)
        assert (answer.status, answer.ended) == (200, True)
        assert client.end() == NO_ERROR
    assert served.host.wait_exit() == 0


def test_an_idle_connection_ends_with_goaway(host, tls):
    served = start(host, tls, "--keep-alive", 1, source=SLOW, interface="wsgi")
    with connect(served) as client:
        began = time.monotonic()
        assert client.get("/?1500").status == 200, "longer than the idle time"
        assert client.end() == NO_ERROR
        assert 2.5 <= time.monotonic() - began < 30, "the idle time begins with the end of the answer"


def test_stop_ends_idle_connections_at_once(host, tls):
    served = start(host, tls, source=SLOW, interface="wsgi")
    with connect(served) as client:
        assert client.get("/").status == 200
        began = time.monotonic()
        served.host.kill(signal.SIGTERM)
        assert client.end() == NO_ERROR
        assert served.host.wait_exit() == 0
        assert time.monotonic() - began < 8


def test_a_reload_is_taken_by_open_connections(host, tls, tmp_path):
    config = tmp_path / "gunicorn.conf.py"
    config.write_text("limit_request_fields = 100\n")
    served = start(host, tls, "-c", config, source=SLOW, interface="wsgi")
    more = [(f"x-{n}", "y") for n in range(50)]
    with connect(served) as client:
        assert client.get("/", more=more).status == 200
        config.write_text("limit_request_fields = 20\n")
        served.host.kill(signal.SIGHUP)
        served.host.log.wait("reload complete")
        assert client.get("/", more=more).status == 431
        assert client.get("/").status == 200


def test_a_request_whose_worker_dies_is_asked_again(host, tls, tmp_path):
    source = f"""
import os
def app(environ, start_response):
    try:
        os.close(os.open({str(tmp_path / "died")!r}, os.O_CREAT | os.O_EXCL))
        os._exit(7)
    except FileExistsError:
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
"""
    served = start(host, tls, "-w", "2", source=source, interface="wsgi")
    with connect(served) as client:
        assert client.get("/").body == b"ok"
