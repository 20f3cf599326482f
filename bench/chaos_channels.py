"""Chaos for channels: back ends publish, and subscribers that come back miss nothing without being told.

A subscriber lives as long as the server does not say otherwise: if ``recovered`` is false, or the
subscription is ended, it reloads, and goes on under another name. For the checker a channel is a conversation
in each epoch, and the place of a publication is its offset; where offsets have gaps, its rank. Subscribers
leave channels and subscribe again with their last position all the time. Those of the pusher dialect know no
offsets: each of their subscriptions is a life, in channels whose history fills all gaps.
"""

from __future__ import annotations

import json
import random
import threading
import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.chaos_client import BEHIND, FIRST_PAUSE_SECONDS, LIVE, LOOK_SECONDS, Client, Clients
from bench.chat_dialects import LoggedIn, mark_of, text_of
from bench.connections import Target
from bench.frames import client_frame, request_frame
from bench.generator import Generator
from bench.history import History
from bench.http_client import fetch, post
from bench.loop import BenchError, Json

PUSHER_KEY = "chaos"
OK = 200


class Pong(NamedTuple):
    """The server wants a sign of life."""


class Subscribed(NamedTuple):
    """The answer to a subscription. ``publications``: the missed ones (offset, mark), if ``recovered``."""

    channel: str
    epoch: str
    offset: int
    recovered: bool
    publications: list[tuple[int, int]]


class SubscriptionRefused(NamedTuple):
    """A subscription was refused. The client may try again."""

    channel: str


class Left(NamedTuple):
    """The answer to the end of a subscription."""

    channel: str


class Published(NamedTuple):
    """A publication."""

    channel: str
    offset: int
    mark: int


class Unsubscribed(NamedTuple):
    """The server has ended a subscription."""

    channel: str
    code: int


SubscriberEvent = LoggedIn | Pong | Subscribed | SubscriptionRefused | Left | Published | Unsubscribed


class ChannelDialect(ABC):
    """A dialect of subscribers. ``name``: of the user.

    ``knows_offsets``: those of publications, with which a subscriber recovers.
    """

    knows_offsets = True
    depth = 0
    in_order = counts_anew = False
    path = ""

    def __init__(self, app: str, name: str) -> None:
        self.app = app
        self.name = name
        self._ids = count(1)
        self._waiting: dict[int, str] = {}
        """Id of a command of this connection → channel; ``""``: the login."""

    @abstractmethod
    def login(self, cursor: int) -> bytes:
        """The first frame of a connection, if it needs one."""

    @abstractmethod
    def subscribe(self, channel: str, epoch: str, offset: int) -> bytes:
        """Subscribe; ``epoch`` ``""``: without a position."""

    def unsubscribe(self, channel: str) -> bytes:
        """End a subscription; ``b""``: this dialect has no answer to that."""
        return b""

    @abstractmethod
    def read(self, payload: bytes) -> list[SubscriberEvent]:
        """Read a frame. Raises ValueError or KeyError."""

    def _new_id(self, channel: str) -> int:
        number = next(self._ids)
        self._waiting[number] = channel
        return number


class CentrifugeDialect(ChannelDialect):
    """JSON of Centrifugo's client protocol."""

    def __init__(self, app: str, name: str) -> None:
        super().__init__(app, name)
        self.path = f"/connection/{app}/websocket"

    def login(self, _cursor: int) -> bytes:
        self._waiting.clear()
        return self._command("", {"connect": {}})

    def subscribe(self, channel: str, epoch: str, offset: int) -> bytes:
        request: Json = {"channel": channel, "recoverable": True, "positioned": True}
        if epoch:
            request |= {"recover": True, "epoch": epoch, "offset": offset}
        return self._command(channel, {"subscribe": request})

    def unsubscribe(self, channel: str) -> bytes:
        return self._command(channel, {"unsubscribe": {"channel": channel}})

    def _command(self, channel: str, command: Json) -> bytes:
        return client_frame(json.dumps({"id": self._new_id(channel), **command}).encode())

    def read(self, payload: bytes) -> list[SubscriberEvent]:
        events = [self._read(json.loads(line)) for line in payload.splitlines()]
        return [event for event in events if event is not None]

    def _read(self, reply: Json) -> SubscriberEvent | None:
        if not reply:
            return Pong()
        if "push" in reply:
            push = reply["push"]
            if "pub" in push:
                return Published(push["channel"], push["pub"].get("offset", 0), _mark(push["pub"]))
            if "unsubscribe" in push:
                return Unsubscribed(push["channel"], push["unsubscribe"].get("code", 0))
            return None
        channel = self._waiting.pop(reply["id"])
        if not channel:
            if "error" in reply:
                raise ValueError(reply)
            return LoggedIn(False)
        if "unsubscribe" in reply:
            return Left(channel)
        return SubscriptionRefused(channel) if "error" in reply else _subscribed(channel, reply["subscribe"])


