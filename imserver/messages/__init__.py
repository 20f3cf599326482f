"""The messenger: messages that are stored in a log, and delivered to everybody who may read them.

It is a feature: a node without it pushes, and keeps histories of channels in memory or in Redis. It alone may
import more of the gateway than :mod:`imserver.plugin` has.
"""

from imserver.messages.api import conversations, messages, streamed, threads
from imserver.messages.declared import SETTINGS, TABLES
from imserver.messages.parts import build, erasing
from imserver.messages.wire import MESSAGE_COMMANDS
from imserver.plugin.feature import Feature

FEATURE = Feature(
    "messages",
    build,
    wire={"cmd": MESSAGE_COMMANDS, "centrifuge": MESSAGE_COMMANDS},
    settings=SETTINGS,
    metrics=("imserver.messages.metrics", "METRICS"),
    erasing=erasing,
    tables=TABLES,
    commands={"search": ("imserver.messages.command", "search", "Make the index of words anew.")},
    rows_check=("imserver.messages.command", "check_rows"),
    operations=(*streamed.ROWS, *conversations.routes.rows, *messages.routes.rows, *threads.routes.rows),
)
