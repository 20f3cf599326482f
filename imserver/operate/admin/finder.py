"""Finds the things that a text may name: people, connections, channels, groups,
apps, keys, requests.

Services of features find their own things (:class:`Finds`). This module finds
the things of the core.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
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
    """A connection that was found by its id, with its app and its user."""

    app: str
    user: str
    dialect: str
    node: str


class ListedConnection(Struct):
    """A connection with a login."""

    connection: Annotated[str, about("The id of the connection.")]
    user: str
    device: Annotated[
        str, about("The device name that the client has given; empty: none.")
    ]
    dialect: str
    since: Annotated[int, about("When the session began, in Unix seconds.")]
    peer: Annotated[str, about("The remote address and port.")]
    node: Annotated[str, about("The node to which the client is connected.")]
    channels: Annotated[
        int, about("The number of channels to which the connection is subscribed.")
    ]


class ConnectionPage(Struct, frozen=True):
    """The sessions of some users, in the order of the ids of the users.

    ``total`` is the number of users who are online. ``users`` are the users of
    the page, and if there is another page its first user. ``missing`` are the
    nodes that did not answer.
    """

    total: int
    users: list[str]
    connections: list[ListedConnection]
    missing: list[str]


class LiveConnections:
    """Reads connections from the nodes to which clients are connected.

    Methods switch greenlets.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        core.queries.add("admin.connection", str, self._find_here)

    def find(self, connection_id: str) -> LiveConnection | None:
        """The connection with this id.

        The id tells its node, which is asked. None if the connection does not
        exist, or its node does not answer.
        """
        answer: LiveConnection | None = self._core.connections.query(
            connection_id, "admin.connection", connection_id, LiveConnection | None
        )
        return answer

    def _find_here(self, connection_id: str) -> LiveConnection | None:
        """The connection with this id, if it is on this node and logged in."""
        table = self._core.connection_table
        address = table.ids.read(connection_id)
        if address is None:  # not an id of a connection
            return None
        # The id has the place of the connection in the table.
        connection = table.at(address.number)
        if connection is None or connection.app is None:
            return None
        return LiveConnection(
            app=connection.app,
            user=connection.user or "",
            dialect=connection.encoding.dialect.name,
            node=self._core.node_name,
        )

    def of_user(self, app: str, user: str) -> ConnectionPage:
        """All sessions of a user, as a page with this user only."""
        connections, missing = self._sessions(app, [user])
        users_online = int(bool(connections))  # 1 or 0
        return ConnectionPage(users_online, [user], connections, missing)

    def page(self, app: str, after: str | None, limit: int) -> ConnectionPage:
        """The sessions of at most ``limit`` users of an app.

        The page begins after the user ``after``; None means with the first
        user.
        """
        # One user more shows whether there is another page.
        page = self._core.presence.page(app, after, limit + 1)
        users = sorted(page.users)
        connections, missing = self._sessions(app, users[:limit])
        # Both questions go to all nodes. Each node is named once.
        missing = list(dict.fromkeys([*page.missing, *missing]))
        return ConnectionPage(page.total, users, connections, missing)

    def _sessions(
        self, app: str, users: list[str]
    ) -> tuple[list[ListedConnection], list[str]]:
        """The connections of users, and the nodes that did not answer.

        At most :data:`_MOST_CONNECTIONS` connections are looked up.
        """
        answer = self._core.presence.sessions(app, users)
        sessions = chain.from_iterable(answer.sessions)
        ids = [session.connection for session in sessions]
        infos = self._core.connections.about(app, ids[:_MOST_CONNECTIONS])
        listed = [
            view(ListedConnection, info, channels=len(info.channels))
            for info in infos
            # A connection may have ended since its session was read.
            if info
        ]
        return listed, list(answer.missing)


