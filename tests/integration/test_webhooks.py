"""Webhooks and a real back end: what it is told, signed and repeated; what it is asked before a login."""

import hashlib
import hmac
import re
import ssl
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import Server, eventually, with_constants

from .cmd import fresh, logged_in, login_code, send_message
from .raw import ask, request
from .receiver import SECRET, Post, Receiver
from .setting import Launch, stop
from .v1 import good


def is_signed(post: Post) -> bool:
    """Whether the server has written this, and within the last minute."""
    parts = dict(part.split("=", 1) for part in post.headers["imserver-signature"].split(","))
    signed = hmac.new(SECRET.encode(), f"{parts['t']}.".encode() + post.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(parts["v1"], signed) and abs(time.time() - int(parts["t"])) < 60


def test_all_that_happens_is_reported_in_its_order_signed_and_until_it_is_taken(
    launch: Launch, http_server: str
) -> None:
    user, missed = fresh(), fresh()
    with Receiver() as receiver:
        one = launch(http_server, apps={"101": {"webhook": receiver.settings}})
        answers: list[Any] = [(503, b""), None, (302, b"", {"Location": "/elsewhere"})]
        receiver.reply = lambda _: answers.pop(0) if answers else (200, b"")
        with logged_in(one.ws, user, 101, device="phone"):
            eventually(lambda: len(receiver.posts) >= 4, what="it is sent again")
            first, *again = receiver.posts[:4]
            assert {post.body for post in again} == {first.body}
            delivery = first.headers["imserver-delivery"]
            assert {post.headers["imserver-delivery"] for post in again} == {delivery}
            assert len(delivery) == 32
            assert again[1].time - again[0].time > 0.2, "with a pause"
            send_message(one.http, 101, user, "hi")
            send_message(one.http, 101, missed, "hello", "m-1")
            message = {"type": "order", "data": {"n": 1}}
            good(one.http, "push", {"app": "101", "user": missed, "message": message, "id": "m-2"})
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
            assert post.path == "/events", "it does not go where it is sent to"
            assert post.headers["content-type"] == "application/json"
            assert post.headers["user-agent"].startswith("imserver/")
        assert "webhook of 101" in one.log_text
        metrics = ask(one.http, request("/metrics")).body.decode()
        assert re.search(r'^imserver_webhook_failures_total\{[^}]*,app="101"\} [1-9]', metrics, re.MULTILINE)
        assert re.search(r'^imserver_webhook_dropped_total\{[^}]*,app="101"\} 0$', metrics, re.MULTILINE)


# --- being asked --------------------------------------------------------------------------------------------


def login(server: Server, **data: Any) -> int:
    """The code of a login."""
    return login_code(server.ws, fresh(), 101, **data)


def test_a_back_end_decides_about_logins(launch: Launch, http_server: str) -> None:
    patient = with_constants({"imserver.backends.webhooks.requests.ASK_SECONDS": 30.0})
    with Receiver() as receiver:
        one = launch(http_server, patient, apps={"101": {"webhook": receiver.authorising}})
        receiver.reply = lambda post: (
            200,
            b'{"allow":%b}' % {"good": b"true"}.get(post.json["token"], b"false"),
        )
        assert login(one, serviceToken="good") == 200
        assert login(one, serviceToken="bad") == 1003
        post = receiver.posts[0]
        assert is_signed(post)
        assert post.path == "/authorise"
        expected = ("event", "app", "time", "node", "user", "device", "dialect", "token", "address")
        assert set(post.json) == set(expected)
        assert receiver.connections <= 1, "the connection is used again"
        receiver.reply = lambda _: (500, b'{"allow":true}')
        assert login(one) == 1004
        text = ask(one.http, request("/metrics")).body.decode()
        assert re.search(r"^imserver_authorise_undecided_total\{[^}]*\} 1$", text, re.MULTILINE)
        assert "authorise_url of 101" in one.log_text


@pytest.mark.full("processes")
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
        assert login(one) == 1004
        assert "certificate" in one.log_text
        assert receiver.posts == []
        trusting = Server(
            tmp_path / "trusting",
            config=config,
            http_server=http_server,
            environment={"SSL_CERT_FILE": str(certificate)},
        )
        assert login(trusting) == 200
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
