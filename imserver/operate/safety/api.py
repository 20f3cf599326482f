"""Reports, and what moderators do."""

from collections.abc import Iterable, Sequence
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
    ReportInContext,
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
        "The id of the removal. You need it to undo the removal.",
        min_length=1,
        max_length=32,
    ),
]
Reason = Annotated[
    str, about("The reason. The user sees it.", max_length=REASON_CHARACTERS)
]
GroupId = Annotated[str, about("The id of a group.", pattern="^[1-9][0-9]{0,18}$")]
Names = Annotated[
    dict[str, str],
    about(
        "User → nickname or else user name, for the users of this answer who have an "
        "account."
    ),
]
GroupNames = Annotated[
    dict[str, str],
    about("Conversation → name, for the conversations of this answer that are groups."),
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
    """The report. Reports of the same message are combined into one report."""

    report: ReportId


class ReasonsAnswer(Struct):
    """The reasons of the app, and whether the user moderates it."""

    reasons: list[ReportReason]
    moderates: Annotated[
        bool, about("Whether the acting user is a moderator or an owner of the app.")
    ] = False
    open: Annotated[
        int, about("The number of open reports. Only moderators of the app see it.")
    ] = 0


class ReportsAnswer(Struct):
    """A page of reports, the most recently changed first."""

    reports: list[ReportShown]
    next: NextCursor
    names: Names
    groups: GroupNames


class ReportedMessage(Struct, kw_only=True, omit_defaults=True):
    """A message as moderators see it."""

    id: MessageId
    sender: Annotated[str, about("The sender of the message.")]
    time: Annotated[int, about("When the message was sent, in Unix milliseconds.")]
    type: Annotated[str, about("The type of the message.")] = ""
    text: Annotated[str | UnsetType, about("The text of the message.")] = UNSET
    data: Annotated[Any, about("The content of the message, if it is JSON.")] = UNSET
    removed: Annotated[bool, about("Whether the message was removed or recalled.")] = (
        False
    )


class ReportDetail(ReportShown, kw_only=True):
    """A report, its reporters, the message, and a few messages around it."""

    people: Annotated[list[ReporterShown], about("The reporters, at most 50.")]
    messages: Annotated[
        list[ReportedMessage],
        about(
            "The message, with at most five messages before and five after it, as a "
            "reporter sees them."
        ),
    ]
    names: Names
    groups: GroupNames
    ban: Annotated[
        str, about("The end of the ban, and the reason; empty: the user is not banned.")
    ] = ""
    holds: Annotated[
        list[UserHold],
        about("The ban and the mute of the user that are in force."),
    ]


class ReportClosed(Struct):
    """The closed report."""

    id: ReportId


class MessagesToRemove(Struct, forbid_unknown_fields=True, kw_only=True):
    """The messages to remove, and the reason."""

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
    """A member of a group, and the reason for the removal."""

    group: GroupId
    reason: Reason = ""


class CountQuery(OfUser, kw_only=True):
    """A user, and a time."""

    since: Since = 0
    until: Until = 0


class CountAnswer(Struct):
    """The number of messages by conversation, without texts."""

    count: Annotated[int, about("The number of messages in all conversations.")]
    conversations: Annotated[
        list[ConversationCount],
        about("At most 1,000 conversations, those with the most messages first."),
    ]


class HoldsAnswer(Struct):
    """A page of bans and mutes, in the order of users."""

    holds: list[UserHold]
    next: NextCursor
    names: Names


class RemovalAnswer(Struct):
    """The removal of messages."""

    act: ActId
    messages: Annotated[int, about("The number of messages that are removed so far.")]
    done: Annotated[
        bool, about("Whether all messages are removed. If not, the server continues.")
    ]
    until: Annotated[
        int,
        about(
            "The time until which you can undo the removal, in Unix seconds; 0: until "
            "a moderator decides."
        ),
    ]


class UndoAnswer(Struct):
    """The number of messages that are still to be restored. The server
    continues by itself."""

    act: ActId
    messages: Annotated[
        int, about("The number of messages that are still to be restored.")
    ]
    done: bool


class UserAnswer(Struct):
    """The user."""

    user: User


class MuteAnswer(UserAnswer):
    """The user, and the end of the mute."""

    until: Annotated[int, about("The end of the mute, in Unix seconds.")]


class BanUserAnswer(UserAnswer):
    """The user, the end of the ban, and the number of sessions that were
    ended."""

    until: Annotated[
        int | None,
        about("The end of the ban, in Unix seconds; null: the ban does not end."),
    ]
    closed: Annotated[int, about("The number of ended sessions.")]


HouseRulesText = Annotated[
    str,
    about(
        "The text of the house rules; empty: the app has none.",
        max_length=house_rules.CHARACTERS,
    ),
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
    chapter="Users report messages and people; moderators get a queue of reports.",
    hot=False,
)
moderation = Resource(
    "moderation",
    service=lambda core, _: core.service(SafetyParts),
    chapter="Moderate an app: remove messages; warn, mute, remove and ban people.",
    hot=False,
    need=Needs.MODERATE,
)


@reports.post(
    "/reports/send",
    Needs.ADMIN_OR_USER,
    schema=("ReportSend", "The message or user to report, and the reason."),
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
        str, about("The user to report; empty: a message is reported.", max_length=255)
    ] = "",
    reason: ReportReason,
    text: Annotated[
        str,
        about(
            "A comment of the reporter. Moderators read it.", max_length=TEXT_CHARACTERS
        ),
    ] = "",
) -> ReportSent:
    """Report a message or a user to the moderators.

    A user can report only messages that they can read. The reported user does
    not learn who has reported them.
    """
    report = Report(message=message, user=person, reason=reason, text=text)
    # A back end reports for many users, so the limit of a user is not for it.
    id = parts.reports.send(call.app, call.user, report, by_user=not call.is_back_end)
    return ReportSent(id)


