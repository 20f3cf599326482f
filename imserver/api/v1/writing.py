"""Routes by which users write over HTTP: send, edit, recall."""

from __future__ import annotations

from time import time
from typing import Any, Final

import msgspec
from gevent.event import AsyncResult
from msgspec import UNSET

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1.actor import ACTOR_PROBLEMS, Actor, actor
from imserver.api.v1.conversations import log_of
from imserver.api.v1.operation import Operation
from imserver.api.v1.wire import read, reply
from imserver.api.v1.written import (
    Content,
    EditRequest,
    RecallRequest,
    SendRequest,
    StoredAnswer,
)
from imserver.auth.principal import ADMIN_OR_ACCOUNT
from imserver.errors import StorageUnavailable
from imserver.model import SYSTEM_PREFIX
from imserver.services.messages.revisions import revision
from imserver.storage.log.contract import BLOCKED, INVALID, MUTED, RECALLED, Appended, Draft, Rejected

_read_send: Final = msgspec.json.Decoder(SendRequest)
_read_recall: Final = msgspec.json.Decoder(RecallRequest)
_read_edit: Final = msgspec.json.Decoder(EditRequest)
_read_any: Final = msgspec.json.Decoder()
_encode: Final = msgspec.json.Encoder().encode


# --- writing ------------------------------------------------------------------------------------------------


def send(api: Api, call: Call) -> Answer:
    """``POST /api/v1/messages/send``."""
    asked = read(api, call, _read_send)
    who = actor(api, call, asked)
    if who.app.startswith(SYSTEM_PREFIX):
        raise Problem(errors.HTTP_STORE_UNAVAILABLE)
    if bool(asked.to) == bool(asked.conversation):
        raise Problem(errors.HTTP_INVALID_REQUEST, "Give one of `to` and `conversation`")
    if asked.to == who.user:
        raise Problem(errors.HTTP_INVALID_REQUEST, "`to`: the receiver is the sender")
    kind, body = _content(api, who, asked)
    draft = Draft(
        sender=who.user,
        type=kind,
        body=body,
        client_msg_id=asked.client_msg_id,
        time_ms=int(time() * 1000),
        about=asked.reply_to,
        meta=_mentions(asked),
        to_user=asked.to,
        conversation=asked.conversation,
    )
    return _store(api, call, who, draft)


def _content(api: Api, who: Actor, asked: Content) -> tuple[str, bytes]:
    """Type and bytes of what is said."""
    if (asked.text is UNSET) == (asked.data is UNSET):
        raise Problem(errors.HTTP_INVALID_REQUEST, "Give one of `text` and `data`")
    if asked.text is not UNSET:
        kind, body = asked.type or "text", _bytes("text", str.encode, asked.text)
    else:
        kind, data = asked.type or "custom", bytes(asked.data)  # type: ignore[arg-type]
        if kind == "text":
            raise Problem(errors.HTTP_INVALID_REQUEST, "`type`: `data` is no text")
        try:
            _read_any.decode(data)  # what was skipped over so far, so that nobody is sent what is no JSON
            body = msgspec.json.format(data, indent=-1)
        except (ValueError, RecursionError) as error:
            raise Problem(errors.HTTP_INVALID_REQUEST, f"{error} - at `$.data`") from None
    if len(body) > (api.push_characters if who.is_back_end else api.message_bytes):
        raise Problem(errors.HTTP_INVALID_REQUEST, "The message is too long")
    return kind, body


def _mentions(asked: Content) -> bytes:
    return _bytes("mentions", _encode, {"mentions": asked.mentions}) if asked.mentions else b""


def _bytes(name: str, encode: Any, value: Any) -> bytes:
    try:
        encoded: bytes = encode(value)
    except UnicodeEncodeError:
        raise Problem(errors.HTTP_INVALID_REQUEST, f"`{name}`: it is no text") from None
    return encoded


def recall(api: Api, call: Call) -> Answer:
    """``POST /api/v1/messages/recall``."""
    asked = read(api, call, _read_recall)
    who = actor(api, call, asked, needs_user=False)
    draft = revision(log_of(api), who.app, who.user, asked.id, "recall", client_msg_id=asked.client_msg_id)
    return _revise(api, call, who, draft)


def edit(api: Api, call: Call) -> Answer:
    """``POST /api/v1/messages/edit``."""
    asked = read(api, call, _read_edit)
    who = actor(api, call, asked, needs_user=False)
    kind, body = _content(api, who, asked)
    draft = revision(
        log_of(api),
        who.app,
        who.user,
        asked.id,
        "edit",
        type=kind,
        body=body,
        client_msg_id=asked.client_msg_id,
        meta=_mentions(asked),
    )
    return _revise(api, call, who, draft)


