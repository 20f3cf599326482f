"""A node with the messenger alone."""

from collections.abc import Sequence
from pathlib import Path

from imserver.gateway.auth.questions import AccountLookup, AccountSession, Holder
from imserver.messenger.groups.groups import Groups
from tests.messenger.accounts import add_account
from tests.security.node_harness import Harness, config
from tests.users import User


class Accounts(AccountLookup):
    """All users have accounts. A token is ``eyJ.<app>.<user>``."""

    def holder(self, token: str | bytes) -> AccountSession:
        _, app, user = str(token).split(".")
        return AccountSession(*self.those_of(app, [user]), str(token), 0)

    def proof_of(self, token: str) -> str:
        return token

    def still_holds(self, app: str, user: str, proof: str) -> bool:
        return user in proof

    def those_of(
        self, app: str, users: Sequence[str], words: Sequence[str] = ()
    ) -> Sequence[Holder]:
        return [Holder(id=int(user), app=app) for user in users]


class Messenger(Harness):
    """A node with the messenger alone, for users with accounts."""

    def __init__(self, folder: Path, *features: str) -> None:
        super().__init__(
            config(folder, features=("messages", "groups", "ask", *features))
        )
        core = self.node.core
        core.authority.accounts = core.service(Groups).accounts = Accounts()

    def person(self) -> User:
        user = add_account(self.node.core.store, "201")
        return User(self, f"eyJ.201.{user}", user, "201")
