"""Reloads, projects that come, change and go, and upgrades, all under load: nobody notices."""

import asyncio
import json
import sys
import time

import pytest

import harness
from test_status import ostler
from test_upgrade import program, put, servers  # noqa: F401
from traffic import ASGI, Traffic, p99

WSGI = """
import hashlib
def app(environ, start_response):
    body = b"ok"
    if environ["REQUEST_METHOD"] == "POST":
        body = hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

SERVER = """
[server]
listen = ["127.0.0.1:{port}"]
listen_tls = ["127.0.0.1:{tls}"]
state = "state"
drain = "180s"
max_connections_per_address = 0
certfile = "{certificate}"
keyfile = "{key}"

[projects.shop]
source = "shop"
hosts = ["shop.test", "localhost"]
https = "optional"
{rules}
[projects.shop.web]
app = "app:app"
python = "{python}"
workers = 2

[projects.talk]
source = "talk"
hosts = ["talk.test"]
https = "optional"
[projects.talk.web]
app = "app:app"
python = "{python}"

[projects.blog]
source = "blog"
hosts = ["blog.test"]
https = "optional"
[projects.blog.web]
app = "app:app"
python = "{python}"
graceful_timeout = 10
{web}

[projects.away]
hosts = ["away.test"]
https = "optional"
upstreams = ["http://127.0.0.1:{upstream}"]
"""

EXTRA = """
[projects.extra]
source = "extra"
hosts = ["extra.test"]
https = "optional"
[projects.extra.web]
app = "app:app"
python = "{python}"
"""

RULES = [
    'headers = {{ set = {{ X-Turn = "{n}" }} }}',
    'limits = {{ body = "{n}MiB" }}',
    'access = {{ deny = ["10.0.0.{n}"] }}',
    'limits = {{ rate = ["9{n:05}/s"] }}',
    'cors = {{ origins = ["https://a{n}.test"] }}',
    'redirects = [ {{ from = "/old{n}", to = "/new" }} ]',
]
"""What a reload changes without a touch of a worker."""

MANY = 1000
"""What is done to a server that answered more requests than this meanwhile is done under load."""


class Machine:
    """Four projects, and a fifth that comes and goes."""

    def __init__(self, host, folder, program, tls):
        for name, app in (("shop", WSGI), ("talk", ASGI), ("blog", ASGI), ("extra", WSGI)):
            (folder / name).mkdir()
            (folder / name / "app.py").write_text(app)
        self.file, self.program, self.n = folder / "ostler.toml", program, 0
        self.port, self.tls_port, self.upstream = (harness.free_port() for _ in range(3))
        self.tls, self.web, self.changes = tls, "", 0
        # When the fifth was there for certain: since a reload had brought it, until one began that took it away.
        self.extra = []
        self.write()
        self.host = host.serve(port=self.port, ready="blog: ready", program=program)
        self.host.log.wait("shop: ready")
        self.host.log.wait("talk: ready")

    def write(self, with_extra=False):
        rules = RULES[self.n % len(RULES)].format(n=self.n + 1)
        text = SERVER + (EXTRA if with_extra else "")
        self.file.write_text(text.format(
            port=self.port, tls=self.tls_port, certificate=self.tls[0], key=self.tls[1], python=sys.executable,
            upstream=self.upstream, rules=rules, web=self.web,
        ))

    # What is done

    def reload(self):
        self.n += 1
        self.write(self.has_extra())
        self.command("reload")

    def change(self):
        """A project comes, has other settings of its app, or goes."""
        self.changes += 1
        if self.changes % 3 == 1:
            self.write(True)
            self.command("reload")
            self.extra.append([time.monotonic(), float("inf")])
        elif self.changes % 3 == 2:
            self.web = f"workers = 2\ntimeout = {30 + self.changes}"
            self.write(self.has_extra())
            self.command("reload")
        else:
            self.extra[-1][1] = time.monotonic()
            self.write(False)
            self.command("reload")

    def has_extra(self):
        return bool(self.extra) and self.extra[-1][1] == float("inf")

    def had_extra(self, begun, ended):
        return any(since <= begun and ended <= until for since, until in self.extra)

    def upgrade(self):
        put(self.program)
        self.command("upgrade")

    def command(self, *args):
        done = ostler(self, *args)
        assert done.returncode == 0, (args, done.stdout, done.stderr, str(self.host.log))


async def upstream(port):
    """An HTTP server that somebody else wrote."""

    async def serve(reader, writer):
        while head := await read_head(reader):
            length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", port)


async def read_head(reader):
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        return b""


@pytest.fixture
def machine(host, tmp_path, program, tls):
    return Machine(host, tmp_path, program, tls)


def acts(reloads, changes, upgrades):
    """The names of what is done, well mixed."""
    count = {"reload": reloads, "change": changes, "upgrade": upgrades}
    total = sum(count.values())
    return [name for _, name in sorted(((i + 0.5) * total / n, name) for name, n in count.items() for i in range(n))]


def under_load(machine, seconds, todo, sockets, events, uploads, upload_seconds):
    traffic = Traffic(machine.host, machine.tls_port, machine.tls[0])
    tally = traffic.tally
    asyncio.run_coroutine_threadsafe(upstream(machine.upstream), traffic.loop).result(10)

    def judge_extra(begun, status):
        known = machine.had_extra(tally.began + begun, time.monotonic())
        tally.counts["requests of a project that comes and goes, while it was there"] += known
        return status == 200 or not known and status in (404, 421)

    for name in ("shop.test", "talk.test", "blog.test", "away.test"):
        traffic.start(traffic.requests(name), traffic.requests(name, keep=False, every=0.05))
    # A connection that is idle most of the time is the one that an upgrade finds idle.
    traffic.start(*(traffic.requests("talk.test", every=2.0) for _ in range(10)))
    traffic.start(*(traffic.requests("localhost", every=1.0, secure=True) for _ in range(3)))
    traffic.start(traffic.requests("extra.test", keep=False, every=0.05, judge=judge_extra))
    traffic.start(*(traffic.requests_of_http2("localhost", every=0.05 + n) for n in range(3)))
    traffic.start(*(traffic.socket("talk.test") for _ in range(sockets)))
    traffic.start(*(traffic.socket("blog.test", may_end=True) for _ in range(3)))
    traffic.start(traffic.sockets_that_come_and_go("talk.test"))
    traffic.start(*(traffic.events("talk.test") for n in range(events)))
    names = ["shop.test", "talk.test", "blog.test"]
    traffic.start(*(traffic.uploads(names[n % 3], seconds=upload_seconds) for n in range(uploads)))
    harness.eventually(lambda: tally.counts["WebSockets"] == sockets + 3 or tally.failures, 60, "all WebSockets are open")
    began = time.monotonic()
    for n, name in enumerate(todo):
        time.sleep(max(0.0, began + seconds * n / len(todo) - time.monotonic()))  # the pace of the acts, waits for nothing
        with tally.act(f"{name} {n}"):
            getattr(machine, name)()
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    took = time.monotonic() - began
    harness.eventually(lambda: tally.counts["requests"] > MANY or tally.failures, 60, f"more than {MANY} requests")
    traffic.finish()
    traffic.close()
    figures = sorted(tally.latencies)
    print(json.dumps({
        "seconds": round(took, 1), **tally.counts, "failures": len(tally.failures),
        "p50 ms": round(1000 * figures[len(figures) // 2], 1), "p99 ms": round(1000 * p99(figures), 1),
        "longest ms": round(1000 * figures[-1]), "longest act": max(round(end - begun, 1) for begun, end, _ in tally.acts),
    }))
    assert not tally.failures, tally.report()
    # Who leaves says so before it refuses anything: no reload and no upgrade costs a client a second try.
    assert tally.counts["closed on reuse"] == tally.counts["streams refused"] == 0, tally.report()
    return took, tally.counts


def check(machine, counts, sockets, todo):
    assert counts["WebSockets"] == sockets + 3 and counts["echoes"] and counts["events"] and counts["uploads"]
    assert counts["requests of HTTP/2"] and counts["requests"] > MANY
    # Everybody has left, so nothing is left to wait for.
    harness.eventually(lambda: len(servers(machine.host)) == 1, 20, "only the last server is there")
    assert len(machine.host.log.matches("upgrade complete")) == todo.count("upgrade")


def test_changes_and_an_upgrade_under_load_are_not_noticed(machine):
    todo = acts(reloads=6, changes=3, upgrades=1)
    _, counts = under_load(machine, 12, todo, sockets=20, events=3, uploads=3, upload_seconds=5.0)
    check(machine, counts, 20, todo)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_50_reloads_10_changes_and_5_upgrades_in_120_seconds_under_load_are_not_noticed(machine):
    todo = acts(reloads=50, changes=10, upgrades=5)
    took, counts = under_load(machine, 120, todo, sockets=200, events=10, uploads=5, upload_seconds=20.0)
    assert took < 150
    check(machine, counts, 200, todo)
