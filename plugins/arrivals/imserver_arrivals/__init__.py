"""Archives of other servers: the command ``imserver slack-import``. A node has nothing of it."""

from typing import Any, Final

from imserver.plugin import FeatureRow, Parts


def _commands() -> dict[str, Any]:
    from .command import slack_import

    return {"slack-import": slack_import}


FEATURE: Final = FeatureRow(
    "arrivals", lambda _core: Parts(), uses=("messages", "accounts", "uploads"), commands=_commands
)
