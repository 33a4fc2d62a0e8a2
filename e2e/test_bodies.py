"""Request and response bodies: sizes, limits, spooling, streaming, and clients that go away."""

import hashlib
import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from harness import eventually

MIB = 1 << 20


@pytest.fixture(scope="module")
def probe(module_host):
    return module_host("probe:app", "-w", "2", "--threads", "2")


@pytest.mark.smoke
@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 65535, 65536, 65537, 262_144, 3 * MIB, 20 * MIB])
def test_body_of_any_size_comes_back(probe, size):
    body = os.urandom(size)
    answer = probe.request("POST", "/echo", body=body, timeout=60)
    assert answer.status == 200 and answer.body == body and answer.complete


@pytest.mark.parametrize("size", [1, 65536, 3 * MIB])
def test_chunked_body_of_any_size_arrives_whole(probe, size):
    body = os.urandom(size)
    with probe.raw(30) as raw:
        raw.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, size, 50_000):
            piece = body[at : at + 50_000]
            raw.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        assert raw.send(b"0\r\n\r\n").answer().body == body


def test_chunked_body_has_a_content_length_for_the_app(host):
    source = """
def app(environ, start_response):
    body = environ["wsgi.input"].read().decode() + "/" + environ.get("CONTENT_LENGTH", "none")
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body.encode()]
"""
    with host(source=source).raw() as raw:
        raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        assert raw.answer().body == b"hello/5"


@pytest.mark.parametrize("size", [1, 100_000, 5 * MIB, 50 * MIB])
def test_large_answer_arrives_whole(probe, size):
    answer = probe.get(f"/large/{size}", timeout=60)
    assert answer.status == 200 and len(answer.body) == size and answer.complete


def test_limit_request_body_is_413_and_the_app_is_not_called(host):
    running = host("probe:app", "--limit-request-body", "1000")
    assert running.request("POST", "/length", body=b"x" * 1000).body == b"1000"
    refused = running.request("POST", "/length", body=b"x" * 1001)
    assert refused.status == 413
    with running.raw() as raw:
        raw.send(b"POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"64\r\n" + b"x" * 100 + b"\r\n") * 11)
        assert raw.answer().status == 413
        assert raw.closed_within(20)
    assert running.get("/calls").body == b"1"


def test_slow_upload_holds_no_worker(host):
    running = host("probe:app")  # one worker, one thread
    with running.raw() as slow:
        slow.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)
        for _ in range(20):
            assert running.get("/").body == b"hello"
        assert slow.send(b"y" * 500).answer().body == b"x" * 500 + b"y" * 500


def test_slow_download_holds_no_worker(host):
    running = host("probe:app")
    with running.raw() as slow:
        slow.send(b"GET /large/3000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert slow.socket.recv(1000)
        for _ in range(20):
            assert running.get("/").body == b"hello"


def test_upload_that_ends_early_never_reaches_the_app(host):
    running = host("probe:app")
    with running.raw() as raw:
        raw.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)
    with running.raw() as raw:
        raw.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").finish()
        assert not raw.rest().startswith(b"HTTP/1.1 200")
    assert running.get("/calls").body == b"0"


