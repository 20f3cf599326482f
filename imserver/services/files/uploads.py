"""Files that users send each other: taken in (by :mod:`.upload_arrivals`), described, given out, removed."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Final, Self

from imserver import errors
from imserver.metrics import Metrics
from imserver.services.files.upload_arrivals import Arrivals, Offer, Refused
from imserver.services.files.upload_places import Places, name_of
from imserver.services.logins.tokens import Claims
from imserver.settings import UploadSettings
from imserver.storage.store import Store
from imserver.storage.upload_contract import Upload, Usage

log = logging.getLogger(__name__)

ID_CHARACTERS: Final = 32
_FORGOTTEN_AT_ONCE: Final = 100

Holder = Callable[[str, str], Claims | None]
"""Whose token this is, of those who use this app (``""``: it is not said which); None: it is none that this
function knows. May switch."""


class Pieces:
    """A part of a file on its way out. Iterate over it, and close it.

    ``done`` is called when it is over, once.
    """

    def __init__(self, done: Callable[[Pieces], object]) -> None:
        self._pieces: Iterator[bytes] = iter(())
        self._done: Callable[[Pieces], object] | None = done
        self._gives_way = False
        self.since = monotonic()

    def begin(self, pieces: Iterator[bytes]) -> Self:
        """These are they."""
        self._pieces = pieces
        return self

    def give_way(self) -> None:
        """End it before its time; the next piece is none."""
        self._gives_way = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._gives_way:
            raise BrokenPipeError(errno.EPIPE, "a file that leaves gives way")
        return next(self._pieces)

    def close(self) -> None:
        """Give back what it holds; harmless the second time."""
        done, self._done = self._done, None
        if done is not None:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
            done(self)


class Uploads:
    """Owner of the places where files are kept, and of those that leave. One a node."""

    def __init__(self, settings: UploadSettings, data_dir: str, store: Store, metrics: Metrics) -> None:
        self.settings = settings
        self.holders: list[Holder] = []
        """Who may read the tokens of those who upload; the first that knows a token has the word."""
        self._store = store
        self._metrics = metrics
        self._places = Places(settings, data_dir)
        self._arrivals = Arrivals(settings, self._places, store, metrics, self.usage)
        self._leaving: dict[Pieces, None] = {}
        """The oldest first."""

    def holder(self, token: str, app: str = "") -> Claims | None:
        """Whose token this is, of those who use this app (``""``: it is not said which); None: nobody's."""
        for asked in self.holders:
            claims = asked(token, app)
            if claims is not None:
                return claims
        return None

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

    def open(self, row: Upload, thumbnail: bool, first: int, last: int) -> Pieces:
        """The bytes of a file, or of its thumbnail, from ``first`` to ``last``. Switches.

        Raises :class:`Refused` and MediaUnavailable.
        """
        self._make_room()
        place = self._places.of(row)
        leaving = Pieces(lambda one: self._leaving.pop(one, None))
        self._leaving[leaving] = None
        try:
            leaving.begin(place.get(name_of(row, thumbnail), first, last))
        except FileNotFoundError:
            leaving.close()
            log.error("the file %s is not where it was kept", row.id)
            raise Refused(errors.HTTP_UNKNOWN_UPLOAD) from None
        except BaseException:
            leaving.close()
            raise
        self._metrics.downloads += 1
        return leaving

    def _make_room(self) -> None:
        """Where as many leave as may, the one that has taken longest gives way if it has had its time.

        Raises :class:`Refused`.
        """
        if len(self._leaving) < self.settings.at_once:
            return
        oldest = next(iter(self._leaving))
        if monotonic() - oldest.since < self.settings.seconds:
            raise Refused(errors.HTTP_BUSY, f"{self.settings.at_once} files leave already")
        oldest.give_way()
        del self._leaving[oldest]

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
