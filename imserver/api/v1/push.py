"""``/api/v1/push`` and ``/api/v1/rooms/publish``: a message to whoever is connected."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.structs import asdict

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1.message import (
    MAX_ID_CHARACTERS,
    MESSAGE_RULES,
    PUSH_RULES,
    AppName,
    Code,
    Data,
    Kind,
    Message,
    Note,
    PushRequest,
    Text,
)
from imserver.api.v1.operation import Header, Operation
from imserver.api.v1.outcome import PushAnswer
from imserver.api.v1.reach import APP_PROBLEMS
from imserver.api.v1.sending import Carried, send
from imserver.api.v1.wire import read, reply
from imserver.auth.principal import PUSH
from imserver.services.push.publish import Name


class RoomPublishRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A message and the room whose members are told. It is given as in a push."""

    app: AppName
    room: Name
    message: Message | str | UnsetType = UNSET
    type: Kind = "text"
    text: Text | UnsetType = UNSET
    data: Data | UnsetType = UNSET
    code: Code = 0
    note: Note = ""
    sender: Annotated[str, Meta(max_length=512, description="Who says it, as clients show it.")] = ""
    id: Annotated[str, Meta(max_length=MAX_ID_CHARACTERS, description="As in a push.")] = ""
    except_users: Annotated[list[str], Meta(description="Members who are not told.")] = field(
        default_factory=list
    )


_push_of = msgspec.json.Decoder(PushRequest)
_publish_of = msgspec.json.Decoder(RoomPublishRequest)
_REPLAYED: Final = (("Idempotent-Replayed", "true"),)


def push(api: Api, call: Call) -> Answer:
    """``POST /api/v1/push``."""
    return _answer(call, send(api, call, read(api, call, _push_of), key_of(call)))


def publish_to_room(api: Api, call: Call) -> Answer:
    """``POST /api/v1/rooms/publish``."""
    asked = PushRequest(**asdict(read(api, call, _publish_of)))
    return _answer(call, send(api, call, asked, key_of(call)))


def _answer(call: Call, sent: Carried) -> Answer:
    return reply(call, b"{%b}" % sent.answer(), _REPLAYED if sent.replayed else ())


def key_of(call: Call) -> str:
    """The request's Idempotency-Key, ``""`` without one. Raises :class:`Problem` for one that is too long."""
    key = "" if call.request is None else call.request.headers.get("idempotency-key", "")
    if len(key) > MAX_ID_CHARACTERS:
        raise Problem(
            errors.HTTP_INVALID_REQUEST, f"Idempotency-Key is longer than {MAX_ID_CHARACTERS} characters"
        )
    return key


IDEMPOTENCY_KEY: Final = Header(
    "Idempotency-Key",
    "A request that comes again under the same key is not carried out again: the same server process gives "
    "the first answer again (of the last 50,000 at least), another one says `repeated`.",
    example="order-4711",
)
REPLAYED: Final = Header(
    "Idempotent-Replayed", "`true`: the request came before; this is what was done then.", example="true"
)

SENDING_PROBLEMS: Final = (
    *APP_PROBLEMS,
    errors.HTTP_TOO_MANY_TARGETS,
    errors.HTTP_STORE_UNAVAILABLE,
    errors.HTTP_ID_REUSED,
)
"""What may be wrong with whatever sends."""

OPERATIONS: Final = (
    Operation(
        "POST",
        "/api/v1/push",
        PUSH,
        push,
        "push",
        "Push a message",
        "Delivers a message to whoever is connected: users (all their devices, or one), connections, rooms, "
        "the whole app, in any mixture. It answers when the message is on its way to the connections, with "
        "what became of each target. With `store` the message is kept for users and groups, and the answer "
        "says where it stands.",
        body=PushRequest,
        answer=PushAnswer,
        problems=SENDING_PROBLEMS,
        headers=(IDEMPOTENCY_KEY,),
        answer_headers=(REPLAYED,),
        rules=PUSH_RULES,
        example_body={"app": "101", "user": "ann", "text": "your order has been sent"},
        example_answer={"sent": 1, "results": [{"target": {"user": "ann"}, "status": "sent"}]},
        hot=True,
    ),
    Operation(
        "POST",
        "/api/v1/rooms/publish",
        PUSH,
        publish_to_room,
        "rooms",
        "Publish to a room",
        "Delivers a message to the members of a room: a push with the room as its only target.",
        body=RoomPublishRequest,
        answer=PushAnswer,
        problems=SENDING_PROBLEMS,
        headers=(IDEMPOTENCY_KEY,),
        answer_headers=(REPLAYED,),
        rules=MESSAGE_RULES,
        example_body={"app": "101", "room": "lobby", "sender": "ann", "text": "hello"},
        example_answer={"sent": 1, "results": [{"target": {"room": "lobby"}, "status": "sent"}]},
        hot=True,
    ),
)
