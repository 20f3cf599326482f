"""A small messaging system with clients in virtual time. It can be told to
break one promise.

It shares no code with the server or the load tool: a checker that finds its
faults does not know them.
"""

import heapq
import json
from collections.abc import Callable
from random import Random
from typing import Any, Final

FAULTS: Final = {
    "acknowledges without storing": "lost",
    "forgets after a restart": "lost",
    "stores a retried message twice": "doubled",
    "shows a message twice": "seen twice",
    "shows two messages in the wrong order": "backwards",
    "leaves a message out": "skipped",
    "stops showing": "missing",
    "acknowledges a wrong place": "moved",
    "gives a seq twice": "two at one place",
    "leaves a seq out": "hole",
    "reads an old state": "stale",
    "shows what nobody sent": "invented",
    "changes a text": "invented",
    "stores what it refused": "refused",
    "lets a later message overtake": "overtaken",
    "stores in another order than shown": "two at one place",
    "gives a lock to two": "not linearizable",
    "does not free a lock": "not linearizable",
    "lets an older login win": "not linearizable",
    "moves a read position back": "not linearizable",
    "takes two answers": "not linearizable",
    "counts a vote too many": "not linearizable",
    "shows what was erased": "not linearizable",
    "shows other orders to others": "other order",
}
"""Fault → the rule that it breaks."""
WITHOUT_SEQS: Final = {"shows other orders to others"}
OF_WITHOUT_SEQS: Final = {
    fault: "other order" if rule in ("backwards", "two at one place") else rule
    for fault, rule in FAULTS.items()
    if rule not in ("moved", "hole", "not linearizable")
    and fault != "gives a seq twice"
}
"""The same for a system without places; faults that only concern places are
missing."""
CLIENTS: Final = 5
ROUNDS: Final = 60


