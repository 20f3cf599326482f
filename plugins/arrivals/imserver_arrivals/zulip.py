"""Reads Zulip's export of an organization: a ``.tar.gz`` file, or the folder in
it.

The format was read from Zulip's sources, not from documents:
``zerver/lib/export.py`` of versions 1.7, 9 and 12, and the classes of
``zerver/models`` of versions 9 and 10. ``realm.json`` has the tables: people,
channels, subscriptions, reactions. ``messages-000001.json`` and the following
files have a thousand messages each, with the people who have read them.
``attachment.json`` lists the files below ``uploads/``, and
``avatars/records.json`` the pictures of people. The organization's own emoji
are below ``emoji/``.

A channel is a group. A topic in it is a thread: its oldest message begins it,
and shows the topic's name.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar, Final, NamedTuple, TypeVar
from urllib.parse import unquote

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from .fields import RecordReader, text_at
from .problems import BadArchive, Problems
from .records import (
    EVERYBODY,
    Emoji,
    File,
    Group,
    GroupKind,
    Member,
    Message,
    Person,
    Reaction,
    Record,
    Role,
    link,
    mention,
)
from .source import source_of
from .tables import Tables
from .text import (
    COVER,
    LATEST_MS,
    SECOND_MS,
    clean,
    emoji_named,
    labelled,
    spoilers_file,
    spoilers_in,
)
from .writing import without_marks

_READ: Final = 1
"""The bit of ``flags_mask`` which tells that somebody has read a message."""
_STARRED: Final = 2
_SEVERAL: Final = 3
"""The type of a recipient that is a conversation of several people."""
_PREFIXES: Final = {1: "p", 2: "s", _SEVERAL: "h"}
"""Type of a recipient (a person, a channel, several people) → the prefix of its
id in the id of a group."""
_MOST_ID_DIGITS: Final = 18
_MOST_CODE_POINTS: Final = 16
"""The most code points of an emoji."""
_MOST_BLOCKS: Final = 8
"""The most nested blocks that are read."""
_MOST_DEPTH: Final = 4
"""The most levels of bold and italic text that are read."""
_LEFT_OUT: Final = {
    "zerver_usertopic": "topic that somebody mutes or follows",
    "zerver_submessage": "vote in a poll, or change of a list",
}
"""Tables that are only counted → the name of their rows."""
_PART: Final = re.compile(r"messages-(\d{1,12})\.json", re.ASCII)
_UNFINISHED: Final = ".partial"
"""Ending of the name of a part, until the export has noted who has read its
messages."""
_Row = TypeVar("_Row")


# --- rows, as Zulip writes them -----------------------------------------------


class _User(Struct):
    """A person or a bot. ``recipient`` stands for the person as the receiver of
    messages."""

    id: int
    full_name: str | None = None
    delivery_email: str | None = None
    email: str | None = None
    recipient: int | None = None
    recipient_id: int | None = None
    is_active: bool | None = True
    is_bot: bool | None = False
    is_mirror_dummy: bool | None = False


class _Channel(Struct):
    """A channel. Older versions call it a stream."""

    id: int
    name: str | None = None
    description: str | None = None
    creator: int | None = None
    date_created: float | None = None
    recipient: int | None = None
    invite_only: bool | None = False
    history_public_to_subscribers: bool | None = True
    deactivated: bool | None = False


class _Recipient(Struct):
    """A receiver of messages. ``type_id`` is the id of a person, a channel or
    several people."""

    id: int
    type: int
    type_id: int


class _Subscription(Struct):
    """A membership: a person gets the messages to a recipient."""

    user_profile: int
    recipient: int
    active: bool | None = True


class _Emoji(Struct):
    """An emoji of the organization's own. ``file_name`` is its picture."""

    id: int
    name: str
    realm: int | None = None
    file_name: str | None = None
    deactivated: bool | None = False


class _Reaction(Struct):
    """A reaction, such as ``{"message": 7, "user_profile": 11, "emoji_code":
    "1f44d"}``."""

    user_profile: int
    message: int
    emoji_code: str
    emoji_name: str | None = None
    reaction_type: str | None = "unicode_emoji"


class _Message(Struct):
    """A message, such as ``{"id": 7, "sender": 11, "recipient": 3, "subject":
    "tea", "content": "Hi @**Ann**"}``.

    ``subject`` is the topic in the channel. Times are Unix seconds.
    """

    id: int
    sender: int
    recipient: int
    content: str
    subject: str | None = ""
    date_sent: float | None = None
    pub_date: float | None = None
    """The field's name before version 2."""
    last_edit_time: float | None = None
    edit_history: str | list[dict[str, Any]] | None = None


class _Flags(Struct):
    """The marks that a person has set at a message, as bits: read, starred,
    …"""

    user_profile: int
    message: int
    flags_mask: int | None = 0


class _Avatar(Struct):
    """The picture of a person, below ``avatars/``."""

    path: str
    user_profile_id: int


