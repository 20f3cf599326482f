"""Clients of ntfy, unmodified (Apprise, python-ntfy, ntfpy, npm's ntfy, curl);
refusals, and access."""

import asyncio
import base64
import gc
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apprise
import ntfpy
import pytest
import python_ntfy
import yaml
from conftest import (
    ADMIN_KEY,
    CONFIG,
    KEPT,
    PUSH_KEY,
    READ_KEY,
    Pair,
    own_listener,
    token,
)
from imserver_ntfy.message import Parameters
from imserver_ntfy.wire import STREAMS, Wish
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from imserver.plugin.testing import HostAndPort
from tests.docs.markdown import blocks
from tests.docs.play import play_session
from tests.integration.raw import Response, ask, bearer, request
from tests.sdk.node import run_node
from tests.support import ROOT, Server, run_cli
from tests.tools import NODE_MODULES


class Enough(Exception):
    """Ends a subscription of ntfpy, which has no other end."""


@contextmanager
def curl(*arguments: str) -> Iterator[Any]:
    """A stream that curl reads, line by line."""
    command = ["curl", "-sN", "-u", f":{READ_KEY}", "--max-time", "60", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout
        finally:
            process.terminate()


def publish(pair: Pair, topic: str, *arguments: str) -> dict[str, Any]:
    header = ["-H", f"Authorization: Bearer {PUSH_KEY}"]
    command = ["curl", "-s", *header, *arguments, f"http://{pair.publish}/{topic}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def poll(pair: Pair, topic: str, query: str = "") -> list[dict[str, Any]]:
    with curl(f"http://{pair.subscribe}/{topic}/json?poll=1{query}") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_apprise_publishes(pair: Pair) -> None:
    actions = quote(
        "view, Öffnen, https://example.com/a?b=1, clear=true; http, Close, https://example.com/c"
    )
    options = f"priority=high&tags=é,b&click=https://example.com/x&attach=https://example.com/f.png&actions={actions}"
    topic = f"ntfy://back-end:{PUSH_KEY}@{pair.publish}/apprise?{options}"
    sender = apprise.Apprise()
    assert sender.add(topic)
    assert sender.add(
        f"ntfy://{PUSH_KEY}@{pair.publish}/apprise?auth=token&format=markdown"
    )
    assert sender.notify(body="the body", title="the title")
    first, second = sorted(
        poll(pair, "apprise"), key=lambda message: -message.get("priority", 0)
    )
    assert (first["title"], first["message"], first["priority"]) == (
        "the title",
        "the body",
        4,
    )
    assert (sorted(first["tags"]), first["click"]) == (
        ["b", "é"],
        "https://example.com/x",
    )
    assert [
        (each["label"], each["url"], each.get("clear")) for each in first["actions"]
    ] == [
        ("Öffnen", "https://example.com/a?b=1", True),
        ("Close", "https://example.com/c", None),
    ]
    assert first["attachment"] == {"name": "f.png", "url": "https://example.com/f.png"}
    lasts = second["expires"] - second["time"]
    assert (second["content_type"], lasts) == ("text/markdown", KEPT["history_seconds"])
    assert not _notified(f"ntfy://{READ_KEY}@{pair.publish}/apprise?auth=token"), (
        "the key only reads"
    )


def _notified(url: str) -> bool:
    sender = apprise.Apprise()
    assert sender.add(url)
    return bool(sender.notify(body="x"))


def test_python_ntfy_publishes_and_reads(pair: Pair) -> None:
    client = python_ntfy.NtfyClient(
        "python", f"http://{pair.publish}", auth=("ann", token("ann"))
    )
    actions = [
        python_ntfy.ViewAction("Open", "https://example.com", clear=True),
        python_ntfy.HttpAction(
            "Close", "https://example.com/door", "PUT", {"X-A": "1"}, '{"a":1}'
        ),
    ]
    urgent = python_ntfy.MessagePriority.MAX
    sent = client.send(
        "hello", "title", urgent, ["skull"], actions, format_as_markdown=True
    )
    reader = python_ntfy.NtfyClient(
        "python", f"http://{pair.subscribe}", auth=("bob", token("bob"))
    )
    (found,) = reader.get_cached_messages()
    assert found == sent
    assert [
        (each["action"], each["label"], each["url"]) for each in found["actions"]
    ] == [
        ("view", "Open", "https://example.com"),
        ("http", "Close", "https://example.com/door"),
    ]
    assert (found["actions"][1]["headers"], found["actions"][1]["body"]) == (
        {"X-A": "1"},
        '{"a":1}',
    )
    assert reader.get_cached_messages(since=found["id"]) == []
    with pytest.raises(python_ntfy.MessageSendError, match="400"):
        client.send("hello", email="ann@example.com")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ntfpy_subscribes_and_publishes(pair: Pair) -> None:
    received: list[Any] = []

    def handle(message: Any) -> None:
        received.append(message)
        raise Enough

    with curl(f"http://{pair.subscribe}/ntfpy/json") as lines:
        assert json.loads(lines.readline())["event"] == "open"
        more = {"title": "t", "tags": ["x"]}
        answer = ntfpy.raw_send(
            f"http://{pair.publish}", "ntfpy", "hello", f":{PUSH_KEY}", **more
        )
        assert answer.status_code == 200
        message = json.loads(_next(lines))
        assert (message["message"], message["title"], message["tags"]) == (
            "hello",
            "t",
            ["x"],
        )
    topic = "ntfpy/json?since=all&x="
    with pytest.raises(Enough):
        asyncio.run(
            ntfpy.raw_subscribe(
                f"http://{pair.subscribe}", topic, f":{READ_KEY}", handle
            )
        )
    assert received[0].message == "hello"
    gc.collect()  # ntfpy leaves its connection open


@pytest.mark.needs("node")
def test_npm_ntfy_publishes(pair: Pair) -> None:
    package = NODE_MODULES / "ntfy" / "dist" / "index.js"
    script = Path(__file__).with_name("ntfy.test.mjs")
    run_node(
        str(script),
        NTFY=package.as_uri(),
        SERVER=f"http://{pair.publish}",
        KEY=PUSH_KEY,
    )
    (message,) = poll(pair, "npm")
    assert (message["title"], message["message"], message["priority"]) == (
        "title",
        "hello",
        5,
    )
    assert [each["label"] for each in message["actions"]] == ["Open", "Close"]
    assert message["attachment"] == {
        "name": "f.png",
        "url": "https://example.com/f.png",
    }


@pytest.mark.needs("curl")
def test_streams_deliver_what_is_published_on_the_other_node(pair: Pair) -> None:
    address = f"http://{pair.subscribe}/streams"
    headers = {"Authorization": f"Bearer {READ_KEY}"}
    url = f"ws://{pair.subscribe}/streams,other/ws?priority=high,max&tags=a"
    with (
        curl(f"{address}/json") as lines,
        curl(f"{address}/sse") as events,
        curl(f"{address}/raw") as texts,
        connect(url, additional_headers=headers) as socket,
    ):
        assert json.loads(lines.readline())["event"] == "open"
        assert events.readline() == "event: open\n"
        assert texts.readline() == "\n"
        assert json.loads(socket.recv(60))["topic"] == "streams,other"
        low = publish(
            pair, "streams", "-d", "two\nlines", "-H", "Title: =?UTF-8?B?w4XDhA==?="
        )
        named = ("-H", "Message: put", "-H", "X-Tags: a,b", "-H", "p: urgent")
        high = publish(pair, "other", "-T", __file__, *named)
        assert low["title"] == "ÅÄ"
        assert json.loads(_next(lines)) == low
        assert '"open"' in events.readline()
        assert _data(events) == low
        assert _next(texts) == "two lines\n"
        assert json.loads(socket.recv(60)) == high


def test_no_sign_of_life_precedes_the_word_that_opens_a_stream() -> None:
    wish = Wish.read("/ntfy/tea/json", Parameters({}, ""))
    codec = STREAMS["json"]
    assert codec.encode_ping(wish) == b""
    wish.is_open = True
    assert b'"keepalive"' in codec.encode_ping(wish)


def _next(lines: Any) -> str:
    for line in lines:
        if line.strip() and '"keepalive"' not in line:
            return str(line)
    raise AssertionError("the stream has ended")


def _data(events: Any) -> Any:
    """The data of the next event without a name."""
    for line in events:
        if line.startswith("data: ") and '"keepalive"' not in line:
            return json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream has ended")


@pytest.mark.needs("curl")
def test_since_and_filters_choose_messages(pair: Pair) -> None:
    sent = [
        publish(pair, "since", "-d", text, "-H", f"Tags: {text},all")
        for text in ("one", "two", "three")
    ]
    not_kept = publish(pair, "since", "-d", "four", "-H", "Cache: no")
    assert "expires" not in not_kept
    assert poll(pair, "since") == poll(pair, "since", "&since=1h30m") == sent
    assert poll(pair, "since", f"&since={sent[0]['id']}") == sent[1:]
    assert poll(pair, "since", "&since=latest") == sent[2:]
    assert (
        poll(pair, "since", f"&since={sent[0]['time'] + 60}")
        == poll(pair, "since", "&since=none")
        == []
    )
    assert poll(pair, "since", "&tags=all,two&scheduled=1") == sent[1:2]
    assert (
        poll(pair, "since", f"&id={sent[0]['id']}")
        == poll(pair, "since", "&message=one")
        == sent[:1]
    )
    assert poll(pair, "since", "&priority=5") == []
    with curl(f"http://{pair.subscribe}/since/json?since={sent[1]['id']}") as lines:
        assert json.loads(lines.readline())["event"] == "open"
        assert json.loads(_next(lines)) == sent[2]
        five = publish(pair, "since", "-d", "five")
        assert json.loads(_next(lines)) == five
        assert any('"keepalive"' in line for line in lines)


JSON = [("Content-Type", "application/json")]


def at(pair: Pair) -> HostAndPort:
    host, _, port = pair.publish.partition(":")
    return HostAndPort(host, int(port))


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f":{password}".encode()).decode()


def send(
    pair: Pair,
    path: str,
    body: bytes = b"x",
    key: str = PUSH_KEY,
    method: str = "PUT",
    **headers: str,
) -> Response:
    rows = [(name.replace("_", "-"), value) for name, value in headers.items()]
    if key:
        rows.append(("Authorization", f"Bearer {key}"))
    return ask(at(pair), request(path, method=method, headers=rows, body=body))


@pytest.mark.parametrize("servers", ["one"], indirect=True)
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
        (
            "/t",
            b"x",
            {"Actions": "copy, A, 1; copy, B, 2; copy, C, 3; copy, D, 4"},
            40018,
        ),
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
        head += b"Authorization: Bearer %b\r\nConnection: close\r\n" % PUSH_KEY.encode()
        head += b"%b: %b\r\n\r\n" % (name, header)
        found = ask(at(pair), head).json
        values = (
            found.get("title"),
            found["message"],
            found.get("tags"),
            found["attachment"]["name"],
        )
        assert text in values or [text] in values, (name, found)


@pytest.mark.parametrize("servers", ["one"], indirect=True)
def test_distributors_of_unifiedpush_discover_topics(pair: Pair) -> None:
    found = send(pair, "/upABCDEFGHIJKL?up=1", b"", "", "GET")
    assert (found.status, found.json) == (200, {"unifiedpush": {"version": 1}})
    assert send(pair, "/upABCDEFGHIJKL", b"", "", "GET").json["code"] == 40401


@pytest.mark.parametrize("servers", ["one"], indirect=True)
def test_access_is_that_of_our_keys_and_tokens(pair: Pair) -> None:
    keys = (PUSH_KEY, READ_KEY, token("ann"), "", "wrong")
    assert [send(pair, "/access", key=key).status for key in keys] == [
        200,
        403,
        200,
        401,
        401,
    ]
    refused = send(pair, "/access", key="")
    assert (refused.json["code"], refused.json["http"]) == (40101, 401)

    def get(path: str, **headers: str) -> Response:
        return send(pair, path, b"", "", "GET", **headers)

    auth = quote(
        base64.urlsafe_b64encode(basic(READ_KEY).encode()).decode().rstrip("=")
    )
    assert get(f"/access/auth?auth={auth}").json == {"success": True}
    assert get("/access/auth", Authorization=basic(token("bob"))).json == {
        "success": True
    }
    assert get("/access/auth", Authorization=f"Bearer {PUSH_KEY}").json["code"] == 40301
    assert (
        get("/access/json").json["code"]
        == get("/access,b/json?auth=%ff").json["code"]
        == 40101
    )
    assert get("/access/json?poll=1", Authorization=f"Bearer {PUSH_KEY}").status == 403
    assert get("/access/json?since=a.b").json["code"] == 40008
    assert get("/v1/health").json == {"healthy": True}
    with (
        connect(f"ws://{pair.subscribe}/access/ws") as socket,
        pytest.raises(ConnectionClosed) as closed,
    ):
        socket.recv(60)
    assert closed.value.rcvd.code == 4505


@pytest.mark.parametrize("servers", ["one"], indirect=True)
def test_a_ban_ends_the_streams_of_a_user_and_refuses_their_messages(
    pair: Pair,
) -> None:
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


@pytest.mark.parametrize("servers", ["one"], indirect=True)
def test_topics_are_channels_of_the_app_also_for_others(pair: Pair) -> None:
    (server,) = pair.servers
    headers = {"Authorization": f"Bearer {READ_KEY}"}
    with connect(
        f"ws://{pair.subscribe}/others/ws", additional_headers=headers
    ) as socket:
        assert json.loads(socket.recv(60))["event"] == "open"
        body = json.dumps(
            {"app": "shop", "channel": "ntfy:others", "text": "from the shop"}
        ).encode()
        push = request("/api/v1/push", method="POST", headers=JSON, body=body)
        assert ask(server.http, bearer(push, PUSH_KEY)).status == 200
        found: dict[str, Any] = json.loads(socket.recv(60))
        assert (found["event"], found["topic"], found["message"]) == (
            "message",
            "others",
            "from the shop",
        )
    polled = send(pair, "/others/json?poll=1", b"", READ_KEY, "GET")
    assert json.loads(polled.body)["id"] == found["id"]
    raw = b"GET /others/raw?poll=1 HTTP/1.1\r\nHost: ntfy.example\r\nConnection: close\r\n\r\n"
    assert ask(server.http, bearer(raw, READ_KEY)).body == b"from the shop\n"


@pytest.mark.parametrize("history", ["", "log"])
def test_topics_keep_what_the_history_of_their_channels_keeps(
    tmp_path_factory: pytest.TempPathFactory, installed: dict[str, str], history: str
) -> None:
    channels = {
        "ntfy": {"subscribe": "anybody", "publish": "anybody", "history": history}
    }
    apps = {"default": {"open": True, "channels": channels}}
    features = ["messages", *CONFIG["features"]] if history else CONFIG["features"]
    config = {**CONFIG, "features": features, "apps": apps, "api": {}, "ntfy": {}}
    folder = tmp_path_factory.mktemp("history")
    with Server(
        folder, config=config, environment=installed, http_server="wsgi"
    ) as server:
        pair = Pair(own_listener(server), own_listener(server), [server])
        first, second = (
            send(pair, "/t", text, key="").json for text in (b"one", b"two")
        )
        polled = send(pair, f"/t/json?poll=1&since={first['id']}", b"", "", "GET")
        if history:
            assert json.loads(polled.body) == second
            whole = send(pair, "/t/raw?poll=1", b"", "", "GET")
            assert whole.body == b"one\ntwo\n"
        else:
            assert (polled.status, polled.json["code"]) == (400, 40008)


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
    with Server(
        tmp_path_factory.mktemp("guide"), config=config, environment=installed
    ) as server:
        text = session.text.replace("127.0.0.1:2586", own_listener(server))
        play_session(replace(session, text=text), tmp_path, server)
