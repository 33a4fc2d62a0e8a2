"""`--single-process`: the app's state lives in one process, and there are never two of them."""

import os
import signal
import threading

import pytest

import harness
from harness import eventually

# Each process marks its life in a folder; two at once would be seen by either.
STATE = """
import atexit, os, threading
ALIVE = os.environ["ALIVE"]
counter, lock, clash = 0, threading.Lock(), None

def live():
    global clash
    others = [name for name in os.listdir(ALIVE) if os.path.exists("/proc/" + name)]
    if others:
        clash = [str(os.getpid()), *others]
    open(os.path.join(ALIVE, str(os.getpid())), "w").close()
    atexit.register(os.unlink, os.path.join(ALIVE, str(os.getpid())))

def app(environ, start_response):
    global counter
    path = environ["PATH_INFO"]
    if path == "/add":
        with lock:
            counter += 1
    if path == "/slow":
        __import__("time").sleep(1)
    if path == "/die":
        os._exit(9)
    body = f"{os.getpid()} {counter} {threading.active_count()} {clash} {VERSION}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
VERSION = 1
"""
CONFIG = "def post_fork(server, worker):\n    import app\n    app.live()\n"


@pytest.fixture
def alone(host, tmp_path):
    (tmp_path / "alive").mkdir()
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG)

    def start(*args, source=STATE, **options):
        env = {"ALIVE": str(tmp_path / "alive"), **options.pop("env", {})}
        return host("app:app", "--single-process", *args, source=source, env=env, **options)

    return start


def asked(running, path="/"):
    """(pid, counter, what clashed, version)"""
    answer = running.get(path)
    assert answer.status == 200, answer
    pid, counter, _, rest = answer.text.split(" ", 3)
    clash, version = rest.rsplit(" ", 1)
    return int(pid), int(counter), clash, int(version)


def test_all_threads_share_one_state(alone):
    running = alone("--threads", 8)
    clients = [threading.Thread(target=lambda: [asked(running, "/add") for _ in range(25)]) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert asked(running)[1] == 200 and len(running.workers()) == 1


@pytest.mark.parametrize("args, env, config", [
    (("-w", 2), {}, ""),
    ((), {"WEB_CONCURRENCY": "2"}, ""),
    ((), {}, "workers = 2\n"),
    ((), {"GUNICORN_CMD_ARGS": "-w 2"}, ""),
])
def test_more_workers_are_refused_wherever_they_are_asked_for(alone, tmp_path, args, env, config):
    (tmp_path / "gunicorn.conf.py").write_text(config)
    failed = alone(*args, env=env, ready=False)
    assert failed.wait_exit(20) == 2
    assert failed.log.matches("workers is above one, and --single-process allows one.*hint: use --threads N")


def test_signal_for_one_more_worker_is_refused(alone):
    running = alone()
    pid = asked(running)[0]
    running.kill(signal.SIGTTIN)
    running.log.wait("single|one worker")
    assert asked(running)[0] == pid and len(running.workers()) == 1


def test_reload_stops_the_old_one_first(alone, tmp_path):
    running = alone("--threads", 2)
    old = asked(running, "/add")[0]
    (tmp_path / "app.py").write_text(STATE.replace("VERSION = 1", "VERSION = 2  # new"))
    with running.raw() as slow:
        slow.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: asked(running)[0] == old)
        running.kill(signal.SIGHUP)
        pid, counter, clash, version = eventually(lambda: (seen := asked(running))[0] != old and seen, 20)
        assert slow.answer().body.startswith(str(old).encode()), "what it had begun, it ends"
    assert (counter, clash, version) == (0, "None", 2)


@pytest.mark.parametrize("why", ["crash", "max_requests", "kill"])
def test_a_worker_is_replaced_only_when_it_is_gone(alone, why):
    running = alone("--threads", 2, *(["--max-requests", 5] if why == "max_requests" else []))
    old = asked(running)[0]
    if why == "crash":
        assert running.request("POST", "/die").status == 502
    elif why == "kill":
        os.kill(old, signal.SIGKILL)
    pid, _, clash, _ = eventually(lambda: (seen := asked(running))[0] != old and seen, 20)
    assert clash == "None" and [worker.pid for worker in running.workers()] == [pid]


def test_reload_with_broken_code_brings_the_old_code_back(alone, tmp_path):
    running = alone()
    old = asked(running)[0]
    (tmp_path / "app.py").write_text("def app(:\n")
    running.kill(signal.SIGHUP)
    running.log.wait("SyntaxError", 20)
    pid, _, clash, version = asked(running)
    assert (clash, version) == ("None", 1)
