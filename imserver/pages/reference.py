"""``GET /api/v1/docs``: the OpenAPI document of ``/api/v1`` as a page, in
English and Chinese."""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlencode

from gevent import get_hub
from markupsafe import Markup, escape
from msgspec import Struct, field
from werkzeug.wrappers import Response

from imserver.pages import assets
from imserver.pages.text import REFERENCE
from imserver.pages.visitors import (
    Seen,
    language_of_visitor,
    language_parameter,
    render,
)
from imserver.plugin.runtime import Service


@lru_cache(maxsize=1)
def chinese() -> dict[str, str]:
    """Return the translations: a paragraph → its Chinese text."""
    file = assets.TEMPLATES / "reference.zh.json"
    texts: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return texts


_SCHEMAS: Final = "#/components/schemas/"
_SAFE_ADDRESS: Final = "http://address.invalid"
_QUOTED_ADDRESS: Final = "http://[address.invalid]"
"""Placeholders for the address of the server; a shell needs quotes around the
second."""
_CODE: Final = re.compile(r"`([^`]+)`")
_WORDS_OF_SCRIPT: Final = ("no_answer", "bad_json", "cut")
"""Keys of the texts that the script of the page needs."""

Document = Mapping[str, Any]


class Field(Struct, frozen=True):
    """One field of an object, or one parameter.

    ``kind``: its type in words, such as ``[Target]``. ``shape``: the name of
    its schema (``""``: none). ``default``: as JSON (``""``: none). ``bounds``:
    the names and values of its limits.
    """

    name: str
    kind: str
    shape: str
    required: bool
    default: str
    bounds: tuple[tuple[str, str], ...]
    meaning: str


class Reference(Service):
    """Serves the page about the HTTP API.

    A page takes 0.2 s to render, so that is done in a thread, and the result is
    kept. Switches greenlets. ``document`` returns the OpenAPI document as JSON.
    """

    document: Callable[[], bytes]
    seen: Seen
    _pages: dict[tuple[str, ...], bytes] = field(default_factory=dict)
    _pages_of: bytes = b""
    """The document that the pages show."""

    def page(self) -> Response:
        """Return the page in the visitor's language.

        The address is the one by which the visitor reaches the server. Pages
        are rendered with a placeholder in place of the address, so that
        visitors with other addresses get the same rendered page.
        """
        language = language_of_visitor()
        address = self.seen.http()
        # In commands for a shell, some addresses need quotes.
        placeholder = _QUOTED_ADDRESS
        if shlex.quote(address) == address:
            placeholder = _SAFE_ADDRESS

        document = self.document()
        if document != self._pages_of:
            self._pages = {}
            self._pages_of = document
        # The document may change during the rendering; then self._pages is
        # another dict.
        pages = self._pages
        key = (language, language_parameter(), placeholder)
        if key not in pages:
            pages[key] = self._render_in_thread(document, language, placeholder)

        answer = Response(
            headers={"Cache-Control": "no-store", "Vary": "Accept-Language"},
            mimetype="text/html",
        )
        html = pages[key].replace(placeholder.encode(), escape(address).encode())
        answer.set_data(html)
        return answer

    def _render_in_thread(self, document: bytes, language: str, address: str) -> bytes:
        """Render the page of a document. Switches greenlets."""
        # The thread needs the request of this greenlet.
        run = copy_context().run
        arguments = (self._render, json.loads(document), language, address)
        html: bytes = get_hub().threadpool.apply(run, arguments)
        return html

    def _render(self, document: Document, language: str, address: str) -> bytes:
        """Render the page of a document, in a thread.

        ``address``: of the server, or a placeholder for it.
        """
        translations = chinese() if language == "zh" else {}

        def translated(text: str) -> Markup:
            """Translate a text of the document, paragraph by paragraph."""
            paragraphs = text.split("\n\n")
            return marked([translations.get(each, each) for each in paragraphs])

        operations = [
            _row_of(document, address, path, method, operation)
            for path, method, operation in operations_of(document)
        ]
        # The script of the page sends these requests.
        trials = {row["id"]: row["trial"] for row in operations if row["trial"]}
        words = REFERENCE[language]
        words_of_script = {word: words[word] for word in _WORDS_OF_SCRIPT}
        page = render(
            "reference.html",
            language,
            data={"operations": trials, "say": words_of_script},
            say=words,
            chapters=_chapters_of(document, operations),
            shapes=_shapes_of(document),
            info=document["info"],
            demo=_is_demo(document),
            translated=translated,
        )
        return page.get_data()


