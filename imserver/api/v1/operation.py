"""How a route of ``/api/v1`` is declared: one row that the router, the OpenAPI document and the tests read.

A module of routes exports ``OPERATIONS``, a tuple of :class:`Operation`. What a request carries and what it
is answered with are msgspec Structs: they check what comes in, and their annotations are the document.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver import errors
from imserver.api.call import Api, AppRule, Call, Route, UserRule
from imserver.api.reply import PROBLEM, ApiProblem
from imserver.api.v1.field import Acting
from imserver.api.v1.wire import read, read_query
from imserver.auth.principal import Need
from imserver.errors import HttpProblem

PREFIX: Final = "/api/v1"
JSON: Final = "application/json"


class Header(Struct, frozen=True):
    """One header of a request or of an answer, as the document tells of it. ``kind`` is a JSON type."""

    name: str
    meaning: str
    kind: str = "string"
    example: Any = None


class Link(Struct, frozen=True):
    """What an answer is good for: the operation that is asked next, and where its parameters come from.

    ``parameters`` are runtime expressions of OpenAPI, by the parameter's name.
    """

    name: str
    operation: str
    parameters: dict[str, str]


class Operation(Struct, frozen=True):
    """One route. ``need``: what a principal must have proved; ``reach`` and ``user``: in which app, for whom.

    ``query`` and ``body`` are the Structs that query parameters and the JSON body are read into, ``answer``
    the one that the body of an answer of ``status`` is made of (None: there is none of them, or the document
    cannot tell its shape); ``rules`` is what the function demands of a body besides, as JSON Schema. The
    examples are what goes over the wire, as Python's JSON has it. ``problems``
    and the headers are those that are this route's own: what every route has is said once, in
    :mod:`imserver.api.v1.openapi`.
    """

    method: str
    path: str
    need: Need
    function: Callable[..., Any]
    tag: str
    summary: str
    description: str = ""
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    answer: Any = None
    status: int = 200
    also: tuple[int, ...] = ()
    """Statuses of other answers that are no refusals: 206 with a part of the same, 304 with nothing."""
    problems: tuple[HttpProblem, ...] = ()
    headers: tuple[Header, ...] = ()
    answer_headers: tuple[Header, ...] = ()
    links: tuple[Link, ...] = ()
    rules: dict[str, Any] = {}
    example_query: dict[str, Any] | None = None
    example_body: Any = None
    example_answer: Any = None
    content_type: str = JSON
    hot: bool = True
    binary: bool = False
    """The body is a file as it is."""
    path_id: Any = None
    """The type of ``{id}`` in the path."""

    reach: AppRule = "known"
    """What holds of the field ``app`` of ``query`` or ``body``."""
    user: UserRule | None = None
    """What holds of the field ``user``. None: ``required`` in an :class:`Acting`, else ``""``."""
    read: Callable[[Api, Call], None] | None = None
    """Reads the request in place of :func:`reader_of`."""

    @property
    def scope(self) -> str:
        """What a key has to allow, where only keys are good; else ``""``."""
        return "" if self.need.users else self.need.scope

    @property
    def shape(self) -> type[Struct] | None:
        """What the request is read into."""
        return self.query or self.body

    @property
    def names_app(self) -> bool:
        """Whether the request has a field ``app``."""
        return self.shape is not None and "app" in self.shape.__struct_fields__

    @property
    def on_behalf(self) -> UserRule:
        """Whether the request is made on behalf of a user."""
        if self.user is not None:
            return self.user
        return "required" if self.shape is not None and issubclass(self.shape, Acting) else ""


def reader_of(row: Operation) -> Callable[[Api, Call], None]:
    """What reads query or body of an operation: sets ``call.asked``, and the app and user that it names."""
    query, body = row.query, None if row.body is None else msgspec.json.Decoder(row.body)
    names_app, needs_app, names_user = row.names_app, row.reach != "optional", row.on_behalf != ""

    def read_call(api: Api, call: Call) -> None:
        asked: Any = None
        if body is not None:
            asked = read(api, call, body)
        elif query is not None:
            asked = read_query(call.request, query)
        call.asked = asked
        if names_app:
            if asked.app:
                call.app = api.services.tenants.resolve(asked.app)
            elif call.principal.user:
                call.app = call.principal.app
            elif needs_app:
                raise ApiProblem(errors.HTTP_INVALID_REQUEST, "`app`: name the app")
        if names_user:
            call.user = asked.user

    return read_call


def route_of(row: Operation) -> Route:
    """The row of the table of routes that an operation is."""
    return Route(
        row.method,
        row.path,
        row.need,
        row.function,
        row.reach if row.names_app or row.read is not None else "",
        row.on_behalf,
        hot=row.hot,
        read=row.read or reader_of(row),
        style=PROBLEM,
        limited=row.scope != "",
        token_in="?token" if row.query is not None and "token" in row.query.__struct_fields__ else "",
    )


APP_PROBLEMS: Final = (
    errors.HTTP_INVALID_REQUEST,
    errors.HTTP_FORBIDDEN,
    errors.HTTP_UNKNOWN_APP,
    errors.HTTP_STORAGE_UNAVAILABLE,
)
"""What may be wrong with any request that names an app."""

ACTOR_PROBLEMS: Final = (
    errors.HTTP_INVALID_REQUEST,
    errors.HTTP_UNAUTHORIZED,
    errors.HTTP_TOKEN_INVALID,
    errors.HTTP_FORBIDDEN,
    errors.HTTP_NOT_ALLOWED,
    errors.HTTP_UNKNOWN_APP,
    errors.HTTP_STORAGE_UNAVAILABLE,
)
"""What may be wrong with any request that is made on behalf of a user."""
