"""The accounts of a chat: registration and group membership."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlencode

from bench.generator import Generator
from bench.http_client import fetch
from bench.loop import Json

PHONE_DIGITS = 12
AT_ONCE = 4
"""Number of registrations at the same time."""


def register(generator: Generator, count: int, seconds: float) -> Json:
    """Task: register ``count`` accounts, and store their ids and tokens; ``seconds``: time limit."""
    first = random.randrange(10 ** (PHONE_DIGITS - 1), 10**PHONE_DIGITS - count)
    forms = [urlencode({"phone_number": first + number, "password": "bench"}) for number in range(count)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(partial(fetch, generator.target, "/register"), forms))
    generator.state["accounts"] = [(int(each["id"]), each["token"]) for each in answers]
    return {}


def create_group(generator: Generator, indexes: list[int]) -> int:
    """Make a group of the accounts at ``indexes``; the first is the owner. Return its id."""
    (_owner, token), *others = (generator.state["accounts"][index] for index in indexes)
    form = urlencode([("name", "bench"), *(("ids", str(number)) for number, _token in others)])
    return int(fetch(generator.target, "/group/create", form, token=token)["id"])
