"""Other HTTP servers behind `ostler serve`: what goes on to them, what comes back, and what happens when they fail."""

import re
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
import time

import pytest

import corpus
import harness
from harness import Raw, eventually
from http2 import Http2

CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
state = "state"
trusted_proxies = []
# Each thread keeps connections of its own.
edge_threads = 1

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

    def __init__(self, answer=lambda request, connection: OK, path=None, context=None, at=("127.0.0.1", 0)):
        self.answer, self.context = answer, context
        self.requests, self.connections, self.problems = [], 0, []
        self.changed = threading.Condition()
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        if path:
            self.listener.bind(str(path))
        else:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(at)
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

    def __init__(self, host, folder, upstreams, more="", config=CONFIG, **options):
        self.port = harness.free_port()
        self.file = folder / "ostler.toml"
        self.config = config
        self.write(upstreams, more)
        self.host = host.serve(port=self.port, ready="shop: .*ready", **options)

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
    assert fields.pop("x-request-id") and re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", fields.pop("traceparent"))
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


def test_a_reload_takes_authorities_that_alone_have_changed(proxy, upstream, tmp_path, tls, pair):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*pair)
    secure, ca = upstream(context=context), tmp_path / "ca.pem"
    shutil.copy(tls[0], ca)
    host = proxy(secure, more=f'proxy = {{ ca = "{ca}", max_fails = 0 }}')
    assert code(host.get()) == (502, "upstream_down")
    shutil.copy(pair[0], ca)
    host.kill(signal.SIGHUP)
    host.log.wait("reload complete")
    assert host.get().body == b"ok"


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
        with host.raw(30) as raw:
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


# Which one, and again


def named(name):
    """An upstream that says its name."""
    body = name.encode()
    return lambda request, connection: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_requests_are_shared_by_weight(proxy, upstream):
    one, two = upstream(named("one")), upstream(named("two"))
    config = CONFIG + f'[[projects.shop.upstreams]]\naddress = "{one.url}"\n[[projects.shop.upstreams]]\naddress = "{two.url}"\nweight = 3\n'
    gate = threading.Event()

    def held(request, connection):
        gate.wait(10)
        return OK

    one.answer = two.answer = held
    host = proxy(config=config + "# ")
    open_ones = [host.raw() for _ in range(12)]
    for count, raw in enumerate(open_ones, 1):
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: len(one.requests) + len(two.requests) == count, 5)
    gate.set()
    assert [raw.answer().status for raw in open_ones] == [200] * 12
    assert (len(one.requests), len(two.requests)) == (3, 9)
    [raw.socket.close() for raw in open_ones]


def test_who_cannot_be_reached_is_passed_over_for_any_method(proxy, upstream):
    gone, here = upstream(named("gone")), upstream(named("here"))
    gone.stop()
    host = proxy(gone, here)
    for _ in range(8):
        answer = host.request("POST", "/", body=b"x")
        assert (answer.status, answer.body) == (200, b"here")
    assert len(here.requests) == 8
    host.log.wait(f"upstream {gone.url} is out: cannot be reached: ")
    assert len(host.log.matches(r"\[ERROR\] .*cannot be reached: Connection refused")) == 3, "then it is out"


def test_a_post_that_may_have_been_read_is_not_sent_again_but_a_get_is(proxy, upstream):
    closing, here = upstream(lambda request, _: None), upstream(named("here"))
    host = proxy(closing, here, more="proxy = { max_fails = 0 }")
    answers = [host.request("POST", "/", body=b"x").status for _ in range(4)]
    assert sorted(answers) == [200, 200, 502, 502]
    assert [host.get().status for _ in range(4)] == [200] * 4
    assert len(closing.requests) + len(here.requests) == 10, "each POST once, two of the GETs twice"


def test_no_more_than_a_tenth_is_sent_again(proxy, upstream):
    one = upstream(lambda request, _: None)
    host = proxy(one, more="proxy = { max_fails = 0 }")
    assert {host.get().status for _ in range(60)} == {502}
    # Ten in any case, and six of sixty.
    assert len(one.requests) <= 60 + 16


def test_an_idle_connection_that_was_closed_is_noticed(proxy, upstream):
    one = upstream()
    host = proxy(one)
    for method in ("GET", "POST"):
        for _ in range(5):
            assert host.request(method).status == 200
            one.close_all()
            eventually(lambda: not one.open, 5)
    assert len(one.requests) == 10 and host.log.matches("failed") == []


