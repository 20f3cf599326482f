"""What is in an archive: read once before the import, and all that a dry run does."""

from collections import Counter
from collections.abc import Callable, Collection
from heapq import heappush, heappushpop
from typing import Final

from msgspec import Struct, field

from .records import Archive, Change, Emoji, Group, Message, Person, Removal
from .spool import Spool

Note = Callable[..., None]
"""Problems.note."""
NEWEST: Final = 20
"""Ids of a group's newest messages that are remembered: its first entry may have expired."""


class Activity(Struct):
    """What an archive says about one group. ``owner``: it has one here; ``""``: nobody is in it."""

    owner: str
    members: Collection[str]
    counts: Counter[str] = field(default_factory=Counter)
    seen: dict[str, int] = field(default_factory=dict)
    """Who has done something else than to join → when first. After the survey only of archived groups, and of
    who joins."""
    joined: dict[str, int] = field(default_factory=dict)
    """Who joins → when first."""
    newest: list[tuple[int, str]] = field(default_factory=list)
    """Heap of the newest messages: time and id."""
    first_ms: int = 0

    def joins_first(self, person: str) -> bool:
        """Whether somebody joins before anything else is known of them; all other members were there at the
        beginning."""
        moment = self.joined.get(person)
        return moment is not None and moment <= self.seen.get(person, moment)


class Survey(Struct):
    """The people and groups of an archive, the activity of each, and how much there is of each kind."""

    people: dict[str, Person] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    emoji: dict[str, Emoji] = field(default_factory=dict)
    of_groups: dict[str, Activity] = field(default_factory=dict)
    of_people: dict[str, Counter[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    first_ms: int = 0
    last_ms: int = 0


def survey(
    archive: Archive, has_bytes: Callable[[str], bool], spool: Spool, done: Callable[[int], object]
) -> Survey:
    """Read an archive once, and put the messages, changes and removals that come into a spool.

    ``has_bytes``: whether there are those of a file. ``done`` is called with the number of messages so far.
    """
    result, problems = Survey(), archive.problems
    for record in archive.records():
        if isinstance(record, Person):
            known = result.people.get(record.id)
            if known is None or known.why == _UNLISTED:
                result.people[record.id] = record
        elif isinstance(record, Group):
            _list(result, record, problems.note)
        elif isinstance(record, Emoji):
            result.emoji.setdefault(record.name, record)
        elif isinstance(record, Removal):
            result.last_ms = max(result.last_ms, record.time_ms)
            _meet(result, record.person)
            spool.add(record)
        elif why := _refusal(result, record):
            note = problems.note_lost if isinstance(record, Message) else problems.note
            note(why, group=record.group, person=record.person)
        else:
            _look(result, record, has_bytes, problems.note)
            spool.add(record)
            if not result.counts["message"] % 1000:
                done(result.counts["message"])
    for id, activity in result.of_groups.items():
        if not result.groups[id].is_archived:  # all that it is asked for
            activity.seen = {each: activity.seen[each] for each in activity.joined if each in activity.seen}
    return result


_UNLISTED: Final = "in no list"


def _list(result: Survey, group: Group, note: Note) -> None:
    if group.id in result.groups:
        return
    members = list(dict.fromkeys(each.person for each in group.members if _is_id(each.person)))
    owners = [each.person for each in group.members if each.role == "owner" and each.person in members]
    if group.creator in (owners or members) or not members:
        owners = [group.creator]
    owner = next(iter(owners or members))
    result.groups[group.id] = group
    result.of_groups[group.id] = Activity(owner if _is_id(owner) else "", members)
    result.counts[group.kind] += 1
    for id in (*members, owner):
        _meet(result, id)
    if group.kind != "direct" and not _is_id(owner):
        note("conversation of nobody", group=group.id)


def _is_id(id: str) -> bool:
    """Whether a text can name somebody."""
    return 0 < len(id) <= 200 and id.isprintable()


def _meet(result: Survey, id: str) -> None:
    """Somebody whom no record names: a guest, an app, or somebody who was deleted."""
    if id not in result.people and _is_id(id):
        result.people[id] = Person(id, id, why=_UNLISTED)


def _refusal(result: Survey, record: Message | Change) -> str:
    """Why a record does not come; ``""``: it comes."""
    what, group = record.__class__.__name__.lower(), result.groups.get(record.group)
    if group is None or not _is_id(record.person):
        return f"{what} in an unknown group" if group is None else f"{what} without a sender"
    activity = result.of_groups[record.group]
    if group.kind != "direct":
        return "" if activity.owner else f"{what} in a conversation of nobody"
    if record.person not in activity.members or len(activity.members) > 2 or what == "change":
        return f"direct {what} of a third"
    return ""


def _look(result: Survey, record: Message | Change, has_bytes: Callable[[str], bool], note: Note) -> None:
    person, time_ms, activity = record.person, record.time_ms, result.of_groups[record.group]
    result.first_ms = min(result.first_ms or time_ms, time_ms)
    result.last_ms = max(result.last_ms, time_ms)
    activity.first_ms = min(activity.first_ms or time_ms, time_ms)
    _meet(result, person)
    if isinstance(record, Change):
        result.counts["change"] += 1
        for id in record.people or (person,):
            _meet(result, id)
            moments = activity.joined if record.kind == "join" else activity.seen
            moments[id] = min(moments.get(id, time_ms), time_ms)
        return
    activity.seen[person] = min(activity.seen.get(person, time_ms), time_ms)
    newest = (time_ms, record.id)
    if len(activity.newest) < NEWEST:
        heappush(activity.newest, newest)
    else:
        heappushpop(activity.newest, newest)
    counts = {"message": 1, "reply": bool(record.thread), "reaction": len(record.reactions)}
    for reaction in record.reactions:
        _meet(result, reaction.person)
    for file in record.files:
        if not file.address:
            counts["file"] = counts.get("file", 0) + 1
            if not file.why and has_bytes(file.id):
                counts["bytes"] = counts.get("bytes", 0) + 1
            else:
                why = file.why or "file without its bytes (its name comes)"
                note(why, group=record.group, person=person)
    of_person = result.of_people.setdefault(person, Counter())
    for target in (result.counts, activity.counts, of_person):
        for kind, count in counts.items():
            target[kind] += count
