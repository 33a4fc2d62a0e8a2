"""gunicorn's hooks: where and when each is called, with what, and what its failure does."""

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from zygote_driver import HELLO, HookProcess

every_python = pytest.mark.every_python


WORKER_HOOKS = """
import os
zygote = os.getpid()
def say(*words):
    print(*words, flush=True)
def where():
    return "zygote" if os.getpid() == zygote else "worker"
def pre_fork(server, worker):
    say("pre_fork", where(), worker.age, worker.pid, server.cfg.workers)
def post_fork(server, worker):
    say("post_fork", where(), worker.age, worker.pid == os.getpid(), worker.booted)
def post_worker_init(worker):
    say("post_worker_init", where(), worker.app.callable is worker.app.wsgi() is worker.wsgi)
def pre_request(worker, req):
    say("pre_request", worker.nr, req.method, req.path)
def post_request(worker, req, environ, resp):
    say("post_request", req.path, environ["REMOTE_ADDR"], resp.status, resp.status_code)
def worker_int(worker):
    say("worker_int", worker.alive)
def worker_abort(worker):
    say("worker_abort", worker.aborted)
def worker_exit(server, worker):
    say("worker_exit", where(), worker.alive, worker.pid == os.getpid(), server.pid == worker.ppid)
"""


@every_python
def test_worker_hooks_are_called_in_gunicorns_order(folder, start):
    folder(app=HELLO, gunicorn__conf=WORKER_HOOKS)
    zygote = start()
    configured = zygote.configure()
    assert len(configured["hooks"]) == 8
    assert configured["master_hooks"] is False
    zygote.load(cfg={"workers": 3})
    worker = zygote.fork(id=9, age=4).boot()
    assert worker.slots[0].get("/a") == "hello /a"
    worker.end()
    assert worker.wait() == 0
    assert zygote.output().splitlines() == [
        "pre_fork zygote 4 [booting] 3",
        "post_fork worker 4 True False",
        "post_worker_init worker True",
        "pre_request 1 GET /a",
        "post_request /a 192.0.2.1 200 OK 200",
        "worker_exit worker False True True",
    ]


@pytest.mark.parametrize(
    "signum, code, said",
    [
        (signal.SIGQUIT, 0, "worker_int False"),
        (signal.SIGINT, 0, "worker_int False"),
        (signal.SIGABRT, 1, "worker_abort True"),
    ],
)
def test_signals_call_their_hooks(folder, start, signum, code, said):
    folder(app=HELLO, gunicorn__conf=WORKER_HOOKS)
    zygote = start()
    zygote.start()
    worker = zygote.fork().boot()
    os.kill(worker.pid, signum)
    assert os.waitstatus_to_exitcode(worker.wait()) == code
    lines = zygote.output().splitlines()
    assert said in lines
    assert lines[-1].startswith("worker_exit")


@pytest.mark.parametrize(
    "hook", ["pre_fork(server, worker)", "post_fork(server, worker)", "post_worker_init(worker)"]
)
def test_a_hook_that_prepares_a_worker_must_not_fail(folder, start, hook):
    folder(app=HELLO, gunicorn__conf=f"def {hook}:\n    raise OSError('no pool')")
    zygote = start()
    zygote.start()
    worker = zygote.fork()
    if hook.startswith("post_worker_init"):
        worker.control.expect("booted")
        worker.give_slots(1)
    failed = worker.control.expect("failed")
    assert failed["exit"] == 3
    lines = failed["text"].splitlines()
    assert lines[0] == f"the hook {hook.partition('(')[0]} failed:"
    assert "gunicorn.conf.py" in lines[2]
    assert lines[-1] == "OSError: no pool"
    assert os.waitstatus_to_exitcode(worker.wait()) == 3


def test_other_hooks_may_fail(folder, start):
    folder(
        app=HELLO,
        gunicorn__conf="""
def post_request(worker, req): 2 / 0
def worker_exit(server, worker): 3 / 0
""",
    )
    zygote = start()
    zygote.start()
    worker = zygote.fork().boot()
    assert worker.slots[0].get("/") == "hello /"
    worker.end()
    assert worker.wait() == 0
    for hook in ("post_request", "worker_exit"):
        assert f"[ERROR] the hook {hook} failed:" in zygote.output()


