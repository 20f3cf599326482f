"""What waits to be told to one app's back end, and the greenlet that tells it."""

from __future__ import annotations

import logging
from collections import deque
from random import uniform
from secrets import token_hex
from time import monotonic, time
from typing import Final

import gevent
from msgspec import Struct

from imserver.services.webhooks.outgoing import Outgoing, Unreachable

log = logging.getLogger(__name__)

BATCH_EVENTS: Final = 100
BATCH_BYTES: Final = 262144
"""Events that are told together; a single one may be larger."""
MAX_EVENTS: Final = 10_000
"""Events of one app that wait; of more the oldest are dropped."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""What waits of all apps together."""
POST_SECONDS: Final = 10.0
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 60.0
KEEP_SECONDS: Final = 600.0
"""How long one batch is tried again before it is dropped."""
_COMPLAIN_SECONDS: Final = 10.0


class Tally(Struct):
    """Counts of all apps together. ``waiting`` and ``waiting_bytes`` are as of now."""

    delivered: int = 0
    failures: int = 0
    dropped: int = 0
    waiting: int = 0
    waiting_bytes: int = 0


class Receiver(Struct, frozen=True):
    """Where events go: the app's ``webhook.url``, the secret that signs, and which events are wanted."""

    app: str
    url: str
    secret: bytes
    events: frozenset[str]


class WebhookQueue:
    """Owner of the events of one app that have not been told yet. Order is kept.

    A greenlet tells them while there are any. A request that fails is repeated as it was, with pauses that
    double and are random, so that the receivers of many nodes are not asked all at once.
    """

    def __init__(self, receiver: Receiver, outgoing: Outgoing, tally: Tally) -> None:
        self.receiver = receiver
        """May be replaced; holds from the next request on."""
        self._outgoing = outgoing
        self._tally = tally
        self._waiting: deque[bytes] = deque()
        self._batch: list[bytes] = []
        self._pause = FIRST_PAUSE_SECONDS
        self._teller: gevent.Greenlet[..., None] | None = None
        self._unsaid = 0
        self._complained = 0.0

    def add(self, event: bytes) -> None:
        """Tell of ``event``, later. Never switches."""
        tally = self._tally
        while self._waiting and (
            len(self._waiting) >= MAX_EVENTS or tally.waiting_bytes + len(event) > MAX_BYTES
        ):
            self._take()
            self._drop(1, "too much waits")
        if tally.waiting_bytes + len(event) > MAX_BYTES:
            self._drop(1, "too much of other apps waits")
            return
        self._waiting.append(event)
        tally.waiting += 1
        tally.waiting_bytes += len(event)
        if self._teller is None:
            self._teller = gevent.spawn(self._tell)

    @property
    def busy(self) -> bool:
        """Whether anything is still to be told."""
        return self._teller is not None

    @property
    def failing(self) -> bool:
        """Whether the last request failed."""
        return self._pause > FIRST_PAUSE_SECONDS

    def stop(self) -> None:
        """Tell nothing more; what waits is dropped. Switches until the greenlet has ended."""
        if self._teller is not None:
            self._teller.kill()
            self._teller = None
        left = len(self._batch) + len(self._waiting)
        self._batch = []
        while self._waiting:
            self._take()
        if left:
            self._complained = 0.0
            self._drop(left, "the node stops")

    def _take(self) -> bytes:
        event = self._waiting.popleft()
        self._tally.waiting -= 1
        self._tally.waiting_bytes -= len(event)
        return event

    def _drop(self, count: int, why: str) -> None:
        self._tally.dropped += count
        self._unsaid += count
        now = monotonic()
        if not self._complained or now - self._complained > _COMPLAIN_SECONDS:
            log.warning("webhook of %s: %d events were dropped: %s", self.receiver.app, self._unsaid, why)
            self._unsaid = 0
            self._complained = now

    # --- the greenlet ---------------------------------------------------------------------------------------

    def _tell(self) -> None:
        try:
            while self._waiting:
                size = 0
                while self._waiting and len(self._batch) < BATCH_EVENTS:
                    size += len(self._waiting[0])
                    if self._batch and size > BATCH_BYTES:
                        break
                    self._batch.append(self._take())
                self._deliver(self._batch)
                self._batch = []
        finally:
            self._teller = None

    def _deliver(self, batch: list[bytes]) -> None:
        body = b'{"events":[%b]}' % b",".join(batch)
        delivery = token_hex(16)
        deadline = monotonic() + KEEP_SECONDS
        while True:
            problem = self._try(body, delivery)
            if not problem:
                self._tally.delivered += len(batch)
                if self.failing:
                    log.info("webhook of %s: the back end answers again", self.receiver.app)
                self._pause = FIRST_PAUSE_SECONDS
                return
            self._tally.failures += 1
            if not self.failing:
                log.warning("webhook of %s: %s; trying again", self.receiver.app, problem)
            if monotonic() > deadline:
                self._drop(len(batch), f"the back end has not taken them for {KEEP_SECONDS:g} s: {problem}")
                return
            pause = self._pause * uniform(0.5, 1.5)
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
            gevent.sleep(pause)

    def _try(self, body: bytes, delivery: str) -> str:
        """Send once; what went wrong, ``""`` if nothing."""
        receiver = self.receiver
        try:
            status, _ = self._outgoing.post(
                receiver.url, receiver.secret, body, int(time()), delivery, POST_SECONDS
            )
        except Unreachable as problem:
            return str(problem)
        except Exception as error:  # a greenlet that ends here would leave the rest untold
            log.exception("webhook of %s failed", receiver.app)
            return str(error)
        return "" if 200 <= status < 300 else f"it answered with status {status}"
