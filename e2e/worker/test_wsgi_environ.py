"""What an app finds in environ."""

import os
import random
import sys

import pytest
import wsgi_wire as wire


class Seen:
    """An app that keeps a copy of the last environ."""

    def __call__(self, environ, start_response):
        self.type = type(environ)
        self.environ = dict(environ)
        start_response("200 OK", [])
        return [b""]


@pytest.fixture
def seen():
    return Seen()


def test_environ_has_everything_pep_3333_and_gunicorn_name(serve, seen):
    slot = serve(seen, multithread=True, multiprocess=True, server_software="ostler/test")
    slot.ask(
        b"GET",
        b"/a b",
        target=b"/a%20b?x=1&y=%C3%A4",
        query=b"x=1&y=%C3%A4",
        root=b"/shop",
        headers=[(b"host", b"example.test:8080"), (b"x-unheard-of", b"v"), (b"user-agent", b"curl")],
        server_port=8080,
    )
    environ = seen.environ
    assert seen.type is dict
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/shop",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "x=1&y=%C3%A4",
        "RAW_URI": "/a%20b?x=1&y=%C3%A4",
        "REQUEST_URI": "/a%20b?x=1&y=%C3%A4",
        "SERVER_NAME": "example.test",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "ostler/test",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "4711",
        "HTTP_HOST": "example.test:8080",
        "HTTP_USER_AGENT": "curl",
        "HTTP_X_UNHEARD_OF": "v",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert {key: environ.pop(key) for key in expected} == expected
    assert environ.pop("wsgi.errors") is slot.errors
    assert environ.pop("wsgi.file_wrapper").__name__ == "FileWrapper"
    assert callable(environ.pop("wsgi.early_hints"))
    assert environ.pop("wsgi.input").read() == b""
    assert environ == {}


@pytest.mark.parametrize(
    "version, name", [(10, "HTTP/1.0"), (11, "HTTP/1.1"), (20, "HTTP/2.0")]
)
def test_protocol_is_spelled_in_full(serve, seen, version, name):
    serve(seen).ask(version=version)
    assert seen.environ["SERVER_PROTOCOL"] == name


def test_https_is_the_url_scheme(serve, seen):
    slot = serve(seen)
    slot.ask(https=True)
    assert seen.environ["wsgi.url_scheme"] == "https"
    slot.ask()
    assert seen.environ["wsgi.url_scheme"] == "http"


