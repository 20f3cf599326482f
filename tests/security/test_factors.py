"""The second factor of accounts: what asks for it, that a code is used once,
and that nobody guesses it."""

from time import time
from typing import Any

import pyotp
from msgspec.structs import replace

from imserver.people.accounts.declared import AccountsOfApp, AppAccountSettings
from imserver.people.accounts.factors import FactorStore
from tests.users import PASSWORD, User

from .node_harness import ADMIN, ALL, APPS, RULED, Harness

STAFF = AccountsOfApp(AppAccountSettings(factor_for=("owner", "moderator")))
NODE = {
    "apps": {**APPS, "guarded": replace(RULED, api_allow_from=(), of_features=(STAFF,))}
}
"""Roles of the app ``guarded`` take a second factor."""


class Person:
    """An account with a password, and its authenticator app."""

    number = 0

    def __init__(self, node: Harness, app: str = "201") -> None:
        Person.number += 1
        self.node = node
        self.app = app
        self.name = f"person{Person.number}"
        self.user = User.register(node, app, name=self.name)
        self.secret = ""
        self.used = 0

    def turn_on(self) -> list[str]:
        """Turn on the second factor; the recovery codes."""
        self.secret = self.user.post("accounts/factor/begin", password=PASSWORD)[
            "secret"
        ]
        codes: list[str] = self.user.post("accounts/factor/confirm", code=self.code(0))[
            "codes"
        ]
        return codes

    def code(self, drift: int = 1) -> str:
        """The code of the next half minute, or of another one. It is accepted
        even if the present half minute ends meanwhile."""
        return pyotp.TOTP(self.secret).generate_otp(int(time()) // 30 + drift)

    def log_in(
        self, code: str = "", password: str = PASSWORD, earlier: str = ""
    ) -> tuple[int, Any]:
        fields = {"login": self.name, "password": password}
        status, document = User(self.node, earlier, app=self.app).ask(
            "POST", "accounts/login", {**fields, "code": code} if code else fields
        )
        return status, document.get("code", "in")


def test_a_login_takes_a_code_after_the_right_password_only(node: Harness) -> None:
    ann = Person(node)
    assert ann.log_in() == (200, "in")
    ann.turn_on()
    assert ann.log_in() == (401, "second_factor_required")
    assert ann.log_in(password="wrong horse") == (401, "wrong_login")
    assert ann.log_in(ann.code(), "wrong horse") == (401, "wrong_login")
    assert ann.log_in("000000") == (401, "wrong_code")
    assert ann.log_in(ann.code()) == (200, "in")
    shown = ann.user.get("accounts/show")
    assert (shown["second_factor"], shown["role"]) == (True, "member")


def test_codes_and_recovery_codes_are_used_once(node: Harness) -> None:
    ann = Person(node)
    ann.turn_on()
    before = ann.code(0)
    later = ann.code(1)
    assert ann.log_in(later) == (200, "in")
    assert ann.log_in(later) == (401, "wrong_code")
    for earlier in (before, ann.code(-3), ann.code(4)):
        assert ann.log_in(earlier) == (401, "wrong_code")
    ann = Person(node)
    codes = ann.turn_on()
    assert len(set(codes)) == 10
    assert ann.log_in(codes[0].upper()) == (200, "in")
    assert ann.log_in(codes[0]) == (401, "wrong_code")
    assert ann.log_in(codes[1].replace("-", "")) == (200, "in")
    renewed = ann.user.post("accounts/factor/codes", code=ann.code())["codes"]
    assert ann.log_in(codes[2]) == (401, "wrong_code")
    assert ann.log_in(renewed[2]) == (200, "in")


def test_a_stolen_token_turns_nothing_on_or_off_and_a_back_end_does(
    node: Harness,
) -> None:
    ann, user = (one := Person(node)), one.user
    assert user.refused("accounts/factor/begin") == (401, "wrong_login")
    assert user.refused("accounts/factor/confirm", code="000000") == (
        409,
        "second_factor_off",
    )
    ann.turn_on()
    assert user.refused("accounts/factor/begin", password=PASSWORD) == (
        409,
        "second_factor_on",
    )
    assert user.refused("accounts/factor/remove", code=ann.code()) == (
        401,
        "wrong_login",
    )
    assert user.refused("accounts/factor/remove", password=PASSWORD) == (
        401,
        "second_factor_required",
    )
    assert user.refused("accounts/factor/codes", code="000000") == (401, "wrong_code")
    assert user.post("accounts/factor/remove", password=PASSWORD, code=ann.code())
    assert ann.log_in() == (200, "in")
    ann = Person(node)
    ann.turn_on()
    keyed = User(node, ADMIN.key, app="201")
    assert keyed.post("accounts/factor/remove", user=ann.user.user)
    assert keyed.refused("accounts/factor/remove", user=ann.user.user) == (
        409,
        "second_factor_off",
    )
    assert ann.log_in() == (200, "in")


def test_codes_are_not_guessed_and_a_known_device_is_not_locked_out(
    node: Harness,
) -> None:
    ann = Person(node)
    codes = ann.turn_on()
    answers = [ann.log_in("000000")[1] for _ in range(21)]
    assert answers == ["wrong_code"] * 20 + ["too_many_requests"]
    assert ann.log_in(ann.code()) == (429, "too_many_requests")
    assert ann.log_in(codes[0], earlier=ann.user.token) == (200, "in")


def test_an_account_with_a_factor_is_not_deleted_by_its_password_alone_and_leaves_no_secret(
    node: Harness,
) -> None:
    ann = Person(node)
    ann.turn_on()
    gone = ann.user
    alone = {"password": PASSWORD}
    assert gone.refused("accounts/delete", **alone) == (401, "second_factor_required")
    assert gone.refused("accounts/delete", **alone, code="000000") == (
        401,
        "wrong_code",
    )
    assert gone.refused("accounts/delete", code=ann.code()) == (401, "wrong_login")
    for proof in (alone, {**alone, "code": "000000"}, {"code": ann.code()}):
        assert gone.refused("users/erase/self", **proof) == (403, "not_allowed")
    assert gone.post("users/erase/self", **alone, code=ann.code()) == {"erased": True}
    ann = Person(node)
    ann.turn_on()
    ann.user.post("accounts/delete", password=PASSWORD, code=ann.code())
    rows = FactorStore(node.node.core.store)
    assert rows.secret(int(ann.user.user)) == ""
    assert not rows.replace_codes(int(ann.user.user), [])


def test_roles_take_a_second_factor_where_the_app_says_so(node: Harness) -> None:
    ann = Person(node, "guarded")
    User(node, ALL.key, app="guarded").post(
        "accounts/role", user=ann.user.user, role="moderator"
    )
    status, document = ann.user.ask("GET", "accounts/list", {})
    assert (status, document["code"]) == (403, "not_allowed")
    assert (
        document["message"]
        == "The role of the account takes a second factor: set one up first"
    )
    ann.turn_on()
    assert ann.user.get("accounts/list")["accounts"]
