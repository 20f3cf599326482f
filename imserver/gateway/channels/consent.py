"""Channels for which the back end of the app (``back_end``) or a group
(``members``) decides."""

from typing import Any, ClassVar, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType, field
from msgspec.structs import replace

from imserver.gateway.auth.channel_tokens import ChannelClaims
from imserver.gateway.auth.questions import (
    BackEndCall,
    BackEndRefused,
    BackEnds,
    BackEndUnavailable,
    ReviewDecision,
    Reviews,
)
from imserver.gateway.auth.rates import MutedUsers
from imserver.gateway.channels.members import (
    INSUFFICIENT_STATE,
    SERVER_UNSUBSCRIBE,
    ChannelRefused,
    check_name,
    encode_tags,
    group_in,
)
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.errors import ClientError, ReplyCode, StorageUnavailable
from imserver.gateway.hub.hub import USER_CHANNEL
from imserver.gateway.model import ChannelPart, Event, Service
from imserver.gateway.protocol.forgiving import Partial
from imserver.gateway.transport.connection import Connection

T = TypeVar("T")


class ChannelClient(Protocol):
    """The client of a channel: a connection, or a user who sends a request."""

    @property
    def app(self) -> str | None: ...
    @property
    def user(self) -> str | None: ...
    @property
    def is_open(self) -> bool: ...


class AllowedSubscription(ChannelClaims, frozen=True):
    """The answer of a back end that allows a subscription.

    ``b64data`` has the bytes of ``data`` in base64.
    """

    b64data: str = ""

    in_base64: ClassVar[tuple[str, ...]] = ("info", "data")


class AllowedPublication(Partial, frozen=True):
    """The answer of a back end that allows a publication.

    ``data`` replaces the data of the client; if ``data`` is unset, the data of
    the client stay. ``b64data`` has the bytes of ``data`` in base64.
    ``skip_history`` means that the history does not get the publication.
    """

    data: Raw | UnsetType = UNSET
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    idempotency_key: Raw | UnsetType = UNSET
    version: Raw | UnsetType = UNSET
    version_epoch: Raw | UnsetType = UNSET

    not_supported: ClassVar[tuple[str, ...]] = (
        "idempotency_key",
        "version",
        "version_epoch",
    )
    in_base64: ClassVar[tuple[str, ...]] = ("data",)


class ChannelConsent(Service):
    """Asks back ends and groups about subscriptions and publications of
    clients.

    It serves all dialects. Its methods switch greenlets, and raise
    :class:`ChannelRefused`: ``denied`` (with the error of the back end),
    ``unavailable``, or ``ended``.
    """

    back_ends: BackEnds
    reviews: Reviews
    channels: Channels
    mutes: MutedUsers

    def check_member(self, connection: ChannelClient, channel: str) -> None:
        """Raise :class:`ChannelRefused` if a channel does not belong to the
        user of a client.

        The channel ``user:<id>`` belongs to this user. Every other channel
        belongs to the members of the group whose id is in its name.
        """
        app = connection.app or ""
        user = connection.user or ""
        is_member = self._is_member(app, user, channel)
        # The look-up may have switched greenlets. Meanwhile, the connection may
        # have ended, or may have logged in as another user.
        session = (connection.app or "", connection.user or "")
        if not connection.is_open or session != (app, user):
            raise ChannelRefused("ended")
        if not is_member:
            raise ChannelRefused(
                "denied",
                "the channel belongs to another user, or to members of a group",
            )

    def _is_member(self, app: str, user: str, channel: str) -> bool:
        """Whether a channel belongs to a user; ``""``: a client without a user.

        Raises :class:`ChannelRefused` if the storage does not answer.
        """
        if channel.startswith(USER_CHANNEL):
            return user != "" and channel == f"{USER_CHANNEL}{user}"
        group = group_in(channel)
        groups = self.channels.histories.stored
        try:
            return user != "" and group > 0 and groups.is_member(app, group, user)
        except StorageUnavailable:
            raise ChannelRefused("unavailable") from None

    def confirm_member(self, connection: Connection, channel: str) -> None:
        """Check again whether a new member of a channel belongs to its group.

        If not, the subscription ends. The user may have left the group after
        the first check; from the subscription on, the log reports when members
        leave. Raises nothing.
        """
        options = self.channels.options.of(connection.app or "", channel)
        if options.subscribe != "members":
            return
        try:
            self.check_member(connection, channel)
        except ChannelRefused as refused:
            if refused.reason == "denied":
                code = SERVER_UNSUBSCRIBE
            else:
                # It is not known whether the user is a member, so the client
                # has to try again.
                code = INSUFFICIENT_STATE
            self.channels.members.expel(connection, channel, code)

    def subscribe(
        self, connection: Connection, channel: str, token: str = "", data: bytes = b""
    ) -> ChannelClaims:
        """Ask the back end whether a client may subscribe.

        ``data`` is JSON that the client has sent with its command; ``b""`` if
        it has sent no data.
        """
        facts: dict[str, Any] = {"channel": channel}
        if token:
            facts["token"] = token
        if data:
            facts["data"] = Raw(data)
        answer = self._ask("subscribe", connection, channel, facts, AllowedSubscription)
        # The result is the same as if the client had a token with these claims.
        return ChannelClaims(
            expire_at=answer.expire_at, info=answer.info, data=answer.data
        )

    def publish(
        self, connection: Connection, channel: str, event: Event
    ) -> tuple[Event, bool]:
        """Ask the back end whether a client may publish an event.

        Returns the event to publish, which the back end may have changed, and
        whether the history gets it.
        """
        facts = _publication_facts(event, channel)
        answer = self._ask("publish", connection, channel, facts, AllowedPublication)
        return _as_answered(event, channel, answer), not answer.skip_history

    def review(self, connection: ChannelClient, channel: str, event: Event) -> Event:
        """Let the back end of the app review an event that a client publishes.

        Returns the event to publish, which the back end may have changed. The
        events of muted users are refused.
        """
        app = connection.app or ""
        user = connection.user
        if user:
            mute = self.mutes.mute_of(app, user)
            if mute is not None:
                raise _rejected(mute.text)
        if app not in self.reviews.apps:
            return event

        return self._review_by_back_end(connection, channel, event)

    def _review_by_back_end(
        self, connection: ChannelClient, channel: str, event: Event
    ) -> Event:
        """Return the event as the back end wants it. Raises
        :class:`ChannelRefused` if it rejects the event."""
        app = connection.app or ""
        user = connection.user
        decision = self.reviews.decide(app, _facts_of(event, channel))
        _require_accepted(decision)
        # The client may have gone, or logged in as another user, meanwhile.
        if not connection.is_open or (connection.app, connection.user) != (app, user):
            raise ChannelRefused("ended")
        if decision.action == "allow":
            return event
        return _replaced(event, decision)

    def _ask(
        self,
        call: BackEndCall,
        connection: Connection,
        channel: str,
        facts: dict[str, Any],
        kind: type[T],
    ) -> T:
        """Ask the back end of the app, with these facts, and return its answer
        as a ``kind``.

        Raises :class:`ChannelRefused` if the back end refuses or does not
        answer, or if the session has ended meanwhile.
        """
        if channel.startswith("#"):
            raise ChannelRefused("denied", "this channel belongs to the server")
        check_name(channel)
        app = connection.app or ""
        user = connection.user
        try:
            answer = self.back_ends.ask(app, call, connection, facts, kind)
        except BackEndUnavailable:
            raise ChannelRefused(
                "unavailable", "the back end has not decided in time"
            ) from None
        except BackEndRefused as refused:
            raise _after_refusal(connection, refused) from None

        # The client may have gone, or logged in as another user, meanwhile.
        if not connection.is_open or (connection.app, connection.user) != (app, user):
            raise ChannelRefused("ended")
        return answer


