"""Archives of other servers: the commands ``imserver arrive`` and ``depart``. A
node has nothing of them."""

from typing import Final

from imserver.plugin import CommandOf, FeatureRow, Parts

FEATURE: Final = FeatureRow(
    "arrivals",
    lambda _core: Parts(),
    uses=("messages", "accounts", "uploads", "emoji"),
    commands=(
        CommandOf(
            "arrive",
            "imserver_arrivals.command:arrive",
            "Import an archive of another server: people, groups, messages.",
        ),
        CommandOf(
            "slack-import",
            "imserver_arrivals.command:arrive",
            "Import an archive of another server: people, groups, messages.",
        ),
        CommandOf(
            "depart",
            "imserver_arrivals.depart:depart",
            "Write an app as an archive that another server imports.",
        ),
    ),
)
"""``imserver arrive`` imports an archive of another server, ``imserver depart``
writes one. The name of the first in 1.0 is ``slack-import``."""
