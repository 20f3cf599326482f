"""The accounts of a chat: registered, made one group, logged in."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from bench.generator import Generator, pack_opening
from bench.http_client import FORM, Lanes, request_head
from bench.loop import BenchError
from bench.protobuf import LOGGED_IN, PATH, login_frame

LANES = 4
PHONE_DIGITS = 12
ANSWER_SECONDS = 30.0


def post(generator: Generator, path: str, forms: list[str], *fields: str) -> list[dict[str, Any]]:
    """Send all ``forms`` to ``path`` and return what the answers have as ``data``, in their order."""
    found: dict[int, Any] = {}

    def answered(number: int, _micros: int, status: int, body: bytes) -> None:
        try:
            found[number] = json.loads(body)["data"]
        except (ValueError, KeyError):
            raise BenchError(f"{path}: {status} {body[:200].decode(errors='replace')}") from None

    loop = generator.loop
    lanes = Lanes(loop, generator.target, LANES, answered)
    waiting = list(enumerate(forms))[::-1]
    quiet = time.monotonic() + ANSWER_SECONDS
    while len(found) < len(forms):
        for lane in lanes:
            if waiting and not lane.waiting:
                number, form = waiting.pop()
                head = request_head(generator.target, path, FORM, len(form), *fields)
                lanes.send(lane, [number], head + form.encode())
        if loop.turn(0.5):
            quiet = time.monotonic() + ANSWER_SECONDS
        elif time.monotonic() > quiet or loop.stopped:
            raise BenchError(f"{path} does not answer")
        generator.progress(len(found), len(forms))
    lanes.close()
    return [found[number] for number in range(len(forms))]


def register(generator: Generator, count: int, seconds: float) -> dict[str, Any]:
    """Task: make ``count`` accounts, and keep their ids and tokens; ``seconds``: what it may take."""
    first = random.randrange(10 ** (PHONE_DIGITS - 1), 10**PHONE_DIGITS - count)
    forms = [urlencode({"phone_number": first + number, "password": "bench"}) for number in range(count)]
    made = post(generator, "/register", forms)
    generator.kept["accounts"] = [(int(each["id"]), each["token"]) for each in made]
    return {}


def make_group(generator: Generator, count: int) -> dict[str, Any]:
    """Task: make a group of the first ``count`` accounts; the first of them is its owner."""
    accounts = generator.kept["accounts"][:count]
    form = urlencode([("name", "bench"), *(("ids", str(number)) for number, _token in accounts[1:])])
    (made,) = post(generator, "/group/create", [form], f"token: {accounts[0][1]}")
    return {"group": int(made["id"])}


def open_chat(
    generator: Generator, first: int, count: int, host: str, port: int, seconds: float = 30
) -> dict[str, Any]:
    """Task: log ``count`` accounts in at one node, from account ``first`` on."""
    accounts, swarm = generator.kept["accounts"], generator.swarm
    swarm.target = replace(generator.target, ws_host=host, ws_port=port)
    opening = swarm.open(
        range(first, first + count),
        lambda number: login_frame(accounts[number][1]),
        window=64,
        seconds=seconds,
        progress=generator.progress,
        path=PATH,
        answer=LOGGED_IN,
    )
    if opening.opened < count:
        raise BenchError(f"{opening.opened} of {count} connections opened: {opening.errors}")
    return pack_opening(opening)
