"""`ostler status` and `ostler reload`: what a running server says of itself, and to whom."""

import json
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import harness
from test_serve import TWO, Machine, seen

SLOW = """
import os, time
def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open("begun", "a").write("x")
        while not os.path.exists("go"):
            time.sleep(0.01)
    start_response("200 OK", [])
    return [b"done"]
"""


@pytest.fixture
def machine(host, tmp_path):
    return Machine(host, tmp_path)


def ostler(machine, *args, env=None, cwd=None):
    """One command in the folder of the file, to its end."""
    command = [str(harness.OSTLER), *map(str, args)]
    return subprocess.run(
        command, cwd=cwd or machine.file.parent, env={**os.environ, **(env or {})},
        capture_output=True, text=True, timeout=60,
    )


def status(machine, *args):
    done = ostler(machine, "status", "--json", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def project(told, name):
    return next(project for project in told["projects"] if project["name"] == name)


def test_status_shows_projects_workers_routes_and_limits(machine):
    for _ in range(3):
        assert seen(machine.host, "shop.test", "/x")[0] == "shop.test"
    told = status(machine)
    assert told["keeper"] == machine.host.process.pid
    assert told["server"] == machine.host.server().pid
    assert told["listeners"] == [f"http://127.0.0.1:{machine.port}"]
    assert told["certificates"] == []
    shop, blog = project(told, "shop"), project(told, "blog")
    assert (shop["state"], shop["app"], shop["interface"], shop["generation"]) == ("serving", "app:app", "wsgi", 1)
    assert shop["routes"] == ["shop.test/", "*.shop.test/"] and blog["routes"] == ["blog.test/blog"]
    assert {worker["pid"] for worker in shop["workers"]} == machine.workers("shop")
    assert {worker["state"] for worker in shop["workers"]} == {"ready"}
    assert sum(worker["requests"] for worker in shop["workers"]) == 3
    assert sum(worker["requests"] for worker in blog["workers"]) == 0
    assert all(worker["memory"] > 100_000 for worker in shop["workers"])
    assert shop["limits"]["timeout"] == 30 and shop["limits"]["line_length"] == 1000
    screen = ostler(machine, "status").stdout
    assert "\x1b" not in screen
    header, row = re.search(r"^(PROJECT .*)\n(.*)$", screen, re.M).groups()
    assert row.startswith("blog") and row.index("serving") == header.index("STATE")
    assert row.rindex("0") == header.index("CRASHES") + len("CRASHES") - 1, "numbers stand on the right"


def test_status_shows_the_limits_that_requests_meet(machine):
    def limits():
        groups = project(status(machine), "shop")["limits"]["routes"]
        return [(group["routes"], group["limit_request_body"], group["rates"]) for group in groups]

    everywhere = ["shop.test/", "*.shop.test/"]
    assert limits() == [(everywhere, 100 << 20, [])]
    rates = '["1000/m", "5000/h per route burst 50"]'
    machine.write(TWO + f"""
[projects.shop.limits]
body = "1KiB"
rate = {rates}
[[projects.shop.routes]]
prefix = "/"
[[projects.shop.routes]]
prefix = "/up"
limits.body = "1GiB"
[[projects.shop.routes]]
prefix = "/open"
limits.rate = []
""")
    done = ostler(machine, "reload")
    assert done.returncode == 0, done.stderr
    said = ["1000/m per address", "5000/h per route burst 50"]
    up, open_ = (sorted(f"{host}{path}" for host in ("shop.test", "*.shop.test")) for path in ("/up", "/open"))
    told = {tuple(sorted(routes)): rest for routes, *rest in limits()}
    assert told == {
        tuple(sorted(everywhere)): [1024, said], tuple(up): [100 << 20, said], tuple(open_): [1024, []],
    }
    screen = ostler(machine, "status").stdout
    assert re.search(r"^shop.test/ +1.0 KiB  1000/m per address, 5000/h per route burst 50$", screen, re.M), screen
    assert re.search(r"^shop.test/open +1.0 KiB  -$", screen, re.M) and re.search(r"^blog +100.0 MiB  -$", screen, re.M)
    refused = machine.host.request("POST", "/", {"Host": "shop.test"}, b"x" * 1025)
    assert refused.status == 413


def test_status_shows_who_is_busy_and_who_waits(host, tmp_path):
    machine = Machine(host, tmp_path)
    (tmp_path / "blog" / "app.py").write_text(SLOW)
    assert ostler(machine, "reload", "blog").returncode == 0
    begun = tmp_path / "blog" / "begun"
    with machine.host.raw(30) as first, machine.host.raw(30) as second:
        request = b"GET /blog/slow HTTP/1.1\r\nHost: blog.test\r\n\r\n"
        first.send(request)
        harness.eventually(begun.exists)
        second.send(request)
        blog = harness.eventually(
            lambda: next((p for p in [project(status(machine), "blog")] if p["line"]["length"] == 1), None),
        )
        assert blog["line"]["oldest"] > 0
        assert [(worker["busy"], worker["slots"]) for worker in blog["workers"] if worker["state"] == "ready"] == [(1, 1)]
        (tmp_path / "blog" / "go").write_text("")
        assert first.answer().body == second.answer().body == b"done"
    assert project(status(machine), "blog")["line"] == {"length": 0, "oldest": None}


def test_colours_are_for_terminals_and_can_be_turned_off(machine):
    def on_terminal(env):
        ours, theirs = pty.openpty()
        done = subprocess.Popen(
            [harness.OSTLER, "status"], cwd=machine.file.parent, stdout=theirs, env={**os.environ, **env},
        )
        os.close(theirs)
        out = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:
                break
            if not piece:
                break
            out += piece
        os.close(ours)
        assert done.wait(20) == 0
        return out

    assert b"\x1b[32mserving\x1b[0m" in on_terminal({"NO_COLOR": ""})
    assert b"\x1b" not in on_terminal({"NO_COLOR": "1"})


def test_reload_leaves_addresses_as_they_are_bound_and_an_upgrade_takes_them(machine, tls):
    cert, key = tls
    ports = [harness.free_port() for _ in range(2)]

    def secure(port):
        return TWO.replace("[server]", f"""[server]
listen_tls = ["127.0.0.1:{port}"]
certfile = "{cert}"
keyfile = "{key}"
""", 1)

    def done(*words):
        done = ostler(machine, *words)
        assert done.returncode == 0, (done.stderr, str(machine.host.log))
        return done.stderr

    def plain():
        answer = machine.host.get("/x", {"Host": "shop.test"})
        return answer.status, answer.header("Location")

    def handshake(port):
        with harness.Raw(("127.0.0.1", port, str(cert), "shop.test")) as raw:
            return raw.send(b"GET /x HTTP/1.1\r\nHost: shop.test\r\n\r\n").answer().status

    def closed(port):
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", port)) != 0

    warned = "warning: `listen_tls` of [server] changed; it takes effect with `ostler upgrade` or a restart\n"
    there = [(308, f"https://shop.test:{port}/x") for port in ports]
    machine.write(secure(ports[0]))
    for _ in range(2):
        assert done("reload") == warned
        assert plain() == (200, None), "nobody is sent to a port that nobody listens on"
    done("upgrade")
    assert plain() == there[0] and handshake(ports[0]) == 200
    machine.write(secure(ports[1]))
    assert done("reload") == warned
    assert plain() == there[0] and handshake(ports[0]) == 200
    machine.write(TWO)
    assert done("reload") == warned
    assert plain() == there[0] and handshake(ports[0]) == 200, "its certificate is still there"
    machine.write(secure(ports[1]))
    done("upgrade")
    assert plain() == there[1] and handshake(ports[1]) == 200
    harness.eventually(lambda: closed(ports[0]))
    assert done("reload") == ""
    machine.write(TWO.replace("state =", 'backlog = 100\nstate =').replace(f"127.0.0.1:{{port}}", f"127.0.0.1:{ports[0]}"))
    assert done("reload") == warned.replace("`listen_tls`", "`listen_tls`, `listen`, `backlog`").replace("it takes", "they take")
    done("upgrade")
    machine.host.port = ports[0]
    assert plain() == (200, None)


def test_reload_says_what_changed_once_it_serves(machine):
    before = machine.workers("blog")
    machine.write(TWO.replace("workers = 2", "workers = 3").replace('"*.shop.test"', '"other.test"'))
    done = ostler(machine, "reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "shop: changed; its workers are replaced\nreloaded\n"
    told = project(status(machine), "shop")
    assert told["generation"] == 2 and told["next"] is None
    assert [worker["state"] for worker in told["workers"] if worker["generation"] == 2] == ["ready"] * 3
    assert machine.workers("blog") == before
    assert seen(machine.host, "other.test")[0] == "other.test"
    again = ostler(machine, "reload")
    assert (again.returncode, again.stdout) == (0, "reloaded: nothing has changed\n")
    machine.write(TWO[: TWO.index("[projects.blog]")] + "[projects.news]\nsource = \"blog\"\nhosts = [\"news.test\"]\nweb.app = \"app:app\"\nweb.python = \"{python}\"\n")
    done = ostler(machine, "reload")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {
        "shop: changed; its workers are replaced", "blog: is served no more; its last requests end", "news: is new", "reloaded",
    }
    assert seen(machine.host, "news.test")[0] == "news.test"


def test_reload_of_a_wrong_file_says_what_check_says_and_changes_nothing(machine):
    before = machine.workers("shop")
    machine.write(TWO.replace("workers = 2", "workerz = 2"))
    check = ostler(machine, "check")
    done = ostler(machine, "reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == check.stderr.strip() and "did you mean" in done.stderr and "ostler.toml:13" in done.stderr
    assert machine.workers("shop") == before
    machine.file.write_text("[server\n")
    done = ostler(machine, "reload")
    assert done.returncode == 2 and "ostler.toml:1" in done.stderr, "no state folder can be read of it"
    done = ostler(machine, "reload", "--state", "state")
    assert done.returncode == 1 and "ostler.toml:1" in done.stderr
    assert project(status(machine, "--state", "state"), "shop")["state"] == "serving"


def test_reload_into_an_app_that_does_not_start_fails_with_its_traceback(machine):
    (machine.file.parent / "shop" / "app.py").write_text("raise KeyError('no \\x1b[2J such')\n")
    before = machine.workers("shop")
    done = ostler(machine, "reload", "shop")
    assert done.returncode == 1
    assert "KeyError" in done.stderr and "shop: it could not be loaded; the running workers stay" in done.stderr
    assert "\x1b" not in done.stderr
    assert machine.workers("shop") == before
    assert seen(machine.host, "shop.test")[0] == "shop.test"
    errors = project(status(machine), "shop")["errors"]
    assert "KeyError" in errors[0]["text"] and "reload failed" in errors[-1]["text"]
    assert "LAST ERRORS" in ostler(machine, "status").stdout
    # A new project that does not start is told too, and its neighbours go on.
    (machine.file.parent / "news").mkdir()
    (machine.file.parent / "news" / "app.py").write_text("import nothing_of_that_name\n")
    machine.write(TWO + "[projects.news]\nsource = \"news\"\nhosts = [\"news.test\"]\nweb.app = \"app:app\"\nweb.python = \"{python}\"\n")
    done = ostler(machine, "reload")
    assert done.returncode == 1 and "news: is new" in done.stdout and "nothing_of_that_name" in done.stderr


def test_reload_of_one_project_replaces_its_workers_alone(machine):
    shop, blog = machine.workers("shop"), machine.workers("blog")
    machine.write("this is no TOML")
    done = ostler(machine, "reload", "--state", "state", "shop")
    assert (done.returncode, done.stdout) == (0, "shop: its workers are replaced\nreloaded\n")
    assert not machine.workers("shop") & shop or project(status(machine, "--state", "state"), "shop")["generation"] == 2
    assert machine.workers("blog") == blog
    done = ostler(machine, "reload", "--state", "state", "a b&c")
    assert done.returncode == 1 and "no project is called `a b&c`; hint: there are blog, shop" in done.stderr


def test_reload_that_does_not_wait_comes_back_at_once(machine):
    stuck = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n" + TWO_APP
    (machine.file.parent / "shop" / "app.py").write_text(stuck)
    done = ostler(machine, "reload", "--no-wait", "shop")
    assert (done.returncode, done.stdout) == (0, "shop: its workers are replaced\ntaken; what has to start is starting\n")
    told = project(status(machine), "shop")
    assert (told["generation"], told["next"]) == (1, 2)
    waiting = threading.Thread(target=lambda: outcomes.append(ostler(machine, "reload")))
    outcomes = []
    machine.write(TWO.replace("workers = 2", "workers = 1"))
    waiting.start()
    machine.host.log.wait("shop: reload: generation")
    (machine.file.parent / "shop" / "go").write_text("")
    waiting.join(60)
    assert outcomes[0].returncode == 0, outcomes[0].stderr
    assert project(status(machine), "shop")["next"] is None


TWO_APP = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"ok"]
"""


# Where it is, and who may ask


def test_socket_is_the_operators_alone_and_goes_with_the_server(machine):
    path = machine.file.parent / "state" / "admin.sock"
    assert path.stat().st_mode & 0o777 == 0o600 and path.stat().st_uid == os.getuid()
    machine.host.stop()
    assert not path.exists()
    done = ostler(machine, "status")
    assert done.returncode == 1 and "ostler does not run: there is no" in done.stderr


def test_socket_of_a_dead_server_is_said_and_taken_over(machine, host):
    path = machine.file.parent / "state" / "admin.sock"
    machine.host.process.kill()
    harness.eventually(lambda: not machine.host.processes(), 10, "every process has ended")
    done = ostler(machine, "status")
    assert done.returncode == 1 and f"nobody listens on" in done.stderr and path.exists()
    again = host.serve(port=machine.port, folder=machine.file.parent, ready="blog: ready")
    assert status(machine)["keeper"] == again.process.pid


def test_second_server_in_the_same_state_folder_is_warned_and_serves(machine, host, tmp_path):
    folder = tmp_path / "second"
    folder.mkdir()
    (folder / "app.py").write_text(TWO_APP)
    port = harness.free_port()
    (folder / "ostler.toml").write_text(
        f"[server]\nlisten = [\"127.0.0.1:{port}\"]\nstate = \"../state\"\n[projects.x]\nsource = \".\"\nhosts = [\"*\"]\n"
        f"web.app = \"app:app\"\nweb.python = \"{sys.executable}\"\n"
    )
    second = host.serve(port=port, folder=folder, ready="x: ready")
    second.log.wait("warning: no `ostler status` and `ostler reload`: .*another ostler has it")
    assert second.get("/").status == 200
    second.stop()
    assert status(machine)["keeper"] == machine.host.process.pid, "the socket of the first is still its own"


def test_status_survives_a_lost_server(machine):
    before = status(machine)
    machine.host.server().kill()
    machine.host.log.wait("the server ended unexpectedly")
    told = status(machine)
    assert told["keeper"] == before["keeper"] and told["server"] != before["server"]


def test_process_of_an_app_is_refused(machine):
    """It may run as the operator, as here: what tells it apart is where it comes from."""
    asks = """
import os, socket, subprocess
def ask(path):
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect(path)
        try:
            ours.sendall(b"GET /v1/status HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        except BrokenPipeError:
            pass  # refused before it was read
        return ours.recv(65536)
def app(environ, start_response):
    path = os.path.abspath("../state/admin.sock")
    code = "import sys; sys.path.insert(0, '.'); import app; print(app.ask(sys.argv[1]))"
    again = ["sh", "-c", "(setsid {} -c \\"$0\\" \\"$1\\" > out.part; mv out.part out) &".format(os.sys.executable), code, path]
    subprocess.run(again)
    start_response("200 OK", [])
    return [ask(path)]
"""
    (machine.file.parent / "shop" / "app.py").write_text(asks)
    assert ostler(machine, "reload", "shop").returncode == 0
    answer = machine.host.get("/", {"Host": "shop.test"})
    assert b"403 Forbidden" in answer.body and b"a process that ostler itself started may not ask" in answer.body
    orphan = machine.file.parent / "shop" / "out"
    harness.eventually(orphan.exists)
    assert "403 Forbidden" in orphan.read_text(), "nor one in a session of its own whose parents are gone"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_somebody_else_may_not_ask(machine):
    for folder in [machine.file.parent, *machine.file.parent.parents[:3]]:
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    path = machine.file.parent / "state" / "admin.sock"
    as_nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    command = [harness.OSTLER, "status", "--state", path.parent]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=20, **as_nobody)
    assert done.returncode == 1 and "you may not use" in done.stderr and "(uid 0)" in done.stderr
    path.chmod(0o666)
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=20, **as_nobody)
    assert done.returncode == 1 and "only root and the user who started ostler (uid 0) may ask" in done.stderr


def test_nonsense_and_silence_on_the_socket_harm_nobody(machine):
    path = str(machine.file.parent / "state" / "admin.sock")
    silent = []
    for _ in range(40):
        ours = socket.socket(socket.AF_UNIX)
        ours.connect(path)
        ours.settimeout(20)
        silent.append(ours)
    silent[0].sendall(b"\x16\x03\x01nonsense\r\n\r\n")
    assert b"400" in silent[0].recv(4096)
    # Those who say nothing are gone after 5 s, and others have their turn.
    assert status(machine)["keeper"] == machine.host.process.pid
    for ours in silent:
        ours.close()
    for target, code in [("/v1/nothing", b"404"), ("/v1/reload", b"405"), ("/v1/reload?wait=x", b"405")]:
        with socket.socket(socket.AF_UNIX) as ours:
            ours.connect(path)
            ours.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert ours.recv(4096).split()[1] == code, target


# Over ssh


def test_on_runs_the_same_words_over_ssh(machine, tmp_path):
    stub = tmp_path / "bin" / "ssh"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" > {tmp_path}/argv\nexit 7\n")
    stub.chmod(0o755)
    env = {"PATH": f"{stub.parent}:{os.environ['PATH']}"}

    def sent(*args):
        done = ostler(machine, *args, env=env)
        assert done.returncode == 7, "what ssh ends with"
        return (tmp_path / "argv").read_bytes().decode().split("\0")[:-1]

    assert sent("status", "--on", "me@there", "--json") == ["--", "me@there", "ostler status --json"]
    hostile = "/x; touch '$(id)' `id`.toml"
    quoted = hostile.replace("'", "'\\''")
    assert sent("reload", "--on=there", "--config", hostile, "--no-wait", "--", "-rf") == [
        "--", "there", f"ostler reload '--config={quoted}' --no-wait -- -rf",
    ]
    assert sent("certs", "import", "--on=there", "--", "/a b") == ["--", "there", "ostler certs import -- '/a b'"]
    assert sent("maintenance", "on", "shop", "--on=there") == ["--", "there", "ostler maintenance -- on shop"]
    done = ostler(machine, "status", "--on=-oProxyCommand=touch x", env=env)
    assert done.returncode == 2 and "--on needs a machine" in done.stderr
    done = ostler(machine, "status", "--on", "there", env={"PATH": str(tmp_path)})
    assert done.returncode == 2 and "ssh cannot be started" in done.stderr


def test_on_asks_a_real_sshd(machine, tmp_path):
    sshd = shutil.which("sshd", path="/usr/sbin:" + os.environ["PATH"])
    assert sshd, "this test needs sshd: apt-get install openssh-server"
    Path("/run/sshd").mkdir(exist_ok=True)
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    port = harness.free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nSetEnv PATH={harness.OSTLER.parent}:/usr/bin:/bin\n"
    )
    (folder / "config").write_text(
        f"Host there\n HostName 127.0.0.1\n Port {port}\n IdentityFile {folder}/user\n IdentitiesOnly yes\n BatchMode yes\n"
        f" StrictHostKeyChecking no\n UserKnownHostsFile {folder}/known\n LogLevel ERROR\n"
    )
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f"#!/bin/sh\nexec /usr/bin/ssh -F {folder}/config \"$@\"\n")
    ssh.chmod(0o755)
    daemon = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.PIPE, text=True)
    try:
        while "Server listening" not in (line := daemon.stderr.readline()):
            assert line, "sshd ended"
        env = {"PATH": f"{ssh.parent}:{os.environ['PATH']}"}
        strange = tmp_path / "it's $HOME; `id`"
        strange.symlink_to(tmp_path / "state")
        done = ostler(machine, "status", "--json", "--on", "there", "--state", strange, env=env, cwd="/")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["keeper"] == machine.host.process.pid
        done = ostler(machine, "reload", "--on", "there", "--state", strange, "nobody", env=env, cwd="/")
        assert done.returncode == 1 and "no project is called `nobody`" in done.stderr
        # Every command that comes to an end by itself.
        there = lambda *words: ostler(machine, *words, "--on", "there", env=env, cwd="/")
        done = there("maintenance", "on", "shop", "--state", strange)
        assert (done.returncode, done.stdout) == (0, "shop: shows its maintenance page\n"), done.stderr
        assert machine.host.get("/", {"Host": "shop.test"}).status == 503
        done = there("check", "--config", machine.file)
        assert done.returncode == 0 and "ostler.toml is good: 2 projects" in done.stdout
        assert f"listen = [\"127.0.0.1:{machine.port}\"]" in there("check", "--print", "--config", machine.file).stdout
        done = there("systemd", "--config", machine.file)
        assert done.returncode == 0 and f"serve --config {machine.file}" in done.stdout
        assert f"127.0.0.1:{machine.port} is ours" in there("doctor", "--config", machine.file).stdout
        assert there("requests", "--state", strange).returncode == 0
        done = there("certs", "import", "--config", machine.file)
        assert done.returncode == 2 and "no host needs a certificate from a CA" in done.stderr
        done = ostler(machine, "serve", "--on", "there", env=env)
        assert done.returncode == 2 and "--on" in done.stderr, "a server would end with its connection"
    finally:
        daemon.terminate()
        daemon.wait(10)
