"""Accounts: users who register with a phone number, an e-mail address or a user
name, log in with a password, and get a token.

Errors do not reveal which part of a login was wrong. An unknown account takes
as long as a wrong password.
"""

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from secrets import randbits
from time import gmtime, strftime, time
from typing import Any, Final

from msgspec import Struct

from imserver.people.accounts.contract import (
    AVATAR_CHARACTERS,
    FOR_GOOD,
    NICKNAME_CHARACTERS,
    STATUS_CHARACTERS,
    TITLE_CHARACTERS,
    Account,
    Device,
    FullSession,
    Taken,
)
from imserver.people.accounts.declared import (
    FAILURES,
    FAILURES_OF_ACCOUNT,
    FAILURES_OF_ADDRESS,
    FAILURES_OF_DEVICE,
    HTTP_UNKNOWN_DEVICE,
    HTTP_UNKNOWN_RESET,
    LOGINS,
    PROVIDER_LOGINS,
    REGISTRATIONS,
    AccountSettings,
    AppAccountSettings,
    MakeBuckets,
)
from imserver.people.accounts.factors import Factors
from imserver.people.accounts.identifiers import (
    IDENTIFIERS,
    LOGIN_CHARACTERS,
    BadField,
    Identifier,
    candidates,
    checked,
    fits,
)
from imserver.people.accounts.passwords import MAX_PASSWORD_BYTES, Overloaded, Passwords
from imserver.people.accounts.rows import AccountStore
from imserver.people.accounts.tokens import AccountTokens, KnownDevice, secret_hash
from imserver.plugin.errors import HttpProblem, ImserverError, Problems, ServiceRefused
from imserver.plugin.identity import Buckets, TooManyRequests, by_address
from imserver.plugin.messages import is_name
from imserver.plugin.runtime import Service, network_of
from imserver.plugin.services import Sessions
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import RecordEvent
from imserver.plugin.wire import id_of

_DEVICE_CHARACTERS: Final = 64
_HOUR_SECONDS: Final = 3600
_LOGIN_ID_BITS: Final = 53
"""Length of the ids of logins in bits. Integers of this length are exact in the
JSON of every language."""


def check_shown(nickname: str, avatar: str) -> None:
    """Raise BadField for an invalid nickname or avatar."""
    _check(nickname, "nickname", least=0, most=NICKNAME_CHARACTERS)
    _check(avatar, "avatar", least=0, most=AVATAR_CHARACTERS)


def _check_profile(fields: Mapping[str, Any]) -> None:
    """Raise BadField for an invalid text among the fields of a profile."""
    check_shown(fields.get("nickname", ""), fields.get("avatar", ""))
    _check(fields.get("status", ""), "status", least=0, most=STATUS_CHARACTERS)
    _check(fields.get("title", ""), "title", least=0, most=TITLE_CHARACTERS)


def check_password(password: str) -> None:
    """Raise BadField for an invalid password."""
    if not 1 <= len(password.encode()) <= MAX_PASSWORD_BYTES:
        raise BadField(f"password: expected 1 to {MAX_PASSWORD_BYTES} bytes")


def check_device(device: str) -> None:
    """Raise BadField for an invalid name of a device."""
    _check(device, "device", least=0, most=_DEVICE_CHARACTERS)


def may_be_login(login: str, password: str) -> bool:
    """Whether login and password have valid forms."""
    return (
        fits(login, 1, LOGIN_CHARACTERS)
        and len(password.encode()) <= MAX_PASSWORD_BYTES
    )


def _check(text: str, name: str, least: int, most: int) -> None:
    """Raise BadField if the text of a field is too short, too long, or not
    printable.

    ``name`` is the field, for the text of the error.
    """
    if not is_name(text, least, most):
        raise BadField(
            f"{name}: expected {least} to {most} characters that are seen; no controls "
            "of direction"
        )


log: Final = logging.getLogger(__name__)


class NoAccounts(
    ServiceRefused,
    problem=Problems.NOT_ALLOWED,
    detail="The app has no accounts",
    login="closed",
):
    """The app has no accounts (``account_tokens``)."""


class PasswordsOff(
    ServiceRefused,
    problem=HttpProblem(
        403,
        "passwords_off",
        "Accounts of this app have no passwords (accounts.passwords).",
    ),
    login="closed",
):
    """Accounts of the app have no passwords (``accounts.passwords``)."""


