#!/usr/bin/env python3
"""Measures ostler beside its peers and writes RESULTS.md. Needs only the standard library.

    make bench                                everything, five rounds each
    make bench ONLY=raw-wsgi ROUNDS=3         one comparison
    bench/run.py --only flask --without ostler --duration 2

Rounds are interleaved (every stack once, then every stack again), so that a noisy minute of the
machine hits all of them. A round counts only when wrk had air left and no answer was bad.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import load
import machine
import report
import stacks
from comparisons import COMPARISONS, Comparison


def main() -> int:
    options = arguments()
    prepare_peers()
    results = report.load_numbers()
    missed: list[str] = []
    for comparison in COMPARISONS:
        if options.only and comparison.name not in options.only:
            continue
        say(f"== {comparison.name}: {comparison.title}")
        measured = measure(comparison, options)
        results[comparison.name] = {"date": report.today(), "setting": f"{options.rounds} rounds", **measured}
        report.write(results)
        verdicts = report.verdicts(comparison, results[comparison.name])
        for verdict in verdicts:
            say(f"  {verdict}")
        missed += [f"{comparison.name}: {verdict}" for verdict in verdicts if not verdict.met]
    for verdict in missed:
        say(verdict)
    say(f"written: {report.RESULTS}; {len(missed)} goals are not met")
    return 0


def arguments() -> argparse.Namespace:
    names = [comparison.name for comparison in COMPARISONS]
    parser = argparse.ArgumentParser(description="Compare ostler with its peers; write bench/RESULTS.md")
    parser.add_argument("--only", type=lambda text: text.split(","), help="comma-separated: " + ", ".join(names))
    parser.add_argument("--without", type=lambda text: text.split(","), default=[], help="stacks to leave out")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each stack [5]")
    parser.add_argument("--duration", type=int, help="seconds of a round [6; open loop 30]")
    options = parser.parse_args()
    if unknown := set(options.only or []) - set(names):
        parser.error(f"no comparison {', '.join(unknown)}; there are {', '.join(names)}")
    return options


def prepare_peers() -> None:
    """bench/.venv with exactly the pinned packages."""
    wanted = (stacks.HERE / "requirements.txt").read_text()
    marker = stacks.VENV.parent / "ready"
    if marker.exists() and marker.read_text() == wanted:
        return
    shutil.rmtree(stacks.VENV.parent, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", stacks.VENV.parent], check=True)
    subprocess.run(
        [stacks.VENV / "pip", "install", "--quiet", "--disable-pip-version-check", "-r", stacks.HERE / "requirements.txt"],
        check=True,
    )
    marker.write_text(wanted)


def measure(comparison: Comparison, options: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory(prefix="ostler-files-") as folder:
        files = Path(folder)
        files.chmod(0o755)
        return comparison.measure(comparison, Bench(options, files))


class Bench:
    """What a comparison measures with."""

    def __init__(self, options: argparse.Namespace, files: Path) -> None:
        self.rounds = options.rounds
        self.duration = options.duration
        self.without = options.without
        self.files = files

    def interleaved(self, names: list[str], shapes: dict[str, stacks.Shape], path: str, one_round) -> dict:
        """Starts all stacks, warms them up, and runs the rounds one stack at a time."""
        running: dict[str, stacks.Stack] = {}
        rounds: dict[str, list[load.Round | None]] = {}
        dropped: list[str] = []
        try:
            for name in names:
                if name not in self.without:
                    running[name] = stacks.start(name, shapes[name], path)
                    rounds[name] = []
            for number in range(-1, self.rounds):
                for name, stack in running.items():
                    measured = one_round(stack, number)
                    if number < 0:
                        continue  # the first only warms caches up
                    say(f"  {name:26} {measured.requests_s:9.0f} req/s  {measured.cpu_us:7.1f} µs  "
                        f"p50 {measured.p50_us / 1e3:7.2f} ms  p99 {measured.p99_us / 1e3:7.2f} ms  {measured.why_not}")
                    if measured.why_not:
                        dropped.append(f"{name}, round {number + 1}: {measured.why_not}")
                    rounds[name].append(None if measured.why_not else measured)
            memory = {name: machine.pss_kib(stack.pids()) for name, stack in running.items()}
        finally:
            for stack in running.values():
                stack.stop()
        return report.summary(rounds, memory, dropped)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
