"""Writes an export of Slack, as :mod:`imserver_arrivals.slack` and importers of other servers read it.

Slack's own exports have the names of files, and their bytes are at Slack; here they are in ``__uploads``.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final
from zipfile import ZipFile

from msgspec.json import encode

from .records import EVERYBODY, MARK, Archive, Change, Emoji, Group, GroupKind, Message, Person
from .slack import LISTS, UPLOADS
from .spool import Spool
from .text import emoji_name, with_links
from .writing import Line, file_name, login_of, named, put_files, threads

_CODE: Final = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
_STRUCK: Final = re.compile(r"(?<![\w~])~~(?![~\s])([^~\n]+?)(?<!\s)~~(?![\w~])")
_LINK: Final = re.compile(
    r"\[(?P<label>[^\[\]|\n]{1,1000})\]\((?P<target>https?://[^\s()]{1,2000})\)"
    r"|(?P<bare>https?://[^\s()|\"]{1,2000})"
)
_LETTERS: Final[dict[GroupKind, str]] = {"open": "C", "closed": "G", "several": "G", "direct": "D"}


class SlackWriter:
    """Writes one export. The ids in the archive are numbers; those of messages grow with them."""

    def __init__(self, archive: Archive, team: str) -> None:
        self._archive, self._team = archive, team
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
        """Write everything. ``done`` is called with the number of threads so far. Raises OSError, and
        StorageUnavailable."""
        spool = Spool(lambda line: (line.group, line.key), Line)
        try:
            for thread in threads(self._archive, self._meet, done):
                for line in self._thread(thread):
                    spool.add(line)
            target.writestr("users.json", encode(self._users))
            for name, kind in LISTS.items():
                rows = [self._conversation(each) for each in self._groups.values() if each.kind == kind]
                target.writestr(f"{name}.json", encode(rows))
            for (group, day), lines in groupby(spool.read(), lambda line: (line.group, _day(line.key))):
                with target.open(f"{self._names[group]}/{day}.json", "w", force_zip64=True) as file:
                    for number, line in enumerate(lines):
                        file.write((b",\n" if number else b"[") + line.content)
                    file.write(b"]")
        finally:
            spool.close()
        put_files(target, self._archive, self._files)

    def _meet(self, record: Person | Group | Emoji) -> None:
        if isinstance(record, Group):
            self._groups[record.id] = record
            self._pins.update((pin.message, "") for pin in record.pins)
            id = f"{_LETTERS[record.kind]}{int(record.id):08}"
            is_direct = record.kind == "direct"
            self._names[record.id] = id if is_direct else named(record.name, id, self._folders, r"\w-")
        elif isinstance(record, Person):
            id, name = _user(record.id), named(login_of(record), record.id, self._taken, "a-z0-9._-")
            profile = {"real_name": record.nickname, "display_name": record.nickname, "email": record.email}
            user = {"id": id, "name": name, "real_name": record.nickname, "profile": profile}
            is_bot = record.why == "bot"
            self._users.append(user | {"deleted": not (record.is_member or is_bot), "is_bot": is_bot})
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
            purpose = {"value": self._text(group.description), "creator": "", "last_set": 0}
            row |= {"name": self._names[group.id], "is_archived": group.is_archived, "purpose": purpose}
        if group.creator:
            row["creator"] = _user(group.creator)
        pins = ((pin, self._pins[pin.message]) for pin in group.pins)
        row["pins"] = [
            {"id": ts, "type": "C", "user": _user(pin.person), "created": pin.time_ms // 1000}
            for pin, ts in pins
            if ts
        ]
        return row

    # --- messages -------------------------------------------------------------------------------------------

    def _thread(self, records: Iterable[Message | Change]) -> Iterator[Line]:
        """The lines of a thread. If its first message is gone, the next one begins it."""
        root: dict[str, Any] = {}
        for record in records:
            # Messages of one conversation and millisecond are told apart by their ids.
            time_us = record.time_ms * 1000 + int(record.id) % 1000
            row = {"type": "message", "ts": _ts(time_us)}
            if isinstance(record, Change):
                rows: Iterable[dict[str, Any]] = self._events(record)
            else:
                rows = [self._message(record)]
            if root:
                row["thread_ts"] = root["ts"]
            for number, each in enumerate(rows):
                own = row | each | {"ts": _ts(time_us + number)}
                root = root or own
                yield Line(record.group, time_us + number, encode(own))

    def _message(self, message: Message) -> dict[str, Any]:
        text = self._text(message.text)
        files: list[dict[str, Any]] = []
        for file in message.files:
            if file.address:
                text = "\n".join(filter(None, (text, self._text(f"{file.name} {file.address}".strip()))))
                continue
            id = f"F{int(message.id):08}{len(files)}"
            files.append({"id": id, "name": file.name, "title": file.name})
            if file.id and not file.why:
                self._files[f"{UPLOADS}/{id}/{file_name(file.name)}"] = file.id
        row: dict[str, Any] = {"user": _user(message.person), "text": text}
        if message.id in self._pins:
            self._pins[message.id] = _ts(message.time_ms * 1000 + int(message.id) % 1000)
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
                users.setdefault(f"{name}::skin-tone-{tone}" if tone else name, []).append(_user(each.person))
            else:
                self._archive.problems.note("reaction without a name in Slack", group=message.group)
        if users:
            row["reactions"] = [
                {"name": name, "users": some, "count": len(some)} for name, some in users.items()
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
                "text": self._text(change.text),
            }
        elif change.kind == "description":
            text = self._text(change.text)
            yield {"subtype": "channel_purpose", "user": user, "purpose": text, "text": text}
        for person in change.people:
            event = {
                "subtype": f"channel_{change.kind}",
                "user": _user(person),
                "text": f"<@{_user(person)}>",
            }
            yield event if person == change.person else event | {"inviter": user}

    # --- texts ----------------------------------------------------------------------------------------------

    def _text(self, text: str) -> str:
        text = with_links(text, lambda _: "").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        parts = _CODE.split(text)
        parts[::2] = [_LINK.sub(_link, _STRUCK.sub(r"~\1~", part)) for part in parts[::2]]
        return MARK.sub(_mention, "".join(parts))


def _link(match: re.Match[str]) -> str:
    return f"<{match['bare']}>" if match["bare"] else f"<{match['target']}|{match['label']}>"


def _mention(match: re.Match[str]) -> str:
    return "<!channel>" if match[2] == EVERYBODY else f"<@{_user(match[2])}>"


def _user(id: str) -> str:
    return f"U{int(id):08}" if id.isdecimal() else "U" + re.sub("[^A-Z0-9]", "", id.upper())[:31]


def _ts(time_us: int) -> str:
    return f"{time_us // 1_000_000}.{time_us % 1_000_000:06}"


def _day(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).strftime("%Y-%m-%d")
