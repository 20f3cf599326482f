"""The JSON beside an entry of the log: its ``meta``. No other module contains
the names of the keys of ``meta``.

The kind of an entry decides which keys its ``meta`` may have. Messages and acts
on them have the keys of :class:`MessageMeta`. Joins, leaves and changes of
groups have the keys of :class:`GroupMeta`. Messages to channels have the keys
of :class:`PublicationMeta`.

Everybody who may read the entry sees ``meta`` as it is stored: in each dialect,
the HTTP API, webhooks and exports. The docstring of a field tells exceptions.

Most messages have no ``meta``, and storing a message must not need the time to
decode JSON. So a function that needs one key first checks whether the bytes
contain it (``THREAD_KEY in meta``). The check takes 30 ns; decoding takes 1 to
3 us. JSON escapes the quotes in its texts, so such bytes are always a key of
``meta``, or of an object in ``meta``.

A change of ``meta`` works on the JSON object, and never writes a struct. So
keys that this module does not know stay. They may come from a newer release, a
plug-in or an import. All keys keep their order. Functions that begin with
``with`` return the new ``meta``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from imserver.gateway.config.declared import about
from imserver.gateway.model import Limit, StreamPart


class AskOption(Struct, frozen=True):
    """An option of a question: the text that it shows, and its value."""

    text: str
    value: str


class AskAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer to a question. If the user was erased, the free text is
    removed."""

    user: Annotated[str, about("The user who answered.")]
    value: Annotated[str, about("The value of an option.")] = ""
    text: Annotated[str, about("A free text.")] = ""
    time: Annotated[int, about("The time of the answer, in Unix milliseconds.")]


AskState = Literal["", "answered", "cancelled", "expired"]


class Ask(Struct, frozen=True, omit_defaults=True):
    """The question in a message: ``ask`` in its ``meta``.

    ``options``: the answers to choose from. ``text``: whether free text is an
    answer, too. ``of``: the users who may answer; None means every reader
    except the author. ``need``: how many different users must answer before the
    question closes. ``until``: the deadline in Unix milliseconds (0: no
    deadline). ``state``: ``""`` means open. ``answers``: the answers that
    count, in their order. ``poll``: set if the question is a poll. Every reader
    of a poll may vote, and may change the vote until the poll closes. ``of`` is
    then empty, so that nodes and clients that do not know polls let nobody
    answer. ``mine``: the indexes of the options that the reader has chosen;
    None means that they were not looked up. ``fixed``: whether nobody may edit
    the text, because an answer may permit the act that the text describes.
    """

    class Poll(Struct, frozen=True, omit_defaults=True):
        """Makes a question a poll. It has the totals of the last count."""

        MOST_OPTIONS: ClassVar[int] = 12

        many: Annotated[bool, about("Whether users may choose several options.")] = (
            False
        )
        anonymous: Annotated[bool, about("Whether the votes are anonymous.")] = False
        voters: Annotated[int, about("The number of users who have voted.")] = 0
        counts: Annotated[tuple[int, ...], about("The votes for each option.")] = ()
        users: Annotated[
            tuple[tuple[str, ...], ...],
            about(
                "For each option, the last users who chose it, at most 3. An "
                "anonymous poll has no such list."
            ),
        ] = ()
        time: Annotated[
            int,
            about("The time at which the votes were counted, in Unix milliseconds."),
        ] = 0

    options: tuple[AskOption, ...] = ()
    text: bool = False
    of: tuple[str, ...] | None = None
    need: int = 1
    until: int = 0
    state: AskState = ""
    answers: tuple[AskAnswer, ...] = ()
    poll: Poll | None = None
    mine: tuple[int, ...] | None = None
    fixed: bool = False

    @property
    def count(self) -> int:
        """The number of users who have answered or voted."""
        if self.poll is None:
            return len(self.answers)
        return self.poll.voters

    def answer_of(self, user: str) -> AskAnswer | None:
        """Return the answer of a user, or None if the user has no answer that
        counts."""
        return next((answer for answer in self.answers if answer.user == user), None)

    def may_answer(self, user: str) -> bool:
        """Tell whether a receiver of the message may answer the question
        now."""
        return (
            not self.state
            and self.answer_of(user) is None
            and (self.of is None or user in self.of)
        )


