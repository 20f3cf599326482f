"""Reports of users, and the queue of them for moderators.

Reports of the same message, or of the same person, are one as long as it is
open. Moderators see a reported message as its reporter does: with a few
messages around it, of that conversation. Its text stays with the report:
whoever recalls or deletes it leaves moderators something to decide by. An
appeal of somebody who is banned is a report of them about themselves.
"""

import logging
from collections.abc import Callable, Iterable, Sequence, Set
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
"""Open reports of an app."""
AROUND: Final = 5
"""Messages before and after a reported one that moderators see."""
_LOOK: Final = 20
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
    user: Annotated[str, about("The user who is reported, or has sent the message.")]
    message: Annotated[int, about("The message; 0: the user is reported.")]
    conversation: Annotated[
        int, about("The conversation of the message; 0: the user is reported.")
    ]
    reporters: Annotated[int, about("How many users have reported it.")]
    reasons: Annotated[dict[str, int], about("Reason → how many reporters gave it.")]
    opened: Annotated[int, about("When it was reported first, in Unix seconds.")]
    changed: Annotated[
        int, about("When it was last reported, or closed, in Unix seconds.")
    ]
    closed: Annotated[int, about("When it was closed, in Unix seconds; 0: it is open.")]
    closed_by: Annotated[str, about("Who has closed it: a key, or an account.")]
    outcome: Annotated[str, about("What was done.")]
    note: Annotated[str, about("What the moderator wrote for other moderators.")]
    evidence: Annotated[
        str,
        about(
            "The text of the message when it was reported first, or of the appeal; empty: there is none."
        ),
    ] = ""
    appeal: Annotated[
        bool, about("Whether it is the appeal of a user who is banned.")
    ] = False


class ReporterShown(Struct):
    """A user who has reported it."""

    user: User
    time: Annotated[int, about("When, in Unix seconds.")]
    reason: ReportReason
    text: Annotated[str, about("What the reporter added.")]


_REPORTS: Final = RowsOf(ReportShown, "report", user="member", reasons="", appeal="")
_REPORTERS: Final = RowsOf(ReporterShown, "reporter", user="member", time="created")


class ReportInContext(Struct, frozen=True):
    """A report with what moderators see: its reporters, the message, and those
    around it. ``copies``: removed messages as they were, by id, as long as they
    may come back."""

    report: ReportShown
    reporters: list[ReporterShown]
    messages: list[Entry]
    copies: dict[int, Entry]


class OpenReports(Struct):
    """The data of the signal ``safety.reports``, which moderators get when a
    report is new or closed."""

    open: int


