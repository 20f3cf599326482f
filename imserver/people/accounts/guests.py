"""Guests: people who came by an invitation, and gave only a name. They have an
account without a password.

The rights of guests are checked in the same places as the rights of others.
Routes check the kind of the principal (:mod:`imserver.gateway.auth.principal`).
:class:`imserver.gateway.auth.questions.Relations` decides about people and
groups, :class:`imserver.gateway.auth.rates.SenderRates` about messages.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from time import time
from typing import Final

from msgspec import Struct

from imserver.people.accounts.accounts import (
    Accounts,
    UnknownAccount,
    check_device,
    check_shown,
)
from imserver.people.accounts.contract import Account, FullSession
from imserver.people.accounts.declared import (
    GUESTS,
    HTTP_NO_GUEST,
    AccountSettings,
    MakeBuckets,
)
from imserver.people.accounts.identifiers import BadField, Identifier
from imserver.people.accounts.rows import AccountStore
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.identity import by_address
from imserver.plugin.messages import Draft, MessageServices, ToFollowers
from imserver.plugin.runtime import Service, serve_others
from imserver.plugin.services import Presence
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.wire import Signal

log: Final = logging.getLogger(__name__)

_GREETING: Final = """\
You are a member now. Your user name is {name}. To log in on other devices, set a password in your profile, \
with the current one left empty.

