"""The accounts of a chat: registration and group membership."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

from bench.generator import Generator
from bench.http_client import ANSWER_SECONDS, fetch
from bench.loop import BenchError, Json

PHONE_DIGITS = 12
AT_ONCE = 4
"""Number of registrations at the same time."""


def register(generator: Generator, count: int, seconds: float) -> Json:
    """Task: register ``count`` accounts, and store their ids and tokens; ``seconds``: time limit."""
    deadline = time.monotonic() + seconds

    def one(_: int) -> tuple[int, str]:
        answer = _post(generator, "/register", _account, deadline)
        return int(answer["id"]), answer["token"]

    with ThreadPoolExecutor(AT_ONCE) as threads:
        generator.state["accounts"] = list(threads.map(one, range(count)))
    return {}


def create_group(generator: Generator, indexes: list[int], seconds: float = ANSWER_SECONDS) -> int:
    """Make a group of the accounts at ``indexes``; the first is the owner. Return its id."""
    (_owner, token), *others = (generator.state["accounts"][index] for index in indexes)
    form = urlencode([("name", "bench"), *(("ids", str(number)) for number, _token in others)])
    answer = _post(generator, "/group/create", lambda: form, time.monotonic() + seconds, token=token)
    return int(answer["id"])


def _account() -> str:
    phone_number = random.randrange(10 ** (PHONE_DIGITS - 1), 10**PHONE_DIGITS)
    return urlencode({"phone_number": phone_number, "password": "bench"})


def _post(generator: Generator, path: str, form: Callable[[], str], deadline: float, **headers: str) -> Json:
    """Make something, and again while the database of a busy machine answers too late."""
    while "id" not in (answer := fetch(generator.target, path, form(), **headers)):
        if time.monotonic() > deadline:
            raise BenchError(f"{path}: {answer}")
    return answer
