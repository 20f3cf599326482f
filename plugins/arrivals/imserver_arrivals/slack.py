"""Reads an export of Slack.

``users.json``, ``channels.json`` (public), ``groups.json`` (private),
``mpims.json`` (direct messages of several people) and ``dms.json`` (of two)
name people and conversations. Each conversation has a folder with a file for
each day. Exports of old workspaces, and what other tools write, lack some of
these lists: a folder that none of them names is a conversation, too. Memory has
one day of one conversation. The format is that of `Slack's help
<https://slack.com/help/articles/220556107>`_; its messages are those of the
API.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, ClassVar, Final, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from . import records
from .fields import RecordReader, any_value, at, list_at, text_at
from .live import MARK
from .people import nickname_of
from .problems import BadArchive, Problems
from .records import EVERYBODY, Change, Group, GroupKind, Member, Record, mention
from .source import read_whole, source_of
from .tables import Tables
from .text import emoji_named

LISTS: Final[dict[str, GroupKind]] = {
    "channels": "open",
    "groups": "closed",
    "mpims": "several",
    "dms": "direct",
}
"""File of conversations → their kind."""
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
"""File that may name bots and apps → its fields with ids, and those with the
names of these."""
_OF_OTHERS: Final = (
    "message_changed",
    "message_deleted",
    "member_joined_channel",
    "member_left_channel",
)
"""Kinds that say what becomes of another message, or of somebody."""
EVENTS: Final = ("member_joined_channel", "member_left_channel", "reaction_removed")
"""Types of events that are no messages. The API tells them; in a file of a day
they have a ``ts``, too."""
RENAMED: Final = ("channel_name", "group_name")
DESCRIBED: Final = ("channel_topic", "group_topic", "channel_purpose", "group_purpose")
PASSED_OVER: Final = (
    *("channel_archive", "channel_unarchive", "group_archive", "group_unarchive"),
    *(
        "channel_convert_to_private",
        "channel_convert_to_public",
        "channel_posting_permissions",
    ),
    *(
        "pinned_item",
        "unpinned_item",
        "channel_canvas_updated",
        "huddle_thread",
        "message_replied",
    ),
)
"""Events that leave no entry; pins are in the lists of conversations."""
TEXTS: Final = (
    *(
        "",
        "bot_message",
        "file_share",
        "me_message",
        "thread_broadcast",
        "reply_broadcast",
        "file_comment",
    ),
    *(
        "slackbot_response",
        "tombstone",
        "bot_add",
        "bot_remove",
        "reminder_add",
        "sh_room_created",
    ),
    *("file_mention", "document_mention", "assistant_app_thread"),
)
"""Kinds of messages whose text says all."""
SLACKBOT: Final = "USLACKBOT"
MOST_DEPTH: Final = 12
"""Levels of blocks that are read."""
MOST_ID_CHARACTERS: Final = 60
"""Of a sender whom no list names."""
_TABLES: Final = ("table", "data_table")
"""Blocks that the text of a message does not repeat."""
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
"""The link to an app in the message that says who has added it."""
_EMOJI: Final = re.compile(r":([a-z0-9_+'-]{1,100}):(?::skin-tone-([2-6]):)?")
_STRUCK: Final = re.compile(r"(?<![\w~])~(?![~\s])([^~\n]+?)(?<!\s)~(?![\w~])")
_Row = TypeVar("_Row")
_MARKS: Final = {2: None, 3: None}
"""The signs of marks: texts have none of their own."""


# --- what Slack writes --------------------------------------------------------


class Profile(Struct):
    """The profile of a user, or of the sender of one message."""

    real_name: str | None = None
    display_name: str | None = None
    email: str | None = None
    name: str | None = None
    bot_id: str | None = None


class User(Struct):
    """A row of ``users.json``."""

    id: str
    name: str | None = None
    real_name: str | None = None
    deleted: bool | None = False
    is_bot: bool | None = False
    profile: Profile | None = None


class Text(Struct):
    """The topic or the purpose of a channel."""

    value: str | None = None


class Pin(Struct):
    """A pinned message: its ``ts``, and who has pinned it when."""

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
    pins: list[Pin] | None = None
    kind: GroupKind = "closed"
    folder: str = ""

    @property
    def users(self) -> list[str]:
        """Its members, each once."""
        return list(dict.fromkeys(self.members or ()))


class Reaction(Struct):
    """An emoji, by its name in Slack, and who has reacted with it."""

    name: str
    users: list[str] | None = None


class File(Struct):
    """A file of a message. The export has its name; its bytes are at Slack."""

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
        """Whether it is a document of Slack, whose title is what people see of
        it."""
        return any(
            each in _CANVASES for each in (self.mode, self.filetype, self.mimetype)
        )


class Comment(Struct):
    """A comment on a file, in exports of old workspaces."""

    user: str | None = None
    comment: str | None = None


class Attachment(Struct):
    """What an app adds to a message."""

    fallback: str | None = None
    pretext: str | None = None
    title: str | None = None
    title_link: str | None = None
    text: str | None = None
    fields: list[dict[str, Any]] | None = None
    blocks: Any = None


class Item(Struct):
    """The message that had a reaction."""

    ts: str = ""


class Message(Struct):
    """A message or an event of a conversation: of an export, or as the API
    tells what happens."""

    ts: str
    type: str | None = None
    subtype: str | None = None
    user: str | None = None
    bot_id: str | None = None
    app_id: str | None = None
    username: str | None = None
    text: str | None = None
    thread_ts: str | None = None
    reactions: list[Reaction] | None = None
    files: list[File | None] | None = None
    file: File | None = None
    comment: Comment | None = None
    edited: Any = None
    attachments: list[Attachment] | None = None
    blocks: Any = None
    user_profile: Profile | None = None
    bot_profile: Profile | None = None
    name: str | None = None
    topic: str | None = None
    purpose: str | None = None
    inviter: str | None = None
    message: "Message | None" = None
    """What an edited message has become."""
    previous_message: "Message | None" = None
    deleted_ts: str | None = None
    item: Item | None = None
    reaction: str | None = None
    """The emoji that was taken back."""

    @property
    def kind(self) -> str:
        """The subtype of a message; the type of another event."""
        return self.subtype or (self.type if self.type in EVENTS else "") or ""

    @property
    def time_us(self) -> int:
        """When it was sent, in Unix microseconds; 0: that is not known."""
        return microseconds_of(self.ts)

    @property
    def is_ours(self) -> bool:
        """Whether it was posted in the name of a message of ours."""
        return bool(id_of_ours(self.blocks))

    @property
    def sender(self) -> str:
        """The id of who has sent it; of an app without a user, that of the bot
        or its name. ``""``: none."""
        comment = self.comment.user if self.comment is not None else None
        profile = self.bot_profile.bot_id if self.bot_profile is not None else None
        id = self.user or comment or self.bot_id or profile or self.app_id
        if not id:
            name = "".join(filter(str.isprintable, self.username or ""))
            id = f"name:{name}"[:MOST_ID_CHARACTERS] if name else ""
        return id if 0 < len(id) <= MOST_ID_CHARACTERS and id.isprintable() else ""


_MESSAGES: Final = RecordReader(Message)
_read_array: Final = msgspec.json.Decoder(list[Raw]).decode


def id_of_ours(blocks: Any) -> str:
    """The id of the message of ours that was posted with these blocks
    (:data:`~imserver_arrivals.live.MARK`); ``""``: they are others."""
    ids = (
        (each.get("block_id") for each in blocks if isinstance(each, dict))
        if isinstance(blocks, list)
        else ()
    )
    return next(
        (
            id.partition(".")[2]
            for id in ids
            if isinstance(id, str) and id.startswith(f"{MARK}.")
        ),
        "",
    )


def seconds_of(moment: float | None) -> float:
    """A time of Slack's that can be a time; 0: there is none."""
    return moment if moment and 0 < moment < 1e11 else 0


