"""Mails to users, by the server of section ``smtp``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

import gevent
from msgspec import Struct

from imserver.people.accounts.declared import SmtpSettings
from imserver.plugin.errors import ImserverError
from imserver.plugin.http import Call, HttpResponse
from imserver.plugin.runtime import asset_path

if TYPE_CHECKING:
    from email.headerregistry import Address
    from email.message import EmailMessage
    from email.policy import EmailPolicy
    from smtplib import SMTP
    from ssl import SSLContext

    from jinja2 import Template

TRY_SECONDS: Final = 30.0
"""How long one attempt may take."""
_PERMANENT: Final = 500
"""From this reply code on a mail server refuses for good (RFC 5321)."""
_PAGE_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
"""Headers of the page behind a link of a mail."""


class Mail(Struct, frozen=True):
    """A mail to one address.

    ``html`` is the content of ``text`` as HTML; ``""`` means no HTML. ``id`` is
    a message id for a mail that may be sent twice, by which mail servers and
    clients recognise it.
    """

    to: str
    subject: str
    text: str
    html: str = ""
    headers: Mapping[str, str] = {}
    id: str = ""


class NotSent(ImserverError):
    """The mail server has not taken a mail.

    ``is_temporary`` says that the server may take the same mail later.
    ``is_of_mail`` says that the server refuses this receiver or this content,
    but may take other mails now.
    """

    def __init__(self, error: Exception, is_temporary: bool, is_of_mail: bool) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.is_temporary = is_temporary
        self.is_of_mail = is_of_mail


def button_page(language: str, title: str, text: str, button: str) -> str:
    """The page (HTML) behind a link of a mail.

    Its button posts to the same address; ``""`` means no button.
    """
    return page_template("people/button.html").render(
        language=language, title=title, text=text, button=button
    )


def page_reply(call: Call, page: str, status: int = 200) -> HttpResponse:
    """The answer with such a page, which no browser stores."""
    headers = (*_PAGE_HEADERS, ("X-Request-Id", call.request.id))
    return HttpResponse(
        status, page.encode(), "text/html; charset=utf-8", headers, page=True
    )


@cache
def page_template(name: str) -> Template:
    """The template of a mail, or of the page behind a link of a mail."""
    # Imported at the first page: nodes that send no mail save the memory.
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(asset_path("templates")),
        autoescape=name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    return environment.get_template(name)


def send(settings: SmtpSettings, mail: Mail) -> None:
    """Send a mail.

    Switches greenlets, at most for :data:`TRY_SECONDS`. Raises NotSent.
    """

    try:
        message = _message(settings.sender, mail)
    except ValueError as error:
        raise NotSent(error, is_temporary=False, is_of_mail=True) from error

    # Before the server is ready, an error concerns the server, not this mail.
    is_ready = False
    is_sent = False
    try:
        with (
            gevent.Timeout(TRY_SECONDS, TimeoutError("no answer in time")),
            _connect(settings) as server,
        ):
            _begin_session(server, settings)
            is_ready = True
            server.send_message(message, settings.sender, [mail.to])
            is_sent = True
    except (OSError, ValueError) as error:  # smtplib.SMTPException is an OSError
        if is_sent:
            return  # only the end of the conversation has failed

        is_of_mail = is_ready and _is_refusal(error)
        raise NotSent(error, _is_temporary(error), is_of_mail) from error


def _is_refusal(error: Exception) -> bool:
    """Whether an error is the refusal of a mail, and not of all mails."""
    import smtplib

    refusals = (
        smtplib.SMTPRecipientsRefused,
        smtplib.SMTPDataError,
        smtplib.SMTPNotSupportedError,
        ValueError,
    )
    return isinstance(error, refusals)


@lru_cache(1)
def _tls(_certificates: str) -> SSLContext:
    """The context that checks the certificate of the mail server.

    It is made once, because reading the certificates of all authorities takes
    20 ms or more. ``_certificates`` is the file with these certificates; ``""``
    means the file of the operating system. It is an argument only so that
    another file makes another context.
    """
    import ssl

    return ssl.create_default_context()


def _connect(settings: SmtpSettings) -> SMTP:
    """A connection to the mail server. Switches greenlets. Raises OSError."""
    # Imported in functions: nodes that send no mail save the memory.
    import smtplib

    if settings.tls == "tls":
        context = _tls(os.environ.get("SSL_CERT_FILE", ""))
        return smtplib.SMTP_SSL(
            settings.host, settings.port, timeout=TRY_SECONDS, context=context
        )
    return smtplib.SMTP(settings.host, settings.port, timeout=TRY_SECONDS)


def _begin_session(server: SMTP, settings: SmtpSettings) -> None:
    """Start TLS, and log in, as configured. Switches greenlets.

    Raises OSError and ValueError.
    """
    if settings.tls == "starttls":
        server.starttls(context=_tls(os.environ.get("SSL_CERT_FILE", "")))
    if settings.user:
        server.login(settings.user, settings.password)


@cache
def _policy() -> EmailPolicy[Any]:
    """The usual policy of mails, except that headers of lists stay in one line.

    The usual policy folds a long address into encoded words, which RFC 2369
    does not allow in ``List-Unsubscribe``.
    """
    from email.policy import EmailPolicy

    class Policy(EmailPolicy):
        def fold_binary(self, name: str, value: str) -> bytes:
            """Write a header, and headers of lists in one line."""
            if name.startswith("List-"):
                return f"{name}: {value}{self.linesep}".encode("ascii")
            return super().fold_binary(name, value)

    return Policy()


def _message(sender: str, mail: Mail) -> EmailMessage:
    """The message of a mail, with its headers.

    Raises ValueError if the receiver is no address, or if a header cannot be
    written.
    """
    from email.message import EmailMessage
    from email.utils import formatdate

    message = EmailMessage(_policy())
    message["Subject"] = mail.subject
    message["From"] = sender
    message["To"] = _receiver(mail.to)
    message["Date"] = formatdate()
    message["Message-ID"] = _message_id(sender, mail)
    # Programs that answer mails, such as notes of absence, do not answer it.
    message["Auto-Submitted"] = "auto-generated"

    message.set_content(mail.text)
    if mail.html:
        message.add_alternative(mail.html, subtype="html")
    # Added last, because adding an alternative moves headers of the content.
    for name, value in mail.headers.items():
        message[name] = value
    return message


def _receiver(address: str) -> Address:
    """The receiver of a mail. Raises ValueError if this is no address."""
    from email.headerregistry import Address

    try:
        return Address(addr_spec=address)
    except Exception as error:  # of any type, by the defect of the address
        raise ValueError(f"{address!r} is not an address: {error}") from error


def _message_id(sender: str, mail: Mail) -> str:
    """The value of the header ``Message-ID``.

    A mail without an id of its own gets a random one.
    """
    from email.utils import make_msgid

    domain = sender.rpartition("@")[2]
    if mail.id:
        return f"<{mail.id}@{domain}>"
    return make_msgid(domain=domain)


def _is_temporary(error: Exception) -> bool:
    """Whether the server may take the same mail later.

    A reply code below 500 is temporary, and so is a server that does not
    answer.
    """
    import smtplib

    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
        return all(code < _PERMANENT for code in codes)
    if isinstance(error, smtplib.SMTPResponseException):
        return error.smtp_code < _PERMANENT
    return not isinstance(error, ValueError | smtplib.SMTPNotSupportedError)
