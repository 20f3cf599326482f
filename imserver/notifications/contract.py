"""Data of notifications: endpoints, the wishes of users, notifications that are
due, and deliveries."""

from typing import Any, Final, Literal

from msgspec import Raw, Struct

from imserver.plugin.wire import Notify

SECOND_MS: Final = 1000
MINUTES_AN_HOUR: Final = 60
"""Quiet hours are stored as minutes of the day."""
ENDPOINT_BYTES = 1000
"""Longest URL of an endpoint."""
MAIL = "mail"
"""Stands for mail in metrics, in place of the host of a push service."""

NO_DATA = Raw(b"null")

Kind = Literal["message", "push", "close", "test"]
"""The subject of a notification. ``message``: stored messages of a
conversation. ``push``: a push of a back end or a bot. ``close``: the messages
were read elsewhere. ``test``: a test by the operator or the user."""

Level = Literal["all", "mentions", "nothing"]
"""The messages of a conversation about which a user is notified."""
LEVELS: tuple[Level, ...] = ("all", "mentions", "nothing")
"""A level is stored as its index."""
MUTED_FOR_GOOD = 1 << 40
"""``muted_until`` without an end."""


class PushEndpoint(Struct, frozen=True):
    """The address for the notifications of one device.

    ``id`` is unique in the database. ``url``: a URL of Web Push or UnifiedPush.
    For another push service: its name, a colon and the token of the device
    there. ``p256dh`` and ``auth`` are base64url (RFC 8291); ``""`` for other
    push services. ``device``: its name for people; ``created``: Unix seconds.
    ``enabled`` False: the user has switched it off. ``login``: the number of
    the login that has added it. The endpoint is removed when that login ends.
    0: the user has no account.
    """

    id: int
    app: str
    user: str
    url: str
    p256dh: str
    auth: str
    device: str = ""
    language: str = "en"
    enabled: bool = True
    created: int = 0
    login: int = 0
    host: str = ""
    """The host whose queue has the deliveries to this endpoint."""

    @property
    def is_web(self) -> bool:
        """Whether it is an endpoint of Web Push or UnifiedPush."""
        return self.p256dh != ""


class QuietHours(Struct, frozen=True):
    """The hours in which a user gets no notifications.

    They are from ``begin`` to ``end``, minutes of the day in the user's
    ``zone``. They may span midnight. Messages that are still unread at the end
    are notified then. If both are equal, there are no quiet hours.
    """

    begin: int = 0
    end: int = 0
    zone: str = "UTC"


class Wishes(Struct, frozen=True):
    """The wishes of a user for all conversations and devices.

    ``preview``: texts are shown. ``mail``: digests of unread messages, 15
    minutes after the first one or daily. ``language``: of mails. ``groups``:
    the level of groups without a wish of their own. ``keywords``: words that
    count as a mention of the user.
    """

    preview: bool = True
    mail: Literal["never", "soon", "daily"] = "never"
    quiet: QuietHours = QuietHours()
    language: str = "en"
    groups: Level = "all"
    keywords: tuple[str, ...] = ()

    def level_of(self, kind: str) -> Level:
        """The level of a conversation of this kind that has no wish of its
        own."""
        if kind == "group":
            return self.groups
        return "all"


class ConversationWish(Struct, frozen=True):
    """The wish of a user for one conversation. ``muted_until``: Unix seconds;
    0: not muted."""

    conversation: int
    level: Level = "all"
    muted_until: int = 0


class Due(Struct, frozen=True):
    """A user who may have to be notified of ``entry``, or was notified of it.

    ``due``: when to decide; 0: never. ``notified``: the entry of the last
    notification, which was sent at ``notified_at``; 0: the user was not
    notified. Times are milliseconds of
    :func:`imserver.gateway.clock.steady_time`.
    """

    user: str
    conversation: int
    entry: int
    due: int
    notified: int = 0
    notified_at: int = 0


