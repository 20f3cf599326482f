"""``imserver account import``, and settings of apps: what they take and refuse."""

import json
from pathlib import Path

from tests.gateway.auth.test_tenants import Make
from tests.gateway.auth.test_tenants import node as node
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


def test_accounts_decide_who_sees_their_presence_so_their_apps_are_quiet(node: Make) -> None:
    one = node()
    assert [name for name, app in one.hub.apps.items() if app.quiet] == ["gochat"]
    one.tenants.register("shop", account_tokens="required")
    assert one.hub.apps["shop"].quiet
    one.tenants.change("shop", {"account_tokens": "ignored"})
    assert not one.hub.apps["shop"].quiet
