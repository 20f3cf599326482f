"""``imserver key`` and ``imserver app``, as people call them."""

import re
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support import run_cli

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run("key", "list")``: what a command said; ``fails=True`` where it must refuse, in one line."""

    def run(
        *arguments: str, fails: bool = False, lines: int | None = 1, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        given = {"IMSERVER_SERVER_DATA_DIR": str(tmp_path / "data"), **environment}
        done = run_cli(*arguments, seconds=30, **given)
        assert done.returncode == (1 if fails else 0), done
        if fails:
            assert "Traceback" not in done.stderr
            if lines is not None:
                assert done.stderr.startswith("imserver: ")
                assert done.stderr.count("\n") == lines
        return done

    return run


def rows(output: str) -> list[list[str]]:
    return [re.split(r" {2,}", line) for line in output.splitlines()[1:]]


def test_a_key_is_shown_once_stored_as_a_digest_and_revoked_by_its_id(run: Run, tmp_path: Path) -> None:
    result = run("key", "create", "--scope", "push", "--scope", "read", "--note", "商店")
    key = result.stdout.strip()
    assert re.fullmatch(r"imk_[\w-]{43}", key)
    (listed,) = rows(run("key", "list").stdout)
    assert listed[1:3] == ["push,read", "all"]
    assert listed[0] in result.stderr
    assert listed[-1] == "商店"
    for file in (tmp_path / "data").iterdir():
        assert key.encode() not in file.read_bytes()
    name = listed[0]
    assert run("key", "revoke", name).stdout == "revoked\n"
    assert run("key", "revoke", name).stdout == "already revoked\n"


def test_to_ask_makes_nothing_and_keys_of_the_configuration_are_listed_by_their_digest(
    run: Run, tmp_path: Path
) -> None:
    assert rows(run("key", "list").stdout) == []
    assert len(rows(run("app", "list").stdout)) == 8
    run("app", "show", "101")
    assert "no key has the id" in run("key", "revoke", "none", fails=True).stderr
    run("app", "set", "none", "max_channels=1", fails=True)
    assert not (tmp_path / "data").exists()
    listed = run(
        "key", "list", IMSERVER_API_KEYS="[{key: secret-key-of-the-tests, scopes: [push], apps: [101]}]"
    ).stdout
    assert rows(listed)[0][:3] == ["config:609ca13a", "push", "101"]
    assert "secret-key" not in listed
    away = run("key", "list", fails=True, IMSERVER_STORAGE_URL="postgresql://u:pw@127.0.0.1:1/x").stderr
    assert "cannot be used" in away
    assert "pw" not in away


def test_a_key_is_rotated_and_shown(run: Run) -> None:
    first = run("key", "create", "push", "--note", "till", "--expires", "90d").stdout.strip()
    ((name, *_),) = rows(run("key", "list").stdout)
    lines = dict(re.split(r" {2,}", line) for line in run("key", "show", name).stdout.splitlines())
    assert lines["state"] == "valid"
    assert lines["note"] == "till"
    assert lines["last used"] == "never"
    assert datetime.fromisoformat(lines["expires"]) - datetime.fromisoformat(lines["created"]) == timedelta(
        90
    )
    done = run("key", "rotate", name, "--grace", "2h", "--expires", "4w")
    assert done.stdout.startswith("imk_")
    assert done.stdout.strip() != first
    assert f"The key {name} ends at " in done.stderr
    new = re.search(r"new key is (\w+)\.", done.stderr)[1]  # type: ignore[index]
    assert "expires" in run("key", "show", new).stdout
    run("key", "rotate", new, "--grace", "0")
    assert "state      revoked" in run("key", "show", new).stdout
    assert f"no valid key has the id {new}" in run("key", "rotate", new, fails=True).stderr
    assert "no key has the id none" in run("key", "show", "none", fails=True).stderr
    assert "is a key of the settings" in run("key", "rotate", "config:1", fails=True).stderr


def test_a_key_is_bound_to_apps_that_exist(run: Run) -> None:
    create = ("key", "create", "--scope", "push")
    assert "this app does not exist" in run(*create, "--app", "105", fails=True).stderr
    run("app", "create", "105")
    run("app", "create", "106", "same_as=105")
    run(*create, "--app", "105", "--app", "106", "--app", "101")
    assert rows(run("key", "list").stdout)[0][2] == "105,101"


def test_an_app_is_made_shown_and_changed(run: Run) -> None:
    run("app", "create", "105", "maxConnections=5", "origins=[example.org]", "channels.a.subscribe=anybody",
        "jwt=@-", stdin=f"[{{key: quite a secret {32 * 'x'}}}]\n")  # fmt: skip
    assert "app 105 already exists" in run("app", "create", "105", fails=True).stderr
    shown = run("app", "show", "105").stdout
    assert "max_connections: 5\n" in shown
    assert "subscribe: anybody\n" in shown
    assert "quite a secret" not in shown
    changed = run(
        "app", "set", "105", "max_channels=7", "channels.a.presence=true", "--unset", "origins"
    ).stdout
    assert "max_channels: 7\n" in changed
    assert "origins: []\n" in changed
    assert "subscribe: anybody\n" in changed, "of a setting with several fields one was changed"
    assert ["105", "database", "multi"] in rows(run("app", "list").stdout)
    dotted = ('channels.chat.v1={"presence": true}', "roomMembers.my.room=[ann]")
    changed = run("app", "set", "105", *dotted, "channels.chat.v1.max_subscribers=10").stdout
    assert "chat.v1:" in changed
    assert "max_subscribers: 10" in changed
    assert "my.room:" in changed
    left = run("app", "set", "105", "--unset", "channels.chat.v1", "--unset", "room_members.my.room").stdout
    assert "chat.v1" not in left
    assert "my.room" not in left


def test_secrets_are_read_from_files_and_not_from_arguments(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"[{{kid: first, key: {'k' * 40}}}]")
    run("app", "create", "105", f"jwt=@{keys}")
    assert "kid: first\n" in run("app", "show", "105").stdout
    with sqlite3.connect(tmp_path / "data" / "imserver.db") as connection:
        (stored,) = connection.execute("SELECT settings FROM app").fetchone()
    connection.close()
    assert f'"key":"{"k" * 40}"' in stored.replace(": ", ":")
    keys.write_text("[{key: 'replace-me: openssl rand -hex 32'}]")
    output = run("app", "set", "105", f"jwt=@{keys}", fails=True).stderr
    assert "secret is a placeholder of the documentation" in output


@pytest.mark.parametrize("setting", ["jwt=[{Key: x}]", "jwt=[{key: x}]"])
def test_a_secret_among_the_arguments_is_refused(run: Run, setting: str) -> None:
    output = run("app", "set", "105", setting, fails=True).stderr
    name = setting.partition("=")[0]
    assert f"give {name}=@FILE, or {name}=@- for standard input" in output


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (("app", "set", "105", "jwt=@/none"), "/none cannot be read"),
        (("app", "create", "105", "max_channels"), "expected SETTING=VALUE"),
        (("app", "create", "105", "max_channels=[1"), "not valid YAML"),
        (("app", "create", " 105"), "an app cannot be called ' 105'"),
        (("app", "set", "101", "max_channels=1"), "is defined in the configuration"),
        (("app", "show", "105"), "app 105 does not exist"),
        (("key", "create", "--scope", "push", "--note", "x" * 201), "at most 200 characters"),
        (("key", "create", "--scope", "push", "--note", "a\nb"), "--note: expected one line of printable"),
        (("status", "--url", "http://x y"), "http://x y: expected an http:// or https:// address"),
        (("key", "revoke", "config:3eb1bd43"), "is a key of the settings: remove it from api.keys"),
        (("key", "create", "--scope", "push", "--data-dir", "/proc/none"), "cannot be used"),
        (("key", "list", "-c", "/none.yaml"), "cannot be read"),
        (("bot", "list", "--app", "105", "--url", "http://x:999999"), "expected an http:// or https://"),
        (("outbox", "--database", "postgresql://x", "--url", "http://x:999999"), "expected an http:// or"),
        (("outbox", "--database", "foo"), "the address of the database: expected postgresql://"),
        (("outbox", "--database", "postgresql://x", "--table", "A b"), "got 'A b'"),
    ],
)
def test_a_mistake_is_one_clear_line(run: Run, arguments: tuple[str, ...], output: str) -> None:
    assert output in run(*arguments, fails=True).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("bot", "list", "--app", "105", "--url", "http://127.0.0.1:1"),
        ("outbox", "--database", "postgresql://127.0.0.1:1/x"),
    ],
)
@pytest.mark.parametrize("key", ["a secret\nin two lines", "ein schlüssel"])
def test_a_key_that_no_header_can_have_is_not_shown(run: Run, arguments: tuple[str, ...], key: str) -> None:
    output = run(*arguments, fails=True, IMSERVER_KEY=key).stderr
    assert output == "imserver: the API key: expected one line of printable ASCII\n"


# --- deletion of an app -------------------------------------------------------------------------------------


def test_an_app_is_deleted_after_a_confirmation(run: Run) -> None:
    look = {"IMSERVER_STORAGE_LOOK_SECONDS": "0.1"}
    run("app", "create", "105")
    run("app", "create", "106")
    run("key", "create", "push", "--app", "105")
    run("key", "create", "push", "--app", "105", "--app", "106")
    shown = "1 keys, 0 accounts, 0 messages, 0 uploads, 0 groups"
    refused = run("app", "delete", "105", stdin="106\n", fails=True, lines=None, **look)
    assert shown in refused.stderr
    assert "nothing was deleted" in refused.stderr
    assert "nothing was deleted" in run("app", "delete", "105", fails=True, lines=None, **look).stderr
    run("app", "show", "105")
    assert run("app", "delete", "105", stdin="105\n", **look).stdout == "app 105 deleted\n"
    assert "app 105 does not exist" in run("app", "show", "105", fails=True).stderr
    assert sorted((row[2], len(row)) for row in rows(run("key", "list").stdout)) == [("105", 5), ("106", 4)]
    run("app", "create", "105", "max_channels=3")
    assert "max_channels: 3\n" in run("app", "show", "105").stdout
    run("app", "delete", "105", "--yes", **look)


# --- arguments and the options of the same meaning ----------------------------------------------------------


def test_settings_before_a_group_reach_its_commands(tmp_path: Path) -> None:
    for name in ("a", "b"):
        file = tmp_path / name / "imserver.yaml"
        file.parent.mkdir()
        file.write_text(f"server: {{data_dir: {tmp_path / name / 'data'}}}")
    done = run_cli("-c", "../b/imserver.yaml", "key", "create", "push", folder=tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "data").exists()
    assert not (tmp_path / "a" / "data").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("key", "create"),
        ("key", "create", "everything"),
        ("key", "create", "push", "--expires", "90"),
        ("key", "rotate", "4f1d", "--grace", "tomorrow"),
        ("token", "create", "--app", "101"),
        ("token", "create", "--app", "101", "ann", "--user", "bob"),
        ("token", "secret"),
        ("status", "http://127.0.0.1:1", "--url", "http://127.0.0.1:2"),
    ],
)
def test_what_is_missing_or_contradicts_is_a_wrong_use(arguments: tuple[str, ...]) -> None:
    done = run_cli(*arguments)
    assert (done.returncode, "Usage: " in done.stderr) == (2, True), done
