"""The declarations of the feature: settings, problems and tables."""

from typing import Final

from msgspec import Struct

from imserver.plugin import SettingsRow
from imserver.plugin.errors import HttpProblem
from imserver.plugin.identity import Rate
from imserver.plugin.settings import Amount
from imserver.plugin.storage import Table

CHANGES: Final = 300
CHANGE_SECONDS: Final = 60.0
INBOX_CHANGES: Final = Rate(
    "inbox_changes",
    "changes of pins, archived conversations, marks, folders and drafts",
    "user",
    f"{CHANGES} a minute",
    "1008, over HTTP 429",
)


class InboxSettings(Struct, frozen=True):
    """Section ``inbox``: limits of a user."""

    pins: Amount = 20
    """Most conversations that are pinned."""
    drafts: Amount = 100
    """Most conversations with a draft."""


SETTINGS: Final = SettingsRow({"inbox": InboxSettings})


HTTP_TOO_MANY_PINS: Final = HttpProblem(
    409,
    "too_many_pins",
    "The user has pinned as many conversations as inbox.pins allows.",
)
HTTP_TOO_MANY_DRAFTS: Final = HttpProblem(
    409, "too_many_drafts", "The user has as many drafts as inbox.drafts allows."
)

TABLES: Final = (
    Table(
        name="arrangement",
        types="""app name500*, member name255* out user, conversation big* out, pinned big out,
            archived big out, marked big out, draft blob out, folders blob? out, version big out""",
    ),
)
