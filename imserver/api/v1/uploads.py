"""Uploads: shapes, lists, deletion. The bytes of files go through :mod:`imserver.api.views`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final, Literal, NoReturn

import msgspec
from msgspec import Meta, Struct

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.form import cursor as cursor_of
from imserver.api.form import read_cursor
from imserver.api.reply import ApiProblem
from imserver.api.v1 import field
from imserver.api.v1.operation import Header, Operation, route_of
from imserver.api.v1.wire import read, reply
from imserver.auth.authority import bearer, refusal
from imserver.auth.principal import ANYONE, ANYONE_OR_PUSH, PUSH_OR_USER, READ_OR_USER
from imserver.services.files.uploads import ID_CHARACTERS
from imserver.storage.contract import MAX_USER_BYTES, Upload
from imserver.transport.body import Streamed
from imserver.transport.exchange import HttpResponse

PATH: Final = "/api/v1/uploads"
FILE_PATH: Final = "/api/v1/uploads/{id}"
THUMBNAIL_PATH: Final = "/api/v1/uploads/{id}/thumbnail"
STREAMED: Final[Streamed] = frozenset({("POST", PATH)})
"""Requests whose body the application reads itself."""

_PAGE_LIMIT: Final = 1000
_USUAL_PAGE: Final = 100

Kind = Literal["picture", "voice", "video", "file"]
FileId = Annotated[
    str,
    Meta(
        pattern=f"^[A-Za-z0-9_-]{{{ID_CHARACTERS}}}$",
        description="The id of a file. It is random: everybody with the id may fetch the file.",
    ),
]
Token = Annotated[
    str,
    Meta(
        description="The session token of the user, if it does not come as `Authorization: Bearer`. It is "
        "kept out of the log."
    ),
]
OwnerId = Annotated[
    str,
    Meta(max_length=MAX_USER_BYTES, description="The owner of the file. Optional if a token names the user."),
]
OwnersApp = Annotated[
    str, Meta(description="The app of the user; may be left out if a token names the user.")
]


class UploadQuery(Struct, forbid_unknown_fields=True):
    """What is said of a file that comes."""

    app: OwnersApp = ""
    user: OwnerId = ""
    name: Annotated[
        str,
        Meta(description="The name of the file. Others see it; the server does not use it."),
    ] = ""
    kind: Annotated[
        Kind | Literal[""], Meta(description="What the file has to be; anything else is refused.")
    ] = ""
    token: Token = ""


class UploadsQuery(Struct, forbid_unknown_fields=True):
    """Whose files."""

    app: OwnersApp = ""
    user: OwnerId = ""
    cursor: field.Cursor = ""
    limit: Annotated[int, Meta(ge=1, le=_PAGE_LIMIT, description="Most entries of this page.")] = _USUAL_PAGE
    token: Token = ""


class UploadDelete(Struct, forbid_unknown_fields=True):
    """A file to be removed."""

    id: FileId
    token: Token = ""


class Thumbnail(Struct):
    """A small picture of a picture."""

    url: Annotated[str, Meta(description="Where it is fetched, on this server.")]
    type: Annotated[str, Meta(description="Its media type.")]
    bytes: int


class File(Struct):
    """A file that was uploaded."""

    id: FileId
    url: Annotated[str, Meta(description="Where it is fetched, on this server.")]
    app: str
    user: str
    kind: Annotated[Kind, Meta(description="What it is, by its content.")]
    type: Annotated[str, Meta(description="Its media type, by its content.")]
    name: str
    bytes: int
    sha256: Annotated[str, Meta(description="Of its bytes, in hexadecimal.")]
    created: Annotated[int, Meta(description="When it was uploaded, in Unix milliseconds.")]
    width: Annotated[int, Meta(description="Of a picture, in pixels, as it is shown; 0: unknown.")]
    height: Annotated[int, Meta(description="Of a picture, in pixels, as it is shown; 0: unknown.")]
    thumbnail: Annotated[Thumbnail | None, Meta(description="Of a picture, where one could be made.")]


class UploadsAnswer(Struct):
    """Files of a user, the newest first."""

    bytes: Annotated[int, Meta(description="What the user keeps in all, thumbnails included.")]
    quota: Annotated[int, Meta(description="What the user may keep; 0: as much as there is room.")]
    total: Annotated[int, Meta(description="How many files the user keeps.")]
    files: list[File]
    next: field.Next


class UploadDeleteAnswer(Struct):
    """What has become of the file."""

    deleted: Annotated[bool, Meta(description="False: there is none, or no longer.")]


def shown(row: Upload) -> File:
    """A file as clients see it."""
    url = f"{PATH}/{row.id}"
    small = Thumbnail(f"{url}/thumbnail", row.thumbnail_type, row.thumbnail_bytes)
    return File(
        row.id,
        url,
        row.app,
        row.user,
        row.kind,  # type: ignore[arg-type]
        row.type,
        row.name,
        row.bytes,
        row.sha256,
        row.created,
        row.width,
        row.height,
        small if row.thumbnail_bytes else None,
    )


# --- the user who asks --------------------------------------------------------------------------------------


def still_holds(api: Api, call: Call, token: str) -> bool:
    """Whether the user's token is still good: the account may have been deleted meanwhile. May switch.

    ``token`` comes from the query.
    """
    user = call.principal.user
    shown = token or bearer(call.request.headers.get("authorization", ""))
    return not user or api.authority.identify(PUSH_OR_USER, {}, "", shown).user == user


# --- what is no file ----------------------------------------------------------------------------------------


def list_uploads(api: Api, call: Call) -> HttpResponse:
    """``GET /api/v1/uploads``."""
    asked: UploadsQuery = call.asked
    api.rates.require(call.principal, call.request.host)
    uploads = api.services.uploads
    usage = uploads.usage(call.app, call.user)
    rows = uploads.page(call.app, call.user, _place(asked.cursor), asked.limit + 1)
    page, last = rows[: asked.limit], rows[asked.limit - 1] if len(rows) > asked.limit else None
    following = cursor_of(f"{last.created} {last.id}") if last is not None else ""
    answer = UploadsAnswer(
        usage.bytes, uploads.settings.quota_bytes, usage.files, [shown(row) for row in page], following
    )
    return reply(call, answer)


def _place(cursor: str) -> tuple[int, str]:
    """Time and id of the file behind which a page begins."""
    if not cursor:
        return 0, ""
    created, _, name = read_cursor(cursor, "replace").partition(" ")
    if not (created.isascii() and created.isdecimal() and len(created) < 16 and int(created)):
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "`cursor` is none that a page has given")
    return int(created), name


_delete_of: Final = msgspec.json.Decoder(UploadDelete)


def _read_delete(api: Api, call: Call) -> None:
    """Find the file, whose app and user the request is for. The body may bring the user's token."""
    asked = read(api, call, _delete_of)
    call.asked = asked
    principal, host = call.principal, call.request.host
    if asked.token and not (principal.key or principal.user):
        call.principal = principal = api.authority.identify(ANYONE_OR_PUSH, {}, host, asked.token)
    api.rates.require(principal, host)
    if principal.kind == "nobody":
        raise ApiProblem(refusal(principal))
    row = api.services.uploads.find(asked.id)
    if row is None:
        call.app, call.user = principal.app, principal.user
    else:
        call.app, call.user = api.services.tenants.resolve(row.app), row.user


