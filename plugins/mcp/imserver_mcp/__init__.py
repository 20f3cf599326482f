"""The Model Context Protocol: agents read and write messages, ask people, and
are woken by events.

The endpoint is ``/mcp``. It speaks the revision 2026-07-28, and 2025-11-25
without sessions.
"""

from typing import Final

from imserver.plugin import FeatureRow, Parts
from imserver.plugin.services import Core

from .declared import SETTINGS, STEPS, TABLES
from .offers import Content, Offer, Source, Tool
from .service import ROUTES, Mcp
from .tasks import Later
from .turn import NAME, InputRequired, Turn

__all__ = [
    "FEATURE",
    "Content",
    "InputRequired",
    "Later",
    "Mcp",
    "Offer",
    "Source",
    "Tool",
    "Turn",
]


def _build(core: Core) -> Parts:
    """Make the services of MCP for one node.

    Two greenlets run: one delivers events, and one runs tasks.
    """
    mcp = Mcp(core)
    ended = (mcp.followers.ended,)
    run = (mcp.hooks.log.work.run, mcp.tasks.runner.run)

    def stop() -> None:
        """Give back the leases of tasks and of webhooks."""
        mcp.tasks.runner.stop()
        mcp.hooks.stop()

    return Parts(services=(mcp,), ended=ended, streams=mcp.paths, run=run, stop=stop)


FEATURE: Final = FeatureRow(
    NAME,
    _build,
    routes=ROUTES,
    uses=(
        "messages",
        "webhooks",
        "accounts?",
        "groups?",
        "bots?",
        "uploads?",
        "ask?",
        "audit?",
    ),
    settings=SETTINGS,
    tables=(*TABLES, *STEPS),
)
