"""``GET /api/v1/docs``: the OpenAPI document of ``/api/v1`` as a page, in English and Chinese."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlencode

from markupsafe import Markup, escape
from msgspec import Struct
from werkzeug.wrappers import Response

from imserver import assets
from imserver.pages.text import LANGUAGES, TEXT, in_language
from imserver.pages.visitors import Seen, language_of_visitor, language_parameter, render

#: key -> (Chinese, English)
_WORDS: Final = {
    "title": ("HTTP 接口", "HTTP API"),
    "skip": ("跳到正文", "Skip to the content"),
    "pages": ("页面", "Pages"),
    "contents": ("目录", "Contents"),
    "shapes": ("数据结构", "Data types"),
    "fields": ("字段", "Fields"),
    "query": ("查询参数", "Query"),
    "body": ("请求体", "Body"),
    "headers": ("请求头", "Headers"),
    "answer": ("应答", "Response"),
    "request": ("请求", "Request"),
    "refusals": ("可能的错误", "Possible errors"),
    "required": ("必填", "required"),
    "optional": ("可缺省", "optional"),
    "default": ("默认", "default"),
    "scope": ("权限", "scope"),
    "or_token": ("或用户令牌", "or the token of a user"),
    "token": ("用户令牌", "token of a user"),
    "temporary": ("可重试", "retry later"),
    "copy_it": ("复制", "Copy"),
    "copied": ("已复制", "Copied"),
    "anchor": ("本接口的链接", "Link to this operation"),
    "search": ("搜索接口、字段和说明", "Search paths, fields and texts"),
    "nothing_found": ("没有找到。", "Nothing found."),
    "try_it": ("试一试", "Try it"),
    "key": ("API 密钥或令牌", "API key or token"),
    "key_stays": (
        "仅用于本页的“试一试”。只留在本页内存中，离开或重新加载后即消失。",
        "For “Try it”. It stays in the memory of this page, and is gone when you leave or reload it.",
    ),
    "sends_really": (
        "请求会真正发往本服务器，并可能改变其数据。",
        "The request really goes to this server, and may change its data.",
    ),
    "json_body": ("请求体（JSON）", "Body (JSON)"),
    "file": ("文件", "File"),
    "send": ("发送", "Send"),
    "stop": ("停止", "Stop"),
    "no_answer": ("没有响应", "No response"),
    "bad_json": ("请求体不是有效的 JSON", "The body is not valid JSON"),
    "cut": ("…（其余未显示）", "… (the rest is not shown)"),
    "document": ("OpenAPI 3.1 文档（JSON）", "OpenAPI 3.1 document (JSON)"),
    "key_needed": (
        "需要密钥的接口使用请求头 `Authorization: Bearer <密钥>`；密钥由 `imserver key create push` 创建，"
        "或写在配置的 `api.keys` 里。示例中的 `$KEY` 代表它。",
        "Send the API key in the header `Authorization: Bearer <key>`. Create keys with "
        "`imserver key create push`, or set them in the configuration as `api.keys`. In the examples, "
        "`$KEY` is your key.",
    ),
    "key_demo": (
        "服务器处于演示模式：还没有任何密钥，因此无需密钥即可调用。有了密钥之后使用请求头 "
        "`Authorization: Bearer <密钥>`，示例中的 `$KEY` 代表它。",
        "This server is in demo mode: it has no API keys, so requests need none. "
        "Once it has a key, send it in the header `Authorization: Bearer <key>`. In the examples, "
        "`$KEY` is your key.",
    ),
}
_TRIAL_WORDS: Final = ("no_answer", "bad_json", "cut")
"""Words that only the script of the page shows."""
_BOUNDS: Final = {
    "minimum": ("≥ {}", "≥ {}"),
    "exclusiveMinimum": ("> {}", "> {}"),
    "maximum": ("≤ {}", "≤ {}"),
    "minLength": ("长度 ≥ {}", "length ≥ {}"),
    "maxLength": ("长度 ≤ {}", "length ≤ {}"),
    "minItems": ("≥ {} 项", "≥ {} items"),
    "maxItems": ("≤ {} 项", "≤ {} items"),
    "pattern": ("匹配 {}", "matches {}"),
}
"""Constraints that a schema may have on a value."""
_CHAPTERS: Final = {
    "push": ("推送", "Push"),
    "presence": ("在线状态", "Presence"),
    "channels": ("频道", "Channels"),
    "sessions": ("登录会话", "Sessions"),
    "accounts": ("账号", "Accounts"),
    "friends": ("好友", "Friends"),
    "bots": ("机器人", "Bots"),
    "groups": ("群组", "Groups"),
    "invitations": ("邀请", "Invitations"),
    "conversations": ("会话", "Conversations"),
    "apps": ("应用", "Apps"),
    "events": ("事件", "Events"),
    "uploads": ("文件", "Files"),
    "document": ("文档", "Document"),
}
"""Tags of the document."""

WORDS: Final[dict[str, dict[str, Any]]] = {
    language: {
        **in_language(_WORDS, language),
        "bounds": in_language(_BOUNDS, language),
        "chapters": in_language(_CHAPTERS, language),
    }
    for language in LANGUAGES
}
"""Language → the page's own texts."""


