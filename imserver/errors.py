"""All public errors: close codes, reply codes, HTTP problems, exceptions.

Code, documents, tests and ``imserver codes`` read these tables.
"""

from typing import ClassVar, Final

import msgspec


class ImserverError(Exception):
    """Base class of all errors of imserver."""


class StartError(ImserverError):
    """The server cannot start. The text is a one-line message for the operator; the exit status is 1."""


# --- WebSocket close codes ----------------------------------------------------------------------------------


class CloseRow(msgspec.Struct, frozen=True):
    """A reason to close a connection.

    ``reconnect``: whether a client should reconnect (with backoff). For this server's own codes the range
    says it: reconnect after 4000-4499, do not reconnect after 4500-4999.
    """

    code: int
    name: str
    meaning: str
    reconnect: bool


CLOSE_NORMAL: Final = 1000
CLOSE_GOING_AWAY: Final = 1001
CLOSE_PROTOCOL_ERROR: Final = 1002
CLOSE_UNSUPPORTED_DATA: Final = 1003
CLOSE_NO_CODE: Final = 1005
CLOSE_LOST: Final = 1006
CLOSE_BAD_PAYLOAD: Final = 1007
CLOSE_POLICY: Final = 1008
CLOSE_TOO_BIG: Final = 1009
CLOSE_INTERNAL_ERROR: Final = 1011

CLOSE_SLOW_READER: Final = 4000
CLOSE_HEARTBEAT_EXPIRED: Final = 4001
CLOSE_LOGIN_TIMEOUT: Final = 4002
CLOSE_RATE_LIMIT: Final = 4003
CLOSE_ACK_TIMEOUT: Final = 4004
CLOSE_NODE_FULL: Final = 4005

CLOSE_REPLACED: Final = 4500
CLOSE_REFUSED: Final = 4501
CLOSE_KICKED: Final = 4502
CLOSE_BANNED: Final = 4503
CLOSE_TOKEN_INVALID: Final = 4504
CLOSE_NOT_ALLOWED: Final = 4505
CLOSE_APP_DELETED: Final = 4506

_CLOSE_ROWS: Final = (
    # RFC 6455, section 7.4.1.
    CloseRow(CLOSE_NORMAL, "normal", "the client ended the connection", False),
    CloseRow(CLOSE_GOING_AWAY, "going away", "the server stops or restarts", True),
    CloseRow(CLOSE_PROTOCOL_ERROR, "protocol error", "a frame broke RFC 6455", True),
    CloseRow(
        CLOSE_UNSUPPORTED_DATA, "unsupported data", "the dialect does not accept this type of frame", True
    ),
    CloseRow(CLOSE_NO_CODE, "no code", "a close frame without a code; never on the wire", True),
    CloseRow(CLOSE_LOST, "lost", "TCP ended without a close frame; never on the wire", True),
    CloseRow(CLOSE_BAD_PAYLOAD, "bad payload", "a text frame that is not UTF-8", True),
    CloseRow(CLOSE_POLICY, "policy", "a refusal for which no other code exists", True),
    CloseRow(CLOSE_TOO_BIG, "too big", "a message above limits.message_bytes", True),
    CloseRow(CLOSE_INTERNAL_ERROR, "internal error", "the server failed; see its log", True),
    # Own codes: reconnect with backoff.
    CloseRow(
        CLOSE_SLOW_READER,
        "slow reader",
        "the client did not read: above limits.outbox_bytes or limits.outbox_seconds",
        True,
    ),
    CloseRow(
        CLOSE_HEARTBEAT_EXPIRED, "heartbeat expired", "no sign of life for websocket.heartbeat_seconds", True
    ),
    CloseRow(CLOSE_LOGIN_TIMEOUT, "login timeout", "no login within limits.login_seconds", True),
    CloseRow(CLOSE_RATE_LIMIT, "rate limit", "more than limits.messages_per_second", True),
    CloseRow(
        CLOSE_ACK_TIMEOUT,
        "ack timeout",
        "the client did not acknowledge deliveries, although they were resent",
        True,
    ),
    CloseRow(
        CLOSE_NODE_FULL,
        "node full",
        "the node, the address or the app has reached its connection limit",
        True,
    ),
    # Own codes: do not reconnect.
    CloseRow(CLOSE_REPLACED, "replaced", "a newer login of the same user took over", False),
    CloseRow(CLOSE_REFUSED, "refused", "the user is already online", False),
    CloseRow(CLOSE_KICKED, "kicked", "the back end ended the session", False),
    CloseRow(CLOSE_BANNED, "banned", "the user is banned for a time", False),
    CloseRow(CLOSE_TOKEN_INVALID, "token invalid", "the token is wrong or has expired", False),
    CloseRow(CLOSE_NOT_ALLOWED, "not allowed", "the origin, the app or the login is not allowed", False),
    CloseRow(CLOSE_APP_DELETED, "app deleted", "the app was deleted", False),
)

