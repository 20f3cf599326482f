"""The face: codes, problems and exceptions."""

from imserver.errors import (
    ClientError,
    CloseCode,
    HttpProblem,
    ImserverError,
    LoginRefusal,
    Problems,
    ReplyCode,
    ServiceRefused,
    StorageUnavailable,
    Unavailable,
    reply_text,
)

__all__ = [
    "ClientError",
    "CloseCode",
    "HttpProblem",
    "ImserverError",
    "LoginRefusal",
    "Problems",
    "ReplyCode",
    "ServiceRefused",
    "StorageUnavailable",
    "Unavailable",
    "reply_text",
]
