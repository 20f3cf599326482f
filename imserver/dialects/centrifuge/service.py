"""The centrifuge dialect: clients of Centrifugo log in with a token of the app,
and use channels.

If the app is open, a client without a token becomes a connection without a
user. A token can renew a session or a subscription until :data:`GRACE_SECONDS`
after its end. A back end of the app (``back_ends``) can decide about
connections without a token, and renew sessions and subscriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from functools import partial
from math import ceil
from sys import intern
from time import monotonic, time
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import unquote

import gevent
import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from imserver.dialects.centrifuge import codes
from imserver.dialects.centrifuge.claims import (
    ConnectionClaims,
    ConnectionRequest,
    SubscriptionClaims,
    connection_request,
    decode_connection,
)
from imserver.dialects.centrifuge.declared import (
    CentrifugeSettings,
    subscribes_to_own_channel,
    takes_anonymous_tokens,
)
from imserver.dialects.centrifuge.wire import (
    ALIAS,
    BY_ALIAS,
    PERSONAL,
    USER_CHANNEL,
    AskPresenceStats,
    CallMethod,
    CentrifugeDialect,
    CentrifugeLogin,
    ClientView,
    ConnectResult,
    HistoryResult,
    OwnChannel,
    PresenceStatsResult,
    RefreshLogin,
    RefreshResult,
    RefreshSubscription,
    SubRefreshResult,
    SubscribeResult,
    own_method,
    publication_of,
)
from imserver.plugin.errors import CloseCode, ReplyCode, StorageUnavailable
from imserver.plugin.identity import (
    BackEndCall,
    BackEndRefused,
    BackEndUnavailable,
    BadToken,
    LoginDecision,
    TokenExpired,
    token_end,
)
from imserver.plugin.runtime import is_long_turn, serve_others
from imserver.plugin.services import (
    ChannelAnswers,
    ChannelMember,
    ChannelRefused,
    Core,
    Position,
    Subscribed,
)
from imserver.plugin.settings import ChannelSettings, settings_of
from imserver.plugin.wire import (
    AskHistory,
    AskPresence,
    ChannelPart,
    CommandRow,
    CommandTable,
    Connection,
    Dialect,
    Event,
    Head,
    Limit,
    Login,
    Partial,
    Refused,
    Reply,
    Stream,
    Subscribe,
)

if TYPE_CHECKING:
    from imserver.plugin.messages import Messaging

NAME: Final = "centrifuge"
GRACE_SECONDS: Final = 25
"""How long a client may still renew a token that has expired. Clients begin to
renew at its end."""
RENEWAL_SECONDS: Final = 60
"""If a back end has not renewed a session or a subscription, it is asked again
after this time."""
_MAX_CHOICES: Final = 100
"""The most channels that a request to connect may name. Each can cost a query
to the database."""
_ENCODED_TOGETHER: Final = 500
"""The most subscribers in a part of an answer. To encode so many as protobuf
takes about 2 ms on a busy machine."""
CLOSE_INSUFFICIENT_STATE: Final = 3010
"""Close code after which the client connects again and recovers."""
CLOSE_SUBSCRIPTION_EXPIRED: Final = 3006
CLOSE_INVALID_TOKEN: Final = 3500
"""Close code after which the client does not connect again."""
CLOSE_BAD_REQUEST: Final = 3501
_SEGMENTS_WITHOUT_APP: Final = 3
"""The number of segments of ``/connection/websocket``, including the empty
first one. A path with more segments names an app."""
_MOST_TTL: Final = 2**31 - 1
"""The longest time to live, because clients read a number of 32 bits."""
REFUSALS: Final = {
    reason: Reply(code, why=reason)
    for reason, code in {
        "name": codes.BAD_DATA,
        "unknown": codes.UNKNOWN_CHANNEL,
        "denied": codes.PERMISSION_DENIED,
        "expired": codes.TOKEN_EXPIRED,
        "full": codes.LIMIT_EXCEEDED,
        "limit": codes.LIMIT_EXCEEDED,
        "rate": codes.TOO_MANY_REQUESTS,
        "exists": codes.ALREADY_SUBSCRIBED,
        "ended": codes.INTERNAL,
        "unavailable": codes.INTERNAL,
        "not_available": codes.NOT_AVAILABLE,
        "unrecoverable": codes.UNRECOVERABLE,
    }.items()
}
"""Reason of a :class:`ChannelRefused` → the error that the client gets."""


class ConnectAnswer(ConnectionClaims, frozen=True):
    """The answer of a back end that admits a client without a token.

    The answer has the fields of a token of Centrifugo, and also the user. An
    empty ``user`` admits the client without an account. ``expire_at`` is the
    end of the session in Unix seconds (None or 0: it does not end).
    """

    user: str = ""
    expire_at: int | float | None = None


class _Admission(Struct, frozen=True):
    """The result of a login that is admitted or refused, and what the session
    begins with.

    ``claims``: facts about the client, from its verified token or from the back
    end. ``end``: when the client must renew the claims (Unix seconds; 0:
    never). ``requested``: the channels that a client of an open app names in
    its token. Nobody has verified this token.
    """

    decision: LoginDecision
    claims: ConnectionClaims = ConnectionClaims()
    end: int = 0
    requested: frozenset[str] = frozenset()


class _PersonalChannel(Struct, frozen=True):
    """The channel of the user who logs in, for example ``user:alice``. Clients
    know it as ``alias``, for example ``#alice``.

    ``name``: the name of the channel on the server. ``""`` means that this
    client does not get the channel. ``has_options``: whether the app has
    options for such channels. If it does, the client subscribes to the channel
    as to any other channel. Otherwise publications are not stored, and the
    client only receives them.
    """

    alias: str
    name: str = ""
    has_options: bool = False

    @property
    def is_subscribed(self) -> bool:
        """Whether the client is a member of the channel."""
        return self.name != "" and self.has_options


class _WantedChannels(Struct):
    """The channels to which a login subscribes its client.

    ``claims``: channel → the claims of the token or the back end about it.
    ``positions``: channel → the position from which the client recovers. Other
    channels are new to the client.
    """

    claims: dict[str, SubscriptionClaims]
    positions: dict[str, Position]

    def add(self, channel: str, position: Position | None) -> None:
        """Add a channel about which no token has claims.

        ``position``: the position from which the client recovers. None means
        that the client begins anew.
        """
        self.claims[channel] = SubscriptionClaims()
        if position is not None:
            self.positions[channel] = position


class RenewalAnswer(Partial, frozen=True):
    """The answer of a back end that was asked to renew a session or a
    subscription.

    ``expired``: whether the session or subscription ends now. ``expire_at``:
    the new end in Unix seconds (0: never). ``info`` and ``meta`` replace the
    data about the client; ``b64info`` is ``info`` in Base64.
    """

    expired: bool = False
    expire_at: int = 0
    info: Raw | UnsetType = UNSET
    b64info: str = ""
    meta: Raw | UnsetType = UNSET
    caps: Raw | UnsetType = UNSET

    not_supported: ClassVar[tuple[str, ...]] = ("caps",)
    in_base64: ClassVar[tuple[str, ...]] = ("info",)


class RpcResult(Partial, frozen=True):
    """The result of a method that a back end has carried out for a client. It
    is either JSON (``data``) or bytes in Base64 (``b64data``)."""

    data: Raw | UnsetType = UNSET
    b64data: str = ""

    in_base64: ClassVar[tuple[str, ...]] = ("data",)


class SubscriptionAbout(Struct, frozen=True, array_like=True):
    """A subscription that a back end makes: JSON about the client, JSON for the
    client, and the end (Unix time; 0: none)."""

    info: bytes = b""
    data: bytes = b""
    expires_at: int = 0


class RefreshConnection(Struct, frozen=True, array_like=True):
    """Set the end of the session of a connection on the queried node to
    ``expires_at`` (0: never). ``info``: JSON for others (``b""``: as before).
    The answer tells whether the connection exists."""

    app: str
    connection: str
    expires_at: int
    info: bytes = b""


_UNFOLLOWED: Final = 4


class CentrifugeState(OwnChannel, gc=False):
    """The state of this dialect for the client of a connection.

    ``app``: the app that the path of its URL names, until its login. ``ends``:
    when the tokens of its subscriptions end (None: no token ends).
    ``expires_at``: when the back end must renew its session (0: never).
    ``by_server``: the channels to which the server has subscribed the client,
    including channels that the client has left (None: no channels).
    ``by_token``: the channels that its token has named. The mark
    :data:`_UNFOLLOWED` means that the log was unavailable at the login.
    """

    app: str = ""
    ends: dict[str, int] | None = None
    expires_at: int = 0
    by_server: set[str] | None = None
    by_token: frozenset[str] = frozenset()

    def resubscribes(self, _channel: str) -> bool:
        """Always true: every client of this dialect subscribes again."""
        return True

    def reconnects(self, channel: str) -> bool:
        """Whether the client must reconnect to get a subscription back.

        SDKs forget a subscription that the server has made as soon as it ends.
        The login makes it again.
        """
        return self.by_server is not None and channel in self.by_server

    def receives_own_joins(self) -> bool:
        """Always true, as in Centrifugo."""
        return True


class CentrifugeAnswers(ChannelAnswers):
    """The answers to commands on channels, in the form of Centrifugo.

    The core carries out the commands for all dialects. It calls these methods
    for the things that differ between dialects: errors, replies, names of
    channels and the ends of subscriptions.
    """

    dialect = NAME

    def __init__(self, core: Core) -> None:
        self._back_ends = core.back_ends

    def channel_of(self, connection: Connection, name: str) -> str:
        """The channel that a client calls ``name``.

        A user may call their own channel by an alias: for ``alice``, ``#alice``
        means ``user:alice``. All other names mean themselves.
        """
        user = connection.user
        if user and name == f"{ALIAS}{user}":
            return f"{USER_CHANNEL}{user}"
        return name

    def receives(self, connection: Connection, channel: str) -> bool:
        """Whether a client gets the publications of ``channel`` without a
        subscription.

        This is true for the user's own channel, such as ``#alice``, if the app
        has no options for such channels. Then the server sends these
        publications without a subscription.
        """
        state = connection.dialect_state
        has_own_channel = (
            isinstance(state, CentrifugeState) and state.personal and not state.by_alias
        )
        return has_own_channel and channel == f"{ALIAS}{connection.user}"

    def state_of(self, connection: Connection) -> CentrifugeState:
        """The state that :meth:`CentrifugeService.opened` made."""
        return _state_of(connection)

    def refused(self, refused: ChannelRefused) -> Reply:
        """The error reply for a refused command.

        If the back end has refused it, the client gets the error of the back
        end. Otherwise it gets the error of Centrifugo for the reason.
        """
        if refused.error is not None:
            return Reply(codes.PERMISSION_DENIED, refused.error, refused.reason)
        return REFUSALS[refused.reason]

    def are_renewed(self, app: str, options: ChannelSettings) -> bool:
        """Whether the back end renews the subscriptions to channels with these
        options.

        If the back end renews them, the client need not renew its subscription,
        and is not told when the subscription ends. Never switches greenlets.
        """
        return options.subscribe == "back_end" and self._back_ends.has(
            app, "sub_refresh"
        )

    def subscribed(
        self,
        connection: Connection,
        command: Subscribe,
        subscription: Subscribed,
        data: Raw | UnsetType,
        end: int,
    ) -> Reply:
        """The answer to a subscription, with the position of the channel.

        The client gets the position if it wants to recover later or asks for
        it, or if the options of the channel force recovery. ``data`` is JSON of
        the back end for the client. ``end`` is when the subscription must be
        renewed (Unix seconds; 0: never).
        """
        options = subscription.options
        recoverable = options.may_recover and (command.recoverable or options.recovery)
        result = _result(
            subscription,
            recoverable,
            options.may_recover and command.recover,
            command.positioned,
        )
        result.data = data

        channel = subscription.local.name
        # A client renews its subscription only if it is told that there is an
        # end.
        if end and not self.are_renewed(connection.app or "", options):
            result.expires = True
            result.ttl = _ttl(end)

        state = _state_of(connection)
        if channel == self.channel_of(connection, f"{ALIAS}{connection.user}"):
            # This is the channel of the user. If the client has subscribed by
            # the alias, it gets the publications under the alias.
            by_alias = channel != command.channel
            state.mark(BY_ALIAS, by_alias)
            state.mark(PERSONAL, by_alias or state.personal)
        # Until now, the server may have subscribed the client to this channel.
        # Now the client has subscribed by itself. So it can subscribe again
        # without a new connection.
        if state.by_server:
            state.by_server.discard(channel)
        if end or state.ends:
            _set_end(state, channel, end)
        return Reply(ReplyCode.OK, result)

    def unsubscribed(self, connection: Connection, channel: str) -> None:
        """Forget the end of a subscription: its token need not be renewed."""
        _set_end(_state_of(connection), channel, 0)

    def presence(
        self,
        dialect: Dialect,
        command: AskPresence,
        members: Sequence[ChannelMember],
        total: int,
        after: str,
    ) -> Reply:
        """The reply with all subscribers of a channel.

        There may be many thousands of subscribers. So the reply is encoded in
        parts. Between two parts this method switches greenlets, and other
        clients are served.
        """
        assert isinstance(dialect, CentrifugeDialect)
        parts = []
        for first in range(0, len(members), _ENCODED_TOGETHER):
            views = infos_of_members(members[first : first + _ENCODED_TOGETHER])
            parts.append(dialect.encode_clients(views))
            if is_long_turn():
                serve_others()
        return Reply(ReplyCode.OK, dialect.join_clients(parts))

    def history(
        self,
        dialect: Dialect,
        _command: AskHistory,
        publications: Sequence[Event],
        position: Position,
    ) -> Raw:
        """The reply to a request for history: publications, and the newest
        position."""
        assert isinstance(dialect, CentrifugeDialect)
        return dialect.encode_history(history_view(publications, position))


class CentrifugeService:
    """The commands of the dialect that are not about one channel: logins,
    renewals and calls of methods of the back end.

    It owns the :class:`CentrifugeState` of each connection. ``messaging`` is
    None on a node without stored messages.
    """

    def __init__(
        self, core: Core, answers: CentrifugeAnswers, messaging: Messaging | None
    ) -> None:
        """Take the services of the core, and register for what they report.

        The service wants to know who was subscribed by a back end, who has left
        a channel, and which sessions another node wants to change.
        """
        self._sessions = core.sessions
        self._logins = core.logins
        self._channels = core.channels
        self._commands = core.channel_commands
        self._consent = core.consent
        self._answers = answers
        self._back_ends = core.back_ends
        self._connections = core.connections
        if messaging is None:
            self._catch_up = None
        else:
            self._catch_up = messaging.catch_up
        self._settings = core.tenants.get
        config = core.config
        self._default_app = settings_of(config, CentrifugeSettings).app
        self._version = f"imserver {core.node.version}"
        # Clients expect whole seconds, and 0 would mean no pings.
        self._ping = max(1, ceil(config.websocket.client_ping_seconds))
        self._run = core.dispatcher.run
        # Other parts of the core call these functions from now on.
        self._connections.report_to(self._joined)
        self._channels.members.report_to(parted=_parted)
        core.queries.add("refresh", RefreshConnection, self._set_session_end)

    def commands(self) -> CommandTable:
        """The commands that this service carries out, with their functions.

        ``needs_session=False``: the command is also allowed before the login.
        ``answers=True``: the function itself sends the reply, with the callable
        that it gets.
        """
        return {
            CentrifugeLogin: CommandRow(self.login, needs_session=False, answers=True),
            RefreshLogin: CommandRow(self.refresh, without_user=True),
            RefreshSubscription: CommandRow(
                self.refresh_subscription, without_user=True
            ),
            CallMethod: CommandRow(self.call_method, answers=True, without_user=True),
            AskPresenceStats: CommandRow(self.presence_stats, without_user=True),
        }

    def opened(self, connection: Connection, head: Head) -> None:
        """Prepare a new connection for the login that its client will send.

        The path of its URL may name an app, as in
        ``/connection/shop/websocket``. Without a name the configured app is
        meant. Never switches greenlets.
        """
        segments = head.path.split("/")
        if len(segments) > _SEGMENTS_WITHOUT_APP:
            app = unquote(segments[2])
        else:
            app = self._default_app
        # Names with a colon belong to apps of other dialects: such an app is
        # unknown here.
        if ":" in app:
            app = ""
        else:
            app = self._logins.resolve(app)

        state = CentrifugeState(app=app)
        connection.dialect_state = state
        # Only an app with a back end needs the headers: they are passed on to
        # it.
        headers = self._back_ends.headers_of(app, head.headers)
        if headers is not None:
            state.set_facts(intern(segments[-1]), headers)
        connection.last_seen = monotonic()

    # --- sessions -------------------------------------------------------------

    def login(
        self,
        connection: Connection,
        command: CentrifugeLogin,
        answer: Callable[[Reply], None],
    ) -> Reply | None:
        """Begin a session, and the subscriptions that its token names.

        Returns the reply with an error. Returns None if the login was answered
        by ``answer``, or if the connection was closed instead. May switch
        greenlets.
        """
        state = _state_of(connection)
        if connection.app is not None:
            # Centrifugo, too, treats a second login as an error in the
            # protocol.
            connection.close(CLOSE_BAD_REQUEST, "bad request")
            return None
        app = state.app
        if state.facts is not None:
            state.facts.headers |= self._back_ends.emulated_headers_of(
                app, command.headers
            )

        # The kicks are counted before the decision, which may switch greenlets.
        # So a user who is kicked meanwhile does not begin a session.
        kicks = self._sessions.kicks.count
        try:
            admission = self._admit(connection, app, command)
        except (BadToken, BackEndUnavailable, BackEndRefused) as error:
            return self._refuse_for(connection, app, error)
        if not admission.decision.ok:
            return self._refuse(connection, admission.decision)

        state.info = bytes_of(admission.claims.info)
        if state.facts is not None:
            state.facts.meta = bytes_of(admission.claims.meta)
        decision = self._leave_end_to_back_end(app, state, admission.decision)
        if decision.user:
            login = Login(app, decision.user, command.token, decision.device)
            code = self._sessions.login(
                connection, login, decision=decision, kicks=kicks
            )
        else:
            # Clients without an account may use channels, but have no messages.
            code = self._sessions.begin_without_user(connection, app, decision, kicks)
        if code != ReplyCode.OK:
            return Reply(code)

        state.app = ""  # from now on the session knows it
        self._subscribe_and_answer(connection, state, admission, command, answer)
        return None

    def _refuse_for(
        self,
        connection: Connection,
        app: str,
        error: BadToken | BackEndUnavailable | BackEndRefused,
    ) -> Reply | None:
        """Refuse a login for an error in its token, or of the back end.

        The refusal is counted and logged under its reason. Returns the reply,
        or None if the connection was closed so that the client does not try
        again.
        """
        peer = connection.peer
        if isinstance(error, BackEndRefused):
            self._logins.refused("back end", app, "", peer)
            return _refused(connection, error)
        if isinstance(error, BackEndUnavailable):
            self._logins.refused("undecided", app, "", peer, str(error))
            return Reply(codes.INTERNAL)  # its client tries again
        self._logins.refused("token", app, "", peer, str(error))
        if isinstance(error, TokenExpired):
            # The client gets a new token, and logs in again on this connection.
            return Reply(codes.TOKEN_EXPIRED)
        return _refuse_token(connection)

    def _admit(
        self, connection: Connection, app: str, command: CentrifugeLogin
    ) -> _Admission:
        """Decide about a login by its token. Without a token, the back end
        decides.

        Returns a refusal, too, as an admission whose decision is not ``ok``.
        May switch greenlets. Raises BadToken, TokenExpired, BackEndUnavailable
        and BackEndRefused.
        """
        if command.token or not self._back_ends.has(app, "connect"):
            return self._check_token(connection, app, command.token)
        # The limits for logins are checked first, to spare the back end.
        decision = self._logins.admit(app, NAME, connection)
        if not decision.ok:
            return _Admission(decision)

        facts: dict[str, Any] = {}
        if command.name:
            facts["name"] = command.name
        if command.version:
            facts["version"] = command.version
        if command.data:
            facts["data"] = Raw(command.data)
        # A personal channel such as "#alice" is left out: only this server
        # knows who the user is.
        channels = [name for name in command.recover if not name.startswith(ALIAS)]
        if channels:
            facts["channels"] = channels
        answer = self._back_ends.ask(app, "connect", connection, facts, ConnectAnswer)

        end = token_end(0, answer.expire_at)
        if 0 < end <= time():
            raise TokenExpired("the back end names a time in the past")
        if "\0" in answer.user:
            return self._refuse_user(connection, app, answer.user)
        decision = LoginDecision(user=answer.user, expires_at=_with_grace(end))
        return _Admission(decision, claims=answer, end=end)

    def _refuse_user(self, connection: Connection, app: str, user: str) -> _Admission:
        """Refuse the user that a back end has named, because the id has
        U+0000."""
        self._logins.refused("user", app, user, connection.peer)
        return _Admission(LoginDecision(ReplyCode.UNAUTHORIZED, CloseCode.NOT_ALLOWED))

    def _leave_end_to_back_end(
        self, app: str, state: CentrifugeState, decision: LoginDecision
    ) -> LoginDecision:
        """Move the end of a session from its login decision to the dialect's
        state.

        The core closes a connection at the end that its decision names. If the
        back end of the app renews sessions, the decision is returned without an
        end, and this service asks the back end at that time
        (``state.expires_at``). Otherwise the decision is returned unchanged.
        """
        if not decision.expires_at or not self._back_ends.has(app, "refresh"):
            return decision
        # The decision has the time of grace, in which a client may renew late.
        # A back end is asked at the end itself.
        state.expires_at = decision.expires_at - GRACE_SECONDS
        return replace(decision, expires_at=0)

    def _check_token(self, connection: Connection, app: str, token: str) -> _Admission:
        """Decide about a client by its token.

        Returns a refusal, too, as an admission whose decision is not ``ok``.
        The claims of the token are in the result only if a key of the app has
        verified them. May switch greenlets. Raises BadToken.
        """
        if self._logins.is_open(app):
            return self._check_unproved_token(connection, app, token)

        may_lack_user = takes_anonymous_tokens(self._settings(app))
        decision = self._logins.check(
            app, "", token, NAME, connection, may_lack_user=may_lack_user
        )
        if not decision.ok:
            return _Admission(decision)
        proved = decision.claims
        is_anonymous = may_lack_user and proved is not None
        if not (decision.user or is_anonymous) or "\0" in decision.user:
            raise BadToken("the login has no user, or one with U+0000")
        if decision.expires_at:
            decision = replace(decision, expires_at=decision.expires_at + GRACE_SECONDS)
        if proved is None:
            # The user was proved by another kind of token, which has no claims.
            return _Admission(decision)
        if not proved.payload:
            return _Admission(decision, end=proved.expires_at)
        return _Admission(decision, proved.read(decode_connection), proved.expires_at)

    def _check_unproved_token(
        self, connection: Connection, app: str, token: str
    ) -> _Admission:
        """Decide about a client of an open app, which asks for no proof.

        The token may name any user, and its signature is not checked. ``""``
        begins a session without a user. Raises BadToken.
        """
        if token:
            request = connection_request(token)
        else:
            request = ConnectionRequest()
        decision = self._logins.check(app, request.sub, "", NAME, connection)
        if decision.ok and "\0" in request.sub:
            raise BadToken("the token names a user with U+0000")
        decision = replace(decision, user=request.sub)
        return _Admission(decision, requested=request.names)

    def _refuse(self, connection: Connection, decision: LoginDecision) -> Reply | None:
        """Refuse a login or a renewal that the login rules have refused.

        Returns an error after which the client tries again. Returns None if the
        connection was closed, so that it does not try again with this token.
        """
        if decision.expired:
            return Reply(codes.TOKEN_EXPIRED)
        if decision.close == CloseCode.TOKEN_INVALID:
            return _refuse_token(connection)
        if decision.close == CloseCode.INTERNAL_ERROR:
            return Reply(codes.INTERNAL)  # its client tries again
        connection.close(decision.close)
        return None

    def _subscribe_and_answer(
        self,
        connection: Connection,
        state: CentrifugeState,
        admission: _Admission,
        command: CentrifugeLogin,
        answer: Callable[[Reply], None],
    ) -> None:
        """Subscribe a client that has logged in, and answer the login.

        The client gets the channels that its token or the back end names, the
        channel of the user, and channels that the client requests by its own
        right. If one of these subscriptions is refused, the connection is
        closed instead. May switch greenlets.
        """
        personal = self._personal_channel(connection, admission)
        wanted = _claimed_channels(admission, command, personal.alias)
        if any(name.startswith(ALIAS) for name in wanted.claims):
            # The token names the channel of another user.
            connection.close(CloseCode.NOT_ALLOWED)
            return
        if command.token:
            # A renewed token must name the same channels.
            state.by_token = frozenset(wanted.claims)
        if personal.is_subscribed:
            epoch, offset = command.recover.get(personal.alias, ("", 0))
            # Without an epoch, the offset is a position in the stored messages.
            if epoch:
                position = Position(epoch, offset)
            else:
                position = None
            wanted.add(personal.name, position)

        try:
            self._follow_log(connection, state)
            own_right_channels = self._channels_of_own_right(
                connection, admission.requested - {personal.alias}, command, wanted
            )
            subscriptions = self._subscribe(connection, state, wanted)
        except ChannelRefused as refused:
            connection.close(_CLOSE_OF.get(refused.reason, CloseCode.NOT_ALLOWED))
            return

        subs = _results_for_client(subscriptions, wanted, personal, command)
        result = self._connect_result(connection, admission, subs)
        state.mark(PERSONAL, personal.name != "")
        state.mark(BY_ALIAS, personal.is_subscribed)
        answer(Reply(ReplyCode.OK, result))

        # The reply must come first: only now may pings, stored messages and
        # publications follow, which waited for it.
        connection.last_seen = 0.0
        if self._catch_up is not None:
            self._catch_up.release(connection)
        for channel, subscription in subscriptions.items():
            self._channels.subscriptions.answered(connection, channel, subscription)
        for channel in own_right_channels:
            self._consent.confirm_member(connection, channel)

    def _personal_channel(
        self, connection: Connection, admission: _Admission
    ) -> _PersonalChannel:
        """The channel of the user who logs in, such as ``#alice`` for
        ``alice``.

        The client gets it if its token names it, or if the app gives it to all
        users. Otherwise the result has only the alias, and no name.
        """
        app = connection.app or ""
        user = connection.user or ""
        alias = f"{ALIAS}{user}"
        if not user:
            return _PersonalChannel(alias)
        is_named = (
            alias in admission.claims.subscriptions or alias in admission.requested
        )
        # Neither the token nor the app gives the client this channel.
        if not is_named and not subscribes_to_own_channel(self._settings(app)):
            return _PersonalChannel(alias)
        return _PersonalChannel(
            alias,
            name=self._answers.channel_of(connection, alias),
            has_options=self._channels.options.has_user_channel(app, user),
        )

    def _follow_log(self, connection: Connection, state: CentrifugeState) -> None:
        """Let a user receive stored messages on a connection.

        If the database does not answer, the login goes on without stored
        messages. May switch greenlets.
        """
        if not connection.user or self._catch_up is None:
            return
        try:
            self._catch_up.follow(connection)
        except StorageUnavailable:
            # check_ends() closes the connection as soon as the database
            # answers. The client then connects again, and gets its messages.
            state.mark(_UNFOLLOWED, True)

    def _channels_of_own_right(
        self,
        connection: Connection,
        requested: Collection[str],
        command: CentrifugeLogin,
        wanted: _WantedChannels,
    ) -> list[str]:
        """The channels to which a client subscribes by its own right, that is,
        without a verified token or a back end that names them.

        They are the channels that its unverified token requests
        (``requested``), and the channels that its login names. The latter are
        also added to ``wanted``. May switch greenlets. Raises ChannelRefused if
        a requested channel is not permitted.
        """
        for channel in requested:
            self._commands.permit(connection, channel, "")
        if not command.channels:
            return list(requested)
        choices = self._permitted_choices(connection, command, wanted.claims)
        for channel in choices:
            wanted.add(channel, _position_in(command, channel))
        return [*requested, *choices]

    def _subscribe(
        self, connection: Connection, state: CentrifugeState, wanted: _WantedChannels
    ) -> dict[str, Subscribed]:
        """Subscribe a client to all channels that its login wants.

        Returns the subscriptions by channel. May switch greenlets. Raises
        ChannelRefused if one of them is refused.
        """
        for channel, claims in wanted.claims.items():
            state.set_info(channel, bytes_of(claims.info))
            _set_end(state, channel, claims.expire_at)
        options_of = partial(self._channels.options.of, connection.app or "")
        # None means that the client does not recover, either because it is new
        # to the channel or because the channel has no history.
        since: dict[str, Position | None] = {}
        for channel in wanted.claims:
            if options_of(channel).may_recover:
                since[channel] = wanted.positions.get(channel)
            else:
                since[channel] = None
        subscriptions = self._channels.subscriptions.subscribe_each(connection, since)
        state.by_server = set(subscriptions) or None
        return subscriptions

    def _connect_result(
        self,
        connection: Connection,
        admission: _Admission,
        subs: dict[str, SubscribeResult],
    ) -> ConnectResult:
        """The reply to a login.

        It names an end of the session only if the client must renew the
        session. If the back end renews it, the client is told that there is no
        end.
        """
        end = admission.end
        if self._back_ends.has(connection.app or "", "refresh"):
            end = 0
        session = ""
        # The client of an HTTP stream sends its commands in separate requests.
        # The secret shows that they are from the same client.
        if isinstance(connection, Stream):
            session = self._connections.secret_of(connection)
        return ConnectResult(
            client=self._connections.id_of(connection),
            version=self._version,
            expires=end > 0,
            ttl=_ttl(end),
            subs=subs or None,
            ping=self._ping,
            pong=True,
            session=session,
            data=admission.claims.data,
        )

    def _permitted_choices(
        self, connection: Connection, command: CentrifugeLogin, others: Collection[str]
    ) -> list[str]:
        """The channels named in a login to which the client may subscribe
        without a token.

        Clients that can only receive name their channels in the login.
        ``others`` are the channels that the client gets anyway. As in
        Centrifugo, a channel that the client may not subscribe to is left out.
        May switch greenlets. Raises ChannelRefused if the client names too many
        channels, or if a channel or its group is unknown or unavailable.
        """
        app = connection.app or ""
        choices = list[str]()
        # The back end has admitted this client, and only the back end names its
        # channels.
        if not command.token and self._back_ends.has(app, "connect"):
            return choices
        names = [name for name in command.channels if name not in others]
        if len(names) > _MAX_CHOICES:
            raise ChannelRefused(
                "limit", f"a request to connect names at most {_MAX_CHOICES} channels"
            )

        for channel in names:
            # No back end is asked: one login could cause a hundred calls.
            if self._channels.options.of(app, channel).subscribe == "back_end":
                continue
            try:
                self._commands.permit(connection, channel, "")
            except ChannelRefused as refused:
                if refused.reason != "denied":
                    raise
            else:
                choices.append(channel)
        return choices

    def refresh(self, connection: Connection, command: RefreshLogin) -> Reply | None:
        """Renew the token of a session.

        The new token must be of the same user. If it names other channels than
        the token of the login, the client must connect again. Returns None if
        the connection was closed. May switch greenlets.
        """
        app = connection.app or ""
        try:
            admission = self._check_token(connection, app, command.token)
        except BadToken:
            return _refuse_token(connection)
        decision = admission.decision
        claims = admission.claims
        if decision.expired:
            # its client reconnects with a newer token
            connection.close(CloseCode.TOKEN_INVALID)
            return None
        if not decision.ok:
            return self._refuse(connection, decision)
        if decision.user != connection.user:
            return _refuse_token(connection)
        state = _state_of(connection)
        if _other_channels(connection, admission) != state.by_token:
            connection.close(CLOSE_INSUFFICIENT_STATE, "insufficient state")
            return None

        # The new token has its own end, so the back end is no longer asked.
        state.expires_at = 0
        _renew_facts(state, claims.info, claims.meta)
        # The core takes the end of the session from the newest decision.
        self._logins.began(connection, decision)
        client = self._connections.id_of(connection)
        end = admission.end
        result = RefreshResult(client, self._version, end > 0, _ttl(end))
        return Reply(ReplyCode.OK, result)

    def _set_session_end(self, query: RefreshConnection) -> bool:
        """Change the end of a session of this node, for a query of another
        node.

        Returns False if the connection is not on this node. Never switches
        greenlets.
        """
        connection = self._connections.find(query.app, query.connection)
        if connection is None:
            return False
        decision = LoginDecision(expires_at=_with_grace(query.expires_at))
        state = connection.dialect_state
        if isinstance(state, CentrifugeState):
            state.info = query.info or state.info
            # The earlier end no longer counts. The new end is set here if the
            # back end renews sessions, and otherwise below.
            state.expires_at = 0
            decision = self._leave_end_to_back_end(query.app, state, decision)
        # The core takes the end of the session from the newest decision.
        self._logins.began(connection, decision)
        return True

    def call_method(
        self,
        connection: Connection,
        command: CallMethod,
        answer: Callable[[Reply], None],
    ) -> Reply | None:
        """Call a method of the app's back end.

        If the app has no back end for methods, the name of the method is a
        command of this server, for example ``"search_messages"``. Returns None
        if ``answer`` sends the reply, or if the back end has ended the
        connection. May switch greenlets.
        """
        app = connection.app or ""
        if not self._back_ends.has(app, "rpc"):
            return self._run_own_method(connection, command, answer)

        # ``Raw`` data is JSON already, and is not encoded again.
        facts: dict[str, Any] = {"method": command.method}
        if command.data:
            facts["data"] = Raw(command.data)
        try:
            result = self._back_ends.ask(app, "rpc", connection, facts, RpcResult)
        except BackEndUnavailable:
            return Reply(codes.INTERNAL)
        except BackEndRefused as refused:
            return _refused(connection, refused)
        return Reply(ReplyCode.OK, result.data)

    def _run_own_method(
        self,
        connection: Connection,
        command: CallMethod,
        answer: Callable[[Reply], None],
    ) -> Reply | None:
        """Run the command of this server that a client calls as a method."""
        readers = connection.encoding.dialect.readers or {}
        try:
            own_command = own_method(readers, command.method, command.data)
        except Refused as refused:
            return Reply(refused.code)
        if own_command is None:
            return Reply(codes.NOT_AVAILABLE)
        return self._run(connection, own_command, answer)

    # --- subscriptions --------------------------------------------------------

    def _joined(
        self,
        connection: Connection,
        channel: str,
        about: bytes,
        new: bool,
        position: Position | None,
    ) -> None:
        """Tell a client that the back end has subscribed its connection to a
        channel.

        ``about``: an encoded :class:`SubscriptionAbout` (``b""``: no facts).
        ``new``: whether the connection was not subscribed before. ``position``:
        the position from which the client recovers; None if it does not
        recover. Never switches greenlets.
        """
        state = connection.dialect_state
        # A client of another dialect gets no such notice. A client that was
        # subscribed before knows of its subscription.
        if not (new and isinstance(state, CentrifugeState)):
            return
        app = connection.app or ""
        state.by_server = self._channels_by_server(connection, state) | {channel}
        if about:
            subscription = msgspec.msgpack.decode(about, type=SubscriptionAbout)
        else:
            subscription = SubscriptionAbout()
        state.set_info(channel, subscription.info)
        _set_end(state, channel, subscription.expires_at)

        result = _result_by_server(subscription, position)
        event = Event(
            "subscribed",
            "",
            "",
            data=msgspec.json.encode(result),
            channel=ChannelPart(channel),
        )
        self._connections.push(app, self._connections.id_of(connection), event)
        self._channels.notices.announce("join", connection, channel)

    def _channels_by_server(
        self, connection: Connection, state: CentrifugeState
    ) -> set[str]:
        """The channels to which the server has subscribed a client. Channels
        that the client has left meanwhile are missing."""
        return {
            name
            for name in state.by_server or ()
            if self._channels.members.has(connection, name)
        }

    def refresh_subscription(
        self, connection: Connection, command: RefreshSubscription
    ) -> Reply | None:
        """Renew the token of a subscription.

        Returns None if the connection was closed. May switch greenlets while
        the token is checked.
        """
        state = _state_of(connection)
        is_member = self._channels.members.has(connection, command.channel)
        if not is_member or not command.token:
            return Reply(codes.PERMISSION_DENIED)
        try:
            claims = self._commands.permit(connection, command.channel, command.token)
        except ChannelRefused as refused:
            return self._refuse_renewal(connection, refused)
        end = claims.expires_at
        _set_end(state, command.channel, end)
        if claims.info is not UNSET:
            state.set_info(command.channel, bytes(claims.info))
        return Reply(ReplyCode.OK, SubRefreshResult(end > 0, _ttl(end)))

    def _refuse_renewal(
        self, connection: Connection, refused: ChannelRefused
    ) -> Reply | None:
        """Refuse the new token of a subscription.

        Returns None if the connection was closed. After an error reply, the
        client would not subscribe again. After this close code, it reconnects
        and subscribes.
        """
        if refused.reason == "expired":
            connection.close(CLOSE_SUBSCRIPTION_EXPIRED, "subscription expired")
            return None
        return self._answers.refused(refused)

    def check_ends(self, connection: Connection) -> None:
        """Act on the ends of a session and its subscriptions. This is the
        regular check of a connection.

        The back end renews what it has to renew. The connection is closed if
        the client has not renewed a token in time. It is also closed, to begin
        again, if its user lacks stored messages that are available now. Never
        switches greenlets.
        """
        state = connection.dialect_state
        if not isinstance(state, CentrifugeState):
            return
        lacks_log = state.marks & _UNFOLLOWED and connection.log_subscription is None
        if lacks_log and self._catch_up is not None and self._catch_up.answers():
            connection.close(CLOSE_INSUFFICIENT_STATE, "insufficient state")
            return

        now = int(time())
        if 0 < state.expires_at <= now:
            # If the back end does not answer, it is asked again at this time.
            state.expires_at = now + RENEWAL_SECONDS
            gevent.spawn(self._renew, connection, state)
        # This runs for every connection, and few have subscriptions that end.
        if state.ends:
            self._check_subscriptions(connection, state, state.ends, now)

    def _check_subscriptions(
        self,
        connection: Connection,
        state: CentrifugeState,
        all_ends: Mapping[str, int],
        now: int,
    ) -> None:
        """Act on the ends of the subscriptions of a connection.

        If the back end renews a subscription, it is asked at its end. Otherwise
        the client must renew its token: if it has not done so after the time of
        grace, the connection is closed. ``all_ends`` also has channels that the
        client has left; they are forgotten here. Never switches greenlets.
        """
        has = self._channels.members.has
        ends = {
            channel: end
            for channel, end in all_ends.items()
            if has(connection, channel)
        }
        state.ends = ends or None
        for channel, end in ends.items():
            if end <= now and self._is_renewed(connection, channel):
                # If the back end does not answer, it is asked again at this
                # time.
                ends[channel] = now + RENEWAL_SECONDS
                gevent.spawn(self._renew, connection, state, channel)
        if any(end < now - GRACE_SECONDS for end in ends.values()):
            connection.close(CLOSE_SUBSCRIPTION_EXPIRED, "subscription expired")

    def _is_renewed(self, connection: Connection, channel: str) -> bool:
        """Whether the back end of the app renews subscriptions to a channel."""
        app = connection.app or ""
        return self._answers.are_renewed(app, self._channels.options.of(app, channel))

    def _renew(
        self, connection: Connection, state: CentrifugeState, channel: str = ""
    ) -> None:
        """Let the back end renew a session, or one subscription of it.

        This is a greenlet of its own. ``channel`` is the channel of the
        subscription (``""``: the session). If the back end does not answer, it
        is asked again after :data:`RENEWAL_SECONDS`.
        """
        call: BackEndCall = "refresh"
        facts = {}
        if channel:
            call = "sub_refresh"
            facts["channel"] = channel
        try:
            answer = self._back_ends.ask(
                connection.app or "", call, connection, facts, RenewalAnswer
            )
        except BackEndUnavailable:
            return
        except BackEndRefused as refused:
            if refused.disconnect is not None:
                connection.disconnect(*refused.disconnect)
            return

        # The answer took time: the client may have gone, or left the channel.
        if not connection.is_open:
            return
        if channel and not self._channels.members.has(connection, channel):
            return
        self._use_renewal(connection, state, channel, answer)

    @staticmethod
    def _use_renewal(
        connection: Connection,
        state: CentrifugeState,
        channel: str,
        answer: RenewalAnswer,
    ) -> None:
        """Set the new end of a session, or of a subscription, as the back end
        has answered. ``channel`` is the channel of the subscription; ``""``
        means the session."""
        has_ended = answer.expired or 0 < answer.expire_at <= time()
        if channel:
            _use_subscription_renewal(connection, state, channel, answer, has_ended)
        elif has_ended:
            connection.close(CloseCode.TOKEN_INVALID)
        else:
            state.expires_at = answer.expire_at
            _renew_facts(state, answer.info, answer.meta)

    def presence_stats(
        self, connection: Connection, command: AskPresenceStats
    ) -> Reply:
        """The reply with the numbers of subscribers and of users of a channel.
        May switch greenlets."""
        try:
            channel = self._commands.check_presence(connection, command.channel)
        except ChannelRefused as refused:
            return self._answers.refused(refused)
        counts = self._channels.members.count_users(
            connection.app or "", channel, Limit.PRESENCE
        )
        return Reply(ReplyCode.OK, PresenceStatsResult(*counts))


def _other_channels(connection: Connection, admission: _Admission) -> Set[str]:
    """The channels that a new token names, without the channel of the user.

    A token need not name the channel of the user, because the app can give this
    channel to all users.
    """
    channels = admission.claims.subscriptions.keys() | admission.requested
    return channels - {f"{ALIAS}{connection.user}"}


def _result_by_server(
    subscription: SubscriptionAbout, position: Position | None
) -> SubscribeResult:
    """Tell a client about a subscription that its back end has begun.

    ``position``: the position from which the client recovers. None means that
    the client does not recover.
    """
    result = SubscribeResult()
    if subscription.data:
        result.data = Raw(subscription.data)
    if position is not None:
        result.recoverable = True
        result.positioned = True
        result.epoch = position.epoch
        result.offset = position.offset
    return result


# --- also for the API ---------------------------------------------------------


def bytes_of(given: Raw | UnsetType) -> bytes:
    """The JSON of a field; ``b""`` if the field is left out."""
    if given is UNSET:
        return b""
    return bytes(given)


def infos_of_members(members: Sequence[ChannelMember]) -> dict[str, ClientView]:
    """The subscribers of a channel as clients see them, by ids of connections.

    ``conn_info`` is JSON about the client, and ``chan_info`` about this client
    in this channel. Empty JSON is left out.
    """
    views: dict[str, ClientView] = {}
    for member in members:
        view = ClientView(member.user, member.connection)
        if member.info:
            view.conn_info = Raw(member.info)
        if member.channel_info:
            view.chan_info = Raw(member.channel_info)
        views[member.connection] = view
    return views


def history_view(publications: Sequence[Event], position: Position) -> HistoryResult:
    """Publications of a channel, and the newest position of the channel, as
    clients see them."""
    return HistoryResult(
        [publication_of(event) for event in publications],
        position.epoch,
        position.offset,
    )


# --- internal -----------------------------------------------------------------

_CLOSE_OF: Final = {
    "ended": CloseCode.INTERNAL_ERROR,
    "unavailable": CloseCode.INTERNAL_ERROR,
    "full": CloseCode.NODE_FULL,
    "rate": CloseCode.RATE_LIMIT,
}
"""Reason why a subscription at login was refused → the close code. All other
reasons have 4505."""


def _state_of(connection: Connection) -> CentrifugeState:
    """The state that :meth:`CentrifugeService.opened` has made for a
    connection."""
    state = connection.dialect_state
    assert isinstance(state, CentrifugeState)
    return state


def _parted(connection: Connection, channel: str, _was_last: bool) -> None:
    """Handle a client that has left the channel of its user.

    The mark :data:`BY_ALIAS` stays: a notice about the end may follow, and it
    must name the channel by its alias.
    """
    state = connection.dialect_state
    if (
        isinstance(state, OwnChannel)
        and state.by_alias
        and channel == f"{USER_CHANNEL}{connection.user}"
    ):
        state.mark(PERSONAL, False)


def _renew_facts(
    state: CentrifugeState, info: Raw | UnsetType, meta: Raw | UnsetType
) -> None:
    """Take over the facts about a client from the renewal of its session. A
    fact that the renewal leaves out stays as it is."""
    if info is not UNSET:
        state.info = bytes(info)
    if state.facts is not None and meta is not UNSET:
        state.facts.meta = bytes(meta)


def _use_subscription_renewal(
    connection: Connection,
    state: CentrifugeState,
    channel: str,
    answer: RenewalAnswer,
    has_ended: bool,
) -> None:
    """Set the new end of a subscription that the back end has renewed, or close
    the connection if the subscription has ended."""
    if has_ended:
        connection.close(CLOSE_SUBSCRIPTION_EXPIRED, "subscription expired")
        return
    _set_end(state, channel, answer.expire_at)
    if answer.info is not UNSET:
        state.set_info(channel, bytes(answer.info))


def _refuse_token(connection: Connection) -> Reply | None:
    """Close a connection so that its client does not connect again with this
    token."""
    connection.close(CLOSE_INVALID_TOKEN, "invalid token")
    return None


def _refused(connection: Connection, refused: BackEndRefused) -> Reply | None:
    """Pass on the refusal of a back end: answer with its error, or end the
    connection if the back end wants that. Returns None if the connection has
    ended."""
    if refused.disconnect is None:
        return Reply(codes.PERMISSION_DENIED, refused.error)
    connection.disconnect(*refused.disconnect)
    return None


def _with_grace(end: int) -> int:
    """The end of a session whose token ends at ``end``, in Unix seconds.

    It is :data:`GRACE_SECONDS` later, because clients begin to renew a token
    only when it ends. 0 means never, in the argument and in the result.
    """
    if end:
        return end + GRACE_SECONDS
    return 0


def _ttl(end: float) -> int:
    """The seconds until a token ends, as clients are told; 0 if it never ends.

    For a token that ends now, the result is 1, because 0 stands for never.
    """
    if end:
        return max(1, int(min(end - time(), _MOST_TTL)))
    return 0


def _result(
    subscription: Subscribed,
    recoverable: bool,
    recovering: bool,
    positioned: bool = False,
) -> SubscribeResult:
    """The reply to a new subscription.

    ``recoverable``: whether the client can recover publications that it will
    miss later. ``recovering``: whether the client asks for publications that it
    has missed until now. ``positioned``: whether the client only wants to know
    its position.
    """
    result = SubscribeResult(was_recovering=recovering, delta=subscription.delta)
    # A channel without a history has no position.
    if subscription.position is None:
        return result
    result.recoverable = recoverable or recovering
    result.positioned = positioned or result.recoverable
    if result.positioned:
        result.epoch = subscription.position.epoch
        result.offset = subscription.position.offset
    if recovering and subscription.recovered:
        result.recovered = True
        result.publications = [publication_of(event) for event in subscription.events()]
    return result


def _position_in(command: CentrifugeLogin, channel: str) -> Position | None:
    """The position from which the client of a login recovers a channel. Returns
    None if the client is new to the channel."""
    epoch_and_offset = command.recover.get(channel)
    if epoch_and_offset is None:
        return None
    return Position(*epoch_and_offset)


def _claimed_channels(
    admission: _Admission, command: CentrifugeLogin, alias: str
) -> _WantedChannels:
    """The channels that the token of a login, or the back end, names.

    The channel of the user (``alias``) is left out, because it has rules of its
    own.
    """
    claims = dict(admission.claims.subscriptions)
    for channel in admission.requested:
        claims[channel] = SubscriptionClaims()
    claims.pop(alias, None)
    positions = {}
    for channel in claims:
        position = _position_in(command, channel)
        if position is not None:
            positions[channel] = position
    return _WantedChannels(claims, positions)


def _results_for_client(
    subscriptions: Mapping[str, Subscribed],
    wanted: _WantedChannels,
    personal: _PersonalChannel,
    command: CentrifugeLogin,
) -> dict[str, SubscribeResult]:
    """The subscriptions of a login, under the names that the client knows.

    The channel of the user has its alias as name. If the app has no options for
    this channel, the user receives it without a subscription. The client is
    told that it has a subscription all the same.
    """
    results: dict[str, SubscribeResult] = {}
    if personal.name and not personal.is_subscribed:
        # There is no subscription in the core, but SDKs expect one.
        results[personal.alias] = SubscribeResult(
            was_recovering=personal.alias in command.recover
        )

    for channel, subscription in subscriptions.items():
        if channel == personal.name:
            name = personal.alias
        else:
            name = channel
        may_recover = subscription.options.may_recover
        result = _result(
            subscription,
            recoverable=may_recover,
            recovering=may_recover and name in command.recover,
        )
        result.data = wanted.claims[channel].data
        results[name] = result
    return results


def _set_end(state: CentrifugeState, channel: str, end: int) -> None:
    """Set when the token of a subscription ends (Unix seconds; 0: never)."""
    # Few connections have subscriptions that end, so the others have no dict.
    if end:
        state.ends = state.ends or {}
        state.ends[channel] = end
    elif state.ends is not None:
        state.ends.pop(channel, None)
