"""PEP 3333 to the letter, and what becomes of apps that break it."""

import json

import pytest

import harness

PREAMBLE = """
import io, sys, os

def ok(start_response, body, *headers):
    body = body if isinstance(body, bytes) else str(body).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers])
    return [body]
"""


@pytest.fixture
def wsgi(host):
    """`wsgi(code)`: serves a module with this code, which defines `app`."""
    return lambda code, *args: host("app:app", *args, source=PREAMBLE + code)


# environ


def test_environ_has_everything_in_its_type(host):
    running = host("probe:app", "-w", "2", "--threads", "3")
    with running.raw() as raw:
        head = b"GET /environ/a%20b%2Fc/caf%C3%A9?q=%20&x HTTP/1.1\r\nHost: shop.example:81\r\nX-One: 1\r\nX-Two: a\r\nX-Two: b\r\n"
        seen = json.loads(raw.send(head + b"Cookie: a=1\r\nCookie: b=2\r\nContent-Type: x/y\r\n\r\n").answer().body)
    assert seen["REQUEST_METHOD"] == "GET" and seen["SCRIPT_NAME"] == ""
    assert seen["PATH_INFO"] == "/environ/a b/c/caf\u00c3\u00a9", "decoded, as latin-1"
    assert seen["QUERY_STRING"] == "q=%20&x"
    assert seen["RAW_URI"] == seen["REQUEST_URI"] == "/environ/a%20b%2Fc/caf%C3%A9?q=%20&x"
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.1" and seen["SERVER_NAME"] and seen["SERVER_PORT"].isdigit()
    assert seen["REMOTE_ADDR"] == "127.0.0.1" and seen["REMOTE_PORT"].isdigit()
    assert seen["HTTP_HOST"] == "shop.example:81" and seen["HTTP_X_ONE"] == "1" and seen["HTTP_X_TWO"] in ("a,b", "a, b")
    assert seen["HTTP_COOKIE"] == "a=1; b=2"
    assert seen["CONTENT_TYPE"] == "x/y" and "HTTP_CONTENT_TYPE" not in seen and "HTTP_CONTENT_LENGTH" not in seen
    assert seen["wsgi.version"] == [1, 0] and seen["wsgi.url_scheme"] == "http"
    assert seen["wsgi.multithread"] is True and seen["wsgi.multiprocess"] is True and seen["wsgi.run_once"] is False
    assert seen["wsgi.input_terminated"] is True


def test_process_environment_is_not_in_environ(host):
    seen = json.loads(host("probe:app", env={"HTTP_PROXY": "http://evil", "SECRET": "1"}).get("/environ").body)
    assert "HTTP_PROXY" not in seen and "SECRET" not in seen and "PATH" not in seen


def test_single_worker_and_thread_are_told(host):
    seen = json.loads(host("probe:app").get("/environ").body)
    assert seen["wsgi.multithread"] is False and seen["wsgi.multiprocess"] is False


def test_root_path_is_script_name(host):
    running = host("probe:app", "--root-path", "/shop")
    seen = json.loads(running.get("/shop/environ").body)
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/shop", "/environ")


def test_http_1_0_is_told(host):
    with host("probe:app").raw() as raw:
        seen = json.loads(raw.send(b"GET /environ HTTP/1.0\r\nHost: a\r\n\r\n").answer().body)
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.0"


def test_server_name_is_never_empty(host):
    """PEP 3333 forbids it; a client of HTTP/1.0 may name no host."""
    running = host("probe:app")
    for target, name, port, told in (
        ("/environ", "127.0.0.1", running.port, None),
        ("http://shop.example:81/environ", "shop.example", 81, "shop.example:81"),
    ):
        with running.raw() as raw:
            seen = json.loads(raw.send(f"GET {target} HTTP/1.0\r\n\r\n".encode()).answer().body)
        assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == (name, str(port))
        assert seen.get("HTTP_X_FORWARDED_HOST") == told and "HTTP_HOST" not in seen


def test_every_request_gets_a_new_environ(wsgi):
    running = wsgi("""
def app(environ, start_response):
    leaked = "leak" in environ
    environ["leak"] = True
    environ["HTTP_HOST"] = "changed"
    return ok(start_response, leaked)
""")
    with running.raw() as raw:
        for _ in range(5):
            assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"False"


# Werkzeug calls read() without a size where `wsgi.input_terminated` allows it, and the validator knows
# only read(size): this one rule is left out.
VALIDATED = """
from wsgiref import validate
from {module} import {name} as inner
validate.InputWrapper.read = lambda self, *size: self.input.read(*size)
app = validate.validator(inner)
"""