class Button(Struct, frozen=True, kw_only=True):
    """A button under a message: the text that it shows, and the value that is
    sent when a user presses it."""

    text: str = ""
    value: str


class SlashCommand(Struct, frozen=True):
    """The command with which a text begins: the bot that has the command, the
    name of the command without ``/``, and the rest of the text."""

    bot: str
    name: str
    text: str


class Origin(Struct, frozen=True):
    """The message that was forwarded, and its sender. If a forwarded message is
    forwarded again, this is still the first message."""

    sender: str = field(name="from")
    id: int


class ReminderOrigin(Struct, frozen=True):
    """The message that a reminder is about."""

    id: int
    conversation: int
    sender: str = field(name="from")


class ReactionTotal(Struct, frozen=True):
    """How many users have reacted with an emoji, and at most 10 of them, the
    earliest first."""

    emoji: str
    count: int
    users: tuple[str, ...]


class ThreadTotals(Struct, frozen=True):
    """The totals of a thread: the number of its replies, the id and the time
    (Unix milliseconds) of the last reply, and the users who replied last, the
    newest first."""

    count: int = 0
    last: int = 0
    time: int = 0
    users: tuple[str, ...] = ()


class _Stored(Struct, frozen=True, omit_defaults=True):
    """The keys that some kinds of entries may have in their ``meta``. New keys
    are written in the order of the fields."""

    def to_bytes(self) -> bytes:
        """Return the bytes to store; ``b""`` if no key is set."""
        stored = msgspec.json.encode(self)
        if stored == b"{}":
            return b""
        return stored

    @classmethod
    def of(cls, stored: bytes) -> Self:
        """Decode the stored bytes.

        Keys with invalid values are left out, because plug-ins, imports and
        older releases may have written anything.
        """
        if not stored:
            return cls()
        try:
            return msgspec.json.decode(stored, type=cls)
        except (ValueError, RecursionError):
            return cls._salvaged(stored)

    @classmethod
    def _salvaged(cls, stored: bytes) -> Self:
        """Decode the keys one by one, and leave out keys with invalid
        values."""
        values = fields_of(stored)
        valid: dict[str, Any] = {}
        for key in msgspec.structs.fields(cls):
            value = values.get(key.name)
            if value is not None:
                with suppress(ValueError, RecursionError):
                    valid[key.name] = _decoded_as(key.type, value)
        return cls(**valid)

    def _values(self) -> dict[str, Any]:
        """Return the keys that are set, with their values."""
        defaults = zip(self.__struct_fields__, self.__struct_defaults__, strict=True)
        values: dict[str, Any] = {}
        for name, default in defaults:
            value = getattr(self, name)
            if value != default:
                values[name] = value
        return values


def _decoded_as(type: Any, value: Any) -> Any:
    """Return a JSON value as a value of this type.

    Raises ValueError or RecursionError if the value has another type.
    """
    # If one user of a list is invalid, the other users stay.
    if isinstance(value, list) and type == tuple[str, ...]:
        value = [item for item in value if isinstance(item, str)]
    return msgspec.json.decode(msgspec.json.encode(value), type=type)


