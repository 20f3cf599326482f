"""Servers for the tests here: one per HTTP server that most tests share, and others by their settings."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support import COMMAND, HTTP_SERVERS, Server
from tests.users import User

from .setting import APPS, SHARED, Launch, stop
from .v1 import KEYS

_apps = itertools.cycle(APPS)


@pytest.fixture(scope="session", params=HTTP_SERVERS)
def http_server(request: pytest.FixtureRequest) -> str:
    """Each way in, in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def server(http_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of this HTTP server that all tests share."""
    one = Server(tmp_path_factory.mktemp(f"shared-{http_server}"), config=SHARED, http_server=http_server)
    yield one
    stop(one)


@pytest.fixture(scope="session")
def locked(http_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys and registration, shared like ``server``."""
    sections = {"api": KEYS, "accounts": {"registration": True}}
    one = Server(tmp_path_factory.mktemp(f"locked-{http_server}"), config=sections, http_server=http_server)
    yield one
    stop(one)


@pytest.fixture
def ann(locked: Server) -> User:
    return User.register(locked)


@pytest.fixture
def bob(locked: Server) -> User:
    return User.register(locked)


@pytest.fixture
def cid(locked: Server) -> User:
    return User.register(locked)


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Starts servers with settings of their own; the module ends them and fails at a logged traceback."""
    started: list[Server] = []

    def start(http_server: str, command: Sequence[str] = COMMAND, **sections: Any) -> Server:
        folder = tmp_path_factory.mktemp("launched")
        one = Server(folder, config=sections, http_server=http_server, command=command)
        started.append(one)
        return one

    yield start
    for one in started:
        one.begin_to_stop()
    for one in started:
        one.stop()
    for one in started:
        stop(one)


@pytest.fixture
def app() -> int:
    """An app that no other test uses; the shared servers know it."""
    return next(_apps)
