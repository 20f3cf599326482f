"""Webhooks and a real back end: what it is told, signed and repeated; what it is asked before a login."""

import contextlib
import hashlib
import hmac
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
    patient = with_constants({"imserver.backends.webhooks.parts.LAST_SECONDS": 30.0})
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
def asking(http_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """The back end has time for an answer, on a busy machine too."""
    patient = with_constants({"imserver.backends.webhooks.requests.ASK_SECONDS": 30.0})
    with asking_in(tmp_path_factory.mktemp("asking"), http_server, command=patient) as one:
        yield one


def is_signed(post: Post) -> bool:
    """Whether the server has written this, and within the last minute."""
    parts = dict(part.split("=", 1) for part in post.headers["imserver-signature"].split(","))
    signed = hmac.new(SECRET.encode(), f"{parts['t']}.".encode() + post.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(parts["v1"], signed) and abs(time.time() - int(parts["t"])) < 60


# --- being told ---------------------------------------------------------------------------------------------


def test_all_that_happens_is_reported_in_its_order_and_signed(
    launch: Launch, http_server: str, receiver: Receiver
) -> None:
    one = hooked(launch, http_server, receiver)
    user, missed = fresh(), fresh()
    with logged_in(one.ws, user, 101, device="phone"):
        send_message(one.http, 101, user, "hi")
        send_message(one.http, 101, missed, "hello", "m-1")
        push = {"app": "101", "user": missed, "message": {"type": "order", "data": {"n": 1}}, "id": "m-2"}
        good(one.http, "push", push)
    events = receiver.wait_for(5)
    # Events of connections and durable ones have no order among each other.
    sessions = receiver.events("connect", "login", "disconnect")
    assert [event["event"] for event in sessions] == ["connect", "login", "disconnect"]
    where = ("101", user, "phone", "cmd", "127.0.0.1", sessions[0]["connection"])
    fields = ("app", "user", "device", "dialect", "address", "connection")
    assert {tuple(event[name] for name in fields) for event in sessions} == {where}
    assert sessions[2]["code"] in (1006, 1000, 1001)
    shown = ("user", "message", "type", "text", "data")
    assert [tuple(event.get(name) for name in shown) for event in receiver.events("absent")] == [
        (missed, "m-1", "text", "hello", None),
        (missed, "m-2", "order", None, {"n": 1}),
    ]
    assert all(abs(event["time"] - time.time()) < 60 for event in events)
    assert len({event["id"] for event in events}) == 5
    for post in receiver.posts:
        assert is_signed(post)
        assert post.headers["content-type"] == "application/json"
        assert post.headers["user-agent"].startswith("imserver/")
        assert len(post.headers["imserver-delivery"]) == 32
    assert receiver.connections <= 2, "connections are used again"


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
    names = ("id", "sender", "to", "group", "kind", "text", "data", "about", "client_msg_id")
    of_two = (account[0], two, None, None, "hi", None, None, None)
    assert [tuple(event.get(name) for name in names) for event in received] == [
        ("log-2", "ann", "bob", None, None, None, {"n": 1}, None, "a-1"),
        ("log-3", "ann", None, group, None, "all", None, 1, None),
        ("log-4", "ann", "bob", None, "recall", None, None, 2, None),
        ("log-5", "ann", "bob", None, None, "of the back end", None, None, None),
        ("log-1", *of_two),
    ]
    assert received[1]["meta"] == {"mentions": ["bob"]}
    assert received[3]["stored"] == {"id": 5, "conversation": 2, "seq": 3}


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


# --- being asked --------------------------------------------------------------------------------------------


def login(server: Server, app: int = 101, **data: Any) -> tuple[int, float]:
    """The code of a login, and the seconds it took."""
    began = time.monotonic()
    return login_code(server.ws, fresh(), app, **data), time.monotonic() - began


def test_a_back_end_decides_about_logins(asking: Asking) -> None:
    one, receiver = asking
    receiver.forget()
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
def test_a_back_end_that_fails_lets_nobody_in_and_holds_up_nobody_else(
    tmp_path: Path, http_server: str
) -> None:
    with asking_in(tmp_path, http_server) as (one, receiver):
        yes = b'{"allow":true}'
        faults: dict[str, Any] = {
            "slow": (200, yes),
            "dripping": (200, yes),
            "broken": None,
            "error": (500, yes),
            "endless": (200, yes + b" " * 100_000),
            "redirect": (307, yes, {"Location": f"{receiver.url}/other"}),
            "nonsense": (200, b"yes"),
        }
        fault = ""

        def reply(_post: Post) -> Any:
            if fault == "slow":
                time.sleep(3)
            return faults[fault]

        receiver.reply = reply
        for number, fault in enumerate(faults):
            receiver.drip_seconds = 0.3 * (fault == "dripping")
            with ThreadPoolExecutor(1) as pool, cmd_client(one.ws) as other:
                waiting = pool.submit(login, one)
                other.login(fresh(), 102)
                answered = 0
                while not waiting.done():
                    other.ask_cmd("ping")
                    answered += 1
                code, seconds = waiting.result()
            assert code == 1004, fault
            if fault in ("slow", "dripping"):
                assert answered >= 5, "somebody else had to wait"
                assert seconds > 1.9, "it has two seconds"
            assert undecided(one) == number + 1
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
