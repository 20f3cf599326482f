"""Webhooks of bots: posts each entry that a bot may read to its URL, at least
once and in order.

The answer of a URL may be messages, which the bot sends to the same
conversation.
"""

import logging
from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Any, Final

import gevent
import msgspec
from msgspec import Raw, Struct

from imserver.backends.webhooks.consumer import Failure
from imserver.backends.webhooks.event_json import for_bot
from imserver.backends.webhooks.event_rows import EventStore
from imserver.backends.webhooks.log_window import HookSender, LogHooks
from imserver.backends.webhooks.requests import (
    MISCONFIGURED,
    POST_SECONDS,
    WebhookCounts,
)
from imserver.people.bots.rows import BotHook, HookStore
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.messages import Draft, Entry, Messaging
from imserver.plugin.runtime import PublicRequests, RateLimitedLog, Service, Unreachable
from imserver.plugin.storage import Store
from imserver.plugin.wire import Refused

log = logging.getLogger(__name__)

TRY_SECONDS: Final = 86400.0
"""How long an event is tried. After that it is dropped, and the next one
follows."""
MAX_ANSWERS: Final = 10
"""The most messages in one answer. Further ones are ignored."""
_RETRY_SECONDS: Final = 0.5
"""Pause before the next attempt to store a message that could not be stored."""
_SERVER_FIELDS: Final = frozenset({"to", "conversation", "clientmsgid", "forward"})
"""The fields of a message that a URL cannot set."""


class _Answer(Struct):
    """The answer of a URL. A message has the fields of the command ``send`` of
    the cmd dialect."""

    text: str = ""
    messages: list[dict[str, Raw]] = []


