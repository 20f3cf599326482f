"""``GET /api/v1/docs``: the OpenAPI document of ``/api/v1`` as a page, in English and Chinese."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlencode

from flask import request
from markupsafe import Markup, escape
from msgspec import Struct
from werkzeug.wrappers import Response

from imserver import assets
from imserver.pages.text import LANGUAGES, TEXT, choose_language
from imserver.pages.visitors import Seen

#: language -> the page's own words
WORDS: Final[dict[str, dict[str, Any]]] = {
    "zh": {
        "title": "HTTP 接口",
        "skip": "跳到正文",
        "pages": "页面",
        "contents": "目录",
        "shapes": "数据结构",
        "fields": "字段",
        "query": "查询参数",
        "body": "请求体",
        "headers": "请求头",
        "answer": "应答",
        "request": "请求",
        "refusals": "可能的错误",
        "required": "必填",
        "optional": "可缺省",
        "default": "默认",
        "scope": "权限",
        "temporary": "可重试",
        "copy_it": "复制",
        "copied": "已复制",
        "document": "OpenAPI 3.1 文档（JSON）",
        "key_needed": "需要密钥的接口使用请求头 `Authorization: Bearer <密钥>`；密钥由 "
        "`imserver key create` 创建，或写在配置的 `api.keys` 里。示例中的 `$KEY` 代表它。",
        "key_demo": "服务器处于演示模式：还没有任何密钥，因此无需密钥即可调用。有了密钥之后使用请求头 "
        "`Authorization: Bearer <密钥>`，示例中的 `$KEY` 代表它。",
        "bounds": {
            "minimum": "≥ {}",
            "exclusiveMinimum": "> {}",
            "maximum": "≤ {}",
            "minLength": "长度 ≥ {}",
            "maxLength": "长度 ≤ {}",
            "minItems": "≥ {} 项",
            "maxItems": "≤ {} 项",
            "pattern": "匹配 {}",
        },
        "chapters": {
            "push": "推送",
            "presence": "在线状态",
            "rooms": "房间",
            "sessions": "会话",
            "accounts": "账号",
            "friends": "好友",
            "groups": "群组",
            "conversations": "会话",
            "apps": "应用",
            "events": "事件",
            "uploads": "文件",
            "document": "文档",
        },
    },
    "en": {
        "title": "HTTP API",
        "skip": "Skip to the content",
        "pages": "Pages",
        "contents": "Contents",
        "shapes": "Data types",
        "fields": "Fields",
        "query": "Query",
        "body": "Body",
        "headers": "Headers",
        "answer": "Response",
        "request": "Request",
        "refusals": "Possible errors",
        "required": "required",
        "optional": "optional",
        "default": "default",
        "scope": "scope",
        "temporary": "retry later",
        "copy_it": "Copy",
        "copied": "Copied",
        "document": "OpenAPI 3.1 document (JSON)",
        "key_needed": "Send the API key in the header `Authorization: Bearer <key>`. Create keys with "
        "`imserver key create`, or set them in the configuration as `api.keys`. In the examples, "
        "`$KEY` is your key.",
        "key_demo": "This server is in demo mode: it has no API keys, so requests need none. "
        "Once it has a key, send it in the header `Authorization: Bearer <key>`. In the examples, "
        "`$KEY` is your key.",
        "bounds": {
            "minimum": "≥ {}",
            "exclusiveMinimum": "> {}",
            "maximum": "≤ {}",
            "minLength": "length ≥ {}",
            "maxLength": "length ≤ {}",
            "minItems": "≥ {} items",
            "maxItems": "≤ {} items",
            "pattern": "matches {}",
        },
        "chapters": {
            "push": "Push",
            "presence": "Presence",
            "rooms": "Rooms",
            "sessions": "Sessions",
            "accounts": "Accounts",
            "friends": "Friends",
            "groups": "Groups",
            "conversations": "Conversations",
            "apps": "Apps",
            "events": "Events",
            "uploads": "Files",
            "document": "Document",
        },
    },
}


@lru_cache(maxsize=1)
def chinese() -> dict[str, str]:
    """Text of the document, paragraph by paragraph → the same in Chinese."""
    found: dict[str, str] = json.loads((assets.TEMPLATES / "reference.zh.json").read_text(encoding="utf-8"))
    return found


_SCHEMAS: Final = "#/components/schemas/"
_BOUNDS: Final = (
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "pattern",
)
_UPGRADE: Final = (
    "-i -N -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' "
    "-H 'Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw=='"
)
_SAFE_ADDRESS: Final = "http://address.invalid"
_QUOTED_ADDRESS: Final = "http://[address.invalid]"
"""What stands in a page for the address of the server: a shell needs quotes around the second."""
_CODE: Final = re.compile(r"`([^`]+)`")

Document = Mapping[str, Any]
Render = Callable[..., Response]


class Field(Struct, frozen=True):
    """One field of a shape, or one parameter. ``shape`` is what its kind consists of, if it has a name."""

    name: str
    kind: str
    shape: str
    required: bool
    default: str
    bounds: tuple[tuple[str, str], ...]
    meaning: str


class RefusalShown(Struct, frozen=True):
    """One problem that an operation may answer with."""

    status: str
    code: str
    message: str
    temporary: bool


class OperationShown(Struct, frozen=True):
    """One operation as the page shows it."""

    id: str
    tag: str
    method: str
    path: str
    scope: str
    summary: str
    description: str
    query: tuple[Field, ...]
    headers: tuple[Field, ...]
    body: tuple[Field, ...]
    body_shape: str
    status: str
    answer: tuple[Field, ...]
    answer_shape: str
    curl: str
    example: str
    refusals: tuple[RefusalShown, ...]


class Reference:
    """The page. Owner of the pages that it has made: one takes 40 ms. Never blocks.

    ``document`` gives the OpenAPI document as JSON, ``render`` makes the page of a template.
    """

    def __init__(self, document: Callable[[], bytes], seen: Seen, render: Render) -> None:
        self._document = document
        self._seen = seen
        self._render = render
        self._pages: dict[tuple[str, ...], bytes] = {}
        self._pages_of = b""
        """The document that they show."""

    def page(self) -> Response:
        """The page in the visitor's language, with the address by which the visitor reaches this server."""
        asked = request.args.get("lang", "")
        language = choose_language(asked, request.accept_languages)
        address = self._seen.http()
        shown_as = _SAFE_ADDRESS if shlex.quote(address) == address else _QUOTED_ADDRESS
        written = self._document()
        if written != self._pages_of:
            self._pages.clear()
            self._pages_of = written
        key = (language, asked if asked in LANGUAGES else "", shown_as)
        answer = Response(
            headers={"Cache-Control": "no-store", "Vary": "Accept-Language"}, mimetype="text/html"
        )
        if key not in self._pages:
            self._pages[key] = self._made(json.loads(written), language, shown_as)
        answer.set_data(self._pages[key].replace(shown_as.encode(), escape(address).encode()))
        return answer

    def _made(self, document: Document, language: str, address: str) -> bytes:
        other = chinese() if language == "zh" else {}
        operations = [self._shown(document, address, *each) for each in operations_of(document)]
        page = self._render(
            "reference.html",
            language,
            TEXT[language],
            data={},
            say=WORDS[language],
            chapters=[
                (tag, [each for each in operations if each.tag == tag["name"]]) for tag in document["tags"]
            ],
            shapes=[
                (name, schema.get("description", ""), fields_of(schema, document))
                for name, schema in document["components"]["schemas"].items()
            ],
            info=document["info"],
            demo=any({} in each["security"] for _, _, each in operations_of(document)),
            told=lambda text: marked([other.get(part, part) for part in text.split("\n\n")]),
        )
        return page.get_data()

    def _shown(
        self, document: Document, address: str, path: str, method: str, operation: Document
    ) -> OperationShown:
        parameters = [(each["in"], _parameter(each)) for each in operation["parameters"]]
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        status, good = next(iter(operation["responses"].items()))
        answered: Document = next(iter(good.get("content", {}).values()), {})
        return OperationShown(
            operation["operationId"],
            operation["tags"][0],
            method.upper(),
            path,
            next((scope for need in operation["security"] for scope in need.get("key", ())), ""),
            operation["summary"],
            operation["description"],
            tuple(field for where, field in parameters if where == "query"),
            tuple(field for where, field in parameters if where == "header"),
            fields_of(body.get("schema", {}), document),
            _shape_of(body.get("schema", {})),
            status,
            fields_of(answered.get("schema", {}), document),
            _shape_of(answered.get("schema", {})),
            curl_of(address, method, path, operation),
            _pretty(_example(answered)),
            tuple(_refusals(operation)),
        )