Kind = Literal[
    "account", "app", "group", "user", "connection", "channel", "key", "request"
]
"""The kinds of things that are found, in the order of the answer."""
MOST_APPS: Final = 1000
"""The most apps that are searched."""
_MOST_CONNECTIONS: Final = 1000
_MOST_CHANNEL_APPS: Final = 20
"""The most apps whose channels are searched."""
_Hit = tuple[str, str, str, str]
"""The id, app, label and detail of a thing that was found: see
:class:`HitShown`."""
_Find = Callable[[Principal, str, Sequence[str], int], Iterator[_Hit]]
"""A function that finds things of one kind: see :meth:`Finds.find`."""


@runtime_checkable
class Finds(Protocol):
    """A service of a feature that finds things of one type of ``GET
    /api/v1/find``.

    ``finds`` is the type, one of :data:`Kind`.
    """

    finds: ClassVar[str]

    def find(
        self, principal: Principal, text: str, apps: Sequence[str], limit: int
    ) -> Iterator[_Hit]:
        """The things that the principal may see and that the text may name.

        Each is the id, app, label and detail of a thing in one of the apps.
        Exact ids come first. Switches greenlets.
        """


class HitShown(Struct):
    """An object that the search has found."""

    type: Annotated[Kind, about("The type of the object.")]
    id: Annotated[str, about("The id of the connection.")]
    app: Annotated[
        str,
        about(
            "The app of the object. For a key: the apps to which it is limited, "
            "separated by commas."
        ),
    ]
    label: Annotated[str, about("The name of the object, or its id if it has no name.")]
    detail: Annotated[str, about("Other words that help to recognise the object.")]


