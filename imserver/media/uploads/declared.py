"""The declarations of the feature: settings, problems and tables."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from imserver.plugin import SettingsRow
from imserver.plugin.errors import HttpProblem
from imserver.plugin.identity import Rate
from imserver.plugin.settings import (
    HTTP_URL,
    Amount,
    Config,
    Count,
    Duration,
    Locations,
    Secret,
    Url,
    on_several_machines,
    settings_of,
)
from imserver.plugin.storage import Reason, Table

UPLOADED_BYTES: Final = Rate(
    "uploads", "bytes of uploads", "address", "uploads.daily_address_bytes a day", "403"
)


class UploadSettings(Struct, frozen=True):
    """Section ``uploads``: files that users send, stored in a directory or an
    S3 bucket."""

    max_bytes: Amount = 104857600
    kinds: tuple[Literal["picture", "voice", "video", "file"], ...] = (
        "picture",
        "voice",
        "video",
        "file",
    )
    picture_bytes: Amount = 20971520
    voice_bytes: Amount = 20971520
    quota_bytes: Count = 1073741824
    quota_app_bytes: Count = 107374182400
    daily_address_bytes: Count = 10737418240
    min_free_bytes: Annotated[Count, Meta(extra={"free_bytes": True})] = 536870912
    at_once: Amount = 64
    at_once_per_user: Amount = 8
    at_once_per_address: Amount = 32
    min_bytes_per_second: Count = 1024
    seconds: Duration = 600.0
    thumbnail_pixels: Annotated[int, Meta(ge=0, le=2048)] = 640
    directory: str = ""
    s3_url: Url = ""
    s3_bucket: str = ""
    s3_region: Annotated[str, Meta(min_length=1)] = "us-east-1"
    s3_prefix: str = ""
    s3_access_key: Annotated[str, Meta(extra={"secret": False})] = ""
    s3_secret_key: Secret = ""
    s3_seconds: Duration = 30.0


def check(config: Config, locations: Locations) -> Iterator[tuple[str, str]]:
    """Check the settings of the bucket. Raises ConfigError. Yields settings
    that a careful operator would change."""
    uploads = settings_of(config, UploadSettings)
    if uploads.s3_url and not HTTP_URL.match(uploads.s3_url):
        raise locations.wrong(
            "uploads.s3_url", "expected an http:// or https:// address"
        )
    if uploads.s3_url and not (
        uploads.s3_bucket and uploads.s3_access_key and uploads.s3_secret_key
    ):
        needed = "uploads.s3_bucket, uploads.s3_access_key and uploads.s3_secret_key"
        raise locations.lacks("uploads.s3_url", needed)

    if not uploads.quota_bytes:
        yield "uploads.quota_bytes", "0 means no limit; set one"
    if not (uploads.directory or uploads.s3_url) and on_several_machines(config):
        yield (
            "uploads.directory",
            "nodes on several machines need a shared folder or uploads.s3_url",
        )


SETTINGS: Final = SettingsRow({"uploads": UploadSettings}, check=check)


HTTP_QUOTA_EXCEEDED: Final = HttpProblem(
    403,
    "quota_exceeded",
    "The quota of uploaded files of the user, the app or the address is reached.",
)
HTTP_UNKNOWN_UPLOAD: Final = HttpProblem(404, "unknown_upload", "No such file.")
HTTP_OFFSET_MISMATCH: Final = HttpProblem(
    409,
    "offset_mismatch",
    "Upload-Offset differs from the stored offset; read it with HEAD.",
)
HTTP_LENGTH_REQUIRED: Final = HttpProblem(
    411, "length_required", "An upload needs a Content-Length above 0."
)
HTTP_TUS_VERSION: Final = HttpProblem(
    412, "tus_version", "Uploads in parts need Tus-Resumable: 1.0.0."
)
HTTP_FILE_TOO_LARGE: Final = HttpProblem(
    413,
    "file_too_large",
    "The file is over uploads.max_bytes, or over the limit of its kind.",
)
HTTP_KIND_REFUSED: Final = HttpProblem(
    415,
    "kind_refused",
    "Files of this type are not accepted, or the content does not match the declared type.",
)
HTTP_RANGE: Final = HttpProblem(
    416, "range_not_satisfiable", "The file does not contain the requested range."
)
HTTP_UPLOAD_LOCKED: Final = HttpProblem(
    423, "upload_locked", "Another request for this upload is running.", temporary=True
)
HTTP_CHECKSUM_MISMATCH: Final = HttpProblem(
    460,
    "checksum_mismatch",
    "The bytes do not match the checksum in Upload-Checksum. Send the bytes again.",
)
HTTP_DISK_FULL: Final = HttpProblem(
    507,
    "disk_full",
    "The upload would leave less than uploads.min_free_bytes on the disk.",
    temporary=True,
)

TABLES: Final = (
    Table(
        name="upload",
        types="""id string32* out, app name500, "user" name500 out user, kind string16 out, type string64 out,
            name text out, bytes big out, sha256 string64 out, created big out, place string16 empty,
            width int out, height int out, thumbnail_bytes big out, thumbnail_type string64 out""",
        erase_user=(
            'DELETE FROM upload WHERE app = %s AND "user" = %s',
            # This includes the total of the app, which the next upload counts
            # again.
            """DELETE FROM upload_usage WHERE app = %s AND "user" IN (%s, '')""",
        ),
    ),
    Table(
        name="upload_usage",
        types='app name500*, "user" name500* out user, bytes big out, files big out',
        erase_user=Reason("it goes with the files of the user"),
    ),
)
"""The tables in the order of their deletion."""
