"""Chaos for channels: back ends publish, and subscribers that come back miss
nothing without being told.

Subscribers use the Python client. They leave channels and subscribe again with
their last position all the time, also at another node. One lives as long as the
client does not say that publications may be missing: then it goes on under
another name. For the checker a channel is a conversation in each epoch, and the
place of a publication is its rank.
"""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from bench.chaos_client import Faults
from bench.chat_dialects import mark_of, text_of
from bench.connections import Target
from bench.generator import Generator
from bench.history import History
from bench.http_client import fetch, post
from bench.loop import BenchError, Json
from imserver_client import ChannelNotice, Client, ClientError, Position, Publication

CHANNELS: tuple[str, ...] = (
    "short:1",
    "cache-last",
    "live:1",
    "live:2",
    "stored:1",
    "stored:2",
)
"""Of the first two, histories are so small that some of their subscribers must
reload. The last two have that of the message log."""
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
OPENING_SECONDS: Final = 3.0
MEET_SECONDS: Final = 120.0
STAY_SECONDS = 2.0
"""A subscriber stays in a channel so long, on average, before it subscribes
again."""
SEVER_SECONDS: Final = 15.0
"""A subscriber goes to another node after this time, on average."""
CHECK_SECONDS = 20.0
"""After the last publication: time in which a node finds what a dead one has
not sent."""
ACCEPTED: Final = ("sent", "partly", "repeated")
INSUFFICIENT_STATE: Final = 2500
FullPosition = tuple[str, str, int]
"""Channel, epoch, offset."""


