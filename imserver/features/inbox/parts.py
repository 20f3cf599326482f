"""The parts of the inbox on one node."""

from __future__ import annotations

from imserver.features.inbox.declared import CHANGE_SECONDS, CHANGES, INBOX_CHANGES, InboxSettings
from imserver.features.inbox.inbox import Inbox
from imserver.features.inbox.rows import ArrangementRows
from imserver.plugin import FeatureParts
from imserver.plugin.messages import MessageServices
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of


def inbox_of(core: Core) -> Inbox:
    """The inboxes of a node."""
    return core.service(Inbox)


def build(core: Core) -> FeatureParts:
    """Build them."""
    inbox = Inbox(
        core.storage.store,
        ArrangementRows(core.storage.store),
        core.service(MessageServices).signals.send,
        settings_of(core.config, InboxSettings),
        core.node.buckets.make(INBOX_CHANGES, CHANGES, CHANGE_SECONDS),
    )
    return FeatureParts(inbox, inbox.rows())
