"""Telling: what is stored is told to those here who read it, and to its senders, in the order of the log.

To one connection everything stored leaves in the order of ids, acknowledgements of its own messages included:
a client's cursor is the greatest id that it saw, and must mean that it saw everything before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.model import Message
from imserver.services.acks import Acknowledger, AckWheel
from imserver.services.readers import (
    GroupRooms,
    Reader,
    Readings,
    concerned,
    message_of,
    with_acknowledgement,
)
from imserver.storage.log_contract import Appended, Entry, Rejected
from imserver.transport.connection import Connection

log = logging.getLogger(__name__)

MAX_HELD: Final = 1000
"""Acknowledgements that wait for a connection to ask for what it missed; beyond, it is a slow reader."""

Result = Appended | Rejected | StorageUnavailable
Done = Callable[[Result], None]
"""What became of a draft; called once, and must not switch."""


class Telling:
    """Owner of the acknowledgements that wait for their turn, and of the local rooms. Never switches."""

    def __init__(self, hub: Hub, fanout: Fanout, wheel: AckWheel) -> None:
        self._hub = hub
        self._fanout = fanout
        self._wheel = wheel
        self.rooms = GroupRooms()
        self.readings = Readings()
        self.followers: dict[str, int] = {}
        """Connections that follow, or are about to, by app."""
        self.acknowledging = 0
        """Connections in service whose clients acknowledge."""
        self.widest: dict[str, int] = {}
        """Connections that the message to the most of them was told, by app, since it was looked at."""
        self._acks: dict[str, dict[int, list[tuple[Connection | None, Done, Appended]]]] = {}

    def acknowledge(self, app: str, connection: Connection | None, done: Done, result: Appended) -> None:
        """Say that a draft is stored as soon as its entry is told."""
        self._acks.setdefault(app, {}).setdefault(result.entry.id, []).append((connection, done, result))

    def owes(self, app: str) -> bool:
        """Whether acknowledgements wait for their turn."""
        return app in self._acks

    def settle(self, connection: Connection | None, done: Done, result: Result) -> None:
        """Say what became of a draft, behind what its sender has still to ask for."""
        reader = None if connection is None else connection.about
        if isinstance(reader, Reader) and isinstance(result, Appended) and not reader.live:
            assert connection is not None
            reader.held = with_acknowledgement(reader.held, lambda: done(result))
            if type(reader.held) is tuple and len(reader.held) > MAX_HELD:
                connection.abandon(errors.CLOSE_SLOW_READER)
            return
        try:
            done(result)
        except Exception:
            log.exception("a sender could not be told")

    def tell(self, app: str, entries: list[Entry], position: int) -> None:
        """Tell entries to those who read them here, and senders that theirs are stored."""
        acks = self._acks.get(app)
        for entry in entries:
            mine = acks.pop(entry.id, ()) if acks else ()
            if app in self.followers:
                self._tell_one(app, entry, [connection for connection, _, _ in mine if connection])
            for connection, done, result in mine:
                self.settle(connection, done, result)
        for each in [each for each in acks or () if each <= position]:
            assert acks is not None
            for connection, done, result in acks.pop(each):
                self.settle(connection, done, result)
        if acks is not None and not acks:
            del self._acks[app]

    def _tell_one(self, app: str, entry: Entry, senders: list[Connection]) -> None:
        if entry.kind in ("join", "group"):
            self._joined(app, entry)
        if entry.members:
            readers: Collection[Connection] = [
                each for user in set(entry.members) for each in self._following(app, user)
            ]
        else:
            readers = self.rooms.members(app, entry.conversation)
        if readers:
            message = message_of(entry)
            live = []
            for each in readers:
                if each in senders:
                    continue
                held = each.about.held
                if held is None:
                    live.append(each)
                elif type(held) is list:
                    held.append(message)
            self._push(app, live, message)
            if len(live) > self.widest.get(app, 0):
                self.widest[app] = len(live)
        if entry.kind == "leave":
            for user in concerned(entry):
                self.readings.changed(app, user)
                for each in self._following(app, user):
                    self.rooms.leave(app, each, entry.conversation)

    def _joined(self, app: str, entry: Entry) -> None:
        for user in concerned(entry):
            self.readings.changed(app, user)
            for each in self._following(app, user):
                self.rooms.enter(app, each, entry.conversation)

    def _following(self, app: str, user: str) -> list[Connection]:
        known = self._hub.apps.get(app)
        if known is None:
            return []
        return [each for each in known.sessions_of(user) if isinstance(each.about, Reader)]

    def give(self, connection: Connection, messages: Sequence[Message]) -> None:
        """Tell one connection what it missed."""
        for message in messages:
            self._push(connection.app or "", [connection], message)

    def _push(self, app: str, connections: Collection[Connection], message: Message) -> None:
        self._fanout.message(self._hub.apps[app], connections, message)
        if self.acknowledging:
            for each in connections:
                if isinstance(each.about, Acknowledger):
                    self._wheel.told(each, each.about, message.id)
