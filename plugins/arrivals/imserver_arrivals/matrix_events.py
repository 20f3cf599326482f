"""Events of Matrix as a server writes them, one behind the other and without ids, and rooms made of them.

The id of an event of a room from version 3 on is a digest (specification of Matrix 1.15, server-server API,
"reference hashes"), of what is left when the event is redacted (room versions, "redactions").
"""

import json
import re
from base64 import b64encode, urlsafe_b64encode
from codecs import getincrementaldecoder
from collections.abc import Iterator
from functools import cached_property
from hashlib import sha256
from typing import IO, Any, Final

from msgspec import Struct, field

from .problems import Problems
from .records import GroupKind, Role

ADMIN_POWER: Final = 50
OWNER_POWER: Final = 100
CHUNK_BYTES: Final = 1 << 18
MOST_EVENT_CHARACTERS: Final = 1 << 20
"""Characters of one event. A server of Matrix takes 65,536 bytes."""
_BETWEEN: Final = re.compile(r"[\s,]*")
_NEXT: Final = re.compile(r"\}[\s,]*(?=\{)")

Json = dict[str, Any]


def at(value: object, *keys: str) -> Any:
    """What a value has under these keys; None: nothing."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def text_at(value: object, *keys: str) -> str:
    """The text under these keys; ``""``: there is none."""
    found = at(value, *keys)
    return found if isinstance(found, str) else ""


def number_at(value: object, *keys: str) -> int | None:
    """The number under these keys; None: there is none. Old servers took a number as a text."""
    found = at(value, *keys)
    if isinstance(found, str) and re.fullmatch(r"-?\d{1,9}", found, re.ASCII):
        return int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


_KEPT: Final = frozenset(
    (
        *("auth_events", "depth", "event_id", "hashes", "origin_server_ts"),
        *("prev_events", "room_id", "sender", "state_key", "type"),
    )
)
"""What a redaction leaves of an event, beside some of its content."""
_KEPT_UNTIL_10: Final = _KEPT | {"prev_state", "origin", "membership"}
_POWERS: Final = (
    *("ban", "events", "events_default", "kick"),
    *("redact", "state_default", "users", "users_default"),
)
_KEPT_CONTENT: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "m.room.member": {"membership": (1, 99), "join_authorised_via_users_server": (9, 99)},
    "m.room.create": {"creator": (1, 10)},
    "m.room.join_rules": {"join_rule": (1, 99), "allow": (8, 99)},
    "m.room.power_levels": {"invite": (11, 99), **dict.fromkeys(_POWERS, (1, 99))},
    "m.room.history_visibility": {"history_visibility": (1, 99)},
    "m.room.aliases": {"aliases": (1, 5)},
    "m.room.redaction": {"redacts": (11, 99)},
}
"""Type of an event → what a redaction leaves of its content → first and last version of rooms."""


def event_id(event: Json, version: int) -> str:
    """The id of an event of a room of a version from 3 on: a digest of what a redaction leaves of it."""
    rest = {name: each for name, each in event.items() if name in (_KEPT if version > 10 else _KEPT_UNTIL_10)}
    content, type = event.get("content"), text_at(event, "type")
    rest["content"] = kept = {}
    if isinstance(content, dict):
        versions = _KEPT_CONTENT.get(type, {})
        for name, each in content.items():
            first, last = versions.get(name, (1, 0))
            if first <= version <= last or (type == "m.room.create" and version > 10):
                kept[name] = each
        signed = at(content, "third_party_invite", "signed")
        if type == "m.room.member" and version > 10 and signed is not None:
            kept["third_party_invite"] = {"signed": signed}
    canonical = json.dumps(rest, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    encode = b64encode if version == 3 else urlsafe_b64encode
    digest = sha256(canonical.encode(errors="surrogatepass")).digest()
    return f"${encode(digest).decode().rstrip('=')}"


class Event:
    """An event. ``top``: the folder of the export of Element that has it; None: it is Synapse's."""

    def __init__(self, raw: Json, version: int, top: str | None) -> None:
        self.raw, self._version, self.top = raw, version, top
        self.type, self.sender = text_at(raw, "type"), text_at(raw, "sender")
        self.time_ms = number_at(raw, "origin_server_ts") or 0
        content = raw.get("content")
        self.content: Json = content if isinstance(content, dict) else {}
        state_key = raw.get("state_key")
        self.state_key: str | None = state_key if isinstance(state_key, str) else None

    @cached_property
    def id(self) -> str:
        has_id = self.top is not None or self._version < 3
        id = text_at(self.raw, "event_id") if has_id else ""
        return id if 0 < len(id) < 256 and id.isprintable() else event_id(self.raw, self._version)

    @property
    def relation(self) -> tuple[str, str]:
        """How it relates to which event: ``m.replace``, ``m.annotation``, ``m.thread``, …"""
        relation = self.content.get("m.relates_to")
        return text_at(relation, "rel_type"), text_at(relation, "event_id")

    @property
    def reaction(self) -> tuple[str, str]:
        """The emoji, or the address of a picture and its name."""
        names = (text_at(self.content, name) for name in ("shortcode", "com.beeper.reaction.shortcode"))
        return text_at(self.content, "m.relates_to", "key"), next(filter(None, names), "").strip(":")

    @property
    def membership_before(self) -> str:
        """How somebody was in the room until this event; ``""``: not at all."""
        unsigned = self.raw.get("unsigned")
        return text_at(unsigned, "prev_content", "membership") or text_at(unsigned, "replaces_state")

    @property
    def is_encrypted(self) -> bool:
        return self.type == "m.room.encrypted" or text_at(self.content, "msgtype") == "m.bad.encrypted"


