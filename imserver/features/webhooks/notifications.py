"""Notifications: which users are to be notified of which stored messages, because they are offline."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from time import time
from typing import TYPE_CHECKING, Any, Final

import gevent
import msgspec

from imserver.auth.accounts import AccountLookup
from imserver.cluster.registry import Registry
from imserver.errors import StorageUnavailable
from imserver.features.webhooks.event_rows import Absence, NewEvent, NotOwner
from imserver.features.webhooks.feeds import PAGE, Feed, Feeds, LogWindow
from imserver.logging import RateLimitedLog
from imserver.message_view import entry_view
from imserver.sessions.presence import Presence
from imserver.storage.log.contract import Conversation, ConversationSummary, Entry
from imserver.storage.store import Store

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

log = logging.getLogger(__name__)

GATHER_SECONDS: Final = 0.1
"""How long new entries wait for others."""
RETRY_SECONDS: Final = 0.5
"""Pause after the database did not answer."""
MIN_PAUSE_SECONDS: Final = 0.05
"""Pause while an absence is due and cannot be decided, because the registry is away."""
DUE_AT_ONCE: Final = 200
PREVIEW_CHARACTERS: Final = 200
MEMBERS_AT_ONCE: Final = 1000
MAX_CACHED_MEMBERS: Final = 100_000
"""Members of groups that are remembered, of all groups together."""

_encode: Final = msgspec.json.Encoder().encode


class Notifications:
    """Decides about notifications, in the apps whose feeds this node delivers and that want ``absent``.

    A receiver of a stored message who is offline is noted. If they are offline ``absent_seconds`` later, have
    not read it, and are no bot, an ``absent`` event is added; then no other one for this conversation until
    they were online. What is noted is in the database, so it survives the node. Owner of the cached group
    members.
    """

    def __init__(
        self, feeds: Feeds, presence: Presence, registry: Registry, store: Store, accounts: AccountLookup
    ) -> None:
        self._feeds = feeds
        self._presence = presence
        self._registry = registry
        self._store = store
        self._accounts = accounts
        self._members: dict[tuple[str, int], tuple[str, ...]] = {}
        self._cached = 0
        self._windows: dict[str, LogWindow] = {}
        """App → the window whose entries have kept its cached members current."""
        self._trouble = RateLimitedLog(log, "nobody is notified: %s%s")

    def run(self) -> None:
        """Greenlet: look at new entries and at absences whose time has come, until it is killed."""
        failed = False
        while True:
            if self._feeds.news.wait(RETRY_SECONDS if failed else self._until_due()):
                self._feeds.news.clear()
                gevent.sleep(GATHER_SECONDS)
            failed = False
            for app in self._windows.keys() - self._feeds.feeds.keys():
                self._forget_app(app)
            for feed in tuple(self._feeds.feeds.values()):
                try:
                    self._look_at(feed)
                except NotOwner:
                    log.debug("another node notifies the users of %s", feed.app)
                except StorageUnavailable as error:
                    self._trouble(error, "")
                    failed = True
                except Exception:
                    log.exception("users of %s could not be notified", feed.app)
                    failed = True

    def _until_due(self) -> float | None:
        """Seconds until the next absence is due; None: there is none."""
        feeds = [feed for app, feed in self._feeds.feeds.items() if self._feeds.wants(app, "absent")]
        due = min([feed.next_due for feed in feeds if feed.noting is not None], default=_NEVER)
        if due == _NEVER:
            return None
        is_lapsed = any(feed.noting is not None and not feed.owned for feed in feeds)
        return max(due / 1000 - time(), RETRY_SECONDS if is_lapsed else MIN_PAUSE_SECONDS)

    def _look_at(self, feed: Feed) -> None:
        """Note who is offline, and add the events that are due. Switches."""
        wanted = self._feeds.wants(feed.app, "absent")
        if feed.noting is not None and not wanted:
            feed.noting.skip()
            self._forget_app(feed.app)  # the skipped entries may change members
        while feed.owned and feed.noting is not None and feed.noting.count:
            window = feed.noting
            self._follow(feed.app, window)
            entries = window.first(PAGE)
            position = window.after(len(entries))
            absences = self._absences(feed, entries)
            if absences:
                self._feeds.events.note(feed.app, self._feeds.node(), position, absences)
                feed.next_due = min(feed.next_due, absences[0].due)
            window.take(position)
        if wanted and feed.owned and feed.next_due <= time() * 1000 and self._registry.healthy():
            self._report_due(feed)

    # --- who is offline -------------------------------------------------------------------------------------

    def _absences(self, feed: Feed, entries: Iterable[Entry]) -> list[Absence]:
        """The users who are to read one of these entries, and are offline."""
        app = feed.app
        found: dict[tuple[str, int], int] = {}
        for entry in entries:
            if entry.kind in ("join", "leave"):
                self._forget(app, entry.conversation)
            elif entry.kind == "message" and not entry.room:
                for user in entry.members or self._members_of(app, entry.conversation):
                    if user and user != entry.sender:
                        found.setdefault((user, entry.conversation), entry.id)
        users = list(dict.fromkeys(user for user, _ in found))
        if not users:
            return []
        online = self._presence.are_online(app, users)
        offline = {user for user, here in zip(users, online, strict=True) if not here}
        due = int((time() + feed.receiver.absent_seconds) * 1000)
        return [
            Absence(user, conversation, entry, due)
            for (user, conversation), entry in found.items()
            if user in offline
        ]

    def _members_of(self, app: str, group: int) -> tuple[str, ...]:
        known = self._members.get((app, group))
        if known is None:
            members: list[str] = []
            stored = self._store.log()
            while page := stored.conversations.members(
                app, group, members[-1] if members else "", MEMBERS_AT_ONCE
            ):
                members += [row.user for row in page]
                if len(page) < MEMBERS_AT_ONCE:
                    break
            known = tuple(members)
            if self._cached + len(known) > MAX_CACHED_MEMBERS:
                self._members.clear()
                self._cached = 0
            self._members[app, group] = known
            self._cached += len(known)
        return known

    def _follow(self, app: str, window: LogWindow) -> None:
        """Forget the members of an app's groups if another node has looked at its entries meanwhile."""
        if self._windows.get(app) is not window:
            self._forget_app(app)
            self._windows[app] = window

    def _forget_app(self, app: str) -> None:
        if self._windows.pop(app, None) is None:
            return
        for known, group in [each for each in self._members if each[0] == app]:
            self._forget(known, group)

    def _forget(self, app: str, group: int) -> None:
        self._cached -= len(self._members.pop((app, group), ()))

    # --- who is to be notified ------------------------------------------------------------------------------

    def _report_due(self, feed: Feed) -> None:
        """Add the events of absences whose time has come, unless the users were online or have read it."""
        app, events = feed.app, self._feeds.events
        while feed.owned:
            now = int(time() * 1000)
            due, next_due = events.due_absences(app, now, DUE_AT_ONCE)
            if not due:  # until then it stays due, also if the following fails
                feed.next_due = next_due or _NEVER
                return
            reported, over = self._decide(app, due)
            self._feeds.added(events.end_absences(app, self._feeds.node(), reported, over))

    def _decide(
        self, app: str, due: Sequence[Absence]
    ) -> tuple[list[tuple[Absence, NewEvent]], list[Absence]]:
        users = [each.user for each in due]
        online = self._presence.are_online(app, users)
        bots = {account.user for account in self._accounts.those_of(app, users) if account.bot}
        stored = self._store.log()
        entries = {entry.id: entry for entry in stored.entries.find(app, list({each.entry for each in due}))}
        found = stored.conversations.find(app, list({each.conversation for each in due}))
        conversations = {conversation.id: conversation for conversation in found}
        reported, over = [], []
        for absence, here in zip(due, online, strict=True):
            entry = entries.get(absence.entry)
            if here or entry is None or absence.user in bots:
                over.append(absence)
                continue
            facts = _facts(stored, app, absence, entry, conversations)
            if facts is None:
                over.append(absence)
            else:
                reported.append((absence, NewEvent(app, absence.user, "absent", _encode(facts))))
        return reported, over


