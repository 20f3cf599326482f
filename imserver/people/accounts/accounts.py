"""Accounts: users who register with a phone number, an e-mail address or a user
name, log in with a password, and get a token.

Errors do not reveal which part of a login was wrong. An unknown account takes
as long as a wrong password.
"""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
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
    _check(nickname, "nickname", 0, NICKNAME_CHARACTERS)
    _check(avatar, "avatar", 0, AVATAR_CHARACTERS)


def check_password(password: str) -> None:
    """Raise BadField for an invalid password."""
    if not 1 <= len(password.encode()) <= MAX_PASSWORD_BYTES:
        raise BadField(f"password: expected 1 to {MAX_PASSWORD_BYTES} bytes")


def check_device(device: str) -> None:
    """Raise BadField for an invalid name of a device."""
    _check(device, "device", 0, _DEVICE_CHARACTERS)


def may_be_login(login: str, password: str) -> bool:
    """Whether login and password have valid forms."""
    return (
        fits(login, 1, LOGIN_CHARACTERS)
        and len(password.encode()) <= MAX_PASSWORD_BYTES
    )


def _check(text: str, name: str, least: int, most: int) -> None:
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
    """The account is locked. The text says until when and why. Only a user who
    has proved the login gets it."""

    def __init__(self, account: Account) -> None:
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


class UnknownAccount(ServiceRefused, problem=Problems.UNKNOWN_ACCOUNT):
    """The app has no such account."""


class Attempt(Struct):
    """A login that may be refused. ``account``: the user id of its account,
    once it is known. It is for operators only, because no answer may say
    whether an account exists."""

    account: str = ""


def _payer(app: str, device: KnownDevice) -> tuple[str, int, int]:
    return app, device.account, device.login


def _own_device(device: KnownDevice | None, account: Account) -> KnownDevice | None:
    """The device that a token has proved, if it belongs to this account."""
    if device is not None and device.account == account.id:
        return device
    return None


