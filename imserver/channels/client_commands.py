"""Commands of clients on channels: one rule for all dialects decides who may subscribe, publish and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final
from weakref import ref

from msgspec import UNSET, Raw

from imserver import errors
from imserver.auth.channel_tokens import ChannelClaims
from imserver.auth.login import Logins
from imserver.auth.rates import PUBLICATIONS, Buckets
from imserver.auth.rules import Rule
from imserver.auth.tokens import BadToken, TokenExpired
from imserver.channels.channels import Channels, Subscribed, check_known
from imserver.channels.consent import ChannelConsent
from imserver.channels.members import ChannelRefused, MemberPage, check_name, is_limited_to, needs_token
from imserver.cluster.history import HistoryPage, Position
from imserver.config.settings import ChannelSettings
from imserver.errors import IssuerUnavailable
from imserver.hub.hub import USER_CHANNEL
from imserver.model import (
    Answer,
    AskHistory,
    AskPresence,
    ChannelPart,
    DialectState,
    Event,
    Publish,
    Reply,
    Subscribe,
    Unsubscribe,
)
from imserver.protocol.dialect import Dialect
from imserver.sessions.connection_ids import ConnectionTable
from imserver.transport.connection import Connection
from imserver.transport.dispatch import CommandRow, CommandTable

MAX_PRESENCE: Final = 10_000
"""The most subscribers in an answer, and of which the users are counted exactly."""
SHARED_BYTES: Final = 4096
"""An encoded page of a history of so many bytes is remembered for its next reader."""
PAGES_BYTES: Final = 4 << 20
"""The most bytes of remembered pages."""
_NO_PAGE: Final[tuple[HistoryPage | None, Raw]] = (None, Raw())
_OK: Final = Reply(errors.ReplyCode.OK)
_NO_CLAIMS: Final = ChannelClaims()


class ChannelAnswers(ABC):
    """How a dialect answers the commands on channels. Its calls never switch, but for :meth:`presence`."""

    @abstractmethod
    def state_of(self, connection: Connection) -> DialectState:
        """The state of a connection that subscribes."""

    def channel_of(self, connection: Connection, name: str) -> str:
        """The channel that a client calls ``name``."""
        return name

    def receives(self, connection: Connection, channel: str) -> bool:
        """Whether a connection receives what is for a channel without being its member."""
        return False

    @abstractmethod
    def refused(self, refused: ChannelRefused) -> Reply:
        """The answer to a command that was refused."""

    @abstractmethod
    def subscribed(
        self, connection: Connection, command: Subscribe, claims: ChannelClaims, found: Subscribed
    ) -> Reply:
        """The answer to a new subscription. What is sent later is published later."""

    @abstractmethod
    def unsubscribed(self, connection: Connection, channel: str) -> None:
        """Remove a subscription from the state of a connection."""

    @abstractmethod
    def presence(self, dialect: Dialect, command: AskPresence, page: MemberPage) -> Reply:
        """The answer with the subscribers of a channel, for a connection with this codec. May switch."""

    @abstractmethod
    def history(self, dialect: Dialect, command: AskHistory, page: HistoryPage) -> Raw:
        """The data of the answer with publications of a channel, encoded by this codec."""


class ChannelCommands:
    """Carries out the commands on channels. ``answers``: dialect → how it answers. Dialects add theirs."""

    def __init__(
        self,
        channels: Channels,
        logins: Logins,
        consent: ChannelConsent,
        answers: dict[str, ChannelAnswers],
        table: ConnectionTable,
    ) -> None:
        self._channels = channels
        self._logins = logins
        self._consent = consent
        self.answers = answers
        self._table = table
        self._publications = Buckets(PUBLICATIONS)
        self._pages: dict[tuple[Dialect, str, AskHistory], tuple[HistoryPage, Raw]] = {}
        """Pages of histories as they were last sent, by codec, app and command; the oldest first."""
        self._pages_bytes = 0

    def rows(self) -> CommandTable:
        """The commands that this service runs."""
        return {
            Subscribe: CommandRow(self.subscribe, without_user=True, answers=True),
            Unsubscribe: CommandRow(self.unsubscribe, without_user=True),
            Publish: CommandRow(self.publish, without_user=True),
            AskPresence: CommandRow(self.presence, without_user=True),
            AskHistory: CommandRow(self.history, without_user=True),
        }

    def permit(self, connection: Connection, channel: str, token: str) -> ChannelClaims:
        """Check a subscription with the options that the channel has now; see :meth:`_permit`. The back end
        gets no data."""
        return self._permit(connection, channel, self._channels.options(connection.app or "", channel), token)

    def _permit(
        self, connection: Connection, channel: str, options: ChannelSettings, token: str, data: bytes = b""
    ) -> ChannelClaims:
        """The permission of a client to subscribe: the claims of its token, or the consent of the back end.

        A channel for members needs no token. Channels whose name says that they are private need
        one, even in an open app. ``data``: for the back end.

        Switches if the back end, a group or the issuer of the token is asked. Raises
        :class:`ChannelRefused`: ``unknown``, ``denied``, ``expired`` or ``unavailable``, and as
        :class:`ChannelConsent` does.
        """
        app, wanted = connection.app or "", options.subscribe
        check_known(options)
        if wanted == "members":
            self._consent.check_member(connection, channel)
            return _NO_CLAIMS
        if wanted == "nobody" or channel.startswith("#"):
            raise ChannelRefused("denied", "only the server subscribes clients to this channel")
        rule = self._logins.rule_of(app)
        if token and rule is not None and (rule.keys or rule.issuers):
            return self._proven(connection, channel, rule, token)
        user = connection.user
        if options.user_limited and user and is_limited_to(channel, user):
            return _NO_CLAIMS
        if wanted == "back_end" and (token or not needs_token(channel)):
            return self._consent.subscribe(connection, channel, token, data)
        is_open = wanted == "anybody" or (not wanted and rule is not None and rule.open)
        if is_open and not self._is_private(app, channel):
            check_user(connection, options)
            return _NO_CLAIMS
        raise ChannelRefused("denied", "the channel needs a token")

    def _is_private(self, app: str, channel: str) -> bool:
        """Whether clients need a token for a channel because of its name."""
        names = self._channels.names.get(app)
        return needs_token(channel) or (names is not None and names.needs_token(channel))

    def _check_allowed(
        self, connection: Connection, channel: str, options: ChannelSettings, whom: str
    ) -> None:
        """Refuse a client that is not one of ``whom``, a value of an option of the channel: ``anybody``
        (of private channels and those of users their subscribers), ``subscribers``, anything else nobody.
        Never switches."""
        check_known(options)
        is_closed = channel.startswith(USER_CHANNEL) or self._is_private(connection.app or "", channel)
        if whom == "anybody" and not is_closed:
            check_name(channel)
        elif whom in ("anybody", "subscribers"):
            self._check_member(connection, channel)
        else:
            raise ChannelRefused("denied")
        check_user(connection, options)

    def _proven(self, connection: Connection, channel: str, rule: Rule, token: str) -> ChannelClaims:
        """The claims of a token that permits this connection this channel."""
        try:
            claims = self._logins.read_channel_token(rule, token)
        except TokenExpired as expired:
            raise ChannelRefused("expired", str(expired)) from None
        except BadToken as bad:
            raise ChannelRefused("denied", str(bad)) from None
        except IssuerUnavailable as away:
            raise ChannelRefused("unavailable", str(away)) from None
        if claims.sub != connection.user or claims.channel != channel:
            raise ChannelRefused("denied", "the token is for another user or channel")
        if claims.app != "" and self._logins.resolve(str(claims.app)) != rule.name:
            raise ChannelRefused("denied", "the token is for another app")
        if claims.client and claims.client != self._table.id_of(connection):
            raise ChannelRefused("denied", "the token is for another connection")
        return claims

    def subscribe(self, connection: Connection, command: Subscribe, answer: Answer) -> Reply | None:
        """Subscribe to a channel. May switch."""
        answers = self._of(connection)
        channel = answers.channel_of(connection, command.channel)
        options = self._channels.options(connection.app or "", channel)
        try:
            if answers.receives(connection, command.channel):
                raise ChannelRefused("exists")
            claims = self._permit(connection, channel, options, command.token, command.data)
        except ChannelRefused as refused:
            return answers.refused(refused)
        info = b"" if claims.info is UNSET else bytes(claims.info)
        state = answers.state_of(connection) if info else connection.dialect_state
        before = set_info(state, channel, info)
        recovers = command.recover and options.may_recover
        since = Position(command.epoch, command.offset) if recovers else None
        try:
            found = self._channels.subscribe(
                connection, channel, options, since, command.delta, command.reject_unrecovered
            )
        except ChannelRefused as refused:
            set_info(state, channel, before)
            return answers.refused(refused)
        answer(answers.subscribed(connection, command, claims, found))
        self._channels.answered(connection, channel, found)
        if options.subscribe == "members":
            self._consent.confirm_member(connection, channel)
        return None

    def unsubscribe(self, connection: Connection, command: Unsubscribe) -> Reply:
        """End a subscription. Never switches."""
        answers = self._of(connection)
        channel = answers.channel_of(connection, command.channel)
        self._channels.unsubscribe(connection, channel)
        answers.unsubscribed(connection, channel)
        set_info(connection.dialect_state, channel, b"")
        return _OK

    def publish(self, connection: Connection, command: Publish) -> Reply:
        """Publish to a channel, if its options or the back end allow it. May switch."""
        app, channel = connection.app or "", self._of(connection).channel_of(connection, command.channel)
        options = self._channels.options(app, channel)
        rule, with_history = options.publish, True
        try:
            if rule != "back_end":
                self._check_allowed(connection, channel, options, rule)
            if limit := options.publications_per_second:
                payer = ref(connection), self._channels.namespace(app, channel)
                if not self._publications.take(payer, number=limit):
                    raise ChannelRefused("rate")
            part = ChannelPart(channel, info=self._channels.info_of(connection, channel))
            event = Event(
                "msg", connection.user or "", command.text, type=command.type, data=command.data, channel=part
            )
            event = self._consent.review(connection, channel, event)
            if rule == "back_end":
                event, with_history = self._consent.publish(connection, channel, event)
            else:
                self._check_allowed(connection, channel, options, rule)  # it may have left during the review
            self._channels.publish_event(app, channel, event, with_history=with_history)
        except ChannelRefused as refused:
            return self._of(connection).refused(refused)
        return _OK

    def presence(self, connection: Connection, command: AskPresence) -> Reply:
        """The subscribers of a channel. May switch."""
        answers = self._of(connection)
        try:
            channel = self.check_presence(connection, command.channel)
        except ChannelRefused as refused:
            return answers.refused(refused)
        limit = command.limit or MAX_PRESENCE
        page = self._channels.members.page(connection.app or "", channel, command.after, limit)
        return answers.presence(connection.encoding.dialect, command, page)

    def check_presence(self, connection: Connection, name: str) -> str:
        """The channel that a client calls ``name``. Raises :class:`ChannelRefused` if the client may not see
        its subscribers. Never switches.
        """
        channel, options = self._find(connection, name)
        self._check_reader(connection, name, options, options.read_presence)
        if not options.presence:
            raise ChannelRefused("not_available")
        return channel

    def history(self, connection: Connection, command: AskHistory) -> Reply:
        """Publications of a channel. May switch."""
        app, name = connection.app or "", command.channel
        channel, options = self._find(connection, name)
        try:
            self._check_reader(connection, name, options, options.read_history)
            if not options.has_history:
                raise ChannelRefused("not_available")
            page = history_since(self._channels, app, channel, command.since, command.limit, command.reverse)
        except ChannelRefused as refused:
            return self._of(connection).refused(refused)
        return Reply(errors.ReplyCode.OK, self._encoded(connection, command, page))

    def _encoded(self, connection: Connection, command: AskHistory, page: HistoryPage) -> Raw:
        """A page of a history for a client. Many often ask for the same one at once: it is encoded once."""
        dialect = connection.encoding.dialect
        key = (dialect, connection.app or "", command)
        known, encoded = self._pages.pop(key, _NO_PAGE)
        self._pages_bytes -= len(encoded)
        if known != page:
            encoded = self._of(connection).history(dialect, command, page)
        if len(encoded) >= SHARED_BYTES:
            self._pages[key] = page, encoded
            self._pages_bytes += len(encoded)
            while self._pages_bytes > PAGES_BYTES:
                self._pages_bytes -= len(self._pages.pop(next(iter(self._pages)))[1])
        return encoded

    def _check_member(self, connection: Connection, channel: str) -> None:
        if not self._channels.members.has(connection, channel):
            raise ChannelRefused("denied", "the client is not subscribed to the channel")

    def _find(self, connection: Connection, name: str) -> tuple[str, ChannelSettings]:
        """The channel that a client calls ``name``, and its options."""
        channel = self._of(connection).channel_of(connection, name)
        return channel, self._channels.options(connection.app or "", channel)

    def _check_reader(
        self, connection: Connection, name: str, options: ChannelSettings, readers: str
    ) -> None:
        answers = self._of(connection)
        if answers.receives(connection, name):  # neither its publications nor its subscribers are stored
            raise ChannelRefused("not_available")
        self._check_allowed(connection, answers.channel_of(connection, name), options, readers)

    def _of(self, connection: Connection) -> ChannelAnswers:
        return self.answers[connection.encoding.dialect.name]


def history_since(
    channels: Channels, app: str, channel: str, since: tuple[str, int] | None, limit: int, reverse: bool
) -> HistoryPage:
    """Publications of a channel. May switch.

    Raises :class:`ChannelRefused`: ``unavailable``, or ``unrecoverable`` (the history has another epoch).
    """
    position = None if since is None else Position(*since)
    page = channels.history(app, channel, position, limit, reverse)
    if position is not None and position.epoch and position.epoch != page.position.epoch:
        raise ChannelRefused("unrecoverable")
    return page


def check_user(connection: Connection, options: ChannelSettings) -> None:
    """Refuse a client without a user if the channel is for users. Never switches."""
    if not (options.anonymous or connection.user):
        raise ChannelRefused("denied", "the channel is for users")


def set_info(state: DialectState | None, channel: str, info: bytes) -> bytes:
    """Set the data about a client that others in a channel see; ``b""``: none. Return the data before."""
    if state is None or not (info or state.channel_infos):
        return b""
    infos = state.channel_infos = state.channel_infos or {}
    before = infos.pop(channel, b"")
    if info:
        infos[channel] = info
    return before
