"""Rocket.Chat's database, as ``mongodump`` writes it.

Read from sources: the types of ``packages/core-typings`` and the stores of
files in ``apps/meteor/app`` of Rocket.Chat 3 to 8. A room is a group, also a
discussion. Encrypted messages and those of omnichannel are counted, and do not
come.
"""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, Final
from urllib.parse import unquote

from msgspec import Struct, field

from .fields import list_at, text_at
from .mongodump import Dump, GridFile, Place
from .problems import Problems
from .records import (
    EVERYBODY,
    Change,
    Emoji,
    File,
    Group,
    GroupKind,
    Member,
    Message,
    Person,
    Pin,
    Reaction,
    Record,
    Role,
    link,
    mention,
)
from .text import LATEST_MS, around_code, clean, emoji_named, labelled

_ROOMS: Final = "rocketchat_room"
_MESSAGES: Final = "rocketchat_message"
_CHUNKS: Final = "rocketchat_uploads.chunks"
_NEEDED: Final = {
    "users": "nobody can claim an account",
    "rocketchat_subscription": "who is in a room is not known",
    _MESSAGES: "no message comes",
}
"""Collections without which much is missing → what."""
_JOINED: Final = ("uj", "ujt", "ut")
_LEFT: Final = ("ul", "ult")
_ADDED: Final = ("au", "added-user-to-team")
_REMOVED: Final = ("ru", "removed-user-from-team")
_DESCRIBED: Final = (
    "room_changed_topic",
    "room_changed_description",
    "room_changed_announcement",
)
_TEXTS: Final = ("", "discussion-created", "discussion-message")
_EVENT: Final = re.compile(
    "room|user|subscription|message_pinned|mute|wm$|command|video|jitsi|voip|livechat|omni"
)
"""Kinds of messages that leave nothing; pins are in the messages that are
pinned."""


# --- documents, as Rocket.Chat writes them ------------------------------------


class _Somebody(Struct):
    own_id: str | None = field(default=None, name="_id")
    username: str | None = None
    name: str | None = None

    @property
    def id(self) -> str:
        """``""``: nobody."""
        return self.own_id or ""


class _User(Struct):
    id: str = field(name="_id")
    username: str | None = None
    name: str | None = None
    emails: list[dict[str, Any]] | None = None
    type: str | None = None
    active: bool | None = True
    roles: list[Any] | None = None
    federated: bool | None = False


class _Room(Struct):
    id: str = field(name="_id")
    t: str
    name: str | None = None
    fname: str | None = None
    prid: str | None = None
    topic: str | None = None
    description: str | None = None
    announcement: str | None = None
    u: _Somebody | None = None
    uids: list[str] | None = None
    ts: Any = None
    lm: Any = None
    archived: bool | None = False


class _Subscription(Struct):
    rid: str
    u: _Somebody
    roles: list[Any] | None = None
    ls: Any = None
    alert: bool | None = None


class _Upload(Struct):
    id: str = field(name="_id")
    name: str | None = None
    store: str | None = None
    type_group: str | None = field(default=None, name="typeGroup")
    user: str | None = field(default=None, name="userId")
    room: str | None = field(default=None, name="rid")


class _Emoji(Struct):
    name: str
    extension: str
    aliases: list[Any] | None = None


class _Message(Struct):
    id: Any = field(name="_id")
    rid: str
    u: _Somebody
    ts: Any
    msg: str | None = ""
    t: str | None = None
    alias: str | None = None
    tmid: str | None = None
    tshow: bool | None = False
    hidden: bool | None = field(default=False, name="_hidden")
    edited: Any = field(default=None, name="editedAt")
    pinned: bool | None = False
    pinned_at: Any = field(default=None, name="pinnedAt")
    pinned_by: _Somebody | None = field(default=None, name="pinnedBy")
    mentions: list[dict[str, Any] | None] | None = None
    channels: list[dict[str, Any] | None] | None = None
    drid: str | None = None
    reactions: dict[str, dict[str, Any] | None] | None = None
    file: dict[str, Any] | None = None
    files: list[dict[str, Any] | None] | None = None
    attachments: list[dict[str, Any] | None] | None = None
    location: dict[str, Any] | None = None


# --- records ------------------------------------------------------------------


