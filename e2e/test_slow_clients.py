"""Clients that take their time: they pay for it themselves, nobody else does."""

import os
import shutil
import socket
import subprocess
import threading
import time

import pytest

import harness
from attackers import CROWDS, Crowd
from harness import eventually
from traffic import p99

SLOW = "127.0.0.7"
"""Where the slow ones come from; the good client uses another address."""


def latencies(host, seconds):
    """What one good client sees on one connection: seconds of each request."""
    found = []
    end = time.monotonic() + seconds
    with host.raw() as raw:
        while time.monotonic() < end:
            began = time.monotonic()
            answer = raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer()
            assert answer.status == 200
            found.append(time.monotonic() - began)
    return found


def good_client_is_fine(host, count, kind, seconds):
    quiet = p99(latencies(host, 2))
    with Crowd(host, count, *CROWDS[kind]):
        busy = latencies(host, seconds)
    # On a machine that also runs the crowd, the crowd's own processor time is in this number.
    return quiet, p99(busy), len(busy)


@pytest.mark.parametrize("kind", CROWDS)
def test_200_slow_ones_hurt_nobody(host, kind):
    running = host("probe:app", "-w", "2")
    attempts = []
    for _ in range(3):  # the machine may stand still by itself, but hardly each time
        attempts.append(good_client_is_fine(running, 200, kind, 4))
        quiet, busy, count = attempts[-1]
        if count > 100 and busy < max(4 * quiet, 0.05):
            return
    raise AssertionError(f"(quiet, busy, count) each time: {attempts}")


@pytest.mark.soak
@pytest.mark.parametrize("kind", CROWDS)
def test_1000_slow_ones_hurt_nobody(host, kind):
    running = host("probe:app", "-w", "2")
    quiet, busy, count = good_client_is_fine(running, 1000, kind, 30)
    assert count > 1000 and busy <= max(2 * quiet, 0.005), (quiet, busy, count)


MODES = {
    "slow heads": ["-H"],
    "slow bodies": ["-B", "-s", "8192", "-t", "POST"],
    "slow readers": ["-X", "-w", "1", "-y", "2", "-n", "1", "-z", "1", "-k", "1"],
}


