"""Comparison of two source trees: the same command in both, in alternating pairs, each with its own load
tool or both with the tool of this tree.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from bench.figures import FAULTS
from bench.loop import BenchError, Json
from bench.report import ProgressBar
from bench.runner import rows_of
from bench.servers import SERVER_TREE
from bench.workers import SOURCE

MOST_RATIO = 1.05
#: Costs of the server per unit, which have a limit.
COSTS = ("cpu_us", "rss_connection_bytes", "pss_connection_bytes", "rss_empty_mb")


def is_cost(name: str) -> bool:
    """Whether a figure is a cost of the server per unit."""
    return name.endswith(COSTS) and "generator" not in name and "redis" not in name


def measure(tree: Path, command: str, tool: Path) -> Json:
    """Measure the server of the source tree ``tree`` with the load tool of the tree ``tool``.

    Returns its figures. Raises BenchError if the tool fails.
    """
    words = [sys.executable, "-m", "imserver", "bench", *command.split(), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tool)}
    if tool != tree:
        environment[SERVER_TREE] = str(tree)
    done = subprocess.run(words, cwd=tool, env=environment, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip() or done.stdout.strip())[-1000:]
        raise BenchError(f"`imserver bench {command}` failed for {tree}:\n{last}") from None
    report: Json = found["reports"][0] if "reports" in found else found
    return report


def compare(
    command: str, other: Path, pairs: int, watcher: ProgressBar, *, one_tool: bool = False
) -> list[Json]:
    """Run each row of ``command`` in this tree and in ``other``, ``pairs`` times; return a row a figure.

    ``ratio`` is the median of this tree's value divided by the other's, pair by pair; ``over``: it is a cost,
    and above the limit, or this tree lost something in a run. With ``one_tool`` the load tool of this tree
    measures both servers.
    """
    found = []
    for row in rows_of(command):
        runs: dict[str, list[tuple[float, float]]] = {}
        for number in range(pairs):
            watcher.begin(f"{row.title}, pair {number + 1} of {pairs}")
            ours = measure(SOURCE, row.command, SOURCE)
            theirs = measure(other, row.command, SOURCE if one_tool else other)
            for name, value in ours["figures"].items():
                if (their := theirs["figures"].get(name)) is not None and value is not None:
                    runs.setdefault(name, []).append((value, their))
        found += [_row(row.title, row.command, name, each) for name, each in runs.items()]
    return found


def _row(title: str, command: str, name: str, each: list[tuple[float, float]]) -> Json:
    ratios = [ours / theirs for ours, theirs in each if theirs]
    ratio = statistics.median(ratios) if ratios else None
    ours, theirs = (statistics.median(values) for values in zip(*each, strict=True))
    lost = name in FAULTS and ours > theirs
    return {
        "title": title,
        "command": f"imserver bench {command}",
        "figure": name,
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "ratios": ratios,
        "cost": is_cost(name),
        "over": lost or (is_cost(name) and ratio is not None and ratio > MOST_RATIO),
    }