def microseconds_of(ts: str | None) -> int:
    """The time that Slack's ``ts`` names, in Unix microseconds; 0: it names
    none."""
    match = _TS.fullmatch(ts or "")
    return int(match[1]) * 1_000_000 + int(match[2].ljust(6, "0")[:6]) if match else 0


class SlackExport:
    """An export of Slack: see :class:`imserver_arrivals.records.Archive`."""

    name: ClassVar = "slack"
    title: ClassVar = "Slack"

    def __init__(self, path: Path) -> None:
        self.problems = Problems()
        self._source = source_of(path, self.problems)
        tops = [
            name
            for name in self._source.names
            if name.rpartition("/")[2] == "users.json"
        ]
        if not tops:
            raise BadArchive(f"{path} is no export of Slack: it has no users.json")
        self._top = min(tops, key=len).removesuffix("users.json")
        self._files: dict[str, list[str]] = {}
        """Folder of a conversation → the names of its files."""
        self._bots: dict[str, str] = {}
        """Id of a bot or an app, of those that no message names → its name."""
        self._has_surveyed = False
        listed = {f"{name}.json" for name in (*LISTS, "users", *_BOTS)}
        left = []
        for name in self._source.names:
            folder, slash, file = name.removeprefix(self._top).partition("/")
            if not name.startswith(self._top):
                left.append(name)
            elif slash:
                self._files.setdefault(folder, []).append(file)
            elif folder not in listed:
                left.append(name)
        self._uploads = {
            name.partition("/")[0]: f"{self._top}{UPLOADS}/{name}"
            for name in self._files.get(UPLOADS, ())
        }
        self._texts = Texts(set(), {})
        self.users = [
            user for user in self._rows("users.json", User) if ID.fullmatch(user.id)
        ]
        self._read_bots()
        self.conversations: list[Conversation] = []
        self._read_lists()
        for name in left:
            self._leave(name)

    def _read_bots(self) -> None:
        """Read what bots are called: their messages may have an id alone."""
        for user in self.users:
            if user.profile is not None and user.profile.bot_id:
                self._bots[user.profile.bot_id] = (
                    user.profile.real_name or user.real_name or user.name or ""
                )
        for file, names in _BOTS.items():
            if f"{self._top}{file}.json" not in self._source.names:
                continue
            for raw in self._array(f"{file}.json"):
                row = _value_of(raw)
                for id, name in names:
                    if text_at(row, id) and text_at(row, name):
                        self._bots.setdefault(text_at(row, id), text_at(row, name))

    def _read_lists(self) -> None:
        """Read the lists of conversations, and find the folder of each."""
        meant = {
            unicodedata.normalize("NFKC", folder): folder for folder in self._files
        }
        seen: set[str] = set()
        taken: set[str] = set()
        for file, kind in LISTS.items():
            for row in self._rows(f"{file}.json", Conversation, optional=True):
                row.kind = kind
                if not ID.fullmatch(row.id) or row.id in seen:
                    self.problems.note_broken(
                        f"{file}.json", "a conversation without an id of its own"
                    )
                    continue
                seen.add(row.id)
                folder = meant.get(unicodedata.normalize("NFKC", row.name or ""), "")
                is_own = folder != "" and folder not in taken
                row.folder = folder if is_own else row.id
                taken.add(row.folder)
                self.conversations.append(row)

    def _survey(self) -> None:
        """Make conversations of the folders that no list names."""
        listed = {each.folder for each in self.conversations}
        for folder in self._files.keys() - listed - {UPLOADS}:
            conversation = Conversation(_id_of_folder(folder), folder, folder=folder)
            senders: dict[str, None] = {}
            for day in self._days(conversation, Problems()):
                for message in self._day(conversation, day, Problems()):
                    senders[message.sender] = None
            if not senders:
                for file in self._files[folder]:
                    self._leave(f"{self._top}{folder}/{file}")
                continue
            senders.pop("", None)
            conversation.members = list(senders)
            if _DIRECT.fullmatch(folder) and len(senders) == 2:
                conversation.kind = "direct"
            self.conversations.append(conversation)
            what = (
                "a conversation of two"
                if conversation.kind == "direct"
                else "a closed group"
            )
            self.problems.note(
                f"folder {folder[:60]} that no list names (it comes as {what})"
            )

    def _leave(self, name: str) -> None:
        """Note a file that is of no conversation, and count the messages in
        it."""
        short = name.removeprefix(self._top)[:60]
        count = 0
        if name.endswith(".json"):
            rows = (
                self._array(name.removeprefix(self._top), Problems())
                if name.startswith(self._top)
                else []
            )
            if not name.startswith(self._top):
                rows = self._read(name, name, Problems())
            count = sum(
                bool(microseconds_of(text_at(_value_of(row), "ts"))) for row in rows
            )
        if count:
            self.problems.note_lost(
                f"message in {short}, which is of no conversation", count=count
            )
        else:
            self.problems.note(f"file {short}")

    def open(self, file: str) -> IO[bytes] | None:
        name = self._uploads.get(file)
        return None if name is None else self._source.open(name)

    def records(self) -> Iterator[Record]:
        if not self._has_surveyed:
            self._survey()
            self._has_surveyed = True
        for user in self.users:
            yield _person(user)
        known = {user.id for user in self.users}
        self._texts = Texts(
            known, {each.id: each.name or each.id for each in self.conversations}
        )
        for conversation in self.conversations:
            yield self._group(conversation)
        for conversation in self.conversations:
            for day in self._days(conversation, self.problems):
                for message in self._day(conversation, day, self.problems):
                    yield from self._records(conversation, message, known)

    # --- records --------------------------------------------------------------

    def _group(self, conversation: Conversation) -> Group:
        about = conversation.purpose or conversation.topic
        pins = (
            records.Pin(
                f"{conversation.id}.{pin.id}",
                pin.user or "",
                int(seconds_of(pin.created) * 1000),
            )
            for pin in conversation.pins or ()
        )
        return Group(
            id=conversation.id,
            kind=conversation.kind,
            name="" if conversation.kind == "several" else conversation.name or "",
            description=self._texts.convert((about.value if about else "") or ""),
            creator=conversation.creator or "",
            created_ms=int(seconds_of(conversation.created) * 1000),
            members=[Member(id) for id in dict.fromkeys(conversation.members or ())],
            pins=list(pins),
            is_archived=bool(conversation.is_archived),
        )

    def _records(
        self, conversation: Conversation, message: Message, known: set[str]
    ) -> Iterator[Record]:
        """The record of a message, behind that of its sender if no list has
        named them."""
        kind, group, newest = message.kind, conversation.id, message.message
        if kind in PASSED_OVER or message.is_ours:
            why = "message of ours" if message.is_ours else kind
            self.problems.note(f"{why} (leaves no entry)", group=group)
            return
        if (
            kind == "message_changed"
            and newest is not None
            and newest.time_us
            and newest.kind != kind
        ):
            is_gone = newest.subtype == "tombstone"  # it began a thread
            gone = replace(message, subtype="message_deleted", deleted_ts=newest.ts)
            yield from self._records(conversation, gone if is_gone else newest, known)
            return
        before = message.previous_message
        sender = message.sender or (before.sender if before is not None else "")
        if not sender:
            is_message = kind not in _OF_OTHERS
            note = self.problems.note_lost if is_message else self.problems.note
            note("message without a sender", group=group)
            return
        if kind == "bot_add":
            yield from self._added_bot(message, known)
        if sender not in known and (nickname := self._nickname(message)):
            known.add(sender)
            yield records.Person(sender, nickname, why="in no list")
        id, time_ms = f"{group}.{message.ts}", message.time_us // 1000
        if kind == "message_deleted":
            yield records.Removal(
                group, sender, time_ms, f"{group}.{message.deleted_ts}"
            )
            return
        if kind == "reaction_removed":
            about = f"{group}.{message.item.ts if message.item is not None else ''}"
            yield records.Removal(
                group, sender, time_ms, about, _reaction(sender, message.reaction or "")
            )
            return
        if conversation.kind != "direct" and kind in (
            *JOINED,
            *LEFT,
            *RENAMED,
            *DESCRIBED,
        ):
            # a message may have the same time
            id = f"{id}.{sender}" if kind in EVENTS else id
            change = partial(Change, id, group, sender, time_ms)
            if kind in JOINED:
                yield Change(
                    id, group, message.inviter or sender, time_ms, "join", [sender]
                )
            elif kind in LEFT:
                yield change("leave", [sender])
            elif kind in RENAMED:
                yield change("name", text=message.name or "")
            else:
                yield change(
                    "description",
                    text=self._texts.convert(message.topic or message.purpose or ""),
                )
            return
        if kind not in TEXTS:
            self.problems.note(f"kind {kind[:60]} (imported as text)", group=group)
        text = self._texts.convert(text_of(message))
        thread = message.thread_ts if message.thread_ts != message.ts else ""
        root_ms = microseconds_of(thread) // 1000
        if root_ms > time_ms:
            self.problems.note(
                "reply older than its message (it comes behind it)", group=group
            )
            time_ms = root_ms + 1
        yield records.Message(
            id=id,
            group=group,
            person=sender,
            time_ms=time_ms,
            text=f"_{text}_" if kind == "me_message" else text,
            thread=f"{group}.{thread}" if thread else "",
            also=kind == "thread_broadcast",
            is_edited=bool(message.edited),
            reactions=list(_reactions(message)),
            files=[
                _file(each)
                for each in (*(message.files or ()), message.file)
                if each is not None
            ],
        )

    def _added_bot(self, message: Message, known: set[str]) -> Iterator[Record]:
        """The bot that a message says was added: others of its messages have
        its id alone."""
        service = _SERVICE.search(message.text or "")
        if service is not None and service["bot"] not in known:
            known.add(service["bot"])
            yield records.Person(
                service["bot"], nickname_of(service["name"]), why="in no list"
            )

    def _nickname(self, message: Message) -> str:
        """The name of a sender whom no list names: a guest of a shared channel,
        an app, or somebody who was deleted."""
        profiles = [
            each
            for each in (message.user_profile, message.bot_profile)
            if each is not None
        ]
        names = [
            text
            for each in profiles
            for text in (each.display_name, each.real_name, each.name)
        ]
        ids = (message.bot_id or "", message.app_id or "", message.sender)
        bots = [self._bots.get(id) for id in ids]
        nickname = nickname_of(message.username, *names, *bots)
        return nickname or ("Slackbot" if message.sender == SLACKBOT else "")

    # --- files ----------------------------------------------------------------

    def _days(self, conversation: Conversation, notes: Problems) -> list[str]:
        """The files with the messages of a conversation: of days, and whatever
        else is JSON."""
        days = []
        for name in self._files.get(conversation.folder, ()):
            folder, _, file = name.rpartition("/")
            if _DAY.fullmatch(file) or (not folder and file.endswith(".json")):
                days.append(name)
            else:
                notes.note("file in the folder of a conversation")
        return sorted(days)

    def _day(
        self, conversation: Conversation, name: str, notes: Problems
    ) -> list[Message]:
        where = f"{conversation.folder}/{name}"
        is_day = _DAY.fullmatch(name.rpartition("/")[2])
        messages = []
        for number, raw in enumerate(self._array(where, notes, messages=1), 1):
            if not is_day and at(_value_of(raw), "ts") is None:
                notes.note(f"row without a time in {name[:60]}")
                continue
            try:
                message = _read_row(
                    _MESSAGES, raw, partial(notes.note_field, "a message")
                )
            except (ValueError, RecursionError) as error:
                notes.note_broken(f"{where}, message {number}", error, messages=1)
                continue
            if not message.time_us:
                notes.note_broken(
                    f"{where}, message {number}", "it has no time (ts)", messages=1
                )
                continue
            messages.append(message)
        messages.sort(key=lambda message: message.time_us)
        return messages

    def _rows(
        self, name: str, kind: type[Any], optional: bool = False
    ) -> Iterator[Any]:
        if optional and self._top + name not in self._source.names:
            return
        reader = RecordReader(kind)
        for number, raw in enumerate(self._array(name), 1):
            try:
                yield _read_row(reader, raw, partial(self.problems.note_field, name))
            except (ValueError, RecursionError) as error:
                self.problems.note_broken(f"{name}, row {number}", error)

    def _array(
        self, name: str, notes: Problems | None = None, *, messages: int = 0
    ) -> list[Any]:
        """The rows of a file, raw or decoded. ``messages``: how many go at
        least if it is broken."""
        return self._read(
            self._top + name, name, notes or self.problems, messages=messages
        )

    def _read(
        self, path: str, name: str, notes: Problems, *, messages: int = 0
    ) -> list[Any]:
        try:
            with self._source.open(path) as file:
                content = read_whole(file)
        except Exception as error:  # also of a decompressor
            notes.note_broken(name, error, messages=messages)
            return []
        if content.strip() == b"null":  # as tools write a list of nothing
            return []
        try:
            return list(_read_array(content))
        except (ValueError, RecursionError):
            return _rest_of(content, name, notes, messages)


