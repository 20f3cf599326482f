"""Reads a bulk export of Mattermost: ``mmctl export create``, or ``mattermost
export bulk``.

A file with lines of JSON (``import.jsonl``) has teams, channels, users, bots,
emoji, posts with their replies, and direct messages. The folder ``data/``
beside it has the files. The lines are read twice: first for everything except
texts, then for the messages, in the order of the file. People, groups, members
and pins are kept in memory. The first reading needs 16 MiB more.

The server defines the lines in ``app/imports/import_types.go``,
``app/export.go`` and ``app/export_converters.go``. Versions 5.28 to 11 write
version 1 of the format. Posts have no ids, so the id of a message is made from
its group, person and time.
"""

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import IO, Any, ClassVar, Final, Literal, NamedTuple

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from .fields import RecordReader, any_value, at, list_at
from .markdown import of_markdown
from .problems import NAME_CHARACTERS, BadArchive, Problems
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
    Removal,
    Role,
    mention,
)
from .source import read_lines, source_of
from .text import attachments_in, emoji_named

_BITS: Final = 1 << 27
"""Bits of the table that finds posts which may have one id. It has a few false
hits in a million posts."""
_MOST_TIME_MS: Final = 1 << 53
_DIGEST_BYTES: Final = 12
_MOST_TRIES: Final = 20
"""The most files whose first line is read to find the lines."""
_BLOCK: Final = 1 << 16
"""The number of bytes that one read fetches."""
_BYTE_BITS: Final = 8
_CHANGES: Final[
    dict[str, tuple[Literal["join", "leave", "name", "description"], str]]
] = {
    "system_join_channel": ("join", ""),
    "system_guest_join_channel": ("join", ""),
    "system_add_to_channel": ("join", "addedUsername"),
    "system_add_guest_to_chan": ("join", "addedUsername"),
    "system_leave_channel": ("leave", ""),
    "system_remove_from_channel": ("leave", "removedUsername"),
    "system_displayname_change": ("name", "new_displayname"),
    "system_header_change": ("description", "new_header"),
    "system_purpose_change": ("description", "new_purpose"),
}
"""Kind of a post → the change, and the property that has its person or text
(``""``: the author of the post)."""
_PASSED_OVER: Final = {
    "system_join_leave",
    "system_add_remove",
    "system_ephemeral",
    "system_move_channel",
    "system_join_team",
    "system_leave_team",
    "system_add_to_team",
    "system_remove_from_team",
    "system_convert_channel",
    "system_change_chan_privacy",
    "system_gm_to_channel",
    "system_channel_deleted",
    "system_channel_restored",
    "system_autotranslation",
    "system_warn_metric_status",
    "add_bot_teams_channels",
    "burn_on_read",
    "reminder",
    "page",
    "page_comment",
}
"""Kinds of posts that leave no entry. All other kinds become messages."""
_TEXTS: Final = {
    "",
    "me",
    "slack_attachment",
    "system_generic",
    "system_auto_responder",
    "system_wrangler",
}
_EVERYBODY: Final = {"all", "channel", "here"}
_POST_TYPES: Final = ("post", "direct_post")
_POST: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"(?:direct_)?post"')
_NAME: Final = re.compile(
    r"(?<![\w:]):(?P<emoji>[a-z0-9_+-]{1,64}):"
    r"|(?<![\w@./])@(?P<name>[A-Za-z0-9._-]{1,64})"
    r"|(?<![\w~])~(?P<channel>[A-Za-z0-9_-]{1,64})(?![\w~])"
)
_TONES: Final = ("light", "medium_light", "medium", "medium_dark", "dark")
_TONE: Final = re.compile(f"(.+?)_({'|'.join(_TONES)})_skin_tone")


# --- what Mattermost writes ---------------------------------------------------


class Team(Struct):
    """A team. ``type``: ``O`` (open) or ``I`` (by invitation)."""

    name: str
    display_name: str | None = None
    type: str | None = None
    allow_open_invite: bool | None = None


class Channel(Struct):
    """A channel. ``type``: ``O`` (public) or ``P`` (private)."""

    team: str
    name: str
    display_name: str | None = None
    type: str | None = None
    header: str | None = None
    purpose: str | None = None
    deleted_at: int | None = None


class ChannelMember(Struct):
    """The channel of a user, or (``username``) a user of a direct channel."""

    name: str | None = None
    username: str | None = None
    roles: str | None = None
    last_viewed_at: int | None = None


