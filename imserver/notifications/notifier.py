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
    Set,
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
    """The work of one turn of a consumer.

    Either there are ``dues`` to decide, or the log has grown: up to
    ``position``, by ``entries``.
    """

    entries: list[Entry] = []
    position: int = 0
    dues: list[Due] = []


class _Facts(Struct):
    """The facts that decide about some dues of an app.

    A *due* is a user who may have to be notified of a conversation at a certain
    time.
    """

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
        """Return the wish of the user of a due for its conversation."""
        return self.conversation_wishes.get(
            (due.user, due.conversation), ConversationWish(0)
        )


KEYWORD_MESSAGES: Final = 50
"""The number of the newest messages of a conversation in which keywords are
looked for."""
_NO_WISHES: Final = Wishes()
_NOTHING: Final = UnreadMessages({}, ())


class _Decided(Struct):
    """The decisions about some dues, to be stored together."""

    ended: list[Due] = []
    """The dues whose rows are deleted."""
    changed: list[tuple[Due, Due]] = []
    """Each changed due, as it was and as it is now."""
    deliveries: list[Delivery] = []
    mail: dict[str, int] = {}
    """User → when a mail may be needed, in Unix milliseconds."""


class Notifier(Service, dict=True):
    """Decides which users are notified of stored messages.

    The *lease* permits one node of the cluster to notify users. That node
    follows the log of each app in which somebody can be notified, with a
    consumer for each log.

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
        """Begin without the lease, so that no log is followed yet."""
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

        ``got_lease`` is called when this node has got the lease, and another
        node may have had it before. ``renewed`` is called each time this node
        has renewed the lease. It may switch greenlets, and raise
        StorageUnavailable. ``mail_due`` is called with an app, and the time at
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
        """Note that a user has read a conversation on this node.

        Within a second its notification, if it has one, is closed on the other
        devices of the user. If too many conversations wait for this check, the
        new one is not checked. Never switches greenlets.
        """
        if app not in self.apps or self._reads_count >= MOST_READS:
            return

        reads = self._reads.setdefault(app, set())
        # The conversation may wait for the check already.
        size_before = len(reads)
        reads.add((user, conversation))
        self._reads_count += len(reads) - size_before

        if self._reader is None and not self.work.has_ended:
            self._reader = gevent.spawn(self._flush_all_reads)

    def _flush_all_reads(self) -> None:
        """Greenlet: check read conversations each second, while some wait."""
        try:
            while self._reads:
                gevent.sleep(until_beat(READ_SECONDS))
                self.flush_reads()
        finally:
            self._reader = None

    def flush_reads(self) -> None:
        """Close the notifications of conversations that were read.

        The notifier decides again about each read conversation that had a
        notification, and that decision closes it. If the database does not
        answer, the conversations are checked later. Switches greenlets.
        """
        unchecked = self._reads
        # The queries switch: conversations that are read meanwhile are for the
        # next check.
        self._reads = {}
        self._reads_count = 0
        for app, pairs in tuple(unchecked.items()):
            try:
                if self.rows.decide_again(app, pairs) and app in self._followed:
                    self._followed[app].note_due(at=0)
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
        """Take or renew the lease, and follow logs as long as this node has it.

        The logs are of the apps in which somebody can be notified; without the
        lease, no log is followed. Switches greenlets. Raises
        StorageUnavailable.
        """
        if not self.store.has_database:
            return

        # Read before the query, so that the lease does not seem to last longer
        # than it does.
        since = monotonic()
        positions = self.rows.apps()
        self.apps = frozenset(positions)
        # Nobody needs the lease while nobody can be notified.
        is_granted = bool(positions) and self._claim_lease()
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
        if is_granted:
            self._report_lease(is_new=not is_unbroken)

    def _report_lease(self, is_new: bool) -> None:
        """Wake whoever works while this node has the lease.

        ``is_new``: another node may have had the lease before. Switches
        greenlets. Raises StorageUnavailable.
        """
        # Other nodes store dues, too, so the next time is read from the
        # database.
        for app, due in self.rows.next_dues().items():
            if due is not None and app in self._followed:
                self._followed[app].note_due(due)
        if is_new:
            for on_lease in self._on_lease:
                on_lease()
        for on_renew in self._on_renew:
            on_renew()

    def _follow(self, positions: Mapping[str, int]) -> None:
        """Follow the logs of exactly these apps, and no other log.

        ``positions``: app → the position from which its log is read. After
        :meth:`stop`, no log is followed. Never switches greenlets.
        """
        if self.work.has_ended:
            positions = {}
        for app in self._followed.keys() - positions.keys():
            self._followed.pop(app).consumer.stop()
        for app, position in positions.items():
            if app not in self._followed:
                self._followed[app] = _FollowedLog(self, app, position)
        # The flag wakes :meth:`_wake_consumers` when one of these logs grows.
        self.watch(self.work.news, positions.keys())

    def _wake_consumers(self) -> None:
        """Wake the consumers of logs that have grown.

        Switches greenlets. Raises StorageUnavailable.
        """
        if not self._followed:
            return
        entries = self.store.part(MessageLog).entries
        for app, last_position in entries.heads(list(self._followed)).items():
            # The query switches: the app may not be followed any more.
            if app in self._followed:
                self._followed[app].note_end(last_position)

    def stop(self) -> None:
        """End all greenlets, and give the lease back.

        If the database does not answer, the lease expires by itself. Switches
        greenlets.
        """
        self.work.end()
        followed = list(self._followed.values())
        self._followed = {}
        try:
            # Read conversations that wait for the check would be forgotten
            # otherwise.
            self.flush_reads()
            Consumer.stop_all([each.consumer for each in followed])
            if followed:
                self.events.release([LEASE], self.node())
        except StorageUnavailable as error:
            log.debug("the lease of notifications could not be given back: %s", error)

    # --- deciding -------------------------------------------------------------

    def _claim_lease(self) -> bool:
        """Take or renew the lease in the database. Returns whether it is granted.

        Switches greenlets. Raises StorageUnavailable.
        """
        granted = self.events.claim({LEASE: 0}, self.node(), DeliveryLease.SECONDS)
        return LEASE in granted

    def decide(self, app: str, dues: Sequence[Due], silent: set[int]) -> None:
        """Decide about dues of an app, and store the notifications.

        A *due* is a user who may have to be notified of a conversation now. If
        the conversations have many unread messages, only the first dues are
        decided; the others stay in the database.

        ``silent``: ids of messages about which nobody is notified. The method
        adds ids that it finds. Switches greenlets. Raises StorageUnavailable,
        and NotOwner if another node has the lease.
        """
        facts = self._read_facts(app, dues, silent)
        decided = _Decided()
        # Dues whose messages were too many to be read now wait for the next
        # call.
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
            self._report_mail_due(app, min(decided.mail.values()))

    def _report_mail_due(self, app: str, at: int) -> None:
        """Tell the listeners when the first mail to users of an app is due."""
        for report in self._on_mail_due:
            report(app, at)

    def _decide_each(
        self, dues: Sequence[Due], facts: _Facts, decided: _Decided
    ) -> tuple[list[Due], dict[tuple[str, int], int]]:
        """Decide about each due: notify its user now, later, or never.

        Dues that do not lead to a notification now are added to ``decided``.
        Returns the other dues; and (user, conversation) → the question that a
        reminder is about.
        """
        chosen: list[Due] = []
        reminded: dict[tuple[str, int], int] = {}
        questions = self._reminded_questions(dues, facts)
        for number, due in enumerate(dues, 1):
            facts_of_due = self._facts_of(due, facts)
            decision = decide(*facts_of_due, facts.offset)
            question = questions.get(due.entry)
            # A reminder notifies about a question even if it was read, so the
            # unread messages do not decide about it.
            if question and may_notify(*facts_of_due):
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

    def _is_reachable(self, user: str, facts: _Facts) -> bool:
        """Whether a user has a device or gets mail, and is not banned."""
        wishes = facts.wishes.get(user, _NO_WISHES)
        has_way = user in facts.endpoints or wishes.mail != "never"
        return has_way and not self.recipients.is_banned(facts.app, user)

    def _reminded_questions(self, dues: Sequence[Due], facts: _Facts) -> dict[int, int]:
        """Find the dues that were caused by a reminder of a question.

        Returns the entry of such a due → the id of the question. The users of
        these dues are notified even if they have read the question. Switches
        greenlets. Raises StorageUnavailable.
        """
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

    def _facts_of(
        self, due: Due, facts: _Facts
    ) -> tuple[
        Due,
        UnreadMessages | None,
        AppNotifySettings | None,
        Wishes,
        ConversationWish,
        bool,
        int,
    ]:
        """Return the arguments of :func:`decide` and :func:`may_notify`."""
        return (
            due,
            facts.unread.get(due.conversation),
            facts.rules,
            facts.wishes.get(due.user, _NO_WISHES),
            facts.wish(due),
            self._is_reachable(due.user, facts),
            facts.now,
        )

    def _read_facts(self, app: str, dues: Sequence[Due], silent: set[int]) -> _Facts:
        """Read the facts that decide about dues of an app.

        ``silent``: ids of messages about which nobody is notified. Switches
        greenlets. Raises StorageUnavailable.
        """
        users_by_conversation = _users_by_conversation(dues)
        users = list(dict.fromkeys(due.user for due in dues))

        wishes = self.rows.wishes(app, users)
        conversation_wishes = self._read_conversation_wishes(app, dues, wishes)
        mentions_only = _mentions_only(conversation_wishes)

        endpoints = self.rows.endpoints(app, users)
        badges = self._read_badges(app, endpoints)

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
            endpoints=_enabled_among(endpoints),
            badges=badges,
            now=now,
            offset=steady - now,
        )

    def _read_badges(
        self, app: str, endpoints: Mapping[str, list[PushEndpoint]]
    ) -> dict[str, int]:
        """Read the numbers for the badges on the icons of applications.

        Returns user → the number of conversations with a notification. Users
        who have only browsers are left out, because browsers count themselves.
        ``endpoints``: user → their endpoints. Switches greenlets. Raises
        StorageUnavailable.
        """
        with_device: list[str] = []
        for user, user_endpoints in endpoints.items():
            # Only a device that is no browser shows such a number.
            if not all(one.is_web for one in user_endpoints):
                with_device.append(user)
        counts = self.rows.count_notified(app, with_device)
        return {user: counts.get(user, 0) for user in with_device}

    def _read_conversation_wishes(
        self, app: str, dues: Sequence[Due], wishes: Mapping[str, Wishes]
    ) -> dict[tuple[str, int], ConversationWish]:
        """Read what the users of dues wish for the conversations of the dues.

        Returns (user, conversation) → the wish. A pair that is missing has the
        level ``all``, and no mute. ``wishes``: user → their wishes for all
        conversations. Switches greenlets. Raises StorageUnavailable.
        """
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
        kinds = self._read_kinds(app, without_wish)
        for due in without_wish:
            kind = kinds.get(due.conversation, "")
            level = group_wishes[due.user].level_of(kind)
            wish = ConversationWish(due.conversation, level)
            found[due.user, due.conversation] = wish
        return found

    def _read_kinds(self, app: str, dues: Iterable[Due]) -> dict[int, str]:
        """Read the kinds of the conversations of dues.

        Returns conversation → its kind. Conversations that are gone are left
        out. Switches greenlets. Raises StorageUnavailable.
        """
        rows = self.store.part(MessageLog).conversations.find(
            app, list({due.conversation for due in dues})
        )
        return {row.id: row.kind for row in rows}

    def _count_keywords_as_mentions(
        self,
        app: str,
        unread: Mapping[int, UnreadMessages],
        mentions_only: Mapping[int, Sequence[str]],
        wishes: Mapping[str, Wishes],
    ) -> None:
        """Let messages with a keyword of a user count as mentions of that user.

        The mentions are added to ``unread``. Only the newest messages are
        searched. ``mentions_only``: conversation → the users who want only
        mentions. Switches greenlets. Raises StorageUnavailable.
        """
        keywords = {
            user: each.keywords for user, each in wishes.items() if each.keywords
        }
        for conversation, users in mentions_only.items():
            # Users who get all messages need no keywords.
            of_users = {user: keywords[user] for user in users if user in keywords}
            messages = unread.get(conversation, _NOTHING)
            if of_users and messages.ids:
                self._mention_by_keywords(app, messages, of_users)

    def _mention_by_keywords(
        self,
        app: str,
        messages: UnreadMessages,
        keywords: Mapping[str, Sequence[str]],
    ) -> None:
        """Add mentions by keywords to the unread messages of a conversation.

        ``keywords``: user → the words. Switches greenlets. Raises
        StorageUnavailable.
        """
        entries = self.store.part(MessageLog).entries
        for entry in entries.find(app, messages.ids[-KEYWORD_MESSAGES:]):
            text = searched_text(entry)
            # A text is made ready for the search once, for all users.
            for user, words in keywords.items():
                if has_keyword(text, words):
                    messages.mention(user, [entry.id])
                if is_long_turn():
                    serve_others()

    def _read_unread(
        self,
        app: str,
        users_by_conversation: Mapping[int, Sequence[str]],
        mentions_only: Mapping[int, Sequence[str]],
    ) -> dict[int, UnreadMessages]:
        """Read the unread messages of conversations, a few at a time.

        Returns conversation → its unread messages. The method stops after
        :data:`_MESSAGES_AT_ONCE` messages, so the last conversations may be
        missing. ``mentions_only``: conversation → the users who want only
        mentions. Switches greenlets. Raises StorageUnavailable.
        """
        conversations = self.store.part(MessageLog).conversations
        unread_by_conversation: dict[int, UnreadMessages] = {}
        count = 0
        for chunk in chunks(list(users_by_conversation), _CONVERSATIONS_AT_ONCE):
            users_of_chunk = {id: users_by_conversation[id] for id in chunk}
            unread = conversations.unread(app, users_of_chunk, mentions_only)
            # A conversation without unread messages is present, too: its
            # notification may have to be closed.
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
        """Choose the message for each due, and write the notifications.

        A user without such a message is not notified. ``reminded``: (user,
        conversation) → the question that a reminder is about, in place of a
        message. Switches greenlets. Raises StorageUnavailable.
        """
        others = [due for due in dues if (due.user, due.conversation) not in reminded]
        chosen, entries = self._choose_messages(others, facts)
        self._add_reminders(facts.app, reminded, chosen, entries)
        writer = self._make_writer(dues, chosen.values(), entries, facts)
        for due in dues:
            entry = chosen.get((due.user, due.conversation))
            account = writer.accounts.get(due.user)
            is_bot = account is not None and account.bot
            # A conversation may have been deleted since its messages were read.
            if entry is None or due.conversation not in writer.conversations or is_bot:
                decision = nothing_new(due, facts.unread.get(due.conversation))
                _end(due, decision.outcome, facts, decided)
            else:
                decided.deliveries += writer.deliveries(due, entry)
                _note_notified(due, entry, facts, decided)
            if is_long_turn():
                serve_others()

    def _make_writer(
        self,
        dues: Sequence[Due],
        chosen: Iterable[int],
        entries: Mapping[int, Entry],
        facts: _Facts,
    ) -> _Writer:
        """Read the accounts and conversations that notifications name.

        ``chosen``: the ids of the messages of the ``dues``. Switches greenlets.
        Raises StorageUnavailable.
        """
        # A message of a back end has the sender "".
        senders = {entries[entry].sender for entry in chosen} - {""}
        receivers = {due.user for due in dues}
        accounts = self.accounts_of(facts.app, sorted(senders | receivers))
        conversations = self.store.part(MessageLog).conversations.find(
            facts.app, list({due.conversation for due in dues})
        )
        return _Writer(
            entries=entries,
            conversations={each.id: each for each in conversations},
            accounts={account.user: account for account in accounts},
            facts=facts,
            make_token=self.make_token,
        )

    def _choose_messages(
        self, dues: Sequence[Due], facts: _Facts
    ) -> tuple[dict[tuple[str, int], int], dict[int, Entry]]:
        """Find for each due the newest message to notify about.

        Returns (user, conversation) → the id of the message; and these messages
        by id. A user is not notified of messages of blocked senders, or of
        messages whose sender wants no notification. Switches greenlets. Raises
        StorageUnavailable.
        """
        entries: dict[int, Entry] = {}
        chosen: dict[tuple[str, int], int] = {}
        blocked: dict[tuple[str, str], bool] = {}
        """(user, sender) → whether the user has blocked the sender."""
        waiting = {(due.user, due.conversation): _unread_of(due, facts) for due in dues}

        # Most users are done in the first round. Only after it, older messages
        # are read ahead.
        ahead = 0
        # Each round checks one message of each user who has no message yet.
        while waiting:
            candidates, older = _next_candidates(waiting, facts, blocked, ahead)
            allowed = self._without_blocked(facts.app, candidates, blocked)
            self._read_messages(set(allowed.values()), older, facts, entries)
            for key, entry in allowed.items():
                # Silent messages are not in ``entries``.
                if entry in entries:
                    chosen[key] = entry
            # Users without a candidate have no more messages to check.
            waiting = {key: waiting[key] for key in candidates.keys() - chosen.keys()}
            ahead = AHEAD
        return chosen, entries

    def _read_blocks(
        self,
        app: str,
        pairs: Collection[tuple[str, str]],
        blocked: dict[tuple[str, str], bool],
    ) -> None:
        """Add to ``blocked`` whether users have blocked senders.

        ``pairs``: (user, sender). Pairs that are in ``blocked`` are not read
        again. Switches greenlets. Raises StorageUnavailable.
        """
        new_pairs = set(pairs) - blocked.keys()
        for pair in new_pairs:
            blocked[pair] = False
        for pair in self.recipients.blocks(app, new_pairs):
            blocked[pair] = True

    def _read_messages(
        self, ids: set[int], older: set[int], facts: _Facts, entries: dict[int, Entry]
    ) -> None:
        """Add messages to ``entries``, unless nobody is notified of them.

        Silent messages, and questions that have ended, are added to
        ``facts.silent``. Of ``older`` messages the method learns only whether
        they are silent: the next round may need that. Switches greenlets.
        Raises StorageUnavailable.
        """
        silent = facts.silent
        unread_ids = (ids | (older - silent)) - entries.keys()
        log_entries = self.store.part(MessageLog).entries
        for message in log_entries.find(facts.app, list(unread_ids)):
            # The other users' rounds skip these messages without reading them.
            if notify_in(message) is False or _has_ended(message.ask):
                silent.add(message.id)
            elif message.id in ids:
                entries[message.id] = message

    def _without_blocked(
        self,
        app: str,
        candidates: Mapping[tuple[str, int], tuple[int, str]],
        blocked: dict[tuple[str, str], bool],
    ) -> dict[tuple[str, int], int]:
        """Return the messages of ``candidates`` whose senders are not blocked.

        ``candidates``: (user, conversation) → the id of a message, and its
        sender. The blocks that were read are noted in ``blocked``. Switches
        greenlets. Raises StorageUnavailable.
        """
        pairs = {(user, sender) for (user, _), (_, sender) in candidates.items()}
        self._read_blocks(app, pairs, blocked)
        return {
            (user, conversation): entry
            for (user, conversation), (entry, sender) in candidates.items()
            if not blocked[user, sender]
        }

    def _add_reminders(
        self,
        app: str,
        reminded: Mapping[tuple[str, int], int],
        chosen: dict[tuple[str, int], int],
        entries: dict[int, Entry],
    ) -> None:
        """Add open questions as the messages of dues.

        ``reminded``: (user, conversation) → the question that the reminder is
        about. Users who cannot answer it, or who have blocked its sender, are
        left out. Switches greenlets. Raises StorageUnavailable.
        """
        if not reminded:
            return
        questions = self._read_questions(app, set(reminded.values()))
        # A question that was recalled is not found.
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

    def _read_questions(
        self, app: str, ids: Set[int]
    ) -> dict[int, tuple[Entry, Ask | None]]:
        """Read messages with questions. Returns id → the message and its question.

        The property ``ask`` decodes the question, so it is read only once.
        Switches greenlets. Raises StorageUnavailable.
        """
        messages = self.store.part(MessageLog).entries.find(app, sorted(ids))
        return {each.id: (each, each.ask) for each in messages}


class _FollowedLog:
    """The log of one app, while this node has the lease of the notifier.

    Its consumer has two kinds of work: it stores dues for the receivers of new
    entries, and decides about dues when their time has come.
    """

    def __init__(self, notifier: Notifier, app: str, position: int) -> None:
        """Follow the log after ``position``, and begin at once."""
        self._notifier = notifier
        self._app = app
        stored = notifier.store.part(MessageLog)

        def read(after: int, limit: int) -> list[Entry]:
            return stored.entries.read(app, after, limit)

        self.window = LogWindow(read, position)
        self._next_due: int | None = 0
        """When the next decision is due, in milliseconds of
        :func:`steady_time`. 0: now, or it is not known, so that the consumer
        reads the dues. None: no decision is due."""
        self._are_dues_limited = False
        """Whether :meth:`_limit_dues` has corrected the times that other
        processes have stored, since this node has the lease."""
        self._members = RememberedMembers(stored, app)
        """The members of conversations, at the position of the entries that
        were read last."""
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

    def note_end(self, last_position: int) -> None:
        """Note that the log has entries up to ``last_position``.

        Never switches greenlets.
        """
        self.window.head = max(last_position, self.window.head)
        if self.window.count:
            self.consumer.wake()

    def note_due(self, at: int) -> None:
        """Note that a decision is due at ``at``, and wake the consumer for it.

        ``at`` is in milliseconds of :func:`steady_time`; 0: now. Never switches
        greenlets.
        """
        if self._next_due is None or at < self._next_due:
            self._next_due = at
            self.consumer.wake()

    def _store_position(self) -> None:
        """Store how far the log was read, without dues."""
        notifier = self._notifier
        notifier.rows.advance(
            self._app, self.window.position, (), owner=notifier.node()
        )

    def _until_due(self) -> float | None:
        """Return the seconds until the next decision is due.

        None: no decision is due.
        """
        due = self._next_due
        if due is None:
            return None
        return max(due / SECOND_MS - steady_time(), MIN_PAUSE_SECONDS)

    def _read(self) -> _Work | None:
        """Read the next work of the consumer: new entries of the log, or dues.

        Entries come first. Returns None if there is nothing to do now. Switches
        greenlets. Raises StorageUnavailable.
        """
        if self.window.count:
            entries = self.window.first()
            return _Work(entries=entries, position=self.window.after(len(entries)))

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
        """Limit the times of stored dues to the usual waiting times.

        Another process may have stored them with a clock that was ahead, so
        that users would be notified too late. Dues that wait for the end of
        quiet hours are decided earlier, too, and then wait again. Switches
        greenlets. Raises StorageUnavailable.
        """
        notifier = self._notifier
        rules = notifier.rules_of(self._app)
        if rules is None:
            return
        # The waiting time before a first notification, and between two of them.
        first = int(rules.after_seconds * SECOND_MS)
        again = int(rules.again_seconds * SECOND_MS)
        notifier.rows.limit_dues(self._app, now + first, now + max(first, again))
        self._are_dues_limited = True

    def _process(self, work: _Work) -> None:
        """Store dues for new entries, or decide about dues.

        Switches greenlets. Raises StorageUnavailable.
        """
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
        again, so that their notifications are closed. Switches greenlets.
        Raises StorageUnavailable.
        """
        rows = self._notifier.rows
        receivers, ended = self._receivers(work.entries)
        reminders = self._reminders_of(work.entries)
        # A reminder takes the place of a message, as it notifies also users who
        # have read the question.
        receivers |= reminders
        due_at = int((steady_time() + rules.after_seconds) * SECOND_MS)
        dues = self._dues_of(receivers, due_at)
        if dues:
            rows.advance(
                self._app,
                work.position,
                dues,
                again_ms=int(rules.again_seconds * SECOND_MS),
                owner=self._notifier.node(),
                reminders=set(reminders.values()),
            )
            self.note_due(due_at)
        if ended and rows.decide_again(self._app, ended):
            self.note_due(at=0)

    def _dues_of(
        self, receivers: Mapping[tuple[str, int], int], due_at: int
    ) -> list[Due]:
        """Make a due for each receiver who can be notified.

        ``receivers``: (user, conversation) → the entry. ``due_at``: when to
        decide. Switches greenlets. Raises StorageUnavailable.
        """
        if not receivers:
            return []
        users = {user for user, _ in receivers}
        # Nobody else needs a row: the table would grow with each message to a
        # large group.
        reachable = self._notifier.rows.reachable(self._app, list(users))
        dues = []
        for number, ((user, conversation), entry) in enumerate(receivers.items(), 1):
            if user in reachable:
                dues.append(Due(user, conversation, entry, due_at))
            if not number % _USERS_AT_ONCE:
                serve_others()
        return dues

    def _receivers(
        self, entries: Iterable[Entry]
    ) -> tuple[dict[tuple[str, int], int], set[tuple[str, int]]]:
        """Find the users whom new entries of the log concern.

        Returns (receiver, conversation) → the first of these entries that the
        receiver gets; and each (user, conversation) in which a message was
        recalled or a question has ended. May switch greenlets.
        """
        receivers: dict[tuple[str, int], int] = {}
        ended: dict[int, tuple[str, ...]] = {}
        """Conversation in which a message was recalled, or a question has ended → its users."""
        first_senders: dict[int, str] = {}
        """Conversation → the sender of its first entry. This user becomes a receiver only by an entry of somebody else."""
        for entry in entries:
            conversation = entry.conversation
            if entry.kind in ("join", "leave"):
                self._members.forget(conversation)
                # Without it, the next message adds all members again.
                first_senders.pop(conversation, None)
            elif entry.room or entry.kind not in ("message", "recall", "press"):
                # Nobody is notified of messages in rooms.
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

        return receivers, _pairs_of(ended)

    def _add_receivers(
        self,
        entry: Entry,
        receivers: dict[tuple[str, int], int],
        first_senders: dict[int, str],
    ) -> None:
        """Add the receivers of a message to ``receivers``, unless it is silent.

        ``receivers``: (user, conversation) → the first entry that the user
        gets. ``first_senders`` remembers who sent the first entry of each
        conversation. May switch greenlets.
        """
        conversation = entry.conversation
        if notify_in(entry) is False:
            self._silent.add(entry.id)
            return

        if conversation not in first_senders:
            first_senders[conversation] = entry.sender
            self._add_all_receivers(entry, receivers)
            return

        # The first entry has made everybody but its sender a receiver. So a
        # later entry can only add that sender.
        first_sender = first_senders[conversation]
        if first_sender == entry.sender:
            return
        # The sender may have left the conversation since then.
        key = (first_sender, conversation)
        if key not in receivers and first_sender in self._users_of(entry):
            receivers[key] = entry.id

    def _add_all_receivers(
        self, entry: Entry, receivers: dict[tuple[str, int], int]
    ) -> None:
        """Add all users of a message's conversation, except its sender.

        May switch greenlets.
        """
        for number, user in enumerate(self._users_of(entry), 1):
            if user and user != entry.sender:
                receivers.setdefault((user, entry.conversation), entry.id)
            if not number % _USERS_AT_ONCE:
                serve_others()

    def _reminders_of(self, entries: Iterable[Entry]) -> dict[tuple[str, int], int]:
        """Find the users whom new entries remind of a question.

        Returns (user, conversation) → the entry that reminds the user. Users
        who cannot answer the question are left out. Switches greenlets. Raises
        StorageUnavailable.
        """
        reminder_by_question = _reminders_in(entries)
        if not reminder_by_question:
            return {}

        reminders: dict[tuple[str, int], int] = {}
        log_entries = self._notifier.store.part(MessageLog).entries
        for message in log_entries.find(self._app, sorted(reminder_by_question)):
            question = message.ask
            if question is None:
                continue
            reminder = reminder_by_question[message.id]
            # A question that names no users is for all members.
            for user in question.of or self._users_of(reminder):
                if user != message.sender and question.may_answer(user):
                    reminders[user, message.conversation] = reminder.id
        return reminders

    def _users_of(self, entry: Entry) -> tuple[str, ...]:
        """Return the users of the conversation of an entry.

        The entry of a conversation of two names both. The members of a group
        may have to be read, which switches greenlets.
        """
        return entry.members or self._members.of(entry.conversation)


