"""Sessions of the client against a real server: logging in, receiving, coming back, being sent away."""

import asyncio
import gc
import queue
import threading
import time
from collections.abc import Callable, Iterator

import jwt
import pytest
from websockets.asyncio.server import ServerConnection, serve

from imserver_client import (
    Api,
    AsyncClient,
    AsyncPublisher,
    Backoff,
    Client,
    Closed,
    CommandRefused,
    LoginRefused,
    NotConnected,
    Publication,
    publisher,
    session,
)
from imserver_client.shell import CLOSE_SECONDS
from tests.conftest import StartServer
from tests.ports import fixed_ports
from tests.support import Server, eventually

QUICK = Backoff(0.01, 0.05)
SECONDS = 40.0
SOCKET_BUFFERS = 64 * 1024 * 1024
"""More bytes than the sockets of both sides take."""
STATES = ["connecting", "online", "ended"]
REJOINING = ["connecting", "online", "waiting", "connecting", "online"]


def ws(server: Server) -> str:
    return f"ws://{server.ws.host}:{server.ws.port}/acc"


def http(server: Server) -> str:
    return f"http://{server.http.host}:{server.http.port}"


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    with Api(http(server)) as one:
        yield one


def test_pushes_are_received(server: Server, api: Api) -> None:
    with Client(ws(server), "102", "ann") as client:
        assert client.state == "online"
        assert api.push("102", "hello", user="ann", sender="shop", id="7").sent == 1
        push = client.receive(SECONDS)
        assert push is not None
        assert (push.kind, push.sender, push.text, push.id) == ("msg", "shop", "hello", "7")
        assert client.receive(0.0) is None


def test_a_session_is_iterated_until_it_is_closed(server: Server, api: Api) -> None:
    client = Client(ws(server), "102", "ann")
    with client:
        api.push("102", "one", user="ann")
        api.push("102", "two", user="ann")
        texts = []
        for push in client:
            texts.append(push.text)
            if len(texts) == 2:
                client.close()
    assert texts == ["one", "two"]
    assert client.state == "ended"


def test_requests_are_answered(server: Server) -> None:
    with Client(ws(server), "102", "ann") as client:
        assert 0 < client.ping() < SECONDS
        assert client.request("nonsense").code == 1010


@pytest.mark.full
def test_a_heartbeat_keeps_the_session(start_server: StartServer) -> None:
    server = start_server(config={"websocket": {"heartbeat_seconds": 3, "sweep_seconds": 0.2}})
    states: list[str] = []
    with Client(ws(server), "101", "ann", heartbeat_seconds=0.2, on_state=states.append) as client:
        assert client.receive(5) is None
    assert states == ["connecting", "online", "ended"]


def test_a_login_that_is_refused_is_reported_at_once(server: Server) -> None:
    client = Client(ws(server), "999", "ann")
    with pytest.raises(LoginRefused) as caught:
        client.connect()
    assert caught.value.code == 1003
    with pytest.raises(LoginRefused):
        client.receive(SECONDS)


def says_why(client: Client, why: str) -> None:
    """A login that is not possible is reported in time, and why once that is known."""

    def reports() -> bool:
        with pytest.raises(NotConnected, match=r"not logged in within 0\.5 s") as caught:
            client.connect(0.5)
        return why in str(caught.value)

    eventually(reports, what=why)


def test_a_missing_server_is_reported_in_time() -> None:
    client = Client("ws://127.0.0.1:9/acc", "101", "ann", backoff=Backoff(0.01, 0.05))
    says_why(client, "refused")
    client.close()
    assert client.state == "ended"


class Impatient(Client):
    def connect(self, timeout_seconds: float = 0.1) -> None:
        super().connect(timeout_seconds)


class AsyncImpatient(AsyncClient):
    async def connect(self, timeout_seconds: float = 0.1) -> None:
        await super().connect(timeout_seconds)


NOBODY = "ws://127.0.0.1:9/acc"


def test_a_block_whose_login_fails_leaves_no_session_behind() -> None:
    client = Impatient(NOBODY, "101", "ann", backoff=QUICK)
    with pytest.raises(NotConnected), client:
        pass
    assert client.state == "ended"
    assert "imserver client" not in [each.name for each in threading.enumerate()]


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_asyncio_block_whose_login_fails_leaves_no_session_behind(cancelled: bool) -> None:
    async def run() -> None:
        if cancelled:
            client = AsyncClient(NOBODY, "101", "ann", backoff=QUICK)
        else:
            client = AsyncImpatient(NOBODY, "101", "ann", backoff=QUICK)
        with pytest.raises(TimeoutError if cancelled else NotConnected):
            async with asyncio.timeout(0.1 if cancelled else SECONDS), client:
                pass
        assert client.state == "ended"
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_a_session_that_never_connected_reports_its_end() -> None:
    states: list[str] = []
    Client(NOBODY, "102", "ann", on_state=states.append).close()
    asyncio.run(AsyncClient(NOBODY, "102", "ann", on_state=states.append).close())
    assert states == ["ended", "ended"]


