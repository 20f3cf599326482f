"""The settings of bots."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from imserver.config.settings import Amount, Config, Finding, settings_of


class BotSettings(Struct, frozen=True):
    """Section ``bots``: webhooks of bots, whose URLs users give.

    ``allow_loopback``: they may be on this machine, also with http. For development.
    """

    allow_loopback: bool = False


class BotLimits(Struct, frozen=True):
    """Keys of section ``accounts``. ``bots``: the most bots of an account."""

    bots: Amount = 50


def findings(config: Config, _shared: bool) -> Iterator[Finding]:
    """The settings that a careful operator would change."""
    if settings_of(config, BotSettings).allow_loopback:
        yield "bots.allow_loopback", "owners of bots can send requests to this machine; set it to false"
