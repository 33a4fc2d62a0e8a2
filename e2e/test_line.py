"""Requests that wait in line for a worker, and those that workers take by themselves."""

import os
import signal
import time
from collections import Counter

from harness import Client, eventually


def test_request_waits_in_line_and_is_served(host):
    running = host("probe:app")
    raws = [running.raw(20) for _ in range(10)]
    for raw in raws:
        raw.send(b"GET /slow/100 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [raw.answer().status for raw in raws] == [200] * 10


def test_full_line_is_503_with_retry_after(host):
    running = host("probe:app", "--line-length", 2)
    raws = [running.raw(20) for _ in range(8)]
    for raw in raws:
        raw.send(b"GET /slow/700 HTTP/1.1\r\nHost: a\r\n\r\n")
    answers = [raw.answer() for raw in raws]
    assert {a.status for a in answers} == {200, 503}
    assert all(int(a.header("Retry-After")) >= 1 for a in answers if a.status == 503)


def test_too_long_in_line_is_503(host):
    running = host("probe:app", "--line-timeout", 1)
    with running.raw() as first, running.raw() as second:
        first.send(b"GET /slow/3000 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.1)
        second.send(b"GET /slow/3000 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert second.answer().status == 503
        assert first.answer().status == 200


GATED = """
import os, time

def app(environ, start_response):
    with open("calls", "a") as calls:
        calls.write(environ["PATH_INFO"] + "\\n")
    while environ["PATH_INFO"] == "/slow" and not os.path.exists("go"):
        time.sleep(0.01)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def test_client_that_left_the_line_is_not_served(host, tmp_path):
    running = host("app:app", "--edge-threads", 1, source=GATED)
    calls = lambda: (tmp_path / "calls").read_text().split() if (tmp_path / "calls").exists() else []
    connections = lambda: [c for c in running.server().net_connections() if c.status != "LISTEN"]
    with running.raw(60) as slow:
        slow.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: calls() == ["/slow"], 20, "the only worker is busy")
        for _ in range(5):
            with running.raw(20) as raw:
                raw.send(b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n")
        with running.raw(20) as after:
            assert after.send(b"nonsense\r\n\r\n").answer().status == 400, "those before it are accepted as well"
        eventually(lambda: len(connections()) == 1, 20, "the server knows that they left")
        (tmp_path / "go").touch()
        assert slow.answer().status == 200
    assert running.get("/after").status == 200
    assert calls() == ["/slow", "/after"]


NOTES = """
import os

def app(environ, start_response):
    with open("notes", "a") as notes:
        notes.write(environ["PATH_INFO"] + "\\n")
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def test_kills_under_load_cost_what_the_worker_held_and_nothing_more(host, tmp_path):
    running = host("app:app", "-w", "2", source=NOTES)
    getters = [Client(running, keep=n % 2 == 0) for n in range(3)]
    posters = [Client(running, f"/{n}-{{n}}", method="POST") for n in range(5)]
    kills = 12
    for _ in range(kills):
        victim = running.workers()[0].pid
        os.kill(victim, signal.SIGKILL)
        # A GET that it had is asked once more, and must be answered before another worker is killed under it.
        old = [c.count for c in getters + posters]
        eventually(lambda: len(running.workers()) == 2 and victim not in {w.pid for w in running.workers()}, 20)
        eventually(lambda: all(c.count > o + 4 for c, o in zip(getters + posters, old)), 30, "each client is served again")
        assert running.get("/").status == 200
    assert [c.finish().failures for c in getters] == [[]] * 3
    asked = {f"/{n}-{i}" for n, client in enumerate(posters) for i in range(client.finish().count)}
    failures = [failure for client in posters for failure in client.failures]
    # The one in its app, and the one that it had just taken.
    assert len(failures) <= 2 * kills and {f.status for f in failures} <= {502}
    called = [path for path in (tmp_path / "notes").read_text().splitlines() if path != "/"]
    assert len(called) == len(set(called)), "no POST is asked twice"
    assert len(asked - set(called)) <= len(failures), "every answer is an app's"
    assert len(asked) > 20 * kills


def test_line_is_served_before_the_stop(host):
    running = host("probe:app")
    raws = [running.raw(20) for _ in range(8)]
    for raw in raws:
        raw.send(b"POST /slow/100 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    eventually(lambda: raws[0].socket.recv(1, 2) or True)
    running.kill(signal.SIGTERM)
    assert [raw.answer().status for raw in raws] == [200] * 8
    assert running.wait_exit() == 0


PID = """
import os, time

def app(environ, start_response):
    time.sleep(0.3)
    start_response("200 OK", [("Content-Length", str(len(str(os.getpid()))))])
    return [str(os.getpid()).encode()]
"""


def test_worker_that_is_to_leave_takes_nothing_from_the_line(host):
    running = host("app:app", "-w", "2", source=PID)
    raws = [running.raw(30) for _ in range(30)]

    def served_by(raws, after_the_first=lambda: None):
        for raw in raws:
            raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        first = raws[0].answer().body
        after_the_first()
        return Counter([first, *(raw.answer().body for raw in raws[1:])])

    eventually(lambda: len(served_by(raws[:2])) == 2, 20, "both workers serve")
    served = served_by(raws, lambda: running.kill(signal.SIGTTOU))
    # Half of them, if it did.
    assert len(served) == 2 and min(served.values()) <= 10


SIXTY_KIB = """
import os, time

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/large":
        open("entered", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
        for _ in range(15):
            yield b"x" * 4096
    yield b"end"
"""


def test_answer_is_not_held_up_by_the_reader_before(host, tmp_path):
    running = host("app:app", source=SIXTY_KIB)
    with running.raw(20) as slow, running.raw(20) as quick:
        slow.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        eventually((tmp_path / "entered").exists)
        quick.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        (tmp_path / "go").touch()
        assert quick.answer().body == b"end"
        for _ in range(20):
            assert len(slow.answer().body) == 15 * 4096 + 3
