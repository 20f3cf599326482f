"""Reads an export of Slack, a zip file or a folder, and merges the messages of all conversations by time.

``users.json``, ``channels.json`` (public), ``groups.json`` (private), ``mpims.json`` (direct messages of
several people) and ``dms.json`` (of two) name people and conversations. Each conversation has a folder with
a file for each day. Nothing is extracted. What is broken is noted, and the rest is read. Memory has one day
of each conversation that was active then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from heapq import heapify, heappop, heapreplace
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from msgspec import Raw, Struct

from .problems import BadArchive, Problems
from .source import read_whole, source_of

LISTS: Final = {"channels": "channel", "groups": "private", "mpims": "group", "dms": "direct"}
"""File of conversations → their kind."""
_DAY: Final = re.compile(r"(\d{4}-\d\d-\d\d)\.json", re.ASCII)
_TS: Final = re.compile(r"(\d{1,11})\.(\d{1,9})", re.ASCII)
_ID: Final = re.compile(r"[A-Z0-9]{2,32}", re.ASCII)


# --- what Slack writes ------------------------------------------------------------------------------------


class Profile(Struct):
    """The profile of a user, or of the sender of one message."""

    real_name: str | None = None
    display_name: str | None = None
    email: str | None = None
    name: str | None = None


class User(Struct):
    """A row of ``users.json``."""

    id: str
    name: str | None = None
    real_name: str | None = None
    deleted: bool | None = False
    is_bot: bool | None = False
    profile: Profile | None = None


class Text(Struct):
    """The topic or the purpose of a channel."""

    value: str | None = None


class Pin(Struct):
    """A pinned message: its ``ts``, and who has pinned it when."""

    id: str = ""
    type: str | None = None
    user: str | None = None
    created: int | float | None = None


class Conversation(Struct):
    """A row of one of :data:`LISTS`."""

    id: str
    name: str | None = None
    created: int | float | None = None
    creator: str | None = None
    is_archived: bool | None = False
    members: list[str] | None = None
    topic: Text | None = None
    purpose: Text | None = None
    pins: list[Pin] | None = None
    kind: str = ""
    folder: str = ""

    @property
    def users(self) -> list[str]:
        """Its members, each once."""
        return list(dict.fromkeys(self.members or ()))


class Reaction(Struct):
    """An emoji, by its name in Slack, and who has reacted with it."""

    name: str
    users: list[str] | None = None


class File(Struct):
    """A file of a message. The export has its name; its bytes are at Slack."""

    id: str = ""
    name: str | None = None
    title: str | None = None
    mode: str | None = None
    size: int | float | None = None
    url_private: str | None = None
    is_external: bool | None = False


class Comment(Struct):
    """A comment on a file, in exports of old workspaces."""

    user: str | None = None
    comment: str | None = None


class Attachment(Struct):
    """What an app adds to a message."""

    fallback: str | None = None
    pretext: str | None = None
    title: str | None = None
    title_link: str | None = None
    text: str | None = None
    fields: list[dict[str, Any]] | None = None


class Message(Struct):
    """A message or an event of a conversation."""

    ts: str
    type: str | None = None
    subtype: str | None = None
    user: str | None = None
    bot_id: str | None = None
    username: str | None = None
    text: str | None = None
    thread_ts: str | None = None
    reactions: list[Reaction] | None = None
    files: list[File | None] | None = None
    file: File | None = None
    comment: Comment | None = None
    edited: dict[str, Any] | None = None
    attachments: list[Attachment] | None = None
    blocks: Any = None
    user_profile: Profile | None = None
    bot_profile: Profile | None = None
    name: str | None = None
    topic: str | None = None
    purpose: str | None = None
    inviter: str | None = None
    time_us: int = 0
    """Set by the reader: Unix microseconds."""

    @property
    def sender(self) -> str:
        """The id of who has sent it; of an app without a user, that of the bot or its name. ``""``: none."""
        comment = self.comment.user if self.comment is not None else None
        id = self.user or comment or self.bot_id or (f"name:{self.username}" if self.username else "")
        return id if is_id(id) else ""

    @property
    def time_ms(self) -> int:
        return self.time_us // 1000


_read_message: Final = msgspec.json.Decoder(Message).decode
_read_array: Final = msgspec.json.Decoder(list[Raw]).decode


def seconds_of(moment: float | None) -> float:
    """A time of Slack's that can be a time; 0: there is none."""
    return moment if moment and 0 < moment < 1e11 else 0


def is_id(id: str) -> bool:
    """Whether a text can name somebody. Ids of users are words; an app without one has its name."""
    return 0 < len(id) <= 60 and id.isprintable()


def microseconds_of(ts: str | None) -> int:
    """The time that Slack's ``ts`` names, in Unix microseconds; 0: it names none."""
    match = _TS.fullmatch(ts or "")
    return int(match[1]) * 1_000_000 + int(match[2].ljust(6, "0")[:6]) if match else 0


# --- the export -------------------------------------------------------------------------------------------


