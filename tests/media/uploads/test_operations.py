"""The operations of uploads among those of the core."""

from pathlib import Path
from unittest.mock import Mock

from imserver.gateway.errors import IssuerUnavailable
from tests.rows import COMMANDS
from tests.security.node_harness import ALL, Harness, config


def test_a_batch_deletes_files_but_takes_none(tmp_path: Path) -> None:
    assert sorted(name for name in COMMANDS if name.startswith("uploads")) == ["uploads/delete"]
    harness = Harness(config(tmp_path))
    try:
        sent = harness.web.post(
            "/api/v1/batch",
            json={"commands": [{"uploads/delete": {"id": "x" * 32}}, {"uploads": {}}]},
            headers={"Authorization": f"Bearer {ALL.key}"},
        )
    finally:
        harness.close()
    first, second = sent.get_json()["results"]
    assert (first["status"], first["body"]) == (200, {"deleted": False})
    assert second["status"] == 404


def test_while_the_issuer_of_a_token_does_not_answer_a_file_may_be_deleted_later(tmp_path: Path) -> None:
    harness = Harness(config(tmp_path))
    try:
        harness.node.core.logins.session_of = Mock(side_effect=IssuerUnavailable("away"))  # type: ignore[method-assign]
        body = {"id": "x" * 32, "token": "eyJ.ann.101"}
        status, problem = harness.call("POST", "/api/v1/uploads/delete", body)
    finally:
        harness.close()
    assert (status, problem["code"]) == (503, "issuer_unavailable")
