"""Acts in archives: those that a user has done, or that concern the user; those in an app.

A user does not learn who else has done something, from where, and to whom besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec
from msgspec.structs import replace

from imserver.features.audit.chain import ActMaker, ActShown, shown
from imserver.features.audit.rows import NO_ACTS, PERSONS, AuditQuery, search
from imserver.plugin.settings import Config
from imserver.plugin.storage import Store

_AT_ONCE: Final = 500
_encode: Final = msgspec.json.Encoder().encode


def read(_config: Config, store: Store, app: str, user: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The file with the acts, the newest first."""
    yield "audit.jsonl", _lines(store, AuditQuery(app=app, user=user, limit=_AT_ONCE))


def _lines(store: Store, wanted: AuditQuery) -> Iterator[bytes]:
    last = -1
    while last:
        page = replace(wanted, after=max(last, 0))
        acts, last = store.read_or((NO_ACTS, 0), partial(search, page))
        for row, names in acts:
            act = shown(row.number, row.time, row.entry, names)
            yield _encode(_for_user(act, wanted.user) if wanted.user else act) + b"\n"


def _for_user(act: ActShown, user: str) -> ActShown:
    """The act without what it says of others."""
    facts = {name: value for name, value in (act.facts or {}).items() if name != "users"}
    if act.by.kind in PERSONS and act.by.id == user:
        return replace(act, facts=facts)
    return replace(act, by=ActMaker(act.by.kind, "", ""), address="", user=act.user and user, facts=facts)
