"""Writes an export of a Zulip organization as a zip file, which
:mod:`imserver_arrivals.zulip` can read.

A thread is a topic. The name of the topic is the bold first line of the first
message, or else the beginning of its text.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, count, islice
from typing import Any, Final
from urllib.parse import quote
from zipfile import ZipFile

import msgspec
from msgspec.json import encode
from msgspec.structs import replace

from .markdown import to_markdown
from .records import (
    EVERYBODY,
    MARK,
    Archive,
    Change,
    Emoji,
    Group,
    Message,
    Person,
    Reaction,
)
from .spool import Spool
from .text import SECOND_MS, around_code, emoji_name, is_own_emoji
from .writing import (
    Line,
    file_name,
    put_files,
    spooled,
    threads,
    with_name,
    without_marks,
    write_array,
)

_REALM: Final = 1
_CHANNEL: Final = 2
_SEVERAL: Final = 3
"""Types of recipients: a channel, and several people."""
_MESSAGES_OF_FILE: Final = 1000
_FIRST_OTHER_ID: Final = 1 << 40
"""First number for ids of people and groups whose id here is not a number. It
is above all others."""
_TOPIC_CHARACTERS: Final = 50
_HALF_MS: Final = 0.5
_TOPIC: Final = re.compile(r"\*([^*\n]{1,60})\*(?:\n|\Z)")
_SLANTED: Final = re.compile(r"(?<![\w_])_(?![_\s])([^_\n]+?)(?<![\s_])_(?![\w_])")


class ZulipWriter:
    """Writes one export. All ids in the archive are numbers. The ids of
    messages grow from message to message."""

    def __init__(self, archive: Archive, team: str) -> None:
        self._archive = archive
        self._team = team
        self._people: dict[str, dict[str, Any]] = {}
        self._groups: dict[str, Group] = {}
        self._emoji: dict[str, int] = {}
        """Name of an own emoji of the app → its id."""
        self._topics: set[tuple[str, str]] = set()
        """(group, topic in lower case) of the topics that exist already."""
        self._avatars: list[dict[str, Any]] = []
        self._files: dict[str, str] = {}
        """Name of a file → its id."""

    def write(self, target: ZipFile, done: Callable[[int], object]) -> None:
        """Write everything. ``done`` is called with the number of threads so
        far. Raises OSError, and StorageUnavailable."""
        with spooled(
            threads(self._archive, self._add_record, done), self._thread
        ) as spool:
            messages = (line.content for line in spool.read() if not line.group)
            for number in count(1):
                part = list(islice(messages, _MESSAGES_OF_FILE))
                if not part:
                    break
                rows = [msgspec.json.decode(content) for content in part]
                flags = list(chain.from_iterable(map(self._read_flags, rows)))
                content = {"zerver_message": rows, "zerver_usermessage": flags}
                target.writestr(f"messages-{number:06}.json", encode(content))
            self._write_tables(target, spool)
        put_files(target, self._archive, self._files)

    def _write_tables(self, target: ZipFile, spool: Spool) -> None:
        """Write ``realm.json`` and ``attachment.json``. Their largest tables
        are read from the disk."""
        channels = filter(_is_channel, self._groups.values())
        subscriptions = map(self._subscriptions, self._groups.values())
        realm: dict[str, Any] = {
            "zerver_realm": [
                {"id": _REALM, "string_id": self._team, "name": self._team}
            ],
            "zerver_userprofile": list(self._people.values()),
            "zerver_stream": list(map(self._channel, channels)),
            "zerver_recipient": list(map(_recipient, self._groups.values())),
            "zerver_subscription": list(chain.from_iterable(subscriptions)),
            "zerver_realmemoji": [
                {
                    "id": id,
                    "name": name,
                    "realm": _REALM,
                    "file_name": f"{id}.png",
                    "deactivated": False,
                }
                for name, id in self._emoji.items()
            ],
        }
        for name, head, table in (
            ("realm", encode(realm)[:-1] + b",", "zerver_reaction"),
            ("attachment", b"{", "zerver_attachment"),
        ):
            rows = (line.content for line in spool.read() if line.group == table)
            with target.open(f"{name}.json", "w", force_zip64=True) as file:
                file.write(head + b'"%b":' % table.encode())
                write_array(file, rows)
                file.write(b"}")
        target.writestr("avatars/records.json", encode(self._avatars))

    def _subscriptions(self, group: Group) -> list[dict[str, Any]]:
        return [
            {
                "user_profile": self._person_id(member.person),
                "recipient": int(group.id),
                "active": True,
            }
            for member in group.members
        ]

    def _add_record(self, record: Person | Group | Emoji) -> None:
        if isinstance(record, Group):
            self._groups[record.id] = record
        elif isinstance(record, Emoji):
            id = len(self._emoji) + 1
            self._emoji[record.name] = id
            self._files[f"emoji/{_REALM}/emoji/images/{id}.png"] = record.file
        else:
            self._add_person(record)

    def _add_person(self, person: Person) -> None:
        """Add a row of a person. A person without an address is not active,
        unless it is a bot."""
        if person.id.isdecimal():
            id = int(person.id)
        else:
            id = len(self._people) + _FIRST_OTHER_ID
        email = person.email or f"user{id}@example.invalid"
        is_bot = person.why == "bot"
        self._people[person.id] = {
            "id": id,
            "realm": _REALM,
            "full_name": person.nickname,
            "email": email,
            "delivery_email": email,
            "is_active": bool(person.email) or is_bot,
            "is_bot": is_bot,
        }
        if person.avatar:
            path = f"{_REALM}/{id}.png"
            row = {"path": path, "user_profile_id": id, "realm_id": _REALM}
            self._avatars.append(row)
            self._files[f"avatars/{path}"] = person.avatar

    def _person_id(self, person: str) -> int:
        return int(self._people[person]["id"])

    def _channel(self, group: Group) -> dict[str, Any]:
        """The row of a channel. Nobody is its creator if this is unknown."""
        creator = None
        if group.creator:
            creator = self._person_id(group.creator)
        return {
            "id": int(group.id),
            "realm": _REALM,
            "name": group.name,
            "recipient": int(group.id),
            "description": self._text(group.description),
            "date_created": _seconds(group.created_ms),
            "invite_only": group.kind != "open",
            "deactivated": group.is_archived,
            "creator": creator,
        }

    # --- messages -------------------------------------------------------------

    def _thread(self, records: Iterable[Message | Change]) -> Iterator[Line]:
        """The lines of a thread: its messages, with their reactions and files.
        Changes of groups are left out."""
        messages = (record for record in records if isinstance(record, Message))
        first = next(messages, None)
        if first is None:
            return
        # The topic depends on whether there are replies.
        second = next(messages, None)
        topic = ""
        if _is_channel(self._groups[first.group]):
            topic, text = self._topic_of(first, has_replies=second is not None)
            first = replace(first, text=text)
        yield from self._message(first, topic)
        if second is not None:
            yield from self._message(second, topic)
        for message in messages:
            yield from self._message(message, topic)

    def _topic_of(self, first: Message, has_replies: bool) -> tuple[str, str]:
        """The topic of a thread, and the text of its first message without the
        line that became the topic. The topic is ``""`` for a message without
        replies, unless it has such a line."""
        text = first.text
        match = _TOPIC.match(text)
        topic = ""
        if match is not None:
            topic = match[1].strip()
        if match is not None and topic and self._is_free(first.group, topic):
            text = text[len(match[0]) :]
        elif has_replies:
            words = MARK.sub("", text).split()
            base = " ".join(words)[:_TOPIC_CHARACTERS].strip() or "thread"
            topic = base
            number = 2
            while not self._is_free(first.group, topic):
                topic = f"{base} ({number})"
                number += 1
        else:
            return "", text
        self._topics.add((first.group, topic.lower()))
        return topic, text

    def _is_free(self, group: str, topic: str) -> bool:
        return (group, topic.lower()) not in self._topics

    def _message(self, message: Message, topic: str) -> Iterator[Line]:
        """The lines of a message: rows of its files and reactions for their
        tables, and its own row (table ``""``)."""
        id = int(message.id)
        text = self._text(message.text)
        for file in message.files:
            if file.address or file.why or not file.id:
                text = with_name(text, file)
                continue
            path = f"{_REALM}/{file.id}/{file_name(file.name)}"
            self._files[f"uploads/{path}"] = file.id
            label = re.sub(r"[^\w .-]", "", file.name) or "file"
            text += f"\n[{label}](/user_uploads/{quote(path)})"
            row = {
                "path_id": path,
                "file_name": file.name,
                "realm": _REALM,
                "messages": [id],
            }
            yield Line("zerver_attachment", id, encode(row))
        for reaction in message.reactions:
            row = {
                "user_profile": self._person_id(reaction.person),
                "message": id,
                **self._emoji_of(reaction),
            }
            yield Line("zerver_reaction", id, encode(row))
        sent = _seconds(message.time_ms)
        edited = None
        if message.is_edited:
            edited = sent
        row = {
            "id": id,
            "sender": self._person_id(message.person),
            "recipient": int(message.group),
            "realm": _REALM,
            "subject": topic,
            "content": text.strip(),
            "date_sent": sent,
            "last_edit_time": edited,
        }
        yield Line("", id, encode(row))

    def _read_flags(self, row: Mapping[str, Any]) -> Iterator[dict[str, int]]:
        """The rows which tell who has read a message. A member whose read time
        is unknown counts as having read it."""
        sent_ms = row["date_sent"] * SECOND_MS
        for member in self._groups[str(row["recipient"])].members:
            is_read = member.read_ms < 0 or sent_ms < member.read_ms + 1
            yield {
                "user_profile": self._person_id(member.person),
                "message": row["id"],
                "flags_mask": int(is_read),
            }

    def _emoji_of(self, reaction: Reaction) -> dict[str, str]:
        """The fields of a reaction that name its emoji: a character, an own
        emoji of the app, or another name."""
        emoji = reaction.emoji
        if not is_own_emoji(emoji):
            code = "-".join(f"{ord(sign):x}" for sign in emoji if sign != "\ufe0f")
            name = emoji_name(emoji)[0] or code
            return {
                "reaction_type": "unicode_emoji",
                "emoji_code": code,
                "emoji_name": name,
            }
        name = emoji[1:-1]
        if name in self._emoji:
            return {
                "reaction_type": "realm_emoji",
                "emoji_code": str(self._emoji[name]),
                "emoji_name": name,
            }
        return {
            "reaction_type": "zulip_extra_emoji",
            "emoji_code": name,
            "emoji_name": name,
        }

    def _text(self, text: str) -> str:
        text = around_code(to_markdown(text), partial(_SLANTED.sub, r"*\1*"))
        return without_marks(text, self._mention)

    def _mention(self, id: str) -> str:
        if id == EVERYBODY:
            return "@**all**"
        row = self._people.get(id)
        if row:
            return f"@**{row['full_name']}|{row['id']}**"
        return f"@{id}"


def _is_channel(group: Group) -> bool:
    return group.kind in ("open", "closed")


def _recipient(group: Group) -> dict[str, int]:
    kind = _SEVERAL
    if _is_channel(group):
        kind = _CHANNEL
    return {"id": int(group.id), "type": kind, "type_id": int(group.id)}


def _seconds(time_ms: int) -> float:
    """The time in seconds, half a millisecond later, so that rounding gives the
    same milliseconds."""
    return (time_ms + _HALF_MS) / SECOND_MS
