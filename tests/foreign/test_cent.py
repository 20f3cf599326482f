"""cent, Centrifugo's client of its server API, and frames by hand that no SDK
sends, with their limits."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cent as api
import pytest

from imserver.dialects.centrifuge.service import GRACE_SECONDS
from tests.integration.raw import (
    BINARY,
    CLOSE,
    TEXT,
    Raw,
    frame,
    handshake,
    request,
    text,
)
from tests.samples import play, samples_of
from tests.support import Server, eventually

from .conftest import KEY, SHUT_KEY, token
from .people import SECONDS


@pytest.fixture
def cent(server: Server) -> Iterator[api.Client]:
    with api.Client(f"{server.http_url}/api", KEY, timeout=SECONDS) as one:
        yield one


def test_publications_are_numbered_and_listed(cent: api.Client) -> None:
    for number in (1, 2, 3):
        published = cent.publish(
            api.PublishRequest(channel="past:cent", data={"n": number}, tags={"k": "v"})
        )
        assert published.offset == number
    assert (
        cent.publish(
            api.PublishRequest(channel="past:cent", data={}, skip_history=True)
        ).offset
        == 0
    )
    page = cent.history(api.HistoryRequest(channel="past:cent", limit=2, reverse=True))
    assert [each.data for each in page.publications] == [{"n": 3}, {"n": 2}]
    assert (page.offset, page.epoch) == (3, published.epoch)
    since = api.StreamPosition(offset=1, epoch=page.epoch)
    page = cent.history(api.HistoryRequest(channel="past:cent", limit=100, since=since))
    assert [(each.offset, each.tags) for each in page.publications] == [
        (2, {"k": "v"}),
        (3, {"k": "v"}),
    ]
    cent.history_remove(api.HistoryRemoveRequest(channel="past:cent"))
    assert (
        cent.history(api.HistoryRequest(channel="past:cent", limit=9)).publications
        == []
    )


def test_an_idempotency_key_acts_per_channel(cent: api.Client) -> None:
    for channel in ("past:key-a", "past:key-b"):
        request = api.PublishRequest(channel=channel, data=1, idempotency_key="order-8")
        assert cent.publish(request).offset == 1
    channels = ["past:key-b", "past:key-c", "past:key-c"]
    answer = cent.broadcast(
        api.BroadcastRequest(channels=channels, data=1, idempotency_key="order-8")
    )
    assert [each.result and each.result.offset for each in answer.responses] == [
        1,
        1,
        1,
    ]
    for channel in channels:
        assert cent.history(api.HistoryRequest(channel=channel)).offset == 1
    other = api.PublishRequest(channel="past:key-a", data=2, idempotency_key="order-8")
    assert cent.publish(other).offset == 1, "as in Centrifugo, the key alone decides"
    assert cent.history(api.HistoryRequest(channel="past:key-a")).offset == 1


def ask(server: Server, path: str, body: Any, key: str = KEY) -> Any:
    lines = body if isinstance(body, list) else [body]
    content = "\n".join(map(json.dumps, lines)).encode()
    with Raw(server.http) as client:
        client.send(
            request(path, method="POST", headers=[("X-API-Key", key)], body=content)
        )
        answer = client.response()
    assert answer.status == 200, answer
    found = [json.loads(line) for line in answer.body.splitlines()]
    return found if isinstance(body, list) else found[0]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api", b'{"method":"info"}\n' * 1001),
        ("/api/batch", json.dumps({"commands": [{"info": {}}] * 1001}).encode()),
    ],
    ids=["too many lines", "too many commands"],
)
def test_requests_that_have_too_many_commands_are_refused(
    server: Server, path: str, body: bytes
) -> None:
    with Raw(server.http) as client:
        client.send(
            request(path, method="POST", headers=[("X-API-Key", KEY)], body=body)
        )
        assert client.response().status == 400


@contextmanager
def logged_in(server: Server, user: str) -> Iterator[Raw]:
    with Raw(server.ws) as client:
        connect(client, token(user))
        yield client


def connect(client: Raw, proof: str, path: str = "/connection/websocket") -> None:
    client.upgrade(path)
    client.send(text(json.dumps({"id": 1, "connect": {"token": proof}})))
    while "connect" not in client.message().json:
        pass


def test_info_describes_the_app(server: Server, cent: api.Client) -> None:
    def users() -> int:
        (node,) = cent.info(api.InfoRequest()).nodes
        assert node.version
        return int(node.num_users)

    with logged_in(server, "counted"):
        eventually(lambda: users() == 1, what="one user: others have left")
        cent.subscribe(api.SubscribeRequest(user="counted", channel="talk:counted"))
        (node,) = cent.info(api.InfoRequest()).nodes
        assert node.num_subs == 1
    eventually(lambda: users() == 0, what="nobody is left")


@pytest.mark.parametrize("namespace", ["last", "latest"])
def test_a_client_of_a_cache_recovers_the_newest_publication(
    server: Server, cent: api.Client, namespace: str
) -> None:
    channel = f"{namespace}:1"

    def recovered(client: Raw, **since: Any) -> tuple[bool, list[Any]]:
        number = 2 + len(questions)
        questions.append(since)
        command = {
            "id": number,
            "subscribe": {"channel": channel, "recover": True, **since},
        }
        client.send(text(json.dumps(command)))
        while (reply := client.message().json).get("id") != number:
            pass
        result = reply["subscribe"]
        position.update(epoch=result["epoch"], offset=result.get("offset", 0))
        client.send(
            text(json.dumps({"id": 100 + number, "unsubscribe": {"channel": channel}}))
        )
        while client.message().json.get("id") != 100 + number:
            pass
        assert result["was_recovering"]
        return result.get("recovered", False), [
            each["data"] for each in result.get("publications", ())
        ]

    questions: list[dict[str, Any]] = []
    position: dict[str, Any] = {}
    with logged_in(server, f"cache-{namespace}") as client:
        assert recovered(client) == (False, [])
        for number in (1, 2, 3):
            cent.publish(api.PublishRequest(channel=channel, data=number))
        assert recovered(client) == (True, [3])
        assert recovered(client, **position) == (True, [])
        assert recovered(client, epoch="another", offset=position["offset"]) == (
            True,
            [3],
        )
        cent.publish(api.PublishRequest(channel=channel, data=4))
        assert recovered(client, **position) == (True, [4])


@pytest.mark.parametrize("offset", [2**63, 10**23])
def test_a_position_beyond_all_publications_is_none_that_can_be_recovered(
    server: Server, cent: api.Client, offset: int
) -> None:
    channel = f"past:far-{offset}"
    since = {"offset": offset, "epoch": ""}
    request = {"channel": channel, "limit": 9, "since": since}
    with logged_in(server, "far") as client:
        cent.publish(api.PublishRequest(channel=channel, data={"n": 1}))
        assert ask(server, "/api/history", request)["result"]["publications"] == []
        assert ask(
            server,
            "/api/subscribe",
            {"user": "far", "channel": channel, "recover_since": since},
        ) == {"result": {}}
        cent.publish(api.PublishRequest(channel=channel, data={"n": 2}))
        pushed: list[Any] = []
        while not any("pub" in each for each in pushed):
            pushed.append(client.message().json.get("push", {}))
        assert [each["pub"]["data"] for each in pushed if "pub" in each] == [{"n": 2}]


def test_channels_have_the_names_of_centrifugo(server: Server) -> None:
    with (
        Raw(server.ws) as client,
        api.Client(f"{server.http_url}/api", SHUT_KEY, timeout=SECONDS) as cent,
    ):
        connect(client, token("ann"), "/connection/shut/websocket")
        cent.subscribe(api.SubscribeRequest(user="ann", channel="talk:1"))
        for pattern, names in (
            ("#*", {"#ann"}),
            ("{talk,past}:*", {"talk:1"}),
            ("", {"#ann", "talk:1"}),
        ):
            assert {
                *cent.channels(api.ChannelsRequest(pattern=pattern)).channels
            } == names
        for call in (
            lambda: cent.subscribe(api.SubscribeRequest(user="ann", channel="dance:1")),
            lambda: cent.unsubscribe(
                api.UnsubscribeRequest(user="ann", channel="dance:1")
            ),
        ):
            with pytest.raises(api.CentApiResponseError) as error:
                call()
            assert error.value.code == 102
        cent.unsubscribe(api.UnsubscribeRequest(user="ann", channel="#ann"))


@pytest.mark.parametrize(
    ("code", "given", "reason"),
    [
        (4600, "sold out", "sold out"),
        (3600, "", "disconnected"),
        # the server's own codes with these numbers mean other things
        (4002, "retry", "retry"),
        (4504, "token invalid", "token invalid"),
    ],
)
def test_a_client_is_disconnected_with_code_and_reason(
    server: Server, cent: api.Client, code: int, given: str, reason: str
) -> None:
    """SDKs heed the code only if there is a reason. The code says whether they
    reconnect."""
    user = f"gone-{code}"
    with logged_in(server, user) as client:
        cent.disconnect(
            api.DisconnectRequest(
                user=user, disconnect=api.Disconnect(code=code, reason=given)
            )
        )
        while (end := client.frame(seconds=30)).opcode != CLOSE:
            pass
    assert (end.close_code, end.payload[2:].decode()) == (code, reason)


def test_a_session_that_is_not_supported_does_not_mean_all(
    server: Server, cent: api.Client
) -> None:
    with logged_in(server, "dora") as client:
        cent.subscribe(api.SubscribeRequest(user="dora", channel="talk:dora"))
        for call in (
            lambda: cent.disconnect(
                api.DisconnectRequest(user="dora", session="no-such-session")
            ),
            lambda: cent.unsubscribe(
                api.UnsubscribeRequest(user="dora", channel="talk:dora", session="no")
            ),
        ):
            with pytest.raises(api.CentApiResponseError) as error:
                call()
            assert error.value.code == 107
        assert (
            cent.presence_stats(
                api.PresenceStatsRequest(channel="talk:dora")
            ).num_clients
            == 1
        )
        cent.disconnect(api.DisconnectRequest(user="dora", session=""))
        while (end := client.frame(seconds=30)).opcode != CLOSE:
            pass
    assert end.close_code == 3503


def test_an_empty_channel_ends_all_subscriptions(
    server: Server, cent: api.Client
) -> None:
    with logged_in(server, "gus") as client:
        channels = {"talk:gus", "past:gus"}
        for channel in sorted(channels):
            cent.subscribe(api.SubscribeRequest(user="gus", channel=channel))
        cent.unsubscribe(api.UnsubscribeRequest(user="gus", channel=""))
        left: set[str] = set()
        while left != channels:
            push = client.message().json.get("push", {})
            left |= {push["channel"]} if "unsubscribe" in push else set()
        cent.publish(api.PublishRequest(channel="#gus", data=1))
        while "pub" not in client.message().json.get("push", {}):
            pass


def test_a_subscription_by_the_server_has_an_end(
    server: Server, cent: api.Client
) -> None:
    with logged_in(server, "eva") as client:
        ended = int(time.time()) - GRACE_SECONDS - 1
        cent.subscribe(
            api.SubscribeRequest(user="eva", channel="talk:eva", expire_at=ended)
        )
        while (end := client.frame(seconds=30)).opcode != CLOSE:
            pass
    assert (end.close_code, end.payload[2:]) == (3006, b"subscription expired")


def test_a_refresh_changes_what_others_see(server: Server, cent: api.Client) -> None:
    with logged_in(server, "finn"):
        cent.subscribe(api.SubscribeRequest(user="finn", channel="talk:finn"))
        for info in ({"n": 1}, None):
            cent.refresh(api.RefreshRequest(user="finn", info=info))
            (member,) = cent.presence(
                api.PresenceRequest(channel="talk:finn")
            ).presence.values()
            assert member.conn_info == {"n": 1}


PATH = "/connection/websocket"
CONNECT = json.dumps({"id": 1, "connect": {"token": token("raw")}})


def field(key: int, content: bytes) -> bytes:
    """A field of a protobuf message, with less than 128 bytes."""
    return bytes((key << 3 | 2, len(content))) + content


_COMMAND = b"\x08\x01" + field(4, field(1, token("raw").encode()))
CONNECT_PROTOBUF = bytes((len(_COMMAND),)) + _COMMAND


def answered(client: Raw) -> dict[str, Any]:
    while "id" not in (found := client.message().json):
        pass
    assert isinstance(found, dict)
    return found


def close_code(client: Raw) -> int | None:
    """The code of the close frame that comes; data before it is dropped."""
    while (found := client.frame()).opcode != CLOSE:
        pass
    return found.close_code


@pytest.mark.parametrize(
    ("offered", "confirmed", "opcode"),
    [
        (None, None, TEXT),
        ("centrifuge-json", "centrifuge-json", TEXT),
        ("chat, centrifuge-protobuf", "centrifuge-protobuf", BINARY),
        ("chat", None, TEXT),
    ],
)
def test_the_subprotocol_selects_the_form_of_frames(
    server: Server, offered: str | None, confirmed: str | None, opcode: int
) -> None:
    more = [("Sec-WebSocket-Protocol", offered)] if offered else []
    with Raw(server.ws) as client:
        client.send(handshake(PATH, more=more))
        answer = client.response()
        assert (answer.status, answer.header("sec-websocket-protocol")) == (
            101,
            confirmed,
        )
        client.send(frame(opcode, CONNECT if opcode == TEXT else CONNECT_PROTOBUF))
        assert client.message().opcode == opcode


def test_a_renewed_token_says_anew_what_others_see_of_its_client(
    server: Server,
) -> None:
    with Raw(server.ws) as client:
        client.upgrade(PATH)

        def ask(name: str, **content: Any) -> Any:
            client.send(text(json.dumps({"id": 2, name: content})))
            return answered(client)[name]

        def renew(
            session: dict[str, Any], subscription: dict[str, Any]
        ) -> dict[str, Any]:
            """Renew both tokens with these claims; what others see then."""
            ask("refresh", token=token("raw", channels=["open:anew"], **session))
            ask("sub_refresh", **named, token=token("raw", **named, **subscription))
            (found,) = ask("presence", **named)["presence"].values()
            return {
                name: info for name, info in found.items() if name.endswith("_info")
            }

        named = {"channel": "talk:anew"}
        ask("connect", token=token("raw", info=1, channels=["open:anew"]))
        ask("subscribe", **named, token=token("raw", info=2, **named))
        assert renew({"info": 3}, {"info": 4}) == {"conn_info": 3, "chan_info": 4}
        assert renew({}, {}) == {"conn_info": 3, "chan_info": 4}
        client.send(
            text(
                json.dumps(
                    {
                        "id": 3,
                        "refresh": {"token": token("raw", channels=["open:other"])},
                    }
                )
            )
        )
        assert close_code(client) == 3010


@pytest.mark.full("programs")
def test_who_does_not_log_in_is_closed_with_3502(impatient: Server) -> None:
    with Raw(impatient.ws) as client:
        client.upgrade(PATH)
        while (found := client.frame()).opcode == TEXT:
            assert found.json == {}
            client.send(text("{}"))
        assert found.close_code == 3502


@pytest.mark.full("programs")
def test_who_answers_no_ping_is_closed_with_3012(impatient: Server) -> None:
    with Raw(impatient.ws) as client:
        client.upgrade(PATH)
        client.send(text(CONNECT))
        assert "connect" in answered(client)
        assert close_code(client) == 3012


def test_the_rate_of_an_app_counts_commands_and_not_frames(server: Server) -> None:
    with Raw(server.ws) as client:
        client.upgrade("/connection/slow/websocket")
        client.send(text('{"id":1,"connect":{}}'))
        assert "connect" in answered(client)
        client.send(text("\n".join(['{"id":2,"ping":{}}'] * 20)))
        assert close_code(client) == 4003


def test_wire_samples_get_their_answers(server: Server) -> None:
    wrong = play(server, samples_of("centrifugo"))
    assert not wrong, "\n".join(wrong)
