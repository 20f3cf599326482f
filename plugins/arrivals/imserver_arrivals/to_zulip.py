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
    File,
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
    """Writes an archive as one export of a Zulip organization.

    All ids in the archive are numbers. The ids of messages grow from message to
    message. ``team``: the name of the app.
    """

    def __init__(self, archive: Archive, team: str) -> None:
        """Prepare an export. The archive is read when it is written."""
        self._archive = archive
        self._team = team
        self._people: dict[str, dict[str, Any]] = {}
        """Id of a person → the row of the person."""
        self._groups: dict[str, Group] = {}
        self._emoji: dict[str, int] = {}
        """Name of an own emoji of the app → its id."""
        self._topics: set[tuple[str, str]] = set()
        """(group, topic in lower case) of the topics that exist already."""
        self._avatars: list[dict[str, Any]] = []
        self._files: dict[str, str] = {}
        """Name of a file → its id."""

    def write(self, target: ZipFile, done: Callable[[int], object]) -> None:
        """Write everything to a zip file.

        ``done`` is called with the number of threads so far. Raises OSError,
        and StorageUnavailable.
        """
        with spooled(
            threads(self._archive, self._add_record, done), self._thread
        ) as spool:
            self._write_messages(target, spool)
            self._write_tables(target, spool)
        put_files(target, self._archive, self._files)

    def _write_messages(self, target: ZipFile, spool: Spool) -> None:
        """Write the messages in files of a thousand, with who has read them.

        Messages have no table (``""``); other rows of the spool have one.
        """
        messages = (line.content for line in spool.read() if not line.group)
        for number in count(1):
            part = list(islice(messages, _MESSAGES_OF_FILE))
            if not part:
                break
            rows = [msgspec.json.decode(content) for content in part]
            flags = list(chain.from_iterable(map(self._read_flags, rows)))
            content = {"zerver_message": rows, "zerver_usermessage": flags}
            target.writestr(f"messages-{number:06}.json", encode(content))

    def _write_tables(self, target: ZipFile, spool: Spool) -> None:
        """Write ``realm.json``, ``attachment.json`` and
        ``avatars/records.json``.

        The tables of reactions and attachments are large, so they are in the
        spool.
        """
        realm = encode(self._small_tables())
        # The object of small tables is continued, so it must not end yet.
        _write_with_table(
            target, spool, "realm.json", realm[:-1] + b",", "zerver_reaction"
        )
        _write_with_table(target, spool, "attachment.json", b"{", "zerver_attachment")
        target.writestr("avatars/records.json", encode(self._avatars))

    def _small_tables(self) -> dict[str, Any]:
        """Return the tables of ``realm.json`` except the reactions."""
        channels = filter(_is_channel, self._groups.values())
        subscriptions = map(self._subscriptions, self._groups.values())
        return {
            "zerver_realm": [
                {"id": _REALM, "string_id": self._team, "name": self._team}
            ],
            "zerver_userprofile": list(self._people.values()),
            "zerver_stream": list(map(self._channel, channels)),
            "zerver_recipient": list(map(_recipient, self._groups.values())),
            "zerver_subscription": list(chain.from_iterable(subscriptions)),
            "zerver_realmemoji": list(self._rows_of_emoji()),
        }

    def _rows_of_emoji(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the app's own emoji."""
        for name, id in self._emoji.items():
            yield {
                "id": id,
                "name": name,
                "realm": _REALM,
                "file_name": f"{id}.png",
                "deactivated": False,
            }

    def _subscriptions(self, group: Group) -> list[dict[str, Any]]:
        """Return the rows of the members of a group."""
        return [
            {
                "user_profile": self._person_id(member.person),
                "recipient": int(group.id),
                "active": True,
            }
            for member in group.members
        ]

    def _add_record(self, record: Person | Group | Emoji) -> None:
        """Add a person, a group or an emoji. Emoji get numbers as their ids."""
        if isinstance(record, Group):
            self._groups[record.id] = record
        elif isinstance(record, Emoji):
            id = len(self._emoji) + 1
            self._emoji[record.name] = id
            self._files[f"emoji/{_REALM}/emoji/images/{id}.png"] = record.file
        else:
            self._add_person(record)

    def _add_person(self, person: Person) -> None:
        """Add a row of a person, with the picture.

        A person without an address is not active, unless it is a bot.
        """
        id = self._new_id_of(person)
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
            self._add_avatar(id, person.avatar)

    def _add_avatar(self, id: int, file: str) -> None:
        """Add the picture of a person. ``file``: the id of the picture."""
        path = f"{_REALM}/{id}.png"
        row = {"path": path, "user_profile_id": id, "realm_id": _REALM}
        self._avatars.append(row)
        self._files[f"avatars/{path}"] = file

    def _new_id_of(self, person: Person) -> int:
        """Return the number of a new person, because ids of Zulip are numbers.

        An account keeps its number. Others get numbers above all of them.
        """
        if person.id.isdecimal():
            return int(person.id)
        return len(self._people) + _FIRST_OTHER_ID

    def _person_id(self, person: str) -> int:
        """Return the number of a person in the export."""
        return int(self._people[person]["id"])

    def _channel(self, group: Group) -> dict[str, Any]:
        """Return the row of a channel. Its creator is None if that is
        unknown."""
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
        """Yield the rows of a thread: its messages, with reactions and files.

        Changes of groups are left out, because Zulip does not export them.
        """
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
        """Return the topic of a thread, and the text of its first message.

        A bold first line such as ``*Lunch*`` becomes the topic, and is removed
        from the text. Otherwise the topic is the beginning of the text. It is
        ``""`` for a message without such a line and without replies.
        """
        text = first.text
        match = _TOPIC.match(text)
        topic = ""
        if match is not None:
            topic = match[1].strip()
        if match is not None and topic and self._is_free(first.group, topic):
            text = text[len(match[0]) :]
        elif has_replies:
            topic = self._unused_topic(first)
        else:
            return "", text
        self._topics.add((first.group, topic.lower()))
        return topic, text

    def _unused_topic(self, first: Message) -> str:
        """Return the beginning of a message's text as a topic.

        If its group has the topic already, a number follows: ``Lunch (2)``.
        """
        words = MARK.sub("", first.text).split()
        base = " ".join(words)[:_TOPIC_CHARACTERS].strip() or "thread"
        topic = base
        number = 2
        while not self._is_free(first.group, topic):
            topic = f"{base} ({number})"
            number += 1
        return topic

    def _is_free(self, group: str, topic: str) -> bool:
        """Whether no thread of a group has this topic yet."""
        return (group, topic.lower()) not in self._topics

    def _message(self, message: Message, topic: str) -> Iterator[Line]:
        """Yield the rows of a message.

        Its files and reactions have tables of their own. The row of the message
        itself has the table ``""``, and links to the files at the end of its
        text.
        """
        id = int(message.id)
        text = self._text(message.text)
        for file in message.files:
            if file.address or file.why or not file.id:
                text = with_name(text, file)
                continue
            path = self._path_of_upload(file)
            text += f"\n{_link_to_upload(file.name, path)}"
            row = _row_of_upload(id, file.name, path)
            yield Line("zerver_attachment", id, encode(row))
        for reaction in message.reactions:
            row = self._row_of_reaction(id, reaction)
            yield Line("zerver_reaction", id, encode(row))
        yield Line("", id, encode(self._row_of(message, topic, text.strip())))

    def _path_of_upload(self, file: File) -> str:
        """Return the path of a file, whose bytes come at the end of the
        archive."""
        path = f"{_REALM}/{file.id}/{file_name(file.name)}"
        self._files[f"uploads/{path}"] = file.id
        return path

    def _row_of_reaction(self, id: int, reaction: Reaction) -> dict[str, Any]:
        """Return the row of a reaction to the message with this id."""
        return {
            "user_profile": self._person_id(reaction.person),
            "message": id,
            **self._emoji_of(reaction),
        }

    def _row_of(self, message: Message, topic: str, content: str) -> dict[str, Any]:
        """Return the row of a message. ``content``: its text with links to
        files."""
        sent = _seconds(message.time_ms)
        edited = None
        if message.is_edited:
            edited = sent
        return {
            "id": int(message.id),
            "sender": self._person_id(message.person),
            "recipient": int(message.group),
            "realm": _REALM,
            "subject": topic,
            "content": content,
            "date_sent": sent,
            "last_edit_time": edited,
        }

    def _read_flags(self, row: Mapping[str, Any]) -> Iterator[dict[str, int]]:
        """Yield the rows which tell who has read a message. ``row``: the
        message.

        A member whose read time is unknown counts as having read it.
        """
        sent_ms = row["date_sent"] * SECOND_MS
        for member in self._groups[str(row["recipient"])].members:
            # The time of sending has a fraction of a millisecond, see
            # _seconds().
            is_read = member.read_ms < 0 or sent_ms < member.read_ms + 1
            yield {
                "user_profile": self._person_id(member.person),
                "message": row["id"],
                "flags_mask": int(is_read),
            }

    def _emoji_of(self, reaction: Reaction) -> dict[str, str]:
        """Return the fields of a reaction that name its emoji.

        A character has its code points in hexadecimal, such as ``1f44d``. An
        own emoji of the app has its number. Another name is an extra emoji.
        """
        emoji = reaction.emoji
        if not is_own_emoji(emoji):
            # Zulip writes the code without the sign that asks for a picture.
            code = "-".join(f"{ord(sign):x}" for sign in emoji if sign != "\ufe0f")
            kind = "unicode_emoji"
            name = emoji_name(emoji)[0] or code
        else:
            name = emoji[1:-1]
            if name in self._emoji:
                kind = "realm_emoji"
                code = str(self._emoji[name])
            else:
                kind = "zulip_extra_emoji"
                code = name
        return {"reaction_type": kind, "emoji_code": code, "emoji_name": name}

    def _text(self, text: str) -> str:
        """Return a text in Zulip's Markdown, with mentions such as
        ``@**Ann|7**``.

        Zulip has no italic text with ``_``, so it gets stars.
        """
        text = around_code(to_markdown(text), partial(_SLANTED.sub, r"*\1*"))
        return without_marks(text, self._mention)

    def _mention(self, id: str) -> str:
        """Return the mention of a person or of everybody.

        An unknown person is named by the id.
        """
        if id == EVERYBODY:
            return "@**all**"
        row = self._people.get(id)
        if row:
            return f"@**{row['full_name']}|{row['id']}**"
        return f"@{id}"


def _row_of_upload(message: int, name: str, path: str) -> dict[str, Any]:
    """Return the row of a file of a message. ``path``: below ``uploads/``."""
    return {
        "path_id": path,
        "file_name": name,
        "realm": _REALM,
        "messages": [message],
    }


def _link_to_upload(name: str, path: str) -> str:
    """Return a link to an uploaded file, such as
    ``[plan](/user_uploads/…)``."""
    # Other signs could end the label.
    label = re.sub(r"[^\w .-]", "", name) or "file"
    return f"[{label}](/user_uploads/{quote(path)})"


def _is_channel(group: Group) -> bool:
    """Whether a group becomes a channel. Other groups have no name."""
    return group.kind in ("open", "closed")


def _write_with_table(
    target: ZipFile, spool: Spool, name: str, beginning: bytes, table: str
) -> None:
    """Write an object of JSON whose last field is a table of the spool.

    ``name``: of the file. ``beginning``: the object before the table, such as
    ``{"a": 1,``. The rows of the table are written one by one.
    """
    rows = (line.content for line in spool.read() if line.group == table)
    with target.open(name, "w", force_zip64=True) as file:
        file.write(beginning + b'"%b":' % table.encode())
        write_array(file, rows)
        file.write(b"}")


def _recipient(group: Group) -> dict[str, int]:
    """Return the row of a group as a receiver of messages."""
    kind = _SEVERAL
    if _is_channel(group):
        kind = _CHANNEL
    return {"id": int(group.id), "type": kind, "type_id": int(group.id)}


def _seconds(time_ms: int) -> float:
    """Return a time in Unix seconds, half a millisecond later.

    Seconds are a float, so that rounding it down gives the same milliseconds.
    """
    return (time_ms + _HALF_MS) / SECOND_MS
