"""The settings of the pages: the name, the colour and the picture of the
chat."""

import re
from pathlib import Path
from typing import Final

from msgspec import Struct

from imserver.plugin import SettingsRow
from imserver.plugin.settings import Config, ConfigError, Locations, settings_of

LONGEST_NAME: Final = 40
"""Characters."""
MOST_PICTURE_BYTES: Final = 1 << 20
_PNG: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"


class ChatSettings(Struct, frozen=True):
    """Section ``chat``. ``colour``: ``#rrggbb``. ``picture``: path of a PNG.
    ``""``: that of imserver."""

    name: str = ""
    colour: str = ""
    picture: str = ""


def check(config: Config, locations: Locations) -> None:
    """Check what types do not. Raises ConfigError."""
    # it loads the house, whose settings every node reads
    from imserver.pages import address

    address.check(config, locations)
    chat = settings_of(config, ChatSettings)
    if not is_name(chat.name):
        raise locations.wrong(
            "chat.name", f"expected one line of at most {LONGEST_NAME} characters"
        )
    if chat.colour and not re.fullmatch("#[0-9A-Fa-f]{6}", chat.colour):
        raise locations.wrong(
            "chat.colour", f'expected a colour such as "#2457a6", got {chat.colour!r}'
        )
    try:
        read_picture(chat.picture)
    except ConfigError as error:
        raise locations.wrong("chat.picture", str(error)) from None


def is_name(text: str) -> bool:
    """Whether a chat may have this name."""
    return len(text) <= LONGEST_NAME and (text.isprintable() and text == text.strip())


def read_picture(path: str) -> tuple[bytes, int]:
    """The PNG of a chat, and the pixels of its side; nothing and 0 without a
    path. Raises ConfigError."""
    if not path:
        return b"", 0
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_PICTURE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    width, height = (
        int.from_bytes(content[len(_PNG) :][at : at + 4], "big") for at in (0, 4)
    )
    least = 192
    most = 1024  # what browsers want of an application that they install
    if not content.startswith(_PNG) or width != height or not least <= width <= most:
        raise ConfigError(
            f"expected a square PNG of {least} to {most} pixels, which {path} is not"
        )
    if len(content) > MOST_PICTURE_BYTES:
        raise ConfigError(f"{path} has more than {MOST_PICTURE_BYTES >> 20} MiB")
    return content, width


SETTINGS: Final = SettingsRow({"chat": ChatSettings}, check=check)
