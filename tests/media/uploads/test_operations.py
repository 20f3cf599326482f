"""The operations of uploads among those of the core."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rows import COMMANDS
from tests.security.node_harness import ALL, Harness, config


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    one = Harness(config(tmp_path))
    yield one
    one.close()


def test_a_batch_deletes_files_but_takes_none(harness: Harness) -> None:
    assert sorted(name for name in COMMANDS if name.startswith("uploads")) == ["uploads/delete"]
    commands = {"commands": [{"uploads/delete": {"id": "x" * 32}}, {"uploads": {}}]}
    first, second = harness.call("POST", "/api/v1/batch", commands, ALL.key)[1]["results"]
    assert (first["status"], first["body"]) == (200, {"deleted": False})
    assert second["status"] == 404