class TeamMember(Struct):
    """A team in which a user is, and the channels of the user in it."""

    name: str | None = None
    channels: list[ChannelMember] | None = None


class User(Struct):
    """A user, or a bot. A bot has a ``display_name``, and its owner's name as
    ``owner``."""

    username: str
    email: str | None = None
    nickname: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    display_name: str | None = None
    roles: str | None = None
    delete_at: int | None = None
    profile_image: str | None = None
    teams: list[TeamMember] | None = None


class DirectChannel(Struct):
    """A conversation of two or more. Old versions list ``members``, new ones
    ``participants``."""

    members: list[str] | None = None
    participants: list[ChannelMember] | None = None
    header: str | None = None


class CustomEmoji(Struct):
    """An emoji of the server's own."""

    name: str
    image: str | None = None


class PostReaction(Struct):
    """A reaction."""

    user: str
    emoji_name: str


class Attachment(Struct):
    """A file of a post, below ``data/``."""

    path: str | None = None


class Head(Struct):
    """The fields of a post that are read first.

    A post in a channel has ``team`` and ``channel``. A post in a direct channel
    has ``channel_members``. A reply does not have them, because it is within
    its post.
    """

    user: str
    create_at: int
    team: str | None = None
    channel: str | None = None
    channel_members: list[str] | None = None
    props: Raw = Raw()
    is_pinned: bool | None = None


class Outline(Head):
    """A post without the contents of its messages, as the first reading reads
    it."""

    replies: list[Head] | None = None


class Post(Head):
    """A post or a reply, as the second reading reads it.

    Only :mod:`imserver_arrivals.mattermost_news` writes the last three fields.
    Times are Unix milliseconds.
    """

    type: str | None = None
    message: str | None = None
    edit_at: int | None = None
    reactions: list[PostReaction] | None = None
    attachments: list[Attachment] | None = None
    replies: list[Raw] | None = None
    deleted_at: int | None = None
    ended_reactions: list[PostReaction] | None = None
    ended_at: int | None = None


class FirstLine(Struct):
    """A line, as the first reading reads it.

    ``{"type": "channel", "channel": {"team": "t", "name": "lobby", "type":
    "O"}}`` is such a line. Only the field that ``type`` names is set.
    """

    type: str
    version: int | None = None
    team: Team | None = None
    channel: Channel | None = None
    user: User | None = None
    bot: User | None = None
    direct_channel: DirectChannel | None = None
    emoji: CustomEmoji | None = None
    post: Outline | None = None
    direct_post: Outline | None = None


class PostLine(Struct):
    """A line, as the second reading reads it for its messages."""

    type: str
    post: Post | None = None
    direct_post: Post | None = None


class Props(Struct):
    """The properties of a post that are read. Plug-ins may write any value into
    them. ``imserver``: see :data:`imserver_arrivals.live.MARK`."""

    imserver: Any = None
    attachments: Any = None
    from_webhook: Any = None
    override_username: Any = None
    webhook_display_name: Any = None
    addedUsername: Any = None
    removedUsername: Any = None
    new_displayname: Any = None
    new_header: Any = None
    new_purpose: Any = None


_FIRST_LINES: Final = RecordReader(FirstLine)
_POST_LINES: Final = RecordReader(PostLine)
_POSTS: Final = RecordReader(Post)
_read_props: Final = msgspec.json.Decoder(Props).decode
_encode: Final = msgspec.msgpack.Encoder().encode


def _props_of(raw: Raw) -> Props:
    """Return the properties of a post. They are empty if the JSON has another
    form."""
    content = bytes(raw)
    if len(content) <= 2 or content == b"null":
        return Props()
    try:
        return _read_props(content)
    except (ValueError, RecursionError):
        return Props()


def _prop(post: Post, field: str) -> str:
    """Return a property of a post, such as ``addedUsername``; ``""`` if it is
    no text."""
    text = getattr(_props_of(post.props), field)
    if isinstance(text, str):
        return text
    return ""


def _set_bit(table: mmap, number: int) -> bool:
    """Set a bit of a table. Returns whether it was set before."""
    byte, bit = divmod(number, _BYTE_BITS)
    was_set = bool(table[byte] >> bit & 1)
    table[byte] |= 1 << bit
    return was_set


def _digest(*parts: object) -> str:
    """Return a digest of these values, as 24 hexadecimal digits for an id."""
    content = "\0".join(map(str, parts)).encode()
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()


