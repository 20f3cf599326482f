"""Reads Rocket.Chat's database, as ``mongodump`` writes it.

The format was read from sources: the types of ``packages/core-typings`` and the
stores of files in ``apps/meteor/app`` of Rocket.Chat 3 to 8. A room or a
discussion is a group. Encrypted messages and messages of omnichannel are
counted, but not imported.
"""

import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar, Final, Literal
from urllib.parse import unquote

from msgspec import Struct, field
from msgspec.structs import replace

from .fields import at, list_at, text_at
from .mongodump import Chunk, Dump, GridFile
from .problems import NAME_CHARACTERS, Problems
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
from .text import (
    LATEST_MS,
    around_code,
    clean,
    emoji_named,
    labelled,
    lines_of_fields,
)

_ROOMS: Final = "rocketchat_room"
_MESSAGES: Final = "rocketchat_message"
_CHUNKS: Final = "rocketchat_uploads.chunks"
_NEEDED: Final = {
    "users": "nobody can claim an account",
    "rocketchat_subscription": "who is in a room is not known",
    _MESSAGES: "no message comes",
}
"""Collection whose absence loses much → the lost parts."""
_KINDS: Final[dict[str, GroupKind]] = {"c": "open", "p": "closed", "d": "direct"}
"""Kind of a room → kind of its group. All other kinds belong to omnichannel."""
_BY_OTHERS: Final = ("au", "added-user-to-team", "ru", "removed-user-from-team")
"""Kinds of messages which tell that somebody else has added or removed a
person."""
_CHANGES: Final[dict[str, Literal["join", "leave", "name", "description"]]] = {
    "uj": "join",
    "ujt": "join",
    "ut": "join",
    "au": "join",
    "added-user-to-team": "join",
    "ul": "leave",
    "ult": "leave",
    "ru": "leave",
    "removed-user-from-team": "leave",
    "r": "name",
    "room_changed_topic": "description",
    "room_changed_description": "description",
    "room_changed_announcement": "description",
}
"""Kind of a message → the change that it reports."""
_TEXTS: Final = ("", "discussion-created", "discussion-message")
_EVENT: Final = re.compile(
    "room|user|subscription|message_pinned|mute|wm$|command|video|jitsi|voip|livechat|omni"
)
"""Kinds of messages that leave no entry. Pins are in the pinned messages
themselves."""


# --- documents, as Rocket.Chat writes them ------------------------------------


class _Somebody(Struct):
    """A person in a document: ``{"_id": "p1", "username": "ann", "name": "Ann
    Lee"}``."""

    own_id: str | None = field(default=None, name="_id")
    username: str | None = None
    name: str | None = None

    @property
    def id(self) -> str:
        """The id of a person; ``""`` for nobody."""
        return self.own_id or ""


class _User(Struct):
    """A document of ``users``."""

    id: str = field(name="_id")
    username: str | None = None
    name: str | None = None
    emails: list[dict[str, Any]] | None = None
    type: str | None = None
    active: bool | None = True
    roles: list[Any] | None = None
    federated: bool | None = False


class _Room(Struct):
    """A room. ``t`` is its kind: ``c`` (channel), ``p`` (private) or ``d``
    (direct).

    ``fname`` is its name for people, and ``name`` the one in its address.
    ``prid`` is the room to which a discussion belongs. ``u`` has created the
    room, and ``uids`` are the people in a direct room. ``ts`` is the time of
    its creation, and ``lm`` that of its last message.
    """

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
    """The membership of the person ``u`` in the room ``rid``.

    ``ls`` is the time up to which the person has read. ``alert`` is true if
    there are unread messages.
    """

    rid: str
    u: _Somebody
    roles: list[Any] | None = None
    ls: Any = None
    alert: bool | None = None


class _Upload(Struct):
    """A file of a message, or a picture of a person or a room."""

    id: str = field(name="_id")
    name: str | None = None
    store: str | None = None
    type_group: str | None = field(default=None, name="typeGroup")
    user: str | None = field(default=None, name="userId")
    room: str | None = field(default=None, name="rid")

    @property
    def is_inside(self) -> bool:
        """Whether the dump has the bytes of the file."""
        return "GridFS" in (self.store or "")


