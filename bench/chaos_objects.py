"""What a chaos run does besides messages, for the checker: read positions, ids
that are sent several times, edits, recalls, reactions, threads, questions,
polls, erasures, scheduled messages, reminders, and sessions that exclude each
other. A few operations a second, at any node. ``checker/README.md`` has the
objects. What nobody was answered may have happened.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from bench.chaos_client import (
    AWAY,
    FIRST_PAUSE_SECONDS,
    LIVE,
    LOGGING_IN,
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
SINGLE = 106
REFUSE = 107
"""The apps in which the newest session of a user stays, and the oldest one."""
CONFIG: Final = f"""\
  {APP}: {{{{open: true}}}}
  "{SINGLE}": {{{{open: true, login_policy: single}}}}
  "{REFUSE}": {{{{open: true, login_policy: refuse}}}}
"""
ASKERS: Final = 4
PAUSE_SECONDS: Final = 0.12
"""Between two requests of one asker, on average."""
ROUND_SECONDS: Final = 10.0
"""After this time there are other objects, so that what was never answered
concerns few operations."""
CLAIM_SECONDS: Final = 4.0
"""After this time another id is sent."""
FREE_SECONDS: Final = 9.0
"""A node that is killed within 0.25 s after it accepted the id of a push has
not told Redis: the id is free again 10 s later."""
MESSAGES = 6
USERS = 6
RIVALS = 3
OWNER = "writer"
LIKE = "\N{THUMBS UP SIGN}"
WAVE = "\N{WAVING HAND SIGN}"
LOGIN_SECONDS: Final = 1.0
"""Between two logins, or ends of sessions, of all users together."""
REPLACED = 4500
REFUSED = 4501
ENDING_SECONDS = 120.0
DUE_SECONDS = 30.0


class Subjects(NamedTuple):
    """What the askers act on for a while: a group, the ids of messages of its
    owner (the fourth: a poll), and that of a member who will be erased;
    ``saved``: the conversation of a keeper with themselves."""

    number: int
    conversation: int = 0
    ids: list[int] = []  # noqa: RUF012
    farewell: int = 0
    saved: int = 0

    def user(self, kind: str) -> str:
        return f"{kind} {self.number}"

    @property
    def word(self) -> str:
        """The text of the farewell."""
        return f"farewell{self.number}"

    @property
    def traces(self) -> dict[str, str]:
        """Object → what the leaver leaves there until the erasure."""
        who = self.user("leaver")
        texts = {f"text:message of {who}": self.word, f"text:words of {who}": self.word}
        return texts | {f"text:reaction of {who} to {id}": WAVE for id in self.ids[-2:]}


class Turn(NamedTuple):
    """An asker is about to do something. ``word``: nobody else says it.
    ``claim``: what others claim, too."""

    asker: int
    word: str
    claim: int
    chance: random.Random
    subjects: Subjects
    target: Target

    def page(self, path: str, user: str, **more: object) -> str:
        return f"{path}?{urlencode({'app': APP, 'user': user, **more})}"

    def message(self, id: int) -> str:
        where = {
            "limit": 1,
            "before": id + 1,
            "conversation": self.subjects.conversation,
        }
        return self.page("/messages", self.subjects.user("reader"), **where)


class Operation(NamedTuple):
    """A request, and the operations that it is for the checker. ``share``: how
    often askers choose it beside the others; 0: it is only scheduled. ``read``:
    what its answer says; KeyError: nothing. Without a ``body`` it is a GET."""

    share: int
    name: str
    objects: Sequence[str]
    path: str
    body: Json | None
    read: Callable[[Json], Json]
    arguments: Mapping[str, Any] = MappingProxyType({})


def _done(name: str) -> Callable[[Json], Json]:
    return lambda answer: {"done": answer[name] is not None}


def _erased(answer: Json) -> Json:
    """Raises KeyError if the erasure goes on later: traces may still be read."""
    if not answer["erased"]:
        raise KeyError("erased")
    return {"done": True}


def _text(answer: Json) -> Json:
    row = ([*answer["messages"], None])[0]
    return {"value": row and row.get("text")}


def _pushed(answer: Json) -> Json:
    granted = {"held": True, "sent": True, "repeated": False, "id_reused": False}
    return {"granted": granted[answer.get("code") or answer["results"][0]["status"]]}


def _has(emoji: str, user: str = "") -> Callable[[Json], Json]:
    """Whether a message has a reaction, of a user if one is named."""

    def read(answer: Json) -> Json:
        row = ([*answer["messages"], None])[0] or {}
        rows = [each for each in row.get("reactions", ()) if each["emoji"] == emoji]
        users = [user for each in rows for user in each["users"]]
        return {"value": emoji if (user in users if user else users) else None}

    return read


def _reacted(turn: Turn, number: int) -> Operation:
    user = str(number)
    id = turn.subjects.ids[1]
    return Operation(
        6, "get", [f"register:{user}, {id}"], turn.message(id), None, _has(LIKE, user)
    )


def _traces(turn: Turn) -> list[Operation]:
    """Look at what the member who will be erased has left."""
    subjects = turn.subjects
    found = turn.page("/messages/search", subjects.user("reader"), text=subjects.word)
    farewell = turn.message(subjects.farewell)
    looks: list[tuple[str, Callable[[Json], Json]]] = [
        (farewell, _text),
        (found, _text),
    ]
    looks += [(turn.message(id), _has(WAVE)) for id in subjects.ids[-2:]]
    rows = zip(subjects.traces, looks, strict=True)
    return [
        Operation(4, "get", [object], path, None, read) for object, (path, read) in rows
    ]


def _answer(turn: Turn) -> Operation:
    """Answer a question that others answer, too: one user on several devices,
    or several users."""
    question = operations(turn)["answers"]
    need = 1 + turn.claim % 2
    row = post(
        turn.target, f"/api/v1{question.path}", {"app": APP, **(question.body or {})}
    )
    user = str(turn.asker if need > 1 else 0)
    body = {"user": user, "id": row.get("id", 0), "value": str(turn.asker)}
    read = lambda answer: {"accepted": answer["accepted"]}  # noqa: E731
    vote = {"user": user, "vote": body["value"], "need": need}
    return Operation(0, "decide", question.objects, "/asks/answer", body, read, vote)


def operations(turn: Turn) -> dict[str, Operation]:
    """What an asker may do by one request, by name."""
    subjects = turn.subjects
    word = turn.word
    user = str(turn.asker)
    first, second, third, poll, *_ = subjects.ids
    conversation = subjects.conversation
    raised = turn.chance.choice(subjects.ids)
    reader, keeper = map(subjects.user, ("reader", "keeper"))
    owned = {"user": OWNER, "id": first}
    leaver = {"user": subjects.user("leaver")}
    remove = turn.chance.random() < 0.5
    choices = turn.chance.choice(([], [0], [1]))
    vote = [f"register:vote of {user}, {poll}"]
    ballot = {"user": user, "id": poll}
    mine = lambda answer: {"value": ([*answer["mine"], None])[0]}  # noqa: E731
    claim = f"id {turn.claim}"
    push = f"push {turn.claim}"
    name = f"{conversation}, {turn.claim}"
    claimed = {"user": "sender", "to": "receiver", "text": word, "client_msg_id": claim}
    pushed = {"user": "nobody", "text": word, "id": push, "ttl_seconds": 5}
    react = {"user": user, "id": second, "emoji": LIKE, "remove": remove}
    reply = {"user": user, "conversation": conversation, "thread": third, "text": word}
    options = [{"text": value, "value": value} for value in map(str, range(ASKERS))]
    question = {
        "user": OWNER,
        "conversation": conversation,
        "text": name,
        "client_msg_id": name,
    }
    question |= {"need": 1 + turn.claim % 2, "options": options}
    votes = lambda answer: {  # noqa: E731
        "value": [(each["user"], each["value"]) for each in answer["answers"]]
    }
    repeated = lambda answer: {"granted": not answer["repeated"]}  # noqa: E731
    read_until = lambda answer: {"value": answer["conversations"][0]["read"]}  # noqa: E731
    texts = lambda answer: {  # noqa: E731
        "messages": [(None, row["text"]) for row in answer["messages"]]
    }
    thread = turn.page("/threads/get", reader, thread=third, limit=200)
    saved = turn.page("/messages", keeper, conversation=subjects.saved, limit=200)
    remind = {"user": user, "to": keeper, "text": word}
    reminders = [f"reminders of {keeper}"]
    read = {"user": reader, "conversation": conversation, "id": raised}
    objects = (
        [f"maximum:{reader}"],
        [f"text:{first}"],
        [f"thread {third}"],
        [f"register:{user}, {second}"],
    )
    position, text, answers, reaction = objects
    done = _done("repeated")
    holder = {"holder": word}
    like = {"value": None if remove else LIKE}
    act = Operation
    chosen = ballot | {"choices": choices}
    voted = {"value": ([*choices, None])[0]}
    return {
        "claim id": act(
            4, "acquire", [f"lock:{claim}"], "/messages/send", claimed, repeated, holder
        ),
        "claim push": act(
            6, "acquire", [f"lock:{push}"], "/push", pushed, _pushed, holder
        ),
        "raise": act(
            5,
            "raise",
            position,
            "/messages/read",
            read,
            _done("read"),
            {"value": raised},
        ),
        "position": act(
            6, "get", position, turn.page("/conversations", reader), None, read_until
        ),
        "edit": act(
            2,
            "write",
            text,
            "/messages/edit",
            {**owned, "text": word},
            done,
            {"value": word},
        ),
        "recall": act(1, "remove", text, "/messages/recall", owned, done),
        "edited": act(3, "get", text, turn.message(first), None, _text),
        "react": act(
            5, "write", reaction, "/messages/react", react, _done("conversation"), like
        ),
        "reacted": _reacted(turn, turn.chance.randrange(ASKERS)),
        "reply": act(
            2, "send", answers, "/messages/send", reply, done, {"message": word}
        ),
        "thread": act(2, "read", answers, thread, None, texts, {"whole": True}),
        "remind": act(
            0, "send", reminders, "/messages/send", remind, done, {"message": word}
        ),
        "reminders": act(2, "read", reminders, saved, None, texts, {"whole": True}),
        "vote": act(5, "write", vote, "/asks/answer", chosen, _done("accepted"), voted),
        "voted": act(4, "get", vote, "/asks/get", ballot, mine),
        "answers": act(4, "get", [f"votes:{name}"], "/asks/create", question, votes),
        "erase": act(1, "remove", [*subjects.traces], "/users/erase", leaver, _erased),
        # see _answer
        "answer": act(8, "decide", [f"votes:{name}"], "/asks/create", question, votes),
        "trace": turn.chance.choice(_traces(turn)),
    }


class Askers:
    """Threads that do this, ``pace`` times as often as usual. Owner of what
    they share. ``locks``: they claim ids of pushes, too, since all nodes reach
    Redis and each other."""

    def __init__(
        self,
        history: History,
        targets: list[Target],
        seed: int,
        pace: float,
        locks: bool,
    ) -> None:
        self._pause = 2 * PAUSE_SECONDS / pace
        self._locks = locks
        self.history = history
        self.targets = targets
        self.subjects: list[Subjects] = []
        """Of each round; the askers act on the last ones."""
        # number of the sending → message whose end is not known yet
        self.scheduled: dict[int, Json] = {}
        self.begin = time.monotonic()
        self.is_over = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(number, random.Random(seed + number)),
                daemon=True,
            )
            for number in range(ASKERS)
        ]
        for thread in self._threads:
            thread.start()

    def _overdue(self, path: str) -> list[Any]:
        """Scheduled messages of a user that should have been sent. One that was
        made while the clock of the database was ahead is due an hour later."""
        answer = fetch(self.targets[0], path)
        if "scheduled" not in answer:
            return [path]  # the server does not answer yet
        now = time.time() * 1000
        return [row for row in answer["scheduled"] if row["due"] <= now]

    def stop(self) -> None:
        """Do nothing more."""
        self.is_over.set()
        for thread in self._threads:
            thread.join(ENDING_SECONDS)

    def finish(self) -> None:
        """Erase and look at everything once more, when nothing is broken any
        more. Raises BenchError."""
        deadline = time.monotonic() + DUE_SECONDS
        for number, own in [*self.scheduled.items()]:
            path = f"/api/v1/scheduled?{urlencode({'app': APP, 'user': own['user']})}"
            while rows := self._overdue(path):
                if time.monotonic() > deadline:
                    raise BenchError(f"scheduled messages wait: {rows}")
                time.sleep(0.2)
            self._cancel(self.targets[0], number)
        for subjects in self.subjects:
            turn = Turn(0, "", 0, random.Random(), subjects, self.targets[0])
            deadline = time.monotonic() + ENDING_SECONDS
            reacted = [_reacted(turn, number) for number in range(ASKERS)]
            acts = operations(turn)
            last = [
                acts[name] for name in ("thread", "reminders", "edited", "position")
            ]
            last += [*reacted, acts["erase"], *_traces(turn)]
            for operation in last:
                while not self._ask("everybody", turn.target, operation):
                    if time.monotonic() > deadline:
                        raise BenchError(f"{operation.path} has no answer")

    def _run(self, number: int, chance: random.Random) -> None:
        while not self.is_over.wait(chance.uniform(0, self._pause)):
            age = time.monotonic() - self.begin
            target = chance.choice(self.targets)
            round = int(age / ROUND_SECONDS)
            with suppress(BenchError, LookupError):
                if number == 0 and (
                    not self.subjects or self.subjects[-1].number != round
                ):
                    self.subjects.append(self._prepare(target, round))
                elif self.subjects:
                    word = f"{number}-{chance.getrandbits(32):x}"
                    turn = Turn(
                        number,
                        word,
                        int(age / CLAIM_SECONDS),
                        chance,
                        self.subjects[-1],
                        target,
                    )
                    acts = operations(turn)
                    if chance.random() < 0.1:
                        self._schedule(f"asker {number + 1}", turn, acts)
                        continue
                    if not self._locks:
                        del acts["claim push"]
                    (name,) = chance.choices(
                        [*acts], [each.share for each in acts.values()]
                    )
                    if name == "answer":
                        operation = _answer(turn)
                    else:
                        operation = acts[name]
                    self._ask(f"asker {number + 1}", target, operation)

    def _ask(self, client: str, target: Target, operation: Operation) -> bool:
        """Do something, and record it. Returns whether an answer came that says
        something."""
        what = operation.arguments
        objects = operation.objects
        numbers = [
            self.history.ask(client, operation.name, object, **what)
            for object in objects
        ]
        path = f"/api/v1{operation.path}"
        body = operation.body
        with suppress(BenchError, LookupError):
            if body is None:
                answer = fetch(target, path)
            else:
                answer = post(target, path, {"app": APP, **body})
            more = operation.read(answer)
            for number in numbers:
                self.history.answered(number, **more)
            if operation.path == "/push" and more["granted"]:
                self.history.ask(
                    client,
                    "expire",
                    operation.objects[0],
                    at=time.monotonic() + FREE_SECONDS,
                )
            return True
        return False

    def _schedule(self, client: str, turn: Turn, acts: dict[str, Operation]) -> None:
        """Send a reply in a thread later, or be reminded of a message; cancel
        some when they are due."""
        chance = turn.chance
        seconds = turn.chance.randrange(3)
        target = turn.target
        act, path = chance.choice(
            ((acts["reply"], "create"), (acts["remind"], "remind"))
        )
        body = {"app": APP, **(act.body or {})}
        if path == "remind":
            id = post(target, f"/api/v1{act.path}", body)["id"]
            body = {"app": APP, "user": body["to"], "message": id}
        body |= {"client_msg_id": turn.word, "seconds": seconds}
        number = self.history.ask(client, act.name, act.objects[0], **act.arguments)
        self.scheduled[number] = {"app": APP, "user": body["user"], "id": turn.word}
        post(target, f"/api/v1/scheduled/{path}", body)
        if chance.random() < 0.5:
            time.sleep(max(0.0, chance.gauss(seconds, 0.03)))
            self._cancel(chance.choice(self.targets), number)

    def _cancel(self, target: Target, number: int) -> None:
        answer = post(target, "/api/v1/scheduled/cancel", self.scheduled[number])
        if "cancelled" in answer or answer["code"] == "already_sent":
            del self.scheduled[number]
            (self.history.refused if "cancelled" in answer else self.history.answered)(
                number
            )

    def _prepare(self, target: Target, round: int) -> Subjects:
        """Make what is acted on. Raises LookupError if not all is stored."""

        def make(path: str, user: str, **body: object) -> Json:
            return post(target, f"/api/v1{path}", {"app": APP, "user": user, **body})

        blank = Subjects(round)
        keeper, reader, leaver = map(blank.user, ("keeper", "reader", "leaver"))
        members = [reader, leaver, *map(str, range(ASKERS))]
        group = make("/groups/create", OWNER, name=str(round), members=members)["group"]
        post_to_group = {"app": APP, "group": group, "sender": OWNER, "store": True}
        stored = [
            post(target, "/api/v1/push", post_to_group | {"text": str(number)})[
                "results"
            ][0]["stored"]
            for number in range(MESSAGES)
        ]
        conversation = stored[0]["conversation"]
        ids = [each["id"] for each in stored]
        poll = {
            "text": "?",
            "poll": True,
            "options": [{"text": each, "value": each} for each in "ab"],
        }
        ids[3] = make("/asks/create", OWNER, conversation=conversation, **poll)["id"]
        farewell = make(
            "/messages/send", leaver, conversation=conversation, text=blank.word
        )["id"]
        saved = make("/messages/send", keeper, to=keeper, text="?")["conversation"]
        self.history.answered(
            self.history.ask(keeper, "send", f"reminders of {keeper}", message="?")
        )
        for id in ids[-2:]:
            make("/messages/react", leaver, id=id, emoji=WAVE)["conversation"]
        subjects = Subjects(round, conversation, ids, farewell, saved)
        for object, value in {f"text:{ids[0]}": "0", **subjects.traces}.items():
            number = self.history.ask(OWNER, "write", object, value=value)
            if not object.startswith("text:words"):  # those are found a moment later
                self.history.answered(number)
        return subjects


class Rival(Client):
    """One of the devices of a user that exclude each other. It logs in when it
    is wanted, and comes back from lost connections, until it is replaced or
    refused."""

    def __init__(
        self, rivals: Rivals, app: int, user: int, index: int, name: str
    ) -> None:
        dialect = CmdDialect(app, user, "", acks=False, resumes=False)
        super().__init__(rivals.shared, index, dialect, name)
        self.counts = Counts()  # those of the chat are figures
        self.rivals = rivals
        self.object = f"{'register' if app == SINGLE else 'lock'}:user {user}"
        self.session = ""
        self.wanted = False
        self._login_at = 0.0

    def ready(self, fd: int, mask: int) -> None:
        self._heard_before = self._heard_at
        super().ready(fd, mask)

    def _take_upgrade(self, now: float) -> None:
        super()._take_upgrade(now)
        if self.phase == LOGGING_IN:
            self._login_at = now

    def _logged_in(self, event: LoggedIn, now: float) -> None:
        self.phase = LIVE
        self._pause = FIRST_PAUSE_SECONDS
        self.session = f"session {next(self.rivals.numbers)}"
        self.rivals.began(self, self._login_at)

    def _frame(self, opcode: int, payload: bytes, now: float) -> None:
        if opcode == CLOSE and int.from_bytes(payload[:2]) in (REPLACED, REFUSED):
            # it counted as dead while it was silent
            self.wanted = False
            self._heard_at = self._heard_before
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
    """Users with several devices. Owner of their clients; ``shared`` has the
    loop and the nodes. ``locks``: also users whose oldest session stays. They
    log in ``pace`` times as often as usual."""

    def __init__(
        self, shared: Clients, history: History, seed: int, locks: bool, pace: float
    ) -> None:
        self._pause = 2 * LOGIN_SECONDS / pace
        self.shared = shared
        self.history = history
        self.numbers = count(1)
        self._chance = random.Random(seed)
        self._due = 0.0
        self._ends: dict[str, list[int]] = defaultdict(list)
        """Object → the ends of sessions that a later login shows to have
        happened."""
        self.users: dict[str, list[Rival]] = {}
        for app in (SINGLE, REFUSE) if locks else (SINGLE,):
            for user in range(1, USERS + 1):
                rivals = [
                    Rival(
                        self,
                        app,
                        user,
                        user + index,
                        f"{app}, user {user}, device {index + 1}",
                    )
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
            self.race(
                [rival] if self._chance.random() < 0.5 else self.users[rival.object]
            )

    def race(self, rivals: Sequence[Rival]) -> None:
        """Let those log in at once that are away."""
        for rival in rivals:
            rival.wanted = rival.wanted or rival.phase == AWAY

    def began(self, rival: Rival, login_at: float) -> None:
        """A session of the rival has begun."""
        is_lock = rival.object.startswith("lock")
        what: dict[str, Any] = (
            {"holder": rival.session} if is_lock else {"value": rival.session}
        )
        name = "acquire" if is_lock else "write"
        number = self.history.ask(
            rival.reader.name, name, rival.object, at=login_at, **what
        )
        self.history.answered(number, **({"granted": True} if is_lock else {}))
        for end in self._ends.pop(rival.object, ()):
            self.history.answered(end)

    def ended(self, rival: Rival, at: float) -> None:
        """A session has ended at this time, or later."""
        if rival.object.startswith("lock"):
            number = self.history.ask(
                rival.reader.name, "release", rival.object, at=at, holder=rival.session
            )
            self._ends[rival.object].append(number)

    def calm(self) -> bool:
        """Whether no login is under way, and each user has one session where
        the newest stays."""
        return all(
            rival.phase == LIVE or not rival.wanted for rival in self.all
        ) and all(
            sum(rival.phase == LIVE for rival in rivals) == 1
            for object, rivals in self.users.items()
            if object.startswith("register") and any(rival.session for rival in rivals)
        )

    def finish(self) -> None:
        """Note which sessions are there when everything is quiet, and end
        them."""
        for object, rivals in self.users.items():
            live: list[str | None] = [
                rival.session for rival in rivals if rival.phase == LIVE
            ]
            if object.startswith("register") and any(rival.session for rival in rivals):
                for session in live or [None]:
                    number = self.history.ask("everybody", "get", object)
                    self.history.answered(number, value=session)
            for rival in rivals:
                rival.leave()
