"""Pushes to users in apps whose channels of users (``user:<id>``) have a history."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from imserver.channels.histories import Published
from imserver.channels.members import ChannelRefused
from imserver.channels.options import has_channel
from imserver.channels.subscriptions import Channels
from imserver.hub.hub import USER_CHANNEL
from imserver.model import ChannelPart, Event, Outcome


class UserChannels:
    """Makes a push to a user a publication to the channel of the user.

    The subscribers of the channel receive it from there, with its position. The other sessions of the user
    receive it as any push. Every call may switch. ``to_user``: that of the reach.
    """

    def __init__(self, channels: Channels, to_user: Callable[[str, str, Event], Outcome]) -> None:
        self._channels = channels
        self._to_user = to_user
        self.apps = channels.options.history_apps
        """These apps."""

    def publish(
        self, app: str, user: str, event: Event, tags: bytes = b"", key: str = "", with_history: bool = True
    ) -> tuple[Published, Outcome]:
        """Publish to the channel of a user: the result, and the outcome for the other sessions of the user.

        ``key``, ``with_history``: see :meth:`Channels.publish_event`. Raises :class:`ChannelRefused`; then
        nobody receives it.
        """
        name = f"{USER_CHANNEL}{user}"
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
        if published.outcome is Outcome.NOT_SENT:  # it is in no history
            published = Published(outcome)
        return published, outcome

    def push(self, app: str, user: str, event: Event, key: str = "") -> Outcome:
        """Do what :meth:`publish` does: the outcome. SENT: the history has it."""
        try:
            return self.publish(app, user, event, key=key)[0].outcome
        except ChannelRefused as refused:
            return refused.outcome
