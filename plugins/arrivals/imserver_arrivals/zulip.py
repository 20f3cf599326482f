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
from typing import IO, Any, ClassVar, Final, TypeVar
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
    id: int
    type: int
    type_id: int


class _Subscription(Struct):
    user_profile: int
    recipient: int
    active: bool | None = True


class _Emoji(Struct):
    id: int
    name: str
    realm: int | None = None
    file_name: str | None = None
    deactivated: bool | None = False


class _Reaction(Struct):
    user_profile: int
    message: int
    emoji_code: str
    emoji_name: str | None = None
    reaction_type: str | None = "unicode_emoji"


class _Message(Struct):
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
    user_profile: int
    message: int
    flags_mask: int | None = 0


class _Avatar(Struct):
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
    """An export of an organization. See :class:`Archive`."""

    name: ClassVar[str] = "zulip"
    title: ClassVar[str] = "Zulip"

    def __init__(self, path: Path) -> None:
        self.problems = Problems()
        self._source = source_of(path, self.problems)
        self._names = set(self._source.names)
        tops = [name for name in self._names if name.rpartition("/")[2] == "realm.json"]
        if not tops:
            raise BadArchive(f"{path} is no export of Zulip: it has no realm.json")
        self._top = min(sorted(tops), key=len).removesuffix("realm.json")

        files = sorted(
            name.removeprefix(self._top)
            for name in self._names
            if name.startswith(self._top)
        )
        self.parts = [name for name in files if _PART.fullmatch(name)]
        for name in files:
            part = name.removesuffix(_UNFINISHED)
            if _PART.fullmatch(part) and part not in self.parts:
                self.parts.append(name)
        if not self.parts:
            self.problems.note_broken(
                "messages-000001.json", "there is no file with messages"
            )
        self._readers: dict[type[Any], RecordReader[Any]] = {}
        self._realm: _Realm | None = None

    def records(self) -> Iterator[Record]:
        """Yield all records. The messages are read twice, because their readers
        are listed between them."""
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
        """The messages of a part. Nothing is noted, because the first reading
        has noted it. The list of readers after the messages is most of the
        file, and is not read again."""
        silent = Problems()
        has_begun = False
        for table, value, where in self.rows(part, silent):
            if table == "zerver_message":
                has_begun = True
                row = self.row(_Message, value, where, silent)
                if row is not None:
                    yield row
            elif has_begun:
                return

    def open(self, file: str) -> IO[bytes] | None:
        """The bytes of a file by its id: the path of the file, or an id of
        spoilers."""
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
        """Yield (table, row, location) of a file; nothing if the archive does
        not have it. ``notes`` gets the problem of a broken file; by default
        :attr:`problems`."""
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
        """A row as a record. Returns None if it is broken. Broken rows and
        fields with wrong types are noted."""
        notes = notes or self.problems
        reader: RecordReader[_Row] = self._readers.setdefault(kind, RecordReader(kind))
        note = partial(notes.note_field, _ROWS.get(kind, where))
        try:
            return reader.convert(row, note)
        except (ValueError, RecursionError) as error:
            notes.note_broken(where, error, messages=int(kind is _Message))
            return None


def _ms(seconds: float | None) -> int:
    """Milliseconds of a time; 0 if it is missing or not possible."""
    if seconds and 0 < seconds < LATEST_MS / SECOND_MS:
        return int(seconds * SECOND_MS)
    return 0