class Reports(Store.Rows):
    """Takes reports, and shows them. Everything may switch, and raise
    StorageUnavailable. ``staff_of``: the accounts of an app with a role. Owners
    hear of reports by a message of the server."""

    def __init__(
        self,
        core: Core,
        staff_of: Callable[[str, StaffRole], Sequence[str]],
        messages: MessageServices,
    ) -> None:
        super().__init__(core.store)
        self._tenants = core.tenants
        self._observer = core.observer
        self._accounts = core.accounts
        self._rates = core.buckets.make(
            USER_REPORTS, REPORTS, REPORT_SECONDS, core.attempt
        )
        self._appeals = core.buckets.make(
            USER_APPEALS, APPEALS, APPEAL_SECONDS, core.attempt
        )
        accounts = core.config.accounts
        self._addresses = core.buckets.make(
            ADDRESS_APPEALS, APPEALS_OF_ADDRESS, accounts.rate_seconds, core.attempt
        )
        self._staff_of = staff_of
        self._moderators: dict[str, tuple[float, tuple[str, ...]]] = {}
        url = core.config.address
        if url and "admin" in core.features:
            self._page = f"{url}/admin"
        else:
            self._page = ""
        """The address of the admin page; ``""``: there is none."""
        if url and "pages" in core.features:
            self._chat = f"{url}/home/messages"
        else:
            self._chat = ""
        """The address of the messages page, which is for one app; ``""``: there is
        none."""
        self._messages = messages

    def rules_of(self, app: str) -> SafetySettings:
        """The rules of an app."""
        return rules_of(self._tenants.get(app))

    # --- users ----------------------------------------------------------------

    def send(
        self, app: str, reporter: str, report: Report, by_user: bool = True
    ) -> str:
        """Report a message or a user; returns the id of the report.
        ``by_user``: it counts for the user. Raises ServiceRefused and
        TooManyRequests."""
        reasons = [each for each in self.rules_of(app).reasons if each != APPEAL]
        if report.reason not in reasons:
            raise ServiceRefused(
                f"`reason`: one of {', '.join(reasons)}", Problems.INVALID_REQUEST
            )
        if bool(report.message) == bool(report.user):
            raise ServiceRefused(
                "`message`, `user`: expected one of them", Problems.INVALID_REQUEST
            )
        if by_user:
            self._rates.require((app, reporter))
        if not report.message:
            self._check_person(app, reporter, report.user)
            return self._take(app, reporter, report, report.user, f"user {report.user}")
        entry = self._message(app, reporter, report.message)
        evidence = (entry.view().text or "")[:1000]
        where = f"message {report.message}", entry.conversation, evidence
        return self._take(app, reporter, report, entry.sender, *where)

    def check_appeals(self, app: str, address: str) -> None:
        """Count the appeal of somebody who has proved nothing yet. Raises
        TooManyRequests."""
        self._addresses.require(by_address(app, address))

    def appeal(self, app: str, user: str, text: str) -> str:
        """Send the appeal of a banned user to the moderators; returns the id of
        its report. Raises ServiceRefused (they have not answered the last one)
        and TooManyRequests."""
        subject = f"appeal {user}"
        if self._store.rows(
            "SELECT 1 FROM report WHERE app = %s AND subject = %s", (app, subject)
        ):
            raise ServiceRefused(problem=HTTP_APPEAL_OPEN)
        self._appeals.require((app, user))
        return self._take(
            app,
            user,
            Report(0, user, APPEAL, text),
            user,
            subject,
            evidence=text[:1000],
        )

    def _take(
        self,
        app: str,
        reporter: str,
        report: Report,
        user: str,
        subject: str,
        conversation: int = 0,
        evidence: str = "",
    ) -> str:
        """Store a report, and tell moderators. ``subject``: what is one report
        while it is open."""
        record = self._observer.recorder(app, "report")
        now = int(time())
        new = token_hex(8)
        recent: set[str] = set()

        def work(sql: PooledStatements) -> str | None:
            nonlocal recent
            id = _open_report(sql, app, subject)
            if id is None:
                count = "SELECT count(*) FROM report WHERE app = %s AND closed = 0"
                if sql.query(count, (app,))[0][0] >= MOST_OPEN:
                    return None
                others = "SELECT DISTINCT member FROM report WHERE app = %s AND closed = 0 AND opened >= %s"
                # Owners hear of the first report in each such span of the
                # clock.
                rows = sql.query(f"{others} LIMIT 2", (app, now - now % 600))
                recent = {text_of(member) for (member,) in rows}
                what = user, report.message, conversation
                row = (app, subject, new, *what, 0, now, now, 0, "", "", "", evidence)
                sql.insert_new("report", f"app, subject, {_REPORTS.columns}", [row])
                id = _open_report(sql, app, subject)
            assert id is not None
            statement = (
                "SELECT 1 FROM reporter WHERE app = %s AND report = %s AND member = %s"
            )
            if sql.query(statement, (app, id, reporter)):
                return id
            count_reporters = (
                "SELECT count(*) FROM reporter WHERE app = %s AND report = %s"
            )
            # further ones are counted
            if sql.query(count_reporters, (app, id))[0][0] < 50:
                values = (app, id, reporter, now, report.reason, report.text)
                sql.insert_new(
                    "reporter", f"app, report, {_REPORTERS.columns}", [values]
                )
            change = "UPDATE report SET reporters = reporters + 1, changed = %s WHERE app = %s AND id = %s"
            sql.execute(change, (now, app, id))
            if record is not None:
                facts = {
                    "user": user,
                    "report": id,
                    "message": report.message,
                    "reason": report.reason,
                }
                record(sql, app, user, facts)
            return id

        id = self._store.write(work)
        if id is None:
            raise ServiceRefused(problem=HTTP_TOO_MANY_REPORTS)
        if id == new:
            if len(recent) < 2:
                self._notify_owners(app, new, report, user, conversation, recent)
            self._signal_moderators(app)
        return id

    def count_for(self, app: str, moderator: str) -> int:
        """How many reports of an app are open. From now on the moderator hears
        of changes here."""
        if moderator not in self._moderators.get(app, (0.0, ()))[1]:
            self._moderators.pop(app, None)
        return self._count(app)

    def _count(self, app: str) -> int:
        statement = "SELECT count(*) FROM report WHERE app = %s AND closed = 0"
        if self._store.has_database:
            return int(self._store.rows(statement, (app,))[0][0])
        return 0

    def _signal_moderators(self, app: str) -> None:
        """Tell those who moderate an app, on all their devices, how many
        reports are open."""
        known_at, users = self._moderators.get(app, (0.0, ()))
        if not known_at or monotonic() - known_at > 30.0:  # so long a node knows them
            users = (*self._staff_of(app, "owner"), *self._staff_of(app, "moderator"))
            self._moderators[app] = monotonic(), users
        if users:
            data = msgspec.json.encode(OpenReports(self._count(app)))
            signal = Signal("safety.reports", "", "", data=data)
            self._messages.signals.send(ToFollowers(app, users, 0, signal))

    def _notify_owners(
        self,
        app: str,
        id: str,
        report: Report,
        user: str,
        conversation: int,
        recent: Set[str],
    ) -> None:
        """Tell owners of a report, unless they have heard of one. ``recent``:
        of whom they were."""
        who = self.names(app, [user]).get(user, user)
        groups = self.groups(app, [conversation])
        what = f"A message of {who}" if report.message else who
        if report.reason == APPEAL:
            happened = "asks to lift a ban"
        else:
            happened = "was reported"
        in_group = "".join(f' in "{name}"' for name in groups.values())
        if self._page:
            page = f" {self._page}#report/{quote(app, safe='')}/{id}"
        else:
            page = ""
        if self._chat and app == GOCHAT:
            page = f" {self._chat}#manage={id}"
        act = Draft.Meta.Moderation("report", report=id)
        draft = Draft(
            sender="",
            body=f"{what} {happened}{in_group} ({report.reason}).{page}".encode(),
            time_ms=int(time() * 1000),
            meta=Draft.Meta(moderation=act).to_bytes(),
        )
        for owner in self._staff_of(app, "owner"):
            if owner != user and recent <= {owner}:
                self._messages.messaging.store(
                    app, replace(draft, to_user=owner), by_user=False
                )

    def names(self, app: str, users: Iterable[str]) -> dict[str, str]:
        """User → nickname or else user name, of those with an account."""
        return self._store.names_of(app, list(dict.fromkeys(users)))

    def groups(self, app: str, conversations: Iterable[int]) -> dict[str, str]:
        """Conversation → the name of the group, of those that are groups."""
        found = self._store.part(MessageLog).conversations.find(
            app, list({*conversations} - {0})
        )
        return {str(each.id): each.name for each in found if each.kind == "group"}

    def _message(self, app: str, reporter: str, message: int) -> Entry:
        """A message that the reporter can read and somebody else has sent."""
        entries = self._store.part(MessageLog).entries
        if self._store.has_database:
            found = entries.readable(app, reporter, [message])
        else:
            found = []
        if (
            not found
            or found[0].kind != "message"
            or found[0].sender in ("", reporter)
            or found[0].room
        ):
            raise ServiceRefused(problem=Problems.UNKNOWN_MESSAGE)
        return found[0]

    def _check_person(self, app: str, reporter: str, user: str) -> None:
        tenant = self._tenants.get(app)
        needs_account = tenant is not None and tenant.wants_accounts(app)
        if user == reporter or (
            needs_account and not self._accounts.those_of(app, [user])
        ):
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
        """A page of the reports of an app, the one that changed last first;
        ``before``: (change, id)."""
        if state == "open":
            condition = "closed = 0"
        else:
            condition = "closed > 0"
        behind: tuple[object, ...] = ()
        if before is not None:
            condition += " AND (changed < %s OR (changed = %s AND id < %s))"
            behind = (before[0], *before)
        statement = f"{_REPORTS.select} WHERE app = %s AND {condition} ORDER BY changed DESC, id DESC LIMIT %s"
        return _with_reasons(sql, app, sql.query(statement, (app, *behind, limit)))

    def show(self, app: str, id: str) -> ReportInContext:
        """A report, and what its reporters can read around the message. Raises
        ServiceRefused."""
        rows, reporters = self._rows(app, id)
        if not rows:
            raise ServiceRefused(problem=HTTP_UNKNOWN_REPORT)
        report = rows[0]
        if not report.message:
            return ReportInContext(report, reporters, [], {})
        messages = self._around(app, report, reporters)
        removals = self._store.part(MessageLog).removals
        recalled = (each.id for each in messages if each.kind == "recall")
        copies = {
            id: copy for id in recalled if (copy := removals.copy(app, id)) is not None
        }
        return ReportInContext(report, reporters, messages, copies)

    @Store.reading_or(([], []))
    def _rows(
        self, sql: PooledStatements, app: str, id: str
    ) -> tuple[list[ReportShown], list[ReporterShown]]:
        rows = sql.query(f"{_REPORTS.select} WHERE app = %s AND id = %s", (app, id))
        which = "WHERE app = %s AND report = %s ORDER BY created, member"
        reporters = _REPORTERS.find(sql.query, which, app, id)
        return _with_reasons(sql, app, rows), reporters

    def _around(
        self, app: str, report: ReportShown, reporters: Sequence[ReporterShown]
    ) -> list[Entry]:
        """The reported message and those around it, as the first reporter who
        can read it does."""
        entries = self._store.part(MessageLog).entries
        for reporter in reporters:
            if entries.readable(app, reporter.user, [report.message]):
                key = app, reporter.user, report.conversation
                before = entries.history(*key, report.message, _LOOK)[0]
                after = entries.history(*key, 0, _LOOK, after=report.message)[0]
                this = entries.find(app, [report.message])
                return [*_messages(before)[-AROUND:], *this, *_messages(after)[:AROUND]]
        return []

    def close(self, app: str, id: str, by: str, outcome: str, note: str) -> None:
        """Close a report. Raises ServiceRefused if there is none, or it is
        closed."""
        now = int(time())
        statement = (
            "UPDATE report SET subject = id, closed = %s, changed = %s, closed_by = %s, outcome = %s, "
            "note = %s WHERE app = %s AND id = %s AND closed = 0"
        )
        if not self._store.execute(statement, (now, now, by, outcome, note, app, id)):
            raise ServiceRefused(problem=HTTP_UNKNOWN_REPORT)
        self._signal_moderators(app)

    # --- old reports ----------------------------------------------------------

    def expire(self, now: int) -> None:
        """Delete closed reports for which the app's time is over."""
        for app in {
            text_of(row[0])
            for row in self._store.rows("SELECT DISTINCT app FROM report")
        }:
            before = now - self.rules_of(app).retention_days * 86400
            old = "app = %s AND closed > 0 AND closed < %s"

            def work(
                sql: PooledStatements,
                key: tuple[str, int] = (app, before),
                old: str = old,
            ) -> None:
                of_old = f"app = %s AND report IN (SELECT id FROM report WHERE {old})"
                sql.execute(f"DELETE FROM reporter WHERE {of_old}", (key[0], *key))
                sql.execute(f"DELETE FROM report WHERE {old}", key)

            self._store.write(work)


