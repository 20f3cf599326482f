"""Messages that are stored in a log. A node without this feature pushes, and
keeps histories of channels in memory or in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imserver.messenger.delivery.wire import MESSAGE_COMMANDS
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.messages.api import conversations, messages, streamed
from imserver.messenger.messages.declared import SETTINGS, TABLES
from imserver.messenger.messages.parts import build, offline
from imserver.plugin import CommandOf, FeatureRow

if TYPE_CHECKING:
    from imserver.gateway.core.core import Core
    from imserver.gateway.metric_table import Metric


def metrics() -> tuple[Metric, ...]:
    """Return the metrics of stored messages. The first scrape calls this
    function."""
    # Most nodes start without a scrape, so the table is imported only at the
    # first scrape.
    from imserver.gateway.metric_table import Metric, counters, histogram

    def stored(core: Core) -> Any:
        """Return the numbers of stored messages, by app."""
        return core.metrics.stored

    def losses(core: Core) -> int:
        """Return how often this node found that entries were lost."""
        return core.store.part(MessageLog).writer.losses

    return (
        histogram(
            "imserver_batch_messages",
            "Messages of clients per group commit",
            "metrics.batch_messages",
        ),
        histogram(
            "imserver_batch_seconds",
            "Duration of a group commit",
            "metrics.batch_seconds",
        ),
        Metric(
            "imserver_stored_total",
            "counter",
            "Messages of clients stored",
            stored,
            "app",
        ),
        *counters(
            "imserver",
            "metrics",
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
            losses,
        ),
    )


FEATURE = FeatureRow(
    "messages",
    build,
    wire={"cmd": MESSAGE_COMMANDS, "centrifuge": MESSAGE_COMMANDS},
    settings=SETTINGS,
    metrics=metrics,
    offline=offline,
    tables=TABLES,
    commands=(
        CommandOf(
            "search",
            "imserver.messenger.messages.command:search",
            "Rebuild the index of words.",
        ),
        CommandOf(
            "rows", "imserver.messenger.messages.command:check_rows", parent="doctor"
        ),
    ),
    routes=(
        *streamed.ROWS,
        *conversations.routes.rows,
        *messages.routes.rows,
        *conversations.thread_routes.rows,
    ),
)