class _Writer(Struct, frozen=True):
    """Writes the notifications of some decisions of one app, for each device.

    Parts that many of them share are made once.
    """

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
        """Make the notifications of an entry for the devices of a user.

        The devices differ in the language, the token with which the user
        answers, and the badge.
        """
        facts = self.facts
        preview = _has_preview(due.user, facts)
        count = self._unread_count(due)
        ttl = ttl_of(self._notify_of(entry))
        # If the user was notified before, the number includes the conversation
        # already.
        if due.user in facts.badges and not due.notified:
            facts.badges[due.user] += 1

        # Without a preview the options of a question are hidden, too.
        answers: tuple[ShownAction, ...] = ()
        if preview:
            answers = self._answers_for(due.user, entry)

        deliveries = []
        for endpoint in facts.endpoints.get(due.user, ()):
            language = language_of(endpoint.language)
            shown = self._shown_of(due.conversation, entry, language, preview, count)
            token = self.make_token(
                endpoint.app, due.user, endpoint.id, due.conversation, entry
            )
            content = replace(
                shown,
                actions=shown.actions or answers,
                token=token,
                badge=_badge_for(endpoint, facts),
            )
            deliveries.append(_about(due, endpoint, content, entry, ttl, facts))
        return deliveries

    def _answers_for(self, user: str, entry: int) -> tuple[ShownAction, ...]:
        """Return the buttons for a question that a user can answer."""
        question = self.entries[entry].ask
        if question is None or not question.may_answer(user):
            return ()
        return answers_of(question)

    def _unread_count(self, due: Due) -> int:
        """Return the number of unread messages that a notification shows.

        If the user wants to be notified only of mentions, only mentions count.
        """
        unread = self.facts.unread[due.conversation]
        if self.facts.wish(due).level == "mentions":
            return sum(1 for _ in unread.among(due.user, 0, mentions=True))
        return unread.count(due.user)

    def _notify_of(self, entry: int) -> Notify | None:
        """Return the wishes of a message for its notification, decoded once."""
        if entry not in self.notify:
            self.notify[entry] = notify_in(self.entries[entry]) or None
        return self.notify[entry]

    def _shown_of(
        self, conversation: int, entry: int, language: str, preview: bool, count: int
    ) -> Shown:
        """Return the content of a notification, without what differs by device.

        ``preview`` False: the texts are hidden. ``count``: the number of unread
        messages. Devices with equal arguments share the content.
        """
        key = (entry, language, preview, count)
        content = self.shown.get(key)
        if content is not None:
            return content

        message = self.entries[entry]
        content = shown_of(
            self.facts.app,
            message,
            self.conversations[conversation],
            self._author_of(message),
            count,
            language,
            preview,
            self._notify_of(entry),
        )
        self.shown[key] = content
        return content

    def _author_of(self, message: Entry) -> Author:
        """Return the name and the avatar of the sender of a message.

        Users without an account have only their id.
        """
        account = self.accounts.get(message.sender)
        if account is None:
            return Author(message.sender)
        return Author(account.nickname or message.sender, account.avatar)


