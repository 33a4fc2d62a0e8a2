"""`ostler serve`: several projects on one machine, each found under its own hosts and paths."""

import json
import signal
import subprocess
import sys

import psutil
import pytest

import harness
from harness import Raw

APP = """
import json
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([environ["HTTP_HOST"], environ["SCRIPT_NAME"], environ["PATH_INFO"]]).encode()]
"""


def seen(host, name, path="/"):
    """Host, SCRIPT_NAME and PATH_INFO as the app saw them, or the code of ostler's own answer."""
    answer = host.get(path, {"Host": name, "Accept": "application/json"})
    told = json.loads(answer.body)
    return told if answer.status == 200 else (answer.status, told["code"])


def test_one_app_is_served_under_its_hosts_without_a_file(host, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    port = harness.free_port()
    running = host.serve(
        "--host", "Example.com", "--host", "*.shop.test", "--listen", f"127.0.0.1:{port}", "app:app", port=port,
    )
    assert seen(running, "example.com", "/x") == ["example.com", "", "/x"]
    assert seen(running, "EXAMPLE.com.:80") == ["EXAMPLE.com.:80", "", "/"]
    assert seen(running, "a.shop.test") == ["a.shop.test", "", "/"]
    for stranger in ["b.a.shop.test", "shop.test", "other.test", "127.0.0.1"]:
        assert seen(running, stranger) == (404, "no_route")


TWO = """
[server]
listen = ["127.0.0.1:{port}"]
state = "state"
default_host = "shop.test"

[projects.shop]
source = "shop"
hosts = ["shop.test", "*.shop.test"]
[projects.shop.web]
app = "app:app"
python = "{python}"
workers = 2

[projects.blog]
source = "blog"
hosts = ["blog.test"]
[[projects.blog.routes]]
prefix = "/blog"
[projects.blog.web]
app = "app:app"
python = "{python}"
[projects.blog.static]
"/static" = "static"
"""


class Machine:
    """Two projects in a folder, and `ostler serve` for them."""

    def __init__(self, host, folder, **options):
        self.file = folder / "ostler.toml"
        for name in ("shop", "blog"):
            (folder / name / "static").mkdir(parents=True)
            (folder / name / "app.py").write_text(APP)
        (folder / "blog" / "static" / "a.txt").write_text("a file")
        self.port = harness.free_port()
        self.write(TWO)
        self.prepare()
        self.host = host.serve(port=self.port, ready="blog: ready", **options)
        self.wait()

    def prepare(self):
        """What is done before the start."""

    def wait(self):
        self.host.log.wait("shop: ready")

    def write(self, text):
        self.file.write_text(text.replace("{port}", str(self.port)).replace("{python}", sys.executable))

    def reload(self, text, outcome="reload complete: the configuration"):
        before = len(self.host.log.matches(outcome))
        self.write(text)
        self.host.kill(signal.SIGHUP)
        self.host.log.wait(outcome, count=before + 1)

    def workers(self, name):
        folder = str(self.file.parent / name)
        return {worker.pid for worker in self.host.workers() if directory(worker) == folder}


def directory(process):
    """Where a process runs; none for one that has just ended."""
    try:
        return process.cwd()
    except psutil.NoSuchProcess:
        return None


@pytest.fixture
def machine(host, tmp_path):
    return Machine(host, tmp_path)


def test_each_project_is_found_under_its_hosts_and_paths(machine):
    running = machine.host
    assert seen(running, "shop.test", "/x") == ["shop.test", "", "/x"]
    assert seen(running, "a.shop.test", "/x") == ["a.shop.test", "", "/x"]
    assert seen(running, "blog.test", "/blog") == ["blog.test", "/blog", ""]
    assert seen(running, "blog.test", "/blog/x%20y") == ["blog.test", "/blog", "/x y"]
    assert seen(running, "blog.test", "/blogs") == (404, "no_route")
    assert seen(running, "unknown.test", "/x") == ["unknown.test", "", "/x"], "the default host"
    assert running.get("/blog/static/a.txt", {"Host": "blog.test"}).body == b"a file"
    assert running.get("/static/a.txt", {"Host": "blog.test"}).status == 404


def test_reload_ends_only_what_vanished_and_starts_only_what_is_new(machine):
    running, shop, blog = machine.host, machine.workers("shop"), machine.workers("blog")
    assert len(shop) == 2 and len(blog) == 1
    client = harness.Client(running, name="shop.test")
    try:
        machine.reload(TWO.replace('hosts = ["blog.test"]', 'hosts = ["news.test"]'))
        assert seen(running, "news.test", "/blog/x") == ["news.test", "/blog", "/x"]
        assert machine.workers("blog") == blog, "another host is no reason for another worker"
        machine.reload(TWO[: TWO.index("[projects.blog]")])
        running.log.wait("blog: all of it has ended")
        assert seen(running, "blog.test", "/blog/x") == ["blog.test", "", "/blog/x"], "the default host"
        machine.reload(TWO)
        running.log.wait("blog: ready", count=2)
        assert seen(running, "blog.test", "/blog/x") == ["blog.test", "/blog", "/x"]
        assert machine.workers("blog").isdisjoint(blog)
    finally:
        client.finish()
    assert machine.workers("shop") == shop, "nobody touched them"
    assert client.failures == [] and client.count > 0


def test_changed_app_settings_are_a_new_generation_of_that_project_alone(machine):
    running, shop, blog = machine.host, machine.workers("shop"), machine.workers("blog")
    machine.reload(TWO.replace("workers = 2", "workers = 3"))
    running.log.wait("shop: reload complete: generation 2 serves")
    harness.eventually(lambda: len(machine.workers("shop")) == 3 and machine.workers("shop").isdisjoint(shop))
    assert machine.workers("blog") == blog


def test_static_folder_changes_without_a_touch_of_a_worker(machine):
    running, before = machine.host, machine.workers("blog")
    machine.reload(TWO.replace('"/static" = "static"', '"/files" = "static"'))
    assert running.get("/blog/files/a.txt", {"Host": "blog.test"}).body == b"a file"
    assert seen(running, "blog.test", "/blog/static/a.txt") == ["blog.test", "/blog", "/static/a.txt"]
    assert machine.workers("blog") == before


def test_wrong_file_changes_nothing_and_says_where_it_is_wrong(machine):
    running, before = machine.host, machine.workers("shop")
    machine.reload(TWO.replace("workers = 2", "workesr = 2"), "reload failed: the configuration stays as it was")
    running.log.wait("unknown key `workesr`")
    running.log.wait("did you mean `workers`")
    assert seen(running, "shop.test", "/x") == ["shop.test", "", "/x"]
    assert machine.workers("shop") == before


def test_project_that_cannot_start_leaves_the_others_alone(host, tmp_path):
    for name in ("shop", "blog"):
        (tmp_path / name / "static").mkdir(parents=True)
        (tmp_path / name / "app.py").write_text(APP if name == "shop" else "import missing_module\n")
    port = harness.free_port()
    (tmp_path / "ostler.toml").write_text(TWO.replace("{port}", str(port)).replace("{python}", sys.executable))
    running = host.serve(port=port, ready="shop: ready")
    running.log.wait("No module named 'missing_module'")
    assert seen(running, "shop.test", "/x") == ["shop.test", "", "/x"]
    assert running.get("/blog/", {"Host": "blog.test"}).status == 503
    (tmp_path / "blog" / "app.py").write_text(APP)
    running.log.wait("blog: ready", 30)
    assert seen(running, "blog.test", "/blog/x") == ["blog.test", "/blog", "/x"]


def test_wrong_file_stops_a_start_with_its_place(tmp_path):
    (tmp_path / "ostler.toml").write_text("[server]\nlisten = [\":80\"]\n[projects.shop]\nsource = \"nowhere\"\nhosts = []\n")
    done = subprocess.run([harness.OSTLER, "serve"], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "ostler.toml:4" in done.stderr and "nowhere" in done.stderr and "ostler.toml:5" in done.stderr


def test_settings_of_the_machine_in_a_config_file_of_an_app_are_a_warning(machine):
    conf = machine.file.parent / "shop" / "gunicorn.conf.py"
    conf.write_text("workers = 9\nthreads = 3\nbind = '127.0.0.1:1'\nkeepalive = 7\ndef when_ready(server): open('called', 'w')\n")
    machine.reload(TWO.replace("workers = 2", "workers = 1"))
    running = machine.host
    running.log.wait(r"shop: set in its config file, but the machine's under `ostler serve` .*: bind, keepalive")
    running.log.wait("shop: hooks of gunicorn's master are not called")
    running.log.wait("shop: reload complete: generation 2 serves")
    harness.eventually(lambda: len(machine.workers("shop")) == 1, what="ostler.toml is above the config file")
    assert not (machine.file.parent / "shop" / "called").exists()


SECURE = """
[server]
listen = ["127.0.0.1:{port}"]
listen_tls = ["127.0.0.1:{tls_port}"]
state = "state"
certfile = "{cert}"
keyfile = "{key}"

[projects.shop]
source = "."
hosts = ["shop.test", "www.shop.test"]
canonical_host = "shop.test"
hsts = "365d"
[projects.shop.web]
app = "app:app"
python = "{python}"

[projects.open]
source = "."
hosts = ["open.test"]
https = "optional"
[projects.open.web]
app = "app:app"
python = "{python}"
"""


def test_requests_without_tls_are_sent_to_https_and_other_names_to_the_canonical_one(host, tls, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    port, tls_port = harness.free_port(), harness.free_port()
    cert, key = tls
    text = SECURE.format(port=port, tls_port=tls_port, cert=cert, key=key, python=sys.executable)
    (tmp_path / "ostler.toml").write_text(text)
    running = host.serve(port=port, ready="shop: ready")
    running.log.wait("open: ready")

    def asked(name, target="/a%20b?c=d", secure=False, method="GET", body=b""):
        address = ("127.0.0.1", tls_port, str(cert), name) if secure else ("127.0.0.1", port)
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        with Raw(address) as raw:
            raw.send(f"{method} {target} HTTP/1.1\r\nHost: {name}\r\n{length}\r\n".encode() + body)
            answer = raw.answer()
        return answer.status, answer.header("Location"), answer.header("Strict-Transport-Security")

    there = f"https://shop.test:{tls_port}/a%20b?c=d"
    hsts = f"max-age={365 * 86400}"
    assert asked("shop.test") == (308, there, None)
    assert asked("www.shop.test") == (308, there, None), "one redirect, not two"
    assert asked("shop.test", method="POST", body=b"x" * 1000) == (308, there, None)
    assert asked("shop.test", f"http://shop.test/a%20b?c=d") == (308, there, None)
    assert asked("shop.test", secure=True) == (200, None, hsts)
    assert asked("www.shop.test", secure=True) == (308, "https://shop.test/a%20b?c=d", hsts)
    assert asked("open.test") == (200, None, None)
    assert asked("unknown.test")[0] == 404
    # The next request of a connection that was redirected is served.
    with Raw(("127.0.0.1", port)) as raw:
        request = "GET / HTTP/1.1\r\nHost: {}\r\n\r\n"
        assert raw.send(request.format("shop.test").encode()).answer().status == 308
        assert raw.send(request.format("open.test").encode()).answer().status == 200


def test_killed_server_comes_back_with_all_projects(machine):
    running = machine.host
    machine.reload(TWO.replace('hosts = ["blog.test"]', 'hosts = ["news.test"]'))
    running.server().kill()
    running.log.wait("the server ended unexpectedly")
    running.log.wait("shop: ready", count=2)
    running.log.wait("blog: ready", count=2)
    assert seen(running, "shop.test", "/x") == ["shop.test", "", "/x"]
    assert seen(running, "news.test", "/blog/x") == ["news.test", "/blog", "/x"], "as the reload left it"


def test_server_that_came_back_knows_what_is_unchanged(machine):
    """An app's own config file says more than ostler.toml, also to the server that is started anew."""
    running = machine.host
    (machine.file.parent / "blog" / "gunicorn.conf.py").write_text("timeout = 31\n")
    for count in (2, 3):
        running.server().kill()
        running.log.wait("blog: ready", count=count)
        running.log.wait("shop: ready", count=count)
    before = machine.workers("blog")
    machine.reload(TWO.replace("workers = 2", "workers = 1"))
    running.log.wait("shop: reload complete: generation 2 serves")
    assert machine.workers("blog") == before
    assert not running.log.matches("blog: changed")


def test_another_host_leaves_what_the_config_file_of_the_app_says(machine):
    running = machine.host
    (machine.file.parent / "shop" / "static" / "b.txt").write_text("of shop")
    conf = machine.file.parent / "shop" / "gunicorn.conf.py"
    conf.write_text("static_files = {'/own': 'static'}\n")
    machine.reload(TWO.replace("workers = 2", "workers = 1"))
    running.log.wait("shop: reload complete: generation 2 serves")
    assert running.get("/own/b.txt", {"Host": "shop.test"}).body == b"of shop"
    machine.reload(TWO.replace("workers = 2", "workers = 1").replace('"*.shop.test"', '"other.test"'))
    assert running.get("/own/b.txt", {"Host": "other.test"}).body == b"of shop"


def test_app_that_was_named_wrongly_is_served_once_it_is_named_rightly(host, tmp_path):
    for name in ("shop", "blog"):
        (tmp_path / name / "static").mkdir(parents=True)
        (tmp_path / name / "app.py").write_text(APP)
    port = harness.free_port()
    good = TWO.replace("{port}", str(port)).replace("{python}", sys.executable)
    at = good.index("[projects.blog.web]")
    (tmp_path / "ostler.toml").write_text(good[:at] + good[at:].replace("app:app", "app:ap"))
    running = host.serve(port=port, ready="shop: ready")
    running.log.wait("did you mean")
    (tmp_path / "ostler.toml").write_text(good)
    running.kill(signal.SIGHUP)
    running.log.wait("blog: ready")
    assert seen(running, "blog.test", "/blog/x") == ["blog.test", "/blog", "/x"]


def test_killed_keeper_takes_all_projects_along(machine):
    machine.host.process.kill()
    harness.eventually(lambda: not machine.host.processes(), 10, "every process has ended")


def test_many_reloads_at_once_end_in_the_last_file(machine):
    running = machine.host
    for n in range(20):
        machine.write(TWO.replace('hosts = ["blog.test"]', f'hosts = ["n{n}.test"]'))
        running.kill(signal.SIGHUP)
    harness.eventually(lambda: seen(running, "n19.test", "/blog/x") == ["n19.test", "/blog", "/x"])
    assert seen(running, "n0.test", "/blog/x") == ["n0.test", "", "/blog/x"], "the default host"


def test_project_that_goes_and_comes_again_does_not_meet_its_own_end(machine):
    running = machine.host
    without = TWO[: TWO.index("[projects.blog]")]
    for n in range(3):
        machine.reload(without)
        machine.reload(TWO)
        running.log.wait("blog: ready", count=2 + n)
        assert seen(running, "blog.test", "/blog/x") == ["blog.test", "/blog", "/x"]
    running.log.wait("blog: all of it has ended", count=3)
    harness.eventually(lambda: len(machine.workers("blog")) == 1)


def test_request_under_way_ends_though_its_project_has_gone(host, tmp_path):
    slow = "import time\ndef app(environ, start_response):\n    open('begun', 'w').close()\n    time.sleep(1.5)\n    start_response('200 OK', [])\n    return [b'done']\n"
    for name in ("shop", "blog"):
        (tmp_path / name / "static").mkdir(parents=True)
        (tmp_path / name / "app.py").write_text(APP if name == "shop" else slow)
    port = harness.free_port()
    text = TWO.replace("{port}", str(port)).replace("{python}", sys.executable)
    (tmp_path / "ostler.toml").write_text(text)
    running = host.serve(port=port, ready="blog: ready")
    with running.raw(20) as first, running.raw(20) as second:
        request = b"GET /blog/ HTTP/1.1\r\nHost: blog.test\r\n\r\n"
        first.send(request)
        harness.eventually((tmp_path / "blog" / "begun").exists)
        # The only worker is busy: this one waits in line.
        second.send(request)
        assert seen(running, "shop.test")[0] == "shop.test", "what came before has been read"
        (tmp_path / "ostler.toml").write_text(text[: text.index("[projects.blog]")])
        running.kill(signal.SIGHUP)
        running.log.wait("blog: is served no more")
        assert first.answer().body == b"done"
        assert second.answer().body == b"done"
    running.log.wait("blog: all of it has ended")


def test_no_project_is_left_and_the_server_still_stops(machine):
    machine.reload("[server]\nlisten = [\"127.0.0.1:{port}\"]\n")
    machine.host.log.wait("all of it has ended", count=2)
    assert seen(machine.host, "shop.test") == (404, "no_route")
    assert machine.host.stop() == 0