_NEVER: Final = 1 << 62


def _facts(
    stored: MessageLog, app: str, absence: Absence, entry: Entry, conversations: Mapping[int, Conversation]
) -> dict[str, Any] | None:
    """The fields of an ``absent`` event; None: the user has read the message, or may not any more."""
    summary = _summary(stored, app, absence, conversations.get(absence.conversation))
    if summary is None or not summary.unread or summary.read >= absence.entry:
        return None
    conversation = summary.conversation
    facts: dict[str, Any] = {
        "user": absence.user,
        "conversation": conversation.id,
        "kind": conversation.kind,
        "sender": entry.sender,
        "unread": summary.unread,
        "stored": {"id": entry.id, "conversation": entry.conversation, "seq": entry.seq},
    }
    if conversation.kind == "group":
        facts |= {"group": str(conversation.id), "name": conversation.name}
    if entry.kind == "message":
        seen = entry_view(entry)
        facts |= {"type": seen.type, "preview": (seen.text or "")[:PREVIEW_CHARACTERS]}
    return facts


def _summary(
    stored: MessageLog, app: str, absence: Absence, known: Conversation | None
) -> ConversationSummary | None:
    """The conversation as the user sees it; None: the user is no member any more."""
    if stored.conversations.member(app, absence.conversation, absence.user) is None:
        return None
    while known is not None:
        # The list is ordered by the newest entry, which no other conversation has.
        page, _ = stored.conversations.page(app, absence.user, known.last_id + 1, 1)
        if page and page[0].conversation.id == known.id:
            return page[0]
        latest = stored.conversations.get(app, absence.conversation)
        if latest is None or latest.last_id == known.last_id:
            return None
        known = latest
    return None
