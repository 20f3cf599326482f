"""The watch: one greenlet that keeps the lease, notices that Redis went away, and puts everything right
after."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection
from typing import Final, Literal

import gevent
from gevent.event import Event as Signal

from imserver.clock import until_beat
from imserver.cluster.contract import Counters
from imserver.cluster.redis_burial import Burial, Interrupted
from imserver.cluster.redis_lease import LeaseKeeper, LeaseLost
from imserver.cluster.redis_pipe import Pipe
from imserver.cluster.redis_wire import Away, Wire
from imserver.errors import StartError

log = logging.getLogger(__name__)

NOTHING: Final = 0
UNREGISTERED: Final = 1
EVERYTHING: Final = 2
Extent = Literal[0, 1, 2]
"""What is to be registered again."""

_TICK_SECONDS: Final = 1.0
_HERD_SECONDS: Final = 0.05
"""For each live node: the time over which the beginnings of their restoring are spread."""
_HERD_LIMIT_SECONDS: Final = 3.0


class Watch:
    """Owner of ``life`` and of everything that happens by itself.

    ``restore`` registers sessions again (:attr:`imserver.cluster.contract.Registry.on_restore`, after
    what ended meanwhile); ``leases_changed`` tells that other lives are live now. Both run in greenlets
    of their own.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        pipe: Pipe,
        data_wire: Wire,
        counters: Counters,
        apps: Collection[str],
        renew_seconds: float,
        restore: Callable[[Extent], None],
        leases_changed: Callable[[], None],
    ) -> None:
        self.life = 0
        """Grows whenever what was registered has to be registered again; 0: nothing ever was."""
        self.up = False
        """Whether the last look at the lease succeeded."""
        self.wanted: Extent = NOTHING
        self.rejoin = False
        """Take a new epoch: what this one has left in Redis is not known any more."""
        self._keeper = keeper
        self._pipe = pipe
        self._wires = (data_wire, keeper.wire)
        self._counters = counters
        self._burial = Burial(pipe, counters, apps)
        self.on_burial: Callable[[Collection[int]], object] = lambda epochs: None
        """Called with dead lives before they are buried; raises Interrupted. Switches."""
        self._tick_seconds = min(_TICK_SECONDS, renew_seconds)
        self._restore = restore
        self._leases_changed = leases_changed
        self._epoch = 0
        self._refusal = ""
        self._connects = 0
        self._run_id = b""
        self._wake = Signal()
        self._turned = Signal()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._jobs: dict[str, gevent.Greenlet[..., None]] = {}

    # --- from outside ---------------------------------------------------------------------------------------

    def join(self) -> None:
        """The first turn. Raises :class:`~imserver.errors.StartError`, and Away. Switches."""
        self._keeper.join()
        self._joined()
        self.wanted = NOTHING
        self.up = True
        self._pipe.probe()
        self._check_restart()

    def start(self) -> None:
        """Begin to watch."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """End all greenlets. Switches."""
        greenlets = [*self._jobs.values(), *([self._greenlet] if self._greenlet is not None else [])]
        gevent.killall(greenlets)

    def want(self, extent: Extent) -> None:
        """Sessions have to be registered again, as soon as that is possible. Never switches."""
        self.wanted = max(self.wanted, extent)

    def hurry(self) -> None:
        """Do not wait for the next tick. Never switches."""
        self._wake.set()

    def look_now(self, seconds: float) -> None:
        """Wait until Redis was looked into again, at most ``seconds``. Switches."""
        self._turned.clear()
        self._wake.set()
        self._turned.wait(seconds)

    # --- the greenlet ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Greenlet: one turn a tick."""
        while True:
            self._wake.wait(until_beat(self._tick_seconds))
            self._wake.clear()
            try:
                self._turn()
            except Away as away:
                self._fail(away)
            except Exception:
                log.exception("a turn of the watch over Redis failed")
            self._turned.set()

    def _turn(self) -> None:
        self._look()
        if not self.up:
            self.up = True
            log.info("Redis answers; this node lives as epoch %d", self._epoch)
        if not self._pipe.closed and not self._pipe.probe():
            return
        self._check_restart()
        if self.wanted:
            self._job("restore", self._run_restore)
        if self._keeper.dig:
            self._job("burial", self._run_burial)

    def _look(self) -> None:
        """Look, and renew or join if it is time to."""
        keeper = self._keeper
        changed = False
        try:
            if not keeper.lease.epoch or self.rejoin:
                self._rejoin()
            else:
                changed = keeper.look()
        except LeaseLost:
            log.warning("the lease of epoch %d was lost: taking a new one", keeper.lease.epoch)
            self._rejoin()
        self._joined()
        if changed:
            self._leases_changed()

    def _rejoin(self) -> None:
        try:
            self._keeper.join()
        except StartError as error:
            raise Away(f"this node must not join: {error}", refused=True) from None
        self.rejoin = False

    def _joined(self) -> None:
        """Take notice of a new epoch, if there is one: nothing that was registered counts any more."""
        if self._keeper.lease.epoch != self._epoch:
            self._epoch = self._keeper.lease.epoch
            self._counters.epochs += 1
            self.life += 1
            self.want(EVERYTHING)
            self._leases_changed()

    def _fail(self, away: Away) -> None:
        if self._keeper.lease.epoch != self._epoch:
            self._joined()
        if self.up or (away.refused and str(away) != self._refusal):
            log.warning("the lease was not renewed: %s", away)
        self.up = False
        self._refusal = str(away) if away.refused else ""

    # --- putting things right -------------------------------------------------------------------------------

    def _check_restart(self) -> None:
        """After a new connection: was it the same server? Another one may have lost what was written last."""
        connects = sum(wire.connects for wire in self._wires)
        if connects == self._connects:
            return
        run_id = self._keeper.run_id()
        if self._run_id and run_id != self._run_id:
            log.warning(
                "Redis was restarted, or another server has taken over: registering all sessions again"
            )
            self.life += 1
            self.want(EVERYTHING)
        self._connects = connects
        self._run_id = run_id

    def _job(self, name: str, run: Callable[[], None]) -> None:
        """Run something in a greenlet, unless it is under way."""
        if name not in self._jobs or self._jobs[name].dead:
            self._jobs[name] = gevent.spawn(run)

    def _run_restore(self) -> None:
        nodes = len(self._keeper.book.live)
        if nodes > 1:
            gevent.sleep(random.uniform(0, min(nodes * _HERD_SECONDS, _HERD_LIMIT_SECONDS)))
        extent, self.wanted = self.wanted, NOTHING
        try:
            self._restore(extent)
        except Interrupted:
            self.want(extent)
        except Exception:
            log.exception("registering sessions again failed")

    def _run_burial(self) -> None:
        book = self._keeper.book
        try:
            self.on_burial(book.graves)
            self._burial.run(
                book.graves, lambda node: any(lease.node == node for lease in book.live.values())
            )
        except Interrupted:
            log.info("clearing away what dead nodes left was interrupted")
        except Exception:
            log.exception("clearing away what dead nodes left failed")
