"""``GET /api/v1/docs``: the OpenAPI document of ``/api/v1`` as a page, in
English and Chinese."""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """Text of the document, paragraph by paragraph → its Chinese
    translation."""
    texts: dict[str, str] = json.loads(
        (assets.TEMPLATES / "reference.zh.json").read_text(encoding="utf-8")
    )
    return texts


_SCHEMAS: Final = "#/components/schemas/"
_SAFE_ADDRESS: Final = "http://address.invalid"
_QUOTED_ADDRESS: Final = "http://[address.invalid]"
"""Placeholders for the address of the server; a shell needs quotes around the
second."""
_CODE: Final = re.compile(r"`([^`]+)`")

Document = Mapping[str, Any]


class Field(Struct, frozen=True):
    """One field of an object, or one parameter. ``shape``: the name of its
    schema, if it has one."""

    name: str
    kind: str
    shape: str
    required: bool
    default: str
    bounds: tuple[tuple[str, str], ...]
    meaning: str


class Reference(Service):
    """The page, and owner of the rendered ones, which take 0.2 s each, in a
    thread. Switches. ``document`` returns the OpenAPI document as JSON."""

    document: Callable[[], bytes]
    seen: Seen
    _pages: dict[tuple[str, ...], bytes] = field(default_factory=dict)
    _pages_of: bytes = b""
    """The document that they show."""

    def page(self) -> Response:
        """The page in the visitor's language, with the address by which the
        visitor reaches this server."""
        language = language_of_visitor()
        address = self.seen.http()
        if shlex.quote(address) == address:
            shown_as = _SAFE_ADDRESS
        else:
            shown_as = _QUOTED_ADDRESS
        written = self.document()
        if written != self._pages_of:
            self._pages = {}
            self._pages_of = written
        pages = self._pages
        key = (language, language_parameter(), shown_as)
        answer = Response(
            headers={"Cache-Control": "no-store", "Vary": "Accept-Language"},
            mimetype="text/html",
        )
        if key not in pages:
            rendering = (
                copy_context().run,
                (self._render, json.loads(written), language, shown_as),
            )
            pages[key] = get_hub().threadpool.apply(*rendering)
        answer.set_data(pages[key].replace(shown_as.encode(), escape(address).encode()))
        return answer

    def _render(self, document: Document, language: str, address: str) -> bytes:
        other = chinese() if language == "zh" else {}
        operations = [
            _shown(document, address, *each) for each in operations_of(document)
        ]
        page = render(
            "reference.html",
            language,
            data={
                "operations": {
                    each["id"]: each["trial"] for each in operations if each["trial"]
                },
                "say": {
                    word: REFERENCE[language][word]
                    for word in ("no_answer", "bad_json", "cut")
                },
            },
            say=REFERENCE[language],
            chapters=[
                (tag, [each for each in operations if each["tag"] == tag["name"]])
                for tag in document["tags"]
            ],
            shapes=[
                (name, schema.get("description", ""), fields_of(schema, document))
                for name, schema in document["components"]["schemas"].items()
            ],
            info=document["info"],
            demo=any({} in each["security"] for _, _, each in operations_of(document)),
            translated=lambda text: marked(
                [other.get(part, part) for part in text.split("\n\n")]
            ),
        )
        return page.get_data()


def _shown(
    document: Document, address: str, path: str, method: str, operation: Document
) -> Document:
    parameters = [
        (
            each["in"],
            _field(
                each["name"],
                each["schema"],
                each["required"],
                each.get("description", ""),
            ),
        )
        for each in sorted(
            operation["parameters"], key=lambda each: not each["required"]
        )
    ]
    body = (
        operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    )
    status, good = next(iter(operation["responses"].items()))
    answered: Document = next(iter(good.get("content", {}).values()), {})
    return {
        "id": operation["operationId"],
        "tag": operation["tags"][0],
        "method": method.upper(),
        "path": path,
        "scope": next(
            (scope for need in operation["security"] for scope in need.get("key", ())),
            "",
        ),
        "token": any("token" in need for need in operation["security"]),
        "summary": operation["summary"],
        "description": operation["description"],
        "query": [field for where, field in parameters if where == "query"],
        "headers": [field for where, field in parameters if where == "header"],
        "body": fields_of(body.get("schema", {}), document),
        "body_shape": _shape_of(body.get("schema", {})),
        "status": status,
        "answer": fields_of(answered.get("schema", {}), document),
        "answer_shape": _shape_of(answered.get("schema", {})),
        "curl": curl_of(address, method, path, operation),
        "example": _pretty(_example(answered)),
        "trial": _trial(method, path, operation),
        "refusals": [
            {"status": status, **each["value"]}
            for status, response in operation["responses"].items()
            if status >= "400"
            for each in response["content"]["application/json"]["examples"].values()
        ],
    }


