"""Decides on logins by their token alone, where a test is about something else."""

from collections.abc import Callable

from imserver.services.logins.verdict import ALLOWED, BAD_TOKEN, Comer, Verdict
from imserver.transport.connection import Connection


class Admitting:
    """Lets in whom ``may_login(app, user, token)`` lets in. ``began`` remembers who has."""

    def __init__(self, may_login: Callable[[str, str, str], bool]) -> None:
        self._may_login = may_login
        self.began_with: list[tuple[Connection, Verdict]] = []

    def resolve(self, app: str) -> str:
        return app

    def check(
        self, app: str, user: str, token: str, dialect: str, connection: Comer, device: str = ""
    ) -> Verdict:
        return ALLOWED if self._may_login(app, user, token) else BAD_TOKEN

    def began(self, connection: Connection, verdict: Verdict) -> None:
        self.began_with.append((connection, verdict))

    def holds_token(self, connection: Connection) -> bool:
        return False
