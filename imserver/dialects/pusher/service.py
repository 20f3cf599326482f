"""The pusher dialect: channels, presence, client events and sign-ins of
Pusher's protocol.

A connection names its app by a public key. The connection has no user until it
signs in: the ``user_id`` of a presence channel counts in this channel only. The
beginning of a channel's name decides which signature of the back end a
subscription needs.
"""

import logging
from collections.abc import Iterable, Iterator
from time import time
from typing import Any, Final
from weakref import ref

import gevent
import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from imserver.dialects.pusher import wire
from imserver.dialects.pusher.apps import PusherApp, PusherApps, PusherHooks
from imserver.dialects.pusher.declared import CLIENT_EVENTS
from imserver.dialects.pusher.wire import (
    CACHED,
    ENCRYPTED,
    PRESENCE,
    PRIVATE,
    USER_CHANNEL,
    ClientEvent,
    PusherSubscribe,
    PusherUnsubscribe,
    SignIn,
)
from imserver.plugin.errors import CloseCode, ImserverError, ReplyCode
from imserver.plugin.identity import Buckets, LoginDecision
from imserver.plugin.services import (
    ChannelMember,
    ChannelRefused,
    Core,
    Position,
    Subscribed,
)
from imserver.plugin.wire import (
    ChannelPart,
    CommandRow,
    CommandTable,
    Connection,
    DialectState,
    Event,
    Head,
    Login,
    Reply,
    base64url,
)

NAME: Final = "pusher"
_HALF_BYTES: Final = 14
"""Half of the bytes of a decoded connection id."""
_HALF_DIGITS: Final = 40
"""A half of a ``socket_id`` with as many digits, or with more, is refused. A
right half has fewer digits."""
_PAGE: Final = 1000
_MOST_NOTIFIERS: Final = 16
"""The most greenlets that notify presence channels of users who have gone."""
_MANY_SUBSCRIBERS: Final = 100
"""A channel with more subscribers is counted less often."""
_COUNT_SECONDS: Final = 5.0
"""How often the server counts a channel with many subscribers."""
_STATUSES: Final = {"denied": 403, "full": 403, "rate": 429, "unavailable": 503}
"""Reason of a :class:`ChannelRefused` → the status that the client gets. Other
reasons have :data:`_OTHER_STATUS`."""
_OTHER_STATUS: Final = 400
_KINDS: Final = {"full": "LimitReached", "denied": "AuthError"}
"""Reason of a :class:`ChannelRefused` → the kind of the error. Other reasons
have ``Refused``."""
log = logging.getLogger(__name__)


class _Member(Struct):
    """The identity of a subscriber of a presence channel, as its back end has
    signed it."""

    user_id: str | int
    user_info: Raw = Raw(b"null")


class PusherState(DialectState, gc=False):
    """The state of a client.

    ``members``: the presence channels in which the client is a member, each
    with the id of its user in the channel. ``dotnet``: whether the client uses
    Pusher's library for .NET, which expects another event for a refused
    subscription.
    """

    dotnet: bool = False
    members: dict[str, str] = msgspec.field(default_factory=dict)


class _UserHere(Struct):
    """A user of a presence channel on this node.

    ``connections``: the number of connections of the user, including
    connections that are just subscribing. ``shown``: whether one of their
    subscriptions was answered. Then the other subscribers know the user.
    """

    connections: int = 0
    shown: bool = False


class _UserData(Struct):
    """The JSON text about a user who signs in. Other fields of the text are
    ignored."""

    id: str | int


class NotPermitted(ImserverError):
    """The refusal of a subscription by the rules of this dialect.

    ``kind``: the kind of the error in Pusher's protocol, such as ``AuthError``.
    ``status``: a status of HTTP. The client gets both with the text.
    """

    def __init__(self, text: str, kind: str = "AuthError", status: int = 401) -> None:
        super().__init__(text)
        self.kind = kind
        self.status = status


