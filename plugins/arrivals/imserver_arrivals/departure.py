"""What an app has, as an archive of another server has it: see
:class:`imserver_arrivals.records.Archive`.

The log is read once, and its messages and reactions are sorted on disk. Memory
has people, groups, members and pins.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import closing
from tempfile import TemporaryFile
from typing import IO, Any, ClassVar, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.media.emoji import OwnEmoji
from imserver.media.uploads import Uploads
from imserver.people.accounts import Account, AccountStore
from imserver.plugin.errors import ImserverError
from imserver.plugin.messages import Conversation, Entry, MessageLog
from imserver.plugin.storage import Store

from .problems import Problems
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
    Role,
    mention,
)
from .spool import Spool
from .text import around_code

_PAGE: Final = 500
_UPLOAD: Final = "/api/v1/uploads/"
_FILES: Final = {"picture", "voice", "video", "file", "album"}
"""Types of messages that are files."""
_Json = TypeVar("_Json")
_SERVER: Final = "server"
"""The id of who has sent what a back end has."""


class Reacted(Struct, frozen=True, tag="reacted"):
    """An entry about a reaction to a message."""

    message: str
    person: str
    emoji: str
    is_there: bool


class Content(Struct):
    """What the body of a message with files has."""

    caption: str = ""
    url: str = ""
    name: str = ""
    items: list["Content"] = []


class Departure:
    """The people, groups and messages of an app, or of some of its
    conversations (``groups``; none: of all).

    Making it reads the log, and calls ``done`` with the number of messages so
    far. It raises StorageUnavailable.
    """

    name: ClassVar[str] = "imserver"
    title: ClassVar[str] = "imserver"

    def __init__(
        self,
        store: Store,
        app: str,
        uploads: Uploads,
        groups: Collection[int],
        done: Any,
    ) -> None:
        self.problems = Problems()
        self._log, self._accounts, self._emoji = (
            store.part(MessageLog),
            AccountStore(store),
            OwnEmoji(store, uploads),
        )
        self._app, self._uploads, self._chosen = app, uploads, frozenset(groups)
        self._conversations = {each.id: each for each in self._all_conversations(store)}
        self._members = {
            id: list(self._members_of(each)) for id, each in self._conversations.items()
        }
        self._pins: dict[int, dict[str, Pin]] = {}
        """Conversation → id of a pinned message → its pin."""
        self._people: dict[str, Account | None] = {}
        """Id of a user → the account; None: there is none."""
        self._spool = Spool(
            lambda each: int(each.message if isinstance(each, Reacted) else each.id),
            Message | Change | Reacted,
        )
        self._meet({each.person for some in self._members.values() for each in some})
        if not groups:
            for ids in _ids(store, "account", "app = %s", app):
                self._people.update(
                    (each.user, each) for each in self._accounts.by_ids(app, ids)
                )
        self._read(done)

    def close(self) -> None:
        """Give the disk back."""
        self._spool.close()

    def records(self) -> Iterator[Record]:
        for user, account in self._people.items():
            yield _person(user, account)
        for row in self._emoji.of(self._app):
            yield Emoji(row.name, row.picture)
        for id, one in self._conversations.items():
            yield self._group(one, self._members[id])
        yield from self._messages()

    def open(self, file: str) -> IO[bytes] | None:
        row = self._uploads.find(file)
        if row is None or row.app != self._app:
            return None
        copy = TemporaryFile()  # noqa: SIM115
        try:
            with closing(self._uploads.open(row, False, 0, row.bytes - 1)) as pieces:
                for piece in pieces:
                    copy.write(piece)
        except (ImserverError, OSError) as error:
            copy.close()
            self.problems.note_broken(f"file {file}", error)
            return None
        copy.seek(0)
        return copy

    # --- people and groups ----------------------------------------------------

    def _all_conversations(self, store: Store) -> Iterator[Conversation]:
        of_log = "log = (SELECT number FROM log WHERE app = %s AND part = 0)"
        for ids in (
            [sorted(self._chosen)]
            if self._chosen
            else _ids(store, "conversation", of_log, self._app)
        ):
            rows = self._log.conversations.find(self._app, ids)
            yield from (each for each in rows if each.kind != "room")

    def _members_of(self, one: Conversation) -> Iterator[Member]:
        """The members of a conversation, and up to when each has read."""
        log = self._log
        app = self._app
        after = ""
        while page := log.conversations.members(app, one.id, after, _PAGE):
            after = page[-1].user
            users = [each.user for each in page]
            positions = log.conversations.read_positions(app, {one.id: users})
            entries = log.entries.find(
                app, sorted({id for id in positions.values() if id})
            )
            times = {entry.id: entry.time_ms for entry in entries} | {0: 0}
            for row in page:
                role: Role = row.role if row.role in ("owner", "admin") else "member"  # type: ignore[assignment]
                yield Member(
                    row.user, role, times.get(positions.get((row.user, one.id), 0), -1)
                )

    def _group(self, one: Conversation, members: list[Member]) -> Group:
        is_open = one.open or one.everybody
        kind: GroupKind = "direct" if one.members else "open" if is_open else "closed"
        return Group(
            str(one.id),
            kind,
            one.name,
            one.description,
            next((each.person for each in members if each.role == "owner"), ""),
            one.created * 1000,
            members,
            list(self._pins.get(one.id, {}).values()),
            avatar=one.avatar.removeprefix(_UPLOAD)
            if one.avatar.startswith(_UPLOAD)
            else "",
        )

    def _meet(self, users: Collection[str]) -> None:
        """Look up who was not met before."""
        new = [user for user in users if user and user not in self._people]
        self._people.update(dict.fromkeys(new))
        ids = [
            int(user)
            for user in new
            if user.isascii() and user.isdigit() and len(user) < 19
        ]
        for start in range(0, len(ids), _PAGE):
            for account in self._accounts.by_ids(self._app, ids[start : start + _PAGE]):
                self._people[account.user] = account

    # --- the log --------------------------------------------------------------

    def _read(self, done: Any) -> None:
        """Read the log."""
        after = count = 0
        while page := self._log.entries.read(self._app, after, _PAGE):
            after = page[-1].id
            mine = (
                entry for entry in page if entry.conversation in self._conversations
            )
            entries = list(mine)
            for entry in entries:
                self._meet({entry.sender, *(entry.group_meta().users or ())})
            for entry in entries:
                group = str(entry.conversation)
                if entry.kind == "message":
                    self._meet([entry.sender or _SERVER])
                    self._spool.add(self._message(entry, group))
                    count += 1
                elif entry.kind == "reaction" and entry.sender:
                    emoji = entry.body.decode(errors="replace")
                    is_there = entry.type == "add"
                    self._spool.add(
                        Reacted(str(entry.about), entry.sender, emoji, is_there)
                    )
                elif entry.kind == "pin":
                    pins = self._pins.setdefault(entry.conversation, {})
                    pins.pop(str(entry.about), None)
                    if entry.type == "add":
                        pins[str(entry.about)] = Pin(
                            str(entry.about), entry.sender, entry.time_ms
                        )
                elif entry.sender and (change := _change(entry, group)) is not None:
                    self._spool.add(change)
            done(count)

    def _message(self, entry: Entry, group: str) -> Message:
        text, files, lost = content_of(entry)
        if lost:
            self.problems.note(lost, group=group)
        thread = entry.thread
        about = entry.about
        return Message(
            str(entry.id),
            group,
            entry.sender or _SERVER,
            entry.time_ms,
            self._marked(text, entry.message_meta().mentions),
            str(thread) if thread else "",
            str(about) if about and not thread else "",
            bool(thread) and not entry.is_beside,
            entry.is_edited,
            (),
            files,
        )

    def _marked(self, text: str, mentions: Collection[str]) -> str:
        """A text whose names of people that it mentions are marks."""
        self._meet([user for user in mentions if user != "all"])
        names = {"all": EVERYBODY} if "all" in mentions else {}
        names |= {
            each.nickname: user
            for user in mentions
            if (each := self._people.get(user)) is not None
        }
        if not names:
            return text
        longest_first = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        name = re.compile(f"@({longest_first})")
        return around_code(
            text, lambda part: name.sub(lambda each: mention(names[each[1]]), part)
        )

    def _messages(self) -> Iterator[Message | Change]:
        """Messages with their reactions, and changes."""
        message: Message | None = None
        reactions: dict[tuple[str, str], Reaction] = {}
        for each in self._spool.read():
            if not isinstance(each, Reacted):
                if message is not None:
                    yield (
                        replace(message, reactions=list(reactions.values()))
                        if reactions
                        else message
                    )
                reactions = {}
                message = None
                if isinstance(each, Message):
                    message = each
                else:
                    yield each
            elif each.is_there:
                reactions[each.person, each.emoji] = Reaction(each.person, each.emoji)
            else:
                reactions.pop((each.person, each.emoji), None)
        if message is not None:
            yield (
                replace(message, reactions=list(reactions.values()))
                if reactions
                else message
            )


def _ids(store: Store, table: str, where: str, app: str) -> Iterator[list[int]]:
    """Pages of the ids of an app. They have large gaps after the database has
    lost some."""
    for rows in store.pages(table, "id", "id", where, (app,)):
        yield [id for (id,) in rows]


def content_of(entry: Entry) -> tuple[str, list[File], str]:
    """The text and the files of a message, and what of it other servers do not
    have, for the report."""
    if entry.ask is not None:
        lost = "question or poll (its text leaves)"
    else:
        lost = ""
    if entry.type == "text":
        return entry.body.decode(errors="replace"), [], lost
    content = _read(Content, entry.body)
    if entry.type in _FILES and (content.items or content.name or content.url):
        return (
            content.caption,
            [_file(each) for each in content.items or [content]],
            lost,
        )
    lost = f"message of type {entry.type} (its name leaves)"
    return content.caption or content.name or f"[{entry.type}]", [], lost


def _person(user: str, account: Account | None) -> Person:
    if account is None:
        return Person(user, user, why="no account")
    if account.avatar.startswith(_UPLOAD):
        avatar = account.avatar.removeprefix(_UPLOAD)
    else:
        avatar = ""
    if account.bot:
        why = "bot"
    elif account.name or account.email:
        why = ""
    else:
        why = "no login"
    login, email = ("", "") if why else (account.name, account.email)
    return Person(user, account.nickname or user, login, email, avatar, why)


def _read(kind: type[_Json], raw: bytes) -> _Json:
    """What a message has as JSON, as far as it is of this kind."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, RecursionError):
        return kind()


def _change(entry: Entry, group: str) -> Change | None:
    """The change that an entry tells; None: no other server has it."""
    details = entry.group_meta()
    users = list(details.users or ())
    change = Change(str(entry.id), group, entry.sender, entry.time_ms, "join", users)
    if entry.kind == "join":
        return change
    if entry.kind == "leave":
        return replace(change, kind="leave")
    if entry.kind != "group":
        return None
    if details.change == "rename":
        name = details.name or ""
        return replace(change, kind="name", people=(), text=name)
    if details.change == "description":
        text = details.description or ""
        return replace(change, kind="description", people=(), text=text)
    return None


def _file(content: Content) -> File:
    url = content.url
    name = content.name or "file"
    if url.startswith(("http://", "https://")):
        return File("", name, url)
    return File(
        url.removeprefix(_UPLOAD),
        name,
        why="" if url else "file without its bytes (its name leaves)",
    )
