"""Tokens of notifications and mails: what one allows, for how long, and that nobody else makes one."""

from typing import Any

import pytest

from imserver.notifications.tokens import (
    MAX_ASK_SECONDS,
    MAX_TOKEN_SECONDS,
    ActionToken,
    ActionTokens,
    AskToken,
    BadActionToken,
    MailToken,
)
from tests.support import Clock

KEY = b"a key for one purpose"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> ActionTokens:
    return ActionTokens((KEY,), clock)


def test_a_token_has_what_its_notification_is_about(tokens: ActionTokens, clock: Clock) -> None:
    token = tokens.make("shop", "马远", 7, 3, 42)
    expires = int(clock.now) + MAX_TOKEN_SECONDS
    assert tokens.read(ActionToken, token) == ActionToken("act", "shop", "马远", 7, 3, 42, expires)


def test_a_token_ends_in_its_time_but_that_of_a_mail_does_not(tokens: ActionTokens, clock: Clock) -> None:
    mail = tokens.make_mail("shop", "ann")
    action, ask = tokens.make("shop", "ann", 7, 3, 42), tokens.make_ask("shop", "ann", 42)
    begin = clock.now
    kind: Any
    for kind, token, seconds in ((ActionToken, action, MAX_TOKEN_SECONDS), (AskToken, ask, MAX_ASK_SECONDS)):
        clock.now = begin + seconds - 1
        assert tokens.read(kind, token).user == "ann"
        clock.now += 1
        with pytest.raises(BadActionToken):
            tokens.read(kind, token)
    clock.now += 10 * 366 * 86400
    found = tokens.read(MailToken, mail)
    assert (found.app, found.user) == ("shop", "ann")


def test_a_token_is_good_for_its_own_purpose_only(tokens: ActionTokens) -> None:
    by_kind: dict[Any, str] = {
        ActionToken: tokens.make("shop", "ann", 7, 3, 42),
        MailToken: tokens.make_mail("shop", "ann"),
        AskToken: tokens.make_ask("shop", "ann", 42),
    }
    for purpose, token in by_kind.items():
        for kind in by_kind.keys() - {purpose}:
            with pytest.raises(BadActionToken):
                tokens.read(kind, token)
    for token in ("", "x", "é", "=", "A" * 2000, "A" * 100, "eyJ.a.b"):
        with pytest.raises(BadActionToken):
            tokens.read(ActionToken, token)


def test_a_changed_token_and_one_of_another_server_are_refused(tokens: ActionTokens, clock: Clock) -> None:
    token = tokens.make("shop", "ann", 7, 3, 42)
    for index in range(len(token) - 1):  # the last character has bits that mean nothing
        changed = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        with pytest.raises(BadActionToken):
            tokens.read(ActionToken, changed)
    with pytest.raises(BadActionToken):
        ActionTokens((b"another key",), clock).read(ActionToken, token)


def test_the_longest_names_fit(tokens: ActionTokens) -> None:
    token = tokens.make("a" * 191, "u" * 255, 1 << 31, 1 << 62, 1 << 62)
    assert tokens.read(ActionToken, token).entry == 1 << 62
