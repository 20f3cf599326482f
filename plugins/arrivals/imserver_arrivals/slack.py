"""Reads an export of Slack.

``users.json``, ``channels.json`` (public), ``groups.json`` (private), ``mpims.json`` (direct messages of
several people) and ``dms.json`` (of two) name people and conversations. Each conversation has a folder with
a file for each day. Memory has one day of one conversation. The format is that of `Slack's help
<https://slack.com/help/articles/220556107>`_; its messages are those of the API.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar, Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from . import records
from .live import MARK
from .people import nickname_of
from .problems import BadArchive, Problems
from .records import EVERYBODY, Change, Group, GroupKind, Member, Record, mention
from .source import read_whole, source_of
from .text import emoji_named

LISTS: Final[dict[str, GroupKind]] = {
    "channels": "open",
    "groups": "closed",
    "mpims": "several",
    "dms": "direct",
}
"""File of conversations → their kind."""
UPLOADS: Final = "__uploads"
"""The folder in which some tools add the files to an export: ``__uploads/F…/name``."""
JOINED: Final = ("channel_join", "group_join", "member_joined_channel")
LEFT: Final = ("channel_leave", "group_leave", "member_left_channel")
EVENTS: Final = ("member_joined_channel", "member_left_channel", "reaction_removed")
"""Types of events that are no messages. The API tells them; in a file of a day they have a ``ts``, too."""
RENAMED: Final = ("channel_name", "group_name")
DESCRIBED: Final = ("channel_topic", "group_topic", "channel_purpose", "group_purpose")
PASSED_OVER: Final = (
    *("channel_archive", "channel_unarchive", "group_archive", "group_unarchive"),
    *("channel_convert_to_private", "channel_convert_to_public", "channel_posting_permissions"),
    *("pinned_item", "unpinned_item", "channel_canvas_updated", "huddle_thread", "message_replied"),
)
"""Events that leave no entry; pins are in the lists of conversations."""
TEXTS: Final = (
    *("", "bot_message", "file_share", "me_message", "thread_broadcast", "reply_broadcast", "file_comment"),
    *("slackbot_response", "tombstone", "bot_add", "bot_remove", "reminder_add", "sh_room_created"),
    *("file_mention", "document_mention", "assistant_app_thread"),
)
"""Kinds of messages whose text says all."""
SLACKBOT: Final = "USLACKBOT"
MOST_DEPTH: Final = 12
"""Levels of blocks that are read."""
_DAY: Final = re.compile(r"(\d{4}-\d\d-\d\d)\.json", re.ASCII)
_TS: Final = re.compile(r"(\d{1,11})\.(\d{1,9})", re.ASCII)
ID: Final = re.compile(r"[A-Z0-9]{2,32}", re.ASCII)
_TAG: Final = re.compile(r"<([^<>\n]{1,4000})>")
_CODE: Final = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
_EMOJI: Final = re.compile(r":([a-z0-9_+'-]{1,100}):(?::skin-tone-([2-6]):)?")
_STRUCK: Final = re.compile(r"(?<![\w~])~(?![~\s])([^~\n]+?)(?<!\s)~(?![\w~])")
_MARKS: Final = {2: None, 3: None}
"""The signs of marks: texts have none of their own."""


# --- what Slack writes ------------------------------------------------------------------------------------


class Profile(Struct):
    """The profile of a user, or of the sender of one message."""

    real_name: str | None = None
    display_name: str | None = None
    email: str | None = None
    name: str | None = None


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
    size: int | float | None = None
    url_private: str | None = None
    is_external: bool | None = False


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


class Item(Struct):
    """The message that had a reaction."""

    ts: str = ""


class Message(Struct):
    """A message or an event of a conversation: of an export, or as the API tells what happens."""

    ts: str
    type: str | None = None
    subtype: str | None = None
    user: str | None = None
    bot_id: str | None = None
    username: str | None = None
    text: str | None = None
    thread_ts: str | None = None
    reactions: list[Reaction] | None = None
    files: list[File | None] | None = None
    file: File | None = None
    comment: Comment | None = None
    edited: dict[str, Any] | None = None
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
        """The id of who has sent it; of an app without a user, that of the bot or its name. ``""``: none."""
        comment = self.comment.user if self.comment is not None else None
        id = self.user or comment or self.bot_id or (f"name:{self.username}" if self.username else "")
        return id if 0 < len(id) <= 60 and id.isprintable() else ""


_read_message: Final = msgspec.json.Decoder(Message).decode
_read_array: Final = msgspec.json.Decoder(list[Raw]).decode


def id_of_ours(blocks: Any) -> str:
    """The id of the message of ours that was posted with these blocks (:data:`~imserver_arrivals.live.MARK`);
    ``""``: they are others."""
    ids = (
        (each.get("block_id") for each in blocks if isinstance(each, dict))
        if isinstance(blocks, list)
        else ()
    )
    return next((id.partition(".")[2] for id in ids if isinstance(id, str) and id.startswith(f"{MARK}.")), "")


def seconds_of(moment: float | None) -> float:
    """A time of Slack's that can be a time; 0: there is none."""
    return moment if moment and 0 < moment < 1e11 else 0


