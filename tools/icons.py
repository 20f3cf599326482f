"""``python -m tools.icons``: draw the icons of the messages page, in
``static/icons``.

``app.svg`` is the seal of all pages. The PNG files are the same drawing, for
systems that show no SVG. A maskable icon fills its square, and its drawing
stays in the circle that every system shows.
"""

import shutil
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw

from imserver.pages.assets import STATIC

GROUND: Final = "#b5382a"
PAPER: Final = "#fffdf8"
UNITS: Final = 32
"""Width of the drawing in favicon.svg, whose numbers are below."""
_FINER: Final = 8
"""Drawn so many times larger, then reduced: smooth edges."""
_MASKED: Final = 0.78
"""Size of the drawing in a maskable icon."""


def draw(size: int, *, maskable: bool = False) -> Image.Image:
    """The icon as a square of ``size`` pixels."""
    pixels = size * _FINER
    image = Image.new("RGBA", (pixels, pixels), GROUND if maskable else (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    unit = pixels / UNITS

    def at(x: float, y: float) -> tuple[float, float]:
        share = _MASKED if maskable else 1
        return ((x - UNITS / 2) * share + UNITS / 2) * unit, (
            (y - UNITS / 2) * share + UNITS / 2
        ) * unit

    if not maskable:
        pen.rounded_rectangle((0, 0, pixels - 1, pixels - 1), 8 * unit, fill=GROUND)
    radius = 4 * unit * (_MASKED if maskable else 1)
    pen.rounded_rectangle((*at(6, 8), *at(26, 21.5)), radius, fill=PAPER)
    tail = [
        (9.7, 21),
        (15.9, 21.3),
        (11.1, 25.4),
        (10.5, 25.6),
        (9.9, 25.3),
        (9.7, 24.7),
    ]
    pen.polygon([at(*point) for point in tail], fill=PAPER)
    for x in (11.5, 16.0, 20.5):
        pen.ellipse((*at(x - 1.4, 13.4), *at(x + 1.4, 16.2)), fill=GROUND)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def write(folder: Path) -> None:
    """Write all icons."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(STATIC / "favicon.svg", folder / "app.svg")
    for name, size, maskable in (
        ("app-192.png", 192, False),
        ("app-512.png", 512, False),
        ("maskable-512.png", 512, True),
        ("touch-180.png", 180, True),
    ):
        draw(size, maskable=maskable).convert("RGBA").quantize(64).save(
            folder / name, optimize=True
        )


if __name__ == "__main__":
    write(STATIC / "icons")
