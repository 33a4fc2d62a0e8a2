"""gunicorn's command line, flag by flag: what people type is understood, and has its value."""

import os
import re
import signal
import subprocess
import sys

import pytest

import harness
from harness import eventually

APP = """
import os
def app(environ, start_response):
    body = os.environ.get(environ["QUERY_STRING"], "hello").encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
def create_app(name="hello", *, loud=False):
    return app
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """`printed(args, config, env)`: the settings in force, and everything that was said."""
    folder = tmp_path_factory.mktemp("printed")
    (folder / "app.py").write_text(APP)
    (folder / "x.ini").write_text("[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n[logger_root]\nhandlers=\n")
    for name in ("sub", "lib"):
        (folder / name).mkdir()
        (folder / name / "app.py").write_text(APP)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True)

    def run(args, config="", env=None):
        (folder / "gunicorn.conf.py").write_text(config)
        shown = harness.start("", *args.split(), "--print-config", cwd=folder, env=env, bind="")
        assert shown.wait_exit(30) == 0, shown.log
        rows = {}
        for line in shown.log.lines:
            if found := re.fullmatch(r"(\w+)\s+= (.*?)(?:  # (.*))?", line):
                rows[found[1]] = found[2]
        return rows, str(shown.log)

    return run


# Arguments → settings as `--print-config` shows them. A setting of None: there is only one warning, and it names this.
FLAGS = [
    ("app:app", {"wsgi_app": "'app:app'"}),
    ("app", {"wsgi_app": "'app'"}),
    ("app:create_app()", {"wsgi_app": "'app:create_app()'"}),
    ("app:create_app('x',loud=True)", {}),
    ("app:app -b 127.0.0.1:8001", {"bind": "['127.0.0.1:8001']"}),
    ("app:app --bind :8001 --bind unix:/tmp/x.sock --bind [::1]:8002", {"bind": "['0.0.0.0:8001', 'unix:/tmp/x.sock', '[::1]:8002']"}),
    ("app:app -b fd://9", {"bind": "['fd://9']"}),
    ("app:app -w 3", {"workers": "3"}),
    ("app:app --workers=3", {"workers": "3"}),
    ("app:app -k sync", {"worker_class": "'sync'"}),
    ("app:app -k gthread --threads 4", {"worker_class": "'gthread'", "threads": "4"}),
    ("app:app --threads 4", {"worker_class": "'gthread'"}),
    ("app:app --worker-connections 5", {"worker_connections": "5"}),
    ("app:app -t 0", {"timeout": "0"}),
    ("app:app --timeout 90", {"timeout": "90"}),
    ("app:app --graceful-timeout 7", {"graceful_timeout": "7"}),
    ("app:app --keep-alive 7", {"keepalive": "7"}),
    ("app:app --max-requests 7 --max-requests-jitter 3", {"max_requests": "7", "max_requests_jitter": "3"}),
    ("--preload app:app", {"preload_app": "True", "wsgi_app": "'app:app'"}),
    ("app:app --access-logfile -", {"accesslog": "'-'"}),
    ("app:app --access-logformat %(h)s", {"access_log_format": "'%(h)s'"}),
    ("app:app --error-logfile e.log", {"errorlog": "'e.log'"}),
    ("app:app --log-file e.log", {"errorlog": "'e.log'"}),
    ("app:app --log-level debug", {"loglevel": "'debug'"}),
    ("app:app --capture-output", {"capture_output": "True"}),
    ("app:app -e A=secret --env B=2", {"raw_env": "['A=…', 'B=…']"}),
    ("app:app --chdir sub", {}),
    ("app:app --pythonpath lib", {}),
    ("app:app -n shop", {"proc_name": "'shop'"}),
    ("app:app --name shop", {"proc_name": "'shop'"}),
    ("app:app -p x.pid", {"pidfile": "'x.pid'"}),
    ("app:app --pid x.pid", {"pidfile": "'x.pid'"}),
    (f"app:app -u {os.getuid()} -g {os.getgid()} -m 022", {"user": str(os.getuid()), "group": str(os.getgid()), "umask": "18"}),
    ("app:app -D", {"daemon": "True"}),
    ("app:app --limit-request-line 100", {"limit_request_line": "100"}),
    ("app:app --limit-request-fields 10", {"limit_request_fields": "10"}),
    ("app:app --limit-request-field_size 100", {"limit_request_field_size": "100"}),
    ("app:app --forwarded-allow-ips 10.0.0.0/8,::1", {"forwarded_allow_ips": "['10.0.0.0/8', '::1']"}),
    ("app:app --forwarded-allow-ips *", {"forwarded_allow_ips": "['*']"}),
    ("app:app --forwarder-headers SCRIPT_NAME", {"forwarder_headers": "['SCRIPT_NAME']"}),
    ("app:app --header-map refuse", {"header_map": "'refuse'"}),
    ("app:app --proxy-protocol", {"proxy_protocol": "'auto'"}),
    ("app:app --proxy-protocol v2 --proxy-allow-from *", {"proxy_protocol": "'v2'", "proxy_allow_ips": "['*']"}),
    ("app:app --certfile cert.pem --keyfile key.pem", {"certfile": "'cert.pem'", "keyfile": "'key.pem'"}),
    ("app:app --certfile cert.pem --keyfile key.pem --ca-certs cert.pem --cert-reqs 2", {"cert_reqs": "2", "ca_certs": "'cert.pem'"}),
    ("app:app --reload --reload-extra-file app.py", {"reload": "True", "reload_extra_files": "['app.py']"}),
    ("app:app --backlog 99", {"backlog": "99"}),
    ("app:app --reuse-port", {"reuse_port": None}),
    ("app:app --worker-tmp-dir /dev/shm", {"worker_tmp_dir": None}),
    ("app:app --statsd-host localhost:8125", {"statsd_host": None}),
    ("app:app --statsd-prefix x", {"statsd_prefix": None}),
    ("app:app --dogstatsd-tags a:b", {"dogstatsd_tags": None}),
    ("app:app --asgi-loop uvloop --asgi-lifespan off --root-path /x", {"asgi_loop": "'uvloop'", "asgi_lifespan": "'off'", "root_path": "'/x'"}),
    ("app:app -R", {"enable_stdio_inheritance": None}),
    ("app:app --log-syslog", {"syslog": None}),
    ("app:app --log-config x.ini", {"logconfig": None}),
    ("app:app --logger-class a.B", {"logger_class": None}),
    ("app:app --spew", {"spew": None}),
    # uvicorn's
    ("app:app --host 0.0.0.0 --port 8001", {"bind": "['0.0.0.0:8001']"}),
    ("app:app --uds x.sock", {}),
    ("app:app --fd 9", {"bind": "['fd://9']"}),
    ("app:create_app --factory", {"wsgi_app": "'app:create_app()'"}),
    ("app:app --proxy-headers", {}),
    ("app:app --no-proxy-headers", {"forwarded_allow_ips": "[]"}),
    ("app:app --limit-max-requests 9", {"max_requests": "9"}),
    ("app:app --timeout-keep-alive 9", {"keepalive": "9"}),
    ("app:app --timeout-graceful-shutdown 9", {"graceful_timeout": "9"}),
    ("app:app --env-file /dev/null", {}),
    ("app:app --app-dir lib --lifespan off --loop asyncio --ws-max-size 1000", {"asgi_loop": "'asyncio'", "websocket_max_message_size": "1000"}),
    ("app:app --no-access-log --log-level warning", {"loglevel": "'warning'"}),
    ("app:app --ssl-certfile cert.pem --ssl-keyfile key.pem", {"certfile": "'cert.pem'"}),
]


@pytest.mark.parametrize("args, expected", FLAGS, ids=[args for args, _ in FLAGS])
def test_flag(printed, args, expected):
    rows, said = printed(args)
    warned = [line for line in said.splitlines() if line.startswith("warning: ")]
    for name, value in expected.items():
        if value is None:
            assert len(warned) == 1 and name in warned[0], said
        else:
            assert rows[name] == value, said
    if None not in expected.values() and "--reload" not in args:
        assert not warned, warned


# What each source says → who wins (the value of workers).
PRECEDENCE = [
    ("", "", {}, "1"),
    ("", "", {"WEB_CONCURRENCY": "2"}, "2"),
    ("", "workers = 3", {"WEB_CONCURRENCY": "2"}, "3"),
    ("", "workers = 3", {"WEB_CONCURRENCY": "2", "GUNICORN_CMD_ARGS": "--workers=4"}, "4"),
    ("-w 5", "workers = 3", {"WEB_CONCURRENCY": "2", "GUNICORN_CMD_ARGS": "--workers=4"}, "5"),
    ("", "", {"WEB_CONCURRENCY": ""}, "1"),
    ("", "workers = None", {"WEB_CONCURRENCY": "2"}, "2"),
]


@pytest.mark.parametrize("args, config, env, workers", PRECEDENCE)
def test_precedence(printed, args, config, env, workers):
    assert printed(f"app:app {args}", config, env)[0]["workers"] == workers


@pytest.mark.parametrize("args, env, bind", [
    ("", {"PORT": "9000"}, "['0.0.0.0:9000']"),
    ("--bind 127.0.0.1:9001", {"PORT": "9000"}, "['127.0.0.1:9001']"),
    ("", {"GUNICORN_CMD_ARGS": "--bind=127.0.0.1:9002 --access-logfile=- --access-logformat='%(h)s %(r)s'"}, "['127.0.0.1:9002']"),
])
def test_address_from_the_environment(printed, args, env, bind):
    rows = printed(f"app:app {args}", "", env)[0]
    assert rows["bind"] == bind
    if "GUNICORN_CMD_ARGS" in env:
        assert rows["access_log_format"] == "'%(h)s %(r)s'"


# What is wrong → exit code and what is said; each says what to do.
WRONG = [
    ("", 2, ["no app is named", "ostler run app:app"]),
    ("app.py", 2, ["`app.py`", "app:app"]),
    ("app:", 2, ["`app:`", "app:app"]),
    ("./app:app", 2, ["`./app:app`", "hint: "]),
    ("app:app extra", 2, ["'extra'"]),
    ("app:app --worker 2", 2, ["--worker", "--workers"]),
    ("app:app --bindd :80", 2, ["--bindd", "--bind"]),
    ("app:app -w 0", 2, ["`--workers 0`", "1 to 1000"]),
    ("app:app -w many", 2, ["`--workers many`", "hint: "]),
    ("app:app -t soon", 2, ["`--timeout soon`", "500ms"]),
    ("app:app --limit-request-body 1X", 2, ["`--limit-request-body 1X`", "100M"]),
    ("app:app -b 127.0.0.1:99999", 2, ["99999", "hint: "]),
    ("app:app -b 203.0.113.7:8000", 1, ["203.0.113.7:8000", "hint: no interface"]),
    ("app:app -b unix:/nowhere/x.sock", 1, ["/nowhere/x.sock", "hint: "]),
    ("app:app --host 127.0.0.1 --bind :80", 2, ["--bind and --host", "hint: "]),
    ("app:app --static static", 2, ["`--static static`", "--static /static=./static"]),
    ("app:app --static /s=nowhere", 2, ["`--static /s=nowhere`", "hint: "]),
    ("app:app --internal /s=. --static /s=.", 2, ['"/s"', "hint: "]),
    ("app:app --sendfile-root nowhere", 2, ["nowhere", "hint: "]),
    ("app:app --certfile nope.pem", 2, ["nope.pem", "hint: "]),
    ("app:app --keyfile app.py", 2, ["keyfile", "--certfile"]),
    ("app:app --chdir nowhere", 2, ["nowhere", "hint: "]),
    ("app:app -e FOO", 2, ["`FOO`", "KEY=VALUE"]),
    ("app:app --env-file nope.env", 2, ["nope.env", "hint: "]),
    ("app:app --user nosuchuser", 2, ["nosuchuser", "hint: "]),
    ("app:app --log-level loud", 2, ["`--log-level loud`", "critical"]),
    ("app:app --pid /nowhere/x.pid", 1, ["/nowhere/x.pid", "hint: "]),
    ("app:app --error-logfile /nowhere/x", 1, ["/nowhere/x", "hint: "]),
    ("app:app -c nope.py", 2, ["nope.py", "hint: "]),
    ("app:app -c python:nope", 1, ["No module named 'nope'"]),
    ("app:app --forwarded-allow-ips localhost", 2, ["localhost", "127.0.0.1"]),
    ("app:app --paste x.ini", 2, ["paste", "hint: "]),
    ("app:app --header-map dangerous", 2, ["dangerous", "hint: "]),
    ("app:app --protocol uwsgi", 2, ["protocol", "hint: "]),
    ("app:app --single-process -w 2", 2, ["--workers 2", "--threads"]),
    ("app:app -k gevent", 2, ["gevent", "--threads 16", "proxy in front"]),
    ("app:app -k eventlet", 2, ["eventlet", "--threads 16", "proxy in front"]),
    ("app:app -k tornado", 2, ["tornado", "--threads 16", "proxy in front"]),
    ("app:app -k shop.Worker", 2, ["shop.Worker", "hint: "]),
    ("app:app --interface wsgi -k asgi", 2, ["contradicts", "hint: "]),
    ("app:ap", 4, ['no "ap" in module "app"; did you mean "app"?']),
    ("app:create_app", 4, ['did you mean "app:create_app()"?']),
    ("ap:app", 3, ['no module named "ap"', 'did you mean "app"?']),
    ("app:app(", 4, ["literal arguments"]),
    ("app:create_app(1,2,3)", 4, ["create_app(1,2,3)", "positional argument"]),
    ("app:app --python nopython", 2, ["`--python nopython`", "hint: "]),
    ("app:app --python ./app.py", 2, ["app.py", "is no program", "hint: "]),
    ("app:app --python .", 2, ["bin/python", "hint: "]),
    ("app:app --python /bin/true", 2, ["/bin/true", "exit 0", "hint: "]),
]


@pytest.mark.parametrize("args, code, said", WRONG, ids=[args for args, _, _ in WRONG])
def test_wrong_input_says_what_was_seen_and_what_to_do(host, args, code, said):
    (host.folder / "app.py").write_text(APP.replace('create_app(name="hello", *, loud=False)', "create_app()"))
    failed = host("", *args.split(), cwd=host.folder, bind="" if "-b" in args or "--host" in args else None, ready=False,
                  python=None if "--python" in args else sys.executable)
    assert failed.wait_exit(20) == code, failed.log
    for piece in said:
        assert piece in str(failed.log), failed.log
    assert not failed.log.matches("panicked|Traceback"), failed.log


@pytest.mark.parametrize("env, piece", [
    ({"GUNICORN_CMD_ARGS": "--workerz 3"}, "--workerz"),
    ({"GUNICORN_CMD_ARGS": "--bind '"}, "GUNICORN_CMD_ARGS"),
    ({"WEB_CONCURRENCY": "auto"}, "`WEB_CONCURRENCY=auto` in the environment"),
    ({"PORT": "http"}, "`PORT=http` in the environment"),
    ({"VIRTUAL_ENV": "/nowhere"}, "$VIRTUAL_ENV"),
])
def test_wrong_environment_is_named(host, env, piece):
    (host.folder / "app.py").write_text(APP)
    failed = host("app:app", cwd=host.folder, env=env, bind="", python=None if "VIRTUAL_ENV" in env else sys.executable, ready=False)
    assert failed.wait_exit(20) == 2 and piece in str(failed.log), failed.log


# --check-config and --print-config


@pytest.mark.parametrize("flag", ["--check-config", "--print-config"])
@pytest.mark.parametrize("target, source, code, said", [
    ("app:app", APP, 0, ""),
    ("app:app", APP.replace("def app", "async def app").replace("environ, start_response", "scope, receive, send"), 0, ""),
    ("app:ap", APP, 4, 'did you mean "app"?'),
    ("app:app", "def build():\n    raise RuntimeError('no database')\nbuild()\n", 3, "RuntimeError: no database"),
    ("app:app", "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n" + APP, 0, ""),
    ("app:app", "import os\nos._exit(7)\n", 3, "exit 7"),
    ("app:app", "raise SystemExit('no licence')\n", 3, "no licence"),
])
def test_check_loads_the_app_and_binds_nothing(host, flag, target, source, code, said):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        checked = host(target, flag, source=source, bind=f"127.0.0.1:{taken.getsockname()[1]}", ready=False)
        assert checked.wait_exit(30) == code, checked.log
    assert said in str(checked.log)


# The guide


def commands_of_the_guide():
    guide = harness.ROOT / "docs" / "guides" / "from-gunicorn.md"
    return [line.strip() for line in guide.read_text().splitlines() if line.startswith("    ostler run ")]


@pytest.mark.parametrize("command", commands_of_the_guide())
def test_commands_of_the_guide_are_good(tmp_path, tls, command):
    import shlex

    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "wsgi.py").write_text(APP.replace("def app", "def application"))
    (tmp_path / "shop" / "asgi.py").write_text("async def app(scope, receive, send): pass\n")
    if "gunicorn.conf.py" in command:
        (tmp_path / "gunicorn.conf.py").write_text("workers = 2\n")
    (tmp_path / "static").mkdir()
    tls[0].rename(tmp_path / "chain.pem")
    # The user of the example exists nowhere; root may become anybody, others only themselves.
    arguments = ["root" if word == "shop" else word for word in shlex.split(command)[2:]]
    if os.geteuid() and "--user" in arguments:
        arguments[arguments.index("--user") + 1] = str(os.geteuid())
    checked = harness.start("", *arguments, "--check-config", cwd=tmp_path, bind="")
    assert checked.wait_exit(30) == 0, checked.log
    warned = [line for line in checked.log.lines if line.startswith("warning: ") and "--reload" not in line]
    assert not warned, warned


# Signals


def test_signals_as_gunicorn_takes_them(host, tmp_path):
    running = host("app:app", "--error-logfile", "error.log", source=APP, ready=False)
    log = tmp_path / "error.log"
    said = lambda text: eventually(lambda: log.exists() and text in log.read_text(), 20, text)
    said("ready")
    assert running.get("/").body == b"hello"
    running.kill(signal.SIGTTIN)
    eventually(lambda: len(running.workers()) == 2)
    running.kill(signal.SIGTTOU)
    eventually(lambda: len(running.workers()) == 1)
    log.rename(tmp_path / "old.log")
    running.kill(signal.SIGUSR1)
    old = running.workers()[0].pid
    eventually(log.exists)
    running.kill(signal.SIGHUP)
    eventually(lambda: running.workers() and old not in {w.pid for w in running.workers()}, 20)
    running.kill(signal.SIGUSR2)
    said("upgrade complete")
    assert running.get("/").body == b"hello"
    assert running.stop(signal.SIGINT) == 0


def test_the_line_that_tools_parse(host):
    running = host(source=APP)
    found = running.log.wait(r"Listening at: http://127\.0\.0\.1:(\d+) \((\d+)\)")
    assert (int(found[1]), int(found[2])) == (running.port, running.process.pid)


def test_environ_keys_of_gunicorn(host):
    source = """
