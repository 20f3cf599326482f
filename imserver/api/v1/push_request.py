"""A push: its request, its checks, and the answer, as all senders have them."""

from __future__ import annotations

from time import time
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from imserver import errors
from imserver.api.call import Api
from imserver.api.reply import ApiProblem
from imserver.model import Event
from imserver.services.push.publish import GroupName, Name, Target

MAX_ID_CHARACTERS: Final = 128
MAX_TTL_SECONDS: Final = 86_400

_decode_any = msgspec.json.Decoder().decode
_decode_text = msgspec.json.Decoder(str).decode

AppName = Annotated[str, Meta(min_length=1, max_length=191, description="The app.", examples=["101"])]
Text = Annotated[str, Meta(description="The words, where the message is text.")]
Data = Annotated[Raw, Meta(description="Any JSON value, where the message is no text.")]
Kind = Annotated[
    str,
    Meta(min_length=1, max_length=64, description="What the message is: your own word, or `text`."),
]
Code = Annotated[int, Meta(ge=-(2**31), lt=2**31, description="The `code` that the client dialect shows.")]
Note = Annotated[str, Meta(max_length=512, description="The `msg` that the client dialect shows.")]
TargetField = Annotated[
    Target,
    Meta(
        extra_json_schema={
            "oneOf": [
                {"required": ["user"]},
                {"required": ["connection"]},
                {"required": ["room"]},
                {"required": ["group"]},
                {"required": ["all"], "properties": {"all": {"const": True}}},
            ],
            "dependentRequired": {"device": ["user"]},
        }
    ),
]


class PushMessage(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is said: ``text``, or ``data`` of any JSON with a ``type`` that your clients know."""

    type: Kind = "text"
    text: Text | UnsetType = UNSET
    data: Data | UnsetType = UNSET
    code: Code = 0
    note: Note = ""


class PushRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A message and whom it is for.

    Targets are given by ``targets``, or, where there is one kind, by ``user`` (with ``device``), ``users``,
    ``connection``, ``room``, ``group`` or ``all``. The message is given by ``message``, or by ``text`` or
    ``data``.
    """

    app: AppName
    targets: Annotated[list[TargetField], Meta(min_length=1)] | UnsetType = UNSET
    user: Name | UnsetType = UNSET
    device: Annotated[str, Meta(max_length=512, description="With `user`: on this device.")] | UnsetType = (
        UNSET
    )
    users: Annotated[list[Name], Meta(min_length=1)] | UnsetType = UNSET
    connection: Name | UnsetType = UNSET
    room: Name | UnsetType = UNSET
    group: GroupName | UnsetType = UNSET
    all: bool = False
    message: PushMessage | str | UnsetType = UNSET
    type: Kind = "text"
    text: Text | UnsetType = UNSET
    data: Data | UnsetType = UNSET
    code: Code = 0
    note: Note = ""
    sender: Annotated[str, Meta(max_length=512, description="The sender, as clients show it.")] = ""
    id: Annotated[
        str,
        Meta(
            max_length=MAX_ID_CHARACTERS,
            description="The message's id. It is shown to clients; a request that comes again under the same "
            "id is not carried out again. The header Idempotency-Key does the same unseen.",
        ),
    ] = ""
    ttl_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_TTL_SECONDS,
            description="How long a push for an absent user is held in case they log in.",
        ),
    ] = 0
    except_users: Annotated[
        list[str], Meta(description="Users who do not receive what is sent to rooms and `all`.")
    ] = field(default_factory=list)
    store: Annotated[
        bool,
        Meta(
            description="Store the message in the log, for users and groups: who takes part in stored "
            "messages is told, now or when they come. `sender` says it; without one the server itself does."
        ),
    ] = False


