"""HTTP/2: the same answers as over HTTP/1.1, clients that leave, stops, and who breaks the rules."""

import hashlib
import os
import ssl
import subprocess
from types import SimpleNamespace

import httpx
import pytest

from http2 import PROTOCOL_ERROR, Http2


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
    with connect(served) as client:
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
    "space in path": ([(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/evil HTTP/1.1")], None),
    "line in path": ([(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/evil\r\nx: y")], None),
    "space in method": ([(":method", "GET /evil"), (":scheme", "https"), (":authority", "a"), (":path", "/evil")], None),
    "space in host": ([(":method", "GET"), (":scheme", "https"), (":authority", "a b"), (":path", "/evil")], None),
}

BAD_FIELDS = {
    "another host": ("host", "b", 400),
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
    "http2-settings": ("http2-settings", "x", 400),
    "line in value": ("x", "a\r\nb: c", None),
    "LF in value": ("x", "a\nb: c", None),
    "NUL in value": ("x", "a\0b", None),
    "space before value": ("x", " a", 400),
    "space behind value": ("x", "a ", 400),
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
