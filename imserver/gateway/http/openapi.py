"""The OpenAPI 3.1 document of ``/api/v1``, made from the table of operations.

The schemas are those of the msgspec Structs that check the requests and make
the answers. Where a Struct of the server is published under another name, a
field has the type ``Annotated[Row, Meta(title="RowShown")]``, with a
``description`` if its docstring is not the published one. What all routes share
(keys, problems, ids) is added here.
"""

import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver import __version__
from imserver.gateway.auth.principal import Need, Needs
from imserver.gateway.errors import HttpProblem, Problems
from imserver.gateway.http.operation import JSON, PREFIX, Header, Operation

TAGS: Final = {
    "push": "Deliver messages to connected users.",
    "presence": "Online users, their sessions, and since when.",
    "channels": "Names that connections subscribe to. Publications may have a history.",
    "sessions": "End sessions, ban users.",
    "conversations": "Stored messages: lists, sync, history, search, receipts; send, recall, edit.",
    "apps": "The tenants of this server. Nothing passes from one app to another.",
    "events": "Receive events without a WebSocket, and read durable events.",
    "document": "The description of this API.",
}
"""The chapters of the core, in order. Those of features follow."""

REQUEST_ID: Final = Header(
    "X-Request-Id",
    "The id of this request in the server's log. It is yours if you sent one.",
    example="7f3a-1",
)
RATE_HEADERS: Final = (
    Header(
        "RateLimit-Limit",
        "The requests per second of the key, user or address.",
        "integer",
        1000,
    ),
    Header("RateLimit-Remaining", "The number of requests left.", "integer", 999),
    Header(
        "RateLimit-Reset",
        "Seconds until the full number is available again.",
        "integer",
        1,
    ),
)
_ALWAYS: Final = (
    Problems.BAD_REQUEST,
    Problems.HEADERS_TOO_LARGE,
    Problems.INTERNAL_ERROR,
    Problems.BUSY,
)
_WITH_BODY: Final = (
    Problems.INVALID_REQUEST,
    Problems.BODY_TOO_LARGE,
    Problems.UNKNOWN_ENCODING,
)


class Problem(Struct):
    """The body of a refused request. Use `code` in programs; the text of
    `message` may change."""

    code: str
    message: str
    temporary: bool
    request_id: str


def document(
    operations: Iterable[Operation],
    numbers: Mapping[str, int],
    demo: bool = False,
    root: str = "",
) -> dict[str, Any]:
    """The document as JSON's Python types.

    ``numbers`` are limits of this server, by setting: a schema that names a
    setting gets its number. ``demo``: no key is needed. ``root``: the path
    below which a proxy serves this server.
    """
    rows = tuple(operations)
    references, schemas = _schemas(rows, numbers)
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(
            row, references, schemas, demo
        )
    tags = {row.tag for row in rows}
    chapters = TAGS | {row.tag: row.chapter for row in rows if row.chapter}
    bodies = {row.body for row in rows}
    queries = {
        row.query.__name__
        for row in rows
        if row.query is not None and row.query not in bodies
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "imserver",
            "version": __version__,
            "summary": "Push to connected users, list online users, manage channels.",
            "description": _markdown(_DESCRIPTION),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": root or "/"}],
        "tags": [
            {"name": name, "description": text}
            for name, text in chapters.items()
            if name in tags
        ],
        "paths": paths,
        "components": {
            "schemas": {
                name: schema for name, schema in schemas.items() if name not in queries
            },
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key with the scope that the operation names.",
                },
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of an account or a bot, or a session token.",
                },
            },
        },
    }


_SCHEMAS: Final = "#/components/schemas/"
_DESCRIPTION: Final = """
    Requests and answers are JSON in UTF-8. Use POST to change something and GET, with parameters in the
    query, to read. The server refuses unknown fields, so that typing errors are noticed.

    A refused request gets an HTTP error status and a body `{"code", "message", "temporary", "request_id"}`.
    If `temporary` is true, the same request may succeed later.
    """


