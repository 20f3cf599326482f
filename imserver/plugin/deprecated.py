"""Forms of the face of 1.0 that go with 2.0. Each warns once. Plug-ins that use them run as before."""

import warnings
from collections.abc import Mapping
from typing import Any, Final

from imserver.core.core import Core

_ROOMS: Final[Mapping[str, tuple[str, ...]]] = {
    "channels": ("channels", "consent", "commands=channel_commands", "registrar"),
    "cluster": (
        *("registry", "queries", "values=temporary_values", "attempt", "rpc", "node_messages", "others"),
    ),
    "identity": (
        *("tenants", "keys", "sender_rates", "mutes", "page_tokens", "accounts", "relations", "reviews"),
        *("back_ends", "observer", "observers", "logins", "allowed", "authority"),
    ),
    "network": ("outgoing", "proxies", "dispatcher"),
    "node": ("buckets", "metrics"),
    "push": ("idempotency", "reach", "pushes", "pending", "publishing", "rerouting"),
    "sessions": (
        *("hub", "fanout", "ids=connection_ids", "table=connection_table", "sessions", "presence"),
        "connections",
    ),
    "storage": ("store", "erasures=user_erasures"),
}
"""Room of services that the core had → what it had there, and its name in the core today."""


def warn(text: str) -> None:
    """Warn once of a place in a plug-in."""
    warnings.warn(text, DeprecationWarning, stacklevel=3)


class Room:
    """A room of services of the core of 1.0: ``core.identity``, ``core.storage`` …"""

    def __init__(self, core: Any, name: str) -> None:
        self._core, self._name = core, name
        self._names = {old: new or old for old, _, new in (each.partition("=") for each in _ROOMS[name])}

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            return getattr(self._core, self._names[name])
        return getattr(getattr(self._core, self._name), name)


class RoomyCore:
    """The core as plug-ins of 1.0 get it: with rooms."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        if name not in _ROOMS:
            return getattr(self._core, name)
        warn(f"core.{name} is deprecated: its services are attributes of core (docs/reference/plugin.md)")
        return Room(self._core, name)
