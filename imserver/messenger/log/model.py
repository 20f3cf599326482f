"""Stored messages, and their JSON for clients and back ends. The HTTP API,
webhooks and the dialects use this JSON, except dialects for clients of other
servers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct

from imserver.gateway.config.declared import about
from imserver.gateway.errors import Problems, StorageUnavailable
from imserver.messenger.log.meta import (
    EDITED_KEY,
    NOTIFY_KEY,
    REMINDER_KEY,
    STOPPED_KEY,
    Ask,
    GroupMeta,
    MessageMeta,
    PublicationMeta,
    ask_in,
    bots_in,
    changed_in_ask,
    fields_of,
    in_thread,
)

NESTED: Final = 400
"""JSON that is nested less deeply is shown as ``data``. Deeper JSON may be
shown as text. Python clients read at most 1,000 levels, including the levels of
the frame and of their own calls."""


class ReviewUnavailable(StorageUnavailable, problem=Problems.REVIEW_UNAVAILABLE):
    """The back end of the app has not reviewed a message in time, so it was not
    stored."""


class TooManyMessages(StorageUnavailable):
    """A user with a rate (:class:`imserver.gateway.auth.rates.SenderRates`) has
    sent too many messages, so a message was not stored."""


class Reaction(Struct, frozen=True):
    """The number of reactions to a message with one emoji."""

    emoji: str
    count: Annotated[int, about("The number of users who reacted.")]
    users: Annotated[
        tuple[str, ...], about("At most 10 users who reacted, the earliest first.")
    ]
    mine: Annotated[bool, about("Whether the reader is one of the users who reacted.")]


EntryKind = Literal[
    "message", "recall", "edit", "join", "leave", "group", "reaction", "pin", "press"
]
"""The log stores a kind as its number in this order: add new kinds only at the
end."""


class Message(Struct, frozen=True, gc=False):
    """An entry of the log.

    ``id``: position in the log of its app. ``seq``: position in its
    conversation. ``members``: the two users of the conversation (``()``: the
    message is in a group or in ``room``). ``body``: UTF-8 text if ``type`` is
    ``text``, otherwise any bytes of the sender. ``about``: id of the entry that
    this entry recalls, edits, replies to, reacts to or pins. ``meta``: JSON
    (``b""``: no ``meta``).

    An edited message has the content of its last edit. A recall turns the
    message and all its edits into ``recall`` entries in their own positions.
    The message then has its own id as ``about``.

    A ``reaction`` to the message ``about`` has the type ``add`` or ``remove``,
    and the emoji as body. A ``pin`` has the same types. A ``press`` of a button
    of the message ``about`` has the value of the button as body. It is in the
    conversation of the user and the bot, wherever the message is. A ``press``
    with a type is about a question, see :mod:`imserver.messenger.log.asks`. The
    keys of ``meta`` are described in :mod:`imserver.messenger.log.meta`.
    """

    id: int
    conversation: int
    seq: int
    sender: str
    members: tuple[str, ...] = ()
    kind: EntryKind = "message"
    type: str = "text"
    body: bytes = b""
    client_msg_id: str = ""
    time_ms: int = 0
    about: int = 0
    meta: bytes = b""
    room: str = ""
    reactions: tuple[Reaction, ...] = ()

    @property
    def to(self) -> str:
        """The receiver, or ``""`` in a group or a room."""
        return self.peer(self.sender)

    def peer(self, reader: str) -> str:
        """Return the other user of the conversation of ``reader``, or ``""`` in
        a group or a room."""
        if not self.members:
            return ""
        if self.members[1] == reader:
            return self.members[0]
        return self.members[1]

    @property
    def thread(self) -> int:
        """The id of the first message of its thread, or 0 if the message is not
        a reply in a thread."""
        return in_thread(self.meta).thread

    @property
    def ask(self) -> Ask | None:
        """The question, if the message is one. In a ``press`` about a question:
        the fields of the question that it changes."""
        if self.kind in ("message", "press"):
            return ask_in(self.meta)
        return None

    @property
    def is_beside(self) -> bool:
        """Whether only a thread shows the message, and not its conversation."""
        thread = in_thread(self.meta)
        return thread.thread > 0 and not thread.also

    @property
    def bots(self) -> tuple[str, ...]:
        """The bots of a group that read the entry."""
        return bots_in(self.meta)

    @property
    def is_edited(self) -> bool:
        """Whether an edit has given the message its content."""
        return EDITED_KEY in self.meta

    @property
    def is_reminder(self) -> bool:
        """Whether the message reminds its reader of another message."""
        return REMINDER_KEY in self.meta

    @property
    def is_stopped(self) -> bool:
        """Whether a reader has stopped the message before its sender had
        finished it."""
        return STOPPED_KEY in self.meta

    @property
    def notify(self) -> Raw | None:
        """The content of the notification about the message, as JSON. None
        means that the sender has set no content."""
        if NOTIFY_KEY not in self.meta:
            return None
        notify = self.message_meta().notify
        return None if notify is UNSET else notify

    def message_meta(self) -> MessageMeta:
        """Return the decoded ``meta`` of a message, an edit, a recall, a
        reaction or a press."""
        return MessageMeta.of(self.meta)

    def publication_meta(self) -> PublicationMeta:
        """Return the decoded ``meta`` of a message to a channel or a room."""
        return PublicationMeta.of(self.meta)

    def group_meta(self) -> GroupMeta:
        """Return the decoded ``meta`` of a join, a leave or a change of a
        group."""
        return GroupMeta.of(self.meta)

    def details(self) -> dict[str, Any]:
        """Return all keys of ``meta``, as they are stored."""
        return fields_of(self.meta)

    def ask_details(self) -> dict[str, Any]:
        """Return the fields of the question that a ``press`` changes, as they
        are stored."""
        return changed_in_ask(self.meta)

    def may_be_revised(self, user: str) -> bool:
        """Tell whether the entry is a message of this user. For the user
        ``""``, any message counts. A recalled message counts, too, because the
        recall or edit may be a resend, which gets its first answer again."""
        is_recalled_message = self.kind == "recall" and self.about == self.id
        if self.kind != "message" and not is_recalled_message:
            return False
        return not user or self.sender == user

    def view(self) -> EntryView:
        """Return the entry for clients. A text body is shown as ``text``, a
        JSON body as ``data``, any other body as ``base64``."""
        sender = self.sender
        members = self.members
        # This computes `to` here, which saves two calls for each encoding.
        if not members:
            to = ""
        elif members[1] == sender:
            to = members[0]
        else:
            to = members[1]

        entry = EntryView(
            self.id,
            self.conversation,
            self.seq,
            self.kind,
            sender,
            to,
            client_msg_id=self.client_msg_id,
            about=self.about,
            time=self.time_ms,
        )

        if self.meta:
            entry.meta = Raw(self.meta)
        if self.kind in ("message", "edit"):
            entry.type = self.type
            if self.type == "text":
                _show_text(entry, self.body)
            else:
                _show_data(entry, self.body)
            if self.reactions:
                entry.reactions = self.reactions
        elif self.kind in ("reaction", "pin", "press"):
            entry.type = self.type
            if self.body:
                _show_text(entry, self.body)
        return entry


class EntryView(Struct, omit_defaults=True):
    """An entry as clients see it."""

    id: Annotated[int, about("The position in the log of the app.")]
    conversation: Annotated[int, about("The conversation. A group has the same id.")]
    seq: Annotated[int, about("The number of the entry in its conversation.")]
    kind: Annotated[EntryKind, about("The kind of the entry.")]
    sender: Annotated[str, about("The sender; empty: a back end.")] = msgspec.field(
        name="from"
    )
    to: Annotated[str, about("The receiver; empty in a group.")] = ""
    type: Annotated[str, about("The type of the content: `text`, or another word.")] = (
        ""
    )
    text: str | None = None
    data: Raw | None = None
    base64: bytes | None = None
    client_msg_id: str = msgspec.field(default="", name="clientMsgID")
    about: Annotated[
        int,
        about(
            "The message that this entry replies to, reacts to, edits, recalls or "
            "pins, or whose button was pressed. If this entry replaces a recalled "
            "message, its own id."
        ),
    ] = 0
    meta: Raw | None = None
    time: Annotated[int, about("The time of sending, in Unix milliseconds.")] = 0
    reactions: tuple[Reaction, ...] = ()

    def message(self) -> Message:
        """Return the entry from which the view was made, for codecs that are
        not JSON."""
        body = self.base64 or b""
        if self.text is not None:
            body = self.text.encode()
        elif self.data is not None:
            body = bytes(self.data)

        members: tuple[str, ...] = ()
        if self.to:
            members = (self.sender, self.to)
        meta = b""
        if isinstance(self.meta, Raw):
            meta = bytes(self.meta)

        return Message(
            self.id,
            self.conversation,
            self.seq,
            self.sender,
            members,
            self.kind,
            self.type or "text",
            body,
            self.client_msg_id,
            self.time,
            self.about,
            meta,
        )


def _show_text(entry: EntryView, body: bytes) -> None:
    """Show a body as text, or as Base64 if it is not UTF-8."""
    try:
        entry.text = body.decode()
    except UnicodeDecodeError:
        entry.base64 = body


def _show_data(entry: EntryView, body: bytes) -> None:
    """Show a body as JSON, or as text if it is not JSON that clients can
    read."""
    # Most JSON has so few brackets that it cannot be nested too deeply. Other
    # JSON is decoded inside so many additional brackets that the decoder
    # refuses JSON that is nested too deeply.
    try:
        if body.count(b"[") + body.count(b"{") > NESTED:
            msgspec.json.decode(b"[" * NESTED + body + b"]" * NESTED)
        else:
            msgspec.json.decode(body)
    except (ValueError, RecursionError):
        _show_text(entry, body)
    else:
        entry.data = Raw(body)