def _rest_of(content: bytes, name: str, notes: Problems, messages: int) -> list[Any]:
    """The rows of a file that is no array, or is broken: those of arrays in it,
    as far as it is whole."""
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
    """A row, raw or decoded. Raises ValueError and RecursionError if it is
    broken."""
    return (
        reader.decode(raw, note) if isinstance(raw, Raw) else reader.convert(raw, note)
    )


def _value_of(raw: Any) -> Any:
    """The value of a row, raw or decoded; None: it is broken."""
    if not isinstance(raw, Raw):
        return raw
    try:
        return any_value(bytes(raw))
    except (ValueError, RecursionError):
        return None


def _id_of_folder(folder: str) -> str:
    """The id of a conversation that no list names: that which its folder is
    named by, or a digest."""
    if ID.fullmatch(folder):
        return folder
    return f"X{hashlib.blake2b(folder.encode(), digest_size=12).hexdigest().upper()}"


def _person(user: User) -> records.Person:
    """The person of a row of ``users.json``. Bots and deactivated users have
    nothing to log in with."""
    profile = user.profile or Profile()
    nickname = (
        nickname_of(profile.display_name, profile.real_name, user.real_name, user.name)
        or user.id
    )
    why = (
        "deactivated"
        if user.deleted
        else "bot"
        if user.is_bot or user.id == SLACKBOT
        else ""
    )
    if why:
        return records.Person(user.id, nickname, avatar=user.id, why=why)
    return records.Person(
        user.id, nickname, user.name or "", profile.email or "", user.id
    )


