"""Webhooks and a real back end: what it is told, signed and repeated; what it is asked before a login."""

import contextlib
import hashlib
import hmac
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import Server, eventually, with_constants

from .action import action_session
from .client import listening
from .cmd import cmd_client, fresh, logged_in, login_code, send_message
from .gochat import register
from .protobuf import chatting
from .raw import ask, request
from .receiver import SECRET, Post, Receiver
from .setting import Launch, stop
from .v1 import good


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def hooked(launch: Launch, http_server: str, receiver: Receiver, **more: Any) -> Server:
    """A server whose apps tell the receiver of everything. At its end, the receiver has time to take it."""
    webhook = {"webhook": receiver.settings}
    apps = {"101": webhook, "102": {}, "action:1": webhook, "system:shop": webhook, **more}
    patient = with_constants({"imserver.backends.webhooks.parts._LAST_SECONDS": 30.0})
    return launch(http_server, patient, apps=apps, websocket={"close_seconds": 0.1})


class Asking(NamedTuple):
    """A server that asks a back end about logins in app 101, and that back end."""

    server: Server
    receiver: Receiver


@contextmanager
def asking_in(folder: Path, http_server: str, **options: Any) -> Iterator[Asking]:
    with Receiver() as receiver:
        config = {
            "apps": {"101": {"webhook": receiver.authorising}, "102": {}},
            "websocket": {"close_seconds": 1},
        }
        server = Server(folder, config=config, http_server=http_server, **options)
        yield Asking(server, receiver)
        stop(server)