class _Conversation(Struct):
    """A conversation: facts about it from the tables, and from its messages."""

    kind: GroupKind
    people: dict[int, None] = field(default_factory=dict)
    channel: _Channel | None = None
    is_used: bool = False
    unread_ms: dict[int, int] = field(default_factory=dict)
    """Person who has received messages → the time of the first one that they
    have not read; 0 if they have read all."""
    topics: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Topic in lower case → time and id of its oldest message."""


class _Realm:
    """The tables of an organization, and facts from its messages about
    conversations."""

    def __init__(self, archive: Zulip) -> None:
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
        """Recipient → the id of the group. For a person it is ``p`` and the id
        of the person, because the sender decides the group."""
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
        """Read all tables except messages. People come first, because channels
        and recipients refer to them."""
        tables = self._tables()
        avatars = self._avatars()
        for table in ("zerver_userprofile", "zerver_userprofile_mirrordummy"):
            for user in tables[table]:
                self._add_person(
                    user, avatars.get(user.id, ""), is_bot=bool(user.is_bot)
                )
        for bot in tables["zerver_userprofile_crossrealm"]:
            self._add_person(bot, "", is_bot=True)
        for channel in tables["zerver_stream"]:
            self._add_channel(channel)
        self._add_recipients(tables["zerver_recipient"], tables["zerver_subscription"])
        self._read_emoji(tables["zerver_realmemoji"], tables["zerver_reaction"])
        for _, row, _ in self.archive.rows("attachment.json"):
            path = text_at(row, "path_id")
            if path:
                name = clean(str(row.get("file_name") or ""))
                self.files[path] = name.replace("\n", " ")

    def _tables(self) -> Mapping[str, list[Any]]:
        """The rows of each table of ``realm.json`` that is read."""
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
        """User → the path of the user's best picture."""
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
        """Add a channel as a group."""
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
        """Note to whom messages may be sent, and the members of channels and of
        conversations of several people."""
        members: dict[int, dict[int, None]] = {}
        for row in subscriptions:
            if row.active and row.user_profile in self.people:
                members.setdefault(row.recipient, {})[row.user_profile] = None

        for recipient in recipients:
            people = members.get(recipient.id, {})
            if recipient.type not in _PREFIXES:
                continue
            group = f"{_PREFIXES[recipient.type]}{recipient.type_id}"
            # version 11 lists pairs in this way, too
            if recipient.type == _SEVERAL and 0 < len(people) <= 2:
                group = self._conversation_of_two(min(people), max(people))
            elif recipient.type == _SEVERAL:
                self._conversations[group] = _Conversation("several")
            self._recipients[recipient.id] = group

        for id, group in self._recipients.items():
            if group[0] in "sh" and group in self._conversations:
                self._conversations[group].people = members.get(id, {})

    def _add_person(self, user: _User, avatar: str, *, is_bot: bool) -> None:
        """Add a person, with the reason why nobody may claim the account of a
        bot or a deactivated person. ``avatar``: the path of the picture; ``""``
        if there is none."""
        id = str(user.id)
        email = user.delivery_email or user.email or ""
        name = user.full_name or re.sub(r"[._-]+", " ", email.partition("@")[0]).title()
        person = Person(id, clean(name), avatar=avatar)
        if is_bot:
            person = replace(person, why="bot")
        # in exports with consent, a mirror dummy is a person without consent
        elif user.is_active or user.is_mirror_dummy:
            person = replace(person, email=clean(email))
        else:
            person = replace(person, why="deactivated")
        self.people[user.id] = person
        for recipient in (user.recipient, user.recipient_id):
            if recipient is not None:
                self._recipients[recipient] = f"p{id}"

    def _read_emoji(self, emoji: list[_Emoji], reactions: list[_Reaction]) -> None:
        """Note the organization's own emoji, and the reactions to messages."""
        for row in emoji:
            name = clean(row.name)
            self._own_emoji[str(row.id)] = name
            path = f"emoji/{row.realm}/emoji/images/{row.file_name}"
            if self.archive.has(path) and not row.deactivated:
                self.emoji.append(Emoji(name, path))
        for reaction in reactions:
            character = self._character(reaction)
            person = self.people.get(reaction.user_profile)
            if not character or person is None:
                self.archive.problems.note("reaction of nobody or with nothing")
                continue
            of_message = self._reactions.setdefault(reaction.message, [])
            of_message.append(Reaction(person.id, character))

    def _character(self, reaction: _Reaction) -> str:
        """The character of a reaction's emoji; ``""`` if it is not an emoji."""
        code = reaction.emoji_code
        if reaction.reaction_type == "realm_emoji":
            name = self._own_emoji.get(code) or clean(reaction.emoji_name or "")
            if name:
                return f":{name}:"
            return ""
        if reaction.reaction_type == "zulip_extra_emoji":
            return f":{clean(code)}:"
        try:
            points = [int(part, 16) for part in code.split("-")[:_MOST_CODE_POINTS]]
            character = clean("".join(map(chr, points)))
        except (ValueError, OverflowError):
            return ""
        if reaction.emoji_name:
            self.emoji_names[reaction.emoji_name] = character
        return character

    # --- messages -------------------------------------------------------------

    def _read_part(self, part: str) -> None:
        """Note the first messages of topics, the partners of conversations, and
        how far people have read."""
        archive = self.archive
        positions: dict[int, tuple[_Conversation, int]] = {}
        """Message → its conversation and its time."""
        for table, value, where in archive.rows(part):
            if table == "zerver_message":
                message = archive.row(_Message, value, where)
                if message is not None:
                    self._survey_message(message, positions)
            elif table == "zerver_usermessage":
                flags = archive.row(_Flags, value, where)
                if flags is not None and flags.message in positions:
                    self._note_flags(flags, *positions[flags.message])

    def _survey_message(
        self, message: _Message, positions: dict[int, tuple[_Conversation, int]]
    ) -> None:
        """Note the conversation of a message, and whether the message is the
        oldest of its topic. ``positions`` gets its conversation and time."""
        time_ms = _ms(message.date_sent or message.pub_date)
        conversation = self._conversations.get(self._group_of(message))
        if not time_ms or conversation is None:
            return
        conversation.is_used = True
        self._last_ms = max(self._last_ms, time_ms)
        positions[message.id] = (conversation, time_ms)
        topic = _topic_of(message).lower()
        if conversation.channel is not None and topic not in ("", "(no topic)"):
            beginning = (time_ms, message.id)
            conversation.topics[topic] = min(
                conversation.topics.get(topic, beginning), beginning
            )

    def _note_flags(
        self, flags: _Flags, conversation: _Conversation, time_ms: int
    ) -> None:
        """Note whether a person has read a message that was sent at
        ``time_ms``, and whether they have starred it."""
        user = flags.user_profile
        mask = flags.flags_mask or 0
        if mask & _READ:
            conversation.unread_ms.setdefault(user, 0)
        else:
            before = conversation.unread_ms.get(user) or time_ms
            conversation.unread_ms[user] = min(before, time_ms)
        if mask & _STARRED:
            self.archive.problems.note(
                "message that somebody has starred", person=str(user)
            )

    def _group_of(self, message: _Message) -> str:
        """The id of the group of a message; ``""`` if it belongs to no group. A
        recipient that is a person stands for the conversation of this person
        with the sender."""
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
        """The id of the group of two people, which is made if it is new."""
        group = f"d{one}.{other}"
        self._conversations.setdefault(
            group, _Conversation("direct", {one: None, other: None})
        )
        return group

    def groups(self) -> Iterator[Group]:
        """All conversations. A conversation of some people without a message is
        left out."""
        texts = _Texts(self)
        for id, conversation in self._conversations.items():
            if not (conversation.is_used or conversation.channel):
                continue
            channel = conversation.channel or _Channel(0)
            person = self.people.get(channel.creator or 0)
            creator = ""
            if person is not None:
                creator = person.id
            description, _ = texts.convert(channel.description or "")
            yield Group(
                id,
                conversation.kind,
                name=clean(channel.name or ""),
                description=description,
                creator=creator,
                created_ms=_ms(channel.date_created),
                members=[
                    self._member(user, conversation, channel)
                    for user in conversation.people
                ],
                is_archived=bool(channel.deactivated),
            )

    def _member(
        self, user: int, conversation: _Conversation, channel: _Channel
    ) -> Member:
        """The membership of a person in a conversation. Of messages, the person
        has read all before the first unread one. Nothing is known if they have
        received none."""
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
        """A row as a record. Returns None if it has no known sender,
        conversation or time, which is noted. The oldest message of a topic
        begins with its name, and the others belong to its thread."""
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
        topic = _topic_of(message)
        thread = ""
        if topic.lower() in conversation.topics:
            _, first = conversation.topics[topic.lower()]
            if first == message.id:
                text = f"*{topic.replace('*', '')}*\n{text}".strip()
            else:
                thread = str(first)
        return Message(
            str(message.id),
            group,
            sender.id,
            time_ms,
            text,
            thread,
            is_edited=_is_edited(message),
            reactions=self._reactions.get(message.id, ()),
            files=files,
        )


