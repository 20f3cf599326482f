"""The declarations of the feature: settings, problems and tables."""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from imserver.plugin import SettingsRow
from imserver.plugin.errors import HttpProblem
from imserver.plugin.identity import Rate
from imserver.plugin.settings import Amount, Config, Locations, settings_of
from imserver.plugin.storage import Reason, Table

HOOK_REQUESTS: Final = Rate(
    "hook", "requests to incoming webhooks", "address", "600 a minute"
)
PIECES_PER_SECOND: Final = 1000
"""The most pieces per second of all bots of an owner. Pieces for five seconds
may come at once, which is five full requests."""
BOT_PIECES: Final = Rate(
    "bot_pieces",
    "pieces of streamed messages of all bots",
    "account",
    f"{PIECES_PER_SECOND} per second",
    "1008, over HTTP 429",
    burst=5,
)


class BotSettings(Struct, frozen=True):
    """Section ``bots``.

    With ``allow_loopback``, webhooks of bots may be on this machine, also with
    http. That is for development.
    """

    allow_loopback: bool = False


class BotLimits(Struct, frozen=True):
    """Keys of section ``accounts``: ``bots`` is the most bots of an account."""

    bots: Amount = 50


def check(config: Config, _locations: Locations) -> Iterator[tuple[str, str]]:
    """Check the settings.

    Yields settings that a careful operator would change.
    """
    if settings_of(config, BotSettings).allow_loopback:
        yield (
            "bots.allow_loopback",
            "owners of bots can send requests to this machine; set it to false",
        )


SETTINGS: Final = SettingsRow({"bots": BotSettings, "accounts": BotLimits}, check=check)

HTTP_TOO_MANY_BOTS: Final = HttpProblem(
    409, "too_many_bots", "The user has made as many bots as accounts.bots allows."
)

_WITH_ACCOUNT: Final = Reason(
    "the deletion of the account of the bot erases it, in one transaction"
)

TABLES: Final = (
    Table(
        name="incoming_hook",
        types=(
            "id big* out user, app name500, conversation big out, token_hash name64, "
            "created big out"
        ),
        erase_user=_WITH_ACCOUNT,
        imported=Reason(
            "the address of a webhook is its secret: its owner makes a new one"
        ),
    ),
    Table(
        name="bot",
        types="""id big* out, app name500, owner big out user, token_hash name64 empty, commands blob out,
            hook_url name1000 empty, hook_secret name100 empty, hook_entry big=0, description name2000? out,
            listed small=0 out""",
        erase_user=_WITH_ACCOUNT,
        # The address of its webhook is left out: some addresses contain a
        # secret.
        parents=("id", "owner"),
    ),
)
"""The tables in the order of their deletion."""