class CmdChannelDialect(ChannelDialect):
    """The cmd dialect with ``subscribe``."""

    path = "/acc"

    def login(self, _cursor: int) -> bytes:
        self._waiting.clear()
        return self._command("", "login", {"userID": self.name, "app": self.app})

    def subscribe(self, channel: str, epoch: str, offset: int) -> bytes:
        position = {"epoch": epoch, "offset": offset} if epoch else {}
        return self._command(channel, "subscribe", {"channel": channel, **position})

    def unsubscribe(self, channel: str) -> bytes:
        return self._command(channel, "unsubscribe", {"channel": channel})

    def _command(self, channel: str, command: str, data: Json) -> bytes:
        return request_frame(command, str(self._new_id(channel)), data)

    def read(self, payload: bytes) -> list[SubscriberEvent]:
        body = json.loads(payload)
        command, code, data = body["cmd"], body["response"]["code"], body["response"]["data"]
        if command == "publication":
            return [Published(data["channel"], data.get("offset", 0), _mark(data))]
        if command == "unsubscribed":
            return [Unsubscribed(data["channel"], data["code"])]
        if command not in ("login", "subscribe", "unsubscribe"):
            return []
        channel = self._waiting.pop(int(body["seq"]))
        if command == "unsubscribe":
            return [Left(channel)]
        if channel:
            return [SubscriptionRefused(channel) if code != OK else _subscribed(channel, data)]
        if code != OK:
            raise ValueError(body)
        return [LoggedIn(False)]


class PusherDialect(ChannelDialect):
    """Pusher's protocol."""

    knows_offsets = False
    path = f"/app/{PUSHER_KEY}?protocol=7"

    def login(self, _cursor: int) -> bytes:
        return b""

    def subscribe(self, channel: str, _epoch: str, _offset: int) -> bytes:
        body = {"event": "pusher:subscribe", "data": {"channel": channel}}
        return client_frame(json.dumps(body).encode())

    def read(self, payload: bytes) -> list[SubscriberEvent]:
        body = json.loads(payload)
        event, channel = body["event"], body.get("channel", "")
        if event == "pusher:connection_established":
            return [LoggedIn(False)]
        if event == "pusher_internal:subscription_succeeded":
            return [Subscribed(channel, "", 0, False, [])]
        if event == "pusher:subscription_error":
            return [SubscriptionRefused(channel)]
        if event.startswith("pusher"):
            return []
        return [Published(channel, 0, json.loads(body["data"])["mark"])]


def _subscribed(channel: str, found: Json) -> Subscribed:
    missed = [(each.get("offset", 0), _mark(each)) for each in found.get("publications", ())]
    position = found.get("epoch", ""), found.get("offset", 0)
    return Subscribed(channel, *position, found.get("recovered", False), missed)


def _mark(publication: Json) -> int:
    mark: int = publication["data"]["mark"]
    return mark


