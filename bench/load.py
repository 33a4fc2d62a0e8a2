"""The generators: wrk for as fast as it goes, an open loop for arrivals that do not wait for answers,
and idle connections."""

from __future__ import annotations

import asyncio
import json
import random
import re
import resource
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from stacks import HERE, Stack

GENERATOR_FULL = 0.95
"""A wrk that used this much of its threads' time measured itself."""

LATEST_S = 0.010
"""An open loop of which one arrival in a hundred came later than this was the bottleneck itself."""


@dataclass(frozen=True)
class Round:
    """One stack under one load for some seconds. `why_not` is empty when it counts."""

    requests_s: float
    p50_us: float
    p99_us: float
    cpu_us: float
    """Server CPU per request, user and system, over all of its processes."""
    why_not: str = ""
    failed: int = 0


def closed(stack: Stack, path: str, seconds: float, threads: int = 2, connections: int = 64, header: str = "",
           script: str = "wrk.lua", arguments: Sequence[str | Path] = (), tls: bool = False) -> Round:
    """wrk: each connection sends its next request when it has its answer."""
    where = f"https://127.0.0.1:{stack.tls_port}" if tls else f"http://127.0.0.1:{stack.port}"
    before, began = stack.cpu_us(), time.monotonic()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(
        ["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{round(seconds)}s", "--timeout", "5s",
         *(["-H", header] if header else []), "-s", HERE / script, f"{where}{path}", *(["--", *arguments] if arguments else [])],
        check=True, capture_output=True, text=True, cwd=HERE,
    )
    took = time.monotonic() - began
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = stack.cpu_us() - before
    wrk_cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    seen = json.loads(out.stdout.splitlines()[-1])
    why = ""
    if seen["status"] or seen["socket"]:
        why = f"{seen['status']} bad answers, {seen['socket']} socket errors"
    elif wrk_cpu / (took * threads) >= GENERATOR_FULL:
        why = "wrk was the bottleneck"
    served = max(seen["requests"], 1)
    return Round(served / seen["duration_us"] * 1e6, seen["p50"], seen["p99"], spent / served, why)


def streams(stack: Stack, path: str, seconds: float, connections: int = 8, at_once: int = 16) -> Round:
    """h2load: each connection has so many streams at once. It tells no percentiles."""
    before = stack.cpu_us()
    said = subprocess.run(
        ["h2load", "-t", "2", "-c", str(connections), "-m", str(at_once), "-D", f"{round(seconds)}",
         f"https://127.0.0.1:{stack.tls_port}{path}"],
        check=True, capture_output=True, text=True,
    ).stdout
    spent = stack.cpu_us() - before
    if "Application protocol: h2" not in said:
        raise RuntimeError(f"{stack.name} speaks no HTTP/2: {said}")
    good = int(re.search(r"status codes: (\d+) 2xx", said)[1])
    bad = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", said)
    wrong = sum(int(count) for count in bad.groups()) + sum(
        int(count) for count in re.search(r"2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said).groups()
    )
    served = max(good, 1)
    return Round(good / seconds, 0.0, 0.0, spent / served, f"{wrong} bad answers" if wrong else "")


def open_loop(stack: Stack, seconds: float, rate: float, seed: int) -> Round:
    """Requests arrive by chance (Poisson) at `rate` a second, whatever became of the earlier ones:
    95 of 100 work for 5 ms, the rest for 500 ms. Latency counts from the arrival."""
    before = stack.cpu_us()
    latencies, late, failed = asyncio.run(_arrivals(stack.port, seconds, rate, random.Random(seed)))
    spent = stack.cpu_us() - before
    latencies.sort()
    why = f"{failed} failed" if failed else ""
    if sorted(late)[int(len(late) * 0.99)] > LATEST_S:
        why = "the generator was late"
    count = max(len(latencies), 1)
    p50, p99 = (latencies[int(count * part)] * 1e6 if latencies else 0.0 for part in (0.50, 0.99))
    return Round(len(latencies) / seconds, p50, p99, spent / count, why)


async def _arrivals(port: int, seconds: float, rate: float, chance: random.Random):
    latencies: list[float] = []
    late: list[float] = []
    failed = 0
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def one(arrived: float, path: str) -> None:
        nonlocal failed
        try:
            reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(13)
            latencies.append(time.monotonic() - arrived)
            idle.append((reader, writer))
        except (OSError, AssertionError, EOFError, asyncio.TimeoutError):
            failed += 1

    tasks = []
    at = began = time.monotonic()
    while (at := at + chance.expovariate(rate)) - began < seconds:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        late.append(time.monotonic() - at)
        tasks.append(asyncio.create_task(one(at, "/500" if chance.random() < 0.05 else "/5")))
    await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
    return latencies, late, failed


def hold_idle(port: int, count: int, tls: Path | None = None) -> list[socket.socket]:
    """`count` connections that have had one answer each and stay open. They come from many
    addresses of 127.0.0.0/8: no server should let one address have that many."""
    import ssl

    context = None
    if tls:
        context = ssl.create_default_context(cafile=str(tls))
        context.check_hostname = False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 1000)), hard))
    held = []
    for n in range(count):
        source = f"127.0.{1 + n // 100 // 250}.{1 + n // 100 % 250}"
        connection = socket.create_connection(("127.0.0.1", port), 10, (source, 0))
        if context:
            connection = context.wrap_socket(connection)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        held.append(connection)
    return held


