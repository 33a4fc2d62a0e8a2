"""The comparisons, one row each, and the goals they are held against."""

from __future__ import annotations

import gzip
import os
import random
import socket
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Callable

import load
import machine
import stacks
from handshakes import handshakes
from requestlog import request_log
from routes import CROWDED, HELD, routes
from stacks import Shape

ROUND_SECONDS = 6.0
OPEN_LOOP_SECONDS = 30.0
IDLE_CONNECTIONS = 10_000


@dataclass(frozen=True)
class Goal:
    """`measure` of ostler, divided by that of `peer`, is to be at most (or at least) `bound`."""

    measure: str
    """`cpu_us`, `requests_s` or `p99_us`; without a peer a name in the summary's `figures`."""
    peer: str
    bound: float
    at_least: bool = False
    aim: str = ""


@dataclass(frozen=True)
class Comparison:
    name: str
    title: str
    measure: Callable
    stacks: list[str] = field(default_factory=list)
    shape: Shape = Shape("raw_wsgi:app")
    goals: list[Goal] = field(default_factory=list)


def hello(comparison: Comparison, bench) -> dict:
    seconds = bench.duration or ROUND_SECONDS
    shapes = dict.fromkeys(comparison.stacks, comparison.shape)
    return bench.interleaved(comparison.stacks, shapes, "/", lambda stack, _: load.closed(stack, "/", seconds))


