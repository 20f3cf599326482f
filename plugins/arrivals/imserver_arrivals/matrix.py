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
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, ClassVar, Final, Literal, NamedTuple
from urllib.parse import unquote

from msgspec.structs import replace

from . import records
from .fields import Json, RecordReader, at, list_at, text_at
from .live import MARK
from .markup import html_text, marked
from .matrix_events import (
    DEFAULT_VERSION,
    USER,
    Edit,
    MatrixEvent,
    Membership,
    Relations,
    Room,
    SentReaction,
)
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


class AccountData(NamedTuple):
    """A file with settings that a client has stored for its user."""

    folder: str
    """The folder of the user's export."""
    room: str
    """The id of the room to which the settings belong, or ``global``."""
    file: str


class Appearance(NamedTuple):
    """A person as the newest event about their joining a room shows them."""

    time_ms: int = -1
    """The time of this event; -1 if the person only appears as a sender."""
    nickname: str = ""
    avatar: str = ""


class Matrix:
    """The adapter for archives of Matrix.

    It converts them to the records which the importer stores. The interface is
    :class:`~imserver_arrivals.records.Archive`.
    """

    name: ClassVar[str] = "matrix"
    title: ClassVar[str] = "Matrix"

    def __init__(self, path: Path) -> None:
        """Open an archive and sort its files by their names.

        Raises BadArchive if no file is of an export of Matrix.
        """
        self.problems = Problems()
        self._source = source_of(path, self.problems)
        self._rooms: dict[str, Room] = {}
        self._profiles: dict[str, Json] = {}
        """Person whose data were exported → their profile."""
        self._exporters: dict[str, str] = {}
        """Folder of an export → the person whose data it has."""
        self._account_data: list[AccountData] = []
        self._files: dict[str, str] = {}
        """Id of a file of this server, or the name of a file of Element → its
        name in the archive."""
        self._element_files: dict[tuple[str, str], list[str]] = {}
        """(folder, minute and second in the name) → files of messages that
        Element has put into folders beside its JSON file."""
        self._people: dict[str, Appearance] = {}
        """The people in events."""
        self._emoji: dict[str, str] = {}
        """Name of an emoji that is a picture → the picture's address."""
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
        # Users are named "@ann:example.org"; the part after the colon is the
        # server.
        self._servers = {user.partition(":")[2] for user in self._profiles}
        self._read_account_data()

    def _sort_file(self, name: str) -> None:
        """Note what a file is, by its path in the archive.

        Synapse writes ``rooms/!a:example.org/events`` and
        ``user_data/profile``, for example. A room of Element is a JSON file
        with any name, so it is recognized by its content.
        """
        match name.split("/"):
            case [*_, "rooms", id, "events"] | [*_, "rooms", id, "state", _] if (
                _ROOM.fullmatch(id)
            ):
                self._rooms.setdefault(id, Room(id)).files[name] = False
            case [*top, "user_data", "profile"]:
                self._add_profile(folder="/".join(top), name=name)
            case [*top, "user_data", "account_data", room]:
                self._account_data.append(AccountData("/".join(top), room, name))
            case [
                *_,
                "devices" | "connections" | "invite_state" | "knock_state",
            ] | [*_, "media_ids", _]:
                # Synapse writes these files, and an import needs nothing of
                # them.
                pass
            case [*_, "local_content", first, second, last]:
                # Synapse splits the id of a file into two folders and a name.
                self._files[first + second + last] = name
            case [*_, "images" | "videos" | "audio" | "files" | "stickers", _]:
                self._add_element_file(name)
            case [*_, "rooms", _, "events"]:
                self._note_unread_events(name)
            case [*_, last] if last.endswith(".json"):
                self._add_room(name)
            case _:
                self.problems.note("file that is none of the export")

    def _add_element_file(self, name: str) -> None:
        """Add a file of a message that Element has put beside its JSON file.

        Such a file is found by its folder, and by the last minute and second in
        its name: ``images/cat-1-20-2026 at 10-15-42 AM.jpg`` has ``15:42``.
        """
        self._files[name] = name
        folder, _, last = name.rpartition("/")
        moments = _MOMENT.findall(last)
        if moments:
            key = folder, ":".join(moments[-1])
            self._element_files.setdefault(key, []).append(name)

    def _add_profile(self, folder: str, name: str) -> None:
        """Read whose data Synapse has exported to a folder."""
        profile = self._read_small(name)
        user = text_at(profile, "name")
        if re.search(USER, user):
            self._profiles[user] = profile
            self._exporters[folder] = user

    def _read_account_data(self) -> None:
        """Read the files of settings that clients have stored for their users.

        Two settings count: ``m.fully_read`` of a room names the event up to
        which the user has read it, and ``m.direct`` lists conversations of two.
        """
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
        """Note the rooms that are conversations of two.

        ``direct`` has the ids of the rooms by person, for example
        ``{"@ann:example.org": ["!a:example.org"]}``.
        """
        ids = chain.from_iterable(list_at(direct, user) for user in direct)
        for room in map(self._rooms.get, map(str, ids)):
            if room is not None:
                room.is_direct = True

    def _read_small(self, name: str) -> Any:
        """Return the value of a small JSON file. None if the file is broken or
        empty."""
        return next(self._values(name, self.problems), None)

    def _values(
        self, name: str, problems: Problems, is_element_room: bool = False
    ) -> Iterator[Any]:
        """Yield the JSON values in a file of the archive.

        Synapse writes one value after the other. Element writes one object,
        whose array ``messages`` has the events; set ``is_element_room`` to get
        these events. If the file is broken, ``problems`` gets the error and the
        iteration ends.
        """
        try:
            with self._source.open(name) as file:
                if not is_element_room:
                    yield from Tables(file).values()
                    return
                for table, row in Tables(file).rows():
                    if table == "messages":
                        yield row
        except Exception as error:  # also of a decompressor
            problems.note_broken(name, error)

    def _note_unread_events(self, name: str) -> None:
        """Note a file of events that is in no room's folder.

        Its events are not imported, because nobody knows to which room they
        belong. The report tells how many messages are lost.
        """
        values = self._values(name, Problems())
        count = sum(at(value, "type") in _MESSAGES for value in values)
        self.problems.note_broken(
            name, "its folder is named by no room", messages=count
        )

    def _add_room(self, name: str) -> None:
        """Add a JSON file, if it is a room that Element has exported.

        Such a file begins with ``{"room_name": "Lobby", "topic": …, "messages":
        […]}``. The first event with the id of a room decides.
        """
        try:
            with self._source.open(name) as file:
                tables = Tables(file)
                for table, row in tables.rows():
                    id = text_at(row, "room_id")
                    if table == "messages" and _ROOM.fullmatch(id):
                        self._add_element_room(id, name, tables.texts)
                        return
            self.problems.note("file that is none of the export")
        except Exception as error:  # also of a decompressor
            self.problems.note_broken(name, error)

    def _add_element_room(self, id: str, name: str, texts: Mapping[str, str]) -> None:
        """Add a file that Element has written to its room.

        ``name``: of the file. ``texts``: the texts in it, such as the name of
        the room.
        """
        room = self._rooms.setdefault(id, Room(id))
        room.files[name] = True
        room.name = texts.get("room_name", "")
        room.topic = texts.get("topic", "")

    # --- events of a room -----------------------------------------------------

    def _events(self, room: Room) -> Iterator[MatrixEvent]:
        """Yield the events of a room from all of its files.

        An event that is in several exports comes several times.
        """
        note_field = partial(self._broken.note_field, "an event")
        for name, is_element_room in room.files.items():
            element_folder = None
            if is_element_room:
                element_folder = name.rpartition("/")[0]
            for raw in self._values(name, self._broken, is_element_room):
                try:
                    event = self._event_of(raw, note_field)
                except (ValueError, RecursionError) as error:
                    self._note_broken_event(name, raw, error)
                    continue
                event.raw = raw
                event.version = room.version
                event.element_folder = element_folder
                yield event

    def _event_of(self, raw: Any, note_field: Callable[[str], object]) -> MatrixEvent:
        """Convert a value to an event. Raises ValueError and RecursionError if it
        is broken."""
        event = self._reader.convert(raw, note_field)
        if not isinstance(raw.get("content", {}), dict):
            raise ValueError("its content is no object")
        return event

    def _note_broken_event(self, name: str, raw: object, error: Exception) -> None:
        """Note an event that cannot be read, as a lost message if it may be
        one."""
        is_message = at(raw, "type") in _MESSAGES or not isinstance(raw, dict)
        self._broken.note_broken(name, f"an event: {error}", messages=int(is_message))

    def _survey(self) -> None:
        """Read all rooms once, for their state and for the people in them.

        A room that is imported gets a ``kind`` here. Other rooms are noted.
        """
        for room in self._rooms.values():
            # The ids of events depend on the version, so it is read before.
            room.version = self._version_of(room)
            self._broken = self.problems
            for event in self._events(room):
                self._survey_event(room, event)
            self._broken = Problems()  # each broken part is noted once
            if self._is_imported(room):
                self._describe(room)
                room.kind = _kind_of(room)
        self._has_surveyed = True

    def _is_imported(self, room: Room) -> bool:
        """Whether a room becomes a group. Other rooms are noted.

        A space does not become one: its only purpose is to list other rooms.
        """
        if text_at(room.content("create"), "type") == "m.space":
            self.problems.note("space (its rooms come)")
            if room.messages:
                self.problems.note_lost("message in a space", count=room.messages)
            return False
        if room.is_joined or room.writers:
            return True
        self.problems.note("room that nobody has entered")
        return False

    def _version_of(self, room: Room) -> int:
        """Return the version of a room, which says how the ids of events are
        made.

        The first event has it. A version that is not a number, such as
        ``org.example.test``, counts as :data:`_NEWEST_VERSION`.
        """
        events = self._events(room)
        creations = (event.content for event in events if event.type == "m.room.create")
        creation = next(creations, None)
        if creation is None:
            return DEFAULT_VERSION
        # The standard says that an event without a version creates a version 1.
        version = str(creation.get("room_version", "1"))
        if re.fullmatch(r"[1-9]\d?", version, re.ASCII):
            return int(version)
        return _NEWEST_VERSION

    def _survey_event(self, room: Room, event: MatrixEvent) -> None:
        """Note the facts that an event tells about a room and its people.

        These are its writers, its state, the positions up to which people have
        read, and emoji that are pictures.
        """
        # The id may be a digest, so it is made only if a marker can name it.
        if room.markers:
            _note_readers(room, event)
        self._people.setdefault(event.sender, Appearance())
        if event.type == "m.reaction":
            key, name = event.reaction
            if name and _MEDIA.fullmatch(key):
                self._emoji.setdefault(name, key)

        if event.state_key is not None:
            self._survey_state(room, event, event.state_key)
        elif event.type in _MESSAGES or event.is_encrypted:
            room.writers[event.sender] = None
            room.messages += 1

    def _survey_state(self, room: Room, event: MatrixEvent, key: str) -> None:
        """Note an event of a room's state. The newest of each type counts.

        ``key``: the person in a member event, and ``""`` in most others.
        """
        if event.type == "m.room.member" and re.search(USER, key):
            self._note_member(room, event, user=key)
        elif not key and event.depth >= room.state.get(event.type, event).depth:
            room.state[event.type] = event

    def _note_member(self, room: Room, event: MatrixEvent, user: str) -> None:
        """Note whether a person is in a room, and how they look.

        A member event that says ``join`` also has the person's nickname and
        picture. The newest of all rooms counts.
        """
        state = text_at(event.content, "membership")
        if event.depth >= room.members.get(user, Membership()).depth:
            room.members[user] = Membership(event.depth, state)
        room.is_direct = room.is_direct or event.content.get("is_direct") is True
        if state != "join":
            return
        room.is_joined = True
        if event.time_ms >= self._people.get(user, Appearance()).time_ms:
            self._people[user] = _appearance_in(event)

    def _describe(self, room: Room) -> None:
        """Set the name and the topic of a room from its state.

        If the state does not tell them, a room of Element keeps those in its
        file.
        """
        alias = text_at(room.content("canonical_alias"), "alias")
        name = text_at(room.content("name"), "name") or room.name
        # "#lobby:example.org" → "lobby"
        room.name = name or alias[1:].partition(":")[0]
        room.topic = text_at(room.content("topic"), "topic") or room.topic

    # --- records --------------------------------------------------------------

    def open(self, file: str) -> IO[bytes] | None:
        """Open a file of a message or a picture, by the id in its record.

        The id is an address at Matrix, such as ``mxc://example.org/abc``, or
        the name of a file of Element. Returns None if the archive does not have
        it.
        """
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
        """Whether a server is a foreign one: none of its users were exported.

        Servers of Matrix exchange messages, so a room has people of many
        servers. Without any profile nobody knows which server was exported.
        """
        return bool(self._servers) and server not in self._servers

    def _person(self, id: str) -> records.Person:
        """Return the record of a person.

        Its data are from the profile, or else from the newest member event.
        ``why`` is set if nobody may claim the account.
        """
        profile = self._profiles.get(id, {})
        # "@ann:example.org" → "ann" and "example.org"
        local, _, server = id[1:].partition(":")
        person = self._unclaimed_person(id, profile, default_nickname=local)
        why = _why_unclaimable(profile)
        if self._is_foreign(server):
            why = "of another server"
        if why:
            return replace(person, why=why)
        return replace(person, login=local, email=_email_in(profile))

    def _unclaimed_person(
        self, id: str, profile: Json, default_nickname: str
    ) -> records.Person:
        """Return a person with a nickname and a picture, whom nobody may
        claim."""
        appearance = self._people.get(id, Appearance())
        nickname = text_at(profile, "displayname") or appearance.nickname
        avatar = _media_of(text_at(profile, "avatar_url") or appearance.avatar)
        return records.Person(id, clean(nickname or default_nickname), avatar=avatar)

    def _group(self, room: Room) -> records.Group:
        """Return the record of a room."""
        name = ""
        if room.kind != "direct":
            name = clean(room.name)
        group = records.Group(
            id=room.id,
            kind=room.kind or "closed",
            name=name,
            description=clean(room.topic),
            members=list(_members_of(room)),
            pins=list(_pins(room)),
            # A room with this event was replaced by a newer one.
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
        """Yield the messages, changes and removals of a room.

        An event in several exports yields one record. At the end the method
        notes the events that were not imported.
        """
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
        self._note_lost(room, relations, ids, encrypted)

    def _note_lost(
        self, room: Room, relations: Relations, ids: set[str], encrypted: set[str]
    ) -> None:
        """Note the events of a room that could not be imported.

        ``ids``: the events that an export has as a text. ``encrypted``: the
        events that an export has encrypted.
        """
        unreadable = encrypted - ids
        if unreadable:
            self._notes.note_lost(
                "encrypted message", group=room.id, count=len(unreadable)
            )
        edited = [message for message, _ in relations.edits]
        reacted = [sent.message for sent in relations.reactions.values()]
        lost = sum(message not in ids for message in (*edited, *reacted))
        if lost:
            self._notes.note(
                "edit or reaction of a message that is not there",
                group=room.id,
                count=lost,
            )

    def _records(
        self, room: Room, relations: Relations, event: MatrixEvent
    ) -> Iterator[records.Message | records.Change | records.Removal]:
        """Yield the record of an event, if it has one.

        Edits, reactions and redactions only change other records.
        """
        relation, _ = event.relation
        if relation == "m.replace" or event.type in _ABOUT_OTHERS:
            return
        record: records.Message | records.Change | records.Removal | None = None
        if event.state_key is None:
            record = self._record_of_message(room, relations, event)
        # A conversation of two has no name, and nobody joins or leaves it.
        elif room.kind != "direct":
            record = self._change(room, event)
        if record is not None:
            yield record

    def _record_of_message(
        self, room: Room, relations: Relations, event: MatrixEvent
    ) -> records.Message | records.Removal | None:
        """Return the record of an event that is no part of the room's state.

        None if it is not imported, which is noted. A deleted message is a
        removal, because an earlier import may have stored it.
        """
        kind = text_at(event.content, "msgtype")
        if event.type in _VOTES:
            self._notes.note("vote of a poll", group=room.id)
            return None
        if event.type not in _MESSAGES or kind.startswith("m.key."):
            # "m.key.…" are steps in which two devices verify each other.
            short = f"event {kind or event.type}"[:NAME_CHARACTERS]
            self._notes.note(short, group=room.id)
            return None
        if self._is_redacted(room, relations, event.id, event.sender):
            return self._removal(room, relations, event)
        if MARK in event.content:
            # --follow has posted it there; it is in our log already.
            self._notes.note("message of ours", group=room.id)
            return None
        return self._message(room, relations, event)

    def _removal(
        self, room: Room, relations: Relations, event: MatrixEvent
    ) -> records.Removal:
        """Return the removal of a deleted message, and note it."""
        self._notes.note("deleted message", group=room.id)
        redaction = relations.redactions[event.id]
        return records.Removal(room.id, redaction.sender, redaction.time_ms, event.id)

    def _removals(
        self, room: Room, relations: Relations, ids: set[str]
    ) -> Iterator[records.Removal]:
        """Yield removals that no message of the room stands for.

        These are removals of reactions, and of redacted messages that no export
        has. ``ids``: the messages that an export has. Each reaction that
        somebody has redacted is deleted from ``relations``.
        """
        for id, redaction in relations.redactions.items():
            sent = relations.reactions.pop(id, None)
            if sent is None:
                if id in ids:
                    continue  # its removal was yielded in its place
                sender = ""
                message = id
                reaction = None
            else:
                sender = sent.reaction.person
                message, reaction = sent
            if self._is_redacted(room, relations, id, sender):
                yield records.Removal(
                    group=room.id,
                    person=sender or redaction.sender,
                    time_ms=redaction.time_ms,
                    message=message,
                    reaction=reaction,
                )

    def _relations(self, room: Room) -> Relations:
        """Collect the edits, reactions and redactions of a room.

        Each comes after the message that it changes, so all are collected
        first.
        """
        relations = Relations()
        for event in self._events(room):
            kind, about = event.relation
            if event.type == "m.reaction" and kind == "m.annotation" and about:
                self._add_reaction(relations, event, message=about)
            elif kind == "m.replace":
                self._add_edit(relations, event, message=about)
            elif event.type == "m.room.redaction":
                self._add_redaction(relations, event)
            elif event.type in (*_MESSAGES, "m.reaction") and not event.content:
                # The server has taken its content, because it was redacted.
                relations.redactions[event.id] = event
        return relations

    @staticmethod
    def _add_redaction(relations: Relations, event: MatrixEvent) -> None:
        """Add the redaction of an event, unless there is an earlier one."""
        # The field moved into the content in version 11 of rooms.
        redacted = event.redacts or text_at(event.content, "redacts")
        if redacted:
            relations.redactions.setdefault(redacted, event)

    @staticmethod
    def _add_edit(relations: Relations, event: MatrixEvent, message: str) -> None:
        """Add an edit of a message, unless the sender has a newer one."""
        content = event.content.get("m.new_content")
        if not isinstance(content, dict):
            return
        edit = Edit(event.time_ms, event.id, content)
        before = relations.edits.get((message, event.sender))
        if before is None or edit[:2] > before[:2]:
            relations.edits[message, event.sender] = edit

    @staticmethod
    def _add_reaction(relations: Relations, event: MatrixEvent, message: str) -> None:
        """Add a reaction to a message.

        An emoji that is a picture has the picture's address as its key. It
        becomes ``:name:`` here.
        """
        key, name = event.reaction
        if not key:
            return
        reaction = records.Reaction(event.sender, emoji=key)
        if _MEDIA.fullmatch(key):
            reaction = records.Reaction(
                event.sender, emoji=f":{name or 'picture'}:", name=key
            )
        relations.reactions[event.id] = SentReaction(message, reaction)
        relations.newest.setdefault(message, {})[event.sender, key] = event.id

    @staticmethod
    def _is_redacted(room: Room, relations: Relations, id: str, sender: str) -> bool:
        """Whether a message or reaction was redacted by somebody who may do so.

        A *redaction* is the deletion of an event. Its sender may redact it, and
        so may an admin of the room.
        """
        redaction = relations.redactions.get(id)
        if redaction is None:
            return False
        if redaction.element_folder is not None:
            # Element has only redactions that the server has accepted.
            return True
        return redaction.sender == sender or room.role(redaction.sender) != "member"

    def _change(self, room: Room, event: MatrixEvent) -> records.Change | None:
        """Return the change of a group that a state event tells.

        Somebody joins or leaves, or the room gets another name or topic.
        Returns None if groups here have no such change, or if the event changes
        nothing.
        """
        change = partial(records.Change, event.id, room.id, event.sender, event.time_ms)
        user = event.state_key
        if event.type == "m.room.member" and user in room.members:
            kind = _change_of_membership(event)
            if kind is None:
                return None
            return change(kind, [user])
        # The first name and topic belong to the group from its beginning.
        if user == "" and text_at(event.unsigned, "replaces_state"):
            what, text = _text_of_change(event)
            if what is not None:
                return change(what, text=text)
        return None

    def _message(
        self, room: Room, relations: Relations, event: MatrixEvent
    ) -> records.Message:
        """Return the record of a message, with its newest text and its
        reactions."""
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
        return records.Message(
            id=event.id,
            group=room.id,
            person=event.sender,
            time_ms=event.time_ms,
            text=text,
            thread=thread,
            reply=reply,
            is_edited=is_edited,
            files=files,
            reactions=self._reactions_to(event.id, room, relations),
        )

    def _reactions_to(
        self, message: str, room: Room, relations: Relations
    ) -> list[records.Reaction]:
        """Return the reactions to a message, without redacted ones."""
        newest = relations.newest.get(message, {})
        return [
            relations.reactions[id].reaction
            for (person, _), id in newest.items()
            if not self._is_redacted(room, relations, id, sender=person)
        ]

    def _edited(self, room: Room, relations: Relations, event: MatrixEvent) -> Json:
        """Return the content of a message after its newest edit.

        Returns the content of the event itself, the same object, if the message
        was not edited.
        """
        edit = relations.edits.get((event.id, event.sender))
        if edit is not None and not self._is_redacted(
            room, relations, edit.id, sender=event.sender
        ):
            return edit.content
        # Element writes no event of the edit. The server has put it into the
        # edited event.
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
        """Return the text and the files of a message.

        ``content`` is the event's own or that of its newest edit. ``is_reply``:
        the text begins with a quote of the answered message, which is left out.
        """
        if event.type in _POLLS:
            return _text_of_poll(content), []
        kind = text_at(content, "msgtype")
        if event.type == "m.sticker":
            kind = "m.sticker"
        if kind in _FOLDERS:
            return self._content_of_file(event, content, kind)

        text, spoilers = self._text(content, is_reply)
        if kind == "m.emote":
            text = marked(text, "_")
        elif kind == "m.location":
            text = f"{text} ({clean(text_at(content, 'geo_uri'))})".strip()
        return text, spoilers

    def _content_of_file(
        self, event: MatrixEvent, content: Json, kind: str
    ) -> tuple[str, list[records.File]]:
        """Return the caption of a message with a file, and its files.

        ``body`` is the name of the file, or its caption if there is also a
        ``filename``.
        """
        file = self._file(event, content, kind)
        name = text_at(content, "filename")
        if name in ("", text_at(content, "body")):  # there is no caption
            return "", [file]
        caption, spoilers = self._text(content, is_reply=False)
        return caption, [file, *spoilers]

    def _file(self, event: MatrixEvent, content: Json, kind: str) -> records.File:
        """Return the file of a message.

        Its id is a name in the archive, if Element has put the file into a
        folder beside its events. Otherwise the id is the address at Matrix,
        such as ``mxc://example.org/abc``. ``why`` is set if its bytes cannot be
        imported. ``kind``: the type of the message, such as ``m.image``.
        """
        body = text_at(content, "body")
        name = clean(text_at(content, "filename") or body) or "file"
        element_file = self._element_file(event, body, kind)
        if element_file is not None:
            return records.File(element_file, name)

        address = text_at(content, "url") or text_at(content, "file", "url")
        media = _MEDIA.fullmatch(address)
        why = ""
        if media is None:
            # A file needs an id, and the id of the message is as unique.
            return records.File(event.id, name, why="without an address")
        if "file" in content and "url" not in content:
            # In encrypted rooms "file" has the address and the key of the file.
            why = "encrypted"
        elif self._is_foreign(media[1]):
            why = "of another server"
        return records.File(address, name, why=why)

    def _element_file(self, event: MatrixEvent, body: str, kind: str) -> str | None:
        """Find the file of a message that Element has exported with the event.

        Element adds the date and the time to the name. The picture ``cat.jpg``
        of 10:15:42 is ``images/cat-1-20-2026 at 10-15-42 AM.jpg``, for example.
        The date is in some language, and the hour depends on the zone.
        Therefore a file is found by its minute, its second and the beginning of
        its name.
        """
        if event.element_folder is None:
            return None
        folder = "/".join(filter(None, (event.element_folder, _FOLDERS[kind])))
        minute_and_second = _minute_and_second(event.time_ms)
        beginning = f"{folder}/{body.rpartition('.')[0] or body}-"
        for file in self._element_files.get((folder, minute_and_second), ()):
            if file.startswith(beginning):
                return file
        return None

    def _text(self, content: Json, is_reply: bool) -> tuple[str, list[records.File]]:
        """Return the text of a message, and a file with its spoilers if it has
        any.

        Matrix writes a text as ``body``, and one with formats as HTML, too. The
        HTML is taken if there is any. ``is_reply``: the text begins with a
        quote of the answered message, which is left out.
        """
        html = text_at(content, "formatted_body")
        is_html = text_at(content, "format") == "org.matrix.custom.html"
        if is_html and 0 < len(html) <= MOST_HTML_CHARACTERS:
            return self._text_of_html(html, content)
        return self._text_of_body(content, is_reply), []

    def _text_of_html(self, html: str, content: Json) -> tuple[str, list[records.File]]:
        """Return the text of a message with formats, and its file of spoilers.

        A spoiler ``<span data-mx-spoiler="film">He dies</span>`` leaves ``▒▒▒
        (film)`` in the text. ``mx-reply`` is the quote of an answered message.
        """
        spoilers: list[str] = []

        def cover(spoiler: str, reason: str) -> str:
            spoilers.append(without_marks(spoiler, self._name_of))
            if reason:
                return f"{COVER} ({reason})"
            return COVER

        mark_everybody = partial(_mark_everybody, content)
        text = html_text(clean(html), self._anchor, mark_everybody, "mx-reply", cover)
        if spoilers:
            return text, [spoilers_file(spoilers)]
        return text, []

    def _text_of_body(self, content: Json, is_reply: bool) -> str:
        """Return the text of a message without formats.

        Names of users such as ``@ann:example.org`` become mentions, and links
        to people and messages become marks.
        """
        body = clean(text_at(content, "body"))
        if is_reply:
            # The lines of the quote of the answered message, for old clients.
            body = re.sub(r"\A(?=> )(?:>.*(?:\n|\Z))+\n*", "", body)
        mentionable = self._mentionable_in(content)

        def mark_person(match: re.Match[str]) -> str:
            user = match[0]
            if user in mentionable and user in self._people:
                return records.mention(user)
            return user

        def mark_link(match: re.Match[str]) -> str:
            return self._anchor(match[0], "") or match[0]

        body = _MXID.sub(mark_person, _mark_everybody(content, body))
        return _PERMALINK.sub(mark_link, body)

    def _mentionable_in(self, content: Json) -> Collection[str]:
        """Return the users whose names become mentions in a text.

        A newer client lists whom the text mentions. Other names are plain text
        then.
        """
        ids = at(content, "m.mentions", "user_ids")
        if isinstance(ids, list):
            return ids
        return self._people

    def _name_of(self, person: str) -> str:
        """The name by which a text refers to somebody whom it cannot
        mention."""
        if person == records.EVERYBODY:
            return "@all"
        return f"@{self._person(person).nickname}"

    def _anchor(self, address: str, label: str) -> str | None:
        """Return the replacement of a link at ``matrix.to``.

        ``https://matrix.to/#/@ann:example.org`` becomes a mention of Ann, and
        ``…/#/!room:example.org/$event`` a link to the message. Other places at
        Matrix become their label. ``label``: the text of the link, or ``""``.
        Returns None for a usual link, which stays.
        """
        match = _PERMALINK.fullmatch(address)
        if match is None:
            return None
        path, _, _ = match[1].partition("?")
        target, _, event = map(unquote, path.partition("/"))
        if target.startswith("@"):
            if target in self._people or target in self._profiles:
                return records.mention(target)
            return label or target
        if not _is_event(event):
            return label or None
        return _with_label(label, records.link(event, address))

    def records(self) -> Iterator[records.Record]:
        """Yield all records: people, emoji, groups, and then the messages of
        each room."""
        if not self._has_surveyed:
            self._survey()
        yield from map(self._person, sorted(self._people.keys() | self._profiles))
        yield from map(records.Emoji, self._emoji, self._emoji.values())
        rooms = [room for room in self._rooms.values() if room.kind is not None]
        yield from map(self._group, rooms)
        for room in rooms:
            yield from self._messages(room)
        self._notes = Problems()  # a second call notes nothing again


def _appearance_in(event: MatrixEvent) -> Appearance:
    """Return how a member event shows its person."""
    return Appearance(
        event.time_ms,
        nickname=text_at(event.content, "displayname"),
        avatar=text_at(event.content, "avatar_url"),
    )


def _note_readers(room: Room, event: MatrixEvent) -> None:
    """Note who has read a room up to this event."""
    for reader in room.markers.get(event.id, ()):
        room.read[reader] = max(event.time_ms, room.read.get(reader, 0))


def _kind_of(room: Room) -> records.GroupKind:
    """Return the kind of group that a room becomes.

    A room of two people is a direct conversation only if somebody has marked
    it so.
    """
    if room.is_direct and len(room.members.keys() | room.writers) <= _PAIR:
        return "direct"
    if not room.name:
        return "several"
    if text_at(room.content("join_rules"), "join_rule") == "public":
        return "open"
    return "closed"


def _people_in(room: Room) -> list[str]:
    """Return the members that a room has here.

    Both people of a direct conversation are members, even if one has left.
    The writers are members of a room that nobody is known to have joined.
    """
    if room.kind == "direct":
        return list(dict.fromkeys((*room.members, *room.writers)))
    joined = [
        user for user, membership in room.members.items() if membership.state == "join"
    ]
    return joined or list(room.writers)


def _members_of(room: Room) -> Iterator[records.Member]:
    """Yield the members of a room, with their roles and what they have read."""
    for user in _people_in(room):
        yield records.Member(user, room.role(user), room.read.get(user, -1))


def _why_unclaimable(profile: Json) -> str:
    """Return why nobody may claim the account of a person; ``""`` if they
    may."""
    if profile.get("deactivated"):
        return "deactivated"
    if text_at(profile, "appservice_id") or text_at(profile, "user_type") == "bot":
        return "bot"
    return ""


def _email_in(profile: Json) -> str:
    """Return the first mail address of a profile, or ``""``.

    Synapse writes it as ``{"threepids": [{"medium": "email", "address":
    "ann@example.org"}]}``.
    """
    for contact in list_at(profile, "threepids"):
        if text_at(contact, "medium") == "email":
            return text_at(contact, "address")
    return ""


def _with_label(label: str, mark: str) -> str:
    """Return the mark of a link to a message, with its label.

    A label that is an address itself says nothing to people, and is left out.
    """
    if label and "://" not in label:
        return f"{label} ({mark})"
    return mark


def _is_event(id: str) -> bool:
    """Whether a text in a link is the id of an event.

    A mark has a bar after the id, so the id must not contain a bar.
    """
    is_id = id.startswith("$") and len(id) < _ID_CHARACTERS
    return is_id and clean(id) == id and "|" not in id


def _mark_everybody(content: Json, text: str) -> str:
    """Replace ``@room`` in a text by the mention of everybody.

    A newer client says in ``m.mentions`` whether ``@room`` is meant so.
    """
    mentions = content.get("m.mentions")
    if isinstance(mentions, dict) and mentions.get("room") is not True:
        return text
    return _EVERYBODY.sub(records.mention(records.EVERYBODY), text)


def _change_of_membership(event: MatrixEvent) -> Literal["join", "leave"] | None:
    """Return whether a member event lets its person join or leave, or neither.

    Somebody who joins again has only changed their nickname or picture.
    """
    # Servers tell the old membership, or only the id of the old event.
    before = text_at(event.unsigned, "prev_content", "membership")
    before = before or text_at(event.unsigned, "replaces_state")
    membership = text_at(event.content, "membership")
    if membership == "join" and before in _OUTSIDE:
        return "join"
    if membership in ("leave", "ban") and before == "join":
        return "leave"
    return None


def _minute_and_second(time_ms: int) -> str:
    """Return the minute and the second of a time, such as ``15:42``."""
    seconds = time_ms // SECOND_MS % _HOUR_SECONDS
    return "{:02}:{:02}".format(*divmod(seconds, _MINUTE_SECONDS))


def _text_of_change(
    event: MatrixEvent,
) -> tuple[Literal["name", "description"] | None, str]:
    """Return which text of its room an event changes, and the new text.

    None if it changes neither the name nor the topic, or removes the name.
    """
    name = clean(text_at(event.content, "name"))
    if event.type == "m.room.name" and name:
        return "name", name
    if event.type == "m.room.topic":
        return "description", clean(text_at(event.content, "topic"))
    return None, ""


def _media_of(address: str) -> str:
    """Return an address at Matrix, or ``""`` if the address leads elsewhere."""
    if _MEDIA.fullmatch(address):
        return address
    return ""


def _pins(room: Room) -> Iterator[records.Pin]:
    """Yield the pinned messages of a room.

    The state of a room lists the ids of the messages. Nobody knows who has
    pinned each of them and when, so the newest change of the list counts for
    all.
    """
    event = room.state.get("m.room.pinned_events")
    if event is None:
        return
    for id in list_at(event.content, "pinned"):
        if isinstance(id, str):
            yield records.Pin(id, event.sender, event.time_ms)


def _text_of_poll(content: Json) -> str:
    """Return the question of a poll and its answers as a list.

    ``{"m.poll": {"question": {"m.text": [{"body": "Lunch?"}]}, "answers": …}}``
    becomes ``Lunch?``, and a line such as ``- Pizza`` for each answer.
    """
    poll = at(content, "m.poll") or at(content, _POLLS[1])
    answers = list_at(poll, "answers")[:_MOST_ANSWERS]
    lines = [_extensible(at(poll, "question"))]
    lines += [f"- {_extensible(answer)}" for answer in answers]
    return clean("\n".join(lines))


def _extensible(value: object) -> str:
    """Return the plain text of a question or an answer, or ``""``.

    Newer events have texts in several formats, as ``{"m.text": [{"mimetype":
    "text/plain", "body": "Lunch?"}]}``. Older ones have one text.
    """
    for part in list_at(value, "m.text"):
        if text_at(part, "mimetype") in ("", "text/plain"):
            return text_at(part, "body")
    return text_at(value, "org.matrix.msc1767.text") or text_at(value, "body")