def _revise(api: Api, call: Call, who: Actor, draft: Draft | None) -> Answer:
    if draft is None:
        raise Problem(errors.HTTP_UNKNOWN_MESSAGE)
    return _store(api, call, who, draft)


def _store(api: Api, call: Call, who: Actor, draft: Draft) -> Answer:
    """Have it stored; a back end is told of what an account did. Switches. Raises :class:`Problem`."""
    messaging = api.services.messaging
    if not who.is_back_end:
        if api.sessions.is_banned(who.app, who.user):
            raise Problem(errors.HTTP_BANNED)
        api.talk_rates.require(who.app, who.user)
    settled: AsyncResult[Any] = AsyncResult()
    messaging.send(who.app, draft, settled.set)
    result: Appended | Rejected | StorageUnavailable | None = settled.get()
    if isinstance(result, StorageUnavailable):
        raise result
    if isinstance(result, Rejected):
        raise _problem_of(result)
    assert result is not None
    entry = result.entry
    if not (who.is_back_end or result.repeated):
        messaging.on_sent(who.app, entry)
    return reply(call, StoredAnswer(entry.id, entry.conversation, entry.seq, result.repeated))


def _problem_of(why: Rejected) -> Problem:
    if why.reason == INVALID:
        return Problem(errors.HTTP_INVALID_REQUEST, why.detail)
    if why.reason == BLOCKED:
        return Problem(errors.HTTP_NOT_ALLOWED, "The receiver does not allow it")
    if why.reason == MUTED:
        return Problem(errors.HTTP_SILENCED)
    if why.reason == RECALLED:
        return Problem(errors.HTTP_UNKNOWN_MESSAGE)
    return Problem(errors.HTTP_UNKNOWN_CONVERSATION)


# --- as they are declared -----------------------------------------------------------------------------------

ON_BEHALF: Final = {"app": "101", "user": "ann"}
_STORED: Final = {"id": 8, "conversation": 1, "seq": 4, "repeated": False}
_ONE_CONTENT: Final = {"oneOf": [{"required": ["text"]}, {"required": ["data"]}]}


def row(word: str, function: Any, summary: str, description: str, **more: Any) -> Operation:
    """A route by which a user changes something of what is stored."""
    path = f"/api/v1/messages/{word}"
    problems = (*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_CONVERSATION, *more.pop("problems", ()))
    return Operation(
        "POST",
        path,
        ADMIN_OR_ACCOUNT,
        function,
        "conversations",
        summary,
        description,
        problems=problems,
        hot=False,
        **more,
    )


OPERATIONS: Final = (
    row(
        "send",
        send,
        "Send a message as a user",
        "It is stored before the answer, and told to everybody who may read it: at once to those who are "
        "connected, to the others when they come. Back ends that send to many push with `store`.",
        body=SendRequest,
        answer=StoredAnswer,
        rules={
            "allOf": [
                _ONE_CONTENT,
                {
                    "oneOf": [
                        {"required": ["to"], "properties": {"to": {"minLength": 1}}},
                        {"required": ["conversation"], "properties": {"conversation": {"minimum": 1}}},
                    ]
                },
            ]
        },
        problems=(
            errors.HTTP_STORE_UNAVAILABLE,
            errors.HTTP_SILENCED,
            errors.HTTP_NOT_ALLOWED,
            errors.HTTP_BANNED,
            errors.HTTP_TOO_MANY_REQUESTS,
        ),
        example_body={**ON_BEHALF, "to": "bob", "text": "tea?", "client_msg_id": "a-1"},
        example_answer=_STORED,
    ),
    row(
        "recall",
        recall,
        "Take a message back",
        "Nobody reads it any more. It is an entry of its own, which tells everybody who may read the "
        "message.",
        body=RecallRequest,
        answer=StoredAnswer,
        problems=(errors.HTTP_UNKNOWN_MESSAGE, errors.HTTP_BANNED, errors.HTTP_TOO_MANY_REQUESTS),
        example_body={**ON_BEHALF, "id": 7},
        example_answer=_STORED,
    ),
    row(
        "edit",
        edit,
        "Let a message say something else",
        "Nobody reads what it said before. It is an entry of its own, which tells everybody who may read the "
        "message. One that was recalled stays as it is.",
        body=EditRequest,
        answer=StoredAnswer,
        rules=_ONE_CONTENT,
        problems=(errors.HTTP_UNKNOWN_MESSAGE, errors.HTTP_BANNED, errors.HTTP_TOO_MANY_REQUESTS),
        example_body={**ON_BEHALF, "id": 7, "text": "tea!"},
        example_answer=_STORED,
    ),
)
