"""Who may do what, errors as the protocol wants them, events with cursors, and
nodes that are killed."""

import json
import re
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from conftest import (
    KEY,
    META,
    OPTIONS,
    Site,
    people,
    post,
    question,
    rpc,
    running,
    tool,
)
from imserver_mcp import FEATURE
from imserver_mcp.declared import Hook, Hooks, Task, TaskCall, What
from imserver_mcp.protocol import Code, McpError, Seal, plain_header
from imserver_mcp.receipts import KEY as KEY_OF_META
from imserver_mcp.tasks import TaskRows
from standardwebhooks import Webhook

from imserver.plugin.identity import Principal
from imserver.plugin.storage import Store
from imserver.plugin.testing import check_tables, eventually
from tests.docs.markdown import blocks
from tests.docs.play import play_session
from tests.integration.receiver import Answer, Post, Receiver
from tests.sdk.node import run
from tests.support import ROOT, Server
from tests.users import User

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


# --- who may do what ----------------------------------------------------------


def test_without_a_token_a_client_is_told_where_to_look(site: Site) -> None:
    status, error, headers = post(site.url(), PING, Host="evil.example")
    assert (status, error["error"]["data"]["code"]) == (401, "unauthorized")
    # the server does not know its address
    assert headers["WWW-Authenticate"] == "Bearer"
    metadata = site.last.get("/.well-known/oauth-protected-resource/mcp").json
    assert metadata["resource"] == site.url()
    assert post(site.url(), PING, "no-such-token")[0] == 401
    assert (
        post(site.url(), PING, site.bot.token, Origin="https://evil.example")[0] == 403
    )


def test_an_agent_reads_what_its_user_may_read_and_no_more(site: Site) -> None:
    secret = site.ann.post(
        "messages/send", to=site.bob.user, text="between us: pelican"
    )
    mine = tool(site.url(), site.bot.token, "search", text="pelican")
    assert mine["messages"] == []
    theirs = tool(site.url(), site.bob.token, "search", text="pelican")
    assert [each["text"] for each in theirs["messages"]] == ["between us: pelican"]
    for uri in (
        f"imserver://messages/{secret['id']}",
        f"imserver://conversations/{secret['conversation']}",
    ):
        assert (
            rpc(site.url(), site.bot.token, "resources/read", uri=uri)["code"]
            == Code.BAD_PARAMS
        )
        assert (
            "pelican"
            in rpc(site.url(), site.bob.token, "resources/read", uri=uri)["contents"][
                0
            ]["text"]
        )


def test_a_key_names_the_user_in_the_address_and_no_tool_names_another(
    site: Site,
) -> None:
    url = f"{site.url()}?user={site.ann.user}"
    sent = tool(url, KEY, "send", to=site.bob.user, text="by key")
    assert sent["id"] > 0
    other = rpc(
        url,
        KEY,
        "tools/call",
        name="send",
        arguments={"to": "1", "text": "x", "user": site.bob.user},
    )
    assert other["isError"]
    assert "Unknown: user; this tool has text, to" in other["content"][0]["text"]
    nobody = rpc(
        site.url(),
        KEY,
        "tools/call",
        name="send",
        arguments={"to": site.bob.user, "text": "x"},
    )
    assert nobody["isError"]
    foreign = post(url, PING, site.bot.token)
    assert foreign[0] == 403


def test_an_agent_finds_people_by_name_and_sees_names_beside_ids(site: Site) -> None:
    found = tool(site.url(), site.bot.token, "find_people", text="bo")["people"]
    assert site.bob.user in [each["user"] for each in found if each["name"] == "Bob"], (
        found
    )
    sent = tool(site.url(), site.bot.token, "send", to=site.bob.user, text="found you")
    page = tool(
        site.url(), site.bot.token, "history", conversation=sent["conversation"]
    )
    assert page["names"][site.bob.user] == "Bob"


