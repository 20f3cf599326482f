"""Confirmed e-mail addresses. Until its owner confirms an address, only mails
with fixed words go there.

The link of a mail leads to a page of this server. Only its button confirms,
because virus scanners open links, too. The token of the link is signed, and
names account, address and time, so nothing is stored for it.
"""

import hmac
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from struct import Struct as Layout
from time import time
from typing import Final

from msgspec import Struct

from imserver.people.accounts.accounts import Accounts
from imserver.people.accounts.contract import Account
from imserver.people.accounts.identifiers import BadField
from imserver.people.accounts.link_mails import LinkMails
from imserver.people.accounts.rows import AccountStore
from imserver.plugin.errors import HttpProblem, ServiceRefused
from imserver.plugin.identity import Buckets, TooManyRequests
from imserver.plugin.wire import base64url

LINK_SECONDS: Final = 86_400
"""For how long a link is valid."""
_LAYOUT: Final = Layout(">QQ16s16s")
"""Layout of a token: id of the account, end in Unix seconds, hash of the
address, signature of these three."""
_DIGEST_BYTES: Final = 16
_SIGNATURE_BYTES: Final = 16
_HOUR_SECONDS: Final = 3600

_TEXT: Final = """\
An account at {site} names this e-mail address. If the account is yours, open this address within {hours} \
hours, and confirm:

    {link}

If it is not yours, you need not do anything: you get no other mails from it.

{site} 上的一个账号填写了此邮箱。如果是您的账号，请在 {hours} 小时内打开上面的地址并确认。
如果不是，请忽略这封邮件：您不会因此收到其他邮件。
"""


class UnknownConfirmation(
    ServiceRefused,
    problem=HttpProblem(
        404,
        "unknown_confirmation",
        "No such link to confirm an e-mail address, or it has expired.",
    ),
):
    """The token was not made by this server, has expired, or the account has
    another address now."""


class Confirmations(Struct, frozen=True):
    """Asks for confirmations by mail, and stores them.

    The first of ``keys`` signs the links. A signature by any of them is
    accepted. ``server`` is the address of this server, the beginning of links.
    ``site`` is its name in mails. ``of_account`` is the rate of mails to one
    account.
    """

    keys: Sequence[bytes]
    accounts: Accounts
    rows: AccountStore
    mails: LinkMails
    server: str
    site: str
    of_account: Buckets

    def request(self, app: str, user: str) -> bool:
        """Send a mail with a link that confirms the address of an account.

        Returns False, and sends nothing, if the address is confirmed already.
        Switches greenlets. Raises BadField (no address), NoAccounts,
        UnknownAccount and TooManyRequests.
        """
        account = self.accounts.known(app, user)
        if not account.email:
            raise BadField("the account has no e-mail address")
        if not account.email_confirmed:
            self._send(account)
        return not account.email_confirmed

    def ask_once(self, account: Account) -> None:
        """Send such a mail without a request of the user, unless the server has
        done so.

        Switches greenlets. Raises StorageUnavailable.
        """
        if self.rows.note_confirmation_request(account.id):
            with suppress(TooManyRequests):  # the user has just had one
                self._send(account)

    def _send(self, account: Account) -> None:
        """Send a mail with a new link in the background.

        Raises TooManyRequests if the account or the address had too many mails.
        """
        self.of_account.require((account.app, account.id))
        self.mails.charge(account.app, account.email)

        token = self._token(account)
        link = f"{self.server}/api/v1/accounts/email/confirm?token={token}"
        hours = LINK_SECONDS // _HOUR_SECONDS
        text = _TEXT.format(link=link, site=self.site, hours=hours)

        def make() -> tuple[Account, str, str]:
            """The receiver, subject and text of the mail."""
            return account, "Confirm your e-mail address · 确认您的邮箱", text

        self.mails.start(make)

    def _token(self, account: Account) -> str:
        """Make the token of a link, which names the account and its address."""
        end = int(time()) + LINK_SECONDS
        # The signature is of the other fields, so it is made after them.
        no_signature = b""
        packed = _LAYOUT.pack(account.id, end, _digest(account), no_signature)
        content = packed[:-_SIGNATURE_BYTES]
        return base64url.encode(content + _signature(content, self.keys[0]))

    def confirm(self, token: str) -> Account:
        """Confirm the address that a token names; returns the account.

        Switches greenlets. Raises UnknownConfirmation and StorageUnavailable.
        """
        id, digest = self.read(token)

        def is_expected(account: Account) -> bool:
            """Whether the account still has the address that the token names."""
            return hmac.compare_digest(digest, _digest(account))

        account = self.rows.confirm_email(id, is_expected)
        if account is None:
            raise UnknownConfirmation("the account has another address now")
        return account

    def read(self, token: str) -> tuple[int, bytes]:
        """Verify a token; returns the id of the account and the hash of the
        address.

        Raises UnknownConfirmation if this server has not made the token, or if
        it has expired.
        """
        try:
            content = base64url.decode(token)
        except ValueError:
            content = b""  # refused below, as any text of another length
        is_signed = self._is_signed(content)
        if len(content) != _LAYOUT.size or not is_signed:
            raise UnknownConfirmation("this is no token of this server")
        id, end, digest, _ = _LAYOUT.unpack(content)
        if end <= time():
            raise UnknownConfirmation("the token has expired")
        return id, digest

    def _is_signed(self, content: bytes) -> bool:
        """Whether one of the keys of this server has signed a token.

        The signature of all bytes before it is at the end.
        """
        signed = content[:-_SIGNATURE_BYTES]
        signature = content[-_SIGNATURE_BYTES:]
        return any(
            hmac.compare_digest(signature, _signature(signed, key)) for key in self.keys
        )


def _signature(content: bytes, key: bytes) -> bytes:
    """The signature of the fields of a token."""
    return hmac.digest(key, content, "sha256")[:_SIGNATURE_BYTES]


def _digest(account: Account) -> bytes:
    """The hash of the app and the address of an account."""
    address = f"{account.app}\0{account.email}".encode()
    return sha256(address).digest()[:_DIGEST_BYTES]