class Life:
    """What a subscriber has of a channel, without a gap that it was told of."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.position: Position | None = None
        """Of the last publication."""
        self.seen: list[tuple[float, Position, int]] = []
        """Time, position and mark of each publication."""


class Subscriber(threading.Thread):
    """A user of the Python client, at one node after the other."""

    def __init__(self, shared: ChannelClients, number: int) -> None:
        super().__init__(daemon=True)
        self.name = f"client {number}"
        self.shared = shared
        self.lives: dict[str, list[Life]] = {channel: [] for channel in shared.channels}
        """By channel; the last one goes on."""
        self.is_live = False
        self.logins = self.resubscriptions = self.reloads = 0
        self._node = number
        self._chance = random.Random(number)
        for channel in shared.channels:
            self._live_anew(channel)

    def _live_anew(self, channel: str) -> None:
        lives = self.lives[channel]
        lives.append(Life(f"{self.name}, life {len(lives) + 1}"))

    def run(self) -> None:
        while not self.shared.is_over.is_set():
            self._node += 1
            session = Client(
                self.shared.urls[self._node % len(self.shared.urls)], APP, self.name
            )
            try:
                session.connect(OPENING_SECONDS)
                self._stay(session)
            except ClientError:
                time.sleep(AGAIN_SECONDS)
            finally:
                self.is_live = False
                session.close()

    def _stay(self, session: Client) -> None:
        """Subscribe, and again to one channel after the other. Raises
        ClientError."""
        self.logins += 1
        for channel in self.lives:
            self._subscribe(session, channel)
        self.is_live = True
        until = time.monotonic() + self._chance.uniform(0, 2 * SEVER_SECONDS)
        leave_at = 0.0
        while not self.shared.is_over.is_set() and (
            time.monotonic() < until or self.shared.quiet.is_set()
        ):
            self._receive(session, 0.1)
            if time.monotonic() > leave_at and not self.shared.quiet.is_set():
                leave_at = time.monotonic() + self._chance.uniform(
                    0, STAY_SECONDS / len(self.lives)
                )
                channel = self._chance.choice([*self.lives])
                session.unsubscribe(channel)
                while self._receive(session, 0):
                    pass
                self._subscribe(session, channel)

    def _subscribe(self, session: Client, channel: str) -> None:
        since = self.lives[channel][-1].position
        session.subscribe(channel, since=since)
        self.resubscriptions += since is not None

    def _receive(self, session: Client, seconds: float) -> bool:
        """Take an event, if one comes in time."""
        event = session.receive(seconds)
        if isinstance(event, Publication):
            self.take(event)
        elif isinstance(event, ChannelNotice) and event.kind == "reload":
            self.reloads += 1
            self._live_anew(event.channel)
        elif isinstance(event, ChannelNotice) and event.code not in (
            0,
            INSUFFICIENT_STATE,
        ):
            self.shared.faults.add("refused", f"{self.name}: {event}")
        return event is not None

    def take(self, publication: Publication) -> None:
        life = self.lives[publication.channel][-1]
        position = publication.position
        if position is None or (
            life.position and life.position.epoch != position.epoch
        ):
            self.shared.faults.add(
                "another epoch", f"{life.name}: {publication} after {life.position}"
            )
            return
        life.position = position
        life.seen.append((time.monotonic(), position, publication.data["mark"]))


class Publisher(threading.Thread):
    """A back end. It publishes each message until it is acknowledged, with the
    same id, at any node."""

    def __init__(self, number: int, shared: ChannelClients, seed: int) -> None:
        super().__init__(daemon=True)
        self.name = f"back end {number}"
        self.number = number
        self.shared = shared
        self.chance = random.Random(seed)
        self.sent = self.retries = 0
        self.begun: dict[int, float] = {}
        """Mark → when it was published for the first time."""
        self.acknowledged: dict[int, tuple[FullPosition, float]] = {}
        """Mark → where it is, and when the answer came. Without an offset it is
        nowhere."""
        self.longest = 0.0
        self._node = number

    def run(self) -> None:
        while not self.shared.quiet.is_set():
            self.sent += 1
            channel = self.chance.choice(self.shared.channels)
            mark = mark_of(self.number, self.sent)
            begin = time.monotonic()
            self.begun[mark] = begin
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
        request = {
            "app": APP,
            "channel": channel,
            "data": {"mark": mark},
            "id": text_of(mark),
        }
        try:
            answer = post(target, "/api/v1/channels/publish", request, ANSWER_SECONDS)
        except BenchError:
            return False
        if answer.get("status") not in ACCEPTED:
            return False
        position = channel, answer.get("epoch", ""), answer.get("offset", 0)
        self.acknowledged[mark] = position, time.monotonic()
        return True


class ChannelClients:
    """The subscribers and back ends of one run."""

    def __init__(
        self,
        generator: Generator,
        addresses: list[list[Any]],
        http_ports: list[int],
        clients: int,
        seed: int,
        history: str,
    ) -> None:
        self.loop, self.history, self.faults = generator.loop, Path(history), Faults()
        self.channels = CHANNELS
        self.urls = [f"ws://{host}:{port}/acc" for host, port in addresses]
        self.targets = [
            Target("127.0.0.1", 0, http_port=port, key=KEY) for port in http_ports
        ]
        self.rate = 1.0
        self.quiet, self.gave_up, self.is_over = (threading.Event() for _ in range(3))
        self.subscribers = [
            Subscriber(self, number) for number in range(1, clients + 1)
        ]
        chance = random.Random(seed)
        self.publishers = [
            Publisher(number, self, chance.randrange(2**31))
            for number in range(1, PUBLISHERS + 1)
        ]
        for subscriber in self.subscribers:
            subscriber.start()
        if not self.loop.until(self.all_live, MEET_SECONDS):
            raise BenchError("subscribers did not come online")

    def all_live(self) -> bool:
        return all(each.is_live for each in self.subscribers)

    @property
    def resubscriptions(self) -> int:
        return sum(each.resubscriptions for each in self.subscribers)

    def chat(self, seconds: float, rate: float) -> None:
        """Let the back ends publish until ``seconds`` have passed."""
        self.rate = rate
        for publisher in self.publishers:
            if not publisher.ident:
                publisher.start()
        self.loop.until(lambda: False, seconds)

    def settle(self, seconds: float) -> bool:
        """Let everything come to rest. Return whether it did within
        ``seconds``."""
        self.quiet.set()
        calm = self.loop.until(
            lambda: not any(each.is_alive() for each in self.publishers), seconds
        )
        self.gave_up.set()
        calm &= self.loop.until(self.all_live, seconds)
        self.loop.until(lambda: False, CHECK_SECONDS)
        calm &= self.loop.until(self.all_live, seconds)
        self.is_over.set()
        for subscriber in self.subscribers:
            subscriber.join()
        return calm

    def audit(self, _seconds: float) -> Json:
        """Write the history. Return the figures."""
        self.note()
        sent = sum(each.sent for each in self.publishers)
        acked = sum(len(each.acknowledged) for each in self.publishers)
        reloads = sum(each.reloads for each in self.subscribers)
        return {
            "publications": sent,
            "acknowledged": acked,
            "unacknowledged": sent - acked,
            "received": sum(len(life.seen) for _, life in self.every_life()),
            "resubscriptions": self.resubscriptions,
            "reloads": reloads,
            "recoveries": self.resubscriptions - reloads,
            "resends": sum(each.retries for each in self.publishers),
            "logins": sum(each.logins for each in self.subscribers),
            "silence_seconds": max(each.longest for each in self.publishers),
        }

    def every_life(self) -> list[tuple[str, Life]]:
        """Each with its channel."""
        every = [row for each in self.subscribers for row in each.lives.items()]
        return [(channel, life) for channel, lives in every for life in lives]

    def note(self) -> None:
        """Write the history: what was published, what everybody has seen, and
        where the channels end."""
        tops = {channel: self._top(channel) for channel in self.channels}
        marks: dict[FullPosition, int] = {}
        for publisher in self.publishers:
            marks |= {
                at: mark for mark, (at, _) in publisher.acknowledged.items() if at[2]
            }
        for channel, life in self.every_life():
            marks |= {(channel, at.epoch, at.offset): mark for _, at, mark in life.seen}
        history = History(self.history)
        ranks = Ranks(marks)
        for publisher in self.publishers:
            for mark, begun in publisher.begun.items():
                acked, ended = publisher.acknowledged.get(mark, (None, 0.0))
                for where in ranks.of_mark[mark]:
                    what = {"message": text_of(mark), "at": begun}
                    number = history.ask(
                        publisher.name, "send", object_of(where), **what
                    )
                    if where == acked:
                        answer = {"at": ended, "place": ranks.rank(where)}
                        history.answered(number, **answer)
        for channel, life in self.every_life():
            for seen_at, at, mark in life.seen:
                where = channel, at.epoch, at.offset
                history.saw(
                    life.name,
                    object_of(where),
                    text_of(mark),
                    ranks.rank(where),
                    at=seen_at,
                )
        for subscriber in self.subscribers:
            for channel, lives in subscriber.lives.items():
                life = lives[-1]
                top = tops[channel]
                if life.position is None or life.position.epoch == top[1]:
                    # The end of the history comes next for everybody: nothing
                    # is between.
                    history.saw(life.name, object_of(top), None, ranks.rank(top) + 1)
                else:
                    ends = f"{life.name} ends at {life.position}, the history at {top}"
                    self.faults.add("another epoch", ends)
        history.close()

    def _top(self, channel: str) -> FullPosition:
        """The newest publication of a channel, as the first node sees it.
        Raises BenchError."""
        path = (
            f"/api/v1/channels/history?app={APP}&channel={channel}&limit=1&reverse=true"
        )
        found = fetch(self.targets[0], path)
        if "epoch" not in found:
            raise BenchError(f"the history of {channel} cannot be read: {found}")
        return channel, found["epoch"], found["offset"]


def object_of(position: FullPosition) -> str:
    """The conversation of the checker: a channel in one epoch."""
    return f"{position[0]} in {position[1]}"


class Ranks:
    """The ranks of all publications that somebody knows. ``marks``: position →
    mark."""

    def __init__(self, marks: dict[FullPosition, int]) -> None:
        self.marks = marks
        self.of_mark: dict[int, list[FullPosition]] = defaultdict(list)
        self._offsets: dict[tuple[str, str], list[int]] = defaultdict(list)
        for position in sorted(marks):
            self.of_mark[marks[position]].append(position)
            self._offsets[position[:2]].append(position[2])

    def rank(self, position: FullPosition) -> int:
        return bisect_right(self._offsets[position[:2]], position[2])
