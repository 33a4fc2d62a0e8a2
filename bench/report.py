"""From rounds to RESULTS.md. The numbers themselves are kept in results.json, so that one comparison
can be measured anew without the others."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from statistics import median

import load
import machine
import stacks

RESULTS = stacks.HERE / "RESULTS.md"
NUMBERS = stacks.HERE / "results.json"


def load_numbers() -> dict:
    return json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}


def summary(rounds: dict[str, list[load.Round | None]], memory: dict[str, int], dropped: list[str]) -> dict:
    """`None` is a round that does not count; the lists of all stacks are equally long."""
    rows = {}
    for name, ran in rounds.items():
        rows[name] = {"pss_mib": memory[name] / 1024}
        for measure in ("requests_s", "p50_us", "p99_us", "cpu_us"):
            rows[name][measure] = [one and getattr(one, measure) for one in ran]
    return {"rows": rows, "figures": {}, "dropped": dropped}


def write(results: dict) -> None:
    NUMBERS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    RESULTS.write_text("\n".join(page(results)) + "\n")


def page(results: dict) -> list[str]:
    from comparisons import COMPARISONS

    said = ", ".join(f"{name} {version}" for name, version in stacks.versions().items())
    lines = [
        "# Measured",
        "Written by `make bench`. Medians over interleaved rounds, with the least and the most in brackets. CPU is user + system time of",
        "every server process (nginx too) per request; memory is PSS of all of them after the rounds. A ratio is the median of the ratios of",
        "each round: what ran within the same half minute is compared. How the peers are set up: `peers/README.md`.",
        "",
        f"Machine: {machine.description()}. Versions: {said}.",
    ]
    for comparison in COMPARISONS:
        if comparison.name in results:
            lines += ["", *section(comparison, results[comparison.name])]
    return lines


def section(comparison, result: dict) -> list[str]:
    lines = [f"## {comparison.name}: {comparison.title}", f"{result['date']}, {result.get('setting', '')}".rstrip(", ")]
    if result["rows"]:
        lines += ["", "| | req/s | p50 ms | p99 ms | CPU µs/request | PSS MiB | rounds |", "|---|---|---|---|---|---|---|"]
        for name, row in result["rows"].items():
            cells = [spread(row["requests_s"], 1, 0), spread(row["p50_us"], 1e3, 2), spread(row["p99_us"], 1e3, 2),
                     spread(row["cpu_us"], 1, 1), f"{row['pss_mib']:.0f}", str(len(counted(row["cpu_us"])))]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, value in result["figures"].items():
        lines.append(f"- {name}: {value:.1f}")
    goals = verdicts(comparison, result)
    if goals:
        lines += ["", "| goal | bound | reached | |", "|---|---|---|---|"]
        lines += [f"| {goal.what} | {goal.bound} | {goal.reached} | {'met' if goal.met else '**not met**'} |" for goal in goals]
    if result["dropped"]:
        lines += ["", f"{len(result['dropped'])} rounds did not count: " + "; ".join(result["dropped"][:10])]
    return lines


def counted(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def spread(values: list[float | None], unit: float, digits: int) -> str:
    if not (kept := counted(values)):
        return "none counted"
    if not any(kept):
        return "–"
    middle, least, most = (f"{of(kept) / unit:,.{digits}f}" for of in (median, min, max))
    return f"{middle} [{least}–{most}]"


NAMES = {"cpu_us": "CPU per request", "requests_s": "req/s", "p99_us": "p99"}


@dataclass(frozen=True)
class Verdict:
    what: str
    bound: str
    reached: str
    met: bool

    def __str__(self) -> str:
        return f"{'met' if self.met else 'NOT MET'}: {self.what} {self.bound}: {self.reached}"


def verdicts(comparison, result: dict) -> list[Verdict]:
    return [verdict for goal in comparison.goals if (verdict := judged(goal, result))]


def judged(goal, result: dict) -> Verdict | None:
    """None when a side was not measured."""
    if not goal.peer:
        if goal.measure not in result["figures"]:
            return None
        reached, what = result["figures"][goal.measure], goal.measure
        shown = f"{reached:.1f}"
    else:
        ours, theirs = (result["rows"].get(name, {}).get(goal.measure, []) for name in ("ostler", goal.peer))
        ratios = [our / their for our, their in zip(ours, theirs) if our is not None and their is not None]
        if not ratios:
            return None
        reached, what = median(ratios), f"{NAMES[goal.measure]} ÷ {goal.peer}"
        shown = spread(ratios, 1, 3)
    met = reached >= goal.bound if goal.at_least else reached <= goal.bound
    bound = f"{'≥' if goal.at_least else '≤'} {goal.bound:g}" + (f" (aim: {goal.aim})" if goal.aim else "")
    return Verdict(what, bound, shown, met)


def today() -> str:
    return time.strftime("%Y-%m-%d")
