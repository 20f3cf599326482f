"""Removes messages of users, brings them back, and erases what they were.

A removal is a row of a :class:`Runner`. Whoever goes on with it leaves out what is removed already.
"""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex
from time import monotonic
from typing import Final

import gevent

from imserver.features.safety.declared import HTTP_UNKNOWN_ACT
from imserver.features.safety.rows import DONE, ENDING, UNDER_WAY, UNDOING, Removal, SafetyRows, is_under_way
from imserver.plugin.errors import ServiceRefused
from imserver.plugin.messages import MessageLog
from imserver.plugin.storage import Runner

UNDO_SECONDS: Final = 60
"""How long a removal may be undone."""
_LOOK_SECONDS: Final = 0.05
_ID_BYTES: Final = 8


class Removals:
    """Begins, undoes and ends removals. ``runner`` works on them."""

    def __init__(self, rows: SafetyRows) -> None:
        self._rows = rows
        due = f"state <> {DONE} OR (ends > 0 AND ends <= {{now}})"
        self.runner = Runner(rows.store, "removal", due, self._work, lease_seconds=10, look_seconds=5.0)

    @property
    def _log(self) -> MessageLog:
        return self._rows.store.part(MessageLog)

    def begin(self, app: str, user: str, since: int, until: int) -> Removal:
        """Begin to remove the messages of a user that were sent in this time, Unix milliseconds (``until``
        0: until now). Switches. Raises StorageUnavailable."""
        reached, last = self._log.removals.extent(app, since, until)
        new = Removal(app, token_hex(_ID_BYTES), user, UNDER_WAY, since, until, reached, last)
        removal = self._rows.add(new, UNDO_SECONDS)
        self.runner.start(app, removal.id)
        return removal

    def remove(self, app: str, user: str, messages: Sequence[int], undecided: bool) -> Removal:
        """Remove some messages at once. ``undecided``: until somebody decides. Switches. Raises
        StorageUnavailable."""
        new = Removal(app, token_hex(_ID_BYTES), user, DONE, 0, 0, 0, 0)
        removal = self._rows.add(new, 0 if undecided else UNDO_SECONDS)
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
        self.runner.start(app, act)
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

    # --- work -----------------------------------------------------------------------------------------------

    def _work(self, app: str, act: str) -> None:
        """Do all that there is to do for a removal now."""
        while (removal := self._rows.get(app, act)) is not None:
            if removal.state == UNDER_WAY:
                self._remove(removal)
            elif removal.state == UNDOING:
                while self._log.removals.restore(app, act):
                    self.runner.proceed(app, act)
                self.runner.end(app, act)
            elif self._rows.change_state(removal, ENDING, (DONE, ENDING)):
                while self._log.removals.finish(app, act):
                    self.runner.proceed(app, act)
                self.runner.end(app, act)
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
            self.runner.proceed(app, act, reached=reached)
        self._rows.change_state(removal, DONE, (UNDER_WAY,))
