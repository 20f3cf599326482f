"""All public errors: close codes, reply codes, HTTP problems, exceptions.

Code, documents, tests and ``imserver codes`` read these tables.
"""

from typing import ClassVar, Final, Literal

import msgspec


class ImserverError(Exception):
    """Base class of all errors of imserver."""


class StartError(ImserverError):
    """The server cannot start. The text is a one-line message for the operator;
    the exit status is 1."""


# --- WebSocket close codes ----------------------------------------------------


class CloseRow(msgspec.Struct, frozen=True):
    """A reason to close a connection.

    ``reconnect`` says whether a client should reconnect (with backoff). The
    ranges of this server's own codes show the same: reconnect after 4000-4499,
    do not reconnect after 4500-4999.
    """

    code: int
    name: str
    meaning: str
    reconnect: bool


_NORMAL_CLOSE: Final = 1000
_STAY_AWAY: Final = 4500
"""The first of our own codes after which clients do not reconnect."""
#: code -> row
CLOSE: Final[dict[int, CloseRow]] = {}


def _close(code: int, name: str, meaning: str) -> int:
    """Add a row to :data:`CLOSE`, and return its code."""
    reconnect = _NORMAL_CLOSE < code < _STAY_AWAY
    CLOSE[code] = CloseRow(code, name, meaning, reconnect=reconnect)
    return code


class CloseCode:
    """Every code with which this server closes a connection. Their meanings are
    rows of :data:`CLOSE`."""

    # RFC 6455, section 7.4.1.
    NORMAL: Final = _close(1000, "normal", "the client ended the connection")
    GOING_AWAY: Final = _close(1001, "going away", "the server stops or restarts")
    PROTOCOL_ERROR: Final = _close(1002, "protocol error", "a frame broke RFC 6455")
    UNSUPPORTED_DATA: Final = _close(
        1003, "unsupported data", "the dialect does not accept this type of frame"
    )
    NO_CODE: Final = _close(
        1005, "no code", "a close frame without a code; never on the wire"
    )
    LOST: Final = _close(
        1006, "lost", "TCP ended without a close frame; never on the wire"
    )
    BAD_PAYLOAD: Final = _close(1007, "bad payload", "a text frame that is not UTF-8")
    POLICY: Final = _close(1008, "policy", "a refusal for which no other code exists")
    TOO_BIG: Final = _close(1009, "too big", "a message above limits.message_bytes")
    INTERNAL_ERROR: Final = _close(
        1011, "internal error", "the server failed; see its log"
    )

    # Own codes: reconnect with backoff.
    SLOW_READER: Final = _close(
        4000,
        "slow reader",
        "the client did not read: above limits.outbox_bytes or limits.outbox_seconds",
    )
    HEARTBEAT_EXPIRED: Final = _close(
        4001, "heartbeat expired", "no sign of life for websocket.heartbeat_seconds"
    )
    LOGIN_TIMEOUT: Final = _close(
        4002, "login timeout", "no login within limits.login_seconds"
    )
    RATE_LIMIT: Final = _close(
        4003, "rate limit", "more than limits.messages_per_second"
    )
    ACK_TIMEOUT: Final = _close(
        4004,
        "ack timeout",
        "the client did not acknowledge deliveries, although they were resent",
    )
    NODE_FULL: Final = _close(
        4005,
        "node full",
        "the node, the address or the app has reached its connection limit",
    )

    # Own codes: do not reconnect.
    REPLACED: Final = _close(
        4500, "replaced", "a newer login of the same user took over"
    )
    REFUSED: Final = _close(4501, "refused", "the user is already online")
    KICKED: Final = _close(4502, "kicked", "the back end ended the session")
    BANNED: Final = _close(4503, "banned", "the user is banned")
    TOKEN_INVALID: Final = _close(
        4504, "token invalid", "the token is wrong or has expired"
    )
    NOT_ALLOWED: Final = _close(
        4505, "not allowed", "the origin, the app or the login is not allowed"
    )
    APP_DELETED: Final = _close(4506, "app deleted", "the app was deleted")
    WRONG_DIALECT: Final = _close(
        4507, "wrong dialect", "the app does not allow this dialect"
    )


DISCONNECTED: Final = "disconnected"
"""The reason of a close with a back end's own code: SDKs may ignore a code
without a reason."""


def close_reason(code: int) -> str:
    """Return the name of a close code of this server.

    The result is ``""`` if the code is no close code of this server.
    """
    if code not in CLOSE:
        return ""
    return CLOSE[code].name


