"""Workers that die, hang, leak and loop; reloads; what is left behind."""

import os
import signal
import subprocess
import time
from collections import Counter

import psutil
import pytest

from harness import Client, Host, eventually
from test_status import SLOW

TROUBLE = """
import ctypes, os, sys, threading, time

hold = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    pid = os.getpid()
    if path == "/segfault":
        ctypes.string_at(0)
    elif path == "/exit":
        os._exit(7)
    elif path == "/abort":
        os.abort()
    elif path == "/hog":
        hold.append(bytearray(os.urandom(1) * (80 << 20)))
    elif path == "/hang":
        inner_function_that_hangs()
    elif path == "/spin":
        while True: pass
    elif path == "/child":
        told, tell = os.pipe()
        if os.fork() == 0:
            grandchild = os.fork()
            if grandchild == 0:
                while not os.path.exists("let-go"):
                    time.sleep(0.01)
            else:
                os.write(tell, str(grandchild).encode())
            os._exit(0)
        pid = int(os.read(told, 20))
        os.close(told), os.close(tell)
    elif path == "/die-once":
        marker = environ["QUERY_STRING"]
        if not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(9)
    body = str(pid).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def inner_function_that_hangs():
    time.sleep(1000)
"""


def pid(host: Host) -> int:
    return int(host.get("/").body)


def failing(host: Host, method, path):
    """The status of a request whose worker dies of it, whatever way that is told."""
    try:
        return host.request(method, path).status
    except EOFError:
        return None


# Death


@pytest.mark.smoke
@pytest.mark.parametrize("path, said", [("/segfault", "SIGSEGV"), ("/exit", "7"), ("/abort", "SIGABRT")])
def test_dead_worker_is_replaced_and_named(host, path, said):
    running = host("app:app", "-w", "2", source=TROUBLE)
    assert failing(running, "POST", path) == 502
    assert running.get("/").status == 200
    eventually(lambda: len(running.workers()) == 2, what="two workers again")
    running.log.wait(said)


def test_kill_9_of_an_idle_worker_is_not_seen_by_any_client(host):
    running = host("app:app", "-w", "2", source=TROUBLE)
    clients = [Client(running) for _ in range(4)]
    for _ in range(5):
        # The next one only when the replacement stands.
        before = {w.pid for w in running.workers()}
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(running.workers()) == 2 and victim not in {w.pid for w in running.workers()}, what="a replacement")
        old = [c.count for c in clients]
        eventually(lambda: all(c.count > o + 5 for c, o in zip(clients, old)), what="they go on")
    assert [c.finish().failures for c in clients] == [[]] * 4
    assert sum(c.count for c in clients) > 100


def test_get_is_retried_once_when_its_worker_died(host, tmp_path):
    running = host("app:app", "-w", "2", source=TROUBLE)
    assert running.get(f"/die-once?{tmp_path}/one").status == 200


def test_post_is_never_retried(host, tmp_path):
    running = host("app:app", "-w", "2", source=TROUBLE)
    assert failing(running, "POST", f"/die-once?{tmp_path}/one") == 502
    assert running.request("POST", f"/die-once?{tmp_path}/one").status == 200


def test_request_that_kills_workers_does_not_kill_them_all(host):
    running = host("app:app", "-w", "3", source=TROUBLE)
    assert failing(running, "GET", "/segfault") == 502
    running.log.wait("SIGSEGV")
    assert len(running.log.matches("SIGSEGV")) <= 2
    assert pid(running)


def test_other_requests_of_the_process_are_the_only_ones_hurt(host):
    running = host("app:app", "-w", "2", source=TROUBLE)
    clients = [Client(running) for _ in range(3)]
    eventually(lambda: all(c.count > 20 for c in clients))
    assert failing(running, "POST", "/exit") == 502
    marks = [c.count for c in clients]
    eventually(lambda: all(c.count > m + 20 for c, m in zip(clients, marks)))
    assert [c.finish().failures for c in clients] == [[]] * 3


def test_stopped_worker_is_killed_and_replaced(host):
    running = host("app:app", "-w", "1", "--timeout", 2, source=TROUBLE)
    os.kill(pid(running), signal.SIGSTOP)
    assert running.get("/", timeout=15).status in (504, 502)
    eventually(lambda: running.get("/").status == 200, 15, "a new worker")


