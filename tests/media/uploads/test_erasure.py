"""Erasure of a user's files, on a node with and without uploads."""

from pathlib import Path

import pytest

from imserver.media.uploads import Uploads
from tests.security.node_harness import ALL, Harness, config


@pytest.mark.parametrize("features", [None, ("messages",)])
def test_the_rows_of_an_erased_user_are_erased(
    tmp_path: Path, features: tuple[str, ...] | None, caplog: pytest.LogCaptureFixture
) -> None:
    harness = Harness(config(tmp_path))
    commands = {"commands": [{"uploads/delete": {"id": "x" * 32}}, {"uploads": {}}]}
    first, second = harness.call("POST", "/api/v1/batch", commands, ALL.key)[1]["results"]
    assert (first["status"], first["body"]) == (200, {"deleted": False})
    assert second["status"] == 404, "a batch takes no files"
    sent = harness.web.post(
        "/api/v1/uploads?app=204&user=ann", data=b"text", headers={"Authorization": f"Bearer {ALL.key}"}
    )
    assert sent.status_code == 201, sent.data
    folder = harness.node.core.service(Uploads).incoming().parent
    harness.close()
    harness = Harness(config(tmp_path, features=features))
    parts = harness.node.core
    assert parts.store.contents("204").uploads == 1
    parts.erase_user("204", "ann")
    assert parts.store.contents("204").uploads == 0
    harness.close()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == (0 if features is None else 1), "bytes are the feature's"
    assert ("erased the rows of 1 files" in caplog.text) == (features is not None)
