"""The request log: one row for each request, and questions to it."""

import http.client
import json
import os
import re
import sqlite3
import subprocess
import sys
import types

import pytest

import harness
import test_keys
from harness import Client
from http2 import Http2
from test_metrics import Metered
from test_serve import APP, SECURE, TWO, Machine, seen
from test_status import ostler, status


@pytest.fixture
def machine(host, tmp_path):
    return Machine(host, tmp_path)


def rows(machine, *args):
    done = ostler(machine, "requests", "--json", *args)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def all_rows(machine, count, *args):
    """The rows once so many are there: they are written a moment after their answers."""
    def there():
        found = rows(machine, "--limit", "10000", *args)
        assert len(found) <= count, found
        return found if len(found) == count else None
    return harness.eventually(there)


def test_each_request_is_a_row_that_can_be_found(machine):
    running = machine.host
    assert seen(running, "shop.test", "/x?secret=1")[0] == "shop.test"
    running.request("POST", "/blog/y", {"Host": "blog.test"}, b"abc")
    running.get("/blog/static/a.txt", {"Host": "blog.test"})
    running.get("/nowhere%20here", {"Host": "blog.test"})
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").answer()
    first, post, file, none, refused = all_rows(machine, 5)
    assert (first["project"], first["method"], first["path"], first["status"]) == ("shop", "GET", "/x", 200)
    assert first["worker"] in machine.workers("shop") and first["client"] == "127.0.0.1" and first["reason"] == ""
    assert 0 < first["app"] <= first["total"] < 20_000_000 and first["queue"] >= 0
    assert len(first["request"]) == 16 and first["sent"] > 10 and first["user"] is None
    assert (post["received"], post["method"], post["path"], post["project"]) == (3, "POST", "/blog/y", "blog")
    assert (file["worker"], file["app"], file["sent"], file["project"]) == (None, None, 6, "blog")
    assert (none["status"], none["reason"], none["path"]) == (404, "no_route", "/nowhere here")
    assert (refused["status"], refused["reason"], refused["project"], refused["method"]) == (400, "host_duplicate", "", "")
    assert [row["path"] for row in rows(machine, "--project", "blog")] == ["/blog/y", "/blog/static/a.txt"]
    assert [row["status"] for row in rows(machine, "--status", "4xx")] == [404, 400]
    assert [row["status"] for row in rows(machine, "--status", "404")] == [404]
    assert [row["path"] for row in rows(machine, "--path", "/blog/static")] == ["/blog/static/a.txt"]
    assert rows(machine, "--path", "/blog/%") == [], "no letter of a path is a pattern"
    assert [row["method"] for row in rows(machine, "--method", "post")] == ["POST"]
    assert rows(machine, "--slower", "19s") == [] and len(rows(machine, "--since", "1h")) == 5
    assert [row["path"] for row in rows(machine, "--limit", "1")] == [""], "the newest"
    assert rows(machine, "--project", "x' OR '1'='1") == []
    shown = ostler(machine, "requests", "--project", "shop").stdout
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  shop .* 200 .*GET /x$", shown, re.M)


def received(machine, count):
    return {row["path"]: (row["status"], row["received"]) for row in all_rows(machine, count)}


def test_received_is_what_came_and_not_what_was_announced(machine):
    streams = "workers = 2\nrequest_buffering = false"
    machine.reload(TWO.replace("workers = 2", streams) + '[projects.blog.limits]\nbody = "1KiB"\n')
    machine.host.log.wait("shop: reload complete: generation 2 serves")

    def send(name, path, field, body=b"", end=False):
        with machine.host.raw() as raw:
            raw.send(f"POST {path} HTTP/1.1\r\nHost: {name}\r\n{field}\r\n\r\n".encode() + body)
            return (raw.finish() if end else raw).answer().status

    chunked = b"5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n"
    assert send("blog.test", "/blog/refused", "Content-Length: 10000000000") == 413
    assert send("blog.test", "/blog/chunked", "Transfer-Encoding: chunked", chunked) == 200
    assert send("blog.test", "/blog/cut", "Content-Length: 1000", b"x" * 10, end=True) == 400
    assert send("blog.test", "/blog/many", "Transfer-Encoding: chunked", b"800\r\n" + b"x" * 0x800 + b"\r\n") == 413
    assert send("shop.test", "/streamed", "Transfer-Encoding: chunked", chunked) == 200
    assert send("blog.test", "/blog/static/a.txt", "Content-Length: 3", b"abc") == 405
    assert machine.host.get("/blog/none", {"Host": "blog.test"}).status == 200
    assert received(machine, 7) == {
        "/blog/refused": (413, 0), "/blog/chunked": (200, 8), "/blog/cut": (400, 10), "/blog/many": (413, 0x800),
        "/streamed": (200, 8), "/blog/static/a.txt": (405, 3), "/blog/none": (200, None),
    }


