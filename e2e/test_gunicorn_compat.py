"""What people have already: gunicorn's command line, environment, config file and hooks."""

import json
import os
import re
import signal
import socket
import time

import pytest

import harness
from harness import eventually

HELLO = """
import os
def app(environ, start_response):
    body = os.environ.get("GREETING", "hello").encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def configured(host, tmp_path):
    """`configured(config, *args)`: an app with this gunicorn.conf.py beside it."""

    def start(config, *args, source=HELLO, **options):
        (tmp_path / "gunicorn.conf.py").write_text(config)
        return host("app:app", *args, source=source, **options)

    return start


def printed(host, *args, env=None, config=None, folder=None, target="app:app"):
    """The settings as `--print-config` shows them: name -> (value, source)."""
    (host.folder / "app.py").write_text(HELLO)
    if config is not None:
        (host.folder / "gunicorn.conf.py").write_text(config)
    shown = harness.start(target, *args, "--print-config", cwd=host.folder, env=env, bind="")
    assert shown.wait_exit(30) == 0, shown.log
    rows = {}
    for line in shown.log.lines:
        if found := re.fullmatch(r"(\w+)\s+= (.*?)(?:  # (.*))?", line):
            rows[found[1]] = (found[2], found[3])
    return rows


# Where settings come from


def test_order_of_sources(host):
    config = "workers = 3\nthreads = 3\ntimeout = 33\nkeepalive = 3\n"
    rows = printed(host, "--threads", 5, config=config, env={"GUNICORN_CMD_ARGS": "--threads 4 --timeout 44", "WEB_CONCURRENCY": "2"})
    assert rows["workers"] == ("3", "config file"), "the file beats the environment"
    assert rows["threads"] == ("5", "command line") and rows["timeout"] == ("44", "GUNICORN_CMD_ARGS") and rows["keepalive"][0] == "3"


def test_environment_variables(host):
    rows = printed(host, env={"WEB_CONCURRENCY": "3", "PORT": "7777", "FORWARDED_ALLOW_IPS": "10.0.0.1"})
    assert rows["workers"][0] == "3" and "7777" in rows["bind"][0] and "10.0.0.1" in rows["forwarded_allow_ips"][0]


def test_config_file_is_found_beside_the_app_or_named(host, tmp_path):
    assert printed(host, config="workers = 3")["workers"][0] == "3"
    (tmp_path / "other.py").write_text("workers = 4")
    assert printed(host, "-c", "other.py")["workers"][0] == "4"
    assert printed(host, "-c", f"file:{tmp_path}/other.py")["workers"][0] == "4"
    assert printed(host, "-c", "python:other")["workers"][0] == "4"


def test_named_config_that_is_missing_ends_the_start(host, tmp_path):
    (tmp_path / "app.py").write_text(HELLO)
    failed = host("app:app", "-c", "nothing.py", cwd=tmp_path, ready=False)
    assert failed.wait_exit(20) != 0 and failed.log.matches("nothing.py")


def test_config_that_raises_ends_the_start_with_its_traceback(configured):
    failed = configured("workers = 1\n\nundefined_name\n", ready=False)
    assert failed.wait_exit(20) == 1, failed.log
    assert failed.log.matches("NameError") and failed.log.matches(r"gunicorn\.conf\.py.*line 3")


def test_bad_value_names_the_setting(configured):
    failed = configured("workers = 'many'\n", ready=False)
    assert failed.wait_exit(20) != 0 and failed.log.matches("workers")


def test_unknown_name_in_the_file_is_a_warning_with_a_guess(configured):
    running = configured("keepallive = 5\nmax_request_size = 1\nimport os\n_private = 1\n")
    assert running.log.matches("keepallive") and running.log.matches("keepalive")
    assert not running.log.matches("_private")
    assert running.get("/").body == b"hello"


def test_setting_without_a_meaning_is_one_warning(configured):
    running = configured("worker_tmp_dir = '/dev/shm'\nreuse_port = True\n")
    assert len(running.log.matches("worker_tmp_dir")) == 1


@pytest.mark.parametrize("kind", ["gevent", "eventlet", "tornado"])
def test_foreign_worker_class_exits_2_with_the_ways_out(host, kind):
    failed = host("app:app", "-k", kind, source=HELLO, ready=False)
    assert failed.wait_exit(20) == 2
    said = str(failed.log)
    assert kind in said and "--threads" in said


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_own_worker_classes(host, kind):
    assert host("app:app", "-k", kind, source=HELLO).get("/").body == b"hello"


@pytest.mark.parametrize("kind", ["uvicorn.workers.UvicornWorker", "uvicorn_worker.UvicornWorker", "uvicorn.workers.UvicornH11Worker", "asgi"])
def test_uvicorn_workers_are_ours(host, kind):
    assert host("fastapi_app:app", "-k", kind).get("/").body == b'{"hello":"FastAPI"}'


def test_check_config_loads_the_app_and_says_so_by_its_exit(host, tmp_path):
    (tmp_path / "app.py").write_text(HELLO)
    assert harness.start("app:app", "--check-config", cwd=tmp_path).wait_exit(30) == 0
    (tmp_path / "app.py").write_text("1 / 0\n")
    broken = harness.start("app:app", "--check-config", cwd=tmp_path)
    assert broken.wait_exit(30) == 3 and broken.log.matches("ZeroDivisionError")


def test_settings_that_reach_the_app(host, tmp_path):
    (tmp_path / "sub" / "lib").mkdir(parents=True)
    (tmp_path / "sub" / "lib" / "extra.py").write_text("GREETING = 'from lib'\n")
    source = HELLO + "import extra\nos.environ['GREETING'] = extra.GREETING + os.environ['MORE'] + os.getcwd()\n"
    (tmp_path / "sub" / "app.py").write_text(source)
    running = host("app:app", "--chdir", "sub", "--pythonpath", "lib", "-e", "MORE=, more,", cwd=tmp_path)
    assert running.get("/").text == f"from lib, more,{tmp_path}/sub"


def test_wsgi_app_in_the_file(host, tmp_path):
    (tmp_path / "app.py").write_text(HELLO)
    (tmp_path / "gunicorn.conf.py").write_text("wsgi_app = 'app:app'\n")
    assert host("", cwd=tmp_path).get("/").body == b"hello"


def test_pidfile(host, tmp_path):
    path = tmp_path / "app.pid"
    running = host("app:app", "-p", path, source=HELLO)
    assert path.read_text().strip() == str(running.process.pid)
    assert running.stop() == 0
    assert not path.exists()


def test_umask_and_proc_name(host, tmp_path):
    source = HELLO + "import os\nm = os.umask(0); os.umask(m); os.environ['GREETING'] = oct(m)\n"
    running = host("app:app", "--umask", "077", "-n", "shop", "--preload=off", source=source)
    assert running.get("/").text == "0o77"
    assert any("shop" in " ".join(harness.command_line(w)) for w in running.workers()), running.tree()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_user_and_group(host, tmp_path):
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    source = HELLO + "os.environ['GREETING'] = ''\n" + """
def app(environ, start_response):
    body = repr((os.getresuid(), os.getresgid(), os.getgroups())).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
    running = host("app:app", "--user", "nobody", "--group", "nogroup", source=source, python="/usr/bin/python3")
    uids, gids, groups = eval(running.get("/").body)
    assert set(uids) == {65534} and set(gids) == {65534} and 0 not in groups
    assert running.server().uids().real == 65534
    assert not running.log.matches("running as root")


