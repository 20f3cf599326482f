"""Notifications of a user: endpoints of devices, what the user wishes, and a
test."""

from time import time
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from imserver.notifications.contract import (
    ENDPOINT_BYTES,
    MINUTES_AN_HOUR,
    MUTED_FOR_GOOD,
    ConversationWish,
    Level,
    PushEndpoint,
    QuietHours,
    Wishes,
)
from imserver.notifications.decisions import find_zone
from imserver.notifications.declared import (
    HTTP_NOTIFICATIONS_OFF,
    HTTP_UNKNOWN_ENDPOINT,
    NotificationSettings,
    rules_in,
)
from imserver.notifications.keywords import (
    KEYWORD_CHARACTERS,
    MOST_KEYWORDS,
    clean_keywords,
)
from imserver.notifications.parts import NotificationParts, notifications_of
from imserver.notifications.pushes import delivery_of_test
from imserver.notifications.recent import RecentDelivery
from imserver.people.accounts.declared import SmtpSettings
from imserver.people.accounts.parts import accounts_of
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    AccountApp,
    Acting,
    ApiProblem,
    Call,
    Resource,
    about,
    view,
)
from imserver.plugin.identity import GOCHAT, Needs
from imserver.plugin.messages import (
    Conversation,
    ConversationId,
    MessageLog,
    ToFollowers,
)
from imserver.plugin.runtime import BadUrl
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of
from imserver.plugin.wire import Limit, Signal

CHAPTER: Final = (
    "Notify users who are not looking at their messages, on their devices and by "
    "e-mail."
)

_SHOWN: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
_BASE64URL: Final = r"^[A-Za-z0-9_-]+={0,2}$"
_TIME: Final = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"

EndpointId = Annotated[int, about("The id of the endpoint.", ge=1, le=Limit.ID)]
DeviceLabel = Annotated[
    str, about("The name of the device, for display.", max_length=64, pattern=_SHOWN)
]
Language = Annotated[
    str,
    about(
        "The language of the server's words in notifications, such as `en` or `zh`. An "
        "unknown language counts as `en`.",
        max_length=16,
        pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$",
    ),
]
Enabled = Annotated[bool, about("False: the user has switched the endpoint off.")]
MailWish = Annotated[
    Literal["never", "soon", "daily"],
    about(
        "When the server mails about unread messages: 15 minutes after the first "
        "unread message, or once a day."
    ),
]
Preview = Annotated[bool, about("Whether notifications show the text of messages.")]
GroupsLevel = Annotated[
    Literal["all", "mentions"],
    about(
        "The messages of groups of which the user is notified, unless the user has set "
        "a level for the group."
    ),
]
Keywords = Annotated[
    list[Annotated[str, Meta(max_length=KEYWORD_CHARACTERS)]],
    about(
        "Words that count as a mention of the user in group messages.",
        max_length=MOST_KEYWORDS,
    ),
]
LevelOf = Annotated[Level, about("The messages of which the user is notified.")]
MuteUntil = Annotated[
    int,
    about(
        f"No notifications until this time, in Unix seconds; 0: not muted; {MUTED_FOR_GOOD}: without end.",
        ge=0,
        le=MUTED_FOR_GOOD,
    ),
]


class KeyAnswer(Struct):
    """The key with which a browser subscribes."""

    key: Annotated[
        str,
        about(
            "The public VAPID key, in base64url: `applicationServerKey` of `pushManager.subscribe()`."
        ),
    ]


class EndpointKeys(Struct, forbid_unknown_fields=True):
    """The keys of the receiver (RFC 8291)."""

    p256dh: Annotated[
        str,
        about(
            "The receiver's public key, in base64url.",
            min_length=86,
            max_length=90,
            pattern=_BASE64URL,
        ),
    ]
    auth: Annotated[
        str,
        about(
            "The receiver's secret, in base64url.",
            min_length=22,
            max_length=24,
            pattern=_BASE64URL,
        ),
    ]


