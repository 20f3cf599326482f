"""The settings of files that users send."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from imserver.plugin import FeatureSettings
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
    settings_of,
)

MediaKind = Literal["picture", "voice", "video", "file"]


UPLOADED_BYTES: Final = Rate(
    "uploads", "bytes of uploads", "address", "uploads.daily_address_bytes a day", "403"
)


class UploadSettings(Struct, frozen=True):
    """Section ``uploads``: files that users send, stored in a directory or an S3 bucket."""

    max_bytes: Amount = 104857600
    kinds: tuple[MediaKind, ...] = ("picture", "voice", "video", "file")
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


def check(config: Config, locations: Locations) -> None:
    """Check where the bucket is. Raises ConfigError."""
    uploads = settings_of(config, UploadSettings)
    if uploads.s3_url and not HTTP_URL.match(uploads.s3_url):
        raise locations.wrong("uploads.s3_url", "expected an http:// or https:// address")
    if uploads.s3_url and not (uploads.s3_bucket and uploads.s3_access_key and uploads.s3_secret_key):
        needed = "uploads.s3_bucket, uploads.s3_access_key and uploads.s3_secret_key"
        raise locations.lacks("uploads.s3_url", needed)


def findings(config: Config, shared: bool) -> Iterator[tuple[str, str]]:
    """The settings that a careful operator would change."""
    uploads = settings_of(config, UploadSettings)
    if not uploads.quota_bytes:
        yield "uploads.quota_bytes", "0 means no limit; set one"
    if shared and not (uploads.directory or uploads.s3_url):
        yield "uploads.directory", "nodes on several machines need a shared folder or uploads.s3_url"


SETTINGS: Final = FeatureSettings({"uploads": UploadSettings}, check=check, findings=findings)