def test_client_on_a_unix_socket_has_no_port(serve, seen):
    serve(seen).ask(client=b"", client_port=0)
    assert seen.environ["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in seen.environ


def test_bytes_above_ascii_are_latin_1(serve, seen):
    slot = serve(seen)
    value = bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
    slot.ask(b"GET", "/ä".encode(), query=b"\xff", headers=[(b"cookie", value), (b"x-own", value)])
    environ = seen.environ
    assert environ["HTTP_COOKIE"].encode("latin-1") == value
    assert environ["HTTP_X_OWN"].encode("latin-1") == value
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/ä"
    assert environ["QUERY_STRING"] == "ÿ"


@pytest.mark.parametrize("literal", [False, True])
def test_every_known_header_name_has_its_cgi_name(serve, seen, literal):
    slot = serve(seen)
    skipped = {b"content-length", b"transfer-encoding"}
    headers = [(name, b"v-" + name) for name in wire.NAMES if name not in skipped]
    slot.ask(headers=headers, literal_names=literal)
    for name, value in headers:
        key = name.decode().upper().replace("-", "_")
        key = key if key == "CONTENT_TYPE" else "HTTP_" + key
        assert seen.environ[key] == value.decode()
    assert "HTTP_CONTENT_TYPE" not in seen.environ


def test_content_length_is_set_for_a_body_that_came_chunked(serve, seen):
    slot = serve(seen)
    headers = [(b"content-type", b"text/plain"), (b"transfer-encoding", b"chunked")]
    slot.ask(b"POST", body=b"hello", headers=headers)
    assert seen.environ["CONTENT_LENGTH"] == "5"
    assert seen.environ["CONTENT_TYPE"] == "text/plain"
    assert "HTTP_TRANSFER_ENCODING" not in seen.environ
    assert "HTTP_CONTENT_LENGTH" not in seen.environ
    slot.ask(b"GET")
    assert "CONTENT_LENGTH" not in seen.environ and "CONTENT_TYPE" not in seen.environ


def test_content_length_header_is_told_once(serve, seen):
    serve(seen).ask(b"POST", body=b"hello", headers=[(b"content-length", b"99")])
    assert seen.environ["CONTENT_LENGTH"] == "5"
    assert "HTTP_CONTENT_LENGTH" not in seen.environ


def test_the_process_environment_stays_out(serve, seen, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://secret.test")
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    serve(seen).ask()
    assert "HTTP_PROXY" not in seen.environ and "DATABASE_PASSWORD" not in seen.environ
    assert not set(os.environ) & set(seen.environ) - {"SERVER_NAME"}


def test_kept_strings_follow_the_bytes(serve, seen):
    """A value is used again only when it is the same, and no header of one request is in another."""
    slot = serve(seen)
    for turn in range(50):
        agent = b"agent-%d" % (turn // 5)
        headers = [(b"user-agent", agent), (b"authorization", b"t-%d" % turn)]
        if turn % 3 == 0:
            headers.append((b"x-forwarded-for", b"10.0.0.%d" % turn))
        slot.ask(
            (b"GET", b"POST")[turn % 2],
            b"/%d" % (turn // 2),
            headers=headers,
            client=b"10.1.1.%d" % (turn // 7),
            client_port=turn,
            server_port=80 + turn // 10,
            https=turn % 4 == 0,
            length=turn if turn % 5 == 0 else None,
        )
        environ = seen.environ
        assert environ["HTTP_USER_AGENT"] == agent.decode()
        assert environ["HTTP_AUTHORIZATION"] == f"t-{turn}"
        assert environ.get("HTTP_X_FORWARDED_FOR") == (f"10.0.0.{turn}" if turn % 3 == 0 else None)
        assert environ["REQUEST_METHOD"] == ("GET", "POST")[turn % 2]
        assert environ["PATH_INFO"] == environ["RAW_URI"] == f"/{turn // 2}"
        assert environ["REMOTE_ADDR"] == f"10.1.1.{turn // 7}"
        assert environ["REMOTE_PORT"] == str(turn)
        assert environ["SERVER_PORT"] == str(80 + turn // 10)
        assert environ["wsgi.url_scheme"] == ("https" if turn % 4 == 0 else "http")
        assert environ.get("CONTENT_LENGTH") == (str(turn) if turn % 5 == 0 else None)


def test_secrets_are_not_kept_after_their_request(serve):
    """Only the dict of the request refers to them, so that they go with it."""
    counts = []

    def app(environ, start_response):
        start_response("200 OK", [])
        for name in ("HTTP_COOKIE", "HTTP_AUTHORIZATION", "HTTP_X_OWN_TOKEN"):
            counts.append(sys.getrefcount(environ[name]))
        return [b""]

    headers = [(b"cookie", b"c" * 30), (b"authorization", b"a" * 30), (b"x-own-token", b"o" * 30)]
    slot = serve(app)
    for _ in range(3):
        slot.ask(headers=headers)
    assert set(counts) <= {1, 2, 3} and len(set(counts)) == 1


def test_what_an_app_puts_into_environ_does_not_reach_the_next_request(serve):
    found = []

    def app(environ, start_response):
        found.append("leak" in environ)
        environ["leak"] = True
        environ["REQUEST_METHOD"] = "X"
        environ.clear()
        start_response("200 OK", [])
        return [b""]

    slot = serve(app)
    assert [slot.ask().status for _ in range(3)] == [200, 200, 200]
    assert found == [False, False, False]


def test_many_invented_header_names_are_all_delivered(serve, seen):
    slot = serve(seen)
    for turn in range(20):
        headers = [(b"x-%d-%d" % (turn, index), b"%d" % index) for index in range(50)]
        slot.ask(headers=headers)
        for index in range(50):
            assert seen.environ[f"HTTP_X_{turn}_{index}"] == str(index)


def test_no_value_of_one_request_is_ever_in_another(serve, seen):
    """Values that stay the same move into the template: whatever mix of requests comes, environ is
    exactly what its own request says."""
    chance = random.Random(11)
    names = [name for name in wire.NAMES if name not in (b"content-length", b"transfer-encoding")]
    names += [b"x-own-%d" % index for index in range(5)]
    slot = serve(seen)
    slot.ask()
    ours = {key for key in seen.environ if key.startswith(("wsgi.", "SERVER_SOFTWARE"))}
    likely = {}
    for turn in range(4000):
        if turn % 200 == 0:
            # For a while the same headers come in most requests, as from one client.
            likely = {name: b"%d" % chance.randrange(3) for name in chance.sample(names, 8)}
            often = chance.choice([0.5, 0.9, 0.99])
        sent = {name: value for name, value in likely.items() if chance.random() < often}
        if chance.random() < 0.1:
            sent[chance.choice(names)] = b"%d" % chance.randrange(3)
        parts = dict(
            path=chance.choice([b"/"] * 9 + [b"/other"]),
            root=chance.choice([b""] * 9 + [b"/root"]),
            query=chance.choice([b""] * 9 + [b"q"]),
            client=chance.choice([b"10.0.0.1"] * 20 + [b"10.0.0.2", b""]),
            client_port=chance.randrange(3),
            server_port=chance.choice([80] * 20 + [0, 65535]),
            https=chance.random() < 0.05,
            version=chance.choice([11] * 20 + [10, 20]),
        )
        slot.ask(chance.choice([b"GET"] * 9 + [b"POST"]), headers=list(sent.items()), **parts)
        expected = {
            "PATH_INFO": parts["path"],
            "SCRIPT_NAME": parts["root"],
            "QUERY_STRING": parts["query"],
            "RAW_URI": parts["path"] + (b"?q" if parts["query"] else b""),
            "REMOTE_ADDR": parts["client"],
            "SERVER_PORT": b"%d" % parts["server_port"],
            "SERVER_NAME": b"example.test",
            "SERVER_PROTOCOL": {10: b"HTTP/1.0", 11: b"HTTP/1.1", 20: b"HTTP/2.0"}[parts["version"]],
            "REQUEST_METHOD": seen.environ["REQUEST_METHOD"].encode(),
        }
        expected["REQUEST_URI"] = expected["RAW_URI"]
        if parts["client"]:
            expected["REMOTE_PORT"] = b"%d" % parts["client_port"]
        for name, value in sent.items():
            key = name.decode().upper().replace("-", "_")
            expected[key if key == "CONTENT_TYPE" else "HTTP_" + key] = value
        found = {key: value.encode() for key, value in seen.environ.items() if key not in ours}
        assert found == expected
        assert seen.environ["wsgi.url_scheme"] == ("https" if parts["https"] else "http")


def test_header_that_comes_twice_has_its_last_value(serve, seen):
    slot = serve(seen)
    for _ in range(40):
        slot.ask(headers=[(b"accept", b"a"), (b"accept", b"a")])
        assert seen.environ["HTTP_ACCEPT"] == "a"
    slot.ask(headers=[(b"accept", b"a"), (b"accept", b"b")])
    assert seen.environ["HTTP_ACCEPT"] == "b"
    slot.ask(headers=[(b"accept", b"b"), (b"accept", b"a")])
    assert seen.environ["HTTP_ACCEPT"] == "a"
    slot.ask()
    assert "HTTP_ACCEPT" not in seen.environ
