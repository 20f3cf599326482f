"""Incoming webhooks: URLs whose requests become messages in a group, from a bot that was made for it."""

from __future__ import annotations

import hashlib
from secrets import token_urlsafe
from time import time
from typing import Final

from imserver.errors import ImserverError
from imserver.services.people.accounts import Accounts
from imserver.services.people.attempts import AddressRate
from imserver.services.people.bots import Bots
from imserver.services.people.groups import ADMIN, OWNER, Groups, NotAllowed, UnknownGroup
from imserver.storage.contract import Account
from imserver.storage.hooks import HookStore, IncomingHook

ADDRESS_REQUESTS: Final = 600
"""Most requests of one network a minute, to all incoming webhooks together."""
ADDRESS_SECONDS: Final = 60.0
_TOKEN_BYTES: Final = 32


class UnknownHook(ImserverError):
    """There is no such incoming webhook, or it was revoked."""


class IncomingHooks:
    """Makes, lists and revokes incoming webhooks. Every method may switch and raise StorageUnavailable.

    ``by``: an owner or admin of the group, or ``""``: a back end. Else raises UnknownGroup or NotAllowed.
    """

    def __init__(
        self, rows: HookStore, bots: Bots, accounts: Accounts, groups: Groups, addresses: AddressRate
    ) -> None:
        self._rows = rows
        self._bots = bots
        self._accounts = accounts
        self._groups = groups
        self._addresses = addresses

    def create(
        self, app: str, by: str, group: int, nickname: str, avatar: str = ""
    ) -> tuple[IncomingHook, str]:
        """Make an incoming webhook with its bot, which joins the group. Returns it with its token.

        Raises NoAccounts, BadField, TooManyBots, TooManyMembers and BadGroup: a group has few bots.
        """
        self._require_role(app, by, group)
        bot, _ = self._bots.create(app, by, "", nickname, avatar)
        user, token = bot.account.user, token_urlsafe(_TOKEN_BYTES)
        made = IncomingHook(bot.account.id, app, group, int(time()))
        try:
            self._groups.invite(app, group, by, [user])
            self._rows.add_incoming(made, _hash(token))
        except BaseException:
            self._accounts.remove(app, user)
            raise
        return made, token

    def of_group(self, app: str, by: str, group: int) -> list[tuple[IncomingHook, Account]]:
        """The incoming webhooks of a group with the accounts of their bots, ordered by id."""
        self._require_role(app, by, group)
        found = self._rows.incoming_to(app, group)
        accounts = {each.id: each for each in self._accounts.those_of(app, [str(each.id) for each in found])}
        return [(each, accounts[each.id]) for each in found if each.id in accounts]

    def revoke(self, app: str, by: str, hook: int) -> None:
        """Delete an incoming webhook and its bot. Raises UnknownHook, also instead of UnknownGroup."""
        found = self._rows.incoming(app, hook)
        if found is None:
            raise UnknownHook(str(hook))
        try:
            self._require_role(app, by, found.group)
        except UnknownGroup:
            raise UnknownHook(str(hook)) from None
        self._accounts.remove(app, str(hook))

    def with_token(self, token: str, address: str) -> IncomingHook:
        """The incoming webhook with this token, for a request from an address.

        Raises UnknownHook and TooManyFailures.
        """
        self._addresses.charge(address)
        found = self._rows.incoming_with(_hash(token))
        if found is None:
            raise UnknownHook("")
        return found

    def _require_role(self, app: str, by: str, group: int) -> None:
        role = self._groups.show(app, group, by).role
        if by and not role:  # an open group
            raise UnknownGroup(str(group))
        if by and role not in (OWNER, ADMIN):
            raise NotAllowed("only the owner and admins manage the webhooks of this group")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