class _Emoji(Struct):
    """An emoji of the server's own. The name of its file is
    ``name.extension``."""

    name: str
    extension: str
    aliases: list[Any] | None = None


class _Message(Struct):
    """A message: ``{"_id": "m1", "rid": "r1", "u": {"_id": "p1", …}, "ts": …,
    "msg": "Hi @bob"}``.

    ``t`` is its kind, which is missing for a usual message. ``tmid`` is the
    first message of its thread, and ``tshow`` tells that the room shows the
    reply, too. ``drid`` is the discussion that begins with the message.
    ``alias`` is the name that an app shows in place of the sender's.
    """

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
    """The adapter for dumps of Rocket.Chat.

    It converts them to the records which the importer stores. The interface is
    :class:`~imserver_arrivals.records.Archive`.
    """

    name: ClassVar[str] = "rocketchat"
    title: ClassVar[str] = "Rocket.Chat"

    def __init__(self, path: Path) -> None:
        """Open a dump, and find its collections.

        Raises BadArchive if it has no rooms.
        """
        self.problems = Problems()
        self._dump = Dump(path, _ROOMS, self.title, self.problems)
        self._is_read = False
        self._people: dict[str, Person] = {}
        self._names: dict[str, str] = {}
        """Username → id."""
        self._rooms: dict[str, _Room] = {}
        self._uploads: dict[str, _Upload] = {}
        self._emoji: dict[str, str] = {}
        """Name of an emoji of the server's own → the name of its file."""
        self._members: dict[str, dict[str, Member]] = {}
        """Id of a room → id of a person → the membership."""
        self._pins: dict[str, list[Pin]] = {}
        """Id of a room → its pins."""
        self._avatars: dict[str, str] = {}
        """Id of a room or a user, or a username → the id of the picture's
        file."""
        self._chunks: dict[str, dict[str, list[Chunk]]] = {}
        """Bucket of GridFS → id of a file → its chunks. GridFS is the part of
        MongoDB that stores files, and a bucket is a set of files there."""

    def records(self) -> Iterator[Record]:
        """Yield all records: people, emoji, groups, and then messages.

        The messages are read twice, because their authors and the pins must
        come before them.
        """
        notes = self.problems
        if self._is_read:  # each problem is noted once
            notes = Problems()
        else:
            self._read_all_but_texts(notes)
            self._is_read = True
        yield from self._people.values()
        for name, file in self._emoji.items():
            yield Emoji(name, f"emoji/{file}")
        for room in self._rooms.values():
            if room.t in _KINDS:
                yield self._group(room)
        for message in self._dump.rows(_MESSAGES, _Message, notes, messages=1):
            yield from self._records_of(message, notes)

    def open(self, file: str) -> IO[bytes] | None:
        """Open a file. None if the dump does not have its bytes.

        Its id is the id of an upload, ``avatars/`` and the id of a picture, or
        ``emoji/`` and the name of a file.
        """
        folder, _, id = file.rpartition("/")
        if folder == "emoji":
            chunks = self._chunks_of_emoji(id)
        else:
            chunks = self._chunks_of(f"rocketchat_{folder or 'uploads'}").get(id)
        if chunks:
            return io.BufferedReader(GridFile(self._dump, chunks))
        return None

    def _chunks_of_emoji(self, name: str) -> list[Chunk] | None:
        """Return the chunks of an emoji's picture, by the name of its file.

        None if the dump does not have it. Either bucket may have it.
        """
        for bucket in ("custom_emoji", "rocketchat_custom_emoji"):
            for _, row in self._dump.read(f"{bucket}.files", Problems()):
                if row.get("filename") == name:
                    chunks = self._chunks_of(bucket).get(str(row.get("_id")))
                    if chunks:
                        return chunks
        return None

    def _chunks_of(self, bucket: str) -> Mapping[str, list[Chunk]]:
        """Return the chunks of all files in a bucket of GridFS, by the files'
        ids.

        A chunk is ``{"files_id": "f1", "n": 0, "data": …}``. Only its position
        is kept, because the bytes of all files do not fit into memory.
        """
        if bucket in self._chunks:
            return self._chunks[bucket]
        files: dict[str, list[Chunk]] = {}
        self._chunks[bucket] = files
        for position, row in self._dump.read(f"{bucket}.chunks", self.problems):
            number = row.get("n")
            if isinstance(number, int) and isinstance(row.get("data"), bytes):
                chunks = files.setdefault(str(row.get("files_id")), [])
                chunks.append(Chunk(number, position))
        return files

    # --- people and rooms -----------------------------------------------------

    def _read_all_but_texts(self, notes: Problems) -> None:
        """Read everything except texts, and note collections that are missing.

        Pictures are read before their people, and rooms before their members.
        """
        for collection, loss in _NEEDED.items():
            if collection not in self._dump.parts:
                notes.note_broken(
                    f"collection {collection}", f"it is not in the dump: {loss}"
                )
        self._read_people(notes)
        for room in self._dump.rows(_ROOMS, _Room, notes):
            self._rooms[room.id] = room
        self._read_uploads(notes)
        self._read_emoji(notes)
        self._read_members(notes)
        self._read_pins_and_writers()

    def _read_people(self, notes: Problems) -> None:
        """Read the pictures of people and rooms, then the users."""
        for avatar in self._dump.rows("rocketchat_avatars", _Upload, notes):
            owner = avatar.room or avatar.user or avatar.name
            if owner and avatar.is_inside:
                self._avatars[owner] = f"avatars/{avatar.id}"
        for user in self._dump.rows("users", _User, notes):
            self._add_person(user)

    def _read_uploads(self, notes: Problems) -> None:
        """Read the names of files, and note if the dump lacks their bytes."""
        for upload in self._dump.rows("rocketchat_uploads", _Upload, notes):
            self._uploads[upload.id] = upload
        are_inside = any(upload.is_inside for upload in self._uploads.values())
        if are_inside and _CHUNKS not in self._dump.parts:
            notes.note_broken(
                f"collection {_CHUNKS}",
                "it is not in the dump: files have their names alone",
            )

    def _read_emoji(self, notes: Problems) -> None:
        """Read the server's own emoji. An alias is a further name."""
        for emoji in self._dump.rows("rocketchat_custom_emoji", _Emoji, notes):
            file = f"{emoji.name}.{emoji.extension}"
            self._emoji[clean(emoji.name)] = file
            for alias in emoji.aliases or ():
                if isinstance(alias, str) and alias:
                    self._emoji[clean(alias)] = file

    def _read_members(self, notes: Problems) -> None:
        """Read the members of rooms, with their roles and the times of
        reading."""
        for row in self._dump.rows("rocketchat_subscription", _Subscription, notes):
            room = self._rooms.get(row.rid)
            if room is not None and row.u.id:
                self._add_stranger(row.u)
                members = self._members.setdefault(room.id, {})
                members[row.u.id] = _member(row, room)

    def _read_pins_and_writers(self) -> None:
        """Find the pins, and the people who have written without being in a
        room.

        Broken messages are noted later, when they are read for their texts.
        """
        for message in self._dump.rows(_MESSAGES, _Message, Problems()):
            room = self._rooms.get(message.rid)
            if room is None or room.t not in _KINDS or message.hidden:
                continue
            self._add_stranger(message.u)
            if message.pinned:
                person = ""
                if message.pinned_by:
                    person = message.pinned_by.id
                pin = Pin(_id(message.id), person, _ms(message.pinned_at))
                self._pins.setdefault(room.id, []).append(pin)

    def _add_person(self, user: _User) -> None:
        """Add a user of the server, with the picture."""
        # Some pictures name their owner by the username.
        avatar = self._avatars.get(user.id) or self._avatars.get(user.username or "")
        self._people[user.id] = _person(user, avatar or "")
        if user.username:
            self._names[user.username] = user.id

    def _add_stranger(self, somebody: _Somebody) -> None:
        """Add a person whom no document of ``users`` describes.

        They were deleted, or are on another server.
        """
        if somebody.id and somebody.id not in self._people:
            name = clean(somebody.name or somebody.username or "")
            self._people[somebody.id] = Person(
                somebody.id, name or somebody.id, why="deleted"
            )
            self._names.setdefault(somebody.username or "", somebody.id)

    def _group(self, room: _Room) -> Group:
        """Return the record of a room."""
        members = self._members_of(room)
        about = room.description or room.topic or room.announcement or ""
        creator = ""
        if room.u and room.u.id in self._people:
            creator = room.u.id
        name = ""
        if room.t != "d":
            name = self._title(room)
        return Group(
            id=room.id,
            kind=_kind_of(room, members),
            name=name,
            description=_converted_text(about, names={}),
            creator=creator,
            created_ms=_ms(room.ts),
            members=list(members.values()),
            pins=self._pins.get(room.id, ()),
            is_archived=bool(room.archived),
            avatar=self._avatars.get(room.id, ""),
        )

    def _members_of(self, room: _Room) -> dict[str, Member]:
        """Return the members of a room by their ids.

        The document of a direct room lists its people, because some may lack a
        subscription.
        """
        members = self._members.get(room.id, {})
        if room.t == "d":
            for id in room.uids or ():
                if id in self._people:
                    members.setdefault(id, Member(id))
        return members

    def _title(self, room: _Room | None) -> str:
        """Return the name of a room for people; ``""`` if there is no such
        room.

        The ``name`` of a discussion is only a second id, so one without
        ``fname`` gets the name of the room to which it belongs.
        """
        if room is None:
            return ""
        parent = self._rooms.get(room.prid or "")
        parent_name: str | None = ""
        if parent is not None:
            parent_name = parent.fname or parent.name
        return clean(room.fname or parent_name or room.name or "")

    # --- messages -------------------------------------------------------------

    def _records_of(
        self, message: _Message, notes: Problems
    ) -> Iterator[Message | Change]:
        """Yield the message or the change of a document.

        A document that is not imported is noted.
        """
        room = self._rooms.get(message.rid)
        time_ms = _ms(message.ts)
        id = _id(message.id)
        person = message.u.id
        if room is None or not time_ms or not id or person not in self._people:
            notes.note_lost("message without a room, a sender or a time")
            return
        if _is_left_out(message, room, notes):
            return

        kind = message.t or ""
        if kind in _CHANGES:
            change = Change(id, room.id, person, time_ms, _CHANGES[kind])
            yield from self._change_with_facts(change, message, notes)
        elif kind in _TEXTS or _has_text(message, kind, notes):
            yield self._message(message, room, id, time_ms, notes)

    def _change_with_facts(
        self, change: Change, message: _Message, notes: Problems
    ) -> Iterator[Change]:
        """Yield a change with the facts of its message: a person, or a new
        text.

        Of ``{"t": "au", "u": {"username": "ann", …}, "msg": "bob"}`` the text
        is the name of the person whom Ann has added, for example.
        """
        if change.kind in ("name", "description"):
            yield replace(change, text=clean(message.msg or ""))
        elif message.t not in _BY_OTHERS:
            yield replace(change, people=(change.person,))
        else:
            person = self._names.get(message.msg or "", "")
            if person:
                yield replace(change, people=(person,))
            else:
                notes.note("change of nobody", group=change.group)

    def _message(
        self, message: _Message, room: _Room, id: str, time_ms: int, notes: Problems
    ) -> Message:
        """Return a document as a message.

        Its text includes the texts of its attachments and quotes. A quote of
        the message that it answers becomes a reply instead.
        """
        text = clean(message.msg or "")
        quotes = _quotes_of(message, text)
        answered = self._answered(message, quotes, room)
        reply = ""
        if answered is not None:
            reply = answered["id"]
        lines = self._lines_of(message, text, quotes, answered)
        return Message(
            id=id,
            group=room.id,
            person=message.u.id,
            time_ms=time_ms,
            text="\n".join(filter(None, lines)),
            thread=message.tmid or "",
            reply=reply,
            also=bool(message.tshow),
            is_edited=message.edited is not None,
            reactions=list(self._reactions(message, notes)),
            files=list(self._files(message)),
        )

    def _lines_of(
        self,
        message: _Message,
        text: str,
        quotes: Sequence[re.Match[str] | None],
        answered: re.Match[str] | None,
    ) -> list[str]:
        """Return the lines of a message; empty ones are to be left out.

        ``quotes``: the quoted messages, in the order of the attachments.
        ``answered``: the one of them that is left out, because it becomes a
        reply.
        """
        names = self._names_in(message)
        lines = [self._text(message, _QUOTE.sub("", text).strip(), names)]
        if message.alias:
            lines.insert(0, f"*{clean(message.alias).replace('*', '')}*")
        # Without attachments no line is added: the quotes are in the text.
        for attachment, quote in zip(message.attachments or (), quotes, strict=False):
            if quote is None or quote is not answered:
                lines += _lines_of_attachment(attachment, quote, names)
        lines.append(_coordinates(message.location))
        return lines

    def _names_in(self, message: _Message) -> Mapping[str, str]:
        """Return the usernames that a message mentions, each with the id for
        its mark.

        A message lists them, as ``[{"_id": "p1", "username": "ann"}]``. Teams
        are left out.
        """
        names = {}
        for row in message.mentions or ():
            name = at(row, "username")
            id = str(at(row, "_id"))
            if not isinstance(name, str) or at(row, "type") == "team":
                continue
            if id in ("all", "here"):
                names[name] = EVERYBODY
            elif id in self._people:
                names[name] = id
        return names

    def _text(self, message: _Message, text: str, names: Mapping[str, str]) -> str:
        """Return the converted text of a message.

        ``text``: the text without its quotes. ``names``: username in the text →
        id for its mark. The text with which a discussion begins is its title.
        """
        rooms = {}
        for row in message.channels or ():
            name = at(row, "name")
            if isinstance(name, str):
                rooms[name] = self._title(self._rooms.get(str(at(row, "_id"))))
        text = _converted_text(text, names, rooms)
        if message.t != "discussion-created":
            return text
        title = text or self._title(self._rooms.get(message.drid or ""))
        return f"💬 *{title.replace('*', '')}*"

    def _answered(
        self, message: _Message, quotes: Sequence[re.Match[str] | None], room: _Room
    ) -> re.Match[str] | None:
        """Return the quote of the message that a message answers, or None.

        It is the first quote from the same room. A quote from another room is
        part of the text, and so is any quote in a thread.
        """
        if message.tmid:
            return None
        for quote in quotes:
            if quote is None:
                continue
            # The address of a direct room names a person, and not the room.
            is_direct = quote["kind"] == "direct" and room.t == "d"
            if is_direct or unquote(quote["room"]) in (room.id, room.name):
                return quote
        return None

    def _reactions(self, message: _Message, notes: Problems) -> Iterator[Reaction]:
        """Yield the reactions to a message. Reactions of unknown people are
        noted.

        The document has them as ``{":tea:": {"usernames": ["ann", "bob"]}}``.
        """
        for name, row in (message.reactions or {}).items():
            emoji = _emoji(name.strip(":")) or clean(name)
            for user in list_at(row, "usernames"):
                id = None
                if isinstance(user, str):
                    id = self._names.get(user)
                if id:
                    yield Reaction(id, emoji)
                else:
                    notes.note("reaction of nobody")

    def _files(self, message: _Message) -> Iterator[File]:
        """Yield the files of a message, each once and without thumbnails."""
        ids = set()
        for file in _rows_of_files(message):
            id = file.get("_id")
            if not isinstance(id, str) or id in ids:
                continue
            upload = self._uploads.get(id) or _Upload(id)
            name = clean(str(upload.name or file.get("name") or "file"))
            if name.startswith("thumb-") or upload.type_group == "thumb":
                continue
            ids.add(id)
            yield File(id, name.replace("\n", " "))


