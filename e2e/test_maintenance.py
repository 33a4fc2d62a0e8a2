"""`ostler maintenance on|off NAME`: a project's maintenance page in its place, while everything runs on."""

import json
import signal
import socket
import sys

import pytest
from websockets.sync.client import connect

import harness
from test_status import ostler, status

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""

FILE = """
[server]
state = "state"
listen = ["127.0.0.1:{port}"]
admin = "127.0.0.1:{metrics}"
access_log = "-"

[projects.shop]
source = "shop"
hosts = ["shop.test"]
{keys}
[projects.shop.web]
app = "app:app"
python = "{python}"
[projects.shop.errors]
maintenance = "back.html"
[projects.shop.access]
deny = ["127.0.0.9"]

[projects.blog]
source = "shop"
hosts = ["blog.test"]
[projects.blog.web]
app = "app:app"
python = "{python}"
"""


class Machine:
    def __init__(self, host, folder):
        self.start = host
        (folder / "shop").mkdir()
        (folder / "shop" / "app.py").write_text(APP)
        (folder / "shop" / "back.html").write_text("<p>back soon")
        self.file = folder / "ostler.toml"
        self.port, self.metrics = harness.free_port(), harness.free_port()
        self.write()
        self.host = self.serve()

    def serve(self):
        self.host = self.start.serve(port=self.port, folder=self.file.parent)
        for name in ("shop", "blog"):
            self.host.log.wait(f"{name}: ready")
        return self.host

    def write(self, keys=""):
        text = FILE
        for name, value in {"port": self.port, "metrics": self.metrics, "python": sys.executable, "keys": keys}.items():
            text = text.replace("{" + name + "}", str(value))
        self.file.write_text(text)

    def code(self, name="shop.test", **more):
        return self.host.request("GET", "/", {"Host": name}, **more).status

    def kept(self):
        return json.loads((self.file.parent / "state" / "maintenance.json").read_text())


@pytest.fixture
def machine(host, tmp_path):
    return Machine(host, tmp_path)


def workers(machine):
    return {worker.pid for worker in machine.host.workers()}


def project(machine, name="shop"):
    return next(project for project in status(machine)["projects"] if project["name"] == name)


def test_page_is_shown_at_once_and_taken_away_and_no_worker_notices(machine):
    before = workers(machine)
    request = b"GET / HTTP/1.1\r\nHost: shop.test\r\nAccept: text/html\r\n\r\n"
    with machine.host.raw() as open_before, connect(
        "ws://shop.test/", sock=socket.create_connection(("127.0.0.1", machine.port)),
    ) as talk:
        assert open_before.send(request).answer().status == 200
        done = ostler(machine, "maintenance", "on", "shop")
        assert (done.returncode, done.stdout, done.stderr) == (0, "shop: shows its maintenance page\n", "")
        answer = open_before.send(request).answer()
        assert (answer.status, answer.text, answer.header("Retry-After")) == (503, "<p>back soon", "60")
        talk.send("still here")
        assert talk.recv(10) == "still here"
        assert machine.code(source="127.0.0.9") == 403, "who is not let in learns nothing new"
        assert machine.code("blog.test") == 200
        assert project(machine)["maintenance"] == {"switched": True, "file": []}
        screen = ostler(machine, "status").stdout
        assert "serving, maintenance" in screen and "note: shop shows its maintenance page; hint: ostler maintenance off shop" in screen
        done = ostler(machine, "maintenance", "on", "shop")
        assert (done.returncode, done.stdout) == (0, "shop: shows its maintenance page already\n")
        done = ostler(machine, "maintenance", "off", "shop")
        assert (done.returncode, done.stdout, done.stderr) == (0, "shop: was switched back\n", "")
        assert open_before.send(request).answer().status == 200
        talk.send("and now")
        assert talk.recv(10) == "and now"
    assert workers(machine) == before
    assert project(machine)["maintenance"] == {"switched": False, "file": []}
    page = machine.host.log
    page.wait(r'"GET / HTTP/1.1" 503')
    rows = harness.eventually(lambda: ostler(machine, "requests", "--json", "--status", "503").stdout.splitlines())
    row = json.loads(rows[0])
    assert (row["project"], row["reason"]) == ("shop", "maintenance")
    with harness.Raw(("127.0.0.1", machine.metrics)) as raw:
        told = raw.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").answer().text
    assert 'reason="maintenance"' in told


