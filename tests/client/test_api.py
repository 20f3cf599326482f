"""The API from Python against a real server: sending, presence, channels,
sessions, apps, what goes wrong."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from click.testing import CliRunner
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

import imserver_client as im
from imserver_client.api import decode_answer
from imserver_client.bot import bot
from imserver_client.publisher import PublisherCore
from tests.client.test_sessions import SECONDS
from tests.conftest import StartServer
from tests.integration.receiver import Receiver
from tests.support import Server

APP = "103"


@pytest.fixture
def ann(server: Server) -> Iterator[im.Client]:
    with im.Client(server.ws_url, APP, "ann") as client:
        yield client


def texts(client: im.Client, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        push = client.receive(SECONDS)
        assert push is not None, f"only {found} came"
        if push.kind == "msg":
            found.append(push.text)
    return found


# --- what a back end asks -----------------------------------------------------


def test_pushes_go_to_targets_of_many_kinds_one_by_one_and_in_batches(
    api: im.Api, ann: im.Client
) -> None:
    (session,) = api.presence(APP, "ann").sessions
    targets = [
        {"user": "ann"},
        {"user": "nobody"},
        {"connection": session.connection},
        {"all": True},
    ]
    answer = api.push(APP, "hi", targets=targets)
    assert [result.status for result in answer.results] == [
        "sent",
        "absent",
        "sent",
        "sent",
    ]
    (result,) = api.push(APP, "kept", user="ann", sender="shop", store=True).results
    assert result.stored is not None
    (refused,) = api.push(
        APP, "kept", group=str(result.stored.conversation + 99), store=True
    ).results
    assert (result.status, refused.status, refused.reason) == (
        "stored",
        "refused",
        "unknown_conversation",
    )
    assert answer.sent == 3
    assert (
        api.push(APP, "later", user="late", ttl_seconds=30).results[0].status == "held"
    )
    assert texts(ann, 3) == ["hi"] * 3
    pushes = [
        {"app": app, "user": "ann", "text": text}
        for app, text in ((APP, "1"), ("no", "2"), (APP, "3"))
    ]
    results = api.batch([("push", push) for push in pushes])
    assert [(result.status, result.ok) for result in results] == [
        (200, True),
        (404, False),
        (200, True),
    ]
    assert texts(ann, 2) == ["1", "3"]


def test_presence_names_where_and_since_when_and_users_come_page_by_page(
    server: Server, api: im.Api
) -> None:
    with ExitStack() as stack:
        for number in range(3):
            stack.enter_context(im.Client(server.ws_url, "104", f"u{number}"))
        found = api.presence("104", "u0")
        assert (found.online, found.sessions[0].dialect) == (True, "cmd")
        assert found.sessions[0].since > 1_700_000_000
        assert [each.online for each in api.presences("104", ["u0", "nobody"])] == [
            True,
            False,
        ]
        page = api.users("104", limit=2)
        assert (page.count, page.users, api.users("104", page.next, 2).users) == (
            3,
            ("u0", "u1"),
            ("u2",),
        )
        assert list(api.all_users("104")) == ["u0", "u1", "u2"]
        (counts,) = api.counts("104")
        assert (counts.users, counts.sessions) == (3, 3)
        for path in ("counts", "/counts", "/api/v1/counts"):
            for parameters in ({"body": {"app": "104"}}, {"query": {"app": "104"}}):
                (row,) = api.call("GET", path, **parameters)["apps"]
                assert (row["app"], row["users"]) == ("104", 3)


def test_channels_and_their_histories(api: im.Api, ann: im.Client) -> None:
    assert [api.subscribe(APP, "blue", users=["ann"]) for _ in range(2)] == [1, 0]
    assert [
        (each.channel, each.subscribers) for each in api.channels(APP).channels
    ] == [("blue", 1)]
    assert [each.user for each in api.subscribers(APP, "blue").subscribers] == ["ann"]
    assert api.publish(APP, "blue", "to the channel") == im.ChannelResult(
        "blue", "sent"
    )
    assert [each.status for each in api.broadcast(APP, ["blue", "red"], "to two")] == [
        "sent",
        "absent",
    ]
    assert (
        api.publish(APP, "blue", "not to ann", except_users=["ann"]).status == "absent"
    )
    assert texts(ann, 2) == ["to the channel", "to two"]
    assert api.unsubscribe(APP, "blue", users=["ann"]) == 1
    options = {"orders": {"history_size": 5, "history_seconds": 60}}
    api.create_app(
        "kiosk", {"open": True, "channels": options, "login_policy": "single"}
    )
    first = api.publish("kiosk", "orders:1", "one")
    api.publish("kiosk", "orders:1", data={"n": 2}, type="order", tags={"lang": "en"})
    api.publish("kiosk", "orders:1", "three", with_history=False)
    page = api.history("kiosk", "orders:1")
    shown = [(each.offset, each.text, each.data) for each in page.publications]
    assert shown == [(1, "one", None), (2, "", {"n": 2})]
    assert (page.publications[1].tags, page.offset, page.epoch) == (
        {"lang": "en"},
        2,
        first.epoch,
    )
    (newest,) = api.history("kiosk", "orders:1", reverse=True, limit=1).publications
    assert newest.offset == 2
    assert api.channel("kiosk", "orders:1") == im.Channel("orders:1", 0, 2, first.epoch)
    api.remove_history("kiosk", "orders:1")
    assert api.history("kiosk", "orders:1").publications == ()


def test_apps_are_made_and_changed_and_users_banned(
    server: Server, api: im.Api
) -> None:
    api.create_app("777", {"login_policy": "single"})
    assert api.set_app("777", {"max_connections": 5}).max_connections == 5
    assert next(app for app in api.apps() if app.app == "777").login_policy == "single"
    with im.Client(server.ws_url, "777", "ann"):
        assert api.ban("777", ["ann"], 60) == 1
    with pytest.raises((im.Closed, im.LoginRefused)):
        im.Client(server.ws_url, "777", "ann").connect()
    api.unban("777", ["ann"])
    with im.Client(server.ws_url, "777", "ann") as again:
        assert again.state == "online"


# --- streamed messages --------------------------------------------------------


@pytest.mark.parametrize("kind", [im.Api, im.Publisher])
def test_a_streamed_message_is_written_and_read(
    server: Server, api: im.Api, kind: Any
) -> None:
    settings = {
        "open": True,
        "channels": {"answers": {"history_size": 5, "history_seconds": 60}},
    }
    app = f"library-{kind.__name__}"
    api.create_app(app, settings)
    with im.Client(server.ws_url, app, "ann") as ann, kind(server.http_url) as writer:
        ann.subscribe("answers:1")
        with writer.stream(
            app, "answers:1", sender="bot", tags={"lang": "en"}
        ) as stream:
            stream.append_all(["The ", "", "answer"])
        updates = []
        end = None
        while end is None:
            event = ann.receive(SECONDS)
            if isinstance(event, im.StreamUpdate):
                updates.append((event.stream, event.text, event.done, event.sender))
            elif isinstance(event, im.Publication):
                end = event
        texts = ["", "The ", "The answer"]
        expected = [(stream.id, text, False, "bot") for text in texts]
        assert updates == [*expected, (stream.id, "The answer", True, "bot")]
        assert (end.stream, end.id, end.text, end.offset) == (
            stream.id,
            stream.id,
            "The answer",
            1,
        )
        (past,) = api.history(app, "answers:1").publications
        assert (past.id, past.text, past.tags) == (
            stream.id,
            "The answer",
            {"lang": "en"},
        )
        assert stream.close().status == "repeated"
        with pytest.raises(im.PieceRefused) as refused:
            stream.append("more")
        assert refused.value.status == "closed"


def test_a_block_that_fails_closes_its_message_as_incomplete(
    server: Server, api: im.Api
) -> None:
    with im.Client(server.ws_url, APP, "ann") as ann:
        ann.subscribe("answers")
        with (
            pytest.raises(ZeroDivisionError),
            api.stream(APP, "answers", "a") as stream,
        ):
            raise ZeroDivisionError
        while not isinstance(event := ann.receive(SECONDS), im.Publication):
            assert event is not None
        assert (event.stream, event.text, event.incomplete) == (stream.id, "a", True)


def test_a_streamed_message_is_written_by_asyncio(server: Server) -> None:
    async def tokens() -> AsyncIterator[str]:
        for token in ("a", "b"):
            yield token

    async def write() -> None:
        async with (
            im.AsyncApi(server.http_url) as api,
            im.AsyncClient(server.ws_url, APP, "bob") as bob,
        ):
            await bob.subscribe("answers")
            async with api.stream(APP, "answers") as stream:
                await stream.append_all(tokens())
            async for event in bob:
                if isinstance(event, im.Publication):
                    assert (event.stream, event.text) == (stream.id, "ab")
                    await bob.close()

    asyncio.run(write())


def test_a_cancelled_append_does_not_swallow_the_next_text() -> None:
    appended: list[str] = []
    go_on = threading.Event()

    class Slow:
        def append_pieces(
            self, _app: str, pieces: Sequence[tuple[str, int, str]]
        ) -> Any:
            go_on.wait(SECONDS)
            ((stream, piece, text),) = pieces
            if piece > 2:
                raise im.NotConnected("no answer")
            repeated = piece <= len(appended)
            appended.extend([] if repeated else [text])
            return (
                im.PieceResult(stream, piece, "repeated" if repeated else "appended"),
            )

        def close_stream(
            self, _app: str, stream: str, *, incomplete: bool = False
        ) -> Any:
            return im.StreamEnd(stream, "closed")

    async def cancel_append(stream: im.AsyncTextStream, text: str) -> None:
        go_on.clear()
        appending = asyncio.create_task(stream.append(text))
        await asyncio.sleep(0)
        appending.cancel()
        await asyncio.wait([appending])
        go_on.set()

    async def write() -> None:
        stream = im.AsyncTextStream(im.TextStream(Slow(), APP, lambda: "s"))
        await stream.open()
        await cancel_append(stream, "one")
        await stream.append("two")
        await cancel_append(stream, "three")
        with pytest.raises(im.NotConnected):
            await stream.append("four")
        await cancel_append(stream, "three")
        assert (await stream.close()).status == "closed"

    asyncio.run(write())
    assert appended == ["one", "two"]


def test_a_streamed_message_waits_for_a_node_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(im.streams.Backoff, "pause", lambda _self: 0.0)
    answers = [
        "not_accepted",
        "not_accepted",
        "",
        "unknown_app",
        *["not_accepted"] * im.streams.FAILED_TRIES,
    ]

    class Faulty:
        def append_pieces(
            self, _app: str, pieces: Sequence[tuple[str, int, str]]
        ) -> Any:
            if code := answers.pop(0):
                raise im.RequestRefused(503, code, "", code == "not_accepted")
            return (im.PieceResult("s", pieces[0][1], "appended"),)

        def close_stream(
            self, _app: str, stream: str, *, incomplete: bool = False
        ) -> Any:
            raise AssertionError

    stream = im.TextStream(Faulty(), APP, lambda: "s")
    stream.append("one")
    with pytest.raises(im.RequestRefused):
        stream.append("two")
    with pytest.raises(im.NotConnected):
        stream.append("two")
    assert answers == []


def test_an_answer_without_a_body_is_none() -> None:
    async def call(url: str) -> object:
        async with im.AsyncApi(url) as api:
            return await api.call("DELETE", "uploads/tus/7")

    with Receiver() as empty:
        empty.reply = lambda _: (204, b"")
        with im.Api(empty.url) as api:
            assert api.call("DELETE", "uploads/tus/7") is None
        assert asyncio.run(call(empty.url)) is None


# --- what goes wrong ----------------------------------------------------------


def test_refusals_name_code_and_request_addresses_may_lack_a_scheme_and_keys_are_not_shown(
    server: Server, api: im.Api
) -> None:
    with pytest.raises(im.RequestRefused) as caught:
        api.push("nowhere", "hi", user="ann")
    error = caught.value
    assert (error.status, error.code, error.temporary) == (404, "unknown_app", False)
    assert error.request_id
    assert error.request == f"POST {server.http_url}/api/v1/push"
    assert error.request in str(error)
    with pytest.raises(im.RequestRefused, match=r"/api/v1/nothing\)$"):
        api.call("GET", "nothing", query={"secret": "s"})
    address = server.http_url.removeprefix("http://")
    with im.Api(address) as api, im.Publisher(address) as publisher:
        assert api.push(APP, "hi", user="nobody").results[0].status == "absent"
        assert publisher.push(APP, "hi", user="nobody").results[0].status == "absent"
    with pytest.raises(
        im.NotConnected, match=r"invalid header Authorization$"
    ) as caught:
        im.Publisher(server.http_url, "a secret\nin two lines")
    assert caught.value.__cause__ is None
    with (
        im.Api("http://127.0.0.1:9", tries=2, timeout_seconds=1) as api,
        pytest.raises(im.NotConnected),
    ):
        api.push("101", "hi", user="ann")


def test_a_wrong_key_is_refused(start_server: StartServer) -> None:
    server = start_server(
        config={"api": {"keys": [{"key": "right" * 8, "scopes": ["push"]}]}}
    )
    with (
        im.Api(server.http_url, "wrong") as api,
        pytest.raises(im.RequestRefused) as caught,
    ):
        api.push("101", "hi", user="ann")
    assert caught.value.status == 401
    with pytest.raises(im.RequestRefused):
        im.Publisher(server.http_url, "wrong")
    with im.Publisher(server.http_url, "right" * 8) as publisher:
        assert publisher.push("101", "hi", user="ann").results[0].status == "absent"


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (200, {}, im.ClientError),
        (301, {"Location": "https://im.example.com/"}, im.RequestRefused),
        (503, {"Retry-After": "3600"}, im.RequestRefused),
    ],
)
def test_an_answer_that_is_not_from_the_api_is_reported_at_once(
    status: int, headers: dict[str, str], error: type[im.ClientError]
) -> None:
    with Receiver() as foreign:
        foreign.reply = lambda _: (status, b"<html>", headers)
        with im.Api(foreign.url) as api:
            for ask in (
                lambda: api.presence(APP, "ann"),
                lambda: api.call("GET", "counts"),
            ):
                with pytest.raises(im.ClientError) as caught:
                    ask()
                assert type(caught.value) is error


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"users":7}', b"\xff"])
def test_a_malformed_answer_is_an_error_of_the_client(body: bytes) -> None:
    with pytest.raises(im.ClientError, match="malformed answer"):
        decode_answer(body, tuple[int, ...], "users")


@pytest.mark.parametrize("url", ["https://im.example.com", "HTTPS://im.example.com/"])
def test_a_publisher_uses_tls_if_the_address_says_so(url: str) -> None:
    assert PublisherCore(url, "key").url == "wss://im.example.com/api/v1/publisher"


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:999999", "http://[::1"])
def test_a_publisher_with_a_wrong_address_is_not_connected(url: str) -> None:
    with pytest.raises(im.NotConnected):
        im.Publisher(url)
    with pytest.raises(im.NotConnected):
        asyncio.run(im.AsyncPublisher(url).connect())


# --- the publisher ------------------------------------------------------------


def test_many_pushes_are_under_way_on_one_connection(
    server: Server, ann: im.Client
) -> None:
    with im.Publisher(server.http_url) as publisher:
        answers: list[Future[im.PushAnswer]] = [
            publisher.publish(APP, str(number), user="ann") for number in range(500)
        ]
        assert all(answer.result(SECONDS).sent == 1 for answer in answers)
        assert texts(ann, 500) == [str(number) for number in range(500)]
        assert publisher.push(APP, "hi", user="nobody").results[0].status == "absent"
        with pytest.raises(im.RequestRefused, match="unknown_app"):
            publisher.push("nowhere", "hi", user="ann")
    with im.Publisher(server.http_url) as publisher:
        for _ in range(20):
            publisher.publish(APP, "one", user="ann").cancel()
        assert publisher.push(APP, "two", user="ann").sent == 1
        assert texts(ann, 21) == ["one"] * 20 + ["two"]


@pytest.mark.parametrize(
    "answer",
    ["no JSON", '{"seq":"1"}', '{"seq":1,"sent":"all"}', "[" * 100_000, b"\xff"],
)
def test_a_malformed_answer_ends_the_connection_with_an_error(
    answer: str | bytes,
) -> None:
    reasons = ("malformed answer: ", "the connection (has ended|was lost)")

    def misbehave(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            for _ in connection:
                connection.send(answer)

    async def push_twice(url: str) -> None:
        async with im.AsyncPublisher(url) as publisher:
            for reason in reasons:
                with pytest.raises(im.NotConnected, match=reason):
                    await publisher.push(APP, "hi", user="ann")

    with serve(misbehave, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        with im.Publisher(url) as publisher:
            for reason in reasons:
                with pytest.raises(im.NotConnected, match=reason):
                    publisher.push(APP, "hi", user="ann")
        asyncio.run(push_twice(url))
        server.shutdown()


# --- asyncio ------------------------------------------------------------------


def test_the_same_for_asyncio(server: Server) -> None:
    async def chat() -> list[str]:
        async with (
            im.AsyncApi(server.http_url) as api,
            im.AsyncClient(server.ws_url, "102", "bob") as bob,
        ):
            assert (await api.push("102", "one", user="bob")).sent == 1
            async with im.AsyncPublisher(server.http_url) as publisher:
                assert (await publisher.push("102", "two", user="bob")).sent == 1
                streams = [
                    await publisher.open_stream("102", f"answers:{number}")
                    for number in range(3)
                ]
                results = await asyncio.gather(
                    *(
                        publisher.append_pieces("102", [(stream, 1, "a")])
                        for stream in streams
                    )
                )
                assert [(each.stream, each.status) for (each,) in results] == [
                    (stream, "appended") for stream in streams
                ]
                ends = [
                    await publisher.close_stream("102", stream) for stream in streams
                ]
                assert [each.status for each in ends] == ["closed"] * 3
            assert await bob.ping() > 0
            assert "bob" in [user async for user in api.all_users("102")]
            found = []
            async for push in bob:
                found.append(push.text)
                if len(found) == 2:
                    await bob.close()
            return found

    assert asyncio.run(chat()) == ["one", "two"]


def test_whoever_gives_up_waiting_loses_no_push(server: Server) -> None:
    async def chat() -> list[str]:
        found = []
        async with (
            im.AsyncApi(server.http_url) as api,
            im.AsyncClient(server.ws_url, "102", "bob") as bob,
        ):
            with suppress(TimeoutError):
                await asyncio.wait_for(bob.receive(), 0.01)
            for number in range(100):
                # The push comes at about the moment in which the wait is over:
                # before, after or in it.
                pushing = asyncio.create_task(api.push("102", str(number), user="bob"))
                with suppress(TimeoutError):
                    found.append(await asyncio.wait_for(bob.receive(), number / 20_000))
                await pushing
            while len(found) < 100:
                found.append(await bob.receive(SECONDS))
        return [push.text for push in found if push is not None]

    assert asyncio.run(chat()) == [str(number) for number in range(100)]


# --- the command for bots -----------------------------------------------------


KEY = "the admin key of a test, long enough"


def run(server: Server, *arguments: str, key: str = KEY) -> tuple[int, str, str]:
    url = f"http://{server.http.host}:{server.http.port}"
    command, *rest = arguments
    given = [command, "--url", url, "--app", "gochat", *rest]
    done = CliRunner().invoke(bot, given, env={"IMSERVER_KEY": key})
    return done.exit_code, done.stdout.strip(), done.stderr.strip()


def test_a_bot_is_made_listed_given_a_webhook_and_a_new_token_and_deleted(
    start_server: StartServer,
) -> None:
    keys = [{"key": KEY, "scopes": ["admin"]}]
    server = start_server(config={"api": {"keys": keys}, "apps": {"gochat": {}}})
    code, token, output = run(server, "add", "weather", "--nickname", "Sun")
    assert code == 0, output
    id = token.split("_")[1]
    assert (
        output == f"The id of this bot is {id}. Save the token: it is not shown again."
    )
    code, rows, _ = run(server, "list")
    assert rows.splitlines()[0].split() == [
        "id",
        "name",
        "nickname",
        "owner",
        "created",
        "webhook",
    ]
    assert rows.splitlines()[1].split()[:3] == [id, "weather", "Sun"]
    code, secret, _ = run(server, "hook", id, "https://weather.example/hook")
    assert (code, len(secret)) == (0, 43)
    assert "https://weather.example/hook" in run(server, "list")[1]
    assert run(server, "hook", id, "--remove")[:2] == (0, "removed")
    assert "https://" not in run(server, "list")[1]
    code, replaced, _ = run(server, "rotate", id)
    assert (code, replaced != token, replaced.split("_")[1]) == (0, True, id)
    code, _, output = run(server, "list", key=replaced)
    assert (code, output.startswith("bot: not_allowed: ")) == (1, True)
    code, _, output = run(server, "hook", id, "https://10.0.0.1/")
    assert (code, output) == (
        1,
        "bot: invalid_request: hook_url: the address is not public",
    )
    assert run(server, "hook", id)[0] == 2, "neither a URL nor --remove"
    assert run(server, "delete", id)[:2] == (0, "deleted")
    code, _, output = run(server, "delete", id)
    assert (code, output) == (
        1,
        "bot: unknown_account: There is no such bot of this owner",
    )
    assert run(server, "list", key="wrong")[0] == 1
    refused = CliRunner().invoke(
        bot, ["list", "--url", "http://127.0.0.1:1", "--app", "gochat"]
    )
    assert (
        refused.exit_code,
        refused.stderr.startswith("bot: http://127.0.0.1:1: "),
    ) == (1, True)


def test_an_address_that_is_no_imserver_is_one_clear_line() -> None:
    with Receiver() as other:
        other.reply = lambda _: (200, b"<html>")
        done = CliRunner().invoke(
            bot, ["rotate", "--url", other.url, "--app", "gochat", "7"]
        )
    assert (
        done.exit_code,
        done.stderr.startswith(f"bot: {other.url}: malformed answer: "),
    ) == (1, True)
