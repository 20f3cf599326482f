"""The message log against a model of it: whatever is asked, in whatever order, both say the same."""

import itertools
import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from imserver.messenger.messages.log.contract import Appended, Change, Draft, Rejected
from imserver.messenger.messages.log.message_log import MessageLog
from tests.messenger.messages.log.listening import Listening
from tests.stores import OpenStore

NODES: list[MessageLog] = []
"""The logs of two nodes that share one database. Each example has an app of its own there."""
_apps = itertools.count()


@pytest.fixture
def nodes(url: str, open_store: OpenStore) -> Iterator[None]:
    """Two nodes, once on each engine."""
    NODES[:] = [open_store(url).part(MessageLog) for _ in range(2)]
    yield
    NODES.clear()


USERS = st.sampled_from(["a", "b", "c", "D", "系"])
GROUPS = st.integers(1, 6)
ROLES = st.sampled_from(["member", "admin"])
NAMES = st.sampled_from(["", "", "1", "2", "3"])


class Model(RuleBasedStateMachine):
    """One app's log as lists and dictionaries, beside a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.app = f"app {next(_apps)}"
        self.turns = itertools.cycle(NODES)
        self.received: list[int] = []
        for node in NODES:
            node.writer.listener = Listening(self.receive)
        self.entries: list[tuple[int, int, str, str]] = []
        """(conversation, seq, sender, kind); the id is the place, from 1."""
        self.pairs: dict[tuple[str, str], int] = {}
        self.groups: dict[int, set[str]] = {}
        self.known: dict[tuple[str, str], int] = {}
        self.intervals: dict[tuple[str, int], list[list[int | None]]] = {}
        self.roles: dict[tuple[str, int], str] = {}
        self.hidden: set[tuple[str, int]] = set()
        self.read_to: dict[tuple[str, int], int] = {}
        self.floor = 0
        self.bodies: dict[int, bytes] = {}
        """What entries say that do not say nothing."""
        self.edits: dict[int, list[int]] = {}
        self.recalled: set[int] = set()

    def receive(self, _app: str, first: int, last: int, entries: list[Any]) -> None:
        assert [entry.id for entry in entries] == list(range(first, last + 1))
        self.received += [entry.id for entry in entries]

    def enter(self, conversation: int, sender: str, kind: str) -> int:
        seq = 1 + sum(entry[0] == conversation for entry in self.entries)
        self.entries.append((conversation, seq, sender, kind))
        return len(self.entries)

    def admit(self, user: str, conversation: int, role: str = "member") -> None:
        self.intervals.setdefault((user, conversation), []).append([len(self.entries), None])
        self.roles[user, conversation] = role

    def _newest(self, user: str, conversation: int) -> int:
        """Where a conversation is in the list of a user."""
        of_it = (id for id, entry in enumerate(self.entries, 1) if entry[0] == conversation)
        return self.intervals[user, conversation][-1][1] or max(of_it)

    def visible(self, user: str, conversation: int | None = None) -> list[int]:
        return [
            id
            for id in range(self.floor + 1, len(self.entries) + 1)
            for at in [self.entries[id - 1][0]]
            if conversation in (None, at)
            for joined, left in self.intervals.get((user, at), ())
            if cast(int, joined) < id and (left is None or id <= left)
        ]

    @property
    def log(self) -> MessageLog:
        """Each question goes to the other node."""
        return next(self.turns)

    # --- what is done ---------------------------------------------------------------------------------------

    @rule(drafts=st.lists(st.tuples(USERS, st.one_of(USERS, GROUPS), NAMES), max_size=6))
    def append(self, drafts: list[tuple[str, str | int, str]]) -> None:
        batch = []
        for sender, to, name in drafts:
            where: dict[str, Any] = {"to_user": to} if isinstance(to, str) else {"conversation": to}
            batch.append(Draft(sender=sender, client_msg_id=name, **where))
        # Nobody knows the number of a conversation before it is committed.
        there = {*self.groups, *self.pairs.values()}
        refused: dict[tuple[str, str], Rejected] = {}
        for draft, outcome in zip(batch, self.log.writer.append(self.app, batch), strict=True):
            name = (draft.sender, draft.client_msg_id)
            if name in refused:  # who resends while the first waits shares its outcome
                assert outcome == refused[name]
                continue
            self.expect(draft, outcome, there)
            if draft.client_msg_id and isinstance(outcome, Rejected):
                refused[name] = outcome

    def expect(self, draft: Draft, outcome: Appended | Rejected, there: set[int]) -> None:
        name = (draft.sender, draft.client_msg_id)
        if draft.client_msg_id and self.known.get(name, 0) > self.floor:
            assert isinstance(outcome, Appended)
            assert (outcome.entry.id, outcome.repeated) == (self.known[name], True)
            return
        if draft.to_user:
            first, second = sorted((draft.sender, draft.to_user))
            if (first, second) not in self.pairs:
                at = self.pairs[first, second] = 1 + len(self.pairs) + len(self.groups)
                for user in {first, second}:
                    self.admit(user, at)
            at = self.pairs[first, second]
        else:
            at = draft.conversation
            pair = next((pair for pair, number in self.pairs.items() if number == at), None)
            members = self.groups.get(at, set(pair) if pair else None) if at in there else None
            if members is None or draft.sender not in members:
                reason = "unknown_conversation" if members is None else "not_member"
                assert outcome == Rejected(reason)
                return
        assert isinstance(outcome, Appended)
        id = self.enter(at, draft.sender, "message")
        assert (outcome.entry.id, outcome.repeated) == (id, False)
        assert (outcome.entry.conversation, outcome.entry.seq) == self.entries[id - 1][:2]
        if draft.client_msg_id:
            self.known[name] = id

    @rule(about=st.integers(1, 30), recalls=st.booleans(), text=st.sampled_from([b"x", b"y"]))
    def revise(self, about: int, recalls: bool, text: bytes) -> None:
        if not self.floor < about <= len(self.entries):
            return
        at, _, sender, kind = self.entries[about - 1]
        if kind != "message" and about not in self.recalled:
            return
        body = b"" if recalls else text
        draft = Draft(
            sender=sender, kind="recall" if recalls else "edit", body=body, about=about, conversation=at
        )
        (outcome,) = self.log.writer.append(self.app, [draft])
        if about in self.recalled and not recalls:
            assert outcome == Rejected("recalled")
            return
        if at in self.groups and sender not in self.groups[at]:
            assert outcome == Rejected("not_member")
            return
        id = self.enter(at, sender, draft.kind)
        assert isinstance(outcome, Appended)
        assert (outcome.entry.id, outcome.entry.body) == (id, body)
        if not recalls:
            self.edits.setdefault(about, []).append(id)
        for each in (about, *self.edits.get(about, ())):
            self.bodies[each] = body
            if recalls:
                self.entries[each - 1] = (*self.entries[each - 1][:3], "recall")
        if recalls:
            self.recalled.add(about)

    @rule(owner=USERS, users=st.lists(USERS, max_size=3))
    def create(self, owner: str, users: list[str]) -> None:
        change = self.log.groups.create(self.app, owner, "", users)
        at = 1 + len(self.pairs) + len(self.groups)
        assert change.conversation == at
        assert change.users == tuple(dict.fromkeys([owner, *users]))
        assert change.entry is not None
        assert json.loads(change.entry.meta)["users"] == list(change.users)
        self.groups[at] = {owner, *users}
        for user in self.groups[at]:
            self.admit(user, at, "owner" if user == owner else "member")
        self.enter(at, owner, "group")

    @rule(at=GROUPS, users=st.lists(USERS, min_size=1, max_size=3), joins=st.booleans(), role=ROLES)
    def move(self, at: int, users: list[str], joins: bool, role: str) -> None:
        if at in self.groups:  # what is written just before is for nobody who comes, and for all who go
            self.append([(user, at, "") for user in sorted(self.groups[at])[:1]])
        groups = self.log.groups
        change = groups.join(self.app, at, users, "", role) if joins else groups.leave(self.app, at, users)
        if at not in self.groups:
            assert change == Rejected("unknown_conversation")
            return
        moved = dict.fromkeys(user for user in users if (user in self.groups[at]) != joins)
        assert isinstance(change, Change)
        assert change.users == tuple(moved)
        if not moved:
            assert change.entry is None
        elif joins:
            for user in moved:
                self.admit(user, at, role)
            self.groups[at] |= moved.keys()
            self.enter(at, "", "join")
        else:
            id = self.enter(at, "", "leave")
            for user in moved:
                self.intervals[user, at][-1][1] = id
            self.groups[at] -= moved.keys()
        for user in moved:
            self.conversations(user, 0, 9)

    @rule(user=USERS, ids=st.lists(st.integers(1, 30), max_size=3))
    def hide(self, user: str, ids: list[int]) -> None:
        version = self.log.marks.hide(self.app, user, ids)
        assert self.log.marks.since(self.app, user, version).hidden == ()
        self.hidden |= {(user, id) for id in ids if id in self.visible(user)}

    @rule(user=USERS, at=GROUPS, id=st.integers(0, 30))
    def set_read(self, user: str, at: int, id: int) -> None:
        self.log.marks.note(self.app, user, at, read=id)
        if (user, at) in self.intervals:
            upto = self.intervals[user, at][-1][1] or len(self.entries)
            self.read_to[user, at] = max(self.read_to.get((user, at), 0), min(id, upto))

    @rule(save=st.integers(1, 20))
    def expire(self, save: int) -> None:
        self.log.expire(self.app, more_than=save)
        self.floor = max(self.floor, len(self.entries) - save)

    # --- what is asked --------------------------------------------------------------------------------------

    @rule(user=USERS, after=st.integers(0, 30), limit=st.integers(1, 5))
    def sync(self, user: str, after: int, limit: int) -> None:
        due = [id for id in self.visible(user) if id > after]
        entries, more = self.log.entries.sync(self.app, user, after, limit)
        assert ([entry.id for entry in entries], more) == (due[:limit], len(due) > limit)

    @rule(user=USERS, at=GROUPS, before=st.integers(0, 30), limit=st.integers(1, 5))
    def history(self, user: str, at: int, before: int, limit: int) -> None:
        due = [
            id
            for id in self.visible(user, at)
            if (user, id) not in self.hidden and (not before or id < before)
        ]
        entries, more = self.log.entries.history(self.app, user, at, before, limit)
        assert ([entry.id for entry in entries], more) == (due[-limit:], len(due) > limit)

    @rule(user=USERS, before=st.integers(0, 30), limit=st.integers(1, 5))
    def conversations(self, user: str, before: int, limit: int) -> None:
        rows = sorted(
            ((self._newest(user, at), at) for who, at in self.intervals if who == user), reverse=True
        )
        due = [(each, at) for each, at in rows if not before or each < before]
        page, more = self.log.conversations.page(self.app, user, before, limit)
        assert [(each.position, each.conversation.id) for each in page] == due[:limit]
        assert more == (len(due) > limit)
        for conversation in page:
            at = conversation.conversation.id
            since, upto = self.intervals[user, at][-1]
            now = [id for id in self.visible(user, at) if id > cast(int, since) and (not upto or id <= upto)]
            shown = [id for id in now if (user, id) not in self.hidden]
            assert (conversation.last.id if conversation.last else 0) == (shown[-1] if shown else 0)
            read = self.read_to.get((user, at), 0)
            assert (conversation.read, conversation.role) == (read, self.roles[user, at])
            rows = [(id, *self.entries[id - 1]) for id in now]
            assert conversation.unread == sum(
                id > read and kind == "message" and sender != user for id, _, _, sender, kind in rows
            )

    @rule(at=GROUPS, after=USERS, limit=st.integers(1, 5))
    def members(self, at: int, after: str, limit: int) -> None:
        reader = self.log.conversations
        due = [user for user in sorted(self.groups.get(at, ())) if user > after][:limit]
        if at in self.groups:
            found = [(row.user, row.role) for row in reader.members(self.app, at, after, limit)]
            assert found == [(user, self.roles[user, at]) for user in due]
            assert (reader.member(self.app, at, after) is not None) == (after in self.groups[at])

    @rule(user=USERS, other=USERS)
    def between(self, user: str, other: str) -> None:
        first, second = sorted((user, other))
        found = self.log.conversations.between(self.app, user, other)
        assert (found.id if found else None) == self.pairs.get((first, second))

    @rule(user=USERS)
    def marks(self, user: str) -> None:
        found = self.log.marks.since(self.app, user, 0)
        assert set(found.hidden) == {id for who, id in self.hidden if who == user and id > self.floor}
        assert {at: id for at, id in found.reads.items() if id} == {
            at: id for (who, at), id in self.read_to.items() if who == user and id
        }

    @invariant()
    def the_log_is_whole(self) -> None:
        entries = self.log.entries.read(self.app, 0, 1000)
        assert [entry.id for entry in entries] == list(range(self.floor + 1, len(self.entries) + 1))
        assert [
            (entry.conversation, entry.seq, entry.sender, entry.kind) for entry in entries
        ] == self.entries[self.floor :]
        assert [entry.body for entry in entries] == [self.bodies.get(entry.id, b"") for entry in entries]
        assert self.received == list(range(1, len(self.entries) + 1))


@pytest.mark.usefixtures("nodes")
def test_the_log_is_as_its_model_says(url: str) -> None:
    """Any sequence of appends, resends, joins, leaves, marks and questions, on either node."""
    examples = 60 if url.startswith("sqlite") else 15
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