def microseconds_of(ts: str | None) -> int:
    """The time that Slack's ``ts`` names, in Unix microseconds; 0: it names none."""
    match = _TS.fullmatch(ts or "")
    return int(match[1]) * 1_000_000 + int(match[2].ljust(6, "0")[:6]) if match else 0


class SlackExport:
    """An export of Slack: see :class:`imserver_arrivals.records.Archive`."""

    name: ClassVar = "slack"
    title: ClassVar = "Slack"

    def __init__(self, path: Path) -> None:
        self.problems = Problems()
        self._source = source_of(path)
        tops = [name for name in self._source.names if name.rpartition("/")[2] == "users.json"]
        if not tops:
            raise BadArchive(f"{path} is no export of Slack: it has no users.json")
        self._top = min(tops, key=len).removesuffix("users.json")
        self._files: dict[str, list[str]] = {}
        """Folder of a conversation → the names of its files."""
        listed = {*LISTS, "users"}
        for name in self._source.names:
            folder, slash, file = name.removeprefix(self._top).partition("/")
            if not name.startswith(self._top):
                self.problems.note("file outside of the export")
            elif slash:
                self._files.setdefault(folder, []).append(file)
            elif folder.removesuffix(".json") not in listed:
                self.problems.note(f"file {folder[:60]}")
        self._uploads = {
            name.partition("/")[0]: f"{self._top}{UPLOADS}/{name}" for name in self._files.get(UPLOADS, ())
        }
        self._texts = Texts(set(), {})
        self.users = [user for user in self._rows("users.json", User) if ID.fullmatch(user.id)]
        self.conversations: list[Conversation] = []
        seen: set[str] = set()
        for file, kind in LISTS.items():
            for row in self._rows(f"{file}.json", Conversation, optional=True):
                row.kind = kind
                if not ID.fullmatch(row.id) or row.id in seen:
                    self.problems.note_broken(f"{file}.json", "a conversation without an id of its own")
                    continue
                seen.add(row.id)
                row.folder = row.name if row.name and row.name in self._files else row.id
                self.conversations.append(row)
        for folder in self._files.keys() - {each.folder for each in self.conversations} - {UPLOADS}:
            self.problems.note(f"folder {folder[:60]}")

    def open(self, file: str) -> IO[bytes] | None:
        name = self._uploads.get(file)
        return None if name is None else self._source.open(name)

    def records(self) -> Iterator[Record]:
        for user in self.users:
            yield _person(user)
        known = {user.id for user in self.users}
        self._texts = Texts(known, {each.id: each.name or each.id for each in self.conversations})
        for conversation in self.conversations:
            yield self._group(conversation)
        for conversation in self.conversations:
            for day in self._days(conversation):
                for message in self._day(conversation, day):
                    yield from self._records(conversation, message, known)

    # --- records ------------------------------------------------------------------------------------------

    def _group(self, conversation: Conversation) -> Group:
        about = conversation.purpose or conversation.topic
        pins = (
            records.Pin(f"{conversation.id}.{pin.id}", pin.user or "", int(seconds_of(pin.created) * 1000))
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

    def _records(self, conversation: Conversation, message: Message, known: set[str]) -> Iterator[Record]:
        """The record of a message, behind that of its sender if no list has named them."""
        kind, group, newest = message.kind, conversation.id, message.message
        if kind in PASSED_OVER or message.is_ours:
            why = "message of ours" if message.is_ours else kind
            self.problems.note(f"{why} (leaves no entry)", group=group)
            return
        if kind == "message_changed" and newest is not None and newest.time_us and newest.kind != kind:
            is_gone = newest.subtype == "tombstone"  # it began a thread
            gone = replace(message, subtype="message_deleted", deleted_ts=newest.ts)
            yield from self._records(conversation, gone if is_gone else newest, known)
            return
        before = message.previous_message
        sender = message.sender or (before.sender if before is not None else "")
        if not sender:
            self.problems.note("message without a sender", group=group)
            return
        if sender not in known and (nickname := _nickname(message)):
            known.add(sender)
            yield records.Person(sender, nickname, why="in no list")
        id, time_ms = f"{group}.{message.ts}", message.time_us // 1000
        if kind == "message_deleted":
            yield records.Removal(group, sender, time_ms, f"{group}.{message.deleted_ts}")
            return
        if kind == "reaction_removed":
            about = f"{group}.{message.item.ts if message.item is not None else ''}"
            yield records.Removal(group, sender, time_ms, about, _reaction(sender, message.reaction or ""))
            return
        if conversation.kind != "direct" and kind in (*JOINED, *LEFT, *RENAMED, *DESCRIBED):
            id = f"{id}.{sender}" if kind in EVENTS else id  # a message may have the same time
            change = partial(Change, id, group, sender, time_ms)
            if kind in JOINED:
                yield Change(id, group, message.inviter or sender, time_ms, "join", [sender])
            elif kind in LEFT:
                yield change("leave", [sender])
            elif kind in RENAMED:
                yield change("name", text=message.name or "")
            else:
                yield change("description", text=self._texts.convert(message.topic or message.purpose or ""))
            return
        if kind not in TEXTS:
            self.problems.note(f"kind {kind[:60]} (imported as text)", group=group)
        text = self._texts.convert(text_of(message))
        thread = message.thread_ts if message.thread_ts != message.ts else ""
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
            files=[_file(each) for each in (*(message.files or ()), message.file) if each is not None],
        )

    # --- files --------------------------------------------------------------------------------------------

    def _days(self, conversation: Conversation) -> list[str]:
        days = []
        for name in self._files.get(conversation.folder, ()):
            if _DAY.fullmatch(name):
                days.append(name)
            else:
                self.problems.note("file in the folder of a conversation")
        return sorted(days)

    def _day(self, conversation: Conversation, name: str) -> list[Message]:
        where = f"{conversation.folder}/{name}"
        messages = []
        for number, raw in enumerate(self._array(where), 1):
            try:
                message = _read_message(raw)
            except (ValueError, RecursionError) as error:
                self.problems.note_broken(f"{where}, message {number}", error)
                continue
            if not message.time_us:
                self.problems.note_broken(f"{where}, message {number}", "it has no time (ts)")
                continue
            messages.append(message)
        messages.sort(key=lambda message: message.time_us)
        return messages

    def _rows(self, name: str, kind: type[Any], optional: bool = False) -> Iterator[Any]:
        if optional and self._top + name not in self._source.names:
            return
        for number, raw in enumerate(self._array(name), 1):
            try:
                yield msgspec.json.decode(raw, type=kind)
            except (ValueError, RecursionError) as error:
                self.problems.note_broken(f"{name}, row {number}", error)

    def _array(self, name: str) -> list[Raw]:
        try:
            with self._source.open(self._top + name) as file:
                return _read_array(read_whole(file))
        except Exception as error:  # also of a decompressor
            self.problems.note_broken(name, error)
        return []


