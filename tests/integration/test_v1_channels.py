"""``/api/v1/channels``: publish once, read what was published, and what a channel is like."""

from typing import Any

import pytest

from imserver.gateway.channels.members import MAX_TAG_BYTES, MAX_TAGS
from tests.conftest import StartServer
from tests.support import Server

from .cmd import CmdClient, logged_in
from .v1 import good, refused

SHOP = {
    "open": True,
    "channels": {
        "news": {"history_size": 3, "history_seconds": 60},
        "short": {"max_bytes": 5},
        "kept": {"history": "log"},
    },
}
NEWS = {"app": "shop", "channel": "news:1"}


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return start_shared_server(config={"apps": {"shop": SHOP}})


def publish(server: Server, **fields: Any) -> Any:
    return good(server.http, "channels/publish", {**NEWS, **fields})


def history(server: Server, **query: Any) -> Any:
    return good(server.http, "channels/history", **{**NEWS, **query})


def test_a_publication_has_a_position_and_is_read_again(server: Server) -> None:
    first = publish(server, text="one")
    assert first == {"channel": "news:1", "status": "sent", "offset": 1, "epoch": first["epoch"]}
    publish(server, data={"two": [2]}, type="order", sender="shop", id="o-2", tags={"lang": "en"})
    page = history(server)
    assert page == {
        "publications": [
            {"offset": 1, "type": "text", "text": "one"},
            {
                "offset": 2,
                "type": "order",
                "data": {"two": [2]},
                "sender": "shop",
                "id": "o-2",
                "tags": {"lang": "en"},
            },
        ],
        "offset": 2,
        "epoch": first["epoch"],
    }
    assert [each["offset"] for each in history(server, offset=1)["publications"]] == [2]
    assert [each["offset"] for each in history(server, reverse="true", limit=1)["publications"]] == [2]
    assert history(server, epoch="another")["publications"] == []
    assert good(server.http, "channels/info", **NEWS) == {
        "channel": "news:1",
        "subscribers": 0,
        "offset": 2,
        "epoch": first["epoch"],
    }
    assert good(server.http, "channels/history/remove", NEWS) == {"channel": "news:1"}
    assert history(server)["publications"] == []


def test_a_stored_channel_has_positions_in_the_log_and_keeps_everything(server: Server) -> None:
    channel: dict[str, Any] = {"app": "shop", "channel": "kept:1"}
    sent = [
        good(server.http, "channels/publish", {**channel, "text": str(n), "id": f"k-{n}"}) for n in range(5)
    ]
    first, second, *_, last = [each["offset"] for each in sent]
    epoch = sent[0]["epoch"]
    assert sent[0] == {"channel": "kept:1", "status": "sent", "offset": first, "epoch": epoch}
    again = good(server.http, "channels/publish", {**channel, "text": "1", "id": "k-1"})
    assert again == {"channel": "kept:1", "status": "repeated", "offset": second, "epoch": epoch}
    page = good(server.http, "channels/history", **channel, offset=first, limit=2)
    assert [each["text"] for each in page["publications"]] == ["1", "2"]
    assert (page["offset"], page["epoch"]) == (last, epoch)
    newest = good(server.http, "channels/history", **channel, reverse="true", limit=1)
    assert newest["publications"] == [{"offset": last, "type": "text", "text": "4", "id": "k-4"}]
    info = good(server.http, "channels/info", **channel)
    assert info == {"channel": "kept:1", "subscribers": 0, "offset": last, "epoch": epoch}
    assert refused(server.http, "channels/history", **channel, offset=2**63)[:2] == (400, "invalid_request")
    status, code, message = refused(server.http, "channels/history/remove", channel)
    assert (status, code, message) == (400, "invalid_request", "the log removes publications, by age")
    shown = good(server.http, "channels/messages", **channel, limit=1)["messages"]
    assert [each["id"] for each in shown] == [last]


def test_members_of_the_channel_receive_what_is_published(server: Server) -> None:
    with logged_in(server.ws, "ann", "shop") as ann:
        good(server.http, "channels/subscribe", {"app": "shop", "channel": "lobby", "users": ["ann"]})
        answer = good(
            server.http, "channels/broadcast", {"app": "shop", "channels": ["lobby", "empty"], "text": "hi"}
        )
        assert answer == {
            "results": [{"channel": "lobby", "status": "sent"}, {"channel": "empty", "status": "absent"}]
        }
        assert text_of(ann) == "hi"
        assert good(server.http, "channels/info", app="shop", channel="lobby")["subscribers"] == 1


def text_of(one: CmdClient) -> str:
    text: str = one.push("msg").json["response"]["data"]["msg"]
    return text


