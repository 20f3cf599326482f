"""Chats: what clients of the protobuf dialect do. They log in with the token of their account, send messages
to be kept, and ask for those that they have missed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import time
from typing import Final

from msgspec.structs import replace

from imserver import errors
from imserver.auth.login import Logins
from imserver.auth.rules import LoginDecision
from imserver.errors import StorageUnavailable
from imserver.model import ChatLogin, ChatMessage, ChatSync, Command, Login, Message, Reply
from imserver.protocol.protobuf import APP, MAX_ID, ProtobufDialect, account
from imserver.protocol.protobuf_full import FullProtobufDialect, Recovered
from imserver.services.dialects.grace import HOLD_SECONDS, PAGE_SECONDS, Grace, PageEnds
from imserver.services.dialects.uplink import (
    CHAT_READERS,
    ChatAcknowledger,
    ChatReader,
    RestingReader,
    Uplink,
)
from imserver.services.messages import page_bounds
from imserver.services.messages.messaging import Messaging
from imserver.services.messages.recovery import Recovery
from imserver.services.sessions.dispatch import Dispatcher, Rule
from imserver.services.sessions.sessions import Sessions, say
from imserver.transport.carrier import Encoding
from imserver.transport.connection import OPEN, Connection

log = logging.getLogger(__name__)

PAGE: Final = 50
"""Entries in the answer to one sync."""
MAX_MINUTES: Final = 100_000
"""Minutes in which tokens end that are remembered at once."""
_FULL: Final = FullProtobufDialect()
_OK: Final = Reply(errors.REPLY_OK)

Answer = Callable[[Reply], None]


class Chats:
    """Carries out the commands of the dialect. Owner of ``Connection.about`` of its sessions, and of who is
    still expected to sync: ``grace`` after a login, ``page_grace`` after a page behind which there is more.
    """

    def __init__(
        self,
        sessions: Sessions,
        logins: Logins,
        messaging: Messaging,
        recovery: Recovery,
        uplink: Uplink,
    ) -> None:
        self._sessions = sessions
        self._logins = logins
        self._messaging = messaging
        self._uplink = uplink
        self._recovery = recovery
        self.grace = Grace(self._release, HOLD_SECONDS)
        self.page_grace = Grace(self._pass_over, PAGE_SECONDS)
        self._resting: dict[int, RestingReader] = {}
        """What sessions share that have nothing to remember, by the minutes in which their tokens end."""
        self._full: dict[Encoding, Encoding] = {}
        """The encodings of clients that log in with a cursor, by those that their connections begin with."""
        self.page_ends = PageEnds()

    def add_to(self, dispatcher: Dispatcher) -> None:
        """Have the commands of the dialect served."""
        dispatcher.rules[ChatLogin] = Rule(self.login, needs_session=False, answers=True)
        dispatcher.rules[ChatMessage] = Rule(self._uplink.send, needs_session=True)
        dispatcher.rules[ChatSync] = Rule(self.sync, needs_session=True)

    def ended(self, connection: Connection) -> None:
        """A connection is over. Never switches."""
        self._uplink.ended(connection)
        self._expected_no_more(connection)
        self.page_ends.forget(connection)

    def _expected_no_more(self, connection: Connection) -> None:
        self.grace.asked(connection)
        self.page_grace.asked(connection)

    # --- logging in -----------------------------------------------------------------------------------------

    def login(self, connection: Connection, command: Command, answer: Answer) -> Reply | None:
        """Begin the session of the account whose token this is. It may switch.

        When it is answered with 200 the user is reachable on this connection. A refused login may be tried
        again, but for one of a user who is online already: then the connection is closed.
        """
        assert isinstance(command, ChatLogin)
        if connection.user is not None:
            return Reply(errors.REPLY_FAILED)
        self._choose_words(connection, command.cursor >= 0)
        kicks = self._sessions.kicks.count
        try:
            decision = self._check(connection, command)
            if not decision.ok:
                if decision.final or decision.code == errors.REPLY_SYSTEM:
                    # Silence would let its client wait for ever.
                    say(connection, decision.close)
                return Reply(decision.code)
            login = Login(APP, decision.user, command.token, command.device)
            code = self._sessions.login(
                connection, login, decision=replace(decision, expires_at=0), kicks=kicks
            )
            if code != errors.REPLY_OK:
                return Reply(code)
            return self._begin(connection, command, decision.expires_at, answer)
        except StorageUnavailable as unavailable:
            # Silence would let its client wait for ever.
            log.info("a login failed: %s", unavailable, extra={"connection": connection.peer})
            say(connection, errors.CLOSE_INTERNAL_ERROR)
            return Reply(errors.REPLY_SYSTEM)

    def _begin(
        self, connection: Connection, command: ChatLogin, expires_at: int, answer: Answer
    ) -> Reply | None:
        """Have a session follow what is stored."""
        reader = ChatAcknowledger(held=[]) if command.cursor >= 0 and command.acks else ChatReader(held=[])
        if expires_at:
            reader.ends = self._resting_until(expires_at // 60 + 1).ends
        if command.cursor < 0:
            self._messaging.follow(connection, reader, live=False)
            self.grace.expect(connection)
            return _OK

        def told(recovered: bool, begin_anew: bool) -> None:
            answer(Reply(errors.REPLY_OK, Recovered(recovered, begin_anew)))

        self._recovery.resume(connection, reader, command.cursor, told)
        self._rest(connection)
        return None

    def _choose_words(self, connection: Connection, full: bool) -> None:
        """Speak with a client as it can understand: all the words, or those of the original."""
        plain = connection.encoding
        if full == isinstance(plain.dialect, FullProtobufDialect):
            return
        other = self._full.get(plain)
        if other is None:
            other = Encoding(_FULL, plain.serve, plain.limit_bytes, plain.deflate_bits, plain.outbox_bytes)
            self._full[plain], self._full[other] = other, plain
        connection.encoding = other

    def _check(self, connection: Connection, command: ChatLogin) -> LoginDecision:
        """Whether the account, or the user of the app's own token, may log in; ``user`` says who it is."""
        app, name = self._logins.resolve(APP), connection.encoding.dialect.name
        if not self._logins.wants_tokens(app):
            return LoginDecision(errors.REPLY_UNAUTHORIZED)
        decision = self._logins.check(app, "", command.token, name, connection, command.device)
        if decision.ok and not account(decision.user):
            return LoginDecision(errors.REPLY_BAD_USER)
        return decision

    def _resting_until(self, minute: int) -> RestingReader:
        """What sessions at rest share whose tokens end in a minute of Unix time."""
        found = self._resting.get(minute)
        if found is None:
            if len(self._resting) >= MAX_MINUTES:
                self._resting.clear()
            found = self._resting[minute] = RestingReader(held=None, ends=minute)
        return found

    def _rest(self, connection: Connection) -> None:
        """A session that has caught up, and has nothing else to remember, shares with others what it has."""
        reader = connection.about
        if type(reader) is ChatReader and reader.live and not reader.groups and reader.last == (0, 0):
            connection.about = self._resting_until(reader.ends)

    def look(self, connection: Connection) -> None:
        """Close a session whose token has ended; asked about each of them by the sweep. Never switches.

        To have the loop end them, as those of other dialects, would cost each more memory than all else here.
        """
        reader = connection.about
        if isinstance(reader, CHAT_READERS) and 0 < reader.ends <= time() // 60:
            say(connection, errors.CLOSE_TOKEN_INVALID)

    # --- catching up ----------------------------------------------------------------------------------------

    def sync(self, connection: Connection, command: Command) -> Reply:
        """Answer with the messages behind a place. It switches.

        Whoever cannot be answered is closed: it would be told what is new, and never ask for the rest.
        """
        assert isinstance(command, ChatSync)
        self._expected_no_more(connection)
        after = min(command.after, MAX_ID)
        dialect, found = connection.encoding.dialect, list[tuple[int, bytes]]()
        assert isinstance(dialect, ProtobufDialect)
        full = isinstance(dialect, FullProtobufDialect)
        after = self.page_ends.begin(connection, after)
        try:
            anew = full and self._recovery.must_begin_anew(connection, after)
            place: int | None = after
            while place is not None:
                place = self._page(connection, dialect, place, command.limit or PAGE, anew, found)
        except StorageUnavailable as unavailable:
            log.info("a sync failed: %s", unavailable, extra={"connection": connection.peer})
            say(connection, errors.CLOSE_INTERNAL_ERROR)
        reader = connection.about
        if isinstance(reader, CHAT_READERS) and not (reader.live or full) and connection.state == OPEN:
            # It is expected to ask for the rest; what is new is kept back meanwhile.
            reader.held = list(reader.held or ())
            self.page_grace.expect(connection)
        self._rest(connection)
        return _OK

    def _page(
        self,
        connection: Connection,
        dialect: ProtobufDialect,
        after: int,
        limit: int,
        anew: bool,
        found: list[tuple[int, bytes]],
    ) -> int | None:
        """Add what stands behind a place to ``found``, and send that if it is a page, or all there is.

        What the client has no word for is passed over. None: sent; else the place behind which to go on.
        """
        last: int | None = None

        def answer(messages: list[Message], more: bool) -> bool:
            nonlocal last
            shown = ((message.id, dialect.shown(message)) for message in messages)
            found.extend([(place, data) for place, data in shown if data is not None])
            count = min(limit, page_bounds.fitting(len(data) for _, data in found))
            if more and messages and count == len(found) < limit:
                last = messages[-1].id
                return False
            more = more or count < len(found)
            connection.send(dialect.page([data for _, data in found[:count]], more, anew))
            asks_again = more and connection.state == OPEN and not isinstance(dialect, FullProtobufDialect)
            self.page_ends.come_to(connection, found[count - 1][0] if asks_again else 0)
            return not more

        self._messaging.sync(connection, after, limit, answer)
        return last

    def _pass_over(self, connection: Connection) -> None:
        """A session has not asked for the rest in time: it is told what is new, and given the rest later."""
        self.page_ends.pass_over(connection)
        self._release(connection)

    def _release(self, connection: Connection) -> None:
        """A session has not asked in time: it is told what is new."""
        if isinstance(connection.about, CHAT_READERS):
            self._messaging.release(connection)
            self._rest(connection)