class MessageMeta(_Stored, frozen=True, omit_defaults=True):
    """The ``meta`` of a message, of its edits and its recall, and of reactions
    to it and presses of its buttons."""

    class Moderation(Struct, frozen=True, omit_defaults=True):
        """An act of moderators: its name, the report that it is about, and the
        Unix second at which it ends."""

        act: str
        report: str = ""
        until: int = 0

    # --- set by the sender of the message; an edit replaces these keys
    mentions: tuple[str, ...] = ()
    """The mentioned users; ``all`` stands for everybody in the conversation. A
    draft may also have handles of groups after an ``@``. The log replaces these
    handles by the members of the groups."""
    handles: tuple[str, ...] = ()
    """Set by the log: the handles, without ``@``, by which a draft mentioned
    somebody."""
    buttons: tuple[tuple[Button, ...], ...] = ()
    """Rows of buttons. Only bots may send them. An edit of a question keeps
    them."""
    ask: Ask | None = None
    """The question, if the message is one. The sender sets its options and
    rules; the log sets its state and its answers. A ``press`` about a question
    has only the fields that the press changes. A reader sees their own votes as
    ``mine``. A user who has left the group does not see later answers. An edit
    keeps the question."""
    notify: Raw | UnsetType = UNSET
    """Set by back ends and bots: the content of the notification
    (:class:`imserver.gateway.notify.Notify`); ``false`` means that nobody is
    notified."""
    command: SlashCommand | None = None
    """Set by the log: the slash command with which the text begins, if a bot of
    the conversation has it."""
    forwarded: Origin | None = None
    """Set by the messenger: the original of a forwarded message. An edit
    removes it."""
    reminder: ReminderOrigin | None = None
    """Set for scheduled messages: the message that a reminder is about."""
    moderation: Moderation | None = None
    """Set by the safety feature: the act about which the server writes to a
    user."""
    incomplete: bool = False
    """Set for streamed messages: the sender has not finished the message."""
    stopped: str = ""
    """Set for streamed messages: the reader who has stopped the message."""
    seq: str = ""
    """Set by the ``action`` dialect: the ``seq`` of the request that has sent
    the message."""
    bots: tuple[str, ...] = ()
    """Set by the log, in entries of any kind: the bots of a group that read the
    entry."""
    count: int | UnsetType = UNSET
    """Set by the log, in a reaction: how many users react with its emoji from
    then on."""

    # --- set by the log when something happens to the message later
    edited: int = 0
    """The id of the last edit of the message. An edit that restores a removed
    message has no such id, since nobody has sent it."""
    reacted: int = 0
    """The id of the last reaction to the message, or of the last withdrawal of
    a reaction. An edit keeps it. A restored message does not have it."""
    reactions: tuple[ReactionTotal, ...] = ()
    """The totals of the reactions to the message, in the order in which the
    emoji were first used. Readers get them beside ``meta``
    (``Message.reactions``), with their own reactions. An edit keeps them."""
    pressed: int = 0
    """The id of the last ``press`` about the question. An edit keeps it."""
    thread: int = 0
    """The first message of the thread, if this message is a reply. Edits and
    the recall keep this field and the next two fields."""
    also: bool = False
    """Whether the conversation shows the reply, too."""
    replies: ThreadTotals | None = None
    """The totals of the thread that begins with this message. A user who has
    left the group no longer sees the totals if there are later replies."""
    erased: bool = False
    """In a recall: the author of the message was erased."""
    removed: bool = False
    """In a recall: somebody other than the author has removed the message. It
    may be restored."""
    recalled: bool = False
    """In the recall of a removed message: its author has recalled it, too, so
    it is never restored."""
    restored: int | UnsetType = UNSET
    """In an edit that restores a removed message: the message to which the
    removed message was a reply (0: it was not a reply)."""


