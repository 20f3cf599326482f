"""How the chat looks: its name, its picture, and colours that are made of
one."""

import colorsys
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from imserver.pages.declared import ChatSettings, read_picture

PICTURE: Final = "/home/messages.png"
BUTTON: Final = "embed.js"
"""The script of the button for other pages, below ``/static/``."""
COLOURS: Final = "/home/messages.css"
"""The address of :attr:`Look.sheet`, for pages that do not have it in
theirs."""
_LIGHT_GROUNDS: Final = ("#f3efe6", "#fffdf8", "#ffffff", "#f0ebdf")
_DARK_GROUNDS: Final = ("#131517", "#191c1f", "#202428", "#262b30")
"""--paper, --surface, --raised and --hover of theme.css: what the colour is
read on."""
_ON_MINE: Final = ("#ffffff", "#f3fbf8", "#cfe5de", "#a8e6ff")
"""--on-mine, --on-mine-muted and --read-on-mine of theme.css."""
_ON_LIGHT_SOFT: Final = ("#6b6558", "#b5382a")
_ON_DARK_SOFT: Final = ("#a29d92", "#ee8573")
"""--muted and --seal of theme.css, which are read on --jade-soft, too."""
_STEP: Final = 0.01


class Look:
    """The look of the chat. ``name`` is that of the server without one of its
    own.

    ``sheet``: rules that replace colours of theme.css; ``picture``: a PNG, and
    ``side`` its pixels. They are empty without settings. ``version`` changes
    with all of it. ``root``: the path below which a proxy serves this server.
    """

    def __init__(self, settings: ChatSettings, root: str = "") -> None:
        self._root = root
        self.has_name = bool(settings.name)
        self.name = settings.name or "imserver"
        self.colour = settings.colour
        self.picture, self.side = read_picture(settings.picture)
        self.sheet = ""
        if settings.colour:
            light, dark = map(_rule, palette(settings.colour))
            mark = ".seal-ground { fill: var(--mine); }\n.seal-dots { stroke: var(--mine); }"
            self.sheet = (
                f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{mark}\n"
            )
        digest = sha256(self.picture)
        digest.update(f"{self.name}\n{self.sheet}".encode())
        self.version = digest.hexdigest()[:16]

    @property
    def picture_url(self) -> str:
        """The address of the picture; ``""``: there is none."""
        if self.picture:
            return f"{self._root}{PICTURE}?v={self.version}"
        return ""

    @property
    def colours_url(self) -> str:
        """The address of the colours; ``""``: they are those of theme.css."""
        if self.sheet:
            return f"{self._root}{COLOURS}?v={self.version}"
        return ""

    def button(self, script: bytes) -> bytes:
        """The text of :data:`BUTTON` with the colour of the chat."""
        return script.replace(b"#1d6b57", palette(self.colour)[0]["mine"].encode())


def palette(colour: str) -> tuple[dict[str, str], dict[str, str]]:
    """The variables of theme.css for a colour, in the light and in the dark
    theme. It becomes darker or lighter until texts can be read."""
    soft = _readable(_shade(colour, 0.9, 0.6), _ON_LIGHT_SOFT, _STEP)
    light = _readable(colour, (*_LIGHT_GROUNDS, soft), -_STEP)
    mine = _readable(colour, _ON_MINE, -_STEP)
    dark_soft = _readable(_shade(colour, 0.15, 0.5), _ON_DARK_SOFT, -_STEP)
    dark = _readable(colour, (*_DARK_GROUNDS, dark_soft), _STEP)
    return {
        "jade": light,
        "jade-strong": _shade(light, _lightness(light) * 0.8),
        "jade-soft": soft,
        "on-jade": "#ffffff",
        "mine": mine,
    }, {
        "jade": dark,
        "jade-strong": _shade(dark, (1 + 2 * _lightness(dark)) / 3),
        "jade-soft": dark_soft,
        "on-jade": _shade(colour, 0.05),
        "mine": mine,
    }


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG defines it: 1 to 21."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _rule(variables: Mapping[str, str]) -> str:
    return (
        ":root { "
        + " ".join(f"--{name}: {value};" for name, value in variables.items())
        + " }"
    )


def _readable(colour: str, grounds: tuple[str, ...], step: float) -> str:
    """The colour, darker or lighter if texts in it, or on it, cannot be read
    otherwise."""
    lightness = _lightness(colour)
    # what WCAG 2.2 (AA) wants of text
    while min(contrast(colour, ground) for ground in grounds) < 4.5:
        lightness += step
        colour = _shade(colour, lightness)
    return colour


def _lightness(colour: str) -> float:
    return colorsys.rgb_to_hls(*_parts(colour))[1]


def _shade(colour: str, lightness: float, saturation: float = 1.0) -> str:
    """The colour with this lightness (0 to 1), and a part of its saturation."""
    hue, _, full = colorsys.rgb_to_hls(*_parts(colour))
    parts = colorsys.hls_to_rgb(hue, min(max(lightness, 0.0), 1.0), full * saturation)
    return "#" + "".join(f"{round(part * 255):02x}" for part in parts)


def _parts(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


def _luminance(colour: str) -> float:
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in _parts(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
