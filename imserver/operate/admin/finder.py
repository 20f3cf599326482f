"""Finds what a text may name: people, connections, channels, groups, apps,
keys, requests.

Services of features find their own things (:class:`Finds`); those of the core
are found here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import (
    Annotated,
    ClassVar,
    Final,
    Literal,
    Protocol,
    get_args,
    runtime_checkable,
)

from msgspec import Struct

from imserver.plugin.http import about, view
from imserver.plugin.identity import Needs, Principal
from imserver.plugin.services import Core


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
    device: Annotated[
        str, about("The name that the client gave its device; empty: none.")
    ]
    dialect: str
    since: Annotated[int, about("When the session began, in Unix seconds.")]
    peer: Annotated[str, about("The remote address and port.")]
    node: Annotated[str, about("The node that holds the connection.")]
    channels: Annotated[int, about("The number of its channels.")]


class ConnectionPage(Struct, frozen=True):
    """The sessions of some users, in the order of their names. ``total`` counts
    the users online; ``users``: those of the page, and the one behind them if
    there is one."""

    total: int
    users: list[str]
    connections: list[ListedConnection]
    missing: list[str]


class LiveConnections:
    """Reads connections off the nodes that hold them. Calls switch."""

    def __init__(self, core: Core) -> None:
        self._core = core
        core.queries.add("admin.connection", str, self._find_here)

    def find(self, connection_id: str) -> LiveConnection | None:
        """The connection with this id; None: there is none, or its node does
        not answer."""
        answer: LiveConnection | None = self._core.connections.query(
            connection_id, "admin.connection", connection_id, LiveConnection | None
        )
        return answer

    def _find_here(self, connection_id: str) -> LiveConnection | None:
        table = self._core.connection_table
        address = table.ids.read(connection_id)
        if address is None:
            connection = None
        else:
            connection = table.at(address.number)
        if connection is None or connection.app is None:
            return None
        node = self._core.node_name
        return LiveConnection(
            connection.app,
            connection.user or "",
            connection.encoding.dialect.name,
            node,
        )

    def of_user(self, app: str, user: str) -> ConnectionPage:
        """All sessions of a user."""
        connections, missing = self._sessions(app, [user])
        return ConnectionPage(int(bool(connections)), [user], connections, missing)

    def page(self, app: str, after: str | None, limit: int) -> ConnectionPage:
        """The sessions of at most ``limit`` users of an app, behind one."""
        page = self._core.presence.page(app, after, limit + 1)
        users = sorted(page.users)
        connections, missing = self._sessions(app, users[:limit])
        missing = list(dict.fromkeys([*page.missing, *missing]))
        return ConnectionPage(page.total, users, connections, missing)

    def _sessions(
        self, app: str, users: list[str]
    ) -> tuple[list[ListedConnection], list[str]]:
        found = self._core.presence.sessions(app, users)
        ids = [
            session.connection for sessions in found.sessions for session in sessions
        ][:1000]
        infos = self._core.connections.about(app, ids)
        listed = [
            view(ListedConnection, each, channels=len(each.channels))
            for each in infos
            if each
        ]
        return listed, list(found.missing)


Kind = Literal[
    "account", "app", "group", "user", "connection", "channel", "key", "request"
]
"""In the order of the answer."""
MOST_APPS: Final = 1000
"""Apps that are searched."""
_Hit = tuple[str, str, str, str]


@runtime_checkable
class Finds(Protocol):
    """A service of a feature that finds things of one type of ``GET
    /api/v1/find``."""

    finds: ClassVar[str]

    def find(
        self, principal: Principal, text: str, apps: Sequence[str], limit: int
    ) -> Iterator[_Hit]:
        """The id, app, label and detail of what the principal may see, exact
        ids first: by a text, in some apps, at most so many. Switches."""


class HitShown(Struct):
    """Something that the text may name."""

    type: Annotated[Kind, about("What it is.")]
    id: Annotated[str, about("Its id.")]
    app: Annotated[
        str,
        about(
            "Its app. Of a key: the apps to which it is limited, with commas between."
        ),
    ]
    label: Annotated[str, about("Its name, or else its id.")]
    detail: Annotated[str, about("What else helps to recognise it.")]


class Finder:
    """Searches every kind of thing that the node has. Calls switch."""

    def __init__(self, core: Core, live: LiveConnections) -> None:
        self._core = core
        self._live = live
        self._finds: Mapping[
            str, Callable[[Principal, str, Sequence[str], int], Iterator[_Hit]]
        ] = {
            "app": self._apps,
            "user": self._users,
            "connection": self._connections,
            "channel": self._channels,
            "key": self._keys,
        }

    def find(
        self, principal: Principal, text: str, apps: Sequence[str], limit: int
    ) -> list[HitShown]:
        """What the text may name: at most ``limit`` of each kind that each
        feature has, exact ids first. ``apps``: resolved names that the
        principal reaches."""
        hits: list[HitShown] = []
        services = [(each.finds, each.find) for each in self._core.all_of(Finds)]  # type: ignore[type-abstract]
        finds = (*self._finds.items(), *reversed(services))
        for kind, find in (
            (kind, find)
            for kind in get_args(Kind)
            for each, find in finds
            if each == kind
        ):
            hits_of_kind: dict[tuple[str, str], HitShown] = {}
            for id, app, label, detail in find(principal, text, apps, limit):
                hits_of_kind.setdefault(
                    (id, app), HitShown(kind, id, app, label, detail)
                )
                if len(hits_of_kind) == limit:
                    break
            hits += hits_of_kind.values()
        accounts = {(hit.app, hit.id) for hit in hits if hit.type == "account"}
        return [
            hit
            for hit in hits
            if hit.type != "user" or (hit.app, hit.id) not in accounts
        ]

    # --- the core -------------------------------------------------------------

    def _apps(
        self, principal: Principal, text: str, apps: Sequence[str], _limit: int
    ) -> Iterator[_Hit]:
        if not principal.may(Needs.OPERATE):
            return
        resolve = self._core.tenants.resolve
        names_of_apps = [
            name for name in self._core.tenants.names() if text.lower() in name.lower()
        ]
        names = [name for name in names_of_apps if resolve(name) in apps]
        for name in sorted(names, key=lambda name: (name != text, name)):
            target = resolve(name)
            yield name, name, name, "" if target == name else f"→ {target}"

    def _users(
        self, principal: Principal, text: str, apps: Sequence[str], _limit: int
    ) -> Iterator[_Hit]:
        """Users who are online, or banned."""
        online = [app for app in apps if self._core.hub.is_online(app, text)]
        others = self._core.others
        if (
            others is not None
            and (nodes := others.registry.find_in_apps(apps, text)) is not None
        ):
            online += [
                app
                for app, refs in zip(apps, nodes, strict=True)
                if any(ref.id for ref in refs)
            ]
        sessions = self._core.sessions
        for app in dict.fromkeys(online):
            yield text, app, text, "online"
        for app in apps:
            if sessions.is_banned(app, text):
                yield text, app, text, "banned"

    def _connections(
        self, principal: Principal, text: str, apps: Sequence[str], _limit: int
    ) -> Iterator[_Hit]:
        if principal.may(Needs.OPERATE):
            info = self._live.find(text)
            if info is not None and info.app in apps:
                yield text, info.app, info.user or text, f"{info.dialect} · {info.node}"

    def _channels(
        self, principal: Principal, text: str, apps: Sequence[str], limit: int
    ) -> Iterator[_Hit]:
        """Channels with subscribers whose name begins with the text."""
        if not principal.may(Needs.OPERATE):
            return
        members = self._core.channels.members
        before = text[:-1] + (
            chr(ord(text[-1]) - 1) + "\U0010ffff" if ord(text[-1]) else ""
        )
        for app in apps[:20]:
            for each in members.channels(app, before, limit).channels:
                if each.channel.startswith(text):
                    yield each.channel, app, each.channel, str(each.members)

    def _keys(
        self, principal: Principal, text: str, _apps: Sequence[str], _limit: int
    ) -> Iterator[_Hit]:
        """Stored keys by id or note."""
        if not principal.may(Needs.OWN):
            return
        text = text.lower()
        resolve = self._core.tenants.resolve
        for row in (*self._core.keys.configured, *self._core.store.keys()):
            key_apps = set(map(resolve, row.apps))
            is_reached = principal.apps is None or (
                key_apps and key_apps <= principal.apps
            )
            if is_reached and (
                row.id.lower().startswith(text) or text in row.note.lower()
            ):
                yield (
                    row.id,
                    ",".join(row.apps),
                    row.note or row.id,
                    " ".join(row.scopes),
                )
