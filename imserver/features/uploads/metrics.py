"""The metrics of uploads."""

from __future__ import annotations

from typing import Any, Final

from imserver.features.uploads.uploads import Uploads
from imserver.plugin.metrics import Metric

_HELP: Final = {
    "uploads": "Files uploaded",
    "upload_bytes": "Bytes of these files",
    "uploads_refused": "Uploads refused",
    "downloads": "Files, thumbnails and parts of files sent",
}


def _counted(name: str, help_: str) -> Metric:
    def read(node: Any) -> int:
        value: int = getattr(node.service(Uploads).counters, name)
        return value

    return Metric(f"imserver_{name}_total", "counter", help_, read)


METRICS: Final = tuple(_counted(name, help_) for name, help_ in _HELP.items())
