"""Requests to back ends: the queue of an app's events, and the authorisation of
logins."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from secrets import token_hex
from time import monotonic, time
from typing import Annotated, Any, Final, TypeVar

import gevent
import msgspec
from gevent.lock import BoundedSemaphore
from msgspec import Struct, field

from imserver.backends.webhooks.consumer import Consumer, DeliveryLease, Failure
from imserver.plugin.http import about
from imserver.plugin.identity import LoginAnswer
from imserver.plugin.runtime import Outgoing, RateLimitedLog, Service, Unreachable

log = logging.getLogger(__name__)
T = TypeVar("T")

BATCH_EVENTS: Final = 100
BATCH_BYTES: Final = 262144
"""Limits of the events in one request. A single event may be larger."""
MAX_EVENTS: Final = 10_000
"""The most waiting events of one app. Beyond it the oldest are dropped."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Limit of the bytes of the waiting events of all apps."""
POST_SECONDS: Final = 10.0
MOST_ANSWERS: Final = 20
"""The number of last answers of one app that a node keeps."""
REFUSED_PAUSE_SECONDS: Final = 1.2
"""The longest pause while the receiver refuses connections. Such an attempt
costs both sides next to nothing.

Pauses vary by half, so a back end that starts again gets its events within two
seconds.
"""
MISCONFIGURED: Final = frozenset({401, 403, 404, 405, 407, 408, 410, 421, 425, 429})
"""Statuses from 400 to 499 that tell nothing about the content of the
request."""
REPEAT_SECONDS: Final = 600.0
"""How long a failed request is repeated. Then its events are dropped."""
_PROBLEM_CHARACTERS: Final = 200
"""How many characters of a problem are kept with an answer."""
_SECOND_DIGITS: Final = 4
_DROP_LOG_SECONDS: Final = 10.0
"""At most how often dropped events are logged."""
_STOP_LOOK_SECONDS: Final = 0.02
"""How often :meth:`WebhookQueues.stop` checks whether the last events are
sent."""
_DELIVERY_BYTES: Final = 16


def new_delivery_id() -> str:
    """Make the id of a request to a back end.

    Attempts to send the request again have the same id, so that the back end
    can tell that it has the events already.
    """
    return token_hex(_DELIVERY_BYTES)


class WebhookCounts(Struct):
    """The counts of webhooks on this node."""

    delivered: Counter[str] = msgspec.field(default_factory=Counter)
    """App → the events that its receiver has taken."""
    failures: Counter[str] = msgspec.field(default_factory=Counter)
    """App → the failed requests."""
    dropped: Counter[str] = msgspec.field(default_factory=Counter)
    """App → the events that were dropped."""
    waiting: Counter[str] = msgspec.field(default_factory=Counter)
    """App → the events that wait in memory now."""
    waiting_bytes: int = 0
    """The bytes of the waiting events of all apps."""


class LastAnswer(Struct, frozen=True, array_like=True):
    """The answer of a receiver to a request, as nodes send it to each other."""

    time: Annotated[int, about("The time, in Unix seconds.")]
    status: Annotated[int, about("The HTTP status of the answer; 0: no answer came.")]
    problem: Annotated[
        str, about("Why the request failed; empty: the receiver accepted the events.")
    ]
    seconds: Annotated[float, about("The duration of the request, in seconds.")]
    events: Annotated[int, about("The number of events in the request.")]


