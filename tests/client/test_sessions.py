"""Sessions of the client against a real server: logging in, receiving, coming
back, being sent away."""

import asyncio
import gc
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest

import imserver_client as im
from tests.conftest import StartServer
from tests.support import Server, eventually

QUICK = im.Backoff(0.01, 0.05)
SECONDS = 40.0
NOBODY = "ws://127.0.0.1:9/acc"
STATES = ["connecting", "online", "ended"]
REJOINING = ["connecting", "online", "waiting", "connecting", "online"]


def test_a_session_is_iterated_until_it_is_closed(server: Server, api: im.Api) -> None:
    client = im.Client(server.ws_url, "102", "ann")
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
    with pytest.raises(im.Closed):
        client.connect()
    with pytest.raises(im.LoginRefused, match="1003"):  # at once
        im.Client(server.ws_url, "999", "ann").connect()


@pytest.mark.parametrize("why", ["refused", "404"])
def test_a_session_that_cannot_log_in_says_why_in_time(
    server: Server, why: str
) -> None:
    url = NOBODY if why == "refused" else server.ws_url.replace("/acc", "/nowhere")
    client = im.Client(url, "101", "ann", backoff=QUICK)

    def reports() -> bool:
        with pytest.raises(
            im.NotConnected, match=r"not logged in within 0\.5 s"
        ) as caught:
            client.connect(0.5)
        return why in str(caught.value)

    eventually(reports, what=why)
    client.close()
    assert client.state == "ended"


def test_a_block_whose_login_fails_leaves_no_session_behind() -> None:
    class Impatient(im.Client):
        def connect(self, timeout_seconds: float = 0.1) -> None:
            super().connect(timeout_seconds)

    client = Impatient(NOBODY, "101", "ann", backoff=QUICK)
    with pytest.raises(im.NotConnected), client:
        pass
    assert client.state == "ended"
    assert "imserver client" not in [each.name for each in threading.enumerate()]

    async def run() -> None:
        client = im.AsyncClient(NOBODY, "101", "ann", backoff=QUICK)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), client:
                pass
        assert client.state == "ended"
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def states_of(
    url: str, app: str, token: Any = "", async_token: Any = "", **options: Any
) -> list[str]:
    """The states of a client, and of one of asyncio, once they are
    connected."""

    async def connect() -> str:
        async with im.AsyncClient(url, app, "bob", async_token, **options) as client:
            return client.state

    with im.Client(url, app, "ann", token, **options) as client:
        return [client.state, asyncio.run(connect())]


def test_a_token_function_that_fails_is_called_again(server: Server) -> None:
    outcomes = iter([OSError("no back end"), "t"] * 2)

    def token() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def async_token() -> str:
        return token()

    assert (
        states_of(server.ws_url, "104", token, async_token, backoff=QUICK)
        == ["online"] * 2
    )
    assert next(outcomes, None) is None


