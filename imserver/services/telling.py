"""Telling: what is stored is told to those here who read it, and to its senders, in the order of the log.

To one connection everything stored leaves in the order of ids, acknowledgements of its own messages included:
a client's cursor is the greatest id that it saw, and must mean that it saw everything before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.hub.fanout import Fanout, Run
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
MAX_RUN: Final = 50
"""Most messages that are told in one frame, where a dialect can."""
MAX_RUN_BYTES: Final = 65_536
"""Most bytes of their bodies, if there are several."""
_OF_MEMBERS: Final = ("join", "leave", "group")
"""Kinds of entries that change who reads what comes next."""

Result = Appended | Rejected | StorageUnavailable
Done = Callable[[Result], None]
"""What became of a draft; called once, and must not switch."""
Waiting = tuple[Connection | None, Done, Appended]
"""Who is to be told that a draft is stored."""


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
        self._acks: dict[str, dict[int, list[Waiting]]] = {}

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
        begin, acks, followed = 0, self._acks.get(app, {}), app in self.followers
        while begin < len(entries):
            end = _end_of_run(entries, begin)
            run, begin = entries[begin:end], end
            mine = [acks.pop(entry.id, ()) for entry in run] if acks else ()
            if followed:
                self._tell_run(app, run, mine)
            else:
                self._settle_all(mine)
        if acks:
            self._settle_all([acks.pop(id) for id in sorted(acks) if id <= position])
        if not acks:
            self._acks.pop(app, None)

    def _settle_all(self, waiting: Iterable[Sequence[Waiting]]) -> None:
        for each in waiting:
            for connection, done, result in each:
                self.settle(connection, done, result)

    def _tell_run(self, app: str, entries: list[Entry], mine: Sequence[Sequence[Waiting]]) -> None:
        """Tell entries of one conversation to its readers here: the same to all but the senders, who are told
        what stands before, between and behind their own, and in its place that it is stored."""
        first = entries[0]
        if first.kind in ("join", "group"):
            self._joined(app, first)
        readers = self._readers(app, first)
        if readers:
            run = Run([message_of(entry) for entry in entries])
            senders = {
                connection: 0
                for each in mine
                for connection, _, _ in each
                if connection is not None and connection in readers
            }
            self._tell_others(app, readers, senders, run)
            for place, each in enumerate(mine):
                for connection, done, result in each:
                    if connection is not None and connection in senders:
                        self._give(app, connection, run, senders[connection], place)
                        senders[connection] = place + 1
                    self.settle(connection, done, result)
            for sender, begin in senders.items():
                self._give(app, sender, run, begin, len(entries))
        else:
            self._settle_all(mine)
        if first.kind == "leave":
            for user in concerned(first):
                self.readings.changed(app, user)
                for reader in self._following(app, user):
                    self.rooms.leave(app, reader, first.conversation)

    def _readers(self, app: str, entry: Entry) -> Collection[Connection]:
        if entry.members:
            return [each for user in set(entry.members) for each in self._following(app, user)]
        return self.rooms.members(app, entry.conversation)

    def _tell_others(
        self, app: str, readers: Collection[Connection], senders: Collection[Connection], run: Run
    ) -> None:
        live = []
        for each in readers:
            if each in senders:
                continue
            held = each.about.held
            if held is None:
                live.append(each)
            elif type(held) is list:
                held.extend(run.messages)
        if not live:
            return
        self._fanout.run(self._hub.apps[app], live, run)
        self._note_told(live, run.messages[-1].id)
        if len(live) > self.widest.get(app, 0):
            self.widest[app] = len(live)

    def _give(self, app: str, connection: Connection, run: Run, begin: int, end: int) -> None:
        """Tell a sender a part of a run."""
        reader = connection.about
        if begin >= end or not isinstance(reader, Reader):
            return
        if reader.held is None:
            self._fanout.part(self._hub.apps[app], connection, run, begin, end)
            self._note_told((connection,), run.messages[end - 1].id)
        elif type(reader.held) is list:
            reader.held.extend(run.messages[begin:end])

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
        begin = 0
        while begin < len(messages):
            end, size = begin + 1, len(messages[begin].body)
            while end < len(messages) and end - begin < MAX_RUN:
                size += len(messages[end].body)
                if size > MAX_RUN_BYTES:
                    break
                end += 1
            run, begin = messages[begin:end], end
            self._fanout.run(self._hub.apps[connection.app or ""], (connection,), Run(run))
            self._note_told((connection,), run[-1].id)

    def _note_told(self, connections: Collection[Connection], id: int) -> None:
        if self.acknowledging:
            for each in connections:
                if isinstance(each.about, Acknowledger):
                    self._wheel.told(each, each.about, id)


def _end_of_run(entries: Sequence[Entry], begin: int) -> int:
    """Where what is told together with the entry at ``begin`` ends: another conversation begins, or who reads
    it changes, or it is enough for a frame."""
    first, end, size = entries[begin], begin + 1, len(entries[begin].body)
    if first.kind in _OF_MEMBERS:
        return end
    most = min(len(entries), begin + MAX_RUN)
    while end < most and entries[end].conversation == first.conversation:
        size += len(entries[end].body)
        if entries[end].kind in _OF_MEMBERS or size > MAX_RUN_BYTES:
            break
        end += 1
    return end
