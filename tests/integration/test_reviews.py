"""A back end that reviews what users send, in every dialect and by every route;
and what back ends send."""

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import jwt
import pytest

from tests.support import Server
from tests.users import User

from .cmd import form_request, fresh, logged_in
from .raw import ask, bearer, request
from .receiver import Post, Receiver
from .setting import stop
from .test_webhooks import is_signed
from .v1 import good, refused

KEY = "the key of a back end, which is long enough"
SECRET = "the secret of session tokens, which is long enough"
JWT = {"jwt": [{"algorithm": "HS256", "key": SECRET}]}
RUDE = {"action": "reject", "reason": "be nice"}


class Harness(NamedTuple):
    """A server, and the back end that reviews messages there."""

    server: Server
    receiver: Receiver

    @property
    def questions(self) -> list[dict[str, Any]]:
        """The messages that the back end was asked about."""
        return [
            message for post in self.receiver.posts for message in post.json["messages"]
        ]


@pytest.fixture(scope="module")
def reviewing(
    http_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    with Receiver() as receiver:
        hook = {"webhook": receiver.reviewing}
        config = {
            "api": {"keys": [{"key": KEY, "scopes": ["push", "read", "admin"]}]},
            "apps": {"103": {**JWT, **hook}, "gochat": hook},
            "accounts": {"registration": True},
            "uploads": {"min_free_bytes": 0},
            "websocket": {"close_seconds": 0.1},
        }
        server = Server(
            tmp_path_factory.mktemp("reviews"), config=config, http_server=http_server
        )
        yield Harness(server, receiver)
        stop(server)


@pytest.fixture
def harness(reviewing: Harness) -> Harness:
    """The back end rejects what is rude, and replaces what has a word in it."""
    reviewing.receiver.forget()
    reviewing.receiver.reply = reply
    return reviewing


def reply(post: Post) -> tuple[int, bytes]:
    return 200, json.dumps(
        {"answers": [judge(each) for each in post.json["messages"]]}
    ).encode()


def judge(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("text", "") + message.get("name", "")
    if "rude" in content:
        return RUDE
    return (
        {"action": "replace", "text": "***"}
        if "word" in content
        else {"action": "allow"}
    )


def token(user: str) -> str:
    return jwt.encode(
        {"sub": user, "app": "103", "exp": int(time.time()) + 60}, SECRET, "HS256"
    )


def test_live_messages_with_a_session_token_are_reviewed(harness: Harness) -> None:
    one = harness.server
    user = fresh()
    other = fresh()

    def send(to_all: bool, text: str, key: str) -> tuple[int, Any]:
        path = "/user/sendMessageAll" if to_all else "/user/sendMessage"
        form = {
            "appID": 103,
            "userID": user if to_all else other,
            "msgID": fresh(),
            "message": text,
        }
        found = ask(one.http, bearer(form_request(path, form), key)).json
        return found["code"], found["data"]

    with logged_in(one.ws, other, 103, serviceToken=token(other)) as bob:
        for to_all in (True, False):
            assert send(to_all, "rude", token(user)) == (1003, {"reason": "be nice"})
            assert send(to_all, "a word", token(user)) == (200, {"sendResults": True})
            assert send(to_all, "rude of the back end", KEY) == (
                200,
                {"sendResults": True},
            )
            texts = [bob.push("msg").json["response"]["data"]["msg"] for _ in range(2)]
            assert texts == ["***", "rude of the back end"]
    assert [
        (each["sender"], each["to"], each["text"]) for each in harness.questions
    ] == [(user, to, text) for to in ("all", other) for text in ("rude", "a word")]


def test_bots_stream_nothing_past_a_review(harness: Harness) -> None:
    ann, bob = (User.register(harness.server) for _ in range(2))
    bot = ann.post("bots", name=f"bot{fresh()}")
    given = {"to": bob.user, "text": "rude"}
    status, code, _ = refused(
        harness.server.http, "messages/stream/open", given, key=bot["token"]
    )
    assert (status, code) == (403, "rejected")
    by_back_end = {"app": "gochat", "user": bot["id"], **given}
    assert good(harness.server.http, "messages/stream/open", by_back_end, key=KEY)[
        "stream"
    ]
    assert not harness.questions


def upload(server: Server, key: str, name: str, **query: str) -> tuple[int, Any]:
    """Status and body of the answer to an upload."""
    path = f"/api/v1/uploads?{urlencode({'name': name, **query})}"
    found = ask(
        server.http, bearer(request(path, method="POST", body=b"some content"), key)
    )
    return found.status, found.json


def test_files_are_reviewed_before_they_are_accepted(harness: Harness) -> None:
    one = harness.server
    user = fresh()
    status, problem = upload(one, token(user), "rude.txt")
    assert (status, problem["code"], problem["message"]) == (403, "rejected", "be nice")
    assert upload(one, token(user), "good.txt")[0] == 201
    assert upload(one, token(user), "word.txt")[1]["code"] == "review_unavailable", (
        "there is no other file"
    )
    assert upload(one, KEY, "rude.txt", app="103", user=user)[0] == 201
    post = harness.receiver.posts[0]
    assert is_signed(post)
    assert post.path == "/review"
    assert list(post.json) == ["event", "app", "time", "node", "messages"]
    assert harness.receiver.connections <= 1, "the connection is used again"
    first = harness.questions[0]
    assert {**first, "sha256": len(first["sha256"])} == {
        "kind": "upload",
        "sender": user,
        "name": "rude.txt",
        "type": "application/octet-stream",
        "bytes": 12,
        "sha256": 64,
    }
    assert len(harness.questions) == 3
    listed = good(one.http, "uploads", key=KEY, app="103", user=user)
    assert sorted(each["name"] for each in listed["files"]) == ["good.txt", "rude.txt"]
