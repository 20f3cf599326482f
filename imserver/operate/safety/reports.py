"""Reports of users, and the queue of them for moderators.

A user who reports a message, or a person, joins the open report about it.
Moderators see a reported message as its reporter does, with a few messages of
the conversation around it. Its text stays with the report, even if the message
is recalled or deleted. An appeal of a banned user is a report about themselves.
"""

import logging
from collections.abc import Callable, Iterable, Sequence, Set
from functools import partial
from secrets import token_hex
from time import monotonic, time
from typing import Annotated, Final, Literal
from urllib.parse import quote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.operate.safety.declared import (
    ADDRESS_APPEALS,
    APPEAL,
    APPEAL_SECONDS,
    APPEALS,
    APPEALS_OF_ADDRESS,
    HTTP_APPEAL_OPEN,
    HTTP_TOO_MANY_REPORTS,
    HTTP_UNKNOWN_REPORT,
    REASON_BYTES,
    REPORT_SECONDS,
    REPORTS,
    USER_APPEALS,
    USER_REPORTS,
    SafetySettings,
    rules_of,
)
from imserver.operate.safety.wire import Report
from imserver.plugin.errors import Problems, ReplyCode, ServiceRefused
from imserver.plugin.http import about
from imserver.plugin.identity import GOCHAT, by_address
from imserver.plugin.messages import (
    Draft,
    Entry,
    MessageLog,
    MessageServices,
    ToFollowers,
)
from imserver.plugin.services import Core
from imserver.plugin.storage import (
    PooledStatements,
    RecordEvent,
    Row,
    RowsOf,
    Statements,
    Store,
    text_of,
)
from imserver.plugin.wire import (
    CommandRow,
    CommandTable,
    Connection,
    Reply,
    Signal,
    app_and_user,
)

log = logging.getLogger(__name__)

MOST_OPEN: Final = 10_000
"""The most open reports of an app."""
AROUND: Final = 5
"""How many messages before and after a reported one moderators see."""
_LOOK: Final = 20
"""How many entries before and after it are searched for messages."""
_EVIDENCE_CHARACTERS: Final = 1000
_ID_BYTES: Final = 8
_NOTICE_SECONDS: Final = 600
"""Owners are told of the first report in each such span of the clock."""
_MOST_REPORTERS: Final = 50
"""The most reporters that are stored. Further ones are only counted."""
_STAFF_SECONDS: Final = 30.0
"""How long a node caches who moderates an app."""
_DAY_SECONDS: Final = 86_400
_SECOND_MS: Final = 1000
State = Literal["open", "closed"]
StaffRole = Literal["owner", "moderator"]
User = Annotated[str, about("A user of the app.", min_length=1, max_length=255)]
ReportId = Annotated[str, about("The id of a report.", min_length=1, max_length=32)]
ReportReason = Annotated[
    str,
    about(
        "One of the reasons of the app (`safety.reasons`).",
        min_length=1,
        max_length=REASON_BYTES,
    ),
]


class ReportShown(Struct, kw_only=True):
    """A report."""

    id: ReportId
    user: Annotated[str, about("The reported user, or the sender of the message.")]
    message: Annotated[int, about("The message; 0: the user is reported.")]
    conversation: Annotated[
        int, about("The conversation of the message; 0: the user is reported.")
    ]
    reporters: Annotated[int, about("The number of users who have made this report.")]
    reasons: Annotated[
        dict[str, int], about("Reason → number of reporters who gave this reason.")
    ]
    opened: Annotated[int, about("The time of the first report, in Unix seconds.")]
    changed: Annotated[
        int, about("The time of the last report or of the closure, in Unix seconds.")
    ]
    closed: Annotated[
        int, about("When the report was closed, in Unix seconds; 0: it is open.")
    ]
    closed_by: Annotated[str, about("The key or account that has closed the report.")]
    outcome: Annotated[str, about("The action that was taken.")]
    note: Annotated[str, about("The note for other moderators.")]
    evidence: Annotated[
        str,
        about(
            "The text of the message at the first report, or of the appeal; empty: no "
            "text."
        ),
    ] = ""
    appeal: Annotated[
        bool, about("Whether the report is the appeal of a banned user.")
    ] = False


