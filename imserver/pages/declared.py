"""The settings of the pages: the name, the colour and the picture of the
chat."""

import re
import struct
from pathlib import Path
from typing import Final

from msgspec import Struct

from imserver.plugin import SettingsRow
from imserver.plugin.settings import Config, ConfigError, Locations, settings_of

LONGEST_NAME: Final = 40
"""The most characters of the name of a chat."""
MOST_PICTURE_BYTES: Final = 1 << 20
_MIB_SHIFT: Final = 20
_LEAST_PIXELS: Final = 192
_MOST_PIXELS: Final = 1024
"""The least and the most pixels of a side of a picture that browsers accept for
an installed application."""
_PNG: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
_PNG_SIZES: Final = struct.Struct(">II")
"""The width and the height of a PNG, after :data:`_PNG`."""


class ChatSettings(Struct, frozen=True):
    """The section ``chat`` of the settings. ``colour``: ``#rrggbb``.
    ``picture``: the path of a PNG. ``""``: the name, the colour or the picture
    of imserver."""

    name: str = ""
    colour: str = ""
    picture: str = ""


def check(config: Config, locations: Locations) -> None:
    """Check the settings beyond their types. Raises ConfigError.

    Also the addresses of the server are checked, because the pages show them.
    """
    # Imported here: every node reads these settings, and not every one loads
    # the house.
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
    return len(text) <= LONGEST_NAME and text.isprintable() and text == text.strip()


def read_picture(path: str) -> tuple[bytes, int]:
    """Read the PNG of a chat. Returns its content, and the pixels of its side.

    If ``path`` is empty, the result is ``b""`` and 0. Raises ConfigError if it
    is no square PNG of a usable size.
    """
    if not path:
        return b"", 0
    content = _read_at_most(path, MOST_PICTURE_BYTES + 1)
    side = _side_of(content)
    if not _LEAST_PIXELS <= side <= _MOST_PIXELS:
        raise ConfigError(
            f"expected a square PNG of {_LEAST_PIXELS} to "
            f"{_MOST_PIXELS} pixels, which {path} is not"
        )
    # One byte more than the limit shows that the file is too large.
    if len(content) > MOST_PICTURE_BYTES:
        limit = MOST_PICTURE_BYTES >> _MIB_SHIFT
        raise ConfigError(f"{path} has more than {limit} MiB")
    return content, side


def _read_at_most(path: str, count: int) -> bytes:
    """Read the first bytes of a file. Raises ConfigError."""
    try:
        with Path(path).open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _side_of(content: bytes) -> int:
    """Return the pixels of the side of a square PNG.

    0: the content is no PNG, or is not square.
    """
    sizes = content.removeprefix(_PNG)[: _PNG_SIZES.size]
    if not content.startswith(_PNG) or len(sizes) < _PNG_SIZES.size:
        return 0
    width, height = _PNG_SIZES.unpack(sizes)
    return int(width) if width == height else 0


SETTINGS: Final = SettingsRow({"chat": ChatSettings}, check=check)
