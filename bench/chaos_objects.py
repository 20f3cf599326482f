"""What a chaos run does besides messages, for the checker: read positions, ids of messages that are sent
several times, answers to questions, and sessions that exclude each other. A few operations a second, at any
node.

``checker/README.md`` has the objects. What nobody was answered says nothing here, with one exception: an id
may have been accepted.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from contextlib import suppress
from itertools import count
from typing import Any, Final

from bench.chaos_client import (
    AWAY,
    FIRST_PAUSE_SECONDS,
    LIVE,
    LOGGING_IN,
    AcknowledgedIds,
    Client,
    Clients,
    Counts,
)
from bench.chat_dialects import CmdDialect, LoggedIn
from bench.connections import Target
from bench.frames import CLOSE
from bench.history import History
from bench.http_client import fetch, post
from bench.loop import BenchError, Json

APP: Final = "objects"
SINGLE, REFUSE = 106, 107
"""The apps in which the newest session of a user stays, and the oldest one."""
CONFIG: Final = f"""\
  {APP}: {{{{open: true}}}}
  "{SINGLE}": {{{{open: true, login_policy: single}}}}
  "{REFUSE}": {{{{open: true, login_policy: refuse}}}}
"""
ASKERS: Final = 3
PAUSE_SECONDS: Final = 0.5
"""Between two requests of one asker, on average."""
ROUND_SECONDS: Final = 10.0
"""After this time another user reads, so that what was never answered concerns few operations."""
CLAIM_SECONDS: Final = 2.0
"""After this time another id is sent."""
MESSAGES: Final = 6
USERS: Final = 6
RIVALS: Final = 3
LOGIN_SECONDS: Final = 1.0
"""Between two logins, or ends of sessions, of all users together."""
REPLACED, REFUSED = 4500, 4501
ENDING_SECONDS: Final = 30.0


class Reading:
    """A conversation whose messages one user reads."""

    def __init__(self, user: str, conversation: int, ids: list[int]) -> None:
        self.user, self.conversation, self.ids = user, conversation, ids
        self.object = f"maximum:{user}"


class Askers:
    """Threads that read and send, ``pace`` times as often as usual. Owner of what they share."""

    def __init__(self, history: History, targets: list[Target], seed: int, pace: float) -> None:
        self._pause = 2 * PAUSE_SECONDS / pace
        self.history, self.targets = history, targets
        self.reading: Reading | None = None
        self.begin = time.monotonic()
        self.is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, random.Random(seed + number)), daemon=True)
            for number in range(ASKERS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Do nothing more."""
        self.is_over.set()
        for thread in self._threads:
            thread.join(ENDING_SECONDS)

    def _run(self, number: int, chance: random.Random) -> None:
        client, rounds = f"asker {number + 1}", -1
        while not self.is_over.wait(chance.uniform(0, self._pause)):
            age = time.monotonic() - self.begin
            target, reading = chance.choice(self.targets), self.reading
            with suppress(BenchError):
                if number == 0 and rounds != int(age / ROUND_SECONDS):
                    rounds = int(age / ROUND_SECONDS)
                    self.reading = _prepare(target, f"reader {rounds}")
                elif chance.random() < 0.3:
                    self._answer(client, target, f"question {int(age / CLAIM_SECONDS)}", number)
                elif reading is None or chance.random() < 0.4:
                    self._send(client, target, f"id {int(age / CLAIM_SECONDS)}", chance)
                elif chance.random() < 0.5:
                    self._raise(client, target, reading, chance.choice(reading.ids))
                else:
                    self._get(client, target, reading)

    def _send(self, client: str, target: Target, id: str, chance: random.Random) -> None:
        """Send a message with an id that others send, too: one of them is accepted."""
        holder = f"{client}, {chance.getrandbits(32):x}"
        number = self.history.ask(client, "acquire", f"lock:{id}", holder=holder)
        message = {"user": "sender", "to": "receiver", "text": holder, "client_msg_id": id}
        answer = post(target, "/api/v1/messages/send", {"app": APP, **message})
        if "repeated" in answer:
            self.history.answered(number, granted=not answer["repeated"])

    def _answer(self, client: str, target: Target, id: str, number: int) -> None:
        """Answer a question that others answer, too: the first answer counts, and all are told it."""
        options = [{"text": value, "value": value} for value in map(str, range(ASKERS))]
        question = {"user": "sender", "to": "receiver", "text": id, "client_msg_id": id, "options": options}
        row = post(target, "/api/v1/asks/create", {"app": APP, **question})
        if "state" not in row:
            return
        operation = self.history.ask(client, "decide", f"once:{id}", value=str(number))
        body = {"app": APP, "user": "receiver", "id": row["id"], "value": str(number)}
        answer = post(target, "/api/v1/asks/answer", body)
        if "accepted" in answer:
            first, *more = [each["value"] for each in answer["ask"]["answers"]]
            self.history.answered(operation, value=[first, *more] if more else first)

    def _raise(self, client: str, target: Target, reading: Reading, id: int) -> None:
        number = self.history.ask(client, "raise", reading.object, value=id)
        body = {"app": APP, "user": reading.user, "conversation": reading.conversation, "id": id}
        if "read" in post(target, "/api/v1/messages/read", body):
            self.history.answered(number)

    def _get(self, client: str, target: Target, reading: Reading) -> None:
        number = self.history.ask(client, "get", reading.object)
        path = f"/api/v1/conversations?app={APP}&user={reading.user.replace(' ', '+')}"
        for row in fetch(target, path).get("conversations", ()):
            if row["conversation"] == reading.conversation:
                self.history.answered(number, value=row["read"])


