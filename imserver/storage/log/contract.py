"""The data of the message log: drafts go in, entries come out.

A user is a text inside an app. A conversation has a number inside an app; its kind is ``user`` (two users,
ordered by id), ``group``, or ``room`` (messages in the live room of that name; the log does not decide who
reads them). An entry's ``id`` is its position in the log of its app: contiguous, in the order of the commits.
Its ``seq`` is contiguous in its conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from msgspec import Struct

from imserver.errors import StorageUnavailable
from imserver.model import Message

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
BLOCKED: Final = "blocked"
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
    """The database was asked to store something, and nobody knows yet whether it did.

    Whoever wants the final result sets ``on_known``; it is called before the entry is delivered, and must not
    switch.
    """

    on_known: Callable[[Stored], None] | None = None


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


class ConversationSummary(Struct, frozen=True):
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


NOT_ALLOWED: Final = "not_allowed"
FULL: Final = "full"
"""Two words of :class:`Rejected` more: whoever changes a group may not; it would have too many members."""


class Ground(Struct, frozen=True):
    """How a group stands at the moment of a change: the roles of those who are concerned and are members
    (who changes it, who is named), and whether anybody may join."""

    roles: Mapping[str, str]
    open: bool


Right = Callable[[Ground], Rejected | None]
"""Whether a change of a group may be made, asked under the log's lock: nothing comes between it and the
change. It may be asked in another thread, so it looks at what it is given only."""


def message_of(entry: Entry) -> Message:
    """An entry as dialects tell it."""
    members = entry.members
    to = (members[0] if members[1] == entry.sender else members[1]) if members else ""
    return Message(
        entry.id,
        entry.conversation,
        entry.seq,
        entry.sender,
        to,
        entry.kind,
        entry.type,
        entry.body,
        entry.client_msg_id,
        entry.time_ms,
        entry.about,
        entry.meta,
        entry.room,
    )