class GroupMeta(_Stored, frozen=True, omit_defaults=True):
    """The ``meta`` of a join, a leave and a change of a group. The log writes
    it."""

    change: str | UnsetType = UNSET
    """The kind of change: ``create``, ``rename``, ``description``, ``avatar``,
    ``handle``, ``open``, ``everybody``, ``options`` or ``member``. There are
    further kinds for changes of the owner and for mutes."""
    name: str | UnsetType = UNSET
    """The name of the group, if the group or the name is new."""
    users: tuple[str, ...] | UnsetType = UNSET
    """The users whose membership begins, ends or changes."""
    role: str | UnsetType = UNSET
    """The role of these users from then on."""
    members: int | UnsetType = UNSET
    """How many members the group has from then on."""
    muted_until: int | UnsetType = UNSET
    """The end of the mute of these users, in Unix seconds."""
    invited_by: str | UnsetType = UNSET
    """The user whose invitation was used."""
    open: bool | UnsetType = UNSET
    """Whether anybody may join."""
    everybody: str | bool | UnsetType = UNSET
    """The users who are members without joining (:data:`contract.Everybody`).
    In a join: whether the users joined because it is a group of everybody."""
    description: str | UnsetType = UNSET
    """The new description of the group."""
    avatar: str | UnsetType = UNSET
    """The new avatar of the group."""
    handle: str | UnsetType = UNSET
    """The new handle of the group."""
    # the options that were changed, see `OPTIONS` of `contract`
    history: str | UnsetType = UNSET
    invite: str | UnsetType = UNSET
    rename: str | UnsetType = UNSET
    pin: str | UnsetType = UNSET
    bots: str | tuple[str, ...] | UnsetType = UNSET
    """The new value of the option ``bots``. In an entry that bots read, the ids
    of these bots."""
    write: str | UnsetType = UNSET
    reply: str | UnsetType = UNSET

    @staticmethod
    def changing(change: str, values: Mapping[str, str]) -> GroupMeta:
        """Return the ``meta`` of a change of texts or options of a group.

        ``change`` is the kind of change. ``values`` has name → new value.
        """
        return msgspec.convert({"change": change, **values}, GroupMeta)


class PublicationMeta(_Stored, frozen=True, omit_defaults=True):
    """The ``meta`` of a message to a channel or a room: the properties of the
    publication that are not in its body. Publishers write it."""

    json: bool = False
    """Whether the body is JSON, not text."""
    base64: bool = False
    """Whether the body is bytes, which are shown as base64."""
    type: str = ""
    """The type of the publication, if it differs from the type of the entry."""
    id: str = ""
    """The id that the publisher has given the publication."""
    seq: str = ""
    """The ``seq`` as in :class:`MessageMeta`, which is shown as the id of the
    publication."""
    info: Raw | UnsetType = UNSET
    """Facts about the client that has published the publication."""
    tags: Raw | UnsetType = UNSET
    """Name → value of the texts beside the content."""
    stream: StreamPart | None = None
    """The streamed message that this publication ends."""
    except_users: tuple[str, ...] = ()
    """Users who do not receive the publication live."""
    except_connection: str = ""
    """The id of a connection that does not receive the publication live."""


ERASED: Final = MessageMeta(erased=True).to_bytes()
REMOVED: Final = MessageMeta(removed=True).to_bytes()
"""The ``meta`` of recalls by the server."""

# --- questions on bytes -------------------------------------------------------

THREAD_KEY: Final = b'"thread":'
ASK_KEY: Final = b'"ask":'
BUTTONS_KEY: Final = b'"buttons":'
BOTS_KEY: Final = b'"bots":'
REACTIONS_KEY: Final = b'"reactions":'
EDITED_KEY: Final = b'"edited":'
NOTIFY_KEY: Final = b'"notify":'
REMINDER_KEY: Final = b'"reminder":'
STOPPED_KEY: Final = b'"stopped":'
POLL_KEY: Final = b'"poll":'
"""Only a question that is a poll has this key."""
HANDLE_SIGN: Final = b'"@'
"""A draft that mentions groups contains these bytes."""
LATER_KEYS: Final = (EDITED_KEY, b'"reacted":', b'"replies":', ASK_KEY)
"""A message that has changed since it was sent has one of these keys."""


def ask_in(meta: bytes) -> Ask | None:
    """Return the question of a message with this ``meta``, or None if the
    message is not a question.

    The bytes are searched first, because most messages need no decoding.
    """
    if ASK_KEY not in meta:
        return None
    try:
        return _decode_ask(meta).ask
    except (ValueError, RecursionError):
        return None


