"""Stored messages in the form for clients (docs/reference/protocol.md, "Stored
messages")."""

from __future__ import annotations

from typing import Any, Final, Self, TypeVar

import msgspec
from msgspec import Struct, field

from imserver_client.results import PieceResult

T = TypeVar("T")


class Reaction(Struct, frozen=True):
    """How often users reacted to a message with an emoji. ``users``: at most 10
    of them. ``mine``: you are one of the users."""

    emoji: str
    count: int
    users: tuple[str, ...] = ()
    mine: bool = False


class Button(Struct, frozen=True):
    """A button under a message of a bot."""

    text: str
    value: str


class SlashCommand(Struct, frozen=True):
    """The command ``/name`` of a bot; ``text`` is the rest of the message."""

    bot: str
    name: str
    text: str = ""


class BotCommand(Struct, frozen=True):
    """A slash command of a bot in a conversation. ``name``: the user name of
    the bot."""

    bot: str
    command: str
    description: str = ""
    name: str = ""
    nickname: str = ""


class BotCommandPage(Struct, frozen=True):
    """The slash commands in a conversation, ordered by bot."""

    commands: tuple[BotCommand, ...]


class OpenedAnswer(Struct, frozen=True):
    """The id of a streamed message that has begun."""

    stream: str


class AppendedPieces(Struct, frozen=True):
    """The results for pieces, in their order."""

    results: tuple[PieceResult, ...]


class ClosedAnswer(Struct, frozen=True):
    """The result of closing a streamed message. ``id``: of the stored message,
    0 without one."""

    stream: str
    status: str
    id: int = 0


class StoppedAnswer(Struct, frozen=True):
    """The result of stopping a streamed message: ``closed``, ``repeated`` (it
    was closed before) or ``unknown``."""

    stream: str
    status: str


