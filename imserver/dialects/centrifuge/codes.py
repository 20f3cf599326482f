"""Error codes of Centrifugo's protocol."""

from typing import Final

from imserver.plugin.errors import ClientError, ReplyCode

ERRORS: Final[dict[int, ClientError]] = {}
"""Code of a reply → the error for its client. The cmd dialect has the codes
from 1000 on, too."""


def _error(code: int, message: str, *, temporary: bool = False) -> int:
    """Add an error to :data:`ERRORS`, and return its code."""
    ERRORS[code] = ClientError(code, message, temporary)
    return code


INTERNAL: Final = _error(100, "internal server error", temporary=True)
UNAUTHORIZED: Final = _error(101, "unauthorized")
UNKNOWN_CHANNEL: Final = _error(102, "unknown channel")
PERMISSION_DENIED: Final = _error(103, "permission denied")
METHOD_NOT_FOUND: Final = _error(104, "method not found")
ALREADY_SUBSCRIBED: Final = _error(105, "already subscribed")
LIMIT_EXCEEDED: Final = _error(106, "limit exceeded")
BAD_DATA: Final = _error(107, "bad request")
NOT_AVAILABLE: Final = _error(108, "not available")
TOKEN_EXPIRED: Final = _error(109, "token expired")
TOO_MANY_REQUESTS: Final = _error(111, "too many requests", temporary=True)
UNRECOVERABLE: Final = _error(112, "unrecoverable position")

UNSUBSCRIBED_BY_SERVER: Final = 2000
"""Code of ``unsubscribe``: the client does not subscribe again."""

_error(ReplyCode.NO_DATA, "unknown conversation, message or account")
_error(ReplyCode.NOT_STORED, "not stored", temporary=True)
ERRORS.update(
    {
        ReplyCode.NOT_LOGGED_IN: ERRORS[UNAUTHORIZED],
        ReplyCode.BAD_PARAMETER: ERRORS[BAD_DATA],
        ReplyCode.BAD_USER: ERRORS[BAD_DATA],
        ReplyCode.UNAUTHORIZED: ERRORS[PERMISSION_DENIED],
        ReplyCode.SYSTEM: ERRORS[INTERNAL],
    }
)
