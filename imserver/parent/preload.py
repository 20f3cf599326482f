"""What the nodes will need is loaded before they are forked: they share the memory of it."""

from __future__ import annotations

import importlib

from imserver.config import Config
from imserver.pages.compiled import precompile
from imserver.storage.place import DRIVERS, place_of

_LOADED_LATE = (
    "cryptography.hazmat.primitives.ciphers.aead",
    "encodings.ascii",
    "encodings.idna",
    "encodings.unicode_escape",
    "gevent.pool",
    "gevent.resolver.thread",
    "gevent.threadpool",
    "imserver.api.multipart",
    "imserver.api.metric_table",
    "imserver.app",
)


def load_modules(config: Config) -> None:
    """Load what a node of these settings comes to load while it runs.

    None of these modules makes anything when it is imported: no loop, thread, socket or file.
    """
    names = list(_LOADED_LATE)
    if config.clustered:
        names.append("imserver.clustering")
    if config.server.door == "wsgi":
        names.append("imserver.transport.upgrade")
    if any(tenant.jwt for tenant in config.apps.values()):
        names.append("jwt.api_jws")
    if any(tenant.webhook.url or tenant.webhook.authorise_url for tenant in config.apps.values()):
        names.append("urllib3")
    place = place_of(config.storage, config.server.data_dir)
    if place.configured or place.exists:
        names += ["imserver.storage.database", DRIVERS[place.engine]]
    for name in names:
        importlib.import_module(name)
    precompile()
