"""The nodes of the subscribers of channels: publications to other nodes of the cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Final

import gevent

from imserver.channels.members import Publication
from imserver.channels.registrar import Registrar
from imserver.cluster.nodes import OtherNodes, ToChannel
from imserver.transport.connection import Connection

MembersOfNodes = Mapping[int, int]
"""Epoch of a node → how many members of a channel it has."""
_NOWHERE: Final[MembersOfNodes] = {}


class ChannelNodes:
    """Sends publications to the other nodes that have subscribers. Owner of the publishing turns.

    While the registry does not answer, and for a while after, publications go to all live nodes.
    """

    def __init__(self, others: OtherNodes, registrar: Registrar) -> None:
        self._registry = others.registry
        self._node_messages = others.node_messages
        self._registrar = registrar
        self._turns: dict[tuple[str, str], deque[object]] = {}
        """Channel → the publishers that have asked the registry for its nodes, in their order."""
        self._unsettled: dict[int, float] = {}
        """Epochs of nodes that could not report a channel to the registry, and until when that counts."""

    @contextmanager
    def turn(self, app: str, channels: Sequence[str]) -> Iterator[Mapping[str, MembersOfNodes | None]]:
        """The turn to publish to these channels, after all earlier calls: channel → its nodes. None: the
        registry does not answer. May switch before the turn.
        """
        names = dict.fromkeys(channels)
        if len(self._registry.leases()) <= 1 and not any((app, each) in self._turns for each in names):
            yield dict.fromkeys(names, _NOWHERE)
            return
        ticket = object()
        for channel in names:
            self._turns.setdefault((app, channel), deque()).append(ticket)
        try:
            found = self._registry.find_channels(app, list(names))
            nodes: dict[str, MembersOfNodes | None] = dict.fromkeys(names)
            nodes.update(zip(names, found or (), strict=False))
            for channel in names:
                while self._turns[app, channel][0] is not ticket:
                    gevent.sleep(0.001)
            yield nodes
        finally:
            for channel in names:
                turns = self._turns[app, channel]
                turns.remove(ticket)
                if not turns:
                    del self._turns[app, channel]

    def members_elsewhere(self, nodes: MembersOfNodes | None) -> int:
        """How many of these members are on other nodes. Never switches."""
        own = self._node_messages.own_epoch
        return sum(members for epoch, members in (nodes or {}).items() if epoch != own)

    def send(
        self, app: str, what: Publication, nodes: MembersOfNodes | None, reached: bool
    ) -> tuple[int, int]:
        """Send to the other ones of these nodes (None: to all). Never switches.

        ``reached``: this node has members. Returns the number of nodes that get it, and of those that do not.
        """
        receivers = self._receivers(app, what.channel, nodes, reached) - {self._node_messages.own_epoch}
        if not receivers:
            return 0, 0
        skipped = what.except_connection
        if isinstance(skipped, Connection):
            skipped = ""
        item = ToChannel(app, what.channel, what.event, what.except_users, skipped or "")
        sent = self._node_messages.send_each(receivers, item)
        return sent, len(receivers) - sent

    def _receivers(self, app: str, channel: str, nodes: MembersOfNodes | None, reached: bool) -> set[int]:
        """The epochs of the nodes that must get a publication."""
        leases, own = self._registry.leases(), self._node_messages.own_epoch
        # If the registry has lost this node, it may have lost others too.
        if nodes is None or (own not in nodes and reached and self._registrar.is_reported(app, channel)):
            return {epoch for epoch, lease in leases.items() if lease.birth}
        if self._unsettled:
            now = monotonic()
            self._unsettled = {each: until for each, until in self._unsettled.items() if until > now}
            return {*nodes, *self._unsettled} & leases.keys()
        return {*nodes}

    def peer_unsettled(self, epoch: int) -> None:
        """Record that a node could not report a channel to the registry: for ten seconds it gets every
        publication. Never switches."""
        self._unsettled[epoch] = monotonic() + 10.0
