"""Webhooks of events: a sleeping agent is woken at its URL.

A subscription is stored until it expires. Its events are delivered like
webhooks of bots. Requests are signed by Standard Webhooks
(https://www.standardwebhooks.com) with the secret of the receiver.
"""

import base64
import hmac
from datetime import UTC, datetime
from secrets import token_hex
from time import monotonic, time
from typing import Any, Final

import msgspec

from imserver.backends.webhooks import Failure, HookSender, LogHooks, webhooks_of
from imserver.plugin.messages import Entry, MessageServices
from imserver.plugin.runtime import BadUrl, PublicRequests, Unreachable
from imserver.plugin.services import Core

from .declared import Hook, Hooks, What
from .events import Followers, Subscription, position_of, require_user
from .protocol import Code, McpError
from .turn import Turn

SECONDS: Final = 10.0
MOST: Final = 20
"""The most subscriptions of one user."""
USUAL_MS = 3_600_000
LEAST_MS = 60_000
MOST_MS = 7 * 86_400_000
"""The longest life of a subscription, in milliseconds."""
TRY_SECONDS: Final = 86400.0
"""How long an event is tried. Then it is dropped, and the next one follows."""
VERIFY_COST: Final = 5
"""As how many requests the verification of a receiver counts."""
_LEAST_KEY_BYTES: Final = 24
_MOST_KEY_BYTES: Final = 64
_CHALLENGE_BYTES: Final = 16
_ID_BYTES: Final = 8
_SECOND_MS: Final = 1000
_STATUSES_OF_CLASS: Final = 100
_FINAL: Final = (400, 410, 413, 415, 422)
"""Statuses after which a receiver does not get the event again, because it
would refuse it again."""


