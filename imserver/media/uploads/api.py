"""Routes of uploaded files: list, delete. The views of this package receive and
send the files themselves."""

from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Struct

from imserver.media.uploads.contract import UPLOAD_USER_BYTES, Upload
from imserver.media.uploads.declared import (
    HTTP_CHECKSUM_MISMATCH,
    HTTP_DISK_FULL,
    HTTP_FILE_TOO_LARGE,
    HTTP_KIND_REFUSED,
    HTTP_LENGTH_REQUIRED,
    HTTP_OFFSET_MISMATCH,
    HTTP_QUOTA_EXCEEDED,
    HTTP_RANGE,
    HTTP_TUS_VERSION,
    HTTP_UNKNOWN_UPLOAD,
    HTTP_UPLOAD_LOCKED,
)
from imserver.media.uploads.uploads import ID_CHARACTERS, Uploads
from imserver.plugin.errors import HttpProblem, Problems
from imserver.plugin.http import (
    Api,
    ApiProblem,
    Call,
    Header,
    NextCursor,
    PageCursor,
    Resource,
    Route,
    about,
    page_and_cursor,
    read_cursor,
    view,
)
from imserver.plugin.identity import Needs

PATH: Final = "/api/v1/uploads"
FILE_PATH: Final = "/api/v1/uploads/{id}"
THUMBNAIL_PATH: Final = "/api/v1/uploads/{id}/thumbnail"
TUS_PATH: Final = "/api/v1/uploads/tus"


Kind = Literal["picture", "voice", "video", "file"]
FileId = Annotated[
    str,
    about(
        "The id of a file. The id is random: anybody who knows it may fetch the file.",
        pattern=f"^[A-Za-z0-9_-]{{{ID_CHARACTERS}}}$",
    ),
]
Token = Annotated[
    str,
    about(
        "The session token of the user. You may send it as `Authorization: Bearer` instead. The log "
        "does not show it."
    ),
]


class PartQuery(Struct, forbid_unknown_fields=True):
    """The owner of an unfinished upload."""

    app: Annotated[
        str, about("The app of the user. Optional if a token names the user.")
    ] = ""
    user: Annotated[
        str,
        about(
            "The owner of the file. Optional if a token names the user.",
            max_length=UPLOAD_USER_BYTES,
        ),
    ] = ""
    token: Token = ""


class UploadQuery(PartQuery):
    """The file to upload."""

    name: Annotated[str, about("The name of the file, for display only.")] = ""
    kind: Annotated[
        Kind | Literal[""],
        about("The required kind. The server refuses a file of another kind."),
    ] = ""


class UploadDelete(Struct, forbid_unknown_fields=True):
    """The file to delete."""

    id: FileId
    token: Token = ""


class Thumbnail(Struct):
    """A small version of a picture."""

    url: Annotated[str, about("The path of the file on this server.")]
    type: Annotated[str, about("The media type.")]
    bytes: int


class File(Struct):
    """An uploaded file."""

    id: FileId
    url: Annotated[str, about("The path of the file on this server.")]
    app: str
    user: str
    kind: Annotated[Kind, about("The kind, detected from the content.")]
    type: Annotated[str, about("The media type, detected from the content.")]
    name: str
    bytes: int
    sha256: Annotated[str, about("The SHA-256 of the content, in hexadecimal.")]
    created: Annotated[int, about("When the file was uploaded, in Unix milliseconds.")]
    width: Annotated[
        int, about("Of a picture: the displayed size, in pixels; 0: unknown.")
    ]
    height: Annotated[
        int, about("Of a picture: the displayed size, in pixels; 0: unknown.")
    ]
    thumbnail: Annotated[
        Thumbnail | None,
        about("Only for pictures of which the server could make a thumbnail."),
    ]


class UploadsAnswer(Struct):
    """Files of a user, the newest first."""

    bytes: Annotated[
        int,
        about(
            "The part of the quota that the files use: their bytes with thumbnails, "
            "and 4096 bytes for each file."
        ),
    ]
    quota: Annotated[
        int, about("The maximum number of bytes that the user may store; 0: no limit.")
    ]
    total: Annotated[int, about("The number of stored files.")]
    limits: Annotated[
        dict[str, int],
        about("The maximum number of bytes of a file, for each accepted kind."),
    ]
    files: list[File]
    next: NextCursor