class Finder:
    """Searches every kind of thing that the node has.

    Methods switch greenlets.
    """

    def __init__(self, core: Core, live: LiveConnections) -> None:
        """Know how to find each kind of thing that the core has."""
        self._core = core
        self._live = live
        self._finds: Mapping[str, _Find] = {
            "app": self._apps,
            "user": self._users,
            "connection": self._connections,
            "channel": self._channels,
            "key": self._keys,
        }

    def find(
        self, principal: Principal, text: str, apps: Sequence[str], limit: int
    ) -> list[HitShown]:
        """The things that the text may name, in the order of their kinds.

        Returns at most ``limit`` things of each kind of each feature, exact ids
        first. ``apps`` are resolved names of apps that the principal reaches.
        """
        finds = self._all_finds()
        hits: list[HitShown] = []
        for kind in get_args(Kind):
            for kind_of_find, find in finds:
                if kind_of_find == kind:
                    things = find(principal, text, apps, limit)
                    hits += _first_hits(kind, things, limit)
        return _without_repeated_users(hits)

    def _all_finds(self) -> list[tuple[str, _Find]]:
        """The functions that search, each with the kind of things that it
        finds."""
        services = [(each.finds, each.find) for each in self._core.all_of(Finds)]  # type: ignore[type-abstract]
        return [*self._finds.items(), *reversed(services)]

    # --- the core -------------------------------------------------------------

    def _apps(
        self, principal: Principal, text: str, apps: Sequence[str], _limit: int
    ) -> Iterator[_Hit]:
        """Apps whose names contain the text, also aliases.

        An alias is shown with its app: ``→ shop``. ``_app_names`` puts the app
        with exactly this name first.
        """
        if not principal.may(Needs.OPERATE):
            return
        resolve = self._core.tenants.resolve
        for name in self._app_names(text, apps):
            target = resolve(name)
            detail = ""
            if target != name:
                detail = f"→ {target}"
            yield name, name, name, detail

    def _users(
        self, principal: Principal, text: str, apps: Sequence[str], _limit: int
    ) -> Iterator[_Hit]:
        """The user with this id, in each app where they are online or banned.

        A user need not have an account. So only presence and bans show that an
        id is used.
        """
        for app in self._apps_online(text, apps):
            yield text, app, text, "online"
        for app in apps:
            if self._core.sessions.is_banned(app, text):
                yield text, app, text, "banned"

    def _apps_online(self, user: str, apps: Sequence[str]) -> Iterable[str]:
        """The apps in which a user is online, on this node or on another node.

        If the registry does not answer, only this node is known.
        """
        online = [app for app in apps if self._core.hub.is_online(app, user)]
        others = self._core.others
        if others is not None:
            nodes_by_app = others.registry.find_in_apps(apps, user)
            if nodes_by_app is not None:
                for app, nodes in zip(apps, nodes_by_app, strict=True):
                    if any(node.id for node in nodes):
                        online.append(app)
        return dict.fromkeys(online)

    def _connections(
        self, principal: Principal, text: str, apps: Sequence[str], _limit: int
    ) -> Iterator[_Hit]:
        """The connection with this id."""
        if not principal.may(Needs.OPERATE):
            return
        info = self._live.find(text)
        if info is not None and info.app in apps:
            yield text, info.app, info.user or text, f"{info.dialect} · {info.node}"

    def _app_names(self, text: str, apps: Sequence[str]) -> list[str]:
        """The names and aliases of ``apps`` that contain the text; the name that
        is the text comes first."""
        resolve = self._core.tenants.resolve
        wanted = text.lower()
        names = [
            name
            for name in self._core.tenants.names()
            if wanted in name.lower() and resolve(name) in apps
        ]
        # False sorts before True.
        names.sort(key=lambda name: (name != text, name))
        return names

    def _channels(
        self, principal: Principal, text: str, apps: Sequence[str], limit: int
    ) -> Iterator[_Hit]:
        """Channels with subscribers whose name begins with the text.

        The detail is the number of subscribers.
        """
        if not principal.may(Needs.OPERATE):
            return
        members = self._core.channels.members
        before = _name_before(text)
        for app in apps[:_MOST_CHANNEL_APPS]:
            for row in members.channels(app, before, limit).channels:
                if row.channel.startswith(text):
                    yield row.channel, app, row.channel, str(row.members)

    def _keys(
        self, principal: Principal, text: str, _apps: Sequence[str], _limit: int
    ) -> Iterator[_Hit]:
        """Keys whose ids begin with the text, or whose notes contain it.

        A principal that reaches only some apps finds keys for these apps.
        """
        if not principal.may(Needs.OWN):
            return
        text = text.lower()
        resolve = self._core.tenants.resolve
        for row in (*self._core.keys.configured, *self._core.store.keys()):
            matches = row.id.lower().startswith(text) or text in row.note.lower()
            if matches and _reaches(principal, set(map(resolve, row.apps))):
                scopes = " ".join(row.scopes)
                yield row.id, ",".join(row.apps), row.note or row.id, scopes


def _name_before(prefix: str) -> str:
    """A name just before all names that begin with ``prefix``.

    A page begins after a name. For ``news`` the name is ``newr`` and the
    highest character.
    """
    before = prefix[:-1]
    last = ord(prefix[-1])
    if last:
        before += chr(last - 1) + "\U0010ffff"
    return before


def _reaches(principal: Principal, apps: set[str]) -> bool:
    """Whether a principal reaches all apps of a key. A key without apps is for
    all apps."""
    if principal.apps is None:
        return True
    return bool(apps) and apps <= principal.apps


def _first_hits(kind: Kind, hits: Iterable[_Hit], limit: int) -> list[HitShown]:
    """The first ``limit`` different things of a kind.

    Things with equal id and app are the same; the first of them is returned.
    """
    shown: dict[tuple[str, str], HitShown] = {}
    for id, app, label, detail in hits:
        shown.setdefault((id, app), HitShown(kind, id, app, label, detail))
        if len(shown) == limit:
            break
    return list(shown.values())


def _without_repeated_users(hits: list[HitShown]) -> list[HitShown]:
    """Leave out users who are found as accounts, too."""
    accounts = {(hit.app, hit.id) for hit in hits if hit.type == "account"}
    return [
        hit for hit in hits if hit.type != "user" or (hit.app, hit.id) not in accounts
    ]
