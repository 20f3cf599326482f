"""What a server keeps, end to end: keys and apps made while it runs, and
databases that nodes share."""

import os
import signal
from pathlib import Path

import pytest

from tests.support import Server, eventually, run_cli

from . import v1
from .cmd import cmd_client, form_request
from .raw import Raw, ask, bearer
from .setting import Launch

QUICK = {"look_seconds": 0.1}
UNAUTHORIZED = 1003


def cli(server: Server, *arguments: str) -> str:
    """A command on what the server keeps."""
    done = run_cli(*arguments, "--config", str(server.config_file))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def new_key(server: Server, *arguments: str) -> str:
    return cli(server, "key", "create", *arguments)


def push(server: Server, key: str = "", app: int = 101) -> int:
    """The code of a push to nobody in particular."""
    form = form_request(
        "/user/sendMessage", {"appID": app, "userID": "nobody", "message": "hi"}
    )
    code: int = ask(server.http, bearer(form, key)).json["code"]
    return code


@pytest.mark.parametrize(
    "signalled", [True, pytest.param(False, marks=pytest.mark.full("sampled"))]
)
def test_the_first_key_ends_demo_mode_while_the_server_runs(
    launch: Launch, http_server: str, signalled: bool
) -> None:
    server = launch(http_server, storage={"look_seconds": 60} if signalled else QUICK)
    own = [("Origin", "http://localhost:3000")]
    with cmd_client(server.ws, more=own):
        assert "demo mode" in server.output
    assert push(server) == 200
    key = new_key(server, "--scope", "push", "--app", "101")
    if signalled:
        os.kill(server.pid, signal.SIGHUP)
    eventually(lambda: push(server) == UNAUTHORIZED)
    assert "demo mode has ended" in server.log_text
    assert [push(server, key), push(server, key + "x"), push(server, key, 102)] == [
        200,
        *[UNAUTHORIZED] * 2,
    ]
    with Raw(server.ws) as one:
        one.upgrade("/acc", more=own)
        one.closed(4505)  # only pages of the same host may connect from then on


@pytest.mark.full("processes")
def test_a_stored_key_lets_a_server_listen_beyond_loopback(
    launch: Launch, tmp_path: Path
) -> None:
    data = {"IMSERVER_SERVER_DATA_DIR": str(tmp_path)}
    ports = ("--http-port", "0", "--ws-port", "0", "--host", "0.0.0.0")
    # a database without keys keeps nobody out
    for words in ("app create 105", "key create --scope push"):
        refused = run_cli("serve", *ports, **data)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "no API key exists" in refused.stderr
        assert run_cli(*words.split(), **data).returncode == 0
    server = launch("front", server={"data_dir": str(tmp_path), "host": "0.0.0.0"})
    assert "demo mode" not in server.output


def test_lists_hold_only_what_a_key_reaches(launch: Launch, http_server: str) -> None:
    one = "an admin's key for 101 .."
    every = "a key that may do all .."
    rows = [
        {"key": one, "scopes": ["admin"], "apps": [101]},
        {"key": every, "scopes": ["admin"]},
    ]
    server = launch(http_server, api={"keys": rows})
    for route in ("counts", "apps"):
        assert [
            each["app"] for each in v1.good(server.http, route, key=one)["apps"]
        ] == ["101"]
        names = [each["app"] for each in v1.good(server.http, route, key=every)["apps"]]
        first = v1.good(server.http, route, key=every, limit=2)
        second = v1.good(server.http, route, key=every, limit=2, cursor=first["next"])
        assert [each["app"] for each in first["apps"] + second["apps"]] == names[:4]
        assert len(names) > 4


def test_what_cannot_be_done_with_apps_is_refused(
    launch: Launch, http_server: str
) -> None:
    server = launch(http_server, limits={"registered_apps": 2})
    v1.good(server.http, "apps/create", {"app": "tea"})
    v1.good(server.http, "apps/create", {"app": "chai", "settings": {"same_as": "tea"}})
    for route, body, status, code in (
        ("create", {"app": "tea"}, 409, "app_exists"),
        ("create", {"app": "101"}, 409, "app_exists"),
        ("create", {"app": "one more"}, 409, "too_many_apps"),
        ("create", {"app": "line\nbreak"}, 400, "invalid_request"),
        (
            "create",
            {"app": "x", "settings": {"login_policy": "any"}},
            400,
            "invalid_request",
        ),
        ("set", {"app": "101", "settings": {"max_channels": 1}}, 409, "app_configured"),
        ("set", {"app": "nobody's"}, 404, "unknown_app"),
        ("delete", {"app": "nobody's", "confirm": "nobody's"}, 404, "unknown_app"),
        ("delete", {"app": "101", "confirm": "101"}, 409, "app_configured"),
        ("delete", {"app": "tea", "confirm": "no"}, 400, "invalid_request"),
        ("delete", {"app": "tea", "confirm": "tea"}, 400, "invalid_request"),
    ):
        found = v1.refused(server.http, f"apps/{route}", body)
        assert found[:2] == (status, code), (route, body)
    assert "chai" in found[2], "the other name of the app"
