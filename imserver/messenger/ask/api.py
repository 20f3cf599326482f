"""Questions over ``/api/v1``: ask, wait, answer, cancel, remind, escalate."""

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType, field

from imserver.messenger.ask.declared import HTTP_QUESTION_CLOSED, MOST_WAIT_SECONDS
from imserver.messenger.ask.parts import AskParts
from imserver.messenger.log.meta import AskAnswer, new_question
from imserver.plugin.errors import Problems
from imserver.plugin.http import Acting, Api, ApiProblem, Call, Resource, about, one_of
from imserver.plugin.identity import Needs
from imserver.plugin.messages import (
    Ask,
    Entry,
    MessageApi,
    MessageLog,
    MessageServices,
    Rejected,
    RejectReason,
    SendRequest,
)
from imserver.plugin.services import Core
from imserver.plugin.settings import MAX_USER_BYTES
from imserver.plugin.wire import Limit

AskId = Annotated[
    int, about("The id of the message with the question.", ge=1, le=Limit.ID)
]
Value = Annotated[
    str,
    about(
        "The value of an option: 1 to 64 bytes of UTF-8.",
        min_length=1,
        max_length=Limit.BUTTON,
    ),
]
FreeText = Annotated[
    str,
    about(
        "A free text, if the question allows it.",
        min_length=1,
        max_length=Limit.ANSWER_CHARACTERS,
    ),
]
Choice = Annotated[
    int, about("An option, by its index from 0.", ge=0, lt=Ask.Poll.MOST_OPTIONS)
]
Users = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=MAX_USER_BYTES)]],
    about("Users who may answer.", max_length=Limit.ANSWERERS),
]


class OptionShape(Struct, forbid_unknown_fields=True):
    """An answer that users can choose."""

    text: Annotated[
        str, about("The text that clients show.", min_length=1, max_length=Limit.BUTTON)
    ]
    value: Value


class AskRequest(Acting, kw_only=True):
    """A question. Give either `to` or `conversation`, and `options`,
    `free_text`, or both."""

    to: Annotated[
        str, about("The receiver, who may be offline.", max_length=MAX_USER_BYTES)
    ] = ""
    conversation: Annotated[
        int, about("A conversation or group, instead of `to`.", ge=0, le=Limit.ID)
    ] = 0
    text: Annotated[str, about("The question.", min_length=1)]
    options: Annotated[
        list[OptionShape],
        about(
            "The answers to choose from, each with a different value: at most 8, or 2 "
            "to 12 in a poll.",
            max_length=Ask.Poll.MOST_OPTIONS,
        ),
    ] = field(default_factory=list)
    poll: Annotated[
        bool,
        about(
            "Whether the question is a poll. Everybody who can read a poll may vote "
            "for an option, and may change the vote until the poll is closed. A poll "
            "cannot have `free_text`, `of` and `need`."
        ),
    ] = False
    many: Annotated[
        bool, about("Whether a user may vote for several options of the poll.")
    ] = False
    anonymous: Annotated[
        bool, about("Whether the votes of the poll are anonymous.")
    ] = False
    free_text: Annotated[
        bool,
        about("Whether users may also answer with a text of up to 1,000 characters."),
    ] = False
    of: (
        Annotated[
            Users,
            about(
                "The members of the group who may answer. By default, everybody who "
                "can read the question may answer, except the author."
            ),
        ]
        | UnsetType
    ) = UNSET
    need: Annotated[
        int,
        about(
            "The number of different users who must answer before the question is "
            "closed.",
            ge=1,
            le=Limit.ANSWERS,
        ),
    ] = 1
    seconds: Annotated[
        int,
        about(
            "The number of seconds until the deadline, at most 30 days; 0: no "
            "deadline.",
            ge=0,
            le=Limit.QUESTION_SECONDS,
        ),
    ] = 0
    fixed: Annotated[
        bool,
        about(
            "Whether the text can never be edited. Use this for questions whose "
            "answer permits exactly what the text says."
        ),
    ] = False
    thread: Annotated[
        int,
        about(
            "A message of the conversation. The new message is a reply in its thread.",
            ge=0,
            le=Limit.ID,
        ),
    ] = 0
    also: Annotated[bool, about("Whether the conversation also shows the reply.")] = (
        False
    )
    client_msg_id: Annotated[
        str,
        about(
            "Your own id of the message. The server does not store a repeated request "
            "of the user with the same id again.",
            max_length=Limit.CLIENT_MSG_ID_BYTES,
        ),
    ] = ""


