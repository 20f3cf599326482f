"""For ``imserver doctor``: whether the newest acts are in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from imserver.features.audit.rows import after, head
from imserver.features.audit.verification import ChainCheck, Verification
from imserver.plugin.commands import Finding
from imserver.plugin.storage import PooledStatements

_ROWS: Final = 1000
_MEND: Final = "run imserver audit verify, and find out who writes to the database besides the server"


def check_rows(sql: PooledStatements) -> Iterator[Finding]:
    """Verify the newest acts."""
    end = head(sql)
    if end is None:
        yield Finding("fail", "audit log", "the head of the chain is missing", "no act can be stored", _MEND)
        return
    chain = ChainCheck(Verification(), None)
    first = end.number - _ROWS
    chain.begin(end if first <= end.anchor else replace(end, anchor=first, anchor_hash=""))
    for row, names in after(chain.number, _ROWS + 1, sql):
        chain.add(row, names)
    chain.end(end)
    if chain.result.wrong:
        text = f"{chain.result.wrong[0]} (of the last {chain.result.rows} rows)"
        yield Finding("fail", "audit log", text, "it does not prove any more what was done", _MEND)
