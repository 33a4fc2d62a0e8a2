"""`ostler doctor`: says in words what keeps a machine from serving as its file says."""

import datetime
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

import harness
import pebble as ca
from authority import Authority
from test_certs import APP, Shop, config
from test_maintenance import Machine
from test_status import ostler
from test_tokens import certificate


@pytest.fixture
def pebble(tmp_path_factory):
    started = ca.Pebble(tmp_path_factory.mktemp("ca"))
    yield started
    started.finish()


class Doctor:
    """What it says in a folder."""

    def __init__(self, folder, *args):
        done = subprocess.run([harness.OSTLER, "doctor", "--json", *args], cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode in (0, 1), done.stderr
        self.code, self.found = done.returncode, json.loads(done.stdout)
        assert (self.code == 1) == any(one["grade"] == "problem" for one in self.found)

    def says(self, about, grade, *words):
        """There is a line like that."""
        lines = [one for one in self.found if one["about"] == about and one["grade"] == grade]
        assert any(all(word in one["text"] for word in words) for one in lines), self.found
        return self


def tell_dns(authority, what, **values):
    request = urllib.request.Request(f"http://127.0.0.1:{authority.dns_admin}/{what}", json.dumps(values).encode())
    urllib.request.urlopen(request).close()


def test_a_machine_that_serves_is_well(host, tmp_path, pebble):
    shop = Shop(host, tmp_path, pebble, config(pebble, ["shop.example"]))
    shop.trusted("shop.example", pebble.trusting())
    doctor = Doctor(tmp_path)
    doctor.says("server", "ok", f"keeper {shop.host.process.pid}").says("ca", "ok", f"https://127.0.0.1:{pebble.port}/dir answers")
    doctor.says("clock", "ok").says("certificate", "ok", "shop.example", "days left").says("name", "ok", "shop.example leads to us")
    for port in (pebble.http_port, pebble.tls_port):
        doctor.says("port", "ok", f"127.0.0.1:{port} is ours")
    doctor.says("python", "ok", f"Python {sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}")
    doctor.says("kernel", "ok", f"Linux {os.uname().release}").says("descriptors", "ok", "the server has")
    assert {one["about"] for one in doctor.found} >= {"disk", "memory"}
    screen = ostler(shop, "doctor").stdout
    assert "\x1b" not in screen and any(line.startswith("ok       clock") for line in screen.splitlines())


def test_names_that_lead_elsewhere_or_nowhere_are_told(host, tmp_path, pebble):
    names = ["nowhere.example", "other.example", "silent.example", "broken.example"]
    tell_dns(pebble, "set-default-ipv4", ip="")
    tell_dns(pebble, "add-a", host="other.example", addresses=["127.0.0.77"])
    tell_dns(pebble, "add-a", host="silent.example", addresses=["127.0.0.78"])
    tell_dns(pebble, "set-servfail", host="broken.example")
    class Handler(http.server.SimpleHTTPRequestHandler):
        server_version = "Somebody"

        def log_message(self, *_):
            pass

    other = http.server.ThreadingHTTPServer(("127.0.0.77", pebble.http_port), Handler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        text = config(pebble, names)
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop" / "app.py").write_text(APP)
        (tmp_path / "ostler.toml").write_text(text)
        down = Doctor(tmp_path)
        down.says("server", "warning", "ostler does not run")
        shop = Shop(host, tmp_path, pebble, text)
        for doctor in (down, Doctor(tmp_path)):
            doctor.says("name", "problem", "nowhere.example: DNS has no address for it; hint: give it an A or AAAA record")
            doctor.says("name", "problem", "other.example: another server of this machine answers at 127.0.0.77", "Somebody")
            doctor.says("name", "warning", "broken.example: not looked at before the order: DNS does not answer")
            assert doctor.code == 1
        down.says("name", "ok", "silent.example: nothing is in the way")
        up = Doctor(tmp_path).says("name", "problem", "silent.example: nobody answers at 127.0.0.78, which is this machine")
        up.says("certificate", "problem", "nowhere.example", "asked again at")
        assert shop.host.alive()
    finally:
        other.shutdown()
        other.server_close()


def test_a_ca_that_is_away_or_lives_in_another_time_is_told(tmp_path, pebble):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "app.py").write_text(APP)
    text = config(pebble, ["shop.example"])
    (tmp_path / "ostler.toml").write_text(text)
    pebble.down()
    Doctor(tmp_path).says("ca", "problem", "cannot be asked", "refused")
    pebble.up()
    pair = certificate(tmp_path)
    date = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    late = Authority(lambda request: (200, [("Date", date.strftime("%a, %d %b %Y %H:%M:%S GMT"))], b"{}"), pair)
    text = text.replace(f"https://127.0.0.1:{pebble.port}/dir", f"{late.url}/dir").replace(str(pebble.root), str(pair[0]))
    (tmp_path / "ostler.toml").write_text(text)
    doctor = Doctor(tmp_path)
    doctor.says("ca", "ok").says("clock", "problem", "s ahead of the CA's; hint: `timedatectl set-ntp true`")
    late.close()


def test_a_budget_that_is_spent_and_the_last_failure_are_told(tmp_path, pebble):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "app.py").write_text(APP)
    (tmp_path / "ostler.toml").write_text(config(pebble, ["shop.example"]))
    folder = tmp_path / "state" / "certs" / f"127.0.0.1_{pebble.port}_dir"
    folder.mkdir(parents=True)
    now = int(datetime.datetime.now().timestamp())
    spent = [{"at": now - number, "what": {"refusal": {"name": "shop.example"}}} for number in range(5)]
    (folder / "budget.json").write_text(json.dumps({"spent": spent}))
    doctor = Doctor(tmp_path)
    doctor.says("name", "problem", "refusals of shop.example", "there is room again from 20")
    assert (folder / "budget.json").exists() and len(list(folder.iterdir())) == 1, "it only looks"


