"""Write docs/reference/plugin.md: the names of ``imserver.plugin`` from their docstrings.

``python -m tools.face``
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "reference" / "plugin.md"
PACKAGE: Final = ROOT / "imserver" / "plugin"

_HEAD: Final = """# The face

Made from the docstrings of `imserver.plugin` by `python -m tools.face`.
[Write a feature](../guides/write-a-feature.md) is the guide.

A feature imports nothing else of the server. The face has the version {version}, and `Feature.face` says for
which one a feature was made. A node refuses a feature that was made for a newer one. A name says since which
version it exists.
"""


def modules() -> Iterator[tuple[str, ModuleType]]:
    """The modules of the face, by their full names: the package itself, then the others."""
    for path in sorted(PACKAGE.glob("*.py"), key=lambda path: (path.stem != "__init__", path.stem)):
        name = "imserver.plugin" if path.stem == "__init__" else f"imserver.plugin.{path.stem}"
        module = import_module(name)
        if hasattr(module, "__all__"):
            yield name, module


def description(module: ModuleType, name: str) -> str:
    """The docstring of a name of a module of the face; ``""``: it has none."""
    value = getattr(module, name)
    if inspect.isclass(value):
        return inspect.cleandoc(vars(value).get("__doc__") or "")
    if inspect.isfunction(value):
        return inspect.cleandoc(value.__doc__ or "")
    return _constants(_home(module, name)).get(name, "")


def page() -> str:
    """The page."""
    from imserver.plugin import VERSION

    parts = [_HEAD.format(version=VERSION)]
    for full, module in modules():
        parts.append(f"\n## {full}\n\n{_prose(module.__doc__ or '')}\n")
        parts += [_entry(module, name) for name in sorted(module.__all__, key=str.casefold)]
    return "".join(parts)


def _entry(module: ModuleType, name: str) -> str:
    from imserver.plugin import SINCE

    value = getattr(module, name)
    lines = [f"\n### {name}\n\n"]
    if (inspect.isclass(value) or inspect.isfunction(value)) and (code := _code(value)):
        lines.append("```text\n" + "\n".join(code) + "\n```\n\n")
    lines.append(f"{_prose(description(module, name))} *Since {SINCE.get(name, 1)}.*\n")
    if inspect.isclass(value):
        rows = list(_members(value))
        if rows:
            lines.append("\n")
            lines += rows
    return "".join(lines)


def _members(kind: type) -> Iterator[str]:
    """The constants and public methods of a class, a line each."""
    for name, text in _constants_of_class(kind).items():
        yield f"- `{name}`{': ' + _first(text) if text else ''}\n"
    for name, member in vars(kind).items():
        if name.startswith("_") or name in _constants_of_class(kind):
            continue
        if isinstance(member, property):
            yield f"- `{name}`: {_first(inspect.cleandoc(member.__doc__ or ''))}\n"
        if isinstance(member, staticmethod):
            member = member.__func__
        if inspect.isfunction(member) and member.__doc__:
            yield f"- `{name}{_signature(member)}`: {_first(inspect.cleandoc(member.__doc__))}\n"


def _signature(function: Any) -> str:
    """The parameters of a function and what it returns, as in its source."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
    return f"({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns is not None else "")


def _code(value: Any) -> list[str]:
    """The signature of a function, or the fields of a class."""
    if inspect.isfunction(value):
        return [f"def {value.__name__}{_signature(value)}"]
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    except OSError:
        return []
    fields = [
        ast.unparse(each)
        for each in getattr(node, "body", ())
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.target.id.islower()
    ]
    return [line for line in fields if not line.startswith("_")]


def _prose(text: str) -> str:
    """A docstring as Markdown: roles of references and double backquotes become code."""
    text = re.sub(r":[a-z]+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`").strip()


def _first(text: str) -> str:
    """The first paragraph on one line."""
    return " ".join(_prose(text).partition("\n\n")[0].split())


def _home(module: ModuleType, name: str) -> Path:
    """The file that defines a constant which a module of the face exports."""
    path = Path(module.__file__ or "")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            home = import_module(node.module or "")
            return _home(home, name)
    return path


@cache
def _constants(path: Path) -> dict[str, str]:
    """Name of a constant of a file → the string below it, or below the last of its group."""
    return _documented(ast.parse(path.read_text(encoding="utf-8")).body)


@cache
def _constants_of_class(kind: type) -> dict[str, str]:
    """Constant of a table such as ``Needs`` → its text. Fields of structs are no constants."""
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    assert isinstance(node, ast.ClassDef)
    return {name: text for name, text in _documented(node.body).items() if name.isupper()}


def _documented(body: list[ast.stmt]) -> dict[str, str]:
    texts: dict[str, str] = {}
    group: list[str] = []
    for node in body:
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            # A string below several constants is that of all of them.
            texts |= dict.fromkeys(group, inspect.cleandoc(value.value))
            group = []
            continue
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            group.append(node.target.id)
            texts.setdefault(node.target.id, "")
        elif isinstance(node, ast.Assign):
            names = [
                each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name)
            ]
            group += names
            texts |= {name: texts.get(name, "") for name in names}
        else:
            group = []
    return texts


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE}\n")
    PAGE.write_text(page(), encoding="utf-8")