def _kind_of(room: _Room, members: Collection[str]) -> GroupKind:
    """Return the kind of group that a room becomes.

    Rocket.Chat has one kind for direct rooms of two and of several people.
    """
    kind = _KINDS[room.t]
    if len(members) > 2 and kind == "direct":
        return "several"
    return kind


def _person(user: _User, avatar: str) -> Person:
    """Return the record of a user. ``avatar``: the id of the picture, or
    ``""``.

    Nobody may claim the account of a bot, or of a federated or deactivated
    user. Such a record has the reason in place of a login and an address.
    """
    login = clean(user.username or "")
    nickname = clean(user.name or "") or login or user.id
    person = Person(user.id, nickname, avatar=avatar)
    if user.type in ("bot", "app") or "bot" in (user.roles or ()):
        return replace(person, why="bot")
    if user.federated:
        return replace(person, why="federated")
    if not user.active:
        return replace(person, why="deactivated")
    return replace(person, login=login, email=clean(_email_of(user)))


def _email_of(user: _User) -> str:
    """Return the first mail address of a user, or ``""``."""
    emails = (text_at(row, "address") for row in user.emails or ())
    return next(filter(None, emails), "")


def _has_text(message: _Message, kind: str, notes: Problems) -> bool:
    """Whether a message of an unknown kind is imported as a text.

    Otherwise it is an event. Both are noted.
    """
    short = kind[:NAME_CHARACTERS]
    if _EVENT.match(kind) or not message.msg:
        notes.note(f"event {short}", group=message.rid)
        return False
    notes.note(f"kind {short} (imported as text)", group=message.rid)
    return True


