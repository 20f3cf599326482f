"""A feature of another distribution, ``lamp``, which adds to the messages page."""

import json
from pathlib import Path

from tests.support import ROOT

FEATURE = """
from pathlib import Path
from imserver.plugin import Feature, FeatureParts
FEATURE = Feature("lamp", lambda core: FeatureParts(page=Path(__file__).parent / "lamp_page"))
"""
MODULE = """
import { colour } from "./colour.js";

export function start({ words, registerView, addAction, openPanel, make }) {
  registerView("lamp", {
    draw: ({ data }) => make("p", "lamp", colour(words, data.on)),
    summary: ({ data }) => colour(words, data.on),
  });
  addAction((session, conversation) => ({
    key: "", word: words.lamp_open, act: () => openPanel(words.lamp_open, make("p", "lamp-panel", session.store.nameOf(conversation))),
  }));
}
"""  # noqa: E501
COLOUR = "export const colour = (words, isOn) => (isOn ? words.lamp_on : words.lamp_off);\n"
STYLE = ".lamp { color: rgb(1, 2, 3); }\n"
WORDS = {
    "en": {"lamp_on": "The lamp is on", "lamp_off": "The lamp is off", "lamp_open": "Lamps"},
    "zh": {"lamp_on": "灯亮了", "lamp_open": "灯"},
}


def install(folder: Path) -> dict[str, str]:
    """Install it, and return the environment in which a server finds it."""
    about, page = folder / "lamp-1.0.dist-info", folder / "lamp_page"
    for each in (about, page):
        each.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lamp\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[imserver.features]\nlamp = lamps:FEATURE\n")
    (folder / "lamps.py").write_text(FEATURE)
    (page / "page.js").write_text(MODULE)
    (page / "colour.js").write_text(COLOUR)
    (page / "page.css").write_text(STYLE)
    for language, words in WORDS.items():
        (page / f"words.{language}.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    return {"PYTHONPATH": f"{ROOT}:{folder}"}
