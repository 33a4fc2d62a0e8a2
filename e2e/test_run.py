"""`ostler run`: how it starts, what it says, how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

import harness
from harness import eventually

HELLO = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
"""
ASGI_HELLO = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})
"""


def fails(host, exit_code, *patterns):
    """The host ends by itself with this code, having said all this."""
    assert host.wait_exit(30) == exit_code, host.log
    for pattern in patterns:
        assert host.log.matches(pattern), f"no {pattern!r} in\n{host.log}"


@pytest.mark.smoke
def test_hello_is_served_and_the_start_says_what_runs(host):
    running = host(source=HELLO)
    assert running.get("/").body == b"hello"
    said = str(running.log)
    assert f"http://127.0.0.1:{running.port}" in said
    assert "Python 3." in said
    assert re.search(r"1 worker|1 ×|1 x", said), said
    assert "--workers" in said or "-w" in said, "the start says how to raise it"


def test_asgi_is_told_apart_by_the_callable(host):
    assert host(source=ASGI_HELLO).get("/").body == b"hello"


@pytest.mark.parametrize("source, kind", [(HELLO, "wsgi"), (ASGI_HELLO, "asgi")])
def test_interface_can_be_said(host, source, kind):
    assert host("app:app", "--interface", kind, source=source).get("/").body == b"hello"


def test_callable_class_and_partial_are_understood(host):
    source = HELLO.replace("def app", "def inner") + """
import functools
class Application:
    def __call__(self, environ, start_response):
        return inner(environ, start_response)
class Async:
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"async"})
one, two, three = Application(), functools.partial(inner), Async()
"""
    assert host("app:one", source=source).get("/").body == b"hello"
    assert host("app:two", source=source).get("/").body == b"hello"
    assert host("app:three", source=source).get("/").body == b"async"


@pytest.mark.parametrize("target", ["app:create()", "app:create('hello')", "app:create(text='hello')"])
def test_factory_is_called(host, target):
    source = """
def create(text="hello"):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", str(len(text)))])
        return [text.encode()]
    return app
