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
from imserver.api.v1.wire import app_of, bearer_of, read, reply
from imserver.auth import ANYBODY, Caller

# --- who asks -----------------------------------------------------------------------------------------------


class Owner(Struct, frozen=True):
    """For whom a request is made: the user of an app, who has shown this ``token`` (``""``: others ask)."""

    app: str
    user: str
    token: str = ""


def owner_of(api: Api, call: Call, scope: str, app: str, user: str, token: str) -> Owner:
    """For whom a request is made, proved. Raises :class:`Problem`. May switch.

    An API key with ``scope`` speaks for every user of its apps; a token for its own user; in demo mode
    anybody for anybody.
    """
    request = call.request
    assert request is not None
    bearer = bearer_of(request)
    caller = api.auth.caller(f"Bearer {bearer}")
    if caller.key and caller is not ANYBODY:
        api.rates.require(caller, request.host)
        if scope not in caller.scopes:
            raise Problem(errors.HTTP_FORBIDDEN)
        return _named(api, caller, app, user)
    api.rates.require(caller, request.host)
    if caller.user and caller.apps:  # a page's
        return _same(next(iter(caller.apps)), caller.user, app and api.services.tenants.resolve(app), user)
    asked_app = app and api.services.tenants.resolve(app)
    claims = api.services.uploads.holder(token or bearer, asked_app) if token or bearer else None
    if claims is not None:
        return replace(_same(claims.app, claims.user, asked_app, user), token=token or bearer)
    if api.auth.demo:
        return _named(api, ANYBODY, app, user)
    raise Problem(errors.HTTP_TOKEN_INVALID if token or bearer else errors.HTTP_UNAUTHORIZED)


def still_holds(api: Api, owner: Owner) -> bool:
    """Whether the token is still good: its account may have been deleted meanwhile. May switch."""
    return not owner.token or api.services.uploads.holder(owner.token, owner.app) is not None


def _named(api: Api, caller: Caller, app: str, user: str) -> Owner:
    if not app or not user:
        raise Problem(errors.HTTP_INVALID_REQUEST, "The request names no `app`, or no `user`")
    return Owner(app_of(api, Call({}, "", caller), app), user)


def _same(app: str, user: str, asked_app: str, asked_user: str) -> Owner:
    if (asked_app and asked_app != app) or (asked_user and asked_user != user):
        raise Problem(errors.HTTP_NOT_ALLOWED, "The token is somebody else's")
    return Owner(app, user)


# --- what is no file ----------------------------------------------------------------------------------------


def list_uploads(api: Api, call: Call) -> Answer:
    """``GET /api/v1/uploads``."""
    asked = read_query(call, UploadsQuery)
    owner = owner_of(api, call, "read", asked.app, asked.user, asked.token)
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
        owner_of(api, call, "push", app, user, asked.token)
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
        "",
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
        "",
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
        "",
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
        "",
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
        "",
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