@pytest.fixture(scope="module")
def asking_server(http_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """The back end has time for an answer, on a busy machine too."""
    patient = with_constants({"imserver.backends.webhooks.requests.ASK_SECONDS": 30.0})
    with asking_in(tmp_path_factory.mktemp("asking"), http_server, command=patient) as one:
        yield one


@pytest.fixture
def asking(asking_server: Asking) -> Asking:
    asking_server.receiver.forget()
    return asking_server


@pytest.fixture(scope="module")
def hasty_server(http_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """The back end has two seconds for an answer, as always."""
    with asking_in(tmp_path_factory.mktemp("hasty"), http_server) as one:
        yield one


@pytest.fixture
def hasty(hasty_server: Asking) -> Asking:
    hasty_server.receiver.forget()
    return hasty_server


def is_signed(post: Post) -> bool:
    """Whether the server has written this, and within the last minute."""
    parts = dict(part.split("=", 1) for part in post.headers["imserver-signature"].split(","))
    signed = hmac.new(SECRET.encode(), f"{parts['t']}.".encode() + post.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(parts["v1"], signed) and abs(time.time() - int(parts["t"])) < 60


# --- being told ---------------------------------------------------------------------------------------------


@pytest.mark.full
def test_channels_are_reported_if_the_app_names_their_events(
    launch: Launch, http_server: str, receiver: Receiver
) -> None:
    webhook = {**receiver.settings, "events": ["occupied", "vacated", "joined", "left"]}
    channels = {"*": {"subscribe": "anybody"}}
    one = hooked(launch, http_server, receiver, **{"101": {"webhook": webhook, "channels": channels}})
    with logged_in(one.ws, "ann", 101) as ann:
        assert ann.ask_cmd("subscribe", {"channel": "news"})[0] == 200
    events = receiver.wait_for(4)
    reported = [(event["event"], event["channel"], event.get("user")) for event in events]
    assert reported == [
        ("occupied", "news", None),
        ("joined", "news", "ann"),
        ("left", "news", "ann"),
        ("vacated", "news", None),
    ]
    assert all(is_signed(post) for post in receiver.posts)


def test_all_that_happens_is_reported_in_its_order_and_signed(
    launch: Launch, http_server: str, receiver: Receiver
) -> None:
    one = hooked(launch, http_server, receiver)
    user = fresh()
    with logged_in(one.ws, user, 101, device="phone"):
        send_message(one.http, 101, user, "hi")
        missed = fresh()
        send_message(one.http, 101, missed, "hello", "m-1")
        kind = ("Content-Type", "application/json")
        push = {"app": "101", "user": missed, "message": {"type": "order", "data": {"n": 1}}, "id": "m-2"}
        body = json.dumps(push).encode()
        answer = ask(one.http, request("/api/v1/push", method="POST", headers=[kind], body=body))
        assert answer.status == 200, answer
    events = receiver.wait_for(5)
    # Events of connections and durable ones have no order among each other.
    connect, login, disconnect = receiver.events("connect", "login", "disconnect")
    assert [connect["event"], login["event"], disconnect["event"]] == ["connect", "login", "disconnect"]
    first, second = receiver.events("absent")
    for event in (connect, login, disconnect):
        assert (event["app"], event["user"], event["device"], event["dialect"], event["address"]) == (
            "101",
            user,
            "phone",
            "cmd",
            "127.0.0.1",
        )
    assert connect["connection"] == login["connection"] == disconnect["connection"]
    assert disconnect["code"] in (1006, 1000, 1001)
    assert (first["user"], first["message"], first["type"], first["text"]) == (missed, "m-1", "text", "hello")
    assert (second["user"], second["message"], second["type"], second["data"]) == (
        missed,
        "m-2",
        "order",
        {"n": 1},
    )
    assert all(abs(event["time"] - time.time()) < 60 for event in events)
    assert len({event["id"] for event in events}) == 5
    for post in receiver.posts:
        assert is_signed(post)
        assert post.headers["content-type"] == "application/json"
        assert post.headers["user-agent"].startswith("imserver/")
        assert len(post.headers["imserver-delivery"]) == 32
    assert receiver.connections <= 2, "connections are used again"


@pytest.mark.full
def test_what_clients_of_other_dialects_do_is_reported_too(
    launch: Launch, http_server: str, receiver: Receiver
) -> None:
    one = hooked(launch, http_server, receiver)
    with action_session(one.ws, "1", to="2") as action_client:
        action_client.say("你好")
    with action_session(one.ws, "1", room="7") as action_client:
        action_client.say("http://x/y.png", "image")
    receiver.wait_for(8)
    reported = receiver.events("message")
    common = {"app": "action:1", "sender": "1"}
    assert [
        {k: v for k, v in event.items() if k not in ("id", "time", "node", "event")} for event in reported
    ] == [
        {**common, "to": "2", "type": "text", "text": "你好"},
        {**common, "room": "7", "type": "image", "text": "http://x/y.png"},
    ]
    with listening(one.ws, "shop") as client:
        found = eventually(lambda: [e for e in receiver.events("connect") if e["app"] == "system:shop"])
        assert found[0]["connection"] == found[0]["user"] == client.id
    eventually(lambda: [e for e in receiver.events("disconnect") if e["app"] == "system:shop"])
    assert not [e for e in receiver.events("login") if e["app"] == "system:shop"], "nobody logs in there"


@pytest.mark.full
def test_what_clients_send_to_be_stored_is_reported_once(
    launch: Launch, http_server: str, receiver: Receiver
) -> None:
    server = hooked(launch, http_server, receiver, gochat={"webhook": receiver.settings})
    group = good(server.http, "groups/create", {"app": "101", "user": "ann", "name": "tea"})["group"]
    with logged_in(server.ws, "ann", 101) as ann:
        for _ in range(2):
            sent = ann.ask_cmd("send", {"to": "bob", "data": {"n": 1}, "clientMsgID": "a-1"})
            assert sent[0] == 200
        ann.ask_cmd("send", {"conversation": int(group), "text": "all", "mentions": ["bob"], "replyTo": 1})
        receiver.wait_for(2, "message")  # what is recalled before it was sent is sent as recalled
        ann.ask_cmd("recall", {"id": sent[2]["id"]})
        ann.ask_cmd("send", {"conversation": 999, "text": "nobody"})
    push = {"app": "101", "user": "bob", "sender": "ann", "text": "of the back end", "store": True}
    assert good(server.http, "push", push)["sent"] == 1
    account, (two, _) = register(server.http), register(server.http)
    with chatting(server.ws, account) as protobuf_client:
        protobuf_client.single(1, int(two), "hi")
        protobuf_client.output()
    received = receiver.wait_for(5, "message")
    received.sort(key=lambda event: (event["app"], event["stored"]["id"]))
    assert [event["id"] for event in received] == ["log-2", "log-3", "log-4", "log-5", "log-1"]
    for each in received:
        del each["id"], each["time"], each["node"]
    assert received == [
        {
            "event": "message",
            "app": "101",
            "sender": "ann",
            "to": "bob",
            "type": "custom",
            "data": {"n": 1},
            "client_msg_id": "a-1",
            "stored": {"id": 2, "conversation": 2, "seq": 1},
        },
        {
            "event": "message",
            "app": "101",
            "sender": "ann",
            "group": group,
            "type": "text",
            "text": "all",
            "about": 1,
            "meta": {"mentions": ["bob"]},
            "stored": {"id": 3, "conversation": 1, "seq": 2},
        },
        {
            "event": "message",
            "app": "101",
            "sender": "ann",
            "to": "bob",
            "kind": "recall",
            "about": 2,
            "stored": {"id": 4, "conversation": 2, "seq": 2},
        },
        {
            "event": "message",
            "app": "101",
            "sender": "ann",
            "to": "bob",
            "type": "text",
            "text": "of the back end",
            "stored": {"id": 5, "conversation": 2, "seq": 3},
        },
        {
            "event": "message",
            "app": "gochat",
            "sender": account[0],
            "to": two,
            "type": "text",
            "text": "hi",
            "stored": {"id": 1, "conversation": 1, "seq": 1},
        },
    ]


@pytest.mark.full
def test_what_a_back_end_does_not_take_is_sent_again_until_it_does(
    launch: Launch, http_server: str, receiver: Receiver
) -> None:
    one = hooked(launch, http_server, receiver)
    answers: list[Any] = [(503, b""), None, (302, b"", {"Location": "/elsewhere"})]
    receiver.reply = lambda _: answers.pop(0) if answers else (200, b"")
    user = fresh()
    with logged_in(one.ws, user, 101):
        pass
    assert [event["event"] for event in receiver.wait_for(3)] == ["connect", "login", "disconnect"]
    eventually(lambda: len(receiver.posts) >= 4)
    first = receiver.posts[0]
    again = receiver.posts[1:4]
    assert {post.body for post in again} == {first.body}
    assert {post.headers["imserver-delivery"] for post in again} == {first.headers["imserver-delivery"]}
    assert all(is_signed(post) for post in receiver.posts)
    assert {post.path for post in receiver.posts} == {"/events"}, "it does not go where it is sent to"
    assert again[1].time - again[0].time > 0.2, "with a pause"
    assert "webhook of 101" in one.log_text
    metrics = ask(one.http, request("/metrics")).body.decode()
    assert re.search(r'^imserver_webhook_failures_total\{[^}]*,app="101"\} [1-9]', metrics, re.MULTILINE)
    assert re.search(r'^imserver_webhook_dropped_total\{[^}]*,app="101"\} 0$', metrics, re.MULTILINE)


def test_the_last_events_are_sent_before_the_end(
    launch: Launch, http_server: str, receiver: Receiver
) -> None:
    one = hooked(launch, http_server, receiver)
    user = fresh()
    with logged_in(one.ws, user, 101):
        receiver.wait_for(2)
        one.stop()
    (end,) = receiver.wait_for(1, "disconnect")
    assert (end["user"], end["code"]) == (user, 1001)
    assert "dropped" not in one.log_text


@pytest.mark.full
def test_changes_of_groups_and_accounts_are_reported(
    launch: Launch, http_server: str, receiver: Receiver
) -> None:
    server = hooked(launch, http_server, receiver, gochat={"webhook": receiver.settings})
    group = good(server.http, "groups/create", {"app": "101", "user": "ann", "name": "tea"})["group"]
    good(server.http, "groups/invite", {"app": "101", "user": "ann", "group": group, "members": ["bob"]})
    created, joined = receiver.wait_for(2, "group")
    assert (created["change"], created["name"], created["user"]) == ("create", "tea", "ann")
    assert (joined["change"], joined["users"], joined["group"]) == ("join", ["bob"], group)
    account, _ = register(server.http)
    good(server.http, "accounts/set", {"app": "gochat", "user": account, "nickname": "Ann"})
    good(server.http, "accounts/delete", {"app": "gochat", "user": account})
    received = receiver.wait_for(3, "account")
    assert [(event["user"], event["change"], event["id"]) for event in received] == [
        (account, "registered", "event-1"),
        (account, "changed", "event-2"),
        (account, "removed", "event-3"),
    ]
    assert received[1]["nickname"] == "Ann"


@pytest.mark.full
def test_a_receiver_of_a_stored_message_who_stays_away_is_reported(
    launch: Launch, http_server: str, receiver: Receiver
) -> None:
    server = hooked(
        launch, http_server, receiver, **{"101": {"webhook": {**receiver.settings, "absent_seconds": 0.5}}}
    )
    with logged_in(server.ws, "ann", 101) as ann, logged_in(server.ws, "eve", 101):
        for user, text in (("bob", "are you there?"), ("eve", "you are"), ("bob", "hello?")):
            assert ann.ask_cmd("send", {"to": user, "text": text})[0] == 200
        (absent,) = receiver.wait_for(1, "absent")
    assert (absent["user"], absent["sender"], absent["preview"]) == ("bob", "ann", "are you there?")
    assert absent["unread"] == 2
    with logged_in(server.ws, "bob", 101):
        pass
    with logged_in(server.ws, "ann", 101) as ann:
        eventually(lambda: _is_sent_again(ann, receiver))


def _is_sent_again(ann: Any, receiver: Receiver) -> bool:
    """What is sent before the login counts is not told again, so it is sent until it is."""
    ann.ask_cmd("send", {"to": "bob", "text": "again"})
    time.sleep(0.3)
    return len(receiver.events("absent")) == 2


@pytest.mark.full
def test_events_can_be_read_and_dead_ones_listed_without_a_receiver(launch: Launch, http_server: str) -> None:
    server = launch(http_server, apps={"101": {"webhook": {"events": ["message", "absent"]}}, "102": {}})
    with logged_in(server.ws, "ann", 101) as ann:
        for number in range(5):
            ann.ask_cmd("send", {"to": "bob", "text": str(number)})
    good(server.http, "push", {"app": "101", "user": "zoe", "text": "live"})

    def page(after: str, limit: int) -> Any:
        path = f"/api/v1/events/log?app=101&after={after}&limit={limit}"
        return ask(server.http, request(path)).json

    found, cursor, more = [], "", True
    while more:
        one = page(cursor, 2)
        found += one["events"]
        cursor, more = one["next"], one["more"]
    assert [event["text"] for event in found if event["event"] == "message"] == list("01234")
    assert [(event["user"], event["text"]) for event in found if event["event"] == "absent"] == [
        ("zoe", "live")
    ]
    assert page(cursor, 10) == {"events": [], "next": cursor, "more": False}
    with logged_in(server.ws, "ann", 101) as ann:
        ann.ask_cmd("send", {"to": "bob", "text": "more"})
    assert [event["text"] for event in page(cursor, 10)["events"]] == ["more"]
    for path, parameter in (("log", "after"), ("dead", "cursor")):
        refused = ask(server.http, request(f"/api/v1/events/{path}?app=101&{parameter}=AAAA"))
        assert (refused.status, refused.json["message"].partition(":")[0]) == (400, f"`{parameter}`")
    assert ask(server.http, request("/api/v1/events/log?app=102")).status == 400
    assert ask(server.http, request("/api/v1/events/dead?app=101")).json == {"events": [], "next": ""}
    assert good(server.http, "events/replay", {"app": "101"}) == {"replayed": 0}


# --- being asked --------------------------------------------------------------------------------------------


def login(server: Server, app: int = 101, **data: Any) -> tuple[int, float]:
    """The code of a login, and the seconds it took."""
    began = time.monotonic()
    return login_code(server.ws, fresh(), app, **data), time.monotonic() - began


def test_a_back_end_decides_about_logins(asking: Asking) -> None:
    one, receiver = asking
    receiver.reply = lambda post: (
        200,
        b'{"allow":%b}' % (b"true" if post.json["token"] == "good" else b"false"),
    )
    assert login(one, serviceToken="good")[0] == 200
    assert login(one, serviceToken="bad")[0] == 1003
    post = receiver.posts[0]
    assert is_signed(post)
    assert post.path == "/authorise"
    expected = ("event", "app", "time", "node", "user", "device", "dialect", "token", "address")
    assert set(post.json) == set(expected)
    assert receiver.connections <= 1, "the connection is used again"


def undecided(server: Server) -> int:
    """Logins about which the back end did not say, so far."""
    text = ask(server.http, request("/metrics")).body.decode()
    found = re.search(r"^imserver_authorise_undecided_total\{[^}]*\} (\d+)", text, re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.full
@pytest.mark.parametrize("fault", ["slow", "dripping", "broken", "error", "endless", "redirect", "nonsense"])
def test_a_back_end_that_fails_lets_nobody_in_and_holds_up_nobody_else(hasty: Asking, fault: str) -> None:
    one, receiver = hasty
    before = undecided(one)

    def reply(_post: Post) -> Any:
        if fault == "slow":
            time.sleep(3)
        return {
            "broken": None,
            "error": (500, b'{"allow":true}'),
            "endless": (200, b'{"allow":true}' + b" " * 100_000),
            "redirect": (307, b'{"allow":true}', {"Location": f"{receiver.url}/other"}),
            "nonsense": (200, b"yes"),
        }.get(fault, (200, b'{"allow":true}'))

    receiver.reply = reply
    if fault == "dripping":
        receiver.drip_seconds = 0.3
    with ThreadPoolExecutor(1) as pool, cmd_client(one.ws) as other:
        waiting = pool.submit(login, one)
        other.login(fresh(), 102)
        answered = 0
        while not waiting.done():
            other.ask_cmd("ping")
            answered += 1
        code, seconds = waiting.result()
    assert code == 1004
    if fault in ("slow", "dripping"):
        assert answered >= 5, "somebody else had to wait"
        assert seconds > 1.9, "it has two seconds"
    assert undecided(one) == before + 1
    assert "authorise_url of 101" in one.log_text
    assert {post.path for post in receiver.posts} == {"/authorise"}


@pytest.mark.full
def test_a_back_end_that_cannot_show_who_it_is_gets_no_event_and_no_question(
    launch: Launch, http_server: str, tmp_path: Path
) -> None:
    certificate, key = certificate_of_loopback(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with Receiver(tls) as receiver:
        receiver.reply = lambda _: (200, b'{"allow":true}')
        config = {"apps": {"101": {"webhook": receiver.authorising}}}
        one = launch(http_server, **config)
        assert login(one)[0] == 1004
        assert "certificate" in one.log_text
        assert receiver.posts == []
        trusting = Server(
            tmp_path / "trusting",
            config=config,
            http_server=http_server,
            environment={"SSL_CERT_FILE": str(certificate)},
        )
        assert login(trusting)[0] == 200
        stop(trusting)


def certificate_of_loopback(folder: Path, *names: str) -> tuple[Path, Path]:
    """A certificate that has signed itself, also for these ``names``, and its key."""
    subjects = [x509.IPAddress(ip_address("127.0.0.1")), *map(x509.DNSName, names)]
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "back end")])
    now = datetime.now(UTC)
    answer = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(subjects), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(answer.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, key


def test_logins_are_asked_about_side_by_side(asking: Asking) -> None:
    """The back end answers nobody before it is asked about two."""
    one, receiver = asking
    together = threading.Barrier(2)

    def reply(_post: Post) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(20)
        return 200, b'{"allow":%b}' % (b"false" if together.broken else b"true")

    receiver.reply = reply
    with ThreadPoolExecutor(2) as pool:
        assert [code for code, _ in pool.map(lambda _: login(one), range(2))] == [200, 200]