class UploadDeleteAnswer(Struct):
    """The result of the deletion."""

    deleted: Annotated[bool, about("False: the file does not exist.")]


def shown(row: Upload) -> File:
    """A file as the answers of the API show it."""
    url = f"{PATH}/{row.id}"
    thumbnail = None
    if row.thumbnail_bytes:
        thumbnail = Thumbnail(
            f"{url}/thumbnail", row.thumbnail_type, row.thumbnail_bytes
        )
    return view(File, row, url=url, thumbnail=thumbnail)


_ID: Final = "k3wz0mM2b2rXkq6v8oQyYp5L1c9uT4aJ"
_OVER_RATE: Final = (Problems.TOO_MANY_REQUESTS,)

_CHAPTER: Final = "Files that users send to each other."


class UploadApi(Struct, frozen=True):
    """The services that the routes use."""

    uploads: Uploads
    api: Api


routes = Resource(
    "uploads",
    lambda core, api: UploadApi(core.service(Uploads), api),
    base=PartQuery,
    chapter=_CHAPTER,
)
"""Routes with the response of :func:`imserver.gateway.http.call.answer`."""
streams = Resource(
    "uploads", lambda _, api: api, hot=False, chapter=_CHAPTER, user="required"
)
"""Routes with the response of the views of this package."""


def check_after(api: Api, call: Call, token: str) -> None:
    """Raise an error if an upload may not count any more when it has arrived.

    It may have taken hours: the app of the file, or the account of its user,
    may have been deleted meanwhile. ``token`` comes from the query. May switch
    greenlets. Raises ApiProblem, StorageUnavailable and IssuerUnavailable.
    """
    if call.app not in api.apps and api.tenants.get(call.app) is None:
        raise ApiProblem(Problems.UNKNOWN_APP)

    # A back end names the user itself, and has no account.
    user = call.principal.user
    if not user:
        return
    request = call.request
    principal = api.authority.identify(
        Needs.PUSH_OR_USER, request.headers, request.host, token
    )
    if principal.user != user:
        raise ApiProblem(Problems.TOKEN_INVALID)


_MAX_TIME_DIGITS: Final = 15
"""Digits of a time in a cursor."""


@routes.get("/uploads", Needs.READ_OR_USER, user="required")
def list_uploads(
    api: UploadApi,
    call: Call,
    cursor: PageCursor = "",
    limit: Annotated[
        int, about("The maximum number of entries on this page.", ge=1, le=1000)
    ] = 100,
) -> UploadsAnswer:
    """List the files of a user.

    Needs an API key with the scope `read`, or the token of the user.
    """
    uploads = api.uploads
    usage = uploads.usage(call.app, call.user)
    before = _position_in(cursor)
    # One more than fits on the page, to know whether another page follows.
    rows = uploads.page(call.app, call.user, before, limit + 1)
    page, next_cursor = page_and_cursor(rows, limit, _cursor_after)
    return UploadsAnswer(
        bytes=usage.charged,
        quota=uploads.settings.quota_bytes,
        total=usage.files,
        limits={kind: uploads.limit_of(kind) for kind in uploads.settings.kinds},
        files=[shown(row) for row in page],
        next=next_cursor,
    )


def _cursor_after(row: Upload) -> str:
    """The position of a file in a list, as :func:`_position_in` reads it."""
    return f"{row.created} {row.id}"


def _position_in(cursor: str) -> tuple[int, str]:
    """The time and the id of the last file of the previous page, from a cursor.

    ``(0, "")`` means the first page. Raises ApiProblem.
    """
    text = read_cursor(cursor)
    if text is None:
        return 0, ""
    created, _, name = text.partition(" ")
    # A client may send any text as a cursor.
    is_number = created.isascii() and created.isdecimal()
    if not is_number or len(created) > _MAX_TIME_DIGITS or not int(created):
        raise ApiProblem.invalid("`cursor`: not a cursor of this list")
    return int(created), name


