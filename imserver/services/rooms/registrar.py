"""The registrar of rooms: tells the registry in which rooms this node has members.

- A room's first member on a node waits until the registry knows; later ones do not. So whoever publishes
  after a join was answered finds this node.
- That a room has more members, fewer or none is told about once a second. A node that has none any more
  gets what is published in between, for nobody.
- A node that has to say everything again (a flush, a lost lease) is *unsettled* until it has, and its lease
  says so; one that could not tell of a room says so to its peers. Either gets whatever is published.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Final

import gevent
from gevent.event import Event as Signal

from imserver.cluster.registry import RoomMembers
from imserver.hub.hub import Hub
from imserver.services.nodes.messages import NodeMessages, RoomsUnsettled

if TYPE_CHECKING:
    from imserver.cluster.redis.registry import RedisRegistry

log = logging.getLogger(__name__)

TELL_SECONDS: Final = 1.0
"""How old what the registry says of the number of members may be."""
TOLD_ROOMS: Final = 500
"""Rooms that the registry is told of together."""
_PAUSE_SECONDS: Final = 0.01
_HERD_SECONDS: Final = 0.05
_HERD_LIMIT_SECONDS: Final = 3.0

_Key = tuple[str, str]


class Registrar:
    """Owner of what the registry has been told and is to be told. ``count`` counts a room's members here."""

    def __init__(
        self, registry: RedisRegistry, node_messages: NodeMessages, hub: Hub, count: Callable[[str, str], int]
    ) -> None:
        self._registry = registry
        self._node_messages = node_messages
        self._hub = hub
        self._count = count
        self._told: set[_Key] = set()
        """Rooms that the registry knows to have members here, as long as the registry lives ``_life``."""
        self._changed: dict[_Key, None] = {}
        """Rooms of which the registry is to be told."""
        self._life = 0
        """The life of the registry in which it was told of all rooms."""
        self._entering: dict[_Key, Signal] = {}
        """Rooms whose first members wait for the registry."""
        self._wake = Signal()
        self._teller: gevent.Greenlet[..., None] | None = None

    def is_told(self, app: str, room: str) -> bool:
        """Whether the registry knows that the room has members here. Never switches."""
        return (app, room) in self._told and self._life == self._registry.generation()

    def changed(self, app: str, room: str) -> None:
        """The room has more members or fewer, or none any more. Never switches."""
        self._changed[app, room] = None

    def joined(self, app: str, room: str, new: bool) -> None:
        """Somebody has joined: return when the registry knows that the room has members here, or does not
        answer. ``new``: they were not in there."""
        if not self.is_told(app, room):
            self._enter((app, room))
        elif new:
            self.changed(app, room)

    def _enter(self, key: _Key) -> None:
        under_way = self._entering.get(key)
        if under_way is not None:
            under_way.wait()
            return
        done = self._entering[key] = Signal()
        life = self._registry.generation()
        try:
            if self._registry.report_rooms([RoomMembers(*key, 1)]) and life == self._registry.generation():
                self._told.add(key)
            else:
                self._node_messages.broadcast(RoomsUnsettled(self._node_messages.own_epoch))
        finally:
            self._changed[key] = None
            del self._entering[key]
            done.set()

    def unsettled(self) -> bool:
        """Whether the registry does not know of all rooms here yet. Never switches."""
        return not self._life or self._life != self._registry.generation()

    def start(self) -> None:
        """Begin to tell the registry."""
        self._life = self._registry.generation()
        self._teller = gevent.spawn(self._run)

    def stop(self, seconds: float) -> bool:
        """End, and tell what is left to tell; whether all of it is told. Takes about ``seconds`` at most."""
        teller, self._teller = self._teller, None
        if teller is not None:
            self._wake.set()
            teller.join(seconds)
            teller.kill()
        return self._tell_changes()

    def wake(self) -> None:
        """Everything may have to be said again. Never switches."""
        self._wake.set()

    def _run(self) -> None:
        """Greenlet: tell the registry once a second what has changed, or everything when it has to be."""
        while self._teller is not None:
            self._wake.wait(TELL_SECONDS)
            self._wake.clear()
            try:
                if self.unsettled():
                    self._tell_everything()
                else:
                    self._tell_changes()
            except Exception:
                log.exception("telling the registry of rooms failed")

    def _tell_changes(self) -> bool:
        """Tell of the rooms that have changed; False if the registry does not answer. Switches."""
        while self._changed:
            # Who is being entered is told of in the next round.
            keys = list(islice((key for key in self._changed if key not in self._entering), TOLD_ROOMS))
            for key in keys:
                del self._changed[key]
            if not keys:
                break
            if not self._tell(keys):
                self._changed.update(dict.fromkeys(keys))
                return False
        return True

    def _tell(self, keys: Iterable[_Key]) -> bool:
        """Tell of these rooms; False: it is not known whether the registry has heard it."""
        life = self._registry.generation()
        counted = self._count
        entries = [RoomMembers(*key, counted(*key)) for key in keys if key not in self._entering]
        for entry in entries:
            if not entry.members:
                # Before it is told: who joins meanwhile has to say so behind that.
                self._told.discard((entry.app, entry.room))
        if not self._registry.report_rooms(entries) or life != self._registry.generation():
            return False
        self._told.update((entry.app, entry.room) for entry in entries if entry.members)
        return True

    def _tell_everything(self) -> None:
        """Say again which rooms have members here. Paced: other nodes do so, too."""
        nodes = len(self._registry.leases())
        if nodes > 1:
            gevent.sleep(random.uniform(0, min(nodes * _HERD_SECONDS, _HERD_LIMIT_SECONDS)))
        life = self._registry.generation()
        self._told.clear()
        keys = [(name, room) for name, app in self._hub.apps.items() for room in app.rooms]
        for first in range(0, len(keys), TOLD_ROOMS):
            began = monotonic()
            if not self._tell(keys[first : first + TOLD_ROOMS]):
                return
            gevent.sleep(_PAUSE_SECONDS + 2 * (monotonic() - began))
        self._life = life