def socket_id_of(connection_id: str) -> str:
    """The ``socket_id`` of a connection: its id as two numbers, such as
    ``123.456``.

    Clients and back ends of Pusher know a connection only by its ``socket_id``.
    """
    raw = base64url.decode(connection_id)
    first = int.from_bytes(raw[:_HALF_BYTES], "big")
    second = int.from_bytes(raw[_HALF_BYTES:], "big")
    return f"{first}.{second}"


def connection_id_of(socket_id: str) -> str:
    """The id of the connection with this ``socket_id``, such as ``123.456``.

    Returns ``""`` if the text is not a ``socket_id``.
    """
    first, _, second = socket_id.partition(".")
    try:
        return base64url.encode(_half_of(first) + _half_of(second))
    except (ValueError, OverflowError):
        return ""


def _half_of(digits: str) -> bytes:
    """Decode a number of a ``socket_id`` to bytes. Raises ValueError and
    OverflowError."""
    if not (digits.isascii() and digits.isdecimal() and len(digits) < _HALF_DIGITS):
        raise ValueError("no number")
    return int(digits).to_bytes(_HALF_BYTES, "big")


class PusherService:
    """Serves the clients of the pusher dialect.

    The service knows which users are in the presence channels on this node.
    Only the first connection of a user is announced to the other members, and
    only the end of the last connection.
    """

    def __init__(self, core: Core, apps: PusherApps, hooks: PusherHooks) -> None:
        """Take the services of the core, and register for clients that leave
        channels."""
        self._hub = core.hub
        self._sessions = core.sessions
        self._channels = core.channels
        self._connections = core.connections
        self._logins = core.logins
        self._consent = core.consent
        self._apps = apps
        self._hooks = hooks
        self._client_events = Buckets(CLIENT_EVENTS)
        self._scheduled_counts: set[tuple[str, str]] = set()
        """Channels whose number of subscribers will be sent soon."""
        self._users: dict[tuple[str, str], dict[str, _UserHere]] = {}
        """(app, presence channel) → its users on this node."""
        self._unnotified: dict[tuple[str, str, str], None] = {}
        """(app, presence channel, user) of users who have left the channel on
        this node. The channel is not notified yet."""
        # The number of greenlets that send these notices.
        self._notifiers = 0
        self._channels.members.report_to(parted=self._parted, left=self._left)

    def commands(self) -> CommandTable:
        """The commands that this service carries out."""
        return {
            PusherSubscribe: CommandRow(self.subscribe, without_user=True),
            PusherUnsubscribe: CommandRow(self.unsubscribe, without_user=True),
            ClientEvent: CommandRow(self.send, without_user=True),
            SignIn: CommandRow(self.sign_in, without_user=True),
        }

    # --- connections ----------------------------------------------------------

    def opened(self, connection: Connection, head: Head) -> None:
        """Put a new connection into the app of the key in its path, and send
        its ``socket_id``.

        The path is ``/app/<key>``. The connection is closed if no app has this
        key, or if the client speaks another version of the protocol.
        """
        app = self._apps.by_key.get(head.path.split("/")[2])
        if app is None:
            self._refuse_key(connection)
            return

        params = head.params()
        if params.get("protocol", "") not in map(str, wire.VERSIONS):
            self._refuse_version(connection, app.app)
            return

        decision = self._logins.admit(app.app, NAME, connection)
        if not decision.ok:
            connection.close(decision.close)
            return

        if params.get("client") == wire.DOTNET:
            connection.dialect_state = PusherState(dotnet=True)
        # A client may use public channels at once. It signs in later, or never.
        self._sessions.begin_without_user(connection, app.app, decision)
        socket_id = self.socket_id(connection)
        connection.send(wire.established(socket_id, app.settings.activity_seconds))

    def _refuse_key(self, connection: Connection) -> None:
        """Close a connection whose path has a key that no app has."""
        self._logins.refused(
            "app", "", "", connection.peer, "no app has this pusher.key"
        )
        connection.close(CloseCode.APP_DELETED, "no app has this key")

    def _refuse_version(self, connection: Connection, app: str) -> None:
        """Close a connection whose client speaks another version of the
        protocol."""
        self._logins.refused("version", app, "", connection.peer)
        connection.close(
            CloseCode.UNSUPPORTED_DATA,
            "only versions 4 to 7 of the protocol are supported",
        )

    def socket_id(self, connection: Connection) -> str:
        """The ``socket_id`` of a connection of this node."""
        return socket_id_of(self._connections.id_of(connection))

    def _app_of(self, connection: Connection) -> PusherApp | None:
        """The app of a connection.

        The result is None if the app has no pusher settings any more. Then the
        connection is closed.
        """
        app = self._apps.by_name.get(connection.app or "")
        if app is None:
            connection.close(CloseCode.APP_DELETED)
        return app

    # --- users ----------------------------------------------------------------

    def sign_in(self, connection: Connection, command: SignIn) -> Reply:
        """Make the connection a session of the user whom the back end has
        signed.

        Only a sign-in proves who the user is: back ends also sign presence data
        for names that clients choose. May switch greenlets.
        """
        app = self._app_of(connection)
        if app is None:
            return Reply.OK

        # The signature is for this connection only, so nobody can reuse it.
        signed = f"{self.socket_id(connection)}::user::{command.user_data}"
        try:
            user = str(msgspec.json.decode(command.user_data, type=_UserData).id)
        except (ValueError, RecursionError):
            user = ""
        if not (user and app.allows(signed, command.auth)):
            self._refuse_sign_in(connection, app.app, user)
            return Reply.OK

        if not connection.user:
            login = Login(app.app, user)
            decision = LoginDecision(user=user)
            code = self._sessions.login(
                connection, login, again=True, decision=decision
            )
        elif connection.user == user:
            code = ReplyCode.OK
        else:
            # A connection keeps its user until its end.
            code = ReplyCode.FAILED
            self._logins.refused("again", app.app, user, connection.peer)
        if code == ReplyCode.OK:
            connection.send(wire.signed_in(command.user_data))
        else:
            connection.close(CloseCode.NOT_ALLOWED)
        return Reply.OK

    def _refuse_sign_in(self, connection: Connection, app: str, user: str) -> None:
        """Close a connection whose sign-in is not signed, or names no user
        (``""``)."""
        self._logins.refused(
            "token", app, user, connection.peer, "the sign-in is not signed"
        )
        connection.close(
            CloseCode.TOKEN_INVALID, "the sign-in is not signed, or names no user"
        )

    # --- subscriptions --------------------------------------------------------

    def subscribe(self, connection: Connection, command: PusherSubscribe) -> Reply:
        """Subscribe to a channel, if its name and the signature permit it.

        The client is answered by events of the protocol, also if the
        subscription is refused. May switch greenlets.
        """
        app = self._app_of(connection)
        if app is None:
            return Reply.OK
        channel = command.channel
        try:
            self._check_subscription(connection, app, command)
            # A presence channel also needs to know who the subscriber is.
            if channel.startswith(PRESENCE):
                self._subscribe_member(connection, app, command)
            else:
                self._join(connection, app, channel)
            self._consent.confirm_member(connection, channel)
        except NotPermitted as refused:
            self._send_refusal(
                connection, channel, refused.kind, str(refused), refused.status
            )
        except ChannelRefused as refused:
            self._send_refusal_of_channel(connection, channel, refused)
        return Reply.OK

    def _send_refusal_of_channel(
        self, connection: Connection, channel: str, refused: ChannelRefused
    ) -> None:
        """Tell a client that the core has refused its subscription."""
        reason = refused.reason
        if reason == "exists":
            # The earlier subscription stays, so no error about it may follow.
            text = f"The connection is subscribed to {channel}"
            connection.send(wire.error(wire.CODE_BAD_FRAME, text))
        elif reason != "ended":
            # If the connection has ended, nobody reads this answer, so its text
            # does not matter.
            kind = _KINDS.get(reason, "Refused")
            status = _STATUSES.get(reason, _OTHER_STATUS)
            self._send_refusal(connection, channel, kind, str(refused), status)

    def _send_refusal(
        self, connection: Connection, channel: str, kind: str, text: str, status: int
    ) -> None:
        """Tell a client that its subscription is refused, in the form that its
        library expects."""
        state = connection.dialect_state
        dotnet = isinstance(state, PusherState) and state.dotnet
        connection.send(wire.not_subscribed(channel, kind, text, status, dotnet))

    def _check_subscription(
        self, connection: Connection, app: PusherApp, command: PusherSubscribe
    ) -> None:
        """Refuse a subscription that the rules of the channel or the signature
        do not permit.

        A signature is needed for names that begin with ``private-`` or
        ``presence-``, and where the settings of the channel ask for a token.
        Switches greenlets if the back end or a group decides. Raises
        :class:`NotPermitted` and :class:`ChannelRefused`.
        """
        channel = command.channel
        if channel.startswith("#"):
            _check_user_channel(connection, channel)
            return
        # From this line on, the settings of the app for this channel decide.
        options = self._channels.options.known(app.app, channel)
        rule = options.subscribe
        if rule == "nobody":
            raise NotPermitted("Clients may not subscribe to this channel", status=403)

        needs_signature = channel.startswith((PRIVATE, PRESENCE))
        if rule == "members":
            self._consent.check_member(connection, channel)
            is_open = True
        else:
            # Without a rule, a channel of a namespace ("news:1") needs a
            # signature.
            is_open = rule == "anybody" or (rule == "" and ":" not in channel)
            needs_signature = needs_signature or self._channels.options.is_private(
                app.app, channel
            )
        if is_open and not needs_signature:
            self._channels.options.check_user(connection.user, options)
            return
        # A client that has a signature needs no decision of the back end.
        if rule == "back_end" and not (needs_signature or command.auth):
            self._consent.subscribe(connection, channel)
            return
        self._check_signature(connection, app, command)

    def _check_signature(
        self, connection: Connection, app: PusherApp, command: PusherSubscribe
    ) -> None:
        """Raise :class:`NotPermitted` if the app has not signed the
        subscription.

        The signed text is ``<socket_id>:<channel>`` or, with data about the
        subscriber, ``<socket_id>:<channel>:<data>``.
        """
        signed = f"{self.socket_id(connection)}:{command.channel}"
        if command.data:
            # Without this check the signature of "private-a:b" would permit
            # "private-a", with the data "b".
            if not command.data.startswith("{"):
                raise NotPermitted("channel_data: expected a JSON object", status=400)
            signed = f"{signed}:{command.data}"
        if not app.allows(signed, command.auth or ""):
            raise NotPermitted("The signature is missing or wrong")

    def _join(
        self, connection: Connection, app: PusherApp, channel: str
    ) -> list[ChannelMember]:
        """Subscribe to a channel, and answer with its members and its cached
        event.

        Returns the subscribers of a presence channel in the order of joining,
        or an empty list for another channel. May switch greenlets. Raises
        ChannelRefused.
        """
        is_cached = channel.startswith(CACHED)
        # A cache channel is read from the beginning: its last publication is
        # the cached event.
        since = Position("", 0) if is_cached else None
        options = self._channels.options.of(app.app, channel)
        subscription = self._channels.subscriptions.subscribe(
            connection, channel, options, since
        )

        rows = list[ChannelMember]()
        members = None
        if channel.startswith(PRESENCE):
            # In a cluster this queries other nodes. Messages that are published
            # meanwhile to a cache channel wait.
            rows = list(self._all_members(app.app, channel))
            members = _users_of(rows)
        connection.send(wire.subscribed(channel, members))
        if is_cached:
            self._send_cached(connection, app, channel, subscription)
        self._channels.subscriptions.answered(connection, channel, subscription)
        self._schedule_count(app, channel)
        return rows

    def _send_cached(
        self,
        connection: Connection,
        app: PusherApp,
        channel: str,
        subscription: Subscribed,
    ) -> None:
        """Send the cached event of a channel: its last publication. A channel
        without publications gets a notice that the cache is empty."""
        payload = None
        if subscription.publications:
            last = subscription.publications[-1]
            payload = connection.encoding.dialect.encode_event(last)
        if isinstance(payload, bytes):
            connection.send(payload)
        else:
            connection.send(wire.cache_miss(channel))
            self._hooks.add(app.app, "cache_miss", channel)

    def unsubscribe(self, connection: Connection, command: PusherUnsubscribe) -> Reply:
        """End a subscription. The client gets no answer. Never switches
        greenlets."""
        app = self._app_of(connection)
        if app is None:
            return Reply.OK
        channel = command.channel
        if self._channels.subscriptions.unsubscribe(connection, channel):
            # Forget the data that other members see about the client in this
            # channel.
            if connection.dialect_state is not None:
                connection.dialect_state.set_info(channel, b"")
            self._schedule_count(app, channel)
        return Reply.OK

    def _parted(self, connection: Connection, channel: str, _was_last: bool) -> None:
        """Handle a connection that has left a channel. Never switches
        greenlets."""
        self._remove_member(connection, channel, was_subscribed=True)

    def _left(self, connection: Connection, channels: tuple[str, ...]) -> None:
        """Send the new numbers of subscribers of channels that a connection of
        this node has left. Never switches greenlets."""
        app = self._apps.by_name.get(connection.app or "")
        if app is not None and connection.encoding.dialect.name == NAME:
            for channel in channels:
                self._schedule_count(app, channel)

    # --- presence -------------------------------------------------------------

    def _subscribe_member(
        self, connection: Connection, app: PusherApp, command: PusherSubscribe
    ) -> None:
        """Subscribe to a presence channel, as the member in the signed data.

        The members of such a channel see each other. They are notified if this
        is the first connection of the user in the channel. May switch
        greenlets. Raises NotPermitted and ChannelRefused.
        """
        channel = command.channel
        member = _signed_member(command)
        user = str(member.user_id)
        self._refuse_if_full(app, channel, user)
        if not self._sessions.takes_user(app.app, user):
            raise NotPermitted("channel_data: user_id is too long", status=400)

        about = {"user_id": user, "user_info": member.user_info}
        state = self._prepare_member(connection, channel, msgspec.json.encode(about))
        # The connection counts already while it subscribes. Otherwise the end
        # of another connection of the user could remove the user meanwhile.
        state.members[channel] = user
        here = self._count_connection(app.app, channel, user)
        try:
            rows = self._join(connection, app, channel)
            here.shown = True
        finally:
            if not self._channels.members.has(connection, channel):
                self._remove_member(connection, channel, was_subscribed=False)
                state.set_info(channel, b"")
        if user not in self._users.get((app.app, channel), ()):
            # This was the only connection of the user, and it has ended
            # meanwhile.
            return

        # The other members are notified only once, when the user joins with the
        # first connection.
        if _first_of_user(rows, user) == self._connections.id_of(connection):
            self._notify(app.app, channel, "member_added", about, connection)
            self._hooks.add(app.app, "member_added", channel, user_id=user)

    def _count_connection(self, app: str, channel: str, user: str) -> _UserHere:
        """Count one more connection of a user in a channel on this node."""
        users = self._users.setdefault((app, channel), {})
        here = users.setdefault(user, _UserHere())
        here.connections += 1
        return here

    def _prepare_member(
        self, connection: Connection, channel: str, about: bytes
    ) -> PusherState:
        """Store what others will see of a member, and return the state of the
        connection.

        Each subscription causes a notice to all members, so it is limited.
        Raises ChannelRefused if the limit is reached, or if the connection is
        already subscribed.
        """
        state = connection.dialect_state
        if not isinstance(state, PusherState):
            state = PusherState()
            connection.dialect_state = state
        if self._channels.members.has(connection, channel):
            raise ChannelRefused("exists")
        state.set_info(channel, about)
        try:
            self._channels.notices.charge(connection, channel)
        except ChannelRefused:
            state.set_info(channel, b"")
            raise
        return state

    def _refuse_if_full(self, app: PusherApp, channel: str, user: str) -> None:
        """Refuse a new user in a presence channel that has too many members.

        A user who is a member already may come with another connection. May
        switch greenlets. Raises NotPermitted.
        """
        most = app.settings.presence_members
        # 0 means no limit. To count subscribers is quick, to read users is
        # slow. There are never more users than subscribers. So the users are
        # read only if there are enough subscribers.
        if not most or self._channels.members.count(app.app, channel) < most:
            return
        others = _users_of(self._all_members(app.app, channel)).keys() - {user}
        if len(others) >= most:
            raise NotPermitted(
                "The channel has too many members", kind="LimitReached", status=403
            )

    def _all_members(self, app: str, channel: str) -> Iterator[ChannelMember]:
        """Yield all members of a channel, in the order of joining. May switch
        greenlets before each page."""
        after = ""
        while True:
            page = self._channels.members.page(app, channel, after, _PAGE)
            yield from page.members
            after = page.next
            if not after:
                return

    def _remove_member(
        self, connection: Connection, channel: str, was_subscribed: bool
    ) -> None:
        """Remove a connection from the users of a presence channel.

        The connection has left the channel, or was refused there.

        If it was the last connection of the user on this node, the other
        members are notified soon. They are not notified if they never learnt of
        the user. Never switches greenlets.
        """
        state = connection.dialect_state
        if isinstance(state, PusherState):
            user = state.members.pop(channel, "")
        else:
            user = ""
        if not user:
            return

        app = connection.app or ""
        users = self._users[app, channel]
        here = users[user]
        here.connections -= 1
        if here.connections:
            return
        del users[user]
        if not users:
            del self._users[app, channel]
        if was_subscribed or here.shown:
            self._notify_removed_soon(app, channel, user)

    def _notify_removed_soon(self, app: str, channel: str, user: str) -> None:
        """Have the members of a channel notified that a user has left.

        Another greenlet finds out later whether the user is still there on
        another node, because that query switches greenlets.
        """
        self._unnotified[app, channel, user] = None
        if self._notifiers < _MOST_NOTIFIERS:
            self._notifiers += 1
            gevent.spawn(self._notify_all_removed)

    def _notify_all_removed(self) -> None:
        """Notify presence channels of users who have gone, until all are
        notified. This is a greenlet of its own; there are a few of them."""
        try:
            while self._unnotified:
                # The entry is removed first: a notice switches greenlets, and
                # the other greenlets take entries from the same dict.
                app, channel, user = next(iter(self._unnotified))
                del self._unnotified[app, channel, user]
                try:
                    self._notify_removed(app, channel, user)
                except Exception:
                    log.exception(
                        "a presence channel of %s was not notified of a user who has gone",
                        app,
                    )
        finally:
            self._notifiers -= 1

    def _notify_removed(self, app: str, channel: str, user: str) -> None:
        """Tell a presence channel that a user has left it (``member_removed``),
        unless the user is still in it on some node. May switch greenlets."""
        if any(_user_in(each) == user for each in self._all_members(app, channel)):
            return
        here = self._users.get((app, channel), {}).get(user)
        if here is not None:
            # The user has subscribed again, and the other members were not told
            # that the user had left. So they still know the user, and must be
            # told when the user leaves next time.
            here.shown = True
            return
        self._notify(app, channel, "member_removed", {"user_id": user})
        self._hooks.add(app, "member_removed", channel, user_id=user)

    # --- events ---------------------------------------------------------------

    def send(self, connection: Connection, command: ClientEvent) -> Reply:
        """Send an event of a client to the other subscribers of a channel.

        If the event is refused, the client gets an error. May switch greenlets.
        """
        app = self._app_of(connection)
        channel = command.channel
        if app is None:
            return Reply.OK
        objection = self._objection(connection, app, command)
        if objection:
            connection.send(wire.error(wire.CODE_CLIENT_EVENT, objection))
            return Reply.OK

        state = connection.dialect_state
        if isinstance(state, PusherState):
            member = state.members.get(channel, "")
        else:
            member = ""
        sender = member or connection.user or ""
        part = ChannelPart(channel)
        event = Event(
            "msg",
            sender,
            command.text,
            type=command.name,
            data=command.data,
            channel=part,
        )
        try:
            self._channels.publishing.require_quota(app.app)
            event = replace(
                self._consent.review(connection, channel, event), type=command.name
            )
            # The connection may have left during the review.
            if not self._channels.members.has(connection, channel):
                return Reply.OK
            if self._channels.options.of(app.app, channel).publish == "back_end":
                event, _ = self._consent.publish(connection, channel, event)
            self._channels.publishing.publish_event(
                app.app,
                channel,
                event,
                except_connection=connection,
                with_history=False,
            )
        except ChannelRefused as refused:
            connection.send(wire.error(wire.CODE_CLIENT_EVENT, str(refused)))
            return Reply.OK

        facts: dict[str, Any] = {
            "event": command.name,
            "data": wire.data_of(event),
            "socket_id": self.socket_id(connection),
        }
        if member:
            facts["user_id"] = member
        self._hooks.add(app.app, "client_event", channel, **facts)
        return Reply.OK

    def _objection(
        self, connection: Connection, app: PusherApp, command: ClientEvent
    ) -> str:
        """The reason why a client may not send this event; ``""`` if it may.

        This method counts the event against the rates of the client, so call it
        only once for each event.
        """
        channel = command.channel
        settings = app.settings
        if not channel.startswith((PRIVATE, PRESENCE)) or channel.startswith(ENCRYPTED):
            return (
                "Client events need a private or presence channel that is not encrypted"
            )

        options = self._channels.options.of(app.app, channel)
        if options.publish == "nobody" or not (options.anonymous or connection.user):
            return "Clients may not send events to this channel"
        if not self._channels.members.has(connection, channel):
            return f"The connection is not subscribed to {channel}"
        if len(command.name) > wire.MAX_EVENT_NAME:
            return f"The name of an event has at most {wire.MAX_EVENT_NAME} characters"
        if len(command.data) + len(command.text.encode()) > settings.event_bytes:
            return f"An event has at most {settings.event_bytes} bytes"

        # The rates come last: only events that may be sent count.
        per_second = settings.client_events_per_second
        key = ref(connection)
        if not per_second or not self._client_events.take(key, number=per_second):
            return f"A connection may send {per_second} client events per second"
        limit = options.publications_per_second
        if limit and not self._channels.publishing.count_publication(
            key, app.app, channel, limit
        ):
            return f"A connection may send {limit} such events per second"
        return ""

    def _notify(
        self,
        app: str,
        channel: str,
        kind: str,
        about: dict[str, Any],
        skipped: Connection | None = None,
    ) -> None:
        """Send a notice to the subscribers of a channel, but not to the
        connection ``skipped``. May switch greenlets."""
        event = Event(
            kind, "", "", data=msgspec.json.encode(about), channel=ChannelPart(channel)
        )
        publish = self._channels.publishing.publish_event
        publish(app, channel, event, except_connection=skipped, with_history=False)

    def _schedule_count(self, app: PusherApp, channel: str) -> None:
        """Send the number of subscribers to the subscribers of a channel soon,
        if the app wants that.

        Many changes in a short time cause one notice. Never switches greenlets.
        """
        key = (app.app, channel)
        wants_counts = app.settings.subscription_count
        # Members of presence channels see each other, and the channel of a user
        # has one subscriber.
        if (
            not wants_counts
            or channel.startswith((PRESENCE, "#"))
            or key in self._scheduled_counts
        ):
            return
        self._scheduled_counts.add(key)
        pause = 0.0
        if self._hub.member_count(*key) > _MANY_SUBSCRIBERS:
            pause = _COUNT_SECONDS
        gevent.spawn_later(pause, self._send_count, *key)

    def _send_count(self, app: str, channel: str) -> None:
        """Send the number of subscribers on all nodes to the subscribers of a
        channel.

        A channel without subscribers gets nothing. May switch greenlets.
        """
        self._scheduled_counts.discard((app, channel))
        number = self._channels.members.count(app, channel)
        if number:
            self._notify(
                app, channel, "subscription_count", {"subscription_count": number}
            )
            self._hooks.add(
                app, "subscription_count", channel, subscription_count=number
            )

    # --- the HTTP API ---------------------------------------------------------

    def publish(
        self,
        app: PusherApp,
        channel: str,
        name: str,
        data: str,
        except_socket: str = "",
    ) -> None:
        """Send an event of the back end to a channel.

        ``except_socket``: the ``socket_id`` of a connection that does not
        receive the event. ``""`` means that all subscribers receive the event.
        May switch greenlets. Raises :class:`ChannelRefused`.
        """
        content, text = wire.as_payload(data)
        part = ChannelPart(channel)
        event = Event(
            "msg", "", text, type=name, data=content, time=int(time()), channel=part
        )
        # This is usually the connection of the client that has caused the
        # event, so the client knows the event already.
        if except_socket:
            skipped = connection_id_of(except_socket)
        else:
            skipped = None
        self._channels.publishing.publish_event(
            app.app, channel, event, except_connection=skipped
        )

    def users(self, app: str, channel: str) -> list[str]:
        """The ids of the members of a presence channel. May switch
        greenlets."""
        return list(_users_of(self._all_members(app, channel)))

    def cached(self, app: str, channel: str) -> Event | None:
        """The last event of a cache channel, or None. May switch greenlets.
        Raises :class:`ChannelRefused`."""
        page = self._channels.histories.read(app, channel, limit=1, reverse=True)
        if page.publications:
            return page.publications[0]
        return None