class ReporterShown(Struct):
    """A user who has made the report."""

    user: User
    time: Annotated[int, about("The time, in Unix seconds.")]
    reason: ReportReason
    text: Annotated[str, about("The comment of the reporter.")]


_REPORTS: Final = RowsOf(ReportShown, "report", user="member", reasons="", appeal="")
_REPORTERS: Final = RowsOf(ReporterShown, "reporter", user="member", time="created")


class ReportInContext(Struct, frozen=True):
    """A report as moderators see it.

    ``messages`` are the reported message, and the messages before and after it.
    ``copies`` is the id of a removed message → the message before its removal,
    as long as a moderator may restore it.
    """

    report: ReportShown
    reporters: list[ReporterShown]
    messages: list[Entry]
    copies: dict[int, Entry]


class OpenReports(Struct):
    """The data of the signal ``safety.reports``, which moderators get when a
    report is new or closed."""

    open: int


class Reports(Store.Rows):
    """Takes reports of users, and shows them to moderators.

    A message of the server tells owners of new reports. ``staff_of`` is a
    function that finds the accounts of an app with a role. Methods may switch
    greenlets, and raise StorageUnavailable.
    """

    def __init__(
        self,
        core: Core,
        staff_of: Callable[[str, StaffRole], Sequence[str]],
        messages: MessageServices,
    ) -> None:
        """Make the rate limits, and find out which pages the node has."""
        super().__init__(core.store)
        self._tenants = core.tenants
        self._observer = core.observer
        self._accounts = core.accounts
        self._make_rates(core)
        self._staff_of = staff_of
        self._moderators: dict[str, tuple[float, tuple[str, ...]]] = {}
        """App → the monotonic time of the read, and the owners and moderators
        that were found. A cache."""
        self._messages = messages

        url = core.config.address
        self._page = ""
        """The address of the admin page; ``""`` if the node has no such page."""
        if url and "admin" in core.features:
            self._page = f"{url}/admin"
        self._chat = ""
        """The address of the messages page, which is for one app; ``""`` if the
        node has no such page."""
        if url and "pages" in core.features:
            self._chat = f"{url}/home/messages"

    def _make_rates(self, core: Core) -> None:
        """Make the rates of reports and of appeals."""
        self._rates = core.buckets.make(
            USER_REPORTS, REPORTS, REPORT_SECONDS, core.attempt
        )
        self._appeals = core.buckets.make(
            USER_APPEALS, APPEALS, APPEAL_SECONDS, core.attempt
        )
        # An appeal of somebody who is not known yet counts for the address.
        accounts = core.config.accounts
        self._addresses = core.buckets.make(
            ADDRESS_APPEALS, APPEALS_OF_ADDRESS, accounts.rate_seconds, core.attempt
        )

    def rules_of(self, app: str) -> SafetySettings:
        """The rules of an app."""
        return rules_of(self._tenants.get(app))

    def reasons_of(self, app: str) -> list[str]:
        """The reasons from which users of an app choose."""
        return [reason for reason in self.rules_of(app).reasons if reason != APPEAL]

    # --- users ----------------------------------------------------------------

    def send(
        self, app: str, reporter: str, report: Report, by_user: bool = True
    ) -> str:
        """Report a message or a user, and return the id of the report.

        ``by_user`` means that the report counts for the rate limit of the
        reporter; a back end may report without a limit. Raises ServiceRefused
        and TooManyRequests.
        """
        self._check_form(app, report)
        if by_user:
            self._rates.require((app, reporter))

        if report.user:
            self._check_person(app, reporter, report.user)
            return self._store_report(
                app,
                reporter,
                report,
                user=report.user,
                subject=f"user {report.user}",
            )
        entry = self._message(app, reporter, report.message)
        text = entry.view().text or ""
        return self._store_report(
            app,
            reporter,
            report,
            user=entry.sender,
            subject=f"message {report.message}",
            conversation=entry.conversation,
            evidence=text[:_EVIDENCE_CHARACTERS],
        )

    def _check_form(self, app: str, report: Report) -> None:
        """Refuse a report with an unknown reason, or not about exactly one
        thing.

        Raises ServiceRefused.
        """
        reasons = self.reasons_of(app)
        if report.reason not in reasons:
            raise ServiceRefused(
                f"`reason`: one of {', '.join(reasons)}", Problems.INVALID_REQUEST
            )
        is_about_message = bool(report.message)
        is_about_user = bool(report.user)
        if is_about_message == is_about_user:  # neither, or both
            raise ServiceRefused(
                "`message`, `user`: expected one of them", Problems.INVALID_REQUEST
            )

    def check_appeals(self, app: str, address: str) -> None:
        """Count an appeal from this address, before it is known who sends it.

        So nobody can try many passwords by appeals. Raises TooManyRequests.
        """
        self._addresses.require(by_address(app, address))

    def appeal(self, app: str, user: str, text: str) -> str:
        """Send the appeal of a banned user to the moderators; returns the id of
        its report.

        Raises ServiceRefused if they have not closed the last appeal of the
        user, and TooManyRequests.
        """
        subject = f"appeal {user}"

        # Only an open report has such a subject, because :meth:`close` changes
        # the subject.
        statement = "SELECT 1 FROM report WHERE app = %s AND subject = %s"
        if self._store.rows(statement, (app, subject)):
            raise ServiceRefused(problem=HTTP_APPEAL_OPEN)
        self._appeals.require((app, user))
        return self._store_report(
            app,
            reporter=user,
            report=Report(message=0, user=user, reason=APPEAL, text=text),
            user=user,
            subject=subject,
            evidence=text[:_EVIDENCE_CHARACTERS],
        )

    def _store_report(
        self,
        app: str,
        reporter: str,
        report: Report,
        user: str,
        subject: str,
        conversation: int = 0,
        evidence: str = "",
    ) -> str:
        """Store a report, and return its id.

        If no other report about its subject is open, notify owners and
        moderators. ``user`` is the reported user. ``subject`` is a text such as
        ``message 7`` or ``user ann``. A report joins the open report with an
        equal subject. Raises ServiceRefused if too many reports are open.
        """
        row = _open_row(report.message, user, conversation, evidence)
        new = _NewReport(
            app=app,
            subject=subject,
            reporter=reporter,
            report=report,
            row=row,
            record=self._observer.recorder(app, "report"),
        )
        stored = self._store.write(partial(_store, new))
        if stored is None:
            raise ServiceRefused(problem=HTTP_TOO_MANY_REPORTS)

        id, recent_users = stored
        if id == row.id:
            # An owner was not told of a report about themselves. If two persons
            # were reported in this span, every owner was told of one of them.
            if len(recent_users) < 2:
                notice = self._notice_of(app, id, report, user, conversation)
                self._notify_owners(app, notice, user, recent_users)
            self._signal_moderators(app)
        return id

    def count_for(self, app: str, moderator: str) -> int:
        """The number of open reports of an app, for a moderator.

        Afterwards the moderator gets a signal when a report is new or closed on
        this node.
        """
        _, users = self._moderators.get(app, (0.0, ()))
        if moderator not in users:
            # The moderator is new. The next signal then reads the list again.
            self._moderators.pop(app, None)
        return self._count(app)

    def _count(self, app: str) -> int:
        """The number of open reports of an app; 0 without a database."""
        return self._store.read_or(0, partial(_count_open, app=app))

    def _signal_moderators(self, app: str) -> None:
        """Tell the moderators of an app, on all their devices, how many reports
        are open.

        Owners and moderators of the app are found again every
        :data:`_STAFF_SECONDS`.
        """
        users = self._staff(app)
        if not users:
            return
        data = msgspec.json.encode(OpenReports(self._count(app)))
        # The signal is about the app, so it names no sender and no receiver.
        signal = Signal("safety.reports", "", "", data=data)
        followers = ToFollowers(app, users, group=0, signal=signal)
        self._messages.signals.send(followers)

    def _staff(self, app: str) -> tuple[str, ...]:
        """The owners and moderators of an app, as they were found last."""
        read_at, users = self._moderators.get(app, (0.0, ()))
        if not read_at or monotonic() - read_at > _STAFF_SECONDS:
            users = (*self._staff_of(app, "owner"), *self._staff_of(app, "moderator"))
            self._moderators[app] = monotonic(), users
        return users

    def _in_group(self, app: str, conversation: int) -> str:
        """The words `` in "Chess"`` for a conversation of a group.

        Another conversation is not named, so the words are ``""``.
        """
        groups = self.groups(app, [conversation])
        return "".join(f' in "{group}"' for group in groups.values())

    def _notice_of(
        self, app: str, id: str, report: Report, user: str, conversation: int
    ) -> Draft:
        """The message that tells an owner of a new report, still without its
        receiver.

        An example: ``A message of Ann was reported in "Chess" (spam).
        https://…``.
        """
        name = self.names(app, [user]).get(user, user)
        event = _event_of(report, name)
        in_group = self._in_group(app, conversation)
        page = self._address_of(app, id)

        moderation = Draft.Meta.Moderation("report", report=id)
        return Draft(
            sender="",  # the server
            body=f"{event}{in_group} ({report.reason}).{page}".encode(),
            time_ms=int(time() * _SECOND_MS),
            meta=Draft.Meta(moderation=moderation).to_bytes(),
        )

    def _address_of(self, app: str, id: str) -> str:
        """The address of the page that shows a report, with a space before it.

        ``""`` if the node has no such page.
        """
        if self._chat and app == GOCHAT:
            return f" {self._chat}#manage={id}"
        if self._page:
            return f" {self._page}#report/{quote(app, safe='')}/{id}"
        return ""

    def _notify_owners(
        self, app: str, notice: Draft, user: str, recent_users: Set[str]
    ) -> None:
        """Send the notice of a report about ``user`` to the owners of an app.

        An owner does not get a report about themselves, or a second notice in a
        short time. ``recent_users`` are the users whom other reports of this
        time are about.
        """
        store = self._messages.messaging.store
        for owner in self._staff_of(app, "owner"):
            # An owner has got the notice of each recent report about somebody
            # else.
            was_notified = bool(recent_users - {owner})
            if owner != user and not was_notified:
                store(app, replace(notice, to_user=owner), by_user=False)

    def names(self, app: str, users: Iterable[str]) -> dict[str, str]:
        """User → nickname or else user name, for users with an account."""
        return self._store.names_of(app, list(dict.fromkeys(users)))

    def groups(self, app: str, conversations: Iterable[int]) -> dict[str, str]:
        """Conversation → the name of the group, for conversations of groups.

        0 means no conversation, and is left out.
        """
        ids = list(set(conversations) - {0})
        rows = self._store.part(MessageLog).conversations.find(app, ids)
        return {str(row.id): row.name for row in rows if row.kind == "group"}

    def _message(self, app: str, reporter: str, message: int) -> Entry:
        """A message that the reporter may report.

        The reporter can read it, and another user has sent it, not in a room.
        Raises ServiceRefused if there is no such message.
        """
        entries: Sequence[Entry] = ()
        if self._store.has_database:
            reader = self._store.part(MessageLog).entries
            entries = reader.readable(app, reporter, [message])
        for entry in entries:
            is_of_others = entry.sender not in ("", reporter)
            if entry.kind == "message" and is_of_others and not entry.room:
                return entry
        raise ServiceRefused(problem=Problems.UNKNOWN_MESSAGE)

    def _check_person(self, app: str, reporter: str, user: str) -> None:
        """Refuse a report about the reporter, or about somebody who does not
        exist.

        The server knows all users only in an app with accounts. Raises
        ServiceRefused.
        """
        if user == reporter:
            raise ServiceRefused(problem=Problems.UNKNOWN_ACCOUNT)
        tenant = self._tenants.get(app)
        if tenant is None or not tenant.wants_accounts(app):
            return  # the server does not know who the users are
        if not self._accounts.those_of(app, [user]):
            raise ServiceRefused(problem=Problems.UNKNOWN_ACCOUNT)

    # --- moderators -----------------------------------------------------------

    @Store.reading_or([])
    def page(
        self,
        sql: PooledStatements,
        app: str,
        state: State,
        before: tuple[int, str] | None,
        limit: int,
    ) -> list[ReportShown]:
        """A page of the reports of an app, the last changed one first.

        ``before`` are ``changed`` and ``id`` of the last report of the page
        before; None means the first page.
        """
        if state == "open":
            condition = "closed = 0"
        else:
            condition = "closed > 0"
        values: tuple[object, ...] = (app,)
        if before is not None:
            changed, id = before
            condition += " AND (changed < %s OR (changed = %s AND id < %s))"
            values = (app, changed, changed, id)
        statement = f"{_REPORTS.select} WHERE app = %s AND {condition} ORDER BY changed DESC, id DESC LIMIT %s"
        return _with_reasons(sql, app, sql.query(statement, (*values, limit)))

    def show(self, app: str, id: str) -> ReportInContext:
        """A report with its reporters, and the messages around a reported
        message.

        Raises ServiceRefused if there is no such report.
        """
        rows, reporters = self._rows(app, id)
        if not rows:
            raise ServiceRefused(problem=HTTP_UNKNOWN_REPORT)
        report = rows[0]
        if not report.message:
            return ReportInContext(report, reporters, messages=[], copies={})

        messages = self._around(app, report, reporters)
        copies = self._copies_of(app, messages)
        return ReportInContext(report, reporters, messages, copies)

    def _copies_of(self, app: str, messages: Sequence[Entry]) -> dict[int, Entry]:
        """Id → the copy of each recalled message.

        A recalled message has no content any more. The log keeps a copy for a
        while.
        """
        removals = self._store.part(MessageLog).removals
        copies = {}
        for entry in messages:
            if entry.kind == "recall":
                copy = removals.copy(app, entry.id)
                if copy is not None:
                    copies[entry.id] = copy
        return copies

    @Store.reading_or(([], []))
    def _rows(
        self, sql: PooledStatements, app: str, id: str
    ) -> tuple[list[ReportShown], list[ReporterShown]]:
        """The report as the only item of a list, and its reporters.

        Both are empty if there is no such report.
        """
        rows = sql.query(f"{_REPORTS.select} WHERE app = %s AND id = %s", (app, id))
        of_report = "WHERE app = %s AND report = %s ORDER BY created, member"
        reporters = _REPORTERS.find(sql.query, of_report, app, id)
        return _with_reasons(sql, app, rows), reporters

    def _around(
        self, app: str, report: ReportShown, reporters: Sequence[ReporterShown]
    ) -> list[Entry]:
        """The reported message and the messages around it, as a reporter sees
        them.

        It is the first reporter who can still read the message. So moderators
        see no more of a conversation than somebody who has reported it. Empty
        if no reporter can read it any more.
        """
        entries = self._store.part(MessageLog).entries
        message = report.message
        for reporter in reporters:
            if entries.readable(app, reporter.user, [message]):
                return self._around_for(app, report, reporter.user)
        return []

    def _around_for(self, app: str, report: ReportShown, user: str) -> list[Entry]:
        """The reported message and the messages around it, as a user sees them."""
        entries = self._store.part(MessageLog).entries
        message = report.message
        # These entries are also edits and reactions, so more are read than are
        # shown.
        key = app, user, report.conversation
        older, _ = entries.history(*key, before=message, limit=_LOOK)
        newer, _ = entries.history(*key, before=0, limit=_LOOK, after=message)
        before = _messages(older)[-AROUND:]
        reported = entries.find(app, [message])
        after = _messages(newer)[:AROUND]
        return [*before, *reported, *after]

    def close(self, app: str, id: str, by: str, outcome: str, note: str) -> None:
        """Close a report, with the action that a moderator has taken
        (``outcome``).

        Raises ServiceRefused if it does not exist, or is closed.
        """
        now = int(time())
        # The subject becomes unique, so that the next report about the message
        # or user opens a new report.
        statement = (
            "UPDATE report SET subject = id, closed = %s, changed = %s, closed_by = %s, outcome = %s, "
            "note = %s WHERE app = %s AND id = %s AND closed = 0"
        )
        if not self._store.execute(statement, (now, now, by, outcome, note, app, id)):
            raise ServiceRefused(problem=HTTP_UNKNOWN_REPORT)
        self._signal_moderators(app)

    # --- old reports ----------------------------------------------------------

    def expire(self, now: int) -> None:
        """Delete closed reports that are older than the setting of their app
        allows.

        ``now`` is in Unix seconds.
        """
        rows = self._store.rows("SELECT DISTINCT app FROM report")
        apps = {text_of(name) for (name,) in rows}
        for app in apps:
            before = now - self.rules_of(app).retention_days * _DAY_SECONDS
            self._delete_closed(app, before)

    @Store.writing
    def _delete_closed(self, sql: PooledStatements, app: str, before: int) -> None:
        """Delete the reports of an app that were closed before a Unix second."""
        is_old = "app = %s AND closed > 0 AND closed < %s"
        is_of_old = f"app = %s AND report IN (SELECT id FROM report WHERE {is_old})"
        sql.execute(f"DELETE FROM reporter WHERE {is_of_old}", (app, app, before))
        sql.execute(f"DELETE FROM report WHERE {is_old}", (app, before))


