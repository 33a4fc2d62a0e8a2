"""Clients of HTTP/2 that wear a server out: each is sent away, and a good one beside it is served."""

import itertools
import ssl
import time
from types import SimpleNamespace

import hpack
import pytest
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame

import attackers
from attackers import FLOODS, request
from http2 import ENHANCE_YOUR_CALM, PREFACE, PROTOCOL_ERROR, STREAM_CLOSED, Http2

APP = """
import os, time
calls = os.path.join(os.environ["CALLS"], "calls")
def app(environ, start_response):
    with open(calls, "ab") as file:
        file.write(environ["PATH_INFO"].encode() + b"\\n")
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.05)
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.fixture(scope="module")
def served(module_host, module_tls, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    running = module_host(
        "app:app", "-w", "2", "--certfile", module_tls[0], "--keyfile", module_tls[1], source=APP,
        env={"CALLS": str(folder)},
    )
    return SimpleNamespace(host=running, port=running.port, certificate=module_tls[0], calls=folder / "calls")


@pytest.fixture
def good(served):
    """A client that is there before the attack, and served after it."""
    with Http2(served.port, served.certificate) as client:
        assert client.get("/before").status == 200
        yield client
        began = time.monotonic()
        assert client.get("/after").body == b"ok"
        assert time.monotonic() - began < 6
        with Http2(served.port, served.certificate) as another:
            assert another.get("/new").body == b"ok"


def flood(client, make, most=20_000, at_once=50):
    """Sends until the server does not take more; the code of its GOAWAY."""
    for _ in range(most // at_once):
        if not client.write(b"".join(make() for _ in range(at_once))) or client.closed:
            break
        client.poll(0)
    return client.end(20)


addresses = itertools.count(2)


def attacker(served, **more):
    """From an address of its own: who is sent away is slowed down."""
    source = more.pop("source", None) or f"127.0.1.{next(addresses)}"
    client = Http2(served.port, served.certificate, timeout=20, source=source, **more)
    client.until(lambda: client.settings, "settings")
    return client


def test_rapid_reset(served, good):
    with attacker(served) as client:
        assert flood(client, attackers.rapid_reset(client)) == ENHANCE_YOUR_CALM
    assert served.calls.read_text().count("/slow") <= 250


@pytest.mark.parametrize("how", attackers.OFFENCES)
def test_made_you_reset(served, good, how):
    before = served.calls.read_text().count("/slow") if served.calls.exists() else 0
    # What it sends behind its own end is the end of its connection.
    codes = (STREAM_CLOSED,) if "behind" in how else (ENHANCE_YOUR_CALM, PROTOCOL_ERROR)
    with attacker(served) as client:
        assert flood(client, attackers.made_you_reset(client, how)) in codes
    assert served.calls.read_text().count("/slow") - before <= 400


@pytest.mark.parametrize("kind", FLOODS)
def test_frames_without_a_request(served, good, kind):
    with attacker(served) as client:
        assert flood(client, FLOODS[kind]) == ENHANCE_YOUR_CALM


def test_empty_data(served, good):
    with attacker(served) as client:
        assert flood(client, attackers.empty_data(client), 60_000) == ENHANCE_YOUR_CALM


def test_tiny_data(served, good):
    with attacker(served) as client:
        stream, head = request(client, "/body", end=False)
        client.write(head)
        for _ in range(1000):
            client.write(DataFrame(stream, b"x").serialize() * 20)
            client.poll(0)
        assert client.closed or client.data(stream, end=True) and client.answer(stream).status == 200


@pytest.mark.parametrize("is_empty", [False, True])
def test_continuation_flood(served, good, is_empty):
    with attacker(served) as client:
        assert flood(client, attackers.continuation(client, is_empty)) in (ENHANCE_YOUR_CALM, PROTOCOL_ERROR)


def test_hpack_bomb(served, good):
    memory = served.host.server().memory_info().rss
    with attacker(served) as client:
        make = attackers.hpack_bomb(client)
        for _ in range(100):
            if not client.write(make()):
                break
            client.poll(0)
        assert not any(s.status == 200 for s in client.streams.values())
    assert served.host.server().memory_info().rss - memory < 30 * 2**20
    assert "/bomb" not in served.calls.read_text()


def test_more_streams_than_allowed(served, good):
    with attacker(served) as client:
        assert client.settings[3] == 100
        streams = []
        for _ in range(150):
            stream, head = request(client, "/more")
            streams.append(stream)
            client.write(head)
        client.until(lambda: all(client.streams[s].over for s in streams) or client.closed, "all ends")
        done = sum(client.streams[s].status == 200 for s in streams)
        assert 100 <= done <= 150
        assert all(client.streams[s].reset is not None for s in streams if client.streams[s].status != 200)


def test_who_was_sent_away_is_slowed_down(served, good):
    with attacker(served, source="127.0.2.1") as client:
        assert flood(client, FLOODS["ping"]) == ENHANCE_YOUR_CALM
    served.host.log.wait("slowed down.*127.0.2.1")
    opened, began = 0, time.monotonic()
    for _ in range(30):
        try:
            Http2(served.port, served.certificate, source="127.0.2.1").socket.close()
            opened += 1
        except (ConnectionResetError, ssl.SSLError):
            pass
    assert 5 <= opened <= 11 + time.monotonic() - began


def test_preface_and_nothing_more(module_host, module_tls):
    """A handshake that never ends has the time of a head."""
    running = module_host(
        "app:app", "--certfile", module_tls[0], "--keyfile", module_tls[1], "--header-timeout", 1,
        source="def app(environ, start_response):\n    start_response('200 OK', [])\n    return []\n",
    )
    started = PREFACE + SettingsFrame(0).serialize()
    head = hpack.Encoder().encode([(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")])
    begun = HeadersFrame(1, head).serialize()
    for sent in (b"", PREFACE[:10], started + begun, started + begun[:-3], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
        began = time.monotonic()
        client = Http2(running.port, module_tls[0], preface=sent)
        client.take = lambda frame: None  # an answer to the settings would break the head that has begun
        client.end(10)
        assert time.monotonic() - began < 8
