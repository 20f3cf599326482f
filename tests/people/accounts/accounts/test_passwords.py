"""Passwords: argon2id away from the loop, GoChat's hashes, and a bound on those that wait."""

import threading
import time
from types import SimpleNamespace

import gevent
import pytest

from imserver.people.accounts.passwords import AT_ONCE, MAX_WAITING, Overloaded, Passwords

GOCHATS = "764fb148aadad5dae3bb6c1ef08cb53d"
"""What the original keeps of the password ``123456``: printf %s 123456gogogoChat | md5sum"""


@pytest.fixture
def some():
    result = Passwords("gogogoChat")
    yield result
    result.close()


def test_only_the_right_password_matches(some: Passwords) -> None:
    digest = some.hash("sécret")
    assert digest.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert some.matches(digest, "sécret")
    for wrong in (digest, "", "no hash"):  # an account that is missing has none
        assert not some.matches(wrong, "secret")
        assert not some.matches(wrong, wrong)
    assert not some.is_weak(digest)


def test_a_hash_of_gochat_matches_and_is_weak(some: Passwords) -> None:
    assert some.matches(GOCHATS, "123456")
    assert some.matches(GOCHATS.upper(), "123456")
    assert not some.matches(GOCHATS, "1234567")
    assert not Passwords("another salt").matches(GOCHATS, "123456")
    assert some.is_weak(GOCHATS)


@pytest.mark.parametrize("digest", ["", GOCHATS])
def test_a_wrong_password_takes_as_long_for_any_hash(
    some: Passwords, monkeypatch: pytest.MonkeyPatch, digest: str
) -> None:
    looked_at: list[str] = []

    def look(_hasher: object, hashed: str, _password: str) -> bool:
        looked_at.append(hashed)
        return False

    monkeypatch.setattr(some, "_verified", look)
    assert not some.matches(digest, "wrong")
    assert looked_at == [""], "a hash of argon2id was compared"


def test_no_more_than_two_are_hashed_at_once(some: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock, two = 0, 0, threading.Lock(), threading.Barrier(2)

    def hash_slowly(_password: str) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        two.wait(60)
        time.sleep(0.02)  # a third would begin meanwhile
        with lock:
            running -= 1
        return ""

    monkeypatch.setattr(some, "_hasher", SimpleNamespace(hash=hash_slowly))
    hashing = [gevent.spawn(some.hash, "secret") for _ in range(6)]
    assert [each.get() for each in hashing] == [""] * 6
    assert most == AT_ONCE == 2


def test_too_many_that_wait_are_refused(some: Passwords) -> None:
    some.waiting = MAX_WAITING - 3
    waiting = [gevent.spawn(some.hash, "secret") for _ in range(3)]
    gevent.sleep(0)
    with pytest.raises(Overloaded):
        some.hash("one more")
    gevent.joinall(waiting)
    assert some.hash("one more")
    assert some.waiting == MAX_WAITING - 3