def test_what_a_model_got_wrong_is_an_error_of_the_tool_that_it_can_correct(
    site: Site,
) -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("send", {"to": "Bob", "text": "x"}, "find_people"),
        ("ask", {"to": "999999999", "text": "x"}, "find_people"),
        ("read", {"conversations": 1}, "conversations"),
        ("read", {"limit": "many"}, "limit"),
        ("read", {"cursor": "x"}, "cursor"),
        ("read", {"conversation": 999_999}, "unknown_conversation"),
        ("who_is_online", {"user": "1"}, "user"),
    ]
    for name, given, has in wrong:
        result = rpc(
            site.url(), site.bot.token, "tools/call", name=name, arguments=given
        )
        assert result["isError"], (name, given, result)
        assert has in result["content"][0]["text"], (name, given, result)


def test_nothing_is_read_that_was_not_shown(site: Site) -> None:
    for number in range(60):
        site.ann.post(
            "messages/send", to=site.bot.user, text=f"{number:02} {'a' * 3000}"
        )
    texts: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = tool(site.url(), site.bot.token, "read", **cursor)
        # its client has lost it
        assert page == tool(site.url(site.first), site.bot.token, "read", **cursor)
        assert len(json.dumps(page)) < 200_000
        texts += [
            each["text"] for row in page["conversations"] for each in row["messages"]
        ]
        if "cursor" not in page:
            break
        cursor = {"cursor": page["cursor"]}
    assert [text[:2] for text in texts if text[2:3] == " "] == [
        f"{number:02}" for number in range(60)
    ]


def test_a_page_of_another_origin_may_send_the_headers_of_mcp(site: Site) -> None:
    preflight = Request(
        site.url(), method="OPTIONS", headers={"Origin": "https://shop.example"}
    )
    with urlopen(preflight, timeout=60) as answer:
        allowed = ", ".join(
            answer.headers.get_all("Access-Control-Allow-Headers")
        ).split(", ")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    # the star does not cover Authorization
    assert {"Authorization", "Last-Event-ID", "*"} <= set(allowed)
    headers = post(site.url(), PING)[2]
    assert "WWW-Authenticate" in headers.get_all("Access-Control-Expose-Headers")


# --- people who answer --------------------------------------------------------


def test_an_agent_asks_and_waits(site: Site) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = {
            "to": site.bob.user,
            "text": "Deploy?",
            "options": OPTIONS,
            "client_msg_id": "deploy-1",
        }
        waiting = pool.submit(tool, site.url(), site.bot.token, "ask", **asked)
        site.bob.post(
            "asks/answer", id=question(site.bob, site.bot.user)["id"], value="yes"
        )
        answer = waiting.result(60)
        assert (answer["state"], answer["answers"][0]["value"]) == ("answered", "yes")
        again = tool(site.url(), site.bot.token, "ask", **asked)
        assert (again["id"], again["state"]) == (answer["id"], "answered")


def test_a_person_decides_what_a_tool_may_do(
    installed: dict[str, str], tmp_path: Path
) -> None:
    apps = {"gochat": {"mcp": {"confirm": ["send"], "confirm_seconds": 60}}}
    with (
        running(tmp_path / "nodes", installed, 1, apps=apps) as (server,),
        ThreadPoolExecutor(1) as pool,
    ):
        ann, bob, bot = people(server)
        url = f"{server.http_url}/mcp"
        for value in ("no", "yes"):
            text = f"shall be sent after {value}"
            call = {"name": "send", "arguments": {"to": bob.user, "text": text}}
            waiting = pool.submit(rpc, url, bot.token, "tools/call", **call)
            ann.post("asks/answer", id=question(ann, bot.user)["id"], value=value)
            result = waiting.result(60)
            assert result["isError"] is (value == "no"), result
        got = [
            each.get("text") for each in bob.get("messages/sync", after=0)["messages"]
        ]
        assert got == ["shall be sent after yes"]
        person = rpc(
            url,
            ann.token,
            "tools/call",
            name="send",
            arguments={"to": bob.user, "text": "x"},
        )
        assert person["isError"]  # nobody can be asked
        call = {
            "name": "send",
            "arguments": {"to": bob.user, "text": f"{'a' * 2000} the end \u202eyenom"},
        }
        waiting = pool.submit(rpc, url, bot.token, "tools/call", **call)
        asked = question(ann, bot.user)
        assert "the end" in asked["text"]  # all of what is done
        assert f"{bob.user}: Bob" in asked["text"]
        assert r"\u202eyenom" in asked["text"]  # what would be seen in another order
        ann.post("asks/answer", id=asked["id"], value="no")
        waiting.result(60)
        call["arguments"]["text"] = "a" * 100_000
        assert (
            "too long"
            in rpc(url, bot.token, "tools/call", **call)["content"][0]["text"]
        )