class RocketChat:
    """A dump of Rocket.Chat. See :class:`Archive`."""

    name: ClassVar[str] = "rocketchat"
    title: ClassVar[str] = "Rocket.Chat"

    def __init__(self, path: Path) -> None:
        self.problems = Problems()
        self._dump = Dump(path, _ROOMS, self.title, self.problems)
        self._is_read = False
        self._people: dict[str, Person] = {}
        self._names: dict[str, str] = {}
        """Username → id."""
        self._rooms: dict[str, _Room] = {}
        self._uploads: dict[str, _Upload] = {}
        self._emoji: dict[str, str] = {}
        """Name of an own emoji → the name of its file."""
        self._members: dict[str, dict[str, Member]] = {}
        self._pins: dict[str, list[Pin]] = {}
        self._avatars: dict[str, str] = {}
        self._chunks: dict[str, dict[str, list[tuple[int, Place]]]] = {}

    def records(self) -> Iterator[Record]:
        """All records. The messages are read twice: who wrote them and what is
        pinned comes before them."""
        # each problem is noted once
        notes = Problems() if self._is_read else self.problems
        if not self._is_read:
            self._read(notes)
            self._is_read = True
        yield from self._people.values()
        for name, file in self._emoji.items():
            yield Emoji(name, f"emoji/{file}")
        for room in self._rooms.values():
            if room.t in ("c", "p", "d"):
                yield self._group(room)
        for message in self._dump.rows(_MESSAGES, _Message, notes, messages=1):
            yield from self._converted(message, notes)

    def open(self, file: str) -> IO[bytes] | None:
        """The bytes of a file: by the id of an upload, ``avatars/`` and an id,
        ``emoji/`` and a name."""
        folder, _, id = file.rpartition("/")
        if folder == "emoji":
            for bucket in ("custom_emoji", "rocketchat_custom_emoji"):
                for _, row in self._dump.places(f"{bucket}.files", Problems()):
                    if row.get("filename") == id and (
                        chunks := self._chunks_of(bucket).get(str(row.get("_id")))
                    ):
                        return io.BufferedReader(GridFile(self._dump, chunks))
            return None
        chunks = self._chunks_of(f"rocketchat_{folder or 'uploads'}").get(id) or []
        return io.BufferedReader(GridFile(self._dump, chunks)) if chunks else None

    def _chunks_of(self, bucket: str) -> Mapping[str, list[tuple[int, Place]]]:
        """Id of a file → its chunks: (number, place)."""
        if bucket not in self._chunks:
            chunks = self._chunks[bucket] = {}
            for place, row in self._dump.places(f"{bucket}.chunks", self.problems):
                if isinstance(row.get("n"), int) and isinstance(row.get("data"), bytes):
                    chunks.setdefault(str(row.get("files_id")), []).append(
                        (row["n"], place)
                    )
        return self._chunks[bucket]

    # --- people and rooms -----------------------------------------------------

    def _read(self, notes: Problems) -> None:
        dump = self._dump
        for collection, loss in _NEEDED.items():
            if collection not in dump.parts:
                notes.note_broken(
                    f"collection {collection}", f"it is not in the dump: {loss}"
                )
        for avatar in dump.rows("rocketchat_avatars", _Upload, notes):
            owner = avatar.room or avatar.user or avatar.name
            if owner and "GridFS" in (avatar.store or ""):
                self._avatars[owner] = f"avatars/{avatar.id}"
        for user in dump.rows("users", _User, notes):
            self._meet(user)
        for room in dump.rows(_ROOMS, _Room, notes):
            self._rooms[room.id] = room
        self._uploads = {
            each.id: each for each in dump.rows("rocketchat_uploads", _Upload, notes)
        }
        are_inside = any(
            "GridFS" in (each.store or "") for each in self._uploads.values()
        )
        if are_inside and _CHUNKS not in dump.parts:
            notes.note_broken(
                f"collection {_CHUNKS}",
                "it is not in the dump: files have their names alone",
            )
        for emoji in dump.rows("rocketchat_custom_emoji", _Emoji, notes):
            for name in (
                emoji.name,
                *(
                    each
                    for each in emoji.aliases or ()
                    if isinstance(each, str) and each
                ),
            ):
                self._emoji[clean(name)] = f"{emoji.name}.{emoji.extension}"
        for each in dump.rows("rocketchat_subscription", _Subscription, notes):
            room_of = self._rooms.get(each.rid)
            if room_of is not None and each.u.id:
                self._met(each.u)
                self._members.setdefault(each.rid, {})[each.u.id] = _member(
                    each, room_of
                )
        for message in dump.rows(_MESSAGES, _Message, Problems()):
            room_of = self._rooms.get(message.rid)
            if room_of is None or room_of.t not in ("c", "p", "d") or message.hidden:
                continue
            self._met(message.u)
            if message.pinned:
                by = message.pinned_by.id if message.pinned_by else ""
                self._pins.setdefault(message.rid, []).append(
                    Pin(_id(message.id), by, _ms(message.pinned_at))
                )

    def _meet(self, user: _User) -> None:
        is_bot = user.type in ("bot", "app") or "bot" in (user.roles or ())
        why = (
            "bot"
            if is_bot
            else "federated"
            if user.federated
            else ""
            if user.active
            else "deactivated"
        )
        emails = [
            each["address"]
            for each in user.emails or ()
            if isinstance(each.get("address"), str)
        ]
        login = clean(user.username or "")
        self._people[user.id] = Person(
            user.id,
            clean(user.name or "") or login or user.id,
            "" if why else login,
            "" if why else clean(next(iter(emails), "")),
            self._avatars.get(user.id) or self._avatars.get(user.username or "", ""),
            why,
        )
        if user.username:
            self._names[user.username] = user.id

    def _met(self, somebody: _Somebody) -> None:
        """Somebody whom no document is about: they were deleted, or are
        elsewhere."""
        if somebody.id and somebody.id not in self._people:
            name = clean(somebody.name or somebody.username or "")
            self._people[somebody.id] = Person(
                somebody.id, name or somebody.id, why="deleted"
            )
            self._names.setdefault(somebody.username or "", somebody.id)

    def _group(self, room: _Room) -> Group:
        members = self._members.get(room.id, {})
        if room.t == "d":
            for id in room.uids or ():
                if id in self._people:
                    members.setdefault(id, Member(id))
        several: GroupKind = "several" if len(members) > 2 else "direct"
        kind: GroupKind = (
            several if room.t == "d" else "open" if room.t == "c" else "closed"
        )
        about = room.description or room.topic or room.announcement or ""
        return Group(
            *(room.id, kind, "" if room.t == "d" else self._title(room)),
            *(
                _converted_text(about, {}),
                room.u.id if room.u and room.u.id in self._people else "",
            ),
            _ms(room.ts),
            list(members.values()),
            self._pins.get(room.id, ()),
            is_archived=bool(room.archived),
            avatar=self._avatars.get(room.id, ""),
        )

    def _title(self, room: _Room | None) -> str:
        """The name of a room for people. The ``name`` of a discussion is a
        second id."""
        if room is None:
            return ""
        parent = self._rooms.get(room.prid or "")
        of_parent = (parent.fname or parent.name) if parent is not None else ""
        return clean(room.fname or of_parent or room.name or "")

    # --- messages -------------------------------------------------------------

    def _converted(
        self, message: _Message, notes: Problems
    ) -> Iterator[Message | Change]:
        room, type, time_ms = (
            self._rooms.get(message.rid),
            message.t or "",
            _ms(message.ts),
        )
        id, person = _id(message.id), message.u.id
        if room is None or not time_ms or not id or person not in self._people:
            notes.note_lost("message without a room, a sender or a time")
        elif room.t not in ("c", "p", "d"):
            notes.note_lost("message of omnichannel")
        elif message.hidden:
            notes.note("earlier text of a message")
        elif type == "e2e" or type.startswith("otr"):
            notes.note_lost("encrypted message", group=room.id, person=person)
        elif type == "rm":
            notes.note("deleted message", group=room.id)
        elif type in (*_JOINED, *_LEFT):
            yield Change(
                id,
                room.id,
                person,
                time_ms,
                "join" if type in _JOINED else "leave",
                (person,),
            )
        elif type in (*_ADDED, *_REMOVED):
            whom = self._names.get(message.msg or "", "")
            if whom:
                yield Change(
                    id,
                    room.id,
                    person,
                    time_ms,
                    "join" if type in _ADDED else "leave",
                    (whom,),
                )
            else:
                notes.note("change of nobody", group=room.id)
        elif type == "r" or type in _DESCRIBED:
            text = clean(message.msg or "")
            yield Change(
                id,
                room.id,
                person,
                time_ms,
                "name" if type == "r" else "description",
                (),
                text,
            )
        elif type not in _TEXTS and (_EVENT.match(type) or not message.msg):
            notes.note(f"event {type[:60]}", group=room.id)
        else:
            if type not in _TEXTS:
                notes.note(f"kind {type[:60]} (imported as text)", group=room.id)
            yield self._message(message, room, id, time_ms, notes)

    def _message(
        self, message: _Message, room: _Room, id: str, time_ms: int, notes: Problems
    ) -> Message:
        names = {
            each["username"]: EVERYBODY
            if each.get("_id") in ("all", "here")
            else str(each.get("_id"))
            for each in message.mentions or ()
            if each
            and isinstance(each.get("username"), str)
            and each.get("type") != "team"
        }
        names = {
            name: id
            for name, id in names.items()
            if id == EVERYBODY or id in self._people
        }
        rooms = {
            each["name"]: self._title(self._rooms.get(str(each.get("_id"))))
            for each in message.channels or ()
            if each and isinstance(each.get("name"), str)
        }
        text, quoted = (
            clean(message.msg or ""),
            _QUOTE.findall(clean(message.msg or "")),
        )
        reply, lines = "", [_converted_text(_QUOTE.sub("", text).strip(), names, rooms)]
        if message.t == "discussion-created":
            title = lines[0] or self._title(self._rooms.get(message.drid or ""))
            lines = [f"💬 *{title.replace('*', '')}*"]
        for attachment in message.attachments or ():
            if attachment is None or attachment.get("type") == "file":
                lines.append(
                    _converted_text(clean(text_at(attachment, "description")), names)
                )
                continue
            target = _ADDRESS.fullmatch(text_at(attachment, "message_link"))
            if target and not reply and not message.tmid and self._is_in(target, room):
                reply = target["id"]
            elif target:
                lines.append(link(target["id"], clean(target[0])))
                lines += [
                    f"> {line}" for line in _said(attachment, names).split("\n") if line
                ]
            else:
                lines.append(_said(attachment, names))
        if quoted and not message.attachments:
            target = _ADDRESS.fullmatch(quoted[0])
            reply = (
                target["id"]
                if target and not message.tmid and self._is_in(target, room)
                else ""
            )
        if message.alias:
            lines.insert(0, f"*{clean(message.alias).replace('*', '')}*")
        if coordinates := (message.location or {}).get("coordinates"):
            lines.append(", ".join(str(each)[:20] for each in list(coordinates)[1::-1]))
        return Message(
            *(
                id,
                room.id,
                message.u.id,
                time_ms,
                "\n".join(line for line in lines if line),
            ),
            *(
                message.tmid or "",
                reply,
                bool(message.tshow),
                message.edited is not None,
            ),
            list(self._reactions(message, notes)),
            list(self._files(message)),
        )

    def _is_in(self, target: re.Match[str], room: _Room) -> bool:
        """Whether the address of a message leads into this room."""
        return unquote(target["room"]) in (room.id, room.name) or (
            target["kind"] == "direct" and room.t == "d"
        )

    def _reactions(self, message: _Message, notes: Problems) -> Iterator[Reaction]:
        for name, given in (message.reactions or {}).items():
            for user in list_at(given, "usernames"):
                if id := self._names.get(user, "") if isinstance(user, str) else "":
                    yield Reaction(id, _emoji(name.strip(":")) or clean(name))
                else:
                    notes.note("reaction of nobody")

    def _files(self, message: _Message) -> Iterator[File]:
        files = [each for each in (*(message.files or ()), message.file) if each]
        for attachment in message.attachments or ():
            if match := _UPLOAD.match(text_at(attachment, "title_link")):
                files.append({"_id": match[1], "name": unquote(match[2])})
        seen = set()
        for each in files:
            id, upload = each.get("_id"), self._uploads.get(str(each.get("_id")))
            name = clean(
                str((upload.name if upload else "") or each.get("name") or "file")
            ).replace("\n", " ")
            is_small = name.startswith("thumb-") or (
                upload is not None and upload.type_group == "thumb"
            )
            if not isinstance(id, str) or id in seen or is_small:
                continue
            seen.add(id)
            yield File(id, name)


