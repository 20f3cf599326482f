"""Tokens of accounts: GoChat's are good, ours are GoChat's with one claim more,
and nothing else is."""

import hmac
import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from types import SimpleNamespace

import gevent
import jwt
import pytest

from imserver.gateway import errors
from imserver.gateway.auth.json_web_tokens import BadToken
from imserver.gateway.http.openapi import problems_of
from imserver.people.accounts import mailing
from imserver.people.accounts import tokens as account_tokens
from imserver.people.accounts.declared import SmtpSettings
from imserver.people.accounts.mailing import Mail, NotSent, send
from imserver.people.accounts.passwords import (
    AT_ONCE,
    MAX_WAITING,
    Overloaded,
    Passwords,
)
from tests.integration.test_webhooks import certificate_of_loopback
from tests.rows import DOCUMENTED
from tests.security.mail import Sink

KEY = b"a key of some length, longer than its hash"
NOW = 1_800_000_000.0


def encoded(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def theirs(
    claims: dict[str, object], key: bytes = KEY, algorithm: str = "HS256"
) -> str:
    """A token as another library makes it."""
    return jwt.encode(claims, key, algorithm)


def test_ours_is_read_by_others_and_by_us() -> None:
    token = account_tokens.make(267, 3, int(NOW) + 60, KEY)
    assert jwt.decode(token, KEY, ["HS256"], options={"verify_exp": False}) == {
        "user_id": 267,
        "version": 3,
        "exp": int(NOW) + 60,
    }
    claims = account_tokens.read(token, (KEY,), NOW)
    assert (claims.user_id, claims.version, claims.exp) == (267, 3, NOW + 60)


def test_one_of_gochat_is_of_the_first_version() -> None:
    claims = account_tokens.read(theirs({"user_id": 266, "exp": NOW + 1}), (KEY,), NOW)
    assert (claims.user_id, claims.version) == (266, 0)


def forged(head: dict[str, object]) -> str:
    """One with a right signature, whose header is another."""
    signed = encoded(head) + "." + encoded({"user_id": 1, "exp": NOW + 60})
    signature = hmac.digest(KEY, signed.encode(), "sha256")
    return f"{signed}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "é.é.é",
        "." * 10_000,
        theirs({"user_id": 1, "exp": NOW}),
        theirs({"user_id": 1, "exp": NOW - 1}),
        theirs({"user_id": 1}),
        theirs({"exp": NOW + 60}),
        theirs({"user_id": "1", "exp": NOW + 60}),
        theirs({"user_id": 0, "exp": NOW + 60}),
        theirs({"user_id": -1, "exp": NOW + 60}),
        theirs({"user_id": 2**63, "exp": NOW + 60}),
        theirs({"user_id": 1, "exp": NOW + 60, "nbf": NOW + 30}),
        theirs(
            {"user_id": 1, "exp": NOW + 60}, b"another key, which is long enough, too"
        ),
        theirs({"user_id": 1, "exp": NOW + 60}, b"k" * 64, "HS512"),
        forged({"alg": "HS384"}),
        encoded({"alg": "none"}) + "." + encoded({"user_id": 1, "exp": NOW + 60}) + ".",
    ],
)
def test_an_invalid_proof_is_refused(token: str) -> None:
    with pytest.raises(BadToken):
        account_tokens.read(token, (KEY,), NOW)


def test_every_bit_of_a_token_counts() -> None:
    token = account_tokens.make(267, 0, int(NOW) + 60, KEY)
    for index in range(0, len(token), 7):
        changed = (
            token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        )
        with pytest.raises(BadToken):
            account_tokens.read(changed, (KEY,), NOW)


@pytest.mark.parametrize(
    ("method", "path", "reads"),
    [
        ("GET", "/api/v1/friends", True),
        ("GET", "/api/v1/conversations", True),
        ("POST", "/api/v1/messages/stream/open", True),
        ("POST", "/api/v1/accounts/login", False),
        ("GET", "/api/v1/apps", False),
    ],
)
def test_a_request_that_reads_session_tokens_may_find_their_issuer_away(
    method: str, path: str, reads: bool
) -> None:
    [row] = [row for row in DOCUMENTED if (row.method, row.path) == (method, path)]
    assert (errors.Problems.ISSUER_UNAVAILABLE in problems_of(row)) is reads


# --- passwords ----------------------------------------------------------------

GOCHATS = "764fb148aadad5dae3bb6c1ef08cb53d"
"""What the original keeps of the password ``123456``: printf %s
123456gogogoChat | md5sum"""


@pytest.fixture
def some():
    result = Passwords("gogogoChat")
    yield result
    result.close()


def test_only_the_right_password_matches(some: Passwords) -> None:
    digest = some.hash("sécret")
    assert digest.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert some.matches(digest, "sécret")
    for wrong in (digest, "", "no hash"):  # an account that is missing has none
        assert not some.matches(wrong, "secret")
        assert not some.matches(wrong, wrong)
    assert not some.is_weak(digest)


