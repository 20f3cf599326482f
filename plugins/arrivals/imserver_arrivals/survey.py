"""The survey of an archive: it is read once before the import. A dry run does
nothing else."""

from collections import Counter
from collections.abc import Callable, Collection
from heapq import heappush, heappushpop
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from .problems import Problems
from .records import Archive, Change, Emoji, Group, Message, Person, Removal
from .spool import Spool

Note = Callable[..., None]
"""The type of Problems.note."""
_COUNTED_EACH: Final = 1000
"""After each such number of messages, the progress is reported."""
_MOST_ID_CHARACTERS: Final = 200
NEWEST: Final = 20
"""How many of a group's newest messages are kept by their ids, because its
first entry may have expired."""


class Activity(Struct):
    """The facts about one group that the records of an archive tell."""

    owner: str
    """The owner here; ``""`` if nobody is in the group."""
    members: Collection[str]
    lacks_members: bool = False
    """Whether the archive names no members of the group. Then everybody who has
    written there is a member."""
    last: dict[str, int] = field(default_factory=dict)
    """Person who has written in the group, or changed its name or description →
    the time when they last did. Empty if the archive names the members."""
    counts: Counter[str] = field(default_factory=Counter)
    """The numbers of messages, replies, reactions and files."""
    seen: dict[str, int] = field(default_factory=dict)
    """Person who has done something other than join → the time when they first
    did. After the survey it has only people who join, except in archived
    groups."""
    joined: dict[str, int] = field(default_factory=dict)
    """Person who joins → the time when they first did."""
    newest: list[tuple[int, str]] = field(default_factory=list)
    """Heap of the newest messages, each with time and id."""
    first_ms: int = 0
    """The time of the first message or change; 0 if there is none."""

    def joins_first(self, person: str) -> bool:
        """Whether a join is the first event of a person.

        Otherwise the person was in the group from its beginning.
        """
        moment = self.joined.get(person)
        return moment is not None and moment <= self.seen.get(person, moment)


class Survey(Struct):
    """The result of a survey: the people and groups of an archive, and what
    they do."""

    people: dict[str, Person] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    emoji: dict[str, Emoji] = field(default_factory=dict)
    of_groups: dict[str, Activity] = field(default_factory=dict)
    """Id of a group → its activity."""
    of_people: dict[str, Counter[str]] = field(default_factory=dict)
    """Person → the numbers of their messages and of the contents."""
    counts: Counter[str] = field(default_factory=Counter)
    """Kind of a record or of a group → number."""
    first_ms: int = 0
    last_ms: int = 0
    """The times of the first and last record; 0 if there is none."""


def survey(
    archive: Archive,
    has_bytes: Callable[[str], bool],
    spool: Spool,
    done: Callable[[int], object],
) -> Survey:
    """Read an archive once, and put the records to import into a spool.

    The spool gets messages, changes and removals, and sorts them later. The
    result has everything else. ``has_bytes``: whether the bytes of a file are
    available. ``done`` is called with the number of messages so far.
    """
    result = Survey()
    for record in archive.records():
        if isinstance(record, Person):
            _add_person(result, record)
        elif isinstance(record, Group):
            _add_group(result, record)
        elif isinstance(record, Emoji):
            result.emoji.setdefault(record.name, record)
        elif isinstance(record, Removal):
            result.last_ms = max(result.last_ms, record.time_ms)
            _add_stranger(result, record.person)
            spool.add(record)
        elif _is_accepted(result, record, archive.problems):
            _note_activity(result, record, has_bytes, archive.problems.note)
            spool.add(record)
            if not result.counts["message"] % _COUNTED_EACH:
                done(result.counts["message"])

    _complete_groups(result, archive.problems.note)
    return result


def _complete_groups(result: Survey, note: Note) -> None:
    """Give members to groups that have none, when all records were read."""
    for id, activity in result.of_groups.items():
        if activity.lacks_members:
            _admit_writers(result, id, note)
        if not result.groups[id].is_archived:
            _forget_most(activity)


