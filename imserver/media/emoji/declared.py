"""The declarations of the feature: its limits, problems and its table."""

from typing import Final

from imserver.plugin.errors import HttpProblem
from imserver.plugin.storage import Table

MOST: Final = 300
"""Limit of the emoji of an app."""
MOST_BYTES: Final = 131_072
"""Limit of a picture, in bytes."""
MOST_PIXELS: Final = 512
"""Limit of its width and height. Workspaces of Slack have some of 272."""
TYPES: Final = ("image/png", "image/gif", "image/webp", "image/jpeg")
# Such a name, with its colons, fits into a reaction.
NAME: Final = "^[a-z0-9][a-z0-9_-]{1,29}$"

HTTP_EMOJI_EXISTS: Final = HttpProblem(
    409, "emoji_exists", "The app has an emoji of this name."
)
HTTP_TOO_MANY_EMOJI: Final = HttpProblem(
    409, "too_many_emoji", f"The app has {MOST} emoji of its own, which is the limit."
)
HTTP_UNKNOWN_EMOJI: Final = HttpProblem(
    404, "unknown_emoji", "The app has no emoji of this name."
)

TABLES: Final = (
    Table(
        name="own_emoji",
        types="""app name500*, name name32* out, picture name32 out, width int out, height int out,
            member name255 out user, created big out""",
        erase_user=("UPDATE own_emoji SET member = '' WHERE app = %s AND member = %s",),
        scan=True,
    ),
)
