"""The ratchet: numbers that may only fall.

``ratchet.txt`` has a limit for each row of :data:`ROWS`. A change that exceeds
a limit fails here. ``python -m tests.test_ratchet`` writes the limits that can
fall, and never a higher one.

The size of code is counted in expression nodes of the syntax tree and in
definitions. Lines are not counted: a thought has as many lines and names as a
reader needs. Sizes have one percent of room, so that a small change does not
touch the file. A commit that raises a limit names a decision record, or says in
its message which behaviour it pays for.
"""

import re
from collections.abc import Callable
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from imserver import FEATURES
from tools.face import exported

from . import test_english
from .support import ROOT
from .test_english import Sentence, stops
from .test_style import KINDS, checks, modules_below, packing, product

TABLE: Final = Path(__file__).with_name("ratchet.txt")
PRIVILEGE: Final = Path(__file__).with_name("privilege.txt")
TESTS: Final = ROOT / "tests"
PACKAGE: Final = ROOT / "imserver"
PLUGINS: Final = sorted(path.parent for path in (ROOT / "plugins").glob("*/imserver_*"))
FACE: Final = PACKAGE / "plugin"
OUTSIDE_THE_CORE: Final = (
    *(
        PACKAGE / name
        for name in (
            "dialects",
            "gateway/dialects",
            "messenger",
            "offline",
            "operate",
            "plugin",
        )
    ),
    *(ROOT.joinpath(*package.split(".")) for package in FEATURES),
)
STREET: Final = (PACKAGE / "__init__.py", *PACKAGE.glob("*/__init__.py"))
HOUSES: Final = sorted(path.parent.name for path in STREET[1:])
QUESTIONS: Final = ("questions", "observer")
"""The modules of ``auth/`` with which the core asks features."""
PRIVATE: Final = re.compile(
    r"(?<!\bself)(?<!\bcls)\.(_[A-Za-z]\w*)"
    r"|^from [\w.]+ import .*\b(_[A-Za-z]\w*)"
    r"|setattr\([^,\n]+, \"(_[A-Za-z]\w*)",
    re.MULTILINE,
)
"""A private name behind a dot (also in the string that names what is patched),
one that is imported, and one that is patched. The names of a test's own object
do not count."""
PATCH: Final = re.compile(r"\bsetattr\b\(|type: ignore\[[a-z, -]*method-assign")
"""What is replaced by ``monkeypatch``, and a method that is replaced by an
assignment."""
PUBLIC: Final = {"_replace", "_asdict", "_fields", "_make", "_exit"}
"""Names of the standard library that only look private."""
MESSENGER: Final = re.compile(
    r"(?<![a-z])(?:[Bb]ot|[Gg]uest|[Aa]ccount|[Nn]otification)s?(?![a-z])"
    r"|(?<![A-Z])(?:BOT|GUEST|ACCOUNT|NOTIFICATION)S?(?![A-Z])"
)


_PRINCIPALS: Final = "kinds of principals, whom the question `accounts` identifies"
_QUESTION: Final = "passes on the answer to the question `accounts`"
_DELETED: Final = "the answer to `apps/delete` has the number of accounts"
_ROWS: Final = "tables of several features have the ids of accounts"
REASONS: Final = {
    "gateway/api/v1/apps.py": _DELETED,
    "gateway/api/v1/push_request.py": "the reasons for which the messenger refuses a push",
    "gateway/auth/authority.py": _PRINCIPALS,
    "gateway/auth/login.py": _PRINCIPALS,
    "gateway/auth/login_tokens.py": _PRINCIPALS,
    "gateway/auth/principal.py": _PRINCIPALS,
    "gateway/auth/rules.py": "`account_tokens` is a login rule",
    "gateway/auth/tenants.py": "`account_tokens` is a login rule",
    "cli.py": "the name of a command of the client",
    "gateway/cluster/features.py": "the features of version 1.0, which do not change",
    "gateway/config/settings.py": "settings of login rules, and rates of messages of some principals",
    "gateway/core/core.py": _QUESTION,
    "gateway/core/services.py": _QUESTION,
    "gateway/errors.py": "a code of several features",
    "gateway/http/field.py": "a type of fields of several features",
    "gateway/http/openapi.py": _PRINCIPALS,
    "gateway/notify.py": "a push says what its notification shows",
    "gateway/storage/app_rows.py": _DELETED,
    "gateway/storage/contract.py": _DELETED,
    "gateway/storage/migrations/__init__.py": "a command that imports a database of GoChat",
    "gateway/storage/store.py": "looks for rows that a start without this database would ignore",
    "gateway/storage/tables.py": _ROWS,
}
"""Module of the core that has a word of :data:`MESSENGER` → why."""


