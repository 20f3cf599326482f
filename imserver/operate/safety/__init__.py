"""Safety of communities: users report messages and people, and moderators act.

Moderators see messages of others only around a message that one of its readers
has reported. They remove messages, which can be undone for a minute, or act on
a person, who sees the reason.
"""

from imserver.operate.safety import api
from imserver.operate.safety.declared import SETTINGS, TABLES
from imserver.operate.safety.parts import build
from imserver.operate.safety.wire import COMMANDS
from imserver.plugin import CommandOf, FeatureRow

FEATURE = FeatureRow(
    "safety",
    build,
    routes=(*api.reports.rows, *api.moderation.rows),
    wire={"cmd": COMMANDS, "centrifuge": COMMANDS},
    uses=("messages", "groups?", "accounts?", "audit?"),
    settings=SETTINGS,
    tables=TABLES,
    commands=(
        CommandOf(
            "moderate",
            "imserver.operate.safety.command:moderate",
            "Delete messages, mute and ban users, list reports.",
        ),
    ),
)
