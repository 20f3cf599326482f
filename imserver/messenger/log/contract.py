"""Data of the message log. Drafts are its input, entries its output.

A user id is text, unique in its app. A conversation has a number, unique in its
app. Its kind is ``user``, ``group`` or ``room``. A ``user`` conversation has
two users, ordered by id. A ``room`` has the messages in the live room of that
name. The log does not decide who reads these messages. The ``id`` of an entry
is its position in the log of its app. Ids are contiguous, in commit order. The
``seq`` of an entry is its position in its conversation. Seqs are contiguous,
too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from typing import ClassVar, Final, Literal, Protocol

import msgspec
from msgspec import Struct

from imserver.gateway.cluster.history import HistoryPage
from imserver.gateway.errors import HttpProblem, Problems, ReplyCode, StorageUnavailable
from imserver.gateway.storage.statements import Statements
from imserver.gateway.transport.connection import Connection
from imserver.messenger.log.meta import MessageMeta, PublicationMeta
from imserver.messenger.log.model import EntryKind, Message

SECOND_MS: Final = 1000
"""A second, in the milliseconds of stored times."""

ConversationKind = Literal["user", "group", "room"]
Everybody = Literal["", "members", "all"]
"""The users who are members of a group without joining. ``""``: nobody.
``members``: all accounts except guests and bots. ``all``: guests, too."""


class RejectReason:
    """The reasons why a draft or a change is :class:`Rejected`."""

    UNKNOWN_CONVERSATION: Final = "unknown_conversation"
    """The app has no such conversation."""
    UNKNOWN_MESSAGE: Final = "unknown_message"
    """There is no such message that the user can read."""
    NOT_MEMBER: Final = "not_member"
    """The sender is not a member, or is no longer one."""
    MUTED: Final = "muted"
    """The sender is muted, in the group or in the whole app."""
    INVALID: Final = "invalid"
    """The draft is invalid."""
    RECALLED: Final = "recalled"
    """The message was recalled."""
    BLOCKED: Final = "blocked"
    """The receiver has blocked the sender. Or it is the first message to the
    receiver, and the sender is a guest, or a bot whose owner the receiver has
    blocked."""
    REJECTED: Final = "rejected"
    """The back end of the app has rejected the draft, for the reason in
    ``detail``."""
    NOT_BOT: Final = "not_bot"
    """Only bots send buttons."""
    UNKNOWN_ACCOUNT: Final = "unknown_account"
    """The receiver has no account, but all users of the app have accounts."""
    SUPERSEDED: Final = "superseded"
    """The sender has a newer uplink session."""
    NOT_ALLOWED: Final = "not_allowed"
    """The user has no permission to change the group."""
    READ_ONLY: Final = "read_only"
    """The group lets only its owner and admins write here or reply in
    threads."""
    ANSWERED: Final = "answered"
    """The question is closed, or the user has given another answer to it."""
    FIXED: Final = "fixed"
    """The message is a question whose text cannot change: somebody has answered
    it, or its author has fixed it."""
    FULL: Final = "full"
    """A limit is reached: the limit in ``detail``, or the number of members."""
    TAKEN: Final = "taken"
    """Another group has the handle."""
    WITHDRAWN: Final = "withdrawn"
    """The row from which the draft was made was deleted or changed."""


class Draft(Struct, frozen=True, kw_only=True):
    """A message to store. Its destination is exactly one of ``to_user``,
    ``conversation`` and ``room``, also if it is ``about`` a message.

    ``kind``: a feature leaves it at ``message``. Clients also send a
    ``recall``, an ``edit`` or a ``press``. Reactions and pins are not drafts:
    ``store.part(MessageLog).annotations`` adds them.
    """

    Meta: ClassVar[type[MessageMeta]] = MessageMeta
    """The keys that ``meta`` may have:
    ``Draft.Meta(mentions=("7",)).to_bytes()``."""
    RoomMeta: ClassVar[type[PublicationMeta]] = PublicationMeta
    """The keys that ``meta`` may have in a ``room``."""

    sender: str
    kind: EntryKind = "message"
    type: str = "text"
    """``text``, ``picture``, ``voice``, ``video``, ``file``, ``location``,
    ``custom``, or a type of the back end's own."""
    body: bytes = b""
    client_msg_id: str = ""
    """An id that is unique per app and sender, at most 64 bytes. ``""`` means
    no id, so a resend creates a new message."""
    time_ms: int = 0
    """The time of sending in Unix milliseconds. 0 means the time at which the
    draft is stored."""
    about: int = 0
    """The id of the entry that this draft recalls, edits, presses or replies
    to. 0 means no entry."""
    meta: bytes = b""
    """JSON, for example mentions: users, and handles of groups behind an ``@``.
    Only bots may send buttons."""
    to_user: str = ""
    """The receiver. The message is stored in the conversation of the two users,
    which the first message creates."""
    saved: bool = False
    """Whether the message is stored in the conversation of ``to_user`` with
    themselves. The sender may be another user."""
    to_anybody: bool = False
    """Whether ``to_user`` need not have an account, in an app whose users have
    accounts. Clients of GoChat need this."""
    conversation: int = 0
    """The id of a conversation. The sender must be a member."""
    group: bool = False
    """If True, ``conversation`` must be a group. If False, it may be any
    conversation of the sender."""
    room: str = ""
    """The name of a room of the ``action`` dialect, or of a channel with the
    history ``log``."""
    thread: int = 0
    """The id of a message of the same conversation. This draft is a reply in
    the thread of that message. 0 means that the draft is not a reply."""
    also: bool = False
    """Whether the conversation shows the reply, too, and not only its
    thread."""
    uplink_session: int = 0
    """The session that sends the draft, if only the sender's newest session may
    send (:meth:`imserver.messenger.log.writer.LogWriter.begin_uplink`). 0 means
    that every session may send it."""


