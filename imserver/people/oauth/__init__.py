"""Logins with a provider: OpenID Connect, GitHub, WeChat."""

from imserver.people.oauth import api
from imserver.people.oauth.declared import SETTINGS, TABLES
from imserver.people.oauth.oauth import OAuth
from imserver.plugin import FeatureRow, Parts
from imserver.plugin.services import Core


def _build(core: Core) -> Parts:
    return Parts((OAuth(core),))


FEATURE = FeatureRow(
    "oauth",
    _build,
    routes=(*api.ROUTES, *api.routes.rows),
    uses=("pages", "accounts"),
    settings=SETTINGS,
    tables=TABLES,
)
