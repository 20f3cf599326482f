"""Login to an account, with a password or a provider
(docs/guides/log-in-with.md), and its second factor."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Self

import msgspec
from msgspec import Struct

from imserver_client.api import TIMEOUT_SECONDS, Api
from imserver_client.errors import NotConnected, RequestRefused

_OAUTH: Final = "accounts/oauth/"


class LoginProvider(Struct, frozen=True):
    """A login provider of an app. ``register``: whether the first login makes
    an account."""

    provider: str
    kind: str
    title: str
    register: bool


class StartedLogin(Struct, frozen=True):
    """A login that has begun: open ``url`` in a browser, and show the code
    ``shown`` to the user.

    ``login`` is its secret handle. ``interval``: seconds between two requests
    to finish it. ``expires``: seconds after which the server forgets it.
    """

    url: str
    login: str
    shown: str
    interval: float
    expires: float


class AccountLogin(Struct, frozen=True):
    """A session of an account. ``token`` is valid until ``expires_at`` (Unix
    seconds)."""

    token: str
    expires_at: int
    user: str
    nickname: str


class ProviderLink(Struct, frozen=True):
    """A provider with which the user logs in to an account, since Unix second
    ``since``."""

    provider: str
    title: str
    since: int


def _session(answer: Any) -> AccountLogin:
    """The session in the answer to a login."""
    account = answer["account"]
    return AccountLogin(
        answer["token"], answer["expires_at"], account["user"], account["nickname"]
    )


def ask_user(started: StartedLogin) -> None:
    """Print the address that the user must open, and the code to compare."""
    print(f"Open {started.url} and check that the page shows {started.shown}")


class Accounts:
    """Logins to accounts of an ``app`` at ``url``. ``token``: of the account,
    needed for its links and its second factor.

    :meth:`oauth_login` and :meth:`oauth_link` call ``show`` with the login, and
    wait until the user has agreed. All methods may raise
    :class:`RequestRefused` and :class:`NotConnected`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        app: str = "gochat",
        token: str = "",
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._app = app
        self._api = Api(url, token, timeout_seconds=timeout_seconds)

    def close(self) -> None:
        """End the connections."""
        self._api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- passwords and second factors -----------------------------------------

    def log_in(
        self, login: str, password: str, *, code: str = "", device: str = ""
    ) -> AccountLogin:
        """Log in with an identifier of an account and its password.

        ``code``: of the second factor. If the account has a second factor and
        ``code`` is missing, the server refuses with ``second_factor_required``.
        """
        body = {"login": login, "password": password, "device": device}
        if code:
            body["code"] = code
        return _session(self._account("login", body))

    def begin_factor(self, password: str) -> tuple[str, str]:
        """Begin to turn on the second factor of the account of the token.

        Returns the secret for an authenticator app, and an address for such
        apps that has the secret, too.
        """
        answer = self._account("factor/begin", {"password": password})
        return answer["secret"], answer["address"]

    def confirm_factor(self, code: str) -> tuple[str, ...]:
        """Turn on the second factor, with a code of the authenticator app.
        Returns recovery codes; each works once in place of a code."""
        return tuple(self._account("factor/confirm", {"code": code})["codes"])

    def renew_codes(self, code: str) -> tuple[str, ...]:
        """Replace all recovery codes; returns the new ones."""
        return tuple(self._account("factor/codes", {"code": code})["codes"])

    def remove_factor(self, password: str, code: str) -> None:
        """Turn off the second factor of the account of the token."""
        self._account("factor/remove", {"password": password, "code": code})

    # --- providers ------------------------------------------------------------

    def oauth_providers(self) -> tuple[LoginProvider, ...]:
        """The providers of the app."""
        answer = self._api.call("GET", f"{_OAUTH}providers", query={"app": self._app})
        return msgspec.convert(answer["providers"], tuple[LoginProvider, ...])

    def oauth_start(
        self, provider: str, *, device: str = "", link: bool = False, password: str = ""
    ) -> StartedLogin:
        """Start a login with a provider. With ``link``, start to link the
        account of the token; this needs the password of the account if it has
        one."""
        body = {
            "provider": provider,
            "device": device,
            "link": link,
            "password": password,
        }
        return msgspec.convert(self._post("start", body), StartedLogin)

    def oauth_finish(
        self, started: StartedLogin, factor: str = ""
    ) -> AccountLogin | str | None:
        """The session of a login, or the name of the provider that was linked.
        None if the user has not agreed yet.

        ``factor``: a code of the second factor. If an account needs it and it
        is missing, the server refuses with ``second_factor_required``; then
        finish the login again with a code.
        """
        body = {"login": started.login}
        if factor:
            body["factor"] = factor
        answer = self._post("finish", body)
        if answer.get("pending"):
            return None
        if "linked" in answer:
            return str(answer["linked"])
        return _session(answer)

    def oauth_login(
        self,
        provider: str,
        *,
        device: str = "",
        show: Callable[[StartedLogin], object] = ask_user,
    ) -> AccountLogin:
        """Log in; returns when the user has agreed."""
        result = self._wait(self.oauth_start(provider, device=device), show)
        assert isinstance(result, AccountLogin)
        return result

    def oauth_link(
        self,
        provider: str,
        show: Callable[[StartedLogin], object] = ask_user,
        *,
        password: str = "",
    ) -> None:
        """Link the account of the token with a provider; returns when the user
        has agreed. ``password``: of the account, if it has one."""
        self._wait(self.oauth_start(provider, link=True, password=password), show)

    def _wait(
        self, started: StartedLogin, show: Callable[[StartedLogin], object]
    ) -> AccountLogin | str:
        """Show a login to the user, and wait until it is finished.

        Returns the result of :meth:`oauth_finish`.
        """
        show(started)
        while True:
            time.sleep(started.interval)
            try:
                result = self.oauth_finish(started)
            except NotConnected:
                # When the login has expired, the server refuses it, so this
                # loop ends.
                continue
            except RequestRefused as error:
                if not error.temporary:
                    raise
                continue
            if result is not None:
                return result

    def links(self) -> tuple[ProviderLink, ...]:
        """The providers with which the user logs in to the account of the
        token."""
        answer = self._api.call("GET", f"{_OAUTH}links", query={"app": self._app})
        return msgspec.convert(answer["links"], tuple[ProviderLink, ...])

    def unlink(self, provider: str) -> None:
        """Remove the link of the account of the token with a provider."""
        self._post("unlink", {"provider": provider})

    # --- forgotten passwords --------------------------------------------------

    def request_reset(self, login: str) -> None:
        """Request a mail to the account with this identifier. Nobody learns
        whether the account exists."""
        self._api.call("POST", "accounts/reset", {"app": self._app, "login": login})

    def finish_reset(self, code: str, password: str) -> None:
        """Set a new password, with the code from the mail. All sessions of the
        account end."""
        body = {"app": self._app, "code": code, "password": password}
        self._api.call("POST", "accounts/reset/finish", body)

    def _account(self, route: str, body: dict[str, Any]) -> Any:
        """Call a route of accounts for this app."""
        return self._api.call("POST", f"accounts/{route}", {"app": self._app, **body})

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        """Call a route of logins with providers for this app."""
        return self._api.call("POST", _OAUTH + route, {"app": self._app, **body})
