"""The Python of the guides on session tokens and webhooks does what is said of
it, against a real server."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import jwt
import pytest

from imserver.backends.webhooks import requests, reviews
from imserver.gateway.config.settings import WebhookEvent
from imserver.gateway.transport.outgoing import signature
from tests import processes
from tests.conftest import StartServer
from tests.docs.markdown import Block, blocks, table_with
from tests.docs.product import listens
from tests.integration.cmd import cmd_client, fresh, logged_in, login_code, send_message
from tests.integration.receiver import Post, Receiver
from tests.ports import free_ports
from tests.support import HTTP_SERVERS, ROOT, eventually

TOKENS = ROOT / "docs" / "guides" / "session-tokens.md"
WEBHOOKS = ROOT / "docs" / "guides" / "webhooks.md"
SECRET = "0123456789abcdef" * 4


def the_block(page: Path, language: str, word: str) -> Block:
    """The only block of a page in this language with this word."""
    (found,) = (block for block in blocks(page, language) if word in block.words)
    return found


def defined(page: Path, word: str) -> dict[str, Any]:
    """What a Python block defines."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(
        compile(the_block(page, "python", word).text, f"{page.name}:{word}", "exec"),
        names,
    )
    return names


def test_the_token_that_is_shown_lets_its_user_in(start_server: StartServer) -> None:
    make = defined(TOKENS, "token")["session_token"]
    server = start_server(
        config={"apps": {"101": {"jwt": [{"algorithm": "HS256", "key": SECRET}]}}}
    )
    for proof, code in (
        (make("ann", "101", SECRET), 200),
        (make("bob", "101", SECRET), 1003),
        ("", 1003),
    ):
        assert login_code(server.ws, "ann", 101, serviceToken=proof) == code
    claims = jwt.decode(make("ann", "101", SECRET, 60), SECRET, ["HS256"])
    assert abs(claims["exp"] - time.time() - 60) < 50


def test_the_signature_is_verified_as_it_is_shown() -> None:
    verify = defined(WEBHOOKS, "verify")["is_from_imserver"]
    body = b'{"events":[]}'
    now = int(time.time())
    header = signature(SECRET.encode(), body, now)
    assert verify(SECRET, header, body)
    assert not verify("another secret", header, body)
    assert not verify(SECRET, header, body + b" ")
    assert not verify(SECRET, header.replace(str(now), str(now + 1)), body)
    assert not verify(SECRET, signature(SECRET.encode(), body, now - 301), body)
    for nonsense in ("", "t=1", "v1=x", "t=x,v1=x", "garbage", "=,="):
        assert not verify(SECRET, nonsense, body)


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_what_a_server_sends_is_verified_and_shaped_as_it_is_shown(
    start_server: StartServer, http_server: str
) -> None:
    verify = defined(WEBHOOKS, "verify")["is_from_imserver"]
    shown = {
        event["event"]: event
        for event in json.loads(the_block(WEBHOOKS, "json", "events").text)["events"]
    }
    question = json.loads(the_block(WEBHOOKS, "json", "question").text)
    with Receiver() as receiver:

        def reply(post: Post) -> tuple[int, bytes]:
            assert verify(SECRET, post.headers["imserver-signature"], post.body)
            return 200, b'{"allow":true}'

        receiver.reply = reply
        webhook = {
            **receiver.settings,
            "authorise_url": f"{receiver.url}/authorise",
            "secret": SECRET,
        }
        server = start_server(
            config={"apps": {"default": {"webhook": webhook}}}, http_server=http_server
        )
        with logged_in(
            server.ws, "ann", "default", device="phone", serviceToken="s3ss10n"
        ):
            send_message(
                server.http, "default", "bob", "Your order has left", "order-17"
            )
            events = {event["event"]: event for event in receiver.wait_for(3)}
        for name, example in shown.items():
            assert list(events[name]) == list(example), name
            for key in (
                "app",
                "user",
                "device",
                "dialect",
                "message",
                "sender",
                "type",
                "text",
            ):
                assert events[name].get(key) == example.get(key), key
        (sent,) = (post.json for post in receiver.posts if post.path == "/authorise")
        assert list(sent) == list(question)
        assert {name for name in sent if sent[name] != question[name]} <= {
            "time",
            "node",
            "address",
        }


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_messages_are_reviewed_as_it_is_shown(
    start_server: StartServer, http_server: str
) -> None:
    """The messages that are shown get the decisions that are shown."""
    question = json.loads(the_block(WEBHOOKS, "json", "review").text)
    decisions = json.loads(the_block(WEBHOOKS, "json", "decisions").text)["answers"]
    with Receiver() as receiver:
        webhook = {
            "secret": SECRET,
            "review_url": f"{receiver.url}/review",
            "review_seconds": 30,
        }
        server = start_server(
            config={"apps": {"101": {"webhook": webhook}}}, http_server=http_server
        )
        stored = []
        with logged_in(server.ws, "ann", 101) as one:
            for message, decision in zip(question["messages"], decisions, strict=True):
                answer = json.dumps({"answers": [decision]}).encode()
                receiver.reply = lambda _, answer=answer: (200, answer)  # type: ignore[misc]
                content = {
                    name: message[name]
                    for name in ("to", "text", "data")
                    if name in message
                }
                sent = one.ask_cmd(
                    "send", {**content, "clientMsgID": message.get("client_msg_id", "")}
                )
                stored.append(sent[::2])
            page = one.ask_cmd("sync", {"after": 0})[2]["messages"]
        questions = [post.json for post in receiver.posts]
        assert {tuple(each) for each in questions} == {tuple(question)}
        assert [
            message for each in questions for message in each["messages"]
        ] == question["messages"]
        assert [code for code, _ in stored] == [200, 200, 1003]
        assert stored[2][1] == {"reason": decisions[2]["reason"]}
        assert [each.get("text", each.get("data")) for each in page] == [
            "tea?",
            decisions[1]["data"],
        ]


