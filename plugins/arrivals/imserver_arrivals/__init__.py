"""Archives of other servers: the commands ``imserver arrive`` and ``depart``. A
node has nothing of them."""

from typing import Any, Final

from imserver.plugin import FeatureRow, Parts


def _commands() -> dict[str, Any]:
    from .command import arrive
    from .depart import depart

    return {"arrive": arrive, "slack-import": arrive, "depart": depart}


FEATURE: Final = FeatureRow(
    "arrivals",
    lambda _core: Parts(),
    uses=("messages", "accounts", "uploads", "emoji"),
    commands=_commands,
)
"""``imserver arrive`` imports an archive of another server, ``imserver depart``
writes one. The name of the first in 1.0 is ``slack-import``."""