def test_a_connection_that_closes_as_it_is_used_again_costs_a_get_nothing(proxy, upstream):
    seen = {}

    def answer(request, connection):
        # The second request of each connection is read and not answered.
        seen[connection] = seen.get(connection, 0) + 1
        return OK if seen[connection] == 1 else None

    one = upstream(answer)
    host = proxy(one, more="proxy = { retries = 0 }")
    assert [host.get().status for _ in range(6)] == [200] * 6
    assert [host.request("POST", body=b"x").status for _ in range(2)] == [502, 200]


def test_a_client_stays_with_its_upstream_by_a_cookie(proxy, upstream):
    one, two = upstream(named("one")), upstream(named("two"))
    host = proxy(one, two, more="proxy = { sticky = true }")
    first = host.get()
    cookie = first.header("Set-Cookie")
    assert cookie.startswith("ostler_upstream=") and cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
    value = cookie.split(";")[0]
    assert "127" not in value and str(one.port) not in value
    for _ in range(6):
        answer = host.get("/", {"Cookie": f"a=b; {value}"})
        assert answer.body == first.body and answer.header("Set-Cookie") is None
    (one if first.body == b"one" else two).stop()
    answer = host.get("/", {"Cookie": value})
    assert answer.status == 200 and answer.body != first.body
    assert answer.header("Set-Cookie").split(";")[0] != value, "a lost one is another choice"
    assert len(answer.all("Set-Cookie")) == 1
    assert {host.get("/", {"Cookie": "ostler_upstream=forged"}).status for _ in range(3)} == {200}


def servers(host):
    return [p for p in host._children(host.process.pid) if "__server" in harness.command_line(p)]