class Closed(
    ServiceRefused,
    problem=HttpProblem(
        403, "registration_closed", "Registration is closed (accounts.registration)."
    ),
    login="closed",
):
    """Registration is closed (``accounts.registration``)."""


class WrongLogin(
    ServiceRefused,
    problem=HttpProblem(401, "wrong_login", "The login or the password is wrong."),
    login="password",
):
    """The account does not exist, or the password is wrong."""


class AccountLocked(
    ServiceRefused,
    problem=HttpProblem(403, "account_locked", "The account is locked."),
    detail="{}",
    login="locked",
):
    """The account is locked. The text says until when and why.

    Only a user who has proved the login gets it, so it reveals nothing to
    others.
    """

    def __init__(self, account: Account) -> None:
        """Make the text of the error from the lock of the account."""
        self.user = account.user
        self.until = 0
        text = "The account is locked"
        if account.locked_until != FOR_GOOD:
            self.until = account.locked_until
            text += f" until {strftime('%Y-%m-%d %H:%M', gmtime(self.until))} UTC"
        if account.lock_reason:
            text += f": {account.lock_reason}"
        super().__init__(text)


class UserBanned(AccountLocked, problem=Problems.BANNED, detail="{}", login="banned"):
    """The user of the account is banned. The text says until when and why."""

    def __init__(self, user: str, text: str, until: int | None) -> None:
        ImserverError.__init__(self, text)
        self.until = until or 0
        self.user = user


def _limit_of(error: ServiceRefused) -> tuple[str, float]:
    """The limit or lock that refuses a login, and when it ends.

    The end is in Unix seconds. Most refusals have neither: ``("", 0.0)``.
    """
    if isinstance(error, TooManyRequests):
        return error.limit, time() + error.seconds
    if isinstance(error, UserBanned):
        return "", error.until
    if isinstance(error, AccountLocked):
        return "lock", error.until
    return "", 0.0


class UnknownAccount(ServiceRefused, problem=Problems.UNKNOWN_ACCOUNT):
    """The app has no such account."""


class Attempt(Struct):
    """A login that may be refused.

    ``account`` is the user id of its account, once it is known. It is for
    operators only, because no answer may say whether an account exists.
    """

    account: str = ""


_Limit = tuple[Buckets, Hashable]
"""The counters of a rate, and the payer for whom an attempt counts."""


def _payer_of(app: str, device: KnownDevice) -> tuple[str, int, int]:
    """The key by which attempts of a device are counted."""
    return app, device.account, device.login


def _give_back(limits: Sequence[_Limit]) -> None:
    """Give the token of an attempt back to limits that have counted it."""
    for buckets, payer in limits:
        buckets.give_back(payer)


def _require_identifier(account: Account, changes: Mapping[Identifier, str]) -> None:
    """Raise BadField if an account has no identifier after these changes.

    Nobody could log in to it.
    """
    before: dict[Identifier, str] = {
        kind: getattr(account, kind) for kind in IDENTIFIERS
    }
    after = {**before, **changes}
    if not any(after.values()):
        raise BadField("an account has at least one identifier")


def _own_device(device: KnownDevice | None, account: Account) -> KnownDevice | None:
    """The device that a token has proved, if it belongs to this account, else
    None."""
    if device is not None and device.account == account.id:
        return device
    return None


