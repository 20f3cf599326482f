"""The rate of changes: a user pays for what the user changes, not for what a back end does."""

from typing import Any

import pytest

from imserver.gateway.auth.rates import Buckets, TooManyRequests
from imserver.messenger.inbox.declared import INBOX_CHANGES, InboxSettings
from imserver.messenger.inbox.inbox import Inbox
from imserver.messenger.inbox.rows import ArrangementRefused, ArrangementRows
from imserver.messenger.inbox.wire import Arrange
from tests.stores import OpenStore


def test_a_user_pays_for_changes(open_store: OpenStore) -> None:
    store = open_store()
    send: Any = None  # there is nothing to send
    changes = Buckets(INBOX_CHANGES, number=1, seconds=60)
    inbox = Inbox(store, ArrangementRows(store), send, InboxSettings(), changes)
    change = Arrange(1, pinned=1)
    for by_user in (False, False, True):
        with pytest.raises(ArrangementRefused):
            inbox.arrange("shop", "ann", change, by_user=by_user)
    with pytest.raises(TooManyRequests):
        inbox.arrange("shop", "ann", change)
    with pytest.raises(ArrangementRefused):
        inbox.arrange("shop", "bob", change)