_delete_of: Final = msgspec.json.Decoder(UploadDelete)


def _read_delete(api: UploadApi, call: Call) -> None:
    """Read the request to delete a file.

    Its app and user are the app and the owner of the file. The body may have
    the user's token. Raises ApiProblem.
    """
    request = api.api.read_json(call, _delete_of)
    call.input = request
    principal = api.api.identify(call, Needs.ANYONE_OR_PUSH, request.token)
    row = api.uploads.find(request.id)
    if row is None:
        # The answer to somebody who may delete nothing tells no more.
        call.app = principal.app
        call.user = principal.user
    else:
        call.app = api.api.tenants.resolve(row.app)
        call.user = row.user


@routes.post(
    "/uploads/delete",
    Needs.ANYONE_OR_PUSH,
    reach="optional",
    user="optional",
    read=_read_delete,
)
def delete_upload(
    api: UploadApi, call: Call, request: UploadDelete
) -> UploadDeleteAnswer:
    """Delete a file.

    Needs an API key with the scope `push`, or the token of the file's owner.
    """
    deleted = api.uploads.delete(call.input.id)
    if not deleted:
        # Nothing has happened, so nothing is recorded.
        call.act = ""
    return UploadDeleteAnswer(deleted)


_ARRIVING: Final = (
    Problems.TIMEOUT,
    HTTP_LENGTH_REQUIRED,
    HTTP_FILE_TOO_LARGE,
    Problems.BODY_TOO_LARGE,
    HTTP_KIND_REFUSED,
    HTTP_QUOTA_EXCEEDED,
    Problems.REJECTED,
    HTTP_DISK_FULL,
    Problems.MEDIA_UNAVAILABLE,
    Problems.REVIEW_UNAVAILABLE,
)

UPLOAD: Final = streams.elsewhere(
    "POST",
    "/uploads",
    Needs.PUSH_OR_USER,
    """Upload a file.

    The body is the file itself, with a Content-Length. The server detects the
    kind from the content: a picture (JPEG, PNG, GIF, WebP), a voice message or
    music, a video, or another file. The server ignores the Content-Type, but
    refuses `multipart/form-data`.

    Needs an API key with the scope `push`, or the token of the user. Send the
    `url` of the answer in a message, together with the data that the receiver
    should display.
    """,
    query=UploadQuery,
    binary="application/octet-stream",
    answer=File,
    status=201,
    problems=(*_OVER_RATE, Problems.UNKNOWN_ENCODING, *_ARRIVING),
)


_FILE: Final[dict[str, Any]] = {
    "user": None,
    "path_id": FileId,
    "example": {"id": _ID},
    "also": (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.NOT_MODIFIED),
    "problems": (
        HTTP_UNKNOWN_UPLOAD,
        HTTP_RANGE,
        Problems.STORAGE_UNAVAILABLE,
        Problems.MEDIA_UNAVAILABLE,
    ),
    "content_type": "application/octet-stream",
}


streams.elsewhere(
    "GET",
    "/uploads/{id}",
    Needs.ANYONE,
    """Fetch a file.

    You need no key. The id is random, and anybody who knows it may fetch the
    file. A request for one range of bytes is answered with 206, `If-None-Match`
    with 304.
    """,
    headers=(Header("Range", "The range of bytes to fetch: `bytes=0-1023`."),),
    **_FILE,
)


streams.elsewhere(
    "GET",
    "/uploads/{id}/thumbnail",
    Needs.ANYONE,
    """Fetch the thumbnail of a picture.

    The thumbnail is a JPEG. If the picture has transparent parts, it is a PNG.
    """,
    **_FILE,
)


