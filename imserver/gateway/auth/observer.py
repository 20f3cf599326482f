"""The observer of events of the core: logins, messages, absent users, acts, and
refusals. A connection, a command or a request can be refused, and a limit can
end a session."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from time import time
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from msgspec import Struct

from imserver.gateway import errors
from imserver.gateway.auth.principal import Kind, Principal
from imserver.gateway.auth.rates import MESSAGES, TooManyRequests
from imserver.gateway.config.settings import TenantSettings
from imserver.gateway.model import Command, Event, Reply, Request, Service
from imserver.gateway.storage.contract import RecordEvent
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.gate import host_of

if TYPE_CHECKING:
    from imserver.gateway.storage.statements import PooledStatements
    from imserver.gateway.transport.http1 import HttpRequest


class Act(Struct, frozen=True):
    """A change that somebody made, for records that prove it.

    - ``name``: what was done, such as ``groups.delete``.
    - ``by``: who has done it.
    - ``app``: the app in which it was done; ``""``: in no app.
    - ``user``: the user to whom or on whose behalf it was done; ``""``: no
      user.
    - ``address``: the address from which the request came.
    - ``request``: the id of the request.
    - ``facts``: further facts as JSON: ids, numbers and reasons, but no texts
      of users and no secrets. ``users`` in it has the ids of other users of the
      app. None means that the receiver makes the facts from ``given`` and
      ``answer``.
    - ``gone``: whether the act has deleted the user, so that no record may have
      the name of the user.
    - ``given``: the struct or the parameters of the request or command.
    - ``answer``: the struct that answers the request or command. ``given`` and
      ``answer`` may have texts and secrets, which must not get into records.
    """

    name: str
    by: Principal
    app: str = ""
    user: str = ""
    address: str = ""
    request: str = ""
    facts: Mapping[str, Any] | None = None
    gone: bool = False
    given: object = None
    answer: object = None


class Denial(Struct, frozen=True):
    """A login, command or request that was refused.

    - ``reason``: a short name. For a login it is a
      :data:`imserver.gateway.errors.LoginRefusal`. For a command it is the
      reason of the refusal, else the name of the reply code or close code. For
      a request it is the ``code`` of the problem.
    - ``app``, ``user``, ``account`` (an id) and ``address``: whom the refusal
      concerns; ``""`` if that is unknown. A client may have sent any text for
      them, so long texts are cut.
    - ``limit``: the name of the rate, setting or list that causes the refusal;
      ``""`` if there is another cause.
    - ``until``: the Unix second at which the limit ends. 0 means that the end
      is unknown, or that the limit stays until somebody lifts it.
    - ``detail``: more about the refusal, in words.
    - ``request``: the id of the request, or the address and port of the
      connection. The log has the same text.
    """

    kind: Literal["login", "command", "request"]
    reason: str
    app: str = ""
    user: str = ""
    account: str = ""
    address: str = ""
    limit: str = ""
    until: float = 0
    detail: str = ""
    request: str = ""


class Observer:
    """Receives the events of apps.

    This base class ignores all of them. Where it saves work, a caller first
    asks whether an event is wanted.
    """

    known: Collection[Connection] = ()
    """The connections about whose end the observer wants to be told."""

    def observes(self, settings: TenantSettings) -> bool:
        """Whether this observer receives the logins to an app with these
        settings. Never switches greenlets."""
        return False

    def began(self, connection: Connection) -> None:
        """Receive a connection that has become a session, or has logged in
        again. Never switches greenlets."""

    def ended(self, connection: Connection, code: int) -> None:
        """Receive the end of a connection. Never switches greenlets."""

    def message(self, app: str, sender: str, facts: Mapping[str, Any]) -> None:
        """Receive a message of a user that is not stored. ``facts`` are its
        ``type``, ``text`` and receiver. Never switches greenlets."""

    def absent(self, app: str, pushes: Sequence[tuple[str, Event]]) -> None:
        """Receive pushes to users who are offline, each as (user, push). May
        switch greenlets."""

    def recorder(self, app: str, kind: str) -> RecordEvent | None:
        """Return the function that stores an event of this kind, or None if
        nobody wants such events. Never switches greenlets."""
        return None

    def acted(self, act: Act) -> None:
        """Receive a change that somebody has made. May switch greenlets; never
        raises."""

    def refused(self, refusal: Denial) -> None:
        """Receive the refusal of a login, command or request. Never
        switches greenlets."""


class Observers(Observer):
    """Several observers that act as one. Each event goes to the observers that
    want it, in their order.

    An observer wants an event if it has a method of its own for it. A method
    inherited from :class:`Observer` is not called. So an event that only one
    observer wants costs no more than with a single observer.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        """Find out which observers want which events."""
        self._observers = observers
        self._absent = self._all_that_have("absent")
        self._messages = self._all_that_have("message")
        self._sessions = self._all_that_have("began")
        self._recorders = self._all_that_have("recorder")
        self._refusals = self._all_that_have("refused")
        self._acts = self._all_that_have("acted")

    def _all_that_have(self, method: str) -> tuple[Observer, ...]:
        """Return the observers that define this method themselves."""
        inherited = getattr(Observer, method)
        return tuple(
            each
            for each in self._observers
            if getattr(type(each), method) is not inherited
        )

    @property
    def known(self) -> Collection[Connection]:  # type: ignore[override]
        """The sessions of the first observer that knows any session."""
        for each in self._sessions:  # a loop is fast, and each login runs this code
            known = each.known
            if known:
                return known
        return ()

    def observes(self, settings: TenantSettings) -> bool:
        return any(each.observes(settings) for each in self._observers)

    def began(self, connection: Connection) -> None:
        for each in self._sessions:
            each.began(connection)

    def ended(self, connection: Connection, code: int) -> None:
        """Tell the observers that know connections."""
        for each in self._sessions:
            if each.known:
                each.ended(connection, code)

    def message(self, app: str, sender: str, facts: Mapping[str, Any]) -> None:
        for each in self._messages:
            each.message(app, sender, facts)

    def absent(self, app: str, pushes: Sequence[tuple[str, Event]]) -> None:
        for each in self._absent:
            each.absent(app, pushes)

    def recorder(self, app: str, kind: str) -> RecordEvent | None:
        """Return a function that records an event with all observers that want
        it.

        The result is None if no observer records events of this kind.
        """
        functions = []
        for each in self._recorders:
            record = each.recorder(app, kind)
            if record is not None:
                functions.append(record)
        if not functions:
            return None
        # Usually only one observer records such events, so its function is
        # returned directly.
        if len(functions) == 1:
            return functions[0]

        def record_all(
            sql: PooledStatements, app: str, user: str, facts: Mapping[str, Any]
        ) -> None:
            """Let each observer record the event in the same transaction."""
            for record in functions:
                record(sql, app, user, facts)

        return record_all

    def acted(self, act: Act) -> None:
        for each in self._acts:
            each.acted(act)

    def refused(self, refusal: Denial) -> None:
        for each in self._refusals:
            each.refused(refusal)