# --- reasons of refused logins ------------------------------------------------

LoginRefusal = Literal[
    "again",
    "app",
    "attempts",
    "back end",
    "banned",
    "busy",
    "closed",
    "deleted",
    "dialect",
    "factor",
    "gone",
    "key",
    "kicked",
    "limit",
    "locked",
    "origin",
    "password",
    "policy",
    "provider",
    "rate",
    "registry",
    "token",
    "undecided",
    "user",
    "version",
]
"""Why a login was refused: the reason in metrics and in the log. docs/logins.md
explains each."""


# --- Reply codes of the cmd dialect, its HTTP API and the routes added in its
# style

#: code -> text of the original server
REPLY_TEXT: Final[dict[int, str]] = {}


def _reply(code: int, text: str) -> int:
    """Add a row to :data:`REPLY_TEXT`, and return its code."""
    REPLY_TEXT[code] = text
    return code


class ReplyCode:
    """Every code in answers of the cmd dialect. The texts of the original are
    in :data:`REPLY_TEXT`."""

    OK: Final = _reply(200, "Success")
    """Done."""
    NOT_LOGGED_IN: Final = _reply(1000, "未登录")
    """The command needs a session, but the connection has no session."""
    BAD_PARAMETER: Final = _reply(1001, "参数不合法")
    """A field is missing or has a wrong value."""
    BAD_USER: Final = _reply(1002, "非法的用户ID")
    """The user id is empty, too long or not valid."""
    UNAUTHORIZED: Final = _reply(1003, "未授权")
    """The token is not accepted, or the user may not do this."""
    SYSTEM: Final = _reply(1004, "系统错误")
    """The server has failed. Its log has the reason."""
    NO_DATA: Final = _reply(1005, "没有数据")
    """The thing that the command names does not exist, or not for this user."""
    NOT_ADDED: Final = _reply(1006, "添加错误")
    """A limit is reached, or the thing exists already."""
    NOT_DELETED: Final = _reply(1007, "删除错误")
    """The thing was not deleted. This server does not use this code."""
    NOT_STORED: Final = _reply(1008, "存储错误")
    """The database does not answer, or there are too many requests: try again
    later."""
    FAILED: Final = _reply(1009, "操作失败")
    """It cannot be done in this state: the connection has logged in already,
    for example."""
    NO_ROUTE: Final = _reply(1010, "路由不存在")
    """There is no such command."""
    NO_APP: Final = _reply(1011, "appid不存在")
    """There is no such app."""

    REJECTED: Final = 103
    """The code of a :class:`ClientError`: the back end of the app has rejected
    a message."""
    LIMIT: Final = 106
    """A limit is reached, in commands that the original server does not
    have."""


#: text of any other code
REPLY_TEXT_UNKNOWN: Final = "未定义错误类型!"

_REPLY_OF_STATUS: Final = {
    400: ReplyCode.BAD_PARAMETER,
    403: ReplyCode.UNAUTHORIZED,
    404: ReplyCode.NO_DATA,
    409: ReplyCode.NOT_ADDED,
    429: ReplyCode.NOT_STORED,
}
"""Status of a problem → the reply code of a command that is refused with it."""


def reply_text(code: int) -> str:
    """Return the text of a reply code, as the original server has it."""
    return REPLY_TEXT.get(code, REPLY_TEXT_UNKNOWN)


