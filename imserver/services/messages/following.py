"""Following: sessions are told what is stored from a place on, and catch up with what came before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from imserver.hub.hub import Hub
from imserver.metrics import Metrics
from imserver.model import Message
from imserver.services.messages import page_bounds
from imserver.services.messages.acks import Acknowledger
from imserver.services.messages.follower import Follower
from imserver.services.messages.readers import Behind, Reader, acknowledgements, groups_at
from imserver.services.messages.telling import Telling
from imserver.storage.log.contract import Entry, message_of
from imserver.transport.connection import OPEN, Connection

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

Answer = Callable[[list[Message], bool], bool]
"""A page of what was missed, and whether there is more → whether the client has all of it now, so that it is
told what is new; must not switch."""

Page = Callable[[str, str, int, int], tuple[list[Entry], bool]]
"""(app, user, after, limit) → what is to be told behind an id, in order, and whether there is more. It
switches, and raises StorageUnavailable."""


class Following:
    """Owner of who follows: of ``Connection.about``, and of the number of those who do.

    ``kept`` gives the log, or None if nothing was ever stored; ``busy`` says whether an app still needs its
    position known for other reasons.
    """

    def __init__(
        self,
        hub: Hub,
        metrics: Metrics,
        kept: Callable[[], MessageLog | None],
        follower: Follower,
        telling: Telling,
        busy: Callable[[str], bool],
    ) -> None:
        self._hub = hub
        self._metrics = metrics
        self._kept = kept
        self._follower = follower
        self._telling = telling
        self._busy = busy

    def follow(self, connection: Connection, reader: Reader, live: bool = True) -> int:
        """Tell a session what is stored from now on; the position from which. It may switch.

        ``live`` False: not before it has asked for all that it missed (:meth:`sync`). ``reader`` becomes its
        ``about``. Raises StorageUnavailable; then it does not follow.
        """
        app, user, telling = connection.app, connection.user, self._telling
        assert app is not None
        assert user is not None
        telling.followers[app] = telling.followers.get(app, 0) + 1
        try:
            self._follower.follow(app)
            kept = self._kept()
            rows = [] if kept is None else telling.readings.read(kept.memberships, app, user)
        except BaseException:
            self._uncount(app)
            raise
        position = self._follower.position(app)
        fits = connection.user == user and reader.may_take_over(connection.about)
        if not fits or not self._may_follow(connection):
            self._uncount(app)
            return position
        if isinstance(connection.about, Behind):
            reader.held = connection.about.held
            self.ended(connection)
        reader.take_over(connection.about)
        connection.about = reader
        telling.acknowledging += isinstance(reader, Acknowledger)
        if live:
            reader.held = None
        for conversation in groups_at(rows, position):
            telling.rooms.enter(app, connection, conversation)
        return position

    def put_off(self, connection: Connection, behind: Behind) -> None:
        """A session could not follow: it has to ask for what it missed before it is told anything."""
        app = connection.app
        if app is not None and not isinstance(connection.about, Behind) and self._may_follow(connection):
            self._telling.followers[app] = self._telling.followers.get(app, 0) + 1
            connection.about = behind

    def _may_follow(self, connection: Connection) -> bool:
        """Whether a session is addressed, and does not follow yet."""
        app, user = connection.app, connection.user
        known = self._hub.apps.get(app or "")  # one of guests goes with its last session
        addressed = known is not None and user is not None and connection in known.sessions_of(user)
        follows = isinstance(connection.about, Reader) and not isinstance(connection.about, Behind)
        return connection.state == OPEN and addressed and not follows

    def ended(self, connection: Connection) -> None:
        """A connection is over, or its session is. Never switches."""
        reader, app = connection.about, connection.app
        if isinstance(reader, Reader) and app is not None:
            self._telling.rooms.leave_all(app, connection)
            connection.about = reader.rest
            self._telling.acknowledging -= isinstance(reader, Acknowledger)
            self._uncount(app)

    def _uncount(self, app: str) -> None:
        followers = self._telling.followers
        left = followers[app] - 1
        if left:
            followers[app] = left
        else:
            del followers[app]
            if not self._telling.owes(app) and not self._busy(app):
                self._follower.forget(app)

    # --- catching up ----------------------------------------------------------------------------------------

    def sync(
        self,
        connection: Connection,
        after: int,
        limit: int,
        answer: Answer,
        yields: bool = False,
        page: Page | None = None,
    ) -> None:
        """Give a following connection a page of what it missed behind ``after``: as much as a page holds, at
        most ``limit`` entries. It switches.

        While there is more it is told nothing else; with the last page it is live. ``answer`` is called where
        the page belongs among the rest. ``yields``: not at all if somebody else has asked meanwhile. ``page``
        reads it, where that is more than what the user may read. Raises StorageUnavailable.
        """
        app, user, reader = connection.app, connection.user, connection.about
        if app is None or user is None or not isinstance(reader, Reader):
            answer([], False)  # it has ended while something else was looked up for it
            return
        reader = connection.about = reader.own()
        was_live = reader.live
        held = reader.held = list(reader.held or ())
        try:
            entries, more = page_bounds.oldest(*(page or self.page)(app, user, after, limit))
        except BaseException:
            if reader.held is held:  # else a later question has taken it over, or was answered
                if was_live:
                    self.release(connection)
                else:
                    reader.held = acknowledgements(held)
            raise
        if yields and reader.held is not held:
            return
        if connection.about is not reader:
            answer([], False)
            return
        if not more:
            # What this node has not been told yet it will be told, live.
            position = self._follower.position(app)
            entries = [entry for entry in entries if entry.id <= position]
        if not answer([message_of(entry) for entry in entries], more):
            # MessageLog to come have these; acknowledgements wait for the last.
            reader.held = acknowledgements(reader.held or ())
            return
        self._go_live(connection, reader, entries[-1].id if entries else after)

    def release(self, connection: Connection) -> None:
        """Tell a following connection what was held back for it, and what is stored from now on."""
        reader = connection.about
        if isinstance(reader, Reader) and not reader.live:
            self._go_live(connection, reader, 0)

    def _go_live(self, connection: Connection, reader: Reader, covered: int) -> None:
        """Tell what was held; of entries those behind ``covered``."""
        held, reader.held = reader.held or (), None
        messages: list[Message] = []
        for each in held:
            if not isinstance(each, Message):
                self._telling.give(connection, messages)
                messages = []
                each()
            elif each.id > covered:
                messages.append(each)
        self._telling.give(connection, messages)

    def tell_again(self, connection: Connection, after: int, limit: int) -> bool:
        """Tell a live connection again what its user may read behind an id; False if that is more than
        ``limit``. Whose client begins to ask itself meanwhile is left to it. It switches. Raises
        StorageUnavailable.
        """
        reader = connection.about
        if not isinstance(reader, Reader) or not reader.live:
            return True  # it is asking itself
        whole = True

        def answer(messages: list[Message], more: bool) -> bool:
            nonlocal whole
            whole = not more
            if whole:
                self._metrics.told_again += 1
                self._telling.give(connection, messages)
            # Else what came meanwhile is kept back, too: some of it may stand among the rest.
            return whole

        self.sync(connection, after, limit, answer, yields=True)
        return whole

    def page(self, app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
        """What a user may read behind an id, in order, and whether there is more. It switches.

        Raises StorageUnavailable.
        """
        kept = self._kept()
        if kept is None:
            return [], False
        entries, more = kept.sync(app, user, after, limit)
        return entries, more