@reports.get("/reports/reasons", Needs.ADMIN_OR_USER, user="optional")
def reasons(parts: SafetyParts, call: Call, request: Acting) -> ReasonsAnswer:
    """List the reasons for reports, and show whether the user is a
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
    schema=("Appeal", "The appeal of a banned user to the moderators."),
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
            "A phone number, an e-mail address or a user name; empty: the token "
            "identifies the user.",
            max_length=254,
        ),
    ] = "",
    password: Annotated[
        str, about("The password. Only with `login`.", max_length=250)
    ] = "",
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

    For a banned or locked account, which all other routes refuse. Send its
    token as `Authorization: Bearer`, or its login and password. The appeal is a
    report. A user can have one open appeal.
    """
    if parts.banned is None:
        raise ServiceRefused(problem=Problems.NOT_IMPLEMENTED)

    # The proof costs a check of a password, so the address pays first.
    parts.reports.check_appeals(call.app, call.request.host)
    proof = Proof(
        token=call.credential,
        login=login,
        password=password,
        address=call.request.host,
    )
    call.user = parts.banned(call.app, proof)
    return ReportSent(parts.reports.appeal(call.app, call.user, text))


@reports.get("/reports", Needs.MODERATE, base=None)
def queue(
    parts: SafetyParts,
    call: Call,
    app: AccountApp = GOCHAT,
    state: Annotated[
        Literal["open", "closed"],
        about("Whether to list open reports or closed reports."),
    ] = "open",
    cursor: PageCursor = "",
    limit: Annotated[
        int, about("The maximum number of entries on this page.", ge=1, le=200)
    ] = _PAGE_ROWS,
) -> ReportsAnswer:
    """List reports, page by page."""
    # The cursor has the values by which the list is sorted: ``changed`` and
    # ``id``.
    before = _position_in(cursor)
    # One row more than the page shows whether another page follows.
    rows = parts.reports.page(call.app, state, before, limit + 1)
    page, following = page_and_cursor(rows, limit, _cursor_after)
    names = parts.reports.names(call.app, [row.user for row in page])
    groups = parts.reports.groups(call.app, [row.conversation for row in page])
    return ReportsAnswer(list(page), following, names, groups)


def _cursor_after(report: ReportShown) -> str:
    """The cursor of the page that begins after this report."""
    return f"{report.changed} {report.id}"


def _position_in(cursor: str) -> tuple[int, str] | None:
    """Read a cursor of the reports, such as ``1764600000 1f2e``.

    These are the values by which the list is sorted: ``changed`` and ``id`` of
    the last report of the page before. None means the first page.
    """
    words = (read_cursor(cursor) or "").split(" ")
    if len(words) != 2 or not words[0].isdecimal():
        return None
    changed, id = words
    return int(changed), id


