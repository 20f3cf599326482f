"""The parts of the admin page on one node."""

from __future__ import annotations

from msgspec import Struct

from imserver.features.admin.finder import Finder
from imserver.features.admin.live import LiveConnections
from imserver.features.admin.nodes import Nodes
from imserver.plugin import FeatureParts
from imserver.plugin.services import Core


class AdminParts(Struct, frozen=True):
    """What the routes of the admin page use."""

    finder: Finder
    live: LiveConnections
    nodes: Nodes


def build(core: Core) -> FeatureParts:
    """Build them."""
    live = LiveConnections(core)
    return FeatureParts(AdminParts(Finder(core, live), live, Nodes(core)))