def test_a_yes_permits_what_was_asked_and_nothing_else(
    installed: dict[str, str], tmp_path: Path
) -> None:
    apps = {"gochat": {"mcp": {"confirm": ["send"], "confirm_seconds": 60}}}
    with (
        running(tmp_path / "nodes", installed, 1, apps=apps) as (server,),
        ThreadPoolExecutor(1) as pool,
    ):
        ann, bob, bot = people(server)
        call = {
            "name": "send",
            "arguments": {"to": bob.user, "text": "TRANSFER ALL MONEY"},
        }
        waiting = pool.submit(
            rpc, f"{server.http_url}/mcp", bot.token, "tools/call", **call
        )
        asked = question(ann, bot.user)["id"]
        for editor in (bot, User(server, KEY)):
            refused = editor.refused(
                "messages/edit", id=asked, text="May I say good morning?"
            )
            assert refused == (403, "not_allowed")
        (database,) = server.folder.rglob("*.db")
        # as if a node of before had stored the edit
        with closing(sqlite3.connect(database)) as store, store:
            change = "UPDATE message SET body = ? WHERE id = ?"
            assert (
                store.execute(change, (b"May I say good morning?", asked)).rowcount == 1
            )
        ann.post("asks/answer", id=asked, value="yes")
        result = waiting.result(60)
        assert (result["isError"], KEY_OF_META in result.get("_meta", {})) == (
            True,
            False,
        )
        assert "was changed" in result["content"][0]["text"]
        assert bob.get("messages/sync", after=0)["messages"] == []


@pytest.mark.full("processes")  # the server has the client come again after 50 seconds
def test_the_yes_of_a_person_counts_once(
    installed: dict[str, str], tmp_path: Path
) -> None:
    apps = {"gochat": {"mcp": {"confirm": ["send"], "confirm_seconds": 300}}}
    with running(tmp_path / "nodes", installed, 1, apps=apps) as (server,):
        ann, bob, bot = people(server)
        url = f"{server.http_url}/mcp"
        call = {"name": "send", "arguments": {"to": bob.user, "text": "once"}}
        late = rpc(url, bot.token, "tools/call", **call)
        assert late["resultType"] == "input_required"
        ann.post("asks/answer", id=question(ann, bot.user)["id"], value="yes")
        again = {**call, "requestState": late["requestState"]}
        results = [rpc(url, bot.token, "tools/call", **again) for _ in range(2)]
        assert [
            (each["isError"], KEY_OF_META in each["_meta"]) for each in results
        ] == [
            (False, True),
            (True, False),
        ]
        assert [
            each.get("text") for each in bob.get("messages/sync", after=0)["messages"]
        ] == ["once"]


# --- the protocol -------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[]", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32602),
        (b"\xff", -32700),
        (b"[" * 100_000, -32700),
    ],
)
def test_what_is_no_message_is_refused(site: Site, body: bytes, code: int) -> None:
    status, answer, _ = post(site.url(), body, site.bot.token)
    assert (status, answer["error"]["code"]) == (400, code)


def test_a_message_with_too_many_values_is_refused_before_they_are_made(
    site: Site,
) -> None:
    many = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":[%b1]}}' % (
        b"[]," * 100_000
    )
    status, answer, _ = post(site.url(), many, site.bot.token)
    assert (status, answer["error"]["data"]) == (413, {"code": "body_too_large"})


def test_headers_have_to_say_what_the_body_says(site: Site) -> None:
    body = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "tools/list",
        "params": {"_meta": META},
    }
    good = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/list"}
    assert post(site.url(), body, site.bot.token, **good)[0] == 200
    for wrong in ({"Mcp_Method": "tools/call"}, {"MCP_Protocol_Version": "2025-11-25"}):
        status, answer, _ = post(site.url(), body, site.bot.token, **{**good, **wrong})
        assert (status, answer["id"], answer["error"]["code"]) == (400, 7, -32020)
    assert plain_header("=?base64?c2VuZA==?=") == "send"
    assert plain_header("=?base64?!?=") is None