class EndpointAdd(Acting, kw_only=True, rename={"expiration_time": "expirationTime"}):
    """An endpoint of Web Push or UnifiedPush, in the form of `toJSON()` of a
    browser's `PushSubscription`; or the device of an application."""

    endpoint: Annotated[
        str,
        about(
            "The URL to which the server posts notifications. For the device of an "
            "application: the name of the push service, a colon, and the token of the "
            "device at this service.",
            min_length=1,
            max_length=ENDPOINT_BYTES,
        ),
    ]
    keys: Annotated[
        EndpointKeys | UnsetType,
        about("The keys of a URL. A device of an application has no keys."),
    ] = UNSET
    replaces: Annotated[
        str,
        about(
            "An earlier endpoint of the same device, if the push service has given the "
            "device a new token. The earlier endpoint is deleted.",
            max_length=ENDPOINT_BYTES,
        ),
    ] = ""
    expiration_time: Annotated[
        float | None,
        about(
            "The server ignores this field, because a push service tells the "
            "server when an endpoint has ended."
        ),
    ] = None
    device: DeviceLabel = ""
    language: Language = "en"


class EndpointChosen(Acting, kw_only=True):
    """An endpoint."""

    id: EndpointId


class EndpointShown(Struct):
    """An endpoint. Its URL and its keys are secret."""

    id: EndpointId
    host: Annotated[str, about("The host of the push service.")]
    device: DeviceLabel
    language: Language
    enabled: Enabled
    created: Annotated[int, about("When the endpoint was added, in Unix seconds.")]


class EndpointsAnswer(Struct):
    """The endpoints of a user, the oldest first."""

    endpoints: list[EndpointShown]


class EndpointDone(Struct):
    """Done."""

    id: EndpointId


class QuietShape(Struct, forbid_unknown_fields=True):
    """The quiet hours, in which the server sends no notifications. After the
    quiet hours, it notifies the user of unread messages. If both times are the
    same, the user has no quiet hours."""

    begin: Annotated[
        str,
        about(
            "The time of day at which the quiet hours begin.",
            pattern=_TIME,
            examples=["22:00"],
        ),
    ]
    end: Annotated[
        str,
        about(
            "The time of day at which the quiet hours end.",
            pattern=_TIME,
            examples=["07:30"],
        ),
    ]
    zone: Annotated[
        str,
        about(
            "The time zone of the user: a name of the IANA database.",
            max_length=64,
            examples=["Asia/Tokyo"],
        ),
    ]


class WishesShown(Struct):
    """The user's notification settings for all conversations and devices."""

    preview: Preview
    mail: MailWish
    quiet: QuietShape
    language: Language
    groups: GroupsLevel
    keywords: Keywords
    mail_possible: Annotated[
        bool,
        about(
            "Whether users of the app can get mail. This needs the settings `smtp`, "
            "and users with accounts."
        ),
    ]
    mail_confirmed: Annotated[
        bool,
        about(
            "Whether the user has confirmed the e-mail address. The server mails only "
            "to a confirmed address."
        ),
    ]


class ConversationWishShown(Struct):
    """The user's notification settings for a conversation."""

    conversation: ConversationId
    level: LevelOf
    mute_until: MuteUntil


class WishEvent(Struct, rename="camel"):
    """What sessions of the user get when it changes."""

    conversation: int
    level: str
    mute_until: int


class ConversationWishesAnswer(Struct):
    """The user's notification settings by conversation, and those for all
    groups."""

    conversations: list[ConversationWishShown]
    groups: GroupsLevel
    keywords: Keywords


class NotificationTestAnswer(Struct):
    """The test notification is on its way."""

    endpoints: Annotated[
        int, about("The number of endpoints to which the test is sent.")
    ]


class RecentShown(RecentDelivery, frozen=True, array_like=False):
    """A notification, and whether it was sent."""


class RecentAnswer(Struct):
    """The results of the last notifications, the newest first."""

    deliveries: list[RecentShown]
    missing_nodes: Annotated[
        list[str],
        about("Nodes that did not answer in time. The answer lacks their part."),
    ]


routes = Resource(
    "notifications",
    service=lambda core, _: notifications_of(core),
    base=EndpointChosen,
    chapter=CHAPTER,
    hot=False,
    need=Needs.ADMIN_OR_USER,
)


