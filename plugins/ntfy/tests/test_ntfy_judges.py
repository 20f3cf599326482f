"""Clients of ntfy, unmodified, with this server: Apprise, python-ntfy, ntfpy, npm's ntfy, curl."""

import asyncio
import gc
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apprise
import ntfpy
import pytest
import python_ntfy
from conftest import KEPT, PUSH_KEY, READ_KEY, Pair, token
from websockets.sync.client import connect

from tests.sdk.node import run_node
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
    """Publish by curl; the answer."""
    command = [
        "curl",
        "-s",
        "-H",
        f"Authorization: Bearer {PUSH_KEY}",
        *arguments,
        f"http://{pair.publish}/{topic}",
    ]
    answer: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    return answer


def poll(pair: Pair, topic: str, query: str = "") -> list[dict[str, Any]]:
    """The messages that are kept, by curl."""
    with curl(f"http://{pair.subscribe}/{topic}/json?poll=1{query}") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_apprise_publishes(pair: Pair) -> None:
    actions = quote("view, Öffnen, https://example.com/a?b=1, clear=true; http, Close, https://example.com/c")
    options = f"priority=high&tags=é,b&click=https://example.com/x&attach=https://example.com/f.png&actions={actions}"
    topic = f"ntfy://back-end:{PUSH_KEY}@{pair.publish}/apprise?{options}"
    sender = apprise.Apprise()
    assert sender.add(topic)
    assert sender.add(f"ntfy://{PUSH_KEY}@{pair.publish}/apprise?auth=token&format=markdown")
    assert sender.notify(body="the body", title="the title")
    first, second = sorted(
        poll(pair, "apprise"), key=lambda message: message.get("priority", 0), reverse=True
    )
    assert (first["title"], first["message"], first["priority"]) == ("the title", "the body", 4)
    assert (sorted(first["tags"]), first["click"]) == (["b", "é"], "https://example.com/x")
    assert [(each["label"], each["url"], each.get("clear")) for each in first["actions"]] == [
        ("Öffnen", "https://example.com/a?b=1", True),
        ("Close", "https://example.com/c", None),
    ]
    assert first["attachment"] == {"name": "f.png", "url": "https://example.com/f.png"}
    assert (second["content_type"], second["expires"] - second["time"]) == (
        "text/markdown",
        KEPT["history_seconds"],
    )
    assert not _notified(f"ntfy://{READ_KEY}@{pair.publish}/apprise?auth=token"), "the key only reads"


def _notified(url: str) -> bool:
    sender = apprise.Apprise()
    assert sender.add(url)
    return bool(sender.notify(body="x"))


def test_python_ntfy_publishes_and_reads(pair: Pair) -> None:
    client = python_ntfy.NtfyClient("python", f"http://{pair.publish}", auth=("ann", token("ann")))
    actions = [
        python_ntfy.ViewAction("Open", "https://example.com", clear=True),
        python_ntfy.HttpAction("Close", "https://example.com/door", "PUT", {"X-A": "1"}, '{"a":1}'),
    ]
    sent = client.send(
        "hello", "title", python_ntfy.MessagePriority.MAX, ["skull"], actions, format_as_markdown=True
    )
    reader = python_ntfy.NtfyClient("python", f"http://{pair.subscribe}", auth=("bob", token("bob")))
    (found,) = reader.get_cached_messages()
    assert found == sent
    assert [(each["action"], each["label"], each["url"]) for each in found["actions"]] == [
        ("view", "Open", "https://example.com"),
        ("http", "Close", "https://example.com/door"),
    ]
    assert (found["actions"][1]["headers"], found["actions"][1]["body"]) == ({"X-A": "1"}, '{"a":1}')
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
        answer = ntfpy.raw_send(
            f"http://{pair.publish}", "ntfpy", "hello", f":{PUSH_KEY}", title="t", tags=["x"]
        )
        assert answer.status_code == 200
        message = json.loads(_next(lines))
        assert (message["message"], message["title"], message["tags"]) == ("hello", "t", ["x"])
    with pytest.raises(Enough):
        asyncio.run(
            ntfpy.raw_subscribe(f"http://{pair.subscribe}", "ntfpy/json?since=all&x=", f":{READ_KEY}", handle)
        )
    assert received[0].message == "hello"
    gc.collect()  # ntfpy leaves its connection open


@pytest.mark.needs("node")
def test_npm_ntfy_publishes(pair: Pair) -> None:
    package = NODE_MODULES / "ntfy" / "dist" / "index.js"
    script = Path(__file__).with_name("ntfy.test.mjs")
    run_node(str(script), NTFY=package.as_uri(), SERVER=f"http://{pair.publish}", KEY=PUSH_KEY)
    (message,) = poll(pair, "npm")
    assert (message["title"], message["message"], message["priority"]) == ("title", "hello", 5)
    assert [each["label"] for each in message["actions"]] == ["Open", "Close"]
    assert message["attachment"] == {"name": "f.png", "url": "https://example.com/f.png"}


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
        low = publish(pair, "streams", "-d", "two\nlines", "-H", "Title: =?UTF-8?B?w4XDhA==?=")
        high = publish(
            pair, "other", "-T", __file__, "-H", "Message: put", "-H", "X-Tags: a,b", "-H", "p: urgent"
        )
        assert low["title"] == "ÅÄ"
        assert json.loads(_next(lines)) == low
        assert '"open"' in events.readline()
        assert _data(events) == low
        assert _next(texts) == "two lines\n"
        assert json.loads(socket.recv(60)) == high


def _next(lines: Any) -> str:
    """The next line with a message."""
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
    sent = [publish(pair, "since", "-d", text, "-H", f"Tags: {text},all") for text in ("one", "two", "three")]
    not_kept = publish(pair, "since", "-d", "four", "-H", "Cache: no")
    assert "expires" not in not_kept
    assert poll(pair, "since") == poll(pair, "since", "&since=1h30m") == sent
    assert poll(pair, "since", f"&since={sent[0]['id']}") == sent[1:]
    assert poll(pair, "since", "&since=latest") == sent[2:]
    assert poll(pair, "since", f"&since={sent[0]['time'] + 60}") == poll(pair, "since", "&since=none") == []
    assert poll(pair, "since", "&tags=all,two&scheduled=1") == sent[1:2]
    assert poll(pair, "since", f"&id={sent[0]['id']}") == poll(pair, "since", "&message=one") == sent[:1]
    assert poll(pair, "since", "&priority=5") == []
    with curl(f"http://{pair.subscribe}/since/json?since={sent[1]['id']}") as lines:
        assert json.loads(lines.readline())["event"] == "open"
        assert json.loads(_next(lines)) == sent[2]
        five = publish(pair, "since", "-d", "five")
        assert json.loads(_next(lines)) == five
        assert any('"keepalive"' in line for line in lines)
