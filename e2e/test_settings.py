"""Every setting that `docs/reference/run.md` lists does what it says. The last test holds the list
of settings against the list of tests."""

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import time

import pytest

import harness
from harness import eventually
from test_status import SLOW

ECHO = """
import os
def app(environ, start_response):
    name = environ["PATH_INFO"].strip("/")
    if name == "body":
        body = str(len(environ["wsgi.input"].read())).encode()
    elif name == "env":
        body = os.environ.get(environ["QUERY_STRING"], "").encode()
    else:
        body = repr({k: v for k, v in environ.items() if isinstance(v, str)}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
FILE = """
def app(environ, start_response):
    name, value = environ["QUERY_STRING"].split("=", 1)
    start_response("200 OK", [(name, value), ("Content-Type", "text/plain")])
    return [b""]
"""


def environ(answer):
    assert answer.status == 200, answer
    return eval(answer.body)


def get(path="/", *fields):
    lines = "".join(f"{field}\r\n" for field in fields)
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode()


# App


def test_env_file_gives_way_to_the_environment(host, tmp_path):
    (tmp_path / "app.env").write_text('# comment\nA="one two"\nexport B=3\nC=file\n')
    running = host("app:app", "--env-file", "app.env", source=ECHO, env={"C": "outer"})
    assert [running.get(f"/env?{name}").text for name in "ABC"] == ["one two", "3", "outer"]


def test_factory_flag_calls_the_callable(host):
    source = ECHO + "\ndef make():\n    return app\n"
    assert host("app:make", "--factory", source=source).get("/").status == 200


def test_root_path_is_script_name(host):
    running = host("app:app", "--root-path", "/shop", source=ECHO)
    seen = environ(running.get("/shop/cart"))
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/shop", "/cart")


ASGI = """
import asyncio
events = []
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            events.append(message["type"])
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = repr((type(asyncio.get_running_loop()).__module__, events, scope.get("root_path"))).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.parametrize("args, loop, events", [
    ((), "uvloop", ["lifespan.startup"]),
    (("--loop", "asyncio"), "asyncio", ["lifespan.startup"]),
    (("--loop", "uvloop", "--lifespan", "off"), "uvloop", []),
    (("--asgi-loop", "asyncio", "--asgi-lifespan", "on"), "asyncio", ["lifespan.startup"]),
])
def test_loop_and_lifespan(host, args, loop, events):
    seen = eval(host("app:app", "--root-path", "/shop", *args, source=ASGI).get("/").body)
    assert seen[0].partition(".")[0] == loop and seen[1] == events and seen[2] == "/shop"


def test_worker_connections_bound_the_requests_on_one_loop(host):
    source = """
import asyncio
now = most = 0
async def app(scope, receive, send):
    global now, most
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        now += 1; most = max(most, now)
        await asyncio.sleep(0.2)
        now -= 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(most).encode()})
"""
    running = host("app:app", "--worker-connections", 2, source=source)
    opened = [running.raw().send(get("/slow")) for _ in range(6)]
    assert all(raw.answer().status == 200 for raw in opened)
    for raw in opened:
        raw.socket.close()
    assert running.get("/").text == "2"


# Listening and trust


def test_a_trusted_proxy_says_where_the_app_is_mounted(host):
    running = host(source=ECHO)
    with running.raw() as raw:
        seen = environ(raw.send(get("/shop/cart", "SCRIPT_NAME: /shop")).answer())
        assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/shop", "/cart")
        assert "HTTP_SCRIPT_NAME" not in seen
        seen = environ(raw.send(get("/shop/cart")).answer())
        assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("", "/shop/cart")


@pytest.mark.parametrize("args", [("--forwarded-allow-ips", "10.0.0.1"), ("--forwarder-headers", ""), ("--no-proxy-headers",)])
def test_nobody_else_does(host, args):
    running = host("app:app", *args, source=ECHO)
    with running.raw() as raw:
        assert environ(raw.send(get("/shop/cart", "SCRIPT_NAME: /shop")).answer())["SCRIPT_NAME"] == ""