class _WithAsk(Struct):
    ask: Ask | None = None


_decode_ask: Final = msgspec.json.Decoder(_WithAsk).decode


class InThread(Struct, frozen=True):
    """The thread of a reply (0: the message is not a reply), and whether the
    conversation shows the reply, too."""

    thread: int = 0
    also: bool = False


NOT_IN_THREAD: Final = InThread()
_decode_thread: Final = msgspec.json.Decoder(InThread).decode


def in_thread(meta: bytes) -> InThread:
    """Return the thread of a message with this ``meta``."""
    if THREAD_KEY not in meta:
        return NOT_IN_THREAD
    try:
        return _decode_thread(meta)
    except (ValueError, RecursionError):
        return NOT_IN_THREAD


def bots_in(meta: bytes) -> tuple[str, ...]:
    """Return the bots of a group that read the entry with this ``meta``."""
    if BOTS_KEY in meta:
        return MessageMeta.of(meta).bots
    return ()


def fields_of(meta: bytes) -> dict[str, Any]:
    """Return all keys of ``meta`` with their values, including unknown keys.

    If ``meta`` is not a JSON object, the result is empty, because one invalid
    draft must not fail the other drafts of a transaction.
    """
    if not meta:
        return {}
    try:
        fields = msgspec.json.decode(meta)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def changed_in_ask(press: bytes) -> dict[str, Any]:
    """Return the fields of a question that a ``press`` changes, as they are
    stored.

    ``press`` is the ``meta`` of the entry.
    """
    changes = fields_of(press).get("ask")
    return changes if isinstance(changes, dict) else {}


# --- changes ------------------------------------------------------------------

_OF_REACTIONS: Final = ("reacted", "reactions")
_OF_THREAD: Final = ("thread", "also", "replies")
_OF_QUESTION: Final = ("ask", "pressed", "buttons")
_OF_TEXT: Final = ("mentions", "forwarded")
"""Keys that are removed when the user writes another text."""
_NAMES_NOBODY: Final = ("change", "users", "role", "members")
"""Keys of a change of a group that contain no names and no texts."""
_KEYS_WITH_USERS: Final = frozenset(
    (
        "users",
        "mentions",
        "invited_by",
        "forwarded",
        "bots",
        "reactions",
        "except_users",
        "user",
        "by",
        "replies",
        "stopped",
        "ask",
        "reminder",
    )
)
"""The keys under which the server or a client names users."""
_TEXTS: Final = frozenset(("emoji", "value", "text", "state"))
"""Keys inside the objects of :data:`_KEYS_WITH_USERS` whose values name
nobody."""
_BEGINNING_OF_ASK: Final = ("options", "text", "need", "until", "fixed")
"""Keys of a question that its author has set. No answer changes them."""
_KIND_OF_POLL: Final = ("many", "anonymous")
"""Keys of a poll that its author has set."""


def _encoded(fields: Mapping[str, Any]) -> bytes:
    """Encode ``meta``. If there are no keys, the result is ``b""``."""
    if fields:
        return msgspec.json.encode(fields)
    return b""