# Time


def test_hanging_request_is_504_with_the_stack_of_every_thread(host):
    running = host("app:app", "-w", "2", "--timeout", 2, source=TROUBLE)
    began = time.monotonic()
    assert running.get("/hang").status == 504
    assert 1.9 < time.monotonic() - began < 20
    running.log.wait("inner_function_that_hangs")
    assert pid(running)
    eventually(lambda: len(running.workers()) == 2, 15, "the stuck worker is replaced")


def test_other_threads_of_a_hanging_worker_finish(host):
    source = TROUBLE.replace("time.sleep(1000)", "time.sleep(6)")
    running = host("app:app", "--threads", 2, "--timeout", 2, source=source.replace('    elif path == "/spin":', '''    elif path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (time.sleep(0.1) or b"x" for _ in range(45))
    elif path == "/spin":'''))
    with running.raw() as raw:
        raw.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert raw.socket.recv(1)
        assert running.get("/hang").status == 504
        assert running.get("/", timeout=20).status == 200, "a replacement serves"
        data = b""
        raw.socket.settimeout(30)
        while not data.endswith(b"0\r\n\r\n"):
            piece = raw.socket.recv(4096)
            assert piece, "the stream was cut off"
            data += piece


def test_worker_that_holds_the_gil_is_replaced(host):
    running = host("app:app", "-w", "2", "--timeout", 2, source=TROUBLE)
    assert running.get("/spin").status == 504
    assert pid(running)
    eventually(lambda: len(running.workers()) == 2, 15)


def test_timeout_0_is_none(host):
    running = host("probe:app", "--timeout", 0)
    assert running.get("/slow/2500").status == 200


def test_long_stream_is_no_timeout(host):
    source = """
import time
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (n and time.sleep(0.3) or b"x" for n in range(12))
"""
    answer = host("app:app", "--timeout", 2, source=source).get("/")
    assert answer.body == b"x" * 12 and answer.complete


# Recycling


def test_max_requests_replaces_the_worker_and_fails_nothing(host):
    running = host("app:app", "-w", "2", "--max-requests", 20, "--max-requests-jitter", 5, source=TROUBLE)
    clients = [Client(running, method="POST" if n < 3 else "GET") for n in range(6)]
    pids = set()

    def twelve_workers():
        pids.update(w.pid for w in running.workers())
        return len(pids) >= 12

    eventually(twelve_workers, 60, "workers are replaced one after the other")
    assert [c.finish().failures for c in clients] == [[]] * 6


def test_hog_above_memory_hard_is_killed(host):
    running = host("app:app", "-w", "2", "--memory-hard", "150M", source=TROUBLE)
    # A request that is in a worker while it is killed fails: that is what "hard" means.
    answers = [running.get("/hog") for _ in range(8)]
    served = Counter(int(answer.body) for answer in answers if answer.status == 200)
    hogs = {pid for pid, count in served.items() if count > 1}
    assert hogs
    eventually(lambda: not hogs & {w.pid for w in running.workers()}, 20, "every hog is gone")
    running.log.wait("memory")
    assert pid(running)


def test_hog_above_memory_soft_is_drained_without_a_failure(host):
    running = host("app:app", "-w", "2", "--memory-soft", "60M", source=TROUBLE)
    clients = [Client(running, method="POST") for _ in range(4)]
    hog = int(running.get("/hog").body)
    eventually(lambda: hog not in {w.pid for w in running.workers()}, 20, "the hog is gone")
    assert [c.finish().failures for c in clients] == [[]] * 4


# Crash loops


