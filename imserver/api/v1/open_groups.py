"""Routes of groups that anybody may join who knows their id."""

from __future__ import annotations

from typing import Final

import msgspec

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.reply import Answer
from imserver.api.v1.actor import actor
from imserver.api.v1.group import GroupChange, GroupOpen, GroupShown
from imserver.api.v1.groups import GROUP, GROUP_PROBLEMS, refusing, shown_group
from imserver.api.v1.operation import Operation
from imserver.api.v1.wire import read, reply
from imserver.auth.principal import ADMIN_OR_ACCOUNT
from imserver.services.people.accounts import account_id

_read_open: Final = msgspec.json.Decoder(GroupOpen)
_read_change: Final = msgspec.json.Decoder(GroupChange)


def set_open(api: Api, call: Call) -> Answer:
    """``POST /api/v1/groups/open``."""
    asked = read(api, call, _read_open)
    who = actor(api, call, asked, needs_user=False)
    with refusing():
        changed = api.services.groups.set_open(who.app, account_id(asked.group), who.user, asked.open)
    return reply(call, shown_group(changed))


def join(api: Api, call: Call) -> Answer:
    """``POST /api/v1/groups/join``."""
    asked = read(api, call, _read_change)
    who = actor(api, call, asked)
    with refusing():
        return reply(call, shown_group(api.services.groups.join(who.app, account_id(asked.group), who.user)))


OPERATIONS: Final = (
    Operation(
        "POST",
        "/api/v1/groups/open",
        ADMIN_OR_ACCOUNT,
        set_open,
        "groups",
        "Let anybody join a group, or not any more",
        "The owner and admins may. Who is a member stays one.",
        body=GroupOpen,
        answer=GroupShown,
        problems=(*GROUP_PROBLEMS, errors.HTTP_ROLE_TOO_LOW),
        example_body={"user": "1", "group": "1", "open": True},
        example_answer={**GROUP, "open": True},
        hot=False,
    ),
    Operation(
        "POST",
        "/api/v1/groups/join",
        ADMIN_OR_ACCOUNT,
        join,
        "groups",
        "Join an open group",
        "A group that is not open is as unknown as one that does not exist.",
        body=GroupChange,
        answer=GroupShown,
        problems=(*GROUP_PROBLEMS, errors.HTTP_TOO_MANY_MEMBERS),
        example_body={"user": "3", "group": "1"},
        example_answer={**GROUP, "role": "member", "open": True},
        hot=False,
    ),
)
