"""The admin page, on which operators of a server find, inspect and mend things
in the browser. It can do nothing that ``/api/v1`` cannot do."""

from collections.abc import Callable
from typing import Any

from imserver.operate.admin import api
from imserver.operate.admin.parts import build
from imserver.plugin import CommandOf, FeatureRow


def _views(_forks: bool) -> Callable[..., Any]:
    from imserver.operate.admin.page import create_page

    return create_page


FEATURE = FeatureRow(
    "admin",
    build,
    routes=api.routes.rows,
    views=_views,
    uses=("pages",),
    commands=(
        CommandOf(
            "drain",
            "imserver.operate.admin.command:drain",
            "Move the clients of a node to other nodes, or let the node serve again.",
        ),
    ),
)
