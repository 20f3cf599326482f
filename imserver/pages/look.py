"""The look of the chat: its name, its picture, and its colours, which are
derived from one colour."""

import colorsys
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from imserver.pages.declared import ChatSettings, read_picture

PICTURE: Final = "/home/messages.png"
BUTTON: Final = "embed.js"
"""The script of the button for other pages, below ``/static/``."""
COLOURS: Final = "/home/messages.css"
"""The address of :attr:`Look.sheet`, for pages whose own style sheet does not
contain it."""
_LIGHT_GROUNDS: Final = ("#f3efe6", "#fffdf8", "#ffffff", "#f0ebdf")
_DARK_GROUNDS: Final = ("#131517", "#191c1f", "#202428", "#262b30")
"""--paper, --surface, --raised and --hover of theme.css: the grounds on which
the colour is read."""
_ON_MINE: Final = ("#ffffff", "#f3fbf8", "#cfe5de", "#a8e6ff")
"""--on-mine, --on-mine-muted and --read-on-mine of theme.css."""
_ON_LIGHT_SOFT: Final = ("#6b6558", "#b5382a")
_ON_DARK_SOFT: Final = ("#a29d92", "#ee8573")
"""--muted and --seal of theme.css, which are read on --jade-soft, too."""
_STEP: Final = 0.01
"""The change of the lightness between two attempts to make a colour
readable."""
VERSION_DIGITS: Final = 16
"""How many hexadecimal digits of a digest name a version."""

# Lightness and saturation, from 0 to 1, of colours that are made of the chosen
# one.
_SOFT_LIGHTNESS: Final = 0.9
_SOFT_SATURATION: Final = 0.6
_DARK_SOFT_LIGHTNESS: Final = 0.15
_DARK_SOFT_SATURATION: Final = 0.5
_ON_DARK_LIGHTNESS: Final = 0.05
_STRONG_SHARE: Final = 0.8
"""The lightness of the strong colour in the light theme, as a share of the
lightness of the colour."""
_STRONG_STEPS: Final = 3
"""The strong colour of the dark theme is lighter by one of this many steps to
white."""

# https://www.w3.org/TR/WCAG22/
_LEAST_CONTRAST: Final = 4.5
"""The least contrast of text (AA)."""
_FLARE: Final = 0.05
_LINEAR_LIMIT: Final = 0.04045
_LINEAR_DIVISOR: Final = 12.92
_GAMMA_OFFSET: Final = 0.055
_GAMMA: Final = 2.4
_RED_SHARE: Final = 0.2126
_GREEN_SHARE: Final = 0.7152
_BLUE_SHARE: Final = 0.0722
_MAX_PART: Final = 255
"""The greatest value of red, green or blue."""


class Look:
    """The look of the chat: its name, its picture and its colours.

    ``name`` is the name of the chat, else the name of the server. ``sheet``:
    the rules that replace colours of theme.css. ``picture``: a PNG. ``side``:
    the pixels of its side. They are empty, or 0, without settings. ``version``
    changes with the name, the rules and the picture. ``root``: the path below
    which a proxy serves this server (``""``: no such path).
    """

    def __init__(self, settings: ChatSettings, root: str = "") -> None:
        """Read the picture, and derive the colours of both themes.

        Raises ConfigError if the picture cannot be used.
        """
        self._root = root
        self.has_name = bool(settings.name)
        self.name = settings.name or "imserver"
        self.colour = settings.colour
        self.picture, self.side = read_picture(settings.picture)

        self.sheet = ""
        if settings.colour:
            self.sheet = _sheet_of(settings.colour)

        # Addresses of the look have this version, so browsers may store the
        # files for good.
        digest = sha256(self.picture)
        digest.update(f"{self.name}\n{self.sheet}".encode())
        self.version = digest.hexdigest()[:VERSION_DIGITS]

    @property
    def picture_url(self) -> str:
        """The address of the picture; ``""`` without a picture."""
        if self.picture:
            return f"{self._root}{PICTURE}?v={self.version}"
        return ""

    @property
    def colours_url(self) -> str:
        """The address of the colours; ``""`` without a colour."""
        if self.sheet:
            return f"{self._root}{COLOURS}?v={self.version}"
        return ""

    def button(self, script: bytes) -> bytes:
        """Return the text of :data:`BUTTON` with the colour of the chat."""
        light, _ = palette(self.colour)
        return script.replace(b"#1d6b57", light["mine"].encode())


def _sheet_of(colour: str) -> str:
    """Return the style sheet that gives the pages a colour.

    It has the variables for the light and for the dark theme, and the colour of
    the sign of imserver.
    """
    light, dark = map(_rule, palette(colour))
    mark = ".seal-ground { fill: var(--mine); }\n.seal-dots { stroke: var(--mine); }"
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{mark}\n"


