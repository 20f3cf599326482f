"""Mails with fixed words and a link. They are sent in the background, and
repeated while the mail server does not take them."""

import logging
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore
from gevent.pool import Group

from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import ADDRESS_MAILS, MakeBuckets, SmtpSettings
from imserver.people.accounts.mailing import Mail, NotSent, send
from imserver.plugin.identity import Buckets, Rate
from imserver.plugin.runtime import RateLimitedLog, retry_pause

log: Final = logging.getLogger(__name__)

MAILS: Final = 3
"""The most mails of one kind to one account, and of all kinds to one address,
within ``accounts.rate_seconds``."""


_AT_ONCE: Final = 4
"""Connections to the mail server."""
_MOST_WAITING: Final = 1000
"""The most mails that are being made or sent. Further requests have no
effect."""
_TRY_SECONDS: Final = 600.0
"""How long a mail is repeated."""
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
"""Seconds between two attempts."""


class LinkMails:
    """Owner of the mails that are being sent, and of the counters of mails to
    one address."""

    def __init__(
        self, smtp: SmtpSettings, rate_seconds: float, buckets: MakeBuckets
    ) -> None:
        """Begin without mails that wait."""
        self._smtp = smtp
        self._rate_seconds = rate_seconds
        self._buckets = buckets
        self._to_address = self.buckets(ADDRESS_MAILS)
        self._turns = BoundedSemaphore(_AT_ONCE)
        self._sending = Group()
        self._full = RateLimitedLog(
            log, "%d mails wait for the mail server: further requests have no effect"
        )

    @property
    def has_server(self) -> bool:
        """Whether mail can be sent."""
        return bool(self._smtp.host)

    @property
    def waiting(self) -> int:
        """How many mails are being made or sent."""
        return len(self._sending)

    def buckets(self, rate: Rate) -> Buckets:
        """The counters of the mails of one kind."""
        return self._buckets(rate, MAILS, self._rate_seconds)

    def charge(self, app: str, email: str) -> None:
        """Count a mail to an address. Raises TooManyRequests."""
        self._to_address.require((app, email))

    def start(self, make: Callable[[], tuple[Account, str, str] | None]) -> None:
        """Call ``make`` in the background, and send the mail that it returns.

        ``make`` returns receiver, subject and text. If it returns None, no mail
        is sent.
        """
        if self.waiting >= _MOST_WAITING:
            self._full(self.waiting)
        else:
            self._sending.start(gevent.Greenlet(self._deliver, make))

    def stop(self) -> None:
        """End the sending of mails."""
        self._sending.kill()

    def _deliver(self, make: Callable[[], tuple[Account, str, str] | None]) -> None:
        """Greenlet: make and send a mail.

        While the mail server refuses it for now, or does not answer, send it
        again, for :data:`_TRY_SECONDS`.
        """
        content = make()
        if content is None:
            return
        account, subject, text = content
        mail = Mail(account.email, subject, text)
        deadline = monotonic() + _TRY_SECONDS
        for failures in count(1):
            if self._try(account, mail, deadline):
                return
            gevent.sleep(retry_pause(failures, _FIRST_PAUSE, _LONGEST_PAUSE))

    def _try(self, account: Account, mail: Mail, deadline: float) -> bool:
        """Try to send a mail; False if it is to be tried again.

        After the monotonic time ``deadline``, the mail is given up.
        """
        try:
            with self._turns:
                send(self._smtp, mail)
        except NotSent as error:
            if not error.is_temporary or monotonic() > deadline:
                log.error(
                    "app %s: no mail to the account %d: %s",
                    account.app,
                    account.id,
                    error,
                )
                return True
            log.warning(
                "app %s: mail to the account %d: %s; trying again",
                account.app,
                account.id,
                error,
            )
            return False
        log.info("app %s: the account %d was sent a mail", account.app, account.id)
        return True