def require_enabled(parts: NotificationParts, app: str) -> None:
    """Refuse requests to an app without notifications. Raises ApiProblem."""
    rules = rules_in(parts.core.tenants, app)
    if rules is not None and not rules.enabled:
        raise ApiProblem(HTTP_NOTIFICATIONS_OFF)


@routes.get("/notifications/recent", Needs.OPERATE, base=None)
def recent(
    parts: NotificationParts,
    call: Call,
    app: Annotated[str, about("The app: a tenant of this server.", min_length=1)],
    user: Annotated[str, about("The user; empty: all.", max_length=255)] = "",
    limit: Annotated[int, about("The maximum number of entries.", ge=1, le=100)] = 50,
) -> RecentAnswer:
    """Show the results of the last notifications of an app.

    Each node keeps in memory the last 100 notifications of each app, and the
    last 5 of 5,000 users. It does not keep contents.
    """
    rows, missing = parts.deliveries.recent.of(call.app, user, limit)
    shown = msgspec.convert(rows, list[RecentShown], from_attributes=True)
    return RecentAnswer(deliveries=shown, missing_nodes=missing)


@routes.get(
    "/notifications/key", Needs.ANYONE, base=None, problems=(HTTP_NOTIFICATIONS_OFF,)
)
def key(parts: NotificationParts, call: Call, app: AccountApp = GOCHAT) -> KeyAnswer:
    """Get the public key of this server.

    A browser needs the key to subscribe. The key does not change unless the
    secret of the server changes.
    """
    require_enabled(parts, call.app)
    return KeyAnswer(parts.webpush.public_key)


# --- endpoints ----------------------------------------------------------------


@routes.post(
    "/notifications/endpoints",
    act="notifications.endpoints.add",
    status=201,
    problems=(HTTP_NOTIFICATIONS_OFF,),
)
def add_endpoint(
    parts: NotificationParts, call: Call, request: EndpointAdd
) -> EndpointShown:
    """Add an endpoint.

    From now on, the device is notified of unread messages. The same URL
    replaces an earlier endpoint. To move a URL to another user, send the same
    `keys`: the device has a new user, and waiting notifications for the earlier
    user are not sent. A user has at most `notifications.endpoints` (20) on 8
    hosts; a new endpoint replaces the oldest.
    """
    require_enabled(parts, call.app)
    # Only users have a limit of requests; the back end of the app is trusted.
    if not call.is_back_end:
        parts.subscriptions.require((call.app, call.user))

    p256dh, auth = _keys(parts, call.app, request)
    added = PushEndpoint(
        id=0,
        app=call.app,
        user=call.user,
        url=request.endpoint,
        p256dh=p256dh,
        auth=auth,
        device=request.device,
        language=request.language,
        created=int(time()),
        login=call.principal.device,
    )
    most = settings_of(parts.core.config, NotificationSettings).endpoints
    stored = parts.rows.add_endpoint(added, most, replaces=request.replaces)
    # It may be the first endpoint of the app, whose log is followed only now.
    parts.notifier.work.changed()
    return view(EndpointShown, stored)


@routes.get("/notifications/endpoints")
def endpoints(parts: NotificationParts, call: Call, request: Acting) -> EndpointsAnswer:
    """List the endpoints of a user."""
    rows = parts.rows.endpoints_of(call.app, call.user)
    return EndpointsAnswer([view(EndpointShown, each) for each in rows])


@routes.post(
    "/notifications/endpoints/update",
    schema=("EndpointUpdate", "An endpoint to switch on or off."),
    problems=(HTTP_UNKNOWN_ENDPOINT,),
)
def update_endpoint(
    parts: NotificationParts, call: Call, id: EndpointId, enabled: Enabled
) -> EndpointDone:
    """Switch an endpoint on or off."""
    if not parts.rows.set_enabled(call.app, call.user, id, enabled):
        raise ApiProblem(HTTP_UNKNOWN_ENDPOINT)
    return EndpointDone(id)