Entry = Message
"""An entry is a message of the API: dialects encode it without a conversion."""


class Appended(Struct, frozen=True):
    """A draft was stored. ``repeated``: whether an earlier request has stored
    the draft. This is then the result of that request."""

    entry: Entry
    repeated: bool = False


_OF_REASON: Final = {
    RejectReason.UNKNOWN_CONVERSATION: (
        ReplyCode.NO_DATA,
        Problems.UNKNOWN_CONVERSATION,
    ),
    RejectReason.UNKNOWN_ACCOUNT: (ReplyCode.NO_DATA, Problems.UNKNOWN_ACCOUNT),
    RejectReason.UNKNOWN_MESSAGE: (ReplyCode.NO_DATA, Problems.UNKNOWN_MESSAGE),
    RejectReason.INVALID: (ReplyCode.BAD_PARAMETER, Problems.INVALID_REQUEST),
    RejectReason.BLOCKED: (ReplyCode.UNAUTHORIZED, Problems.NOT_ALLOWED),
    RejectReason.REJECTED: (ReplyCode.UNAUTHORIZED, Problems.REJECTED),
    RejectReason.MUTED: (ReplyCode.UNAUTHORIZED, Problems.MUTED),
    RejectReason.RECALLED: (ReplyCode.UNAUTHORIZED, Problems.UNKNOWN_MESSAGE),
    RejectReason.NOT_ALLOWED: (ReplyCode.UNAUTHORIZED, Problems.ROLE_TOO_LOW),
    RejectReason.READ_ONLY: (ReplyCode.UNAUTHORIZED, Problems.ROLE_TOO_LOW),
    RejectReason.FIXED: (ReplyCode.UNAUTHORIZED, Problems.NOT_ALLOWED),
    RejectReason.FULL: (ReplyCode.UNAUTHORIZED, Problems.NOT_ALLOWED),
    RejectReason.NOT_BOT: (ReplyCode.UNAUTHORIZED, Problems.NOT_ALLOWED),
}
_OTHERWISE: Final = ReplyCode.UNAUTHORIZED, Problems.UNKNOWN_CONVERSATION


class Rejected(Struct, frozen=True):
    """A draft was not stored. Sending it again cannot succeed."""

    reason: str
    """``unknown_conversation``, ``unknown_account``, ``not_member``, ``muted``,
    ``invalid``, ``recalled``, ``blocked``, ``rejected``, ``read_only`` or
    ``superseded``."""
    detail: str = ""
    until: int = 0
    """The end of a mute in the whole app, in Unix seconds. 0 means that the
    reason is not such a mute."""

    @property
    def reply_code(self) -> int:
        """The reply code for clients: 1003 if the reason has no code of its
        own."""
        return _OF_REASON.get(self.reason, _OTHERWISE)[0]

    @property
    def problem(self) -> HttpProblem:
        """The problem for HTTP. A reason without a problem of its own gets
        ``UNKNOWN_CONVERSATION``."""
        return _OF_REASON.get(self.reason, _OTHERWISE)[1]

    @property
    def explanation(self) -> str:
        """The text of the problem. ``""`` means the default text."""
        if self.reason == RejectReason.BLOCKED:
            return "The receiver does not allow it"
        return self.detail