class LastAnswers(Service):
    """The last answers of the receivers of events, by app, for operators.

    Methods never switch greenlets.
    """

    _by_app: dict[str, deque[LastAnswer]] = field(default_factory=dict)

    def note(
        self, app: str, status: int, problem: str, began: float, events: int
    ) -> None:
        """Note the answer to a request.

        ``status`` 0: no answer came. ``problem``: why the request failed;
        ``""``: it was accepted. ``began``: when it began (monotonic).
        ``events``: how many it had.
        """
        answer = LastAnswer(
            time=int(time()),
            status=status,
            problem=problem[:_PROBLEM_CHARACTERS],
            seconds=round(monotonic() - began, _SECOND_DIGITS),
            events=events,
        )
        answers = self._by_app.setdefault(app, deque(maxlen=MOST_ANSWERS))
        answers.append(answer)

    def of(self, app: str) -> list[LastAnswer]:
        """Return the last answers of an app's receiver, the oldest first."""
        return list(self._by_app.get(app, ()))

    def forget(self, app: str) -> None:
        """Forget the answers: the app has no receiver any more."""
        self._by_app.pop(app, None)


class PostProblem(Struct, frozen=True):
    """The reason why a request failed.

    ``status``: of the answer; 0: no answer came. ``is_refused``: nothing
    listens at the address.
    """

    status: int
    text: str
    is_refused: bool = False

    @property
    def is_final(self) -> bool:
        """Whether the receiver refuses the content of the request.

        Then it makes no sense to send the same content again.
        """
        return 400 <= self.status < 500 and self.status not in MISCONFIGURED


class Receiver(Struct, frozen=True):
    """The receiver of the events of an app.

    ``url`` is ``webhook.url``; ``""``: the back end reads its events itself.
    ``secret`` signs requests. ``events``: the kinds of events that the receiver
    wants.
    """

    app: str
    url: str
    secret: bytes
    events: frozenset[str]
    absent_seconds: float = 10.0
    """How long a user must be offline after a stored message, before an
    ``absent`` event follows."""

    def body(self, events: bytes) -> bytes:
        """Return the body of a request: ``{"events":[…]}``.

        ``events``: JSON documents with commas between them.
        """
        return b'{"events":[%b]}' % events

    def post(self, outgoing: Outgoing, body: bytes, delivery: str) -> int:
        """Send a signed body. Returns the status of the answer.

        ``delivery``: the id of the delivery, which all its attempts have. Other
        forms of webhooks override the method to sign in their way. Waits and
        raises like :meth:`Outgoing.post`.
        """
        status, _ = outgoing.post(
            self.url, self.secret, body, int(time()), delivery, POST_SECONDS
        )
        return status

    def attempt(
        self,
        outgoing: Outgoing,
        body: bytes,
        delivery: str,
        answers: LastAnswers,
        events: int,
    ) -> PostProblem | None:
        """Send a signed body, and note the answer in ``answers``.

        Returns the reason why the request failed; None: the receiver has taken
        the events. ``events``: their number. Switches greenlets.
        """
        problem = None
        status = 0
        began = monotonic()
        try:
            # Raises Unreachable if no answer came: the status then stays 0.
            status = self.post(outgoing, body, delivery)
            if not 200 <= status < 300:
                problem = PostProblem(status, f"it answered with status {status}")
        except Unreachable as error:
            problem = PostProblem(0, str(error), error.is_refused)
        text = problem.text if problem else ""
        answers.note(self.app, status, text, began, events)
        return problem


class _Batch(Struct, frozen=True):
    """The events of one request, which is repeated unchanged after a failure."""

    count: int
    """The number of events."""
    body: bytes
    delivery: str


