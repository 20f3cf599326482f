"""The message log (:class:`imserver.storage.message_log.MessageLog`) in a database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from imserver.storage import log_expiry, log_groups, log_list, log_marks, log_read, log_search, log_sync
from imserver.storage.group_contract import Right
from imserver.storage.log_contract import (
    INVALID,
    Change,
    Conversation,
    Draft,
    Entry,
    Marks,
    Membership,
    Noted,
    OnCommitted,
    Receipt,
    Rejected,
    StorageUnsure,
    Stored,
    Talk,
)
from imserver.storage.log_groups import Deed
from imserver.storage.log_row import Ready, objection, resend_of
from imserver.storage.log_writer import Job, Writer

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from imserver.storage.database import Database

T = TypeVar("T")


class Log:
    """The log of every app. Owner of its writer, which is there once something was stored.

    ``opened`` gives the database and makes it if need be; ``keeps`` says whether there is one.
    """

    def __init__(self, opened: Callable[[], Database], keeps: Callable[[], bool], seconds: float) -> None:
        self._opened = opened
        self._keeps = keeps
        self._seconds = seconds
        self._writer: Writer | None = None
        self.on_committed: OnCommitted = lambda _app, _first, _last, _entries: None

    def close(self) -> None:
        """Store what waits, and take nothing more."""
        if self._writer is not None:
            self._writer.close()

    # --- writing --------------------------------------------------------------------------------------------

    def append(self, app: str, drafts: Sequence[Draft]) -> list[Stored]:
        answers: list[Stored | None] = [None] * len(drafts)
        ready = []
        for index, draft in enumerate(drafts):
            if wrong := objection(draft):
                answers[index] = Rejected(INVALID, wrong)
            else:
                named = draft.client_msg_id
                ready.append(Ready(draft, resend_of(draft.sender, named) if named else None))

        def merged(found: Sequence[Stored]) -> list[Stored]:
            outcomes = iter(found)
            return [next(outcomes) if answer is None else answer for answer in answers]

        if not ready:
            return merged(())
        job = Job(app, ready)
        try:
            self._write(job)
        except StorageUnsure as unsure:
            late = StorageUnsure(str(unsure))
            unsure.on_known = lambda found: late.on_known(None if found is None else merged(found))
            raise late from None
        return merged(job.outcomes)

    def create(self, app: str, owner: str, name: str, users: Sequence[str], meta: bytes = b"") -> Change:
        change = self._do(app, log_groups.create(owner, name, users, meta))
        if isinstance(change, Rejected):
            raise ValueError(change.detail)
        return change

    def join(
        self,
        app: str,
        conversation: int,
        users: Sequence[str],
        by: str = "",
        role: str = "member",
        *,
        most: int = 0,
        right: Right | None = None,
    ) -> Change | Rejected:
        return self._do(app, log_groups.join(conversation, users, by, role, most, right))

    def leave(
        self,
        app: str,
        conversation: int,
        users: Sequence[str],
        by: str = "",
        *,
        heir: bool = False,
        right: Right | None = None,
    ) -> Change | Rejected:
        return self._do(app, log_groups.leave(conversation, users, by, heir, right))

    def rename(
        self, app: str, conversation: int, name: str, by: str = "", *, right: Right | None = None
    ) -> Change | Rejected:
        return self._do(app, log_groups.rename(conversation, name, by, right))

    def set_open(
        self, app: str, conversation: int, is_open: bool, by: str = "", *, right: Right | None = None
    ) -> Change | Rejected:
        return self._do(app, log_groups.set_open(conversation, is_open, by, right))

    def set_member(
        self,
        app: str,
        conversation: int,
        user: str,
        *,
        role: str | None = None,
        muted_until: int | None = None,
        by: str = "",
        right: Right | None = None,
    ) -> Change | Rejected:
        return self._do(app, log_groups.set_member(conversation, user, role, muted_until, by, right))

    def _do(self, app: str, deed: Deed) -> Change | Rejected:
        job = Job(app, (), deed)
        self._write(job)
        assert job.change is not None
        return job.change

    def _write(self, job: Job) -> None:
        database = self._opened()
        if self._writer is None:
            self._writer = Writer(database, self._seconds, self._committed)
        self._writer.write(job)

    def _committed(self, app: str, first: int, last: int, entries: list[Entry]) -> None:
        self.on_committed(app, first, last, entries)

    # --- reading --------------------------------------------------------------------------------------------

    def head(self, app: str) -> int:
        return self._read(lambda connection: log_read.head(connection, app), 0)

    def heads(self, apps: Sequence[str]) -> dict[str, int]:
        return self._read(lambda connection: log_read.heads(connection, apps), {})

    def floor(self, app: str) -> int:
        return self._read(lambda connection: log_read.floor(connection, app), 0)

    def stored_before(self, app: str, time: int) -> int:
        return self._read(lambda connection: log_expiry.stored_before(connection, app, time), 0)

    def read(self, app: str, after: int, limit: int) -> list[Entry]:
        return self._read(lambda connection: log_read.read(connection, app, after, limit), [])

    def entries(self, app: str, ids: Sequence[int]) -> list[Entry]:
        return self._read(lambda connection: log_read.entries(connection, app, ids), [])

    def sync(self, app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
        return self._read(
            lambda connection: log_sync.sync(connection, app, user, after, limit), _no_entries()
        )

    def catch_up(
        self, app: str, user: str, after: int, limit: int, places: Mapping[str, int]
    ) -> tuple[list[Entry], bool]:
        return self._read(
            lambda connection: log_sync.catch_up(connection, app, user, after, limit, places), _no_entries()
        )

    def history(
        self, app: str, user: str, conversation: int, before: int, limit: int
    ) -> tuple[list[Entry], bool]:
        return self._read(
            lambda connection: log_list.history(connection, app, user, conversation, before, limit),
            _no_entries(),
        )

    def said(self, app: str, room: str, before: int, limit: int) -> tuple[list[Entry], bool]:
        return self._read(
            lambda connection: log_list.said(connection, app, room, before, limit), _no_entries()
        )

    def search(
        self, app: str, user: str, text: str, conversation: int, before: int, limit: int
    ) -> tuple[list[Entry], int]:
        if not self._keeps():
            return [], 0
        read = self._opened().read
        return log_search.search(read, app, user, text, conversation, before, limit)

    def conversation(self, app: str, conversation: int) -> Conversation | None:
        return self._read(lambda connection: log_read.conversation(connection, app, conversation), None)

    def conversations(self, app: str, ids: Sequence[int]) -> list[Conversation]:
        return self._read(lambda connection: log_read.conversations(connection, app, ids), [])

    def between(self, app: str, user: str, other: str) -> Conversation | None:
        return self._read(lambda connection: log_read.between(connection, app, user, other), None)

    def talks(self, app: str, user: str, before: int, limit: int) -> tuple[list[Talk], bool]:
        return self._read(
            lambda connection: log_list.talks(connection, app, user, before, limit), _no_talks()
        )

    def memberships(self, app: str, user: str) -> list[Membership]:
        return self._read(lambda connection: log_list.memberships(connection, app, user), [])

    def members(self, app: str, conversation: int, after: str, limit: int) -> list[Membership]:
        return self._read(
            lambda connection: log_list.members(connection, app, conversation, after, limit), []
        )

    def member(self, app: str, conversation: int, user: str) -> Membership | None:
        return self._read(lambda connection: log_list.member(connection, app, conversation, user), None)

    def _read(self, work: Callable[[Connection], T], nothing: T) -> T:
        return self._opened().read(work) if self._keeps() else nothing

    # --- marks and retention --------------------------------------------------------------------------------

    def note(
        self, app: str, user: str, conversation: int, *, read: int = 0, received: int = 0
    ) -> Noted | None:
        return self._change(
            lambda connection: log_marks.note(connection, app, user, conversation, read, received), None
        )

    def hide(self, app: str, user: str, ids: Sequence[int]) -> int:
        return self._change(lambda connection: log_marks.hide(connection, app, user, ids), 0)

    def forget(self, app: str, user: str) -> None:
        self._change(lambda connection: log_marks.forget(connection, app, user), None)

    def marks(self, app: str, user: str, after: int) -> Marks:
        return self._read(lambda connection: log_marks.marks(connection, app, user, after), Marks(0, {}))

    def receipts(self, app: str, user: str, conversation: int, after: str, limit: int) -> list[Receipt]:
        return self._read(
            lambda connection: log_marks.receipts(connection, app, user, conversation, after, limit), []
        )

    def apps(self) -> list[str]:
        return self._read(log_expiry.apps, [])

    def expire(self, app: str, *, older_than_seconds: float = 0, more_than: int = 0) -> int:
        return log_expiry.expire(self._read, self._change, app, older_than_seconds, more_than)

    def _change(self, work: Callable[[Connection], T], nothing: T) -> T:
        return self._opened().write(work) if self._keeps() else nothing


def _no_entries() -> tuple[list[Entry], bool]:
    return [], False


def _no_talks() -> tuple[list[Talk], bool]:
    return [], False
