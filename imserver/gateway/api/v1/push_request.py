"""A push: the shapes of its request and its answer, for all routes that
send."""

from typing import Annotated, Final, Literal, get_args

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from imserver.gateway.config.declared import about
from imserver.gateway.http.operation import one_of
from imserver.gateway.notify import NotifyField
from imserver.gateway.push.targets import GroupName, Name, Target

MAX_ID_CHARACTERS: Final = 128
MAX_TTL_SECONDS: Final = 86_400
"""How long a push may stay pending."""

AppName = Annotated[
    str, about("The app.", min_length=1, max_length=191, examples=["default"])
]
Text = Annotated[str, about("The message as text.", min_length=1)]
Data = Annotated[
    Raw,
    about(
        "The message as any JSON value, if it is not text.",
        extra_json_schema={"not": {"const": ""}},
    ),
]
Kind = Annotated[
    str,
    about(
        "The type of the message: `text`, or your own word.",
        min_length=1,
        max_length=64,
    ),
]
Code = Annotated[int, about("The `code` in the client dialect.", ge=-(2**31), lt=2**31)]
Note = Annotated[str, about("The `msg` in the client dialect.", max_length=512)]
_NO_CODE: Final = {"code": {"const": 0}, "note": {"const": ""}}
"""A message without ``code`` and ``note``, as properties of JSON Schema."""
_ALL: Final = {"required": ["all"], "properties": {"all": {"const": True}}}
"""A target ``all`` that is true, as JSON Schema."""
TargetField = Annotated[
    Target,
    Meta(
        extra_json_schema={
            "oneOf": [*one_of("user", "connection", "channel", "group")["oneOf"], _ALL],
            "dependentRequired": {"device": ["user"]},
        }
    ),
]


