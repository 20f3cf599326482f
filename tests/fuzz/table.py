"""All parsers, by module and name: ``http.heads``."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

from .target import Target, lists_of

MODULES: Final = ("http", "dialects", "cluster", "tokens", "configs", "files")
CORPUS: Final = Path(__file__).parent / "corpus"
SEEDS: Final = lists_of(CORPUS.with_name("seeds.txt"))
PARTS: Final = (
    *(
        f"gateway.{name}"
        for name in (
            "transport",
            "http",
            "protocol",
            "dialects",
            "cluster",
            "auth",
            "config",
        )
    ),
    "gateway.sessions.connection_ids",
    "gateway.channels.members",
    "dialects",
    "offline.copies.archive",
    "operate.exports.importing",
    "operate.safety.wire",
    "media.uploads.pictures",
    "media.uploads.boxes",
    "media.uploads.media",
    "notifications.content",
    "notifications.tokens",
    "messenger.delivery.wire",
    "messenger.log.meta",
    "messenger.log.model",
    "messenger.log.names",
    "messenger.groups.wire",
    "messenger.inbox.wire",
    "people.accounts.tokens",
    "people.accounts.account_import",
    "people.accounts.identifiers",
    "people.bots.wire",
)
"""The parts of ``imserver`` that are instrumented: all that a server imports
would take half a minute."""
PACKAGE: Final = Path(__file__).parents[2] / "imserver"
FILES: Final = [
    file.relative_to(PACKAGE).with_suffix("") for file in PACKAGE.rglob("*.py")
]
ALL: Final = [".".join(file.parts) for file in FILES]
OTHERS: Final = [
    f"imserver.{name}".removesuffix(".__init__")
    for name in ALL
    if not name.startswith(PARTS)
]
"""The modules of ``imserver`` that are not instrumented."""


def targets_of(module: str) -> Iterator[tuple[str, Target]]:
    """The parsers of a module by their whole names."""
    for target in import_module(f"tests.fuzz.{module}").TARGETS:
        yield f"{module}.{target.name}", target


def target_named(name: str) -> Target:
    """One parser. No other module is imported."""
    return dict(targets_of(name.partition(".")[0]))[name]


def seeds_of(name: str, target: Target) -> Iterator[bytes]:
    yield from SEEDS.get(name, ())
    yield from target.seeds()


def inputs_of(name: str, target: Target) -> Iterator[bytes]:
    yield from (file.read_bytes() for file in sorted((CORPUS / name).glob("*")))
    yield from seeds_of(name, target)