STORED: Final = ("stored:1", "stored:2")
"""Their history is the message log. Their offsets have gaps."""
FILLED: Final = ("live:1", "live:2")
"""Their histories fill every gap between nodes."""
RECOVERING: Final = (*FILLED, *STORED)
"""Their subscribers always recover, if nothing fails."""
CHANNELS: Final = ("short:1", "cache-last", *RECOVERING)
"""The histories of ``short:1`` and ``cache-last`` are so small that some of their subscribers must reload."""
KEY: Final = "the-key-of-this-run-alone"
APP: Final = "channels"
CONFIG: Final = f"""\
api: {{{{keys: [{{{{key: {KEY}, scopes: [push, read]}}}}]}}}}
apps:
  {APP}:
    open: true
    pusher: {{{{app_id: "1", key: {PUSHER_KEY}, secret: a-secret-of-this-run-alone}}}}
    channels:
      live: {{{{subscribe: anybody, history_size: 5000, history_seconds: 600}}}}
      short: {{{{subscribe: anybody, history_size: 20, history_seconds: 600}}}}
      stored: {{{{subscribe: anybody, history: log}}}}
"""
"""Of a node; formatted once more."""
PUBLISHERS: Final = 6
ANSWER_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 0.2
SUBSCRIBE_AGAIN_SECONDS: Final = 0.5
STAY_SECONDS: Final = 2.0
"""A subscriber stays in a channel so long, on average, before it subscribes again."""
HURRIED_STAY_SECONDS: Final = 0.05
"""The same if a number of resubscriptions is wanted."""
SEVER_SECONDS: Final = 1.5
"""A random subscriber loses its connection after this time, on average."""
CHECK_SECONDS = 20.0
"""After the last publication: time in which a node finds what a dead one has not sent."""
ACCEPTED: Final = ("sent", "partly", "repeated")
INSUFFICIENT_STATE: Final = 2500
Position = tuple[str, str, int]
"""Channel, epoch, offset."""


class Life:
    """What a subscriber has of a channel since it (re)loaded: all after ``begin`` in one epoch, up to now.
    None: it does not know where it began."""

    def __init__(self, name: str, epoch: str, begin: int | None) -> None:
        self.name, self.epoch, self.begin = name, epoch, begin
        self.offset = begin or 0
        self.seen: list[tuple[float, int, int]] = []
        """Time, offset and mark of each publication."""

    def take(self, offset: int, mark: int) -> None:
        self.seen.append((time.monotonic(), offset, mark))
        self.offset = max(self.offset, offset)


class Subscription:
    """The lives of one subscriber in one channel; the last one goes on."""

    def __init__(self, name: str, channel: str, knows_offsets: bool) -> None:
        self.name, self.channel, self.knows_offsets = name, channel, knows_offsets
        self.lives: list[Life] = []
        self.subscribed = False
        self.again_at = self.leave_at = 0.0
        self.reloads = self.recoveries = 0

    @property
    def position(self) -> tuple[str, int]:
        """Epoch and offset of the last publication; an empty epoch before the first subscription."""
        if not self.lives or not self.knows_offsets:
            return "", 0
        return self.lives[-1].epoch, self.lives[-1].offset

    def begin(self, found: Subscribed) -> bool:
        """Take the answer to a subscription. False: it recovered a position that nobody asked for."""
        self.subscribed = True
        if self.lives and found.recovered:
            self.recoveries += 1
            for offset, mark in found.publications:
                self.lives[-1].take(offset, mark)
            return found.epoch == self.lives[-1].epoch and found.offset >= self.lives[-1].offset
        self.reloads += bool(self.lives) and self.knows_offsets
        self.lives.append(Life(f"{self.name}, life {len(self.lives) + 1}", found.epoch, found.offset))
        return True


