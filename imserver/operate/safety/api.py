"""Reports, and what moderators do."""

from collections.abc import Iterable
from time import time
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from imserver.operate.safety import house_rules
from imserver.operate.safety.declared import (
    HTTP_APPEAL_OPEN,
    HTTP_NOT_BANNED,
    HTTP_TOO_MANY_REPORTS,
    HTTP_UNKNOWN_ACT,
    HTTP_UNKNOWN_REPORT,
    Outcome,
)
from imserver.operate.safety.moderation import (
    MOST_MESSAGES,
    WAIT_SECONDS,
    ConversationCount,
    UserHold,
)
from imserver.operate.safety.parts import Proof, SafetyParts
from imserver.operate.safety.reports import (
    ReporterShown,
    ReportId,
    ReportReason,
    ReportShown,
    User,
)
from imserver.operate.safety.wire import TEXT_CHARACTERS, Report
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.http import (
    AccountApp,
    Acting,
    Call,
    NextCursor,
    PageCursor,
    Resource,
    about,
    page_and_cursor,
    read_cursor,
    view,
)
from imserver.plugin.identity import GOCHAT, Needs
from imserver.plugin.messages import Entry
from imserver.plugin.wire import Limit, id_of

LONGEST: Final = 366 * 86400
REASON_CHARACTERS: Final = 250

MessageId = Annotated[int, about("The id of a message.", ge=1, le=Limit.ID)]
ActId = Annotated[
    str,
    about(
        "The id of the removal, with which it can be undone.",
        min_length=1,
        max_length=32,
    ),
]
Reason = Annotated[str, about("Why. The user sees it.", max_length=REASON_CHARACTERS)]
GroupId = Annotated[str, about("The id of a group.", pattern="^[1-9][0-9]{0,18}$")]
Names = Annotated[
    dict[str, str],
    about(
        "User → nickname or else user name, of those in this answer who have an account."
    ),
]
GroupNames = Annotated[
    dict[str, str],
    about("Conversation → name, of those in this answer that are groups."),
]
Since = Annotated[
    int,
    about(
        "Only messages that were sent at or after this time, in Unix seconds; 0: all.",
        ge=0,
        le=2**40,
    ),
]
Until = Annotated[
    int,
    about(
        "Only messages that were sent before this time, in Unix seconds; 0: until now.",
        ge=0,
        le=2**40,
    ),
]


class ReportSent(Struct):
    """The report. Reports of the same message are one."""

    report: ReportId


class ReasonsAnswer(Struct):
    """The reasons of the app, and whether the user moderates it."""

    reasons: list[ReportReason]
    moderates: Annotated[
        bool, about("Whether the acting user is a moderator or an owner of the app.")
    ] = False
    open: Annotated[
        int, about("How many reports are open; only who moderates the app sees it.")
    ] = 0


class ReportsAnswer(Struct):
    """A page of reports, the one that changed last first."""

    reports: list[ReportShown]
    next: NextCursor
    names: Names
    groups: GroupNames


class ReportedMessage(Struct, kw_only=True, omit_defaults=True):
    """A message as moderators see it."""

    id: MessageId
    sender: Annotated[str, about("The user who has sent it.")]
    time: Annotated[int, about("When it was sent, in Unix milliseconds.")]
    type: Annotated[str, about("Its type.")] = ""
    text: Annotated[str | UnsetType, about("Its text.")] = UNSET
    data: Annotated[Any, about("Its content, if that is JSON.")] = UNSET
    removed: Annotated[bool, about("Whether it was removed or recalled.")] = False


class ReportDetail(ReportShown, kw_only=True):
    """A report, its reporters, and the message with a few around it."""

    people: Annotated[list[ReporterShown], about("Its reporters, at most 50.")]
    messages: Annotated[
        list[ReportedMessage],
        about(
            "The message with at most five before and five after it, as a reporter sees them."
        ),
    ]
    names: Names
    groups: GroupNames
    ban: Annotated[
        str, about("Until when the user is banned, and why; empty: they are not.")
    ] = ""
    holds: Annotated[
        list[UserHold],
        about("The ban and the mute of the user, as far as they hold now."),
    ]


