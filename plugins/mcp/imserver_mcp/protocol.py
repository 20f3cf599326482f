"""Messages of the Model Context Protocol over HTTP: JSON-RPC, its revisions,
and their headers.

Revision 2026-07-28 has no sessions: each request names its version and the
capabilities of its client, in ``_meta`` and headers. Revision 2025-11-25 begins
with ``initialize``. Its session id is optional, and this server gives none.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from time import time
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver.plugin.http import HttpResponse
from imserver.plugin.runtime import Service

MODERN: Final = "2026-07-28"
LEGACY: Final = ("2025-11-25", "2025-06-18", "2025-03-26")
"""The revisions with ``initialize``, the newest first."""
VERSIONS: Final = (MODERN, *LEGACY)
META: Final = "io.modelcontextprotocol/"
TASK_EXTENSION: Final = f"{META}tasks"


class Code:
    """The codes of errors. The last five belong to the extension for events."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    NO_METHOD = -32601
    BAD_PARAMS = -32602
    INTERNAL = -32603
    NO_RESOURCE = -32002
    """A code of 2025-11-25. The later revision has ``BAD_PARAMS`` in its
    place."""
    HEADER_MISMATCH = -32020
    NO_CAPABILITY = -32021
    NO_VERSION = -32022
    NOT_FOUND = -32011
    FORBIDDEN = -32012
    EXHAUSTED = -32013
    UNSUPPORTED = -32014
    BAD_CALLBACK = -32015


_NO_ERROR: Final = frozenset(
    {Code.INTERNAL, *range(Code.BAD_CALLBACK, Code.NOT_FOUND + 1)}
)
"""Errors that are answered with status 200."""


class McpError(Exception):
    """An error of JSON-RPC: a code, a message, and data about it."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class RpcRefused(Exception):
    """The refusal of a message with an error.

    ``id``: the id of the request; None if it is unknown.
    """

    def __init__(
        self, id: int | str | None, code: int, message: str, data: Any = None
    ) -> None:
        super().__init__(message)
        self.answer = error_response(id, McpError(code, message, data))


class RpcMessage(Struct, frozen=True):
    """A request of a client.

    ``id``: None in a notification, and in a response of the client.
    ``version``: the revision of MCP. ``client``: the capabilities of the
    client, in 2026-07-28.
    """

    method: str
    id: int | str | None
    params: Mapping[str, Any]
    version: str
    client: Mapping[str, Any] = {}

    @property
    def is_modern(self) -> bool:
        """Whether it has the form of 2026-07-28."""
        return self.version == MODERN

    def text(self, name: str, default: str | None = None) -> str:
        """A parameter that is a text. Raises McpError if it is missing and has
        no default."""
        value = self.params.get(name, default)
        if not isinstance(value, str):
            raise McpError(Code.BAD_PARAMS, f"{name}: expected a text")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """A parameter that is an object; empty if it is missing. Raises
        McpError."""
        value = self.params.get(name)
        if value is not None and not isinstance(value, dict):
            raise McpError(Code.BAD_PARAMS, f"{name}: expected an object")
        return value or {}


def read_message(body: bytes, headers: Mapping[str, str]) -> RpcMessage:
    """Read the message in a request:
    ``{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}``.

    Raises RpcRefused if it is no message, or of a revision that is not
    supported.
    """
    document = _decoded(body)
    id = document.get("id")
    method = document.get("method")
    params = document.get("params", {})
    is_id = isinstance(id, int | str) and not isinstance(id, bool)
    is_modern = headers.get("mcp-protocol-version") == MODERN
    if method is None and is_id and not is_modern:
        # A response of the client. This server asks for none, so it is ignored.
        return RpcMessage("", None, {}, LEGACY[0])
    if not isinstance(method, str) or ("id" in document and not is_id):
        text = "The message has no method, or an id that is none"
        raise RpcRefused(None, Code.INVALID_REQUEST, text)
    if not isinstance(params, dict):
        raise RpcRefused(id, Code.BAD_PARAMS, "params: expected an object")
    return _with_version(id, method, params, headers)


def _decoded(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises RpcRefused if it is not a message of
    JSON-RPC 2.0."""
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        raise RpcRefused(None, Code.PARSE_ERROR, "The body is not valid JSON") from None
    if not isinstance(document, dict) or document.get("jsonrpc") != "2.0":
        raise RpcRefused(
            None, Code.INVALID_REQUEST, "The body is not one message of JSON-RPC 2.0"
        )
    return document


def _with_version(
    id: int | str | None,
    method: str,
    params: dict[str, Any],
    headers: Mapping[str, str],
) -> RpcMessage:
    """The message, with the revision that it names.

    Older revisions are named in a header or not at all, and 2026-07-28 in a
    header and in the body. Raises RpcRefused if they differ, or if the
    revision is not supported.
    """
    header_version = headers.get("mcp-protocol-version")
    meta = params.get("_meta")
    version = _version_in(meta)
    is_legacy = header_version is None or header_version in LEGACY
    if version is None and (method == "initialize" or is_legacy):
        legacy_version = LEGACY[0]
        if header_version in LEGACY:
            legacy_version = header_version
        return RpcMessage(method, id, params, legacy_version)
    if id is None:
        # A notification gets no answer, so not even an error.
        return RpcMessage(method, None, params, MODERN)

    if version is None and header_version != MODERN:
        version = header_version
    else:
        _check_modern(id, method, params, headers)
    if version != MODERN:
        data = {"supported": VERSIONS, "requested": version}
        raise RpcRefused(id, Code.NO_VERSION, "Unsupported protocol version", data)
    return RpcMessage(method, id, params, MODERN, _client_of(meta))