def _is_left_out(message: _Message, room: _Room, notes: Problems) -> bool:
    """Whether a message is not imported because of its kind or its room.

    Such a message is noted.
    """
    kind = message.t or ""
    if room.t not in _KINDS:
        notes.note_lost("message of omnichannel")
    elif message.hidden:
        # Rocket.Chat keeps a copy of a message before each edit.
        notes.note("earlier text of a message")
    elif kind == "e2e" or kind.startswith("otr"):
        notes.note_lost("encrypted message", group=room.id, person=message.u.id)
    elif kind == "rm":
        notes.note("deleted message", group=room.id)
    else:
        return False
    return True


def _rows_of_files(message: _Message) -> list[dict[str, Any]]:
    """Return the files that a message names, as ``{"_id": "f1", "name": …}``.

    Some files are named only in attachments, by an address such as
    ``/file-upload/f1/plan.pdf``.
    """
    files = [file for file in (*(message.files or ()), message.file) if file]
    for attachment in message.attachments or ():
        match = _UPLOAD.match(text_at(attachment, "title_link"))
        if match is not None:
            files.append({"_id": match[1], "name": unquote(match[2])})
    return files


def _member(subscription: _Subscription, room: _Room) -> Member:
    """Return the membership of a person in a room."""
    roles = subscription.roles or ()
    role: Role = "member"
    if "owner" in roles:
        role = "owner"
    elif "moderator" in roles:
        role = "admin"
    read_ms = _ms(subscription.ls)
    # Without an alert there is no unread message, so all are read.
    if subscription.alert is False:
        read_ms = max(read_ms, _ms(room.lm))
    return Member(subscription.u.id, role, read_ms or -1)


