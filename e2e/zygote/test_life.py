"""From hello to the last exit: fork, serve, report, end."""

import os
import select
import signal
import socket

import pytest

from zygote_driver import HELLO, PATIENCE, Slot, until

every_python = pytest.mark.every_python

SLOW = """
import time
def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/slow":
        print("begun", file=environ["wsgi.errors"])
        time.sleep(0.5)
    return [b"done"]
"""

STARTS = """
import os, time
def app(environ, start_response):
    child = os.fork() or time.sleep(1000)
    start_response("200 OK", [])
    return [str(child).encode()]
"""


def open_files(pid):
    return sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))


def ended(pidfd):
    return bool(select.select([pidfd], [], [], PATIENCE)[0])


def test_hello_names_the_python(start):
    zygote = start()
    zygote.configure()
    assert zygote.hello["wire"] == 2
    assert zygote.hello["pid"] == zygote.process.pid
    assert zygote.hello["python"].count(".") == 2


@every_python
def test_a_worker_serves_and_ends_when_its_slot_ends(folder, start):
    folder(app=HELLO)
    zygote = start()
    loaded = zygote.start()
    assert loaded == {"type": "loaded", "preloaded": True, "why_not": None, "interface": "wsgi"}
    worker = zygote.fork(7)
    booted = worker.control.expect("booted")
    assert booted == {"type": "booted", "wire": 2, "pid": worker.pid, "interface": "wsgi"}
    worker.give_slots(1)
    worker.control.expect("ready")
    assert worker.slots[0].get("/x") == "hello /x"
    worker.end()
    assert worker.wait() == 0
    zygote.control.send({"type": "retire"})
    assert zygote.wait() == 0


def test_one_slot_runs_on_the_main_thread(folder, start):
    folder(
        app="""
import threading
def app(environ, start_response):
    start_response("200 OK", [])
    name = threading.current_thread().name
    return [f"{name} {environ['wsgi.multithread']}".encode()]
"""
    )
    zygote = start()
    zygote.start()
    worker = zygote.fork().boot(slots=1)
    assert worker.slots[0].get("/") == "MainThread False"


@every_python
def test_several_slots_serve_at_once(folder, start):
    folder(
        app="""
import threading
barrier = threading.Barrier(3)
def app(environ, start_response):
    start_response("200 OK", [])
    barrier.wait(30)
    return [b"together"]
"""
    )
    zygote = start()
    zygote.start(threads=3)
    worker = zygote.fork()
    worker.control.expect("booted")
    worker.give_slots(3, per_message=2)
    worker.control.expect("ready")
    for slot in worker.slots:
        slot.send("/")
    assert [slot.receive() for slot in worker.slots] == ["together"] * 3
    worker.end()
    assert worker.wait() == 0


