"""Who uses the consumer, on a real database: feeds and absence.

For each, a receiver is a name, and a text is one thing to be delivered to it.
"""

import gc
import warnings
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from time import time
from typing import Any, ClassVar

import gevent
from gevent.event import Event as Flag

from imserver.backends.webhooks.absences import Absences
from imserver.backends.webhooks.consumer import Consumer, DeliveryLease
from imserver.backends.webhooks.event_rows import EventStore
from imserver.backends.webhooks.feeds import Feeds
from imserver.backends.webhooks.requests import Receiver, WebhookCounts
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Commit, Draft
from imserver.messenger.log.message_log import MessageLog
from tests.gateway.core.back_end import Answer, BackEnd, Post

RECEIVERS = ("one", "two")


class Receivers:
    """The receivers of all nodes, and what outlives a node: the folder and the
    database.

    ``hung``: receivers that do not answer.
    """

    def __init__(self, folder: str, url: str = "") -> None:
        self.folder = folder
        self.url = url
        self.hung: dict[str, Flag] = {}
        self.tried: defaultdict[str, list[str]] = defaultdict(list)
        """Receiver → the texts of all attempts."""
        self.taken: defaultdict[str, list[str]] = defaultdict(list)
        """Receiver → the texts that it took; those that came again, too."""
        self.by: list[str] = []
        """The names of the nodes that delivered."""

    def receive(self, node: str, receiver: str, texts: Sequence[str]) -> None:
        """A receiver takes these texts. Switches while it hangs."""
        self.tried[receiver] += texts
        if receiver in self.hung:
            self.hung[receiver].wait()
        self.taken[receiver] += texts
        self.by.append(node)

    def hang(self, receiver: str) -> None:
        self.hung[receiver] = Flag()

    def end_hanging(self, receiver: str) -> None:
        self.hung.pop(receiver).set()

    def order(self, receiver: str) -> list[str]:
        """What a receiver took, each text once."""
        return list(dict.fromkeys(self.taken[receiver]))


def end(consumers: Collection[Consumer[Any]]) -> None:
    """End consumers at once, as the end of a process does."""
    running = [each._greenlet for each in consumers if each._greenlet is not None]
    for each in consumers:
        each.stop()
    gevent.joinall(running)


