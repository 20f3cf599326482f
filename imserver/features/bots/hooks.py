"""Webhooks of bots: each entry that a bot may read is posted to its URL, at least once and in order.

One node delivers for all bots, by a lease in the table of feeds. It reads what a bot may read as clients do,
with a cursor: the stored position of the webhook. Each bot has a consumer, so a URL that fails or hangs
delays nobody else. The answer of a URL may be messages, which the bot sends to the same conversation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Any, Final

import gevent
import msgspec
from msgspec import Raw, Struct

from imserver.features.bots.rows import BotHook, HookStore
from imserver.features.webhooks.consumer import Consumer, DeliveryLease, Failure, LeasedWork
from imserver.features.webhooks.event_json import for_bot
from imserver.features.webhooks.event_rows import EventStore
from imserver.features.webhooks.log_window import LogWindow
from imserver.features.webhooks.requests import MISCONFIGURED, POST_SECONDS, WebhookCounts
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.messages import Draft, Entry, MessageLog, Messaging
from imserver.plugin.runtime import PublicRequests, RateLimitedLog, Unreachable
from imserver.plugin.storage import Store
from imserver.plugin.wire import Refused

log = logging.getLogger(__name__)

LEASE: Final = ""
"""The name of the lease, in the place of an app. No app has it."""
PAGE: Final = 100
TRY_SECONDS: Final = 86400.0
"""How long an event is tried; then it is dropped, and the next one follows."""
MAX_ANSWERS: Final = 10
"""Most messages in one answer; more are ignored."""
ANSWER_PAUSE_SECONDS: Final = 0.5
"""Until a message is sent again that was not stored, for example because the bot has sent too many."""

_encode: Final = msgspec.json.Encoder().encode


class _Answer(Struct):
    """The answer of a URL. A message has the fields of the command ``send`` of the cmd dialect."""

    text: str = ""
    messages: list[dict[str, Raw]] = []


_decode: Final = msgspec.json.Decoder(_Answer).decode


class BotHooks:
    """Owner of the lease, and of the consumers.

    The lease is held under the name of this node, which a restart does not change. ``know_bot``: called with
    each bot that may send, and its app.
    """

    def __init__(
        self,
        store: Store,
        rows: HookStore,
        events: EventStore,
        requests: PublicRequests,
        messaging: Messaging,
        know_bot: Callable[[str, str], object],
        is_banned: Callable[[str, str], bool],
        node: Callable[[], str],
        tally: WebhookCounts,
    ) -> None:
        self.store = store
        self.rows = rows
        self.requests = requests
        self.messaging = messaging
        self.is_banned = is_banned
        self.node = node
        self.tally = tally
        self._events = events
        self._know_bot = know_bot
        self.work = LeasedWork("webhooks of bots", self._renew, self._look)
        self._seen: dict[str, int] = {}
        """App → the log was looked through up to this id."""
        self.lease = DeliveryLease()
        self._senders: dict[tuple[str, str], _Sender] = {}
        self.warn = RateLimitedLog(log, "webhook of bot %s: %s")

    def _renew(self) -> None:
        """Take or renew the lease, and learn which bots have a webhook. Switches. Raises
        StorageUnavailable."""
        if not self.store.has_database:
            return
        since = monotonic()
        hooks = self.rows.of_bots()
        is_granted = bool(hooks) and LEASE in self._events.claim(
            {LEASE: 0}, self.node(), DeliveryLease.SECONDS
        )
        if not self.lease.renew(since, is_granted):
            # Another node may have delivered meanwhile: begin at the positions that are stored now.
            self._set_hooks({})
            hooks = self.rows.of_bots() if is_granted else []
        self._set_hooks({(hook.app, hook.bot): hook for hook in hooks})

    def _set_hooks(self, hooks: dict[tuple[str, str], BotHook]) -> None:
        """Send to these webhooks, and no others; to none after the end. Never switches."""
        if self.work.has_ended:
            hooks = {}
        for key, sender in tuple(self._senders.items()):
            if key not in hooks or hooks[key].secret != sender.hook.secret:
                del self._senders[key]
                sender.consumer.stop()
        for key, hook in hooks.items():
            if key not in self._senders:
                self._know_bot(hook.app, hook.bot)
                self._senders[key] = _Sender(self, hook)
        apps = {app for app, _ in hooks}
        self.messaging.follower.watch(self.work.news, apps)
        self._seen = {app: id for app, id in self._seen.items() if app in apps}

    def _look(self) -> None:
        """Wake the greenlets whose bots may read something new. Switches. Raises StorageUnavailable."""
        if not self._senders:
            return
        stored = self.store.part(MessageLog)
        apps = list({app for app, _ in self._senders})
        heads = stored.entries.heads(apps)
        for app in apps:
            head = heads.get(app, 0)
            readers = stored.entries.readers(app, self._seen.get(app, head), head)
            self._seen[app] = head
            for key, sender in self._senders.items():
                if key[0] == app:
                    sender.look(head, key[1] in readers)

    def stop(self) -> None:
        """End all greenlets, store the positions, and give the lease back."""
        self.work.end()
        senders, self._senders = list(self._senders.values()), {}
        try:
            Consumer.stop_all([sender.consumer for sender in senders])
            if senders:
                self._events.release([LEASE], self.node())
        except StorageUnavailable as error:
            log.debug("the lease of webhooks of bots could not be given back: %s", error)
        self.requests.close()


class _Sender:
    """The webhook of one bot. Owner of its position while this node has the lease."""

    def __init__(self, hooks: BotHooks, hook: BotHook) -> None:
        self.hook = hook
        self._hooks = hooks
        self.window = LogWindow(self._read, hook.position, PAGE)
        self._has_looked = False
        """Whether it knows the end of the log."""
        self.consumer = Consumer(
            f"the webhook of bot {hook.bot}", hooks.lease, self._next, self._deliver, self._save
        )

    def look(self, head: int, has_more: bool) -> None:
        """The log has entries up to ``head``; ``has_more``: new ones for this bot. Never switches."""
        window = self.window
        if head > window.head:
            if self._has_looked and not has_more:
                window.committed(window.head + 1, head, ())
            self._has_looked, window.head = True, head
            if window.count:
                self.consumer.wake()

    def _read(self, after: int, limit: int) -> list[Entry]:
        return self._hooks.store.part(MessageLog).entries.sync(self.hook.app, self.hook.bot, after, limit)[0]

    def _save(self) -> None:
        self._hooks.rows.advance(self.hook, self.window.position)

    def _next(self) -> Entry | None:
        """The next entry that the bot has not sent itself, or that a reader has stopped. Switches. Raises
        StorageUnavailable."""
        window = self.window
        while window.count:
            for entry in window.first(1):
                if entry.sender != self.hook.bot or b'"stopped":' in entry.meta:
                    return entry
                window.take(entry.id)
            window.take(window.after(0))
        return None

    def _deliver(self, entry: Entry) -> Failure | None:
        """Send an entry, and store the answer of the URL."""
        hook, hooks = self.hook, self._hooks
        event = for_bot(hook.app, entry, hooks.node(), hook.bot)
        try:
            status, answer = hooks.requests.post(
                hook.url,
                hook.secret.encode(),
                event.body,
                int(time()),
                f"{hook.bot}-{event.id}",
                POST_SECONDS,
            )
        except Unreachable as error:
            return self._failed(entry, str(error))
        if not 200 <= status < 300:
            is_final = 400 <= status < 500 and status not in MISCONFIGURED
            return self._failed(entry, f"it answered with status {status}", is_final)
        hooks.tally.delivered[self.hook.app] += 1
        if not self._send_answer(entry, answer):
            return Failure("the lease has ended")
        self.window.take(entry.id)
        return None

    def _failed(self, entry: Entry, problem: str, is_final: bool = False) -> Failure:
        """A request failed. After a refusal, and after a day, the entry is dropped."""
        self._hooks.tally.failures[self.hook.app] += 1
        if is_final or monotonic() - self.consumer.since > TRY_SECONDS:
            self._hooks.tally.dropped[self.hook.app] += 1
            self._hooks.warn(self.hook.bot, f"an event was dropped: {problem}")
            self.window.take(entry.id)
            return Failure(problem, is_dead=True)
        if not self.consumer.failures:
            self._hooks.warn(self.hook.bot, f"{problem}; trying again")
        return Failure(problem)

    def _send_answer(self, entry: Entry, content: bytes) -> bool:
        """Send the messages of an answer, each once. False: the lease ended before all were stored, so the
        entry must be sent again. Switches. Raises StorageUnavailable."""
        hook = self.hook
        if self._hooks.is_banned(hook.app, hook.bot):
            return True
        for number, message in enumerate(messages_of(content)):
            draft = self._draft_of(entry, number, message)
            if draft is None:
                self._hooks.warn(hook.bot, "a message of its answer is not valid")
                continue
            while isinstance(self._hooks.messaging.store(hook.app, draft, by_user=True), StorageUnavailable):
                if not self._hooks.lease.is_owned:
                    return False
                gevent.sleep(ANSWER_PAUSE_SECONDS)
        return True

    def _draft_of(self, entry: Entry, number: int, message: dict[str, Any]) -> Draft | None:
        """The draft of one message of an answer to an entry; None: it is not valid."""
        hook = self.hook
        own = {"to", "conversation", "clientmsgid", "forward"}
        fields = {name: value for name, value in message.items() if name.casefold() not in own}
        if peer := entry.peer(hook.bot):
            fields["to"] = peer
        else:
            fields["conversation"] = entry.conversation
        if entry.thread and "thread" not in fields:
            fields["thread"] = entry.id  # a bot of a group may not read the first message
        fields["clientMsgID"] = f"hook-{entry.id}-{number}"
        try:
            return self._hooks.messaging.read(hook.app, hook.bot, _encode(fields))
        except Refused:
            return None


def messages_of(content: bytes) -> Sequence[dict[str, Any]]:
    """The messages of an answer. One of any other form, such as ``OK``, has none."""
    try:
        answer = _decode(content)
    except (ValueError, RecursionError):
        return []
    return [{"text": answer.text}] if answer.text else answer.messages[:MAX_ANSWERS]
