"""Writes an export of Slack that :mod:`imserver_arrivals.slack` and importers
of other servers can read.

Slack's own exports have only the names of files, because the bytes are at
Slack. This export has the bytes in ``__uploads``.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final
from zipfile import ZipFile

from msgspec.json import encode

from .records import (
    EVERYBODY,
    Archive,
    Change,
    Emoji,
    Group,
    GroupKind,
    Message,
    Person,
)
from .slack import LISTS, UPLOADS
from .text import SECOND_MS, SECOND_US, around_code, emoji_name
from .writing import (
    Line,
    file_name,
    login_of,
    put_files,
    spooled,
    threads,
    unused_name,
    with_name,
    without_marks,
    write_array,
)

_STRUCK: Final = re.compile(r"(?<![\w~])~~(?![~\s])([^~\n]+?)(?<!\s)~~(?![\w~])")
_LINK: Final = re.compile(
    r"\[(?P<label>[^\[\]|\n]{1,1000})\]\((?P<target>https?://[^\s()]{1,2000})\)"
    r"|(?P<bare>https?://[^\s()|\"]{1,2000})"
)
_MS_US: Final = 1000
_MOST_LETTERS: Final = 31
"""The most characters of an id after its first one."""
_WORDS: Final = {"join": "has joined the channel", "leave": "has left the channel"}
"""Change → the text with which Slack reports it, after the name."""
_LETTERS: Final[dict[GroupKind, str]] = {
    "open": "C",
    "closed": "G",
    "several": "G",
    "direct": "D",
}


class SlackWriter:
    """Writes an archive as one export of Slack.

    All ids in the archive are numbers. The ids of messages grow from message to
    message. ``team``: the name of the app.
    """

    def __init__(self, archive: Archive, team: str) -> None:
        """Prepare an export. The archive is read when it is written."""
        self._archive = archive
        self._team = team
        self._users: list[dict[str, Any]] = []
        self._taken: set[str] = set()
        """The names of users that are taken."""
        self._folders: set[str] = set()
        """The names of folders that are taken."""
        self._groups: dict[str, Group] = {}
        self._names: dict[str, str] = {}
        """Id of a group → the name of its folder."""
        self._files: dict[str, str] = {}
        """Name of a file → its id."""
        self._pins: dict[str, str] = {}
        """Id of a pinned message → its ``ts``; ``""`` until it is written."""

    def write(self, target: ZipFile, done: Callable[[int], object]) -> None:
        """Write everything to a zip file.

        ``done`` is called with the number of threads so far. Raises OSError,
        and StorageUnavailable.
        """
        with spooled(
            threads(self._archive, self._add_record, done), self._thread
        ) as spool:
            # The spool has read the whole archive, so all people, groups and
            # pins are known.
            self._write_lists(target)
            for (group, day), lines in groupby(spool.read(), _group_and_day):
                path = f"{self._names[group]}/{day}.json"
                with target.open(path, "w", force_zip64=True) as file:
                    write_array(file, _rows(lines))
        put_files(target, self._archive, self._files)

    def _write_lists(self, target: ZipFile) -> None:
        """Write the lists of people and conversations, such as
        ``users.json``."""
        target.writestr("users.json", encode(self._users))
        for name, kind in LISTS.items():
            rows = [
                self._conversation(group)
                for group in self._groups.values()
                if group.kind == kind
            ]
            target.writestr(f"{name}.json", encode(rows))

    def _add_record(self, record: Person | Group | Emoji) -> None:
        """Add a person or a group, and choose the folder of a group.

        Slack's exports have no pictures of emoji, so these are noted.
        """
        if isinstance(record, Group):
            self._groups[record.id] = record
            self._pins.update((pin.message, "") for pin in record.pins)
            name = _conversation_id(record)
            if record.kind != "direct":
                name = unused_name(record.name, name, self._folders, r"\w-")
            self._names[record.id] = name
        elif isinstance(record, Person):
            self._add_person(record)
        else:
            self._archive.problems.note("own emoji (Slack's exports have none)")

    def _add_person(self, person: Person) -> None:
        """Add a row of ``users.json``. A person without a login counts as
        deleted."""
        id = _user_id(person.id)
        is_bot = person.why == "bot"
        profile = {
            "real_name": person.nickname,
            "display_name": person.nickname,
            "email": person.email,
        }
        user = {
            "id": id,
            "name": unused_name(login_of(person), person.id, self._taken, "a-z0-9._-"),
            "real_name": person.nickname,
            "profile": profile,
            "deleted": not (person.is_member or is_bot),
            "is_bot": is_bot,
        }
        self._users.append(user)
        if person.avatar:
            self._files[f"{UPLOADS}/{id}/picture"] = person.avatar

    def _conversation(self, group: Group) -> dict[str, Any]:
        """Return the row of a conversation in its list, such as
        ``channels.json``.

        A direct conversation has no name, and so fewer fields.
        """
        row: dict[str, Any] = {
            "id": _conversation_id(group),
            "created": group.created_ms // SECOND_MS,
            "members": [_user_id(member.person) for member in group.members],
        }
        if group.kind != "direct":
            text = to_mrkdwn(group.description)
            row |= {
                "name": self._names[group.id],
                "is_archived": group.is_archived,
                "purpose": {"value": text, "creator": "", "last_set": 0},
            }
        if group.creator:
            row["creator"] = _user_id(group.creator)
        row["pins"] = list(self._rows_of_pins(group))
        return row

    def _rows_of_pins(self, group: Group) -> Iterator[dict[str, Any]]:
        """Yield the pins of the messages that were written."""
        for pin in group.pins:
            if self._pins[pin.message]:
                yield {
                    "id": self._pins[pin.message],
                    "type": "C",
                    "user": _user_id(pin.person),
                    "created": pin.time_ms // SECOND_MS,
                }

    # --- messages -------------------------------------------------------------

    def _thread(self, records: Iterable[Message | Change]) -> Iterator[Line]:
        """Yield the rows of a thread, without their ``ts``.

        If its first message is missing, the thread begins with the next one.
        """
        root_us = 0
        for record in records:
            time_us = _microseconds(record)
            common: dict[str, Any] = {"type": "message"}
            if root_us:
                common["thread_ts"] = _ts(root_us)
            rows: Iterable[dict[str, Any]]
            if isinstance(record, Change):
                rows = self._events(record)
            else:
                rows = [self._message(record)]
            for row in rows:
                yield Line(record.group, time_us, encode(common | row))
            root_us = root_us or time_us

    def _message(self, message: Message) -> dict[str, Any]:
        """Return a message as a row of Slack, without its time.

        Files with bytes are noted for the end of the archive. A pinned message
        gets its ``ts``, by which Slack names it.
        """
        text, files = self._text_and_files(message)
        row: dict[str, Any] = {
            "user": _user_id(message.person),
            "text": to_mrkdwn(text),
        }
        if message.id in self._pins:
            self._pins[message.id] = _ts(_microseconds(message))
        if message.also:
            row["subtype"] = "thread_broadcast"
        if message.reply:
            self._archive.problems.note(
                "reply outside of a thread (leaves as a message)", group=message.group
            )
        if message.is_edited:
            row["edited"] = {"user": row["user"], "ts": _ts(message.time_ms * _MS_US)}
        if files:
            row["files"] = files
        reactions = self._reactions(message)
        if reactions:
            row["reactions"] = reactions
        return row

    def _text_and_files(self, message: Message) -> tuple[str, list[dict[str, Any]]]:
        """Return the text of a message and the rows of its files.

        A file that is elsewhere becomes a line of the text.
        """
        text = message.text
        files: list[dict[str, Any]] = []
        for file in message.files:
            if file.address:
                text = with_name(text, file)
                continue
            id = f"F{int(message.id):08}{len(files)}"
            files.append({"id": id, "name": file.name, "title": file.name})
            if file.id and not file.why:
                self._files[f"{UPLOADS}/{id}/{file_name(file.name)}"] = file.id
        return text, files

    def _reactions(self, message: Message) -> list[dict[str, Any]]:
        """Return the reactions to a message: one row for each emoji, with its
        users.

        ``{"name": "wave::skin-tone-3", "users": ["U00000007"], "count": 1}`` is
        such a row. An emoji without a name in Slack is left out, and noted.
        """
        users: dict[str, list[str]] = {}
        for reaction in message.reactions:
            name, tone = emoji_name(reaction.emoji)
            if not name:
                self._archive.problems.note(
                    "reaction without a name in Slack", group=message.group
                )
                continue
            if tone:
                name = f"{name}::skin-tone-{tone}"
            users.setdefault(name, []).append(_user_id(reaction.person))
        return [
            {"name": name, "users": ids, "count": len(ids)}
            for name, ids in users.items()
        ]

    def _events(self, change: Change) -> Iterator[dict[str, Any]]:
        """Yield a change of a group as rows of Slack.

        A join or leave of several people has a row for each person.
        """
        user = _user_id(change.person)
        if change.kind == "name":
            yield {
                "subtype": "channel_name",
                "user": user,
                "name": change.text,
                "text": to_mrkdwn(change.text),
            }
        elif change.kind == "description":
            text = to_mrkdwn(change.text)
            yield {
                "subtype": "channel_purpose",
                "user": user,
                "purpose": text,
                "text": text,
            }
        for person in change.people:
            yield _event_of_member(change, person)


def _event_of_member(change: Change, person: str) -> dict[str, Any]:
    """Return the row that tells that one person has joined or left."""
    id = _user_id(person)
    event = {
        "subtype": f"channel_{change.kind}",
        "user": id,
        "text": f"<@{id}> {_WORDS[change.kind]}",
    }
    if person != change.person:
        # Somebody else has added or removed the person.
        event["inviter"] = _user_id(change.person)
    return event


# --- texts --------------------------------------------------------------------


def to_mrkdwn(text: str) -> str:
    """Convert a text of ours to the form of Slack's texts, which is called
    mrkdwn.

    ``[plan](https://a.org) ~~no~~`` becomes ``<https://a.org|plan> ~no~``.
    Signs are escaped, so that only the marks of the text mention people.
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = around_code(text, _outside_code)
    return without_marks(text, _mention)


def _outside_code(text: str) -> str:
    """Convert a part of a text that is no code."""
    return _LINK.sub(_link, _STRUCK.sub(r"~\1~", text))


def _mention(id: str) -> str:
    """Return the mention of a person, or of everybody, in the form of Slack."""
    if id == EVERYBODY:
        return "<!channel>"
    return f"<@{_user_id(id)}>"


def _link(match: re.Match[str]) -> str:
    """Return a match of :data:`_LINK` in the form of Slack."""
    if match["bare"]:
        return f"<{match['bare']}>"
    return f"<{match['target']}|{match['label']}>"


def _user_id(id: str) -> str:
    """Return the id of a user in the form of Slack, such as ``U00000007``.

    It is ``U`` and digits or capitals.
    """
    if id.isdecimal():
        return f"U{int(id):08}"
    letters = re.sub("[^A-Z0-9]", "", id.upper())
    return f"U{letters[:_MOST_LETTERS]}"


def _conversation_id(group: Group) -> str:
    """Return the id of a conversation in the form of Slack, such as
    ``C00000012``."""
    return f"{_LETTERS[group.kind]}{int(group.id):08}"


def _microseconds(record: Message | Change) -> int:
    """Return when a record was sent, in Unix microseconds.

    Slack identifies messages by it. Messages of one millisecond usually differ
    by their ids, so the last digits are from the id.
    """
    return record.time_ms * _MS_US + int(record.id) % _MS_US


def _group_and_day(line: Line) -> tuple[str, str]:
    """Return the file to which a row belongs: its group and its day."""
    return line.group, _day(line.key)


def _rows(lines: Iterable[Line]) -> Iterator[bytes]:
    """Yield the rows of a conversation, each with its ``ts``.

    Slack identifies messages by their time, so each row gets a time that is
    later than the time before it. ``line.content`` is an object without ``ts``.
    """
    last = 0
    for line in lines:
        last = max(line.key, last + 1)
        yield b'{"ts":"%b",%b' % (_ts(last).encode(), line.content[1:])


def _ts(time_us: int) -> str:
    """Return a time as Slack's ``ts``, such as ``1700000000.000100``."""
    seconds, fraction = divmod(time_us, SECOND_US)
    return f"{seconds}.{fraction:06}"


def _day(time_us: int) -> str:
    """Return the day of a time, such as ``2024-01-20``."""
    return datetime.fromtimestamp(time_us / SECOND_US, UTC).strftime("%Y-%m-%d")
