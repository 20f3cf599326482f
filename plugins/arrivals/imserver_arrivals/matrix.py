"""Reads exports of Matrix by Synapse and Element: folders of ``export-data``,
and rooms as JSON.

The archive may have any number of them, anywhere. There are three kinds:

- Folders with the events that one user may see. ``python -m
  synapse.app.admin_cmd … export-data USER --output-directory DIR`` writes them
  (Synapse 1.163, ``synapse/app/admin_cmd.py``, ``synapse/handlers/admin.py``).
  Events of several exports are merged by their ids (see :mod:`.matrix_events`).
- ``local_content`` of Synapse's ``media_store``, with the bytes of files.
  ``export-data`` does not write them.
- Rooms that Element Web exports as JSON
  (``src/utils/exportUtils/JSONExport.ts``), with their files.

Events are read one after the other. People, the state of all rooms, and the
edits and reactions of one room are kept in memory.
"""

import re
from collections.abc import Collection, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, ClassVar, Final
from urllib.parse import unquote

from msgspec.structs import replace

from . import records
from .fields import Json, RecordReader, at, list_at, text_at
from .live import MARK
from .markup import html_text, marked
from .matrix_events import USER, MatrixEvent, Relations, Room
from .problems import NAME_CHARACTERS, BadArchive, Problems
from .source import source_of
from .tables import Tables
from .text import COVER, SECOND_MS, clean, spoilers_file, spoilers_in
from .writing import without_marks

MOST_HTML_CHARACTERS: Final = 1 << 16

_ROOM: Final = re.compile(r"![\w.:\[\]~+/=-]{1,250}", re.ASCII)
_MEDIA: Final = re.compile(r"mxc://([\w.:\[\]-]{1,200})/([\w-]{1,200})", re.ASCII)
_MOMENT: Final = re.compile(r"(?<=\d\D)(\d\d)\D(\d\d)(?!\d)", re.ASCII)
_MXID: Final = re.compile(
    r"(?<![\w/@])@[a-z0-9._=/+-]{1,200}:[A-Za-z0-9][A-Za-z0-9.-]{0,200}(?::\d{1,5})?"
)
_PERMALINK: Final = re.compile(
    r"https://matrix\.to/#/([^\s<>\"')\]]{1,1000}(?<![.,;:!?]))"
)
_EVERYBODY: Final = re.compile(r"(?<![\w@/.])@room(?![\w:])")
_POLLS: Final = ("m.poll.start", "org.matrix.msc3381.poll.start")
_VOTES: Final = {kind.replace("start", "response") for kind in _POLLS} | {
    kind.replace("start", "end") for kind in _POLLS
}
_MESSAGES: Final = ("m.room.message", "m.sticker", *_POLLS)
"""Types of events that are messages."""
_ABOUT_OTHERS: Final = ("m.reaction", "m.room.redaction")
_OUTSIDE: Final = ("", "invite", "knock", "leave", "ban")
"""Memberships of people who are not in a room; ``""``: they never were."""
_FOLDERS: Final = {
    "m.image": "images",
    "m.video": "videos",
    "m.sticker": "stickers",
    "m.file": "files",
    "m.audio": "audio",
}
"""Kind of a message with a file → the folder in which Element puts the file."""
_NEWEST_VERSION: Final = 99
"""The version that counts for a room whose version is not a number."""
_MOST_ANSWERS: Final = 100
_ID_CHARACTERS: Final = 256
"""Limit of the length of ids of events; all are shorter."""
_PAIR: Final = 2
"""The most people in a direct conversation."""
_HOUR_SECONDS: Final = 3600
_MINUTE_SECONDS: Final = 60


