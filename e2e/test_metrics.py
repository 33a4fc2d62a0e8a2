"""Prometheus metrics: on an address of their own, and on the admin socket."""

import socket
import subprocess
import sys

import pytest

import harness
from harness import Raw
from test_serve import TWO, Machine


@pytest.fixture
def machine(host, tmp_path):
    (tmp_path / "tree").mkdir()
    return Metered(host, tmp_path)


class Metered(Machine):
    """Two projects, and an address for their metrics."""

    def __init__(self, host, folder):
        self.admin = harness.free_port()
        super().__init__(host, folder)

    def write(self, text):
        admin = f'state = "state"\nadmin = ["127.0.0.1:{self.admin}", "unix:metrics.sock"]'
        super().write(text.replace('state = "state"', admin))

    def scrape(self, address=None):
        """Every series as {(name, labels): value}."""
        return harness.scrape(address or ("127.0.0.1", self.admin))


def requests(series, project, method, klass):
    return series.get(("ostler_requests_total", f'project="{project}",method="{method}",class="{klass}"'), 0)


def test_requests_are_counted_by_project_method_and_class(machine):
    running = machine.host
    for _ in range(3):
        running.get("/x", {"Host": "shop.test"})
    running.request("POST", "/blog/x", {"Host": "blog.test"}, b"abc")
    running.request("BREWTEA", "/blog/x", {"Host": "blog.test"})
    running.request("TEA", "/blog/x", {"Host": "blog.test"})
    running.get("/blog/static/a.txt", {"Host": "blog.test"})
    running.get("/elsewhere", {"Host": "blog.test"})
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").answer()
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").answer()
    # A row is counted when its request has ended, which is a moment after its answer was read.
    series = harness.eventually(lambda: (s := machine.scrape()) and requests(s, "", "other", "4xx") and s)
    assert requests(series, "shop", "GET", "2xx") == 4
    assert requests(series, "blog", "POST", "2xx") == 1
    assert requests(series, "blog", "other", "2xx") == 2, "any word may be a method: they are one"
    assert requests(series, "blog", "GET", "2xx") == 1, "the file"
    assert requests(series, "", "GET", "4xx") == 1
    assert requests(series, "", "other", "4xx") == 1, "a head that was refused belongs to nobody"
    assert series["ostler_refused_total", 'reason="host_duplicate"'] == 1
    assert series["ostler_refused_total", 'reason="no_route"'] == 1
    shop = 'project="shop"'
    assert series["ostler_request_seconds_count", shop] == 4
    assert series["ostler_request_seconds_bucket", f'{shop},le="+Inf"'] == 4
    assert 0 < series["ostler_request_seconds_sum", shop] < 4
    assert series["ostler_request_app_seconds_count", shop] == 4
    assert series["ostler_request_app_seconds_count", 'project="blog"'] == 3, "no app for the file"
    assert series["ostler_response_body_bytes_total", 'project="blog"'] > 6
    assert series["ostler_workers", f'{shop},state="ready"'] == 2
    assert series["ostler_worker_starts_total", shop] == 2
    assert series["ostler_connections_accepted_total", ""] == 9
    assert series["ostler_line_length", shop] == series["ostler_requests_in_flight", shop] == 0


def test_counts_go_on_over_a_reload_and_name_crashes(machine):
    running = machine.host
    running.get("/x", {"Host": "shop.test"})
    machine.reload(TWO.replace("workers = 2", "workers = 1"))
    running.log.wait("shop: reload complete: generation 2 serves")
    running.get("/x", {"Host": "shop.test"})
    series = harness.eventually(lambda: (s := machine.scrape()) and requests(s, "shop", "GET", "2xx") == 2 and s)
    shop = 'project="shop"'
    assert series["ostler_worker_starts_total", shop] == 3 and series["ostler_worker_crashes_total", shop] == 0
    harness.eventually(lambda: len(machine.workers("shop")) == 1)
    for worker in running.workers():
        if worker.pid in machine.workers("shop"):
            worker.kill()
    harness.eventually(lambda: machine.scrape()["ostler_worker_crashes_total", shop] == 1)


def test_metrics_are_read_on_every_address_and_nothing_else_is(machine):
    folder = machine.file.parent
    expected = set(machine.scrape())
    assert set(machine.scrape(str(folder / "metrics.sock"))) == expected
    assert set(machine.scrape(str(folder / "state" / "admin.sock"))) == expected
    for target in ["/v1/status", "/", "/metrics/"]:
        with Raw(("127.0.0.1", machine.admin)) as raw:
            assert raw.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()).answer().status == 404
    with Raw(("127.0.0.1", machine.admin)) as raw:
        assert raw.send(b"POST /v1/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").answer().status == 404
    machine.host.server().kill()
    machine.host.log.wait("blog: ready", count=2)
    assert machine.scrape()["ostler_server_uptime_seconds", ""] < 60, "the address outlives a server"
    assert machine.host.stop() == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", machine.admin)) != 0
    assert not (folder / "metrics.sock").exists()


def test_address_that_is_taken_or_open_to_all_is_said(machine, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    text = "[server]\nlisten = \"127.0.0.1:{port}\"\nstate = \"s\"\nadmin = \"{admin}\"\n[projects.x]\nsource = \".\"\nhosts = [\"*\"]\nweb.app = \"app:app\"\n"
    def run(admin, command):
        (second / "ostler.toml").write_text(text.format(port=harness.free_port(), admin=admin))
        return subprocess.run([harness.OSTLER, command], cwd=second, capture_output=True, text=True, timeout=20)
    done = run(f"127.0.0.1:{machine.admin}", "serve")
    assert done.returncode == 1 and f"cannot listen on 127.0.0.1:{machine.admin}" in done.stderr
    done = run(f"0.0.0.0:{machine.admin}", "serve")
    assert "the metrics can be read by everybody who reaches 0.0.0.0" in done.stderr
    done = run("nowhere", "check")
    assert done.returncode == 2 and "`admin`" in done.stderr and "ostler.toml:4" in done.stderr


def test_handshakes_are_counted(host, tls, tmp_path):
    (tmp_path / "app.py").write_text("def app(e, s):\n    s('200 OK', [])\n    return [b'ok']\n")
    port, secure, admin = harness.free_port(), harness.free_port(), harness.free_port()
    (tmp_path / "ostler.toml").write_text(
        f"[server]\nlisten = \"127.0.0.1:{port}\"\nlisten_tls = \"127.0.0.1:{secure}\"\ncertfile = \"{tls[0]}\"\nkeyfile = \"{tls[1]}\"\n"
        f"state = \"state\"\nadmin = \"127.0.0.1:{admin}\"\n[projects.x]\nsource = \".\"\nhosts = [\"*\"]\n"
        f"web.app = \"app:app\"\nweb.python = \"{sys.executable}\"\n"
    )
    running = host.serve(port=port, ready="x: ready")
    with Raw(("127.0.0.1", secure, str(tls[0]))) as raw:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
    with Raw(("127.0.0.1", secure)) as raw:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 400
    scrape = lambda: Metered.scrape(running, ("127.0.0.1", admin))
    series = harness.eventually(lambda: (s := scrape()).get(("ostler_refused_total", 'reason="plain_on_tls"')) == 1 and s)
    assert series["ostler_tls_handshakes_total", 'outcome="done"'] == 1
    assert series["ostler_tls_handshakes_total", 'outcome="failed"'] == 1
