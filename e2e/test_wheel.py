"""The wheel, installed the way a user does it."""

import os
import re
import subprocess
import venv
import zipfile
from pathlib import Path

import harness

WHEELS = Path(os.environ.get("WHEELS", harness.ROOT / "target" / "wheels"))
OLDEST_GLIBC = (2, 36)
"""Debian 12. What the wheel states must not be newer."""


def newest_wheel():
    wheels = sorted(WHEELS.glob("ostler-*.whl"), key=lambda path: path.stat().st_mtime)
    assert wheels, f"no wheel in {WHEELS}: run `make wheel`"
    return wheels[-1]


def test_installed_wheel_serves_an_app(tmp_path, monkeypatch):
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    subprocess.run([home / "bin/pip", "install", "--quiet", "--no-index", newest_wheel()], check=True)
    monkeypatch.setattr(harness, "OSTLER", home / "bin" / "ostler")
    outside = "from ostler import timed\nwith timed('x'): print(timed(len)([1, 2]))"
    done = subprocess.run([home / "bin/python", "-c", outside], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("2\n", ""), "what apps import is harmless without a server"
    (tmp_path / "hello.py").write_text(
        "from ostler import timed\n"
        "@timed\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return [b'hello from a wheel']\n"
    )
    host = harness.start("hello:app", "--perf", cwd=tmp_path, python=home / "bin" / "python").wait_ready()
    try:
        assert host.get("/").body == b"hello from a wheel"
    finally:
        assert host.stop() == 0
    [log] = (tmp_path / "perf/logs/1").glob("*.log")
    assert "\thello.app\tok\n" in log.read_text(), "with a server, the package of the wheel notes its calls"


def test_wheel_needs_no_newer_glibc_than_it_says():
    wheel = newest_wheel()
    stated = re.search(r"manylinux_(\d+)_(\d+)_", wheel.name)
    assert stated, f"{wheel.name} has no manylinux tag"
    assert tuple(map(int, stated.groups())) <= OLDEST_GLIBC

    with zipfile.ZipFile(wheel) as files:
        binary = files.read(next(name for name in files.namelist() if name.endswith("/ostler")))
    # The worker extension lies inside the binary as it is, so its symbol versions are found too.
    needed = {tuple(map(int, found)) for found in re.findall(rb"GLIBC_(\d+)\.(\d+)", binary)}
    newest = max(needed)
    print(f"{wheel.name} needs glibc {newest[0]}.{newest[1]}")
    assert newest <= tuple(map(int, stated.groups()))
