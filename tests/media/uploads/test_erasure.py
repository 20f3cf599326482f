"""Erasure of a user's files, on a node with and without uploads."""

from pathlib import Path

import pytest

from imserver.gateway.auth.tenants import BadTenant
from imserver.media.uploads import Uploads, upload_rows
from imserver.media.uploads.contract import Upload
from tests.gateway.auth.test_tenants import Make
from tests.gateway.auth.test_tenants import node as node
from tests.security.node_harness import ALL, Harness, config


def upload(harness: Harness) -> None:
    """Upload a file of ann in 204."""
    sent = harness.web.post(
        "/api/v1/uploads?app=204&user=ann", data=b"text", headers={"Authorization": f"Bearer {ALL.key}"}
    )
    assert sent.status_code == 201, sent.data


@pytest.mark.parametrize("features", [None, ("messages",)])
def test_the_rows_of_an_erased_user_are_erased(
    tmp_path: Path, features: tuple[str, ...] | None, caplog: pytest.LogCaptureFixture
) -> None:
    harness = Harness(config(tmp_path))
    upload(harness)
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


def test_a_deleted_app_is_not_created_anew_while_files_of_it_are_left(node: Make) -> None:
    one = node()
    assert one.tenants.register("shop")
    row = Upload("i", "shop", "ann", "file", "text/plain", "a.txt", 5, "0", 1)
    one.store.write(lambda sql: upload_rows.add(sql, row, 0))
    one.tenants.delete("shop")
    with pytest.raises(BadTenant, match="some of its files are left"):
        one.tenants.register("shop")
    one.store.write(lambda sql: upload_rows.remove(sql, "i"))
    assert one.tenants.register("shop")
