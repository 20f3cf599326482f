"""The admin page: those who answer for a server find, see and mend, in the browser. Nothing on it that
``/api/v1`` cannot do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from imserver.features.admin import api
from imserver.features.admin.parts import build
from imserver.plugin import Feature, Views
from imserver.plugin.http import Api
from imserver.plugin.services import Core


def _blueprints(core: Core, _api: Api) -> Iterable[Any]:
    return (_preload()(core),)


def _preload() -> Callable[[Core], Any]:
    from imserver.features.admin.page import create_page  # which loads Flask

    return create_page


FEATURE = Feature(
    "admin",
    build,
    operations=tuple(api.routes.rows),
    views=Views(_blueprints, preload=_preload),
    uses=("pages",),
)
