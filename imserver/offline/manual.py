"""The manual of all settings, ``config/default.yaml``, without settings that a
node does not have."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Meta, Struct, to_builtins

from imserver.gateway.config.declared import hints_of
from imserver.gateway.config.values import Declarations
from imserver.gateway.config.yaml import write_yaml

_COLUMNS: Final = 110
"""The longest line of a comment."""


def manual_of(text: str, declared: Declarations) -> str:
    """Return the manual with exactly the ``declared`` settings.

    ``text``: the manual of all settings of the server. A section is a paragraph
    of the text. A key stands below its comment. The settings of an app are
    listed by name in the comment of the section ``apps``. Declared settings
    that the text does not have are added from their structs.
    """
    written: set[str] = set()
    """The sections and keys (``section.key``) that the text has."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        section = _section_of(paragraph)
        written.add(section)
        if section == "apps":
            missing = "".join(_missing_entries(declared, text))
            paragraph = _with_declared_entries(paragraph, declared)
            paragraph = paragraph.replace("apps:\n", f"{missing}apps:\n")
        elif section:
            paragraph = _with_declared_keys(paragraph, section, declared, written)
        if section and section not in declared.names.values():
            continue  # the node does not have the feature of this section
        paragraphs.append(_completed(paragraph, section, declared, written))
    for name, kind in declared.sections:
        if name not in written:
            paragraphs.append(_paragraph_of_struct(name, kind, written))
    return "\n\n".join(paragraphs) + "\n"


def _section_of(paragraph: str) -> str:
    """Return the section that a paragraph of the manual has, or ``""``."""
    match = re.search(r"^(\w+):", paragraph, re.MULTILINE)
    if match:
        return match[1]
    return ""


def _paragraph_of_struct(name: str, kind: type[Struct], written: set[str]) -> str:
    """Write the paragraph of a section from the struct of its settings."""
    comment = _comment("", kind.__doc__)
    lines = [*comment, f"{name}:", _missing_keys(kind, written, name)]
    return "\n".join(lines)


def _completed(
    paragraph: str, section: str, declared: Declarations, written: set[str]
) -> str:
    """Return the paragraph of a section with the keys that it lacks."""
    parts = [paragraph.rstrip("\n")]
    # A section may have several structs: one of each feature.
    for name, kind in declared.sections:
        if name == section:
            missing = _missing_keys(kind, written, section)
            if missing:
                parts.append(missing)
    return "\n".join(parts)


def _with_declared_entries(paragraph: str, declared: Declarations) -> str:
    """Return the paragraph of the section ``apps`` without undeclared settings.

    A setting is an entry of the comment: ``#   open: …``, with further lines
    that are indented more.
    """

    def only_declared(entry: re.Match[str]) -> str:
        """Return an entry, or ``""`` to leave it out."""
        if entry[1] in declared.app_hints:
            return entry[0]
        return ""

    entries = r"^#   (\w+)\W.*\n(?:#    +\S.*\n)*"
    return re.sub(entries, only_declared, paragraph, flags=re.MULTILINE)


def _with_declared_keys(
    paragraph: str, section: str, declared: Declarations, written: set[str]
) -> str:
    """Return the paragraph of a section without keys that are not declared.

    All of its keys are added to ``written``. A key is a line with its comment
    above it.
    """

    def only_declared(row: re.Match[str]) -> str:
        """Note a key, and return its lines, or ``""`` to leave them out."""
        key = f"{section}.{row[1]}"
        written.add(key)
        if key in declared.rows:
            return row[0]
        return ""

    keys = r"^(?:  #.*\n)*  (\w+):.*\n?"
    return re.sub(keys, only_declared, paragraph, flags=re.MULTILINE)


def _missing_keys(kind: type[Struct], written: set[str], section: str) -> str:
    """Return the lines of keys of a section that are not ``written`` yet.

    They have their texts and defaults. ``kind``: the struct of the section.
    """
    lines: list[str] = []
    # A struct that is made without values has the defaults.
    defaults = kind()
    for key, hint in hints_of(kind).items():
        if f"{section}.{key}" not in written:
            row = write_yaml({key: to_builtins(getattr(defaults, key))})
            lines += _comment("  ", _text_of(hint))
            lines.append(textwrap.indent(row, "  ").rstrip("\n"))
    return "\n".join(lines)


def _missing_entries(declared: Declarations, text: str) -> Iterator[str]:
    """Yield lines about settings of an app that the manual lacks.

    Each is an entry of a comment, such as ``#   polls: how long polls last``.
    """
    for kind in declared.app_kinds:
        for key, hint in hints_of(kind).items():
            if not re.search(rf"^#   (?:\w+, )*{key}\b", text, re.MULTILINE):
                row = f"{key}: {_text_of(hint)}"
                lines = textwrap.wrap(
                    row, _COLUMNS, initial_indent="#   ", subsequent_indent="#       "
                )
                yield from (f"{line}\n" for line in lines)


def _text_of(hint: Any) -> str:
    """Return the description in the type of a setting, or ``""``."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, Meta) and mark.description:
            return mark.description
    return ""


def _comment(indent: str, text: str | None) -> list[str]:
    """Return the lines of a comment with the first paragraph of a text."""
    first = inspect.cleandoc(text or "").partition("\n\n")[0]
    return textwrap.wrap(
        first, _COLUMNS, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )
