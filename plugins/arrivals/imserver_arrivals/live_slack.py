"""Follows a workspace of Slack by events, and reads missed messages from the
histories of channels.

It writes days of an export, with messages of histories, and events as they
came. The module :mod:`imserver_arrivals.slack` reads both. Files are in
``__uploads``.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct, field

from .fields import list_at, text_at
from .live import MARK, LiveError, Server
from .slack import (
    EVENTS,
    ID,
    JOINED,
    LEFT,
    LISTS,
    UPLOADS,
    SlackFile,
    SlackUser,
    id_of_ours,
    microseconds_of,
)
from .slack_server import SlackChannel, SlackServer, converted
from .text import SECOND_MS, SECOND_US
from .to_slack import to_mrkdwn

LOOK_BACK: Final = 86_400.0
"""How many seconds before an interruption messages are read again, because they
may have new replies and reactions."""
_SHORT_SECONDS: Final = 0.1
"""How long to wait for events while a channel is behind."""
_MOST_BLOCKS: Final = 50
"""The most blocks of a message. Slack refuses more, and longer ones."""
_MOST_BLOCK_CHARACTERS: Final = 3_000
_MOST_SUMMARY_CHARACTERS: Final = 1_000
"""Limit of the text that notifications show, in characters."""
_PEOPLE: Final = re.compile(rb'(?:"|<@)([UW][A-Z0-9]{2,31})\b')
"""The form of ids of users in a file of messages."""


class SlackPosition(Struct):
    """The position up to which events are stored, as the decoded cursor.

    Times are Unix seconds. Everything from ``first`` to ``since`` is stored,
    except in the channels of ``behind``. ``behind`` tells for each of them the
    time up to which its messages are stored. ``round`` grows with each archive,
    so that each has another cursor.
    """

    since: float
    first: float = 0.0
    behind: dict[str, float] = {}
    round: int = 0


class SlackNews(Struct):
    """The events that one call of :meth:`LiveSlack.write` writes as an
    archive."""

    folder: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Channel → subject of an event → the event. The subject is the ``ts`` of
    a message, for example, so that a later event about it replaces the
    earlier one."""
    reacted: dict[tuple[str, str], None] = field(default_factory=dict)
    """Channel and time of messages with new reactions, as an ordered set."""
    people: set[str] = field(default_factory=set)
    """The users that the archive names."""
    channels: set[str] = field(default_factory=set)
    """The channels that the archive names."""


