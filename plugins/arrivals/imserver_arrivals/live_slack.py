"""Follows a workspace of Slack by events, and reads missed messages from the
histories of channels.

It writes days of an export, with messages of histories, and events as they
came. The module :mod:`imserver_arrivals.slack` reads both. Files are in
``__uploads``.
"""

import re
from collections.abc import Iterable
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
    """A cursor, with times in Unix seconds. Everything from ``first`` to
    ``since`` is stored, except in the channels of ``behind``: id of a channel →
    the time up to which its messages are stored. ``round`` grows with each
    archive, so that each has another cursor."""

    since: float
    first: float = 0.0
    behind: dict[str, float] = {}
    round: int = 0


class SlackNews(Struct):
    """The events that one round writes."""

    folder: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Channel → subject of an event → the event. A later event about a message
    replaces the earlier one."""
    reacted: dict[tuple[str, str], None] = field(default_factory=dict)
    """Channel and time of messages with new reactions."""
    people: set[str] = field(default_factory=set)
    channels: set[str] = field(default_factory=set)


class LiveSlack:
    """A workspace of Slack: see :class:`imserver_arrivals.live.Live`.

    ``token``: two lines, the token of the app for Socket Mode (``xapp-…``), and
    the token of its bot (``xoxb-…``). It follows the channels of the bot. With
    the scope ``channels:join`` the bot joins all public channels.
    """

    name: ClassVar = "slack"

    def __init__(self, address: str, token: str, back: dict[str, str]) -> None:
        self._server = SlackServer(address, token)
        self._hooks = {group: Server(each, {}) for group, each in back.items()}
        self._cursor = ""
        self._position = SlackPosition(0.0)
        self._posted = set[str]()
        """Ids of messages of ours that are there."""

    def write(self, folder: Path, cursor: str, seconds: float) -> str:
        """See :class:`imserver_arrivals.live.Live`."""
        news = SlackNews(folder)
        end = monotonic() + seconds
        try:
            # The cursor of the call before tells that its events are stored.
            if self._server.is_connected and cursor == self._cursor:
                self._server.acknowledge()
            else:
                self._begin(cursor, news)
            behind = dict(self._position.behind)
            wait_seconds = seconds
            if behind:  # there are histories to read, too
                wait_seconds = min(seconds, _SHORT_SECONDS)
            self._server.receive(wait_seconds)
            since = self._sort_events(news)
            self._catch_up(news, behind, end)
            self._read_reactions(news)
            for id, rows in news.rows.items():
                self._put_rows(news, id, rows.values())
            has_news = bool(news.people or news.channels)
            if has_news:
                self._put_lists(news)
        except LiveError:
            # Events of this round are lost with it: Slack sends them again to
            # the next connection, as they were not acknowledged.
            self._server.disconnect()
            raise
        before = self._position
        since = max(since, before.since)
        round = before.round + has_news
        self._position = SlackPosition(since, before.first, behind, round)
        self._cursor = msgspec.json.encode(self._position).decode()
        return self._cursor

    def _catch_up(self, news: SlackNews, behind: dict[str, float], end: float) -> None:
        """Read the histories of channels that are behind: at least one, then
        more until the end of the round. A channel that was read is removed from
        ``behind``."""
        # An event can change a message that only the history has. A message of
        # ours must not be posted if the history has it. These channels are read
        # first, and at once.
        urgent = news.rows.keys() | self._hooks.keys()
        ids = sorted(behind, key=lambda id: id not in urgent)
        for number, id in enumerate(ids):
            if number == 0 or id in urgent or monotonic() < end:
                self._read_history(news, id, behind.pop(id))

    def _read_reactions(self, news: SlackNews) -> None:
        """Read the messages with new reactions, because events do not have
        them."""
        for id, ts in news.reacted:
            answer = self._server.call(
                "reactions.get", channel=id, timestamp=ts, full="true"
            )
            message = answer.get("message")
            is_gone = text_at(message, "subtype") == "tombstone"
            if text_at(message, "ts") == ts and not is_gone:
                news.rows[id][ts] = message

    def post(self, group: str, nickname: str, text: str, id: int) -> bool:
        """See :class:`imserver_arrivals.live.Live`. A message that is there
        already is not posted again. A long text becomes several blocks."""
        hook = self._hooks.get(group) or self._hooks.get("")
        if hook is None or str(id) in self._posted:
            return False
        content = f"*{to_mrkdwn(nickname).replace('*', '')}*\n{to_mrkdwn(text)}"
        blocks: list[dict[str, Any]] = []
        for part in _parts_of(content):
            element = {"type": "mrkdwn", "text": part, "verbatim": True}
            blocks.append({"type": "section", "text": element})
        blocks[0]["block_id"] = f"{MARK}.{id}"
        summary = to_mrkdwn(f"{nickname}: {text}"[:_MOST_SUMMARY_CHARACTERS])
        hook.ask("POST", "", {"text": summary, "blocks": blocks})
        return True

    def close(self) -> None:
        self._server.close()
        for hook in self._hooks.values():
            hook.close()

    # --- what has happened ----------------------------------------------------

    def _begin(self, cursor: str, news: SlackNews) -> None:
        """Connect, and read users and channels. Events before that are lost, so
        all channels are behind from the time of the cursor on."""
        position = _position_of(cursor)
        self._server.disconnect()
        self._server.connect()
        self._server.look_around()
        if cursor:
            position.behind = {
                channel.id: position.behind.get(channel.id, position.since)
                for channel in self._server.channels.values()
                if channel.is_member and ID.fullmatch(channel.id)
            }
            news.people.update(self._server.users)
        self._position = position

    def _sort_events(self, news: SlackNews) -> float:
        """Add the received events to the news. Returns the time of the last
        event, in Unix seconds."""
        last_us = 0
        first_us = self._position.first * SECOND_US
        for event in self._server.events:
            last_us = max(last_us, microseconds_of(text_at(event, "event_ts")))
            if text_at(event, "type") in ("team_join", "user_change"):
                news.people.update(self._server.meet([event.get("user")]))
            id = _channel_of(event)
            if not ID.fullmatch(id):
                continue
            news.rows.setdefault(id, {})
            about = _about(event)
            if about and microseconds_of(about) <= first_us:
                continue
            self._add_event(news, id, about, event)
            self._update_channel(id, event)
        return min(last_us / SECOND_US, time())

    def _add_event(
        self, news: SlackNews, id: str, about: str, event: dict[str, Any]
    ) -> None:
        """Add an event of a channel to the rows, or note what must be read
        because of it. ``about``: the time of the message that it changes."""
        rows = news.rows[id]
        kind = text_at(event, "type")
        user = text_at(event, "user")
        moment = text_at(event, "event_ts")
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
            news.channels.add(id)

    def _update_channel(self, id: str, event: dict[str, Any]) -> None:
        """Change the cached members of a channel after a join or leave, and
        forget a channel that has changed. Join a new channel."""
        change = text_at(event, "type")
        if change == "message":
            change = text_at(event, "subtype")
        if change in JOINED or change in LEFT:
            user = text_at(event, "user")
            channel = self._server.channels.get(id)
            if channel is not None and channel.members is not None:
                channel.members = [each for each in channel.members if each != user]
                if change in JOINED:
                    channel.members.append(user)
        elif change.startswith(("channel_", "group_")):
            self._server.channels.pop(id, None)
            if change == "channel_created":
                self._server.call("conversations.join", channel=id)

    def _read_history(self, news: SlackNews, id: str, known: float) -> None:
        """Write the messages of a channel since ``known`` (Unix seconds), with
        their replies. Messages of one day before are written again, because
        they may have new replies and reactions."""
        oldest = known - LOOK_BACK
        since = {"channel": id, "oldest": f"{oldest:.6f}"}
        for page in self._server.pages("conversations.history", "messages", **since):
            for root in page:
                latest_us = microseconds_of(text_at(root, "latest_reply"))
                if latest_us <= oldest * SECOND_US:
                    continue
                ts = text_at(root, "ts")
                for thread in self._server.pages(
                    "conversations.replies", "messages", ts=ts, **since
                ):
                    # the message with which the thread begins is in it
                    replies = [row for row in thread if text_at(row, "ts") != ts]
                    self._put_history(news, id, replies, known)
            self._put_history(news, id, page, known)

    def _put_history(
        self, news: SlackNews, id: str, page: list[Any], known: float
    ) -> None:
        """Write messages from a history. They replace events about the same
        messages, because they are newer. Files of messages before ``known``
        were saved before."""
        first_us = self._position.first * SECOND_US
        rows = []
        for row in page:
            ts = text_at(row, "ts")
            if microseconds_of(ts) <= first_us:
                continue
            rows.append(row)
            if text_at(row, "subtype") != "tombstone":
                news.rows.get(id, {}).pop(ts, None)
            if microseconds_of(ts) > known * SECOND_US:
                self._save_files(news, row)
        self._put_rows(news, id, rows)

    # --- files of an export ---------------------------------------------------

    def _put_rows(
        self, news: SlackNews, id: str, rows: Iterable[dict[str, Any]]
    ) -> None:
        """Add rows to the files of the days of a channel, and note the people
        in them."""
        days: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            moment = microseconds_of(text_at(row, "ts"))
            if moment:
                sent_at = datetime.fromtimestamp(moment / SECOND_US, UTC)
                days.setdefault(f"{sent_at:%Y-%m-%d}", []).append(row)
            self._server.ask_for(text_at(row, "user"))
            self._posted.add(id_of_ours(row.get("blocks")))
        if not days or self._server.channel(id) is None:
            return
        news.channels.add(id)
        (news.folder / id).mkdir(exist_ok=True)
        for day, rows_of_day in days.items():
            content = msgspec.json.encode(rows_of_day)
            ids = {id.decode() for id in _PEOPLE.findall(content)}
            news.people.update(ids.intersection(self._server.users))
            with (news.folder / id / f"{day}.json").open("ab+") as file:
                if file.tell():
                    # the existing array is continued
                    file.truncate(file.tell() - 1)
                    content = b"," + content[1:]
                file.write(content)

    def _put_lists(self, news: SlackNews) -> None:
        """Write the lists of an export: the channels of the archive, and the
        people whom they and their messages name."""
        lists: dict[str, list[SlackChannel]] = {name: [] for name in LISTS}
        for id in sorted(news.channels):
            channel = self._server.channel(id)
            if channel is not None:
                lists[channel.file].append(channel)
                news.people.update(channel.members or ())
        people = sorted(news.people.intersection(self._server.users))
        users = [self._server.users[id] for id in people]
        for name, rows in {"users": users, **lists}.items():
            (news.folder / f"{name}.json").write_bytes(msgspec.json.encode(rows))

    def _save_files(self, news: SlackNews, row: dict[str, Any]) -> None:
        """Save the files of a message below ``__uploads``."""
        for row_of_file in list_at(row, "files"):
            file = converted(row_of_file, SlackFile)
            if file is not None and ID.fullmatch(file.id) and not file.is_external:
                self._server.save(
                    file.url_private or "", news.folder / UPLOADS / file.id / "file"
                )


def _parts_of(content: str) -> list[str]:
    """A text in parts, each of which fits into a block. A text that is too long
    for a message is cut."""
    parts: list[str] = []
    while content and len(parts) < _MOST_BLOCKS:
        part = content[:_MOST_BLOCK_CHARACTERS]
        # An escape such as "&amp;" is not split.
        part = re.sub("&[a-z]{0,3}$", "", part)
        content = content[len(part) :]
        parts.append(part)
    return parts


def _channel_of(event: dict[str, Any]) -> str:
    """The id of the channel of an event; ``""`` if it is not about a
    channel."""
    where = event.get("channel") or event.get("item")
    return text_at(where) or text_at(where, "id") or text_at(where, "channel")


def _about(event: dict[str, Any]) -> str:
    """The time of the message that an event changes; ``""`` if it changes
    none."""
    return (
        text_at(event, "item", "ts")
        or text_at(event, "deleted_ts")
        or text_at(event, "message", "ts")
    )


def _position_of(cursor: str) -> SlackPosition:
    """The position that a cursor stands for. Raises LiveError."""
    if not cursor:
        now = time()
        return SlackPosition(now, now)
    try:
        if cursor.startswith("@"):
            return SlackPosition(int(cursor[1:]) / SECOND_MS)
        return msgspec.json.decode(cursor, type=SlackPosition)
    except ValueError:
        raise LiveError("the stored position cannot be read", is_final=True) from None
