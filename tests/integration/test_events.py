"""Event streams on both HTTP servers: what they bring, when they are refused,
how they end."""

from tests.support import Server

from .cmd import is_online, json_request, send_message, users
from .raw import ask, request
from .sse import PATH, Listener, ask_for, listening

JSON = [("Content-Type", "application/json")]


def publish_to(server: Server, app: int, user: str, text: str) -> None:
    """A push that is not stored."""
    answer = ask(
        server.http,
        json_request("/api/v1/push", {"app": str(app), "user": user, "text": text}),
    )
    assert answer.json["sent"] == 1, answer


# --- what a stream brings -----------------------------------------------------


def test_a_stream_is_ready_before_anything_is_pushed_to_it(
    server: Server, app: int
) -> None:
    with listening(server.http, app, "ann", device="tablet") as ann:
        assert ann.ready.data == {
            "event": "ready",
            "app": str(app),
            "user": "ann",
            "device": "tablet",
            "channels": [],
            "resumed": False,
        }
        assert 1000 <= (ann.ready.retry or 0) <= 5000
        assert ann.head is not None
        assert ann.head.header("cache-control") == "no-store, no-transform"
        assert ann.head.header("x-accel-buffering") == "no"
        assert ann.head.header("access-control-allow-origin") == "*"
        assert is_online(server.http, "ann", app)
        assert send_message(server.http, app, "ann", "hello", "m-1") == {
            "sendResults": True
        }
        assert ann.message() == {
            "event": "msg",
            "app": str(app),
            "id": "m-1",
            "sender": "ann",
            "type": "text",
            "text": "hello",
        }


def save(server: Server, app: int, user: str, text: str) -> int:
    """Store a message; its id."""
    body = {"app": str(app), "user": user, "text": text, "store": True}
    answer = ask(server.http, json_request("/api/v1/push", body))
    assert answer.status == 200, answer
    found: int = answer.json["results"][0]["stored"]["id"]
    return found


def test_stored_messages_are_delivered_and_missed_ones_after_a_reconnect(
    server: Server, app: int
) -> None:
    before = save(server, app, "ann", "before")
    with listening(server.http, app, "ann") as ann:
        assert (ann.ready.id, ann.ready.data["resumed"]) == (before, False)
        first = save(server, app, "ann", "first")
        assert ann.stored()["id"] == first
        publish_to(server, app, "ann", "live")
        assert ann.message()["text"] == "live"
    missed = [save(server, app, "ann", str(number)) for number in range(3)]
    save(server, app, "bob", "for somebody else")
    with Listener(server.http) as again:
        again.listen(headers=[("Last-Event-ID", str(first))], app=app, user="ann")
        assert (again.ready.id, again.ready.data["resumed"]) == (first, True)
        assert [again.stored()["id"] for _ in missed] == missed
        save(server, app, "ann", "new")
        assert again.stored()["text"] == "new"
    with listening(server.http, app, "ann", cursor=missed[-2]) as stream:
        assert stream.ready.data["resumed"] is True
        assert stream.stored()["id"] == missed[-1]
    for unknown in ("7000000", "x", "-1", "99999999999999999999999"):
        with Listener(server.http) as one:
            one.listen(headers=[("Last-Event-ID", unknown)], app=app, user="cid")
            assert (one.ready.id, one.ready.data["resumed"]) == (missed[-1] + 2, False)


# --- when it is refused -------------------------------------------------------


def test_a_request_that_asks_for_nothing_sensible_is_refused(
    server: Server, app: int
) -> None:
    ann = {"app": "101", "user": "ann"}
    wrong: tuple[dict[str, str], ...] = (
        {"app": "101"},
        {"user": "ann"},
        {**ann, "colour": "red"},
        {**ann, "user": "a" * 256},
        {**ann, "user": "a" * 20},
        {**ann, "with_id": "perhaps"},
        {**ann, "channels": "r" * 256},
    )
    unknown = {**ann, "app": "nowhere"}
    for query, found in (
        *((row, (400, "invalid_request")) for row in wrong),
        (unknown, (404, "unknown_app")),
    ):
        answer = ask_for(server.http, **query)
        assert (answer.status, answer.json["code"]) == found, query
        assert answer.json["request_id"] == answer.header("x-request-id")
        assert answer.header("access-control-allow-origin") == "*"
    for method in ("POST", "HEAD"):
        assert (
            ask(
                server.http, request(f"{PATH}?app={app}&user=ann", method=method)
            ).status
            == 405
        )
    may = ask(server.http, request(PATH, method="OPTIONS"))
    assert may.status == 204
    allowed = may.header("access-control-allow-headers") or ""
    assert {"Authorization", "Last-Event-ID"} <= set(allowed.split(", "))
    assert not users(server.http, app)
    assert ask(server.ws, request(f"{PATH}?app={app}&user=ann")).status == 404
