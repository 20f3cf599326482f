"""The face: routes, requests and their answers."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from msgspec import Struct

from imserver.cluster.history import count_fitting
from imserver.config.declared import about
from imserver.http.call import Api, Call, Route
from imserver.http.field import AccountApp, Acting, NextCursor, PageCursor
from imserver.http.form import BadBody, app_of_rooms, cursor_of, read_cursor, room_id
from imserver.http.operation import Header, Resource, one_of
from imserver.http.reply import PROBLEM, ApiProblem, BatchAnswers, RequestRefused, stream_head, stream_refused
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


T = TypeVar("T")
V = TypeVar("V", bound=Struct)


class ActingPage(Acting):
    """The user who acts, and a page of the list."""

    cursor: PageCursor = ""
    limit: Annotated[int, about("The maximum number of entries on this page.", ge=1, le=1000)] = 100


def page_and_cursor(
    found: Sequence[T],
    limit: int,
    name_of: Callable[[T], str],
    rest: str = "",
    size_of: Callable[[T], int] = lambda _: 0,
) -> tuple[Sequence[T], str]:
    """A page of sorted rows, and the cursor of the next page. ``found``: the rows from the first one of the
    page on, more than ``limit`` if there is a next page. ``rest``: the name after which the next page begins
    although this one is not full; ``""``: there is none. ``size_of``: bytes of a long row; as many are on
    the page as fit."""
    page = found[: count_fitting(map(size_of, found[:limit]))]
    behind = name_of(page[-1]) if len(found) > len(page) else rest
    return page, cursor_of(behind) if behind else ""


def view(kind: type[V], row: object, /, **more: Any) -> V:
    """What an answer shows of a row: ``more``, and the fields that the row has under the same names.

    It takes 2 µs, where a call that names the fields takes 0.5: do not call it for each message, nor for each
    row of long pages. Raises AttributeError if a field is in neither, and TypeError if ``more`` has another.
    """
    for name in kind.__struct_fields__:
        if name not in more:
            more[name] = getattr(row, name)
    return kind(**more)
