"""The metrics of questions."""

from __future__ import annotations

from typing import Final

from imserver.features.ask.parts import AskParts
from imserver.plugin.messages import MessageLog
from imserver.plugin.metrics import Metric

EVENTS: Final = ("ask", "answer", "refuse", "cancel", "expire", "escalate", "remind")


METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "imserver_asks_total",
        "counter",
        "Questions asked over HTTP, and what happened to questions. refuse: an answer came too late",
        lambda core: {event: core.storage.store.part(MessageLog).asks.counts[event] for event in EVENTS},
        label="event",
    ),
    Metric(
        "imserver_ask_waits",
        "gauge",
        "Requests that wait for an answer to a question",
        lambda core: core.service(AskParts).waits.count,
    ),
)