@routes.post("/notifications/endpoints/remove", problems=(HTTP_UNKNOWN_ENDPOINT,))
def remove_endpoint(
    parts: NotificationParts, call: Call, request: EndpointChosen
) -> EndpointDone:
    """Remove an endpoint, and its waiting notifications."""
    if not parts.rows.remove_endpoint(call.app, call.user, request.id):
        raise ApiProblem(HTTP_UNKNOWN_ENDPOINT)
    return EndpointDone(request.id)


@routes.post(
    "/notifications/test",
    act="",  # not recorded: users do this all day
    problems=(HTTP_NOTIFICATIONS_OFF,),
)
def test(
    parts: NotificationParts, call: Call, request: Acting
) -> NotificationTestAnswer:
    """Send a test to the user's endpoints that are switched on."""
    require_enabled(parts, call.app)
    if not call.is_back_end:
        parts.tests.require((call.app, call.user))
    endpoints = parts.rows.endpoints_of(call.app, call.user)
    # A test is one message to each device, also in quiet hours.
    deliveries = [delivery_of_test(each, time()) for each in endpoints if each.enabled]
    if deliveries:
        parts.rows.add_deliveries(deliveries)
        parts.deliveries.wake()
    return NotificationTestAnswer(len(deliveries))


# --- wishes -------------------------------------------------------------------


@routes.get("/notifications/wishes")
def wishes(parts: NotificationParts, call: Call, request: Acting) -> WishesShown:
    """Get the user's notification settings for all conversations and
    devices."""
    return _wishes_shown(parts, call, parts.rows.wishes_of(call.app, call.user))


@routes.post(
    "/notifications/wishes",
    schema=(
        "WishesUpdate",
        "Changes to the user's notification settings. Fields that you leave out do not "
        "change.",
    ),
    base=Acting,
    act="",  # not recorded: users do this all day
)
def update_wishes(
    parts: NotificationParts,
    call: Call,
    preview: Preview | UnsetType = UNSET,
    mail: MailWish | UnsetType = UNSET,
    quiet: QuietShape | UnsetType = UNSET,
    language: Language | UnsetType = UNSET,
    groups: GroupsLevel | UnsetType = UNSET,
    keywords: Keywords | UnsetType = UNSET,
) -> WishesShown:
    """Change the user's notification settings for all conversations and
    devices.

    All sessions of the user are told of the change.
    """
    user_wishes = parts.rows.wishes_of(call.app, call.user)
    if mail not in (UNSET, "never"):
        _require_mail(parts.core, call.app)

    fields: dict[str, Any] = {
        "mail": mail,
        "preview": preview,
        "language": language,
        "groups": groups,
        **_stored_forms(quiet, keywords),
    }
    changes = {name: value for name, value in fields.items() if value is not UNSET}
    user_wishes = replace(user_wishes, **changes)

    parts.rows.set_wishes(call.app, call.user, user_wishes)
    if user_wishes.mail != "never":
        # The app may be followed only since now.
        parts.notifier.work.changed()
    # The conversation 0 stands for the wishes for all conversations.
    _send_wish(parts, call, ConversationWish(conversation=0, level=user_wishes.groups))
    return _wishes_shown(parts, call, user_wishes)


@routes.get("/notifications/conversations", base=Acting)
def conversation_wishes(
    parts: NotificationParts,
    call: Call,
    conversation: Annotated[
        int,
        about(
            "The conversation; 0: all conversations with settings of their own.",
            ge=0,
            le=Limit.ID,
        ),
    ] = 0,
) -> ConversationWishesAnswer:
    """List the user's notification settings for single conversations.

    A conversation that is not in the list is not muted. It has the level `all`,
    or the level `groups` if it is a group.
    """
    rows = parts.rows
    # The answer for one conversation has at most one wish.
    if conversation:
        pairs = [(call.user, conversation)]
        wishes = list(rows.all_conversation_wishes(call.app, pairs).values())
    else:
        wishes = rows.conversation_wishes_of(call.app, call.user)
    user_wishes = rows.wishes_of(call.app, call.user)
    shown = [_wish_shown(each) for each in wishes]
    return ConversationWishesAnswer(
        conversations=shown,
        groups=_level_of_groups(user_wishes),
        keywords=list(user_wishes.keywords),
    )


