"""Removes messages of users, brings them back, and erases what they were.

A removal is a row. Any node goes on with one whose node is gone, from the row alone: what is removed already
is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from secrets import token_hex
from time import monotonic
from typing import Final

import gevent

from imserver.features.safety.declared import HTTP_UNKNOWN_ACT
from imserver.features.safety.rows import DONE, ENDING, UNDER_WAY, UNDOING, Removal, SafetyRows, is_under_way
from imserver.plugin.errors import ServiceRefused, StorageUnavailable
from imserver.plugin.messages import MessageLog
from imserver.plugin.runtime import until_beat

log = logging.getLogger(__name__)

UNDO_SECONDS: Final = 60
"""How long a removal may be undone."""
LEASE_SECONDS: Final = 10
TICK_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.05


class Removals:
    """Works on removals. Owner of which of them this node works on."""

    def __init__(self, rows: SafetyRows) -> None:
        self._rows = rows
        self._busy: set[tuple[str, str]] = set()

    @property
    def _log(self) -> MessageLog:
        return self._rows.store.part(MessageLog)

    def begin(self, app: str, user: str, since: int, until: int) -> Removal:
        """Begin to remove the messages of a user that were sent in this time, Unix milliseconds (``until``
        0: until now). Switches. Raises StorageUnavailable."""
        reached, last = self._log.removals.extent(app, since, until)
        removal = self._add(app, user, UNDER_WAY, since, until, reached, last)
        gevent.spawn(self._work, removal)
        return removal

    def remove(self, app: str, user: str, messages: Sequence[int], undecided: bool) -> Removal:
        """Remove some messages at once. ``undecided``: until somebody decides. Switches. Raises
        StorageUnavailable."""
        removal = self._add(app, user, DONE, 0, 0, 0, 0, undecided)
        self._log.removals.move(app, messages, removal.id)
        left = sorted(set(messages))
        while left:
            done = self._log.removals.remove(app, removal.id, left) or []
            left = left[len(done) :]
        return removal

    def undo(self, app: str, act: str) -> Removal:
        """Bring the messages of a removal back. Switches. Raises ServiceRefused if there is none, and
        StorageUnavailable."""
        removal = self._rows.get(app, act)
        among = UNDER_WAY, DONE, UNDOING
        if removal is None or not self._rows.change_state(removal, UNDOING, among):
            raise ServiceRefused(problem=HTTP_UNKNOWN_ACT)
        gevent.spawn(self._work, removal)
        return removal

    def count(self, app: str, act: str) -> int:
        """How many messages of a removal may come back."""
        return self._log.removals.copies(app, act)

    def senders(self, app: str, act: str) -> list[str]:
        """Whose messages they are. Raises ServiceRefused if there is no such removal."""
        if (removal := self._rows.get(app, act)) is None:
            raise ServiceRefused(problem=HTTP_UNKNOWN_ACT)
        return [removal.user] if removal.user else self._log.removals.senders(app, act)

    def wait(self, removal: Removal, seconds: float) -> bool:
        """Wait until nothing is to be done for a removal; False: it takes longer."""
        deadline = monotonic() + seconds
        while (found := self._rows.get(removal.app, removal.id)) is not None and found.state != DONE:
            if monotonic() > deadline:
                return False
            gevent.sleep(_LOOK_SECONDS)
        return True

    def _add(
        self,
        app: str,
        user: str,
        state: int,
        since: int,
        until: int,
        reached: int,
        last: int,
        undecided: bool = False,
    ) -> Removal:
        new = Removal(app, token_hex(8), user, state, since, until, reached, last)
        return self._rows.add(new, 0 if undecided else UNDO_SECONDS)

    # --- work -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Greenlet: go on with removals of nodes that are gone, and make old ones final, until killed."""
        while True:
            gevent.sleep(until_beat(TICK_SECONDS))
            try:
                self.tick()
            except StorageUnavailable as error:
                log.debug("removals could not be read: %s", error)
            except Exception:
                log.exception("removals could not be read")

    def tick(self) -> None:
        """Work on what waits. Switches. Raises StorageUnavailable."""
        if self._rows.store.has_database:
            for removal in self._rows.waiting():
                self._work(removal)

    def _work(self, removal: Removal) -> None:
        key = removal.app, removal.id
        if key in self._busy:
            return
        self._busy.add(key)
        try:
            self._go_on(removal)
        except StorageUnavailable as error:
            log.warning("the removal %s of messages in %s has to wait: %s", removal.id, removal.app, error)
        except Exception:
            log.exception("the removal %s of messages in %s has failed", removal.id, removal.app)
        finally:
            self._busy.discard(key)

    def _go_on(self, removal: Removal) -> None:
        current: Removal | None = removal
        if not self._rows.lease(removal, LEASE_SECONDS):
            return
        while (current := self._rows.get(removal.app, removal.id)) is not None:
            if current.state == UNDER_WAY:
                self._remove(current)
            elif current.state == UNDOING:
                while self._log.removals.restore(current.app, current.id):
                    pass
                self._rows.forget(current)
            elif self._rows.change_state(current, ENDING, (DONE, ENDING)):
                while self._log.removals.finish(current.app, current.id):
                    pass
                self._rows.forget(current)
            else:
                break

    def _remove(self, removal: Removal) -> None:
        """Remove messages until none is left, or the removal is to be undone."""
        app, act, reached = removal.app, removal.id, removal.reached
        while reached < removal.last:
            span = (removal.since, removal.until, reached, removal.last)
            found, upto = self._log.removals.sent(app, removal.user, *span)
            ids = [id for id, _ in found]
            if ids:
                done = self._log.removals.remove(app, act, ids, lambda sql: is_under_way(sql, app, act))
                if done is None:
                    return
                if len(done) < len(ids):
                    upto = done[-1]
            reached = upto
            self._rows.reach(removal, reached, LEASE_SECONDS)
        self._rows.change_state(removal, DONE, (UNDER_WAY,))