"""
    assert host(target, source=source).get("/").body == b"hello"


def test_module_alone_means_application_or_app(host):
    assert host("application", source=HELLO.replace("def app", "def application")).get("/").body == b"hello"


def test_module_in_a_package_is_found(host, tmp_path):
    (tmp_path / "web" / "sub").mkdir(parents=True)
    assert host("web.sub.main:app", source=HELLO).get("/").body == b"hello"


# What goes wrong at the start


def test_import_error_shows_the_apps_own_traceback_and_exits_3(host):
    fails(
        host(source="import json\n\ndef build():\n    raise RuntimeError('no database')\n\nbuild()\n", ready=False),
        3, r"Traceback", r'app\.py", line 6', r"in build", r"RuntimeError: no database",
    )


def test_traceback_has_no_frame_of_ostler(host):
    failed = host(source="1 / 0\n", ready=False)
    fails(failed, 3, "ZeroDivisionError")
    frames = [m.group(1) for m in failed.log.matches(r'File "([^"]+)"')]
    assert frames and all(frame.endswith("app.py") for frame in frames), frames


def test_syntax_error_is_shown_and_exits_3(host):
    fails(host(source="def app(:\n", ready=False), 3, "SyntaxError", r"app\.py")


def test_missing_module_exits_3_and_names_it(host):
    fails(host("nothing:app", ready=False), 3, 'no module named "nothing"')


def test_missing_import_of_the_app_exits_3(host):
    fails(host(source="import not_there_at_all\n", ready=False), 3, "No module named 'not_there_at_all'")


def test_missing_callable_exits_4_and_guesses(host):
    (host.folder / "app.py").write_text(HELLO)
    failed = host("app:ap", cwd=host.folder, ready=False)
    fails(failed, 4, r'no "ap" in module "app"; did you mean "app"\?')


def test_thing_that_cannot_be_called_exits_4(host):
    fails(host("app:app", source="app = 5\n", ready=False), 4, r"app")


@pytest.mark.parametrize("workers", [1, 4])
def test_worker_that_dies_before_it_is_ready_ends_the_start(host, workers):
    failed = host("app:app", "-w", workers, "--preload=off", source="import os\nos._exit(7)\n", ready=False)
    assert failed.wait_exit(30) != 0
    assert failed.log.matches(r"7"), failed.log


def test_address_in_use_is_one_clear_line(host):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        failed = host(source=HELLO, bind=f"127.0.0.1:{port}", ready=False)
        assert failed.wait_exit(20) not in (0, 101)
        assert failed.log.matches(r"(?i)address already in use"), failed.log
        assert failed.log.matches(str(port))


def test_second_ostler_on_the_same_address_fails(host):
    first = host(source=HELLO)
    second = host(source=HELLO, bind=f"127.0.0.1:{first.port}", ready=False)
    assert second.wait_exit(20) != 0
    assert second.log.matches(r"(?i)address already in use")
    assert first.get("/").body == b"hello"


def test_unknown_flag_exits_2_and_guesses(host):
    failed = host("app:app", "--workerz", "2", source=HELLO, ready=False)
    fails(failed, 2, "workerz", "--workers")


def test_python_that_is_not_there_is_said(host):
    failed = host(source=HELLO, python="/nowhere/python3", ready=False)
    assert failed.wait_exit(20) == 2
    assert failed.log.matches("/nowhere/python3")


# Listening


def test_unix_socket(host, tmp_path):
    path = tmp_path / "app.sock"
    running = host(source=HELLO, bind=f"unix:{path}")
    with harness.Raw(str(path)) as raw:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"hello"
    assert running.stop() == 0
    assert not path.exists(), "the socket file is removed"


def test_several_binds(host, tmp_path):
    other = harness.free_port()
    running = host("app:app", "--bind", f"127.0.0.1:{other}", "--bind", f"unix:{tmp_path}/a.sock", source=HELLO)
    assert running.get("/").body == b"hello"
    for address in [("127.0.0.1", other), f"{tmp_path}/a.sock"]:
        with harness.Raw(address) as raw:
            assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"hello"


def test_stale_unix_socket_is_replaced(host, tmp_path):
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    host(source=HELLO, bind=f"unix:{path}")
    with harness.Raw(str(path)) as raw:
        assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"hello"


def test_inherited_descriptor(tmp_path):
    (tmp_path / "app.py").write_text(HELLO)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(listener.fileno(), True)
        command = [str(harness.OSTLER), "run", "app:app", "--bind", f"fd://{listener.fileno()}", "--python", sys.executable]
        process = subprocess.Popen(command, cwd=tmp_path, pass_fds=[listener.fileno()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            with harness.Raw(listener.getsockname(), 30) as raw:
                assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"hello"
        finally:
            process.terminate()
            process.communicate(timeout=30)
        assert process.returncode == 0


def test_port_from_the_environment(host):
    port = harness.free_port()
    running = host(source=HELLO, bind="", env={"PORT": str(port)})
    running.port = port
    assert running.get("/").body == b"hello"


def test_tls(host, tls):
    import ssl

    cert, key = tls
    running = host("app:app", "--certfile", cert, "--keyfile", key, source=HELLO)
    context = ssl.create_default_context(cafile=str(cert))
    with socket.create_connection(("127.0.0.1", running.port)) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            assert secure.version() == "TLSv1.3"
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := secure.recv(4096):
                answer += data
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"hello")


def test_plain_request_on_a_tls_port_hurts_nobody(host, tls):
    running = host("app:app", "--certfile", tls[0], "--keyfile", tls[1], source=HELLO)
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"hello" not in raw.rest()
    assert running.alive()


# Stopping


GATED = """
import os, time

