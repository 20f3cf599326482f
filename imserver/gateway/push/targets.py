"""The targets of a push, who stores pushes for users and groups, and the
channels of users with a history."""

from collections.abc import Callable, Sequence
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from imserver.gateway.channels.histories import Published
from imserver.gateway.channels.members import GROUP_ID, ChannelRefused
from imserver.gateway.channels.options import has_channel
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.errors import HttpProblem, Problems, StorageUnavailable
from imserver.gateway.hub.hub import USER_CHANNEL
from imserver.gateway.model import ChannelPart, Event, Outcome

Name = Annotated[str, Meta(min_length=1, max_length=512)]
GroupName = Annotated[
    str, Meta(pattern=f"^{GROUP_ID.pattern}$", description="A group, by its id.")
]


class Target(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A target of a push: a `user`, a `connection` by its id, a `channel`, the
    members of a `group`, or `all` users of the app. A `user` with `device`
    is a user on only that device.

    The channel `user:<id>` is the user with this id. The channel `group:<id>`
    is the group with this id.
    """

    user: Name | UnsetType = UNSET
    device: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET
    connection: Name | UnsetType = UNSET
    channel: Name | UnsetType = UNSET
    group: GroupName | UnsetType = UNSET
    all: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError unless there is exactly one target."""
        kinds = (self.user, self.connection, self.channel, self.group)
        if sum(kind is not UNSET for kind in kinds) + self.all != 1:
            raise ValueError(
                "A target has one of `user`, `connection`, `channel`, `group`, and `all` that is true"
            )
        if self.device is not UNSET and self.user is UNSET:
            raise ValueError("`device` goes with `user`")


def addressed(target: Target) -> Target:
    """Return the user or the group for which a channel stands.

    The channel ``user:<id>`` stands for a user, and ``group:<id>`` for a group.
    Any other target is returned unchanged.
    """
    if target.channel is UNSET:
        return target
    kind, _, id = target.channel.partition(":")
    if kind == "user" and id:
        return Target(user=id)
    if kind == "group" and GROUP_ID.fullmatch(id):
        return Target(group=id)
    return target


class PushToStore(Struct, frozen=True, gc=False):
    """A push that is stored: a message for each target, a user or a group.

    ``key`` names the push, which is stored once for each key. ``""`` means that
    the push has no key. ``digest`` distinguishes the push from another push
    with the same key.
    """

    targets: Sequence[Target]
    event: Event
    key: str = ""
    digest: int = 0


class TargetResult(Struct, frozen=True, gc=False):
    """The result of the message for one target.

    The message is STORED at this position, REFUSED for this ``reason``, or has
    FAILED.
    """

    outcome: Outcome
    reason: str = ""
    id: int = 0
    conversation: int = 0
    seq: int = 0


class StoreResult(Struct, frozen=True):
    """The results of a push, in the order of its targets.

    If ``replayed`` is set, the push had been stored before.
    """

    results: list[TargetResult]
    replayed: bool = False


class StoredPushes:
    """Stores pushes. This base class stores nothing. The messenger has a
    subclass that stores them."""

    def store_each(
        self, app: str, pushes: Sequence[PushToStore]
    ) -> list[StoreResult | HttpProblem | StorageUnavailable]:
        """Store pushes of one app with different keys, in order.

        A refused push does not stop the others. Its result is the problem, or
        StorageUnavailable if the app has used up its quota. Switches greenlets.
        """
        return [Problems.STORE_UNAVAILABLE] * len(pushes)


class UserChannels:
    """Makes a push to a user a publication to the channel of the user.

    The subscribers of the channel receive the publication with its position.
    The other sessions of the user receive the event like any push. Every call
    may switch greenlets. ``to_user`` is the method that delivers a push to a
    user (``Reach.to_user``).
    """

    def __init__(
        self, channels: Channels, to_user: Callable[[str, str, Event], Outcome]
    ) -> None:
        """Take the channels, and the method that delivers a push to a user."""
        self._channels = channels
        self._to_user = to_user
        self.apps = channels.options.history_apps
        """The apps in which channels of users have a history."""

    def publish(
        self,
        app: str,
        user: str,
        event: Event,
        tags: bytes = b"",
        key: str = "",
        with_history: bool = True,
    ) -> tuple[Published, Outcome]:
        """Publish to the channel of a user, and push to the other sessions.

        Returns the result of the publication, and the outcome for the sessions
        of the user that do not subscribe to the channel.
        :meth:`ChannelPublishing.publish_event` explains ``key`` and
        ``with_history``. Raises :class:`ChannelRefused`; then nobody receives
        the event.
        """
        name = f"{USER_CHANNEL}{user}"
        # Some ids of users cannot be a part of a channel's name.
        if not has_channel(user):
            outcome = self._to_user(app, user, event)
            return Published(outcome), outcome

        event = replace(event, channel=ChannelPart(name, tags=tags))
        published = self._channels.publishing.publish_event(
            app, name, event, key=key, with_history=with_history
        )
        if published.outcome is Outcome.REPEATED:
            return published, Outcome.REPEATED

        outcome = self._to_user(app, user, event)
        if published.outcome is Outcome.NOT_SENT:
            # No history has the event, so only the other sessions count.
            published = Published(outcome)
        return published, outcome

    def push(self, app: str, user: str, event: Event, key: str = "") -> Outcome:
        """Publish as :meth:`publish` does, and return the outcome.

        SENT means that the history has the push, or that a session has received
        it.
        """
        try:
            published, _ = self.publish(app, user, event, key=key)
        except ChannelRefused as refused:
            return refused.outcome
        return published.outcome
