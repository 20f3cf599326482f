"""Dispatch: a client's message becomes a command, the command a reply."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import Struct

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.metrics import Metrics
from imserver.model import BadFrame, Command, Heartbeat, Login, Ping, Reply, Request
from imserver.services.sessions.sessions import Sessions
from imserver.transport.connection import Connection

log = logging.getLogger(__name__)


class Rule(Struct, frozen=True):
    """One command: what carries it out, and whether it needs a session.

    ``answers``: ``run`` is given a third argument, too, and where it returns None calls that with the reply,
    once, if only later. Then replies to later requests may overtake this one.
    """

    run: Callable[..., Reply | None]
    needs_session: bool
    answers: bool = False


_OK = Reply(errors.REPLY_OK)
_PONG = Reply(errors.REPLY_OK, "pong")
_NOT_LOGGED_IN = Reply(errors.REPLY_NOT_LOGGED_IN)
_FAILED = Reply(errors.REPLY_SYSTEM)
_NOT_STORED = Reply(errors.REPLY_NOT_STORED)


class Dispatcher:
    """Serves the messages of all dialects by one table of rules."""

    def __init__(self, sessions: Sessions, metrics: Metrics) -> None:
        self._sessions = sessions
        self._metrics = metrics
        self.rules: dict[type, Rule] = {
            Login: Rule(self._login, needs_session=False),
            Heartbeat: Rule(self._heartbeat, needs_session=True),
            Ping: Rule(self._ping, needs_session=False),
        }

    def serve(self, connection: Connection, payload: bytes, _text: bool) -> None:
        """Answer one message. A database that does not answer is code 1008; any other error in a rule is
        code 1004 to its client, and a traceback in the log."""
        self._metrics.messages_in += 1
        dialect = connection.encoding.dialect
        try:
            request = dialect.decode(payload)
        except BadFrame as bad:
            if bad.reply is not None:
                connection.send(bad.reply)
            return
        command = request.command
        reply: Reply | None
        if command is None:
            reply = Reply(request.code)
        else:
            rule = self.rules[type(command)]
            if rule.needs_session and connection.user is None:
                reply = _NOT_LOGGED_IN
            else:
                try:
                    reply = _run(rule, connection, request, command)
                except StorageUnavailable:
                    reply = _NOT_STORED
                except Exception:
                    log.exception("%s failed", request.name, extra={"connection": connection.peer})
                    reply = _FAILED
        if reply is not None:
            _reply(connection, request, reply)

    def _login(self, connection: Connection, command: Command) -> Reply:
        assert isinstance(command, Login)
        code = self._sessions.login(connection, command)
        if log.isEnabledFor(logging.DEBUG):
            ids = {"connection": connection.peer}
            log.debug("login of %s in %s: %d", command.user, command.app, code, extra=ids)
        return _OK if code == errors.REPLY_OK else Reply(code)

    def _heartbeat(self, connection: Connection, _command: Command) -> Reply:
        self._sessions.heartbeat(connection)
        return _OK

    def _ping(self, _connection: Connection, _command: Command) -> Reply:
        return _PONG


def who(connection: Connection) -> tuple[str, str]:
    """App and user of a session."""
    app, user = connection.app, connection.user
    assert app is not None
    assert user is not None
    return app, user


def _run(rule: Rule, connection: Connection, request: Request, command: Command) -> Reply | None:
    if not rule.answers:
        return rule.run(connection, command)
    return rule.run(connection, command, lambda reply: _reply(connection, request, reply))


def _reply(connection: Connection, request: Request, reply: Reply) -> None:
    payload = connection.encoding.dialect.encode_reply(request, reply)
    if payload is not None:
        connection.send(payload)


def echo(connection: Connection, payload: bytes, text: bool) -> None:
    """Serve of the debug echo path: every message goes back as it came."""
    connection.send_frame(connection.encoding.frame(payload, 1 if text else 2))
