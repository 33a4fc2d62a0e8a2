"""Other HTTP servers behind `ostler serve`: what goes on to them, what comes back, and what happens when they fail."""

import hashlib
import base64
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading

import pytest

import conftest
import corpus
import harness
from harness import Raw, eventually

CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
state = "state"
trusted_proxies = []

[projects.shop]
hosts = ["*"]
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Request:
    """What an upstream was sent: read strictly, one request at a time."""

    def __init__(self, line, fields, body):
        self.line, self.fields, self.body = line, fields, body

    def all(self, name):
        return [value for key, value in self.fields if key == name]

    def get(self, name):
        values = self.all(name)
        assert len(values) <= 1, f"{name} came twice: {values}"
        return values[0] if values else None

    @property
    def path(self):
        return self.line.split(" ")[1]


class Upstream:
    """A server of raw bytes: `answer(request, connection)` gives the bytes of an answer, or None to close."""

    def __init__(self, answer=lambda request, connection: OK, path=None, context=None):
        self.answer, self.context = answer, context
        self.requests, self.connections, self.problems = [], 0, []
        self.changed = threading.Condition()
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        if path:
            self.listener.bind(str(path))
        else:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(("127.0.0.1", 0))
        self.port = None if path else self.listener.getsockname()[1]
        self.url = f"unix:{path}" if path else f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self.open = set()
        self.start()

    def start(self):
        self.listener.listen(100)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        """Refuses connections, and ends those there are."""
        # Closing alone does not wake the thread that accepts.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.close_all()

    def close_all(self):
        for one in list(self.open):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def again(self):
        """Listens again where it did."""
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.start()

    def wait(self, count, seconds=10):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.requests) >= count, seconds), f"{len(self.requests)} came"
        return self.requests[count - 1]

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            with self.changed:
                self.connections += 1
                self.open.add(connection)
            file = connection.makefile("rb")
            while request := self._read(file):
                with self.changed:
                    self.requests.append(request)
                    self.changed.notify_all()
                answer = self.answer(request, connection)
                if answer is None:
                    return
                connection.sendall(answer)
        except OSError:
            pass
        except Exception as error:  # noqa: BLE001 - said in the test
            self.problems.append(error)
        finally:
            self.open.discard(connection)
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()

    def _read(self, file):
        line = file.readline()
        if not line:
            return None
        assert line.endswith(b"\r\n"), line
        method, target, version = line[:-2].decode("latin-1").split(" ")
        assert version == "HTTP/1.1" and method, line
        assert target == "*" or target.startswith("/"), line
        fields = []
        while (field := file.readline()) != b"\r\n":
            assert field.endswith(b"\r\n") and field.count(b"\r") == 1, field
            name, value = field[:-2].decode("latin-1").split(": ", 1)
            assert name == name.lower() and " " not in name and "_" not in name, field
            fields.append((name, value))
        request = Request(line[:-2].decode("latin-1"), fields, b"")
        length, coding = request.get("content-length"), request.get("transfer-encoding")
        assert not (length and coding), fields
        assert len(request.all("host")) == 1, fields
        if coding:
            assert coding == "chunked"
            while size := int(file.readline(), 16):
                request.body += file.read(size)
                assert file.read(2) == b"\r\n"
            assert file.readline() == b"\r\n"
        elif length:
            request.body = file.read(int(length))
            assert len(request.body) == int(length)
        return request


class Proxy:
    """`ostler serve` before some upstreams."""

    def __init__(self, host, folder, upstreams, more="", config=CONFIG, listen=None):
        self.port = harness.free_port()
        self.file = folder / "ostler.toml"
        self.config = config
        self.write(upstreams, more)
        self.host = host.serve(port=self.port, ready="shop: .*ready")

    def write(self, upstreams, more=""):
        urls = json.dumps([upstream if isinstance(upstream, str) else upstream.url for upstream in upstreams])
        text = self.config.replace("{port}", str(self.port)) + f"upstreams = {urls}\n{more}\n"
        self.file.write_text(text.replace("{python}", sys.executable))

    def reload(self, upstreams, more=""):
        done = "reload complete: the configuration"
        before = len(self.host.log.matches(done))
        self.write(upstreams, more)
        self.host.kill(signal.SIGHUP)
        self.host.log.wait(done, count=before + 1)


