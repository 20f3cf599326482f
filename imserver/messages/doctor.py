"""For ``imserver doctor``: entries that the database had lost lately."""

from __future__ import annotations

from collections.abc import Iterator
from time import gmtime, strftime, time
from typing import Final

from imserver.messages.log.lost import ranges_of
from imserver.plugin.commands import Finding
from imserver.storage.statements import PooledStatements, text_of

_LOSS_DAYS: Final = 30
"""For so long a loss of entries is named."""
_DAY: Final = 86_400


def check_rows(sql: PooledStatements) -> Iterator[Finding]:
    """Tell that nodes have found a loss."""
    rows = sql.query("SELECT app, lost FROM log WHERE lost IS NOT NULL")
    losses = {text_of(app): ranges_of(lost)[-1].found for app, lost in rows}
    lost = sorted(app for app, at in losses.items() if at > time() - _LOSS_DAYS * _DAY)
    if lost:
        when = strftime("%Y-%m-%d %H:%M", gmtime(max(losses[app] for app in lost)))
        yield Finding(
            "warn",
            "lost entries",
            f"at {when} UTC the database had lost its newest commits: {', '.join(lost)}",
            "a replica that was behind took the place of its primary, or a crash took commits; messages that "
            "were acknowledged are gone",
            "replicate synchronously (docs/operations.md, Replication), and set the database to flush each "
            "commit",
        )