def test_server_and_cfg_have_what_hooks_look_at(folder, start):
    folder(
        app=HELLO,
        gunicorn__conf="""
class Special: pass
worker_class = Special
bind = ["0.0.0.0:80", "unix:/run/x.sock", "[::1]:8001", "fd://3", "localhost"]
timeout = 30
def post_fork(server, worker):
    cfg = server.cfg
    assert cfg.worker_class is Special and cfg.worker_class_str == "__config__.Special"
    assert cfg.timeout == 77, "the command line wins over the file"
    assert cfg.settings["backlog"].get() == cfg.backlog == 2048
    assert cfg.env == {"A": "1=2"}
    assert cfg.proc_name == "gunicorn"
    assert server.address == [("0.0.0.0", 80), "/run/x.sock", ("::1", 8001), 3, ("localhost", 8000)]
    assert server.num_workers == 2 and len(server.WORKERS) == worker.age - 1
    assert worker.timeout == 77 and worker.ppid == server.pid and worker.tmp and worker.nr == 0
    assert not hasattr(cfg, "nonsense")
    server.log.info("all is %s", "well")
    worker.log.debug("too quiet")
""",
    )
    zygote = start()
    configured = zygote.configure()
    zygote.load(cfg={**configured["settings"], "timeout": 77, "workers": 2, "raw_env": ["A=1=2"]})
    workers = [zygote.fork(id).boot() for id in (1, 2)]
    assert f"[{workers[0].pid}] [INFO] all is well" in zygote.output()
    assert "too quiet" not in zygote.output()


MASTER_HOOKS = """
import os
def on_starting(server): print("on_starting", server.pid, server.cfg.threads, flush=True)
def when_ready(server): print("when_ready", server.num_workers, sorted(server.WORKERS))
def child_exit(server, worker): print("child_exit", worker.pid, worker.age)
def nworkers_changed(server, new, old): print("nworkers_changed", new, old)
def on_reload(server): raise RuntimeError("cannot")
def pre_exec(server): print("pre_exec")
def on_exit(server): print("on_exit", os.getpid() != server.pid)
"""


@every_python
def test_master_hooks_run_in_the_hook_process(folder, start):
    folder(app=HELLO, gunicorn__conf="threads = 5\n" + MASTER_HOOKS)
    zygote = start()
    assert zygote.configure()["master_hooks"] is True
    hooks = HookProcess(zygote)
    assert hooks.call("on_starting") is None
    zygote.load()
    server = {"num_workers": 2, "workers": [{"pid": 11, "age": 1}, {"pid": 12, "age": 2}]}
    assert hooks.call("when_ready", server=server) is None
    # It outlives its zygote, and the signals that are meant for the keeper.
    zygote.control.send({"type": "retire"})
    assert zygote.wait() == 0
    assert hooks.call("child_exit", {"pid": 11, "age": 1}) is None
    assert hooks.call("nworkers_changed", new=3, old=2) is None
    error = hooks.call("on_reload")
    assert error.startswith("the hook on_reload failed:")
    assert error.endswith("RuntimeError: cannot")
    assert hooks.call("pre_exec") is None
    assert hooks.call("on_exit") is None
    hooks.close()
    names = {"on_starting", "when_ready", "child_exit", "nworkers_changed", "pre_exec", "on_exit"}
    said = [line for line in zygote.output().splitlines() if line.split()[0] in names]
    assert said == [
        f"on_starting {os.getpid()} 5",
        "when_ready 2 [11, 12]",
        "child_exit 11 1",
        "nworkers_changed 3 2",
        "pre_exec",
        "on_exit True",
    ]


def test_a_failing_on_starting_is_told(folder, start):
    folder(gunicorn__conf="import sys\ndef on_starting(server): sys.exit('not today')")
    zygote = start()
    zygote.configure()
    hooks = HookProcess(zygote)
    assert hooks.call("on_starting").endswith("SystemExit: not today")
    hooks.close()


# The gunicorn section of client_python's documentation on multiprocess mode.
PROMETHEUS = """
from prometheus_client import CollectorRegistry, multiprocess, start_http_server
def when_ready(server):
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    httpd, thread = start_http_server(0, "127.0.0.1", registry=registry)
    with open("port", "w") as file:
        file.write(str(httpd.server_port))
def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
"""

COUNTING = """
from prometheus_client import Counter, Gauge
served = Counter("served", "requests")
busy = Gauge("busy", "workers at work", multiprocess_mode="livesum")
def app(environ, start_response):
    served.inc()
    busy.set(1)
    start_response("200 OK", [])
    return [b"ok"]
"""


@every_python
def test_prometheus_counts_over_workers_and_forgets_the_dead(folder, start, monkeypatch):
    import prometheus_client

    metrics = folder(app=COUNTING, gunicorn__conf=PROMETHEUS) / "metrics"
    metrics.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(metrics))
    packages = str(Path(prometheus_client.__file__).parents[1])
    zygote = start()
    zygote.configure(pythonpath=[packages])
    hooks = HookProcess(zygote)
    assert hooks.call("on_starting") is None
    zygote.load(pythonpath=[packages])
    assert hooks.call("when_ready") is None
    workers = [zygote.fork(id).boot() for id in (1, 2)]

    def scraped():
        port = (zygote.folder / "port").read_text()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    for worker in workers:
        assert worker.slots[0].get("/") == "ok"
    assert scraped() == {"served_total": "2.0", "busy": "2.0"}
    workers[0].end()
    assert workers[0].wait() == 0
    assert hooks.call("child_exit", {"pid": workers[0].pid, "age": 1}) is None
    assert scraped() == {"served_total": "2.0", "busy": "1.0"}
    hooks.close()
