"""Questions to people: asked by back ends, bots and users, answered exactly once, with a deadline.

The log decides which answer counts, and every node with stored messages lets users answer
(:mod:`imserver.messages.log.asks`). This feature asks, waits for answers, and closes questions at their
deadlines.
"""

from __future__ import annotations

from imserver.features.ask import api
from imserver.features.ask.parts import build
from imserver.features.ask.problems import PROBLEMS
from imserver.features.ask.settings import SETTINGS
from imserver.plugin import Feature

FEATURE = Feature(
    "ask",
    build,
    operations=tuple(api.routes.rows),
    uses=("messages",),
    problems=PROBLEMS,
    settings=SETTINGS,
)
