"""Questions to people: asked by back ends, bots and users, answered exactly once, with a deadline.

The log decides which answer counts, and every node with stored messages lets users answer
(:mod:`imserver.messages.log.asks`). This feature asks, waits for answers, and closes questions at their
deadlines.
"""

from imserver.features.ask import api
from imserver.features.ask.declared import SETTINGS
from imserver.features.ask.parts import build
from imserver.plugin import Feature

FEATURE = Feature(
    "ask",
    build,
    operations=tuple(api.routes.rows),
    uses=("messages",),
    metrics=("imserver.features.ask.metrics", "METRICS"),
    settings=SETTINGS,
)
