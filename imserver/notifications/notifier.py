"""The notifier: follows the logs of apps in which somebody can be notified, and
creates the notifications of their users.

The node with the lease in the table of feeds does this for all apps. Each app
has a consumer. Receivers of new messages are stored as *dues*. When the time of
a due has come, ``decisions`` decides about it. Notifications become deliveries
in the transaction that stores the decision.
"""

from __future__ import annotations

import logging
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from time import monotonic, time
from typing import Final

import gevent
from gevent.event import Event as Flag
from msgspec import Struct
from msgspec.structs import replace

from imserver.backends.webhooks.consumer import Consumer, DeliveryLease, LeasedWork
from imserver.backends.webhooks.event_rows import EventStore
from imserver.backends.webhooks.log_window import LogWindow, RememberedMembers
from imserver.notifications.content import (
    TTL_SECONDS,
    Author,
    answers_of,
    closing,
    delivery_to,
    language_of,
    notify_in,
    shown_of,
    topic_of,
    ttl_of,
)
from imserver.notifications.contract import (
    SECOND_MS,
    ConversationWish,
    Delivery,
    Due,
    PushEndpoint,
    Shown,
    ShownAction,
    Wishes,
)
from imserver.notifications.decisions import decide, mail_due, may_notify, nothing_new
from imserver.notifications.declared import AppNotifySettings
from imserver.notifications.keywords import has_keyword, searched_text
from imserver.notifications.recipients import Recipients
from imserver.notifications.rows import LEASE, NotificationRows
from imserver.people.accounts.contract import Account
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.messages import (
    Ask,
    Conversation,
    Entry,
    MessageLog,
    UnreadMessages,
)
from imserver.plugin.runtime import (
    RateLimitedLog,
    Service,
    is_long_turn,
    serve_others,
    steady_time,
    until_beat,
)
from imserver.plugin.storage import Store, chunks
from imserver.plugin.wire import Notify

log = logging.getLogger(__name__)

READ_SECONDS: Final = 1.0
"""How often the notifier checks which of the newly read conversations had a
notification."""
MIN_PAUSE_SECONDS: Final = 0.01
DUE_AT_ONCE: Final = 250
MOST_READS: Final = 100_000
"""The most read conversations that are remembered until the next check. The
notifications of further ones are not closed."""
MOST_SILENT: Final = 20_000
"""The most silent messages of an app that are remembered."""
AHEAD: Final = 64
"""How many older messages are read together if the newest one is silent."""
_CONVERSATIONS_AT_ONCE: Final = 16
"""Conversations whose unread messages are queried together."""
_MESSAGES_AT_ONCE: Final = 5000
"""After this number of unread messages, the other dues are left for later."""
_DUES_A_TURN: Final = 64
"""After this number of dues, other greenlets get a turn."""
_REMINDING: Final = ("remind", "escalate")
"""The acts on a question after which the users who can answer it are notified
again."""
_USERS_AT_ONCE: Final = 1024
"""After this number of users, other greenlets get a turn."""

MakeToken = Callable[[str, str, int, int, int], str]
"""(app, user, endpoint, conversation, entry) → the token of a notification."""


class _Work(Struct):
    """The work of one turn. Either there are ``dues``, or the log has grown up
    to ``position`` by ``entries``."""

    entries: list[Entry] = []
    position: int = 0
    dues: list[Due] = []


class _Facts(Struct):
    """The facts that decide about some dues of an app."""

    app: str
    silent: set[int]
    """The ids of messages about which nobody is notified."""
    rules: AppNotifySettings | None
    """None: the app has been deleted."""
    unread: Mapping[int, UnreadMessages]
    """Conversation → its unread messages. Dues of other conversations are
    decided later."""
    wishes: Mapping[str, Wishes]
    """User → their wishes. Other users have the default wishes."""
    conversation_wishes: Mapping[tuple[str, int], ConversationWish]
    """(user, conversation) → the wish. Other pairs have the default wish."""
    endpoints: Mapping[str, list[PushEndpoint]]
    """User → their enabled endpoints."""
    badges: dict[str, int]
    """User with a device that is no browser → the number of conversations with
    a notification, including notifications by these decisions."""
    now: int
    """Unix milliseconds."""
    offset: int
    """The time of dues minus the time of the clock, in milliseconds."""

    def wish(self, due: Due) -> ConversationWish:
        """The wish of the user of a due for its conversation."""
        return self.conversation_wishes.get(
            (due.user, due.conversation), ConversationWish(0)
        )


KEYWORD_MESSAGES: Final = 50
"""The number of the newest messages of a conversation in which keywords are
looked for."""
_NO_WISHES: Final = Wishes()
_NOTHING: Final = UnreadMessages({}, ())


class _Decided(Struct):
    """The decisions about some dues, which are stored together."""

    ended: list[Due] = []
    """The dues whose rows are deleted."""
    changed: list[tuple[Due, Due]] = []
    """Each changed due, as it was and as it is now."""
    deliveries: list[Delivery] = []
    mail: dict[str, int] = {}
    """User → when a mail may be needed, in Unix milliseconds."""