class WebhookQueue:
    """The waiting events of one app, in memory.

    A consumer sends them in their order. A failed request is repeated unchanged
    after random pauses, so that nodes do not repeat at the same time. The
    pauses double, but stay short while the back end refuses connections.
    """

    def __init__(
        self,
        receiver: Receiver,
        outgoing: Outgoing,
        tally: WebhookCounts,
        answers: LastAnswers,
    ) -> None:
        """Begin with an empty queue. All queues share ``tally`` and ``answers``."""
        self.receiver = receiver
        """The receiver. A new one is used from the next request on."""
        self._outgoing = outgoing
        self._answers = answers
        self._tally = tally
        # A metric that begins with its first event shows no increase.
        for counts in (tally.delivered, tally.failures, tally.dropped, tally.waiting):
            counts[receiver.app] += 0
        self._waiting: deque[bytes] = deque()
        """The waiting events, the oldest first."""
        self._sent = 0
        """The number of events in the request that is being sent."""
        # The events are in the memory of this node, so no lease is needed.
        self.consumer = Consumer(
            f"the webhook of {receiver.app}",
            DeliveryLease(inf),
            read=self._next,
            deliver=self._deliver,
        )
        self._unlogged = 0
        """The number of events that were dropped since the last warning."""
        self._logged_at = 0.0
        """When the last warning was logged (monotonic); 0: log the next one at
        once."""

    def add(self, event: bytes) -> None:
        """Queue an event.

        If too much waits, the oldest events of the app are dropped. If too much
        of other apps waits, this event is dropped. Never switches greenlets.
        """
        tally = self._tally
        # New events say more about the present than old ones.
        while self._waiting and (
            len(self._waiting) >= MAX_EVENTS
            or tally.waiting_bytes + len(event) > MAX_BYTES
        ):
            self._take()
            self._count_dropped(1, "too much waits")
        if tally.waiting_bytes + len(event) > MAX_BYTES:
            self._count_dropped(1, "too much of other apps waits")
            return
        self._waiting.append(event)
        tally.waiting[self.receiver.app] += 1
        tally.waiting_bytes += len(event)
        self.consumer.wake()

    @property
    def waiting(self) -> int:
        """The number of waiting events, with the events that are being sent."""
        return self._sent + len(self._waiting)

    def stop(self) -> None:
        """Stop sending, and drop the waiting events.

        Never switches greenlets.
        """
        self.consumer.stop()
        waiting = self.waiting
        self._sent = 0
        while self._waiting:
            self._take()
        if waiting:
            # Log it even if a warning was just logged: there is no later one.
            self._logged_at = 0.0
            self._count_dropped(waiting, "the node stops")

    def _take(self) -> bytes:
        """Remove the oldest waiting event, and return it."""
        event = self._waiting.popleft()
        self._tally.waiting[self.receiver.app] -= 1
        self._tally.waiting_bytes -= len(event)
        return event

    def _count_dropped(self, count: int, why: str) -> None:
        """Count events that were dropped, and log a warning, but not too often.

        ``why``: the reason, in words. A warning has the number since the last
        one.
        """
        self._tally.dropped[self.receiver.app] += count
        self._unlogged += count
        now = monotonic()
        # The number is logged with the next warning.
        if self._logged_at and now - self._logged_at <= _DROP_LOG_SECONDS:
            return
        log.warning(
            "webhook of %s: %d events were dropped: %s",
            self.receiver.app,
            self._unlogged,
            why,
        )
        self._unlogged = 0
        self._logged_at = now

    def _next(self) -> _Batch | None:
        """Return the next request, with as many events as fit.

        None: no event waits. The events are taken from the queue. The request
        is repeated until the receiver has them.
        """
        events: list[bytes] = []
        size = 0
        while self._waiting and len(events) < BATCH_EVENTS:
            size += len(self._waiting[0])
            # A single event may be larger than the limit.
            if events and size > BATCH_BYTES:
                break
            events.append(self._take())
        self._sent = len(events)
        if not events:
            return None
        body = self.receiver.body(b",".join(events))
        return _Batch(len(events), body, new_delivery_id())

    def _deliver(self, batch: _Batch) -> Failure | None:
        """Send a request.

        Returns a failure if it must be sent again. After ten minutes its events
        are dropped instead, which is a failure, too. Switches greenlets.
        """
        app = self.receiver.app
        try:
            problem = self.receiver.attempt(
                self._outgoing, batch.body, batch.delivery, self._answers, batch.count
            )
        except Exception as error:  # the other events must be sent
            log.exception("webhook of %s failed", app)
            problem = PostProblem(0, str(error))

        if problem is None:
            self._tally.delivered[app] += batch.count
            self._sent = 0
            if self.consumer.failures:
                log.info("webhook of %s: the back end answers again", app)
            return None
        return self._handle_failure(batch, problem)

    def _handle_failure(self, batch: _Batch, problem: PostProblem) -> Failure:
        """Let a request be sent again, or drop its events after ten minutes.

        ``problem``: why the request has failed.
        """
        app = self.receiver.app
        self._tally.failures[app] += 1
        if not self.consumer.failures:
            log.warning("webhook of %s: %s; trying again", app, problem.text)
        if monotonic() - self.consumer.first_tried_at <= REPEAT_SECONDS:
            # A program that is just started refuses connections: try again
            # soon.
            if problem.is_refused:
                return Failure(problem.text, longest_pause=REFUSED_PAUSE_SECONDS)
            return Failure(problem.text)

        why = (
            f"the back end has not taken them for {REPEAT_SECONDS:g} s: {problem.text}"
        )
        self._count_dropped(batch.count, why)
        self._sent = 0
        return Failure(problem.text, is_dead=True)


