"""Deletion of an app with all that belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from time import sleep
from typing import Final

from imserver.auth.tenants import Tenants, UnknownTenant
from imserver.config.settings import StorageSettings
from imserver.storage.contract import AppContents, Erasure, tables_of
from imserver.storage.store import Store

_LOOKS: Final = 1.5
"""``storage.look_seconds``, times this, is how long all nodes take to close the sessions."""


def app_contents(tenants: Tenants, store: Store, name: str) -> AppContents:
    """The contents that :func:`delete_app` would delete. May switch.

    Raises :class:`imserver.auth.tenants.UnknownTenant`, :class:`imserver.auth.tenants.BadTenant` for an app
    that may not be deleted, and StorageUnavailable.
    """
    if not (tenants.find(name) is None and store.is_deleted(name)):
        tenants.check_deletable(name)
    return store.contents(name)


def delete_app(
    tenants: Tenants,
    store: Store,
    erasures: Sequence[Erasure],
    name: str,
    settings: StorageSettings,
) -> AppContents:
    """Delete an app: its keys, sessions and rows, and what features have of it. May switch.

    Nodes close its sessions within ``storage.look_seconds``. Rows are deleted after that, and after the last
    review of a message, so that no node writes any more. An app of this name that was created anew meanwhile
    keeps what it has. If it fails after the first step, the rest is deleted by calling it again.

    Raises what :func:`app_contents` raises, and Unavailable of features.
    """
    found = app_contents(tenants, store, name)
    tenant = tenants.get(name)
    try:
        tenants.delete(name)
    except UnknownTenant:  # deleted before, but not to the end
        pass
    else:
        reviewing = tenant.webhook.review_seconds if tenant is not None and tenant.webhook.review_url else 0.0
        sleep(settings.look_seconds * _LOOKS + reviewing)
    for erasure in erasures:
        erasure.app(name)
    store.delete_rows(name, tables_of(erasures))
    return found
