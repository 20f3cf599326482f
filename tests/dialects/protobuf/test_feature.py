"""What the dialect adds to a node beside its frames."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

from imserver.dialects.protobuf.wire import NAME
from tests.conftest import StartServer
from tests.integration.gochat import code_and_message, form
from tests.rows import sections
from tests.security.node_harness import Harness, config
from tests.support import run_cli

SALT = "pepper"


def test_the_sweep_closes_silent_sessions_and_those_whose_token_has_expired(
    tmp_path: Path,
) -> None:
    harness = Harness(
        config(
            tmp_path, of_features=sections(websocket={"protobuf_silent_seconds": 7.0})
        )
    )
    check = harness.node.core.network.sweep.checks[NAME]
    assert check(SimpleNamespace(dialect_state=None)) == 7.0  # type: ignore[arg-type]
    harness.close()


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
    assert (dry.returncode, dry.stdout) == (0, "accounts that could be imported: 2\n")
    for count in (2, 0):
        done = run_cli("account", "import", "--data-dir", folder, str(table))
        received = f"accounts imported: {count}; already there: {2 - count}\n"
        assert (done.returncode, done.stdout) == (0, received), done
    for number in (41, 42):
        fields = {"phone_number": f"139000000{number}", "password": "secret"}
        answer = form(server.http, "/login", fields).json
        assert (answer["code"], answer["data"]["user_id"]) == (200, str(number))
    with closing(sqlite3.connect(f"{folder}/imserver.db")) as database:
        hashes = database.execute("SELECT password FROM account").fetchall()
    assert all(password.startswith("$argon2id$") for (password,) in hashes), (
        "a login replaces the hash"
    )
    wrong = form(
        server.http, "/login", {"phone_number": "13900000041", "password": hashed}
    )
    assert code_and_message(wrong)[0] == -1
    new = form(
        server.http, "/register", {"phone_number": "1", "password": "secret"}
    ).json
    assert int(new["data"]["id"]) > 42