class ReportClosed(Struct):
    """The closed report."""

    id: ReportId


class MessagesToRemove(Struct, forbid_unknown_fields=True, kw_only=True):
    """Messages, and why they go."""

    app: AccountApp = GOCHAT
    messages: Annotated[
        list[MessageId],
        about("Ids of messages.", min_length=1, max_length=MOST_MESSAGES),
    ]
    reason: Reason = ""


class OfUser(Struct, forbid_unknown_fields=True, kw_only=True):
    """A user."""

    app: AccountApp = GOCHAT
    user: User


class RemoveRequest(OfUser, kw_only=True):
    """A member of a group, and why they go."""

    group: GroupId
    reason: Reason = ""


class CountQuery(OfUser, kw_only=True):
    """A user, and a time."""

    since: Since = 0
    until: Until = 0


class CountAnswer(Struct):
    """The number of messages by conversation, without texts."""

    count: Annotated[int, about("In all conversations together.")]
    conversations: Annotated[
        list[ConversationCount], about("At most 1,000, those with most messages first.")
    ]


class HoldsAnswer(Struct):
    """A page of bans and mutes, in the order of users."""

    holds: list[UserHold]
    next: NextCursor
    names: Names


class RemovalAnswer(Struct):
    """The removal of messages."""

    act: ActId
    messages: Annotated[int, about("How many messages are removed so far.")]
    done: Annotated[bool, about("Whether that is all; else the server goes on.")]
    until: Annotated[
        int,
        about(
            "Until when it can be undone, in Unix seconds; 0: until somebody decides."
        ),
    ]


class UndoAnswer(Struct):
    """The messages that are still to come back; the server goes on."""

    act: ActId
    messages: Annotated[int, about("How many messages are still to come back.")]
    done: bool


class UserAnswer(Struct):
    """The user."""

    user: User


class MuteAnswer(UserAnswer):
    """The user, and the end of the mute."""

    until: Annotated[int, about("The end of the mute, in Unix seconds.")]


class BanUserAnswer(UserAnswer):
    """The user, the end of the ban, and the sessions that it has ended."""

    until: Annotated[
        int | None, about("The end of the ban, in Unix seconds; null: it is for good.")
    ]
    closed: Annotated[int, about("The number of ended sessions.")]


HouseRulesText = Annotated[
    str, about("The text; empty: there are none.", max_length=house_rules.CHARACTERS)
]


class RulesOfHouse(Struct):
    """The house rules of an app."""

    text: HouseRulesText


_PAGE_ROWS: Final = 50
_MOST_COUNTS: Final = 1000
"""How many conversations a count shows."""
_SECOND_MS: Final = 1000
_PROTECTED: Final = (Problems.ROLE_TOO_LOW,)
_OF_USER: Final = (*_PROTECTED, Problems.UNKNOWN_ACCOUNT)

reports = Resource(
    "reports",
    service=lambda core, _: core.service(SafetyParts),
    base=Acting,
    chapter="Messages and people that users report, and the queue of reports for moderators.",
    hot=False,
)
moderation = Resource(
    "moderation",
    service=lambda core, _: core.service(SafetyParts),
    chapter="What moderators do: remove messages, warn, mute, remove and ban people.",
    hot=False,
    need=Needs.MODERATE,
)


