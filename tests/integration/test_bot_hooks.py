"""Webhooks of bots over sockets, one of which hangs; and an incoming webhook."""

import threading

import pytest

from tests.support import Server, eventually

from .raw import ask, request
from .receiver import Answer, Post, Receiver
from .setting import Launch
from .test_v1_accounts import Person
from .v1 import good

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def server(launch: Launch, http_server: str) -> Server:
    one = launch(http_server, bots={"allow_loopback": True})
    good(one.http, "accounts/rules")  # the first request of this kind loads most; others need not wait for it
    return one


def test_a_webhook_that_hangs_delays_neither_other_bots_nor_the_server(server: Server) -> None:
    owner, over = Person(server, nickname="Owner"), threading.Event()
    bots = {name: owner.good("bots", {"name": f"{name}_bot"})["id"] for name in ("hung", "live")}

    def reply(post: Post) -> Answer:
        if post.path == "/hung":
            over.wait(60)
        return 200, b'{"text":"%b"}' % post.path[1:].encode()

    with Receiver() as receiver:
        receiver.reply = reply
        for name, bot in bots.items():
            changed = owner.good("bots/update", {"bot": bot, "hook_url": f"{receiver.url}/{name}"})
            assert changed["hook_secret"]

        def answers() -> list[str]:
            entries = owner.good("messages/sync", after=0)["messages"]
            return [each["text"] for each in entries if each["from"] in bots.values()]

        owner.good("messages/send", {"to": bots["hung"], "text": "x"})
        eventually(lambda: [post.path for post in receiver.posts] == ["/hung"], what="it hangs")
        for count in range(1, 4):
            owner.good("messages/send", {"to": bots["live"], "text": "x"})
            eventually(lambda count=count: answers() == ["live"] * count, what="the other bot answers")
        over.set()
        eventually(lambda: answers() == ["live", "live", "live", "hung"], what="the first bot answers")
        assert receiver.posts[0].headers["imserver-delivery"].startswith(f"{bots['hung']}-log-")
        for bot in bots.values():
            owner.good("bots/delete", {"bot": bot})


def test_a_request_to_an_incoming_webhook_is_a_message(server: Server) -> None:
    owner = Person(server, nickname="Owner")
    group = owner.group()
    hook = owner.good("hooks", {"group": group, "nickname": "Builds"})
    sent = ask(server.http, request(hook["url"], method="POST", body=b'{"text":"green"}'))
    assert (sent.status, sent.json["conversation"]) == (200, int(group))
    (entry,) = (each for each in owner.good("messages", conversation=group)["messages"] if "text" in each)
    assert (entry["text"], entry["from"]) == ("green", hook["id"])
    unknown = ask(server.http, request(hook["url"] + "x", method="POST", body=b'{"text":"x"}'))
    assert (unknown.status, unknown.json["code"]) == (404, "unknown_hook")
    good(server.http, "hooks/revoke", {"hook": hook["id"]}, key=owner.token)
    revoked = ask(server.http, request(hook["url"], method="POST", body=b'{"text":"x"}'))
    assert (revoked.status, revoked.json["code"]) == (404, "unknown_hook")
    assert hook["url"] not in server.log_text