@pytest.mark.parametrize("app", ["flask_app:app", "django_app:app", "httpbin:app", "probe:app"])
def test_wsgiref_validate_finds_nothing(host, app):
    module, _, name = app.partition(":")
    source = VALIDATED.format(module=module, name=name)
    running = host("checked:app", "--pythonpath", harness.APPS, source=source)
    for path in ("/", "/stream/5", "/nothing"):
        assert running.get(path).status < 500
    assert running.request("HEAD", "/").status < 500
    assert running.request("POST", "/post", {"Content-Type": "application/x-www-form-urlencoded"}, b"a=b").status < 500
    assert not running.log.matches("AssertionError")


# wsgi.input


INPUT = """
def app(environ, start_response):
    body = environ["wsgi.input"]
    return ok(start_response, repr(eval(environ["QUERY_STRING"].replace("%20", " "))))
"""


@pytest.mark.parametrize("size", ["small", "spooled"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "expression, expected",
    [
        ("body.read()", b"one\ntwo\n\nlast"),
        ("body.read(-1)", b"one\ntwo\n\nlast"),
        ("body.read(None)", b"one\ntwo\n\nlast"),
        ("[body.read(5),body.read(0),body.read(100),body.read(),body.read(1)]", [b"one\nt", b"", b"wo\n\nlast", b"", b""]),
        ("[b:=bytearray(4),body.readinto(b)]and[bytes(b)]", [b"one\n"]),
        ("body.readline()", b"one\n"),
        ("[body.readline(2),body.readline(-1),body.readline(100)]", [b"on", b"e\n", b"two\n"]),
        ("[body.readline(),body.read(),body.readline()]", [b"one\n", b"two\n\nlast", b""]),
        ("[body.read(1),body.readline(),body.read(1)]", [b"o", b"ne\n", b"t"]),
        ("body.readlines()", [b"one\n", b"two\n", b"\n", b"last"]),
        ("list(body)", [b"one\n", b"two\n", b"\n", b"last"]),
        ("[next(iter(body)),body.read(3)]", [b"one\n", b"two"]),
        ("body.readlines(5)", [b"one\n", b"two\n"]),
    ],
)
def test_every_way_to_read(input_app, expression, expected, chunked, size):
    tail = b"x" * 300_000 if size == "spooled" else b""
    whole = b"one\ntwo\n\nlast" + tail
    head = b"POST /?" + expression.replace(" ", "%20").encode() + b" HTTP/1.1\r\nHost: a\r\n"
    with input_app.raw(30) as raw:
        if chunked:
            framed = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (whole[:7], whole[7:])) + b"0\r\n\r\n"
            raw.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + framed)
        else:
            raw.send(head + b"Content-Length: %d\r\n\r\n" % len(whole) + whole)
        seen = eval(raw.answer().body)
    assert without(seen, tail) == without(expected, b"") or trimmed(seen, tail, expected)


def without(value, tail):
    if isinstance(value, bytes):
        return value.removesuffix(tail) if tail else value
    return [without(one, tail) for one in value]


def trimmed(seen, tail, expected):
    """A read of 100 bytes meets the tail in the middle."""
    if not tail or not isinstance(seen, list):
        return False
    text, wanted = b"".join(seen), b"".join(expected)
    return text.startswith(wanted) and set(text[len(wanted):]) <= {ord("x")}


@pytest.fixture(scope="module")
def input_app(module_host):
    return module_host(source=PREAMBLE + INPUT)


def test_no_body_reads_empty(input_app):
    assert input_app.get("/?[body.read(),body.read(5),body.readline(),body.readlines(),list(body)]").body == b"[b'', b'', b'', [], []]"


