"""Uploads of files as they are told: what the routes take and answer."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from imserver.api.v1 import field
from imserver.services.files.uploads import ID_CHARACTERS
from imserver.storage.contract import MAX_USER_BYTES, Upload
from imserver.transport.body import Streamed

PATH: Final = "/api/v1/uploads"
FILE_PATH: Final = "/api/v1/uploads/{id}"
THUMBNAIL_PATH: Final = "/api/v1/uploads/{id}/thumbnail"
STREAMED: Final[Streamed] = frozenset({("POST", PATH)})
"""What the doors let the application read itself."""

_PAGE_LIMIT: Final = 1000
_USUAL_PAGE: Final = 100

Kind = Literal["picture", "voice", "video", "file"]
FileId = Annotated[
    str,
    Meta(
        pattern=f"^[A-Za-z0-9_-]{{{ID_CHARACTERS}}}$",
        description="The id of a file. It is random: whoever has it may fetch the file.",
    ),
]
Token = Annotated[
    str,
    Meta(
        description="The session token of the user, if it does not come as `Authorization: Bearer`. It is "
        "kept out of the log."
    ),
]
Owner = Annotated[
    str,
    Meta(
        max_length=MAX_USER_BYTES, description="Whose file it is; may be left out if a token names the user."
    ),
]
OwnersApp = Annotated[
    str, Meta(description="The app of the user; may be left out if a token names the user.")
]


class UploadQuery(Struct, forbid_unknown_fields=True):
    """What is said of a file that comes."""

    app: OwnersApp = ""
    user: Owner = ""
    name: Annotated[
        str,
        Meta(description="What the file is called. It is told to others, and means nothing to the server."),
    ] = ""
    kind: Annotated[
        Kind | Literal[""], Meta(description="What the file has to be; anything else is refused.")
    ] = ""
    token: Token = ""


class UploadsQuery(Struct, forbid_unknown_fields=True):
    """Whose files."""

    app: OwnersApp = ""
    user: Owner = ""
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
