"""The second factor of accounts: codes of an authenticator app (TOTP, RFC
6238), and recovery codes.

If its account has a second factor, a login also needs a code. A code of six
digits is valid for its half minute, and for the one before and after it,
because clocks differ. It can be used once, on all nodes. A recovery code
replaces it once. The library is imported with the first code.
"""

from __future__ import annotations

import hmac
from base64 import b32encode
from collections.abc import Hashable, Sequence
from secrets import token_bytes
from time import time
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Struct

from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import FACTOR_CODES, MakeBuckets
from imserver.people.accounts.rows import delete_rows_of
from imserver.people.accounts.tokens import KnownDevice, secret_hash
from imserver.plugin.errors import HttpProblem, ServiceRefused
from imserver.plugin.http import about
from imserver.plugin.storage import PooledStatements, Store, text_of

if TYPE_CHECKING:
    from pyotp import TOTP

STEP_SECONDS: Final = 30
CODES: Final = 10
"""How many recovery codes an account gets."""
CODE_CHARACTERS: Final = 40
"""The longest code that is checked."""
_MOST_WRONG: Final = 20
"""Wrong codes of an account or device in :data:`_WRONG_SECONDS`."""
_WRONG_SECONDS: Final = 86_400
_TOTP_DIGITS: Final = 6
_SECRET_BYTES: Final = 20
"""The length of a SHA-1 hash (RFC 4226)."""
_RECOVERY_CODE_BYTES: Final = 10
_GROUP_CHARACTERS: Final = 4
"""Recovery codes are shown in groups of this number of characters."""


class FactorRequired(
    ServiceRefused,
    problem=HttpProblem(
        401,
        "second_factor_required",
        "The account has a second factor. Send a code of it, too.",
    ),
    login="factor",
):
    """The password is right, but the account has a second factor, and the
    request has no code."""


class WrongCode(
    ServiceRefused,
    problem=HttpProblem(
        401, "wrong_code", "The code of the second factor is wrong, or was used before."
    ),
    login="factor",
):
    """The code of the second factor is wrong, or was used before."""


class FactorOn(
    ServiceRefused,
    problem=HttpProblem(
        409, "second_factor_on", "The account has a second factor already."
    ),
):
    """The account has a second factor already."""


class FactorOff(
    ServiceRefused,
    problem=HttpProblem(409, "second_factor_off", "The account has no second factor."),
):
    """The account has no second factor, or its setup was not begun."""


class FactorStarted(Struct, frozen=True):
    """The secret of a new second factor. The factor is in force after you
    confirm it with a code."""

    secret: Annotated[
        str, about("The secret in base32, for typing into an authenticator app.")
    ]
    address: Annotated[
        str,
        about(
            "The secret as an `otpauth://` address, for opening an authenticator app "
            "or for a QR code."
        ),
    ]