class OfAsk(Acting, kw_only=True):
    """A question. A back end that names no `user` may change any question."""

    id: AskId


class AskShown(Struct, kw_only=True):
    """The current state of a question."""

    id: AskId
    conversation: Annotated[int, about("The conversation of the question.")]
    user: Annotated[str, about("The user who asked; empty: a back end.")]
    text: Annotated[str, about("The question.")]
    options: Annotated[list[OptionShape], about("The answers to choose from.")]
    free_text: Annotated[bool, about("Whether users may also answer with a text.")]
    of: (
        Annotated[
            list[str],
            about("The users who may answer. Left out: everybody except the author."),
        ]
        | UnsetType
    ) = UNSET
    need: Annotated[
        int,
        about(
            "The number of different users who must answer before the question is "
            "closed."
        ),
    ]
    until: Annotated[int, about("The deadline in Unix milliseconds; 0: no deadline.")]
    state: Annotated[str, about("`open`, `answered`, `cancelled` or `expired`.")]
    answers: Annotated[
        tuple[
            Annotated[
                AskAnswer, about("An answer that counts.", title="AskAnswerShown")
            ],
            ...,
        ],
        about("The answers that count, in the order of their arrival."),
    ]
    poll: (
        Annotated[Ask.Poll, about("The totals of a poll.", title="PollShown")]
        | UnsetType
    ) = UNSET
    mine: (
        Annotated[tuple[int, ...], about("The options for which the user has voted.")]
        | UnsetType
    ) = UNSET


class VotersShown(Struct):
    """A page of the users who voted for an option, ordered by id."""

    users: list[str]
    more: Annotated[
        bool,
        about(
            "Whether there are more users. Continue with the last user of this page "
            "as `after`."
        ),
    ]


class AnswerResult(Struct):
    """Whether the answer counts, and the current state of the question."""

    accepted: Annotated[
        bool,
        about(
            "Whether the answer counts. False: other users answered first, or the "
            "question is closed."
        ),
    ]
    ask: AskShown


class AskApi(Struct, frozen=True):
    """The services that the routes of questions use."""

    core: Core
    parts: AskParts
    messages: MessageApi
    services: MessageServices

    @property
    def log(self) -> MessageLog:
        """The log of all apps."""
        return self.core.store.part(MessageLog)

    def show(self, app: str, user: str, id: int) -> AskShown:
        """Return a question that the user may read, in the shape of the answer.

        Switches greenlets. Raises ApiProblem.
        """
        return _shown(self.log.asks.get(app, user, id))


def _shown(entry: Entry | None) -> AskShown:
    """Return a question in the shape of the answer.

    Raises ApiProblem if there is no such question.
    """
    if entry is None or entry.ask is None:
        raise ApiProblem(Problems.UNKNOWN_MESSAGE)
    ask = entry.ask
    shown = AskShown(
        id=entry.id,
        conversation=entry.conversation,
        user=entry.sender,
        text=entry.body.decode("utf-8", "replace"),
        options=[OptionShape(one.text, one.value) for one in ask.options],
        free_text=ask.text,
        need=ask.need,
        until=ask.until,
        state=ask.state or "open",
        answers=ask.answers,
    )
    # Fields that do not apply are left out of the answer.
    if ask.of is not None:
        shown.of = list(ask.of)
    if ask.poll is not None:
        shown.poll = ask.poll
    if ask.mine is not None:
        shown.mine = ask.mine
    return shown


_ANSWERING: Final = (
    Problems.UNKNOWN_MESSAGE,
    Problems.MUTED,
    Problems.REJECTED,
    Problems.REVIEW_UNAVAILABLE,
)

_SECOND_MS: Final = 1000
_VOTERS_PER_REQUEST: Final = 1000
"""A list of voters counts as one more request for each group of voters of this
size, because all voters are read."""


def _services(core: Core, api: Api) -> AskApi:
    """Make the services of the routes."""
    return AskApi(
        core=core,
        parts=core.service(AskParts),
        messages=MessageApi.of(core, api),
        services=core.service(MessageServices),
    )


