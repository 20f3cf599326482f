"""How a route of ``/api/v1`` is declared: one row that the router, the OpenAPI document and the tests read.

A module of routes exports ``OPERATIONS``, a tuple of :class:`Operation`. What a request carries and what it
is answered with are msgspec Structs: they check what comes in, and their annotations are the document.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from imserver.api.route import AppFrom
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
    """One route. ``need``: who may ask. The app in which they must be allowed to is the field ``app`` of
    ``query`` or ``body``, or of what the body lists.

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

    @property
    def scope(self) -> str:
        """What a key has to allow, where only keys are good; else ``""``."""
        return "" if self.need.users else self.need.scope

    @property
    def app(self) -> AppFrom:
        """Where the app stands that a principal must reach."""
        if self.query is not None and "app" in self.query.__struct_fields__:
            return "query"
        return "body" if self.body is not None else ""