def operations_of(document: Document) -> Iterator[tuple[str, str, Document]]:
    """(path, method, operation) of every operation, in the order of the document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def curl_of(address: str, method: str, path: str, operation: Document) -> str:
    """A line for a shell that makes this request, with the examples of the document in it."""
    words = ["curl"]
    if "101" in operation["responses"]:
        words.append(_UPGRADE)
    elif "text/event-stream" in operation["responses"].get("200", {}).get("content", {}):
        words.append("-N")
    if any("key" in need for need in operation["security"]):
        words.append('-H "Authorization: Bearer $KEY"')
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        words.append("-d " + shlex.quote(json.dumps(_example(body), ensure_ascii=False)))
    elif "requestBody" in operation:
        words.append("--data-binary @" + shlex.quote(_name_of_file(operation)))
    elif method == "post":
        words.append("-X POST")
    query = urlencode(
        {each["name"]: each["example"] for each in operation["parameters"] if _is_in_query(each)}, safe=":,"
    )
    for each in operation["parameters"]:
        if each["in"] == "path":
            path = path.replace(f"{{{each['name']}}}", each["example"])
    return " ".join([*words, shlex.quote(f"{address}{path}{'?' if query else ''}{query}")])


def _name_of_file(operation: Document) -> str:
    """What the example calls the file that it sends."""
    names = [each["example"] for each in operation["parameters"] if each["name"] == "name"]
    return names[0] if names else "file"


def _is_in_query(parameter: Document) -> bool:
    return parameter["in"] == "query" and "example" in parameter


def _example(content: Document) -> Any:
    return next((each["value"] for each in content.get("examples", {}).values()), None)


def _pretty(example: Any) -> str:
    if isinstance(example, str):
        return example
    return "" if example is None else json.dumps(example, ensure_ascii=False, indent=2)


def _refusals(operation: Document) -> Iterator[RefusalShown]:
    for status, response in operation["responses"].items():
        if status >= "400":
            for each in response["content"]["application/json"]["examples"].values():
                value = each["value"]
                yield RefusalShown(status, value["code"], value["message"], value["temporary"])


# --- schemas ------------------------------------------------------------------------------------------------


def fields_of(schema: Document, document: Document) -> tuple[Field, ...]:
    """The fields of an object's schema, be it given by its name; none of what is no object."""
    if shape := _shape_of(schema):
        schema = document["components"]["schemas"][shape]
    required = schema.get("required", ())
    return tuple(
        _field(name, kind, name in required, kind.get("description", ""))
        for name, kind in schema.get("properties", {}).items()
    )


