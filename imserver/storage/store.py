"""The apps and keys that are kept, for a node: opened when there is something to keep, watched for news.

A node with nothing to keep pays nothing: where no database is configured, SQLite's file is made at the first
write, and nothing that speaks to databases is imported before that, or before the file is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
from gevent.lock import RLock

from imserver.clock import until_beat
from imserver.config.settings import StorageSettings
from imserver.errors import StartError, StorageUnavailable
from imserver.storage.address import database_address
from imserver.storage.contract import AppRow, Changes, KeyRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from imserver.storage.database import Database
    from imserver.storage.log.message_log import MessageLog
    from imserver.storage.log.writer import LogListener

log = logging.getLogger(__name__)

T = TypeVar("T")

_NEVER = -1


class Store:
    """Owner of the database, once it is open. Whatever asks it may switch to other greenlets.

    ``threaded`` is that of :class:`imserver.storage.database.Database`. ``objection`` says why this node must
    not use the database with an id (``""``: one to be made), or ``""``. ``on_open`` is called with the id of
    the database when it is open.
    """

    def __init__(
        self,
        settings: StorageSettings,
        data_dir: str,
        threaded: bool = True,
        objection: Callable[[str], str] = lambda database: "",
        on_open: Callable[[str], object] = lambda database: None,
    ) -> None:
        self.place = database_address(settings, data_dir)
        self._settings = settings
        self._threaded = threaded
        self._database: Database | None = None
        self._log: MessageLog | None = None
        self._opening = RLock()
        self._complaint = ""
        self._version = _NEVER
        self._looking = RLock()
        self._looks_begun = 0
        self._looks_ended = 0
        self._look_failed: StorageUnavailable | None = None
        self._objection = objection
        self._on_open = on_open
        self.log_listener: LogListener | None = None
        """Receives what this process stores in the log; to be set before the log is used."""
        self.on_changes: list[Callable[[Changes], object]] = []
        """Called with what is new to this node, its own changes included."""

    @property
    def id(self) -> str:
        """The id of the database; ``""`` while there is none."""
        return self._database.id if self._database is not None else ""

    @property
    def keeps(self) -> bool:
        """Whether there is a database: a configured one, or the file that the first write has made."""
        return self._database is not None or self.place.configured or self.place.exists

    def healthy(self) -> bool:
        """Whether what is kept can be reached, as far as is known; true while nothing is kept."""
        return not self._complaint and (self._database is None or self._database.healthy)

    # --- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open what is configured or exists, and learn what is there. Raises StartError."""
        if not (self.place.configured or self.place.exists):
            return
        try:
            self._open()
            self.look()
        except StorageUnavailable as error:
            raise StartError(f"storage: {self.place.shown} cannot be used: {error}") from None

    def run(self) -> None:
        """Greenlet: look for news, until it is killed."""
        while True:
            gevent.sleep(until_beat(self._settings.look_seconds))
            self.look_again()

    def look_again(self) -> None:
        """Look for news; what goes wrong is logged."""
        try:
            self.look()
        except StorageUnavailable as error:
            log.debug("a look into the database failed: %s", error)
        except Exception:
            log.exception("a look into the database failed")

    def close(self) -> None:
        """Store what waits, and give the database back; nothing may be asked any more."""
        if self._log is not None:
            self._log.close()
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> Database:
        """The database, opened and made if need be. Raises StartError."""
        with self._opening:
            if self._database is None:
                # SQLAlchemy and a driver: 20 MB that a node with nothing to keep need not have.
                from imserver.storage.database import Database

                if not self.place.exists and (objection := self._objection("")):
                    raise StartError(f"storage: {objection}")
                database = Database(self.place, self._settings, self._threaded)
                try:
                    database.open()
                    if objection := self._objection(database.id):
                        raise StartError(f"storage: {objection}")
                except BaseException:
                    database.close()
                    raise
                self._database = database
                self._on_open(database.id)
            return self._database

    def _opened(self) -> Database:
        try:
            database = self._open()
            self._complaint = ""
            return database
        except StartError as error:  # nobody starts any more; who asked may ask again
            if self._complaint != str(error):
                self._complaint = str(error)
                log.error("%s", error)
            raise StorageUnavailable(str(error)) from None

    # --- news -----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Learn what was kept, here or elsewhere, before this was called. Raises StorageUnavailable.

        However many ask at once, one look that begins after they asked serves all of them.
        """
        if self._database is None and not self.place.exists:
            return
        asked = self._looks_begun
        with self._looking:
            if self._looks_ended <= asked:
                self._look()
            elif self._look_failed is not None:
                raise self._look_failed

    def _look(self) -> None:
        from imserver.storage import records

        self._looks_begun += 1
        self._look_failed = None
        known = self._version
        try:
            changes = self._opened().read(lambda connection: records.read_changes(connection, known))
        except StorageUnavailable as error:
            self._look_failed = error
            raise
        finally:
            self._looks_ended = self._looks_begun
        if changes.version != known:
            self._version = changes.version
            for told in self.on_changes:
                try:
                    told(changes)
                except Exception:  # the others, and what comes next, are none the worse for it
                    log.exception("what was read from the database could not be taken over")

    def _written(self, work: Callable[[Any], T]) -> T:
        value = self._opened().write(work)
        self.look()
        return value

    def read(self, work: Callable[[Connection], T]) -> T:
        """Do ``work``, which changes nothing, in a transaction. Raises StorageUnavailable.

        On SQLite it runs in another thread: it touches the connection only.
        """
        return self._opened().read(work)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` in a transaction; nothing is changed if it raises. Where it runs: see :meth:`read`.

        Raises StorageUnavailable, after which the change may have been made or not.
        """
        return self._opened().write(work)

    def log(self) -> MessageLog:
        """The message log, which opens the database when there is something to read or to store."""
        if self._log is None:
            from imserver.storage.log.message_log import MessageLog

            self._log = MessageLog(self._opened, lambda: self.keeps, self._settings.seconds)
            self._log.listen(self.log_listener)
        return self._log

    def existing_log(self) -> MessageLog | None:
        """The message log; None while nothing was ever stored."""
        return self.log() if self.keeps else None

    @property
    def opened_log(self) -> MessageLog | None:
        """The message log if it is open already. Never switches."""
        return self._log

    # --- what is kept ---------------------------------------------------------------------------------------

    def add_app(self, name: str, settings: dict[str, Any]) -> bool:
        """Keep an app; False if there is one of this name. Raises StorageUnavailable."""
        from imserver.storage import records

        return self._written(lambda connection: records.add_app(connection, AppRow(name, settings)))

    def change_app(self, name: str, fields: dict[str, Any], unset: tuple[str, ...] = ()) -> bool:
        """Change a kept app's settings; False if there is none. Raises StorageUnavailable."""
        from imserver.storage import records

        return (
            self._written(lambda connection: records.change_app(connection, name, fields, unset)) is not None
        )

    def add_key(self, row: KeyRow) -> KeyRow:
        """Keep a key. Raises StorageUnavailable."""
        from imserver.storage import records

        return self._written(lambda connection: records.add_key(connection, row))

    def revoke_key(self, key: str) -> bool | None:
        """Put a key out of force; False: it was already, None: there is none. Raises StorageUnavailable."""
        from imserver.storage import records

        return self._written(lambda connection: records.revoke_key(connection, key))

    def keys(self) -> tuple[KeyRow, ...]:
        """All keys, revoked ones too. Raises StorageUnavailable."""
        from imserver.storage import records

        if self._database is None and not self.place.exists:
            return ()
        return self._opened().read(records.read_keys)
