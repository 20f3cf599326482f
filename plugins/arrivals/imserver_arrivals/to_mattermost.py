"""Writes a bulk export of Mattermost, which its server imports (``mmctl import
process``) and :mod:`imserver_arrivals.mattermost` reads.

The team is the app. The names of the team, of channels and of people are made
from the names here, in the form that Mattermost accepts.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Final, NamedTuple
from zipfile import ZipFile

import msgspec
from msgspec.json import encode

from .markdown import to_markdown
from .records import EVERYBODY, Archive, Change, Emoji, Group, Message, Person
from .text import emoji_name
from .writing import (
    file_name,
    login_of,
    put_files,
    threads,
    unused_name,
    with_name,
    without_marks,
)

MOST_TEXT: Final = 16_000
"""Limit of a post in characters. The rest of a longer text follows in
replies."""
MOST_LINE_BYTES: Final = 12 << 20
"""Limit of a post with its replies, in bytes. Further replies become posts."""
MOST_PARTICIPANTS: Final = 8
"""The most people in a direct conversation. A larger one becomes a private
channel."""
_NAME_CHARACTERS: Final = 64
_HEADER_CHARACTERS: Final = 1024
_TONES: Final = ("light", "medium_light", "medium", "medium_dark", "dark")


class EventPost(NamedTuple):
    """A post in which the server of Mattermost tells of a change."""

    kind: str
    """For example ``system_join_channel``."""
    props: dict[str, str]
    """The facts of the change, for programs."""
    text: str
    """The text for people."""


class MattermostWriter:
    """Writes an archive as one bulk export of Mattermost.

    The ids of messages in the archive are numbers that grow from message to
    message. ``team``: the name of the app.
    """

    def __init__(self, archive: Archive, team: str) -> None:
        """Prepare an export. The archive is read when it is written."""
        self._archive = archive
        self._team_title = team
        self._team = unused_name(team, "team", set())
        self._people: dict[str, Person] = {}
        self._names = {EVERYBODY: "all"}
        """Id of a person → the name of the user."""
        self._taken = {"all", "channel", "here", "system", "matterbot"}
        """Names that no further user may have."""
        self._taken_channels: set[str] = set()
        self._groups: dict[str, Group] = {}
        self._channels: dict[str, str] = {}
        """Id of a group → the name of its channel. Direct conversations have no
        name."""
        self._emoji: list[Emoji] = []
        self._files: dict[str, str] = {}
        """Name of a file → its id."""
        self._pins: set[str] = set()
        """The ids of pinned messages."""

    def write(self, target: ZipFile, done: Callable[[int], object]) -> None:
        """Write everything to a zip file.

        ``done`` is called with the number of messages so far. Raises OSError,
        and StorageUnavailable.
        """
        everything = threads(self._archive, self._add_record, done)
        # When the first thread comes, all people, groups and emoji are known.
        first = next(everything, iter(()))
        with target.open("import.jsonl", "w", force_zip64=True) as lines:
            lines.writelines(
                encode(line) + b"\n" for line in self._lines_before_posts()
            )
            for thread in chain([first], everything):
                lines.writelines(line + b"\n" for line in self._thread(thread))
        put_files(target, self._archive, self._files)

    def _add_record(self, record: Person | Group | Emoji) -> None:
        """Add a person, a group or an emoji, and choose its name there."""
        if isinstance(record, Person):
            self._people[record.id] = record
            name = unused_name(
                login_of(record), f"user-{record.id}", self._taken, "a-z0-9._-"
            )
            self._names[record.id] = name
        elif isinstance(record, Emoji):
            self._emoji.append(record)
        else:
            self._add_group(record)

    def _add_group(self, group: Group) -> None:
        """Add a group. It becomes a direct channel without a name, if it may.

        A conversation of too many people becomes a private channel.
        """
        self._groups[group.id] = group
        self._pins.update(pin.message for pin in group.pins)
        is_direct = group.kind == "direct" or (
            group.kind == "several" and len(group.members) <= MOST_PARTICIPANTS
        )
        if not is_direct:
            name = unused_name(group.name, f"group-{group.id}", self._taken_channels)
            self._channels[group.id] = name

    # --- all but posts --------------------------------------------------------

    def _lines_before_posts(self) -> Iterator[dict[str, Any]]:
        """Yield the lines before the posts, in the order of an export.

        They are the version, the team, emoji, channels, users and direct
        channels. A line is ``{"type": "team", "team": {…}}``, for example.
        """
        yield {"type": "version", "version": 1, "info": {"generator": "imserver"}}
        yield _row_of("team", self._team_row())
        for emoji in self._emoji:
            image = self._path(emoji.file, "image")
            yield _row_of("emoji", {"name": emoji.name, "image": image})
        for id, name in self._channels.items():
            yield _row_of("channel", self._channel(self._groups[id], name))
        memberships = self._memberships()
        for id, person in self._people.items():
            yield _row_of("user", self._user(person, memberships.get(id, [])))
        for id, group in self._groups.items():
            if id not in self._channels:
                yield _row_of("direct_channel", self._direct_channel(group))

    def _team_row(self) -> dict[str, Any]:
        """Return the team, which only invited people may join."""
        return {
            "name": self._team,
            "display_name": self._team_title[:_NAME_CHARACTERS],
            "type": "I",
            "allow_open_invite": False,
        }

    def _memberships(self) -> dict[str, list[dict[str, Any]]]:
        """Return the channels of each person, as the person's line has them."""
        memberships: dict[str, list[dict[str, Any]]] = {}
        for id, name in self._channels.items():
            for member in self._groups[id].members:
                row: dict[str, Any] = {
                    "name": name,
                    "roles": "channel_user",
                    **_view_time(member.read_ms),
                }
                if member.role != "member":
                    row["roles"] = "channel_user channel_admin"
                memberships.setdefault(member.person, []).append(row)
        return memberships

    def _channel(self, group: Group, name: str) -> dict[str, Any]:
        """Return the line of a channel. ``name``: the one in its address."""
        channel: dict[str, Any] = {
            "team": self._team,
            "name": name,
            "display_name": (group.name or name)[:_NAME_CHARACTERS],
            "type": "P",
            "purpose": "",
            "header": self._text(group.description)[:_HEADER_CHARACTERS],
        }
        if group.kind == "open":
            channel["type"] = "O"
        if group.is_archived:
            # Nobody knows when, and any time but 0 archives it.
            channel["deleted_at"] = 1
        return channel

    def _direct_channel(self, group: Group) -> dict[str, Any]:
        """Return the line of a direct conversation.

        Importers until 2023 read only ``members``. Later ones read from
        ``participants`` when a person was last there.
        """
        names = self._names_in(group)
        view_times = {
            self._names[member.person]: _view_time(member.read_ms)
            for member in group.members
        }
        return {
            "members": names,
            "participants": [{"username": name, **view_times[name]} for name in names],
            "header": self._text(group.description),
        }

    def _names_in(self, group: Group) -> list[str]:
        """Return the names of the members of a direct conversation.

        A person who talks to themselves is listed twice.
        """
        names = [self._names[member.person] for member in group.members]
        if len(names) == 1:
            return names * 2
        return names

    def _user(self, person: Person, channels: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the line of a person. ``channels``: the person's memberships.

        A person without a login is deactivated.
        """
        name = self._names[person.id]
        user: dict[str, Any] = {
            "username": name,
            # Each user needs an address of their own.
            "email": person.email or f"{name}@example.invalid",
            "nickname": person.nickname[:_NAME_CHARACTERS],
            "roles": "system_user",
            "delete_at": int(not person.is_member),
            "teams": [{"name": self._team, "roles": "team_user", "channels": channels}],
        }
        if person.avatar:
            user["profile_image"] = self._path(person.avatar, "profile")
        return user

    # --- posts ----------------------------------------------------------------

    def _thread(self, records: Iterable[Message | Change]) -> Iterator[bytes]:
        """Yield a thread as lines, usually as one: a post with its replies.

        If its first message is missing, the thread begins with the next one. A
        reply that makes the line too long begins another post.
        """
        root: dict[str, Any] = {}
        replies: list[msgspec.Raw] = []
        size = 0
        group = ""
        for record in records:
            for post in self._posts(record):
                if not root:
                    root = post
                    group = record.group
                    continue
                reply = encode(post)
                if size + len(reply) > MOST_LINE_BYTES:
                    yield self._line(root, replies, group)
                    self._archive.problems.note(
                        "reply above the bytes of a line (leaves as a post)",
                        group=group,
                    )
                    root = post
                    replies = []
                    size = 0
                else:
                    replies.append(msgspec.Raw(reply))
                    size += len(reply)
        if root:
            yield self._line(root, replies, group)

    def _line(self, root: dict[str, Any], replies: list[msgspec.Raw], id: str) -> bytes:
        """Return the line of a post with its replies. ``id``: the id of the
        group.

        Only a channel has a name. The members stand for a direct channel.
        """
        group = self._groups[id]
        kind = "post"
        if id in self._channels:
            where: dict[str, Any] = {"team": self._team, "channel": self._channels[id]}
        else:
            kind = "direct_post"
            where = {"channel_members": self._names_in(group)}
        return encode(_row_of(kind, where | root | {"replies": replies}))

    def _posts(self, record: Message | Change) -> Iterator[dict[str, Any]]:
        """Yield the posts of a record.

        A text that is too long becomes several posts, and a change of a group
        one for each person. A direct channel has no changes.
        """
        post: dict[str, Any] = {
            "user": self._names[record.person],
            "create_at": record.time_ms,
        }
        if isinstance(record, Message):
            yield from self._posts_of_message(record, post)
        elif record.group in self._channels:
            for kind, props, text in self._events(record):
                yield post | {"type": kind, "props": props, "message": text}

    def _posts_of_message(
        self, message: Message, post: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Yield the posts of a message: its own, and posts with the rest of its
        text.

        ``post``: the fields that all of them have, which are the sender and the
        time.
        """
        if message.reply:
            self._archive.problems.note(
                "reply outside of a thread (leaves as a post)", group=message.group
            )
        text, attachments = self._text_and_files(message)
        own_post = post | {"message": text[:MOST_TEXT]} | self._fields_of(message)
        if attachments:
            own_post["attachments"] = attachments
        yield own_post
        for start in range(MOST_TEXT, len(text), MOST_TEXT):
            self._archive.problems.note(
                "long text (its rest leaves as replies)", group=message.group
            )
            yield post | {"message": text[start : start + MOST_TEXT]}

    def _text_and_files(self, message: Message) -> tuple[str, list[dict[str, str]]]:
        """Return the text of a message, and the paths of its files.

        A file whose bytes are missing becomes a line of the text.
        """
        text = self._text(message.text)
        attachments = []
        for file in message.files:
            if file.address or file.why or not file.id:
                text = with_name(text, file)
            else:
                attachments.append({"path": self._path(file.id, file.name)})
        return text, attachments

    def _events(self, change: Change) -> Iterator[EventPost]:
        """Yield the posts about a change of a group.

        A join or leave of several people has a post for each person.
        """
        if change.kind == "name":
            yield EventPost(
                "system_displayname_change",
                {"new_displayname": change.text},
                f"renamed to {change.text}",
            )
        elif change.kind == "description":
            text = self._text(change.text)
            yield EventPost(
                "system_header_change",
                {"new_header": text},
                f"updated the header to {text}",
            )
        for person in change.people:
            is_own = person == change.person
            yield _event_of_person(change, self._names[person], is_own)

    def _fields_of(self, message: Message) -> dict[str, Any]:
        """Return the fields that only the first post of a message has."""
        edit_at = 0
        if message.is_edited:
            edit_at = message.time_ms
        return {
            "is_pinned": message.id in self._pins,
            "edit_at": edit_at,
            "reactions": self._reactions(message),
        }

    def _reactions(self, message: Message) -> list[dict[str, Any]]:
        """Return the reactions to a message, with the names that emoji have
        there.

        An emoji without a name is left out, and noted.
        """
        rows = []
        for reaction in message.reactions:
            name, tone = emoji_name(reaction.emoji)
            if not name:
                self._archive.problems.note(
                    "reaction without a name in Mattermost", group=message.group
                )
                continue
            if tone:
                # Slack's numbers of tones begin with 2.
                name += f"_{_TONES[tone - 2]}_skin_tone"
            row = {
                "user": self._names[reaction.person],
                "emoji_name": name,
                "create_at": message.time_ms,
            }
            rows.append(row)
        return rows

    def _path(self, id: str, name: str) -> str:
        """Note a file for the end of the archive, and return its path below
        ``data/``."""
        path = f"{id}/{file_name(name)}"
        self._files[f"data/{path}"] = id
        return path

    def _text(self, text: str) -> str:
        """Return a text in Markdown, with names such as ``@ann`` for people."""
        return without_marks(to_markdown(text), self._mention)

    def _mention(self, id: str) -> str:
        """Return the mention of a person. An unknown person is named by the
        id."""
        return f"@{self._names.get(id, id)}"


def _row_of(kind: str, content: Any) -> dict[str, Any]:
    """Return a line of an export, such as ``{"type": "team", "team": {…}}``."""
    return {"type": kind, kind: content}


def _event_of_person(change: Change, name: str, is_own: bool) -> EventPost:
    """Return the post about one person who joins or leaves.

    ``name``: of the person. ``is_own``: nobody else has added or removed them.
    """
    if change.kind == "join":
        text = f"{name} joined"
        if is_own:
            return EventPost("system_join_channel", {}, text)
        return EventPost("system_add_to_channel", {"addedUsername": name}, text)
    text = f"{name} left"
    if is_own:
        return EventPost("system_leave_channel", {}, text)
    return EventPost("system_remove_from_channel", {"removedUsername": name}, text)


def _view_time(read_ms: int) -> dict[str, int]:
    """Return the field with the time up to which a person has read.

    The dict is empty if the time is unknown (-1).
    """
    if read_ms >= 0:
        return {"last_viewed_at": read_ms}
    return {}
