"""Plain data that every layer speaks: what a client asks (commands), what the server tells it (events).

Nothing here has behaviour or reaches elsewhere. A dialect turns bytes into a :class:`Request` that holds
one of the commands, and an :class:`Event` or :class:`Reply` into bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, ClassVar, Final, Literal

from msgspec import Struct

SYSTEM_PREFIX: Final = "system:"
"""What the names of apps begin with that are systems of the client dialect."""


class Login(Struct, frozen=True, gc=False):
    """The client says who it is: ``user`` of ``app``, on a ``device`` (``""`` is a name too)."""

    app: str
    user: str
    token: str = ""
    device: str = ""


class Heartbeat(Struct, frozen=True, gc=False):
    """The client is alive; renews the session's expiry."""


class Ping(Struct, frozen=True, gc=False):
    """The client wants to hear ``pong``; allowed before login, renews nothing."""


class TalkLogin(Login, frozen=True, gc=False):
    """A login that says whom one talks to: the user ``peer``, or those in ``room`` (``""``: in none)."""

    peer: str = ""
    room: str = ""


class Say(Struct, frozen=True, gc=False):
    """The client says something to whom its login names. ``type`` tells what ``text`` is, ``id`` is the
    client's own."""

    type: str
    text: str
    id: str = ""


class ChatLogin(Struct, frozen=True, gc=False):
    """A login in which the token alone says who it is (the protobuf dialect).

    ``cursor``: the client takes part in all that is stored, and has everything up to this id (-1: it does not
    say); ``acks``: it acknowledges what it is told.
    """

    token: str
    device: str = ""
    cursor: int = -1
    acks: bool = False


class ChatMessage(Struct, frozen=True, gc=False):
    """A message to an account or a group, to be kept. ``number`` counts the messages of one connection; the
    other fields are as the client has sent them, whatever they are."""

    number: int
    session_type: int
    receiver: int
    sender: int
    type: int
    content: bytes
    sent_ms: int
    client_msg_id: str = ""
    kind: int = 0
    about: int = 0
    meta: bytes = b""


class ChatSync(Struct, frozen=True, gc=False):
    """The client wants the messages behind ``after``; at most ``limit`` of them (0: as many as usual)."""

    after: int
    limit: int = 0


class Resume(Login, frozen=True, gc=False):
    """A login of a client that takes part in what is stored: ``cursor`` is the greatest id that it has.

    ``acks``: it acknowledges what it is told.
    """

    cursor: int = 0
    acks: bool = False


class Ack(Struct, frozen=True, gc=False):
    """The client has everything up to an id."""

    id: int


class Send(Struct, frozen=True, gc=False):
    """The client wants something stored and told: to the user ``to``, or in a ``conversation``.

    A ``kind`` of ``recall`` or ``edit`` is about another entry, and goes where that is. ``id`` is the
    client's own: what comes again under it is not stored again.
    """

    to: str = ""
    conversation: int = 0
    kind: Literal["message", "recall", "edit"] = "message"
    type: str = "text"
    body: bytes = b""
    id: str = ""
    about: int = 0
    meta: bytes = b""


class Sync(Struct, frozen=True, gc=False):
    """The client wants what it missed behind the id ``after``, and behind the version ``version`` of its
    user's marks (-1: not those)."""

    after: int
    limit: int
    version: int = -1


class History(Struct, frozen=True, gc=False):
    """The client wants what was said in a conversation before the id ``before`` (0: last)."""

    conversation: int
    before: int
    limit: int


class Conversations(Struct, frozen=True, gc=False):
    """The client wants its conversations, those with news first, below ``before`` (0: from the first on)."""

    before: int
    limit: int


class Read(Struct, frozen=True, gc=False):
    """The client's user has read a conversation up to an id."""

    conversation: int
    id: int


class Received(Struct, frozen=True, gc=False):
    """The client has received a conversation up to an id, and its sender may know."""

    conversation: int
    id: int


class AskReceipts(Struct, frozen=True, gc=False):
    """The client wants to know up to where the other members of a conversation, by their ids behind
    ``after``, have read and received it."""

    conversation: int
    after: str
    limit: int


class AskMarks(Struct, frozen=True, gc=False):
    """The client wants what its user marked, on whatever device, behind a version."""

    version: int


class Typing(Struct, frozen=True, gc=False):
    """The client's user is writing to the user ``to``, or in a ``conversation``."""

    to: str = ""
    conversation: int = 0


class Search(Struct, frozen=True, gc=False):
    """The client wants the messages with ``text`` in them before the id ``before`` (0: the newest), in one
    conversation (0: in all that its user may read)."""

    text: str
    conversation: int
    before: int
    limit: int


class Hide(Struct, frozen=True, gc=False):
    """The client's user does not want to see these entries any more."""

    ids: tuple[int, ...]


Command = (
    Login
    | Heartbeat
    | Ping
    | TalkLogin
    | Say
    | ChatLogin
    | ChatMessage
    | ChatSync
    | Resume
    | Send
    | Sync
    | History
    | Conversations
    | Read
    | Received
    | AskReceipts
    | AskMarks
    | Typing
    | Search
    | Hide
    | Ack
)


