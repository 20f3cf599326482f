"""The accounts of a chat: registered, made members of groups."""

from __future__ import annotations

import json
import random
from urllib.parse import urlencode

from bench.generator import Generator
from bench.http_client import FORM, ask_all, request_head
from bench.loop import BenchError, Json

PHONE_DIGITS = 12


def post(generator: Generator, path: str, forms: list[str], *fields: str) -> list[Json]:
    """Send all ``forms`` to ``path`` and return what the answers have as ``data``, in their order."""
    target = generator.target
    requests = [request_head(target, path, FORM, len(form), *fields) + form.encode() for form in forms]
    found = []
    for body in ask_all(generator.loop, target, requests, generator.progress):
        try:
            found.append(json.loads(body)["data"])
        except (ValueError, KeyError):
            raise BenchError(f"{path}: {body[:200].decode(errors='replace')}") from None
    return found


def register(generator: Generator, count: int, seconds: float) -> Json:
    """Task: make ``count`` accounts, and keep their ids and tokens; ``seconds``: what it may take."""
    first = random.randrange(10 ** (PHONE_DIGITS - 1), 10**PHONE_DIGITS - count)
    forms = [urlencode({"phone_number": first + number, "password": "bench"}) for number in range(count)]
    made = post(generator, "/register", forms)
    generator.kept["accounts"] = [(int(each["id"]), each["token"]) for each in made]
    return {}


def create_group(generator: Generator, places: list[int]) -> int:
    """Make a group of the accounts at ``places``, the first of which owns it; return its id."""
    (_owner, token), *others = (generator.kept["accounts"][place] for place in places)
    form = urlencode([("name", "bench"), *(("ids", str(number)) for number, _token in others)])
    (made,) = post(generator, "/group/create", [form], f"token: {token}")
    return int(made["id"])