#: code -> row
CLOSE: Final[dict[int, CloseRow]] = {row.code: row for row in _CLOSE_ROWS}
DISCONNECTED: Final = "disconnected"
"""The reason of a close with a back end's own code: ``centrifuge-js`` ignores a code without a reason."""


def close_reason(code: int) -> str:
    """The name of a close code of this server; ``""`` if the code is not one of them."""
    row = CLOSE.get(code)
    return "" if row is None else row.name


FOREIGN_CLOSE: Final[dict[str, dict[int, int]]] = {
    # Clients of Centrifugo reconnect after 3000 to 3499 and 4000 to 4499, and not after 3500 to 3999 and 4500
    # to 4999. 4504 means that the token of the session has expired: its client reconnects with a new one. A
    # login with a wrong token is refused with 3500.
    "centrifuge": {
        CLOSE_GOING_AWAY: 3001,
        CLOSE_UNSUPPORTED_DATA: 3501,
        CLOSE_BAD_PAYLOAD: 3501,
        CLOSE_INTERNAL_ERROR: 3004,
        CLOSE_SLOW_READER: 3008,
        CLOSE_HEARTBEAT_EXPIRED: 3012,
        CLOSE_LOGIN_TIMEOUT: 3502,
        CLOSE_KICKED: 3503,
        CLOSE_TOKEN_INVALID: 3005,
    },
    # Clients of Pusher do not reconnect after 4000 to 4099, reconnect later after 4100 to 4199, and at once
    # after 4200 to 4299. They read any other code from 4300 on as "do not reconnect".
    "pusher": {
        CLOSE_GOING_AWAY: 4200,
        CLOSE_UNSUPPORTED_DATA: 4007,  # the version of the protocol
        CLOSE_INTERNAL_ERROR: 4100,
        CLOSE_SLOW_READER: 4100,
        CLOSE_HEARTBEAT_EXPIRED: 4201,
        CLOSE_LOGIN_TIMEOUT: 4100,
        CLOSE_RATE_LIMIT: 4100,
        CLOSE_ACK_TIMEOUT: 4100,
        CLOSE_NODE_FULL: 4100,
        CLOSE_REPLACED: 4009,
        CLOSE_REFUSED: 4009,
        CLOSE_KICKED: 4009,
        CLOSE_BANNED: 4009,
        CLOSE_TOKEN_INVALID: 4009,
        CLOSE_NOT_ALLOWED: 4009,
        CLOSE_APP_DELETED: 4001,
    },
}
"""Dialect → our close code → the code with the same meaning in that protocol. Others are sent unchanged."""
FOREIGN_REASONS: Final[dict[str, dict[int, str]]] = {
    "centrifuge": {
        CLOSE_GOING_AWAY: "shutdown",
        CLOSE_UNSUPPORTED_DATA: "bad request",
        CLOSE_BAD_PAYLOAD: "bad request",
        CLOSE_INTERNAL_ERROR: "internal server error",
        CLOSE_SLOW_READER: "slow",
        CLOSE_HEARTBEAT_EXPIRED: "no pong",
        CLOSE_LOGIN_TIMEOUT: "stale",
        CLOSE_KICKED: "force disconnect",
        CLOSE_TOKEN_INVALID: "connection expired",
    },
}
"""Dialect → our close code → what that protocol says in place of our name for it."""


# --- Reply codes of the cmd dialect, its HTTP API and the routes added in its style -------------------------