class Notifier(Service, dict=True):
    """Owner of the lease, and of a consumer for each app in which somebody can
    be notified.

    ``lease`` is shared with the sender of the deliveries. ``wake`` makes this
    sender look for deliveries to these hosts. ``watch`` sets the flag when the
    log of one of these apps grows. ``node`` returns the name of this node.
    ``make_token`` makes the token with which a user answers a notification.
    ``accounts_of`` returns the accounts of these users of an app. ``rules_of``
    returns the rules of an app, or None if there is no such app.
    """

    store: Store
    rows: NotificationRows
    events: EventStore
    watch: Callable[[Flag, Collection[str]], object]
    node: Callable[[], str]
    rules_of: Callable[[str], AppNotifySettings | None]
    accounts_of: Callable[[str, Sequence[str]], Iterable[Account]]
    recipients: Recipients
    lease: DeliveryLease
    wake: Callable[[Collection[str]], object]
    make_token: MakeToken

    def __post_init__(self) -> None:
        self._on_lease: list[Callable[[], object]] = []
        self._on_renew: list[Callable[[], object]] = []
        self._on_mail_due: list[Callable[[str, int], object]] = []
        self._followed: dict[str, _FollowedLog] = {}
        """The logs that this node follows. Empty without the lease."""
        self.apps: frozenset[str] = frozenset()
        """Apps in which somebody can be notified, as far as this node knows."""
        self.work = LeasedWork("notifications", self._renew, self._wake_consumers)
        self._reads: dict[str, set[tuple[str, int]]] = {}
        """App → (user, conversation): the conversations that were read on this
        node since the last check."""
        self._reads_count = 0
        self._reader: gevent.Greenlet[[], None] | None = None
        self._trouble = RateLimitedLog(log, "users are not notified: %s")

    def report_to(
        self,
        got_lease: Callable[[], object] | None = None,
        renewed: Callable[[], object] | None = None,
        mail_due: Callable[[str, int], object] | None = None,
    ) -> None:
        """From now on call these functions.

        ``got_lease``: called when this node has got the lease, and another node
        may have had it before. ``renewed``: called each time this node has
        renewed the lease. It may switch greenlets, and raise
        StorageUnavailable. ``mail_due``: called with an app, and the time at
        which mails in it are due (Unix milliseconds).
        """
        if got_lease is not None:
            self._on_lease.append(got_lease)
        if renewed is not None:
            self._on_renew.append(renewed)
        if mail_due is not None:
            self._on_mail_due.append(mail_due)

    # --- what happens ---------------------------------------------------------

    def note_read(self, app: str, user: str, conversation: int) -> None:
        """Note that a user has read a conversation on this node. Never
        switches greenlets."""
        if app not in self.apps or self._reads_count >= MOST_READS:
            return

        reads = self._reads.setdefault(app, set())
        before = len(reads)
        reads.add((user, conversation))
        self._reads_count += len(reads) - before

        if self._reader is None and not self.work.has_ended:
            self._reader = gevent.spawn(self._flush_all_reads)

    def _flush_all_reads(self) -> None:
        """Greenlet: call :meth:`flush_reads` each second, until no read
        conversation waits for the check."""
        try:
            while self._reads:
                gevent.sleep(until_beat(READ_SECONDS))
                self.flush_reads()
        finally:
            self._reader = None

    def flush_reads(self) -> None:
        """Check now which of the newly read conversations had a notification.
        These conversations are decided again, which closes the notifications.
        Switches greenlets."""
        unchecked = self._reads
        # The queries switch: conversations that are read meanwhile are for the
        # next check.
        self._reads = {}
        self._reads_count = 0
        for app, pairs in tuple(unchecked.items()):
            try:
                if self.rows.decide_again(app, pairs) and app in self._followed:
                    self._followed[app].note_due(0)
            except StorageUnavailable as error:
                self._trouble(error)
                break
            del unchecked[app]

        # The database did not answer: check these conversations again later.
        for app, pairs in unchecked.items():
            for user, conversation in pairs:
                self.note_read(app, user, conversation)

    # --- the lease ------------------------------------------------------------

    def _renew(self) -> None:
        """Take or renew the lease, and learn in which apps somebody can be
        notified. With the lease, follow the logs of these apps; without it, of
        no app. Switches greenlets. Raises StorageUnavailable."""
        if not self.store.has_database:
            return

        # Read before the query, so that the lease does not seem to last longer
        # than it does.
        since = monotonic()
        positions = self.rows.apps()
        self.apps = frozenset(positions)
        is_granted = bool(positions) and LEASE in self.events.claim(
            {LEASE: 0}, self.node(), DeliveryLease.SECONDS
        )
        is_unbroken = self.lease.renew(since, is_granted)
        if not is_unbroken:
            # Another node may have notified users meanwhile: begin at the
            # positions that are stored now.
            self._follow({})
            if is_granted:
                positions = self.rows.apps()
            else:
                positions = {}
        self._follow(positions)
        if not is_granted:
            return

        for app, due in self.rows.next_dues().items():
            if due is not None and app in self._followed:
                self._followed[app].note_due(due)
        if not is_unbroken:
            for on_lease in self._on_lease:
                on_lease()
        for on_renew in self._on_renew:
            on_renew()

    def _follow(self, positions: Mapping[str, int]) -> None:
        """Follow the logs of exactly these apps; after :meth:`stop`, of no app.
        Never switches greenlets."""
        if self.work.has_ended:
            positions = {}
        for app in self._followed.keys() - positions.keys():
            self._followed.pop(app).consumer.stop()
        for app, position in positions.items():
            if app not in self._followed:
                self._followed[app] = _FollowedLog(self, app, position)
        self.watch(self.work.news, positions.keys())

    def _wake_consumers(self) -> None:
        """Wake the consumers of logs that have grown. Switches greenlets.
        Raises StorageUnavailable."""
        if not self._followed:
            return
        entries = self.store.part(MessageLog).entries
        for app, head in entries.heads(list(self._followed)).items():
            # The query switches: the app may not be followed any more.
            if app in self._followed:
                self._followed[app].note_end(head)

    def stop(self) -> None:
        """End all greenlets, store the positions, and give the lease back."""
        self.work.end()
        followed = list(self._followed.values())
        self._followed = {}
        try:
            self.flush_reads()
            Consumer.stop_all([each.consumer for each in followed])
            if followed:
                self.events.release([LEASE], self.node())
        except StorageUnavailable as error:
            log.debug("the lease of notifications could not be given back: %s", error)

    # --- deciding -------------------------------------------------------------

    def decide(self, app: str, dues: Sequence[Due], silent: set[int]) -> None:
        """Decide about dues, and store the decisions with the deliveries. If
        the conversations have many unread messages, only the first dues are
        decided; the others stay in the database.

        ``silent``: ids of messages about which nobody is notified. The method
        adds ids that it finds. Switches greenlets. Raises StorageUnavailable
        and NotOwner.
        """
        facts = self._read_facts(app, dues, silent)
        decided = _Decided()
        readable = [due for due in dues if due.conversation in facts.unread]
        chosen, reminded = self._decide_each(readable, facts, decided)
        if chosen:
            self._notify(chosen, facts, reminded, decided)

        self.rows.decide(
            app,
            decided.ended,
            decided.changed,
            decided.deliveries,
            decided.mail,
            owner=self.node(),
        )
        # Only now, because the woken consumers read the stored rows.
        if decided.deliveries:
            self.wake({each.host for each in decided.deliveries})
        if decided.mail:
            for mail_due in self._on_mail_due:
                mail_due(app, min(decided.mail.values()))

    def _decide_each(
        self, dues: Sequence[Due], facts: _Facts, decided: _Decided
    ) -> tuple[list[Due], dict[tuple[str, int], int]]:
        """Decide about each due. Dues that do not lead to a notification are
        added to ``decided``.

        Returns the dues whose users are to be notified, and (user,
        conversation) → the question that a reminder is about.
        """
        chosen: list[Due] = []
        reminded: dict[tuple[str, int], int] = {}
        questions = self._reminded_questions(dues, facts)
        for number, due in enumerate(dues, 1):
            unread = facts.unread.get(due.conversation)
            wishes = facts.wishes.get(due.user, _NO_WISHES)
            has_way = due.user in facts.endpoints or wishes.mail != "never"
            is_reachable = has_way and not self.recipients.is_banned(
                facts.app, due.user
            )
            wish = facts.wish(due)
            now = facts.now
            decision = decide(
                due, unread, facts.rules, wishes, wish, is_reachable, now, facts.offset
            )
            question = questions.get(due.entry)
            # A reminder notifies about a question even if it was read, so the
            # unread messages do not decide about it.
            if question and may_notify(
                due, unread, facts.rules, wishes, wish, is_reachable, now
            ):
                reminded[due.user, due.conversation] = question
                chosen.append(due)
            elif decision.outcome == "notify":
                chosen.append(due)
            elif decision.outcome == "wait":
                later = replace(due, due=decision.due, entry=decision.entry)
                decided.changed.append((due, later))
            else:
                _end(due, decision.outcome, facts, decided)
            if not number % _DUES_A_TURN:
                serve_others()
        return chosen, reminded

    def _reminded_questions(self, dues: Sequence[Due], facts: _Facts) -> dict[int, int]:
        """Entry of a due that reminds of a question → the id of the question.
        Users who have read the question are notified, too."""
        pairs = {(due.conversation, due.entry) for due in dues}
        # A reminder is no message, so it is not among the unread messages.
        ids = {
            entry
            for conversation, entry in pairs
            if entry not in facts.unread[conversation].ids
        }
        entries = self.store.part(MessageLog).entries.find(facts.app, sorted(ids))
        return {
            each.id: each.about
            for each in entries
            if each.kind == "press" and each.type in _REMINDING
        }

    def _read_facts(self, app: str, dues: Sequence[Due], silent: set[int]) -> _Facts:
        """Read the facts that decide about dues of an app. Switches greenlets.
        Raises StorageUnavailable."""
        users_by_conversation: dict[int, list[str]] = {}
        for due in dues:
            users_by_conversation.setdefault(due.conversation, []).append(due.user)
        users = list(dict.fromkeys(due.user for due in dues))

        wishes = self.rows.wishes(app, users)
        conversation_wishes = self._read_conversation_wishes(app, dues, wishes)
        mentions_only: dict[int, list[str]] = {}
        """Conversation → the users who are notified only of mentions."""
        for (user, conversation), wish in conversation_wishes.items():
            if wish.level == "mentions":
                mentions_only.setdefault(conversation, []).append(user)

        endpoints = self.rows.endpoints(app, users)
        enabled: dict[str, list[PushEndpoint]] = {}
        with_device: list[str] = []
        for user, user_endpoints in endpoints.items():
            enabled_of_user = [one for one in user_endpoints if one.enabled]
            if enabled_of_user:
                enabled[user] = enabled_of_user
            if not all(one.is_web for one in user_endpoints):
                with_device.append(user)
        # Only these devices need the number for a badge: browsers count
        # themselves.
        notified_count = self.rows.count_notified(app, with_device)

        # Both clocks are read at one moment: their difference is the offset.
        now = int(time() * SECOND_MS)
        steady = int(steady_time() * SECOND_MS)
        unread = self._read_unread(app, users_by_conversation, mentions_only)
        self._count_keywords_as_mentions(app, unread, mentions_only, wishes)
        return _Facts(
            app=app,
            silent=silent,
            rules=self.rules_of(app),
            unread=unread,
            wishes=wishes,
            conversation_wishes=conversation_wishes,
            endpoints=enabled,
            badges={user: notified_count.get(user, 0) for user in with_device},
            now=now,
            offset=steady - now,
        )

    def _read_conversation_wishes(
        self, app: str, dues: Sequence[Due], wishes: Mapping[str, Wishes]
    ) -> dict[tuple[str, int], ConversationWish]:
        """(user, conversation) → the wish of the user for it. A pair that is
        missing has the level ``all``, and no mute."""
        found = self.rows.all_conversation_wishes(
            app, [(due.user, due.conversation) for due in dues]
        )

        # Groups without a wish have the level that the user wishes for all
        # groups.
        group_wishes = {
            user: each for user, each in wishes.items() if each.groups != "all"
        }
        without_wish = [
            due
            for due in dues
            if due.user in group_wishes and (due.user, due.conversation) not in found
        ]
        rows = self.store.part(MessageLog).conversations.find(
            app, list({due.conversation for due in without_wish})
        )
        kinds = {row.id: row.kind for row in rows}
        for due in without_wish:
            level = group_wishes[due.user].level_of(kinds.get(due.conversation, ""))
            wish = ConversationWish(due.conversation, level)
            found[due.user, due.conversation] = wish
        return found

    def _count_keywords_as_mentions(
        self,
        app: str,
        unread: Mapping[int, UnreadMessages],
        mentions_only: Mapping[int, Sequence[str]],
        wishes: Mapping[str, Wishes],
    ) -> None:
        """Let the newest messages with a keyword of a user count as mentions of
        that user in ``unread``. ``mentions_only``: conversation → the users who
        want only mentions."""
        entries = self.store.part(MessageLog).entries
        keywords = {
            user: each.keywords for user, each in wishes.items() if each.keywords
        }
        for conversation, users in mentions_only.items():
            with_keywords = [user for user in users if user in keywords]
            if not with_keywords:
                continue
            ids = unread.get(conversation, _NOTHING).ids[-KEYWORD_MESSAGES:]
            if not ids:
                continue
            for entry in entries.find(app, ids):
                text = searched_text(entry)
                for user in with_keywords:
                    if has_keyword(text, keywords[user]):
                        unread[conversation].mention(user, [entry.id])
                    if is_long_turn():
                        serve_others()

    def _read_unread(
        self,
        app: str,
        users_by_conversation: Mapping[int, Sequence[str]],
        mentions_only: Mapping[int, Sequence[str]],
    ) -> dict[int, UnreadMessages]:
        """Conversation → its unread messages. The method stops at
        :data:`_MESSAGES_AT_ONCE` messages, so the last conversations may be
        missing. ``mentions_only``: conversation → the users who want only
        mentions."""
        conversations = self.store.part(MessageLog).conversations
        unread_by_conversation: dict[int, UnreadMessages] = {}
        count = 0
        for chunk in chunks(list(users_by_conversation), _CONVERSATIONS_AT_ONCE):
            users_of_chunk = {id: users_by_conversation[id] for id in chunk}
            unread = conversations.unread(app, users_of_chunk, mentions_only)
            for id in chunk:
                unread_by_conversation[id] = unread.get(id, _NOTHING)
            count += sum(len(each.ids) for each in unread.values())
            if count >= _MESSAGES_AT_ONCE:
                break
        return unread_by_conversation

    def _notify(
        self,
        dues: Sequence[Due],
        facts: _Facts,
        reminded: Mapping[tuple[str, int], int],
        decided: _Decided,
    ) -> None:
        """Choose the message for each due, and add the notifications to
        ``decided``. If a due has no such message, its user is not notified.

        ``reminded``: (user, conversation) → the question that a reminder is
        about, in place of a message. Switches greenlets. Raises
        StorageUnavailable.
        """
        app = facts.app
        others = [due for due in dues if (due.user, due.conversation) not in reminded]
        chosen, entries = self._choose_messages(others, facts)
        self._add_reminders(app, reminded, chosen, entries)

        # A message of a back end has the sender "".
        senders = {entries[entry].sender for entry in chosen.values()} - {""}
        receivers = {due.user for due in dues}
        rows = self.accounts_of(app, sorted(senders | receivers))
        accounts = {account.user: account for account in rows}
        ids = list({due.conversation for due in dues})
        conversations = {
            each.id: each
            for each in self.store.part(MessageLog).conversations.find(app, ids)
        }

        writer = _Writer(entries, conversations, accounts, facts, self.make_token)
        for due in dues:
            entry = chosen.get((due.user, due.conversation))
            account = accounts.get(due.user)
            if (
                entry is None
                or due.conversation not in conversations
                or (account and account.bot)
            ):
                decision = nothing_new(due, facts.unread.get(due.conversation))
                _end(due, decision.outcome, facts, decided)
            else:
                decided.deliveries += writer.deliveries(due, entry)
                mail = mail_due(facts.wishes.get(due.user, _NO_WISHES), facts.now)
                if mail:
                    decided.mail[due.user] = min(mail, decided.mail.get(due.user, mail))
                notified_at = facts.now + facts.offset
                changed = replace(
                    due, due=0, entry=entry, notified=entry, notified_at=notified_at
                )
                decided.changed.append((due, changed))
            if is_long_turn():
                serve_others()

    def _choose_messages(
        self, dues: Sequence[Due], facts: _Facts
    ) -> tuple[dict[tuple[str, int], int], dict[int, Entry]]:
        """Returns (user, conversation) → the id of the newest message about
        which the user may be notified; and these messages by id.

        A user is not notified of messages of blocked senders, or of messages
        whose sender wants no notification. The messages of each user are
        checked once, the newest first.
        """
        app = facts.app
        silent = facts.silent
        log_entries = self.store.part(MessageLog).entries
        entries: dict[int, Entry] = {}
        chosen: dict[tuple[str, int], int] = {}
        blocked: dict[tuple[str, str], bool] = {}
        """(user, sender) → whether the user has blocked the sender."""
        # (user, conversation) → the indexes of messages to check, the newest
        # first. Messages before the one that made a user due are already
        # decided.
        waiting = {
            (due.user, due.conversation): facts.unread[due.conversation].among(
                due.user,
                max(due.notified, due.entry - 1),
                mentions=facts.wish(due).level == "mentions",
                newest_first=True,
            )
            for due in dues
        }

        # Most users are done in the first round. Only after it, older messages
        # are read ahead.
        ahead = 0
        while waiting:
            candidates, older = _next_candidates(waiting, facts, blocked, ahead)
            pairs = {(user, sender) for (user, _), (_, sender) in candidates.items()}
            pairs -= blocked.keys()
            for pair in pairs:
                blocked[pair] = False
            for pair in self.recipients.blocks(app, pairs):
                blocked[pair] = True

            allowed = {
                (user, conversation): entry
                for (user, conversation), (entry, sender) in candidates.items()
                if not blocked[user, sender]
            }
            new = set(allowed.values())
            unread = new | (older - silent)
            for message in log_entries.find(app, list(unread - entries.keys())):
                if notify_in(message) is False or _has_ended(message.ask):
                    silent.add(message.id)
                elif message.id in new:
                    entries[message.id] = message

            for key, entry in allowed.items():
                if entry in entries:
                    chosen[key] = entry
            # Users without a candidate have no more messages to check.
            waiting = {key: waiting[key] for key in candidates.keys() - chosen.keys()}
            ahead = AHEAD
        return chosen, entries

    def _add_reminders(
        self,
        app: str,
        reminded: Mapping[tuple[str, int], int],
        chosen: dict[tuple[str, int], int],
        entries: dict[int, Entry],
    ) -> None:
        """Add the open questions of ``reminded`` to ``chosen`` and ``entries``,
        for users who can answer them."""
        if not reminded:
            return
        ids = sorted(set(reminded.values()))
        # The property ``ask`` decodes the question, so it is read only once.
        questions = {
            each.id: (each, each.ask)
            for each in self.store.part(MessageLog).entries.find(app, ids)
        }
        found = {key: questions[id] for key, id in reminded.items() if id in questions}
        blocked = self.recipients.blocks(
            app, {(user, entry.sender) for (user, _), (entry, _) in found.items()}
        )
        for key, (entry, question) in found.items():
            user, _ = key
            may_answer = question is not None and question.may_answer(user)
            if may_answer and (user, entry.sender) not in blocked:
                chosen[key] = entry.id
                entries[entry.id] = entry


