"""Providers that users log in with: OpenID Connect, GitHub, WeChat (website and
official account).

A provider proves an identity in three steps. The browser goes to
:meth:`Provider.address`. It comes back with a code. :meth:`Provider.identify`
exchanges the code for an identity. Authlib makes the authorization request,
with PKCE, exchanges the code and checks the claims of ID tokens. WeChat has
parameters of its own. Each step waits for the provider at most :data:`SECONDS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from time import monotonic, time
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import gevent
import msgspec
from msgspec import Struct

from imserver.people.accounts.contract import AVATAR_CHARACTERS, NICKNAME_CHARACTERS
from imserver.people.oauth.declared import ProviderSettings
from imserver.plugin.errors import (
    HttpProblem,
    ImserverError,
    ServiceRefused,
    Unavailable,
)
from imserver.plugin.identity import BadToken, Issuer
from imserver.plugin.messages import clean_name
from imserver.plugin.runtime import Outgoing, Service, Unreachable

SECONDS: Final = 10.0
"""Time limit for all requests to a provider during one step."""
_RETRY_SECONDS: Final = 5.0


class ProviderUnavailable(
    ServiceRefused,
    problem=HttpProblem(
        503,
        "provider_unavailable",
        "The login provider does not answer.",
        temporary=True,
    ),
):
    """The provider does not answer in time, or its answer is invalid.

    Temporary.
    """


class ProviderRefused(ImserverError):
    """The provider, or the check of its answer, refuses this login.

    The text is for the log.
    """


_SUBJECT_BYTES: Final = 255
"""Limit of an id of a user at a provider."""
_ADDRESS: Final = re.compile(r"https?://[!-~]+")
_LEAST_SECONDS: Final = 0.001
"""The shortest timeout. A request without time left must fail at once; a
timeout of 0 would mean no limit."""
_FETCH_SECONDS: Final = 3600.0
"""The age at which a discovery document is read again."""
_CLOCKS_SECONDS: Final = 60
"""The greatest accepted difference to the clock of a provider."""


class Identity(Struct, frozen=True):
    """The identity of a user at a provider.

    ``subjects`` are their ids there, the preferred one first. ``nickname`` and
    ``avatar`` are valid for an account.
    """

    subjects: tuple[str, ...]
    nickname: str = ""
    avatar: str = ""


class AuthorizationRequest(Struct, frozen=True):
    """The data that the steps of one login share.

    ``callback`` is the address to which the browser comes back. ``state``
    identifies the login there. ``nonce`` comes back in the ID token, and
    ``verifier`` goes with the code (RFC 7636), so that nobody can use a stolen
    code.
    """

    callback: str
    state: str
    nonce: str
    verifier: str


HasAccount = Callable[[tuple[str, ...]], bool]
"""A function that returns whether one of these subjects has an account. If so,
nickname and avatar need not be read."""


class Provider(Protocol):
    """A kind of provider, with the settings of one app.

    The methods switch greenlets and raise ProviderUnavailable.
    """

    def address(self, request: AuthorizationRequest) -> str:
        """The address at which the browser asks the user."""

    def identify(
        self, request: AuthorizationRequest, code: str, has_account: HasAccount
    ) -> Identity:
        """Exchange the code with which the browser has come back for an
        identity.

        ``has_account`` tells whether the identity has an account already.
        Raises ProviderRefused.
        """


def identity(
    subjects: tuple[object, ...], nickname: object, avatar: object
) -> Identity:
    """An identity from the values that a provider has sent, which may be of any
    type.

    Subjects that are no ids are left out. Raises ProviderRefused if no subject
    remains, or if an id cannot be stored.
    """
    ids = []
    for subject in subjects:
        if isinstance(subject, str | int) and str(subject):
            ids.append(str(subject))
    if not ids or not all(map(_is_storable, ids)):
        raise ProviderRefused("it sent no id of the user")
    shown = ""
    if isinstance(nickname, str):
        # Cleaned again after the cut, which may be in the middle of a
        # character.
        shown = clean_name(clean_name(nickname).strip()[:NICKNAME_CHARACTERS])
    return Identity(tuple(ids), shown, _picture(avatar))


def _picture(avatar: object) -> str:
    """The address of a picture that a provider has sent.

    Returns ``""`` if it is no address, or too long.
    """
    if not isinstance(avatar, str) or len(avatar) > AVATAR_CHARACTERS:
        return ""
    if not _ADDRESS.fullmatch(avatar):
        return ""
    return avatar


def _is_storable(subject: str) -> bool:
    """Whether an id of a user fits into the database."""
    return len(subject.encode()) <= _SUBJECT_BYTES and subject.isprintable()


class _Http:
    """The requests of one step, which together take at most :data:`SECONDS`.

    It also serves as the session of Authlib.
    """

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._deadline = monotonic() + SECONDS

    def _seconds_left(self) -> float:
        """How long the next request may take."""
        return max(self._deadline - monotonic(), _LEAST_SECONDS)

    def get(self, url: str, token: str = "") -> dict[str, Any]:
        """Read a JSON object.

        ``token`` is an access token to send; ``""`` sends none. Raises
        ProviderUnavailable, and ProviderRefused for a status below 500 that is
        not 200.
        """
        headers: dict[str, str] = {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        # Texts of errors name the address without the secrets in its query.
        name = _shown(url)
        try:
            status, body = self._outgoing.get(url, self._seconds_left(), headers)
        except Unreachable as error:
            raise ProviderUnavailable(f"{name}: {error}") from None
        if status != HTTPStatus.OK:
            text = f"{name} answered with the status {status}"
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise ProviderUnavailable(text)
            raise ProviderRefused(text)
        return _json_object(body, name)

    def post(
        self, url: str, data: Mapping[str, str], headers: Mapping[str, str], auth: Any
    ) -> _Answer:
        """Send a form. Authlib calls this method to exchange a code.

        ``auth`` adds the secret of the client to the request. Raises
        ProviderUnavailable.
        """
        url, prepared, body = auth.prepare("POST", url, dict(headers), urlencode(data))
        try:
            status, content = self._outgoing.send(
                url, prepared, body.encode(), self._seconds_left()
            )
        except Unreachable as error:
            raise ProviderUnavailable(f"{_shown(url)}: {error}") from None
        return _Answer(url, status, content)


def _json_object(body: bytes, name: str) -> dict[str, Any]:
    """Read the body of an answer of the address ``name``.

    Raises ProviderUnavailable.
    """
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (ValueError, RecursionError):
        raise ProviderUnavailable(f"{name} did not answer with a JSON object") from None


class _Answer(Service):
    """The part of an answer that Authlib reads."""

    _url: str
    status_code: int
    _body: bytes

    def raise_for_status(self) -> None:
        """Raise an error. Authlib calls this for a status of the server's
        errors."""
        raise ProviderUnavailable(
            f"{_shown(self._url)} answered with the status {self.status_code}"
        )

    def json(self) -> Any:
        """The body, decoded. Authlib calls this."""
        return msgspec.json.decode(self._body)


def _shown(url: str) -> str:
    """An address for the log, without its query, which may contain a secret."""
    return url.partition("?")[0]


class _CodeGrant:
    """The authorization code grant (RFC 6749, RFC 7636), by Authlib.

    ``method`` says how the client sends its secret; ``""`` means as Authlib
    does by default.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        http: _Http,
        request: AuthorizationRequest,
        method: str = "",
    ) -> None:
        """Make the client of Authlib for one login."""
        # Imported at the first login: other nodes save the memory.
        from authlib.oauth2.client import OAuth2Client

        self._request = request
        self._client = OAuth2Client(
            http,
            settings.client_id,
            settings.client_secret,
            token_endpoint_auth_method=method or None,
            scope=" ".join(settings.scopes),
            redirect_uri=request.callback,
            code_challenge_method="S256",
        )

    def address(self, endpoint: str, **parameters: str) -> str:
        """The address to which the browser goes.

        ``parameters`` are added to the parameters of the grant.
        """
        request = self._request
        url, _ = self._client.create_authorization_url(
            endpoint, request.state, request.verifier, **parameters
        )
        return str(url)

    def exchange(self, endpoint: str, code: str) -> dict[str, Any]:
        """Exchange a code for tokens.

        The result has at least the text ``access_token``. Raises
        ProviderUnavailable and ProviderRefused.
        """
        from authlib.oauth2 import OAuth2Error

        request = self._request
        try:
            answer = self._client.fetch_token(
                endpoint,
                grant_type="authorization_code",
                code=code,
                redirect_uri=request.callback,
                code_verifier=request.verifier,
            )
        except OAuth2Error as error:
            raise ProviderRefused(f"{_shown(endpoint)}: {error}") from None
        except ValueError as error:
            raise ProviderUnavailable(f"{_shown(endpoint)}: {error}") from None
        if not isinstance(answer.get("access_token"), str):
            raise ProviderRefused(f"{_shown(endpoint)} sent no access token")
        return dict(answer)


