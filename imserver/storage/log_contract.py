"""What the message log tells the rest: drafts that go in, entries that come out, as plain data.

A user is a text inside an app. A conversation has a number inside an app; its kind is ``user`` (two users,
in the order of their ids), ``group``, or ``room``: what is said in the live room of that name, and who reads
that is not the log's business. An entry's ``id`` is its position in the log of its app: contiguous, in the
order of the commits. Its ``seq`` is contiguous in its conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol

from msgspec import Struct

from imserver.errors import StorageUnavailable

if TYPE_CHECKING:
    from imserver.storage.group_contract import Right

EntryKind = Literal["message", "recall", "edit", "join", "leave", "group"]
ConversationKind = Literal["user", "group", "room"]

CLIENT_MSG_ID_BYTES: Final = 64
USER_BYTES: Final = 255
"""Bytes of the longest id of a user, in UTF-8."""
ROOM_BYTES: Final = 255
"""Bytes of the longest name of a room, in UTF-8."""
TYPE_BYTES: Final = 32
"""Bytes of the longest type of a message, in UTF-8."""

UNKNOWN_CONVERSATION: Final = "unknown_conversation"
NOT_MEMBER: Final = "not_member"
MUTED: Final = "muted"
INVALID: Final = "invalid"
RECALLED: Final = "recalled"
"""The words of :class:`Rejected`: there is no such conversation in the app; the sender is not (or no longer)
a member; the sender may not speak yet; the draft itself cannot be stored; what it edits was recalled."""


class Draft(Struct, frozen=True, kw_only=True):
    """What somebody wants to store: to ``to_user``, to ``conversation``, or in the live ``room`` of that
    name, one of them."""

    sender: str
    kind: EntryKind = "message"
    type: str = "text"
    """``text``, ``picture``, ``voice``, ``video``, ``file``, ``location``, ``custom``
    or a back end's word."""
    body: bytes = b""
    client_msg_id: str = ""
    """Unique per app and sender, at most 64 bytes; ``""``: none, and a resend is a new message."""
    time_ms: int = 0
    """When it was sent: Unix milliseconds."""
    about: int = 0
    """Id of the entry that it recalls, edits or replies to."""
    meta: bytes = b""
    """JSON: mentions and the like."""
    to_user: str = ""
    conversation: int = 0
    room: str = ""


class Entry(Struct, frozen=True, kw_only=True):
    """What is stored.

    A message that was edited has the content that it was given last, and the edit's id as ``edited`` in
    ``meta``. One that was recalled, and every edit of it, has become a ``recall`` of it in its own place:
    the message's is ``about`` itself.
    """

    id: int
    conversation: int
    seq: int
    sender: str
    kind: EntryKind = "message"
    type: str = "text"
    body: bytes = b""
    client_msg_id: str = ""
    time_ms: int = 0
    about: int = 0
    meta: bytes = b""
    kind_of_conversation: ConversationKind = "group"
    members: tuple[str, ...] = ()
    """The two users of a ``user`` conversation; empty for a group."""
    room: str = ""
    """The name of the room, of a ``room`` conversation."""

    def peer(self, reader: str) -> str:
        """The other user as ``reader`` sees it; ``""`` in a group."""
        if not self.members:
            return ""
        return self.members[0] if self.members[1] == reader else self.members[1]


class Appended(Struct, frozen=True):
    """A draft was stored. ``repeated``: it had been before; this is the first answer again."""

    entry: Entry
    repeated: bool = False


class Rejected(Struct, frozen=True):
    """A draft was not stored, and never will be."""

    reason: str
    """``unknown_conversation``, ``not_member``, ``muted``, ``invalid`` or ``recalled``."""
    detail: str = ""


