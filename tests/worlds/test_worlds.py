"""Worlds from seeds: healthy ones, and those that find bugs of the past.

Each test runs ``python -m tests.worlds`` in a process of its own, which has no
clock. A test that fails prints the seed; the same command with it repeats the
failure exactly.
"""

import os
import re
import subprocess
import sys
from random import SystemRandom

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.linux

FOUND = re.compile(r"^(.+): seed (\d+), ([\d.]+) CPU seconds", re.MULTILINE)
QUICK = ("own message before its answer", "ids of lost entries")
"""Bugs that `make test` looks for, by their known seeds."""
MOST_SECONDS = 300
"""CPU seconds within which each bug is found."""


def worlds(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "tests.worlds", *arguments]
    result = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    print(" ".join(command[1:]), result.stdout, result.stderr, sep="\n")
    return result


def test_healthy_worlds_and_the_same_again() -> None:
    """A world from a fixed seed and one from a fresh seed are well. The same
    seed makes the same world."""
    fresh = SystemRandom().randrange(1_000_000_000)
    first = worlds("--seeds", "1", "--minutes", "0.5")
    second = worlds("--seeds", f"1,{fresh}", "--minutes", "0.5")
    assert first.returncode == second.returncode == 0, f"the fresh seed is {fresh}"
    digests = [re.findall(r"calls, (\w+)", each.stdout)[0] for each in (first, second)]
    assert digests[0] == digests[1]


def test_known_seeds_find_bugs_of_the_past() -> None:
    result = worlds("--known", *(word for name in QUICK for word in ("--bug", name)))
    assert [name for name, *_ in FOUND.findall(result.stdout)] == list(QUICK)
    assert result.returncode == 0


@pytest.mark.full("faults")
@pytest.mark.timeout(3600)
def test_each_bug_of_the_past_is_found() -> None:
    """From a fresh seed on, within five minutes of one processor each."""
    fresh = SystemRandom().randrange(1_000_000_000)
    result = worlds("--bugs", "--seed", str(fresh), "--seconds", str(MOST_SECONDS))
    assert result.returncode == 0, f"the first seed is {fresh}"