ASK_SECONDS: Final = 2.0
"""Time limit of a question, including the wait for a turn and for the
connection. After it the login is refused."""
ANSWER_BYTES: Final = 65536
"""Longest answer about a client, in bytes."""
REQUESTS_AT_ONCE: Final = 64
"""The most requests to one app's back end at a time."""
MAX_WAITING: Final = 2000
"""The most logins, or messages, of one app that wait for an answer. Further
ones are refused at once."""


class Asking(Service):
    """Sends questions to the back ends of apps, a limited number at a time.

    Each app has its own *turns*, so a slow back end delays its own app only.
    ``setting`` names the address in log lines.
    """

    outgoing: Outgoing
    setting: str
    _turns: dict[str, BoundedSemaphore] = field(default_factory=dict)
    waiting: Counter[str] = field(default_factory=Counter)
    """App → the number of questions that wait for an answer."""
    _warnings: dict[str, RateLimitedLog] = field(default_factory=dict)

    def post(
        self,
        app: str,
        url: str,
        secret: bytes,
        body: Callable[[], bytes],
        seconds: float,
        answer_bytes: int = ANSWER_BYTES,
        headers: Mapping[str, str] = {},
    ) -> tuple[int, bytes]:
        """Wait for a turn, send a question, and return status and body.

        ``body`` is called when it is the question's turn, and returns what to
        send. All of it takes at most ``seconds``. Switches greenlets. Raises
        :class:`Unreachable` if no answer comes in this time.
        """
        turns = self._turns.setdefault(app, BoundedSemaphore(REQUESTS_AT_ONCE))
        timeout = gevent.Timeout(seconds)
        try:
            with timeout, turns:
                return self.outgoing.post(
                    url,
                    secret,
                    body(),
                    int(time()),
                    new_delivery_id(),
                    seconds,
                    answer_bytes,
                    headers,
                )
        except gevent.Timeout as over:
            # A time limit of the caller has passed, not this one.
            if over is not timeout:
                raise
            raise Unreachable(f"no answer within {seconds:g} s") from None

    @contextmanager
    def counting(self, app: str, kind: str) -> Iterator[None]:
        """Count a question of an app while it waits for its answer.

        ``kind``: what is counted, in words, such as ``logins``. Raises
        :class:`Unreachable` if too many questions wait.
        """
        if self.waiting[app] >= MAX_WAITING:
            raise Unreachable(f"{MAX_WAITING} {kind} wait already")
        self.waiting[app] += 1
        try:
            yield
        finally:
            self.finished(app)

    def finished(self, app: str, count: int = 1) -> None:
        """Note that ``count`` questions of an app no longer wait."""
        self.waiting[app] -= count
        # An app without questions needs no turns, and takes no memory.
        if not self.waiting[app]:
            del self.waiting[app]
            self._turns.pop(app, None)

    def warn(self, app: str, problem: object) -> None:
        """Log a problem, but not too often."""
        warning = self._warnings.get(app)
        if warning is None:
            warning = RateLimitedLog(log, f"{self.setting} of %s: %s")
            self._warnings[app] = warning
        warning(app, problem)


