"""The message log of every app, in a database. All services read and write stored messages through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from gevent.event import AsyncResult, Event

from imserver.errors import StorageUnavailable
from imserver.storage.log import groups, marks, read, retention, search, sync
from imserver.storage.log.connection import WriterConnection
from imserver.storage.log.contract import (
    Appended,
    Change,
    Conversation,
    ConversationSummary,
    Draft,
    Entry,
    Marks,
    Membership,
    Noted,
    Receipt,
    Rejected,
    Right,
    Stored,
)
from imserver.storage.log.transaction import AppTransaction, ChangeRequest, Outcome, append_request
from imserver.storage.log.writer import LogListener, LogWriter

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from imserver.storage.database import Database

T = TypeVar("T")


class MessageLog:
    """The log of every app. Owner of its writer. All methods may switch, and raise StorageUnavailable, which
    is temporary, unless their text says otherwise.

    ``opened`` gives the database and makes it if need be; ``keeps`` says whether there is one.
    """

    def __init__(self, opened: Callable[[], Database], keeps: Callable[[], bool], seconds: float) -> None:
        self._opened = opened
        self._keeps = keeps
        self._writer = LogWriter(lambda: WriterConnection(opened()), seconds)
        self.is_busy = self._writer.is_busy
        self.senders = self._writer.senders

    def listen(self, listener: LogListener | None) -> None:
        """Have a listener receive what this process stores. Never switches."""
        self._writer.listener = listener

    def close(self) -> None:
        """Store what waits, and take nothing more."""
        self._writer.close()

    # --- writing --------------------------------------------------------------------------------------------

    def send(self, app: str, draft: Draft, answer: Callable[[Stored], object]) -> None:
        """Store a draft. Never switches, and raises nothing.

        ``answer`` gets the result after the commit and before the entry is delivered; answers of an app
        come in the order of the ids. It must not switch. StorageUnavailable: nothing was stored.
        StorageUnsure: the answer to COMMIT did not come in time; its ``on_known`` gets the final result.
        Sending the same ``client_msg_id`` again gives the one entry in any case.
        """
        self._writer.append(append_request(app, draft, answer))

    def append(self, app: str, drafts: Sequence[Draft]) -> list[Stored]:
        """Store drafts, in their order; returns after the commit. A rejected draft does not affect others.

        Raises StorageUnavailable if none was stored, StorageUnsure if that is not known.
        """
        answers: list[Stored] = []
        done = Event()

        def answer(result: Stored) -> None:
            answers.append(result)
            if len(answers) == len(drafts):
                done.set()

        for draft in drafts:
            self.send(app, draft, answer)
        if drafts:
            done.wait()
        errors = [each for each in answers if isinstance(each, StorageUnavailable)]
        if errors and not any(isinstance(each, Appended) for each in answers):
            raise errors[0]
        return answers

    def create(self, app: str, owner: str, name: str, users: Sequence[str], meta: bytes = b"") -> Change:
        """Make a group of the owner and others; its first entry is of kind ``group``."""
        change = self._do(app, groups.create(owner, name, users, meta))
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
        """Make users members; who is one stays as they are. One entry of kind ``join`` names the new ones.

        ``most``: so many members a group may have then; 0: as many as come. ``right``, here and below: who
        has it may make the change; None: anybody.
        """
        return self._do(app, groups.join(conversation, users, by, role, most, right))

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
        """End memberships; one entry of kind ``leave`` names whose.

        ``heir``: where the owner is among them, the first admin that is left, else the first member, is the
        owner from then on; the entry that says so comes before.
        """
        return self._do(app, groups.leave(conversation, users, by, heir, right))

    def rename(
        self, app: str, conversation: int, name: str, by: str = "", *, right: Right | None = None
    ) -> Change | Rejected:
        """Give a group another name; its entry is of kind ``group``."""
        return self._do(app, groups.rename(conversation, name, by, right))

    def set_open(
        self, app: str, conversation: int, is_open: bool, by: str = "", *, right: Right | None = None
    ) -> Change | Rejected:
        """Let anybody join a group, or not any more; its entry is of kind ``group``. Nothing is stored where
        it is so already."""
        return self._do(app, groups.set_open(conversation, is_open, by, right))

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
        """Change a member's role or silence; its entry is of kind ``group``. Nothing is stored where it is so
        already. Whoever is made the owner takes the place of the one before, who is an admin then."""
        return self._do(app, groups.set_member(conversation, user, role, muted_until, by, right))

    def _do(self, app: str, change: Callable[[AppTransaction], Change | Rejected]) -> Change | Rejected:
        result: AsyncResult[Outcome] = AsyncResult()
        self._writer.change(ChangeRequest(app, change, result.set))
        outcome = result.get()
        if isinstance(outcome, StorageUnavailable):
            raise outcome
        assert isinstance(outcome, Change | Rejected)
        return outcome

    # --- reading --------------------------------------------------------------------------------------------

    def head(self, app: str) -> int:
        """The greatest id; 0: nothing was ever stored."""
        return self._read(lambda connection: read.head(connection, app), 0)

    def heads(self, apps: Sequence[str]) -> dict[str, int]:
        """App → the id of its newest entry, of those among ``apps`` that have one."""
        return self._read(lambda connection: read.heads(connection, apps), {})

    def floor(self, app: str) -> int:
        """What has an id up to this one has expired. A cursor below it must begin anew."""
        return self._read(lambda connection: read.floor(connection, app), 0)

    def stored_before(self, app: str, time: int) -> int:
        """The greatest id that was stored before this Unix second, as far as it has not expired."""
        return self._read(lambda connection: retention.stored_before(connection, app, time), 0)

    def read(self, app: str, after: int, limit: int) -> list[Entry]:
        """The whole log behind an id."""
        return self._read(lambda connection: read.read(connection, app, after, limit), [])

    def entries(self, app: str, ids: Sequence[int]) -> list[Entry]:
        """Those of these entries that exist, in the order of their ids."""
        return self._read(lambda connection: read.entries(connection, app, ids), [])

    def sync(self, app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
        """What the user may read behind an id, in order, and whether there is more."""
        return self._read(lambda connection: sync.sync(connection, app, user, after, limit), _no_entries())

    def catch_up(
        self, app: str, user: str, after: int, limit: int, places: Mapping[str, int]
    ) -> tuple[list[Entry], bool]:
        """The same with what was said in rooms: ``places`` has for each room that is wanted the id behind
        which, and under ``""`` that for what the user may read."""
        return self._read(
            lambda connection: sync.catch_up(connection, app, user, after, limit, places), _no_entries()
        )

    def history(
        self, app: str, user: str, conversation: int, before: int, limit: int
    ) -> tuple[list[Entry], bool]:
        """What the user may read of a conversation before an id (0: its end): the newest, in order, without
        what the user has hidden, and whether there is more before."""
        return self._read(
            lambda connection: read.history(connection, app, user, conversation, before, limit),
            _no_entries(),
        )

    def room_history(self, app: str, room: str, before: int, limit: int) -> tuple[list[Entry], bool]:
        """What was said in a room before an id (0: its end): the newest, in order, and whether there is more
        before."""
        return self._read(
            lambda connection: read.room_history(connection, app, room, before, limit), _no_entries()
        )

    def search(
        self, app: str, user: str, text: str, conversation: int, before: int, limit: int
    ) -> tuple[list[Entry], int]:
        """The newest texts before an id (0: the end) that say ``text`` and that the user may read, in order:
        of one conversation, or (0) of all. Neither what the user has hidden nor what was recalled. The
        letters of ASCII count alike in any case, others too if a word is all small, all capital or begins so.

        And the id before which to go on; 0: all was looked through. After half a second it comes back with
        what it has, be it nothing.
        """
        if not self._keeps():
            return [], 0
        read = self._opened().read
        return search.search(read, app, user, text, conversation, before, limit)

    def conversation(self, app: str, conversation: int) -> Conversation | None:
        """One conversation."""
        return self._read(lambda connection: read.conversation(connection, app, conversation), None)

    def conversations(self, app: str, ids: Sequence[int]) -> list[Conversation]:
        """Those of these conversations that exist, in the order of their ids."""
        return self._read(lambda connection: read.conversations(connection, app, ids), [])

    def between(self, app: str, user: str, other: str) -> Conversation | None:
        """The conversation of two users, if they ever had one."""
        return self._read(lambda connection: read.between(connection, app, user, other), None)

    def list_conversations(
        self, app: str, user: str, before: int, limit: int
    ) -> tuple[list[ConversationSummary], bool]:
        """The user's conversations whose newest id is below ``before`` (0: all), those with the newest entry
        first, and whether there are more."""
        return self._read(
            lambda connection: read.list_conversations(connection, app, user, before, limit),
            _no_conversations(),
        )

    def memberships(self, app: str, user: str) -> list[Membership]:
        """All of a user's memberships, those that have ended too."""
        return self._read(lambda connection: read.memberships(connection, app, user), [])

    def members(self, app: str, conversation: int, after: str, limit: int) -> list[Membership]:
        """Who is a member, by their ids, behind ``after``."""
        return self._read(lambda connection: read.members(connection, app, conversation, after, limit), [])

    def member(self, app: str, conversation: int, user: str) -> Membership | None:
        """The membership of a user that has not ended."""
        return self._read(lambda connection: read.member(connection, app, conversation, user), None)

    def _read(self, work: Callable[[Connection], T], nothing: T) -> T:
        return self._opened().read(work) if self._keeps() else nothing

    # --- marks and retention --------------------------------------------------------------------------------

    def note(
        self, app: str, user: str, conversation: int, *, read: int = 0, received: int = 0
    ) -> Noted | None:
        """The user has read, or received, up to an id: never back, and never beyond the log. What was read
        was received. None: the user never was in this conversation."""
        return self._change(
            lambda connection: marks.note(connection, app, user, conversation, read, received), None
        )

    def hide(self, app: str, user: str, ids: Sequence[int]) -> int:
        """The user does not want to see these entries; the version of the user's marks."""
        return self._change(lambda connection: marks.hide(connection, app, user, ids), 0)

    def forget(self, app: str, user: str) -> None:
        """Delete all marks of a user, who is gone for good."""
        self._change(lambda connection: marks.forget(connection, app, user), None)

    def marks(self, app: str, user: str, after: int) -> Marks:
        """What the user marked behind a version."""
        return self._read(lambda connection: marks.marks(connection, app, user, after), Marks(0, {}))

    def receipts(self, app: str, user: str, conversation: int, after: str, limit: int) -> list[Receipt]:
        """Where the other members are who noted anything, by their ids behind ``after``; nothing for
        somebody who is no member."""
        return self._read(
            lambda connection: marks.receipts(connection, app, user, conversation, after, limit), []
        )

    def apps(self) -> list[str]:
        """The apps that have entries which have not expired, by name."""
        return self._read(retention.apps, [])

    def expire(self, app: str, *, older_than_seconds: float = 0, more_than: int = 0) -> int:
        """Delete the oldest entries: those stored longer ago, and all but the newest; how many."""
        return retention.expire(self._read, self._change, app, older_than_seconds, more_than)

    def _change(self, work: Callable[[Connection], T], nothing: T) -> T:
        return self._opened().write(work) if self._keeps() else nothing


def _no_entries() -> tuple[list[Entry], bool]:
    return [], False


def _no_conversations() -> tuple[list[ConversationSummary], bool]:
    return [], False
