"""What is compared: each stack is the processes that together serve an app on one port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import string
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import machine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = HERE / ".venv" / "bin"
OSTLER = Path(os.environ.get("OSTLER_BIN", ROOT / "target" / "release" / "ostler")).resolve()
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or "nginx"

START_SECONDS = 20


@dataclass(frozen=True)
class Shape:
    """What every stack of one comparison has alike."""

    app: str
    """`module:callable` in bench/apps, or a folder of files for static work."""
    workers: int = 2
    threads: int = 1
    asgi: bool = False
    access_log: bool = False
    proxied: bool = False
    """Another HTTP server answers, which is no part of the stack."""
    serve: bool = False
    """By `ostler serve`, which compresses."""
    certificate: Path | None = None
    """Of `cert.pem`, beside which is `key.pem`: TLS is spoken too, at the stack's `tls_port`."""
    starter: Callable[[Stack, Shape], None] | None = None
    """Starts it in the place of what belongs to its name."""


@dataclass
class Stack:
    """A running stack. Stop it with `stop`."""

    name: str
    port: int
    folder: Path
    processes: list[subprocess.Popen] = field(default_factory=list)
    behind: list[subprocess.Popen] = field(default_factory=list)
    """Processes whose work is not the stack's: the same for every stack."""
    tls_port: int = field(default_factory=lambda: free_port())
    origin: str = ""
    """Where what it is a proxy for listens."""

    def start(self, command: list[str]) -> subprocess.Popen:
        with open(self.folder / f"{len(self.processes)}-{len(self.behind)}.log", "wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command], cwd=HERE / "apps", stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, env=environment(),
            )
        self.processes.append(process)
        return process

    def cpu_us(self) -> float:
        return machine.cpu_us([process.pid for process in self.processes])

    def pids(self) -> list[int]:
        return [p.pid for top in self.processes for p in machine.processes_of(top.pid)]

    def wait(self, path: str) -> None:
        """Until `path` is answered with 200: from then on every part of the stack stands."""
        self.wait_for(lambda: fetch(self.port, path).startswith(b"HTTP/1.1 200"))

    def wait_for(self, stands) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            dead = [p.args for p in self.processes if p.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "\n".join(log.read_text(errors="replace")[-2000:] for log in sorted(self.folder.glob("*.log")))
                raise RuntimeError(f"{self.name} did not start: {dead}\n{logs}")
            if stands():
                return
            time.sleep(0.05)

    def stop(self) -> None:
        for process in reversed(self.behind + self.processes):
            # uWSGI reloads on SIGTERM unless told otherwise; SIGINT ends all of them.
            process.send_signal(signal.SIGINT)
        for process in self.behind + self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "GUNICORN_CMD_ARGS", "WEB_CONCURRENCY", "PORT")}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}


