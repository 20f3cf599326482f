"""The protobuf dialect: clients log in with an account token, send stored
messages, and sync.

A client's cursor is the greatest id that it has received. An entry that is
delivered before the client has synced would hide the entries that the client
has missed. Therefore new entries wait until the client asks for a sync, or
until its sync deadline has passed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING, Final

import gevent
from msgspec import Struct, field
from msgspec.structs import replace

from imserver.dialects.protobuf.declared import ProtobufSettings
from imserver.dialects.protobuf.uplink import ProtobufState, ProtobufUplink
from imserver.dialects.protobuf.wire import (
    APP,
    FULL,
    PLAIN,
    ChatLogin,
    ChatMessage,
    ChatSync,
    FullProtobufDialect,
    ProtobufDialect,
    Recovered,
    account_number,
)
from imserver.plugin.errors import CloseCode, ReplyCode, StorageUnavailable
from imserver.plugin.identity import LoginDecision
from imserver.plugin.messages import Message, Messaging, count_fitting
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of
from imserver.plugin.wire import (
    CommandRow,
    CommandTable,
    Connection,
    Limit,
    Login,
    Reply,
    app_and_user,
)

if TYPE_CHECKING:
    from imserver.dialects.protobuf import chat_pb2 as pb

log = logging.getLogger(__name__)

PAGE: Final = 50
"""The most entries in the answer to one sync."""
HOLD_SECONDS: Final = 0.25
"""Sync deadline after a login. It is short because most clients sync at once,
and the other clients should not wait long for entries."""
PAGE_SECONDS: Final = 5.0
"""Sync deadline after a page that is not the last. The next request may come
over a slow line."""


_SHARE_TOGETHER: Final = 0.1
"""If the deadlines of connections differ by at most this share of the time, the
connections are released together."""
_MINUTE_SECONDS: Final = 60


class SyncDeadlines:
    """The connections whose clients are expected to sync, with their deadlines.

    New entries wait until a client has synced. ``release`` is called with each
    connection that has not synced in time, so that the connection gets the new
    entries anyway. ``release`` must not switch greenlets. The time starts when
    the outbox of the connection is empty.
    """

    def __init__(
        self, release: Callable[[Connection], object], hold_seconds: float
    ) -> None:
        """Begin without connections. ``hold_seconds`` is the time from the call
        of :meth:`expect` to the deadline."""
        self.release = release
        self._hold_seconds = hold_seconds
        self._together_seconds = hold_seconds * _SHARE_TOGETHER
        self.expected: deque[tuple[float, set[Connection]]] = deque()
        """(deadline, connections) in the order of the deadlines."""

    def expect(self, connection: Connection) -> None:
        """Start the deadline of a session. Never switches greenlets."""
        deadline = monotonic() + self._hold_seconds
        # Connections with almost the same deadline share one set. A rush of
        # logins then needs few timers.
        if self.expected:
            last_deadline, connections = self.expected[-1]
            if deadline < last_deadline + self._together_seconds:
                connections.add(connection)
                return
        self.expected.append((deadline, {connection}))
        if len(self.expected) == 1:
            gevent.spawn(self._release_late)

    def cancel(self, connection: Connection) -> None:
        """End the deadline of a session that has synced or ended. Never
        switches greenlets."""
        for _, connections in self.expected:
            connections.discard(connection)

    def _release_late(self) -> None:
        """Release connections at their deadlines, until no connection is
        expected to sync. This is a greenlet of its own."""
        while self.expected:
            # The connections that were added last get their full time, too.
            deadline, connections = self.expected[0]
            seconds = deadline + self._together_seconds - monotonic()
            if seconds > 0:
                gevent.sleep(seconds)
                continue
            self._release_each(connections)
            self.expected.popleft()

    def _release_each(self, connections: set[Connection]) -> None:
        """Release these connections, and empty the set.

        A connection that still has bytes to write gets a new deadline, because
        its client cannot have read the last entries yet.
        """
        # This is not a for loop, because a release may end other connections
        # and so remove them from the set.
        while connections:
            connection = connections.pop()
            if connection.outbox is not None:
                self.expect(connection)
                continue
            try:
                self.release(connection)
            except Exception:
                log.exception("ending the sync deadline of a client failed")


class PageEnds:
    """The positions of clients that read missed entries page by page.

    A client continues from the greatest id that it has received. If a newer
    entry is delivered between two pages, the client would continue after this
    entry, and would miss the entries before it. Therefore this table has the id
    at which each client continues. Never switches greenlets.
    """

    def __init__(self) -> None:
        self.ends: dict[Connection, tuple[int, bool]] = {}
        """Connection → the last id, and whether a newer entry was delivered
        after it."""

    def begin(self, connection: Connection, after: int) -> int:
        """Handle a request for the entries after an id.

        Returns the id after which the next page begins. This is ``after``. If
        newer entries were delivered before the client had all older entries, it
        is the end of the last page.
        """
        end, passed_over = self.ends.get(connection, (after, False))
        if passed_over:
            return min(after, end)
        self.ends.pop(connection, None)
        return after

    def sent(self, connection: Connection, id: int) -> None:
        """Store the last id of a page that was sent. 0 means that the client
        has all entries."""
        _, passed_over = self.ends.pop(connection, (0, False))
        if id:
            self.ends[connection] = id, passed_over

    def forget(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.ends.pop(connection, None)


class _SyncAnswer(Struct, eq=False):
    """The answer to a sync, while it is collected.

    The log may have to be read several times for one answer, because this
    dialect cannot express some entries. ``limit``: the number of entries that
    fill the answer. ``behind``: the id after which the log is read next; None
    if the log need not be read again. ``entries``: the entries for the client,
    each with its id. ``anew``: whether the client must discard its entries and
    read them again from the beginning.
    """

    connection: Connection
    dialect: ProtobufDialect
    page_ends: PageEnds
    limit: int
    behind: int | None
    entries: list[tuple[int, pb.Message]] = field(default_factory=list)
    anew: bool = False

    def take(self, messages: list[Message], more: bool, anew: bool) -> bool:
        """Add entries that were read from the log, and send the answer if it is
        complete.

        The answer is complete if it is full, or if the log has no ``more``
        entries. Otherwise the method sets ``behind``, after which the log is
        read next. Returns whether the client has all entries now.
        """
        self.anew = self.anew or anew
        for message in messages:
            entry = self.dialect.encode_entry(message)
            if entry is not None:
                self.entries.append((message.id, entry))
        # A frame has a maximum size, so fewer entries than the limit may fit.
        sizes = (entry.ByteSize() for _, entry in self.entries)
        count = min(self.limit, count_fitting(sizes))
        if more and messages and count == len(self.entries) < self.limit:
            self.behind = messages[-1].id
            return False

        more = more or count < len(self.entries)
        page = [entry for _, entry in self.entries[:count]]
        self.connection.send(self.dialect.page(page, more, self.anew))
        # Clients of the full dialect name their own position in each request.
        is_full_dialect = isinstance(self.dialect, FullProtobufDialect)
        asks_again = more and self.connection.is_open and not is_full_dialect
        if asks_again:
            last_id = self.entries[count - 1][0]
        else:
            last_id = 0
        self.page_ends.sent(self.connection, last_id)
        return not more


class ProtobufService:
    """The commands of the dialect: logins and syncs. Messages go to the uplink.

    The service also keeps the sync deadlines of its clients. A client has a
    deadline after a login, and after each page of missed entries except the
    last page.
    """

    def __init__(
        self, core: Core, messaging: Messaging, uplink: ProtobufUplink
    ) -> None:
        """Take the services of the core and the messenger."""
        self._plain = core.codec(PLAIN)
        self._full = core.codec(FULL)
        self._sessions = core.sessions
        self._logins = core.logins
        self._catch_up = messaging.catch_up
        self._silent_seconds = settings_of(
            core.config, ProtobufSettings
        ).protobuf_silent_seconds
        self._uplink = uplink
        # A client that does not sync after its login wants only new entries. A
        # client that does not ask for the next page gets new entries before the
        # old ones.
        self.deadlines = SyncDeadlines(self._catch_up.release, HOLD_SECONDS)
        self.page_deadlines = SyncDeadlines(self._pass_over, PAGE_SECONDS)
        self.page_ends = PageEnds()

    def commands(self) -> CommandTable:
        """The commands that this service carries out."""
        return {
            ChatLogin: CommandRow(self.login, needs_session=False, answers=True),
            ChatMessage: CommandRow(self._uplink.send),
            ChatSync: CommandRow(self.sync),
        }

    def ended(self, connection: Connection, _code: int) -> None:
        """Handle the end of a connection. Never switches greenlets."""
        self._uplink.ended(connection)
        self._cancel_deadlines(connection)
        self.page_ends.forget(connection)

    def _cancel_deadlines(self, connection: Connection) -> None:
        """End the sync deadlines of a connection."""
        self.deadlines.cancel(connection)
        self.page_deadlines.cancel(connection)

    # --- logging in -----------------------------------------------------------

    def login(
        self,
        connection: Connection,
        command: ChatLogin,
        answer: Callable[[Reply], None],
    ) -> Reply | None:
        """Begin a session of the account that the token names.

        After the reply 200 the user can be reached on this connection. After a
        refusal the client may try again; if another try cannot help, the
        connection is closed. Returns None if ``answer`` sends the reply. May
        switch greenlets.
        """
        if connection.user is not None:
            self._logins.refused(
                "again", connection.app or "", connection.user, connection.peer
            )
            return Reply(ReplyCode.FAILED)

        # Clients that log in with a cursor speak the full dialect, others the
        # dialect of the original.
        dialect = self._full if command.cursor >= 0 else self._plain
        connection.encoding = connection.encoding.with_dialect(dialect)
        # The kicks are counted before the decision, which may switch greenlets.
        # So a user who is kicked meanwhile does not begin a session.
        kicks = self._sessions.kicks.count
        try:
            decision = self._check(connection, command)
            if not decision.ok:
                if decision.final or decision.code == ReplyCode.SYSTEM:
                    # Without an answer the client would wait for ever.
                    connection.close(decision.close)
                return Reply(decision.code)
            # The end of the token is kept in the state of this dialect, which
            # takes less memory. So the core gets no end.
            login = Login(APP, decision.user, command.token, command.device)
            code = self._sessions.login(
                connection, login, decision=replace(decision, expires_at=0), kicks=kicks
            )
            if code != ReplyCode.OK:
                return Reply(code)
            return self._begin(connection, command, decision.expires_at, answer)
        except StorageUnavailable as unavailable:
            return self._refuse_undecided(connection, unavailable)

    def _refuse_undecided(
        self, connection: Connection, unavailable: StorageUnavailable
    ) -> Reply:
        """Refuse a login because the database does not answer, and close the
        connection. Without an answer the client would wait for ever."""
        self._logins.refused("undecided", APP, "", connection.peer, str(unavailable))
        connection.close(CloseCode.INTERNAL_ERROR)
        return Reply(ReplyCode.SYSTEM)

    def _begin(
        self,
        connection: Connection,
        command: ChatLogin,
        expires_at: int,
        answer: Callable[[Reply], None],
    ) -> Reply | None:
        """Subscribe a new session to the log.

        Returns the reply to a login without a cursor. For a login with a
        cursor, returns None: ``answer`` sends the reply, and the missed entries
        follow. ``expires_at``: the end of the token (Unix seconds; 0: no end).
        May switch greenlets. Raises StorageUnavailable.
        """
        state = ProtobufState()
        # The end is stored in minutes, rounded up, so that it fits into 32
        # bits.
        if expires_at:
            state.end_and_session = expires_at // _MINUTE_SECONDS + 1
        connection.dialect_state = state
        if command.cursor < 0:
            app, user = app_and_user(connection)
            self._catch_up.collect(connection)
            if not connection.device and self._sessions.replaces_older(app):
                # GoChat's clients learn from the next sync which of their
                # messages they must send again.
                state.begin_uplink(self._uplink.begin(app, user))
            self.deadlines.expect(connection)
            return Reply.OK

        def answer_login(recovered: bool, begin_anew: bool) -> None:
            """Tell the client whether its missed entries follow."""
            answer(Reply(ReplyCode.OK, Recovered(recovered, begin_anew)))

        self._catch_up.resume(
            connection, command.cursor, command.acks, answer_login, collects=True
        )
        return None

    def _check(self, connection: Connection, command: ChatLogin) -> LoginDecision:
        """Decide whether a user may log in.

        The token belongs to an account, or is a token of the app itself with
        the id of an account as its user. Refusals are counted. May switch
        greenlets.
        """
        app = self._logins.resolve(APP)
        name = connection.encoding.dialect.name
        if not self._logins.wants_tokens(app):
            self._logins.refused(
                "closed", app, "", connection.peer, "the app has no tokens of users"
            )
            return LoginDecision(ReplyCode.UNAUTHORIZED)

        decision = self._logins.check(
            app, "", command.token, name, connection, command.device
        )
        # The cached function is not used here, because users who only receive
        # would take places in its cache.
        if decision.ok and not account_number(decision.user):
            return self._refuse_user(connection, app, decision.user)
        return decision

    def _refuse_user(
        self, connection: Connection, app: str, user: str
    ) -> LoginDecision:
        """Refuse a user if no account can have the user's id."""
        self._logins.refused(
            "user", app, user, connection.peer, "expected the id of an account"
        )
        return LoginDecision(ReplyCode.BAD_USER)

    def check(self, connection: Connection) -> float:
        """Close a session whose token has expired. This is the regular check of
        a connection.

        Returns the seconds without traffic after which the caller closes the
        connection. Never switches greenlets. There is no timer for each
        session, because it would use more memory than the rest of the session.
        """
        state = connection.dialect_state
        if (
            isinstance(state, ProtobufState)
            and 0 < state.ends <= time() // _MINUTE_SECONDS
        ):
            connection.close(CloseCode.TOKEN_INVALID)
        return self._silent_seconds

    # --- catch-up -------------------------------------------------------------

    def sync(self, connection: Connection, command: ChatSync) -> Reply:
        """Send the entries after an id: a full page, or all entries that are
        left.

        Entries that the client cannot express are skipped. If no answer is
        possible, the connection is closed. Otherwise the client would receive
        new entries, and would never request the missed entries. Switches
        greenlets.
        """
        self._cancel_deadlines(connection)
        dialect = connection.encoding.dialect
        assert isinstance(dialect, ProtobufDialect)
        is_full_dialect = isinstance(dialect, FullProtobufDialect)
        page_start = self.page_ends.begin(connection, min(command.after, Limit.ID))
        answer = _SyncAnswer(
            connection,
            dialect,
            self.page_ends,
            command.limit or PAGE,
            behind=page_start,
        )
        try:
            while answer.behind is not None:
                after = answer.behind
                answer.behind = None  # the answer sets it if it is not full
                self._catch_up.sync(
                    connection, after, answer.limit, answer.take, checks=is_full_dialect
                )
        except StorageUnavailable as unavailable:
            _end_sync(connection, unavailable)

        if not is_full_dialect:
            self._expect_next_page(connection)
        return Reply.OK

    def _expect_next_page(self, connection: Connection) -> None:
        """If the client has not received all entries yet, let new entries wait
        until it has requested the rest."""
        log_subscription = connection.log_subscription
        if (
            log_subscription is not None
            and not log_subscription.live
            and connection.is_open
        ):
            log_subscription.backlog = list(log_subscription.backlog or ())
            self.page_deadlines.expect(connection)

    def _pass_over(self, connection: Connection) -> None:
        """Deliver new entries to a session that has not requested the next page
        in time.

        The session gets the older entries later, when the client requests them.
        """
        ends = self.page_ends.ends
        if connection in ends:
            last_id, _ = ends[connection]
            ends[connection] = last_id, True  # newer entries were delivered
        self._catch_up.release(connection)


def _end_sync(connection: Connection, unavailable: StorageUnavailable) -> None:
    """Close a connection whose entries cannot be read now."""
    log.info("a sync failed: %s", unavailable, extra={"connection": connection.peer})
    connection.close(CloseCode.INTERNAL_ERROR)
