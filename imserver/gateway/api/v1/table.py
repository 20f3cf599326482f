"""All operations of ``/api/v1``, their routes and their document. Also batches,
which run any operation, and the table of the HTTP API. Every route is a row
there, and :func:`imserver.gateway.http.call.answer` answers it."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Annotated, Any, Final

import msgspec
from gevent import get_hub
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from imserver.gateway.api.v1 import (
    apps,
    channels,
    presence,
    publisher,
    push,
    subscribers,
)
from imserver.gateway.api.v1.push import IDEMPOTENCY_KEY, key_of
from imserver.gateway.auth.authority import bearer, is_token
from imserver.gateway.auth.principal import Needs
from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.config.declared import about
from imserver.gateway.config.values import Declarations
from imserver.gateway.errors import Problems
from imserver.gateway.http.call import (
    Api,
    Call,
    Route,
    answer,
    longest_body,
    unpacked_body,
    with_key,
)
from imserver.gateway.http.operation import (
    PREFIX,
    Header,
    Operation,
    Resource,
    route_of,
)
from imserver.gateway.http.reply import PROBLEM, BatchAnswers
from imserver.gateway.http.wire import read_commands
from imserver.gateway.transport.http1 import (
    MAX_PUBLIC_BODY_BYTES,
    HttpResponse,
    HttpRoutes,
    row_of,
)

_SOME_BODY_BYTES: Final = 8 * MAX_PUBLIC_BODY_BYTES
"""How many bytes of a body are read if its sender is not verified yet. A few
messages fit into them."""
_NAME_SHOWN: Final = 100
"""Limit of the characters of a command's name in a refusal."""

# --- batches ------------------------------------------------------------------


def commands_of(routes: Iterable[Route]) -> dict[str, Route]:
    """Return the routes that a batch may contain: name of a command → route.

    The name is the path after ``/api/v1/``, such as ``channels/publish``.
    """
    return {
        row.path.removeprefix(f"{PREFIX}/"): row
        for row in routes
        if row.method == "POST" and row.function is not batch
    }


class BatchRequest(Struct, forbid_unknown_fields=True):
    """Commands to run in order."""

    commands: Annotated[
        list[Annotated[dict[str, Raw], Meta(min_length=1, max_length=1)]],
        about(
            "Each command has one key and a value. The key is the path of a POST "
            "route after `/api/v1/`, such as `push` or `channels/publish`; the "
            "value is the body of that route.",
            min_length=1,
        ),
    ]


class BatchResult(Struct):
    """The status and body of the answer to one command."""

    status: int
    body: Any


class BatchAnswer(Struct):
    """The results, in the order of the commands."""

    results: list[BatchResult]


def _read_batch(api: Api, call: Call) -> None:
    """Split the body of a batch into its commands.

    The body of a command is checked when the command is run. May switch
    greenlets.
    """
    body = unpacked_body(call, api.limits.body_bytes)
    call.input = read_commands(body, api.limits.batch_targets)


_batches = Resource("push", service=lambda _, api: api)


@_batches.post(
    "/batch",
    Needs.ANY_KEY,
    act="",
    body=BatchRequest,
    read=_read_batch,
    reach="",
    takes_many=True,
    answer=BatchAnswer,
    problems=(Problems.TOO_MANY_TARGETS,),
    headers=(
        Header(
            IDEMPOTENCY_KEY.name,
            "The key of the whole batch. If the key is `K`, the commands have the "
            "keys `K/0`, `K/1`, …",
            example="import-17",
        ),
    ),
)
def batch(api: Api, call: Call) -> HttpResponse:
    """Send many commands in one request.

    Runs the commands in order. If a command is refused, the server runs the
    others. Each command needs the scope of its own route and counts as one
    request against the rate of the key. The answers together have at most 4
    MiB. An answer that would exceed this limit is replaced by 413
    `answer_too_large`.
    """
    commands: list[dict[str, Raw]] = call.input
    key = key_of(call)
    request = call.request
    # The batch itself has already counted as one request.
    api.rates.charge(call.principal, request.host, len(commands) - 1)
    answers = BatchAnswers()
    too_large = _result(PROBLEM.refuse(Problems.ANSWER_TOO_LARGE, request))
    for number, command in enumerate(commands):
        if is_long_turn():
            serve_others()
        name, body = next(iter(command.items()))
        headers = {}
        if key:
            headers = {"idempotency-key": f"{key}/{number}"}
        # This is the request that the client would have sent for the command
        # without a batch.
        single_request = replace(
            request, headers=headers, body=bytes(body), query=b"", given_id=request.id
        )
        endpoint = api.commands.get(name)
        if endpoint is None:
            message = f"There is no command `{name[:_NAME_SHOWN]}`"
            response = PROBLEM.refuse(Problems.NOT_FOUND, single_request, message)
        else:
            response = api.run(endpoint, call.principal, single_request)
        answers.add(_result(response), too_large)
    return call.reply(b'{"results":[%b]}' % b",".join(answers.parts))