@routes.post(
    "/notifications/conversations",
    schema=(
        "ConversationWishUpdate",
        "Changes to the user's notification settings for a conversation. Fields that "
        "you leave out do not change.",
    ),
    base=Acting,
    act="",  # not recorded: users do this all day
    problems=(Problems.UNKNOWN_CONVERSATION,),
)
def update_conversation_wish(
    parts: NotificationParts,
    call: Call,
    conversation: ConversationId,
    level: LevelOf | UnsetType = UNSET,
    mute_until: MuteUntil | UnsetType = UNSET,
) -> ConversationWishShown:
    """Change the user's notification settings for one conversation.

    `mentions`: messages that mention the user or everybody. The mute ends by
    itself at `mute_until`. All sessions of the user get the change.
    """
    app = call.app
    user = call.user
    conversation_row = _conversation_of_member(parts.core, app, conversation, user)
    rows = parts.rows
    stored = rows.all_conversation_wishes(app, [(user, conversation)])
    # A conversation without a wish of its own has a level by its kind.
    default_level = rows.wishes_of(app, user).level_of(conversation_row.kind)
    default_wish = ConversationWish(conversation, default_level)
    wish = stored.get((user, conversation), default_wish)
    wish = _changed_wish(wish, level, mute_until)
    rows.set_conversation_wish(app, user, wish, default_level)
    _send_wish(parts, call, wish)
    return _wish_shown(wish)


def _conversation_of_member(
    core: Core, app: str, conversation: int, user: str
) -> Conversation:
    """Return a conversation of a user.

    Raises ApiProblem if the user is in no such conversation.
    """
    # Without a database there are no conversations.
    if not core.store.has_database:
        raise ApiProblem(Problems.UNKNOWN_CONVERSATION)
    conversations = core.store.part(MessageLog).conversations
    if conversations.member(app, conversation, user) is None:
        raise ApiProblem(Problems.UNKNOWN_CONVERSATION)
    (row,) = conversations.find(app, [conversation])
    return row


def _send_wish(parts: NotificationParts, call: Call, wish: ConversationWish) -> None:
    """Tell the sessions of the user that a wish has changed.

    If the wish has the conversation 0, the wishes for all conversations have
    changed.
    """
    event = WishEvent(wish.conversation, wish.level, wish.muted_until)
    signal = Signal(
        "wish",
        call.user,
        "",
        conversation=wish.conversation,
        data=msgspec.json.encode(event),
    )
    # The position 0: a signal is not stored in the log.
    parts.messages.signals.send(ToFollowers(call.app, (call.user,), 0, signal))


# --- shapes -------------------------------------------------------------------


def _stored_forms(
    quiet: QuietShape | UnsetType, keywords: Keywords | UnsetType
) -> dict[str, Any]:
    """Return the wishes that are stored in another form than in the request.

    Wishes that the request leaves out are left out here, too.
    """
    fields: dict[str, Any] = {}
    if keywords is not UNSET:
        fields["keywords"] = clean_keywords(keywords)
    if quiet is not UNSET:
        fields["quiet"] = _quiet_hours(quiet)
    return fields


def _require_mail(core: Core, app: str) -> None:
    """Raise ApiProblem if the server sends no mail to users of the app."""
    if not _mail_possible(core, app):
        raise ApiProblem(
            Problems.NOT_ALLOWED, "This server sends no mail to users of this app"
        )


def _changed_wish(
    wish: ConversationWish,
    level: LevelOf | UnsetType,
    mute_until: MuteUntil | UnsetType,
) -> ConversationWish:
    """Return a wish with the fields that a request gives."""
    if level is not UNSET:
        wish = replace(wish, level=level)
    if mute_until is not UNSET:
        wish = replace(wish, muted_until=mute_until)
    return wish


