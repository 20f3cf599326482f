"""Slack's own client for Python, unmodified, at the workspace of the tests."""

from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from typing import Any

import pytest
from fake_slack import ANN, APP, BOB, BOT, CAT, ROBOT, TEA, FakeSlack

from imserver.plugin.testing import eventually

pytest.importorskip("slack_sdk")
from slack_sdk.errors import SlackApiError
from slack_sdk.socket_mode import SocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web import WebClient
from slack_sdk.webhook import WebhookClient


@pytest.fixture
def slack() -> Iterator[FakeSlack]:
    with FakeSlack().running() as running:
        yield running


def test_the_web_api(slack: FakeSlack) -> None:
    client = WebClient(BOT, base_url=f"{slack.address}/api/")
    root = slack.say("root")
    reply = slack.say("reply", BOB, thread_ts=root["ts"])
    slack.react(reply, "tada")
    slack.page = 1

    def rows(field: str, pages: Any) -> list[Any]:
        return list(chain.from_iterable(each[field] for each in pages))

    assert [each["id"] for each in rows("members", client.users_list(limit=200))] == [
        ANN,
        BOB,
        CAT,
        ROBOT,
    ]
    assert client.users_info(user=ANN)["user"]["name"] == "ann"
    channels = client.conversations_list(
        types="public_channel,private_channel,mpim", limit=200
    )
    assert [each["is_member"] for each in rows("channels", channels)] == [True]
    assert rows("members", client.conversations_members(channel=TEA)) == [
        ANN,
        BOB,
        CAT,
        ROBOT,
    ]
    assert client.conversations_info(channel=TEA)["channel"]["name"] == "tea"
    assert client.conversations_join(channel=TEA)["channel"]["id"] == TEA
    history = rows("messages", client.conversations_history(channel=TEA, oldest="1.0"))
    assert [(each["text"], each["latest_reply"]) for each in history] == [
        ("root", reply["ts"])
    ]
    replies = rows("messages", client.conversations_replies(channel=TEA, ts=root["ts"]))
    assert [each["text"] for each in replies] == ["root", "reply"]
    message = client.reactions_get(channel=TEA, timestamp=reply["ts"], full=True)[
        "message"
    ]
    assert [each["name"] for each in message["reactions"]] == ["tada"]
    with pytest.raises(SlackApiError, match="channel_not_found"):
        client.conversations_info(channel="C0000LOST")
    with pytest.raises(SlackApiError, match="invalid_auth"):
        WebClient("xoxb-other", base_url=f"{slack.address}/api/").users_list()
    slack.limited = {"users.list": 1}
    with pytest.raises(SlackApiError) as caught:
        client.users_list()
    assert (
        caught.value.response.status_code,
        caught.value.response.headers["Retry-After"],
    ) == (429, "0")


def test_incoming_webhooks(slack: FakeSlack) -> None:
    block = {
        "type": "section",
        "block_id": "imserver.7",
        "text": {"type": "mrkdwn", "text": "*Ann*\nhello"},
    }
    answer = WebhookClient(f"{slack.address}/services/{TEA}").send(
        text="Ann: hello", blocks=[block]
    )
    assert (answer.status_code, answer.body) == (200, "ok")
    assert slack.messages[TEA][0]["blocks"] == [block]


def test_socket_mode(slack: FakeSlack) -> None:
    texts: list[str] = []

    def hear(client: Any, request: SocketModeRequest) -> None:
        texts.append(f"{request.payload['event']['text']} {request.retry_attempt}")
        if len(texts) > 1:
            client.send_socket_mode_response(
                SocketModeResponse(envelope_id=request.envelope_id)
            )

    web = WebClient(BOT, base_url=f"{slack.address}/api/")
    with closing(SocketModeClient(APP, web_client=web)) as client:
        client.socket_mode_request_listeners.append(hear)
        client.connect()
        slack.wait(lambda: slack.sockets)
        slack.say("said")
        eventually(lambda: texts == ["said 0"])
        slack.repeat()
        eventually(lambda: texts == ["said 0", "said 1"])
        slack.wait(lambda: not slack.envelopes)
        slack.send(
            {"type": "disconnect", "reason": "refresh_requested", "debug_info": {}}
        )
        eventually(lambda: slack.calls.count("apps.connections.open") == 2)
        slack.wait(lambda: len(slack.sockets) == 1)
        slack.say("more")
        eventually(lambda: "more 0" in texts)
