"""The users who send nothing in their whole app for a time, as this node knows them."""

from __future__ import annotations

from datetime import UTC, datetime
from time import time

from msgspec import Struct

from imserver.auth.rates import MAX_PAYERS


class Mute(Struct, frozen=True):
    """A user sends nothing in the whole app until this Unix second. ``reason``: shown to the user."""

    until: int
    reason: str = ""

    @property
    def text(self) -> str:
        """What the user is told, in one line."""
        end = datetime.fromtimestamp(self.until, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"muted until {end}" + (f": {self.reason}" if self.reason else "")


class MutedUsers:
    """Owner of who is muted. Never switches.

    A feature tells it. Beyond :data:`MAX_PAYERS` it forgets the oldest mute.
    """

    def __init__(self) -> None:
        self.all: dict[tuple[str, str], Mute] = {}
        """App and user → the mute. Read-only for others."""

    def mute(self, app: str, user: str, until: int, reason: str = "") -> None:
        """Mute a user until this Unix second; in the past: let them send again."""
        self.all.pop((app, user), None)
        if until > time():
            self.all[app, user] = Mute(until, reason)
            if len(self.all) > MAX_PAYERS:
                del self.all[next(iter(self.all))]

    def mute_of(self, app: str, user: str) -> Mute | None:
        """The mute of a user; None: they may send."""
        mute = self.all.get((app, user))
        if mute is None or mute.until > time():
            return mute
        del self.all[app, user]
        return None