def key_of(secret: Any) -> bytes:
    """The key in a secret of Standard Webhooks, such as ``whsec_MfKQ9r8G…``.
    Raises McpError."""
    try:
        key = base64.b64decode(str(secret).removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    is_short_or_long = not _LEAST_KEY_BYTES <= len(key) <= _MOST_KEY_BYTES
    if not str(secret).startswith("whsec_") or is_short_or_long:
        raise McpError(
            Code.BAD_PARAMS,
            "delivery.secret: expected `whsec_` and 24 to 64 bytes in base64",
        )
    return key


def _life_seconds(turn: Turn) -> int:
    """How long the subscription of a request shall live, in seconds.

    The request names milliseconds; null means as long as possible. Raises
    McpError.
    """
    life_ms = turn.params.get("ttlMs", USUAL_MS)
    if life_ms is None:
        life_ms = MOST_MS
    if not isinstance(life_ms, int):
        raise McpError(Code.BAD_PARAMS, "ttlMs: expected a whole number")
    return min(max(life_ms, LEAST_MS), MOST_MS) // _SECOND_MS


class EventHooks:
    """The webhooks of events, by which sleeping agents are woken.

    One loop looks for new entries of the log, for webhooks and for streams.
    """

    def __init__(self, core: Core, followers: Followers, allow_loopback: bool) -> None:
        """Make the loop, which runs on one node at a time. ``allow_loopback``:
        webhooks may be on this machine."""
        self.rows = Hooks(core.store)
        self._requests = PublicRequests(allow_loopback)
        self._core = core
        self.log = LogHooks(
            name="events of MCP",
            lease_name="\x01mcp",
            store=core.store,
            events=webhooks_of(core).feeds.events,
            messaging=core.service(MessageServices).messaging,
            node=lambda: core.node_name,
            owner=self,
            are_bots=False,
        )
        self.log.report_to(followers.send_news)
        # A new stream makes the loop look at its app, too.
        followers.wake = self.log.work.news.set

    # --- what clients ask -----------------------------------------------------

    def _requested_subscription(self, turn: Turn) -> tuple[str, What]:
        """The user of a request, and the subscription that the request names.
        Raises McpError."""
        delivery = turn.message.mapping("delivery")
        mode = str(delivery.get("mode", "webhook"))
        url = str(delivery.get("url"))
        # Raises McpError for another mode than webhooks and polls.
        event = Subscription.read(turn, mode)
        arguments = msgspec.to_builtins(event.wanted)
        secret = str(delivery.get("secret"))
        user = require_user(turn)
        label = turn.principal.label
        what = What(
            label=label,
            url=url,
            event=event.event,
            arguments=arguments,
            secret=secret,
            proof=turn.proof(),
        )
        return user, what

    def subscribe(self, turn: Turn) -> dict[str, Any]:
        """Answer ``events/subscribe``: store a subscription, or prolong it.

        Switches greenlets. Raises McpError.
        """
        user, what = self._requested_subscription(turn)
        self._check_receiver(what)
        position, truncated = position_of(turn)
        now = time()
        until = int(now) + _life_seconds(turn)
        id = what.id_for(turn.app, user)
        hook = Hook(
            id=id, app=turn.app, user=user, what=what, position=position, expires=until
        )

        rows = self._living_rows(turn.app, user, now)
        existing = next((row for row in rows if row.id == hook.id), None)
        if existing is None:
            _require_few(rows)
        self._verify_if_new(turn, hook, rows)
        self.rows.put(hook)
        self.log.work.changed()

        # An existing subscription continues from its own position.
        if existing is not None:
            position = existing.position
            truncated = False
        return {
            "id": hook.id,
            "refreshBefore": _time_text(until),
            "cursor": str(position),
            "truncated": truncated,
        }

    def _verify_if_new(self, turn: Turn, hook: Hook, rows: list[Hook]) -> None:
        """Verify the receiver of a subscription, which costs as much as several
        requests, unless another subscription in ``rows`` has it.

        A receiver was verified when the principal made its first subscription.
        """
        what = hook.what
        receivers = {(row.what.label, row.what.url) for row in rows}
        if (what.label, what.url) not in receivers:
            turn.api.rates.charge(turn.principal, turn.request.host, VERIFY_COST)
            self._verify(hook)

    def _check_receiver(self, what: What) -> None:
        """Raise McpError if the secret or the URL of a receiver is not
        valid."""
        key_of(what.secret)
        try:
            self._requests.check(what.url)
        except BadUrl as bad:
            raise McpError(Code.BAD_PARAMS, f"delivery.url: {bad}") from None

    def _living_rows(self, app: str, user: str, now: float) -> list[Hook]:
        """The subscriptions of a user that have not expired. Others are
        deleted."""
        rows = self.rows.of_user(app, user)
        self.rows.remove([row.id for row in rows if row.expires <= now])
        return [row for row in rows if row.expires > now]

    def unsubscribe(self, turn: Turn) -> dict[str, Any]:
        """Answer ``events/unsubscribe``: delete a subscription.

        Switches greenlets. Raises McpError.
        """
        user, what = self._requested_subscription(turn)
        # The same facts give the same id as when it was made.
        id = what.id_for(turn.app, user)
        if not any(each.id == id for each in self.rows.of_user(turn.app, user)):
            raise McpError(
                Code.NOT_FOUND,
                "There is no such subscription",
                {"kind": "subscription"},
            )
        self.rows.remove([id])
        self.log.work.changed()
        return {}

    def _verify(self, hook: Hook) -> None:
        """Send a challenge that the receiver must repeat.

        So nobody can have events sent to a server of somebody else. Switches
        greenlets. Raises McpError, with a reason, if the receiver does not
        repeat it.
        """
        challenge = token_hex(_CHALLENGE_BYTES)
        id = f"msg_verification_{token_hex(_ID_BYTES)}"
        body = msgspec.json.encode({"type": "verification", "challenge": challenge})
        try:
            status, answer = self.post(hook, id, body)
            reason = _reason_of_answer(status, answer, challenge)
        except Unreachable as error:
            if error.is_refused:
                reason = "connection_refused"
            else:
                reason = "timeout"
        except (ValueError, RecursionError):
            # The answer is no JSON, so it does not repeat the challenge.
            reason = "challenge_failed"
        if reason:
            raise McpError(
                Code.BAD_CALLBACK, "CallbackEndpointError", {"reason": reason}
            )

    def post(self, hook: Hook, id: str, body: bytes) -> tuple[int, bytes]:
        """Send a signed body to a receiver. Returns status and body of the
        answer.

        ``id``: the id of the event. Switches greenlets. Raises Unreachable.
        """
        now = str(int(time()))
        # Standard Webhooks sign "<id>.<time>.<body>".
        digest = hmac.digest(
            key_of(hook.what.secret), f"{id}.{now}.".encode() + body, "sha256"
        )
        headers = {
            "webhook-id": id,
            "webhook-timestamp": now,
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
            "X-MCP-Subscription-Id": hook.id,
        }
        return self._requests.send(hook.what.url, headers, body, SECONDS)

    # --- what the consumers ask -----------------------------------------------

    def hooks(self) -> dict[str, Hook]:
        """The webhooks of all users who may log in, by their ids."""
        is_banned = self._core.sessions.is_banned
        return {
            each.id: each
            for each in self.rows.all(int(time()))
            if not is_banned(each.app, each.user)
        }

    def wants(self, hook: Hook, entry: Entry) -> bool | None:
        """Whether the receiver of a subscription gets an entry.

        Returns None if the entry waits: the key may come back, or the ban of
        the user may end. If a token has ended, the subscription is removed.
        """
        if not Subscription.of(hook.what).has(entry, hook.user):
            return False
        app = hook.app
        user = hook.user
        proof = hook.what.proof
        if self._core.still_holds(app, user, proof):
            return True
        # A key or a ban is a matter of the operator, who may change it again.
        may_hold_later = proof.startswith("key:") or self._core.sessions.is_banned(
            app, user
        )
        if not may_hold_later:
            self.rows.remove_same(hook)
            self.log.work.changed()
        return None

    def advance(self, hook: Hook, position: int) -> None:
        """Store the position up to which a receiver has the events."""
        self.rows.advance(hook, position)

    def deliver(self, sender: HookSender[Hook], entry: Entry) -> Failure | None:
        """Send one event. Returns the failure, or None if the event was taken.

        A failed event is tried again, unless the refusal is final or a day has
        passed; then it is dropped.
        """
        hook = sender.hook
        # The event before was taken already, so the position of this entry is
        # its cursor.
        event = Subscription.of(hook.what).occurrence(entry, entry.id)
        status, problem = self._post_event(hook, entry.id, event)
        seconds = monotonic() - sender.consumer.first_tried_at
        if problem and status not in _FINAL and seconds < TRY_SECONDS:
            return Failure(problem)
        sender.window.take(entry.id)
        if problem:
            return Failure(problem, is_dead=True)
        return None

    def _post_event(
        self, hook: Hook, id: int, event: dict[str, Any]
    ) -> tuple[int, str]:
        """Send an event. Returns the status of the answer (0: no answer), and
        the problem in words (``""``: the event was taken)."""
        try:
            status, _ = self.post(hook, f"{id}", msgspec.json.encode(event))
        except Unreachable as error:
            return 0, str(error)
        if not 200 <= status < 300:
            return status, f"it answered with status {status}"
        return status, ""

    def stop(self) -> None:
        """End all greenlets, store the positions, and give the lease back."""
        self.log.stop()
        self._requests.close()


def _require_few(rows: list[Hook]) -> None:
    """Raise McpError if a user has too many subscriptions for another one."""
    if len(rows) >= MOST:
        raise McpError(
            Code.EXHAUSTED,
            "ResourceExhausted",
            {"limit": "subscriptions", "max": MOST},
        )


def _time_text(seconds: int) -> str:
    """A Unix time as MCP writes it: ``2026-07-28T12:00:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _reason_of_answer(status: int, answer: bytes, challenge: str) -> str:
    """The reason why an answer does not verify a receiver, for example
    ``http_4xx``; ``""`` if it repeats the challenge. Raises ValueError and
    RecursionError if it is no JSON."""
    if not 200 <= status < 300:
        return f"http_{status // _STATUSES_OF_CLASS}xx"
    document = msgspec.json.decode(answer, type=dict[str, Any])
    if document.get("challenge") == challenge:
        return ""
    return "challenge_failed"
