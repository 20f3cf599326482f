"""All parsers, by module and name: ``http.heads``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

from .target import Target

MODULES: Final = ("http", "websocket", "dialects", "cluster", "tokens", "configs", "files", "texts")
CORPUS: Final = Path(__file__).parent / "corpus"


def targets_of(module: str) -> Iterator[tuple[str, Target]]:
    """The parsers of a module by their whole names."""
    for target in import_module(f"tests.fuzz.{module}").TARGETS:
        yield f"{module}.{target.name}", target


def target_named(name: str) -> Target:
    """One parser. No other module is imported."""
    return dict(targets_of(name.partition(".")[0]))[name]


def inputs_of(name: str, target: Target) -> Iterator[bytes]:
    """The corpus of a parser, then its seeds."""
    yield from (file.read_bytes() for file in sorted((CORPUS / name).glob("*")))
    yield from target.seeds()