def _member(subscription: _Subscription, room: _Room) -> Member:
    roles, read_ms = subscription.roles or (), _ms(subscription.ls)
    role: Role = (
        "owner" if "owner" in roles else "admin" if "moderator" in roles else "member"
    )
    if subscription.alert is False:  # there is nothing new
        read_ms = max(read_ms, _ms(room.lm))
    return Member(subscription.u.id, role, read_ms or -1)


def _ms(moment: Any) -> int:
    """Milliseconds of a date; 0: it is none that can be one."""
    if (
        moment is None
        or isinstance(moment, str | bytes | bool)
        or not hasattr(type(moment), "__int__")
    ):
        return 0
    try:
        return int(moment) if 0 < int(moment) < LATEST_MS else 0
    except (ValueError, OverflowError):  # no number
        return 0


def _id(id: Any) -> str:
    """The id of a document: a text, or the hexadecimal digits of an ObjectId;
    ``""``: another type."""
    return (
        id
        if isinstance(id, str)
        else str(id)
        if type(id).__name__ == "ObjectId"
        else ""
    )


# --- texts --------------------------------------------------------------------

_MESSAGE: Final = (
    r"https?://[^\s()/]{1,300}/(?P<kind>channel|group|direct)/(?P<room>[^\s()?/]{1,300})"
    r"(?:/[^\s()?]{0,300})?\?(?:[^\s()]{0,300}&)?msg=(?P<id>[\w-]{1,64})"
)
_ADDRESS: Final = re.compile(_MESSAGE)
_QUOTE: Final = re.compile(r"\[ ?\]\((https?://[^\s()]{1,1000}[?&]msg=[\w-]{1,64})\)")
_UPLOAD: Final = re.compile(
    r"(?:https?://[^/\s]+)?/(?:file-upload|ufs/[\w:]+)/([^/\s]{1,100})/([^?\s]*)"
)
_INLINE: Final = re.compile(
    rf"""
      (?P<message>{_MESSAGE})
    | (?P<address>https?://[^\s<>()\[\]|]{{1,2000}})
    | <(?P<target>https?://[^\s<>|]{{1,2000}})\|(?P<label>[^<>\n]{{1,500}})>
    | (?<![\w@.])@(?P<name>[\w.@:-]{{1,200}})
    | (?<![\w&\#])\#(?P<channel>[\w.-]{{1,200}})
    | :(?P<emoji>[a-z0-9_+-]{{1,100}}):
    | (?<![\w~])~(?![~\s])(?P<struck>[^~\n]{{1,2000}})(?<!\s)~(?![\w~])
    """,
    re.VERBOSE,
)
_EMOJI: Final = {
    "slight_smile": "🙂",
    "slight_frown": "🙁",
    "upside_down": "🙃",
    "rolling_eyes": "🙄",
    "thinking": "🤔",
    "hugging": "🤗",
    "nerd": "🤓",
    "robot": "🤖",
    "rofl": "🤣",
    "zipper_mouth": "🤐",
    "money_mouth": "🤑",
    "metal": "🤘",
    "vulcan": "🖖",
    "fingers_crossed": "🤞",
    "star_struck": "🤩",
    "cowboy": "🤠",
}
"""Emoji whose names there no other server knows."""


