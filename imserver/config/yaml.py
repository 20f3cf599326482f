"""Reads and writes YAML: safe types, unique keys, and the line of each key for messages.

It also writes the manual of all settings, ``config/default.yaml``, without those that a node does not have.
Only this module uses a YAML library. It is loaded if there is a text to read or write, so a server with
default settings does not need it.
"""

import inspect
import re
import textwrap
from collections.abc import Hashable, Iterator
from typing import Any, Final

import yaml
from msgspec import Meta, Struct, to_builtins

from imserver.config.declared import hints_of
from imserver.config.values import ConfigError, Declarations, WrittenMapping

_COLUMNS: Final = 110
"""The longest line of a comment."""


class _Loader(yaml.SafeLoader):
    """YAML's safe types. A repeated key is an error."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> WrittenMapping:
    loader.flatten_mapping(node)
    mapping = WrittenMapping()
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise ConfigError(f"line {line}: a key must be a plain word")
        if key in mapping:
            raise ConfigError(f"line {line}: the key {key!r} was already given in line {mapping.lines[key]}")
        mapping[key] = loader.construct_object(value_node, deep=True)
        mapping.lines[key] = line
    return mapping


def _construct_number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    if ":" in node.value:  # YAML 1.1 reads 22:10 as 1330
        return node.value
    return yaml.SafeLoader.yaml_constructors[node.tag](loader, node)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _Loader.add_constructor(_tag, _construct_number)
# A day stays text, as in JSON.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read_yaml(text: str, where: str) -> Any:
    """Parse a text. Mappings are :class:`WrittenMapping`. Raises ConfigError, which names ``where``."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(f"{where}{line}: not valid YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{where}: too many levels of nesting") from None
    except ConfigError as error:
        raise ConfigError(f"{where}, {error}") from None


_EMPTY_KEY: Final = re.compile(r"^( *)\? ''\n\1: ", re.MULTILINE)
"""How the library writes an empty key of a mapping."""


def write_yaml(document: Any) -> str:
    """Format a document as text for :func:`read_yaml`."""
    text: str = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    return _EMPTY_KEY.sub(r"\1'':\n\1  ", text)


# --- the manual -------------------------------------------------------------------------------------------


def manual_of(text: str, declared: Declarations) -> str:
    """The manual with the settings that are declared, and no other.

    A section is a paragraph. A key stands below its comment. What an app may have stands in the comment of
    the section ``apps``, by name. The settings of features of other distributions come from their structs.
    """
    there: set[str] = set()

    def has_entry(entry: re.Match[str]) -> str:
        return entry[0] if entry[1] in declared.app_hints else ""

    def has_key(row: re.Match[str]) -> str:
        there.add(f"{section}.{row[1]}")
        return row[0] if f"{section}.{row[1]}" in declared.rows else ""

    paragraphs = []
    for paragraph in text.split("\n\n"):
        match = re.search(r"^(\w+):", paragraph, re.MULTILINE)
        section = match[1] if match else ""
        there.add(section)
        if section == "apps":
            entries = r"^#   (\w+)\W.*\n(?:#    +\S.*\n)*"
            paragraph = re.sub(entries, has_entry, paragraph, flags=re.MULTILINE)
            paragraph = paragraph.replace("apps:\n", "".join(_entries(declared, text)) + "apps:\n")
        elif section:
            paragraph = re.sub(r"^(?:  #.*\n)*  (\w+):.*\n?", has_key, paragraph, flags=re.MULTILINE)
        if not section or section in declared.names.values():
            more = (_keys(kind, there, section) for name, kind in declared.sections if name == section)
            paragraphs.append("\n".join([paragraph.rstrip("\n"), *filter(None, more)]))
    for name, kind in declared.sections:
        if name not in there:
            paragraphs.append("\n".join([*_comment("", kind.__doc__), f"{name}:", _keys(kind, there, name)]))
    return "\n\n".join(paragraphs) + "\n"


def _keys(kind: type[Struct], there: set[str], section: str) -> str:
    """The keys of a section that are not ``there``, with their texts and defaults."""
    lines: list[str] = []
    defaults = kind()
    for key, hint in hints_of(kind).items():
        if f"{section}.{key}" not in there:
            row = write_yaml({key: to_builtins(getattr(defaults, key))})
            lines += [*_comment("  ", _text_of(hint)), textwrap.indent(row, "  ").rstrip("\n")]
    return "\n".join(lines)


def _entries(declared: Declarations, text: str) -> Iterator[str]:
    """The lines about the settings of an app that the manual does not have."""
    for kind in declared.app_kinds:
        for key, hint in hints_of(kind).items():
            if not re.search(rf"^#   (?:\w+, )*{key}\b", text, re.MULTILINE):
                row = f"{key}: {_text_of(hint)}"
                lines = textwrap.wrap(row, _COLUMNS, initial_indent="#   ", subsequent_indent="#       ")
                yield from (f"{line}\n" for line in lines)


def _text_of(hint: Any) -> str:
    metas = (each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Meta))
    return next((each.description for each in metas if each.description), "")


def _comment(indent: str, text: str | None) -> list[str]:
    first = inspect.cleandoc(text or "").partition("\n\n")[0]
    return textwrap.wrap(first, _COLUMNS, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