@reports.post(
    "/reports/send",
    Needs.ADMIN_OR_USER,
    schema=("ReportSend", "A message or a user, and why it is reported."),
    status=201,
    problems=(
        Problems.UNKNOWN_MESSAGE,
        Problems.UNKNOWN_ACCOUNT,
        HTTP_TOO_MANY_REPORTS,
    ),
)
def send(
    parts: SafetyParts,
    call: Call,
    *,
    message: Annotated[
        int, about("The message; 0: a user is reported.", ge=0, le=Limit.ID)
    ] = 0,
    person: Annotated[
        str, about("The user who is reported; empty: a message is.", max_length=255)
    ] = "",
    reason: ReportReason,
    text: Annotated[
        str,
        about(
            "What the reporter adds. Moderators read it.", max_length=TEXT_CHARACTERS
        ),
    ] = "",
) -> ReportSent:
    """Report a message or a user to the moderators.

    A user reports only messages that they can read. Who is reported does not
    learn by whom.
    """
    report = Report(message, person, reason, text)
    return ReportSent(
        parts.reports.send(call.app, call.user, report, not call.is_back_end)
    )


@reports.get("/reports/reasons", Needs.ADMIN_OR_USER, user="optional")
def reasons(parts: SafetyParts, call: Call, request: Acting) -> ReasonsAnswer:
    """List the reasons for which users report, and say whether the user is a
    moderator."""
    choices = parts.reports.reasons_of(call.app)
    moderates = bool(call.user) and parts.moderation.is_moderator(call.app, call.user)
    count = 0
    if moderates:
        count = parts.reports.count_for(call.app, call.user)
    return ReasonsAnswer(choices, moderates, count)


@reports.post(
    "/reports/appeal",
    Needs.ANYONE,
    schema=("Appeal", "What somebody who is banned tells the moderators."),
    base=None,
    status=201,
    problems=(
        Problems.TOKEN_INVALID,
        HTTP_NOT_BANNED,
        HTTP_APPEAL_OPEN,
        HTTP_TOO_MANY_REPORTS,
    ),
)
def appeal(
    parts: SafetyParts,
    call: Call,
    *,
    app: AccountApp = GOCHAT,
    login: Annotated[
        str,
        about(
            "A phone number, an e-mail address or a user name; empty: the token says who it is.",
            max_length=254,
        ),
    ] = "",
    password: Annotated[str, about("The password, with `login`.", max_length=250)] = "",
    text: Annotated[
        str,
        about(
            "Why the ban should end. Moderators read it.",
            min_length=1,
            max_length=TEXT_CHARACTERS,
        ),
    ],
) -> ReportSent:
    """Ask the moderators to lift a ban.

    For an account that is banned or locked, which no other route lets in. It
    shows its token as `Authorization: Bearer`, or its login and password. The
    appeal is a report; a user has one open one.
    """
    if parts.banned is None:
        raise ServiceRefused(problem=Problems.NOT_IMPLEMENTED)
    parts.reports.check_appeals(call.app, call.request.host)
    call.user = parts.banned(
        call.app, Proof(call.credential, login, password, call.request.host)
    )
    return ReportSent(parts.reports.appeal(call.app, call.user, text))


@reports.get("/reports", Needs.MODERATE, base=None)
def queue(
    parts: SafetyParts,
    call: Call,
    app: AccountApp = GOCHAT,
    state: Annotated[
        Literal["open", "closed"], about("Open reports, or closed ones.")
    ] = "open",
    cursor: PageCursor = "",
    limit: Annotated[
        int, about("The maximum number of entries on this page.", ge=1, le=200)
    ] = _PAGE_ROWS,
) -> ReportsAnswer:
    """List reports, page by page."""
    before = None
    words = (read_cursor(cursor) or "").split(" ")  # such as "1764600000 1f2e"
    if len(words) == 2 and words[0].isdecimal():
        changed, id = words
        before = (int(changed), id)
    # One row more than the page shows whether another page follows.
    rows = parts.reports.page(call.app, state, before, limit + 1)

    def cursor_of(row: ReportShown) -> str:
        return f"{row.changed} {row.id}"

    page, following = page_and_cursor(rows, limit, cursor_of)
    names = parts.reports.names(call.app, [row.user for row in page])
    groups = parts.reports.groups(call.app, [row.conversation for row in page])
    return ReportsAnswer(list(page), following, names, groups)


