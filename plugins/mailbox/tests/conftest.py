"""The distribution and MCP installed, and servers with them: one node, and two
that share a Redis."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PLUGIN = Path(__file__).parents[1]
sys.path[:0] = [
    str(PLUGIN),
    str(PLUGIN.parent / "mcp"),
]  # as they are here; `installed` has the distributions

from tests.gateway.storage.servers import DatabaseServer  # noqa: E402
from tests.integration.plug_ins import fixtures  # noqa: E402
from tests.stores import ENGINES, database_servers, open_store, server_of  # noqa: E402, F401
from tests.support import Server  # noqa: E402
from tests.users import User  # noqa: E402

KEY = "key-of-the-admin-0123456789"
CONFIG: dict[str, Any] = {
    "features": ["all", "mcp", "mailbox"],
    "apps": {"gochat": {}},
    "limits": {"messages_per_second": 0},
    "api": {"requests_per_second": 0, "keys": [{"key": KEY, "scopes": ["admin"]}]},
}


SAMPLED = [
    pytest.param(each, marks=pytest.mark.full("sampled")) for each in ENGINES[1:]
]


@pytest.fixture(params=["sqlite", *SAMPLED])
def url(
    request: pytest.FixtureRequest,
    database_servers: dict[str, DatabaseServer],  # noqa: F811
    tmp_path: Path,
) -> Iterator[str]:
    """The address of an empty database, once of each engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/some.db"
    else:
        server = server_of(request.param, database_servers)
        yield from server.lend(server.new_url())


installed, servers = fixtures("mailbox", CONFIG, PLUGIN, PLUGIN.parent / "mcp")


class Site(NamedTuple):
    """Nodes, with a bot of ann that has talked with nobody. They are the same
    if there is one."""

    servers: list[Server]
    ann: User
    bob: User
    bot: User

    def worker(self) -> User:
        """The bot at the last node."""
        return User(self.servers[-1], self.bot.token, self.bot.user)


def people(server: Server) -> tuple[User, User, User]:
    """Two accounts, and a bot of the first."""
    ann = User.register(server, key=KEY, nickname="Ann")
    bob = User.register(server, key=KEY, nickname="Bob")
    bot = ann.post("bots", name=f"helper{time.time_ns() % 10**9}")
    return ann, bob, User(server, bot["token"], bot["id"])


@pytest.fixture
def site(servers: list[Server]) -> Site:
    return Site(servers, *people(servers[0]))
