"""Imports an archive into an app, in batches and in the order of the times.
Each batch is one transaction.

The log stores a record with a key once. Therefore you can repeat an interrupted
import, and a later archive of the server adds only new records.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from heapq import merge
from time import perf_counter, time
from typing import Final, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from imserver.plugin.messages import Draft, LogImport, MessageLog
from imserver.plugin.storage import Store

from .conversion import (
    Conversion,
    Happening,
    digest_of,
    short_name,
    shown_ms,
    time_of,
)
from .past import PastWriter
from .people import People
from .problems import Problems
from .read_positions import ReadPositions
from .records import Archive, Change, Group, Message, Pin, Removal
from .spool import Spool, moment
from .survey import Survey
from .text import SECOND_MS
from .uploads import FileUploads

BATCH: Final = 500
"""Weight of the messages and events in one transaction. Clients of a running
server wait for it.

Records with one time are in one transaction, up to twice this weight, because a
repeated import tells their order by that.
"""
LEAST: Final = 50
BATCH_SECONDS: Final = 0.05
"""If a batch takes longer, the next one is smaller, down to :data:`LEAST`,
because others may need the processor or the disk. Measured on a busy machine:
of 1,000 writes beside it, 1 instead of 7 waited for more than 0.2 s. The
longest wait was 0.3 s instead of 1.1 s."""
MOST_ITEMS: Final = 10
"""The most files in one message."""
_PEOPLE_OF_A_ROW: Final = 4
"""Number of members who join or leave that cost about as much as one
message."""


class Batch(Struct):
    """The records that one transaction stores."""

    rows: list[tuple[Happening, Draft | None]] = field(default_factory=list)
    """Each record, with its draft if it is a message."""
    keys: set[str] = field(default_factory=set)
    """The keys of all entries that the transaction reads or stores."""
    stores: set[str] = field(default_factory=set)
    """The keys of the records that it stores."""
    weight: int = 0


class Importer:
    """One import of an archive into an app.

    ``page``: the address of the page whose links open a message; ``""``: links
    stay as they were. Every method switches greenlets, and raises
    StorageUnavailable.
    """

    def __init__(
        self,
        archive: Archive,
        survey: Survey,
        store: Store,
        app: str,
        people: People,
        uploads: FileUploads,
        problems: Problems,
        page: str = "",
    ) -> None:
        """Prepare an import. ``survey`` is that of the same archive."""
        self._survey = survey
        self._uploads = uploads
        self._log = store.part(MessageLog)
        self._app = app
        self._problems = problems
        self._page = page
        self._conversion = Conversion(archive.name, survey, people.accounts)
        self._positions = ReadPositions(survey, people.accounts)
        self._groups: dict[str, int] = {}
        """Id of a group in the archive → the id of the group here."""
        self._created: set[str] = set()
        """Ids of the groups in the archive whose first entry was imported."""
        self._batch = Batch()
        self._batch_weight = BATCH
        """The weight at which a batch is stored now."""
        self.added: Counter[str] = Counter()
        """The numbers of new groups, messages and reactions."""

    def run(self, spool: Spool, done: Callable[[int], object]) -> None:
        """Import the whole archive.

        ``spool`` yields its messages, changes and removals in the order of
        their times. ``done`` is called with the number of messages so far.
        """
        groups = self._survey.groups.values()
        beginnings = sorted(filter(None, map(self._first_record, groups)), key=moment)
        count = 0
        for record in merge(beginnings, spool.read(), key=moment):
            if isinstance(record, Message):
                self._add_message(record)
                count += 1
                if not count % BATCH:
                    done(count)
            else:
                self._add_other(record)
        self._store_batch()
        # Pins and last changes refer to everything else, so they come at the
        # end.
        for group in groups:
            for record_of_end in self._last_records(group):
                self._add(record_of_end)
        self._store_batch()

    def _add_other(self, record: Group | Change | Removal) -> None:
        """Add a record that is not a message."""
        if isinstance(record, Change):
            for change in self._changes(record):
                self._add(change)
            return
        if isinstance(record, Group):
            self._created.add(record.id)
        self._add(record)

    def groups(self) -> dict[int, str]:
        """Return the imported groups: conversation here → id of the group in
        the archive.

        Conversations of two are left out.
        """
        groups = self._survey.groups
        return {
            conversation: id
            for id, conversation in self._groups.items()
            if conversation and groups[id].kind != "direct"
        }

    def mark_read(self) -> None:
        """Mark the messages as read that members had read on the other server.

        If that is unknown, all messages are marked.
        """
        self._positions.mark_all(self._log, self._app, self._groups)

    # --- groups ---------------------------------------------------------------

    def _first_record(self, group: Group) -> Group | None:
        """Return a group as it begins here, with a time and its picture's
        address.

        None for a group that nobody owns, which is not imported, and for a
        conversation of two, which needs no first entry.
        """
        activity = self._survey.of_groups[group.id]
        if group.kind == "direct" or not activity.owner:
            return None
        avatar = self._upload_picture(group, self._conversion.user(activity.owner))
        # A message may be older than the time at which its group was created.
        times = filter(None, (group.created_ms, activity.first_ms))
        begin = min(times, default=self._survey.first_ms or _now())
        return replace(group, created_ms=shown_ms(begin), avatar=avatar)

    def _upload_picture(self, group: Group, owner: str) -> str:
        """Upload the picture of a group. Returns its address; ``""`` if there
        is none."""
        picture = self._uploads.upload(group.avatar, owner, group.avatar, "picture")
        if picture is None:
            return ""
        return f"/api/v1/uploads/{picture.id}"

    def _changes(self, change: Change) -> Iterator[Change]:
        """Yield a change of the archive in the form that it has here.

        Changes that cannot be stored are left out. Admins join by a change of
        their own, because a change has one role.
        """
        if change.group not in self._created:
            # It comes before the first entry of its group.
            return
        if change.kind == "name" and not short_name(change.text):
            return
        if change.kind != "join":
            yield change
            return
        admins = set(self._survey.groups[change.group].admins)
        others = [person for person in change.people if person not in admins]
        if others:
            yield replace(change, people=others)
        joining = [person for person in change.people if person in admins]
        if joining:
            yield replace(change, id=f"{change.id}.admin", people=joining, role="admin")

    def _last_records(self, group: Group) -> Iterator[Change | Pin]:
        """Yield the records with which a group ends.

        They are joins and leaves that no change in the archive tells, and pins.
        """
        now = self._survey.last_ms or _now()
        if group.id in self._created and not group.is_archived:
            yield from self._last_changes(group, now)
        for pin in group.pins:
            yield replace(pin, group=group.id, time_ms=max(shown_ms(now), pin.time_ms))

    def _last_changes(self, group: Group, now: int) -> Iterator[Change]:
        """Yield changes that give a group its present members.

        Members who never joined join, and everybody else who was there leaves.
        """
        admins = set(group.admins)
        members = sorted(self._survey.of_groups[group.id].members)
        usual_members = [each for each in members if each not in admins]
        present_admins = [each for each in members if each in admins]
        change = partial(_change_of_members, group.id, now)
        left = sorted(self._ever_present(group).difference(members))
        yield change("member", usual_members)
        yield replace(change("member", present_admins), role="admin")
        yield change("leave", left)

    def _ever_present(self, group: Group) -> set[str]:
        """Return everybody who was in a group at some time."""
        activity = self._survey.of_groups[group.id]
        return {
            *activity.joined,
            *activity.seen,
            *self._conversion.first_members(group),
        }

    # --- messages -------------------------------------------------------------

    def _add_message(self, message: Message) -> None:
        """Add a message of the archive.

        A message here has at most ten files. If there are more, further
        messages have the rest of the files, and nothing else.
        """
        user = self._conversion.user(message.person)
        parts = [
            self._uploads.part(file, user) for file in message.files if not file.address
        ]
        first = parts[:MOST_ITEMS]
        self._add(message, self._conversion.draft(message, first))
        for number, start in enumerate(range(MOST_ITEMS, len(parts), MOST_ITEMS), 1):
            further = _without_content(message, id=f"{message.id}.{number}")
            its_parts = parts[start : start + MOST_ITEMS]
            self._add(further, self._conversion.draft(further, its_parts))

    # --- batches --------------------------------------------------------------

    def _add(self, record: Happening, draft: Draft | None = None) -> None:
        """Put a record into the batch. A full batch is stored before.

        A record that changes a message of the batch goes into the next one,
        because the message must be in the log then. ``draft``: of a message.
        """
        keys = self._conversion.keys(record)
        is_full = self._batch.weight >= self._most_weight(record)
        if is_full or not self._batch.stores.isdisjoint(keys.changes):
            self._store_batch()
        batch = self._batch
        batch.rows.append((record, draft))
        batch.keys.update(keys.stores, keys.changes, keys.looks_up)
        batch.stores.update(keys.stores)
        batch.weight += _weight(record)

    def _most_weight(self, record: Happening) -> int:
        """Return the weight at which the batch is full for a record.

        Records with one time stay together as far as possible.
        """
        if self._batch.rows:
            last_record, _ = self._batch.rows[-1]
            if time_of(record) == time_of(last_record):
                return self._batch_weight * 2
        return self._batch_weight

    def _store_batch(self) -> None:
        """Store the batch in one transaction, and begin the next one.

        The duration of the transaction decides how large the next batch may be.
        """
        batch = self._batch
        self._batch = Batch()
        if not batch.rows:
            return
        started_at = 0.0
        writer: PastWriter | None = None

        def store_rows(past: LogImport) -> None:
            # The transaction may run again; then nothing of this run counts.
            nonlocal started_at, writer
            started_at = perf_counter()
            writer = PastWriter(past, self._conversion, self._groups, self._page)
            for record, draft in batch.rows:
                writer.store(record, draft)

        self._log.import_past(self._app, list(batch.keys), store_rows)
        assert writer is not None
        self._fit_batch_weight(batch.weight, seconds=perf_counter() - started_at)
        self._note_results(writer)

    def _fit_batch_weight(self, weight: int, seconds: float) -> None:
        """Choose the weight of the next batch, so that it takes BATCH_SECONDS.

        A batch of this weight has just taken so many seconds.
        """
        fitting = int(weight * BATCH_SECONDS / seconds)
        self._batch_weight = min(max(fitting, LEAST), BATCH)

    def _note_results(self, writer: PastWriter) -> None:
        """Note the results of a batch that is stored: new ids, counts and
        problems."""
        self._groups.update(writer.groups)
        for message, id in writer.messages:
            self._positions.note(message, id)
        self.added.update(writer.added)
        for (why, group), count in writer.lost.items():
            self._problems.note_lost(why, group=group, count=count)
        for (what, group), count in writer.changed.items():
            self._problems.note(what, group=group, count=count)


def _without_content(message: Message, id: str) -> Message:
    """Return a message without its content, under another id."""
    return replace(message, id=id, text="", is_edited=False, reactions=(), files=())


def _change_of_members(
    group: str, time_ms: int, kind: Literal["member", "leave"], people: list[str]
) -> Change:
    """Return a change by which people join or leave, without an event of
    theirs.

    The id has a digest of the people, so that a later import stores another
    change if other people join or leave.
    """
    id = f"{group}.{kind}.{digest_of(people)}"
    return Change(id, group, person="", time_ms=time_ms, kind=kind, people=people)


def _weight(record: Happening) -> int:
    """Return the cost of storing a record, about its number of rows.

    Rows of members cost less than other rows.
    """
    if isinstance(record, Message):
        return 1 + len(record.reactions)
    if isinstance(record, Change):
        return 1 + len(record.people) // _PEOPLE_OF_A_ROW
    if isinstance(record, Group):
        return 1 + len(record.members) // _PEOPLE_OF_A_ROW
    return 1


def _now() -> int:
    """Return the present time in Unix milliseconds."""
    return int(time() * SECOND_MS)