def fetch(port: int, path: str, host: str = "127.0.0.1", more: str = "", name: str = "bench") -> bytes:
    try:
        with socket.create_connection((host, port), 5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n{more}\r\n".encode())
            answer = b""
            while data := connection.recv(65536):
                answer += data
            return answer
    except OSError:
        return b""


# Each of these starts one stack.


def ostler(stack: Stack, shape: Shape) -> None:
    if shape.proxied:
        return ostler_proxy(stack)
    if shape.serve:
        return ostler_serve(stack, shape)
    command = [OSTLER, "run", "--bind", f"127.0.0.1:{stack.port}", "--python", VENV / "python"]
    command += ["--workers", shape.workers, "--threads", shape.threads, "--max-connections-per-address", 0]
    if shape.access_log:
        command += ["--access-logfile", stack.folder / "access.log"]
    if Path(shape.app).is_dir():
        command += ["--static", f"/={shape.app}", "raw_wsgi:app"]
    else:
        command += [shape.app]
    stack.start(command)


def ostler_proxy(stack: Stack) -> None:
    (stack.folder / "ostler.toml").write_text(f"""
[server]
listen = ["127.0.0.1:{stack.port}"]
state = "{stack.folder}/state"
max_connections_per_address = 0
keep_requests = 0

[projects.proxy]
hosts = ["*"]
upstreams = ["http://{origin(stack)}"]
""")
    stack.start([OSTLER, "serve", "--config", stack.folder / "ostler.toml"])


def ostler_serve(stack: Stack, shape: Shape) -> None:
    """Static files as a machine serves them: the app behind them is never asked."""
    tls = f"""
listen_tls = ["127.0.0.1:{stack.tls_port}"]
certfile = "{shape.certificate}"
keyfile = "{shape.certificate.parent}/key.pem"
""" if shape.certificate else ""
    (stack.folder / "ostler.toml").write_text(f"""
[server]
listen = ["127.0.0.1:{stack.port}"]{tls}
state = "{stack.folder}/state"
keep_requests = 0
max_connections_per_address = 0
[projects.files]
source = "{HERE}/apps"
hosts = ["*"]
https = "optional"
[projects.files.web]
app = "raw_wsgi:app"
python = "{VENV}/python"
[projects.files.static]
"/" = "{shape.app}"
""")
    stack.start([OSTLER, "serve", "--config", stack.folder / "ostler.toml"])


def origin(stack: Stack) -> str:
    """Starts the server behind a proxy, which answers everything with 13 bytes; gives its address."""
    port, folder = free_port(), stack.folder / "origin"
    folder.mkdir()
    inner = Stack("origin", port, folder)
    nginx(inner, Shape(""), 'default_type text/plain; return 200 "Hello, world!";')
    stack.behind += inner.processes
    inner.wait("/")
    return f"127.0.0.1:{port}"


def nginx_uwsgi(stack: Stack, shape: Shape) -> None:
    command = [VENV / "uwsgi", "--master", "--need-app", "--disable-logging", "--socket", app_socket(stack)]
    command += ["--chmod-socket=666", "--listen", "1024", "--processes", shape.workers, "--module", shape.app]
    command += ["--pythonpath", HERE / "apps", "--virtualenv", VENV.parent, "--max-fd", "4096"]
    if shape.threads > 1:
        command += ["--threads", shape.threads]
    stack.start(command)
    nginx(stack, shape, "include /etc/nginx/uwsgi_params; uwsgi_pass app;", keepalive="")


def nginx_gunicorn_sync(stack: Stack, shape: Shape) -> None:
    gunicorn(stack, shape, ["-k", "sync", "-w", shape.workers * shape.threads])
    nginx(stack, shape, PROXY, keepalive="")


def nginx_gunicorn_gthread(stack: Stack, shape: Shape) -> None:
    gunicorn(stack, shape, ["-k", "gthread", "-w", shape.workers, "--threads", shape.threads, "--keep-alive", 75])
    nginx(stack, shape, PROXY)


def gunicorn(stack: Stack, shape: Shape, flags: list) -> None:
    command = [VENV / "gunicorn", "--bind", f"unix:{app_socket(stack)}", "--log-level", "error"]
    stack.start([*command, "--worker-tmp-dir", "/dev/shm", "--no-control-socket", *flags, shape.app])


def nginx_granian(stack: Stack, shape: Shape) -> None:
    granian(stack, shape, ["--uds", app_socket(stack), "--uds-permissions", "666"])
    nginx(stack, shape, PROXY)


def granian_alone(stack: Stack, shape: Shape) -> None:
    granian(stack, shape, ["--host", "127.0.0.1", "--port", stack.port])


def granian(stack: Stack, shape: Shape, where: list) -> None:
    command = [VENV / "granian", "--interface", "asginl" if shape.asgi else "wsgi", "--http", "1", "--no-ws"]
    command += ["--workers", shape.workers, "--no-log", "--backlog", 4096, "--runtime-threads", 1, *where]
    command += ["--loop", "uvloop"] if shape.asgi else ["--blocking-threads", shape.threads]
    stack.start([*command, shape.app])


def nginx_uvicorn(stack: Stack, shape: Shape) -> None:
    command = [VENV / "uvicorn", "--uds", app_socket(stack), "--workers", shape.workers, "--loop", "uvloop"]
    command += ["--http", "httptools", "--no-access-log", "--log-level", "error", "--lifespan", "off"]
    stack.start([*command, shape.app])
    nginx(stack, shape, PROXY)


def nginx_static(stack: Stack, shape: Shape) -> None:
    if shape.proxied:
        return nginx(stack, shape, PROXY, upstream=origin(stack))
    nginx(stack, shape, f"root {shape.app};")


def nginx_gzip_static(stack: Stack, shape: Shape) -> None:
    nginx(stack, shape, f"root {shape.app}; gzip_static on;")


PROXY = """
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;"""


def nginx(stack: Stack, shape: Shape, location: str, keepalive: str = "keepalive 64; keepalive_requests 100000000;",
          upstream: str | None = None) -> None:
    text = (HERE / "peers" / "nginx.conf").read_text()
    tls = f"""listen 127.0.0.1:{stack.tls_port} ssl http2 backlog=4096;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate {shape.certificate};
        ssl_certificate_key {shape.certificate.parent}/key.pem;""" if shape.certificate else ""
    # safe_substitute leaves nginx's own $variables alone.
    filled = string.Template(text).safe_substitute(
        folder=stack.folder, port=stack.port, upstream=upstream or f"unix:{app_socket(stack)}", keepalive=keepalive, location=location, tls=tls,
        nginx_workers=os.cpu_count(), access_log=stack.folder / "access.log" if shape.access_log else "off",
    )
    config = stack.folder / "nginx.conf"
    config.write_text(filled)
    stack.start([NGINX, "-e", stack.folder / "nginx-error.log", "-c", config, "-p", stack.folder])


def app_socket(stack: Stack) -> Path:
    return stack.folder / "app.sock"


STACKS = {
    "ostler": ostler,
    "nginx + uWSGI": nginx_uwsgi,
    "nginx + gunicorn sync": nginx_gunicorn_sync,
    "nginx + gunicorn gthread": nginx_gunicorn_gthread,
    "nginx + Granian": nginx_granian,
    "Granian alone": granian_alone,
    "nginx + uvicorn": nginx_uvicorn,
    "nginx": nginx_static,
    "nginx gzip_static": nginx_gzip_static,
}


def start(name: str, shape: Shape, path: str) -> Stack:
    folder = Path(tempfile.mkdtemp(prefix="ostler-bench-"))
    folder.chmod(0o755)
    stack = Stack(name, free_port(), folder)
    try:
        (shape.starter or STACKS[name])(stack, shape)
        stack.wait(path)
    except BaseException:
        stack.stop()
        raise
    return stack


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def versions() -> dict[str, str]:
    """The version of every part, as it states it."""
    said = {}
    for name, command in {
        "ostler": [OSTLER, "--version"], "nginx": [NGINX, "-v"], "Python": [VENV / "python", "--version"],
        "wrk": ["wrk", "-v"],
    }.items():
        try:
            out = subprocess.run([str(part) for part in command], capture_output=True, text=True)
            said[name] = next((w for w in (out.stdout + out.stderr).replace("/", " ").split() if w[0].isdigit()), "?")
        except OSError:
            continue
    frozen = subprocess.run([str(VENV / "pip"), "freeze"], capture_output=True, text=True).stdout
    wanted = {"gunicorn", "pyuwsgi", "granian", "uvicorn", "uvloop", "Flask"}
    said |= {n: v for n, _, v in (line.partition("==") for line in frozen.splitlines()) if n in wanted}
    return said
