"""The registrar reports to the registry which channels have members on this
node.

- The first member of a channel on a node waits until the registry knows the
  channel. Later members do not wait. So a publication that follows an answered
  join reaches this node.
- Changes of the number of members are reported about once a second. A node that
  has lost its last member still receives publications until then.
- A node that must report everything again (after a flush or a lost lease) is
  *unsettled* until it has done so. Its lease has a flag for that. A node that
  could not report a channel informs its peers. Both kinds of nodes receive
  every publication.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Final

import gevent
from gevent.event import Event as Flag
from msgspec import field

from imserver.gateway.clock import take_turns, until_beat
from imserver.gateway.cluster.nodes import ChannelsUnsettled, NodeMessages
from imserver.gateway.cluster.registry import ReportedMembers
from imserver.gateway.hub.hub import Hub
from imserver.gateway.model import Service

if TYPE_CHECKING:
    from imserver.gateway.cluster.redis.registry import RedisRegistry


REPORT_SECONDS: Final = 1.0
"""How old the number of members in the registry may be, in seconds."""
REPORTED_CHANNELS: Final = 500
"""Limit of the channels in one report."""
_REPORT_PAUSE_SECONDS: Final = 0.01
"""Least time between two reports of all channels."""

_Key = tuple[str, str]
"""The name of an app, and the name of one of its channels."""


class Registrar(Service):
    """Reports to the registry which channels have members on this node.

    Owner of the set of channels that the registry knows, and of the changes
    that must be reported.
    """

    _registry: RedisRegistry
    _node_messages: NodeMessages
    _hub: Hub
    _reported: set[_Key] = field(default_factory=set)
    """Channels that are stored in the registry as channels with members here.
    This is true only in the life ``_life`` of the registry."""
    _changed: dict[_Key, None] = field(default_factory=dict)
    """Channels to be reported. The channel that changed longest ago comes
    first. The dict is used as an ordered set, so the values have no meaning."""
    _life: int = 0
    """The :meth:`RedisRegistry.generation` in which all channels were last
    reported; 0 if they were never reported."""
    _entering: dict[_Key, Flag] = field(default_factory=dict)
    """Channels whose first subscription is being registered."""
    _wake: Flag = field(default_factory=Flag)
    """A flag that makes the greenlet check at once, and not after a second,
    whether everything must be reported."""
    on_empty: list[Callable[[str, str], object]] = field(default_factory=list)
    """See
    :meth:`imserver.gateway.channels.members.ChannelMembers.report_to`."""
    _greenlet: gevent.Greenlet[..., None] | None = None

    def is_reported(self, app: str, channel: str) -> bool:
        """Whether the registry knows that a channel has members here.

        Never switches greenlets.
        """
        key = (app, channel)
        return key in self._reported and self._life == self._registry.generation()

    def changed(self, app: str, channel: str) -> None:
        """Note that the number of members of a channel has changed.

        The change is reported within a second. Never switches greenlets.
        """
        self._changed[app, channel] = None

    def report_join(self, app: str, channel: str, is_new_member: bool) -> bool:
        """Make sure that the registry knows a channel that a connection has
        joined.

        Returns when the registry knows the channel, or does not answer.
        ``is_new_member`` means that the connection was not a member before.
        Returns True if this call has reported the channel, and the registry
        knows of no members on other nodes (also if it did not answer). Switches
        greenlets if the channel must be reported.
        """
        if not self.is_reported(app, channel):
            return self._report_first_member((app, channel))
        if is_new_member:
            self.changed(app, channel)
        return False

    def _report_first_member(self, key: _Key) -> bool:
        """Report a channel that the registry does not know, or wait until
        another greenlet has reported it.

        The result is as for :meth:`report_join`.
        """
        under_way = self._entering.get(key)
        if under_way is not None:
            under_way.wait()
            return False

        entered = Flag()
        self._entering[key] = entered
        try:
            return self._store_first_member(key)
        finally:
            # The number of members may have changed during the report.
            self._changed[key] = None
            del self._entering[key]
            entered.set()

    def _store_first_member(self, key: _Key) -> bool:
        """Tell the registry that a channel has a member on this node.

        If the registry does not answer, all other nodes are told. The result is
        as for :meth:`report_join`.
        """
        life = self._registry.generation()
        # The registry only has to know that there is a member.
        report = ReportedMembers(*key, members=1)
        members_elsewhere = self._registry.report_channels([report])
        has_stored = members_elsewhere is not None
        if has_stored and life == self._registry.generation():
            self._reported.add(key)
        else:
            # The registry does not answer, so this node tells the other nodes,
            # which then send it every publication.
            message = ChannelsUnsettled(self._node_messages.own_epoch)
            self._node_messages.broadcast(message)
        return members_elsewhere is None or not members_elsewhere[0]

    def unsettled(self) -> bool:
        """Whether the registry does not know all channels here yet.

        Never switches greenlets.
        """
        return not self._life or self._life != self._registry.generation()

    def start(self) -> None:
        """Start the greenlet."""
        self._life = self._registry.generation()
        self._greenlet = gevent.spawn(self._run)

    def stop(self, seconds: float) -> bool:
        """Stop the greenlet within ``seconds``, and report all remaining
        changes.

        Returns whether the registry has stored all of them.
        """
        greenlet = self._greenlet
        self._greenlet = None  # this ends the loop of the greenlet
        if greenlet is not None:
            self._wake.set()
            greenlet.join(seconds)
            greenlet.kill()
        return self._report_changes()

    def wake(self) -> None:
        """Check now whether the registry has lost its data. Never switches
        greenlets."""
        self._wake.set()

    def _run(self) -> None:
        """Greenlet: report changes once a second.

        If the registry has lost its data, all channels are reported.
        """
        while self._greenlet is not None:
            self._wake.wait(until_beat(REPORT_SECONDS))
            self._wake.clear()
            try:
                if self.unsettled():
                    self._report_all()
                else:
                    self._report_changes()
            except Exception:
                logging.getLogger(__name__).exception(
                    "reporting channels to the registry failed"
                )

    def _report_changes(self) -> bool:
        """Report the changed channels.

        Returns False if the registry does not answer. Switches greenlets.
        """
        while self._changed:
            # A channel whose first subscription is being registered is reported
            # in the next round.
            reportable = (key for key in self._changed if key not in self._entering)
            keys = list(islice(reportable, REPORTED_CHANNELS))
            for key in keys:
                del self._changed[key]
            if not keys:
                break
            if not self._report(keys):
                # These channels are reported again in the next round.
                self._changed.update(dict.fromkeys(keys))
                return False
        return True

    def _report(self, keys: Iterable[_Key]) -> bool:
        """Report how many members these channels have here.

        This calls the listeners for the channels that have no members on any
        node now. Returns False if it is not known whether the registry has
        stored the report.
        """
        life = self._registry.generation()
        entries = [
            ReportedMembers(*key, self._hub.member_count(*key))
            for key in keys
            if key not in self._entering
        ]
        self._forget_empty(entries)
        members_elsewhere = self._registry.report_channels(entries)
        # If the registry has lost data meanwhile, it may not have the report.
        if members_elsewhere is None or life != self._registry.generation():
            return False

        self._announce_empty(entries, members_elsewhere)
        self._reported.update(
            (entry.app, entry.channel) for entry in entries if entry.members
        )
        return True

    def _forget_empty(self, entries: Iterable[ReportedMembers]) -> None:
        """Forget that the registry knows the channels without members.

        This is called before the report, so that a connection that joins during
        the report makes a report of its own.
        """
        for entry in entries:
            if not entry.members:
                self._reported.discard((entry.app, entry.channel))

    def _announce_empty(
        self, entries: Sequence[ReportedMembers], members_elsewhere: Sequence[int]
    ) -> None:
        """Call the listeners for the reported channels that are empty now.

        ``members_elsewhere`` has, for each entry, the number of members on
        other nodes.
        """
        for entry, count_elsewhere in zip(entries, members_elsewhere, strict=True):
            if not entry.members and not count_elsewhere:
                for listener in self.on_empty:
                    listener(entry.app, entry.channel)

    def _report_all(self) -> None:
        """Report all channels with members here.

        There are pauses between the reports, because other nodes report at the
        same time.
        """
        take_turns(len(self._registry.leases()))
        life = self._registry.generation()
        self._reported.clear()
        keys = self._keys_here()
        for first in range(0, len(keys), REPORTED_CHANNELS):
            started = monotonic()
            if not self._report(keys[first : first + REPORTED_CHANNELS]):
                return  # the node stays unsettled, so the next round tries again
            # If the registry answers slowly, the pause is longer. In the pause,
            # other nodes can report.
            report_seconds = monotonic() - started
            gevent.sleep(_REPORT_PAUSE_SECONDS + 2 * report_seconds)
        self._life = life

    def _keys_here(self) -> list[_Key]:
        """List the channels that have members on this node."""
        keys: list[_Key] = []
        for name, app in self._hub.apps.items():
            keys += [(name, channel) for channel in app.channels]
        return keys