def _prepare(target: Target, user: str) -> Reading | None:
    """Send a user messages to read; None: not all were stored."""
    stored: list[Json] = []
    for number in range(MESSAGES):
        body = {"app": APP, "user": "writer", "to": user, "text": str(number)}
        answer = post(target, "/api/v1/messages/send", body)
        if "repeated" not in answer:
            return None
        stored.append(answer)
    return Reading(user, stored[0]["conversation"], [each["id"] for each in stored])


class Rival(Client):
    """One of the devices of a user that exclude each other. It logs in when it is wanted, and comes back from
    lost connections, until it is replaced or refused."""

    def __init__(self, rivals: Rivals, app: int, user: int, index: int, name: str) -> None:
        shared = rivals.shared
        dialect = CmdDialect(app, user, "", acks=False, resumes=False)
        super().__init__(shared, index, dialect, name, AcknowledgedIds(shared.faults))
        self.counts = Counts()  # those of the chat are figures
        self.rivals = rivals
        self.object = f"{'register' if app == SINGLE else 'lock'}:user {user}"
        self.session = ""
        self.wanted = False
        self._login_at = 0.0

    def _take_upgrade(self, now: float) -> None:
        super()._take_upgrade(now)
        if self.phase == LOGGING_IN:
            self._login_at = now

    def _logged_in(self, event: LoggedIn, now: float) -> None:
        self.phase, self._pause = LIVE, FIRST_PAUSE_SECONDS
        self.session = f"session {next(self.rivals.numbers)}"
        self.rivals.began(self, self._login_at)

    def _frame(self, opcode: int, payload: bytes, now: float) -> None:
        if opcode == CLOSE and int.from_bytes(payload[:2]) in (REPLACED, REFUSED):
            self.wanted = False
        super()._frame(opcode, payload, now)

    def lose(self, now: float) -> None:
        if self.phase == LIVE:
            self.rivals.ended(self, self._heard_at)
        super().lose(now)

    def end(self) -> None:
        """End the session, and do not come back."""
        if self.phase == LIVE:
            self.rivals.ended(self, time.monotonic())
        self.leave()


class Rivals:
    """Users with several devices. Owner of their clients; ``shared`` has the loop and the nodes. ``locks``:
    also users whose oldest session stays. They log in ``pace`` times as often as usual."""

    def __init__(self, shared: Clients, history: History, seed: int, locks: bool, pace: float) -> None:
        self._pause = 2 * LOGIN_SECONDS / pace
        self.shared, self.history = shared, history
        self.numbers = count(1)
        self._chance = random.Random(seed)
        self._due = 0.0
        self._ends: dict[str, list[int]] = defaultdict(list)
        """Object → the ends of sessions that a later login shows to have happened."""
        self.users: dict[str, list[Rival]] = {}
        for app in (SINGLE, REFUSE) if locks else (SINGLE,):
            for user in range(1, USERS + 1):
                rivals = [
                    Rival(self, app, user, user + index, f"{app}, user {user}, device {index + 1}")
                    for index in range(RIVALS)
                ]
                self.users[rivals[0].object] = rivals
        self.all = [rival for rivals in self.users.values() for rival in rivals]

    def look(self, now: float) -> None:
        """Let somebody log in, or leave a session that refuses others."""
        if now < self._due:
            return
        self._due = now + self._chance.uniform(0, self._pause)
        rival = self._chance.choice(self.all)
        if rival.phase == LIVE and rival.object.startswith("lock"):
            rival.end()
        elif rival.phase == AWAY:
            rival.wanted = True

    def began(self, rival: Rival, login_at: float) -> None:
        """A session of the rival has begun."""
        is_lock = rival.object.startswith("lock")
        what: dict[str, Any] = {"holder": rival.session} if is_lock else {"value": rival.session}
        name = "acquire" if is_lock else "write"
        number = self.history.ask(rival.reader.name, name, rival.object, at=login_at, **what)
        self.history.answered(number, **({"granted": True} if is_lock else {}))
        for end in self._ends.pop(rival.object, ()):
            self.history.answered(end)

    def ended(self, rival: Rival, at: float) -> None:
        """A session has ended at this time, or later."""
        if rival.object.startswith("lock"):
            number = self.history.ask(rival.reader.name, "release", rival.object, at=at, holder=rival.session)
            self._ends[rival.object].append(number)

    def calm(self) -> bool:
        """Whether no login is under way, and each user has one session where the newest stays."""
        return all(rival.phase == LIVE or not rival.wanted for rival in self.all) and all(
            sum(rival.phase == LIVE for rival in rivals) == 1
            for object, rivals in self.users.items()
            if object.startswith("register") and any(rival.session for rival in rivals)
        )

    def finish(self) -> None:
        """Note which sessions are there when everything is quiet, and end them."""
        for object, rivals in self.users.items():
            live: list[str | None] = [rival.session for rival in rivals if rival.phase == LIVE]
            if object.startswith("register") and any(rival.session for rival in rivals):
                for session in live or [None]:
                    number = self.history.ask("everybody", "get", object)
                    self.history.answered(number, value=session)
            for rival in rivals:
                rival.leave()