class StorageUnsure(StorageUnavailable):
    """It is unknown whether the database stored the entry.

    Set ``on_known`` to receive the final result. The log calls it before it
    delivers the entry. The function must not switch greenlets.
    """

    on_known: Callable[[Stored], None] | None = None


Stored = Appended | Rejected | StorageUnavailable
"""The result for a draft."""


class Membership(Struct, frozen=True, kw_only=True):
    """The membership of a user in a conversation, for a range of log ids.
    Joining again adds another row.

    The user receives entries with ``joined_id < id <= left_id``. The first of
    these is the entry about the join, and the last is the entry about the
    leave. If the group shows its whole history, the user may also read earlier
    entries.
    """

    user: str
    conversation: int
    joined_id: int
    left_id: int | None = None
    """The id of the entry about the leave. None means that the user is still a
    member."""
    role: str = "member"
    """``owner``, ``admin`` or ``member``."""
    muted_until: int = 0
    """When the mute of the member ends, in Unix seconds."""
    kind_of_conversation: ConversationKind = "group"
    bot: bool = False
    """Whether the member of a group is a bot, which reads only the entries that
    name it."""


class Conversation(Struct, frozen=True, kw_only=True):
    """A conversation in a list. ``name``: the name of a group or a room."""

    id: int
    kind: ConversationKind
    name: str = ""
    members: tuple[str, ...] = ()
    """The two users of a ``user`` conversation; empty for a group."""
    last_id: int = 0
    last_seq: int = 0
    created: int = 0
    """When the conversation was created, in Unix seconds."""
    open: bool = False
    """Whether anybody may join the group."""
    everybody: Everybody = ""
    """The users who are members without joining."""
    options: int = 0
    """The options of a group as bits: see :func:`options_of`."""
    bots: tuple[str, ...] = ()
    """The members of a group that are bots."""
    avatar: str = ""
    """The URL of the picture of a group."""
    description: str = ""
    """The description of a group."""
    handle: str = ""
    """The name by which messages in any group mention the members of this
    group. ``""`` means that the group has no handle."""

    def peer(self, reader: str) -> str:
        """Return the other user of the conversation of ``reader``, who may be
        the reader. In a group, the result is ``""``."""
        if not self.members:
            return ""
        if self.members[1] == reader:
            return self.members[0]
        return self.members[1]

    def option_values(self) -> dict[str, str]:
        """Return the options of a group with their values: history, invite,
        rename, pin, bots, write, reply."""
        return options_of(self.options)

    def may_write(self, role: str, in_thread: bool = False) -> bool:
        """Tell whether a member with this role may write. If ``in_thread``,
        tell whether the member may reply in a thread alone."""
        return may_write(self.options, role, in_thread)


class ConversationSummary(Struct, frozen=True):
    """One of a user's conversations, as this user sees it."""

    MOST_UNREAD: ClassVar[int] = 1000
    """The most unread messages that are counted. There may be more."""

    conversation: Conversation
    last: Entry | None
    """The newest entry that the user may read and has not hidden. Reactions and
    pins do not count."""
    unread: int
    """The number of messages of others after ``read``, among the newest
    :data:`UNREAD_ENTRIES` entries. It is at most :attr:`MOST_UNREAD`."""
    read: int
    """The read position of the user."""
    role: str = "member"
    position: int = 0
    """The id of the newest entry of any kind, hidden or not. The list is
    ordered by this id."""
    mentions: int = 0
    """The number of unread messages that mention the user. It is at most
    :attr:`MOST_UNREAD`."""
    is_new: bool = False
    """Whether the conversation is new to the user: the user joined it after the
    read position, has not written ``last``, and is not the owner."""
    unread_more: bool = False
    """Whether there are more than :attr:`MOST_UNREAD` unread messages."""


class Receipt(Struct, frozen=True):
    """How far a user has read a conversation (``read``), and how far the user's
    devices have received it (``received``)."""

    conversation: int
    user: str
    read: int
    received: int


class ReceiptCount(Struct, frozen=True):
    """How many other members may read the message ``id`` (``members``), how
    many have received it, and how many have read it. Bots are not counted."""

    id: int
    members: int
    received: int
    read: int


