"""`ostler check`: what a person sees, and the exit codes. What is wrong in which words is tested beside the code."""

import os
import pty
import subprocess

import pytest

import harness

GOOD = """
[server]
listen = ["127.0.0.1:8080"]

[projects.shop]
source = "shop"
hosts = ["shop.example.com", "*.shop.example.com"]
web.app = "app:app"
web.env = { DSN = "${DSN}", MODE = "secret" }
"""
SLIP = GOOD.replace("listen", "lisen")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "ostler.toml").write_text(GOOD)
    return tmp_path


def check(folder, *args, **env):
    command = [str(harness.OSTLER), "check", *args]
    env = {**os.environ, "DSN": "sqlite://", **env}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=20)


@pytest.mark.smoke
def test_a_good_file(folder):
    done = check(folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ostler.toml is good: 1 project, 2 hosts, 1 address\n", "")
    done = check("/", "--config", str(folder / "ostler.toml"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.smoke
def test_every_problem_with_its_place_and_exit_2(folder):
    (folder / "ostler.toml").write_text(SLIP + "web.threads = 0\n")
    done = check(folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: unknown key `lisen` in [server]\n --> ostler.toml:3:1\n" in done.stderr
    assert "  = hint: did you mean `listen`?" in done.stderr
    assert "error: `threads` needs a whole number from 1 to 1000\n" in done.stderr
    assert "\x1b" not in done.stderr


def test_an_unset_variable(folder):
    environment = {name: value for name, value in os.environ.items() if name != "DSN"}
    command = [str(harness.OSTLER), "check"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "error: the variable `DSN` is not set\n --> ostler.toml:9:20\n" in done.stderr


def test_print_shows_what_is_in_force_without_secrets(folder):
    done = check(folder, "--print")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert 'listen = ["127.0.0.1:8080"] # ostler.toml:3' in lines
    assert 'keep_alive = "75s" # default' in lines
    assert 'app = "app:app" # ostler.toml:8' in lines
    assert 'env = { DSN = "${DSN}", MODE = "…" } # ostler.toml:9' in lines
    assert "secret" not in done.stdout and "sqlite" not in done.stdout


def test_no_file(tmp_path):
    done = check(tmp_path)
    if not os.path.exists("/etc/ostler/ostler.toml"):
        assert (done.returncode, done.stderr.splitlines()) == (
            2,
            [
                f"error: no ostler.toml was found: neither {tmp_path}/ostler.toml nor /etc/ostler/ostler.toml;"
                " hint: name one with --config FILE"
            ],
        )
    done = check(tmp_path, "--config", "none.toml")
    assert done.returncode == 2 and "error: none.toml cannot be read" in done.stderr


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_on_a_terminal(folder, no_color):
    (folder / "ostler.toml").write_text(SLIP)
    ours, theirs = pty.openpty()
    env = {**os.environ, "DSN": "x", "NO_COLOR": no_color}
    done = subprocess.run([str(harness.OSTLER), "check"], cwd=folder, env=env, stderr=theirs, timeout=20)
    os.close(theirs)
    told = os.read(ours, 65536)
    os.close(ours)
    assert done.returncode == 2 and b"did you mean" in told
    assert (b"\x1b[" in told) == (no_color == "")