class _FollowedLog:
    """The log of one app, while this node has the lease. Owner of its
    position."""

    def __init__(self, notifier: Notifier, app: str, position: int) -> None:
        self._notifier = notifier
        self._app = app
        stored = notifier.store.part(MessageLog)

        def read(after: int, limit: int) -> list[Entry]:
            return stored.entries.read(app, after, limit)

        self.window = LogWindow(read, position)
        self._next_due: int | None = 0
        """When the next decision is due, in milliseconds of
        :func:`steady_time`; 0: now, or not known; None: never."""
        self._are_dues_limited = False
        """Whether :meth:`_limit_dues` has been called since this node has the
        lease."""
        self._members = RememberedMembers(stored, app)
        """The members of conversations, as of the entries that were read
        last."""
        self._silent: set[int] = set()
        """The known messages about which nobody is notified."""
        self.consumer = Consumer(
            f"the notifications of {app}",
            notifier.lease,
            read=self._read,
            deliver=self._process,
            save=self._store_position,
            until_due=self._until_due,
        )
        self.consumer.wake()

    def note_end(self, head: int) -> None:
        """Note that the log has entries up to ``head``. Never switches
        greenlets."""
        self.window.head = max(head, self.window.head)
        if self.window.count:
            self.consumer.wake()

    def note_due(self, at: int) -> None:
        """Note that a decision is due at ``at``, in milliseconds of
        :func:`steady_time`. Never switches greenlets."""
        if self._next_due is None or at < self._next_due:
            self._next_due = at
            self.consumer.wake()

    def _store_position(self) -> None:
        notifier = self._notifier
        notifier.rows.advance(
            self._app, self.window.position, (), owner=notifier.node()
        )

    def _until_due(self) -> float | None:
        """The seconds until the next decision is due; None: never."""
        due = self._next_due
        if due is None:
            return None
        return max(due / SECOND_MS - steady_time(), MIN_PAUSE_SECONDS)

    def _read(self) -> _Work | None:
        """Read new entries of the log. If there are no new entries, read the
        dues to be decided now. Returns None if there is nothing to do. Switches
        greenlets. Raises StorageUnavailable."""
        if self.window.count:
            entries = self.window.first()
            return _Work(entries, self.window.after(len(entries)))

        now = int(steady_time() * SECOND_MS)
        if self._next_due is None or self._next_due > now:
            return None

        # The query switches, and note_due may be called meanwhile. So the time
        # is reset before the query, not after it.
        self._next_due = None
        try:
            if not self._are_dues_limited:
                self._limit_dues(now)
            dues, next_due = self._notifier.rows.due(self._app, now, DUE_AT_ONCE)
        except BaseException:
            self._next_due = 0
            raise
        if dues:
            self._next_due = 0  # there may be more dues than were read
            return _Work(dues=dues)
        if next_due is not None:
            self.note_due(next_due)
        return None

    def _limit_dues(self, now: int) -> None:
        """Limit the times of stored dues to the usual waiting times from now
        on. Another process may have stored them with a clock that was ahead.
        Dues that wait for the end of quiet hours are decided again."""
        notifier = self._notifier
        rules = notifier.rules_of(self._app)
        if rules is None:
            return
        first = int(rules.after_seconds * SECOND_MS)
        again = int(rules.again_seconds * SECOND_MS)
        notifier.rows.limit_dues(self._app, now + first, now + max(first, again))
        self._are_dues_limited = True

    def _process(self, work: _Work) -> None:
        """Store which users may have to be notified of entries, or decide about
        dues. Switches greenlets. Raises StorageUnavailable."""
        notifier = self._notifier
        # Limits the memory. Most of the ids only save queries.
        if len(self._silent) > MOST_SILENT:
            self._silent.clear()
        if work.dues:
            notifier.decide(self._app, work.dues, self._silent)
            return

        rules = notifier.rules_of(self._app)
        if rules is not None and rules.enabled:
            self._store_dues(work, rules)
        self.window.take(work.position)

    def _store_dues(self, work: _Work, rules: AppNotifySettings) -> None:
        """Store a due for each user who may have to be notified of new entries.
        Conversations with a recalled message or an ended question are decided
        again, so that notifications are closed. Switches greenlets. Raises
        StorageUnavailable."""
        rows = self._notifier.rows
        receivers, ended = self._receivers(work.entries)
        reminders = self._reminders_of(work.entries)
        receivers |= reminders
        reachable: set[str] = set()
        if receivers:
            users = {user for user, _ in receivers}
            reachable = rows.reachable(self._app, list(users))

        due = int((steady_time() + rules.after_seconds) * SECOND_MS)
        dues = []
        for number, ((user, conversation), entry) in enumerate(receivers.items(), 1):
            if user in reachable:
                dues.append(Due(user, conversation, entry, due))
            if not number % _USERS_AT_ONCE:
                serve_others()

        if dues:
            rows.advance(
                self._app,
                work.position,
                dues,
                again_ms=int(rules.again_seconds * SECOND_MS),
                owner=self._notifier.node(),
                reminders=set(reminders.values()),
            )
            self.note_due(due)
        if ended and rows.decide_again(self._app, ended):
            self.note_due(0)

    def _receivers(
        self, entries: Iterable[Entry]
    ) -> tuple[dict[tuple[str, int], int], set[tuple[str, int]]]:
        """Returns (receiver, conversation) → the first of these entries that
        the receiver gets; and each (user, conversation) in which a message was
        recalled or a question has ended."""
        receivers: dict[tuple[str, int], int] = {}
        ended: dict[int, tuple[str, ...]] = {}
        """Conversation in which a message was recalled, or a question has ended
        → its users."""
        first_senders: dict[int, str] = {}
        """Conversation → the sender of its first entry. This user becomes a
        receiver only by an entry of somebody else."""
        for entry in entries:
            conversation = entry.conversation
            if entry.kind in ("join", "leave"):
                self._members.forget(conversation)
                # Without it, the next message adds all members again.
                first_senders.pop(conversation, None)
            elif entry.room or entry.kind not in ("message", "recall", "press"):
                continue
            elif entry.kind == "message":
                self._add_receivers(entry, receivers, first_senders)
            elif entry.kind == "recall":
                ended[conversation] = self._users_of(entry)
            elif _has_ended(entry.ask):
                # The press has ended its question: nobody needs to be notified
                # of the question any more.
                self._silent.add(entry.about)
                ended[conversation] = self._users_of(entry)
            if is_long_turn():
                serve_others()

        ended_pairs: set[tuple[str, int]] = set()
        for conversation, users in ended.items():
            ended_pairs.update((user, conversation) for user in users)
        return receivers, ended_pairs

    def _add_receivers(
        self,
        entry: Entry,
        receivers: dict[tuple[str, int], int],
        first_senders: dict[int, str],
    ) -> None:
        """Add the receivers of a message to ``receivers``, unless it is silent.
        ``first_senders`` remembers who sent the first entry of each
        conversation."""
        conversation = entry.conversation
        if notify_in(entry) is False:
            self._silent.add(entry.id)
            return

        if conversation not in first_senders:
            first_senders[conversation] = entry.sender
            for number, user in enumerate(self._users_of(entry), 1):
                if user and user != entry.sender:
                    receivers.setdefault((user, conversation), entry.id)
                if not number % _USERS_AT_ONCE:
                    serve_others()
            return

        # The first entry has made everybody but its sender a receiver. So a
        # later entry can only add that sender.
        first_sender = first_senders[conversation]
        if first_sender == entry.sender:
            return
        key = (first_sender, conversation)
        if key not in receivers and first_sender in self._users_of(entry):
            receivers[key] = entry.id

    def _reminders_of(self, entries: Iterable[Entry]) -> dict[tuple[str, int], int]:
        """(user, conversation) → the entry that reminds the user of a question
        that they can answer."""
        acts = {
            entry.about: entry
            for entry in entries
            if entry.kind == "press" and entry.type in _REMINDING
        }
        """Question → the act that reminds of it."""
        if not acts:
            return {}

        reminders: dict[tuple[str, int], int] = {}
        log_entries = self._notifier.store.part(MessageLog).entries
        for message in log_entries.find(self._app, sorted(acts)):
            question = message.ask
            if question is None:
                continue
            act = acts[message.id]
            # A question that names no users is for all members.
            for user in question.of or self._users_of(act):
                if user != message.sender and question.may_answer(user):
                    reminders[user, message.conversation] = act.id
        return reminders

    def _users_of(self, entry: Entry) -> tuple[str, ...]:
        """The users of the conversation of an entry."""
        return entry.members or self._members.of(entry.conversation)


