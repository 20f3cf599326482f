"""The operations of uploads among those of the core."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from imserver.gateway.errors import IssuerUnavailable
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


def test_while_the_issuer_of_a_token_does_not_answer_a_file_may_be_deleted_later(harness: Harness) -> None:
    harness.node.core.logins.session_of = Mock(side_effect=IssuerUnavailable("away"))  # type: ignore[method-assign]
    body = {"id": "x" * 32, "token": "eyJ.ann.101"}
    status, problem = harness.call("POST", "/api/v1/uploads/delete", body)
    assert (status, problem["code"]) == (503, "issuer_unavailable")
