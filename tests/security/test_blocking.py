"""A user whom another has blocked cannot write to them, nor bring them into groups, in any dialect."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from imserver.gateway import errors
from tests.gateway.storage.servers import KINDS
from tests.integration.action import ActionClient, login_data
from tests.integration.cmd import logged_in
from tests.integration.gochat import form
from tests.integration.protobuf import ACK, UP, acked, chatting, one, pushed, resuming
from tests.integration.protobuf import refused as refused_chat
from tests.integration.v1 import KEYS, good, refused
from tests.support import Server
from tests.users import User

pytestmark = pytest.mark.sqlite_first

APPS = {"101": {"open": True}, "gochat": {"store_conversations": True}, "action:1": {"same_as": "gochat"}}
NOBODY = 999_999_999


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with accounts, once on each engine."""
    database = None if request.param == "sqlite" else KINDS[request.param]()
    storage = {} if database is None else {"storage": {"url": database.new_url()}}
    settings = {"apps": APPS, "api": KEYS, "accounts": {"registration": True}}
    server = Server(tmp_path_factory.mktemp("blocking"), config={**settings, **storage})
    try:
        yield server
    finally:
        server.stop()
        if database is not None:
            database.remove()
    server.check()


@pytest.fixture
def ann(server: Server) -> User:
    """Who has blocked bob."""
    return User.register(server)


@pytest.fixture
def bob(server: Server, ann: User) -> User:
    """Whom ann has blocked; they had talked before."""
    bob = User.register(server)
    bob.post("messages/send", to=ann.user, text="before")
    ann.post("friends/block", friend=bob.user)
    return bob


def test_a_message_over_http_is_refused(ann: User, bob: User) -> None:
    assert bob.refused("messages/send", to=ann.user, text="hi") == (403, "not_allowed")
    (conversation,) = bob.get("conversations")["conversations"]
    body = {"conversation": conversation["conversation"], "text": "hi"}
    assert bob.refused("messages/send", **body) == (403, "not_allowed"), "by the conversation's id neither"
    (message,) = bob.get("messages", conversation=conversation["conversation"])["messages"]
    edit = {"id": message["id"], "text": "hi"}
    assert bob.refused("messages/edit", **edit) == (403, "not_allowed"), "nor in the place of an old one"
    ann.post("messages/send", to=bob.user, text="one way only")
    ann.post("friends/unblock", friend=bob.user)
    bob.post("messages/send", to=ann.user, text="again")


def test_messages_before_the_block_stay_readable(ann: User, bob: User) -> None:
    (conversation,) = ann.get("conversations")["conversations"]
    for each in (ann, bob):
        (message,) = each.get("messages", conversation=conversation["conversation"])["messages"]
        assert message["text"] == "before"


def test_a_group_in_common_goes_on(ann: User, bob: User) -> None:
    cid = User.register(ann.server)
    group = int(cid.group(ann, bob))
    assert bob.post("messages/send", conversation=group, text="to all")["conversation"] == group


def test_groups_and_invitations_are_refused(ann: User, bob: User) -> None:
    assert bob.refused("groups/create", name="tea", members=[ann.user]) == (403, "not_allowed")
    group = bob.group()
    invitation = {"group": group, "members": [ann.user]}
    assert bob.refused("groups/invite", **invitation) == (403, "not_allowed")
    assert bob.roles(group) == {bob.user: "owner"}


def test_gochats_groups_skip_users_who_have_blocked_the_owner(ann: User, bob: User) -> None:
    cid = User.register(ann.server)
    fields = {"name": "tea", "ids": [ann.user, cid.user, "no number", "999999999", "0"]}
    answer = form(ann.server.http, "/group/create", fields, bob.token).json
    assert answer["msg"] == "群组创建成功"
    assert set(bob.roles(answer["data"]["id"])) == {bob.user, cid.user}


