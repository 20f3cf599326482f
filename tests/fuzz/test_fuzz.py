"""Each parser with its corpus, and with what a seed makes of that; in ``make
test-all`` also guided by coverage."""

import logging
import os
import random
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.support import ROOT

from .table import ALL, CORPUS, MODULES, PARTS, SEEDS, inputs_of, targets_of
from .target import Target, grown, mutated, run

TARGETS = {name: target for module in MODULES for name, target in targets_of(module)}
MEMORY_BYTES = 32 << 20

every_parser = pytest.mark.parametrize("name", TARGETS)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Parsers log what they refuse, and libraries warn of it."""
    logging.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def inputs(name: str) -> tuple[Target, list[bytes], random.Random]:
    """A parser, its corpus, and chance that is the same each time."""
    target = TARGETS[name]
    return target, [*inputs_of(name, target)], random.Random(name)


def give(name: str, target: Target, data: bytes) -> None:
    try:
        run(target, data)
    except Exception as error:
        error.add_note(f"the input of {name}: {data!r}")
        raise


@every_parser
def test_no_input_breaks_a_parser(name: str) -> None:
    """The corpus, which has an input for each defect that was mended, and
    mutations of it."""
    target, known, chance = inputs(name)
    for data in known:
        give(name, target, data)
    for _ in range(200):
        give(name, target, mutated(chance, chance.choice(known), known))


@every_parser
def test_no_input_takes_long(name: str) -> None:
    target, known, chance = inputs(name)
    for _ in range(30):
        give(name, target, grown(chance, chance.choice(known), target.longest))


@every_parser
def test_no_input_takes_much_memory(name: str) -> None:
    target, known, _ = inputs(name)
    target.check(known[0])  # what it imports is not of the input
    tracemalloc.start()
    try:
        for data in known[:20]:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            target.check(data)
            assert tracemalloc.get_traced_memory()[1] - before < MEMORY_BYTES, data
    finally:
        tracemalloc.stop()


def test_each_folder_of_the_corpus_is_that_of_a_parser_and_what_is_instrumented_exists() -> (
    None
):
    assert {*(folder.name for folder in CORPUS.iterdir()), *SEEDS} <= TARGETS.keys()
    assert [
        part for part in PARTS if not any(name.startswith(part) for name in ALL)
    ] == []


@pytest.mark.full("load")
@pytest.mark.skipif(
    find_spec("atheris") is None and "CI" not in os.environ,
    reason="atheris is not installed",
)
@every_parser
def test_a_guided_run_finds_nothing(name: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "2", name]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=280
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