REPLY_OK: Final = 200
REPLY_NOT_LOGGED_IN: Final = 1000
REPLY_BAD_PARAMETER: Final = 1001
REPLY_BAD_USER: Final = 1002
REPLY_UNAUTHORIZED: Final = 1003
REPLY_SYSTEM: Final = 1004
REPLY_NO_DATA: Final = 1005
REPLY_NOT_ADDED: Final = 1006
REPLY_NOT_DELETED: Final = 1007
REPLY_NOT_STORED: Final = 1008
REPLY_FAILED: Final = 1009
REPLY_NO_ROUTE: Final = 1010
REPLY_NO_APP: Final = 1011

#: code -> text of the original server
REPLY_TEXT: Final[dict[int, str]] = {
    REPLY_OK: "Success",
    REPLY_NOT_LOGGED_IN: "未登录",
    REPLY_BAD_PARAMETER: "参数不合法",
    REPLY_BAD_USER: "非法的用户ID",
    REPLY_UNAUTHORIZED: "未授权",
    REPLY_SYSTEM: "系统错误",
    REPLY_NO_DATA: "没有数据",
    REPLY_NOT_ADDED: "添加错误",
    REPLY_NOT_DELETED: "删除错误",
    REPLY_NOT_STORED: "存储错误",
    REPLY_FAILED: "操作失败",
    REPLY_NO_ROUTE: "路由不存在",
    REPLY_NO_APP: "appid不存在",
}

#: text of any other code
REPLY_TEXT_UNKNOWN: Final = "未定义错误类型!"


def reply_text(code: int) -> str:
    """The text of a reply code."""
    return REPLY_TEXT.get(code, REPLY_TEXT_UNKNOWN)


# --- Error codes of Centrifugo's protocol -------------------------------------------------------------------


