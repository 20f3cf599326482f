"""The parts of notifications on one node."""

from __future__ import annotations

from imserver.core.core import Core, FeatureParts


def build(core: Core) -> FeatureParts:
    """Build them, and join them to the core."""
    return FeatureParts()
