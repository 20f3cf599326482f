"""Logins over real connections, with apps that a test makes up."""

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import jwt
from msgspec.structs import asdict

from imserver.gateway.auth.issuers import Issuers
from imserver.gateway.auth.login import Logins
from imserver.gateway.auth.login_tokens import LoginTokens
from imserver.gateway.auth.observer import Observer
from imserver.gateway.auth.questions import AccountLookup, BackEnds
from imserver.gateway.auth.tenants import Tenant
from imserver.gateway.config.settings import (
    JwtSettings,
    TenantSettings,
    WebhookSettings,
)
from imserver.gateway.metrics import Metrics
from imserver.gateway.process import Secret
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.gate import GatePolicy, Origins
from imserver.gateway.transport.proxies import TrustedProxies
from tests.gateway.core.back_end import BackEnd
from tests.gateway.transport.harness import SocketHarness

SECRET = "a secret that is long enough to be one"
JWT = (JwtSettings("HS256", SECRET),)
HOOK = WebhookSettings("http://back.end/events", "hook secret")
ASK = WebhookSettings(secret="hook secret", authorise_url="http://back.end/authorise")


def token_for(
    user: str, app: str = "101", seconds: float = 86_400, key: str = SECRET, **more: Any
) -> str:
    """A session token that the app's back end has signed."""
    return jwt.encode(
        {"sub": user, "app": app, "exp": time.time() + seconds, **more}, key, "HS256"
    )


class Apps:
    """The apps that exist."""

    def __init__(self, **settings: TenantSettings) -> None:
        self.tenants: dict[str, Tenant] = {}
        self.aliases: dict[str, str] = {}
        self.report_to = Mock()
        for name, one in settings.items():
            self.put(name, one)

    def put(self, name: str, settings: TenantSettings) -> Tenant:
        tenant = Tenant(name=name, **asdict(settings))
        self.tenants[name] = tenant
        if settings.same_as:
            self.aliases[name] = settings.same_as
        return tenant

    def get(self, name: str) -> Tenant | None:
        return self.tenants.get(name)

    def all(self) -> list[Tenant]:
        return list(self.tenants.values())

    def resolve(self, name: str) -> str:
        return self.aliases.get(name, name)


class LoginHarness(SocketHarness):
    """Logins of one node. Page tokens are ``page.<app>.<user>``."""

    def __init__(
        self, apps: dict[str, TenantSettings], any_origin: bool = False
    ) -> None:
        super().__init__()
        self.apps = Apps(**apps)
        self.back_end = BackEnd()
        self.metrics = Metrics()
        self.demo = True
        self.accounts: Any = AccountLookup()
        self.origins = Origins(
            TrustedProxies(()),
            GatePolicy(any_origin=any_origin, origins=("friend.example",)),
        )
        self.logins = Logins(
            self.apps,  # type: ignore[arg-type]
            self,
            LoginTokens(
                self.apps.resolve,
                SimpleNamespace(fits=self.may_login),  # type: ignore[arg-type]
                self.accounts,
                Issuers(self.back_end),  # type: ignore[arg-type]
                Secret(b"server"),
            ),
            *self.listen(),
            self.context.connections,
            self.metrics,
            self.origins,
        )
        self.logins.prepare()

    def listen(self) -> tuple[BackEnds, Observer]:
        """Make what asks back ends, and what hears of logins."""
        return BackEnds(), Observer()

    @staticmethod
    def may_login(app: str, user: str, token: str) -> bool:
        return not token.startswith("page.") or token == f"page.{app}.{user}"

    def on_ended(self, connection: Connection, code: int) -> None:
        super().on_ended(connection, code)
        self.logins.ended(connection, code)

    def change(self, name: str, settings: TenantSettings) -> None:
        """Change an app as somebody does at run time."""
        self.logins.changed(self.apps.put(name, settings))

    def login_request(self, origin: str = "") -> Connection:
        """A connection that wants to log in."""
        connection = self.connect()[0]
        connection.origin = origin
        return connection

    def begin(
        self,
        connection: Connection,
        user: str,
        app: str = "101",
        token: str = "",
        device: str = "",
    ) -> Any:
        """Check, and if it may, log in; the verdict."""
        decision = self.logins.check(app, user, token, "cmd", connection, device)
        if decision.ok:
            connection.app = app
            connection.user = user
            connection.device = device
            self.logins.began(connection, decision)
        return decision