@pytest.fixture
def proxy(host, tmp_path):
    def start(*upstreams, more="", **options):
        return Proxy(host, tmp_path, upstreams, more, **options).host

    return start


@pytest.fixture
def upstream():
    made = []

    def make(*args, **options):
        made.append(Upstream(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close_all()
    assert [problem for one in made for problem in one.problems] == []


def code(answer):
    """Of an answer in ostler's own words."""
    return answer.status, next(line for line in answer.text.splitlines() if line.startswith("reason: "))[8:]


# What goes on, and what comes back


def test_a_request_goes_on_and_its_answer_comes_back(proxy, upstream):
    one = upstream(lambda request, _: b"HTTP/1.1 201 Made\r\nX-A: 1\r\nX-A: 2\r\nConnection: x-b\r\nContent-Length: 2\r\n\r\nok")
    host = proxy(one)
    answer = host.request("POST", "/a%20b/c%2Fd?x=1&y=%20", {
        "X-Forwarded-For": "6.6.6.6", "X-Ostler-User": "root", "X-Real-IP": "6.6.6.6", "Connection": "keep-alive, x-c",
        "X-C": "gone", "TE": "trailers", "X-Kept": "yes", "Host": "shop.test",
    }, b"body")
    assert (answer.status, answer.reason, answer.body) == (201, "Made", b"ok")
    assert answer.all("X-A") == ["1", "2"]
    request = one.wait(1)
    assert request.line == "POST /a%20b/c%2Fd?x=1&y=%20 HTTP/1.1" and request.body == b"body"
    fields = dict(request.fields)
    assert fields.pop("x-request-id")
    assert fields == {
        "host": "shop.test", "x-kept": "yes", "content-length": "4", "x-forwarded-for": "127.0.0.1",
        "x-real-ip": "127.0.0.1", "x-forwarded-proto": "http", "x-forwarded-host": "shop.test",
    }


def test_connections_are_used_again(proxy, upstream):
    one = upstream()
    host = proxy(one)
    with host.raw() as raw:
        for _ in range(20):
            assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"ok"
    for _ in range(5):
        assert host.get().body == b"ok"
    assert (one.connections, len(one.requests)) == (1, 25)


@pytest.fixture
def pair(tmp_path):
    """A certificate for 127.0.0.1 that is no authority, and its key."""
    cert, key = tmp_path / "own.pem", tmp_path / "own-key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=own", "-addext", "subjectAltName=DNS:app.internal,IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    return cert, key


def test_upstreams_on_unix_sockets_and_over_tls(proxy, upstream, tmp_path, pair):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*pair)
    tls = pair
    unix, secure = upstream(path=tmp_path / "app.sock"), upstream(context=context)
    host = proxy(unix, secure, more=f'proxy = {{ ca = "{tls[0]}" }}')
    for _ in range(6):
        assert host.get().body == b"ok"
    assert (len(unix.requests), len(secure.requests)) == (3, 3)
    assert (unix.connections, secure.connections) == (1, 1)


def test_a_certificate_that_is_not_trusted_is_no_upstream(proxy, upstream, tls):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*tls)
    secure = upstream(context=context)
    host = proxy(secure)
    assert code(host.get()) == (502, "upstream_down")
    host.log.wait("cannot be reached: TLS: .*certificate")
    assert secure.requests == []


