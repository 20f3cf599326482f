"""Pushes: messages of a back end to users, connections, channels and groups.

:class:`Pushes` claims the message ids of the original, :class:`Publishing`
sends one event to targets of all kinds. Both deliver to users by a
:class:`Reach`: :class:`LocalReach` on this node,
:class:`imserver.gateway.push.routing.ClusterReach` on all nodes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Struct, field
from msgspec.structs import replace

from imserver.gateway.channels.connections import Connections
from imserver.gateway.channels.histories import Published
from imserver.gateway.channels.members import ChannelRefused, check_name, encode_tags
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.clock import serve_others
from imserver.gateway.cluster.history import Position
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.hub.fanout import Fanout
from imserver.gateway.hub.hub import RESERVED, USER_CHANNEL
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import (
    ACCEPTED,
    SYSTEM_PREFIX,
    YIELD_TARGETS,
    ChannelPart,
    Event,
    Limit,
    Outcome,
    Service,
)
from imserver.gateway.push.idempotency import (
    First,
    Idempotency,
    IdReused,
    RequestResult,
)
from imserver.gateway.push.pending import PendingPushes
from imserver.gateway.push.targets import StoredPushes, Target, UserChannels, addressed

_NOT_SENT = Outcome.NOT_SENT
_SENT = Outcome.SENT
_REPEATED = Outcome.REPEATED
_UNKNOWN: Final = Outcome.UNKNOWN
_SETTLED: Final = ACCEPTED | {_REPEATED}
_NOT_REACHED: Final = (_NOT_SENT, _UNKNOWN)
_YIELD_PUSHES: Final = 1024
"""How many pushes are sent before the loop serves its sockets. They take 4 to 8
ms. With 256, `bench push --bulk 1000` cost 7 % more."""

_Item = TypeVar("_Item")
_MEMBERS_PER_READ: Final = 1000
"""Limit of the members of a group that are read together."""


def nothing_accepted(outcomes: Collection[Outcome]) -> bool:
    """Tell whether delivery has failed, and no target has accepted the push.

    A target that accepted the push before counts as accepting. If the result is
    True, every API answers with a temporary error, and the id may be used
    again.
    """
    return (
        Outcome.FAILED in outcomes
        and _REPEATED not in outcomes
        and ACCEPTED.isdisjoint(outcomes)
    )


class UserPush(Struct, forbid_unknown_fields=True, gc=False):
    """One message to one user, as a row of a batch.

    A row whose ``user`` is ``""`` is not sent.
    """

    user: str = field(default="", name="userID")
    msg_id: str = field(default="", name="msgID")
    text: str = field(default="", name="message")


class Reach(Protocol):
    """Delivers to users, on this node or on all nodes.

    The reach counts the pushes that were sent. The outcome UNKNOWN means that
    the registry, which knows the nodes of users, does not answer. Every call
    may switch greenlets.
    """

    def to_user(
        self, app: str, user: str, event: Event, device: str | None = None
    ) -> Outcome:
        """Deliver to one user, to all devices or to one."""

    def to_user_once(self, app: str, user: str, event: Event) -> Outcome:
        """Deliver to one user, unless another node has accepted a push of this
        id."""

    def to_each(
        self,
        app: str,
        users: Sequence[str],
        events: Iterable[Event],
        device: str | None = None,
        outcomes: list[Outcome] | None = None,
    ) -> list[Outcome]:
        """Deliver to each user the event of ``events`` at the same index.

        ``device`` is the only device that gets the event. None means all
        devices. Returns the outcomes. The outcomes are also added to the empty
        list ``outcomes``, so that the caller has the known outcomes after an
        error.
        """

    def to_each_once(
        self, app: str, pushes: Sequence[UserPush]
    ) -> tuple[list[Outcome], Sequence[int]]:
        """Claim and deliver many pushes, each with its own user and id.

        Returns the outcomes, and the indexes of pushes that were not sent
        because another push holds their id now.
        """

    def to_app(
        self,
        app: str,
        event: Event,
        except_user: str = "",
        except_users: tuple[str, ...] = (),
    ) -> Outcome:
        """Deliver to all users of an app except some."""


class Pushes(Service):
    """Sends pushes with message ids, each id only once.

    A call claims the id of a push, delivers the push through ``reach``, and
    settles the claim: the id of an accepted push is remembered. ``channels``
    delivers in apps where the channels of users have a history. Every call may
    switch greenlets.
    """

    ids: Idempotency
    reach: Reach
    metrics: Metrics
    channels: UserChannels | None = None

    def _stores(self, app: str) -> UserChannels | None:
        """Return the channels of users, if an app keeps a history of them.

        Then a push to a user is a publication to the user's channel. Returns
        None for other apps.
        """
        if self.channels is not None and app in self.channels.apps:
            return self.channels
        return None

    def from_back_end(self, app: str, push: UserPush) -> Outcome:
        """Push a message of a back end to one user.

        The event names the receiver as its sender, as in the original server.
        """
        user = push.user
        msg_id = push.msg_id
        channels = self._stores(app)
        # The id is claimed on this node only. The reach claims it in the
        # cluster, in the query that finds the user.
        key = self.ids.claim(app, msg_id, None, channels is None)
        if key is None:
            return _REPEATED

        # After an error the claim is settled as not sent, so the id is free
        # again.
        outcome = _NOT_SENT
        try:
            if user:
                event = Event("msg", user, push.text, msg_id)
                if channels is None:
                    deliver = self.reach.to_user_once
                else:
                    deliver = channels.push
                outcome = deliver(app, user, event)
        finally:
            self.ids.settle(key, outcome in _SETTLED)
        return outcome

    def from_user(self, app: str, sender: str, push: UserPush) -> Outcome:
        """Push a message of a user to another user.

        The receiver sees ``sender`` as its author. Returns REPEATED if the
        sender has used the id of the message before.
        """
        # Users must not claim ids of others.
        claimed_id = _id_of_user(sender, push.msg_id)
        claim = self.ids.claim(app, claimed_id)
        if claim is None:
            return _REPEATED

        outcome = _NOT_SENT
        try:
            if push.user:
                event = Event("msg", sender, push.text, push.msg_id)
                channels = self._stores(app)
                if channels is None:
                    outcome = self.reach.to_user(app, push.user, event)
                else:
                    outcome = channels.push(app, push.user, event, claimed_id)
        finally:
            self.ids.settle(claim, outcome in ACCEPTED)
        return outcome

    def to_each(self, app: str, pushes: Sequence[UserPush]) -> list[Outcome]:
        """Push many messages of a back end, each with its own user and message
        id.

        Returns an outcome for each, in their order.
        """
        if self._stores(app):
            return [self.from_back_end(app, push) for push in _paced(pushes)]
        outcomes, waiting = self.reach.to_each_once(app, pushes)
        # Sometimes an id comes twice in this call, or another call has claimed
        # it now. This call has no open claims while it waits, so that two calls
        # never wait for each other.
        for index in waiting:
            outcomes[index] = self.from_back_end(app, pushes[index])
        return outcomes

    def to_app(
        self,
        app: str,
        sender: str,
        msg_id: str,
        text: str,
        by_user: bool = False,
        except_users: tuple[str, ...] = (),
    ) -> Outcome:
        """Push to all users of an app except some.

        ``sender`` and ``except_users`` do not get the push. ``by_user`` says
        whether the sender makes the request, and not the back end.
        """
        if by_user:
            claimed_id = _id_of_user(sender, msg_id)
        else:
            claimed_id = msg_id
        claim = self.ids.claim(app, claimed_id)
        if claim is None:
            return _REPEATED

        outcome = _NOT_SENT
        try:
            # A push without a sender is invalid, and sent to nobody.
            if sender:
                event = Event("msg", sender, text, msg_id)
                outcome = self.reach.to_app(app, event, sender, except_users)
                if outcome is _NOT_SENT:
                    # The push counts as sent if no node is known to have
                    # missed it, even if no user is online.
                    outcome = _SENT
                    self.metrics.pushes[app] += 1
        finally:
            self.ids.settle(claim, outcome in ACCEPTED)
        return outcome

    def to_many(
        self, app: str, users: Sequence[str], msg_id: str, text: str
    ) -> list[Outcome] | None:
        """Push one message to many users.

        Returns an outcome for each user, or None if the id of the message was
        accepted before. The id counts as accepted if one user is reached.
        """
        claim = self.ids.claim(app, msg_id)
        if claim is None:
            return None

        outcomes: list[Outcome] = []
        try:
            events = (Event("msg", user, text, msg_id) for user in users)
            channels = self._stores(app)
            # Each user has a channel, so each push is a publication.
            if channels:
                for user, event in _paced(zip(users, events, strict=True)):
                    outcome = _NOT_SENT
                    if user:
                        outcome = channels.push(app, user, event)
                    outcomes.append(outcome)
            else:
                self.reach.to_each(app, users, events, outcomes=outcomes)
        finally:
            self.ids.settle(claim, _SENT in outcomes)
        return outcomes


def _paced(items: Iterable[_Item]) -> Iterator[_Item]:
    """Yield the items, and let the loop serve others now and then."""
    for number, item in enumerate(items, 1):
        yield item
        if not number % YIELD_TARGETS:
            serve_others()


def _id_of_user(user: str, msg_id: str) -> str:
    """Return the name under which the message id of a user is claimed.

    The name contains U+0000, which no id contains. So the name never equals an
    id of the back end, or a name for another user. Otherwise a user could claim
    an id of others, and their push would count as a repeat.
    """
    if not msg_id:
        return ""
    return f"{user}\0{msg_id}"


class LocalReach(Service):
    """The :class:`Reach` of a node without a cluster."""

    ids: Idempotency
    fanout: Fanout
    metrics: Metrics

    def to_user(
        self, app: str, user: str, event: Event, device: str | None = None
    ) -> Outcome:
        """Deliver to one user on this node."""
        if not self.fanout.to_sessions(app, user, event, device):
            return _NOT_SENT
        self.metrics.pushes[app] += 1
        return _SENT

    # Without a cluster, no other node can have accepted the id of a push.
    to_user_once = to_user

    def to_each(
        self,
        app: str,
        users: Sequence[str],
        events: Iterable[Event],
        device: str | None = None,
        outcomes: list[Outcome] | None = None,
    ) -> list[Outcome]:
        """Deliver to each user the event of ``events`` at the same index.

        The outcomes are added to ``outcomes``, so that a caller has the known
        outcomes after an error. A user ``""`` gets nothing.
        """
        # Names are looked up once per call, not once per user. to_each_once()
        # does so, too.
        to_sessions = self.fanout.to_sessions
        if outcomes is None:
            outcomes = []
        for user, event in zip(users, events, strict=False):
            if user and to_sessions(app, user, event, device):
                outcomes.append(_SENT)
            else:
                outcomes.append(_NOT_SENT)
            if not len(outcomes) % _YIELD_PUSHES:
                serve_others()
        self.metrics.pushes[app] += outcomes.count(_SENT)
        return outcomes

    def to_each_once(
        self, app: str, pushes: Sequence[UserPush]
    ) -> tuple[list[Outcome], Sequence[int]]:
        """Claim and deliver many pushes.

        No push waits for another one, so the second result is empty.
        """
        claim = self.ids.claim
        settle = self.ids.settle
        to_sessions = self.fanout.to_sessions
        outcomes = []
        for push in pushes:
            user = push.user
            msg_id = push.msg_id
            # None means that the id was accepted before. 0 means that the push
            # has no id.
            key = claim(app, msg_id)
            if key is None:
                outcomes.append(_REPEATED)
                continue

            is_sent = False
            try:
                if user:
                    event = Event("msg", user, push.text, msg_id)
                    is_sent = to_sessions(app, user, event) > 0
            finally:
                settle(key, is_sent)
            outcomes.append(_SENT if is_sent else _NOT_SENT)
            if not len(outcomes) % _YIELD_PUSHES:
                serve_others()
        self.metrics.pushes[app] += outcomes.count(_SENT)
        return outcomes, ()

    def to_app(
        self,
        app: str,
        event: Event,
        except_user: str = "",
        except_users: tuple[str, ...] = (),
    ) -> Outcome:
        """Deliver to all users of an app on this node, except some."""
        if not self.fanout.to_app(app, event, except_user, except_users):
            return _NOT_SENT
        self.metrics.pushes[app] += 1
        return _SENT


OnAbsent = Callable[[str, Sequence[tuple[str, Event]]], None]
"""A function that gets the name of an app, and the user and the event of each
push to a user who is not online. It may switch greenlets."""


class _Publication(Struct, frozen=True, gc=False):
    """A publication to several channels of ``app``.

    :meth:`Publishing.to_channels` explains the fields. ``tags`` are as
    :func:`encode_tags` makes them.
    """

    app: str
    event: Event
    except_users: tuple[str, ...]
    tags: bytes
    with_history: bool
    key: str


_read_position: Final = msgspec.msgpack.Decoder(Position | None).decode


def _refused(refused: ChannelRefused) -> Published:
    """Make the result of a publication that was refused."""
    return Published(refused.outcome, refusal=refused)


class Publishing(Service, dict=True):
    """Sends events to targets of all kinds, on all nodes.

    Every call may switch greenlets.
    """

    reach: Reach
    channels: Channels
    connections: Connections
    pending: PendingPushes
    ids: Idempotency
    on_absent: OnAbsent | None = None

    def __post_init__(self) -> None:
        """Begin without a service that stores pushes."""
        self._user_channels = UserChannels(self.channels, self.reach.to_user)
        self.stored_pushes: StoredPushes = StoredPushes()

    def ask(self, stored_pushes: StoredPushes) -> None:
        """Use this object of the messenger to store pushes from now on."""
        self.stored_pushes = stored_pushes

    def to_channels(
        self,
        app: str,
        channels: Sequence[str],
        event: Event,
        *,
        except_users: tuple[str, ...] = (),
        tags: Mapping[str, str] | None = None,
        with_history: bool = True,
        key: str = "",
        digest: int = 0,
        all_or_none: bool = False,
    ) -> list[Published]:
        """Publish the same event to several channels.

        The results are in the order of the channels.

        ``key`` identifies the request. ``""`` means that it has no key. For
        each key, a channel gets one publication. A repeated publication has the
        outcome REPEATED, and its position if this node knows the position.
        ``digest`` is the hash of the request (:func:`digest_of`). It
        distinguishes requests with the same key.

        A publication that was REFUSED or has FAILED has a ``refusal``: a
        :class:`ChannelRefused`, or :class:`IdReused` if the key belongs to
        another request in this channel. With ``all_or_none``, IdReused is
        raised before anything is published. Channels of groups, and channels of
        users without a history, have no tags. Raises :class:`ChannelRefused`
        (``limit``) for too many ``tags``.
        """
        encoded_tags = encode_tags(tags) if tags else b""
        publication = _Publication(
            app,
            event,
            except_users,
            tags=encoded_tags,
            with_history=with_history,
            key=key,
        )
        if not key:
            return [self._publish(publication, channel) for channel in channels]

        # Each channel has its own claim of the key. A channel that is named
        # twice gets one publication.
        names = list(dict.fromkeys(channels))
        requests = [
            (msgspec.json.encode((key, channel)).decode(), digest) for channel in names
        ]

        def publish_to(index: int, first: First | None) -> RequestResult[Published]:
            """Publish to one channel, unless the request is a repeat."""
            return self._publish_once(publication, names[index], first)

        results = self.ids.carry_out_each(
            app, requests, publish_to, all_or_none=all_or_none
        )
        published: dict[str, Published] = {}
        for channel, result in zip(names, results, strict=True):
            if isinstance(result, IdReused):
                result = Published(Outcome.REFUSED, refusal=result)
            published[channel] = result
        return [published[channel] for channel in channels]

    def _publish_once(
        self, publication: _Publication, channel: str, first: First | None
    ) -> RequestResult[Published]:
        """Publish to a channel, unless a request with this key did so before.

        ``first`` is the result of the first request with this key. None means
        that this request is the first. Returns the publication, the outcomes
        and the result to remember, as :meth:`Idempotency.carry_out_each` needs
        them.
        """
        is_stored = publication.with_history and self.channels.options.is_stored(
            publication.app, channel
        )
        # If this node does not know the position, the log may know it. Then the
        # log recognises the repetition by the key.
        if first is not None and (first.result or not is_stored):
            if first.result:
                position = _read_position(first.result)
            else:
                position = None
            # There is no outcome, so the claim of the first request stays.
            return Published(Outcome.REPEATED, position), (), b""

        published = self._publish(publication, channel)
        if published.refusal is not None:
            # Nothing is remembered, so the request may be repeated.
            return published, (), b""
        position_bytes = msgspec.msgpack.encode(published.position)
        return published, (published.outcome,), position_bytes

    def _publish(self, publication: _Publication, channel: str) -> Published:
        """Publish to one of several channels.

        ``user:<id>`` and ``group:<id>`` are not ordinary channels: they stand
        for a user and a group. A refusal is the result, and not an error.
        """
        app = publication.app
        event = publication.event
        # Channels of a system have any names: there, `user:1` is not the
        # channel of a user.
        if channel.startswith(RESERVED) and not app.startswith(SYSTEM_PREFIX):
            target = addressed(Target(channel=channel))
            if target.user is not UNSET and app in self._user_channels.apps:
                return self._to_channel_of_user(
                    app,
                    target.user,
                    event,
                    tags=publication.tags,
                    key=publication.key,
                    with_history=publication.with_history,
                )
            if target.channel is UNSET:
                # The target is a user or a group.
                return self._publish_to_target(publication, target)

        part = ChannelPart(channel, tags=publication.tags)
        try:
            # Most names are short ASCII, so the usual check needs no call.
            if not (channel.isascii() and 0 < len(channel) <= Limit.CHANNEL_BYTES):
                check_name(channel)
            return self.channels.publishing.publish_event(
                app,
                channel,
                replace(event, channel=part),
                except_users=publication.except_users,
                with_history=publication.with_history,
                key=publication.key,
            )
        except ChannelRefused as refused:
            return _refused(refused)

    def _publish_to_target(
        self, publication: _Publication, target: Target
    ) -> Published:
        """Publish to the channel of a group, or of a user without a history.

        The members of the group, or the user, receive a push.
        """
        (outcome,) = self.to_targets(
            publication.app, [target], publication.event, publication.except_users
        )
        if outcome is Outcome.FAILED:
            text = "a node or the database does not answer"
            return _refused(ChannelRefused("unavailable", text))
        return Published(outcome)

    def to_targets(
        self,
        app: str,
        targets: Sequence[Target],
        event: Event,
        except_users: tuple[str, ...] = (),
        ttl_seconds: float = 0,
        key: str = "",
    ) -> list[Outcome]:
        """Send an event to each target, in order.

        If several targets name a user or a connection, it receives the event
        several times. ``except_users`` do not receive the event through
        channels, groups and ``all``. Absent users receive the event if they log
        in within ``ttl_seconds``. ``key`` is the key of the request, for
        :meth:`ChannelPublishing.publish_event`.
        """
        outcomes: list[Outcome] = []
        users: list[str] = []
        """Successive targets that are users without a device. The event is sent
        to them together."""
        # Channels of a system have any names: there, `user:1` is not the
        # channel of a user.
        if not app.startswith(SYSTEM_PREFIX):
            targets = [addressed(target) for target in targets]
        for target in targets:
            if target.user is not UNSET and target.device is UNSET:
                users.append(target.user)
                continue

            if users:
                outcomes += self.to_users(app, users, event, ttl_seconds)
                users = []
            if target.user is not UNSET:
                # Users without a device were collected above.
                device = None if target.device is UNSET else target.device
                outcomes += self.to_users(
                    app, [target.user], event, ttl_seconds, device
                )
            elif target.connection is not UNSET:
                outcomes.append(self.connections.push(app, target.connection, event))
            elif target.channel is not UNSET:
                outcome = self.channels.publishing.publish(
                    app, target.channel, event, except_users, key=key
                )
                outcomes.append(outcome)
            elif target.group is not UNSET:
                group = int(target.group)
                outcomes.append(
                    self._to_group(app, group, event, except_users, ttl_seconds)
                )
            else:
                outcomes.append(
                    self.reach.to_app(app, event, except_users=except_users)
                )

        if users:
            outcomes += self.to_users(app, users, event, ttl_seconds)
        return outcomes

    def _to_group(
        self,
        app: str,
        group: int,
        event: Event,
        except_users: tuple[str, ...],
        ttl_seconds: float,
    ) -> Outcome:
        """Send an event to the members of a group.

        The outcome is PARTLY if the event did not reach the nodes of some
        members, or if the database could not name all members.
        """
        outcomes = set[Outcome]()
        after = ""
        event = replace(event, channel=ChannelPart(f"group:{group}"))
        while True:
            try:
                members = self.channels.histories.stored.members(
                    app, group, after, _MEMBERS_PER_READ
                )
            except StorageUnavailable:
                outcomes.add(Outcome.FAILED)
                break
            users = [user for user in members if user not in except_users]
            outcomes.update(self.to_users(app, users, event, ttl_seconds))
            # This was the last page of the members.
            if len(members) < _MEMBERS_PER_READ:
                break
            after = members[-1]

        # The outcomes of all members together make one outcome.
        if outcomes <= {Outcome.NOT_SENT}:
            return Outcome.NOT_SENT
        if outcomes <= {Outcome.NOT_SENT, Outcome.FAILED}:
            return Outcome.FAILED
        if outcomes & {Outcome.FAILED, Outcome.PARTLY}:
            return Outcome.PARTLY
        return Outcome.SENT

    def to_users(
        self,
        app: str,
        users: Sequence[str],
        event: Event,
        ttl_seconds: float = 0,
        device: str | None = None,
    ) -> list[Outcome]:
        """Send one event to users, on all their devices or on one."""
        return self.to_each(app, users, [event] * len(users), ttl_seconds, device)

    def to_each(
        self,
        app: str,
        users: Sequence[str],
        events: Sequence[Event],
        ttl_seconds: float = 0,
        device: str | None = None,
    ) -> list[Outcome]:
        """Send to each user the event of ``events`` at the same index.

        The event goes to all devices of the user. If ``device`` is not None, it
        goes to this device only. A push to an absent user is pending for
        ``ttl_seconds``: the push waits for a login.
        """
        # The users of a system are connections.
        if app.startswith(SYSTEM_PREFIX):
            return [
                self.connections.push(app, connection, event)
                for connection, event in zip(users, events, strict=True)
            ]
        # Pushes to a group have a channel. They are not published to the
        # channels of its members.
        if (
            device is None
            and app in self._user_channels.apps
            and users
            and events[0].channel is None
        ):
            return [
                self._to_channel_of_user(app, user, event, ttl_seconds).outcome
                for user, event in _paced(zip(users, events, strict=True))
            ]

        if self.pending.count:
            self._deliver_pending(app, users)
        if len(users) == 1:  # most pushes
            outcomes = [self.reach.to_user(app, users[0], events[0], device)]
        else:
            outcomes = self.reach.to_each(app, users, events, device)
        if _NOT_SENT not in outcomes and _UNKNOWN not in outcomes:
            return outcomes

        self._report_absent(app, users, events, outcomes)
        results: list[Outcome] = []
        for user, event, outcome in zip(users, events, outcomes, strict=True):
            is_pending = (
                ttl_seconds > 0
                and outcome in _NOT_REACHED
                and self.pending.add(app, user, event, ttl_seconds, device)
            )
            if is_pending:
                results.append(Outcome.PENDING)
            elif outcome is _UNKNOWN:
                # It is not known whether the user is online. For the caller
                # this is a temporary failure.
                results.append(Outcome.FAILED)
            else:
                results.append(outcome)
        return results

    def _to_channel_of_user(
        self,
        app: str,
        user: str,
        event: Event,
        ttl_seconds: float = 0,
        tags: bytes = b"",
        key: str = "",
        with_history: bool = True,
    ) -> Published:
        """Push an event to a user whose channel has a history.

        The event is published to the channel, and sent to the sessions that do
        not subscribe to the channel. The push to these sessions may be pending
        for ``ttl_seconds``.
        """
        if self.pending.count:
            self._deliver_pending(app, (user,))
        try:
            published, to_user = self._user_channels.publish(
                app, user, event, tags, key, with_history
            )
        except ChannelRefused as refused:
            return _refused(refused)

        is_pending = False
        if to_user in _NOT_REACHED:
            self._report_absent(app, [user], [event], [to_user])
            if ttl_seconds:
                # If the event names its channel, the subscribers of the channel
                # do not get the push, because they receive the publication.
                event = replace(event, channel=ChannelPart(f"{USER_CHANNEL}{user}"))
                is_pending = self.pending.add(app, user, event, ttl_seconds)

        if published.outcome is not _UNKNOWN:
            return published
        if is_pending:
            return Published(Outcome.PENDING)
        return _refused(ChannelRefused("unavailable", "the registry does not answer"))

    def _deliver_pending(self, app: str, users: Sequence[str]) -> None:
        """Deliver the pending pushes of these users. A caller does so before it
        sends a new push, so that the pushes keep their order."""
        pending = self.pending
        for user in users:
            if pending.waits_for(app, user):
                pending.deliver(app, user)

    def _report_absent(
        self,
        app: str,
        users: Sequence[str],
        events: Sequence[Event],
        outcomes: Sequence[Outcome],
    ) -> None:
        """Report the users who are not online to ``on_absent``.

        The outcome of such a user, at the same index, is NOT_SENT.
        """
        if self.on_absent is None or _NOT_SENT not in outcomes:
            return
        rows = zip(users, events, outcomes, strict=True)
        absent = [
            (user, event) for user, event, outcome in rows if outcome is _NOT_SENT
        ]
        self.on_absent(app, absent)