_MEDIUM_RANK: Final = 3


def _rank(path: str) -> int:
    """The rank of a picture by its size. The export has a person's picture in
    several sizes, and the one with the highest rank is taken. 0 means no
    picture."""
    if not path:
        return 0
    if path.endswith(".original"):
        return 1  # it may be of any size
    if path.endswith("-medium.png"):
        return _MEDIUM_RANK
    return 2


def _topic_of(message: _Message) -> str:
    return clean(message.subject or "").replace("\n", " ").strip()


def _is_edited(message: _Message) -> bool:
    """Whether the text of a message was changed. The history also has moves
    between topics."""
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
    """A quote, a spoiler, or code. ``fence``: the line that ends it. ``title``:
    the text after the fence that begins it."""

    fence: str
    kind: str
    language: str
    title: str


class _Blocks(Struct):
    """The blocks that are open at a line of a text; the innermost comes last.
    Quotes and spoilers may contain blocks."""

    open: list[_Block] = field(default_factory=list)

    def have(self, kind: str) -> bool:
        """Whether the line is in a block of this kind."""
        return any(block.kind == kind for block in self.open)

    def end(self, line: str) -> _Block | None:
        """End the block that the line ends. None if it ends no block."""
        if self.open and line.strip() == self.open[-1].fence:
            return self.open.pop()
        return None

    def begin(self, line: str) -> _Block | None:
        """Begin the block that the line begins. None if it begins no block."""
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
    """Converts texts of Zulip, which are Markdown. Names of people and channels
    come from the tables."""

    def __init__(self, realm: _Realm) -> None:
        self._realm = realm
        self._people: dict[str, Person] = {}
        """Nickname → the first person with it."""
        for person in realm.people.values():
            self._people.setdefault(person.nickname, person)
        self._files: list[File] = []
        """The files that the present text names."""
        self._spoilers: list[list[str]] = []
        """The lines of each spoiler of the present text."""

    def convert(self, text: str) -> tuple[str, list[File]]:
        """A text in the form that texts have here, and the files that it names.
        Its spoilers are in a file, too."""
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
        """The name by which a text refers to somebody whom it cannot mention:
        ``@`` and the nickname, or ``@all``."""
        person = None
        if id.isdecimal():
            person = self._realm.people.get(int(id))
        if person is None:
            return "@all"
        return f"@{person.nickname}"

    def _visible_lines(self, lines: list[str]) -> Iterator[str]:
        """The lines of a text. The lines of a spoiler go into
        :attr:`_spoilers`, and :data:`COVER` stands in their place."""
        was_covered = False
        for line, is_covered in self._lines_with_cover(lines):
            if not is_covered:
                yield line
            elif was_covered:
                self._spoilers[-1].append(line)
            else:
                self._spoilers.append([line])
                yield COVER
            was_covered = is_covered

    def _lines_with_cover(self, lines: list[str]) -> Iterator[tuple[str, bool]]:
        """Yield (line, whether it is in a spoiler). Lines outside of code are
        converted."""
        command, space, argument = lines[0].partition(" ")
        if space and command == "/me" and len(lines) == 1:
            yield f"_{self._converted(argument)}_", False
            return
        if space and command in ("/poll", "/todo"):
            choices = [f"- {line}" for line in lines[1:] if line.strip()]
            lines = [f"**{argument}**", *choices]

        blocks = _Blocks()
        for line in lines:
            is_covered = blocks.have("spoiler")
            ended = blocks.end(line)
            if ended is not None:
                if ended.kind == "code":
                    yield "```", is_covered
                continue
            begun = blocks.begin(line)
            if begun is not None:
                heading = self._heading(begun)
                if heading:
                    yield heading, is_covered
            elif blocks.have("code"):
                yield line, is_covered
            else:
                text = self._prose(line)
                if text is None:
                    continue
                if text and blocks.have("quote"):
                    text = f"> {text}"
                yield text, is_covered
        if blocks.have("code"):
            yield "```", blocks.have("spoiler")

    def _heading(self, block: _Block) -> str:
        """The line with which a block begins; ``""`` if it begins without a
        line."""
        if block.kind == "code":
            is_language = _LANGUAGE.fullmatch(block.language)
            if is_language:
                return f"```{block.language}"
            return "```"
        if not block.title:
            return ""
        return f"*{self._converted(block.title).replace('*', '')}*"

    def _prose(self, line: str) -> str | None:
        """A line outside of code, converted. Returns None if it has only named
        files, so that no empty line is left."""
        before = len(self._files)
        text = self._converted(line)
        names_files = len(self._files) > before
        if names_files and not text.strip():
            return None
        return text

    def _converted(self, text: str, depth: int = 0) -> str:
        """A text within a line in the form that texts have here. Text in bold
        or italic text is converted, too, up to :data:`_MOST_DEPTH`."""
        if depth >= _MOST_DEPTH:
            return text
        return _INLINE.sub(partial(self._converted_part, depth=depth), text)

    def _converted_part(self, match: re.Match[str], depth: int) -> str:
        """The replacement of a match of :data:`_INLINE`. ``depth``: in how many
        marks it is."""
        # The name of the outermost group that has matched.
        kind = match.lastgroup
        if kind == "code":
            code = match["code"].strip("`").strip().replace("`", "'")
            return f"`{code}`"
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
            name = match["emoji"]
            emoji = self._realm.emoji_names.get(name) or emoji_named(name)
            return emoji or match[0]
        if kind == "both":
            return f"*_{self._converted(match['both'], depth + 1)}_*"
        if kind == "bold":
            return f"*{self._converted(match['bold'], depth + 1)}*"
        return f"_{self._converted(match['italic'], depth + 1)}_"

    def _mention(self, match: re.Match[str]) -> str:
        """The replacement of ``@**name**`` or ``@**name|id**``. A silent
        mention (``@_``), and one of a group of people, becomes a text."""
        name, _, id = match["name"].partition("|")
        # a group of people, or everybody who writes in a topic
        if match["stars"] == "*" or name == "topic":
            return f"@{match['name']}"
        if name in ("all", "everyone", "channel", "stream") and not id:
            if match["silent"]:
                return "@all"
            return mention(EVERYBODY)
        person = self._people.get(name)
        if id.isdecimal() and len(id) <= _MOST_ID_DIGITS:
            person = self._realm.people.get(int(id), person)
        if person is None:
            return f"@{name}"
        if match["silent"]:
            return f"@{person.nickname}"
        return mention(person.id)

    def _channel(self, text: str) -> str:
        """The replacement of ``#**channel**``, ``#**channel>topic**`` or
        ``#**channel>topic@message**``."""
        name, arrow, topic = text.partition(">")
        message = re.fullmatch(r"(.*)@(\d{1,18})", topic)
        if message is not None:
            return link(message[2], f"#{name} > {message[1]}")
        if arrow:
            return f"#{name} > {topic}"
        return f"#{name}"

    def _link(self, label: str, target: str) -> str:
        """The replacement of a link. A link to an upload becomes a file of the
        message, and leaves no text. A link to a message becomes a mark."""
        upload = _UPLOAD.match(target)
        if upload is not None:
            path = unquote(upload[1])
            name = self._realm.files.get(path) or label or path.rpartition("/")[2]
            self._files.append(File(f"uploads/{path}", name))
            return ""
        narrow = _NARROW.search(target)
        if narrow is None:
            return labelled(label, target)
        kind, id, message = narrow.groups()
        if self._is_known(kind, int(id)):
            mark = link(message, target)
            if label and label != target:
                return f"{label} ({mark})"
            return mark
        return labelled(label, target)

    def _is_known(self, kind: str, id: int) -> bool:
        """Whether the tables have this channel or person."""
        if kind in ("channel", "stream"):
            return id in self._realm.channels
        return id in self._realm.people
