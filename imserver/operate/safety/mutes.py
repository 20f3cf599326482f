"""Mutes in whole apps. They are stored in the database, and every node knows
them."""

from typing import Final

from msgspec import Struct

from imserver.plugin.services import Core
from imserver.plugin.storage import PooledStatements, RowsOf, Store


class Muted(Struct, frozen=True, array_like=True, tag="safety.muted"):
    """The mute of a user in a whole app, also as a node message.

    It ends at ``until`` (Unix seconds). A time in the past lets the user send.
    """

    app: str
    user: str
    until: int
    reason: str


_ROWS: Final = RowsOf(Muted, "mute", user="member")
_ENDED_SECONDS: Final = 86_400
"""How long an ended mute is kept."""
_COMMIT_SECONDS: Final = 60
"""How late a transaction may be committed."""


class MuteRows(Store.Rows):
    """The mutes in a store.

    Each method is one transaction, may switch greenlets, and raises
    StorageUnavailable. Times come from the clock of the database, because the
    clocks of nodes differ.
    """

    @Store.writing
    def mute(
        self, sql: PooledStatements, app: str, user: str, seconds: int, reason: str
    ) -> Muted:
        """Store a mute in place of an earlier one.

        With 0 seconds, the new mute has ended already. It is stored all the
        same, because other nodes read only rows that exist.
        """
        now = int(sql.query(f"SELECT {sql.now}")[0][0])
        if seconds > 0:
            until = now + seconds
        else:
            until = now - 1
        mute = Muted(app, user, until, reason)
        sql.execute("DELETE FROM mute WHERE app = %s AND member = %s", (app, user))
        row = (*_ROWS.values(mute), now)
        sql.insert_new("mute", f"{_ROWS.columns}, changed", [row])
        return mute

    @Store.reading_or(([], 0))
    def changed(self, sql: PooledStatements, since: int) -> tuple[list[Muted], int]:
        """The mutes that were changed since a time, and the time at which they
        were read.

        Both times are Unix seconds; ``since`` 0 means all mutes.
        """
        now = int(sql.query(f"SELECT {sql.now}")[0][0])
        return _ROWS.find(sql.query, "WHERE changed >= %s", since), now

    @Store.writing_or(0)
    def forget(self, sql: PooledStatements, seconds: int = _ENDED_SECONDS) -> int:
        """Delete mutes that ended at least this many seconds ago."""
        return sql.execute(f"DELETE FROM mute WHERE until < {sql.now} - %s", (seconds,))


class Mutes:
    """Keeps the mutes that this node applies as they are in the database.

    A mute of another node comes as a node message at once, and again with the
    next :meth:`load`, because messages between nodes can be lost.
    """

    def __init__(self, core: Core) -> None:
        """Take mutes of other nodes by node messages, if there are other nodes."""
        self.rows = MuteRows(core.store)
        self._users = core.mutes
        self._node_messages = core.node_messages
        self._read_until = 0
        """The Unix second up to which this node has read all changes."""
        if self._node_messages is not None:
            self._node_messages.handle({Muted: self._learn})

    def mute(self, app: str, user: str, seconds: float, reason: str) -> int:
        """Mute a user on all nodes, and return the end in Unix seconds.

        With 0 seconds, let the user send again. Switches greenlets. Raises
        StorageUnavailable.
        """
        row = self.rows.mute(app, user, int(seconds), reason)
        self._learn(row)
        if self._node_messages is not None:
            self._node_messages.broadcast(row)
        return row.until

    def _learn(self, mute: Muted) -> None:
        """Apply a mute on this node."""
        self._users.mute(mute.app, mute.user, mute.until, mute.reason)

    def load(self) -> None:
        """Read the changes since the last call, and apply them.

        Switches greenlets. Raises StorageUnavailable.
        """
        rows, now = self.rows.changed(self._read_until)
        for row in rows:
            self._learn(row)
        # A transaction may be committed some time after it has set the second
        # of its change. So the changes of the last seconds are read again.
        self._read_until = max(now - _COMMIT_SECONDS, 0)
