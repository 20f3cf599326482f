"""Who was kicked of late: a login that began before and ends behind it has to be refused.

A kick closes the sessions that there are. A login that is under way has none yet, and what it has proved may
not be true any more: the account has ended all its sessions, or is gone.
"""

from __future__ import annotations

from typing import Final

MOST: Final = 10_000
"""Kicks that are remembered. No login takes as long as so many kicks of others."""


class Kicks:
    """Owner of the memory. ``count``: how many there were."""

    def __init__(self) -> None:
        self.count = 0
        self._numbers: dict[tuple[str, str, str | None], int] = {}

    def note(self, app: str, user: str, device: str | None = None) -> None:
        """A user was kicked, from devices of this name or (None) from all."""
        key = app, user, device
        self.count += 1
        self._numbers.pop(key, None)
        self._numbers[key] = self.count
        if len(self._numbers) > MOST:
            del self._numbers[next(iter(self._numbers))]

    def since(self, count: int, app: str, user: str, device: str) -> bool:
        """Whether a user was kicked from a device since there were ``count``."""
        if count == self.count:
            return False
        numbers = self._numbers
        return max(numbers.get((app, user, None), 0), numbers.get((app, user, device), 0)) > count
