"""The options of channels, and the meaning of their names."""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from msgspec import field
from msgspec.structs import replace

from imserver.gateway.channels.members import (
    PRIVATE_PREFIX,
    ChannelNames,
    ChannelRefused,
    needs_token,
)
from imserver.gateway.config.settings import ChannelSettings, TenantSettings
from imserver.gateway.hub.hub import RESERVED, USER_CHANNEL
from imserver.gateway.model import SYSTEM_PREFIX, Limit, Service

ANY_NAMESPACE: Final = "*"
"""The row of ``channels`` in the settings of an app for all channels without a
row of their own."""
UNKNOWN: Final = ChannelSettings(subscribe="nobody")
"""The options of channels that an app does not have, because it allows only
channels with settings."""
_DEFAULTS: Final = ChannelSettings()
"""The options of channels without settings."""
_RESERVED: Final = ChannelSettings(subscribe="members")
"""The options of ``group:`` channels, and of ``user:`` channels without a
row."""


def _namespace(rows: Mapping[str, ChannelSettings], channel: str) -> str:
    """Return the name of the row of settings that applies to a channel.

    The row has the name of the channel's namespace: the part of the channel's
    name before the colon, or ``""`` without a colon. If the namespace has no
    row, the result is :data:`ANY_NAMESPACE`.
    """
    namespace, colon, _ = channel.removeprefix(PRIVATE_PREFIX).partition(":")
    if not colon:
        namespace = ""
    if namespace in rows:
        return namespace
    return ANY_NAMESPACE


def has_channel(user: str) -> bool:
    """Whether the id of a user is short enough for the name of a channel."""
    size = len(USER_CHANNEL) + len(user.encode("utf-8", "surrogatepass"))
    return size <= Limit.CHANNEL_BYTES


def check_known(options: ChannelSettings) -> None:
    """Raise :class:`ChannelRefused` (``unknown``) for a channel of
    :data:`UNKNOWN` options."""
    if options is UNKNOWN:
        raise ChannelRefused("unknown", "the app has no channels of this namespace")


class ChannelOptions(Service):
    """The options of the channels of all apps.

    ``_settings`` returns the settings of an app, or None if there is no such
    app. ``history_apps`` has the apps in which pushes to users are publications
    to channels with a history. Never switches greenlets.
    """

    _settings: Callable[[str], TenantSettings | None]
    history_apps: Collection[str] = ()
    names: dict[str, ChannelNames] = field(default_factory=dict)
    """App → the meaning of the names of its channels, besides its settings.
    Other classes change it only by :meth:`set_names`."""

    def set_names(self, app: str, names: ChannelNames | None) -> None:
        """Set the meaning of the names of an app's channels.

        None means that names have only the meaning in the settings. Never
        switches greenlets.
        """
        if names is None:
            self.names.pop(app, None)
        else:
            self.names[app] = names

    def is_reserved(self, channel: str) -> bool:
        """Whether a channel belongs to a user or to a group. Never switches
        greenlets."""
        return channel.startswith(RESERVED)

    def is_private(self, app: str, channel: str) -> bool:
        """Whether clients need a token for a channel of this name, even in an
        open app.

        Never switches greenlets.
        """
        names = self.names.get(app)
        return needs_token(channel) or (
            names is not None and names.needs_token(channel)
        )

    def check_user(self, user: str | None, options: ChannelSettings) -> None:
        """Raise :class:`ChannelRefused` if a channel is for users, and the
        client has no user. Never switches greenlets."""
        if not (options.anonymous or user):
            raise ChannelRefused("denied", "the channel is for users")

    def known(self, app: str, channel: str) -> ChannelSettings:
        """Return the settings of a channel.

        Raises :class:`ChannelRefused` (``unknown``) if the app has no such
        channel. Never switches greenlets.
        """
        options = self.of(app, channel)
        check_known(options)
        return options

    def of(self, app: str, channel: str) -> ChannelSettings:
        """Return the settings of a channel. Never switches greenlets.

        They come from the row of the channel's namespace in the settings of the
        app. A channel that the app does not have gets the options
        :data:`UNKNOWN`.
        """
        if channel.startswith(RESERVED) and not app.startswith(SYSTEM_PREFIX):
            return self._of_reserved(app, channel)
        tenant = self._settings(app)
        if tenant is None:
            return _DEFAULTS

        settings = _DEFAULTS
        rows = tenant.channels
        if tenant.known_channels_only:
            settings = rows.get(_namespace(rows, channel), UNKNOWN)
            if settings is UNKNOWN:
                return settings
        elif rows:
            settings = rows.get(_namespace(rows, channel), _DEFAULTS)

        if not self.names:  # nearly always
            return settings
        names = self.names.get(app)
        if names is None:
            return settings
        return names.options(channel, settings)

    def _of_reserved(self, app: str, channel: str) -> ChannelSettings:
        """Return the settings of the channel of a user or a group."""
        if not channel.startswith(USER_CHANNEL):
            return _RESERVED
        row = self._user_row(app)
        if row is None:
            return _RESERVED
        return replace(row, subscribe="members")

    def _user_row(self, app: str) -> ChannelSettings | None:
        """Return the options that an app has set for the channels of users
        (``user:<id>``).

        The result is None if the app has set no such options.
        """
        tenant = self._settings(app)
        if tenant is None:
            return None
        return tenant.channels.get("user")

    def has_user_channel(self, app: str, user: str) -> bool:
        """Whether the channel of a user has options that the app has set.

        Never switches greenlets.
        """
        return self._user_row(app) is not None and has_channel(user)

    def namespace(self, app: str, channel: str) -> str:
        """Return the name of a channel's row of settings; ``*`` if it has no
        row of its own.

        Never switches greenlets.
        """
        tenant = self._settings(app)
        if tenant is None:
            return ANY_NAMESPACE
        return _namespace(tenant.channels, channel)

    def is_stored(self, app: str, channel: str) -> bool:
        """Whether the history of a channel is the message log. Never
        switches greenlets."""
        return self.of(app, channel).history != ""

    def stores_conversations(self, app: str) -> bool:
        """Whether the messages that users of the action dialect send are
        stored. Never switches greenlets."""
        tenant = self._settings(app)
        return tenant is not None and tenant.store_conversations