routes = Resource(
    "asks",
    service=_services,
    base=Acting,
    chapter="Questions to people: answered exactly once, with a deadline.",
    hot=True,
    need=Needs.ADMIN_OR_USER,
)


@routes.post(
    "/asks/create",
    act="",
    rules=one_of("to", "conversation"),
    problems=(
        Problems.STORE_UNAVAILABLE,
        Problems.UNKNOWN_CONVERSATION,
        Problems.UNKNOWN_ACCOUNT,
        *_ANSWERING,
    ),
)
def create(api: AskApi, call: Call, request: AskRequest) -> AskShown:
    """Ask a question.

    The question is a message, which clients show with buttons. The first answer
    closes the question, or the first `need` answers of different users.
    Everybody who can read the message sees the answers and their authors. A
    poll is open until its deadline or until it is cancelled, and accepts any
    number of votes. A question with an answer cannot be edited. A `fixed`
    question can never be edited.
    """
    objection = _objection(call, request)
    if objection:
        raise ApiProblem.invalid(objection)
    question = new_question(_question_of(api, call, request))
    message = SendRequest(
        to=request.to,
        conversation=request.conversation,
        text=request.text,
        thread=request.thread,
        also=request.also,
        client_msg_id=request.client_msg_id,
    )
    sent = api.messages.send(call, message, question)
    # A repeated request has asked its question before.
    if not sent.repeated:
        api.log.asks.counts["ask"] += 1
    # Wakes the task that closes questions at their deadlines.
    if request.seconds:
        api.log.asks.news.set()
    return api.show(call.app, call.user, sent.id)


def _objection(call: Call, request: AskRequest) -> str:
    """Return why a request cannot be a question, or ``""`` if it can be one."""
    objection = _poll_objection(request)
    if objection:
        return objection
    if request.to == call.user:
        return "`to`: the receiver is the sender"
    if not request.options and not request.free_text:
        return "Give `options`, or `free_text`, or both"
    values = {option.value for option in request.options}
    if len(values) < len(request.options):
        return "`options`: two have the same value"
    if any(len(value.encode()) > Limit.BUTTON for value in values):
        return "`options`: a value has at most 64 bytes"
    return ""


def _question_of(api: AskApi, call: Call, request: AskRequest) -> dict[str, Any]:
    """Return the question for the ``meta`` of a message, for example ``{"text":
    True}``.

    Fields with their default values are left out. Raises ApiProblem if one of
    the named users may not answer.
    """
    ask = _accepted_answers(request)
    if request.of is not UNSET:
        ask["of"] = _answerers(api, call, request, request.of)

    if request.poll:
        # If the list is empty, nodes and clients of releases without polls let
        # nobody answer.
        ask["of"] = []
        ask["poll"] = _poll_of(request)

    if request.fixed:
        ask["fixed"] = True
    # Deadlines are compared with the clock of the database.
    if request.seconds:
        ask["until"] = api.log.asks.time_ms() + request.seconds * _SECOND_MS
    return ask


def _accepted_answers(request: AskRequest) -> dict[str, Any]:
    """Return the fields of a new question about its answers.

    These fields are the number of answers that the question needs, the options,
    and whether it accepts free text.
    """
    fields: dict[str, Any] = {}
    if request.need > 1:
        fields["need"] = request.need
    if request.options:
        fields["options"] = [
            {"text": option.text, "value": option.value} for option in request.options
        ]
    if request.free_text:
        fields["text"] = True
    return fields


def _poll_of(request: AskRequest) -> dict[str, bool]:
    """Return the fields of a new poll, without its options."""
    poll: dict[str, bool] = {}
    if request.many:
        poll["many"] = True
    if request.anonymous:
        poll["anonymous"] = True
    return poll


def _poll_objection(request: AskRequest) -> str:
    """Return why a request cannot be a poll, or ``""`` if it can be one.

    A question that is not a poll must not have fields of polls.
    """
    if not request.poll:
        if request.many or request.anonymous:
            return "`many`, `anonymous`: only of a `poll`"
        if len(request.options) > Limit.OPTIONS:
            return f"`options`: at most {Limit.OPTIONS}"
        return ""
    if request.free_text or request.of is not UNSET or request.need > 1:
        return "`poll`: without `free_text`, `of` and `need`"
    if len(request.options) < 2:
        return "`options`: a poll has at least 2"
    return ""