class FactorStore(Store.Rows):
    """The secrets of second factors, and recovery codes, in the database.

    Logins do not ask for a factor that is not confirmed. Each method is one
    transaction, may switch greenlets, and raises StorageUnavailable.
    """

    @Store.writing
    def begin(self, sql: PooledStatements, id: int, secret: str) -> bool:
        """Store the secret of an unconfirmed factor, in place of an earlier
        secret.

        Returns False, and stores nothing, if the account has a factor already
        or does not exist.
        """
        if not _lock_row_if(sql, id, "factor_since = 0"):
            return False
        delete_rows_of(sql, id, "account_factor")
        sql.execute(
            "INSERT INTO account_factor (account, secret, step) VALUES (%s, %s, 0)",
            (id, secret),
        )
        return True

    def secret(self, id: int) -> str:
        """The secret from which codes are made, confirmed or not.

        ``""`` means that the account has no secret.
        """
        rows = self._store.rows(
            "SELECT secret FROM account_factor WHERE account = %s", (id,)
        )
        if rows:
            return text_of(rows[0][0])
        return ""

    @Store.writing
    def confirm(
        self,
        sql: PooledStatements,
        id: int,
        secret: str,
        step: int,
        codes: Sequence[str],
        now: int,
    ) -> bool:
        """Turn on the factor with this secret, and store its recovery codes.

        ``step`` is the number of the half minute of the code that confirms the
        factor. This code is now used up. ``codes`` are the hashes of the
        recovery codes. Returns False, and changes nothing, if another factor
        was begun or confirmed meanwhile.
        """
        if not _lock_row_if(sql, id, "factor_since = 0"):
            return False
        statement = (
            "UPDATE account_factor SET step = %s WHERE account = %s AND secret = %s"
        )
        if sql.execute(statement, (step, id, secret)) != 1:
            return False
        sql.execute("UPDATE account SET factor_since = %s WHERE id = %s", (now, id))
        _replace_codes(sql, id, codes)
        return True

    @Store.writing
    def use_step(self, sql: PooledStatements, id: int, step: int) -> bool:
        """Note that the code of a half minute is used.

        ``step`` is the number of the half minute since 1970. Returns False if
        this code or a later one was used before.
        """
        statement = (
            "UPDATE account_factor SET step = %s WHERE account = %s AND step < %s"
        )
        return sql.execute(statement, (step, id, step)) == 1

    @Store.writing
    def use_code(self, sql: PooledStatements, id: int, code: str) -> bool:
        """Delete the recovery code with this hash.

        Returns False if the account has no such code.
        """
        statement = "DELETE FROM recovery_code WHERE account = %s AND code = %s"
        return sql.execute(statement, (id, code)) == 1

    @Store.writing
    def replace_codes(
        self, sql: PooledStatements, id: int, codes: Sequence[str]
    ) -> bool:
        """Store the hashes of new recovery codes in place of all earlier codes.

        Returns False, and stores nothing, if the account has no factor.
        """
        if not _lock_row_if(sql, id, "factor_since > 0"):
            return False
        _replace_codes(sql, id, codes)
        return True

    @Store.writing_or(False)
    def remove(self, sql: PooledStatements, id: int) -> bool:
        """Turn off the factor of an account.

        Returns False if the account had no confirmed factor.
        """
        statement = (
            "UPDATE account SET factor_since = 0 WHERE id = %s AND factor_since > 0"
        )
        is_removed = sql.execute(statement, (id,)) == 1
        # A factor that was only begun has a row, too.
        delete_rows_of(sql, id, "account_factor", "recovery_code")
        return is_removed


def _lock_row_if(sql: PooledStatements, id: int, condition: str) -> bool:
    """Lock the row of an account until the end of the transaction, if it fits.

    Returns whether the row meets the condition.
    """
    statement = f"SELECT id FROM account WHERE id = %s AND {condition}{sql.for_update}"
    return bool(sql.query(statement, (id,)))


def _replace_codes(sql: PooledStatements, id: int, codes: Sequence[str]) -> None:
    """Replace the recovery codes of an account by the codes with these hashes."""
    delete_rows_of(sql, id, "recovery_code")
    rows = [(id, code) for code in codes]
    sql.execute_many("INSERT INTO recovery_code (account, code) VALUES (%s, %s)", rows)