def app(environ, start_response):
    keys = ("wsgi.input_terminated", "RAW_URI", "wsgi.early_hints", "wsgi.file_wrapper", "gunicorn.socket", "SERVER_SOFTWARE")
    body = repr({key: str(environ.get(key)) for key in keys}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
    seen = eval(host(source=source).get("/a%20b?c").body)
    assert seen["wsgi.input_terminated"] == "True" and seen["RAW_URI"] == "/a%20b?c"
    assert seen["wsgi.early_hints"] != "None" and seen["wsgi.file_wrapper"] != "None" and seen["gunicorn.socket"] == "None"


def test_systemd_socket_and_notification(host, tmp_path):
    import socket

    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(30)
        port = listener.getsockname()[1]
        # As systemd does it: the listening socket is descriptor 3 of the very process.
        starter = f"""
import os, sys
os.dup2({listener.fileno()}, 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), NOTIFY_SOCKET={str(tmp_path / "notify")!r})
os.execv({str(harness.OSTLER)!r}, ["ostler", "run", "app:app", "--python", sys.executable])
"""
        process = subprocess.Popen([sys.executable, "-c", starter], cwd=tmp_path, pass_fds=[listener.fileno()],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            assert b"READY=1" in notified.recv(4096)
            with harness.Raw(("127.0.0.1", port)) as raw:
                assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"hello"
        finally:
            process.terminate()
            process.communicate(timeout=30)
        assert process.returncode == 0