class _Endpoints(Struct):
    """The part of a discovery document that is read (OpenID Connect Discovery
    1.0)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class Oidc(Service):
    """An OpenID Connect provider.

    It owns its cached discovery document, which names the addresses of the
    provider, and the keys of the provider.
    """

    settings: ProviderSettings
    outgoing: Outgoing
    _endpoints: _Endpoints | None = None
    """The newest discovery document. None means that none was read yet."""
    _keys: Issuer | None = None
    """The keys of the provider. They are set with :attr:`_endpoints`."""
    _next_fetch: float = float("-inf")
    """When the document may be read again (monotonic)."""

    def address(self, request: AuthorizationRequest) -> str:
        """The address at which the browser asks the user."""
        http = _Http(self.outgoing)
        endpoint = self._discovered(http).authorization_endpoint
        return self._grant(http, request).address(endpoint, nonce=request.nonce)

    def identify(
        self, request: AuthorizationRequest, code: str, has_account: HasAccount
    ) -> Identity:
        """Exchange the code for an ID token, and read the identity in it.

        The name and the picture may be missing there. They are read from the
        provider only if an account is to be made.
        """
        http = _Http(self.outgoing)
        endpoints = self._discovered(http)
        tokens = self._grant(http, request).exchange(endpoints.token_endpoint, code)
        access = tokens["access_token"]
        claims = self._verified(tokens.get("id_token"), access, request.nonce)
        subject = claims["sub"]
        lacks_profile = endpoints.userinfo_endpoint and "name" not in claims
        if lacks_profile and not has_account((subject,)):
            profile = _userinfo(http, endpoints, access, subject)
            claims = {**profile, **claims}
        return identity((subject,), _name_in(claims), claims.get("picture"))

    def _grant(self, http: _Http, request: AuthorizationRequest) -> _CodeGrant:
        """The grant of one login. The discovery document must have been read."""
        settings = self.settings
        endpoints = self._endpoints
        assert endpoints is not None
        # The ways to send the secret of the client that the provider accepts.
        methods = endpoints.token_endpoint_auth_methods_supported
        if not settings.client_secret:
            method = "none"
        elif "client_secret_basic" in methods:
            method = "client_secret_basic"
        else:
            method = "client_secret_post"
        scopes = settings.scopes or ("openid", "profile")
        with_scopes = msgspec.structs.replace(settings, scopes=scopes)
        return _CodeGrant(with_scopes, http, request, method)

    def _discovered(self, http: _Http) -> _Endpoints:
        """The discovery document.

        It is about an hour old at most, if the provider answers. Raises
        ProviderUnavailable.
        """
        now = monotonic()
        if self._endpoints is not None:
            # This login uses the existing document, so the login need not wait.
            if now >= self._next_fetch:
                self._next_fetch = now + _RETRY_SECONDS
                gevent.spawn(self._refresh)
            return self._endpoints
        if now < self._next_fetch:
            raise ProviderUnavailable(
                f"issuer {self.settings.issuer}: it did not answer a moment ago"
            )
        try:
            return self._fetch(http)
        except ProviderUnavailable:
            self._next_fetch = monotonic() + _RETRY_SECONDS
            raise

    def _refresh(self) -> None:
        """Greenlet: read the discovery document again."""
        # The earlier document stays in use, and the next login tries again.
        with suppress(ProviderUnavailable):
            self._fetch(_Http(self.outgoing))

    def _fetch(self, http: _Http) -> _Endpoints:
        """Read the discovery document, check it, and store it in this object.

        Raises ProviderUnavailable.
        """
        issuer = self.settings.issuer
        endpoints = _read_discovery(http, issuer)

        # The keys stay cached as long as their address is the same.
        before = self._endpoints
        if before is None or before.jwks_uri != endpoints.jwks_uri:
            self._keys = Issuer(
                issuer, endpoints.jwks_uri, self.outgoing, seconds=SECONDS
            )
        self._endpoints = endpoints
        self._next_fetch = monotonic() + _FETCH_SECONDS
        return endpoints

    def _verified(self, token: object, access: str, nonce: str) -> dict[str, Any]:
        """Verify an ID token, and return its claims.

        ``access`` is the access token that came with it. ``nonce`` is the
        random text of this login, which the provider must have put into the
        token. Raises ProviderRefused and ProviderUnavailable.
        """
        from joserfc.errors import JoseError

        if not isinstance(token, str):
            raise ProviderRefused("it sent no ID token")
        try:
            claims = self._claims_of(token, access, nonce)
        except Unavailable as error:
            raise ProviderUnavailable(str(error)) from None
        except (BadToken, JoseError, ValueError, TypeError) as error:
            raise ProviderRefused(f"its ID token is invalid: {error}") from None
        if not isinstance(claims["sub"], str):
            raise ProviderRefused("its ID token names no user")
        return claims

    def _claims_of(self, token: str, access: str, nonce: str) -> dict[str, Any]:
        """The claims of an ID token, after the checks of OpenID Connect.

        Raises Unavailable if the keys of the provider cannot be read, and
        errors of several libraries if the token is invalid.
        """
        from authlib.oidc.core.claims import CodeIDToken

        assert self._keys is not None
        settings = self.settings
        header, payload = self._keys.read(token)
        options = {
            "iss": {"essential": True, "value": settings.issuer},
            "aud": {"essential": True, "value": settings.client_id},
        }
        params = {"nonce": nonce, "client_id": settings.client_id}
        # The ID token may have a hash of the access token. The standard does
        # not say how to hash for EdDSA, so the check is left out.
        if header.get("alg") != "EdDSA":
            params["access_token"] = access
        claims = CodeIDToken(payload, header, options, params)
        claims.validate(int(time()), _CLOCKS_SECONDS)
        return dict(claims)


def _userinfo(
    http: _Http, endpoints: _Endpoints, access: str, subject: str
) -> dict[str, Any]:
    """The profile of the user with this id, such as ``name`` and ``picture``.

    Raises ProviderUnavailable and ProviderRefused.
    """
    profile = http.get(endpoints.userinfo_endpoint, access)
    if profile.get("sub") != subject:
        raise ProviderRefused("its userinfo is about somebody else")
    return profile


def _read_discovery(http: _Http, issuer: str) -> _Endpoints:
    """Read the discovery document of an issuer, and check it.

    Raises ProviderUnavailable.
    """
    url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    try:
        endpoints = msgspec.convert(http.get(url), _Endpoints)
    except (msgspec.ValidationError, ProviderRefused) as error:
        raise ProviderUnavailable(
            f"{url} is not a discovery document: {error}"
        ) from None
    if endpoints.issuer != issuer:
        raise ProviderUnavailable(
            f"{url} is the document of another issuer, {endpoints.issuer!r}"
        )
    _check_addresses(url, endpoints)
    return endpoints


def _name_in(claims: Mapping[str, Any]) -> str:
    """The name of a user in the claims of an ID token; ``""`` if there is none.

    Providers fill in different claims.
    """
    return (
        claims.get("name")
        or claims.get("nickname")
        or claims.get("preferred_username")
        or ""
    )


def _check_addresses(url: str, endpoints: _Endpoints) -> None:
    """Raise ProviderUnavailable if a discovery document names an address
    without https. ``url`` is the address of the document."""
    for endpoint in (
        endpoints.authorization_endpoint,
        endpoints.token_endpoint,
        endpoints.jwks_uri,
    ):
        if not Issuer.accepts(endpoint):
            raise ProviderUnavailable(
                f"{url} names an address without https, {endpoint!r}"
            )


class GitHub:
    """GitHub, or the GitHub Enterprise Server at ``issuer``."""

    def __init__(self, settings: ProviderSettings, outgoing: Outgoing) -> None:
        """Take the addresses of GitHub, or of the Enterprise Server in the
        settings."""
        self._settings = settings
        self._outgoing = outgoing
        self._web = "https://github.com"
        self._api = "https://api.github.com"
        enterprise_server = settings.issuer.rstrip("/")
        if enterprise_server:
            self._web = enterprise_server
            self._api = f"{enterprise_server}/api/v3"

    def address(self, request: AuthorizationRequest) -> str:
        """The address at which the browser asks the user."""
        grant = _CodeGrant(self._settings, _Http(self._outgoing), request)
        return grant.address(f"{self._web}/login/oauth/authorize")

    def identify(
        self, request: AuthorizationRequest, code: str, has_account: HasAccount
    ) -> Identity:
        """Exchange the code for an access token, and read the profile with it."""
        http = _Http(self._outgoing)
        grant = _CodeGrant(self._settings, http, request, "client_secret_post")
        tokens = grant.exchange(f"{self._web}/login/oauth/access_token", code)
        user = http.get(f"{self._api}/user", tokens["access_token"])
        name = user.get("name") or user.get("login")
        return identity((user.get("id"),), name, user.get("avatar_url"))


class WeChat:
    """WeChat, in a website or in an official account.

    The kind ``wechat`` shows a QR code on a website. The other one is the page
    of an official account inside WeChat. WeChat identifies a user by ``openid``
    in one client, and by ``unionid`` in all clients of an account of its open
    platform.
    """

    def __init__(self, settings: ProviderSettings, outgoing: Outgoing) -> None:
        """Take the addresses of WeChat, or of the server that the settings
        name."""
        self._settings = settings
        self._outgoing = outgoing
        base = settings.issuer.rstrip("/")
        self._web = base or "https://open.weixin.qq.com"
        self._api = base or "https://api.weixin.qq.com"

    def address(self, request: AuthorizationRequest) -> str:
        """The address at which the browser asks the user."""
        path = "qrconnect"
        scope = "snsapi_login"
        if self._settings.kind == "wechat_official":
            path = "oauth2/authorize"
            scope = "snsapi_userinfo"
        # WeChat demands this order.
        query = {
            "appid": self._settings.client_id,
            "redirect_uri": request.callback,
            "response_type": "code",
            "scope": ",".join(self._settings.scopes) or scope,
            "state": request.state,
        }
        return f"{self._web}/connect/{path}?{urlencode(query)}#wechat_redirect"

    def identify(
        self, request: AuthorizationRequest, code: str, has_account: HasAccount
    ) -> Identity:
        """Exchange the code for an access token, and read the ids of the user.

        The name and the picture are read only if an account is to be made.
        """
        http = _Http(self._outgoing)
        token = self._token(http, code)
        openid = token["openid"]
        unionid = token.get("unionid")
        without_profile = identity(_subjects(unionid, openid), nickname="", avatar="")
        # This saves a request at each login after the first.
        if has_account(without_profile.subjects):
            return without_profile

        user = self._user_info(http, token["access_token"], openid)
        subjects = _subjects(user.get("unionid") or unionid, openid)
        return identity(subjects, user.get("nickname"), user.get("headimgurl"))

    def _user_info(self, http: _Http, access: str, openid: str) -> dict[str, Any]:
        """Read the profile of the user with this id.

        Raises ProviderRefused and ProviderUnavailable.
        """
        query = {"access_token": access, "openid": openid, "lang": "zh_CN"}
        url = f"{self._api}/sns/userinfo?{urlencode(query)}"
        user = self._checked(http.get(url))
        if user.get("openid") != openid:
            raise ProviderRefused("its user information is about somebody else")
        return user

    def _token(self, http: _Http, code: str) -> dict[str, Any]:
        """Exchange a code for an access token.

        The result has at least the texts ``openid`` and ``access_token``.
        Raises ProviderUnavailable and ProviderRefused.
        """
        query = {
            "appid": self._settings.client_id,
            "secret": self._settings.client_secret,
            "code": code,
            "grant_type": "authorization_code",
        }
        url = f"{self._api}/sns/oauth2/access_token?{urlencode(query)}"
        token = self._checked(http.get(url))
        needed = (token.get("openid"), token.get("access_token"))
        if not all(isinstance(value, str) for value in needed):
            raise ProviderRefused("it sent no access token")
        return token

    @staticmethod
    def _checked(answer: dict[str, Any]) -> dict[str, Any]:
        """Return an answer of WeChat.

        Raises ProviderRefused if it is an error, because errors of WeChat have
        the status 200, too.
        """
        if answer.get("errcode"):
            raise ProviderRefused(
                f"it answered with the error {answer['errcode']}: "
                f"{answer.get('errmsg')}"
            )
        return answer


def _subjects(unionid: object, openid: str) -> tuple[object, ...]:
    """The ids of a user of WeChat.

    ``unionid`` comes first, because it is the same in all clients. WeChat does
    not send it to all clients.
    """
    return tuple(id for id in (unionid, openid) if id)


KINDS: Final[Mapping[str, Callable[[ProviderSettings, Outgoing], Provider]]] = {
    "oidc": Oidc,
    "github": GitHub,
    "wechat": WeChat,
    "wechat_official": WeChat,
}
"""``kind`` of the settings → the class."""