@cache
def sources(folder: Path) -> dict[Path, str]:
    """The modules of a folder, and of its folders, with their texts; not those
    that a compiler writes."""
    modules = (
        module
        for module in sorted(folder.rglob("*.py"))
        if not module.stem.endswith("_pb2")
    )
    return {module: module.read_text(encoding="utf-8") for module in modules}


# --- what is counted ----------------------------------------------------------


def private_names() -> int:
    names = (
        name
        for text in sources(TESTS).values()
        for match in PRIVATE.finditer(text)
        for name in match.groups()
    )
    return sum(name is not None and name not in PUBLIC for name in names)


def patches() -> int:
    return sum(len(PATCH.findall(text)) for text in sources(TESTS).values())


def nodes(folder: Path) -> int:
    return packing(modules_below(folder)).nodes


def definitions(folder: Path) -> int:
    return packing(modules_below(folder)).definitions


def share(modules: Callable[[], list[Path]], kind: str) -> int:
    """How often a kind of packing occurs among 10,000 nodes, rounded up."""
    return ceil(packing(modules()).share(kind))


def nodes_a_statement(modules: Callable[[], list[Path]]) -> int:
    """Nodes in 100 statements."""
    sums = packing(modules())
    return ceil(100 * sums.nodes / sums.statements)


def nodes_a_line(modules: Callable[[], list[Path]]) -> int:
    """Nodes in 100 lines of code."""
    sums = packing(modules())
    return ceil(100 * sums.nodes / sums.code_lines)


def wide_lines(modules: Callable[[], list[Path]]) -> int:
    """Lines with more columns than the formatter allows, among 1,000."""
    sums = packing(modules())
    return ceil(1000 * sums.wide_lines / sums.lines)


def stopping(sentences: Callable[[], list[Sentence]], kind: str) -> int:
    """How many sentences stop their reader in this way, among 10,000."""
    return stops(sentences())[kind]


def limit_of_size(count: int) -> int:
    """The limit of what has this size: one percent above it."""
    return count + count // 100


def messenger_in_the_core() -> list[str]:
    names = []
    for module, text in sources(PACKAGE).items():
        question = module.parent.name == "auth" and module.stem in QUESTIONS
        outside = (
            question
            or not {*module.parents}.isdisjoint(OUTSIDE_THE_CORE)
            or module in STREET
        )
        if not outside and module.stem != "steps":
            names += (
                [module.relative_to(PACKAGE).as_posix()]
                if MESSENGER.search(text)
                else []
            )
    return names


def face_names() -> int:
    return sum(len(exported(text)) for text in sources(FACE).values())


def privilege() -> int:
    return len(PRIVILEGE.read_text(encoding="utf-8").split())


# --- the table ----------------------------------------------------------------


SIZED: Final = {
    **{f"{house}/": PACKAGE / house for house in HOUSES},
    **{f"plugins/{folder.name}/": folder for folder in PLUGINS},
    "imserver_client/": ROOT / "imserver_client",
    "bench/": ROOT / "bench",
    "checker/": ROOT / "checker",
    "tools/": ROOT / "tools",
    "tests/": TESTS,
}
"""What has limits of its size: name → folder. A plug-in is counted with its
tests."""

