"""Sessions of the client against a real server: logging in, receiving, coming back, being sent away."""

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from imserver_client import Api, Backoff, Client, Closed, LoginRefused, NotConnected, session
from tests.conftest import StartServer
from tests.support import Server, eventually

QUICK = Backoff(0.01, 0.05)
SECONDS = 10.0


def ws(server: Server) -> str:
    return f"ws://{server.ws.host}:{server.ws.port}/acc"


def http(server: Server) -> str:
    return f"http://{server.http.host}:{server.http.port}"


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    with Api(http(server)) as one:
        yield one


def test_what_is_pushed_is_received(server: Server, api: Api) -> None:
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


def test_a_heartbeat_keeps_the_session(start_server: StartServer) -> None:
    server = start_server(config={"websocket": {"heartbeat_seconds": 1, "sweep_seconds": 0.2}})
    states: list[str] = []
    with Client(ws(server), "101", "ann", heartbeat_seconds=0.2, on_state=states.append) as client:
        assert client.receive(2.5) is None
    assert states == ["connecting", "online", "ended"]


def test_a_login_that_is_refused_is_said_at_once(server: Server) -> None:
    client = Client(ws(server), "999", "ann")
    with pytest.raises(LoginRefused) as caught:
        client.connect()
    assert caught.value.code == 1003
    with pytest.raises(LoginRefused):
        client.receive(SECONDS)


def test_nobody_there_is_said_in_time() -> None:
    client = Client("ws://127.0.0.1:9/acc", "101", "ann", backoff=Backoff(0.01, 0.05))
    with pytest.raises(NotConnected):
        client.connect(0.5)
    client.close()
    assert client.state == "ended"


def test_a_client_that_is_kicked_stays_away(server: Server, api: Api) -> None:
    with Client(ws(server), "103", "ann") as client:
        assert api.disconnect("103", users=["ann"]) == 1
        with pytest.raises(Closed) as caught:
            client.receive(SECONDS)
        assert caught.value.code == 4502


def test_a_client_comes_back_when_the_server_does(start_server: StartServer) -> None:
    first = start_server()
    port = first.ws.port
    states: queue.Queue[str] = queue.Queue()
    with Client(ws(first), "101", "ann", on_state=states.put, backoff=Backoff(0.01, 0.05)) as client:
        first.stop()
        await_state(states, "waiting")
        second = start_server(config={"app": {"websocket_port": port}})
        await_state(states, "online")
        with Api(http(second)) as api:
            assert api.push("101", "again", user="ann").sent == 1
        push = client.receive(SECONDS)
        assert push is not None
        assert push.text == "again"


def test_a_full_queue_does_not_delay_the_close(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_WAITING", 2)
    with Client(ws(server), "102", "ann") as client:
        for number in range(4):
            api.push("102", str(number), user="ann")
        eventually(lambda: client._core.full, what="no more is read")
        client.close()
        assert client.state == "ended"


def test_a_client_that_is_closed_while_it_connects_does_not_log_in(server: Server, api: Api) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def on_state(state: str) -> None:
        if state == "connecting":
            reached.set()
            go_on.wait(SECONDS)

    client = Client(ws(server), "102", "hasty", on_state=on_state)
    connecting = threading.Thread(target=lambda: client.connect(SECONDS))
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