@every_python
def test_no_worker_holds_what_belongs_to_another(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start()
    first = zygote.fork(1).boot()
    second = zygote.fork(2).boot()
    sockets = [
        {name for name in open_files(worker.pid) if name.startswith("socket:")}
        for worker in (first, second)
    ]
    # Each its control socket and its slot, and nothing else of the zygote's.
    assert [len(each) for each in sockets] == [2, 2]
    assert not sockets[0] & sockets[1]
    assert not any("anon_inode" in name for name in open_files(second.pid))
    # The end of one is seen at once, because nobody else holds its sockets.
    os.kill(first.pid, signal.SIGKILL)
    assert first.control.receive() is None
    assert first.wait() == signal.SIGKILL


def test_a_hundred_workers_leave_nothing_behind(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start()
    before = None
    for number in range(20):
        workers = [zygote.fork(5 * number + each).boot() for each in range(5)]
        for worker in workers:
            worker.end()
            assert worker.wait() == 0
        before = before or open_files(zygote.process.pid)
    assert open_files(zygote.process.pid) == before


def test_exits_are_reported_as_they_were(folder, start):
    folder(
        app="""
import os
def app(environ, start_response):
    os._exit(9)
"""
    )
    zygote = start()
    zygote.start()
    crashed = zygote.fork(1).boot()
    killed = zygote.fork(2).boot()
    crashed.slots[0].send("/")
    assert os.waitstatus_to_exitcode(crashed.wait()) == 9
    os.kill(killed.pid, signal.SIGSEGV)
    assert os.waitstatus_to_exitcode(killed.wait()) == -signal.SIGSEGV
    assert ended(crashed.pidfd)


def test_a_retired_zygote_stays_until_its_last_worker_is_gone(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start()
    worker = zygote.fork().boot()
    zygote.control.send({"type": "retire"})
    assert worker.slots[0].get("/still") == "hello /still"
    assert zygote.process.poll() is None
    worker.end()
    assert worker.wait() == 0
    assert zygote.wait() == 0


@every_python
def test_the_end_of_the_control_socket_ends_everything(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start()
    workers = [zygote.fork(id).boot() for id in (1, 2)]
    zygote.control.close()
    zygote.wait()
    assert all(ended(worker.pidfd) for worker in workers)


def test_what_workers_started_ends_with_them(folder, start):
    folder(app=STARTS)
    zygote = start()
    zygote.start()
    started = os.pidfd_open(int(zygote.fork().boot().slots[0].get("/")))
    zygote.control.close()
    assert ended(started)


def test_a_worker_dies_with_its_zygote(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start()
    worker = zygote.fork().boot()
    zygote.process.kill()
    assert ended(worker.pidfd)


def test_signals_to_the_whole_group_do_not_end_the_zygote(folder, start):
    """systemd's default KillMode sends SIGTERM to every process of the unit."""
    folder(app=HELLO)
    zygote = start()
    zygote.start()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        zygote.process.send_signal(signum)
    worker = zygote.fork().boot()
    assert worker.slots[0].get("/") == "hello /"


@every_python
def test_sigterm_lets_the_request_finish(folder, start):
    folder(app=SLOW)
    for threads in (1, 2):
        zygote = start()
        zygote.start(threads=threads)
        worker = zygote.fork().boot(slots=threads)
        worker.slots[0].send("/slow")
        until(lambda: "begun" in zygote.output())
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.slots[0].receive() == "done"
        assert worker.wait() == 0
        zygote.log.truncate(0)


def test_sigterm_ends_an_idle_worker(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start()
    worker = zygote.fork().boot()
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait() == 0


def test_sigterm_before_the_slots_ends_a_worker(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start()
    worker = zygote.fork()
    worker.control.expect("booted")
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait() == 0


@every_python
def test_sigquit_does_not_wait_for_the_request(folder, start):
    folder(app=SLOW.replace("0.5", "60"))
    for threads in (1, 2):
        zygote = start()
        zygote.start(threads=threads)
        worker = zygote.fork().boot(slots=threads)
        worker.slots[0].send("/slow")
        until(lambda: "begun" in zygote.output())
        os.kill(worker.pid, signal.SIGQUIT)
        assert worker.wait() == 0
        zygote.log.truncate(0)


def test_sigabrt_shows_the_stacks(folder, start):
    folder(app=SLOW.replace("0.5", "60"))
    zygote = start()
    zygote.start()
    worker = zygote.fork().boot()
    worker.slots[0].send("/slow")
    until(lambda: "begun" in zygote.output())
    os.kill(worker.pid, signal.SIGABRT)
    assert os.waitstatus_to_exitcode(worker.wait()) == -signal.SIGABRT
    assert 'app.py", line 7 in app' in zygote.output()


@every_python
def test_the_server_can_ask_for_the_stacks(folder, start):
    folder(app=SLOW)
    zygote = start()
    zygote.start(threads=2)
    worker = zygote.fork().boot(slots=2)
    worker.slots[0].send("/slow")
    until(lambda: "begun" in zygote.output())
    os.kill(worker.pid, signal.SIGRTMIN + 4)
    assert worker.slots[0].receive() == "done"
    assert 'app.py", line 7 in app' in zygote.output()


@every_python
def test_atexit_runs_and_threads_are_waited_for(folder, start):
    folder(
        app="""
import atexit, threading, time
done = threading.Event()
def app(environ, start_response):
    start_response("200 OK", [])
    atexit.register(print, "exit handler")
    threading.Thread(target=lambda: (time.sleep(0.3), print("thread done"))).start()
    return [b"ok"]
"""
    )
    zygote = start()
    zygote.start()
    worker = zygote.fork().boot()
    assert worker.slots[0].get("/") == "ok"
    worker.end()
    assert worker.wait() == 0
    assert zygote.output().split("\n")[:2] == ["thread done", "exit handler"]


@every_python
def test_a_thread_that_never_ends_does_not_keep_the_worker(folder, start):
    folder(
        app="""
import threading, time
def app(environ, start_response):
    start_response("200 OK", [])
    threading.Thread(target=time.sleep, args=(600,)).start()
    return [b"ok"]
"""
    )
    zygote = start()
    zygote.start(graceful_timeout=0.3)
    worker = zygote.fork().boot()
    assert worker.slots[0].get("/") == "ok"
    worker.end()
    assert worker.wait() == 0
    assert "took over 0.3 s" in zygote.output()


@every_python
def test_processes_are_named(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start()
    worker = zygote.fork(3).boot()

    def named(pid):
        with open(f"/proc/{pid}/comm") as comm, open(f"/proc/{pid}/cmdline") as cmdline:
            return comm.read().strip(), cmdline.read().rstrip("\0")

    assert named(zygote.process.pid) == ("ostler: zygote", "ostler: zygote app:app")
    assert named(worker.pid) == ("ostler: worker", "ostler: worker app:app [3]")


@every_python
def test_a_taken_socket_is_replaced(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start(websocket_threads=1)
    worker = zygote.fork().boot(slots=1)
    taken = worker.slots[0]
    assert taken.get("/hijack") == "replaced"
    worker.control.expect("slot")
    fresh = slot_of(worker)
    assert fresh.get("/a") == "hello /a"
    # The one replacement is in use: what is left serves requests, and nothing else.
    assert fresh.get("/hijack") == "all 1 WebSocket threads of this worker are in use"
    assert fresh.get("/b") == "hello /b"
    assert worker.control.silent()
    taken.send("given back")
    assert taken.receive() == ""
    until(lambda: fresh.get("/hijack") == "replaced")
    worker.control.expect("slot")
    again = slot_of(worker)
    assert again.get("/c") == "hello /c"
    fresh.send("given back")
    again.end()
    assert worker.wait() == 0


def slot_of(worker):
    slot = Slot(socket.socket(fileno=worker.control.fds.pop()))
    worker.slots.append(slot)
    return slot


def test_an_ending_worker_replaces_no_socket(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start(websocket_threads=1)
    worker = zygote.fork().boot(slots=2)
    assert worker.slots[0].get("/hijack") == "replaced"
    worker.control.expect("slot")
    slot_of(worker)
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait() == 0


def test_an_app_may_end_its_worker(folder, start):
    folder(app="import sys\ndef app(environ, start_response): sys.exit(8)")
    for threads in (1, 2):
        zygote = start()
        zygote.start(threads=threads)
        worker = zygote.fork().boot(slots=threads)
        worker.slots[0].send("/")
        assert os.waitstatus_to_exitcode(worker.wait()) == 8


def test_a_broken_slot_ends_the_worker_with_an_error(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start(threads=2)
    worker = zygote.fork().boot(slots=2)
    worker.slots[0].send("/wire-error")
    assert os.waitstatus_to_exitcode(worker.wait()) == 1
    assert "a frame that cannot be" in zygote.output()


def test_a_worker_whose_server_is_gone_leaves(folder, start):
    folder(app=HELLO)
    zygote = start()
    zygote.start()
    worker = zygote.fork()
    worker.control.expect("booted")
    worker.control.close()
    assert worker.wait() == 0


def test_asgi_gets_its_channels_and_options(folder, start):
    folder(app="async def app(scope, receive, send): pass")
    zygote = start()
    zygote.start(loop="asyncio", graceful_timeout=7)
    worker = zygote.fork()
    assert worker.control.expect("booted")["interface"] == "asgi"
    worker.give_slots(2)
    worker.control.expect("ready")
    for slot in worker.slots:
        assert slot.get("/") == "2 asyncio 7"
        slot.end()
    assert worker.wait() == 0


@every_python
def test_a_failed_lifespan_is_a_failed_start(folder, start):
    folder(app="async def app(scope, receive, send): pass")
    zygote = start()
    zygote.start(lifespan="on")
    worker = zygote.fork()
    worker.control.expect("booted")
    worker.give_slots(1)
    failed = worker.control.expect("failed")
    assert failed == {"type": "failed", "exit": 3, "text": "the database is not there"}
    assert os.waitstatus_to_exitcode(worker.wait()) == 3