class MarkResult(Struct, frozen=True):
    """Result of setting a position: the new position, and the users to notify.

    ``moved`` is False if the position was not before the given position.
    ``authors``: other users who wrote the entries that are read now (at most
    the newest :data:`MOST_RECEIPTED` of them).
    """

    receipt: Receipt
    version: int
    """The version of the user's marks."""
    moved: bool = False
    authors: tuple[str, ...] = ()


class Marks(Struct, frozen=True):
    """Changes of a user's marks, and of others' receipts, after a version. They
    are stored per user, outside the log. ``more``: whether there are further
    changes after ``version``."""

    version: int
    """The version up to which the changes are complete."""
    reads: dict[int, int]
    """Conversation → read position."""
    hidden: tuple[int, ...] = ()
    """Ids of entries that the user has hidden."""
    receipts: tuple[Receipt, ...] = ()
    """Positions of the other users in conversations of two."""
    more: bool = False


class Change(Struct, frozen=True):
    """A stored change of a group, a reaction or a pin, with its entry.

    ``entry`` is None if nothing had to change. ``users``: the users whose
    membership changed.
    """

    conversation: int
    entry: Entry | None = None
    users: tuple[str, ...] = ()


class LogExtent(Struct, frozen=True):
    """The range of ids of the entries in a log: after ``floor`` up to ``head``,
    except the ranges (first, last) in ``lost``."""

    floor: int
    head: int
    lost: tuple[tuple[int, int], ...] = ()

    def continues(self, cursor: int) -> bool:
        """Tell whether a client with this cursor can continue. It can if the
        log has every entry after the cursor, and if the entry at the cursor was
        not lost."""
        return self.floor <= cursor <= self.head and not self.is_lost(cursor)

    def is_lost(self, cursor: int) -> bool:
        """Tell whether the database has lost the entry at this cursor."""
        return any(first <= cursor <= last for first, last in self.lost)


NO_LOG: Final = LogExtent(0, 0)


class PublicationPage(Struct, frozen=True):
    """Messages of a channel in the requested order. ``more``: whether further
    messages follow in this order.

    ``last``: the id of the newest entry of the channel, or 0 if there is no
    entry. ``extent``: the extent of the log.
    """

    entries: list[Entry]
    more: bool
    last: int
    extent: LogExtent


MOST_UNREAD: Final = ConversationSummary.MOST_UNREAD
UNREAD_ENTRIES: Final = 5000
"""The number of the newest entries, of all kinds and all senders, among which
unread messages are counted. Without this limit, a user who writes and never
reads would make a list of conversations slow."""
MOST_RECEIPTED: Final = 1000


def page_size(entry: Entry) -> int:
    """Return the size of an entry on a page, in bytes."""
    if entry.reactions:
        reactions = len(msgspec.json.encode(entry.reactions))
    else:
        reactions = 0
    return HistoryPage.size_of(entry.body) + len(entry.meta) + reactions


OPTIONS: Final[dict[str, tuple[int, str, str]]] = {
    "history": (1, "since_joining", "all"),
    "invite": (2, "member", "admin"),
    "rename": (4, "admin", "member"),
    "pin": (8, "admin", "member"),
    "bots": (16, "mentions", "all"),
    "write": (32, "member", "admin"),
    "reply": (64, "member", "admin"),
}
"""Option of a group → its bit, its value if the bit is not set (the default),
and its value if it is set.

``history``: which messages a member who joins from then on may read. ``bots``:
which messages bots read from then on. The value of each other option is the
lowest role that may do the act. A member who may write may also reply in
threads.
"""
OPENNESS: Final[tuple[tuple[bool, Everybody], ...]] = (
    (False, ""),
    (True, ""),
    (False, "members"),
    (False, "all"),
)
"""The meaning of the column ``open`` of a group, by its value: whether anybody
may join, and who is a member without joining. Nodes of release 1.0 only
distinguish 0 from other values."""


def openness_of(column: int) -> tuple[bool, Everybody]:
    """Return the meaning of the column ``open``. If a later release has written
    the value, the group counts as closed, and nobody is a member without
    joining."""
    if column < len(OPENNESS):
        return OPENNESS[column]
    return OPENNESS[0]


GroupText = Literal["name", "avatar", "description", "handle"]
"""The texts of a group: its name, the URL of its picture, its description, and
its handle."""


