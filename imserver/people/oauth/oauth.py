"""Logins with a provider, and links between accounts and providers.

A client starts a login and gets an address and a secret handle. A browser opens
the address, the user agrees at the provider, and the browser comes back to the
callback. The client exchanges the handle for a session. So any client can log
in, even without a browser.

An attacker could send the address of a login to another user, to log in as that
user. So the handle alone is not enough: a page that started the login gets a
second code in the browser that came back. For other clients this browser shows
a short code and asks the user whether their device shows the same.

In a cluster the running logins are in Redis, so any node may handle the
callback.
"""

import hmac
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from secrets import choice, token_urlsafe
from time import time
from typing import Final, Literal
from urllib.parse import quote

import gevent
import msgspec
from gevent.lock import BoundedSemaphore
from msgspec import Struct

from imserver.people.accounts.accounts import Closed, check_device
from imserver.people.accounts.contract import Account, FullSession, Taken
from imserver.people.accounts.identifiers import BadField
from imserver.people.accounts.parts import accounts_of
from imserver.people.accounts.rows import add_link
from imserver.people.accounts.tokens import secret_hash
from imserver.people.oauth.declared import (
    HTTP_LAST_LOGIN,
    HTTP_LINK_TAKEN,
    ProviderSettings,
    providers_of,
)
from imserver.people.oauth.providers import (
    KINDS,
    SECONDS,
    AuthorizationRequest,
    Identity,
    Provider,
    ProviderRefused,
    ProviderUnavailable,
)
from imserver.plugin.errors import HttpProblem, ImserverError, Problems, ServiceRefused
from imserver.plugin.runtime import RateLimitedLog
from imserver.plugin.services import Core
from imserver.plugin.storage import PooledStatements, RowsOf, Store, text_of

log: Final = logging.getLogger(__name__)

CALLBACK: Final = "/oauth/callback/"
"""Providers send browsers back to this path and ``<app>/<provider>``."""
LOGIN_SECONDS: Final = 600
"""For how long a login may run."""
POLL_SECONDS: Final = 2
"""How often a client asks whether its login is finished."""
AT_ONCE: Final = 16
"""The most requests that wait for one provider of one app on this node. Further
ones are refused at once."""


class UnknownProvider(
    ServiceRefused,
    problem=HttpProblem(
        404,
        "unknown_provider",
        "The app has no such login provider, or the account is not linked with it.",
    ),
):
    """The app has no such provider (``oauth``)."""


class UnknownLogin(
    ServiceRefused,
    problem=HttpProblem(
        404,
        "unknown_login",
        "No such login with a provider, or it has expired or was already finished.",
    ),
    login="provider",
):
    """The login does not exist, has expired, or was finished before."""


class LoginRefused(
    ServiceRefused,
    problem=HttpProblem(
        403,
        "login_refused",
        "The provider or the user has refused this login. Start a new login.",
    ),
    login="provider",
):
    """The provider or the user has refused the login, or it was finished with a
    wrong code."""


class NotLinked(
    ServiceRefused,
    problem=Closed.problem,
    detail=(
        "No account is linked with this identity, and the provider makes none "
        "(register)"
    ),
    login="closed",
):
    """The identity has no account, and the provider may not make one."""


class Question(Struct, frozen=True):
    """The next step of a browser that has come back from a provider.

    It goes to ``address``. If this is ``""``, a page asks the user a question,
    for which the other fields are.

    ``title`` is the name of the provider. ``shown`` is the short code that the
    user compares. ``device`` is the name of the device that logs in.
    ``nickname`` is the name of the account to link; ``""`` means that this is a
    login, not a link. ``code`` goes back to the server with the answer.
    """

    address: str = ""
    title: str = ""
    shown: str = ""
    device: str = ""
    nickname: str = ""
    code: str = ""


