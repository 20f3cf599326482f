"""Families: servers of several processes."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.gateway.supervisor.family import Family

StartFamily = Callable[..., Family]


@pytest.fixture
def start_family(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartFamily]:
    """Starts families: ``start_family(processes=3, config={…})``; a logged
    traceback fails the test."""
    started: list[Family] = []
    numbers = itertools.count()

    def start(processes: int = 3, **options: Any) -> Family:
        family = Family(
            tmp_path_factory.mktemp(f"family{next(numbers)}"),
            redis_url,
            processes,
            **options,
        )
        started.append(family)
        return family

    yield start
    for family in started:
        family.stop()
    for family in started:
        family.check()