def _ms(moment: Any) -> int:
    """Return the milliseconds of a date. 0 if it is missing or impossible.

    A date of a dump is an object of ``bson`` that converts to a whole number.
    """
    if moment is None or isinstance(moment, str | bytes | bool):
        return 0
    if not hasattr(type(moment), "__int__"):
        return 0
    try:
        time_ms = int(moment)
    except (ValueError, OverflowError):  # no number
        return 0
    if 0 < time_ms < LATEST_MS:
        return time_ms
    return 0


def _id(id: Any) -> str:
    """Return the id of a document; ``""`` if it is not possible.

    It is a text, or the hexadecimal digits of an ObjectId of MongoDB.
    """
    if isinstance(id, str) or type(id).__name__ == "ObjectId":
        return str(id)
    return ""


# --- texts --------------------------------------------------------------------

_COORDINATE_CHARACTERS: Final = 20
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
"""Emoji whose names only Rocket.Chat knows."""


def _emoji(name: str) -> str:
    """Return the character of an emoji such as ``wave_tone1``.

    ``""`` if it is one of the server's own.
    """
    emoji = _EMOJI.get(name)
    if emoji is not None:
        return emoji
    tone = re.fullmatch(r"(.+)_tone([1-5])", name)
    if tone is not None:
        name = f"{tone[1]}::skin-tone-{int(tone[2]) + 1}"
    return emoji_named(name)


