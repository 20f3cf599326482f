"""Users of apps, and what they ask of ``/api/v1``: over HTTP, or of a node in
this process."""

from __future__ import annotations

from typing import Any, Self

from tests.integration import v1
from tests.integration.gochat import fresh_phone

PASSWORD = "correct horse"


class User:
    """Somebody with a token: a user with an account, a bot, a back end with its
    key.

    ``server``: a ``Server`` is asked over HTTP, a ``Harness`` of tests/security
    within this process. ``app``: the app that requests name; ``""``: none.
    ``account``: what the server said of a new account.
    """

    def __init__(
        self,
        server: Any,
        token: str,
        user: str = "",
        app: str = "",
        account: Any = None,
    ) -> None:
        self.server = server
        self.token = token
        self.user = user
        self.app = app
        self.account: dict[str, Any] = account or {}

    @classmethod
    def register(
        cls, server: Any, app: str = "", *, key: str = "", **fields: Any
    ) -> Self:
        """A new account. Without an identifier it has a phone number that
        nobody else in this run has."""
        if not any(name in fields for name in ("phone", "email", "name", "login")):
            fields["phone"] = fresh_phone()
        result = cls(server, key, app=app).post(
            "accounts/register", **{"password": PASSWORD, **fields}
        )
        return cls(
            server, result["token"], result["account"]["user"], app, result["account"]
        )

    @property
    def phone(self) -> str:
        number: str = self.account["phone"]
        return number

    # --- requests -------------------------------------------------------------

    def ask(self, method: str, route: str, fields: dict[str, Any]) -> tuple[int, Any]:
        """Status and document of the answer, whose shape is checked."""
        named = {"app": self.app, **fields} if self.app else fields
        if hasattr(self.server, "http"):
            body, query = (None, named) if method == "GET" else (named, {})
            response = v1.checked(
                v1.call(self.server.http, route, body, key=self.token, **query)
            )
            return response.status, response.json
        sent = {"query": named} if method == "GET" else {"document": named}
        status, document = self.server.call(
            method, f"/api/v1/{route}", token=self.token, **sent
        )
        return status, document

    def post(self, route: str, /, **fields: Any) -> Any:
        """The answer to a POST, which must be a success."""
        return self._good("POST", route, fields)

    def get(self, route: str, /, **query: Any) -> Any:
        """The answer to a GET, which must be a success."""
        return self._good("GET", route, query)

    def refused(self, route: str, /, **fields: Any) -> tuple[int, str]:
        """Status and code of the answer to a POST, which must be a problem."""
        return self._problem("POST", route, fields)

    def refused_get(self, route: str, /, **query: Any) -> tuple[int, str]:
        """Status and code of the answer to a GET, which must be a problem."""
        return self._problem("GET", route, query)

    def _good(self, method: str, route: str, fields: dict[str, Any]) -> Any:
        status, document = self.ask(method, route, fields)
        assert status in (200, 201), (status, document)
        return document

    def _problem(
        self, method: str, route: str, fields: dict[str, Any]
    ) -> tuple[int, str]:
        status, problem = self.ask(method, route, fields)
        assert status >= 400, (status, problem)
        return status, problem["code"]

    # --- what many tests do ---------------------------------------------------

    def bot(self, name: str, **fields: Any) -> User:
        """A new bot of this user."""
        result = self.post("bots", name=name, **fields)
        return User(self.server, result["token"], result["id"], self.app)

    def befriend(self, other: User) -> None:
        self.post("friends/request", friend=other.user)
        other.post("friends/accept", friend=self.user)

    def card(self, other: User) -> dict[str, Any]:
        """What this user sees of another."""
        (card,) = self.post("accounts/cards", users=[other.user])["cards"]
        return dict(card)

    def group(self, *members: User) -> str:
        """A new group of this user with these members."""
        result = self.post(
            "groups/create", name="tea", members=[each.user for each in members]
        )
        group: str = result["group"]
        return group

    def roles(self, group: str) -> dict[str, str]:
        """The role of each member of a group."""
        return {
            row["user"]: row["role"]
            for row in self.get("groups/members", group=group)["members"]
        }


class NamedUser(User):
    """A user without an account, for whom the back end asks: in demo mode
    without a key."""

    def __init__(
        self, server: Any, user: str, key: str = "", app: str = "gochat"
    ) -> None:
        super().__init__(server, key, user, app)

    def ask(self, method: str, route: str, fields: dict[str, Any]) -> tuple[int, Any]:
        return super().ask(method, route, {"user": self.user, **fields})
