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
from imserver.hub.fanout import Fanout, Part, Run
from imserver.hub.hub import Hub
from imserver.model import Message
from imserver.services.messages.acks import Acknowledger, AckWheel
from imserver.services.messages.readers import GroupRooms, Reader, Readings, concerned, with_acknowledgement
from imserver.storage.log.contract import Appended, Entry, Rejected, message_of
from imserver.transport.connection import Connection

log = logging.getLogger(__name__)

MAX_HELD: Final = 1000
"""Acknowledgements that wait for a connection to ask for what it missed; beyond, it is a slow reader."""
MAX_WINDOW: Final = 250
"""Most entries that are told together."""
MAX_RUN: Final = 50
"""Most messages in one frame, where a dialect can."""
MAX_RUN_BYTES: Final = 65_536
"""Most bytes of their bodies, if there are several."""
_OF_MEMBERS: Final = ("join", "leave", "group")
"""Kinds of entries that change who reads what comes next."""

Result = Appended | Rejected | StorageUnavailable
Done = Callable[[Result], None]
"""What became of a draft; called once, and must not switch."""


Waiting = tuple[Connection | None, Done, Appended]
"""Who is to be told that a draft is stored."""
Readers = dict[int, Collection[Connection]]
"""Conversation → those who read it here."""


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
        """Say what became of a draft, behind what its sender has still to ask for, if it asks by ids."""
        reader = None if connection is None else connection.about
        if (
            isinstance(reader, Reader)
            and isinstance(result, Appended)
            and not reader.live
            and reader.by_cursor
        ):
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
            end = _end_of_window(entries, begin)
            window, begin = entries[begin:end], end
            mine = [acks.pop(entry.id, ()) if acks else () for entry in window]
            if followed:
                self._tell_window(app, window, mine)
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

    def _tell_window(self, app: str, entries: list[Entry], mine: Sequence[Sequence[Waiting]]) -> None:
        """Tell entries between which nobody comes or goes. Of each conversation its readers are told all at
        once; but who has sent some of this, or reads several of these conversations, is told it in order."""
        first = entries[0]
        if first.kind in ("join", "group"):
            self._joined(app, first)
        readers: Readers = {}
        places: dict[int, list[int]] = {}
        messages: list[Message] = []
        for entry in entries:
            number = entry.conversation
            found = readers.get(number)
            if found is None:
                found = readers[number] = self._readers(app, entry)
            if found:
                places.setdefault(number, []).append(len(messages))
                messages.append(message_of(entry))
        if messages:
            run = Run(messages)
            special = {connection for own in mine for connection, _, _ in own if connection is not None}
            if len(places) > 1:
                special |= _readers_of_several([readers[number] for number in places])
            for number, some in places.items():
                self._tell_others(app, readers[number], special, Part(run, some))
            self._tell_in_order(app, entries, mine, _only(special, readers), run)
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
        if entry.room:
            known = self._hub.apps.get(app)
            room = None if known is None else known.rooms.get(entry.room)
            if room is None:
                return []
            return {each: None for each in room.members if getattr(each.about, "hears_rooms", False)}
        return self.rooms.members(app, entry.conversation)

    def _tell_others(
        self, app: str, readers: Collection[Connection], special: Collection[Connection], part: Part
    ) -> None:
        live = []
        for each in readers:
            if each in special:
                continue
            held = each.about.held
            if held is None:
                live.append(each)
            elif type(held) is list:
                held.extend([part.run.messages[place] for place in part.places])
        if live:
            self._push(app, live, part)
        if len(live) > self.widest.get(app, 0):
            self.widest[app] = len(live)

    def _tell_in_order(
        self,
        app: str,
        entries: Sequence[Entry],
        mine: Sequence[Sequence[Waiting]],
        readers: Readers,
        run: Run,
    ) -> None:
        """Tell each of these readers what it reads, and senders in the places of theirs that it is stored."""
        waiting: dict[Connection, list[int]] = {}
        place = 0
        for entry, own in zip(entries, mine, strict=True):
            special = readers.get(entry.conversation)
            if special is not None:
                # In a room those who speak hear themselves.
                senders = () if entry.room else [connection for connection, _, _ in own]
                for each in special:
                    if each not in senders:
                        waiting.setdefault(each, []).append(place)
                place += 1
            for connection, done, result in own:
                if connection is not None:
                    self._give(app, connection, run, waiting.pop(connection, ()))
                self.settle(connection, done, result)
        for connection, some in waiting.items():
            self._give(app, connection, run, some)

    def _give(self, app: str, connection: Connection, run: Run, places: Sequence[int]) -> None:
        """Tell one connection a part of a run."""
        reader = connection.about
        if not places or not isinstance(reader, Reader):
            return
        if reader.held is None:
            self._push(app, (connection,), Part(run, places))
        elif type(reader.held) is list:
            reader.held.extend([run.messages[place] for place in places])

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
        if messages:
            self._push(connection.app or "", (connection,), Part(Run(messages), range(len(messages))))

    def _push(self, app: str, connections: Collection[Connection], part: Part) -> None:
        run, places = part.run, part.places
        for some in _frames(run.messages, places) if len(places) > 1 else (places,):
            self._fanout.messages(self._hub.apps[app], connections, Part(run, some))
        if self.acknowledging:
            for each in connections:
                if isinstance(each.about, Acknowledger):
                    self._wheel.told(each, each.about, run.messages[places[-1]].id)


def _end_of_window(entries: Sequence[Entry], begin: int) -> int:
    """Where that ends what is told together with the entry at ``begin``: readers change, or it is enough."""
    end, most = begin + 1, min(len(entries), begin + MAX_WINDOW)
    if entries[begin].kind not in _OF_MEMBERS:
        while end < most and entries[end].kind not in _OF_MEMBERS:
            end += 1
    return end


def _readers_of_several(groups: Iterable[Collection[Connection]]) -> set[Connection]:
    """Who is in more than one of these; the largest is not walked through."""
    *smaller, largest = sorted(groups, key=len)
    seen: set[Connection] = set()
    several: set[Connection] = set()
    for group in smaller:
        for each in group:
            (several if each in seen else seen).add(each)
    several.update([each for each in seen if each in largest])
    return several


def _only(special: Collection[Connection], readers: Readers) -> Readers:
    """The special ones among the readers of each conversation that has any."""
    found: Readers = {}
    for number, some in readers.items():
        if some:
            few, many = (special, some) if len(special) < len(some) else (some, special)
            found[number] = [each for each in few if each in many]
    return found


def _frames(messages: Sequence[Message], places: Sequence[int]) -> Iterable[Sequence[int]]:
    """These places in parts, each for one frame."""
    begin = 0
    while begin < len(places):
        end, size = begin + 1, len(messages[places[begin]].body)
        while end < len(places) and end - begin < MAX_RUN:
            size += len(messages[places[end]].body)
            if size > MAX_RUN_BYTES:
                break
            end += 1
        yield places[begin:end]
        begin = end