def test_crash_loop_after_the_start_is_503_with_retry_after(host, tmp_path):
    bad = tmp_path / "bad"
    source = f"""
import os
if os.path.exists({str(bad)!r}):
    os._exit(5)
def app(environ, start_response):
    if environ["PATH_INFO"] == "/exit": os._exit(5)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
    running = host("app:app", "--preload=off", source=source)
    bad.write_text("")
    failing(running, "POST", "/exit")

    def looping():
        answer = running.get("/", timeout=60)
        return answer if answer.status == 503 else None

    answer = eventually(looping, 40, "503 while nothing can start")
    assert int(answer.header("Retry-After")) >= 1
    assert running.alive()
    lines = len(running.log.lines)
    time.sleep(2)  # a rate needs a span of time
    assert len(running.log.lines) - lines <= 8, "a crash loop does not fill the disk"
    bad.unlink()
    eventually(lambda: running.get("/", timeout=60).status == 200, 60, "it heals by itself")


# What is left behind


def test_adopted_grandchildren_leave_no_zombie(host, tmp_path):
    running = host("app:app", "-w", "2", source=TROUBLE)
    grandchildren = [int(running.get("/child").body) for _ in range(5)]
    # They live on when their parents have ended, and are in the process table until somebody waits for them.
    assert all(map(psutil.pid_exists, grandchildren))
    (tmp_path / "let-go").touch()
    eventually(lambda: not any(map(psutil.pid_exists, grandchildren)), 20)


def test_kill_9_of_the_keeper_leaves_nothing(host):
    child = 'elif path == "/stays":\n        os.fork() or time.sleep(1000)\n    elif path == "/hang":'
    running = host("app:app", "-w", "2", source=TROUBLE.replace('elif path == "/hang":', child))
    with running.raw() as stays:
        stays.send(b"GET /stays HTTP/1.1\r\nHost: a\r\n\r\n").answer()
    assert len(running.processes()) >= 6
    running.kill(signal.SIGKILL)
    eventually(lambda: not running.processes(), 20, "every process has ended")


def test_kill_9_of_the_server_brings_a_new_one_and_new_workers(host):
    running = host("app:app", "-w", "2", source=TROUBLE)
    old = {w.pid for w in running.workers()} | {running.server().pid}
    os.kill(running.server().pid, signal.SIGKILL)
    running.log.wait(r"\bready\b", 30, count=2)
    assert running.get("/").status == 200
    eventually(lambda: not old & {p.pid for p in running.processes()}, 10, "nothing of the old server is left")


def test_kill_9_of_a_zygote_brings_a_new_one(host):
    running = host("app:app", "-w", "2", source=TROUBLE)
    zygote = running.zygotes()[0].pid
    os.kill(zygote, signal.SIGKILL)
    eventually(lambda: zygote not in [z.pid for z in running.zygotes()] and len(running.workers()) == 2, 20)
    assert running.get("/", timeout=30).status == 200


def test_workers_hold_no_listener_and_no_siblings_socket(host):
    running = host("app:app", "-w", "3", source=TROUBLE)
    counts = []
    for worker in running.workers():
        assert not [c for c in worker.net_connections() if c.status == psutil.CONN_LISTEN]
        counts.append(len(os.listdir(f"/proc/{worker.pid}/fd")))
    assert max(counts) - min(counts) <= 1 and max(counts) <= 16, counts


# Reload


@pytest.mark.smoke
def test_reload_under_load_fails_nothing_and_brings_the_new_code(host, tmp_path):
    source = "VERSION = b'one'\n" + """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", str(len(VERSION)))])
    return [VERSION]
"""
    running = host("app:app", "-w", "2", source=source)
    # A worker that is lost under a POST fails it: nothing is asked twice.
    clients = [Client(running, keep=n % 2 == 0, method="POST" if n < 3 else "GET") for n in range(6)]
    old = {w.pid for w in running.workers()}
    # Each of another length: CPython knows a compiled file that is out of date by seconds and size.
    for version in ("three", "four", "eleven"):
        (tmp_path / "app.py").write_text(source.replace("one", version))
        running.kill(signal.SIGHUP)
        eventually(lambda: running.get("/").body == version.encode(), 30, f"version {version}")
    eventually(lambda: len(running.workers()) == 2 and len(running.zygotes()) == 1, 20, "the old generations are gone")
    assert not old & {w.pid for w in running.workers()}
    assert [c.finish().failures for c in clients] == [[]] * 6
    assert sum(c.count for c in clients) > 100


WSGI_FIELDS = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [environ["HTTP_X_A"].encode()]
"""

