"""The features and foreign dialects of this server, in the order in which a node builds them."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from imserver.auth import rules
from imserver.config.settings import Config, TenantSettings
from imserver.config.values import Places
from imserver.feature import Feature

FEATURES: Final = ("imserver.dialects.action", "imserver.dialects.protobuf", "imserver.dialects.pusher")
"""Packages. Each has its row in ``FEATURE``. Nothing else of the server names them. The first of the dialects
whose parameter (``chosen_by``) a client names serves it."""


def load_features() -> tuple[Feature, ...]:
    """Import the features of a node."""
    return tuple(import_module(name).FEATURE for name in FEATURES)


def objection(name: str, settings: TenantSettings) -> str:
    """Check the settings of the app ``name`` for the core and all features.

    Reads files of keys. Returns the error text, ``""`` if the settings are valid.
    """
    checks = [rules.objection, *(each.objection for each in load_features() if each.objection)]
    return next(filter(None, (check(name, settings) for check in checks)), "")


def check_apps(config: Config, places: Places) -> None:
    """Check all apps in the configuration. Raises StartError, with the place of the setting."""
    rules.check_apps(config, places, objection)
