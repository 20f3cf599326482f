"""Reviews: the back end of an app allows, replaces or rejects messages and
files of users before they take effect."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from time import time
from typing import Any, Final, Literal, cast

import gevent
import msgspec
from gevent.event import AsyncResult
from msgspec import UNSET, Raw, Struct, UnsetType

from imserver.backends.webhooks.requests import (
    BATCH_BYTES,
    BATCH_EVENTS,
    MAX_WAITING,
    Asking,
    document_in,
)
from imserver.plugin.identity import ReviewDecision, Reviews
from imserver.plugin.runtime import Outgoing, Unreachable
from imserver.plugin.wire import Connection, Limit

log = logging.getLogger(__name__)

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Limit of the bytes of one app's messages that wait for an answer."""
MAX_OF_CONNECTION: Final = 200
"""The most messages of one connection that wait for an answer."""
ANSWER_BYTES: Final = 1024 * 1024
"""Longest answer in bytes that is read. A longer one counts as no answer."""
CONTENT_BYTES: Final = 65536
"""Longest content in bytes that may replace a message."""
REASON_CHARACTERS: Final = 500
"""How many characters of a reason the sender gets."""
_Then = Callable[[ReviewDecision], None]
"""Gets the decision about a message."""
_ALLOWED: Final = ReviewDecision("allow")
_UNDECIDED: Final = ReviewDecision("undecided")


class ReviewHook(Struct, frozen=True):
    """The settings by which the back end of an app reviews messages.

    ``url``: its ``webhook.review_url``. ``secret`` signs the requests.
    ``seconds``: the time for an answer. ``allows_failure``: a message that
    could not be reviewed is sent as it is.
    """

    app: str
    url: str
    secret: bytes
    seconds: float
    allows_failure: bool


class _Answer(Struct):
    """The answer of a back end about one message."""

    action: Literal["allow", "replace", "reject"]
    type: str = ""
    text: str | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    reason: str = ""


class _Answers(Struct):
    """The answer to a request: one answer for each message, in their order."""

    answers: list[_Answer]


class _Question:
    """A message that waits for its decision.

    ``then`` gets the decision. ``connection``: its messages get their decisions
    in order; None: this message need not wait for others.
    """

    __slots__ = ("body", "connection", "decision", "is_text", "kind", "then", "type")

    def __init__(
        self, facts: Mapping[str, Any], then: _Then, connection: Connection | None
    ) -> None:
        """``facts``: the fields of the message that the back end gets."""
        self.body: bytes = msgspec.json.encode(facts)
        self.kind: str = facts.get("kind", "")
        self.type: str = facts.get("type", "")
        self.is_text = "text" in facts
        self.then = then
        self.connection = connection
        self.decision: ReviewDecision | None = None


class _Batch(Struct):
    """The messages of an app that one request asks about."""

    hook: ReviewHook
    questions: list[_Question] = []
    size: int = 0
    """Bytes of the bodies of the questions."""