def _person(user: User) -> records.Person:
    """The person of a row of ``users.json``. Bots and deactivated users have nothing to log in with."""
    profile = user.profile or Profile()
    nickname = nickname_of(profile.display_name, profile.real_name, user.real_name, user.name) or user.id
    why = "deactivated" if user.deleted else "bot" if user.is_bot or user.id == SLACKBOT else ""
    if why:
        return records.Person(user.id, nickname, avatar=user.id, why=why)
    return records.Person(user.id, nickname, user.name or "", profile.email or "", user.id)


def _nickname(message: Message) -> str:
    """The name of a sender whom no list names: a guest of a shared channel, an app, or somebody who was
    deleted."""
    profiles = [each for each in (message.user_profile, message.bot_profile) if each is not None]
    names = [text for each in profiles for text in (each.display_name, each.real_name, each.name)]
    return nickname_of(message.username, *names) or ("Slackbot" if message.sender == SLACKBOT else "")


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
    name = file.name or file.title or "file"
    return records.File(file.id, name, why="file that Slack had deleted" if is_gone else "")


# --- texts --------------------------------------------------------------------------------------------------


class Texts(Struct):
    """Converts texts. ``known``: ids of users; ``channels``: id → name."""

    known: set[str]
    channels: dict[str, str]

    def convert(self, text: str) -> str:
        """A text of Slack as ours, with marks of those whom it mentions."""
        text = _TAG.sub(lambda match: self._tag(match[1]), text.translate(_MARKS))
        parts = _CODE.split(text)
        parts[::2] = [_STRUCK.sub(r"~~\1~~", _EMOJI.sub(_emoji, part)) for part in parts[::2]]
        text = "".join(parts)
        for escape, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
            text = text.replace(escape, sign)
        return text

    def _tag(self, content: str) -> str:
        """What stands for ``<content>``. It is still escaped."""
        target, _, label = content.partition("|")
        if target.startswith("@"):
            is_known = target[1:] in self.known
            return mention(target[1:]) if is_known else f"@{(label or target[1:]).lstrip('@')}"
        if target.startswith("#"):
            return f"#{label or _escaped(self.channels.get(target[1:], target[1:]))}"
        if target.startswith("!"):
            word = target[1:].partition("^")[0]
            if word in ("here", "channel", "everyone"):
                return mention(EVERYBODY)
            return label or f"@{word}"
        if target.startswith(("mailto:", "tel:")):
            return label or target.partition(":")[2]
        if label in ("", target) or target.partition("://")[2].rstrip("/") == label.rstrip("/"):
            return target
        return f"{label} ({target})"


