"""Events of Matrix as a server writes them, and rooms made of them.

From version 3 of rooms on, the id of an event is a digest (specification of
Matrix 1.15, server-server API, "reference hashes"). It is the digest of the
event after a redaction (room versions, "redactions").
"""

import json
from base64 import b64encode, urlsafe_b64encode
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Final

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
    """The id of an event in a room of version 3 or later: a digest of the event
    after a redaction."""
    names = _FIELDS_LEFT
    if version < _SHORTER:
        names = _FIELDS_LEFT_UNTIL_10
    redacted = {name: value for name, value in event.items() if name in names}
    redacted["content"] = _content_left(event, version)
    canonical = json.dumps(
        redacted, ensure_ascii=False, separators=(",", ":"), sort_keys=True
    )
    digest = sha256(canonical.encode(errors="surrogatepass")).digest()
    text = urlsafe_b64encode(digest)
    if version == _STANDARD_BASE64:
        text = b64encode(digest)
    return f"${text.decode().rstrip('=')}"


def _content_left(event: Json, version: int) -> Json:
    """The content of an event that a redaction leaves, in a room of this
    version."""
    type: str = event["type"]
    content: Json = event.get("content", {})
    if type != "m.room.create" or version < _CREATE_REMAINS:
        first_versions = _CONTENT_LEFT.get(type, {})
        content = {
            name: content[name]
            for name, first_version in first_versions.items()
            if name in content and first_version <= version
        }
    signed = at(event, "content", "third_party_invite", "signed")
    if type == "m.room.member" and version >= _SHORTER and signed is not None:
        content["third_party_invite"] = {"signed": signed}
    return content


class MatrixEvent(
    Struct, dict=True, rename={"time_ms": "origin_server_ts", "given_id": "event_id"}
):
    """An event of a room."""

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
    top: Any = None
    """The folder of the export of Element with this event; None if it is in an
    export of Synapse."""

    @cached_property
    def id(self) -> str:
        """The id of the event. Synapse writes ids only in rooms before version
        3, where they have a colon. Other ids are made from the JSON."""
        if self.top is None and ":" not in self.given_id:
            return event_id(self.raw, self.version)
        if 0 < len(self.given_id) < _ID_CHARACTERS and self.given_id.isprintable():
            return self.given_id
        return event_id(self.raw, self.version)

    @property
    def relation(self) -> tuple[str, str]:
        """The kind of its relation to another event, and the id of this event.
        Kinds are ``m.replace``, ``m.annotation``, ``m.thread``, …"""
        relation = self.content.get("m.relates_to")
        return text_at(relation, "rel_type"), text_at(relation, "event_id")

    @property
    def reaction(self) -> tuple[str, str]:
        """The emoji of a reaction and ``""``, or the address of a picture and
        its name."""
        content = self.content
        name = text_at(content, "shortcode") or text_at(
            content, "com.beeper.reaction.shortcode"
        )
        return text_at(content, "m.relates_to", "key"), name.strip(":")

    @property
    def is_encrypted(self) -> bool:
        return (
            self.type == "m.room.encrypted"
            or text_at(self.content, "msgtype") == "m.bad.encrypted"
        )


class Room(Struct):
    """A room: its files, and its state as far as events tell it."""

    id: str
    files: dict[str, bool] = field(default_factory=dict)
    """Name of a file → whether Element has exported it."""
    name: str = ""
    topic: str = ""
    version: int = 10
    state: dict[str, MatrixEvent] = field(default_factory=dict)
    """Type → the newest event of the state with this type."""
    members: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Person who was in the room or was invited → (depth of the event,
    membership)."""
    writers: dict[str, None] = field(default_factory=dict)
    messages: int = 0
    """The number of messages. It includes encrypted messages, and counts a
    message in two exports twice."""
    markers: dict[str, list[str]] = field(default_factory=dict)
    """Id of an event → the people who have read all up to it."""
    read: dict[str, int] = field(default_factory=dict)
    """Person → the time up to which they have read."""
    is_direct: bool = False
    is_joined: bool = False
    """Whether anybody has ever joined."""
    kind: GroupKind | None = None
    """None if the room is not imported."""

    def content(self, name: str) -> Json:
        """The content of the newest state event with this type."""
        event = self.state.get(f"m.room.{name}")
        if event is None:
            return {}
        return event.content

    def role(self, user: str) -> Role:
        """The role of a person by their power. The creators of a room are
        owners if the room has no powers, or if its version gives them all
        powers."""
        create = self.state.get("m.room.create")
        levels = self.content("power_levels")
        power = number_at(levels, "users", user)
        if power is None:
            power = number_at(levels, "users_default") or 0
        if create is not None and (self.version >= _CREATORS_OWN or not levels):
            creators = [create.sender]
            if self.version >= _CREATORS_OWN:
                creators += list_at(create.content, "additional_creators")
            if user in creators:
                power = OWNER_POWER
        if power >= OWNER_POWER:
            return "owner"
        if power >= ADMIN_POWER:
            return "admin"
        return "member"


class Relations(Struct):
    """The edits, reactions and redactions in a room, each by the event that it
    changes."""

    edits: dict[tuple[str, str], tuple[int, str, Json]] = field(default_factory=dict)
    """(id of a message, editor) → (time, id, new content) of the newest
    edit."""
    reactions: dict[str, tuple[str, Reaction]] = field(default_factory=dict)
    """Id of a reaction → id of its message, and the reaction."""
    newest: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)
    """Id of a message → (person, key) → id of the newest reaction of this
    kind."""
    redactions: dict[str, MatrixEvent] = field(default_factory=dict)
    """Id of an event → the event that redacts it. It is the event itself if the
    server has taken its content."""