def _parameter(parameter: Document) -> Field:
    return _field(
        parameter["name"], parameter["schema"], parameter["required"], parameter.get("description", "")
    )


def _field(name: str, schema: Document, required: bool, meaning: str) -> Field:
    default = schema.get("default")
    return Field(
        name,
        kind_of(schema),
        _shape_of(schema),
        required,
        "" if default in (None, "", [], {}) else json.dumps(default, ensure_ascii=False),
        tuple((bound, _short(schema[bound])) for bound in _BOUNDS if bound in schema),
        meaning,
    )


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def kind_of(schema: Document) -> str:
    """What a schema admits, in a few words: ``string``, ``[Target]``, ``"a" | "b"``."""
    if shape := schema.get("$ref", "").removeprefix(_SCHEMAS):
        return str(shape)
    if "anyOf" in schema:
        kinds = (kind_of(each) for each in schema["anyOf"] if each.get("type") != "null")
        return " | ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return " | ".join(json.dumps(each, ensure_ascii=False) for each in schema["enum"])
    if schema.get("type") == "array":
        return f"[{kind_of(schema.get('items', {}))}]"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"{{… : {kind_of(schema['additionalProperties'])}}}"
    return str(schema.get("type", "any"))


def _shape_of(schema: Document) -> str:
    """The name of the one shape that a schema is made of; ``""`` if there is none, or several."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_SCHEMAS)
    if "anyOf" in schema:
        shapes = {_shape_of(each) for each in schema["anyOf"] if each.get("type") != "null"}
        return shapes.pop() if len(shapes) == 1 else ""
    if schema.get("type") == "array":
        return _shape_of(schema.get("items", {}))
    return ""


def marked(paragraphs: Sequence[str]) -> Markup:
    """Texts with their words in backticks as code, one below the other."""
    return Markup("<br>".join(_CODE.sub(r"<code>\1</code>", str(escape(each))) for each in paragraphs))
