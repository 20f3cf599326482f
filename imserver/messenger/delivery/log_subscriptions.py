"""Log subscriptions: which connections of this node follow the log, and their
groups.

The memberships of a user are read once, when a connection begins to follow the
log. From then on the entries of joining and leaving keep the followers of
groups up to date. So a message to a group costs no query per member.
"""

from collections.abc import Callable, Iterable

from msgspec import field

from imserver.gateway.model import Backlog, LogSubscription
from imserver.gateway.transport.connection import Connection
from imserver.messenger.log.contract import Membership
from imserver.messenger.log.model import Message
from imserver.plugin.runtime import Service


class PendingLogSubscription(LogSubscription):
    """The log subscription of a session that has logged in with a cursor while
    the log was unavailable. The session receives nothing until its client asks
    for a sync. Until then the results of its drafts wait, too. ``acks``:
    whether the client acknowledges entries."""

    acks: bool = False


def acks_in(backlog: Backlog) -> tuple[Callable[[], None], ...]:
    """Return the acknowledgements in a backlog, without the messages."""
    return tuple([each for each in backlog if not isinstance(each, Message)])


def hold_ack(backlog: Backlog | None, ack: Callable[[], None]) -> Backlog:
    """Return a backlog with one more acknowledgement.

    If the backlog is a list, the list itself is changed. If it is a tuple,
    which has only acknowledgements, a new tuple is returned.
    """
    if isinstance(backlog, list):
        backlog.append(ack)
        return backlog
    return (*(backlog or ()), ack)


def groups_at(rows: Iterable[Membership], position: int) -> list[tuple[int, bool]]:
    """Return the groups of these memberships that count at a log position.

    In these groups the user may read the entry after ``position``. Each item of
    the result is (group, whether the user is a bot in the group).
    """
    return [
        (row.conversation, row.bot)
        for row in rows
        if row.kind_of_conversation == "group"
        and row.joined_id <= position
        and (row.left_id is None or row.left_id > position)
    ]


class GroupFollowers(Service):
    """The subscribed members of groups on this node: (app, group) →
    connections.

    Never switches greenlets.
    """

    _groups: dict[tuple[str, int], dict[Connection, None]] = field(default_factory=dict)
    bots: dict[tuple[str, int], set[Connection]] = field(default_factory=dict)
    """(app, group) → the connections of bots, which do not receive all entries.
    Read-only outside this class."""

    def members(self, app: str, conversation: int) -> dict[Connection, None]:
        """Return the subscribed connections of the members of a group.

        Do not change the result.
        """
        return self._groups.get((app, conversation), {})

    def enter(
        self, app: str, connection: Connection, conversation: int, bot: bool = False
    ) -> None:
        """Note that the user of a subscribed connection is a member of a
        group."""
        if bot:
            self.bots.setdefault((app, conversation), set()).add(connection)
        log_subscription = connection.log_subscription
        assert log_subscription is not None
        if conversation not in log_subscription.groups:
            log_subscription.groups += (conversation,)
            self._groups.setdefault((app, conversation), {})[connection] = None

    def leave(self, app: str, connection: Connection, conversation: int) -> None:
        """Note that the user of a subscribed connection has left a group."""
        log_subscription = connection.log_subscription
        assert log_subscription is not None
        if conversation in log_subscription.groups:
            log_subscription.groups = tuple(
                [each for each in log_subscription.groups if each != conversation]
            )
            self._remove(app, connection, conversation)

    def leave_all(self, app: str, connection: Connection) -> None:
        """Forget a connection whose log subscription ends."""
        log_subscription = connection.log_subscription
        assert log_subscription is not None
        for conversation in log_subscription.groups:
            self._remove(app, connection, conversation)
        log_subscription.groups = ()

    def _remove(self, app: str, connection: Connection, conversation: int) -> None:
        """Remove a connection from the followers of a group."""
        members = self._groups.get((app, conversation))
        if members is not None:
            members.pop(connection, None)
            # A group without followers is forgotten, to save memory.
            if not members:
                del self._groups[app, conversation]
        bots = self.bots.get((app, conversation))
        if bots is not None:
            bots.discard(connection)
            if not bots:
                del self.bots[app, conversation]


class LogSubscriptions(Service):
    """Counts the log subscriptions, and owns the followers of groups and the
    queries for memberships. Only :meth:`read_memberships` switches
    greenlets."""

    followers: GroupFollowers = field(default_factory=GroupFollowers)
    by_app: dict[str, int] = field(default_factory=dict)
    """App → the number of its connections that follow the log, or are about to
    follow it."""
    acking: int = 0
    """The number of log subscriptions whose clients acknowledge entries."""
    ahead: dict[str, dict[Connection, int]] = field(default_factory=dict)
    """App → the connections whose clients have entries that this node has not
    delivered yet, each with the id up to which its client has all entries."""
    reads: dict[tuple[str, str], list[list[int]]] = field(default_factory=dict)
    """(app, user) → the queries for memberships that are under way. Each query
    is a list with one item: the number of changes since the query began."""

    def add(self, app: str) -> None:
        """Note that a connection of an app is about to follow its log."""
        self.by_app[app] = self.by_app.get(app, 0) + 1

    def remove(self, app: str) -> bool:
        """Note that a connection no longer follows the log of its app.

        Returns whether the connection was the last of its app.
        """
        count = self.by_app[app] - 1
        if count:
            self.by_app[app] = count
            return False
        del self.by_app[app]
        return True

    def is_ahead(self, app: str, connection: Connection, id: int) -> None:
        """Note that the client of a connection is ahead of this node.

        The client has everything up to an id, for example from another node.
        This node has not delivered the entry with this id yet.
        """
        self.ahead.setdefault(app, {})[connection] = id

    def has_caught_up(self, app: str, connection: Connection) -> None:
        """Note that the client of a connection is no longer ahead of this node.

        The node has delivered the entries that the client had, or the
        connection has ended.
        """
        ahead = self.ahead.get(app, {})
        if ahead.pop(connection, 0) and not ahead:
            del self.ahead[app]

    def memberships_changed(self, app: str, user: str) -> None:
        """Note that an entry was delivered that changes a user's memberships.

        If queries for these memberships are under way, they are repeated.
        """
        for changes in self.reads.get((app, user), ()):
            changes[0] += 1

    def read_memberships(
        self, memberships: Callable[[str, str], list[Membership]], app: str, user: str
    ) -> list[Membership]:
        """Read a user's memberships as of the log position. Switches greenlets.

        The memberships are read again if a change was delivered meanwhile.
        Raises the errors of ``memberships``.
        """
        # memberships_changed() increases the only item of this list.
        changes = [0]
        queries = self.reads.setdefault((app, user), [])
        queries.append(changes)
        try:
            while True:
                before = changes[0]
                rows = memberships(app, user)
                if changes[0] == before:
                    return rows
        finally:
            # The list is removed by its identity, because other queries may
            # have an equal count.
            queries[:] = [each for each in queries if each is not changes]
            if not queries:
                del self.reads[app, user]
