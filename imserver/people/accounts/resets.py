"""Forgotten passwords: a mail with a link whose code resets the password of an
account, once.

The server answers a request before it looks anything up. So neither the answer
nor its time reveals whether an account exists. Mails are sent in the background
and repeated while the mail server does not take them.
"""

import logging
from collections.abc import Callable
from functools import partial
from secrets import token_urlsafe
from time import time
from typing import Final

from msgspec import Struct

from imserver.people.accounts.accounts import Accounts, may_be_login
from imserver.people.accounts.contract import Account
from imserver.people.accounts.identifiers import candidates
from imserver.people.accounts.link_mails import LinkMails
from imserver.people.accounts.rows import AccountStore
from imserver.people.accounts.tokens import secret_hash
from imserver.plugin.errors import Problems, ServiceRefused, StorageUnavailable
from imserver.plugin.identity import GOCHAT, Buckets, TooManyRequests

log: Final = logging.getLogger(__name__)

CODE_SECONDS: Final = 1800
"""For how long a code is valid."""
_CODE_BYTES: Final = 32

_TEXT: Final = """\
Somebody has asked to reset the password of your account. If it was you, open this address within {minutes} \
minutes:

    {link}

If it was not you, you need not do anything: your password stays as it is.

有人要求重置您的账号密码。如果是您本人，请在 {minutes} 分钟内打开上面的地址。
如果不是您，请忽略这封邮件，您的密码不会改变。
"""


class Resets(Struct, frozen=True):
    """Sends mails with a link to reset a password.

    :meth:`Accounts.reset_password` does the reset. ``of_account`` is the rate
    of mails to one account. ``own_page`` is the address of this server's own
    page for links of the app of GoChat; ``""`` means no such page.
    """

    accounts: Accounts
    rows: AccountStore
    mails: LinkMails
    of_account: Buckets
    own_page: Callable[[], str]

    def offered_in(self, app: str) -> bool:
        """Whether users of an app may reset their password by e-mail.

        Raises NoAccounts.
        """
        rules = self.accounts.rules_of(app)
        has_page = rules.reset_url or (self.own_page() and app == GOCHAT)
        return bool(self.mails.has_server and rules.passwords and has_page)

    def request(self, app: str, login: str, address: str) -> None:
        """Send a mail to the account with this identifier, if it exists.

        It must have an e-mail address. ``address`` is the address of the
        client. The request counts as a login. Raises NoAccounts, PasswordsOff,
        ServiceRefused (no resets) and TooManyRequests.
        """
        self.accounts.charge_reset(app, address)
        if not self.offered_in(app):
            raise ServiceRefused(
                "Passwords of this app are not reset by e-mail",
                Problems.NOT_IMPLEMENTED,
            )
        # The answer does not wait for the search, so its time reveals nothing.
        if may_be_login(login, password=""):
            self.mails.start(partial(self._mail, app, login))

    # --- in the background ----------------------------------------------------

    def _mail(self, app: str, login: str) -> tuple[Account, str, str] | None:
        """Make a code, and the mail with it: receiver, subject and text.

        Returns None if no mail is sent, because there is no such account, it
        cannot be reset, or it has had too many mails.
        """
        try:
            row = self.rows.by_login(app, *candidates(login))
            if row is None:
                return None
            account, hashed = row
            # An account without a password has no password to reset.
            if not hashed or not account.email or not self._charge(account):
                return None

            code = token_urlsafe(_CODE_BYTES)
            if not self._store_code(account, code):
                return None  # the address has changed meanwhile
        except StorageUnavailable as error:
            log.warning("app %s: a password cannot be reset: %s", app, error)
            return None
        return account, "Reset your password · 重置密码", self._text_with(app, code)

    def _store_code(self, account: Account, code: str) -> bool:
        """Store the hash of a code that resets the password of an account.

        Returns False if the account has another e-mail address now.
        """
        now = int(time())
        return self.rows.add_reset(
            account.id,
            account.email,
            code=secret_hash(code),
            now=now,
            expires_at=now + CODE_SECONDS,
        )

    def _text_with(self, app: str, code: str) -> str:
        """The text of a mail with the link that has this code.

        The page of the app takes the code from the fragment, which no server
        logs.
        """
        page = self.accounts.rules_of(app).reset_url or self.own_page()
        minutes = CODE_SECONDS // 60
        return _TEXT.format(link=f"{page}#reset={code}", minutes=minutes)

    def _charge(self, account: Account) -> bool:
        """Count a mail to an account and to its address. Returns False if too
        many mails were sent."""
        try:
            self.of_account.require((account.app, account.id))
            self.mails.charge(account.app, account.email)
        except TooManyRequests:
            log.info(
                "app %s: account %d has reached its limit of reset mails",
                account.app,
                account.id,
            )
            return False
        return True