def app(environ, start_response):
    open("entered", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.smoke
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_lets_a_request_finish_and_exits_0(host, tmp_path, number):
    running = host("app:app", "--threads", "2", source=GATED)
    with running.raw(20) as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually((tmp_path / "entered").exists, 20, "the request is in a worker")
        running.kill(number)
        running.log.wait("no new connections")
        (tmp_path / "go").touch()
        answer = raw.answer()
        assert answer.status == 200 and answer.header("Connection").lower() == "close"
    assert running.wait_exit() == 0


def test_stop_refuses_new_connections_at_once(host, tmp_path):
    running = host("app:app", source=GATED)
    with running.raw(30) as slow:
        slow.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually((tmp_path / "entered").exists, 20, "the request is in a worker")
        running.kill(signal.SIGTERM)

        def refused():
            try:
                running.raw(1).socket.close()
                return False
            except ConnectionRefusedError:
                return True

        eventually(refused, 20, "the listener is closed while the request runs")
        (tmp_path / "go").touch()
        assert slow.answer().status == 200


def test_idle_connection_does_not_delay_the_stop(host):
    import time

    running = host(source=HELLO)
    with running.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer()
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 15, "half of --graceful-timeout"


def test_quit_ends_at_once(host):
    import time

    running = host("probe:app")
    with running.raw() as raw:
        raw.send(b"GET /slow/20000 HTTP/1.1\r\nHost: a\r\n\r\n")
        began = time.monotonic()
        running.kill(signal.SIGQUIT)
        assert running.wait_exit(10) == 0
        assert time.monotonic() - began < 8


def test_request_longer_than_graceful_timeout_is_cut_off(host):
    """Once, and not again by each of those that take part in a stop."""
    import time

    running = host("probe:app", "--graceful-timeout", 8, "--threads", 2)
    with running.raw(20) as raw:
        raw.send(b"GET /slow/60000 HTTP/1.1\r\nHost: a\r\n\r\n")
        harness.eventually(lambda: running.get("/calls").body == b"1")
        began = time.monotonic()
        running.kill(signal.SIGTERM)
        assert running.wait_exit(25) == 0
        assert 8 <= time.monotonic() - began < 15


def test_atexit_handlers_run(host, tmp_path):
    source = HELLO + f"""
import atexit, os
atexit.register(lambda: open({str(tmp_path)!r} + "/left-%d" % os.getpid(), "w").close())
"""
    running = host("app:app", "-w", "2", "--preload=off", source=source)
    workers = {worker.pid for worker in running.workers()}
    assert running.stop() == 0
    assert {path.name for path in tmp_path.glob("left-*")} >= {f"left-{pid}" for pid in workers}


def test_each_step_of_a_stop_is_a_line(host):
    running = host(source=HELLO)
    before = len(running.log.lines)
    assert running.stop() == 0
    steps = ["no new connections", "1 worker ends", r"worker 1 .* has ended: exit 0", "all workers have ended", "stopped"]
    said = running.log.lines[before:]
    assert len(said) == len(steps) and all(map(re.search, steps, said)), said


def test_as_pid_1(host):
    """In a PID namespace of its own the keeper is pid 1, as in a container without an init."""
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("PID namespaces cannot be made here")
    (host.folder / "app.py").write_text(HELLO)
    port = harness.free_port()
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", str(harness.OSTLER), "run", "app:app", "--bind", f"127.0.0.1:{port}"]
    running = harness.Host([*command, "--python", sys.executable], host.folder, {}, port)
    host.hosts.append(running)
    running.wait_ready()
    assert running.get("/").body == b"hello"
    keeper = next(p for p in running.processes() if p.exe() == str(harness.OSTLER) and "__server" not in p.cmdline())
    keeper.terminate()
    assert running.wait_exit() == 0


# Apps that serve themselves


BLOCKERS = {
    "flask": ("from flask import Flask\napp = Flask(__name__)\n@app.get('/')\ndef hello(): return 'hello'\n", "app.run(port={port})", r"app\.run\(\)"),
    "werkzeug": (HELLO, "from werkzeug.serving import run_simple\nrun_simple('127.0.0.1', {port}, app)", r"run_simple\(\)"),
    "wsgiref": (HELLO, "from wsgiref.simple_server import make_server\nmake_server('127.0.0.1', {port}, app).serve_forever()", r"serve_forever\(\)"),
    "uvicorn": (ASGI_HELLO, "import uvicorn\nuvicorn.run(app, port={port})", r"uvicorn\.run\(\)"),
    "socketio": (
        "from flask import Flask\nfrom flask_socketio import SocketIO\napp = Flask(__name__)\n@app.get('/')\ndef hello(): return 'hello'\n"
        "socketio = SocketIO(app, async_mode='threading')\n", "socketio.run(app, port={port})", r"SocketIO\.run\(\)",
    ),
}
UVICORN = "def run(app, **options):\n    import time\n    time.sleep(600)\n"


@pytest.mark.parametrize("preload", ["auto", "off"])
@pytest.mark.parametrize("name", BLOCKERS)
def test_app_that_serves_itself_is_served_all_the_same(host, tmp_path, name, preload):
    """The call neither hangs the start nor binds its port, and is named with its file and line."""
    source, call, said = BLOCKERS[name]
    (tmp_path / "uvicorn.py").write_text(UVICORN)
    port = harness.free_port()
    source += call.format(port=port) + "\n"
    running = host("app:app", f"--preload={preload}", source=source)
    assert running.get("/").body == b"hello"
    line = len(source.splitlines())
    found = running.log.matches(rf"app\.py, line {line}: .*{said} is passed over.*__main__")
    assert len(found) == 1, running.log
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_server_in_a_thread_of_the_app_is_left_alone(host):
    port = harness.free_port()
    source = HELLO + f"""
import threading
from wsgiref.simple_server import make_server
threading.Thread(target=make_server("127.0.0.1", {port}, app).serve_forever, daemon=True).start()
"""
    running = host("app:app", "--preload=off", source=source)
    with harness.Raw(("127.0.0.1", port)) as raw:
        assert raw.send(b"GET / HTTP/1.0\r\n\r\n").answer().body == b"hello"
    assert running.get("/").body == b"hello" and not running.log.matches("passed over")


def test_call_below_main_is_never_made(host):
    running = host(source=HELLO + "\nif __name__ == '__main__':\n    raise SystemExit('not here')\n")
    assert running.get("/").body == b"hello" and not running.log.matches("passed over")


def test_stop_in_the_middle_of_a_reload_ends(host):
    """The workers of the next generation may be on their way: asked for and not forked yet."""
    for _ in range(5):
        running = host("app:app", "-w", "3", source=HELLO)
        running.kill(signal.SIGHUP)
        running.log.wait("generation 2 starts")
        assert running.stop() == 0, running.log