def test_received_is_what_came_over_http2(host, tls, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    machine = types.SimpleNamespace(file=tmp_path / "ostler.toml")
    port, tls_port = harness.free_port(), harness.free_port()
    text = SECURE.replace("open.test", "localhost") + '[projects.open.limits]\nbody = "1KiB"\n'
    machine.file.write_text(text.format(port=port, tls_port=tls_port, cert=tls[0], key=tls[1], python=sys.executable))
    host.serve(port=port, ready="shop: ready").log.wait("open: ready")
    with Http2(tls_port, tls[0]) as client:
        refused = client.ask("/refused", "POST", [("content-length", "10000000000")], end=False)
        assert client.answer(refused).status == 413
        plain = client.ask("/plain", "POST", end=False)
        client.data(plain, b"abc")
        client.data(plain, b"defgh", end=True)
        assert client.answer(plain).status == 200
        announced = client.ask("/announced", "POST", [("content-length", "5")], end=False)
        client.data(announced, b"hello", end=True)
        assert client.answer(announced).status == 200
        assert client.get("/none").status == 200
    assert received(machine, 4) == {"/refused": (413, 0), "/plain": (200, 8), "/announced": (200, 5), "/none": (200, None)}


def test_a_row_says_whose_request_it_was(host, tmp_path):
    shop = test_keys.Shop(host, tmp_path)
    assert shop.get("/ada", Authorization="key-of-ada").status == 200
    assert shop.get("/grace", X_API_Key="key-of-grace", X_Ostler_User="root").status == 200
    assert shop.get("/nobody", X_Ostler_User="root").status == 403
    other = http.client.HTTPConnection("127.0.0.1", shop.port, source_address=("127.0.0.2", 0))
    other.request("GET", "/elsewhere", headers={"Host": "shop.test", "X-API-Key": "key-of-ada"})
    assert other.getresponse().status == 200
    other.close()
    told = [(row["path"], row["user"], row["version"]) for row in all_rows(shop, 4)]
    assert told == [("/ada", "ada", None), ("/grace", "grace", None), ("/nobody", None, None), ("/elsewhere", "ada", None)]
    paths = lambda *args: [row["path"] for row in rows(shop, *args)]
    assert paths("--user", "ada") == ["/ada", "/elsewhere"] and paths("--client", "127.0.0.2") == ["/elsewhere"]
    assert paths("--user", "ada", "--client", "127.0.0.1") == ["/ada"] and paths("--user", "root") == []
    assert re.search(r" 127\.0\.0\.1 grace +GET /grace$", ostler(shop, "requests").stdout, re.M)


def test_percentiles_are_told_by_route(machine):
    for number in range(10):
        machine.host.get(f"/item/{number}" if number else "/once", {"Host": "shop.test"})
    machine.host.request("POST", "/item/1", {"Host": "shop.test"}, b"abc")
    all_rows(machine, 11)
    often, post, once = rows(machine, "--percentiles")
    assert (often["method"], often["path"], often["requests"]) == ("GET", "/item/{}", 9)
    assert (post["method"], post["path"], post["requests"]) == ("POST", "/item/{}", 1)
    assert (once["method"], once["path"], once["requests"]) == ("GET", "/once", 1)
    assert 0 < often["p50"] <= often["p90"] <= often["p99"] <= often["longest"] and often["failed"] == 0
    shown = ostler(machine, "requests", "--percentiles").stdout
    assert "ROUTE" in shown and re.search(r"^shop +9 .*  GET /item/\{\}$", shown, re.M)


def test_routes_have_the_names_that_runs_have(machine):
    before = {worker.pid for worker in machine.host.workers()}
    machine.reload(TWO.replace("workers = 2", "workers = 2\nperf = true"))
    machine.host.log.wait("shop: reload complete: generation 2 serves")
    # The two before, which time nothing, may have a request until they are told to leave.
    harness.eventually(lambda: len(before - {worker.pid for worker in machine.host.workers()}) == 2)
    segments = ["7", "007", "v1", "cafe1", "8f14e45fceea167a", "8f14e45f-ceea-167a-9d3e-8f14e45fceea", "facefacefaceface",
                "x" * 40, "x" * 41, "a.b", "7/", "", "7/of/8"]
    for segment in segments:
        machine.host.request("PUT", f"/thing/{segment}", {"Host": "shop.test"}, b"")
    machine.host.request("BREW", "/thing/7", {"Host": "shop.test"})
    all_rows(machine, len(segments) + 1)
    routes = {(f"{row['method']} {row['path']}", row["requests"]) for row in rows(machine, "--percentiles")}
    assert machine.host.stop() == 0
    told = ostler(machine, "perf", "last", "--project", "shop", "--json")
    assert told.returncode == 0, told.stderr
    named = {(call["name"], call["calls"]) for call in map(json.loads, told.stdout.splitlines())}
    assert routes == named


def test_an_answer_says_how_far_back_it_goes(machine):
    for path in "/old", "/new":
        machine.host.get(path, {"Host": "shop.test"})
    all_rows(machine, 2)
    whole = ostler(machine, "requests", "--percentiles")
    assert "/old" in whole.stdout and whole.stderr == ""
    with sqlite3.connect(machine.file.parent / "state" / "requests" / "requests.db") as there:
        there.execute("UPDATE requests SET number = number + 1000000 WHERE number > 1")
    for args in [], ["--percentiles"], ["--since", "1d"]:
        cut = ostler(machine, "requests", *args)
        assert "/new" in cut.stdout and "/old" not in cut.stdout
        assert re.fullmatch(r"note: only since [-0-9]{10} [:0-9]{8}\.\d{3}; older rows were not looked at\n", cut.stderr)
        (row,) = rows(machine, *args)
        assert row["path"] == "/new" and row["searched_since"] > 1_000_000_000_000_000
    assert "note" not in ostler(machine, "requests", "--limit", "1").stderr, "the newest row"


def test_follow_shows_what_comes(machine):
    machine.host.get("/before", {"Host": "shop.test"})
    all_rows(machine, 1)
    command = [harness.OSTLER, "requests", "--follow", "--json"]
    following = subprocess.Popen(command, cwd=machine.file.parent, stdout=subprocess.PIPE, text=True)
    try:
        assert json.loads(following.stdout.readline())["path"] == "/before"
        machine.host.get("/after", {"Host": "shop.test"})
        assert json.loads(following.stdout.readline())["path"] == "/after"
    finally:
        following.terminate()
        following.wait(10)


def test_what_was_written_outlives_servers_and_ends_with_the_last_row(machine):
    clients = [Client(machine.host, f"/c{n}/{{n}}", name="shop.test") for n in range(4)]
    harness.eventually(lambda: sum(client.count for client in clients) > 200)
    count = sum(client.finish().count for client in clients)
    assert machine.host.stop() == 0
    file = machine.file.parent / "state" / "requests" / "requests.db"
    assert file.parent.stat().st_mode & 0o777 == 0o700
    with sqlite3.connect(file) as there:
        assert there.execute("SELECT count(*), count(DISTINCT request) FROM requests").fetchone() == (count, count)
    done = ostler(machine, "requests")
    assert done.returncode == 1 and "ostler does not run" in done.stderr


def test_rows_are_kept_as_long_as_the_file_says_and_a_broken_log_stops_nobody(machine, host):
    running = machine.host
    assert seen(running, "shop.test")[0] == "shop.test"
    all_rows(machine, 1)
    assert running.stop() == 0
    folder = machine.file.parent / "state" / "requests"
    for extra in folder.glob("requests.db-*"):
        extra.unlink()
    (folder / "requests.db").write_text("this is no database, however long one looks at it" * 100)
    again = host.serve(port=machine.port, folder=machine.file.parent, ready="blog: ready")
    again.log.wait("no request log: .*requests.db: ")
    again.log.wait("shop: ready")
    machine.host = again
    assert seen(again, "shop.test")[0] == "shop.test"
    done = ostler(machine, "requests")
    assert done.returncode == 1 and "there is no request log" in done.stderr
    again.stop()
    (folder / "requests.db").unlink()
    machine.write(TWO.replace('state = "state"', 'state = "state"\nkeep_requests = 0'))
    third = host.serve(port=machine.port, folder=machine.file.parent, ready="blog: ready")
    assert third.get("/blog/", {"Host": "blog.test"}).status == 200
    assert third.stop() == 0 and not (folder / "requests.db").exists()


def test_questions_that_make_no_sense_are_said(machine):
    for args, words in [
        (["--status", "abc"], "write 404 or 5xx"),
        (["--slower", "long"], "write 500ms"),
        (["--limit", "many"], "--limit is not understood"),
        (["--follow", "--percentiles"], "cannot be used with"),
    ]:
        done = ostler(machine, "requests", *args)
        assert done.returncode == 2 and words in done.stderr, args


def test_rows_that_cannot_be_written_are_counted_and_no_request_waits_for_them(host, tmp_path):
    (tmp_path / "tree").mkdir()
    machine = Metered(host, tmp_path)
    file = machine.file.parent / "state" / "requests" / "requests.db"
    lost = lambda: machine.scrape()["ostler_request_log_lost_total", ""]
    assert lost() == 0
    with sqlite3.connect(file, isolation_level=None) as other:
        # Longer than the writer waits for a lock.
        other.execute("BEGIN IMMEDIATE")
        for number in range(7):
            assert seen(machine.host, "shop.test", f"/{number}")[0] == "shop.test"
        harness.eventually(lambda: lost() == 7, what="seven rows lost")
        other.execute("ROLLBACK")
    assert seen(machine.host, "shop.test", "/after")[0] == "shop.test"
    (row,) = all_rows(machine, 1)
    assert row["path"] == "/after" and lost() == 7
    for args in [], ["--json"], ["--percentiles"]:
        assert "note: 7 rows were lost" in ostler(machine, "requests", *args).stderr, args
    machine.host.log.wait("the request log: . rows are missing")