def _only(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the existing keys with these names."""
    return {name: fields[name] for name in names if name in fields}


def _without(fields: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return all keys except the keys with these names."""
    return {name: value for name, value in fields.items() if name not in names}


def with_keys(meta: bytes, new: _Stored) -> bytes:
    """Return ``meta`` with the keys that are set in ``new``.

    If ``meta`` already has a key, the key gets the new value. Other keys are
    added at the end.
    """
    return _encoded(fields_of(meta) | new._values())


def with_more(meta: bytes, more: Mapping[str, Any]) -> bytes:
    """Return ``meta`` with the keys that a feature adds."""
    return _encoded({**fields_of(meta), **more})


def with_mentions(meta: bytes, users: Sequence[str], handles: Sequence[str]) -> bytes:
    """Return ``meta`` with other mentioned users.

    ``handles`` are the names of groups by which the users are mentioned.
    """
    fields = _without(fields_of(meta), ("mentions",))
    new = MessageMeta(mentions=tuple(users), handles=tuple(handles))
    return _encoded(fields | new._values())


def with_bots(meta: bytes, bots: Sequence[str]) -> bytes:
    """Return ``meta`` with the bots that read the entry."""
    fields = _without(fields_of(meta), ("bots",))
    return _encoded(fields | MessageMeta(bots=tuple(bots))._values())


def with_reactions(meta: bytes, last: int, totals: Iterable[ReactionTotal]) -> bytes:
    """Return ``meta`` with other totals of reactions, and the id of the last
    reaction.

    Emoji that nobody uses any more are left out.
    """
    fields = _without(fields_of(meta), ("reactions",))
    in_use = tuple(total for total in totals if total.count)
    new = MessageMeta(reacted=last, reactions=in_use)
    return _encoded(fields | new._values())


def without_reactions(meta: bytes) -> bytes:
    """Return ``meta`` without reactions, and without the id of the last
    reaction."""
    return _encoded(_without(fields_of(meta), _OF_REACTIONS))


def take_reactions(meta: bytes) -> tuple[bytes, tuple[ReactionTotal, ...]]:
    """Separate the totals of reactions from ``meta``, because readers get them
    apart.

    Returns ``meta`` without the totals, and the totals. If the totals are
    missing or invalid, ``meta`` is returned unchanged, with no totals.
    """
    fields = fields_of(meta)
    # Older releases and imports may have written anything.
    try:
        totals = msgspec.convert(fields.pop("reactions", ()), tuple[ReactionTotal, ...])
    except ValueError:
        totals = ()
    if totals:
        return msgspec.json.encode(fields), totals
    return meta, ()


def with_other_text(meta: bytes, new: bytes) -> bytes:
    """Return the ``meta`` of a scheduled message with another text.

    ``new`` is the ``meta`` of the new text. Mentions belong to the text, so the
    old mentions are removed.
    """
    return _encoded(_without(fields_of(meta), _OF_TEXT) | fields_of(new))


def with_edit(message: bytes, edit: bytes, edit_id: int) -> bytes:
    """Return the ``meta`` of a message after an edit.

    The result has the keys of the edit, the id of the edit, and the keys that
    the log has set. ``message`` is the ``meta`` before the edit, and ``edit``
    the ``meta`` of the edit.

    The message no longer counts as forwarded, because the editor has written
    its content. A question stays a question, with its options.
    """
    # An edit cannot change a question or begin one.
    new = _without(fields_of(edit), ("ask",))
    old = fields_of(message)
    remaining = _only(old, _OF_REACTIONS)
    if "ask" in old:
        remaining |= _only(old, _OF_QUESTION)
    edited = MessageMeta(edited=edit_id)._values()
    return _encoded(new | edited | remaining | _only(old, _OF_THREAD))


def with_recall(message: bytes, recall: bytes) -> bytes:
    """Return the ``meta`` of a recalled message.

    The result has the keys of the recall, and of the keys of ``message`` only
    the thread. So the message stays in its thread, and keeps the totals of its
    own thread.
    """
    thread = _only(fields_of(message), _OF_THREAD)
    return _encoded(fields_of(recall) | thread)


def without_later(meta: bytes, last: int) -> bytes:
    """Return ``meta`` without facts that have changed after the entry ``last``.

    These are the reactions, the totals of the thread and the answers to the
    question. Their earlier values are not stored, so they are removed.
    """
    fields = fields_of(meta)
    message = MessageMeta.of(meta)
    later: list[str] = []  # keys to remove
    if message.reacted > last:
        later.append("reacted")
    if message.replies is not None and message.replies.last > last:
        later.append("replies")
    ask = fields.get("ask")
    # Without the id of a press, the time of the last change is unknown.
    pressed = fields.get("pressed", Limit.ID)
    if isinstance(ask, dict) and isinstance(pressed, int) and pressed > last:
        later.append("pressed")
        fields["ask"] = _without_answers(ask)
    return _encoded(_without(fields, later))


def _without_answers(ask: Mapping[str, Any]) -> dict[str, Any]:
    """Return a question as its author has asked it, without answers and
    state."""
    begun = _only(ask, _BEGINNING_OF_ASK)
    poll = ask.get("poll")
    if isinstance(poll, dict):
        # `of` is empty, so that nodes that do not know polls let nobody answer.
        begun |= {"of": [], "poll": _only(poll, _KIND_OF_POLL)}
    return begun


def with_own_choices(meta: bytes, choices: Sequence[int]) -> bytes:
    """Return the ``meta`` of a poll for one reader.

    ``choices`` are the indexes of the options that the reader has chosen.
    """
    fields = fields_of(meta)
    return _encoded({**fields, "ask": {**fields["ask"], "mine": choices}})


def forwarded_from(meta: bytes, sender: str, id: int) -> bytes:
    """Return the ``meta`` of a message that forwards another message.

    ``meta``, ``sender`` and ``id`` are of the other message. If the other
    message was forwarded itself, its first author is named.
    """
    origin = fields_of(meta).get("forwarded")
    if origin:
        return msgspec.json.encode({"forwarded": origin})
    return MessageMeta(forwarded=Origin(sender, id)).to_bytes()


def new_question(ask: Mapping[str, Any]) -> dict[str, Any]:
    """Return a new question as a key of ``meta`` with its value.

    ``ask`` has the fields that its author has set.
    """
    return {"ask": ask}


def press_meta(changes: Mapping[str, Any]) -> bytes:
    """Return the ``meta`` of a ``press`` that changes these fields of a
    question."""
    return msgspec.json.encode({"ask": changes})


def without_group_texts(meta: bytes) -> bytes:
    """Return the ``meta`` of a change of a group without names and texts.

    Nobody may read these texts any more.
    """
    return msgspec.json.encode(_only(fields_of(meta), _NAMES_NOBODY))


def with_other_name(meta: bytes, user: str, name: str) -> bytes:
    """Return ``meta`` with another name in place of a user.

    The name is replaced wherever ``meta`` names users. The free texts of the
    user's answers are removed. The bytes are unchanged if ``meta`` does not
    name the user.
    """
    fields = fields_of(meta)
    answers = changed_in_ask(meta).get("answers")
    if isinstance(answers, list):
        without_texts = [
            _without_text_of(user, item) for item in answers if _is_object(item)
        ]
        fields["ask"] = {**fields["ask"], "answers": without_texts}

    # Other keys may have the same text by accident.
    renamed = dict(fields)
    for key in fields.keys() & _KEYS_WITH_USERS:
        renamed[key] = _renamed(fields[key], user, name)
    if renamed == fields:
        return meta
    return msgspec.json.encode(renamed)


def _is_object(value: Any) -> bool:
    """Tell whether a JSON value is an object."""
    return isinstance(value, dict)


def _without_text_of(user: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer, without its free text if it is an answer of this
    user."""
    if answer.get("user") == user:
        return _without(answer, ("text",))
    return dict(answer)


def _renamed(value: Any, user: str, name: str) -> Any:
    """Return a JSON value with another name in place of a user, at any depth.

    Texts that are not ids of users, such as an emoji, stay as they are.
    """
    if isinstance(value, str):
        return name if value == user else value
    if isinstance(value, list):
        return [_renamed(item, user, name) for item in value]
    if isinstance(value, dict):
        renamed = dict(value)
        for key in value.keys() - _TEXTS:
            renamed[key] = _renamed(value[key], user, name)
        return renamed
    return value
