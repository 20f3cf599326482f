"""The hub: the online users of this node by app, and the login policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import time
from typing import Any, Final

from msgspec import Struct, field

from imserver.gateway.model import SYSTEM_PREFIX, Event, Service
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.states import (
    ATTACH,
    CLOSING,
    CONNECTION_TRANSITIONS,
    FORGET,
    JOIN,
    LEAVE,
    ConnectionEvent,
)

USER_CHANNEL: Final = "user:"
"""The beginning of the name of a user's channel. The user id follows."""
RESERVED: Final = (USER_CHANNEL, "group:")
"""The beginnings of the names of channels of users and of groups. Their
publications reach the sessions of the user, or of the members of the group,
without a subscription. Only these users and members may subscribe to them."""


_TIME_STEP_SECONDS: Final = 0.000_002
"""The smallest difference between the join times of two members of channels on
this node."""


class App(Struct, eq=False):
    """The online users of one app. The hub owns it.

    ``users`` is user → the addressed session, or a list of several addressed
    sessions. An *addressed* session receives pushes to its user. Nearly all
    users have one session. It is stored without a list, because a list would
    take 64 bytes for each user. Only sessions in service are included.
    """

    name: str
    policy: str
    is_registered: bool = True
    """False for an app that exists only while somebody is connected."""
    quiet: bool = False
    """True if no enter and exit notices are sent. Apps of systems never have
    such notices. In other apps, a feature may decide who sees the presence of
    users."""
    users: dict[str, Connection | list[Connection]] = field(default_factory=dict)
    memberships: int = 0
    """Number of subscriptions to channels of the app on this node."""
    elsewhere: int = 0
    """Number of users on other nodes, by the leases of these nodes. After a
    notice that the leases do not include yet, the number is the number in the
    notices."""
    lag: int = 0
    """Seconds until the leases include the last notice."""
    several: int = 0
    """Number of users with several sessions."""
    notices: list[Event] = field(default_factory=list)
    """Enter and exit notices of this turn that are not in the outboxes yet."""
    newcomers: dict[Connection, int] = field(default_factory=dict)
    """Sessions that began while notices wait → number of these notices that
    they do not receive."""
    channels: dict[str, LocalChannel] = field(default_factory=dict)
    """Channels with members on this node."""
    own_channels: dict[str, LocalChannel] = field(default_factory=dict)
    """The channels of users and groups (:data:`RESERVED`) with members on this
    node. In most apps it is empty, so that a push to a user need not look for
    subscribers."""
    user_counts: dict[LocalChannel, int] = field(default_factory=dict)
    """Cache: channel → number of its users. An entry is dropped when the
    members of the channel, or their users, change."""

    def __post_init__(self) -> None:
        """Leave out notices in apps of systems."""
        self.quiet = self.name.startswith(SYSTEM_PREFIX)

    def sessions_of(self, user: str) -> tuple[Connection, ...]:
        """Return the addressed sessions of a user, oldest first."""
        entry = self.users.get(user)
        if entry is None:
            return ()
        if type(entry) is list:
            return tuple(entry)
        return (entry,)  # type: ignore[return-value]


