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
"""A function that shows the progress: the kind of work, the number of verified
rows, and the number of all rows."""
Read = Callable[[Callable[[PooledStatements], Any]], Any]
"""A function that calls another one with the statements of a database, and
returns its result."""
_PAGE: Final = 100
"""Number of rows after which the loop does other work. They take 10 ms."""
NEWEST: Final = 1000
"""How many acts a check of the newest ones reads."""
_MOST_WRONG: Final = 100


class Verification(Struct):
    """The result of a verification.

    ``wrong`` has the problems in words, each with the number of its row.
    ``since`` and ``until`` are the times of the first and the last verified
    row, in Unix milliseconds. ``names`` counts the stored names, ``erased`` the
    erased ones. ``head`` is the number and hash of the last row. ``anchor`` is
    the number and hash of the row before the first verified one.
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
    """Verify the hashes of the audit log, and return what is wrong with it.

    ``read`` is :meth:`Store.read`, or a function with the same arguments.
    ``wanted`` is the number and hash of a head that somebody has saved earlier;
    the chain must still contain it. ``note`` is called after each page of rows.
    ``newest`` limits the verification to that many of the last rows; 0 means
    all. Switches greenlets. Raises StorageUnavailable.
    """
    chain = ChainCheck(Verification(), wanted)
    end, page = _first_page(read, chain, newest)
    while page:
        for row, names in page:
            chain.add(row, names)
        if end is not None:
            note("verified", chain.result.rows, end.number - end.anchor)
        end, page = read(partial(_next_page, chain.number))
        if end is not None and end.anchor > chain.number:
            # A server has removed the next rows meanwhile, because of their
            # age. Continue after them.
            chain.begin(end)

    if end is not None:
        chain.end(end)
    return chain.result


def _next_page(number: int, sql: PooledStatements) -> tuple[ChainHead | None, Acts]:
    """The head of the chain, and the next rows after a number."""
    return head(sql), after(number, _PAGE, sql)


class ChainCheck(Service):
    """Verifies the rows of a chain one after another.

    Call :meth:`begin` first, then :meth:`add` for each row, and :meth:`end`
    last. Problems are added to ``result``.
    """

    result: Verification
    _wanted: tuple[int, str] | None
    """Number and hash of a head that the chain must still have."""
    number: int = 0
    """The number of the last row."""
    _hash: str = ""
    """The hash of the last row. ``""`` if it is not known."""

    def begin(self, end: ChainHead) -> None:
        """Begin, or continue, after the anchor.

        The anchor is the last row that was removed because of its age. Its
        number and hash are stored with the head, so that the first remaining
        row can be linked to it.
        """
        self.result.anchor = (end.anchor, end.anchor_hash)
        self.number = end.anchor
        self._hash = end.anchor_hash
        self._compare(end.anchor, end.anchor_hash)

    def add(self, row: AuditRow, names: list[Name]) -> None:
        """Check the next row, and note each problem.

        Its number must follow the last number, its hashes must fit, and its
        names must fit their commitments.
        """
        number = row.number
        self._count(row)
        if number <= self.number:
            self.complain(
                f"row {number} was inserted: the chain begins after row {self.number}"
            )
            return

        self._check_link(row)
        if row.expected != row.hash:
            # The commitments may be changed, too, so the names are not compared
            # with them.
            self.complain(f"row {number} was changed")
        else:
            self._check_names(row, names)
        self._compare(number, row.hash)
        self.number = number
        # The hash is the stored one, also if the row was changed. So one
        # changed row is reported once, and not again as a broken link of the
        # next row.
        self._hash = row.hash

    def _check_link(self, row: AuditRow) -> None:
        """Check that no row is missing between the last row and this row, and
        that this row has the hash of the last row."""
        first_missing = self.number + 1
        last_missing = row.number - 1
        if first_missing == last_missing:
            self.complain(f"row {last_missing} is missing")
        elif first_missing < last_missing:
            self.complain(f"rows {first_missing} to {last_missing} are missing")
        # ``_hash`` is empty before the first row of a partial verification.
        elif self._hash and row.previous != self._hash:
            self.complain(
                f"the link between rows {self.number} and {row.number} is broken"
            )

    def _check_names(self, row: AuditRow, names: list[Name]) -> None:
        """Compare the stored names of a row with its commitments to them.

        A commitment without a name is no problem: the name was erased. It is
        counted.
        """
        commitments = msgspec.json.decode(row.entry.names, type=dict[str, str])
        erased = set(commitments)
        for name in names:
            erased.discard(name.part)
            if commitments.get(name.part) != name.commitment:
                self.complain(f"{name.part} of row {row.number} was changed")
        self.result.names += len(names)
        self.result.erased += len(erased)

    def _count(self, row: AuditRow) -> None:
        """Count a row in the result.

        An unreadable row has the time 0, which is no time of an act.
        """
        result = self.result
        result.rows += 1
        result.since = result.since or row.time
        result.until = row.time or result.until

    def end(self, end: ChainHead) -> None:
        """Compare the last row with the head, and check that the wanted head
        existed.

        The head is a row of a table of its own with the number and hash of the
        last act. It shows that rows at the end were removed, which no hash of a
        row would show.
        """
        self._compare_with_head(end)
        self.result.head = (end.number, end.hash)
        self._check_wanted()

    def _compare_with_head(self, end: ChainHead) -> None:
        """Note how the last row differs from the head."""
        if end.number > self.number:
            self.complain(f"rows {self.number + 1} to {end.number} are missing")
        elif end.number < self.number:
            self.complain(
                f"rows {end.number + 1} to {self.number} were inserted: the head does not count them"
            )
        elif end.hash != self._hash:
            self.complain(f"the head has another hash than row {end.number}")

    def _check_wanted(self) -> None:
        """Complain if no row with the number of the wanted head was verified.

        Rows between the anchor and the last row were compared one by one in
        :meth:`_compare`.
        """
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
        """Report the row if its hash differs from the wanted_number head of the
        same number.

        The wanted_number head is an older head of the chain that the operator
        has saved.
        """
        if self._wanted is None:
            return
        wanted_number, wanted_hash = self._wanted
        if wanted_number == number and wanted_hash != digest:
            self.complain(
                f"row {number} has another hash than the given head: rows up to it were rewritten"
            )

    def complain(self, text: str) -> None:
        """Add a problem to the result.

        After :data:`_MOST_WRONG` problems, further problems are only counted.
        """
        if len(self.result.wrong) < _MOST_WRONG:
            self.result.wrong.append(text)
        else:
            self.result.more += 1


def _first_page(
    read: Read, chain: ChainCheck, newest: int
) -> tuple[ChainHead | None, Acts]:
    """Begin a verification; returns the head of the chain, and the first rows."""
    # This page begins with the first row of the table, although the chain
    # begins after its anchor. Rows up to the anchor were removed for their age.
    # If such rows exist, somebody has inserted them, and :meth:`ChainCheck.add`
    # reports them.
    end, page = read(partial(_next_page, -1))
    if end is None:
        chain.complain(
            "the head of the chain is missing or unreadable: somebody has removed or changed it"
        )
    elif newest and end.number - newest > end.anchor:
        # The row before the first verified one is not read, so its hash is not
        # known. An empty hash means that the first link is not compared.
        chain.begin(replace(end, anchor=end.number - newest, anchor_hash=""))
        end, page = read(partial(_next_page, chain.number))
    else:
        chain.begin(end)
    return end, page


def check_rows(sql: PooledStatements) -> Iterator[Finding]:
    """Verify the newest acts, for ``imserver doctor``.

    Yields one finding if the chain is broken, and otherwise nothing.
    """

    # The doctor is in a transaction already. So the verification reads in it.
    def read(work: Callable[[PooledStatements], Any]) -> Any:
        return work(sql)

    result = verify(read, newest=NEWEST)
    if not result.wrong:
        return
    found = f"{result.wrong[0]} (of the last {result.rows} rows)"
    meaning = "the audit log is no longer a proof of what was done"
    mend = "run imserver audit verify, and find out who writes to the database besides the server"
    yield Finding("fail", "audit log", found=found, meaning=meaning, mend=mend)