def _first_of_user(rows: Iterable[ChannelMember], user: str) -> str:
    """The id of the connection with which a user has joined first; ``""`` if
    the user is not there. ``rows`` are in the order of joining."""
    return next((row.connection for row in rows if _user_in(row) == user), "")


def _check_user_channel(connection: Connection, channel: str) -> None:
    """Raise NotPermitted unless a channel belongs to the user who has signed
    in on the connection."""
    if not connection.user or channel != USER_CHANNEL + connection.user:
        raise NotPermitted(
            "Only a user who has signed in may subscribe to it", status=403
        )


def _users_of(rows: Iterable[ChannelMember]) -> dict[str, Raw]:
    """The users of a presence channel, each with the data that its back end has
    signed."""
    users: dict[str, Raw] = {}
    for row in rows:
        member = _read_member(row.channel_info)
        if member is not None:
            users.setdefault(str(member.user_id), member.user_info)
    return users


def _user_in(row: ChannelMember) -> str:
    """The id of the user in a row of a presence channel; ``""`` for subscribers
    of other dialects."""
    member = _read_member(row.channel_info)
    if member is None:
        return ""
    return str(member.user_id)


def _signed_member(command: PusherSubscribe) -> _Member:
    """The member in the data of a subscription, for example
    ``{"user_id":"7","user_info":{"name":"Ann"}}``. Raises NotPermitted."""
    try:
        member = msgspec.json.decode(command.data or "", type=_Member)
    except (ValueError, RecursionError):
        raise NotPermitted(
            "channel_data: expected JSON with user_id", status=400
        ) from None
    if not str(member.user_id):
        raise NotPermitted("channel_data: user_id is empty", status=400)
    return member


def _read_member(info: str | bytes) -> _Member | None:
    """The member in the stored data of a subscriber.

    Returns None for subscribers of other dialects, whose data have another
    form.
    """
    try:
        if info:
            return msgspec.json.decode(info, type=_Member)
        return None
    except (ValueError, RecursionError):
        return None