class CentrifugeError(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error in a reply to a client of Centrifugo. ``temporary``: the client may try again."""

    code: int
    message: str
    temporary: bool = False


CENTRIFUGE_INTERNAL: Final = 100
CENTRIFUGE_UNAUTHORIZED: Final = 101
CENTRIFUGE_PERMISSION_DENIED: Final = 103
CENTRIFUGE_METHOD_NOT_FOUND: Final = 104
CENTRIFUGE_ALREADY_SUBSCRIBED: Final = 105
CENTRIFUGE_LIMIT_EXCEEDED: Final = 106
CENTRIFUGE_BAD_DATA: Final = 107
CENTRIFUGE_NOT_AVAILABLE: Final = 108
CENTRIFUGE_TOKEN_EXPIRED: Final = 109
CENTRIFUGE_TOO_MANY_REQUESTS: Final = 111
CENTRIFUGE_UNRECOVERABLE: Final = 112

_INTERNAL: Final = CentrifugeError(CENTRIFUGE_INTERNAL, "internal server error", True)
_DENIED: Final = CentrifugeError(CENTRIFUGE_PERMISSION_DENIED, "permission denied")

#: code of a reply -> the error for its client. The codes from 1000 are those that commands share with the
#: cmd dialect.
CENTRIFUGE_ERRORS: Final[dict[int, CentrifugeError]] = {
    CENTRIFUGE_INTERNAL: _INTERNAL,
    CENTRIFUGE_UNAUTHORIZED: CentrifugeError(CENTRIFUGE_UNAUTHORIZED, "unauthorized"),
    CENTRIFUGE_PERMISSION_DENIED: _DENIED,
    CENTRIFUGE_METHOD_NOT_FOUND: CentrifugeError(CENTRIFUGE_METHOD_NOT_FOUND, "method not found"),
    CENTRIFUGE_ALREADY_SUBSCRIBED: CentrifugeError(CENTRIFUGE_ALREADY_SUBSCRIBED, "already subscribed"),
    CENTRIFUGE_LIMIT_EXCEEDED: CentrifugeError(CENTRIFUGE_LIMIT_EXCEEDED, "limit exceeded"),
    CENTRIFUGE_BAD_DATA: CentrifugeError(CENTRIFUGE_BAD_DATA, "bad request"),
    CENTRIFUGE_NOT_AVAILABLE: CentrifugeError(CENTRIFUGE_NOT_AVAILABLE, "not available"),
    CENTRIFUGE_TOKEN_EXPIRED: CentrifugeError(CENTRIFUGE_TOKEN_EXPIRED, "token expired"),
    CENTRIFUGE_TOO_MANY_REQUESTS: CentrifugeError(CENTRIFUGE_TOO_MANY_REQUESTS, "too many requests", True),
    CENTRIFUGE_UNRECOVERABLE: CentrifugeError(CENTRIFUGE_UNRECOVERABLE, "unrecoverable position"),
    REPLY_NOT_LOGGED_IN: CentrifugeError(CENTRIFUGE_UNAUTHORIZED, "unauthorized"),
    REPLY_BAD_PARAMETER: CentrifugeError(CENTRIFUGE_BAD_DATA, "bad request"),
    REPLY_UNAUTHORIZED: _DENIED,
    REPLY_SYSTEM: _INTERNAL,
    REPLY_NO_DATA: CentrifugeError(REPLY_NO_DATA, "unknown conversation"),
    REPLY_NOT_STORED: CentrifugeError(REPLY_NOT_STORED, "not stored", True),
}


# --- HTTP problems: answers outside the dialects' own routes ------------------------------------------------


class HttpProblem(msgspec.Struct, frozen=True):
    """An error response. ``temporary``: the same request may succeed later."""

    status: int
    code: str
    message: str
    temporary: bool


#: all problems by code, in the order of their statuses
HTTP_PROBLEMS: Final[dict[str, HttpProblem]] = {}


def _problem(status: int, code: str, message: str, *, temporary: bool = False) -> HttpProblem:
    """Add a row to the table."""
    row = HTTP_PROBLEMS[code] = HttpProblem(status, code, message, temporary)
    return row


HTTP_BAD_REQUEST: Final = _problem(400, "bad_request", "The request is malformed.")
HTTP_INVALID_REQUEST: Final = _problem(
    400, "invalid_request", "The request does not fit this route; see its fields in /api/v1/docs."
)
HTTP_TOO_MANY_TARGETS: Final = _problem(
    400, "too_many_targets", "The request has more targets or commands than limits.batch_targets."
)
HTTP_STORE_UNAVAILABLE: Final = _problem(
    400, "store_unavailable", "System apps (system:…) do not store messages."
)
HTTP_NOT_AN_UPGRADE: Final = _problem(400, "not_an_upgrade", "This path takes WebSocket upgrades only.")
HTTP_UNAUTHORIZED: Final = _problem(401, "unauthorized", "An API key with the right scope is required.")
HTTP_TOKEN_INVALID: Final = _problem(401, "token_invalid", "The session token is missing, wrong or expired.")
HTTP_SIGNATURE_INVALID: Final = _problem(
    401, "signature_invalid", "The signature of the request is missing, wrong or expired."
)
HTTP_WRONG_LOGIN: Final = _problem(401, "wrong_login", "The login or the password is wrong.")
HTTP_FORBIDDEN: Final = _problem(
    403, "forbidden", "The key or token does not permit this request in this app."
)
HTTP_NOT_ALLOWED: Final = _problem(
    403, "not_allowed", "The app does not allow this user, this origin or this way to connect."
)
HTTP_BANNED: Final = _problem(403, "banned", "The user is banned for a time.")
HTTP_ORIGIN_REFUSED: Final = _problem(403, "origin_refused", "This origin is not allowed.")
HTTP_HOST_REFUSED: Final = _problem(403, "host_refused", "This server does not serve this host.")
HTTP_REGISTRATION_CLOSED: Final = _problem(
    403, "registration_closed", "Registration is closed (accounts.registration)."
)
HTTP_LOGIN_REFUSED: Final = _problem(
    403, "login_refused", "The provider or the user has refused this login; start a new one."
)
HTTP_PASSWORDS_OFF: Final = _problem(
    403, "passwords_off", "Accounts of this app have no passwords (accounts.passwords)."
)
HTTP_ROLE_TOO_LOW: Final = _problem(403, "role_too_low", "The role of the member does not permit this.")
HTTP_REJECTED: Final = _problem(403, "rejected", "The back end of the app has rejected this message or file.")
HTTP_MUTED: Final = _problem(403, "muted", "The user is muted in this group.")
HTTP_QUOTA_EXCEEDED: Final = _problem(
    403, "quota_exceeded", "A quota of uploaded files is reached: of the user, the app or the address."
)
HTTP_UNKNOWN_DEVICE: Final = _problem(
    404, "unknown_device", "The account has no such device, or its login has ended."
)
HTTP_UNKNOWN_ACCOUNT: Final = _problem(404, "unknown_account", "No such account.")
HTTP_UNKNOWN_PROVIDER: Final = _problem(
    404, "unknown_provider", "The app has no such login provider, or the account is not linked with it."
)
HTTP_UNKNOWN_LOGIN: Final = _problem(
    404, "unknown_login", "No such login with a provider, or it has expired or was finished."
)
HTTP_UNKNOWN_RESET: Final = _problem(
    404, "unknown_reset", "No such code to reset a password, or it has expired or was used."
)
HTTP_UNKNOWN_GROUP: Final = _problem(404, "unknown_group", "No such group, or the user is not a member.")
HTTP_UNKNOWN_INVITATION: Final = _problem(
    404, "unknown_invitation", "No such invitation, or it has expired or is used up."
)
HTTP_UNKNOWN_HOOK: Final = _problem(404, "unknown_hook", "No such webhook, or it was revoked.")
HTTP_UNKNOWN_CONVERSATION: Final = _problem(
    404, "unknown_conversation", "No such conversation, or the user is not part of it."
)
HTTP_UNKNOWN_MESSAGE: Final = _problem(
    404, "unknown_message", "No such message, or it belongs to another user."
)
HTTP_UNKNOWN_MEMBER: Final = _problem(404, "unknown_member", "The group has no such member.")
HTTP_UNKNOWN_APP: Final = _problem(404, "unknown_app", "No such app.")
HTTP_UNKNOWN_CONNECTION: Final = _problem(404, "unknown_connection", "No such connection in this app.")
HTTP_NOT_FOUND: Final = _problem(404, "not_found", "This path does not exist.")
HTTP_UNKNOWN_UPLOAD: Final = _problem(404, "unknown_upload", "No such file.")
HTTP_METHOD_NOT_ALLOWED: Final = _problem(
    405, "method_not_allowed", "This path does not support this method."
)
HTTP_TIMEOUT: Final = _problem(408, "timeout", "The request took too long to arrive.", temporary=True)
HTTP_LOGIN_TAKEN: Final = _problem(
    409, "login_taken", "An account with this phone number, e-mail address or user name already exists."
)
HTTP_LINK_TAKEN: Final = _problem(
    409,
    "link_taken",
    "This identity is linked with another account, or the account with another identity of this provider.",
)
HTTP_LAST_LOGIN: Final = _problem(
    409, "last_login", "Without this link nobody could log in to the account any more."
)
HTTP_TOO_MANY_INVITATIONS: Final = _problem(
    409, "too_many_invitations", "The user has made as many invitations as accounts.invitations allows."
)
HTTP_TOO_MANY_BOTS: Final = _problem(
    409, "too_many_bots", "The user has made as many bots as accounts.bots allows."
)
HTTP_TOO_MANY_FRIENDS: Final = _problem(
    409, "too_many_friends", "One of the two would have more friends than accounts.friends."
)
HTTP_TOO_MANY_MEMBERS: Final = _problem(
    409, "too_many_members", "The group would have more members than accounts.group_members."
)
HTTP_ALREADY_ONLINE: Final = _problem(409, "already_online", "The user is online on another connection.")
HTTP_APP_EXISTS: Final = _problem(409, "app_exists", "An app with this name already exists.")
HTTP_APP_CONFIGURED: Final = _problem(
    409, "app_configured", "This app is defined in the configuration file; change it there."
)
HTTP_TOO_MANY_APPS: Final = _problem(
    409, "too_many_apps", "The limit of apps is reached (limits.registered_apps)."
)
HTTP_TOO_MANY_STREAMS: Final = _problem(
    409,
    "too_many_streams",
    "The app has limits.open_streams open streamed messages on this node.",
    temporary=True,
)
HTTP_OFFSET_MISMATCH: Final = _problem(
    409, "offset_mismatch", "Upload-Offset differs from the stored offset; read it with HEAD."
)
HTTP_LENGTH_REQUIRED: Final = _problem(411, "length_required", "An upload needs a Content-Length above 0.")
HTTP_TUS_VERSION: Final = _problem(412, "tus_version", "Uploads in parts need Tus-Resumable: 1.0.0.")
HTTP_BODY_TOO_LARGE: Final = _problem(413, "body_too_large", "The body is over limits.body_bytes.")
HTTP_FILE_TOO_LARGE: Final = _problem(
    413, "file_too_large", "The file is over uploads.max_bytes, or over the limit of its kind."
)
HTTP_URI_TOO_LONG: Final = _problem(414, "uri_too_long", "The address is over limits.header_bytes.")
HTTP_KIND_REFUSED: Final = _problem(
    415,
    "kind_refused",
    "Files of this type are not accepted, or the content does not match the declared type.",
)
HTTP_UNKNOWN_ENCODING: Final = _problem(
    415, "unknown_encoding", "The only supported Content-Encoding is gzip."
)
HTTP_RANGE: Final = _problem(416, "range_not_satisfiable", "The file does not contain the requested range.")
HTTP_ID_REUSED: Final = _problem(422, "id_reused", "A different request has used this id or Idempotency-Key.")
HTTP_UPLOAD_LOCKED: Final = _problem(
    423, "upload_locked", "Another request for this upload is running.", temporary=True
)
HTTP_VERSION_REQUIRED: Final = _problem(426, "version_required", "Sec-WebSocket-Version must be 13.")
HTTP_TOO_MANY_REQUESTS: Final = _problem(
    429, "too_many_requests", "Too many requests; slow down.", temporary=True
)
HTTP_HEADERS_TOO_LARGE: Final = _problem(431, "headers_too_large", "Headers are over limits.header_bytes.")
HTTP_CHECKSUM_MISMATCH: Final = _problem(
    460, "checksum_mismatch", "The bytes do not have the checksum of Upload-Checksum; send them again."
)
HTTP_INTERNAL_ERROR: Final = _problem(
    500, "internal_error", "The server failed; see its log.", temporary=True
)
HTTP_NOT_IMPLEMENTED: Final = _problem(501, "not_implemented", "The server does not support this.")
HTTP_MEDIA_UNAVAILABLE: Final = _problem(
    503, "media_unavailable", "The file storage does not answer.", temporary=True
)
HTTP_NODE_FULL: Final = _problem(503, "node_full", "The node accepts no more connections.", temporary=True)
HTTP_BUSY: Final = _problem(
    503, "busy", "The node is already working on limits.http_requests requests.", temporary=True
)
HTTP_NOT_READY: Final = _problem(
    503,
    "not_ready",
    "The node is starting or stopping, or Redis or the database does not answer.",
    temporary=True,
)
HTTP_STORAGE_UNAVAILABLE: Final = _problem(
    503, "storage_unavailable", "The database does not answer.", temporary=True
)
HTTP_ISSUER_UNAVAILABLE: Final = _problem(
    503, "issuer_unavailable", "The issuer of the token does not answer.", temporary=True
)
HTTP_PROVIDER_UNAVAILABLE: Final = _problem(
    503, "provider_unavailable", "The login provider does not answer.", temporary=True
)
HTTP_REVIEW_UNAVAILABLE: Final = _problem(
    503,
    "review_unavailable",
    "The back end of the app has not reviewed this message or file in time.",
    temporary=True,
)
HTTP_REGISTRY_UNAVAILABLE: Final = _problem(
    503, "registry_unavailable", "Redis does not answer.", temporary=True
)
HTTP_VERSION_NOT_SUPPORTED: Final = _problem(505, "http_version", "Only HTTP/1.0 and HTTP/1.1 are supported.")
HTTP_DISK_FULL: Final = _problem(
    507, "disk_full", "The upload would leave less than uploads.min_free_bytes on the disk.", temporary=True
)


# --- temporary failures -------------------------------------------------------------------------------------


class Unavailable(ImserverError):
    """A service that a request needs does not answer. Temporary: the request may be repeated.

    ``problem``: how HTTP routes refuse the request.
    """

    problem: ClassVar[HttpProblem]


class StorageUnavailable(Unavailable):
    """The database does not answer in time."""

    problem = HTTP_STORAGE_UNAVAILABLE


class ReviewUnavailable(StorageUnavailable):
    """The back end of the app has not reviewed a message in time, so it was not stored."""

    problem = HTTP_REVIEW_UNAVAILABLE


class TooManyMessages(StorageUnavailable):
    """A bot has sent too many messages (``limits.bot_rate``), so one was not stored."""


class IssuerUnavailable(Unavailable):
    """The keys of an OpenID Connect issuer are currently unknown. The text gives the reason."""

    problem = HTTP_ISSUER_UNAVAILABLE


class MediaUnavailable(Unavailable):
    """The store for uploaded files is unavailable."""

    problem = HTTP_MEDIA_UNAVAILABLE