class BotHooks(Service, dict=True):
    """The webhooks of bots.

    A bot with a webhook gets each entry that it may read as a POST request.
    ``know_bot`` is called with each bot that may send, and its app.
    """

    store: Store
    rows: HookStore
    events: EventStore
    requests: PublicRequests
    messaging: Messaging
    know_bot: Callable[[str, str], object]
    is_banned: Callable[[str, str], bool]
    node: Callable[[], str]
    tally: WebhookCounts

    def __post_init__(self) -> None:
        """Make the consumers that read the log for each webhook."""
        self._warn = RateLimitedLog(log, "webhook of bot %s: %s")
        name = "webhooks of bots"
        node = self.node
        self.log = LogHooks(
            name, "", self.store, self.events, self.messaging, node, self, are_bots=True
        )

    def stop(self) -> None:
        """End all greenlets, store the positions, and give the lease back."""
        self.log.stop()
        self.requests.close()

    # --- functions for the consumers
    # -------------------------------------------

    def hooks(self) -> dict[str, BotHook]:
        """Secret → webhook, for all bots.

        A webhook that was set again has a new secret, so it starts again.
        """
        return {hook.secret: hook for hook in self.rows.of_bots()}

    def wants(self, hook: BotHook, entry: Entry) -> bool | None:
        """Whether the webhook of a bot gets an entry.

        The webhook gets the entries of other users. It also gets a streamed
        message of the bot if a user has stopped that message. Returns None if
        the bot is banned: then its entries wait.
        """
        if self.is_banned(hook.app, hook.user):
            return None
        return entry.sender != hook.user or entry.is_stopped

    def advance(self, hook: BotHook, position: int) -> None:
        """Store the position up to which a webhook has got the log."""
        self.rows.advance(hook, position)

    def deliver(self, sender: HookSender[BotHook], entry: Entry) -> Failure | None:
        """Post an entry to the URL of a bot, and send the messages in its
        answer.

        Returns None if the entry is done, else the failure: then the entry is
        posted again later, unless the failure ``is_dead``.
        """
        hook = sender.hook
        try:
            status, answer = self._post(hook, entry)
        except Unreachable as error:
            return self._failure(sender, entry, str(error), is_final=False)
        if not 200 <= status < 300:
            problem = f"it answered with status {status}"
            return self._failure(sender, entry, problem, _is_final(status))

        self.tally.delivered[hook.app] += 1
        if not self._send_answer(hook, entry, answer):
            return Failure("the lease has ended")
        # The window has the next entries of the log. This one is done.
        sender.window.take(entry.id)
        return None

    def _post(self, hook: BotHook, entry: Entry) -> tuple[int, bytes]:
        """Post an entry to the URL of a bot; returns the status and the body.

        Switches greenlets. Raises Unreachable.
        """
        event = for_bot(hook.app, entry, self.node(), hook.user)
        return self.requests.post(
            hook.url,
            hook.secret.encode(),  # signs the request
            event.body,
            int(time()),
            f"{hook.user}-{event.id}",
            POST_SECONDS,
        )

    def _failure(
        self, sender: HookSender[BotHook], entry: Entry, problem: str, is_final: bool
    ) -> Failure:
        """Count a failed attempt to post an entry, and decide whether to repeat
        it.

        The entry is given up if ``is_final``, or after :data:`TRY_SECONDS`,
        because no later event is posted before it.
        """
        hook = sender.hook
        self.tally.failures[hook.app] += 1
        if is_final or monotonic() - sender.consumer.first_tried_at > TRY_SECONDS:
            self.tally.dropped[hook.app] += 1
            self._warn(hook.user, f"an event was dropped: {problem}")
            sender.window.take(entry.id)
            return Failure(problem, is_dead=True)
        if not sender.consumer.failures:  # the first failure of this event
            self._warn(hook.user, f"{problem}; trying again")
        return Failure(problem)

    def _send_answer(self, hook: BotHook, entry: Entry, content: bytes) -> bool:
        """Send the messages of an answer, each once.

        Returns False if the lease of this node ended before all messages were
        stored: then another node must post the entry again. Switches greenlets.
        Raises StorageUnavailable.
        """
        if self.is_banned(hook.app, hook.user):
            return True
        self.know_bot(hook.app, hook.user)
        for number, message in enumerate(messages_of(content)):
            draft = self._draft_of(hook, entry, number, message)
            if draft is None:
                self._warn(hook.user, "a message of its answer is not valid")
                continue
            while True:
                result = self.messaging.store(hook.app, draft, by_user=True)
                if not isinstance(result, StorageUnavailable):
                    break
                if result.until:
                    # The app has used up its quota of the day, so all its
                    # messages are refused.
                    self._warn(hook.user, f"an answer was dropped: {result}")
                    return True
                if not self.log.lease.is_owned:
                    return False
                # The bot may have sent too many messages, for example.
                gevent.sleep(_RETRY_SECONDS)
        return True

    def _draft_of(
        self, hook: BotHook, entry: Entry, number: int, message: dict[str, Any]
    ) -> Draft | None:
        """The draft of one message of an answer to an entry.

        It goes to the conversation of the entry. ``number`` is its index in the
        answer. Returns None if the message is not valid.
        """
        fields = _chosen_fields(message)
        peer = entry.peer(hook.user)
        if peer:
            fields["to"] = peer
        else:
            fields["conversation"] = entry.conversation
        if entry.thread and "thread" not in fields:
            # Not the first message of the thread, because a bot of a group may
            # not be able to read it.
            fields["thread"] = entry.id
        # If the entry is posted again, the message is recognised by this id.
        fields["clientMsgID"] = f"hook-{entry.id}-{number}"
        try:
            return self.messaging.read(hook.app, hook.user, msgspec.json.encode(fields))
        except Refused:
            return None


def _is_final(status: int) -> bool:
    """Whether a repetition of a request that got this status would fail, too."""
    return 400 <= status < 500 and status not in MISCONFIGURED


def messages_of(content: bytes) -> Sequence[dict[str, Any]]:
    """The messages of an answer.

    The result is empty for an answer of another form, such as ``OK``.
    ``{"text": "Hello"}`` is a short form for one message.
    """
    try:
        answer = msgspec.json.decode(content, type=_Answer)
    except (ValueError, RecursionError):
        return []
    if answer.text:
        return [{"text": answer.text}]
    return answer.messages[:MAX_ANSWERS]


def _chosen_fields(message: dict[str, Any]) -> dict[str, Any]:
    """The fields of a message that the URL may choose.

    It must not choose where the message goes.
    """
    return {
        name: value
        for name, value in message.items()
        if name.casefold() not in _SERVER_FIELDS
    }