ASGI_FIELDS = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b",".join(v for n, v in scope["headers"] if n == b"x-a")})
"""


def test_app_may_become_asgi_and_wsgi_again(host, tmp_path):
    running = host("app:app", source=WSGI_FIELDS)
    for source, fields in ((ASGI_FIELDS, b"1,2"), (WSGI_FIELDS, b"1, 2")):
        (tmp_path / "app.py").write_text(source)
        running.kill(signal.SIGHUP)

        def answer():
            with running.raw() as raw:
                raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-A: 2\r\n\r\n")
                return raw.answer().body

        eventually(lambda: answer() == fields)


def test_reload_of_broken_code_keeps_the_old_workers(host, tmp_path):
    source = TROUBLE
    running = host("app:app", "-w", "2", source=source)
    before = {w.pid for w in running.workers()}
    (tmp_path / "app.py").write_text("raise RuntimeError('broken by an edit')\n")
    running.kill(signal.SIGHUP)
    running.log.wait("broken by an edit")
    assert running.get("/").status == 200
    assert {w.pid for w in running.workers()} == before
    (tmp_path / "app.py").write_text(source)
    running.kill(signal.SIGHUP)
    eventually(lambda: not before & {w.pid for w in running.workers()} and len(running.workers()) == 2, 20)


def test_reload_lets_long_requests_finish(host):
    running = host("probe:app", "-w", "1", "--threads", "2")
    with running.raw(20) as raw:
        raw.send(b"GET /slow/3000 HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: running.get("/calls").body == b"1")
        running.kill(signal.SIGHUP)
        assert raw.answer().status == 200


def test_reloads_leak_neither_descriptors_nor_threads(host):
    running = host("app:app", "-w", "2", source=TROUBLE)

    def reload():
        old = {z.pid for z in running.zygotes()}
        running.kill(signal.SIGHUP)
        eventually(lambda: len(running.zygotes()) == 1 and not old & {z.pid for z in running.zygotes()} and len(running.workers()) == 2, 30)
        running.get("/")

    def held():
        ours = [running.process.pid, running.server().pid]
        return [(len(os.listdir(f"/proc/{p}/fd")), psutil.Process(p).num_threads()) for p in ours]

    for _ in range(2):
        reload()
    before = held()
    for _ in range(5):
        reload()

    def as_before():
        return all(fds <= fds_then + 2 and threads <= threads_then + 1 for (fds, threads), (fds_then, threads_then) in zip(held(), before))

    # What belongs to the generation before is closed a moment after the new one serves; what leaks stays.
    eventually(as_before, 10)


def test_ttin_and_ttou_change_the_number_of_workers(host):
    running = host("app:app", "-w", "2", source=TROUBLE)
    clients = [Client(running, method="POST" if n < 3 else "GET") for n in range(6)]
    running.kill(signal.SIGTTIN)
    eventually(lambda: len(running.workers()) == 3)
    for left in (2, 1):
        # One after the other: two equal signals at once are one, for the kernel does not count them.
        running.kill(signal.SIGTTOU)
        eventually(lambda: len(running.workers()) == left, 15)
    running.kill(signal.SIGTTOU)
    time.sleep(0.5)
    assert len(running.workers()) == 1 and running.get("/").status == 200
    assert [c.finish().failures for c in clients] == [[]] * 6


def test_storm_of_signals_is_survived(host):
    running = host("app:app", "-w", "2", source=TROUBLE)
    for _ in range(30):
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD, signal.SIGWINCH, signal.SIGPIPE):
            running.kill(number)
    eventually(lambda: running.get("/").status == 200, 20)
    assert running.alive()


def test_repeated_term_is_one_stop(host):
    running = host("app:app", "-w", "2", source=TROUBLE)
    for _ in range(5):
        running.kill(signal.SIGTERM)
    assert running.wait_exit() == 0


# Single process (S1-17)


def test_single_process_reload_stops_first(host, tmp_path):
    state = tmp_path / "tables.json"
    source = f"""