def _reactions(message: Message) -> Iterator[records.Reaction]:
    for reaction in message.reactions or ():
        for id in reaction.users or ():
            yield _reaction(id, reaction.name)


def _reaction(person: str, name: str) -> records.Reaction:
    return records.Reaction(person, emoji_named(name) or f":{name}:", name)


def _file(file: File) -> records.File:
    address = (file.url_private or "") if file.is_external else ""
    if address.startswith(("http://", "https://")):
        return records.File(file.id, file.title or file.name or "", address)
    is_gone = file.mode in ("tombstone", "hidden_by_limit")
    names = (file.title, file.name) if file.is_canvas else (file.name, file.title)
    name = next(filter(None, names), "file")
    return records.File(
        file.id, name, why="file that Slack had deleted" if is_gone else ""
    )


# --- texts --------------------------------------------------------------------


class Texts(Struct):
    """Converts texts. ``known``: ids of users; ``channels``: id → name."""

    known: set[str]
    channels: dict[str, str]

    def convert(self, text: str) -> str:
        """A text of Slack as ours, with marks of those whom it mentions."""
        text = _TAG.sub(lambda match: self._tag(match[1]), text.translate(_MARKS))
        parts = _CODE.split(text)
        parts[::2] = [
            _STRUCK.sub(r"~~\1~~", _EMOJI.sub(_emoji, part)) for part in parts[::2]
        ]
        text = "".join(parts)
        for escape, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
            text = text.replace(escape, sign)
        return text

    def _tag(self, content: str) -> str:
        """What stands for ``<content>``. It is still escaped."""
        target, _, label = content.partition("|")
        if target.startswith("@"):
            is_known = target[1:] in self.known
            return (
                mention(target[1:])
                if is_known
                else f"@{(label or target[1:]).lstrip('@')}"
            )
        if target.startswith("#"):
            return f"#{label or _escaped(self.channels.get(target[1:], target[1:]))}"
        if target.startswith("!"):
            word = target[1:].partition("^")[0]
            if word in ("here", "channel", "everyone"):
                return mention(EVERYBODY)
            return label or f"@{word}"
        if target.startswith(("mailto:", "tel:")):
            return label or target.partition(":")[2]
        if label in ("", target) or target.partition("://")[2].rstrip(
            "/"
        ) == label.rstrip("/"):
            return target
        return f"{label} ({target})"