class AuthoriseHook(Struct, frozen=True):
    """The app's ``webhook.authorise_url``, and the secret that signs."""

    app: str
    url: str
    secret: bytes


def document_in(status: int, content: bytes, decode: Callable[[bytes], T]) -> T:
    """Decode the document of an answer.

    Raises :class:`Unreachable` if the status is not one of success, or if
    ``decode`` fails.
    """
    if not 200 <= status < 300:
        raise Unreachable(f"it answered with status {status}")
    try:
        return decode(content)
    except (ValueError, RecursionError) as error:
        raise Unreachable(f"its answer is not a valid document: {error}") from None


_decode = msgspec.json.Decoder(LoginAnswer).decode
_REFUSING: Final = (401, 403)
"""Statuses of an answer that refuse a login."""


class Authoriser:
    """Asks back ends whether a user may log in, and counts answers."""

    def __init__(self, outgoing: Outgoing) -> None:
        """``outgoing`` sends the requests."""
        self._asking = Asking(outgoing, setting="authorise_url")
        self.asked: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.undecided: Counter[str] = Counter()
        """App → questions that got no valid answer in time."""

    def ask(self, where: AuthoriseHook, facts: Mapping[str, Any]) -> LoginAnswer | None:
        """Ask the back end about a login.

        ``facts``: the fields of the question. Status 2xx with ``{"allow":
        true}`` allows the login. ``{"allow": false}``, 401 or 403 refuse it.
        Returns None if no valid answer comes within :data:`ASK_SECONDS`.
        Switches greenlets.
        """
        app = where.app
        self.asked[app] += 1
        asking = self._asking
        answer = None
        body = msgspec.json.encode(facts)
        try:
            with asking.counting(app, kind="logins"):
                status, content = asking.post(
                    app, where.url, where.secret, lambda: body, ASK_SECONDS
                )
            if status in _REFUSING:
                # An answer refuses unless it says otherwise.
                answer = LoginAnswer()
            else:
                answer = document_in(status, content, _decode)
        except Unreachable as problem:
            asking.warn(app, problem)
        if answer is None:
            self.undecided[app] += 1
        elif not answer.allow:
            self.refused[app] += 1
        return answer


class WebhookQueues(Service):
    """The queues of webhooks that have one form, by app."""

    outgoing: Outgoing
    tally: WebhookCounts
    answers: LastAnswers = field(default_factory=LastAnswers)
    _queues: dict[str, WebhookQueue] = field(default_factory=dict)

    def __contains__(self, app: str) -> bool:
        """Whether an app has a receiver."""
        return app in self._queues

    def get(self, app: str) -> WebhookQueue | None:
        """Return the queue of an app; None: the app has no receiver.

        Never switches greenlets.
        """
        return self._queues.get(app)

    def set(self, app: str, receiver: Receiver | None) -> None:
        """Set the receiver of an app, also for events that wait already.

        Without a receiver, or without a URL, the waiting events are dropped.
        Never switches greenlets.
        """
        queue = self._queues.get(app)
        if receiver is None or not receiver.url:
            if queue is not None:
                del self._queues[app]
                queue.stop()
        elif queue is None:
            self._queues[app] = WebhookQueue(
                receiver, self.outgoing, self.tally, self.answers
            )
        else:
            # Waiting events go to the new address.
            queue.receiver = receiver

    def stop(self, deadline: float) -> None:
        """Send the waiting events, then stop the queues.

        ``deadline``: until when to send (monotonic). Failing back ends are not
        waited for. Switches greenlets.
        """
        queues = tuple(self._queues.values())
        consumers = [queue.consumer for queue in queues]
        while monotonic() < deadline and any(
            consumer.is_busy and not consumer.failures for consumer in consumers
        ):
            gevent.sleep(_STOP_LOOK_SECONDS)
        for queue in queues:
            queue.stop()
