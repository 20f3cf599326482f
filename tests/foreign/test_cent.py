"""cent, Centrifugo's client of its server API."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cent import (
    BatchRequest,
    BroadcastRequest,
    CentApiResponseError,
    CentTransportError,
    CentUnauthorizedError,
    ChannelsRequest,
    Client,
    Disconnect,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    StreamPosition,
    SubscribeRequest,
)

from imserver.services.channels.members import MAX_TAG_BYTES, MAX_TAGS
from tests.integration.raw import CLOSE, Raw, request, text
from tests.support import Server, eventually

from .conftest import KEY, OTHER_KEY, READ_KEY, token
from .people import SECONDS


@pytest.fixture
def cent(server: Server) -> Iterator[Client]:
    with Client(f"{server.http_url}/api", KEY, timeout=SECONDS) as one:
        yield one


def test_publications_are_numbered_and_listed(cent: Client) -> None:
    for number in (1, 2, 3):
        published = cent.publish(PublishRequest(channel="past:cent", data={"n": number}, tags={"k": "v"}))
        assert published.offset == number
    assert cent.publish(PublishRequest(channel="past:cent", data={}, skip_history=True)).offset == 0
    page = cent.history(HistoryRequest(channel="past:cent", limit=2, reverse=True))
    assert [each.data for each in page.publications] == [{"n": 3}, {"n": 2}]
    assert (page.offset, page.epoch) == (3, published.epoch)
    since = StreamPosition(offset=1, epoch=page.epoch)
    page = cent.history(HistoryRequest(channel="past:cent", limit=100, since=since))
    assert [(each.offset, each.tags) for each in page.publications] == [(2, {"k": "v"}), (3, {"k": "v"})]
    cent.history_remove(HistoryRemoveRequest(channel="past:cent"))
    assert cent.history(HistoryRequest(channel="past:cent", limit=9)).publications == []


def test_one_request_publishes_to_many(cent: Client) -> None:
    answer = cent.broadcast(BroadcastRequest(channels=["past:b1", "past:b2", "x" * 300], data=1))
    assert [each.result and each.result.offset for each in answer.responses] == [1, 1, None]
    assert answer.responses[2].error is not None
    assert answer.responses[2].error.code == 107


@pytest.mark.parametrize(
    "tags", [{str(number): "" for number in range(MAX_TAGS + 1)}, {"k": "x" * MAX_TAG_BYTES}]
)
def test_too_many_tags_are_refused_with_the_limit(cent: Client, tags: dict[str, str]) -> None:
    for call in (
        lambda: cent.publish(PublishRequest(channel="past:tags", data=1, tags=tags)),
        lambda: cent.broadcast(BroadcastRequest(channels=["past:tags"], data=1, tags=tags)),
    ):
        with pytest.raises(CentApiResponseError) as error:
            call()
        assert error.value.code == 106
        assert f"at most {MAX_TAGS}, with {MAX_TAG_BYTES} bytes" in str(error.value)
    assert cent.history(HistoryRequest(channel="past:tags")).offset == 0


def test_a_repeated_publication_is_dropped(cent: Client) -> None:
    asked = PublishRequest(channel="past:once", data=1, idempotency_key="order-7")
    assert cent.publish(asked).offset == 1
    assert cent.publish(asked).offset == 0
    assert cent.history(HistoryRequest(channel="past:once")).offset == 1


def test_an_idempotency_key_acts_per_channel(cent: Client) -> None:
    for channel in ("past:key-a", "past:key-b"):
        asked = PublishRequest(channel=channel, data=1, idempotency_key="order-8")
        assert cent.publish(asked).offset == 1
    channels = ["past:key-b", "past:key-c", "past:key-c"]
    answer = cent.broadcast(BroadcastRequest(channels=channels, data=1, idempotency_key="order-8"))
    assert [each.result and each.result.offset for each in answer.responses] == [0, 1, 1]
    for channel in channels:
        assert cent.history(HistoryRequest(channel=channel)).offset == 1
    with pytest.raises(CentApiResponseError) as error:
        cent.publish(PublishRequest(channel="past:key-a", data=2, idempotency_key="order-8"))
    assert error.value.code == 107


def test_binary_payloads_are_base64_of_json(cent: Client) -> None:
    cent.publish(PublishRequest(channel="past:b64", data=None, b64data="eyJuIjoxfQ=="))
    (found,) = cent.history(HistoryRequest(channel="past:b64", limit=1)).publications
    assert found.data == {"n": 1}


def test_a_batch_has_the_replies_in_its_order(cent: Client) -> None:
    answer = cent.batch(
        BatchRequest(
            requests=[
                PublishRequest(channel="past:batch", data=1),
                HistoryRequest(channel="past:batch", limit=1),
                ChannelsRequest(),
            ]
        )
    )
    published, page, channels = answer.replies
    assert published.offset == 1  # type: ignore[attr-defined]
    assert len(page.publications) == 1  # type: ignore[attr-defined]
    assert isinstance(channels.channels, dict)  # type: ignore[attr-defined]


def test_presence_of_nobody(cent: Client) -> None:
    assert cent.presence(PresenceRequest(channel="talk:empty")).presence == {}
    stats = cent.presence_stats(PresenceStatsRequest(channel="talk:empty"))
    assert (stats.num_clients, stats.num_users) == (0, 0)
    cent.subscribe(SubscribeRequest(user="nobody", channel="talk:empty"))
    cent.disconnect(DisconnectRequest(user="nobody"))


@contextmanager
def logged_in(server: Server, user: str) -> Iterator[Raw]:
    with Raw(server.ws) as client:
        client.upgrade("/connection/websocket")
        client.send(text(json.dumps({"id": 1, "connect": {"token": token(user)}})))
        while "connect" not in client.message().json:
            pass
        yield client


def test_info_describes_the_app(server: Server, cent: Client) -> None:
    def users() -> int:
        (node,) = cent.info(InfoRequest()).nodes
        assert node.version
        return int(node.num_users)

    with logged_in(server, "counted"):
        eventually(lambda: users() == 1, what="one user: others have left")
    eventually(lambda: users() == 0, what="nobody is left")


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda c: c.presence(PresenceRequest(channel="past:x")), 108),
        (lambda c: c.presence_stats(PresenceStatsRequest(channel="past:x")), 108),
        (lambda c: c.history(HistoryRequest(channel="talk:x")), 108),
        (lambda c: c.publish(PublishRequest(channel="", data=1)), 107),
        (lambda c: c.publish(PublishRequest(channel="x", data=1, b64data="!")), 107),
        (lambda c: c.broadcast(BroadcastRequest(channels=[], data=1)), 107),
        (lambda c: c.disconnect(DisconnectRequest(user="")), 107),
        (lambda c: c.subscribe(SubscribeRequest(user="ann", channel="")), 107),
        (
            lambda c: c.history(
                HistoryRequest(channel="past:x", limit=1, since=StreamPosition(offset=1, epoch="other"))
            ),
            112,
        ),
    ],
)
def test_what_cannot_be_done_is_an_error_with_its_code(cent: Client, call: Any, code: int) -> None:
    with pytest.raises(CentApiResponseError) as error:
        call(cent)
    assert error.value.code == code


def test_a_key_is_needed_and_its_scope_counts(server: Server) -> None:
    with (
        Client(f"{server.http_url}/api", "wrong", timeout=SECONDS) as stranger,
        pytest.raises(CentUnauthorizedError),
    ):
        stranger.publish(PublishRequest(channel="x", data=1))
    with Client(f"{server.http_url}/api", READ_KEY, timeout=SECONDS) as reader:
        assert reader.channels(ChannelsRequest()).channels is not None
        with pytest.raises(CentTransportError) as error:
            reader.publish(PublishRequest(channel="x", data=1))
    assert error.value.status_code == 403


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({"X-API-Key": KEY}, 200),
        ({"Authorization": f"apikey {KEY}"}, 200),
        ({"Authorization": f"ApiKey  {KEY}"}, 200),
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Authorization": "apikey wrong"}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"Authorization": f"apikey {KEY}", "X-API-Key": "wrong"}, 401),
    ],
)
def test_older_clients_send_their_key_as_authorization(
    server: Server, header: dict[str, str], status: int
) -> None:
    with Raw(server.http) as client:
        client.send(request("/api/info", method="POST", headers=header.items(), body=b"{}"))
        assert client.response().status == status


@pytest.mark.parametrize(
    ("code", "given", "reason"),
    [(4600, "sold out", "sold out"), (3600, "", "disconnected"), (4502, "", "kicked")],
)
def test_a_client_is_disconnected_with_code_and_reason(
    server: Server, cent: Client, code: int, given: str, reason: str
) -> None:
    """SDKs heed the code only if there is a reason."""
    user = f"gone-{code}"
    with logged_in(server, user) as client:
        cent.disconnect(DisconnectRequest(user=user, disconnect=Disconnect(code=code, reason=given)))
        while (end := client.frame(seconds=30)).opcode != CLOSE:
            pass
    assert (end.close_code, end.payload[2:].decode()) == (3503 if code == 4502 else code, reason)


def test_a_key_for_all_apps_acts_in_the_app_of_the_settings(server: Server, cent: Client) -> None:
    with Client(f"{server.http_url}/api", OTHER_KEY, timeout=SECONDS) as other:
        other.publish(PublishRequest(channel="past:all", data=1))
    found = cent.history(HistoryRequest(channel="past:all", limit=1))
    assert len(found.publications) == 1
