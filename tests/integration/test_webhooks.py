"""Webhooks and a real back end: what it is told, signed and repeated; what it
is asked before a login."""

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

from tests.support import Server, eventually

from .cmd import fresh, logged_in, login_code
from .raw import ask, request
from .receiver import SECRET, Post, Receiver
from .setting import Launch, stop


def is_signed(post: Post) -> bool:
    """Whether the server has written this, and within the last minute."""
    parts = dict(
        part.split("=", 1) for part in post.headers["imserver-signature"].split(",")
    )
    signed = hmac.new(
        SECRET.encode(), f"{parts['t']}.".encode() + post.body, hashlib.sha256
    ).hexdigest()
    return (
        hmac.compare_digest(parts["v1"], signed)
        and abs(time.time() - int(parts["t"])) < 60
    )


def test_what_is_not_taken_comes_again_unchanged_and_does_not_go_where_it_is_sent_to(
    launch: Launch, http_server: str
) -> None:
    """What events say is shown in ``tests/docs/test_back_ends.py``."""
    user = fresh()
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
        sessions = receiver.wait_for(3)
        assert [event["event"] for event in sessions] == [
            "connect",
            "login",
            "disconnect",
        ]
        for post in receiver.posts:
            assert is_signed(post)
            assert post.path == "/events"
            assert post.headers["content-type"] == "application/json"
            assert post.headers["user-agent"].startswith("imserver/")
        assert "webhook of 101" in one.log_text
        metrics = ask(one.http, request("/metrics")).body.decode()
        assert re.search(
            r'^imserver_webhook_failures_total\{[^}]*,app="101"\} [1-9]',
            metrics,
            re.MULTILINE,
        )
        assert re.search(
            r'^imserver_webhook_dropped_total\{[^}]*,app="101"\} 0$',
            metrics,
            re.MULTILINE,
        )


# --- being asked --------------------------------------------------------------


def login(server: Server, **data: Any) -> int:
    """The code of a login."""
    return login_code(server.ws, fresh(), 101, **data)


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
    """A certificate that has signed itself, also for these ``names``, and its
    key."""
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
    certificate = folder / "certificate.pem"
    key = folder / "key.pem"
    certificate.write_bytes(answer.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, key
