"""Every operation of ``/api/v1``, the routes that are made of them, and the document that tells of them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver.api.call import Api, Call
from imserver.api.v1 import (
    accounts,
    apps,
    conversations,
    events,
    friends,
    groups,
    messages,
    operate,
    presence,
    publisher,
    push,
    rooms,
    uploads,
)
from imserver.api.v1.batch import batch_of
from imserver.api.v1.operation import Operation, route_of
from imserver.api.v1.wire import reply
from imserver.auth.principal import ANYONE
from imserver.transport.exchange import HttpResponse

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


def openapi(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/openapi.json``."""
    return reply(call, described(api))


class Document(Struct):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


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
    *friends.OPERATIONS,
    *groups.OPERATIONS,
    *conversations.OPERATIONS,
    *messages.OPERATIONS,
    *operate.OPERATIONS,
    *apps.OPERATIONS,
    *uploads.OPERATIONS,
)
OPERATIONS: Final[tuple[Operation, ...]] = (*_SINGLE, batch_of(_SINGLE), *publisher.OPERATIONS, *_DOCUMENT)
"""What :func:`imserver.api.routes.answer` answers."""
DOCUMENTED: Final[tuple[Operation, ...]] = (*OPERATIONS, *events.OPERATIONS, *uploads.STREAMS)
"""The same, and what is answered elsewhere: streams and WebSockets."""
ROUTES: Final = tuple(map(route_of, OPERATIONS))