def _converted(value: Any, kind: type[T]) -> T | None:
    """The value as a ``kind``. Returns None if it is malformed."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


class Entry(Struct, frozen=True, kw_only=True):
    """One entry of the log of the app.

    ``id`` is its position in the log, ``seq`` its number in its
    ``conversation``. ``kind``:

    - ``"message"``: has ``text``, or JSON as ``data``, or ``base64`` (binary
      content of other dialects). ``type`` is ``"text"``, ``"picture"`` and so
      on. ``about`` is the id of the message to which it replies. In a history
      it has its latest content. Then ``meta["edited"]`` is the id of the last
      edit.
    - ``"edit"`` or ``"recall"`` of the message with the id ``about``. In a
      history a recalled message is itself a ``"recall"``, whose ``about`` is
      its own id.
    - ``"reaction"`` to the message with the id ``about``: its ``type`` is
      ``"add"`` or ``"remove"``, its ``text`` the emoji, and ``meta["count"]``
      the number of users who react with it from then on.
    - ``"pin"`` of a message, of the same types.
    - ``"press"`` of a button of your message with the id ``about``; ``text`` is
      the value of the button. If it has a ``type``, it is a change of a
      question: ``"answer"``, ``"cancel"``, ``"expire"``, ``"escalate"``,
      ``"remind"`` or ``"tally"`` (of a poll). Then ``meta["ask"]`` has the
      changes of its :attr:`ask`.
    - ``"group"``, ``"join"``, ``"leave"``: changes of a group.

    ``sender`` is empty for a message of a back end without a sender; ``to`` is
    empty in a group. ``meta`` has ``mentions``, and ``forwarded`` (``from`` and
    ``id`` of the original). It has the ``users`` who joined or left, with the
    number of ``members`` since then, and the ``change`` of a group. It has the
    :attr:`command` and :attr:`buttons` of bots, and ``incomplete`` if a bot did
    not finish the text. The :attr:`thread` of a reply is the first message of
    the thread. That message has ``meta["replies"]``: their ``count``, the
    ``last`` one and its ``time``, and some ``users`` who wrote. ``time`` is in
    milliseconds since 1970.
    """

    id: int
    conversation: int
    seq: int
    kind: str
    sender: str = field(default="", name="from")
    to: str = ""
    type: str = ""
    text: str | None = None
    data: Any = None
    base64: bytes | None = None
    client_msg_id: str = field(default="", name="clientMsgID")
    about: int = 0
    meta: dict[str, Any] = {}
    time: int = 0
    reactions: tuple[Reaction, ...] = ()

    @property
    def thread(self) -> int:
        """The id of the message with which its thread begins. 0 if it is not a
        reply in a thread."""
        return _converted(self.meta.get("thread"), int) or 0

    @property
    def is_beside(self) -> bool:
        """Whether the entry is shown in its thread only, and not in its
        conversation."""
        return self.thread > 0 and self.meta.get("also") is not True

    @property
    def command(self) -> SlashCommand | None:
        """The slash command of a bot, if the message is one; else None."""
        return _converted(self.meta.get("command"), SlashCommand)

    @property
    def buttons(self) -> tuple[tuple[Button, ...], ...]:
        """The rows of buttons under a message of a bot."""
        return (
            _converted(self.meta.get("buttons"), tuple[tuple[Button, ...], ...]) or ()
        )

    @property
    def ask(self) -> Ask | None:
        """The question, if the message is one; else None."""
        if self.kind == "message":
            return _converted(self.meta.get("ask"), Ask)
        return None

    @classmethod
    def of(cls, data: Any) -> Self | None:
        """Decode an entry. Returns None if it is malformed."""
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError:
            return None


class DraftMention(Struct, frozen=True):
    """A name in a draft that mentions a user."""

    name: str
    user: str


class UnsentText(Struct, frozen=True, omit_defaults=True):
    """A text that you have not sent yet. ``reply_to``: the message to which it
    replies (0: none)."""

    text: str = ""
    reply_to: int = field(default=0, name="replyTo")
    mentions: tuple[DraftMention, ...] = ()


class Arrangement(Struct, frozen=True, kw_only=True):
    """Your own settings of a conversation, on all your devices.

    ``pinned``: the conversation with the greatest number comes first.
    ``archived``, ``marked``: the newest entry at the time when you archived it,
    or marked it as unread; 0 if you did not. ``version``: a greater one is
    newer. ``folders``: the ids of the folders in which it is.
    """

    conversation: int
    version: int = 0
    pinned: int = 0
    archived: int = 0
    marked: int = 0
    draft: UnsentText | None = None
    folders: tuple[int, ...] = ()

    @classmethod
    def of(cls, data: Any) -> Self | None:
        """Decode an arrangement. Returns None if it is malformed."""
        return _converted(data, cls)


class Folder(Struct, frozen=True):
    """A folder of yours. ``id``: from 1 to 4294967295; choose one at random for
    a new folder."""

    id: int
    name: str


class FolderList(Struct, frozen=True):
    """Your folders in their order, on all your devices. ``version``: a greater
    one is newer."""

    version: int
    folders: tuple[Folder, ...] = ()

    @classmethod
    def of(cls, data: Any) -> Self | None:
        """Decode a list of folders. Returns None if it is malformed."""
        return _converted(data, cls)


class ArrangementPage(Struct, frozen=True):
    """Arrangements in the order of their changes. ``version``: continue after
    it while there are ``more``. ``folders``: the list of folders, if it was
    changed."""

    arrangements: tuple[Arrangement, ...]
    version: int
    more: bool = field(name="hasMore")
    folders: FolderList | None = None


class Reported(Struct, frozen=True):
    """The id of a report to the moderators of the app."""

    report: str


class ConversationWish(Struct, frozen=True, kw_only=True):
    """Your wish for notifications of a conversation, which another device of
    yours has changed.

    ``level``: ``"all"``, ``"mentions"`` or ``"nothing"``. ``mute_until``: Unix
    seconds; 0: not muted.
    """

    conversation: int
    level: str = "all"
    mute_until: int = field(default=0, name="muteUntil")

    @classmethod
    def of(cls, data: Any) -> Self | None:
        """Decode a notification wish. Returns None if it is malformed."""
        return _converted(data, cls)


SIGNALS: Final = frozenset({"typing", "receipt", "hidden", "contact", "piece"})


class Signal(Struct, frozen=True, kw_only=True):
    """A live notice about a conversation or a contact; it is not stored.

    ``kind`` is one of these:

    - ``"typing"``: ``sender`` is writing ``to`` you or in a ``conversation``.
    - ``"receipt"``: ``sender`` has ``read`` or ``received`` a conversation up
      to an id.
    - ``"hidden"``: another device of yours has hidden the entries ``ids``.
    - ``"contact"``: the relation of ``sender`` to you has changed, for example
      to a friend, or to somebody who asks to be a friend.
    - ``"piece"``: number ``piece`` of a message that the bot ``sender``
      streams, with ``text``. ``whole``: the whole text so far. ``done``: it
      ended without a message; otherwise the message follows with ``stream`` as
      ``client_msg_id``.
    """

    kind: str = ""
    sender: str = field(default="", name="from")
    to: str = ""
    conversation: int = 0
    read: int = 0
    received: int = 0
    ids: tuple[int, ...] = ()
    stream: str = ""
    piece: int = 0
    text: str = ""
    type: str = "text"
    whole: bool = False
    done: bool = False

    @classmethod
    def of(cls, kind: str, data: Any) -> Self | None:
        """Decode a signal. Returns None if it is malformed."""
        try:
            return msgspec.structs.replace(msgspec.convert(data, cls), kind=kind)
        except msgspec.ValidationError:
            return None


class LogReset(Struct, frozen=True):
    """The cursor is no longer valid, because entries after it have expired, or
    because it belongs to another log. Delete your entries; the server sends all
    entries that it has."""


class Replaced(Struct, frozen=True):
    """The content that is stored in place of yours: a text, or JSON as
    ``data``."""

    type: str
    text: str | None = None
    data: Any = None


class Sent(Struct, frozen=True):
    """The position of your stored message. ``repeated``: it was stored before,
    with the same ``client_msg_id``. ``replaced``: the back end has replaced its
    content, or it was stored before with another content."""

    id: int
    conversation: int
    seq: int
    repeated: bool = False
    replaced: Replaced | None = None


class AskOption(Struct, frozen=True):
    """An option of a question."""

    text: str
    value: str


class AskAnswer(Struct, frozen=True):
    """An answer that counts, with its user, and the ``value`` of an option or a
    free ``text``."""

    user: str
    value: str = ""
    text: str = ""
    time: int = 0


class Poll(Struct, frozen=True):
    """The poll of a question, with the totals of the last count. ``many``: a
    user may choose several options. ``anonymous``: nobody sees who has voted
    for what. ``counts``: the votes for each option. ``users``: for each option
    some users who chose it last. ``time``: when the votes were counted, in
    milliseconds since 1970."""

    many: bool = False
    anonymous: bool = False
    voters: int = 0
    counts: tuple[int, ...] = ()
    users: tuple[tuple[str, ...], ...] = ()
    time: int = 0


class Ask(Struct, frozen=True):
    """The question in a message. ``text``: users may answer with free text.
    ``of``: the users who may answer; None: all readers except its author.
    ``need``: how many users answer. ``until``: the deadline in milliseconds
    since 1970 (0: none). ``state``: ``""`` (open), ``"answered"``,
    ``"cancelled"`` or ``"expired"``. ``poll``: the question is a poll, in which
    everybody may vote. ``mine``: the options for which you have voted, by their
    index; None: not known. ``fixed``: its text is never edited."""

    options: tuple[AskOption, ...] = ()
    text: bool = False
    of: tuple[str, ...] | None = None
    need: int = 1
    until: int = 0
    state: str = ""
    answers: tuple[AskAnswer, ...] = ()
    poll: Poll | None = None
    mine: tuple[int, ...] | None = None
    fixed: bool = False


class Answered(Struct, frozen=True):
    """The question after your answer. ``id`` is 0 if you had given this answer
    before, or if your vote will be counted a little later."""

    conversation: int
    ask: Ask
    id: int = 0
    seq: int = 0


class Annotation(Struct, frozen=True):
    """The position of your stored reaction or pin. ``id`` is 0 if nothing had
    to change."""

    conversation: int
    id: int = 0
    seq: int = 0


class PinPage(Struct, frozen=True):
    """Pinned messages; the one that was pinned last comes first. ``before``: of
    the next page; 0 if it is the last page."""

    messages: tuple[Entry, ...]
    before: int = 0


class MessagePage(Struct, frozen=True):
    """Entries in the order of their ids. ``more``: further ones exist. Pass
    ``before`` to get the next page of a search, or of messages of some types.
    """

    messages: tuple[Entry, ...]
    more: bool = field(name="hasMore")
    before: int = 0


class Thread(Struct, frozen=True, kw_only=True):
    """A thread of replies. ``thread``: the id of the ``message`` with which it
    begins. The message is missing if you may not read it. ``last``: the id of
    the last reply. ``unread``: replies of others after ``read``, at most 100.
    ``follows``: you are notified of replies."""

    thread: int
    conversation: int
    last: int = 0
    read: int = 0
    unread: int = 0
    follows: bool = False
    message: Entry | None = None


class ThreadMark(Thread, frozen=True, kw_only=True):
    """A change of a thread by another device of yours: it has read, followed or
    muted the thread. It has no ``message``."""

    @classmethod
    def of(cls, data: Any) -> Self | None:
        """Decode a mark. Returns None if it is malformed."""
        return _converted(data, cls)


class ThreadList(Struct, frozen=True):
    """Threads; the ones with the newest replies come first. For the next page
    pass ``last`` of the last thread as ``before``."""

    threads: tuple[Thread, ...]
    more: bool = field(name="hasMore")


class ThreadPage(Struct, frozen=True):
    """A thread with a page of its replies, in the order of their ids. Pass
    ``before`` to get the page before it."""

    thread: Thread
    messages: tuple[Entry, ...]
    more: bool = field(name="hasMore")
    before: int = 0


class Conversation(Struct, frozen=True, kw_only=True):
    """One conversation of the user. By its ``kind`` it is with the user
    ``peer``, or of a group.

    ``unread``: number of unread messages of others, at most 1,000;
    ``unread_more`` tells that there are more. ``mentions``: number of unread
    messages that mention the user. ``read``: the id up to which the user has
    read. ``position``: see :attr:`before`. ``added``: the user has become a
    member of the group after that.
    """

    id: int
    kind: str
    peer: str = ""
    name: str = ""
    avatar: str = ""
    """URL of the picture of a group."""
    role: str = ""
    unread: int = 0
    mentions: int = 0
    read: int = 0
    last: Entry | None = None
    position: int = field(default=0, name="place")
    added: bool = False
    open: bool = False
    """Whether others find the group, and may join."""
    everybody: str = ""
    """Everybody of this kind is a member without joining: ``"members"`` of the
    app, or ``"all"``, including guests."""
    write: str = "member"
    """The lowest role that may write in the group. ``reply``: the lowest role
    that may reply in threads."""
    reply: str = "member"
    unread_more: bool = field(default=False, name="unreadMore")

    @property
    def before(self) -> int:
        """The argument ``before`` of ``conversations`` that returns the page
        after this one."""
        if self.position or self.last is None:
            return self.position
        return self.last.id


class ConversationPage(Struct, frozen=True):
    """Conversations; the latest comes first."""

    conversations: tuple[Conversation, ...]
    more: bool = field(name="hasMore")


class Receipt(Struct, frozen=True, kw_only=True):
    """The ids up to which a user has ``read`` and ``received`` a
    conversation."""

    user: str
    conversation: int = 0
    read: int = 0
    received: int = 0


class ReceiptPage(Struct, frozen=True):
    """Receipts in the order of user ids."""

    receipts: tuple[Receipt, ...]
    more: bool = field(name="hasMore")


class ReceiptCount(Struct, frozen=True):
    """How many other members may read the message ``id`` (``members``), and how
    many have received and read it."""

    id: int
    members: int
    received: int
    read: int


class ReceiptCounts(Struct, frozen=True):
    """Counts in the order of the ids in the request."""

    counts: tuple[ReceiptCount, ...]


class ReadPosition(Struct, frozen=True):
    """The id up to which you have read a conversation."""

    conversation: int
    id: int


class Marks(Struct, frozen=True):
    """Your bookmarks from any device; ``version`` includes these marks.
    ``more``: request further ones with this version."""

    version: int
    read: tuple[ReadPosition, ...] = ()
    hidden: tuple[int, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    more: bool = False
