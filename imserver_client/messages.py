"""Stored messages in the form for clients (docs/reference/protocol.md, "Stored messages")."""

from __future__ import annotations

from typing import Any, Final, Self

import msgspec
from msgspec import Struct, field


class Reaction(Struct, frozen=True):
    """How often users reacted to a message with an emoji. ``users``: at most 10 of them; ``mine``: you are
    one of all of them."""

    emoji: str
    count: int
    users: tuple[str, ...] = ()
    mine: bool = False


class Entry(Struct, frozen=True, kw_only=True):
    """One entry of the log of the app.

    ``id`` is its position in the log, ``seq`` its number in its ``conversation``. ``kind``:

    - ``"message"``: has ``text``, or JSON as ``data``, or ``base64`` (binary content of other dialects), of a
      ``type`` (``"text"``, ``"picture"``, …). ``about`` is the id of the message to which it replies.
      In a history it has its latest content; ``meta["edited"]`` is then the id of the last edit.
    - ``"edit"`` or ``"recall"`` of the message with the id ``about``. In a history a recalled message is
      itself a ``"recall"``, whose ``about`` is its own id.
    - ``"reaction"`` to the message with the id ``about``: its ``type`` is ``"add"`` or ``"remove"``, its
      ``text`` the emoji, and ``meta["count"]`` the number of users who react with it from then on.
    - ``"pin"`` of a message, of the same types.
    - ``"group"``, ``"join"``, ``"leave"``: changes of a group.

    ``sender`` is empty for a message of a back end without a sender; ``to`` is empty in a group. ``meta`` has
    ``mentions``, ``forwarded`` (``from`` and ``id`` of the original), or the ``users`` who joined or left.
    ``time`` is in milliseconds since 1970.
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

    @classmethod
    def of(cls, data: Any) -> Self | None:
        """Decode an entry; None if it is malformed."""
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError:
            return None


SIGNALS: Final = frozenset({"typing", "receipt", "hidden", "contact"})


class Signal(Struct, frozen=True, kw_only=True):
    """A live notice about a conversation or a contact; it is not stored.

    ``kind``: ``"typing"`` (``sender`` is writing, ``to`` you or in a ``conversation``), ``"receipt"``
    (``sender`` has ``read`` or ``received`` a conversation up to an id), ``"hidden"`` (another device of
    yours has hidden the entries ``ids``), ``"contact"`` (``sender`` has become something else to you,
    such as a friend, or somebody who asks to be one).
    """

    kind: str = ""
    sender: str = field(default="", name="from")
    to: str = ""
    conversation: int = 0
    read: int = 0
    received: int = 0
    ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, kind: str, data: Any) -> Self | None:
        """Decode a signal; None if it is malformed."""
        try:
            return msgspec.structs.replace(msgspec.convert(data, cls), kind=kind)
        except msgspec.ValidationError:
            return None


class LogReset(Struct, frozen=True):
    """The cursor is no longer valid: entries after it have expired, or it belongs to another log. Delete your
    entries; the server sends all entries that it has.
    """


class Replaced(Struct, frozen=True):
    """The content that is stored instead of yours: a text, or JSON as ``data``."""

    type: str
    text: str | None = None
    data: Any = None


class Sent(Struct, frozen=True):
    """Where your message is stored. ``repeated``: it was stored before, with the same ``client_msg_id``.
    ``replaced``: the back end has replaced its content, or it was stored before with another one."""

    id: int
    conversation: int
    seq: int
    repeated: bool = False
    replaced: Replaced | None = None


class Annotation(Struct, frozen=True):
    """Where your reaction or pin is stored. ``id`` is 0 if nothing had to change."""

    conversation: int
    id: int = 0
    seq: int = 0


class PinPage(Struct, frozen=True):
    """Pinned messages, the one that was pinned last first."""

    messages: tuple[Entry, ...]


class MessagePage(Struct, frozen=True):
    """Entries in the order of their ids; ``more``: there are further ones. Pass ``before`` to get the next
    page of a search, or of messages of some types."""

    messages: tuple[Entry, ...]
    more: bool = field(name="hasMore")
    before: int = 0


class Conversation(Struct, frozen=True, kw_only=True):
    """One conversation of the user, by its ``kind`` with the user ``peer`` or of a group. ``unread``: number
    of messages of others, at most 1,000; ``mentions``: those that mention the user; ``read``: up to which id;
    ``position``: see :attr:`before`."""

    id: int
    kind: str
    peer: str = ""
    name: str = ""
    role: str = ""
    unread: int = 0
    mentions: int = 0
    read: int = 0
    last: Entry | None = None
    position: int = field(default=0, name="place")

    @property
    def before(self) -> int:
        """The argument ``before`` of ``conversations`` for the page after this one."""
        return self.position or (self.last.id if self.last else 0)


class ConversationPage(Struct, frozen=True):
    """Conversations, the latest first."""

    conversations: tuple[Conversation, ...]
    more: bool = field(name="hasMore")


class Receipt(Struct, frozen=True, kw_only=True):
    """Up to which id a user has ``read`` and ``received`` a conversation."""

    user: str
    conversation: int = 0
    read: int = 0
    received: int = 0


class ReceiptPage(Struct, frozen=True):
    """Receipts in the order of user ids."""

    receipts: tuple[Receipt, ...]
    more: bool = field(name="hasMore")


class ReadPosition(Struct, frozen=True):
    """Up to which id you have read a conversation."""

    conversation: int
    id: int


class Marks(Struct, frozen=True):
    """Your bookmarks from any device; ``version`` includes these marks."""

    version: int
    read: tuple[ReadPosition, ...] = ()
    hidden: tuple[int, ...] = ()
    receipts: tuple[Receipt, ...] = ()
