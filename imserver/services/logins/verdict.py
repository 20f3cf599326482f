"""Verdicts: what is decided about a login, and who wants to log in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from imserver import errors

if TYPE_CHECKING:
    from imserver.transport.connection import Connection


class Verdict(Struct, frozen=True, gc=False):
    """Whether a login may happen. Compare with :attr:`ok`.

    ``code`` is the reply code of a dialect that answers, ``close`` the close code of one that cannot (and
    what HTTP makes a status of: 4504 is 401, 4505 is 403, the rest 503). ``final``: the connection is to be
    closed even where the dialect could answer. ``expires_at``: Unix second at which the session ends (0:
    with its connection). ``user``: whom the token names, where the caller named nobody; ``device``: the
    device that it names, which goes before what the client says (``""``: it names none).
    """

    code: int = errors.REPLY_OK
    close: int = 0
    final: bool = False
    expires_at: int = 0
    user: str = ""
    device: str = ""

    @property
    def ok(self) -> bool:
        """Whether the login may go on."""
        return self.code == errors.REPLY_OK


ALLOWED: Final = Verdict()
UNKNOWN_APP: Final = Verdict(errors.REPLY_UNAUTHORIZED, errors.CLOSE_NOT_ALLOWED)
NOT_ALLOWED: Final = Verdict(errors.REPLY_UNAUTHORIZED, errors.CLOSE_NOT_ALLOWED)
BAD_ORIGIN: Final = Verdict(errors.REPLY_UNAUTHORIZED, errors.CLOSE_NOT_ALLOWED, final=True)
BAD_TOKEN: Final = Verdict(errors.REPLY_UNAUTHORIZED, errors.CLOSE_TOKEN_INVALID)
APP_FULL: Final = Verdict(errors.REPLY_FAILED, errors.CLOSE_NODE_FULL, final=True)
UNDECIDED: Final = Verdict(errors.REPLY_SYSTEM, errors.CLOSE_INTERNAL_ERROR)
"""The back end did not say in time."""


class Comer(Protocol):
    """Who wants to log in. ``origin``: the host of the page they come from; ``""``: our own, or no page."""

    @property
    def peer(self) -> str: ...
    @property
    def origin(self) -> str: ...


class Visitor(Struct, frozen=True):
    """A comer who is no connection yet."""

    peer: str
    origin: str = ""


class Admits(Protocol):
    """What decides about logins; :class:`imserver.services.logins.logins.Logins` does."""

    def resolve(self, app: str) -> str:
        """The app that stands for this name. Never switches."""

    def check(
        self, app: str, user: str, token: str, dialect: str, connection: Comer, device: str = ""
    ) -> Verdict:
        """Whether ``user`` may log in now. It may switch."""

    def began(self, connection: Connection, verdict: Verdict) -> None:
        """The login has made the connection a session, or renewed it. Never switches."""

    def holds_token(self, connection: Connection) -> bool:
        """Whether the session ends with a token, so that a new login may renew it."""