您已成为正式成员。您的用户名是 {name}。要在其他设备上登录，请在个人资料中设置密码，当前密码留空即可。
"""


_DAY_SECONDS: Final = 86_400
_LOGIN_SECONDS: Final = 366 * _DAY_SECONDS
"""How long the login of a guest is valid. A guest cannot log in again, so the
login ends with the account, at the latest after a year."""


class MemberGreeting(Struct, frozen=True):
    """Tells guests who were let in as members how to log in."""

    messages: MessageServices

    def send(self, member: Account) -> None:
        """Tell a new member, on all devices, how to log in elsewhere.

        A signal lets pages reload the card of the user. Switches greenlets.
        Raises StorageUnavailable.
        """
        draft = Draft(
            sender="",  # the server
            body=_GREETING.format(name=member.name).strip().encode(),
            time_ms=int(time() * 1000),
            to_user=member.user,
        )
        self.messages.messaging.store(member.app, draft, by_user=False)
        signal = Signal("contact", member.user, "", to=member.user)
        followers = ToFollowers(member.app, (member.user,), group=0, signal=signal)
        self.messages.signals.send(followers)


class Guests(Service, dict=True):
    """Makes accounts of guests, turns guests into members, and deletes unused
    guests.

    A guest who was not connected for ``accounts.guest_days`` is deleted;
    ``presence`` tells who is connected. ``deleted`` is called with each deleted
    guest, ``admitted`` with each account that was let in as a member. Each node
    looks for unused guests independently; deleting a guest twice does no harm.
    Every method may switch greenlets and raise StorageUnavailable.
    """

    config: Config
    accounts: Accounts
    rows: AccountStore
    presence: Presence
    buckets: MakeBuckets
    deleted: Callable[[Account], object]
    admitted: Callable[[Account], object]

    def __post_init__(self) -> None:
        """Make the rate of new guests for each address."""
        settings = settings_of(self.config, AccountSettings)
        seconds = self.config.accounts.rate_seconds
        self.unused_seconds = settings.guest_days * _DAY_SECONDS
        """The time in seconds after which an unused guest is deleted. 0 means
        that guests are never deleted."""
        self._by_address = self.buckets(GUESTS, settings.guests_per_address, seconds)

    def require_guests(self, app: str) -> None:
        """Raise an error if an app takes no guests.

        The error is NoAccounts if the app has no accounts, and ServiceRefused
        otherwise.
        """
        if not self.accounts.rules_of(app).guests:
            raise ServiceRefused("The app takes no guests", Problems.NOT_ALLOWED)

    def add(self, app: str, nickname: str, device: str, address: str) -> FullSession:
        """Make an account for a guest, and log it in on a device of this name.

        ``address`` is the address of the client; the number of guests per
        address is limited. Raises NoAccounts, ServiceRefused (no guests),
        BadField and TooManyRequests.
        """
        self.require_guests(app)
        nickname = nickname.strip()
        if not nickname:
            raise BadField("nickname: expected a name")
        check_shown(nickname, avatar="")
        check_device(device)
        self._by_address.require(by_address(app, address))
        # A guest has no identifier and no password, so nobody can log in again.
        new = Account(id=0, app=app, phone="", nickname=nickname, guest=True)
        account = self.rows.add(new, password="", record=self.accounts.recorder(app))
        return self.accounts.token(account, device, _LOGIN_SECONDS)

    def promote(
        self,
        app: str,
        user: str,
        given: dict[Identifier, str],
        password: str,
        device: str,
        address: str,
    ) -> FullSession:
        """Turn a guest into a member, and log it in again on a device of this
        name.

        Messages and groups stay. ``given`` are the identifiers of the member.
        Counts as a registration from ``address``. Raises NoAccounts,
        ServiceRefused (no guest), UnknownAccount, PasswordsOff, BadField,
        Taken, TooManyRequests and Overloaded.
        """
        check_device(device)
        account = self._guest(app, user)
        identifiers, hashed = self.accounts.checked_registration(
            app, given, password, address
        )
        member = self.rows.promote_guest(
            app, account.id, identifiers, hashed, self.accounts.recorder(app)
        )
        # Another request has promoted or deleted the guest meanwhile.
        if member is None:
            raise ServiceRefused(problem=HTTP_NO_GUEST)
        session = self.accounts.token(member, device)
        self.accounts.logged_out(app, user)
        return session

    # --- acts of owners -------------------------------------------------------

    def admit(self, app: str, user: str, name: str) -> Account:
        """Let a guest in as a member with this user name.

        The member stays logged in, and may choose a password. Raises
        NoAccounts, ServiceRefused (no guest), UnknownAccount, BadField and
        Taken.
        """
        guest = self._guest(app, user)
        given = self.accounts.checked_identifiers(app, {"name": name})
        self.accounts.require_free(app, given, guest.id)
        member = self.rows.admit_guest(
            app, guest.id, given["name"], self.accounts.recorder(app)
        )
        if member is None:
            raise ServiceRefused(problem=HTTP_NO_GUEST)
        self.admitted(member)
        return member

    def remove(self, app: str, user: str) -> None:
        """Delete a guest. The messages of the guest stay.

        Raises NoAccounts, ServiceRefused (no guest) and UnknownAccount.
        """
        self.accounts.remove(app, self._guest(app, user).user, keeps_messages=True)

    def _guest(self, app: str, user: str) -> Account:
        """The account of a guest.

        Raises NoAccounts, UnknownAccount, and ServiceRefused if the account
        does not belong to a guest.
        """
        account = self.accounts.known(app, user)
        if not account.guest:
            raise ServiceRefused(problem=HTTP_NO_GUEST)
        return account

    # --- unused guests --------------------------------------------------------

    def expire(self, now: int) -> int:
        """Delete the guests who are unused at this Unix second; returns their
        number."""
        count = 0
        unused_since = int(now - self.unused_seconds)
        for page in self.rows.unused_guests(unused_since):
            for guest in page:
                if not self._may_be_online(guest):
                    with suppress(UnknownAccount):  # another node was faster
                        self.accounts.remove(guest.app, guest.user, keeps_messages=True)
                        self.deleted(guest)
                        count += 1
                serve_others()
        if count:
            log.info("%d unused guests were deleted", count)
        return count

    def _may_be_online(self, guest: Account) -> bool:
        """Whether a guest is connected, or may be connected to a node that did
        not answer."""
        online = self.presence.online(guest.app, [guest.user])
        (is_online,) = online.users
        return is_online or bool(online.missing)
