"""Transfers of files: slots per user and address, minimum rate, and outgoing
files.

The number of slots is small, and a slow peer occupies one for a long time. So
each user and each address has a limited share of the slots. Transfers below the
minimum rate end. When all slots are taken, the slowest transfer is ended.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final, Self

import gevent
from greenlet import greenlet
from msgspec import field

from imserver.media.uploads.contract import MediaUnavailable
from imserver.media.uploads.declared import UploadSettings
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.runtime import Service, network_of

GRACE_SECONDS: Final = 10.0
"""The age from which a transfer must reach the minimum rate, and may be ended
in favour of another one."""


class TransferRefused(ServiceRefused):
    """The file is not accepted, or not sent. The problem has the reason."""


class Transfer:
    """One incoming or outgoing file. ``user``: the app and the user who sends
    it; None: nobody in particular. ``since``: its beginning (monotonic)."""

    def __init__(
        self, user: tuple[str, str] | None, address: str, since: float
    ) -> None:
        self.user = user
        self.network = network_of(address)
        self.since = since
        self.moved_at = since
        """Monotonic time of the last bytes."""
        self.bytes = 0
        """The number of bytes that have moved."""
        self.ended = False
        """Whether it was ended in favour of another transfer."""
        self._reader: greenlet | None = None
        """The greenlet that waits for the next bytes."""

    def move(self, size: int) -> None:
        """Count bytes that have moved."""
        self.bytes += size
        self.moved_at = monotonic()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Context manager around reading the next bytes. Raises
        :class:`TransferRefused` if the transfer is ended, also in the middle of
        the block."""
        if self.ended:
            raise _slowest()
        self._reader = gevent.getcurrent()
        try:
            yield
        finally:
            self._reader = None

    def end(self) -> None:
        """End the transfer in favour of another one: interrupt its greenlet.
        Never switches greenlets."""
        self.ended = True
        # Done by the hub, because throwing an error into a greenlet switches to
        # it.
        gevent.get_hub().loop.run_callback(self._interrupt)

    def _interrupt(self) -> None:
        if self._reader is not None:
            self._reader.throw(_slowest())


def _slowest() -> TransferRefused:
    """The error that ends the slowest transfer."""
    text = "This transfer was the slowest and was ended to make room for another"
    return TransferRefused(text, Problems.BUSY)


class Transfers(Service):
    """Owner of the transfers in one direction. Never switches greenlets."""

    settings: UploadSettings
    _running: dict[Transfer, None] = field(default_factory=dict)

    def begin(self, user: tuple[str, str] | None, address: str) -> Transfer:
        """Begin a transfer: take a slot. ``user``: the app and the user; None:
        no limit of a user applies. Raises :class:`TransferRefused` at the limit
        of the user, of the address or of all transfers, unless a slow transfer
        can be ended."""
        settings = self.settings
        running = list(self._running)
        new = Transfer(user, address, monotonic())

        of_user: list[Transfer] = []
        if user:
            of_user = [transfer for transfer in running if transfer.user == user]
        of_network: list[Transfer] = []
        if new.network:
            of_network = [
                transfer for transfer in running if transfer.network == new.network
            ]

        for limit, transfers in (
            (settings.at_once_per_user, of_user),
            (settings.at_once_per_address, of_network),
            (settings.at_once, running),
        ):
            if len(transfers) >= limit and not self._end_slowest(transfers):
                raise TransferRefused(
                    f"{limit} transfers are already running", Problems.BUSY
                )
        self._running[new] = None
        return new

    def _end_slowest(self, transfers: list[Transfer]) -> bool:
        """End the slowest transfer, and return whether there was one. Only
        transfers that have run for some time can be ended, because their rate
        is meaningful."""
        now = monotonic()
        candidates = [one for one in transfers if now - one.since >= GRACE_SECONDS]
        if not candidates:
            return False

        def rate(transfer: Transfer) -> float:
            return transfer.bytes / (now - transfer.since)

        slowest = min(candidates, key=rate)
        self.free(slowest)
        slowest.end()
        return True

    def free(self, transfer: Transfer) -> None:
        """Release a slot. Does nothing the second time."""
        self._running.pop(transfer, None)

    def deadline(self, transfer: Transfer) -> float:
        """The monotonic time by which the next byte must move to reach the
        minimum rate."""
        rate = self.settings.min_bytes_per_second
        if rate:
            return transfer.since + GRACE_SECONDS + transfer.bytes / rate
        return float("inf")


class Pieces(Service):
    """A part of an outgoing file. Iterate over it, and close it."""

    pieces: Iterator[bytes]
    transfer: Transfer
    transfers: Transfers

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self.transfer.ended or monotonic() > self.transfers.deadline(self.transfer):
            raise BrokenPipeError(errno.EPIPE, "the client fetches the file too slowly")
        try:
            piece = next(self.pieces)
        except MediaUnavailable as error:  # the head of the answer has left
            raise BrokenPipeError(errno.EPIPE, str(error)) from None
        self.transfer.bytes += len(piece)
        return piece

    def close(self) -> None:
        """Release the slot. Does nothing the second time."""
        close = getattr(self.pieces, "close", None)
        if close is not None:
            close()
        self.transfers.free(self.transfer)
