"""Write docs/reference/plugin.md: the names of ``imserver.plugin`` from their
docstrings.

``python -m tools.face``
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "reference" / "plugin.md"
PACKAGE: Final = ROOT / "imserver" / "plugin"

_HEAD: Final = """# The face

Made from the docstrings of `imserver.plugin` by `python -m tools.face`.
[Write a feature](../guides/write-a-feature.md) is the guide.

A feature imports nothing else of the server. The face has the version {version}; a distribution says by
`Requires-Dist` which release of imserver it needs. A name says since which
version it exists. Fields below `# by keyword` are given by name. A title such as `core.queries` is no name to
import: it says where a feature gets such an object.
"""

_GOT: Final[Mapping[str, Mapping[str, str]]] = {
    "imserver.plugin.http": {
        "Operation: the fields `more`": "imserver.gateway.http.operation:Operation"
    },
    "imserver.plugin.identity": {
        "core.back_ends": "imserver.gateway.auth.questions:BackEnds"
    },
    "imserver.plugin.messages": {
        "log.annotations": "imserver.messenger.log.annotations:AnnotationWriter",
        "log.conversations": "imserver.messenger.log.conversations:ConversationReader",
        "log.entries": "imserver.messenger.log.read:EntryReader",
        "log.marks": "imserver.messenger.log.marks:MarkStore",
    },
    "imserver.plugin.services": {
        "core.channel_commands": "imserver.gateway.channels.client_commands:ChannelCommands",
        "core.node_messages": "imserver.gateway.cluster.nodes:NodeMessages",
        "core.others": "imserver.gateway.cluster.nodes:OtherNodes",
        "core.logins": "imserver.gateway.auth.login:Logins",
        "core.queries": "imserver.gateway.cluster.nodes:NodeQueries",
        "core.network": "imserver.gateway.core.services:NetworkServices",
        "core.node": "imserver.gateway.core.services:NodeState",
    },
}
"""Module of the face → where a feature gets objects that it does not name, and
their class."""

_OF_CORE: Final = (
    "Api",
    "Connection",
    "Core",
    "Locations",
    "LogImport",
    "MessageLog",
    "Messaging",
    "Outgoing",
    "PooledStatements",
    "Signals",
    "Store",
    "Tenants",
    "UnreadMessages",
)
"""Classes of which features make no objects: their constructors are not
shown."""


def modules() -> Iterator[tuple[str, ModuleType]]:
    """The modules of the face, by their full names: the package itself, then
    the others."""
    for path in sorted(
        PACKAGE.glob("*.py"), key=lambda path: (path.stem != "__init__", path.stem)
    ):
        if path.stem == "__init__":
            name = "imserver.plugin"
        else:
            name = f"imserver.plugin.{path.stem}"
        module = import_module(name)
        if names_of(module):
            yield name, module


def names_of(module: ModuleType) -> list[str]:
    """The names that a module of the face exports; none: it is not one."""
    return exported(Path(module.__file__ or "").read_text(encoding="utf-8"))


def exported(text: str) -> list[str]:
    """The names that the text of a module exports: those of ``__all__``; else
    what it imports under the same name, with ``as``, and its public classes and
    functions. None if there is neither."""
    body = ast.parse(text).body
    for node in body:
        if ast.unparse(node).startswith("__all__"):
            return [
                str(each.value)
                for each in ast.walk(node)
                if isinstance(each, ast.Constant)
            ]
    imports = (
        alias
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    )
    names = [alias.name for alias in imports if alias.name == alias.asname]
    own = [
        node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    ]
    if names:
        return [*names, *(name for name in own if not name.startswith("_"))]
    return []


def description(module: ModuleType, name: str) -> str:
    """The docstring of a name of a module of the face; ``""``: it has none."""
    value = getattr(module, name)
    if inspect.ismodule(value):
        return inspect.cleandoc(value.__doc__ or "")
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
        parts += [
            _entry(module, name) for name in sorted(names_of(module), key=str.casefold)
        ]
        for title, where in _GOT.get(full, {}).items():
            home, _, name = where.partition(":")
            kind = getattr(import_module(home), name)
            parts.append(
                _block(
                    title, kind, inspect.cleandoc(kind.__doc__), with_constructor=False
                )
            )
    return "".join(parts)


def _entry(module: ModuleType, name: str) -> str:
    from imserver.plugin import SINCE

    since = f"*Since {SINCE.get(name, 1)}.*"
    return _block(name, getattr(module, name), f"{description(module, name)} {since}")


def _block(title: str, value: Any, text: str, *, with_constructor: bool = True) -> str:
    lines = [f"\n### {title}\n\n"]
    if inspect.isfunction(value):
        lines.append(f"```text\ndef {value.__name__}{_signature(value)}\n```\n\n")
    elif inspect.isclass(value) and (code := _fields(value, with_constructor)):
        lines.append("```text\n" + "\n".join(code) + "\n```\n\n")
    lines.append(f"{_prose(text)}\n")
    if inspect.isclass(value) and (rows := list(_members(value))):
        lines += ["\n", *rows]
    if inspect.ismodule(value):
        lines += ["\n", *_functions(value)]
    return "".join(lines)


def members(kind: type) -> dict[str, str]:
    """Constant of a table such as ``Needs`` → its own text: the string below
    it, or what its value says."""
    texts = {}
    for name, text in _documented(_body(kind), in_groups=False).items():
        if name.isupper() and not name.startswith("_"):
            if kind.__name__ == "ReplyCode":
                number = f"{getattr(kind, name)}: "
            else:
                number = ""
            texts[name] = number + (text or _text_of(kind, getattr(kind, name)))
    return texts


def _text_of(kind: type, value: Any) -> str:
    """The text of a constant whose value has one."""
    from imserver.gateway import errors

    if isinstance(value, errors.HttpProblem):
        return f"{value.status} `{value.code}`: {value.message}"
    if kind is errors.CloseCode:
        return f"{value}: {errors.CLOSE[value].meaning}"
    return ""


def _members(kind: type) -> Iterator[str]:
    """The constants, the fields with a text, and the public methods of a class,
    a line each."""
    for name, text in members(kind).items():
        yield f"- `{name}`{': ' + _first(text) if text else ''}\n"
    for name, text in _documented(_body(kind), in_groups=False).items():
        if text and not name.isupper() and not name.startswith("_"):
            yield f"- `{name}`: {_first(text)}\n"
    for name, member in vars(kind).items():
        if name.startswith("_") or name.isupper():
            continue
        if isinstance(member, property):
            yield f"- `{name}`: {_first(inspect.cleandoc(member.__doc__ or ''))}\n"
        if isinstance(member, staticmethod):
            member = member.__func__
        if inspect.isfunction(member) and member.__doc__:
            yield f"- `{name}{_signature(member)}`: {_first(inspect.cleandoc(member.__doc__))}\n"


def _functions(module: ModuleType) -> Iterator[str]:
    """The public functions of a module, a line each."""
    for name, value in vars(module).items():
        is_own = inspect.isfunction(value) and value.__module__ == module.__name__
        if is_own and not name.startswith("_"):
            text = _first(inspect.cleandoc(value.__doc__ or ""))
            yield f"- `{name}{_signature(value)}`: {text}\n"


def _signature(function: Any) -> str:
    """The parameters of a function and what it returns, as in its source. Of
    one that is the work of a transaction: as callers give them."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    for decorator in node.decorator_list:
        name = ast.unparse(decorator).partition("(")[0]
        if name in ("in_log", "in_transaction"):
            app = ast.arg("app", ast.Name("str"))
            node.args.args[1 : 3 if name == "in_log" else 2] = [app]
        elif name.startswith("Store."):
            del node.args.args[1]
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
    return f"({arguments})" + (
        f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    )


