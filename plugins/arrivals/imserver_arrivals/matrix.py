"""Reads what Synapse and Element export of Matrix: folders of ``export-data``, and rooms as JSON.

Any number of them lie anywhere in the archive:

- What ``python -m synapse.app.admin_cmd … export-data USER --output-directory DIR`` writes (Synapse 1.163,
  ``synapse/app/admin_cmd.py``, ``synapse/handlers/admin.py``): the events that one user may see. Events of
  several exports are merged by their ids (see :mod:`.matrix_events`).
- ``local_content`` of Synapse's ``media_store``: the bytes of files, which ``export-data`` does not write.
- What Element Web writes for a room as JSON (``src/utils/exportUtils/JSONExport.ts``), with its files.

Events are read as they come. Memory has people, the state of all rooms, and the edits and reactions of one.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, ClassVar, Final
from urllib.parse import unquote

from .markup import html_text, marked
from .matrix_events import CHUNK_BYTES, Event, Json, Known, Relations, Room, at, documents, number_at, text_at
from .problems import BadArchive, Problems
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
    link,
    mention,
)
from .source import source_of
from .text import clean

MOST_FILE_BYTES: Final = 8 << 20
"""Bytes of a profile, or of the account data of a user."""
MOST_HTML_CHARACTERS: Final = 1 << 16
MOST_MENTIONS: Final = 100
NEWEST_VERSION: Final = 99
"""Of rooms, whose version is no number."""

_USER: Final = re.compile(r"@[!-9;-~]{1,200}:[\w.:\[\]-]{1,200}", re.ASCII)
_ROOM: Final = re.compile(r"![\w.:\[\]~+/=-]{1,250}", re.ASCII)
_MEDIA: Final = re.compile(r"mxc://([\w.:\[\]-]{1,200})/([\w-]{1,200})", re.ASCII)
_MOMENT: Final = re.compile(r"-(\d\d-\d\d)(?!\d)", re.ASCII)
_LIST: Final = re.compile(rb'"messages"\s*:\s*\[')
_MXID: Final = re.compile(r"(?<![\w/@])@[a-z0-9._=/+-]{1,200}:[A-Za-z0-9][A-Za-z0-9.-]{0,200}(?::\d{1,5})?")
_PERMALINK: Final = re.compile(
    r"(?:https://matrix\.to/#/|matrix:(?=(?:u|r|roomid)/))[^\s<>\"')\]]{1,1000}(?<![.,;:!?])"
)
_EVERYBODY: Final = re.compile(r"(?<![\w@/.])@room(?![\w:])")
_POLLS: Final = ("m.poll.start", "org.matrix.msc3381.poll.start")
_VOTES: Final = tuple(
    f"{prefix}.{end}" for prefix in ("m.poll", "org.matrix.msc3381.poll") for end in ("response", "end")
)
_SAID: Final = frozenset(("m.room.message", "m.sticker", *_POLLS))
_FILES: Final = {f"m.{kind}": f"{kind}s" for kind in ("image", "video", "sticker", "file")} | {
    "m.audio": "audio"
}
"""Kind of a message with a file → the folder in which Element puts it."""
_STATE: Final = frozenset(
    f"m.room.{name}"
    for name in (
        *("create", "name", "topic", "avatar", "canonical_alias"),
        *("power_levels", "pinned_events", "join_rules", "tombstone"),
    )
)


class Matrix:
    """An archive of Matrix: see :class:`~imserver_arrivals.records.Archive`."""

    name: ClassVar[str] = "matrix"
    title: ClassVar[str] = "Matrix"

    def __init__(self, path: Path) -> None:
        self.problems = Problems()
        self._source = source_of(path)
        self._rooms: dict[str, Room] = {}
        self._profiles: dict[str, Json] = {}
        self._media: dict[str, str] = {}
        """Id of a file of this server → its name in the archive."""
        self._beside: list[str] = []
        """Files that Element has put beside its events, sorted."""
        self._moments: dict[tuple[str, str], list[str]] = {}
        """(folder, minute and second in the name) → names of such files."""
        self._known: dict[str, Known] = {}
        self._emoji: dict[str, str] = {}
        self._broken, self._notes = Problems(), self.problems
        """What is broken is noted once, when it is surveyed, and what does not come in the first reading."""
        self._has_surveyed = False
        users: dict[str, str] = {}
        account_data: list[tuple[str, str, str]] = []
        for name in self._source.names:
            match name.split("/"):
                case [*_, "rooms", id, "events"] | [*_, "rooms", id, "state", _]:
                    if _ROOM.fullmatch(id):
                        self._rooms.setdefault(id, Room(id)).files.append(name)
                    else:
                        self.problems.note_broken(name, "a room without an id")
                case [*top, "user_data", "profile"]:
                    profile = self._small(name)
                    if _USER.fullmatch(user := text_at(profile, "name")):
                        self._profiles[user], users["/".join(top)] = profile, user
                    else:
                        self.problems.note_broken(name, "a profile of nobody")
                case [*top, "user_data", "account_data", about]:
                    account_data.append(("/".join(top), about, name))
                case [*_, "user_data", "devices" | "connections"] | [*_, "media_ids", _]:
                    pass
                case [*_, "rooms", _, "invite_state" | "knock_state"]:
                    pass
                case [*_, "local_content", first, second, rest]:
                    self._media[first + second + rest] = name
                case [*_, "images" | "videos" | "audio" | "files" | "stickers", last]:
                    self._beside.append(name)
                    if moments := _MOMENT.findall(last):
                        self._moments.setdefault((name.removesuffix(f"/{last}"), moments[-1]), []).append(
                            name
                        )
                case [*_, last] if last.endswith(".json"):
                    self._add_list(name)
                case _:
                    self.problems.note("file that is none of the export")
        self._beside.sort()
        if not (self._rooms or self._profiles):
            raise BadArchive(
                f"{path} is no export of Matrix: it has neither rooms/…/events nor a room of Element"
            )
        self._servers = {user.partition(":")[2] for user in self._profiles}
        for folder, about, name in account_data:
            if folder in users:
                self._add_account_data(users[folder], about, self._small(name))

    def _small(self, name: str) -> Json:
        """The first JSON object of a small file; nothing if there is none."""
        try:
            with self._source.open(name) as file:
                raw = file.read(MOST_FILE_BYTES + 1)
            if len(raw) > MOST_FILE_BYTES:
                raise ValueError(f"more than {MOST_FILE_BYTES} bytes")
            found = json.JSONDecoder().raw_decode(raw.decode())[0]
            if isinstance(found, dict):
                return found
            raise ValueError("no object")
        except Exception as error:  # also of a decompressor
            self.problems.note_broken(name, error)
        return {}

    def _add_list(self, name: str) -> None:
        """A room that Element has exported."""
        try:
            with self._source.open(name) as file:
                begin = file.read(CHUNK_BYTES)
                found = _LIST.search(begin)
                if found is None or b'"exported_by"' not in begin[: found.start()]:
                    self.problems.note("file that is none of the export")
                    return
                head = json.loads(begin[: found.end()].decode() + "]}")
            ids = (text_at(each, "room_id") for each in self._documents(name, found.end(), True))
            id = next(filter(_ROOM.fullmatch, ids), None)
            if id is None:
                raise ValueError("a room without an id")
        except Exception as error:  # also of a decompressor
            self.problems.note_broken(name, error)
            return
        room = self._rooms.setdefault(id, Room(id))
        room.lists.append((name, found.end()))
        room.name, room.topic = text_at(head, "room_name"), text_at(head, "topic")

    def _add_account_data(self, user: str, about: str, data: Json) -> None:
        if about == "global":
            direct = at(data, "m.direct")
            for rooms in direct.values() if isinstance(direct, dict) else ():
                for id in rooms if isinstance(rooms, list) else ():
                    if isinstance(id, str) and id in self._rooms:
                        self._rooms[id].is_direct = True
        elif about in self._rooms and (marker := text_at(data, "m.fully_read", "event_id")):
            self._rooms[about].markers.setdefault(marker, []).append(user)

    # --- events of a room -----------------------------------------------------------------------------------

    def _raw(self, room: Room) -> Iterator[tuple[Any, str, str | None]]:
        """The events of all exports of a room: (JSON, where, folder of an export of Element)."""
        for name in room.files:
            for raw in self._documents(name, 0, False):
                yield raw, name, None
        for name, begin in room.lists:
            for raw in self._documents(name, begin, True):
                yield raw, name, name.rpartition("/")[0]

    def _documents(self, name: str, begin: int, is_list: bool) -> Iterator[Any]:
        try:
            with self._source.open(name) as file:
                file.read(begin)
                yield from documents(file, name, self._broken, is_list)
        except Exception as error:  # also of a decompressor
            self._broken.note_broken(name, error)

    def _events(self, room: Room) -> Iterator[Event]:
        for raw, where, top in self._raw(room):
            if isinstance(raw, dict):
                event = Event(raw, room.version, top)
                if event.type and 0 < event.time_ms < 1 << 53 and _USER.fullmatch(event.sender):
                    yield event
                    continue
            self._broken.note_broken(where, "an event without type, sender or time")

    def _version(self, room: Room) -> int:
        """The version of a room. One that is not a number is newer than all."""
        has_ids = False
        for raw, _, _ in self._raw(room):
            has_ids = has_ids or bool(text_at(raw, "event_id"))
            if text_at(raw, "type") == "m.room.create" and isinstance(content := raw.get("content"), dict):
                version = content.get("room_version", "1")
                is_number = isinstance(version, str) and re.fullmatch(r"[1-9]\d?", version, re.ASCII)
                return int(version) if is_number else NEWEST_VERSION
        return 1 if has_ids else 10

    def _survey(self) -> None:
        """Read the state of all rooms, and who has been there."""
        for room in self._rooms.values():
            room.version = self._version(room)
            self._broken = self.problems
            for number, event in enumerate(self._events(room)):
                self._note(room, event, number)
            self._broken = Problems()
            state = room.content("create")
            if text_at(state, "type") == "m.space":
                self.problems.note("space (its rooms come)")
            elif not (room.is_joined or room.writers):
                self.problems.note("room that nobody has entered")
            else:
                room.kind = self._kind(room)
        self._has_surveyed = True

    def _note(self, room: Room, event: Event, number: int) -> None:
        if room.markers and event.id in room.markers:
            for user in room.markers[event.id]:
                room.read[user] = max(event.time_ms, room.read.get(user, 0))
        self._known.setdefault(event.sender, Known())
        if event.type == "m.reaction" and _MEDIA.fullmatch(event.reaction[0]) and event.reaction[1]:
            self._emoji.setdefault(event.reaction[1], event.reaction[0])
        order = (number_at(event.raw, "depth") or 0, number)
        if event.state_key is None:
            if event.type in _SAID or event.is_encrypted:
                room.writers[event.sender] = None
        elif event.type == "m.room.member" and _USER.fullmatch(user := event.state_key):
            membership = text_at(event.content, "membership")
            if order >= room.members.get(user, ((-1, 0), ""))[0]:
                room.members[user] = order, membership
            room.is_direct = room.is_direct or event.content.get("is_direct") is True
            if membership == "join":
                room.is_joined = True
                known = self._known.setdefault(user, Known())
                if event.time_ms >= known.time_ms:
                    known.time_ms, known.nickname = event.time_ms, text_at(event.content, "displayname")
                    known.avatar = text_at(event.content, "avatar_url")
        elif event.type in _STATE and not event.state_key and order >= room.order_of(event.type):
            room.state[event.type] = order, event

    def _kind(self, room: Room) -> GroupKind:
        alias = text_at(room.content("canonical_alias"), "alias")
        room.name = text_at(room.content("name"), "name") or room.name or alias[1:].partition(":")[0]
        room.topic = text_at(room.content("topic"), "topic") or room.topic
        if room.is_direct and len(room.members.keys() | room.writers) <= 2:
            return "direct"
        if not room.name:
            return "several"
        return "open" if text_at(room.content("join_rules"), "join_rule") == "public" else "closed"

    # --- records --------------------------------------------------------------------------------------------

    def records(self) -> Iterator[Record]:
        """All records, people and groups first."""
        if not self._has_surveyed:
            self._survey()
        for id in sorted(self._known.keys() | self._profiles):
            yield self._person(id)
        for name, file in self._emoji.items():
            yield Emoji(name, file)
        rooms = [room for room in self._rooms.values() if room.kind is not None]
        for room in rooms:
            yield self._group(room)
        for room in rooms:
            yield from self._messages(room)
        self._notes = Problems()

    def open(self, file: str) -> IO[bytes] | None:
        """The bytes of a file: its address at Matrix, or its name beside the events of Element."""
        media = _MEDIA.fullmatch(file)
        index = bisect_left(self._beside, file)
        name = self._media.get(media[2]) if media else next(iter(self._beside[index : index + 1]), None)
        if name is None or (name != file if media is None else self._is_foreign(media[1])):
            return None
        try:
            return self._source.open(name)
        except Exception as error:  # also of a decompressor
            self.problems.note_broken(name, error)
            return None

    def _is_foreign(self, server: str) -> bool:
        """Whether a server is none of those whose users have been exported."""
        return bool(self._servers) and server not in self._servers

    def _person(self, id: str) -> Person:
        known, profile = self._known.get(id, Known()), self._profiles.get(id, {})
        local, _, server = id[1:].partition(":")
        nickname = text_at(profile, "displayname") or known.nickname or local
        avatar = text_at(profile, "avatar_url") or known.avatar
        avatar = avatar if _MEDIA.fullmatch(avatar) else ""
        why = ""
        if self._is_foreign(server):
            why = "of another server"
        elif profile.get("deactivated"):
            why = "deactivated"
        elif text_at(profile, "appservice_id") or text_at(profile, "user_type") == "bot":
            why = "bot"
        if why:
            return Person(id, clean(nickname), avatar=avatar, why=why)
        contacts = profile.get("threepids")
        emails = (
            text_at(each, "address")
            for each in (contacts if isinstance(contacts, list) else ())
            if text_at(each, "medium") == "email"
        )
        return Person(id, clean(nickname), local, next(emails, ""), avatar)

    def _group(self, room: Room) -> Group:
        create, pinned = room.state.get("m.room.create"), room.state.get("m.room.pinned_events")
        present = [user for user, (_, membership) in room.members.items() if membership == "join"]
        if room.kind == "direct":
            present = sorted(room.members.keys() | room.writers)
        ids = pinned[1].content.get("pinned") if pinned else None
        avatar = text_at(room.content("avatar"), "url")
        return Group(
            id=room.id,
            kind=room.kind or "closed",
            name="" if room.kind == "direct" else clean(room.name),
            description=clean(room.topic),
            creator=create[1].sender if create else "",
            created_ms=create[1].time_ms if create else 0,
            members=[
                Member(user, room.role(user), room.read.get(user, -1)) for user in present or room.writers
            ],
            pins=[
                Pin(id, pinned[1].sender, pinned[1].time_ms)
                for id in (ids if isinstance(ids, list) else ())
                if pinned and isinstance(id, str)
            ],
            is_archived="m.room.tombstone" in room.state,
            avatar=avatar if _MEDIA.fullmatch(avatar) else "",
        )

    def _messages(self, room: Room) -> Iterator[Message | Change]:
        relations, seen, encrypted = self._relations(room), set[int](), set[int]()
        used: set[str] = set()
        for event in self._events(room):
            if event.type in ("m.reaction", "m.room.redaction"):
                continue
            key = int.from_bytes(blake2b(event.id.encode(), digest_size=8).digest(), "big")
            if event.is_encrypted:  # an export of Element may have it as a text
                encrypted.add(key)
            if event.is_encrypted or key in seen:
                continue
            seen.add(key)
            kind = text_at(event.content, "msgtype")
            if event.relation[0] == "m.replace":
                continue
            if event.state_key is not None:
                if room.kind != "direct" and (change := self._change(room, event)):
                    yield change
            elif event.type in _SAID and not kind.startswith("m.key."):
                used.add(event.id)
                if self._is_redacted(room, relations, event.id, event.sender):
                    self._notes.note("deleted message", group=room.id)
                else:
                    yield self._message(room, relations, event)
            else:
                kind = "vote of a poll" if event.type in _VOTES else f"event {kind or event.type}"[:60]
                self._notes.note(kind, group=room.id)
        counts = {
            "encrypted message": len(encrypted - seen),
            "edit of a message that is not there": sum(about not in used for about, _ in relations.edits),
            "reaction to a message that is not there": sum(
                len(each) for about, each in relations.reactions.items() if about not in used
            ),
        }
        for kind, count in counts.items():
            if count:
                self._notes.note(kind, group=room.id, count=count)

    def _relations(self, room: Room) -> Relations:
        found = Relations()
        for event in self._events(room):
            kind, about = event.relation
            if event.type == "m.reaction" and kind == "m.annotation":
                key, name = event.reaction
                if about and key:
                    found.reactions.setdefault(about, {})[event.sender, key] = event.id, name
            elif kind == "m.replace" and isinstance(content := event.content.get("m.new_content"), dict):
                before = found.edits.get((about, event.sender))
                if before is None or (event.time_ms, event.id) > before[:2]:
                    found.edits[about, event.sender] = event.time_ms, event.id, content
            elif event.type == "m.room.redaction":
                if about := text_at(event.raw, "redacts") or text_at(event.content, "redacts"):
                    found.redacted.setdefault(about, event.sender)
            elif event.type in (*_SAID, "m.reaction") and not event.content:
                found.redacted[event.id] = ""
        return found

    @staticmethod
    def _is_redacted(room: Room, relations: Relations, id: str, sender: str) -> bool:
        by = relations.redacted.get(id)
        return by is not None and (by in ("", sender) or room.role(by) != "member")

    def _change(self, room: Room, event: Event) -> Change | None:
        key, content = (event.id, room.id, event.sender, event.time_ms), event.content
        before = event.membership_before
        if event.type == "m.room.member" and event.state_key in room.members:
            membership = text_at(content, "membership")
            if membership == "join" and before in ("", "invite", "knock", "leave", "ban"):
                return Change(*key, "join", [event.state_key])
            if membership in ("leave", "ban") and before == "join":
                return Change(*key, "leave", [event.state_key])
        elif event.state_key == "" and text_at(event.raw, "unsigned", "replaces_state"):
            if event.type == "m.room.name" and (name := clean(text_at(content, "name"))):
                return Change(*key, "name", text=name)
            if event.type == "m.room.topic":
                return Change(*key, "description", text=clean(text_at(content, "topic")))
        return None

    def _message(self, room: Room, relations: Relations, event: Event) -> Message:
        content, thread, reply = event.content, "", ""
        kind, about = event.relation
        if kind == "m.thread":
            thread = about
        else:
            reply = text_at(content, "m.relates_to", "m.in_reply_to", "event_id")
        edit = relations.edits.get((event.id, event.sender))
        bundled = at(event.raw, "unsigned", "m.relations", "m.replace")  # what Element has of an edit
        if edit is not None and not self._is_redacted(room, relations, edit[1], event.sender):
            content = edit[2]
        elif (
            isinstance(new := at(bundled, "content", "m.new_content"), dict)
            and text_at(bundled, "sender") == event.sender
        ):
            content = new
        is_edited = content is not event.content
        text, files = self._content(event, content, bool(reply) and not is_edited)
        return Message(
            *(event.id, room.id, event.sender, event.time_ms, text, thread, reply),
            is_edited=is_edited,
            files=files,
            reactions=[
                Reaction(person, f":{name or 'picture'}:", key)
                if _MEDIA.fullmatch(key)
                else Reaction(person, key)
                for (person, key), (id, name) in relations.reactions.get(event.id, {}).items()
                if not self._is_redacted(room, relations, id, person)
            ],
        )

    # --- texts ----------------------------------------------------------------------------------------------

    def _content(self, event: Event, content: Json, is_reply: bool) -> tuple[str, list[File]]:
        """The text and the files of a message."""
        kind = "m.sticker" if event.type == "m.sticker" else text_at(content, "msgtype")
        if event.type in _POLLS:
            return clean(self._poll(content)), []
        if kind in _FILES:
            file, caption = self._file(event, content, kind), text_at(content, "filename")
            has_caption = caption not in ("", text_at(content, "body"))
            return self._text(content, False) if has_caption else "", [file]
        text = self._text(content, is_reply)
        if kind == "m.emote":
            text = marked(text, "_")
        elif kind == "m.location":
            text = f"{text} ({clean(text_at(content, 'geo_uri'))})".strip()
        return text, []

    def _poll(self, content: Json) -> str:
        poll = at(content, "m.poll") or at(content, "org.matrix.msc3381.poll.start")
        answers = at(poll, "answers")
        lines = [_extensible(at(poll, "question"))]
        lines += [f"- {_extensible(each)}" for each in (answers if isinstance(answers, list) else ())[:100]]
        return "\n".join(lines)

    def _file(self, event: Event, content: Json, kind: str) -> File:
        body = text_at(content, "body")
        name = clean(text_at(content, "filename") or body) or "file"
        address = text_at(content, "url") or text_at(content, "file", "url")
        if event.top is not None and (beside := self._element_file(event, body, kind)):
            return File(beside, name)
        media = _MEDIA.fullmatch(address)
        if media is None:
            return File(event.id, name, why="without an address")
        if "file" in content and "url" not in content:
            return File(address, name, why="encrypted")
        if self._is_foreign(media[1]):
            return File(address, name, why="of another server")
        return File(address, name)

    def _element_file(self, event: Event, body: str, kind: str) -> str:
        """The name of a file beside the events of Element: with its date in some language."""
        folder = "/".join(filter(None, (event.top, _FILES[kind])))
        prefix = f"{folder}/{body.rpartition('.')[0] or body}-"
        moment = "{:02}-{:02}".format(*divmod(event.time_ms // 1000 % 3600, 60))  # the hour depends on a zone
        begin = bisect_left(self._beside, prefix)
        alike = [name for name in self._beside[begin : begin + 2] if name.startswith(prefix)]
        exact = (name for name in self._moments.get((folder, moment), ()) if name.startswith(prefix))
        return next(exact, alike[0] if len(alike) == 1 else "")

    def _text(self, content: Json, is_reply: bool) -> str:
        mentions = content.get("m.mentions")
        is_room = not isinstance(mentions, dict) or mentions.get("room") is True
        html = text_at(content, "formatted_body")
        if (
            html
            and text_at(content, "format") == "org.matrix.custom.html"
            and len(html) <= MOST_HTML_CHARACTERS
        ):
            return html_text(clean(html), self._anchor, lambda text: _everybody(text, is_room), "mx-reply")
        body = clean(text_at(content, "body"))
        if is_reply and body.startswith("> "):  # what it answers, for old clients
            lines = body.split("\n")
            first = next((number for number, line in enumerate(lines) if line[:1] != ">"), len(lines))
            body = "\n".join(lines[first:]).lstrip("\n")
        ids = at(mentions, "user_ids")
        names = [id for id in ids if isinstance(id, str)][:MOST_MENTIONS] if isinstance(ids, list) else None
        return self._marked(_everybody(body, is_room), names)

    def _marked(self, text: str, users: list[str] | None) -> str:
        """A text without HTML. ``users``: whom it mentions; None: an old client has not said it."""
        for user in users or ():
            if (known := self._known.get(user)) is not None and known.nickname:
                name = re.escape(f"@{clean(known.nickname)}")
                text = re.sub(rf"(?<![\w@/\x02]){name}(?![\w:])", partial(_mention, user), text)

        def named(match: re.Match[str]) -> str:
            is_meant = match[0] in (self._known if users is None else users)
            return mention(match[0]) if is_meant and match[0] in self._known else match[0]

        return _PERMALINK.sub(lambda match: self._anchor(match[0], "") or match[0], _MXID.sub(named, text))

    def _anchor(self, address: str, label: str) -> str | None:
        """What stands for a link to somebody or to a message; None: it is a link to something else."""
        if (found := _PERMALINK.fullmatch(address)) is None:
            return None
        path = found[0].removeprefix("https://matrix.to/#/").partition("?")[0]
        if path.startswith("matrix:"):
            parts = path.removeprefix("matrix:").split("/")
            signs = {"u": "@", "r": "#", "roomid": "!", "e": "$"}
            path = "/".join(
                signs.get(sign, "") + id for sign, id in zip(parts[::2], parts[1::2], strict=False)
            )
        first, _, event = (unquote(each) for each in path.partition("/"))
        if first.startswith("@"):
            return mention(first) if first in self._known or first in self._profiles else label or first
        if event.startswith("$") and len(event) < 256 and clean(event) == event and "|" not in event:
            mark = link(event, address)
            return f"{label} ({mark})" if label and "://" not in label else mark
        return label or None


def _mention(user: str, _: object) -> str:
    return mention(user)


def _everybody(text: str, is_room: bool) -> str:
    return _EVERYBODY.sub(lambda _: mention(EVERYBODY), text) if is_room else text


def _extensible(value: object) -> str:
    """The plain text of a part of an event whose type has none of its own."""
    texts = at(value, "m.text")
    for each in texts if isinstance(texts, list) else ():
        if text_at(each, "mimetype") in ("", "text/plain"):
            return text_at(each, "body")
    return text_at(value, "org.matrix.msc1767.text") or text_at(value, "body")
