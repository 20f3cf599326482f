"""Zulip's export of an organization: a ``.tar.gz`` file, or the folder that is
in it.

Read from Zulip's sources, not from documents: ``zerver/lib/export.py`` of versions 1.7, 9 and 12, and the
classes of ``zerver/models`` of versions 9 and 10. ``realm.json`` has the tables (people, channels,
subscriptions, reactions); ``messages-000001.json`` and the following ones have a thousand messages each, with
who has read them; ``attachment.json`` names the files below ``uploads/``, ``avatars/records.json`` the
pictures of people; own emoji are below ``emoji/``.

A channel is a group. A topic in it is a thread: its oldest message begins it,
and shows the topic's name.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar, Final, TypeVar
from urllib.parse import unquote

import msgspec
from msgspec import Struct, field

from .fields import RecordReader
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
    link,
    mention,
)
from .source import source_of
from .tables import Tables
from .text import (
    COVER,
    LATEST_MS,
    clean,
    emoji_named,
    labelled,
    spoilers_file,
    spoilers_in,
)
from .writing import without_marks

_READ: Final = 1
"""The bit of ``flags_mask`` that says that somebody has read a message."""
_STARRED: Final = 2
_PERSON, _CHANNEL, _SEVERAL = 1, 2, 3
"""Types of recipients."""
_LEFT_OUT: Final = {
    "zerver_usertopic": "topic that somebody mutes or follows",
    "zerver_submessage": "vote in a poll, or change of a list",
}
"""Tables that are counted → what their rows are."""
_PART: Final = re.compile(r"messages-(\d{1,12})\.json", re.ASCII)
_UNFINISHED: Final = ".partial"
"""With which the name of a part ends until the export has noted who has read
its messages."""
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
    """Its name before version 2."""
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
"""What a row is, for the report."""


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
        unfinished = (name for name in files if name.endswith(_UNFINISHED))
        self.parts += [
            name
            for name in unfinished
            if _PART.fullmatch(whole := name.removesuffix(_UNFINISHED))
            and whole not in self.parts
        ]
        if not self.parts:
            self.problems.note_broken(
                "messages-000001.json", "there is no file with messages"
            )
        self._readers: dict[type[Any], RecordReader[Any]] = {}
        self._realm: _Realm | None = None

    def records(self) -> Iterator[Record]:
        """All records. The messages are read twice: who has read what is
        between them."""
        # what the second reading notes
        notes = Problems() if self._realm else self.problems
        realm = self._realm = self._realm or _Realm(self)
        yield from realm.people.values()
        yield from realm.emoji
        yield from realm.groups()
        texts = _Texts(realm)
        for part in self.parts:
            has_begun, silent = False, Problems()
            for table, row, where in self.rows(part, silent):
                if table != "zerver_message" and has_begun:
                    break  # who has read what, which is most of the file, is known
                has_begun = table == "zerver_message"
                if has_begun and (message := self.row(_Message, row, where, silent)):
                    made = realm.message(message, texts, notes)
                    if made is not None:
                        yield made

    def open(self, file: str) -> IO[bytes] | None:
        """The bytes of a file by its id, which is its path, or of spoilers."""
        if (spoilers := spoilers_in(file)) is not None:
            return spoilers
        return self._source.open(self._top + file) if self.has(file) else None

    # --- for _Realm -----------------------------------------------------------

    def has(self, file: str) -> bool:
        """Whether the archive has this file."""
        return self._top + file in self._names

    def rows(
        self, file: str, notes: Problems | None = None
    ) -> Iterator[tuple[str, Any, str]]:
        """(table, row, place) of a file; none if it is not there. What is
        broken is noted."""
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
        """A row as a record; None: it cannot be one. That is noted, as are
        fields of wrong types."""
        notes = notes or self.problems
        reader: RecordReader[_Row] = self._readers.setdefault(kind, RecordReader(kind))
        is_message = kind is _Message
        try:
            return reader.convert(
                row, partial(notes.note_field, _ROWS.get(kind, where))
            )
        except (ValueError, RecursionError) as error:
            notes.note_broken(where, error, messages=int(is_message))
            return None


def _ms(seconds: float | None) -> int:
    """Milliseconds of a time that can be one; 0: there is none."""
    return int(seconds * 1000) if seconds and 0 < seconds < LATEST_MS / 1000 else 0


class _Talk(Struct):
    """A conversation: what stands of it in the tables, and what its messages
    say."""

    kind: GroupKind
    people: dict[int, None] = field(default_factory=dict)
    channel: _Channel | None = None
    is_used: bool = False
    unread_ms: dict[int, int] = field(default_factory=dict)
    """Who has received messages → the time of the first one that they have not
    read; 0: none."""
    topics: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Topic in lower case → time and id of its oldest message."""