def test_root_without_a_user_is_one_warning(host):
    if os.geteuid() == 0:
        assert len(host(source=HELLO).log.matches("root")) == 1


def test_daemon(host, tmp_path):
    (tmp_path / "app.py").write_text(HELLO)
    pidfile = tmp_path / "d.pid"
    running = host("app:app", "--daemon", "--pid", pidfile, cwd=tmp_path, ready=False)
    assert running.wait_exit(30) == 0
    eventually(lambda: answers(running), 20)
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    eventually(lambda: not running.processes(), 20)


def answers(running):
    try:
        return running.get("/").status == 200
    except OSError:
        return False


def test_reload_flag_reloads_on_an_edit_and_warns(host, tmp_path):
    running = host("app:app", "--reload", source=HELLO)
    assert running.log.matches("warning: --reload is for development only")
    (tmp_path / "app.py").write_text(HELLO.replace('"hello"', '"edited"'))
    later = time.time_ns() + 2_000_000_000  # the clock of some file systems counts seconds
    os.utime(tmp_path / "app.py", ns=(later, later))
    eventually(lambda: running.get("/").body == b"edited", 20)


def test_app_run_in_the_module_is_warned_about(host):
    source = """
from flask import Flask
app = Flask(__name__)
@app.get("/")
def hello(): return "hello"
app.run(port=1)
"""
    assert host(source=source).log.matches(r"app\.run\(\) is passed over")