class Request(Struct, gc=False):
    """One decoded client frame.

    ``seq`` and ``name`` are echoed in the reply. ``command`` is None when the dialect itself refuses the
    request; ``code`` is then the reply code to answer with (``errors.REPLY_…``).
    """

    seq: str
    name: str
    command: Command | None
    code: int = 0


class Reply(Struct, gc=False):
    """The answer to one request: a reply code (``errors.REPLY_…``) and data (None: nothing to say)."""

    code: int
    data: Any = None


class Event(Struct, frozen=True, gc=False, omit_defaults=True):
    """What the server tells a client unasked.

    ``kind`` is ``"enter"`` or ``"exit"`` (of an app), ``"left"`` (of a room), ``"msg"``, ``"online"`` or
    ``"offline"`` (of a group of the client dialect); ``sender`` and ``text`` are its author and words; ``id``
    identifies a push (the caller's message id; ``""`` lets the dialect make one).
    """

    kind: str
    sender: str
    text: str
    id: str = ""
    type: str = "text"
    """What the payload is: ``text``, ``image``, … or the back end's own word."""
    data: bytes = b""
    """The payload as JSON, where it is no string; else ``b""``, and ``text`` is the payload."""
    code: int = 0
    """The number that the client dialect gives its pushes."""
    note: str = ""
    """The client dialect's ``msg``."""
    time: int = 0
    """When it happened, in Unix seconds; 0 where nobody asks."""


class Signal(Event, frozen=True, gc=False, omit_defaults=True):
    """What those who follow a conversation are told at once, and nobody keeps for later.

    ``kind`` is ``typing`` (``sender`` is writing to ``to``, or in a ``conversation``), ``receipt``
    (``sender`` has ``read`` or ``received`` a ``conversation`` up to an id), or ``hidden`` (``sender`` does
    not want to see ``ids`` any more). ``text`` is empty.
    """

    to: str = ""
    conversation: int = 0
    read: int = 0
    received: int = 0
    ids: tuple[int, ...] = ()


class Message(Struct, frozen=True, gc=False):
    """An entry of the log, as it is told to those who may read it.

    ``id`` is its position in the log of its app, ``seq`` that in its conversation; ``to`` is the receiver
    (``""``: it is said in a group, or in ``room``). ``body`` is text in UTF-8 if ``type`` is ``text``, else
    whatever its sender gave. ``about`` is the id of the entry that it recalls, edits or replies to; ``meta``
    is JSON (``b""``: none).
    """

    id: int
    conversation: int
    seq: int
    sender: str
    to: str = ""
    kind: str = "message"
    type: str = "text"
    body: bytes = b""
    client_msg_id: str = ""
    time_ms: int = 0
    about: int = 0
    meta: bytes = b""
    room: str = ""


Held = list[Message | Callable[[], None]] | tuple[Callable[[], None], ...]
"""Messages that a subscription holds back, and functions that acknowledge a stored draft of its own."""


class Subscription(Struct, gc=False):
    """The fact that a connection follows the log of its user.

    ``held`` is None while the subscription is live: entries are delivered as they are stored. Otherwise the
    client has not asked for all earlier entries yet, and nothing may overtake those: a tuple has the
    acknowledgements that wait; a list collects new messages too, in their order.
    """

    held: Held | None = ()
    groups: tuple[int, ...] = ()
    """Conversations in whose group rooms the connection is."""
    has_cursor: ClassVar[bool] = True
    """The client tracks a cursor. Its acknowledgements are held until it has caught up."""

    @property
    def live(self) -> bool:
        """New entries are delivered."""
        return self.held is None


class DialectState(Struct, gc=False):
    """State of a connection that the service of its dialect owns; each dialect that has any has a subclass.

    ``rooms_from_log``: what is stored in the connection's rooms is delivered to it from the log.
    """

    rooms_from_log: bool = False


class BadFrame(Exception):
    """A frame that is no request at all; ``reply`` is the payload to answer with (None: answer nothing)."""

    def __init__(self, reply: bytes | None) -> None:
        super().__init__("not a request of this dialect")
        self.reply = reply


class Outcome(IntEnum):
    """The result of a push to one target."""

    NOT_SENT = 0
    """No receiver is online; the message id may be used again."""
    SENT = 1
    REPEATED = 2
    """The message id was accepted before; nothing was delivered again."""
    FAILED = 3
    """The user is on another node, which has not received it; the message id may be used again."""
    PARTLY = 4
    """To all users of an app or to a room: a node has not received it, the others have."""
    HELD = 5
    """No receiver is online; it is delivered if the user logs in in time."""
    STORED = 6
    """It is in the message log, from which sessions that use stored messages receive it."""


ACCEPTED: Final = frozenset({Outcome.SENT, Outcome.PARTLY, Outcome.HELD, Outcome.STORED})
"""Outcomes after which an id must not be used again."""
YIELD_TARGETS: Final = 256
"""Targets of a large push that are served before the event loop runs again."""