def _emoji(name: str) -> str:
    """The emoji of a name, such as ``wave_tone1``; ``""``: an own one."""
    tone = re.fullmatch(r"(.+)_tone([1-5])", name)
    return _EMOJI.get(name) or emoji_named(
        f"{tone[1]}::skin-tone-{int(tone[2]) + 1}" if tone else name
    )


_NO_ROOMS: Final[Mapping[str, str]] = {}


def _converted_text(
    text: str, names: Mapping[str, str], rooms: Mapping[str, str] = _NO_ROOMS
) -> str:
    """A text as ours. ``names``: usernames that it mentions, and the ids for
    their marks. ``rooms``: names of rooms that it mentions, and what people
    call them."""

    def part(match: re.Match[str]) -> str:
        if match["message"]:
            return link(match["id"], match[0])
        if match["target"]:
            return labelled(match["label"], match["target"])
        if match["name"]:
            name = match["name"]
            short = name.rstrip(".:-")
            return next(
                (
                    mention(names[each]) + name[len(each) :]
                    for each in (name, short)
                    if each in names
                ),
                match[0],
            )
        if match["channel"]:
            name = match["channel"]
            short = name.rstrip(".-")
            shown = next((each for each in (name, short) if rooms.get(each)), "")
            return f"#{rooms[shown]}{name[len(shown) :]}" if shown else match[0]
        if match["emoji"]:
            return _emoji(match["emoji"]) or match[0]
        return f"~~{match['struck']}~~" if match["struck"] else match[0]

    return around_code(clean(text), lambda outside: _INLINE.sub(part, outside))


def _said(attachment: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """What an app, or a quoted message, says in an attachment."""
    of = {
        name: value
        for name, value in attachment.items()
        if isinstance(value, str) and value
    }
    title, address = of.get("title"), of.get("title_link", "")
    rows = [
        f"{each.get('title') or ''}: {each.get('value') or ''}".strip(": ")
        for each in list_at(attachment, "fields")
        if isinstance(each, dict)
    ]
    head = f"<{address}|{title}>" if title and address.startswith("http") else title
    parts = (
        of.get("author_name"),
        of.get("pretext"),
        head,
        of.get("text"),
        *rows,
        of.get("image_url"),
    )
    return _converted_text("\n".join(each for each in parts if each), names)
