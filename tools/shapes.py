"""``python -m tools.shapes``: what answers of ``/api/v1`` publish of rows, and
which structs are alike.

``tests/docs/rows.txt`` lists the fields of each row, and
``tests/docs/test_rows.py`` the pairs.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, inspect

from imserver.gateway.config.settings import Config
from imserver.gateway.http.operation import Resource
from imserver.gateway.node.feature_list import load_core, load_features

ROOT: Final = Path(__file__).resolve().parent.parent


def answers() -> dict[str, type[Struct]]:
    """The structs of all answers, by name."""
    structs: dict[str, type[Struct]] = {}
    operations = [
        row
        for feature in (*load_core(), *load_features(Config()))
        for row in feature.operations
    ]
    routes = (
        value
        for module in list(sys.modules.values())
        for value in vars(module).values()
    )
    operations += [
        row for each in routes if isinstance(each, Resource) for row in each.rows
    ]
    waiting: list[Any] = [inspect.type_info(row.answer) for row in operations]
    while waiting:
        kind = waiting.pop()
        if (
            isinstance(kind, inspect.StructType)
            and structs.get(kind.cls.__name__) is not kind.cls
        ):
            structs[kind.cls.__name__] = kind.cls
            waiting += [field.type for field in kind.fields]
        waiting += filter(
            None,
            (getattr(kind, name, None) for name in ("type", "item_type", "value_type")),
        )
        waiting += (*getattr(kind, "types", ()), *getattr(kind, "item_types", ()))
    return structs


def rows() -> dict[str, type[Struct]]:
    """The structs from elsewhere in answers: declared beside no routes, with
    all that answers inherit."""
    parents = {
        each
        for kind in answers().values()
        for each in kind.__mro__
        if issubclass(each, Struct)
    }
    fields = (
        each
        for each in parents
        if each.__struct_fields__ and not _is_beside_routes(each)
    )
    return {f"{each.__module__}:{each.__qualname__}": each for each in fields}


def _is_beside_routes(kind: type) -> bool:
    values = vars(sys.modules[kind.__module__]).values()
    return kind.__module__.startswith("imserver.gateway.api.") or any(
        isinstance(each, Resource) for each in values
    )


def views() -> set[str]:
    """The structs of answers that calls of ``view`` make."""
    calls = [
        node
        for node in _nodes()
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "view"
    ]
    return {ast.unparse(node.args[0]) for node in calls if node.args} & answers().keys()


def twins() -> set[str]:
    """Pairs of classes with at least four fields, of which they share three
    quarters."""
    fields = [
        (
            node.name,
            {
                ast.unparse(row.target)
                for row in node.body
                if isinstance(row, ast.AnnAssign)
            },
        )
        for node in _nodes()
        if isinstance(node, ast.ClassDef)
    ]
    many = [(name, own) for name, own in fields if len(own) >= 4]
    return {
        " ".join(sorted((name, other)))
        for number, (name, own) in enumerate(many)
        for other, others in many[:number]
        if len(own & others) >= 0.75 * len(own | others)
    }


@cache
def _nodes() -> list[ast.AST]:
    """The syntax of the server and its plug-ins."""
    paths: Iterator[Path] = (
        path for name in ("imserver", "plugins") for path in (ROOT / name).rglob("*.py")
    )
    own = [
        path
        for path in paths
        if {"tests", ".venv"}.isdisjoint(path.parts) and "_pb2" not in path.name
    ]
    return [
        node
        for path in own
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    ]


if __name__ == "__main__":
    for name, row in sorted(rows().items()):
        print(f"{name}: {' '.join(row.__struct_fields__)}")
    print(*sorted(twins()), sep="\n")
