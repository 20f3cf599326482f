"""``imserver key``, ``imserver app`` and ``imserver token``, as people call
them."""

import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.conftest import StartServer
from tests.integration.cmd import cmd_client
from tests.support import run_cli

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run("key", "list")``: what a command said; ``fails=True`` where it must
    refuse, in one line."""

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
                assert (done.stderr.count("\n"), done.stdout) == (lines, "")
        return done

    return run


def rows(output: str) -> list[list[str]]:
    return [re.split(r" {2,}", line) for line in output.splitlines()[1:]]


def test_a_key_is_shown_once_stored_as_a_digest_and_revoked_by_its_id(
    run: Run, tmp_path: Path
) -> None:
    result = run(
        "key", "create", "--scope", "push", "--scope", "read", "--note", "商店"
    )
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


def test_to_ask_makes_nothing_and_configured_keys_are_listed_by_digest(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "imserver.yaml").write_text("{}")
    settings: tuple[str, str] = ("-c", str(tmp_path / "imserver.yaml"))
    lost = run("key", "list", fails=True)
    assert (
        lost.stdout,
        f"{tmp_path / 'data'} has no database of a server" in lost.stderr,
    ) == ("", True)
    empty = run("key", "list", *settings)
    assert (rows(empty.stdout), empty.stderr) == ([], "")
    assert len(rows(run("app", "list", *settings).stdout)) == 8
    run("app", "show", "101", *settings)
    assert (
        "no key has the id"
        in run("key", "revoke", "none", *settings, fails=True).stderr
    )
    run("app", "set", "none", "max_channels=1", fails=True)
    assert not (tmp_path / "data").exists()
    keys = "[{key: secret-key-of-the-tests, scopes: [push], apps: [101]}]"
    listed = run("key", "list", *settings, IMSERVER_API_KEYS=keys).stdout
    assert rows(listed)[0][:3] == ["config:609ca13a", "push", "101"]
    assert "secret-key" not in listed
    away = run(
        "key",
        "list",
        fails=True,
        IMSERVER_STORAGE_URL="postgresql://u:pw@127.0.0.1:1/x",
    ).stderr
    assert "cannot be used" in away
    assert "pw" not in away


def test_a_key_is_rotated_and_shown(run: Run) -> None:
    first = run(
        "key", "create", "push", "--note", "till", "--expires", "90d"
    ).stdout.strip()
    ((name, *_),) = rows(run("key", "list").stdout)
    lines = dict(
        re.split(r" {2,}", line)
        for line in run("key", "show", name).stdout.splitlines()
    )
    assert (lines["state"], lines["note"], lines["last used"]) == (
        "valid",
        "till",
        "never",
    )
    expires, created = (
        datetime.fromisoformat(lines[when]) for when in ("expires", "created")
    )
    assert expires - created == timedelta(90)
    done = run("key", "rotate", name, "--grace", "2h", "--expires", "4w")
    assert done.stdout.startswith("imk_")
    assert done.stdout.strip() != first
    assert f"The key {name} expires at " in done.stderr
    new = re.search(r"new key is (\w+)\.", done.stderr)[1]  # type: ignore[index]
    assert "expires" in run("key", "show", new).stdout
    run("key", "rotate", new, "--grace", "0")
    assert "state      revoked" in run("key", "show", new).stdout
    for command, key, why in (
        ("rotate", new, f"no valid key has the id {new}"),
        ("show", "none", "no key has the id none"),
        ("rotate", "config:1", "is a key of the settings"),
    ):
        assert why in run("key", command, key, fails=True).stderr


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
        "app",
        "set",
        "105",
        "max_channels=7",
        "channels.a.presence=true",
        "--unset",
        "origins",
    ).stdout
    assert "max_channels: 7\n" in changed
    assert "origins: []\n" in changed
    assert "subscribe: anybody\n" in changed, (
        "of a setting with several fields one was changed"
    )
    assert ["105", "database", "multi"] in rows(run("app", "list").stdout)
    dotted = ('channels.chat.v1={"presence": true}', "roomMembers.my.room=[ann]")
    changed = run(
        "app", "set", "105", *dotted, "channels.chat.v1.max_subscribers=10"
    ).stdout
    assert "chat.v1:" in changed
    assert "max_subscribers: 10" in changed
    assert "my.room:" in changed
    left = run(
        "app",
        "set",
        "105",
        "--unset",
        "channels.chat.v1",
        "--unset",
        "room_members.my.room",
    ).stdout
    assert "chat.v1" not in left
    assert "my.room" not in left


def test_secrets_are_read_from_files_and_not_from_arguments(
    run: Run, tmp_path: Path
) -> None:
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


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (("app", "set", "105", "jwt=@/none"), "/none cannot be read"),
        (
            ("app", "set", "105", "jwt=[{Key: x}]"),
            "give jwt=@FILE, or use jwt=@- for standard input",
        ),
        (
            ("app", "set", "105", "jwt=[{key: x}]"),
            "give jwt=@FILE, or use jwt=@- for standard input",
        ),
        (("app", "create", "105", "max_channels"), "expected SETTING=VALUE"),
        (("app", "create", "105", "max_channels=[1"), "not valid YAML"),
        (("app", "create", " 105"), "an app cannot be called ' 105'"),
        (("app", "set", "101", "max_channels=1"), "is defined in the configuration"),
        (("app", "show", "105"), "has no database of a server"),
        (
            ("key", "create", "--scope", "push", "--note", "x" * 201),
            "at most 200 printable",
        ),
        (
            ("key", "create", "--scope", "push", "--note", "a\nb"),
            "--note: expected one line of at most",
        ),
        (("key", "create", "metrics", "--app", "gochat"), "leave --app out"),
        (
            ("status", "--url", "http://x y"),
            "http://x y: expected an http:// or https:// address",
        ),
        (
            ("key", "revoke", "config:3eb1bd43"),
            "is a key of the settings: remove it from api.keys",
        ),
        (
            ("key", "create", "--scope", "push", "--data-dir", "/proc/none"),
            "cannot be used",
        ),
        (("key", "list", "-c", "/none.yaml"), "cannot be read"),
        (
            ("bot", "list", "--app", "105", "--url", "http://x:999999"),
            "expected an http:// or https://",
        ),
        (
            ("outbox", "--database", "postgresql://x", "--url", "http://x:999999"),
            "expected an http:// or",
        ),
        (
            ("outbox", "--database", "foo"),
            "the address of the database: expected postgresql://",
        ),
        (("outbox", "--database", "postgresql://x", "--table", "A b"), "got 'A b'"),
    ],
)
def test_a_mistake_is_one_clear_line(
    run: Run, arguments: tuple[str, ...], output: str
) -> None:
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
def test_a_key_that_no_header_can_have_is_not_shown(
    run: Run, arguments: tuple[str, ...], key: str
) -> None:
    output = run(*arguments, fails=True, IMSERVER_KEY=key).stderr
    assert output == "imserver: the API key: expected one line of printable ASCII\n"


# --- deletion of an app -------------------------------------------------------


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
    assert (
        "nothing was deleted"
        in run("app", "delete", "105", fails=True, lines=None, **look).stderr
    )
    run("app", "show", "105")
    assert (
        run("app", "delete", "105", stdin="105\n", **look).stdout == "app 105 deleted\n"
    )
    assert "app 105 does not exist" in run("app", "show", "105", fails=True).stderr
    assert sorted((row[2], len(row)) for row in rows(run("key", "list").stdout)) == [
        ("105", 5),
        ("106", 4),
    ]
    run("app", "create", "105", "max_channels=3")
    assert "max_channels: 3\n" in run("app", "show", "105").stdout
    run("app", "delete", "105", "--yes", **look)


# --- arguments and the options of the same meaning ----------------------------


def test_settings_before_a_group_reach_its_commands(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "imserver.yaml").write_text(
            f"server: {{data_dir: {tmp_path / name / 'data'}}}"
        )
    done = run_cli(
        "-c", "../b/imserver.yaml", "key", "create", "push", folder=tmp_path / "a"
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / name / "data").exists() for name in ("a", "b")] == [False, True]


@pytest.mark.parametrize(
    "arguments",
    [
        ("key", "create"),
        ("key", "create", "everything"),
        ("key", "create", "push", "--expires", "90"),
        ("key", "rotate", "4f1d", "--grace", "tomorrow"),
        ("token", "create", "101"),
        ("token", "create", "101/"),
        ("token", "create", "101/ann", "--user", "bob"),
        ("token", "secret"),
        ("status", "http://127.0.0.1:1", "--url", "http://127.0.0.1:2"),
    ],
)
def test_what_is_missing_or_contradicts_is_a_wrong_use(
    arguments: tuple[str, ...],
) -> None:
    done = run_cli(*arguments)
    assert (done.returncode, "Usage: " in done.stderr) == (2, True), done


# --- session tokens -----------------------------------------------------------

SECRET = "a secret that is long enough to be one"
OTHER = "another secret, which is as long as that"
CREATE = ("token", "create", "101/ann")


def settings(folder: Path, *rows: dict[str, Any]) -> tuple[str, str]:
    """The option that names a configuration file whose app 101 has these
    keys."""
    file = folder / "settings.yaml"
    file.write_text(
        yaml.safe_dump(
            {"apps": {"101": {"jwt": list(rows)}, "102": {}, "7": {"same_as": "101"}}}
        )
    )
    (folder / "data").mkdir(exist_ok=True)
    return "-c", str(file)


def claims_of(
    done: "subprocess.CompletedProcess[str]", key: Any = SECRET
) -> dict[str, Any]:
    """What a token says that was made with a key."""
    return dict(jwt.decode(done.stdout.strip(), key, ["HS256", "EdDSA"]))


def test_a_token_is_for_its_user_app_and_time_names_its_key_and_is_checked(
    run: Run, tmp_path: Path
) -> None:
    file = settings(tmp_path, {"key": SECRET})
    claims = claims_of(run(*CREATE, *file, "--expires", "90s"))
    assert (claims["sub"], claims["app"]) == ("ann", "101")
    assert abs(claims["exp"] - time.time() - 90) < 30
    token = run("token", "create", *file, "7/ann")
    assert claims_of(token)["app"] == "101"
    header, shown, result = run(
        "token", "check", *file, "--app", "7", token.stdout.strip()
    ).stdout.splitlines()
    assert '"alg"' in header
    assert '"sub":"ann"' in shown
    assert result.startswith("accepted: user 'ann' of app 101")
    file = settings(
        tmp_path, {"key": SECRET, "kid": "old"}, {"key": OTHER, "kid": "new"}
    )
    for kid, secret, options in (
        ("old", SECRET, ()),
        ("old", SECRET, ("--kid", "old")),
        ("new", OTHER, ("--kid", "new")),
    ):
        token = run(*CREATE, *file, *options)
        assert jwt.get_unverified_header(token.stdout.strip())["kid"] == kid
        assert claims_of(token, secret)["sub"] == "ann"


def test_a_private_key_signs_where_the_app_has_the_public_one(
    run: Run, tmp_path: Path
) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    no = serialization.NoEncryption()
    (tmp_path / "private.pem").write_bytes(private.private_bytes(pem, form, no))
    public = private.public_key().public_bytes(
        pem, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    file = settings(tmp_path, {"algorithm": "EdDSA", "key": public.decode()})
    token = run(*CREATE, *file, "--key-file", str(tmp_path / "private.pem"))
    assert claims_of(token, private.public_key())["sub"] == "ann"
    assert "private" in run(*CREATE, *file, fails=True).stderr


def test_a_secret_of_the_servers_own_signs(
    run: Run, tmp_path: Path, start_server: StartServer
) -> None:
    server = start_server(config={"apps": {"101": {"jwt": [{}]}}}, folder=tmp_path)
    file = ("-c", str(server.config_file))
    token, of_channel = (
        run(*CREATE, *file, *more) for more in ((), ("--channel", "orders:17"))
    )
    words = of_channel.stdout.strip()
    with cmd_client(server.ws) as one:
        for more in ({}, {"serviceToken": words}):
            assert (
                one.ask_cmd("login", {"userID": "ann", "appID": 101, **more})[0] == 1003
            )
        one.login("ann", 101, serviceToken=token.stdout.strip())
        for channel, given, code in (
            ("17", "", 1003),
            ("18", words, 1003),
            ("17", words, 200),
        ):
            assert (
                one.ask_cmd(
                    "subscribe", {"channel": f"orders:{channel}", "token": given}
                )[0]
                == code
            )
    shown = run("token", "secret", *file, "--app", "101").stdout.strip()
    assert claims_of(token, shown)["sub"] == "ann"
    secret = tmp_path / "data" / "secret"
    secret.unlink()
    assert "in use by another server" in run(*CREATE, *file, fails=True).stderr
    assert not secret.exists()


KEY = {"key": SECRET}
ISSUER = {"issuer": "http://127.0.0.1:9/", "audience": "shop"}


@pytest.mark.parametrize(
    ("row", "arguments", "why"),
    [
        (KEY, "create 102/ann", "no key for session tokens"),
        (KEY, "create 9/ann", "app 9 does not exist"),
        (KEY, "create 101/ann --kid x", "kid x"),
        (
            ISSUER,
            "create 101/ann",
            "app 101 accepts only tokens of its issuers, and only the issuers can make them",
        ),
        (KEY, f"create 101/{'x' * 20}", "expected 1 to 19 bytes"),
        (KEY, "create 101/" + os.fsdecode(b"\xff\xfe"), "bytes of UTF-8"),
        ({"key": "short"}, "create 101/ann", "32 bytes"),
        (KEY, "create 101/ann --key-file /no/file", "/no/file"),
        (KEY, "secret --app 101", "without a key"),
        (KEY, "check --app 101 nonsense", "refused"),
        (KEY, "check --app 102 nonsense", "no key"),
        ({"key_file": "/no/file"}, "create 101/ann", "/no/file"),
    ],
)
def test_what_cannot_be_made_is_reported_in_one_line(
    run: Run, tmp_path: Path, row: dict[str, Any], arguments: str, why: str
) -> None:
    command, *rest = arguments.split(" ")
    assert (
        why in run("token", command, *settings(tmp_path, row), *rest, fails=True).stderr
    )


@pytest.mark.parametrize(
    ("row", "claims", "secret", "reason"),
    [
        (KEY, {"exp": 1}, SECRET, "the token has expired\n"),
        (KEY, {"app": "102"}, SECRET, "the token is for another app, '102'\n"),
        (KEY, {}, OTHER, "Signature verification failed\n"),
        (
            ISSUER,
            {"iss": ISSUER["issuer"], "aud": "shop"},
            SECRET,
            f"issuer {ISSUER['issuer']}: ",
        ),
    ],
)
def test_check_says_what_is_wrong(
    run: Run,
    tmp_path: Path,
    row: dict[str, str],
    claims: dict[str, Any],
    secret: str,
    reason: str,
) -> None:
    token = jwt.encode(
        {"sub": "ann", "app": "101", "exp": time.time() + 60, **claims}, secret
    )
    done = run(
        "token",
        "check",
        *settings(tmp_path, row),
        "--app",
        "101",
        token,
        fails=True,
        lines=None,
    )
    assert done.stderr.startswith(f"imserver: refused: {reason}")
