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
    """One incoming or outgoing file.

    ``user``: the app and the user who sends it; None: nobody in particular.
    ``address``: of the client. ``since``: its beginning (monotonic).
    """

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
        """A context in which a greenlet reads the next bytes.

        Raises :class:`TransferRefused` if the transfer is ended, also in the
        middle of the block.
        """
        if self.ended:
            raise _slowest()
        self._reader = gevent.getcurrent()
        try:
            yield
        finally:
            self._reader = None

    def end(self) -> None:
        """End the transfer in favour of another one, by an error in the
        greenlet that reads. Never switches greenlets."""
        self.ended = True
        # Done by the hub, because throwing an error into a greenlet switches to
        # it.
        gevent.get_hub().loop.run_callback(self._interrupt)

    def _interrupt(self) -> None:
        """Raise an error in the greenlet that reads, if one does."""
        if self._reader is not None:
            self._reader.throw(_slowest())


def _slowest() -> TransferRefused:
    """The error that the client of the slowest transfer gets."""
    text = "This transfer was the slowest and was ended to make room for another"
    return TransferRefused(text, Problems.BUSY)


class Transfers(Service):
    """The running transfers in one direction, and their limits. Never switches
    greenlets."""

    settings: UploadSettings
    _running: dict[Transfer, None] = field(default_factory=dict)

    def begin(self, user: tuple[str, str] | None, address: str) -> Transfer:
        """Begin a transfer, which takes a slot.

        There are limits for a user, for an address and for all transfers. At a
        limit the slowest transfer is ended; if none may be ended yet, raises
        :class:`TransferRefused`. ``user``: the app and the user; None: no limit
        of a user applies.
        """
        settings = self.settings
        running = list(self._running)
        new_transfer = Transfer(user, address, monotonic())
        network = new_transfer.network

        # From the narrowest limit to the widest: only transfers within the
        # limit that is reached may be ended.
        if user:
            of_user = [each for each in running if each.user == user]
            self._require_slot(of_user, settings.at_once_per_user)
        if network:
            of_network = [each for each in running if each.network == network]
            self._require_slot(of_network, settings.at_once_per_address)
        self._require_slot(running, settings.at_once)
        self._running[new_transfer] = None
        return new_transfer

    def _require_slot(self, transfers: list[Transfer], limit: int) -> None:
        """Raise TransferRefused if as many transfers as the limit are running,
        and none of them may be ended."""
        if len(transfers) >= limit and not self._end_slowest(transfers):
            raise TransferRefused(
                f"{limit} transfers are already running", Problems.BUSY
            )

    def _end_slowest(self, transfers: list[Transfer]) -> bool:
        """End the slowest of some transfers. Returns False if none may be
        ended.

        Only transfers that have run for some time can be ended, because their
        rate is meaningful.
        """
        now = monotonic()
        candidates = [one for one in transfers if now - one.since >= GRACE_SECONDS]
        if not candidates:
            return False

        def rate(transfer: Transfer) -> float:
            """The bytes per second since the transfer began."""
            return transfer.bytes / (now - transfer.since)

        slowest = min(candidates, key=rate)
        self.free(slowest)
        slowest.end()
        return True

    def free(self, transfer: Transfer) -> None:
        """Release the slot of a transfer. Does nothing the second time."""
        self._running.pop(transfer, None)

    def deadline(self, transfer: Transfer) -> float:
        """The monotonic time by which the next byte must move to reach the
        minimum rate."""
        rate = self.settings.min_bytes_per_second
        if rate:
            return transfer.since + GRACE_SECONDS + transfer.bytes / rate
        return float("inf")


class Pieces(Service):
    """The bytes of an outgoing file, in pieces. Iterate over them, and call
    :meth:`close` at the end."""

    pieces: Iterator[bytes]
    transfer: Transfer
    transfers: Transfers

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """The next piece. Raises BrokenPipeError, which ends the connection, if
        the client is too slow or the file cannot be read."""
        if self.transfer.ended or monotonic() > self.transfers.deadline(self.transfer):
            raise BrokenPipeError(errno.EPIPE, "the client fetches the file too slowly")
        try:
            piece = next(self.pieces)
        except MediaUnavailable as error:
            # The head of the answer was sent already, so no error can follow.
            raise BrokenPipeError(errno.EPIPE, str(error)) from None
        self.transfer.bytes += len(piece)
        return piece

    def close(self) -> None:
        """Release the slot. Does nothing the second time."""
        close = getattr(self.pieces, "close", None)
        if close is not None:
            close()
        self.transfers.free(self.transfer)
