"""Requests to back ends: signed HTTP, the queue of an app's events, and asking whether a login may happen."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections import Counter, deque
from collections.abc import Mapping
from random import uniform
from secrets import token_hex
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

import gevent
import msgspec
from gevent.lock import BoundedSemaphore
from msgspec import Struct

from imserver import __version__
from imserver.errors import ImserverError
from imserver.logging import RateLimitedLog

if TYPE_CHECKING:
    from urllib3 import PoolManager


log = logging.getLogger(__name__)

SIGNATURE_HEADER: Final = "Imserver-Signature"
DELIVERY_HEADER: Final = "Imserver-Delivery"
ANSWER_BYTES: Final = 65536
"""What is read of an answer; a longer one is none."""
_HOSTS: Final = 64
_CONNECTIONS: Final = 64
"""Connections to one host that are kept when they are idle."""


class Unreachable(ImserverError):
    """There was no whole answer within the time; the text says why."""


def signature(secret: bytes, body: bytes, timestamp: int) -> str:
    """What the header ``Imserver-Signature`` says of a body that is sent at this Unix second.

    HMAC-SHA256 of ``<timestamp>.<body>``: who knows the secret can tell that the server wrote it, and when.
    """
    signed = hmac.digest(secret, b"%d.%b" % (timestamp, body), hashlib.sha256)
    return f"t={timestamp},v1={signed.hex()}"


class Outgoing:
    """Owner of the connections to back ends, which are kept for the next request. One a node."""

    def __init__(self) -> None:
        self._connections: PoolManager | None = None

    def post(
        self, url: str, secret: bytes, body: bytes, timestamp: int, delivery: str, seconds: float
    ) -> tuple[int, bytes]:
        """Send JSON, signed, and wait for the answer: status and body.

        Waits, for all of it together, at most ``seconds``; switches to other greenlets. Redirections are not
        followed. Raises :class:`Unreachable`.
        """
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"imserver/{__version__}",
            SIGNATURE_HEADER: signature(secret, body, timestamp),
            DELIVERY_HEADER: delivery,
        }
        timeout = gevent.Timeout(seconds)
        try:
            with timeout:
                return self._exchange(url, body, headers)
        except gevent.Timeout as over:
            if over is not timeout:
                raise
            raise Unreachable(f"no answer within {seconds:g} s") from None

    def _exchange(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        # Loaded here because a node without webhooks need not pay for it.
        from urllib3 import PoolManager
        from urllib3.exceptions import HTTPError

        if self._connections is None:
            self._connections = PoolManager(_HOSTS, maxsize=_CONNECTIONS, retries=False)
        try:
            answer = self._connections.request(
                "POST", url, body=body, headers=headers, redirect=False, preload_content=False
            )
            try:
                content = answer.read(ANSWER_BYTES + 1, decode_content=False)
                if len(content) > ANSWER_BYTES:
                    raise Unreachable(f"the answer has more than {ANSWER_BYTES} bytes")
            except BaseException:
                answer.close()
                raise
            answer.release_conn()
        except (HTTPError, OSError, ValueError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from None
        return answer.status, content

    def close(self) -> None:
        """End the idle connections."""
        if self._connections is not None:
            self._connections.clear()


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


class WebhookCounts(Struct):
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

    def __init__(self, receiver: Receiver, outgoing: Outgoing, tally: WebhookCounts) -> None:
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


ASK_SECONDS: Final = 2.0
"""For everything: its turn, the connection, the answer. Later is no."""
ASKED_AT_ONCE: Final = 64
"""Requests to one app's back end at a time."""
MAX_WAITING: Final = 2000
"""Logins of one app that wait for their answer; the next one is refused at once."""


class AuthoriseHook(Struct, frozen=True):
    """Where to ask: the app's ``webhook.authorise_url`` and the secret that signs."""

    app: str
    url: str
    secret: bytes


class LoginAnswer(Struct, frozen=True):
    """What a back end says. ``expires_at``: Unix second at which the session ends (0: with its connection).

    ``user``: who it is, where the client did not say.
    """

    allow: bool = False
    expires_at: int = 0
    user: str = ""


_decode = msgspec.json.Decoder(LoginAnswer).decode
_encode = msgspec.json.Encoder().encode
_NO: Final = LoginAnswer()


class Authoriser:
    """Owner of the turns in which back ends are asked, and of the counters of that.

    A back end that is slow or away keeps up the logins of its own app, and nothing else.
    """

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._turns: dict[str, BoundedSemaphore] = {}
        self._waiting: Counter[str] = Counter()
        self._complaints: dict[str, RateLimitedLog] = {}
        self.asked = 0
        self.refused = 0
        self.undecided = 0
        """Asked in vain: no answer in time, or one that says nothing."""

    def ask(self, where: AuthoriseHook, facts: Mapping[str, Any]) -> LoginAnswer | None:
        """What the back end says of a login; None if it does not say. Waits at most :data:`ASK_SECONDS`.

        Allowed is what is answered with a status of 2xx and ``{"allow": true}``; refused what is answered
        with ``{"allow": false}``, 401 or 403.
        """
        self.asked += 1
        answer = None
        if self._waiting[where.app] >= MAX_WAITING:
            self._complain(where.app, f"{MAX_WAITING} logins wait already")
        else:
            self._waiting[where.app] += 1
            try:
                with gevent.Timeout(ASK_SECONDS):
                    answer = self._ask(where, _encode(facts))
            except gevent.Timeout:
                self._complain(where.app, f"no answer within {ASK_SECONDS:g} s")
            except Unreachable as problem:
                self._complain(where.app, problem)
            finally:
                self._waiting[where.app] -= 1
                if not self._waiting[where.app]:
                    del self._waiting[where.app]
                    self._turns.pop(where.app, None)
        self.undecided += answer is None
        self.refused += answer is not None and not answer.allow
        return answer

    def _complain(self, app: str, problem: object) -> None:
        """Say what is wrong with a back end: once, then once a minute."""
        complaint = self._complaints.get(app)
        if complaint is None:
            complaint = self._complaints[app] = RateLimitedLog(log, "authorise_url of %s: %s")
        complaint(app, problem)

    def _ask(self, where: AuthoriseHook, body: bytes) -> LoginAnswer:
        turns = self._turns.setdefault(where.app, BoundedSemaphore(ASKED_AT_ONCE))
        with turns:
            status, content = self._outgoing.post(
                where.url, where.secret, body, int(time()), token_hex(16), ASK_SECONDS
            )
        if status in (401, 403):
            return _NO
        if not 200 <= status < 300:
            raise Unreachable(f"it answered with status {status}")
        try:
            return _decode(content)
        except (ValueError, RecursionError) as error:
            raise Unreachable(f"its answer is not what it should be: {error}") from None
