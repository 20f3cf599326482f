"""Files that users send each other: taken in (by :mod:`.upload_arrivals`), described, given out, removed."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Final, Self

from imserver import errors
from imserver.metrics import Metrics
from imserver.services.files.transfers import Refused, Transfer, Transfers
from imserver.services.files.upload_arrivals import Arrivals, Offer
from imserver.services.files.upload_places import Places, name_of
from imserver.settings import UploadSettings
from imserver.storage.contract import Upload, Usage
from imserver.storage.store import Store

log = logging.getLogger(__name__)

ID_CHARACTERS: Final = 32
_FORGOTTEN_AT_ONCE: Final = 100


class Pieces:
    """A part of a file on its way out. Iterate over it, and close it."""

    def __init__(self, pieces: Iterator[bytes], transfer: Transfer, transfers: Transfers) -> None:
        self._pieces = pieces
        self._transfer = transfer
        self._transfers = transfers
        self._gives_way = False
        transfer.give_way = self.give_way

    def give_way(self) -> None:
        """End it before its time; the next piece is none."""
        self._gives_way = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._gives_way or monotonic() > self._transfers.deadline(self._transfer):
            raise BrokenPipeError(errno.EPIPE, "a file leaves too slowly")
        piece = next(self._pieces)
        self._transfer.bytes += len(piece)
        return piece

    def close(self) -> None:
        """Give back what it holds; harmless the second time."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
        self._transfers.end(self._transfer)


class Uploads:
    """Owner of the places where files are stored, and of the transfers in both directions. One per node."""

    def __init__(self, settings: UploadSettings, data_dir: str, store: Store, metrics: Metrics) -> None:
        self.settings = settings
        self._store = store
        self._metrics = metrics
        self._places = Places(settings, data_dir)
        self._arrivals = Arrivals(settings, self._places, store, metrics, self.usage)
        self._leaving = Transfers(settings)

    def receive(self, offer: Offer, read: Callable[[int], bytes]) -> Upload:
        """Take a file in; see :meth:`.upload_arrivals.Arrivals.receive`."""
        return self._arrivals.receive(offer, read)

    # --- out ------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Upload | None:
        """The file of this id. Raises StorageUnavailable."""
        if len(name) != ID_CHARACTERS or not name.isascii() or not self._store.keeps:
            return None
        from imserver.storage import upload_rows

        return self._store.read(lambda connection: upload_rows.find(connection, name))

    def open(self, row: Upload, thumbnail: bool, first: int, last: int, address: str = "") -> Pieces:
        """The bytes of a file, or of its thumbnail, from ``first`` to ``last``, for an address. Switches.

        Raises :class:`Refused` and MediaUnavailable.
        """
        transfer = self._leaving.begin(None, address)
        try:
            pieces = self._places.of(row).get(name_of(row, thumbnail), first, last)
        except FileNotFoundError:
            self._leaving.end(transfer)
            log.error("the file %s is not where it was kept", row.id)
            raise Refused(errors.HTTP_UNKNOWN_UPLOAD) from None
        except BaseException:
            self._leaving.end(transfer)
            raise
        self._metrics.downloads += 1
        return Pieces(pieces, transfer, self._leaving)

    def usage(self, app: str, user: str) -> Usage:
        """What a user keeps. Raises StorageUnavailable."""
        if not self._store.keeps:
            return Usage()
        from imserver.storage import upload_rows

        return self._store.read(lambda connection: upload_rows.usage(connection, app, user))

    def page(self, app: str, user: str, before: tuple[int, str], limit: int) -> list[Upload]:
        """Files of a user, the newest first; ``before``: time and id of the last one of the page before, or
        ``(0, "")``. Raises StorageUnavailable."""
        if not self._store.keeps:
            return []
        from imserver.storage import upload_rows

        return self._store.read(lambda connection: upload_rows.page(connection, app, user, before, limit))

    # --- away -----------------------------------------------------------------------------------------------

    def delete(self, name: str) -> bool:
        """Remove a file; False if there is none. Raises StorageUnavailable."""
        row = self._forget(name)
        if row is None:
            return False
        self._places.remove(row)
        return True

    def _forget(self, name: str) -> Upload | None:
        """Remove the row of a file: what it was."""
        from imserver.storage import upload_rows

        if not self._store.keeps:
            return None
        return self._store.write(lambda connection: upload_rows.remove(connection, name))

    def forget(self, app: str, user: str) -> int:
        """Remove all files of a user; how many there were. Raises StorageUnavailable and MediaUnavailable.

        Here the bytes go first: what cannot be deleted now is found by whoever tries again.
        """
        removed = 0
        while rows := self.page(app, user, (0, ""), _FORGOTTEN_AT_ONCE):
            for row in rows:
                self._places.delete(row)
                removed += self._forget(row.id) is not None
        return removed

    def close(self) -> None:
        """End threads and connections."""
        self._arrivals.close()
        self._places.close()
