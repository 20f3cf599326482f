"""Routes for the holder of a token, who needs no other credential: act on a
notification, answer a question, end mails."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Final, Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from imserver.notifications.api import CHAPTER
from imserver.notifications.content import language_of, outcome_of
from imserver.notifications.contract import PushEndpoint, Wishes
from imserver.notifications.declared import HTTP_UNKNOWN_NOTIFICATION
from imserver.notifications.parts import NotificationParts, notifications_of
from imserver.notifications.tokens import (
    MAX_TOKEN_CHARACTERS,
    ActionToken,
    AskToken,
    BadActionToken,
    MailToken,
)
from imserver.people.accounts.mailing import page_reply
from imserver.plugin.errors import Problems
from imserver.plugin.http import ApiProblem, Call, HttpResponse, Resource, about
from imserver.plugin.identity import Needs, Principal
from imserver.plugin.messages import (
    Ask,
    Entry,
    MessageApi,
    MessageLog,
    Rejected,
    SendRequest,
)
from imserver.plugin.wire import Limit, base64url

_NAME_BYTES: Final = 18
"""Bytes of the digest in the name of a reply: 24 characters."""

Token = Annotated[
    str,
    about(
        "The `token` of the notification. The token proves the identity of the user, "
        "so the request needs no other credential.",
        min_length=1,
        max_length=MAX_TOKEN_CHARACTERS,
    ),
]
OutcomeText = Annotated[
    str,
    about(
        "With `answer`: the text to show, in the language of the device. If others "
        "have answered first, the text says who."
    ),
]


class ActRequest(Struct, forbid_unknown_fields=True):
    """The token of a notification, and the action."""

    token: Token
    action: Annotated[
        Literal["read", "reply", "answer"],
        about(
            "`read`: mark the conversation as read up to the message. `reply`: also "
            "send `text`. `answer`: also answer the question with `value`."
        ),
    ]
    text: (
        Annotated[str, about("With `reply`: the text of the reply.", min_length=1)]
        | UnsetType
    ) = UNSET
    value: Annotated[
        str,
        about(
            "With `answer`: the value of an option. It follows `answer:` in the name "
            "of the action."
        ),
    ] = ""


class ActAnswer(Struct):
    """Done."""

    conversation: Annotated[int, about("The conversation.")]
    read: Annotated[int, about("The last message that was read.")]
    id: Annotated[int, about("The id of the reply; 0: no reply was sent.")]
    text: OutcomeText | UnsetType = UNSET


class MailsQuery(Struct, forbid_unknown_fields=True):
    """The token of a mail."""

    token: Annotated[
        str,
        about("The token in the link of the mail.", max_length=MAX_TOKEN_CHARACTERS),
    ]


class QuestionQuery(Struct, forbid_unknown_fields=True):
    """The token of a question, and the option that the user has chosen in the
    mail."""

    token: Annotated[
        str,
        about("The token in the link of the mail.", max_length=MAX_TOKEN_CHARACTERS),
    ]
    value: Annotated[
        str,
        about("The value of the option to which the link belongs.", max_length=1000),
    ] = ""


class MailsEnded(Struct):
    """The user gets no more mails."""

    unsubscribed: bool


class ReadableQuestion(Struct, frozen=True):
    """A question, and the message that asks it.

    ``names``: user → name, for the author and the users who have answered.
    """

    entry: Entry
    question: Ask
    names: Mapping[str, str]

    @property
    def asker(self) -> str:
        """The name of the author; ``""``: the back end of the app."""
        sender = self.entry.sender
        return self.names.get(sender) or sender

    def shows_reason(self, user: str) -> bool:
        """Whether the question itself shows why it takes no answer of a user.

        The question has ended, or the user has answered it already.
        """
        has_answered = any(each.user == user for each in self.question.answers)
        return bool(self.question.state) or has_answered


class TokenApi(Struct, frozen=True):
    """The services that the routes for holders of tokens use."""

    parts: NotificationParts
    messages: MessageApi

    def authenticate(self, app: str, user: str, call: Call) -> None:
        """Let a request act as the user of a token, and charge the user for it.

        Raises ApiProblem if the app was deleted, or if the user sends too many
        requests.
        """
        if self.parts.core.tenants.find(app) is None:
            raise ApiProblem(HTTP_UNKNOWN_NOTIFICATION)
        # From here on the request counts as one of this user.
        call.app = app
        call.user = user
        call.act_as(Principal("session", apps=frozenset({app}), user=user))
        self.messages.rates.require(call.principal, call.request.host)

    def question(self, app: str, user: str, message: int) -> ReadableQuestion | None:
        """Return a question that a user may read; None: no such question.

        ``message``: the id of the message that asks it. Switches greenlets.
        Raises StorageUnavailable.
        """
        store = self.messages.store
        entries = store.part(MessageLog).entries.readable(app, user, [message])
        if not entries or entries[0].kind != "message":
            return None
        entry = entries[0]
        question = entry.ask
        if question is None:
            return None
        users = {entry.sender, *(each.user for each in question.answers)}
        # A message of a back end has the sender "".
        names = store.names_of(app, sorted(users - {""}))
        return ReadableQuestion(entry, question, names)

    def answer(
        self, app: str, user: str, message: int, value: str, text: str = ""
    ) -> ReadableQuestion:
        """Answer a question with an option (``value``), or with a ``text``.

        Returns the question with its new state, also if others have answered
        faster: the question then shows who. Raises ApiProblem if the answer was
        refused for another reason, or if the user may no longer read the
        question. Switches greenlets.
        """
        result = self.parts.messages.asks.answer(app, user, message, value, text)
        question = self.question(app, user, message)
        if question is None:
            raise ApiProblem(HTTP_UNKNOWN_NOTIFICATION)
        # A page or a device shows this reason, so it is no error.
        if isinstance(result, Rejected) and not question.shows_reason(user):
            raise ApiProblem(result.problem, result.explanation)
        return question


routes = Resource(
    "notifications",
    service=lambda core, api: TokenApi(
        notifications_of(core), MessageApi.of(core, api)
    ),
    chapter=CHAPTER,
    need=Needs.ANYONE,
    act="",  # not recorded: users do this all day
    problems=(HTTP_UNKNOWN_NOTIFICATION,),
)


@routes.post(
    "/notifications/act",
    problems=(
        Problems.BANNED,
        Problems.UNKNOWN_CONVERSATION,
        Problems.UNKNOWN_ACCOUNT,
        Problems.MUTED,
        Problems.NOT_ALLOWED,
        Problems.REJECTED,
        Problems.REVIEW_UNAVAILABLE,
        Problems.STORAGE_UNAVAILABLE,
    ),
)
def act(api: TokenApi, call: Call, request: ActRequest) -> ActAnswer:
    """Act on a notification.

    The token is valid as long as the notification, at most a week, and as long
    as its endpoint exists. Only the first reply with a token is sent. A
    repeated request gets the answer of the first request.
    """
    token = api.parts.tokens.read(ActionToken, request.token)
    api.authenticate(token.app, token.user, call)
    if api.parts.core.sessions.is_banned(token.app, token.user):
        raise ApiProblem(Problems.BANNED)
    endpoint = _endpoint_of(api, token)

    reply_id = _reply_if_wanted(api, call, token, request)
    text = _answer_if_wanted(api, token, endpoint, request)
    # Each action marks the conversation as read, up to the message.
    result = api.messages.receipts.note(
        token.app, token.user, token.conversation, read=token.entry
    )
    if result is None:
        raise ApiProblem(Problems.UNKNOWN_CONVERSATION)
    return ActAnswer(token.conversation, result.receipt.read, reply_id, text)


def _answer_if_wanted(
    api: TokenApi, token: ActionToken, endpoint: PushEndpoint, request: ActRequest
) -> str | UnsetType:
    """Answer the question with the value of a request. Returns the result.

    UNSET: the action is no answer. Raises ApiProblem if the value does not fit
    the action.
    """
    if bool(request.value) != (request.action == "answer"):
        raise ApiProblem.invalid("`value`: with `answer`, and only then")
    if not request.value:
        return UNSET
    return _answer(api, token, endpoint, request.value)


def _reply_if_wanted(
    api: TokenApi, call: Call, token: ActionToken, request: ActRequest
) -> int:
    """Send the reply of a request. Returns its id; 0: the action is no reply.

    Raises ApiProblem if the text does not fit the action.
    """
    if request.action == "reply":
        if request.text is UNSET or not request.text.strip():
            raise ApiProblem.invalid("`text`: give the text of the reply")
        return _reply(api, call, token, request.text)
    if request.text is not UNSET:
        raise ApiProblem.invalid("`text`: only with `reply`")
    return 0


def _endpoint_of(api: TokenApi, token: ActionToken) -> PushEndpoint:
    """Return the endpoint of the device that got a token.

    Raises ApiProblem if it was removed: the token then is not valid any more.
    Switches greenlets.
    """
    endpoint = api.parts.rows.endpoints_by_id([token.endpoint]).get(token.endpoint)
    if endpoint is None or (endpoint.app, endpoint.user) != (token.app, token.user):
        raise ApiProblem(HTTP_UNKNOWN_NOTIFICATION)
    return endpoint


def _answer(
    api: TokenApi, token: ActionToken, endpoint: PushEndpoint, value: str
) -> str:
    """Answer the question of a notification with an option (``value``).

    Returns the text that the device shows, in its language. Raises ApiProblem.
    Switches greenlets.
    """
    question = api.answer(token.app, token.user, token.entry, value)
    language = language_of(endpoint.language)
    return outcome_of(question.question, token.user, question.names, language)


def _reply(api: TokenApi, call: Call, token: ActionToken, text: str) -> int:
    """Send the reply to a notification. Returns its id. Raises ApiProblem.

    Only the first reply with a token is sent; later calls return the id of that
    reply.
    """
    # The name is made from the token, so a repeated reply is the same message.
    fields = f"{token.endpoint} {token.conversation} {token.entry} {token.expires}"
    digest = sha256(fields.encode()).digest()
    name = f"notified-{base64url.encode(digest[:_NAME_BYTES])}"
    reply = SendRequest(conversation=token.conversation, text=text, client_msg_id=name)
    return api.messages.send(call, reply).id


# --- answers by mail ----------------------------------------------------------


@routes.get("/notifications/answer", query=QuestionQuery, content_type="text/html")
def show_question(api: TokenApi, call: Call) -> HttpResponse:
    """Show a page on which a person answers a question.

    The link in a mail opens this page. Opening it changes nothing, because
    virus scanners open links, too.
    """
    return _answer_page(api, call, _authenticate_question(api, call))


@routes.post(
    "/notifications/answer",
    query=QuestionQuery,
    content_type="text/html",
    problems=(Problems.BANNED, Problems.MUTED, Problems.STORAGE_UNAVAILABLE),
)
def answer_question(api: TokenApi, call: Call) -> HttpResponse:
    """Answer a question with the form of its page.

    The form has `value`, the value of an option, or `text`. The page then shows
    the result.
    """
    token = _authenticate_question(api, call)
    if token is None:
        return _answer_page(api, call, token=None)
    app = token.app
    user = token.user
    # The page then says that the question is gone.
    if api.question(app, user, token.message) is None:
        return _answer_page(api, call, token)
    if api.parts.core.sessions.is_banned(app, user):
        raise ApiProblem(Problems.BANNED)

    too_long = _answer_with_form(api, token, call.form())
    return _answer_page(api, call, token, too_long)


def _answer_with_form(api: TokenApi, token: AskToken, form: Mapping[str, str]) -> str:
    """Answer a question with the fields of a form.

    Returns a text that is too long, and is no answer. The page shows it again,
    so that the user can shorten it. The result is ``""`` otherwise.
    """
    value = form.get("value", "")
    text = form.get("text", "").strip()
    if value:
        api.answer(token.app, token.user, token.message, value)
    elif len(text) > Limit.ANSWER_CHARACTERS:
        return text
    elif text:
        api.answer(token.app, token.user, token.message, value="", text=text)
    return ""


def _authenticate_question(api: TokenApi, call: Call) -> AskToken | None:
    """Return the token of a question, and let the request act as its user.

    Returns None if the token is not valid any more. Raises ApiProblem.
    """
    try:
        token = api.parts.tokens.read(AskToken, call.input.token)
    except BadActionToken:
        return None
    api.authenticate(token.app, token.user, call)
    return token


def _answer_page(
    api: TokenApi, call: Call, token: AskToken | None, too_long: str = ""
) -> HttpResponse:
    """Return the page with the question of a token.

    If the ``token`` is None, or the question is gone, the page says that the
    link is not valid any more. ``too_long``: an answer that was refused because
    it is too long; ``""``: no such answer. Switches greenlets.
    """
    # Imported here: it makes a template.
    from imserver.notifications.digests import answer_page, gone_page

    question = None
    if token is not None:
        question = api.question(token.app, token.user, token.message)
    if token is None or question is None:
        language = call.request.headers.get("accept-language", "")[:2]
        return page_reply(call, gone_page(language), status=404)

    wishes = api.parts.rows.wishes_of(token.app, token.user)
    page = answer_page(
        question.question,
        question.entry.body.decode(errors="replace"),
        user=token.user,
        asker=question.asker,
        names=question.names,
        wishes=wishes,
        value=call.input.value,
        too_long=too_long,
    )
    if too_long:
        return page_reply(call, page, Problems.INVALID_REQUEST.status)
    return page_reply(call, page)


# --- the end of mails ---------------------------------------------------------


@routes.get("/notifications/unsubscribe", query=MailsQuery, content_type="text/html")
def ask_to_unsubscribe(api: TokenApi, call: Call) -> HttpResponse:
    """Show a page that ends the mails.

    The link in a mail opens this page. Opening it changes nothing, because
    virus scanners open links, too.
    """
    _, wishes = _authenticate_mail(api, call)
    return _stop_page(call, wishes, "question")


@routes.post(
    "/notifications/unsubscribe",
    query=MailsQuery,
    answer=MailsEnded,
    problems=(Problems.STORAGE_UNAVAILABLE,),
)
def unsubscribe(api: TokenApi, call: Call) -> HttpResponse:
    """End the mails to a user.

    Mail programs call this route with one click (RFC 8058), so the body is
    ignored. A browser gets a page.
    """
    token, wishes = _authenticate_mail(api, call)
    if wishes.mail != "never":
        api.parts.rows.set_wishes(token.app, token.user, replace(wishes, mail="never"))
    # Only browsers ask for a page.
    if "text/html" in call.request.headers.get("accept", ""):
        return _stop_page(call, wishes, "done")
    return call.reply(MailsEnded(unsubscribed=True))


def _authenticate_mail(api: TokenApi, call: Call) -> tuple[MailToken, Wishes]:
    """Return the token of a mail and the wishes of its user.

    The request then acts as this user. Raises ApiProblem, and BadActionToken if
    the token is not valid. Switches greenlets.
    """
    token = api.parts.tokens.read(MailToken, call.input.token)
    api.authenticate(token.app, token.user, call)
    return token, api.parts.rows.wishes_of(token.app, token.user)


def _stop_page(
    call: Call, wishes: Wishes, content: Literal["question", "done"]
) -> HttpResponse:
    """Return the page by which a user ends the mails."""
    # Imported here: it makes a template.
    from imserver.notifications.digests import stop_page

    return page_reply(call, stop_page(wishes.language, is_done=content == "done"))
