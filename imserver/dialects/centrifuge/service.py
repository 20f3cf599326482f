"""The centrifuge dialect: clients of Centrifugo log in with a token of the app,
and use channels.

If the app is open, a client without a token becomes a connection without a
user. A token can renew a session or a subscription until :data:`GRACE_SECONDS`
after its end. A back end of the app (``back_ends``) can decide about
connections without a token, and renew sessions and subscriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
"""The most subscribers in a part of an answer. To encode them as protobuf takes
about 2 ms on a busy machine."""
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
    """The answer of a back end about a connection without a token."""

    user: str = ""
    expire_at: int | float | None = None


class _Admission(Struct, frozen=True):
    """The permission to log in, and the facts with which the session begins.

    ``claims``: from its verified token, or from the back end. ``end``: when the
    client must renew them (Unix seconds; 0: never). ``requested``: the channels
    that a client of an open app names in its token.
    """

    decision: LoginDecision
    claims: ConnectionClaims = ConnectionClaims()
    end: int = 0
    requested: frozenset[str] = frozenset()


class _PersonalChannel(Struct, frozen=True):
    """The channel of the user who logs in. Clients know it as ``alias``.

    ``name``: its name on the server (``""``: this client does not receive it).
    ``has_options``: the app has options for such channels, so the client
    subscribes to it as to any other channel. Without options its publications
    are not stored, and the client only receives them.
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
        """Want a channel about which no token has claims."""
        self.claims[channel] = SubscriptionClaims()
        if position is not None:
            self.positions[channel] = position


class RenewalAnswer(Partial, frozen=True):
    """The answer of a back end about a session or a subscription that is about
    to end."""

    expired: bool = False
    expire_at: int = 0
    info: Raw | UnsetType = UNSET
    b64info: str = ""
    meta: Raw | UnsetType = UNSET
    caps: Raw | UnsetType = UNSET

    not_supported: ClassVar[tuple[str, ...]] = ("caps",)
    in_base64: ClassVar[tuple[str, ...]] = ("info",)


class RpcResult(Partial, frozen=True):
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
    """State of a client. ``app``: of its path, until its login.

    ``ends``: when the tokens of its subscriptions end (None: they do not).
    ``expires_at``: when the back end must renew its session (0: never).
    ``by_server``: the channels in which the server has subscribed it (None:
    none). It may have left some of them. ``by_token``: the channels that its
    token has named. The mark :data:`_UNFOLLOWED`: the log was unavailable at
    its login.
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
        """Whether the client must reconnect to get a subscription back. SDKs
        forget a subscription that the server has made when it ends."""
        return self.by_server is not None and channel in self.by_server

    def receives_own_joins(self) -> bool:
        """Always true, as in Centrifugo."""
        return True


class CentrifugeAnswers(ChannelAnswers):
    """The answers to commands on channels, and the ends of subscriptions, as
    this dialect has them. See :class:`ChannelAnswers`."""

    dialect = NAME

    def __init__(self, core: Core) -> None:
        self._back_ends = core.back_ends

    def channel_of(self, connection: Connection, name: str) -> str:
        """The channel that a client calls ``name``. For the user with this id,
        ``#<id>`` means ``user:<id>``."""
        user = connection.user
        if user and name == f"{ALIAS}{user}":
            return f"{USER_CHANNEL}{user}"
        return name

    def receives(self, connection: Connection, channel: str) -> bool:
        """Whether the server has given a client ``#<user>`` in an app without
        options for such channels."""
        state = connection.dialect_state
        has = (
            isinstance(state, CentrifugeState) and state.personal and not state.by_alias
        )
        return has and channel == f"{ALIAS}{connection.user}"

    def state_of(self, connection: Connection) -> CentrifugeState:
        """The state that :meth:`CentrifugeService.opened` made."""
        return _state_of(connection)

    def refused(self, refused: ChannelRefused) -> Reply:
        """The error for a refusal: an error of Centrifugo, or the error of the
        back end."""
        if refused.error is not None:
            return Reply(codes.PERMISSION_DENIED, refused.error, refused.reason)
        return REFUSALS[refused.reason]

    def are_renewed(self, app: str, options: ChannelSettings) -> bool:
        """Whether the back end, and not the client, renews subscriptions to
        such channels. Never switches greenlets."""
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
        """The answer to a subscription. It has the position of the channel if
        the client wants it, or if the channel forces recovery."""
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
        if end and not self.are_renewed(connection.app or "", options):
            result.expires = True
            result.ttl = _ttl(end)

        state = _state_of(connection)
        if channel == self.channel_of(connection, f"{ALIAS}{connection.user}"):
            by_alias = channel != command.channel
            state.mark(BY_ALIAS, by_alias)
            state.mark(PERSONAL, by_alias or state.personal)
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
        """All subscribers of a channel. They are encoded in parts, and other
        clients are served between two parts."""
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
        """Publications of a channel, and the position of the newest one."""
        assert isinstance(dialect, CentrifugeDialect)
        return dialect.encode_history(history_view(publications, position))