_ROWS: Final[dict[type[Any], str]] = {
    _User: "a person",
    _Channel: "a channel",
    _Recipient: "a recipient",
    _Subscription: "a subscription",
    _Emoji: "an emoji",
    _Reaction: "a reaction",
    _Message: "a message",
    _Flags: "a mark of a message",
    _Avatar: "a picture",
}
"""Kind of a row → its name in the report."""
_TABLES: Final[dict[str, type[Any]]] = {
    "zerver_userprofile": _User,
    "zerver_userprofile_mirrordummy": _User,
    "zerver_userprofile_crossrealm": _User,
    "zerver_stream": _Channel,
    "zerver_recipient": _Recipient,
    "zerver_subscription": _Subscription,
    "zerver_realmemoji": _Emoji,
    "zerver_reaction": _Reaction,
}
"""Table of ``realm.json`` that is read → the kind of its rows."""


# --- reading ------------------------------------------------------------------


class Zulip:
    """The adapter for exports of Zulip.

    It converts them to the records which the importer stores. The interface is
    :class:`~imserver_arrivals.records.Archive`.
    """

    name: ClassVar[str] = "zulip"
    title: ClassVar[str] = "Zulip"

    def __init__(self, path: Path) -> None:
        """Open an export, and find its files with messages.

        Raises BadArchive if it has no ``realm.json``.
        """
        self.problems = Problems()
        self._source = source_of(path, self.problems)
        self._names = set(self._source.names)
        self._top = self._top_of(path)
        self.parts = self._find_parts()
        """The files with messages, in the order of their numbers."""
        if not self.parts:
            self.problems.note_broken(
                "messages-000001.json", "there is no file with messages"
            )
        self._readers: dict[type[Any], RecordReader[Any]] = {}
        self._realm: _Realm | None = None

    def _top_of(self, path: Path) -> str:
        """Return the folder of the export in the archive, with a slash at its
        end.

        ``""`` if it is the top of the archive. Raises BadArchive if no folder
        has a ``realm.json``.
        """
        tops = [name for name in self._names if name.rpartition("/")[2] == "realm.json"]
        if not tops:
            raise BadArchive(f"{path} is no export of Zulip: it has no realm.json")
        return min(sorted(tops), key=len).removesuffix("realm.json")

    def _find_parts(self) -> list[str]:
        """Return the names of the files with messages.

        A part that Zulip has not finished, such as
        ``messages-000002.json.partial``, counts if the finished one is missing.
        """
        files = sorted(
            name.removeprefix(self._top)
            for name in self._names
            if name.startswith(self._top)
        )
        parts = [name for name in files if _PART.fullmatch(name)]
        for name in files:
            part = name.removesuffix(_UNFINISHED)
            if _PART.fullmatch(part) and part not in parts:
                parts.append(name)
        return parts

    def records(self) -> Iterator[Record]:
        """Yield all records: people, emoji, groups, and then messages.

        The messages are read twice, because the people who have read them are
        listed between them.
        """
        # Messages that are not imported are noted by the first call alone.
        notes = self.problems
        if self._realm is not None:
            notes = Problems()
        realm = self._realm or _Realm(self)
        self._realm = realm
        yield from realm.people.values()
        yield from realm.emoji
        yield from realm.groups()
        texts = _Texts(realm)
        for part in self.parts:
            for row in self._messages_in(part):
                message = realm.message(row, texts, notes)
                if message is not None:
                    yield message

    def _messages_in(self, part: str) -> Iterator[_Message]:
        """Yield the messages of a part, in the second reading.

        Nothing is noted, because the first reading has noted it.
        """
        silent = Problems()
        has_begun = False
        for table, value, where in self.rows(part, silent):
            if table == "zerver_message":
                has_begun = True
                row = self.row(_Message, value, where, silent)
                if row is not None:
                    yield row
            elif has_begun:
                # The list of people who have read the messages follows. It is
                # most of the file, and is not read again.
                return

    def open(self, file: str) -> IO[bytes] | None:
        """Open a file by its id, which is its path or an id of spoilers. None
        if it is missing."""
        spoilers = spoilers_in(file)
        if spoilers is not None:
            return spoilers
        if self.has(file):
            return self._source.open(self._top + file)
        return None

    # --- for _Realm -----------------------------------------------------------

    def has(self, file: str) -> bool:
        """Whether the archive has this file."""
        return self._top + file in self._names

    def rows(
        self, file: str, notes: Problems | None = None
    ) -> Iterator[tuple[str, Any, str]]:
        """Yield (table, row, where it is) for the rows of a JSON file.

        ``("zerver_stream", {"id": 3, …}, "realm.json, row 12")`` is an example.
        Yields nothing if the archive does not have the file. ``notes`` gets the
        error of a broken file; by default, :attr:`problems` gets it.
        """
        if not self.has(file):
            return
        try:
            with self._source.open(self._top + file) as opened:
                for number, (table, row) in enumerate(Tables(opened).rows(), 1):
                    yield table, row, f"{file}, row {number}"
        except Exception as error:  # also of a decompressor
            has_messages = file in self.parts
            (notes or self.problems).note_broken(
                file, error, messages=int(has_messages)
            )

    def row(
        self, kind: type[_Row], row: Any, where: str, notes: Problems | None = None
    ) -> _Row | None:
        """Convert a row to a record of this kind. None if it is broken.

        Broken rows and fields with wrong types are noted. ``where`` says in the
        report where the row is.
        """
        notes = notes or self.problems
        reader: RecordReader[_Row] = self._readers.setdefault(kind, RecordReader(kind))
        note_field = partial(notes.note_field, _ROWS.get(kind, where))
        try:
            return reader.convert(row, note_field)
        except (ValueError, RecursionError) as error:
            notes.note_broken(where, error, messages=int(kind is _Message))
            return None


