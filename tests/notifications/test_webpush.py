"""Encryption, tokens and requests of Web Push, judged by the vectors of the
RFCs and by other programs."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import http_ece
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from py_vapid import Vapid02

from imserver.gateway.transport.outgoing import BadUrl, PublicRequests
from imserver.notifications import webpush
from imserver.notifications.contract import PushEndpoint, Shown
from imserver.notifications.declared import NotificationSettings
from imserver.notifications.webpush import BODY_BYTES, WebPush, retry_after
from tests.integration.receiver import Receiver
from tests.notifications.devices import Device, base64url, body, decoded
from tests.processes import spawn
from tests.tools import require

SEED = bytes(range(32))
CONTACT = "mailto:ops@example.com"


def private_key(text: str) -> EllipticCurvePrivateKey:
    return derive_private_key(int.from_bytes(decoded(text), "big"), SECP256R1())


def make(contact: str = CONTACT, key: str = "", http_url: str = "") -> WebPush:
    settings = NotificationSettings(vapid_key=key, contact=contact, allow_loopback=True)
    return WebPush(PublicRequests(True), settings, SEED, http_url)


@pytest.fixture
def push() -> Iterator[WebPush]:
    one = make()
    yield one
    one.close()


class TestEncryption:
    """RFC 8291, section 5 and appendix A; RFC 8188, section 3."""

    ENDPOINT = PushEndpoint(
        1,
        "shop",
        "ann",
        "https://push.example.net/push/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV",
        "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
        "BTBZMqHH6r4Tts7J_aSIgg",
    )
    PLAIN = b"When I grow up, I want to be a watermelon"
    SALT = decoded("DGv6ra1nlYgDCS1FRnbzlw")
    CONTENT = (
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml"
        "mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT"
        "pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )
    SENDER = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
    RECEIVER = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"

    def test_the_example_of_rfc_8291(self) -> None:
        content = webpush._encrypt(
            self.ENDPOINT, self.PLAIN, private_key(self.SENDER), self.SALT
        )
        assert base64url(content) == self.CONTENT

    def test_the_receiver_of_the_example_reads_what_we_encrypt(self) -> None:
        content = WebPush.encrypt(self.ENDPOINT, self.PLAIN)
        auth = decoded(self.ENDPOINT.auth)
        key = private_key(self.RECEIVER)
        assert (
            http_ece.decrypt(content, private_key=key, auth_secret=auth) == self.PLAIN
        )
        contents = [
            content,
            *(WebPush.encrypt(self.ENDPOINT, self.PLAIN) for _ in range(9)),
        ]
        assert len({each[:16] for each in contents}) == 10, "salts are used once"
        assert len({each[21:86] for each in contents}) == 10, "and keys"
        assert (
            len(WebPush.encrypt(self.ENDPOINT, b"x" * (BODY_BYTES - 86 - 1 - 16)))
            == BODY_BYTES
        )


class TestTokens:
    """RFC 8292."""

    URL = "https://push.example.net/p/1"

    @staticmethod
    def read(header: str) -> dict[str, Any]:
        """The claims of a header, whose signature is verified by py-vapid and
        by PyJWT."""
        assert Vapid02.verify(header)
        scheme, _, parameters = header.partition(" ")
        assert scheme == "vapid"
        token, key = (part.split("=", 1)[1] for part in parameters.split(","))
        public = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), decoded(key))
        options: Any = {"verify_aud": False, "verify_exp": False}
        claims: dict[str, Any] = jwt.decode(token, public, ["ES256"], options)
        return claims

    def test_a_token(self, push: WebPush) -> None:
        header = push.authorization(self.URL)
        claims = self.read(header)
        assert claims.pop("exp") == pytest.approx(time() + 12 * 3600, abs=60)
        assert claims == {"aud": "https://push.example.net", "sub": CONTACT}
        assert header.endswith(f",k={push.public_key}")
        for number in range(2000):
            push.authorization(f"https://{number}.example/")
        # In the same second the new token is equal to the first one.
        again = push.authorization(self.URL)
        assert again is not header, "the table of tokens is bounded"

    @pytest.mark.parametrize(
        ("url", "origin"),
        [
            ("https://Push.Example.net:443/p", "https://push.example.net"),
            ("https://push.example.net:8443/p", "https://push.example.net:8443"),
            ("https://push.example.net?p", "https://push.example.net"),
            ("http://127.0.0.1:80/p", "http://127.0.0.1"),
            ("http://[::1]:443/p", "http://[::1]:443"),
        ],
    )
    def test_it_is_for_the_origin(self, push: WebPush, url: str, origin: str) -> None:
        assert self.read(push.authorization(url))["aud"] == origin

    def test_it_is_used_until_shortly_before_its_end(
        self, push: WebPush, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time()
        monkeypatch.setattr(webpush, "time", lambda: now)
        first = push.authorization(self.URL)
        now += 11 * 3600 - 2
        assert push.authorization("https://push.example.net/p/2") == first
        now += 4
        second = push.authorization(self.URL)
        assert self.read(second)["exp"] > self.read(first)["exp"]

    def test_the_contact(self) -> None:
        for one, contact in (
            (make(), CONTACT),
            (make("", http_url="https://chat.example"), "https://chat.example"),
            (make("", http_url="http://chat.example"), None),
            (make(http_url="https://chat.example"), CONTACT),
        ):
            assert self.read(one.authorization(self.URL)).get("sub") == contact

    def test_the_key_follows_from_the_secret(self) -> None:
        assert make().public_key == make("").public_key
        other = WebPush(PublicRequests(False), NotificationSettings(), bytes(32))
        assert other.public_key != make().public_key
        largest = WebPush(PublicRequests(False), NotificationSettings(), b"\xff" * 32)
        assert len(decoded(largest.public_key)) == 65

        public = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"
        assert make(key=TestEncryption.SENDER).public_key == public, (
            "the settings', as in RFC 8291"
        )


class TestChecks:
    """What a user may subscribe."""

    def test_an_endpoint(self) -> None:
        one = Device().endpoint("https://push.example.net/1")
        for end in ("", "=", "=="):
            make().check(one.url, one.p256dh + end, one.auth + end)
        standard = one.p256dh.replace("-", "+").replace("_", "/")
        make().check(one.url, standard, one.auth)

    @pytest.mark.parametrize(
        "url", ["http://push.example.net/1", "https://10.0.0.1/1", "ftp://a.example/"]
    )
    def test_urls_that_are_refused(self, url: str) -> None:
        one = Device().endpoint(url)
        with pytest.raises(BadUrl):
            WebPush(PublicRequests(False), NotificationSettings(), SEED).check(
                url, one.p256dh, one.auth
            )

    @pytest.mark.parametrize(
        ("p256dh", "auth"),
        [
            ("", None),
            (base64url(b"\4" + bytes(64)), None),
            (base64url(b"\2" + bytes(range(32))), None),
            ("ü" * 87, None),
            (None, ""),
            (None, base64url(bytes(15))),
            (None, base64url(bytes(16)) + "\r\n"),
        ],
    )
    def test_keys_that_are_refused(self, p256dh: str | None, auth: str | None) -> None:
        one = Device().endpoint("https://push.example.net/1")
        keys = (
            one.p256dh if p256dh is None else p256dh,
            one.auth if auth is None else auth,
        )
        with pytest.raises(ValueError, match="expected"):
            make().check(one.url, *keys)


class TestRequests:
    """What a push service gets, and what its answers mean."""

    def test_a_request(self, push: WebPush) -> None:
        device = Device()
        with Receiver() as service:
            service.reply = lambda _: (
                201,
                b"",
                {"Location": "https://push.example.net/m/1"},
            )
            endpoint = device.endpoint(f"{service.url}/push/1")
            result = push.send(
                endpoint, body(title="Ann", body="Hello"), 3600, "high", "topic_1-a"
            )
            assert (result.outcome, result.status) == ("taken", 201)
            assert push.send(endpoint, body(), 0, "normal", "").outcome == "taken"
        first, second = service.posts
        assert first.path == "/push/1"
        assert device.shown(first.body) == Shown("message", "t", "Ann", "Hello")
        headers = first.headers
        assert (headers["ttl"], headers["urgency"], headers["topic"]) == (
            "3600",
            "high",
            "topic_1-a",
        )
        assert headers["content-encoding"] == "aes128gcm"
        assert headers["content-type"] == "application/octet-stream"
        assert TestTokens.read(headers["authorization"])["aud"] == service.url
        assert second.headers["ttl"] == "0"
        assert "topic" not in second.headers
        assert service.connections == 1

    @pytest.mark.parametrize(
        ("status", "outcome"),
        [
            (200, "taken"),
            (301, "refused"),
            (400, "refused"),
            (404, "gone"),
            (408, "later"),
            (410, "gone"),
            (413, "refused"),
            (429, "later"),
            (503, "later"),
        ],
    )
    def test_what_an_answer_means(
        self, push: WebPush, status: int, outcome: str
    ) -> None:
        with Receiver() as service:
            service.reply = lambda _: (
                status,
                b"",
                {"Retry-After": "120", "Location": "/other"},
            )
            result = push.send(
                Device().endpoint(service.url), body(), 60, "normal", "t"
            )
            assert (result.outcome, result.status) == (outcome, status)
            assert result.retry_after == (
                120.0 if outcome in ("later", "refused") else None
            )
            assert len(service.posts) == 1

    def test_nobody_answers(self, push: WebPush) -> None:
        with Receiver() as service:
            service.reply = lambda _: None
            result = push.send(
                Device().endpoint(service.url), body(), 60, "normal", "t"
            )
            assert (result.outcome, result.status, bool(result.problem)) == (
                "later",
                0,
                True,
            )
        one = Device().endpoint(service.url)
        assert push.send(one, body(), 60, "normal", "t").outcome == "later"
        for change in ({"p256dh": base64url(b"\4" + bytes(64))}, {"auth": "A"}):
            assert (
                push.send(
                    msgspec.structs.replace(one, **change), body(), 60, "", ""
                ).outcome
                == "refused"
            )

    def test_retry_after(self) -> None:
        now = 1_800_000_000.0
        for text, seconds in (
            ("0", 0.0),
            ("120", 120.0),
            ("9" * 50, 999_999_999.0),
            (formatdate(now + 90, usegmt=True), 90.0),
            (formatdate(now - 90, usegmt=True), 0.0),
            ("", None),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("²", None),
        ):
            assert retry_after({"retry-after": text}, now) == seconds, text
        assert retry_after({}, now) is None


# --- web-push-testing of npm: it verifies the token and decrypts, as push
# service and browser do

PROGRAM = Path(__file__).with_name("push_service.mjs")


class PushService:
    """A running service."""

    def __init__(self) -> None:
        command = [require("node"), str(PROGRAM), require("web-push-testing")]
        self._process = spawn(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = next(
            line.strip() for line in self._process.stdout if line.startswith("http://")
        )

    def stop(self) -> None:
        self._process.communicate(timeout=60)

    def ask(self, path: str, **values: Any) -> Any:
        question = urllib.request.Request(self.url + path, json.dumps(values).encode())
        question.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(question, timeout=60) as answer:
            text = answer.read()
        return json.loads(text)["data"] if text.startswith(b"{") else None

    def subscribe(self, key: str) -> PushEndpoint:
        """What a browser gives for
        ``pushManager.subscribe({applicationServerKey: key})``."""
        data = self.ask("/subscribe", userVisibleOnly="true", applicationServerKey=key)
        keys = data["keys"]
        return PushEndpoint(
            1, "shop", "ann", data["endpoint"], keys["p256dh"], keys["auth"]
        )

    def shown(self, endpoint: PushEndpoint) -> list[Shown]:
        """The notifications that the browser has decrypted."""
        data = self.ask(
            "/get-notifications", clientHash=endpoint.url.rpartition("/")[2]
        )
        return [msgspec.json.decode(text, type=Shown) for text in data["messages"]]


@pytest.fixture(scope="module")
def service() -> Iterator[PushService]:
    one = PushService()
    yield one
    one.stop()


@pytest.mark.needs("node", "web-push-testing")
def test_a_browser_verifies_and_decrypts_and_refuses_the_token_of_another_server(
    service: PushService, push: WebPush
) -> None:
    endpoint = service.subscribe(push.public_key)
    push.check(endpoint.url, endpoint.p256dh, endpoint.auth)
    assert (
        push.send(endpoint, body(title="Ann", body="你好"), 60, "high", "topic").status
        == 201
    )
    assert (
        push.send(endpoint, body(body="long " * 2000), 60, "normal", "topic").status
        == 201
    )
    first, second = service.shown(endpoint)
    assert first == Shown("message", "t", "Ann", "你好")
    assert second.body.startswith("long long")
    endpoint = service.subscribe(push.public_key)
    with closing(make(key=TestEncryption.SENDER)) as other:
        result = other.send(endpoint, body(), 60, "normal", "topic")
    assert (result.outcome, result.status) == ("refused", 400)
    assert service.shown(endpoint) == []