@reports.get(
    "/reports/show", Needs.MODERATE, base=None, problems=(HTTP_UNKNOWN_REPORT,)
)
def show(
    parts: SafetyParts, call: Call, *, app: AccountApp = GOCHAT, id: ReportId
) -> ReportDetail:
    """Show a report, the reported message, and a few messages around it.

    Messages of private conversations are shown nowhere else.
    """
    context = parts.reports.show(call.app, id)
    report = context.report
    messages = []
    for entry in context.messages:
        copy = context.copies.get(entry.id)
        if copy is None:
            messages.append(_message(entry))
        else:
            messages.append(_message(copy, removed=True))
    holds = parts.moderation.holds(call.app, [report.user])
    _, _, closer = report.closed_by.rpartition("/")  # staff:APP/USER
    users = [report.user, closer]
    users += (each.user for each in context.reporters)
    users += (each.sender for each in messages)
    return view(
        ReportDetail,
        report,
        people=context.reporters,
        messages=messages,
        names=_names_of(parts, call.app, users, holds),
        groups=parts.reports.groups(call.app, [report.conversation]),
        ban=parts.moderation.ban_of(call.app, report.user),
        holds=holds,
    )


@reports.post(
    "/reports/close",
    Needs.MODERATE,
    schema=("ReportClose", "A report, and what was done."),
    base=None,
    problems=(HTTP_UNKNOWN_REPORT,),
)
def close(
    parts: SafetyParts,
    call: Call,
    *,
    app: AccountApp = GOCHAT,
    id: ReportId,
    outcome: Annotated[Outcome, about("What was done.")],
    note: Annotated[str, about("For other moderators.", max_length=500)] = "",
) -> ReportClosed:
    """Close a report, and say what was done.

    A later report of the same message opens a new one.
    """
    parts.reports.close(call.app, id, call.principal.label, outcome, note)
    return ReportClosed(id)


@moderation.post("/moderation/delete", problems=(Problems.UNKNOWN_MESSAGE, *_PROTECTED))
def delete(parts: SafetyParts, call: Call, request: MessagesToRemove) -> RemovalAnswer:
    """Delete messages for everybody.

    They disappear at once. Within a minute the removal can be undone; then
    their content is erased.
    """
    return _removed(parts, call, request, undecided=False)


@moderation.post("/moderation/hide", problems=(Problems.UNKNOWN_MESSAGE, *_PROTECTED))
def hide(parts: SafetyParts, call: Call, request: MessagesToRemove) -> RemovalAnswer:
    """Hide messages from everybody until somebody decides.

    `moderation/undo` shows them again, `moderation/delete` deletes them.
    """
    return _removed(parts, call, request, undecided=True)


@moderation.get("/moderation/count")
def count(parts: SafetyParts, call: Call, request: CountQuery) -> CountAnswer:
    """Count the messages of a user in a time, by conversation, without
    texts."""
    counts = parts.moderation.count(
        call.principal,
        call.app,
        request.user,
        since=request.since * _SECOND_MS,
        until=request.until * _SECOND_MS,
    )
    total = sum(each.messages for each in counts)
    return CountAnswer(total, counts[:_MOST_COUNTS])


@moderation.post(
    "/moderation/clear",
    schema=("ClearRequest", "A user, a time, and why the messages go."),
    base=CountQuery,
    problems=_PROTECTED,
)
def clear(
    parts: SafetyParts,
    call: Call,
    since: Since,
    until: Until,
    user: User,
    reason: Reason = "",
) -> RemovalAnswer:
    """Delete all messages of a user in a time, in all conversations.

    They disappear at once. Within a minute the removal can be undone; then
    their content is erased.
    """
    removal = parts.moderation.clear(
        call.principal,
        call.app,
        user,
        since=since * _SECOND_MS,
        until=until * _SECOND_MS,
        reason=reason,
    )
    done = parts.removals.wait(removal, WAIT_SECONDS)
    count = parts.removals.count(call.app, removal.id)
    return RemovalAnswer(removal.id, count, done, removal.ends)


