"""`ostler systemd`: the units it prints are ones that systemd takes; and sockets as systemd hands them over."""

import os
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

import harness
from test_serve import APP, SECURE
from test_status import ostler, status

CONFIG = """
[server]
listen = ["127.0.0.1:0"]
state = "state"
[projects.shop]
source = "shop"
hosts = ["shop.test"]
[projects.shop.web]
app = "app:app"
graceful_timeout = "2m"
"""


def printed(folder, *words):
    return subprocess.run([harness.OSTLER, "systemd", *words], cwd=folder, capture_output=True, text=True, timeout=60)


def test_unit_is_good_for_systemd(tmp_path):
    assert shutil.which("systemd-analyze"), "this test needs systemd-analyze: apt-get install systemd"
    folder = tmp_path / "my shop 100%"
    (folder / "shop").mkdir(parents=True)
    (folder / "ostler.toml").write_text(CONFIG)
    done = printed(folder)
    assert done.returncode == 0, done.stderr
    assert "TimeoutStopSec=180\n" in done.stdout
    (tmp_path / "ostler.service").write_text(done.stdout)
    # It reads what is installed beside ours too: only what it says of ours counts.
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / "ostler.service"],
        capture_output=True, text=True, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}, timeout=60,
    )
    said = [line for line in verified.stderr.splitlines() if "ostler.service" in line]
    assert verified.returncode == 0 and said == [], verified.stderr
    # A unit with a slip is told from a good one.
    (tmp_path / "slip.service").write_text(done.stdout.replace("KillMode=mixed", "KillMode=mxied"))
    slip = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / "slip.service"],
        capture_output=True, text=True, timeout=60,
    )
    assert "kill mode" in slip.stderr


def test_socket_unit_is_good_for_systemd(tmp_path):
    (tmp_path / "shop").mkdir()
    text = CONFIG.replace('listen = ["127.0.0.1:0"]', 'listen = [":8080", "[::]:8080", "unix:/run/shop.sock"]\nlisten_tls = "127.0.0.1:8443"\ncertfile = "ostler.toml"')
    (tmp_path / "ostler.toml").write_text(text)
    done = printed(tmp_path, "--socket")
    assert done.returncode == 0, done.stderr
    streams = [line.removeprefix("ListenStream=") for line in done.stdout.splitlines() if line.startswith("ListenStream=")]
    assert streams == ["0.0.0.0:8080", "[::]:8080", "/run/shop.sock", "127.0.0.1:8443"]
    assert "BindIPv6Only=ipv6-only\n" in done.stdout, "each has a socket of its own"
    (tmp_path / "ostler.socket").write_text(done.stdout)
    (tmp_path / "ostler.service").write_text(printed(tmp_path).stdout)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / "ostler.socket"],
        capture_output=True, text=True, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}, timeout=60,
    )
    said = [line for line in verified.stderr.splitlines() if "ostler.s" in line]
    assert verified.returncode == 0 and said == [], verified.stderr
    (tmp_path / "ostler.toml").write_text(CONFIG)
    refused = printed(tmp_path, "--socket")
    assert refused.returncode == 2 and refused.stdout == "" and "port 0" in refused.stderr


WRAPPER = """
import os, socket, sys
program, path, *addresses = sys.argv[1:]
sockets = []
for address in addresses:
    if address.startswith("/"):
        one = socket.socket(socket.AF_UNIX)
        one.bind(address)
    else:
        host, _, port = address.rpartition(":")
        one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in host:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.bind((host, int(port)))
    one.listen()
    sockets.append(os.dup2(one.fileno(), 100 + len(sockets)))
for number, fd in enumerate(sockets):
    os.dup2(fd, 3 + number)
os.closerange(3 + len(sockets), 200)
os.environ.update(LISTEN_FDS=str(len(sockets)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=":".join(["ostler.socket"] * len(sockets)))
os.execv(program, [program, "serve"])
"""


@pytest.fixture
def started(host, tmp_path):
    """`ostler serve` for a file, with sockets that are bound already."""

    def start(text, port, *addresses):
        (tmp_path / "app.py").write_text(APP)
        (tmp_path / "ostler.toml").write_text(text)
        command = [sys.executable, "-c", WRAPPER, str(harness.OSTLER), str(tmp_path), *addresses]
        running = harness.Host(command, tmp_path, {}, port)
        host.hosts.append(running)
        running.log.wait("shop: ready", harness.START_SECONDS, alive=running.alive)
        return running

    return start


@pytest.mark.parametrize("named", ["by address", "by number"])
def test_sockets_handed_over_are_served_and_stay_over_an_upgrade(started, tmp_path, tls, named):
    """None of them could be bound once more."""
    cert, key = tls
    port, tls_port, path = harness.free_port(), harness.free_port(), tmp_path / "a.sock"
    text = SECURE.format(port=port, tls_port=tls_port, cert=cert, key=key, python=sys.executable)
    text = text.replace("listen = [", f'listen = ["unix:{path}", ')
    if named == "by number":
        text = text.replace(f"127.0.0.1:{tls_port}", "fd://3").replace(f"unix:{path}", "fd://4").replace(f"127.0.0.1:{port}", "fd://5")
    running = started(text, port, f"127.0.0.1:{tls_port}", str(path), f"127.0.0.1:{port}")
    machine = SimpleNamespace(file=tmp_path / "ostler.toml")

    def all_answer():
        sent_on = running.get("/x", {"Host": "shop.test"})
        assert (sent_on.status, sent_on.header("Location")) == (308, f"https://shop.test:{tls_port}/x")
        for address, name in [(("127.0.0.1", tls_port, str(cert), "shop.test"), "shop.test"), (str(path), "open.test")]:
            with harness.Raw(address) as raw:
                assert raw.send(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()).answer().status == 200

    all_answer()
    assert running.log.matches("was handed over") == []
    if named == "by address":
        assert status(machine)["listeners"] == [f"unix:{path}", f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}"]
    for command in ("reload", "upgrade"):
        done = ostler(machine, command)
        assert (done.returncode, done.stderr) == (0, ""), str(running.log)
        all_answer()
    assert running.stop() == 0
    assert path.exists(), "its name is not ours to remove"


def test_a_socket_of_both_families_counts_for_ipv4_and_one_that_nobody_names_is_told(started, tmp_path):
    port, other = harness.free_port(), harness.free_port()
    text = CONFIG.replace("127.0.0.1:0", f":{port}").replace('"shop"', '"."').replace("[projects.shop.web]", f'[projects.shop.web]\npython = "{sys.executable}"')
    running = started(text, port, f"127.0.0.1:{other}", f":::{port}")
    machine = SimpleNamespace(file=tmp_path / "ostler.toml")
    for _ in range(2):
        for address in ("127.0.0.1", "::1"):
            with harness.Raw((address, port)) as raw:
                assert raw.send(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").answer().status == 200
        assert ostler(machine, "upgrade").returncode == 0, str(running.log)
    running.log.wait(f"warning: nobody serves 127.0.0.1:{other}, which was handed over")
    with socket.socket() as asking:
        assert asking.connect_ex(("127.0.0.1", other)) != 0, "it is not left to wait for nobody"


def test_no_unit_for_a_wrong_file(tmp_path):
    (tmp_path / "ostler.toml").write_text("[server]\nlisen = 1\n")
    done = printed(tmp_path)
    assert done.returncode == 2 and done.stdout == "" and "did you mean `listen`" in done.stderr