class Matrix:
    """An archive of Matrix: see :class:`~imserver_arrivals.records.Archive`."""

    name: ClassVar[str] = "matrix"
    title: ClassVar[str] = "Matrix"

    def __init__(self, path: Path) -> None:
        self.problems = Problems()
        self._source = source_of(path, self.problems)
        self._rooms: dict[str, Room] = {}
        self._profiles: dict[str, Json] = {}
        """Person whose data were exported → their profile."""
        self._exporters: dict[str, str] = {}
        """Folder of an export → the person whose data it has."""
        self._account_data: list[tuple[str, str, str]] = []
        """Files of account data: (folder of the export, the room or ``global``,
        name of the file)."""
        self._files: dict[str, str] = {}
        """Id of a file of this server, or the name of a file of Element → its
        name in the archive."""
        self._beside: dict[tuple[str, str], list[str]] = {}
        """(folder, minute and second in the name) → files that Element has put
        beside its events."""
        self._people: dict[str, tuple[int, str, str]] = {}
        """Person in an event → time, nickname and picture of their newest
        member event. The time is -1 if they have none."""
        self._emoji: dict[str, str] = {}
        self._broken = Problems()
        """Gets the broken parts. They are noted by the survey alone, because
        the rooms are read several times."""
        self._notes = self.problems
        """Gets the parts that are not imported. They are noted by the first
        call of :meth:`records` alone."""
        self._has_surveyed = False
        self._reader = RecordReader(MatrixEvent)
        for name in self._source.names:
            self._sort_file(name)
        if not (self._rooms or self._profiles):
            raise BadArchive(
                f"{path} is no export of Matrix: no rooms/…/events, and no room of Element"
            )
        self._servers = {user.partition(":")[2] for user in self._profiles}
        self._read_account_data()

    def _sort_file(self, name: str) -> None:
        """Note what a file is, by its name: events of a room, a profile,
        account data, or the bytes of a file of a message. A room of Element is
        found by its content."""
        match name.split("/"):
            case [*_, "rooms", id, "events"] | [*_, "rooms", id, "state", _] if (
                _ROOM.fullmatch(id)
            ):
                self._rooms.setdefault(id, Room(id)).files[name] = False
            case [*top, "user_data", "profile"]:
                profile = self._read_small(name)
                user = text_at(profile, "name")
                if re.search(USER, user):
                    self._profiles[user] = profile
                    self._exporters["/".join(top)] = user
            case [*top, "user_data", "account_data", room]:
                self._account_data.append(("/".join(top), room, name))
            case [
                *_,
                "devices" | "connections" | "invite_state" | "knock_state",
            ] | [*_, "media_ids", _]:
                pass
            case [*_, "local_content", first, second, last]:
                # Synapse splits the id of a file into two folders and a name.
                self._files[first + second + last] = name
            case [
                *top,
                "images" | "videos" | "audio" | "files" | "stickers" as kind,
                last,
            ]:
                self._files[name] = name
                moments = _MOMENT.findall(last)
                if moments:
                    key = "/".join((*top, kind)), ":".join(moments[-1])
                    self._beside.setdefault(key, []).append(name)
            case [*_, "rooms", _, "events"]:
                self._note_unread_events(name)
            case [*_, last] if last.endswith(".json"):
                self._add_room(name)
            case _:
                self.problems.note("file that is none of the export")

    def _read_account_data(self) -> None:
        """Read up to which event people have read a room, and which rooms are
        conversations of two."""
        for folder, room, name in self._account_data:
            data = self._read_small(name)
            direct = at(data, "m.direct")
            marker = text_at(data, "m.fully_read", "event_id")
            if folder in self._exporters and room in self._rooms and marker:
                readers = self._rooms[room].markers.setdefault(marker, [])
                readers.append(self._exporters[folder])
            elif isinstance(direct, dict):
                self._note_direct(direct)

    def _note_direct(self, direct: Json) -> None:
        """Note the rooms that are conversations of two. ``direct``: person →
        the ids of the rooms with this person."""
        ids = chain.from_iterable(list_at(direct, user) for user in direct)
        for room in map(self._rooms.get, map(str, ids)):
            if room is not None:
                room.is_direct = True

    def _read_small(self, name: str) -> Any:
        """The value of a small file. Returns None if it is broken or empty."""
        return next(self._values(name, self.problems), None)

    def _values(
        self, name: str, problems: Problems, is_room: bool = False
    ) -> Iterator[Any]:
        """Yield the values of a file, one after the other. ``is_room``: the
        file is a room that Element has exported, and its events are yielded."""
        try:
            with self._source.open(name) as file:
                if not is_room:
                    yield from Tables(file).values()
                    return
                for table, row in Tables(file).rows():
                    if table == "messages":
                        yield row
        except Exception as error:  # also of a decompressor
            problems.note_broken(name, error)

    def _note_unread_events(self, name: str) -> None:
        """Note a file of events whose folder names no room. They are not
        imported, because nobody knows to which room they belong."""
        values = self._values(name, Problems())
        count = sum(at(value, "type") in _MESSAGES for value in values)
        self.problems.note_broken(
            name, "its folder is named by no room", messages=count
        )

    def _add_room(self, name: str) -> None:
        """Add a room that Element has exported."""
        try:
            with self._source.open(name) as file:
                tables = Tables(file)
                for table, row in tables.rows():
                    id = text_at(row, "room_id")
                    if table == "messages" and _ROOM.fullmatch(id):
                        room = self._rooms.setdefault(id, Room(id))
                        room.files[name] = True
                        room.name = tables.texts.get("room_name", "")
                        room.topic = tables.texts.get("topic", "")
                        return
            self.problems.note("file that is none of the export")
        except Exception as error:  # also of a decompressor
            self.problems.note_broken(name, error)

    # --- events of a room -----------------------------------------------------

    def _events(self, room: Room) -> Iterator[MatrixEvent]:
        """The events of all exports of a room."""
        for name, is_room in room.files.items():
            note = partial(self._broken.note_field, "an event")
            for raw in self._values(name, self._broken, is_room):
                try:
                    event = self._reader.convert(raw, note)
                    if not isinstance(raw.get("content", {}), dict):
                        raise ValueError("its content is no object")
                except (ValueError, RecursionError) as error:
                    kind = at(raw, "type")
                    is_message = kind in _MESSAGES or not isinstance(raw, dict)
                    self._broken.note_broken(
                        name, f"an event: {error}", messages=int(is_message)
                    )
                    continue
                event.raw = raw
                event.version = room.version
                event.top = None
                if is_room:
                    event.top = name.rpartition("/")[0]
                yield event

    def _survey(self) -> None:
        """Read the state of all rooms, and the people who were there. A room
        that is imported gets a ``kind``."""
        for room in self._rooms.values():
            # The ids of events depend on the version, so it is read before.
            room.version = self._version_of(room)
            self._broken = self.problems
            for event in self._events(room):
                self._survey_event(room, event)
            self._broken = Problems()  # each broken part is noted once
            if text_at(room.content("create"), "type") == "m.space":
                self.problems.note("space (its rooms come)")
                if room.messages:
                    self.problems.note_lost("message in a space", count=room.messages)
            elif not (room.is_joined or room.writers):
                self.problems.note("room that nobody has entered")
            else:
                self._describe(room)
                room.kind = _kind_of(room)
        self._has_surveyed = True

    def _version_of(self, room: Room) -> int:
        """The version of a room, from its first event. :data:`_NEWEST_VERSION`
        if it is not a number."""
        events = self._events(room)
        first = (event.content for event in events if event.type == "m.room.create")
        version = str(next(first, {"room_version": "10"}).get("room_version", "1"))
        if re.fullmatch(r"[1-9]\d?", version, re.ASCII):
            return int(version)
        return _NEWEST_VERSION

    def _survey_event(self, room: Room, event: MatrixEvent) -> None:
        """Note the facts of an event about a room and its people: who has
        written, state, read positions, and own emoji."""
        # The id may be a digest, so it is made only if a marker can name it.
        if room.markers:
            for reader in room.markers.get(event.id, ()):
                room.read[reader] = max(event.time_ms, room.read.get(reader, 0))
        self._people.setdefault(event.sender, (-1, "", ""))
        key, name = event.reaction
        if event.type == "m.reaction" and name and _MEDIA.fullmatch(key):
            self._emoji.setdefault(name, key)

        user = event.state_key
        if user is None:
            if event.type in _MESSAGES or event.is_encrypted:
                room.writers[event.sender] = None
                room.messages += 1
        elif event.type == "m.room.member" and re.search(USER, user):
            self._note_member(room, event, user)
        elif not user and event.depth >= room.state.get(event.type, event).depth:
            room.state[event.type] = event

    def _note_member(self, room: Room, event: MatrixEvent, user: str) -> None:
        """Note whether a person is in a room, and the newest nickname and
        picture of a person who joins."""
        membership = text_at(event.content, "membership")
        depth, _ = room.members.get(user, (0, ""))
        if event.depth >= depth:
            room.members[user] = (event.depth, membership)
        room.is_direct = room.is_direct or event.content.get("is_direct") is True
        if membership != "join":
            return
        room.is_joined = True
        time_ms, _, _ = self._people.get(user, (-1, "", ""))
        if event.time_ms >= time_ms:
            nickname = text_at(event.content, "displayname")
            avatar = text_at(event.content, "avatar_url")
            self._people[user] = (event.time_ms, nickname, avatar)

    def _describe(self, room: Room) -> None:
        """Set the name and the topic of a room from its state. A room of
        Element keeps those of its export if the state has none."""
        alias = text_at(room.content("canonical_alias"), "alias")
        name = text_at(room.content("name"), "name") or room.name
        # "#lobby:example.org" → "lobby"
        room.name = name or alias[1:].partition(":")[0]
        room.topic = text_at(room.content("topic"), "topic") or room.topic

    # --- records --------------------------------------------------------------

    def open(self, file: str) -> IO[bytes] | None:
        """The bytes of a file, by its address at Matrix, or by its name beside
        the events of Element."""
        spoilers = spoilers_in(file)
        if spoilers is not None:
            return spoilers
        media = _MEDIA.fullmatch(file)
        if media is None:
            name = self._files.get(file)
        elif self._is_foreign(media[1]):
            return None
        else:
            name = self._files.get(media[2])
        if name is None:
            return None
        return self._source.open(name)

    def _is_foreign(self, server: str) -> bool:
        """Whether a server is a foreign one: none of its users were
        exported."""
        return bool(self._servers) and server not in self._servers

    def _person(self, id: str) -> records.Person:
        """A person, with the data of their profile, or else of their newest
        member event. ``why`` is set if nobody may claim the account."""
        profile = self._profiles.get(id, {})
        _, nickname, avatar = self._people.get(id, (0, "", ""))
        local, _, server = id[1:].partition(":")
        nickname = text_at(profile, "displayname") or nickname or local
        avatar = _media_of(text_at(profile, "avatar_url") or avatar)
        person = records.Person(id, clean(nickname), avatar=avatar)
        if self._is_foreign(server):
            return replace(person, why="of another server")
        if profile.get("deactivated"):
            return replace(person, why="deactivated")
        if text_at(profile, "appservice_id") or text_at(profile, "user_type") == "bot":
            return replace(person, why="bot")
        emails = (
            text_at(contact, "address")
            for contact in list_at(profile, "threepids")
            if text_at(contact, "medium") == "email"
        )
        return replace(person, login=local, email=next(emails, ""))

    def _group(self, room: Room) -> records.Group:
        """A room as a group. If nobody is known to have joined it, its writers
        are its members."""
        name = ""
        if room.kind == "direct":
            present = list(dict.fromkeys((*room.members, *room.writers)))
        else:
            name = clean(room.name)
            joined = [
                user
                for user, (_, membership) in room.members.items()
                if membership == "join"
            ]
            present = joined or list(room.writers)
        group = records.Group(
            id=room.id,
            kind=room.kind or "closed",
            name=name,
            description=clean(room.topic),
            members=[
                records.Member(user, room.role(user), room.read.get(user, -1))
                for user in present
            ],
            pins=list(_pins(room)),
            is_archived="m.room.tombstone" in room.state,
            avatar=_media_of(text_at(room.content("avatar"), "url")),
        )
        create = room.state.get("m.room.create")
        if create is None:
            return group
        return replace(group, creator=create.sender, created_ms=create.time_ms)

    def _messages(
        self, room: Room
    ) -> Iterator[records.Message | records.Change | records.Removal]:
        """The messages, changes and removals of a room, each event once. Then
        notes the events that were not imported."""
        relations = self._relations(room)
        ids: set[str] = set()
        encrypted: set[str] = set()
        for event in self._events(room):
            if event.is_encrypted:
                # Another export, of Element, may have the event as a text.
                encrypted.add(event.id)
            elif event.id not in ids:
                ids.add(event.id)
                yield from self._records(room, relations, event)
        yield from self._removals(room, relations, ids)

        unreadable = encrypted - ids
        if unreadable:
            self._notes.note_lost(
                "encrypted message", group=room.id, count=len(unreadable)
            )
        related = [*relations.edits, *relations.reactions.values()]
        lost = sum(about not in ids for about, _ in related)
        if lost:
            self._notes.note(
                "edit or reaction of a message that is not there",
                group=room.id,
                count=lost,
            )

    def _records(
        self, room: Room, relations: Relations, event: MatrixEvent
    ) -> Iterator[records.Message | records.Change | records.Removal]:
        """The record of an event, if it has one. Edits, reactions and
        redactions change other records and have none."""
        relation, _ = event.relation
        if relation == "m.replace" or event.type in _ABOUT_OTHERS:
            return
        if event.state_key is not None:
            change = None
            if room.kind != "direct":
                change = self._change(room, event)
            if change is not None:
                yield change
            return

        kind = text_at(event.content, "msgtype")
        if event.type in _VOTES:
            self._notes.note("vote of a poll", group=room.id)
        elif event.type not in _MESSAGES or kind.startswith("m.key."):
            short = f"event {kind or event.type}"[:NAME_CHARACTERS]
            self._notes.note(short, group=room.id)
        elif self._is_redacted(room, relations, event.id, event.sender):
            self._notes.note("deleted message", group=room.id)
            redaction = relations.redactions[event.id]
            yield records.Removal(
                room.id, redaction.sender, redaction.time_ms, event.id
            )
        elif MARK in event.content:
            self._notes.note("message of ours", group=room.id)
        else:
            yield self._message(room, relations, event)

    def _removals(
        self, room: Room, relations: Relations, ids: set[str]
    ) -> Iterator[records.Removal]:
        """Removals of reactions that were taken back, and of redacted messages
        that no export has.

        ``ids``: the messages that an export has. The reactions are deleted from
        ``relations``.
        """
        for id, redaction in relations.redactions.items():
            message, reaction = relations.reactions.pop(id, (id, None))
            if reaction is None and id in ids:
                continue  # its removal was yielded in its place
            person = ""
            if reaction is not None:
                person = reaction.person
            if self._is_redacted(room, relations, id, person):
                yield records.Removal(
                    room.id,
                    person or redaction.sender,
                    redaction.time_ms,
                    message,
                    reaction,
                )

    def _relations(self, room: Room) -> Relations:
        """Collect the edits, reactions and redactions of a room, because they
        come after the messages that they change."""
        relations = Relations()
        for event in self._events(room):
            kind, about = event.relation
            if event.type == "m.reaction" and kind == "m.annotation" and about:
                self._add_reaction(relations, event, about)
            elif kind == "m.replace":
                content = event.content.get("m.new_content")
                before = relations.edits.get((about, event.sender))
                is_newest = before is None or (event.time_ms, event.id) > before[:2]
                if isinstance(content, dict) and is_newest:
                    edit = (event.time_ms, event.id, content)
                    relations.edits[about, event.sender] = edit
            elif event.type == "m.room.redaction":
                redacted = event.redacts or text_at(event.content, "redacts")
                if redacted:
                    relations.redactions.setdefault(redacted, event)
            elif event.type in (*_MESSAGES, "m.reaction") and not event.content:
                # The server has taken its content, because it was redacted.
                relations.redactions[event.id] = event
        return relations

    @staticmethod
    def _add_reaction(relations: Relations, event: MatrixEvent, about: str) -> None:
        """Add a reaction to the message ``about``. An own emoji has an address
        at Matrix as its key, and is written ``:name:``."""
        key, name = event.reaction
        if not key:
            return
        if _MEDIA.fullmatch(key):
            reaction = records.Reaction(event.sender, f":{name or 'picture'}:", key)
        else:
            reaction = records.Reaction(event.sender, key)
        relations.reactions[event.id] = (about, reaction)
        relations.newest.setdefault(about, {})[event.sender, key] = event.id

    @staticmethod
    def _is_redacted(room: Room, relations: Relations, id: str, sender: str) -> bool:
        """Whether a message or reaction was redacted by somebody who may do so:
        its sender, or an admin. An export of a client has only redactions that
        the server has accepted."""
        redaction = relations.redactions.get(id)
        if redaction is None:
            return False
        if redaction.top is not None:  # from an export of a client
            return True
        return redaction.sender == sender or room.role(redaction.sender) != "member"

    def _change(self, room: Room, event: MatrixEvent) -> records.Change | None:
        """The change of a group that a state event tells. Returns None if
        groups here have no such change, or if the event changes nothing."""
        content = event.content
        replaced = text_at(event.unsigned, "replaces_state")
        before = text_at(event.unsigned, "prev_content", "membership") or replaced
        change = partial(records.Change, event.id, room.id, event.sender, event.time_ms)
        if event.type == "m.room.member" and event.state_key in room.members:
            membership = text_at(content, "membership")
            if membership == "join" and before in _OUTSIDE:
                return change("join", [event.state_key])
            if membership in ("leave", "ban") and before == "join":
                return change("leave", [event.state_key])
        elif event.state_key == "" and replaced:
            name = clean(text_at(content, "name"))
            if event.type == "m.room.name" and name:
                return change("name", text=name)
            if event.type == "m.room.topic":
                return change("description", text=clean(text_at(content, "topic")))
        return None

    def _message(
        self, room: Room, relations: Relations, event: MatrixEvent
    ) -> records.Message:
        """A message, with the text of its newest edit and its reactions."""
        kind, about = event.relation
        thread = ""
        reply = text_at(event.content, "m.relates_to", "m.in_reply_to", "event_id")
        if kind == "m.thread":
            thread = about
            # In a thread the reply is meant for clients without threads.
            reply = ""

        content = self._edited(room, relations, event)
        is_edited = content is not event.content
        # The text of an edit does not quote the answered message.
        is_reply = bool(reply) and not is_edited
        text, files = self._content(event, content, is_reply)
        newest = relations.newest.get(event.id, {})
        return records.Message(
            event.id,
            room.id,
            event.sender,
            event.time_ms,
            text,
            thread,
            reply,
            is_edited=is_edited,
            files=files,
            reactions=[
                relations.reactions[id][1]
                for (person, _), id in newest.items()
                if not self._is_redacted(room, relations, id, person)
            ],
        )

    def _edited(self, room: Room, relations: Relations, event: MatrixEvent) -> Json:
        """The content of a message after its newest edit, or the content of the
        event itself."""
        edit = relations.edits.get((event.id, event.sender))
        if edit is not None:
            _, id, content = edit
            if not self._is_redacted(room, relations, id, event.sender):
                return content
        # A client has the edit within the edited event.
        bundled = at(event.unsigned, "m.relations", "m.replace")
        if text_at(bundled, "sender") == event.sender:
            new = at(bundled, "content", "m.new_content")
            if isinstance(new, dict):
                return new
        return event.content

    # --- texts ----------------------------------------------------------------

    def _content(
        self, event: MatrixEvent, content: Json, is_reply: bool
    ) -> tuple[str, list[records.File]]:
        """The text and the files of a message. ``is_reply``: the text begins
        with a quote of the answered message, which is left out."""
        if event.type in _POLLS:
            return _text_of_poll(content), []
        kind = text_at(content, "msgtype")
        if event.type == "m.sticker":
            kind = "m.sticker"
        if kind in _FOLDERS:
            file = self._file(event, content, kind)
            name = text_at(content, "filename")
            if name in ("", text_at(content, "body")):  # there is no caption
                return "", [file]
            caption, spoilers = self._text(content, is_reply=False)
            return caption, [file, *spoilers]

        text, spoilers = self._text(content, is_reply)
        if kind == "m.emote":
            text = marked(text, "_")
        elif kind == "m.location":
            text = f"{text} ({clean(text_at(content, 'geo_uri'))})".strip()
        return text, spoilers

    def _file(self, event: MatrixEvent, content: Json, kind: str) -> records.File:
        """The file of a message: beside the events in an export of Element, or
        by its address at Matrix. ``why`` is set if its bytes cannot be
        imported."""
        body = text_at(content, "body")
        name = clean(text_at(content, "filename") or body) or "file"
        address = text_at(content, "url") or text_at(content, "file", "url")
        # Element adds the date and the time to the name. The date is in some
        # language and the hour depends on the zone, so a file is found by its
        # minute and second.
        if event.top is not None:
            folder = "/".join(filter(None, (event.top, _FOLDERS[kind])))
            seconds = event.time_ms // SECOND_MS % _HOUR_SECONDS
            moment = "{:02}:{:02}".format(*divmod(seconds, _MINUTE_SECONDS))
            beginning = f"{folder}/{body.rpartition('.')[0] or body}-"
            for file in self._beside.get((folder, moment), ()):
                if file.startswith(beginning):
                    return records.File(file, name)
        media = _MEDIA.fullmatch(address)
        why = ""
        if media is None:
            address = event.id
            why = "without an address"
        elif "file" in content and "url" not in content:
            why = "encrypted"
        elif self._is_foreign(media[1]):
            why = "of another server"
        return records.File(address, name, why=why)

    def _text(self, content: Json, is_reply: bool) -> tuple[str, list[records.File]]:
        """The text of a message, and the file with its spoilers, if it has
        any."""
        mentions = content.get("m.mentions")
        is_for_room = not isinstance(mentions, dict) or mentions.get("room") is True

        def mark_everybody(text: str) -> str:
            if not is_for_room:
                return text
            return _EVERYBODY.sub(records.mention(records.EVERYBODY), text)

        html = text_at(content, "formatted_body")
        is_html = text_at(content, "format") == "org.matrix.custom.html"
        if is_html and 0 < len(html) <= MOST_HTML_CHARACTERS:
            spoilers: list[str] = []

            def cover(spoiler: str, reason: str) -> str:
                spoilers.append(without_marks(spoiler, self._name_of))
                if reason:
                    return f"{COVER} ({reason})"
                return COVER

            text = html_text(
                clean(html), self._anchor, mark_everybody, "mx-reply", cover
            )
            if spoilers:
                return text, [spoilers_file(spoilers)]
            return text, []

        body = clean(text_at(content, "body"))
        if is_reply:
            # The lines of the quote of the answered message, for old clients.
            body = re.sub(r"\A(?=> )(?:>.*(?:\n|\Z))+\n*", "", body)
        users: Collection[str] = self._people
        ids = at(mentions, "user_ids")
        if isinstance(ids, list):
            users = ids

        def mark_person(match: re.Match[str]) -> str:
            user = match[0]
            if user in users and user in self._people:
                return records.mention(user)
            return user

        def mark_link(match: re.Match[str]) -> str:
            return self._anchor(match[0], "") or match[0]

        body = _MXID.sub(mark_person, mark_everybody(body))
        return _PERMALINK.sub(mark_link, body), []

    def _name_of(self, person: str) -> str:
        """The name by which a text refers to somebody whom it cannot
        mention."""
        if person == records.EVERYBODY:
            return "@all"
        return f"@{self._person(person).nickname}"

    def _anchor(self, address: str, label: str) -> str | None:
        """The replacement of a link: a mark if it leads to a person or a
        message, or a text if it leads elsewhere at Matrix. Returns None for a
        usual link, which stays. ``label``: the text of the link; ``""`` if it
        has none."""
        match = _PERMALINK.fullmatch(address)
        if match is None:
            return None
        path, _, _ = match[1].partition("?")
        first, _, event = map(unquote, path.partition("/"))
        if first.startswith("@"):
            if first in self._people or first in self._profiles:
                return records.mention(first)
            return label or first
        is_event = event.startswith("$") and len(event) < _ID_CHARACTERS
        if is_event and clean(event) == event and "|" not in event:
            mark = records.link(event, address)
            if label and "://" not in label:
                return f"{label} ({mark})"
            return mark
        return label or None

    def records(self) -> Iterator[records.Record]:
        """All records, people and groups first."""
        if not self._has_surveyed:
            self._survey()
        yield from map(self._person, sorted(self._people.keys() | self._profiles))
        yield from map(records.Emoji, self._emoji, self._emoji.values())
        rooms = [room for room in self._rooms.values() if room.kind is not None]
        yield from map(self._group, rooms)
        for room in rooms:
            yield from self._messages(room)
        self._notes = Problems()  # a second call notes nothing again


