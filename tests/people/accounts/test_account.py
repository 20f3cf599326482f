"""``imserver account import``: GoChat's users log in as they always did."""

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.conftest import StartServer
from tests.integration.gochat import code_and_message, form
from tests.support import run_cli

SALT = "pepper"


def test_users_of_gochat_are_taken_over_with_their_ids_and_passwords(
    tmp_path: Path, start_server: StartServer
) -> None:
    hashed = hashlib.md5(f"secret{SALT}".encode(), usedforsecurity=False).hexdigest()
    table = tmp_path / "user.csv"
    table.write_text(
        "id,phone_number,nickname,password,create_time,update_time\n"
        f"41,13900000041,Ann,{hashed},2023-05-06 07:08:09.123,2023-05-06 07:08:09.123\n"
        f"42,13900000042,鲍勃,{hashed},2023-05-06 07:08:09,\n",
        encoding="utf-8-sig",
    )
    server = start_server(config={"app": {"salt": SALT}})
    folder = str(server.folder / "data")
    dry = run_cli("account", "import", "--dry-run", str(table))
    assert (dry.returncode, dry.stdout) == (0, "2 accounts could be imported\n")
    for count in (2, 0):
        done = run_cli("account", "import", "--data-dir", folder, str(table))
        received = f"{count} accounts imported, {2 - count} already existed\n"
        assert (done.returncode, done.stdout) == (0, received), done
    for number in (41, 42):
        fields = {"phone_number": f"139000000{number}", "password": "secret"}
        answer = form(server.http, "/login", fields).json
        assert (answer["code"], answer["data"]["user_id"]) == (200, str(number))
    wrong = form(server.http, "/login", {"phone_number": "13900000041", "password": hashed})
    assert code_and_message(wrong)[0] == -1
    new = form(server.http, "/register", {"phone_number": "1", "password": "secret"}).json
    assert int(new["data"]["id"]) > 42


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


def test_each_change_of_an_account_is_an_act(tmp_path: Path) -> None:
    table, data = tmp_path / "user.json", ("--data-dir", str(tmp_path / "data"))
    table.write_text(json.dumps([{"id": 7, "phone": "1", "password": "0" * 32}]))
    run_cli("account", "import", *data, str(table))
    with closing(sqlite3.connect(tmp_path / "data" / "imserver.db")) as sql, sql:
        sql.execute("UPDATE account SET factor_since = 1")
    changes = {"role": ("owner",), "lock": (), "unlock": (), "password": (), "remove-factor": ()}
    for command, more in changes.items():
        done = run_cli("account", command, *data, "gochat/7", *more, stdin="correct horse\n")
        assert done.returncode == 0, done
    assert run_cli("audit", "list", *data, "--user", "7", "--app", "gochat").stdout.count(" accounts.") == 5
