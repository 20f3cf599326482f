"""The OpenAPI 3.1 document of ``/api/v1``, made from the table of operations.

The schemas come from the msgspec Structs that check the requests and make the
answers. If a Struct is published under another name, a field has the type
``Annotated[Row, Meta(title="RowShown")]``. It has a ``description`` if the
published text is not the docstring. This module adds the parts that all routes
share: keys, problems, ids.
"""

import inspect
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    "presence": "Online users, their sessions, and the start of each session.",
    "channels": "Names that connections subscribe to. Publications may have a history.",
    "sessions": "End sessions and ban users.",
    "conversations": (
        "Send, recall, edit, list, search and sync stored messages, with receipts."
    ),
    "apps": "The tenants of this server. No data passes from one app to another.",
    "events": "Receive events without a WebSocket, and read durable events.",
    "document": "The description of this API.",
}
"""The chapters of the core, in order. The chapters of features follow."""

_EXAMPLE_REQUEST: Final = "7f3a-1"
REQUEST_ID: Final = Header(
    "X-Request-Id",
    "The id of this request in the server's log. If the request has an id, the server "
    "uses it.",
    example=_EXAMPLE_REQUEST,
)
RATE_HEADERS: Final = (
    Header(
        "RateLimit-Limit",
        "The maximum number of requests per second of the key, user or address.",
        "integer",
        1000,
    ),
    Header("RateLimit-Remaining", "The number of remaining requests.", "integer", 999),
    Header(
        "RateLimit-Reset",
        "The number of seconds until all requests are available again.",
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
    """Make the OpenAPI document, of dicts and lists.

    ``numbers`` is name of a setting → its limit on this server. If a schema has
    such a name in place of a number, the number replaces the name. ``demo`` is
    True if requests need no key. ``root`` is the path below which a proxy
    serves this server. ``""`` means that there is no such path.
    """
    rows = tuple(operations)
    references, schemas = _schemas(rows, numbers)
    operations_by_path: dict[str, dict[str, Any]] = {}
    for row in rows:
        operation = _operation(row, references, schemas, demo)
        operations_by_path.setdefault(row.path, {})[row.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": _info(),
        "servers": [{"url": root or "/"}],
        "tags": _chapters(rows),
        "paths": operations_by_path,
        "components": {
            "schemas": _without_queries(schemas, rows),
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def _without_queries(
    schemas: Mapping[str, Any], rows: Iterable[Operation]
) -> dict[str, Any]:
    """Leave out the schemas of queries, which the document has as
    parameters."""
    queries = _names_of_queries(rows)
    return {name: schema for name, schema in schemas.items() if name not in queries}


def _info() -> dict[str, Any]:
    """Describe the API as a whole."""
    return {
        "title": "imserver",
        "version": __version__,
        "summary": "Push to connected users, list online users, and manage channels.",
        "description": _markdown(_DESCRIPTION),
        "license": {"name": "MIT", "identifier": "MIT"},
    }


def _names_of_queries(rows: Iterable[Operation]) -> set[str]:
    """Return the names of the Structs that are only queries.

    The document has queries as parameters, so it needs no schemas of them.
    """
    bodies = {row.body for row in rows}
    return {
        row.query.__name__
        for row in rows
        if row.query is not None and row.query not in bodies
    }


def _chapters(rows: Iterable[Operation]) -> list[dict[str, str]]:
    """Describe the chapters of the document, which the core and features have.

    Chapters without an operation are left out.
    """
    tags = {row.tag for row in rows}
    chapters_of_features = {row.tag: row.chapter for row in rows if row.chapter}
    chapters = TAGS | chapters_of_features
    return [
        {"name": name, "description": text}
        for name, text in chapters.items()
        if name in tags
    ]


_SECURITY_SCHEMES: Final = {
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
}
_SCHEMAS: Final = "#/components/schemas/"
_DESCRIPTION: Final = """Requests and answers are JSON in UTF-8. Use POST to
                      change data. Use GET, with parameters in the query, to
                      read data. The server refuses unknown fields, so that
                      you notice typing errors.

    A refused request gets an HTTP error status and a body `{"code", "message", "temporary", "request_id"}`.
    If `temporary` is true, the same request may succeed later.
    """


def _schemas(
    rows: Sequence[Operation], numbers: Mapping[str, int]
) -> tuple[dict[Any, Any], dict[str, dict[str, Any]]]:
    """Make the schemas of all requests and answers.

    Returns type → the reference to its schema (``{"$ref": …}``), and name →
    schema. ``numbers`` is name of a setting → its limit on this server.
    """
    types = _types_of(rows)
    kind_schemas, components = msgspec.json.schema_components(
        types, ref_template=_SCHEMAS + "{name}"
    )
    titled: dict[str, dict[str, Any]] = {}
    filled_references = _filled(kind_schemas, numbers, titled)
    schemas = _filled(components, numbers, titled)
    references = dict(zip(types, filled_references, strict=True))
    return references, dict(sorted(_published(schemas, titled).items()))


def _types_of(rows: Iterable[Operation]) -> list[Any]:
    """List the types of all requests and answers, each once."""
    kinds = itertools.chain.from_iterable(
        (row.query, row.body, row.answer) for row in rows
    )
    unique = dict.fromkeys([Problem, *kinds])
    return [kind for kind in unique if kind is not None]


def _filled(
    schema: Any, numbers: Mapping[str, int], titled: dict[str, dict[str, Any]]
) -> Any:
    """Return a schema with Markdown for its texts and numbers for settings.

    ``numbers`` is name of a setting → the number that replaces the name. A
    reference with a title becomes a reference to the title, and is added to
    ``titled``: its Struct is published under another name.
    """
    if isinstance(schema, tuple | list):
        return [_filled(each, numbers, titled) for each in schema]
    if isinstance(schema, str):
        return numbers.get(schema, schema)
    if not isinstance(schema, dict):
        return schema
    return _filled_object(schema, numbers, titled)


def _filled_object(
    schema: Mapping[str, Any],
    numbers: Mapping[str, int],
    titled: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return an object of a schema as :func:`_filled` does."""
    filled = {name: _filled(value, numbers, titled) for name, value in schema.items()}
    if isinstance(filled.get("description"), str):
        filled["description"] = _markdown(filled["description"])
    # The Struct of this reference has another name in the document.
    if "$ref" in filled and "title" in filled:
        titled[filled["title"]] = filled
        return {"$ref": _SCHEMAS + filled["title"]}
    return _for_generators(filled)


def _published(
    schemas: Mapping[str, Any], titled: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Publish each Struct that has a title under its title alone.

    ``titled`` is title → the reference to the Struct, with the texts that
    replace the texts of the Struct.
    """
    # Without the reference, only the texts of the field are left.
    structs_by_title = {
        title: schema.pop("$ref").removeprefix(_SCHEMAS)
        for title, schema in titled.items()
    }
    published = {
        name: schema
        for name, schema in schemas.items()
        if name not in structs_by_title.values()
    }
    for title, struct in structs_by_title.items():
        published[title] = schemas[struct] | titled[title]
    return published


def _for_generators(schema: dict[str, Any]) -> dict[str, Any]:
    """Rewrite a schema for generators of clients, with the same meaning.

    openapi-python-client leaves out a type that has an array without ``items``,
    or an enumeration of one boolean.
    """
    if schema.get("type") == "array" and "items" not in schema:
        return schema | {"items": {}}
    values = schema.get("enum")
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], bool):
        # An enumeration of one value is a constant. The generators know the
        # other form.
        others = {name: value for name, value in schema.items() if name != "enum"}
        return {"type": "boolean", "const": values[0]} | others
    return schema


def _markdown(text: str) -> str:
    """Convert a docstring to Markdown, with each paragraph on one line."""
    paragraphs = inspect.cleandoc(text).replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _operation(
    row: Operation,
    references: Mapping[Any, Any],
    schemas: Mapping[str, dict[str, Any]],
    demo: bool,
) -> dict[str, Any]:
    """Describe one operation: method, path, parameters, body and answers.

    ``references`` is type → the reference to its schema. ``schemas`` is name →
    schema. With ``demo``, no key is needed.
    """
    summary, description = _texts_of(row)
    operation: dict[str, Any] = {
        "operationId": operation_id(row),
        "tags": [row.tag],
        "summary": summary,
        "description": description,
        "security": _security(row.need, demo),
        "parameters": _parameters(row, schemas),
        "responses": _responses(row, references),
    }
    if "" in row.deprecated:
        operation["deprecated"] = True
    content = _body_content(row, references)
    if content:
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _texts_of(row: Operation) -> tuple[str, str]:
    """Return the summary and the description of an operation.

    They come from a docstring, whose first paragraph is the summary.
    """
    summary, _, description = inspect.cleandoc(row.text).partition("\n\n")
    if row.reach == "all":
        description += "\n\nThe key must reach all apps."
    return " ".join(summary.split()).rstrip("."), _markdown(description)


def _body_content(row: Operation, references: Mapping[Any, Any]) -> dict[str, Any]:
    """Describe the body of a request: media type → its schema and example.

    The result is empty if the operation has no body.
    """
    if row.body is not None:
        content: dict[str, Any] = {"schema": {**references[row.body], **row.rules}}
        example = examples_of(row)[0]
        if example is not None:
            content["examples"] = {"example": {"value": example}}
        return {JSON: content}
    # The body is the content of a file.
    if row.binary:
        return {row.binary: {"schema": {}}}
    return {}


def examples_of(row: Operation) -> tuple[Any, Any]:
    """Return the examples of the request and of the answer of an operation.

    They are in the row of the operation, or in ``examples.json`` of the package
    of its service. The result is None if there is no example.
    """
    examples = _examples_in(sys.modules[row.service.__module__].__package__)
    route_examples = examples.get(f"{row.method} {row.path.removeprefix(PREFIX)}", {})

    request = row.example
    if request is None:
        request = route_examples.get("request")
    if row.answer_example is not None:
        return request, msgspec.to_builtins(row.answer_example)
    shared_answer = _shared_answer(row, examples)
    return request, route_examples.get("answer", shared_answer)


def _shared_answer(row: Operation, examples: Mapping[str, Any]) -> Any:
    """Return the example of all answers with the Struct of an operation.

    Several operations may answer with the same Struct. The result is None
    if the Struct has no example.
    """
    answer_name = getattr(row.answer, "__name__", "")
    return examples.get("answers", {}).get(answer_name)


@cache
def _examples_in(package: str | None) -> dict[str, Any]:
    """Read ``examples.json`` of a package. The result is empty if the package
    has no such file."""
    if not package:
        return {}
    file = files(package) / "examples.json"
    if not file.is_file():
        return {}
    return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])


def _security(need: Need, demo: bool) -> list[dict[str, list[str]]]:
    """List the credentials with which a request is accepted.

    The request needs one of them. An empty list means that anybody may make the
    request. An empty entry means that no credential is also enough.
    """
    if "nobody" in need.users:
        return []
    credentials: list[dict[str, list[str]]] = []
    if need is Needs.ANY_KEY:
        credentials.append({"key": []})
    elif need.scope:
        credentials.append({"key": [need.scope]})
    if need.users:
        credentials.append({"token": []})
    # An empty entry means that no credential is needed.
    if demo and need.scope:
        credentials.append({})
    return credentials


def operation_id(row: Operation) -> str:
    """Return the name of an operation in generated clients.

    For example, ``post_channels_publish``.
    """
    path = row.path.replace(".", "/").replace("{", "by_").replace("}", "")
    parts = path.removeprefix(f"{PREFIX}/").split("/")
    return "_".join([row.method.lower(), *parts])


def _parameters(
    row: Operation, schemas: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Describe the parameters of an operation: path, query and headers.

    ``schemas`` is name of a Struct → its schema.
    """
    request_example, _ = examples_of(row)
    examples = request_example or {}
    parameters = []
    for parameter in _fields_of_request(row, schemas):
        name = parameter["name"]
        if name in examples:
            parameter["example"] = examples[name]
        parameters.append(parameter)
    return parameters + [_header(header, where="header") for header in row.headers]


def _fields_of_request(
    row: Operation, schemas: Mapping[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Describe the id in the path and the fields of the query.

    ``schemas`` is name of a Struct → its schema.
    """
    if row.path_id is not None:
        schema = msgspec.json.schema(row.path_id)
        yield _parameter("id", "path", schema, required=True)
    if row.query is not None:
        schema = schemas[row.query.__name__]
        # The schema of the Struct knows which fields have no default.
        required = schema.get("required", ())
        for name, kind in schema["properties"].items():
            yield _parameter(name, "query", kind, required=name in required)


def _parameter(
    name: str, where: str, schema: Mapping[str, Any], required: bool
) -> dict[str, Any]:
    """Describe a parameter. Its description is outside of its schema."""
    kind = dict(schema)
    description = kind.pop("description", "")
    return {
        "name": name,
        "in": where,
        "required": required,
        "schema": kind,
        "description": description,
    }


def _header(header: Header, where: str = "") -> dict[str, Any]:
    """Describe a header of an answer.

    If ``where`` is ``"header"``, describe it as a parameter of a request
    instead, which also has its name and its place.
    """
    fields: dict[str, Any] = {
        "description": header.meaning,
        "schema": {"type": header.kind, **header.limits},
    }
    if header.example is not None:
        fields["example"] = header.example
    if not where:
        return fields
    return {
        "name": header.name,
        "in": where,
        "required": header.required,
        **fields,
    }


def _responses(row: Operation, references: Mapping[Any, Any]) -> dict[str, Any]:
    """Describe the answers of an operation, by status.

    The usual answer comes first, then other successful ones, then refusals.
    ``references`` is type → the reference to its schema.
    """
    success = _success(row, references)
    responses = {str(row.status): success}
    for status in row.also:
        responses[str(status)] = _with_status(success, status)

    # Several problems may share a status: they are one answer with examples.
    status_of = attrgetter("status")
    by_status = groupby(sorted(problems_of(row), key=status_of), status_of)
    for status, problems in by_status:
        responses[str(status)] = _refusal(row, [*problems], references[Problem])
    return responses


def _with_status(success: Mapping[str, Any], status: int) -> dict[str, Any]:
    """Describe a successful answer with another status than the usual one."""
    other = {**success, "description": HTTPStatus(status).phrase}
    # The client has the content already.
    if status == HTTPStatus.NOT_MODIFIED:
        other.pop("content", None)
    return other


def _success(row: Operation, references: Mapping[Any, Any]) -> dict[str, Any]:
    """Describe the usual answer of an operation, which does not refuse.

    ``references`` is type → the reference to its schema.
    """
    response: dict[str, Any] = {
        "description": HTTPStatus(row.status).phrase,
        "headers": _headers_of_success(row),
    }
    # An answer 204 has no content.
    if row.answer is not None or row.content_type != JSON:
        content = _success_content(row, references)
        response["content"] = {row.content_type: content}
    if row.links:
        response["links"] = {
            link.name: {"operationId": link.operation, "parameters": link.parameters}
            for link in row.links
        }
    return response


def _headers_of_success(row: Operation) -> dict[str, Any]:
    """Describe the headers of the usual answer, by their names."""
    headers = [*row.answer_headers]
    if row.limited:
        headers += RATE_HEADERS
    headers.append(REQUEST_ID)
    return {header.name: _header(header) for header in headers}


def _success_content(row: Operation, references: Mapping[Any, Any]) -> dict[str, Any]:
    """Describe the body of the usual answer: its schema and its example.

    If the operation has no Struct for its answer, the body is a text.
    """
    content: dict[str, Any] = {"schema": {"type": "string"}}
    if row.answer is not None:
        content["schema"] = references[row.answer]
    _, example = examples_of(row)
    if example is not None:
        content["examples"] = {"example": {"value": example}}
    return content


def problems_of(row: Operation) -> tuple[HttpProblem, ...]:
    """List all refusals of a route, each once.

    The route declares some refusals itself. Others follow from its rules: a
    body can be too large, and a token can be from an issuer that does not
    answer.
    """
    common = [*_ALWAYS]
    if row.body is not None:
        common += _WITH_BODY
    if row.limited:
        common.append(Problems.TOO_MANY_REQUESTS)
    if row.scope:
        common.append(Problems.UNAUTHORIZED)
        if row.need is not Needs.ANY_KEY:
            common.append(Problems.FORBIDDEN)
    # The keys of tokens may have to be fetched from their issuer.
    if _reads_tokens(row):
        common.append(Problems.ISSUER_UNAVAILABLE)
    return tuple(dict.fromkeys((*row.shared_problems, *row.problems, *common)))


def _reads_tokens(row: Operation) -> bool:
    """Tell whether a route reads the token of a user.

    A route for everybody reads no token, unless it accepts session tokens.
    """
    users = row.need.users
    requires_account = "nobody" not in users and users & {"account", "bot"}
    return "session" in users or bool(requires_account)


def _refusal(
    row: Operation, problems: Sequence[HttpProblem], reference: Any
) -> dict[str, Any]:
    """Describe the answer with any of these problems, which share a status.

    ``reference`` refers to the schema of :class:`Problem`, the body of the
    answer.
    """
    examples = {problem.code: _example_of(problem) for problem in problems}
    content: dict[str, Any] = {JSON: {"schema": reference, "examples": examples}}
    # A route that answers with a page may also refuse with a page.
    if row.content_type == "text/html":
        content[row.content_type] = {"schema": {"type": "string"}}
    return {
        "description": " ".join(problem.message for problem in problems),
        "headers": {REQUEST_ID.name: _header(REQUEST_ID)},
        "content": content,
    }


def _example_of(problem: HttpProblem) -> dict[str, Any]:
    """Make the example of an answer with this problem."""
    body = Problem(problem.code, problem.message, problem.temporary, _EXAMPLE_REQUEST)
    return {"summary": problem.message, "value": msgspec.to_builtins(body)}
