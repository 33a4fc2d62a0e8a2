"""gunicorn.conf.py, the environment of an app, preloading, and starts that fail."""

import os
import pwd
import shutil
import tempfile
from pathlib import Path

import pytest

from zygote_driver import HELLO, HookProcess, Zygote

every_python = pytest.mark.every_python


def answer(zygote, path="/"):
    """Forks a worker and asks it one thing."""
    return zygote.fork().boot().slots[0].get(path)


# The configuration file


def test_no_file_is_fine_unless_it_was_asked_for(start):
    configured = start().configure()
    assert configured == {
        "type": "configured",
        "file": None,
        "settings": {},
        "hooks": [],
        "master_hooks": False,
        "unknown": [],
    }
    failed = start().configure(file="/nowhere/gunicorn.conf.py", explicit=True)
    assert (failed["type"], failed["exit"]) == ("failed", 1)
    assert failed["text"] == "cannot read /nowhere/gunicorn.conf.py: No such file or directory"


@every_python
def test_the_file_is_told_apart_into_settings_hooks_and_strangers(folder, start):
    folder(
        gunicorn__conf="""
import multiprocessing, os
from pathlib import Path as Folder
from ssl import CERT_REQUIRED as cert_reqs

_private = 1
cores = multiprocessing.cpu_count()
workers = min(cores, 1) * 2
bind = "127.0.0.1:" + str(8000)
keepallive = 5
max_request_size = 10
tmp_upload_dir = Folder("/tmp")
raw_env = ("A=1",)
limit_request_line = float("inf")
secure_scheme_headers = {"X": b"y"}

class Special:
    pass

worker_class = Special

def helper():
    pass

def post_frok(server, worker):
    pass

def post_fork(server, worker):
    pass

def when_ready(server):
    assert __name__ == "__config__" and __file__.endswith("gunicorn.conf.py")

assert os.getcwd() == os.path.dirname(__file__) and __builtins__
"""
    )
    zygote = start()
    configured = zygote.configure()
    assert configured["file"] == str(zygote.folder / "gunicorn.conf.py")
    assert configured["settings"] == {
        "cert_reqs": 2,
        "workers": 2,
        "bind": "127.0.0.1:8000",
        "tmp_upload_dir": "/tmp",
        "raw_env": ["A=1"],
        "limit_request_line": "inf",
        "secure_scheme_headers": {"X": "b'y'"},
        "worker_class": "__config__.Special",
    }
    assert configured["hooks"] == ["post_fork", "when_ready"]
    assert configured["master_hooks"] is True
    assert configured["unknown"] == ["keepallive", "max_request_size", "post_frok"]


@every_python
def test_an_error_in_the_file_is_shown_without_our_frames(folder, start):
    folder(gunicorn__conf="workers = 1\nbind = nothing\n")
    failed = start().configure()
    assert (failed["type"], failed["exit"]) == ("failed", 1)
    lines = failed["text"].split("\n")
    assert lines[0] == "Traceback (most recent call last):"
    assert 'gunicorn.conf.py", line 2, in <module>' in lines[1]
    assert lines[-1] == "NameError: name 'nothing' is not defined"


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("def post_fork(server): pass", "invalid hook post_fork: it takes 1 arguments, not 2"),
        ("child_exit = 5", "invalid hook child_exit: 5 is not callable"),
        ("on_exit = 'nowhere.hook'", "invalid hook on_exit: No module named 'nowhere'"),
        ("import sys; sys.exit('no database')", "SystemExit: no database"),
        ("workers = (", "SyntaxError: '(' was never closed"),
    ],
)
def test_a_file_that_cannot_be_used(folder, start, text, complaint):
    folder(gunicorn__conf=text)
    failed = start().configure()
    assert (failed["type"], failed["exit"]) == ("failed", 1)
    assert complaint in failed["text"]


def test_the_configuration_may_be_a_module(folder, start):
    folder(deploy_settings="threads = 4\ntypo = 1\non_exit = 'deploy_hooks.bye'")
    (folder() / "more").mkdir()
    (folder() / "more/deploy_hooks.py").write_text("def bye(server): pass")
    zygote = start()
    configured = zygote.configure(module="deploy_settings", pythonpath=["more"])
    assert configured["settings"] == {"threads": 4}
    assert configured["unknown"] == ["typo"]
    assert configured["hooks"] == ["on_exit"]
    failed = start().configure(module="nowhere")
    assert failed["text"] == "ModuleNotFoundError: No module named 'nowhere'"


# What an app finds when it is imported


