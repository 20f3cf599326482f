"""The manual of all settings: ``config/default.yaml``, without the settings that a node does not have."""

from __future__ import annotations

import re
from collections.abc import Iterable


def manual_without(text: str, absent: Iterable[str]) -> str:
    """The manual without settings: ``section``, ``section.key`` or ``apps.*.key``.

    A section is a paragraph. A key stands below its comment. What an app may have stands in the comment of
    the section ``apps``, by name.
    """
    paragraphs = text.split("\n\n")
    for name in absent:
        section, _, key = name.partition(".")
        number = next((n for n, each in enumerate(paragraphs) if _section_of(each) == section), None)
        if number is None:
            continue  # the whole section is absent
        if not key:
            del paragraphs[number]
        elif section == "apps":
            entry = rf"^#   {key.removeprefix('*.')} .*\n(?:#    +\S.*\n)*"
            paragraphs[number] = re.sub(entry, "", paragraphs[number], flags=re.MULTILINE)
        else:
            row = rf"^(?:  #.*\n)*  {key}:.*\n?"
            paragraphs[number] = re.sub(row, "", paragraphs[number], flags=re.MULTILINE)
    return "\n\n".join(each.rstrip("\n") for each in paragraphs) + "\n"


def _section_of(paragraph: str) -> str:
    found = re.search(r"^(\w+):", paragraph, re.MULTILINE)
    return found[1] if found else ""