class _Running(Struct):
    """A running login with a provider, as it is stored until the client
    finishes it."""

    app: str
    provider: str
    account: int
    """The id of the account to link. 0 means that this is a login."""
    version: int
    """The version of the account at the start of a link."""
    device: str
    return_to: str
    """The path of our own page to which the browser comes back. ``""`` means
    that the browser asks the user a question instead."""
    shown: str
    """The short code that the user compares."""
    state: str
    nonce: str
    verifier: str
    expires_at: int
    """Unix seconds."""
    step: Literal["started", "returned", "done", "failed"] = "started"
    """``returned``: the browser has come back, and the user is asked.
    ``done``: the client may finish the login."""
    code: str = ""
    """The hash of the code that only the browser has; ``""`` means that no code
    is needed."""
    found: Identity | None = None
    """The identity of the user, after the browser has come back."""


_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"
_HALF_CODE: Final = 4
"""Letters in each half of the code that the user compares."""
_SECRET_BYTES: Final = 32
_VERIFIER_BYTES: Final = 48
"""Random bytes of a code verifier of RFC 7636, which has at least 43
characters."""
_OWN_PATH: Final = re.compile(r"/(?!/)[A-Za-z0-9._~/?&=%+-]{0,500}")
"""A path of this server, without a fragment."""
_LOGIN: Final = "oauth:login:"
_STATE: Final = "oauth:state:"
_QUESTION: Final = "oauth:question:"
"""Prefixes of keys, which the hash of a secret follows. The last two lead to a
login."""


class AccountLink(Struct, frozen=True):
    """A link between an account and an identity.

    ``subject`` is the id of the identity at the provider.
    """

    provider: str
    subject: str
    since: int
    """Unix seconds."""


_LINKS: Final = RowsOf(AccountLink, "oauth_link")


class LinkStore(Store.Rows):
    """The links between accounts and their identities in a store.

    Empty without a database. Each method is one transaction, may switch
    greenlets, and raises StorageUnavailable.
    """

    @Store.writing
    def add(
        self,
        sql: PooledStatements,
        app: str,
        account: int,
        provider: str,
        subject: str,
        now: int,
    ) -> None:
        """Link an account, or do nothing if exactly this link exists.

        Raises Taken if the identity belongs to another account, if the account
        has another identity at the provider, or if the account was deleted.
        """
        statement = (
            "SELECT subject FROM oauth_link WHERE account = %s AND provider = %s"
        )
        links = sql.query(statement, (account, provider))
        if links:
            linked_subject = text_of(links[0][0])
            if linked_subject != subject:
                raise Taken("link")
            return
        # The row is locked, so that a deletion of the account cannot leave the
        # link behind.
        account_row = f"SELECT 1 FROM account WHERE id = %s{sql.for_update}"
        if not sql.query(account_row, (account,)):
            raise Taken("link")
        add_link(sql, app, account, provider, subject, now)

    def of(self, account: int) -> list[AccountLink]:
        """The links of an account, ordered by provider."""
        return _LINKS.find(
            self._store.rows, "WHERE account = %s ORDER BY provider", account
        )

    @Store.writing_or("absent")
    def remove(
        self, sql: PooledStatements, account: int, provider: str, with_password: bool
    ) -> Literal["done", "absent", "last"]:
        """Delete a link.

        Returns ``absent`` if there is no such link, and ``last`` if the link
        stays, because the account could not log in without it.
        ``with_password`` says whether a password of the account counts as a way
        to log in.
        """
        # The row is locked. So the second of two simultaneous requests sees the
        # deletion of the first.
        account_rows = sql.query(
            f"SELECT password FROM account WHERE id = %s{sql.for_update}", (account,)
        )
        links = sql.query(
            "SELECT provider FROM oauth_link WHERE account = %s", (account,)
        )
        if provider not in {text_of(row[0]) for row in links}:
            return "absent"
        has_password = with_password and account_rows and account_rows[0][0]
        if len(links) == 1 and not has_password:
            return "last"
        sql.execute(
            "DELETE FROM oauth_link WHERE account = %s AND provider = %s",
            (account, provider),
        )
        return "done"


class OAuth:
    """Logs in with providers, such as an OpenID Connect server, GitHub or
    WeChat.

    A login goes through a browser. First :meth:`start` gives the client the
    address to open. Then :meth:`returned` takes the browser that comes back,
    and :meth:`agree` the answer of the user.

    At the end, :meth:`finish` gives the client the session. Between these
    steps, the login is stored as a temporary value.
    """

    def __init__(self, core: Core) -> None:
        """Begin without providers. A provider is made when somebody logs in
        with it."""
        self._base = core.config.address
        self.root = core.config.root
        """The path below which a proxy serves this server."""
        self._tenants = core.tenants
        people = accounts_of(core)
        self._accounts = people.accounts
        self._rows = people.rows
        self.link_store = LinkStore(core.store)
        self._values = core.temporary_values
        self._outgoing = core.outgoing
        self._providers: dict[tuple[str, str], tuple[ProviderSettings, Provider]] = {}
        self._turns: dict[tuple[str, str], BoundedSemaphore] = {}
        self._problem = RateLimitedLog(log, "app %s: login with %s: %s")
        self._tenants.report_to(self.forget)

    def forget(self, app: str) -> None:
        """Drop the providers of a deleted app."""
        keys = [key for key in self._providers if key[0] == app]
        for key in keys:
            del self._providers[key]
            self._turns.pop(key, None)

    # --- providers ------------------------------------------------------------

    def settings_of(self, app: str) -> dict[str, ProviderSettings]:
        """The providers of an app by name. Raises NoAccounts."""
        self._accounts.rules_of(app)
        tenant = self._tenants.get(app)
        if tenant is None:
            return {}
        return providers_of(tenant)

    def _provider(self, app: str, name: str) -> tuple[ProviderSettings, Provider]:
        """A provider of an app, and its settings.

        Raises NoAccounts and UnknownProvider.
        """
        settings = self.settings_of(app).get(name)
        if settings is None:
            raise UnknownProvider(name)
        entry = self._providers.get((app, name))
        if entry is not None and entry[0] == settings:
            return entry
        # Made again when the settings of the app have changed.
        make_provider = KINDS[settings.kind]
        entry = (settings, make_provider(settings, self._outgoing))
        self._providers[app, name] = entry
        return entry

    @contextmanager
    def _turn(self, app: str, name: str) -> Iterator[None]:
        """Run a block that sends requests to a provider.

        At most :data:`AT_ONCE` of these blocks run at the same time, each for
        about :data:`SECONDS`. So a provider that does not answer cannot occupy
        the node. Raises ProviderUnavailable if there is no room, or if the
        block takes longer.
        """
        turns = self._turns.setdefault((app, name), BoundedSemaphore(AT_ONCE))
        if not turns.acquire(blocking=False):
            raise ProviderUnavailable(f"{AT_ONCE} logins wait for it already")
        timeout = ProviderUnavailable(f"no answer within {SECONDS:g} s")
        try:
            with gevent.Timeout(SECONDS + 1, timeout):
                yield
        except ProviderUnavailable as error:
            self._problem(app, name, error)
            raise
        finally:
            turns.release()

    # --- a login --------------------------------------------------------------

    def start(
        self,
        app: str,
        name: str,
        address: str,
        device: str = "",
        return_to: str = "",
        user: str | None = None,
        password: str = "",
        token: str = "",
    ) -> tuple[str, str, str]:
        """Start a login with the provider ``name``.

        Returns the address for the browser, the secret handle of the login, and
        the short code for the user.

        ``user`` is the user whose account is linked with the provider. None
        means that this is a login, not a link. A link needs the ``password`` of
        the account, if it has one, because a stolen token must not add a way to
        log in. ``token`` is the token of the request. The start counts as a
        login from ``address``. ``return_to`` is the path of our own page to
        which the browser comes back; ``""`` means that it shows the question to
        the user.

        Raises NoAccounts, UnknownProvider, ServiceRefused (no address of this
        server), BadField, ProviderUnavailable, TooManyRequests, and for a link
        UnknownAccount, WrongLogin and Overloaded.
        """
        check_device(device)
        _check_return_path(return_to)
        _, provider = self._provider(app, name)
        self._require_own_address()

        account: Account | None = None  # no account to link
        if user is None:
            self._accounts.charge_provider_login(app, address)
        else:
            account = self._accounts.confirmed(app, user, password, address, token)
        row = _new_login(app, name, device, return_to, account)
        with self._turn(app, name):
            url = provider.address(self._request(row))
        return url, self._store_new_login(row), row.shown

    def _require_own_address(self) -> None:
        """Raise ServiceRefused if no address of this server is configured.

        A provider sends the browser back to this address.
        """
        if not self._base.startswith(("https://", "http://")):
            raise ServiceRefused(
                "app.http_url is not set, or does not begin with http:// or https://",
                Problems.NOT_IMPLEMENTED,
            )

    def _store_new_login(self, row: _Running) -> str:
        """Store a login that begins, and return its secret handle.

        The client finds the login by its handle, the browser by the ``state``.
        Only hashes of both secrets are stored.
        """
        login = token_urlsafe(_SECRET_BYTES)
        key = secret_hash(login)
        self._store_login(key, row)
        state_key = _STATE + secret_hash(row.state)
        self._values.put_value(state_key, key.encode(), LOGIN_SECONDS)
        return login

    def _request(self, row: _Running) -> AuthorizationRequest:
        """The data of a login that its provider needs."""
        callback = f"{self._base}{CALLBACK}{quote(row.app)}/{quote(row.provider)}"
        return AuthorizationRequest(
            callback=callback, state=row.state, nonce=row.nonce, verifier=row.verifier
        )

    def _store_login(self, login_key: str, row: _Running) -> None:
        """Store a login, or its new state.

        ``login_key`` is the hash of its handle. A login that has expired is not
        stored.
        """
        seconds = row.expires_at - time()
        if seconds > 0:
            content = msgspec.json.encode(row)
            self._values.put_value(_LOGIN + login_key, content, seconds)

    def _load_login(self, login_key: str) -> _Running | None:
        """The running login with this key.

        Returns None if it does not exist, has expired or was finished.
        """
        value = self._values.value(_LOGIN + login_key)
        if value is None:
            return None
        return msgspec.json.decode(value, type=_Running)

    def _claim_login(self, name: str) -> tuple[str, _Running]:
        """The key of the login to which the stored value ``name`` leads, and
        the login.

        The value is removed, so only the first caller gets the login. Raises
        UnknownLogin.
        """
        value = self._values.value(name)
        if value is None or not self._values.remove_value(name):
            raise UnknownLogin
        login_key = value.decode()
        row = self._load_login(login_key)
        if row is None:
            raise UnknownLogin
        return login_key, row

    def returned(
        self, app: str, name: str, state: str, code: str, problem: str, issuer: str
    ) -> Question:
        """Process the return of a browser from a provider; returns its next
        step.

        ``app`` and ``name`` are the app and the provider in the address.
        ``state`` identifies the login. ``code`` proves the identity of the
        user; ``""`` means that the provider refuses the login, for the reason
        ``problem``. ``issuer`` is the provider that has sent the browser back,
        if the response names it (RFC 9207), else ``""``.

        Raises UnknownLogin, LoginRefused and ProviderUnavailable. The login has
        failed then.
        """
        app = self._tenants.resolve(app)
        key, row = self._claim_login(_STATE + secret_hash(state))
        row.step = "returned"
        try:
            _check_provider(row, app, name)
            row.found = self._identified(row, code, problem, issuer)
            title = self._title(app, name)
        except ImserverError as error:
            if isinstance(error, ProviderRefused):
                self._problem(app, name, error)
            return self._fail(key, row, error)

        if row.return_to:
            return self._go_on(key, row)

        self._store_login(key, row)
        return self._make_question(key, row, title)

    def _go_on(self, key: str, row: _Running) -> Question:
        """Send the browser to our own page, which may finish the login.

        The page has begun the login in this browser, so the user is not asked.
        The secret proves to :meth:`finish` that it is the same browser.
        """
        secret = token_urlsafe(_SECRET_BYTES)
        row.step = "done"
        row.code = secret_hash(secret)
        self._store_login(key, row)
        return Question(f"{self._base}{row.return_to}#oauth={secret}")

    def _fail(self, key: str, row: _Running, error: ImserverError) -> Question:
        """Note that a login has failed, and send the browser to our page if
        there is one.

        Otherwise raises LoginRefused, or the error if it may be temporary.
        """
        # The client that waits for the login learns that it has failed.
        row.step = "failed"
        self._store_login(key, row)
        if row.return_to:
            return Question(f"{self._base}{row.return_to}#oauth=refused")
        if isinstance(error, ProviderRefused | UnknownProvider):
            raise LoginRefused from None
        raise error

    def _make_question(self, key: str, row: _Running, title: str) -> Question:
        """Make the question to the user of a login, and the code for its
        answer.

        The code is stored, so that only this browser can answer. ``key`` is the
        key of the login. ``title`` is the name of the provider.
        """
        secret = token_urlsafe(_SECRET_BYTES)
        question_key = _QUESTION + secret_hash(secret)
        self._values.put_value(question_key, key.encode(), LOGIN_SECONDS)
        nickname = ""  # this is a login
        if row.account:
            account = self._accounts.get(row.app, str(row.account))
            if account is not None:
                nickname = account.nickname or account.user
        return Question(
            title=title,
            shown=row.shown,
            device=row.device,
            nickname=nickname,
            code=secret,
        )

    def _title(self, app: str, name: str) -> str:
        """The name of a provider for people. Raises UnknownProvider."""
        settings, _ = self._provider(app, name)
        return settings.title or name

    def _identified(
        self, row: _Running, code: str, problem: str, issuer: str
    ) -> Identity:
        """The identity of the user, from the parameters with which a browser
        comes back.

        :meth:`returned` explains the parameters. Raises UnknownProvider,
        ProviderRefused and ProviderUnavailable.
        """
        app = row.app
        name = row.provider
        settings, provider = self._provider(app, name)
        if problem or not code:
            raise ProviderRefused(problem or "it sent no code")
        _check_issuer(settings, issuer)

        def is_linked(subjects: tuple[str, ...]) -> bool:
            """Whether one of these ids of the user has an account already."""
            return self._linked(app, name, subjects) is not None

        with self._turn(app, name):
            return provider.identify(self._request(row), code, is_linked)

    def agree(self, code: str, agreed: bool) -> None:
        """Process the answer of the user to a :class:`Question` with this
        ``code``.

        Raises UnknownLogin if the question was answered before.
        """
        key, row = self._claim_login(_QUESTION + secret_hash(code))
        if agreed:
            row.step = "done"
        else:
            row.step = "failed"
        self._store_login(key, row)

    def finish(
        self, app: str, login: str, code: str, address: str, factor: str = ""
    ) -> FullSession | str | None:
        """Exchange the handle ``login`` for a session.

        For a link, the account is linked, and the name of the provider is
        returned. Returns None if the user has not agreed yet.

        ``code`` is the code that the page got in the browser; ``""`` for other
        clients. ``factor`` is a code of the second factor of the account.
        Without a right code of the factor the handle stays valid, and
        FactorRequired or WrongCode is raised.

        A handle works once. The first login of an identity makes an account, if
        the provider's ``register`` is on. Raises NoAccounts, UnknownProvider,
        UnknownLogin, LoginRefused, ServiceRefused (link taken), NotLinked,
        AccountLocked, WrongLogin (the account was deleted meanwhile, or its
        sessions ended), and TooManyRequests (by ``address``, for unknown
        handles).
        """
        with self._accounts.counting_refusals(app, address):
            key = secret_hash(login)
            row = self._load_login(key)
            if row is None or row.app != app:
                self._accounts.charge_guess(app, address)
                raise UnknownLogin
            if row.step not in ("done", "failed"):
                return None

            identity = _proved_identity(row, code)
            # The second factor is checked before the handle is used up, because
            # the handle stays valid without a right code.
            if identity is not None and not row.account:
                self._require_factor(row, identity, factor)
            # Of two simultaneous requests, only one removes the login.
            if not self._values.remove_value(_LOGIN + key):
                raise UnknownLogin

            if identity is None:
                raise LoginRefused
            if row.account:
                self._link(row, identity)
                return row.provider
            return self._log_in(row, identity)

    def _require_factor(self, row: _Running, identity: Identity, factor: str) -> None:
        """Check the second factor of the account to which a login leads, if
        any.

        Raises FactorRequired, WrongCode and TooManyRequests.
        """
        linked = self._linked(row.app, row.provider, identity.subjects)
        if linked is not None:
            account, _ = linked
            self._accounts.factors.require(account, factor, device=None)

    # --- accounts -------------------------------------------------------------

    def _linked(
        self, app: str, name: str, subjects: Sequence[str]
    ) -> tuple[Account, str] | None:
        """The account that is linked with one of these ids of a user, and the
        provider.

        The account is found as :meth:`AccountStore.linked` describes.
        """
        return self._rows.linked(app, self._providers_like(app, name), subjects)

    def _providers_like(self, app: str, name: str) -> list[str]:
        """The names of the providers of an app with the same identities as one
        provider.

        The provider ``name`` comes first. Users of WeChat have one ``unionid``
        in all providers of WeChat. Other providers have identities of their
        own.
        """
        settings, _ = self._provider(app, name)
        if not settings.kind.startswith("wechat"):
            return [name]
        names = [name]
        for other_name, other in self.settings_of(app).items():
            if other.kind.startswith("wechat") and other_name != name:
                names.append(other_name)
        return names

    def _log_in(self, row: _Running, identity: Identity) -> FullSession:
        """Log in to the account of an identity.

        If no account is linked with the identity, a new account is made, but
        only if the provider may make accounts. Raises NotLinked, AccountLocked,
        UserBanned and WrongLogin.
        """
        app = row.app
        name = row.provider
        settings, _ = self._provider(app, name)
        # The second round finds the account that another login of this identity
        # has made during the first.
        for _ in range(2):
            session = self._log_in_linked(row, identity)
            if session is not None:
                return session

            if not settings.register:
                raise NotLinked(f"apps.{app}.oauth.{name}.register is off")
            try:
                account = self._register(app, name, identity)
            except Taken:  # another login of this identity was faster
                continue
            return self._accounts.token(account, row.device)
        raise UnknownLogin

    def _register(self, app: str, name: str, identity: Identity) -> Account:
        """Make an account that is linked with an identity at a provider.

        Raises Taken if the identity is linked already.
        """
        new = Account(
            id=0,
            app=app,
            phone="",
            nickname=identity.nickname,
            avatar=identity.avatar,
        )
        subject = identity.subjects[0]
        return self._rows.add_linked(new, name, subject, self._accounts.recorder(app))

    def _link_too(self, account: Account, name: str, subject: str) -> None:
        """Link an account that was found by a similar provider with this
        provider, too.

        The account may have another identity there. Then nothing is changed.
        """
        with suppress(Taken):
            self.link_store.add(account.app, account.id, name, subject, now=int(time()))

    def _log_in_linked(self, row: _Running, identity: Identity) -> FullSession | None:
        """Log in to the account that is linked with an identity.

        The link may be with another provider that names the same users. Then
        the account is linked with this provider, too. Returns None if no
        account is linked. Raises AccountLocked, UserBanned and WrongLogin.
        """
        app = row.app
        name = row.provider
        linked = self._accounts.log_in_linked(
            app, self._providers_like(app, name), identity.subjects, row.device
        )
        if linked is None:
            return None
        session, linked_name = linked
        if linked_name != name:
            self._link_too(session.account, name, identity.subjects[0])
        return session

    def _account_to_link(self, row: _Running) -> Account:
        """The account that has started a login.

        Raises LoginRefused if the account was deleted meanwhile, or has ended
        its sessions.
        """
        account = self._accounts.get(row.app, str(row.account))
        if account is None or account.version != row.version:
            raise LoginRefused
        return account

    def _link(self, row: _Running, identity: Identity) -> None:
        """Link the account that has started a login with an identity.

        Raises LoginRefused and ServiceRefused (link taken).
        """
        account = self._account_to_link(row)
        linked = self._linked(row.app, row.provider, identity.subjects)
        if linked is not None and linked[0].id != account.id:
            raise ServiceRefused(problem=HTTP_LINK_TAKEN)
        subject = identity.subjects[0]
        try:
            self.link_store.add(
                row.app, account.id, row.provider, subject, now=int(time())
            )
        except Taken:
            raise ServiceRefused(problem=HTTP_LINK_TAKEN) from None

    def links(self, app: str, user: str) -> list[AccountLink]:
        """The links of an account. Raises UnknownAccount."""
        return self.link_store.of(self._accounts.known(app, user).id)

    def unlink(self, app: str, user: str, name: str) -> None:
        """Delete a link of an account.

        Raises UnknownAccount, UnknownProvider, and ServiceRefused for the last
        way to log in.
        """
        account = self._accounts.known(app, user)
        with_password = self._accounts.rules_of(app).passwords
        result = self.link_store.remove(account.id, name, with_password)
        if result == "absent":
            raise UnknownProvider(name)
        if result == "last":
            raise ServiceRefused(problem=HTTP_LAST_LOGIN)