def _result(response: HttpResponse) -> bytes:
    """Encode the result of one command: the status and body of its answer."""
    return b'{"status":%d,"body":%b}' % (response.status, response.body)


# --- the document -------------------------------------------------------------

_document = Resource("document", service=lambda _, api: api)


class Document(Struct):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


@_document.get("/openapi.json", Needs.ANYONE, answer=Document)
def openapi(api: Api, call: Call) -> HttpResponse:
    """Get the OpenAPI 3.1 document of this API.

    The web page `/api/v1/docs` shows the same document.
    """
    return call.reply(api.described())


def document_of(operations: Iterable[Operation]) -> Callable[[int, bool, str], bytes]:
    """Return the function that writes the OpenAPI document of these operations.

    The document depends on the limits of the node, on demo mode and on the path
    below which a proxy serves it. The last two documents are remembered.
    """
    documented = tuple(operations)

    @lru_cache(maxsize=2)
    def write(batch_targets: int, demo: bool, root: str = "") -> bytes:
        """Make the document as JSON.

        The arguments are explained at
        :func:`imserver.gateway.http.openapi.document`.
        """
        # The module is imported when a document is first requested. With the
        # page that shows the document, it takes half a megabyte.
        from imserver.gateway.http.openapi import document

        numbers = {"limits.batch_targets": batch_targets}
        arguments = (documented, numbers, demo, root)
        # Making the document takes 0.15 s. A thread makes it, so that the loop
        # serves others meanwhile.
        content = get_hub().threadpool.apply(document, arguments)
        return msgspec.json.encode(content)

    return write


def operations_of(declared: Declarations) -> tuple[Operation, ...]:
    """List the operations of the core.

    ``declared`` are the settings of apps that the node has: requests and
    answers about apps have them as fields.
    """
    return (
        *push.routes.rows,
        *presence.routes.rows,
        *channels.routes.rows,
        *subscribers.routes.rows,
        *presence.sessions.rows,
        *apps.operations(declared),
        *_batches.rows,
        *publisher.routes.rows,
        *_document.rows,
    )


def routes_of(operations: Iterable[Operation]) -> tuple[Route, ...]:
    """Return the routes of operations that have a function."""
    return tuple(route_of(row) for row in operations if row.function is not None)


def routes_at(api: Api, everywhere: bool = False, hot: bool = False) -> HttpRoutes:
    """Return the functions that answer requests, by method and path.

    If ``hot`` is set, the result has only routes that the front server answers
    itself. If ``everywhere`` is set, the result has only routes that WebSocket
    listeners serve, too.
    """
    rows = {}
    for endpoint in api.endpoints.values():
        route = endpoint.route
        if everywhere and not route.style.everywhere:
            continue
        if hot and not route.hot:
            continue
        rows[route.method, route.path] = partial(answer, api, endpoint)
    return rows


def unread_body_limit(
    api: Api, method: str, path: str, headers: Mapping[str, str], host: str
) -> int:
    """Return how many bytes of a body are read before its sender is known.

    The body is read before :func:`imserver.gateway.http.call.admit` decides
    about the request. With a known key, from a listed address and in demo mode,
    the result is the limit of the route. With the token of a user, which is not
    verified here, the result is the size of a few messages. Otherwise it is the
    size that a form without identity needs. Never switches greenlets.
    """
    public = api.limits.public_body_bytes
    endpoint = row_of(api.endpoints, method, path)
    if endpoint is None:
        return public

    row = endpoint.route
    longest = longest_body(api, row)
    a_few_messages = min(_SOME_BODY_BYTES, longest)
    if row.need is Needs.SIGNED:
        # The signature covers the body, so it can be checked only later.
        return a_few_messages
    if not row.need.scope:
        return public
    if api.keys.demo:
        return longest

    if row.key_in:
        headers = with_key(row, headers)
    authorization = headers.get("authorization", "")
    if not authorization:
        if row.need.address and api.authority.allowed.apps_of(host):
            return longest
        return public

    credential = bearer(authorization)
    key = api.keys.find(credential)
    if key is not None and key.scopes:
        return longest
    if row.need.users and is_token(credential):
        return a_few_messages
    return public
