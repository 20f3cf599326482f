"""Keeps the lease, detects outages and restarts of Redis, starts re-registration and cleanup."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final, Literal

import gevent
from gevent.event import Event as Signal

from imserver.clock import CLOCK_SECONDS, take_turns, until_beat
from imserver.cluster.redis.cleanup import DeadNodeCleanup, Interrupted
from imserver.cluster.redis.lease import LeaseKeeper, LeaseLost
from imserver.cluster.redis.pipeline import Pipeline, RedisLink, RedisUnavailable
from imserver.cluster.registry import Lease, RegistryCounters
from imserver.errors import StartError

log = logging.getLogger(__name__)

NOTHING: Final = 0
UNREGISTERED: Final = 1
EVERYTHING: Final = 2
Extent = Literal[0, 1, 2]
"""Which sessions must be registered again."""
_TICK_SECONDS: Final = 1.0


class RegistryRecovery:
    """One greenlet that checks the lease once a second. Owner of ``generation`` and of the jobs it starts.

    ``reregister(extent)`` registers sessions again; ``leases_changed`` is called when other epochs are live.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        pipeline: Pipeline,
        data_link: RedisLink,
        counters: RegistryCounters,
        apps: Collection[str],
        renew_seconds: float,
        reregister: Callable[[Extent], None],
        leases_changed: Callable[[], None],
    ) -> None:
        self.generation = 0
        """Increases whenever everything must be registered again; 0: nothing was registered yet."""
        self.up = False
        """Whether the last lease check succeeded."""
        self.pending: Extent = NOTHING
        self.rejoin = False
        """Take a new epoch, because it is unknown what the current one has left in Redis."""
        self._keeper = keeper
        self._pipeline = pipeline
        self._links = (data_link, keeper.link)
        self._counters = counters
        self._cleanup = DeadNodeCleanup(pipeline, counters, apps)
        self._tick_seconds = min(_TICK_SECONDS, renew_seconds)
        self._reregister = reregister
        self._leases_changed = leases_changed
        self._epoch = 0
        self._refusal = ""
        self._is_clock_wrong = False
        self._connects = 0
        self._life = b""
        """The life of the data in Redis; ``b""``: not known."""
        self._wake = Signal()
        self._ticked = Signal()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._jobs: dict[str, gevent.Greenlet[..., None]] = {}

    # --- interface ------------------------------------------------------------------------------------------

    def join(self) -> None:
        """The first check. Raises :class:`~imserver.errors.StartError` and RedisUnavailable. Switches."""
        self._keeper.join()
        self._joined()
        self.pending = NOTHING
        self.up = True
        self._pipeline.probe()
        self._check_restart()

    def start(self) -> None:
        """Start the greenlet."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """End all greenlets. Switches."""
        greenlets = [*self._jobs.values(), *([self._greenlet] if self._greenlet is not None else [])]
        gevent.killall(greenlets)

    def request(self, extent: Extent) -> None:
        """Register sessions again as soon as possible. Never switches."""
        self.pending = max(self.pending, extent)

    def wake(self) -> None:
        """Check now instead of at the next tick. Never switches."""
        self._wake.set()

    def live_leases(self, epochs: Collection[int], seconds: float) -> Mapping[int, Lease]:
        """The live leases. Reads them again, for at most ``seconds``, if one of ``epochs`` began just now."""
        table = self._keeper.table
        if any(table.is_newer(epoch) for epoch in epochs):
            self._ticked.clear()
            self._wake.set()
            self._ticked.wait(seconds)
        return table.live

    # --- greenlet -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Greenlet: one check per tick."""
        while True:
            self._wake.wait(until_beat(self._tick_seconds))
            self._wake.clear()
            try:
                self._tick()
            except RedisUnavailable as error:
                self._fail(error)
            except Exception:
                log.exception("checking the lease failed")
            self._ticked.set()

    def _tick(self) -> None:
        self._refresh()
        if not self.up:
            self.up = True
            log.info("Redis is available; this node has epoch %d", self._epoch)
        data_link, lease_link = self._links
        # An idle connection for the data may still lead to the server before.
        needs_probe = not self._pipeline.closed or data_link.life != lease_link.life
        if needs_probe and not self._pipeline.probe():
            return
        self._check_restart()
        if self.pending:
            self._job("re-registration", self._run_reregistration)
        if self._keeper.cleans_up:
            self._job("cleanup", self._run_cleanup)

    def _refresh(self) -> None:
        """Read the leases; renew or join if due."""
        keeper = self._keeper
        changed = False
        try:
            if not keeper.lease.epoch or self.rejoin:
                self._rejoin()
            else:
                changed = keeper.refresh()
        except LeaseLost:
            log.warning("the lease of epoch %d was lost, taking a new epoch", keeper.lease.epoch)
            self._rejoin()
        self._check_clock()
        self._joined()
        if changed:
            self._leases_changed()

    def _check_clock(self) -> None:
        """Tell the operator when the clock of this node begins or ends to differ from that of Redis."""
        ahead = self._keeper.clock_seconds
        if (abs(ahead) > CLOCK_SECONDS) == self._is_clock_wrong:
            return
        self._is_clock_wrong = not self._is_clock_wrong
        if self._is_clock_wrong:
            log.warning(
                "the clock of this node is %.1f s %s that of Redis: tokens expire too %s, and times of "
                "messages are wrong. Let a time service set it",
                abs(ahead),
                *(("ahead of", "early") if ahead > 0 else ("behind", "late")),
            )
        else:
            log.info("the clock of this node agrees with that of Redis")

    def _rejoin(self) -> None:
        try:
            self._keeper.join()
        except StartError as error:
            raise RedisUnavailable(f"this node must not join: {error}", refused=True) from None
        self.rejoin = False

    def _joined(self) -> None:
        """Handle a new epoch: everything has to be registered again."""
        if self._keeper.lease.epoch != self._epoch:
            self._epoch = self._keeper.lease.epoch
            self._counters.epochs += 1
            self.generation += 1
            self.request(EVERYTHING)
            self._leases_changed()

    def _fail(self, error: RedisUnavailable) -> None:
        if self._keeper.lease.epoch != self._epoch:
            self._joined()
        if self.up or (error.refused and str(error) != self._refusal):
            log.warning("lease not renewed: %s", error)
        self.up = False
        self._refusal = str(error) if error.refused else ""

    # --- recovery -------------------------------------------------------------------------------------------

    def _check_restart(self) -> None:
        """After a new connection: compare the life of the data. Another one, or an unknown one, may have lost
        the last writes."""
        connects = sum(link.connects for link in self._links)
        if connects == self._connects:
            return
        life = self._links[0].life
        if self._connects and (not life or life != self._life):
            log.warning("Redis was restarted or has failed over: registering all sessions again")
            self.generation += 1
            self.request(EVERYTHING)
        self._connects, self._life = connects, life

    def _job(self, name: str, run: Callable[[], None]) -> None:
        """Run a job in a greenlet unless it is running."""
        if name not in self._jobs or self._jobs[name].dead:
            self._jobs[name] = gevent.spawn(run)

    def _run_reregistration(self) -> None:
        take_turns(len(self._keeper.table.live))
        extent, self.pending = self.pending, NOTHING
        try:
            self._reregister(extent)
        except Interrupted:
            self.request(extent)
        except Exception:
            log.exception("re-registration failed")

    def _run_cleanup(self) -> None:
        table = self._keeper.table
        try:
            self._cleanup.run(
                table.dead_epochs, lambda node: any(lease.node == node for lease in table.live.values())
            )
        except Interrupted:
            log.info("dead-node cleanup was interrupted")
        except Exception:
            log.exception("dead-node cleanup failed")
