"""imserver: a self-hosted instant-messaging and push gateway.

Importing this package never monkey-patches; only ``python -m imserver`` (and
the console script) does.
"""

__version__ = "1.0.0"

FEATURES = (
    "imserver.messenger.messages",
    "imserver.backends.webhooks",
    "imserver.people.accounts",
    "imserver.messenger.groups",
    "imserver.dialects.client",
    "imserver.dialects.action",
    "imserver.dialects.protobuf",
    "imserver.dialects.centrifuge",
    "imserver.dialects.pusher",
    "imserver.pages",
    "imserver.people.invitations",
    "imserver.people.bots",
    "imserver.people.oauth",
    "imserver.media.uploads",
    "imserver.messenger.ask",
    "imserver.notifications",
    "imserver.messenger.inbox",
    "imserver.messenger.later",
    "imserver.operate.audit",
    "imserver.operate.keys",
    "imserver.operate.erasure",
    "imserver.operate.refusals",
    "imserver.operate.watch",
    "imserver.operate.safety",
    "imserver.operate.admin",
    "imserver.operate.quotas",
    "imserver.media.emoji",
    "imserver.media.previews",
    "imserver.operate.exports",
    "imserver.offline.backups",
)
"""The packages of the features and foreign dialects of this server, in the
order in which a node builds them. Each has its row in ``FEATURE``. Nothing else
of the server names them. The first of the dialects whose parameter
(``chosen_by``) a client names serves it."""