class Accounts(Service, dict=True):
    """Registers accounts and checks logins.

    ``sessions`` closes sessions, and knows who is banned. ``is_demo`` tells
    whether the server is in demo mode; then anybody may register, unless
    ``accounts.registration`` says otherwise. ``erase_user``
    (:meth:`imserver.plugin.services.Core.erase_user`) erases a user completely;
    it calls :meth:`erase`, too. ``recorder_of`` returns the function that
    stores events of a kind. ``refused`` counts refused logins.

    Every method may switch greenlets and raise StorageUnavailable.
    """

    config: Config
    tokens: AccountTokens
    rows: AccountStore
    sessions: Sessions
    is_demo: Callable[[], bool]
    buckets: MakeBuckets
    """Makes the counters of a rate."""
    erase_user: Callable[..., object]
    recorder_of: Callable[[str, str], RecordEvent | None]
    refused: Callable[..., object]
    factors: Factors

    def __post_init__(self) -> None:
        """Read the settings, and make the rates of attempts."""
        config = self.config
        settings = settings_of(config, AccountSettings)
        self._on_logout: list[Callable[[str, str, int | None], object]] = []
        self._max_logins = settings.devices
        self._registration = settings.registration
        self._token_seconds = int(config.jwt.expire_time * _HOUR_SECONDS)
        self.passwords = Passwords(config.app.salt)
        self._make_attempt_rates(settings)
        self._make_failure_rates(settings)

    def _make_attempt_rates(self, settings: AccountSettings) -> None:
        """Make the rates of registrations and logins of a client address."""
        make_buckets = self.buckets
        seconds = self.config.accounts.rate_seconds
        self._registrations = make_buckets(
            REGISTRATIONS, settings.registrations_per_address, seconds
        )
        self._logins = make_buckets(LOGINS, settings.logins_per_address, seconds)
        self._provider_logins = make_buckets(
            PROVIDER_LOGINS, settings.logins_per_address, seconds
        )

    def _make_failure_rates(self, settings: AccountSettings) -> None:
        """Make the four rates of wrong passwords.

        :meth:`_failure_limits` explains for whom a wrong password counts.
        """
        make_buckets = self.buckets
        failure_seconds = settings.failure_seconds
        self._failures_by_account_and_network = make_buckets(
            FAILURES, settings.failures, failure_seconds
        )
        self._failures_by_account = make_buckets(
            FAILURES_OF_ACCOUNT, settings.failures_per_account, failure_seconds
        )
        self._failures_by_network = make_buckets(
            FAILURES_OF_ADDRESS, settings.failures_per_address, failure_seconds
        )
        self._failures_by_device = make_buckets(
            FAILURES_OF_DEVICE, settings.failures, failure_seconds
        )

    @property
    def registration_is_open(self) -> bool:
        """Whether anybody may register, in apps with accounts."""
        if self._registration is None:  # the setting was left out
            return self.is_demo()
        return self._registration

    def report_to(self, logged_out: Callable[[str, str, int | None], object]) -> None:
        """From now on call this function whenever logins end.

        Its arguments are the app, the user and the id of the ended login. The
        id None means that all logins of the user have ended. The function
        may switch greenlets, and raise StorageUnavailable.
        """
        self._on_logout.append(logged_out)

    def recorder(self, app: str) -> RecordEvent | None:
        """The function that stores events about accounts of an app.

        Returns None if nobody wants these events.
        """
        return self.recorder_of(app, "account")

    # --- registering and logging in -------------------------------------------

    def register(
        self,
        app: str,
        wanted: dict[Identifier, str],
        password: str,
        nickname: str = "",
        avatar: str = "",
        *,
        invited: bool = False,
        email_confirmed: bool = False,
        address: str = "",
    ) -> Account:
        """Make an account with at least one identifier.

        ``invited`` means that a back end makes the account, which it may do
        even if registration is closed. ``email_confirmed`` means that the back
        end has confirmed the e-mail address. ``address`` is the address of the
        client; the number of registrations per address is limited.

        Raises NoAccounts, BadField, PasswordsOff, Closed, Taken,
        TooManyRequests and Overloaded.
        """
        self._require_passwords(app)
        if not (self.registration_is_open or invited):
            raise Closed("accounts.registration is off")
        check_shown(nickname, avatar)
        if invited:
            # Registrations by back ends do not count for an address.
            address = ""
        identifiers, hashed = self.checked_registration(app, wanted, password, address)
        new = Account(
            id=0,
            app=app,
            phone=identifiers.get("phone", ""),
            nickname=nickname,
            avatar=avatar,
            email=identifiers.get("email", ""),
            name=identifiers.get("name", ""),
            email_confirmed=email_confirmed,
        )
        return self.rows.add(new, hashed, self.recorder(app))

    def checked_registration(
        self, app: str, wanted: dict[Identifier, str], password: str, address: str
    ) -> tuple[dict[Identifier, str], str]:
        """Check the identifiers and the password of a new member.

        Returns the identifiers in their stored form, and the hash of the
        password. The registration counts for ``address``, the address of the
        client; ``""`` means that it counts for no address.

        Raises NoAccounts, BadField, PasswordsOff, Taken, TooManyRequests and
        Overloaded.
        """
        self._require_passwords(app)
        self._registrations.require(by_address(app, address))
        given = self.checked_identifiers(app, wanted)
        if not any(given.values()):
            raise BadField(
                f"expected one of {', '.join(self.rules_of(app).identifiers)}"
            )
        check_password(password)
        self.require_free(app, given, own_id=0)
        return given, self.passwords.hash(password)

    def rules_of(self, app: str) -> AppAccountSettings:
        """The account rules of an app. Raises NoAccounts."""
        if not self.tokens.wanted_in(app):
            raise NoAccounts(app)
        return self.tokens.rules_of(app)

    def _require_passwords(self, app: str) -> None:
        """Raise NoAccounts or PasswordsOff if nobody logs in to an app with a
        password."""
        if not self.rules_of(app).passwords:
            raise PasswordsOff(app)

    def checked_identifiers(
        self, app: str, given: dict[Identifier, str]
    ) -> dict[Identifier, str]:
        """The identifiers in their stored form, such as an e-mail address in
        lower case.

        ``""`` stays as it is: it removes an identifier. Raises BadField.
        """
        kinds_of_app = self.rules_of(app).identifiers
        for kind, text in given.items():
            if text and kind not in kinds_of_app:
                raise BadField(f"{kind}: accounts of this app have none")
        identifiers: dict[Identifier, str] = {}
        for kind, text in given.items():
            if text:
                text = checked(kind, text)
            identifiers[kind] = text
        return identifiers

    def require_free(self, app: str, given: dict[Identifier, str], own_id: int) -> None:
        """Raise Taken if another account could log in with one of these
        identifiers.

        ``own_id`` is the account that gets the identifiers; 0 means a new
        account.
        """
        for text in given.values():
            if not text:
                continue
            # A text of one kind could be typed as an identifier of another
            # kind.
            row = self.rows.by_login(app, *candidates(text))
            if row is not None and row[0].id != own_id:
                raise Taken("identifier")

    def login(
        self,
        app: str,
        login: str,
        password: str,
        address: str,
        earlier: str = "",
        code: str = "",
    ) -> Account:
        """Check a login by a password, and return the account.

        ``login`` is any identifier of the account. ``earlier`` is a token of an
        earlier login of the device, expired or not. ``code`` is a code of the
        second factor. ``""`` means that the client has sent no such token or
        code.

        Raises NoAccounts, PasswordsOff, WrongLogin, AccountLocked, UserBanned,
        FactorRequired, WrongCode, TooManyRequests and Overloaded.
        """
        with self.counting_refusals(app, address) as attempt:
            self._require_passwords(app)
            device = self._charge_check(app, address, earlier)
            account = self._proved_account(
                app, login, password, address, device, attempt
            )
            self._require_welcome(account)
            self.factors.require(account, code, _own_device(device, account))
            return account

    def _proved_account(
        self,
        app: str,
        login: str,
        password: str,
        address: str,
        device: KnownDevice | None,
        attempt: Attempt,
    ) -> Account:
        """The account with this login and password.

        ``attempt`` gets the account, even if the password is wrong. Raises
        WrongLogin, TooManyRequests and Overloaded.
        """
        if not may_be_login(login, password):
            raise WrongLogin
        identifiers = candidates(login)
        row = self.rows.by_login(app, *identifiers)
        if row is not None:
            attempt.account = row[0].user
        # If no account is found, failures count for this identifier.
        _, likeliest = identifiers[0]
        return self._check_password_of(app, row, likeliest, password, address, device)

    @contextmanager
    def counting_refusals(self, app: str, address: str) -> Iterator[Attempt]:
        """Count a refused login if the block raises an error that refuses
        logins.

        The error is raised again. The block notes the account in the
        :class:`Attempt` when it knows it.
        """
        attempt = Attempt()
        try:
            yield attempt
        except ServiceRefused as error:
            # ``login`` is the reason of a refused login; None for other errors.
            if error.login is None:
                raise
            limit, until = _limit_of(error)
            self.refused(
                error.login,
                app,
                "",
                address,
                account=attempt.account,
                limit=limit,
                until=until,
            )
            raise

    def _charge_check(self, app: str, address: str, earlier: str) -> KnownDevice | None:
        """Count a check of a password, and return the device that ``earlier``
        proves.

        ``earlier`` is a token of an earlier login. The check counts for its
        device, which may belong to another account. Without such a token it
        counts for ``address``, and the result is None. Raises TooManyRequests.
        """
        device = self.tokens.device_of(earlier)
        if device is None:
            self._logins.require(by_address(app, address))
        else:
            self._logins.require(_payer_of(app, device))
        return device

    def _check_password_of(
        self,
        app: str,
        account_row: tuple[Account, str] | None,
        login: str,
        password: str,
        address: str,
        device: KnownDevice | None,
    ) -> Account:
        """Check a password, and return the account.

        ``account_row`` is the account and the hash of its password. None means
        that no account was found. Then failures count for the identifier
        ``login``, which is not used otherwise.

        Failures count by account (whichever identifier was used) and network,
        by app and network, and by account. Failures of a known ``device`` of
        the account count only for the device, so others cannot lock it out.
        With a device of another account the login counts for its address, too.

        Raises WrongLogin if the password is wrong, TooManyRequests and
        Overloaded.
        """
        account_key: str | int = login
        hashed = ""
        if account_row is not None:
            account, hashed = account_row
            account_key = account.id
        if device is not None and device.account != account_key:
            device = None
            self._logins.require(by_address(app, address))

        own_limit, limits = self._failure_limits(app, account_key, address, device)
        is_right = self._matches_within(limits, hashed, password)
        if not is_right or account_row is None:
            raise WrongLogin

        # The right password gives the token of this attempt back to all limits.
        # The limit of this client starts anew.
        _give_back(limits)
        buckets, payer = own_limit
        buckets.forget(payer)

        self._strengthen_hash(account, hashed, password)
        return account

    def _matches_within(
        self, limits: Sequence[_Limit], hashed: str, password: str
    ) -> bool:
        """Whether a password matches a hash; counts as a failure for now.

        Raises TooManyRequests and Overloaded, and counts nothing then.
        """
        charged: list[_Limit] = []
        try:
            # Counted before the check, so that parallel attempts cannot exceed
            # the limit.
            for buckets, payer in limits:
                buckets.require(payer)
                charged.append((buckets, payer))
            # A hash is computed even without an account, because the time must
            # not reveal whether the account exists.
            return self.passwords.matches(hashed, password)
        except (TooManyRequests, Overloaded):  # the password was not checked
            _give_back(charged)
            raise

    def _strengthen_hash(self, account: Account, hashed: str, password: str) -> None:
        """Replace a weak hash of a password.

        A login does that, because it alone has the password from which a
        stronger hash is made.
        """
        if self.passwords.is_weak(hashed):
            stronger = self.passwords.hash(password)
            self.rows.set_password(account.id, before=hashed, password=stronger)

    def _failure_limits(
        self,
        app: str,
        account_key: str | int,
        address: str,
        device: KnownDevice | None,
    ) -> tuple[_Limit, list[_Limit]]:
        """The limits for which a wrong password counts.

        The first result is the limit of this client alone: of the known device,
        or of the account in the network of ``address``. The second result has
        all limits.
        """
        if device is not None:
            own_limit: _Limit = (self._failures_by_device, _payer_of(app, device))
            return own_limit, [own_limit]
        network = network_of(address)
        own_limit = (
            self._failures_by_account_and_network,
            (app, account_key, network),
        )
        by_network: _Limit = (self._failures_by_network, (app, network))
        by_account: _Limit = (self._failures_by_account, (app, account_key))
        return own_limit, [by_network, own_limit, by_account]

    def _require_welcome(self, account: Account) -> None:
        """Raise AccountLocked or UserBanned if the user may not log in now."""
        if account.is_locked(time()):
            raise AccountLocked(account)
        ban = self.sessions.ban_of(account.app, account.user)
        if ban:
            raise UserBanned(account.user, ban.text, ban.until)

    def token(
        self, account: Account, device: str = "", seconds: int = 0
    ) -> FullSession:
        """Make a token for an account that has logged in, on a device of this
        name.

        ``seconds`` is how long the token is valid; 0 means as long as the
        settings say (``jwt.expire_time``). Raises BadField, and WrongLogin if
        the account has ended its sessions since, or is deleted.
        """
        login = self._new_login(device, seconds)
        is_added = self.rows.add_device(
            account.id, account.version, login, self._max_logins
        )
        if not is_added:
            raise WrongLogin
        return self._session(account, login)

    def _new_login(self, device: str, seconds: int = 0) -> Device:
        """The row of a new login. ``seconds`` 0 means the lifetime in the
        settings."""
        check_device(device)
        now = int(time())
        expires_at = now + (seconds or self._token_seconds)
        # An odd number, because the id 0 means that there is no login.
        login_id = randbits(_LOGIN_ID_BITS) | 1
        return Device(id=login_id, name=device, since=now, expires_at=expires_at)

    def _session(self, account: Account, login: Device) -> FullSession:
        """The session of a login, with its token."""
        token = self.tokens.make(
            account.id, account.version, login.expires_at, login.id
        )
        return FullSession(account, token, login.expires_at, login.name, login.id)

    def charge_provider_login(self, app: str, address: str) -> None:
        """Count the start of a login with a provider. Raises TooManyRequests.

        It has a rate of its own, so that wrong passwords do not stop it.
        """
        self._provider_logins.require(by_address(app, address))

    def charge_guess(self, app: str, address: str) -> None:
        """Count a request with an unknown handle of a provider login as a
        login.

        So nobody can guess handles from one address. Raises TooManyRequests.
        """
        self._logins.require(by_address(app, address))

    def log_in_linked(
        self, app: str, providers: Sequence[str], subjects: Sequence[str], device: str
    ) -> tuple[FullSession, str] | None:
        """Log in to the account that is linked with one of these identities.

        An identity is a provider and a subject (:meth:`AccountStore.linked`).
        Returns the session, and the provider of the link; or None if no account
        is linked. Raises BadField, AccountLocked and UserBanned.
        """
        login = self._new_login(device)
        row = self.rows.log_in_linked(app, providers, subjects, login, self._max_logins)
        if row is None:
            return None
        account, provider = row
        self._require_welcome(account)
        return self._session(account, login), provider

    def confirmed(
        self, app: str, user: str, password: str, address: str, token: str
    ) -> Account:
        """The account of a user, after a check of the password.

        An account that logs in without a password is not checked. ``token`` is
        the token of the request. The call counts as a login. Failures count as
        in :meth:`login`. Raises UnknownAccount, WrongLogin, TooManyRequests and
        Overloaded.
        """
        device = self._charge_check(app, address, token)
        row = self._known_row(app, user)
        account, hashed = row
        if hashed and self.rules_of(app).passwords:
            self._check_password_of(
                app, row, login="", password=password, address=address, device=device
            )
        return account

    def proved(
        self, app: str, user: str, password: str, code: str, address: str, token: str
    ) -> Account:
        """The account of a user who proves to be its owner, as at a login.

        The proof is the password, and if the account has a second factor, a
        code. Raises the errors of :meth:`confirmed` and :meth:`with_factor`.
        """
        self.confirmed(app, user, password, address, token)
        return self.with_factor(app, user, code, token)

    def with_factor(self, app: str, user: str, code: str, token: str) -> Account:
        """The account of a user, after a check of the second factor, if the
        account has a second factor.

        The code is used up. ``token`` is the token of the request. Raises
        UnknownAccount, FactorRequired, WrongCode and TooManyRequests.
        """
        account = self.known(app, user)
        device = _own_device(self.tokens.device_of(token), account)
        self.factors.require(account, code, device)
        return account

    # --- asking ---------------------------------------------------------------

    def get(self, app: str, user: str) -> Account | None:
        """The account of a user. Returns None if the user has no account."""
        row = self._find_row(app, user)
        if row is None:
            return None
        return row[0]

    def known(self, app: str, user: str) -> Account:
        """The account of a user. Raises NoAccounts and UnknownAccount."""
        account, _ = self._known_row(app, user)
        return account

    # --- changing -------------------------------------------------------------

    def change(self, app: str, user: str, fields: dict[str, Any]) -> Account:
        """Change the profile and the status of an account; returns the changed
        account.

        ``fields`` may have ``nickname``, ``avatar``, ``findable``,
        ``show_presence``, ``status``, ``away``, ``status_until`` and ``title``.
        A new status without ``status_until`` does not end. Raises BadField,
        NoAccounts and UnknownAccount.
        """
        _check_profile(fields)
        if "status" in fields or "away" in fields:
            # The end of the earlier status does not count for the new one.
            fields = {"status_until": 0, **fields}
        account = self.rows.change(app, id_of(user), fields, self.recorder(app))
        if account is None:
            raise self.unknown(app, user)
        return account

    def change_identifiers(
        self,
        app: str,
        user: str,
        given: dict[Identifier, str],
        password: str | None,
        address: str,
        token: str = "",
        email_confirmed: bool = False,
    ) -> Account:
        """Change identifiers of an account: phone number, e-mail address, user
        name.

        ``given`` are the new identifiers; ``""`` removes an identifier, and at
        least one has to remain. ``password`` is the password of the account,
        which is checked, unless the account logs in without a password. None
        means that a back end changes the identifiers, and nothing is checked.
        ``token`` is the token of the request. ``email_confirmed`` means that
        the back end has confirmed the e-mail address.

        A request of a user counts as a registration from ``address``, because
        the result reveals which identifiers are taken. Raises BadField,
        UnknownAccount, WrongLogin, Taken, TooManyRequests and Overloaded.
        """
        account = self.known(app, user)
        fields = self.checked_identifiers(app, given)
        _require_identifier(account, fields)
        if password is not None:
            self._registrations.require(by_address(app, address))
            self.confirmed(app, user, password, address, token)
        # Last, because it reveals whether another account has the identifier.
        self.require_free(app, fields, account.id)
        changes: dict[Any, Any] = {**fields, "email_confirmed": email_confirmed}
        changed = self.rows.change(app, account.id, changes, self.recorder(app))
        if changed is None:
            raise UnknownAccount(user)
        return changed

    def change_password(
        self,
        app: str,
        user: str,
        old: str | None,
        new: str,
        address: str,
        token: str = "",
    ) -> None:
        """Change the password of an account and end its sessions.

        ``old`` is the current password. None means that a back end changes the
        password without it. An account without a password, and without an
        e-mail address for a reset, needs only its login to set the first
        password. ``token`` is the token of the request.

        Raises BadField, PasswordsOff, UnknownAccount, WrongLogin,
        TooManyRequests and Overloaded.
        """
        check_password(new)
        self._require_passwords(app)
        account, old_hash = self._known_row(app, user)
        if old is not None:
            old_hash = self._check_old_password(
                app, (account, old_hash), old, address, token
            )

        hashed = self.passwords.hash(new)
        while not self.rows.set_password(
            account.id, old_hash, hashed, ends_sessions=True, record=self.recorder(app)
        ):
            # The password was changed meanwhile. Only a back end may continue
            # without the old password.
            if old is not None:
                raise WrongLogin
            account, old_hash = self._known_row(app, user)
        self.logged_out(app, user)

    def _check_old_password(
        self,
        app: str,
        row: tuple[Account, str],
        password: str,
        address: str,
        token: str,
    ) -> str:
        """Check the current password of an account; returns the hash after
        that.

        ``row`` is the account and its hash. :meth:`change_password` says which
        account needs no password, and what it raises.
        """
        account, hashed = row
        device = self._charge_check(app, address, token)
        if hashed or account.email:
            self._check_password_of(
                app, row, login="", password=password, address=address, device=device
            )
        if hashed and self.passwords.is_weak(hashed):
            # The check has replaced the hash.
            _, hashed = self._known_row(app, account.user)
        return hashed

    # --- forgotten passwords --------------------------------------------------

    def charge_reset(self, app: str, address: str) -> None:
        """Count a request to reset a password as a login.

        Raises NoAccounts, PasswordsOff and TooManyRequests.
        """
        self._require_passwords(app)
        self._logins.require(by_address(app, address))

    def named(self, app: str, text: str) -> Account | None:
        """The account with this id or identifier; None if the app has no such
        account.

        For operators only: answers to others must not reveal whether it exists.
        """
        if not self.tokens.wanted_in(app):
            return None
        row = self.rows.by_id_or_login(app, text)
        if row is None:
            return None
        return row[0]

    def resets(self, app: str, code: str, address: str) -> Account | None:
        """The account whose password the code of a mail can replace now.

        Returns None if the code is not valid. The call counts as a login from
        ``address``. Raises NoAccounts, PasswordsOff and TooManyRequests.
        """
        self.charge_reset(app, address)
        return self.rows.reset_of(app, secret_hash(code), int(time()))

    def reset_password(self, app: str, code: str, password: str, address: str) -> str:
        """Replace a password, with the code of a mail; returns the user id.

        All sessions and tokens of the account end. Raises BadField, NoAccounts,
        PasswordsOff, ServiceRefused (no such code), TooManyRequests and
        Overloaded.
        """
        check_password(password)
        account = self.resets(app, code, address)
        if account is None:
            raise ServiceRefused(problem=HTTP_UNKNOWN_RESET)
        hashed = self.passwords.hash(password)
        # The code may be used or expire while the hash is computed.
        is_used = self.rows.use_reset(
            app,
            secret_hash(code),
            now=int(time()),
            password=hashed,
            record=self.recorder(app),
        )
        if not is_used:
            raise ServiceRefused(problem=HTTP_UNKNOWN_RESET)
        self.logged_out(app, account.user)
        return account.user

    def _known_row(self, app: str, user: str) -> tuple[Account, str]:
        """The account of a user, and the hash of its password.

        The hash is ``""`` if the account has no password. Raises NoAccounts and
        UnknownAccount.
        """
        row = self._find_row(app, user)
        if row is None:
            raise self.unknown(app, user)
        return row

    def unknown(self, app: str, user: str) -> UnknownAccount:
        """The error for an account that does not exist.

        Raises NoAccounts instead in an app without accounts, where every user
        would be missing.
        """
        self.rules_of(app)
        return UnknownAccount(user)

    def _find_row(self, app: str, user: str) -> tuple[Account, str] | None:
        """The account of a user, and the hash of its password; None without an
        account."""
        id = id_of(user)
        if id:
            return self.rows.by_id(app, id)
        return None

    def log_out(self, app: str, user: str) -> None:
        """End all sessions of an account: invalidate tokens, close connections.

        Raises NoAccounts and UnknownAccount.
        """
        if not self.rows.end_sessions(app, id_of(user), self.recorder(app)):
            raise self.unknown(app, user)
        self.logged_out(app, user)

    def logged_out(self, app: str, user: str, login: Device | None = None) -> None:
        """Close the sessions of a login that has ended, and report its end.

        The functions of :meth:`report_to` get the report. ``login`` None means
        that all logins of the user have ended.
        """
        # None for the device: all devices. None for the id: all logins.
        device: str | None = None
        login_id: int | None = None
        if login is not None:
            # The sessions of a login without a device name cannot be
            # identified, so all sessions of the user are closed.
            device = login.name or None
            login_id = login.id
        self.sessions.close(app, [user], device)
        for end in self._on_logout:
            end(app, user, login_id)

    def devices(self, app: str, user: str) -> list[Device]:
        """The logins of an account that have not ended, the newest first.

        Raises UnknownAccount.
        """
        return self.rows.devices(self.known(app, user).id, int(time()))

    def log_out_device(self, app: str, user: str, device: int) -> None:
        """End one login: invalidate its token, and close connections on its
        device.

        If the login has no device name, all connections of the account are
        closed, because the connections of the login cannot be identified.
        Raises UnknownAccount, and ServiceRefused if there is no such device.
        """
        ended = self.rows.remove_device(self.known(app, user).id, device)
        if ended is None:
            raise ServiceRefused(problem=HTTP_UNKNOWN_DEVICE)
        self.logged_out(app, user, ended)

    def remove(self, app: str, user: str, *, keeps_messages: bool = False) -> None:
        """Delete an account with all its data.

        With ``keeps_messages``, its messages stay with the other users. Raises
        NoAccounts and UnknownAccount.
        """
        self.erase_user(app, self.known(app, user).user, keeps_messages=keeps_messages)

    def erase(self, app: str, user: str, _name: str) -> None:
        """Delete the row of an account, as a part of the erasure of a user."""
        id = id_of(user)
        if id:
            self.rows.remove(app, id, self.recorder(app))

    def close(self) -> None:
        """Stop the threads that compute hashes."""
        self.passwords.close()