class ReviewRequests(Reviews):
    """Asks back ends whether messages of users may be sent.

    One request asks about all messages of an app that wait at the same time.
    Its time begins with the first message. Messages of one connection get their
    decisions in order. An app without a ``review_url`` costs one look-up in
    :attr:`apps`. ``node`` names this node.
    """

    def __init__(self, outgoing: Outgoing, node: Callable[[], str]) -> None:
        """Begin without apps whose messages are reviewed."""
        self._asking = Asking(outgoing, setting="review_url")
        self._node = node
        self.apps: dict[str, ReviewHook] = {}
        """App → its hook. Do not change it."""
        self._open: dict[str, _Batch] = {}
        """App → the request that has not been sent yet."""
        self._bytes: Counter[str] = Counter()
        """App → the bytes of its messages that wait for an answer."""
        self._lanes: dict[Connection, deque[_Question]] = {}
        """Connection → its waiting messages, in their order."""
        self.asked: Counter[str] = Counter()
        self.replaced: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.undecided: Counter[str] = Counter()
        """App → questions that got no valid answer in time."""

    def set(self, app: str, hook: ReviewHook | None) -> None:
        """Set the back end that reviews the messages of an app; None:
        nobody."""
        if hook is None:
            self.apps.pop(app, None)
        else:
            self.apps[app] = hook
            # A metric that begins with its first event shows no increase.
            self.undecided[app] += 0

    def decide(self, app: str, facts: Mapping[str, Any]) -> ReviewDecision:
        """Ask about a message, and wait for the decision. Switches
        greenlets."""
        decided: AsyncResult[ReviewDecision] = AsyncResult()
        self.review(app, facts, decided.set)
        return cast(ReviewDecision, decided.get())

    def review(
        self,
        app: str,
        facts: Mapping[str, Any],
        then: _Then,
        connection: Connection | None = None,
    ) -> None:
        """Ask about a message. ``then`` gets the decision.

        The messages of a ``connection`` get their decisions in order. If too
        many of them wait, the message is undecided at once. The app must have a
        hook. Never switches greenlets.
        """
        hook = self.apps[app]
        question = _Question(facts, then, connection)
        if connection is not None and not self._queue(question, connection):
            self.undecided[app] += 1
            return
        self.asked[app] += 1
        problem = self._objection(hook, question)
        if problem:
            self._asking.warn(app, problem)
            self._fail(hook, question)
            return

        # The message joins the request that waits for its turn, if it fits.
        size = len(question.body)
        self._asking.waiting[app] += 1
        self._bytes[app] += size
        batch = self._open.get(app)
        if (
            batch is None
            or len(batch.questions) >= BATCH_EVENTS
            or batch.size + size > BATCH_BYTES
        ):
            batch = _Batch(hook)
            self._open[app] = batch
            gevent.spawn(self._ask, batch)
        batch.questions.append(question)
        batch.size += size

    def pass_by(self, then: _Then, connection: Connection) -> None:
        """Allow a message without a review, in the order of its connection.

        It waits until the earlier messages have their decisions. Never switches
        greenlets.
        """
        question = _Question({}, then, connection)
        if self._queue(question, connection):
            self._decide(question, _ALLOWED)

    def _queue(self, question: _Question, connection: Connection) -> bool:
        """Put a message behind the earlier ones of its connection.

        Returns False if too many messages of the connection wait. The message
        is then undecided.
        """
        lane = self._lanes.setdefault(connection, deque())
        if len(lane) < MAX_OF_CONNECTION:
            lane.append(question)
            return True
        _pass_on(question, _UNDECIDED)
        return False

    def _objection(self, hook: ReviewHook, question: _Question) -> str:
        """Return why the back end cannot be asked now.

        ``""``: it can be asked.
        """
        if not hook.secret:
            return "there is no usable secret"
        if self._asking.waiting[hook.app] >= MAX_WAITING:
            return f"{MAX_WAITING} messages wait already"
        if self._bytes[hook.app] + len(question.body) > MAX_WAITING_BYTES:
            return f"messages of {MAX_WAITING_BYTES} bytes wait already"
        return ""

    # --- one request ----------------------------------------------------------

    def _ask(self, batch: _Batch) -> None:
        """Greenlet: ask about the messages of a batch.

        If the request fails, the app's setting decides about all of them.
        """
        hook = batch.hook
        decisions: list[ReviewDecision | None] | None = None
        try:
            decisions = self._decisions(batch)
        except Unreachable as problem:
            self._asking.warn(hook.app, problem)
        except Exception:  # the messages must get a decision
            log.exception("review_url of %s failed", hook.app)
        finally:
            self._end_waiting(batch)

        if decisions is None:
            decisions = [None] * len(batch.questions)
        for question, decision in zip(batch.questions, decisions, strict=True):
            if decision is None:
                self._fail(hook, question)
            else:
                self._count(hook.app, decision)
                self._decide(question, decision)

    def _count(self, app: str, decision: ReviewDecision) -> None:
        """Count a decision that replaces or rejects a message."""
        self.replaced[app] += decision.action == "replace"
        self.rejected[app] += decision.action == "reject"

    def _end_waiting(self, batch: _Batch) -> None:
        """Note that the messages of a batch wait no longer."""
        app = batch.hook.app
        # It is still open if it has failed before it was sent.
        self._close(batch)
        self._asking.finished(app, len(batch.questions))
        self._bytes[app] -= batch.size
        if not self._bytes[app]:
            del self._bytes[app]

    def _decisions(self, batch: _Batch) -> list[ReviewDecision | None]:
        """Ask about the messages of a batch, and return a decision for each.

        None stands for an answer that is not valid. Switches greenlets. Raises
        Unreachable.
        """
        hook = batch.hook
        status, content = self._asking.post(
            hook.app,
            hook.url,
            hook.secret,
            body=partial(self._close_and_encode, batch),
            seconds=hook.seconds,
            answer_bytes=ANSWER_BYTES,
        )
        # Answers are in the order of the messages.
        decode = partial(msgspec.json.decode, type=_Answers)
        answers = document_in(status, content, decode).answers
        if len(answers) != len(batch.questions):
            raise Unreachable(
                f"it gave {len(answers)} answers for {len(batch.questions)} messages"
            )
        return [
            self._decision(hook, question, answer)
            for question, answer in zip(batch.questions, answers, strict=True)
        ]

    def _close_and_encode(self, batch: _Batch) -> bytes:
        """Return the body of the request of a batch, which is sent now.

        Until this call further messages join the batch. The body is
        ``{"event":"review", …, "messages":[…]}``.
        """
        self._close(batch)
        head = msgspec.json.encode(
            {
                "event": "review",
                "app": batch.hook.app,
                "time": int(time()),
                "node": self._node(),
            }
        )
        messages = b",".join(question.body for question in batch.questions)
        # Replace the closing brace of the head by the messages.
        return b'%b,"messages":[%b]}' % (head[:-1], messages)

    def _close(self, batch: _Batch) -> None:
        """Let no further message join a batch."""
        if self._open.get(batch.hook.app) is batch:
            del self._open[batch.hook.app]

    def _decision(
        self, hook: ReviewHook, question: _Question, answer: _Answer
    ) -> ReviewDecision | None:
        """Return the decision of an answer; None: it is not valid."""
        if answer.action == "allow":
            return _ALLOWED
        if answer.action == "reject":
            return ReviewDecision("reject", reason=answer.reason[:REASON_CHARACTERS])
        try:
            return _replacement(question, answer)
        except (ValueError, RecursionError) as error:
            problem = f"its replacement of a message is not valid: {error}"
            self._asking.warn(hook.app, problem)
            return None

    # --- decisions ------------------------------------------------------------

    def _fail(self, hook: ReviewHook, question: _Question) -> None:
        """Decide about a message that was not reviewed, as the app wishes."""
        self.undecided[hook.app] += 1
        decision = _ALLOWED if hook.allows_failure else _UNDECIDED
        self._decide(question, decision)

    def _decide(self, question: _Question, decision: ReviewDecision) -> None:
        """Note the decision about a message, and pass on what can be passed on.

        A decision waits until all earlier messages of the connection have
        theirs.
        """
        question.decision = decision
        connection = question.connection
        if connection is None:
            _pass_on(question, decision)
            return
        # The waiting messages of the connection, in their order.
        lane = self._lanes[connection]
        while lane:
            first_decision = lane[0].decision
            if first_decision is None:
                break
            _pass_on(lane.popleft(), first_decision)
        # A message that was passed on may have made a new lane.
        if not lane and self._lanes.get(connection) is lane:
            del self._lanes[connection]


