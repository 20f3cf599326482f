"""Files that users send, as a whole or in parts: pictures, quotas, and storage
in a folder or a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

from imserver.media.uploads.api import OPERATIONS
from imserver.media.uploads.archive import UploadFiles
from imserver.media.uploads.contract import Upload
from imserver.media.uploads.declared import SETTINGS, TABLES, UploadSettings
from imserver.media.uploads.uploads import Offer, Uploads
from imserver.plugin import CommandOf, FeatureRow, Parts
from imserver.plugin.services import Core
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Store

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric

__all__ = ["FEATURE", "Offer", "Upload", "UploadSettings", "Uploads"]


def _build(core: Core) -> Parts:
    """Make the services of uploaded files for one node."""
    config = core.config
    uploads = Uploads(
        settings_of(config, UploadSettings), config.server.data_dir, core.store, core
    )
    core.node.show(uploads.counters)
    archived_files = UploadFiles(uploads.storage, core.store)
    return Parts(
        services=(uploads, uploads.erasure, archived_files),
        stop=uploads.close,
    )


@contextmanager
def _offline(
    config: Config, store: Store, _tenants: object
) -> Iterator[tuple[object, ...]]:
    """A context with the objects that erase and archive files in a command,
    where no node runs."""
    settings = settings_of(config, UploadSettings)
    with closing(Uploads(settings, config.server.data_dir, store)) as uploads:
        yield uploads.erasure, UploadFiles(uploads.storage, store)


def _views(_forks: bool) -> Callable[..., Any]:
    """The function that makes the views of files. They are imported with the
    first request."""
    from imserver.media.uploads.tus import create_views

    return create_views


_METRICS: Final = {
    "uploads": "Files uploaded",
    "upload_bytes": "Bytes of these files",
    "uploads_refused": "Uploads refused",
    "downloads": "Files, thumbnails and parts of files sent",
}
"""Field of the counters → the description of its metric."""


def _counter_of(name: str) -> Callable[[Core], int]:
    """The function that reads this counter of a node, for the table of
    metrics."""

    def read(core: Core) -> int:
        count: int = getattr(core.service(Uploads).counters, name)
        return count

    return read


def metrics() -> tuple[Metric, ...]:
    """Rows of the table of metrics. Called at the first scrape."""
    from imserver.plugin.metrics import Metric  # most nodes start without it

    return tuple(
        Metric(f"imserver_{name}_total", "counter", text, _counter_of(name))
        for name, text in _METRICS.items()
    )


FEATURE = FeatureRow(
    "uploads",
    _build,
    routes=OPERATIONS,
    views=_views,
    metrics=metrics,
    offline=_offline,
    commands=(
        CommandOf(
            "uploads",
            "imserver.media.uploads.command:uploads",
            "Move uploaded files between the folder and the bucket.",
        ),
        CommandOf(
            "--files",
            "imserver.media.uploads.command:check_files",
            "Read all files of an app, and compare them with their checksums.",
            parent="doctor",
            metavar="APP",
        ),
    ),
    settings=SETTINGS,
    tables=TABLES,
)
