"""Channels with history when another Redis takes over, which may lack the last publications."""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.cluster.redis_server import RedisServer
from tests.integration.clusters import nodes_of
from tests.integration.raw import Ended, Raw, text
from tests.integration.v1 import call
from tests.ports import free_ports
from tests.support import Server, eventually

from .conftest import Report
from .proxy import Proxy
from .test_nodes import LONG

pytestmark = pytest.mark.linux

APP = "102"
CHANNELS = [f"news{number}" for number in range(8)]
OPTIONS = {"subscribe": "anybody", "history_size": 1000, "history_seconds": 300}
LAG_SECONDS = 1.0
PATIENCE_SECONDS = 60.0

Position = tuple[str, int]
"""Epoch and offset."""


class Publisher(threading.Thread):
    """Publishes to one channel after the other at a node, and notes what is acknowledged."""

    def __init__(self, server: Server, name: str) -> None:
        super().__init__()
        self.accepted: list[tuple[str, Position, str]] = []
        self.is_over = False
        self._server = server
        self._name = name

    def run(self) -> None:
        number = 0
        while not self.is_over:
            number += 1
            channel, data = CHANNELS[number % len(CHANNELS)], f"{self._name}-{number}"
            answer = call(
                self._server.http, "channels/publish", {"app": APP, "channel": channel, "text": data}
            )
            if answer.status == 200:
                self.accepted.append((channel, (answer.json["epoch"], answer.json["offset"]), data))
            else:
                assert answer.json["temporary"], answer
            time.sleep(0.005)


class Subscriber(threading.Thread):
    """A client of Centrifugo with one subscription, which it begins again when the server ends it."""

    def __init__(self, server: Server, channel: str) -> None:
        super().__init__()
        self.received: dict[Position, str] = {}
        self.begins: dict[str, int] = {}
        """Epoch → the offset after which everything arrives."""
        self.reloads = 0
        self.is_over = False
        self.ready = threading.Event()
        self.channel = channel
        self._raw = Raw(server.ws).upgrade(f"/connection/{APP}/websocket")
        self._epoch, self._offset = "", 0
        self._raw.send(text('{"id":1,"connect":{}}\n'))
        self._subscribe()

    def _subscribe(self) -> None:
        request: dict[str, Any] = {"channel": self.channel, "recoverable": True, "positioned": True}
        if self._epoch:
            request |= {"recover": True, "epoch": self._epoch, "offset": self._offset}
        self._raw.send(text(json.dumps({"id": 2, "subscribe": request})))

    def run(self) -> None:
        with self._raw:
            while not self.is_over:
                try:
                    message = self._raw.message(0.5).json
                except TimeoutError:
                    continue
                except Ended:
                    return
                self._handle(message)

    def _handle(self, message: dict[str, Any]) -> None:
        if not message:
            self._raw.send(text("{}"))
        elif "subscribe" in message:
            self._begin(message["subscribe"])
        elif message.get("id") == 2:
            time.sleep(0.1)  # a temporary error
            self._subscribe()
        elif "unsubscribe" in message.get("push", ()):
            self._subscribe()
        elif "pub" in message.get("push", ()):
            self._receive(message["push"]["pub"])

    def _begin(self, found: dict[str, Any]) -> None:
        if self._epoch and found.get("recovered"):
            for each in found.get("publications", ()):
                self._receive(each)
        else:
            self.reloads += bool(self._epoch)
            self._epoch, self._offset = found["epoch"], found.get("offset", 0)
            self.begins[self._epoch] = self._offset
        self.ready.set()

    def _receive(self, publication: dict[str, Any]) -> None:
        self._offset = publication["offset"]
        self.received[self._epoch, self._offset] = publication["data"]


