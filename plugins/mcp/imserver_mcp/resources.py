"""Resources: conversations, messages and files, under addresses of the scheme
``imserver``."""

import base64
import re
from contextlib import closing
from typing import Any, Final

import msgspec

from imserver.plugin.messages import MessageLog
from imserver.plugin.wire import id_of

from .offers import Page, Source
from .protocol import Code, McpError
from .turn import RouteRefused, Turn

ALL: Final = "imserver://conversations"
PAGE: Final = 100
FILE_BYTES: Final = 1 << 20
"""A longer file is not a resource: `url` in the list of files leads to it."""
_CONVERSATION: Final = re.compile(
    r"imserver://conversations/([1-9][0-9]{0,18})(\?before=([0-9]{1,19}))?"
)
_MESSAGE: Final = re.compile(r"imserver://messages/([1-9][0-9]{0,18})")
_FILE: Final = re.compile(r"imserver://files/([A-Za-z0-9_-]{1,64})")
_FILES: Final = "files"
_JSON: Final = {"mimeType": "application/json"}

TEMPLATES: Final = (
    {
        "uriTemplate": f"{ALL}/{{conversation}}{{?before}}",
        "name": "conversation",
        "title": "Its messages",
    },
    {
        "uriTemplate": "imserver://messages/{id}",
        "name": "message",
        "title": "A message",
    },
    {
        "uriTemplate": "imserver://files/{id}",
        "name": "file",
        "title": "A file in a message",
    },
)


def is_subscribable(uri: str) -> bool:
    """Whether a client can hear of changes of a resource."""
    match = _CONVERSATION.fullmatch(uri)
    return uri == ALL or (match is not None and match[2] is None)


def listed(turn: Turn, cursor: str) -> Page:
    """A page: the conversations of the user, then their files."""
    if not turn.user:
        return [], ""
    kind, _, place = cursor.partition(":")
    if cursor and (
        kind not in ("conversations", _FILES)
        or (kind != _FILES and not place.isdecimal())
    ):
        raise McpError(Code.BAD_PARAMS, "cursor: it is not one of this list")
    rows: list[dict[str, Any]] = []
    if kind == _FILES:
        page = turn.run("GET", "/uploads", cursor=place, limit=PAGE)
        for each in page["files"]:
            what = {
                "name": each["name"] or each["id"],
                "mimeType": each["type"],
                "size": each["bytes"],
            }
            rows.append({"uri": f"imserver://files/{each['id']}", **what})
        return rows, f"{_FILES}:{page['next']}" if page["next"] else ""
    page = turn.run("GET", "/conversations", before=id_of(place), limit=PAGE)
    if not place:
        rows.append({"uri": ALL, "name": "conversations", **_JSON})
    for each in page["conversations"]:
        name = each["peer"] or each["name"] or str(each["conversation"])
        rows.append({"uri": f"{ALL}/{each['conversation']}", "name": name, **_JSON})
    if page["before"]:
        return rows, f"conversations:{page['before']}"
    return rows, f"{_FILES}:" if turn.has_route("GET", "/uploads") else ""


def read(turn: Turn, uri: str) -> list[dict[str, Any]] | None:
    """The contents of a resource; None: there is none with this address."""
    if uri == ALL:
        page = turn.run("GET", "/conversations", limit=PAGE)
        return [_json(uri, page["conversations"])]
    try:
        match = _CONVERSATION.fullmatch(uri)
        if match:
            values = {
                "conversation": int(match[1]),
                "before": id_of(match[3] or ""),
                "limit": PAGE,
            }
            page = turn.run("GET", "/messages", **values)
            if page["messages"]:
                return [_json(uri, page)]
            return None
    except RouteRefused as refused:
        if refused.code == "invalid_request":
            return None
        raise
    match = _MESSAGE.fullmatch(uri)
    if match and turn.user:
        entries = turn.core.store.part(MessageLog).entries.readable(
            turn.app, turn.user, [id_of(match[1])]
        )
        return [_json(uri, each.view()) for each in entries] or None
    match = _FILE.fullmatch(uri)
    if match:
        return _file(turn, uri, match[1])
    return None


def _json(uri: str, content: Any) -> dict[str, Any]:
    return {"uri": uri, **_JSON, "text": msgspec.json.encode(content).decode()}


def _file(turn: Turn, uri: str, id: str) -> list[dict[str, Any]] | None:
    """A file: its id is random, and who has it may fetch it."""
    try:
        from imserver.media.uploads import Uploads
    except ImportError:
        return None
    uploads = turn.core.find(Uploads)
    row = None if uploads is None else uploads.find(id)
    if uploads is None or row is None or row.app != turn.app:
        return None
    if row.bytes > FILE_BYTES:
        raise McpError(
            Code.BAD_PARAMS,
            f"The file has {row.bytes} bytes: fetch /api/v1/uploads/{id} instead",
        )
    turn.api.rates.charge(turn.principal, turn.request.host, 1 + row.bytes // 65536)
    with closing(
        uploads.open(row, False, 0, row.bytes - 1, turn.request.host)
    ) as pieces:
        content = b"".join(pieces)
    return [
        {"uri": uri, "mimeType": row.type, "blob": base64.b64encode(content).decode()}
    ]


SOURCE: Final = Source(list=listed, read=read, templates=TEMPLATES)