def _mentions_only(
    wishes: Mapping[tuple[str, int], ConversationWish],
) -> dict[int, list[str]]:
    """Return conversation → the users who are notified only of mentions.

    ``wishes``: (user, conversation) → the wish.
    """
    users_by_conversation: dict[int, list[str]] = {}
    for (user, conversation), wish in wishes.items():
        if wish.level == "mentions":
            users_by_conversation.setdefault(conversation, []).append(user)
    return users_by_conversation


def _enabled_among(
    endpoints: Mapping[str, list[PushEndpoint]],
) -> dict[str, list[PushEndpoint]]:
    """Return user → their enabled endpoints, for users who have any."""
    enabled: dict[str, list[PushEndpoint]] = {}
    for user, user_endpoints in endpoints.items():
        enabled_of_user = [one for one in user_endpoints if one.enabled]
        if enabled_of_user:
            enabled[user] = enabled_of_user
    return enabled


def _badge_for(endpoint: PushEndpoint, facts: _Facts) -> int | None:
    """Return the number that the icon of the application shows on a device.

    None: the device is a browser, which counts by itself.
    """
    if endpoint.is_web:
        return None
    return facts.badges.get(endpoint.user)


def _note_notified(due: Due, entry: int, facts: _Facts, decided: _Decided) -> None:
    """Add to ``decided`` that the user of a due is notified of an entry now.

    If the user gets mails about unread messages, the time of the next mail is
    added, too.
    """
    mail = mail_due(facts.wishes.get(due.user, _NO_WISHES), facts.now)
    # Of several conversations, the earliest time counts.
    if mail:
        decided.mail[due.user] = min(mail, decided.mail.get(due.user, mail))
    changed = replace(
        due,
        due=0,
        entry=entry,
        notified=entry,
        notified_at=facts.now + facts.offset,
    )
    decided.changed.append((due, changed))


