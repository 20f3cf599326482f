"""Webhooks of bots on nodes that are killed."""

import threading
from pathlib import Path

import pytest

from tests.support import eventually
from tests.users import User

from .clusters import name_of, nodes_of
from .receiver import Answer, Post, Receiver

pytestmark = pytest.mark.full


def test_another_process_delivers_and_answers_once_when_the_one_that_did_is_killed(tmp_path: Path) -> None:
    over = threading.Event()

    def reply(post: Post) -> Answer:
        text = post.json["text"]
        if text == "2":  # the first node is killed while it waits for this answer
            over.wait(60)
        return 200, b'{"text":"%b!"}' % text.encode()

    config = {"bots": {"allow_loopback": True}, "apps": {"gochat": {}}}
    with Receiver() as receiver, nodes_of(tmp_path, 3, **config) as nodes:
        names = {name_of(server): server for server in nodes.servers}
        owner = User.register(nodes.servers[0], nickname="Owner")
        bot = owner.post("bots", name="echo_bot")["id"]
        receiver.reply = reply
        owner.post("bots/update", bot=bot, hook_url=receiver.url)

        def answers() -> list[str]:
            entries = owner.get("messages/sync", after=0)["messages"]
            return [each["text"] for each in entries if each["from"] == bot]

        def posted() -> list[str]:
            return [post.json["text"] for post in tuple(receiver.posts)]

        def kill() -> None:
            """Kill the node that has posted last; the owner goes on with another one."""
            server = names.pop(receiver.posts[-1].json["node"])
            server.process.kill()
            server.process.wait()
            owner.server = next(iter(names.values()))

        for number in range(1, 5):
            owner.post("messages/send", to=bot, text=str(number))
            if number == 2:
                eventually(lambda: posted()[-1] == "2", what="the post that hangs")
                kill()
                over.set()
            wanted = [f"{each}!" for each in range(1, number + 1)]
            # The lease of a killed node ends after ten seconds.
            eventually(lambda wanted=wanted: answers() == wanted, 300, f"{wanted}")
            if number == 3:  # an answer is stored; where the node had come to perhaps is not
                kill()
        assert list(dict.fromkeys(posted())) == ["1", "2", "3", "4"], "in order, some perhaps again"
        deliveries = {post.headers["imserver-delivery"] for post in receiver.posts}
        assert len(deliveries) == 4, "each attempt has the same id"
        assert len({post.json["node"] for post in receiver.posts}) == 3
        assert len({post.json["node"] for post in receiver.posts if post.json["text"] == "2"}) > 1