def _is_demo(document: Document) -> bool:
    """Whether an operation needs no credentials, as in demo mode.

    An empty object among its security needs says so.
    """
    return any({} in each["security"] for _, _, each in operations_of(document))


def _chapters_of(
    document: Document, operations: Sequence[Document]
) -> list[tuple[Document, list[Document]]]:
    """Return the chapters of the page: a tag, and its rows of operations."""
    chapters = []
    for tag in document["tags"]:
        rows = [row for row in operations if row["tag"] == tag["name"]]
        chapters.append((tag, rows))
    return chapters


def _shapes_of(document: Document) -> list[tuple[str, str, Any]]:
    """Return the name, the description and the fields of each named schema."""
    shapes = []
    for name, schema in document["components"]["schemas"].items():
        fields = fields_of(schema, document)
        shapes.append((name, schema.get("description", ""), fields))
    return shapes


def _row_of(
    document: Document, address: str, path: str, method: str, operation: Document
) -> Document:
    """Make the values with which the template shows an operation.

    ``address``: of the server, for the command with curl.
    """
    contents = operation.get("requestBody", {}).get("content", {})
    body = contents.get("application/json", {}).get("schema", {})
    # The first response is the answer to a correct request.
    status, response = next(iter(operation["responses"].items()))
    content: Document = next(iter(response.get("content", {}).values()), {})
    answer = content.get("schema", {})
    return {
        "id": operation["operationId"],
        "tag": operation["tags"][0],
        "method": method.upper(),
        "path": path,
        "scope": _scope_of(operation),
        "token": any("token" in need for need in operation["security"]),
        "summary": operation["summary"],
        "description": operation["description"],
        "query": _parameters_in("query", operation),
        "headers": _parameters_in("header", operation),
        "body": fields_of(body, document),
        "body_shape": _shape_of(body),
        "status": status,
        "answer": fields_of(answer, document),
        "answer_shape": _shape_of(answer),
        "curl": curl_of(address, method, path, operation),
        "example": _pretty(_example(content)),
        "trial": _trial(method, path, operation),
        "refusals": _refusals_of(operation),
    }


def _parameters_in(kind: str, operation: Document) -> list[Field]:
    """Return the parameters of an operation in its query, or in its headers.

    ``kind``: ``query`` or ``header``. Required parameters come first.
    """
    return [
        _field(
            parameter["name"],
            parameter["schema"],
            parameter["required"],
            parameter.get("description", ""),
        )
        for parameter in sorted(operation["parameters"], key=_is_optional)
        if parameter["in"] == kind
    ]


def _is_optional(parameter: Document) -> bool:
    """Whether a request may leave out a parameter. Sorts these behind the others."""
    return not parameter["required"]


def _scope_of(operation: Document) -> str:
    """Return the scope that a key needs, or ``""``."""
    for need in operation["security"]:
        for scope in need.get("key", ()):
            return str(scope)
    return ""


def _refusals_of(operation: Document) -> list[Document]:
    """Return the examples of refusals, each with its status."""
    refusals: list[Document] = []
    for status, response in operation["responses"].items():
        if status >= "400":
            examples = response["content"]["application/json"]["examples"]
            for example in examples.values():
                refusals.append({"status": status, **example["value"]})
    return refusals


