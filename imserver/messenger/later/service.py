"""Sends scheduled messages and reminders when they are due. A user gets
reminders from the server, in their conversation with themselves.

All nodes look for due messages. A lease in the row lets one node send a
message. A second sender does no harm: the transaction of the log that stores
the message deletes the row, and stores nothing if the row was changed or
deleted. So a message is sent exactly once, or is cancelled, even if nodes die.
"""

import logging
from collections import Counter, deque
from hashlib import blake2b
from pathlib import Path
from time import monotonic, time
from typing import Any, ClassVar, Final, Literal

import msgspec
from gevent.event import Event as Flag

from imserver.messenger.later.declared import CHANGE_SECONDS, CHANGES, SCHEDULE_CHANGES
from imserver.messenger.later.rows import (
    ScheduledMessage,
    ScheduledRows,
    SourceRow,
    When,
    content_of,
)
from imserver.messenger.log.meta import MessageMeta, ReminderOrigin
from imserver.plugin import Parts
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.identity import Buckets
from imserver.plugin.messages import (
    Appended,
    Draft,
    MessageServices,
    Rejected,
    RejectReason,
    ToFollowers,
)
from imserver.plugin.services import Core
from imserver.plugin.wire import Signal

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
"""How often a node looks for messages that other nodes have scheduled."""
AGAIN_MS: Final = 600_000
"""The pause before the next try of a message if its app has no quota left. The
quota may be raised meanwhile."""
_PRESENCE_SECONDS: Final = 2.0
"""The pause between two looks while messages await a receiver. Only the node to
which a user connects knows that the user is online."""
_MOST_SENDING: Final = 200
"""The most messages without a result. A node with this number takes no further
messages."""
_RESULT_SECONDS: Final = 60.0
"""How long a node waits for a result. The time is long because reviews by back
ends take a while."""
_REMINDER_ID_BYTES: Final = 16
BANNED = "banned"
QUOTA = "quota"
"""A reason why a message is not sent, besides the reasons of the log."""