MESSAGE_RULES: Final = {
    "oneOf": [{"required": ["message"]}, {"required": ["text"]}, {"required": ["data"]}],
    "anyOf": [
        {"properties": {"message": {"type": "string"}}},
        {
            "properties": {
                "message": {
                    "type": "object",
                    "oneOf": [{"required": ["text"]}, {"required": ["data"]}],
                },
                "type": {"const": "text"},
                "code": {"const": 0},
                "note": {"const": ""},
            }
        },
    ],
}
"""What :func:`event_of` demands of a message, as JSON Schema."""
PUSH_RULES: Final = {
    "allOf": [
        MESSAGE_RULES,
        {
            "oneOf": [
                {"required": ["targets"]},
                {"required": ["user"]},
                {"required": ["users"]},
                {"required": ["connection"]},
                {"required": ["room"]},
                {"required": ["group"]},
                {"required": ["all"], "properties": {"all": {"const": True}}},
            ]
        },
        {
            "anyOf": [
                {
                    "not": {"required": ["group"]},
                    "properties": {
                        "store": {"const": False},
                        "targets": {"items": {"not": {"required": ["group"]}}},
                    },
                },
                {
                    "required": ["store"],
                    "oneOf": [
                        {"required": ["user"]},
                        {"required": ["users"]},
                        {"required": ["group"]},
                        {"required": ["targets"]},
                    ],
                    "not": {"required": ["device"]},
                    "properties": {
                        "store": {"const": True},
                        "code": {"const": 0},
                        "note": {"const": ""},
                        "ttl_seconds": {"const": 0},
                        "except_users": {"maxItems": 0},
                        "message": {
                            "anyOf": [
                                {"type": "string"},
                                {"properties": {"code": {"const": 0}, "note": {"const": ""}}},
                            ]
                        },
                        "targets": {
                            "items": {
                                "oneOf": [{"required": ["user"]}, {"required": ["group"]}],
                                "not": {"required": ["device"]},
                            }
                        },
                    },
                },
            ]
        },
    ],
    "dependentRequired": {"device": ["user"]},
}
"""What :func:`check` demands besides."""


def size(push: PushRequest) -> int:
    """How many targets a push has."""
    if push.targets is not UNSET:
        return len(push.targets)
    return 1 if push.users is UNSET else len(push.users)


def targets_of(push: PushRequest) -> list[Target]:
    """The targets of a push, however they were given."""
    if push.targets is not UNSET:
        return push.targets
    if push.users is not UNSET:
        return [Target(user=user) for user in push.users]
    return [
        Target(
            user=push.user,
            device=push.device,
            connection=push.connection,
            room=push.room,
            group=push.group,
            all=push.all,
        )
    ]


def check(api: Api, push: PushRequest) -> None:
    """Refuse what cannot be carried out. Raises :class:`ApiProblem`."""
    kinds = (push.targets, push.user, push.users, push.connection, push.room, push.group)
    if len(kinds) - kinds.count(UNSET) + push.all != 1:
        raise ApiProblem(
            errors.HTTP_INVALID_REQUEST,
            "Give one of `targets`, `user`, `users`, `connection`, `room`, `group`, and `all` that is true",
        )
    if push.device is not UNSET and push.user is UNSET:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "`device` goes with `user`")
    if (push.user is UNSET and size(push) > api.batch_targets) or len(push.except_users) > api.batch_targets:
        raise ApiProblem(errors.HTTP_TOO_MANY_TARGETS)
    if push.store:
        _check_stored(push)
    elif push.group is not UNSET or (
        push.targets is not UNSET and any(target.group is not UNSET for target in push.targets)
    ):
        raise ApiProblem(
            errors.HTTP_INVALID_REQUEST, "`group` goes with `store`; tell who is there by a room"
        )