# --- the archive --------------------------------------------------------------


class PostContext(NamedTuple):
    """The facts about a post or a reply that are not in its own JSON."""

    id: str
    group: str
    author: str
    """The id of its author; ``""`` if it is a message of our app."""
    thread: str
    """The id of the first post of its thread; ``""`` if it is this post."""
    line: int
    """The number of its line, for the report."""


class Mattermost:
    """The adapter for bulk exports of Mattermost.

    It converts them to the records which the importer stores. The interface is
    :class:`~imserver_arrivals.records.Archive`.
    """

    name: ClassVar[str] = "mattermost"
    title: ClassVar[str] = "Mattermost"

    def __init__(self, path: Path) -> None:
        """Open an export, and read everything except the texts of messages.

        Raises BadArchive if no file has the lines of an export.
        """
        self.problems = Problems()
        self._source = source_of(path, self.problems)
        self._names = frozenset(self._source.names)
        """The names of all files."""
        self._lines_file = self._find_lines_file(path)
        # The folder of this file, with a slash at its end.
        self._top = self._lines_file[: self._lines_file.rfind("/") + 1]
        self._teams: dict[str, Team] = {}
        self._channels: dict[str, Channel] = {}
        """Id of a group → its channel."""
        self._direct: dict[str, str] = {}
        """Id of a group → the header of its direct channel."""
        self._people: dict[str, Person] = {}
        self._members: dict[str, list[Member]] = {}
        """Id of a group → its members."""
        self._pins: dict[str, dict[str, Pin]] = {}
        """Id of a group → id of a pinned message → its pin."""
        self._emoji: dict[str, str] = {}
        """Name of an emoji of the server's own → its file."""
        self._twins: set[int] = set()
        """Hashes of posts that other posts may equal in group, person and
        time."""
        self._read_outlines()

    def records(self) -> Iterator[Record]:
        """Yield all records: people, emoji, groups, and then messages.

        The lines are read a second time, for the messages.
        """
        yield from self._people.values()
        for name, file in self._emoji.items():
            yield Emoji(name, file)
        for id, channel in self._channels.items():
            yield self._group(id, channel)
        for id, header in self._direct.items():
            yield self._direct_group(id, header)
        yield from self._messages()

    def open(self, file: str) -> IO[bytes] | None:
        """Open a file by its path below ``data/``. None if it is missing.

        The old command puts pictures of emoji beside the lines instead.
        """
        folder = "data/"
        if file.startswith("exported_emoji/"):
            folder = ""
        name = f"{self._top}{folder}{file}"
        if name in self._names:
            return self._source.open(name)
        return None

    # --- lines ----------------------------------------------------------------

    def _find_lines_file(self, path: Path) -> str:
        """Return the name of the file with the lines of the export.

        Its first line is ``{"type": "version", "version": 1}``. If there are
        several, the one nearest to the top of the archive counts. Raises
        BadArchive.
        """
        names = [
            name for name in self._source.names if name.endswith((".jsonl", ".json"))
        ]
        names.sort(
            key=lambda name: (name.count("/"), not name.endswith(".jsonl"), name)
        )
        for name in names[:_MOST_TRIES]:
            if self._begins_with_version(name):
                return name
        raise BadArchive(
            f"{path} is no export of Mattermost: no file in it begins with the version, 1"
        )

    def _begins_with_version(self, name: str) -> bool:
        """Whether a file begins with the version of an export, which is 1."""
        try:
            with self._source.open(name) as file:
                # Fields of wrong types are not noted: "bool" does nothing.
                first = _FIRST_LINES.decode(file.readline(_BLOCK), bool)
        except Exception:  # also of a decompressor
            return False
        return first.type == "version" and first.version == 1

    def _numbered_lines(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield the lines of the export with their numbers, which count from 1.

        None stands for a line that is too long. Empty lines are left out. If
        the file is broken, that is noted, and the iteration ends.
        """
        number = 0
        try:
            with (
                self._source.open(self._lines_file) as file,
                io.BufferedReader(file, _BLOCK) as lines,  # type: ignore[type-var]
            ):
                for number, line in enumerate(read_lines(lines), 1):
                    if line is None or not line.isspace():
                        yield number, line
        except Exception as error:  # also of a decompressor
            self.problems.note_broken(
                f"{self._lines_file}, after line {number}", error, messages=1
            )

    def _read_outlines(self) -> None:
        """Read everything except the contents of messages.

        These are people, groups, members, pins, and posts that may have equal
        ids.
        """
        # The pages of this memory are taken when they are used, so a small
        # archive takes few of them.
        table = mmap(-1, _BITS // _BYTE_BITS)
        strangers: dict[str, None] = {}
        """People in posts and channels, as an ordered set. A line about them
        may follow."""
        seen: set[int] = set()
        """Hashes of the lines that are not posts."""
        for number, line in self._numbered_lines():
            row = self._first_line(line, number)
            if row is None:
                continue
            outline = row.post or row.direct_post
            if outline is not None:
                self._survey_post(outline, table, strangers)
            elif self._is_new_line(line or b"", seen):
                self._add_line(row, number, strangers)
        self._add_strangers(strangers)

    def _is_new_line(self, line: bytes, seen: set[int]) -> bool:
        """Whether a line comes for the first time. Otherwise it is noted.

        ``seen``: hashes of the lines before; its hash is added.
        """
        key = hash(line.strip())
        if key in seen:
            self.problems.note("line that stands twice (counts once)")
            return False
        seen.add(key)
        return True

    def _add_strangers(self, strangers: dict[str, None]) -> None:
        """Add the people who have written, but have no line in the export.

        The id of the sender of a webhook is ``webhook/`` and the shown name.
        """
        strangers.pop("", None)  # the author of messages of ours
        for id in strangers:
            name = id.removeprefix("webhook/")
            why = "not in the export"
            if name != id:
                why = "bot"
            self._people.setdefault(id, Person(id, name, why=why))

    def _first_line(self, line: bytes | None, number: int) -> FirstLine | None:
        """Decode a line for the first reading. None if it is broken.

        A broken line is noted here, unless it is a post. The second reading
        notes broken posts.
        """
        notes: list[str] = []
        try:
            # A line that is too long counts as a post, because only posts are
            # so long.
            row = _FIRST_LINES.decode(line or b'{"type":"post"}', notes.append)
        except (ValueError, RecursionError) as error:
            if not _is_post(line or b""):
                self.problems.note_broken(f"line {number}", error)
            return None
        # broken posts are noted when their messages are read
        if row.type not in _POST_TYPES:
            where = f"a line of type {row.type[:NAME_CHARACTERS]}"
            for field in notes:
                self.problems.note_field(where, field)
        return row

    def _add_line(
        self, row: FirstLine, number: int, strangers: dict[str, None]
    ) -> None:
        """Remember the contents of a line that is not a post.

        ``number``: the number of the line, for the report. ``strangers`` gets
        people whom the export may not list as users.
        """
        if row.user is not None:
            self._add_person(row.user, is_bot=False)
        elif row.bot is not None:
            self._add_person(row.bot, is_bot=True)
        elif row.direct_channel is not None:
            self._add_direct(row.direct_channel, strangers)
        elif row.channel is not None:
            self._add_channel(row.channel, number)
        elif row.team is not None:
            self._teams[row.team.name] = row.team
        elif row.emoji is not None:
            self._emoji[row.emoji.name] = row.emoji.image or ""
        else:
            self._note_line(row.type)

    def _note_line(self, type: str) -> None:
        """Note a line whose content is not imported, if people may miss it."""
        if type not in ("version", "role", "scheme", *_POST_TYPES):
            short = type[:NAME_CHARACTERS]
            self.problems.note(f"line of type {short} (not imported)")

    def _survey_post(
        self, post: Outline, table: mmap, strangers: dict[str, None]
    ) -> None:
        """Note the facts of a post that must be known before its text is read.

        ``table`` has a bit for each hash of group, author and time. If the bit
        is set already, an earlier post may be equal in these, and have the same
        id. ``strangers`` gets the people who have written.
        """
        group = _group_of(post)
        author = _author_of(post)
        strangers[author] = None
        if post.channel_members and group not in self._direct:
            self._add_direct(DirectChannel(post.channel_members), strangers)

        key = hash((group, author, post.create_at))
        if _set_bit(table, key % _BITS):
            self._twins.add(key)
        if post.is_pinned or post.replies:
            self._survey_replies(post, group, author, strangers)

    def _survey_replies(
        self, post: Outline, group: str, author: str, strangers: dict[str, None]
    ) -> None:
        """Note the pins of a post and of its replies, and who has replied."""
        # Of posts with one group, author and time, this is the id of the first.
        root = _digest(group, author, post.create_at)
        if post.is_pinned:
            self._add_pin(group, root, post)
        counts: Counter[str] = Counter()
        for reply in post.replies or ():
            author = _author_of(reply)
            strangers[author] = None
            id = _with_number(_digest(root, author, reply.create_at), counts)
            if reply.is_pinned:
                self._add_pin(group, id, reply)

    def _add_pin(self, group: str, id: str, post: Head) -> None:
        """Note that a post is pinned. The export does not tell who has pinned
        it and when."""
        pins = self._pins.setdefault(group, {})
        pins[id] = Pin(id, time_ms=post.create_at)

    # --- people and groups ----------------------------------------------------

    def _add_person(self, row: User, *, is_bot: bool) -> None:
        """Add a user or a bot, and the memberships. Each name counts once."""
        id = row.username
        if not id or id in self._people:
            short = f"user {id[:NAME_CHARACTERS]}"
            self.problems.note_broken(short, "there are two, or there is no name")
            return
        self._people[id] = _person(row, is_bot)
        if "system_guest" in (row.roles or "").split():
            self.problems.note(
                "guest (here a person who may join open groups)", person=id
            )
        for team in row.teams or ():
            for channel in team.channels or ():
                self._add_member(f"{team.name}/{channel.name}", id, channel)

    def _add_member(self, group: str, person: str, row: ChannelMember) -> None:
        """Add a person to the members of a group, with the role and the time of
        reading.

        ``row.roles`` is a list with spaces, such as ``channel_user
        channel_admin``.
        """
        role: Role = "member"
        if "channel_admin" in (row.roles or "").split():
            role = "admin"
        read_ms = -1
        if row.last_viewed_at is not None:
            read_ms = max(row.last_viewed_at, 0)
        self._members.setdefault(group, []).append(Member(person, role, read_ms))

    def _add_channel(self, channel: Channel, number: int) -> None:
        """Remember a channel. Its id is ``team/name``. A channel without a team
        is noted."""
        id = f"{channel.team}/{channel.name}"
        if channel.team not in self._teams or id in self._channels:
            self.problems.note_broken(
                f"line {number}", "a channel without a team, or one of two with a name"
            )
            return
        self._channels[id] = channel

    def _add_direct(self, direct: DirectChannel, strangers: dict[str, None]) -> None:
        """Add a direct channel and its members.

        ``strangers`` gets the members, because the export may not list them as
        users.
        """
        rows = direct.participants or [
            ChannelMember(username=name) for name in direct.members or ()
        ]
        people = {row.username: row for row in rows if row.username}
        id = _direct_id(people)
        self._direct[id] = direct.header or ""
        self._members[id] = []
        for name, row in people.items():
            strangers[name] = None
            self._add_member(id, name, row)

    def _group(self, id: str, channel: Channel) -> Group:
        """Return the record of a channel of a team."""
        team = self._teams[channel.team]
        kind: GroupKind = "closed"
        # If the team is not open, nobody may join its public channels by
        # themselves.
        is_for_all = len(self._teams) == 1 or team.allow_open_invite
        if channel.type == "O" and is_for_all:
            kind = "open"
        return Group(
            id=id,
            kind=kind,
            name=self._titled(channel, channel.display_name or channel.name),
            description=self._text(
                channel.purpose or channel.header or "", channel.team
            ),
            members=self._members.get(id, ()),
            pins=self._pins_of(id),
            is_archived=bool(channel.deleted_at),
        )

    def _direct_group(self, id: str, header: str) -> Group:
        """Return the record of a direct channel, which has no name."""
        members = self._members.get(id, ())
        kind: GroupKind = "direct"
        if len(members) > 2:
            kind = "several"
        return Group(
            id=id,
            kind=kind,
            description=self._text(header, ""),
            members=members,
            pins=self._pins_of(id),
        )

    def _pins_of(self, group: str) -> Sequence[Pin]:
        """Return the pins of a group."""
        return list(self._pins.get(group, {}).values())

    def _titled(self, channel: Channel, name: str) -> str:
        """Return the name of a channel, such as ``Lobby``.

        If the archive has several teams, the team follows: ``Lobby (Sales)``.
        """
        if len(self._teams) == 1:
            return name
        team = self._teams[channel.team]
        return f"{name} ({team.display_name or team.name})"

    # --- messages -------------------------------------------------------------

    def _messages(self) -> Iterator[Message | Change | Removal]:
        """Read the lines a second time, and yield the records of posts.

        Broken posts are noted.
        """
        twins = _Twins()
        for number, line in self._numbered_lines():
            notes: list[str] = []
            try:
                post = _post_in(line, notes)
            except (ValueError, RecursionError) as error:
                if line is None or _is_post(line):
                    self.problems.note_broken(
                        f"line {number}", error, messages=_messages_in(line)
                    )
                continue
            if post is not None:
                for field in notes:
                    self.problems.note_field("a line of a post", field)
                yield from self._thread(post, number, twins)

    def _thread(
        self, post: Post, number: int, twins: "_Twins"
    ) -> Iterator[Message | Change | Removal]:
        """Yield the records of a post and its replies.

        A post that an earlier line had is left out. ``number``: the number of
        the line.
        """
        group = _group_of(post)
        if group not in self._channels and group not in self._direct:
            count = 1 + len(post.replies or ())
            self.problems.note_lost(
                "post in a channel that is not in the export", count=count
            )
            return

        author = _author_of(post)
        root = _digest(group, author, post.create_at)
        # Only for the few posts that may have a twin are contents compared.
        may_stand_twice = hash((group, author, post.create_at)) in self._twins
        if may_stand_twice:
            root = twins.id_of(root, post)
        context = PostContext(root, group, author, "", number)
        for record in self._records(post, context):
            if may_stand_twice and not twins.is_new(record):
                self.problems.note("post that stands twice (comes once)", group=group)
            else:
                yield record

    def _records(
        self, post: Post, context: PostContext
    ) -> Iterator[Message | Change | Removal]:
        """Yield the records of a post and of its replies.

        The id of a reply is made from the post, the author and the time.
        Replies that are equal in these get numbers.
        """
        yield from self._converted(post, context)
        counts: Counter[str] = Counter()
        for index, raw in enumerate(post.replies or (), 1):
            try:
                reply = _POSTS.decode(raw, partial(self.problems.note_field, "a reply"))
            except (ValueError, RecursionError) as error:
                self.problems.note_broken(
                    f"line {context.line}, reply {index}", error, messages=1
                )
                continue
            yield from self._reply(reply, post, context, counts)

    def _reply(
        self, reply: Post, post: Post, context: PostContext, counts: Counter[str]
    ) -> Iterator[Message | Change | Removal]:
        """Yield the records of a reply to a post.

        ``counts``: id of a reply → how many replies of the post have had it.
        """
        root, group, _, _, line = context
        author = _author_of(reply)
        id = _with_number(_digest(root, author, reply.create_at), counts)
        if 0 < reply.create_at < post.create_at:
            self.problems.note(
                "reply older than its message (it comes behind it)", group=group
            )
            reply = replace(reply, create_at=post.create_at + 1)
        return self._converted(reply, PostContext(id, group, author, root, line))

    def _converted(
        self, post: Post, context: PostContext
    ) -> Iterator[Message | Change | Removal]:
        """Yield the records of one post or reply.

        They are a message with its removed reactions, a change of the group, or
        a removal. A post that is not imported is noted.
        """
        id, group, author, _, _ = context
        kind = post.type or ""
        if self._is_left_out(post, context):
            return
        if post.deleted_at:
            yield Removal(group, author, post.deleted_at, id)
            return
        if kind in _PASSED_OVER:
            self.problems.note(f"event {kind} (not imported)", group=group)
            return
        if kind in _CHANGES:
            yield from self._changes(kind, post, context)
            return

        if kind not in _TEXTS:
            short = kind[:NAME_CHARACTERS]
            self.problems.note(
                f"post of type {short} (its text is imported)", group=group
            )
        yield self._message(post, context)
        yield from self._ended_reactions(post, context)

    def _ended_reactions(self, post: Post, context: PostContext) -> Iterator[Removal]:
        """Yield the removals of reactions that were taken back from a post."""
        for reaction in self._reactions(post.ended_reactions, context.group):
            ended_ms = post.ended_at or post.create_at
            yield Removal(
                context.group, reaction.person, ended_ms, context.id, reaction
            )

    def _is_left_out(self, post: Post, context: PostContext) -> bool:
        """Whether a post is one of our app, or broken. Such a post is noted."""
        if not context.author:
            # --follow has posted it there; it is in our log already.
            self.problems.note("message of ours", group=context.group)
            return True
        if 0 < post.create_at < _MOST_TIME_MS and context.author in self._people:
            return False
        self.problems.note_broken(
            f"line {context.line}", "a post without a time or a user", messages=1
        )
        return True

    def _message(self, post: Post, context: PostContext) -> Message:
        """Return a post as a message.

        The texts of its attachments, which apps add to a post, follow its text.
        """
        paths = [file.path for file in post.attachments or () if file.path]
        return Message(
            id=context.id,
            group=context.group,
            person=context.author,
            time_ms=post.create_at,
            text=self._text_of_post(post, context.group),
            thread=context.thread,
            is_edited=bool(post.edit_at),
            reactions=list(self._reactions(post.reactions, context.group)),
            files=[File(path, path.rpartition("/")[2]) for path in paths],
        )

    def _text_of_post(self, post: Post, group: str) -> str:
        """Return the converted text of a post, with the texts of its
        attachments."""
        channel = self._channels.get(group)
        team = ""
        if channel is not None:
            team = channel.team
        attachments = attachments_in(_props_of(post.props).attachments)
        texts = filter(None, (post.message, *attachments))
        return self._text("\n".join(texts), team)

    def _reactions(
        self, reactions: list[PostReaction] | None, group: str
    ) -> Iterator[Reaction]:
        """Yield the reactions of people who are in the export. Other reactions
        are noted."""
        for row in reactions or ():
            if row.user in self._people:
                emoji = _emoji_of(row.emoji_name) or f":{row.emoji_name}:"
                yield Reaction(row.user, emoji, row.emoji_name)
            else:
                self.problems.note(
                    "reaction of somebody who is not in the export", group=group
                )

    def _changes(self, kind: str, post: Post, context: PostContext) -> Iterator[Change]:
        """Yield the change of a group that a post of the server tells.

        ``{"type": "system_add_to_channel", "props": {"addedUsername": "bob"},
        …}`` says that Bob has joined, for example. Direct channels have no
        changes. A join or leave of somebody who is not in the export is left
        out.
        """
        channel = self._channels.get(context.group)
        if channel is None:
            return
        what, field = _CHANGES[kind]
        text = context.author
        if field:
            text = _prop(post, field)
        change = partial(
            Change, context.id, context.group, context.author, post.create_at, what
        )
        if what in ("join", "leave"):
            if text in self._people:
                yield change(people=[text])
        elif what == "name":
            yield change(text=self._titled(channel, text or channel.name))
        else:
            yield change(text=self._text(text, channel.team))

    # --- texts ----------------------------------------------------------------

    def _text(self, text: str, team: str) -> str:
        """Convert a text in a channel of a team to the form that texts have
        here.

        ``**Hi** @ann :tea:`` becomes ``*Hi*``, the mark of a mention, and
        ``🍵``. ``team`` is ``""`` for a direct channel.
        """

        def named(part: str) -> str:
            return _NAME.sub(partial(self._named, team=team), part)

        return of_markdown(text, named)

    def _named(self, match: re.Match[str], team: str) -> str:
        """Return the replacement of a name in a text.

        The match is an emoji ``:tea:``, a person ``@ann`` or a channel
        ``~lobby`` of the team. An unknown name stays.
        """
        whole = match[0]
        if match["emoji"]:
            return _emoji_of(match["emoji"]) or whole
        if match["channel"]:
            channel = self._channels.get(f"{team}/{match['channel'].lower()}")
            if channel is None:
                return whole
            return f"#{channel.display_name or channel.name}"
        return self._mention(match["name"]) or whole

    def _mention(self, name: str) -> str:
        """Return the mark of a person with a username; ``""`` if nobody has it.

        Signs after the name stay: in ``@ann.``, the full stop ends the
        sentence.
        """
        id = name.lower()
        while id not in self._people and id not in _EVERYBODY:
            if id[-1] not in "._-" or len(id) == 1:
                return ""
            id = id[:-1]
        person = EVERYBODY
        if id in self._people:
            person = id
        return mention(person) + name[len(id) :]


class _Twins:
    """Gives ids to posts with one channel, author and time, which are *twins*.

    They are different posts if their contents differ. Otherwise the export has
    one post twice.
    """

    def __init__(self) -> None:
        """Begin without any posts."""
        self._counts: Counter[str] = Counter()
        self._ids: dict[str, str] = {}
        """Digest of the contents of a post → its id."""
        self._seen: set[int] = set()
        """Hashes of ids and of whole records."""

    def id_of(self, root: str, post: Post) -> str:
        """Return the id of a post that may have a twin.

        ``root``: the id of the first post with this channel, author and time.
        Posts with other contents get ``root-1``, ``root-2`` and so on.
        """
        paths = [file.path for file in post.attachments or ()]
        content = _digest(root, post.type, post.message, bytes(post.props), *paths)
        if content not in self._ids:
            self._ids[content] = _with_number(root, self._counts)
        return self._ids[content]

    def is_new(self, record: Message | Change | Removal) -> bool:
        """Whether a record must be imported: no earlier record had all of it.

        The second record of a message may have more reactions, or a later text.
        """
        if isinstance(record, Removal):
            id = record.message
            brings_more = True
        else:
            id = record.id
            brings_more = isinstance(record, Message) and bool(
                record.reactions or record.is_edited
            )
        id_hash = hash(id)
        record_hash = hash(_encode(record))
        is_equal = record_hash in self._seen
        is_known = id_hash in self._seen
        self._seen.update((id_hash, record_hash))
        return not is_equal and (brings_more or not is_known)


def _person(row: User, is_bot: bool) -> Person:
    """Return the record of a user or a bot.

    Nobody may claim the account of a bot or of a deleted user, so their
    records have a reason, and no login and no address.
    """
    name = f"{row.first_name or ''} {row.last_name or ''}".strip()
    nickname = row.nickname or row.display_name or name or row.username
    person = Person(row.username, nickname, avatar=row.profile_image or "")
    if is_bot:
        return replace(person, why="bot")
    if row.delete_at:
        return replace(person, why="deactivated")
    return replace(person, login=row.username, email=row.email or "")


def _post_in(line: bytes | None, notes: list[str]) -> Post | None:
    """Return the post of a line, or None if the line is not a post.

    ``notes`` gets the fields that are left out. Raises ValueError and
    RecursionError if the line is broken.
    """
    if line is None:
        raise ValueError("it is too long")
    row = _POST_LINES.decode(line, notes.append)
    post = row.post or row.direct_post
    if post is None and row.type in _POST_TYPES:
        raise ValueError("it has no post that can be read")
    return post


def _is_post(line: bytes) -> bool:
    """Whether a broken line should have been a post, by its beginning or its
    type."""
    if _POST.match(line):
        return True
    try:
        return at(any_value(line), "type") in _POST_TYPES
    except (ValueError, RecursionError):
        return False


def _messages_in(line: bytes | None) -> int:
    """Return how many messages a broken line has: at least one.

    If its JSON can be read, the replies of the post count, too.
    """
    try:
        value = any_value(line or b"")
    except (ValueError, RecursionError):
        return 1
    posts = [at(value, kind) for kind in _POST_TYPES]
    return 1 + sum(len(list_at(post, "replies")) for post in posts)


def _group_of(post: Head) -> str:
    """Return the id of the group of a post.

    It is ``team/channel``, or an id made of the members of a direct channel.
    """
    if post.channel_members:
        return _direct_id(post.channel_members)
    return f"{post.team}/{post.channel}"


def _direct_id(people: Iterable[str]) -> str:
    """Return the id of the direct channel of these people, in whatever order
    they are."""
    return f"direct/{_digest(*sorted(set(people)))}"


def _author_of(post: Head) -> str:
    """Return the id of the author of a post.

    ``""`` means that it is a message of our app. No person has written the post
    of an incoming webhook, so its author is ``webhook/`` and the shown name.
    """
    props = _props_of(post.props)
    if props.imserver is not None:
        return ""
    if props.from_webhook not in ("true", True):
        return post.user
    for name in (props.override_username, props.webhook_display_name):
        if isinstance(name, str):
            visible = "".join(filter(str.isprintable, name)).strip()
            if visible:
                return f"webhook/{visible[:NAME_CHARACTERS]}"
    return "webhook/webhook"


def _with_number(id: str, counts: Counter[str]) -> str:
    """Return the id, or the id with a number if an earlier record has it.

    ``counts``: id → how many records have had it.
    """
    count = counts[id]
    counts[id] += 1
    if count:
        return f"{id}-{count}"
    return id


def _emoji_of(name: str) -> str:
    """Return the character of an emoji by its name, such as
    ``wave_dark_skin_tone``.

    ``""`` if it is one of the server's own.
    """
    match = _TONE.fullmatch(name)
    if match is None:
        return emoji_named(name)
    return emoji_named(f"{match[1]}::skin-tone-{_TONES.index(match[2]) + 2}")
