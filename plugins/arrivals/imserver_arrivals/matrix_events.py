"""Events of Matrix as a server writes them, and rooms made of them.

The id of an event of a room from version 3 on is a digest (specification of
Matrix 1.15, server-server API, "reference hashes"), of what is left when the
event is redacted (room versions, "redactions").
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

_KEPT: Final = {
    *("auth_events", "depth", "event_id", "hashes", "origin_server_ts"),
    *("prev_events", "room_id", "sender", "state_key", "type"),
}
"""What a redaction leaves of an event, beside some of its content."""
_KEPT_UNTIL_10: Final = _KEPT | {"prev_state", "origin", "membership"}
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
_KEPT_CONTENT: Final[dict[str, dict[str, int]]] = {
    "m.room.member": {"membership": 1, "join_authorised_via_users_server": 9},
    "m.room.create": {"creator": 1},
    "m.room.join_rules": {"join_rule": 1, "allow": 8},
    "m.room.power_levels": {"invite": 11, **dict.fromkeys(_POWERS, 1)},
    "m.room.history_visibility": {"history_visibility": 1},
    "m.room.redaction": {"redacts": 11},
}
"""Type of an event → what a redaction leaves of its content → since which
version of rooms."""


def event_id(event: Json, version: int) -> str:
    """The id of an event of a room of a version from 3 on: a digest of what a
    redaction leaves of it."""
    rest = {
        name: each
        for name, each in event.items()
        if name in (_KEPT if version > 10 else _KEPT_UNTIL_10)
    }
    type: str = event["type"]
    content: Json = event.get("content", {})
    if type != "m.room.create" or version < 11:
        names = _KEPT_CONTENT.get(type, {})
        content = {
            name: content[name]
            for name in names
            if name in content and names[name] <= version
        }
    signed = at(event, "content", "third_party_invite", "signed")
    if type == "m.room.member" and version > 10 and signed is not None:
        content["third_party_invite"] = {"signed": signed}
    rest["content"] = content
    canonical = json.dumps(
        rest, ensure_ascii=False, separators=(",", ":"), sort_keys=True
    )
    encode = b64encode if version == 3 else urlsafe_b64encode
    digest = sha256(canonical.encode(errors="surrogatepass")).digest()
    return f"${encode(digest).decode().rstrip('=')}"


class MatrixEvent(
    Struct, dict=True, rename={"time_ms": "origin_server_ts", "given_id": "event_id"}
):
    """An event."""

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
    """The JSON, the version of the room, and the folder of an export of Element
    (None: it is Synapse's)."""
    version: Any = 0
    top: Any = None

    @cached_property
    def id(self) -> str:
        # a colon: before version 3
        has_id = self.top is not None or ":" in self.given_id
        id = self.given_id if has_id else ""
        if 0 < len(id) < 256 and id.isprintable():
            return id
        return event_id(self.raw, self.version)

    @property
    def relation(self) -> tuple[str, str]:
        """How it relates to which event: ``m.replace``, ``m.annotation``,
        ``m.thread``, …"""
        relation = self.content.get("m.relates_to")
        return text_at(relation, "rel_type"), text_at(relation, "event_id")

    @property
    def reaction(self) -> tuple[str, str]:
        """The emoji, or the address of a picture and its name."""
        names = (
            text_at(self.content, name)
            for name in ("shortcode", "com.beeper.reaction.shortcode")
        )
        return text_at(self.content, "m.relates_to", "key"), next(
            filter(None, names), ""
        ).strip(":")

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
    """Name → whether it is of Element."""
    name: str = ""
    topic: str = ""
    version: int = 10
    state: dict[str, MatrixEvent] = field(default_factory=dict)
    """Type → the newest such event of the state."""
    members: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Everybody who was there or was invited → (depth of the event,
    membership)."""
    writers: dict[str, None] = field(default_factory=dict)
    messages: int = 0
    """Also encrypted ones, and those that are in two exports."""
    markers: dict[str, list[str]] = field(default_factory=dict)
    """Id of an event → who has read all up to it."""
    read: dict[str, int] = field(default_factory=dict)
    is_direct: bool = False
    is_joined: bool = False
    kind: GroupKind | None = None

    def content(self, name: str) -> Json:
        """The content of the newest state event of this type."""
        found = self.state.get(f"m.room.{name}")
        return found.content if found else {}

    def role(self, user: str) -> Role:
        create = self.state.get("m.room.create")
        levels = self.content("power_levels")
        power = number_at(levels, "users", user)
        if power is None:
            power = number_at(levels, "users_default") or 0
        if create is not None and (self.version >= 12 or not levels):
            more = (
                list_at(create.content, "additional_creators")
                if self.version >= 12
                else ()
            )
            if user == create.sender or user in more:
                power = OWNER_POWER
            else:
                power = power
        if power >= OWNER_POWER:
            return "owner"
        if power >= ADMIN_POWER:
            return "admin"
        return "member"


class Relations(Struct):
    """What the events of a room say about others of its events."""

    edits: dict[tuple[str, str], tuple[int, str, Json]] = field(default_factory=dict)
    """(id of a message, who edits it) → (time, id, new content) of the newest
    edit."""
    reactions: dict[str, tuple[str, Reaction]] = field(default_factory=dict)
    """Id of a reaction → id of the message, reaction."""
    newest: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)
    """Id of a message → (person, key) → id of the newest such reaction."""
    redactions: dict[str, MatrixEvent] = field(default_factory=dict)
    """Id of an event → the one that redacts it, or itself: the server has taken
    its content."""