def _users_by_conversation(dues: Iterable[Due]) -> dict[int, list[str]]:
    """Return conversation → the users of its dues."""
    users: dict[int, list[str]] = {}
    for due in dues:
        users.setdefault(due.conversation, []).append(due.user)
    return users


def _reminders_in(entries: Iterable[Entry]) -> dict[int, Entry]:
    """Return question → the last of the entries that reminds of it."""
    return {
        entry.about: entry
        for entry in entries
        if entry.kind == "press" and entry.type in _REMINDING
    }


def _pairs_of(
    users_by_conversation: Mapping[int, Iterable[str]],
) -> set[tuple[str, int]]:
    """Return each (user, conversation)."""
    pairs: set[tuple[str, int]] = set()
    for conversation, users in users_by_conversation.items():
        pairs.update((user, conversation) for user in users)
    return pairs


def _has_ended(question: Ask | None) -> bool:
    """Whether a message has a question that can no longer be answered."""
    return question is not None and bool(question.state)


def _unread_of(due: Due, facts: _Facts) -> Iterator[int]:
    """Yield the indexes of the messages to check for a due, the newest first.

    Messages before the one that made the user due are already decided.
    """
    return facts.unread[due.conversation].among(
        due.user,
        max(due.notified, due.entry - 1),
        mentions=facts.wish(due).level == "mentions",
        newest_first=True,
    )