@moderation.post(
    "/moderation/undo",
    schema=("UndoRequest", "A removal of messages."),
    problems=(HTTP_UNKNOWN_ACT,),
)
def undo(
    parts: SafetyParts, call: Call, *, app: AccountApp = GOCHAT, act: ActId
) -> UndoAnswer:
    """Bring back the messages of a removal, for everybody."""
    removal = parts.moderation.undo(call.principal, call.app, act)
    done = parts.removals.wait(removal, WAIT_SECONDS)
    return UndoAnswer(act, parts.removals.count(call.app, act), done)


@moderation.post(
    "/moderation/warn",
    schema=("WarnRequest", "A user, and what the server tells them."),
    base=OfUser,
    problems=_OF_USER,
)
def warn(
    parts: SafetyParts,
    call: Call,
    user: User,
    reason: Annotated[
        str, about("Why. The user sees it.", min_length=1, max_length=REASON_CHARACTERS)
    ],
) -> UserAnswer:
    """Warn a user by a message of the server."""
    parts.moderation.warn(call.principal, call.app, user, reason)
    return UserAnswer(user)


@moderation.post(
    "/moderation/mute",
    schema=("MuteRequest", "A user, for how long they send nothing, and why."),
    base=OfUser,
    problems=_OF_USER,
)
def mute(
    parts: SafetyParts,
    call: Call,
    user: User,
    seconds: Annotated[int, about("For how long, at most a year.", ge=1, le=LONGEST)],
    reason: Reason = "",
) -> MuteAnswer:
    """Mute a user in the whole app for a time.

    What they send is refused, in every dialect, with the end and the reason. A
    later mute replaces an earlier one.
    """
    until = parts.moderation.mute(call.principal, call.app, user, seconds, reason)
    return MuteAnswer(user, until)


@moderation.post("/moderation/unmute", problems=_PROTECTED)
def unmute(parts: SafetyParts, call: Call, request: OfUser) -> UserAnswer:
    """Let a muted user send again."""
    parts.moderation.unmute(call.principal, call.app, request.user)
    return UserAnswer(request.user)


@moderation.post(
    "/moderation/remove", problems=(*_PROTECTED, Problems.UNKNOWN_CONVERSATION)
)
def remove(parts: SafetyParts, call: Call, request: RemoveRequest) -> UserAnswer:
    """Remove a user from a group and from its invitation links.

    They come back only if the owner or an admin of the group adds them or sends
    them an invitation.
    """
    if parts.remove is None:
        raise ServiceRefused(problem=Problems.NOT_IMPLEMENTED)
    group = id_of(request.group)
    parts.moderation.check(call.principal, call.app, request.user)
    parts.remove(call.app, group, request.user)
    parts.moderation.removed_from_group(
        call.principal, call.app, request.user, group, request.reason
    )
    return UserAnswer(request.user)


@moderation.post(
    "/moderation/ban",
    schema=("BanUserRequest", "A user, for how long they do not log in, and why."),
    base=OfUser,
    problems=_OF_USER,
)
def ban(
    parts: SafetyParts,
    call: Call,
    user: User,
    seconds: Annotated[
        int, about("For how long, at most a year; 0: for good.", ge=0, le=LONGEST)
    ],
    reason: Reason = "",
) -> BanUserAnswer:
    """Ban a user: end their sessions and refuse their logins, for a time or for
    good.

    The close reason says until when and why.
    """
    closed = parts.moderation.ban(call.principal, call.app, user, seconds, reason)
    until = None
    if seconds:
        until = int(time()) + seconds
    return BanUserAnswer(user, until, closed)