def _answerers(
    api: AskApi, call: Call, request: AskRequest, users: list[str]
) -> list[str]:
    """Return the users who may answer, each once.

    All of them must be other members of the conversation, and there must be as
    many as the question needs. Otherwise raises ApiProblem.
    """
    answerers = list(dict.fromkeys(users))
    if request.to or call.user in answerers or not answerers:
        raise ApiProblem.invalid("`of`: other members of a `conversation`")
    if request.need > len(answerers):
        raise ApiProblem.invalid("`need`: more than `of`")
    for user in answerers:
        if api.log.conversations.member(call.app, request.conversation, user) is None:
            raise ApiProblem.invalid(f"`of`: {user} is no member of the conversation")
    return answerers


@routes.post(
    "/asks/get",
    schema=("AskQuery", "A question, and the maximum time to wait for its answers."),
    act="",
    problems=(Problems.UNKNOWN_MESSAGE,),
    user="optional",
)
def get(
    api: AskApi,
    call: Call,
    id: AskId,
    wait: Annotated[
        int,
        about(
            "The maximum number of seconds that the server waits until the question "
            "is closed, or has more answers than `seen`.",
            ge=0,
            le=MOST_WAIT_SECONDS,
        ),
    ] = 0,
    seen: Annotated[
        int,
        about("The number of answers that you already know.", ge=0, le=Limit.ANSWERS),
    ] = 0,
) -> AskShown:
    """Show a question, and wait for its answer.

    With `wait`, the server answers as soon as the question is closed or has
    more answers than `seen`. After `wait` seconds, it answers with the current
    state of the question; then ask again. A back end that names no `user` may
    read any question.
    """
    principal = call.principal
    # The credential is checked again after the wait, if there is one.
    proof = ""
    if wait > 0 and call.credential != "":
        proof = api.core.authority.proof(principal, call.request.headers)
    entry = api.parts.waits.wait(call.app, call.user, id, seen, wait, principal.label)

    if proof:
        _require_valid(api, call, proof)
    return _shown(entry)


def _require_valid(api: AskApi, call: Call, proof: str) -> None:
    """Raise ApiProblem if the credential of a request has ended meanwhile.

    A request may wait long, and the token or key may be revoked in this time.
    ``proof`` stands for the credential as it was before the wait.
    """
    principal = call.principal
    app = principal.app or call.app
    if api.core.still_holds(app, principal.user, proof):
        return
    if principal.user:
        raise ApiProblem(Problems.TOKEN_INVALID)
    raise ApiProblem(Problems.UNAUTHORIZED)


@routes.post(
    "/asks/answer",
    schema=(
        "AnswerRequest",
        "A question and its answer. Give one of `value`, `text` and `choices`.",
    ),
    base=Acting,
    act="",
    rules=one_of("value", "text", "choices"),
    problems=_ANSWERING,
)
def answer(
    api: AskApi,
    call: Call,
    *,
    id: AskId,
    value: Value | UnsetType = UNSET,
    text: FreeText | UnsetType = UNSET,
    choices: (
        Annotated[
            list[Choice],
            about(
                "Options of a poll, by their index from 0. They replace the previous "
                "vote. An empty list withdraws the vote.",
                max_length=Ask.Poll.MOST_OPTIONS,
            ),
        ]
        | UnsetType
    ) = UNSET,
) -> AnswerResult:
    """Answer a question.

    The first answers count, whatever device or node they come from. `accepted`
    is false if other users answered first. In a poll, the last vote of each
    user before the poll is closed counts. The server counts a vote at once, or
    a little later together with other votes. A repeated answer changes nothing.
    """
    if not call.is_back_end:
        api.messages.rates.require_message(call.app, call.user)
    if [value, text, choices].count(UNSET) != 2:
        raise ApiProblem.invalid("Give one of `value`, `text` and `choices`")
    votes: list[int] | None = None
    if choices is not UNSET:
        votes = choices
    result = api.services.asks.answer(
        call.app,
        call.user,
        id,
        value or "",
        text or "",
        by_user=not call.is_back_end,
        choices=votes,
    )
    is_accepted = not isinstance(result, Rejected)
    if isinstance(result, Rejected) and result.reason != RejectReason.ANSWERED:
        raise ApiProblem(result.problem, result.explanation)
    return AnswerResult(is_accepted, api.show(call.app, call.user, id))


