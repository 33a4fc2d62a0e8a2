"""Configuration files as they are found in repositories: each starts and does what it did under
gunicorn, or says in one line what it does not do here."""

import re
import signal

import pytest

from harness import eventually

APP = """
import os
def app(environ, start_response):
    body = os.environ.get(environ["QUERY_STRING"], "hello").encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
ASGI = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""


@pytest.fixture
def deployed(host, tmp_path):
    """`deployed(config, *args, module=source)`: the app, its gunicorn.conf.py, and stand-ins for
    packages that nobody has installed here."""

    def start(config, *args, source=APP, target="app:app", modules=None, **options):
        (tmp_path / "gunicorn.conf.py").write_text(config)
        for name, text in (modules or {}).items():
            path = tmp_path / (name.replace(".", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return host(target, *args, source=source, **options)

    return start


def warnings(running):
    """What the start warned about, but for running as root."""
    lines = [line for line in running.log.lines if line.startswith("warning: ") or "[WARNING]" in line]
    return [line for line in lines if "running as root" not in line]


EVERYTHING = """
# The template that many projects carry around, with gunicorn's defaults written out.
import multiprocessing, os

bind = os.environ.get("GUNICORN_BIND", "127.0.0.1:8000")
backlog = 2048
workers = int(os.environ.get("GUNICORN_WORKERS", multiprocessing.cpu_count() * 2 + 1))
worker_class = "sync"
worker_connections = 1000
threads = int(os.environ.get("GUNICORN_THREADS", "2"))
timeout = 120
keepalive = 5
max_requests = 1000
max_requests_jitter = 50
spew = False
check_config = False
preload_app = True
sendfile = None
reuse_port = False
daemon = False
raw_env = ["DJANGO_SETTINGS_MODULE=shop.settings", "MODE=production"]
pidfile = None
worker_tmp_dir = None
user = None
group = None
umask = 0
initgroups = False
tmp_upload_dir = None
secure_scheme_headers = {"X-FORWARDED-PROTOCOL": "ssl", "X-FORWARDED-PROTO": "https", "X-FORWARDED-SSL": "on"}
forwarded_allow_ips = "*"
proxy_protocol = False
proxy_allow_ips = "127.0.0.1"
limit_request_line = 4094
limit_request_fields = 100
limit_request_field_size = 8190
errorlog = "-"
loglevel = "info"
accesslog = "-"
access_log_format = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
capture_output = False
enable_stdio_inheritance = False
proc_name = None
keyfile = certfile = ca_certs = ciphers = None
ssl_version = 2
cert_reqs = 0
suppress_ragged_eofs = True
do_handshake_on_connect = False

def post_fork(server, worker):
    server.log.info("Worker spawned (pid: %s)", worker.pid)

def pre_fork(server, worker):
    pass

def when_ready(server):
    server.log.info("Server is ready. Spawning workers")

def worker_int(worker):
    worker.log.info("worker received INT or QUIT signal")
    import threading, sys, traceback
    id2name = {th.ident: th.name for th in threading.enumerate()}
    code = []
    for threadId, stack in sys._current_frames().items():
        code.append("\\n# Thread: %s(%d)" % (id2name.get(threadId, ""), threadId))
        for filename, lineno, name, line in traceback.extract_stack(stack):
            code.append('File: "%s", line %d, in %s' % (filename, lineno, name))
    worker.log.debug("\\n".join(code))

def worker_abort(worker):
    worker.log.info("worker received SIGABRT signal")
"""


def test_the_template_with_everything_written_out_warns_of_nothing(deployed):
    running = deployed(EVERYTHING, env={"GUNICORN_WORKERS": "2"})
    assert running.get("/?MODE").body == b"production"
    running.log.wait("Server is ready. Spawning workers")
    running.log.wait(r"Worker spawned \(pid: \d+\)", count=2)
    running.log.wait('"GET /\\?MODE HTTP/1.1" 200')
    assert warnings(running) == []
    running.kill(signal.SIGQUIT)
    assert running.wait_exit() == 0


def test_worker_int_runs_on_a_quick_stop_of_a_worker(deployed):
    running = deployed(EVERYTHING, env={"GUNICORN_WORKERS": "1"})
    running.workers()[0].send_signal(signal.SIGQUIT)
    running.log.wait("worker received INT or QUIT signal")


# As tiangolo/uvicorn-gunicorn-docker has it, which thousands of images carry.
TIANGOLO = """
import json
import multiprocessing
import os

workers_per_core_str = os.getenv("WORKERS_PER_CORE", "1")
max_workers_str = os.getenv("MAX_WORKERS")
use_max_workers = None
if max_workers_str:
    use_max_workers = int(max_workers_str)
web_concurrency_str = os.getenv("WEB_CONCURRENCY", None)

