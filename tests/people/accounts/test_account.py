"""``imserver account import``, and settings of apps: what they take and refuse."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.auth.test_tenants import Make
from tests.gateway.auth.test_tenants import node as node
from tests.gateway.auth.test_tenants import (
    test_settings_that_cannot_be_are_refused_in_one_line as check_refusal,
)
from tests.support import run_cli


def test_what_cannot_be_imported_is_reported_row_by_row_and_nothing_is(tmp_path: Path) -> None:
    table = tmp_path / "users.json"
    good = {"id": 1, "phone": "1", "password": "0" * 32}
    table.write_text(json.dumps([good, {**good, "id": 2, "password": "plain"}]))
    done = run_cli("account", "import", "--data-dir", str(tmp_path / "data"), str(table))
    assert done.returncode == 1
    assert done.stderr.startswith("imserver: nothing was imported:\nrow 2: ")
    assert not (tmp_path / "data" / "imserver.db").exists()
    unknown = run_cli("account", "import", "--data-dir", str(tmp_path / "data"), "--app", "nope", str(table))
    assert unknown.returncode == 1


def test_an_app_is_named_by_whichever_of_its_names(tmp_path: Path) -> None:
    table, settings = tmp_path / "user.json", tmp_path / "imserver.yaml"
    table.write_text(json.dumps([{"id": 7, "phone": "1", "password": "0" * 32}]))
    settings.write_text("apps: {gochat: {}, 101: {same_as: gochat}}\n")
    options = ("--config", str(settings), "--data-dir", str(tmp_path / "data"))
    for app, count in (("101", 1), ("gochat", 0)):
        done = run_cli("account", "import", *options, "--app", app, str(table))
        assert done.stdout == f"{count} accounts imported, {1 - count} already existed\n", done


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"identifiers": []}, "app own: accounts: expected at least one of phone, email"),
        ({"reset_url": "im"}, "app own: accounts.reset_url: expected an http:// or https://"),
    ],
)
def test_settings_that_cannot_be_are_refused(node: Make, fields: dict[str, Any], output: str) -> None:
    check_refusal(node, {"accounts": fields}, output)


def test_accounts_decide_who_sees_their_presence_so_their_apps_are_quiet(node: Make) -> None:
    one = node()
    assert [name for name, app in one.hub.apps.items() if app.quiet] == ["gochat"]
    one.tenants.register("shop", account_tokens="required")
    assert one.hub.apps["shop"].quiet
    one.tenants.change("shop", {"account_tokens": "ignored"})
    assert not one.hub.apps["shop"].quiet
