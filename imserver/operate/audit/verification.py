"""Verifies the chain of the audit log: finds rows that were changed, removed or
inserted."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.operate.audit.chain import AuditRow, Name
from imserver.operate.audit.rows import Acts, ChainHead, after, head
from imserver.plugin.commands import Finding
from imserver.plugin.runtime import Service
from imserver.plugin.storage import PooledStatements

Note = Callable[[str, int, int], None]
Read = Callable[[Callable[[PooledStatements], Any]], Any]
_PAGE: Final = 100
"""Number of rows after which the loop does other work. They take 10 ms."""
NEWEST: Final = 1000
"""How many acts a check of the newest ones reads."""
_MOST_WRONG: Final = 100


class Verification(Struct):
    """The result of a verification. ``wrong``: the problems in words, with the
    number of the row. ``since`` and ``until``: times of the first and the last
    row, in Unix milliseconds. ``erased``: the number of erased names. ``head``:
    the last row. ``anchor``: the row before the first one that was not removed.
    """

    wrong: list[str] = []
    more: int = 0
    """The number of problems that are not in ``wrong``, because there are too
    many."""
    rows: int = 0
    since: int = 0
    until: int = 0
    names: int = 0
    erased: int = 0
    head: tuple[int, str] = (0, "")
    anchor: tuple[int, str] = (0, "")


def _note_nothing(what: str, done: int, total: int) -> None:
    """Do nothing: nobody waits for progress."""


def verify(
    read: Read,
    wanted: tuple[int, str] | None = None,
    note: Note = _note_nothing,
    newest: int = 0,
) -> Verification:
    """Verify the whole chain, or its ``newest`` rows. ``read``: the method of a
    store. ``wanted``: number and hash of a head that was noted down. ``note``
    is called after each page with the number of rows that are done, and of all
    rows. Raises StorageUnavailable."""
    chain = ChainCheck(Verification(), wanted)
    end, page = read(partial(_next, -1))  # rows up to the anchor are too many
    if end is None:
        chain.complain(
            "the head of the chain is missing or unreadable: somebody has removed or changed it"
        )
    elif newest and end.number - newest > end.anchor:
        chain.begin(replace(end, anchor=end.number - newest, anchor_hash=""))
        end, page = read(partial(_next, chain.number))
    else:
        chain.begin(end)

    while page:
        for row, names in page:
            chain.add(row, names)
        if end is not None:
            note("verified", chain.result.rows, end.number - end.anchor)
        end, page = read(partial(_next, chain.number))
        # they were removed for their age meanwhile
        if end is not None and end.anchor > chain.number:
            chain.begin(end)
    if end is not None:
        chain.end(end)
    return chain.result


def _next(number: int, sql: PooledStatements) -> tuple[ChainHead | None, Acts]:
    return head(sql), after(number, _PAGE, sql)


class ChainCheck(Service):
    """Follows the chain. ``number`` and ``hash`` belong to the last row."""

    result: Verification
    _wanted: tuple[int, str] | None
    number: int = 0
    _hash: str = ""

    def begin(self, end: ChainHead) -> None:
        """Begin after the rows that were removed because of their age."""
        self.result.anchor = (end.anchor, end.anchor_hash)
        self.number = end.anchor
        self._hash = end.anchor_hash
        self._compare(end.anchor, end.anchor_hash)

    def add(self, row: AuditRow, names: list[Name]) -> None:
        """Check the next row."""
        number = row.number
        result = self.result
        result.rows += 1
        result.since = result.since or row.time
        result.until = row.time or result.until
        if number <= self.number:
            self.complain(
                f"row {number} was put in: the chain begins after row {self.number}"
            )
            return

        self._check_link(row)
        if row.expected != row.hash:
            self.complain(f"row {number} was changed")
        else:
            self._check_names(row, names)
        self._compare(number, row.hash)
        self.number = number
        self._hash = row.hash

    def _check_link(self, row: AuditRow) -> None:
        """Check that the next row follows the last one."""
        first = self.number + 1
        last = row.number - 1
        if first == last:
            self.complain(f"row {last} is missing")
        elif first < last:
            self.complain(f"rows {first} to {last} are missing")
        elif self._hash and row.previous != self._hash:
            self.complain(
                f"the link between rows {self.number} and {row.number} is broken"
            )

    def _check_names(self, row: AuditRow, names: list[Name]) -> None:
        """Compare the names of a row with its commitments to them."""
        commitments = msgspec.json.decode(row.entry.names, type=dict[str, str])
        erased = set(commitments)
        for name in names:
            erased.discard(name.part)
            if commitments.get(name.part) != name.commitment:
                self.complain(f"{name.part} of row {row.number} was changed")
        self.result.names += len(names)
        self.result.erased += len(erased)

    def end(self, end: ChainHead) -> None:
        """Compare the last row with the head."""
        if end.number > self.number:
            self.complain(f"rows {self.number + 1} to {end.number} are missing")
        elif end.number < self.number:
            self.complain(
                f"rows {end.number + 1} to {self.number} were put in: the head does not know them"
            )
        elif end.hash != self._hash:
            self.complain(f"the head has another hash than row {end.number}")
        self.result.head = (end.number, end.hash)

        if self._wanted is None:
            return
        number, _ = self._wanted
        anchor, _ = self.result.anchor
        if number < anchor:
            self.complain(
                f"row {number} was removed for its age: its hash cannot be compared"
            )
        elif number > self.number:
            self.complain(f"row {number}, the given head, is missing")

    def _compare(self, number: int, digest: str) -> None:
        """Compare a row with the given head, if its number is the head's."""
        if self._wanted is None:
            return
        wanted, wanted_hash = self._wanted
        if wanted == number and wanted_hash != digest:
            self.complain(
                f"row {number} has another hash than the given head: rows up to it were rewritten"
            )

    def complain(self, text: str) -> None:
        """Add a problem."""
        if len(self.result.wrong) < _MOST_WRONG:
            self.result.wrong.append(text)
        else:
            self.result.more += 1


def check_rows(sql: PooledStatements) -> Iterator[Finding]:
    """Verify the newest acts, for ``imserver doctor``."""

    def read(work: Callable[[PooledStatements], Any]) -> Any:
        return work(sql)

    result = verify(read, newest=NEWEST)
    if not result.wrong:
        return
    found = f"{result.wrong[0]} (of the last {result.rows} rows)"
    meaning = "it does not prove any more what was done"
    mend = "run imserver audit verify, and find out who writes to the database besides the server"
    yield Finding("fail", "audit log", found, meaning, mend)
