"""Notifications to large audiences: start one, follow its progress, cancel
it."""

from collections.abc import Sequence
from secrets import token_hex
from time import time
from typing import Annotated, Final, Literal

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from imserver.notifications.api import CHAPTER, require_enabled
from imserver.notifications.contract import (
    NO_DATA,
    Audience,
    AudienceContent,
    AudienceKind,
    AudienceState,
    AudienceTarget,
)
from imserver.notifications.declared import (
    HTTP_NOTIFICATIONS_OFF,
    HTTP_UNKNOWN_AUDIENCE,
)
from imserver.notifications.parts import NotificationParts, notifications_of
from imserver.notifications.pushes import DATA_BYTES
from imserver.plugin.errors import Problems
from imserver.plugin.http import ApiProblem, Call, Resource, about, view
from imserver.plugin.identity import Needs
from imserver.plugin.messages import MessageLog
from imserver.plugin.storage import Store
from imserver.plugin.wire import Limit, Notify

MOST_USERS: Final = 10_000
"""Users whom a request may name."""
MOST_OF_APP: Final = 10
"""Audiences of an app that have not ended."""
MOST_LISTED: Final = 50
_NAME_BYTES: Final = 16
"""Bytes of the random name of an audience without a key."""

AppOfAudience = Annotated[str, about("The app: a tenant of this server.", min_length=1)]
AudienceId = Annotated[int, about("The id of the audience.", ge=1, le=Limit.ID)]
UserOfAudience = Annotated[str, about("A user.", min_length=1, max_length=255)]


class AudienceAdd(Struct, forbid_unknown_fields=True):
    """A notification and its audience. Give `users`, `group` or `all`."""

    app: AppOfAudience
    notify: Annotated[Notify, about("The content of the notification.")]
    users: (
        Annotated[
            list[UserOfAudience],
            about("Notify these users.", min_length=1, max_length=MOST_USERS),
        ]
        | UnsetType
    ) = UNSET
    group: (
        Annotated[int, about("Notify the members of this group.", ge=1, le=Limit.ID)]
        | UnsetType
    ) = UNSET
    all: (
        Annotated[Literal[True], about("Notify all users of the app with devices.")]
        | UnsetType
    ) = UNSET
    data: (
        Annotated[
            Raw,
            about(f"Any JSON value for your application, at most {DATA_BYTES} bytes."),
        ]
        | UnsetType
    ) = UNSET
    key: Annotated[
        str,
        about(
            "Your own name for the audience. A repeated request with the same name "
            "starts nothing.",
            max_length=64,
        ),
    ] = ""


class AudienceShown(Struct):
    """The progress of a notification to an audience."""

    id: AudienceId
    key: Annotated[
        str,
        about("Your own name for the audience, or a name that the server has made."),
    ]
    state: Annotated[
        AudienceState,
        about(
            "`running`: the server goes through the users. `queued`: the server has "
            "gone through all users, and some devices still wait. `done` or "
            "`cancelled`: the server sends nothing more."
        ),
    ]
    users: Annotated[
        int, about("The number of users that the server has gone through.")
    ]
    devices: Annotated[int, about("The number of devices of these users.")]
    waiting: Annotated[
        int, about("Devices to which the notification is still to be sent.")
    ]
    taken: Annotated[
        int, about("Devices whose push service has accepted the notification.")
    ]
    gone: Annotated[
        int, about("Devices that no longer exist. The server has removed them.")
    ]
    refused: Annotated[
        int, about("Devices for which the push service has refused the notification.")
    ]
    dropped: Annotated[
        int,
        about(
            "Devices whose notification was cancelled, expired or was replaced, and "
            "users who are banned."
        ),
    ]
    created: Annotated[
        int, about("When the notification was started, in Unix seconds.")
    ]
    ended: Annotated[
        int, about("When the notification ended, in Unix seconds; 0: it has not ended.")
    ]


class AudiencesAnswer(Struct):
    """Audiences of an app, the newest first. The server keeps each audience for
    a week after its end."""

    audiences: list[AudienceShown]


routes = Resource(
    "notifications",
    service=lambda core, _: notifications_of(core),
    chapter=CHAPTER,
    hot=False,
)