@moderation.post("/moderation/unban", problems=(*_PROTECTED, Problems.TO_BE_ERASED))
def unban(parts: SafetyParts, call: Call, request: OfUser) -> UserAnswer:
    """Let a banned user log in again."""
    parts.moderation.unban(call.principal, call.app, request.user)
    return UserAnswer(request.user)


@moderation.get("/moderation/holds", base=None)
def holds(
    parts: SafetyParts,
    call: Call,
    app: AccountApp = GOCHAT,
    users: Annotated[
        str,
        about(
            "Only those of these users, separated by commas; empty: of all.",
            max_length=8000,
        ),
    ] = "",
    cursor: PageCursor = "",
    limit: Annotated[
        int, about("The maximum number of users on this page.", ge=1, le=200)
    ] = _PAGE_ROWS,
) -> HoldsAnswer:
    """List who is banned or muted now in the whole app, until when, why and by
    whom.

    An account that is locked is listed only if it is muted, too: its lock is no
    ban.
    """
    after = read_cursor(cursor) or ""
    if users:
        # The id of a user may have a comma, so the whole text may be one id.
        named = {users, *users.split(",")}
        ids = sorted(user for user in named if user > after)[: limit + 1]
    else:
        ids = parts.moderation.users_with_holds(call.app, after, limit + 1)
    page, following = page_and_cursor(ids, limit, str)
    holds = parts.moderation.holds(call.app, page)
    return HoldsAnswer(holds, following, _names_of(parts, call.app, page, holds))


@moderation.get("/moderation/rules", Needs.ANYONE, base=None)
def show_rules(
    parts: SafetyParts, call: Call, app: AccountApp = GOCHAT
) -> RulesOfHouse:
    """Show the house rules of an app, also to those who think about coming
    in."""
    return RulesOfHouse(parts.house_rules.of(call.app))


@moderation.post(
    "/moderation/rules", Needs.OWN, schema=("RulesSet", "New house rules."), base=None
)
def set_rules(
    parts: SafetyParts, call: Call, *, app: AccountApp = GOCHAT, text: HouseRulesText
) -> RulesOfHouse:
    """Replace the house rules of an app.

    Whoever comes by an invitation sees them before they come in, and everybody
    in the settings of the page.
    """
    parts.house_rules.set(call.app, text.strip())
    return RulesOfHouse(text.strip())


def _removed(
    parts: SafetyParts, call: Call, request: MessagesToRemove, undecided: bool
) -> RemovalAnswer:
    """Remove messages for a request, and note for the audit log whose they
    were. ``undecided``: they stay hidden until a moderator decides."""
    removal = parts.moderation.remove_messages(
        call.principal, call.app, request.messages, request.reason, undecided
    )
    call.user = removal.user
    call.facts = {
        "act": removal.id,
        "messages": request.messages,
        "reason": request.reason,
    }
    count = parts.removals.count(call.app, removal.id)
    return RemovalAnswer(removal.id, count, done=True, until=removal.ends)


def _names_of(
    parts: SafetyParts, app: str, users: Iterable[str], holds: Iterable[UserHold]
) -> dict[str, str]:
    """User → name, for these users and for the accounts in ``holds`` that have
    banned or muted somebody."""
    makers = [hold.by.rpartition("/")[2] for hold in holds]
    return parts.reports.names(app, [*users, *makers])


def _message(entry: Entry, removed: bool = False) -> ReportedMessage:
    """A message for the answer to moderators. A recalled message has no
    content. ``removed``: ``entry`` is the copy of a removed message."""
    message = ReportedMessage(
        id=entry.id,
        sender=entry.sender,
        time=entry.time_ms,
        type="",
        removed=removed or entry.kind == "recall",
    )
    if entry.kind != "message":
        return message
    view = entry.view()
    message.type = view.type
    if view.text is not None:
        message.text = view.text
    if isinstance(view.data, Raw):
        message.data = view.data
    return message