def palette(colour: str) -> tuple[dict[str, str], dict[str, str]]:
    """Make the variables of theme.css for a colour, such as ``#2457a6``.

    Returns two dicts, for the light and for the dark theme: name → colour. The
    colour becomes darker or lighter until texts can be read.
    """
    # The ground of the user's own messages, which is the same in both themes.
    mine = _readable(colour, _ON_MINE, -_STEP)
    return _light_palette(colour, mine), _dark_palette(colour, mine)


def _light_palette(colour: str, mine: str) -> dict[str, str]:
    """Make the variables of the light theme.

    ``mine``: the ground of the user's own messages.
    """
    soft = _shade(colour, _SOFT_LIGHTNESS, _SOFT_SATURATION)
    soft = _readable(soft, _ON_LIGHT_SOFT, _STEP)
    jade = _readable(colour, (*_LIGHT_GROUNDS, soft), -_STEP)
    return {
        "jade": jade,
        "jade-strong": _shade(jade, _lightness(jade) * _STRONG_SHARE),
        "jade-soft": soft,
        "on-jade": "#ffffff",
        "mine": mine,
    }


def _dark_palette(colour: str, mine: str) -> dict[str, str]:
    """Make the variables of the dark theme.

    Grounds become darker, and texts lighter. ``mine``: the ground of the user's
    own messages.
    """
    soft = _shade(colour, _DARK_SOFT_LIGHTNESS, _DARK_SOFT_SATURATION)
    soft = _readable(soft, _ON_DARK_SOFT, -_STEP)
    jade = _readable(colour, (*_DARK_GROUNDS, soft), _STEP)
    strong_lightness = (1 + 2 * _lightness(jade)) / _STRONG_STEPS
    return {
        "jade": jade,
        "jade-strong": _shade(jade, strong_lightness),
        "jade-soft": soft,
        "on-jade": _shade(colour, _ON_DARK_LIGHTNESS),
        "mine": mine,
    }


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, as WCAG defines it: 1 to 21."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + _FLARE) / (dark + _FLARE)


def _rule(variables: Mapping[str, str]) -> str:
    """Make a rule of CSS. Example: ``:root { --jade: #2457a6; }``."""
    settings = [f"--{name}: {value};" for name, value in variables.items()]
    return f":root {{ {' '.join(settings)} }}"


def _readable(colour: str, grounds: tuple[str, ...], step: float) -> str:
    """Change the lightness of a colour until it can be read on all ``grounds``.

    ``step``: the change of each attempt, from -1 to 1. Returns the new colour.
    """
    lightness = _lightness(colour)
    while min(contrast(colour, ground) for ground in grounds) < _LEAST_CONTRAST:
        lightness += step
        colour = _shade(colour, lightness)
    return colour


def _lightness(colour: str) -> float:
    """Return the lightness of a colour: 0 is black, 1 is white."""
    _, lightness, _ = colorsys.rgb_to_hls(*_parts(colour))
    return lightness


def _shade(colour: str, lightness: float, saturation: float = 1.0) -> str:
    """Return the colour with another lightness and saturation.

    ``lightness``: the new one, 0 to 1. ``saturation``: a factor of the present
    one.
    """
    hue, _, full_saturation = colorsys.rgb_to_hls(*_parts(colour))
    # A search for a readable colour may step over black or white.
    lightness = min(max(lightness, 0.0), 1.0)
    parts = colorsys.hls_to_rgb(hue, lightness, full_saturation * saturation)

    digits = ""
    for part in parts:
        digits += f"{round(part * _MAX_PART):02x}"
    return f"#{digits}"


def _parts(colour: str) -> tuple[float, float, float]:
    """Return red, green and blue of ``#rrggbb``, each from 0 to 1."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red / _MAX_PART, green / _MAX_PART, blue / _MAX_PART


def _luminance(colour: str) -> float:
    """Return the relative luminance of a colour, from 0 to 1.

    It is how bright people see the colour: green more than red and blue.
    """
    red, green, blue = map(_linear, _parts(colour))
    return _RED_SHARE * red + _GREEN_SHARE * green + _BLUE_SHARE * blue


def _linear(part: float) -> float:
    """Convert red, green or blue to the light that a screen emits."""
    if part <= _LINEAR_LIMIT:
        return part / _LINEAR_DIVISOR
    power: float = ((part + _GAMMA_OFFSET) / (1 + _GAMMA_OFFSET)) ** _GAMMA
    return power
