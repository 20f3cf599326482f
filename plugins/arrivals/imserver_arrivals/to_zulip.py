"""Writes an export of a Zulip organization, as :mod:`imserver_arrivals.zulip`
reads it: in a zip file.

A thread is a topic. Its name is the bold first line of its first message, or
else the beginning of its text.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
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
from .text import around_code, emoji_name
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
_TOPIC: Final = re.compile(r"\*([^*\n]{1,60})\*(?:\n|\Z)")
_SLANTED: Final = re.compile(r"(?<![\w_])_(?![_\s])([^_\n]+?)(?<![\s_])_(?![\w_])")


class ZulipWriter:
    """Writes one export. The ids in the archive are numbers; those of messages
    grow with them."""

    def __init__(self, archive: Archive, team: str) -> None:
        self._archive = archive
        self._team = team
        self._people: dict[str, dict[str, Any]] = {}
        self._groups: dict[str, Group] = {}
        self._emoji: dict[str, int] = {}
        """Name of an own emoji → its id."""
        self._topics: set[tuple[str, str]] = set()
        """Group and topic, in small letters."""
        self._avatars: list[dict[str, Any]] = []
        self._files: dict[str, str] = {}
        """Name of a file → its id."""

    def write(self, target: ZipFile, done: Callable[[int], object]) -> None:
        """Write everything. ``done`` is called with the number of threads so
        far. Raises OSError, and StorageUnavailable."""
        with spooled(threads(self._archive, self._meet, done), self._thread) as spool:
            messages = (line.content for line in spool.read() if not line.group)
            number = 0
            while part := list(islice(messages, 1000)):
                number += 1
                rows = [msgspec.json.decode(content) for content in part]
                flags = [flag for row in rows for flag in self._flags(row)]
                content = {"zerver_message": rows, "zerver_usermessage": flags}
                target.writestr(f"messages-{number:06}.json", encode(content))
            self._write_tables(target, spool)
        put_files(target, self._archive, self._files)

    def _write_tables(self, target: ZipFile, spool: Spool) -> None:
        """``realm.json`` and ``attachment.json``, whose largest tables come
        from the disk."""
        realm: dict[str, Any] = {
            "zerver_realm": [
                {"id": _REALM, "string_id": self._team, "name": self._team}
            ],
            "zerver_userprofile": list(self._people.values()),
            "zerver_stream": [
                self._channel(each)
                for each in self._groups.values()
                if _is_channel(each)
            ],
            "zerver_recipient": [
                {
                    "id": int(id),
                    "type": 2 if _is_channel(each) else 3,
                    "type_id": int(id),
                }
                for id, each in self._groups.items()
            ],
            "zerver_subscription": [
                {
                    "user_profile": self._id(each.person),
                    "recipient": int(id),
                    "active": True,
                }
                for id, group in self._groups.items()
                for each in group.members
            ],
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

    def _meet(self, record: Person | Group | Emoji) -> None:
        if isinstance(record, Group):
            self._groups[record.id] = record
        elif isinstance(record, Emoji):
            id = len(self._emoji) + 1
            self._emoji[record.name] = id
            self._files[f"emoji/{_REALM}/emoji/images/{id}.png"] = record.file
        else:
            if record.id.isdecimal():
                id = int(record.id)
            else:
                id = len(self._people) + (1 << 40)
            email = record.email or f"user{id}@example.invalid"
            row = {
                "id": id,
                "realm": _REALM,
                "full_name": record.nickname,
                "email": email,
            }
            is_bot = record.why == "bot"
            row |= {
                "delivery_email": email,
                "is_active": bool(record.email) or is_bot,
                "is_bot": is_bot,
            }
            self._people[record.id] = row
            if record.avatar:
                path = f"{_REALM}/{id}.png"
                self._avatars.append(
                    {"path": path, "user_profile_id": id, "realm_id": _REALM}
                )
                self._files[f"avatars/{path}"] = record.avatar

    def _id(self, person: str) -> int:
        return int(self._people[person]["id"])

    def _channel(self, group: Group) -> dict[str, Any]:
        row = {
            "id": int(group.id),
            "realm": _REALM,
            "name": group.name,
            "recipient": int(group.id),
        }
        row |= {
            "description": self._text(group.description),
            "date_created": _seconds(group.created_ms),
        }
        row |= {"invite_only": group.kind != "open", "deactivated": group.is_archived}
        return row | {"creator": self._id(group.creator) if group.creator else None}

    # --- messages -------------------------------------------------------------

    def _thread(self, records: Iterable[Message | Change]) -> Iterator[Line]:
        """The lines of a thread: its messages, with their reactions and
        files."""
        some = (each for each in records if isinstance(each, Message))
        first = next(some, None)
        second = next(some, None)
        if first is None:
            return
        topic = ""
        text = first.text
        if _is_channel(self._groups[first.group]):
            match = _TOPIC.match(text)
            topic = match[1].strip() if match else ""
            if topic and (first.group, topic.lower()) not in self._topics:
                text = text[len(match[0]) if match else 0 :]
            elif second is None:
                topic = ""
            else:
                topic = " ".join(MARK.sub("", text).split())[:50].strip() or "thread"
                base = topic
                number = 2
                while (first.group, topic.lower()) in self._topics:
                    topic = f"{base} ({number})"
                    number = number + 1
            if topic:
                self._topics.add((first.group, topic.lower()))
        for message in chain(
            (replace(first, text=text),), (second,) if second else (), some
        ):
            yield from self._message(message, topic)

    def _message(self, message: Message, topic: str) -> Iterator[Line]:
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
        for each in message.reactions:
            own = {
                "user_profile": self._id(each.person),
                "message": id,
                **self._emoji_of(each),
            }
            yield Line("zerver_reaction", id, encode(own))
        sent = _seconds(message.time_ms)
        row = {
            "id": id,
            "sender": self._id(message.person),
            "recipient": int(message.group),
            "realm": _REALM,
        }
        row |= {"subject": topic, "content": text.strip(), "date_sent": sent}
        yield Line(
            "",
            id,
            encode(row | {"last_edit_time": sent if message.is_edited else None}),
        )

    def _flags(self, row: Mapping[str, Any]) -> Iterator[dict[str, int]]:
        """Who has read a message."""
        for each in self._groups[str(row["recipient"])].members:
            is_read = each.read_ms < 0 or row["date_sent"] * 1000 < each.read_ms + 1
            yield {
                "user_profile": self._id(each.person),
                "message": row["id"],
                "flags_mask": int(is_read),
            }

    def _emoji_of(self, reaction: Reaction) -> dict[str, str]:
        emoji = reaction.emoji
        if emoji[0] != ":" or len(emoji) < 3:
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
        return without_marks(
            around_code(to_markdown(text), lambda part: _SLANTED.sub(r"*\1*", part)),
            self._mention,
        )

    def _mention(self, id: str) -> str:
        if id == EVERYBODY:
            return "@**all**"
        row = self._people.get(id)
        if row:
            return f"@**{row['full_name']}|{row['id']}**"
        return f"@{id}"


def _is_channel(group: Group) -> bool:
    return group.kind in ("open", "closed")


def _seconds(time_ms: int) -> float:
    """Half a millisecond later, so that its milliseconds are these."""
    return (time_ms + 0.5) / 1000