class Cluster:
    """Two nodes whose Redis is behind a proxy, with its replica; publishers and subscribers on both."""

    def __init__(self, stack: ExitStack, folder: Path, *options: str) -> None:
        for name in ("master", "replica"):
            (folder / name).mkdir()
        self.master = RedisServer(folder / "master", "--repl-diskless-sync-delay", "0", *options)
        stack.callback(self.master.kill)
        self.route = stack.enter_context(Proxy("127.0.0.1", "127.0.0.1", (free_ports(),)))
        self.route.lead_to(self.master.port)
        self._folder, self._stack = folder, stack
        apps = {APP: {"open": True, "channels": {"*": OPTIONS}}}
        nodes = stack.enter_context(
            nodes_of(folder, 0, self.master, apps=apps, cluster={**LONG, "redis_seconds": 2})
        )
        for _ in range(2):
            nodes.start({"redis": {"addr": f"127.0.0.1:{self.route.ports[0]}"}})
        nodes.wait_until_met()
        self.subscribers = [Subscriber(server, each) for server in nodes.servers for each in CHANNELS]
        self.publishers = [Publisher(server, f"p{n}") for n, server in enumerate(nodes.servers * 2)]

    def replicate(self) -> RedisServer:
        """Start a replica that is behind by a second."""
        lag = self._stack.enter_context(Proxy("127.0.0.1", "127.0.0.1", (free_ports(),)))
        lag.lead_to(self.master.port)
        replica = RedisServer(self._folder / "replica")
        self._stack.callback(replica.kill)
        with replica.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", lag.ports[0])
            eventually(
                lambda: client.info("replication").get("master_link_status") == "up",
                PATIENCE_SECONDS,
                "the replica has the data",
            )
        lag.delay_seconds = LAG_SECONDS
        return replica

    @contextmanager
    def running(self) -> Iterator[None]:
        """Publications and subscriptions, before a fault and after it."""
        for subscriber in self.subscribers:
            subscriber.start()
        for subscriber in self.subscribers:
            assert subscriber.ready.wait(PATIENCE_SECONDS)
        for publisher in self.publishers:
            publisher.start()
        try:
            self._go_on()
            time.sleep(2 * LAG_SECONDS)  # so that the replica has some, and lacks some
            yield
            self._go_on()
            eventually(
                lambda: all(len(each.begins) == 2 for each in self.subscribers),
                PATIENCE_SECONDS,
                "every subscriber has been told",
            )
            self._go_on()
        finally:
            for publisher in self.publishers:
                publisher.is_over = True
            for publisher in self.publishers:
                publisher.join()
        eventually(lambda: not self.missing(), PATIENCE_SECONDS, "all publications have arrived")
        for subscriber in self.subscribers:
            subscriber.is_over = True
        for subscriber in self.subscribers:
            subscriber.join()

    def _go_on(self) -> None:
        for publisher in self.publishers:
            before = len(publisher.accepted)
            eventually(
                lambda each=publisher, before=before: len(each.accepted) > before + 40,
                PATIENCE_SECONDS,
                "publications are accepted",
            )

    def accepted(self) -> list[tuple[str, Position, str]]:
        """What was acknowledged by both nodes."""
        return [each for publisher in self.publishers for each in [*publisher.accepted]]

    def missing(self) -> list[tuple[str, Position]]:
        """What subscribers should have received in their present epoch, and have not."""
        by_channel = defaultdict(list)
        for channel, position, _ in self.accepted():
            by_channel[channel].append(position)
        return [
            (each.channel, position)
            for each in self.subscribers
            for position in by_channel[each.channel]
            if position not in each.received and self._is_due(each, position)
        ]

    def _is_due(self, subscriber: Subscriber, position: Position) -> bool:
        *_, present = subscriber.begins
        return position[0] == present and position[1] > subscriber.begins[present]


Fault = Callable[[Cluster], Callable[[], None]]
"""Prepares a cluster, and returns what breaks it."""


def promotion(cluster: Cluster) -> Callable[[], None]:
    """The master is killed, and its replica takes over, behind by a second."""
    replica = cluster.replicate()

    def promote() -> None:
        cluster.master.kill()
        with replica.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        cluster.route.lead_to(replica.port)

    return promote


def restart(cluster: Cluster) -> Callable[[], None]:
    """Redis is killed, and is back at once."""

    def back() -> None:
        cluster.master.kill()
        cluster.master.start()

    return back


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        pytest.param(promotion, (), id="replica", marks=pytest.mark.ci),
        pytest.param(restart, ("--appendonly", "yes"), id="restart with its data"),
        pytest.param(restart, (), id="restart empty"),
    ],
)
def test_no_position_is_given_twice_and_every_subscriber_reloads_once(
    tmp_path: Path, report: Report, fault: Fault, options: tuple[str, ...]
) -> None:
    with ExitStack() as stack:
        cluster = Cluster(stack, tmp_path, *options)
        breaks = fault(cluster)
        with cluster.running():
            breaks()
        accepted = cluster.accepted()
        positions = Counter((channel, position) for channel, position, _ in accepted)
        epochs = {(channel, epoch) for channel, (epoch, _) in positions}
        reloads = [each.reloads for each in cluster.subscribers]
        twice = [position for position, count in positions.items() if count > 1]
        report(
            f"{len(accepted)} acknowledged, {len(twice)} positions twice, {len(cluster.missing())} missing, "
            f"{len(epochs)} epochs, {sum(reloads)} reloads"
        )
        assert not twice
        assert len(epochs) == 2 * len(CHANNELS)
        assert reloads == [1] * len(cluster.subscribers)
        data = {(channel, position): text for channel, position, text in accepted}
        for subscriber in cluster.subscribers:
            for position, received in subscriber.received.items():
                assert data.get((subscriber.channel, position), received) == received