def _check_stored(push: PushRequest) -> None:
    """Refuse what the message log has no place for. Raises :class:`ApiProblem`."""
    said = push.message if isinstance(push.message, PushMessage) else push
    if said.code or said.note or push.ttl_seconds or push.except_users:
        raise ApiProblem(
            errors.HTTP_INVALID_REQUEST,
            "`store` goes without `code`, `note`, `ttl_seconds` and `except_users`",
        )
    if push.users is not UNSET:
        return
    if any(
        (target.user is UNSET and target.group is UNSET) or target.device is not UNSET
        for target in targets_of(push)
    ):
        raise ApiProblem(
            errors.HTTP_INVALID_REQUEST, "`store` is for users, on all their devices, and groups"
        )


def event_of(api: Api, push: PushRequest) -> Event:
    """What the receivers of a push are told. Raises :class:`ApiProblem`."""
    said = _said(push)
    if (said.text is UNSET) == (said.data is UNSET):
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "A message has one of `text` and `data`")
    text, data = _payload(said.data) if said.text is UNSET else (said.text, b"")
    if len(text) + len(data) + len(push.id) + len(push.sender) > api.push_characters:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "The message is too long: it would not fit an outbox")
    return Event("msg", push.sender, text, push.id, said.type, data, said.code, said.note, int(time()))


def _said(push: PushRequest) -> PushRequest | PushMessage:
    """Where the message stands."""
    message = push.message
    short = push.text is not UNSET or push.data is not UNSET
    if short == (message is not UNSET):
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "Give one of `message`, `text` and `data`")
    if message is UNSET:
        return push
    if isinstance(message, str):
        return PushMessage(push.type, message, UNSET, push.code, push.note)
    if push.type != "text" or push.code or push.note:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, "`type`, `code` and `note` belong into `message`")
    return message


def _payload(raw: Any) -> tuple[str, bytes]:
    """Data as (text, JSON on one line): a string is text."""
    data = bytes(raw)
    try:
        if data[:1] == b'"':
            return _decode_text(data), b""
        # What was skipped over so far is read once, so that nobody is sent what is no JSON.
        _decode_any(data)
        return "", msgspec.json.format(data, indent=-1)
    except (ValueError, RecursionError) as error:
        raise ApiProblem(errors.HTTP_INVALID_REQUEST, f"{error} - at `$.data`") from None


Status = Literal["absent", "sent", "repeated", "failed", "partly", "held", "stored", "refused"]
STATUSES: Final[tuple[Status, ...]] = ("absent", "sent", "repeated", "failed", "partly", "held", "stored")
"""Outcome → what results say of it; ``refused`` is said of what cannot be stored."""
Reason = Literal["unknown_conversation", "not_member", "muted", "blocked", "invalid"]


class StoredAt(Struct, gc=False):
    """The position of a stored message."""

    id: Annotated[int, Meta(description="Its place in the log of the app.")]
    conversation: Annotated[int, Meta(description="The conversation; of a group, that is the group.")]
    seq: Annotated[int, Meta(description="Its place in the conversation.")]


class Result(Struct, gc=False):
    """What became of one target."""

    target: Target
    status: Annotated[
        Status,
        Meta(
            description="`sent`: a connection has it, or the node that holds one. `absent`: nobody was "
            "there. `held`: nobody was there, it waits for a login. `repeated`: it was accepted before, "
            "through another node. `failed`: the node that is needed does not answer, or the database; try "
            "again. `partly`: a node does not answer, the others have it. `stored`: it is kept. "
            "`refused`: it cannot be kept."
        ),
    ]
    stored: Annotated[StoredAt | UnsetType, Meta(description="The position of the stored message.")] = UNSET
    reason: Annotated[
        Reason | UnsetType,
        Meta(
            description="Why it was refused: there is no such group, the sender is not a member of it, or "
            "silenced there; the receiver has blocked the sender; or a name is too long, or sender and "
            "receiver are one."
        ),
    ] = UNSET


class PushAnswer(Struct, gc=False):
    """What became of a push: ``results`` stand in the order of the targets."""

    sent: Annotated[int, Meta(description="How many results are `sent`, `partly` or `stored`.")]
    results: list[Result]