def _fields(kind: type, with_constructor: bool) -> list[str]:
    """The fields of a class, those that it inherits from a struct first, then
    the types in them. Else, of a class that features make objects of, its
    constructor."""
    lines: list[str] = []
    types: dict[str, str] = {}
    by_keyword = False
    for each in reversed(kind.__mro__):
        if each is not kind and (
            not isinstance(each, msgspec.StructMeta) or each is msgspec.Struct
        ):
            continue
        node = _node(each)
        fields = [
            row
            for row in (() if node is None else node.body)
            if isinstance(row, ast.AnnAssign)
            and isinstance(row.target, ast.Name)
            and row.target.id.islower()
        ]
        fields = [row for row in fields if not ast.unparse(row.target).startswith("_")]
        keywords = () if node is None else node.keywords
        if (
            fields
            and any(word.arg == "kw_only" for word in keywords)
            and not by_keyword
        ):
            lines.append("# by keyword:")
            by_keyword = True
        for row in fields:
            lines.append(ast.unparse(row))
            types |= _types_in(each, row.annotation)
    constructor = vars(kind).get("__init__")
    has_constructor = inspect.isfunction(constructor) and not isinstance(
        kind, msgspec.StructMeta
    )
    if (
        with_constructor
        and has_constructor
        and kind.__name__ not in _OF_CORE
        and not _is_protocol(kind)
    ):
        lines.append(
            f"{kind.__name__}{_signature(constructor).removesuffix(' -> None')}"
        )
    return [*lines, *(["", *types.values()] if types else ())]


