"""The secrets of apps, for features that sign or verify with them."""

import logging
from collections.abc import Callable
from typing import Protocol

from imserver.gateway.auth.tenants import Tenant, Tenants
from imserver.gateway.auth.tokens import BadKey, read_key_file
from imserver.gateway.config.settings import Config, TenantSettings
from imserver.gateway.config.values import MAKE_SECRET, is_placeholder
from imserver.gateway.errors import StartError
from imserver.gateway.model import Service


class SecretSettings(Protocol):
    """A group of settings with a secret, or the file of one."""

    @property
    def secret(self) -> str: ...
    @property
    def secret_file(self) -> str: ...


class AppSecrets(Service, dict=True):
    """Passes each app with its secret to a feature that signs or verifies.

    It owns the secrets, and never switches greenlets. ``secret_of`` returns the
    secret that the settings of an app name (``b""``: none), or raises BadKey.
    ``take`` is called with a new or changed app and its secret, ``forget`` with
    the name of a deleted app.
    """

    tenants: Tenants
    secret_of: Callable[[TenantSettings], bytes]
    take: Callable[[Tenant, bytes], None]
    forget: Callable[[str], None]

    def __post_init__(self) -> None:
        """Learn of apps that are deleted or changed from now on."""
        self._secrets: dict[str, bytes] = {}
        self.tenants.report_to(self.deleted, self.changed)

    @staticmethod
    def read(setting: str, given: SecretSettings) -> bytes:
        """Return the secret of a group of settings, from its file if it names
        one.

        ``setting`` is the name of the group, for errors. Raises BadKey if there
        is no usable secret.
        """
        if given.secret and given.secret_file:
            raise BadKey(f"{setting}: secret and secret_file are both given")
        try:
            if given.secret_file:
                text = read_key_file(given.secret_file)
            else:
                text = given.secret
        except BadKey as bad:
            raise BadKey(f"{setting}: {bad}") from None

        if not text:
            raise BadKey(
                f"{setting}.secret: requests are signed with it, so it must be set"
            )
        # Everybody knows the examples of the documentation.
        if is_placeholder(text):
            raise BadKey(
                f"{setting}.secret: this is a placeholder of the documentation; make "
                f"one with '{MAKE_SECRET}'"
            )
        return text.encode()

    def configure(self, _config: Config) -> None:
        """Pass all apps with their secrets, at the start and at SIGHUP.

        Files with secrets are read again. Raises StartError if a secret cannot
        be used at the start.
        """
        tenants = self.tenants.all()
        for name in self._secrets.keys() - {tenant.name for tenant in tenants}:
            self.deleted(name)
        for tenant in tenants:
            if tenant.name in self._secrets:
                # An error must not stop a running node: the app keeps its
                # earlier secret.
                self.changed(tenant)
                continue
            try:
                self._pass(tenant, self.secret_of(tenant))
            except BadKey as bad:
                raise StartError(f"apps.{tenant.name}.{bad}") from None

    def changed(self, tenant: Tenant) -> None:
        """Pass a new or changed app.

        If its secret cannot be used, its earlier secret stays (``b""`` for a
        new app).
        """
        try:
            secret = self.secret_of(tenant)
        except BadKey as bad:
            logging.getLogger(__name__).error("apps.%s.%s", tenant.name, bad)
            secret = self._secrets.get(tenant.name, b"")
        self._pass(tenant, secret)

    def deleted(self, app: str) -> None:
        """Forget the secret of a deleted app."""
        self._secrets.pop(app, None)
        self.forget(app)

    def _pass(self, tenant: Tenant, secret: bytes) -> None:
        """Remember the secret of an app, and pass it to the feature."""
        self._secrets[tenant.name] = secret
        self.take(tenant, secret)