def _schemas(
    rows: Sequence[Operation], numbers: Mapping[str, int]
) -> tuple[dict[Any, Any], dict[str, dict[str, Any]]]:
    """The reference to each type, and the schemas by name."""
    kinds = (
        kind
        for row in rows
        for kind in (row.query, row.body, row.answer)
        if kind is not None
    )
    types: list[Any] = list(dict.fromkeys([Problem, *kinds]))
    titled: dict[str, dict[str, Any]] = {}

    def fill(schema: Any) -> Any:
        """A schema with its texts as Markdown, settings replaced by their
        numbers, and titles as names."""
        if isinstance(schema, tuple | list):
            return [fill(each) for each in schema]
        if not isinstance(schema, dict):
            if isinstance(schema, str):
                return numbers.get(schema, schema)
            return schema
        filled = {name: fill(value) for name, value in schema.items()}
        if isinstance(filled.get("description"), str):
            filled["description"] = _markdown(filled["description"])
        if "$ref" in filled and "title" in filled:
            titled[filled["title"]] = filled
            return {"$ref": _SCHEMAS + filled["title"]}
        return _for_generators(filled)

    found, components = msgspec.json.schema_components(
        types, ref_template=_SCHEMAS + "{name}"
    )
    references = fill(found)
    schemas = fill(components)
    structs = {
        name: each.pop("$ref").removeprefix(_SCHEMAS) for name, each in titled.items()
    }
    named = {name: schemas[struct] | titled[name] for name, struct in structs.items()}
    unnamed = {
        name: each for name, each in schemas.items() if name not in structs.values()
    }
    return dict(zip(types, references, strict=True)), dict(
        sorted((unnamed | named).items())
    )


