"""The accounts of a chat: registration and group membership."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

from bench.generator import Generator
from bench.http_client import fetch
from bench.loop import BenchError, Json

PHONE_DIGITS = 12
AT_ONCE = 4
"""Number of registrations at the same time."""


def register(generator: Generator, count: int, seconds: float) -> Json:
    """Task: register ``count`` accounts, and store their ids and tokens; ``seconds``: time limit."""
    deadline = time.monotonic() + seconds

    def one(_: int) -> tuple[int, str]:
        while True:
            phone_number = random.randrange(10 ** (PHONE_DIGITS - 1), 10**PHONE_DIGITS)
            form = urlencode({"phone_number": phone_number, "password": "bench"})
            answer = fetch(generator.target, "/register", form)
            if "id" in answer:
                return int(answer["id"]), answer["token"]
            if time.monotonic() > deadline:  # the database of a busy machine may answer late
                raise BenchError(f"an account could not be registered: {answer}")

    with ThreadPoolExecutor(AT_ONCE) as threads:
        generator.state["accounts"] = list(threads.map(one, range(count)))
    return {}


def create_group(generator: Generator, indexes: list[int]) -> int:
    """Make a group of the accounts at ``indexes``; the first is the owner. Return its id."""
    (_owner, token), *others = (generator.state["accounts"][index] for index in indexes)
    form = urlencode([("name", "bench"), *(("ids", str(number)) for number, _token in others)])
    return int(fetch(generator.target, "/group/create", form, token=token)["id"])