class ScheduledMessages:
    """Sends scheduled messages and reminders when they are due.

    All nodes look for due messages. A *lease* in the row of a message lets one
    node send it. This object also counts acts on messages, and remembers which
    messages this node is sending.
    """

    page_folder: ClassVar = Path(__file__).parent / "page"

    def __init__(self, core: Core, services: MessageServices, changes: Buckets) -> None:
        """Begin without messages to send. ``changes`` is the rate of users'
        changes."""
        self.core = core
        self.changes = changes
        self.rows = ScheduledRows(core.store)
        self.counts: Counter[Literal["schedule", "send", "refuse", "cancel"]] = (
            Counter()
        )
        """Act → how often this node has done it since its start."""
        self._log = services.log
        self._messaging = services.messaging
        self._signals = services.signals
        self._news = Flag()
        self._awaited: tuple[str, str] = ("", "")
        """The user whose presence was checked last."""
        self._sending: dict[ScheduledMessage, float] = {}
        """Message without a result → when to stop waiting for the result, by
        the monotonic clock."""
        self._results: deque[tuple[ScheduledMessage, Any]] = deque()
        """Results that the next look processes."""

    # --- the author -----------------------------------------------------------

    def add(self, message: ScheduledMessage, when: When) -> ScheduledMessage:
        """Schedule a message, and return its row. Switches greenlets.

        Raises ServiceRefused if the user has too many scheduled messages.
        Raises StorageUnavailable.
        """
        row = self.rows.add(message, when)
        self.counts["schedule"] += 1
        self.changed(row)
        return row

    def cancel(self, app: str, user: str, id: str) -> bool:
        """Cancel a message. Switches greenlets. Raises StorageUnavailable.

        Returns False if the message was sent before, or was never scheduled.
        """
        if not self.rows.cancel(app, user, id):
            return False
        self.counts["cancel"] += 1
        self._signal(app, user, {"id": id, "gone": True})
        # The message may have been sent nevertheless: a request that was
        # repeated late may have scheduled it again.
        return not self.was_sent(app, user, id)

    def was_sent(self, app: str, user: str, id: str) -> bool:
        """Tell whether the log has the message of a user with this id.

        It may also be a reminder for the user. Switches greenlets. Raises
        StorageUnavailable.
        """
        entries = self._log.entries
        if entries.sent(app, user, id) is not None:
            return True
        # The server is the sender of reminders.
        reminder_id = _reminder_id(user, id)
        return entries.sent(app, sender="", client_msg_id=reminder_id) is not None

    def changed(self, row: ScheduledMessage) -> None:
        """Plan the next look for a row that was written on this node.

        This also notifies the devices of the author. Never switches greenlets.
        """
        self._news.set()
        self._signal(row.app, row.member, {"id": row.id, "version": row.version})

    def _signal(self, app: str, user: str, data: dict[str, Any]) -> None:
        """Notify the devices of an author of a change of a message."""
        signal = Signal(
            "scheduled", sender=user, text="", data=msgspec.json.encode(data)
        )
        self._signals.send(ToFollowers(app, (user,), group=0, signal=signal))

    # --- the node -------------------------------------------------------------

    def run(self) -> None:
        """Send due messages. Runs in a greenlet of its own, until it is
        killed."""
        while True:
            self._news.clear()
            pause = LOOK_SECONDS
            try:
                pause = self.look()
            except StorageUnavailable as error:
                log.debug("scheduled messages could not be sent: %s", error)
            except Exception:
                log.exception("scheduled messages could not be sent")
            self._news.wait(pause)

    def look(self) -> float:
        """Send some of the due messages, and return the seconds until the next
        look.

        Switches greenlets. Raises StorageUnavailable.
        """
        if not self.core.store.has_database:
            return LOOK_SECONDS
        # The results come first, because they end leases, and change which
        # messages are due.
        while self._results:
            row, result = self._results.popleft()
            self._process_result(row, result)
        is_awaiting = self._look_for_awaited()
        due, seconds_to_next = self.rows.due()

        self._give_up_late()
        if len(self._sending) >= _MOST_SENDING:
            # If a result comes, it wakes the greenlet earlier.
            return LOOK_SECONDS
        if due:
            for row in self.rows.lease(due):
                # If the lease ended before the result came, this node is still
                # sending the message.
                if row not in self._sending:
                    self._send(row)

        return _pause_until(seconds_to_next, is_awaiting)

    def _give_up_late(self) -> None:
        """Stop waiting for results that take too long."""
        self._sending = {
            row: until for row, until in self._sending.items() if until > monotonic()
        }

    def _look_for_awaited(self) -> bool:
        """Make messages due whose receivers are connected to this node.

        Some messages *await* their receiver: they are sent when the user comes
        online. Each call checks the next page of such receivers. Returns
        whether any messages await a receiver.
        """
        app_before, _ = self._awaited
        users = self.rows.awaited(self._awaited)
        if users:
            self._awaited = users[-1]
        else:
            # After the last page, the next call starts at the beginning.
            self._awaited = ("", "")
        apps = self.core.hub.apps
        for app, user in users:
            if app in apps and apps[app].sessions_of(user):
                self.receiver_came(app, user)
        # If this page is empty, there were users on earlier pages.
        return bool(users or app_before)

    def receiver_came(self, app: str, user: str) -> None:
        """Make the messages due that await a user who is online now.

        Messages whose authors may not see that the user is online stay as they
        are. Switches greenlets. Raises StorageUnavailable.
        """
        relations = self.core.relations
        rows = self.rows.awaiting(app, user)
        while rows:
            # Other messages are left out, because they would show their authors
            # that the user is online.
            visible = [
                row for row in rows if relations.may_see_presence(app, row.member, user)
            ]
            for row in self.rows.come(visible):
                self.changed(row)
            last = rows[-1]
            rows = self.rows.awaiting(app, user, (last.member, last.id))

    def _send(self, row: ScheduledMessage) -> None:
        """Send a message. The next look processes the result.

        A message that cannot be sent is refused at once.
        """
        if self.core.sessions.is_banned(row.app, row.member):
            self._process_result(row, Rejected(BANNED))
            return
        draft = self._draft_of(row)
        # The message of which a reminder reminds may be gone.
        if draft is None:
            self._process_result(row, Rejected(RejectReason.UNKNOWN_MESSAGE))
            return

        to_account = self._needs_account(row)

        def note_result(result: Any) -> None:
            """Remember the result for the next look, and wake the greenlet."""
            self._sending.pop(row, None)
            self._results.append((row, result))
            self._news.set()

        # Until the result comes, this node does not send it again.
        self._sending[row] = monotonic() + _RESULT_SECONDS
        source = SourceRow(row)
        if row.reminds:
            self._messaging.send(row.app, draft, note_result, source=source)
        else:
            self._messaging.send_of_user(
                row.app,
                draft,
                note_result,
                to_account=to_account,
                source=source,
            )

    def _draft_of(self, row: ScheduledMessage) -> Draft | None:
        """Return the draft of a message or reminder. The result is None if the
        message of a reminder is gone."""
        if row.reminds:
            return self._reminder(row)
        return _draft(row)

    def _needs_account(self, row: ScheduledMessage) -> bool:
        """Tell whether the receiver of a first message must have an account."""
        # In demo mode, a user without an account may write to anybody.
        by_account = self.core.keys.demo and bool(
            self.core.accounts.those_of(row.app, [row.member])
        )
        return self.core.logins.wants_account(row.app, by_account)

    def _reminder(self, row: ScheduledMessage) -> Draft | None:
        """Return the draft of a reminder, or None if its message cannot be
        read.

        The draft is a copy of the message. Its sender is the server, and it
        goes to the conversation of the author with themselves. The author may
        no longer be able to read the message.
        """
        entries = self._log.entries.readable(row.app, row.member, [row.reminds])
        if not entries or entries[0].kind != "message":
            return None
        (entry,) = entries
        # Clients show the original message by these ids.
        about = ReminderOrigin(entry.id, entry.conversation, entry.sender)
        return Draft(
            sender="",
            to_user=row.member,
            saved=True,
            type=entry.type,
            body=entry.body,
            client_msg_id=_reminder_id(row.member, row.id),
            time_ms=int(time() * 1000),
            meta=MessageMeta(reminder=about).to_bytes(),
        )

    def _process_result(self, row: ScheduledMessage, result: Any) -> None:
        """Process the result of a message that this node has sent.

        This stores why the message is refused, or when it is tried again, and
        notifies the devices of the author.
        """
        if isinstance(result, Appended):
            # The log has deleted the row.
            self.counts["send"] += 1
            self._signal(row.app, row.member, {"id": row.id, "gone": True})
        elif isinstance(result, Rejected) and result.reason != RejectReason.WITHDRAWN:
            self._refuse(row, result.reason)
        elif isinstance(result, StorageUnavailable) and result.until:
            # The app has used up its quota of stored messages.
            after = self.rows.refuse(row, QUOTA, AGAIN_MS)
            if after is not None:
                self.changed(after)
        # In all other cases nodes try the message again when the lease ends. A
        # message that was WITHDRAWN was changed or deleted meanwhile.

    def _refuse(self, row: ScheduledMessage, reason: str) -> None:
        """Store why a message is refused, and notify the devices of its
        author."""
        after = self.rows.refuse(row, reason)
        # None means that the message was changed or deleted meanwhile.
        if after is not None:
            self.counts["refuse"] += 1
            self.changed(after)


