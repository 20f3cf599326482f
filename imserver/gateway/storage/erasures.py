"""Erasures of users: the erasures under way, and the names that replace erased
users.

The id of a user is a name, so no row keeps it after the erasure. Rows that stay
have a random name instead. A digest of app and user, made with a key of the
server, identifies the user of these rows. In a restored database, the user is
found by this digest and erased again.
"""

import hmac
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Final

import msgspec
from msgspec import Struct

from imserver.gateway.model import ERASED
from imserver.gateway.process import write_all
from imserver.gateway.storage.statements import (
    SECOND_MS,
    PooledStatements,
    RowsOf,
    text_of,
)
from imserver.gateway.storage.store import Store
from imserver.gateway.threads import synchronise

PURPOSE: Final = "erasures"
"""The purpose of the keys with which digests are made."""
LEASE_SECONDS: Final = 600
"""If no node has renewed the lease of an erasure for this time, another node
continues the erasure."""
JOURNAL: Final = "erasures.jsonl"
"""The file in the data folder with the erasures that have ended. Each line is a
JSON object."""
_OVERLAP_MS: Final = 86_400_000
"""Erasures that ended up to this long before the last erasure in a journal may
be missing in the journal. The clocks of nodes may differ, but by less than a
day."""
_NAME_BYTES: Final = 12
"""How many random bytes a name in place of a user has."""
_JOURNAL_MODE: Final = 0o600


class ErasureRow(Struct, frozen=True):
    """An erasure. ``name`` is the name that replaces the user. ``ended`` is its
    end in Unix milliseconds; 0 means that it has not ended yet."""

    digest: str
    ended: int
    app: str
    name: str


_ROWS: Final = RowsOf(ErasureRow, "erasure")