def observer_of(observers: Sequence[Observer]) -> Observer:
    """Return one observer in place of all.

    A single observer is returned as it is, which saves a call for each event.
    """
    if len(observers) == 1:
        return observers[0]
    if observers:
        return Observers(observers)
    return Observer()


def report_commands(observer: Observer) -> Callable[[Connection, str, Command], None]:
    """Return the function that reports commands of clients that have succeeded.

    Its arguments are the connection, the name of the act, and the command. It
    may switch greenlets.
    """

    def acted(connection: Connection, name: str, command: Command) -> None:
        """Report a command of a client that has succeeded."""
        app = connection.app or ""
        user = connection.user or ""
        by = Principal(cast(Kind, connection.kind), apps=frozenset({app}), user=user)
        address = host_of(connection.peer)
        # The user has acted on nobody else, so the user is also the user of the
        # act.
        observer.acted(Act(name, by, app, user, address, given=command))

    return acted


_DETAIL: Final = 200
"""Limit of the characters of a refusal's detail."""
_USER: Final = 64
"""Limit of the characters of a user id in a refusal."""
_REPLIES: Final = {
    code: name.lower()
    for name, code in vars(errors.ReplyCode).items()
    if isinstance(code, int) and code != errors.ReplyCode.OK
}
"""Reply code → its name."""
_LIMITS: Final = {
    errors.CloseCode.RATE_LIMIT: MESSAGES.name,
    errors.CloseCode.SLOW_READER: "limits.outbox_bytes, limits.outbox_seconds",
    errors.CloseCode.TOO_BIG: "limits.message_bytes",
    errors.CloseCode.BANNED: "",
    errors.CloseCode.TOKEN_INVALID: "",
}
"""Close code that ends a session because of a refusal → the name of the
limit."""
CLOSES: Final = {code: errors.close_reason(code) for code in _LIMITS}
"""Close code that ends a session because of a refusal → the reason of the
refusal."""


