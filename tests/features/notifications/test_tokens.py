"""Tokens of notifications and mails: what one allows, for how long, and that nobody else makes one."""

import pytest

from imserver.features.notifications.tokens import (
    MAX_ASK_SECONDS,
    MAX_TOKEN_SECONDS,
    MIN_TOKEN_SECONDS,
    ActionToken,
    ActionTokens,
    AskToken,
    BadActionToken,
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
    token = tokens.make("shop", "马远", 7, 3, 42, 2 * 86400)
    assert tokens.read(token) == ActionToken("act", "shop", "马远", 7, 3, 42, int(clock.now) + 2 * 86400)


@pytest.mark.parametrize(
    ("seconds", "valid"), [(0, MIN_TOKEN_SECONDS), (3 * 86400, 3 * 86400), (28 * 86400, MAX_TOKEN_SECONDS)]
)
def test_a_token_ends_with_its_notification(
    tokens: ActionTokens, clock: Clock, seconds: int, valid: int
) -> None:
    token = tokens.make("shop", "ann", 7, 3, 42, seconds)
    clock.now += valid - 1
    tokens.read(token)
    clock.now += 1
    with pytest.raises(BadActionToken):
        tokens.read(token)


def test_the_token_of_a_mail_does_not_end(tokens: ActionTokens, clock: Clock) -> None:
    token = tokens.make_mail("shop", "ann")
    clock.now += 10 * 366 * 86400
    found = tokens.read_mail(token)
    assert (found.app, found.user) == ("shop", "ann")


def test_the_token_of_a_question_ends(tokens: ActionTokens, clock: Clock) -> None:
    token = tokens.make_ask("shop", "ann", 42)
    clock.now += MAX_ASK_SECONDS - 1
    assert tokens.read_ask(token) == AskToken("ask", "shop", "ann", 42, int(clock.now) + 1)
    clock.now += 1
    with pytest.raises(BadActionToken):
        tokens.read_ask(token)


def test_a_token_is_good_for_its_own_purpose_only(tokens: ActionTokens) -> None:
    with pytest.raises(BadActionToken):
        tokens.read(tokens.make_mail("shop", "ann"))
    with pytest.raises(BadActionToken):
        tokens.read_mail(tokens.make("shop", "ann", 7, 3, 42))
    for token in (tokens.make("shop", "ann", 7, 3, 42), tokens.make_mail("shop", "ann")):
        with pytest.raises(BadActionToken):
            tokens.read_ask(token)
    for read in (tokens.read, tokens.read_mail):
        with pytest.raises(BadActionToken):
            read(tokens.make_ask("shop", "ann", 42))


@pytest.mark.parametrize("token", ["", "x", "é", "=", "A" * 2000, "A" * 100, "eyJ.a.b"])
def test_what_is_no_token_is_refused(tokens: ActionTokens, token: str) -> None:
    with pytest.raises(BadActionToken):
        tokens.read(token)
    with pytest.raises(BadActionToken):
        tokens.read_mail(token)


def test_a_changed_token_and_one_of_another_server_are_refused(tokens: ActionTokens, clock: Clock) -> None:
    token = tokens.make("shop", "ann", 7, 3, 42)
    for index in range(len(token) - 1):  # the last character has bits that mean nothing
        changed = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        with pytest.raises(BadActionToken):
            tokens.read(changed)
    with pytest.raises(BadActionToken):
        ActionTokens((b"another key",), clock).read(token)


def test_the_longest_names_fit(tokens: ActionTokens) -> None:
    token = tokens.make("a" * 191, "u" * 255, 1 << 31, 1 << 62, 1 << 62)
    assert tokens.read(token).entry == 1 << 62