host = os.getenv("HOST", "0.0.0.0")
port = os.getenv("PORT", "80")
bind_env = os.getenv("BIND", None)
use_loglevel = os.getenv("LOG_LEVEL", "info")
if bind_env:
    use_bind = bind_env
else:
    use_bind = f"{host}:{port}"

cores = multiprocessing.cpu_count()
workers_per_core = float(workers_per_core_str)
default_web_concurrency = workers_per_core * cores
if web_concurrency_str:
    web_concurrency = int(web_concurrency_str)
    assert web_concurrency > 0
else:
    web_concurrency = max(int(default_web_concurrency), 2)
    if use_max_workers:
        web_concurrency = min(web_concurrency, use_max_workers)
accesslog_var = os.getenv("ACCESS_LOG", "-")
use_accesslog = accesslog_var or None
errorlog_var = os.getenv("ERROR_LOG", "-")
use_errorlog = errorlog_var or None
graceful_timeout_str = os.getenv("GRACEFUL_TIMEOUT", "120")
timeout_str = os.getenv("TIMEOUT", "120")
keepalive_str = os.getenv("KEEP_ALIVE", "5")

# Gunicorn config variables
loglevel = use_loglevel
workers = web_concurrency
bind = use_bind
errorlog = use_errorlog
worker_tmp_dir = "/dev/shm"
accesslog = use_accesslog
graceful_timeout = int(graceful_timeout_str)
timeout = int(timeout_str)
keepalive = int(keepalive_str)

# For debugging and testing
log_data = {
    "loglevel": loglevel,
    "workers": workers,
    "bind": bind,
    # Additional, non-gunicorn variables
    "workers_per_core": workers_per_core,
    "use_max_workers": use_max_workers,
    "host": host,
    "port": port,
}
print(json.dumps(log_data))
"""


def test_the_docker_image_of_fastapi(deployed):
    running = deployed(TIANGOLO, "-k", "uvicorn.workers.UvicornWorker", source=ASGI, env={"MAX_WORKERS": "2"})
    assert running.get("/").body == b"hello" and len(running.workers()) == 2
    running.log.wait('"workers_per_core": 1.0')  # what the file prints is seen
    (warning,) = warnings(running)
    assert "worker_tmp_dir" in warning


@pytest.mark.parametrize("name", ["uvicorn.workers.UvicornWorker", "uvicorn_worker.UvicornWorker"])
def test_worker_class_of_uvicorn_in_the_file(deployed, name):
    running = deployed(f"worker_class = {name!r}\nworkers = 2\n", source=ASGI)
    assert running.get("/").body == b"hello" and warnings(running) == []


def test_worker_class_derived_from_uvicorns(deployed):
    running = deployed("worker_class = 'shop.workers.HeadlessUvicornWorker'\n", source=ASGI)
    assert running.get("/").body == b"hello"
    (warning,) = warnings(running)
    assert "HeadlessUvicornWorker" in warning and "settings" in warning


SENTRY = """
import os
mark = os.environ["MARK"]
def init(dsn, **options):
    open(mark, "a").write(f"init {os.getpid()} {dsn}\\n")
"""


def test_sentry_in_post_fork(deployed, tmp_path):
    config = """
import sentry_sdk
def post_fork(server, worker):
    sentry_sdk.init(dsn="https://key@sentry.example/1", traces_sample_rate=1.0)
"""
    running = deployed(config, "-w", "2", modules={"sentry_sdk": SENTRY}, env={"MARK": str(tmp_path / "mark")})
    lines = (tmp_path / "mark").read_text().splitlines()
    assert {line.split()[1] for line in lines} == {str(worker.pid) for worker in running.workers()}
    assert warnings(running) == []


OPENTELEMETRY = """
# As the documentation of opentelemetry-python has it ("Working with fork process models").
import os, threading
from otel_stub import BatchSpanProcessor, Resource, TracerProvider

def post_fork(server, worker):
    server.log.info("Worker spawned (pid: %s)", worker.pid)
    resource = Resource.create(attributes={"service.name": "api-service", "worker": worker.pid})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor("http://localhost:4317"))
    os.environ["THREADS"] = str(threading.active_count())
"""
OTEL = """
import threading
class Resource:
    @classmethod
    def create(cls, attributes): return attributes
class TracerProvider:
    def __init__(self, resource): self.resource = resource
    def add_span_processor(self, processor): processor.start()
class BatchSpanProcessor:
    def __init__(self, endpoint): self.thread = threading.Thread(target=threading.Event().wait, daemon=True)
    def start(self): self.thread.start()
