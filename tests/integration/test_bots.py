"""Bots over the wire: what they receive in groups, commands, buttons, and
streamed answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any

import jwt
import pytest

from imserver.gateway.model import Limit
from imserver.messenger.streams.streamed_messages import MOST_OWNER_BYTES
from imserver.people.bots.answers import MOST_STREAMS
from imserver.plugin.testing import HostAndPort
from tests.conftest import StartServer
from tests.support import Server, eventually
from tests.users import User

from . import v1
from .clusters import nodes_of
from .cmd import CmdClient, logged_in

APP = "staff"
KEY = "key-of-the-staff-0123456789"
SECRET = "secret-of-the-staff-0123456789abcdef"
CONFIG: dict[str, Any] = {
    "apps": {
        APP: {"account_tokens": "required", "login_policy": "multi"},
        "shop": {
            "account_tokens": "required",
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
        },
    },
    "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
    "accounts": {"registration": True, "registrations_per_address": 0},
    "limits": {"stream_seconds": 60},
}


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return start_shared_server(config=CONFIG)


def person(server: Server, name: str) -> User:
    return User.register(server, APP, name=name)


@contextmanager
def online(user: User, address: HostAndPort) -> Iterator[CmdClient]:
    """A connection that follows the log from its beginning."""
    with logged_in(
        address, user.user, user.app, serviceToken=user.token, cursor=0
    ) as one:
        yield one


def entry(one: CmdClient) -> Any:
    return one.push("message").json["response"]["data"]


def piece(one: CmdClient) -> Any:
    return one.push("piece").json["response"]["data"]


def good(one: CmdClient, cmd: str, **data: Any) -> Any:
    code, _, answer = one.ask_cmd(cmd, data)
    assert code == 200, (cmd, code, answer)
    return answer


def test_a_streamed_answer_reaches_everybody_in_the_conversation(
    server: Server,
) -> None:
    cid = person(server, "cid")
    dan = person(server, "dan")
    bot = cid.bot("poet")
    other = cid.bot("silent")
    group = int(
        cid.post(
            "groups/create", name="verse", members=[dan.user, bot.user, other.user]
        )["group"]
    )
    with (
        online(cid, server.ws) as at_cid,
        online(bot, server.ws) as at_bot,
        online(other, server.ws) as at_other,
    ):
        assert at_cid.ask_cmd("streamOpen", {"to": dan.user})[0] == 1003
        stream = good(at_bot, "streamOpen", conversation=group, text="A ")["stream"]
        pieces = [
            {"stream": stream, "piece": 1, "text": "ro"},
            {"stream": stream, "piece": 3, "text": "x"},
        ]
        results = good(at_bot, "streamAppend", pieces=pieces)["results"]
        assert [(each["status"], each["piece"]) for each in results] == [
            ("appended", 1),
            ("gap", 1),
        ]
        start = {"from": bot.user, "conversation": group, "stream": stream}
        assert piece(at_cid) == {**start, "piece": 0, "text": "A ", "whole": True}
        assert piece(at_cid) == {**start, "piece": 1, "text": "ro"}
        assert cid.refused("messages/stream/append", pieces=pieces[:1]) == (
            403,
            "not_allowed",
        )
        with online(dan, server.ws) as late, online(bot, server.ws) as also:
            for one in (late, also):
                assert piece(one) == {
                    **start,
                    "piece": 1,
                    "text": "A ro",
                    "whole": True,
                }
            bot.post(
                "messages/stream/append",
                pieces=[{"stream": stream, "piece": 2, "text": "se"}],
            )
            for one in (at_cid, late, also):
                assert piece(one)["text"] == "se"
            assert (
                other.post("messages/stream/close", stream=stream)["status"]
                == "unknown"
            )
            closed = good(at_bot, "streamClose", stream=stream)
            assert closed["status"] == "closed"
            assert good(at_bot, "streamClose", stream=stream) == {
                **closed,
                "status": "repeated",
            }
            while (stored := entry(late))["kind"] == "group":
                pass
            assert (stored["id"], stored["text"], stored["clientMsgID"]) == (
                closed["id"],
                "A rose",
                stream,
            )
            assert stored["meta"] == {"bots": [bot.user]}
            for one in (at_cid, late, also, at_other):
                one.no_push("piece")
        assert [
            each["kind"] for each in good(at_other, "sync", cursor=0)["messages"]
        ] == ["group"]


def test_a_reader_stops_a_streamed_answer_and_its_bot_hears_of_it(
    server: Server,
) -> None:
    gil, hana, ivo = (person(server, name) for name in ("gil", "hana", "ivo"))
    bot = gil.bot("orator")
    outside = ivo.bot("outside")
    group = int(
        gil.post("groups/create", name="talk", members=[hana.user, bot.user])["group"]
    )
    with (
        online(hana, server.ws) as at_hana,
        online(bot, server.ws) as at_bot,
        online(ivo, server.ws) as at_ivo,
    ):
        stream = good(at_bot, "streamOpen", conversation=group, text="On and")["stream"]
        assert at_ivo.ask_cmd("streamStop", {"stream": stream})[0] == 1003
        assert outside.refused("messages/stream/stop", stream=stream) == (
            403,
            "not_allowed",
        )
        assert good(at_hana, "streamStop", stream=stream) == {
            "stream": stream,
            "status": "closed",
        }
        for one in (at_hana, at_bot):
            while (stored := entry(one))["kind"] == "group":
                pass
            assert (stored["text"], stored["clientMsgID"]) == ("On and", stream)
            assert (stored["meta"]["incomplete"], stored["meta"]["stopped"]) == (
                True,
                hana.user,
            )
        late = [{"stream": stream, "piece": 1, "text": " on"}]
        assert (
            good(at_bot, "streamAppend", pieces=late)["results"][0]["status"]
            == "closed"
        )
        assert good(at_hana, "streamStop", stream=stream)["status"] == "repeated"
        assert good(at_hana, "streamStop", stream="x")["status"] == "unknown"
        # The bot says who may.
        for named, status in (([gil.user], 403), ([hana.user], 200)):
            stream = good(
                at_bot, "streamOpen", conversation=group, text="More", stoppers=named
            )["stream"]
            refused = at_hana.ask_cmd("streamStop", {"stream": stream})[0] == 1003
            assert refused is (status == 403)
        assert (
            at_bot.ask_cmd("streamOpen", {"conversation": group, "stoppers": "gil"})[0]
            == 1001
        )


def test_the_reader_of_a_streamed_answer_stops_it_with_a_session_token(
    server: Server,
) -> None:
    bot = User.register(server, "shop", key=KEY).bot("shop_bot")
    tokens = {
        user: jwt.encode(
            {"sub": user, "app": "shop", "exp": int(time()) + 600}, SECRET, "HS256"
        )
        for user in ("reader", "other", "outside")
    }
    reader, other, outside = (
        User(server, token, user, "shop") for user, token in tokens.items()
    )
    stream = bot.post("messages/stream/open", to=reader.user, text="On and")["stream"]
    assert outside.refused("messages/stream/stop", stream=stream) == (
        403,
        "not_allowed",
    )
    assert reader.post("messages/stream/stop", stream=stream)["status"] == "closed"
    named = bot.post(
        "messages/stream/open", to=reader.user, text="On", stoppers=[other.user]
    )["stream"]
    assert reader.refused("messages/stream/stop", stream=named) == (403, "not_allowed")


def test_streams_to_one_user_end_as_one_message_or_none(server: Server) -> None:
    eve = person(server, "eve")
    fay = person(server, "fay")
    bot = eve.bot("short")
    with online(fay, server.ws) as at_fay:
        stream = bot.post("messages/stream/open", to=fay.user)["stream"]
        start = {
            "from": bot.user,
            "to": fay.user,
            "stream": stream,
            "piece": 0,
            "text": "",
            "whole": True,
        }
        assert piece(at_fay) == start
        assert bot.post("messages/stream/close", stream=stream) == {
            "stream": stream,
            "status": "closed",
        }
        assert piece(at_fay) == {**start, "done": True}
        cut = bot.post("messages/stream/open", to=fay.user, text="half a")["stream"]
        bot.post("messages/stream/close", stream=cut, incomplete=True)
        stored = entry(at_fay)
        assert (stored["text"], stored["meta"]) == ("half a", {"incomplete": True})
        for type in ("x" * (Limit.TYPE_BYTES + 1), "ü" * Limit.TYPE_BYTES):
            assert bot.refused("messages/stream/open", to=fay.user, type=type) == (
                400,
                "invalid_request",
            )
        long = bot.post(
            "messages/stream/open", to=fay.user, type="x" * Limit.TYPE_BYTES, text="a"
        )
        assert (
            bot.post("messages/stream/close", stream=long["stream"])["id"]
            > stored["id"]
        )
        gone = person(server, "gone")
        late = bot.post("messages/stream/open", to=gone.user, text="a")["stream"]
        gone.post("accounts/delete", password="correct horse")
        for _ in range(2):
            assert bot.refused("messages/stream/close", stream=late) == (
                404,
                "unknown_account",
            )
        with online(bot, server.ws) as at_bot:
            assert at_bot.ask_cmd("streamClose", {"stream": late})[0] == 1005
        fay.post("friends/block", friend=bot.user)
        assert bot.refused("messages/stream/open", to=fay.user) == (403, "not_allowed")
        assert bot.refused("messages/stream/open", conversation=10**6) == (
            404,
            "unknown_conversation",
        )
        back_end = User(server, KEY, app=APP)
        opened = back_end.refused("messages/stream/open", user=eve.user, to=fay.user)
        assert opened == (404, "unknown_account")


@pytest.mark.full("waits")
def test_a_bot_has_a_limited_number_of_open_streams(server: Server) -> None:
    hal = person(server, "hal")
    bots = [hal.bot(f"many{number}") for number in range(2)]
    # Its rate allows as many at once.
    for _ in range(MOST_STREAMS):
        bots[0].post("messages/stream/open", to=hal.user)
    assert bots[0].refused("messages/stream/open", to=hal.user) == (
        409,
        "too_many_streams",
    )
    assert bots[1].post("messages/stream/open", to=hal.user)
    back_end = User(server, KEY, app=APP)
    assert back_end.post("messages/stream/open", user=bots[0].user, to=hal.user)


LONG = "😀" * (131_072 // 4)
"""As long as the text of a stream may be."""


def test_the_bots_of_an_owner_share_bytes_and_pieces(server: Server) -> None:
    max = person(server, "max")
    ned = person(server, "ned")
    bots = [max.bot(f"wide{number}") for number in range(2)]
    first = bots[0].post("messages/stream/open", to=ned.user)["stream"]
    for number in range(MOST_OWNER_BYTES // len(LONG.encode())):
        bots[number % 2].post("messages/stream/open", to=ned.user, text=LONG)
    assert bots[1].refused("messages/stream/open", to=ned.user, text="x") == (
        409,
        "too_many_streams",
    )
    last = {"stream": first, "piece": 1, "text": "x"}
    (result,) = bots[0].post("messages/stream/append", pieces=[last])["results"]
    assert result["status"] == "too_long"
    other = (
        person(server, "oli")
        .bot("narrow")
        .post("messages/stream/open", to=ned.user, text="x")
    )
    assert other["stream"]
    many = [
        {"stream": first, "piece": number, "text": "x"} for number in range(1, 1001)
    ]

    def is_refused(bot: User, pieces: list[dict[str, Any]]) -> bool:
        return bot.ask("POST", "messages/stream/append", {"pieces": pieces})[0] == 429

    def use_up() -> None:
        eventually(lambda: is_refused(bots[0], many))

    def is_shared() -> bool:
        use_up()
        return is_refused(bots[1], [last])  # once: alone it could not use up its pieces

    eventually(is_shared)
    back_end = User(server, KEY, app=APP)
    assert back_end.post("messages/stream/append", user=bots[0].user, pieces=many)
    with online(bots[1], server.ws) as one:

        def is_refused_there() -> bool:
            use_up()
            return bool(one.ask_cmd("streamAppend", {"pieces": [last]})[0] == 1008)

        eventually(is_refused_there)


@pytest.mark.full("faults")
def test_a_streamed_answer_is_stopped_at_another_node_and_stored_once_when_its_own_is_killed(
    tmp_path: Path,
) -> None:
    with nodes_of(tmp_path, 3, **CONFIG) as nodes:
        guy = person(nodes.servers[0], "guy")
        bot = guy.bot("mortal")
        to_bot = guy.post("messages/send", to=bot.user, text="hello")
        with online(guy, nodes.ws[1]) as early, online(guy, nodes.ws[2]) as late:
            for one in (early, late):
                assert entry(one)["text"] == "hello"
            where = to_bot["conversation"]
            stopped = bot.post(
                "messages/stream/open", conversation=where, text="On and on"
            )["stream"]
            assert [piece(one)["text"] for one in (early, late)] == ["On and on"] * 2
            assert good(late, "streamStop", stream=stopped)["status"] == "closed"
            for one in (early, late):
                assert entry(one)["meta"] == {"incomplete": True, "stopped": guy.user}
            stream = bot.post("messages/stream/open", conversation=where, text="1")[
                "stream"
            ]
            for number in range(2, 5):
                sent = {"stream": stream, "piece": number - 1, "text": str(number)}
                body = {"app": APP, "pieces": [sent]}
                answer = v1.good(
                    nodes.http[number % 3],
                    "messages/stream/append",
                    body,
                    key=bot.token,
                )
                assert answer["results"][0]["status"] == "appended"
            for one in (early, late):
                assert [piece(one)["text"] for _ in range(4)] == ["1", "2", "3", "4"]
            bob = person(nodes.servers[1], "bob")
            unread = bot.post("messages/stream/open", to=bob.user, text="lost")[
                "stream"
            ]
            nodes.servers[0].process.kill()
            for one in (early, late):
                found = one.push("message", seconds=60).json["response"]["data"]
                assert (found["text"], found["meta"]) == ("1234", {"incomplete": True})
            page = v1.good(
                nodes.http[1],
                "messages",
                app="staff",
                conversation=where,
                key=guy.token,
            )
            assert [each["text"] for each in page["messages"]] == [
                "hello",
                "On and on",
                "1234",
            ]
            with online(bot, nodes.ws[1]) as at_bot:
                more = [{"stream": unread, "piece": 1, "text": "?"}]
                assert (
                    good(at_bot, "streamAppend", pieces=more)["results"][0]["status"]
                    == "unknown"
                )
                # the promise: the bot sends the whole text by this id
                for repeated in (False, True):
                    sent = good(
                        at_bot, "send", to=bob.user, text="lost?", clientMsgID=unread
                    )
                    assert sent["repeated"] is repeated


def test_a_deletion_that_fails_while_redis_is_away_is_completed_by_the_same_request(
    tmp_path: Path,
) -> None:
    soon = {"redis_seconds": 0.5, "advertise": "127.0.0.1", "rpc_seconds": 10}
    with nodes_of(tmp_path, 1, **CONFIG, cluster=soon) as nodes:
        ann = person(nodes.servers[0], "ann")
        bot = ann.bot("Weather")
        nodes.redis.kill()
        assert ann.refused("bots/delete", bot=bot.user) == (503, "storage_unavailable")
        assert [each["id"] for each in ann.get("bots")["bots"]] == [bot.user]
        nodes.redis.start()
        eventually(
            lambda: ann.ask("POST", "bots/delete", {"bot": bot.user})[0] == 200,
            what="deleted",
        )
        assert ann.get("bots")["bots"] == []