def test_secure_scheme_headers(host, tmp_path):
    (tmp_path / "gunicorn.conf.py").write_text("secure_scheme_headers = {'X-Scheme-Is': 'tls'}\n")
    running = host(source=ECHO)
    assert environ(running.get("/", {"X-Scheme-Is": "tls"}))["wsgi.url_scheme"] == "https"
    assert environ(running.get("/", {"X-Forwarded-Proto": "https"}))["wsgi.url_scheme"] == "http"


def test_header_map_refuse(host):
    running = host("app:app", "--header-map", "refuse", source=ECHO)
    assert running.get("/", {"X_Y": "1"}).status == 400
    assert running.get("/", {"X-Y": "1"}).status == 200


def test_cap_of_connections_of_one_address(host):
    running = host("app:app", "--max-connections-per-address", 2, "--forwarded-allow-ips", "10.0.0.1", source=ECHO)
    with running.raw() as first, running.raw() as second:
        for raw in (first, second):
            assert raw.send(get()).answer().status == 200
            time.sleep(0.3)  # a connection is idle a moment after its answer came, of which nothing is seen from here
        with running.raw() as third:
            assert third.send(get()).answer().status == 200
            assert first.closed_within(5), "the oldest idle connection makes room"


def test_backlog_is_what_the_kernel_is_told(host):
    running = host("app:app", "--backlog", 77, source=ECHO)
    out = subprocess.run(["ss", "-Hltn", f"sport = :{running.port}"], capture_output=True, text=True)
    if out.returncode:
        pytest.skip("ss is not here")
    assert out.stdout.split()[2] == "77"


def test_edge_threads(host):
    running = host("app:app", "--edge-threads", 3, source=ECHO)
    names = [open(f"/proc/{running.server().pid}/task/{t.id}/comm").read().strip() for t in running.server().threads()]
    assert [name for name in names if re.fullmatch(r"edge-\d", name)] == ["edge-0", "edge-1", "edge-2"] or len(
        [name for name in names if re.fullmatch(r"edge-\d", name)]
    ) == 3


def test_internal_files_are_for_the_app_alone(host, tmp_path):
    for folder in ("private", "other", "outside"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder)
    running = host("app:app", "--internal", "/private=private", "--sendfile-root", "other", source=FILE)
    assert running.get("/private/a.txt?X-A=1").status == 404, "no visitor may ask for it"
    assert running.get("/x?X-Accel-Redirect=/private/a.txt").body == b"private"
    assert running.get(f"/x?X-Sendfile={tmp_path}/other/a.txt").body == b"other"
    assert running.get(f"/x?X-Sendfile={tmp_path}/private/a.txt").body == b"private"
    for bad in (f"X-Sendfile={tmp_path}/outside/a.txt", f"X-Sendfile={tmp_path}/other/../outside/a.txt", "X-Accel-Redirect=/other/a.txt"):
        assert running.get(f"/x?{bad}").status == 502, bad


@pytest.mark.parametrize("args", [(), ("--no-sendfile",)])
def test_sendfile_can_be_left_out(host, tmp_path, args):
    (tmp_path / "static").mkdir()
    data = os.urandom(1 << 20)
    (tmp_path / "static" / "big").write_bytes(data)
    running = host("app:app", "--static", "/static=static", *args, source=ECHO)
    assert running.get("/static/big").body == data


# The PROXY protocol

V2 = b"\r\n\r\n\0\r\nQUIT\n"
V2_CLIENT = V2 + b"\x21\x11" + struct.pack("!H", 12) + bytes([9, 8, 7, 6, 127, 0, 0, 1]) + struct.pack("!HH", 4660, 80)


def proxied(running, header):
    with running.raw() as raw:
        raw.send(header + get())
        return raw.answer()


