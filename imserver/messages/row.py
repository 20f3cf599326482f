"""The row of the messenger."""

from __future__ import annotations

from imserver.messages.api import channels, conversations, messages, streamed
from imserver.messages.parts import build
from imserver.plugin.feature import Feature

FEATURE = Feature(
    "messages",
    build,
    operations=(
        *channels.routes.rows,
        *streamed.routes.rows,
        *conversations.routes.rows,
        *messages.routes.rows,
    ),
)
