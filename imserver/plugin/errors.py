"""The face: codes, problems and exceptions."""

import warnings
from typing import Any

from imserver.errors import ClientError as ClientError
from imserver.errors import CloseCode as CloseCode
from imserver.errors import HttpProblem as HttpProblem
from imserver.errors import ImserverError as ImserverError
from imserver.errors import LoginRefusal
from imserver.errors import Problems as Problems
from imserver.errors import ReplyCode as ReplyCode
from imserver.errors import ServiceRefused as ServiceRefused
from imserver.errors import StorageUnavailable as StorageUnavailable
from imserver.errors import Unavailable as Unavailable
from imserver.errors import reply_text as reply_text


def __getattr__(name: str) -> Any:
    """``LoginRefusal`` of version 3, until 2.0."""
    if name != "LoginRefusal":
        raise AttributeError(name)
    warnings.warn(f"{__name__}.{name} is deprecated: give a name", DeprecationWarning, stacklevel=2)
    return LoginRefusal