def _ms(seconds: float | None) -> int:
    """Convert Unix seconds to milliseconds. 0 if the time is missing or not
    possible."""
    if seconds and 0 < seconds < LATEST_MS / SECOND_MS:
        return int(seconds * SECOND_MS)
    return 0


class _Beginning(NamedTuple):
    """The oldest message of a topic."""

    time_ms: int
    id: int


class _Conversation(Struct):
    """The facts about a conversation from the tables and from its messages."""

    kind: GroupKind
    people: dict[int, None] = field(default_factory=dict)
    """The members, as an ordered set."""
    channel: _Channel | None = None
    """None for a conversation of some people, which has no name."""
    is_used: bool = False
    """Whether it has messages."""
    unread_ms: dict[int, int] = field(default_factory=dict)
    """Person who has received messages → the time of the first one that they
    have not read; 0 if they have read all."""
    topics: dict[str, _Beginning] = field(default_factory=dict)
    """Topic in lower case → its oldest message."""


class _Realm:
    """The tables of an organization, which Zulip calls a realm.

    It also has the facts about conversations that only their messages tell.
    """

    def __init__(self, archive: Zulip) -> None:
        """Read the tables, and then all messages for the first time."""
        self.archive = archive
        self.people: dict[int, Person] = {}
        self.channels: dict[int, _Channel] = {}
        self.emoji: list[Emoji] = []
        self.emoji_names: dict[str, str] = {}
        """Name of an emoji → the character, for emoji that were used in
        reactions."""
        self._own_emoji: dict[str, str] = {}
        """Id of an emoji of the organization → its name."""
        self._recipients: dict[int, str] = {}
        """Recipient → the id of the group: ``s3`` for channel 3, for example. A
        person is ``p11``, because only with the sender it becomes a group."""
        self._conversations: dict[str, _Conversation] = {}
        self._reactions: dict[int, list[Reaction]] = {}
        """Message → its reactions."""
        self._last_ms = 0
        """The time of the last message."""
        self.files: dict[str, str] = {}
        """Path of an uploaded file → its name."""
        self._read_tables()
        for part in archive.parts:
            self._read_part(part)

    # --- tables ---------------------------------------------------------------

    def _read_tables(self) -> None:
        """Read all tables except messages.

        People come first, because channels and recipients refer to them.
        """
        tables = self._tables()
        self._add_people(tables)
        for channel in tables["zerver_stream"]:
            self._add_channel(channel)
        self._add_recipients(tables["zerver_recipient"], tables["zerver_subscription"])
        self._read_emoji(tables["zerver_realmemoji"], tables["zerver_reaction"])
        for _, row, _ in self.archive.rows("attachment.json"):
            path = text_at(row, "path_id")
            if path:
                name = clean(str(row.get("file_name") or ""))
                self.files[path] = name.replace("\n", " ")

    def _add_people(self, tables: Mapping[str, list[Any]]) -> None:
        """Add the people and bots of three tables, with their pictures.

        A *mirror dummy* stands for a person who has no account of their own.
        Bots of the whole server are in the table ``crossrealm``.
        """
        avatars = self._avatars()
        for table in ("zerver_userprofile", "zerver_userprofile_mirrordummy"):
            for user in tables[table]:
                self._add_person(
                    user, avatars.get(user.id, ""), is_bot=bool(user.is_bot)
                )
        for bot in tables["zerver_userprofile_crossrealm"]:
            self._add_person(bot, "", is_bot=True)

    def _tables(self) -> Mapping[str, list[Any]]:
        """Return the rows of each table of ``realm.json`` that is read."""
        archive = self.archive
        tables: dict[str, list[Any]] = {table: [] for table in _TABLES}
        for table, value, where in archive.rows("realm.json"):
            if table in _LEFT_OUT:
                archive.problems.note(_LEFT_OUT[table])
            elif table in _TABLES:
                row = archive.row(_TABLES[table], value, where)
                if row is not None:
                    tables[table].append(row)
        return tables

    def _avatars(self) -> Mapping[int, str]:
        """Return the path of each person's best picture, by the person's id."""
        archive = self.archive
        avatars: dict[int, str] = {}
        for _, value, where in archive.rows("avatars/records.json"):
            avatar = archive.row(_Avatar, value, where)
            if avatar is None:
                continue
            user = avatar.user_profile_id
            path = f"avatars/{avatar.path}"
            if archive.has(path) and _rank(path) >= _rank(avatars.get(user, "")):
                avatars[user] = path
        return avatars

    def _add_channel(self, channel: _Channel) -> None:
        """Add a channel as a conversation with the id ``s`` and its number."""
        group = f"s{channel.id}"
        kind: GroupKind = "open"
        if channel.invite_only:
            kind = "closed"
        self.channels[channel.id] = channel
        self._conversations[group] = _Conversation(kind, channel=channel)
        if channel.recipient is not None:
            self._recipients[channel.recipient] = group
        if not channel.history_public_to_subscribers:
            self.archive.problems.note(
                "protected history (new members read it)", group=group
            )

    def _add_recipients(
        self, recipients: list[_Recipient], subscriptions: list[_Subscription]
    ) -> None:
        """Note to whom messages may be sent, and who gets them.

        The subscriptions tell the members of channels and of conversations of
        several people.
        """
        members = self._members_by_recipient(subscriptions)
        for recipient in recipients:
            if recipient.type in _PREFIXES:
                people = members.get(recipient.id, {})
                self._recipients[recipient.id] = self._group_of_recipient(
                    recipient, people
                )
        for id, group in self._recipients.items():
            # The members of a conversation of two are clear from its id.
            if group[0] in "sh" and group in self._conversations:
                self._conversations[group].people = members.get(id, {})

    def _members_by_recipient(
        self, subscriptions: list[_Subscription]
    ) -> dict[int, dict[int, None]]:
        """Return the known people who get the messages to each recipient."""
        members: dict[int, dict[int, None]] = {}
        for row in subscriptions:
            if row.active and row.user_profile in self.people:
                members.setdefault(row.recipient, {})[row.user_profile] = None
        return members

    def _group_of_recipient(
        self, recipient: _Recipient, people: Mapping[int, None]
    ) -> str:
        """Return the id of the group for which a recipient stands.

        A conversation of several people is made. ``people``: who is in it.
        """
        group = f"{_PREFIXES[recipient.type]}{recipient.type_id}"
        if recipient.type != _SEVERAL:
            return group
        # Version 11 lists conversations of two in this way, too.
        if 0 < len(people) <= 2:
            return self._conversation_of_two(min(people), max(people))
        self._conversations[group] = _Conversation("several")
        return group

    def _add_person(self, user: _User, avatar: str, *, is_bot: bool) -> None:
        """Add a person. ``avatar``: the path of the picture, or ``""``.

        Nobody may claim the account of a bot or a deactivated person, so their
        records have a reason in place of an address.
        """
        id = str(user.id)
        email = user.delivery_email or user.email or ""
        name = user.full_name or _name_in(email)
        person = Person(id, clean(name), avatar=avatar)
        if is_bot:
            person = replace(person, why="bot")
        # In exports with consent, a mirror dummy is a person without consent.
        elif user.is_active or user.is_mirror_dummy:
            person = replace(person, email=clean(email))
        else:
            person = replace(person, why="deactivated")
        self.people[user.id] = person
        # The field's name depends on the version.
        for recipient in (user.recipient, user.recipient_id):
            if recipient is not None:
                self._recipients[recipient] = f"p{id}"

    def _read_emoji(self, emoji: list[_Emoji], reactions: list[_Reaction]) -> None:
        """Note the organization's own emoji, and then the reactions to
        messages."""
        for row in emoji:
            name = clean(row.name)
            self._own_emoji[str(row.id)] = name
            path = f"emoji/{row.realm}/emoji/images/{row.file_name}"
            if self.archive.has(path) and not row.deactivated:
                self.emoji.append(Emoji(name, path))
        for reaction in reactions:
            self._add_reaction(reaction)

    def _add_reaction(self, reaction: _Reaction) -> None:
        """Note a reaction, unless its person or its emoji is unknown."""
        character = self._character(reaction)
        person = self.people.get(reaction.user_profile)
        if not character or person is None:
            self.archive.problems.note("reaction of nobody or with nothing")
            return
        of_message = self._reactions.setdefault(reaction.message, [])
        of_message.append(Reaction(person.id, character))

    def _character(self, reaction: _Reaction) -> str:
        """Return the character of a reaction's emoji; ``""`` if it is not an
        emoji.

        ``emoji_code`` has code points such as ``1f1e9-1f1ea``, or the id of an
        emoji of the organization, which becomes ``:name:``.
        """
        code = reaction.emoji_code
        if reaction.reaction_type == "realm_emoji":
            name = self._own_emoji.get(code) or clean(reaction.emoji_name or "")
            if name:
                return f":{name}:"
            return ""
        if reaction.reaction_type == "zulip_extra_emoji":
            return f":{clean(code)}:"
        character = _character_of_code(code)
        if character is None:
            return ""
        if reaction.emoji_name:
            self.emoji_names[reaction.emoji_name] = character
        return character

    # --- messages -------------------------------------------------------------

    def _read_part(self, part: str) -> None:
        """Read a file of messages for the first time.

        Notes the first messages of topics, the partners of conversations, and
        how far people have read.
        """
        archive = self.archive
        positions: dict[int, tuple[_Conversation, int]] = {}
        """Message → its conversation and its time."""
        for table, value, where in archive.rows(part):
            if table == "zerver_message":
                message = archive.row(_Message, value, where)
                if message is not None:
                    self._survey_message(message, positions)
            # These rows follow the messages of the part.
            elif table == "zerver_usermessage":
                flags = archive.row(_Flags, value, where)
                if flags is not None and flags.message in positions:
                    self._note_flags(flags, *positions[flags.message])

    def _survey_message(
        self, message: _Message, positions: dict[int, tuple[_Conversation, int]]
    ) -> None:
        """Note the conversation of a message, and the oldest message of its
        topic.

        ``positions`` gets the message with its conversation and time.
        """
        time_ms = _ms(message.date_sent or message.pub_date)
        conversation = self._conversations.get(self._group_of(message))
        if not time_ms or conversation is None:
            return
        conversation.is_used = True
        self._last_ms = max(self._last_ms, time_ms)
        positions[message.id] = (conversation, time_ms)
        topic = _topic_of(message).lower()
        if conversation.channel is not None and topic not in ("", "(no topic)"):
            this = _Beginning(time_ms, message.id)
            oldest = conversation.topics.get(topic, this)
            conversation.topics[topic] = min(oldest, this)

    def _note_flags(
        self, flags: _Flags, conversation: _Conversation, time_ms: int
    ) -> None:
        """Note whether a person has read a message, and whether they have
        starred it.

        ``time_ms``: when the message was sent.
        """
        user = flags.user_profile
        mask = flags.flags_mask or 0
        if mask & _READ:
            conversation.unread_ms.setdefault(user, 0)
        else:
            # 0 means that the person has read all messages so far.
            first_ms = conversation.unread_ms.get(user) or time_ms
            conversation.unread_ms[user] = min(first_ms, time_ms)
        if mask & _STARRED:
            self.archive.problems.note(
                "message that somebody has starred", person=str(user)
            )

    def _group_of(self, message: _Message) -> str:
        """Return the id of the group of a message; ``""`` if it belongs to no
        group.

        A recipient that is a person stands for the conversation of this person
        with the sender.
        """
        group = self._recipients.get(message.recipient, "")
        if not group.startswith("p"):
            if group in self._conversations:
                return group
            return ""
        one, other = sorted((message.sender, int(group[1:])))
        if one not in self.people or other not in self.people:
            return ""
        return self._conversation_of_two(one, other)

    def _conversation_of_two(self, one: int, other: int) -> str:
        """Return the id of the group of two people, such as ``d11.12``.

        The group is made if it is new.
        """
        group = f"d{one}.{other}"
        self._conversations.setdefault(
            group, _Conversation("direct", {one: None, other: None})
        )
        return group

    def groups(self) -> Iterator[Group]:
        """Yield all conversations.

        A conversation of some people without any message is left out. A
        channel without one comes as an empty group.
        """
        texts = _Texts(self)
        for id, conversation in self._conversations.items():
            if not (conversation.is_used or conversation.channel):
                continue
            # An empty row, for a conversation that is not a channel.
            channel = conversation.channel or _Channel(0)
            description, _ = texts.convert(channel.description or "")
            yield Group(
                id=id,
                kind=conversation.kind,
                name=clean(channel.name or ""),
                description=description,
                creator=self._creator_of(channel),
                created_ms=_ms(channel.date_created),
                members=[
                    self._member(user, conversation, channel)
                    for user in conversation.people
                ],
                is_archived=bool(channel.deactivated),
            )

    def _creator_of(self, channel: _Channel) -> str:
        """Return the person who has created a channel; ``""`` if unknown."""
        person = self.people.get(channel.creator or 0)
        if person is None:
            return ""
        return person.id

    def _member(
        self, user: int, conversation: _Conversation, channel: _Channel
    ) -> Member:
        """Return the membership of a person in a conversation.

        The person has read all messages before the first unread one. -1 is the
        time for a person who has received no messages.
        """
        unread_ms = conversation.unread_ms.get(user)
        if unread_ms is None:
            read_ms = -1
        elif unread_ms == 0:
            read_ms = self._last_ms
        else:
            read_ms = unread_ms - 1
        role: Role = "member"
        if user == channel.creator:
            role = "owner"
        return Member(str(user), role, read_ms)

    def message(
        self, message: _Message, texts: "_Texts", notes: Problems
    ) -> Message | None:
        """Return the record of a message.

        None if it has no known sender, conversation or time. That is noted.
        """
        group = self._group_of(message)
        time_ms = _ms(message.date_sent or message.pub_date)
        conversation = self._conversations.get(group)
        sender = self.people.get(message.sender)
        if conversation is None or sender is None or not time_ms:
            notes.note_lost(
                "message of nobody, to nobody or without a time", group=group
            )
            return None

        text, files = texts.convert(message.content)
        text, thread = _text_and_thread(message, text, conversation)
        return Message(
            id=str(message.id),
            group=group,
            person=sender.id,
            time_ms=time_ms,
            text=text,
            thread=thread,
            is_edited=_is_edited(message),
            reactions=self._reactions.get(message.id, ()),
            files=files,
        )


