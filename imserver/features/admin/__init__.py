"""The admin page: those who answer for a server find, see and mend, in the browser. Nothing on it that
``/api/v1`` cannot do.
"""

from imserver.features.admin import api
from imserver.features.admin.parts import build
from imserver.plugin import Feature, Views

FEATURE = Feature(
    "admin",
    build,
    routes=api.routes.rows,
    views=Views(("imserver.features.admin.page", "create_page")),
    uses=("pages",),
)
