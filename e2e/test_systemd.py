"""`ostler systemd`: the unit it prints is one that systemd takes."""

import os
import shutil
import subprocess

import harness

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


def test_no_unit_for_a_wrong_file(tmp_path):
    (tmp_path / "ostler.toml").write_text("[server]\nlisen = 1\n")
    done = printed(tmp_path)
    assert done.returncode == 2 and done.stdout == "" and "did you mean `listen`" in done.stderr
