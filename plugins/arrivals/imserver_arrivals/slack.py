"""Reads an export of Slack.

``users.json`` lists people. ``channels.json`` (public), ``groups.json``
(private), ``mpims.json`` (direct messages of several people) and ``dms.json``
(of two) list conversations. Each conversation has a folder with a file for each
day. Exports of old workspaces, and exports by other tools, lack some of these
lists. Therefore a folder that no list names is a conversation, too. One day of
one conversation is kept in memory. `Slack's help
<https://slack.com/help/articles/220556107>`_ describes the format. Messages
have the form of the API.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, ClassVar, Final, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from . import records
from .fields import Json, RecordReader, any_value, at, list_at, text_at
from .live import MARK
from .people import nickname_of
from .problems import NAME_CHARACTERS, BadArchive, Problems
from .records import EVERYBODY, Change, Group, GroupKind, Member, Record, mention
from .source import read_whole, source_of
from .tables import Tables
from .text import SECOND_MS, SECOND_US, emoji_named, lines_of_fields

LISTS: Final[dict[str, GroupKind]] = {
    "channels": "open",
    "groups": "closed",
    "mpims": "several",
    "dms": "direct",
}
"""File with a list of conversations → the kind of these conversations."""
UPLOADS: Final = "__uploads"
"""The folder in which some tools add the files to an export:
``__uploads/F…/name``."""
JOINED: Final = ("channel_join", "group_join", "member_joined_channel")
LEFT: Final = ("channel_leave", "group_leave", "member_left_channel")
_BOTS: Final = {
    "bots": (("id", "name"), ("app_id", "name")),
    "integration_logs": (
        ("bot_id", "service_type"),
        ("app_id", "app_type"),
        ("service_id", "service_type"),
    ),
}
"""File that may name bots and apps → the fields with their ids, and the fields
with their names."""
_ABOUT_OTHERS: Final = (
    "message_changed",
    "message_deleted",
    "member_joined_channel",
    "member_left_channel",
)
"""Kinds of messages that tell of a change of another message, or of a
person."""
_REMOVALS: Final = ("message_deleted", "reaction_removed")
EVENTS: Final = ("member_joined_channel", "member_left_channel", "reaction_removed")
"""Types of events that are not messages. The API sends them; in a file of a day
they have a ``ts``, too."""
RENAMED: Final = ("channel_name", "group_name")
DESCRIBED: Final = ("channel_topic", "group_topic", "channel_purpose", "group_purpose")
_CHANGES: Final = (*JOINED, *LEFT, *RENAMED, *DESCRIBED)
"""Kinds of messages that tell of a change of a group."""
PASSED_OVER: Final = (
    "channel_archive",
    "channel_unarchive",
    "group_archive",
    "group_unarchive",
    "channel_convert_to_private",
    "channel_convert_to_public",
    "channel_posting_permissions",
    "pinned_item",
    "unpinned_item",
    "channel_canvas_updated",
    "huddle_thread",
    "message_replied",
)
"""Kinds of events that leave no entry. Pins are in the lists of
conversations."""
TEXTS: Final = (
    "",
    "bot_message",
    "file_share",
    "me_message",
    "thread_broadcast",
    "reply_broadcast",
    "file_comment",
    "slackbot_response",
    "tombstone",
    "bot_add",
    "bot_remove",
    "reminder_add",
    "sh_room_created",
    "file_mention",
    "document_mention",
    "assistant_app_thread",
)
"""Kinds of messages whose text has everything."""
SLACKBOT: Final = "USLACKBOT"
MOST_DEPTH: Final = 12
"""The most levels of blocks that are read."""
MOST_ID_CHARACTERS: Final = 60
"""Limit of the id of a sender whom no list names, in characters."""
_TABLES: Final = ("table", "data_table")
"""Blocks whose content is not in the text of a message."""
_TEXT_BLOCKS: Final = ("mrkdwn", "plain_text", "text", "raw_text", "raw_number")
_REFERENCES: Final = {
    "emoji": ("name", ":{}:"),
    "user": ("user_id", "<@{}>"),
    "channel": ("channel_id", "<#{}>"),
    "broadcast": ("range", "<!{}>"),
}
"""Kind of a block → its field with the name, and the mark before the name."""
_LINES: Final = (
    "section",
    "header",
    "context",
    "rich_text_section",
    "rich_text_preformatted",
)
"""Blocks that end with a line break."""
_CANVASES: Final = ("quip", "docs", "canvas", "application/vnd.slack-docs")
"""Modes, kinds and media types of canvases and posts."""
_DAY: Final = re.compile(r"(\d{4}-\d\d-\d\d)\.json", re.ASCII)
_TS: Final = re.compile(r"(\d{1,11})\.(\d{1,9})", re.ASCII)
ID: Final = re.compile(r"[A-Z0-9]{2,32}", re.ASCII)
_TAG: Final = re.compile(r"<([^<>\n]{1,4000})>")
_CODE: Final = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
_DIRECT: Final = re.compile(r"D[A-Z0-9]{6,31}", re.ASCII)
_SERVICE: Final = re.compile(
    r"/services/(?P<bot>B[A-Z0-9]{6,31})\|(?P<name>[^<>|\n]{1,100})>", re.ASCII
)
"""The link to an app, in the message that tells who has added it."""
_EMOJI: Final = re.compile(r":([a-z0-9_+'-]{1,100}):(?::skin-tone-([2-6]):)?")
_STRUCK: Final = re.compile(r"(?<![\w~])~(?![~\s])([^~\n]+?)(?<!\s)~(?![\w~])")
_Row = TypeVar("_Row")
_MARKS: Final = {2: None, 3: None}
"""The control characters that begin and end marks. Texts must not have them."""
_MS_US: Final = 1000
_LATEST_SECONDS: Final = 1e11
"""Limit of times from Slack; a later time is an error."""
_FRACTION_DIGITS: Final = 6
_ID_BYTES: Final = 12
"""Length of the id of a conversation that is made from its folder, in bytes."""


# --- what Slack writes --------------------------------------------------------


class Profile(Struct):
    """The profile of a user, or of the sender of one message."""

    real_name: str | None = None
    display_name: str | None = None
    email: str | None = None
    name: str | None = None
    bot_id: str | None = None


class SlackUser(Struct):
    """A row of ``users.json``, for example ``{"id": "U1", "name": "ann",
    "profile": {"email": "ann@example.org"}}``."""

    id: str
    name: str | None = None
    real_name: str | None = None
    deleted: bool | None = False
    is_bot: bool | None = False
    profile: Profile | None = None


class Text(Struct):
    """The topic or the purpose of a channel."""

    value: str | None = None


class SlackPin(Struct):
    """A pinned message: its ``ts``, who pinned it, and when."""

    id: str = ""
    type: str | None = None
    user: str | None = None
    created: int | float | None = None


class Conversation(Struct):
    """A row of one of :data:`LISTS`."""

    id: str
    name: str | None = None
    created: int | float | None = None
    creator: str | None = None
    is_archived: bool | None = False
    members: list[str] | None = None
    topic: Text | None = None
    purpose: Text | None = None
    pins: list[SlackPin] | None = None
    kind: GroupKind = "closed"
    folder: str = ""

    @property
    def users(self) -> list[str]:
        """The members of the conversation, each once."""
        return list(dict.fromkeys(self.members or ()))


class SlackReaction(Struct):
    """An emoji, by its name in Slack, and the people who have reacted with
    it."""

    name: str
    users: list[str] | None = None


class SlackFile(Struct):
    """A file of a message. The export has its name only; its bytes are at
    Slack."""

    id: str = ""
    name: str | None = None
    title: str | None = None
    mode: str | None = None
    filetype: str | None = None
    mimetype: str | None = None
    size: int | float | None = None
    url_private: str | None = None
    is_external: bool | None = False

    @property
    def is_canvas(self) -> bool:
        """Whether the file is a document of Slack. People see its title
        only."""
        kinds = (self.mode, self.filetype, self.mimetype)
        return any(kind in _CANVASES for kind in kinds)


class Comment(Struct):
    """A comment on a file, in exports of old workspaces."""

    user: str | None = None
    comment: str | None = None


class SlackAttachment(Struct):
    """An addition of an app to a message."""

    fallback: str | None = None
    pretext: str | None = None
    title: str | None = None
    title_link: str | None = None
    text: str | None = None
    fields: list[dict[str, Any]] | None = None
    blocks: Any = None


class Item(Struct):
    """The message to which a reaction belongs."""

    ts: str = ""


class SlackMessage(Struct):
    """A message or an event of a conversation, from an export or from the API.

    ``{"type": "message", "user": "U1", "ts": "1700000000.000100", "text": "Hi
    <@U2>"}`` is a simple one. ``ts`` is the time of sending in seconds, and
    identifies the message in its conversation.
    """

    ts: str
    type: str | None = None
    subtype: str | None = None
    user: str | None = None
    bot_id: str | None = None
    app_id: str | None = None
    username: str | None = None
    text: str | None = None
    thread_ts: str | None = None
    reactions: list[SlackReaction] | None = None
    files: list[SlackFile | None] | None = None
    file: SlackFile | None = None
    comment: Comment | None = None
    edited: Any = None
    attachments: list[SlackAttachment] | None = None
    blocks: Any = None
    user_profile: Profile | None = None
    bot_profile: Profile | None = None
    name: str | None = None
    topic: str | None = None
    purpose: str | None = None
    inviter: str | None = None
    message: "SlackMessage | None" = None
    """The edited message, in an event about an edit."""
    previous_message: "SlackMessage | None" = None
    deleted_ts: str | None = None
    item: Item | None = None
    reaction: str | None = None
    """The emoji that was taken back."""

    @property
    def kind(self) -> str:
        """The subtype of a message, or the type of another event. ``""`` for a
        plain message."""
        if self.subtype:
            return self.subtype
        if self.type in EVENTS:
            return self.type
        return ""

    @property
    def time_us(self) -> int:
        """When it was sent, in Unix microseconds; 0 if unknown."""
        return microseconds_of(self.ts)

    @property
    def time_ms(self) -> int:
        """When the message was sent, in Unix milliseconds."""
        return self.time_us // _MS_US

    @property
    def root(self) -> str:
        """The ``ts`` of the message with which its thread begins.

        ``""`` if there is no thread, or if this message begins it.
        """
        # All messages of a thread have the ts of its first one, also the first.
        if self.thread_ts and self.thread_ts != self.ts:
            return self.thread_ts
        return ""

    @property
    def is_ours(self) -> bool:
        """Whether ``--follow`` has posted it there on behalf of a message of
        the app here."""
        return bool(id_of_ours(self.blocks))

    @property
    def sender(self) -> str:
        """The id of the sender.

        A user comes first, then an app: its bot, or the name that it shows.
        ``""`` if the message has no sender, or an impossible one.
        """
        commenter = None
        if self.comment is not None:
            commenter = self.comment.user
        bot = None
        if self.bot_profile is not None:
            bot = self.bot_profile.bot_id
        id = self.user or commenter or self.bot_id or bot or self.app_id
        if not id:
            return self._name_as_id
        if len(id) > MOST_ID_CHARACTERS or not id.isprintable():
            return ""
        return id

    @property
    def _name_as_id(self) -> str:
        """An id made from the shown name of the sender, such as ``name:Deploy
        bot``.

        ``""`` if the name has no visible character.
        """
        name = "".join(filter(str.isprintable, self.username or ""))
        if name:
            return f"name:{name}"[:MOST_ID_CHARACTERS]
        return ""


_MESSAGES: Final = RecordReader(SlackMessage)
_read_array: Final = msgspec.json.Decoder(list[Raw]).decode


def id_of_ours(blocks: Any) -> str:
    """Return the id of the message here that was posted with these blocks.

    ``--follow`` posts our messages to Slack with the id in a field of a block,
    as ``{"block_id": "imserver.4711"}``. ``""`` if they are other blocks.
    """
    if not isinstance(blocks, list):
        return ""
    for block in blocks:
        mark, _, id = text_at(block, "block_id").partition(".")
        if mark == MARK and id:
            return id
    return ""


def seconds_of(moment: float | None) -> float:
    """Return a time of Slack in seconds; 0 if it is missing or not possible."""
    if moment and 0 < moment < _LATEST_SECONDS:
        return moment
    return 0


def microseconds_of(ts: str | None) -> int:
    """Convert Slack's ``ts`` to Unix microseconds.

    ``1700000000.0001`` becomes 1700000000000100. 0 if it is not a time.
    """
    match = _TS.fullmatch(ts or "")
    if match is None:
        return 0
    seconds, fraction = match.groups()
    microseconds = fraction.ljust(_FRACTION_DIGITS, "0")[:_FRACTION_DIGITS]
    return int(seconds) * SECOND_US + int(microseconds)


class SlackExport:
    """The adapter for exports of Slack.

    It converts them to the records which the importer stores. The interface is
    :class:`~imserver_arrivals.records.Archive`.
    """

    name: ClassVar = "slack"
    title: ClassVar = "Slack"

    def __init__(self, path: Path) -> None:
        """Open an export, and read the lists of people and conversations.

        Raises BadArchive if it has no ``users.json``.
        """
        self.problems = Problems()
        self._source = source_of(path, self.problems)
        self._top = self._top_of(path)
        self._files: dict[str, list[str]] = {}
        """Folder of a conversation → the names of its files."""
        self._bots: dict[str, str] = {}
        """Id of a bot or an app → its name, for bots and apps that their
        messages do not name."""
        self._has_found_unlisted = False
        unread = self._sort_files()
        self._uploads = self._uploads_by_id()
        self._texts = Texts(known=set(), channels={})

        self.users = [
            user
            for user in self._read_rows("users.json", SlackUser)
            if ID.fullmatch(user.id)
        ]
        self._read_bots()
        self.conversations: list[Conversation] = []
        self._read_lists()
        for name in unread:
            self._note_unread_file(name)

    def _uploads_by_id(self) -> dict[str, str]:
        """Return the names of uploads in the archive, by their ids.

        ``__uploads/F012AB/plan.pdf`` is the upload with the id F012AB.
        """
        return {
            name.partition("/")[0]: f"{self._top}{UPLOADS}/{name}"
            for name in self._files.get(UPLOADS, ())
        }

    def _top_of(self, path: Path) -> str:
        """Return the folder of the export in the archive, such as ``Team
        export/``.

        ``""`` if it is the top of the archive. Raises BadArchive if no folder
        has a ``users.json``.
        """
        tops = [
            name.removesuffix("users.json")
            for name in self._source.names
            if name.rpartition("/")[2] == "users.json"
        ]
        if not tops:
            raise BadArchive(f"{path} is no export of Slack: it has no users.json")
        return min(tops, key=len)

    def _sort_files(self) -> list[str]:
        """Find the files of each folder of the export.

        Returns the names of the other files, except the known lists. No part of
        the import reads them.
        """
        lists = {f"{name}.json" for name in (*LISTS, "users", *_BOTS)}
        unread = []
        for name in self._source.names:
            folder, slash, file = name.removeprefix(self._top).partition("/")
            if not name.startswith(self._top):
                unread.append(name)
            elif slash:
                self._files.setdefault(folder, []).append(file)
            # Without a slash the text is the name of a file at the top.
            elif folder not in lists:
                unread.append(name)
        return unread

    def _read_bots(self) -> None:
        """Read the names of bots, because their messages may have only an id.

        They are in the profiles of users and in further lists. Each list has
        the ids and the names of bots in fields of its own, see ``_BOTS``.
        """
        for user in self.users:
            profile = user.profile
            if profile is not None and profile.bot_id:
                name = profile.real_name or user.real_name or user.name or ""
                self._bots[profile.bot_id] = name
        for file, fields in _BOTS.items():
            if f"{self._top}{file}.json" not in self._source.names:
                continue
            for raw in self._raw_rows(f"{file}.json"):
                self._add_bots(_value_of(raw), fields)

    def _add_bots(self, row: Any, fields: Sequence[tuple[str, str]]) -> None:
        """Add the bots that a row names. ``fields``: fields with an id and a
        name."""
        for id_field, name_field in fields:
            id = text_at(row, id_field)
            name = text_at(row, name_field)
            if id and name:
                self._bots.setdefault(id, name)

    def _read_lists(self) -> None:
        """Read the lists of conversations, and find the folder of each."""
        folders = {
            unicodedata.normalize("NFKC", folder): folder for folder in self._files
        }
        ids: set[str] = set()
        taken_folders: set[str] = set()
        for file, kind in LISTS.items():
            for row in self._read_rows(f"{file}.json", Conversation, optional=True):
                row.kind = kind
                if not ID.fullmatch(row.id) or row.id in ids:
                    self.problems.note_broken(
                        f"{file}.json", "a conversation without an id of its own"
                    )
                    continue
                ids.add(row.id)
                row.folder = _folder_of(row, folders, taken_folders)
                self.conversations.append(row)

    def _find_unlisted(self) -> None:
        """Make conversations for the folders that no list names.

        Their members are the people who have written there. If a folder has no
        messages, its files are noted as unread.
        """
        listed = {conversation.folder for conversation in self.conversations}
        for folder in self._files.keys() - listed - {UPLOADS}:
            conversation = Conversation(_id_of_folder(folder), folder, folder=folder)
            senders = self._senders(conversation)
            if not senders:
                for file in self._files[folder]:
                    self._note_unread_file(f"{self._top}{folder}/{file}")
                continue
            senders.pop("", None)
            self._add_unlisted(conversation, list(senders))

    def _add_unlisted(self, conversation: Conversation, members: list[str]) -> None:
        """Add a conversation that no list names, and note it for the report.

        A folder such as ``D024BE91L`` has the id of a conversation of two.
        Other folders may be of any kind, so they come as closed groups.
        """
        folder = conversation.folder
        conversation.members = members
        what = "a closed group"
        if _DIRECT.fullmatch(folder) and len(members) == 2:
            conversation.kind = "direct"
            what = "a conversation of two"
        self.conversations.append(conversation)
        short = folder[:NAME_CHARACTERS]
        self.problems.note(f"folder {short} that no list names (it comes as {what})")

    def _senders(self, conversation: Conversation) -> dict[str, None]:
        """Return the people who have written in a conversation, as an ordered
        set.

        ``""`` stands for a message without a sender.
        """
        senders: dict[str, None] = {}
        for day in self._message_files(conversation, Problems()):
            for message in self._messages_of_day(conversation, day, Problems()):
                senders[message.sender] = None
        return senders

    def _note_unread_file(self, name: str) -> None:
        """Note a file that belongs to no conversation.

        A row with a ``ts`` is a message, so the report counts it as lost.
        """
        short = name.removeprefix(self._top)[:NAME_CHARACTERS]
        rows = []
        if name.endswith(".json"):
            # Its errors are not noted, because it may be no file of Slack.
            rows = self._rows_in(name, name, Problems())
        times = [microseconds_of(text_at(_value_of(row), "ts")) for row in rows]
        messages = sum(map(bool, times))
        if messages:
            self.problems.note_lost(
                f"message in {short}, which is of no conversation", count=messages
            )
        else:
            self.problems.note(f"file {short}")

    def open(self, file: str) -> IO[bytes] | None:
        """Open a file of a message by its id. None if the export does not have
        it in ``__uploads``."""
        name = self._uploads.get(file)
        if name is None:
            return None
        return self._source.open(name)

    def records(self) -> Iterator[Record]:
        """Yield all records: people, then groups, then messages.

        The first call also makes conversations for folders that no list names.
        """
        if not self._has_found_unlisted:
            self._find_unlisted()
            self._has_found_unlisted = True
        for user in self.users:
            yield _person(user)

        known = {user.id for user in self.users}
        names = {each.id: each.name or each.id for each in self.conversations}
        self._texts = Texts(known, names)
        for conversation in self.conversations:
            yield self._group(conversation)
        for conversation in self.conversations:
            for day in self._message_files(conversation, self.problems):
                for message in self._messages_of_day(conversation, day, self.problems):
                    yield from self._records(conversation, message, known)

    # --- records --------------------------------------------------------------

    def _group(self, conversation: Conversation) -> Group:
        """Return the record of a conversation."""
        about = conversation.purpose or conversation.topic
        description = ""
        if about is not None:
            description = about.value or ""
        name = conversation.name or ""
        if conversation.kind == "several":
            # Slack makes this name from the names of the members:
            # "mpdm-ann--bob-1".
            name = ""
        return Group(
            id=conversation.id,
            kind=conversation.kind,
            name=name,
            description=self._texts.convert(description),
            creator=conversation.creator or "",
            created_ms=int(seconds_of(conversation.created) * SECOND_MS),
            members=[Member(id) for id in conversation.users],
            pins=list(_pins(conversation)),
            is_archived=bool(conversation.is_archived),
        )

    def _records(
        self, conversation: Conversation, message: SlackMessage, known: set[str]
    ) -> Iterator[Record]:
        """Yield the record of a message, if it has one.

        Records of people come first, if no list has named the people.
        ``known``: the ids of people who have a record already; new ones are
        added.
        """
        group = conversation.id
        kind = message.kind
        if message.is_ours:
            self.problems.note("message of ours (leaves no entry)", group=group)
            return
        if kind in PASSED_OVER:
            self.problems.note(f"{kind} (leaves no entry)", group=group)
            return

        edited = _new_version(message)
        if edited is not None:
            # The event about an edit has the whole edited message.
            yield from self._records(conversation, edited, known)
            return

        sender = _sender_of(message)
        if not sender:
            self._note_without_sender(kind, group)
            return

        yield from self._new_people(message, sender, known)
        if kind in _REMOVALS:
            yield _removal(message, group, sender)
        elif kind in _CHANGES and conversation.kind != "direct":
            yield self._change(message, group, sender)
        else:
            yield self._message(message, group, sender)

    def _note_without_sender(self, kind: str, group: str) -> None:
        """Note a message without a sender. An event has no text that is
        lost."""
        note = self.problems.note_lost
        if kind in _ABOUT_OTHERS:
            note = self.problems.note
        note("message without a sender", group=group)

    def _new_people(
        self, message: SlackMessage, sender: str, known: set[str]
    ) -> Iterator[Record]:
        """Yield the records of people whom no list has named.

        They are the sender of a message, and a bot that somebody adds with it.
        Their ids are added to ``known``.
        """
        if message.kind == "bot_add":
            yield from self._new_bot(message, known)
        if sender not in known:
            nickname = self._nickname(message)
            if nickname:
                known.add(sender)
                yield records.Person(sender, nickname, why="in no list")

    @staticmethod
    def _new_bot(message: SlackMessage, known: set[str]) -> Iterator[Record]:
        """Yield the record of a bot that somebody adds.

        Other messages of the bot have only its id. This one has its name.
        """
        service = _SERVICE.search(message.text or "")
        if service is not None and service["bot"] not in known:
            known.add(service["bot"])
            nickname = nickname_of(service["name"])
            yield records.Person(service["bot"], nickname, why="in no list")

    def _change(self, message: SlackMessage, group: str, sender: str) -> Change:
        """Return the change of a group that a message reports.

        ``{"subtype": "channel_join", "user": "U2", "inviter": "U1", …}`` says
        that U1 has added U2, for example. Other kinds change the name or the
        topic.
        """
        kind = message.kind
        id = f"{group}.{message.ts}"
        if kind in EVENTS:
            id = f"{id}.{sender}"  # a message may have the same time
        change = partial(Change, id=id, group=group, time_ms=message.time_ms)

        if kind in JOINED:
            return change(
                person=message.inviter or sender, kind="join", people=[sender]
            )
        if kind in LEFT:
            return change(person=sender, kind="leave", people=[sender])
        if kind in RENAMED:
            return change(person=sender, kind="name", text=message.name or "")
        description = self._texts.convert(message.topic or message.purpose or "")
        return change(person=sender, kind="description", text=description)

    def _message(self, message: SlackMessage, group: str, sender: str) -> Record:
        """Return the record of a message, with its reactions and files."""
        kind = message.kind
        if kind not in TEXTS:
            short = kind[:NAME_CHARACTERS]
            self.problems.note(f"kind {short} (imported as text)", group=group)

        text = self._texts.convert(text_of(message))
        if kind == "me_message":
            text = f"_{text}_"
        root = message.root
        thread = ""
        if root:
            thread = f"{group}.{root}"
        files = (*(message.files or ()), message.file)
        return records.Message(
            id=f"{group}.{message.ts}",
            group=group,
            person=sender,
            time_ms=self._time_after(root, message, group),
            text=text,
            thread=thread,
            also=kind == "thread_broadcast",
            is_edited=bool(message.edited),
            reactions=list(_reactions(message)),
            files=[_file(file) for file in files if file is not None],
        )

    def _time_after(self, root: str, message: SlackMessage, group: str) -> int:
        """Return the time of a message in milliseconds, after that of its
        thread.

        A reply must be stored behind the message with which its thread begins.
        ``root`` is the ``ts`` of that message; ``""`` if there is no thread.
        """
        time_ms = message.time_ms
        if not root:
            return time_ms
        root_ms = microseconds_of(root) // _MS_US
        if root_ms <= time_ms:
            return time_ms
        self.problems.note(
            "reply older than its message (it comes behind it)", group=group
        )
        return root_ms + 1

    def _nickname(self, message: SlackMessage) -> str:
        """Return the name of a sender whom no list names, or ``""``.

        Such a sender is a guest of a shared channel, an app, or a deleted
        person. Their messages may contain a name or a profile.
        """
        names = [message.username]
        for profile in (message.user_profile, message.bot_profile):
            if profile is not None:
                names += [profile.display_name, profile.real_name, profile.name]
        for id in (message.bot_id, message.app_id, message.sender):
            names.append(self._bots.get(id or ""))
        nickname = nickname_of(*names)
        if not nickname and message.sender == SLACKBOT:
            return "Slackbot"
        return nickname

    # --- files ----------------------------------------------------------------

    def _message_files(self, conversation: Conversation, notes: Problems) -> list[str]:
        """List the files with the messages of a conversation, in the order of
        their days.

        They are a file for each day, such as ``2024-01-20.json``, and all other
        JSON files in the folder. ``notes`` gets the other files.
        """
        days = []
        for name in self._files.get(conversation.folder, ()):
            folder, _, file = name.rpartition("/")
            if _DAY.fullmatch(file) or (not folder and file.endswith(".json")):
                days.append(name)
            else:
                notes.note("file in the folder of a conversation")
        return sorted(days)

    def _messages_of_day(
        self, conversation: Conversation, name: str, notes: Problems
    ) -> list[SlackMessage]:
        """Return the messages in a file, in the order of their times.

        ``name``: the file in the folder of the conversation. ``notes`` gets
        broken messages, and rows that are not messages.
        """
        where = f"{conversation.folder}/{name}"
        is_day = _DAY.fullmatch(name.rpartition("/")[2])
        note_field = partial(notes.note_field, "a message")
        messages = []
        for number, raw in enumerate(self._raw_rows(where, notes, messages=1), 1):
            # A file with another name may have rows of any kind.
            if not is_day and at(_value_of(raw), "ts") is None:
                notes.note(f"row without a time in {name[:NAME_CHARACTERS]}")
                continue
            try:
                messages.append(_message_in(raw, note_field))
            except (ValueError, RecursionError) as error:
                notes.note_broken(f"{where}, message {number}", error, messages=1)
        messages.sort(key=lambda message: message.time_us)
        return messages

    def _read_rows(
        self, name: str, kind: type[Any], optional: bool = False
    ) -> Iterator[Any]:
        """Yield the rows of a list as records of ``kind``.

        Broken rows are noted. An ``optional`` file may be missing.
        """
        if optional and self._top + name not in self._source.names:
            return
        reader = RecordReader(kind)
        for number, raw in enumerate(self._raw_rows(name), 1):
            try:
                yield _read_row(reader, raw, partial(self.problems.note_field, name))
            except (ValueError, RecursionError) as error:
                self.problems.note_broken(f"{name}, row {number}", error)

    def _raw_rows(
        self, name: str, notes: Problems | None = None, *, messages: int = 0
    ) -> list[Any]:
        """Return the rows of a file of the export.

        A row is :class:`Raw` JSON, or decoded if the file is broken.
        ``messages``: how many messages count as lost if the file cannot be
        read.
        """
        return self._rows_in(
            self._top + name, name, notes or self.problems, messages=messages
        )

    def _rows_in(
        self, path: str, name: str, notes: Problems, *, messages: int = 0
    ) -> list[Any]:
        """Return the rows of any JSON file of the archive, as :meth:`_raw_rows`
        does.

        ``path``: its name in the archive. ``name``: its name in the report.
        """
        try:
            with self._source.open(path) as file:
                content = read_whole(file)
        except Exception as error:  # also of a decompressor
            notes.note_broken(name, error, messages=messages)
            return []
        if content.strip() == b"null":  # some tools write an empty list so
            return []
        try:
            return list(_read_array(content))
        except (ValueError, RecursionError):
            return _complete_rows(content, name, notes, messages)


def _complete_rows(
    content: bytes, name: str, notes: Problems, messages: int
) -> list[Any]:
    """Return the rows of a file that is not an array, or is cut off.

    They are the rows of all arrays in it, up to the place where it is broken.
    """
    rows = []
    try:
        for _, row in Tables(BytesIO(content)).rows():
            rows.append(row)
        if not rows:
            raise ValueError("there is no array in it")
    except (ValueError, RecursionError) as error:
        notes.note_broken(name, error, messages=messages)
    return rows


def _read_row(
    reader: RecordReader[_Row], raw: Any, note: Callable[[str], object]
) -> _Row:
    """Convert a row to a record. The row is raw JSON, or a decoded value.

    Raises ValueError and RecursionError if it is broken.
    """
    if isinstance(raw, Raw):
        return reader.decode(raw, note)
    return reader.convert(raw, note)


def _message_in(raw: Any, note: Callable[[str], object]) -> SlackMessage:
    """Convert a row to a message. Raises ValueError and RecursionError if it is
    broken, or has no time."""
    message = _read_row(_MESSAGES, raw, note)
    if not message.time_us:
        raise ValueError("it has no time (ts)")
    return message


def _value_of(raw: Any) -> Any:
    """Return the value of a row, which is raw JSON or decoded already. None if
    it is broken."""
    if not isinstance(raw, Raw):
        return raw
    try:
        return any_value(bytes(raw))
    except (ValueError, RecursionError):
        return None


def _folder_of(
    conversation: Conversation, folders: Mapping[str, str], taken: set[str]
) -> str:
    """Return the folder with the messages of a conversation, and add it to
    ``taken``.

    The folder has the name of the channel. ``folders``: normalized name → the
    folder. Tools may write the name with other Unicode characters that look the
    same, so both are normalized.
    """
    name = unicodedata.normalize("NFKC", conversation.name or "")
    folder = folders.get(name, "")
    # If two conversations have one name, the folder belongs to the first. The
    # other one is in a folder with its id.
    if not folder or folder in taken:
        folder = conversation.id
    taken.add(folder)
    return folder


def _id_of_folder(folder: str) -> str:
    """Return the id of a conversation that no list names.

    Some tools name the folder by the id, such as ``C024BE91L``. Otherwise the
    id is a digest of the folder's name.
    """
    if ID.fullmatch(folder):
        return folder
    digest = hashlib.blake2b(folder.encode(), digest_size=_ID_BYTES).hexdigest()
    return f"X{digest.upper()}"


def _person(user: SlackUser) -> records.Person:
    """Return the record of a person in ``users.json``.

    Bots and deactivated users get no login and no address, so nobody claims
    them.
    """
    profile = user.profile or Profile()
    names = (profile.display_name, profile.real_name, user.real_name, user.name)
    person = records.Person(user.id, nickname_of(*names) or user.id, avatar=user.id)
    if user.deleted:
        return replace(person, why="deactivated")
    if user.is_bot or user.id == SLACKBOT:
        return replace(person, why="bot")
    return replace(person, login=user.name or "", email=profile.email or "")


def _new_version(message: SlackMessage) -> SlackMessage | None:
    """Return the edited message in an event about an edit. None for other
    events.

    The event is ``{"subtype": "message_changed", "message": {…}}``. Slack also
    sends it for a deleted message that begins a thread: the message stays as a
    *tombstone*. In this case the event is returned as a deletion.
    """
    newest = message.message
    if message.kind != "message_changed" or newest is None:
        return None
    # The edited message must be no such event itself.
    if not newest.time_us or newest.kind == message.kind:
        return None
    if newest.subtype == "tombstone":
        return replace(message, subtype="message_deleted", deleted_ts=newest.ts)
    return newest


def _sender_of(message: SlackMessage) -> str:
    """Return the sender of a message, or ``""``.

    An event about a deletion may name only the sender of the deleted message.
    """
    before = message.previous_message
    if before is None:
        return message.sender
    return message.sender or before.sender


def _removal(message: SlackMessage, group: str, sender: str) -> records.Removal:
    """Return the removal of a message or a reaction that an event reports.

    ``{"type": "reaction_removed", "reaction": "tea", "item": {"ts": …}}`` is
    such an event. ``{"subtype": "message_deleted", "deleted_ts": …}``, too.
    """
    if message.kind == "message_deleted":
        ts = message.deleted_ts
        reaction = None
    else:
        ts = ""
        if message.item is not None:
            ts = message.item.ts
        reaction = _reaction(sender, message.reaction or "")
    return records.Removal(
        group=group,
        person=sender,
        time_ms=message.time_ms,
        message=f"{group}.{ts}",
        reaction=reaction,
    )


def _pins(conversation: Conversation) -> Iterator[records.Pin]:
    """Yield the pins of a conversation. A pin has the ``ts`` of its message."""
    for pin in conversation.pins or ():
        yield records.Pin(
            message=f"{conversation.id}.{pin.id}",
            person=pin.user or "",
            time_ms=int(seconds_of(pin.created) * SECOND_MS),
        )


def _reactions(message: SlackMessage) -> Iterator[records.Reaction]:
    """Yield the reactions to a message, one for each person and emoji."""
    for reaction in message.reactions or ():
        for id in reaction.users or ():
            yield _reaction(id, reaction.name)


def _reaction(person: str, name: str) -> records.Reaction:
    """Return a reaction. ``name`` is Slack's name of the emoji, such as
    ``wave``."""
    return records.Reaction(person, emoji_named(name) or f":{name}:", name)


def _file(file: SlackFile) -> records.File:
    """Return the record of a file of a message.

    A file outside of Slack has an address. A file that Slack has deleted has a
    reason (``why``) for which its bytes are missing.
    """
    address = ""
    if file.is_external:
        address = file.url_private or ""
    if address.startswith(("http://", "https://")):
        return records.File(file.id, file.title or file.name or "", address)
    # People know a document of Slack by its title, and other files by a name.
    if file.is_canvas:
        name = file.title or file.name or "file"
    else:
        name = file.name or file.title or "file"
    why = ""
    if file.mode in ("tombstone", "hidden_by_limit"):
        why = "file that Slack had deleted"
    return records.File(file.id, name, why=why)


# --- texts --------------------------------------------------------------------


class Texts(Struct):
    """Converts texts. ``known``: ids of users. ``channels``: id → name."""

    known: set[str]
    channels: dict[str, str]

    def convert(self, text: str) -> str:
        """Convert a text of Slack to the form that texts have here.

        ``Hi <@U1> :wave: ~no~ &amp; yes`` becomes ``Hi``, the mark of a
        mention, and ``👋 ~~no~~ & yes``.
        """
        text = text.translate(_MARKS)
        text = _TAG.sub(lambda match: self._tag(match[1]), text)
        # Every second part is code, and stays unchanged.
        parts = _CODE.split(text)
        parts[::2] = [
            _STRUCK.sub(r"~~\1~~", _EMOJI.sub(_emoji, part)) for part in parts[::2]
        ]
        text = "".join(parts)
        # "&amp;" comes last: "&amp;lt;" stands for the text "&lt;".
        for escape, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
            text = text.replace(escape, sign)
        return text

    def _tag(self, content: str) -> str:
        """Return the replacement for a tag of Slack.

        A tag is ``<@U1>``, ``<#C1|name>``, ``<!here>`` or ``<address|label>``.
        ``content`` is the part between ``<`` and ``>``. The replacement is
        still escaped, as the text is.
        """
        target, _, label = content.partition("|")
        sign = target[:1]
        id = target[1:]
        if sign == "@":
            if id in self.known:
                return mention(id)
            return f"@{(label or id).lstrip('@')}"
        if sign == "#":
            return f"#{label or _escaped(self.channels.get(id, id))}"
        if sign == "!":
            return _command(id, label)
        return _link(target, label)


def _emoji(match: re.Match[str]) -> str:
    """Return the character of an emoji such as ``:wave:``. An unknown name
    stays."""
    name, tone = match.groups()
    if tone:
        name += f"::skin-tone-{tone}"
    return emoji_named(name) or match[0]


def _command(content: str, label: str) -> str:
    """Return the replacement for a tag such as ``<!here>``, without its sign.

    ``subteam^S1`` is a group of users, and ``date^17…^{date}`` a time.
    """
    word = content.partition("^")[0]
    if word in ("here", "channel", "everyone"):
        return mention(EVERYBODY)
    return label or f"@{word}"


def _link(target: str, label: str) -> str:
    """Return a link as text: its address, its label, or both.

    ``https://a.org|a.org`` becomes ``https://a.org``, and
    ``https://a.org|plan`` becomes ``plan (https://a.org)``. Mail addresses and
    telephone numbers become their label.
    """
    if target.startswith(("mailto:", "tel:")):
        return label or target.partition(":")[2]
    address = target.partition("://")[2]
    if label in ("", target) or label.rstrip("/") == address.rstrip("/"):
        return target
    return f"{label} ({target})"


def _escaped(text: str) -> str:
    """Escape a text as Slack escapes the texts of messages."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- messages of apps ---------------------------------------------------------


def text_of(message: SlackMessage) -> str:
    """Return the text of a message in Slack's form.

    Apps write text into *blocks* (parts of a layout) and *attachments* (older
    additions below the text). The text of attachments is appended. The text of
    blocks counts if there is no other, because usually both are the same.
    """
    text = message.text or ""
    if not text and message.comment is not None:
        text = message.comment.comment or ""
    tables = []
    if message.blocks and not text:
        text = "".join(_texts_in(message.blocks, depth=0)).strip()
    else:
        # The blocks repeat the text, except tables.
        tables = [
            _text_of_table(table, depth=0) for table in _tables_in(message.blocks)
        ]
    attachments = [
        _text_of_attachment(attachment, text)
        for attachment in message.attachments or ()
    ]
    return "\n".join(filter(None, (text, *tables, *attachments)))


def _tables_in(blocks: Any) -> Iterator[Any]:
    """Yield the blocks of a message that are tables."""
    if not isinstance(blocks, list):
        return
    for block in blocks:
        if isinstance(block, dict) and block.get("type") in _TABLES:
            yield block


def _text_of_table(block: Any, depth: int) -> str:
    """Return a table as lines, with a bar between cells, such as ``Tea | 2``.

    ``depth``: how many blocks are around the table.
    """
    lines = []
    for row in list_at(block, "rows"):
        if isinstance(row, list):
            cells = row
        else:
            cells = list_at(row, "cells")
        texts = ("".join(_texts_in(cell, depth + 1)) for cell in cells)
        lines.append(" | ".join(" ".join(text.split()) for text in texts))
    return "\n".join(lines)


def _text_of_attachment(attachment: SlackAttachment, text: str) -> str:
    """Return the text of an addition that an app has made to a message.

    It is its title, text and fields, or else that of its blocks or its
    fallback. ``text`` is the text of the message.
    """
    link = attachment.title_link or ""
    if link and link in text:
        # It is Slack's preview of a link that the message has anyway.
        return ""

    title = attachment.title
    if title and link.startswith("http"):
        title = f"<{link}|{title}>"
    fields = lines_of_fields(attachment.fields or ())
    parts = filter(None, (attachment.pretext, title, attachment.text, *fields))
    blocks = "".join(_texts_in(attachment.blocks, depth=0)).strip()
    return "\n".join(parts) or blocks or attachment.fallback or ""


def _texts_in(value: Any, depth: int) -> Iterator[str]:
    """Yield the texts in nested blocks, with Slack's marks such as ``<@U1>``.

    Blocks deeper than :data:`MOST_DEPTH` are left out.
    """
    if depth > MOST_DEPTH:
        return
    if isinstance(value, list):
        for each in value:
            yield from _texts_in(each, depth + 1)
    elif isinstance(value, dict):
        yield from _texts_in_block(value, depth)


def _texts_in_block(block: Json, depth: int) -> Iterator[str]:
    """Yield the texts in one block and in the blocks inside of it.

    ``{"type": "rich_text_section", "elements": [{"type": "text", "text":
    "Hi "}, {"type": "user", "user_id": "U1"}]}`` yields ``Hi ``, ``<@U1>`` and
    a line break.
    """
    kind = text_at(block, "type")
    text = block.get("text")
    if kind in _TABLES:
        yield f"{_text_of_table(block, depth)}\n"
    elif kind in _TEXT_BLOCKS and isinstance(text, str):
        yield text
    elif kind == "link" and isinstance(block.get("url"), str):
        yield _tag_of_link(block)
    elif kind in _REFERENCES:
        field, form = _REFERENCES[kind]
        yield form.format(block.get(field))
    else:
        for key in ("text", "fields", "elements"):
            yield from _texts_in(block.get(key), depth + 1)
        if kind in _LINES:
            yield "\n"


def _tag_of_link(block: Json) -> str:
    """Return a block that is a link as Slack's texts write it."""
    if isinstance(block.get("text"), str):
        return f"<{block['url']}|{block['text']}>"
    return f"<{block['url']}>"
