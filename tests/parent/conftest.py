"""Families: servers of several processes, and the Redis that they need."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.redis_server import RedisServer

from .family import Family

StartFamily = Callable[..., Family]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of an empty Redis: the nodes of the test before have left leases there."""
    with redis_server.client() as client:
        client.flushall()
    return f"redis://127.0.0.1:{redis_server.port}"


@pytest.fixture
def start_family(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFamily]:
    """Starts families: ``start_family(processes=3, config={…})``; a logged traceback fails the test."""
    started: list[Family] = []
    numbers = itertools.count()

    def start(processes: int = 3, **options: Any) -> Family:
        family = Family(tmp_path_factory.mktemp(f"family{next(numbers)}"), redis_url, processes, **options)
        started.append(family)
        return family

    yield start
    for family in started:
        family.stop()
    for family in started:
        family.check()