def _has_preview(user: str, facts: _Facts) -> bool:
    """Whether the notifications of a user show texts of messages."""
    rules = facts.rules
    wishes = facts.wishes.get(user, _NO_WISHES)
    return rules is not None and rules.preview and wishes.preview


def _next_candidates(
    waiting: Mapping[tuple[str, int], Iterator[int]],
    facts: _Facts,
    blocked: Mapping[tuple[str, str], bool],
    ahead: int,
) -> tuple[dict[tuple[str, int], tuple[int, str]], set[int]]:
    """Find for each user the next message that may be shown, as far as known.

    ``waiting``: (user, conversation) → indexes of messages to check; each is
    advanced up to the message found. ``blocked``: (user, sender) → whether the
    user has blocked the sender.

    Returns (user, conversation) → the id of that message and its sender; and
    the ids of about ``ahead`` older messages, to read them in the same query.
    May switch greenlets.
    """
    candidates: dict[tuple[str, int], tuple[int, str]] = {}
    older: set[int] = set()
    for key, indexes in waiting.items():
        user, conversation = key
        unread = facts.unread[conversation]
        for index in indexes:
            entry = unread.ids[index]
            sender = unread.senders[index]
            # These were found out in earlier rounds, or for other users.
            if entry in facts.silent or blocked.get((user, sender)):
                continue
            candidates[key] = entry, sender
            # The next message of this user may be silent, too. To read it now
            # saves a query.
            if len(older) < ahead:
                older.update(unread.ids[max(0, index - ahead) : index])
            break
        if is_long_turn():
            serve_others()
    return candidates, older


