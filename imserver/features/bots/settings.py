"""The settings of bots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from imserver.plugin import FeatureSettings
from imserver.plugin.identity import Rate
from imserver.plugin.settings import Amount, Config, settings_of

HOOK_REQUESTS: Final = Rate("hook", "requests to incoming webhooks", "address", "600 a minute", "429")
PIECES_PER_SECOND: Final = 1000
"""Of all bots of an owner. Five seconds' worth at once is one full request five times."""
BOT_PIECES: Final = Rate(
    "bot_pieces",
    "pieces of streamed messages of all bots",
    "account",
    f"{PIECES_PER_SECOND} per second",
    "1008, over HTTP 429",
    burst=5,
)


class BotSettings(Struct, frozen=True):
    """Section ``bots``: webhooks of bots, whose URLs users give.

    ``allow_loopback``: they may be on this machine, also with http. For development.
    """

    allow_loopback: bool = False


class BotLimits(Struct, frozen=True):
    """Keys of section ``accounts``. ``bots``: the most bots of an account."""

    bots: Amount = 50


def findings(config: Config, _shared: bool) -> Iterator[tuple[str, str]]:
    """The settings that a careful operator would change."""
    if settings_of(config, BotSettings).allow_loopback:
        yield "bots.allow_loopback", "owners of bots can send requests to this machine; set it to false"


SETTINGS: Final = FeatureSettings({"bots": BotSettings, "accounts": BotLimits}, findings=findings)