def test_clients_stay_with_their_upstream_when_another_server_takes_over(host, upstream, tmp_path):
    running = Proxy(host, tmp_path, [upstream(named("one")), upstream(named("two"))], more="proxy = { sticky = true }").host
    answers = {}
    while len(answers) < 2:
        first = running.get()
        answers[first.body] = first.header("Set-Cookie").split(";")[0]

    def stay():
        for body, cookie in answers.items():
            for _ in range(3):
                answer = running.get("/", {"Cookie": cookie})
                assert (answer.body, answer.header("Set-Cookie")) == (body, None)

    for _ in range(2):
        done = subprocess.run([harness.OSTLER, "upgrade"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        stay()
    eventually(lambda: len(servers(running)) == 1, 20)
    running.server().kill()
    running.log.wait("the server ended unexpectedly")
    stay()


def test_the_cookie_of_a_client_with_tls_is_for_tls_alone(host, upstream, tmp_path, tls):
    one, two = upstream(), upstream()
    port = harness.free_port()
    config = CONFIG.replace("listen =", f'listen_tls = ["127.0.0.1:{port}"]\ncertfile = "{tls[0]}"\nkeyfile = "{tls[1]}"\nlisten =')
    Proxy(host, tmp_path, [one, two], more="proxy = { sticky = true }", config=config)
    for speaks in ("--http1.1", "--http2"):
        done = subprocess.run(
            ["curl", "-sS", speaks, "--cacert", tls[0], "-D", "-", f"https://localhost:{port}/"], capture_output=True, check=True, text=True
        )
        (cookie,) = re.findall("(?i)^set-cookie: (.*)$", done.stdout, re.M)
        assert cookie.rstrip().endswith("; Path=/; HttpOnly; SameSite=Lax; Secure")


def test_a_connection_that_is_not_answered_has_its_time(proxy):
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # What the kernel takes for a listener that accepts nothing; who comes after that waits.
        first.connect(full.getsockname())
        second.setblocking(False)
        second.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        host = proxy(url, more='proxy = { connect_timeout = "0.3s", retries = 0, max_fails = 0 }')
        began = time.monotonic()
        assert code(host.request("POST", body=b"x")) == (502, "upstream_down")
        assert 0.3 <= time.monotonic() - began < 4.9, "less than when nothing is set"
        host.log.wait(f"upstream {url} cannot be reached: .*timed out")


def test_more_than_an_upstream_takes_wait_in_line(proxy, upstream):
    gate = threading.Event()

    def answer(request, connection):
        gate.wait(10)
        return OK

    one = upstream(answer)
    host = proxy(one, more="proxy = { max_connections = 2, line_length = 1, line_timeout = 30 }")
    waiting = [host.raw() for _ in range(3)]
    for raw in waiting[:2]:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    one.wait(2)
    waiting[2].send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    eventually(lambda: code(host.get()) == (503, "line_full"), 5)
    assert len(one.requests) == 2
    gate.set()
    assert [raw.answer().status for raw in waiting] == [200] * 3
    [raw.socket.close() for raw in waiting]


def test_the_line_has_an_end(proxy, upstream):
    gate = threading.Event()
    one = upstream(lambda request, _: gate.wait(10) and OK)
    host = proxy(one, more='proxy = { max_connections = 1, line_timeout = "300ms" }')
    with host.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        one.wait(1)
        answer = host.get()
        assert code(answer) == (503, "upstream_busy") and answer.header("Retry-After") == "1"
        gate.set()
        assert raw.answer().status == 200


# Time


def test_an_answer_that_does_not_come_is_a_504(proxy, upstream):
    gate = threading.Event()
    one = upstream(lambda request, _: gate.wait(20) and OK)
    host = proxy(one, more='proxy = { timeout = "300ms", retries = 0 }')
    assert code(host.get()) == (504, "upstream_timeout")
    gate.set()


def test_an_answer_that_falls_silent_is_cut(proxy, upstream):
    gate = threading.Event()

    def answer(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
        gate.wait(20)

    host = proxy(upstream(answer), more='proxy = { silence_timeout = "300ms" }')
    answer = host.get()
    assert answer.status == 200 and not answer.complete
    host.log.wait("failed: it fell silent")
    gate.set()


def test_a_slow_reader_holds_no_upstream(proxy, upstream):
    body = b"x" * 30_000_000
    said = threading.Event()

    def answer(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        connection.sendall(body)
        said.set()
        return b""

    host = proxy(upstream(answer))
    with host.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert said.wait(20), "all of it was taken although the client has read nothing"
        assert raw.answer().body == body


# Health


def test_who_says_that_it_is_not_well_gets_nothing_until_it_says_that_it_is(proxy, upstream):
    state = {"one": b"200 OK", "two": b"200 OK"}

    def answers(name):
        def answer(request, connection):
            if request.path == "/health?x=1":
                return b"HTTP/1.1 " + state[name] + b"\r\nContent-Length: 0\r\n\r\n"
            return named(name)(request, connection)

        return answer

    one, two = upstream(answers("one")), upstream(answers("two"))
    host = proxy(one, two, more='proxy = { health_path = "/health?x=1", health_interval = "100ms" }')
    state["one"] = b"503 No"
    host.log.wait(f"upstream {one.url} is out: health check: status 503")
    assert {host.get().body for _ in range(6)} == {b"two"}
    state["two"] = b"500 No"
    host.log.wait(f"upstream {two.url} is out: ")
    answer = host.get()
    assert code(answer) == (503, "upstreams_unwell") and answer.header("Retry-After") == "5"
    state["one"] = b"200 OK"
    host.log.wait(f"upstream {one.url} is in again")
    assert {host.get().body for _ in range(3)} == {b"one"}


def test_one_that_is_out_is_tried_again(proxy, upstream):
    one, two = upstream(named("one")), upstream(named("two"))
    one.stop()
    host = proxy(one, two, more='proxy = { max_fails = 1, fail_timeout = "500ms" }')
    eventually(lambda: host.get().status == 200 and host.log.matches("is out"), 5)
    one.again()
    eventually(lambda: host.get().body == b"one", 10)
    host.log.wait("is in again")


def test_the_only_one_is_tried_although_it_is_out(proxy, upstream):
    one = upstream()
    one.stop()
    host = proxy(one, more='proxy = { max_fails = 1, fail_timeout = 60 }')
    assert code(host.get()) == (502, "upstream_down")
    host.log.wait("is out")
    one.again()
    assert host.get().status == 200


# Names


def test_a_name_without_an_address_does_not_keep_a_server_from_starting(proxy, upstream):
    one = upstream()
    host = proxy("http://nowhere.invalid:9000", config=CONFIG)
    assert code(host.get()) == (502, "upstream_down")
    host.log.wait("shop: upstream http://nowhere.invalid:9000 has no address: .*requests get 502")


def test_a_name_is_all_of_its_addresses(proxy, upstream):
    one = upstream(named("v4"))
    host = proxy(f"http://localhost:{one.port}")
    # `localhost` may be ::1 too, where nobody listens.
    assert {host.get().body for _ in range(6)} == {b"v4"}


# In a mount namespace of its own, the names of a machine are a test's.
OWN = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]


@pytest.mark.skipif(subprocess.run([*OWN, "true"], capture_output=True).returncode != 0, reason="needs a mount namespace")
@pytest.mark.timeout(240)
def test_names_are_looked_up_again(proxy, upstream, tmp_path):
    one = upstream(named("one"))
    two = upstream(named("two"), at=("127.0.0.2", one.port))
    hosts, program = tmp_path / "hosts", tmp_path / "ostler"
    program.write_text(f"""#!/bin/sh
exec {" ".join(OWN)} sh -c 'mount --bind {hosts} /etc/hosts && exec "$0" "$@"' {harness.OSTLER} "$@"
""")
    program.chmod(0o755)
    hosts.touch()

    def lead_to(*addresses):
        # The same file, for it is mounted, and in one write: a look-up must not find it empty meanwhile.
        text = "".join(f"{address} moved.test\n" for address in addresses)
        with hosts.open("r+b") as file:
            os.pwrite(file.fileno(), text.ljust(100, "\n").encode(), 0)

    lead_to("127.0.0.1")
    host = proxy(f"http://moved.test:{one.port}", more="proxy = { retries = 0, max_fails = 0 }", program=program)
    assert host.get().body == b"one"
    lead_to("127.0.0.2")
    one.stop()
    # Who cannot connect has the name looked up at once.
    eventually(lambda: host.get().body == b"two", 5)
    lead_to("127.0.0.1", "127.0.0.2")
    one.again()
    # And so does time.
    eventually(lambda: {host.get().body for _ in range(2)} == {b"one", b"two"}, 60)
    lead_to()
    host.log.wait("shop: upstream http://moved.test:.* has no address: .*; its last addresses are used", 60)
    assert {host.get().body for _ in range(4)} == {b"one", b"two"}
    lead_to("127.0.0.2")
    host.log.wait("shop: upstream http://moved.test:.* has an address again", 60)
    # It is said a moment before it is so.
    eventually(lambda: {host.get().body for _ in range(4)} == {b"two"}, 5)


# Other routes


def test_what_is_stripped_and_what_dots_lead_to(host, upstream, tmp_path):
    one = upstream()
    config = CONFIG + "[[projects.shop.routes]]\nprefix = \"/api\"\n[[projects.shop.routes]]\nprefix = \"/raw\"\nstrip = false\n"
    config = config.replace('hosts = ["*"]', f'hosts = ["*"]\nupstreams = ["{one.url}"]')
    running = Proxy(host, tmp_path, [], config=config + "# ").host
    for path, seen, prefix in [
        ("/api/x%2Fy?a=1", "/x%2Fy?a=1", "/api"), ("/api", "/", "/api"), ("/api/", "/", "/api"), ("/%61pi/x%20y", "/x%20y", "/api"),
        ("/api/a/../b", "/b", "/api"), ("/raw/%2e%2e/api/x", "/x", "/api"), ("/api/..%2Fraw/x", "/raw/x", None), ("/raw/x", "/raw/x", None),
    ]:
        before = len(one.requests)
        assert running.get(path).status == 200
        request = one.wait(before + 1)
        assert (request.path, request.get("x-forwarded-prefix")) == (seen, prefix), path
    assert running.get("/other").status == 404


APP = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"app"]
"""


def test_an_app_and_upstreams_share_a_project(host, upstream, tmp_path):
    one = upstream(named("upstream"))
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "app.py").write_text(APP)
    config = CONFIG + f'source = "shop"\nweb = {{ app = "app:app", python = "{sys.executable}" }}\n'
    config += f'[[projects.shop.routes]]\n[[projects.shop.routes]]\nprefix = "/api"\nupstreams = "{one.url}"\n# '
    running = Proxy(host, tmp_path, [], config=config).host
    assert [running.get(path).body for path in ("/", "/api/x", "/x")] == [b"app", b"upstream", b"app"]


def test_a_reload_keeps_what_did_not_change_and_drops_no_request(host, upstream, tmp_path):
    gate = threading.Event()

    def answer(request, connection):
        if request.path == "/slow":
            gate.wait(10)
        return named("one")(request, connection)

    one, two = upstream(answer), upstream(named("two"))
    proxy = Proxy(host, tmp_path, [one])
    running = proxy.host
    assert running.get().body == b"one"
    with running.raw() as raw:
        raw.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        one.wait(2)
        proxy.reload([one], "limits = { body = 1000 }")
        assert running.get().body == b"one"
        assert one.connections == 2, "its idle connection was kept"
        proxy.reload([two])
        assert running.get().body == b"two"
        gate.set()
        assert raw.answer().body == b"one"
    status = json.loads(subprocess.run([harness.OSTLER, "status", "--json"], cwd=tmp_path, capture_output=True, check=True).stdout)
    shown = status["projects"][0]["upstreams"]
    assert [(row["address"], row["busy"], row["requests"], row["out"]) for row in shown] == [(two.url, 0, 1, None)]
    screen = subprocess.run([harness.OSTLER, "status"], cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    assert two.url in screen


def test_a_request_under_way_is_answered_when_the_server_stops(proxy, upstream):
    gate = threading.Event()
    one = upstream(lambda request, _: gate.wait(10) and OK)
    host = proxy(one)
    with host.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        one.wait(1)
        host.kill(signal.SIGTERM)
        host.log.wait("stopping")
        gate.set()
        assert raw.answer().body == b"ok"
    assert host.wait_exit() == 0


# WebSockets

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = f"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()


def switching(request, connection):
    """Agrees to a WebSocket, says hello at once, and sends back what it gets in capitals."""
    assert (request.get("connection"), request.get("upgrade")) == ("Upgrade", "websocket")
    key = request.get("sec-websocket-key")
    accept = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: chat\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\nhello"
    )
    while data := connection.recv(1000):
        connection.sendall(data.upper())


def test_a_websocket_is_a_tunnel_once_the_upstream_has_agreed(proxy, upstream):
    host = proxy(upstream(switching))
    with host.raw() as raw:
        answer = raw.send(HANDSHAKE).any_answer()
        assert (answer.status, answer.header("Sec-WebSocket-Accept")) == (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        assert answer.header("Sec-WebSocket-Protocol") == "chat"
        assert raw._exactly(5) == b"hello"
        assert raw.send(b"more")._exactly(4) == b"MORE"
        host.kill(signal.SIGTERM)
        assert raw._exactly(4) == b"\x88\x02\x03\xf4", "1012: the service restarts"
    assert host.wait_exit() == 0


def test_what_the_upstream_has_not_agreed_to_is_no_tunnel(proxy, upstream):
    one = upstream(lambda request, _: b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
    host = proxy(one)
    with host.raw() as raw:
        assert code(raw.send(HANDSHAKE).answer()) == (502, "upstream_answer")
    one.answer = lambda request, _: b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"
    with host.raw() as raw:
        raw.send(HANDSHAKE + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        assert raw.answer().status == 403
        assert raw.answer().status == 403
    assert [request.path for request in one.requests] == ["/ws", "/ws", "/smuggled"]


# The real thing


def test_nginx_as_an_upstream(proxy, tmp_path):
    assert shutil.which("nginx"), "this test needs nginx: apt-get install nginx-light"
    port, folder = harness.free_port(), tmp_path / "nginx"
    (folder / "www").mkdir(parents=True)
    body = os.urandom(2_000_000)
    (folder / "www" / "large").write_bytes(body)
    (folder / "nginx.conf").write_text(f"""
daemon off; pid {folder}/pid; error_log stderr; worker_processes 1;
{'user root;' if os.getuid() == 0 else ''}
events {{}}
http {{
    access_log off; keepalive_timeout 75; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{ listen 127.0.0.1:{port}; root {folder}/www; gzip on; gzip_types *; location = /small {{ return 200 "small"; }} }}
}}""")
    server = subprocess.Popen(["nginx", "-e", "stderr", "-c", folder / "nginx.conf", "-p", folder], stderr=subprocess.DEVNULL)
    try:
        def answers():
            with socket.socket() as asked:
                return asked.connect_ex(("127.0.0.1", port)) == 0

        eventually(answers, 10, "nginx listens")
        host = proxy(f"http://127.0.0.1:{port}")
        with host.raw() as raw:
            for _ in range(10):
                assert raw.send(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"small"
                answer = raw.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").answer()
                assert answer.body == body
                ranged = raw.send(b"GET /large HTTP/1.1\r\nHost: a\r\nRange: bytes=5-9\r\n\r\n").answer()
                assert (ranged.status, ranged.body) == (206, body[5:10])
                tagged = raw.send(f"GET /large HTTP/1.1\r\nHost: a\r\nIf-None-Match: {answer.header('ETag')}\r\n\r\n".encode()).answer()
                assert tagged.status == 304
    finally:
        server.terminate()
        server.wait(10)


def test_a_websocket_of_http2_goes_on_as_one_of_http1(host, upstream, tmp_path, tls):
    one = upstream(switching)
    port = harness.free_port()
    config = CONFIG.replace("listen =", f'listen_tls = ["127.0.0.1:{port}"]\ncertfile = "{tls[0]}"\nkeyfile = "{tls[1]}"\nlisten =')
    Proxy(host, tmp_path, [one], config=config)
    with Http2(port, tls[0]) as client:
        client.until(lambda: client.settings, "settings")
        number = client.headers([
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/ws"),
            (":authority", "localhost"), ("sec-websocket-version", "13"),
        ], end=False)
        stream = client.streams[number]
        client.until(lambda: len(stream.body) >= 5, "what comes behind the head")
        assert (stream.status, stream.body) == (200, b"hello")
        client.data(number, b"more")
        client.until(lambda: len(stream.body) >= 9, "what was sent back")
        assert stream.body == b"helloMORE"


def test_requests_of_http2_go_on_with_one_cookie(host, upstream, tmp_path, tls):
    one = upstream()
    port = harness.free_port()
    config = CONFIG.replace("listen =", f'listen_tls = ["127.0.0.1:{port}"]\ncertfile = "{tls[0]}"\nkeyfile = "{tls[1]}"\nlisten =')
    Proxy(host, tmp_path, [one], config=config)
    done = subprocess.run(
        ["curl", "-sS", "--http2", "--cacert", tls[0], "-H", "Cookie: a=1; b=2", "-d", "body", "-w", "%{http_version}", f"https://localhost:{port}/x"],
        capture_output=True, check=True, text=True,
    )
    assert done.stdout == "ok2"
    request = one.wait(1)
    assert (request.get("cookie"), request.get("x-forwarded-proto"), request.body) == ("a=1; b=2", "https", b"body")


def test_an_upstream_may_be_asked_by_its_own_name(proxy, upstream):
    one = upstream()
    host = proxy(one, more='proxy = { host = "upstream" }')
    assert host.get("/", {"Host": "shop.test"}).status == 200
    request = one.wait(1)
    assert (request.get("host"), request.get("x-forwarded-host")) == (f"127.0.0.1:{one.port}", "shop.test")


def test_events_are_sent_as_they_come(proxy, upstream):
    seen = threading.Event()

    def answer(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert seen.wait(10), "the first event is there before the second is sent"
        connection.sendall(b"data: 2\n\n")

    host = proxy(upstream(answer))
    with host.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        while b"data: 1\n\n" not in raw._buffer:
            assert raw._more()
        seen.set()
        assert b"data: 2\n\n" in raw.answer().body


def test_what_upstreams_do_is_counted(proxy, upstream):
    one, gone = upstream(), upstream()
    gone.stop()
    admin = harness.free_port()
    host = proxy(one, gone, config=CONFIG.replace("listen =", f'admin = "127.0.0.1:{admin}"\nlisten ='))
    assert [host.get().status for _ in range(4)] == [200] * 4
    with Raw(("127.0.0.1", admin)) as raw:
        page = raw.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").answer().text
    label = f'{{project="shop",upstream="{one.url}"}}'
    for line in (f"ostler_upstream_requests_total{label} 4", f"ostler_upstream_up{label} 1", f"ostler_upstream_requests_in_flight{label} 0"):
        assert line in page, page
    assert f'ostler_upstream_failures_total{{project="shop",upstream="{gone.url}"}} ' in page