"""


def test_opentelemetry_starts_its_thread_in_post_fork(deployed):
    running = deployed(OPENTELEMETRY, "-w", "2", modules={"otel_stub": OTEL})
    assert running.get("/?THREADS").body == b"2"
    assert warnings(running) == []
    assert running.stop() == 0


def test_launchers_that_instrument_python_by_sitecustomize(deployed, tmp_path):
    """ddtrace-run, newrelic-admin run-program and opentelemetry-instrument put a sitecustomize on PYTHONPATH."""
    (tmp_path / "bootstrap").mkdir()
    (tmp_path / "bootstrap" / "sitecustomize.py").write_text("import os\nos.environ['INSTRUMENTED'] = 'yes'\n")
    running = deployed("", env={"PYTHONPATH": str(tmp_path / "bootstrap")})
    assert running.get("/?INSTRUMENTED").body == b"yes"


LOGGING = """
import os
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"format": '{"logger": "%(name)s", "said": "%(message)s"}'}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
    "root": {"level": "INFO", "handlers": ["console"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["console"], "propagate": False, "qualname": "gunicorn.error"},
        "gunicorn.access": {"level": "INFO", "handlers": ["console"], "propagate": False, "qualname": "gunicorn.access"},
    },
}
def post_fork(server, worker):
    server.log.info("from a hook")
"""


def test_logconfig_dict_shapes_what_python_logs(deployed):
    source = APP + "\nimport logging\nlogging.getLogger('shop').info('from the app')\n"
    running = deployed(LOGGING, source=source)
    running.log.wait(re.escape('{"logger": "gunicorn.error", "said": "from a hook"}'))
    running.log.wait(re.escape('{"logger": "shop", "said": "from the app"}'))
    (warning,) = warnings(running)
    assert "logconfig_dict" in warning


GLOGGING = "class Logger:\n    def __init__(self, cfg): pass\n"
LOGGER_CLASS = """
import logging
from gunicorn import glogging

class HealthCheckFilter(logging.Filter):
    def filter(self, record):
        return "GET /healthcheck" not in record.getMessage()

class CustomGunicornLogger(glogging.Logger):
    def setup(self, cfg):
        super().setup(cfg)
        logging.getLogger("gunicorn.access").addFilter(HealthCheckFilter())

accesslog = "-"
logger_class = CustomGunicornLogger
"""


def test_logger_class_is_one_warning(deployed):
    running = deployed(LOGGER_CLASS, modules={"gunicorn.__init__": "", "gunicorn.glogging": GLOGGING})
    assert running.get("/").body == b"hello"
    (warning,) = warnings(running)
    assert "logger_class" in warning


def test_import_of_gunicorn_without_gunicorn_says_what_to_do(deployed):
    failed = deployed("import gunicorn\ngunicorn.SERVER_SOFTWARE = 'hidden'\n", ready=False)
    assert failed.wait_exit(20) == 1
    assert failed.log.matches("No module named 'gunicorn'") and failed.log.matches("hint: .*take the import out")


def test_hiding_the_server_header_as_people_do(deployed):
    running = deployed("import gunicorn\ngunicorn.SERVER_SOFTWARE = 'hidden'\n", modules={"gunicorn.__init__": ""})
    assert running.get("/").header("Server") is None and warnings(running) == []


def test_statsd_and_other_settings_without_a_meaning_are_one_line(deployed):
    config = "statsd_host = 'localhost:8125'\nstatsd_prefix = 'shop'\nworker_tmp_dir = '/dev/shm'\nsyslog = True\n"
    running = deployed(config)
    (warning,) = warnings(running)
    assert all(name in warning for name in ("statsd_host", "statsd_prefix", "worker_tmp_dir", "syslog"))


def test_moot_hooks_are_one_line(deployed):
    config = """
def ssl_context(conf, default_ssl_context_factory):
    context = default_ssl_context_factory()
    return context
def pre_exec(server):
    server.log.info("Forked child, re-executing.")
"""
    (warning,) = warnings(deployed(config))
    assert "ssl_context" in warning and "pre_exec" in warning


DJANGO = """
import multiprocessing
wsgi_app = "project.wsgi:application"
chdir = "src"
pythonpath = "lib"
workers = 2
raw_env = ["DJANGO_SETTINGS_MODULE=project.settings"]
accesslog = errorlog = "-"
forwarded_allow_ips = "*"
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
"""


def test_django_as_its_guides_have_it(deployed, tmp_path):
    (tmp_path / "src" / "project").mkdir(parents=True)
    (tmp_path / "src" / "lib").mkdir()
    (tmp_path / "src" / "lib" / "helper.py").write_text("")
    (tmp_path / "src" / "project" / "settings.py").write_text("SECRET_KEY = 'x'\nALLOWED_HOSTS = ['*']\nROOT_URLCONF = 'project.urls'\n")
    (tmp_path / "src" / "project" / "urls.py").write_text("""
