"""Runs worlds: ``python -m tests.worlds --help``."""

import tests.worlds.seams as seams  # isort: skip  # first: it takes the clock away

import argparse
import ctypes
import itertools
import logging
import os
import sys
from collections.abc import Sequence
from math import inf

from tests.worlds import runs
from tests.worlds.bugs import BUGS
from tests.worlds.plan import plan_of

_NO_RANDOM_ADDRESSES = 0x0040000
_ASK = 0xFFFFFFFF
"""``personality(2)`` changes nothing, and returns what is set."""
_MINUTES = 5.0


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns 0 if all worlds were well, and each bug was
    found."""
    parser = argparse.ArgumentParser("python -m tests.worlds")
    for name, default, words in (
        ("--seed", 1, "the first seed"),
        ("--worlds", 1, "how many seeds, one after the other"),
        ("--seeds", "", "seeds with commas between, in place of --seed and --worlds"),
        ("--minutes", 0.0, "simulated minutes of each world"),
        ("--seconds", inf, "CPU seconds after which no world begins"),
        ("--focus", "", "these kinds of steps alone, with commas between"),
    ):
        parser.add_argument(name, type=type(default), default=default, help=words)
    parser.add_argument(
        "--bug",
        default=[],
        action="append",
        choices=[*BUGS],
        help="look for a bug of the past",
    )
    for name, words in (
        ("--bugs", "look for each bug of the past, from --seed on"),
        ("--known", "look for each bug of the past by its known seed"),
        ("--control", "run the worlds of the known seeds without the bugs"),
        ("--log", "print what the nodes log"),
        ("--plan", "print the plans"),
    ):
        parser.add_argument(name, action="store_true", help=words)
    options = parser.parse_args(arguments)
    if options.log:
        logging.basicConfig(level=logging.INFO, stream=sys.stdout)
        logging.getLogger().handlers[0].setFormatter(seams.Lines())
    try:
        names = options.bug or (
            list(BUGS) if options.bugs or options.known or options.control else []
        )
        if options.control:
            return sum([_control(name, options) for name in names])
        if names:
            return sum([not _look_for(name, options) for name in names])
        return _run(options)
    finally:
        runs.clean()


def _run(options: argparse.Namespace) -> int:
    """Run healthy worlds. Returns the number of those with findings."""
    focus = tuple(filter(None, options.focus.split(",")))
    failed = 0
    hours = 0.0
    used = 0.0
    worlds = 0
    seeds = (
        map(int, options.seeds.split(","))
        if options.seeds
        else itertools.count(options.seed)
    )
    for seed in itertools.islice(seeds, None if options.seeds else options.worlds):
        if used > options.seconds:
            break
        result = _run_one(seed, options.minutes or _MINUTES, focus, options)
        used = used + result.took
        hours = hours + result.seconds / 3600
        worlds = worlds + 1
        failed += bool(result.findings)
        _print(result)
    print(
        f"{worlds} worlds, {hours:.2f} cluster-hours in {used:.1f} CPU seconds, {failed} with findings",
        flush=True,
    )
    return failed


def _look_for(name: str, options: argparse.Namespace) -> bool:
    """Look for a bug; whether it was found."""
    bug = BUGS[name]
    first = bug.seed if options.known else options.seed
    used = 0.0
    hours = 0.0
    for seed in range(
        first, first + (1 if options.known else max(options.worlds, 1000))
    ):
        if used > options.seconds:
            break
        focus = tuple(filter(None, options.focus.split(","))) or bug.focus
        result = _run_one(
            seed, options.minutes or bug.minutes, focus, options, name, bug.pace
        )
        used = used + result.took
        hours = hours + result.seconds / 3600
        if result.findings:
            print(
                f"{name}: seed {seed}, {used:.1f} CPU seconds, {hours:.2f} cluster-hours"
            )
            print(f"  {result.findings[0].splitlines()[0][:200]}", flush=True)
            return True
    print(
        f"{name}: not found in {used:.1f} CPU seconds, {hours:.2f} cluster-hours",
        flush=True,
    )
    return False


def _control(name: str, options: argparse.Namespace) -> bool:
    """Run the world that finds a bug, without the bug. Returns whether there
    are findings, nevertheless."""
    print(f"{name}, not put back:", end=" ")
    bug = BUGS[name]
    result = _run_one(
        bug.seed, options.minutes or bug.minutes, bug.focus, options, pace=bug.pace
    )
    _print(result)
    return bool(result.findings)


def _run_one(
    seed: int,
    minutes: float,
    focus: tuple[str, ...],
    options: argparse.Namespace,
    bug: str = "",
    pace: float = 1.0,
) -> runs.Result:
    plan = plan_of(seed, minutes * 60, focus=focus, pace=pace)
    if options.plan:
        print(plan.as_text())
    return runs.run_seed(seed, plan, bug)


def _print(result: runs.Result) -> None:
    took = f"{result.seconds / 60:.1f} minutes in {result.took:.1f} CPU seconds"
    print(f"seed {result.seed}: {took}, {result.calls} calls, {result.digest}")
    print(
        *(f"  {finding}\n" for finding in result.findings[:5]),
        sep="",
        end="",
        flush=True,
    )


def _repeat() -> None:
    """Begin this program anew so that no order depends on hashes or
    addresses."""
    personality = ctypes.CDLL(None).personality
    now = personality(_ASK)
    if os.environ.get("PYTHONHASHSEED") != "0" or not now & _NO_RANDOM_ADDRESSES:
        os.environ["PYTHONHASHSEED"] = "0"
        if personality(now | _NO_RANDOM_ADDRESSES) >= 0:
            os.execv(
                sys.executable, [sys.executable, "-m", "tests.worlds", *sys.argv[1:]]
            )


if __name__ == "__main__":
    _repeat()
    sys.exit(main(sys.argv[1:]))