class Events(EventStore):
    """The events. ``instead``: by the name of a function, what the next call of
    it does."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.instead: dict[str, Callable[..., Any]] = {}

    def claim(self, *given: Any) -> Any:
        return self.instead.get("claim", super().claim)(*given)

    def advance(self, *given: Any, **more: Any) -> Any:
        return self.instead.pop("advance", super().advance)(*given, **more)

    def read(self, *given: Any) -> Any:
        return self.instead.pop("read", super().read)(*given)

    def came_online(self, *given: Any) -> Any:
        return self.instead.pop("came_online", super().came_online)(*given)


class FailingStore(Store):
    """A database. ``away``: so many of the next questions find none."""

    away = 0

    def _fail(self) -> None:
        self.away -= 1
        if self.away > 0:
            raise StorageUnavailable("away")

    def read_or(self, *given: Any, **more: Any) -> Any:
        self._fail()
        return super().read_or(*given, **more)

    def write_or(self, *given: Any, **more: Any) -> Any:
        self._fail()
        return super().write_or(*given, **more)

    def rows(self, *given: Any, **more: Any) -> Any:
        self._fail()
        return super().rows(*given, **more)


class Node(ABC):
    """A node with one user of the consumer."""

    lease_rows: ClassVar[str]
    """The names of its leases in the table, as SQL."""

    def __init__(self, receivers: Receivers, name: str) -> None:
        self.receivers = receivers
        self.name = name
        self.store = FailingStore(
            StorageSettings(receivers.url, seconds=60), receivers.folder, False
        )
        self.store.part(MessageLog).writer.report_to(self)
        self.store.start()
        self.events = Events(self.store)
        self.tally = WebhookCounts()
        self._run: gevent.Greenlet[..., None] | None = None
        self.start()

    @abstractmethod
    def start(self) -> None:
        """Build the parts, and run them."""

    @abstractmethod
    def send(self, receiver: str, *texts: str) -> None:
        """Store what is to be delivered."""

    @abstractmethod
    def consumers(self) -> list[Consumer[Any]]:
        """The consumers of all receivers, if this node has the lease."""

    @abstractmethod
    def leases(self) -> list[DeliveryLease]:
        """The leases of these receivers."""

    @abstractmethod
    def finish(self) -> None:
        """End in order."""

    def committed(self, commit: Commit) -> None:
        """What the log tells a node."""
        raise NotImplementedError

    def batch_stored(self, _app: str, _drafts: int, _seconds: float) -> float:
        return 0.0

    def append(self, app: str, to_user: str, texts: Sequence[str]) -> None:
        drafts = [
            Draft(sender="ann", to_user=to_user, body=text.encode(), time_ms=1000)
            for text in texts
        ]
        self.store.part(MessageLog).writer.append(app, drafts)

    def kill(self) -> None:
        """End as a killed process ends: nothing is stored or given back."""
        if self._run is not None:
            self._run.kill()
            self._run = None
            end(self.consumers())
            self.store.close()
            # Connections that were being made are not closed, as in a killed
            # process.
            with warnings.catch_warnings(action="ignore", category=ResourceWarning):
                gc.collect()

    def stop(self) -> None:
        self.finish()
        self.kill()

    def expire_leases(self, owner: str = "") -> None:
        """Let all leases end in the database, or be those of another node."""
        until = "1 + 0 * lease_until" if not owner else str(int(time()) + 9)
        change = f"UPDATE event_feed SET owner = %s, lease_until = {until} WHERE app {self.lease_rows}"
        self.store.execute(change, (owner,))


class FeedNode(Node):
    """Two apps, each with a webhook."""

    lease_rows = "<> ''"
    kinds: ClassVar = frozenset({"message", "account"})

    def start(self) -> None:
        back_end: Any = BackEnd(self.reply)
        self.feeds = Feeds(
            self.store, self.events, back_end, lambda: self.name, self.tally
        )
        self.feeds.attach(self.store.part(MessageLog))
        for app in RECEIVERS:
            self.feeds.set(
                app, Receiver(app, f"http://{app}/", b"secret", self.kinds, 3600.0)
            )
        self._run = gevent.spawn(self.feeds.run)

    def reply(self, post: Post) -> Answer:
        events = post.json["events"]
        receiver = post.url.removeprefix("http://").strip("/")
        texts = [event["text"] for event in events]
        self.receivers.receive(events[0]["node"], receiver, texts)
        return 200, b""

    def send(self, receiver: str, *texts: str) -> None:
        """Of several texts, the last one is an event, and the others are
        entries of the log."""
        entries, last = (texts[:-1], texts[-1:]) if len(texts) > 1 else (texts, ())
        self.append(receiver, "zoe", entries)
        self.feeds.add(receiver, "account", [("ann", {"text": text}) for text in last])

    def committed(self, commit: Commit) -> None:
        self.feeds.committed(commit.app, commit.first, commit.last, commit.entries)

    def consumers(self) -> list[Consumer[Any]]:
        return [
            feed.sender for feed in self.feeds.feeds.values() if feed.sender is not None
        ]

    def leases(self) -> list[DeliveryLease]:
        return [feed.lease for feed in self.feeds.feeds.values()]

    def finish(self) -> None:
        self.feeds.stop(1.0)


class AbsenceNode(FeedNode):
    """Two apps that want to know who is absent. What is delivered are users, to
    the question who is online: all are."""

    kinds = frozenset({"absent"})

    def start(self) -> None:
        super().start()
        absences = Absences(self.feeds, self, lambda: True, self.store, lambda *_: [])  # type: ignore[arg-type]
        self.feeds.attach(self.store.part(MessageLog), absences.make_consumer)

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        self.receivers.receive(self.name, app, users)
        return [True for _ in users]

    def send(self, receiver: str, *texts: str) -> None:
        for text in texts:
            self.append(receiver, text, ["hi"])

    def consumers(self) -> list[Consumer[Any]]:
        return [
            feed.notifier
            for feed in self.feeds.feeds.values()
            if feed.notifier is not None
        ]
