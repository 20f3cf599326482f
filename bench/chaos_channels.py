"""Chaos for channels: back ends publish, and subscribers that come back miss nothing without being told.

A subscriber lives as long as the server does not say otherwise: if ``recovered`` is false, or the
subscription is ended, it reloads, and goes on under another name. For the checker a channel is a conversation
in each epoch, and the place of a publication is its rank. Subscribers leave channels and subscribe again with
their last position all the time.
"""

from __future__ import annotations

import json
import random
import threading
import time
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

OK = 200


class ChannelEvent(NamedTuple):
    """What a subscriber is told of a channel. ``what``: ``subscribed``, ``refused``, ``left``, ``published``,
    ``unsubscribed``, or ``pong``, if the server wants a sign of life. ``publications``: the new ones, or all
    that was missed, if it ``recovered``: offset and mark."""

    what: str
    channel: str = ""
    epoch: str = ""
    offset: int = 0
    recovered: bool = False
    publications: tuple[tuple[int, int], ...] = ()
    code: int = 0


def _event(what: str, channel: str, found: Json, *publications: Json) -> ChannelEvent:
    rows = tuple((each.get("offset", 0), each["data"]["mark"]) for each in publications)
    position = found.get("epoch", ""), found.get("offset", 0)
    return ChannelEvent(what, channel, *position, found.get("recovered", False), rows, found.get("code", 0))


class CentrifugeDialect:
    """JSON of Centrifugo's client protocol. ``name``: of the user."""

    depth = 0
    in_order = counts_anew = False

    def __init__(self, app: str, name: str) -> None:
        self.app, self.name = app, name
        self.path = f"/connection/{app}/websocket"
        self._ids = count(1)
        self._waiting: dict[int, str] = {}
        """Id of a command of this connection → channel; ``""``: the login."""

    def login(self, _cursor: int) -> bytes:
        """The first frame of a connection."""
        self._waiting.clear()
        return self._command("connect", "", {})

    def subscribe(self, channel: str, epoch: str, offset: int) -> bytes:
        """Subscribe; ``epoch`` ``""``: without a position."""
        position = {"recover": True, "epoch": epoch, "offset": offset} if epoch else {}
        request = {"channel": channel, "recoverable": True, "positioned": True, **position}
        return self._command("subscribe", channel, request)

    def unsubscribe(self, channel: str) -> bytes:
        return self._command("unsubscribe", channel, {"channel": channel})

    def _command(self, command: str, channel: str, data: Json) -> bytes:
        return client_frame(json.dumps({"id": self._new_id(channel), command: data}).encode())

    def _new_id(self, channel: str) -> int:
        number = next(self._ids)
        self._waiting[number] = channel
        return number

    def read(self, payload: bytes) -> list[ChannelEvent | LoggedIn]:
        """Read a frame. Raises ValueError or KeyError."""
        return [event for line in payload.splitlines() for event in self._read(json.loads(line))]

    def _read(self, reply: Json) -> list[ChannelEvent | LoggedIn]:
        if not reply:
            return [ChannelEvent("pong")]
        if push := reply.get("push"):
            if "pub" in push:
                return [_event("published", push["channel"], {}, push["pub"])]
            ended = push.get("unsubscribe")
            return [] if ended is None else [_event("unsubscribed", push["channel"], ended)]
        done = "unsubscribe" in reply
        return [self._answer(self._waiting.pop(reply["id"]), "error" in reply, done, reply.get("subscribe"))]

    def _answer(
        self, channel: str, error: bool, has_left: bool, data: Json | None
    ) -> ChannelEvent | LoggedIn:
        """The answer to a command."""
        if not channel and error:
            raise ValueError("a login is refused")
        if not channel:
            return LoggedIn(False)
        if has_left:
            return ChannelEvent("left", channel)
        if error or data is None:
            return ChannelEvent("refused", channel)
        return _event("subscribed", channel, data, *data.get("publications", ()))