def test_a_state_is_good_for_its_request_alone() -> None:
    seal = Seal((b"new", b"old"))
    text = Seal((b"old",)).make({"question": 7}, b"ann: send")
    assert seal.read(text, b"ann: send") == {"question": 7}
    for wrong, bound in (
        (text, b"bob: send"),
        (text + "AAAA", b"ann: send"),
        ("", b"ann: send"),
        ("é", b""),
    ):
        with pytest.raises(McpError):
            seal.read(wrong, bound)


def test_a_long_list_has_pages(site: Site) -> None:
    for number in range(3):
        bob = people(site.first)[1]
        tool(site.url(), site.bot.token, "send", to=bob.user, text=f"hello {number}")
    names = []
    cursor = {}
    while True:
        page = rpc(site.url(), site.bot.token, "resources/list", **cursor)
        names += [each["uri"] for each in page["resources"]]
        if "nextCursor" not in page:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert len(names) == len(set(names)) > 3
    assert (
        rpc(site.url(), site.bot.token, "resources/list", cursor="9:x")["code"]
        == Code.BAD_PARAMS
    )


# --- events -------------------------------------------------------------------


class HookReceiver(Receiver):
    """Takes webhooks, and verifies their signatures."""

    def forget(self) -> None:
        super().forget()
        self.events: list[dict[str, Any]] = []
        self.is_down = False
        self.reply = self.take

    def take(self, post: Post) -> Answer:
        document = Webhook(SECRET).verify(post.body, post.headers)
        if self.is_down:
            return 503, b"", {"Connection": "close"}
        if document.get("type") == "verification":
            return 200, json.dumps({"challenge": document["challenge"]}).encode()
        self.events.append(document)
        return 200, b"{}"

    def texts(self) -> list[str]:
        """The texts of the messages, each once, in the order of their first
        delivery."""
        return list(dict.fromkeys(each["data"]["text"] for each in self.events))


def listening(site: Site, **wanted: Any) -> Request:
    notifications = wanted or {"resourceSubscriptions": ["imserver://conversations"]}
    params = {"_meta": META, "notifications": notifications}
    body = {
        "jsonrpc": "2.0",
        "id": "s",
        "method": "subscriptions/listen",
        "params": params,
    }
    headers = {
        "Authorization": f"Bearer {site.bot.token}",
        "Accept": "text/event-stream, application/json",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "subscriptions/listen",
    }
    return Request(site.url(), json.dumps(body).encode(), headers)


def subscribe(site: Site, url: str, **more: Any) -> Any:
    delivery = {"mode": "webhook", "url": url, "secret": SECRET}
    params = {"name": "message.created", "arguments": {}, "delivery": delivery, **more}
    return rpc(site.url(), site.bot.token, "events/subscribe", **params)


def test_an_agent_polls_from_its_cursor(site: Site) -> None:
    def poll(**more: Any) -> Any:
        return rpc(
            site.url(), site.bot.token, "events/poll", name="message.created", **more
        )

    begin = poll(cursor=None)
    assert (begin["events"], begin["hasMore"], begin["truncated"]) == ([], False, False)
    for number in range(3):
        site.bob.post("messages/send", to=site.bot.user, text=f"wake {number}")
    first = poll(cursor=begin["cursor"], maxEvents=2)
    rest = poll(cursor=first["cursor"])
    texts = [each["data"]["text"] for each in (*first["events"], *rest["events"])]
    assert texts == ["wake 0", "wake 1", "wake 2"]
    assert (first["hasMore"], rest["hasMore"]) == (True, False)
    assert (
        poll(cursor=begin["cursor"], arguments={"from": site.ann.user})["events"] == []
    )
    assert poll(cursor="99999999")["truncated"]
    assert poll(cursor="x")["code"] == Code.BAD_PARAMS
    assert (
        rpc(site.url(), site.bot.token, "events/poll", name="no.such")["code"] == -32011
    )


