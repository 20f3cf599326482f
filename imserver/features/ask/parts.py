"""The parts of questions on one node."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from imserver.features.ask.deadlines import Deadlines
from imserver.features.ask.declared import ASK_REMINDERS, REMINDER_SECONDS
from imserver.features.ask.waits import Waits
from imserver.plugin import FeatureParts
from imserver.plugin.identity import Buckets
from imserver.plugin.messages import MessageServices
from imserver.plugin.services import Core


class AskParts(Struct, frozen=True):
    """The services for routes and other features."""

    waits: Waits
    deadlines: Deadlines
    reminders: Buckets


def asks_of(core: Core) -> AskParts:
    """The parts of questions on a node."""
    return core.service(AskParts)


def build(core: Core) -> FeatureParts:
    """Build them."""
    store = core.storage.store
    watch = core.service(MessageServices).messaging.follower.watch
    waits = Waits(store, watch, lambda: core.node.draining)
    deadlines = Deadlines(store)
    reminders = core.node.buckets.make(ASK_REMINDERS, 1, REMINDER_SECONDS, core.cluster.attempt)
    parts = AskParts(waits, deadlines, reminders)
    return FeatureParts(parts, run=(waits.run, deadlines.run), page=Path(__file__).parent / "page")
