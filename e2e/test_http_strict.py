"""What must never reach an app, and what must: the messages of corpus/http1.txt against the server.

Each is sent alone, with a request behind it, behind a good request, byte by byte and in two pieces; a
sample also through a UNIX socket and TLS. (Cutting at every byte is done at the parsers, in
crates/ostler/src/edge/h1/corpus.rs.) "Refused" is always the same: the status, `Connection: close`, the
socket closed before any timeout of the server's (CLOSED_SECONDS), and an app that was never called.
"""

import json
import re

import pytest

import corpus
from harness import Raw

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
GOOD = b"GET /good HTTP/1.1\r\nHost: localhost\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSED_SECONDS = 5.0

CASES = corpus.read("http1.txt")
REFUSED = [case for case in CASES if case.code]
ACCEPTED = [case for case in CASES if not case.code]


def by_name(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def framed(*lines: bytes, body: bytes = b"") -> bytes:
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


@pytest.fixture(scope="module")
def probe(module_host):
    # From any address: the pieces of one message hold as many connections as it has bytes.
    return module_host("probe:app", "--max-connections-per-address", 0)


def calls(probe) -> int:
    return int(probe.get("/calls").body)


def refused(raw: Raw, case, how=""):
    answer = raw.answer()
    assert answer.status == case.status, f"{how}: {answer}"
    assert f"reason: {case.code}\n" in answer.text, f"{how}: {answer}"
    assert (answer.header("Connection") or "").lower() == "close", f"{how}: {answer}"
    assert answer.complete
    assert raw.closed_within(CLOSED_SECONDS), f"{how}: still open, or more was sent"


@by_name(REFUSED)
def test_refused(probe, case):
    before = calls(probe)
    with probe.raw() as raw:
        refused(raw.send(case.message), case, "alone")
    # What follows in the same breath is not a request.
    with probe.raw() as raw:
        refused(raw.send(case.message + SMUGGLED), case, "with a request behind it")
    assert calls(probe) == before, "the app was called"
    with probe.raw() as raw:
        first = raw.send(GOOD + case.message + SMUGGLED).answer()
        assert first.status == 200 and first.body == b"hello"
        refused(raw, case, "behind a good request")
    assert calls(probe) == before + 1, "the app was called for more than the good request"


@by_name(REFUSED)
def test_refused_in_pieces(probe, case):
    before = calls(probe)
    if len(case.message) <= 400:
        with probe.raw() as raw:
            for byte in case.message:
                raw.send(bytes([byte]))
            refused(raw, case, "byte by byte")
    for cut, raw in in_two_pieces(probe, case.message):
        refused(raw, case, f"cut at {cut}")
    assert calls(probe) == before


@by_name(ACCEPTED)
def test_accepted(probe, case):
    with probe.raw() as raw:
        answer = raw.send(case.message).answer()
        assert answer.status == 200, answer
        if b"HTTP/1.0" not in case.message:
            assert raw.send(GOOD).answer().body == b"hello", "the connection can be used again"
    with probe.raw() as raw:
        raw.send(GOOD + case.message)
        assert raw.answer().body == b"hello"
        behind = raw.answer()
        assert (behind.status, behind.body) == (200, answer.body), "behind a good request"
    for cut, raw in in_two_pieces(probe, case.message):
        piecewise = raw.answer()
        assert (piecewise.status, piecewise.body) == (200, answer.body), f"cut at {cut}"


@by_name(ACCEPTED[::6] + REFUSED[::12])
def test_unix_sockets_are_as_strict(elsewhere, case):
    judged_alike(elsewhere, f"{elsewhere.folder}/socket", case)


@by_name(ACCEPTED[1::6] + [case for case in REFUSED[1::12] if case.code != "tls_on_plain"])
def test_tls_is_as_strict(secure, case):
    judged_alike(secure, ("127.0.0.1", secure.port, secure.certificate), case)


def judged_alike(host, address, case):
    with Raw(address) as raw:
        raw.send(case.message)
        if case.code:
            refused(raw, case)
            return
        assert raw.answer().status == 200
        if b"HTTP/1.0" not in case.message:
            assert raw.send(GOOD).answer().body == b"hello"


@pytest.fixture(scope="module")
def elsewhere(module_host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("socket")
    running = module_host("probe:app", bind=f"unix:{folder}/socket")
    running.folder = folder
    return running


@pytest.fixture(scope="module")
def secure(module_host, module_tls):
    cert, key = module_tls
    running = module_host("probe:app", "--certfile", cert, "--keyfile", key, "--max-connections-per-address", 0)
    running.certificate = cert
    return running


def in_two_pieces(probe, message: bytes):
    """A connection for each of some places to cut. All first pieces are on their way before any second
    one, which gives the server the time to see them apart, without a pause here."""
    length = len(message)
    cuts = sorted({1, 2, length // 4, length // 2, 3 * length // 4, length - 4, length - 2, length - 1} & set(range(1, length)))
    raws = [(cut, probe.raw()) for cut in cuts]
    for cut, raw in raws:
        raw.send(message[:cut])
    for cut, raw in raws:
        raw.send(message[cut:])
    for cut, raw in raws:
        with raw:
            yield cut, raw


# Pipelining, connections, expectations


def test_pipelined_requests_are_answered_in_order(probe):
    with probe.raw() as raw:
        raw.send(b"".join(b"GET /status/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (200 + n) for n in range(50)))
        assert [raw.answer().status for _ in range(4)] == [200, 201, 202, 203]


def test_pipelined_bodies_are_kept_apart(probe):
    with probe.raw() as raw:
        raw.send(framed(b"Content-Length: 3", body=b"one") + CHUNKED + b"3\r\ntwo\r\n0\r\n\r\n" + framed(b"Content-Length: 5", body=b"three"))
        assert [raw.answer().body for _ in range(3)] == [b"one", b"two", b"three"]


def test_connection_close_is_honoured(probe):
    with probe.raw() as raw:
        answer = raw.send(GET + b"Connection: close\r\n\r\n").answer()
        assert answer.header("Connection").lower() == "close"
        assert raw.closed_within(CLOSED_SECONDS)


def test_http_1_0_closes_unless_asked_to_keep(probe):
    with probe.raw() as raw:
        raw.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").answer()
        assert raw.closed_within(CLOSED_SECONDS)
    with probe.raw() as raw:
        kept = raw.send(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").answer()
        assert kept.header("Connection").lower() == "keep-alive"
        assert raw.send(GOOD).answer().status == 200


def test_half_closed_client_gets_its_answer(probe):
    with probe.raw() as raw:
        assert raw.send(GET + b"\r\n").finish().answer().body == b"hello"
        assert raw.closed_within(2)


def test_expect_100_is_answered_before_the_body(probe):
    with probe.raw() as raw:
        raw.send(framed(b"Expect: 100-continue", b"Content-Length: 5"))
        assert raw.any_answer().status == 100
        assert raw.send(b"hello").answer().body == b"hello"


def test_expect_100_with_the_body_already_there_gets_one_answer(probe):
    with probe.raw() as raw:
        raw.send(framed(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"))
        assert raw.answer().body == b"hello"
        assert raw.send(GOOD).answer().body == b"hello"


def test_expect_100_is_refused_before_the_body_when_it_is_too_large(probe):
    with probe.raw() as raw:
        raw.send(framed(b"Expect: 100-continue", b"Content-Length: 200000000"))
        assert raw.any_answer().status == 413


def test_head_has_the_headers_and_no_body(probe):
    with probe.raw() as raw:
        answer = raw.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").answer(head_only=True)
        assert answer.status == 200 and answer.header("Content-Length") == "5"
        assert raw.send(GOOD).answer().body == b"hello", "no byte of a body came before"


@pytest.mark.parametrize("code", [204, 304])
def test_answers_without_a_body_have_none(probe, code):
    with probe.raw() as raw:
        answer = raw.send(b"GET /status/%d HTTP/1.1\r\nHost: a\r\n\r\n" % code).answer()
        assert answer.status == code and not answer.all("Transfer-Encoding")
        assert code == 304 or not answer.all("Content-Length")
        assert raw.send(GOOD).answer().body == b"hello"


def test_stream_is_chunked_for_1_1_and_ends_by_closing_for_1_0(probe):
    expected = b"".join(b"chunk %d\n" % n for n in range(10))
    with probe.raw() as raw:
        answer = raw.send(b"GET /stream/10 HTTP/1.1\r\nHost: a\r\n\r\n").answer()
        assert answer.header("Transfer-Encoding") == "chunked" and answer.body == expected and answer.complete
    with probe.raw() as raw:
        answer = raw.send(b"GET /stream/10 HTTP/1.0\r\nHost: a\r\n\r\n").answer()
        assert not answer.all("Transfer-Encoding") and answer.body == expected


# E-05: a body that nobody reads


@pytest.mark.parametrize("size", [10, 1000, 60_000])
def test_small_unread_body_leaves_the_connection_usable(probe, size):
    with probe.raw() as raw:
        raw.send(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + b"G" * size + GOOD)
        assert raw.answer().body == b"I never read it"
        assert raw.answer().body == b"hello"


def test_body_of_a_refused_upload_is_never_a_request(probe):
    before = calls(probe)
    with probe.raw() as raw:
        raw.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 200000000\r\n\r\n" + SMUGGLED * 10)
        assert raw.answer().status == 413
        assert raw.closed_within(2)
    assert calls(probe) == before


# E-08 to E-10: what an app may rely on

STRANGER = "127.0.0.9"


def environ_of(probe, headers, source=STRANGER):
    return json.loads(probe.request("GET", "/environ", headers, source=source).body)


def test_stranger_cannot_say_who_it_is(probe):
    lies = {
        "X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil", "X-Forwarded-Port": "1",
        "X-Forwarded-Ssl": "on", "X-Forwarded-Prefix": "/evil", "X-Forwarded-Server": "evil", "Forwarded": "for=6.6.6.6;host=evil",
        "X-Real-IP": "6.6.6.6", "X-Client-IP": "6.6.6.6", "X-Forwarded-Anything": "evil",
    }
    seen = environ_of(probe, lies)
    assert seen["REMOTE_ADDR"] == STRANGER
    assert seen["wsgi.url_scheme"] == "http"
    assert seen["HTTP_X_REAL_IP"] == STRANGER
    assert seen["HTTP_X_FORWARDED_FOR"] == STRANGER
    assert seen["HTTP_X_FORWARDED_PROTO"] == "http"
    assert "6.6.6.6" not in str(seen) and "evil" not in str(seen)


def test_trusted_proxy_is_believed(probe):
    said = {"X-Forwarded-For": "6.6.6.6, 9.9.9.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example"}
    seen = environ_of(probe, said, source="127.0.0.1")
    assert seen["REMOTE_ADDR"] == "9.9.9.9", "the last address is the one the trusted proxy saw"
    assert seen["wsgi.url_scheme"] == "https"
    assert seen["HTTP_X_REAL_IP"] == "9.9.9.9"


def test_line_that_a_trusted_proxy_adds_behind_the_clients_is_believed(probe):
    """HAProxy's `option forwardfor` leaves the client's line and writes one of its own."""
    with probe.raw(source="127.0.0.1") as raw:
        raw.send(b"GET /environ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n")
        seen = json.loads(raw.answer().body)
        raw.send(b"GET /environ HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n\r\n")
        refused = raw.answer()
    assert (seen["REMOTE_ADDR"], seen["HTTP_X_REAL_IP"]) == ("9.9.9.9", "9.9.9.9")
    assert seen["HTTP_X_FORWARDED_FOR"] == "6.6.6.6, 9.9.9.9, 127.0.0.1"
    assert refused.status == 400 and b"scheme_conflict" in refused.body


@pytest.mark.parametrize("name", ["X_Forwarded_For", "X-Real_IP", "Content_Length", "Transfer_Encoding", "Script_Name", "X_User"])
def test_names_with_an_underscore_never_arrive(probe, name):
    seen = environ_of(probe, {name: "6"})
    assert seen.get("HTTP_" + name.upper().replace("-", "_")) != "6"
    assert seen.get(name.upper()) in (None, "")


def test_proxy_header_never_arrives(probe):
    assert "HTTP_PROXY" not in environ_of(probe, {"Proxy": "http://evil:8080"})


def test_hop_by_hop_headers_stay_here(probe):
    seen = environ_of(probe, {"Connection": "close, X-Secret", "X-Secret": "1", "Keep-Alive": "timeout=5", "TE": "trailers", "Upgrade": "h2c"})
    for name in ("HTTP_X_SECRET", "HTTP_KEEP_ALIVE", "HTTP_TE", "HTTP_UPGRADE"):
        assert name not in seen


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Real-IP", "Host", "Cookie", "Authorization"])
def test_connection_cannot_name_away_what_apps_rely_on(probe, name):
    with probe.raw() as raw:
        answer = raw.send(f"GET /environ HTTP/1.1\r\nHost: a\r\nConnection: close, {name}\r\n\r\n".encode()).answer()
    assert answer.status == 400 and b"connection_names" in answer.body


def test_app_sees_the_validated_host(probe):
    with probe.raw() as raw:
        seen = json.loads(raw.send(b"GET http://LocalHost:81/environ HTTP/1.1\r\nHost: localhost:81\r\n\r\n").answer().body)
    assert seen["HTTP_HOST"].lower() == "localhost:81" and seen["PATH_INFO"] == "/environ"


# The answers ostler makes itself


def test_own_answer_names_the_layer_the_reason_and_the_request(probe):
    with probe.raw() as raw:
        answer = raw.send(b"GET / HTTP/1.1\r\n\r\n").answer()
    assert answer.status == 400 and answer.header("Content-Type").startswith("text/plain")
    for line in ("layer: edge", "reason: host_missing"):
        assert line in answer.text
    assert re.search("request: [0-9a-f]{16}", answer.text)


@pytest.mark.parametrize("accept, kind", [("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"), ("application/json", "application/json"), ("*/*", "text/plain")])
def test_own_answer_speaks_the_language_of_the_client(probe, accept, kind):
    answer = probe.request("POST", "/", {"Accept": accept, "Content-Length": "200000000"})
    assert answer.status == 413 and answer.header("Content-Type").startswith(kind)
