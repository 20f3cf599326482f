"""A node's inside with clients of the action dialect."""

import json
from collections.abc import Mapping, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from imserver.dialects.action.acks import ActionAcks
from imserver.dialects.action.service import ActionService
from imserver.dialects.action.wire import ActionDialect
from imserver.gateway.auth.observer import Observer
from imserver.gateway.auth.questions import Relations
from imserver.gateway.auth.rates import MutedUsers
from imserver.gateway.transport.connection import Connection
from imserver.messenger.delivery.acks import AckTracker
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import until
from tests.integration.raw import PING, PONG, TEXT, frame

ACTION = ActionDialect()
APP = "action:1"


class NotStoring:
    """In place of the stored messages of the dialect, where no app stores
    any."""

    def finish(self, connection: Connection) -> None:
        """Nothing is being stored."""


class Observed(Observer):
    """Hears of messages."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, Mapping[str, str]]] = []

    def message(self, app: str, sender: str, facts: Mapping[str, str]) -> None:
        self.messages.append((app, sender, facts))


class ActionHarness(Harness):
    """``stored``: the members of rooms by app."""

    def __init__(
        self,
        *,
        stored: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        ack_bytes: int = 1_000_000,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.ack_bytes = ack_bytes
        self.observer = Observed()
        self.make_messaging()
        core = self.core(reach=self.reach, pending=self.pending, rerouting=None)
        messaging: Any = SimpleNamespace(
            catch_up=self.catch_up, ack_tracker=self.ack_tracker
        )
        self.acks = ActionAcks(core, messaging, lambda: self.now)

        def tenant_of(app: str) -> Any:
            return SimpleNamespace(room_members=(stored or {}).get(app, {}))

        parts = {
            "reviews": self.reviews,
            "mutes": MutedUsers(),
            "relations": Relations(),
        }
        core = self.core(
            tenants=SimpleNamespace(get=tenant_of), observer=self.observer, **parts
        )
        self.action_service = ActionService(core, self.messages, self.acks)
        self._make_dispatcher(self.action_service.commands())

    def make_messaging(self) -> None:
        """Make what the dialect needs of stored messages."""
        self.catch_up: Any = Mock()
        self.ack_tracker = AckTracker(self.metrics, self.ack_bytes)
        self.messages: Any = NotStoring()

    def forgotten(self, connection: Connection) -> None:
        self.acks.clear(connection)
        super().forgotten(connection)

    def on_ended(self, connection: Connection, code: int) -> None:
        self.acks.ended(connection, code)
        super().on_ended(connection, code)


class One:
    """A client of the action dialect that answers pings when a test says so."""

    def __init__(
        self, node: Any, user: str, to: str = "0", room: str = "0", **more: Any
    ) -> None:
        self.node = node
        self.connection, self.client = node.connect(dialect=ACTION)
        self._seqs = count()
        assert self.login(user, to, room, **more) == 200

    def login(
        self, user: str, to: str = "0", room: str = "0", app: int = 1, **more: Any
    ) -> int:
        return self.ask(
            "login", userId=user, appId=app, toUid=to, groupsId=room, **more
        )

    def answer(self, action: str, **data: Any) -> tuple[int, Any]:
        """Code and data of the answer to a request."""
        seq = f"s{next(self._seqs)}"
        self.client.send(
            frame(TEXT, json.dumps({"seq": seq, "action": action, "data": data}))
        )
        found = until(
            lambda: [body for body in self.bodies() if body.get("seq") == seq]
        )
        return found[0]["response"]["code"], found[0]["response"]["data"]

    def ask(self, action: str, **data: Any) -> int:
        return int(self.answer(action, **data)[0])

    def say(self, text: str) -> int:
        return self.ask("sendmsg", msgType="text", message=text)

    def bodies(self) -> list[Any]:
        return [json.loads(payload) for payload in self.client.payloads()]

    def received(self) -> list[str]:
        return [body["data"]["content"] for body in self.bodies() if "code" in body]

    def receives(self, *texts: str) -> None:
        until(lambda: self.received() == list(texts))

    def ping(self) -> bytes:
        """Have the node look; the ping that comes of it."""
        before = len(self.pings(0))
        self.node.catch_up.check_acks()
        return self.pings(before + 1)[-1]

    def pings(self, number: int) -> list[bytes]:
        """Wait for so many; all so far."""

        def found() -> list[bytes]:
            return [each.payload for each in self.client.read() if each.opcode == PING]

        until(lambda: len(found()) >= number)
        return found()

    def pong(self, payload: bytes, *, together: bytes = b"") -> None:
        """Answer a ping, and wait until the server has read it."""
        self.client.send(together + frame(PONG, payload))
        self.ask("heartbeat")
