"""Hypothesis makes plans, and shortens one that fails to the few steps that are needed."""

from __future__ import annotations

import tests.worlds.seams  # isort: skip  # noqa: F401  # first: it takes the clock away

from random import Random

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from tests.worlds.plan import FAULTS, WORK, Plan, Step
from tests.worlds.runs import run_seed

_TENTHS = 10
_MOST_STEPS = 60


def plans(seconds: float, kinds: tuple[str, ...]) -> st.SearchStrategy[Plan]:
    """Plans of these kinds of steps."""
    step = st.builds(
        Step,
        at=st.integers(0, int(seconds * _TENTHS)).map(lambda tenths: tenths / _TENTHS),
        name=st.sampled_from(kinds),
        which=st.integers(0, 255),
        amount=st.integers(0, 100).map(lambda hundredths: hundredths / 100),
    )
    steps = st.lists(step, max_size=_MOST_STEPS).map(lambda some: sorted(some, key=lambda each: each.at))
    return steps.map(lambda some: Plan(seconds, tuple(some)))


def shortest(
    seed: int, seconds: float, worlds: int, focus: tuple[str, ...] = (), bug: str = ""
) -> Plan | None:
    """The shortest plan found that fails in the world of a seed; None: none of so many ``worlds`` failed."""
    try:
        return find(
            plans(seconds, focus or (*WORK, *FAULTS)),
            lambda plan: bool(run_seed(seed, plan, bug).findings),
            settings=settings(
                max_examples=worlds,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
            random=Random(seed),
        )
    except NoSuchExample:
        return None
