"""Erasures of users: which are under way, and under which names what stays of
users stands.

The id of a user is a name, so no row keeps it after the erasure. What stays has
a random name instead; a digest of app and user, by a key of the server, says
whose it was. A restored database needs it: there the user is erased again.
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
from imserver.gateway.storage.statements import PooledStatements, RowsOf, text_of
from imserver.gateway.storage.store import Store
from imserver.gateway.threads import synchronise

PURPOSE: Final = "erasures"
"""Of the keys that digests are made with."""
LEASE_SECONDS: Final = 600
"""Another node goes on with an erasure that nobody has renewed for so long."""
JOURNAL: Final = "erasures.jsonl"
"""The file in the data folder with the erasures that have ended, one JSON
object a line."""


class ErasureRow(Struct, frozen=True):
    """An erasure. ``name``: what stands in place of the user. ``ended``: Unix
    milliseconds; 0: it is under way."""

    digest: str
    ended: int
    app: str
    name: str


_ROWS: Final = RowsOf(ErasureRow, "erasure")


class Erasures(Store.Rows):
    """The erasures in a store. ``keys``: the first one digests, all of them are
    tried. Methods switch, and raise StorageUnavailable."""

    def __init__(self, store: Store, keys: Callable[[], Sequence[bytes]]) -> None:
        super().__init__(store)
        self._keys = keys

    def begin(self, app: str, user: str) -> str:
        """Begin the erasure of a user, or go on with it. Returns the name in
        place of the user.

        The lease is renewed: nobody else goes on with it for
        :data:`LEASE_SECONDS`.
        """
        return self._begin(
            ErasureRow(self.digests(app, user)[0], 0, app, new_name()), user
        )

    @Store.writing
    def _begin(self, sql: PooledStatements, row: ErasureRow, user: str) -> str:
        until = int(time()) + LEASE_SECONDS
        new = (*_ROWS.values(row), user, until)
        sql.insert_new("erasure", f"{_ROWS.columns}, member, leased", [new])
        sql.execute(
            "UPDATE erasure SET leased = %s WHERE digest = %s AND ended = 0",
            (until, row.digest),
        )
        (name,) = sql.query(
            "SELECT name FROM erasure WHERE digest = %s AND ended = 0", (row.digest,)
        )[0]
        return text_of(name)

    def repeat(self, row: ErasureRow, user: str) -> None:
        """Begin an erasure anew that ended in another copy of this database:
        the name is the same."""
        self._begin(
            ErasureRow(self.digests(row.app, user)[0], 0, row.app, row.name), user
        )

    def note(self, rows: Iterable[ErasureRow]) -> None:
        """Note erasures that ended in another copy of this database: they are
        not repeated again."""
        new = [(*_ROWS.values(row), "", 0) for row in rows]
        columns = f"{_ROWS.columns}, member, leased"
        self._store.write_or(None, lambda sql: sql.insert_new("erasure", columns, new))

    @Store.writing
    def end(
        self, sql: PooledStatements, app: str, user: str, ended: int = 0
    ) -> ErasureRow | None:
        """The user is erased. ``ended`` 0: now. None: another node has ended
        it."""
        digest = self.digests(app, user)[0]
        now = ended or int(time() * 1000)
        rows = sql.query(
            "SELECT name FROM erasure WHERE digest = %s AND ended = 0", (digest,)
        )
        statement = "UPDATE erasure SET ended = %s, member = '', leased = 0 WHERE digest = %s AND ended = 0"
        sql.execute(statement, (now, digest))
        if rows:
            return ErasureRow(digest, now, app, text_of(rows[0][0]))
        return None

    def interrupted(self) -> list[tuple[str, str]]:
        """The erasures (app, user) under way on which no node works."""
        statement = "SELECT app, member FROM erasure WHERE ended = 0 AND leased < %s"
        rows = self._store.rows(statement, (int(time()),))
        return [(text_of(app), text_of(user)) for app, user in rows]

    def ended(self, after: int = 0) -> list[ErasureRow]:
        """The erasures that ended after a time, in Unix milliseconds, the first
        one first."""
        return _ROWS.find(
            self._store.rows, "WHERE ended > %s ORDER BY ended, digest", after
        )

    def digests(self, app: str, user: str) -> list[str]:
        """What an erasure of a user has instead of the user, by each of the
        keys."""
        whole = f"{app}\0{user}".encode()
        return [hmac.digest(key, whole, "sha256").hex() for key in self._keys()]

    # --- the journal ----------------------------------------------------------

    def write_journal(self, folder: Path, is_whole: bool = False) -> None:
        """Add what has ended to a folder's journal; ``is_whole``: also of long
        before it. Raises OSError."""
        known = read_journal(folder / JOURNAL)
        if is_whole:
            last = 0
        else:
            last = max((row.ended for row in known), default=0)
        names = {row.name for row in known}
        # The clocks of nodes differ by less.
        new = [row for row in self.ended(last - 86_400_000) if row.name not in names]
        if new:
            add_to_journal(folder / JOURNAL, new)


def read_journal(file: Path) -> list[ErasureRow]:
    """The erasures in a journal. A line that was cut off is left out. Raises
    OSError."""
    rows = []
    for line in file.read_bytes().splitlines() if file.exists() else ():
        with suppress(msgspec.MsgspecError):
            rows.append(msgspec.json.decode(line, type=ErasureRow))
    return rows


def add_to_journal(file: Path, rows: Sequence[ErasureRow]) -> None:
    """Write erasures behind those of a journal. Raises OSError."""
    lines = b"".join(b"\n" + msgspec.json.encode(row) for row in rows)
    descriptor = os.open(
        file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        write_all(descriptor, lines)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    synchronise(file.parent)  # it may be new


def new_name() -> str:
    """A name in place of a user: nobody can tell from it whose it was."""
    return ERASED + token_hex(12)
