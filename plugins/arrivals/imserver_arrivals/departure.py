"""Reads an app in the form of an archive of another server: see
:class:`imserver_arrivals.records.Archive`.

The log is read once, and its messages and reactions are sorted on disk. People,
groups, members and pins are kept in memory.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import chain
from tempfile import TemporaryFile
from typing import IO, Any, ClassVar, Final, NamedTuple, TypeVar

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
from .text import SECOND_MS, around_code

_PAGE: Final = 500
_MOST_ID_DIGITS: Final = 18
_UPLOAD: Final = "/api/v1/uploads/"
_FILES: Final = {"picture", "voice", "video", "file", "album"}
"""Types of messages that consist of files."""
_Json = TypeVar("_Json")
_SERVER: Final = "server"
"""The id of the sender of messages that a back end has sent."""


class ReactionChange(Struct, frozen=True, tag="reacted"):
    """A reaction to a message, or its end. The emoji is a character or
    ``:name:``."""

    message: str
    person: str
    emoji: str
    is_added: bool


class Content(Struct):
    """The body of a message with files.

    An album has the files as ``items``. Another content is a file itself, as
    ``{"url": "/api/v1/uploads/…", "name": "plan.pdf"}``.
    """

    caption: str = ""
    url: str = ""
    name: str = ""
    items: list["Content"] = []


class Departure:
    """An app in the form of an archive, from which the writers of formats
    write.

    It has the people, groups and messages of the app, or only of the
    conversations ``groups`` (empty: of all). The interface is
    :class:`~imserver_arrivals.records.Archive`.
    """

    name: ClassVar[str] = "imserver"
    title: ClassVar[str] = "imserver"

    def __init__(
        self,
        store: Store,
        app: str,
        uploads: Uploads,
        groups: Collection[int],
        report_count: Any,
    ) -> None:
        """Read the conversations, people and the whole log of the app.

        ``report_count`` is called with the number of messages so far. Switches
        greenlets, and raises StorageUnavailable.
        """
        self.problems = Problems()
        self._app = app
        self._store = store
        self._uploads = uploads
        self._chosen = frozenset(groups)
        self._log = store.part(MessageLog)
        self._accounts = AccountStore(store)
        self._emoji = OwnEmoji(store, uploads)
        self._conversations: dict[int, Conversation] = {}
        self._members: dict[int, list[Member]] = {}
        """Conversation → its members."""
        self._pins: dict[int, dict[str, Pin]] = {}
        """Conversation → id of a pinned message → its pin."""
        self._people: dict[str, Account | None] = {}
        """Id of a user → the account. None if the user has no account."""
        self._spool = Spool(_id_of, Message | Change | ReactionChange)
        """Sorts the messages, changes and reactions of the log."""

        self._read_conversations()
        if not groups:
            self._read_all_accounts()
        self._read_log(report_count)

    def _read_conversations(self) -> None:
        """Read the conversations with their members, and the members'
        accounts."""
        for conversation in self._all_conversations():
            self._conversations[conversation.id] = conversation
        for conversation in self._conversations.values():
            members = list(self._members_of(conversation))
            self._members[conversation.id] = members
        everybody = chain.from_iterable(self._members.values())
        self._look_up({member.person for member in everybody})

    def _read_all_accounts(self) -> None:
        """Read all accounts of the app, with or without a conversation."""
        for ids in _pages_of_ids(self._store, "account", "app = %s", self._app):
            for account in self._accounts.by_ids(self._app, ids):
                self._people[account.user] = account

    def close(self) -> None:
        """Free the space on the disk."""
        self._spool.close()

    def records(self) -> Iterator[Record]:
        """Yield all records: people, emoji, groups, and then messages with
        their reactions."""
        for user, account in self._people.items():
            yield _person(user, account)
        for row in self._emoji.of(self._app):
            yield Emoji(row.name, row.picture)
        for id, conversation in self._conversations.items():
            yield self._group(conversation, self._members[id])
        yield from self._messages()

    def open(self, file: str) -> IO[bytes] | None:
        """Open an upload of the app, as a temporary file.

        None if it does not exist, or is damaged. Damage is noted.
        """
        row = self._uploads.find(file)
        if row is None or row.app != self._app:
            return None
        # Pieces of an upload can only be read in their order, and a writer
        # needs a file.
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

    def _all_conversations(self) -> Iterator[Conversation]:
        """Yield the conversations of the archive, except rooms."""
        of_log = "log = (SELECT number FROM log WHERE app = %s AND part = 0)"
        pages: Iterable[list[int]]
        if self._chosen:
            pages = [sorted(self._chosen)]
        else:
            pages = _pages_of_ids(self._store, "conversation", of_log, self._app)
        for ids in pages:
            for row in self._log.conversations.find(self._app, ids):
                if row.kind != "room":
                    yield row

    def _members_of(self, conversation: Conversation) -> Iterator[Member]:
        """Yield the members of a conversation, with the times of their
        reading."""
        after = ""
        while True:
            page = self._log.conversations.members(
                self._app, conversation.id, after, _PAGE
            )
            if not page:
                return
            after = page[-1].user
            read_times = self._read_times(conversation.id, [row.user for row in page])
            for row in page:
                role: Role = "member"
                if row.role in ("owner", "admin"):
                    role = row.role  # type: ignore[assignment]
                yield Member(row.user, role, read_ms=read_times[row.user])

    def _read_times(self, id: int, users: list[str]) -> dict[str, int]:
        """Return the time up to which each user has read a conversation.

        The log knows up to which message they have read. An archive has the
        time of this message, and -1 if it has expired.
        """
        positions = self._log.conversations.read_positions(self._app, {id: users})
        times = self._times_of(positions.values())
        return {user: times.get(positions.get((user, id), 0), -1) for user in users}

    def _times_of(self, positions: Iterable[int]) -> dict[int, int]:
        """Return the time of the message at each position.

        Position 0 means that nothing was read, and has the time 0.
        """
        ids = sorted({id for id in positions if id})
        times = {0: 0}
        for entry in self._log.entries.find(self._app, ids):
            times[entry.id] = entry.time_ms
        return times

    def _group(self, conversation: Conversation, members: list[Member]) -> Group:
        """Return the record of a conversation, with its members and pins."""
        kind: GroupKind = "closed"
        # Only a conversation of two has its members in its row.
        if conversation.members:
            kind = "direct"
        elif conversation.open or conversation.everybody:
            kind = "open"
        # Nobody knows who has created it, and the owner comes nearest.
        owners = (member.person for member in members if member.role == "owner")
        return Group(
            id=str(conversation.id),
            kind=kind,
            name=conversation.name,
            description=conversation.description,
            creator=next(owners, ""),
            created_ms=conversation.created * SECOND_MS,
            members=members,
            pins=list(self._pins.get(conversation.id, {}).values()),
            avatar=_upload_of(conversation.avatar),
        )

    def _look_up(self, users: Collection[str]) -> None:
        """Look up the accounts of users who are not known yet.

        A user whose id is not a number has no account.
        """
        new = [user for user in users if user and user not in self._people]
        self._people.update(dict.fromkeys(new))
        ids = [int(user) for user in new if _is_id(user)]
        for start in range(0, len(ids), _PAGE):
            for account in self._accounts.by_ids(self._app, ids[start : start + _PAGE]):
                self._people[account.user] = account

    # --- the log --------------------------------------------------------------

    def _read_log(self, report_count: Any) -> None:
        """Read the log of the app, page by page.

        Messages, reactions and changes go into the spool. Pins stay in memory.
        """
        after = 0
        count = 0
        while True:
            page = self._log.entries.read(self._app, after, _PAGE)
            if not page:
                return
            after = page[-1].id
            entries = [
                entry for entry in page if entry.conversation in self._conversations
            ]
            for entry in entries:
                self._look_up({entry.sender, *(entry.group_meta().users or ())})
            for entry in entries:
                self._read_entry(entry)
                count += entry.kind == "message"
            report_count(count)

    def _read_entry(self, entry: Entry) -> None:
        """Put the record of an entry into the spool, or apply a pin.

        Other kinds of entries have no record.
        """
        group = str(entry.conversation)
        if entry.kind == "message":
            self._look_up([entry.sender or _SERVER])
            self._spool.add(self._message(entry, group))
        elif entry.kind == "reaction" and entry.sender:
            self._spool.add(_reaction_change(entry))
        elif entry.kind == "pin":
            self._apply_pin(entry)
        elif entry.sender:
            change_of_group = _change(entry, group)
            if change_of_group is not None:
                self._spool.add(change_of_group)

    def _apply_pin(self, entry: Entry) -> None:
        """Pin a message or take its pin back. Its last pin counts."""
        message = str(entry.about)
        pins = self._pins.setdefault(entry.conversation, {})
        pins.pop(message, None)
        if entry.type == "add":
            pins[message] = Pin(message, entry.sender, entry.time_ms)

    def _message(self, entry: Entry, group: str) -> Message:
        """Return a message of the log as a record, without its reactions."""
        text, files, lost = content_of(entry)
        if lost:
            self.problems.note(lost, group=group)
        thread = ""
        reply = ""
        if entry.thread:
            thread = str(entry.thread)
        elif entry.about:
            reply = str(entry.about)
        return Message(
            id=str(entry.id),
            group=group,
            person=entry.sender or _SERVER,
            time_ms=entry.time_ms,
            text=self._marked(text, entry.message_meta().mentions),
            thread=thread,
            reply=reply,
            # A reply that is not beside the conversation is shown in it, too.
            also=bool(thread) and not entry.is_beside,
            is_edited=entry.is_edited,
            files=files,
        )

    def _marked(self, text: str, mentions: Collection[str]) -> str:
        """Replace the names of mentioned people in a text by marks.

        ``Hi @Ann`` becomes ``Hi`` and the mark of Ann, for example.
        ``mentions``: the users, or ``all``.
        """
        self._look_up([user for user in mentions if user != "all"])
        ids = self._ids_by_name(mentions)
        if not ids:
            return text

        # The longest names first, because a name may begin with another one.
        names = sorted(ids, key=len, reverse=True)
        name = re.compile(f"@({'|'.join(map(re.escape, names))})")

        def mark(match: re.Match[str]) -> str:
            return mention(ids[match[1]])

        return around_code(text, partial(name.sub, mark))

    def _ids_by_name(self, mentions: Collection[str]) -> dict[str, str]:
        """Return the names that stand for mentioned people in a text, and their
        users."""
        ids = {}
        if "all" in mentions:
            ids["all"] = EVERYBODY
        for user in mentions:
            account = self._people.get(user)
            if account is not None:
                ids[account.nickname] = user
        return ids

    def _messages(self) -> Iterator[Message | Change]:
        """Yield the messages with their reactions, and the changes.

        In the spool the reactions to a message follow it.
        """
        message: Message | None = None
        reactions: dict[tuple[str, str], Reaction] = {}
        for record in self._spool.read():
            if isinstance(record, ReactionChange):
                key = record.person, record.emoji
                if record.is_added:
                    reactions[key] = Reaction(*key)
                else:
                    reactions.pop(key, None)
                continue
            # All reactions to the message before have come.
            if message is not None:
                yield _with_reactions(message, reactions)
            reactions = {}
            message = None
            if isinstance(record, Message):
                message = record
            else:
                yield record
        if message is not None:
            yield _with_reactions(message, reactions)


def _reaction_change(entry: Entry) -> ReactionChange:
    """Return the reaction that an entry of the log adds or takes back."""
    return ReactionChange(
        message=str(entry.about),
        person=entry.sender,
        emoji=entry.body.decode(errors="replace"),
        is_added=entry.type == "add",
    )


def _with_reactions(
    message: Message, reactions: dict[tuple[str, str], Reaction]
) -> Message:
    """Return a message with its reactions, which are the values of the dict."""
    if reactions:
        return replace(message, reactions=list(reactions.values()))
    return message


def _id_of(record: Message | Change | ReactionChange) -> int:
    """Return the key by which the spool sorts: an id of the log.

    Reactions have the key of their message, and so come after it.
    """
    if isinstance(record, ReactionChange):
        return int(record.message)
    return int(record.id)


def _is_id(user: str) -> bool:
    """Whether the id of a user is that of an account, which is a number."""
    return user.isascii() and user.isdigit() and len(user) <= _MOST_ID_DIGITS


def _upload_of(url: str) -> str:
    """Return the id of an upload by its address; ``""`` if the address leads
    elsewhere."""
    if url.startswith(_UPLOAD):
        return url.removeprefix(_UPLOAD)
    return ""


def _pages_of_ids(
    store: Store, table: str, where: str, app: str
) -> Iterator[list[int]]:
    """Yield the ids of the rows of an app in a table, as pages.

    Ids can have large gaps, so pages are not made from ranges of ids.
    ``where``: a condition of SQL with one ``%s``, for the app.
    """
    for rows in store.pages(table, "id", "id", where, (app,)):
        yield [id for (id,) in rows]


class EntryContent(NamedTuple):
    """A message of the log in a form that other servers have, too."""

    text: str
    files: list[File]
    lost: str
    """The part that other servers do not have, for the report; ``""``: they
    have all."""


def content_of(entry: Entry) -> EntryContent:
    """Return the text and the files of a message of the log.

    The text of files is their caption. A message of another type, such as a
    location, leaves only its name.
    """
    lost = ""
    if entry.ask is not None:
        lost = "question or poll (its text leaves)"
    if entry.type == "text":
        return EntryContent(entry.body.decode(errors="replace"), [], lost)

    content = _decode_or_empty(Content, entry.body)
    if entry.type in _FILES and (content.items or content.name or content.url):
        # An album has items. Another content is one file itself.
        files = list(map(_file, content.items or [content]))
        return EntryContent(content.caption, files, lost)
    lost = f"message of type {entry.type} (its name leaves)"
    text = content.caption or content.name or f"[{entry.type}]"
    return EntryContent(text, [], lost)


def _person(user: str, account: Account | None) -> Person:
    """Return the record of a user. ``account`` is None if the user does not
    have one.

    ``why`` is set if nobody can log in as the user on the other server.
    """
    if account is None:
        return Person(user, user, why="no account")
    avatar = _upload_of(account.avatar)
    nickname = account.nickname or user
    if account.bot:
        return Person(user, nickname, avatar=avatar, why="bot")
    if account.name or account.email:
        return Person(
            user, nickname, login=account.name, email=account.email, avatar=avatar
        )
    return Person(user, nickname, avatar=avatar, why="no login")


def _decode_or_empty(kind: type[_Json], raw: bytes) -> _Json:
    """Return a JSON body as a struct; the empty struct if the body has another
    form."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, RecursionError):
        return kind()


def _change(entry: Entry, group: str) -> Change | None:
    """Return the change of a group that an entry of the log reports.

    Somebody joins or leaves, or the name or the description changes. None for
    all other entries, because no other server has such changes.
    """
    details = entry.group_meta()
    users = list(details.users or ())
    change = Change(str(entry.id), group, entry.sender, entry.time_ms, "join", users)
    if entry.kind == "join":
        return change
    if entry.kind == "leave":
        return replace(change, kind="leave")
    if entry.kind != "group":
        return None
    about_nobody = replace(change, people=())
    if details.change == "rename":
        return replace(about_nobody, kind="name", text=details.name or "")
    if details.change == "description":
        text = details.description or ""
        return replace(about_nobody, kind="description", text=text)
    return None


def _file(content: Content) -> File:
    """Return a file of a message, which is an upload, or an address elsewhere.

    Without an address its bytes are missing.
    """
    url = content.url
    name = content.name or "file"
    if url.startswith(("http://", "https://")):
        return File(id="", name=name, address=url)
    if not url:
        return File(id="", name=name, why="file without its bytes (its name leaves)")
    return File(url.removeprefix(_UPLOAD), name)