import atexit, json, os
count = json.load(open({str(state)!r})) if os.path.exists({str(state)!r}) else 0
atexit.register(lambda: json.dump(count, open({str(state)!r}, "w")))
def app(environ, start_response):
    global count
    count += 1
    body = str(count).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
    running = host("app:app", "--single-process", "--threads", "4", source=source)
    assert [running.get("/").body for _ in range(3)] == [b"1", b"2", b"3"]
    running.kill(signal.SIGHUP)
    running.log.wait("reload complete", 20)
    assert running.get("/", timeout=30).body == b"4", "the old process had written its state before the new one read it"


def test_single_process_refuses_more_workers(host):
    failed = host("app:app", "--single-process", "-w", "2", source=TROUBLE, ready=False)
    assert failed.wait_exit(20) == 2
    running = host("app:app", "--single-process", source=TROUBLE)
    running.kill(signal.SIGTTIN)
    time.sleep(0.5)
    assert len(running.workers()) == 1


# Preload


def test_preload_imports_once_in_the_zygote(host, tmp_path):
    marks = tmp_path / "imports"
    source = TROUBLE + f"\nopen({str(marks)!r}, 'a').write(str(os.getpid()) + '\\n')\n"
    running = host("app:app", "-w", "3", source=source)
    assert marks.read_text().split() == [str(running.zygotes()[0].pid)]


def test_threads_at_import_fall_back_to_importing_in_the_worker_and_say_why(host, tmp_path):
    marks = tmp_path / "imports"
    source = TROUBLE + f"""
open({str(marks)!r}, 'a').write(str(os.getpid()) + '\\n')
threading.Thread(target=time.sleep, args=(1000,), daemon=True, name="poller").start()
"""
    running = host("app:app", "-w", "2", source=source)
    assert running.get("/").status == 200
    assert set(map(str, [w.pid for w in running.workers()])) <= set(marks.read_text().split())
    assert running.log.matches("not preloaded") and running.log.matches("poller|thread")


def test_preload_off_imports_in_each_worker(host, tmp_path):
    marks = tmp_path / "imports"
    source = TROUBLE + f"\nopen({str(marks)!r}, 'a').write(str(os.getpid()) + '\\n')\n"
    running = host("app:app", "-w", "2", "--preload=off", source=source)
    assert sorted(marks.read_text().split()) == sorted(str(w.pid) for w in running.workers())