def _name_in(email: str) -> str:
    """Return the name that an address suggests.

    ``ann.lee@example.org`` suggests ``Ann Lee``.
    """
    return re.sub(r"[._-]+", " ", email.partition("@")[0]).title()


def _character_of_code(code: str) -> str | None:
    """Return the character with code points such as ``1f1e9-1f1ea``.

    None if they are not valid.
    """
    try:
        points = [int(part, 16) for part in code.split("-")[:_MOST_CODE_POINTS]]
        return clean("".join(map(chr, points)))
    except (ValueError, OverflowError):
        return None


def _inline_code(text: str) -> str:
    """Return a piece of code within a line, between two backticks."""
    code = text.strip("`").strip().replace("`", "'")
    return f"`{code}`"


_MEDIUM_RANK: Final = 3


def _rank(path: str) -> int:
    """Return the rank of a picture by its size; 0 if ``path`` is ``""``.

    The export has a person's picture in several sizes. The one with the highest
    rank is taken.
    """
    if not path:
        return 0
    if path.endswith(".original"):
        return 1  # it may be of any size
    if path.endswith("-medium.png"):
        return _MEDIUM_RANK
    return 2


def _text_and_thread(
    message: _Message, text: str, conversation: _Conversation
) -> tuple[str, str]:
    """Return the text of a message, and the id of its thread, or ``""``.

    A topic becomes a thread. Its oldest message begins with the topic's name.
    ``text``: the converted text.
    """
    topic = _topic_of(message)
    beginning = conversation.topics.get(topic.lower())
    if beginning is None:
        return text, ""
    if beginning.id == message.id:
        return f"*{topic.replace('*', '')}*\n{text}".strip(), ""
    return text, str(beginning.id)


