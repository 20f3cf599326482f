"""Arrangements in the database. Each method is one transaction, may switch
greenlets, and raises StorageUnavailable."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from imserver.messenger.inbox.declared import (
    HTTP_TOO_MANY_DRAFTS,
    HTTP_TOO_MANY_PINS,
    InboxSettings,
)
from imserver.messenger.inbox.wire import (
    NO_DRAFT,
    Arrange,
    Folder,
    FolderIds,
    UnsentText,
)
from imserver.plugin.errors import ServiceRefused
from imserver.plugin.http import about
from imserver.plugin.messages import ConversationId, count_fitting
from imserver.plugin.storage import PooledStatements, Row, RowsOf, Store
from imserver.plugin.wire import Limit

_OF_USER: Final = "WHERE app = %s AND member = %s AND conversation"


Pinned = Annotated[
    int,
    about(
        "The rank of the pinned conversation. The highest number comes first; 0: not "
        "pinned.",
        ge=0,
        le=Limit.ID,
    ),
]
Archived = Annotated[
    int,
    about(
        "The newest entry at the time of archiving; 0: not archived. The conversation "
        "leaves the archive with a newer entry, unless it is muted.",
        ge=0,
        le=Limit.ID,
    ),
]
Marked = Annotated[
    int,
    about(
        "The newest entry at the time of marking the conversation as unread; 0: no "
        "mark. The mark ends when the user reads a newer entry.",
        ge=0,
        le=Limit.ID,
    ),
]


class ConversationMarks(Struct, frozen=True):
    """The arrangement of a conversation by a user, without the draft."""

    conversation: ConversationId
    version: Annotated[int, about("The version after the last change of this entry.")]
    pinned: Pinned
    archived: Archived
    marked: Marked


class Arrangement(ConversationMarks, frozen=True):
    """The arrangement of a conversation by a user."""

    draft: UnsentText | UnsetType = UNSET
    folders: FolderIds | UnsetType = UNSET


class FolderList(Struct, frozen=True):
    """The folders of a user, in their order. ``version``: the version of the
    user's arrangements after the last change of the list."""

    version: int = 0
    folders: tuple[Folder, ...] = ()


class ArrangementPage(Struct, rename="camel", omit_defaults=True):
    """Arrangements in the order of their versions. ``version``: where the next
    page continues. ``folders``: the list, if it was changed after the version
    at which this page begins."""

    arrangements: list[Arrangement]
    version: int
    has_more: bool
    folders: FolderList | None = None


_ROWS: Final = RowsOf(Arrangement, "arrangement", draft="", folders="")
_COLUMNS: Final = f"{_ROWS.columns}, draft, folders"
_SETS: Final = (
    "version = %s, pinned = %s, archived = %s, marked = %s, draft = %s, folders = %s"
)


class ArrangementRefused(ServiceRefused):
    """A change of a user's inbox is refused. The problem has the reason."""


