"""Writes an export of Slack, as :mod:`imserver_arrivals.slack` and importers of
other servers read it.

Slack's own exports have the names of files, and their bytes are at Slack; here
they are in ``__uploads``.
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
from .text import around_code, emoji_name
from .writing import (
    Line,
    file_name,
    login_of,
    named,
    put_files,
    spooled,
    threads,
    with_name,
    without_marks,
    write_array,
)

_STRUCK: Final = re.compile(r"(?<![\w~])~~(?![~\s])([^~\n]+?)(?<!\s)~~(?![\w~])")
_LINK: Final = re.compile(
    r"\[(?P<label>[^\[\]|\n]{1,1000})\]\((?P<target>https?://[^\s()]{1,2000})\)"
    r"|(?P<bare>https?://[^\s()|\"]{1,2000})"
)
_WORDS: Final = {"join": "has joined the channel", "leave": "has left the channel"}
"""What Slack says of a change, behind the name."""
_LETTERS: Final[dict[GroupKind, str]] = {
    "open": "C",
    "closed": "G",
    "several": "G",
    "direct": "D",
}


class SlackWriter:
    """Writes one export. The ids in the archive are numbers; those of messages
    grow with them."""

    def __init__(self, archive: Archive, team: str) -> None:
        self._archive = archive
        self._team = team
        self._users: list[dict[str, Any]] = []
        self._taken, self._folders = set[str](), set[str]()
        self._groups: dict[str, Group] = {}
        self._names: dict[str, str] = {}
        """Id of a group → the name of its folder."""
        self._files: dict[str, str] = {}
        """Name of a file → its id."""
        self._pins: dict[str, str] = {}
        """Id of a pinned message → its ``ts``."""

    def write(self, target: ZipFile, done: Callable[[int], object]) -> None:
        """Write everything. ``done`` is called with the number of threads so
        far. Raises OSError, and StorageUnavailable."""
        with spooled(threads(self._archive, self._meet, done), self._thread) as spool:
            target.writestr("users.json", encode(self._users))
            for name, kind in LISTS.items():
                rows = [
                    self._conversation(each)
                    for each in self._groups.values()
                    if each.kind == kind
                ]
                target.writestr(f"{name}.json", encode(rows))
            for (group, day), lines in groupby(
                spool.read(), lambda line: (line.group, _day(line.key))
            ):
                with target.open(
                    f"{self._names[group]}/{day}.json", "w", force_zip64=True
                ) as file:
                    write_array(file, _rows(lines))
        put_files(target, self._archive, self._files)

    def _meet(self, record: Person | Group | Emoji) -> None:
        if isinstance(record, Group):
            self._groups[record.id] = record
            self._pins.update((pin.message, "") for pin in record.pins)
            id = f"{_LETTERS[record.kind]}{int(record.id):08}"
            is_direct = record.kind == "direct"
            self._names[record.id] = (
                id if is_direct else named(record.name, id, self._folders, r"\w-")
            )
        elif isinstance(record, Person):
            id = _user(record.id)
            name = named(login_of(record), record.id, self._taken, "a-z0-9._-")
            profile = {
                "real_name": record.nickname,
                "display_name": record.nickname,
                "email": record.email,
            }
            user = {
                "id": id,
                "name": name,
                "real_name": record.nickname,
                "profile": profile,
            }
            is_bot = record.why == "bot"
            self._users.append(
                user | {"deleted": not (record.is_member or is_bot), "is_bot": is_bot}
            )
            if record.avatar:
                self._files[f"{UPLOADS}/{id}/picture"] = record.avatar
        else:
            self._archive.problems.note("own emoji (Slack's exports have none)")

    def _conversation(self, group: Group) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": f"{_LETTERS[group.kind]}{int(group.id):08}",
            "created": group.created_ms // 1000,
            "members": [_user(each.person) for each in group.members],
        }
        if group.kind != "direct":
            purpose = {
                "value": to_mrkdwn(group.description),
                "creator": "",
                "last_set": 0,
            }
            row |= {
                "name": self._names[group.id],
                "is_archived": group.is_archived,
                "purpose": purpose,
            }
        if group.creator:
            row["creator"] = _user(group.creator)
        pins = ((pin, self._pins[pin.message]) for pin in group.pins)
        row["pins"] = [
            {
                "id": ts,
                "type": "C",
                "user": _user(pin.person),
                "created": pin.time_ms // 1000,
            }
            for pin, ts in pins
            if ts
        ]
        return row

    # --- messages -------------------------------------------------------------

    def _thread(self, records: Iterable[Message | Change]) -> Iterator[Line]:
        """The lines of a thread. If its first message is gone, the next one
        begins it."""
        root = 0
        for record in records:
            time_us = _microseconds(record)
            row = {"type": "message"} | ({"thread_ts": _ts(root)} if root else {})
            for each in (
                self._events(record)
                if isinstance(record, Change)
                else [self._message(record)]
            ):
                yield Line(record.group, time_us, encode(row | each))
            root = root or time_us

    def _message(self, message: Message) -> dict[str, Any]:
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
        row: dict[str, Any] = {"user": _user(message.person), "text": to_mrkdwn(text)}
        if message.id in self._pins:
            self._pins[message.id] = _ts(_microseconds(message))
        if message.also:
            row["subtype"] = "thread_broadcast"
        if message.reply:
            self._archive.problems.note(
                "reply outside of a thread (leaves as a message)", group=message.group
            )
        if message.is_edited:
            row["edited"] = {"user": row["user"], "ts": _ts(message.time_ms * 1000)}
        if files:
            row["files"] = files
        users: dict[str, list[str]] = {}
        for each in message.reactions:
            name, tone = emoji_name(each.emoji)
            if name:
                users.setdefault(
                    f"{name}::skin-tone-{tone}" if tone else name, []
                ).append(_user(each.person))
            else:
                self._archive.problems.note(
                    "reaction without a name in Slack", group=message.group
                )
        if users:
            row["reactions"] = [
                {"name": name, "users": some, "count": len(some)}
                for name, some in users.items()
            ]
        return row

    def _events(self, change: Change) -> Iterator[dict[str, Any]]:
        """The events of a change: one for each person."""
        user = _user(change.person)
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
            event = {
                "subtype": f"channel_{change.kind}",
                "user": _user(person),
                "text": f"<@{_user(person)}> {_WORDS[change.kind]}",
            }
            yield event if person == change.person else event | {"inviter": user}


# --- texts --------------------------------------------------------------------


def to_mrkdwn(text: str) -> str:
    """A text of ours as Slack takes it. It mentions those of its marks
    alone."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = around_code(text, lambda part: _LINK.sub(_link, _STRUCK.sub(r"~\1~", part)))
    return without_marks(
        text, lambda id: "<!channel>" if id == EVERYBODY else f"<@{_user(id)}>"
    )


def _link(match: re.Match[str]) -> str:
    if match["bare"]:
        return f"<{match['bare']}>"
    return f"<{match['target']}|{match['label']}>"


def _user(id: str) -> str:
    if id.isdecimal():
        return f"U{int(id):08}"
    return "U" + re.sub("[^A-Z0-9]", "", id.upper())[:31]


def _microseconds(record: Message | Change) -> int:
    """When it was. Messages of one millisecond are told apart by their ids,
    mostly."""
    return record.time_ms * 1000 + int(record.id) % 1000


def _rows(lines: Iterable[Line]) -> Iterator[bytes]:
    """The rows of a conversation with times that they share with no other, in
    which they are known."""
    last = 0
    for line in lines:
        last = max(line.key, last + 1)
        yield b'{"ts":"%b",%b' % (_ts(last).encode(), line.content[1:])


def _ts(time_us: int) -> str:
    return f"{time_us // 1_000_000}.{time_us % 1_000_000:06}"


def _day(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).strftime("%Y-%m-%d")
