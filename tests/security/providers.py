"""Login providers on loopback that behave as the documents of OpenID Connect,
GitHub and WeChat say."""

import base64
import hashlib
import json
import time
from secrets import token_urlsafe
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.receiver import Answer, Post, Receiver

CLIENT = "client of the tests"
SECRET = "secret: of the tests & more"
ANN = {"sub": "ann-1", "name": "Ann Lee", "picture": "https://img.example.com/ann.png"}
GITHUB_USER = {
    "id": 583231,
    "login": "octocat",
    "name": None,
    "avatar_url": "https://img.example.com/cat.png",
}
WECHAT_USER = {
    "nickname": "安",
    "sex": 0,
    "headimgurl": "https://img.example.com/an/0",
    "privilege": [],
}


class StandIn(Receiver):
    """All three providers. A test changes what they answer.

    ``claims``: of ID tokens, in addition to the usual ones. ``answers``: path →
    status and document instead of the usual answer. ``calls``: the requests, as
    (path, parameters, headers).
    """

    def __init__(self) -> None:
        super().__init__()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.signing: Any = self._key
        self.claims: dict[str, Any] = {}
        self.user: dict[str, Any] = dict(ANN)
        self.openid = "oAnn"
        self.unionid = ""
        self.answers: dict[str, tuple[int, Any]] = {}
        self.calls: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self._grants: dict[str, dict[str, str]] = {}
        self.issuer = self.url
        self.reply = self._reply
        self.__enter__()

    def stop(self) -> None:
        self.__exit__(None, None, None)

    def _reply(self, post: Post) -> Answer:
        parts = urlsplit(post.path)
        params = {
            name: values[0]
            for name, values in parse_qs(post.body.decode() or parts.query).items()
        }
        status, document = self.answer(parts.path, params, post.headers)
        return (
            status,
            json.dumps(document).encode(),
            {"location": document} if status == 302 else {},
        )

    def reset(self) -> None:
        """Answer as usual again."""
        self.signing, self.claims, self.user, self.unionid = (
            self._key,
            {},
            dict(ANN),
            "",
        )
        self.openid = "oAnn"
        self.answers = {}
        self.calls = []

    # --- the browser ----------------------------------------------------------

    def agree(self, url: str) -> dict[str, str]:
        """The user agrees at this address; the query with which the browser
        comes back."""
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert query["response_type"] == "code"
        if parts.path.startswith("/connect/"):
            assert list(query) == [
                "appid",
                "redirect_uri",
                "response_type",
                "scope",
                "state",
            ]
            assert parts.fragment == "wechat_redirect"
            official = parts.path == "/connect/oauth2/authorize"
            assert query["scope"] == ("snsapi_userinfo" if official else "snsapi_login")
        else:
            assert query["client_id"] == CLIENT
            assert query["code_challenge_method"] == "S256"
        return self._grant(query)

    def _grant(self, query: dict[str, str]) -> dict[str, str]:
        code = token_urlsafe(16)
        self._grants[code] = query
        return {"code": code, "state": query["state"]}

    # --- the provider ---------------------------------------------------------

    def answer(
        self, path: str, params: dict[str, str], headers: dict[str, str]
    ) -> tuple[int, Any]:
        """Status and document of the answer to a request."""
        self.calls.append((path, params, headers))
        if path in self.answers:
            return self.answers[path]
        if path == "/.well-known/openid-configuration":
            ends = ("authorization", "token", "userinfo")
            endpoints = {f"{end}_endpoint": f"{self.issuer}/{end}" for end in ends}
            return 200, {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/jwks",
                **endpoints,
            }
        if path == "/authorization":  # everybody agrees
            return 302, f"{params['redirect_uri']}?{urlencode(self._grant(params))}"
        if path == "/jwks":
            jwk = jwt.algorithms.ECAlgorithm.to_jwk(
                self._key.public_key(), as_dict=True
            )
            return 200, {"keys": [{**jwk, "kid": "k", "use": "sig", "alg": "ES256"}]}
        if path == "/userinfo":
            assert headers["authorization"] == "Bearer access"
            return 200, self.user
        if path == "/api/v3/user":
            assert headers["authorization"] == "Bearer access"
            return 200, GITHUB_USER
        if path == "/sns/userinfo":
            assert (params["access_token"], params["openid"]) == ("access", self.openid)
            return 200, {**WECHAT_USER, **self._ids()}
        grant = self._grants.pop(params.get("code", ""), None)
        if path == "/sns/oauth2/access_token":
            assert params["grant_type"] == "authorization_code"
            if grant is None or (params["appid"], params["secret"]) != (CLIENT, SECRET):
                return 200, {"errcode": 40029, "errmsg": "invalid code"}
            return 200, {
                "access_token": "access",
                "expires_in": 7200,
                "scope": grant["scope"],
                **self._ids(),
            }
        return self._token(path, params, headers, grant)

    def _ids(self) -> dict[str, str]:
        return {
            "openid": self.openid,
            **({"unionid": self.unionid} if self.unionid else {}),
        }

    def _token(
        self,
        path: str,
        params: dict[str, str],
        headers: dict[str, str],
        grant: dict[str, str] | None,
    ) -> tuple[int, Any]:
        """The token endpoints of OpenID Connect and GitHub."""
        verifier = params.get("code_verifier", "").encode()
        challenge = (
            base64.urlsafe_b64encode(hashlib.sha256(verifier).digest())
            .rstrip(b"=")
            .decode()
        )
        if (
            grant is None
            or grant["code_challenge"] != challenge
            or grant["redirect_uri"] != params["redirect_uri"]
            or params["grant_type"] != "authorization_code"
        ):
            # GitHub answers with 200, others with 400.
            return (200 if path.startswith("/login") else 400), {
                "error": "invalid_grant"
            }
        token = {"access_token": "access", "token_type": "bearer", "scope": ""}
        if path == "/login/oauth/access_token":
            assert (params["client_id"], params["client_secret"]) == (CLIENT, SECRET)
            assert headers["accept"] == "application/json"
            return 200, token
        assert path == "/token"
        kind, _, proof = headers["authorization"].partition(" ")
        assert (kind, base64.b64decode(proof).decode()) == (
            "Basic",
            f"{CLIENT}:{SECRET}",
        )
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": self.user["sub"],
            "nonce": grant["nonce"],
        }
        claims |= {"iat": now, "exp": now + 600, **self.claims}
        claims = {name: value for name, value in claims.items() if value is not None}
        id_token = jwt.encode(claims, self.signing, "ES256", {"kid": "k"})
        return 200, {**token, "id_token": id_token}