def _keys(parts: NotificationParts, app: str, request: EndpointAdd) -> tuple[str, str]:
    """Return the keys ``p256dh`` and ``auth`` of an endpoint that may be added.

    Both are ``""`` if the endpoint is the device of an application, which has
    no keys. Raises ApiProblem if the endpoint may not be added.
    """
    keys = request.keys
    device = parts.services.find(request.endpoint)
    if device is not None:
        service, token = device
        _check_device(service.objection(app, token), has_keys=keys is not UNSET)
        return "", ""

    if keys is UNSET:
        raise ApiProblem.invalid("`keys`: give those of the subscription")
    try:
        parts.webpush.check(request.endpoint, keys.p256dh, keys.auth)
    except BadUrl as wrong:
        raise ApiProblem.invalid(f"`endpoint`: {wrong}") from None
    except ValueError as wrong:
        raise ApiProblem.invalid(f"`keys`: {wrong}") from None
    # The padding of base64 says nothing, so a key is stored in one form.
    return keys.p256dh.rstrip("="), keys.auth.rstrip("=")


def _quiet_hours(shape: QuietShape) -> QuietHours:
    """Return the quiet hours that a request gives, as minutes of the day.

    Raises ApiProblem if there is no such time zone.
    """
    if find_zone(shape.zone) is None:
        raise ApiProblem.invalid(f"`quiet.zone`: there is no time zone `{shape.zone}`")
    return QuietHours(_minute(shape.begin), _minute(shape.end), shape.zone)


def _minute(time_of_day: str) -> int:
    """Return the minute of the day of a time: ``07:30`` is 450."""
    hours, minutes = time_of_day.split(":")
    return int(hours) * MINUTES_AN_HOUR + int(minutes)


def _time_of_day(minute: int) -> str:
    """Return the time of a minute of the day: 450 is ``07:30``."""
    hours, minutes = divmod(minute, MINUTES_AN_HOUR)
    return f"{hours:02}:{minutes:02}"


def _mail_possible(core: Core, app: str) -> bool:
    """Whether users of an app can get mail: with a mail server and accounts."""
    has_server = bool(settings_of(core.config, SmtpSettings).host)
    return has_server and accounts_of(core).tokens.wanted_in(app)


def _check_device(objection: str, has_keys: bool) -> None:
    """Raise ApiProblem if the device of an application may not be added.

    ``objection``: why its push service refuses it; ``""``: it does not.
    """
    if objection:
        raise ApiProblem.invalid(f"`endpoint`: {objection}")
    if has_keys:
        raise ApiProblem.invalid("`keys`: only with a URL")


def _wishes_shown(parts: NotificationParts, call: Call, wishes: Wishes) -> WishesShown:
    """Return the wishes of the user of a request, as the API shows them.

    Switches greenlets. Raises StorageUnavailable.
    """
    mail_possible = _mail_possible(parts.core, call.app)
    # Without mail the account is not read.
    mail_confirmed = mail_possible and _is_mail_confirmed(parts.core, call)
    quiet = QuietShape(
        begin=_time_of_day(wishes.quiet.begin),
        end=_time_of_day(wishes.quiet.end),
        zone=wishes.quiet.zone,
    )
    return WishesShown(
        preview=wishes.preview,
        mail=wishes.mail,
        quiet=quiet,
        language=wishes.language,
        groups=_level_of_groups(wishes),
        keywords=list(wishes.keywords),
        mail_possible=mail_possible,
        mail_confirmed=mail_confirmed,
    )


def _level_of_groups(wishes: Wishes) -> Literal["all", "mentions"]:
    """Return the level of groups without a wish of their own.

    The API cannot set ``nothing`` for all groups, so it does not show it.
    """
    if wishes.groups == "all":
        return "all"
    return "mentions"


def _wish_shown(wish: ConversationWish) -> ConversationWishShown:
    """Return the wish for one conversation, as the API shows it."""
    return ConversationWishShown(wish.conversation, wish.level, wish.muted_until)


def _is_mail_confirmed(core: Core, call: Call) -> bool:
    """Whether the user of a request has confirmed a mail address.

    Switches greenlets. Raises StorageUnavailable.
    """
    account = accounts_of(core).accounts.get(call.app, call.user)
    return account is not None and account.email_confirmed
