"""The message log against a model of it: whatever is asked, in whatever order,
both say the same."""

import itertools
import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from imserver.gateway.storage.store import Store
from imserver.messenger.log.commands import Search
from imserver.messenger.log.contract import (
    Appended,
    Change,
    Draft,
    Entry,
    LogExtent,
    Receipt,
    Rejected,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.search.search import EntrySearch
from tests.messenger.log_file import Listening
from tests.stores import OpenStore

NODES: list[Store] = []
"""The stores of two nodes that share one database. Each example has an app of its
own there."""
_apps = itertools.count()


@pytest.fixture
def nodes(url: str, open_store: OpenStore) -> Iterator[None]:
    """Two nodes, once on each engine."""
    NODES[:] = [open_store(url) for _ in range(2)]
    yield
    NODES.clear()


NAMED = ("D", "a", "b", "c", "系")
USERS = st.sampled_from(NAMED)
IDS = st.integers(1, 30)
MENTIONS = st.sampled_from(["", "", "all", *NAMED])
ANNOTATIONS = ("reaction", "pin")
GROUPS = st.integers(1, 6)
ROLES = st.sampled_from(["member", "admin"])
NAMES = st.sampled_from(["", "", "1", "2", "3"])


class Room(str):
    """The name of a room, and not of a user."""

    __slots__ = ()


ROOMS = st.sampled_from([Room(name) for name in ("r", "R", "r ")])


def mentioning(user: str) -> bytes:
    return json.dumps({"mentions": [user]}).encode() if user else b""


class Model(RuleBasedStateMachine):
    """One app's log as lists and dictionaries, beside a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.app = f"app {next(_apps)}"
        self.turns = itertools.cycle(NODES)
        self.received: list[int] = []
        for node in NODES:
            node.part(MessageLog).writer.report_to(Listening(self.receive))
        self.entries: list[tuple[int, int, str, str]] = []
        """(conversation, seq, sender, kind); the id is the place, from 1."""
        self.pairs: dict[tuple[str, str], int] = {}
        self.groups: dict[int, set[str]] = {}
        self.rooms: dict[str, int] = {}
        self.known: dict[tuple[str, str], int] = {}
        self.intervals: dict[tuple[str, int], list[list[int | None]]] = {}
        self.roles: dict[tuple[str, int], str] = {}
        self.hidden: set[tuple[str, int]] = set()
        self.read_to: dict[tuple[str, int], tuple[int, int]] = {}
        """(user, conversation) → what was read, and what was received."""
        self.untold: dict[str, set[int]] = {user: set() for user in NAMED}
        """User → conversations of two in which the other has moved since the
        user's ``versions``."""
        self.versions = dict.fromkeys(NAMED, 0)
        self.moved: dict[str, set[int]] = {user: set() for user in NAMED}
        """User → conversations in which the user has read more since then."""
        self.floor = 0
        self.bodies: dict[int, bytes] = {}
        """What entries say that do not say nothing."""
        self.edits: dict[int, list[int]] = {}
        self.recalled: set[int] = set()
        self.mentions: dict[int, str] = {}
        self.reactions: dict[int, dict[str, list[str]]] = {}
        self.reacted: dict[int, int] = {}
        """Message → the entry of its last reaction."""
        self.pins: list[int] = []
        self.replies: dict[int, tuple[int, bool]] = {}
        """Reply → the first message of its thread, and whether the conversation
        shows it."""
        self.following: dict[tuple[str, int], list[int]] = {}
        """(user, first message) → the last reply that was read, and 1 if the
        user follows the thread."""

    def receive(self, _app: str, first: int, last: int, entries: list[Any]) -> None:
        assert [entry.id for entry in entries] == list(range(first, last + 1))
        self.received += [entry.id for entry in entries]

    def enter(self, conversation: int, sender: str, kind: str) -> int:
        seq = 1 + sum(entry[0] == conversation for entry in self.entries)
        self.entries.append((conversation, seq, sender, kind))
        return len(self.entries)

    def admit(self, user: str, conversation: int, role: str = "member") -> None:
        self.intervals.setdefault((user, conversation), []).append(
            [len(self.entries), None]
        )
        self.roles[user, conversation] = role

    def _newest(self, user: str, conversation: int) -> int:
        """Where a conversation is in the list of a user."""
        of_it = (
            id for id, entry in enumerate(self.entries, 1) if entry[0] == conversation
        )
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

    def shown(self, user: str, conversation: int | None = None) -> list[int]:
        return [
            id
            for id in self.visible(user, conversation)
            if (user, id) not in self.hidden
        ]

    def is_beside(self, id: int) -> bool:
        return id in self.replies and not self.replies[id][1]

    def numbers(self) -> set[int]:
        return {*self.groups, *self.pairs.values(), *self.rooms.values()}

    def members_of(self, at: int) -> set[str]:
        pair = next((pair for pair, number in self.pairs.items() if number == at), ())
        return self.groups.get(at, set(pair))

    def is_message(self, id: int) -> bool:
        """Whether it is there, as it was sent or recalled."""
        there = self.floor < id <= len(self.entries)
        return there and (self.entries[id - 1][3] == "message" or id in self.recalled)

    def is_stale(self, user: str, id: int) -> bool:
        """Whether a message was edited after a user had left its group."""
        left = self.intervals[user, self.entries[id - 1][0]][-1][1]
        return (
            left is not None and id > self.floor and self.edits.get(id, [0])[-1] > left
        )

    @property
    def log(self) -> MessageLog:
        """Each question goes to the other node."""
        return next(self.turns).part(MessageLog)

    # --- what is done ---------------------------------------------------------

    @initialize(is_empty=st.sampled_from([True, False, False]))
    def begin(self, is_empty: bool) -> None:
        """Most logs begin with a group of three, and a thread in it: otherwise
        few examples have one."""
        if not is_empty:
            self.create("a", ["b", "c"])
            self.append([(user, 1, "", "") for user in ("a", "b")])
            self.reply([("b", 2, False, "", 0), ("c", 2, True, "a", 0)])

    @rule(
        drafts=st.lists(
            st.tuples(USERS, st.one_of(USERS, GROUPS, ROOMS), NAMES, MENTIONS),
            max_size=6,
        )
    )
    def append(self, drafts: list[tuple[str, str | int, str, str]]) -> None:
        batch = []
        for sender, to, name, mention in drafts:
            kind = (
                "room"
                if isinstance(to, Room)
                else "to_user"
                if isinstance(to, str)
                else "conversation"
            )
            where: dict[str, Any] = {kind: to}
            batch.append(
                Draft(
                    sender=sender, client_msg_id=name, meta=mentioning(mention), **where
                )
            )
        # Nobody knows the number of a conversation before it is committed.
        there = self.numbers()
        refused: dict[tuple[str, str], Rejected] = {}
        for draft, outcome in zip(
            batch, self.log.writer.append(self.app, batch), strict=True
        ):
            name = (draft.sender, draft.client_msg_id)
            if name in refused:  # who resends while the first waits shares its outcome
                assert outcome == refused[name]
                continue
            self.expect(draft, outcome, there)
            if draft.client_msg_id and isinstance(outcome, Rejected):
                refused[name] = outcome

    def expect(
        self, draft: Draft, outcome: Appended | Rejected, there: set[int]
    ) -> None:
        name = (draft.sender, draft.client_msg_id)
        if draft.client_msg_id and self.known.get(name, 0) > self.floor:
            assert (outcome.entry.id, outcome.repeated) == (self.known[name], True)
            return
        if draft.room:
            at = self.rooms.setdefault(draft.room, 1 + len(self.numbers()))
        elif draft.to_user:
            first, second = sorted((draft.sender, draft.to_user))
            if (first, second) not in self.pairs:
                at = 1 + len(self.numbers())
                self.pairs[first, second] = at
                for user in {first, second}:
                    self.admit(user, at)
            at = self.pairs[first, second]
        else:
            at = draft.conversation
            pair = next(
                (pair for pair, number in self.pairs.items() if number == at), None
            )
            members = self.groups.get(at, set(pair or ())) if at in there else None
            if members is None or draft.sender not in members:
                reason = "unknown_conversation" if members is None else "not_member"
                assert outcome == Rejected(reason)
                return
        assert isinstance(outcome, Appended)
        id = self.enter(at, draft.sender, "message")
        assert (outcome.entry.id, outcome.repeated) == (id, False)
        assert (outcome.entry.conversation, outcome.entry.seq) == self.entries[id - 1][
            :2
        ]
        self.mentions[id] = json.loads(draft.meta or b'{"mentions": [""]}')["mentions"][
            0
        ]
        if draft.client_msg_id:
            self.known[name] = id

    @rule(
        drafts=st.lists(
            st.tuples(USERS, IDS, st.booleans(), MENTIONS, st.integers(0, 1)),
            min_size=1,
            max_size=3,
        )
    )
    def reply(self, drafts: list[tuple[str, int, bool, str, int]]) -> None:
        before = len(self.entries)
        there = self.numbers()
        batch = []
        for sender, id, also, mention, astray in drafts:
            at = astray + (self.entries[id - 1][0] if id <= before else 1)
            meta = mentioning(mention)
            batch.append(
                Draft(sender=sender, conversation=at, thread=id, also=also, meta=meta)
            )
        new: dict[int, list[int]] = {}
        outcomes = self.log.writer.append(self.app, batch)
        for (sender, id, also, mention, _), draft, outcome in zip(
            drafts, batch, outcomes, strict=True
        ):
            at = draft.conversation
            root = self.replies.get(id, (id, True))[0]
            if at in there and sender not in self.members_of(at):
                assert outcome == Rejected("not_member")
                continue
            is_root = id <= before and self.is_message(id) and root > self.floor
            if (
                not is_root
                or self.entries[id - 1][0] != at
                or id not in self.shown(sender)
            ):
                assert outcome == Rejected("unknown_message")
                continue
            assert isinstance(outcome, Appended)
            reply = self.enter(at, sender, "message")
            meta = {"thread": root, **({"also": True} if also else {})}
            assert (
                json.loads(outcome.entry.meta) == json.loads(draft.meta or b"{}") | meta
            )
            assert outcome.entry.about == root
            self.replies[reply], self.mentions[reply] = (root, also), mention
            new.setdefault(root, []).append(reply)
        for root, added in new.items():
            self.attract(root, added)

    def attract(self, root: int, added: list[int]) -> None:
        """Who wrote or was mentioned follows from then on, as far as they know
        the thread not yet."""
        at, _, author, _ = self.entries[root - 1]
        named = {self.mentions.get(root, ""): added[0] - 1}
        writers = {author: added[0] - 1}
        for id in added:
            writers.setdefault(self.entries[id - 1][2], id)
            named.setdefault(self.mentions[id], id - 1)
        for user, read in (named | writers).items():
            if user in self.members_of(at):
                self.following.setdefault((user, root), [read, 1])

    @rule(about=IDS, recalls=st.booleans(), text=st.sampled_from([b"x", b"y"]))
    def revise(self, about: int, recalls: bool, text: bytes) -> None:
        if not self.floor < about <= len(self.entries):
            return
        at, _, sender, kind = self.entries[about - 1]
        if kind != "message" and about not in self.recalled:
            return
        body = b"" if recalls else text
        draft = Draft(
            sender=sender,
            kind="recall" if recalls else "edit",
            body=body,
            about=about,
            conversation=at,
        )
        (outcome,) = self.log.writer.append(self.app, [draft])
        if about in self.recalled and not recalls:
            assert outcome == Rejected("recalled")
            return
        if sender not in self.members_of(at):
            assert outcome == Rejected("not_member")
            return
        id = self.enter(at, sender, draft.kind)
        assert (outcome.entry.id, outcome.entry.body) == (id, body)
        self.mentions.pop(about, None)
        if not recalls:
            self.edits.setdefault(about, []).append(id)
        for each in (about, *self.edits.get(about, ())):
            self.bodies[each] = body
            if recalls:
                self.entries[each - 1] = (*self.entries[each - 1][:3], "recall")
        if recalls:
            self.recalled.add(about)
            self.reactions.pop(about, None)
            self.pins = [id for id in self.pins if id != about]

    def refusal(self, user: str, about: int) -> str:
        """Why a user may not react to a message; "": they may."""
        if not self.is_message(about) or about not in self.visible(user):
            return "unknown_message"
        if user not in self.members_of(self.entries[about - 1][0]):
            return "unknown_message"
        return "recalled" if about in self.recalled else ""

    def annotated(
        self, change: Change | Rejected, about: int, user: str, kind: str, changes: bool
    ) -> None:
        at = self.entries[about - 1][0]
        if not changes:
            assert change == Change(at)
            return
        assert (change.entry.id, change.entry.about) == (
            self.enter(at, user, kind),
            about,
        )
        self.bodies[change.entry.id] = change.entry.body

    @rule(
        user=USERS,
        about=IDS,
        emoji=st.sampled_from(["+1", "\N{HEAVY BLACK HEART}"]),
        removes=st.booleans(),
    )
    def react(self, user: str, about: int, emoji: str, removes: bool) -> None:
        change = self.log.annotations.react(
            self.app, user, about, emoji, remove=removes
        )
        if refused := self.refusal(user, about):
            assert change == Rejected(refused)  # type: ignore[arg-type]
            return
        totals = self.reactions.setdefault(about, {})
        changes = (user in totals.get(emoji, ())) is removes
        if changes and removes:
            totals[emoji].remove(user)
        elif changes:
            totals.setdefault(emoji, []).append(user)
        self.reactions[about] = {
            emoji: users for emoji, users in totals.items() if users
        }
        self.annotated(change, about, user, "reaction", changes)
        if changes:
            self.reacted[about] = len(self.entries)

    @rule(user=USERS, about=IDS, removes=st.booleans())
    def pin(self, user: str, about: int, removes: bool) -> None:
        change = self.log.annotations.pin(self.app, user, about, remove=removes)
        refused = self.refusal(user, about)
        at = self.entries[about - 1][0] if about <= len(self.entries) else 0
        if not refused and at in self.groups and self.roles[user, at] == "member":
            refused = "not_allowed"
        if refused:
            assert change.reason == refused
            return
        changes = (about in self.pins) is removes
        if changes:
            self.pins = [id for id in self.pins if id != about] + [about] * (
                not removes
            )
        self.annotated(change, about, user, "pin", changes)

    @rule(owner=USERS, users=st.lists(USERS, max_size=3))
    def create(self, owner: str, users: list[str]) -> None:
        change = self.log.groups.create(self.app, owner, "", users)
        at = 1 + len(self.numbers())
        assert change.conversation == at
        assert change.users == tuple(dict.fromkeys([owner, *users]))
        assert json.loads(change.entry.meta)["users"] == list(change.users)
        self.groups[at] = {owner, *users}
        for user in self.groups[at]:
            self.admit(user, at, "owner" if user == owner else "member")
        self.enter(at, owner, "group")

    @rule(
        at=GROUPS,
        users=st.lists(USERS, min_size=1, max_size=3),
        joins=st.booleans(),
        role=ROLES,
    )
    def move(self, at: int, users: list[str], joins: bool, role: str) -> None:
        # what is written just before is for nobody who comes, and for all who
        # go
        if at in self.groups:
            self.append([(user, at, "", "") for user in sorted(self.groups[at])[:1]])
        groups = self.log.groups
        change = (
            groups.join(self.app, at, users, "", role)
            if joins
            else groups.leave(self.app, at, users)
        )
        if at not in self.groups:
            assert change == Rejected("unknown_conversation")
            return
        moved = dict.fromkeys(
            user for user in users if (user in self.groups[at]) != joins
        )
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

    @rule(user=USERS, at=GROUPS, id=IDS, reads=st.booleans())
    def note(self, user: str, at: int, id: int, reads: bool) -> None:
        result = self.log.marks.note(
            self.app, user, at, **{"read" if reads else "received": id}
        )
        if (user, at) not in self.intervals:
            assert result is None
            return
        upto = min(id, self.intervals[user, at][-1][1] or len(self.entries))
        before = self.read_to.get((user, at), (0, 0))
        now = (max(before[0], upto * reads), max(before[1], upto))
        passed = (before[0], now[0]) if now[0] > before[0] else (before[1], now[1])
        there = self.members_of(at)
        authors = {
            self.entries[each - 1][2]
            for each in self.visible(user, at)
            if passed[0] < each <= passed[1] and self.entries[each - 1][3] == "message"
        }
        assert (result.receipt, result.moved) == (
            Receipt(at, user, *now),
            now != before,
        )
        assert set(result.authors) == (
            (authors & there) - {user} if user in there else set()
        )
        self.read_to[user, at] = now
        self.moved[user] |= {at} if now[0] > before[0] else set()
        if now != before and at not in self.groups:
            for other in there - {user}:
                self.untold[other].add(at)

    @rule(save=st.integers(1, 20))
    def expire(self, save: int) -> None:
        self.log.expire(self.app, more_than=save)
        if len(self.entries) - save <= self.floor:
            return
        self.floor = len(self.entries) - save
        self.pins = [id for id in self.pins if id > self.floor]
        self.following = {
            key: row for key, row in self.following.items() if key[1] > self.floor
        }
        for by_id in (self.mentions, self.reactions, self.replies):
            for id in [id for id in by_id if id <= self.floor]:
                del by_id[id]  # type: ignore[attr-defined]

    @rule(
        user=USERS,
        root=IDS,
        id=IDS,
        deed=st.sampled_from(["get", "follow", "mute", "read"]),
    )
    def thread(self, user: str, root: int, id: int, deed: str) -> None:
        """What a user does in a thread, and how they see it then."""
        threads = self.log.threads
        replies = [each for each in self.replies if self.replies[each][0] == root]
        shown = self.shown(user)
        last = max(replies, default=0)
        is_read = root in shown or last in shown
        if deed == "get":
            found = threads.get(self.app, user, root)
        elif deed == "read":
            found = threads.read(self.app, user, root, id)
            if is_read and (user, root) in self.following:
                row = self.following[user, root]
                row[0] = max(row[0], min(id, last))
        else:
            found = threads.follow(self.app, user, root, deed == "follow")
            if is_read:
                self.following.setdefault((user, root), [last, 1])[1] = int(
                    deed == "follow"
                )
        page = threads.replies(self.app, user, root, id, 2)
        assert (found is None, page is None) == (not is_read, not is_read)
        if found is None or page is None:
            return
        read, follows = self.following.get((user, root), (0, 0))
        unread = [
            each
            for each in replies
            if each > read
            and self.entries[each - 1][3] == "message"
            and self.entries[each - 1][2] != user
        ]
        assert (found.last, found.read, found.follows) == (last, read, bool(follows))
        assert found.unread == len(unread) * follows
        assert (found.message.id if found.message else 0) == (
            root if root in shown else 0
        )
        newest = sorted((each for each in replies if each < id), reverse=True)
        assert [entry.id for entry in page[0]] == sorted({*newest[:2]} & {*shown})
        assert page[1] == (newest[1] if len(newest) > 2 else 0)
        (root_entry,) = self.log.entries.find(self.app, [root]) or [None]
        if root_entry is not None and replies:
            totals = json.loads(root_entry.meta)["replies"]
            users = dict.fromkeys(
                self.entries[each - 1][2] for each in sorted(replies, reverse=True)
            )
            assert (totals["count"], totals["last"], totals["users"]) == (
                len(replies),
                last,
                list(users),
            )

    # --- what is asked --------------------------------------------------------

    @rule(user=USERS, after=st.integers(0, 30), limit=st.integers(1, 5))
    def sync(self, user: str, after: int, limit: int) -> None:
        due = [id for id in self.visible(user) if id > after]
        entries, more = self.log.entries.sync(self.app, user, after, limit)
        assert ([entry.id for entry in entries], more) == (
            due[:limit],
            len(due) > limit,
        )

    def ids_in(self, room: str) -> list[int]:
        at = self.rooms.get(room)
        ids = range(self.floor + 1, len(self.entries) + 1)
        return [id for id in ids if self.entries[id - 1][0] == at]

    @rule(
        user=USERS,
        limit=st.integers(1, 5),
        choices=st.dictionaries(ROOMS, st.integers(0, 9), min_size=1),
    )
    def catch_up(self, user: str, limit: int, choices: dict[str, int]) -> None:
        """Each room from one of its messages, and the rest from one of
        theirs."""
        own = self.visible(user)
        rest, *_ = behind = [
            [0, *ids][choice % (1 + len(ids))]
            for ids, choice in zip(
                [own, *map(self.ids_in, choices)],
                [limit, *choices.values()],
                strict=True,
            )
        ]
        for after in {0, *behind}:
            due = [id for id in own if id > max(after, rest)]
            for room, position in zip(choices, behind[1:], strict=True):
                due += [id for id in self.ids_in(room) if id > max(after, position)]
            positions = dict(zip(["", *choices], behind, strict=True))
            entries, more = self.log.entries.catch_up(
                self.app, user, after, limit, positions
            )
            assert ([entry.id for entry in entries], more) == (
                sorted(due)[:limit],
                len(due) > limit,
            )

    @rule(room=ROOMS, limit=st.integers(0, 5))
    def channel_page(self, room: str, limit: int) -> None:
        """From each of its messages, in both directions."""
        at = self.rooms.get(room)
        ids = self.ids_in(room)
        last = max(
            (id for id, entry in enumerate(self.entries, 1) if entry[0] == at),
            default=0,
        )
        for since, newest_first in itertools.product(
            (None, 0, *ids, 99), (False, True)
        ):
            due = ids[:: -1 if newest_first else 1]
            if since is not None:
                due = [id for id in due if (id < since if newest_first else id > since)]
            page = self.log.entries.channel_page(
                self.app, room, since, limit, newest_first
            )
            assert ([entry.id for entry in page.entries], page.more) == (
                due[:limit],
                len(due) > limit > 0,
            )
            assert (page.last, page.extent) == (
                last,
                LogExtent(self.floor, len(self.entries)),
            )

    @rule(user=USERS, at=GROUPS, before=st.integers(0, 30), limit=st.integers(1, 5))
    def history(self, user: str, at: int, before: int, limit: int) -> None:
        shown = [
            id for id in self.shown(user, at) if self.entries[id - 1][3] != "reaction"
        ]
        due = [id for id in shown if not before or id < before]
        entries, more = self.log.entries.history(self.app, user, at, before, limit)
        assert ([entry.id for entry in entries], more) == (
            due[-limit:],
            len(due) > limit,
        )
        later = [id for id in due if id > limit]
        entries, more = self.log.entries.history(
            self.app, user, at, before, 3, after=limit
        )
        assert ([entry.id for entry in entries], more) == (later[:3], len(later) > 3)
        self.are_as_seen(entries, user)
        if user in self.members_of(at):
            pins = [id for id in reversed(self.pins) if id in shown]
            assert [
                entry.id for entry in self.log.entries.pins(self.app, user, at)[0]
            ] == pins

    def are_as_seen(self, entries: list[Entry], user: str) -> None:
        """Who has left sees nothing of what came later: an edited message is as
        a recalled one."""
        for entry in entries:
            at, _, _, kind = self.entries[entry.id - 1]
            left = self.intervals[user, at][-1][1] or len(self.entries)
            if kind in ("message", "edit") and self.is_stale(
                user, entry.about if kind == "edit" else entry.id
            ):
                assert (entry.kind, entry.body, entry.meta, entry.reactions) == (
                    "recall",
                    b"",
                    b"",
                    (),
                )
                continue
            assert (entry.kind, entry.body) == (kind, self.bodies.get(entry.id, b""))
            meta = json.loads(entry.meta or b"{}")
            assert meta.get("thread") == self.replies.get(entry.id, (None,))[0]
            assert kind != "recall" or "mentions" not in meta
            assert meta.get("replies", {}).get("last", 0) <= left
            totals = (
                self.reactions.get(entry.id, {})
                if self.reacted.get(entry.id, 0) <= left
                else {}
            )
            assert [(each.emoji, list(each.users)) for each in entry.reactions] == list(
                totals.items()
            )
            for each in entry.reactions:
                assert (each.count, each.mine) == (len(each.users), user in each.users)

    @rule(user=USERS, text=st.sampled_from(["x", "y"]))
    def search(self, user: str, text: str) -> None:
        found = (
            next(self.turns)
            .part(EntrySearch)
            .find(self.app, user, Search(text, 0, 0, 50))
        )
        due = [
            id
            for id in self.shown(user)
            if self.entries[id - 1][3] == "message"
            and self.bodies.get(id) == text.encode()
        ]
        assert ([entry.id for entry in found[0]], found[1]) == (
            [id for id in due if not self.is_stale(user, id)],
            0,
        )

    @rule(user=USERS, before=st.integers(0, 30), limit=st.integers(1, 5))
    def conversations(self, user: str, before: int, limit: int) -> None:
        rows = sorted(
            ((self._newest(user, at), at) for who, at in self.intervals if who == user),
            reverse=True,
        )
        due = [(each, at) for each, at in rows if not before or each < before]
        page, more = self.log.conversations.page(self.app, user, before, limit)
        assert [(each.position, each.conversation.id) for each in page] == due[:limit]
        assert more == (len(due) > limit)
        for conversation in page:
            at = conversation.conversation.id
            since, upto = self.intervals[user, at][-1]
            now = [
                id
                for id in self.visible(user, at)
                if id > cast(int, since) and (not upto or id <= upto)
            ]
            now = [id for id in now if not self.is_beside(id)]
            shown = [
                id
                for id in now
                if (user, id) not in self.hidden
                and self.entries[id - 1][3] not in ANNOTATIONS
            ]
            assert (conversation.last.id if conversation.last else 0) == (
                shown[-1] if shown else 0
            )
            read = self.read_to.get((user, at), (0, 0))[0]
            assert (conversation.read, conversation.role) == (
                read,
                self.roles[user, at],
            )
            others = [id for id in now if id > read and self.entries[id - 1][2] != user]
            assert conversation.unread == sum(
                self.entries[id - 1][3] == "message" for id in others
            )
            assert conversation.mentions == sum(
                self.mentions.get(id) in ("all", user) for id in others
            )

    @rule(at=GROUPS, after=USERS, limit=st.integers(1, 5))
    def members(self, at: int, after: str, limit: int) -> None:
        reader = self.log.conversations
        due = [user for user in sorted(self.groups.get(at, ())) if user > after][:limit]
        if at in self.groups:
            found = [
                (row.user, row.role)
                for row in reader.members(self.app, at, after, limit)
            ]
            assert found == [(user, self.roles[user, at]) for user in due]
            assert (reader.member(self.app, at, after) is not None) == (
                after in self.groups[at]
            )

    @rule(user=USERS, other=USERS)
    def between(self, user: str, other: str) -> None:
        first, second = sorted((user, other))
        found = self.log.conversations.between(self.app, user, other)
        assert (found.id if found else None) == self.pairs.get((first, second))

    @rule(user=USERS, anew=st.booleans())
    def marks(self, user: str, anew: bool) -> None:
        found = self.log.marks.since(self.app, user, 0 if anew else self.versions[user])
        others = {
            at: Receipt(at, other, *self.read_to[other, at])
            for pair, at in self.pairs.items()
            for other in {*pair} - {user}
            if user in pair and (other, at) in self.read_to
        }
        wanted = others.keys() if anew else self.untold[user]
        assert found.receipts == tuple(others[at] for at in sorted(wanted))
        if not anew:
            assert found.reads.keys() == self.moved[user]
            self.versions[user], self.untold[user], self.moved[user] = (
                found.version,
                set(),
                set(),
            )
            return
        assert set(found.hidden) == {
            id for who, id in self.hidden if who == user and id > self.floor
        }
        assert {at: id for at, id in found.reads.items() if id} == {
            at: id for (who, at), (id, _) in self.read_to.items() if who == user and id
        }

    @rule(user=USERS, at=GROUPS, message=st.integers(0, 30))
    def receipts(self, user: str, at: int, message: int) -> None:
        marks = self.log.marks
        there = self.members_of(at)
        joined = {
            each: cast(int, self.intervals[each, at][-1][0])
            for each in sorted(there - {user})
        }
        reads = {each: self.read_to.get((each, at), (0, 0)) for each in joined}
        due = [
            Receipt(at, each, *read)
            for each, read in reads.items()
            if read[1]
            and read[0] >= message
            and (not message or joined[each] < message)
        ]
        assert marks.receipts(self.app, user, at, "", 9, message) == (
            due if user in there else []
        )
        (counted,) = marks.count_receipts(self.app, user, at, [message]) or [None]
        assert (counted is not None) == (user in there)
        if counted is not None:
            early = [each for each in joined if joined[each] < message]
            assert (counted.members, counted.read, counted.received) == (
                len(early),
                sum(reads[each][0] >= message for each in early),
                sum(reads[each][1] >= message for each in early),
            )

    @rule(at=GROUPS, user=USERS)
    def unread(self, at: int, user: str) -> None:
        there = self.members_of(at)
        if not there:
            return
        (found,) = self.log.conversations.unread(
            self.app, {at: NAMED}, {at: NAMED}
        ).values()
        assert found.reads == {
            each: max(
                cast(int, self.intervals[each, at][-1][0]),
                self.read_to.get((each, at), (0, 0))[0],
            )
            for each in there
        }
        assert self.log.conversations.read_positions(self.app, {at: NAMED}) == {
            (each, at): read for each, read in found.reads.items()
        }
        if user not in there:
            return
        due = []
        for id in self.visible(user, at):
            _, _, sender, kind = self.entries[id - 1]
            read, follows = self.following.get(
                (user, self.replies.get(id, (0, True))[0]), (0, 0)
            )
            silent = self.is_beside(id) and not (follows and id > read)
            if (
                kind == "message"
                and sender != user
                and id > found.reads[user]
                and not silent
            ):
                due.append(id)
        assert found.count(user) == len(due)
        due = [id for id in due if (user, id) not in self.hidden]
        for newest_first in (False, True):
            indexes = found.among(user, 0, newest_first=newest_first)
            assert [found.ids[index] for index in indexes] == due[
                :: -1 if newest_first else 1
            ]
        assert all(found.is_unread(user, id) for id in due)
        named = [id for id in due if self.mentions.get(id) in ("all", user)]
        assert [
            found.ids[index] for index in found.among(user, 0, mentions=True)
        ] == named

    @rule(user=USERS, before=st.integers(0, 30))
    def threads(self, user: str, before: int) -> None:
        last: dict[int, int] = {}
        for id, (root, _) in sorted(self.replies.items()):
            if self.following.get((user, root), (0, 0))[1] and user in self.members_of(
                self.entries[id - 1][0]
            ):
                last[root] = id
        due = sorted(
            (id for id in last.values() if not before or id < before), reverse=True
        )
        threads, more = self.log.threads.of_user(self.app, user, before, 2)
        assert ([each.last for each in threads], more) == (due[:2], len(due) > 2)

    @invariant()
    def the_log_is_whole(self) -> None:
        entries = self.log.entries.read(self.app, 0, 1000)
        assert [entry.id for entry in entries] == list(
            range(self.floor + 1, len(self.entries) + 1)
        )
        assert [
            (entry.conversation, entry.seq, entry.sender, entry.kind)
            for entry in entries
        ] == self.entries[self.floor :]
        rooms = {number: name for name, number in self.rooms.items()}
        assert [entry.room for entry in entries] == [
            rooms.get(entry.conversation, "") for entry in entries
        ]
        assert [entry.body for entry in entries] == [
            self.bodies.get(entry.id, b"") for entry in entries
        ]
        assert self.received == list(range(1, len(self.entries) + 1))


@pytest.mark.usefixtures("nodes")
def test_the_log_is_as_its_model_says(url: str) -> None:
    """Any sequence of appends, resends, joins, leaves, marks and questions, on
    either node."""
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