def _emoji(match: re.Match[str]) -> str:
    return emoji_named(match[1] + (f"::skin-tone-{match[2]}" if match[2] else "")) or match[0]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- messages of apps ---------------------------------------------------------------------------------------


def text_of(message: Message) -> str:
    """The text of a message; of an app also what it says in attachments, or in blocks alone."""
    text = message.text or (message.comment.comment if message.comment else "") or ""
    if not text and message.blocks:
        text = "".join(_of_blocks(message.blocks, 0)).strip()
    more = [said for each in message.attachments or () if (said := _of_attachment(each, text))]
    return "\n".join(filter(None, (text, *more)))


def _of_attachment(given: Attachment, text: str) -> str:
    link = given.title_link or ""
    title = f"<{link}|{given.title}>" if given.title and link.startswith("http") else given.title
    fields = [
        f"{each.get('title') or ''}: {each.get('value') or ''}".strip(": ") for each in given.fields or ()
    ]
    if link and link in text:  # Slack's preview of a link that the message has
        return ""
    parts = [each for each in (given.pretext, title, given.text, *fields) if each]
    return "\n".join(parts) or given.fallback or ""


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
    if kind in ("mrkdwn", "plain_text", "text") and isinstance(text, str):
        yield text
    elif kind == "link" and isinstance(value.get("url"), str):
        yield f"<{value['url']}|{text}>" if isinstance(text, str) else f"<{value['url']}>"
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
        if kind in ("section", "header", "context", "rich_text_section", "rich_text_preformatted"):
            yield "\n"