class FaultySystem:
    """One run. ``lines``: its history, in the order of virtual time."""

    def __init__(self, seed: int, fault: str = "", *, has_seqs: bool = True) -> None:
        self.random = Random(seed)
        self.fault, self.at_round = (
            fault,
            self.random.randrange(ROUNDS // 3, ROUNDS // 2),
        )
        self.has_seqs = has_seqs
        self.time = 0.0
        self.number = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.lines: list[str] = []
        self.log: list[str] = []
        self.skipped_seqs = 0
        self.reserved: int | None = None
        self.last_shown = [0.0] * CLIENTS
        self.delayed: dict[int, tuple[int | None, str]] = {}
        self.stopped: set[int] = set()
        self.lock: str | None = None
        self.login: str | None = None
        self.position = 0
        self.answer: str | None = None
        self.votes: list[list[str]] = []
        self.text: str | None = None

    def run(self) -> list[str]:
        """Play all rounds and the reads at the end."""
        for round in range(ROUNDS):
            broken = self.fault if round == self.at_round else ""
            client = self.random.randrange(CLIENTS)
            self._later(
                self.random.random(),
                lambda c=client, r=round, b=broken: self._send(c, r, b),
            )  # type: ignore[misc]
            if round % 4 == 0:
                self._later(
                    self.random.random(), lambda c=client, r=round: self._objects(c, r)
                )  # type: ignore[misc]
            if round % 10 == 9:
                self._later(
                    self.random.random(),
                    lambda c=client, r=round: self._read(c, r > self.at_round),
                )  # type: ignore[misc]
            self._play(self.time + 0.3)
        self._play(self.time + 60)
        for client in range(CLIENTS):
            self._write("followed", client=self._name(client), object="talk")
            self._read(client, old=False)
        self._play(self.time + 60)
        return self.lines

    # --- time -----------------------------------------------------------------

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self.number += 1
        heapq.heappush(self._due, (self.time + seconds, self.number, act))

    def _play(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.time, _, act = heapq.heappop(self._due)
            act()
        self.time = until

    def _write(self, event: str, **fields: Any) -> None:
        self.lines.append(
            json.dumps({"event": event, "at": round(self.time, 6), **fields})
        )

    def _name(self, client: int) -> str:
        return f"client-{client}"

    def _ask(
        self,
        client: int,
        name: str,
        object: str,
        act: Callable[[], dict[str, Any] | None],
        **fields: Any,
    ) -> None:
        """An operation that takes effect between begin and end. ``act()``: the
        answer; None: a refusal."""
        self.number += 1
        number = self.number
        self._write(
            "ask",
            number=number,
            client=self._name(client),
            name=name,
            object=object,
            **fields,
        )

        def effect() -> None:
            answer = act()
            unknown = answer is not None and answer.pop("unknown", False)
            if not unknown:
                self._later(self.random.random() / 2, lambda: end(answer))

        def end(answer: dict[str, Any] | None) -> None:
            self._write(
                "fail" if answer is None else "ok", number=number, **(answer or {})
            )

        self._later(self.random.random() / 2, effect)

    # --- messages -------------------------------------------------------------

    def _send(self, client: int, round: int, fault: str) -> None:
        message = f"m{round}"
        self._ask(
            client,
            "send",
            "talk",
            lambda: self._store(message, round, fault),
            message=message,
        )

    def _store(self, message: str, round: int, fault: str) -> dict[str, Any] | None:
        if fault == "acknowledges without storing":
            return self._acknowledgement(len(self.log) + self.skipped_seqs + 1)
        if round % 13 == 7 and not fault:
            return None  # refused, as it may be
        if fault == "leaves a seq out":
            self.skipped_seqs += 1
        if fault == "lets a later message overtake":
            self.reserved = len(self.log)
            self.log.append("")
        elif self.reserved is not None and round > self.at_round + 5:
            # It takes the place before one that was acknowledged long ago; only
            # now all are shown.
            index = self.reserved
            self.reserved = None
            self.log[index] = message
            for seq in range(index + 1, len(self.log) + 1):
                for client in range(CLIENTS):
                    self._show(client, seq, self.log[seq - 1])
            return self._acknowledgement(index + 1)
        seq = self._append(message, shown=True, fault=fault)
        if fault == "stores a retried message twice":
            self._append(message, shown=False)
        if fault == "stores in another order than shown":
            self.log[-1], self.log[-2] = self.log[-2], self.log[-1]
        if fault == "gives a seq twice":
            self.log.append("twin")
            for other in range(1, CLIENTS, 2):
                self._show(other, seq, "twin")
        if fault == "forgets after a restart":
            self._later(3.0, lambda: self.log.__delitem__(slice(-3, None)))
        if fault == "stores what it refused":
            return None
        answer = self._acknowledgement(seq + (fault == "acknowledges a wrong place"))
        if round % 17 == 11 and not fault:
            answer["unknown"] = True  # the answer is lost, as it may be
        return answer

    def _acknowledgement(self, seq: int) -> dict[str, Any]:
        return {"place": seq} if self.has_seqs else {}

    def _append(self, message: str, *, shown: bool, fault: str = "") -> int:
        self.log.append(message)
        seq = len(self.log) + self.skipped_seqs
        if shown and self.reserved is None:
            victim = self.random.randrange(CLIENTS)
            for client in range(CLIENTS):
                self._deliver(client, seq, message, fault if client == victim else "")
        return seq

    def _deliver(self, client: int, seq: int, message: str, fault: str) -> None:
        if fault == "stops showing":
            self.stopped.add(client)
        if client in self.stopped or fault == "leaves a message out":
            return
        if fault in (
            "shows two messages in the wrong order",
            "shows other orders to others",
        ):
            self.delayed[client] = (seq, message)
            return
        shown = message
        if fault == "changes a text":
            shown = message + "!"
        self._show(client, seq, shown)
        if client in self.delayed:
            self._show(client, *self.delayed.pop(client))
        if fault == "shows a message twice":
            self._show(client, seq, message)
        if fault == "shows what nobody sent":
            self._show(client, None, "ghost")

    def _show(self, client: int, seq: int | None, message: str) -> None:
        # In the order of the calls for one client, with a delay.
        at = max(self.last_shown[client], self.time + self.random.random())
        self.last_shown[client] = at + 0.001
        fields: dict[str, Any] = (
            {"place": seq} if self.has_seqs and seq is not None else {}
        )
        self._later(
            self.last_shown[client] - self.time,
            lambda: self._write(
                "see",
                client=self._name(client),
                object="talk",
                message=message,
                **fields,
            ),
        )

    def _read(self, client: int, old: bool) -> None:
        def state() -> dict[str, Any]:
            log = (
                self.log[:3]
                if old and self.fault == "reads an old state"
                else self.log[: self.reserved]
            )
            first = 1 + self.skipped_seqs  # what was left out is before the newest ones
            seqs = [*range(1, len(log) + 1)]
            if self.skipped_seqs and len(log) > self.at_round // 2:
                seqs = [seq if seq < first + 3 else seq + 1 for seq in seqs]
            return {
                "messages": [
                    [seq if self.has_seqs else None, m]
                    for seq, m in zip(seqs, log, strict=True)
                ]
            }

        self._ask(client, "read", "talk", state, whole=True)

    # --- other objects --------------------------------------------------------

    def _objects(self, client: int, round: int) -> None:
        name = self._name(client)
        late = round > self.at_round
        self._lock_for(client, f"{name}, {round}", late)
        self._later(
            0.6, lambda: self._lock_for((client + 1) % CLIENTS, f"other, {round}", late)
        )
        self._ask(
            client,
            "write",
            "register:login",
            lambda: self._login(f"s{round}", late),
            value=f"s{round}",
        )
        self._later(
            1.0,
            lambda: self._ask(
                client, "get", "register:login", lambda: {"value": self.login}
            ),
        )
        self._ask(
            client, "raise", "maximum:read", lambda: self._raise(round), value=round
        )
        self._later(
            1.1,
            lambda: self._ask(client, "get", "maximum:read", lambda: self._get(late)),
        )
        self._ask(
            client,
            "decide",
            "once:vote",
            lambda: {"value": self._decide(name, late)},
            value=name,
        )
        vote = {"user": name, "vote": f"v{round}", "need": 2}
        self._ask(
            client,
            "decide",
            "votes:poll",
            lambda: self._vote(name, f"v{round}", late),
            **vote,
        )
        self._ask(client, "get", "votes:poll", lambda: {"value": [*self.votes]})
        if late:
            self._ask(client, "remove", "text:note", lambda: self._write_text(None))
        else:
            self._ask(
                client, "write", "text:note", lambda: self._write_text(name), value=name
            )
        self._later(
            1.2,
            lambda: self._ask(client, "get", "text:note", lambda: {"value": self.text}),
        )

    def _vote(self, user: str, vote: str, late: bool) -> dict[str, Any]:
        counts = len(self.votes) < 2 + (late and self.fault == "counts a vote too many")
        if counts and user not in dict(self.votes):
            self.votes.append([user, vote])
        return {"accepted": [user, vote] in self.votes}

    def _write_text(self, text: str | None) -> dict[str, Any]:
        if text is not None or self.fault != "shows what was erased":
            self.text = text
        return {}

    def _lock_for(self, client: int, holder: str, late: bool) -> None:
        def release() -> dict[str, Any]:
            return self._release(holder, late)

        def acquire() -> dict[str, Any]:
            return {"granted": self._acquire(holder, late)}

        self._ask(client, "acquire", "lock:cron", acquire, holder=holder)
        self._later(
            1.4,
            lambda: self._ask(client, "release", "lock:cron", release, holder=holder),
        )

    def _acquire(self, name: str, late: bool) -> bool:
        if self.lock in (None, name) or (late and self.fault == "gives a lock to two"):
            self.lock = name
            return True
        return False

    def _release(self, name: str, late: bool) -> dict[str, Any]:
        if self.lock == name and not (late and self.fault == "does not free a lock"):
            self.lock = None
        return {}

    def _login(self, value: str, late: bool) -> dict[str, Any]:
        if not (late and self.fault == "lets an older login win"):
            self.login = value
        return {}

    def _raise(self, value: int) -> dict[str, Any]:
        self.position = max(self.position, value)
        return {}

    def _get(self, late: bool) -> dict[str, Any]:
        return {
            "value": 4
            if late and self.fault == "moves a read position back"
            else self.position
        }

    def _decide(self, name: str, late: bool) -> str:
        if self.answer is None or (late and self.fault == "takes two answers"):
            self.answer = name
        return self.answer
