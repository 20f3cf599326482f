"""GET /gateway: which node it recommends, and what it says where nodes have no
address of their own."""

from collections import Counter
from typing import Any

import pytest
from flask.testing import FlaskClient

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.config.settings import AppSettings, Config, ServerSettings
from tests.pages.test_routes import FakeNode, client_for


def lease(
    number: int, connections: int = 0, url: str = "?", draining: bool = False
) -> Lease:
    url = f"wss://im{number}.example.com/acc" if url == "?" else url
    return Lease(
        f"10.0.0.{number}:9001",
        number,
        public_ws_url=url,
        connections=connections,
        draining=draining,
    )


def client_of(*leases: Lease, config: Config | None = None) -> FlaskClient:
    node = FakeNode(config or Config())
    node.overview.known = {each.node: each for each in leases}
    return client_for(node)


def ask(client: FlaskClient, host: str = "127.0.0.1:8080", **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get("/gateway", headers={"Host": host, **names})


def urls(client: FlaskClient, times: int = 200) -> Counter[str]:
    return Counter(ask(client).json["url"] for _ in range(times))


@pytest.mark.parametrize(
    "leases",
    [
        (lease(1, 500), lease(2, 499)),
        (lease(1, 0, draining=True), lease(2, 900)),
        (lease(1, 0, url=""), lease(2, 900)),
    ],
    ids=["less loaded", "not about to stop", "with an address of its own"],
)
def test_of_two_nodes_one_is_named(leases: tuple[Lease, ...]) -> None:
    assert set(urls(client_of(*leases))) == {"wss://im2.example.com/acc"}


@pytest.mark.full("load")
def test_of_many_only_the_fullest_is_never_named_and_no_one_gets_all() -> None:
    named = urls(
        client_of(*(lease(number, number * 100) for number in range(1, 6))), 1000
    )
    assert set(named) == {f"wss://im{number}.example.com/acc" for number in range(1, 5)}
    # Of two out of five the emptiest is among them in 40 % of all cases.
    assert 300 < named["wss://im1.example.com/acc"] < 500


def test_without_node_addresses_the_callers_own_address_is_returned() -> None:
    client = client_of(lease(1, url=""), lease(2, url=""))
    assert ask(client).json == {"url": "ws://127.0.0.1:8089/acc"}
    assert ask(client, "im.example.com").json == {"url": "ws://im.example.com/acc"}
    forwarded = {"X_Forwarded_Host": "im.example.com", "X_Forwarded_Proto": "https"}
    assert ask(client, **forwarded).json == {"url": "wss://im.example.com/acc"}


def test_no_stranger_says_where_others_shall_connect_but_a_configured_address_counts() -> (
    None
):
    forwarded = {"X_Forwarded_Host": "evil.example.com", "X_Forwarded_Proto": "https"}
    for config, url in (
        (
            Config(server=ServerSettings(trusted_proxies=("10.0.0.0/8",))),
            "ws://127.0.0.1:8089/acc",
        ),
        (
            Config(app=AppSettings(websocket_url="im.example.com:8089")),
            "wss://im.example.com:8089/acc",
        ),
    ):
        assert ask(client_of(lease(1, url=""), config=config), **forwarded).json == {
            "url": url
        }


def test_when_every_node_is_about_to_stop_the_answer_is_503() -> None:
    assert ask(client_of(lease(1, draining=True))).status_code == 503


def test_pages_of_other_origins_may_ask_and_the_answer_is_not_cached() -> None:
    client = client_of(lease(1))
    answer = ask(client)
    assert answer.content_type == "application/json; charset=utf-8"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cache-Control"] == "no-store"
    preflight = client.options("/gateway")
    assert (
        preflight.status_code,
        preflight.headers["Access-Control-Allow-Origin"],
    ) == (204, "*")
