"""Tokens of notifications and mails: what one allows, for how long, and that nobody else makes one."""

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


def test_a_token_ends_after_a_week(tokens: ActionTokens, clock: Clock) -> None:
    token = tokens.make("shop", "ann", 7, 3, 42)
    clock.now += MAX_TOKEN_SECONDS - 1
    tokens.read(ActionToken, token)
    clock.now += 1
    with pytest.raises(BadActionToken):
        tokens.read(ActionToken, token)


def test_the_token_of_a_mail_does_not_end(tokens: ActionTokens, clock: Clock) -> None:
    token = tokens.make_mail("shop", "ann")
    clock.now += 10 * 366 * 86400
    found = tokens.read(MailToken, token)
    assert (found.app, found.user) == ("shop", "ann")


def test_the_token_of_a_question_ends(tokens: ActionTokens, clock: Clock) -> None:
    token = tokens.make_ask("shop", "ann", 42)
    clock.now += MAX_ASK_SECONDS - 1
    assert tokens.read(AskToken, token) == AskToken("ask", "shop", "ann", 42, int(clock.now) + 1)
    clock.now += 1
    with pytest.raises(BadActionToken):
        tokens.read(AskToken, token)


def test_a_token_is_good_for_its_own_purpose_only(tokens: ActionTokens) -> None:
    with pytest.raises(BadActionToken):
        tokens.read(ActionToken, tokens.make_mail("shop", "ann"))
    with pytest.raises(BadActionToken):
        tokens.read(MailToken, tokens.make("shop", "ann", 7, 3, 42))
    for token in (tokens.make("shop", "ann", 7, 3, 42), tokens.make_mail("shop", "ann")):
        with pytest.raises(BadActionToken):
            tokens.read(AskToken, token)
    for kind in (ActionToken, MailToken):
        with pytest.raises(BadActionToken):
            tokens.read(kind, tokens.make_ask("shop", "ann", 42))


@pytest.mark.parametrize("token", ["", "x", "é", "=", "A" * 2000, "A" * 100, "eyJ.a.b"])
def test_what_is_no_token_is_refused(tokens: ActionTokens, token: str) -> None:
    with pytest.raises(BadActionToken):
        tokens.read(ActionToken, token)
    with pytest.raises(BadActionToken):
        tokens.read(MailToken, token)


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