def _topic_of(message: _Message) -> str:
    """Return the topic of a message in one line, or ``""``."""
    return clean(message.subject or "").replace("\n", " ").strip()


def _is_edited(message: _Message) -> bool:
    """Whether the text of a message was changed.

    The history is ``[{"prev_content": "Helo", …}]``. Entries without this field
    are moves to another topic. Old versions write the list as a text.
    """
    history = message.edit_history
    if isinstance(history, str) and history:
        try:
            history = msgspec.json.decode(history, type=list[dict[str, Any]])
        except (ValueError, RecursionError):
            return True
    if history:
        rows = [row for row in history if isinstance(row, dict)]
        return any("prev_content" in row for row in rows)
    return message.last_edit_time is not None


# --- texts --------------------------------------------------------------------

_FENCE: Final = re.compile(
    r" {0,3}(`{3,}|~{3,})[ \t]*\{?\.?([\w#+.-]{0,40})\}?[ \t]*(.*)"
)
_ME: Final = "/me "
_LANGUAGE: Final = re.compile(r"[A-Za-z][\w+#.-]{0,19}", re.ASCII)
_INLINE: Final = re.compile(
    r"""
      (?P<code>(?<!`)(?P<ticks>`+)(?!`)[^\n]{1,2000}?(?<!`)(?P=ticks)(?!`))
    | \$\$(?P<math>[^\n$]{1,2000})\$\$
    | @(?P<silent>_?)(?P<stars>\*\*?)(?P<name>[^*\n]{1,300})(?P=stars)
    | \#\*\*(?P<channel>[^*\n]{1,300})\*\*
    | !?\[(?P<label>[^\[\]\n]{0,500})\]
      \((?P<target>[^()\s]{1,1000}(?:\([^()\s]{0,200}\)[^()\s]{0,500}){0,3})\)
    | <time:(?P<time>[^<>\n]{1,60})>
    | (?P<address>https?://[^\s<>()\[\]"'`]{1,2000})
    | :(?P<emoji>[a-z0-9_+'-]{1,100}):
    | \*\*\*(?P<both>[^*\n]{1,2000})\*\*\*
    | \*\*(?P<bold>(?!\s)[^\n]{1,2000}?(?<!\s))\*\*
    | (?<![\w*])\*(?P<italic>(?![\s*])[^*\n]{1,2000}(?<![\s*]))\*(?![\w*])
    """,
    re.VERBOSE,
)
_UPLOAD: Final = re.compile(
    r"(?:https?://[^/\s]+)?/user_uploads/(?:download/)?([^?#\s]+)"
)
_NARROW: Final = re.compile(
    r"#narrow/(channel|stream|dm|pm-with)/(\d{1,18})[^/\s]*(?:/[^/\s]+){0,3}/near/(\d{1,18})"
)