def test_an_id_is_published_once(server: Server) -> None:
    fields = {"channel": "news:once", "text": "x", "id": "m-1"}
    first = publish(server, **fields)
    assert (first["status"], first["offset"]) == ("sent", 1)
    assert publish(server, **fields) == {**first, "status": "repeated"}
    again = {**NEWS, **fields, "text": "y"}
    assert refused(server.http, "channels/publish", again)[:2] == (422, "id_reused")
    assert len(history(server, channel="news:once")["publications"]) == 1


def test_a_repeated_broadcast_reaches_the_channels_that_have_not_accepted_it(server: Server) -> None:
    body = {"app": "shop", "channels": ["news:all", "hall", "short:all"], "text": "123456", "id": "b-1"}

    def statuses(**fields: Any) -> list[str]:
        results = good(server.http, "channels/broadcast", {**body, **fields})["results"]
        return [each["status"] for each in results]

    assert statuses() == ["sent", "absent", "refused"]
    with logged_in(server.ws, "bob", "shop") as bob:
        good(server.http, "channels/subscribe", {"app": "shop", "channel": "hall", "users": ["bob"]})
        assert statuses() == ["repeated", "sent", "refused"]
        assert text_of(bob) == "123456"
    assert statuses() == ["repeated", "repeated", "refused"]
    alone = {"app": "shop", "channel": "news:all", "text": "123456", "id": "b-1"}
    assert good(server.http, "channels/publish", alone)["status"] == "repeated"
    other = {**body, "channels": ["news:other", "news:all"], "text": "other"}
    assert refused(server.http, "channels/broadcast", other)[:2] == (422, "id_reused")
    assert statuses(channels=["news:other", "news:other"]) == ["sent", "sent"]
    assert statuses(channels=["news:all", "news:other"]) == ["repeated", "repeated"]
    for channel in ("news:all", "news:other"):
        assert len(history(server, channel=channel)["publications"]) == 1


def test_the_history_may_be_left_out(server: Server) -> None:
    answer = publish(server, channel="news:live", text="x", with_history=False)
    assert answer == {"channel": "news:live", "status": "absent"}
    assert history(server, channel="news:live")["publications"] == []


def test_a_message_that_is_too_long_for_its_channel_is_refused(server: Server) -> None:
    answer = publish(server, channel="short:1", text="123456")
    assert answer == {"channel": "short:1", "status": "refused"}


@pytest.mark.parametrize(
    "fields",
    [{"channel": ""}, {"channel": "x" * 256}, {"text": ""}, {"data": 1}, {"tags": {"a": 1}}, {"app": ""}],
)
def test_bad_publications_are_refused(server: Server, fields: dict[str, Any]) -> None:
    assert refused(server.http, "channels/publish", {**NEWS, "text": "x", **fields})[0] == 400


def test_tags_have_a_limit_of_number_and_of_bytes(server: Server) -> None:
    def refusal(route: str, tags: dict[str, str], **fields: Any) -> str:
        body = {"app": "shop", "tags": tags, **fields}
        return str(refused(server.http, f"channels/{route}", body)[2])

    full = {"a": "x" * (MAX_TAG_BYTES - len('{"a":""}'))}
    assert publish(server, channel="short:tags", text="x", tags=full)["status"] == "absent"
    longer = {"a": full["a"] + "x"}
    wanted = f"`tags`: at most {MAX_TAGS}, with {MAX_TAG_BYTES} bytes; not 1 tags with {MAX_TAG_BYTES + 1}"
    assert wanted in refusal("publish", longer, channel="news:1", text="x")
    assert wanted in refusal("broadcast", longer, channels=["news:1"], text="x")
    assert wanted in refusal("stream/open", longer, channel="news:1")
    many = {str(number): "" for number in range(MAX_TAGS + 1)}
    assert f"length <= {MAX_TAGS} - at `$.tags`" in refusal("publish", many, channel="news:1", text="x")


def test_settings_of_channels_are_checked(start_server: StartServer) -> None:
    server = start_server()
    create = {"app": "kiosk", "settings": {"channels": {"news": {"history_size": 5}}}}
    assert refused(server.http, "apps/create", create)[:2] == (400, "invalid_request")
    create["settings"] = {"channels": {"a:b": {}}}  # type: ignore[assignment]
    assert refused(server.http, "apps/create", create)[:2] == (400, "invalid_request")
    create["settings"] = {"channels": {"news": {"history_size": 5, "history_seconds": 9}}}  # type: ignore[assignment]
    assert good(server.http, "apps/create", create)
    shown = good(server.http, "apps/show", app="kiosk")
    assert shown["channels"]["news"]["history_size"] == 5