class LiveSlack:
    """Follows a workspace of Slack, as the option ``--follow`` asks for.

    ``token``: two lines, the token of the app for Socket Mode (``xapp-…``), and
    the token of its bot (``xoxb-…``). It follows the channels of the bot. With
    the scope ``channels:join`` the bot joins all public channels. The interface
    is :class:`~imserver_arrivals.live.Live`.
    """

    name: ClassVar = "slack"

    def __init__(self, address: str, token: str, back: dict[str, str]) -> None:
        """Prepare the requests. Nothing is sent yet. For the arguments see
        :class:`~imserver_arrivals.live.Live`."""
        self._server = SlackServer(address, token)
        self._hooks = {group: Server(each, {}) for group, each in back.items()}
        self._cursor = ""
        self._position = SlackPosition(0.0)
        self._posted = set[str]()
        """Ids of messages of our app that were posted to Slack already."""

    def write(self, folder: Path, cursor: str, seconds: float) -> str:
        """Write the events since the cursor as an archive, and return a new
        cursor.

        Waits up to ``seconds`` for events. Raises LiveError.
        """
        news = SlackNews(folder)
        try:
            self._position = self._run_round(news, cursor, seconds)
        except LiveError:
            # Events of this round are lost with it: Slack sends them again to
            # the next connection, as they were not acknowledged.
            self._server.disconnect()
            raise
        self._cursor = msgspec.json.encode(self._position).decode()
        return self._cursor

    def _run_round(self, news: SlackNews, cursor: str, seconds: float) -> SlackPosition:
        """Receive events, write the archive, and return the next position.

        Waits up to ``seconds`` for events. Raises LiveError.
        """
        end = monotonic() + seconds
        # The cursor of the call before tells that its events are stored.
        if self._server.is_connected and cursor == self._cursor:
            self._server.acknowledge()
        else:
            self._connect(cursor, news)
        before = self._position
        behind = dict(before.behind)
        wait_seconds = seconds
        if behind:  # there are histories to read, too
            wait_seconds = min(seconds, _SHORT_SECONDS)
        self._server.receive(wait_seconds)
        since = self._sort_events(news)
        self._catch_up(news, behind, end)
        self._read_reactions(news)
        has_news = self._write_archive(news)
        return SlackPosition(
            since=max(since, before.since),
            first=before.first,
            behind=behind,
            round=before.round + has_news,
        )

    def _write_archive(self, news: SlackNews) -> bool:
        """Write the rows of all channels and the lists. False if there is no
        news."""
        for id, rows in news.rows.items():
            self._write_rows(news, id, rows.values())
        has_news = bool(news.people or news.channels)
        if has_news:
            self._write_lists(news)
        return has_news

    def _catch_up(self, news: SlackNews, behind: dict[str, float], end: float) -> None:
        """Read the histories of channels that are behind, and remove these
        channels.

        ``behind``: channel → the time up to which its messages are stored. At
        least one channel is read, and others until ``end``, so that a round
        with many channels does not last for minutes.
        """
        # An event can change a message that only the history has. A message of
        # ours must not be posted if the history has it. These channels are read
        # first, and at once.
        urgent = news.rows.keys() | self._hooks.keys()
        ids = sorted(behind, key=lambda id: id not in urgent)
        for number, id in enumerate(ids):
            if number == 0 or id in urgent or monotonic() < end:
                self._read_history(news, id, known=behind.pop(id))

    def _read_reactions(self, news: SlackNews) -> None:
        """Read the messages with new reactions, with all of their reactions.

        An event of a reaction does not have the message.
        """
        for id, ts in news.reacted:
            answer = self._server.call(
                "reactions.get", channel=id, timestamp=ts, full="true"
            )
            message = answer.get("message")
            is_gone = text_at(message, "subtype") == "tombstone"
            if text_at(message, "ts") == ts and not is_gone:
                news.rows[id][ts] = message

    def post(self, group: str, nickname: str, text: str, id: int) -> bool:
        """Post a message of our app to Slack, by the webhook of its channel.

        A message that is there already is not posted again. Returns False if it
        was not posted. Raises LiveError.
        """
        # The webhook under "" is for all channels without one of their own.
        hook = self._hooks.get(group) or self._hooks.get("")
        if hook is None or str(id) in self._posted:
            return False
        summary = to_mrkdwn(f"{nickname}: {text}"[:_MOST_SUMMARY_CHARACTERS])
        blocks = _blocks_of(nickname, text, id)
        hook.ask("POST", "", {"text": summary, "blocks": blocks})
        return True

    def close(self) -> None:
        """End the connections."""
        self._server.close()
        for hook in self._hooks.values():
            hook.close()

    # --- what has happened ----------------------------------------------------

    def _connect(self, cursor: str, news: SlackNews) -> None:
        """Connect, and read users and channels.

        Slack does not send events that happened before the connection.
        Therefore all channels are behind from the time of the cursor on.
        """
        position = _position_of(cursor)
        self._server.disconnect()
        self._server.connect()
        self._server.read_users_and_channels()
        if cursor:
            position.behind = {
                channel.id: position.behind.get(channel.id, position.since)
                for channel in self._server.channels.values()
                if channel.is_member and ID.fullmatch(channel.id)
            }
            # People may have changed meanwhile, so the archive names all of
            # them.
            news.people.update(self._server.users)
        self._position = position

    def _sort_events(self, news: SlackNews) -> float:
        """Add the received events to the news.

        Returns the time of the last event, in Unix seconds.
        """
        last_us = 0
        for event in self._server.events:
            last_us = max(last_us, microseconds_of(text_at(event, "event_ts")))
            if text_at(event, "type") in ("team_join", "user_change"):
                users = self._server.remember_users([event.get("user")])
                news.people.update(users)
            id = _channel_of(event)
            if ID.fullmatch(id):
                self._add_event_of_channel(news, id, event)
        # The clock of Slack may be wrong.
        return min(last_us / SECOND_US, time())

    def _add_event_of_channel(
        self, news: SlackNews, id: str, event: dict[str, Any]
    ) -> None:
        """Add an event of a channel to the news, and update the cached channel.

        Changes of messages before the beginning are left out, because these
        messages were not imported.
        """
        news.rows.setdefault(id, {})
        about = _about(event)
        if about and microseconds_of(about) <= self._position.first * SECOND_US:
            return
        self._add_event(news, id, about, event)
        self._update_channel(id, event)

    def _add_event(
        self, news: SlackNews, id: str, about: str, event: dict[str, Any]
    ) -> None:
        """Add an event of a channel to the rows, by its subject.

        An event with the same subject replaces it. Some events only tell that
        something must be read. ``id``: the channel. ``about``: the ``ts`` of
        the message that the event changes; ``""`` if it changes none.
        """
        rows = news.rows[id]
        kind = text_at(event, "type")
        user = text_at(event, "user")
        moment = text_at(event, "event_ts")
        # An event of a reaction is about one person's emoji at one message.
        reaction = f"{about} {user} {text_at(event, 'reaction')}"
        if kind == "reaction_added":
            rows.pop(reaction, None)
            news.reacted[id, about] = None
        elif kind in EVENTS and about:
            rows[reaction] = event | {"ts": moment}
        elif kind in EVENTS:
            rows[f"{moment} {user}"] = event | {"ts": moment}
        elif kind == "message" and about:
            rows[about] = event
        elif kind == "message":
            rows[text_at(event, "ts")] = event
            self._save_files(news, event)
        else:
            # The channel itself has changed, so the archive must have its row.
            news.channels.add(id)

    def _update_channel(self, id: str, event: dict[str, Any]) -> None:
        """Keep the cached channels as an event leaves them.

        Members join and leave. A channel with another change is forgotten, so
        that it is read again. The bot joins a new channel.
        """
        change = text_at(event, "type")
        if change == "message":
            change = text_at(event, "subtype")
        if change in JOINED or change in LEFT:
            self._update_members(
                id, user=text_at(event, "user"), has_joined=change in JOINED
            )
        elif change.startswith(("channel_", "group_")):
            self._server.channels.pop(id, None)
            if change == "channel_created":
                self._server.call("conversations.join", channel=id)

    def _update_members(self, id: str, user: str, has_joined: bool) -> None:
        """Add a user to the members of a cached channel, or remove the user."""
        channel = self._server.channels.get(id)
        if channel is None or channel.members is None:
            return
        channel.members = [each for each in channel.members if each != user]
        if has_joined:
            channel.members.append(user)

    def _read_history(self, news: SlackNews, id: str, known: float) -> None:
        """Write the messages of a channel since ``known``, with their replies.

        ``known``: Unix seconds, up to which its messages are stored. Messages
        of one day before are written again, because they may have new replies
        and reactions.
        """
        oldest = known - LOOK_BACK
        since = {"channel": id, "oldest": f"{oldest:.6f}"}
        for page in self._server.pages("conversations.history", "messages", **since):
            for root in page:
                # A history does not have replies. It tells when the last one
                # came.
                latest_us = microseconds_of(text_at(root, "latest_reply"))
                if latest_us > oldest * SECOND_US:
                    for replies in self._replies(text_at(root, "ts"), since):
                        self._write_history(news, id, replies, known)
            self._write_history(news, id, page, known)

    def _replies(self, ts: str, since: dict[str, str]) -> Iterator[list[Any]]:
        """Yield the replies of a thread, page by page, without its first
        message.

        ``ts``: of the first message. ``since``: the channel, and the time of
        the oldest reply.
        """
        for thread in self._server.pages(
            "conversations.replies", "messages", ts=ts, **since
        ):
            yield [row for row in thread if text_at(row, "ts") != ts]

    def _write_history(
        self, news: SlackNews, id: str, page: list[Any], known: float
    ) -> None:
        """Write messages from the history of a channel.

        They are newer than events about the same messages, and replace them.
        ``known``: Unix seconds, up to which messages and their files are
        stored.
        """
        first_us = self._position.first * SECOND_US
        rows = []
        for row in page:
            ts = text_at(row, "ts")
            if microseconds_of(ts) <= first_us:
                continue
            rows.append(row)
            # A tombstone stands for a deleted message. Only the event about the
            # deletion tells who has deleted it.
            if text_at(row, "subtype") != "tombstone":
                news.rows.get(id, {}).pop(ts, None)
            if microseconds_of(ts) > known * SECOND_US:
                self._save_files(news, row)
        self._write_rows(news, id, rows)

    # --- files of an export ---------------------------------------------------

    def _write_rows(
        self, news: SlackNews, id: str, rows: Iterable[dict[str, Any]]
    ) -> None:
        """Add rows to the files of the days of a channel.

        The people in the rows are read, and become people of the archive. A
        channel that the bot does not see is left out.
        """
        rows_by_day = self._sort_by_day(rows)
        if not rows_by_day or self._server.channel(id) is None:
            return
        news.channels.add(id)
        for day, rows_of_day in rows_by_day.items():
            self._write_day(news, news.folder / id / f"{day}.json", rows_of_day)

    def _sort_by_day(
        self, rows: Iterable[dict[str, Any]]
    ) -> dict[str, list[dict[str, Any]]]:
        """Return rows by their days, and read the people in them.

        Rows without a time are left out.
        """
        rows_by_day: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            day = _day_of(row)
            if day:
                rows_by_day.setdefault(day, []).append(row)
            self._server.read_user(text_at(row, "user"))
            self._posted.add(id_of_ours(row.get("blocks")))
        return rows_by_day

    def _write_day(
        self, news: SlackNews, path: Path, rows: list[dict[str, Any]]
    ) -> None:
        """Add rows to the file of a day, such as ``C012AB/2024-01-20.json``."""
        content = msgspec.json.encode(rows)
        ids = {id.decode() for id in _PEOPLE.findall(content)}
        news.people.update(ids.intersection(self._server.users))
        path.parent.mkdir(exist_ok=True)
        _append_array(path, content)

    def _write_lists(self, news: SlackNews) -> None:
        """Write the lists of an export, such as ``users.json``.

        They have the channels of the archive, and the people whom the channels
        and their messages name.
        """
        lists: dict[str, list[SlackChannel]] = {name: [] for name in LISTS}
        for id in sorted(news.channels):
            channel = self._server.channel(id)
            if channel is not None:
                lists[channel.file].append(channel)
                news.people.update(channel.members or ())
        for name, rows in {"users": self._users_of(news), **lists}.items():
            (news.folder / f"{name}.json").write_bytes(msgspec.json.encode(rows))

    def _users_of(self, news: SlackNews) -> list[SlackUser]:
        """Return the known users among the people of an archive."""
        people = sorted(news.people.intersection(self._server.users))
        return [self._server.users[id] for id in people]

    def _save_files(self, news: SlackNews, row: dict[str, Any]) -> None:
        """Save the files of a message as ``__uploads/F012AB/file``."""
        for row_of_file in list_at(row, "files"):
            file = converted(row_of_file, SlackFile)
            if file is not None and ID.fullmatch(file.id) and not file.is_external:
                self._server.save(
                    file.url_private or "", news.folder / UPLOADS / file.id / "file"
                )


