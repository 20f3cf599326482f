"""Apps that speak Pusher's protocol, without a node."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

from imserver.dialects.pusher.apps import PusherApp, PusherApps, PusherHooks


class Hooks(PusherHooks):
    """In place of the webhooks: passes on the name and facts of each event."""

    def __init__(
        self,
        on_event: Callable[[str, dict[str, Any]], object] = lambda _name, _facts: None,
    ) -> None:
        super().__init__(
            cast(Any, SimpleNamespace(outgoing=None, tally=None, forms=[]))
        )
        self._on_event = on_event

    def add(self, app: str, name: str, channel: str, **facts: Any) -> None:
        """An event of a channel."""
        self._on_event(name, facts)


def apps_of(*apps: PusherApp) -> PusherApps:
    """These apps."""
    tenants: Any = SimpleNamespace(report_to=Mock(), all=list)
    found = PusherApps(tenants, Hooks(), Mock())
    for app in apps:
        found.set(app.app, app)
    return found
