"""Routes that push: to one user, to all of an app, to many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver.api.call import Api, Call, app_from_json, require_app
from imserver.api.form import BadBody, fold, parse_json
from imserver.api.reply import (
    BAD_PARAMETER,
    FAILED,
    NOT_SENT,
    PARTLY,
    REPEATED,
    SENT,
    Answer,
    Refused,
    success,
)
from imserver.model import Event, Outcome
from imserver.protocol.forgiving import has_nul
from imserver.services.push.push import UserPush

_ANSWERS: Final = {
    Outcome.SENT: SENT,
    Outcome.NOT_SENT: NOT_SENT,
    Outcome.REPEATED: REPEATED,
    Outcome.FAILED: FAILED,
    Outcome.PARTLY: PARTLY,
}


def send_message(api: Api, call: Call) -> Answer:
    """``POST /user/sendMessage``: a message to one user, delivered if they are online."""
    params = call.params
    target = UserPush(params.get("userid", ""), params.get("msgid", ""), params.get("message", ""))
    if len(target.text) + len(target.msg_id) + len(target.user) > api.push_characters:
        return BAD_PARAMETER
    outcome = api.pushes.to_user(call.app, target)
    if outcome is Outcome.NOT_SENT:
        _tell_absent(api, call.app, target.user, target.msg_id, target.text)
    return _ANSWERS[outcome]


def send_message_all(api: Api, call: Call) -> Answer:
    """``POST /user/sendMessageAll``: a message to all users of an app but its sender."""
    params = call.params
    sender = params.get("userid", "")
    msg_id = params.get("msgid", "")
    message = params.get("message", "")
    if len(message) + len(msg_id) + len(sender) > api.push_characters:
        return BAD_PARAMETER
    outcome = api.pushes.to_app(call.app, sender, msg_id, message)
    if call.principal.user and outcome in (Outcome.SENT, Outcome.PARTLY):
        # A page's user said it, not a back end.
        facts = {"message": msg_id, "to": "all", "type": "text", "text": message}
        api.services.webhooks.message(call.app, sender, facts)
    return _ANSWERS[outcome]


def _tell_absent(api: Api, app: str, user: str, msg_id: str, text: str) -> None:
    if user:
        api.services.webhooks.absent(app, user, Event("msg", "", text, msg_id))


# --- many at once -------------------------------------------------------------------------------------------


class Batch(Struct, forbid_unknown_fields=True, gc=False):
    """A batch with keys in the usual spelling: many messages, or one message to many users."""

    appID: int | str = 0
    messages: list[UserPush] | None = None
    userIDs: list[str] | None = None
    msgID: str = ""
    message: str = ""


class Result(Struct, gc=False, omit_defaults=True):
    """What became of one target. ``repeated``: its ``msgID`` was accepted before, nothing was delivered."""

    userID: str
    sendResults: bool | None = None
    repeated: bool = False


_SPELLING = {
    name.lower(): name for name in (*Batch.__struct_encode_fields__, *UserPush.__struct_encode_fields__)
}
_decode_batch = msgspec.json.Decoder(Batch).decode


def send_message_batch(api: Api, call: Call) -> Answer:
    """``POST /user/sendMessageBatch``: ``limits.batch_targets`` messages, or one message to as many users.

    May switch: a large batch lets other greenlets run in between.
    """
    batch = _read_batch(call)
    call.app = app_from_json(api, batch.appID)
    require_app(call)
    if (batch.messages is None) == (batch.userIDs is None):
        raise Refused(BAD_PARAMETER)
    if batch.messages is not None:
        if len(batch.messages) > api.batch_targets:
            raise Refused(BAD_PARAMETER)
        return _send_each(api, call.app, batch.messages)
    assert batch.userIDs is not None
    if len(batch.userIDs) > api.batch_targets:
        raise Refused(BAD_PARAMETER)
    return _send_one_to_many(api, call.app, batch.userIDs, batch.msgID, batch.message)


def _read_batch(call: Call) -> Batch:
    if has_nul(call.body):
        raise Refused(BAD_PARAMETER)
    try:
        return _decode_batch(call.body)
    except (ValueError, RecursionError):
        pass
    try:
        fields = _usual_spelling(parse_json(call.body))
        if isinstance(fields.get("messages"), list):
            fields["messages"] = [_usual_spelling(fold(item)) for item in fields["messages"]]
        return msgspec.convert(fields, Batch)
    except (BadBody, msgspec.ValidationError, AttributeError, TypeError):
        raise Refused(BAD_PARAMETER) from None


def _usual_spelling(fields: dict[str, Any]) -> dict[str, Any]:
    """The known ones of folded keys, as :class:`Batch` and :class:`UserPush` spell them."""
    return {_SPELLING[name]: value for name, value in fields.items() if name in _SPELLING}


def _send_each(api: Api, app: str, targets: Sequence[UserPush]) -> Answer:
    longest = api.push_characters
    users = [target.user for target in targets]
    for target in targets:
        if len(target.text) + len(target.msg_id) > longest:
            target.user = ""  # what is too long is sent to nobody
    outcomes = api.pushes.to_each(app, targets)
    if api.services.webhooks.wants(app, "absent"):
        for target, outcome in zip(targets, outcomes, strict=True):
            if outcome is Outcome.NOT_SENT:
                _tell_absent(api, app, target.user, target.msg_id, target.text)
    return _answer_each(users, outcomes)


def _send_one_to_many(api: Api, app: str, users: Sequence[str], msg_id: str, message: str) -> Answer:
    if len(message) + len(msg_id) > api.push_characters:
        raise Refused(BAD_PARAMETER)
    outcomes = api.pushes.to_many(app, users, msg_id, message)
    if outcomes is None:
        return REPEATED
    if api.services.webhooks.wants(app, "absent"):
        for user, outcome in zip(users, outcomes, strict=True):
            if outcome is Outcome.NOT_SENT:
                _tell_absent(api, app, user, msg_id, message)
    return _answer_each(users, outcomes)


def _answer_each(users: Sequence[str], outcomes: Sequence[Outcome]) -> Answer:
    sent, repeated = Outcome.SENT, Outcome.REPEATED
    results = [
        Result(user, None, True) if outcome is repeated else Result(user, outcome is sent)
        for user, outcome in zip(users, outcomes, strict=True)
    ]
    return success({"sendCount": outcomes.count(sent), "results": results})