class Export:
    """An export: its users and conversations, and their messages in the order of the times."""

    def __init__(self, path: Path) -> None:
        self.problems = Problems()
        self._source = source_of(path)
        tops = [name for name in self._source.names if name.rpartition("/")[2] == "users.json"]
        if not tops:
            raise BadArchive(f"{path} is no export of Slack: it has no users.json")
        self._top = min(tops, key=len).removesuffix("users.json")
        self._files: dict[str, list[str]] = {}
        """Folder of a conversation → the names of its files."""
        listed = {*LISTS, "users"}
        for name in self._source.names:
            folder, slash, file = name.removeprefix(self._top).partition("/")
            if not name.startswith(self._top):
                self.problems.note("file outside of the export")
            elif slash:
                self._files.setdefault(folder, []).append(file)
            elif folder.removesuffix(".json") not in listed:
                self.problems.note(f"file {folder[:60]}")
        self.users = [user for user in self._rows("users.json", User) if _ID.fullmatch(user.id)]
        self.conversations: list[Conversation] = []
        seen: set[str] = set()
        for file, kind in LISTS.items():
            for row in self._rows(f"{file}.json", Conversation, optional=True):
                row.kind = kind
                if not _ID.fullmatch(row.id) or row.id in seen:
                    self.problems.note_broken(f"{file}.json", "a conversation without an id of its own")
                    continue
                seen.add(row.id)
                row.folder = row.name if row.name and row.name in self._files else row.id
                self.conversations.append(row)
        for folder in self._files.keys() - {each.folder for each in self.conversations} - {UPLOADS}:
            self.problems.note(f"folder {folder[:60]}")

    def uploads(self) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
        """The files that a tool has added to the export: (id of the file at Slack, what opens it)."""
        for name in self._files.get(UPLOADS, ()):
            yield name.partition("/")[0], partial(self._source.open, f"{self._top}{UPLOADS}/{name}")

    # --- messages -----------------------------------------------------------------------------------------

    def messages(self, conversation: Conversation) -> Iterator[Message]:
        """The messages of one conversation."""
        for name in self._days(conversation):
            yield from self._day(conversation, name)

    def merged(self) -> Iterator[tuple[Conversation, Message | None]]:
        """The messages of all conversations in the order of the times. None: the conversation begins."""
        heap: list[tuple[int, int, _Reader]] = []
        for number, each in enumerate(self.conversations):
            reader = _Reader(self, each)
            heap.append((reader.next_us(), number, reader))
        heapify(heap)
        while heap:
            _, number, reader = heap[0]
            yield from reader.step()
            following = reader.next_us()
            if following < 0:
                heappop(heap)
            else:
                heapreplace(heap, (following, number, reader))

    def _days(self, conversation: Conversation) -> list[str]:
        days = []
        for name in self._files.get(conversation.folder, ()):
            if _DAY.fullmatch(name):
                days.append(name)
            else:
                self.problems.note("file in the folder of a conversation")
        return sorted(days)

    def _day(self, conversation: Conversation, name: str) -> list[Message]:
        where = f"{conversation.folder}/{name}"
        messages = []
        for number, raw in enumerate(self._array(where), 1):
            try:
                message = _read_message(raw)
            except (ValueError, RecursionError) as error:
                self.problems.note_broken(f"{where}, message {number}", error)
                continue
            message.time_us = microseconds_of(message.ts)
            if not message.time_us:
                self.problems.note_broken(f"{where}, message {number}", "it has no time (ts)")
                continue
            messages.append(message)
        messages.sort(key=lambda message: message.time_us)
        return messages

    def _rows(self, name: str, kind: type[Any], optional: bool = False) -> Iterator[Any]:
        if optional and self._top + name not in self._source.names:
            return
        for number, raw in enumerate(self._array(name), 1):
            try:
                yield msgspec.json.decode(raw, type=kind)
            except (ValueError, RecursionError) as error:
                self.problems.note_broken(f"{name}, row {number}", error)

    def _array(self, name: str) -> list[Raw]:
        try:
            with self._source.open(self._top + name) as file:
                return _read_array(read_whole(file))
        except Exception as error:  # also of a decompressor
            self.problems.note_broken(name, error)
        return []


UPLOADS: Final = "__uploads"
"""The folder in which some tools add the files to an export: ``__uploads/F…/name``."""


class _Reader:
    """Reads the days of one conversation. It has one of them in memory, in reverse order."""

    def __init__(self, export: Export, conversation: Conversation) -> None:
        self._export = export
        self._conversation = conversation
        self._days = export._days(conversation)[::-1]
        self._day: list[Message] = []
        self._has_begun = False

    def next_us(self) -> int:
        """The time of the next step, or one before it; -1: there is none."""
        if not self._has_begun:
            created = int(seconds_of(self._conversation.created) * 1_000_000)
            first = _begin_of(self._days[-1]) if self._days else created
            return min(created, first) if created > 0 else first
        if self._day:
            return self._day[-1].time_us
        return _begin_of(self._days[-1]) if self._days else -1

    def step(self) -> Iterator[tuple[Conversation, Message | None]]:
        """The next message, if its time is known; else read the next day."""
        if not self._has_begun:
            self._has_begun = True
            yield self._conversation, None
        elif self._day:
            yield self._conversation, self._day.pop()
        else:
            self._day = self._export._day(self._conversation, self._days.pop())[::-1]


def _begin_of(day: str) -> int:
    """A time before all messages of a day in any time zone."""
    try:
        begin = datetime.strptime(day.removesuffix(".json"), "%Y-%m-%d").replace(tzinfo=UTC)
        return max(0, int((begin - timedelta(days=1)).timestamp())) * 1_000_000
    except (ValueError, OverflowError):
        return 0