class Subscriber(Client):
    """:class:`Client` with subscriptions in place of messages."""

    def __init__(self, shared: ChannelClients, index: int, dialect: ChannelDialect, name: str) -> None:
        super().__init__(shared, index, dialect, name)  # type: ignore[arg-type]
        self.shared = shared
        self.channel_dialect = dialect
        known = dialect.knows_offsets
        channels = shared.channels if known else FILLED
        self.subscriptions = {channel: Subscription(name, channel, known) for channel in channels}

    def look(self, now: float) -> None:
        super().look(now)
        for one in self.subscriptions.values():
            if self.phase < BEHIND:
                return
            if not one.subscribed and now >= one.again_at:
                self._subscribe(one, now)
            elif one.subscribed and self.shared.talking and now >= one.leave_at:
                one.leave_at = now + ANSWER_SECONDS
                if frame := self.channel_dialect.unsubscribe(one.channel):
                    self._write(frame, now)

    def _subscribe(self, one: Subscription, now: float) -> None:
        one.again_at = now + ANSWER_SECONDS
        self._write(self.channel_dialect.subscribe(one.channel, *one.position), now)

    def drop(self) -> None:
        super().drop()
        for one in self.subscriptions.values():
            one.subscribed, one.again_at = False, 0.0

    def _handle(self, event: Any, now: float) -> None:
        if isinstance(event, Pong):
            self._write(client_frame(b"{}"), now)
            return
        if isinstance(event, LoggedIn):
            self.phase, self._pause = BEHIND, FIRST_PAUSE_SECONDS
            self.counts.connections += 1
            self.look(now)
            return
        one = self.subscriptions[event.channel]
        if isinstance(event, Published):
            one.lives[-1].take(event.offset, event.mark)
        elif isinstance(event, Subscribed):
            if not one.begin(event):
                self.faults.add("recovered elsewhere", f"{one.name}, {event}, had {one.position}")
            one.leave_at = now + self._chance.uniform(0, 2 * self.shared.stay_seconds)
            if all(each.subscribed for each in self.subscriptions.values()):
                self.phase = LIVE
        elif isinstance(event, Left):
            if one.subscribed:  # the server has not ended it before
                one.subscribed, self.phase = False, BEHIND
                self._subscribe(one, now)
        elif isinstance(event, Unsubscribed) or not one.subscribed:  # else it has asked twice
            if isinstance(event, Unsubscribed) and event.code != INSUFFICIENT_STATE:
                self.faults.add("refused", f"{one.name}: unsubscribed with {event.code}")
            self.phase = BEHIND
            one.subscribed, one.again_at = False, now + SUBSCRIBE_AGAIN_SECONDS


DIALECTS: Final[tuple[type[ChannelDialect], ...]] = (CentrifugeDialect, CmdChannelDialect, PusherDialect)
"""Of the subscribers, in turn."""


class Publisher(threading.Thread):
    """A back end. It publishes each message until it is acknowledged, with the same id, at any node."""

    def __init__(self, number: int, shared: ChannelClients, seed: int) -> None:
        super().__init__(daemon=True)
        self.name = f"back end {number}"
        self.number = number
        self.shared = shared
        self.chance = random.Random(seed)
        self.sent = self.retries = 0
        self.begun: dict[int, float] = {}
        """Mark → when it was published for the first time."""
        self.acknowledged: dict[int, tuple[Position, float]] = {}
        """Mark → where it is, and when the answer came. Without an offset it is nowhere."""
        self.longest = 0.0
        self._node = number

    def run(self) -> None:
        while not self.shared.quiet.is_set():
            self.sent += 1
            channel, mark = self.chance.choice(self.shared.channels), mark_of(self.number, self.sent)
            begin = self.begun[mark] = time.monotonic()
            while not self._publish(channel, mark):
                if self.shared.gave_up.is_set():
                    return
                self.retries += 1
                self._node += 1
                time.sleep(AGAIN_SECONDS)
            self.longest = max(self.longest, time.monotonic() - begin)
            time.sleep(self.chance.uniform(0, 2) * PUBLISHERS / self.shared.rate)

    def _publish(self, channel: str, mark: int) -> bool:
        """Publish once. Return whether it was acknowledged."""
        target = self.shared.targets[self._node % len(self.shared.targets)]
        request = {"app": APP, "channel": channel, "data": {"mark": mark}, "id": text_of(mark)}
        try:
            answer = post(target, "/api/v1/channels/publish", request, ANSWER_SECONDS)
        except BenchError:
            return False
        if answer.get("status") not in ACCEPTED:
            return False
        position = channel, answer.get("epoch", ""), answer.get("offset", 0)
        self.acknowledged[mark] = position, time.monotonic()
        return True


