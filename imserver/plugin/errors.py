"""The face: codes, problems and exceptions."""

import warnings
from typing import Any

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
    "Problems",
    "ReplyCode",
    "ServiceRefused",
    "StorageUnavailable",
    "Unavailable",
    "reply_text",
]


def __getattr__(name: str) -> Any:
    """``LoginRefusal`` of version 3, until 2.0."""
    if name != "LoginRefusal":
        raise AttributeError(name)
    warnings.warn(f"{__name__}.{name} is deprecated: give a name", DeprecationWarning, stacklevel=2)
    return LoginRefusal