def test_workers_have_their_own_random_numbers(host):
    source = """
import os, random, secrets
def app(environ, start_response):
    body = f"{os.getpid()} {random.random()}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
    running = host("app:app", "-w", "4", source=source)
    first = {}
    for _ in range(60):
        process, number = running.get("/").text.split()
        first.setdefault(process, number)
    assert len(set(first.values())) == len(first)


# Soak: the long forms


@pytest.mark.soak
def test_100_reloads_then_200_kills_under_load_fail_nothing(host):
    running = host("app:app", "-w", "2", source=TROUBLE)
    clients = [Client(running, keep=n % 2 == 0) for n in range(8)]

    def stands(old):
        return len(running.workers()) == 2 and not old & {w.pid for w in running.workers()} and len(running.zygotes()) == 1

    held = [len(os.listdir(f"/proc/{p}/fd")) for p in (running.process.pid, running.server().pid)]
    for _ in range(100):
        old = {w.pid for w in running.workers()}
        running.kill(signal.SIGHUP)
        eventually(lambda: stands(old), 60)
    for _ in range(200):
        victim = running.workers()[0].pid
        os.kill(victim, signal.SIGKILL)
        ready = running.get
        eventually(lambda: stands({victim}), 60)
        for _ in range(4):
            ready("/")
    assert [c.finish().failures for c in clients] == [[]] * 8
    after = [len(os.listdir(f"/proc/{p}/fd")) for p in (running.process.pid, running.server().pid)]
    assert all(abs(a - b) <= 10 for a, b in zip(after, held))


def test_reload_brings_the_settings_of_the_edge_too(host, tmp_path):
    """Limits, folders and files of the configuration; connections that are open take them with their next request."""
    config = tmp_path / "gunicorn.conf.py"
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.txt").write_text(name)
    config.write_text(f"limit_request_body = 10\nstatic_files = ['/files={tmp_path / 'old'}']\n")
    running = host("app:app", "-c", config, source=TROUBLE)
    body = b"x" * 50
    assert running.request("POST", "/", {"Content-Length": "50"}, body).status == 413
    assert running.get("/files/file.txt").body == b"old"
    with running.raw() as open_before:
        assert open_before.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
        config.write_text(f"limit_request_body = 100\nstatic_files = ['/files={tmp_path / 'new'}']\n")
        running.kill(signal.SIGHUP)
        running.log.wait("reload complete")
        assert running.request("POST", "/", {"Content-Length": "50"}, body).status == 200
        assert running.get("/files/file.txt").body == b"new"
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n"
        assert open_before.send(head + body).answer().status == 200
        assert open_before.send(b"GET /files/file.txt HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"new"


def test_reload_brings_the_limits_of_line_connections_and_workers(host, tmp_path):
    config = tmp_path / "gunicorn.conf.py"
    config.write_text("")
    running = host("app:app", "-c", config, "--forwarded-allow-ips", "10.0.0.1", source=SLOW)
    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

    def reload(line, count):
        config.write_text(line)
        running.kill(signal.SIGHUP)
        running.log.wait("reload complete", count=count)
        running.log.wait("has ended", count=count)

    reload("line_length = 0", 1)
    with running.raw() as busy:
        busy.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually((tmp_path / "begun").exists)
        assert running.get("/").status == 503, "no place in line"
        (tmp_path / "go").touch()
        assert busy.answer().status == 200
    reload("max_connections_per_address = 2", 2)
    with running.raw() as first, running.raw() as second:
        for raw in (first, second):
            assert raw.send(get).answer().status == 200
            time.sleep(0.3)  # a connection is idle a moment after its answer came, of which nothing is seen from here
        with running.raw() as third:
            assert third.send(get).answer().status == 200
            assert first.closed_within(5), "the oldest idle connection makes room"
    reload("max_requests = 2", 3)
    running.get("/"), running.get("/")
    running.log.wait("is replaced: served 2 requests")


def test_reload_says_what_needs_a_new_start(host, tmp_path):
    config = tmp_path / "gunicorn.conf.py"
    config.write_text("timeout = 20\n")
    running = host("probe:app", "-c", config)
    config.write_text("timeout = 21\nloglevel = 'debug'\nedge_threads = 3\n")
    running.kill(signal.SIGHUP)
    running.log.wait("started anew: edge_threads, loglevel")
    running.log.wait("reload complete")
    config.write_text("timeout = 22\n")
    running.kill(signal.SIGHUP)
    running.log.wait("reload complete", count=2)
    assert len(running.log.matches("started anew")) == 1


def test_reload_takes_a_renewed_certificate(host, tls, tmp_path):
    import ssl

    cert, key = tls
    running = host("app:app", "--certfile", cert, "--keyfile", key, source=TROUBLE)
    before = ssl.get_server_certificate(("127.0.0.1", running.port))
    subprocess.run(
        ["openssl", "req", "-x509", "-key", key, "-days", "3", "-subj", "/CN=renewed", "-out", cert],
        check=True, capture_output=True,
    )
    running.kill(signal.SIGHUP)
    running.log.wait("reload complete")
    after = ssl.get_server_certificate(("127.0.0.1", running.port))
    assert before != after


@pytest.mark.parametrize("more", [[], ["--single-process"]], ids=["workers", "single-process"])
def test_reload_with_a_key_that_does_not_fit_fails_as_a_whole(host, tls, more):
    import ssl

    cert, key = tls
    good = key.read_text()
    running = host("app:app", "--certfile", cert, "--keyfile", key, *more, source=TROUBLE)
    before, workers = ssl.get_server_certificate(("127.0.0.1", running.port)), running.workers()
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-out", key], check=True, capture_output=True)
    running.kill(signal.SIGHUP)
    running.log.wait("check that certificate and key belong together")
    running.log.wait("reload failed: it could not be loaded; the running workers stay")
    eventually(lambda: len(running.zygotes()) == 1, what="the new zygote ends")
    assert running.workers() == workers
    assert ssl.get_server_certificate(("127.0.0.1", running.port)) == before
    assert not running.log.matches("reload complete")
    key.write_text(good)
    running.kill(signal.SIGHUP)
    running.log.wait("reload complete")
    assert running.workers() != workers