def test_it_stays_over_reloads_lost_servers_and_restarts(machine):
    assert ostler(machine, "maintenance", "on", "shop").returncode == 0
    assert machine.kept() == ["shop"]
    machine.write('https = "optional"')
    assert ostler(machine, "reload").returncode == 0
    assert machine.code() == 503
    assert ostler(machine, "reload", "shop").returncode == 0, "new workers, and the page stays"
    assert machine.code() == 503
    machine.host.server().kill()
    machine.host.log.wait("the server ended unexpectedly")
    harness.eventually(lambda: machine.code("blog.test") == 200)
    assert machine.code() == 503
    machine.host.process.send_signal(signal.SIGKILL)
    machine.host.process.wait()
    harness.eventually(lambda: not machine.host.processes(), 10, "every process has ended")
    machine.serve()
    assert machine.code() == 503 and machine.code("blog.test") == 200
    # A project that goes and comes again under its name does not come open.
    text = machine.file.read_text()
    machine.file.write_text(text.replace("[projects.shop", "[projects.shop2"))
    assert ostler(machine, "reload").returncode == 0
    assert machine.code() == 200
    machine.file.write_text(text)
    assert ostler(machine, "reload").returncode == 0
    assert machine.code() == 503
    machine.file.write_text(text.replace("[projects.shop", "[projects.shop2"))
    assert ostler(machine, "reload").returncode == 0
    done = ostler(machine, "maintenance", "off", "shop")
    assert (done.returncode, done.stdout) == (0, "shop: was switched back\n"), "nobody has the name now"
    assert machine.kept() == []


def test_what_the_file_says_is_said_with_what_to_do(machine):
    machine.write("maintenance = true")
    assert ostler(machine, "reload").returncode == 0
    assert machine.code() == 503
    assert project(machine)["maintenance"] == {"switched": False, "file": ["shop.test/"]}
    assert "as its configuration has it" in ostler(machine, "status").stdout
    done = ostler(machine, "maintenance", "off", "shop")
    assert done.returncode == 1 and done.stdout == "shop: was not switched to its maintenance page\n"
    assert "shop still shows it on shop.test/: the configuration file has `maintenance = true`; hint: take that out" in done.stderr
    assert ostler(machine, "maintenance", "on", "shop").returncode == 0
    machine.write()
    assert ostler(machine, "reload").returncode == 0
    assert machine.code() == 503, "switched, and the file has nothing to do with it"
    assert ostler(machine, "maintenance", "off", "shop").returncode == 0
    assert machine.code() == 200


def test_wrong_words_are_named(machine):
    done = ostler(machine, "maintenance", "on", "shpo")
    assert done.returncode == 1 and "no project is called `shpo`; hint: did you mean `shop`? There are blog, shop" in done.stderr
    done = ostler(machine, "maintenance", "off", "\x1b[2Jx&on=true")
    assert done.returncode == 1 and "no project is called" in done.stderr and "\x1b" not in done.stderr
    assert ostler(machine, "maintenance", "maybe", "shop").returncode == 2
    assert ostler(machine, "maintenance", "on").returncode == 2
    assert machine.code() == 200
    # What cannot be kept is not switched.
    (machine.file.parent / "state" / "maintenance.json.new").mkdir()
    done = ostler(machine, "maintenance", "on", "shop")
    assert done.returncode == 1 and "maintenance.json cannot be written" in done.stderr
    assert machine.code() == 200
