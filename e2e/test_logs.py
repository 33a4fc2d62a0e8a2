"""Access log and error log."""

import json
import os
import re
import signal

import pytest

from harness import eventually


def lines(path, count):
    def enough():
        found = path.read_text().splitlines() if path.exists() else []
        return found if len(found) >= count else None

    return eventually(enough, what=f"{count} lines in {path}")


@pytest.mark.smoke
def test_common_line_is_gunicorns(host, tmp_path):
    log = tmp_path / "access.log"
    running = host("probe:app", "--access-logfile", log)
    running.get("/?a=b", {"User-Agent": "tester/1", "Referer": "http://from/"})
    line = lines(log, 1)[0]
    assert re.fullmatch(r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /\?a=b HTTP/1\.1" 200 5 "http://from/" "tester/1"', line), line


def test_every_atom(host, tmp_path):
    log = tmp_path / "access.log"
    atoms = "h l u t r m U q H s B b f a T M D L p {x-in}i {content-type}o {server_name}e"
    form = "|".join(f"%({atom})s" for atom in atoms.split())
    running = host("probe:app", "--access-logfile", log, "--access-logformat", form)
    running.get("/status/200?x=1", {"X-In": "in", "Authorization": "Basic YWRhOnNlY3JldA==", "User-Agent": "agent"})
    seen = dict(zip(atoms.split(), lines(log, 1)[0].split("|")))
    assert seen["h"] == "127.0.0.1" and seen["l"] == "-" and seen["u"] == "ada"
    assert seen["r"] == "GET /status/200?x=1 HTTP/1.1" and seen["m"] == "GET" and seen["U"] == "/status/200" and seen["q"] == "x=1"
    assert seen["H"] == "HTTP/1.1" and seen["s"] == "200" and seen["B"] == "3" and seen["b"] == "3" and seen["a"] == "agent" and seen["f"] == "-"
    assert seen["T"] == str(int(seen["D"]) // 1_000_000) and seen["M"].isdigit() and seen["D"].isdigit() and float(seen["L"]) < 5
    assert re.fullmatch(r"<?\d+>?", seen["p"])
    assert seen["{x-in}i"] == "in" and seen["{content-type}o"] == "text/plain"
    assert "secret" not in log.read_text()


def test_json_line_has_the_times_and_the_worker(host, tmp_path):
    log = tmp_path / "access.log"
    running = host("probe:app", "--access-logfile", log, "--access-log-json")
    pid = int(running.get("/slow/50").body)
    row = json.loads(lines(log, 1)[0])
    assert row["status"] == 200 and row["method"] == "GET" and row["target"] == "/slow/50" and row["worker"] == pid
    assert row["app_us"] >= 50_000 and row["queue_us"] + row["app_us"] <= row["duration_us"]


def test_every_request_has_a_row_however_it_ends(host, tmp_path):
    log = tmp_path / "access.log"
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")
    running = host("probe:app", "--access-logfile", log, "--access-log-json", "--timeout", 3, "--static", f"/static={tmp_path / 'files'}")
    running.get("/")
    running.get("/static/a.txt")
    running.get("/static/none")
    running.request("POST", "/", {"Content-Length": "200000000"})
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\n\r\n").answer()
    with running.raw() as raw:
        raw.send(b"GET /slow/100 HTTP/1.1\r\nHost: a\r\n\r\n")
    running.get("/slow/6000")
    rows = [json.loads(line) for line in lines(log, 7)]
    statuses = sorted(row["status"] for row in rows)
    assert {200, 400, 404, 413, 504} <= set(statuses)
    assert {row.get("reason") for row in rows} >= {"host_missing"}


@pytest.mark.parametrize(
    "second",
    ["GET / HTTP/1.1\r\nX-Forwarded-For: 8.8.8.8\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Ssl: on\r\n\r\n"],
    ids=["no host", "two schemes"],
)
def test_refused_request_is_not_logged_as_the_one_before(host, tmp_path, second):
    """A proxy sends requests of many clients over one connection."""
    log = tmp_path / "access.log"
    running = host("probe:app", "--access-logfile", log, "--access-log-json", "--forwarded-allow-ips", "127.0.0.1")
    with running.raw() as raw:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n").answer().status == 200
        assert raw.send(second.encode()).answer().status == 400
    rows = [json.loads(line) for line in lines(log, 2)]
    assert [row["remote"] for row in rows] == ["9.9.9.9", "127.0.0.1"]


def test_attacker_cannot_forge_a_line(host, tmp_path):
    log = tmp_path / "access.log"
    running = host("probe:app", "--access-logfile", log)
    running.get("/%0d%0aforged?\x1b[31m".replace("\x1b", "%1b"), {"User-Agent": 'a" 200 1 "forged\\"', "Referer": "caf\xe9\x9b31m"})
    assert len(lines(log, 1)) == 1
    text = log.read_bytes()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert b'\\"' in text or b"\\x22" in text


def test_usr1_reopens_the_logs(host, tmp_path):
    access, error = tmp_path / "access.log", tmp_path / "error.log"
    running = host("probe:app", "--access-logfile", access, "--error-logfile", error, ready=False)
    eventually(lambda: error.exists() and "ready" in error.read_text(), 30, "ready in the error log")
    running.get("/one")
    lines(access, 1)
    os.rename(access, tmp_path / "access.1")
    os.rename(error, tmp_path / "error.1")
    running.kill(signal.SIGUSR1)
    eventually(access.exists, what="the access log is opened anew")
    running.get("/two")
    assert "/two" in lines(access, 1)[0]
    assert "/two" not in (tmp_path / "access.1").read_text()
    eventually(error.exists, what="the error log is opened anew")


def test_app_exception_is_logged_with_its_traceback_once(host):
    running = host(source="def app(environ, start_response):\n    raise KeyError('which one')\n")
    assert running.get("/").status == 500
    running.log.wait("KeyError: 'which one'")
    assert len(running.log.matches("KeyError: 'which one'")) == 1
    assert running.log.matches(r'app\.py", line 2, in app')


def test_wsgi_errors_and_print_reach_the_log(host):
    source = """
import sys
def app(environ, start_response):
    environ["wsgi.errors"].write("through errors\\n")
    print("through print", flush=True)
    print("through stderr", file=sys.stderr, flush=True)
    start_response("204 No Content", [])
    return []
"""
    running = host(source=source)
    running.get("/")
    for text in ("through errors", "through print", "through stderr"):
        running.log.wait(text)


def test_capture_output_goes_to_the_error_log(host, tmp_path):
    error = tmp_path / "error.log"
    source = """
def app(environ, start_response):
    print("through print", flush=True)
    start_response("204 No Content", [])
    return []
"""
    running = host("app:app", "--capture-output", "--error-logfile", error, source=source, ready=False)
    eventually(lambda: error.exists() and "ready" in error.read_text(), 30, "ready in the error log")
    running.get("/")
    eventually(lambda: "through print" in error.read_text(), what="print is in the error log")


def test_blocked_log_never_blocks_a_request(host, tmp_path):
    pipe = tmp_path / "access.pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        running = host("probe:app", "--access-logfile", pipe)
        agent = "a" * 2000
        for _ in range(300):
            assert running.get("/", {"User-Agent": agent}, timeout=20).status == 200
    finally:
        os.close(reader)


def test_log_level_silences(host):
    running = host("probe:app", "--log-level", "error", ready=False)
    eventually(lambda: connects(running), 30, "it serves")
    running.get("/")
    assert running.stop() == 0
    assert not running.log.matches(r"\[INFO\]")


def connects(running):
    try:
        return running.get("/").status == 200
    except OSError:
        return False
