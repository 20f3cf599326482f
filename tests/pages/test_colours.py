"""Colours of seals and names have enough contrast in both themes, whatever axe sees of them."""

import re

import pytest

from imserver.gateway.assets import STATIC

LEAST = 4.5
BACKGROUNDS = ("paper", "surface", "raised", "hover", "theirs")
"""Variables of theme.css: what names and seals may be on."""


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    red, green, blue = linear
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def themes() -> tuple[dict[str, str], dict[str, str]]:
    """The colours of the light theme, and those of the dark one."""
    light, dark = (STATIC / "theme.css").read_text("utf-8").split("@media (prefers-color-scheme: dark)", 1)
    first, second = (dict(re.findall(r"--(\w+): (#\w{6});", each)) for each in (light, dark))
    return first, second


PEOPLE = (STATIC / "messages" / "people.css").read_text("utf-8")
PAIR = r"light-dark\((#\w{6}), (#\w{6})\)"


def test_sheets_that_are_loaded_later_have_no_rules_for_dark_themes() -> None:
    """look.js changes such rules only in the sheets that are there when it runs."""
    later = [
        each
        for each in (STATIC / "messages" / "later").iterdir()
        if "color-scheme" in each.read_text("utf-8")
    ]
    assert not later, "use variables of theme.css, or light-dark()"


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_names_are_read_on_every_background(theme: int) -> None:
    rows = re.findall(r"\.tint-(\d+) \{ --tint: (#\w{6}); --lit: (#\w{6}); \}", PEOPLE)
    tints = {name: colours for name, *colours in rows}
    (number,) = re.findall(r"HUES = (\d+)", (STATIC / "messages" / "people.js").read_text("utf-8"))
    assert list(tints) == list(map(str, range(int(number))))
    for name, colours in tints.items():
        colour = colours[theme]
        worst = min(contrast(colour, themes()[theme][each]) for each in BACKGROUNDS)
        assert worst >= LEAST, (name, colour, worst)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_the_signs_of_seals_are_read(theme: int) -> None:
    stamps, stones = (re.findall(rf"--{name}: {PAIR}", PEOPLE) for name in ("stamp", "stone"))
    assert len(stamps) == len(stones) == 2, "of people, and of groups"
    for stamp, stone in zip(stamps, stones, strict=True):
        assert contrast(stamp[theme], stone[theme]) >= LEAST
