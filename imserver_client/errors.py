"""Errors: one row for each code, and the exceptions that the client raises.

Every error has a ``code``, a ``text`` that says what happened, and a ``remedy``
that says what to do. The server defines the codes: close codes of the
WebSocket, reply codes of the cmd dialect, problem codes of the HTTP API. This
package has its own table, so that it does not depend on the server.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class ErrorRow(Struct, frozen=True):
    """One code. ``temporary``: a later attempt may succeed."""

    code: int | str
    text: str
    remedy: str
    temporary: bool = False


_LATER: Final = "Try again later."
_RECONNECT: Final = "None: the client reconnects by itself."
_SHORTEN: Final = "Send less in one message."

CLOSE_NORMAL: Final = 1000
CLOSE_LOST: Final = 1006
CLOSE_TOO_LARGE: Final = 1009
CLOSE_RATE_LIMIT: Final = 4003
CLOSE_TOKEN_INVALID: Final = 4504
CLOSE_TRY_AGAIN: Final = 3000
"""The client closes with this code and reconnects if the login or the sync did
not get a usable answer."""

REPLY_OK: Final = 200
REPLY_NOT_LOGGED_IN: Final = 1000
REPLY_BAD_PARAMETER: Final = 1001
REPLY_BAD_USER: Final = 1002
REPLY_UNAUTHORIZED: Final = 1003
REPLY_NOT_STORED: Final = 1008

# code, text, remedy, temporary (of a close code: the client reconnects)
CLOSE_CODES: Final[dict[int | str, ErrorRow]] = {
    row.code: row
    for row in (
        ErrorRow(
            1000, "the connection was closed", "Make a new client to connect again."
        ),
        ErrorRow(1001, "the server stops or restarts", _RECONNECT, True),
        ErrorRow(1002, "a frame broke the WebSocket protocol", _RECONNECT, True),
        ErrorRow(
            1003, "the server does not accept this kind of frame", _RECONNECT, True
        ),
        ErrorRow(1005, "the connection ended without a close code", _RECONNECT, True),
        ErrorRow(1006, "the connection was lost", _RECONNECT, True),
        ErrorRow(1007, "a text frame was not UTF-8", _RECONNECT, True),
        ErrorRow(1008, "the server refused the connection", _RECONNECT, True),
        ErrorRow(1009, "a message is larger than the server allows", _SHORTEN, True),
        ErrorRow(1011, "the server failed", "Read the server's log.", True),
        ErrorRow(3000, "login or sync got no usable answer", _RECONNECT, True),
        ErrorRow(4000, "this client read too slowly", "Receive events faster.", True),
        ErrorRow(
            4001,
            "the server got no heartbeat in time",
            "Lower heartbeat_seconds.",
            True,
        ),
        ErrorRow(4002, "there was no login in time", _RECONNECT, True),
        ErrorRow(
            CLOSE_RATE_LIMIT, "too many commands per second", "Send more slowly.", True
        ),
        ErrorRow(
            4004,
            "messages were not acknowledged in time",
            "Receive events faster.",
            True,
        ),
        ErrorRow(
            4005,
            "a connection limit is reached",
            "Raise the limit of the node or app.",
            True,
        ),
        ErrorRow(
            4500,
            "a newer login of this user replaced this one",
            "Use one client per user and device.",
        ),
        ErrorRow(4501, "the user is already online", "End the other session first."),
        ErrorRow(
            4502,
            "the back end ended the session",
            "Ask the user before you log in again.",
        ),
        ErrorRow(
            4503,
            "the user is banned",
            "Its reason says until when. Wait until it ends, or lift it.",
        ),
        ErrorRow(
            CLOSE_TOKEN_INVALID,
            "the session token is wrong or has expired",
            "Get a new token and log in again.",
        ),
        ErrorRow(
            4505,
            "the app does not allow this login",
            "Check its origins and login rule.",
        ),
        ErrorRow(
            4506,
            "the app was deleted",
            "Create the app again, or log in to another one.",
        ),
        ErrorRow(
            4507,
            "the app does not allow this dialect",
            "Add `cmd` to `dialects` of the app.",
        ),
    )
}

REPLY_CODES: Final[dict[int | str, ErrorRow]] = {
    row.code: row
    for row in (
        ErrorRow(1000, "not logged in", _LATER, True),
        ErrorRow(
            1001,
            "a parameter is invalid",
            "Compare the command with docs/reference/protocol.md.",
        ),
        ErrorRow(
            1002,
            "the user id is empty or too long",
            "Use an id of the length that the app allows.",
        ),
        ErrorRow(
            1003, "not authorized", "Check the app, the token, and the user's rights."
        ),
        ErrorRow(1004, "the server failed", "Read the server's log."),
        ErrorRow(1005, "there is nothing like that", "Check the ids in the command."),
        ErrorRow(1006, "it could not be added", _LATER),
        ErrorRow(1007, "it could not be deleted", _LATER),
        ErrorRow(1008, "the message could not be stored", _LATER, True),
        ErrorRow(
            1009,
            "failed, or the user is online elsewhere",
            "End the other session first.",
        ),
        ErrorRow(
            1010,
            "the server does not know this command",
            "Check the command's name and the version.",
        ),
        ErrorRow(1011, "there is no such app", "Check the app's name."),
    )
}

_REJECTED: Final = ErrorRow(
    REPLY_UNAUTHORIZED, "the back end rejected the message", "Change the message."
)

# The HTTP API tells in English what is wrong; these rows add the remedy.
PROBLEM_CODES: Final[dict[int | str, ErrorRow]] = {
    row.code: row
    for row in (
        ErrorRow(
            "unauthorized",
            "the API key is missing or wrong",
            "Pass a key with the right scope.",
        ),
        ErrorRow(
            "forbidden",
            "the API key does not allow this",
            "Use a key of this app with this scope.",
        ),
        ErrorRow(
            "unknown_app",
            "there is no such app",
            "Check the app's name, or create the app.",
        ),
        ErrorRow(
            "body_too_large", "the request is too large", "Send less in one request."
        ),
        ErrorRow(
            "too_many_targets",
            "the push has too many targets",
            "Split it into several pushes.",
        ),
        ErrorRow(
            "id_reused", "another push had this id", "Use a new id for each push."
        ),
        ErrorRow(
            "rejected", "the back end rejected the message", "Change the message."
        ),
        ErrorRow("too_many_requests", "too many requests", "Send more slowly.", True),
    )
}


_FOR_GOOD: Final = range(4500, 5000)
"""Close codes, also of newer servers, after which a client does not
reconnect."""


def may_reconnect(code: int) -> bool:
    """Return whether a client may reconnect after this close code.

    A code that this client does not know says so by its number: 4500 to 4999
    forbid it.
    """
    row = CLOSE_CODES.get(code)
    if row is not None:
        return row.temporary
    return code not in _FOR_GOOD


class ClientError(Exception):
    """Base of all errors of this package."""

    code: int | str = "client_error"
    remedy: str = "Read the log of this program."

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class NotConnected(ClientError):
    """There is no connection, or it was lost before the answer came. A session
    keeps reconnecting."""

    code = "not_connected"
    remedy = "Check the address, and that the server runs."


class Closed(ClientError):
    """The session is over: closed by this program, or by the server with a code
    that forbids to reconnect.

    The code 1009 is about a single request: it is larger than the server
    allows. In this case the session reconnects.
    """

    code: int

    def __init__(self, code: int, text: str = "") -> None:
        """Describe the end by its code, or by ``text`` if the code is not known
        here."""
        row = _row(CLOSE_CODES, code, text)
        super().__init__(f"closed: {code} {row.text}")
        self.code = code
        self.remedy = row.remedy


class LoginRefused(ClientError):
    """The server refuses this user; ``code`` is its reply code. The session
    does not try again."""

    code: int

    def __init__(self, code: int, text: str = "") -> None:
        """Describe the refusal by its code, or by ``text`` if the code is not
        known here."""
        row = _row(REPLY_CODES, code, text)
        super().__init__(f"login refused: {code} {row.text}")
        self.code = code
        self.remedy = row.remedy


class CommandRefused(ClientError):
    """The server refuses a command ``cmd`` of a session; ``code`` is its reply
    code.

    ``reason`` says why the back end of the app has rejected a message. It may
    be empty, and is None if the cause is another one. ``refused`` is the
    server's reason, such as ``denied``, ``not_bot`` or ``muted``; None if it
    gives no reason.
    """

    code: int

    def __init__(
        self,
        cmd: str,
        code: int,
        text: str = "",
        reason: str | None = None,
        refused: str | None = None,
    ) -> None:
        """Describe the refusal of the command ``cmd``, with the reason if there
        is one.

        ``text`` is used if the code is not known here.
        """
        # A reason means that the back end of the app has refused.
        if reason is None:
            row = _row(REPLY_CODES, code, text)
        else:
            row = _REJECTED
        message = f"{cmd} refused: {code} {row.text}"
        why = reason or refused
        if why:
            message = f"{message}: {why}"
        super().__init__(message)
        self.cmd = cmd
        self.code = code
        self.remedy = row.remedy
        self.reason = reason
        self.refused = refused


class RequestRefused(ClientError):
    """The API refuses a request: ``status`` of HTTP, ``code`` and ``message``
    of the problem.

    ``request``: its method and address without the query. A command of a
    publisher connection has neither (0 and ``""``). ``temporary``: the request
    may succeed later, after ``retry_after_seconds`` if the server gives them.
    """

    code: str

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        temporary: bool = False,
        request_id: str = "",
        retry_after_seconds: float = 0.0,
        request: str = "",
    ) -> None:
        """Describe the refusal, and choose a remedy by its code."""
        super().__init__(_text_of_refusal(status, code, message, request))
        self.request = request
        self.status = status
        self.code = code
        self.message = message
        self.temporary = temporary
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds

        self.remedy = _remedy_of(code, temporary)


def _text_of_refusal(status: int, code: str, message: str, request: str) -> str:
    """The text of an error, for example ``404 not_found: … (GET https://…)``.

    ``status`` 0 and ``request`` ``""`` are left out.
    """
    text = f"{code}: {message}"
    if status:
        text = f"{status} {text}"
    if request:
        text = f"{text} ({request})"
    return text


def _remedy_of(code: str, temporary: bool) -> str:
    """The remedy for a refusal. Some codes of the API have no remedy of their
    own here."""
    if code in PROBLEM_CODES:
        return PROBLEM_CODES[code].remedy
    if temporary:
        return _LATER
    return "Correct the request; docs/guides/README.md describes all routes."


def _row(table: dict[int | str, ErrorRow], code: int, text: str) -> ErrorRow:
    """Return the row of a code, with its text and its remedy.

    A code that only newer servers have gets ``text``, which the server has
    sent.
    """
    return table.get(code) or ErrorRow(
        code, text or "unknown code", "Update imserver-client."
    )