class PushMessage(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The content of a message: `text`, or any JSON as `data` with a `type`
    that your clients know."""

    type: Kind = "text"
    text: Text | UnsetType = UNSET
    data: Data | UnsetType = UNSET
    code: Code = 0
    note: Note = ""


Message = Annotated[
    PushMessage | Text,
    about("The message, instead of `text` or `data`: a text, or an object."),
]


class Sending(PushMessage, kw_only=True, omit_defaults=True):
    """A message to an app."""

    app: AppName
    message: Message | UnsetType = UNSET
    sender: Annotated[str, about("The sender, as clients show it.", max_length=512)] = (
        ""
    )
    id: Annotated[
        str,
        about(
            "The id of the message. Clients see the id. The server does not execute a "
            "repeated request with the same id. The header Idempotency-Key has the "
            "same effect, but clients do not see the key.",
            max_length=MAX_ID_CHARACTERS,
        ),
    ] = ""
    except_users: Annotated[
        list[str],
        about("Users who do not receive messages to channels and to `all`."),
    ] = field(default_factory=list)


class PushRequest(Sending, kw_only=True, omit_defaults=True):
    """A message and its targets.

    Give the targets as `targets`. If all targets are of one kind, you can give
    them as `user` (with `device`), `users`, `connection`, `channel`, `group` or
    `all` instead. Give the message as `message`, or as `text` or `data`.
    """

    targets: Annotated[list[TargetField], Meta(min_length=1)] | UnsetType = UNSET
    user: Name | UnsetType = UNSET
    device: (
        Annotated[
            str,
            about(
                "With `user`: deliver the message only on this device.", max_length=512
            ),
        ]
        | UnsetType
    ) = UNSET
    users: Annotated[list[Name], Meta(min_length=1)] | UnsetType = UNSET
    connection: Name | UnsetType = UNSET
    channel: Name | UnsetType = UNSET
    group: GroupName | UnsetType = UNSET
    all: bool = False
    ttl_seconds: Annotated[
        int,
        about(
            "The number of seconds for which the push stays pending if the user is "
            "offline.",
            ge=0,
            le=MAX_TTL_SECONDS,
        ),
    ] = 0
    store: Annotated[
        bool,
        about(
            "Whether to store the message in the log, for users and groups. Sessions "
            "that use stored messages receive the message now or when they reconnect. "
            "If `sender` is empty, the message comes from the server."
        ),
    ] = False
    notify: NotifyField | UnsetType = UNSET


MESSAGE_RULES: Final = {
    **one_of("message", "text", "data"),
    "anyOf": [
        {"properties": {"message": {"type": "string"}}},
        {
            "properties": {
                "message": {"type": "object", **one_of("text", "data")},
                "type": {"const": "text"},
                **_NO_CODE,
            }
        },
    ],
}
"""The conditions of :func:`imserver.gateway.api.v1.push.event_of` on a message,
as JSON Schema."""
_PERSONAL: Final = {"pattern": r"^(user:[\s\S]|group:[1-9][0-9]{0,17}$)"}
"""The names of channels that are a user or a group, as JSON Schema."""
_STORED: Final = {
    "required": ["store"],
    **one_of("user", "users", "group", "channel", "targets"),
    "not": {"required": ["device"]},
    "properties": {
        "store": {"const": True},
        **_NO_CODE,
        "ttl_seconds": {"const": 0},
        "except_users": {"maxItems": 0},
        "message": {"anyOf": [{"type": "string"}, {"properties": _NO_CODE}]},
        "channel": _PERSONAL,
        "targets": {
            "items": {
                **one_of("user", "group", "channel"),
                "not": {"required": ["device"]},
                "properties": {"channel": _PERSONAL},
            }
        },
    },
}
"""The conditions on a push that is stored, as JSON Schema."""
PUSH_RULES: Final = {
    "allOf": [
        MESSAGE_RULES,
        {
            "oneOf": [
                *one_of("targets", "user", "users", "connection", "channel", "group")[
                    "oneOf"
                ],
                _ALL,
            ]
        },
        {"anyOf": [{"properties": {"store": {"const": False}}}, _STORED]},
    ],
    "dependentRequired": {"device": ["user"]},
}
"""The conditions of :func:`imserver.gateway.api.v1.push.checked_event` on a
push, as JSON Schema."""


def size(push: PushRequest) -> int:
    """Return the number of targets of a push."""
    if push.targets is not UNSET:
        return len(push.targets)
    if push.users is not UNSET:
        return len(push.users)
    return 1


def targets_of(push: PushRequest) -> list[Target]:
    """Return the targets of a push, whichever field names them."""
    if push.targets is not UNSET:
        return push.targets
    if push.users is not UNSET:
        return [Target(user=user) for user in push.users]
    return [
        Target(
            user=push.user,
            device=push.device,
            connection=push.connection,
            channel=push.channel,
            group=push.group,
            all=push.all,
        )
    ]


Status = Literal[
    "absent", "sent", "repeated", "failed", "partly", "held", "stored", "refused"
]
STATUSES: Final[tuple[Status, ...]] = (*get_args(Status), "failed")
"""Outcome → status of a result."""
Reason = Literal[
    "unknown_conversation",
    "unknown_account",
    "not_member",
    "muted",
    "blocked",
    "invalid",
]


class StoredAt(Struct, gc=False):
    """The position of a stored message."""

    id: Annotated[int, about("The position in the log of the app.")]
    conversation: Annotated[int, about("The conversation. A group has the same id.")]
    seq: Annotated[int, about("The number of the entry in its conversation.")]


class Result(Struct, gc=False):
    """The result for one target."""

    target: Target
    status: Annotated[
        Status,
        about(
            "`sent`: queued for a connection, or for its node. `absent`: the target "
            "is not online. `held`: the user is not online, the push is pending. "
            "`repeated`: another node accepted the push before. `failed`: a node, "
            "Redis or the database does not answer; other targets have accepted the "
            "push. `partly`: a node does not answer; the targets on other nodes "
            "received the push. `stored`: the message is stored. `refused`: the "
            "message cannot be stored."
        ),
    ]
    stored: Annotated[
        StoredAt | UnsetType, about("The position of the stored message.")
    ] = UNSET
    reason: Annotated[
        Reason | UnsetType,
        about(
            "Why the message was refused: the group or account does not exist, the "
            "sender is not a member or is muted there, the receiver has blocked "
            "the sender, a name is too long, or the receiver is the sender."
        ),
    ] = UNSET


class PushAnswer(Struct, gc=False):
    """The results of a push, in the order of the targets."""

    sent: Annotated[
        int,
        about("The number of results with the status `sent`, `partly` or `stored`."),
    ]
    results: list[Result]