class Accounts(Service, dict=True):
    """Registers accounts and checks logins. Every method may switch greenlets
    and raise StorageUnavailable.

    ``sessions``: closes sessions, and knows who is banned. ``is_demo``: whether
    the server is in demo mode; then anybody may register, unless
    ``accounts.registration`` says otherwise. ``erase_user``
    (:meth:`imserver.plugin.services.Core.erase_user`) erases a user completely;
    it calls :meth:`erase`, too. ``recorder_of`` returns the function that
    stores events of a kind. ``refused`` counts refused logins.
    """

    config: Config
    tokens: AccountTokens
    rows: AccountStore
    sessions: Sessions
    is_demo: Callable[[], bool]
    buckets: MakeBuckets
    erase_user: Callable[..., object]
    recorder_of: Callable[[str, str], RecordEvent | None]
    refused: Callable[..., object]
    factors: Factors

    def __post_init__(self) -> None:
        config = self.config
        settings = settings_of(config, AccountSettings)
        self._on_logout: list[Callable[[str, str, int | None], object]] = []
        self._devices = settings.devices
        self._registration = settings.registration
        self._seconds = int(config.jwt.expire_time * _HOUR_SECONDS)
        self.passwords = Passwords(config.app.salt)

        buckets = self.buckets
        rate = config.accounts.rate_seconds
        failing = settings.failure_seconds
        self._registrations = buckets(
            REGISTRATIONS, settings.registrations_per_address, rate
        )
        self._logins = buckets(LOGINS, settings.logins_per_address, rate)
        self._provider_logins = buckets(
            PROVIDER_LOGINS, settings.logins_per_address, rate
        )
        self._by_pair = buckets(FAILURES, settings.failures, failing)
        self._by_account = buckets(
            FAILURES_OF_ACCOUNT, settings.failures_per_account, failing
        )
        self._by_address = buckets(
            FAILURES_OF_ADDRESS, settings.failures_per_address, failing
        )
        self._by_device = buckets(FAILURES_OF_DEVICE, settings.failures, failing)

    @property
    def registration_is_open(self) -> bool:
        """Whether anybody may register, in apps with accounts."""
        if self._registration is None:
            return self.is_demo()
        return self._registration

    def report_to(self, logged_out: Callable[[str, str, int | None], object]) -> None:
        """From now on call this function with app, user and the ended login
        (None: all logins). It may switch greenlets, and raise
        StorageUnavailable."""
        self._on_logout.append(logged_out)

    def recorder(self, app: str) -> RecordEvent | None:
        """The function that stores events about accounts of an app; None:
        nobody wants these events."""
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

        ``invited``: a back end makes the account. It may do so even if
        registration is closed. ``email_confirmed``: the back end has confirmed
        the e-mail address. ``address``: of the client; the number of
        registrations per address is limited. Raises NoAccounts, BadField,
        PasswordsOff, Closed, Taken, TooManyRequests and Overloaded.
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
        """The identifiers of a new member in their stored form, and the hash of
        the password.

        ``address``: the registration counts for it; ``""``: it does not count.
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
        self.require_free(app, given, 0)
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
        """Identifiers in their stored form; ``""``: removed. Raises
        BadField."""
        wanted = self.rules_of(app).identifiers
        for kind, text in given.items():
            if text and kind not in wanted:
                raise BadField(f"{kind}: accounts of this app have none")
        identifiers: dict[Identifier, str] = {}
        for kind, text in given.items():
            if text:
                text = checked(kind, text)
            identifiers[kind] = text
        return identifiers

    def require_free(self, app: str, given: dict[Identifier, str], own_id: int) -> None:
        """Raise Taken if an account other than ``own_id`` could log in with one
        of these identifiers."""
        for text in given.values():
            if not text:
                continue
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
        """The account with this identifier and this password. ``earlier``: an
        older token of the account, expired or not. ``code``: a code of its
        second factor.

        Raises NoAccounts, PasswordsOff, WrongLogin, AccountLocked, UserBanned,
        FactorRequired, WrongCode, TooManyRequests and Overloaded.
        """
        with self.counting_refusals(app, address) as attempt:
            self._require_passwords(app)
            device = self._charge(app, address, earlier)
            if not may_be_login(login, password):
                raise WrongLogin
            names = candidates(login)
            row = self.rows.by_login(app, *names)
            if row is not None:
                attempt.account = row[0].user
            account = self._verified(app, row, names[0][1], password, address, device)
            self._require_welcome(account)
            self.factors.require(account, code, _own_device(device, account))
            return account

    @contextmanager
    def counting_refusals(self, app: str, address: str) -> Iterator[Attempt]:
        """Context manager: count the login in this block as refused if it
        raises an error that refuses logins."""
        attempt = Attempt()
        try:
            yield attempt
        except ServiceRefused as error:
            if error.login is None:
                raise
            limit = ""
            until = 0.0
            if isinstance(error, TooManyRequests):
                limit = error.limit
                until = time() + error.seconds
            elif isinstance(error, AccountLocked):
                until = error.until
                if not isinstance(error, UserBanned):
                    limit = "lock"
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

    def _charge(self, app: str, address: str, earlier: str) -> KnownDevice | None:
        """Count a check of a password for the device that the token ``earlier``
        proves, else for ``address``. Returns the device, which may belong to
        another account."""
        device = self.tokens.device_of(earlier)
        if device is None:
            self._logins.require(by_address(app, address))
        else:
            self._logins.require(_payer(app, device))
        return device

    def _verified(
        self,
        app: str,
        account_row: tuple[Account, str] | None,
        login: str,
        password: str,
        address: str,
        device: KnownDevice | None,
    ) -> Account:
        """The found account, if the password matches its hash.

        Failures count by account (whichever identifier was used) and network,
        by app and network, and by account. Failures of a known ``device`` of
        the account count only for the device, so others cannot lock it out.
        With a device of another account the login counts for its address, too.
        ``login`` stands for an account that was not found.
        """
        account_key: str | int = login
        hashed = ""
        if account_row is not None:
            account_key = account_row[0].id
            hashed = account_row[1]
        if device is not None and device.account != account_key:
            device = None
            self._logins.require(by_address(app, address))

        login_limit: tuple[Buckets, Hashable]
        if device is not None:
            login_limit = (self._by_device, _payer(app, device))
            counts: list[tuple[Buckets, Hashable]] = [login_limit]
        else:
            network = network_of(address)
            login_limit = (self._by_pair, (app, account_key, network))
            counts = [
                (self._by_address, (app, network)),
                login_limit,
                (self._by_account, (app, account_key)),
            ]

        charged: list[tuple[Buckets, Hashable]] = []
        try:
            # Counted before the check, so that parallel attempts cannot exceed
            # the limit.
            for buckets, payer in counts:
                buckets.require(payer)
                charged.append((buckets, payer))
            # A hash is computed even without an account, because the time must
            # not reveal whether the account exists.
            is_right = self.passwords.matches(hashed, password)
        except (TooManyRequests, Overloaded):  # the password was not checked
            for buckets, payer in charged:
                buckets.give_back(payer)
            raise
        if not is_right or account_row is None:
            raise WrongLogin

        for buckets, payer in counts:
            buckets.give_back(payer)
        buckets, payer = login_limit
        buckets.forget(payer)
        account, _ = account_row
        if self.passwords.is_weak(hashed):
            self.rows.set_password(account.id, hashed, self.passwords.hash(password))
        return account

    def _require_welcome(self, account: Account) -> None:
        """Raise AccountLocked or UserBanned if a login to an account is
        refused."""
        if account.is_locked(time()):
            raise AccountLocked(account)
        ban = self.sessions.ban_of(account.app, account.user)
        if ban:
            raise UserBanned(account.user, ban.text, ban.until)

    def token(
        self, account: Account, device: str = "", seconds: int = 0
    ) -> FullSession:
        """A token for an account that has logged in, on a device of this name.
        ``seconds``: how long the token is valid; 0: as long as tokens of
        members.

        Raises BadField, and WrongLogin if the account has ended its sessions
        since, or is deleted.
        """
        login = self._new_login(device, seconds)
        if not self.rows.add_device(account.id, account.version, login, self._devices):
            raise WrongLogin
        return self._session(account, login)

    def _new_login(self, device: str, seconds: int = 0) -> Device:
        check_device(device)
        now = int(time())
        expires_at = now + (seconds or self._seconds)
        # 0 is no id.
        return Device(randbits(_LOGIN_ID_BITS) | 1, device, now, expires_at)

    def _session(self, account: Account, login: Device) -> FullSession:
        token = self.tokens.make(
            account.id, account.version, login.expires_at, login.id
        )
        return FullSession(account, token, login.expires_at, login.name, login.id)

    def charge_provider_login(self, app: str, address: str) -> None:
        """Count the start of a login with a provider; wrong passwords do not
        count. Raises TooManyRequests."""
        self._provider_logins.require(by_address(app, address))

    def charge_guess(self, app: str, address: str) -> None:
        """Count an unknown handle of a login as a login from ``address``.
        Raises TooManyRequests."""
        self._logins.require(by_address(app, address))

    def log_in_linked(
        self, app: str, providers: Sequence[str], subjects: Sequence[str], device: str
    ) -> tuple[FullSession, str] | None:
        """A token for the account of :meth:`AccountStore.linked`, and the
        provider of the link. Raises BadField, AccountLocked and UserBanned."""
        login = self._new_login(device)
        row = self.rows.log_in_linked(app, providers, subjects, login, self._devices)
        if row is None:
            return None
        account, provider = row
        self._require_welcome(account)
        return self._session(account, login), provider

    def confirmed(
        self, app: str, user: str, password: str, address: str, token: str
    ) -> Account:
        """The account of a user, if the password is right or the account logs
        in without a password. ``token``: the token of the request.

        The call counts as a login. Failures count as in :meth:`login`. Raises
        UnknownAccount, WrongLogin, TooManyRequests and Overloaded.
        """
        device = self._charge(app, address, token)
        account, hashed = self._known(app, user)
        if hashed and self.rules_of(app).passwords:
            self._verified(app, (account, hashed), "", password, address, device)
        return account

    def proved(
        self, app: str, user: str, password: str, code: str, address: str, token: str
    ) -> Account:
        """The account of a user who proves to be its owner, as at a login: by
        the password, and if the account has a second factor, by a code.

        Raises the errors of :meth:`confirmed` and :meth:`with_factor`.
        """
        self.confirmed(app, user, password, address, token)
        return self.with_factor(app, user, code, token)

    def with_factor(self, app: str, user: str, code: str, token: str) -> Account:
        """The account of a user, if its second factor has made this code.
        ``token``: of the request. Raises UnknownAccount, FactorRequired,
        WrongCode and TooManyRequests."""
        account = self.known(app, user)
        device = _own_device(self.tokens.device_of(token), account)
        self.factors.require(account, code, device)
        return account

    # --- asking ---------------------------------------------------------------

    def get(self, app: str, user: str) -> Account | None:
        """The account of a user."""
        row = self._found(app, user)
        if row is None:
            return None
        return row[0]

    def known(self, app: str, user: str) -> Account:
        """The account of a user. Raises NoAccounts and UnknownAccount."""
        return self._known(app, user)[0]

    # --- changing -------------------------------------------------------------

    def change(self, app: str, user: str, fields: dict[str, Any]) -> Account:
        """Change some of ``nickname``, ``avatar``, ``findable``,
        ``show_presence``, ``status``, ``away``, ``status_until`` and ``title``.
        A new status without ``status_until`` does not end.

        Raises BadField, NoAccounts and UnknownAccount.
        """
        check_shown(fields.get("nickname", ""), fields.get("avatar", ""))
        _check(fields.get("status", ""), "status", 0, STATUS_CHARACTERS)
        _check(fields.get("title", ""), "title", 0, TITLE_CHARACTERS)
        if {"status", "away"} & fields.keys():
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
        """Change identifiers of an account. ``""`` removes an identifier; at
        least one has to remain. ``password`` None: a back end changes them. An
        account that logs in without a password needs no password here.
        ``email_confirmed``: the back end has confirmed the e-mail address.

        Counts as a registration from ``address``, because the result reveals
        which identifiers are taken. Raises BadField, UnknownAccount,
        WrongLogin, Taken, TooManyRequests and Overloaded.
        """
        account = self._known(app, user)[0]
        fields = self.checked_identifiers(app, given)
        before: dict[Identifier, str] = {
            kind: getattr(account, kind) for kind in IDENTIFIERS
        }
        if not any({**before, **fields}.values()):
            raise BadField("an account has at least one identifier")
        if password is not None:
            self._registrations.require(by_address(app, address))
            self.confirmed(app, user, password, address, token)
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
        """Change the password of an account and end its sessions. ``old`` None:
        a back end changes it. An account without a password, and without an
        e-mail address for a reset, needs only its login to set the first
        password.

        Raises BadField, PasswordsOff, UnknownAccount, WrongLogin,
        TooManyRequests and Overloaded.
        """
        check_password(new)
        self._require_passwords(app)
        account, before = self._known(app, user)
        if old is not None:
            device = self._charge(app, address, token)
            if before or account.email:
                self._verified(app, (account, before), "", old, address, device)
            if before and self.passwords.is_weak(before):
                # The check has replaced the hash.
                _, before = self._known(app, user)

        hashed = self.passwords.hash(new)
        while not self.rows.set_password(
            account.id, before, hashed, ends_sessions=True, record=self.recorder(app)
        ):
            # The password was changed meanwhile. Only a back end may continue
            # without the old password.
            if old is not None:
                raise WrongLogin
            account, before = self._known(app, user)
        self.logged_out(app, user)

    # --- forgotten passwords --------------------------------------------------

    def charge_reset(self, app: str, address: str) -> None:
        """Count a request to reset a password as a login. Raises NoAccounts,
        PasswordsOff and TooManyRequests."""
        self._require_passwords(app)
        self._logins.require(by_address(app, address))

    def named(self, app: str, text: str) -> Account | None:
        """The account with this id or identifier. For operators only: answers
        to others must not reveal whether it exists."""
        if not self.tokens.wanted_in(app):
            return None
        row = self.rows.by_id_or_login(app, text)
        if row is None:
            return None
        return row[0]

    def resets(self, app: str, code: str, address: str) -> Account | None:
        """The account whose password the code of a mail can replace now. Counts
        as a login. Raises NoAccounts, PasswordsOff and TooManyRequests."""
        self.charge_reset(app, address)
        return self.rows.reset_of(app, secret_hash(code), int(time()))

    def reset_password(self, app: str, code: str, password: str, address: str) -> str:
        """Replace a password, with the code of a mail. All sessions and tokens
        of the account end. Returns its user id.

        Raises BadField, NoAccounts, PasswordsOff, ServiceRefused (no such
        code), TooManyRequests and Overloaded.
        """
        check_password(password)
        account = self.resets(app, code, address)
        if account is None:
            raise ServiceRefused(problem=HTTP_UNKNOWN_RESET)
        hashed = self.passwords.hash(password)
        is_used = self.rows.use_reset(
            app, secret_hash(code), int(time()), hashed, self.recorder(app)
        )
        if not is_used:
            raise ServiceRefused(problem=HTTP_UNKNOWN_RESET)
        self.logged_out(app, account.user)
        return account.user

    def _known(self, app: str, user: str) -> tuple[Account, str]:
        """The account of a user, and the hash of its password. Raises
        NoAccounts and UnknownAccount."""
        row = self._found(app, user)
        if row is None:
            raise self.unknown(app, user)
        return row

    def unknown(self, app: str, user: str) -> UnknownAccount:
        """The error for an account that does not exist. Raises NoAccounts
        instead in an app without accounts, where every user would be
        missing."""
        self.rules_of(app)
        return UnknownAccount(user)

    def _found(self, app: str, user: str) -> tuple[Account, str] | None:
        id = id_of(user)
        if id:
            return self.rows.by_id(app, id)
        return None

    def log_out(self, app: str, user: str) -> None:
        """End all sessions of an account: invalidate tokens, close connections.
        Raises NoAccounts and UnknownAccount."""
        if not self.rows.end_sessions(app, id_of(user), self.recorder(app)):
            raise self.unknown(app, user)
        self.logged_out(app, user)

    def logged_out(self, app: str, user: str, login: Device | None = None) -> None:
        """Close the sessions of a login that has ended, and report its end;
        None: all logins."""
        device: str | None = None
        login_id: int | None = None
        if login is not None:
            # The sessions of a login without a device name cannot be
            # identified.
            device = login.name or None
            login_id = login.id
        self.sessions.close(app, [user], device)
        for end in self._on_logout:
            end(app, user, login_id)

    def devices(self, app: str, user: str) -> list[Device]:
        """The logins of an account that have not ended, the newest first.
        Raises UnknownAccount."""
        return self.rows.devices(self.known(app, user).id, int(time()))

    def log_out_device(self, app: str, user: str, device: int) -> None:
        """End one login: invalidate its token, and close connections on devices
        with its name. If the login has no name, all connections of the account
        are closed, because its own cannot be identified.

        Raises UnknownAccount, and ServiceRefused if there is no such device.
        """
        ended = self.rows.remove_device(self.known(app, user).id, device)
        if ended is None:
            raise ServiceRefused(problem=HTTP_UNKNOWN_DEVICE)
        self.logged_out(app, user, ended)

    def remove(self, app: str, user: str, *, keeps_messages: bool = False) -> None:
        """Delete an account with all its data. ``keeps_messages``: its messages
        stay with the other users. Raises NoAccounts and UnknownAccount."""
        self.erase_user(app, self.known(app, user).user, keeps_messages=keeps_messages)

    def erase(self, app: str, user: str, _name: str) -> None:
        """Delete the row of an account."""
        id = id_of(user)
        if id:
            self.rows.remove(app, id, self.recorder(app))

    def close(self) -> None:
        """Stop the threads that compute hashes."""
        self.passwords.close()
