"""Connections as clients make them: keep-alive, expectations, framing both ways, every kind of listener,
and the answers that ostler gives itself. Spoken by raw sockets, curl, httpx and requests."""

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time

import httpx
import pytest
import requests

import harness
from harness import Raw

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
MIB = 1 << 20

ASGI = """
import json
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body")
    told = json.dumps([scope["method"], scope["path"], scope["raw_path"].decode("latin-1"), len(body)]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for at in range(0, len(told), 7):
        await send({"type": "http.response.body", "body": told[at:at + 7], "more_body": True})
    await send({"type": "http.response.body"})
"""


@pytest.fixture(scope="module")
def probe(module_host):
    return module_host("probe:app", "--threads", "2")


def curl(*arguments, body=None):
    assert shutil.which("curl"), "these tests need curl: apt-get install curl"
    done = subprocess.run(["curl", "-sS", "--max-time", "60", *map(str, arguments)], input=body, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


# Keep-alive and pipelining


def test_connection_serves_many_requests_and_the_server_decides_when_it_ends(host):
    running = host("probe:app", "--keep-alive", "4")
    with running.raw() as raw:
        for _ in range(200):
            answer = raw.send(GET).answer()
            assert answer.status == 200 and not answer.all("Connection")
        assert raw.closed_within(20)


GATED = """
import os, time

def app(environ, start_response):
    while environ["PATH_INFO"] != "/first" and not os.path.exists("go"):
        time.sleep(0.01)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def test_idle_connections_give_back_what_their_requests_took(host, tmp_path):
    count = 2000
    running = host("app:app", "--line-length", 3000, "--line-timeout", 60, "--timeout", 60, source=GATED)
    assert running.get("/first").status == 200

    def memory():
        return running.server().memory_full_info().uss

    quiet = memory()
    with contextlib.ExitStack() as held:
        raws = [held.enter_context(running.raw(60, f"127.0.1.{1 + n % 20}")) for n in range(count)]
        for raw in raws:
            raw.send(GET)
        harness.eventually(lambda: running.server().num_fds() > count, 20, "all are accepted")
        before, full = quiet, memory()
        while full > before * 1.01:  # some are still to be read
            time.sleep(0.5)
            before, full = full, memory()
        busy = (full - quiet) / count
        # All are answered at once: the allocator gives back by itself what was freed a second before something else.
        (tmp_path / "go").touch()
        assert {raw.answer().status for raw in raws} == {200}
        harness.eventually(lambda: (memory() - quiet) / count < busy / 2, 30, f"half of {busy:.0f} bytes each")


def test_keep_alive_of_0_closes_after_each_answer(host):
    running = host("probe:app", "--keep-alive", "0")
    with running.raw() as raw:
        assert raw.send(GET).answer().status == 200
        assert raw.closed_within(2)


def test_deep_pipeline_is_answered_in_order_and_whole(probe):
    count = 500
    with probe.raw(30) as raw:
        raw.send(b"".join(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n%05d" % n for n in range(count)))
        assert [raw.answer().body for _ in range(count)] == [b"%05d" % n for n in range(count)]


def test_pipeline_ends_where_a_request_asks_to_close(probe):
    with probe.raw() as raw:
        raw.send(GET + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)
        assert raw.answer().status == 200
        assert raw.answer().header("Connection") == "close"
        assert raw.closed_within(2), "the third request is not read"


# Expect


def test_expectation_of_http_1_0_is_ignored(probe):
    with probe.raw() as raw:
        raw.send(b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        assert raw.any_answer().status == 200


def test_expectation_without_a_body_is_not_answered(probe):
    with probe.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n")
        assert raw.any_answer().status == 200


def test_expectation_with_a_chunked_body(probe):
    with probe.raw() as raw:
        raw.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert raw.any_answer().status == 100
        assert raw.send(b"5\r\nhello\r\n0\r\n\r\n").answer().body == b"hello"


def test_refused_expectation_closes_and_never_reads_the_body_as_a_request(probe):
    with probe.raw() as raw:
        raw.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 200000000\r\n\r\n")
        answer = raw.any_answer()
        assert answer.status == 413 and answer.header("Connection") == "close"
        raw.send(GET)
        assert raw.closed_within(2)


# Framing both ways


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_asterisk_form_reaches_the_app_as_gunicorn_and_uvicorn_give_it(module_host, app):
    if app == "asgi":
        running = module_host(source=ASGI)
        with running.raw() as raw:
            told = json.loads(raw.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").answer().body)
        assert told == ["OPTIONS", "*", "*", 0]
        return
    source = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [repr([environ[n] for n in ("PATH_INFO", "SCRIPT_NAME", "RAW_URI")]).encode()]
"""
    with module_host(source=source).raw() as raw:
        assert raw.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"['*', '', '*']"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_trailers_go_where_they_can_and_the_connection_lives_on(host, version):
    source = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    headers = [(b"content-length", b"4")] if scope["path"] == "/length" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    await send({"type": "http.response.body", "body": b"body"})
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})
"""
    running = host(source=source)
    for path in (b"/length", b"/"):
        with running.raw() as raw:
            ask = b"GET %s HTTP/%s\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" % (path, version)
            raw.send(ask)
            if path == b"/" and version == b"1.0":
                assert raw.rest().endswith(b"\r\n\r\nbody"), "the end of the connection ends the body"
                continue
            whole = b""
            while not whole.endswith(b"body" if path == b"/length" else b"\r\n0\r\nx-sum: 1\r\n\r\n"):
                whole += raw.socket.recv(4096)
            assert (b"x-sum" in whole) == (path == b"/"), whole
            raw.send(b"HEAD /length HTTP/1.1\r\nHost: a\r\n\r\n")
            assert raw.answer(head_only=True).status == 200


def test_half_closed_client_gets_a_late_and_streamed_answer(host):
    running = host("probe:app", "--threads", "2")
    for path in (b"/slow/300", b"/stream/50", b"/large/3000000"):
        with running.raw() as raw:
            answer = raw.send(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path).finish().answer()
            assert answer.status == 200 and answer.complete
            assert raw.closed_within(2)


# Listeners


def test_several_addresses_serve_one_app(host, tmp_path):
    other, path = harness.free_port(), f"{tmp_path}/a.sock"
    running = host("probe:app", "--bind", f"127.0.0.2:{other}", "--bind", f"unix:{path}")
    pids = set()
    for address in (("127.0.0.1", running.port), ("127.0.0.2", other), path):
        with Raw(address) as raw:
            pids.add(raw.send(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n").answer().body)
    assert len(pids) == 1


def test_ipv6_address(host):
    port = harness.free_port()
    running = host("probe:app", bind=f"[::1]:{port}")
    assert running.alive()
    with socket.create_connection(("::1", port), 5) as sock:
        sock.sendall(b"GET /environ HTTP/1.1\r\nHost: [::1]:%d\r\nConnection: close\r\n\r\n" % port)
        said = b"".join(iter(lambda: sock.recv(65536), b""))
    seen = json.loads(said.partition(b"\r\n\r\n")[2])
    assert seen["REMOTE_ADDR"] == "::1" and seen["SERVER_NAME"] == "[::1]"


def test_client_of_a_unix_socket_speaks_for_others(host, tmp_path):
    running = host("probe:app", bind=f"unix:{tmp_path}/a.sock")
    assert running.alive()
    with Raw(f"{tmp_path}/a.sock") as raw:
        raw.send(b"GET /environ HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n\r\n")
        seen = json.loads(raw.answer().body)
    assert seen["REMOTE_ADDR"] == "9.9.9.9" and seen["wsgi.url_scheme"] == "https"


def test_inherited_descriptors_take_the_place_of_bind(host, tmp_path):
    """As systemd hands them over: LISTEN_FDS from descriptor 3 on, LISTEN_PID names the process."""
    port, path = harness.free_port(), f"{tmp_path}/inherited.sock"
    wrapper = f"""