class _Block(Struct):
    """A quote, a spoiler, or code, which has several lines."""

    fence: str
    """The line that ends the block, such as three backticks."""
    kind: str
    """``quote``, ``spoiler`` or ``code``."""
    language: str
    """The language of code."""
    title: str
    """The rest of the line that begins the block."""


class _Blocks(Struct):
    """The blocks that are open at a line of a text; the innermost comes last.
    Quotes and spoilers may contain blocks."""

    open: list[_Block] = field(default_factory=list)

    def have(self, kind: str) -> bool:
        """Whether the line is in a block of this kind."""
        return any(block.kind == kind for block in self.open)

    def end(self, line: str) -> _Block | None:
        """End the innermost block, if the line is its fence. None if it ends no
        block."""
        if self.open and line.strip() == self.open[-1].fence:
            return self.open.pop()
        return None

    def begin(self, line: str) -> _Block | None:
        """Begin a block, if the line does so. None if it begins no block.

        Three backticks and ``spoiler Ending`` begin a spoiler with a title, for
        example, and three backticks and ``python`` begin code.
        """
        match = _FENCE.fullmatch(line)
        if match is None or len(self.open) >= _MOST_BLOCKS or self.have("code"):
            return None
        fence, language, title = match.groups()
        if fence[0] == "`" and "`" in title:
            return None  # it is code in a line
        kind = language.lower()
        if kind not in ("quote", "spoiler"):
            kind = "code"
        block = _Block(fence, kind, language, title)
        self.open.append(block)
        return block


