"""Events of Matrix as a server writes them, and rooms made of them.

From version 3 of rooms on, the id of an event is a digest (specification of
Matrix 1.15, server-server API, "reference hashes"). It is the digest of the
event after a redaction (room versions, "redactions").
"""

import json
from base64 import b64encode, urlsafe_b64encode
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Final, NamedTuple

from msgspec import Meta, Struct, field

from .fields import Json, at, list_at, number_at, text_at
from .records import GroupKind, Reaction, Role

ADMIN_POWER: Final = 50
OWNER_POWER: Final = 100
USER: Final = r"(?a)\A@[!-9;-~]{1,200}:[\w.:\[\]-]{1,200}\Z"

_FIELDS_LEFT: Final = {
    "auth_events",
    "depth",
    "event_id",
    "hashes",
    "origin_server_ts",
    "prev_events",
    "room_id",
    "sender",
    "state_key",
    "type",
}
"""Fields of an event that remain after a redaction. Some of its content
remains, too."""
_FIELDS_LEFT_UNTIL_10: Final = _FIELDS_LEFT | {"prev_state", "origin", "membership"}
# Versions of rooms (https://spec.matrix.org/latest/rooms/) with other rules.
_STANDARD_BASE64: Final = 3
"""The version of rooms whose ids have standard base64, and not the base64 of
URLs."""
_CREATE_REMAINS: Final = 11
"""The version from which on a redaction leaves all content of the first
event."""
_SHORTER: Final = 11
"""The version from which on a redaction leaves less of an event."""
_CREATORS_OWN: Final = 12
"""The version from which on the creators of a room have all powers."""
DEFAULT_VERSION: Final = 10
"""The version of a room whose first event is not in the archive."""
_ID_CHARACTERS: Final = 256
"""Limit of the length of ids of events; all are shorter."""
_POWERS: Final = (
    "ban",
    "events",
    "events_default",
    "kick",
    "redact",
    "state_default",
    "users",
    "users_default",
)
_CONTENT_LEFT: Final[dict[str, dict[str, int]]] = {
    "m.room.member": {"membership": 1, "join_authorised_via_users_server": 9},
    "m.room.create": {"creator": 1},
    "m.room.join_rules": {"join_rule": 1, "allow": 8},
    "m.room.power_levels": {"invite": 11, **dict.fromkeys(_POWERS, 1)},
    "m.room.history_visibility": {"history_visibility": 1},
    "m.room.redaction": {"redacts": 11},
}
"""Type of an event → field of its content that remains after a redaction → the
version of rooms from which on it remains."""


def event_id(event: Json, version: int) -> str:
    """Return the id of an event in a room of version 3 or later.

    Matrix does not assign such an id. It is ``$`` and the base64 of a SHA-256
    digest, for example ``$Woq2vwLy8mNukf7e8oz61GxT5gpMmr_asNJbaxDAo0I``. The
    digest is made of the JSON that remains of the event after a redaction, so
    that a redacted event keeps its id. ``version``: the version of the room.
    """
    names = _FIELDS_LEFT
    if version < _SHORTER:
        names = _FIELDS_LEFT_UNTIL_10
    redacted = {name: value for name, value in event.items() if name in names}
    redacted["content"] = _content_left(event, version)

    digest = sha256(_canonical(redacted)).digest()
    text = urlsafe_b64encode(digest)
    if version == _STANDARD_BASE64:
        text = b64encode(digest)
    return f"${text.decode().rstrip('=')}"


def _canonical(event: Json) -> bytes:
    """Return an event as JSON of the form that the standard fixes.

    Each server must hash the same bytes.
    """
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text.encode(errors="surrogatepass")


def _content_left(event: Json, version: int) -> Json:
    """Return the part of an event's content that a redaction leaves.

    In a room of version 10, ``{"membership": "join", "displayname": "Ann"}`` of
    a member event becomes ``{"membership": "join"}``. The function does not
    change the event.
    """
    type: str = event["type"]
    content: Json = event.get("content", {})
    if type != "m.room.create" or version < _CREATE_REMAINS:
        first_versions = _CONTENT_LEFT.get(type, {})
        content = {
            name: content[name]
            for name, first_version in first_versions.items()
            if name in content and first_version <= version
        }
    # Of an invitation by mail only the signature remains, because servers need
    # it to check the invitation.
    signed = at(event, "content", "third_party_invite", "signed")
    if type == "m.room.member" and version >= _SHORTER and signed is not None:
        content["third_party_invite"] = {"signed": signed}
    return content


