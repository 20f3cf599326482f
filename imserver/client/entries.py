"""Stored messages as a client sees them: entries of the log, and signals (docs/reference/protocol.md)."""

from __future__ import annotations

from typing import Any, Final, Self

import msgspec
from msgspec import Struct, field


class Entry(Struct, frozen=True, kw_only=True):
    """One entry of the log.

    ``id`` is its place in the log of the app, ``seq`` its place in its ``conversation``. ``kind`` says what
    it is: ``"message"``; ``"edit"`` or ``"recall"`` of the message whose id is ``about``; ``"group"``,
    ``"join"`` or ``"leave"``. A message has ``text``, or JSON as ``data`` (or ``base64``, what other dialects
    sent that is neither), of a ``type`` (``"text"``, ``"picture"``, …); ``about`` is then the id of what it
    replies to. Who reads it later finds what it says now, with the last edit's id as ``edited`` in ``meta``;
    or, in its place, a ``"recall"`` that is ``about`` itself. ``sender`` is empty when a back end speaks for
    nobody; ``to`` is empty in a group. ``meta`` has ``mentions``, or the ``users`` who came or went. ``time``
    is in milliseconds since 1970.
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

    @classmethod
    def of(cls, data: Any) -> Self | None:
        """Read an entry; None if it is none."""
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError:
            return None


SIGNALS: Final = frozenset({"typing", "receipt", "hidden"})


class Signal(Struct, frozen=True, kw_only=True):
    """What is told about conversations and is no entry.

    ``kind``: ``"typing"`` (``sender`` is writing ``to`` us, or in a ``conversation``), ``"receipt"``
    (``sender`` has ``read`` or ``received`` a conversation up to an id), ``"hidden"`` (another connection of
    ours has hidden the entries ``ids``).
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
        """Read a signal; None if it is none."""
        try:
            return msgspec.structs.replace(msgspec.convert(data, cls), kind=kind)
        except msgspec.ValidationError:
            return None


class BeginAnew(Struct, frozen=True):
    """Something behind the cursor has expired, or the cursor is none of this log: forget the entries that you
    have, all that are left follow from the first on."""


class Sent(Struct, frozen=True):
    """Where a message of ours is stored; ``repeated``: it had been stored before, under the same id."""

    id: int
    conversation: int
    seq: int
    repeated: bool = False


class Page(Struct, frozen=True):
    """Entries in the order of their ids; ``more``: there are further ones. ``before`` is where the next
    question of a search begins."""

    messages: tuple[Entry, ...]
    more: bool = field(name="hasMore")
    before: int = 0


class Conversation(Struct, frozen=True, kw_only=True):
    """One conversation of the user: with ``peer``, or a group (``kind``). ``unread`` messages of others, up
    to 1,000; ``read``: up to which id; ``place``: the id to page on by, if it is not that of ``last``."""

    id: int
    kind: str
    peer: str = ""
    name: str = ""
    role: str = ""
    unread: int = 0
    read: int = 0
    last: Entry | None = None
    place: int = 0

    @property
    def before(self) -> int:
        """What to hand to ``conversations(before=…)`` for those behind this one."""
        return self.place or (self.last.id if self.last else 0)


class ConversationPage(Struct, frozen=True):
    """Conversations, those with the newest entries first."""

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


class ReadUpTo(Struct, frozen=True):
    """Up to which id the user has read a conversation."""

    conversation: int
    id: int


class Marks(Struct, frozen=True):
    """What the user has marked, on whatever device, and the ``version`` that it is now."""

    version: int
    read: tuple[ReadUpTo, ...] = ()
    hidden: tuple[int, ...] = ()
    receipts: tuple[Receipt, ...] = ()
