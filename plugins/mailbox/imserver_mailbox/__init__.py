"""Mailboxes: workers share the messages of a bot. Each message is acknowledged
once, or becomes a dead letter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imserver.plugin import FeatureRow, Parts
from imserver.plugin.messages import MessageServices
from imserver.plugin.services import Core

from .api import routes
from .rows import STEPS, TABLES
from .service import EVENTS, Mailboxes

if TYPE_CHECKING:
    from imserver.plugin.metrics import Metric

__all__ = ["FEATURE", "Mailboxes"]


def _counts(core: Core) -> dict[str, int]:
    """How often each event has happened on this node, for the table of
    metrics."""
    counts = core.service(Mailboxes).counts
    return {event: counts[event] for event in EVENTS}


def metrics() -> tuple[Metric, ...]:
    """The metrics of mailboxes. They are asked for at the first scrape."""
    from imserver.plugin.metrics import Metric  # most nodes start without it

    return (
        Metric(
            "imserver_mailbox_total",
            "counter",
            "What workers did with mailboxes. late: a claim had ended. dead: a message became a dead letter",
            _counts,
            label="event",
        ),
    )


def _build(core: Core) -> Parts:
    """Make the service of mailboxes for one node. If the node has MCP, agents
    get tools for mailboxes."""
    mailboxes = Mailboxes(core, core.service(MessageServices))
    if "mcp" in core.features:
        from imserver_mcp import Mcp

        from .tools import OFFER

        core.service(Mcp).offer(OFFER)
    return Parts(services=(mailboxes,), run=(mailboxes.waits.run,))


FEATURE: Final = FeatureRow(
    "mailbox",
    _build,
    routes=routes.rows,
    uses=("messages", "accounts", "bots", "mcp?"),
    metrics=metrics,
    tables=(*TABLES, *STEPS),
)
