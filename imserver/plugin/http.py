"""The face: routes, requests and their answers."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from imserver.config.declared import about
from imserver.http.call import Api, Call, Route
from imserver.http.field import AccountApp, Acting, ActingPage, NextCursor, PageCursor
from imserver.http.form import BadBody, app_of_rooms, read_cursor, room_id
from imserver.http.operation import Header, Resource, one_of
from imserver.http.reply import PROBLEM, ApiProblem, BatchAnswers, RequestRefused, stream_head, stream_refused
from imserver.http.wire import page_and_cursor, view
from imserver.transport.http1 import HttpRequest, HttpResponse

__all__ = [
    "PROBLEM",
    "AccountApp",
    "Acting",
    "ActingPage",
    "Api",
    "ApiProblem",
    "BadBody",
    "BatchAnswers",
    "Call",
    "Header",
    "HttpRequest",
    "HttpResponse",
    "NextCursor",
    "PageCursor",
    "RequestRefused",
    "Resource",
    "Route",
    "about",
    "app_of_rooms",
    "one_of",
    "page_and_cursor",
    "read_cursor",
    "room_id",
    "stream_head",
    "stream_refused",
    "view",
]


def __getattr__(name: str) -> Any:
    """``refuse`` and ``Refusals`` of version 3, until 2.0."""
    if name not in ("refuse", "Refusals"):
        raise AttributeError(name)
    warnings.warn(
        f"{__name__}.{name} is deprecated: raise a ServiceRefused", DeprecationWarning, stacklevel=2
    )
    if name == "Refusals":
        return Mapping[type[Exception], Callable[[Any], ApiProblem]]
    return lambda problem, text="": lambda error: ApiProblem(problem, text.format(error))
