"""The synchronous hook: an app's back end is asked whether a login may happen, and has two seconds to say."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from secrets import token_hex
from time import time
from typing import Any, Final

import gevent
import msgspec
from gevent.lock import BoundedSemaphore
from msgspec import Struct

from imserver.log_lines import RateLimitedLog
from imserver.services.webhooks.outgoing import Outgoing, Unreachable

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 2.0
"""For everything: its turn, the connection, the answer. Later is no."""
ASKED_AT_ONCE: Final = 64
"""Requests to one app's back end at a time."""
MAX_WAITING: Final = 2000
"""Logins of one app that wait for their answer; the next one is refused at once."""


class Asked(Struct, frozen=True):
    """Where to ask: the app's ``webhook.authorise_url`` and the secret that signs."""

    app: str
    url: str
    secret: bytes


class Answer(Struct, frozen=True):
    """What a back end says. ``expires_at``: Unix second at which the session ends (0: with its connection).

    ``user``: who it is, where the client did not say.
    """

    allow: bool = False
    expires_at: int = 0
    user: str = ""


_decode = msgspec.json.Decoder(Answer).decode
_encode = msgspec.json.Encoder().encode
_NO: Final = Answer()


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

    def ask(self, where: Asked, facts: Mapping[str, Any]) -> Answer | None:
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

    def _ask(self, where: Asked, body: bytes) -> Answer:
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