def test_an_on_state_that_raises_ends_no_session(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def on_state(state: str) -> None:
        raise RuntimeError(state)

    assert states_of(server.ws_url, "102", on_state=on_state) == ["online"] * 2
    failures = [each.getMessage() for each in caplog.records if each.exc_info]
    assert sorted(failures) == sorted(
        2 * [f"on_state failed for the state {state}" for state in STATES]
    )


@pytest.mark.parametrize("wanted", STATES[:2])
def test_a_session_may_be_closed_by_its_on_state(
    server: Server, api: im.Api, wanted: str
) -> None:
    states: list[str] = []

    def on_state(state: str) -> None:
        states.append(state)
        if state == wanted:
            client.close()

    client = im.Client(server.ws_url, "102", "hasty", on_state=on_state)
    with pytest.raises(im.Closed):
        client.connect(SECONDS)
    client.close()
    assert (states[0], states[-1]) == ("connecting", "ended")
    assert "imserver client" not in [each.name for each in threading.enumerate()]
    assert not api.presence("102", "hasty").online


@pytest.mark.full("waits")
def test_a_token_function_is_asked_again_when_a_token_expires(
    start_server: StartServer,
) -> None:
    secret = "s" * 40
    apps = {"shop": {"jwt": [{"algorithm": "HS256", "key": secret}]}}
    server = start_server(config={"apps": apps})

    def token(user: str, lifetimes: list[float]) -> str:
        expires_at = time.time() + lifetimes.pop(0)
        return jwt.encode(
            {"sub": user, "app": "shop", "exp": expires_at}, secret, "HS256"
        )

    async def connect() -> None:
        lifetimes: list[float] = [5, 60]
        states: asyncio.Queue[str] = asyncio.Queue()
        async with im.AsyncClient(
            server.ws_url,
            "shop",
            "bob",
            lambda: token("bob", lifetimes),
            on_state=states.put_nowait,
        ):
            assert [
                await asyncio.wait_for(states.get(), SECONDS) for _ in REJOINING
            ] == REJOINING

    lifetimes: list[float] = [5, -60]
    states: queue.Queue[str] = queue.Queue()
    with im.Client(
        server.ws_url,
        "shop",
        "ann",
        lambda: token("ann", lifetimes),
        on_state=states.put,
    ) as client:
        asyncio.run(connect())
        with pytest.raises(im.LoginRefused):  # the new token has expired, too
            for _ in client:
                pass
        assert not lifetimes


def test_nothing_is_sent_before_the_login(server: Server) -> None:
    errors: list[str] = []

    def token() -> str:
        for ask in (
            lambda: client.request("ping", None, 0.5),
            lambda: client.subscribe("orders:1"),
        ):
            with pytest.raises(im.NotConnected) as caught:
                ask()
            errors.append(str(caught.value))
        return ""

    async def async_token() -> str:
        for asking in (
            async_client.request("ping"),
            async_client.subscribe("orders:1"),
        ):
            with pytest.raises(im.NotConnected) as caught:
                await asking
            errors.append(str(caught.value))
        return ""

    async def connect() -> None:
        async with async_client:
            assert async_client.state == "online"

    client = im.Client(server.ws_url, "104", "ann", token)
    async_client = im.AsyncClient(server.ws_url, "104", "bob", async_token)
    with client:
        assert client.ping() < SECONDS
        with pytest.raises(im.NotConnected, match="ping: no answer: too late"):
            client.request("ping", None, 0.0)
    asyncio.run(connect())
    assert errors == 4 * ["there is no connection at the moment"]


def test_a_cancelled_subscribe_leaves_no_subscription(
    server: Server, api: im.Api
) -> None:
    api.create_app("given-up", {"open": True, "channels": CHANNELS})

    async def run() -> None:
        async with im.AsyncClient(server.ws_url, "given-up", "ann") as ann:
            subscribing = asyncio.create_task(ann.subscribe("orders:1"))
            await asyncio.sleep(0)
            subscribing.cancel()
            await asyncio.wait([subscribing])
            await ann.ping()  # the answer to the subscription came before this one
            await ann.ping()
            with pytest.raises(im.CommandRefused):
                await ann.publish("orders:1", "of no subscriber")
            subscribing = asyncio.create_task(ann.subscribe("orders:1"))
            await asyncio.sleep(0)
            subscribing.cancel()
            await asyncio.wait([subscribing])
            await ann.subscribe("orders:1")
            await ann.publish("orders:1", "of a subscriber")
            assert is_publication(await ann.receive(SECONDS), "of a subscriber")
            assert (await ann.channel_history("orders:1")).offset == 1
            assert (await ann.subscribers("orders:1")).total == 1
            await ann.unsubscribe("orders:1")

    asyncio.run(run())


def test_a_request_that_was_given_up_leaves_no_error_behind() -> None:
    async def run() -> list[str]:
        found: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: found.append(context["message"]))
        answers = im.session.PendingAnswers()
        answers.add("1", loop.create_future(), "")
        answers.fail("the connection was lost")
        gc.collect()
        await asyncio.sleep(0)
        return found

    assert asyncio.run(run()) == []


def test_many_threads_may_ask_at_once(server: Server) -> None:
    with im.Client(server.ws_url, "104", "ann") as client:
        codes: list[int] = []
        ask: Callable[[], None] = lambda: codes.extend(  # noqa: E731
            client.request("ping").code for _ in range(20)
        )
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert codes == [200] * 80


# --- channels -----------------------------------------------------------------

CHANNELS = {
    "orders": {
        "history_size": 50,
        "history_seconds": 60,
        "publish": "subscribers",
        "presence": True,
    },
    "shut": {"subscribe": "nobody"},
}


def is_publication(event: object, text: str) -> bool:
    return isinstance(event, im.Publication) and event.text == text


def test_subscribers_receive_publications_and_what_they_missed(
    server: Server, api: im.Api
) -> None:
    api.create_app("py-channels", {"open": True, "channels": CHANNELS})
    with im.Client(server.ws_url, "py-channels", "ann", backoff=QUICK) as ann:
        ann.subscribe("orders:1")
        with pytest.raises(im.CommandRefused) as refused:
            ann.subscribe("shut:1")
        assert (refused.value.code, refused.value.refused) == (1003, "denied")
        ann.publish("orders:1", "one")
        assert is_publication(ann.receive(SECONDS), "one")
        call = {"app": "py-channels", "channel": "orders:1"}
        for fields in ({"text": "two"}, {"data": {"n": 3}}):
            api.call("POST", "channels/publish", {**call, **fields})
        assert is_publication(ann.receive(SECONDS), "two")
        last = ann.receive(SECONDS)
        assert isinstance(last, im.Publication)
        assert last.data == {"n": 3}
        page = ann.channel_history("orders:1", last.position, limit=1, reverse=True)
        assert [each.text for each in page.publications] == ["two"]
        assert [each.user for each in ann.subscribers("orders:1").subscribers] == [
            "ann"
        ]
        ann.unsubscribe("orders:1")
        with pytest.raises(im.CommandRefused):
            ann.publish("orders:1", "four")
    api.call("POST", "channels/publish", {**call, "text": "five"})
    with im.Client(server.ws_url, "py-channels", "ann") as ann:
        ann.subscribe("orders:1", since=last.position)
        assert is_publication(ann.receive(SECONDS), "five")
