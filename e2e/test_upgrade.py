"""`ostler upgrade` and USR2: another binary takes the place of the one that runs, and nobody notices; or it cannot, and
nothing has happened."""

import errno
import os
import shutil
import signal
import socket
import sys
import threading

import psutil
import pytest
from websockets.sync.client import connect

import harness
from conftest import certificate
from test_serve import APP, TWO, Machine, seen
from test_status import ostler, status
from traffic import ASGI


def put(program, source=harness.OSTLER):
    """Puts another file in the place of `program`, as an installer does."""
    new = program.with_suffix(".new")
    shutil.copy(source, new)
    new.rename(program)
    return program.stat().st_ino


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "bin" / "ostler"
    path.parent.mkdir()
    put(path)
    return path


@pytest.fixture
def machine(host, tmp_path, program):
    return Machine(host, tmp_path, program=program)


def running_file(host):
    """The file of the process that people know the pid of."""
    return os.stat(f"/proc/{host.process.pid}/exe").st_ino


def servers(host):
    return {p.pid for p in host._children(host.process.pid) if "__server" in harness.command_line(p)}


def test_an_upgrade_loses_no_request_and_keeps_the_pid(machine, program):
    host, (before,) = machine.host, servers(machine.host)
    clients = [harness.Client(host, keep=keep, name="shop.test") for keep in (True, False)]
    idle = host.raw()
    idle.send(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    assert idle.answer().status == 200
    new = put(program)
    done = ostler(machine, "upgrade")
    assert done.returncode == 0, (done.stderr, str(host.log))
    assert done.stdout.endswith("upgraded\n") and "serves in the place of" in done.stdout
    assert running_file(host) == new
    # A connection that was idle gets its next answer, and is told to close.
    idle.send(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    answer = idle.answer()
    assert (answer.status, answer.header("Connection")) == (200, "close")
    harness.eventually(lambda: before not in servers(host), 20)
    told = status(machine)
    assert told["keeper"] == host.process.pid and told["server"] in servers(host)
    for client in clients:
        client.finish()
        assert client.failures == [] and client.count > 3
    harness.eventually(lambda: len(servers(host)) == 1 and len(host.zygotes()) == 2, 20)
    # What it is now can do all of it again.
    machine.reload(TWO.replace("workers = 2", "workers = 1"))
    assert seen(host, "shop.test", "/x")[0] == "shop.test"
    put(program)
    assert ostler(machine, "upgrade").returncode == 0


@pytest.mark.parametrize("who", ["app", "file/large"])
def test_an_answer_that_has_promised_to_keep_its_connection_does_so(host, tmp_path, program, who):
    """Its head was written before the upgrade, its last byte goes out afterwards."""
    shop = tmp_path / "shop"
    (shop / "files").mkdir(parents=True)
    (shop / "app.py").write_text("""
def app(environ, start_response):
    body = bytes(30_000_000) if environ["PATH_INFO"] == "/app" else b"ok"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
""")
    (shop / "files" / "large").write_bytes(bytes(30_000_000))
    port = harness.free_port()
    (tmp_path / "ostler.toml").write_text(f"""
[server]
listen = ["127.0.0.1:{port}"]
state = "state"
[projects.shop]
source = "shop"
hosts = ["*"]
[projects.shop.static]
"/file" = "files"
[projects.shop.web]
app = "app:app"
python = "{sys.executable}"
""")
    running = host.serve(port=port, ready="shop: ready", program=program)
    with running.raw(30) as raw:
        answer = raw.send(f"GET /{who} HTTP/1.1\r\nHost: a\r\n\r\n".encode()).answer(head_only=True)
        assert answer.status == 200 and answer.header("Connection") is None
        put(program)
        machine = type("One", (), {})()
        machine.file, machine.port, machine.host = tmp_path / "ostler.toml", port, running
        assert ostler(machine, "upgrade").returncode == 0
        assert raw.body(answer) == (bytes(30_000_000), True)
        assert raw.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").answer().header("Connection") == "close"


def test_open_sockets_outlive_several_upgrades_until_the_drain_ends(host, tmp_path, program):
    (tmp_path / "app.py").write_text(ASGI)
    port = harness.free_port()
    file = tmp_path / "ostler.toml"
    text = f"""
[server]
listen = ["127.0.0.1:{port}"]
state = "state"
drain = "DRAIN"
[projects.talk]
source = "."
hosts = ["*"]
[projects.talk.web]
app = "app:app"
python = "{sys.executable}"
"""
    file.write_text(text.replace("DRAIN", "5m"))
    running = host.serve(port=port, ready="talk: ready", program=program)
    running.file = file
    sockets = []
    for number in range(3):
        sockets.append(connect(f"ws://127.0.0.1:{port}/"))
        for known in sockets:
            known.send(str(number))
            assert known.recv(10) == str(number)
        assert ostler(running, "upgrade").returncode == 0
    # One that comes while the server before still takes what the kernel had accepted may be there too.
    assert len(servers(running)) >= 3
    for known in sockets:
        known.send("still")
        assert known.recv(10) == "still"
        known.close()
    harness.eventually(lambda: len(servers(running)) == 1, 20)
    # The next server has less patience with the one before it.
    file.write_text(text.replace("DRAIN", "1s"))
    last = connect(f"ws://127.0.0.1:{port}/")
    assert ostler(running, "upgrade").returncode == 0
    with pytest.raises(Exception) as closed:
        last.recv(30)
    assert closed.value.rcvd.code == 1012
    # All of them end with the process.
    assert running.stop() == 0


def stay(machine, before, file):
    """Everything is as it was, and can do what it could."""
    host = machine.host
    harness.eventually(lambda: servers(host) == before, 20)
    assert running_file(host) == file
    assert seen(host, "shop.test", "/x")[0] == "shop.test"
    machine.reload(TWO.replace("workers = 2", "workers = 3"))
    harness.eventually(lambda: len(machine.workers("shop")) == 3, 20)


@pytest.mark.parametrize("what, says", [
    ("nothing", "No such file"),
    ("true", "cannot take over"),
    ("no program", "cannot take over"),
    ("half", "cannot take over"),
])
def test_a_file_that_is_no_ostler_changes_nothing(machine, program, what, says):
    before, file = servers(machine.host), program.stat().st_ino
    if what == "nothing":
        program.unlink()
    elif what == "true":
        put(program, "/bin/true")
    elif what == "no program":
        program.with_suffix(".txt").write_text("#!/bin/sh\nexit 3\n")
        os.chmod(program.with_suffix(".txt"), 0o755)
        put(program, program.with_suffix(".txt"))
    else:
        whole = harness.OSTLER.read_bytes()
        program.with_suffix(".half").write_bytes(whole[: 1 << 20])
        put(program, program.with_suffix(".half"))
        os.chmod(program, 0o755)
    done = ostler(machine, "upgrade")
    assert done.returncode == 1 and done.stderr.startswith("error: "), done
    machine.host.log.wait("upgrade failed: .*everything stays as it was")
    stay(machine, before, file)


def test_a_configuration_that_is_wrong_by_now_changes_nothing(machine, program):
    before, file = servers(machine.host), program.stat().st_ino
    put(program)
    machine.write(TWO.replace("hosts = [", "hots = ["))
    done = ostler(machine, "upgrade")
    assert done.returncode == 1 and "did you mean `hosts`?" in done.stderr, done.stderr
    stay(machine, before, file)


def test_an_app_that_does_not_come_up_gives_the_process_back(machine, program):
    host, before, file = machine.host, servers(machine.host), program.stat().st_ino
    client = harness.Client(host, name="shop.test")
    zygotes = {zygote.pid for zygote in host.zygotes()}
    app = machine.file.parent / "shop" / "app.py"
    good = app.read_text()
    app.write_text("raise KeyError('by the new one')")
    put(program)
    done = ostler(machine, "upgrade")
    assert done.returncode == 1 and "by the new one" in done.stderr, done.stderr
    harness.eventually(lambda: {zygote.pid for zygote in host.zygotes()} == zygotes)
    app.write_text(good)
    stay(machine, before, file)
    assert ostler(machine, "upgrade").returncode == 0
    harness.eventually(lambda: len(servers(host)) == 1 and servers(host).isdisjoint(before))
    assert client.finish().failures == [], host.log


class Broken(Machine):
    """Its shop has never served."""

    def prepare(self):
        (self.file.parent / "shop" / "app.py").write_text("raise KeyError('all the time')")

    def wait(self):
        self.host.log.wait("KeyError: 'all the time'")


def test_an_app_that_never_served_stands_in_nobodys_way(host, tmp_path, program):
    machine = Broken(host, tmp_path, program=program)
    done = ostler(machine, "upgrade")
    assert done.returncode == 0, done.stderr
    assert seen(machine.host, "blog.test", "/blog/x")[1] == "/blog"


def test_a_server_that_dies_beside_the_other_gives_the_process_back(machine, program):
    host, before, file = machine.host, servers(machine.host), program.stat().st_ino
    upgrade = Gated(machine, program)
    psutil.Process(upgrade.new).kill()
    host.log.wait("everything stays as it was")
    done = upgrade.open()
    assert done.returncode == 1 and "the new server ended: SIGKILL" in done.stderr, done
    stay(machine, before, file)


class Gated:
    """An upgrade whose new server waits for its app."""

    def __init__(self, machine, program):
        self.machine, self.done = machine, []
        app = machine.file.parent / "shop" / "app.py"
        self.gate, self.good = app.parent / "gate", app.read_text()
        app.write_text(f"import time, os\nwhile not os.path.exists({str(self.gate)!r}): time.sleep(0.05)\n" + self.good)
        before = servers(machine.host)
        put(program)
        self.thread = threading.Thread(target=lambda: self.done.append(ostler(machine, "upgrade")))
        self.thread.start()
        (self.new,) = harness.eventually(lambda: servers(machine.host) - before, 20)

    def open(self):
        self.gate.write_text("")
        self.thread.join(40)
        return self.done[0]


def test_the_server_that_serves_may_die_meanwhile(machine, program):
    host, (before,), file = machine.host, servers(machine.host), program.stat().st_ino
    upgrade = Gated(machine, program)
    psutil.Process(before).kill()
    # The program before starts another server, which starts the same app.
    host.log.wait("everything stays as it was")
    upgrade.open()
    harness.eventually(lambda: host.get("/x", {"Host": "shop.test"}).status == 200, 30)
    assert running_file(host) == file
    harness.eventually(lambda: len(servers(host)) == 1, 20)


def test_maintenance_waits_for_the_end_of_an_upgrade(machine, program):
    upgrade = Gated(machine, program)
    refused = ostler(machine, "maintenance", "on", "shop")
    assert refused.returncode == 1 and "an upgrade is under way" in refused.stderr, refused
    assert upgrade.open().returncode == 0
    # What the kernel had accepted is still served by the one before.
    harness.eventually(lambda: len(servers(machine.host)) == 1, 20)
    assert ostler(machine, "maintenance", "on", "shop").returncode == 0
    assert machine.host.get("/x", {"Host": "shop.test"}).status == 503
    # The next one is told.
    assert ostler(machine, "upgrade").returncode == 0
    harness.eventually(lambda: len(servers(machine.host)) == 1, 20)
    assert machine.host.get("/x", {"Host": "shop.test"}).status == 503


def test_after_a_failed_upgrade_a_stop_closes_the_door(machine, program):
    machine.write(TWO.replace("hosts = [", "hots = ["))
    assert ostler(machine, "upgrade").returncode == 1
    app = machine.file.parent / "shop" / "app.py"
    machine.write(TWO)
    app.write_text("raise KeyError('by the new one')")
    assert ostler(machine, "upgrade").returncode == 1
    with machine.host.raw() as held:
        held.send(b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\n\r\na")
        machine.host.kill(signal.SIGTERM)
        machine.host.log.wait("no new connections")

        def refused():
            with socket.socket() as knocking:
                return knocking.connect_ex(("127.0.0.1", machine.port)) == errno.ECONNREFUSED

        harness.eventually(refused)
        held.send(b"b")
    assert machine.host.wait_exit() == 0


def test_signals_that_come_meanwhile_are_not_lost(machine, program):
    host = machine.host
    for _ in range(3):
        put(program)
        host.kill(signal.SIGUSR2)
    host.kill(signal.SIGTERM)
    assert host.wait_exit() == 0


def test_a_certificate_that_changes_meanwhile_is_served_afterwards(host, tmp_path, program, tls):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    port = harness.free_port()
    (tmp_path / "ostler.toml").write_text(f"""
[server]
listen = ["127.0.0.1:{port}"]
listen_tls = ["127.0.0.1:{harness.free_port()}"]
state = "state"
[projects.shop]
source = "shop"
hosts = ["shop.test"]
https = "optional"
certfile = "{tls[0]}"
keyfile = "{tls[1]}"
[projects.shop.web]
app = "app:app"
python = "{sys.executable}"
""")
    machine = type("One", (), {})()
    machine.file, machine.port = tmp_path / "ostler.toml", port
    machine.host = host.serve(port=port, ready="shop: ready", program=program)
    upgrade = Gated(machine, program)
    certificate(tls[0].parent)
    client = harness.Client(machine.host, name="shop.test")
    # A look at the files takes place within this.
    upgrade.thread.join(6)
    assert upgrade.open().returncode == 0
    assert client.finish().failures == [], machine.host.log
    machine.host.log.wait("certificate files have changed")


def test_new_addresses_are_bound_and_old_ones_closed(machine, program):
    other = harness.free_port()
    machine.write(TWO.replace('"127.0.0.1:{port}"', f'"127.0.0.1:{{port}}", "127.0.0.1:{other}"'))
    assert ostler(machine, "upgrade").returncode == 0
    with harness.Raw(("127.0.0.1", other)) as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
        assert raw.answer().status == 200
    machine.write(TWO)
    assert ostler(machine, "upgrade").returncode == 0

    def refused():
        with socket.socket() as knocking:
            return knocking.connect_ex(("127.0.0.1", other)) == errno.ECONNREFUSED

    harness.eventually(refused)
    assert seen(machine.host, "shop.test")[0] == "shop.test"


def test_an_address_that_cannot_be_bound_gives_the_process_back(machine, program):
    before, file = servers(machine.host), program.stat().st_ino
    put(program)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        machine.write(TWO.replace('"127.0.0.1:{port}"', f'"127.0.0.1:{{port}}", "127.0.0.1:{port}"'))
        done = ostler(machine, "upgrade")
    assert done.returncode == 1 and "another program listens there" in done.stderr, done.stderr
    stay(machine, before, file)


def test_usr2_upgrades_ostler_run(host, tmp_path, program):
    running = host("app:app", "--pid", "pid", source="""
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"ok"]
""", program=program)
    client = harness.Client(running)
    (before,) = servers(running)
    new = put(program)
    running.kill(signal.SIGUSR2)
    running.log.wait("upgrade complete")
    assert running_file(running) == new
    harness.eventually(lambda: before not in servers(running), 20)
    client.finish()
    assert client.failures == []
    assert int((tmp_path / "pid").read_text()) == running.process.pid
    (tmp_path / "app.py").write_text("raise KeyError('by the new one')")
    file = running_file(running)
    put(program)
    running.kill(signal.SIGUSR2)
    running.log.wait("upgrade failed")
    assert running.get().body == b"ok" and running_file(running) == file


def test_a_link_is_followed_anew(host, tmp_path):
    old, new, link = tmp_path / "1", tmp_path / "2", tmp_path / "ostler"
    put(old)
    put(new)
    link.symlink_to(old)
    running = host("app:app", source="def app(e, s):\n    s('200 OK', [])\n    return [b'ok']\n", program=link)
    link.unlink()
    link.symlink_to(new)
    running.kill(signal.SIGUSR2)
    running.log.wait("upgrade complete")
    assert running_file(running) == new.stat().st_ino
