"""Scheduled messages and reminders over ``/api/v1``."""

from collections.abc import Sequence
from secrets import token_hex
from typing import Annotated, Any, Final

from msgspec import UNSET, Raw, Struct, UnsetType, field
from msgspec.structs import replace

from imserver.messenger.later.declared import (
    HTTP_ALREADY_SENT,
    HTTP_TOO_MANY_SCHEDULED,
    HTTP_UNKNOWN_SCHEDULED,
    MOST_SECONDS,
)
from imserver.messenger.later.rows import ScheduledMessage, When, content_of
from imserver.messenger.later.service import ScheduledMessages
from imserver.messenger.log.meta import MessageMeta, with_other_text
from imserver.plugin.errors import Problems
from imserver.plugin.http import Acting, Api, ApiProblem, Call, Resource, about, view
from imserver.plugin.identity import Needs
from imserver.plugin.messages import Message, MessageApi, MessageLog, SendRequest
from imserver.plugin.services import Core
from imserver.plugin.wire import Limit

ScheduledId = Annotated[
    str,
    about(
        "The id of the scheduled message: its `client_msg_id`.",
        min_length=1,
        max_length=Limit.CLIENT_MSG_ID_BYTES,
    ),
]
At = Annotated[
    int,
    about(
        "The time of sending, in Unix milliseconds. If the time is past, the server "
        "sends the message at once.",
        ge=1,
        le=Limit.TIME_MS,
    ),
]
Seconds = Annotated[
    int,
    about(
        "The number of seconds until the message is sent, by the clock of the server; "
        "0: at once.",
        ge=0,
        le=MOST_SECONDS,
    ),
]
Awaits = Annotated[
    bool,
    about(
        "Whether to send the message when `to` comes online, at the latest in one "
        "year. This requires that the user may see the presence of `to`."
    ),
]


class ScheduleRequest(SendRequest, kw_only=True):
    """A message with the fields of `/messages/send`, and one of `at`, `seconds`
    and `awaits`."""

    at: At | UnsetType = UNSET
    seconds: Seconds | UnsetType = UNSET
    awaits: Awaits = False


class RescheduleRequest(Acting, kw_only=True):
    """A scheduled message and its changes: `text` with `mentions`, or one of
    `at`, `seconds` and `awaits`, or both."""

    id: ScheduledId
    text: (
        Annotated[
            str, about("The new text. Only a message with a text can have a new text.")
        ]
        | UnsetType
    ) = UNSET
    mentions: Annotated[
        list[str], about("Mentioned users of the new text.", max_length=Limit.MENTIONS)
    ] = field(default_factory=list)
    at: At | UnsetType = UNSET
    seconds: Seconds | UnsetType = UNSET
    awaits: Awaits = False


class ScheduledShown(Struct, kw_only=True, omit_defaults=True):
    """A scheduled message. A reminder of the user has the field `reminds`."""

    id: ScheduledId
    version: Annotated[int, about("A number that increases with each change.")]
    due: Annotated[
        int,
        about(
            "The time of sending, in Unix milliseconds. With `awaits`, this is the "
            "latest time."
        ),
    ]
    awaits: Annotated[
        bool, about("Whether the message is sent when `to` comes online.")
    ] = False
    reason: Annotated[
        str,
        about(
            "The reason why the message was refused when it was due, such as "
            "`not_member` or `blocked`. The message is scheduled again once you "
            "change it. `quota`: the message waits because the app has used up its "
            "messages of today."
        ),
    ] = ""
    to: Annotated[str, about("The receiver.")] = ""
    conversation: Annotated[
        int, about("The conversation, if the message has no `to`.")
    ] = 0
    reminds: Annotated[int, about("The message of which it reminds the user.")] = 0
    type: Annotated[str, about("The type of the content.")]
    text: Annotated[str, about("The text, if the type is `text`.")] | UnsetType = UNSET
    data: (
        Annotated[Raw, about("The content of other types, if it is JSON.")] | UnsetType
    ) = UNSET
    mentions: Annotated[list[str], about("Mentioned users.")] = []
    reply_to: Annotated[int, about("The message to which this message replies.")] = 0
    thread: Annotated[
        int, about("The first message of the thread in which this message is a reply.")
    ] = 0


class ScheduledAnswer(Struct):
    """All scheduled messages of the user, in the order in which they are
    due."""

    scheduled: list[ScheduledShown]
    now: Annotated[int, about("The time of the server, in Unix milliseconds.")]


class CancelAnswer(Struct):
    """Done."""

    cancelled: Annotated[bool, about("Always true: the message will never be sent.")]


class LaterApi(Struct, frozen=True):
    """The services that the routes use."""

    core: Core
    messages: MessageApi
    later: ScheduledMessages


