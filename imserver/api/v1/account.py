"""Accounts and friends, as requests and answers of ``/api/v1`` have them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.api.v1 import field
from imserver.api.v1.actor import Acting, App, Page
from imserver.auth.account_tokens import GOCHAT

_SHOWN = r"^[^\x00-\x1f\x7f-\x9f]*$"

Phone = Annotated[
    str,
    Meta(
        min_length=1, max_length=20, pattern=_SHOWN, description="The phone number: any 1 to 20 characters."
    ),
]
Password = Annotated[str, Meta(min_length=1, max_length=250, description="The password.")]
NewPassword = Annotated[
    str, Meta(min_length=8, max_length=250, description="The password: 8 characters and more.")
]
Nickname = Annotated[str, Meta(max_length=64, pattern=_SHOWN, description="What others call the account.")]
Avatar = Annotated[
    str, Meta(max_length=1000, pattern=_SHOWN, description="Where the picture of the account is.")
]
UserId = Annotated[str, Meta(description="The id of the account: the user that it is.")]


DeviceName = Annotated[str, Meta(max_length=64, pattern=_SHOWN, description="What the device calls itself.")]
DeviceId = Annotated[str, Meta(pattern="^[1-9][0-9]{0,15}$", description="A login of the account.")]


class Registration(Struct, forbid_unknown_fields=True):
    """A new account."""

    phone: Phone
    password: NewPassword
    app: App = GOCHAT
    nickname: Nickname = ""
    avatar: Avatar = ""
    device: DeviceName = ""


class AccountLogin(Struct, forbid_unknown_fields=True):
    """A phone number and its password."""

    phone: Phone
    password: Password
    app: App = GOCHAT
    device: DeviceName = ""


class AccountSet(Acting):
    """What an account shows of itself. What is left out stays as it is."""

    nickname: Nickname | UnsetType = UNSET
    avatar: Avatar | UnsetType = UNSET


class PasswordSet(Acting, kw_only=True):
    """Another password."""

    password: NewPassword
    old_password: Annotated[
        str, Meta(max_length=250, description="The one so far; a back end need not know it.")
    ] = ""


class AccountQuery(Acting):
    """Which account."""

    of: Annotated[str, Meta(max_length=255, description="The account that is shown; none: one's own.")] = ""


class AccountShown(Struct):
    """What an account shows of itself."""

    user: UserId
    nickname: Nickname
    avatar: Avatar
    phone: Annotated[str, Meta(description="The phone number; empty for others.")]
    created: Annotated[int, Meta(description="When it was made, in Unix seconds.")]


class SessionAnswer(Struct):
    """A login, and the token that proves it."""

    token: Annotated[
        str, Meta(description="Shown as `Authorization: Bearer`, and by clients at their login.")
    ]
    expires_at: Annotated[int, Meta(description="Until when it is good, in Unix seconds.")]
    account: AccountShown


class DevicesQuery(Acting):
    """Whose logins."""


class DeviceEnd(Acting, kw_only=True):
    """Which login is to end."""

    device: DeviceId


class DeviceShown(Struct):
    """A login of an account."""

    device: DeviceId
    name: DeviceName
    since: Annotated[int, Meta(description="When it began, in Unix seconds.")]
    expires_at: Annotated[int, Meta(description="Until when its token is good, in Unix seconds.")]
    current: Annotated[bool, Meta(description="It is the one whose token was shown.")]
    online: Annotated[bool, Meta(description="A device of this name is connected.")]


class DevicesAnswer(Struct):
    """The logins of an account that have not ended, the newest first."""

    devices: list[DeviceShown]


class AccountDone(Struct):
    """It is done."""

    user: UserId


# --- friends ------------------------------------------------------------------------------------------------

ListName = Literal["friends", "incoming", "outgoing", "blocked"]


class FriendsQuery(Page):
    """Whose list, which, and which page of it."""

    list: Annotated[
        ListName,
        Meta(description="Friends; who asks to be one; who was asked; who is kept away."),
    ] = "friends"


class FriendChange(Acting, kw_only=True):
    """Two accounts."""

    friend: Annotated[str, Meta(min_length=1, max_length=255, description="The other account.")]


class FriendAnswer(Struct):
    """What came of it."""

    status: Annotated[
        Literal["friends", "asked", "done", "already", "absent", "away"],
        Meta(
            description="`friends`: they are now. `asked`: the other was asked. `done`. `already`: so before."
            " `absent`: there was nothing to change. `away`: you keep the other away."
        ),
    ]


class FriendShown(Struct):
    """Somebody on a list."""

    user: UserId
    nickname: Nickname
    avatar: Avatar
    since: field.Since


class FriendsAnswer(Struct):
    """A list of an account, in the order of ids."""

    count: Annotated[int, Meta(description="How many there are, on all pages together.")]
    friends: list[FriendShown]
    next: field.Next