class _Realm:
    """The tables of an organization, and what its messages say about
    conversations."""

    def __init__(self, archive: Zulip) -> None:
        self.archive = archive
        self.people: dict[int, Person] = {}
        self.channels: dict[int, _Channel] = {}
        self.emoji: list[Emoji] = []
        self.emoji_names: dict[str, str] = {}
        """Name of an emoji → the character, of those with which somebody has
        reacted."""
        self._own_emoji: dict[str, str] = {}
        self._recipients: dict[int, str] = {}
        """Recipient → the id of the group; ``p`` and the id of a person:
        whoever writes to them."""
        self._talks: dict[str, _Talk] = {}
        self._reactions: dict[int, list[Reaction]] = {}
        self._last_ms = 0
        self.files: dict[str, str] = {}
        """Path of an uploaded file → its name."""
        self._read_tables()
        for part in archive.parts:
            self._read_part(part)

    # --- tables ---------------------------------------------------------------

    def _read_tables(self) -> None:
        archive = self.archive
        avatars: dict[int, str] = {}
        for _, row, where in archive.rows("avatars/records.json"):
            avatar = archive.row(_Avatar, row, where)
            way = f"avatars/{avatar.path}" if avatar else ""
            if (
                avatar
                and archive.has(way)
                and _rank(way) >= _rank(avatars.get(avatar.user_profile_id, ""))
            ):
                avatars[avatar.user_profile_id] = way
        kinds: dict[str, tuple[type[Any], list[Any]]] = {
            "zerver_userprofile": (_User, []),
            "zerver_userprofile_mirrordummy": (_User, []),
            "zerver_userprofile_crossrealm": (_User, []),
            "zerver_stream": (_Channel, []),
            "zerver_recipient": (_Recipient, []),
            "zerver_subscription": (_Subscription, []),
            "zerver_realmemoji": (_Emoji, []),
        }
        reactions = []
        for table, row, where in archive.rows("realm.json"):
            if table in kinds and (read := archive.row(kinds[table][0], row, where)):
                kinds[table][1].append(read)
            elif table == "zerver_reaction" and (
                reaction := archive.row(_Reaction, row, where)
            ):
                reactions.append(reaction)
            elif table in _LEFT_OUT:
                archive.problems.note(_LEFT_OUT[table])
        users, dummies, bots, channels, recipients, subscriptions, emoji = (
            rows for _, rows in kinds.values()
        )
        for user in (*users, *dummies):
            self._meet(user, "", avatars.get(user.id, ""))
        for user in bots:
            self._meet(user, "bot", "")
        for channel in channels:
            self.channels[channel.id] = channel
            self._talks[f"s{channel.id}"] = _Talk(
                "closed" if channel.invite_only else "open", {}, channel
            )
            if channel.recipient is not None:
                self._recipients[channel.recipient] = f"s{channel.id}"
            if not channel.history_public_to_subscribers:
                archive.problems.note(
                    "protected history (new members read it)", group=f"s{channel.id}"
                )
        members: dict[int, dict[int, None]] = {}
        for each in subscriptions:
            if each.active and each.user_profile in self.people:
                members.setdefault(each.recipient, {})[each.user_profile] = None
        for each in recipients:
            people = members.get(each.id, {})
            # version 11 has pairs so, too
            if each.type == _SEVERAL and 0 < len(people) <= 2:
                self._recipients[each.id] = self._pair(min(people), max(people))
            elif each.type == _SEVERAL:
                self._recipients[each.id] = f"h{each.type_id}"
                self._talks[f"h{each.type_id}"] = _Talk("several")
            elif each.type in (_PERSON, _CHANNEL):
                self._recipients[each.id] = (
                    f"{'p' if each.type == _PERSON else 's'}{each.type_id}"
                )
        for recipient, group in self._recipients.items():
            if group[0] in "sh" and group in self._talks:
                self._talks[group].people = members.get(recipient, {})
        self._read_emoji(emoji, reactions)
        for _, row, _ in archive.rows("attachment.json"):
            if isinstance(row, dict) and isinstance(row.get("path_id"), str):
                self.files[row["path_id"]] = clean(
                    str(row.get("file_name") or "")
                ).replace("\n", " ")

    def _meet(self, user: _User, why: str, avatar: str) -> None:
        email = user.delivery_email or user.email or ""
        name = user.full_name or re.sub(r"[._-]+", " ", email.partition("@")[0]).title()
        # in exports with consent: who has not consented
        may_come = user.is_active or user.is_mirror_dummy
        why = why or ("bot" if user.is_bot else "" if may_come else "deactivated")
        id = str(user.id)
        self.people[user.id] = Person(
            id, clean(name), "", "" if why else clean(email), avatar, why
        )
        for recipient in (user.recipient, user.recipient_id):
            if recipient is not None:
                self._recipients[recipient] = f"p{user.id}"

    def _read_emoji(self, emoji: list[_Emoji], reactions: list[_Reaction]) -> None:
        for each in emoji:
            name = self._own_emoji[str(each.id)] = clean(each.name)
            way = f"emoji/{each.realm}/emoji/images/{each.file_name}"
            if self.archive.has(way) and not each.deactivated:
                self.emoji.append(Emoji(name, way))
        for reaction in reactions:
            character = self._character(reaction)
            person = self.people.get(reaction.user_profile)
            if not character or person is None:
                self.archive.problems.note("reaction of nobody or with nothing")
                continue
            self._reactions.setdefault(reaction.message, []).append(
                Reaction(person.id, character)
            )

    def _character(self, reaction: _Reaction) -> str:
        if reaction.reaction_type == "realm_emoji":
            name = self._own_emoji.get(reaction.emoji_code) or clean(
                reaction.emoji_name or ""
            )
            return f":{name}:" if name else ""
        if reaction.reaction_type == "zulip_extra_emoji":
            return f":{clean(reaction.emoji_code)}:"
        try:
            character = clean(
                "".join(
                    chr(int(each, 16)) for each in reaction.emoji_code.split("-")[:16]
                )
            )
        except (ValueError, OverflowError):
            return ""
        if reaction.emoji_name:
            self.emoji_names[reaction.emoji_name] = character
        return character

    # --- messages -------------------------------------------------------------

    def _read_part(self, part: str) -> None:
        """Note the first messages of topics, who talks with whom, and who has
        read how far."""
        seen: dict[int, tuple[_Talk, int]] = {}
        for table, row, where in self.archive.rows(part):
            if table == "zerver_message" and (
                message := self.archive.row(_Message, row, where)
            ):
                time_ms, group = (
                    _ms(message.date_sent or message.pub_date),
                    self._group_of(message),
                )
                talk = self._talks.get(group)
                if not time_ms or talk is None:
                    continue
                talk.is_used = True
                self._last_ms = max(self._last_ms, time_ms)
                seen[message.id] = (talk, time_ms)
                topic = _topic_of(message)
                if talk.channel is not None and topic.lower() not in ("", "(no topic)"):
                    place = (time_ms, message.id)
                    talk.topics[topic.lower()] = min(
                        talk.topics.get(topic.lower(), place), place
                    )
            elif table == "zerver_usermessage" and (
                flags := self.archive.row(_Flags, row, where)
            ):
                talk, time_ms = seen.get(flags.message, (None, 0))
                if talk is None:
                    continue
                user, before = (
                    flags.user_profile,
                    talk.unread_ms.get(flags.user_profile, 0),
                )
                unread_ms = 0 if (flags.flags_mask or 0) & _READ else time_ms
                talk.unread_ms[user] = (
                    min(before, unread_ms)
                    if before and unread_ms
                    else before or unread_ms
                )
                if (flags.flags_mask or 0) & _STARRED:
                    self.archive.problems.note(
                        "message that somebody has starred", person=str(user)
                    )

    def _group_of(self, message: _Message) -> str:
        """The id of the group of a message; ``""``: nobody is it. Pairs are met
        by their messages."""
        group = self._recipients.get(message.recipient, "")
        if not group.startswith("p"):
            return group if group in self._talks else ""
        one, other = sorted((message.sender, int(group[1:])))
        return (
            self._pair(one, other)
            if one in self.people and other in self.people
            else ""
        )

    def _pair(self, one: int, other: int) -> str:
        group = f"d{one}.{other}"
        self._talks.setdefault(group, _Talk("direct", {one: None, other: None}))
        return group

    def groups(self) -> Iterator[Group]:
        """All conversations. Those of some people without a message are left
        out."""
        texts = _Texts(self)
        for id, talk in self._talks.items():
            if not (talk.is_used or talk.channel):
                continue
            channel = talk.channel or _Channel(0)
            creator = self.people.get(channel.creator or 0)
            members = [
                Member(
                    str(user),
                    "owner" if user == channel.creator else "member",
                    -1
                    if user not in talk.unread_ms
                    else (talk.unread_ms[user] or self._last_ms + 1) - 1,
                )
                for user in talk.people
            ]
            description, _ = texts.convert(channel.description or "")
            yield Group(
                *(
                    id,
                    talk.kind,
                    clean(channel.name or ""),
                    description,
                    creator.id if creator else "",
                ),
                *(_ms(channel.date_created), members),
                is_archived=bool(channel.deactivated),
            )

    def message(
        self, message: _Message, texts: "_Texts", notes: Problems
    ) -> Message | None:
        """A row as a record; None: it cannot be one, which is noted."""
        group, time_ms = (
            self._group_of(message),
            _ms(message.date_sent or message.pub_date),
        )
        talk = self._talks.get(group)
        sender = self.people.get(message.sender)
        if talk is None or sender is None or not time_ms:
            notes.note_lost(
                "message of nobody, to nobody or without a time", group=group
            )
            return None
        text, files = texts.convert(message.content)
        topic, thread = _topic_of(message), ""
        if talk.channel is not None and topic.lower() in talk.topics:
            first = talk.topics[topic.lower()][1]
            thread = str(first) if first != message.id else ""
            if not thread:
                text = f"*{topic.replace('*', '')}*\n{text}".strip()
        return Message(
            *(str(message.id), group, sender.id, time_ms, text, thread),
            is_edited=_is_edited(message),
            reactions=self._reactions.get(message.id, ()),
            files=files,
        )