@lru_cache(maxsize=1)
def chinese() -> dict[str, str]:
    """Text of the document, paragraph by paragraph → its Chinese translation."""
    found: dict[str, str] = json.loads((assets.TEMPLATES / "reference.zh.json").read_text(encoding="utf-8"))
    return found


_SCHEMAS: Final = "#/components/schemas/"
_UPGRADE: Final = (
    "-i -N -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' "
    "-H 'Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw=='"
)
_SAFE_ADDRESS: Final = "http://address.invalid"
_QUOTED_ADDRESS: Final = "http://[address.invalid]"
"""Placeholders for the address of the server; a shell needs quotes around the second."""
_CODE: Final = re.compile(r"`([^`]+)`")

Document = Mapping[str, Any]


class Field(Struct, frozen=True):
    """One field of an object, or one parameter. ``shape``: the name of its schema, if it has one."""

    name: str
    kind: str
    shape: str
    required: bool
    default: str
    bounds: tuple[tuple[str, str], ...]
    meaning: str


class Reference:
    """The page. Owner of the rendered pages, which take 40 ms each. Never blocks.

    ``document`` returns the OpenAPI document as JSON.
    """

    def __init__(self, document: Callable[[], bytes], seen: Seen) -> None:
        self._document = document
        self._seen = seen
        self._pages: dict[tuple[str, ...], bytes] = {}
        self._pages_of = b""
        """The document that they show."""

    def page(self) -> Response:
        """The page in the visitor's language, with the address by which the visitor reaches this server."""
        language, _ = language_of_visitor()
        address = self._seen.http()
        shown_as = _SAFE_ADDRESS if shlex.quote(address) == address else _QUOTED_ADDRESS
        written = self._document()
        if written != self._pages_of:
            self._pages.clear()
            self._pages_of = written
        key = (language, language_parameter(), shown_as)
        answer = Response(
            headers={"Cache-Control": "no-store", "Vary": "Accept-Language"}, mimetype="text/html"
        )
        if key not in self._pages:
            self._pages[key] = self._made(json.loads(written), language, shown_as)
        answer.set_data(self._pages[key].replace(shown_as.encode(), escape(address).encode()))
        return answer

    def _made(self, document: Document, language: str, address: str) -> bytes:
        other = chinese() if language == "zh" else {}
        operations = [_shown(document, address, *each) for each in operations_of(document)]
        page = render(
            "reference.html",
            language,
            TEXT[language],
            data={
                "operations": {each["id"]: each["trial"] for each in operations if each["trial"]},
                "say": {word: WORDS[language][word] for word in _TRIAL_WORDS},
            },
            say=WORDS[language],
            chapters=[
                (tag, [each for each in operations if each["tag"] == tag["name"]]) for tag in document["tags"]
            ],
            shapes=[
                (name, schema.get("description", ""), fields_of(schema, document))
                for name, schema in document["components"]["schemas"].items()
            ],
            info=document["info"],
            demo=any({} in each["security"] for _, _, each in operations_of(document)),
            translated=lambda text: marked([other.get(part, part) for part in text.split("\n\n")]),
        )
        return page.get_data()