class ChannelClients(Clients):
    """The subscribers and back ends of one run. ``hurried``: they use only channels that always recover, and
    subscribers stay only a moment."""

    def __init__(
        self,
        generator: Generator,
        addresses: list[list[Any]],
        http_ports: list[int],
        clients: int,
        seed: int,
        history: str,
        hurried: bool,
    ) -> None:
        super().__init__(generator.loop, addresses)
        self.history = Path(history)
        self.channels = RECOVERING if hurried else CHANNELS
        self.stay_seconds = HURRIED_STAY_SECONDS if hurried else STAY_SECONDS
        self.talking = False
        self.targets = [Target("127.0.0.1", 0, http_port=port, key=KEY) for port in http_ports]
        self.chance = random.Random(seed)
        self.rate = 1.0
        self.quiet = threading.Event()
        self.gave_up = threading.Event()
        self.subscribers = [
            Subscriber(self, index, DIALECTS[index % len(DIALECTS)](APP, name), name)
            for index, name in enumerate(f"client {number + 1}" for number in range(clients))
        ]
        self.clients = self.subscribers
        self.publishers = [
            Publisher(number, self, self.chance.randrange(2**31)) for number in range(1, PUBLISHERS + 1)
        ]
        self._sever_at = 0.0
        self.meet(self.all_live)

    @property
    def subscriptions(self) -> list[Subscription]:
        return [one for client in self.subscribers for one in client.subscriptions.values()]

    def all_live(self) -> bool:
        return all(client.phase == LIVE for client in self.clients)

    @property
    def resubscriptions(self) -> int:
        return sum(one.recoveries + one.reloads for one in self.subscriptions)

    def chat(self, seconds: float, rate: float, resubscriptions: int = 0) -> None:
        """Let the back ends publish, and cut connections of subscribers, until ``seconds`` have passed, or
        clients with a position have subscribed again so often (0: any number)."""
        self.rate = rate
        for publisher in self.publishers:
            if not publisher.ident:
                publisher.start()
        end = time.monotonic() + seconds
        self.talking = True
        while (now := self.turn(self.clients, LOOK_SECONDS)) < end and not self.loop.stopped:
            if 0 < resubscriptions <= self.resubscriptions:
                break
            if now >= self._sever_at:
                self._sever_at = now + self.chance.uniform(0, 2 * SEVER_SECONDS)
                client = self.chance.choice(self.clients)
                if client.phase >= BEHIND:
                    client.lose(now)
        self.talking = False

    def settle(self, seconds: float) -> bool:
        """Let everything come to rest. Return whether it did within ``seconds``."""
        self.quiet.set()
        calm = self.until(self.clients, lambda: not any(each.is_alive() for each in self.publishers), seconds)
        self.gave_up.set()
        calm &= self.until(self.clients, self.all_live, seconds)
        self.until(self.clients, lambda: False, CHECK_SECONDS)
        return calm & self.until(self.clients, self.all_live, seconds)

    def audit(self, _seconds: float) -> Json:
        """Write the history. Return the figures."""
        self.note()
        every, sent = self.subscriptions, sum(each.sent for each in self.publishers)
        acked = sum(len(each.acknowledged) for each in self.publishers)
        return {
            "publications": sent,
            "acknowledged": acked,
            "unacknowledged": sent - acked,
            "received": sum(len(life.seen) for one in every for life in one.lives),
            "resubscriptions": self.resubscriptions,
            "reloads": sum(one.reloads for one in every),
            "recoveries": sum(one.recoveries for one in every),
            "resends": sum(each.retries for each in self.publishers),
            "logins": self.counts.connections,
            "lost_connections": self.counts.lost_connections,
            "silence_seconds": max(each.longest for each in self.publishers),
        }

    def note(self) -> None:
        """Write the history: what was published, what everybody has seen, and where the channels end."""
        tops = {channel: self._top(channel) for channel in self.channels}
        marks: dict[Position, int] = {}
        for publisher in self.publishers:
            marks |= {position: mark for mark, (position, _) in publisher.acknowledged.items() if position[2]}
        known = [one for one in self.subscriptions if one.knows_offsets]
        for one in known:
            for life in one.lives:
                marks |= {(one.channel, life.epoch, offset): mark for _, offset, mark in life.seen}
        history, ranks = History(self.history), Ranks(marks)
        for publisher in self.publishers:
            for mark, begun in publisher.begun.items():
                position, ended = publisher.acknowledged.get(mark, (None, 0.0))
                for at in ranks.of_mark[mark]:
                    number = history.ask(
                        publisher.name, "send", object_of(at), message=text_of(mark), at=begun
                    )
                    if at == position:
                        answer = {"at": ended, "place": ranks.rank(at)}
                        history.answered(number, **answer)
        for one in self.subscriptions:
            for life in one.lives if one.knows_offsets else ranks.lives_of(one):
                self._note_life(history, ranks, one.channel, life)
            if one.lives and one.knows_offsets:
                self._note_end(history, ranks, one, tops[one.channel])
        history.close()

    def _note_life(self, history: History, ranks: Ranks, channel: str, life: Life) -> None:
        """What a subscriber had when it began, and what it has seen."""
        if life.begin is not None:
            begin = channel, life.epoch, life.begin
            mark = ranks.mark(begin)
            text = None if mark is None else text_of(mark)
            history.saw(life.name, object_of(begin), text, ranks.rank(begin), at=0.0)
        for at, offset, mark in life.seen:
            position = channel, life.epoch, offset
            history.saw(life.name, object_of(position), text_of(mark), ranks.rank(position), at=at)

    def _note_end(self, history: History, ranks: Ranks, one: Subscription, top: Position) -> None:
        """The end of the history comes next for everybody: nothing is between."""
        life = one.lives[-1]
        if life.epoch != top[1]:
            self.faults.add("another epoch", f"{life.name} ends in {life.epoch}, the history in {top[1]}")
            return
        seq = ranks.rank(top) + 1 if one.channel in STORED else top[2] + 1
        history.saw(life.name, object_of(top), None, seq)

    def _top(self, channel: str) -> Position:
        """The position of the newest publication of a channel, as the first node sees it. Raises
        BenchError."""
        path = f"/api/v1/channels/history?app={APP}&channel={channel}&limit=1&reverse=true"
        found = fetch(self.targets[0], path)
        if "epoch" not in found:
            raise BenchError(f"the history of {channel} cannot be read: {found}")
        return channel, found["epoch"], found["offset"]


