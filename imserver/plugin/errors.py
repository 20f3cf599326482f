"""The face: codes, problems and exceptions."""

import warnings
from typing import Any

from imserver.gateway.errors import ClientError as ClientError
from imserver.gateway.errors import CloseCode as CloseCode
from imserver.gateway.errors import HttpProblem as HttpProblem
from imserver.gateway.errors import ImserverError as ImserverError
from imserver.gateway.errors import LoginRefusal
from imserver.gateway.errors import Problems as Problems
from imserver.gateway.errors import ReplyCode as ReplyCode
from imserver.gateway.errors import ServiceRefused as ServiceRefused
from imserver.gateway.errors import StorageUnavailable as StorageUnavailable
from imserver.gateway.errors import Unavailable as Unavailable
from imserver.gateway.errors import reply_text as reply_text


def __getattr__(name: str) -> Any:
    """``LoginRefusal`` of version 3, until 2.0."""
    if name != "LoginRefusal":
        raise AttributeError(name)
    warnings.warn(
        f"{__name__}.{name} is deprecated: give a name",
        DeprecationWarning,
        stacklevel=2,
    )
    return LoginRefusal
