"""A mail server that keeps what it gets."""

import asyncio
import re
import threading
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from ssl import SSLContext
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult


class Sink:
    """A mail server for the user ``im`` with the password ``secret``.

    ``mails`` has senders, receivers and texts, ``messages`` the whole mails,
    ``contents`` their bytes. ``answers``: what the next mails are answered
    with; ``ids``: those of all mails, of refused ones too. aiosmtpd warns of
    passwords without TLS when a client connects. ``tls``: for STARTTLS.
    """

    def __init__(self, tls: SSLContext | None = None) -> None:
        self._tls = tls
        self.mails: list[tuple[str, list[str], str]] = []
        self.messages: list[EmailMessage] = []
        self.contents: list[bytes] = []
        self.answers: list[str] = []
        self.tries = 0
        self.ids: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            self._loop.create_server(self._session, "127.0.0.1", 0)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def _session(self) -> SMTP:
        def authenticator(*given: Any) -> AuthResult:
            return AuthResult(
                success=(given[-1].login, given[-1].password) == (b"im", b"secret")
            )

        rules = {
            "auth_required": True,
            "auth_require_tls": False,
            "authenticator": authenticator,
        }
        return SMTP(self, loop=self._loop, tls_context=self._tls, **rules)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.tries += 1
        answer = self.answers.pop(0) if self.answers else "250 OK"
        mail = message_from_bytes(envelope.content, _class=EmailMessage, policy=default)
        self.ids.append(str(mail["Message-ID"]))
        if answer.startswith("250"):
            text = mail.get_body(("plain",))
            assert text is not None
            self.contents.append(envelope.content)
            self.messages.append(mail)
            self.mails.append(
                (envelope.mail_from, envelope.rcpt_tos, text.get_content())
            )
        return answer

    def code(self, page: str) -> str:
        """The code in the last mail, which names this page."""
        found = re.search(
            re.escape(page) + "#reset=([A-Za-z0-9_-]{43})\n", self.mails[-1][2]
        )
        assert found, self.mails[-1]
        return found[1]

    @property
    def settings(self) -> dict[str, Any]:
        """The section ``smtp`` of a server whose mails come here."""
        address = {"host": "127.0.0.1", "port": self.port, "tls": "none"}
        return {
            **address,
            "user": "im",
            "password": "secret",
            "sender": "im@example.com",
        }

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        self._loop.run_until_complete(self._server.wait_closed())
        self._loop.close()