def test_a_cancelled_close_ends_the_session(server: Server) -> None:
    async def run() -> None:
        client = AsyncClient(ws(server), "102", "ann")
        await client.connect()
        assert client._connection is not None
        client._connection.close = asyncio.Event().wait  # type: ignore[method-assign,assignment]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.close()
        del client._connection.close
        assert client._task is not None
        await asyncio.wait([client._task], timeout=SECONDS)
        assert client.state == "ended"
        await client.close()

    asyncio.run(run())


def test_closing_ends_in_time_while_the_server_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "ANSWER_SECONDS", CLOSE_SECONDS)

    async def run() -> None:
        async def answer_nothing(client: ServerConnection) -> None:
            client.transport.pause_reading()
            await client.wait_closed()

        async with serve(answer_nothing, "127.0.0.1", 0) as silent:
            url = f"ws://127.0.0.1:{silent.sockets[0].getsockname()[1]}/acc"
            client = AsyncClient(url, "102", "ann")
            pushes = AsyncPublisher(url.removesuffix("/acc").replace("ws:", "http:"))
            await pushes.connect()
            with pytest.raises(NotConnected):
                await client.connect(0.1)
            for connection in (client._connection, pushes._connection):
                assert connection is not None
                connection.transport.write(bytes(SOCKET_BUFFERS))
            async with asyncio.timeout(5 * CLOSE_SECONDS):
                await client.close()
                await pushes.close()
            assert client.state == "ended"
            for connection in silent.connections:
                connection.transport.abort()

    asyncio.run(run())


def test_a_wrong_path_is_named(server: Server) -> None:
    client = Client(ws(server).replace("/acc", "/nowhere"), "101", "ann", backoff=Backoff(0.01, 0.05))
    says_why(client, "404")
    client.close()


def test_a_closed_session_cannot_connect_again(server: Server) -> None:
    client = Client(ws(server), "102", "ann")
    client.connect()
    client.close()
    with pytest.raises(Closed):
        client.connect()

    async def connect() -> None:
        client = AsyncClient(ws(server), "102", "ann")
        await client.connect()
        await client.close()
        await client.connect()

    with pytest.raises(Closed):
        asyncio.run(connect())


def test_a_token_function_that_fails_is_called_again(server: Server) -> None:
    outcomes = iter([OSError("no back end"), "t"])

    def token() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def async_token() -> str:
        return token()

    async def connect() -> str:
        async with AsyncClient(ws(server), "104", "bob", async_token, backoff=Backoff(0.01, 0.05)) as client:
            return client.state

    with Client(ws(server), "104", "ann", token, backoff=Backoff(0.01, 0.05)) as client:
        assert client.state == "online"
    outcomes = iter([OSError("no back end"), "t"])
    assert asyncio.run(connect()) == "online"


def test_a_client_that_is_kicked_stays_away(server: Server, api: Api) -> None:
    with Client(ws(server), "103", "ann") as client:
        assert api.disconnect("103", users=["ann"]) == 1
        with pytest.raises(Closed) as caught:
            client.receive(SECONDS)
        assert caught.value.code == 4502


@pytest.mark.full
def test_a_client_comes_back_when_the_server_does(start_server: StartServer) -> None:
    config = {"app": fixed_ports()}
    first = start_server(config=config)
    states: queue.Queue[str] = queue.Queue()
    with Client(ws(first), "101", "ann", on_state=states.put, backoff=Backoff(0.01, 0.05)) as client:
        first.stop()
        await_state(states, "waiting")
        second = start_server(config=config)
        await_state(states, "online")
        with Api(http(second)) as api:
            assert api.push("101", "again", user="ann").sent == 1
        push = client.receive(SECONDS)
        assert push is not None
        assert push.text == "again"


