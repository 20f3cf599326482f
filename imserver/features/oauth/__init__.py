"""Logging in with a provider: OpenID Connect, GitHub, WeChat."""

from __future__ import annotations

from imserver.features.accounts.parts import accounts_of
from imserver.features.oauth import api
from imserver.features.oauth.declared import SETTINGS, TABLES
from imserver.features.oauth.links import LinkStore
from imserver.features.oauth.oauth import OAuth
from imserver.plugin import Feature, FeatureParts
from imserver.plugin.services import Core


def _build(core: Core) -> FeatureParts:
    links = LinkStore(core.storage.store)
    accounts = accounts_of(core).accounts
    oauth = OAuth(core.config, core.identity.tenants, accounts, links, core.cluster, core.network.outgoing)
    core.identity.tenants.on_delete.append(oauth.forget)
    return FeatureParts(oauth)


FEATURE = Feature(
    "oauth",
    _build,
    routes=api.ROUTES,
    operations=tuple(api.routes.rows),
    uses=("pages", "accounts"),
    settings=SETTINGS,
    tables=TABLES,
)