def delete_upload(api: Api, call: Call) -> HttpResponse:
    """``POST /api/v1/uploads/delete``."""
    return reply(call, UploadDeleteAnswer(api.services.uploads.delete(call.asked.id)))


# --- the document -------------------------------------------------------------------------------------------


def _elsewhere(*_: object) -> NoReturn:
    raise NotImplementedError("bytes of files go by imserver.api.views")


_WHO: Final = (
    errors.HTTP_INVALID_REQUEST,
    errors.HTTP_UNAUTHORIZED,
    errors.HTTP_TOKEN_INVALID,
    errors.HTTP_FORBIDDEN,
    errors.HTTP_NOT_ALLOWED,
    errors.HTTP_UNKNOWN_APP,
    errors.HTTP_TOO_MANY_REQUESTS,
    errors.HTTP_STORAGE_UNAVAILABLE,
)
_OUT: Final = (
    errors.HTTP_UNKNOWN_UPLOAD,
    errors.HTTP_RANGE,
    errors.HTTP_STORAGE_UNAVAILABLE,
    errors.HTTP_MEDIA_UNAVAILABLE,
)
_ID: Final = "k3wz0mM2b2rXkq6v8oQyYp5L1c9uT4aJ"
_EXAMPLE: Final = {
    "id": _ID,
    "url": f"{PATH}/{_ID}",
    "app": "101",
    "user": "u1",
    "kind": "picture",
    "type": "image/png",
    "name": "cat.png",
    "bytes": 48213,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "created": 1767225600000,
    "width": 800,
    "height": 600,
    "thumbnail": {"url": f"{PATH}/{_ID}/thumbnail", "type": "image/jpeg", "bytes": 9120},
}