def test_a_full_queue_delays_neither_an_answer_nor_the_close(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_WAITING", 2)
    with Client(ws(server), "102", "ann") as client:
        for number in range(4):
            api.push("102", str(number), user="ann")
        eventually(lambda: client._core.full, what="no more is read")
        assert client.ping() < SECONDS
        client.close()
        assert client.state == "ended"


def test_a_client_that_is_closed_while_it_connects_does_not_log_in(server: Server, api: Api) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def on_state(state: str) -> None:
        if state == "connecting":
            reached.set()
            go_on.wait(SECONDS)

    client = Client(ws(server), "102", "hasty", on_state=on_state)

    def connect() -> None:
        with pytest.raises(Closed):
            client.connect(SECONDS)

    connecting = threading.Thread(target=connect)
    connecting.start()
    assert reached.wait(SECONDS)
    closing = threading.Thread(target=client.close)
    closing.start()
    with pytest.raises(Closed):  # as soon as close() has begun
        client.receive(SECONDS)
    go_on.set()
    closing.join(SECONDS)
    connecting.join(SECONDS)
    assert client.state == "ended"
    assert not api.presence("102", "hasty").online


def test_an_on_state_that_raises_does_not_end_the_session(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def on_state(state: str) -> None:
        raise RuntimeError(state)

    async def connect() -> str:
        async with AsyncClient(ws(server), "102", "ann", on_state=on_state) as client:
            return client.state

    with Client(ws(server), "102", "ann", on_state=on_state) as client:
        assert client.state == "online"
    assert asyncio.run(connect()) == "online"
    failures = [each.getMessage() for each in caplog.records if each.exc_info]
    assert failures == 2 * [f"on_state failed for the state {state}" for state in STATES]


@pytest.mark.parametrize("wanted", STATES[:2])
def test_a_session_may_be_closed_by_its_on_state(server: Server, wanted: str) -> None:
    states: list[str] = []

    def on_state(state: str) -> None:
        states.append(state)
        if state == wanted:
            client.close()

    client = Client(ws(server), "102", "ann", on_state=on_state)
    with pytest.raises(Closed):
        client.connect(SECONDS)
    client.close()
    assert (states[0], states[-1]) == ("connecting", "ended")
    assert client._thread is not None
    assert not client._thread.is_alive()


def await_state(states: "queue.Queue[str]", wanted: str) -> None:
    while states.get(timeout=SECONDS) != wanted:
        pass


def test_a_fresh_token_is_asked_for_at_each_login(server: Server) -> None:
    tokens: list[str] = []

    def token() -> str:
        tokens.append("t")
        return "t"

    with Client(ws(server), "104", "ann", token):
        assert tokens == ["t"]


@pytest.mark.full
def test_a_token_function_is_asked_again_when_a_token_expires(start_server: StartServer) -> None:
    secret = "s" * 40
    apps = {"shop": {"jwt": [{"algorithm": "HS256", "key": secret}]}}
    server = start_server(config={"apps": apps})

    def token(user: str, lifetimes: list[float]) -> str:
        expires_at = time.time() + lifetimes.pop(0)
        return jwt.encode({"sub": user, "app": "shop", "exp": expires_at}, secret, "HS256")

    async def connect() -> None:
        lifetimes: list[float] = [5, 60]
        states: asyncio.Queue[str] = asyncio.Queue()
        async with AsyncClient(
            ws(server), "shop", "bob", lambda: token("bob", lifetimes), on_state=states.put_nowait
        ):
            assert [await asyncio.wait_for(states.get(), SECONDS) for _ in REJOINING] == REJOINING

    lifetimes: list[float] = [5, -60]
    states: queue.Queue[str] = queue.Queue()
    with Client(ws(server), "shop", "ann", lambda: token("ann", lifetimes), on_state=states.put) as client:
        asyncio.run(connect())
        with pytest.raises(LoginRefused):  # the new token has expired, too
            for _ in client:
                pass
        assert not lifetimes


def test_nothing_is_sent_before_the_login(server: Server) -> None:
    errors: list[str] = []

    def token() -> str:
        for ask in (lambda: client.request("ping", None, 0.5), lambda: client.subscribe("orders:1")):
            with pytest.raises(NotConnected) as caught:
                ask()
            errors.append(str(caught.value))
        return ""

    async def async_token() -> str:
        for asking in (async_client.request("ping"), async_client.subscribe("orders:1")):
            with pytest.raises(NotConnected) as caught:
                await asking
            errors.append(str(caught.value))
        return ""

    async def connect() -> None:
        async with async_client:
            assert async_client.state == "online"

    client = Client(ws(server), "104", "ann", token)
    async_client = AsyncClient(ws(server), "104", "bob", async_token)
    with client:
        assert client.ping() < SECONDS
        with pytest.raises(NotConnected, match="ping: no answer: too late"):
            client.request("ping", None, 0.0)
    asyncio.run(connect())
    assert errors == 4 * ["there is no connection at the moment"]


def test_a_cancelled_subscribe_leaves_no_subscription(server: Server, api: Api) -> None:
    api.create_app("given-up", {"open": True, "channels": CHANNELS})

    async def run() -> None:
        async with AsyncClient(ws(server), "given-up", "ann") as ann:
            subscribing = asyncio.create_task(ann.subscribe("orders:1"))
            await asyncio.sleep(0)
            assert ann._core.answers.futures, "the command is on its way"
            subscribing.cancel()
            await asyncio.wait([subscribing])
            assert not ann._core.answers.futures
            await ann.ping()  # the answer to the subscription came before this one
            await ann.ping()
            with pytest.raises(CommandRefused):
                await ann.publish("orders:1", "of no subscriber")
            subscribing = asyncio.create_task(ann.subscribe("orders:1"))
            await asyncio.sleep(0)
            subscribing.cancel()
            await asyncio.wait([subscribing])
            await ann.subscribe("orders:1")
            await ann.publish("orders:1", "of a subscriber")
            assert is_publication(await ann.receive(SECONDS), "of a subscriber")

    asyncio.run(run())


def test_a_request_that_was_given_up_leaves_no_error_behind() -> None:
    async def run() -> list[str]:
        found: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: found.append(context["message"]))
        answers = session.PendingAnswers()
        answers.add("1", loop.create_future(), "")
        answers.fail("the connection was lost")
        gc.collect()
        await asyncio.sleep(0)
        return found

    assert asyncio.run(run()) == []


def test_many_threads_may_ask_at_once(server: Server) -> None:
    with Client(ws(server), "104", "ann") as client:
        codes: list[int] = []
        ask: Callable[[], None] = lambda: codes.extend(client.request("ping").code for _ in range(20))  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert codes == [200] * 80


# --- channels -----------------------------------------------------------------------------------------------

CHANNELS = {
    "orders": {"history_size": 50, "history_seconds": 60, "publish": "subscribers", "presence": True},
    "shut": {"subscribe": "nobody"},
}


def is_publication(event: object, text: str) -> bool:
    return isinstance(event, Publication) and event.text == text


def test_subscribers_receive_publications_and_what_they_missed(server: Server, api: Api) -> None:
    api.create_app("py-channels", {"open": True, "channels": CHANNELS})
    with Client(ws(server), "py-channels", "ann", backoff=QUICK) as ann:
        ann.subscribe("orders:1")
        with pytest.raises(CommandRefused) as refused:
            ann.subscribe("shut:1")
        assert (refused.value.code, refused.value.refused) == (1003, "denied")
        ann.publish("orders:1", "one")
        assert is_publication(ann.receive(SECONDS), "one")
        assert ann._connection is not None
        with ann._changed:  # nothing is read until the publications are there
            ann._connection.socket.shutdown(2)
            call = {"app": "py-channels", "channel": "orders:1"}
            api.call("POST", "channels/publish", {**call, "text": "two"})
        api.call("POST", "channels/publish", {**call, "data": {"n": 3}})
        assert is_publication(ann.receive(SECONDS), "two")
        last = ann.receive(SECONDS)
        assert isinstance(last, Publication)
        assert last.data == {"n": 3}
        page = ann.channel_history("orders:1", last.position, limit=1, reverse=True)
        assert [each.text for each in page.publications] == ["two"]
        assert [each.user for each in ann.subscribers("orders:1").subscribers] == ["ann"]
        ann.unsubscribe("orders:1")
        with pytest.raises(CommandRefused):
            ann.publish("orders:1", "four")
    with Client(ws(server), "py-channels", "ann") as ann:
        ann.subscribe("orders:1", since=last.position)
        api.call("POST", "channels/publish", {**call, "text": "five"})
        assert is_publication(ann.receive(SECONDS), "five")


def test_a_subscription_begins_after_the_end_of_the_last_one(server: Server, api: Api) -> None:
    api.create_app("again", {"open": True, "channels": CHANNELS})
    with Client(ws(server), "again", "ann") as ann:
        taken, go_on = threading.Event(), threading.Event()
        assert ann._connection is not None
        send = ann._connection.send

        def slow_send(frame: str) -> None:
            if '"unsubscribe"' in frame:
                taken.set()
                go_on.wait(SECONDS)
            send(frame)

        ann._connection.send = slow_send  # type: ignore[method-assign,assignment]
        ann._call(ann._core.give_up, "orders:1")
        api.push("again", "hello", user="ann")  # the thread of the session wakes up, and unsubscribes
        assert taken.wait(SECONDS)
        subscribing = threading.Thread(target=ann.subscribe, args=("orders:1",))
        subscribing.start()
        subscribing.join(0.5)
        go_on.set()
        subscribing.join(SECONDS)
        ann.publish("orders:1", "of a subscriber")


def test_subscribers_with_asyncio(server: Server, api: Api) -> None:
    api.create_app("aio-channels", {"open": True, "channels": CHANNELS})

    async def run() -> None:
        async with AsyncClient(ws(server), "aio-channels", "ann") as ann:
            await ann.subscribe("orders:1")
            await ann.publish("orders:1", data=[1])
            found = await ann.receive(SECONDS)
            assert isinstance(found, Publication)
            assert found.data == [1]
            assert (await ann.channel_history("orders:1")).offset == 1
            assert (await ann.subscribers("orders:1")).total == 1
            await ann.unsubscribe("orders:1")
            with pytest.raises(CommandRefused):
                await ann.subscribe("shut:1")

    asyncio.run(run())