@pytest.mark.parametrize("mode, header", [
    ("v1", b"PROXY TCP4 9.8.7.6 127.0.0.1 4660 80\r\n"),
    ("v2", V2_CLIENT),
    ("auto", V2_CLIENT),
    ("auto", b"PROXY TCP4 9.8.7.6 127.0.0.1 4660 80\r\n"),
])
def test_proxy_protocol_names_the_client(host, mode, header):
    running = host("app:app", "--proxy-protocol", mode, source=ECHO)
    seen = environ(proxied(running, header))
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"], seen["HTTP_X_FORWARDED_FOR"]) == ("9.8.7.6", "4660", "9.8.7.6")
    with running.raw() as raw:
        for byte in header + get("/", "X-Forwarded-For: 1.1.1.1"):
            raw.send(bytes([byte]))
        assert environ(raw.answer())["REMOTE_ADDR"] == "9.8.7.6", "a stranger's word about itself"
        assert environ(raw.send(get()).answer())["REMOTE_ADDR"] == "9.8.7.6", "for the whole connection"


def test_proxy_that_speaks_for_itself(host):
    running = host("app:app", "--proxy-protocol", source=ECHO)
    assert environ(proxied(running, b"PROXY UNKNOWN\r\n"))["REMOTE_ADDR"] == "127.0.0.1"
    assert environ(proxied(running, V2 + b"\x20\0\0\0"))["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize("start", [b"", b"PROXY TCP4 9.8.7.6\r\n", V2 + b"\x21\x12\0\0", b"PROXY " + b"x" * 200])
def test_proxy_without_a_good_header_is_closed(host, start):
    running = host("app:app", "--proxy-protocol", source=ECHO)
    with running.raw() as raw:
        assert raw.send(start + get()).rest() == b""
    running.log.wait("PROXY header")
    assert running.alive()


def test_peer_that_is_no_proxy_speaks_http(host):
    running = host("app:app", "--proxy-protocol", "--proxy-allow-from", "10.0.0.1", source=ECHO)
    assert environ(running.get("/"))["REMOTE_ADDR"] == "127.0.0.1"
    assert proxied(running, b"PROXY TCP4 9.8.7.6 127.0.0.1 4660 80\r\n").status == 400


def test_cap_counts_the_clients_behind_a_proxy(host, tmp_path):
    running = host("app:app", "--threads", 2, "--proxy-protocol", "--max-connections-per-address", 1, source=SLOW)
    header = "PROXY TCP4 {} 127.0.0.1 4660 80\r\n"
    with running.raw() as slow:
        slow.send(header.format("9.8.7.6").encode() + get("/slow"))
        eventually((tmp_path / "begun").exists)
        assert proxied(running, header.format("9.8.7.6").encode()).status == 503, "its address has one already"
        assert proxied(running, header.format("9.8.7.7").encode()).status != 503
        (tmp_path / "go").touch()
        assert slow.answer().status == 200


def test_proxy_protocol_before_tls_and_on_a_unix_socket(host, tls, tmp_path):
    import ssl

    path = tmp_path / "app.sock"
    running = host("app:app", "--bind", f"unix:{path}", "--certfile", tls[0], "--keyfile", tls[1], "--proxy-protocol", source=ECHO)
    context = ssl.create_default_context(cafile=str(tls[0]))
    with socket.create_connection(("127.0.0.1", running.port), 10) as plain:
        plain.sendall(V2_CLIENT)
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(get("/", "Connection: close"))
            said = b"".join(iter(lambda: secure.recv(4096), b""))
    assert b"'REMOTE_ADDR': '9.8.7.6'" in said and b"'wsgi.url_scheme': 'https'" in said


# Limits and times


@pytest.mark.parametrize("args, request_bytes, status", [
    (("--limit-request-line", 100), get("/" + "a" * 100), 414),
    (("--limit-request-line", 60000), get("/" + "a" * 50000), 200),
    (("--limit-request-fields", 3), get("/", "A: 1", "B: 1", "C: 1"), 431),
    (("--limit-request-fields", 400), get("/", *(f"F{n}: {'x' * 100}" for n in range(390))), 200),
    (("--limit-request-field_size", 50), get("/", "A: " + "x" * 50), 431),
    (("--limit-request-field-size", 60000), get("/", "A: " + "x" * 50000), 200),
    (("--limit-request-body", 10), b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n" + b"x" * 11, 413),
    (("--limit-request-body", 11), b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n" + b"x" * 11, 200),
])
def test_limits_of_a_request(host, args, request_bytes, status):
    running = host("app:app", *args, source=ECHO)
    with running.raw() as raw:
        assert raw.send(request_bytes).answer().status == status


def test_keepalive_zero_closes_after_each_response(host):
    running = host("app:app", "--keep-alive", 0, source=ECHO)
    with running.raw() as raw:
        answer = raw.send(get()).answer()
        assert answer.header("Connection").lower() == "close" and raw.closed_within(5)


@contextlib.contextmanager
def lasts(seconds):
    """What is done within takes about so long. It begins before what starts the clock of the server."""
    began = time.monotonic()
    yield
    assert seconds - 0.05 <= time.monotonic() - began <= seconds + 5


def test_keepalive_is_how_long_a_connection_may_be_idle(host):
    running = host("app:app", "--keep-alive", 1, source=ECHO)
    with running.raw() as raw, lasts(1):
        assert raw.send(get()).answer().status == 200
        assert raw.rest() == b""


def test_header_timeout(host):
    running = host("app:app", "--header-timeout", 1, source=ECHO)
    with lasts(1), running.raw() as raw:
        assert b" 408 " in raw.send(b"GET / HTTP/1.1\r\nHost:").rest()


@pytest.mark.parametrize("rate", [0, 500])
def test_body_timeout_is_the_longest_silence(host, rate):
    running = host("app:app", "--body-timeout", 1, "--minimum-rate", rate, source=ECHO)
    head = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n"
    with running.raw() as raw, lasts(1):
        assert b" 408 " in raw.send(head + b"x" * 100_000).rest()


def test_write_timeout_gives_up_a_client_that_takes_nothing(host, tmp_path):
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "big").write_bytes(bytes(32 << 20))
    running = host("app:app", "--write-timeout", 1, "--static", "/static=static", source=ECHO)
    with running.raw() as raw:
        raw.send(get("/static/big"))
        connected = lambda: any(c.status == "ESTABLISHED" for c in running.server().net_connections())
        assert raw.socket.recv(1)
        eventually(lambda: not connected(), 20, "the connection is given up")


def test_timeout_is_a_504(host):
    source = ECHO.replace('    name =', '    __import__("time").sleep(5)\n    name =', 1)
    assert host("app:app", "--timeout", 1, source=source).get("/").status == 504


def test_line_length_and_line_timeout(host, tmp_path):
    running = host("app:app", "--line-length", 1, "--line-timeout", 1, source=SLOW)

    def full():
        with running.raw() as waiting:
            waiting.send(get())
            answers = [running.get("/"), waiting.answer()]
        assert all(answer.status == 503 and answer.header("Retry-After") for answer in answers)
        # Which of them came first is not known here: one waits, the other has no place.
        return sorted(re.search(r"reason: (\w+)", answer.text)[1] for answer in answers) == ["line_full", "line_timeout"]

    with running.raw(30) as busy:
        busy.send(get("/slow"))
        eventually((tmp_path / "begun").exists)
        answer = running.get("/")
        assert answer.status == 503 and "reason: line_timeout" in answer.text, "the worker is busy, and a wait too long"
        eventually(full, 15, "no place in line")
        (tmp_path / "go").touch()
        assert busy.answer().status == 200


def test_max_requests_with_jitter(host):
    running = host("app:app", "--max-requests", 3, "--max-requests-jitter", 2, source=ECHO)
    first = running.workers()[0].pid
    for _ in range(6):
        assert running.get("/").status == 200
    eventually(lambda: first not in {w.pid for w in running.workers()}, 10)
    assert running.get("/").status == 200


@pytest.mark.parametrize("flag", ["--memory-soft", "--memory-hard"])
def test_memory_limits(host, flag):
    source = ECHO.replace('    name =', '    if environ["PATH_INFO"] == "/grow": kept.append(bytearray(80 << 20))\n    name =', 1) + "\nkept = []\n"
    running = host("app:app", flag, "64M", source=source)
    first = running.workers()[0].pid
    assert running.get("/grow").status == 200
    running.log.wait(f"private memory \\({flag}\\)", 20)
    eventually(lambda: first not in {w.pid for w in running.workers()} and running.workers(), 20)
    assert running.get("/").status == 200


def test_tmp_upload_dir_takes_what_memory_does_not(host, tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    (tmp_path / "gunicorn.conf.py").write_text("tmp_upload_dir = 'spool'\n")
    running = host(source=ECHO)
    head = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n"
    with running.raw() as raw:
        raw.send(head + b"x" * 200_000)
        eventually(lambda: any(link.startswith(str(spool)) for link in links(running.server().pid)), 20)
        assert raw.send(b"x" * 100_000).answer().body == b"300000"


def links(pid):
    """What the descriptors of a process lead to."""
    folder = f"/proc/{pid}/fd"
    for fd in os.listdir(folder):
        with contextlib.suppress(OSError):  # closed meanwhile
            yield os.readlink(f"{folder}/{fd}")


def test_request_buffering_off_calls_the_app_at_once(host):
    source = """
def app(environ, start_response):
    first = environ["wsgi.input"].read(3)
    write = start_response("200 OK", [])
    write(first)
    return [environ["wsgi.input"].read()]
"""
    running = host("app:app", "--no-request-buffering", source=source)
    with running.raw() as raw:
        raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        head = raw._until(b"\r\n\r\n")
        assert b" 200 " in head, "it answers while half of the body is still to come"
        assert b"abcdef" in raw.send(b"def")._until(b"0\r\n\r\n").replace(b"\r\n3\r\n", b"")


def test_response_buffering_off_holds_the_worker(host):
    source = """
import os
def app(environ, start_response):
    if environ["PATH_INFO"] == "/made":
        start_response("200 OK", [])
        return [str(made).encode()]
    start_response("200 OK", [])
    def body():
        global made
        for made in range(1, 65):
            yield bytes(1 << 20)
    return body()
made = 0
"""
    counts = []
    for args in ((), ("--no-response-buffering",)):
        running = host("app:app", "--threads", 2, *args, source=source)
        with running.raw() as raw:
            raw.send(get("/big"))
            made = lambda: int(running.get("/made").body)
            eventually(lambda: made() > 0)
            last = [-1]
            def settled():
                before, last[0] = last[0], made()
                return before == last[0]
            if args:
                for _ in range(5):
                    eventually(settled)
            else:
                eventually(lambda: made() == 64, 20)
            counts.append(made())
    assert counts[0] == 64 and counts[1] < 32


# Logs and process


def test_capture_output_and_log_files(host, tmp_path):
    source = ECHO + "\nimport sys\nprint('printed by the app')\nsys.stderr.write('and said\\n')\n"
    running = host("app:app", "--capture-output", "--error-logfile", "error.log", "--access-logfile", "access.log", source=source, ready=False)
    said = lambda name: (tmp_path / name).read_text() if (tmp_path / name).exists() else ""
    eventually(lambda: "ready" in said("error.log"), 30)
    running.get("/seen")
    eventually(lambda: "GET /seen" in said("access.log"))
    assert "printed by the app" in said("error.log") and "and said" in said("error.log")


def test_log_level_leaves_out_what_is_below_it(host):
    running = host("app:app", "--log-level", "error", source=ECHO, ready=False)
    eventually(lambda: reachable(running), 30)
    assert running.stop() == 0 and not running.log.matches("ready|stopp|Listening")


def reachable(running):
    try:
        return running.get("/").status == 200
    except OSError:
        return False


@pytest.mark.parametrize("args, format", [
    (("--access-logfile", "-", "--access-logformat", "%(m)s|%(U)s|%(q)s|%(s)s|%({x-a}i)s"), r"^GET\|/p\|q=1\|200\|one$"),
    (("--access-log", "--access-log-json"), r'^\{.*"/p'),
    (("--access-log",), r'"GET /p\?q=1 HTTP/1.1" 200'),
])
def test_access_log_formats(host, args, format):
    running = host("app:app", *args, source=ECHO)
    running.get("/p?q=1", {"X-A": "one"})
    running.log.wait(format)


def test_no_access_log_wins_over_the_file(host, tmp_path):
    (tmp_path / "gunicorn.conf.py").write_text("accesslog = '-'\n")
    running = host("app:app", "--no-access-log", source=ECHO)
    running.get("/p")
    assert running.stop() == 0 and not running.log.matches("GET /p")


def test_reload_of_extra_files_and_one_reload_for_all_workers(host, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one")
    source = ECHO + "\nos.environ['TEXT'] = open('texts/a.txt').read()\n"
    running = host("app:app", "--reload", "-w", 3, "--reload-extra-file", "texts/*.txt", source=source)
    assert running.get("/env?TEXT").text == "one"
    later = time.time_ns() + 2_000_000_000
    (tmp_path / "texts" / "a.txt").write_text("two")
    os.utime(tmp_path / "texts" / "a.txt", ns=(later, later))
    eventually(lambda: running.get("/env?TEXT").text == "two", 20)
    running.log.wait("a.txt changed")
    eventually(lambda: len(running.zygotes()) == 1 and len(running.workers()) == 3, 20)
    assert len(running.log.matches(r"a\.txt changed")) == 1


def test_reload_with_a_syntax_error_keeps_the_old_code(host, tmp_path):
    running = host("app:app", "--reload", "-w", 2, source=ECHO)
    for step, text in enumerate(["def app(:\n", ECHO.replace('"/"', '"/"') + "\nos.environ['NEW'] = 'yes'\n"], 1):
        later = time.time_ns() + step * 2_000_000_000
        (tmp_path / "app.py").write_text(text)
        os.utime(tmp_path / "app.py", ns=(later, later))
        if step == 1:
            running.log.wait("SyntaxError", 20)
            assert running.get("/env?NEW").body == b"", "the old code serves on"
    eventually(lambda: running.get("/env?NEW").text == "yes", 20)


# The list

ELSEWHERE = {
    # test_run.py and test_gunicorn_compat.py: what starts, from where, as whom.
    "wsgi_app", "app_interface", "python", "chdir", "pythonpath", "raw_env", "preload_app", "bind", "host", "port", "uds",
    "fd", "workers", "threads", "worker_class", "single_process", "graceful_timeout", "user", "group", "umask", "pidfile",
    "daemon", "proc_name", "default_proc_name", "reload", "config", "check_config", "print_config",
    # test_static.py, test_socketio.py, test_websocket.py, test_run.py (TLS)
    "static_files", "websocket_threads", "websocket_max_message_size", "certfile", "keyfile", "ca_certs", "cert_reqs",
    # test_perf.py
    "perf", "perf_dir", "perf_keep", "perf_size",
    # Says what is so already.
    "proxy_headers",
}
HERE = {
    "env_file", "factory", "root_path", "asgi_lifespan", "asgi_loop", "backlog", "internal_files", "sendfile_root",
    "max_connections_per_address", "edge_threads", "forwarded_allow_ips", "no_proxy_headers", "secure_scheme_headers",
    "forwarder_headers", "proxy_protocol", "proxy_allow_ips", "worker_connections", "timeout", "max_requests",
    "max_requests_jitter", "memory_soft", "memory_hard", "line_length", "line_timeout", "limit_request_line",
    "limit_request_fields", "limit_request_field_size", "limit_request_body", "keepalive", "header_timeout",
    "body_timeout", "write_timeout", "minimum_rate", "request_buffering", "response_buffering", "header_map", "sendfile",
    "tmp_upload_dir", "accesslog", "access_log", "no_access_log", "access_log_format", "access_log_json", "errorlog",
    "loglevel", "capture_output", "reload_extra_files",
}


def test_every_supported_setting_is_tested():
    page = (harness.ROOT / "docs" / "reference" / "run.md").read_text()
    page = page.partition("## Environment")[0]
    listed = set(re.findall(r"^\| \*?`(\w+)`\*? \|", page, re.M))
    flags = re.findall(r"^\| command line \| .*?`--([\w-]+)", page, re.M)
    listed |= {flag.replace("-", "_") for flag in flags}
    assert listed == ELSEWHERE | HERE
