"""Routes by which users mark what is stored: read, received, hidden."""

from __future__ import annotations

from typing import Final

import msgspec

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1.actor import Actor, actor
from imserver.api.v1.wire import read, reply
from imserver.api.v1.writing import ON_BEHALF, row
from imserver.api.v1.written import (
    HiddenAnswer,
    HideRequest,
    ReadAnswer,
    ReadRequest,
    ReceivedAnswer,
    ReceivedRequest,
)
from imserver.storage.log.contract import Noted

_read_read: Final = msgspec.json.Decoder(ReadRequest)
_read_received: Final = msgspec.json.Decoder(ReceivedRequest)
_read_hide: Final = msgspec.json.Decoder(HideRequest)


def mark_read(api: Api, call: Call) -> Answer:
    """``POST /api/v1/messages/read``."""
    asked = read(api, call, _read_read)
    noted = _noted(api, actor(api, call, asked), asked.conversation, read=asked.id)
    return reply(call, ReadAnswer(asked.conversation, noted.receipt.read))


def mark_received(api: Api, call: Call) -> Answer:
    """``POST /api/v1/messages/received``."""
    asked = read(api, call, _read_received)
    noted = _noted(api, actor(api, call, asked), asked.conversation, received=asked.id)
    return reply(call, ReceivedAnswer(asked.conversation, noted.receipt.received))


def _noted(api: Api, who: Actor, conversation: int, read: int = 0, received: int = 0) -> Noted:
    noted = api.services.receipts.note(who.app, who.user, conversation, read=read, received=received)
    if noted is None:
        raise Problem(errors.HTTP_UNKNOWN_CONVERSATION)
    return noted


def hide(api: Api, call: Call) -> Answer:
    """``POST /api/v1/messages/hide``."""
    asked = read(api, call, _read_hide)
    who = actor(api, call, asked)
    version = api.services.receipts.hide_from(who.app, who.user, tuple(asked.ids))
    return reply(call, HiddenAnswer(version))


OPERATIONS: Final = (
    row(
        "read",
        mark_read,
        "A user has read a conversation up to a message",
        "Never back. Those who wrote it are told.",
        body=ReadRequest,
        answer=ReadAnswer,
        example_body={**ON_BEHALF, "conversation": 1, "id": 7},
        example_answer={"conversation": 1, "read": 7},
    ),
    row(
        "received",
        mark_received,
        "A device of a user has a conversation up to a message",
        "Never back. Those who wrote it are told.",
        body=ReceivedRequest,
        answer=ReceivedAnswer,
        example_body={**ON_BEHALF, "conversation": 1, "id": 7},
        example_answer={"conversation": 1, "received": 7},
    ),
    row(
        "hide",
        hide,
        "Do not show messages to a user any more",
        "Nobody else is concerned. Messages that the user may not read, or that do not exist, are passed "
        "over.",
        body=HideRequest,
        answer=HiddenAnswer,
        example_body={**ON_BEHALF, "ids": [6]},
        example_answer={"version": 5},
    ),
)