_NO_ROOMS: Final[Mapping[str, str]] = {}


def _converted_text(
    text: str, names: Mapping[str, str], rooms: Mapping[str, str] = _NO_ROOMS
) -> str:
    """Convert a text to the form that texts have here. Code stays.

    ``~no~ @ann #lobby :tea:`` becomes ``~~no~~``, the mark of a mention,
    ``#Lobby`` and ``🍵``. ``names``: username in the text → id for its mark.
    ``rooms``: name of a room in the text → its title.
    """

    def replace_part(match: re.Match[str]) -> str:
        return _replacement(match, names, rooms)

    return around_code(clean(text), partial(_INLINE.sub, replace_part))


def _replacement(
    match: re.Match[str], names: Mapping[str, str], rooms: Mapping[str, str]
) -> str:
    """Return the replacement of a match of :data:`_INLINE`."""
    if match["message"]:
        return link(match["id"], match[0])
    if match["target"]:
        return labelled(match["label"], match["target"])
    if match["name"]:
        return _mention_of(match["name"], names) or match[0]
    if match["channel"]:
        return _room_title(match["channel"], rooms) or match[0]
    if match["emoji"]:
        return _emoji(match["emoji"]) or match[0]
    if match["struck"]:
        return f"~~{match['struck']}~~"
    return match[0]