def may_write(options: int, role: str, in_thread: bool = False) -> bool:
    """Tell whether the options of a group let a member with this role write. If
    ``in_thread``, tell whether they let the member reply in a thread alone."""
    if role != "member" or not options & OPTIONS["write"][0]:
        return True
    return in_thread and not options & OPTIONS["reply"][0]


def options_of(bits: int) -> dict[str, str]:
    """Return the options of a group, with their values."""
    return {name: values[bool(bits & bit)] for name, (bit, *values) in OPTIONS.items()}


class GroupState(Struct, frozen=True):
    """The state of a group before a change. ``roles``: the roles of the acting
    user and of the named users, if they are members. ``open``: whether anybody
    may join. ``options``: the options with their values. ``muted``: the muted
    members. ``everybody``: which users are members without joining. ``bots``:
    the members who are bots."""

    roles: Mapping[str, str]
    open: bool
    options: Mapping[str, str] = {}
    muted: Collection[str] = ()
    everybody: Everybody = ""
    bots: Collection[str] = ()


Right = Callable[[GroupState], Rejected | None]
"""A permission check for a change of a group. The check runs under the log's
lock, so nothing happens between the check and the change. It may run in another
thread, so it must use only its argument."""


# --- data between senders, the log, and the deliverers
# -------------------------

Done = Callable[[Stored], None]
"""A function that gets the result of a draft. The function is called once, and
must not switch greenlets."""


class DraftSource(Protocol):
    """The row of a feature that decides about a draft. One transaction stores
    the message and changes the row, or does neither. Both methods run in this
    transaction of the log. The transaction may run again, perhaps in another
    thread."""

    def holds(self, sql: Statements) -> bool:
        """Lock the row, and return whether it lets the draft be stored. The
        calls come in the order of the drafts, so a draft sees the changes of
        earlier drafts."""

    def stored(self, sql: Statements, entry: Entry) -> None:
        """Delete or change the row, because the message is stored as this
        entry."""


class DraftOwner(Protocol):
    """The sender of drafts to the log, which passes on their results."""

    def stored(self, request: AppendRequest, result: Stored) -> None:
        """Receive the result of a draft, after the commit and before its entry
        is delivered. Results of an app come in the order of the ids. The final
        result follows a StorageUnsure. Never switches greenlets."""


class AppendRequest(Struct, eq=False):
    """A draft in the queue of the log, and its result.

    ``done`` gets the result. It is None if nobody waits for the result any
    more. If there is an ``owner``, the owner gets the result and passes it on.
    ``connection``: the connection of the sender. ``to_account``: whether the
    receiver of a first message must have an account. ``source``: the row that
    decides about the draft. The result StorageUnavailable means that nothing
    was stored. StorageUnsure means that the answer to COMMIT did not come in
    time; its ``on_known`` receives the final result.
    """

    app: str
    draft: Draft
    done: Done | None
    owner: DraftOwner | None = None
    connection: Connection | None = None
    to_account: bool = False
    source: DraftSource | None = None
    resend: bytes | None = None
    """The digest of the ``client_msg_id``, or None if there is no such id."""
    rejected: Rejected | None = None
    """Set if the draft is invalid. The draft then waits only to be answered in
    order."""
    size: int = 0
    """The size of the content in bytes."""
    outcome: Stored | None = None
    """The result, set in the transaction."""
    unsure: StorageUnsure | None = None
    """Set if the request was answered with this error."""


class Commit(Struct, frozen=True, gc=False, tag="l", array_like=True):
    """The entries that a transaction stored in the log of an app, with ids from
    ``first`` to ``last``. ``entries`` has all of them, or only the entries for
    this node. Nodes send each other this struct."""

    app: str
    first: int
    last: int
    entries: list[Entry]


class LogObserver(Protocol):
    """Is notified of the entries that this node stores in the logs of some
    apps. It adds itself to ``MessageServices.observers`` when its feature is
    built."""

    @property
    def apps(self) -> Container[str]:
        """The apps whose stored entries this observer wants. Never switches
        greenlets."""

    def committed(
        self, app: str, first: int, last: int, entries: Sequence[Entry]
    ) -> None:
        """Process the entries that a transaction of this node has stored in one
        of :attr:`apps`. Never switches greenlets."""

    def undelivered(self, app: str) -> int | None:
        """Return the position in the log after which entries must not expire
        yet, or None if all entries may expire. Switches greenlets.

        Raises StorageUnavailable.
        """
