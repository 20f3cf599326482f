"""Pages for visitors, users and operators, the reference of the HTTP API, static files."""

from __future__ import annotations

from typing import Any

from imserver.features.pages import address, declared
from imserver.features.pages.additions import additions_of
from imserver.plugin import Feature, FeatureParts, FeatureSettings, Views
from imserver.plugin.errors import HttpProblem
from imserver.plugin.services import Core
from imserver.plugin.settings import Config, Locations


def _build(core: Core) -> FeatureParts:
    return FeatureParts(configure=lambda config: additions_of(core))  # which checks the words


def _refusal(problem: HttpProblem, request_id: str) -> Any:
    from imserver.features.pages.blueprint import refusal

    return refusal(problem, request_id)


def _preload() -> None:
    from imserver.features.pages.text import precompile

    precompile()


def _check(config: Config, locations: Locations) -> None:
    address.check(config, locations)
    declared.check(config, locations)


FEATURE = Feature(
    "pages",
    _build,
    views=Views(
        ("imserver.features.pages.blueprint", "create_blueprints"), refusal=_refusal, preload=_preload
    ),
    settings=FeatureSettings(declared.SETTINGS.sections, check=_check),
)