def _version_in(meta: Any) -> Any:
    """The revision that the metadata of a request name; None without one."""
    if not isinstance(meta, dict):
        return None
    return meta.get(f"{META}protocolVersion")


def _check_modern(
    id: int | str, method: str, params: dict[str, Any], headers: Mapping[str, str]
) -> None:
    """Raise RpcRefused unless a request has the facts in its body and the
    headers that 2026-07-28 demands."""
    meta = params.get("_meta")
    version = _version_in(meta)
    client = None
    if isinstance(meta, dict):
        client = _client_of(meta)
    if not isinstance(version, str) or not isinstance(client, dict):
        missing = f"`{META}protocolVersion` or `{META}clientCapabilities` is missing"
        raise RpcRefused(id, Code.BAD_PARAMS, f"params._meta: {missing}")
    # Proxies route by the headers, so they must say the same as the body.
    header = _differing_header(method, version, params, headers)
    if header:
        text = f"Header mismatch: {header} is not that of the body"
        raise RpcRefused(id, Code.HEADER_MISMATCH, text)


def _client_of(meta: Any) -> Any:
    """The capabilities of the client, from the field ``_meta`` of a request."""
    return meta.get(f"{META}clientCapabilities")


_NAMED: Final = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    **dict.fromkeys(("tasks/get", "tasks/update", "tasks/cancel"), "taskId"),
}
"""Method → the parameter that the header ``Mcp-Name`` repeats."""


def _differing_header(
    method: str, version: str, params: Mapping[str, Any], headers: Mapping[str, str]
) -> str:
    """The name of the header that differs from the body; ``""`` if none does.

    Proxies read only the headers, so the two must agree.
    """
    if headers.get("mcp-protocol-version") != version:
        return "MCP-Protocol-Version"
    if headers.get("mcp-method") != method:
        return "Mcp-Method"
    key = _NAMED.get(method)
    if key is None:
        return ""
    if plain_header(headers.get("mcp-name", "")) != params.get(key, ""):
        return "Mcp-Name"
    return ""


_BASE64_BEGIN: Final = "=?base64?"
_BASE64_END: Final = "?="


def plain_header(value: str) -> str | None:
    """The value of a header, which may be in Base64: ``=?base64?SGk=?=`` for
    ``Hi``.

    Returns None if the Base64 is not valid.
    """
    if not (value.startswith(_BASE64_BEGIN) and value.endswith(_BASE64_END)):
        return value
    content = value[len(_BASE64_BEGIN) : -len(_BASE64_END)]
    try:
        return base64.b64decode(content, validate=True).decode()
    except ValueError:
        return None


def error_response(
    id: int | str | None, error: McpError, is_modern: bool = True
) -> HttpResponse:
    """An error as a response to the request with this ``id``.

    Earlier revisions than 2026-07-28 answer readable requests with status 200.
    """
    problem = {"code": error.code, "message": str(error)}
    if error.data is not None:
        problem["data"] = error.data
    status = 400
    # Such an error is a result of the method, and not of the transport.
    if error.code in _NO_ERROR or not is_modern:
        status = 200
    elif error.code == Code.NO_METHOD:
        status = 404
    document = {"jsonrpc": "2.0", "id": id, "error": problem}
    return HttpResponse(status, msgspec.json.encode(document))


def notification(method: str, params: Mapping[str, Any]) -> bytes:
    """Encode a notification as an event of a stream."""
    return sse(
        msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params})
    )


def sse(message: bytes) -> bytes:
    """Encode a message as an event of a stream (server-sent events)."""
    return b"event: message\ndata: %b\n\n" % message


_STATE_SECONDS: Final = 3600
"""How long a client may keep a state between two rounds."""
_DIGEST_BYTES: Final = 32


class Seal(Service):
    """Signs the state that a client keeps between two rounds
    (``requestState``).

    All nodes have the ``keys``. The first one signs, and the others are former
    ones.
    """

    keys: tuple[bytes, ...]

    def make(self, state: Any, bound: bytes) -> str:
        """Sign a state, and return it as a text for the client.

        ``bound``: the principal and the request. It must be equal in
        :meth:`read`.
        """
        body = msgspec.json.encode([int(time()) + _STATE_SECONDS, state])
        document = _digest(self.keys[0], body, bound) + body
        return base64.urlsafe_b64encode(document).decode()

    def read(self, text: str, bound: bytes) -> Any:
        """Read a state that a client has sent back.

        Raises McpError if :meth:`make` has not made it for this principal and
        request, or if it is too old.
        """
        try:
            document = base64.b64decode(text, altchars=b"-_", validate=True)
            signature = document[:_DIGEST_BYTES]
            body = document[_DIGEST_BYTES:]
            if any(
                hmac.compare_digest(signature, _digest(key, body, bound))
                for key in self.keys
            ):
                end, state = msgspec.json.decode(body)
                if time() < end:
                    return state
        except ValueError:
            # It is no Base64, so this server has not made it.
            pass
        raise McpError(
            Code.BAD_PARAMS, "requestState: it is not valid for this request"
        )


def _digest(key: bytes, body: bytes, bound: bytes) -> bytes:
    """The signature of a state, which is bound to a principal and a request."""
    return hmac.digest(key, hashlib.sha256(bound).digest() + body, "sha256")
