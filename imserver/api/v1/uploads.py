"""Uploads of files: what the routes check and do. The bytes go in and out by
:mod:`imserver.api.upload_view`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, NoReturn

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.cursor import cursor as cursor_of
from imserver.api.cursor import read_cursor
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1.operation import Header, Operation
from imserver.api.v1.query import read_query
from imserver.api.v1.upload import (
    FILE_PATH,
    PATH,
    THUMBNAIL_PATH,
    File,
    FileId,
    UploadDelete,
    UploadDeleteAnswer,
    UploadQuery,
    UploadsAnswer,
    UploadsQuery,
    shown,
)
from imserver.api.v1.wire import app_of, read, reply
from imserver.auth.authority import bearer, refusal
from imserver.auth.principal import ANYONE, ANYONE_OR_PUSH, PUSH_OR_USER, READ_OR_USER, Need

# --- who asks -----------------------------------------------------------------------------------------------


class Owner(Struct, frozen=True):
    """For whom a request is made: a user of an app. ``token``: with what it was proved, if by a token."""

    app: str
    user: str
    token: str = ""


def owner_of(api: Api, call: Call, need: Need, app: str, user: str, token: str) -> Owner:
    """For whom a request is made. Raises :class:`Problem`. May switch.

    A back end acts for every user of its apps, a user for themselves, in demo mode anybody for anybody.
    ``token`` comes from the query or the body; the header was read before.
    """
    request, principal = call.request, call.principal
    assert request is not None
    if token and not (principal.key or principal.user):
        principal = api.authority.identify(need, {}, request.host, token)
    api.rates.require(principal, request.host)
    if principal.kind == "nobody":
        raise Problem(refusal(principal))
    if principal.user:
        asked = app and api.services.tenants.resolve(app)
        if asked not in ("", principal.app) and principal.kind == "account":
            raise Problem(errors.HTTP_TOKEN_INVALID)
        if asked not in ("", principal.app) or user not in ("", principal.user):
            raise Problem(errors.HTTP_NOT_ALLOWED, "The token is somebody else's")
        return Owner(principal.app, principal.user, token or bearer(request.headers.get("authorization", "")))
    if not app or not user:
        raise Problem(errors.HTTP_INVALID_REQUEST, "The request names no `app`, or no `user`")
    return Owner(app_of(api, replace(call, principal=principal), app), user)


def still_holds(api: Api, owner: Owner) -> bool:
    """Whether the token is still good: its account may have been deleted meanwhile. May switch."""
    return not owner.token or api.authority.identify(PUSH_OR_USER, {}, "", owner.token).user == owner.user


# --- what is no file ----------------------------------------------------------------------------------------


def list_uploads(api: Api, call: Call) -> Answer:
    """``GET /api/v1/uploads``."""
    asked = read_query(call, UploadsQuery)
    owner = owner_of(api, call, READ_OR_USER, asked.app, asked.user, asked.token)
    uploads = api.services.uploads
    usage = uploads.usage(owner.app, owner.user)
    rows = uploads.page(owner.app, owner.user, _place(asked.cursor), asked.limit + 1)
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
        raise Problem(errors.HTTP_INVALID_REQUEST, "`cursor` is none that a page has given")
    return int(created), name


_read_delete: Final = msgspec.json.Decoder(UploadDelete)


def delete_upload(api: Api, call: Call) -> Answer:
    """``POST /api/v1/uploads/delete``."""
    asked = read(api, call, _read_delete)
    uploads = api.services.uploads
    row = uploads.find(asked.id)
    app, user = (row.app, row.user) if row is not None else ("", "")
    try:
        owner_of(api, call, ANYONE_OR_PUSH, app, user, asked.token)
    except Problem as problem:
        if row is not None or problem.problem.status in (401, 429):
            raise
    return reply(call, UploadDeleteAnswer(row is not None and uploads.delete(asked.id)))


# --- the document -------------------------------------------------------------------------------------------


def _elsewhere(*_: object) -> NoReturn:
    raise NotImplementedError("bytes of files go by imserver.api.upload_view")


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