def _day_of(row: dict[str, Any]) -> str:
    """Return the day of a message or an event, such as ``2024-01-20``.

    ``""`` if the row has no time.
    """
    moment = microseconds_of(text_at(row, "ts"))
    if not moment:
        return ""
    return f"{datetime.fromtimestamp(moment / SECOND_US, UTC):%Y-%m-%d}"


def _append_array(path: Path, content: bytes) -> None:
    """Write a JSON array to a file, or add its elements to the array there."""
    with path.open("ab+") as file:
        if file.tell():
            # "[1]" and "[2]" become "[1,2]".
            file.truncate(file.tell() - 1)
            content = b"," + content[1:]
        file.write(content)


def _blocks_of(nickname: str, text: str, id: int) -> list[dict[str, Any]]:
    """Return a message of our app as blocks of Slack.

    The first block has the id of the message, as ``"block_id":
    "imserver.4711"``. Nobody sees it, and it tells that the message is ours.
    """
    content = f"*{to_mrkdwn(nickname).replace('*', '')}*\n{to_mrkdwn(text)}"
    blocks: list[dict[str, Any]] = []
    for part in _parts_of(content):
        element = {"type": "mrkdwn", "text": part, "verbatim": True}
        blocks.append({"type": "section", "text": element})
    blocks[0]["block_id"] = f"{MARK}.{id}"
    return blocks


