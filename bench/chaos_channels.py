"""Chaos for channels: back ends publish, and subscribers that come back miss nothing without being told.

A subscriber holds an unbroken chain of offsets in one epoch. The chain ends only if the server says so:
``recovered`` is false, or the subscription is ended. Then the subscriber reloads and begins another chain.
Subscribers leave channels and subscribe again with their last position all the time. Those of the pusher
dialect know no offsets: they have feeds.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any, Final, NamedTuple

from bench.channel_dialects import (
    OK,
    CentrifugeDialect,
    ChannelDialect,
    CmdChannelDialect,
    Left,
    Pong,
    Published,
    PusherDialect,
    Subscribed,
    Unsubscribed,
)
from bench.chaos_client import BEHIND, FIRST_PAUSE_SECONDS, LIVE, LOOK_SECONDS, Client, Clients, Faults
from bench.chat_dialects import LoggedIn, mark_of, text_of
from bench.frames import client_frame
from bench.generator import Generator
from bench.loop import BenchError, Json

STORED = ("stored:1", "stored:2")
"""Their history is the message log. Their offsets have gaps."""
RECOVERING = ("live:1", "live:2", *STORED)
"""Their subscribers always recover, if nothing fails."""
CHANNELS = ("short:1", "cache-last", *RECOVERING)
"""The histories of ``short:1`` and ``cache-last`` are so small that some of their subscribers must reload."""
KEY = "the-key-of-this-run-alone"
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
PUBLISHERS = 6
ANSWER_SECONDS = 5.0
AGAIN_SECONDS = 0.2
SUBSCRIBE_AGAIN_SECONDS = 0.5
STAY_SECONDS = 2.0
"""A subscriber stays in a channel so long, on average, before it subscribes again."""
HURRIED_STAY_SECONDS = 0.05
"""The same if a number of resubscriptions is wanted."""
SEVER_SECONDS = 1.5
"""A random subscriber loses its connection after this time, on average."""
CHECK_SECONDS = 20.0
"""After the last publication: time in which a node finds what a dead one has not sent."""
ACCEPTED = ("sent", "partly", "repeated")
INSUFFICIENT_STATE = 2500


class HistoryPosition(NamedTuple):
    """A position in the history of a channel."""

    channel: str
    epoch: str
    offset: int

    @property
    def next(self) -> HistoryPosition:
        """The position behind it."""
        return self._replace(offset=self.offset + 1)


class Chain:
    """The publications that one subscriber has of one channel: everything after ``begin``, up to ``offset``,
    of ``epoch``."""

    def __init__(self, name: str, channel: str, faults: Faults) -> None:
        self.name = f"{name}, {channel}"
        self.channel = channel
        self.faults = faults
        self.epoch = ""
        self.offset = 0
        self.subscribed = False
        self.again_at = self.leave_at = 0.0
        self.marks: dict[tuple[str, int], int] = {}
        """Epoch and offset → mark."""
        self.received = self.reloads = self.recoveries = self.ended = 0

    def begin(self, found: Subscribed) -> None:
        """Take the answer to a subscription."""
        self.subscribed = True
        if self.epoch and found.recovered:
            self.recoveries += 1
            for offset, mark in found.publications:
                self.take(offset, mark)
            if found.epoch != self.epoch or found.offset != self.offset:
                self._end_elsewhere(found)
        elif self.epoch:
            self.reloads += 1
        self.epoch, self.offset = found.epoch, found.offset

    def take(self, offset: int, mark: int) -> None:
        """Take one publication."""
        if offset > self.offset + 1:
            self._skip(offset)
        elif offset <= self.offset:
            kind = "twice" if self.marks.get((self.epoch, offset)) == mark else "inversions"
            self.faults.add(kind, f"{self.name}: {self.epoch} {offset} came after {self.offset}")
            return
        self.offset = offset
        self.received += 1
        self.marks[self.epoch, offset] = mark

    def _end_elsewhere(self, found: Subscribed) -> None:
        """A subscription was recovered, but not to the end of this chain."""
        words = f"{self.name}: recovered to {found.epoch} {found.offset}, had {self.epoch} {self.offset}"
        self.faults.add("holes", words, max(1, found.offset - self.offset))

    def _skip(self, offset: int) -> None:
        """The next publication has this offset: those between are missing."""
        words = f"{self.name}: {self.epoch} goes from {self.offset} to {offset}"
        self.faults.add("holes", words, offset - self.offset - 1)


class StoredChain(Chain):
    """The publications that one subscriber has of one channel whose offsets have gaps."""

    def __init__(self, name: str, channel: str, faults: Faults) -> None:
        super().__init__(name, channel, faults)
        self._first = 0
        """The offset at which this chain began."""
        self._before: list[tuple[str, int, int]] = []
        """The epoch of each earlier chain, and the offsets at which it began and ended."""

    def begin(self, found: Subscribed) -> None:
        goes_on = self.epoch and found.recovered
        if self.epoch and not goes_on:
            self._before.append((self.epoch, self._first, self.offset))
        super().begin(found)
        if not goes_on:
            self._first = self.offset

    def missing(self, positions: Mapping[HistoryPosition, int]) -> list[int]:
        """The marks of publications at these positions that belong to a chain and are not in it."""
        spans = [*self._before, (self.epoch, self._first, self.offset)]
        return [
            mark
            for (channel, epoch, offset), mark in positions.items()
            if channel == self.channel
            and (epoch, offset) not in self.marks
            and any(epoch == own and first < offset <= last for own, first, last in spans)
        ]

    def _skip(self, offset: int) -> None:
        """The offsets between may be those of other channels: :meth:`missing` knows."""

    def _end_elsewhere(self, found: Subscribed) -> None:
        if found.epoch != self.epoch or found.offset < self.offset:
            super()._end_elsewhere(found)


class Feed(Chain):
    """The publications that one subscriber without offsets has of one channel: the marks of each of its
    subscriptions.

    The first one of a subscription to a cache channel may be known already.
    """

    def __init__(self, name: str, channel: str, faults: Faults) -> None:
        super().__init__(name, channel, faults)
        self.spans: list[list[int]] = []
        self.missed = 0

    def begin(self, found: Subscribed) -> None:
        self.subscribed = True
        self.spans.append([])

    def take(self, _offset: int, mark: int) -> None:
        self.received += 1
        self.spans[-1].append(mark)

    def compare(
        self, positions: dict[int, set[HistoryPosition]], newest: int, acknowledged: set[int]
    ) -> None:
        """Compare it with the positions of each mark, the newest mark of the history, and acknowledged marks.

        Between disconnect and subscription everything may be missed. A history that is too small to fill a
        gap between nodes has holes for these subscribers, too.
        """
        cached = self.channel.startswith("cache-")
        seen: Counter[int] = Counter()
        for span in self.spans:
            for index, mark in enumerate(span):
                if seen[mark] and not (cached and not index):
                    epochs = {each.epoch for each in positions.get(mark, ())}
                    if seen[mark] >= len(epochs):  # it is stored again where Redis has lost its data
                        self.faults.add("twice", f"{self.name}: {text_of(mark)}")
                seen[mark] += 1
            self._check_order([positions.get(mark, set()) for mark in span])
        last = self.spans[-1] if self.spans else []
        if newest and (last or cached) and last[-1:] != [newest]:
            self.faults.add("lost", f"{self.name} ends without {text_of(newest)}")
        self.missed = len(acknowledged - seen.keys())

    def _check_order(self, span: list[set[HistoryPosition]]) -> None:
        """Compare neighbours. A publication that was stored again may be either of its copies."""
        before: HistoryPosition | None = None
        for found in span:
            follows = [each for each in found if before and each == before.next]
            behind = follows[0] if follows else next(iter(found)) if len(found) == 1 else None
            if before is not None and behind is not None and before.epoch == behind.epoch:
                if behind.offset <= before.offset:
                    self.faults.add("inversions", f"{self.name}: {behind} came after {before}")
                elif behind != before.next and self.channel.startswith("live:"):
                    words = f"{self.name}: goes from {before} to {behind}"
                    self.faults.add("holes", words, behind.offset - before.offset - 1)
            before = behind


def chain_of(dialect: ChannelDialect, channel: str, faults: Faults) -> Chain:
    """A new record of what a subscriber has of a channel."""
    if not dialect.knows_offsets:
        return Feed(dialect.name, channel, faults)
    return (StoredChain if channel in STORED else Chain)(dialect.name, channel, faults)


class Subscriber(Client):
    """:class:`Client` with subscriptions in place of messages."""

    def __init__(self, shared: ChannelClients, index: int, dialect: ChannelDialect, name: str) -> None:
        super().__init__(shared, index, dialect, name, None)  # type: ignore[arg-type]
        self.shared = shared
        self.channel_dialect = dialect
        self.chains = {channel: chain_of(dialect, channel, shared.faults) for channel in shared.channels}

    def look(self, now: float) -> None:
        super().look(now)
        for chain in self.chains.values():
            if self.phase < BEHIND:
                return
            if not chain.subscribed and now >= chain.again_at:
                self._subscribe(chain, now)
            elif chain.subscribed and self.shared.talking and now >= chain.leave_at:
                chain.leave_at = now + ANSWER_SECONDS
                if frame := self.channel_dialect.unsubscribe(chain.channel):
                    self._write(frame, now)

    def _subscribe(self, chain: Chain, now: float) -> None:
        chain.again_at = now + ANSWER_SECONDS
        self._write(self.channel_dialect.subscribe(chain.channel, chain.epoch, chain.offset), now)

    def drop(self) -> None:
        super().drop()
        for chain in self.chains.values():
            chain.subscribed, chain.again_at = False, 0.0

    def _handle(self, event: Any, now: float) -> None:
        if isinstance(event, Pong):
            self._write(client_frame(b"{}"), now)
        elif isinstance(event, LoggedIn):
            self.phase, self._pause = BEHIND, FIRST_PAUSE_SECONDS
            self.counts.connections += 1
            self.look(now)
        elif isinstance(event, Published):
            self.chains[event.channel].take(event.offset, event.mark)
        else:
            chain = self.chains[event.channel]
            if isinstance(event, Subscribed):
                chain.begin(event)
                chain.leave_at = now + self._chance.uniform(0, 2 * self.shared.stay_seconds)
                if all(each.subscribed for each in self.chains.values()):
                    self.phase = LIVE
                return
            if isinstance(event, Left):
                if chain.subscribed:  # the server has not ended it before
                    chain.subscribed, self.phase = False, BEHIND
                    self._subscribe(chain, now)
                return
            if isinstance(event, Unsubscribed):
                chain.ended += 1
                if event.code != INSUFFICIENT_STATE:
                    self.faults.add("refused", f"{chain.name}: unsubscribed with {event.code}")
            self.phase = BEHIND
            chain.subscribed, chain.again_at = False, now + SUBSCRIBE_AGAIN_SECONDS


DIALECTS: Final[tuple[type[ChannelDialect], ...]] = (CentrifugeDialect, CmdChannelDialect, PusherDialect)
"""Of the subscribers, in turn."""


class Publisher(threading.Thread):
    """A back end. It publishes each message until it is acknowledged, with the same id, at any node."""

    def __init__(self, number: int, shared: ChannelClients, seed: int) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.shared = shared
        self.chance = random.Random(seed)
        self.sent = self.retries = 0
        self.positions: dict[HistoryPosition, int] = {}
        """Where acknowledged publications are → mark."""
        self.acknowledged: dict[int, str] = {}
        """Mark → channel."""
        self.longest = 0.0
        self._node = number
        self._connection: HTTPConnection | None = None

    def run(self) -> None:
        try:
            self._publish_all()
        finally:
            if self._connection is not None:
                self._connection.close()

    def _publish_all(self) -> None:
        while not self.shared.quiet.is_set():
            self.sent += 1
            channel, mark = self.chance.choice(self.shared.channels), mark_of(self.number, self.sent)
            begin = time.monotonic()
            while not self._publish(channel, mark):
                if self.shared.gave_up.is_set():
                    return
                self.retries += 1
                time.sleep(AGAIN_SECONDS)
            self.longest = max(self.longest, time.monotonic() - begin)
            time.sleep(self.chance.uniform(0, 2) * PUBLISHERS / self.shared.rate)

    def _publish(self, channel: str, mark: int) -> bool:
        """Publish once. Return whether it was acknowledged."""
        request = {"app": self.shared.app, "channel": channel, "data": {"mark": mark}, "id": text_of(mark)}
        if self._connection is None:
            self._node += 1
            port = self.shared.http_ports[self._node % len(self.shared.http_ports)]
            self._connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
        try:
            self._connection.request("POST", "/api/v1/channels/publish", json.dumps(request), HEADERS)
            answer = self._connection.getresponse()
            body = json.loads(answer.read())
        except (OSError, HTTPException, ValueError):
            self._connection.close()
            self._connection = None
            return False
        if answer.status != OK or body.get("status") not in ACCEPTED:
            return False
        self.acknowledged[mark] = channel
        if body.get("offset"):
            self.positions[HistoryPosition(channel, body["epoch"], body["offset"])] = mark
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
        app: str,
        seed: int,
        hurried: bool,
    ) -> None:
        super().__init__(generator.loop, addresses)
        self.app = app
        self.channels = RECOVERING if hurried else CHANNELS
        self.stay_seconds = HURRIED_STAY_SECONDS if hurried else STAY_SECONDS
        self.talking = False
        self.http_ports = http_ports
        self.chance = random.Random(seed)
        self.rate = 1.0
        self.quiet = threading.Event()
        self.gave_up = threading.Event()
        self.clients = [
            Subscriber(self, index, DIALECTS[index % len(DIALECTS)](app, name), name)
            for index, name in enumerate(f"client {number + 1}" for number in range(clients))
        ]
        self.publishers = [
            Publisher(number, self, self.chance.randrange(2**31)) for number in range(1, PUBLISHERS + 1)
        ]
        self.severed = 0
        self._sever_at = 0.0

    @property
    def chains(self) -> list[Chain]:
        return [chain for chain in self._records() if not isinstance(chain, Feed)]

    @property
    def feeds(self) -> list[Feed]:
        return [chain for chain in self._records() if isinstance(chain, Feed)]

    def _records(self) -> list[Chain]:
        return [chain for client in self.clients for chain in client.chains.values()]

    def all_live(self) -> bool:
        return all(client.phase == LIVE for client in self.clients)

    @property
    def resubscriptions(self) -> int:
        return sum(chain.recoveries + chain.reloads for chain in self.chains)

    def chat(self, seconds: float, rate: float, resubscriptions: int) -> None:
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
                    self.severed += 1
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

    def status(self) -> Json:
        return {
            "sent": sum(each.sent for each in self.publishers),
            "acked": sum(len(each.acknowledged) for each in self.publishers),
            "faults": dict(self.faults.counts),
            "notes": self.faults.notes,
        }

    def compare(self) -> None:
        """Compare the chains with the acknowledged publications, and with the histories."""
        positions = {position: mark for each in self.publishers for position, mark in each.positions.items()}
        tops = {channel: self._top(channel) for channel in self.channels}
        for chain in self.chains:
            top, _newest = tops[chain.channel]
            if (chain.channel, chain.epoch, chain.offset) != top:
                words = f"{chain.name} ends at {chain.epoch} {chain.offset}, the history at {top}"
                self.faults.add("lost", words, max(1, top.offset - chain.offset))
            for (epoch, offset), mark in chain.marks.items():
                known = positions.get(HistoryPosition(chain.channel, epoch, offset))
                if known is not None and known != mark:
                    words = f"{chain.name}: {epoch} {offset} is {text_of(mark)}, not {text_of(known)}"
                    self.faults.add("changed", words)
            self._count_doubles(chain)
            if isinstance(chain, StoredChain):
                for mark in chain.missing(positions):
                    self.faults.add("lost", f"{chain.name} skipped {text_of(mark)}")
            else:
                self._count_missing(chain)
        positions_of: dict[int, set[HistoryPosition]] = {}
        for position, mark in positions.items():
            positions_of.setdefault(mark, set()).add(position)
        for chain in self.chains:
            for (epoch, offset), mark in chain.marks.items():
                positions_of.setdefault(mark, set()).add(HistoryPosition(chain.channel, epoch, offset))
        acknowledged: dict[str, set[int]] = {channel: set() for channel in self.channels}
        for publisher in self.publishers:
            for mark, channel in publisher.acknowledged.items():
                acknowledged[channel].add(mark)
        for feed in self.feeds:
            feed.compare(positions_of, tops[feed.channel][1], acknowledged[feed.channel])

    def _count_doubles(self, chain: Chain) -> None:
        """Publications with two offsets in one epoch."""
        seen: set[tuple[str, int]] = set()
        for (epoch, offset), mark in chain.marks.items():
            if (epoch, mark) in seen:
                self.faults.add("twice", f"{chain.name}: {text_of(mark)} again at {epoch} {offset}")
            seen.add((epoch, mark))

    def _count_missing(self, chain: Chain) -> None:
        """Acknowledged publications that a subscriber has not, although it was never told to reload."""
        if chain.reloads:
            return
        had = set(chain.marks.values())
        for publisher in self.publishers:
            for mark, channel in publisher.acknowledged.items():
                if channel == chain.channel and mark not in had:
                    self.faults.add("lost", f"{chain.name} never received {text_of(mark)}")

    def _top(self, channel: str) -> tuple[HistoryPosition, int]:
        """The position and mark of the newest publication of a channel, as the first node sees it.

        The mark is 0 if the history has lost it.
        """
        connection = HTTPConnection("127.0.0.1", self.http_ports[0], timeout=ANSWER_SECONDS)
        try:
            path = f"/api/v1/channels/history?app={self.app}&channel={channel}&limit=1&reverse=true"
            connection.request("GET", path, headers=HEADERS)
            data = json.loads(connection.getresponse().read())
            marks = [each["data"]["mark"] for each in data.get("publications", ())]
            return HistoryPosition(channel, data["epoch"], data["offset"]), marks[0] if marks else 0
        except (OSError, HTTPException, ValueError, KeyError) as error:
            raise BenchError(f"the history of {channel} cannot be read: {error}") from error
        finally:
            connection.close()


def meet(
    generator: Generator,
    addresses: list[list[Any]],
    http_ports: list[int],
    clients: int,
    app: str,
    seed: int,
    seconds: float,
    hurried: bool,
) -> Json:
    """Task: subscribe all clients."""
    shared = ChannelClients(generator, addresses, http_ports, clients, app, seed, hurried)
    generator.state["channels"] = shared
    if not shared.until(shared.clients, shared.all_live, seconds):
        live = sum(client.phase == LIVE for client in shared.clients)
        raise BenchError(f"{live} of {clients} clients are subscribed: {shared.faults.notes}")
    return shared.status()


def chat(generator: Generator, seconds: float, rate: float, resubscriptions: int = 0) -> Json:
    """Task: publish for so many seconds, or until subscribers have subscribed again so often."""
    shared: ChannelClients = generator.state["channels"]
    shared.chat(seconds, rate, resubscriptions)
    return shared.status()


def settle(generator: Generator, seconds: float) -> Json:
    """Task: wait at most so many seconds until everything is acknowledged and delivered."""
    shared: ChannelClients = generator.state["channels"]
    calm = shared.settle(seconds)
    return {**shared.status(), "calm": calm}


def audit(generator: Generator, seconds: float) -> Json:
    """Task: compare what subscribers have with what was acknowledged."""
    shared: ChannelClients = generator.state["channels"]
    shared.compare()
    chains = shared.chains
    return {
        **shared.status(),
        **vars(shared.counts),
        "severed": shared.severed,
        "resends": sum(each.retries for each in shared.publishers),
        "received": sum(chain.received for chain in [*chains, *shared.feeds]),
        "missed": sum(feed.missed for feed in shared.feeds),
        "resubscriptions": shared.resubscriptions,
        "reloads": sum(chain.reloads for chain in chains),
        "recoveries": sum(chain.recoveries for chain in chains),
        "ended": sum(chain.ended for chain in chains),
        "longest_silence_seconds": max(each.longest for each in shared.publishers),
    }
