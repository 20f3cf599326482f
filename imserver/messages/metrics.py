"""The rows of the messenger in the table of metrics."""

from __future__ import annotations

from typing import Final

from imserver.messages.log.message_log import MessageLog
from imserver.plugin.metrics import Metric

METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "imserver_log_losses_total",
        "counter",
        "Times that this node found that the database had lost entries of the log",
        lambda core: core.storage.store.part(MessageLog).writer.losses,
    ),
)