def _show(row: ScheduledMessage) -> ScheduledShown:
    """Return a scheduled message in the shape of the answer, for its author.

    A text is shown as ``text``, and JSON as ``data``. Other content is not
    shown.
    """
    mentions = list(MessageMeta.of(row.meta).mentions)
    # The content is shown like messages of the log. The ids do not matter.
    content = Message(
        id=0,
        conversation=0,
        seq=0,
        sender=row.member,
        type=row.type,
        body=row.body,
    ).view()
    text: str | UnsetType = UNSET
    if content.text is not None:
        text = content.text
    data: Raw | UnsetType = UNSET
    if content.data is not None:
        data = content.data
    return view(
        ScheduledShown,
        row,
        to=row.to_user,
        mentions=mentions,
        reply_to=row.about,
        text=text,
        data=data,
    )


_OF_ONE: Final = (HTTP_UNKNOWN_SCHEDULED, HTTP_ALREADY_SENT)

_ID_BYTES: Final = 16
"""The length of the ids that the server chooses, in bytes."""


def _services(core: Core, api: Api) -> LaterApi:
    """Make the services of the routes."""
    return LaterApi(core, MessageApi.of(core, api), core.service(ScheduledMessages))


routes = Resource(
    "scheduled",
    service=_services,
    base=Acting,
    chapter="Messages that are sent later, and reminders.",
    hot=False,
    need=Needs.ADMIN_OR_MEMBER,
    act="",
)


@routes.get("/scheduled")
def scheduled(api: LaterApi, call: Call) -> ScheduledAnswer:
    """List the scheduled messages and reminders of a user.

    A message that was refused when it was due stays in the list until it is
    changed or cancelled. With each change, the user's sessions receive a signal
    `scheduled`. Then list the messages again.
    """
    rows, now = api.later.rows.of_user(call.app, call.user)
    return ScheduledAnswer(list(map(_show, rows)), now)


@routes.post(
    "/scheduled/create",
    voice=True,
    problems=(
        Problems.UNKNOWN_CONVERSATION,
        Problems.UNKNOWN_MESSAGE,
        Problems.STORE_UNAVAILABLE,
        HTTP_TOO_MANY_SCHEDULED,
    ),
)
def create(api: LaterApi, call: Call, request: ScheduleRequest) -> ScheduledShown:
    """Send a message later.

    The server sends the message once, with the rights of the user at that time.
    If the user may then not write in the conversation, the server refuses the
    message. The content of a `forward` is copied now. A repeated request with
    the same `client_msg_id` schedules nothing more. A user has at most 200
    scheduled messages.
    """
    draft = api.messages.draft(call, request)
    when = _when(request.at, request.seconds, request.awaits)
    if when is None:
        raise ApiProblem.invalid("Give one of `at`, `seconds` and `awaits`")
    if draft.conversation:
        _require_member(api, call, draft.conversation)
    id = draft.client_msg_id or token_hex(_ID_BYTES)
    row = ScheduledMessage(app=call.app, member=call.user, id=id, **content_of(draft))
    return _add(api, call, row, when)


def _require_member(api: LaterApi, call: Call, conversation: int) -> None:
    """Raise ApiProblem unless the acting user is in the conversation."""
    conversations = api.core.store.part(MessageLog).conversations
    if conversations.member(call.app, conversation, call.user) is None:
        raise ApiProblem(Problems.UNKNOWN_CONVERSATION)


@routes.post(
    "/scheduled/remind",
    schema=(
        "RemindRequest",
        "A message that the user can read, and one of `at` and `seconds`.",
    ),
    problems=(Problems.UNKNOWN_MESSAGE, HTTP_TOO_MANY_SCHEDULED),
)
def remind(
    api: LaterApi,
    call: Call,
    message: Annotated[int, about("The message.", ge=1, le=Limit.ID)],
    at: At | UnsetType = UNSET,
    seconds: Seconds | UnsetType = UNSET,
    client_msg_id: Annotated[
        str, about("Your own id of the reminder.", max_length=Limit.CLIENT_MSG_ID_BYTES)
    ] = "",
) -> ScheduledShown:
    """Remind a user of a message.

    The reminder is a copy of the message as it is at the time of sending. It
    appears in the user's conversation with themselves. The reminder comes from
    the server, so it is unread. `meta.reminder` names the message.
    """
    when = _when(at, seconds, awaits=False)
    if when is None:
        raise ApiProblem.invalid("Give one of `at` and `seconds`")
    _require_readable(api, call, message)
    # The draft checks the fields, and whether the user may write to themselves.
    request = SendRequest(to=call.user, text=" ", client_msg_id=client_msg_id)
    draft = api.messages.draft(call, request)
    row = ScheduledMessage(
        app=call.app,
        member=call.user,
        id=client_msg_id or token_hex(_ID_BYTES),
        to_user=draft.to_user,
        reminds=message,
    )
    return _add(api, call, row, when)


@routes.post(
    "/scheduled/change",
    voice=True,
    problems=(Problems.UNKNOWN_MESSAGE, *_OF_ONE),
)
def change(api: LaterApi, call: Call, request: RescheduleRequest) -> ScheduledShown:
    """Change a scheduled message: its text, its time, or both.

    To send the message at once, set `seconds` to 0. A refused message is
    scheduled again when you change it.
    """
    when = _when(request.at, request.seconds, request.awaits)
    if when is None and request.text is UNSET:
        raise ApiProblem.invalid("Give `text`, or one of `at`, `seconds` and `awaits`")
    _count_change(api, call)
    # If another request changes the message after it was read, it is read and
    # changed again.
    row = _try_change(api, call, request, when)
    while row is None:
        row = _try_change(api, call, request, when)
    api.later.changed(row)
    return _show(row)


