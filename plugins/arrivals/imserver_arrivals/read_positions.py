"""The positions up to which members of groups have read."""

from array import array
from collections.abc import Mapping
from itertools import chain, repeat
from operator import attrgetter
from typing import Final

from imserver.people.accounts import Account
from imserver.plugin.messages import MessageLog

from .conversion import time_of
from .records import Group, Member, Message
from .survey import Survey

_PAGE: Final = 500
"""The number of members whose positions are read at once."""


class ReadPositions:
    """Keeps the last messages that the members of an archive's groups have
    read.

    An archive tells the times up to which they have read. The messages at these
    times are found during the import, and marked as read at its end.
    """

    def __init__(self, survey: Survey, accounts: Mapping[str, Account]) -> None:
        """Sort the members of each group by the time of their reading.

        ``accounts``: id of a person in the archive → the account here.
        """
        self._groups = survey.groups
        self._accounts = accounts
        self._readers = {
            group.id: self._sorted_readers(group) for group in survey.groups.values()
        }
        """Id of a group → the members with a known read time; the one who has
        read least comes first."""
        self._read_ids: dict[str, array[int]] = {id: array("q") for id in survey.groups}
        """Id of a group → the last message that each of these members has read,
        as far as messages were imported."""
        self._last: dict[str, int] = {}
        """Id of a group → the id of its last message."""

    def _sorted_readers(self, group: Group) -> list[Member]:
        """Return the members of a group with an account and a known time of
        reading.

        They are sorted by this time.
        """
        members = {
            member.person: member
            for member in group.members
            if member.read_ms >= 0 and member.person in self._accounts
        }
        return sorted(members.values(), key=attrgetter("read_ms"))

    def note(self, message: Message, id: int) -> None:
        """Note that a message was stored. ``id``: its id here.

        Members whose read time is before the time of the message have read up
        to the message before it. Messages must come in the order of their
        times.
        """
        group = message.group
        readers = self._readers[group]
        read_ids = self._read_ids[group]
        last_id = self._last.get(group, 0)
        time_ms = time_of(message)
        # The readers are sorted, so the first one without a message is the
        # next.
        while len(read_ids) < len(readers):
            reader = readers[len(read_ids)]
            if reader.read_ms >= time_ms:
                break
            read_ids.append(last_id)
        self._last[group] = max(last_id, id)

    def mark_all(self, log: MessageLog, app: str, groups: Mapping[str, int]) -> None:
        """Mark the messages as read that members had read on the other server.

        If that is unknown, all messages are marked. ``groups``: id of a group
        there → the id of the group here. Switches greenlets, and raises
        StorageUnavailable.
        """
        for id, last_id in self._last.items():
            self._mark_group(
                log,
                app,
                groups[id],
                self._read_ids_of(id),
                last_id,
                is_direct=self._groups[id].kind == "direct",
            )

    def _read_ids_of(self, id: str) -> dict[str, int]:
        """Return the last message that each user has read in a group.

        Users whose read time is unknown are left out. ``id``: of the group
        there.
        """
        # Readers without a message have read all messages.
        read_ids = chain(self._read_ids[id], repeat(self._last[id]))
        return {
            self._accounts[member.person].user: read_id
            for member, read_id in zip(self._readers[id], read_ids, strict=False)
        }

    def _mark_group(
        self,
        log: MessageLog,
        app: str,
        group: int,
        read_ids: Mapping[str, int],
        last_id: int,
        is_direct: bool,
    ) -> None:
        """Mark messages of one group as read.

        ``read_ids``: user → the last message that the user has read; other
        users have read up to ``last_id``. In a conversation of two
        (``is_direct``) the other person sees the mark.
        """
        after = ""
        while True:
            page = log.conversations.members(app, group, after, _PAGE)
            if not page:
                return
            after = page[-1].user
            due = {row.user: read_ids.get(row.user, last_id) for row in page}
            positions = log.conversations.read_positions(app, {group: list(due)})
            behind = {
                user: read_id
                for user, read_id in due.items()
                if _is_behind(positions.get((user, group)), read_id)
            }
            if is_direct:
                for user, read_id in behind.items():
                    log.marks.note(app, user, group, read=read_id)
            else:
                log.marks.advance(app, group, behind)


def _is_behind(position: int | None, read_id: int) -> bool:
    """Whether a member had read more on the other server than here.

    After an earlier import, the member may have read more here. ``position`` is
    None if the member has left meanwhile.
    """
    return position is not None and position < read_id