def operations_of(document: Document) -> Iterator[tuple[str, str, Document]]:
    """(path, method, operation) of every operation, in the order of the
    document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def curl_of(address: str, method: str, path: str, operation: Document) -> str:
    """A shell command that makes this request, with the examples of the
    document."""
    words = ["curl", *_curl_of_protocol(operation), *_curl_of_token(operation)]
    words += _curl_of_body(operation)
    words += _curl_of_method(method, operation)
    for parameter in operation["parameters"]:
        if parameter["in"] == "header" and parameter["required"]:
            words.append(
                "-H " + shlex.quote(f"{parameter['name']}: {parameter['example']}")
            )
    words.append(shlex.quote(address + _filled(path, operation["parameters"])))
    return " ".join(words)


def _curl_of_protocol(operation: Document) -> Iterator[str]:
    """What a WebSocket or a stream of events needs."""
    responses = operation["responses"]
    if "101" in responses:
        yield (
            "-i -N -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' "
            "-H 'Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw=='"
        )
    elif "text/event-stream" in responses.get("200", {}).get("content", {}):
        yield "-N"


def _curl_of_token(operation: Document) -> Iterator[str]:
    """The key or token, by the name of a variable of the shell."""
    if any("key" in need for need in operation["security"]):
        yield '-H "Authorization: Bearer $KEY"'
    elif operation["security"]:
        yield '-H "Authorization: Bearer $TOKEN"'


def _curl_of_body(operation: Document) -> Iterator[str]:
    """The body: an example, or a file if it is not JSON."""
    if "requestBody" not in operation:
        return
    content = operation["requestBody"]["content"]
    body = content.get("application/json")
    if body is not None:
        example = json.dumps(_example(body), ensure_ascii=False)
        yield "-d " + shlex.quote(example)
        return
    yield "-H " + shlex.quote(f"Content-Type: {next(iter(content))}")
    names = (
        parameter["example"]
        for parameter in operation["parameters"]
        if parameter["name"] == "name"
    )
    yield "--data-binary @" + shlex.quote(next(names, "file"))


def _curl_of_method(method: str, operation: Document) -> Iterator[str]:
    """The method, where curl would not choose it: with a body it is POST, else
    GET."""
    chosen = "post" if "requestBody" in operation else "get"
    if method == "head":
        yield "-I"
    elif method not in ("get", chosen):
        yield f"-X {method.upper()}"


def _filled(path: str, parameters: Sequence[Document]) -> str:
    """The path and the query, with the examples of their parameters."""
    query = {
        parameter["name"]: parameter["example"]
        for parameter in parameters
        if parameter["in"] == "query" and "example" in parameter
    }
    for parameter in parameters:
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
    if query:
        return f"{path}?{urlencode(query, safe=':,')}"
    return path


def _trial(method: str, path: str, operation: Document) -> Document | None:
    """The data with which the script of the page sends this request; None: it
    needs a WebSocket, or headers."""
    needed = any(
        each["in"] == "header" and each["required"] for each in operation["parameters"]
    )
    if needed or "101" in operation["responses"]:
        return None
    content = operation.get("requestBody", {}).get("content", {})
    body = content.get("application/json")
    return {
        "method": method.upper(),
        "path": path,
        "parameters": [
            {
                "name": each["name"],
                "in": each["in"],
                "value": str(each.get("example", "")),
                "required": each["required"],
            }
            for each in operation["parameters"]
            if each["in"] in ("path", "query")
        ],
        "body": None if body is None else _pretty(_example(body)),
        "file": bool(content) and body is None,
    }


def _example(content: Document) -> Any:
    return next((each["value"] for each in content.get("examples", {}).values()), None)


def _pretty(example: Any) -> str:
    if isinstance(example, str):
        return example
    if example is None:
        return ""
    return json.dumps(example, ensure_ascii=False, indent=2)


# --- schemas ------------------------------------------------------------------


def fields_of(schema: Document, document: Document) -> tuple[Field, ...]:
    """The fields of an object's schema or of a named schema, the required ones
    first."""
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
    default = schema.get("default")
    return Field(
        name,
        kind_of(schema),
        _shape_of(schema),
        required,
        ""
        if default in (None, "", [], {})
        else json.dumps(default, ensure_ascii=False),
        tuple(
            (bound, _short(schema[bound]))
            for bound in REFERENCE["en"]["bounds"]
            if bound in schema
        ),
        meaning,
    )


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def kind_of(schema: Document) -> str:
    """A short description of a schema: ``string``, ``[Target]``, ``"a" |
    "b"``."""
    shape = schema.get("$ref", "").removeprefix(_SCHEMAS)
    if shape:
        return str(shape)
    if "anyOf" in schema:
        kinds = (
            kind_of(each) for each in schema["anyOf"] if each.get("type") != "null"
        )
        return " | ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return " | ".join(
            json.dumps(each, ensure_ascii=False) for each in schema["enum"]
        )
    if schema.get("type") == "array":
        return f"[{kind_of(schema.get('items', {}))}]"
    if schema.get("type") == "object" and isinstance(
        schema.get("additionalProperties"), dict
    ):
        return f"{{… : {kind_of(schema['additionalProperties'])}}}"
    return str(schema.get("type", "any"))


def _shape_of(schema: Document) -> str:
    """The only name in a schema; ``""`` if there is none, or several."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_SCHEMAS)
    if "anyOf" in schema:
        shapes = {
            _shape_of(each) for each in schema["anyOf"] if each.get("type") != "null"
        }
        return shapes.pop() if len(shapes) == 1 else ""
    if schema.get("type") == "array":
        return _shape_of(schema.get("items", {}))
    return ""


def marked(paragraphs: Sequence[str]) -> Markup:
    """Convert texts to paragraphs; words in backticks become code."""
    return Markup(
        "<br>".join(
            _CODE.sub(r"<code>\1</code>", str(escape(each))) for each in paragraphs
        )
    )
