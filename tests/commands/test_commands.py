"""``imserver key`` and ``imserver app``, as people call them."""

import re
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import run_cli

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run("key", "list")``: what a command said; ``fails=True`` where it must refuse, in one line."""

    def run(*arguments: str, fails: bool = False, **environment: str) -> "subprocess.CompletedProcess[str]":
        given = {"IMSERVER_SERVER_DATA_DIR": str(tmp_path / "data"), **environment}
        done = run_cli(*arguments, seconds=30, **given)
        assert done.returncode == (1 if fails else 0), done
        if fails:
            assert done.stderr.startswith("imserver: ")
            assert done.stderr.count("\n") == 1
        return done

    return run


def rows(output: str) -> list[list[str]]:
    return [re.split(r" {2,}", line) for line in output.splitlines()[1:]]


def test_a_key_is_shown_once_and_kept_as_a_digest(run: Run, tmp_path: Path) -> None:
    made = run("key", "create", "--scope", "push", "--scope", "read", "--note", "商店")
    key = made.stdout.strip()
    assert re.fullmatch(r"imk_[\w-]{43}", key)
    (listed,) = rows(run("key", "list").stdout)
    assert listed[1:3] == ["push,read", "all"]
    assert listed[0] in made.stderr
    assert listed[-1] == "商店"
    for file in (tmp_path / "data").iterdir():
        assert key.encode() not in file.read_bytes()


def test_a_key_is_revoked_by_its_id(run: Run) -> None:
    run("key", "create", "--scope", "admin")
    ((name, *_),) = rows(run("key", "list").stdout)
    assert run("key", "revoke", name).stdout == "revoked\n"
    assert run("key", "revoke", name).stdout == "already revoked\n"
    assert "no key has the id" in run("key", "revoke", "none", fails=True).stderr
    assert len(rows(run("key", "list").stdout)[0]) == 5


def test_to_ask_makes_nothing(run: Run, tmp_path: Path) -> None:
    assert rows(run("key", "list").stdout) == []
    assert len(rows(run("app", "list").stdout)) == 7
    run("app", "show", "101")
    run("key", "revoke", "none", fails=True)
    run("app", "set", "none", "max_rooms=1", fails=True)
    assert not (tmp_path / "data").exists()


def test_keys_of_the_configuration_are_listed_by_their_digest(run: Run) -> None:
    listed = run(
        "key", "list", IMSERVER_API_KEYS="[{key: secret-key-of-the-tests, scopes: [push], apps: [101]}]"
    ).stdout
    assert rows(listed)[0][:3] == ["config:609ca13a", "push", "101"]
    assert "secret-key" not in listed


def test_a_key_is_bound_to_apps_that_exist(run: Run) -> None:
    create = ("key", "create", "--scope", "push")
    assert "this app does not exist" in run(*create, "--app", "105", fails=True).stderr
    run("app", "create", "105")
    run("app", "create", "106", "same_as=105")
    run(*create, "--app", "105", "--app", "106", "--app", "101")
    assert rows(run("key", "list").stdout)[0][2] == "105,101"


def test_an_app_is_made_shown_and_changed(run: Run) -> None:
    run("app", "create", "105", "maxConnections=5", "origins=[example.org]", "webhook.url=https://e.org/hook",
        "webhook.secret=@-", stdin="quite a secret\n")  # fmt: skip
    assert "app 105 already exists" in run("app", "create", "105", fails=True).stderr
    shown = run("app", "show", "105").stdout
    assert "max_connections: 5\n" in shown
    assert "url: https://e.org/hook\n" in shown
    assert "quite a secret" not in shown
    changed = run("app", "set", "105", "max_rooms=7", "webhook.events=[login]", "--unset", "origins").stdout
    assert "max_rooms: 7\n" in changed
    assert "origins: []\n" in changed
    assert "url: https://e.org/hook\n" in changed, "of a setting with several fields one was changed"
    assert ["105", "database", "multi"] in rows(run("app", "list").stdout)


def test_secrets_are_read_from_files_and_not_from_arguments(run: Run, tmp_path: Path) -> None:
    secret, keys = tmp_path / "secret", tmp_path / "keys"
    secret.write_text("12345678901234567890\n")
    keys.write_text(f"[{{kid: first, key: {'k' * 40}}}]")
    hook = "webhook.url=https://e.org/hook"
    run("app", "create", "105", hook, f"webhook.secret=@{secret}", f"jwt=@{keys}")
    assert "kid: first\n" in run("app", "show", "105").stdout
    with sqlite3.connect(tmp_path / "data" / "imserver.db") as connection:
        (stored,) = connection.execute("SELECT settings FROM app").fetchone()
    connection.close()
    assert '"secret":"12345678901234567890"' in stored.replace(": ", ":")
    secret.write_text("replace-me: openssl rand -hex 32")
    said = run("app", "set", "105", f"webhook.secret=@{secret}", fails=True).stderr
    assert "this is a placeholder of the documentation" in said


@pytest.mark.parametrize(
    "setting",
    ["webhook.secret=12345678901234567890", "web-hook.Secret=x", "webhook={secret: x}", "jwt=[{key: x}]"],
)
def test_a_secret_among_the_arguments_is_refused(run: Run, setting: str) -> None:
    said = run("app", "set", "105", setting, fails=True).stderr
    name = setting.partition("=")[0]
    assert f"give {name}=@FILE, or {name}=@- for standard input" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("app", "set", "105", "webhook.secret=@/none"), "/none cannot be read"),
        (("app", "create", "105", "max_rooms"), "expected SETTING=VALUE"),
        (("app", "create", "105", "max_room=1"), "the nearest known key is 'max_rooms'"),
        (("app", "create", "105", "max_rooms=[1"), "not valid YAML"),
        (("app", "create", " 105"), "an app cannot be called ' 105'"),
        (("app", "set", "101", "max_rooms=1"), "stands in the configuration"),
        (("app", "show", "105"), "app 105 does not exist"),
        (("app", "set", "105"), "app 105 does not exist"),
        (("key", "create", "--scope", "push", "--note", "x" * 201), "at most 200 characters"),
        (("key", "create", "--scope", "push", "--data-dir", "/proc/none"), "cannot be used"),
        (("key", "list", "-c", "/none.yaml"), "cannot be read"),
    ],
)
def test_a_mistake_is_one_clear_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    assert said in run(*arguments, fails=True).stderr


def test_a_database_that_is_away_is_one_clear_line(run: Run) -> None:
    away = run("key", "list", fails=True, IMSERVER_STORAGE_URL="postgresql://u:pw@127.0.0.1:1/x").stderr
    assert "cannot be used" in away
    assert "pw" not in away


def test_the_file_is_a_plain_sqlite_database(run: Run, tmp_path: Path) -> None:
    run("app", "create", "105")
    with sqlite3.connect(tmp_path / "data" / "imserver.db") as connection:
        assert connection.execute("SELECT name FROM app").fetchall() == [("105",)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
