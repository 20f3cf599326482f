"""The commands of clients on stored messages, and the limits of a message."""

from collections.abc import Sequence
from itertools import chain
from typing import Final, Literal

from msgspec import Struct

from imserver.gateway.model import Command, Limit
from imserver.messenger.log.meta import Button

MAX_BUTTON_ROWS: Final = 8
MAX_BUTTONS: Final = 4
"""The most rows of buttons of a message, and the most buttons of a row."""


def buttons_objection(rows: Sequence[Sequence[Button]]) -> str:
    """Return why a message cannot have these rows of buttons, or ``""`` if it
    can."""
    has_valid_rows = all(1 <= len(row) <= MAX_BUTTONS for row in rows)
    if len(rows) > MAX_BUTTON_ROWS or not has_valid_rows:
        return f"at most {MAX_BUTTON_ROWS} rows of 1 to {MAX_BUTTONS} buttons"
    buttons = list(chain.from_iterable(rows))
    for button in buttons:
        wrong = _button_objection(button)
        if wrong:
            return wrong
    # A press names its button by the value.
    if len({button.value for button in buttons}) < len(buttons):
        return "two buttons have the same value"
    return ""


def _button_objection(button: Button) -> str:
    """Return why a message cannot have this button, or ``""`` if it can."""
    if not button.text.strip() or len(button.text) > Limit.BUTTON:
        return f"a text has 1 to {Limit.BUTTON} characters"
    if not button.value or len(button.value.encode()) > Limit.BUTTON:
        return f"a value has 1 to {Limit.BUTTON} bytes"
    return ""


def exclusive_objection(count: int) -> str:
    """Return why this number of buttons cannot be the answers to a question.

    Returns ``""`` if they can.
    """
    if 1 <= count <= Limit.OPTIONS:
        return ""
    return f"1 to {Limit.OPTIONS} buttons"


def mentions_objection(users: Sequence[str]) -> str:
    """Return why a message cannot mention these users, or ``""`` if it can.

    The word ``all`` stands for everybody in the conversation.
    """
    if not all(users):
        return "an empty id"
    if "all" in users and len(users) > 1:
        return "`all` mentions everybody, so nobody else is named"
    return ""


class Ack(Command, frozen=True, gc=False):
    """Acknowledge everything up to an id."""

    id: int


class Send(Command, frozen=True, gc=False):
    """Store and deliver a message to the user ``to``, or in a ``conversation``.

    A ``kind`` of ``recall`` or ``edit`` refers to another entry and goes to the
    conversation of that entry. ``forward`` sends the content of the message
    ``about`` as a new message. ``press`` presses the button of the message
    ``about`` with the value ``body``. The client makes ``id``. A message with a
    repeated id is not stored again.
    """

    to: str = ""
    conversation: int = 0
    kind: Literal["message", "recall", "edit", "forward", "press"] = "message"
    type: str = "text"
    body: bytes = b""
    id: str = ""
    about: int = 0
    meta: bytes = b""
    thread: int = 0
    """A message of the conversation. The new message is a reply in its thread."""
    also: bool = False
    """Whether the conversation also shows the reply."""


class Sync(Command, frozen=True, gc=False):
    """Request the entries after the id ``after``, and changes of the user's
    marks after ``version`` (-1: without marks)."""

    after: int
    limit: int
    version: int = -1


class React(Command, frozen=True, gc=False):
    """React to a message with an emoji, or ``remove`` the reaction."""

    id: int
    emoji: str
    remove: bool = False


class Pin(Command, frozen=True, gc=False):
    """Pin a message in its conversation, or ``remove`` its pin."""

    id: int
    remove: bool = False


class AnswerAsk(Command, frozen=True, gc=False):
    """Answer the question ``id`` with the ``value`` of an option, or with a
    free ``text``. In a poll, ``choices`` are the indexes of options; ``()``
    withdraws the vote."""

    id: int
    value: str = ""
    text: str = ""
    choices: tuple[int, ...] | None = None


class AskPins(Command, frozen=True, gc=False):
    """Request the messages of a conversation that were pinned before ``before``
    (0: all)."""

    conversation: int
    before: int = 0


class History(Command, frozen=True, gc=False):
    """Request the messages of a conversation before the id ``before`` (0: the
    newest), or, if ``after`` is not -1, after the id ``after``.

    ``types``: only messages of these types.
    """

    conversation: int
    before: int
    limit: int
    after: int = -1
    types: tuple[str, ...] = ()


class Conversations(Command, frozen=True, gc=False):
    """Request the user's conversations below ``before`` (0: from the start),
    newest first."""

    before: int
    limit: int


class Read(Command, frozen=True, gc=False):
    """Set the read position of the user in a conversation."""

    conversation: int
    id: int


class Received(Command, frozen=True, gc=False):
    """Confirm that a conversation was received up to an id. Its senders may see
    this."""

    conversation: int
    id: int


class AskReceipts(Command, frozen=True, gc=False):
    """Request how far the other members of a conversation, with ids after
    ``after``, have read and received it. ``message`` (not 0): only members who
    have read this message."""

    conversation: int
    after: str
    limit: int
    message: int = 0


class CountReceipts(Command, frozen=True, gc=False):
    """Request how many other members have received and read these messages of a
    conversation."""

    conversation: int
    ids: tuple[int, ...]


class AskThreads(Command, frozen=True, gc=False):
    """Request the threads that the user follows whose last reply is before the
    id ``before`` (0: all)."""

    before: int
    limit: int


class AskThread(Command, frozen=True, gc=False):
    """Request the last replies in the thread of a message, before the id
    ``before`` (0: the newest)."""

    thread: int
    before: int
    limit: int


class FollowThread(Command, frozen=True, gc=False):
    """Follow the thread of a message, or mute it (``remove``)."""

    thread: int
    remove: bool = False


class ReadThread(Command, frozen=True, gc=False):
    """Set up to which reply the user has read the thread of a message."""

    thread: int
    id: int


class AskMarks(Command, frozen=True, gc=False):
    """Request the changes of the user's marks on all devices after a
    version."""

    version: int


class Typing(Command, frozen=True, gc=False):
    """The user is typing to the user ``to``, or in a ``conversation``."""

    to: str = ""
    conversation: int = 0


class SearchFilter(Struct, frozen=True, gc=False):
    """Conditions of a search besides its words.

    ``sender``: the user who has sent the message, or ``""`` for anybody.
    ``types``: ``()`` means ``text``, or all types if the search has neither
    text nor ``link``. ``link``: whether the text must have a link. ``since``,
    ``until``: the message was sent at or after ``since``, and before ``until``,
    in Unix milliseconds. 0 means no bound.
    """

    sender: str = ""
    types: tuple[str, ...] = ()
    link: bool = False
    since: int = 0
    until: int = 0


NO_FILTER: Final = SearchFilter()


class Search(Command, frozen=True, gc=False):
    """Request the messages that contain ``text``, before the id ``before`` (0:
    the newest). The search is in one conversation or, if it is 0, in all
    conversations that the user may read. If there is a ``filter``, ``text`` may
    be ``""``."""

    text: str
    conversation: int
    before: int
    limit: int
    filter: SearchFilter = NO_FILTER


class Hide(Command, frozen=True, gc=False):
    """Hide these entries from the user."""

    ids: tuple[int, ...]