class CmdChannelDialect(CentrifugeDialect):
    """The cmd dialect with ``subscribe``."""

    def __init__(self, app: str, name: str) -> None:
        super().__init__(app, name)
        self.path = "/acc"

    def login(self, _cursor: int) -> bytes:
        self._waiting.clear()
        return self._command("login", "", {"userID": self.name, "app": self.app})

    def subscribe(self, channel: str, epoch: str, offset: int) -> bytes:
        position = {"epoch": epoch, "offset": offset} if epoch else {}
        return self._command("subscribe", channel, {"channel": channel, **position})

    def _command(self, command: str, channel: str, data: Json) -> bytes:
        return request_frame(command, str(self._new_id(channel)), data)

    def _read(self, reply: Json) -> list[ChannelEvent | LoggedIn]:
        command, code, data = reply["cmd"], reply["response"]["code"], reply["response"]["data"]
        if command == "publication":
            return [_event("published", data["channel"], {}, data)]
        if command == "unsubscribed":
            return [_event("unsubscribed", data["channel"], data)]
        if command not in ("login", "subscribe", "unsubscribe"):
            return []
        channel = self._waiting.pop(int(reply["seq"]))
        return [self._answer(channel, code != OK, command == "unsubscribe", data)]


DIALECTS: Final = (CentrifugeDialect, CmdChannelDialect)
"""Of the subscribers, in turn."""
RECOVERING: Final = ("live:1", "live:2", "stored:1", "stored:2")
"""Their subscribers always recover, if nothing fails. The history of the last two is the message log."""
CHANNELS: Final = ("short:1", "cache-last", *RECOVERING)
"""The histories of ``short:1`` and ``cache-last`` are so small that some of their subscribers must reload."""
KEY: Final = "the-key-of-this-run-alone"
APP: Final = "channels"
CONFIG: Final = f"""\
api: {{{{keys: [{{{{key: {KEY}, scopes: [push, read]}}}}]}}}}
apps:
  {APP}:
    open: true
    pusher: {{{{app_id: "1", key: chaos, secret: a-secret-of-this-run-alone}}}}  # has the channel cache-last
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
    """What a subscriber has of a channel since it (re)loaded: all after ``begin`` in one epoch, up to now."""

    def __init__(self, name: str, epoch: str, begin: int) -> None:
        self.name, self.epoch, self.begin = name, epoch, begin
        self.offset = begin
        self.seen: list[tuple[float, int, int]] = []
        """Time, offset and mark of each publication."""

    def take(self, offset: int, mark: int) -> None:
        self.seen.append((time.monotonic(), offset, mark))
        self.offset = max(self.offset, offset)


class Subscription:
    """The lives of one subscriber in one channel; the last one goes on."""

    def __init__(self, name: str, channel: str) -> None:
        self.name, self.channel = name, channel
        self.lives: list[Life] = []
        self.subscribed = False
        self.again_at = self.leave_at = 0.0
        self.reloads = self.recoveries = 0

    @property
    def position(self) -> tuple[str, int]:
        """Epoch and offset of the last publication; an empty epoch before the first subscription."""
        return (self.lives[-1].epoch, self.lives[-1].offset) if self.lives else ("", 0)

    def begin(self, found: ChannelEvent) -> bool:
        """Take the answer to a subscription. False: it recovered a position that nobody asked for."""
        self.subscribed = True
        if self.lives and found.recovered:
            self.recoveries += 1
            for offset, mark in found.publications:
                self.lives[-1].take(offset, mark)
            return found.epoch == self.lives[-1].epoch and found.offset >= self.lives[-1].offset
        self.reloads += bool(self.lives)
        self.lives.append(Life(f"{self.name}, life {len(self.lives) + 1}", found.epoch, found.offset))
        return True


class Subscriber(Client):
    """:class:`Client` with subscriptions in place of messages."""

    def __init__(self, shared: ChannelClients, index: int, dialect: CentrifugeDialect, name: str) -> None:
        super().__init__(shared, index, dialect, name)  # type: ignore[arg-type]
        self.shared = shared
        self.channel_dialect = dialect
        self.subscriptions = {channel: Subscription(name, channel) for channel in shared.channels}

    def look(self, now: float) -> None:
        super().look(now)
        for one in self.subscriptions.values():
            if self.phase < BEHIND:
                return
            if not one.subscribed and now >= one.again_at:
                self._subscribe(one, now)
            elif one.subscribed and self.shared.talking and now >= one.leave_at:
                one.leave_at = now + ANSWER_SECONDS
                self._write(self.channel_dialect.unsubscribe(one.channel), now)

    def _subscribe(self, one: Subscription, now: float) -> None:
        one.again_at = now + ANSWER_SECONDS
        self._write(self.channel_dialect.subscribe(one.channel, *one.position), now)

    def drop(self) -> None:
        super().drop()
        for one in self.subscriptions.values():
            one.subscribed, one.again_at = False, 0.0

    def _handle(self, event: Any, now: float) -> None:
        if isinstance(event, LoggedIn):
            self.phase, self._pause = BEHIND, FIRST_PAUSE_SECONDS
            self.counts.connections += 1
            self.look(now)
        elif event.what == "pong":
            self._write(client_frame(b"{}"), now)
        else:
            self._take(self.subscriptions[event.channel], event, now)

    def _take(self, one: Subscription, event: ChannelEvent, now: float) -> None:
        if event.what == "published":
            one.lives[-1].take(*event.publications[0])
        elif event.what == "subscribed":
            if not one.begin(event):
                self.faults.add("recovered elsewhere", f"{one.name}, {event}, had {one.position}")
            one.leave_at = now + self._chance.uniform(0, 2 * self.shared.stay_seconds)
            if all(each.subscribed for each in self.subscriptions.values()):
                self.phase = LIVE
        elif event.what == "left":
            if one.subscribed:  # the server has not ended it before
                one.subscribed, self.phase = False, BEHIND
                self._subscribe(one, now)
        elif event.what == "unsubscribed" or not one.subscribed:  # else it has asked twice
            if event.what == "unsubscribed" and event.code != INSUFFICIENT_STATE:
                self.faults.add("refused", f"{one.name}: unsubscribed with {event.code}")
            self.phase = BEHIND
            one.subscribed, one.again_at = False, now + SUBSCRIBE_AGAIN_SECONDS


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
        for one in self.subscriptions:
            for life in one.lives:
                marks |= {(one.channel, life.epoch, offset): mark for _, offset, mark in life.seen}
        history, ranks = History(self.history), Ranks(marks)
        for publisher in self.publishers:
            for mark, begun in publisher.begun.items():
                position, ended = publisher.acknowledged.get(mark, (None, 0.0))
                for at in ranks.of_mark[mark]:
                    what = {"message": text_of(mark), "at": begun}
                    number = history.ask(publisher.name, "send", object_of(at), **what)
                    if at == position:
                        answer = {"at": ended, "place": ranks.rank(at)}
                        history.answered(number, **answer)
        for one in self.subscriptions:
            for life in one.lives:
                rows = [(0.0, life.begin, ranks.mark((one.channel, life.epoch, life.begin))), *life.seen]
                for seen_at, offset, known in rows:
                    where = one.channel, life.epoch, offset
                    word = None if known is None else text_of(known)
                    history.saw(life.name, object_of(where), word, ranks.rank(where), at=seen_at)
            if one.lives:
                self._note_end(history, ranks, one.lives[-1], tops[one.channel])
        history.close()

    def _note_end(self, history: History, ranks: Ranks, life: Life, top: Position) -> None:
        """The end of the history comes next for everybody: nothing is between."""
        if life.epoch == top[1]:
            history.saw(life.name, object_of(top), None, ranks.rank(top) + 1)
        else:
            self.faults.add("another epoch", f"{life.name} ends in {life.epoch}, the history in {top[1]}")

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
        return bisect_right(self._offsets[position[:2]], position[2])

    def mark(self, position: Position) -> int | None:
        """The mark of the last known publication up to there, if there is one."""
        channel, epoch, _ = position
        rank = self.rank(position)
        return self.marks[channel, epoch, self._offsets[channel, epoch][rank - 1]] if rank else None
