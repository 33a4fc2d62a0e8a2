"""What must never reach an app, and what must: raw bytes against the edge.

Each refused message is tried alone, in two pieces cut at every byte, and right behind a good request.
"Refused" is always the same: the status, `Connection: close`, the socket closed within a second,
and an app that was never called.
"""

import itertools
import json
import re

import pytest

from harness import Raw

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
GOOD = b"GET /good HTTP/1.1\r\nHost: localhost\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSED_SECONDS = 1.0


def header(line: bytes) -> bytes:
    return GET + line + b"\r\n\r\n"


def framed(*lines: bytes, body: bytes = b"") -> bytes:
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def target(line: bytes) -> bytes:
    return line + b"\r\nHost: localhost\r\n\r\n"


def host(*lines: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


# name: (message, the statuses that are right)
REFUSED = {
    # E-01: two framings, or one said twice
    "length and chunked": (framed(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), {400}),
    "chunked and length": (framed(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"), {400}),
    "same length twice": (framed(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), {400}),
    "two lengths": (framed(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), {400}),
    "length as a list": (framed(b"Content-Length: 5, 5", body=b"hello"), {400}),
    "length list that differs": (framed(b"Content-Length: 5, 6", body=b"hello"), {400}),
    # E-02: Transfer-Encoding in disguise
    "chunked twice in one field": (framed(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), {400}),
    "chunked twice": (framed(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), {400}),
    "comma before chunked": (framed(b"Transfer-Encoding: ,chunked", body=b"0\r\n\r\n"), {400}),
    "comma after chunked": (framed(b"Transfer-Encoding: chunked,", body=b"0\r\n\r\n"), {400}),
    "identity before chunked": (framed(b"Transfer-Encoding: identity, chunked", body=b"0\r\n\r\n"), {400, 501}),
    "gzip before chunked": (framed(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), {400, 501}),
    "chunked before gzip": (framed(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), {400, 501}),
    "gzip alone": (framed(b"Transfer-Encoding: gzip", body=b"0\r\n\r\n"), {400, 501}),
    "identity alone": (framed(b"Transfer-Encoding: identity", b"Content-Length: 5", body=b"hello"), {400, 501}),
    "xchunked": (framed(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), {400, 501}),
    "chunked with a parameter": (framed(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"), {400, 501}),
    "quoted chunked": (framed(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), {400, 501}),
    "vertical tab before chunked": (framed(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), {400}),
    "form feed after chunked": (framed(b"Transfer-Encoding: chunked\x0c", body=b"0\r\n\r\n"), {400}),
    "obs-text after chunked": (framed(b"Transfer-Encoding: chunked\x80", body=b"0\r\n\r\n"), {400, 501}),
    "no-break space before chunked": (framed(b"Transfer-Encoding: \xa0chunked", body=b"0\r\n\r\n"), {400, 501}),
    "folded chunked": (framed(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"), {400}),
    "space before the colon": (framed(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), {400}),
    "tab before the colon": (framed(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"), {400}),
    "empty transfer-encoding": (framed(b"Transfer-Encoding:", b"Content-Length: 5", body=b"hello"), {400, 501}),
    "chunked in HTTP/1.0": (b"POST /echo HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    # E-03: numbers
    **{
        f"length {value!r}": (framed(b"Content-Length: " + value, body=b"hello"), {400})
        for value in [
            b"+5", b"-5", b"0x5", b"5_0", b"", b"5 5", b"5;q", b"5.0", b"5e0", b"five", b"\xd9\xa5", b"5\x0b", b"'5'",
        ]
    },
    **{
        f"length {value!r}": (framed(b"Content-Length: " + value), {400, 413})
        for value in [b"9223372036854775808", b"18446744073709551616", b"18446744073709551621", b"9" * 40]
    },
    **{
        f"chunk size {value!r}": (CHUNKED + value + b"\r\nhello\r\n0\r\n\r\n", {400})
        for value in [
            b"0x5", b"+5", b"-5", b"5_", b"", b" 5", b"5 ", b"5\t", b"\t5", b"g", b"5 ;a", b"10000000000000005",
            b"00000000000000005", b"5\x00", b"5\x0b", b"\xb2",
        ]
    },
    "chunk size never ends": (CHUNKED + b"0" * 20000, {400}),
    "chunk extensions never end": (CHUNKED + b"5;" + b"a" * 20000 + b"\r\nhello\r\n0\r\n\r\n", {400}),
    "chunk extensions never end, in small ones": (CHUNKED + (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 120 + b"0\r\n\r\n", {400}),
    # E-04: line ends and control bytes
    "bare line feeds": (b"GET / HTTP/1.1\nHost: localhost\n\n", {400}),
    "bare line feed after the request line": (b"GET / HTTP/1.1\nHost: localhost\r\n\r\n", {400}),
    "bare line feed between headers": (b"GET / HTTP/1.1\r\nHost: localhost\nA: b\r\n\r\n", {400}),
    "bare line feed at the end": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\n", {400}),
    "bare carriage return between headers": (b"GET / HTTP/1.1\r\nHost: localhost\rA: b\r\n\r\n", {400}),
    "bare carriage return in a value": (header(b"A: b\rc"), {400}),
    "double carriage return": (b"GET / HTTP/1.1\r\nHost: localhost\r\r\n\r\n", {400}),
    "bare carriage return in the request line": (b"GET /\r HTTP/1.1\r\nHost: localhost\r\n\r\n", {400}),
    **{f"byte {byte:#04x} in a value": (header(b"A: b" + bytes([byte]) + b"c"), {400}) for byte in [0, 1, 8, 11, 12, 14, 31, 127]},
    **{f"byte {byte:#04x} in a name": (header(b"A" + bytes([byte]) + b"B: c"), {400}) for byte in [0, 1, 9, 32, 40, 44, 47, 59, 64, 127, 128, 255]},
    **{f"byte {byte:#04x} in the target": (target(b"GET /a" + bytes([byte]) + b"b HTTP/1.1"), {400}) for byte in [0, 1, 9, 11, 127]},
    "folded header": (header(b"A: b\r\n c"), {400}),
    "folded by a tab": (header(b"A: b\r\n\tc"), {400}),
    "fold before the first header": (b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", {400}),
    "no colon": (header(b"Nothing"), {400}),
    "empty name": (header(b": value"), {400}),
    "line feed ends a chunk size": (CHUNKED + b"5\nhello\r\n0\r\n\r\n", {400}),
    "carriage return ends a chunk size": (CHUNKED + b"5\rhello\r\n0\r\n\r\n", {400}),
    "line feed in a chunk extension": (CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n", {400}),
    "NUL in a chunk extension": (CHUNKED + b"5;a\x00b\r\nhello\r\n0\r\n\r\n", {400}),
    "line feed after chunk data": (CHUNKED + b"5\r\nhello\n0\r\n\r\n", {400}),
    "chunk longer than it says": (CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n", {400}),
    "chunk shorter than it says": (CHUNKED + b"6\r\nhello\r\n0\r\n\r\n", {400}),
    "line feed ends the trailers": (CHUNKED + b"0\r\n\n", {400}),
    "bad trailer": (CHUNKED + b"0\r\nBad trailer\r\n\r\n", {400}),
    **{
        f"trailer {name.decode()}": (CHUNKED + b"0\r\n" + name + b": 5\r\n\r\n", {400})
        for name in [b"Content-Length", b"Transfer-Encoding", b"Host"]
    },
    # E-07: versions, methods, targets
    "HTTP/0.9": (b"GET /\r\n\r\n", {400, 505}),
    **{f"version {version!r}": (target(b"GET / " + version), {400, 505}) for version in [
        b"HTTP/2.0", b"HTTP/3.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.10", b"HTTP/1.", b"HTTP/1", b"HTTP/01.1", b"http/1.1",
        b"HTTP /1.1", b"HTTP/ 1.1", b"HTTP/1.1 ", b"HTTP/1.1x", b"HTTPS/1.1", b"ICY/1.1", b"",
    ]},
    "prior knowledge of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    **{f"method {method!r}": (target(method + b" / HTTP/1.1"), {400}) for method in [
        b"GE(T", b"G\x00T", b"GET\t", b" GET", b"", b"G\xc9T", b"GET,POST", b"\"GET\"", b"GET:",
    ]},
    "two spaces before the target": (target(b"GET  / HTTP/1.1"), {400}),
    "two spaces after the target": (target(b"GET /  HTTP/1.1"), {400}),
    "tab for a space": (target(b"GET\t/ HTTP/1.1"), {400}),
    "space in the target": (target(b"GET /a b HTTP/1.1"), {400}),
    "CONNECT": (b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n", {400, 405}),
    **{f"target {text!r}": (target(b"GET " + text + b" HTTP/1.1"), {400}) for text in [
        b"*", b"foo", b"localhost:443", b"/a#b", b"http://localhost/a#b", b"http:///", b"http://", b"ftp://localhost/", b"file:///etc/passwd",
        b"http://user@localhost/", b"http://localhost:99999/", b"http://local host/", b"?a=b", b"\\", b"http:/localhost/",
    ]},
    # E-08: Host
    "no host": (b"GET / HTTP/1.1\r\n\r\n", {400}),
    "two hosts": (host(b"Host: localhost", b"Host: localhost"), {400}),
    "two hosts that differ": (host(b"Host: localhost", b"Host: other"), {400}),
    "host differs from the target": (b"GET http://localhost/ HTTP/1.1\r\nHost: other\r\n\r\n", {400}),
    **{f"host {value!r}": (host(b"Host: " + value), {400}) for value in [
        b"", b"a b", b"a/b", b"a@b", b"user@localhost", b"a:port", b"a:", b"a:99999", b"a:-1", b"a:8 0", b"[::1", b"::1", b"[zz]", b"a,b", b"a?b",
        b"a#b", b"a\\b", b"<a>", b"a..b", b".", b"a\xe9", b"a%00b", b"http://localhost",
    ] if value != b"a:"},
    # E-12, in HTTP/1: sizes
    "request line too long": (target(b"GET /" + b"a" * 9000 + b" HTTP/1.1"), {400, 414}),
    "field too long": (header(b"A: " + b"b" * 9000), {400, 431}),
    "too many fields": (GET + b"".join(b"A%d: b\r\n" % n for n in range(120)) + b"\r\n", {400, 431}),
    "head too large": (GET + b"".join(b"A%d: %s\r\n" % (n, b"b" * 4000) for n in range(20)) + b"\r\n", {400, 431}),
    # Fields that may come once
    "two content types": (framed(b"Content-Type: a/b", b"Content-Type: c/d", b"Content-Length: 5", body=b"hello"), {400}),
    "unknown expectation": (framed(b"Expect: the-unexpected", b"Content-Length: 5", body=b"hello"), {400, 417}),
}

ACCEPTED = {
    "plain": (GET + b"\r\n", 200),
    "no space after the colon": (GET + b"A:b\r\n\r\n", 200),
    "spaces around a value": (GET + b"A: \t b \t \r\n\r\n", 200),
    "tab in a value": (header(b"A: b\tc"), 200),
    "latin-1 in a value": (header(b"Cookie: caf\xe9"), 200),
    "every token character in a name": (header(b"!#$%&'*+-.^`|~1aZ: b"), 200),
    "empty value": (header(b"A:"), 200),
    "one empty line before": (b"\r\n" + GET + b"\r\n", 200),
    "absolute form": (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "absolute form in capitals": (b"GET HTTP://LOCALHOST/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "host with a port": (host(b"Host: localhost:8000"), 200),
    "host in capitals, with a dot": (host(b"Host: LOCALHOST."), 200),
    "IPv6 host": (host(b"Host: [::1]:80"), 200),
    "own method": (target(b"FROB / HTTP/1.1"), 200),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
    "query with everything": (target(b"GET /?a=b&c=%20[]{}|\"'<>^`\\ HTTP/1.1".replace(b"\\", b"%5c")), 200),
    "length": (framed(b"Content-Length: 5", body=b"hello"), 200),
    "length with zeros": (framed(b"Content-Length: 0005", body=b"hello"), 200),
    "chunked": (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", 200),
    "Chunked": (framed(b"transfer-encoding: CHUNKED", body=b"5\r\nhello\r\n0\r\n\r\n"), 200),
    "chunked in three": (CHUNKED + b"1\r\nh\r\n003\r\nell\r\nA\r\no, goodbye\r\n0\r\n\r\n", 200),
    "chunk extension": (CHUNKED + b"5;name=value;other=\"quoted\"\r\nhello\r\n0;last\r\n\r\n", 200),
    "trailer": (CHUNKED + b"5\r\nhello\r\n0\r\nX-Checksum: abc\r\n\r\n", 200),
    "100 fields": (GET + b"".join(b"A%d: b\r\n" % n for n in range(98)) + b"\r\n", 200),
}


@pytest.fixture(scope="module")
def probe(module_host):
    # From any address: the pieces of one message hold as many connections as it has bytes.
    return module_host("probe:app", "--max-connections-per-address", 0)


def calls(probe) -> int:
    return int(probe.get("/calls").body)


def refused(raw: Raw, statuses, name=""):
    answer = raw.answer()
    assert answer.status in statuses, f"{name}: {answer}"
    assert (answer.header("Connection") or "").lower() == "close", f"{name}: {answer}"
    assert answer.complete
    assert raw.closed_within(CLOSED_SECONDS), f"{name}: still open, or more was sent"


@pytest.mark.parametrize("name", REFUSED)
def test_refused(probe, name):
    message, statuses = REFUSED[name]
    before = calls(probe)
    with probe.raw() as raw:
        refused(raw.send(message), statuses)
    # What follows in the same breath is not a request.
    with probe.raw() as raw:
        refused(raw.send(message + SMUGGLED), statuses)
    assert calls(probe) == before, "the app was called"


@pytest.mark.parametrize("name", REFUSED)
def test_refused_behind_a_good_request(probe, name):
    message, statuses = REFUSED[name]
    before = calls(probe)
    with probe.raw() as raw:
        raw.send(GOOD + message + SMUGGLED)
        first = raw.answer()
        assert first.status == 200 and first.body == b"hello"
        refused(raw, statuses)
    assert calls(probe) == before + 1


@pytest.mark.parametrize("name", REFUSED)
def test_refused_when_split_at_every_byte(probe, name):
    message, statuses = REFUSED[name]
    before = calls(probe)
    for cut, raw in in_two_pieces(probe, message):
        refused(raw, statuses, f"cut at {cut}")
    assert calls(probe) == before


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(probe, name):
    message, status = ACCEPTED[name]
    with probe.raw() as raw:
        answer = raw.send(message).answer()
        assert answer.status == status, answer
        if b"HTTP/1.0" not in message:
            assert raw.send(GOOD).answer().body == b"hello", "the connection can be used again"


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_when_split_at_every_byte(probe, name):
    message, status = ACCEPTED[name]
    whole = probe.raw().send(message).answer()
    for cut, raw in in_two_pieces(probe, message):
        answer = raw.answer()
        assert (answer.status, answer.body) == (whole.status, whole.body), f"cut at {cut}"


def test_accepted_byte_by_byte(probe):
    message = CHUNKED + b"5\r\nhello\r\n0\r\nX-Checksum: abc\r\n\r\n"
    with probe.raw() as raw:
        for byte in message:
            raw.send(bytes([byte]))
        assert raw.answer().body == b"hello"


def in_two_pieces(probe, message: bytes):
    """One connection for each place to cut. All first pieces are on their way before any second one,
    which gives the server the time to see them apart, without a pause here."""
    if len(message) <= 250:
        cuts = list(range(1, len(message)))
    else:
        # The middle of a long filler is like any other place in it.
        cuts = [*range(1, 120), len(message) // 2, *range(len(message) - 100, len(message))]
    for some in batched(cuts, 100):
        raws = [(cut, probe.raw()) for cut in some]
        for cut, raw in raws:
            raw.send(message[:cut])
        for cut, raw in raws:
            raw.send(message[cut:])
        for cut, raw in raws:
            with raw:
                yield cut, raw


def batched(items, size):
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


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
        assert raw.closed_within(1)


def test_http_1_0_closes_unless_asked_to_keep(probe):
    with probe.raw() as raw:
        raw.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").answer()
        assert raw.closed_within(1)
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
