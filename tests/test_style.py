"""How densely code is packed, in measures that packing cannot lower.

The ratchet has a limit for each measure (:mod:`tests.test_ratchet`). The counts
are shares of the expression nodes of the syntax tree, so that no format changes
them. A count is a place to look; a reader decides.
``python -m tests.test_style [FOLDER …]`` prints the counts, and the functions
that are packed most.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from .support import ROOT

COMPREHENSIONS: Final = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
FUNCTIONS: Final = ast.FunctionDef | ast.AsyncFunctionDef
SEQUENCES: Final = ast.Tuple | ast.List
KINDS: Final = {
    "several": "Assign one name a line, and pass arguments one by one.",
    "ternary": "Choose by a branch, unless both sides are short.",
    "nested ternary": "Choose by branches.",
    "walrus": "Assign before the branch, unless that costs a second call.",
    "two loops": "Give the inner comprehension a name, or write a loop.",
    "lambda": "Define a function with a name.",
    "number": "Give a limit, a time or a size a constant with its unit.",
}
"""Kind of packing → what to write in its place."""
NOT_WALKED: Final = ("annotation", "returns", "ctx", "op", "ops")
"""Fields of nodes that have no expressions that count."""
MAY_PACK: Final = (
    ast.Assign
    | ast.Starred
    | ast.Call
    | ast.Dict
    | ast.IfExp
    | ast.Subscript
    | ast.BinOp
    | ast.BoolOp
    | ast.NamedExpr
    | COMPREHENSIONS
    | ast.Lambda
    | ast.Constant
)
"""The nodes among which :func:`kinds_of` finds some."""
PLAIN_NUMBERS: Final = (-1, 0, 1, 2)
"""Numbers whose meaning is plain where they stand."""
WIDTH: Final = 88
"""The columns of a line of code, as the formatter wraps it."""
LEAST_LINES: Final = 8
"""A function with fewer lines is not among those that are packed most."""
DIVIDER: Final = re.compile(r"-{8}|={8}")
"""A comment that only divides a module."""


# --- one node -----------------------------------------------------------------


def binds_several(statement: ast.Assign) -> bool:
    """``a, b = x, y`` and ``a = b = x``, but not a swap, a result that is
    unpacked, or a constant."""
    if len(statement.targets) > 1:
        return not isinstance(statement.value, ast.Constant)
    target = statement.targets[0]
    value = statement.value
    if not (isinstance(target, SEQUENCES) and isinstance(value, SEQUENCES)):
        return False
    before = {ast.unparse(element) for element in value.elts}
    return before != {ast.unparse(element) for element in target.elts}


def is_display(value: ast.expr) -> bool:
    """Whether a value is written out, also in a choice: it need not be
    unpacked."""
    if isinstance(value, ast.IfExp):
        return is_display(value.body) or is_display(value.orelse)
    return isinstance(value, ast.Tuple | ast.List | ast.Dict)


def unpacked_displays(node: ast.AST) -> int:
    """How many values are written out only to be unpacked: ``*(a, b)``,
    ``**{…}``."""
    match node:
        case ast.Starred(value, ast.Load()):
            return int(is_display(value))
        case ast.Call():
            return sum(
                each.arg is None and is_display(each.value) for each in node.keywords
            )
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return sum(key is None and is_display(value) for key, value in pairs)
    return 0


def is_choice(node: ast.AST) -> bool:
    """A conditional expression, and what stands for one: ``(b, a)[c]``, ``[…] *
    bool(c)``, ``c and a or b``."""
    match node:
        case ast.IfExp():
            return True
        case ast.Subscript(ast.Tuple() | ast.List(), index):
            return not isinstance(index, ast.Constant | ast.Slice)
        case ast.BinOp(left, ast.Mult(), right):
            return any(_is_text_or_list(side) for side in (left, right)) and any(
                _is_condition(side) for side in (left, right)
            )
        case ast.BoolOp(ast.Or(), [ast.BoolOp(ast.And()), _]):
            return True
    return False


def _is_text_or_list(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | bytes)
    return isinstance(node, ast.Tuple | ast.List | ast.JoinedStr)


def _is_condition(node: ast.expr) -> bool:
    is_bool = isinstance(node, ast.Call) and ast.unparse(node.func) == "bool"
    return is_bool or isinstance(node, ast.Compare)


def has_two_loops(node: ast.AST) -> bool:
    if not isinstance(node, COMPREHENSIONS):
        return False
    inner = (each for each in ast.walk(node) if each is not node)
    return len(node.generators) > 1 or any(
        isinstance(each, COMPREHENSIONS) for each in inner
    )


def is_unnamed_number(node: ast.AST, parents: Sequence[ast.AST]) -> bool:
    """A number in a function that is neither plain nor an HTTP status where one
    is expected."""
    if not isinstance(node, ast.Constant) or type(node.value) not in (int, float):
        return False
    if node.value in PLAIN_NUMBERS:
        return False
    if not any(isinstance(parent, FUNCTIONS) for parent in parents):
        return False
    return not _is_status(node, parents[-1])


def _is_status(number: ast.Constant, parent: ast.AST) -> bool:
    assert isinstance(number.value, int | float)
    if not 200 <= number.value < 600:
        return False
    match parent:
        case ast.Compare():
            return "status" in ast.unparse(parent)
        case ast.keyword(name):
            return name in ("status", "code")
        case ast.Call(args=[first, *_]):
            return first is number
    return False


def kinds_of(node: ast.AST, parents: Sequence[ast.AST]) -> Iterator[str]:
    """The kinds of packing that a node is."""
    if not isinstance(node, MAY_PACK):
        return
    if isinstance(node, ast.Assign) and binds_several(node):
        yield "several"
    for _ in range(unpacked_displays(node)):
        yield "several"
    if is_choice(node):
        yield "ternary"
        if any(is_choice(parent) for parent in parents):
            yield "nested ternary"
    if isinstance(node, ast.NamedExpr):
        yield "walrus"
    if has_two_loops(node):
        yield "two loops"
    if isinstance(node, ast.Lambda):
        yield "lambda"
    if is_unnamed_number(node, parents):
        yield "number"


def walk(tree: ast.AST) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """A node and all below it, in any order, each with its parents; not
    annotations: they explain, and are free."""
    waiting: list[tuple[ast.AST, tuple[ast.AST, ...]]] = [(tree, ())]
    while waiting:
        node, parents = waiting.pop()
        yield node, parents
        parents = (*parents, node)
        for field, value in ast.iter_fields(node):
            if field in NOT_WALKED:
                continue
            children = value if isinstance(value, list) else [value]
            waiting += [
                (child, parents) for child in children if isinstance(child, ast.AST)
            ]


# --- a module, and many -------------------------------------------------------


class Packing(NamedTuple):
    """What a module has of each measure, or a function."""

    kinds: Counter[str]
    nodes: int = 0
    """Expressions."""
    definitions: int = 0
    """Classes and functions."""
    statements: int = 0
    code_lines: int = 0
    """Lines that are neither empty, nor docstring, nor comment."""
    wide_lines: int = 0
    lines: int = 0

    def share(self, kind: str) -> float:
        """How often a kind of packing occurs among 10,000 nodes."""
        return self.kinds[kind] * 10_000 / max(1, self.nodes)


class PackedFunction(NamedTuple):
    weight: float
    """How packed it is: nodes a line, and 20 for each trick a line."""
    location: str


@cache
def packing_of(module: Path) -> tuple[Packing, Sequence[PackedFunction]]:
    """The packing of a module, and its functions."""
    text = module.read_text(encoding="utf-8")
    kinds: Counter[str] = Counter()
    nodes = 0
    definitions = 0
    statements = 0
    functions: Counter[ast.AST] = Counter()
    tricks: Counter[ast.AST] = Counter()
    for node, parents in walk(ast.parse(text)):
        found = [*kinds_of(node, parents)]
        kinds.update(found)
        nodes += isinstance(node, ast.expr)
        definitions += isinstance(node, FUNCTIONS | ast.ClassDef)
        statements += isinstance(node, ast.stmt)
        inner = next((each for each in parents[::-1] if isinstance(each, FUNCTIONS)), 0)
        if isinstance(inner, ast.AST):
            functions[inner] += isinstance(node, ast.expr)
            tricks[inner] += sum(kind != "number" for kind in found)
    lines = text.split("\n")
    packing = Packing(
        kinds,
        nodes,
        definitions,
        statements,
        code_lines=_code_lines(text),
        wide_lines=sum(len(line) > WIDTH for line in lines),
        lines=len(lines),
    )
    return packing, [
        _packed(module, function, functions[function], tricks[function])
        for function in functions
        if isinstance(function, FUNCTIONS)
    ]


def _packed(
    module: Path,
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    nodes: int,
    many: int,
) -> PackedFunction:
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    weight = (nodes + 20 * many) / lines if lines > LEAST_LINES else 0
    where = f"{module.relative_to(ROOT)}:{function.lineno} {function.name}"
    return PackedFunction(
        weight, f"{where}: {nodes} nodes, {many} tricks in {lines} lines"
    )


def _code_lines(text: str) -> int:
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(ast.Constant(str())):
                prose.update(range(node.lineno, (node.end_lineno or 0) + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.line.strip().startswith("#"):
            prose.add(token.start[0])
    lines = enumerate(text.split("\n"), 1)
    return sum(bool(line.strip()) and number not in prose for number, line in lines)


def packing(modules: Iterable[Path]) -> Packing:
    """The packing of several modules together."""
    parts = [packing_of(module)[0] for module in modules]
    kinds: Counter[str] = Counter()
    for part in parts:
        kinds.update(part.kinds)
    sums = (sum(column) for column in zip(*(part[1:] for part in parts), strict=True))
    return Packing(kinds, *sums)


def modules_below(folder: Path) -> list[Path]:
    """The modules that people write."""
    return [
        module
        for module in sorted(folder.rglob("*.py"))
        if not module.stem.endswith("_pb2") and "node_modules" not in module.parts
    ]


def product() -> list[Path]:
    """The modules of the server, its plug-ins and its client."""
    modules = modules_below(ROOT / "imserver") + modules_below(ROOT / "imserver_client")
    for plugin in sorted((ROOT / "plugins").glob("*/imserver_*")):
        modules += modules_below(plugin)
    return modules


def checks() -> list[Path]:
    """The modules of tests and tools."""
    names = ("tests", "bench", "checker", "tools")
    modules = [module for name in names for module in modules_below(ROOT / name)]
    for tests in sorted((ROOT / "plugins").glob("*/tests")):
        modules += modules_below(tests)
    return modules


def worst(modules: Iterable[Path], many: int) -> list[str]:
    """The functions that are packed most, the worst first."""
    functions = [each for module in modules for each in packing_of(module)[1]]
    return [each.location for each in sorted(functions, reverse=True)[:many]]


# --- the measures see what they are for ----------------------------------------


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("a, b = x, y", ["several"]),
        ("[a, b] = [x, y]", ["several"]),
        ("a = b = x()", ["several"]),
        ("f(*(a, b))", ["several"]),
        ("f(**{'a': 1})", ["several"]),
        ("f(**({'a': 1} if a else {}))", ["several", "ternary"]),
        ("{**{'a': 1}, 'b': 2}", ["several"]),
        ("a, b = b, a", []),
        ("a, b = f()", []),
        ("a = b = 0", []),
        ("x if a else y", ["ternary"]),
        ("(x, y)[a]", ["ternary"]),
        ("[x] * (a > b)", ["ternary"]),
        ("'s' * bool(a)", ["ternary"]),
        ("a and x or y", ["ternary"]),
        ("x if a else y if b else z", ["ternary", "ternary", "nested ternary"]),
        ("(x, y)[0]", []),
        ("'-' * 20", []),
        ("if a := f(): pass", ["walrus"]),
        ("[x for y in z for x in y]", ["two loops"]),
        ("[[x for x in y] for y in z]", ["two loops"]),
        ("[x for x in y]", []),
        ("lambda: a", ["lambda"]),
        ("def f(): return g(3600)", ["number"]),
        ("def f(): return g(404)", []),
        ("def f(): return status == 404", []),
        ("def f(): return g(a, 404)", ["number"]),
        ("def f(): return x[1:]", []),
        ("SECONDS = 3600", []),
    ],
)
def test_a_way_to_pack_is_seen(text: str, kinds: list[str]) -> None:
    nodes = walk(ast.parse(text))
    found = [kind for node, parents in nodes for kind in kinds_of(node, parents)]
    assert sorted(found) == sorted(kinds)


def main(folders: Sequence[str]) -> None:
    chosen = [modules_below(ROOT / folder) for folder in folders]
    for title, modules in zip(
        folders or ("product", "tests and tools"),
        chosen or (product(), checks()),
        strict=True,
    ):
        sums = packing(modules)
        shares = "  ".join(f"{kind} {sums.share(kind):.1f}" for kind in KINDS)
        print(
            f"{title}: {sums.nodes} nodes, {sums.nodes / sums.statements:.2f} a statement, "
            f"{sums.nodes / sums.code_lines:.2f} a line; among 10,000: {shares}; "
            f"{sums.wide_lines / sums.lines:.2%} of the lines are wide"
        )
        print("\n".join(f"  {line}" for line in worst(modules, 20)))


if __name__ == "__main__":
    main(sys.argv[1:])
