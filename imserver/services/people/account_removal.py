"""The end of an account: what goes with it, in which order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from imserver.errors import MediaUnavailable, StorageUnavailable
from imserver.storage.accounts import AccountStore
from imserver.storage.contract import Account

Forget = Callable[[Account], object]
"""Forgets what is an account's own. May switch; does nothing the second time."""

log: Final = logging.getLogger(__name__)


def remove(
    account: Account, kept: AccountStore, forgetting: Sequence[Forget], kick: Callable[[str, str], object]
) -> bool:
    """Delete an account with all that is its own; False if somebody else was quicker.

    The account goes last: as long as it is there, whoever was told of a failure may ask again. What it has
    got in between, by requests and connections that were under way, goes behind it.
    """
    for forget in forgetting:
        forget(account)
    if not kept.remove(account.app, account.id):
        return False
    kick(account.app, account.user)
    try:
        for forget in forgetting:
            forget(account)
    except (StorageUnavailable, MediaUnavailable) as error:
        log.warning(
            "something of the deleted account %s in %s may be left: %s", account.user, account.app, error
        )
    return True