class Hub:
    """All apps of this node, with their users.

    It owns the session fields of connections: app, user and device.
    """

    def __init__(
        self, policies: Mapping[str, str], connections: set[Connection]
    ) -> None:
        """Begin with the configured apps.

        ``policies`` is app → its login policy. ``connections`` are all
        connections of the node, which others add and remove.
        """
        self.apps = {name: App(name, policy) for name, policy in policies.items()}
        """Apps by name. Only the hub changes it."""
        self._connections = connections
        self._on_forgotten: list[Callable[[Connection], object]] = []
        self.now = int(time())
        """The current Unix second, set by the node. All logins of a second
        share this object."""

    def report_to(self, forgotten: Callable[[Connection], object]) -> None:
        """Call a function with each session that is no longer addressed.

        The connection of the session may stay open. The function must not
        switch greenlets. The hub calls the newest function first, because it
        belongs to a service that uses earlier services.
        """
        self._on_forgotten.insert(0, forgotten)

    def _report_forgotten(self, connection: Connection) -> None:
        """Report a session that is no longer addressed."""
        for listener in self._on_forgotten:
            listener(connection)

    def open(self, name: str, policy: str, is_registered: bool = True) -> App:
        """Return the app of this name. If there is no such app, make it.

        If ``is_registered`` is False, the new app ends with its last user,
        unless it is registered before. ``policy`` is the login policy of a new
        app.
        """
        app = self.apps.get(name)
        if app is None:
            app = App(name, policy, is_registered)
            self.apps[name] = app
        elif is_registered:
            app.is_registered = True
        return app

    def set_policy(self, name: str, policy: str, quiet: bool = False) -> None:
        """Set the policy for future logins.

        With ``quiet``, enter and exit notices are not sent.
        """
        app = self.apps[name]
        app.policy = policy
        app.quiet = quiet or name.startswith(SYSTEM_PREFIX)

    def retire(self, name: str) -> list[Connection]:
        """Make a deleted app end when its last user has gone.

        Returns the connections of its users.
        """
        app = self.apps.get(name)
        if app is None:
            return []
        app.is_registered = False
        self.close_unregistered(name)
        return [
            connection for connection in self._connections if connection.app == name
        ]

    def close_unregistered(self, name: str) -> None:
        """Remove an app if it is not registered, and nobody uses it.

        An app that nobody uses has neither users nor members of channels.
        """
        app = self.apps.get(name)
        if app is None or app.is_registered:
            return
        if not app.users and not app.channels:
            del self.apps[name]

    def registered(self) -> Iterator[App]:
        """Iterate over all registered apps. Do not switch greenlets during the
        iteration."""
        return (app for app in self.apps.values() if app.is_registered)

    def connections(self) -> set[Connection]:
        """Return all connections of this node, with or without a login.

        The result is the set of the node itself. Do not change it. Copy it if
        you switch greenlets while you use it.
        """
        return self._connections

    def sessions(self) -> Iterator[Connection]:
        """Iterate over the addressed sessions of all apps."""
        for app in self.apps.values():
            for user in app.users:
                yield from app.sessions_of(user)

    def sessions_of(self, app: str, user: str) -> tuple[Connection, ...]:
        """Return the addressed sessions of a user of an app, oldest first."""
        hub_app = self.apps.get(app)
        if hub_app is None:
            return ()
        return hub_app.sessions_of(user)

    def user_names(self, app: str) -> list[str]:
        """List the users of an app who are online on this node.

        The list is empty for an unknown app.
        """
        hub_app = self.apps.get(app)
        if hub_app is not None:
            return list(hub_app.users)
        return []

    def channel(self, app: str, name: str) -> LocalChannel | None:
        """Return a channel of an app, or None if the channel has no members on
        this node."""
        hub_app = self.apps.get(app)
        if hub_app is None:
            return None
        return hub_app.channels.get(name)

    def member_count(self, app: str, channel: str) -> int:
        """Count the connections of this node in a channel."""
        local = self.channel(app, channel)
        if local is None:
            return 0
        return len(local.members)

    def is_online(self, app: str, user: str) -> bool:
        """Tell whether a user has a session on this node."""
        hub_app = self.apps.get(app)
        return hub_app is not None and user in hub_app.users

    def attach(self, app: App, connection: Connection, user: str, device: str) -> None:
        """Make a connection a session that gets no pushes to its user.

        The server answers the requests of the session.
        """
        self._begin(app, connection, user, device, ATTACH)

    def _begin(
        self,
        app: App,
        connection: Connection,
        user: str,
        device: str,
        event: ConnectionEvent,
    ) -> None:
        """Set the session fields of a connection.

        ``event`` is JOIN for an addressed session. Otherwise it is ATTACH.
        """
        connection.state = CONNECTION_TRANSITIONS[connection.state][event]
        connection.app = app.name
        connection.user = user
        connection.device = device
        # The channels of the connection have another user now.
        if app.user_counts:
            for channel in connection.channels:
                app.user_counts.pop(channel, None)
        connection.since = self.now

    def forget(self, connection: Connection) -> None:
        """Stop addressing a session.

        The server still answers the requests of the session. When the session
        ends later, its user does not go offline.
        """
        self.leave(connection)
        connection.state = CONNECTION_TRANSITIONS[connection.state][FORGET]
        self._report_forgotten(connection)

    def detach(self, connection: Connection) -> bool:
        """End a session but keep its connection.

        Returns whether the user is offline now, because this was the user's
        last session.
        """
        went_offline = self.leave(connection)
        # The listeners are called before the fields are cleared, because they
        # read the user of the session.
        self._report_forgotten(connection)
        connection.state = CONNECTION_TRANSITIONS[connection.state][LEAVE]
        connection.app = None
        connection.user = None
        connection.device = ""
        connection.since = 0
        return went_offline

    def join(self, app: App, connection: Connection, user: str, device: str) -> None:
        """Make a connection an addressed session of a user.

        Under the policy ``newest`` the other sessions of the user are no longer
        addressed.
        """
        self._begin(app, connection, user, device, JOIN)
        # The notices that already wait are not for the new session.
        if app.notices:
            app.newcomers[connection] = len(app.notices)

        entry = app.users.get(user)
        if entry is None:
            app.users[user] = connection
        elif app.policy == "newest":
            app.users[user] = connection
            if isinstance(entry, list):
                app.several -= 1
                replaced = entry
            else:
                replaced = [entry]
            for older in replaced:
                if older is not connection:
                    older.state = CONNECTION_TRANSITIONS[older.state][FORGET]
                    self._report_forgotten(older)
        elif isinstance(entry, list):
            entry.append(connection)
        else:
            app.users[user] = [entry, connection]
            app.several += 1

    def leave(self, connection: Connection) -> bool:
        """Remove a session from the addressed sessions of its user.

        Returns whether the user is offline now, because this was the user's
        last session.
        """
        if connection.app is None or connection.user is None:
            return False
        app = self.apps.get(connection.app)
        user = connection.user
        if app is None:
            return False

        app.newcomers.pop(connection, None)
        entry = app.users.get(user)
        if entry is connection:
            del app.users[user]
            return True
        if isinstance(entry, list) and connection in entry:
            entry.remove(connection)
            # A single session is stored without a list, which saves memory.
            if len(entry) == 1:
                app.users[user] = entry[0]
                app.several -= 1
        return False


