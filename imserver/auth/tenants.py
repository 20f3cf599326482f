"""Apps as tenants: those of the configuration, and those that are registered while the server runs.

Registered ones are kept in the database. Every node knows all of them, in memory; what is registered or
changed on one node the others learn within ``storage.look_seconds``, or at once when they are asked for a
name that they do not know. Where a name is both configured and kept, the configuration holds.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec

from imserver.config.checks import check_tenant
from imserver.config.settings import Config, LoginPolicy, TenantSettings
from imserver.config.values import ConfigError, fold, given_fields
from imserver.hub.hub import Hub
from imserver.storage.contract import AppRow, Changes
from imserver.storage.store import Store

SYSTEM_PREFIX: Final = "system:"
"""What the names of apps begin with that belong to systems of the client dialect."""
NAME_CHARACTERS: Final = 191
NAME_BYTES: Final = 500
SETTINGS_BYTES: Final = 32768
"""Bytes of the settings of one registered app, as JSON."""

Objection = Callable[[str, TenantSettings], str]
"""(name, settings) → what is wrong with them beyond what the configuration can tell; ``""``: nothing."""

_DEFAULTS: Final = TenantSettings()
_FIELDS: Final = TenantSettings.__struct_fields__

log = logging.getLogger(__name__)


class BadTenant(ValueError):
    """A name that cannot be one, or settings that cannot be; the text is one line that says why."""


class UnknownTenant(LookupError):
    """No such app."""


class TooManyTenants(Exception):
    """``limits.registered_apps`` is reached."""


class Tenant(TenantSettings, frozen=True, kw_only=True):
    """One app with its settings. ``stored``: it is kept; ``configured``: the configuration has it."""

    name: str
    stored: bool = False
    configured: bool = False

    @property
    def policy(self) -> LoginPolicy:
        """What a second login of a user does."""
        return self.policy_of(self.name)

    @property
    def has_login_rule(self) -> bool:
        """Whether a login has to prove something: by a session token, an account, or the back end's word."""
        return bool(self.jwt or self.webhook.authorise_url or self.wants_accounts(self.name))


def valid_name(name: str) -> bool:
    """Whether an app may be called so: 1 to 191 characters, none that is invisible, no blank at an end."""
    return (
        0 < len(name) <= NAME_CHARACTERS
        and name == name.strip()
        and not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
        and len(name.encode()) <= NAME_BYTES
    )