def static(size: int):
    def measure(comparison: Comparison, bench) -> dict:
        (bench.files / "file.bin").write_bytes(bytes(range(256)) * (size // 256))
        shapes = dict.fromkeys(comparison.stacks, Shape(str(bench.files)))
        seconds = bench.duration or ROUND_SECONDS
        return bench.interleaved(
            comparison.stacks, shapes, "/file.bin", lambda stack, _: load.closed(stack, "/file.bin", seconds)
        )

    return measure


def encrypted(http2: bool):
    """1 KiB over TLS 1.3: as wrk asks, or h2load with 16 streams on each of 8 connections."""

    def measure(comparison: Comparison, bench) -> dict:
        cert = certificate(bench.files)
        (bench.files / "file.bin").write_bytes(bytes(range(256)) * 4)
        shapes = dict.fromkeys(comparison.stacks, Shape(str(bench.files), serve=True, certificate=cert))
        seconds = bench.duration or ROUND_SECONDS
        generate = load.streams if http2 else partial(load.closed, tls=True)
        return bench.interleaved(
            comparison.stacks, shapes, "/file.bin", lambda stack, _: generate(stack, "/file.bin", seconds)
        )

    return measure


def compressed(comparison: Comparison, bench) -> dict:
    """1 MiB of text, coded before it is asked for: by us, and by `gzip -9` beside the file for nginx."""
    line = "<li class='row' id='r{0}'><a href='/things/{1}'>Thing {1}</a> has {2} parts, seen {3} times</li>\n"
    chance = random.Random(1)
    text = "".join(line.format(n, chance.getrandbits(32), chance.randrange(99), chance.randrange(9999)) for n in range(12_000))
    page = text.encode()[: 1 << 20]
    for name in comparison.stacks:
        (bench.files / folder_of(name)).mkdir()
        file = bench.files / folder_of(name) / "page.html"
        file.write_bytes(page)
        # Nobody is writing it any more.
        os.utime(file, (1e9, 1e9))
    beside = bench.files / folder_of("nginx gzip_static") / "page.html.gz"
    beside.write_bytes(gzip.compress(page, 9))
    os.utime(beside, (1e9, 1e9))
    shapes = {name: Shape(str(bench.files / folder_of(name)), serve=True) for name in comparison.stacks}
    seconds = bench.duration or ROUND_SECONDS

    def one_round(stack, number):
        measured = load.closed(stack, "/page.html", seconds, header="Accept-Encoding: gzip")
        head = stacks.fetch(stack.port, "/page.html", more="Accept-Encoding: gzip\r\n").partition(b"\r\n\r\n")[0]
        assert b"content-encoding: gzip" in head.lower(), f"{stack.name} does not compress: {head}"
        return measured

    return bench.interleaved(comparison.stacks, shapes, "/page.html", one_round)


def folder_of(name: str) -> str:
    return name.replace(" ", "-")


def sleeps(comparison: Comparison, bench) -> dict:
    """At 90 % of what the slots can do: a slot is busy 0.95 × 5 ms + 0.05 × 500 ms per request."""
    slots = comparison.shape.workers * comparison.shape.threads
    rate = 0.9 * slots / (0.95 * 0.005 + 0.05 * 0.5)
    seconds = bench.duration or OPEN_LOOP_SECONDS
    shapes = dict.fromkeys(comparison.stacks, comparison.shape)
    return bench.interleaved(
        comparison.stacks, shapes, "/5",
        # The same arrivals for every stack of a round, others in the next round.
        lambda stack, number: load.open_loop(stack, seconds if number >= 0 else 2.0, rate, number),
    )


def idle(comparison: Comparison, bench) -> dict:
    """Memory of keeper and server, alone and with many idle connections."""
    figures = {}
    for tls in (False, True):
        stack = stacks.Stack("ostler", stacks.free_port(), bench.files)
        command = [stacks.OSTLER, "run", "raw_wsgi:app", "--bind", f"127.0.0.1:{stack.port}"]
        command += ["--python", stacks.VENV / "python", "--keep-alive", "600"]
        cert = certificate(bench.files) if tls else None
        if cert:
            command += ["--certfile", cert, "--keyfile", bench.files / "key.pem"]
        stack.start(command)
        try:
            wait_listening(stack)
            for connection in load.hold_idle(stack.port, 1, cert):
                connection.close()
            quiet = own_memory(stack)
            held = load.hold_idle(stack.port, IDLE_CONNECTIONS, cert)
            # A connection that was used just now keeps its buffers for 2 s: it is not idle yet.
            time.sleep(4)
            loaded = own_memory(stack)
            for connection in held:
                connection.close()
        finally:
            stack.stop()
            bench.files.mkdir(exist_ok=True)
        kind = "TLS" if tls else "plain"
        if not tls:
            figures["keeper + server, MiB PSS"] = quiet / 1024
        figures[f"{IDLE_CONNECTIONS} idle {kind} connections, MiB more"] = (loaded - quiet) / 1024
    return {"rows": {}, "figures": figures, "dropped": []}


def own_memory(stack: stacks.Stack) -> int:
    """KiB of keeper and server: the processes that run our binary."""
    ours = [pid for pid in stack.pids() if Path(f"/proc/{pid}/exe").resolve() == stacks.OSTLER]
    return machine.pss_kib(ours)


def wait_listening(stack: stacks.Stack) -> None:
    stack.wait_for(lambda: listens(stack.port))


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def certificate(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )
    return folder / "cert.pem"


COMPARISONS = [
    Comparison(
        "raw-wsgi", "raw WSGI app, 13 bytes, 2 workers", hello,
        ["ostler", "nginx + uWSGI", "nginx + Granian", "Granian alone", "nginx + gunicorn gthread"],
        Shape("raw_wsgi:app"),
        [
            Goal("cpu_us", "nginx + uWSGI", 0.60, aim="0.5"),
            Goal("cpu_us", "nginx + Granian", 0.42),
            Goal("cpu_us", "Granian alone", 1.0, aim="an aim, not a goal"),
            Goal("requests_s", "nginx + uWSGI", 1.4, at_least=True),
        ],
    ),
    Comparison(
        "raw-wsgi-logged", "the same with access logs to a file", hello,
        ["ostler", "nginx + uWSGI"], Shape("raw_wsgi:app", access_log=True),
    ),
    Comparison(
        "flask", "Flask hello, 2 workers", hello,
        ["ostler", "nginx + gunicorn gthread", "nginx + gunicorn sync", "nginx + uWSGI", "nginx + Granian"],
        Shape("flask_hello:app"),
        [
            Goal("cpu_us", "nginx + gunicorn gthread", 0.35),
            Goal("cpu_us", "nginx + uWSGI", 0.90),
            Goal("requests_s", "nginx + gunicorn sync", 2.6, at_least=True),
            Goal("requests_s", "nginx + uWSGI", 1.05, at_least=True),
        ],
    ),
    Comparison(
        "raw-asgi", "raw ASGI app, 13 bytes, 2 workers, uvloop everywhere", hello,
        ["ostler", "nginx + uvicorn", "Granian alone", "nginx + Granian"],
        Shape("raw_asgi:app", asgi=True),
        [
            Goal("cpu_us", "nginx + uvicorn", 0.55),
            Goal("cpu_us", "Granian alone", 1.0, aim="0.85"),
        ],
    ),
    Comparison(
        "proxy", "HTTP/1.1 proxy to an HTTP upstream (TCP, kept alive) that answers with 13 bytes", hello,
        ["ostler", "nginx"], Shape("", proxied=True),
        [Goal("cpu_us", "nginx", 0.85, aim="0.75")],
    ),
    Comparison(
        "static-1k", "static file, 1 KiB", static(1 << 10), ["ostler", "nginx"],
        goals=[Goal("cpu_us", "nginx", 0.70)],
    ),
    Comparison(
        "static-100k", "static file, 100 KiB", static(100 << 10), ["ostler", "nginx"],
        goals=[Goal("cpu_us", "nginx", 0.95)],
    ),
    Comparison(
        "https-1k", "static file, 1 KiB, HTTPS (TLS 1.3, AES-256-GCM), kept connections", encrypted(http2=False), ["ostler", "nginx"],
        goals=[Goal("cpu_us", "nginx", 0.85)],
    ),
    Comparison(
        "http2-1k", "static file, 1 KiB, HTTP/2, 8 connections of 16 streams", encrypted(http2=True), ["ostler", "nginx"],
        goals=[Goal("cpu_us", "nginx", 1.25, aim="1.0")],
    ),
    Comparison(
        "compressed", "static text, 1 MiB, gzip, warm", compressed, ["ostler", "nginx gzip_static"],
        goals=[Goal("cpu_us", "nginx gzip_static", 1.0)],
    ),
    Comparison(
        "handshake", "full TLS 1.3 handshakes, 200 a second: P-256 certificate, X25519, AES-256-GCM; a request is a handshake",
        handshakes(resumed=False), ["ostler", "nginx"],
        goals=[Goal("cpu_us", "nginx", 0.85)],
    ),
    Comparison(
        "resumed", "the same, resumed with the ticket of the connection before", handshakes(resumed=True),
        ["ostler", "nginx"],
        goals=[Goal("cpu_us", "nginx", 1.0)],
    ),
    Comparison(
        "request-log", "the request log at 10,000 req/s; raw WSGI app, 13 bytes, 2 workers", request_log(paced=True),
        ["ostler", "ostler without a log"],
        goals=[
            Goal("requests_s", "ostler without a log", 0.95, at_least=True),
            Goal("rows dropped", "", 0),
            Goal("requests that are neither a row nor counted as dropped", "", 0),
        ],
    ),
    Comparison(
        "request-log-full", "the same at saturation, where rows may be dropped but must be counted", request_log(paced=False),
        ["ostler", "ostler without a log"],
        goals=[
            Goal("requests_s", "ostler without a log", 0.88, at_least=True),
            Goal("requests that are neither a row nor counted as dropped", "", 0),
        ],
    ),
    Comparison(
        "routes", "10,000 routes (100 hosts × 100 prefixes) beside 10, of one project with an HTTP upstream", routes,
        ["ostler", "ostler with 10 routes", "ostler with 100 projects"],
        goals=[
            Goal("cpu_us", "ostler with 10 routes", 1.03),
            Goal("lookup among 1000 hosts × 10 prefixes, ns", "", 300),
            Goal("lookup among 100 hosts × 100 prefixes, ns", "", 300),
            *(Goal(f"reload of {size} with one route changed, ms", "", 200) for size in HELD),
            *(Goal(f"requests that failed meanwhile, {size}", "", 0) for size in (*HELD, CROWDED)),
        ],
    ),
    Comparison(
        "sleeps", "95 % of requests sleep 5 ms, 5 % 500 ms; open-loop arrivals at 90 % load; 16 slots", sleeps,
        ["ostler", "nginx + gunicorn sync", "nginx + gunicorn gthread", "nginx + Granian", "nginx + uWSGI"],
        Shape("sleepy:app", workers=4, threads=4),
        [
            Goal("p99_us", "nginx + gunicorn sync", 1.1),
            Goal("p99_us", "nginx + gunicorn gthread", 0.6),
            Goal("p99_us", "nginx + Granian", 0.6),
        ],
    ),
    Comparison(
        "idle", f"memory of keeper and server, alone and with {IDLE_CONNECTIONS} idle connections", idle,
        goals=[
            Goal("keeper + server, MiB PSS", "", 15),
            Goal(f"{IDLE_CONNECTIONS} idle plain connections, MiB more", "", 40),
        ],
    ),
]