def test_input_never_reaches_into_the_next_request(input_app):
    with input_app.raw() as raw:
        raw.send(b"POST /?body.read(10000) HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /?1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert raw.answer().body == b"b'abc'"
        assert raw.answer().body == b"1"


# start_response


def test_write_comes_before_the_iterable(wsgi):
    running = wsgi("""
def app(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"one ")
    write(b"two ")
    return [b"three ", b"", b"four"]
""")
    assert running.get("/").body == b"one two three four"


def test_reason_phrase_and_header_order_are_kept(wsgi):
    running = wsgi("""
def app(environ, start_response):
    start_response("299 Fine By Me", [("X-B", "1"), ("Set-Cookie", "a=1"), ("X-A", "2"), ("Set-Cookie", "b=2"), ("Content-Length", "0")])
    return []
""")
    answer = running.get("/")
    assert (answer.status, answer.reason) == (299, "Fine By Me")
    assert answer.all("Set-Cookie") == ["a=1", "b=2"]
    assert [n for n, _ in answer.headers if n.lower().startswith("x-")][:2] == ["X-B", "X-A"]


def test_latin_1_headers_both_ways(wsgi):
    running = wsgi("""
def app(environ, start_response):
    return ok(start_response, b"", ("X-Back", environ["HTTP_X_THERE"]))
""")
    assert running.get("/", {"X-There": "caf\xe9 \xff"}).header("X-Back") == "caf\xe9 \xff"


def test_exc_info_replaces_the_headers_before_the_body(wsgi):
    running = wsgi("""
def app(environ, start_response):
    start_response("200 OK", [("X-Old", "1")])
    try:
        1 / 0
    except ZeroDivisionError:
        start_response("500 Replaced", [("X-New", "1"), ("Content-Length", "3")], sys.exc_info())
    return [b"new"]
""")
    answer = running.get("/")
    assert (answer.status, answer.reason, answer.body) == (500, "Replaced", b"new")
    assert answer.header("X-New") and not answer.header("X-Old")


def test_exc_info_after_the_body_began_raises(wsgi):
    running = wsgi("""
def app(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"begun")
    try:
        1 / 0
    except ZeroDivisionError:
        start_response("500 Too late", [], sys.exc_info())
    return []
""")
    answer = running.get("/")
    assert answer.status == 200 and not answer.complete, "the client can tell that it is cut off"
    running.log.wait("ZeroDivisionError")


@pytest.mark.parametrize(
    "code",
    [
        "    start_response('200 OK', [])\n    start_response('200 OK', [])\n    return []",
        "    return [b'without start_response']",
        "    start_response('200 OK', [('A', 'b\\r\\nInjected: yes')])\n    return []",
        "    start_response('200 OK', [('A', 'b\\nInjected: yes')])\n    return []",
        "    start_response('200 OK', [('A', 'b\\x00c')])\n    return []",
        "    start_response('200 OK', [('A\\r\\nInjected', 'yes')])\n    return []",
        "    start_response('200 OK', [('A B', 'c')])\n    return []",
        "    start_response('200 OK\\r\\nInjected: yes', [])\n    return []",
        "    start_response('OK', [])\n    return []",
        "    start_response('99 Low', [])\n    return []",
        "    start_response('1000 High', [])\n    return []",
        "    start_response(200, [])\n    return []",
        "    start_response('200 OK', [('A', 1)])\n    return []",
        "    start_response('200 OK', [('A', '\\u20ac')])\n    return []",
        "    start_response('200 OK', [('Content-Length', 'abc')])\n    return [b'x']",
        "    start_response('200 OK', [('Content-Length', '-1')])\n    return [b'x']",
        "    start_response('200 OK', [('Content-Length', '1'), ('Content-Length', '2')])\n    return [b'x']",
        "    start_response('200 OK', [])\n    return ['text']",
        "    start_response('200 OK', [])\n    return None",
        "    start_response('200 OK', [])\n    return 5",
        "    raise SystemExit(3)",
        "    raise KeyboardInterrupt",
        "    raise GeneratorExit",
        "    raise MemoryError",
    ],
)
def test_fault_of_the_app_is_a_500_and_no_other_request_is_hurt(wsgi, code):
    running = wsgi(f"""
def app(environ, start_response):
    if environ["PATH_INFO"] == "/good":
        return ok(start_response, "good")
{code}
""")
    with running.raw() as raw:
        answer = raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer()
        assert answer.status == 500 and not answer.all("Injected"), answer
    assert running.get("/good").body == b"good"
    assert len(running.workers()) == 1


@pytest.mark.parametrize("name", ["Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade", "Proxy-Authenticate", "TE", "Trailer"])
def test_hop_by_hop_header_of_the_app_never_reaches_the_client(wsgi, name):
    running = wsgi(f"""
def app(environ, start_response):
    return ok(start_response, "body", ({name!r}, "chunked"))
""")
    with running.raw() as raw:
        answer = raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer()
        assert answer.status == 500 or (answer.body == b"body" and "chunked" not in [v for n, v in answer.headers if n == name])


# Lengths that lie (E-11)


def test_body_shorter_than_its_length_is_cut_off_visibly(wsgi):
    running = wsgi("""
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "10")])
    return [b"short"]
""")
    try:
        answer = running.get("/")
        assert not answer.complete or answer.status == 502
    except EOFError:
        pass


def test_body_longer_than_its_length_is_cut_at_it(wsgi):
    running = wsgi("""
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello", b"HTTP/1.1 200 OK\\r\\n\\r\\nsmuggled"]
""")
    with running.raw() as raw:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"hello"
        try:
            assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"hello"
        except EOFError:
            pass  # closing is right too


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_body_where_none_may_be_is_dropped(wsgi, status):
    running = wsgi(f"""
def app(environ, start_response):
    if environ["PATH_INFO"] == "/good":
        return ok(start_response, "good")
    start_response("{status}", [("Content-Length", "4")])
    return [b"body"]
""")
    with running.raw() as raw:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == int(status[:3])
        try:
            assert raw.send(b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"good"
        except EOFError:
            pass
    assert running.get("/good").body == b"good"


def test_body_of_head_is_dropped(wsgi):
    running = wsgi("""
def app(environ, start_response):
    return ok(start_response, "body of " + environ["REQUEST_METHOD"])
""")
    with running.raw() as raw:
        head = raw.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").answer(head_only=True)
        assert head.header("Content-Length") == "12"
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"body of GET"


def test_length_that_nobody_told_is_not_said_to_head(wsgi):
    running = wsgi("""
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")] + [("Content-Length", "0")] * (environ["PATH_INFO"] == "/told"))
    return [b"a body"] if environ["REQUEST_METHOD"] == "GET" else []
""")
    with running.raw() as raw:
        silent = raw.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").answer(head_only=True)
        told = raw.send(b"HEAD /told HTTP/1.1\r\nHost: a\r\n\r\n").answer(head_only=True)
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"a body"
    assert silent.header("Content-Length") is None and silent.header("Transfer-Encoding") is None
    assert told.header("Content-Length") == "0"


# The iterable


def test_close_is_called_always(wsgi, tmp_path):
    running = wsgi(f"""
closed = 0
class Body:
    def __init__(self, kind): self.kind = kind
    def __iter__(self):
        if self.kind == "/raise": raise ValueError("in iter")
        yield b"x"
        if self.kind == "/later": raise ValueError("later")
    def close(self):
        global closed
        closed += 1
def app(environ, start_response):
    if environ["PATH_INFO"] == "/closed":
        return ok(start_response, closed)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Body(environ["PATH_INFO"])
""")
    for path in ("/fine", "/raise", "/later"):
        try:
            running.get(path)
        except EOFError:
            pass
    running.request("HEAD", "/fine")
    assert running.get("/closed").body == b"4"


def test_close_that_raises_is_logged_and_hurts_nothing(wsgi):
    running = wsgi("""
class Body(list):
    def close(self): raise ValueError("in close")
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return Body([b"body"])
""")
    assert running.get("/").body == b"body"
    running.log.wait("ValueError: in close")
    assert running.get("/").body == b"body"


def test_exception_after_the_body_began_cuts_it_off_visibly(wsgi):
    running = wsgi("""
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    def body():
        yield b"begun"
        raise RuntimeError("in the middle")
    return body()
""")
    try:
        assert not running.get("/").complete
    except EOFError:
        pass
    running.log.wait("RuntimeError: in the middle")


def test_start_response_inside_the_generator(wsgi):
    running = wsgi("""
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"from a generator"
""")
    assert running.get("/").body == b"from a generator"


def test_empty_chunks_end_nothing(wsgi):
    running = wsgi("""
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return iter([b"", b"a", b"", b"b", b""])
""")
    answer = running.get("/")
    assert answer.body == b"ab" and answer.complete


def test_single_piece_gets_a_length(wsgi):
    running = wsgi("""
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"known"]
""")
    answer = running.get("/")
    assert answer.body == b"known" and (answer.header("Content-Length") == "5" or answer.header("Transfer-Encoding"))


def test_date_and_server_are_there_once(wsgi):
    running = wsgi("""
def app(environ, start_response):
    own = [("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Server", "mine")] if environ["PATH_INFO"] == "/own" else []
    return ok(start_response, "x", *own)
""")
    assert len(running.get("/").all("Date")) == 1
    own = running.get("/own")
    assert own.all("Date") == ["Thu, 01 Jan 1970 00:00:00 GMT"] and own.all("Server") == ["mine"]


def test_early_hints(wsgi):
    running = wsgi("""
def app(environ, start_response):
    if hints := environ.get("wsgi.early_hints"):
        hints([("Link", "</style.css>; rel=preload")])
    return ok(start_response, "page")
""")
    with running.raw() as raw:
        first = raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").any_answer()
        assert first.status == 103 and first.header("Link") == "</style.css>; rel=preload"
        assert raw.answer().body == b"page"


def test_one_thread_is_the_main_thread(wsgi):
    running = wsgi("""
import threading, signal
def app(environ, start_response):
    return ok(start_response, threading.current_thread() is threading.main_thread())
""")
    assert running.get("/").body == b"True"


def test_threads_run_at_once(wsgi):
    running = wsgi("""
import threading
all_four = threading.Barrier(4)
def app(environ, start_response):
    all_four.wait(25)
    return ok(start_response, "together")
""", "--threads", "4")
    raws = [running.raw(30) for _ in range(4)]
    for raw in raws:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [raw.answer().status for raw in raws] == [200] * 4
