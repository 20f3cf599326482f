"""Back ends in the form of Centrifugo's proxies, asked for clients of all
dialects."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from centrifuge import CentrifugeError

from imserver.gateway.transport.outgoing import signature
from tests.conftest import StartServer
from tests.integration.cmd import cmd_client, command, logged_in
from tests.integration.pusher import SHOP
from tests.integration.pusher import Client as PusherClient
from tests.integration.raw import Raw, text
from tests.integration.receiver import SECRET, Answer, Post, Receiver
from tests.support import Server, eventually

from .conftest import CONFIG, token
from .people import SECONDS, Events, Person, both, person, refused

CONSENT = {
    "subscribe": "back_end",
    "publish": "back_end",
    "history_size": 10,
    "history_seconds": 60,
}
CALLS = ("connect", "refresh", "subscribe", "publish", "sub_refresh", "rpc")
PATH = "/connection/asked/websocket"


def answer(**fields: Any) -> Answer:
    return 200, json.dumps(fields).encode()


def allow(_: Post) -> Answer:
    return answer(result={})


def soon() -> dict[str, Any]:
    """An end that a busy machine does not reach before it reads the answer."""
    return {"expire_at": int(time.time()) + 5}


class BackEnd(Receiver):
    """A receiver that answers each kind of request by a function of its own."""

    def forget(self) -> None:
        super().forget()
        self.answers: dict[str, Callable[[Post], Answer | None]] = {
            "/connect": lambda _: answer(result={"user": "ann"})
        }
        self.reply = lambda post: self.answers.get(post.path, allow)(post)

    def requests_of(self, call: str) -> list[dict[str, Any]]:
        return [post.json for post in tuple(self.posts) if post.path == f"/{call}"]


@pytest.fixture(scope="module")
def back_end() -> Iterator[BackEnd]:
    with BackEnd() as one:
        yield one


@pytest.fixture(scope="module")
def server(back_end: BackEnd, start_shared_server: StartServer) -> Server:
    urls: dict[str, Any] = {call: f"{back_end.url}/{call}" for call in CALLS}
    shop = CONFIG["apps"]["shop"]
    one = {
        **shop,
        "webhook": {"secret": SECRET},
        "back_ends": {
            **urls,
            "headers": ["Cookie"],
            "emulated_headers": ["X-Seat", "X-Bad"],
            "seconds": 30,
        },
        "channels": {"asked": CONSENT, "open": {"subscribe": "anybody"}},
    }
    plain = {
        "webhook": {"secret": SECRET},
        "back_ends": {
            **{call: urls[call] for call in ("connect", "subscribe", "publish")},
            "seconds": 30,
        },
        "channels": {"asked": CONSENT},
    }
    unkept = {**CONSENT, "history_size": 0, "history_seconds": 0}
    pusher = {**plain, "pusher": SHOP, "open": True, "channels": {"*": unkept}}
    pusher["back_ends"] = {
        **{call: urls[call] for call in ("subscribe", "publish")},
        "seconds": 30,
    }
    listed = {
        **one,
        "back_ends": {**urls, "emulated_headers": ["Authorization"], "seconds": 30},
    }
    apps = {
        "asked": one,
        "plain": plain,
        "pushed": pusher,
        "listed": listed,
        "shop": shop,
    }
    return start_shared_server(
        config={
            **CONFIG,
            "apps": apps,
            "websocket": {"sweep_seconds": 0.2, "client_ping_seconds": 5},
        }
    )


@pytest.fixture(autouse=True)
def anew(back_end: BackEnd) -> None:
    back_end.forget()


async def fails(call: Awaitable[Any]) -> Any:
    with pytest.raises(CentrifugeError) as error:
        await call
    return error.value


# --- connect ------------------------------------------------------------------


@both
async def test_a_back_end_says_who_a_client_is(
    server: Server, back_end: BackEnd, protobuf: bool
) -> None:
    back_end.answers["/connect"] = lambda _: answer(
        result={
            "user": "ann",
            "info": {"name": "Ann"},
            "data": {"hello": 1},
            "meta": {"plan": "gold"},
            "channels": ["asked:1"],
            "subs": {
                "asked:2": {
                    "b64data": "eyJzZWF0Ijo3fQ==",
                    "expire_at": int(time.time()) + 3600,
                }
            },
        }
    )

    headers = {"Cookie": "session=5"}
    data = json.dumps({"room": 7}).encode() if protobuf else {"room": 7}
    async with person(server, protobuf, path=PATH, headers=headers, data=data) as ann:
        connected = await ann.events.next("on_connected")
        assert ann.read(connected.data) == {"hello": 1}
        subscribed = [await ann.events.next("on_subscribed") for _ in range(3)]
        assert {each.channel for each in subscribed} == {"#ann", "asked:1", "asked:2"}
        assert [ann.read(each.data) for each in subscribed if each.data] == [
            {"seat": 7}
        ]
        (post,) = back_end.posts
        assert post.headers["cookie"] == "session=5"
        signed = post.headers["imserver-signature"]
        at = int(signed.partition(",")[0].removeprefix("t="))
        assert signed == signature(SECRET.encode(), post.body, at)
        posted = post.json
        assert posted.pop("client") == ann.client.client_id
        assert posted.pop("name", "python")
        form = {"protocol": "protobuf" if protobuf else "json", "encoding": "json"}
        assert posted == {"transport": "websocket", **form, "data": {"room": 7}}
        assert await ann.rpc("imserver:conversations") == {
            "conversations": [],
            "hasMore": False,
        }
        await ann.client.rpc("own", ann.written({}))
        assert back_end.requests_of("rpc")[0]["meta"] == {"plan": "gold"}
        assert back_end.posts[-1].headers["cookie"] == "session=5"


@pytest.mark.parametrize(
    "bad", ["a\r\nX-Own: 1", "a\nb", "\u4f60", "", " a", "a" * 8193]
)
def test_a_client_sets_listed_headers_and_no_others(
    server: Server, back_end: BackEnd, bad: str
) -> None:
    given = {"x-seat": "7", "Cookie": "forged", "X-Own": "1", "X-Bad": bad}
    with Raw(server.ws) as client:
        client.upgrade(PATH)
        client.send(text(json.dumps({"id": 1, "connect": {"headers": given}})))
        eventually(lambda: bool(back_end.requests_of("connect")))
    headers = back_end.posts[0].headers
    assert headers["x-seat"] == "7"
    assert not {"cookie", "x-own", "x-bad"} & headers.keys()


async def test_a_token_needs_no_back_end(server: Server, back_end: BackEnd) -> None:
    async with person(server, False, "bob", path=PATH) as bob:
        assert (await bob.events.next("on_subscribed")).channel == "#bob"
    assert not back_end.requests_of("connect")


async def test_a_back_end_may_let_in_a_client_without_a_user(
    server: Server, back_end: BackEnd
) -> None:
    back_end.answers["/connect"] = lambda _: answer(result={})
    async with person(server, False, path=PATH) as guest:
        await guest.subscribe("open:1")
        assert (await fails(guest.client.rpc("imserver:conversations", {}))).code == 101
        back_end.answers["/rpc"] = lambda _: answer(result={"data": 1})
        await guest.client.rpc("price", {})
        assert back_end.requests_of("rpc")[0]["user"] == ""


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"disconnect": {"code": 4900, "reason": "go"}}, 4900),
        ({"disconnect": {"code": 3900}}, 3900),
        ({"disconnect": {"code": 4504}}, 4504),
        ({"error": {"code": 1234, "message": "no"}}, 1234),
        (
            {
                "error": {"code": 1234, "message": None, "temporary": None},
                "result": None,
            },
            1234,
        ),
        ({}, 3501),
        ({"result": None, "error": None}, 3501),
        ({"result": {"user": "a\0b"}}, 4505),
        ({"result": {"user": "x" * 256}}, 107),
    ],
)
async def test_a_back_end_refuses_a_client(
    server: Server, back_end: BackEnd, given: Any, code: int
) -> None:
    back_end.answers["/connect"] = lambda _: answer(**given)
    assert await refused(server, path=PATH) == code


@pytest.mark.parametrize(
    "given",
    [
        None,
        (500, b""),
        (200, b""),
        (200, b"[]"),
        (200, b"no"),
        (200, b'{"disconnect": {"code": 1}}'),
        (
            200,
            b'{"result": {"user": "ann", "caps": [{"channels": ["asked:1"], "allow": ["sub"]}]}}',
        ),
    ],
)
async def test_a_client_comes_back_after_a_failure(
    server: Server, back_end: BackEnd, given: Any
) -> None:
    answers = iter([given])
    back_end.answers["/connect"] = lambda _: next(
        answers, answer(result={"user": "ann"})
    )
    async with person(server, False, path=PATH, min_reconnect_delay=0.01) as ann:
        assert (await ann.events.next("on_connecting")).code == 0
        assert (await ann.events.next("on_subscribed")).channel == "#ann"
    assert len(back_end.requests_of("connect")) == 2


async def test_a_back_end_may_answer_null_for_what_is_absent(
    server: Server, back_end: BackEnd
) -> None:
    nothing = {
        "expire_at": None,
        "info": None,
        "data": None,
        "channels": None,
        "subs": None,
        "meta": None,
    }
    answers: dict[str, dict[str, Any]] = {
        "connect": {"result": {**nothing, "user": "ann"}},
        "subscribe": {"result": {"expire_at": None, "info": None, "data": None}},
        "publish": {"result": {"skip_history": None}},
        "rpc": {"result": {"data": None}},
    }
    for call, given in answers.items():
        back_end.answers[f"/{call}"] = lambda _, given=given: answer(
            **given, error=None, disconnect=None
        )
    async with person(server, False, path=PATH) as ann:
        await ann.subscribe("asked:null")
        await ann.client.publish("asked:null", {})
        assert await ann.rpc("price") is None
        for nothing in ({}, {"result": None}):  # allows all but a login
            for call in ("subscribe", "publish", "rpc"):
                back_end.answers[f"/{call}"] = lambda _, nothing=nothing: answer(
                    **nothing
                )
            _, events = await ann.subscribe(f"asked:nothing{len(nothing)}")
            await ann.client.publish(f"asked:nothing{len(nothing)}", {"n": 1})
            assert (await events.next("on_publication")).pub.data == {"n": 1}
            assert await ann.rpc("price") is None


async def test_an_app_with_a_connect_back_end_is_closed_to_other_clients(
    server: Server,
) -> None:
    with cmd_client(server.ws) as client:
        assert client.ask_cmd("login", {"userID": "eve", "app": "plain"})[0] == 1003
    assert (
        await refused(server, path="/connection/plain/websocket", token=token("eve"))
        == 4505
    )


# --- sessions and subscriptions at their end ----------------------------------

ends = pytest.mark.parametrize(
    "ended", [{"result": {"expired": True}}, {}], ids=["expired", "nothing"]
)


@ends
@pytest.mark.full("programs")
async def test_a_back_end_renews_a_session_until_it_has_expired(
    server: Server, back_end: BackEnd, ended: Any
) -> None:
    first = iter([soon])
    renewed = iter([lambda: {"result": soon()}])
    back_end.answers["/connect"] = lambda _: answer(
        result={"user": "ann", **next(first, dict)()}
    )
    back_end.answers["/refresh"] = lambda _: answer(**next(renewed, lambda: ended)())
    async with person(server, False, path=PATH) as ann:
        await ann.events.next("on_connected")
        assert (await ann.events.next("on_connecting")).code == 3005
        await ann.client.ready(SECONDS)
    assert [each["user"] for each in back_end.requests_of("refresh")] == ["ann", "ann"]


@ends
@pytest.mark.full("programs")
async def test_a_back_end_renews_a_subscription_until_it_has_expired(
    server: Server, back_end: BackEnd, ended: Any
) -> None:
    renewed = iter([lambda: {"result": soon()}])
    back_end.answers["/subscribe"] = lambda _: answer(result=soon())
    back_end.answers["/sub_refresh"] = lambda _: answer(
        **next(renewed, lambda: ended)()
    )
    async with person(server, False, path=PATH) as ann:
        await ann.events.next("on_connected")
        await ann.subscribe("asked:ends")
        back_end.answers["/subscribe"] = allow
        assert (await ann.events.next("on_connecting")).code == 3006
    posted = back_end.requests_of("sub_refresh")
    assert [(each["user"], each["channel"]) for each in posted] == [
        ("ann", "asked:ends")
    ] * 2


# --- channels -----------------------------------------------------------------


@both
async def test_a_back_end_decides_on_subscriptions(
    server: Server, back_end: BackEnd, protobuf: bool
) -> None:
    async with person(server, protobuf, "ann", path=PATH) as ann:
        back_end.answers["/subscribe"] = lambda _: answer(
            result={"info": {"role": 1}, "data": {"n": 2}}
        )
        data = ann.written({"why": "tea"})
        events = Events()
        name = f"asked:{protobuf}"
        subscription = ann.client.new_subscription(name, events, data=data)  # type: ignore[arg-type]
        await subscription.subscribe()
        subscribed = await events.next("on_subscribed")
        assert ann.read(subscribed.data) == {"n": 2}
        (posted,) = back_end.requests_of("subscribe")
        assert posted["client"] == ann.client.client_id
        assert (posted["user"], posted["channel"], posted["data"]) == (
            "ann",
            name,
            {"why": "tea"},
        )
        await subscription.publish(ann.written({"a": 1}))
        info = (await events.next("on_publication")).pub.info
        assert ann.read(info.chan_info) == {"role": 1}
        back_end.answers["/subscribe"] = lambda _: answer(
            error={"code": 1403, "message": "no tea"}
        )
        for channel, code in (("asked:no", 1403), ("open:yes", 0)):
            events = Events()
            one = ann.client.new_subscription(channel, events)
            await one.subscribe()
            if code:
                gone = await events.next("on_unsubscribed")
                assert (gone.code, gone.reason) == (code, "no tea")
            else:
                await one.ready(SECONDS)
        assert len(back_end.requests_of("subscribe")) == 2


async def test_a_subscription_is_tried_again_after_a_failure(
    server: Server, back_end: BackEnd
) -> None:
    answers = iter([None, (200, b'{"result": {"info": tea}}')])
    back_end.answers["/subscribe"] = lambda _: next(answers, answer(result={}))
    async with person(server, False, "ann", path=PATH) as ann:
        await ann.subscribe("asked:again")
    assert len(back_end.requests_of("subscribe")) == 3


@both
async def test_a_back_end_decides_on_publications(
    server: Server, back_end: BackEnd, protobuf: bool
) -> None:
    decided: dict[int, dict[str, Any]] = {
        1: {"result": {}},
        2: {"result": {"data": {"n": 20}}},
        3: {"result": {"skip_history": True}},
        4: {"error": {"code": 1403, "message": "no"}},
        5: {"result": {"b64data": "eyJuIjo1MH0=", "tags": {"kind": "masked"}}},
        6: {"result": {"b64data": "bm8=", "data": {"n": 60}}},
        7: {"result": {"version": 3}},
    }
    back_end.answers["/publish"] = lambda post: answer(
        **decided[post.json["data"]["n"]]
    )

    name = f"asked:published-{protobuf}"
    async with (
        person(server, protobuf, "ann", path=PATH) as ann,
        person(server, False, "bob", path=PATH) as bob,
    ):
        _, heard = await bob.subscribe(name)
        # Only the back end decides: a subscription is not needed.
        for number in (1, 2, 3):
            await ann.client.publish(name, ann.written({"n": number}))
        failed = await fails(ann.client.publish(name, ann.written({"n": 4})))
        assert (failed.code, failed.message) == (1403, "no")
        for number in (6, 7):  # such an answer is invalid, so nothing is published
            failed = await fails(ann.client.publish(name, ann.written({"n": number})))
            assert failed.code == 100
        await ann.client.publish(name, ann.written({"n": 5}))
        found = [(await heard.next("on_publication")).pub for _ in range(4)]
        assert [(each.data["n"], each.offset) for each in found] == [
            (1, 1),
            (20, 2),
            (3, 0),
            (50, 3),
        ]
        assert {each.info.user for each in found} == {"ann"}
        assert [each.tags for each in found[-2:]] == [{}, {"kind": "masked"}]
        for channel in ("user:bob", "group:1", "#bob", "open:1"):
            failed = await fails(ann.client.publish(channel, ann.written({"n": 1})))
            assert failed.code == 103, channel
    assert len(back_end.requests_of("publish")) == 7


async def test_a_line_feed_in_json_breaks_no_frame(
    server: Server, back_end: BackEnd
) -> None:
    async with (
        person(server, True, "ann", path=PATH) as ann,
        person(server, False, "bob", path=PATH) as bob,
    ):
        _, heard = await bob.subscribe("asked:lines")
        await ann.client.publish("asked:lines", b'{\n"n":\n1}')
        assert (await heard.next("on_publication")).pub.data == {"n": 1}


# --- rpc ----------------------------------------------------------------------


@both
async def test_methods_go_to_the_back_end(
    server: Server, back_end: BackEnd, protobuf: bool
) -> None:
    back_end.answers["/rpc"] = lambda post: answer(
        result={"data": {"you": post.json["data"]}}
    )
    async with person(server, protobuf, "ann", path=PATH) as ann:
        assert await ann.rpc("price", of="tea") == {"you": {"of": "tea"}}
        (posted,) = back_end.requests_of("rpc")
        assert (posted["user"], posted["method"]) == ("ann", "price")
        for method in ("send", "history"):
            assert await ann.rpc(method, of=1) == {"you": {"of": 1}}
            assert back_end.requests_of("rpc")[-1]["method"] == method
        back_end.forget()
        assert await ann.rpc("imserver:conversations") == {
            "conversations": [],
            "hasMore": False,
        }
        failed = await fails(ann.client.rpc("imserver:price", ann.written({})))
        assert failed.code == 104
        assert back_end.requests_of("rpc") == []
        back_end.answers["/rpc"] = lambda _: answer(
            error={"code": 1400, "message": "?", "temporary": True}
        )
        failed = await fails(ann.client.rpc("price", ann.written({})))
        assert (failed.code, failed.temporary) == (1400, True)
        for wrong in ((503, b""), (200, b'{"detail":"forbidden"}'), (200, b"[]")):
            back_end.answers["/rpc"] = lambda _, wrong=wrong: wrong
            failed = await fails(ann.client.rpc("price", ann.written({})))
            assert (failed.code, failed.temporary) == (100, True)
        back_end.answers["/rpc"] = lambda _: answer(
            disconnect={"code": 4999, "reason": "enough"}
        )
        await fails(ann.client.rpc("price", ann.written({})))
        gone = await ann.events.next("on_disconnected")
        assert (gone.code, gone.reason) == (4999, "enough")


async def test_a_slow_back_end_delays_only_who_asks_it_and_keeps_order(
    server: Server, back_end: BackEnd
) -> None:
    open_again = threading.Event()
    order: list[str] = []

    def wait(_: Post) -> Answer:
        open_again.wait(SECONDS)
        return answer(result={"data": "late"})

    back_end.answers["/rpc"] = wait

    async def ask(one: Person, method: str) -> None:
        await one.client.rpc(method, {})
        order.append(method)

    async with (
        person(server, False, "ann", path=PATH) as ann,
        person(server, False, "bob", path=PATH) as bob,
    ):
        waiting = [
            asyncio.create_task(ask(ann, each))
            for each in ("price", "imserver:conversations")
        ]
        await asyncio.to_thread(eventually, lambda: back_end.requests_of("rpc"))
        await ask(bob, "imserver:conversations")
        assert order == ["imserver:conversations"]
        open_again.set()
        await asyncio.gather(*waiting)
        assert order == ["imserver:conversations", "price", "imserver:conversations"]


# --- clients of other dialects ------------------------------------------------


def test_a_back_end_is_asked_for_clients_of_the_cmd_dialect(
    server: Server, back_end: BackEnd
) -> None:
    with logged_in(
        server.ws, "ann", "asked", serviceToken=token("ann", app="asked", seconds=60)
    ) as ann:
        assert ann.ask_cmd("subscribe", {"channel": "asked:cmd"})[0] == 200
        (posted,) = back_end.requests_of("subscribe")
        assert posted.pop("client")
        form = {"transport": "websocket", "protocol": "cmd", "encoding": "json"}
        assert posted == {**form, "user": "ann", "channel": "asked:cmd"}
        back_end.answers["/publish"] = lambda _: answer(result={"data": "tea!"})
        assert (
            ann.ask_cmd("publish", {"channel": "asked:cmd", "text": "tea?"})[0] == 200
        )
        (posted,) = back_end.requests_of("publish")
        assert (posted["data"], posted["type"]) == ("tea?", "text")
        back_end.answers["/publish"] = lambda _: answer(
            error={"code": 1403, "message": "no"}
        )
        code, _, data = ann.ask_cmd("publish", {"channel": "asked:cmd", "text": "tea?"})
        assert (code, data["refused"], data["error"]) == (
            1003,
            "denied",
            {"code": 1403, "message": "no"},
        )
        back_end.answers["/publish"] = lambda _: (500, b"")
        code, _, data = ann.ask_cmd("publish", {"channel": "asked:cmd", "text": "tea?"})
        assert (code, data["refused"]) == (1008, "unavailable")
        back_end.answers["/publish"] = lambda _: answer(
            disconnect={"code": 4900, "reason": ""}
        )
        ann.send(command("publish", {"channel": "asked:cmd", "text": "tea?"}))
        ann.closed(4502)


def test_a_back_end_is_asked_for_clients_of_pusher(
    server: Server, back_end: BackEnd
) -> None:
    with PusherClient(server.ws) as eve:
        eve.say("pusher:subscribe", {"channel": "tea"})
        eve.event("pusher_internal:subscription_succeeded", "tea")
        (posted,) = back_end.requests_of("subscribe")
        assert (posted["protocol"], posted["channel"]) == ("pusher", "tea")
        back_end.answers["/subscribe"] = lambda _: answer(
            error={"code": 1403, "message": "no tea"}
        )
        eve.say("pusher:subscribe", {"channel": "no"})
        refusal = eve.event("pusher:subscription_error", "no")
        assert (refusal["status"], refusal["error"]) == (403, "no tea")
        eve.say("pusher:subscribe", {"channel": "private-tea"})
        assert eve.event("pusher:subscription_error", "private-tea")["status"] == 401
        eve.subscribes("private-tea")
        back_end.answers["/publish"] = lambda _: answer(
            error={"code": 1403, "message": "be quiet"}
        )
        eve.say("client-said", {"n": 1}, "private-tea")
        assert "be quiet" in eve.event("pusher:error")["message"]
        (posted,) = back_end.requests_of("publish")
        assert (posted["channel"], posted["type"], posted["data"]) == (
            "private-tea",
            "client-said",
            {"n": 1},
        )
        assert len(back_end.requests_of("subscribe")) == 2
