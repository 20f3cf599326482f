"""A server for clients of Centrifugo."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from inspect import iscoroutinefunction, signature
from typing import Any

import jwt
import pytest

from tests.support import Server

SECRET = "the-secret-of-the-shop-that-nobody-guesses-because-it-is-so-very-long"
KEY = "key-of-the-shop-0123456789"
OTHER_KEY = "key-of-all-apps-0123456789"
WHOLE_KEY = "key-of-the-whole-0123456789"
SHUT_KEY = "key-of-the-shut-0123456789"
READ_KEY = "read-key-of-the-shop-0123456789"
FOR_ALL: dict[str, Any] = {
    **dict.fromkeys(
        ("subscribe", "publish", "read_presence", "read_history"), "anybody"
    ),
    "presence": True,
    "history_size": 10,
    "history_seconds": 60,
}
ANYBODY = {"subscribe": "anybody"}
HALF_OPEN = {"subscribe": "anybody", "publish": "subscribers"}
RECENT = {"history_size": 20, "history_seconds": 300}
CONFIG: dict[str, Any] = {
    "apps": {
        "shop": {
            "jwt": [
                {"algorithm": "HS256", "key": SECRET, "kid": "256"},
                {"algorithm": "HS512", "key": SECRET, "kid": "512"},
            ],
            "channels": {
                "talk": {
                    "publish": "subscribers",
                    "presence": True,
                    "join_leave": True,
                },
                "past": {**HALF_OPEN, **RECENT},
                "prices": {**HALF_OPEN, **RECENT, "delta": True},
                "ledger": {**HALF_OPEN, "history": "log", "delta": True},
                "kept": {**HALF_OPEN, "history": "log"},
                "open": ANYBODY,
                "few": {"user_limited": True},
                "last": {
                    "subscribe": "anybody",
                    **RECENT,
                    "recovery": True,
                    "recovery_mode": "cache",
                },
                "latest": {
                    "subscribe": "anybody",
                    "history": "log",
                    "recovery_mode": "cache",
                },
                "shut": {"subscribe": "nobody"},
            },
        },
        "hall": {
            "open": True,
            "channels": {
                "shut": {"subscribe": "nobody"},
                "talk": {"subscribe": "token"},
            },
        },
        "whole": {
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
            "channels": {
                "*": {"presence": True, "history_size": 5, "history_seconds": 60}
            },
        },
        "shut": {
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
            "known_channels_only": True,
            "channels": {"talk": {}, "user": {"publish": "subscribers"}},
        },
        "nameless": {
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
            "anonymous_tokens": True,
            "channels": {"open": ANYBODY, "users": {**ANYBODY, "anonymous": False}},
        },
        "closed": {
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
            "known_channels_only": True,
            "channels": {
                "": {"subscribe": "anybody"},
                "room": FOR_ALL,
                "shut": FOR_ALL
                | {
                    "publish": "nobody",
                    "read_presence": "nobody",
                    "read_history": "nobody",
                },
            },
        },
        "slow": {"open": True, "messages_per_second": 5},
        "bank": {"jwt": [{"algorithm": "HS256", "key": f"{SECRET}-of-the-bank"}]},
    },
    "api": {
        "keys": [
            {"key": OTHER_KEY, "scopes": ["admin"]},
            {"key": KEY, "scopes": ["admin"], "apps": ["shop"]},
            {"key": WHOLE_KEY, "scopes": ["admin"], "apps": ["whole"]},
            {"key": SHUT_KEY, "scopes": ["admin"], "apps": ["shut"]},
            {"key": READ_KEY, "scopes": ["read"], "apps": ["shop"]},
        ]
    },
    "centrifuge": {"app": "shop"},
    "limits": {"login_seconds": 60},
    "websocket": {
        "client_ping_seconds": 1,
        "client_silent_seconds": 60,
        "sweep_seconds": 1,
    },
}
SILENT_SECONDS = 20
"""How long a client may be silent at the server :func:`impatient`."""


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario, and wait until its clients have closed their
    connections."""

    async def whole() -> None:
        await scenario
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if rest:
            await asyncio.wait(rest, timeout=60)

    asyncio.run(whole())


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not iscoroutinefunction(pyfuncitem.function):
        return None
    names = signature(pyfuncitem.function).parameters
    run(pyfuncitem.function(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def token(user: str, algorithm: str = "HS256", seconds: int = 0, **claims: Any) -> str:
    """A token that a back end of Centrifugo signs. ``seconds``: how long it is
    valid (0: for ever)."""
    end = {"exp": int(time.time()) + seconds} if seconds else {}
    return jwt.encode({"sub": user, **end, **claims}, SECRET, algorithm)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose app ``shop`` has keys and channels, and whose app ``hall``
    is open."""
    with Server(tmp_path_factory.mktemp("centrifugo"), config=CONFIG) as one:
        yield one


@pytest.fixture(scope="session")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same, and clients that do not log in or are silent are soon sent
    away."""
    websocket = {**CONFIG["websocket"], "client_silent_seconds": SILENT_SECONDS}
    config = {**CONFIG, "limits": {"login_seconds": 6}, "websocket": websocket}
    with Server(tmp_path_factory.mktemp("impatient"), config=config) as one:
        yield one
