"""Steps of the table of members who were removed."""

from typing import Final

STEPS: Final = {
    27: """
    # Users who were removed from a group: they do not come back by a link.
    table removed_member: app name500*, conversation big*, member name255*, created big
    """
}