def _limit_of(error: Exception | None) -> tuple[str, float]:
    """Return the name of the rate that has refused something, and when it
    allows more.

    The second result is the Unix second at which the next attempt is allowed;
    0: unknown. The name is ``""`` if the error has another cause.
    """
    if not isinstance(error, TooManyRequests):
        return "", 0.0
    if not error.seconds:
        return error.limit, 0.0
    return error.limit, time() + error.seconds


class Denials(Service):
    """Makes a :class:`Denial`, for the observer, of each refusal.

    ``banned_until(app, user)`` returns when a ban ends, in Unix seconds.
    """

    observer: Observer
    banned_until: Callable[[str, str], float]

    def connection(self, limit: str, peer: str, detail: str = "") -> None:
        """Report a connection that the gate has refused, before any login.

        ``limit`` is the name of the setting that makes the gate refuse.
        """
        if limit.startswith("limits."):
            reason = "limit"
        else:
            reason = "origin"
        denial = Denial(
            kind="login",
            reason=reason,
            address=host_of(peer),
            limit=limit,
            detail=detail[:_DETAIL],
            request=peer,
        )
        self.observer.refused(denial)

    def command(
        self,
        connection: Connection,
        request: Request,
        reply: Reply,
        error: Exception | None = None,
    ) -> None:
        """Report a command whose reply refuses it.

        ``error`` is the exception that has caused the reply, or None if no
        exception has caused it.
        """
        app = connection.app
        # Without an app, the connection has no session. Before the login a
        # connection may only log in, and Logins has already reported a refused
        # login.
        if app is None:
            return

        channel = getattr(request.command, "channel", "")
        detail = f"{request.name} {channel}".rstrip()
        reason = reply.why or _REPLIES.get(reply.code, f"code {reply.code}")
        limit, until = _limit_of(error)
        self._of(connection, app, reason, limit, until, detail[:_DETAIL])

    def ended(self, connection: Connection, code: int) -> None:
        """Report the end of a session, if a limit has ended it.

        ``code`` is the close code. It tells whether a limit has ended the
        session.
        """
        app = connection.app
        if code not in CLOSES or app is None:
            return

        # The end of the refusal is known only for a ban.
        until = 0.0
        if code == errors.CloseCode.BANNED:
            until = self.banned_until(app, connection.user or "")
        self._of(connection, app, CLOSES[code], _LIMITS[code], until)

    def _of(
        self,
        connection: Connection,
        app: str,
        reason: str,
        limit: str,
        until: float,
        detail: str = "",
    ) -> None:
        """Report that a command of a connection, or its session, was refused."""
        denial = Denial(
            kind="command",
            reason=reason,
            app=app,
            user=connection.user or "",
            address=host_of(connection.peer),
            limit=limit,
            until=until,
            detail=detail,
            request=connection.peer,
        )
        self.observer.refused(denial)

    def request(
        self,
        request: HttpRequest,
        problem: errors.HttpProblem,
        principal: Principal,
        app: str = "",
        user: str = "",
        detail: str = "",
        rate: TooManyRequests | None = None,
    ) -> None:
        """Report an HTTP request that was refused with a problem.

        ``app`` and ``user`` are the names in the request, or ``""`` if they
        were not read. ``rate`` is the error of the rate that refuses the
        request, or None if there is another cause.
        """
        app = app or principal.app
        user = principal.user or principal.staff or user
        limit, until = _limit_of(rate)
        if problem is errors.Problems.BANNED:
            # A banned user is refused until the end of the ban, whatever the
            # rates say.
            until = self.banned_until(app, user)
        text = f"{request.method} {request.path}: {detail or problem.message}"
        denial = Denial(
            kind="request",
            reason=problem.code,
            app=app,
            user=user[:_USER],
            address=request.host,
            limit=limit,
            until=until,
            detail=text[:_DETAIL],
            request=request.id,
        )
        self.observer.refused(denial)
