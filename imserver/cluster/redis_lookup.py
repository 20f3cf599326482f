"""Questions to Redis: where users are, and whose a message id is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from imserver.cluster.contract import Claim, Place
from imserver.cluster.redis_lease import LeaseKeeper
from imserver.cluster.redis_pipe import Pipe
from imserver.cluster.redis_places import CLAIM_PREFIX, bucket_of, encoded, field_of, parse_places
from imserver.cluster.redis_scripts import CLAIM, RELEASE
from imserver.cluster.redis_watch import Watch
from imserver.cluster.redis_wire import Command

CLAIM_SECONDS: Final = 10
_FIND_USERS: Final = 1000


class Lookup:
    """The part of :class:`imserver.cluster.contract.Registry` that finds and claims. Stateless but for
    tokens."""

    def __init__(
        self, pipe: Pipe, keeper: LeaseKeeper, watch: Watch, seconds: float, dedupe_seconds: float
    ) -> None:
        self._pipe = pipe
        self._keeper = keeper
        self._watch = watch
        self._seconds = seconds
        self._dedupe_seconds = max(int(dedupe_seconds), 1)
        self._tokens = count(1)

    def find(self, app: str, users: Sequence[str]) -> list[tuple[Place, ...]] | None:
        """See :class:`imserver.cluster.contract.Registry`."""
        found: list[tuple[Place, ...]] = []
        for first in range(0, len(users), _FIND_USERS):
            part = self._find([_lookup(app, user) for user in users[first : first + _FIND_USERS]])
            if part is None:
                return None
            found += part
        return found

    def find_in(self, apps: Sequence[str], user: str) -> list[tuple[Place, ...]] | None:
        """See :class:`imserver.cluster.contract.Registry`."""
        return self._find([_lookup(app, user) for app in apps])

    def _find(self, commands: Sequence[Command]) -> list[tuple[Place, ...]] | None:
        replies = self._pipe.ask(commands)
        return None if replies is None else self._live([_places(reply) for reply in replies])

    def _live(self, found: list[tuple[Place, ...]]) -> list[tuple[Place, ...]]:
        """Leave out what dead lives have left. Looks into Redis for lives that began just now."""
        book = self._keeper.book
        epochs = {place.epoch for places in found for place in places}
        if any(book.is_news(epoch) for epoch in epochs):
            self._watch.look_now(self._seconds)
        live = book.live
        if epochs <= live.keys():
            return found
        return [tuple([place for place in places if place.epoch in live]) for places in found]

    def find_and_claim(self, app: str, user: str, key: str) -> tuple[tuple[Place, ...], Claim] | None:
        """See :class:`imserver.cluster.contract.Registry`."""
        token = self._token()
        replies = self._pipe.ask([_lookup(app, user), _claim_command(key, token)])
        if replies is None or isinstance(replies[1], Exception):
            return None
        places = self._live([_places(replies[0])])[0]
        claim = _claim(key, token, replies[1])
        if not places and claim.state == "mine":
            self.settle(claim, False)
            claim = Claim(key, "mine")
        return places, claim

    def claim(self, keys: Sequence[str]) -> list[Claim] | None:
        """See :class:`imserver.cluster.contract.Registry`."""
        tokens = [self._token() for _ in keys]
        replies = self._pipe.ask(list(map(_claim_command, keys, tokens)))
        if replies is None or any(isinstance(reply, Exception) for reply in replies):
            return None
        return list(map(_claim, keys, tokens, replies))

    def settle(self, claim: Claim, accepted: bool) -> None:
        """See :class:`imserver.cluster.contract.Registry`."""
        if claim.state != "mine" or not claim.token:
            return
        key = CLAIM_PREFIX.encode() + encoded(claim.key)
        if accepted:
            self._pipe.tell(("SET", key, 1, "EX", self._dedupe_seconds))
        else:
            self._pipe.tell(("EVALSHA", RELEASE, 1, key, claim.token))

    def _token(self) -> str:
        return f"?{self._keeper.lease.epoch}.{next(self._tokens)}"


def _lookup(app: str, user: str) -> Command:
    name = encoded(user)
    return ("HGET", bucket_of(app, name), field_of(name))


def _places(reply: Any) -> tuple[Place, ...]:
    return parse_places(reply) if isinstance(reply, bytes) else ()


def _claim_command(key: str, token: str) -> Command:
    return ("EVALSHA", CLAIM, 1, CLAIM_PREFIX.encode() + encoded(key), token, CLAIM_SECONDS * 1000)


def _claim(key: str, token: str, reply: bytes) -> Claim:
    if reply == token.encode():
        return Claim(key, "mine", token)
    return Claim(key, "repeat" if reply == b"1" else "pending")
