"""Reads and writes YAML: safe types, unique keys, and the line of each key for
messages.

Only this module uses a YAML library. The module is loaded if there is a text to
read or write, so a server with default settings does not need it.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from imserver.gateway.config.values import ConfigError, WrittenMapping


class _Loader(yaml.SafeLoader):
    """Reads YAML's safe types only. A repeated key is an error."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> WrittenMapping:
    """Make a mapping that knows the line of each of its keys.

    Raises ConfigError for a repeated key, which YAML libraries accept, and for
    a key that is a list or a mapping.
    """
    # This call resolves the merge key "<<" of YAML.
    loader.flatten_mapping(node)
    mapping = WrittenMapping()
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node, deep=True)
        _require_new_key(key, line, mapping)
        mapping[key] = loader.construct_object(value_node, deep=True)
        mapping.lines[key] = line
    return mapping


def _require_new_key(key: Any, line: int, mapping: WrittenMapping) -> None:
    """Raise ConfigError if a mapping has the key already, or cannot have it.

    ``line`` is the number of the key's line.
    """
    if not isinstance(key, Hashable):
        raise ConfigError(f"line {line}: a key must be a plain word")
    if key in mapping:
        raise ConfigError(
            f"line {line}: the key {key!r} was already given in line "
            f"{mapping.lines[key]}"
        )


def _construct_text(_loader: _Loader, node: yaml.ScalarNode) -> Any:
    """Return a value as text, exactly as it is in the file."""
    return node.value


def _construct_number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """Read a number. A time such as 22:10 stays text.

    YAML 1.1 would read 22:10 as a number in base 60, which is 1330.
    """
    if ":" in node.value:
        return node.value
    return yaml.SafeLoader.yaml_constructors[node.tag](loader, node)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _Loader.add_constructor(_tag, _construct_number)
# A date stays text, as in JSON.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _construct_text)
_Loader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping
)


def read_yaml(text: str, where: str) -> Any:
    """Parse a text as YAML. Mappings are :class:`WrittenMapping`.

    ``where`` names the text in errors, for example a file. Raises ConfigError.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _invalid(error, where) from None
    except RecursionError:
        raise ConfigError(f"{where}: too many levels of nesting") from None
    except ConfigError as error:
        # An error of the functions above begins with the line.
        raise ConfigError(f"{where}, {error}") from None


def _invalid(error: yaml.YAMLError, where: str) -> ConfigError:
    """Make a one-line error of an error of the library, with the line."""
    mark = getattr(error, "problem_mark", None)
    line = ""
    if mark:
        line = f", line {mark.line + 1}"  # the library counts from 0
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return ConfigError(f"{where}{line}: not valid YAML: {problem}")


def write_yaml(document: Any) -> str:
    """Format a document as text for :func:`read_yaml`."""
    text: str = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    # The library writes an empty key in two lines, as "? ''" and ": value".
    return re.sub(r"^( *)\? ''\n\1: ", r"\1'':\n\1  ", text, flags=re.MULTILINE)