def _is_accepted(result: Survey, record: Message | Change, problems: Problems) -> bool:
    """Whether a record is imported. Otherwise the reason is noted."""
    why = _refusal(result, record)
    if not why:
        return True
    note = problems.note
    if isinstance(record, Message):
        note = problems.note_lost
    note(why, group=record.group, person=record.person)
    return False


def _forget_most(activity: Activity) -> None:
    """Forget when people were first seen, to save memory.

    From now on only people who join are looked up.
    """
    activity.seen = {
        person: activity.seen[person]
        for person in activity.joined
        if person in activity.seen
    }


_UNLISTED: Final = "in no list"
_PAIR: Final = 2
"""The number of people in a direct conversation. A conversation with oneself
has one."""


def _add_person(result: Survey, person: Person) -> None:
    """Add a person. The first record counts, unless it stands for a
    stranger."""
    known = result.people.get(person.id)
    if known is None or known.why == _UNLISTED:
        result.people[person.id] = person


def _add_group(result: Survey, group: Group) -> None:
    """Add a group with its members and its owner.

    If two records have one id, the first counts. A direct conversation of more
    than two people becomes a conversation of several.
    """
    if group.id in result.groups:
        return
    members = _ids_of_members(group)
    owner = _owner_of(group, members)
    fewest = 1
    if group.kind == "direct":
        if len(members) > _PAIR:
            group = replace(group, kind="several")
        else:
            # With one member, the archive may have left out the other one.
            fewest = _PAIR
    result.groups[group.id] = group
    activity = Activity(owner="", members=members, lacks_members=len(members) < fewest)
    if _is_id(owner):
        activity.owner = owner
    result.of_groups[group.id] = activity
    result.counts[group.kind] += 1
    for id in (*members, owner):
        _add_stranger(result, id)


def _ids_of_members(group: Group) -> list[str]:
    """Return the members of a group with valid ids, each once."""
    ids = [member.person for member in group.members if _is_id(member.person)]
    return list(dict.fromkeys(ids))


def _owner_of(group: Group, members: list[str]) -> str:
    """Return the person who owns a group here.

    It is the creator, if they are an owner there, or a member of a group
    without owners. Otherwise it is the first owner or member. A group without
    members belongs to its creator, or to nobody (``""``).
    """
    owners = [
        member.person
        for member in group.members
        if member.role == "owner" and member.person in members
    ]
    candidates = owners or members
    if group.creator in candidates or not members:
        return group.creator
    return candidates[0]


def _admit_writers(result: Survey, id: str, note: Note) -> None:
    """Give a group members, because the archive does not name them.

    Without members its history would be lost. If the group has no owner, the
    person who was active last becomes the owner, because they have read most of
    it anyway.
    """
    group = result.groups[id]
    activity = result.of_groups[id]
    members = _members_by_activity(activity)
    if len(members) > len(activity.members):
        _note_lacking_members(group, note)
    elif not (members or activity.owner):
        note("conversation of nobody", group=id)
    activity.members = members
    # An owner should be somebody who can log in.
    claimable = [person for person in members if result.people[person].is_member]
    last = next(reversed(claimable or members), "")
    activity.owner = activity.owner or last
    if group.kind == "direct" and len(members) > _PAIR:
        _make_several(result, group)


def _make_several(result: Survey, group: Group) -> None:
    """Make a direct conversation one of several people."""
    result.groups[group.id] = replace(group, kind="several")
    result.counts["direct"] -= 1
    result.counts["several"] += 1


def _note_lacking_members(group: Group, note: Note) -> None:
    """Note that the members of a group were found by its messages."""
    kind = "group"
    if group.kind == "direct":
        kind = "direct conversation"
    note(f"{kind} without members (whoever wrote there is in it)", group=group.id)


def _members_by_activity(activity: Activity) -> list[str]:
    """Return the known members of a group, and then people who were active in
    it.

    They are the people who have written there, the last one at the end, or else
    the people who joined or left.
    """
    writers = sorted(activity.last, key=activity.last.__getitem__)
    others = {**activity.joined, **activity.seen}
    return list(dict.fromkeys((*activity.members, *(writers or others))))


def _is_id(id: str) -> bool:
    """Whether an id can be the id of a person."""
    return 0 < len(id) <= _MOST_ID_CHARACTERS and id.isprintable()


