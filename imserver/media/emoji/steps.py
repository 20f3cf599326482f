"""Steps of the table of own emoji."""

from typing import Final

STEPS: Final = {
    50: """
    # "picture": the id of its file. "member": who has added it; empty: a back end, or an erased user.
    # "created": Unix milliseconds.
    table own_emoji: app name500*, name name32*, picture name32, width int, height int, member name255,
        created big
    """
}
