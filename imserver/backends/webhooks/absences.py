"""Absences: events that tell a back end that a user is offline and has not read
a stored message."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import gevent
import msgspec
from msgspec import Struct

from imserver.backends.webhooks.consumer import Consumer
from imserver.backends.webhooks.event_rows import Absence, NewEvent
from imserver.backends.webhooks.feeds import Feed, Feeds
from imserver.backends.webhooks.log_window import RememberedMembers
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.identity import Holder
from imserver.plugin.messages import (
    Conversation,
    ConversationSummary,
    Entry,
    MessageLog,
)
from imserver.plugin.runtime import steady_time
from imserver.plugin.services import Presence
from imserver.plugin.storage import Store

GATHER_SECONDS: Final = 0.1
"""How long new entries wait for others, so that one turn works on all of
them."""
MIN_PAUSE_SECONDS: Final = 0.05
"""Pause while an absence is due but the registry does not answer, so nobody
knows whether the user is online."""
DUE_AT_ONCE: Final = 200
"""The most absences that one turn decides about."""
_NEVER: Final = 1 << 62
_SECOND_MS: Final = 1000
_PREVIEW_CHARACTERS: Final = 200
"""How many characters of a message its event shows."""


class _Work(Struct):
    """The work of one turn of a consumer.

    Either there are absences that are ``due``, or the log has grown: up to
    ``position``, by ``entries``.
    """

    entries: list[Entry] = []
    position: int = 0
    due: list[Absence] = []


class Absences(Struct, frozen=True):
    """Tells back ends that a user was offline and missed a message.

    If a receiver of a stored message is offline, the class notes an *absence*.
    After ``absent_seconds`` it adds an ``absent`` event if the user is still
    offline, has not read the message, and is not a bot. The next event for this
    conversation follows only after the user was online.

    Absences are stored in the database, so they survive the node. Each app
    whose feed this node delivers has a consumer. ``accounts_of`` returns the
    accounts of these users of an app.
    """

    feeds: Feeds
    presence: Presence
    is_registry_up: Callable[[], bool]
    store: Store
    accounts_of: Callable[[str, Sequence[str]], Iterable[Holder]]

    def make_consumer(self, feed: Feed) -> Consumer[_Work]:
        """Make the consumer that works on the absences of a feed.

        It runs while this node has the lease of the feed.
        """
        feed.members = RememberedMembers(self.store.part(MessageLog), feed.app)
        # The members of groups are remembered as long as this consumer exists.
        return Consumer(
            f"the absent users of {feed.app}",
            feed.lease,
            read=partial(self._next, feed),
            deliver=partial(self._process, feed),
            save=partial(self.feeds.save, feed),
            until_due=partial(self._until_due, feed),
        )

    def _until_due(self, feed: Feed) -> float | None:
        """Return the seconds until the next absence is due.

        None: no absence is stored, or the app does not want ``absent`` events.
        """
        if feed.next_due == _NEVER or not self.feeds.wants(feed.app, "absent"):
            return None
        due = feed.next_due / _SECOND_MS
        return max(due - steady_time(), MIN_PAUSE_SECONDS)

    def _next(self, feed: Feed) -> _Work | None:
        """Read the next work: new entries, or else absences that are due.

        Returns None if there is nothing to do. Switches greenlets. Raises
        StorageUnavailable.
        """
        window = feed.noting
        assert feed.members is not None
        if not self.feeds.wants(feed.app, "absent"):
            window.skip()
            # The skipped entries may change the members of groups.
            feed.members.clear()
            return None
        if window.count:
            if window.count < window.page:
                gevent.sleep(GATHER_SECONDS)
            entries = window.first()
            return _Work(entries=entries, position=window.after(len(entries)))

        now = int(steady_time() * _SECOND_MS)
        if feed.next_due > now or not self.is_registry_up():
            return None
        return self._due_work(feed, now)

    def _due_work(self, feed: Feed, now: int) -> _Work | None:
        """Read the absences that are due ``now``. None: there are none.

        Switches greenlets. Raises StorageUnavailable.
        """
        # The clock of the process that has stored the absences may have been
        # ahead.
        if not feed.next_due:
            latest = now + int(feed.receiver.absent_seconds * _SECOND_MS)
            self.feeds.events.limit_absences(feed.app, latest)
        due, next_due = self.feeds.events.due_absences(feed.app, now, DUE_AT_ONCE)
        # The time of the next absence stays in the past until no more absences
        # are due. So the next call reads them again, even if this turn fails.
        if due:
            return _Work(due=due)
        feed.next_due = next_due or _NEVER
        return None

    def _process(self, feed: Feed, work: _Work) -> None:
        """Process new entries, or absences that are due.

        For new entries, it stores which receivers are offline. For absences, it
        adds the events, unless their users have come online or have read the
        message. Switches greenlets. Raises StorageUnavailable and NotOwner.
        """
        app = feed.app
        events = self.feeds.events
        window = feed.noting
        if work.due:
            self._report_due(app, work.due)
            return

        absences = self._find_absences(feed, work.entries)
        # Without absences the position is stored later, by the consumer.
        if absences:
            events.note(app, self.feeds.node(), work.position, absences)
            feed.next_due = min(feed.next_due, absences[0].due)
        window.take(work.position)

    # --- who is offline -------------------------------------------------------

    def _report_due(self, app: str, due: Sequence[Absence]) -> None:
        """Add the events about absences that are due, unless they have ended.

        Switches greenlets. Raises StorageUnavailable and NotOwner.
        """
        reported, over = self._decide(app, due)
        heads = self.feeds.events.end_absences(app, self.feeds.node(), reported, over)
        self.feeds.added(heads)

    def _find_absences(self, feed: Feed, entries: Iterable[Entry]) -> list[Absence]:
        """Find the users who should read one of these entries and are offline.

        Switches greenlets. Raises StorageUnavailable.
        """
        first_entries = _first_entries(feed, entries)
        users = list(dict.fromkeys(user for user, _ in first_entries))
        if not users:
            return []

        offline = self._offline_among(feed.app, users)
        due = int((steady_time() + feed.receiver.absent_seconds) * _SECOND_MS)
        return [
            Absence(user, conversation, entry_id, due)
            for (user, conversation), entry_id in first_entries.items()
            if user in offline
        ]

    # --- absences that are due ------------------------------------------------

    def _offline_among(self, app: str, users: Sequence[str]) -> set[str]:
        """Return the users who are offline.

        A user may be connected to any node, so the registry is asked. Switches
        greenlets. Raises StorageUnavailable.
        """
        are_online = self.presence.are_online(app, users)
        return {
            user
            for user, is_online in zip(users, are_online, strict=True)
            if not is_online
        }

    def _decide(
        self, app: str, due: Sequence[Absence]
    ) -> tuple[list[tuple[Absence, NewEvent]], list[Absence]]:
        """Decide about absences that are due.

        Returns two lists: absences to report, each with its event, and absences
        that have ended. Switches greenlets. Raises StorageUnavailable, also if
        a node does not say who is online.
        """
        users = [absence.user for absence in due]
        are_online = self._are_online(app, users)
        bots = {account.user for account in self.accounts_of(app, users) if account.bot}
        facts_of = self._facts_reader(app, due)
        reported = []
        over = []
        for absence, is_online in zip(due, are_online, strict=True):
            facts = None
            if not is_online and absence.user not in bots:
                facts = facts_of(absence)
            if facts is None:
                over.append(absence)
                continue
            body = msgspec.json.encode(facts)
            reported.append((absence, NewEvent(app, absence.user, "absent", body)))
        return reported, over

    def _are_online(self, app: str, users: Sequence[str]) -> Sequence[bool]:
        """Return for each user whether the user is online.

        Raises StorageUnavailable if a node does not say it. The consumer then
        tries again later: nobody is reported who may be online.
        """
        online = self.presence.online(app, users)
        if online.missing:
            raise StorageUnavailable(
                f"nodes do not answer: {', '.join(online.missing)}"
            )
        return online.users

    def _facts_reader(
        self, app: str, due: Sequence[Absence]
    ) -> Callable[[Absence], dict[str, Any] | None]:
        """Read the messages and conversations of absences, all in two queries.

        Returns a function that returns the fields of the event about an
        absence; None: the absence has ended. Both switch greenlets, and raise
        StorageUnavailable.
        """
        stored = self.store.part(MessageLog)
        entry_ids = list({absence.entry for absence in due})
        entries = {entry.id: entry for entry in stored.entries.find(app, entry_ids)}
        conversation_ids = list({absence.conversation for absence in due})
        conversations = {
            conversation.id: conversation
            for conversation in stored.conversations.find(app, conversation_ids)
        }

        def facts_of(absence: Absence) -> dict[str, Any] | None:
            """Return the fields of the event about one of the absences."""
            entry = entries.get(absence.entry)
            # The message was recalled, or has expired.
            if entry is None:
                return None
            return _facts(stored, app, absence, entry, conversations)

        return facts_of


def _first_entries(feed: Feed, entries: Iterable[Entry]) -> dict[tuple[str, int], int]:
    """Return (user, conversation) → the first entry that the user should read.

    Messages in rooms are for the people there, so nobody misses them. May
    switch greenlets. Raises StorageUnavailable.
    """
    assert feed.members is not None
    first_entries: dict[tuple[str, int], int] = {}
    for entry in entries:
        if entry.kind in ("join", "leave"):
            feed.members.forget(entry.conversation)
        elif entry.kind == "message" and not entry.room:
            for user in entry.members or feed.members.of(entry.conversation):
                # A back end has the user "", and nobody misses a message of
                # their own.
                if user and user != entry.sender:
                    first_entries.setdefault((user, entry.conversation), entry.id)
    return first_entries


def _facts(
    stored: MessageLog,
    app: str,
    absence: Absence,
    entry: Entry,
    conversations: Mapping[int, Conversation],
) -> dict[str, Any] | None:
    """Return the fields of an ``absent`` event about an entry.

    None: the user has read the message, or may not read it any more. Switches
    greenlets. Raises StorageUnavailable.
    """
    summary = _summary(stored, app, absence, conversations.get(absence.conversation))
    if summary is None or not summary.unread or summary.read >= absence.entry:
        return None

    # ``unread`` counts all unread messages of the conversation, not only this
    # one.
    conversation = summary.conversation
    stored_at = {
        "id": entry.id,
        "conversation": entry.conversation,
        "seq": entry.seq,
    }
    facts: dict[str, Any] = {
        "user": absence.user,
        "conversation": conversation.id,
        "kind": conversation.kind,
        "sender": entry.sender,
        "unread": summary.unread,
        "stored": stored_at,
    }
    if conversation.kind == "group":
        facts |= {"group": str(conversation.id), "name": conversation.name}
    if entry.kind == "message":
        facts |= _facts_of_content(entry)
    return facts


def _facts_of_content(entry: Entry) -> dict[str, Any]:
    """Return the fields of an event about the content of a message."""
    content = entry.view()
    text = content.text or ""
    return {"type": content.type, "preview": text[:_PREVIEW_CHARACTERS]}


def _summary(
    stored: MessageLog, app: str, absence: Absence, known: Conversation | None
) -> ConversationSummary | None:
    """Return the conversation of an absence as its user sees it.

    None: the user is not a member any more, or the conversation is gone.
    ``known``: the conversation; None: it does not exist. Switches greenlets.
    Raises StorageUnavailable.
    """
    if stored.conversations.member(app, absence.conversation, absence.user) is None:
        return None
    # The user's list of conversations is ordered by their newest entries. So
    # the page before the id after the newest entry begins with this one. A new
    # entry may come between the two queries: then try again.
    while known is not None:
        page, _ = stored.conversations.page(app, absence.user, known.last_id + 1, 1)
        if page and page[0].conversation.id == known.id:
            return page[0]
        latest = stored.conversations.get(app, absence.conversation)
        if latest is None or latest.last_id == known.last_id:
            return None
        known = latest
    return None