@reports.get(
    "/reports/show", Needs.MODERATE, base=None, problems=(HTTP_UNKNOWN_REPORT,)
)
def show(
    parts: SafetyParts, call: Call, *, app: AccountApp = GOCHAT, id: ReportId
) -> ReportDetail:
    """Show a report, the reported message, and a few messages around it.

    No other route shows messages of private conversations to moderators.
    """
    context = parts.reports.show(call.app, id)
    report = context.report
    messages = _messages_of(context)
    holds = parts.moderation.holds(call.app, [report.user])
    return view(
        ReportDetail,
        report,
        people=context.reporters,
        messages=messages,
        names=_names_of(parts, call.app, _users_in(context, messages), holds),
        groups=parts.reports.groups(call.app, [report.conversation]),
        ban=parts.moderation.ban_of(call.app, report.user),
        holds=holds,
    )


def _users_in(
    context: ReportInContext, messages: Sequence[ReportedMessage]
) -> list[str]:
    """The users whom the answer about a report names."""
    report = context.report
    _, _, closer = report.closed_by.rpartition("/")  # staff:APP/USER
    users = [report.user, closer]
    users += (each.user for each in context.reporters)
    users += (each.sender for each in messages)
    return users


@reports.post(
    "/reports/close",
    Needs.MODERATE,
    schema=("ReportClose", "The report to close, and the action taken."),
    base=None,
    problems=(HTTP_UNKNOWN_REPORT,),
)
def close(
    parts: SafetyParts,
    call: Call,
    *,
    app: AccountApp = GOCHAT,
    id: ReportId,
    outcome: Annotated[Outcome, about("The action that was taken.")],
    note: Annotated[str, about("A note for other moderators.", max_length=500)] = "",
) -> ReportClosed:
    """Close a report, and record the action taken.

    If the message is reported again later, a new report is opened.
    """
    parts.reports.close(call.app, id, call.principal.label, outcome, note)
    return ReportClosed(id)


@moderation.post("/moderation/delete", problems=(Problems.UNKNOWN_MESSAGE, *_PROTECTED))
def delete(parts: SafetyParts, call: Call, request: MessagesToRemove) -> RemovalAnswer:
    """Delete messages for everybody.

    The messages disappear at once. You can undo the removal within a minute.
    Then the server erases their content.
    """
    return _removed(parts, call, request, undecided=False)


@moderation.post("/moderation/hide", problems=(Problems.UNKNOWN_MESSAGE, *_PROTECTED))
def hide(parts: SafetyParts, call: Call, request: MessagesToRemove) -> RemovalAnswer:
    """Hide messages from everybody until a moderator decides.

    `moderation/undo` shows the messages again, `moderation/delete` deletes
    them.
    """
    return _removed(parts, call, request, undecided=True)


@moderation.get("/moderation/count")
def count(parts: SafetyParts, call: Call, request: CountQuery) -> CountAnswer:
    """Count the messages of a user in a period, by conversation, without
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
    schema=("ClearRequest", "The user, the period, and the reason for the removal."),
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
    """Delete all messages of a user in a period, in all conversations.

    The messages disappear at once. You can undo the removal within a minute.
    Then the server erases their content.
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
    schema=("UndoRequest", "The removal to undo."),
    problems=(HTTP_UNKNOWN_ACT,),
)
def undo(
    parts: SafetyParts, call: Call, *, app: AccountApp = GOCHAT, act: ActId
) -> UndoAnswer:
    """Restore the messages of a removal, for everybody."""
    removal = parts.moderation.undo(call.principal, call.app, act)
    done = parts.removals.wait(removal, WAIT_SECONDS)
    return UndoAnswer(act, parts.removals.count(call.app, act), done)


@moderation.post(
    "/moderation/warn",
    schema=("WarnRequest", "The user to warn, and the text of the warning."),
    base=OfUser,
    problems=_OF_USER,
)
def warn(
    parts: SafetyParts,
    call: Call,
    user: User,
    reason: Annotated[
        str,
        about(
            "The reason. The user sees it.", min_length=1, max_length=REASON_CHARACTERS
        ),
    ],
) -> UserAnswer:
    """Warn a user with a message from the server."""
    parts.moderation.warn(call.principal, call.app, user, reason)
    return UserAnswer(user)


