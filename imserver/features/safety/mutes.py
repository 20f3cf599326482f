"""Mutes in whole apps: in the database, and known to every node."""

from __future__ import annotations

from typing import Final

from imserver.features.safety.rows import Muted, SafetyRows
from imserver.plugin.services import Core

_OVERLAP_SECONDS: Final = 60
"""A transaction may be committed so long after its time."""


class Mutes:
    """Tells the core who is muted. It owns what this node knows."""

    def __init__(self, rows: SafetyRows, core: Core) -> None:
        self._rows = rows
        self._users = core.identity.mutes
        self._node_messages = core.cluster.node_messages
        self._known = 0
        """Changes before this Unix second are known."""
        if self._node_messages is not None:
            self._node_messages.handle({Muted: self._learn})

    def mute(self, app: str, user: str, seconds: float, reason: str) -> int:
        """Mute a user on all nodes; 0 seconds: let them send again. Returns the end in Unix seconds.
        Switches. Raises StorageUnavailable."""
        row = self._rows.mute(app, user, int(seconds), reason)
        self._learn(row)
        if self._node_messages is not None:
            self._node_messages.broadcast(row)
        return row.until

    def _learn(self, mute: Muted) -> None:
        self._users.mute(mute.app, mute.user, mute.until, mute.reason)

    def load(self) -> None:
        """Learn what was changed since the last time. Switches. Raises StorageUnavailable."""
        if not self._rows.store.has_database:
            return
        rows, now = self._rows.mutes(self._known)
        for row in rows:
            self._learn(row)
        self._known = max(now - _OVERLAP_SECONDS, 0)