def test_a_sleeping_agent_is_woken(site: Site) -> None:
    with HookReceiver() as receiver:
        answer = subscribe(site, receiver.url)
        assert answer["id"].startswith("sub_")
        assert answer["truncated"] is False
        site.bob.post("messages/send", to=site.bot.user, text="good morning")
        eventually(lambda: receiver.texts() == ["good morning"], what="the event")
        event = receiver.events[0]
        assert (event["name"], event["data"]["from"]) == (
            "message.created",
            site.bob.user,
        )
        assert subscribe(site, receiver.url)["id"] == answer["id"]
        delivery = {"delivery": {"url": receiver.url}, "name": "message.created"}
        assert "code" not in rpc(
            site.url(), site.bot.token, "events/unsubscribe", **delivery
        )
        assert (
            rpc(site.url(), site.bot.token, "events/unsubscribe", **delivery)["code"]
            == -32011
        )


def test_what_goes_on_for_an_agent_ends_with_its_token(site: Site) -> None:
    """A webhook and a stream, of a bot whose token is replaced, and of people
    whose password changes or who log out on that device; a webhook of a key
    that is revoked; and a question of the bot."""
    first, _, bot = people(site.first)
    second, third, _ = people(site.first)
    made = User(site.first, KEY).post("keys/create", scopes=["admin"])
    by_key = Site(
        site.first,
        site.last,
        first,
        first,
        User(site.first, made["secret"], first.user),
    )
    with (
        HookReceiver() as receiver,
        ExitStack() as stack,
        ThreadPoolExecutor(1) as pool,
    ):
        given = {"to": first.user, "text": "Go on?", "options": OPTIONS}
        waiting = pool.submit(
            rpc, site.url(), bot.token, "tools/call", name="ask", arguments=given
        )
        asked = question(first, bot.user)["id"]
        streams = []
        for number, user in enumerate((bot, second, third)):
            as_user = site._replace(bot=user)
            assert "id" in subscribe(as_user, f"{receiver.url}/{number}")
            streams.append(stack.enter_context(urlopen(listening(as_user), timeout=60)))
            assert b"acknowledged" in next(
                line for line in streams[-1] if line.startswith(b"data: ")
            )
        delivery = {"mode": "webhook", "url": receiver.url, "secret": SECRET}
        where = f"{site.url(site.first)}?user={first.user}"
        wanted = {"name": "message.created", "arguments": {}, "delivery": delivery}
        assert "id" in rpc(where, by_key.bot.token, "events/subscribe", **wanted)
        for user in (bot, second, third, first):
            site.bob.post("messages/send", to=user.user, text="before")
        heard = sorted(user.user for user in (bot, second, third, first))
        receivers = lambda: sorted(each["data"]["to"] for each in receiver.events)  # noqa: E731
        eventually(lambda: receivers() == heard, what="all of them hear", seconds=20)
        first.post("bots/rotate", bot=bot.user)
        second.post(
            "accounts/password", old_password="correct horse", password="battery staple"
        )
        device = third.get("accounts/devices")["devices"][0]["device"]
        third.post("accounts/devices/logout", device=device)
        User(site.first, KEY).post("keys/revoke", id=made["key"]["id"])
        eventually(
            lambda: post(site.url(), PING, made["secret"])[0] == 401,
            what="all nodes know",
        )
        for user in (bot, second, third, first):
            site.bob.post("messages/send", to=user.user, text="after")
        for stream in streams:
            stream.read()  # it ends
        site.bob.post("messages/send", to=site.bot.user, text="heard")
        subscribe(site, f"{receiver.url}/last", cursor="0")
        eventually(lambda: "heard" in receiver.texts(), what="the one who may")
        assert "after" not in receiver.texts()
        assert waiting.result(60)["isError"]
        assert first.post("asks/get", id=asked)["state"] == "cancelled"


def test_who_does_not_answer_the_challenge_gets_no_events(site: Site) -> None:
    with HookReceiver() as receiver:
        receiver.is_down = True
        assert subscribe(site, f"{receiver.url}/2")["code"] == -32015
    refused = subscribe(site, receiver.url + "/3")
    assert (refused["code"], refused["data"]["reason"]) == (
        -32015,
        "connection_refused",
    )
    assert subscribe(site, "https://10.0.0.1/hook")["code"] == Code.BAD_PARAMS


