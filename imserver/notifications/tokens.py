"""Tokens of notifications, mails and questions. The holder of a token may do
one thing without another credential."""

import hmac
from collections.abc import Callable, Sequence
from time import time
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from imserver.notifications.declared import HTTP_UNKNOWN_NOTIFICATION
from imserver.plugin.errors import ServiceRefused
from imserver.plugin.runtime import Service
from imserver.plugin.wire import base64url

MAX_TOKEN_SECONDS: Final = 7 * 86_400
"""The time for which the token of a notification is valid."""
MAX_ASK_SECONDS: Final = 30 * 86_400
"""The time for which the token of a question is valid. No deadline is later."""
MAX_TOKEN_CHARACTERS: Final = 1000
_SIGNATURE_BYTES: Final = 16


class BadActionToken(ServiceRefused, problem=HTTP_UNKNOWN_NOTIFICATION):
    """The token was not made by this server, or has expired."""


class ActionToken(Struct, frozen=True, array_like=True):
    """The token of a notification: ``user`` may mark ``conversation`` as read
    up to ``entry``, and reply.

    ``endpoint``: the id of the device that got it. ``expires``: Unix seconds.
    """

    kind: Literal["act"]
    app: str
    user: str
    endpoint: int
    conversation: int
    entry: int
    expires: int


class MailToken(Struct, frozen=True, array_like=True):
    """The token of a mail: its holder may end the mails to ``user``. It does
    not expire."""

    kind: Literal["mail"]
    app: str
    user: str


class AskToken(Struct, frozen=True, array_like=True):
    """The token of a question: its holder may answer ``message`` as ``user``.
    ``expires``: Unix seconds."""

    kind: Literal["ask"]
    app: str
    user: str
    message: int
    expires: int


T = TypeVar("T", ActionToken, MailToken, AskToken)


class ActionTokens(Service):
    """Makes and reads tokens, which permit one action each.

    A token is its content and a signature, in base64url. Tokens are signed with
    the first of ``keys``, and verified with each of them: keys change while
    tokens are in use. Never switches greenlets.
    """

    keys: Sequence[bytes]
    clock: Callable[[], float] = time

    def make(
        self, app: str, user: str, endpoint: int, conversation: int, entry: int
    ) -> str:
        """Make the token of a notification. It is valid for a week."""
        expires = int(self.clock()) + MAX_TOKEN_SECONDS
        return self._signed(
            ActionToken("act", app, user, endpoint, conversation, entry, expires)
        )

    def make_mail(self, app: str, user: str) -> str:
        """Make the token with which a user ends the mails of an app."""
        return self._signed(MailToken("mail", app, user))

    def make_ask(self, app: str, user: str, message: int) -> str:
        """Make the token with which a user answers a question.

        After the deadline of the question it still shows the result.
        """
        expires = int(self.clock()) + MAX_ASK_SECONDS
        return self._signed(AskToken("ask", app, user, message, expires))

    def read(self, kind: type[T], token: str) -> T:
        """Verify a token of this kind, and return its content.

        Raises BadActionToken if it is not signed by this server, is of another
        kind, or has expired.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise BadActionToken("this is no token")
        try:
            signed = base64url.decode(token)
            signature = signed[:_SIGNATURE_BYTES]
            encoded = signed[_SIGNATURE_BYTES:]
            if not self._has_signed(encoded, signature):
                raise BadActionToken("this is no token of this server")
            content = msgspec.msgpack.decode(encoded, type=kind)
        except ValueError:
            raise BadActionToken("this is no token of this kind") from None

        if not isinstance(content, MailToken) and content.expires <= self.clock():
            raise BadActionToken("the token has expired")
        return content

    def _has_signed(self, encoded: bytes, signature: bytes) -> bool:
        """Whether this server has signed the content of a token.

        The time of the comparison tells nothing about the right signature.
        """
        return any(
            hmac.compare_digest(signature, _signature(encoded, key))
            for key in self.keys
        )

    def _signed(self, content: ActionToken | MailToken | AskToken) -> str:
        """Encode a content, and put its signature before it."""
        encoded = msgspec.msgpack.encode(content)
        return base64url.encode(_signature(encoded, self.keys[0]) + encoded)


def _signature(content: bytes, key: bytes) -> bytes:
    """Return the first 16 bytes of HMAC-SHA-256, which keeps tokens short."""
    return hmac.digest(key, content, "sha256")[:_SIGNATURE_BYTES]
