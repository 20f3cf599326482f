"""Webhooks of events: an agent that sleeps is woken at its URL.

A subscription is stored until it expires. One node delivers for all, by a lease; each subscription has a
consumer, as webhooks of bots have, so a URL that hangs delays nobody else. Requests are signed by Standard
Webhooks (https://www.standardwebhooks.com) with the secret of the receiver.
"""

from __future__ import annotations

import base64
import hmac
import logging
from datetime import UTC, datetime
from secrets import token_hex
from time import monotonic, time
from typing import Any, Final

import msgspec

from imserver.features.webhooks import webhooks_of
from imserver.features.webhooks.consumer import Consumer, DeliveryLease, Failure, LeasedWork
from imserver.features.webhooks.log_window import LogWindow
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.messages import Entry, MessageLog, MessageServices
from imserver.plugin.runtime import BadUrl, PublicRequests, Unreachable
from imserver.plugin.services import Core

from .events import Followers, Subscription, Wanted, place_of, require_user
from .protocol import Code, McpError
from .tables import Hook, Hooks, What
from .turn import Turn

log = logging.getLogger(__name__)

LEASE: Final = "\x01mcp"
"""The name of the lease, in the place of an app. No app has it."""
PAGE: Final = 100
SECONDS: Final = 10.0
MOST: Final = 20
"""Subscriptions of one user."""
USUAL_MS, LEAST_MS, MOST_MS = 3_600_000, 60_000, 7 * 86_400_000
"""The life of a subscription."""
TRY_SECONDS: Final = 86400.0
"""How long an event is tried; then it is dropped, and the next one follows."""
_encode: Final = msgspec.json.encode