class _Writer(Struct, frozen=True):
    """Writes the deliveries of some decisions of one app. Parts that many
    deliveries share are made once."""

    entries: Mapping[int, Entry]
    conversations: Mapping[int, Conversation]
    accounts: Mapping[str, Account]
    facts: _Facts
    make_token: MakeToken
    shown: dict[tuple[int, str, bool, int], Shown] = {}
    """(entry, language, whether texts are shown, number of unread messages) →
    the content."""
    notify: dict[int, Notify | None] = {}
    """Entry → the wishes of its message for the notification; None: no
    wishes."""

    def deliveries(self, due: Due, entry: int) -> list[Delivery]:
        """The deliveries that notify the devices of a user about an entry."""
        facts = self.facts
        rules = facts.rules
        wishes = facts.wishes.get(due.user, _NO_WISHES)
        preview = rules is not None and rules.preview and wishes.preview
        unread = facts.unread[due.conversation]
        count = unread.count(due.user)
        if facts.wish(due).level == "mentions":
            count = sum(1 for _ in unread.among(due.user, 0, mentions=True))
        ttl = ttl_of(self._notify_of(entry))
        # If the user was notified before, the number includes the conversation
        # already.
        if due.user in facts.badges and not due.notified:
            facts.badges[due.user] += 1

        # Without a preview the options of a question are hidden, too.
        answers: tuple[ShownAction, ...] = ()
        if preview:
            question = self.entries[entry].ask
            if question is not None and question.may_answer(due.user):
                answers = answers_of(question)

        deliveries = []
        for endpoint in facts.endpoints.get(due.user, ()):
            shown = self._shown_of(
                due.conversation, entry, language_of(endpoint.language), preview, count
            )
            token = self.make_token(
                endpoint.app, due.user, endpoint.id, due.conversation, entry
            )
            if endpoint.is_web:
                badge = None
            else:
                badge = facts.badges.get(due.user)
            content = replace(
                shown, actions=shown.actions or answers, token=token, badge=badge
            )
            deliveries.append(_about(due, endpoint, content, entry, ttl, facts))
        return deliveries

    def _notify_of(self, entry: int) -> Notify | None:
        if entry not in self.notify:
            self.notify[entry] = notify_in(self.entries[entry]) or None
        return self.notify[entry]

    def _shown_of(
        self, conversation: int, entry: int, language: str, preview: bool, count: int
    ) -> Shown:
        """The content of a notification about an entry, without the parts that
        differ by endpoint. ``count``: the number of unread messages."""
        key = (entry, language, preview, count)
        content = self.shown.get(key)
        if content is not None:
            return content

        message = self.entries[entry]
        account = self.accounts.get(message.sender)
        if account is None:
            author = Author(message.sender)
        else:
            author = Author(account.nickname or message.sender, account.avatar)
        row = self.conversations[conversation]
        notify = self._notify_of(entry)
        content = shown_of(
            self.facts.app, message, row, author, count, language, preview, notify
        )
        self.shown[key] = content
        return content


