"""Pages for visitors, users and operators, the reference of the HTTP API, static files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imserver.pages import address, declared
from imserver.pages.additions import additions_of
from imserver.plugin import FeatureRow, Parts, SettingsRow
from imserver.plugin.services import Core
from imserver.plugin.settings import Config, Locations


def _build(core: Core) -> Parts:
    return Parts(configure=lambda config: additions_of(core))  # which checks the words


def _views(forks: bool) -> Callable[..., Any]:
    from imserver.pages.blueprint import create_pages
    from imserver.pages.text import precompile

    if forks:
        precompile()
    return lambda core, api: (create_pages(core, api.described),)


def _check(config: Config, locations: Locations) -> None:
    address.check(config, locations)
    declared.check(config, locations)


FEATURE = FeatureRow(
    "pages", _build, views=_views, settings=SettingsRow(declared.SETTINGS.sections, check=_check)
)
