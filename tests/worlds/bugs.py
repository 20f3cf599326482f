"""Bugs of the server's past, put back one at a time.

Each row names what was wrong, the commit that mended it, and the steps of a
world that lead to it. ``put_back`` replaces what the server does now by what it
did then. It raises an error if the server no longer has what it replaces:
whoever changes that part adapts the row.
"""

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from imserver.gateway.cluster.redis.scripts import TEXT_OF, script
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.model import Outcome
from tests.worlds.seams import replace


class Bug(Struct, frozen=True):
    """A bug of the past. ``seed``: of a world that finds it, with ``minutes``.
    ``focus``: the kinds of steps of its worlds."""

    what: str
    mended_by: str
    focus: tuple[str, ...]
    put_back: Callable[[], object]
    seed: int = 0
    minutes: float = 1.5
    pace: float = 1.0


def _method(
    path: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[[], object]:
    """Replace a function: ``make`` gets the one of now."""

    def put_back() -> None:
        now = replace(path, None)
        assert callable(now), path
        replace(path, make(now))

    return put_back


def _script(path: str, now: str, then: str) -> Callable[[], object]:
    """Replace a part of a script for Redis."""

    def put_back() -> None:
        digest = replace(path, "")
        assert isinstance(digest, str)
        text = TEXT_OF.pop(digest)
        assert now in text, f"{path} has no {now!r}"
        replace(path, script(text.replace(now, then)))

    return put_back


def _all(*steps: Callable[[], object]) -> Callable[[], object]:
    def put_back() -> None:
        for each in steps:
            each()

    return put_back


class _Refused(StorageUnavailable):
    """What a sender was told after the time limit."""

    on_known = None


def _never_late(now: Callable[..., Any]) -> Callable[..., Any]:
    def register(
        commands: Any, session: Any, replacing: Any = (), late: bool = False
    ) -> Any:
        return now(commands, session, replacing)

    return register


def _only_registered(now: Callable[..., Any]) -> Callable[..., Any]:
    def push(
        reach: Any,
        app: str,
        user: str,
        event: Any,
        refs: Any,
        device: str | None = None,
    ) -> Outcome:
        if refs is not None and not refs:
            return Outcome.NOT_SENT
        outcome: Outcome = now(reach, app, user, event, refs, device)
        return outcome

    return push


_EPOCH_NOW: Final = "text(math.max(tonumber(redis.call('GET', KEYS[5]) or '0'), tonumber(ARGV[7]), now) + 1)"
_EPOCH_THEN: Final = "text(tonumber(redis.call('GET', KEYS[5]) or now) + 1)"
_LIFE_NOW: Final = "if not epoch or (found[3] ~= life and life ~= '') then"
_LIFE_THEN: Final = "if not epoch then"

BUGS: Final[dict[str, Bug]] = {
    "own message before its answer": Bug(
        "A node that read a gap of the log delivered to a sender what it was still storing for them.",
        "20b80a5b",
        (
            "burst of messages",
            "cut nodes one way",
            "cut database one way",
            "slow database",
        ),
        _method(
            "imserver.messenger.log.writer:LogWriter.senders",
            lambda _: lambda *_: (),
        ),
        seed=1,
    ),
    "cursor of another node": Bug(
        "A client that came from another node received entries again at a node that was behind.",
        "67246ea9",
        ("burst of messages", "reads", "cut nodes", "clients are cut"),
        _method(
            "imserver.messenger.delivery.log_subscriptions:LogSubscriptions.is_ahead",
            lambda _: lambda *_: None,
        ),
        seed=6,
    ),
    "ids of lost entries": Bug(
        "When the database had lost its newest commits, their ids were given again.",
        "561a21a3",
        ("burst of messages", "messages", "database loses commits"),
        _method(
            "imserver.messenger.log.writer:LogWriter.learn",
            lambda _: lambda *_: None,
        ),
        seed=1,
    ),
    "late commit refused": Bug(
        "A message whose COMMIT was not answered in time was called refused, and was stored.",
        "9b0424b2",
        ("notes", "cut database one way"),
        lambda: replace("imserver.messenger.log.writer:StorageUnsure", _Refused),
        seed=1,
    ),
    "late login wins": Bug(
        "A session that began while Redis was away replaced a newer one when it was registered.",
        "fc8d8fb5",
        ("logins", "cut redis"),
        _method(
            "imserver.gateway.cluster.redis.presence:SessionCommands.register",
            _never_late,
        ),
        minutes=4.0,
        pace=3.0,
        seed=4,
    ),
    "login carried out late": Bug(
        "A login that Redis carried out when its node had given it up replaced a newer one.",
        "4c9d0490",
        ("logins", "cut redis"),
        _script(
            "imserver.gateway.cluster.redis.presence:BEGIN",
            "now - began > tonumber(ARGV[14])",
            "tonumber(ARGV[14]) == 0 and now > began",
        ),
        minutes=4.0,
        pace=3.0,
        seed=7,
    ),
    "epoch of two nodes": Bug(
        "When Redis came back with older data, a node got the epoch of another one.",
        "6a5cba73",
        ("messages", "machines restart"),
        _script("imserver.gateway.cluster.redis.lease:JOIN", _EPOCH_NOW, _EPOCH_THEN),
        seed=1,
    ),
    "offsets of lost publications": Bug(
        "When Redis had lost publications, their offsets were given again in the same epoch.",
        "ed195224",
        ("publications", "redis loses a second"),
        _all(
            _script(
                "imserver.gateway.cluster.redis.history:APPEND_HISTORY",
                _LIFE_NOW,
                _LIFE_THEN,
            ),
            _script(
                "imserver.gateway.cluster.redis.history:READ_HISTORY",
                _LIFE_NOW,
                _LIFE_THEN,
            ),
        ),
        seed=1,
    ),
    "push overtaken": Bug(
        "A push that followed its user to another node was overtaken by a later one.",
        "32e5f0b2",
        ("subscriptions", "pushes", "slow nodes"),
        _all(
            _method(
                "imserver.gateway.push.routing:ReorderDelay.wait_seconds",
                lambda _: lambda *_: 0.0,
            ),
            _method(
                "imserver.gateway.push.routing:ReorderGuard.is_overtaken",
                lambda _: lambda *_: False,
            ),
        ),
        seed=7,
    ),
    "forgotten by the registry": Bug(
        "A push did not reach a user of its own node whom Redis had lost.",
        "32e5f0b2",
        ("pushes", "redis loses all"),
        _method("imserver.gateway.push.routing:ClusterReach.push", _only_registered),
        seed=1,
    ),
    "claim of nobody": Bug(
        "An id whose claim Redis had not answered was taken for ten seconds, also for the next attempt.",
        "ecc4a845",
        ("retries", "cut redis one way"),
        lambda: replace("imserver.gateway.cluster.redis.presence:_MAX_UNANSWERED", 0),
        pace=2.0,
        seed=1,
    ),
}
"""Name → the bug."""
