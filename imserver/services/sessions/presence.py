"""Presence: who is online, asked the same way on one node and on many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from imserver.services.sessions.attendance import Attendance, Counts, Sought, Whereabouts, count_up


class Page(Struct, frozen=True):
    """Some users of an app. ``total`` counts all of them; ``missing`` names nodes that did not answer.

    ``more`` says that users follow those of this page in the order of names.
    """

    total: int
    users: list[str]
    more: bool = False
    missing: tuple[str, ...] = ()


class Presence(Protocol):
    """What the API asks. Every call may switch to other greenlets."""

    def is_online(self, app: str, user: str) -> bool:
        """Whether a session of ``user`` lives anywhere."""

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        """The same for many users of one app."""

    def page(self, app: str, after: str | None, limit: int) -> Page:
        """Users of an app: all of them in no order if they are at most ``limit`` and ``after`` is None.

        Else up to ``limit`` users in the order of names, beginning behind the name ``after``.
        """

    def sessions(self, app: str, users: Sequence[str]) -> Whereabouts:
        """The addressed sessions of each user, wherever they are."""

    def counts(self, apps: Sequence[str]) -> Counts:
        """How many users, sessions and rooms there are of each app."""


class Known(Protocol):
    """Who is online on this node; the hub answers."""

    def user_names(self, app: str) -> list[str]:
        """The users of an app; none of an unknown one."""

    def is_online(self, app: str, user: str) -> bool:
        """Whether a session of the user lives."""


def cut(names: list[str], after: str | None, limit: int, missing: tuple[str, ...] = ()) -> Page:
    """The page of ``names`` that :meth:`Presence.page` describes."""
    if after is None and len(names) <= limit:
        return Page(len(names), names, False, missing)
    rest = sorted(name for name in names if after is None or name > after)
    return Page(len(names), rest[:limit], len(rest) > limit, missing)


class LocalPresence:
    """Presence of a node that is alone."""

    def __init__(self, hub: Known, attendance: Attendance) -> None:
        self._hub = hub
        self._attendance = attendance
        self.is_online = hub.is_online
        """See :meth:`Presence.is_online`."""

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        """See :class:`Presence`."""
        return [self.is_online(app, user) for user in users]

    def page(self, app: str, after: str | None, limit: int) -> Page:
        """See :class:`Presence`."""
        return cut(self._hub.user_names(app), after, limit)

    def sessions(self, app: str, users: Sequence[str]) -> Whereabouts:
        """See :class:`Presence`."""
        return Whereabouts(self._attendance.sessions(Sought(app, users)))

    def counts(self, apps: Sequence[str]) -> Counts:
        """See :class:`Presence`."""
        tallies = self._attendance.tallies(apps)
        return Counts({app: count_up([tally]) for app, tally in zip(apps, tallies, strict=True)})
