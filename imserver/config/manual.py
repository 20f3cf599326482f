"""The manual of all settings: ``config/default.yaml``, without the settings that a node does not have."""

from __future__ import annotations

import re

from imserver.config.values import Declarations


def manual_of(text: str, declared: Declarations) -> str:
    """The manual with the settings that are declared, and no other.

    A section is a paragraph. A key stands below its comment. What an app may have stands in the comment of
    the section ``apps``, by name.
    """

    def has_entry(entry: re.Match[str]) -> str:
        return entry[0] if entry[1] in declared.app_hints else ""

    def has_key(row: re.Match[str]) -> str:
        return row[0] if f"{section}.{row[1]}" in declared.rows else ""

    paragraphs = []
    for paragraph in text.split("\n\n"):
        found = re.search(r"^(\w+):", paragraph, re.MULTILINE)
        section = found[1] if found else ""
        if section == "apps":
            entries = r"^#   (\w+)\W.*\n(?:#    +\S.*\n)*"
            paragraph = re.sub(entries, has_entry, paragraph, flags=re.MULTILINE)
        elif section:
            paragraph = re.sub(r"^(?:  #.*\n)*  (\w+):.*\n?", has_key, paragraph, flags=re.MULTILINE)
        if not section or section in declared.names.values():
            paragraphs.append(paragraph.rstrip("\n"))
    return "\n\n".join(paragraphs) + "\n"