def _mention_of(text: str, names: Mapping[str, str]) -> str:
    """Return the mark of a person with this username; ``""`` if nobody has the
    name.

    Characters after the name, such as a full stop, stay.
    """
    for name in (text, text.rstrip(".:-")):
        if name in names:
            return mention(names[name]) + text[len(name) :]
    return ""


def _room_title(text: str, rooms: Mapping[str, str]) -> str:
    """Return the title of a room with this name; ``""`` if no such room exists.

    Characters after the name stay.
    """
    for name in (text, text.rstrip(".-")):
        if rooms.get(name):
            return f"#{rooms[name]}{text[len(name) :]}"
    return ""


def _coordinates(location: Any) -> str:
    """Return the latitude and longitude of a location, or ``""``.

    Rocket.Chat stores ``{"coordinates": [13.4, 52.5]}``, with the longitude
    first.
    """
    longitude_first = list_at(location, "coordinates")
    numbers = [
        str(number)[:_COORDINATE_CHARACTERS] for number in longitude_first[1::-1]
    ]
    return ", ".join(numbers)


def _quotes_of(message: _Message, text: str) -> list[re.Match[str] | None]:
    """Return the addresses of the messages that a message quotes.

    A quote is a link in the text and an attachment with the quoted message.
    The result has an item for each attachment: None if it is no quote. Without
    attachments, the link still tells which message is answered.
    """
    if message.attachments:
        return [_quoted_message(attachment) for attachment in message.attachments]
    addresses = _QUOTE.findall(text)[:1]
    return [_ADDRESS.fullmatch(address) for address in addresses]


def _quoted_message(attachment: Mapping[str, Any] | None) -> re.Match[str] | None:
    """Return the address of the message that an attachment quotes.

    ``https://chat.example.org/channel/lobby?msg=m1`` is such an address. None
    if the attachment is not a quote.
    """
    if text_at(attachment, "type") == "file":
        return None
    return _ADDRESS.fullmatch(text_at(attachment, "message_link"))


def _lines_of_attachment(
    attachment: Mapping[str, Any] | None,
    quote: re.Match[str] | None,
    names: Mapping[str, str],
) -> Iterator[str]:
    """Yield the lines of an attachment: its text, or the message that it
    quotes.

    ``quote``: the address of the quoted message. None if it is no quote.
    """
    if attachment is None:
        return
    if attachment.get("type") == "file":
        yield _converted_text(clean(text_at(attachment, "description")), names)
        return
    text = _text_of(attachment, names)
    if quote is None:
        yield text
        return
    yield link(quote["id"], clean(quote[0]))
    for line in text.split("\n"):
        if line:
            yield f"> {line}"


def _title_of(texts: Mapping[str, str]) -> str:
    """Return the title of an attachment, as a link if it has an address."""
    title = texts.get("title", "")
    address = texts.get("title_link", "")
    if title and address.startswith("http"):
        return f"<{address}|{title}>"
    return title


def _text_of(attachment: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return the text of an app, or of a quoted message, in an attachment.

    ``{"author_name": "Build", "title": "Failed", "fields": [{"title": "Branch",
    "value": "main"}]}`` becomes three lines, for example.
    """
    texts = {
        name: value for name, value in attachment.items() if isinstance(value, str)
    }
    parts = (
        texts.get("author_name"),
        texts.get("pretext"),
        _title_of(texts),
        texts.get("text"),
        *lines_of_fields(list_at(attachment, "fields")),
        texts.get("image_url"),
    )
    return _converted_text("\n".join(filter(None, parts)), names)
