"""Deletion of an app: nothing of it is left, and a new app of its name loses
and gets nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imserver.gateway.auth.tenants import BadTenant
from imserver.gateway.model import Event
from imserver.gateway.storage.store import Store
from imserver.media.uploads.contract import Upload
from imserver.media.uploads.uploads import Uploads, UploadStorage
from imserver.operate.erasure import deletion
from imserver.operate.erasure.deletion import AppDeletion
from imserver.people.accounts.contract import Account
from imserver.people.accounts.parts import accounts_of

from .node_harness import ALL, Harness, config

SHOP = {"open": True}


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    one = Harness(config(tmp_path))
    one.node.core.tenants.register("shop", **SHOP)
    yield one
    one.close()


class Waits(list[float]):
    """The seconds for which a deletion waited. ``meanwhile``: what happens
    then."""

    meanwhile: Callable[[], object] = list

    def wait(self, seconds: float) -> None:
        self.append(seconds)
        self.meanwhile()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    waits = Waits()
    monkeypatch.setattr(deletion, "sleep", waits.wait)
    return waits


def delete(harness: Harness) -> None:
    parts = harness.node.core
    parts.service(AppDeletion).delete("shop", parts.erasures)


def upload(harness: Harness) -> Any:
    sent = harness.web.post(
        "/api/v1/uploads?app=shop&user=ann",
        data=b"text",
        headers={"Authorization": f"Bearer {ALL.key}"},
    )
    return sent.status_code, sent.get_json()


def test_an_app_that_is_created_anew_meanwhile_loses_nothing(
    harness: Harness, waits: Waits
) -> None:
    parts = harness.node.core

    def create_anew() -> None:
        assert parts.tenants.register("shop", **SHOP)
        accounts_of(parts).rows.add(Account(0, "shop", "1"), "no hash")
        assert upload(harness)[0] == 201

    waits.meanwhile = create_anew
    delete(harness)
    assert not parts.store.is_deleted("shop")
    found = parts.store.contents("shop")
    assert (found.accounts, found.uploads) == (1, 1)


def test_an_app_that_is_created_anew_does_not_get_the_files_of_the_old_one(
    harness: Harness, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = harness.node.core
    assert upload(harness)[0] == 201

    def fail(_storage: UploadStorage, _row: Upload) -> None:
        raise OSError("the bucket is away")

    with monkeypatch.context() as patched:
        patched.setattr(UploadStorage, "delete", fail)
        with pytest.raises(OSError, match="bucket"):
            delete(harness)
    with pytest.raises(BadTenant, match="some of its files are left"):
        parts.tenants.register("shop", **SHOP)
    delete(harness)
    assert parts.tenants.register("shop", **SHOP)
    assert parts.store.contents("shop").uploads == 0


def test_a_node_that_looks_too_late_still_ends_the_sessions_of_the_old_app(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = harness.node.core
    deleted: list[str] = []
    parts.tenants.report_to(deleted.append)
    acks: Any = parts.features["action"].ended[0].__self__  # type: ignore[attr-defined]
    acks.await_user("shop", "ann")
    assert parts.pending.add("shop", "ann", Event("msg", "", "secret"), 600)
    other = Store(parts.config.storage, parts.config.server.data_dir, threaded=False)
    other.start()
    monkeypatch.setattr("imserver.gateway.storage.store.time", lambda: 2_000_000_000.0)
    assert other.delete_app("shop")
    assert other.add_app("shop", SHOP)
    other.close()
    parts.store.refresh()
    assert deleted == ["shop"]
    acks.reach("shop", "ann", Event("msg", "", "of the new app"))
    assert parts.pending.count == 0
    assert parts.tenants.get("shop") is not None
    assert "shop" in parts.hub.apps


def test_a_change_of_an_app_ends_no_session(harness: Harness) -> None:
    deleted: list[str] = []
    harness.node.core.tenants.report_to(deleted.append)
    harness.node.core.tenants.change("shop", {"max_channels": 3})
    assert deleted == []


def test_a_file_whose_app_is_deleted_during_the_upload_is_not_stored(
    harness: Harness, waits: Waits
) -> None:
    parts = harness.node.core
    uploads = parts.service(Uploads)
    receive = uploads.receive

    def receive_late(*arguments: Any) -> Any:
        delete(harness)
        return receive(*arguments)

    uploads.receive = receive_late  # type: ignore[assignment, method-assign]
    status, answer = upload(harness)
    assert (status, answer["code"]) == (404, "unknown_app")
    assert parts.store.contents("shop").uploads == 0


def test_rows_are_deleted_after_the_last_review_of_a_message(
    harness: Harness, waits: Waits
) -> None:
    webhook = {
        "secret": "x" * 20,
        "review_url": "http://127.0.0.1:9/",
        "review_seconds": 20.0,
    }
    harness.node.core.tenants.change("shop", {"webhook": webhook})
    delete(harness)
    assert waits == [60.0 * 1.5 + 20.0]


def test_an_app_is_deleted_with_the_accounts_that_it_had(tmp_path: Path) -> None:
    first = Harness(config(tmp_path))
    first.node.core.tenants.register("shop", account_tokens="required")
    people = accounts_of(first.node.core)
    people.accounts.token(people.rows.add(Account(0, "shop", "1"), "no hash"), "phone")
    first.close()
    node = Harness(config(tmp_path, features=()))
    parts = node.node.core
    assert parts.logins.wants_tokens("shop"), (
        "nobody gets in who has not shown what the app demands"
    )
    assert parts.store.contents("shop").accounts == 1
    AppDeletion(parts.store, parts.tenants, 0.01).delete("shop", parts.erasures)
    for table in ("account", "account_device"):
        assert parts.store.rows(f"SELECT count(*) FROM {table}", ()) == [(0,)]
    node.close()
