"""Files that users send: whole or in parts, pictures, quotas, storage in a folder or a bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from imserver.config.settings import Config, settings_of
from imserver.core.core import FeatureParts, Parts
from imserver.feature import Feature
from imserver.features.uploads.api import OPERATIONS, is_streamed
from imserver.features.uploads.settings import UploadSettings, check, findings
from imserver.features.uploads.uploads import Uploads, uploads_of
from imserver.http.call import Api
from imserver.storage.contract import Erasure
from imserver.storage.store import Store
from imserver.webhooks.requests import Outgoing
from imserver.webhooks.reviews import Reviews

if TYPE_CHECKING:
    from imserver.metric_table import Metric

__all__ = ["FEATURE", "Uploads", "uploads_of"]


def _build(core: Parts) -> FeatureParts:
    config = core.config
    uploads = Uploads(
        settings_of(config, UploadSettings), config.server.data_dir, core.store, core.webhooks.reviews
    )
    return FeatureParts(uploads, erasure=uploads.erasure, counters=uploads.counters, stop=uploads.close)


def _views(api: Api) -> Iterable[Any]:
    from imserver.features.uploads.tus import create_tus_view
    from imserver.features.uploads.views import create_upload_view

    return create_upload_view(api), create_tus_view(api)


def _metrics() -> Sequence[Metric]:
    from imserver.features.uploads.metrics import METRICS

    return METRICS


@contextmanager
def _erasing(config: Config, store: Store) -> Iterator[Erasure]:
    reviews = Reviews(Outgoing(), str)  # nothing is reviewed here
    with closing(
        Uploads(settings_of(config, UploadSettings), config.server.data_dir, store, reviews)
    ) as uploads:
        yield uploads.erasure


FEATURE = Feature(
    "uploads",
    _build,
    operations=OPERATIONS,
    views=_views,
    streamed=is_streamed,
    metrics=_metrics,
    erasing=_erasing,
    settings=UploadSettings,
    check=check,
    findings=findings,
)
