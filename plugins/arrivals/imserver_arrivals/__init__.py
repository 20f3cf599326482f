"""Archives of other servers: the commands ``imserver arrive`` and ``imserver
depart``. They add nothing to a node."""

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
writes one. In 1.0 the first is named ``slack-import``."""