def _is_protocol(kind: type) -> bool:
    return bool(vars(kind).get("_is_protocol"))


def _types_in(kind: type, annotation: ast.expr) -> dict[str, str]:
    """Name → line: the sets of values, and the functions, that an annotation
    names."""
    module = sys.modules[kind.__module__]
    lines = {}
    for node in ast.walk(annotation):
        if not isinstance(node, ast.Name) or inspect.isclass(
            getattr(module, node.id, None)
        ):
            continue
        for row in _tree(_home(module, node.id)).body:
            if isinstance(row, ast.Assign) and ast.unparse(row.targets[0]) == node.id:
                text = ast.unparse(row.value)
                if text.startswith(("Literal[", "Callable[")):
                    lines[node.id] = f"{node.id} = {text}"
    return lines


def _prose(text: str) -> str:
    """A docstring as Markdown: roles of references and double backquotes become
    code."""
    text = re.sub(r":[a-z]+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`").strip()


def _first(text: str) -> str:
    """The first paragraph on one line."""
    return " ".join(_prose(text).partition("\n\n")[0].split())


def _home(module: ModuleType, name: str) -> Path:
    """The file that defines a constant which a module of the face exports."""
    path = Path(module.__file__ or "")
    for node in _tree(path).body:
        if isinstance(node, ast.ImportFrom) and name in {
            alias.asname or alias.name for alias in node.names
        }:
            home = import_module(node.module or "")
            return _home(home, name)
    return path


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _constants(path: Path) -> dict[str, str]:
    """Name of a constant of a file → the string below it, or below the last of
    its group."""
    return _documented(_tree(path).body)


@cache
def _node(kind: type) -> ast.ClassDef | None:
    """The definition of a class; None: it has no source."""
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    assert isinstance(node, ast.ClassDef)
    return node


def _body(kind: type) -> list[ast.stmt]:
    node = _node(kind)
    return [] if node is None else node.body


def _documented(body: list[ast.stmt], in_groups: bool = True) -> dict[str, str]:
    """Name of a variable → the string below it. ``in_groups``: a string below
    several is that of all."""
    texts: dict[str, str] = {}
    group: list[str] = []
    for node in body:
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            texts |= dict.fromkeys(
                group if in_groups else group[-1:], inspect.cleandoc(value.value)
            )
            group = []
            continue
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            group.append(node.target.id)
            texts.setdefault(node.target.id, "")
        elif isinstance(node, ast.Assign):
            names = [
                each.id
                for target in node.targets
                for each in ast.walk(target)
                if isinstance(each, ast.Name)
            ]
            group += names
            texts |= {name: texts.get(name, "") for name in names}
        else:
            group = []
    return texts


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE}\n")
    PAGE.write_text(page(), encoding="utf-8")
