"""The operations of uploads among those of the core."""

from pathlib import Path

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