class MatrixEvent(
    Struct, dict=True, rename={"time_ms": "origin_server_ts", "given_id": "event_id"}
):
    """An event of a room, as JSON of Matrix has it.

    An event is a message, a reaction, an edit, or a change of the room's state.
    For example ``{"type": "m.room.message", "sender": "@ann:example.org",
    "origin_server_ts": 1700000000000, "content": {"msgtype": "m.text", "body":
    "Hi"}}``. The fields after ``unsigned`` are set by the reader.
    """

    type: Annotated[str, Meta(min_length=1)]
    sender: Annotated[str, Meta(pattern=USER)]
    time_ms: Annotated[int, Meta(gt=0, lt=1 << 53)]
    content: Json = field(default_factory=dict)
    state_key: str | None = None
    given_id: str = ""
    redacts: str = ""
    depth: int = 0
    unsigned: Json | None = None
    raw: Any = None
    """The JSON of the event, from which its id may have to be made."""
    version: Any = 0
    """The version of the room."""
    element_folder: Any = None
    """The folder with the JSON file from which the event was read, if Element
    wrote that file; ``""`` is the top of the archive. None if Synapse wrote
    it."""

    @cached_property
    def id(self) -> str:
        """The id of the event, from its JSON or made from it.

        Synapse writes the id only in rooms of version 1 and 2, as
        ``$local:example.org``. Element writes each id. Other ids are digests of
        the event, see :func:`event_id`.
        """
        if self.element_folder is None and ":" not in self.given_id:
            return event_id(self.raw, self.version)
        if 0 < len(self.given_id) < _ID_CHARACTERS and self.given_id.isprintable():
            return self.given_id
        return event_id(self.raw, self.version)

    @property
    def relation(self) -> tuple[str, str]:
        """The kind of the event's relation to another event, and the id of that
        other event.

        Kinds are ``m.replace`` (an edit), ``m.annotation`` (a reaction),
        ``m.thread``, … Both texts are ``""`` if the event stands alone.
        """
        relation = self.content.get("m.relates_to")
        return text_at(relation, "rel_type"), text_at(relation, "event_id")

    @property
    def reaction(self) -> tuple[str, str]:
        """The key of a reaction, and the name of its emoji.

        The key is a character such as ``👍``, and then the name is usually
        ``""``. Or the key is the address of a picture, such as
        ``mxc://example.org/abc``.
        """
        content = self.content
        name = text_at(content, "shortcode") or text_at(
            content, "com.beeper.reaction.shortcode"
        )
        return text_at(content, "m.relates_to", "key"), name.strip(":")

    @property
    def is_encrypted(self) -> bool:
        """Whether the text of the message is missing, because only its
        recipients have the key."""
        return (
            self.type == "m.room.encrypted"
            or text_at(self.content, "msgtype") == "m.bad.encrypted"
        )


class Membership(NamedTuple):
    """Whether a person is in a room, by the newest known event about it."""

    depth: int = 0
    """The depth of this event. Newer events of a room have a greater depth."""
    state: str = ""
    """``join``, ``invite``, ``knock``, ``leave`` or ``ban``."""


class Edit(NamedTuple):
    """The newest edit of a message. Edits are ordered by time, then by id."""

    time_ms: int
    id: str
    content: Json


class SentReaction(NamedTuple):
    """A reaction, with the id of the message to which somebody sent it."""

    message: str
    reaction: Reaction


class Room(Struct):
    """A room: the files that have its events, and the facts which these events
    tell."""

    id: str
    files: dict[str, bool] = field(default_factory=dict)
    """Name of a file → whether Element has exported it."""
    name: str = ""
    topic: str = ""
    version: int = DEFAULT_VERSION
    state: dict[str, MatrixEvent] = field(default_factory=dict)
    """Type → the newest event of the state with this type."""
    members: dict[str, Membership] = field(default_factory=dict)
    """The people who were in the room, or were invited to it."""
    writers: dict[str, None] = field(default_factory=dict)
    """The people who have written messages, as an ordered set."""
    messages: int = 0
    """The number of messages. It includes encrypted messages, and counts a
    message in two exports twice."""
    markers: dict[str, list[str]] = field(default_factory=dict)
    """Id of an event → the people who have read all up to it."""
    read: dict[str, int] = field(default_factory=dict)
    """Person → the time up to which they have read."""
    is_direct: bool = False
    """Whether somebody has marked the room as a conversation of two."""
    is_joined: bool = False
    """Whether anybody has ever joined."""
    kind: GroupKind | None = None
    """None if the room is not imported."""

    def content(self, name: str) -> Json:
        """The content of the newest state event of a type, or ``{}``.

        ``name`` is the type without ``m.room.``: ``topic`` finds ``{"topic":
        "Plans"}``, for example.
        """
        event = self.state.get(f"m.room.{name}")
        if event is None:
            return {}
        return event.content

    def role(self, user: str) -> Role:
        """The role of a person in the room.

        Matrix has no roles. It gives each person a power, usually 0, 50 for
        moderators and 100 for admins. From 100 on the person is an owner here,
        and from 50 on an admin.
        """
        power = OWNER_POWER
        if not self._is_powerful_creator(user):
            levels = self.content("power_levels")
            given_power = number_at(levels, "users", user)
            if given_power is None:
                given_power = number_at(levels, "users_default") or 0
            power = given_power

        if power >= OWNER_POWER:
            return "owner"
        if power >= ADMIN_POWER:
            return "admin"
        return "member"

    def _is_powerful_creator(self, user: str) -> bool:
        """Whether a person has all powers because they have created the room.

        From version 12 of rooms on, each creator has them. In older rooms the
        creator has them only as long as no event gives powers to anybody.
        """
        create = self.state.get("m.room.create")
        if create is None:
            return False
        if self.version >= _CREATORS_OWN:
            others = list_at(create.content, "additional_creators")
            return user == create.sender or user in others
        return user == create.sender and not self.content("power_levels")


class Relations(Struct):
    """The edits, reactions and redactions in a room, each by the event that it
    changes."""

    edits: dict[tuple[str, str], Edit] = field(default_factory=dict)
    """(id of a message, editor) → this person's newest edit of the message."""
    reactions: dict[str, SentReaction] = field(default_factory=dict)
    """Id of the event of a reaction → the reaction."""
    newest: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)
    """Id of a message → (person, key) → id of the newest reaction of this
    kind."""
    redactions: dict[str, MatrixEvent] = field(default_factory=dict)
    """Id of an event → the event that redacts it. It is the event itself if the
    server has taken its content."""