def test_a_body_is_here_before_an_upstream_is_asked_and_goes_on_whole(proxy, upstream):
    one = upstream(lambda request, _: b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + hashlib.sha256(request.body).hexdigest().encode())
    host = proxy(one)
    for size in (1, 70_000, 3_000_000):
        body = os.urandom(size)
        with host.raw() as raw:
            raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % size + body[: size // 2])
            before = len(one.requests)
            raw.send(body[size // 2 :] + b"\r\n0\r\n\r\n")
            answer = raw.answer()
        assert answer.body.decode() == hashlib.sha256(body).hexdigest(), answer
        request = one.wait(before + 1)
        assert request.get("content-length") == str(size) and not request.all("transfer-encoding")


def test_a_body_goes_on_while_it_comes_in_where_that_is_wanted(proxy, upstream):
    arrived = threading.Event()
    one = upstream()
    read = one._read

    class Watch:
        """The file of a connection, which tells when the first chunk is there."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def read(self, size):
            data = self.file.read(size)
            arrived.set()
            return data

    one._read = lambda file: read(Watch(file))
    host = proxy(one, more="proxy = { request_buffering = false }")
    with host.raw() as raw:
        raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert arrived.wait(10), "the first chunk is there before the last"
        raw.send(b"2\r\nde\r\n0\r\n\r\n")
        assert raw.answer().body == b"ok"
    assert one.wait(1).body == b"abcde"
    with host.raw() as raw:
        raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc").send(b"de")
        assert raw.answer().body == b"ok"
    assert (one.wait(2).body, one.requests[1].get("content-length")) == (b"abcde", "5")


BODIES = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Trailer: 1\r\n\r\n", b"hello"),
    "none": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
}


@pytest.mark.parametrize("name", BODIES)
def test_each_framing_is_read_and_the_connection_goes_on(proxy, upstream, name):
    said, body = BODIES[name]
    one = upstream(lambda request, _: said)
    host = proxy(one)
    with host.raw() as raw:
        for _ in range(3):
            answer = raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer()
            assert answer.body == body and answer.complete
            assert answer.header("X-Trailer") is None
    assert (one.connections, len(one.requests)) == (1, 3)


def test_a_body_until_the_end_of_the_connection_and_head(proxy, upstream):
    def answer(request, connection):
        if request.line.startswith("HEAD"):
            return b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhel")
        connection.sendall(b"lo")
        return None

    one = upstream(answer)
    host = proxy(one)
    with host.raw() as raw:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"hello"
        answer = raw.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").answer(head_only=True)
        assert (answer.status, answer.header("Content-Length")) == (200, "100")
        assert raw.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").answer(head_only=True).status == 200
    assert one.connections == 2


def test_early_hints_go_on(proxy, upstream):
    one = upstream(lambda request, _: b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK)
    host = proxy(one)
    with host.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        hint = raw.any_answer()
        assert (hint.status, hint.header("Link")) == (103, "</a.css>")
        assert raw.any_answer().status == 200


# Hostile ones

WRONG = {
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "bare LF within": b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\nContent-Length: 2\r\n\r\nok",
    "coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "fold": b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
    "switch": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000,
    "endless hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100,
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300 + b"\r\n",
}


@pytest.mark.parametrize("name", WRONG)
def test_an_answer_that_is_none_is_a_502(proxy, upstream, name):
    one = upstream(lambda request, _: WRONG[name])
    host = proxy(one)
    assert code(host.get()) == (502, "upstream_answer")
    host.log.wait("upstream http://127.0.0.1:.* failed: ")
    assert len(one.requests) == 1, "what was answered is not asked again"


def test_an_answer_that_breaks_off_is_not_whole_for_the_client(proxy, upstream):
    def answer(request, connection):
        said = {"/length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", "/size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                "/chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab"}[request.path]
        connection.sendall(said)
        return None

    host = proxy(upstream(answer))
    for path in ("/length", "/chunk", "/size"):
        assert not host.get(path).complete, path


def test_what_comes_behind_an_answer_is_for_nobody(proxy, upstream):
    one = upstream(lambda request, _: OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    host = proxy(one)
    with host.raw() as raw:
        for _ in range(5):
            assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"ok"
    assert one.connections == 5


def test_files_of_ours_are_not_for_upstreams_to_name(proxy, upstream):
    said = b"HTTP/1.1 200 OK\r\nX-Accel-Redirect: /etc/passwd\r\nX-Sendfile: /etc/passwd\r\nContent-Length: 2\r\n\r\nok"
    answer = proxy(upstream(lambda request, _: said)).get()
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.header("X-Accel-Redirect") is None and answer.header("X-Sendfile") is None


CASES = [case for case in corpus.read("http1.txt")]


def test_what_reaches_an_upstream_is_always_one_request(proxy, upstream):
    """The strict reader above refuses what could be read in two ways, and ends the test."""
    one = upstream()
    host = proxy(one)
    accepted = 0
    for case in CASES:
        before = len(one.requests)
        with host.raw(5) as raw:
            raw.send(case.message).finish()
            answers = 0
            try:
                while raw.answer().status:
                    answers += 1
            except (EOFError, ValueError):
                pass
        came = len(one.requests) - before
        if case.code:
            assert came == 0, case
        else:
            assert came <= max(answers, 1), (case, one.requests[before:])
            accepted += came
    assert accepted > 50
    assert one.problems == []