def _after_refusal(connection: Connection, refused: BackEndRefused) -> ChannelRefused:
    """Return the refusal of a client whom the back end has refused.

    This also disconnects the client if the back end asks for it.
    """
    if refused.disconnect is not None:
        connection.disconnect(*refused.disconnect)
        return ChannelRefused("ended")
    return ChannelRefused("denied", str(refused), refused.error)


def _publication_facts(event: Event, channel: str) -> dict[str, Any]:
    """Describe an event to the back end that decides about it."""
    facts: dict[str, Any] = {"channel": channel}
    if event.data:
        facts["data"] = Raw(event.data)
    else:
        facts["data"] = event.text
    # "custom" is the type of data without a type of its own.
    if event.type != "custom":
        facts["type"] = event.type
    return facts


def _as_answered(event: Event, channel: str, answer: AllowedPublication) -> Event:
    """Return an event with the content and the tags from the answer of the back
    end."""
    if answer.data is not UNSET:
        event = _with_data(event, answer.data)
    if answer.tags:
        part = event.channel or ChannelPart(channel)
        event = replace(event, channel=replace(part, tags=encode_tags(answer.tags)))
    return event


def _facts_of(event: Event, channel: str) -> dict[str, Any]:
    """Return what a back end needs to review a publication.

    Data in JSON or bytes stands under ``data``, plain text under ``text``.
    """
    facts: dict[str, Any] = {
        "kind": "message",
        "sender": event.sender,
        "channel": channel,
        "type": event.type,
    }
    if event.data:
        facts["data"] = Raw(event.data)
    else:
        facts["text"] = event.text
    return facts


def _with_data(event: Event, data: Raw) -> Event:
    """Return a publication with the data of the back end in place of its own.

    If JSON of another type replaces a text, the event becomes data.
    """
    if event.data:
        return replace(event, data=bytes(data))
    text = msgspec.json.decode(data)
    if isinstance(text, str):
        return replace(event, text=text)
    # Only an event with a text can have the type of texts.
    type = event.type
    if type == "text":
        type = "custom"
    return replace(event, text="", data=bytes(data), type=type)


def _replaced(event: Event, decision: ReviewDecision) -> Event:
    """Return a publication with the content with which a review has replaced
    its own content."""
    if decision.is_text:
        text = decision.body.decode()
        return replace(event, type=decision.type, text=text, data=b"")
    return replace(event, type=decision.type, text="", data=decision.body)


def _require_accepted(decision: ReviewDecision) -> None:
    """Raise :class:`ChannelRefused` if the back end does not let an event
    pass."""
    if decision.action == "undecided":
        raise ChannelRefused("unavailable", "the back end has not reviewed it in time")
    if decision.action == "reject":
        raise _rejected(decision.reason or "the back end has rejected it")


def _rejected(reason: str) -> ChannelRefused:
    """Return the refusal of a message that a review has rejected, or that a
    muted user has sent."""
    return ChannelRefused("denied", reason, ClientError(ReplyCode.REJECTED, reason))
