"""Live connections, on all nodes."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Struct, convert
from msgspec.structs import asdict

from imserver.plugin.http import about
from imserver.plugin.services import Core

MOST_SESSIONS: Final = 1000
"""Sessions of one page: a user may have many."""


class LiveConnection(Struct, frozen=True, array_like=True):
    """A connection that its id has named: in which app it is, and for whom."""

    app: str
    user: str
    dialect: str
    node: str


class ListedConnection(Struct):
    """A connection that is logged in."""

    connection: Annotated[str, about("Its id.")]
    user: str
    device: Annotated[str, about("The name that the client gave its device; empty: none.")]
    dialect: str
    since: Annotated[int, about("When the session began, in Unix seconds.")]
    peer: Annotated[str, about("The remote address and port.")]
    node: Annotated[str, about("The node that holds the connection.")]
    channels: Annotated[int, about("The number of its channels.")]


class ConnectionPage(Struct, frozen=True):
    """The sessions of some users, in the order of their names. ``total`` counts the users online; ``users``:
    those of the page, and the one behind them if there is one."""

    total: int
    users: list[str]
    connections: list[ListedConnection]
    missing: list[str]


class LiveConnections:
    """Reads connections off the nodes that hold them. Calls switch."""

    def __init__(self, core: Core) -> None:
        self._core = core
        core.cluster.queries.add("admin.connection", str, self._find_here)

    def find(self, connection_id: str) -> LiveConnection | None:
        """The connection with this id; None: there is none, or its node does not answer."""
        answer: LiveConnection | None = self._core.sessions.connections.query(
            connection_id, "admin.connection", connection_id, LiveConnection | None
        )
        return answer

    def _find_here(self, connection_id: str) -> LiveConnection | None:
        table = self._core.sessions.table
        address = table.ids.read(connection_id)
        connection = None if address is None else table.at(address.number)
        if connection is None or connection.app is None:
            return None
        node = self._core.cluster.registry.lease.node
        return LiveConnection(connection.app, connection.user or "", connection.encoding.dialect.name, node)

    def of_user(self, app: str, user: str) -> ConnectionPage:
        """All sessions of a user."""
        connections, missing = self._sessions(app, [user])
        return ConnectionPage(int(bool(connections)), [user], connections, missing)

    def page(self, app: str, after: str | None, limit: int) -> ConnectionPage:
        """The sessions of at most ``limit`` users of an app, behind one."""
        page = self._core.sessions.presence.page(app, after, limit + 1)
        users = sorted(page.users)
        connections, missing = self._sessions(app, users[:limit])
        missing = list(dict.fromkeys([*page.missing, *missing]))
        return ConnectionPage(page.total, users, connections, missing)

    def _sessions(self, app: str, users: list[str]) -> tuple[list[ListedConnection], list[str]]:
        services = self._core.sessions
        found = services.presence.sessions(app, users)
        ids = [session.connection for sessions in found.sessions for session in sessions][:MOST_SESSIONS]
        infos = services.connections.about(app, ids)
        return [
            convert({**asdict(each), "channels": len(each.channels)}, ListedConnection)
            for each in infos
            if each is not None
        ], list(found.missing)
