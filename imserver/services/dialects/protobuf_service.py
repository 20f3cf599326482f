"""The protobuf dialect: clients that log in with the token of their account, send stored messages, and sync.

A client's cursor is the greatest id that it has seen: an entry that is delivered before the client has synced
would hide the entries that it missed. So new entries are held until the client asks for a sync, or until its
sync deadline has passed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic, time
from typing import Final

import gevent
from msgspec.structs import replace

from imserver import errors
from imserver.auth.login import Logins
from imserver.auth.rules import LoginDecision
from imserver.errors import StorageUnavailable
from imserver.model import ChatLogin, ChatSync, Login, Message, Reply, Subscription
from imserver.protocol.protobuf import (
    APP,
    MAX_ID,
    FullProtobufDialect,
    ProtobufDialect,
    Recovered,
    account,
)
from imserver.services.dialects.protobuf_uplink import ProtobufState, ProtobufUplink
from imserver.services.messages.deliverer import fitting
from imserver.services.messages.messaging import Messaging
from imserver.services.messages.subscriptions import AckingSubscription
from imserver.services.sessions.sessions import Sessions, say
from imserver.transport.connection import OPEN, Connection, Encoding

log = logging.getLogger(__name__)

PAGE: Final = 50
"""Entries in the answer to one sync."""
_FULL: Final = FullProtobufDialect()
_OK: Final = Reply(errors.REPLY_OK)
HOLD_SECONDS: Final = 0.25
"""Sync deadline after a login. Clients that sync do so at once, without waiting for an answer; the others
are not to wait long for new entries."""
PAGE_SECONDS: Final = 5.0
"""Sync deadline after a page behind which there is more: the next request may come over a slow line."""
_TOGETHER: Final = 0.1
"""Connections that come within this part of the time are released together."""

Answer = Callable[[Reply], None]


class SyncDeadlines:
    """Owner of the connections that are expected to sync. ``release`` gets those that have not in time; it
    must not switch. The time counts from when the outbox of a connection is empty.
    """

    def __init__(self, release: Callable[[Connection], object], hold_seconds: float) -> None:
        self._release = release
        self._hold_seconds = hold_seconds
        self._together_seconds = hold_seconds * _TOGETHER
        self._expected: deque[tuple[float, set[Connection]]] = deque()
        """(deadline, connections), the latest last."""

    @property
    def idle(self) -> bool:
        """Whether no connection is expected to sync."""
        return not self._expected

    def expect(self, connection: Connection) -> None:
        """Start the deadline of a session. Never switches."""
        deadline = monotonic() + self._hold_seconds
        if self._expected and deadline < self._expected[-1][0] + self._together_seconds:
            self._expected[-1][1].add(connection)
            return
        self._expected.append((deadline, {connection}))
        if len(self._expected) == 1:
            gevent.spawn(self._run)

    def cancel(self, connection: Connection) -> None:
        """A session has synced, or is over. Never switches."""
        for _, some in self._expected:
            some.discard(connection)

    def _run(self) -> None:
        """Greenlet: release connections at their deadlines, until none is expected to sync."""
        while self._expected:
            # Connections that were added last have their whole time, too.
            left = self._expected[0][0] + self._together_seconds - monotonic()
            if left > 0:
                gevent.sleep(left)
                continue
            for connection in self._expected[0][1]:
                if connection.outbox is None:
                    self._release(connection)
                else:
                    self.expect(connection)
            self._expected.popleft()


class PageEnds:
    """Owner of the ids at which the last pages of clients ended that have more to ask for. Never switches.

    If something newer is delivered in between, the client will ask with its id, up to which it does not have
    everything: it gets what is behind its last page.
    """

    def __init__(self) -> None:
        self._asking: dict[Connection, int] = {}
        self._passed_over: dict[Connection, int] = {}

    @property
    def empty(self) -> bool:
        """Whether no client has more to ask for."""
        return not self._asking and not self._passed_over

    def begin(self, connection: Connection, after: int) -> int:
        """A client asks for what is behind an id. Returns the id behind which the next page begins."""
        self._asking.pop(connection, None)
        return min(after, self._passed_over.get(connection, after))

    def sent(self, connection: Connection, id: int) -> None:
        """It got a page that ends with this id; 0: there is no more."""
        ends = self._passed_over if connection in self._passed_over else self._asking
        if id:
            ends[connection] = id
        else:
            ends.pop(connection, None)

    def pass_over(self, connection: Connection) -> None:
        """New entries are delivered to it before it has asked for the rest."""
        if connection in self._asking:
            self._passed_over[connection] = self._asking.pop(connection)

    def forget(self, connection: Connection) -> None:
        """It is over."""
        self._asking.pop(connection, None)
        self._passed_over.pop(connection, None)


class ProtobufService:
    """Carries out the commands of the dialect. Owner of :class:`ProtobufState`, and of the sync deadlines:
    after a login, and after a page behind which there is more (``page_deadlines``).
    """

    def __init__(
        self,
        sessions: Sessions,
        logins: Logins,
        messaging: Messaging,
        uplink: ProtobufUplink,
    ) -> None:
        self._sessions = sessions
        self._logins = logins
        self._catch_up = messaging.catch_up
        self._uplink = uplink
        self.deadlines = SyncDeadlines(self._release, HOLD_SECONDS)
        self.page_deadlines = SyncDeadlines(self._pass_over, PAGE_SECONDS)
        self._full: dict[Encoding, Encoding] = {}
        """Plain encoding ↔ encoding of clients that log in with a cursor."""
        self.page_ends = PageEnds()

    def ended(self, connection: Connection) -> None:
        """A connection is over. Never switches."""
        self._uplink.ended(connection)
        self._cancel_deadlines(connection)
        self.page_ends.forget(connection)

    def _cancel_deadlines(self, connection: Connection) -> None:
        self.deadlines.cancel(connection)
        self.page_deadlines.cancel(connection)

    # --- logging in -----------------------------------------------------------------------------------------

    def login(self, connection: Connection, command: ChatLogin, answer: Answer) -> Reply | None:
        """Begin the session of the account that the token names. It may switch.

        When it is answered with 200 the user is reachable on this connection. A refused login may be tried
        again, unless the user is online already: then the connection is closed.
        """
        if connection.user is not None:
            return Reply(errors.REPLY_FAILED)
        self._choose_dialect(connection, command.cursor >= 0)
        kicks = self._sessions.kicks.count
        try:
            decision = self._check(connection, command)
            if not decision.ok:
                if decision.final or decision.code == errors.REPLY_SYSTEM:
                    # Without an answer the client would wait for ever.
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
            # Without an answer the client would wait for ever.
            log.info("a login failed: %s", unavailable, extra={"connection": connection.peer})
            say(connection, errors.CLOSE_INTERNAL_ERROR)
            return Reply(errors.REPLY_SYSTEM)

    def _begin(
        self, connection: Connection, command: ChatLogin, expires_at: int, answer: Answer
    ) -> Reply | None:
        """Have a session follow the log."""
        acks = command.cursor >= 0 and command.acks
        subscription = AckingSubscription(held=[]) if acks else Subscription(held=[])
        connection.dialect_state = ProtobufState(ends=expires_at // 60 + 1 if expires_at else 0)
        if command.cursor < 0:
            self._catch_up.subscribe(connection, subscription, live=False)
            self.deadlines.expect(connection)
            return _OK

        def told(recovered: bool, begin_anew: bool) -> None:
            answer(Reply(errors.REPLY_OK, Recovered(recovered, begin_anew)))

        self._catch_up.resume(connection, subscription, command.cursor, told)
        return None

    def _choose_dialect(self, connection: Connection, full: bool) -> None:
        """Use the full dialect for clients that log in with a cursor, else that of the original."""
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

    def check_token(self, connection: Connection) -> None:
        """Close a session whose token has ended; called by the sweep for each of them. Never switches.

        A timer for each, as in other dialects, would cost more memory than all else here.
        """
        state = connection.dialect_state
        if isinstance(state, ProtobufState) and 0 < state.ends <= time() // 60:
            say(connection, errors.CLOSE_TOKEN_INVALID)

    # --- catch-up -------------------------------------------------------------------------------------------

    def sync(self, connection: Connection, command: ChatSync) -> Reply:
        """Answer with the messages behind an id. It switches.

        A connection that cannot be answered is closed: it would receive new entries, and never ask for the
        rest.
        """
        self._cancel_deadlines(connection)
        after = min(command.after, MAX_ID)
        dialect, found = connection.encoding.dialect, list[tuple[int, bytes]]()
        assert isinstance(dialect, ProtobufDialect)
        full = isinstance(dialect, FullProtobufDialect)
        after = self.page_ends.begin(connection, after)
        try:
            anew = full and self._catch_up.must_begin_anew(connection, after)
            behind: int | None = after
            while behind is not None:
                behind = self._page(connection, dialect, behind, command.limit or PAGE, anew, found)
        except StorageUnavailable as unavailable:
            log.info("a sync failed: %s", unavailable, extra={"connection": connection.peer})
            say(connection, errors.CLOSE_INTERNAL_ERROR)
        subscription = connection.subscription
        if subscription is not None and not (subscription.live or full) and connection.state == OPEN:
            # It is expected to ask for the rest; new entries are held meanwhile.
            subscription.held = list(subscription.held or ())
            self.page_deadlines.expect(connection)
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
        """Add the entries behind an id to ``found``, and send them if they fill a page, or are all there are.

        Entries that the client cannot express are skipped. None: sent; else the id behind which to go on.
        """
        last: int | None = None

        def answer(messages: list[Message], more: bool) -> bool:
            nonlocal last
            encoded = ((message.id, dialect.encode_entry(message)) for message in messages)
            found.extend([(id, data) for id, data in encoded if data is not None])
            count = min(limit, fitting(len(data) for _, data in found))
            if more and messages and count == len(found) < limit:
                last = messages[-1].id
                return False
            more = more or count < len(found)
            connection.send(dialect.page([data for _, data in found[:count]], more, anew))
            asks_again = more and connection.state == OPEN and not isinstance(dialect, FullProtobufDialect)
            self.page_ends.sent(connection, found[count - 1][0] if asks_again else 0)
            return not more

        self._catch_up.sync(connection, after, limit, answer)
        return last

    def _pass_over(self, connection: Connection) -> None:
        """A session has not asked for the rest in time: it gets new entries now, and the rest later."""
        self.page_ends.pass_over(connection)
        self._release(connection)

    def _release(self, connection: Connection) -> None:
        """A session has not synced in time: it gets new entries."""
        self._catch_up.release(connection)