@pytest.fixture
def slowhttptest(tmp_path):
    """Starts slowhttptest with a source address for each of its connections, none of them the good
    client's; ends it when the test ends."""
    tool = shutil.which("slowhttptest")
    assert tool, "apt-get install slowhttptest"
    spread = tmp_path / "spread.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", spread, harness.HERE / "spread.c", "-ldl"], check=True)
    started = []

    def start(host, mode, count, seconds):
        path = "/large/1000000" if mode == "slow readers" else "/echo"
        command = [tool, *MODES[mode], "-c", count, "-r", 500, "-i", 2, "-l", seconds, "-p", 3]
        command += ["-u", f"http://127.0.0.1:{host.port}{path}"]
        attack = subprocess.Popen(
            [str(part) for part in command], cwd=tmp_path, env={**os.environ, "LD_PRELOAD": str(spread)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        started.append(attack)

        def connected():
            return sum(c.raddr.ip.startswith("127.0.1") for c in host.server().net_connections() if c.raddr)

        eventually(lambda: connected() >= count * 0.9, 20, f"{count} slow clients are connected")
        return attack

    yield start
    for attack in started:
        attack.terminate()
        attack.wait(20)


@pytest.mark.parametrize("mode", MODES)
def test_slowhttptest_with_200_connections_denies_nobody(host, slowhttptest, mode):
    running = host("probe:app", "-w", "2")
    slowhttptest(running, mode, 200, 20)
    assert len(latencies(running, 4)) > 100


@pytest.mark.soak
@pytest.mark.parametrize("mode", MODES)
def test_slowhttptest_with_1000_connections_denies_nobody(host, slowhttptest, mode):
    running = host("probe:app", "-w", "2")
    quiet = p99(latencies(running, 5))
    slowhttptest(running, mode, 1000, 60)
    busy = latencies(running, 30)
    assert len(busy) > 1000 and p99(busy) <= max(2 * quiet, 0.005), (quiet, p99(busy), len(busy))


# Each slow one is ended in time


def ends_within(raw, seconds):
    raw.socket.settimeout(seconds)
    try:
        return raw.rest()
    except TimeoutError:
        raise AssertionError(f"not closed within {seconds} s") from None


def test_head_has_10_seconds_in_total(host):
    running = host("probe:app")
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        stop = threading.Event()

        def drip():
            while not stop.wait(1):
                raw.send(b"X: y\r\n")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        said = ends_within(raw, 20)
        stop.set()
        thread.join()
        assert 8 < time.monotonic() - began < 15
        assert said == b"" or said.startswith(b"HTTP/1.1 408")


def test_header_timeout_is_a_setting(host):
    running = host("probe:app", "--header-timeout", "1")
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\n")
        ends_within(raw, 8)


def test_silent_connection_is_closed(host):
    running = host("probe:app", "--keep-alive", "1", "--header-timeout", "2")
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer()
        assert ends_within(raw, 15) == b"", "an idle connection is closed without a word"
    with running.raw() as raw:
        ends_within(raw, 8)


def test_body_that_stops_is_given_up(host):
    running = host("probe:app", "--body-timeout", "1")
    with running.raw() as raw:
        raw.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx")
        assert ends_within(raw, 15).startswith(b"HTTP/1.1 408")
    assert running.get("/calls").body == b"0"


def test_body_below_the_least_rate_is_given_up(host):
    running = host("probe:app", "--minimum-rate", "500")
    with running.raw() as raw:
        raw.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        stop = threading.Event()

        def drip():
            while not stop.wait(0.5):
                raw.send(b"x")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        began = time.monotonic()
        ends_within(raw, 25)
        stop.set()
        thread.join()
        assert 8 < time.monotonic() - began < 20


def test_reader_that_stops_is_given_up(host):
    running = host("probe:app", "--write-timeout", "1")
    server = running.server()
    with running.raw() as raw:
        raw.send(b"GET /large/50000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert raw.socket.recv(100)
        eventually(lambda: not any(c.status == "ESTABLISHED" for c in server.net_connections()), 20)


def test_tls_handshake_has_a_time(host, tls):
    running = host("probe:app", "--certfile", tls[0], "--keyfile", tls[1])
    with running.raw(20) as raw:
        began = time.monotonic()
        raw.send(b"\x16\x03\x01")
        ends_within(raw, 20)
        assert time.monotonic() - began < 15


# Connections of one address


def test_cap_per_address_closes_the_oldest_idle_one_first(host):
    running = host("probe:app", "--max-connections-per-address", 5, "--forwarded-allow-ips", "10.0.0.1")
    held = []
    for _ in range(5):
        raw = running.raw(source=SLOW)
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
        held.append(raw)
    with running.raw(source=SLOW) as sixth:
        assert sixth.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
    assert held[0].closed_within(2), "the oldest idle one made room"
    assert held[4].send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200


GATED = """
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"].startswith("/slow"):
        open("entered" + environ["PATH_INFO"][-1], "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def test_cap_per_address_answers_503_when_none_is_idle(host, tmp_path):
    args = ["--max-connections-per-address", 3, "--threads", "8", "--forwarded-allow-ips", "10.0.0.1"]
    running = host("app:app", *args, source=GATED)
    busy = [running.raw(30, SLOW) for _ in range(3)]
    for n, raw in enumerate(busy):
        raw.send(f"GET /slow{n} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    eventually(lambda: len(list(tmp_path.glob("entered*"))) == 3, 20, "all three are being served")
    with running.raw(source=SLOW) as more:
        refused = more.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer()
        assert refused.status == 503 and "reason: too_many_connections" in refused.text
        assert refused.header("Connection") == "close" and more.closed_within(2)
    with running.raw(source="127.0.0.8") as other:
        assert other.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
    (tmp_path / "go").touch()
    assert [raw.answer().status for raw in busy] == [200] * 3


def test_trusted_proxy_has_no_cap(host):
    running = host("probe:app", "--max-connections-per-address", 3)
    raws = [running.raw() for _ in range(20)]
    for raw in raws:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200


def test_cap_counts_each_address_for_itself_and_0_is_none(host):
    running = host("probe:app", "--max-connections-per-address", 2, "--forwarded-allow-ips", "10.0.0.1")
    raws = [running.raw(source=f"127.0.5.{1 + n // 2}") for n in range(60)]
    for raw in raws:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
    for raw in raws:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200, "none had to leave"
    free = host("probe:app", "--max-connections-per-address", 0, "--forwarded-allow-ips", "10.0.0.1")
    raws = [free.raw(source=SLOW) for _ in range(300)]
    for raw in raws:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200


def test_cap_is_256_when_nothing_is_said(host):
    running = host("probe:app", "--forwarded-allow-ips", "10.0.0.1")
    heads = [running.raw(source=SLOW) for _ in range(256)]
    for raw in heads:
        raw.send(b"GET / HTTP/1.1\r\n")
    server = running.server()
    held = lambda: sum(c.status == "ESTABLISHED" and c.raddr and c.raddr.ip == SLOW for c in server.net_connections())
    eventually(lambda: held() == 256, what="256 unfinished heads are held")
    with running.raw(source=SLOW) as more:
        assert more.answer().status == 503
    for raw in heads:
        assert raw.send(b"Host: a\r\n\r\n").answer().status == 200
    with running.raw(source=SLOW) as again:
        assert again.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200, "an idle one made room"


def test_cap_under_tls_closes_without_a_handshake(host, tls):
    running = host(
        "probe:app", "--max-connections-per-address", 1, "--forwarded-allow-ips", "10.0.0.1", "--certfile", tls[0], "--keyfile", tls[1]
    )
    with running.raw(source=SLOW), running.raw(source=SLOW) as more:
        assert more.closed_within(2)


@pytest.mark.parametrize("path", ["/large/50000000", "/static/file"])
def test_reader_of_a_byte_now_and_then_is_given_up(host, tmp_path, path):
    """Each read is in time for --write-timeout, but all of them are far below --minimum-rate."""
    with open(tmp_path / "file", "wb") as file:
        file.truncate(50_000_000)
    running = host("probe:app", "--write-timeout", "2", "--minimum-rate", "1M", "--static", f"/static={tmp_path}")
    server = running.server()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect(("127.0.0.1", running.port))
        slow.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert slow.recv(100)
        began = time.monotonic()

        def gone():
            try:
                slow.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
            except ConnectionResetError:
                return True
            return not any(c.status == "ESTABLISHED" for c in server.net_connections())

        eventually(gone, 20, "the connection is cut")
        assert time.monotonic() - began >= 1