def _messages(entries: Sequence[Entry]) -> list[Entry]:
    """The messages among entries of a conversation, also the recalled ones.

    A recalled message is an entry about itself. All other entries about a
    message are edits, reactions and the like.
    """
    return [each for each in entries if each.kind == "message" or each.about == each.id]


class _NewReport(Struct, frozen=True):
    """A report of one user, to be stored in one transaction.

    ``subject`` identifies what it is about, such as ``message 7``. ``row`` is
    the row to store if no report about the subject is open. ``record`` stores
    the event for the webhook of the app; None if the app wants no such events.
    """

    app: str
    subject: str
    reporter: str
    report: Report
    row: ReportShown
    record: RecordEvent | None


def _open_row(message: int, user: str, conversation: int, evidence: str) -> ReportShown:
    """The row of a new report about a user, or about a message of the user."""
    now = int(time())
    return ReportShown(
        id=token_hex(_ID_BYTES),
        user=user,
        message=message,
        conversation=conversation,
        reporters=0,
        reasons={},
        opened=now,
        changed=now,
        closed=0,
        closed_by="",
        outcome="",
        note="",
        evidence=evidence,
    )


def _event_of(report: Report, name: str) -> str:
    """The beginning of a notice, such as ``A message of Ann was reported``."""
    subject = name
    if report.message:
        subject = f"A message of {name}"
    if report.reason == APPEAL:
        return f"{subject} asks to lift a ban"
    return f"{subject} was reported"


