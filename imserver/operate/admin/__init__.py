"""The admin page: those who answer for a server find, see and mend, in the
browser. Nothing on it that ``/api/v1`` cannot do.
"""

from collections.abc import Callable
from typing import Any

from imserver.operate.admin import api
from imserver.operate.admin.parts import build
from imserver.plugin import FeatureRow


def _views(_forks: bool) -> Callable[..., Any]:
    from imserver.operate.admin.page import create_page

    return create_page


def _commands() -> dict[str, Any]:
    from imserver.operate.admin.command import drain

    return {"drain": drain}


FEATURE = FeatureRow(
    "admin",
    build,
    routes=api.routes.rows,
    views=_views,
    uses=("pages",),
    commands=_commands,
)
