"""What is refused, with which code of ntfy; who has access; what other publishers and subscribers see."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from conftest import ADMIN_KEY, CONFIG, PUSH_KEY, READ_KEY, Pair, own_listener, token
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from imserver.plugin.testing import HostAndPort
from tests.docs.markdown import blocks
from tests.docs.play import play_session
from tests.integration.raw import Response, ask, bearer, request
from tests.support import ROOT, Server, run_cli

JSON = [("Content-Type", "application/json")]


def at(pair: Pair) -> HostAndPort:
    host, _, port = pair.publish.partition(":")
    return HostAndPort(host, int(port))


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f":{password}".encode()).decode()


def send(
    pair: Pair, path: str, body: bytes = b"x", key: str = PUSH_KEY, method: str = "PUT", **headers: str
) -> Response:
    rows = [(name.replace("_", "-"), value) for name, value in headers.items()]
    if key:
        rows.append(("Authorization", f"Bearer {key}"))
    return ask(at(pair), request(path, method=method, headers=rows, body=body))


@pytest.mark.parametrize("pair", ["one"], indirect=True)
@pytest.mark.parametrize(
    ("path", "body", "headers", "code"),
    [
        ("/a.b", b"x", {}, 40009),
        ("/" + "a" * 65, b"x", {}, 40009),
        ("/t", b"x", {"Priority": "9"}, 40007),
        ("/t", b"x", {"X_Delay": "10m"}, 40004),
        ("/t", b"x", {"Email": "ann@example.com"}, 40001),
        ("/t", b"x", {"Call": "yes"}, 40032),
        ("/t", b"x", {"Template": "yes"}, 40043),
        ("/t", b"x", {"X_Sequence_ID": "7"}, 40049),
        ("/t", b"x", {"Icon": "ftp://example.com/i"}, 40021),
        ("/t", b"x", {"Attach": "file:///etc/passwd"}, 40013),
        ("/t", b"x", {"Filename": "f.txt"}, 40014),
        ("/t", b"\xff", {}, 40014),
        ("/t", b"x" * 4097, {}, 40014),
        ("/t", b"x", {"Actions": "open, Door"}, 40018),
        ("/t", b"x", {"Actions": "view, Door"}, 40018),
        ("/t", b"x", {"Actions": "copy, A, 1; copy, B, 2; copy, C, 3; copy, D, 4"}, 40018),
        ("/t", b"x", {"Actions": "[{]"}, 40018),
        ("/", b"[]", {}, 40017),
        ("/", b'{"message":"x"}', {}, 40009),
        ("/?" + "&a=" * 99, b'{"topic":"t"}', {}, 40000),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_code_of_ntfy(
    pair: Pair, path: str, body: bytes, headers: dict[str, str], code: int
) -> None:
    answer = send(pair, path, body, **headers)
    assert (answer.status, answer.json["http"], answer.json["code"]) == (400, 400, code)
    assert answer.json["error"]


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("Grüße ☕".encode(), "Grüße ☕"),
        (b"Gr\xfc\xdfe", "Grüße"),
        (b"=?utf-8?Q?Gr=C3=BC=C3=9Fe_=E2=98?= =?utf-8?Q?=95?=", "Grüße ☕"),
        ("ä =?UTF-8?B?w4XDhA==?=".encode(), "ä ÅÄ"),
        (b"=?x-unknown?Q?a?=", "=?x-unknown?Q?a?="),
    ],
)
def test_headers_have_bytes_beyond_ascii(pair: Pair, header: bytes, text: str) -> None:
    for name in (b"Title", b"X-Message", b"Tags", b"Filename"):
        head = b"PUT /bytes?attach=http://e.example HTTP/1.1\r\nHost: ntfy.example\r\nContent-Length: 0\r\n"
        head += b"Authorization: Bearer %b\r\nConnection: close\r\n%b: %b\r\n\r\n" % (
            PUSH_KEY.encode(),
            name,
            header,
        )
        found = ask(at(pair), head).json
        values = (found.get("title"), found["message"], found.get("tags"), found["attachment"]["name"])
        assert text in values or [text] in values, (name, found)


@pytest.mark.parametrize("pair", ["one"], indirect=True)
def test_distributors_of_unifiedpush_discover_topics(pair: Pair) -> None:
    found = send(pair, "/upABCDEFGHIJKL?up=1", b"", "", "GET")
    assert (found.status, found.json) == (200, {"unifiedpush": {"version": 1}})
    assert send(pair, "/upABCDEFGHIJKL", b"", "", "GET").json["code"] == 40401


@pytest.mark.parametrize("pair", ["one"], indirect=True)
def test_access_is_that_of_our_keys_and_tokens(pair: Pair) -> None:
    statuses = {
        key: send(pair, "/access", key=key).status for key in (PUSH_KEY, READ_KEY, token("ann"), "", "wrong")
    }
    assert list(statuses.values()) == [200, 403, 200, 401, 401]
    refused = send(pair, "/access", key="")
    assert (refused.json["code"], refused.json["http"]) == (40101, 401)

    def get(path: str, **headers: str) -> Response:
        return send(pair, path, b"", "", "GET", **headers)

    auth = quote(base64.urlsafe_b64encode(basic(READ_KEY).encode()).decode().rstrip("="))
    assert get(f"/access/auth?auth={auth}").json == {"success": True}
    assert get("/access/auth", Authorization=basic(token("bob"))).json == {"success": True}
    assert get("/access/auth", Authorization=f"Bearer {PUSH_KEY}").json["code"] == 40301
    assert get("/access/json").json["code"] == get("/access,b/json?auth=%ff").json["code"] == 40101
    assert get("/access/json?poll=1", Authorization=f"Bearer {PUSH_KEY}").status == 403
    assert get("/access/json?since=a.b").json["code"] == 40008
    assert get("/v1/health").json == {"healthy": True}
    with connect(f"ws://{pair.subscribe}/access/ws") as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(60)
    assert closed.value.rcvd.code == 4505


@pytest.mark.parametrize("pair", ["one"], indirect=True)
def test_a_ban_ends_the_streams_of_a_user_and_refuses_their_messages(pair: Pair) -> None:
    (server,) = pair.servers
    headers = {"Authorization": f"Bearer {token('eve')}"}
    with connect(f"ws://{pair.subscribe}/ban/ws", additional_headers=headers) as socket:
        assert json.loads(socket.recv(60))["event"] == "open"
        body = json.dumps({"app": "shop", "users": ["eve"], "seconds": 60}).encode()
        ban = request("/api/v1/ban", method="POST", headers=JSON, body=body)
        assert ask(server.http, bearer(ban, ADMIN_KEY)).status == 200
        with pytest.raises(ConnectionClosed):
            socket.recv(60)
    assert send(pair, "/ban", key=token("eve")).status == 403


@pytest.mark.parametrize("pair", ["one"], indirect=True)
def test_topics_are_channels_of_the_app_also_for_others(pair: Pair) -> None:
    (server,) = pair.servers
    headers = {"Authorization": f"Bearer {READ_KEY}"}
    with connect(f"ws://{pair.subscribe}/others/ws", additional_headers=headers) as socket:
        assert json.loads(socket.recv(60))["event"] == "open"
        body = json.dumps({"app": "shop", "channel": "ntfy:others", "text": "from the shop"}).encode()
        push = request(
            "/api/v1/push", method="POST", headers=[("Content-Type", "application/json")], body=body
        )
        assert ask(server.http, bearer(push, PUSH_KEY)).status == 200
        found: dict[str, Any] = json.loads(socket.recv(60))
        assert (found["event"], found["topic"], found["message"]) == ("message", "others", "from the shop")
    polled = send(pair, "/others/json?poll=1", b"", READ_KEY, "GET")
    assert json.loads(polled.body)["id"] == found["id"]
    raw = b"GET /others/raw?poll=1 HTTP/1.1\r\nHost: ntfy.example\r\nConnection: close\r\n\r\n"
    assert ask(server.http, bearer(raw, READ_KEY)).body == b"from the shop\n"


@pytest.mark.parametrize("history", ["", "log"])
def test_topics_keep_what_the_history_of_their_channels_keeps(
    tmp_path_factory: pytest.TempPathFactory, installed: dict[str, str], history: str
) -> None:
    channels = {"ntfy": {"subscribe": "anybody", "publish": "anybody", "history": history}}
    apps = {"default": {"open": True, "channels": channels}}
    features = ["messages", *CONFIG["features"]] if history else CONFIG["features"]
    server = Server(
        tmp_path_factory.mktemp("history"),
        config={**CONFIG, "features": features, "apps": apps, "api": {}, "ntfy": {}},
        environment=installed,
        http_server="wsgi",
    )
    try:
        pair = Pair(own_listener(server), own_listener(server), [server])
        first, second = (send(pair, "/t", text, key="").json for text in (b"one", b"two"))
        polled = send(pair, f"/t/json?poll=1&since={first['id']}", b"", "", "GET")
        if history:
            assert json.loads(polled.body) == second
            whole = send(pair, "/t/raw?poll=1", b"", "", "GET")
            assert whole.body == b"one\ntwo\n"
        else:
            assert (polled.status, polled.json["code"]) == (400, 40008)
    finally:
        server.stop()
    server.check()


def test_the_name_of_the_dialect_and_the_settings_are_checked(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]
) -> None:
    for folder in installed["PYTHONPATH"].split(":"):
        monkeypatch.syspath_prepend(folder)

    def complaint(**settings: str) -> str:
        values = {f"IMSERVER_{name.upper()}": value for name, value in settings.items()}
        return run_cli("check-config", **values).stderr

    assert complaint(features="[ntfy]", apps="{shop: {dialects: [ntfy]}}") == ""
    assert "apps.shop.dialects[0]: expected one of" in complaint(
        features="[]", apps="{shop: {dialects: [ntfy]}}"
    )
    assert "ntfy.message_bytes" in complaint(features="[ntfy]", ntfy_message_bytes="0")
    assert "serves anything under /ntfy" in complaint(
        features="[]", server_extra_hosts="[{host: ntfy.example, path: /ntfy}]"
    )


def test_the_guide_does_what_it_says(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, installed: dict[str, str]
) -> None:
    guide = ROOT / "docs" / "guides" / "ntfy.md"
    (settings,), (session,) = blocks(guide, "yaml"), blocks(guide, "console")
    config = yaml.safe_load(settings.text)
    config["server"]["extra_listen"][0]["port"] = 0
    server = Server(tmp_path_factory.mktemp("guide"), config=config, environment=installed)
    try:
        text = session.text.replace("127.0.0.1:2586", own_listener(server))
        play_session(replace(session, text=text), tmp_path, server)
    finally:
        server.stop()
    server.check()