def test_the_limits_of_reviews_are_those_that_are_shown() -> None:
    rows = {
        row["limit"]: row["value"]
        for row in table_with(WEBHOOKS, "limit", "value", "above the limit")
    }

    def mib(size: int) -> str:
        return f"{size >> 20} MiB"

    waiting = f"{requests.MAX_WAITING:,}, or {mib(reviews.MAX_WAITING_BYTES)}"
    request = f"{requests.BATCH_EVENTS} messages, and {requests.BATCH_BYTES >> 10} KiB if it has several messages"
    assert rows == {
        "messages of an app that wait on a node": waiting,
        "messages of one connection that wait": str(reviews.MAX_OF_CONNECTION),
        "one request": request,
        "answer": mib(reviews.ANSWER_BYTES),
        "content of a replacement": f"{reviews.CONTENT_BYTES >> 10} KiB",
    }


def test_every_event_is_in_the_table() -> None:
    listed = {
        row["event"] for row in table_with(WEBHOOKS, "event", "when", "other fields")
    }
    assert listed == {*get_args(WebhookEvent), "test"}


@contextmanager
def running(folder: Path) -> Iterator[tuple[int, Path]]:
    """The program that is shown; its port, and the file that it prints into."""
    program = folder / "back_end.py"
    printed = folder / "printed.txt"
    program.write_text(the_block(WEBHOOKS, "python", "receiver").text, encoding="utf-8")
    port = free_ports()
    command = [sys.executable, str(program), str(port)]
    environment = {**os.environ, "WEBHOOK_SECRET": SECRET}
    with (
        printed.open("wb") as output,
        processes.running(command, stdout=output, env=environment),
    ):
        eventually(lambda: listens(port), what="the back end")
        yield port, printed


def test_the_back_end_to_begin_with_gets_events_and_decides(
    start_server: StartServer, tmp_path: Path
) -> None:
    with running(tmp_path) as (port, printed):
        url = f"http://127.0.0.1:{port}"
        webhook = {
            "url": f"{url}/events",
            "events": ["connect", "login", "disconnect"],
            "secret": SECRET,
        }
        webhook |= {
            "authorise_url": f"{url}/authorise",
            "review_url": f"{url}/review",
            "review_seconds": 30,
        }
        server = start_server(config={"apps": {"101": {"webhook": webhook}}})
        user = fresh()
        for proof, code in (("s3ss10n", 200), ("another", 1003)):
            with cmd_client(server.ws) as one:
                login = {"userID": user, "appID": 101, "serviceToken": proof}
                assert one.ask_cmd("login", login)[0] == code
                if code == 200:
                    refused = one.ask_cmd("send", {"to": "x", "text": "buy now"})[2]
                    assert refused == {"reason": "No advertising"}
                    assert (
                        one.ask_cmd("send", {"to": "x", "text": "damn rain"})[0] == 200
                    )
                    page = one.ask_cmd("sync", {"after": 0})[2]
                    assert [each["text"] for each in page["messages"]] == ["**** rain"]
        lines = [f"{event} {user}" for event in ("connect", "login", "disconnect")]
        eventually(
            lambda: printed.read_text().splitlines() == lines, what=printed.read_text()
        )