class ArrangementRows(Store.Rows):
    """The arrangements in the database.

    Each change raises the *version* of the user's arrangements. A client asks
    for the changes after the version that it knows. The row of conversation 0
    has the version and the folders of the user.
    """

    @Store.writing
    def change(
        self,
        sql: PooledStatements,
        app: str,
        user: str,
        change: Arrange,
        limits: InboxSettings,
    ) -> tuple[Arrangement, bool]:
        """Change one arrangement.

        Returns the arrangement, and whether it has changed. Raises
        ArrangementRefused if the user would have too many pins or drafts.
        """
        key = (app, user)
        # This comes first, because it locks the user's rows.
        version = _raise_version(sql, app, user)
        stored = _read(sql, key, change.conversation)
        before = stored or Arrangement(
            change.conversation, version=0, pinned=0, archived=0, marked=0
        )
        after = _changed(before, change)
        if after == before:
            return before, False

        _check_limits(sql, key, before, after, limits)
        after = replace(after, version=version)
        _write(sql, key, after, is_new=stored is None)
        return after, True

    @Store.writing
    def set_folders(
        self, sql: PooledStatements, app: str, user: str, folders: tuple[Folder, ...]
    ) -> tuple[FolderList, bool]:
        """Replace all folders of a user.

        Returns the list, and whether it has changed.
        """
        # The row of conversation 0 has the version and the folders of the user.
        version = _raise_version(sql, app, user)
        ((stored,),) = sql.query(
            f"SELECT folders FROM arrangement {_OF_USER} = 0", (app, user)
        )
        before = _folder_list(stored)
        if before.folders == folders:
            return before, False
        after = FolderList(version, folders)
        statement = f"UPDATE arrangement SET folders = %s {_OF_USER} = 0"
        sql.execute(statement, (msgspec.json.encode(after), app, user))
        return after, True

    def since(self, app: str, user: str, version: int, limit: int) -> ArrangementPage:
        """Return a page of the changes after a version, in the order of the
        versions.

        The page has at most ``limit`` conversations. If the list of folders has
        changed, the page has it, too.
        """
        # The row of conversation 0 has the folders. It is read together with
        # the other rows, so that no change happens in between. One more row is
        # read, to know whether there is a next page.
        statement = (
            f"SELECT {_COLUMNS} FROM arrangement WHERE app = %s AND member = %s "
            "AND (conversation = 0 OR version > %s) "
            "ORDER BY CASE WHEN conversation = 0 THEN 0 ELSE 1 END, version LIMIT %s"
        )
        rows = self._store.rows(statement, (app, user, version, limit + 2))
        folders = FolderList()
        if rows and rows[0][0] == 0:
            folders = _folder_list(rows.pop(0)[-1])

        page = _page_of(rows, version, limit)
        if folders.version > version:
            page.folders = folders
            # Only the last page may go on at the version of the folders. On
            # earlier pages, this would leave out older changes.
            if not page.has_more:
                page.version = max(page.version, folders.version)
        return page


def _page_of(rows: Sequence[Row], version: int, limit: int) -> ArrangementPage:
    """Return a page of at most ``limit`` arrangements, as many as fit on it.

    ``version`` is the version at which the page begins.
    """
    # The last two columns, the draft and the folders, may be long.
    sizes = [len(row[-2]) + len(row[-1] or b"") for row in rows[:limit]]
    count = count_fitting(sizes)
    arrangements = [_arrangement(row) for row in rows[:count]]
    page = ArrangementPage(arrangements, version, has_more=len(rows) > count)
    if count:
        page.version = arrangements[-1].version
    return page


def _raise_version(sql: PooledStatements, app: str, user: str) -> int:
    """Raise the version of a user's arrangements, and return it.

    The arrangements are locked until the transaction ends. The version is in
    the row of conversation 0.
    """
    if sql.engine == "mysql":
        conflict = "DUPLICATE KEY UPDATE"
    else:
        conflict = "CONFLICT (app, member, conversation) DO UPDATE SET"
    # The first change of a user creates the row.
    sql.execute(
        f"INSERT INTO arrangement (app, member, {_COLUMNS}) VALUES (%s, %s, 0, 1, 0, "
        f"0, 0, %s, NULL) ON {conflict} version = arrangement.version + 1",
        (app, user, b""),
    )
    statement = f"SELECT version FROM arrangement {_OF_USER} = 0"
    return int(sql.query(statement, (app, user))[0][0])


def _write(
    sql: PooledStatements, key: tuple[str, str], after: Arrangement, is_new: bool
) -> None:
    """Write an arrangement: a new row, or a change of its row.

    ``key`` is (app, user).
    """
    values = _values_of(after)
    if is_new:
        row = (*key, after.conversation, *values)
        sql.insert_new("arrangement", f"app, member, {_COLUMNS}", [row])
    else:
        statement = f"UPDATE arrangement SET {_SETS} {_OF_USER} = %s"
        sql.execute(statement, (*values, *key, after.conversation))


