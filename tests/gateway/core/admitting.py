"""Decides on logins by their token alone, where a test is about something else."""

from collections.abc import Callable

from imserver.gateway.auth.rules import ALLOWED, BAD_TOKEN, LoginDecision, LoginRequest
from imserver.gateway.config.settings import TenantSettings
from imserver.gateway.errors import LoginRefusal
from imserver.gateway.metrics import Metrics
from imserver.gateway.transport.connection import Connection


class Admitting:
    """Lets in whom ``may_login(app, user, token)`` lets in. ``began`` remembers who has."""

    def __init__(self, may_login: Callable[[str, str, str], bool], metrics: Metrics | None = None) -> None:
        self._may_login = may_login
        self._metrics = metrics or Metrics()
        self.reasons: list[str] = []
        self.account_apps: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.began_with: list[tuple[Connection, LoginDecision]] = []

    def takes_user(self, app: str, user: str) -> bool:
        return len(user.encode()) <= TenantSettings().user_bytes_of(app)

    def check(
        self, app: str, user: str, token: str, dialect: str, connection: LoginRequest, device: str = ""
    ) -> LoginDecision:
        return ALLOWED if self._may_login(app, user, token) else BAD_TOKEN

    def refused(
        self, reason: LoginRefusal, app: str, user: str, peer: str, detail: str = "", until: float = 0
    ) -> None:
        self.reasons.append(reason)
        self._metrics.login_refused(reason, app)

    def began(self, connection: Connection, decision: LoginDecision) -> None:
        self.began_with.append((connection, decision))

    def holds_token(self, connection: Connection) -> bool:
        return False