def _end(due: Due, outcome: str, facts: _Facts, decided: _Decided) -> None:
    """Add the decision that a user is not notified to ``decided``.

    ``outcome`` is that of the :class:`Decision`:

    - ``stay``: the user's last notification stays, unless its message has
      become silent.
    - ``close``: the last notification is removed from the devices.
    - ``end``: there is no last notification.
    """
    if outcome == "stay" and due.notified not in facts.silent:
        decided.changed.append((due, replace(due, due=0)))
        return
    # From here on the user has no notification of the conversation.
    decided.ended.append(due)
    if due.notified and due.user in facts.badges:
        facts.badges[due.user] = max(facts.badges[due.user] - 1, 0)
    if outcome != "end":
        decided.deliveries += _closing_deliveries(due, facts)


def _closing_deliveries(due: Due, facts: _Facts) -> Iterator[Delivery]:
    """Make the notifications that remove the last one from a user's devices."""
    shown = closing(facts.app, due.conversation)
    for endpoint in facts.endpoints.get(due.user, ()):
        content = replace(shown, badge=_badge_for(endpoint, facts))
        yield _about(due, endpoint, content, due.notified, TTL_SECONDS, facts)


def _about(
    due: Due, endpoint: PushEndpoint, shown: Shown, entry: int, ttl: int, facts: _Facts
) -> Delivery:
    """Make the delivery of ``shown`` to an endpoint of the user of a due.

    ``entry``: the message that it is about. ``ttl``: how long it is valid, in
    seconds.
    """
    return delivery_to(
        endpoint,
        shown,
        topic_of(endpoint.app, due.conversation),
        ttl,
        now=facts.now / SECOND_MS,
        conversation=due.conversation,
        entry=entry,
    )
