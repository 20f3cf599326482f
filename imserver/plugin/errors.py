"""The face: codes, problems and exceptions."""

from imserver.errors import (
    DISCONNECTED,
    REPLY_TEXT,
    REPLY_TEXT_UNKNOWN,
    ClientError,
    CloseCode,
    HttpProblem,
    ImserverError,
    IssuerUnavailable,
    LoginRefusal,
    MediaUnavailable,
    Problems,
    ReplyCode,
    StorageUnavailable,
    TooManyMessages,
    Unavailable,
    reply_text,
)

__all__ = [
    "DISCONNECTED",
    "REPLY_TEXT",
    "REPLY_TEXT_UNKNOWN",
    "ClientError",
    "CloseCode",
    "HttpProblem",
    "ImserverError",
    "IssuerUnavailable",
    "LoginRefusal",
    "MediaUnavailable",
    "Problems",
    "ReplyCode",
    "StorageUnavailable",
    "TooManyMessages",
    "Unavailable",
    "reply_text",
]
