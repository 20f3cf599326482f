"""Guests: become a member."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from imserver.features.accounts.accounts import PasswordsOff
from imserver.features.accounts.api import (
    CHAPTER,
    DeviceName,
    Email,
    Login,
    NewPassword,
    Phone,
    SessionAnswer,
    UserName,
    given_identifiers,
    session_answer,
)
from imserver.features.accounts.contract import Taken
from imserver.features.accounts.declared import HTTP_NO_GUEST
from imserver.features.accounts.guests import Guests
from imserver.features.accounts.identifiers import split
from imserver.features.accounts.parts import accounts_of
from imserver.plugin.errors import Problems
from imserver.plugin.http import Acting, Call, Resource
from imserver.plugin.identity import Needs


class GuestPromotion(Acting, kw_only=True):
    """What a guest will log in with: at least one identifier, and a password."""

    login: Login | UnsetType = UNSET
    phone: Phone | UnsetType = UNSET
    email: Email | UnsetType = UNSET
    name: UserName | UnsetType = UNSET
    password: NewPassword
    device: DeviceName = ""


routes = Resource("accounts", service=lambda core, _: accounts_of(core).guests, hot=False, chapter=CHAPTER)


@routes.post(
    "/accounts/promote",
    Needs.ADMIN_OR_PERSON,
    problems=(
        Problems.UNKNOWN_ACCOUNT,
        Problems.TOO_MANY_REQUESTS,
        Problems.NOT_ALLOWED,
        PasswordsOff.problem,
        HTTP_NO_GUEST,
        Taken.problem,
    ),
    rules={"anyOf": [{"required": [name]} for name in ("login", "phone", "email", "name")]},
)
def promote(guests: Guests, call: Call, request: GuestPromotion) -> SessionAnswer:
    """Make a member of a guest.

    The account gets an identifier and a password, and keeps its messages and groups. It is logged in anew;
    the token of the guest becomes invalid. Requests count as registrations of their address.
    """
    identifiers = given_identifiers(request)
    if request.login is not UNSET:
        kind, text = split(request.login)
        identifiers.setdefault(kind, text)
    address = "" if call.is_back_end else call.request.host
    return session_answer(
        guests.promote(call.app, call.user, identifiers, request.password, request.device, address)
    )