READ: Final = {"the product": product, "tests and tools": checks}
"""What is measured for how densely it is packed."""
WORST: Final = "`python -m tests.test_style` prints the places."
ONE_THOUGHT: Final = "Write one thought a line, and name what lies between."
PROSE: Final = {
    "documents": test_english.documents,
    "docstrings": test_english.docstrings,
}
"""Whose sentences are looked at."""
PLAIN: Final = (
    "See docs/how-we-write.md; `python -m tests.test_english FILE` prints the places."
)
SAY_WHY: Final = "Look for the mechanism that exists. Else raise the limit, and say in the commit why."


class Row(NamedTuple):
    measure: Callable[[], int]
    remedy: str
    limit_of: Callable[[int], int] = int
    """The limit of what is measured, where that leaves room."""


ROWS: Final = {
    "private names of other objects in tests": Row(
        private_names,
        "Test by a public name, an argument of the constructor, or what a client sees.",
    ),
    "patches in tests": Row(
        patches, "Pass what you patch as an argument or a setting, or share a fixture."
    ),
    **{
        f"{title} of {name}": Row(partial(count, folder), SAY_WHY, limit_of_size)
        for title, count in (
            ("expression nodes", nodes),
            ("classes and functions", definitions),
        )
        for name, folder in SIZED.items()
    },
    **{
        f"{kind} among 10,000 nodes of {name}": Row(
            partial(share, modules, kind), f"{remedy} {WORST}"
        )
        for name, modules in READ.items()
        for kind, remedy in KINDS.items()
    },
    **{
        f"{title} of {name}": Row(partial(count, modules), f"{remedy} {WORST}")
        for name, modules in READ.items()
        for title, count, remedy in (
            ("nodes in 100 statements", nodes_a_statement, ONE_THOUGHT),
            ("nodes in 100 lines", nodes_a_line, ONE_THOUGHT),
            ("wide lines in 1,000", wide_lines, "Wrap texts at 88 columns."),
        )
    },
    **{
        f"{kind}, among 10,000 sentences of {name}": Row(
            partial(stopping, sentences, kind), PLAIN
        )
        for name, sentences in PROSE.items()
        for kind in test_english.KINDS
    },
    "core modules that speak of bots, guests, accounts or notifications": Row(
        lambda: len(messenger_in_the_core()),
        "Move what one feature needs into its folder, or ask by a question of the core.",
    ),
    "names of the face": Row(
        face_names, "Keep what one feature alone needs in that feature."
    ),
    "names that the messenger uses of the core beyond the face": Row(
        privilege, "Use what the face has, or ask by a question of the core."
    ),
}


def limits() -> dict[str, int]:
    written = (
        line.rpartition(": ") for line in TABLE.read_text(encoding="utf-8").splitlines()
    )
    return {name: int(number) for name, _, number in written}


def test_the_table_has_a_number_for_each_row() -> None:
    assert list(limits()) == list(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_no_number_rises(name: str) -> None:
    row = ROWS[name]
    limit = limits()[name]
    count = row.measure()
    assert count <= limit, f"{name}: {count}, at most {limit}. {row.remedy}"


def test_each_module_of_the_core_with_a_word_of_the_messenger_has_a_reason() -> None:
    assert messenger_in_the_core() == sorted(REASONS)


def lowered(name: str, limit: int) -> int:
    row = ROWS[name]
    return min(limit, row.limit_of(row.measure()))


if __name__ == "__main__":
    numbers = {name: lowered(name, limit) for name, limit in limits().items()}
    TABLE.write_text(
        "".join(f"{name}: {number}\n" for name, number in numbers.items()),
        encoding="utf-8",
    )
    print(TABLE.read_text(encoding="utf-8"), end="")
