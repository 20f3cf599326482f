"""Routes of an account's logins: which there are, and the end of one."""

from __future__ import annotations

from typing import Final

import msgspec

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1.account import AccountDone, DeviceEnd, DevicesAnswer, DeviceShown, DevicesQuery
from imserver.api.v1.actor import ACTOR_PROBLEMS, actor
from imserver.api.v1.operation import Operation
from imserver.api.v1.query import read_query
from imserver.api.v1.wire import read, reply
from imserver.auth.principal import ADMIN_OR_ACCOUNT
from imserver.services.people.accounts import UnknownAccount, UnknownDevice

_read_end: Final = msgspec.json.Decoder(DeviceEnd)


def devices(api: Api, call: Call) -> Answer:
    """``GET /api/v1/accounts/devices``."""
    who = actor(api, call, read_query(call, DevicesQuery))
    try:
        found = api.services.accounts.devices(who.app, who.user)
    except UnknownAccount:
        raise Problem(errors.HTTP_UNKNOWN_ACCOUNT) from None
    sessions = api.services.presence.sessions(who.app, [who.user]).sessions[0] if found else []
    online = {session.device for session in sessions}
    shown = [
        DeviceShown(
            str(each.id),
            each.name,
            each.since,
            each.expires_at,
            each.id == who.device,
            each.name in online,
        )
        for each in found
    ]
    return reply(call, DevicesAnswer(shown))


def end_device(api: Api, call: Call) -> Answer:
    """``POST /api/v1/accounts/devices/logout``."""
    asked = read(api, call, _read_end)
    who = actor(api, call, asked)
    try:
        api.services.accounts.log_out_device(who.app, who.user, int(asked.device))
    except UnknownAccount:
        raise Problem(errors.HTTP_UNKNOWN_ACCOUNT) from None
    except UnknownDevice:
        raise Problem(errors.HTTP_UNKNOWN_DEVICE) from None
    return reply(call, AccountDone(who.user))


OPERATIONS: Final = (
    Operation(
        "GET",
        "/api/v1/accounts/devices",
        ADMIN_OR_ACCOUNT,
        devices,
        "accounts",
        "The devices on which an account is logged in",
        "Each login with a password is one, until its token ends. Tokens that GoChat has made are not "
        "listed.",
        query=DevicesQuery,
        answer=DevicesAnswer,
        problems=(*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_ACCOUNT),
        example_query={"user": "1"},
        example_answer={
            "devices": [
                {
                    "device": "4711",
                    "name": "phone",
                    "since": 1795155801,
                    "expires_at": 1797747801,
                    "current": True,
                    "online": True,
                }
            ]
        },
        hot=False,
    ),
    Operation(
        "POST",
        "/api/v1/accounts/devices/logout",
        ADMIN_OR_ACCOUNT,
        end_device,
        "accounts",
        "End one login of an account",
        "Its token is void; connections of the account on devices of that name are closed with 4502.",
        body=DeviceEnd,
        answer=AccountDone,
        problems=(*ACTOR_PROBLEMS, errors.HTTP_UNKNOWN_ACCOUNT, errors.HTTP_UNKNOWN_DEVICE),
        example_body={"user": "1", "device": "4711"},
        example_answer={"user": "1"},
        hot=False,
    ),
)