def operations_of(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Yield path, method and description of every operation, in order."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def curl_of(address: str, method: str, path: str, operation: Document) -> str:
    """Make a shell command that sends a request, with the examples.

    Example: ``curl -H "Authorization: Bearer $KEY" -d '{…}'
    http://localhost:8080/api/v1/push``.
    """
    words = ["curl", *_curl_of_protocol(operation), *_curl_of_token(operation)]
    words += _curl_of_body(operation)
    words += _curl_of_method(method, operation)
    words += _curl_of_headers(operation)
    words.append(shlex.quote(address + _filled(path, operation["parameters"])))
    return " ".join(words)


def _curl_of_protocol(operation: Document) -> Iterator[str]:
    """Yield the options that a WebSocket or a stream of events needs."""
    responses = operation["responses"]
    if "101" in responses:
        yield (
            "-i -N -H 'Connection: Upgrade' -H 'Upgrade: websocket' "
            "-H 'Sec-WebSocket-Version: 13' "
            "-H 'Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw=='"
        )
    elif "text/event-stream" in responses.get("200", {}).get("content", {}):
        yield "-N"


def _curl_of_token(operation: Document) -> Iterator[str]:
    """Yield the option with the key or the token, as a variable."""
    if any("key" in need for need in operation["security"]):
        yield '-H "Authorization: Bearer $KEY"'
    elif operation["security"]:
        yield '-H "Authorization: Bearer $TOKEN"'


def _curl_of_headers(operation: Document) -> Iterator[str]:
    """Yield the options with headers.

    Headers that a request may leave out would only make the command long.
    """
    for parameter in operation["parameters"]:
        if parameter["in"] == "header" and parameter["required"]:
            header = f"{parameter['name']}: {parameter['example']}"
            yield f"-H {shlex.quote(header)}"


def _curl_of_body(operation: Document) -> Iterator[str]:
    """Yield the options with the body: an example, or a file if it is not JSON.

    Operations without a body have no such option.
    """
    if "requestBody" not in operation:
        return
    content = operation["requestBody"]["content"]
    body = content.get("application/json")
    if body is not None:
        example = json.dumps(_example(body), ensure_ascii=False)
        yield "-d " + shlex.quote(example)
        return
    yield "-H " + shlex.quote(f"Content-Type: {next(iter(content))}")
    yield "--data-binary @" + shlex.quote(_file_of_example(operation))


def _file_of_example(operation: Document) -> str:
    """Return the name of the file that the command sends.

    The example of the parameter `name` is the name of a file.
    """
    for parameter in operation["parameters"]:
        if parameter["name"] == "name":
            return str(parameter["example"])
    return "file"


def _curl_of_method(method: str, operation: Document) -> Iterator[str]:
    """Yield the option for the method, if curl would choose another one.

    With a body curl chooses POST, otherwise GET.
    """
    default = "post" if "requestBody" in operation else "get"
    if method == "head":
        yield "-I"
    elif method not in ("get", default):
        yield f"-X {method.upper()}"


def _filled(path: str, parameters: Sequence[Document]) -> str:
    """Return the path and the query, with the examples of their parameters.

    ``/users/{id}`` becomes ``/users/ann?limit=50``, for example.
    """
    query = {}
    for parameter in parameters:
        name = parameter["name"]
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", parameter["example"])
        # A parameter without an example is optional.
        elif parameter["in"] == "query" and "example" in parameter:
            query[name] = parameter["example"]
    if query:
        return f"{path}?{urlencode(query, safe=':,')}"
    return path


def _trial(method: str, path: str, operation: Document) -> Document | None:
    """Return the data with which the script of the page sends this request.

    None: the script cannot send a request that needs a WebSocket, or headers.
    """
    if "101" in operation["responses"]:
        return None
    parameters = []
    for parameter in operation["parameters"]:
        if parameter["in"] == "header" and parameter["required"]:
            return None
        if parameter["in"] in ("path", "query"):
            parameters.append(_field_of_trial(parameter))

    contents = operation.get("requestBody", {}).get("content", {})
    content = contents.get("application/json")
    body = None
    if content is not None:
        body = _pretty(_example(content))
    return {
        "method": method.upper(),
        "path": path,
        "parameters": parameters,
        "body": body,
        # A body of another type is a file that the reader chooses.
        "file": bool(contents) and content is None,
    }


def _example(content: Document) -> Any:
    """Return the first example of a content; None without examples."""
    for example in content.get("examples", {}).values():
        return example["value"]
    return None


def _pretty(example: Any) -> str:
    """Return an example as indented JSON.

    A text stays as it is, and None becomes ``""``.
    """
    if isinstance(example, str):
        return example
    if example is None:
        return ""
    return json.dumps(example, ensure_ascii=False, indent=2)


# --- schemas ------------------------------------------------------------------


def fields_of(schema: Document, document: Document) -> tuple[Field, ...]:
    """Return the fields of a schema of an object, the required fields first.

    If the schema refers to another one, its fields are returned.
    """
    # The document has each schema once, and refers to it by its name.
    shape = _shape_of(schema)
    if shape:
        schema = document["components"]["schemas"][shape]
    required = schema.get("required", ())
    fields = [
        _field(name, kind, name in required, kind.get("description", ""))
        for name, kind in schema.get("properties", {}).items()
    ]
    return tuple(sorted(fields, key=lambda field: not field.required))


def _field(name: str, schema: Document, required: bool, meaning: str) -> Field:
    """Describe a field by its schema. An empty default is not shown.

    ``meaning``: its description.
    """
    default = ""
    if schema.get("default") not in (None, "", [], {}):
        default = json.dumps(schema["default"], ensure_ascii=False)
    bounds = []
    # The texts of the page name the limits that it shows.
    for bound in REFERENCE["en"]["bounds"]:
        if bound in schema:
            bounds.append((bound, _short(schema[bound])))

    return Field(
        name=name,
        kind=kind_of(schema),
        shape=_shape_of(schema),
        required=required,
        default=default,
        bounds=tuple(bounds),
        meaning=meaning,
    )


def _short(value: object) -> str:
    """Return a limit as text: 1.0 is ``1``."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _field_of_trial(parameter: Document) -> Document:
    """Return the field of the page in which the reader gives a parameter."""
    return {
        "name": parameter["name"],
        "in": parameter["in"],
        "value": str(parameter.get("example", "")),
        "required": parameter["required"],
    }


def kind_of(schema: Document) -> str:
    """Return a short description of a schema.

    Examples: ``string``, ``[Target]`` (a list), ``"a" | "b"``, ``{… :
    integer}`` (any keys).
    """
    shape = schema.get("$ref", "").removeprefix(_SCHEMAS)
    if shape:
        return str(shape)
    if "anyOf" in schema or "enum" in schema:
        return " | ".join(_variants_of(schema))
    if schema.get("type") == "array":
        return f"[{kind_of(schema.get('items', {}))}]"
    values = schema.get("additionalProperties")
    if schema.get("type") == "object" and isinstance(values, dict):
        return f"{{… : {kind_of(values)}}}"
    return str(schema.get("type", "any"))


def _not_null(schemas: Sequence[Document]) -> list[Document]:
    """Leave out the schema of null: a field that may be null is shown without it."""
    return [schema for schema in schemas if schema.get("type") != "null"]


def _shape_of(schema: Document) -> str:
    """Return the name of the only schema to which a schema refers.

    ``""``: it refers to no schema, or to several.
    """
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_SCHEMAS)
    if "anyOf" in schema:
        # A field that may be null refers to one schema, beside null.
        shapes = set(map(_shape_of, _not_null(schema["anyOf"])))
        if len(shapes) == 1:
            return shapes.pop()
        return ""
    if schema.get("type") == "array":
        return _shape_of(schema.get("items", {}))
    return ""


def marked(paragraphs: Sequence[str]) -> Markup:
    """Convert texts to paragraphs; words in backticks become code."""
    lines = []
    for paragraph in paragraphs:
        text = str(escape(paragraph))
        lines.append(_CODE.sub(r"<code>\1</code>", text))
    return Markup("<br>".join(lines))


def _variants_of(schema: Document) -> Iterable[str]:
    """Return the descriptions of the schemas or values that a schema allows."""
    if "anyOf" in schema:
        # A dict, because two schemas may have the same description.
        return dict.fromkeys(map(kind_of, _not_null(schema["anyOf"])))
    return [json.dumps(value, ensure_ascii=False) for value in schema["enum"]]
