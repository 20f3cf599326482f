"""Files that users send: whole or in parts, pictures, quotas, storage in a folder or a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from imserver.features.uploads.api import OPERATIONS, is_streamed
from imserver.features.uploads.contract import Upload
from imserver.features.uploads.declared import SETTINGS, TABLES, UploadSettings
from imserver.features.uploads.uploads import Offer, Uploads
from imserver.plugin import Feature, FeatureParts, Views
from imserver.plugin.services import Core
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Erasure, Store

__all__ = ["FEATURE", "Offer", "Upload", "UploadSettings", "Uploads"]


def _build(core: Core) -> FeatureParts:
    config = core.config
    settings = settings_of(config, UploadSettings)
    uploads = Uploads(settings, config.server.data_dir, core.storage.store, core)
    core.node.counters.append(uploads.counters)
    return FeatureParts((uploads, uploads.erasure), stop=uploads.close)


@contextmanager
def _erasing(config: Config, store: Store) -> Iterator[Erasure]:
    settings = settings_of(config, UploadSettings)
    with closing(Uploads(settings, config.server.data_dir, store)) as uploads:
        yield uploads.erasure


FEATURE = Feature(
    "uploads",
    _build,
    operations=OPERATIONS,
    views=Views(("imserver.features.uploads.tus", "create_views"), is_streamed),
    metrics=("imserver.features.uploads.metrics", "METRICS"),
    erasing=_erasing,
    files=("imserver.features.uploads.archive", "read_files", "write_files"),
    commands={
        "uploads": (
            "imserver.features.uploads.command",
            "uploads",
            "Move uploaded files between the folder and the bucket.",
        )
    },
    doctor={
        "--files": (
            "imserver.features.uploads.command",
            "check_files",
            "Read all files of an app, and compare them with their checksums.",
            "APP",
        )
    },
    settings=SETTINGS,
    tables=TABLES,
    exports=("imserver.features.uploads.archive", "read"),
    imports=("imserver.features.uploads.archive", "write"),
)