def _check_return_path(return_to: str) -> None:
    """Raise BadField unless this is ``""`` or a path of our own pages."""
    if return_to and not _OWN_PATH.fullmatch(return_to):
        raise BadField("return_to: expected a path of this server, without a fragment")


def _check_provider(row: _Running, app: str, name: str) -> None:
    """Raise ProviderRefused if a login was begun with another provider."""
    if (row.app, row.provider) != (app, name):
        raise ProviderRefused("the browser came back to another provider")


def _check_issuer(settings: ProviderSettings, issuer: str) -> None:
    """Raise ProviderRefused if another provider has sent a browser back."""
    if issuer and settings.kind == "oidc" and issuer != settings.issuer:
        raise ProviderRefused(f"the answer is from another issuer, {issuer!r}")


def _proved_identity(row: _Running, code: str) -> Identity | None:
    """The identity that a login has found.

    None means that the login has failed, or that ``code`` is not the code that
    the page got in the browser.
    """
    is_right = not row.code or hmac.compare_digest(row.code, secret_hash(code))
    if row.step == "failed" or not is_right:
        return None
    return row.found


def _new_login(
    app: str, provider: str, device: str, return_to: str, account: Account | None
) -> _Running:
    """A login with a provider that begins now, with its secrets.

    ``account`` is the account to link; None means that it is a login.
    """
    account_id = 0
    version = 0
    if account is not None:
        account_id = account.id
        version = account.version
    return _Running(
        app=app,
        provider=provider,
        account=account_id,
        version=version,
        device=device,
        return_to=return_to,
        shown=_short_code(),
        state=token_urlsafe(_SECRET_BYTES),
        nonce=token_urlsafe(_SECRET_BYTES),
        verifier=token_urlsafe(_VERIFIER_BYTES),
        expires_at=int(time()) + LOGIN_SECONDS,
    )


def _short_code() -> str:
    """A code that the user compares. Without vowels no code is a word."""
    letters = "".join(choice(_LETTERS) for _ in range(2 * _HALF_CODE))
    return f"{letters[:_HALF_CODE]}-{letters[_HALF_CODE:]}"