import os, helper
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("", lambda request: HttpResponse(f"{request.scheme} {os.getcwd()}"))]
""")
    (tmp_path / "src" / "project" / "wsgi.py").write_text("from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n")
    running = deployed(DJANGO, target="", cwd=tmp_path, source=None)
    assert running.get("/", {"X-Forwarded-Proto": "https"}).text == f"https {tmp_path}/src"
    assert warnings(running) == []


TIMING = """
import time
def pre_request(worker, req):
    req.start_time = time.time()
    worker.log.info("%s %s from %s %s", req.method, req.path, req.remote_addr[0], dict(req.headers).get("X-A"))
def post_request(worker, req, environ, resp):
    took = time.time() - req.start_time
    worker.log.info("%s %s %s in %.3f nr %d", req.uri, resp.status, resp.status_code, took, worker.nr)
"""


def test_timing_of_requests_in_hooks(deployed):
    running = deployed(TIMING, "--threads", 4)
    assert running.get("/x?q=1", {"X-A": "one"}).status == 200
    running.log.wait("GET /x from 127.0.0.1 one")
    running.log.wait(r"/x\?q=1 200 OK 200 in \d+\.\d+ nr 1")


ATTRIBUTES = """
import os
def attributes(server, worker):
    return [
        server.pid > 0, server.cfg.workers == 2, server.num_workers == 2, isinstance(server.WORKERS, dict), server.address,
        server.cfg.settings["workers"].get() == 2, server.cfg.is_ssl is False, server.cfg.address, server.proc_name == "shop",
        server.LISTENERS is not None, server.timeout == 30, server.app.wsgi, server.log.handlers is not None,
        server.master_pid, server.log.error_log.handlers, server.log.access_log.handlers, server.cfg.worker_class_str,
    ] + ([] if worker is None else [
        worker.pid, worker.age > 0, worker.ppid == server.pid, worker.nr == 0, worker.alive, worker.cfg.threads, worker.log.info,
        worker.tmp.last_update(), worker.tmp.notify(), worker.notify(), worker.timeout, worker.max_requests, worker.sockets,
        worker.wsgi, worker.app.app_uri, str(worker), worker.booted, worker.aborted, worker.reloader,
    ])
def check(name, server, worker=None):
    attributes(server, worker)
    server.log.info("good %s", name)
def on_starting(server): check("on_starting", server)
def on_reload(server): check("on_reload", server)
def when_ready(server): check("when_ready", server)
def pre_fork(server, worker): check("pre_fork", server, worker)
def post_fork(server, worker): check("post_fork", server, worker)
def post_worker_init(worker): worker.log.info("good post_worker_init"); worker.cfg.settings["threads"].value
def worker_int(worker): worker.log.info("good worker_int")
def child_exit(server, worker): check("child_exit", server, worker)
def worker_exit(server, worker): check("worker_exit", server, worker)
def nworkers_changed(server, new, old): check("nworkers_changed", server)
def on_exit(server): check("on_exit", server)
"""
SEEN = ["on_starting", "pre_fork", "post_fork", "post_worker_init", "when_ready", "nworkers_changed"]


def test_every_hook_sees_the_attributes_that_configs_use(deployed):
    running = deployed(ATTRIBUTES, "-w", "2", "-n", "shop")
    for name in SEEN:
        running.log.wait(f"good {name}")
    running.kill(signal.SIGHUP)
    for name in ("on_reload", "child_exit", "worker_exit"):
        running.log.wait(f"good {name}", 20)
    running.log.wait(" ready", 20)
    assert running.stop() == 0 and running.log.matches("good on_exit")
    assert not running.log.matches("failed"), running.log


def test_settings_of_ours_in_the_file(deployed, tmp_path):
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "a.txt").write_text("file")
    config = "static_files = {'/static': 'static'}\nlimit_request_body = '1K'\nline_length = 5\nmemory_soft = '1G'\napp_interface = 'wsgi'\nrequest_buffering = True\n"
    running = deployed(config)
    assert warnings(running) == [] and running.get("/static/a.txt").body == b"file"
    assert running.request("POST", "/", body=b"x" * 1025).status == 413


def test_master_hooks_run_in_the_apps_folder_with_its_environment(deployed, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "web.py").write_text(APP)
    config = """
import os
chdir = "sub"
raw_env = ["STAGE=live"]
def when_ready(server):
    server.log.info("ready in %s at %s", os.environ["STAGE"], os.path.basename(os.getcwd()))
    open("touched", "w").close()
"""
    running = deployed(config, target="web:app", cwd=tmp_path, source=None)
    running.log.wait("ready in live at sub")
    eventually(lambda: (tmp_path / "sub" / "touched").exists())