def test_a_protobuf_client_is_acknowledged_and_nothing_is_delivered(ann: User, bob: User) -> None:
    with (
        chatting(ann.server.ws, (ann.user, ann.token)) as receiver,
        chatting(ann.server.ws, (bob.user, bob.token)) as sender,
    ):
        for _ in range(2):  # a repeat is acknowledged, too
            sender.single(1, int(ann.user), "hi")
            output = sender.output()
            fields = one(output.data)
            assert (output.kind, fields) == (ACK, {1: UP, 2: 1}), "no place: nothing is stored"
        receiver.quiet()
        sender.single(2, int(User.register(ann.server).user), "to somebody else")
        number, seq = acked(sender.output())
        assert number == 2
        assert seq > 0
        sender.single(3, NOBODY, "GoChat acknowledges this, too")
        number, seq = acked(sender.output())
        assert number == 3
        assert seq > 0
        assert [each.text for each in receiver.catch_up()] == ["before"]


def test_a_protobuf_client_that_knows_refusals_is_refused(ann: User, bob: User) -> None:
    with resuming(ann.server.ws, (bob.user, bob.token)) as sender:
        assert pushed(sender.output()).text == "before"
        sender.single(1, int(ann.user), "hi")
        assert refused_chat(sender.output())[0] == errors.ReplyCode.UNAUTHORIZED
        sender.single(2, NOBODY, "hi")
        assert refused_chat(sender.output())[0] == errors.ReplyCode.NO_DATA


def test_a_cmd_client_is_refused(ann: User, bob: User) -> None:
    with logged_in(ann.server.ws, bob.user, "gochat", serviceToken=bob.token, cursor=0) as client:
        for receiver, code, reason in (
            (ann.user, errors.ReplyCode.UNAUTHORIZED, "blocked"),
            (str(NOBODY), errors.ReplyCode.NO_DATA, "unknown_account"),
            ("ann.lee", errors.ReplyCode.NO_DATA, "unknown_account"),
        ):
            answer = client.ask_cmd("send", {"to": receiver, "text": "hi"})
            assert answer[::2] == (code, {"refused": reason})


def test_who_has_blocked_somebody_does_not_see_them_typing(ann: User, bob: User) -> None:
    with ExitStack() as stack:
        clients = {}
        for person in (ann, bob, User.register(ann.server)):
            session = logged_in(ann.server.ws, person.user, "gochat", serviceToken=person.token)
            clients[person.user] = client = stack.enter_context(session)
            assert client.ask_cmd("sync", {"after": 0})[0] == 200
        *_, cid = clients
        for user in (bob.user, cid):
            assert clients[user].ask_cmd("typing", {"to": ann.user})[0] == 200
        assert clients[ann.user].push("typing").json["response"]["data"]["from"] == cid


def test_messages_in_the_action_dialect_are_refused(ann: User, bob: User) -> None:
    with ActionClient(ann.server.ws) as client:
        client.begin()
        login = {**login_data(bob.user, to=ann.user), "token": bob.token}
        assert client.ask_action("login", login)[0] == 200
        fields = {"msgType": "text", "message": "hi"}
        assert client.ask_action("sendmsg", fields)[0] == errors.ReplyCode.UNAUTHORIZED


def test_unknown_users_are_named(ann: User) -> None:
    status, code, message = refused(
        ann.server.http, "groups/create", {"name": "tea", "members": ["999999999", "x"]}, key=ann.token
    )
    assert (status, code) == (404, "unknown_account")
    assert "999999999" in message
    assert "`x`" in message
    body = {"app": "gochat", "user": ann.user, "name": "tea", "members": ["999999999"]}
    key = "admin-key-of-the-tests"
    assert refused(ann.server.http, "groups/create", body, key=key)[:2] == (404, "unknown_account")
    body = {"app": "101", "user": "ann", "name": "tea", "members": ["x"]}
    good(ann.server.http, "groups/create", body, key=key)