class MailDue(Struct, frozen=True):
    """A user who may need a mail at ``due`` (Unix milliseconds; 0: no mail).

    ``mailed``: when the last mail was sent, in Unix milliseconds; 0: never.
    ``entry``: the last entry of the log at that time; ``marks``: the version of
    the user's marks at that time.
    """

    user: str
    due: int
    mailed: int = 0
    entry: int = 0
    marks: int = 0


class ShownAction(Struct, frozen=True, omit_defaults=True):
    """A button of a notification: its name, its label, and the address that a
    click opens."""

    action: str
    title: str
    url: str = ""


class Shown(Struct, frozen=True, omit_defaults=True):
    """The content of a notification, as JSON, which a device shows.

    A service worker or an application gets it. It is stored in
    ``notify_delivery.body``. ``tag`` is the same for all notifications of one
    conversation; a new one replaces the one before it. If ``kind`` is
    ``close``, nothing is shown, and the notification with this tag is removed.
    ``token`` proves to ``POST /api/v1/notifications/act`` that the holder may
    mark the conversation as read, and reply.
    """

    kind: Kind
    tag: str
    title: str = ""
    body: str = ""
    icon: str = ""
    url: str = ""
    actions: tuple[ShownAction, ...] = ()
    conversation: int = 0
    """The id of the conversation; 0: a push that is not stored."""
    group: bool = False
    id: int = 0
    """The newest entry."""
    count: int = 0
    """The number of unread messages in this conversation."""
    time: int = 0
    """Unix milliseconds."""
    token: str = ""
    data: Any = None
    """The data of a push, if it has any."""
    silent: bool = False
    time_sensitive: bool = False
    badge: int | None = None
    """The number of conversations with unread notified messages; None: not
    known. Browsers count themselves."""


class Delivery(Struct, frozen=True):
    """A notification to one endpoint, which waits in the database until the
    push service has taken it.

    ``topic``: at most 32 characters of base64url (RFC 8030). A newer delivery
    to the endpoint with the same topic replaces this one, here and at the push
    service. ``ttl``: how long the delivery is valid, in seconds from
    ``created`` (Unix seconds). ``next_try``: milliseconds of
    :func:`imserver.gateway.clock.steady_time`; 0: at once.
    """

    id: int
    app: str
    user: str
    endpoint: int
    host: str
    kind: Kind
    conversation: int
    entry: int
    topic: str
    ttl: int
    next_try: int
    attempts: int
    created: int
    body: bytes
    """:class:`Shown` as JSON."""
    audience: int = 0
    """The id of the :class:`Audience` to which it belongs; 0: none."""


AudienceKind = Literal["users", "group", "all"]
AudienceState = Literal["running", "queued", "done", "cancelled"]
"""``queued``: the deliveries to all users are in the database, and some wait to
be sent."""
AUDIENCE_STATES: tuple[AudienceState, ...] = ("running", "queued", "done", "cancelled")
"""A state is stored as its index."""


class AudienceTarget(Struct, frozen=True, omit_defaults=True):
    """The receivers of an audience, as JSON: these users; the members of a
    group; or all users of an app."""

    users: tuple[str, ...] = ()
    group: int = 0


class AudienceContent(Struct, frozen=True, omit_defaults=True):
    """The content of the notifications of an audience, as JSON.

    ``proof``: shows who has started the audience, so that their right can be
    checked again; ``""``: an earlier release has made the audience.
    """

    notify: Notify
    data: Raw = NO_DATA
    proof: str = ""


class Audience(Struct, frozen=True):
    """One notification to the devices of many users. The node processes the
    users page by page.

    ``id`` is unique in the database. ``name``: chosen by the caller, unique in
    the app. ``last_user``: the last user whose deliveries are queued.
    ``users``: how many users were processed. ``queued``: the number of their
    deliveries; ``taken``, ``gone`` and ``refused``: the numbers by outcome.
    ``created`` and ``ended``: Unix seconds; 0: it has not ended.
    """

    id: int
    app: str
    name: str
    kind: AudienceKind
    target: AudienceTarget
    content: AudienceContent
    state: AudienceState = "running"
    last_user: str = ""
    users: int = 0
    queued: int = 0
    taken: int = 0
    gone: int = 0
    refused: int = 0
    created: int = 0
    ended: int = 0