def test_second_name_of_the_command(tmp_path):
    import subprocess

    out = subprocess.run([harness.OSTLER, "gunicorn", "--version"], capture_output=True, text=True)
    assert out.returncode == 0 and "ostler" in out.stdout


# Hooks


HOOKS = """
import os
LOG = {log!r}

def note(name, *more):
    with open(LOG, "a") as file:
        file.write(" ".join(map(str, (name, os.getpid(), *more))) + "\\n")

def on_starting(server): note("on_starting", server.pid, server.cfg.workers)
def when_ready(server): note("when_ready", len(server.WORKERS) if hasattr(server, "WORKERS") else "")
def on_reload(server): note("on_reload")
def nworkers_changed(server, new, old): note("nworkers_changed", new, old)
def child_exit(server, worker): note("child_exit", worker.pid, worker.age)
def on_exit(server): note("on_exit")
def pre_fork(server, worker): note("pre_fork", worker.age)
def post_fork(server, worker):
    note("post_fork", worker.pid, worker.age)
    server.log.info("worker %s spawned", worker.pid)
def post_worker_init(worker): note("post_worker_init", worker.pid, worker.alive)
def pre_request(worker, req): note("pre_request", req.method, req.path)
def post_request(worker, req, environ, resp): note("post_request", req.path, environ["PATH_INFO"], resp.status)
def worker_exit(server, worker): note("worker_exit", worker.pid)
def worker_abort(worker): note("worker_abort", worker.pid)
def worker_int(worker): note("worker_int", worker.pid)
"""


@pytest.fixture
def hooked(configured, tmp_path):
    log = tmp_path / "hooks.log"
    log.write_text("")

    def notes(name=None):
        rows = [line.split() for line in log.read_text().splitlines()]
        return [row for row in rows if name in (None, row[0])]

    def start(*args, extra="", **options):
        running = configured(HOOKS.format(log=str(log)) + extra, *args, **options)
        running.notes = notes
        return running

    return start


def test_hooks_run_in_their_places(hooked):
    running = hooked("-w", "2")
    assert running.get("/path").body == b"hello"
    eventually(lambda: running.notes("when_ready") and running.notes("post_request"))
    names = [row[0] for row in running.notes()]
    assert names[0] == "on_starting" and names.index("pre_fork") < names.index("post_fork") < names.index("post_worker_init") < names.index("when_ready")
    workers = {str(w.pid) for w in running.workers()}
    zygote = str(running.zygotes()[0].pid)
    assert {row[1] for row in running.notes("pre_fork")} == {zygote}
    for name in ("post_fork", "post_worker_init"):
        assert {row[1] for row in running.notes(name)} == workers == {row[2] for row in running.notes(name)}
    assert sorted(row[3] for row in running.notes("post_fork")) == ["1", "2"], "age"
    master = {row[1] for name in ("on_starting", "when_ready") for row in running.notes(name)}
    assert len(master) == 1 and not master & (workers | {zygote})
    assert running.notes("pre_request")[0][2:] == ["GET", "/path"]
    assert running.notes("post_request")[0][2:4] == ["/path", "/path"]
    running.log.wait("worker \\d+ spawned")


def test_hooks_of_the_end(hooked):
    running = hooked("-w", "2")
    workers = {str(w.pid) for w in running.workers()}
    assert running.stop() == 0
    assert {row[2] for row in running.notes("worker_exit")} == workers
    assert {row[2] for row in running.notes("child_exit")} == workers
    assert [row[0] for row in running.notes()][-1] == "on_exit"


def test_hooks_of_a_reload(hooked):
    running = hooked("-w", "1")
    master = running.notes("on_starting")[0][1]
    old = running.notes("post_fork")[0][2]
    running.kill(signal.SIGHUP)
    eventually(lambda: [row for row in running.notes("child_exit") if row[2] == old], 20)
    assert [row[1] for row in running.notes("on_reload")] == [master], "the master's hooks outlive reloads"
    assert len(running.notes("on_starting")) == 1


def test_hook_when_the_number_of_workers_changes(hooked):
    running = hooked("-w", "1")
    running.kill(signal.SIGTTIN)
    eventually(lambda: ["2", "1"] in [row[2:] for row in running.notes("nworkers_changed")])


def test_worker_abort_runs_at_a_timeout(hooked):
    source = HELLO.replace("    body =", "    if environ['PATH_INFO'] == '/hang':\n        import time; time.sleep(100)\n    body =")
    running = hooked("--timeout", "1", "-w", "2", source=source)
    assert running.get("/hang").status == 504
    eventually(lambda: running.notes("worker_abort"), 40)


