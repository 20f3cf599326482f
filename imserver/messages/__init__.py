"""The messenger: messages that are stored in a log, and delivered to everybody who may read them.

It is a feature: a node without it pushes, and keeps histories of channels in memory or in Redis. It alone may
import more of the gateway than :mod:`imserver.plugin` has.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "FEATURE":
        raise AttributeError(name)
    from imserver.messages.row import FEATURE

    return FEATURE