class Tenants:
    """All apps by name. Owner of the tenants; opens apps in the hub."""

    def __init__(self, config: Config, store: Store, hub: Hub | None, objection: Objection) -> None:
        self._store = store
        self._hub = hub
        self._objection = objection
        self._stored: dict[str, Tenant] = {}
        self._configured: dict[str, Tenant] = {}
        self.on_change: list[Callable[[Tenant], object]] = []
        """Called with each app that is new or changed, after it counts; must not switch."""
        self.reload(config)
        store.on_changes.append(self._learn)

    def reload(self, config: Config) -> None:
        """Take the apps of ``config`` in place of those configured so far; who is logged in stays."""
        self._limit = config.limits.registered_apps
        before = self._configured
        self._configured = {
            name: _tenant(name, settings, configured=True) for name, settings in config.apps.items()
        }
        for name in {**before, **self._configured}:
            tenant = self.get(name)
            if tenant is not None and tenant != before.get(name):
                self._count(tenant)

    # --- asking ---------------------------------------------------------------------------------------------

    def get(self, name: str) -> Tenant | None:
        """The app of this name, as far as this node knows. Never switches."""
        return self._configured.get(name) or self._stored.get(name)

    def find(self, name: str) -> Tenant | None:
        """The app of this name, also if it was registered elsewhere a moment ago. May switch.

        Raises StorageUnavailable if the name is not known and the database cannot be asked.
        """
        tenant = self.get(name)
        if tenant is None and valid_name(name):
            self._store.look()
            tenant = self.get(name)
        return tenant

    def resolve(self, name: str) -> str:
        """The name of the app that ``name`` is another name of; else ``name``. Never switches."""
        tenant = self._configured.get(name) or self._stored.get(name)
        return tenant.same_as if tenant is not None and tenant.same_as else name

    def names(self) -> list[str]:
        """The names of all apps, sorted."""
        return sorted({*self._configured, *self._stored})

    def all(self) -> list[Tenant]:
        """All apps, by name."""
        return [tenant for name in self.names() if (tenant := self.get(name)) is not None]

    # --- changing -------------------------------------------------------------------------------------------

    def register(self, name: str, **fields: Any) -> bool:
        """Make an app and keep it; False if there is one of this name. May switch.

        ``fields`` are settings as in the configuration file. Raises BadTenant, TooManyTenants, and
        StorageUnavailable, after which the app may have been made or not.
        """
        if not valid_name(name):
            raise BadTenant(f"an app cannot be called {name[:NAME_CHARACTERS]!r}")
        settings = self._checked(name, {}, fields)
        if self.find(name) is not None:
            return False
        if len(self._stored) >= self._limit:
            raise TooManyTenants(f"limits.registered_apps {self._limit} is reached")
        return self._store.add_app(name, settings)

    def change(self, name: str, fields: Mapping[str, Any], unset: Collection[str] = ()) -> Tenant:
        """Change settings of a registered app; those in ``unset`` get their defaults back. May switch.

        Raises UnknownTenant, BadTenant and StorageUnavailable, after which it may have been changed or not.
        """
        tenant = self.find(name)
        if tenant is None:
            raise UnknownTenant(name)
        if tenant.configured:
            raise BadTenant(f"app {name}: stands in the configuration, and is changed there")
        dropped = tuple(_field_named(each, name) for each in unset)
        before = {key: value for key, value in _given(tenant).items() if key not in dropped}
        changed = self._checked(name, before, fields)
        if not self._store.change_app(name, changed, dropped):
            raise UnknownTenant(name)
        return self.get(name) or tenant

    # --- inside ---------------------------------------------------------------------------------------------

    def _checked(self, name: str, before: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        """``fields`` as they are kept. Raises BadTenant if with them the app's settings were wrong."""
        where = f"app {name}"
        try:
            given = given_fields(TenantSettings, fields, where)
            settings = msgspec.convert({**before, **given}, TenantSettings)
            check_tenant(settings, where)
        except ConfigError as error:
            raise BadTenant(str(error)) from None
        if settings.webhook.secret_file or any(row.key_file for row in settings.jwt):
            # They would read any file for whoever may change apps, and other nodes may not have it.
            raise BadTenant(f"{where}: files of keys and secrets can be named in the configuration only")
        if wrong := self._objection(name, settings) or self._aliasing(name, settings.same_as):
            raise BadTenant(f"{where}: {wrong}")
        if len(msgspec.json.encode({**before, **given})) > SETTINGS_BYTES:
            raise BadTenant(f"{where}: more than {SETTINGS_BYTES} bytes of settings")
        return given

    def _aliasing(self, name: str, same_as: str) -> str:
        """Why ``name`` cannot be another name of ``same_as``; ``""``: it can."""
        if not same_as:
            return ""
        target = self.get(same_as)
        if target is None or target.same_as or same_as == name:
            return f"same_as: expected another app that stands for itself, got {same_as!r}"
        if any(each.same_as == name for each in self.all()):
            return "same_as: other apps are other names of this one"
        return ""

    def _learn(self, changes: Changes) -> None:
        for row in changes.apps:
            self._stored[row.name] = tenant = _tenant(row.name, _settings(row), stored=True)
            if row.name not in self._configured:
                self._count(tenant)

    def _count(self, tenant: Tenant) -> None:
        if self._hub is not None and not tenant.same_as:
            self._hub.open(tenant.name, tenant.policy)
            self._hub.set_policy(tenant.name, tenant.policy)
        for told in self.on_change:
            try:
                told(tenant)
            except Exception:  # one app that cannot be served is no reason to know less of the others
                log.exception("the app %s could not be taken over", tenant.name)


def _tenant(name: str, settings: TenantSettings, *, stored: bool = False, configured: bool = False) -> Tenant:
    fields = {field: getattr(settings, field) for field in _FIELDS}
    return Tenant(**fields, name=name, stored=stored, configured=configured)


def _settings(row: AppRow) -> TenantSettings:
    """Settings as they were kept; those that a newer release has added are passed over."""
    try:
        return msgspec.convert(row.settings, TenantSettings)
    except msgspec.ValidationError as error:
        log.error("app %s: its settings in the database are passed over: %s", row.name, error)
        return TenantSettings()


def _given(tenant: Tenant) -> dict[str, Any]:
    """The settings that differ from the defaults, as plain values."""
    plain = msgspec.to_builtins(tenant)
    return {field: plain[field] for field in _FIELDS if getattr(tenant, field) != getattr(_DEFAULTS, field)}


def _field_named(written: str, name: str) -> str:
    """A setting's own name. Raises BadTenant if there is none like it."""
    for field in _FIELDS:
        if fold(field) == fold(written):
            return field
    raise BadTenant(f"app {name}: unknown key {written!r}")