def _pass_on(question: _Question, decision: ReviewDecision) -> None:
    """Give the decision to whoever asked. An error must not stop other messages."""
    try:
        question.then(decision)
    except Exception:
        log.exception("a reviewed message could not be passed on")


def _replacement(question: _Question, answer: _Answer) -> ReviewDecision:
    """Return the decision of an answer that replaces a message.

    The answer gives the new content as ``text`` or as ``data``. Raises
    ValueError or RecursionError if the answer is not valid.
    """
    if question.kind == "upload":
        raise ValueError("a file cannot be replaced")
    if (answer.text is UNSET) == (answer.data is UNSET):
        raise ValueError("it has one of text and data")

    is_text = answer.text is not UNSET
    type = answer.type or _type_of_replacement(question, is_text)
    if answer.text is not UNSET:
        body = answer.text.encode()
    else:
        assert answer.data is not UNSET  # one of the two is there
        body = _checked_data(type, bytes(answer.data))

    if len(type.encode()) > Limit.TYPE_BYTES or "\0" in type:
        raise ValueError(f"type has more than {Limit.TYPE_BYTES} bytes, or U+0000")
    if len(body) > CONTENT_BYTES:
        raise ValueError(f"it has more than {CONTENT_BYTES} bytes")
    return ReviewDecision("replace", type, body, is_text=is_text)


def _checked_data(type: str, data: bytes) -> bytes:
    """Return the ``data`` of an answer without spaces.

    The decoder of the answer has not checked it. Raises ValueError or
    RecursionError if it is not valid, or if the new type is ``text``.
    """
    if type == "text":
        raise ValueError("data is not text")
    msgspec.json.decode(data)
    return msgspec.json.format(data, indent=-1)


def _type_of_replacement(question: _Question, is_text: bool) -> str:
    """Return the type of a replaced message for which the answer gives none.

    A text that is replaced by a text keeps its type, and so does data.
    """
    if question.is_text == is_text:
        return question.type
    if is_text:
        return "text"
    return "custom"