class ChannelPosition(Struct, eq=False):
    """The position up to which this node has delivered a channel with history.
    ``OrderedDelivery`` owns it.

    ``offset`` is the offset of the last delivered publication, in the epoch
    ``epoch`` of the history. -1 means that the offset is not known yet.

    ``early`` is offset → a publication that arrived before a publication with a
    lower offset.

    ``waiting`` is a new member that must not receive all publications → the
    publications that the member receives later, or the last offset that the
    member has.

    ``deltas`` is a member that reads deltas → the offset of the last
    publication that the member has received. 0 means that the member has not
    received any publication. ``deltas`` is None if no member reads deltas.
    ``last`` is the last delivered publication, if a member reads deltas.

    ``before`` is the previous epoch and the offset in it, because publications
    of that epoch may come late.
    """

    epoch: str = ""
    offset: int = -1
    early: dict[int, Any] = field(default_factory=dict)
    waiting: dict[Connection, list[Event] | int] = field(default_factory=dict)
    deltas: dict[Connection, int] | None = None
    last: Event | None = None
    before: tuple[str, int] = "", 0
    filling: bool = False
    """Whether a greenlet reads the missing publications from the history."""

    def forget(self, connection: Connection) -> None:
        """Forget a member that has left."""
        self.waiting.pop(connection, None)
        if self.deltas is not None:
            self.deltas.pop(connection, None)
            if not self.deltas:
                self.deltas = None
                self.last = None


class LocalChannel(Struct, eq=False):
    """A channel with members on this node.

    ``members`` is connection → Unix time of joining, in the order of these
    times, which are all different. ``position`` is None if the channel has no
    history. :class:`ChannelMembership` owns it.
    """

    app: App
    name: str
    members: dict[Connection, float] = field(default_factory=dict)
    position: ChannelPosition | None = None


class ChannelMembership(Service):
    """The channels of this node and their members. Never switches greenlets.

    It owns ``App.channels``, ``App.own_channels`` and ``Connection.channels``.
    ``Connection.channels`` is a tuple, because a dict of three channels would
    take 140 bytes more.
    """

    channels: int = 0
    """Number of channels in all apps."""
    members: int = 0
    """Number of memberships."""
    _last: float = 0.0
    """Unix time of the last join."""

    def join(self, app: App, name: str, connection: Connection) -> LocalChannel | None:
        """Add a connection to a channel.

        Returns the channel. Returns None if the connection is a member already.
        Also returns None if the connection is closing, or has no session in the
        app.
        """
        if connection.state >= CLOSING or connection.app != app.name:
            return None
        channel = app.channels.get(name)
        if channel is None:
            channel = LocalChannel(app, name)
            app.channels[name] = channel
            if name.startswith(RESERVED):
                app.own_channels[name] = channel
            self.channels += 1
        elif connection in channel.members:
            return None

        if app.user_counts:
            app.user_counts.pop(channel, None)
        # No two members of a node have the same join time.
        self._last = max(time(), self._last + _TIME_STEP_SECONDS)
        channel.members[connection] = self._last
        self.members += 1
        app.memberships += 1
        connection.channels += (channel,)
        return channel

    def leave(self, app: App, name: str, connection: Connection) -> bool:
        """Remove a connection from a channel. Returns whether it was a
        member."""
        channel = app.channels.get(name)
        if channel is None or connection not in channel.members:
            return False
        # tuple() of a list is faster than of a generator.
        others = [other for other in connection.channels if other is not channel]
        connection.channels = tuple(others)
        self._take_out(channel, connection)
        return True

    def leave_all(self, connection: Connection) -> tuple[LocalChannel, ...]:
        """Remove a connection from all its channels.

        Returns the channels in the order of joining.
        """
        channels: tuple[LocalChannel, ...] = connection.channels
        connection.channels = ()
        for channel in channels:
            self._take_out(channel, connection)
        return channels

    def users_of(self, channel: LocalChannel) -> int:
        """Count the users among the members.

        All members without a user count as one user.
        """
        counts = channel.app.user_counts
        count = counts.get(channel)
        if count is None:
            count = len({connection.user for connection in channel.members})
            counts[channel] = count
        return count

    def _take_out(self, channel: LocalChannel, connection: Connection) -> None:
        """Remove a connection from the members of a channel.

        A channel without members is forgotten.
        """
        # The number of users may have changed.
        if channel.app.user_counts:
            channel.app.user_counts.pop(channel, None)
        del channel.members[connection]
        if channel.position is not None:
            channel.position.forget(connection)
        self.members -= 1
        channel.app.memberships -= 1
        if not channel.members:
            del channel.app.channels[channel.name]
            channel.app.own_channels.pop(channel.name, None)
            self.channels -= 1