import os, socket, sys
tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
tcp.bind(("127.0.0.1", {port})), tcp.listen()
unix.bind({path!r}), unix.listen()
fds = [os.dup(tcp.fileno()) for _ in range(10)], [os.dup(unix.fileno()) for _ in range(2)]
os.dup2(fds[0][-1], 3), os.dup2(fds[1][-1], 4)
os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
"""
    command = [sys.executable, "-c", wrapper, str(harness.OSTLER), "run", "probe:app", "--python", sys.executable]
    running = harness.Host(command, harness.APPS, {}, port)
    host.hosts.append(running)
    running.wait_ready()
    assert running.get("/").body == b"hello"
    with Raw(path) as raw:
        assert raw.send(GET).answer().body == b"hello"
    environ = running.get("/environ").text
    assert "LISTEN_" not in environ


@pytest.mark.filterwarnings("ignore:ssl.OP_NO")
def test_tls_speaks_http_1_1_with_todays_versions_only(host, tls):
    running = host("probe:app", "--certfile", tls[0], "--keyfile", tls[1])
    trusted = ssl.create_default_context(cafile=tls[0])
    trusted.set_alpn_protocols(["http/1.1"])
    with socket.create_connection(("127.0.0.1", running.port), 5) as sock, trusted.wrap_socket(sock, server_hostname="localhost") as secure:
        assert secure.version() in ("TLSv1.2", "TLSv1.3")
        assert secure.selected_alpn_protocol() in ("http/1.1", None)
        secure.sendall(b"GET /environ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        said = b"".join(iter(lambda: secure.recv(65536), b""))
    assert json.loads(said.partition(b"\r\n\r\n")[2])["wsgi.url_scheme"] == "https"
    old = ssl.create_default_context(cafile=tls[0])
    old.options |= ssl.OP_NO_TLSv1_2 | ssl.OP_NO_TLSv1_3
    with socket.create_connection(("127.0.0.1", running.port), 5) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(sock, server_hostname="localhost")


def test_plain_http_on_a_tls_port_is_told_so(host, tls):
    running = host("probe:app", "--certfile", tls[0], "--keyfile", tls[1])
    with running.raw() as raw:
        answer = raw.send(GET).answer()
        assert answer.status == 400 and "reason: plain_on_tls" in answer.text
        assert answer.header("Connection") == "close" and raw.closed_within(5)


# Clients that others wrote


def test_curl(probe, tmp_path):
    url = f"http://127.0.0.1:{probe.port}"
    body = os.urandom(3 * MIB)
    (tmp_path / "body").write_bytes(body)
    assert curl(f"{url}/", f"{url}/pid").startswith(b"hello")
    assert curl("--http1.0", f"{url}/stream/3") == b"chunk 0\nchunk 1\nchunk 2\n"
    assert b"Content-Length: 5" in curl("-I", f"{url}/")
    assert curl("--data-binary", f"@{tmp_path}/body", "-H", "Expect: 100-continue", f"{url}/echo") == body
    assert curl("-T", "-", "-X", "POST", "-H", "Transfer-Encoding: chunked", f"{url}/echo", body=body) == body
    assert curl("--request-target", f"http://127.0.0.1:{probe.port}/", f"{url}/ignored") == b"hello"
    assert curl("-X", "OPTIONS", "--request-target", "*", url) == b"hello"


def test_curl_over_tls_and_a_unix_socket(host, tls, tmp_path):
    running = host("probe:app", "--certfile", tls[0], "--keyfile", tls[1])
    url = f"https://localhost:{running.port}"
    assert curl("--cacert", tls[0], f"{url}/large/3000000") == b"x" * 3_000_000
    assert curl("--cacert", tls[0], "--data-binary", "@-", f"{url}/echo", body=b"y" * MIB) == b"y" * MIB
    host("probe:app", bind=f"unix:{tmp_path}/a.sock")
    assert curl("--unix-socket", f"{tmp_path}/a.sock", "http://localhost/") == b"hello"


def test_httpx_and_requests(probe):
    url = f"http://127.0.0.1:{probe.port}"
    pieces = [os.urandom(1000) for _ in range(300)]
    with httpx.Client(base_url=url, timeout=30) as client:
        assert client.post("/echo", content=iter(pieces)).content == b"".join(pieces)
        assert client.head("/").headers["content-length"] == "5"
        with client.stream("GET", "/stream/1000") as answer:
            assert sum(1 for _ in answer.iter_lines()) == 1000
    with requests.Session() as session:
        assert session.post(f"{url}/echo", data=iter(pieces), timeout=30).content == b"".join(pieces)
        assert session.get(f"{url}/large/1000000", timeout=30).content == b"x" * 1_000_000
        assert session.options(f"{url}/", timeout=30).text == "hello"


# What ostler answers itself


WAYS = {
    "edge": (lambda host: host.request("POST", "/", {"Content-Length": "200000000"}), 413, "body_too_large"),
    "app": (lambda host: host.get("/raise"), 500, "app_error"),
    "worker": (lambda host: host.get("/") and host.request("POST", "/exit"), 502, "worker_died"),
    "static": (lambda host: host.get("/static/nothing"), 404, None),
}


@pytest.fixture(scope="module")
def failing(module_host, tmp_path_factory):
    source = """
