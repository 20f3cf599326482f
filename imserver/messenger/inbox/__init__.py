"""The inbox of a user: pinned and archived conversations, conversations that
are marked as unread, folders, and drafts.

An *arrangement* is the set of these properties of one conversation. It belongs
to the user, and is valid on all devices of the user. The server stores it and
sends it to the other devices. Clients apply it. An archived conversation comes
back with a newer entry unless it is muted, and a mark ends when the user reads
a newer entry. Arrangements name the entry, so the server need not look at
messages, receipts and mutes. Each user has one list with the names of the
folders. An arrangement says in which folders its conversation is.
"""

from imserver.messenger.inbox import api
from imserver.messenger.inbox.declared import SETTINGS, TABLES
from imserver.messenger.inbox.inbox import build
from imserver.messenger.inbox.wire import COMMANDS
from imserver.plugin import FeatureRow

FEATURE = FeatureRow(
    "inbox",
    build,
    routes=api.routes.rows,
    wire={"cmd": COMMANDS, "centrifuge": COMMANDS},
    uses=("messages",),
    settings=SETTINGS,
    tables=TABLES,
)