def _add_stranger(result: Survey, id: str) -> None:
    """Add a person whom no record has named yet: a guest, an app, or a deleted
    person.

    A later record of the person replaces it.
    """
    if id not in result.people and _is_id(id):
        result.people[id] = Person(id, id, why=_UNLISTED)


def _refusal(result: Survey, record: Message | Change) -> str:
    """Return why a record is not imported; ``""`` if it is imported."""
    what = record.__class__.__name__.lower()
    group = result.groups.get(record.group)
    if group is None:
        return f"{what} in an unknown group"
    if not _is_id(record.person):
        return f"{what} without a sender"
    if group.kind != "direct":
        return ""
    # Only two people see a direct conversation, so nobody else may write there.
    activity = result.of_groups[record.group]
    is_third = record.person not in activity.members and not activity.lacks_members
    if is_third or what == "change":
        return f"direct {what} of a third"
    return ""


def _note_activity(
    result: Survey,
    record: Message | Change,
    has_bytes: Callable[[str], bool],
    note: Note,
) -> None:
    """Note the times of a message or a change, and what it tells of its group
    and people.

    ``has_bytes``: whether the bytes of a file are available. ``note`` gets
    files without bytes.
    """
    time_ms = record.time_ms
    activity = result.of_groups[record.group]
    result.first_ms = min(result.first_ms or time_ms, time_ms)
    result.last_ms = max(result.last_ms, time_ms)
    activity.first_ms = min(activity.first_ms or time_ms, time_ms)
    _add_stranger(result, record.person)
    if isinstance(record, Change):
        _note_change(result, activity, record)
    else:
        _note_message(result, activity, record)
        _count(result, activity, record, has_bytes, note)


def _note_change(result: Survey, activity: Activity, change: Change) -> None:
    """Note when people have joined, left, or changed the group."""
    result.counts["change"] += 1
    if change.kind == "join":
        moments = activity.joined
    else:
        moments = activity.seen
    # A change of the name or description names no other people than its author.
    for id in change.people or (change.person,):
        _add_stranger(result, id)
        _note_first(moments, id, change.time_ms)
    if change.kind in ("name", "description"):
        _note_last(activity, change.person, change.time_ms)


def _note_message(result: Survey, activity: Activity, message: Message) -> None:
    """Note when a person has written, and keep the message among the newest."""
    _note_first(activity.seen, message.person, message.time_ms)
    _note_last(activity, message.person, message.time_ms)
    # The heap has the newest messages, so a new one replaces the oldest of
    # them.
    newest = (message.time_ms, message.id)
    if len(activity.newest) < NEWEST:
        heappush(activity.newest, newest)
    else:
        heappushpop(activity.newest, newest)
    for reaction in message.reactions:
        _add_stranger(result, reaction.person)


def _count(
    result: Survey,
    activity: Activity,
    message: Message,
    has_bytes: Callable[[str], bool],
    note: Note,
) -> None:
    """Count a message and its contents: in total, for its group and its person.

    ``file`` counts its files, and ``bytes`` the files whose bytes are
    available. ``note`` gets the other files.
    """
    counts = Counter(
        message=1, reply=bool(message.thread), reaction=len(message.reactions)
    )
    for file in message.files:
        # A file elsewhere becomes a line of the text.
        if file.address:
            continue
        counts["file"] += 1
        if not file.why and has_bytes(file.id):
            counts["bytes"] += 1
        else:
            why = file.why or "file without its bytes (its name comes)"
            note(why, group=message.group, person=message.person)
    of_person = result.of_people.setdefault(message.person, Counter())
    for target in (result.counts, activity.counts, of_person):
        target.update(counts)


def _note_first(moments: dict[str, int], person: str, time_ms: int) -> None:
    """Keep the earlier one of two times of a person."""
    moments[person] = min(moments.get(person, time_ms), time_ms)


def _note_last(activity: Activity, person: str, time_ms: int) -> None:
    """Keep the later one of two times of a person. It is needed without members
    only."""
    if activity.lacks_members:
        activity.last[person] = max(activity.last.get(person, time_ms), time_ms)
