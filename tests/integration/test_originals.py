"""config/originals.yaml: with API keys, the originals' clients work as without,
and strangers do not push."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from imserver.gateway.node.feature_list import load_config
from tests.conftest import StartServer
from tests.integration import action, client, cmd, gochat, protobuf
from tests.integration.raw import Raw, Response, ask, bearer, request
from tests.support import ROOT, Server

from .setting import stop

FILE = ROOT / "config" / "originals.yaml"
KEY = "the-operators-key-of-this-test"
OTHER_MACHINE = "127.0.0.2"
"""A client address that no list of the file has."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the file as it is shipped, and a key from the
    environment."""
    keys = json.dumps([{"key": KEY, "scopes": ["admin"]}])
    one = Server(
        tmp_path_factory.mktemp("originals"),
        config=yaml.safe_load(FILE.read_text(encoding="utf-8")),
        environment={"IMSERVER_API_KEYS": keys},
    )
    yield one
    stop(one)


def from_elsewhere(server: Server, data: bytes) -> Response:
    with Raw(server.http, source=OTHER_MACHINE) as one:
        return one.ask(data)


def test_the_file_is_a_configuration_without_keys_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a data folder beside the tests would be warned of
    settings = load_config(str(FILE), environ={})
    assert (settings.warnings, settings.api.keys) == ((), ())
    assert {name for name, app in settings.apps.items() if not app.open} == {"gochat"}


def test_the_ports_in_its_comment_are_those_of_the_originals(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    text = FILE.read_text(encoding="utf-8")
    file.write_text(
        re.sub(r"^  # (extra_listen:|  - \{port)", r"  \1", text, flags=re.M),
        encoding="utf-8",
    )
    listening = load_config(str(file), environ={}).server.extra_listen
    assert [(row.port, row.ws_dialect) for row in listening] == [
        (7800, "client"),
        (8282, "action"),
        (9090, "protobuf"),
        (9091, "protobuf"),
    ]


def test_the_clients_of_each_original_are_served(server: Server) -> None:
    with cmd.logged_in(server.ws, "ann", 101) as ann:
        assert cmd.send_message(server.http, 101, "ann", "hello") == {
            "sendResults": True
        }
        assert ann.push("msg").json["response"]["data"]["msg"] == "hello"
    one, two = (
        action.action_session(server.ws, user, to=peer)
        for user, peer in (("1", "2"), ("2", "1"))
    )
    with one as first, two as second:
        first.say("hello")
        second.receives("1", "hello", "2")
    with client.listening(server.ws, "shop") as listener:
        client.send_to_client(server.http, "shop", listener.id)
        assert listener.received()["data"] == "hello"
    kim = gochat.register(server.http)
    lee = gochat.register(server.http)
    with (
        protobuf.chatting(server.ws, kim) as sender,
        protobuf.chatting(server.ws, lee) as receiver,
    ):
        sender.single(1, receiver.id, "hello")
        assert protobuf.pushed(receiver.output()).text == "hello"


def test_other_machines_need_a_key(server: Server) -> None:
    for data in (
        cmd.form_request(
            "/user/sendMessage", {"appID": 101, "userID": "ann", "message": "hi"}
        ),
        request("/user/list?appID=101"),
        request("/user/list?appId=1&groupsId=1"),
    ):
        assert from_elsewhere(server, data).json["code"] == 1003
        assert from_elsewhere(server, bearer(data, KEY)).json["code"] == 200


def _page_request(host: str) -> bytes:
    fields = {"appID": 101, "userID": "ann", "message": "hi"}
    return cmd.form_request("/user/sendMessageAll", fields).replace(
        b"\r\n", f"\r\nOrigin: http://{host}\r\n".encode(), 1
    )


def test_a_page_of_another_host_is_refused_and_one_line_says_what_to_set(
    server: Server,
) -> None:
    for _ in range(3):
        assert ask(server.http, _page_request("im.91vh.com")).json["code"] == 1003
        with action.ActionClient(server.ws) as page:
            page.upgrade("/ws?uid=1&to_uid=2", more=[("Origin", "http://ws.test")])
            page.closed(4505)
    lines = [line for line in server.log_text.splitlines() if "server.origins" in line]
    assert len(lines) == 2
    assert (
        "request without a key refused: the page is of host im.91vh.com; to allow it, add the host to"
        in lines[0]
    )
    assert (
        "connection refused: the page is of host ws.test; to allow it, add the host to"
        in lines[1]
    )


def test_a_page_of_a_listed_host_is_let_in(start_server: StartServer) -> None:
    text = re.sub(
        r"^  # (origins:)",
        r"  \1",
        FILE.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    server = start_server(config=yaml.safe_load(text))
    assert ask(server.http, _page_request("im.91vh.com")).json["code"] == 200
    with action.ActionClient(server.ws) as page:
        page.begin("/ws?uid=1&to_uid=2", more=[("Origin", "http://ws.test")]).login(
            "1", to="2"
        )
    assert "to allow it, add" not in server.log_text