@every_python
def test_an_app_finds_its_environment(folder, start):
    folder(
        app="""
import os, sys
seen = [os.environ["COLOUR"], os.getcwd(), sys.path[0], sys.path[1], sys.argv[1:]]
umask = os.umask(0o22)
def app(environ, start_response):
    start_response("200 OK", [])
    return [repr([*seen, umask, "" in sys.path]).encode()]
"""
    )
    zygote = start()
    zygote.start(env={"COLOUR": "blue"}, umask=0o27, pythonpath=["extra"])
    home = str(zygote.folder)
    expected = ["blue", home, f"{home}/extra", home, ["run", "app:app"], 0o27, False]
    assert eval(answer(zygote)) == expected


def test_a_missing_folder_is_named(start):
    zygote = start()
    zygote.configure()
    failed = zygote.load(chdir="/nowhere")
    assert failed["text"] == "cannot enter /nowhere: No such file or directory"


def test_random_numbers_differ_between_workers(folder, start):
    folder(
        app="""
import random
def app(environ, start_response):
    start_response("200 OK", [])
    return [str(random.random()).encode()]
"""
    )
    zygote = start()
    assert zygote.start()["preloaded"]
    assert len({zygote.fork(id).boot().slots[0].get("/") for id in range(4)}) == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_the_user_is_switched_before_the_import():
    """With a Python and a folder that everyone may read."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "app.py").write_text(
            """
import os
seen = [os.getresuid(), os.getresgid(), os.getgroups()]
def app(environ, start_response):
    start_response("200 OK", [])
    return [repr([*seen, os.getresuid()]).encode()]
"""
        )
        zygote = Zygote(python, home)
        try:
            zygote.start(user=nobody.pw_uid, group=nobody.pw_gid, groups=[nobody.pw_gid])
            worker = zygote.fork().boot()
            uids, gids = (nobody.pw_uid,) * 3, (nobody.pw_gid,) * 3
            assert eval(worker.slots[0].get("/")) == [uids, gids, [nobody.pw_gid], uids]
            # The parent's death is still watched: a change of user ends the watch.
            zygote.process.kill()
            assert worker.control.receive() is None
        finally:
            zygote.close()


# Preloading


def pid_and_modules(zygote):
    return eval(answer(zygote))


TOLD = """
import os, threading
imported_by = os.getpid()
def app(environ, start_response):
    start_response("200 OK", [])
    return [repr([imported_by, os.getpid(), threading.active_count()]).encode()]
"""


def test_a_wsgi_app_is_imported_once(folder, start):
    folder(app=TOLD)
    zygote = start()
    assert zygote.start()["preloaded"] is True
    imported_by, pid, _ = eval(answer(zygote))
    assert imported_by == zygote.process.pid != pid


def test_preload_can_be_off(folder, start):
    folder(app=TOLD)
    zygote = start()
    loaded = zygote.start(preload="off")
    assert loaded == {"type": "loaded", "preloaded": False, "why_not": None, "interface": None}
    imported_by, pid, _ = eval(answer(zygote))
    assert imported_by == pid


THREADED = (
    "import threading, time, os\n"
    "threading.Thread(target=time.sleep, args=(600,), name='monitor', daemon=True).start()\n"
    "os.environ.setdefault('LEFT_BEHIND', 'x')\n"
    "print('imported', os.environ['LEFT_BEHIND'])\n" + TOLD
)


@every_python
def test_an_app_with_threads_is_imported_in_each_worker(folder, start):
    folder(app=THREADED, gunicorn__conf="def when_ready(server): pass")
    zygote = start()
    configured = zygote.configure()
    assert configured["hooks"] == ["when_ready"]
    loaded = zygote.load(threads=1)
    assert loaded == {
        "type": "loaded",
        "preloaded": False,
        "why_not": "its import left behind the thread monitor",
        "interface": "wsgi",
    }
    # The zygote is the same process, and has no thread left.
    assert len(os.listdir(f"/proc/{zygote.process.pid}/task")) == 1
    worker = zygote.fork(4).boot()
    imported_by, pid, threads = eval(worker.slots[0].get("/"))
    assert imported_by == pid == worker.pid
    assert threads == 2
    worker.end()
    assert worker.wait() == 0
    files = os.listdir(f"/proc/{zygote.process.pid}/fd")
    assert len(files) == 4, files  # standard streams and the control socket


LISTENER = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
"""


DATABASE = """
import sqlite3
database = sqlite3.connect("shop.db")
database.execute("create table if not exists orders (id)")
"""


@pytest.mark.parametrize(
    "source, left",
    [
        (
            LISTENER + "print(client.getpeername()[1], file=open('port', 'w'))",
            "a connection to 127.0.0.1:{port}",
        ),
        ("import asyncio\nloop = asyncio.new_event_loop()", "an event loop"),
        (
            DATABASE,
            "the open file {folder}/shop.db",
        ),
    ],
    ids=["connection", "event loop", "database"],
)
def test_what_must_not_be_shared_is_imported_in_each_worker(folder, start, source, left):
    home = folder(app=source + TOLD)
    zygote = start()
    loaded = zygote.start()
    port = (home / "port").read_text().strip() if (home / "port").exists() else ""
    assert loaded["preloaded"] is False
    assert loaded["why_not"].startswith("its import left behind ")
    assert left.format(folder=home, port=port) in loaded["why_not"]
    imported_by, pid, _ = eval(answer(zygote))
    assert imported_by == pid