class StorageUnsure(StorageUnavailable):
    """The database was asked to store something, and nobody knows yet whether it did."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.on_known: Callable[[Sequence[Stored] | None], None] = lambda _answers: None
        """Told when it is known, before anybody is told what was stored: the answers, or None: nothing was.
        Must not switch."""


Stored = Appended | Rejected | StorageUnavailable
"""What became of a draft."""


class Membership(Struct, frozen=True, kw_only=True):
    """A user in a conversation, from one id of the log to another. Who comes back has another row.

    Nobody reads entries with ``id <= joined_id`` or ``id > left_id``. The entry that tells of the joining is
    the first that the member reads, that of the leaving the last.
    """

    app: str
    user: str
    conversation: int
    joined_id: int
    left_id: int | None = None
    """None: still a member."""
    role: str = "member"
    """``owner``, ``admin`` or ``member``."""
    muted_until: int = 0
    """Unix seconds."""
    kind_of_conversation: ConversationKind = "group"


class Conversation(Struct, frozen=True, kw_only=True):
    """A conversation as it is listed. ``name`` is a group's, or a room's."""

    id: int
    kind: ConversationKind
    name: str = ""
    members: tuple[str, ...] = ()
    """The two users of a ``user`` conversation; empty for a group."""
    last_id: int = 0
    last_seq: int = 0
    created: int = 0
    """Unix seconds."""
    open: bool = False
    """A group that anybody may join."""


class Talk(Struct, frozen=True):
    """One of a user's conversations, as that user sees it."""

    conversation: Conversation
    last: Entry | None
    """The newest entry that the user may read, and has not hidden."""
    unread: int
    """Messages of others behind ``read``; counting ends at :data:`MOST_UNREAD`."""
    read: int
    """Id of the newest entry that was read."""
    role: str = "member"
    place: int = 0
    """Id of the newest entry, hidden or not: where it stands in the list."""


class Receipt(Struct, frozen=True):
    """Up to which ids a user has read a conversation, and their devices have received it."""

    conversation: int
    user: str
    read: int
    received: int


class Noted(Struct, frozen=True):
    """What noting a position has changed: where the user is now, and who is to be told.

    ``moved`` False: it was there, or further, before. ``authors``: those who wrote what was passed over now
    (of the newest :data:`MOST_RECEIPTED` entries of it), without the user.
    """

    receipt: Receipt
    version: int
    """Of the user's marks."""
    moved: bool = False
    authors: tuple[str, ...] = ()


class Marks(Struct, frozen=True):
    """What a user marked since a version, and what others received: kept per user, outside the log."""

    version: int
    reads: dict[int, int]
    """Conversation → id up to which it was read."""
    hidden: tuple[int, ...] = ()
    """Ids of entries that the user does not want to see any more."""
    receipts: tuple[Receipt, ...] = ()
    """Where those are with whom the user talks alone."""


class Change(Struct, frozen=True):
    """A change of a group that was stored, with the entry that tells of it.

    ``entry`` is None if there was nothing to change; ``users``: those whose membership did change.
    """

    conversation: int
    entry: Entry | None = None
    users: tuple[str, ...] = ()


MOST_UNREAD: Final = 1000
MOST_RECEIPTED: Final = 1000

OnCommitted = Callable[[str, int, int, list[Entry]], None]
"""(app, first id, last id, entries): once a transaction and app, in the order of the commits."""