def key_of(secret: Any) -> bytes:
    """The key in a secret of Standard Webhooks. Raises McpError."""
    try:
        key = base64.b64decode(str(secret).removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not str(secret).startswith("whsec_") or not 24 <= len(key) <= 64:
        raise McpError(Code.BAD_PARAMS, "delivery.secret: expected `whsec_` and 24 to 64 bytes in base64")
    return key


class EventHooks:
    """Owner of the lease, of the consumers, and of the greenlet that looks for what is new."""

    def __init__(self, core: Core, followers: Followers, allow_loopback: bool) -> None:
        self.store = core.storage.store
        self.rows = Hooks(self.store)
        self.lease = DeliveryLease()
        self.work = LeasedWork("events of MCP", self._renew, self._look)
        self._requests = PublicRequests(allow_loopback)
        self._core = core
        self._followers = followers
        followers.wake = self.work.news.set
        self._events = webhooks_of(core).feeds.events
        self._messaging = core.service(MessageServices).messaging
        self._senders: dict[str, _Sender] = {}
        self._seen: dict[str, int] = {}

    # --- what clients ask -----------------------------------------------------------------------------------

    def _asked(self, turn: Turn) -> tuple[str, What]:
        """For whom a request is, and what it names. Raises McpError."""
        delivery = turn.message.mapping("delivery")
        mode, url = str(delivery.get("mode", "webhook")), str(delivery.get("url"))
        event = Subscription.read(turn, mode)
        arguments, secret = msgspec.to_builtins(event.wanted), str(delivery.get("secret"))
        user, label = require_user(turn), turn.principal.label
        return user, What(label, url, event.event, arguments, secret, turn.proof())

    def subscribe(self, turn: Turn) -> dict[str, Any]:
        """Answer ``events/subscribe``. Switches. Raises McpError."""
        user, what = self._asked(turn)
        key_of(what.secret)
        try:
            self._requests.check(what.url)
        except BadUrl as bad:
            raise McpError(Code.BAD_PARAMS, f"delivery.url: {bad}") from None
        (position, truncated), now = place_of(turn), time()
        wanted = turn.params.get("ttlMs", USUAL_MS)
        if wanted is not None and not isinstance(wanted, int):
            raise McpError(Code.BAD_PARAMS, "ttlMs: expected a whole number")
        granted = min(max(MOST_MS if wanted is None else wanted, LEAST_MS), MOST_MS)
        until = int(now) + granted // 1000
        hook = Hook(what.id_for(turn.app, user), turn.app, user, what, position, until)
        mine = self.rows.of_user(turn.app, user)
        self.rows.remove([each.id for each in mine if each.expires <= now])
        mine = [each for each in mine if each.expires > now]
        known = next((each for each in mine if each.id == hook.id), None)
        if known is None and len(mine) >= MOST:
            raise McpError(Code.EXHAUSTED, "ResourceExhausted", {"limit": "subscriptions", "max": MOST})
        if not any((each.what.label, each.what.url) == (what.label, what.url) for each in mine):
            turn.api.rates.charge(turn.principal, turn.request.host, 5)
            self._verify(hook)
        self.rows.put(hook)
        self.work.changed()
        return {
            "id": hook.id,
            "refreshBefore": datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "cursor": str(position if known is None else known.position),
            "truncated": known is None and truncated,
        }

    def unsubscribe(self, turn: Turn) -> dict[str, Any]:
        """Answer ``events/unsubscribe``. Switches. Raises McpError."""
        user, what = self._asked(turn)
        id = what.id_for(turn.app, user)
        if not any(each.id == id for each in self.rows.of_user(turn.app, user)):
            raise McpError(Code.NOT_FOUND, "There is no such subscription", {"kind": "subscription"})
        self.rows.remove([id])
        self.work.changed()
        return {}

    def _verify(self, hook: Hook) -> None:
        """Have the receiver show that it wants events. Switches. Raises McpError."""
        challenge, reason = token_hex(16), "challenge_failed"
        body = _encode({"type": "verification", "challenge": challenge})
        try:
            status, answer = self.post(hook, f"msg_verification_{token_hex(8)}", body)
            if not 200 <= status < 300:
                reason = f"http_{status // 100}xx"
            elif msgspec.json.decode(answer, type=dict[str, Any]).get("challenge") == challenge:
                return
        except Unreachable as error:
            reason = "connection_refused" if error.is_refused else "timeout"
        except (ValueError, RecursionError):
            pass
        raise McpError(Code.BAD_CALLBACK, "CallbackEndpointError", {"reason": reason})

    def post(self, hook: Hook, id: str, body: bytes) -> tuple[int, bytes]:
        """Send to a receiver: status and body of the answer. Switches. Raises Unreachable."""
        now = str(int(time()))
        digest = hmac.digest(key_of(hook.what.secret), f"{id}.{now}.".encode() + body, "sha256")
        headers = {
            "webhook-id": id,
            "webhook-timestamp": now,
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
            "X-MCP-Subscription-Id": hook.id,
        }
        return self._requests.send(hook.what.url, headers, body, SECONDS)

    # --- delivery -------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """Take or renew the lease, and learn which subscriptions there are. Switches. Raises
        StorageUnavailable."""
        since, node = monotonic(), self._core.cluster.registry.lease.node
        hooks = self.rows.all(int(time()))
        is_granted = bool(hooks) and LEASE in self._events.claim({LEASE: 0}, node, DeliveryLease.SECONDS)
        if not self.lease.renew(since, is_granted):
            # Another node may have delivered meanwhile: begin at the positions that are stored now.
            self._set([])
            hooks = self.rows.all(int(time())) if is_granted else []
        is_banned = self._core.sessions.sessions.is_banned
        self._set([each for each in hooks if not is_banned(each.app, each.user)])

    def _set(self, hooks: list[Hook]) -> None:
        """Send to these, and no others; to none after the end. Never switches."""
        rows = {} if self.work.has_ended else {each.id: each for each in hooks}
        for id in self._senders.keys() - rows.keys():
            self._senders.pop(id).consumer.stop()
        for id, hook in rows.items():
            if id in self._senders:
                self._senders[id].hook = hook
            else:
                self._senders[id] = _Sender(self, hook)

    def _look(self) -> None:
        """Wake consumers and streams if there is something new. Switches. Raises StorageUnavailable."""
        apps = self._followers.apps() | {each.hook.app for each in self._senders.values()}
        self._messaging.follower.watch(self.work.news, apps)
        if not apps or not self.store.has_database:
            self._seen = {}
            return
        entries = self.store.part(MessageLog).entries
        heads = entries.heads(list(apps))
        seen, self._seen = self._seen, {app: heads.get(app, 0) for app in apps}
        for sender in self._senders.values():
            sender.look(heads.get(sender.hook.app, 0))
        readers = {app: entries.readers(app, seen[app], self._seen[app]) for app in apps & seen.keys()}
        self._followers.look(heads, readers)

    def still_holds(self, hook: Hook) -> bool:
        """Whether who subscribed may still read; else the subscription ends. That of a key waits, which this
        node may learn later. Switches. Raises StorageUnavailable."""
        holds = self._core.identity.authority.still_holds(hook.app, hook.user, hook.what.proof)
        if not holds and not hook.what.proof.startswith("key:"):
            self.rows.remove_same(hook)
            self.work.changed()
        return holds

    def stop(self) -> None:
        """End all greenlets, store the positions, and give the lease back."""
        self.work.end()
        senders, self._senders = list(self._senders.values()), {}
        try:
            Consumer.stop_all([sender.consumer for sender in senders])
            if senders:
                self._events.release([LEASE], self._core.cluster.registry.lease.node)
        except StorageUnavailable as error:
            log.debug("the lease of events of MCP could not be given back: %s", error)
        self._requests.close()


class _Sender:
    """Owner of the position of one subscription, while this node has the lease."""

    def __init__(self, hooks: EventHooks, hook: Hook) -> None:
        self.hook = hook
        self._hooks = hooks
        self._subscription = Subscription(hook.what.event, msgspec.convert(hook.what.arguments, Wanted))
        self._window = LogWindow(self._read, hook.position, PAGE)
        name = f"the webhook {hook.id} of {hook.user}"
        self.consumer = Consumer(name, hooks.lease, self._next, self._deliver, self._save)

    def look(self, head: int) -> None:
        """The log has entries up to ``head``. Never switches."""
        self._window.head = max(self._window.head, head)
        if self._window.count:
            self.consumer.wake()

    def _read(self, after: int, limit: int) -> list[Entry]:
        return self._hooks.store.part(MessageLog).entries.sync(self.hook.app, self.hook.user, after, limit)[0]

    def _save(self) -> None:
        self._hooks.rows.advance(self.hook, self._window.position)

    def _next(self) -> Entry | None:
        """The next entry that is wanted. Switches. Raises StorageUnavailable."""
        window = self._window
        while window.count:
            entries = window.first(1)
            if entries and self._subscription.has(entries[0], self.hook.user):
                return entries[0] if self._hooks.still_holds(self.hook) else None
            window.take(entries[0].id if entries else window.after(0))
        return None

    def _deliver(self, entry: Entry) -> Failure | None:
        """Send one event. Each is sent after the one before was taken, so its cursor is its own place."""
        body, status = _encode(self._subscription.occurrence(entry, entry.id)), 0
        try:
            status = self._hooks.post(self.hook, f"{entry.id}", body)[0]
            problem = "" if 200 <= status < 300 else f"it answered with status {status}"
        except Unreachable as error:
            problem = str(error)
        is_final = status in (400, 410, 413, 415, 422)  # the same event is not sent again
        if problem and not is_final and monotonic() - self.consumer.since < TRY_SECONDS:
            return Failure(problem)
        self._window.take(entry.id)
        return Failure(problem, is_dead=True) if problem else None
