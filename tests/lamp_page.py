"""A feature of another distribution, ``lamp``, which adds to the messages
page."""

import json
from pathlib import Path

from tests.support import ROOT

PAGE = """
from pathlib import Path
from imserver.plugin import FeatureRow, Parts

class Lamp:
    page_folder = Path(__file__).parent / "lamp_page"

FEATURE = FeatureRow("lamp", lambda core: Parts((Lamp(),)))
"""
FEATURE = (
    PAGE
    + """
from imserver.plugin.errors import ReplyCode
from imserver.plugin.messages import MessageServices, ToFollowers
from imserver.plugin.wire import Command, CommandRow, Fields, Reply, Signal, app_and_user

class Switch(Command, frozen=True):
    id: int

def build(core):
    signals = core.service(MessageServices).signals
    def switch(connection, command):
        app, user = app_and_user(connection)
        if not command.id:
            return Reply(ReplyCode.NO_DATA)
        signal = Signal("lamp.switched", user, "", data=b'{"id": %d}' % command.id)
        signals.send(ToFollowers(app, (user,), 0, signal))
        return Reply(ReplyCode.OK, {"by": user})
    return Parts((Lamp(),), {Switch: CommandRow(switch)})

FEATURE = FeatureRow(
    "lamp", build, uses=("messages",), wire={"cmd": {"switch": lambda data: Switch(Fields.of(data).id("id"))}}
)
"""
)
MODULE = """
import { colour } from "./colour.js";

export function start({ words, registerView, redraw, addAction, request, api, hear, reason, openPanel, toast, button, make }) {
  const switched = new Set();
  hear("lamp.switched", ({ id }) => {
    switched.add(id);
    redraw(id);
  });
  registerView("lamp", {
    draw: ({ id, data }) => {
      const lamp = button(colour(words, data.on !== switched.has(id)), "lamp");
      lamp.addEventListener("click", async () => {
        const { by } = await request("switch", { id });
        const account = await api("GET", "accounts/show");
        const fault = await request("switch").catch(reason);
        toast([by === account.user, fault].join(" "));
      });
      return lamp;
    },
    summary: ({ data }) => colour(words, data.on),
  });
  addAction((session, conversation) => ({
    key: "", word: words.lamp_open, act: () => openPanel(words.lamp_open, make("p", "lamp-panel", session.store.nameOf(conversation))),
  }));
}
"""  # noqa: E501
COLOUR = (
    "export const colour = (words, isOn) => (isOn ? words.lamp_on : words.lamp_off);\n"
)
STYLE = ".lamp { color: rgb(1, 2, 3); }\n"
WORDS = {
    "en": {
        "lamp_on": "The lamp is on",
        "lamp_off": "The lamp is off",
        "lamp_open": "Lamps",
    },
    "zh": {"lamp_on": "灯亮了", "lamp_open": "灯"},
}


def install(folder: Path, feature: str = FEATURE) -> dict[str, str]:
    """Install it (``PAGE``: without its command), and return the environment in
    which a server finds it."""
    about = folder / "lamp-1.0.dist-info"
    page = folder / "lamp_page"
    for each in (about, page):
        each.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lamp\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[imserver.features]\nlamp = lamps:FEATURE\n"
    )
    (folder / "lamps.py").write_text(feature)
    (page / "page.js").write_text(MODULE)
    (page / "colour.js").write_text(COLOUR)
    (page / "page.css").write_text(STYLE)
    for language, words in WORDS.items():
        (page / f"words.{language}.json").write_text(
            json.dumps(words, ensure_ascii=False), encoding="utf-8"
        )
    return {"PYTHONPATH": f"{ROOT}:{folder}"}