def _shown(document: Document, address: str, path: str, method: str, operation: Document) -> Document:
    """One operation in the form that the template needs."""
    given = sorted(operation["parameters"], key=lambda each: not each["required"])
    parameters = [(each["in"], _parameter(each)) for each in given]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    status, good = next(iter(operation["responses"].items()))
    answered: Document = next(iter(good.get("content", {}).values()), {})
    return {
        "id": operation["operationId"],
        "tag": operation["tags"][0],
        "method": method.upper(),
        "path": path,
        "scope": next((scope for need in operation["security"] for scope in need.get("key", ())), ""),
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
        "refusals": list(_refusals(operation)),
    }


def operations_of(document: Document) -> Iterator[tuple[str, str, Document]]:
    """(path, method, operation) of every operation, in the order of the document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def curl_of(address: str, method: str, path: str, operation: Document) -> str:
    """A shell command that makes this request, with the examples of the document."""
    words = ["curl"]
    if "101" in operation["responses"]:
        words.append(_UPGRADE)
    elif "text/event-stream" in operation["responses"].get("200", {}).get("content", {}):
        words.append("-N")
    if any("key" in need for need in operation["security"]):
        words.append('-H "Authorization: Bearer $KEY"')
    elif operation["security"]:
        words.append('-H "Authorization: Bearer $TOKEN"')
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        words.append("-d " + shlex.quote(json.dumps(_example(body), ensure_ascii=False)))
    elif "requestBody" in operation:
        media_type = next(iter(operation["requestBody"]["content"]))
        words.append("-H " + shlex.quote(f"Content-Type: {media_type}"))
        words.append("--data-binary @" + shlex.quote(_name_of_file(operation)))
    if method == "head":
        words.append("-I")
    elif method not in ("get", "post") or (method == "post" and "requestBody" not in operation):
        words.append(f"-X {method.upper()}")
    for each in operation["parameters"]:
        if each["in"] == "header" and each["required"]:
            words.append("-H " + shlex.quote(f"{each['name']}: {each['example']}"))
    query = urlencode(
        {each["name"]: each["example"] for each in operation["parameters"] if _is_in_query(each)}, safe=":,"
    )
    for each in operation["parameters"]:
        if each["in"] == "path":
            path = path.replace(f"{{{each['name']}}}", each["example"])
    return " ".join([*words, shlex.quote(f"{address}{path}{'?' if query else ''}{query}")])


def _trial(method: str, path: str, operation: Document) -> Document | None:
    """What the script of the page needs to send this request; None: it needs a WebSocket, or headers."""
    needed = any(each["in"] == "header" and each["required"] for each in operation["parameters"])
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


def _name_of_file(operation: Document) -> str:
    """The file name in the example of an operation that takes a file."""
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


def _refusals(operation: Document) -> Iterator[Document]:
    for status, response in operation["responses"].items():
        if status >= "400":
            for each in response["content"]["application/json"]["examples"].values():
                yield {"status": status, **each["value"]}


# --- schemas ------------------------------------------------------------------------------------------------


def fields_of(schema: Document, document: Document) -> tuple[Field, ...]:
    """The fields of an object's schema or of a named schema, the required ones first; none if it is not an
    object.
    """
    if shape := _shape_of(schema):
        schema = document["components"]["schemas"][shape]
    required = schema.get("required", ())
    return _required_first(
        _field(name, kind, name in required, kind.get("description", ""))
        for name, kind in schema.get("properties", {}).items()
    )


def _required_first(fields: Iterable[Field]) -> tuple[Field, ...]:
    return tuple(sorted(fields, key=lambda field: not field.required))


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
    """A short description of a schema: ``string``, ``[Target]``, ``"a" | "b"``."""
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
    """The only name in a schema; ``""`` if there is none, or several."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_SCHEMAS)
    if "anyOf" in schema:
        shapes = {_shape_of(each) for each in schema["anyOf"] if each.get("type") != "null"}
        return shapes.pop() if len(shapes) == 1 else ""
    if schema.get("type") == "array":
        return _shape_of(schema.get("items", {}))
    return ""


def marked(paragraphs: Sequence[str]) -> Markup:
    """Convert texts to paragraphs; words in backticks become code."""
    return Markup("<br>".join(_CODE.sub(r"<code>\1</code>", str(escape(each))) for each in paragraphs))