def _messages(entries: Sequence[Entry]) -> list[Entry]:
    """Messages, and the places of recalled ones."""
    return [each for each in entries if each.kind == "message" or each.about == each.id]


def _open_report(sql: Statements, app: str, subject: str) -> str | None:
    rows = sql.query(
        f"SELECT id FROM report WHERE app = %s AND subject = %s{sql.for_update}",
        (app, subject),
    )
    return text_of(rows[0][0]) if rows else None


def _with_reasons(sql: Statements, app: str, rows: Sequence[Row]) -> list[ReportShown]:
    ids = [text_of(row[0]) for row in rows]
    reasons: dict[str, dict[str, int]] = {id: {} for id in ids}
    statement = "SELECT report, reason FROM reporter WHERE app = %s AND report IN {}"
    for report, reason in (
        sql.query_in(statement, (app,), ids, many=True) if ids else ()
    ):
        counts = reasons[text_of(report)]
        counts[text_of(reason)] = counts.get(text_of(reason), 0) + 1
    rows_with_reasons = ((row, reasons[text_of(row[0])]) for row in rows)
    return [
        _REPORTS.read(row, reasons=each, appeal=APPEAL in each)
        for row, each in rows_with_reasons
    ]


# --- commands of clients ------------------------------------------------------


class ReportView(Struct):
    """The answer to a report."""

    report: str


def commands_of(reports: Reports) -> CommandTable:
    """The commands that reports run."""

    def report(connection: Connection, command: Report) -> Reply:
        return Reply(
            ReplyCode.OK, ReportView(reports.send(*app_and_user(connection), command))
        )

    return {Report: CommandRow(report, act="reports.send")}
