"""Archives of other servers: the command ``imserver arrive``. A node has nothing of it."""

from typing import Any, Final

from imserver.plugin import FeatureRow, Parts


def _commands() -> dict[str, Any]:
    from .command import arrive

    return {"arrive": arrive, "slack-import": arrive}


FEATURE: Final = FeatureRow(
    "arrivals", lambda _core: Parts(), uses=("messages", "accounts", "uploads", "emoji"), commands=_commands
)
"""``imserver arrive`` imports an archive of another server. Its name in 1.0 is ``slack-import``."""
