"""The rows of the messenger in the table of metrics."""

from __future__ import annotations

from typing import Final

from imserver.messages.log.message_log import MessageLog
from imserver.metric_table import Metric, counters, histogram

METRICS: Final[tuple[Metric, ...]] = (
    histogram(
        "imserver_batch_messages", "Messages of clients per group commit", "node.metrics.batch_messages"
    ),
    histogram("imserver_batch_seconds", "Duration of a group commit", "node.metrics.batch_seconds"),
    Metric(
        "imserver_stored_total",
        "counter",
        "Messages of clients stored",
        lambda core: core.node.metrics.stored,
        "app",
    ),
    *counters(
        "imserver",
        "node.metrics",
        {
            "stored_repeats": "Messages of clients that had been stored before",
            "not_stored": "Messages of clients that were refused or could not be stored",
            "expired": "Entries of the log deleted by the retention",
            "log_gaps": "Times that a node read the log because it had missed a node message",
            "resent_entries": "Entries sent again because the client had not acknowledged them",
        },
    ),
    Metric(
        "imserver_log_losses_total",
        "counter",
        "Times that this node found that the database had lost entries of the log",
        lambda core: core.storage.store.part(MessageLog).writer.losses,
    ),
)
