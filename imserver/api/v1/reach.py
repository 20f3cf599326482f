"""How far a request may reach: the apps of its key, and how many it may name at once."""

from __future__ import annotations

from collections.abc import Sized
from typing import Final

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.style import Problem

APP_PROBLEMS: Final = (
    errors.HTTP_INVALID_REQUEST,
    errors.HTTP_FORBIDDEN,
    errors.HTTP_UNKNOWN_APP,
    errors.HTTP_STORAGE_UNAVAILABLE,
)
"""What may be wrong with any request that names an app."""


def reached(api: Api, call: Call) -> list[str]:
    """The apps that the caller's key reaches, in the order of names; not those that another stands for."""
    tenants = api.services.tenants
    return [
        name for name in tenants.names() if call.principal.reaches(name) and tenants.resolve(name) == name
    ]


def require_few(api: Api, *named: Sized) -> None:
    """Refuse a request that names more at once than ``limits.batch_targets``."""
    if sum(len(each) for each in named) > api.batch_targets:
        raise Problem(errors.HTTP_TOO_MANY_TARGETS)
