"""Arrangements in the database. Each method is one transaction, may switch, and raises StorageUnavailable."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from imserver.messenger.inbox.declared import HTTP_TOO_MANY_DRAFTS, HTTP_TOO_MANY_PINS, InboxSettings
from imserver.messenger.inbox.wire import NO_DRAFT, Arrange, UnsentText
from imserver.plugin.errors import ServiceRefused
from imserver.plugin.http import about
from imserver.plugin.messages import ConversationId, count_fitting
from imserver.plugin.storage import PooledStatements, Row, RowsOf, Store
from imserver.plugin.wire import Limit

_OF_USER: Final = "WHERE app = %s AND member = %s AND conversation"
_decode: Final = msgspec.json.Decoder(UnsentText).decode


Pinned = Annotated[
    int, about("The conversation with the greatest number comes first; 0: not pinned.", ge=0, le=Limit.ID)
]
Archived = Annotated[
    int,
    about(
        "The newest entry when the conversation was archived; 0: not archived. It comes back with a newer "
        "entry, unless it is muted.",
        ge=0,
        le=Limit.ID,
    ),
]
Marked = Annotated[
    int,
    about(
        "The newest entry when the conversation was marked as unread; 0: no mark. It ends when the user "
        "reads a newer entry.",
        ge=0,
        le=Limit.ID,
    ),
]


class ConversationMarks(Struct, frozen=True):
    """What a user keeps about a conversation besides its draft."""

    conversation: ConversationId
    version: Annotated[int, about("The version after its last change.")]
    pinned: Pinned
    archived: Archived
    marked: Marked


class Arrangement(ConversationMarks, frozen=True):
    """What a user keeps about a conversation."""

    draft: UnsentText | UnsetType = UNSET


_ROWS: Final = RowsOf(Arrangement, "arrangement", draft="")
_COLUMNS: Final = f"{_ROWS.columns}, draft"


class ArrangementRefused(ServiceRefused):
    """A change of a user's inbox is refused, with the problem that says why."""


class ArrangementRows(Store.Rows):
    """The arrangements in a store. Without a database there are none."""

    @Store.writing
    def change(
        self, sql: PooledStatements, app: str, user: str, change: Arrange, limits: InboxSettings
    ) -> tuple[Arrangement, bool]:
        """Change one arrangement; returns it, and whether it is another one now. Raises
        ArrangementRefused."""
        key = app, user
        version = _raise_version(sql, app, user)
        rows = sql.query(f"SELECT {_COLUMNS} FROM arrangement {_OF_USER} = %s", (*key, change.conversation))
        before = _arrangement(rows[0]) if rows else Arrangement(change.conversation, 0, 0, 0, 0)
        after = _changed(before, change)
        if after == before:
            return before, False
        if after.pinned and not before.pinned and _count(sql, key, "pinned > 0") >= limits.pins:
            raise ArrangementRefused(problem=HTTP_TOO_MANY_PINS)
        if after.draft and not before.draft and _count(sql, key, "draft <> %s", b"") >= limits.drafts:
            raise ArrangementRefused(problem=HTTP_TOO_MANY_DRAFTS)
        after = replace(after, version=version)
        draft = msgspec.json.encode(after.draft) if after.draft else b""
        values = version, after.pinned, after.archived, after.marked, draft
        if rows:
            sets = "version = %s, pinned = %s, archived = %s, marked = %s, draft = %s"
            statement = f"UPDATE arrangement SET {sets} {_OF_USER} = %s"
            sql.execute(statement, (*values, *key, change.conversation))
        else:
            sql.insert_new("arrangement", f"app, member, {_COLUMNS}", [(*key, change.conversation, *values)])
        return after, True

    def since(self, app: str, user: str, version: int, limit: int) -> tuple[list[Arrangement], bool]:
        """Arrangements that were changed after a version, in the order of their versions: as many as fit on a
        page; and whether there are more."""
        statement = (
            f"SELECT {_COLUMNS} FROM arrangement {_OF_USER} > 0 AND version > %s ORDER BY version LIMIT %s"
        )
        rows = self._store.rows(statement, (app, user, version, limit + 1))
        count = count_fitting(len(row[-1]) for row in rows[:limit])
        return list(map(_arrangement, rows[:count])), len(rows) > count


def _raise_version(sql: PooledStatements, app: str, user: str) -> int:
    """Raise the version of a user's arrangements. Locks them until the transaction ends."""
    conflict = (
        "DUPLICATE KEY UPDATE"
        if sql.engine == "mysql"
        else "CONFLICT (app, member, conversation) DO UPDATE SET"
    )
    sql.execute(
        f"INSERT INTO arrangement (app, member, {_COLUMNS}) VALUES (%s, %s, 0, 1, 0, 0, 0, %s) "
        f"ON {conflict} version = arrangement.version + 1",
        (app, user, b""),
    )
    return int(sql.query(f"SELECT version FROM arrangement {_OF_USER} = 0", (app, user))[0][0])


def _count(sql: PooledStatements, key: tuple[str, str], condition: str, *values: bytes) -> int:
    statement = f"SELECT count(*) FROM arrangement {_OF_USER} > 0 AND {condition}"
    return int(sql.query(statement, (*key, *values))[0][0])


def _changed(before: Arrangement, change: Arrange) -> Arrangement:
    """An arrangement after a change. An archived conversation is not pinned."""
    after = before
    if change.pinned is not None:
        after = replace(after, pinned=change.pinned, archived=0 if change.pinned else after.archived)
    if change.archived is not None:
        after = replace(after, archived=change.archived, pinned=0 if change.archived else after.pinned)
    if change.marked is not None:
        after = replace(after, marked=change.marked)
    if change.draft is not None:
        after = replace(after, draft=UNSET if change.draft == NO_DRAFT else change.draft)
    return after


def _arrangement(row: Row) -> Arrangement:
    content = bytes(row[-1])
    return _ROWS.read(row, draft=_decode(content) if content else UNSET)