class Erasures(Store.Rows):
    """The erasures in a store: which users are being erased, and which were.

    ``keys`` returns the keys of digests. The first key makes the digests of new
    erasures. An older erasure may have a digest made with another key. Methods
    switch greenlets, and raise StorageUnavailable.
    """

    def __init__(self, store: Store, keys: Callable[[], Sequence[bytes]]) -> None:
        super().__init__(store)
        self._keys = keys

    def begin(self, app: str, user: str) -> str:
        """Begin the erasure of a user, or continue it. Returns the name that
        replaces the user.

        The lease is renewed, so that no other node continues the erasure for
        :data:`LEASE_SECONDS`.
        """
        digest = self.digests(app, user)[0]
        row = ErasureRow(digest, ended=0, app=app, name=new_name())
        return self._begin(row, user)

    @Store.writing
    def _begin(self, sql: PooledStatements, row: ErasureRow, user: str) -> str:
        """Store an erasure that has begun, or renew the lease of a stored
        erasure.

        Returns the name that replaces the user.
        """
        leased = int(time()) + LEASE_SECONDS
        values = (*_ROWS.values(row), user, leased)
        sql.insert_new("erasure", f"{_ROWS.columns}, member, leased", [values])
        sql.execute(
            "UPDATE erasure SET leased = %s WHERE digest = %s AND ended = 0",
            (leased, row.digest),
        )
        # An earlier call may have stored another name, which may be in use
        # already.
        rows = sql.query(
            "SELECT name FROM erasure WHERE digest = %s AND ended = 0", (row.digest,)
        )
        return text_of(rows[0][0])

    def repeat(self, row: ErasureRow, user: str) -> None:
        """Begin an erasure again that ended in another copy of this database.

        The user gets the same name as in the other copy.
        """
        digest = self.digests(row.app, user)[0]
        self._begin(ErasureRow(digest, ended=0, app=row.app, name=row.name), user)

    def note(self, rows: Iterable[ErasureRow]) -> None:
        """Record erasures that ended in another copy of this database.

        So they are not repeated again.
        """
        values = [(*_ROWS.values(row), "", 0) for row in rows]
        columns = f"{_ROWS.columns}, member, leased"

        def work(sql: PooledStatements) -> None:
            sql.insert_new("erasure", columns, values)

        self._store.write_or(nothing=None, work=work)

    @Store.writing
    def end(
        self, sql: PooledStatements, app: str, user: str, ended: int = 0
    ) -> ErasureRow | None:
        """Record that a user is erased, and return the row of the erasure.

        The result is None if another node has already recorded the end.
        ``ended`` is the time in Unix milliseconds; 0 means now.
        """
        digest = self.digests(app, user)[0]
        ended = ended or int(time() * SECOND_MS)
        # The row is read first. After the update, it could no longer be found
        # by its state.
        rows = sql.query(
            "SELECT name FROM erasure WHERE digest = %s AND ended = 0", (digest,)
        )
        sql.execute(
            "UPDATE erasure SET ended = %s, member = '', leased = 0 "
            "WHERE digest = %s AND ended = 0",
            (ended, digest),
        )
        if rows:
            return ErasureRow(digest, ended, app, name=text_of(rows[0][0]))
        return None

    def interrupted(self) -> list[tuple[str, str]]:
        """Return the erasures under way on which no node works, as pairs of app
        and user."""
        statement = "SELECT app, member FROM erasure WHERE ended = 0 AND leased < %s"
        rows = self._store.rows(statement, (int(time()),))
        return [(text_of(app), text_of(user)) for app, user in rows]

    def ended(self, after: int = 0) -> list[ErasureRow]:
        """Return the erasures that ended after a time, in the order of their
        ends.

        ``after`` has Unix milliseconds.
        """
        return _ROWS.find(
            self._store.rows, "WHERE ended > %s ORDER BY ended, digest", after
        )

    def digests(self, app: str, user: str) -> list[str]:
        """Return the digests of a user, one for each of the keys.

        A digest identifies the user in the row of the erasure without revealing
        the user.
        """
        app_and_user = f"{app}\0{user}".encode()
        return [hmac.digest(key, app_and_user, "sha256").hex() for key in self._keys()]

    # --- the journal ----------------------------------------------------------

    def write_journal(self, folder: Path, is_whole: bool = False) -> None:
        """Add the erasures that have ended to the journal in a folder.

        The journal is a file outside the database. From it, a restored database
        learns of these erasures. ``is_whole`` also adds missing erasures that
        ended long before the last erasure in the journal. Raises OSError.
        """
        written = read_journal(folder / JOURNAL)
        written_names = {row.name for row in written}
        last_ended = 0
        if not is_whole:
            last_ended = max((row.ended for row in written), default=0)

        # The clocks of nodes differ, so a missing erasure may have ended a
        # little before the last erasure in the journal.
        ended = self.ended(last_ended - _OVERLAP_MS)
        new = [row for row in ended if row.name not in written_names]
        if new:
            add_to_journal(folder / JOURNAL, new)


def read_journal(file: Path) -> list[ErasureRow]:
    """Return the erasures in a journal; the list is empty if the file does not
    exist.

    A line that was cut off is left out. Raises OSError.
    """
    if not file.exists():
        return []
    rows = []
    for line in file.read_bytes().splitlines():
        # A crash may have cut off a line.
        with suppress(msgspec.MsgspecError):
            rows.append(msgspec.json.decode(line, type=ErasureRow))
    return rows


def add_to_journal(file: Path, rows: Sequence[ErasureRow]) -> None:
    """Append erasures to a journal. Raises OSError."""
    # Each line begins with a line break, which also ends a line that was cut
    # off by a crash.
    lines = b"".join(b"\n" + msgspec.json.encode(row) for row in rows)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(file, flags, _JOURNAL_MODE)
    try:
        write_all(descriptor, lines)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    synchronise(file.parent)  # the file may be new in the folder


def new_name() -> str:
    """A name that replaces a user. Nobody can tell from it who the user was."""
    return ERASED + token_hex(_NAME_BYTES)
