"""Several nodes, clients that come and go, batches that get lost, a log that
goes away: what each client has.

A client's cursor is the greatest id that it was told, by whatever way. Whatever
happens it must never be told something older for the first time, and in the end
have all that its user may read, and nothing else.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag

from imserver.messenger.delivery import deliverer
from imserver.messenger.delivery.acks import ACK_SECONDS
from imserver.messenger.log.message_log import MessageLog
from tests.gateway.transport.harness import turn, until
from tests.messenger.log_file import Gates, LogFile
from tests.messenger.messaging_harness import APP, MessageClient, Node

USERS = ["u0", "u1", "u2", "u3"]


class Client:
    """A client as ours are: it logs in with its cursor, and asks for what it
    missed if it is told to."""

    def __init__(
        self, nodes: list[Node], user: str, device: str, chance: random.Random
    ) -> None:
        self.user = user
        self.had: set[int] = set()
        self._nodes = nodes
        self._device = device
        self._chance = chance
        self._cursor = 0
        self._taken = 0
        self._behind = False
        self.message_client: MessageClient | None = None

    def come(self) -> None:
        connection, client = self._chance.choice(self._nodes).connect()
        self.message_client = MessageClient(connection, client)
        self._taken = 0
        self._behind = True
        acks = self._chance.random() < 0.6
        data = {
            "userID": self.user,
            "appID": int(APP),
            "device": self._device,
            "cursor": self._cursor,
        }
        self.message_client.send_payload(
            "login", {**data, "acks": True} if acks else data
        )

    def leave(self) -> None:
        self.take()
        if self.message_client is not None:
            self.message_client.client.hang_up()
        self.message_client = None

    def ask(self) -> None:
        assert self.message_client is not None
        self._behind = True
        self.message_client.send_payload(
            "sync", {"cursor": self._cursor, "limit": self._chance.choice([1, 3, 7])}
        )

    def ask_unless_asking(self) -> None:
        if not self._behind:
            self.ask()

    def send(self, target: dict[str, object], number: int) -> None:
        assert self.message_client is not None
        name = f"{self.user}{number}" if self._chance.random() < 0.8 else ""
        self.message_client.send_payload(
            "send", {**target, "text": "x", "clientMsgID": name}
        )

    def acknowledge(self) -> None:
        """What it has, some of it, or more than it can have."""
        self.message_client.send_payload(
            "ack",
            {
                "id": max(
                    1, self._chance.choice([self._cursor, self._cursor - 3, 10**6])
                )
            },
        )

    def take(self) -> None:
        """Read what has come."""
        if self.message_client is None:
            return
        bodies = self.message_client.bodies()
        for body in bodies[self._taken :]:
            self._read(body["cmd"], body["response"]["code"], body["response"]["data"])
        self._taken = len(bodies)
        if not self.message_client.connection.is_open:
            self.message_client = None

    def _read(self, cmd: str, code: int, data: Any) -> None:
        assert code != 1004
        if cmd == "login":
            self._behind = not data["recovered"]
            if self._behind:
                self.ask()
        elif cmd == "sync":
            for each in data["messages"] if data is not None else ():
                self._received(each["id"])
            self._behind = data is None or data["hasMore"]
            if self._behind:
                self.ask()
        elif cmd == "message" or (cmd == "send" and code == 200):
            self._received(data["id"])

    def _received(self, id: int) -> None:
        assert id in self.had or id > self._cursor, (
            f"{id} for the first time behind {self._cursor}"
        )
        self.had.add(id)
        self._cursor = max(self._cursor, id)


class Storm:
    """What happens, by chance."""

    def __init__(self, nodes: list[Node], chance: random.Random) -> None:
        self.nodes = nodes
        self.chance = chance
        self.log = nodes[0].file.open(Gates()).part(MessageLog)
        for node in nodes:
            node.others = [peer for peer in nodes if peer is not node]
            loss = chance.choice([0, 0.1, 0.5, 1])
            node.wire = lambda _first, _last, loss=loss: chance.random() >= loss  # type: ignore[misc]
        self.groups = [nodes[0].group(*USERS[:3]), nodes[-1].group("u1", "u3")]
        self.clients = [
            Client(nodes, user, device, chance)
            for user in USERS
            for device in ("", "two")
        ]
        self._number = 0

    def step(self) -> None:
        deeds: dict[Callable[[], None], int] = {
            self._send: 45,
            self._come_or_leave: 14,
            self._join_or_leave: 6,
            self._ask: 6,
            self._acknowledge: 6,
            self._pass_time: 6,
            self._hold_answers: 4,
            self._go_away: 3,
            self._lose_answer: 3,
        }
        self.chance.choices(list(deeds), list(deeds.values()))[0]()
        for _ in range(self.chance.choice([0, 0, 1, 5])):
            turn()
        if self.chance.random() < 0.1:
            # time for nodes to find out what they have missed
            gevent.sleep(deliverer.GAP_SECONDS)
        for client in self.clients:
            client.take()

    def end(self) -> None:
        """Everything is well again."""
        for node in self.nodes:
            node.gates.away = False
            node.gates.losing = None
            if node.gates.answering is not None:
                self._hold_answers(node)
            if node.gates.unsure is not None:
                node.find_answer()
            node.log.writer.seconds = node.store.seconds

    def _there(self) -> Client | None:
        return self.chance.choice(
            [each for each in self.clients if each.message_client is not None] or [None]
        )

    def _send(self) -> None:
        if client := self._there():
            self._number += 1
            others = [user for user in USERS if user != client.user]
            targets = [
                {"conversation": self.chance.choice(self.groups)},
                {"to": self.chance.choice(others)},
            ]
            client.send(self.chance.choice(targets), self._number)

    def _come_or_leave(self) -> None:
        client = self.chance.choice(self.clients)
        (client.come if client.message_client is None else client.leave)()

    def _join_or_leave(self) -> None:
        group, user = map(self.chance.choice, (self.groups, USERS))
        if self.log.conversations.member(APP, group, user) is None:
            self.log.groups.join(APP, group, [user])
        else:
            self.log.groups.leave(APP, group, [user])

    def _ask(self) -> None:
        if client := self._there():
            client.ask_unless_asking()

    def _acknowledge(self) -> None:
        if client := self._there():
            client.acknowledge()

    def _pass_time(self) -> None:
        for node in self.nodes:
            for _ in range(self.chance.choice([1, ACK_SECONDS + 1])):
                node.messaging.catch_up.check_acks()

    def _hold_answers(self, node: Node | None = None) -> None:
        gates = (node or self.chance.choice(self.nodes)).gates
        signal = gates.answering
        gates.answering = None if gates.answering else Flag()
        if signal is not None:
            signal.set()

    def _go_away(self) -> None:
        gates = self.chance.choice(self.nodes).gates
        gates.away = not gates.away

    def _lose_answer(self) -> None:
        node = self.chance.choice(self.nodes)
        if node.gates.unsure is not None:
            node.find_answer()
        else:
            node.lose_answer(self.chance.random() < 0.6)

    def readable(self, user: str) -> set[int]:
        return {entry.id for entry in self.log.entries.sync(APP, user, 0, 10_000)[0]}

    def all_have_all(self) -> bool:
        for client in self.clients:
            if client.message_client is None:
                client.come()
            client.take()
        return all(client.had >= self.readable(client.user) for client in self.clients)


@pytest.fixture(params=[1, 2, 3])
def nodes(request: pytest.FixtureRequest) -> Iterator[list[Node]]:
    """So many, with one log."""
    file = LogFile()
    found = [Node(file) for _ in range(request.param)]
    for node in found:
        node.__enter__()
    looking = [gevent.spawn(node.messaging.follower.run) for node in found]
    yield found
    gevent.killall(looking)
    for node in found:
        node.__exit__(None, None, None)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(6))
def test_all_clients_receive_everything_in_order_in_a_random_history(
    nodes: list[Node], seed: int
) -> None:
    storm = Storm(nodes, random.Random(f"{len(nodes)}.{seed}"))
    for _ in range(150):
        storm.step()
    storm.end()
    until(storm.all_have_all)
    for client in storm.clients:
        assert client.had == storm.readable(client.user)
    until(lambda: not any(APP in node.messaging.deliverer.results for node in nodes))