def documents(file: IO[bytes], where: str, problems: Problems, is_list: bool = False) -> Iterator[Any]:
    """The JSON values of a file, with nothing or a comma between them. ``is_list``: they end with a bracket.

    What is broken is noted and passed over.
    """
    decode, read = getincrementaldecoder("utf-8")("replace").decode, json.JSONDecoder().raw_decode
    text, begin, is_last = "", 0, False

    def more() -> None:
        nonlocal text, begin, is_last
        chunk = file.read(CHUNK_BYTES)
        is_last = not chunk
        text, begin = text[begin:] + decode(chunk, is_last), 0

    more()
    while True:
        begin = _BETWEEN.match(text, begin).end()  # type: ignore[union-attr]
        if begin == len(text):
            if is_last:
                return
            more()
            continue
        if is_list and text[begin] == "]":
            return
        try:
            value, begin = read(text, begin)
        except (ValueError, RecursionError) as error:
            if not is_last and len(text) - begin < MOST_EVENT_CHARACTERS:
                more()
                continue
            problems.note_broken(where, error)
            while (following := _NEXT.search(text, begin)) is None:
                if is_last:
                    return
                begin = max(begin, len(text) - 1)
                more()
            begin = following.end()
            continue
        yield value


# --- rooms ------------------------------------------------------------------------------------------------


class Room(Struct):
    """A room: its files, and its state as far as events tell it."""

    id: str
    files: list[str] = field(default_factory=list)
    lists: list[tuple[str, int]] = field(default_factory=list)
    """Exports of Element: a file, and where its events begin."""
    name: str = ""
    topic: str = ""
    version: int = 0
    state: dict[str, tuple[tuple[int, int], Event]] = field(default_factory=dict)
    """Type of a state event → (its place in the order, the newest of them)."""
    members: dict[str, tuple[tuple[int, int], str]] = field(default_factory=dict)
    """Everybody who was there or was invited → (place in the order, membership)."""
    writers: dict[str, None] = field(default_factory=dict)
    markers: dict[str, list[str]] = field(default_factory=dict)
    """Id of an event → who has read all up to it."""
    read: dict[str, int] = field(default_factory=dict)
    is_direct: bool = False
    is_joined: bool = False
    kind: GroupKind | None = None

    def order_of(self, type: str) -> tuple[int, int]:
        """The place of the newest state event of this type."""
        return self.state[type][0] if type in self.state else (-1, 0)

    def content(self, name: str) -> Json:
        """The content of the newest state event of this type."""
        found = self.state.get(f"m.room.{name}")
        return found[1].content if found else {}

    def role(self, user: str) -> Role:
        create = self.state.get("m.room.create")
        levels = self.content("power_levels")
        power = number_at(levels, "users", user)
        if power is None:
            power = number_at(levels, "users_default") or 0
        if create is not None and (self.version >= 12 or not levels):
            more = create[1].content.get("additional_creators") if self.version >= 12 else None
            if user == create[1].sender or (isinstance(more, list) and user in more):
                power = OWNER_POWER
        return "owner" if power >= OWNER_POWER else "admin" if power >= ADMIN_POWER else "member"


class Known(Struct):
    """What is known of somebody, from the newest of their member events."""

    time_ms: int = -1
    nickname: str = ""
    avatar: str = ""


class Relations(Struct):
    """What the events of a room say about others of its events."""

    edits: dict[tuple[str, str], tuple[int, str, Json]] = field(default_factory=dict)
    """(id of a message, who edits it) → (time, id, new content) of the newest edit."""
    reactions: dict[str, dict[tuple[str, str], tuple[str, str]]] = field(default_factory=dict)
    """Id of a message → (person, key) → (id, name of an own emoji)."""
    redacted: dict[str, str] = field(default_factory=dict)
    """Id of an event → who has redacted it; ``""``: the server has done it."""
