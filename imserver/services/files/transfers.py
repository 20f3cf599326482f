"""Transfers of files that are under way: shares of the places, and the minimum rate.

Places are few, and a slow peer holds one for long. So users and addresses have a share of them, transfers
below the minimum rate end, and the slowest one gives way when all places are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from imserver import errors
from imserver.config.settings import UploadSettings
from imserver.errors import HttpProblem, ImserverError
from imserver.services.people.attempts import network_of

GRACE_SECONDS: Final = 10.0
"""Age from which a transfer has to keep the minimum rate, and may have to give way."""


class TransferRefused(ImserverError):
    """The file is not taken, or not given."""

    def __init__(self, problem: HttpProblem, detail: str = "") -> None:
        super().__init__(detail or problem.message)
        self.problem = problem
        self.detail = detail


class Transfer:
    """One file on its way in or out. ``give_way`` ends it; it must not switch."""

    def __init__(self, user: tuple[str, str] | None, address: str, since: float) -> None:
        self.user = user
        self.network = network_of(address)
        self.since = since
        self.bytes = 0
        self.give_way: Callable[[], None] = lambda: None


class Transfers:
    """Owner of the transfers in one direction. Nothing switches."""

    def __init__(self, settings: UploadSettings) -> None:
        self._settings = settings
        self._running: dict[Transfer, None] = {}

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, user: tuple[str, str] | None, address: str) -> Transfer:
        """Take a place. Raises :class:`TransferRefused` if user, address or all have their share."""
        settings, new = self._settings, Transfer(user, address, monotonic())
        for share, own in (
            (settings.at_once_per_user, [one for one in self._running if user and one.user == user]),
            (
                settings.at_once_per_address,
                [one for one in self._running if new.network and one.network == new.network],
            ),
            (settings.at_once, list(self._running)),
        ):
            if len(own) >= share and not self._free_slowest(own):
                raise TransferRefused(errors.HTTP_BUSY, f"{share} files are under way already")
        self._running[new] = None
        return new

    def _free_slowest(self, some: list[Transfer]) -> bool:
        now = monotonic()
        old = [one for one in some if now - one.since >= GRACE_SECONDS]
        if not old:
            return False
        slowest = min(old, key=lambda one: one.bytes / (now - one.since))
        self.end(slowest)
        slowest.give_way()
        return True

    def end(self, transfer: Transfer) -> None:
        """Give a place back; harmless the second time."""
        self._running.pop(transfer, None)

    def deadline(self, transfer: Transfer) -> float:
        """The monotonic time until which the next byte has to move, for the rate not to be too low."""
        rate = self._settings.min_bytes_per_second
        return transfer.since + GRACE_SECONDS + transfer.bytes / rate if rate else float("inf")
