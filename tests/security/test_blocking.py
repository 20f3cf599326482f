"""A user whom another has blocked cannot write to them, nor bring them into groups, in any dialect."""

from collections.abc import Iterator

import pytest

from imserver.gateway import errors
from tests.gateway.storage.servers import KINDS
from tests.integration.gochat import form
from tests.integration.protobuf import ACK, UP, acked, chatting, one, pushed, resuming
from tests.integration.protobuf import refused as refused_chat
from tests.integration.v1 import KEYS
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


def test_messages_before_the_block_stay_readable(ann: User, bob: User) -> None:
    (conversation,) = ann.get("conversations")["conversations"]
    for each in (ann, bob):
        (message,) = each.get("messages", conversation=conversation["conversation"])["messages"]
        assert message["text"] == "before"


def test_a_group_in_common_goes_on(ann: User, bob: User) -> None:
    cid = User.register(ann.server)
    group = int(cid.group(ann, bob))
    assert bob.post("messages/send", conversation=group, text="to all")["conversation"] == group


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
