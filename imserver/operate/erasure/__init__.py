"""Erasure of users, by operators, back ends and the users themselves, and
deletion of apps.

The core and each feature erase their own data
(:class:`imserver.plugin.storage.Erasure`). This folder has the routes and the
command, and continues erasures that a node could not end. The journal of
erasures is a file in the data folder: a restored backup needs it.
"""

from imserver.operate.erasure.declared import TABLES
from imserver.operate.erasure.deletion import routes as app_routes
from imserver.operate.erasure.parts import build, routes
from imserver.plugin import CommandOf, FeatureRow

FEATURE = FeatureRow(
    "erasure",
    build,
    routes=(*routes.rows, *app_routes.rows),
    uses=("messages?", "accounts?"),
    tables=TABLES,
    commands=(
        CommandOf(
            "erase",
            "imserver.operate.erasure.command:erase",
            "Erase a user, or compact the database.",
        ),
        CommandOf(
            "delete",
            "imserver.operate.erasure.command:delete_app",
            "Delete an app with all its data.",
            parent="app",
        ),
    ),
)