def test_spool_files_are_never_seen_in_the_file_system(host, tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    running = host("probe:app", env={"TMPDIR": str(spool)})
    seen = set()
    with running.raw(30) as raw:
        raw.send(b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 2_500_000)
        seen |= set(os.listdir(spool))
        assert raw.send(b"x" * 2_500_000).answer().body == b"5000000"
    assert seen | set(os.listdir(spool)) == set()


def test_body_that_finds_no_descriptor_costs_no_worker(host, tmp_path):
    """The file of a body is opened once more for its worker."""
    running = host("probe:app", env={"TMPDIR": str(tmp_path)})
    server, worker = running.server(), running.workers()

    def spooled():
        with suppress(FileNotFoundError):
            return any(os.readlink(entry).startswith(str(tmp_path)) for entry in Path(f"/proc/{server.pid}/fd").iterdir())

    with running.raw() as raw:
        raw.send(b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 900_000)
        eventually(spooled, what="the body is in a file")
        limits = server.rlimit(psutil.RLIMIT_NOFILE)
        server.rlimit(psutil.RLIMIT_NOFILE, (3, limits[1]))
        answer = raw.send(b"x" * 100_000).answer()
        server.rlimit(psutil.RLIMIT_NOFILE, limits)
    assert answer.status == 503 and b"overloaded" in answer.body
    running.log.wait("raise the descriptor limit")
    assert not running.log.matches("the worker was lost")
    assert running.request("POST", "/length", body=b"x" * 1_000_000).body == b"1000000"
    assert running.workers() == worker


def test_spooled_body_is_a_real_file_for_the_app(host):
    source = """
def app(environ, start_response):
    body = environ["wsgi.input"]
    first = body.read(10)
    rest = body.read()
    text = "%d %d" % (len(first), len(rest))
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text.encode()]
"""
    assert host(source=source).request("POST", "/", body=b"x" * 5_000_000).body == b"10 4999990"


def test_stream_reaches_the_client_as_it_is_made(host, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    source = f"""
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    yield b"data: one\\n\\n"
    open({str(gate)!r}).read()
    yield b"data: two\\n\\n"
"""
    running = host(source=source)
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        seen = b""
        while b"data: one" not in seen:
            seen += raw.socket.recv(4096)
        assert b"data: two" not in seen
        gate.open("w").close()
        while b"data: two" not in seen:
            seen += raw.socket.recv(4096)


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream"])
def test_generator_is_not_held_back(host, tmp_path, kind):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    source = f"""
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "{kind}"), ("X-Accel-Buffering", "no")])
    yield b"one"
    open({str(gate)!r}).read()
    yield b"two"
"""
    with host(source=source).raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        seen = b""
        while b"one" not in seen:
            seen += raw.socket.recv(4096)
        gate.open("w").close()
        while b"two" not in seen:
            seen += raw.socket.recv(4096)
        assert b"x-accel" not in seen.lower(), "the header is for us"


def test_client_that_goes_away_ends_the_generator(host, tmp_path):
    closed = tmp_path / "closed"
    source = f"""
class Endless:
    def __iter__(self):
        return self
    def __next__(self):
        return b"x" * 65536
    def close(self):
        open({str(closed)!r}, "w").close()

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Endless()
"""
    running = host(source=source)
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").socket.recv(1000)
    eventually(closed.exists, 15, "close() of the iterable is called")


def test_no_request_buffering_gives_the_body_as_it_comes(host, tmp_path):
    seen = tmp_path / "seen"
    source = f"""
def app(environ, start_response):
    body = environ["wsgi.input"]
    open({str(seen)!r}, "wb").write(body.read(5))
    rest = body.read()
    start_response("200 OK", [("Content-Length", str(len(rest)))])
    return [rest]
"""
    running = host("app:app", "--no-request-buffering", source=source)
    with running.raw() as raw:
        raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        eventually(lambda: seen.exists() and seen.read_bytes() == b"hello", what="the app reads before the body is complete")
        assert raw.send(b"world").answer().body == b"world"


def test_uploads_at_once_are_kept_apart(probe):
    bodies = [os.urandom(400_000) for _ in range(12)]
    answers = [None] * len(bodies)

    def send(n):
        answers[n] = probe.request("POST", "/echo", body=bodies[n], timeout=60).body

    threads = [threading.Thread(target=send, args=(n,)) for n in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == bodies


# Sending files that the app names


def test_x_sendfile_and_x_accel_redirect(host, tmp_path):
    files = tmp_path / "private"
    files.mkdir()
    (files / "report.txt").write_bytes(b"secret report")
    (tmp_path / "outside.txt").write_bytes(b"outside")
    source = f"""
def app(environ, start_response):
    name = environ["QUERY_STRING"]
    header = {{"/accel": ("X-Accel-Redirect", "/private/" + name), "/send": ("X-Sendfile", {str(files)!r} + "/" + name)}}
    start_response("200 OK", [header[environ["PATH_INFO"]], ("Content-Type", "text/x-report"), ("X-Kept", "yes")])
    return [b"not this"]
"""
    running = host("app:app", "--static", f"/private={files}", source=source)
    for path in ("/accel", "/send"):
        answer = running.get(f"{path}?report.txt")
        assert answer.status == 200 and answer.body == b"secret report", path
        assert answer.header("Content-Type") == "text/x-report" and answer.header("X-Kept") == "yes"
        assert not answer.all("X-Sendfile") and not answer.all("X-Accel-Redirect")
        assert running.get(f"{path}?report.txt", {"Range": "bytes=0-5"}).body in (b"secret", b"secret report")
        assert running.get(f"{path}?nothing").status in (404, 500, 502)
        assert b"outside" not in running.get(f"{path}?../outside.txt").body


@pytest.mark.parametrize("size", [10, 100_000, 5 * MIB])
def test_file_wrapper_sends_the_file(host, tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    source = f"""
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", "{size}")])
    return environ["wsgi.file_wrapper"](open({str(tmp_path / "file")!r}, "rb"), 8192)
"""
    answer = host(source=source).get("/", timeout=60)
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(content).digest() and answer.complete


def test_file_wrapper_starts_where_the_file_stands_and_obeys_the_length(host, tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    source = f"""
def app(environ, start_response):
    file = open({str(tmp_path / "file")!r}, "rb")
    file.seek(2)
    start_response("200 OK", [("Content-Length", "5")])
    return environ["wsgi.file_wrapper"](file)
"""
    running = host(source=source)
    with running.raw() as raw:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"23456"
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"23456"


def test_file_wrapper_takes_what_is_no_file(host):
    source = """
import io, os
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/pipe":
        out, into = os.pipe()
        os.write(into, b"from a pipe")
        os.close(into)
        return environ["wsgi.file_wrapper"](os.fdopen(out, "rb"))
    return environ["wsgi.file_wrapper"](io.BytesIO(b"from memory"), 4)
"""
    running = host(source=source)
    assert running.get("/").body == b"from memory"
    assert running.get("/pipe").body == b"from a pipe"


def test_file_that_shrinks_while_it_is_sent_hurts_only_itself(host, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * 1000)
    source = f"""
import os
def app(environ, start_response):
    if environ["PATH_INFO"] == "/good":
        start_response("200 OK", [("Content-Length", "4")])
        return [b"good"]
    start_response("200 OK", [("Content-Length", "1000")])
    file = open({str(file)!r}, "rb")
    os.truncate({str(file)!r}, 100)
    return environ["wsgi.file_wrapper"](file)
"""
    running = host(source=source)
    try:
        answer = running.get("/")
        assert answer.status != 200 or not answer.complete
    except EOFError:
        pass
    assert running.get("/good").body == b"good"


# What the other side is owed when an exchange ends early


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_streamed_body_that_the_app_does_not_read_leaves_its_slot_usable(host, kind):
    running = host("probe:app", "--no-request-buffering")
    pid = running.get("/pid").body
    for _ in range(3):
        with running.raw(20) as raw:
            if kind == "length":
                raw.send(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 1_500_000)
            else:
                raw.send(b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n" + b"x" * 65535 + b"\r\n")
            assert raw.answer().body == b"I never read it"
        assert running.get("/pid", timeout=20).body == pid, "the only slot serves on, in the same worker"


def test_stalled_streamed_upload_is_the_clients_fault(host):
    running = host("probe:app", "--no-request-buffering", "--timeout", "2", "--body-timeout", "4")
    pid = running.get("/pid").body
    with running.raw(20) as raw:
        raw.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello")
        answer = raw.answer()
        assert answer.status == 408 and "reason: body_too_slow" in answer.text
    assert running.get("/pid").body == pid, "no worker was replaced for it"
    assert not running.log.matches("timeout")


def test_slow_reader_of_a_file_holds_no_worker(host, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(os.urandom(30 * MIB))
    source = f"""
def app(environ, start_response):
    if environ["PATH_INFO"] == "/":
        start_response("200 OK", [])
        return [b"hello"]
    start_response("200 OK", [])
    file = open({str(file)!r}, "rb")
    return environ["wsgi.file_wrapper"](file)
"""
    running = host(source=source)
    with running.raw(60) as slow:
        slow.send(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n")
        assert slow.socket.recv(1000)
        for _ in range(5):
            assert running.get("/", timeout=20).body == b"hello"
    with running.raw(60) as whole:
        assert whole.send(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == file.read_bytes()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("size", [10, 20 * MIB])
def test_file_of_an_app_is_closed(host, tmp_path, size, method):
    (tmp_path / "file").write_bytes(b"x" * size)
    source = f"""
import io
opened = []

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/closed":
        return [repr([file.closed for file in opened]).encode()]
    file = open({str(tmp_path / "file")!r}, "rb")
    opened.append(file)
    return environ["wsgi.file_wrapper"](file)
"""
    running = host(source=source)
    assert running.request(method, "/", timeout=60).complete
    assert running.get("/closed").body == b"[True]"


def test_generator_whose_client_left_is_no_error(host, tmp_path):
    closed = tmp_path / "closed"
    source = f"""
def app(environ, start_response):
    start_response("200 OK", [])
    try:
        while True:
            yield b"x" * 65536
    finally:
        open({str(closed)!r}, "w").close()
"""
    running = host(source=source)
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").socket.recv(1000)
    eventually(closed.exists, 20, "the generator is closed")
    assert running.stop() == 0
    assert not running.log.matches(r"Traceback|\[ERROR\]|disconnected"), running.log


def test_asgi_app_whose_client_left_is_told_and_not_cancelled(host, tmp_path):
    told = tmp_path / "told"
    source = f"""
import asyncio
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await receive()
    try:
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": b"first", "more_body": True}})
        message = await receive()
        await asyncio.sleep(0.2)
        open({str(told)!r}, "w").write(message["type"])
    except asyncio.CancelledError:
        open({str(told)!r}, "w").write("cancelled")
"""
    running = host(source=source)
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").socket.recv(1000)
    eventually(lambda: told.exists() and told.read_text(), 10, "the app is told")
    assert told.read_text() == "http.disconnect"


def test_asgi_app_that_sends_to_a_client_that_resets_is_told_and_not_cancelled(host, tmp_path):
    told = tmp_path / "told"
    source = f"""
import asyncio
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    try:
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        while True:
            await send({{"type": "http.response.body", "body": b"x" * 65536, "more_body": True}})
    except OSError as error:
        await asyncio.sleep(0.2)
        open({str(told)!r}, "w").write("OSError")
    except asyncio.CancelledError:
        open({str(told)!r}, "w").write("cancelled")
"""
    running = host(source=source)
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").socket.recv(1000)
    eventually(lambda: told.exists() and told.read_text(), 10, "the app is told")
    assert told.read_text() == "OSError"


def test_field_may_be_as_long_as_its_limit_beside_others(host):
    running = host("probe:app", "--limit-request-field_size", "40000")
    long = {"X-Long": "a" * 39_000, "Cookie": "b" * 8000}
    assert running.get("/", long).status == 200
    assert running.get("/", {"X-Long": "a" * 41_000}).status == 431


def test_accelerated_files_answer_ranges_and_head(host, tmp_path):
    files = tmp_path / "private"
    files.mkdir()
    content = os.urandom(3 * MIB)
    (files / "large").write_bytes(content)
    source = """
def app(environ, start_response):
    start_response("200 OK", [("X-Accel-Redirect", "/private/large"), ("Content-Type", "video/odd"), ("Content-Length", "7")])
    return [b"not thi"]
"""
    running = host("app:app", "--static", f"/private={files}", source=source)
    whole = running.get("/", timeout=60)
    assert whole.body == content and whole.header("Content-Type") == "video/odd"
    head = running.request("HEAD", "/")
    assert head.header("Content-Length") == str(len(content))
    part = running.get("/", {"Range": "bytes=100-199"})
    assert part.status == 206 and part.body == content[100:200]
    assert running.get("/", {"If-None-Match": whole.header("ETag")}).status == 304