def _check_limits(
    sql: PooledStatements,
    key: tuple[str, str],
    before: Arrangement,
    after: Arrangement,
    limits: InboxSettings,
) -> None:
    """Raise ArrangementRefused if a change makes too many pins or drafts.

    ``key`` is (app, user).
    """
    is_new_pin = after.pinned and not before.pinned
    if is_new_pin and _count(sql, key, "pinned > 0") >= limits.pins:
        raise ArrangementRefused(problem=HTTP_TOO_MANY_PINS)
    is_new_draft = after.draft and not before.draft
    if is_new_draft and _count(sql, key, "draft <> %s", b"") >= limits.drafts:
        raise ArrangementRefused(problem=HTTP_TOO_MANY_DRAFTS)


def _values_of(arrangement: Arrangement) -> tuple[Any, ...]:
    """Return the columns of an arrangement from ``version`` on.

    The draft and the folders are stored as JSON. If they are not set, the draft
    is empty, and the folders are NULL.
    """
    draft = b""
    if arrangement.draft:
        draft = msgspec.json.encode(arrangement.draft)
    folders = None
    if arrangement.folders:
        folders = msgspec.json.encode(arrangement.folders)
    return (
        arrangement.version,
        arrangement.pinned,
        arrangement.archived,
        arrangement.marked,
        draft,
        folders,
    )


def _count(
    sql: PooledStatements, key: tuple[str, str], condition: str, *values: bytes
) -> int:
    """Count the arranged conversations of a user that meet a condition.

    ``key`` is (app, user). ``values`` are for the placeholders of the
    condition.
    """
    statement = f"SELECT count(*) FROM arrangement {_OF_USER} > 0 AND {condition}"
    return int(sql.query(statement, (*key, *values))[0][0])


def _read(
    sql: PooledStatements, key: tuple[str, str], conversation: int
) -> Arrangement | None:
    """Read the arrangement of a conversation. Returns None if nothing is
    stored.

    ``key`` is the app and the user.
    """
    statement = f"SELECT {_COLUMNS} FROM arrangement {_OF_USER} = %s"
    rows = sql.query(statement, (*key, conversation))
    if rows:
        return _arrangement(rows[0])
    return None


def _changed(before: Arrangement, change: Arrange) -> Arrangement:
    """Return an arrangement after a change.

    Fields that are None in ``change`` stay as they are. If a conversation is
    pinned, it leaves the archive. If it is archived, its pin ends.
    """
    after = before
    if change.pinned is not None:
        after = replace(after, pinned=change.pinned)
        if change.pinned:
            after = replace(after, archived=0)
    if change.archived is not None:
        after = replace(after, archived=change.archived)
        if change.archived:
            after = replace(after, pinned=0)
    if change.marked is not None:
        after = replace(after, marked=change.marked)
    if change.folders is not None:
        after = replace(after, folders=sorted(set(change.folders)) or UNSET)
    return _with_draft(after, change.draft)


def _with_draft(arrangement: Arrangement, draft: UnsentText | None) -> Arrangement:
    """Return an arrangement with another draft. If ``draft`` is None, the
    stored draft stays."""
    # An empty draft removes the stored draft.
    if draft == NO_DRAFT:
        return replace(arrangement, draft=UNSET)
    if draft is not None:
        return replace(arrangement, draft=draft)
    return arrangement


def _arrangement(row: Row) -> Arrangement:
    """Return an arrangement from a row with the columns :data:`_COLUMNS`.

    The draft and the folders are JSON. They are empty or NULL if they are not
    set.
    """
    stored_draft = bytes(row[-2])
    stored_folders = row[-1]
    draft: UnsentText | UnsetType = UNSET
    if stored_draft:
        draft = msgspec.json.decode(stored_draft, type=UnsentText)
    folders: list[int] | UnsetType = UNSET
    if stored_folders:
        folders = msgspec.json.decode(stored_folders, type=list[int])
    return _ROWS.read(row, draft=draft, folders=folders)


def _folder_list(stored: Any) -> FolderList:
    """Return the list of folders from its JSON. NULL means an empty list."""
    if stored:
        return msgspec.json.decode(stored, type=FolderList)
    return FolderList()