def _insert_report(sql: PooledStatements, new: _NewReport) -> None:
    """Insert the row of a report, unless its subject has an open report."""
    values = (new.app, new.subject, *_REPORTS.values(new.row))
    sql.insert_new("report", f"app, subject, {_REPORTS.columns}", [values])


def _store(new: _NewReport, sql: PooledStatements) -> tuple[str, set[str]] | None:
    """Store a report, or add its reporter to the open report about its subject.

    Returns the id of the report. If it is new, also returns the users whom
    other recent reports are about. None if too many reports are open.
    """
    app = new.app
    row = new.row
    recent_users: set[str] = set()
    id = _open_report(sql, app, new.subject)
    if id is None:
        if _count_open(sql, app) >= MOST_OPEN:
            return None
        span_start = row.opened - row.opened % _NOTICE_SECONDS
        recent_users = _recently_reported(sql, app, since=span_start)
        _insert_report(sql, new)
        # If another node has just stored a report about the subject,
        # nothing was inserted, and this is the id of that report.
        id = _open_report(sql, app, new.subject)
    assert id is not None
    if _add_reporter(sql, app, id, new.reporter, row.opened, new.report):
        _count_reporter(new, id, sql)
    return id, recent_users


def _count_reporter(new: _NewReport, id: str, sql: PooledStatements) -> None:
    """Count a new reporter of a report, and store the event for the webhook.

    The report rises to the top of the list, which is ordered by ``changed``.
    """
    row = new.row
    change = "UPDATE report SET reporters = reporters + 1, changed = %s WHERE app = %s AND id = %s"
    sql.execute(change, (row.opened, new.app, id))
    if new.record is not None:
        facts = {
            "user": row.user,
            "report": id,
            "message": row.message,
            "reason": new.report.reason,
        }
        new.record(sql, new.app, row.user, facts)


