"""Servers for the tests here: one per HTTP server that most tests share, and
others by their settings."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.conftest import StartServer, servers
from tests.support import COMMAND, HTTP_SERVERS, Server
from tests.users import User

from .clusters import Nodes, nodes_of
from .setting import APPS, SHARED, Launch
from .v1 import KEYS

_apps = itertools.cycle(APPS)


@pytest.fixture(scope="session", params=HTTP_SERVERS)
def http_server(request: pytest.FixtureRequest) -> str:
    """Each way in, in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def server(
    http_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The server of this HTTP server that all tests share."""
    with servers(tmp_path_factory) as start:
        yield start(config=SHARED, http_server=http_server)


@pytest.fixture(scope="session")
def locked(
    http_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with keys and registration, shared like ``server``."""
    sections = {"api": KEYS, "accounts": {"registration": True}}
    with servers(tmp_path_factory) as start:
        yield start(config=sections, http_server=http_server)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes that the tests of a module share; the second has the WSGI
    server."""
    with nodes_of(tmp_path_factory.mktemp("nodes"), 2) as two:
        yield two


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
def launch(start_shared_server: StartServer) -> Launch:
    """Starts servers with settings of their own; the module ends them and fails
    at a logged traceback."""

    def start(
        http_server: str, command: Sequence[str] = COMMAND, **sections: Any
    ) -> Server:
        return start_shared_server(
            config=sections, http_server=http_server, command=command
        )

    return start


@pytest.fixture
def app() -> int:
    """An app that no other test uses; the shared servers know it."""
    return next(_apps)