def _for_generators(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema in the words that generators of clients know; it permits the
    same values.

    openapi-python-client leaves out a type that has an array without ``items``,
    or an enumeration of a boolean.
    """
    if schema.get("type") == "array" and "items" not in schema:
        return schema | {"items": {}}
    values = schema.get("enum")
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], bool):
        others = {name: value for name, value in schema.items() if name != "enum"}
        return {"type": "boolean", "const": values[0]} | others
    return schema


def _markdown(text: str) -> str:
    """A docstring as Markdown, each paragraph on one line."""
    paragraphs = inspect.cleandoc(text).replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _operation(
    row: Operation,
    references: Mapping[Any, Any],
    schemas: Mapping[str, dict[str, Any]],
    demo: bool,
) -> dict[str, Any]:
    summary, _, description = inspect.cleandoc(row.text).partition("\n\n")
    if row.reach == "all":
        description += "\n\nThe key must reach all apps."
    described: dict[str, Any] = {
        "operationId": operation_id(row),
        "tags": [row.tag],
        "summary": " ".join(summary.split()).rstrip("."),
        "description": _markdown(description),
        "security": _security(row.need, demo),
        "parameters": _parameters(row, schemas),
        "responses": _responses(row, references),
        **({"deprecated": True} if "" in row.deprecated else {}),
    }
    if row.binary:
        described["requestBody"] = {
            "required": True,
            "content": {row.binary: {"schema": {}}},
        }
    if row.body is not None:
        content: dict[str, Any] = {"schema": {**references[row.body], **row.rules}}
        example = examples_of(row)[0]
        if example is not None:
            content["examples"] = {"example": {"value": example}}
        described["requestBody"] = {"required": True, "content": {JSON: content}}
    return described


def examples_of(row: Operation) -> tuple[Any, Any]:
    """The examples of its request and its answer; None: it has none."""
    examples = _examples_in(sys.modules[row.service.__module__].__package__)
    own = examples.get(f"{row.method} {row.path.removeprefix(PREFIX)}", {})
    answer = own.get(
        "answer", examples.get("answers", {}).get(getattr(row.answer, "__name__", ""))
    )
    return (
        own.get("request") if row.example is None else row.example,
        answer
        if row.answer_example is None
        else msgspec.to_builtins(row.answer_example),
    )


@cache
def _examples_in(package: str | None) -> dict[str, Any]:
    # A module that is in no package has no such file.
    there = package and (file := files(package) / "examples.json").is_file()
    if there:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    return {}


def _security(need: Need, demo: bool) -> list[dict[str, list[str]]]:
    """The credentials of which a request needs one; none: anybody may make
    it."""
    if "nobody" in need.users:
        return []
    credentials: list[dict[str, list[str]]] = []
    if need.scope:
        credentials.append({"key": [] if need is Needs.ANY_KEY else [need.scope]})
    if need.users:
        credentials.append({"token": []})
    if demo and need.scope:
        credentials.append({})
    return credentials


def operation_id(row: Operation) -> str:
    """The name of an operation in generated clients:
    ``post_channels_publish``."""
    path = row.path.replace(".", "/").replace("{", "by_").replace("}", "")
    return "_".join([row.method.lower(), *path.split("/")[3:]])


def _parameters(
    row: Operation, schemas: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    if row.path_id is not None:
        fields = [("id", "path", True, msgspec.json.schema(row.path_id))]
    else:
        fields = []
    if row.query is not None:
        schema = schemas[row.query.__name__]
        needed = schema.get("required", ())
        fields += [
            (name, "query", name in needed, kind)
            for name, kind in schema["properties"].items()
        ]
    examples = examples_of(row)[0] or {}
    parameters = [
        {
            "name": name,
            "in": where,
            "required": required,
            "schema": {
                key: value for key, value in kind.items() if key != "description"
            },
            "description": kind.get("description", ""),
            **({"example": examples[name]} if name in examples else {}),
        }
        for name, where, required, kind in fields
    ]
    return parameters + [_header(header, where="header") for header in row.headers]


def _header(header: Header, where: str = "") -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": header.meaning,
        "schema": {"type": header.kind, **header.limits},
    }
    if header.example is not None:
        described["example"] = header.example
    placed = {
        "name": header.name,
        "in": where,
        "required": header.required,
        **described,
    }
    return placed if where else described


def _responses(row: Operation, references: Mapping[Any, Any]) -> dict[str, Any]:
    shared = (*RATE_HEADERS, REQUEST_ID) if row.limited else (REQUEST_ID,)
    headers = {
        header.name: _header(header) for header in (*row.answer_headers, *shared)
    }
    good: dict[str, Any] = {
        "description": HTTPStatus(row.status).phrase,
        "headers": headers,
    }
    content: dict[str, Any] = {
        "schema": {"type": "string"} if row.answer is None else references[row.answer]
    }
    example = examples_of(row)[1]
    if example is not None:
        content["examples"] = {"example": {"value": example}}
    if row.answer is not None or row.content_type != JSON:
        good["content"] = {row.content_type: content}
    if row.links:
        good["links"] = {
            link.name: {"operationId": link.operation, "parameters": link.parameters}
            for link in row.links
        }
    others = {
        str(status): {
            key: good[key]
            for key in good
            if status != HTTPStatus.NOT_MODIFIED or key != "content"
        }
        | {"description": HTTPStatus(status).phrase}
        for status in row.also
    }
    status_of = attrgetter("status")
    by_status = groupby(sorted(problems_of(row), key=status_of), status_of)
    refusals = {
        str(status): _refusal(row, [*each], references[Problem])
        for status, each in by_status
    }
    return {str(row.status): good, **others, **refusals}


def problems_of(row: Operation) -> tuple[HttpProblem, ...]:
    """All refusals of a route."""
    common = [*_ALWAYS, *(_WITH_BODY if row.body is not None else ())]
    if row.limited:
        common.append(Problems.TOO_MANY_REQUESTS)
    if row.scope:
        common.append(Problems.UNAUTHORIZED)
        if row.need is not Needs.ANY_KEY:
            common.append(Problems.FORBIDDEN)
    users = row.need.users
    if "session" in users or ("nobody" not in users and users & {"account", "bot"}):
        common.append(Problems.ISSUER_UNAVAILABLE)
    return tuple(dict.fromkeys((*row.shared_problems, *row.problems, *common)))


def _refusal(
    row: Operation, problems: Sequence[HttpProblem], reference: Any
) -> dict[str, Any]:
    # What answers with a page may also refuse with one.
    if row.content_type == "text/html":
        page = {row.content_type: {"schema": {"type": "string"}}}
    else:
        page = {}
    examples = {
        problem.code: {
            "summary": problem.message,
            "value": msgspec.to_builtins(
                Problem(problem.code, problem.message, problem.temporary, "7f3a-1")
            ),
        }
        for problem in problems
    }
    return {
        "description": " ".join(problem.message for problem in problems),
        "headers": {REQUEST_ID.name: _header(REQUEST_ID)},
        "content": {JSON: {"schema": reference, "examples": examples}, **page},
    }
