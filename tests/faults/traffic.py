"""People who are online, back ends that push to them, and a check of what
became of every push.

Everybody is a thread with sockets of their own. A person reads until the
connection is lost, then comes back at any open address. Of two connections of
one person the older has ended before the newer begins: so messages are read in
the order in which they came.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple, Self

from tests.integration.cmd import CmdClient, command, form_request
from tests.integration.raw import (
    CLOSE,
    PATIENCE_SECONDS,
    PING,
    PONG,
    TEXT,
    Address,
    Ended,
    Raw,
    frame,
)
from tests.support import eventually

APP = 101


class Push(NamedTuple):
    """One message of a back end. ``outcome``: sent, refused (nobody there),
    failed (a node does not answer), repeated, or unknown (no answer)."""

    pusher: int
    user: str
    number: int
    sent_at: float
    answered: float
    outcome: str


class Got(NamedTuple):
    """One message that a person has read."""

    pusher: int
    number: int


class Tally(NamedTuple):
    """What became of all pushes."""

    outcomes: Counter[str]
    lost: list[Push]
    """Answered as sent, and read by nobody."""


class Person(threading.Thread):
    """Somebody who is online as long as they want to be (``wanted``).
    ``address`` says where to connect."""

    def __init__(self, user: str, address: Callable[[], Address]) -> None:
        super().__init__(daemon=True)
        self.user = user
        self.address = address
        self.wanted = True
        self.online = False
        self.closed_by: list[int] = []
        """Codes of the close frames that came."""
        self.got: list[Got] = []

    def run(self) -> None:
        while self.wanted:
            # Refused, reset, cut off, or no answer in time: once more.
            with (
                suppress(OSError, AssertionError),
                CmdClient(self.address()) as cmd_client,
            ):
                cmd_client.upgrade()
                self._live(cmd_client)
            self.online = False
            if self.wanted:
                time.sleep(0.05)

    def _live(self, cmd_client: CmdClient) -> None:
        cmd_client.send(command("login", {"userID": self.user, "appID": APP}))
        while self.wanted:
            try:
                found = cmd_client.frame(0.25)
            except TimeoutError:
                continue
            if found.opcode == TEXT:
                self._read(found.json)
            elif found.opcode == PING:
                cmd_client.send(frame(PONG, found.payload))
            elif found.opcode == CLOSE:
                self.closed_by.append(found.close_code or 0)
                cmd_client.send(frame(CLOSE, found.payload))
                return

    def _read(self, body: dict) -> None:  # type: ignore[type-arg]
        if body["cmd"] == "login":
            assert body["response"]["code"] == 200, body
            self.online = True
        elif body["cmd"] == "msg":
            pusher, number = map(int, body["response"]["data"]["msg"].split(":"))
            self.got.append(Got(pusher, number))

    def leave(self) -> None:
        """Go, and do not come back."""
        self.wanted = False
        self.join(PATIENCE_SECONDS + 5)
        assert not self.is_alive(), f"{self.user} does not end"


class Pusher(threading.Thread):
    """A back end that pushes to everybody in turn, through one node, ``rate``
    times a second."""

    def __init__(
        self,
        number: int,
        address: Callable[[], Address],
        users: Sequence[str],
        rate: float,
    ) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.address = address
        self.users = users
        self.pushes: list[Push] = []
        self._pause_seconds = 1 / rate
        self._ended = threading.Event()
        self._http: Raw | None = None
        self._last: defaultdict[str, int] = defaultdict(int)
        self._names = count(1)

    def run(self) -> None:
        turn = 0
        while not self._ended.wait(self._pause_seconds):
            self._push(self.users[turn % len(self.users)])
            turn += 1
        if self._http is not None:
            self._http.leave()

    def _push(self, user: str) -> None:
        self._last[user] += 1
        number = self._last[user]
        sent_at = time.monotonic()
        outcome = "unknown"
        with suppress(OSError, AssertionError, ValueError):
            outcome = self._ask(user, number)
        if outcome == "unknown" and self._http is not None:
            self._http.leave()
            self._http = None
        self.pushes.append(
            Push(self.number, user, number, sent_at, time.monotonic(), outcome)
        )

    def _ask(self, user: str, number: int) -> str:
        form = {
            "appID": APP,
            "userID": user,
            "msgID": f"p{self.number}-{id(self)}-{next(self._names)}",
        }
        request = form_request(
            "/user/sendMessage", {**form, "message": f"{self.number}:{number}"}
        )
        try:
            if self._http is None:
                self._http = Raw(self.address())
            answer = self._http.ask(request)
        except (Ended, ConnectionError):
            # A kept-alive connection that the server has ended meanwhile: the
            # request was not read.
            if self._http is not None:
                self._http.leave()
            self._http = Raw(self.address())
            answer = self._http.ask(request)
        if answer.header("connection") == "close":
            self._http.leave()
            self._http = None
        if answer.status != 200:
            return "unknown"
        data = answer.json["data"]
        if data == {}:
            return "repeated"
        return (
            "sent"
            if data["sendResults"]
            else "failed"
            if "sendResultsErr" in data
            else "refused"
        )

    def end(self) -> None:
        """No more pushes."""
        self._ended.set()
        self.join(PATIENCE_SECONDS * 2 + 5)
        assert not self.is_alive(), f"pusher {self.number} does not end"


@dataclass
class Traffic:
    """Persons and pushers. A context manager ends them all."""

    persons: dict[str, Person] = field(default_factory=dict)
    pushers: list[Pusher] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_pushing()
        for person in self.persons.values():
            person.wanted = False
        for person in self.persons.values():
            person.leave()

    def come(
        self,
        users: Sequence[str],
        address: Callable[[], Address],
        seconds: float = 60.0,
    ) -> None:
        """Let people come online at one address, and wait until they are."""
        for user in users:
            person = Person(user, address)
            self.persons[user] = person
            person.start()
        self.wait_until_online(users, seconds)

    def wait_until_online(
        self, users: Sequence[str] | None = None, seconds: float = 60.0
    ) -> None:
        """Wait until these (or all who want to be) have logged in."""
        wanted = (
            [self.persons[user] for user in users]
            if users
            else [*self.persons.values()]
        )
        eventually(
            lambda: all(p.online for p in wanted if p.wanted),
            seconds,
            "everybody is online",
        )

    def push_through(
        self,
        *addresses: Callable[[], Address],
        users: Sequence[str] | None = None,
        rate: float = 60.0,
    ) -> None:
        """Let one more back end push through each of these servers."""
        for address in addresses:
            pusher = Pusher(len(self.pushers), address, users or [*self.persons], rate)
            self.pushers.append(pusher)
            pusher.start()

    def run_for(self, seconds: float) -> None:
        """Let it go on for a while: there is nothing to wait for but time."""
        time.sleep(seconds)

    def stop_pushing(self) -> None:
        for pusher in self.pushers:
            pusher._ended.set()
        for pusher in self.pushers:
            pusher.end()

    def finish(self, excused: Callable[[Push], bool] = lambda push: False) -> Tally:
        """Stop pushing, wait for what is under way, and check: what is not
        ``excused`` was sent and has come.

        Nothing may come twice or out of order, excused or not.
        """
        self.stop_pushing()
        pushes = [push for pusher in self.pushers for push in pusher.pushes]
        inside = {push for push in pushes if excused(push)}
        with suppress(AssertionError):
            eventually(lambda: not set(self._lost(pushes)) - inside, 40.0)
        outcomes = Counter(push.outcome for push in pushes)
        lost = self._lost(pushes)
        outside = [push for push in pushes if push not in inside]
        assert len(outside) > 20, f"hardly anything was pushed: {outcomes}"
        not_sent = [push for push in outside if push.outcome != "sent"]
        assert not not_sent, (
            f"{len(not_sent)} not sent without need, as {not_sent[:3]}; {outcomes}"
        )
        needless = [push for push in lost if push not in inside]
        assert not needless, (
            f"{len(needless)} lost without need, as {needless[:3]}; {outcomes}"
        )
        for user, person in self.persons.items():
            numbers = defaultdict(list)
            for got in person.got:
                numbers[got.pusher].append(got.number)
            for pusher, found in numbers.items():
                assert found == sorted({*found}), (
                    f"twice or out of order: {user} of {pusher}: {found}"
                )
        return Tally(outcomes, lost)

    def _lost(self, pushes: Sequence[Push]) -> list[Push]:
        arrived = {
            (user, *got)
            for user, person in self.persons.items()
            for got in [*person.got]
        }
        return [
            p
            for p in pushes
            if p.outcome == "sent" and (p.user, p.pusher, p.number) not in arrived
        ]

    def slowest(self, pushers: Sequence[int], since: float, until: float) -> float:
        """Seconds of the slowest answer to these pushers' pushes that were
        asked in a span of time."""
        return max(
            (
                push.answered - push.sent_at
                for number in pushers
                for push in [*self.pushers[number].pushes]
                if since <= push.sent_at < until
            ),
            default=0.0,
        )
