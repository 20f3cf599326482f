"""Commands of clients on channels. One rule for all dialects decides who may
subscribe, publish and read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar, Final, Literal
from weakref import ref

from msgspec import UNSET, Raw, Struct, UnsetType, field

from imserver.gateway.auth.channel_tokens import ChannelClaims
from imserver.gateway.auth.json_web_tokens import BadToken
from imserver.gateway.auth.login import Logins
from imserver.gateway.auth.principal import BAD_TOKEN, Needs, Principal
from imserver.gateway.auth.rules import Rule
from imserver.gateway.auth.tokens import TokenExpired
from imserver.gateway.channels.consent import ChannelClient, ChannelConsent
from imserver.gateway.channels.histories import Published
from imserver.gateway.channels.members import (
    ChannelMember,
    ChannelRefused,
    check_name,
    is_limited_to,
    needs_token,
)
from imserver.gateway.channels.options import check_known
from imserver.gateway.channels.subscriptions import Channels, Subscribed
from imserver.gateway.cluster.history import HistoryPage, Position
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.errors import IssuerUnavailable, ReplyCode
from imserver.gateway.hub.hub import USER_CHANNEL
from imserver.gateway.model import (
    Answer,
    AskHistory,
    AskPresence,
    ChannelPart,
    DialectState,
    Event,
    Limit,
    Publish,
    Reply,
    Service,
    Subscribe,
    Unsubscribe,
)
from imserver.gateway.protocol.dialect import Dialect
from imserver.gateway.sessions.connection_ids import ConnectionTable
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.dispatch import CommandRow, CommandTable

_NO_CLAIMS: Final = ChannelClaims()
_LEAST_PAGE_BYTES: Final = 4096
"""A page of at least this size in bytes is remembered for its next reader."""
_MOST_PAGES_BYTES: Final = 4 << 20
"""Limit of the bytes of all remembered pages."""


class _Requester(Struct, frozen=True):
    """The maker of an HTTP request, in place of a connection. ``user`` is None
    if the request has no user."""

    app: str
    user: str | None
    is_open: bool = True


class ChannelAnswers(ABC):
    """Makes the answers of one dialect to the commands on channels.

    A dialect is a protocol of clients. The calls never switch greenlets, except
    :meth:`presence`.
    """

    dialect: ClassVar[str]

    @abstractmethod
    def state_of(self, connection: Connection) -> DialectState:
        """Return the state of a connection that subscribes."""

    def channel_of(self, connection: Connection, name: str) -> str:
        """Return the name of a channel that a client calls ``name``."""
        return name

    def receives(self, connection: Connection, channel: str) -> bool:
        """Whether a connection receives the publications of a channel without a
        subscription."""
        return False

    @abstractmethod
    def refused(self, refused: ChannelRefused) -> Reply:
        """Return the answer to a command that was refused."""

    @abstractmethod
    def subscribed(
        self,
        connection: Connection,
        command: Subscribe,
        found: Subscribed,
        data: Raw | UnsetType,
        end: int,
    ) -> Reply:
        """Return the answer to a new subscription. Later publications follow
        this answer.

        ``data`` is JSON for the client, from its token or the back end. ``end``
        is the Unix second at which the subscription ends; 0: it never ends.
        """

    @abstractmethod
    def unsubscribed(self, connection: Connection, channel: str) -> None:
        """Remove a subscription from the state of a connection."""

    @abstractmethod
    def presence(
        self,
        dialect: Dialect,
        command: AskPresence,
        members: Sequence[ChannelMember],
        total: int,
        after: str,
    ) -> Reply:
        """Return the answer with some of the ``total`` subscribers of a
        channel.

        ``dialect`` is the codec of the connection that gets the answer.
        ``after`` is the cursor of the next page; ``""`` means that this is the
        last page. May switch greenlets.
        """

    @abstractmethod
    def history(
        self,
        dialect: Dialect,
        command: AskHistory,
        publications: Sequence[Event],
        position: Position,
    ) -> Raw:
        """Return the data of the answer with publications of a channel.

        ``dialect`` is the codec that encodes the data. ``position`` is the
        position of the newest publication of the channel.
        """


class ChannelCommands(Service):
    """Carries out the commands of clients on channels, in all dialects.

    ``answers`` maps a dialect to the object that makes its answers.
    """

    channels: Channels
    logins: Logins
    consent: ChannelConsent
    answers: dict[str, ChannelAnswers]
    table: ConnectionTable
    _pages: dict[tuple[Dialect, str, AskHistory], tuple[HistoryPage, Raw]] = field(
        default_factory=dict
    )
    """Codec, app and command → the page of a history, as it was last sent. The
    page that was sent longest ago comes first."""
    _pages_bytes: int = 0

    def ask(self, answers: ChannelAnswers) -> None:
        """Let this object make the answers of its dialect from now on."""
        self.answers[answers.dialect] = answers

    def commands(self) -> CommandTable:
        """Return the commands of clients that this service runs."""
        return {
            Subscribe: CommandRow(self.subscribe, without_user=True, answers=True),
            Unsubscribe: CommandRow(self.unsubscribe, without_user=True),
            Publish: CommandRow(self.publish, without_user=True),
            AskPresence: CommandRow(self.presence, without_user=True),
            AskHistory: CommandRow(self.history, without_user=True),
        }

    def permit(self, connection: Connection, channel: str, token: str) -> ChannelClaims:
        """Check whether a connection may subscribe, with the current options of
        the channel.

        See :meth:`_permit` for the result and the errors.
        """
        options = self.channels.options.of(connection.app or "", channel)
        return self._permit(connection, channel, options, token)

    def _permit(
        self,
        connection: ChannelClient,
        channel: str,
        options: ChannelSettings,
        token: str,
        data: bytes = b"",
    ) -> ChannelClaims:
        """Check whether a client may subscribe to a channel.

        Returns the claims of the client's token, or the answer of the back end.
        Without a token and an answer, the claims are empty. A channel for
        members needs no token. A channel with a private name needs a token,
        even in an open app. ``data`` is JSON of the client for the back end;
        ``b""`` if the client has sent no data.

        Switches greenlets if the back end, a group or the issuer of the token
        is asked. Raises :class:`ChannelRefused`: ``unknown``, ``denied``,
        ``expired`` or ``unavailable``, and as :class:`ChannelConsent` does.
        """
        app = connection.app or ""
        user = connection.user
        admitted = options.subscribe
        check_known(options)
        if admitted == "members":
            self.consent.check_member(connection, channel)
            return _NO_CLAIMS
        if admitted == "nobody" or channel.startswith("#"):
            raise ChannelRefused(
                "denied", "only the server subscribes clients to this channel"
            )

        # If the client has sent a token, only the token decides, even if no
        # token is needed.
        rule = self.logins.rule_of(app)
        if token and rule is not None and (rule.keys or rule.issuers):
            return self._read_claims(connection, channel, rule, token)

        # The name of the channel lists the user, as in "news#1,2".
        if options.user_limited and user and is_limited_to(channel, user):
            return _NO_CLAIMS
        if admitted == "back_end" and (token or not needs_token(channel)):
            return self._ask_back_end(connection, channel, token, data)
        if self._needs_no_token(app, channel, admitted, rule):
            self.channels.options.check_user(user, options)
            return _NO_CLAIMS
        raise ChannelRefused("denied", "the channel needs a token")

    def _ask_back_end(
        self, connection: ChannelClient, channel: str, token: str, data: bytes
    ) -> ChannelClaims:
        """Ask the back end whether a client may subscribe. Only a connection
        can do that, not an HTTP request."""
        if not isinstance(connection, Connection):
            raise _only_connections()
        return self.consent.subscribe(connection, channel, token, data)

    def _needs_no_token(
        self, app: str, channel: str, admitted: str, rule: Rule | None
    ) -> bool:
        """Whether anybody may subscribe to a channel.

        ``admitted`` is the option ``subscribe`` of the channel: it must be
        ``anybody``, or ``""`` in an open app. A channel with a private name
        always needs a token.
        """
        is_open = admitted == "anybody"
        if not admitted and rule is not None:
            is_open = rule.open
        return is_open and not self.channels.options.is_private(app, channel)

    def _check_allowed(
        self,
        connection: ChannelClient,
        channel: str,
        options: ChannelSettings,
        admitted: str,
    ) -> None:
        """Raise :class:`ChannelRefused` if an option of a channel does not
        admit a client.

        ``admitted`` is the value of the option:

        - ``anybody`` admits all clients. If the channel is private or belongs
          to a user, only the subscribers are admitted.
        - ``subscribers`` admits the subscribers.
        - All other values admit nobody.

        Never switches greenlets for a connection.
        """
        check_known(options)
        app = connection.app or ""
        is_private = self.channels.options.is_private(app, channel)
        is_closed = channel.startswith(USER_CHANNEL) or is_private
        if admitted == "anybody" and not is_closed:
            check_name(channel)
        elif admitted in ("anybody", "subscribers"):
            # An HTTP request has no subscription. It is admitted if its user
            # may subscribe.
            if not isinstance(connection, Connection):
                self._permit(connection, channel, options, token="")
            elif not self.channels.members.has(connection, channel):
                raise ChannelRefused(
                    "denied", "the client is not subscribed to the channel"
                )
        else:
            raise ChannelRefused("denied")
        self.channels.options.check_user(connection.user, options)

    def _read_claims(
        self, connection: ChannelClient, channel: str, rule: Rule, token: str
    ) -> ChannelClaims:
        """Return the claims of a token that permits a client to subscribe to a
        channel.

        Raises :class:`ChannelRefused` if the token is invalid, or is for
        another user or channel.
        """
        claims = self._verified_claims(rule, token)
        if claims.sub != connection.user or claims.channel != channel:
            raise ChannelRefused("denied", "the token is for another user or channel")
        if claims.app != "" and self.logins.resolve(str(claims.app)) != rule.name:
            raise ChannelRefused("denied", "the token is for another app")
        # The token may be for a single connection.
        if claims.client and not self._has_id(connection, claims.client):
            raise ChannelRefused("denied", "the token is for another connection")
        return claims

    def _verified_claims(self, rule: Rule, token: str) -> ChannelClaims:
        """Return the claims of a token that a key of the app has signed.

        Raises :class:`ChannelRefused` if the token is invalid.
        """
        try:
            return self.logins.read_channel_token(rule, token)
        except TokenExpired as expired:
            raise ChannelRefused("expired", str(expired)) from None
        except BadToken as bad:
            raise ChannelRefused("denied", str(bad)) from None
        except IssuerUnavailable as away:
            raise ChannelRefused("unavailable", str(away)) from None

    def _has_id(self, client: ChannelClient, id: str) -> bool:
        """Whether a client is the connection with this id."""
        return isinstance(client, Connection) and self.table.id_of(client) == id

    def subscribe(
        self, connection: Connection, command: Subscribe, answer: Answer
    ) -> Reply | None:
        """Subscribe a client to a channel, as its command asks.

        If the client is subscribed, ``answer`` has sent the reply and the
        result is None. If the command is refused, the refusal is returned. May
        switch greenlets.
        """
        answers = self._answers_for(connection)
        channel = answers.channel_of(connection, command.channel)
        options = self.channels.options.of(connection.app or "", channel)
        try:
            # The client receives the channel without a subscription.
            if answers.receives(connection, command.channel):
                raise ChannelRefused("exists")
            claims = self._permit(
                connection, channel, options, command.token, command.data
            )
            subscription = self._subscribe(
                connection, command, channel, options, claims
            )
        except ChannelRefused as refused:
            return answers.refused(refused)

        reply = answers.subscribed(
            connection, command, subscription, claims.data, claims.expires_at
        )
        # The client first gets the answer, then the publications that have come
        # meanwhile.
        answer(reply)
        self.channels.subscriptions.answered(connection, channel, subscription)
        self.consent.confirm_member(connection, channel)
        return None

    def _subscribe(
        self,
        connection: Connection,
        command: Subscribe,
        channel: str,
        options: ChannelSettings,
        claims: ChannelClaims,
    ) -> Subscribed:
        """Subscribe a client that has the permission (``claims``).

        Also sets the info that other members see. Raises
        :class:`ChannelRefused`.
        """
        # The info is set before the subscription, because the notice to the
        # other members has it.
        info = b"" if claims.info is UNSET else bytes(claims.info)
        state = connection.dialect_state
        if info:
            state = self._answers_for(connection).state_of(connection)
        former_info = b""
        if state is not None:
            former_info = state.set_info(channel, info)
        try:
            return self.channels.subscriptions.subscribe(
                connection,
                channel,
                options,
                _recovery_position(command, options),
                command.delta,
                command.reject_unrecovered,
            )
        except ChannelRefused:
            if state is not None:
                state.set_info(channel, former_info)
            raise

    def unsubscribe(self, connection: Connection, command: Unsubscribe) -> Reply:
        """End a subscription of a client. Never switches greenlets."""
        answers = self._answers_for(connection)
        channel = answers.channel_of(connection, command.channel)
        self.channels.subscriptions.unsubscribe(connection, channel)
        answers.unsubscribed(connection, channel)
        if connection.dialect_state is not None:
            connection.dialect_state.set_info(channel, b"")  # removes the info
        return Reply.OK

    def publish(self, connection: Connection, command: Publish) -> Reply:
        """Publish to a channel, if its options or the back end allow it.

        May switch greenlets.
        """
        channel = self._answers_for(connection).channel_of(connection, command.channel)
        info = self.channels.notices.info_of(connection, channel)
        event = Event(
            "msg",
            connection.user or "",
            command.text,
            type=command.type,
            data=command.data,
            channel=ChannelPart(channel, info=info),
        )
        # The publications are counted for the connection, as long as it exists.
        try:
            self._publish(connection, channel, event, ref(connection))
        except ChannelRefused as refused:
            return self._answers_for(connection).refused(refused)
        return Reply.OK

    def _publish(
        self,
        client: ChannelClient,
        channel: str,
        event: Event,
        payer: Hashable,
        with_history: bool = True,
    ) -> Published:
        """Publish an event of a client, if the channel, the rate and the back
        end allow it.

        The publication is counted for ``payer``, who may make only a limited
        number of publications per second. May switch greenlets. Raises
        :class:`ChannelRefused`.
        """
        app = client.app or ""
        options = self.channels.options.of(app, channel)
        rule = options.publish
        # The back end is asked last, because this takes longest.
        if rule != "back_end":
            self._check_allowed(client, channel, options, rule)
        elif not isinstance(client, Connection):
            raise _only_connections()

        publishing = self.channels.publishing
        publishing.require_quota(app)
        limit = options.publications_per_second
        if limit and not publishing.count_publication(payer, app, channel, limit):
            raise ChannelRefused("rate")

        event = self.consent.review(client, channel, event)
        if rule == "back_end" and isinstance(client, Connection):
            event, stored = self.consent.publish(client, channel, event)
            with_history = with_history and stored
        else:
            # The client may have left the channel during the review.
            self._check_allowed(client, channel, options, rule)
        return publishing.publish_event(app, channel, event, with_history=with_history)

    # --- requests -------------------------------------------------------------

    def check_request(
        self,
        principal: Principal,
        app: str,
        channel: str,
        action: Literal["subscribe", "publish"],
        token: str = "",
    ) -> None:
        """Check whether the maker of an HTTP request may subscribe or publish
        to a channel.

        A back end needs an API key with the scope ``read`` or ``push``. A user
        may do what a connection of this user may. In an open app anybody may do
        what a connection without a user may. ``publish: subscribers`` admits a
        user who may subscribe to the channel. ``token`` is the token of a
        subscription.

        May switch greenlets. Raises :class:`ChannelRefused`: ``unknown``,
        ``denied``, ``expired`` or ``unavailable``. The caller checks whether
        the user is banned, as routes do.
        """
        check_name(channel)
        options = self.channels.options.of(app, channel)
        check_known(options)
        needs = Needs.READ if action == "subscribe" else Needs.PUSH
        if principal.may(needs, app):
            return

        # The maker is not a back end, but a user or somebody without a token.
        client = self._requester(principal, app)
        if action == "subscribe":
            self._permit(client, channel, options, token)
        elif options.publish == "back_end":
            raise _only_connections()
        else:
            self._check_allowed(client, channel, options, options.publish)

    def publish_request(
        self,
        principal: Principal,
        host: str,
        app: str,
        channel: str,
        event: Event,
        with_history: bool = True,
    ) -> Published:
        """Publish an event for the maker of an HTTP request.

        The maker needs the permission of :meth:`check_request`. The publication
        of a user is reviewed and counted as on a connection. ``host`` is the
        address of the client. May switch greenlets. Raises
        :class:`ChannelRefused`, also as :meth:`Channels.publish_event` does.
        """
        check_name(channel)
        self.channels.publishing.require_quota(app)
        if principal.may(Needs.PUSH, app):
            return self.channels.publishing.publish_event(
                app, channel, event, with_history=with_history
            )
        client = self._requester(principal, app)
        # If the request has no user, its publications are counted for the
        # address.
        payer = (app, client.user or host)
        return self._publish(client, channel, event, payer, with_history)

    def _requester(self, principal: Principal, app: str) -> _Requester:
        """Return the client that makes an HTTP request without a key.

        The client is a user of the app. In an open app, it may also be somebody
        without a user. Raises :class:`ChannelRefused` for anybody else.
        """
        rule = self.logins.rule_of(app)
        if principal.user and principal.app == app:
            return _Requester(app, principal.user)
        # An invalid token is not the same as no token.
        is_nobody = principal.kind == "nobody" and principal is not BAD_TOKEN
        if is_nobody and rule is not None and rule.open:
            return _Requester(app, user=None)
        raise ChannelRefused("denied", "the app needs a key or token for this")

    def presence(self, connection: Connection, command: AskPresence) -> Reply:
        """Answer who is subscribed to a channel. May switch greenlets."""
        answers = self._answers_for(connection)
        try:
            channel = self.check_presence(connection, command.channel)
        except ChannelRefused as refused:
            return answers.refused(refused)
        # 0 means that the server chooses the limit.
        limit = command.limit or Limit.PRESENCE
        page = self.channels.members.page(
            connection.app or "", channel, command.after, limit
        )
        return answers.presence(
            connection.encoding.dialect, command, page.members, page.total, page.next
        )

    def check_presence(self, connection: Connection, name: str) -> str:
        """Return the channel that a client calls ``name``, if the client may
        see the subscribers of the channel.

        Raises :class:`ChannelRefused`. Never switches greenlets.
        """
        return self._check_readable(connection, name, _presence_of)

    def history(self, connection: Connection, command: AskHistory) -> Reply:
        """Answer which publications a channel retains. May switch greenlets."""
        app = connection.app or ""
        answers = self._answers_for(connection)
        try:
            channel = self._check_readable(connection, command.channel, _history_of)
            page = self.channels.histories.read_since(
                app, channel, command.since, command.limit, command.reverse
            )
        except ChannelRefused as refused:
            return answers.refused(refused)

        # After a restart of a node, many clients ask for the same page at once.
        encoded = self._encode_page(
            answers, connection.encoding.dialect, command, app, page
        )
        return Reply(ReplyCode.OK, encoded)

    def _encode_page(
        self,
        answers: ChannelAnswers,
        dialect: Dialect,
        command: AskHistory,
        app: str,
        page: HistoryPage,
    ) -> Raw:
        """Encode a page of a history for a dialect.

        Large pages are remembered, because often many clients ask for the same
        page at once.
        """
        key = (dialect, app, command)
        last_page, encoded = self._pages.pop(key, (None, Raw()))
        self._pages_bytes -= len(encoded)
        if last_page != page:
            encoded = answers.history(
                dialect, command, page.publications, page.position
            )
        if len(encoded) >= _LEAST_PAGE_BYTES:
            # The page goes to the end, so that the page that was sent longest
            # ago comes first.
            self._pages[key] = (page, encoded)
            self._pages_bytes += len(encoded)
            self._drop_oldest_pages()
        return encoded

    def _drop_oldest_pages(self) -> None:
        """Forget the pages that were sent longest ago, until the remaining
        pages fit."""
        while self._pages_bytes > _MOST_PAGES_BYTES:
            oldest = next(iter(self._pages))
            _, dropped = self._pages.pop(oldest)
            self._pages_bytes -= len(dropped)

    def _check_readable(
        self,
        connection: Connection,
        name: str,
        rule_of: Callable[[ChannelSettings], tuple[str, bool]],
    ) -> str:
        """Return the channel that a client calls ``name``, if the client may
        read it.

        ``rule_of`` chooses between the history and the presence of the channel.
        It returns two values from its options: who may read the history (or the
        presence), and whether the channel has one. Raises
        :class:`ChannelRefused`.
        """
        answers = self._answers_for(connection)
        channel = answers.channel_of(connection, name)
        options = self.channels.options.of(connection.app or "", channel)
        readers, has_it = rule_of(options)
        # If the client receives the channel without a subscription, the node
        # knows neither its publications nor its subscribers.
        if answers.receives(connection, name):
            raise ChannelRefused("not_available")
        self._check_allowed(connection, channel, options, readers)
        if not has_it:
            raise ChannelRefused("not_available")
        return channel

    def _answers_for(self, connection: Connection) -> ChannelAnswers:
        """Return the object that makes the answers for a connection."""
        return self.answers[connection.encoding.dialect.name]


def _recovery_position(command: Subscribe, options: ChannelSettings) -> Position | None:
    """Return the position of a client that comes back; None if the client is
    new, or recovers nothing."""
    if command.recover and options.may_recover:
        return Position(command.epoch, command.offset)
    return None


def _presence_of(options: ChannelSettings) -> tuple[str, bool]:
    """Return who may see the subscribers of a channel, and whether it shows
    them at all."""
    return options.read_presence, options.presence


def _history_of(options: ChannelSettings) -> tuple[str, bool]:
    """Return who may read the history of a channel, and whether it has one."""
    return options.read_history, options.has_history


def _only_connections() -> ChannelRefused:
    """Return the refusal of an HTTP request for which the back end would have
    to be asked."""
    return ChannelRefused(
        "denied", "the back end of the app decides about connections only"
    )