def _rank(way: str) -> int:
    """How good a picture of somebody is: they are in the export in several
    sizes."""
    return (
        0
        if not way
        else 1
        if way.endswith(".original")
        else 3
        if way.endswith("-medium.png")
        else 2
    )


def _topic_of(message: _Message) -> str:
    return clean(message.subject or "").replace("\n", " ").strip()


def _is_edited(message: _Message) -> bool:
    """Whether its text is another one: the history names also moves between
    topics."""
    history = message.edit_history
    if isinstance(history, str) and history:
        try:
            history = msgspec.json.decode(history, type=list[dict[str, Any]])
        except (ValueError, RecursionError):
            return True
    if history:
        return any("prev_content" in each for each in history if isinstance(each, dict))
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


class _Texts:
    """Converts texts of Zulip, which are Markdown. Names of people and channels
    come from the tables."""

    def __init__(self, realm: _Realm) -> None:
        self._realm = realm
        self._ids: dict[str, str] = {}
        for person in realm.people.values():
            self._ids.setdefault(person.nickname, person.id)
        self._files: list[File] = []
        self._spoilers: list[list[str]] = []
        """The lines of each."""

    def convert(self, text: str) -> tuple[str, list[File]]:
        """A text as ours, and the files that it names. Its spoilers are in a
        file, too."""
        files: list[File] = []
        self._files = files
        self._spoilers = []
        lines = list(self._lines(clean(text).split("\n")))
        if spoilers := [
            each for each in map("\n".join, self._spoilers) if each.strip()
        ]:
            files.append(
                spoilers_file([without_marks(each, self._name_of) for each in spoilers])
            )
        return "\n".join(lines).strip(), files

    def _name_of(self, person: str) -> str:
        """How a text names somebody whom it cannot mention."""
        is_known = person.isdecimal() and int(person) in self._realm.people
        return f"@{self._realm.people[int(person)].nickname}" if is_known else "@all"

    def _lines(self, lines: list[str]) -> Iterator[str]:
        """The lines of a text. Those of a spoiler are kept apart: :data:`COVER`
        stands in their place."""
        was_covered = False
        for line, is_covered in self._all_lines(lines):
            if not is_covered:
                yield line
            elif was_covered:
                self._spoilers[-1].append(line)
            else:
                self._spoilers.append([line])
                yield COVER
            was_covered = is_covered

    def _all_lines(self, lines: list[str]) -> Iterator[tuple[str, bool]]:
        """Lines, and whether each is in a spoiler. Those outside of blocks are
        converted. Quotes and spoilers may have blocks in them."""
        if lines[0].startswith("/me ") and len(lines) == 1:
            yield f"_{self._inline(lines[0][4:])}_", False
            return
        if lines[0].startswith(("/poll ", "/todo ")):
            lines = [
                f"**{lines[0].partition(' ')[2]}**",
                *(f"- {each}" for each in lines[1:] if each.strip()),
            ]
        blocks: list[tuple[str, str]] = []  # (fence, kind) of those that are open
        for line in lines:
            match = _FENCE.fullmatch(line)
            fence, kind = blocks[-1] if blocks else ("", "")
            is_covered = any(each == "spoiler" for _, each in blocks)
            if fence and line.strip() == fence:
                blocks.pop()
                if kind == "code":
                    yield "```", is_covered
            elif kind == "code":
                yield line, is_covered
            elif (
                match
                and len(blocks) < 8
                and not (match[1][0] == "`" and "`" in match[3])
            ):
                word = match[2].lower()
                blocks.append(
                    (match[1], word if word in ("quote", "spoiler") else "code")
                )
                if blocks[-1][1] == "code":
                    yield (
                        "```" + (match[2] if _LANGUAGE.fullmatch(match[2]) else ""),
                        is_covered,
                    )
                elif match[3]:
                    yield f"*{self._inline(match[3]).replace('*', '')}*", is_covered
            else:
                before = len(self._files)
                text = self._inline(line)
                # a line of files only goes
                if text.strip() or len(self._files) == before:
                    is_quoted = any(each == "quote" for _, each in blocks)
                    yield f"> {text}" if is_quoted and text else text, is_covered
        if any(kind == "code" for _, kind in blocks):
            yield "```", any(kind == "spoiler" for _, kind in blocks)

    def _inline(self, text: str, depth: int = 0) -> str:
        return (
            _INLINE.sub(lambda match: self._part(match, depth), text)
            if depth < 4
            else text
        )

    def _part(self, match: re.Match[str], depth: int) -> str:
        kind = match.lastgroup  # the one that ends last
        if kind == "code":
            return f"`{match['code'].strip('`').strip().replace('`', chr(39))}`"
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
            return (
                self._realm.emoji_names.get(match["emoji"])
                or emoji_named(match["emoji"])
                or match[0]
            )
        if kind == "both":
            return f"*_{self._inline(match['both'], depth + 1)}_*"
        if kind == "bold":
            return f"*{self._inline(match['bold'], depth + 1)}*"
        return f"_{self._inline(match['italic'], depth + 1)}_"

    def _mention(self, match: re.Match[str]) -> str:
        name, _, id = match["name"].partition("|")
        # a group of people, or all who write in a topic
        if match["stars"] == "*" or name == "topic":
            return f"@{match['name']}"
        if name in ("all", "everyone", "channel", "stream") and not id:
            return "@all" if match["silent"] else mention(EVERYBODY)
        person = (
            self._realm.people.get(int(id)) if id.isdecimal() and len(id) < 19 else None
        )
        id = person.id if person else self._ids.get(name, "")
        return (
            mention(id)
            if id and not match["silent"]
            else f"@{person.nickname if person else name}"
        )

    def _channel(self, text: str) -> str:
        name, arrow, topic = text.partition(">")
        at = re.fullmatch(r"(.*)@(\d{1,18})", topic)
        if at:
            return link(at[2], f"#{name} > {at[1]}")
        return f"#{name} > {topic}" if arrow else f"#{name}"

    def _link(self, label: str, target: str) -> str:
        if upload := _UPLOAD.match(target):
            way = unquote(upload[1])
            name = self._realm.files.get(way) or label or way.rpartition("/")[2]
            self._files.append(File(f"uploads/{way}", name))
            return ""
        if narrow := _NARROW.search(target):
            people_or_channels = (
                self._realm.channels
                if narrow[1] in ("channel", "stream")
                else self._realm.people
            )
            if int(narrow[2]) in people_or_channels:
                mark = link(narrow[3], target)
                return f"{label} ({mark})" if label and label != target else mark
        return labelled(label, target)