class _Texts:
    """Converts texts of Zulip, which are Markdown.

    Names of people and channels come from the tables.
    """

    def __init__(self, realm: _Realm) -> None:
        """Prepare for texts that name people of these tables."""
        self._realm = realm
        self._people: dict[str, Person] = {}
        """Nickname → the first person with it."""
        for person in realm.people.values():
            self._people.setdefault(person.nickname, person)
        self._files: list[File] = []
        """The files that the text names which is being converted."""
        self._spoilers: list[list[str]] = []
        """The lines of each spoiler of this text."""

    def convert(self, text: str) -> tuple[str, list[File]]:
        """Convert a text, and return it with the files that it names.

        ``Hi @**Ann**, see [plan](/user_uploads/2/ab/plan.pdf)`` becomes a text
        with the mark of a mention, and one file. Spoilers become a file, too.
        """
        files: list[File] = []
        self._files = files
        self._spoilers = []
        lines = list(self._visible_lines(clean(text).split("\n")))
        spoilers = [
            without_marks(spoiler, self._name_of)
            for spoiler in map("\n".join, self._spoilers)
            if spoiler.strip()
        ]
        if spoilers:
            files.append(spoilers_file(spoilers))
        return "\n".join(lines).strip(), files

    def _name_of(self, id: str) -> str:
        """Return the name by which the file of spoilers refers to somebody.

        A file cannot mention people. The name is ``@`` and the nickname, or
        ``@all``.
        """
        person = None
        if id.isdecimal():
            person = self._realm.people.get(int(id))
        if person is None:
            return "@all"
        return f"@{person.nickname}"

    def _visible_lines(self, lines: list[str]) -> Iterator[str]:
        """Yield the lines of a text that are in no spoiler.

        The lines of each spoiler become one list in :attr:`_spoilers`, and
        :data:`COVER` stands in their place.
        """
        was_covered = False
        for line, is_covered in self._lines_with_cover(lines):
            if not is_covered:
                yield line
            elif was_covered:
                # The spoiler of the line before goes on.
                self._spoilers[-1].append(line)
            else:
                self._spoilers.append([line])
                yield COVER
            was_covered = is_covered

    def _lines_with_cover(self, lines: list[str]) -> Iterator[tuple[str, bool]]:
        """Yield the converted lines of a text, each with whether it is in a
        spoiler.

        Code stays as it is. A line in a quote begins with ``>``.
        """
        if len(lines) == 1 and lines[0].startswith(_ME):
            # "/me waves" tells what its sender does.
            yield f"_{self._converted(lines[0].removeprefix(_ME))}_", False
            return

        blocks = _Blocks()
        for line in _with_list(lines):
            is_covered = blocks.have("spoiler")
            text = self._converted_line(line, blocks)
            if text is not None:
                yield text, is_covered
        # The text may end within its code.
        if blocks.have("code"):
            yield "```", blocks.have("spoiler")

    def _converted_line(self, line: str, blocks: _Blocks) -> str | None:
        """Convert a line, which may begin or end a block. None if nothing is
        left.

        ``blocks``: the open blocks, which the line may change.
        """
        ended = blocks.end(line)
        if ended is not None:
            if ended.kind == "code":
                return "```"
            return None
        begun = blocks.begin(line)
        if begun is not None:
            return self._heading(begun) or None
        if blocks.have("code"):
            return line
        text = self._prose(line)
        if text and blocks.have("quote"):
            return f"> {text}"
        return text

    def _heading(self, block: _Block) -> str:
        """Return the line with which a block begins, or ``""`` if it has no
        such line.

        Code begins with its fence, and a spoiler with its title.
        """
        if block.kind == "code":
            is_language = _LANGUAGE.fullmatch(block.language)
            if is_language:
                return f"```{block.language}"
            return "```"
        if not block.title:
            return ""
        return f"*{self._converted(block.title).replace('*', '')}*"

    def _prose(self, line: str) -> str | None:
        """Convert a line outside of code.

        None if the line only names files. Without the files it would be empty.
        """
        before = len(self._files)
        text = self._converted(line)
        names_files = len(self._files) > before
        if names_files and not text.strip():
            return None
        return text

    def _converted(self, text: str, depth: int = 0) -> str:
        """Convert a text within a line: its marks, links, mentions and emoji.

        ``depth``: how many bold or italic texts are around it. From
        :data:`_MOST_DEPTH` on, the text stays.
        """
        if depth >= _MOST_DEPTH:
            return text
        return _INLINE.sub(partial(self._converted_part, depth=depth), text)

    def _converted_part(self, match: re.Match[str], depth: int) -> str:
        """Return the replacement of a match of :data:`_INLINE`.

        ``**bold**`` becomes ``*bold*``, for example. ``depth``: how many bold
        or italic texts are around it.
        """
        # The name of the outermost group that has matched.
        kind = match.lastgroup
        if kind == "code":
            return _inline_code(match["code"])
        if kind == "math":
            return f"`{match['math'].strip()}`"
        if kind == "name":
            return self._mention(match)
        if kind == "channel":
            return self._channel(match["channel"])
        if kind == "target":
            return self._link(match["label"], match["target"])
        if kind == "time":
            return match["time"]
        if kind == "address":
            return self._link("", match["address"])
        if kind == "emoji":
            return self._emoji(match["emoji"]) or match[0]
        return self._emphasis(match, kind, depth)

    def _emoji(self, name: str) -> str:
        """Return the character of an emoji; ``""`` if its name is unknown."""
        return self._realm.emoji_names.get(name) or emoji_named(name)

    def _emphasis(self, match: re.Match[str], kind: str | None, depth: int) -> str:
        """Return bold or italic text, or text that is both, with our marks."""
        if kind == "both":
            return f"*_{self._converted(match['both'], depth + 1)}_*"
        if kind == "bold":
            return f"*{self._converted(match['bold'], depth + 1)}*"
        return f"_{self._converted(match['italic'], depth + 1)}_"

    def _mention(self, match: re.Match[str]) -> str:
        """Return the replacement of ``@**name**`` or ``@**name|id**``.

        The mention of a group of people becomes a text. A *silent* mention
        ``@_**name**`` notifies nobody, and becomes a text, too.
        """
        name, _, id = match["name"].partition("|")
        # One star names a group of people, and "topic" everybody who writes
        # there.
        if match["stars"] == "*" or name == "topic":
            return f"@{match['name']}"
        if name in ("all", "everyone", "channel", "stream") and not id:
            if match["silent"]:
                return "@all"
            return mention(EVERYBODY)
        person = self._person_named(name, id)
        if person is None:
            return f"@{name}"
        if match["silent"]:
            return f"@{person.nickname}"
        return mention(person.id)

    def _person_named(self, name: str, id: str) -> Person | None:
        """Return the person of a mention. None if nobody has the name.

        ``id`` tells people with equal names apart. It may be ``""``.
        """
        person = self._people.get(name)
        if id.isdecimal() and len(id) <= _MOST_ID_DIGITS:
            return self._realm.people.get(int(id), person)
        return person

    def _channel(self, text: str) -> str:
        """Return the replacement of a link to a channel.

        ``text`` is ``channel``, ``channel>topic`` or ``channel>topic@message``.
        The last one becomes a link to the message.
        """
        name, arrow, topic = text.partition(">")
        message = re.fullmatch(r"(.*)@(\d{1,18})", topic)
        if message is not None:
            return link(message[2], f"#{name} > {message[1]}")
        if arrow:
            return f"#{name} > {topic}"
        return f"#{name}"

    def _link(self, label: str, target: str) -> str:
        """Return the replacement of a link. ``label``: the text of the link, or
        ``""``.

        A link to ``/user_uploads/…`` becomes a file of the message, and leaves
        no text.
        """
        upload = _UPLOAD.match(target)
        if upload is not None:
            path = unquote(upload[1])
            name = self._realm.files.get(path) or label or path.rpartition("/")[2]
            self._files.append(File(f"uploads/{path}", name))
            return ""
        return self._link_to_message(label, target) or labelled(label, target)

    def _link_to_message(self, label: str, target: str) -> str:
        """Return the mark of a link to a message; ``""`` for other links.

        The link is ``…/#narrow/channel/3-lobby/near/7``, for example. Another
        organization has other channels and messages.
        """
        narrow = _NARROW.search(target)
        if narrow is None:
            return ""
        kind, id, message = narrow.groups()
        if not self._is_known(kind, int(id)):
            return ""
        mark = link(message, target)
        if label and label != target:
            return f"{label} ({mark})"
        return mark

    def _is_known(self, kind: str, id: int) -> bool:
        """Whether the tables have this channel, or this person for another
        ``kind``."""
        if kind in ("channel", "stream"):
            return id in self._realm.channels
        return id in self._realm.people


def _with_list(lines: list[str]) -> list[str]:
    """Return a text whose command for a poll or a to-do list is a list.

    ``/poll Lunch?`` becomes the question in bold, and each of the following
    lines an item. Other texts stay.
    """
    command, space, argument = lines[0].partition(" ")
    if space and command in ("/poll", "/todo"):
        choices = [f"- {line}" for line in lines[1:] if line.strip()]
        return [f"**{argument}**", *choices]
    return lines
