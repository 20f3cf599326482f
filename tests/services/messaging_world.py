"""A node's inside with messaging over a log in memory, and clients that speak cmd to it."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from msgspec import json

from imserver.model import Signal
from imserver.services.dialects.action_messages import publish_stored
from imserver.services.messages.message_commands import MessageCommands, MessageSearch
from imserver.services.messages.messaging import Messaging
from imserver.services.messages.receipts import Receipts, Signals
from imserver.storage.log.contract import Entry
from imserver.transport.connection import Connection
from tests.hub.world import World
from tests.integration.raw import TEXT, frame
from tests.services.memory_log import MemoryLog, MemoryPositions, MemoryStore, Shelf
from tests.transport.rig import Client, until

APP = "102"
"""Its policy lets several sessions of a user be addressed."""


class Node(World):
    """One node. ``peers`` are told what is stored here, through ``wire`` if a test wants to lose some."""

    def __init__(self, shelf: Shelf | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.log = MemoryLog(shelf)
        self.peers: list[Node] = []
        self.wire: Callable[[int, int], bool] = lambda first, last: True
        """(first id, last id) → whether peers get it."""
        self.sent: list[Entry] = []
        """What clients have sent."""
        self.store: Any = MemoryStore(self.log)
        self.positions: Any = MemoryPositions()
        node_messages: Any = self
        self.messaging = Messaging(
            self.hub,
            self.fanout,
            self.metrics,
            self.store,
            self.positions,
            node_messages,
            (lambda _app, entry: self.sent.append(entry), partial(publish_stored, self.rooms)),
        )
        self.log.listen(self.messaging)
        self.signals = Signals(
            self.hub, self.fanout, self.messaging.subscriptions.rooms, self.store, node_messages
        )
        self.receipts = Receipts(self.signals, self.store)
        searches = MessageSearch(self.store)
        self.message_commands = MessageCommands(
            self.sessions, self.messaging, self.receipts, searches, self.store
        )
        self._make_dispatcher(messages=self.message_commands, receipts=self.receipts, signals=self.signals)

    # what :class:`imserver.services.nodes.messages.NodeMessages` does

    def broadcast_entries(self, app: str, first: int, last: int, entries: list[Entry]) -> None:
        if self.wire(first, last):
            for peer in self.peers:
                peer.messaging.follower.committed(app, first, last, entries)

    def broadcast_signal(self, app: str, users: Collection[str], group: int, signal: Signal) -> None:
        for peer in self.peers:
            peer.signals.deliver(app, users, group, signal)

    def on_ended(self, connection: Connection, code: int) -> None:
        self.messaging.catch_up.ended(connection)
        super().on_ended(connection, code)

    def speaker(self, user: str, cursor: int | None = None, device: str = "") -> "Talker":
        """A user who has logged in, with a cursor if one is given."""
        connection, client = self.connect()
        talker = Talker(connection, client)
        data = {"userID": user, "appID": int(APP), "device": device}
        talker.login = talker.ask("login", {**data, "cursor": cursor} if cursor is not None else data)
        return talker


class Talker:
    """A client of the cmd dialect."""

    def __init__(self, connection: Connection, client: Client) -> None:
        self.connection = connection
        self.client = client
        self.login: Any = None
        self._seq = 0

    def tell(self, cmd: str, data: Any) -> str:
        """Send a request; its seq."""
        self._seq += 1
        seq = f"r{self._seq}"
        self.client.send(frame(TEXT, json.encode({"seq": seq, "cmd": cmd, "data": data})))
        return seq

    def bodies(self) -> list[Any]:
        return [json.decode(payload) for payload in self.client.payloads()]

    def answer(self, seq: str) -> Any:
        """The response to a request: its code and data."""
        found = until(lambda: [body for body in self.bodies() if body["seq"] == seq])
        assert len(found) == 1, found
        return found[0]["response"]["code"], found[0]["response"]["data"]

    def ask(self, cmd: str, data: Any) -> Any:
        return self.answer(self.tell(cmd, data))

    def send(self, to: str | int, text: str, **more: Any) -> Any:
        where = {"to": to} if isinstance(to, str) else {"conversation": to}
        return self.ask("send", {**where, "text": text, **more})

    def stream(self) -> list[int]:
        """The ids of everything stored that it was told, in order: pushes, pages, acknowledgements."""
        ids = []
        for body in self.bodies():
            data = body["response"]["data"]
            if body["cmd"] == "message" or (body["cmd"] in ("send", "recall", "edit") and data is not None):
                ids.append(data["id"])
            elif body["cmd"] == "sync" and data is not None:
                ids += [each["id"] for each in data["messages"]]
        return ids

    def pushed(self) -> list[Any]:
        """What it was pushed."""
        return [body["response"]["data"] for body in self.bodies() if body["cmd"] == "message"]

    def texts(self) -> list[str]:
        return [each.get("text", each["kind"]) for each in self.pushed()]

    def settle(self) -> None:
        """Wait until all that the server owes has come."""
        self._seq += 1
        self.client.probe(f"p{self._seq}".encode())
