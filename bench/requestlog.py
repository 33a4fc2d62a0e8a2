"""What the request log costs, and whether it has a row for each request: at a rate it must hold, and at the most there is."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from pathlib import Path
from statistics import quantiles

import load
import stacks
from stacks import HERE, Shape, Stack

RATE = 10_000
"""Requests a second that must all become rows."""

CONNECTIONS = 50

SETTLED_SECONDS = 10.0
"""In which the writer must have written what it had taken: it gathers for 0.2 s."""

ROUND_SECONDS = 10.0
"""Longer than most rows: the writer gives way to those who serve, and what it owes shows late."""

WITH, WITHOUT = "ostler", "ostler without a log"


def request_log(paced: bool):
    def measure(comparison, bench) -> dict:
        seconds = bench.duration or ROUND_SECONDS
        shapes = {
            WITH: Shape("raw_wsgi:app", starter=starter(keep=True)),
            WITHOUT: Shape("raw_wsgi:app", starter=starter(keep=False)),
        }
        books = {"lost": 0, "missing": 0, "rows": 0}

        def one_round(stack: Stack, _: int) -> load.Round:
            measured = at_rate(stack, RATE, seconds) if paced else load.closed(stack, "/", seconds)
            if stack.name == WITH:
                # Of all rounds so far.
                books.update(balance(stack))
            return measured

        result = bench.interleaved(comparison.stacks, shapes, "/", one_round)
        result["figures"] = {
            "rows dropped": books["lost"],
            "rows dropped, % of all requests": 100 * books["lost"] / max(books["lost"] + books["rows"], 1),
            "requests that are neither a row nor counted as dropped": books["missing"],
        }
        return result

    return measure


def starter(keep: bool):
    def start(stack: Stack, shape: Shape) -> None:
        (stack.folder / "ostler.toml").write_text(f"""
[server]
listen = ["127.0.0.1:{stack.port}"]
admin = ["127.0.0.1:{stack.tls_port}"]
state = "{stack.folder}/state"
max_connections_per_address = 0
{"" if keep else "keep_requests = 0"}
[projects.app]
source = "{HERE}/apps"
hosts = ["*"]
[projects.app.web]
app = "{shape.app}"
python = "{stacks.VENV}/python"
workers = {shape.workers}
""")
        stack.start([stacks.OSTLER, "serve", "--config", stack.folder / "ostler.toml"])

    return start


def balance(stack: Stack) -> dict[str, int]:
    """Every request that the server counts is a row, or counted as one that was dropped."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while True:
        served, lost = metric(stack, "ostler_requests_total"), metric(stack, "ostler_request_log_lost_total")
        found = rows(stack.folder / "state" / "requests" / "requests.db")
        missing = served - lost - found
        if missing == 0 or time.monotonic() > deadline:
            return {"lost": lost, "rows": found, "missing": missing}
        time.sleep(0.1)


def metric(stack: Stack, name: str) -> int:
    """The sum over all labels."""
    page = stacks.fetch(stack.tls_port, "/metrics").decode()
    lines = [line for line in page.splitlines() if line.startswith((name + "{", name + " "))]
    assert lines, f"no {name} among the metrics:\n{page}"
    return sum(int(line.rpartition(" ")[2]) for line in lines)


def rows(file: Path) -> int:
    """How many were ever written: they are numbered from 1, and the oldest go first."""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as there:
        return there.execute("SELECT max(number) FROM requests").fetchone()[0] or 0


def at_rate(stack: Stack, rate: int, seconds: float, path: str = "/") -> load.Round:
    """h2load over HTTP/1.1: each connection sends so many requests a second, and none before its last answer."""
    log = stack.folder / "h2load.log"
    log.unlink(missing_ok=True)
    before = stack.cpu_us()
    out = subprocess.run(
        ["h2load", "--h1", "--clients", str(CONNECTIONS), "--rps", str(rate / CONNECTIONS), "--duration", f"{round(seconds)}s",
         "--log-file", log, f"http://127.0.0.1:{stack.port}{path}"],
        check=True, capture_output=True, text=True,
    )
    spent = stack.cpu_us() - before
    # Start in µs since 1970, status, time in µs; -1 for a request that failed.
    answers = [line.split() for line in log.read_text().splitlines()]
    bad = sum(status != "200" for _, status, _ in answers)
    # "requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout"; what the clock cut off
    # is none of them.
    told = next(line for line in out.stdout.splitlines() if line.startswith("requests:"))
    ended = {part.split()[1]: int(part.split()[0]) for part in told.removeprefix("requests:").split(",")}
    failed = max(bad, ended["failed"] + ended["errored"] + ended["timeout"])
    percentile = quantiles((int(took) for _, _, took in answers), n=100)
    why = f"{bad} bad answers, {told}" if failed else ""
    return load.Round(len(answers) / seconds, percentile[49], percentile[98], spent / len(answers), why, failed)
