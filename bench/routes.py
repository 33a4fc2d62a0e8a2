"""Many routes beside few: what finding one costs, alone and in a request, and a reload of all with one changed."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from dataclasses import dataclass
from statistics import median

import load
import stacks
from requestlog import at_rate
from stacks import ROOT, Shape, Stack

ROUND_SECONDS = 6.0

MANY, FEW = "ostler", "ostler with 10 routes"

REQUESTS = 10_000

RELOADS = 7

RELOAD_RATE = 2_000
"""Requests a second during the reloads: no server that is full reloads in a time that says anything."""


@dataclass(frozen=True)
class Size:
    projects: int
    hosts: int
    """Of each project."""
    prefixes: int
    """Below each of its hosts."""

    def routes(self) -> list[tuple[str, str]]:
        return [
            (host, f"/p{prefix}")
            for project in range(self.projects)
            for host in self.hosts_of(project)
            for prefix in range(self.prefixes)
        ]

    def __str__(self) -> str:
        projects = "one project" if self.projects == 1 else f"{self.projects} projects"
        return f"{projects} × {self.hosts} hosts × {self.prefixes} prefixes"

    def hosts_of(self, project: int) -> list[str]:
        return [f"h{host}.p{project}.example.com" for host in range(self.hosts)]


SPREAD = "ostler with 100 projects"

SIZES = {MANY: Size(1, 100, 100), FEW: Size(1, 1, 10), SPREAD: Size(100, 10, 10)}
"""The first two have the same upstream, and differ in nothing but their routes. With 100 projects the same requests take
turns on five times as many connections to upstreams, which costs more than any route."""

HELD = [SIZES[MANY], SIZES[SPREAD]]
"""To be reloaded within the goal's time."""

CROWDED = Size(1_000, 10, 1)
"""Of as many routes too, where it is the projects that take time: each has settings of its own."""


def routes(comparison, bench) -> dict:
    seconds = bench.duration or ROUND_SECONDS
    asked = {}
    for name, size in SIZES.items():
        asked[name] = bench.files / f"{name}.txt"
        # As many different requests for all, since generators have caches too; and the next one is far from the last
        # one, for neighbours would be in those of the server.
        ways = size.routes()
        lines = [f"{host} {prefix}/things/{n}\n" for n in range(REQUESTS) for host, prefix in [ways[n % len(ways)]]]
        random.Random(1).shuffle(lines)
        asked[name].write_text("".join(lines))
    shapes = {name: Shape("", starter=starter(size)) for name, size in SIZES.items()}
    figures: dict[str, float] = {}

    def one_round(stack: Stack, number: int) -> load.Round:
        measured = load.closed(stack, "/", seconds, script="routes.lua", arguments=[asked[stack.name]])
        if number == bench.rounds - 1 and (size := SIZES[stack.name]) in HELD:
            figures.update(reloads(stack, size))
        return measured

    result = bench.interleaved(comparison.stacks, shapes, "/p0/", one_round)
    stack = stacks.start("ostler", Shape("", starter=starter(CROWDED)), "/p0/")
    try:
        figures.update(reloads(stack, CROWDED))
    finally:
        stack.stop()
    result["figures"] = {**lookups(), **figures}
    return result


def starter(size: Size):
    def start(stack: Stack, _: Shape) -> None:
        stack.origin = stacks.origin(stack)
        write(stack, size)
        stack.start([stacks.OSTLER, "serve", "--config", stack.folder / "ostler.toml"])

    return start


def write(stack: Stack, size: Size, changed: int | None = None) -> None:
    """With `changed`, one route of one project is another one than in the file with another number."""
    text = f"""
[server]
listen = ["127.0.0.1:{stack.port}"]
state = "{stack.folder}/state"
max_connections_per_address = 0
keep_requests = 0
default_host = "{size.hosts_of(0)[0]}"
"""
    for project in range(size.projects):
        text += f"""
[projects.p{project}]
hosts = {size.hosts_of(project)}
upstreams = ["http://{stack.origin}"]
"""
        for prefix in range(size.prefixes):
            text += f'[[projects.p{project}.routes]]\nprefix = "/p{prefix}"\n'
        if changed is not None and project == size.projects // 2:
            text += f'[[projects.p{project}.routes]]\nprefix = "/changed{changed}"\nhosts = ["{size.hosts_of(project)[0]}"]\n'
    (stack.folder / "ostler.toml").write_text(text.replace("'", '"'))


def reloads(stack: Stack, size: Size) -> dict[str, float]:
    """Milliseconds from typing `ostler reload` until it says that the change is in force, under requests."""
    host = size.hosts_of(size.projects // 2)[0]
    found: list[load.Round] = []
    pressing = threading.Thread(target=lambda: found.append(at_rate(stack, RELOAD_RATE, RELOADS + 3.0, "/p0/x")))
    pressing.start()
    time.sleep(1)
    took = []
    for number in range(RELOADS):
        write(stack, size, number)
        began = time.monotonic()
        subprocess.run([stacks.OSTLER, "reload"], cwd=stack.folder, check=True, capture_output=True)
        took.append((time.monotonic() - began) * 1e3)
        for path, status in ((f"/changed{number}/", b" 200 "), (f"/changed{number - 1}/", b" 404 ")):
            head = stacks.fetch(stack.port, path, name=host).partition(b"\r\n")[0]
            assert status in head, f"after a reload {path} is answered with {head}"
        time.sleep(max(0.0, 1.0 - took[-1] / 1e3))
    pressing.join()
    assert found, "the requests during the reloads did not end well"
    return {
        f"reload of {size} with one route changed, ms": median(took),
        f"the same, the longest of {RELOADS} (ms), {size}": max(took),
        f"requests that failed meanwhile, {size}": float(found[0].failed),
    }


def lookups() -> dict[str, float]:
    command = ["cargo", "run", "--release", "--locked", "--quiet", "-p", "xtask", "--", "lookup"]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = {}
    for line in said.splitlines():
        shape, nanoseconds = line.rsplit(" ", 1)
        found[f"lookup among {shape}, ns"] = float(nanoseconds)
    return found
