"""Every operation of ``/api/v1``, the routes that are made of them, and the document that tells of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver.api.call import Api, Call
from imserver.api.reply import Answer
from imserver.api.route import Route
from imserver.api.style import PROBLEM
from imserver.api.v1 import (
    accounts,
    apps,
    conversations,
    devices,
    events,
    friends,
    groups,
    marking,
    open_groups,
    operate,
    presence,
    publisher,
    push,
    rooms,
    uploads,
    writing,
)
from imserver.api.v1.batch import batch_of
from imserver.api.v1.operation import Operation
from imserver.api.v1.wire import reply
from imserver.auth.principal import ANYONE

_encode: Final = msgspec.json.Encoder().encode


@lru_cache(maxsize=2)
def _written(batch_targets: int, demo: bool) -> bytes:
    # Many nodes never show it, and it is half a megabyte with the page that reads it.
    from imserver.api.v1.openapi import document

    numbers = {"limits.batch_targets": batch_targets}
    return _encode(document(DOCUMENTED, numbers, demo))


def described(api: Api) -> bytes:
    """The OpenAPI document of this server: with its limits, and with keys where they are needed."""
    return _written(api.batch_targets, api.keys.demo)


def openapi(api: Api, call: Call) -> Answer:
    """``GET /api/v1/openapi.json``."""
    return reply(call, described(api))


class Document(Struct):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


def routes_of(operations: Iterable[Operation]) -> tuple[Route, ...]:
    """A route for each operation; it reads query and body itself."""
    return tuple(
        Route(
            row.method,
            row.path,
            row.need,
            row.function,
            row.app,
            row.hot,
            raw=True,
            style=PROBLEM,
            limited=row.scope != "",
            token_in="?token" if row.query is not None and "token" in row.query.__struct_fields__ else "",
        )
        for row in operations
    )


_DOCUMENT: Final = (
    Operation(
        "GET",
        "/api/v1/openapi.json",
        ANYONE,
        openapi,
        "document",
        "This interface as an OpenAPI 3.1 document",
        "A page that people read is at `/api/v1/docs`.",
        answer=Document,
    ),
)

_SINGLE: Final = (
    *push.OPERATIONS,
    *presence.OPERATIONS,
    *rooms.OPERATIONS,
    *accounts.OPERATIONS,
    *devices.OPERATIONS,
    *friends.OPERATIONS,
    *groups.OPERATIONS,
    *conversations.OPERATIONS,
    *writing.OPERATIONS,
    *marking.OPERATIONS,
    *open_groups.OPERATIONS,
    *operate.OPERATIONS,
    *apps.OPERATIONS,
    *uploads.OPERATIONS,
)
OPERATIONS: Final[tuple[Operation, ...]] = (*_SINGLE, batch_of(_SINGLE), *publisher.OPERATIONS, *_DOCUMENT)
"""What :func:`imserver.api.routes.answer` answers."""
DOCUMENTED: Final[tuple[Operation, ...]] = (*OPERATIONS, *events.OPERATIONS, *uploads.STREAMS)
"""The same, and what is answered elsewhere: streams and WebSockets."""
ROUTES: Final = routes_of(OPERATIONS)