def test_a_stream_tells_of_changes_of_resources(site: Site) -> None:
    sent = site.bob.post("messages/send", to=site.bot.user, text="first")
    uri = f"imserver://conversations/{sent['conversation']}"
    wanted = {
        "resourceSubscriptions": [uri, "imserver://messages/1"],
        "toolsListChanged": True,
    }
    with urlopen(listening(site, **wanted), timeout=60) as stream:
        lines = (json.loads(line[6:]) for line in stream if line.startswith(b"data: "))
        acknowledged = next(lines)
        assert acknowledged["params"]["notifications"] == {
            "resourceSubscriptions": [uri]
        }
        site.bob.post("messages/send", to=site.bot.user, text="second")
        changed = next(lines)
        assert changed["params"]["uri"] == uri
        assert changed["params"]["_meta"] == {
            "io.modelcontextprotocol/subscriptionId": "s"
        }


# --- nodes that are killed ----------------------------------------------------


def test_nothing_is_lost_or_done_twice_if_a_node_is_killed(
    installed: dict[str, str], tmp_path: Path
) -> None:
    with running(tmp_path, installed, 2) as servers, HookReceiver() as receiver:
        first, last = servers
        ann, bob, bot = people(first)
        site = Site(first, last, ann, bob, bot)
        subscribe(site, receiver.url)
        cursor = rpc(
            site.url(), bot.token, "events/poll", name="message.created", cursor=None
        )["cursor"]
        once = {"to": bob.user, "text": "exactly once", "client_msg_id": "a-1"}
        before = tool(site.url(first), bot.token, "send", **once)
        bob.server = last
        for number in range(20):
            bob.post("messages/send", to=bot.user, text=f"event {number}")
            if number == 9:
                first.process.kill()
        again = tool(site.url(), bot.token, "send", **once)
        assert (again["id"], again["repeated"]) == (before["id"], True)
        wanted = [f"event {number}" for number in range(20)]
        page = rpc(
            site.url(), bot.token, "events/poll", name="message.created", cursor=cursor
        )
        assert [each["data"]["text"] for each in page["events"]] == wanted
        eventually(lambda: receiver.texts() == wanted, what="all events, in order")


def test_the_guide_does_what_it_says(installed: dict[str, str], tmp_path: Path) -> None:
    guide = ROOT / "docs" / "guides" / "agents.md"
    settings, confirm = blocks(guide, "yaml")
    sessions = [
        block for block in blocks(guide, "console") if block.words == ("agents",)
    ]
    config = yaml.safe_load(settings.text)
    with Server(tmp_path / "node", config=config, environment=installed) as server:
        session = replace(sessions[0], text="".join(block.text for block in sessions))
        play_session(session, tmp_path, server)
        (script,) = [
            block for block in blocks(guide, "python") if block.words == ("agent.py",)
        ]
        token = next(
            iter(re.findall(r"bot_[0-9][^\"]*", (tmp_path / "bot.json").read_text()))
        )
        (tmp_path / "agent.py").write_text(script.text, encoding="utf-8")
        shown = run(
            [sys.executable, "agent.py"],
            tmp_path,
            MCP_URL=f"{server.http_url}/mcp",
            BOT_TOKEN=token,
        )
        assert shown == "I have read 1 messages.\n"
        again = run(
            [sys.executable, "agent.py"],
            tmp_path,
            MCP_URL=f"{server.http_url}/mcp",
            BOT_TOKEN=token,
        )
        assert again == ""
        yaml.safe_load(confirm.text)


# --- rows ---------------------------------------------------------------------


def test_its_rows_are_erased_and_exported() -> None:
    def fill(store: Store, app: str, user: str) -> None:
        what = What(
            f"bot:{app}/{user}", "https://x.example", "message.created", {}, SECRET
        )
        id = what.id_for(app, user)
        until = int(time.time()) + 60
        Hooks(store).put(
            Hook(id=id, app=app, user=user, what=what, position=1, expires=until)
        )
        by = Principal("bot", apps=frozenset({app}), user=user)
        call = TaskCall(by, "", "send", {}, {}, True)
        TaskRows(store).add(Task(app=app, user=user, what=call, question=7), 60, 10)

    check_tables(FEATURE, fill)