def test_a_hook_that_cannot_run_is_told(tmp_path, pebble):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "app.py").write_text(APP)
    hook = pebble.dns_hook()
    (tmp_path / "ostler.toml").write_text(config(pebble, ["*.shop.example"], acme=('challenge = "dns-01"', f'hook = "{hook}"')))
    Doctor(tmp_path).says("hook", "ok", str(hook))
    hook.chmod(0o644)
    Doctor(tmp_path).says("hook", "problem", f"{hook} is no program; hint: chmod +x")


def test_ports_of_others_keys_for_everybody_and_old_pythons_are_told(host, tmp_path):
    machine = Machine(host, tmp_path)
    Doctor(tmp_path).says("port", "ok", f"127.0.0.1:{machine.port} is ours").says("names", "ok", "nothing listens for HTTPS")
    machine.host.stop()
    Doctor(tmp_path).says("port", "ok", f"127.0.0.1:{machine.port} is free")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", machine.port))
        other.listen()
        Doctor(tmp_path).says("port", "problem", f"127.0.0.1:{machine.port}: ", f"(pid {os.getpid()}) has it")
    chain, key = certificate(tmp_path)
    key.chmod(0o644)
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.8.10\n")
    keys = tmp_path / "shop" / "auth-keys.csv"
    keys.write_text("ada,key-a\n")
    keys.chmod(0o644)
    text = machine.file.read_text().replace('[projects.shop.access]', "[projects.shop.access]\nkeys = true")
    text = text.replace("[server]", f'[server]\nlisten_tls = ["192.0.2.1:{machine.port}"]\ncertfile = "{chain}"\nkeyfile = "{key}"')
    machine.file.write_text(text.replace(f'"{sys.executable}"', f'"{venv}/bin/python"'))
    doctor = Doctor(tmp_path)
    doctor.says("key", "problem", f"{key} can be read by everybody").says("keys", "warning", f"{keys} can be read by everybody")
    doctor.says("port", "problem", f"192.0.2.1:{machine.port}: this machine has no such address")
    doctor.says("python", "problem", "shop: ", "is Python 3.8.10; hint: 3.9 or later")
    key.chmod(0o600)
    Doctor(tmp_path).says("key", "ok", f"{key} is its owner's alone")


def test_a_wrong_file_is_said_as_check_says_it(tmp_path):
    (tmp_path / "ostler.toml").write_text("[server]\nlisten = 1\n")
    done = subprocess.run([harness.OSTLER, "doctor"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "ostler.toml:2" in done.stderr and done.stdout == ""
