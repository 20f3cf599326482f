"""Resources: conversations, messages and files, at addresses with the scheme
``imserver``."""

import base64
import re
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import msgspec

from imserver.plugin.messages import MessageLog
from imserver.plugin.wire import id_of

from .offers import Page, Source
from .protocol import Code, McpError
from .turn import RouteRefused, Turn

if TYPE_CHECKING:
    from imserver.media.uploads import Upload, Uploads

ALL: Final = "imserver://conversations"
PAGE: Final = 100
FILE_BYTES: Final = 1 << 20
"""Limit of a file that is a resource, in bytes. For a longer file the list of
files has a `url`."""
_CONVERSATION: Final = re.compile(
    r"imserver://conversations/([1-9][0-9]{0,18})(\?before=([0-9]{1,19}))?"
)
_MESSAGE: Final = re.compile(r"imserver://messages/([1-9][0-9]{0,18})")
_FILE: Final = re.compile(r"imserver://files/([A-Za-z0-9_-]{1,64})")
BYTES_OF_REQUEST: Final = 65536
"""The number of bytes of a file that count as one more request."""
_CONVERSATIONS: Final = "conversations"
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
    """Whether a client can subscribe to changes of a resource. It can for the
    list of conversations, and for a conversation."""
    match = _CONVERSATION.fullmatch(uri)
    return uri == ALL or (match is not None and match[2] is None)


def listed(turn: Turn, cursor: str) -> Page:
    """A page of the resources of a user, and the cursor of the next page.

    Conversations come first, then files. Raises McpError.
    """
    if not turn.user:
        return [], ""
    # "conversations:<id>" or "files:<cursor>"; "" is the first page.
    kind, _, position = cursor.partition(":")
    if kind == _FILES:
        return _file_page(turn, position)
    if cursor and (kind != _CONVERSATIONS or not position.isdecimal()):
        raise McpError(Code.BAD_PARAMS, "cursor: it is not one of this list")
    return _conversation_page(turn, position)


def _conversation_page(turn: Turn, before: str) -> Page:
    """A page of conversations, and the cursor of the next page.

    ``before``: the id at which the page before has ended; ``""``: the first
    page, with the list itself. Files come after the last conversation.
    """
    rows: list[dict[str, Any]] = []
    page = turn.run("GET", "/conversations", before=id_of(before), limit=PAGE)
    if not before:
        rows.append({"uri": ALL, "name": "conversations", **_JSON})
    rows += map(_row_of_conversation, page["conversations"])
    if page["before"]:
        return rows, f"{_CONVERSATIONS}:{page['before']}"
    if turn.has_route("GET", "/uploads"):
        return rows, f"{_FILES}:"
    return rows, ""


def _row_of_conversation(header: dict[str, Any]) -> dict[str, Any]:
    """A conversation as a row of the list of resources."""
    number = header["conversation"]
    # A conversation of two has the other user as its name.
    name = header["peer"] or header["name"] or str(number)
    return {"uri": f"{ALL}/{number}", "name": name, **_JSON}


def _file_page(turn: Turn, cursor: str) -> Page:
    """A page of files after a cursor, and the cursor of the next page (``""``:
    none follows)."""
    page = turn.run("GET", "/uploads", cursor=cursor, limit=PAGE)
    rows = list(map(_row_of_file, page["files"]))
    if page["next"]:
        return rows, f"{_FILES}:{page['next']}"
    return rows, ""


def _row_of_file(file: dict[str, Any]) -> dict[str, Any]:
    """A file as a row of the list of resources."""
    return {
        "uri": f"imserver://files/{file['id']}",
        # A file may have been sent without a name.
        "name": file["name"] or file["id"],
        "mimeType": file["type"],
        "size": file["bytes"],
    }


def read(turn: Turn, uri: str) -> list[dict[str, Any]] | None:
    """The contents of the resource at an address, or None without such a
    resource.

    May switch greenlets. Raises RouteRefused and McpError.
    """
    if uri == ALL:
        page = turn.run("GET", "/conversations", limit=PAGE)
        return [_json(uri, page["conversations"])]
    match = _CONVERSATION.fullmatch(uri)
    if match:
        number, _, before = match.groups()
        return _contents_of_conversation(turn, uri, int(number), before or "")
    match = _MESSAGE.fullmatch(uri)
    if match and turn.user:
        return _contents_of_message(turn, uri, id_of(match[1]))
    match = _FILE.fullmatch(uri)
    if match:
        return _contents_of_file(turn, uri, match[1])
    return None


def _contents_of_message(turn: Turn, uri: str, id: int) -> list[dict[str, Any]] | None:
    """A message as JSON, or None if the user may not read it."""
    entries = turn.core.store.part(MessageLog).entries.readable(
        turn.app, turn.user, [id]
    )
    return [_json(uri, entry.view()) for entry in entries] or None


def _contents_of_conversation(
    turn: Turn, uri: str, number: int, before: str
) -> list[dict[str, Any]] | None:
    """The messages of a conversation before an id (``""``: the newest ones).

    Returns None if the user has no such conversation, or it has no messages.
    """
    try:
        page = turn.run(
            "GET",
            "/messages",
            conversation=number,
            before=id_of(before),
            limit=PAGE,
        )
    except RouteRefused as refused:
        if refused.code == "invalid_request":
            return None
        raise
    if page["messages"]:
        return [_json(uri, page)]
    return None


def _json(uri: str, content: Any) -> dict[str, Any]:
    """A JSON document as the content of a resource."""
    return {"uri": uri, **_JSON, "text": msgspec.json.encode(content).decode()}


def _contents_of_file(turn: Turn, uri: str, id: str) -> list[dict[str, Any]] | None:
    """The bytes of a file, in Base64.

    Its id is random, and whoever has the id may fetch it. Returns None if no
    such file exists. Raises McpError if it is too long.
    """
    try:
        from imserver.media.uploads import Uploads
    except ImportError:
        return None
    uploads = turn.core.find(Uploads)
    if uploads is None:
        return None
    row = uploads.find(id)
    if row is None or row.app != turn.app:
        return None
    if row.bytes > FILE_BYTES:
        raise McpError(
            Code.BAD_PARAMS,
            f"The file has {row.bytes} bytes: fetch /api/v1/uploads/{id} instead",
        )

    content = _read_file(turn, uploads, row)
    blob = base64.b64encode(content).decode()
    return [{"uri": uri, "mimeType": row.type, "blob": blob}]


def _read_file(turn: Turn, uploads: "Uploads", row: "Upload") -> bytes:
    """The bytes of a file. A long file costs as much as several requests."""
    host = turn.request.host
    turn.api.rates.charge(turn.principal, host, 1 + row.bytes // BYTES_OF_REQUEST)
    last = row.bytes - 1
    with closing(uploads.open(row, False, 0, last, host)) as pieces:
        return b"".join(pieces)


SOURCE: Final = Source(list=listed, read=read, templates=TEMPLATES)
