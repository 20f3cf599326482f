"""``imserver account``: list, show, lock, unlock, role, password, import; and
settings of apps."""

import json
from pathlib import Path
from time import time

import pytest

from imserver.gateway.node.feature_list import load_config
from imserver.gateway.storage.store import Store
from imserver.people.accounts.contract import Account
from imserver.people.accounts.people import PeopleStore
from imserver.people.accounts.rows import AccountStore
from tests.gateway.auth.test_tenants import Make
from tests.gateway.auth.test_tenants import node as node
from tests.gateway.node.test_plug_ins import install, path_of
from tests.gateway.node.test_plug_ins import run as run_in_process
from tests.support import run_cli

SETTINGS = 'apps: {shop: {account_tokens: required}}\nstorage: {url: "sqlite:///accounts.db"}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "imserver.yaml").write_text(
        SETTINGS.replace("accounts.db", f"{tmp_path}/accounts.db"), encoding="utf-8"
    )
    store = stored(tmp_path)
    rows = AccountStore(store)
    rows.add(
        Account(0, "shop", "13800000001", "Ann", name="ann", email="ann@example.com"),
        "a hash",
    )
    rows.add(Account(0, "shop", "", "Gil", guest=True), "")
    store.close()
    return tmp_path


def stored(folder: Path) -> Store:
    config = load_config(str(folder / "imserver.yaml"))
    store = Store(config.storage, str(folder / "data"), threaded=False)
    store.start()
    return store


def run(folder: Path, *arguments: str, stdin: str = "", status: int = 0) -> str:
    done = run_cli("account", *arguments, folder=folder, stdin=stdin)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stderr if status else done.stdout


def test_accounts_are_listed_and_shown(folder: Path) -> None:
    head, *lines = run(folder, "list", "--app", "shop").splitlines()
    assert head.split() == ["id", "login", "nickname", "role", "locked"]
    assert [line.split() for line in lines] == [
        ["2", "-", "Gil", "member", "no"],
        ["1", "ann", "Ann", "member", "no"],
    ]
    as_json = ("list", "--app", "shop", "--json")
    (row,) = json.loads(run(folder, *as_json, "--text", "example.com"))
    assert row == {
        "user": "1",
        "name": "ann",
        "nickname": "Ann",
        "role": "member",
        "locked": "no",
    }
    assert json.loads(run(folder, *as_json, "--locked")) == []
    shown = dict(
        line.split(maxsplit=1) for line in run(folder, "show", "shop/ann").splitlines()
    )
    assert shown["e-mail"] == "ann@example.com (not confirmed)"
    assert shown["role"] == "member"
    assert shown["locked"] == "no"
    for name in ("ann", "ANN@example.com", "1", "13800000001"):
        assert "Ann" in run(folder, "show", f"shop/{name}")
    assert "has no account bob" in run(folder, "show", "shop/bob", status=1)
    assert "does not exist" in run(folder, "show", "nope/bob", status=1)
    assert "expected APP/LOGIN" in run(folder, "show", "ann", status=2)


def test_roles_are_given_to_people(folder: Path) -> None:
    assert run(folder, "role", "shop/ann", "owner") == "shop/ann is an owner\n"
    assert (
        run(folder, "list", "--app", "shop", "--role", "owner")
        .splitlines()[1]
        .split()[0]
        == "1"
    )
    assert run(folder, "role", "shop/ann", "member") == "shop/ann is a member\n"
    assert "is a guest, which has no role" in run(
        folder, "role", "shop/2", "moderator", status=1
    )


def test_a_lock_is_stored_with_a_ban_and_lifted_with_it(folder: Path) -> None:
    assert (
        run(folder, "lock", "shop/ann", "--reason", "lost phone")
        == "shop/ann is locked\n"
    )
    assert "for good: lost phone" in run(folder, "list", "--app", "shop", "--locked")
    assert bans(folder) == {"1"}
    assert run(folder, "lock", "shop/ann", "--for", "1m").startswith(
        "shop/ann is locked until 2"
    )
    assert run(folder, "unlock", "shop/ann") == "shop/ann is not locked\n"
    assert bans(folder) == set()
    assert "expected one line" in run(
        folder, "lock", "shop/ann", "--reason", "a\nb", status=1
    )


def bans(folder: Path) -> set[str]:
    """The users with a ban, which every node reads."""
    store = stored(folder)
    banned = PeopleStore(store).banned_after("shop", ["1", "2"], int(time()) + 1)
    store.close()
    return banned


def test_a_new_password_is_read_from_standard_input(folder: Path) -> None:
    assert (
        run(folder, "password", "shop/ann", stdin="battery staple\n")
        == "shop/ann has a new password\n"
    )
    store = stored(folder)
    found = AccountStore(store).by_login("shop", ("name", "ann"))
    store.close()
    assert found[1].startswith("$argon2id$")
    assert found[0].version == 1
    assert "at least 8" in run(
        folder, "password", "shop/ann", stdin="short\n", status=1
    )


def test_the_command_looks_at_no_other_distribution(tmp_path: Path) -> None:
    install(tmp_path, "lamp", lamps="raise SystemExit('broken')\n")
    assert run_in_process(path_of(tmp_path), "account", "--help").stderr == ""


# --- import -------------------------------------------------------------------


def test_what_cannot_be_imported_is_reported_row_by_row_and_nothing_is(
    tmp_path: Path,
) -> None:
    table = tmp_path / "users.json"
    good = {"id": 1, "phone": "1", "password": "0" * 32}
    table.write_text(json.dumps([good, {**good, "id": 2, "password": "plain"}]))
    done = run_cli(
        "account", "import", "--data-dir", str(tmp_path / "data"), str(table)
    )
    assert done.returncode == 1
    assert done.stderr.startswith("imserver: nothing was imported:\nrow 2: ")
    assert not (tmp_path / "data" / "imserver.db").exists()
    unknown = run_cli(
        "account",
        "import",
        "--data-dir",
        str(tmp_path / "data"),
        "--app",
        "nope",
        str(table),
    )
    assert unknown.returncode == 1


def test_an_app_is_named_by_whichever_of_its_names(tmp_path: Path) -> None:
    table = tmp_path / "user.json"
    settings = tmp_path / "imserver.yaml"
    table.write_text(json.dumps([{"id": 7, "phone": "1", "password": "0" * 32}]))
    settings.write_text("apps: {gochat: {}, 101: {same_as: gochat}}\n")
    options = ("--config", str(settings), "--data-dir", str(tmp_path / "data"))
    for app, count in (("101", 1), ("gochat", 0)):
        done = run_cli("account", "import", *options, "--app", app, str(table))
        assert (
            done.stdout == f"accounts imported: {count}; already there: {1 - count}\n"
        ), done


def test_accounts_decide_who_sees_their_presence_so_their_apps_are_quiet(
    node: Make,
) -> None:
    one = node()
    assert [name for name, app in one.hub.apps.items() if app.quiet] == ["gochat"]
    one.tenants.register("shop", account_tokens="required")
    assert one.hub.apps["shop"].quiet
    one.tenants.change("shop", {"account_tokens": "ignored"})
    assert not one.hub.apps["shop"].quiet