def _has_ended(question: Ask | None) -> bool:
    """Whether a message has a question that can no longer be answered."""
    return question is not None and bool(question.state)


def _next_candidates(
    waiting: Mapping[tuple[str, int], Iterator[int]],
    facts: _Facts,
    blocked: Mapping[tuple[str, str], bool],
    ahead: int,
) -> tuple[dict[tuple[str, int], tuple[int, str]], set[int]]:
    """Take messages from each iterator of ``waiting``, until one is found about
    which the user may be notified, as far as is known.

    Returns (user, conversation) → the id of that message and its sender; and
    the ids of about ``ahead`` older messages, to read them in the same query.
    ``waiting``: (user, conversation) → indexes of messages to check.
    ``blocked``: (user, sender) → whether the user has blocked the sender.
    """
    candidates: dict[tuple[str, int], tuple[int, str]] = {}
    older: set[int] = set()
    for key, indexes in waiting.items():
        user, conversation = key
        unread = facts.unread[conversation]
        for index in indexes:
            entry = unread.ids[index]
            sender = unread.senders[index]
            if entry in facts.silent or blocked.get((user, sender)):
                continue
            candidates[key] = entry, sender
            if len(older) < ahead:
                older.update(unread.ids[max(0, index - ahead) : index])
            break
        if is_long_turn():
            serve_others()
    return candidates, older