class CentrifugeService:
    """Carries out the commands of the dialect. Owner of
    :class:`CentrifugeState`. ``messaging``: None on a node without stored
    messages."""

    def __init__(
        self, core: Core, answers: CentrifugeAnswers, messaging: Messaging | None
    ) -> None:
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
        self._ping = max(1, ceil(config.websocket.client_ping_seconds))
        self._run = core.dispatcher.run
        self._connections.report_to(self._joined)
        self._channels.members.report_to(parted=_parted)
        core.queries.add("refresh", RefreshConnection, self._set_session_end)

    def commands(self) -> CommandTable:
        """The commands that this service carries out."""
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
        """Expect the login of a new connection. Its path may name an app. Never
        switches greenlets."""
        segments = head.path.split("/")
        if len(segments) > _SEGMENTS_WITHOUT_APP:
            app = unquote(segments[2])
        else:
            app = self._default_app
        # Names with a colon belong to apps of other dialects.
        if ":" in app:
            app = ""
        else:
            app = self._logins.resolve(app)

        state = CentrifugeState(app=app)
        connection.dialect_state = state
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
        """Begin a session, and the subscriptions that the token names. May
        switch greenlets."""
        state = _state_of(connection)
        if connection.app is not None:
            connection.close(CLOSE_BAD_REQUEST, "bad request")
            return None
        app = state.app
        if state.facts is not None:
            state.facts.headers |= self._back_ends.emulated_headers_of(
                app, command.headers
            )

        # Counted before the decision, which may switch. A user who is kicked
        # meanwhile does not begin a session.
        kicks = self._sessions.kicks.count
        try:
            admission = self._admit(connection, app, command)
        except TokenExpired as expired:
            self._logins.refused("token", app, "", connection.peer, str(expired))
            return Reply(codes.TOKEN_EXPIRED)
        except BadToken as bad:
            self._logins.refused("token", app, "", connection.peer, str(bad))
            return _refuse_token(connection)
        except BackEndUnavailable as unavailable:
            self._logins.refused(
                "undecided", app, "", connection.peer, str(unavailable)
            )
            return Reply(codes.INTERNAL)  # its client tries again
        except BackEndRefused as refused:
            self._logins.refused("back end", app, "", connection.peer)
            return _refused(connection, refused)
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
            code = self._sessions.begin_without_user(connection, app, decision, kicks)
        if code != ReplyCode.OK:
            return Reply(code)
        state.app = ""  # known from the session now
        self._subscribe_and_answer(connection, state, admission, command, answer)
        return None

    def _admit(
        self, connection: Connection, app: str, command: CentrifugeLogin
    ) -> _Admission:
        """Decide about a client by its token or, if it has none, by the back
        end. May switch greenlets. Raises BadToken, TokenExpired,
        BackEndUnavailable and BackEndRefused."""
        if command.token or not self._back_ends.has(app, "connect"):
            return self._check_token(connection, app, command.token)
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
        channels = [name for name in command.recover if not name.startswith(ALIAS)]
        if channels:
            facts["channels"] = channels
        answer = self._back_ends.ask(app, "connect", connection, facts, ConnectAnswer)

        end = token_end(0, answer.expire_at)
        if 0 < end <= time():
            raise TokenExpired("the back end names a time in the past")
        if "\0" in answer.user:
            self._logins.refused("user", app, answer.user, connection.peer)
            return _Admission(
                LoginDecision(ReplyCode.UNAUTHORIZED, CloseCode.NOT_ALLOWED)
            )
        decision = LoginDecision(user=answer.user, expires_at=_with_grace(end))
        return _Admission(decision, answer, end)

    def _leave_end_to_back_end(
        self, app: str, state: CentrifugeState, decision: LoginDecision
    ) -> LoginDecision:
        """The decision without its end, if the back end of the app renews
        sessions. Then this service asks the back end when the end comes
        (``state.expires_at``). Otherwise returns the decision unchanged."""
        if not decision.expires_at or not self._back_ends.has(app, "refresh"):
            return decision
        state.expires_at = decision.expires_at - GRACE_SECONDS
        return replace(decision, expires_at=0)

    def _check_token(self, connection: Connection, app: str, token: str) -> _Admission:
        """Decide about a client by its token. The claims count only if the
        app's keys have verified them. May switch greenlets. Raises BadToken.

        An open app asks for no proof. The token may name any user there; ``""``
        begins a session without a user.
        """
        if self._logins.is_open(app):
            if token:
                request = connection_request(token)
            else:
                request = ConnectionRequest()
            decision = self._logins.check(app, request.sub, "", NAME, connection)
            if decision.ok and "\0" in request.sub:
                raise BadToken("the token names a user with U+0000")
            decision = replace(decision, user=request.sub)
            return _Admission(decision, requested=request.names)

        may_lack_user = takes_anonymous_tokens(self._settings(app))
        decision = self._logins.check(
            app, "", token, NAME, connection, may_lack_user=may_lack_user
        )
        if not decision.ok:
            return _Admission(decision)
        is_anonymous = may_lack_user and decision.claims is not None
        if not (decision.user or is_anonymous) or "\0" in decision.user:
            raise BadToken("the login has no user, or one with U+0000")
        if decision.expires_at:
            decision = replace(decision, expires_at=decision.expires_at + GRACE_SECONDS)
        proved = decision.claims
        if proved is None:
            return _Admission(decision)
        if not proved.payload:
            return _Admission(decision, end=proved.expires_at)
        return _Admission(decision, proved.read(decode_connection), proved.expires_at)

    def _refuse(self, connection: Connection, decision: LoginDecision) -> Reply | None:
        """Refuse a login: with an error after which the client tries again, or
        by closing the connection. Returns None if the connection was closed."""
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
        """Subscribe a client that has logged in, and answer the login. If a
        subscription is refused, the connection is closed instead.

        The channels are those of the token or back end, the channel of the
        user, and channels that the client requests by its own right. May switch
        greenlets.
        """
        personal = self._personal_channel(connection, admission)
        wanted = _claimed_channels(admission, command, personal.alias)
        if any(name.startswith(ALIAS) for name in wanted.claims):
            connection.close(CloseCode.NOT_ALLOWED)
            return
        if command.token:
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

        connection.last_seen = 0.0  # pings may follow
        if self._catch_up is not None:
            self._catch_up.release(connection)
        for channel, subscription in subscriptions.items():
            self._channels.subscriptions.answered(connection, channel, subscription)
        for channel in own_right_channels:
            self._consent.confirm_member(connection, channel)

    def _personal_channel(
        self, connection: Connection, admission: _Admission
    ) -> _PersonalChannel:
        """The channel of the user who logs in, in the form in which the client
        gets it."""
        app = connection.app or ""
        user = connection.user or ""
        alias = f"{ALIAS}{user}"
        if not user:
            return _PersonalChannel(alias)
        is_named = (
            alias in admission.claims.subscriptions or alias in admission.requested
        )
        if not is_named and not subscribes_to_own_channel(self._settings(app)):
            return _PersonalChannel(alias)
        return _PersonalChannel(
            alias,
            name=self._answers.channel_of(connection, alias),
            has_options=self._channels.options.has_user_channel(app, user),
        )

    def _follow_log(self, connection: Connection, state: CentrifugeState) -> None:
        """Let a user receive stored messages on a connection. May switch
        greenlets."""
        if not connection.user or self._catch_up is None:
            return
        try:
            self._catch_up.follow(connection)
        except StorageUnavailable:
            # the client must connect again when the database answers
            state.mark(_UNFOLLOWED, True)

    def _channels_of_own_right(
        self,
        connection: Connection,
        requested: Collection[str],
        command: CentrifugeLogin,
        wanted: _WantedChannels,
    ) -> list[str]:
        """The channels to which a client subscribes by its own right: channels
        that its unverified token requests, and channels that it has chosen.
        Adds the chosen ones to ``wanted``. May switch greenlets. Raises
        ChannelRefused if a requested channel is not permitted."""
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
        """Subscribe a client to all channels that its login wants. Returns the
        subscriptions by channel. May switch greenlets. Raises
        ChannelRefused."""
        for channel, claims in wanted.claims.items():
            state.set_info(channel, bytes_of(claims.info))
            _set_end(state, channel, claims.expire_at)
        options_of = partial(self._channels.options.of, connection.app or "")
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
        """The answer to a login. It tells the client an end of the session only
        if the back end does not renew the session."""
        end = admission.end
        if self._back_ends.has(connection.app or "", "refresh"):
            end = 0
        session = ""
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
        """The channels that a client which only receives has named and may
        subscribe to without a token. ``others``: channels that it gets anyway.

        As in Centrifugo, a channel that the client may not subscribe to is left
        out. If a back end has admitted the client, the back end alone names its
        channels. No back end is asked about a channel. May switch greenlets.
        Raises ChannelRefused if the client names too many channels, or if a
        channel or its group is unknown or unavailable.
        """
        app = connection.app or ""
        choices = list[str]()
        if not command.token and self._back_ends.has(app, "connect"):
            return choices
        names = [name for name in command.channels if name not in others]
        if len(names) > _MAX_CHOICES:
            raise ChannelRefused(
                "limit", f"a request to connect names at most {_MAX_CHOICES} channels"
            )

        for channel in names:
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
        """Renew the token of a session. If the new token names other channels,
        the client must connect again. May switch greenlets."""
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
        channels = claims.subscriptions.keys() | admission.requested
        if channels - {f"{ALIAS}{connection.user}"} != state.by_token:
            connection.close(CLOSE_INSUFFICIENT_STATE, "insufficient state")
            return None

        # The new token has its own end, so the back end is no longer asked.
        state.expires_at = 0
        _renew_facts(state, claims.info, claims.meta)
        self._logins.began(connection, decision)
        client = self._connections.id_of(connection)
        end = admission.end
        result = RefreshResult(client, self._version, end > 0, _ttl(end))
        return Reply(ReplyCode.OK, result)

    def _set_session_end(self, query: RefreshConnection) -> bool:
        """Answer the query of another node: set the end of a session of this
        node. Returns False if the connection is not here. Never switches
        greenlets."""
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
        self._logins.began(connection, decision)
        return True

    def call_method(
        self,
        connection: Connection,
        command: CallMethod,
        answer: Callable[[Reply], None],
    ) -> Reply | None:
        """Call a method of the app's back end, or one of this server. May
        switch greenlets."""
        app = connection.app or ""
        if not self._back_ends.has(app, "rpc"):
            readers = connection.encoding.dialect.readers or {}
            try:
                own_command = own_method(readers, command.method, command.data)
            except Refused as refused:
                return Reply(refused.code)
            if own_command is None:
                return Reply(codes.NOT_AVAILABLE)
            return self._run(connection, own_command, answer)

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

    # --- subscriptions --------------------------------------------------------

    def _joined(
        self,
        connection: Connection,
        channel: str,
        about: bytes,
        new: bool,
        position: Position | None,
    ) -> None:
        """Tell a client that the back end has subscribed its connection, which
        belongs to this node. Never switches greenlets.

        ``about``: an encoded :class:`SubscriptionAbout`; ``b""``: no facts.
        ``new``: it was not subscribed before. ``position``: where it recovers
        from; None if it does not recover.
        """
        state = connection.dialect_state
        if not (new and isinstance(state, CentrifugeState)):
            return
        app = connection.app or ""
        # Channels that the client has left meanwhile are dropped.
        still_subscribed = [
            name
            for name in state.by_server or ()
            if self._channels.members.has(connection, name)
        ]
        state.by_server = {*still_subscribed, channel}
        if about:
            subscription = msgspec.msgpack.decode(about, type=SubscriptionAbout)
        else:
            subscription = SubscriptionAbout()
        state.set_info(channel, subscription.info)
        _set_end(state, channel, subscription.expires_at)

        result = SubscribeResult()
        if subscription.data:
            result.data = Raw(subscription.data)
        if position is not None:
            result.recoverable = True
            result.positioned = True
            result.epoch = position.epoch
            result.offset = position.offset
        event = Event(
            "subscribed",
            "",
            "",
            data=msgspec.json.encode(result),
            channel=ChannelPart(channel),
        )
        self._connections.push(app, self._connections.id_of(connection), event)
        self._channels.notices.announce("join", connection, channel)

    def refresh_subscription(
        self, connection: Connection, command: RefreshSubscription
    ) -> Reply | None:
        """Renew the token of a subscription. May switch greenlets, as
        :meth:`ChannelCommands.permit` does."""
        state = _state_of(connection)
        is_member = self._channels.members.has(connection, command.channel)
        if not is_member or not command.token:
            return Reply(codes.PERMISSION_DENIED)
        try:
            claims = self._commands.permit(connection, command.channel, command.token)
        except ChannelRefused as refused:
            # After an error reply the client would not subscribe again. After
            # this close code it reconnects and subscribes.
            if refused.reason == "expired":
                connection.close(CLOSE_SUBSCRIPTION_EXPIRED, "subscription expired")
                return None
            return self._answers.refused(refused)
        end = claims.expires_at
        _set_end(state, command.channel, end)
        if claims.info is not UNSET:
            state.set_info(command.channel, bytes(claims.info))
        return Reply(ReplyCode.OK, SubRefreshResult(end > 0, _ttl(end)))

    def check_ends(self, connection: Connection) -> None:
        """The regular check of a connection: close it if a token of a
        subscription was not renewed, or if the log that it could not follow at
        its login is available again. Let the back end renew sessions and
        subscriptions at their end.

        Never switches greenlets.
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
        """Close a connection if the client has not renewed the token of a
        subscription. Let the back end renew the subscriptions that it renews.
        ``all_ends``: also of channels that the client has left; they are
        forgotten. Never switches greenlets."""
        app = connection.app or ""
        has = self._channels.members.has
        ends = {
            channel: end
            for channel, end in all_ends.items()
            if has(connection, channel)
        }
        state.ends = ends or None
        for channel, end in ends.items():
            if end > now:
                continue
            options = self._channels.options.of(app, channel)
            if self._answers.are_renewed(app, options):
                ends[channel] = now + RENEWAL_SECONDS
                gevent.spawn(self._renew, connection, state, channel)
        if any(end < now - GRACE_SECONDS for end in ends.values()):
            connection.close(CLOSE_SUBSCRIPTION_EXPIRED, "subscription expired")

    def _renew(
        self, connection: Connection, state: CentrifugeState, channel: str = ""
    ) -> None:
        """Greenlet: ask the back end to renew a session, or its subscription to
        ``channel`` (``""``: the session). If the back end does not answer, it
        is asked again after :data:`RENEWAL_SECONDS`."""
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
        if answer.expired or 0 < answer.expire_at <= time():
            if channel:
                connection.close(CLOSE_SUBSCRIPTION_EXPIRED, "subscription expired")
            else:
                connection.close(CloseCode.TOKEN_INVALID)
        elif channel:
            _set_end(state, channel, answer.expire_at)
            if answer.info is not UNSET:
                state.set_info(channel, bytes(answer.info))
        else:
            state.expires_at = answer.expire_at
            _renew_facts(state, answer.info, answer.meta)

    def presence_stats(
        self, connection: Connection, command: AskPresenceStats
    ) -> Reply:
        """The numbers of subscribers and of users of a channel. May switch
        greenlets."""
        try:
            channel = self._commands.check_presence(connection, command.channel)
        except ChannelRefused as refused:
            return self._answers.refused(refused)
        counts = self._channels.members.count_users(
            connection.app or "", channel, Limit.PRESENCE
        )
        return Reply(ReplyCode.OK, PresenceStatsResult(*counts))


# --- also for the API ---------------------------------------------------------


def bytes_of(given: Raw | UnsetType) -> bytes:
    """The JSON of a field; ``b""`` if the field is left out."""
    if given is UNSET:
        return b""
    return bytes(given)


def infos_of_members(members: Sequence[ChannelMember]) -> dict[str, ClientView]:
    """Subscribers, by the ids of their connections."""
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
    """Publications of a channel."""
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
    """Note that a client has left the channel of its user. The mark
    :data:`BY_ALIAS` stays, because a notice about the end may follow, which
    needs the alias."""
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
    """Take the facts about a client from a renewed session. Facts that it
    leaves out stay."""
    if info is not UNSET:
        state.info = bytes(info)
    if state.facts is not None and meta is not UNSET:
        state.facts.meta = bytes(meta)


def _refuse_token(connection: Connection) -> Reply | None:
    """Close a connection so that its client does not connect again with this
    token."""
    connection.close(CLOSE_INVALID_TOKEN, "invalid token")
    return None


def _refused(connection: Connection, refused: BackEndRefused) -> Reply | None:
    """Answer with the error of the back end, or end the connection if the back
    end wants that."""
    if refused.disconnect is None:
        return Reply(codes.PERMISSION_DENIED, refused.error)
    connection.disconnect(*refused.disconnect)
    return None


def _with_grace(end: int) -> int:
    """The end of a session whose token ends at ``end``, with the time of grace;
    0: never."""
    if end:
        return end + GRACE_SECONDS
    return 0


def _ttl(end: float) -> int:
    """Seconds until a token ends; 0 if it never ends."""
    if end:
        return max(1, int(min(end - time(), _MOST_TTL)))
    return 0


def _result(
    subscription: Subscribed,
    recoverable: bool,
    recovering: bool,
    positioned: bool = False,
) -> SubscribeResult:
    """The answer to a new subscription.

    ``recoverable``: the client recovers publications that it misses.
    ``recovering``: it asks for the publications that it has missed until now.
    ``positioned``: it only wants to know its position.
    """
    result = SubscribeResult(was_recovering=recovering, delta=subscription.delta)
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
    """The channels that the token of a login or the back end names, without the
    channel of the user (``alias``)."""
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
    """The subscriptions of a login, under the names that its client knows."""
    results: dict[str, SubscribeResult] = {}
    if personal.name and not personal.is_subscribed:
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
    """Set when the token of a subscription ends. 0 means that it never ends."""
    if end:
        state.ends = state.ends or {}
        state.ends[channel] = end
    elif state.ends is not None:
        state.ends.pop(channel, None)