class ClientError(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error of the back end of an app, for a client whose command it
    refuses.

    ``temporary``: the client may try again.
    """

    code: int
    message: str
    temporary: bool = False


# --- HTTP problems: answers outside the dialects' own routes ------------------


class HttpProblem(msgspec.Struct, frozen=True):
    """An error response. ``temporary``: the same request may succeed later."""

    status: int
    code: str
    message: str
    temporary: bool = False


#: all problems by code, in the order of their statuses
HTTP_PROBLEMS: Final[dict[str, HttpProblem]] = {}


_TEMPORARY: Final = frozenset({408, 429, 500, 503})
"""Statuses that say that the same request may succeed later."""


def _problem(
    status: int, code: str, message: str, *, temporary: bool = False
) -> HttpProblem:
    """Add a problem to :data:`HTTP_PROBLEMS`, and return it."""
    temporary = temporary or status in _TEMPORARY
    row = HttpProblem(status, code, message, temporary)
    HTTP_PROBLEMS[code] = row
    return row


class Problems:
    """Every HTTP problem of the core. Features have their own, which their
    operations name."""

    BAD_REQUEST: Final = _problem(400, "bad_request", "The request is malformed.")
    INVALID_REQUEST: Final = _problem(
        400,
        "invalid_request",
        "The request does not match this route. /api/v1/docs lists the fields of the "
        "route.",
    )
    TOO_MANY_TARGETS: Final = _problem(
        400,
        "too_many_targets",
        "The request has more targets or commands than limits.batch_targets.",
    )
    STORE_UNAVAILABLE: Final = _problem(
        400,
        "store_unavailable",
        "System apps (system:…), and servers without the feature messages, do not "
        "store messages.",
    )
    NOT_AN_UPGRADE: Final = _problem(
        400, "not_an_upgrade", "This path accepts only WebSocket upgrades."
    )
    UNAUTHORIZED: Final = _problem(
        401, "unauthorized", "An API key with the right scope is required."
    )
    TOKEN_INVALID: Final = _problem(
        401, "token_invalid", "The session token is missing, wrong or expired."
    )
    SIGNATURE_INVALID: Final = _problem(
        401,
        "signature_invalid",
        "The signature of the request is missing, wrong or expired.",
    )
    FORBIDDEN: Final = _problem(
        403, "forbidden", "The key or token does not permit this request in this app."
    )
    NOT_ALLOWED: Final = _problem(
        403,
        "not_allowed",
        "The app does not allow this user, this origin or this way to connect.",
    )
    BANNED: Final = _problem(403, "banned", "The user is banned.")
    ORIGIN_REFUSED: Final = _problem(
        403, "origin_refused", "This origin is not allowed."
    )
    HOST_REFUSED: Final = _problem(
        403, "host_refused", "This server does not serve this host."
    )
    ROLE_TOO_LOW: Final = _problem(
        403, "role_too_low", "The role of the member does not permit this."
    )
    REJECTED: Final = _problem(
        403, "rejected", "The back end of the app has rejected this message or file."
    )
    MUTED: Final = _problem(
        403, "muted", "The user is muted, in this group or in the app."
    )
    UNKNOWN_ACCOUNT: Final = _problem(404, "unknown_account", "No such account.")
    UNKNOWN_CONVERSATION: Final = _problem(
        404,
        "unknown_conversation",
        "No such conversation, or the user is not part of it.",
    )
    UNKNOWN_MESSAGE: Final = _problem(
        404, "unknown_message", "No such message, or it belongs to another user."
    )
    UNKNOWN_APP: Final = _problem(404, "unknown_app", "No such app.")
    UNKNOWN_CONNECTION: Final = _problem(
        404, "unknown_connection", "No such connection in this app."
    )
    NOT_FOUND: Final = _problem(404, "not_found", "This path does not exist.")
    METHOD_NOT_ALLOWED: Final = _problem(
        405, "method_not_allowed", "This path does not support this method."
    )
    TIMEOUT: Final = _problem(408, "timeout", "The request took too long to arrive.")
    ALREADY_ONLINE: Final = _problem(
        409, "already_online", "The user is online on another connection."
    )
    APP_EXISTS: Final = _problem(
        409, "app_exists", "An app with this name already exists."
    )
    APP_CONFIGURED: Final = _problem(
        409,
        "app_configured",
        "This app is defined in the configuration file; change it there.",
    )
    TO_BE_ERASED: Final = _problem(
        409, "to_be_erased", "The user is to be erased. Cancel the erasure first."
    )
    TOO_MANY_APPS: Final = _problem(
        409, "too_many_apps", "The limit of apps is reached (limits.registered_apps)."
    )
    TOO_MANY_STREAMS: Final = _problem(
        409,
        "too_many_streams",
        "The app has too many open streamed messages on this node "
        "(limits.open_streams).",
        temporary=True,
    )
    BODY_TOO_LARGE: Final = _problem(
        413, "body_too_large", "The body is longer than limits.body_bytes."
    )
    ANSWER_TOO_LARGE: Final = _problem(
        413,
        "answer_too_large",
        "The answers to a batch have at most 4 MiB; send this command alone.",
    )
    URI_TOO_LONG: Final = _problem(
        414, "uri_too_long", "The address is longer than limits.header_bytes."
    )
    UNKNOWN_ENCODING: Final = _problem(
        415, "unknown_encoding", "The only supported Content-Encoding is gzip."
    )
    ID_REUSED: Final = _problem(
        422, "id_reused", "A different request has used this id or Idempotency-Key."
    )
    VERSION_REQUIRED: Final = _problem(
        426, "version_required", "Sec-WebSocket-Version must be 13."
    )
    TOO_MANY_REQUESTS: Final = _problem(
        429, "too_many_requests", "Too many requests. Send fewer requests per second."
    )
    HEADERS_TOO_LARGE: Final = _problem(
        431, "headers_too_large", "The headers are longer than limits.header_bytes."
    )
    INTERNAL_ERROR: Final = _problem(
        500, "internal_error", "The server has an internal error. See its log."
    )
    NOT_IMPLEMENTED: Final = _problem(
        501, "not_implemented", "The server does not support this."
    )
    MEDIA_UNAVAILABLE: Final = _problem(
        503, "media_unavailable", "The file storage does not answer."
    )
    NODE_FULL: Final = _problem(
        503, "node_full", "The node accepts no more connections."
    )
    BUSY: Final = _problem(
        503, "busy", "The node is already working on limits.http_requests requests."
    )
    NOT_READY: Final = _problem(
        503,
        "not_ready",
        "The node is starting or stopping, or Redis or the database does not answer.",
    )
    STORAGE_UNAVAILABLE: Final = _problem(
        503, "storage_unavailable", "The database does not answer."
    )
    ISSUER_UNAVAILABLE: Final = _problem(
        503, "issuer_unavailable", "The issuer of the token does not answer."
    )
    REVIEW_UNAVAILABLE: Final = _problem(
        503,
        "review_unavailable",
        "The back end of the app has not reviewed this message or file in time.",
    )
    NOT_ACCEPTED: Final = _problem(
        503,
        "not_accepted",
        "Nothing was accepted, because a node, Redis or the database does not "
        "answer. Repeat the request.",
    )
    VERSION_NOT_SUPPORTED: Final = _problem(
        505, "http_version", "Only HTTP/1.0 and HTTP/1.1 are supported."
    )


# --- refusals -----------------------------------------------------------------


class ServiceRefused(ImserverError):
    """A service refuses a request.

    If no caller needs a class of its own, raise this one with the problem, and
    a text that replaces the usual message of the problem: ``raise
    ServiceRefused("not for guests", Problems.NOT_ALLOWED)``. A subclass has a
    problem of its own: ``class UnknownGroup(ServiceRefused,
    problem=HttpProblem(…))``.

    ``problem`` is the answer of HTTP routes. The reply code of a command
    follows from the status of the problem. ``detail`` is the message in place
    of the usual message of the problem. ``""`` means the usual message. ``{}``
    in ``detail`` stands for the text of the exception. ``login`` is the reason
    in metrics and in the log if a login ends with this error. None means that
    no login ends with this error.
    """

    problem: HttpProblem
    detail: str = ""
    login: ClassVar[LoginRefusal | None] = None

    def __init_subclass__(
        cls,
        problem: HttpProblem | None = None,
        detail: str = "",
        login: LoginRefusal | None = None,
    ) -> None:
        """Set the problem of a subclass.

        A subclass without a problem has the problem, ``detail`` and ``login``
        of its base class.
        """
        if problem is not None:
            cls.problem = problem
            cls.detail = detail
            cls.login = login

    def __init__(self, text: object = "", problem: HttpProblem | None = None) -> None:
        """Refuse with the problem of the class, or with another ``problem``.

        ``text`` replaces the usual message of another problem. With the problem
        of the class, its ``detail`` says whether the message has the text.
        """
        if problem is None:
            super().__init__(text or "")
            return
        super().__init__(text or problem.message)
        self.problem = problem
        self.detail = ""
        if text:
            self.detail = "{}"

    @property
    def reply_code(self) -> int:
        """The reply code of a command that ends with this error.

        It is 0 if the status of its problem has no reply code, because the
        server has failed.
        """
        return _REPLY_OF_STATUS.get(self.problem.status, 0)


class Unavailable(ServiceRefused):
    """A service that a request needs does not answer.

    The failure is temporary: the request may be repeated.
    """


class StorageUnavailable(Unavailable, problem=Problems.STORAGE_UNAVAILABLE):
    """The database does not answer in time.

    ``until`` is the Unix second at which to try again. 0 means soon.
    """

    until: int = 0


class QuotaSpent(StorageUnavailable, problem=Problems.TOO_MANY_REQUESTS, detail="{}"):
    """An app has used up a quota of a day. ``until``: when the day ends."""

    def __init__(self, text: str, until: int) -> None:
        """Say in ``text`` which quota is used up."""
        super().__init__(text)
        self.until = until


class IssuerUnavailable(Unavailable, problem=Problems.ISSUER_UNAVAILABLE):
    """The keys of an OpenID Connect issuer are currently unknown.

    The text gives the reason.
    """