def _parts_of(content: str) -> list[str]:
    """Split a text into parts that fit into blocks of Slack.

    A text that is too long for a message is cut.
    """
    parts: list[str] = []
    while content and len(parts) < _MOST_BLOCKS:
        part = content[:_MOST_BLOCK_CHARACTERS]
        # An escape such as "&amp;" is not split.
        part = re.sub("&[a-z]{0,3}$", "", part)
        content = content[len(part) :]
        parts.append(part)
    return parts


def _channel_of(event: dict[str, Any]) -> str:
    """Return the id of the channel of an event; ``""`` if it is about no
    channel.

    Events have it as ``{"channel": "C1"}``, ``{"channel": {"id": "C1"}}`` or
    ``{"item": {"channel": "C1"}}``.
    """
    where = event.get("channel") or event.get("item")
    return text_at(where) or text_at(where, "id") or text_at(where, "channel")


def _about(event: dict[str, Any]) -> str:
    """Return the ``ts`` of the message that an event changes; ``""`` if it
    changes none."""
    return (
        text_at(event, "item", "ts")
        or text_at(event, "deleted_ts")
        or text_at(event, "message", "ts")
    )


def _position_of(cursor: str) -> SlackPosition:
    """Return the position that a cursor stands for.

    ``""`` stands for now, and ``@1700000000000`` for a time in Unix
    milliseconds. Other cursors are JSON of a :class:`SlackPosition`. Raises
    LiveError.
    """
    if not cursor:
        now = time()
        return SlackPosition(since=now, first=now)
    try:
        if cursor.startswith("@"):
            return SlackPosition(int(cursor[1:]) / SECOND_MS)
        return msgspec.json.decode(cursor, type=SlackPosition)
    except ValueError:
        raise LiveError("the stored position cannot be read", is_final=True) from None