class Factors:
    """Checks the second factor of logins, turns it on and off.

    Wrong codes count by account. Wrong codes of a device that has logged in to
    the account before count for that device, so others cannot lock it out.
    Above the limit the methods raise TooManyRequests. ``issuer`` is the name of
    this server in authenticator apps. All methods may switch greenlets and
    raise StorageUnavailable.
    """

    def __init__(
        self, rows: FactorStore, buckets: MakeBuckets, issuer: str = "imserver"
    ) -> None:
        """Make the rate of wrong codes."""
        self._rows = rows
        self._issuer = issuer
        self._wrong = buckets(FACTOR_CODES, _MOST_WRONG, _WRONG_SECONDS)

    def require(self, account: Account, code: str, device: KnownDevice | None) -> None:
        """Check and use up a code, if the account has a factor.

        ``device`` is a device that has logged in to the account before; None
        means that the request comes from no such device. Raises FactorRequired,
        WrongCode and TooManyRequests.
        """
        if not account.factor:
            return
        if not code:
            raise FactorRequired(account.user)
        payer: Hashable = (account.app, account.id)
        if device is not None:
            payer = (account.app, account.id, device.login)
        # Counted before the check, so that parallel attempts cannot exceed the
        # limit.
        self._wrong.require(payer)
        if not self._use_up(account.id, code[:CODE_CHARACTERS]):
            raise WrongCode(account.user)
        self._wrong.give_back(payer)

    def _use_up(self, id: int, code: str) -> bool:
        """Use up a code of the authenticator app, or a recovery code.

        Returns False if the code is wrong or was used before.
        """
        plain = code.replace(" ", "").replace("-", "")
        is_number = plain.isascii() and plain.isdecimal()
        if len(plain) == _TOTP_DIGITS and is_number:
            step = _step_of(self._rows.secret(id), plain)
            return step > 0 and self._rows.use_step(id, step)
        return self._rows.use_code(id, secret_hash(plain.lower()))

    def begin(self, account: Account) -> FactorStarted:
        """Make the secret of a factor. Raises FactorOn.

        The factor is in force after one of its codes confirms it.
        """
        secret = b32encode(token_bytes(_SECRET_BYTES)).decode()
        if not self._rows.begin(account.id, secret):
            raise FactorOn(account.user)
        name = account.name or account.email or account.phone or account.user
        address = _totp(secret).provisioning_uri(name=name, issuer_name=self._issuer)
        return FactorStarted(secret, address)

    def confirm(self, account: Account, code: str) -> list[str]:
        """Turn on the factor that was begun, and return its recovery codes.

        ``code`` is a code that the factor has made: it proves that the
        authenticator app has the secret. Raises FactorOn, FactorOff, WrongCode
        and TooManyRequests.
        """
        secret = self._begun_secret(account)
        step = self._check_code(account, secret, code)
        codes = _new_codes()
        hashes = [secret_hash(each) for each in codes]
        is_on = self._rows.confirm(
            account.id, secret, step, codes=hashes, now=int(time())
        )
        if not is_on:
            raise FactorOn(account.user)
        return [_shown(each) for each in codes]

    def _begun_secret(self, account: Account) -> str:
        """The secret of a factor that was begun. Raises FactorOn and
        FactorOff."""
        if account.factor:
            raise FactorOn(account.user)
        secret = self._rows.secret(account.id)
        if not secret:
            raise FactorOff(account.user)
        return secret

    def _check_code(self, account: Account, secret: str, code: str) -> int:
        """The half minute to which a code of this secret belongs.

        Raises WrongCode and TooManyRequests.
        """
        payer = (account.app, account.id)
        # Counted before the check, as at a login.
        self._wrong.require(payer)
        step = _step_of(secret, code.replace(" ", ""))
        if not step:
            raise WrongCode(account.user)
        self._wrong.give_back(payer)
        return step

    def renew_codes(self, account: Account) -> list[str]:
        """Make new recovery codes, in place of all earlier ones. Raises
        FactorOff."""
        codes = _new_codes()
        hashes = [secret_hash(code) for code in codes]
        if not self._rows.replace_codes(account.id, hashes):
            raise FactorOff(account.user)
        return [_shown(code) for code in codes]

    def remove(self, account: Account) -> None:
        """Turn off the factor of an account. Raises FactorOff."""
        if not self._rows.remove(account.id):
            raise FactorOff(account.user)


def _totp(secret: str) -> TOTP:
    """The generator of the codes of a secret."""
    from pyotp import TOTP

    return TOTP(secret, interval=STEP_SECONDS)


def _step_of(secret: str, code: str) -> int:
    """The number of the half minute to which a code belongs, since 1970.

    Returns 0 if the code belongs to none of the three accepted half minutes, or
    if there is no secret.
    """
    if not secret:
        return 0
    totp = _totp(secret)
    now = int(time()) // STEP_SECONDS
    matching = 0
    # All three are compared, so that the time reveals nothing. The current half
    # minute comes last, so it wins if several match.
    for step in (now + 1, now - 1, now):
        right_code = totp.generate_otp(step)
        if hmac.compare_digest(right_code.encode(), code.encode()):
            matching = step
    return matching


def _new_codes() -> list[str]:
    """Make the recovery codes of an account."""
    return [_new_code() for _ in range(CODES)]


def _new_code() -> str:
    """Make a recovery code, of 16 letters and digits."""
    return b32encode(token_bytes(_RECOVERY_CODE_BYTES)).decode().lower()


def _shown(code: str) -> str:
    """A recovery code as people read it: ``abcd-efgh-ijkl-mnop``."""
    starts = range(0, len(code), _GROUP_CHARACTERS)
    return "-".join(code[start : start + _GROUP_CHARACTERS] for start in starts)