def test_logs_and_datagrams_may_be_shared(folder, start):
    folder(
        app="""
import logging, signal, socket
log = open("app.log", "a")
statsd = socket.socket(type=socket.SOCK_DGRAM)
statsd.connect(("127.0.0.1", 8125))
listener = socket.create_server(("127.0.0.1", 0))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
"""
        + TOLD
    )
    zygote = start()
    loaded = zygote.start()
    assert (loaded["preloaded"], loaded["why_not"]) == (True, None)
    worker = zygote.fork().boot()
    worker.end()
    assert worker.wait() == 0


def test_preload_can_be_insisted_on(folder, start):
    folder(app=THREADED)
    zygote = start()
    loaded = zygote.start(preload="on")
    assert loaded["preloaded"] is True
    assert loaded["why_not"] == "its import left behind the thread monitor"
    imported_by, pid, threads = eval(answer(zygote))
    assert imported_by == zygote.process.pid
    assert threads == 1


@every_python
def test_an_asgi_app_is_imported_in_each_worker(folder, start):
    folder(app="import os\nprint(os.getpid())\nasync def app(scope, receive, send): pass")
    zygote = start()
    loaded = zygote.start()
    assert loaded == {"type": "loaded", "preloaded": False, "why_not": None, "interface": "asgi"}
    worker = zygote.fork()
    assert worker.control.expect("booted")["interface"] == "asgi"
    assert zygote.output().split() == [str(zygote.process.pid), str(worker.pid)]


def test_the_hook_process_survives_starting_over(folder, start):
    folder(app=THREADED, gunicorn__conf="def when_ready(server): print('ready', server.pid)")
    zygote = start()
    zygote.configure()
    hooks = HookProcess(zygote)
    assert zygote.load()["preloaded"] is False
    assert hooks.call("when_ready") is None
    assert f"ready {os.getpid()}" in zygote.output()
    hooks.close()
    # Its end is noticed and leaves no zombie.
    assert zygote.fork().boot().slots[0].get("/")


# Starts that fail


@pytest.mark.parametrize("preload", ["auto", "off"])
@pytest.mark.parametrize(
    "source, app, exit, text",
    [
        (HELLO, "app:ap", 4, 'no "ap" in module "app"; did you mean "app"?'),
        (HELLO, "ap:app", 3, 'no module named "ap" in {folder}; did you mean "app"?'),
        (
            "import nothing_here",
            "app:app",
            3,
            "ModuleNotFoundError: No module named 'nothing_here'",
        ),
    ],
)
def test_a_failed_start_says_why(folder, start, preload, source, app, exit, text):
    folder(app=source)
    zygote = start()
    zygote.configure()
    answer = zygote.load(app, preload=preload)
    if preload == "off":
        worker = zygote.fork()
        answer = worker.control.expect("failed")
        assert os.waitstatus_to_exitcode(worker.wait()) == exit
    else:
        assert zygote.wait() == exit
    assert (answer["type"], answer["exit"]) == ("failed", exit)
    assert answer["text"].endswith(text.format(folder=zygote.folder))


@every_python
def test_an_import_error_is_the_apps_own_traceback(folder, start):
    folder(app="import other", other="def f():\n    1 / 0\nf()\n")
    zygote = start()
    zygote.configure()
    failed = zygote.load()
    files = [line.split('"')[1] for line in failed["text"].split("\n") if line.startswith("  File")]
    assert [Path(name).name for name in files] == ["app.py", "other.py", "other.py"]
    assert failed["text"].startswith("Traceback (most recent call last):\n")
    assert failed["text"].endswith("ZeroDivisionError: division by zero")


@every_python
def test_a_syntax_error_is_shown_where_it_is(folder, start):
    folder(app="def app(:\n")
    zygote = start()
    zygote.configure()
    failed = zygote.load()
    assert failed["exit"] == 3
    assert failed["text"].startswith(f'  File "{zygote.folder}/app.py", line 1')
    assert "SyntaxError: invalid syntax" in failed["text"]


def test_a_huge_traceback_fits_into_a_message(folder, start):
    folder(app="raise ValueError('\\x01' * 300_000 + 'the end')")
    zygote = start()
    zygote.configure()
    failed = zygote.load()
    assert failed["exit"] == 3
    assert failed["text"].endswith("the end")