def object_of(position: Position) -> str:
    """The conversation of the checker: a channel in one epoch."""
    return f"{position[0]} in {position[1]}"


class Ranks:
    """The ranks of all publications that somebody knows. ``marks``: position → mark."""

    def __init__(self, marks: dict[Position, int]) -> None:
        self.marks = marks
        self.of_mark: dict[int, list[Position]] = defaultdict(list)
        self._offsets: dict[tuple[str, str], list[int]] = defaultdict(list)
        for position in sorted(marks):
            self.of_mark[marks[position]].append(position)
            self._offsets[position[:2]].append(position[2])

    def rank(self, position: Position) -> int:
        """The offset of a publication; where offsets have gaps, its rank."""
        channel, _, offset = position
        return bisect_right(self._offsets[position[:2]], offset) if channel in STORED else offset

    def mark(self, position: Position) -> int | None:
        """The mark of a publication; where offsets have gaps, of the last one up to there. None: nobody knows
        one."""
        offsets, rank = self._offsets[position[:2]], self.rank(position)
        if position[0] in STORED:
            return self.marks[(*position[:2], offsets[rank - 1])] if rank else None
        return self.marks.get(position)

    def lives_of(self, one: Subscription) -> list[Life]:
        """Lives without offsets, with those of others. A publication that was stored again, in a new epoch,
        has several positions: the one behind the last counts, and if there is none, another life begins."""
        lives: list[Life] = []
        for subscription in one.lives:
            life: Life | None = None
            for at, _, mark in subscription.seen:
                found = [each for each in self.of_mark[mark] if each[0] == one.channel]
                follows = [each for each in found if life and each[1:] == (life.epoch, life.offset + 1)]
                positions = follows or found
                if len(positions) != 1:
                    life = None
                    continue
                _, epoch, offset = positions[0]
                if life is None or life.epoch != epoch:
                    life = Life(f"{subscription.name}.{len(lives)}", epoch, None)
                    lives.append(life)
                life.seen.append((at, offset, mark))
                life.offset = offset
        return lives