def test_a_hash_of_gochat_matches_and_is_weak(some: Passwords) -> None:
    assert some.matches(GOCHATS, "123456")
    assert some.matches(GOCHATS.upper(), "123456")
    assert not some.matches(GOCHATS, "1234567")
    assert not Passwords("another salt").matches(GOCHATS, "123456")
    assert some.is_weak(GOCHATS)


@pytest.mark.parametrize("digest", ["", GOCHATS])
def test_a_wrong_password_takes_as_long_for_any_hash(
    some: Passwords, monkeypatch: pytest.MonkeyPatch, digest: str
) -> None:
    looked_at: list[str] = []

    def look(_hasher: object, hashed: str, _password: str) -> bool:
        looked_at.append(hashed)
        return False

    monkeypatch.setattr(some, "_verified", look)
    assert not some.matches(digest, "wrong")
    assert looked_at == [""], "a hash of argon2id was compared"


def test_no_more_than_two_are_hashed_at_once(
    some: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, lock, two = 0, 0, threading.Lock(), threading.Barrier(2)

    def hash_slowly(_password: str) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        two.wait(60)
        time.sleep(0.02)  # a third would begin meanwhile
        with lock:
            running -= 1
        return ""

    monkeypatch.setattr(some, "_hasher", SimpleNamespace(hash=hash_slowly))
    hashing = [gevent.spawn(some.hash, "secret") for _ in range(6)]
    assert [each.get() for each in hashing] == [""] * 6
    assert most == AT_ONCE == 2


def test_too_many_that_wait_are_refused(some: Passwords) -> None:
    some.waiting = MAX_WAITING - 3
    waiting = [gevent.spawn(some.hash, "secret") for _ in range(3)]
    gevent.sleep(0)
    with pytest.raises(Overloaded):
        some.hash("one more")
    gevent.joinall(waiting)
    assert some.hash("one more")
    assert some.waiting == MAX_WAITING - 3


# --- mails --------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


@contextmanager
def serving(tls: SSLContext | None = None) -> Iterator[Sink]:
    sink = Sink(tls)
    try:
        yield sink
    finally:
        sink.stop()


def settings(sink: Sink, tls: str, password: str = "secret") -> SmtpSettings:
    return SmtpSettings("127.0.0.1", sink.port, tls, "im", password, "im@example.com")  # type: ignore[arg-type]


MAIL = Mail("ann@example.com", "Hi", "text", "<p>html</p>", {"Content-Language": "en"})


@pytest.mark.parametrize("is_trusted", [True, False])
def test_the_certificate_of_the_mail_server_is_checked(
    is_trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = certificate_of_loopback(tmp_path)
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context) as sink:
        if is_trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            send(settings(sink, "starttls"), MAIL)
            assert [to for _, to, _ in sink.mails] == [["ann@example.com"]]
            return
        with pytest.raises(NotSent, match="SSLCertVerificationError") as problem:
            send(settings(sink, "starttls"), MAIL)
        assert (problem.value.is_of_mail, sink.mails) == (False, [])


def test_a_mail_has_both_forms_and_the_headers_are_its_own() -> None:
    with serving() as sink:
        send(settings(sink, "none"), MAIL)
        (mail,) = sink.messages
        assert mail.get_content_type() == "multipart/alternative"
        assert [part.get_content().strip() for part in mail.iter_parts()] == [
            "text",
            "<p>html</p>",
        ]
        assert mail["Content-Language"] == "en"
        send(settings(sink, "none"), Mail("ann@example.com", "Hi", "text"))
        assert sink.messages[-1].get_content_type() == "text/plain"


def test_an_error_says_whether_it_is_about_the_mail_and_whether_it_will_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving() as sink:
        for answer, is_temporary in (("451 later", True), ("550 never", False)):
            sink.answers = [answer]
            with pytest.raises(NotSent, match=answer[:3]) as problem:
                send(settings(sink, "none"), MAIL)
            assert (problem.value.is_temporary, problem.value.is_of_mail) == (
                is_temporary,
                True,
            )
        away = SmtpSettings("127.0.0.1", 1, sender="im@example.com")
        # aiosmtpd does not answer a second attempt
        monkeypatch.setattr(mailing, "TRY_SECONDS", 0.5)
        for wrong in (
            settings(sink, "none", "wrong"),
            settings(sink, "starttls"),
            away,
        ):
            with pytest.raises(NotSent) as problem:
                send(wrong, MAIL)
            assert not problem.value.is_of_mail
        with pytest.raises(NotSent, match="ValueError") as problem:
            send(settings(sink, "none"), Mail("ann@example.com", "two\nlines", "text"))
        assert problem.value.is_of_mail