def _end(due: Due, outcome: str, facts: _Facts, decided: _Decided) -> None:
    """Add the decision that a user is not notified to ``decided``.

    ``outcome``: of the :class:`Decision`. ``stay``: the user's last
    notification stays, unless its message has become silent. ``close``: the
    last notification is closed. ``end``: there is no last notification.
    """
    if outcome == "stay" and due.notified not in facts.silent:
        decided.changed.append((due, replace(due, due=0)))
        return
    decided.ended.append(due)
    if due.notified and due.user in facts.badges:
        facts.badges[due.user] = max(facts.badges[due.user] - 1, 0)
    if outcome == "end":
        return

    shown = closing(facts.app, due.conversation)
    for endpoint in facts.endpoints.get(due.user, ()):
        if endpoint.is_web:
            content = shown
        else:
            content = replace(shown, badge=facts.badges.get(due.user))
        decided.deliveries.append(
            _about(due, endpoint, content, due.notified, TTL_SECONDS, facts)
        )


def _about(
    due: Due, endpoint: PushEndpoint, shown: Shown, entry: int, ttl: int, facts: _Facts
) -> Delivery:
    """The delivery of ``shown`` to an endpoint of the user of a due. ``entry``:
    the message that it is about. ``ttl``: how long it is valid, in seconds."""
    conversation = due.conversation
    topic = topic_of(endpoint.app, conversation)
    now = facts.now / SECOND_MS
    return delivery_to(
        endpoint, shown, topic, ttl, now, conversation=conversation, entry=entry
    )
