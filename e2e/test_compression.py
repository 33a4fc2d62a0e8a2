"""Content codings: who gets which, what a head says about it, and that nothing waits in an encoder."""

import gzip
import os
import sys
import time
import zlib

import brotli
import pytest
import zstandard

import harness
from harness import eventually
from http2 import Http2

PAGE = ("<li class='row'>A row of a page, and its number: {}</li>\n" * 400).format(*range(400)).encode()
ALL = "gzip, deflate, br, zstd"

WSGI = """
import sys, time
PAGE = ("<li class='row'>A row of a page, and its number: {}</li>\\n" * 400).format(*range(400)).encode()
GATES = {}

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    fields = [("Content-Type", "text/html; charset=utf-8")]
    for line in filter(None, query.split("&")):
        name, _, value = line.partition("=")
        fields = [f for f in fields if f[0] != name] + [(name, value.replace("+", " ").replace("%22", '"'))]
    if path == "/echo":
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "application/octet-stream"),
                                  ("X-Coding", environ.get("HTTP_CONTENT_ENCODING", ""))])
        return [body]
    if path == "/status":
        start_response(query + " x", [("Content-Type", "text/html"), ("ETag", '"a"')])
        return [] if query in ("204", "304") else [PAGE]
    if path == "/whole":
        start_response("200 OK", fields + [("Content-Length", str(len(PAGE)))])
        return [PAGE] if environ["REQUEST_METHOD"] != "HEAD" else []
    if path == "/small":
        start_response("200 OK", fields)
        return [b"x" * 1023]
    if path == "/noise":
        import os
        start_response("200 OK", fields)
        return [os.urandom(4096)]
    if path == "/large":
        start_response("200 OK", fields + [("Content-Length", str(len(PAGE) * 100))])
        return (PAGE for _ in range(100))
    if path == "/short":
        start_response("200 OK", fields + [("Content-Length", str(len(PAGE) * 3))])
        return (PAGE for _ in range(2))
    if path == "/long":
        start_response("200 OK", fields + [("Content-Length", str(len(PAGE) + 5))])
        return (PAGE for _ in range(2))
    if path == "/file":
        start_response("200 OK", fields)
        return environ["wsgi.file_wrapper"](open("page.html", "rb"))
    if path == "/parts":
        start_response("200 OK", fields)
        return parts(GATES.setdefault(query, []))
    if path == "/next":
        GATES[query].append(1)
        start_response("200 OK", [])
        return []
    start_response("200 OK", fields)
    return [PAGE]

def parts(gate):
    for number in range(3):
        yield b"part %d\\n" % number
        while len(gate) <= number:
            time.sleep(0.005)
"""

CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
listen_tls = ["127.0.0.1:{tls}"]
state = "state"
[projects.it]
source = "."
hosts = ["*"]
https = "optional"
certfile = "{cert}"
keyfile = "{key}"
[[projects.it.routes]]
prefix = "/"
[[projects.it.routes]]
prefix = "/plain"
compress = false
[projects.it.web]
app = "app:app"
python = "{python}"
threads = 3
[projects.it.static]
"/static" = "files"
"""


def decoded(answer):
    coding, body = answer.header("Content-Encoding"), answer.body
    if coding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return {"gzip": gzip.decompress, "br": brotli.decompress, None: bytes}[coding](body)


def aged(path, data):
    """A file that nobody is writing: only those are copied."""
    path.write_bytes(data)
    before = time.time() - 60
    os.utime(path, (before, before))
    return path


@pytest.fixture(scope="module")
def served(module_host, module_tls, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coded")
    (folder / "files").mkdir()
    (folder / "app.py").write_text(WSGI)
    (folder / "page.html").write_bytes(PAGE * 40)
    aged(folder / "files" / "large.js", PAGE * 40)
    aged(folder / "files" / "small.css", PAGE)
    aged(folder / "files" / "noise.txt", os.urandom(300_000))
    aged(folder / "files" / "tiny.css", b"a" * 1000)
    aged(folder / "files" / "image.png", PAGE * 10)
    aged(folder / "files" / "both.css", PAGE)
    aged(folder / "files" / "both.css.gz", gzip.compress(PAGE + b"by hand"))
    port, tls = harness.free_port(), harness.free_port()
    cert, key = module_tls
    (folder / "ostler.toml").write_text(CONFIG.format(port=port, tls=tls, cert=cert, key=key, python=sys.executable))
    running = module_host.serve(folder=folder, port=port, ready="it: ready")
    running.tls, running.certificate, running.folder = tls, cert, folder
    return running


def ask(served, path, accept=ALL, method="GET", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.request(method, path, {**({"Accept-Encoding": accept} if accept is not None else {}), **headers})


@pytest.mark.smoke
@pytest.mark.parametrize("accept, coding", [
    (ALL, "zstd"), ("gzip, br", "gzip"), ("br", "br"), ("br;q=1, gzip;q=0.5", "br"), ("*", "zstd"),
    ("zstd;q=0, *;q=0.1", "gzip"), ("x-gzip", "gzip"), ("GZip", "gzip"), ("gzip;q=0", None), ("", None), (None, None),
    ("identity", None), ("identity;q=0, gzip;q=0.001", "gzip"), ("*;q=0", None), ("gzip;q=x", None),
    (",".join(f"x{n}" for n in range(1000)) + ", gzip", "gzip"), (",;q=;;,=,gzip;q=1.0000,zstd; Q=0.5 ,", "zstd"),
])
@pytest.mark.parametrize("path", ["/", "/whole", "/large", "/file"])
def test_a_client_gets_the_coding_it_likes_best(served, path, accept, coding):
    answer = ask(served, path, accept)
    assert answer.status == 200 and answer.complete
    assert answer.header("Content-Encoding") == coding
    expected = {"/large": PAGE * 100, "/file": PAGE * 40}.get(path, PAGE)
    assert decoded(answer) == expected
    assert answer.all("Vary") == ["Accept-Encoding"], "also for who gets it as it is"
    if coding:
        assert len(answer.body) < len(expected) / 4
    if coding and path in ("/", "/whole"):
        assert answer.header("Content-Length") == str(len(answer.body)), "what came at once has its length"


@pytest.mark.parametrize("path", [
    "/?Content-Type=image/png", "/?Content-Type=text/event-stream", "/?Content-Encoding=br", "/?Cache-Control=no-transform",
    "/?Content-MD5=x", "/?Content-Digest=sha-256=:x:", "/small", "/plain", "/plain/whole", "/status?206",
])
def test_what_is_left_alone(served, path):
    plain, coded = ask(served, path, None), ask(served, path)
    assert coded.body == plain.body and coded.body
    differs = {"date"}
    told = [[(n, v) for n, v in answer.headers if n.lower() not in differs] for answer in (plain, coded)]
    assert told[0] == told[1]
    assert coded.header("Vary") is None
    assert coded.header("Content-Encoding") == ("br" if "Encoding=br" in path else None)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_says_nothing_of_codings(served, status):
    answer = ask(served, f"/status?{status}")
    assert (answer.status, answer.header("Vary"), answer.header("Content-Encoding")) == (status, None, None)
    assert answer.header("ETag") == '"a"'


def test_a_404_is_coded(served):
    answer = ask(served, "/status?404")
    assert (answer.status, answer.header("Content-Encoding"), decoded(answer)) == (404, "zstd", PAGE)


def test_noise_is_not_made_larger(served):
    answer = ask(served, "/noise")
    assert (answer.header("Content-Encoding"), answer.header("Vary"), len(answer.body)) == (None, "Accept-Encoding", 4096)


def test_a_strong_tag_becomes_weak_and_comes_back_so(served):
    path = "/?ETag=%22v1%22&Accept-Ranges=bytes&Vary=Cookie"
    coded = ask(served, path)
    assert coded.header("ETag") == 'W/"v1"' and coded.header("Accept-Ranges") is None
    assert coded.all("Vary") == ["Cookie, Accept-Encoding"]
    plain = ask(served, path, "identity")
    assert (plain.header("ETag"), plain.header("Accept-Ranges")) == ('"v1"', "bytes")
    assert plain.all("Vary") == ["Cookie, Accept-Encoding"]
    assert ask(served, "/status?304", If_None_Match='W/"a"').header("ETag") == 'W/"a"'
    assert ask(served, "/?Vary=*").all("Vary") == ["*"]
    assert ask(served, "/?Vary=accept-encoding").all("Vary") == ["accept-encoding"]


@pytest.mark.parametrize("path", ["/", "/whole", "/large", "/static/large.js"])
def test_head_has_the_fields_of_get(served, path):
    if path.startswith("/static"):
        warm(served, path)
    head, get = ask(served, path, method="HEAD"), ask(served, path)
    unknown = {"date", "content-length", "transfer-encoding"}
    told = [[(n, v) for n, v in answer.headers if n.lower() not in unknown] for answer in (head, get)]
    assert told[0] == told[1] and ("Content-Encoding", "zstd") in told[0]
    assert head.header("Content-Length") in (None, get.header("Content-Length")), "never that of the plain body"


def test_a_body_that_is_not_as_long_as_it_should_be(served):
    assert not ask(served, "/short").complete, "the client must not take it for whole"
    assert decoded(ask(served, "/long")) == PAGE + PAGE[:5]


def test_parts_do_not_wait_for_each_other(served):
    for coding, reader in [("zstd", zstandard.ZstdDecompressor().decompressobj()),
                           ("gzip", zlib.decompressobj(31)), ("br", brotli.Decompressor())]:
        decode = getattr(reader, "decompress", None) or reader.process
        with served.raw() as raw:
            raw.send(f"GET /parts?{coding} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n".encode())
            raw._until(b"\r\n\r\n")
            for number in range(3):
                seen = b""
                while b"part %d\n" % number not in seen:
                    size = int(raw._until(b"\r\n").split(b";")[0], 16)
                    assert size, "the body ended early"
                    seen += decode(raw._exactly(size + 2)[:-2])
                assert seen == b"part %d\n" % number, "the next one is not made yet"
                served.get(f"/next?{coding}")


def test_an_old_client_reads_until_the_end(served):
    for path, expected in [("/", PAGE), ("/large", PAGE * 100)]:
        with served.raw() as raw:
            raw.send(f"GET {path} HTTP/1.0\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n".encode())
            answer = raw.answer()
            assert answer.header("Transfer-Encoding") is None
            assert decoded(answer) == expected


def test_request_bodies_pass_as_they_are(served):
    body = gzip.compress(PAGE)
    answer = served.request("POST", "/echo", {"Content-Encoding": "gzip"}, body)
    assert (answer.body, answer.header("X-Coding")) == (body, "gzip")


# Files


def warm(served, path, accept=ALL):
    """The coded copy, once it is there. Until then the file comes as it is."""
    def look():
        answer = ask(served, path, accept)
        assert answer.status == 200 and answer.header("Vary") == "Accept-Encoding"
        return answer if answer.header("Content-Encoding") else None

    return eventually(look, 20, f"{path} is coded")


@pytest.mark.parametrize("name, plain", [("large.js", PAGE * 40), ("small.css", PAGE)])
def test_a_file_is_coded_once_and_kept(served, name, plain):
    seen = {}
    for coding in ["zstd", "br", "gzip"]:
        answer = warm(served, f"/static/{name}", coding)
        assert answer.header("Content-Encoding") == coding and decoded(answer) == plain
        assert answer.header("Content-Length") == str(len(answer.body)) and len(answer.body) < len(plain) / 4
        again = ask(served, f"/static/{name}", coding)
        assert (again.body, again.header("ETag")) == (answer.body, answer.header("ETag"))
        seen[coding] = answer
    asis = ask(served, f"/static/{name}", None)
    tags = {answer.header("ETag") for answer in [*seen.values(), asis]}
    assert len(tags) == 4 and all(tag.startswith('"') for tag in tags), "each has a strong tag of its own"
    assert asis.body == plain and asis.header("Vary") == "Accept-Encoding"


def test_conditions_and_ranges_are_about_the_copy(served):
    path = "/static/large.js"
    copy, plain = warm(served, path), ask(served, path, None)
    tag = copy.header("ETag")
    unchanged = ask(served, path, If_None_Match=tag)
    assert (unchanged.status, unchanged.header("ETag"), unchanged.header("Vary")) == (304, tag, "Accept-Encoding")
    assert ask(served, path, If_None_Match=plain.header("ETag")).status == 200
    assert ask(served, path, None, If_None_Match=tag).status == 200
    part = ask(served, path, Range="bytes=10-19")
    assert (part.status, part.body, part.header("Content-Encoding")) == (206, copy.body[10:20], "zstd")
    assert part.header("Content-Range") == f"bytes 10-19/{len(copy.body)}"
    rest = ask(served, path, Range="bytes=10-", If_Range=tag)
    assert (rest.status, rest.body) == (206, copy.body[10:])
    assert ask(served, path, Range="bytes=10-", If_Range=plain.header("ETag")).body == copy.body
    assert ask(served, path, If_Match=plain.header("ETag")).status == 412


def test_a_changed_file_is_coded_anew(served):
    file = aged(served.folder / "files" / "changing.css", PAGE)
    first = warm(served, "/static/changing.css")
    time_of = file.stat().st_mtime + 10
    file.write_bytes(PAGE[::-1])
    os.utime(file, (time_of, time_of))

    def other():
        answer = ask(served, "/static/changing.css")
        assert decoded(answer) in (PAGE, PAGE[::-1])
        return answer if answer.header("Content-Encoding") and decoded(answer) == PAGE[::-1] else None

    assert eventually(other, 20).header("ETag") != first.header("ETag")


def test_files_that_are_left_as_they_are(served):
    for name in ["tiny.css", "image.png"]:
        for _ in range(3):
            answer = ask(served, f"/static/{name}")
            assert (answer.header("Content-Encoding"), answer.header("Vary")) == (None, None), name
    warm(served, "/static/small.css")
    noise = [ask(served, "/static/noise.txt") for _ in range(20)]
    assert {answer.header("Content-Encoding") for answer in noise} == {None}


def test_what_lies_beside_a_file_goes_before_our_copies(served):
    answer = ask(served, "/static/both.css", "gzip;q=0.1, zstd")
    assert decoded(answer) == PAGE + b"by hand"
    assert decoded(warm(served, "/static/both.css", "zstd")) == PAGE, "who does not take it gets ours"


def test_a_stream_is_coded_too(served):
    with Http2(served.tls, served.certificate) as client:
        warm(served, "/static/large.js", "gzip")
        more = [("accept-encoding", "gzip")]
        streams = {path: client.ask(path, more=more) for path in ["/", "/large", "/static/large.js"]}
        for path, number in streams.items():
            stream = client.answer(number)
            head = dict(stream.heads[-1])
            assert (head["content-encoding"], head["vary"]) == ("gzip", "Accept-Encoding")
            expected = {"/": PAGE, "/large": PAGE * 100}.get(path, PAGE * 40)
            assert gzip.decompress(stream.body) == expected


def test_run_leaves_all_as_it_is(host, tmp_path):
    aged(tmp_path / "a.css", PAGE)
    running = host("app:app", "--static", f"/static={tmp_path}", source=WSGI)
    for path in ["/", "/static/a.css", "/static/a.css"]:
        answer = ask(running, path)
        assert (answer.header("Content-Encoding"), answer.header("Vary")) == (None, None)