TUS_VERSION: Final = "1.0.0"
"""The version of tus."""
_TUS: Final = Header(
    "Tus-Resumable",
    "The version of the protocol.",
    example=TUS_VERSION,
    required=True,
    limits={"enum": [TUS_VERSION]},
)
_BYTES: Final = {"minimum": 0, "maximum": 10**15 - 1}
_OFFSET: Final = Header(
    "Upload-Offset",
    "The number of bytes that the server has received.",
    kind="integer",
    example=0,
)
"""In an answer."""
_REQUIRED_OFFSET: Final = Header(
    "Upload-Offset",
    "The number of bytes that the server has received.",
    kind="integer",
    example=0,
    required=True,
    limits=_BYTES,
)
"""In a request."""
_LENGTH: Final = Header(
    "Upload-Length",
    "The size of the whole file, in bytes.",
    kind="integer",
    example=48213,
)
"""In an answer."""
_REQUIRED_LENGTH: Final = Header(
    "Upload-Length",
    "The size of the whole file, in bytes.",
    kind="integer",
    example=48213,
    required=True,
    limits=_BYTES,
)
"""In a request."""
_EXPIRES: Final = Header(
    "Upload-Expires", "When the server deletes the unfinished upload."
)
_CHECKSUM: Final = Header(
    "Upload-Checksum",
    "A checksum algorithm (`sha1`, `sha256`, `md5`) and a digest in base64.",
)
PART_TYPE: Final = "application/offset+octet-stream"
"""The Content-Type of a part of an upload."""
_OF_TUS: Final = (*_OVER_RATE, HTTP_TUS_VERSION)
_OF_PART: Final = (
    *_OF_TUS,
    HTTP_UNKNOWN_UPLOAD,
    HTTP_UPLOAD_LOCKED,
    Problems.MEDIA_UNAVAILABLE,
)

BEGIN: Final = streams.elsewhere(
    "POST",
    "/uploads/tus",
    Needs.PUSH_OR_USER,
    """Begin an upload in parts.

    The protocol is tus 1.0. The `Location` of the answer is the address to
    which you send the bytes. To continue an interrupted upload, get the offset
    with HEAD. The rules of `POST /api/v1/uploads` apply.
    """,
    query=UploadQuery,
    headers=(
        _TUS,
        _REQUIRED_LENGTH,
        Header(
            "Upload-Metadata",
            "Names, and values in base64. `filename` is the name of the file.",
        ),
        _CHECKSUM,
    ),
    answer_headers=(
        Header("Location", "The address of the upload."),
        _OFFSET,
        _EXPIRES,
    ),
    status=201,
    problems=(*_OF_TUS, *_ARRIVING, HTTP_CHECKSUM_MISMATCH),
)
PART: Final[dict[str, Route]] = {}
"""The routes of an upload in parts, by method."""


def _declare_part(
    method: str, text: str, problems: tuple[HttpProblem, ...] = (), **more: Any
) -> None:
    """Declare, for the description of the API, a method of an upload in parts.

    The views of this package serve it. ``text`` describes it, and ``more`` are
    further arguments of the declaration.
    """
    PART[method] = streams.elsewhere(
        method,
        "/uploads/tus/{id}",
        Needs.PUSH_OR_USER,
        text,
        query=PartQuery,
        path_id=FileId,
        example={"id": _ID},
        problems=(*_OF_PART, *problems),
        **more,
    )


_declare_part(
    "PATCH",
    """Send bytes of an upload in parts.

    When the last byte has arrived, the server stores the file. The file has the
    id of the upload.
    """,
    binary=PART_TYPE,
    headers=(_TUS, _REQUIRED_OFFSET, _CHECKSUM),
    answer_headers=(_OFFSET, _EXPIRES),
    status=204,
    problems=(*_ARRIVING, HTTP_OFFSET_MISMATCH, HTTP_CHECKSUM_MISMATCH),
)
_declare_part(
    "HEAD",
    """Get the offset of an upload in parts.""",
    headers=(_TUS,),
    answer_headers=(_OFFSET, _LENGTH, _EXPIRES),
)
_declare_part(
    "GET",
    """Get the description of the file that was uploaded in parts.

    The answer is the same as that of `POST /api/v1/uploads`. 404 while the
    upload is unfinished.
    """,
    answer=File,
)
_declare_part(
    "DELETE",
    """Delete an upload in parts, and its file.""",
    headers=(_TUS,),
    status=204,
)

OPERATIONS: Final = (*routes.rows, *streams.rows)
