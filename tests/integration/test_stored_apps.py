"""What a server keeps, end to end: keys and apps made while it runs, and databases that nodes share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.storage.servers import KINDS, DatabaseServer
from tests.support import Server, eventually, run_cli

from . import v1
from .client import UNKNOWN_SYSTEM, api, listening
from .clusters import nodes_of
from .cmd import cmd_client, command, form_request, good, logged_in
from .raw import Raw, Response, ask, bearer, request
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


def key_ids(server: Server) -> list[str]:
    return [line.split()[0] for line in cli(server, "key", "list").splitlines()[1:]]


def push(server: Server, key: str = "", app: int = 101) -> int:
    """The code of a push to nobody in particular."""
    form = form_request("/user/sendMessage", {"appID": app, "userID": "nobody", "message": "hi"})
    code: int = ask(server.http, bearer(form, key)).json["code"]
    return code


@pytest.mark.full
def test_the_first_key_ends_demo_mode_while_the_server_runs(launch: Launch, http_server: str) -> None:
    server = launch(http_server, storage=QUICK)
    assert "demo mode" in server.output
    assert push(server) == 200
    key = new_key(server, "--scope", "push", "--app", "101")
    eventually(lambda: push(server) == UNAUTHORIZED)
    assert "demo mode has ended" in server.log_text
    assert push(server, key) == 200
    assert push(server, key + "x") == UNAUTHORIZED
    assert push(server, key, 102) == UNAUTHORIZED


@pytest.mark.full
def test_only_pages_of_the_same_host_may_connect_from_then_on(launch: Launch, http_server: str) -> None:
    server = launch(http_server, storage=QUICK)
    own = [("Origin", "http://localhost:3000")]
    with cmd_client(server.ws, more=own):
        pass
    new_key(server, "--scope", "admin")
    eventually(lambda: push(server) == UNAUTHORIZED)
    with Raw(server.ws) as one:
        one.upgrade("/acc", more=own)
        one.closed(4505)


@pytest.mark.full
def test_several_keys_hold_at_once_and_each_until_it_is_revoked(launch: Launch, http_server: str) -> None:
    server = launch(http_server, storage=QUICK)
    old = new_key(server, "--scope", "push")
    (old_id,) = key_ids(server)
    new = new_key(server, "--scope", "push")
    (new_id,) = set(key_ids(server)) - {old_id}
    eventually(lambda: push(server, new) == 200 and push(server) == UNAUTHORIZED)
    assert push(server, old) == 200
    cli(server, "key", "revoke", old_id)
    eventually(lambda: push(server, old) == UNAUTHORIZED)
    assert push(server, new) == 200
    cli(server, "key", "revoke", new_id)
    eventually(lambda: push(server, new) == UNAUTHORIZED)
    assert push(server) == UNAUTHORIZED, "the last key that goes does not open the server to everybody"


def test_a_hang_up_makes_the_server_look_at_once(launch: Launch, http_server: str) -> None:
    import os
    import signal

    server = launch(http_server, storage={"look_seconds": 60})
    key = new_key(server, "--scope", "push")
    assert push(server) == 200
    os.kill(server.pid, signal.SIGHUP)
    eventually(lambda: push(server) == UNAUTHORIZED)
    assert push(server, key) == 200


@pytest.mark.full
def test_a_stored_key_lets_a_server_listen_beyond_loopback(launch: Launch, tmp_path: Path) -> None:
    data = {"IMSERVER_SERVER_DATA_DIR": str(tmp_path)}
    ports = ("--http-port", "0", "--ws-port", "0", "--host", "0.0.0.0")
    refused = run_cli("serve", *ports, **data)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no API key exists" in refused.stderr
    assert run_cli("app", "create", "105", **data).returncode == 0
    refused = run_cli("serve", *ports, **data)
    assert refused.returncode == 1
    assert "no API key exists" in refused.stderr, "a database without keys keeps nobody out"
    assert run_cli("key", "create", "--scope", "push", **data).returncode == 0
    server = launch("front", server={"data_dir": str(tmp_path), "host": "0.0.0.0"})
    assert "demo mode" not in server.output


def test_an_app_that_is_made_while_the_server_runs_is_there_for_clients(
    launch: Launch, http_server: str
) -> None:
    server = launch(http_server, storage=QUICK)
    with cmd_client(server.ws) as one:
        assert one.ask_cmd("login", {"userID": "u", "appID": 105})[0] == UNAUTHORIZED
        cli(server, "app", "create", "105", "login_policy=single")
        eventually(lambda: one.ask_cmd("login", {"userID": "u", "appID": 105})[0] == 200)
        with logged_in(server.ws, "u", 105):
            one.closed(4500)
    cli(server, "app", "create", "106", "same_as=105")
    eventually(lambda: "106" in cli(server, "app", "list"))

    def listed() -> list[str]:
        with logged_in(server.ws, "v", 105):
            users: list[str] = good(ask(server.http, request("/user/list?appID=106")))["userList"]
            return users

    eventually(lambda: listed() == ["v"])


def test_a_ban_outlives_the_process(launch: Launch, tmp_path: Path) -> None:
    config = {"data_dir": str(tmp_path)}
    server = launch("front", server=config)
    with logged_in(server.ws, "ann", 101) as ann, logged_in(server.ws, "bob", 102) as bob:
        for app, user, client in ((101, "ann", ann), (102, "bob", bob)):
            ban = {"appID": app, "userID": user, "banSeconds": 60}
            good(ask(server.http, form_request("/user/kick", ban)))
            client.closed(4503)
    assert v1.good(server.http, "unban", {"app": "102", "users": ["bob"]}) == {"missing_nodes": []}
    server.stop()
    server = launch("front", server=config)
    with cmd_client(server.ws) as ann:
        ann.send(command("login", {"userID": "ann", "appID": 101}))
        ann.closed(4503)
    with logged_in(server.ws, "bob", 102):
        pass


def test_an_ordinary_server_makes_no_database(launch: Launch, http_server: str) -> None:
    server = launch(http_server, storage=QUICK)
    with logged_in(server.ws, "u", 101):
        assert push(server) == 200
        assert (
            api(server.http, "get_online_list", {"groupName": "g"}, "nobody").body.decode() == UNKNOWN_SYSTEM
        )
    assert sorted(path.name for path in (server.folder / "data").iterdir()) == ["lock", "secret"]


@pytest.mark.full
def test_a_file_that_somebody_has_locked_is_a_temporary_error_and_delays_no_end(
    launch: Launch, http_server: str
) -> None:
    import fcntl

    server = launch(http_server, storage={"seconds": 10, **QUICK})
    assert register(server, "shop")["code"] == 0
    with (server.folder / "data" / "imserver.db.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert register(server, "other")["msg"] == "系统错误"
        eventually(lambda: ready(server).status == 503)
        assert push(server) == 200
        server.stop()


# --- databases of their own ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(KINDS))
def database(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    server = KINDS[request.param]()
    yield server
    server.remove()


def register(server: Server, system: str) -> Any:
    return api(server.http, "register", {"systemId": system}).json


def known(server: Server, system: str) -> bool:
    answer = api(server.http, "get_online_list", {"groupName": "g"}, system)
    return bool(answer.json["code"] == 0)


def ready(server: Server) -> Response:
    return ask(server.http, request("/ready"))


@pytest.mark.full
def test_nodes_share_what_is_stored(database: DatabaseServer, tmp_path: Path) -> None:
    """Several nodes on one database, on both HTTP servers; each has a folder of its own, and one secret."""
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef\n", encoding="utf-8")
    secret.chmod(0o600)
    with nodes_of(
        tmp_path, 2, storage={"url": database.new_url(), **QUICK}, server={"secret_file": str(secret)}
    ) as nodes:
        one, other = nodes.servers
        assert register(one, "shop")["code"] == 0
        assert known(other, "shop"), "at once"
        assert register(other, "shop")["msg"] == "该系统ID已被注册"
        key = new_key(one, "--scope", "admin")
        eventually(lambda: push(one) == push(other) == UNAUTHORIZED)
        assert push(one, key) == push(other, key) == 200
        assert not (tmp_path / "data" / "imserver.db").exists()


@pytest.mark.full
def test_a_database_that_goes_away_is_a_temporary_error_and_stops_nothing_else(
    database: DatabaseServer, launch: Launch
) -> None:
    server = launch("front", storage={"url": database.new_url(), "seconds": 10, **QUICK})
    assert register(server, "shop")["code"] == 0
    assert ready(server).status == 200
    database.kill()
    try:
        eventually(lambda: ready(server).status == 503)
        assert register(server, "other") == {"code": -1, "msg": "系统错误", "data": []}
        assert api(server.http, "get_online_list", {"groupName": "g"}, "unheard of").json["msg"] == "系统错误"
        assert known(server, "shop"), "what is known is known"
        with logged_in(server.ws, "u", 101), listening(server.ws, "shop"):
            assert push(server) == 200
    finally:
        database.start()
    eventually(lambda: ready(server).status == 200)
    assert register(server, "other")["code"] == 0
    assert "answers again" in server.log_text
