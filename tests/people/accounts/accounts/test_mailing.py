"""Mails: over a connection whose certificate was checked, and what a refusal means."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext

import pytest

from imserver.people.accounts import mailing
from imserver.people.accounts.declared import SmtpSettings
from imserver.people.accounts.mailing import Mail, NotSent, send
from tests.integration.test_webhooks import certificate_of_loopback
from tests.security.mail import Sink

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
        assert [part.get_content().strip() for part in mail.iter_parts()] == ["text", "<p>html</p>"]
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
            assert (problem.value.is_temporary, problem.value.is_of_mail) == (is_temporary, True)
        away = SmtpSettings("127.0.0.1", 1, sender="im@example.com")
        monkeypatch.setattr(mailing, "TRY_SECONDS", 0.5)  # aiosmtpd does not answer a second attempt
        for wrong in (settings(sink, "none", "wrong"), settings(sink, "starttls"), away):
            with pytest.raises(NotSent) as problem:
                send(wrong, MAIL)
            assert not problem.value.is_of_mail
        with pytest.raises(NotSent, match="ValueError") as problem:
            send(settings(sink, "none"), Mail("ann@example.com", "two\nlines", "text"))
        assert problem.value.is_of_mail