def _draft(row: ScheduledMessage) -> Draft:
    """Return the draft of a scheduled message, as its author would send it
    now."""
    time_ms = int(time() * 1000)
    return Draft(
        sender=row.member, client_msg_id=row.id, time_ms=time_ms, **content_of(row)
    )


def _reminder_id(user: str, id: str) -> str:
    """Return the ``client_msg_id`` of a reminder.

    The sender of all reminders is the server, so the id must be unique among
    all users. It is a digest of the user and the id.
    """
    name = f"{user}\0{id}".encode()
    return blake2b(name, digest_size=_REMINDER_ID_BYTES).hexdigest()


def build(core: Core) -> Parts:
    """Build the service of scheduled messages. Its greenlet sends the messages
    that are due."""
    changes = core.buckets.make(SCHEDULE_CHANGES, CHANGES, CHANGE_SECONDS)
    messages = ScheduledMessages(core, core.service(MessageServices), changes)
    return Parts((messages,), run=(messages.run,))


def _pause_until(seconds_to_next: float | None, is_awaiting: bool) -> float:
    """Return the seconds until the next look.

    ``seconds_to_next`` is the time until a message is due, or None if no
    message waits. If messages await a receiver, the pause is short.
    """
    longest_pause = LOOK_SECONDS
    if is_awaiting:
        longest_pause = _PRESENCE_SECONDS
    if seconds_to_next is None:
        return longest_pause
    return min(seconds_to_next, longest_pause)
