"""``python -m tools.emoji FOLDER [CLDR]``: write the names of all emoji, in
``static/messages/emoji``; and those of Slack, for the plug-in ``slack``.

``FOLDER`` is the npm package ``emojibase-data`` in :data:`VERSION`, unpacked:
``npm pack``, then ``tar xzf``. Its names and keywords are those of the Unicode
CLDR; Slack has those of ``iamcal``.

``CLDR`` is the npm packages ``cldr-annotations-modern`` and ``cldr-annotations-derived-modern`` in
:data:`CLDR_VERSION`, unpacked into one folder: for languages that ``emojibase-data`` does not have.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from imserver.pages.assets import STATIC

PACKAGE: Final = "emojibase-data"
VERSION: Final = "17.0.0"
LANGUAGES: Final = ("de", "en", "zh")
CLDR_VERSION: Final = "45.0.0"
CLDR_LANGUAGES: Final = ("ar",)
SLACK: Final = (
    Path(__file__).parent.parent
    / "plugins"
    / "arrivals"
    / "imserver_arrivals"
    / "emoji.json"
)
_COMPONENTS: Final = 2
"""Number of the group of skin tones and hair, which are no emoji of their
own."""
_TONES: Final = "🏻🏼🏽🏾🏿"
_COMMON_VERSION: Final = 13
"""All systems in use draw the emoji of this version of Unicode's list."""


def table(emoji: list[dict[str, Any]]) -> list[list[list[Any]]]:
    """Groups of rows: the emoji, its name, more keywords in one text, 1 if it
    has five skin tones (else 0), its version if that is newer than all systems
    in use (else 0)."""
    groups: dict[int, list[list[Any]]] = {}
    for each in sorted(
        (each for each in emoji if "group" in each), key=lambda each: each["order"]
    ):
        if each["group"] == _COMPONENTS:
            continue
        words = [tag for tag in each.get("tags", ()) if tag not in each["label"]]
        if each["version"] > _COMMON_VERSION:
            version = each["version"]
        else:
            version = 0
        row = [
            each["emoji"],
            each["label"],
            " ".join(words),
            int(has_tones(each)),
            version,
        ]
        groups.setdefault(each["group"], []).append(row)
    return [groups[group] for group in sorted(groups)]


def has_tones(emoji: dict[str, Any]) -> bool:
    """Whether a tone behind the first character makes each of its five forms,
    as the page does it."""
    forms = [skin["emoji"] for skin in emoji.get("skins", ())]
    return forms == [
        re.sub("^(.)\ufe0f?", rf"\g<1>{tone}", emoji["emoji"]) for tone in _TONES
    ]


def write(package: Path, cldr: Path | None, folder: Path) -> None:
    """Write a file for each language."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in LANGUAGES:
        _write(_emoji(package, language), folder / f"{language}.json")
    for language in CLDR_LANGUAGES if cldr else ():
        if cldr:
            names = annotations(cldr, language)
        else:
            names = {}
        emoji = [named(each, names) for each in _emoji(package, "en")]
        _write(emoji, folder / f"{language}.json")


def annotations(cldr: Path, language: str) -> dict[str, Any]:
    """Emoji without selectors → its name and keywords."""
    found: dict[str, Any] = {}
    for kind in ("annotationsDerived", "annotations"):
        file = json.loads(
            (cldr / kind / language / "annotations.json").read_text(encoding="utf-8")
        )
        found |= file[kind]["annotations"]
    return {emoji.replace("\ufe0f", ""): names for emoji, names in found.items()}


def named(emoji: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """An emoji with the name of another language; one that is newer than the
    names stays as it is."""
    found = names.get(emoji["emoji"].replace("\ufe0f", ""), {})
    if "tts" not in found:
        return emoji
    return emoji | {"label": found["tts"][0], "tags": found.get("default", [])}


def _emoji(package: Path, language: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        (package / language / "data.json").read_text(encoding="utf-8")
    )
    return found


def _write(emoji: list[dict[str, Any]], file: Path) -> None:
    rows = json.dumps(table(emoji), ensure_ascii=False, separators=(",", ":")).replace(
        "]],[[", "]],\n[["
    )
    file.write_text(f"{rows}\n", encoding="utf-8")


def slack_names(package: Path) -> dict[str, str]:
    """Slack's name of an emoji → the emoji."""
    emoji = json.loads((package / "en" / "data.json").read_text(encoding="utf-8"))
    names = json.loads(
        (package / "en" / "shortcodes" / "iamcal.json").read_text(encoding="utf-8")
    )
    found: dict[str, str] = {}
    for each in emoji:
        own = names.get(each["hexcode"], ())
        # What is drawn as an emoji anyway needs no selector: so clients type
        # it.
        if each.get("type") == 1:
            text = each["emoji"].removesuffix("\ufe0f")
        else:
            text = each["emoji"]
        found |= dict.fromkeys([own] if isinstance(own, str) else own, text)
    return dict(sorted(found.items()))


def write_slack(package: Path, file: Path) -> None:
    """Write the table of Slack's names."""
    rows = json.dumps(
        slack_names(package), ensure_ascii=False, indent=0, separators=(",", ":")
    )
    file.write_text(f"{rows}\n", encoding="utf-8")


if __name__ == "__main__":
    write_slack(Path(sys.argv[1]), SLACK)
    write(
        Path(sys.argv[1]),
        Path(sys.argv[2]) if sys.argv[2:] else None,
        STATIC / "messages" / "emoji",
    )
