"""The face: routes, requests and their answers."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

from msgspec import Struct

from imserver.gateway.cluster.history import count_fitting
from imserver.gateway.config.declared import about as about
from imserver.gateway.http.call import Api as Api
from imserver.gateway.http.call import Call as Call
from imserver.gateway.http.call import Route as Route
from imserver.gateway.http.field import AccountApp as AccountApp
from imserver.gateway.http.field import Acting as Acting
from imserver.gateway.http.field import NextCursor as NextCursor
from imserver.gateway.http.field import PageCursor as PageCursor
from imserver.gateway.http.form import BadBody as BadBody
from imserver.gateway.http.form import NumberedRooms as NumberedRooms
from imserver.gateway.http.form import cursor_of
from imserver.gateway.http.form import read_cursor as read_cursor
from imserver.gateway.http.operation import Header as Header
from imserver.gateway.http.operation import Resource as Resource
from imserver.gateway.http.operation import one_of as one_of
from imserver.gateway.http.reply import PROBLEM as PROBLEM
from imserver.gateway.http.reply import ApiProblem as ApiProblem
from imserver.gateway.http.reply import BatchAnswers as BatchAnswers
from imserver.gateway.http.reply import RequestRefused as RequestRefused
from imserver.gateway.http.reply import stream_head as stream_head
from imserver.gateway.http.reply import stream_refused as stream_refused
from imserver.gateway.transport.http1 import HttpRequest as HttpRequest
from imserver.gateway.transport.http1 import HttpResponse as HttpResponse

_OF_NUMBERED_ROOMS: Final = {"room_id": "id_of", "app_of_rooms": "app_of"}
"""Former function → method of :class:`NumberedRooms`."""


def __getattr__(name: str) -> Any:
    """Return a name of an earlier version, with a warning, until 2.0.

    They are ``refuse`` and ``Refusals`` of version 3, ``room_id`` and
    ``app_of_rooms`` of version 4.
    """
    if name in _OF_NUMBERED_ROOMS:
        form = _OF_NUMBERED_ROOMS[name]
        warnings.warn(
            f"{__name__}.{name} is deprecated: NumberedRooms.{form}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(NumberedRooms, form)

    if name not in ("refuse", "Refusals"):
        raise AttributeError(name)
    warnings.warn(
        f"{__name__}.{name} is deprecated: raise a ServiceRefused",
        DeprecationWarning,
        stacklevel=2,
    )
    # It was a name for this type.
    if name == "Refusals":
        return Mapping[type[Exception], Callable[[Any], ApiProblem]]
    return _refuse


def _refuse(problem: Any, text: str = "") -> Callable[[object], ApiProblem]:
    """Return the function that makes a problem of an error.

    It is ``refuse`` of version 3. ``text`` may have ``{}`` for the error.
    """

    def problem_of(error: object) -> ApiProblem:
        """Make the problem of an error."""
        return ApiProblem(problem, text.format(error))

    return problem_of


T = TypeVar("T")
V = TypeVar("V", bound=Struct)


class ActingPage(Acting):
    """The user who acts, and a page of the list."""

    cursor: PageCursor = ""
    limit: Annotated[
        int, about("The maximum number of entries on this page.", ge=1, le=1000)
    ] = 100


def page_and_cursor(
    found: Sequence[T],
    limit: int,
    name_of: Callable[[T], str],
    rest: str = "",
    size_of: Callable[[T], int] = lambda _: 0,
) -> tuple[Sequence[T], str]:
    """Make a page of sorted rows, and the cursor of the next page.

    The cursor is ``""`` on the last page. ``found`` are the rows, from the
    first row of the page on. They are more than ``limit`` if a next page
    exists. ``rest`` is the name after which the next page begins, if it exists
    although this one is not full (``""``: there is no such page). ``size_of``
    returns the bytes of a long row; the page has as many rows as fit.
    """
    fitting = count_fitting(map(size_of, found[:limit]))
    page = found[:fitting]
    last_name = rest
    if len(found) > len(page):
        last_name = name_of(page[-1])
    if not last_name:
        return page, ""
    return page, cursor_of(last_name)


def view(kind: type[V], row: object, /, **more: Any) -> V:
    """Make the view of a row in an answer.

    A field has its value from ``more``, or else from the attribute of the row
    with the same name. It takes 2 µs, and a call that names the fields takes
    0.5 µs. Do not call it for each message, nor for each row of long pages.
    Raises AttributeError if a field is in neither of them, and TypeError if
    ``more`` has a name that is no field.
    """
    for name in kind.__struct_fields__:
        if name not in more:
            more[name] = getattr(row, name)
    return kind(**more)