def _kind_of(room: Room) -> records.GroupKind:
    if room.is_direct and len(room.members.keys() | room.writers) <= _PAIR:
        return "direct"
    if not room.name:
        return "several"
    if text_at(room.content("join_rules"), "join_rule") == "public":
        return "open"
    return "closed"


def _media_of(address: str) -> str:
    """The address of a file at Matrix; ``""`` if the address leads
    elsewhere."""
    if _MEDIA.fullmatch(address):
        return address
    return ""


def _pins(room: Room) -> Iterator[records.Pin]:
    """The pins of a room. Its state names the messages, but not who has pinned
    each of them and when."""
    event = room.state.get("m.room.pinned_events")
    if event is None:
        return
    for id in list_at(event.content, "pinned"):
        if isinstance(id, str):
            yield records.Pin(id, event.sender, event.time_ms)


def _text_of_poll(content: Json) -> str:
    """The question of a poll, and its answers as a list."""
    poll = at(content, "m.poll") or at(content, _POLLS[1])
    answers = list_at(poll, "answers")[:_MOST_ANSWERS]
    lines = [_extensible(at(poll, "question"))]
    lines += [f"- {_extensible(answer)}" for answer in answers]
    return clean("\n".join(lines))


def _extensible(value: object) -> str:
    """The plain text in an extensible part of an event, for types without a
    text."""
    for part in list_at(value, "m.text"):
        if text_at(part, "mimetype") in ("", "text/plain"):
            return text_at(part, "body")
    return text_at(value, "org.matrix.msc1767.text") or text_at(value, "body")