@moderation.post(
    "/moderation/mute",
    schema=(
        "MuteRequest",
        "The user to mute, the duration of the mute, and the reason.",
    ),
    base=OfUser,
    problems=_OF_USER,
)
def mute(
    parts: SafetyParts,
    call: Call,
    user: User,
    seconds: Annotated[
        int,
        about("The duration of the mute in seconds, at most a year.", ge=1, le=LONGEST),
    ],
    reason: Reason = "",
) -> MuteAnswer:
    """Mute a user in the whole app for a limited time.

    The server refuses all messages of the user in every dialect, and states the
    end and the reason. A later mute replaces an earlier mute.
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

    The user can come back only if the owner or an admin of the group adds or
    invites them.
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
    schema=(
        "BanUserRequest",
        "The user to ban, the duration of the ban, and the reason.",
    ),
    base=OfUser,
    problems=_OF_USER,
)
def ban(
    parts: SafetyParts,
    call: Call,
    user: User,
    seconds: Annotated[
        int,
        about(
            "The duration of the ban in seconds, at most a year; 0: the ban does "
            "not end.",
            ge=0,
            le=LONGEST,
        ),
    ],
    reason: Reason = "",
) -> BanUserAnswer:
    """Ban a user for a limited time or permanently: end the sessions and refuse
    logins.

    The close reason has the end and the reason of the ban.
    """
    closed = parts.moderation.ban(call.principal, call.app, user, seconds, reason)
    # The answer shows about when the ban ends. The sessions know it exactly.
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
            "Only bans and mutes of these users, separated by commas; empty: of all "
            "users.",
            max_length=8000,
        ),
    ] = "",
    cursor: PageCursor = "",
    limit: Annotated[
        int, about("The maximum number of users on this page.", ge=1, le=200)
    ] = _PAGE_ROWS,
) -> HoldsAnswer:
    """List the banned and muted users of the app, with the end, the reason and
    the moderator.

    A lock is no ban. A locked account is listed only if it is also muted.
    """
    after = read_cursor(cursor) or ""
    if users:
        ids = _named_users(users, after)[: limit + 1]
    else:
        ids = parts.moderation.users_with_holds(call.app, after, limit + 1)
    page, following = page_and_cursor(ids, limit, str)
    holds = parts.moderation.holds(call.app, page)
    return HoldsAnswer(holds, following, _names_of(parts, call.app, page, holds))


def _named_users(users: str, after: str) -> list[str]:
    """The users in a list such as ``ann,bob`` that come after ``after``.

    The id of a user may have a comma, so the whole text may be one id.
    """
    named = {users, *users.split(",")}
    return sorted(user for user in named if user > after)


@moderation.get("/moderation/rules", Needs.ANYONE, base=None)
def show_rules(
    parts: SafetyParts, call: Call, app: AccountApp = GOCHAT
) -> RulesOfHouse:
    """Show the house rules of an app, also to invited people who have not
    joined."""
    return RulesOfHouse(parts.house_rules.of(call.app))


@moderation.post(
    "/moderation/rules", Needs.OWN, schema=("RulesSet", "New house rules."), base=None
)
def set_rules(
    parts: SafetyParts, call: Call, *, app: AccountApp = GOCHAT, text: HouseRulesText
) -> RulesOfHouse:
    """Replace the house rules of an app.

    People with an invitation see the rules before they join. Everybody else
    sees the rules in the settings of the page.
    """
    parts.house_rules.set(call.app, text.strip())
    return RulesOfHouse(text.strip())


def _removed(
    parts: SafetyParts, call: Call, request: MessagesToRemove, undecided: bool
) -> RemovalAnswer:
    """Remove messages for a request, and note their senders for the audit log.

    With ``undecided``, the messages stay hidden until a moderator decides.
    """
    removal = parts.moderation.remove_messages(
        call.principal, call.app, request.messages, request.reason, undecided
    )
    # The input names only messages. The audit log also names their sender.
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
    """User → name, for these users and for the moderators in ``holds``.

    A hold names the account of its moderator as ``staff:APP/USER``.
    """
    makers = [hold.by.rpartition("/")[2] for hold in holds]
    return parts.reports.names(app, [*users, *makers])


def _messages_of(context: ReportInContext) -> list[ReportedMessage]:
    """The messages around a reported message, for the answer to moderators."""
    messages = []
    for entry in context.messages:
        # A removed message has no content any more, but its copy has.
        copy = context.copies.get(entry.id)
        if copy is None:
            messages.append(_message(entry))
        else:
            messages.append(_message(copy, removed=True))
    return messages


def _message(entry: Entry, removed: bool = False) -> ReportedMessage:
    """A message for the answer to moderators.

    A recalled message has no content. ``removed`` means that ``entry`` is the
    copy of a removed message.
    """
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
