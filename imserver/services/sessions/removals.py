"""Ending the sessions of users and keeping users out, many at once: the same on one node and on many."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Protocol

from msgspec import Struct

from imserver import errors
from imserver.hub.hub import App, Hub
from imserver.services.sessions.sessions import Sessions, say
from imserver.transport.connection import Connection


class Removal(Struct, frozen=True, array_like=True):
    """Close the sessions of these users on your node; answered with their numbers, in the order of users.

    ``device``: those of a device of this name only (None: all). ``ban_seconds``: and refuse their logins so
    long. ``online`` are those who are addressed somewhere: their older connections go too.
    """

    app: str
    users: Sequence[str]
    device: str | None = None
    ban_seconds: float = 0
    online: Sequence[str] = ()


class Pardon(Struct, frozen=True, array_like=True):
    """Ban these users no longer; answered with True."""

    app: str
    users: Sequence[str]


class Removed(Struct, frozen=True):
    """How many sessions of each user were closed, and which nodes did not answer in time.

    ``lasting``: whoever starts later knows of the bans, too.
    """

    closed: list[int]
    missing: tuple[str, ...] = ()
    lasting: bool = True


class Removals(Protocol):
    """What the API asks. Every call may switch to other greenlets."""

    def remove(
        self, app: str, users: Sequence[str], device: str | None = None, ban_seconds: float = 0
    ) -> Removed:
        """Close the sessions of users everywhere, and refuse their logins for ``ban_seconds``."""

    def pardon(self, app: str, users: Sequence[str]) -> tuple[str, ...] | None:
        """Ban users no longer: the nodes that did not answer in time; None if the registry is away."""


class LocalRemovals:
    """Of a node that is alone, and this node's share of the cluster's. Stateless."""

    def __init__(self, hub: Hub, sessions: Sessions) -> None:
        self._hub = hub
        self._sessions = sessions

    def remove(
        self, app: str, users: Sequence[str], device: str | None = None, ban_seconds: float = 0
    ) -> Removed:
        """See :class:`Removals`."""
        return Removed(self.remove_here(Removal(app, users, device, ban_seconds)))

    def pardon(self, app: str, users: Sequence[str]) -> tuple[str, ...] | None:
        """See :class:`Removals`."""
        self.pardon_here(Pardon(app, users))
        return ()

    def remove_here(self, asked: Removal) -> list[int]:
        """Close what is on this node: the number of addressed sessions of each user. Never switches."""
        for user in asked.users:
            self._sessions.kicks.note(asked.app, user, asked.device)
            if asked.ban_seconds > 0:
                self._sessions.ban(asked.app, user, asked.ban_seconds)
        app = self._hub.apps.get(asked.app)
        if app is None:
            return [0] * len(asked.users)
        victims = [
            [c for c in app.sessions_of(user) if asked.device in (None, c.device)] for user in asked.users
        ]
        code = errors.CLOSE_BANNED if asked.ban_seconds > 0 else errors.CLOSE_KICKED
        closed = [len(each) for each in victims]
        for connection in [*self._older(app, asked, closed), *chain.from_iterable(victims)]:
            say(connection, code)
        return closed

    def _older(self, app: App, asked: Removal, closed: Sequence[int]) -> Collection[Connection]:
        """Connections of these users that are in service but not addressed, as there are under ``newest``."""
        if app.policy != "newest":
            return ()
        gone = {user for user, number in zip(asked.users, closed, strict=True) if number}
        gone.update(asked.users if asked.ban_seconds > 0 else asked.online)
        gone.intersection_update(asked.users)
        if not gone:
            return ()
        return [
            connection
            for connection in self._hub.connections()
            if connection.user in gone
            and connection.app == app.name
            and asked.device in (None, connection.device)
            and connection not in app.sessions_of(connection.user)
        ]

    def pardon_here(self, asked: Pardon) -> bool:
        """Lift the bans that this node knows of. Never switches."""
        for user in asked.users:
            self._sessions.ban(asked.app, user, 0)
        return True