@routes.post(
    "/asks/voters",
    schema=("VotersQuery", "An option of a poll, and the page of its voters."),
    act="",
    problems=(Problems.UNKNOWN_MESSAGE,),
    user="optional",
)
def voters(
    api: AskApi,
    call: Call,
    id: AskId,
    choice: Choice,
    after: Annotated[
        str, about("The last user of the previous page.", max_length=MAX_USER_BYTES)
    ] = "",
    limit: Annotated[
        int, about("The maximum number of users on this page.", ge=1, le=Limit.PAGE)
    ] = 50,
) -> VotersShown:
    """Show the users who voted for an option of a poll.

    For an anonymous poll, the answer is 403. The request counts as one more
    request for each 1,000 users who have voted.
    """
    poll = api.show(call.app, call.user, id).poll
    if poll is UNSET:
        raise ApiProblem(Problems.UNKNOWN_MESSAGE)
    if poll.anonymous:
        raise ApiProblem(Problems.NOT_ALLOWED, "the poll is anonymous")
    more_requests = poll.voters // _VOTERS_PER_REQUEST
    api.messages.rates.charge(call.principal, call.request.host, more_requests)
    # A user who has left the group sees no counts, so the user sees no voters
    # either.
    if choice >= len(poll.counts):
        return VotersShown([], more=False)
    # One more user is read, to know whether there are more.
    users = api.log.asks.voters(call.app, id, choice, after, limit + 1)
    return VotersShown(users[:limit], more=len(users) > limit)


@routes.post(
    "/asks/cancel",
    problems=(Problems.UNKNOWN_MESSAGE, HTTP_QUESTION_CLOSED),
    user="optional",
)
def cancel(api: AskApi, call: Call, request: OfAsk) -> AskShown:
    """Close a question of the user without an answer, or a poll with its votes.

    Nobody can answer the question any more. The state of a cancelled poll is
    `answered`.
    """
    result = api.log.asks.cancel(call.app, call.user, request.id)
    return _changed(api, call, request.id, result)


@routes.post(
    "/asks/remind",
    problems=(Problems.UNKNOWN_MESSAGE, HTTP_QUESTION_CLOSED),
    voice=True,
    user="optional",
)
def remind(api: AskApi, call: Call, request: OfAsk) -> AskShown:
    """Remind the users who have not answered a question of the user.

    The server notifies these users again, at most once a minute.
    """
    # If no user is given, the question is read with the rights of a back end.
    entry = api.log.asks.get(call.app, "", request.id)
    if entry is None or (call.user and entry.sender != call.user):
        raise ApiProblem(Problems.UNKNOWN_MESSAGE)
    api.parts.reminders.require((call.app, str(request.id)))
    result = api.log.asks.remind(call.app, call.user, request.id)
    return _changed(api, call, request.id, result)


@routes.post(
    "/asks/escalate",
    schema=(
        "EscalateRequest",
        "A question, and additional users who may answer it. A back end that names no "
        "`user` may change any question.",
    ),
    problems=(Problems.UNKNOWN_MESSAGE, HTTP_QUESTION_CLOSED),
    voice=True,
    user="optional",
)
def escalate(
    api: AskApi,
    call: Call,
    id: AskId,
    of: Annotated[Users, about("Members of the conversation.", min_length=1)],
) -> AskShown:
    """Let additional users answer a question of the user.

    The new users must be members of the conversation. The server notifies them.
    If everybody may answer the question, nothing changes.
    """
    result = api.log.asks.escalate(call.app, call.user, id, of)
    return _changed(api, call, id, result)


def _changed(api: AskApi, call: Call, id: int, result: Any) -> AskShown:
    """Return the answer to a request that has changed a question.

    The answer is the question as it is now. ``result`` is the result of the
    change. Raises ApiProblem if it was rejected.
    """
    # Only acts of back ends are recorded, not acts of users.
    if call.user:
        call.act = ""
    if isinstance(result, Rejected):
        if result.reason == RejectReason.ANSWERED:
            raise ApiProblem(HTTP_QUESTION_CLOSED)
        if result.reason in (RejectReason.INVALID, RejectReason.NOT_MEMBER):
            raise ApiProblem.invalid(result.detail)
        raise ApiProblem(result.problem, result.explanation)
    return api.show(call.app, "", id)