def _try_change(
    api: LaterApi, call: Call, request: RescheduleRequest, when: When | None
) -> ScheduledMessage | None:
    """Read a scheduled message, and store it with its changes.

    Returns None if another request has changed it meanwhile. Raises ApiProblem.
    """
    before = api.later.rows.get(call.app, call.user, request.id)
    if before is None:
        raise _problem_of_missing(api, call, request.id)
    if when is not None and when.awaits:
        _require_presence(api, call, before)
    after = before
    if request.text is not UNSET:
        after = _with_text(api, call, before, request.text, request.mentions)
    return api.later.rows.change(before, after, when)


def _with_text(
    api: LaterApi,
    call: Call,
    row: ScheduledMessage,
    text: str,
    mentions: list[str],
) -> ScheduledMessage:
    """Return the message with another text, which is checked like a new
    message.

    Raises ApiProblem if the text is refused, or if the message has no text.
    """
    if row.type != "text" or row.reminds:
        raise ApiProblem.invalid("`text`: the message has none")
    request = SendRequest(
        to=row.to_user, conversation=row.conversation, text=text, mentions=mentions
    )
    draft = api.messages.draft(call, request)
    # With another text, the message is the user's own, and no longer a
    # forwarded message.
    meta = with_other_text(row.meta, draft.meta)
    return replace(row, body=draft.body, meta=meta)


@routes.post(
    "/scheduled/cancel",
    schema=("CancelScheduledRequest", "A scheduled message."),
    problems=_OF_ONE,
)
def cancel(api: LaterApi, call: Call, id: ScheduledId) -> CancelAnswer:
    """Cancel a scheduled message or reminder.

    If the answer is not an error, the message is never sent. If the message was
    sent before, the answer is an error that says so.
    """
    _count_change(api, call)
    if not api.later.cancel(call.app, call.user, id):
        raise _problem_of_missing(api, call, id)
    return CancelAnswer(cancelled=True)


def _add(
    api: LaterApi, call: Call, row: ScheduledMessage, when: When
) -> ScheduledShown:
    """Schedule a message, and return the answer.

    If it awaits a receiver who is online, it is sent at once. Raises
    ApiProblem, TooManyRequests and ServiceRefused.
    """
    if when.awaits:
        _require_presence(api, call, row)
    _count_change(api, call)
    row = api.later.add(row, when)
    if row.awaits and api.core.presence.is_online([call.app], row.to_user):
        # The result is empty if the message was changed or deleted meanwhile.
        for due_row in api.later.rows.come([row]):
            row = due_row
            api.later.changed(row)
    return _show(row)


def _require_presence(api: LaterApi, call: Call, row: ScheduledMessage) -> None:
    """Raise ApiProblem if a message would reveal the presence of its receiver.

    A message that awaits its receiver shows its author when the receiver comes
    online. So it is allowed only if the author may see the presence of the
    receiver anyway.
    """
    if not row.to_user or row.to_user == call.user:
        raise ApiProblem.invalid("`awaits`: only a message with another user as `to`")
    if not api.core.relations.may_see_presence(call.app, call.user, row.to_user):
        raise ApiProblem(
            Problems.NOT_ALLOWED, "The user does not show whether they are online"
        )


def _require_readable(api: LaterApi, call: Call, message: int) -> None:
    """Raise ApiProblem unless the user can read the message."""
    entries: Sequence[Any] = ()
    if api.core.store.has_database:
        log = api.core.store.part(MessageLog)
        entries = log.entries.readable(call.app, call.user, [message])
    if not entries or entries[0].kind != "message":
        raise ApiProblem(Problems.UNKNOWN_MESSAGE)


def _count_change(api: LaterApi, call: Call) -> None:
    """Count a change against the user's limit. Back ends have no limit.

    Raises TooManyRequests.
    """
    if not call.is_back_end:
        api.later.changes.require((call.app, call.user))


def _problem_of_missing(api: LaterApi, call: Call, id: str) -> ApiProblem:
    """Return the problem if a user has no scheduled message with this id.

    The message was already sent, or the id is unknown.
    """
    if api.later.was_sent(call.app, call.user, id):
        return ApiProblem(HTTP_ALREADY_SENT)
    return ApiProblem(HTTP_UNKNOWN_SCHEDULED)


def _when(at: int | UnsetType, seconds: int | UnsetType, awaits: bool) -> When | None:
    """Return the time at which a request wants a message to be sent.

    Returns None if the request names no time. Raises ApiProblem if it names
    several times.
    """
    count = [at is not UNSET, seconds is not UNSET, awaits].count(True)
    if count > 1:
        raise ApiProblem.invalid("Give one of `at`, `seconds` and `awaits`")
    if count == 0:
        return None
    return When(at or 0, seconds or 0, awaits)