def _open_report(sql: Statements, app: str, subject: str) -> str | None:
    """The id of the open report about a subject; None if there is no open
    report.

    Its row is locked until the end of the transaction.
    """
    rows = sql.query(
        f"SELECT id FROM report WHERE app = %s AND subject = %s{sql.for_update}",
        (app, subject),
    )
    if not rows:
        return None
    return text_of(rows[0][0])


def _count_open(sql: Statements, app: str) -> int:
    """How many reports of an app are open."""
    statement = "SELECT count(*) FROM report WHERE app = %s AND closed = 0"
    return int(sql.query(statement, (app,))[0][0])


def _recently_reported(sql: Statements, app: str, since: int) -> set[str]:
    """At most two users whom open reports are about that are newer than a Unix
    second."""
    statement = (
        "SELECT DISTINCT member FROM report WHERE app = %s AND closed = 0 "
        "AND opened >= %s LIMIT 2"
    )
    return {text_of(member) for (member,) in sql.query(statement, (app, since))}


def _add_reporter(
    sql: Statements, app: str, id: str, reporter: str, now: int, report: Report
) -> bool:
    """Store the reporter and the reason.

    Returns False if the user has reported the subject already, and True
    otherwise. If the report has very many reporters, the new reporter is
    counted, but not stored.
    """
    of_report = "FROM reporter WHERE app = %s AND report = %s"
    if sql.query(f"SELECT 1 {of_report} AND member = %s", (app, id, reporter)):
        return False
    count = sql.query(f"SELECT count(*) {of_report}", (app, id))[0][0]
    if count < _MOST_REPORTERS:
        row = (app, id, reporter, now, report.reason, report.text)
        sql.insert_new("reporter", f"app, report, {_REPORTERS.columns}", [row])
    return True


