"""The face: the only part of the core that features import. Here is the row with which one joins a node."""

from imserver.core.core import Answers, FeatureParts, Hooks
from imserver.plugin.feature import Feature

__all__ = [
    "Answers",
    "Feature",
    "FeatureParts",
    "Hooks",
]
