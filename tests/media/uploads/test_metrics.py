"""What uploads add to the metrics of a node."""

from types import SimpleNamespace
from typing import Any

from msgspec.structs import asdict

from imserver.media.uploads import FEATURE, Uploads
from imserver.media.uploads.uploads import UploadCounters


def test_every_counter_is_a_metric() -> None:
    counters = UploadCounters(1, 2, 3, 4)
    service = SimpleNamespace(counters=counters)
    node: Any = SimpleNamespace(service={Uploads: service}.get)
    shown = {metric.name: metric.read(node) for metric in FEATURE.metrics()}
    assert shown == {f"imserver_{name}_total": value for name, value in asdict(counters).items()}