import os
def app(environ, start_response):
    if environ["PATH_INFO"] == "/":
        start_response("200 OK", [])
        return [b"serving"]
    if environ["PATH_INFO"] == "/exit":
        os._exit(1)
    raise ValueError("secret of the app")
"""
    return module_host("app:app", "--access-logfile", "-", "--static", f"/static={tmp_path_factory.mktemp('files')}", source=source)


@pytest.mark.parametrize("layer", WAYS)
def test_own_answer_names_layer_reason_and_request_in_three_languages(failing, layer):
    ask, status, code = WAYS[layer]
    real = failing.request
    for accept, kind in (
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"), ("application/json", "application/json"),
        ("application/problem+json", "application/problem+json"), ("*/*", "text/plain"), ("image/png", "text/plain"),
    ):
        def with_accept(method, path="/", headers=None, **more):
            return real(method, path, {"Accept": accept, **(headers or {})}, **more)

        failing.request = with_accept
        try:
            answer = ask(failing)
        finally:
            failing.request = real
        assert answer.status == status, answer
        assert answer.header("Content-Type").startswith(kind) and answer.header("Cache-Control") == "no-store"
        assert "Accept" in answer.header("Vary")
        assert b"secret" not in answer.body
        if "json" in kind:
            said = json.loads(answer.body)
            assert said["status"] == status and said["layer"] == layer and re.fullmatch("[0-9a-f]{16}", said["request_id"])
            assert code in (None, said["code"])
        else:
            assert layer in answer.text and re.search("[0-9a-f]{16}", answer.text)
            assert code is None or code in answer.text


def test_own_answer_to_head_has_no_body(failing):
    with failing.raw() as raw:
        answer = raw.send(b"HEAD /raise HTTP/1.1\r\nHost: a\r\n\r\n").answer(head_only=True)
        assert answer.status == 500 and int(answer.header("Content-Length")) > 0
        assert raw.send(b"GET /static/nothing HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 404


def test_request_id_of_an_answer_is_in_the_log(failing):
    said = failing.request("GET", "/raise", {"Accept": "application/json"})
    failing.log.wait(json.loads(said.body)["request_id"])