def test_raising_hook_is_logged_and_hurts_no_request(configured):
    running = configured("def post_request(worker, req, environ, resp):\n    raise RuntimeError('from a hook')\n")
    assert running.get("/").body == b"hello"
    running.log.wait("from a hook")
    assert running.get("/").body == b"hello"


def test_code_in_the_file_runs_once_per_generation_before_the_app(configured, tmp_path):
    mark = tmp_path / "ran"
    config = f"import os\nopen({str(mark)!r}, 'a').write('config\\n')\n"
    running = configured(config, "-w", "2", source=HELLO + f"\nopen({str(mark)!r}, 'a').write('app\\n')\n")
    assert mark.read_text().split() == ["config", "app"]
    running.kill(signal.SIGHUP)
    eventually(lambda: mark.read_text().split() == ["config", "app"] * 2, 20)


def test_prometheus_as_its_documentation_configures_it(host, tmp_path):
    """client_python, multiprocess mode: a metrics server in when_ready, clean-up in child_exit."""
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    port = harness.free_port()
    (tmp_path / "gunicorn.conf.py").write_text(f"""
from prometheus_client import multiprocess, CollectorRegistry, start_http_server

def when_ready(server):
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    start_http_server({port}, addr="127.0.0.1", registry=registry)

def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
""")
    source = """
from prometheus_client import Counter, Gauge
REQUESTS = Counter("shop_requests", "Requests")
LIVE = Gauge("shop_live", "Live workers", multiprocess_mode="livesum")
def app(environ, start_response):
    REQUESTS.inc()
    LIVE.set(1)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
    running = host("app:app", "-w", "2", source=source, env={"PROMETHEUS_MULTIPROC_DIR": str(metrics)})

    def listens():
        with socket.socket() as metrics_server:
            return metrics_server.connect_ex(("127.0.0.1", port)) == 0

    def scraped():
        with harness.Raw(("127.0.0.1", port)) as raw:
            text = raw.send(b"GET /metrics HTTP/1.0\r\n\r\n").answer().text
        return {name: float(value) for name, value in re.findall(r"^(\w+?)(?:\{.*\})? ([\d.e+]+)$", text, re.M)}

    def gauges_of(pids):
        return [path.name for pid in pids for path in metrics.glob(f"gauge_live*_{pid}.db")]

    # A hook is called beside the server, which does not wait for it.
    eventually(listens, 20, "when_ready has started the metrics server")
    sent = 0
    for reload in range(4):
        for _ in range(20):
            assert running.get("/").status == 200
            sent += 1
        assert scraped()["shop_requests_total"] == sent, "the counter outlives the workers"
        old = {w.pid for w in running.workers()}
        assert 1 <= scraped()["shop_live"] <= len(gauges_of(old)) == 2, "those who served"
        if reload < 3:
            running.kill(signal.SIGHUP)
        else:
            for pid in old:
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not old & {w.pid for w in running.workers()} and len(running.workers()) == 2, 20)
        eventually(lambda: not gauges_of(old), 10, "the gauges of dead workers are gone")
        assert scraped().get("shop_live", 0) == 0, "no new worker has served yet"


def test_server_and_worker_have_what_configs_use(configured, tmp_path):
    out = tmp_path / "seen"
    running = configured(f"""
import json
bind_default = None
def post_worker_init(worker):
    seen = dict(pid=worker.pid, age=worker.age, nr=worker.nr, alive=worker.alive, timeout=worker.timeout, ppid=worker.ppid,
                threads=worker.cfg.threads, bind=worker.cfg.bind, name=worker.cfg.proc_name, settings="workers" in worker.cfg.settings,
                callable=callable(worker.wsgi), app=worker.app is not None, address=str(worker.cfg.address[0]))
    worker.log.debug("debug"); worker.log.info("info %s", 1); worker.log.warning("warn"); worker.log.error("err")
    try: 1 / 0
    except ZeroDivisionError: worker.log.exception("exc")
    open({str(out)!r}, "w").write(json.dumps(seen))
""", "--threads", "3")
    seen = json.loads(eventually(lambda: out.exists() and out.read_text()))
    assert seen["pid"] == running.workers()[0].pid and seen["age"] == 1 and seen["alive"] is True and seen["threads"] == 3
    assert seen["callable"] and seen["settings"] and isinstance(seen["bind"], list)
    running.log.wait("ZeroDivisionError")
