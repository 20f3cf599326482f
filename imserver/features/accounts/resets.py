"""Forgotten passwords: a mail with a link whose code resets the password of an account, once.

A request is answered before anything is looked up, so neither its answer nor its time says whether an account
exists. Mails are sent in the background and repeated while the mail server does not take them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from itertools import count
from secrets import token_urlsafe
from time import monotonic, time
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore
from gevent.pool import Group

from imserver.auth.accounts import GOCHAT
from imserver.auth.rates import Buckets, Shared, TooManyRequests
from imserver.clock import retry_pause
from imserver.config.settings import Config, settings_of
from imserver.errors import ImserverError, StorageUnavailable
from imserver.features.accounts.accounts import Accounts, may_be_login
from imserver.features.accounts.mailing import Mail, NotSent, send
from imserver.features.accounts.rows import AccountStore
from imserver.features.accounts.settings import RESET_MAILS, SmtpSettings
from imserver.logging import RateLimitedLog
from imserver.storage.contract import Account

log: Final = logging.getLogger(__name__)

CODE_SECONDS: Final = 1800
"""For how long a code is valid."""
MAILS_PER_ACCOUNT: Final = 3
"""Mails to one account within ``accounts.rate_seconds``."""
MAX_SENDING: Final = 1000
"""Mails that wait for the mail server; beyond it requests have no effect."""
_AT_ONCE: Final = 4
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_MAIL_SECONDS: Final = 600.0
"""How long a mail is repeated."""

_SUBJECT: Final = "Reset your password · 重置密码"
_TEXT: Final = """\
Somebody has asked to reset the password of your account. If it was you, open this address within {minutes} \
minutes:

    {link}

If it was not you, you need not do anything: your password stays as it is.

有人要求重置您的账号密码。如果是您本人，请在 {minutes} 分钟内打开上面的地址。
如果不是您，请忽略这封邮件，您的密码不会改变。
"""


class NoResets(ImserverError):
    """The server sends no mail, or the app has no page for its link (``accounts.reset_url``)."""


class Resets:
    """Owner of the mails that are being sent.

    ``own_page``: the address of this server's own page for links of the app of GoChat; ``""``: it has none.
    """

    def __init__(
        self,
        config: Config,
        accounts: Accounts,
        rows: AccountStore,
        attempt: Shared | None,
        own_page: Callable[[], str],
    ) -> None:
        self._smtp = settings_of(config, SmtpSettings)
        self._own_page = own_page
        self._accounts = accounts
        self._rows = rows
        self._mails = Buckets(RESET_MAILS, MAILS_PER_ACCOUNT, config.accounts.rate_seconds, attempt)
        self._turns = BoundedSemaphore(_AT_ONCE)
        self._sending = Group()
        self._full = RateLimitedLog(log, "%d mails wait for the mail server: further requests have no effect")

    def offered_in(self, app: str) -> bool:
        """Whether users of an app may reset their password by e-mail. Raises NoAccounts."""
        rules = self._accounts.rules_of(app)
        return bool(
            self._smtp.host and rules.passwords and (rules.reset_url or (self._own_page() and app == GOCHAT))
        )

    def request(self, app: str, login: str, address: str) -> None:
        """Send a mail to the account with this identifier, if it exists and has an e-mail address.

        ``address``: that of the client. The request counts as a login. Raises NoAccounts, PasswordsOff,
        NoResets and TooManyRequests.
        """
        self._accounts.charge_reset(app, address)
        if not self.offered_in(app):
            raise NoResets(app)
        if len(self._sending) >= MAX_SENDING:
            self._full(len(self._sending))
        elif may_be_login(login, ""):
            self._sending.start(gevent.Greenlet(self._run, app, login))

    def finish(self, app: str, code: str, password: str, address: str) -> None:
        """Set a new password with the code of a mail. All sessions and tokens of the account end.

        Raises BadField, NoAccounts, PasswordsOff, UnknownReset, TooManyRequests and Overloaded.
        """
        self._accounts.reset_password(app, hash_of(code), password, address)

    def stop(self) -> None:
        """End the sending of mails."""
        self._sending.kill()

    # --- in the background ----------------------------------------------------------------------------------

    def _run(self, app: str, login: str) -> None:
        try:
            account = self._accounts.may_reset(app, login)
            if account is None:
                return
            try:
                self._mails.require((app, account.id))
            except TooManyRequests:
                log.info("app %s: account %d has reached its limit of reset mails", app, account.id)
                return
            code, now = token_urlsafe(32), int(time())
            if not self._rows.add_reset(account.id, account.email, hash_of(code), now, now + CODE_SECONDS):
                return  # the address has changed meanwhile
        except StorageUnavailable as error:
            log.warning("app %s: a password cannot be reset: %s", app, error)
            return
        page = self._accounts.rules_of(app).reset_url or self._own_page()
        self._deliver(account, f"{page}#reset={code}")

    def _deliver(self, account: Account, link: str) -> None:
        """Send a mail. Repeat it if the mail server refuses it for now, or does not answer."""
        mail = Mail(account.email, _SUBJECT, _TEXT.format(link=link, minutes=CODE_SECONDS // 60))
        deadline = monotonic() + _MAIL_SECONDS
        for failures in count(1):
            try:
                with self._turns:
                    send(self._smtp, mail)
            except NotSent as error:
                if not error.is_temporary or monotonic() > deadline:
                    log.error("app %s: no mail to the account %d: %s", account.app, account.id, error)
                    return
                log.warning(
                    "app %s: mail to the account %d: %s; trying again", account.app, account.id, error
                )
            else:
                log.info("app %s: the account %d was sent a mail", account.app, account.id)
                return
            gevent.sleep(retry_pause(failures, _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS))


def hash_of(code: str) -> str:
    """The hash of a code to reset a password, as it is stored."""
    return hashlib.sha256(code.encode()).hexdigest()