OPERATIONS: Final = (
    Operation(
        "GET",
        PATH,
        READ_OR_USER,
        list_uploads,
        "uploads",
        "The files that a user keeps",
        "For an API key with the scope `read`, or with the token of the user.",
        query=UploadsQuery,
        user="required",
        answer=UploadsAnswer,
        problems=_WHO,
        example_query={"app": "101", "user": "u1"},
        example_answer={"bytes": 57333, "quota": 1073741824, "total": 1, "files": [_EXAMPLE], "next": ""},
    ),
    Operation(
        "POST",
        "/api/v1/uploads/delete",
        ANYONE_OR_PUSH,
        delete_upload,
        "uploads",
        "Remove a file",
        "For an API key with the scope `push`, or with the token of the user whose file it is.",
        body=UploadDelete,
        reach="optional",
        user="optional",
        read=_read_delete,
        answer=UploadDeleteAnswer,
        problems=_WHO,
        example_body={"id": _ID},
        example_answer={"deleted": True},
    ),
)
"""What :func:`imserver.api.routes.answer` answers."""

STREAMS: Final = (
    Operation(
        "POST",
        PATH,
        PUSH_OR_USER,
        _elsewhere,
        "uploads",
        "Upload a file",
        "The body is the file itself, with its Content-Length. What it is, its content says: a picture "
        "(JPEG, PNG, GIF, WebP), a voice message or music, a video, or some other file. "
        "Content-Type is not looked at.\n\n"
        "For an API key with the scope `push`, or with the token of the user. Send the `url` of the answer "
        "in a message, with whatever else the receiver is to show.",
        query=UploadQuery,
        user="required",
        binary=True,
        answer=File,
        status=201,
        problems=(
            *_WHO,
            errors.HTTP_TIMEOUT,
            errors.HTTP_LENGTH_REQUIRED,
            errors.HTTP_FILE_TOO_LARGE,
            errors.HTTP_BODY_TOO_LARGE,
            errors.HTTP_KIND_REFUSED,
            errors.HTTP_UNKNOWN_ENCODING,
            errors.HTTP_QUOTA_EXCEEDED,
            errors.HTTP_DISK_FULL,
            errors.HTTP_MEDIA_UNAVAILABLE,
        ),
        example_query={"app": "101", "user": "u1", "name": "cat.png"},
        example_answer=_EXAMPLE,
        hot=False,
    ),
    Operation(
        "GET",
        FILE_PATH,
        ANYONE,
        _elsewhere,
        "uploads",
        "Fetch a file",
        "Needs no key: the id is random, and whoever was told it may fetch the file. One range of bytes is "
        "answered with 206, `If-None-Match` with 304.",
        path_id=FileId,
        example_query={"id": _ID},
        also=(HTTPStatus.PARTIAL_CONTENT, HTTPStatus.NOT_MODIFIED),
        problems=_OUT,
        headers=(Header("Range", "The bytes that are wanted: `bytes=0-1023`."),),
        content_type="application/octet-stream",
        hot=False,
    ),
    Operation(
        "GET",
        THUMBNAIL_PATH,
        ANYONE,
        _elsewhere,
        "uploads",
        "Fetch the thumbnail of a picture",
        "A JPEG, or a PNG where the picture is transparent.",
        path_id=FileId,
        example_query={"id": _ID},
        also=(HTTPStatus.PARTIAL_CONTENT, HTTPStatus.NOT_MODIFIED),
        problems=_OUT,
        content_type="application/octet-stream",
        hot=False,
    ),
)
"""What the document tells beside them."""

UPLOAD: Final = route_of(STREAMS[0])
"""The row of what takes a file in."""
