"""`imserver token`: what it makes lets a user in; what it cannot make it says in one line."""

import os
import time
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

SECRET = "a secret that is long enough to be one"
OTHER = "another secret, which is as long as that"


def settings(folder: Path, *rows: dict[str, Any], **more: Any) -> str:
    """A configuration file whose app 101 has these keys."""
    file = folder / "settings.yaml"
    apps = {"101": {"jwt": list(rows)}, "102": {}, "7": {"same_as": "101"}}
    (folder / "data").mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump({"apps": apps, "server": {"data_dir": str(folder / "data")}, **more}))
    return str(file)


def create(file: str, *arguments: str, app: str = "101") -> str:
    done = run_cli("token", "create", "-c", file, "--app", app, "--user", "ann", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def failure(*arguments: str) -> str:
    """The one line that a command says that fails."""
    done = run_cli("token", *arguments)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.startswith("imserver: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_token_is_for_its_user_app_and_time_names_its_key_and_is_checked(tmp_path: Path) -> None:
    file = settings(tmp_path, {"key": SECRET})
    claims = jwt.decode(create(file, "--seconds", "90"), SECRET, ["HS256"])
    assert (claims["sub"], claims["app"]) == ("ann", "101")
    assert abs(claims["exp"] - time.time() - 90) < 30
    other = run_cli("token", "create", "-c", file, "--app", "7", "--user", "ann")
    assert jwt.decode(other.stdout.strip(), SECRET, ["HS256"])["app"] == "101"
    file = settings(tmp_path, {"key": SECRET, "kid": "old"}, {"key": OTHER, "kid": "new"})
    for kid, secret in (("old", SECRET), ("new", OTHER)):
        written = create(file, "--kid", kid)
        assert jwt.get_unverified_header(written)["kid"] == kid
        assert jwt.decode(written, secret, ["HS256"])["sub"] == "ann"
    assert jwt.get_unverified_header(create(file))["kid"] == "old"
    file = settings(tmp_path, {"key": SECRET})
    done = run_cli("token", "check", "-c", file, "--app", "7", create(file))
    assert done.returncode == 0, done.stderr
    header, claims, result = done.stdout.splitlines()
    assert '"alg"' in header
    assert '"sub":"ann"' in claims
    assert result.startswith("accepted: user 'ann' of app 101")
    issuer = "http://127.0.0.1:9/"
    file = settings(tmp_path, {"issuer": issuer, "audience": "shop"})
    token = jwt.encode({"iss": issuer, "aud": "shop", "sub": "ann", "exp": time.time() + 60}, SECRET)
    done = run_cli("token", "check", "-c", file, "--app", "101", token)
    assert done.returncode == 1
    assert f"refused: issuer {issuer}: " in done.stderr


def test_a_private_key_signs_where_the_app_has_the_public_one(tmp_path: Path) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    file_of_key = tmp_path / "private.pem"
    file_of_key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    file = settings(tmp_path, {"algorithm": "EdDSA", "key": public.decode()})
    written = create(file, "--key-file", str(file_of_key))
    assert jwt.decode(written, private.public_key(), ["EdDSA"])["sub"] == "ann"
    assert "private" in failure("create", "-c", file, "--app", "101", "--user", "ann")


def test_a_secret_of_the_servers_own_signs(tmp_path: Path, start_server: StartServer) -> None:
    server = start_server(config={"apps": {"101": {"jwt": [{}]}}}, folder=tmp_path / "server")
    written = create(str(server.config_file))
    with cmd_client(server.ws) as one:
        assert one.ask_cmd("login", {"userID": "ann", "appID": 101})[0] == 1003
        of_channel = create(str(server.config_file), "--channel", "orders:17")
        assert one.ask_cmd("login", {"userID": "ann", "appID": 101, "serviceToken": of_channel})[0] == 1003
        one.login("ann", 101, serviceToken=written)
        for channel, token, code in (("17", "", 1003), ("18", of_channel, 1003), ("17", of_channel, 200)):
            assert one.ask_cmd("subscribe", {"channel": f"orders:{channel}", "token": token})[0] == code
    shown = run_cli("token", "secret", "-c", str(server.config_file), "--app", "101").stdout.strip()
    assert jwt.decode(written, shown, ["HS256"])["sub"] == "ann"
    secret = tmp_path / "server" / "data" / "secret"
    secret.unlink()
    why = "in use by another server"
    assert why in failure("create", "-c", str(server.config_file), "--app", "101", "--user", "ann")
    assert not secret.exists()


@pytest.mark.parametrize(
    ("row", "arguments", "why"),
    [
        ({"key": SECRET}, ["create", "--app", "102", "--user", "ann"], "no key for session tokens"),
        ({"key": SECRET}, ["create", "--app", "9", "--user", "ann"], "app 9 does not exist"),
        ({"key": SECRET}, ["create", "--app", "101", "--user", "ann", "--kid", "x"], "kid x"),
        (
            {"issuer": "https://e.org", "audience": "im"},
            ["create", "--app", "101", "--user", "ann"],
            "app 101 takes tokens of its issuers only; they make them",
        ),
        ({"key": SECRET}, ["create", "--app", "101", ""], "expected 1 to 19 bytes"),
        ({"key": SECRET}, ["create", "--app", "101", "x" * 20], "expected 1 to 19 bytes"),
        ({"key": SECRET}, ["create", "--app", "101", os.fsdecode(b"\xff\xfe")], "bytes of UTF-8"),
        ({"key": "short"}, ["create", "--app", "101", "--user", "ann"], "32 bytes"),
        ({"key": SECRET}, ["create", "--app", "101", "--user", "ann", "--key-file", "/no/file"], "/no/file"),
        ({"key": SECRET}, ["secret", "--app", "101"], "without a key"),
        ({"key": SECRET}, ["check", "--app", "101", "nonsense"], "refused"),
        ({"key": SECRET}, ["check", "--app", "102", "nonsense"], "no key"),
        ({"key_file": "/no/file"}, ["create", "--app", "101", "--user", "ann"], "/no/file"),
    ],
)
def test_what_cannot_be_made_is_reported_in_one_line(
    tmp_path: Path, row: dict[str, Any], arguments: list[str], why: str
) -> None:
    assert why in failure(arguments[0], "-c", settings(tmp_path, row), *arguments[1:])


@pytest.mark.parametrize(
    ("claims", "secret", "reason"),
    [
        ({"exp": 1}, SECRET, "the token has expired"),
        ({"app": "102"}, SECRET, "the token is for another app, '102'"),
        ({}, OTHER, "Signature verification failed"),
    ],
)
def test_check_says_what_is_wrong(tmp_path: Path, claims: dict[str, Any], secret: str, reason: str) -> None:
    file = settings(tmp_path, {"key": SECRET})
    token = jwt.encode({"sub": "ann", "app": "101", "exp": time.time() + 60, **claims}, secret)
    done = run_cli("token", "check", "-c", file, "--app", "101", token)
    assert done.returncode == 1
    assert done.stderr == f"imserver: refused: {reason}\n"
