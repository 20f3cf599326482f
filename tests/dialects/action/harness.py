"""A node's inside with clients of the action dialect."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from imserver.dialects.action.acks import ActionAcks
from imserver.dialects.action.service import ActionService
from imserver.gateway.auth.observer import Observer
from imserver.gateway.auth.questions import Relations
from imserver.gateway.auth.rates import MutedUsers
from imserver.gateway.transport.connection import Connection
from imserver.messenger.messages.acks import AckTracker
from tests.gateway.hub.harness import Harness


class NotStoring:
    """In place of the stored messages of the dialect, where no app stores any."""

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
        messaging: Any = SimpleNamespace(catch_up=self.catch_up, ack_tracker=self.ack_tracker)
        self.acks = ActionAcks(core, messaging, lambda: self.now)

        def tenant_of(app: str) -> Any:
            return SimpleNamespace(room_members=(stored or {}).get(app, {}))

        core = self.core(
            tenants=SimpleNamespace(get=tenant_of),
            reviews=self.reviews,
            mutes=MutedUsers(),
            observer=self.observer,
            relations=Relations(),
        )
        self.action_service = ActionService(core, self.messages, self.acks)
        self._make_dispatcher(self.action_service.rows())

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