@routes.post(
    "/notifications/audiences",
    Needs.PUSH,
    act="notifications.audiences.add",
    status=201,
    problems=(
        HTTP_NOTIFICATIONS_OFF,
        Problems.UNKNOWN_CONVERSATION,
    ),
)
def add_audience(
    parts: NotificationParts, call: Call, request: AudienceAdd
) -> AudienceShown:
    """Notify a large audience.

    All devices of the users get one notification, whether the users are online
    or not. The server goes through the users in the background, and sends at
    most `notify.audience_per_second` notifications per second. It respects the
    users' settings: quiet hours, previews, and devices that are switched off.
    An app has at most 10 audiences that have not ended.
    """
    require_enabled(parts, call.app)
    kind, target = _target(parts.core.store, call.app, request)
    content = _content(request)
    # The server goes through the users for a long time, so it checks the right
    # of the caller again before each page.
    proof = parts.core.authority.proof(call.principal, call.request.headers)
    new = Audience(
        id=0,
        app=call.app,
        name=request.key or token_hex(_NAME_BYTES),
        kind=kind,
        target=target,
        content=replace(content, proof=proof),
        created=int(time()),
    )
    audiences = parts.audiences
    stored = audiences.rows.add(new, MOST_OF_APP)
    if stored is None:
        raise ApiProblem(
            Problems.TOO_MANY_REQUESTS,
            f"{MOST_OF_APP} audiences of the app have not ended",
        )
    # Begins at once if this node is the one that notifies.
    audiences.look()
    return _shown(parts, [stored])[0]


@routes.get("/notifications/audiences", Needs.PUSH)
def audiences(
    parts: NotificationParts,
    call: Call,
    app: AppOfAudience,
    id: Annotated[
        int,
        about("The audience; 0: the newest audiences of the app.", ge=0, le=Limit.ID),
    ] = 0,
) -> AudiencesAnswer:
    """Show the progress of notifications to audiences."""
    rows = parts.audiences.rows.of(call.app, id, MOST_LISTED)
    return AudiencesAnswer(_shown(parts, rows))


@routes.post(
    "/notifications/audiences/cancel",
    Needs.PUSH,
    schema=("AudienceChosen", "An audience."),
    act="notifications.audiences.cancel",
    problems=(HTTP_UNKNOWN_AUDIENCE,),
)
def cancel_audience(
    parts: NotificationParts, call: Call, app: AppOfAudience, id: AudienceId
) -> AudienceShown:
    """Cancel a notification to an audience.

    The server still sends the notifications that are already on their way: at
    most a hundred for each push service.
    """
    rows = parts.audiences.rows
    # An audience that has ended already stays as it is, and is shown.
    rows.cancel(call.app, id)
    audiences = rows.of(call.app, id, limit=1)
    if not audiences:
        raise ApiProblem(HTTP_UNKNOWN_AUDIENCE)
    return _shown(parts, audiences)[0]


def _content(request: AudienceAdd) -> AudienceContent:
    """Return the content of the notifications that a request gives.

    Raises ApiProblem if a device would show nothing, or if ``data`` is too
    long.
    """
    notify = request.notify
    # A silent notification only wakes the application, so it needs no text.
    if not (notify.title or notify.text or notify.silent):
        raise ApiProblem.invalid("`notify`: give a `title` or a `text`")
    data = NO_DATA if request.data is UNSET else request.data
    if len(bytes(data)) > DATA_BYTES:
        raise ApiProblem.invalid(f"`data`: more than {DATA_BYTES} bytes")
    return AudienceContent(notify, data)


def _target(
    store: Store, app: str, request: AudienceAdd
) -> tuple[AudienceKind, AudienceTarget]:
    """Return the kind and the receivers of the audience that a request gives.

    Raises ApiProblem if the request gives not exactly one of the three kinds,
    or an unknown group.
    """
    if [request.users, request.group, request.all].count(UNSET) != 2:
        raise ApiProblem.invalid("give `users`, `group` or `all`")
    if request.users is not UNSET:
        # Sorted, because the position of the audience is the name of a user.
        return "users", AudienceTarget(users=tuple(sorted(set(request.users))))
    if request.group is UNSET:
        return "all", AudienceTarget()
    _require_group(store, app, request.group)
    return "group", AudienceTarget(group=request.group)


def _require_group(store: Store, app: str, id: int) -> None:
    """Raise ApiProblem if the app has no group with this id."""
    group = None
    if store.has_database:
        group = store.part(MessageLog).conversations.get(app, id)
    if group is None or group.kind != "group":
        raise ApiProblem(Problems.UNKNOWN_CONVERSATION)


def _shown(
    parts: NotificationParts, audiences: Sequence[Audience]
) -> list[AudienceShown]:
    """Return audiences as the API shows them, with the numbers of devices.

    Switches greenlets. Raises StorageUnavailable.
    """
    active = [each.id for each in audiences if each.state in ("running", "queued")]
    waiting_counts = parts.audiences.rows.waiting(active)
    return [_shown_one(each, waiting_counts.get(each.id, 0)) for each in audiences]


def _shown_one(audience: Audience, waiting: int) -> AudienceShown:
    """Return an audience as the API shows it.

    ``waiting``: how many of its devices wait for the notification.
    """
    settled = audience.taken + audience.gone + audience.refused
    # The numbers are read one after the other, so they may not fit.
    dropped = max(audience.queued - waiting - settled, 0)
    return view(
        AudienceShown,
        audience,
        key=audience.name,
        devices=audience.queued,
        waiting=waiting,
        dropped=dropped,
    )
