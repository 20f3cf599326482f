"""The parts of the inbox on one node."""

from __future__ import annotations

from imserver.auth.rates import Buckets
from imserver.config.settings import settings_of
from imserver.core.core import Core, FeatureParts
from imserver.features.inbox.inbox import Inbox
from imserver.features.inbox.rows import ArrangementRows
from imserver.features.inbox.settings import CHANGE_SECONDS, CHANGES, INBOX_CHANGES, InboxSettings


def inbox_of(core: Core) -> Inbox:
    """The inboxes of a node."""
    inbox: Inbox = core.features["inbox"].service
    return inbox


def build(core: Core) -> FeatureParts:
    """Build them."""
    inbox = Inbox(
        core.store,
        ArrangementRows(core.store),
        core.signals,
        settings_of(core.config, InboxSettings),
        Buckets(INBOX_CHANGES, CHANGES, CHANGE_SECONDS),
    )
    return FeatureParts(inbox, inbox.rows())
