"""The figures of scenarios: their labels and units, and how several runs are
combined."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: What a run found, by the names of figures; None where it could not be measured.
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Figure:
    """Display of a figure. ``worst``: several runs are combined to their
    maximum, not to their median. ``fault``: any value other than zero fails the
    command.
    """

    label: str
    unit: str = ""
    digits: int = 0
    worst: bool = False
    fault: bool = False


_UNITS: Final = {
    "per_second": ("/s", 0),
    "seconds": ("s", 2),
    "ms": ("ms", 2),
    "us": ("µs", 2),
    "mb": ("MB", 1),
    "bytes": ("bytes", 0),
    "percent": ("% of a core", 3),
    "round_trips": ("", 5),
    "commands": ("", 3),
    "ratio": ("", 2),
    "a_frame": ("", 1),
    "a_read": ("", 1),
    "a_batch": ("", 1),
}
"""The end of a name → unit and digits. Other figures are counts."""
_LABELS: Final = {
    "rss_empty_mb": "RSS of the server as we found it",
    "rss_opened_bytes": "RSS a connection without subscriptions",
    "rss_connection_bytes": "RSS a connection",
    "ping_cpu_us": "CPU a ping, of an idle server with its clients",
    "generator_bound": "server had CPU left (its rate is derived)",
    "cpu_us": "server CPU each",
    "generator_cpu_us": "generator CPU each",
    "p50_ms": "latency p50",
    "p99_ms": "latency p99",
    "max_ms": "latency, longest",
    "stored_bytes": "database a row",
    "heartbeat_round_trips": "round trips to Redis a heartbeat, the lease's included",
    "forward_cpu_us": "the difference: CPU a forwarded event, both sides",
    "pss_full_mb": "PSS of the servers with all online",
    "machine_mb": "memory taken on the machine: servers, Redis, clients, kernel",
    "pushes_wrong": "pushes refused, unanswered or astray",
    "notified_cpu_us": "server CPU a notification, from the message to the stored result",
    "raw_repeats": "repeats that clients dropped by their ids",
    "hash_mb": "the same where a password is hashed, which takes 19 MiB",
    "unproved": "commands and routes all of whose requests were refused",
    "power_compared": "what was acknowledged and looked for, all cuts together",
    "power_broken": "databases that could not be opened, or were not intact",
}
"""Of those that have a bar, or whose names do not say what they are."""
#: Of these only zero is good: a command that finds another value exits with 1.
FAULTS: Final = (
    "unstored",
    "unacknowledged",
    "lost",
    "doubled",
    "unfinished",
    "refused",
    "dropped",
    "errors",
    "missing",
    "beats_unanswered",
    "pushes_lost",
    "pushes_wrong",
    "miscounted",
    "ghosts",
    "chaos_broken",
    "notifications_lost",
    "power_broken",
    "tracebacks",
)
_WORST: Final = re.compile(
    r"(.*_)?(max_ms|hold_ms|worst_seconds|silence_seconds|growth_mb|hash_mb|residue_mb)"
    r"|generator_bound|other_order|unproved|attacks_over"
)


def figure(name: str) -> Figure:
    """Return what there is to say of a figure."""
    end = next((end for end in _UNITS if name == end or name.endswith(f"_{end}")), "")
    unit, digits = _UNITS.get(end, ("", 0))
    label = (
        _LABELS.get(name)
        or name.removesuffix(end if unit else "").replace("_", " ").strip()
        or end
    )
    fault = name in FAULTS
    return Figure(
        label, unit, digits, fault or _WORST.fullmatch(name) is not None, fault
    )


def fold(runs: Sequence[Figures]) -> Figures:
    """Return the median of each figure over ``runs``, of faults the maximum."""
    folded: Figures = {}
    for name in runs[0]:
        values = [value for run in runs if (value := run.get(name)) is not None]
        combine = max if figure(name).worst else statistics.median
        folded[name] = combine(values) if values else None
    return folded


def with_faults_of(warm_up: Figures, figures: Figures) -> Figures:
    """Return ``figures`` with the faults of the warm-up added: faults always
    count."""
    added = {
        name: value + (warm_up.get(name) or 0)
        for name in FAULTS
        if (value := figures.get(name)) is not None
    }
    return {**figures, **added}


def faults(figures: Figures) -> dict[str, float]:
    return {name: value for name in FAULTS if (value := figures.get(name))}


def shown(name: str, value: float | None) -> str:
    """Return a figure with its unit, for display."""
    if value is None:
        return "–"
    if name == "generator_bound":
        return "yes" if value else "no"
    found = figure(name)
    return f"{value:,.{found.digits}f} {found.unit}".rstrip()
