"""Mails: decides when a user gets a digest of unread conversations, and sends
it.

The node with the lease of the notifier sends them. It has one consumer for all
apps, because there is one mail server.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from math import inf
from time import time
from typing import Final

from gevent.pool import Pool
from msgspec.structs import replace

from imserver.backends.webhooks.consumer import Consumer, DeliveryLease, Failure
from imserver.backends.webhooks.event_rows import NewEvent
from imserver.notifications.contract import MAIL, SECOND_MS, MailDue, Wishes
from imserver.notifications.decisions import mail_due, quiet_until
from imserver.notifications.declared import rules_of
from imserver.notifications.rows import NotificationRows, notified
from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import SmtpSettings
from imserver.people.accounts.mailing import Mail, NotSent, send
from imserver.people.accounts.parts import accounts_of
from imserver.plugin.messages import MessageLog
from imserver.plugin.runtime import RateLimitedLog, Service
from imserver.plugin.services import Core
from imserver.plugin.wire import Limit, id_of

log: Final = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 86_400
"""The time until the next mail, if the user has read nothing since the last
one."""
DUE_AT_ONCE: Final = 100
SENT_AT_ONCE: Final = 4
TRIES: Final = 24
"""How often the server tries a mail that is refused for now, about once an
hour."""
_RETRY_SECONDS: Final = 60
"""The pause before the first retry. It doubles with each try."""
_LONGEST_RETRY_SECONDS: Final = 3600
_MOST_DOUBLINGS: Final = 10


class Mails(Service, dict=True):
    """Sends digests, which are mails about unread conversations.

    Only the node with the lease of the notifier sends them.

    ``apps``: the apps in which users can be notified. ``page_of``: app → the
    address of its page for chats; ``""``: the app has no page. ``stop_url``:
    (app, user) → the address that ends the mails. ``answer_url``: (app, user,
    message) → the address where the user answers a question. ``site``: the name
    of this server in mails. ``wants``: whether the back end of an app wants
    events of a kind.
    """

    core: Core
    rows: NotificationRows
    smtp: SmtpSettings
    lease: DeliveryLease
    apps: Callable[[], Collection[str]]
    page_of: Callable[[str], str]
    stop_url: Callable[[str, str], str]
    answer_url: Callable[[str, str, int], str]
    site: str
    wants: Callable[[str, str], bool]

    def __post_init__(self) -> None:
        """Begin without known times of mails."""
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """(app, ``mail``, result) → the number of mails since the start."""
        self._next: dict[str, float] = {}
        """App → when the next mail is due, in Unix milliseconds (``inf``:
        never). If an app is missing, :meth:`_read` asks the database."""
        self._tries: dict[tuple[str, str], int] = {}
        """(app, user) → how often the mail server has refused the mail for
        now."""
        self._has_ended = False
        self._sending = Pool(SENT_AT_ONCE)
        self._refused = RateLimitedLog(log, "app %s: no mail to the account %s: %s")
        self._away = RateLimitedLog(log, "the mail server: %s; trying again")
        self.consumer = self._make_consumer()

    def _make_consumer(self) -> Consumer[list[tuple[str, MailDue]]]:
        """Make the consumer that reads the mails that are due, and sends them."""
        return Consumer(
            "mails",
            self.lease,
            read=self._read,
            deliver=self._deliver,
            until_due=self._until_due,
        )

    def note_due(self, app: str, at: int) -> None:
        """Note that mails of an app are due at this time (Unix milliseconds).

        Never switches greenlets.
        """
        if not self.smtp.host:
            return
        # If the app is missing, the consumer asks the database for the time.
        if app in self._next:
            self._next[app] = min(self._next[app], at)
        self.consumer.wake()

    def restart(self) -> None:
        """Forget the known times, and ask the database again.

        This node has got the lease, and another node may have sent mails
        meanwhile. Never switches greenlets.
        """
        if not self.smtp.host or self._has_ended:
            return
        # A new consumer, because a consumer that has stopped stays so.
        self.consumer.stop()
        self.consumer = self._make_consumer()
        self._next.clear()
        self.consumer.wake()

    def stop(self, seconds: float = 1.0) -> None:
        """Send nothing more.

        The method waits at most ``seconds`` for mails that are being sent, then
        cancels them. Switches greenlets.
        """
        self._has_ended = True
        self.consumer.stop()
        self._sending.join(timeout=seconds)
        self._sending.kill()

    # --- what is due ----------------------------------------------------------

    def _until_due(self) -> float | None:
        """Return the seconds until the next mail is due.

        None: no mail is due.
        """
        soonest = min(self._next.values(), default=inf)
        if soonest == inf:
            return None
        return max(soonest / SECOND_MS - time(), 0.0)

    def _read(self) -> list[tuple[str, MailDue]] | None:
        """Read the users of one app whose mails are due, each with the app.

        Returns None if no mail is due. Switches greenlets. Raises
        StorageUnavailable.
        """
        now = int(time() * SECOND_MS)
        for app in self.apps():
            if self._next.get(app, 0) > now:
                continue
            # Set before the query, which switches: note_due and _settle may
            # change it meanwhile.
            self._next[app] = inf
            due = self._read_of_app(app, now)
            if due:
                return [(app, each) for each in due]
        return None

    def _read_of_app(self, app: str, now: int) -> Sequence[MailDue]:
        """Read the users of an app whose mails are due, and note the next time.

        Switches greenlets. Raises StorageUnavailable.
        """
        try:
            due, next_due = self.rows.mails_due(app, now, DUE_AT_ONCE)
        except BaseException:
            self._next.pop(app, None)
            raise
        if due:
            # There may be more users than were read.
            self._next.pop(app, None)
        # _settle may have removed the app meanwhile, to read it again.
        elif next_due is not None and app in self._next:
            self._next[app] = min(self._next[app], next_due)
        return due

    def _deliver(self, batch: list[tuple[str, MailDue]]) -> Failure | None:
        """Send the mails of a batch, several at a time.

        A mail that is done is removed from ``batch``. Returns a failure if
        mails are left: the consumer then tries the batch again. Switches
        greenlets. Raises StorageUnavailable.
        """
        problems: list[NotSent] = []
        errors: list[Exception] = []

        def send_one(app: str, due: MailDue) -> None:
            """Send a mail; after a failure, leave it for the next attempt."""
            if problems or errors or not self.lease.is_owned:
                return
            try:
                self._decide_mail(app, due)
            except NotSent as problem:
                problems.append(problem)
            except Exception as error:  # raised again in the consumer's greenlet
                errors.append(error)
            else:
                batch.remove((app, due))

        for app, due in tuple(batch):
            self._sending.spawn(send_one, app, due)
        self._sending.join()
        if errors:
            raise errors[0]
        if problems:
            self._away(problems[0])
            return Failure(str(problems[0]))
        if batch:
            return Failure("the lease has ended")
        return None

    def _decide_mail(self, app: str, due: MailDue) -> None:
        """Decide about a mail that is due: send it, put it off, or drop it.

        Switches greenlets. Raises StorageUnavailable, and NotSent if the mail
        server takes no mail at all.
        """
        now = int(time() * SECOND_MS)
        wishes = self.rows.wishes_of(app, due.user)
        account = self._account(app, due.user)
        if account is None or wishes.mail == "never":
            self._settle(app, due, replace(due, due=0), meanwhile_ms=0)
            return
        # The address may belong to somebody else, so it is asked first.
        if not account.email_confirmed:
            accounts_of(self.core).confirmations.ask_once(account)
            self._settle(app, due, replace(due, due=0), meanwhile_ms=0)
            return

        wait_until = self._wait_until(app, due, wishes, now)
        if wait_until:
            later = replace(due, due=wait_until)
            self._settle(app, due, later, meanwhile_ms=wait_until)
            return
        self._send_digest(account, due, wishes, now)

    def _send_digest(
        self, account: Account, due: MailDue, wishes: Wishes, now: int
    ) -> None:
        """Mail the unread messages of an account, if there are any.

        ``now``: Unix milliseconds. Switches greenlets. Raises
        StorageUnavailable, and NotSent if the mail server takes no mail at all.
        """
        app = account.app
        # Read before the messages: messages that come meanwhile are for the
        # next mail.
        next_mail = mail_due(wishes, now)
        stored = self.core.store.part(MessageLog)
        entry = stored.entries.head(app)
        marks = stored.marks.since(app, due.user, Limit.ID).version
        mail = self._make_mail(account, wishes, after=due.entry)
        if mail is None:
            self._settle(app, due, replace(due, due=0), meanwhile_ms=next_mail)
            return

        try:
            send(self.smtp, mail)
        except NotSent as problem:
            if not problem.is_of_mail:
                raise
            retry_at = self._retry_at(app, due, problem, now)
            if retry_at:
                later = replace(due, due=retry_at)
                self._settle(app, due, later, meanwhile_ms=retry_at)
                return
            self._note_refused(app, due.user, problem)
            events = []
        else:
            events = self._note_sent(app, due.user)
        # A mail that was refused for good counts as sent, too: the next mail
        # begins after its messages.
        mailed = MailDue(due.user, due=0, mailed=now, entry=entry, marks=marks)
        self._settle(app, due, mailed, meanwhile_ms=next_mail, events=events)

    def _note_sent(self, app: str, user: str) -> list[NewEvent]:
        """Count and log a mail that was sent.

        Returns the event for the back end of the app, if it wants to know.
        """
        self.counts[app, MAIL, "taken"] += 1
        log.info("app %s: the account %s was sent a digest", app, user)
        if not self.wants(app, "notified"):
            return []
        return [notified(app, user, MAIL)]

    def _wait_until(self, app: str, due: MailDue, wishes: Wishes, now: int) -> int:
        """Return the time until which a mail has to wait; 0: it need not wait.

        It waits for the end of quiet hours. A user who has read nothing since
        the last mail gets the next one a day later. Times are Unix
        milliseconds. Switches greenlets. Raises StorageUnavailable.
        """
        quiet_end = quiet_until(wishes.quiet, now)
        again = due.mailed + AGAIN_SECONDS * SECOND_MS
        if wishes.mail != "soon" or not due.mailed or again <= now:
            return quiet_end
        # A user who has read something since the last mail gets the next one
        # without the long pause.
        marks = self.core.store.part(MessageLog).marks
        if marks.since(app, due.user, due.marks).reads:
            return quiet_end
        return again

    def _retry_at(self, app: str, due: MailDue, problem: NotSent, now: int) -> int:
        """Return when to try a refused mail again (Unix ms); 0: never.

        Each refusal in a row makes the pause twice as long.
        """
        tries = self._tries.get((app, due.user), 0) + 1
        self._tries[app, due.user] = tries
        if not problem.is_temporary or tries > TRIES:
            return 0
        # The limit of doublings keeps the number small.
        pause = _RETRY_SECONDS << min(tries, _MOST_DOUBLINGS)
        return now + SECOND_MS * min(pause, _LONGEST_RETRY_SECONDS)

    def _settle(
        self,
        app: str,
        before: MailDue,
        after: MailDue,
        meanwhile_ms: int,
        events: Sequence[NewEvent] = (),
    ) -> None:
        """Replace the stored row ``before`` of a user by ``after``.

        ``meanwhile_ms``: when a mail about messages that have come meanwhile is
        due, in Unix milliseconds. ``events`` are for the back end of the app.
        Switches greenlets. Raises StorageUnavailable.
        """
        self.rows.set_mailed(app, before, after, meanwhile_ms, events)
        # The next call of _read asks the database when a mail is due.
        self._next.pop(app, None)
        if not after.due:
            self._tries.pop((app, before.user), None)

    def _account(self, app: str, user: str) -> Account | None:
        """Return the account of a user that gets mails, or None.

        None means that the user has no account, that the account has no address
        or is banned, that it is a bot, or that the app has no notifications.
        Switches greenlets. Raises StorageUnavailable.
        """
        tenant = self.core.tenants.find(app)
        if tenant is None or not rules_of(tenant).enabled:
            return None
        # Not every user has an account: the id of the others is 0.
        id = id_of(user)
        if not id or self.core.sessions.is_banned(app, user):
            return None

        row = accounts_of(self.core).rows.by_id(app, id)
        if row is None:
            return None
        account = row[0]
        # A bot belongs to a program, which reads no mail.
        if not account.email or account.bot:
            return None
        return account

    def _note_refused(self, app: str, user: str, problem: NotSent) -> None:
        """Count and log a mail that the mail server has refused for good."""
        self.counts[app, MAIL, "refused"] += 1
        self._refused(app, user, problem)

    def _make_mail(self, account: Account, wishes: Wishes, after: int) -> Mail | None:
        """Write the mail with the unread messages of an account.

        ``after``: only messages after this id count. Returns None if there is
        no such message. Switches greenlets. Raises StorageUnavailable.
        """
        # Imported at the first mail: many servers send none.
        from imserver.notifications.digests import collect, mail_of

        app = account.app
        user = account.user
        digest = collect(
            self.core.store.part(MessageLog),
            accounts_of(self.core).rows,
            account,
            self.rows.conversation_wishes_of(app, user),
            after,
            wishes,
        )
        tenant = self.core.tenants.find(app)
        if digest is None or tenant is None:
            return None
        return mail_of(
            digest,
            account,
            wishes,
            preview=wishes.preview and rules_of(tenant).preview,
            page=self.page_of(app),
            site=self.site,
            stop_url=self.stop_url(app, user),
            answer_url=partial(self.answer_url, app, user),
        )