def _emoji(match: re.Match[str]) -> str:
    return (
        emoji_named(match[1] + (f"::skin-tone-{match[2]}" if match[2] else ""))
        or match[0]
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- messages of apps ---------------------------------------------------------


def text_of(message: Message) -> str:
    """The text of a message with the tables in its blocks; of an app also what
    it says in attachments, or in blocks alone."""
    text = message.text or (message.comment.comment if message.comment else "") or ""
    if not text and message.blocks:
        text = "".join(_of_blocks(message.blocks, 0)).strip()
        tables = []
    else:
        tables = [_of_table(each, 0) for each in _tables_in(message.blocks)]
    more = [
        said
        for each in message.attachments or ()
        if (said := _of_attachment(each, text))
    ]
    return "\n".join(filter(None, (text, *tables, *more)))


def _tables_in(blocks: Any) -> Iterator[Any]:
    for each in blocks if isinstance(blocks, list) else ():
        if isinstance(each, dict) and each.get("type") in _TABLES:
            yield each


def _of_table(block: Any, depth: int) -> str:
    """A table as lines, with a bar between two cells."""
    lines = []
    for row in list_at(block, "rows"):
        cells = row if isinstance(row, list) else list_at(row, "cells")
        texts = ("".join(_of_blocks(cell, depth + 1)) for cell in cells)
        lines.append(" | ".join(" ".join(text.split()) for text in texts))
    return "\n".join(lines)


def _of_attachment(given: Attachment, text: str) -> str:
    link = given.title_link or ""
    title = (
        f"<{link}|{given.title}>"
        if given.title and link.startswith("http")
        else given.title
    )
    fields = [
        f"{each.get('title') or ''}: {each.get('value') or ''}".strip(": ")
        for each in given.fields or ()
    ]
    if link and link in text:  # Slack's preview of a link that the message has
        return ""
    parts = [each for each in (given.pretext, title, given.text, *fields) if each]
    blocks = "".join(_of_blocks(given.blocks, 0)).strip()
    return "\n".join(parts) or blocks or given.fallback or ""


def _of_blocks(value: Any, depth: int) -> Iterator[str]:
    """The texts in blocks, as marks."""
    if depth > MOST_DEPTH:
        return
    if isinstance(value, list):
        for each in value:
            yield from _of_blocks(each, depth + 1)
        return
    if not isinstance(value, dict):
        return
    kind, text = value.get("type"), value.get("text")
    if kind in _TABLES:
        yield f"{_of_table(value, depth)}\n"
    elif kind in (
        "mrkdwn",
        "plain_text",
        "text",
        "raw_text",
        "raw_number",
    ) and isinstance(text, str):
        yield text
    elif kind == "link" and isinstance(value.get("url"), str):
        yield (
            f"<{value['url']}|{text}>" if isinstance(text, str) else f"<{value['url']}>"
        )
    elif kind == "emoji":
        yield f":{value.get('name')}:"
    elif kind == "user":
        yield f"<@{value.get('user_id')}>"
    elif kind == "channel":
        yield f"<#{value.get('channel_id')}>"
    elif kind == "broadcast":
        yield f"<!{value.get('range')}>"
    else:
        for key in ("text", "fields", "elements"):
            yield from _of_blocks(value.get(key), depth + 1)
        if kind in (
            "section",
            "header",
            "context",
            "rich_text_section",
            "rich_text_preformatted",
        ):
            yield "\n"