class MessageLog(Protocol):
    """The log of every app. All of it may switch, and raises StorageUnavailable, which is temporary."""

    on_committed: OnCommitted

    def append(self, app: str, drafts: Sequence[Draft]) -> list[Stored]:
        """Store drafts, in their order; returns after the commit. What is rejected costs the rest nothing.

        Raises StorageUnavailable: nothing was stored. Only :class:`StorageUnsure`, where the answer to a
        COMMIT does not come, says that it may have been; who tries again with a ``client_msg_id`` gets the
        one entry in any case. Where drafts had to be stored one by one, some answers may say the same.
        """

    # --- reading the log ------------------------------------------------------------------------------------

    def head(self, app: str) -> int:
        """The greatest id; 0: nothing was ever stored."""

    def heads(self, apps: Sequence[str]) -> dict[str, int]:
        """App → the id of its newest entry, of those among ``apps`` that have one."""

    def floor(self, app: str) -> int:
        """What has an id up to this one has expired. A cursor below it must begin anew."""

    def stored_before(self, app: str, time: int) -> int:
        """The greatest id that was stored before this Unix second, as far as it has not expired."""

    def read(self, app: str, after: int, limit: int) -> list[Entry]:
        """The whole log behind an id."""

    def entries(self, app: str, ids: Sequence[int]) -> list[Entry]:
        """Those of these entries that exist, in the order of their ids."""

    def sync(self, app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
        """What the user may read behind an id, in order, and whether there is more."""

    def catch_up(
        self, app: str, user: str, after: int, limit: int, places: Mapping[str, int]
    ) -> tuple[list[Entry], bool]:
        """The same with what was said in rooms: ``places`` has for each room that is wanted the id behind
        which, and under ``""`` that for what the user may read."""

    def history(
        self, app: str, user: str, conversation: int, before: int, limit: int
    ) -> tuple[list[Entry], bool]:
        """What the user may read of a conversation before an id (0: its end): the newest, in order, without
        what the user has hidden, and whether there is more before."""

    def said(self, app: str, room: str, before: int, limit: int) -> tuple[list[Entry], bool]:
        """What was said in a room before an id (0: its end): the newest, in order, and whether there is more
        before."""

    def search(
        self, app: str, user: str, text: str, conversation: int, before: int, limit: int
    ) -> tuple[list[Entry], int]:
        """The newest texts before an id (0: the end) that say ``text`` and that the user may read, in order:
        of one conversation, or (0) of all. Neither what the user has hidden nor what was recalled. The
        letters of ASCII count alike in any case, others too if a word is all small, all capital or begins so.

        And the id before which to go on; 0: all was looked through. After half a second it comes back with
        what it has, be it nothing.
        """

    # --- conversations --------------------------------------------------------------------------------------

    def conversation(self, app: str, conversation: int) -> Conversation | None:
        """One conversation."""

    def conversations(self, app: str, ids: Sequence[int]) -> list[Conversation]:
        """Those of these conversations that exist, in the order of their ids."""

    def between(self, app: str, user: str, other: str) -> Conversation | None:
        """The conversation of two users, if they ever had one."""

    def talks(self, app: str, user: str, before: int, limit: int) -> tuple[list[Talk], bool]:
        """The user's conversations whose newest id is below ``before`` (0: all), those with the newest entry
        first, and whether there are more."""

    def memberships(self, app: str, user: str) -> list[Membership]:
        """All of a user's memberships, those that have ended too."""

    def members(self, app: str, conversation: int, after: str, limit: int) -> list[Membership]:
        """Who is a member, by their ids, behind ``after``."""

    def member(self, app: str, conversation: int, user: str) -> Membership | None:
        """The membership of a user that has not ended."""

    # --- groups ---------------------------------------------------------------------------------------------

    def create(self, app: str, owner: str, name: str, users: Sequence[str], meta: bytes = b"") -> Change:
        """Make a group of the owner and others; its first entry is of kind ``group``."""

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

    def rename(
        self, app: str, conversation: int, name: str, by: str = "", *, right: Right | None = None
    ) -> Change | Rejected:
        """Give a group another name; its entry is of kind ``group``."""

    def set_open(
        self, app: str, conversation: int, is_open: bool, by: str = "", *, right: Right | None = None
    ) -> Change | Rejected:
        """Let anybody join a group, or not any more; its entry is of kind ``group``. Nothing is stored where
        it is so already."""

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

    # --- marks ----------------------------------------------------------------------------------------------

    def note(
        self, app: str, user: str, conversation: int, *, read: int = 0, received: int = 0
    ) -> Noted | None:
        """The user has read, or received, up to an id: never back, and never beyond the log. What was read
        was received. None: the user never was in this conversation."""

    def hide(self, app: str, user: str, ids: Sequence[int]) -> int:
        """The user does not want to see these entries; the version of the user's marks."""

    def forget(self, app: str, user: str) -> None:
        """Delete all marks of a user, who is gone for good."""

    def marks(self, app: str, user: str, after: int) -> Marks:
        """What the user marked behind a version."""

    def receipts(self, app: str, user: str, conversation: int, after: str, limit: int) -> list[Receipt]:
        """Where the other members are who noted anything, by their ids behind ``after``; nothing for
        somebody who is no member."""

    # --- retention ------------------------------------------------------------------------------------------

    def apps(self) -> list[str]:
        """The apps that have entries which have not expired, by name."""

    def expire(self, app: str, *, older_than_seconds: float = 0, more_than: int = 0) -> int:
        """Delete the oldest entries: those stored longer ago, and all but the newest; how many."""