def _with_reasons(sql: Statements, app: str, rows: Sequence[Row]) -> list[ReportShown]:
    """The reports in rows, with the number of reporters for each reason.

    The first column of a row is the id.
    """
    if not rows:
        return []
    ids = [text_of(row[0]) for row in rows]
    reasons_by_report = _count_reasons(sql, app, ids)
    reports = []
    for id, row in zip(ids, rows, strict=True):
        reasons = reasons_by_report[id]
        reports.append(_REPORTS.read(row, reasons=reasons, appeal=APPEAL in reasons))
    return reports


def _count_reasons(
    sql: Statements, app: str, ids: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Id of a report → reason → number of reporters with this reason."""
    counts_by_report: dict[str, dict[str, int]] = {id: {} for id in ids}
    statement = "SELECT report, reason FROM reporter WHERE app = %s AND report IN {}"
    for report, reason in sql.query_in(statement, (app,), ids, many=True):
        counts = counts_by_report[text_of(report)]
        name = text_of(reason)
        counts[name] = counts.get(name, 0) + 1
    return counts_by_report


# --- commands of clients ------------------------------------------------------


class ReportView(Struct):
    """The answer to a report."""

    report: str


def commands_of(reports: Reports) -> CommandTable:
    """The commands of clients for reports."""

    def report(connection: Connection, command: Report) -> Reply:
        """Report a message or a user, as the user of the connection."""
        id = reports.send(*app_and_user(connection), command)
        return Reply(ReplyCode.OK, ReportView(id))

    return {Report: CommandRow(report, act="reports.send")}
