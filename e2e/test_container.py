"""ostler as the first process of a container: a pid namespace of its own, and a root that nobody can write to."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

import harness
from harness import Host, eventually

# Without root a user namespace lends it, where the machine allows that.
OWN = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount", "--pid", "--fork", "--mount-proc"]

pytestmark = pytest.mark.skipif(
    subprocess.run([*OWN, "true"], capture_output=True).returncode != 0, reason="needs a pid namespace"
)

SOURCE = """
import os, subprocess, threading, time
started = threading.Event()
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/orphan":
        subprocess.run(["/bin/sh", "-c", "setsid sleep 0.2 & setsid sleep 0.1 &"])
    if path == "/slow":
        print("slow has begun", flush=True)
        time.sleep(1)
    start_response("200 OK", [])
    return [str((os.getppid(), os.getpid())).encode()]
"""


class Container(Host):
    """`ostler run` as pid 1; what can be written to is `writable`, or all."""

    def __init__(self, folder, *args, writable=True, source=SOURCE):
        (folder / "app.py").write_text(source)
        port = harness.free_port()
        line = [str(harness.OSTLER), "run", "app:app", "--bind", f"127.0.0.1:{port}", "--python", sys.executable, *args]
        if not writable:
            # Every mount of this namespace, each for itself: the flag does not go down.
            line = ["sh", "-c", "set -e; while read -r _ where _; do case $where in /proc*|/sys*|/dev*) ;; "
                    "*) mount -o remount,bind,ro \"$where\";; esac; done < /proc/self/mounts; "
                    "mount -t tmpfs none /run -o ro; exec \"$@\"", "sh", *line]
        super().__init__([*OWN, *line], folder, {}, port)

    def first(self):
        """The keeper, as the machine outside numbers it."""
        return psutil.Process(self.process.pid).children()[0]

    def server(self):
        return next(p for p in self._children(self.first().pid) if "__server" in harness.command_line(p))

    def zygotes(self):
        return [p for p in self._children(self.first().pid) if "python" in harness.executable(p)]

    def kill(self, number):
        self.first().send_signal(number)

    def inside(self, *command):
        """Started from outside, as `docker exec` does."""
        enter = ["nsenter", "--target", str(self.first().pid), "--pid", "--mount", *([] if os.geteuid() == 0 else ["--user"])]
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=30)


@pytest.fixture
def container(tmp_path):
    started = []

    def start(*args, ready=True, **options):
        started.append(Container(tmp_path, *args, **options))
        return started[-1].wait_ready() if ready else started[-1]

    yield start
    for one in started:
        if one.alive():
            one.kill(signal.SIGKILL)
            one.wait_exit()
        eventually(lambda: not one.processes(), 5, "a namespace ends with its first process")


def zombies(container):
    return [p.pid for p in container.first().children(recursive=True) if p.status() == psutil.STATUS_ZOMBIE]


def test_pid_1_reaps_what_it_did_not_start(container):
    running = container("-w", "2")
    assert running.inside("cat", "/proc/1/comm").stdout.startswith("ostler")
    running.get("/orphan")
    for _ in range(5):
        assert running.inside("sh", "-c", "setsid sh -c 'sleep 0.1 & sleep 0.05 &' & exit 0").returncode == 0
    def left():
        return [p.pid for p in running.first().children(recursive=True) if "sleep" in harness.command_line(p)]

    eventually(lambda: left() == [], 10, "the orphans have ended")
    eventually(lambda: zombies(running) == [], 5, "and none is left as a zombie")
    assert running.get("/").status == 200 and running.stop() == 0


def test_term_lets_requests_end(container):
    running = container("--access-logfile", "-")
    answers = []
    asking = threading.Thread(target=lambda: answers.append(running.get("/slow")))
    asking.start()
    running.log.wait("slow has begun", alive=running.alive)
    assert running.stop() == 0
    asking.join()
    assert answers[0].status == 200 and running.log.matches(r'"GET /slow HTTP/1.1" 200')


def test_term_ends_a_start_as_well(container, tmp_path):
    """Nothing reaches the first process of a namespace that it has no handler for."""
    (tmp_path / "gunicorn.conf.py").write_text("print('evaluated', flush=True)\nimport time\ntime.sleep(100)\n")
    running = container(ready=False)
    running.log.wait("evaluated", alive=running.alive)
    assert running.stop() == 0


def test_an_app_that_cannot_start_ends_the_container(container):
    assert container(ready=False, source="import nothing_of_this_name\n").wait_exit(30) == 3
    assert container(ready=False, source="apps = 1\n").wait_exit(30) == 4


def test_a_root_that_cannot_be_written_to_is_enough(container):
    running = container("-w", "2", "--perf", writable=False)
    assert running.inside("touch", "/run/x").returncode != 0 and running.inside("touch", "/tmp/x").returncode != 0
    running.log.wait(r"perf: no calls are timed: Read-only file system")
    parent, worker = eval(running.get("/").text)
    assert 1 < parent < worker
    assert running.request("POST", "/", body=b"x" * 1000).status == 200
    large = running.request("POST", "/", body=b"x" * 1_000_000)
    assert (large.status, large.header("Retry-After") is not None) == (503, True) and "reason: spool_full" in large.text
    running.log.wait("hint: give a folder that is writable")
    os.kill(running.workers()[0].pid, signal.SIGKILL)
    eventually(lambda: running.get("/").status == 200 and len(running.workers()) == 2, 20)
    running.kill(signal.SIGHUP)
    running.log.wait(r"generation 2|ready", count=2, alive=running.alive)
    assert running.stop() == 0


def test_a_killed_server_and_killed_workers_leave_nothing(container):
    running = container("-w", "2")
    running.server().kill()
    running.log.wait(r"\bready\b", 30, count=2, alive=running.alive)
    assert running.get("/").status == 200
    eventually(lambda: zombies(running) == [], 5)
    assert running.stop(signal.SIGINT) == 0
