"""Apps as tenants: from the configuration, or registered at run time.

Registered apps are stored in the database. Every node has all of them in
memory. A change on one node reaches the others within ``storage.look_seconds``,
or at once when they look up an unknown name. If a name is both configured and
stored, the configuration wins.
"""

import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, get_origin

import msgspec

from imserver.gateway.config.declared import (
    bare,
    hints_of,
    marked,
    marks_of,
    plain,
    struct_in,
)
from imserver.gateway.config.settings import (
    Config,
    LoginPolicy,
    TenantSettings,
    app_settings_of,
)
from imserver.gateway.config.values import (
    APP_CHARACTERS,
    CORE,
    RENAMED_OF_APPS,
    ConfigError,
    Declarations,
    Locations,
    check_tenant,
    fold,
    stored_fields,
    stored_name,
    valid_name,
)
from imserver.gateway.errors import Problems, ServiceRefused
from imserver.gateway.hub.hub import Hub
from imserver.gateway.model import SYSTEM_PREFIX
from imserver.gateway.storage.app_rows import has_files
from imserver.gateway.storage.contract import AppRow, Changes
from imserver.gateway.storage.statements import PooledStatements
from imserver.gateway.storage.store import Store

_LOCKED: Final = "locked"
"""The key in the stored settings of an app that says that the app is locked. No
request can set it."""
SETTINGS_BYTES: Final = 32768
"""Limit of one registered app's settings, in bytes of JSON."""
AppObjection = Callable[[str, TenantSettings], str]
"""A function that checks an app's name and settings beyond their syntax. It
returns the error text, or ``""`` if the name and the settings are valid."""


log = logging.getLogger(__name__)


class BadTenant(
    ServiceRefused, ValueError, problem=Problems.INVALID_REQUEST, detail="{}"
):
    """An app cannot have this name or these settings, or cannot be deleted.

    The text is one line with the reason. ``is_full`` tells whether the reason
    is that there are too many apps. This attribute is kept until release 2.0.
    """

    is_full = False


class UnknownTenant(ServiceRefused, LookupError, problem=Problems.UNKNOWN_APP):
    """No app has this name."""


class TooManyTenants(BadTenant, problem=Problems.TOO_MANY_APPS):
    """``limits.registered_apps`` is reached."""

    is_full = True


class Tenant(TenantSettings, frozen=True, kw_only=True):
    """One app with its settings.

    ``stored`` means that it comes from the database, ``configured`` that it
    comes from the configuration file. ``locked`` means that the app is about to
    be deleted, so that nobody can log in.
    """

    name: str
    stored: bool = False
    configured: bool = False
    locked: bool = False

    @property
    def policy(self) -> LoginPolicy:
        """The rule for a second login of a user."""
        return self.policy_of(self.name)

    @property
    def has_login_rule(self) -> bool:
        """Whether a login requires a session token, an account or the back
        end's consent."""
        return bool(
            self.jwt or self.webhook.authorise_url or self.wants_accounts(self.name)
        )


class Tenants:
    """All apps by name, from the configuration file and from the database.

    Owner of the tenants; opens apps in the hub, which keeps their sessions.
    ``declared`` says which settings an app may have.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        hub: Hub | None,
        objection: AppObjection,
        declared: Declarations = CORE,
    ) -> None:
        """Start with the apps of ``config``. The stored apps follow when
        ``store`` reports them.

        ``hub`` is None in commands that serve nobody. ``objection`` returns why
        an app cannot have its settings, or ``""``.
        """
        self.declared = declared
        self._defaults = plain(declared.app_of({}))
        self._store = store
        self._hub = hub
        self._objection = objection
        self.by_name: dict[str, Tenant] = {}
        """Name → app. Read-only for others. Each push is looked up here, so it
        is a plain dictionary."""
        self._configured: dict[str, Tenant] = {}
        self._hidden: dict[str, Tenant] = {}
        """The stored apps that are hidden, because the configuration has apps
        of the same names."""
        self.aliases: dict[str, str] = {}
        """Alias → the app that it stands for. Read-only outside."""
        self.history_apps: set[str] = set()
        """Apps in which pushes to users are publications to channels with a
        history. Read-only outside."""
        self._created: dict[str, int] = {}
        """Stored app → when it was created."""
        self._on_change: list[Callable[[Tenant], object]] = []
        self._on_delete: list[Callable[[str], object]] = []
        # First the configured apps, because they hide stored ones.
        self.reload(config)
        store.report_to(self._apply_changes)

    def report_to(
        self,
        deleted: Callable[[str], object] | None = None,
        changed: Callable[[Tenant], object] | None = None,
    ) -> None:
        """Call these functions from now on when apps change. They must not
        switch greenlets.

        ``deleted`` gets the name of each deleted app, when the app can no
        longer be found. ``changed`` gets each new or changed app, when it is in
        effect.
        """
        if deleted is not None:
            self._on_delete.append(deleted)
        if changed is not None:
            self._on_change.append(changed)

    def reload(self, config: Config) -> None:
        """Replace the configured apps by the apps in ``config``.

        Sessions stay logged in. A stored app with the name of a configured app
        is hidden. It comes back when the configured app is removed.
        """
        self._limit = config.limits.registered_apps
        before = self._configured
        self._configured = {}
        for name, settings in config.apps.items():
            self._configured[name] = self._configured_tenant(name, settings)

        # Apps that have left the configuration are looked at, too.
        names = {**before, **self._configured}
        for name in names:
            self._choose_effective(name, was_configured=name in before)

        # Listeners may look up any app, so all apps are in by_name before the
        # first listener is called.
        for name in names:
            self._report_change(name, before.get(name))

    def _report_change(self, name: str, before: Tenant | None) -> None:
        """Apply the change or the removal of an app, after a reload."""
        tenant = self.get(name)
        if tenant is None:
            self.aliases.pop(name, None)
            self.history_apps.discard(name)
        elif tenant != before:
            self._put_into_effect(tenant)

    def _configured_tenant(self, name: str, settings: TenantSettings) -> Tenant:
        """Return the app that the configuration describes, with the settings of
        features."""
        of_features = tuple(
            app_settings_of(settings, kind) for kind in self.declared.app_kinds
        )
        whole = msgspec.structs.replace(settings, of_features=of_features)
        return _tenant(name, whole, configured=True)

    def _choose_effective(self, name: str, was_configured: bool) -> None:
        """Put the app of this name into ``by_name``: the configured one, or
        else the stored one.

        A stored app is hidden as long as the configuration has its name.
        ``was_configured`` tells whether the configuration had the name until
        now. If neither app exists, the name is removed.
        """
        configured = self._configured.get(name)
        stored = self._hidden.pop(name, None)
        if not was_configured:
            # No configured app could hide it, so by_name has the stored app.
            stored = self.by_name.get(name)
        if configured is not None and stored is not None:
            self._hidden[name] = stored
        effective = configured or stored
        if effective is not None:
            self.by_name[name] = effective
        else:
            del self.by_name[name]

    # --- lookups --------------------------------------------------------------

    def get(self, name: str) -> Tenant | None:
        """Return the app of this name, or None. Only the memory of this node is
        read. Never switches greenlets."""
        return self.by_name.get(name)

    def created(self, name: str) -> int:
        """Return when a registered app was created, in Unix seconds.

        The result is 0 if the app is not registered: it is unknown or
        configured. Never switches greenlets.
        """
        if name in self._configured:
            return 0
        return self._created.get(name, 0)

    def find(self, name: str) -> Tenant | None:
        """Return the app of this name, or None if no such app exists.

        Reads the database if this node does not have the app. May switch
        greenlets. Raises StorageUnavailable if the database is needed and
        cannot be read.
        """
        tenant = self.get(name)
        if tenant is None and valid_name(name):
            self._store.refresh()
            tenant = self.get(name)
        return tenant

    def resolve(self, name: str) -> str:
        """The app that the alias ``name`` stands for; ``name`` itself if it is
        no alias. Never switches greenlets."""
        return self.aliases.get(name, name)

    def names(self) -> list[str]:
        """The names of all apps, sorted."""
        return sorted(self.by_name)

    def all(self) -> list[Tenant]:
        """All apps, sorted by name."""
        return [self.by_name[name] for name in self.names()]

    # --- changes --------------------------------------------------------------

    def described(self, name: str) -> tuple[dict[str, Any], list[str]]:
        """Return the settings of an app, for a copy of it on another server.

        The first result has the settings as :meth:`register` takes them.
        Settings with their default value are left out. The second result has
        the names of the settings that a copy must not have: secrets, and files
        of this machine. These are left out of the first result. Raises
        UnknownTenant.
        """
        tenant = self.find(name)
        if tenant is None:
            raise UnknownTenant(name)

        marks = itertools.chain(marked(tenant, "secret"), marked(tenant, "file"))
        left_out = sorted(path for path, _ in marks)
        return self._changed_settings(tenant, left_out), left_out

    def _changed_settings(
        self, tenant: Tenant, left_out: Sequence[str]
    ) -> dict[str, Any]:
        """Return the settings of an app that differ from their default values.

        ``left_out`` names settings to leave out. A section or list with such a
        setting is left out as a whole.
        """
        left_out_keys = set(map(_first_key, left_out))
        # The result describes an independent app, not an alias.
        settings = {**plain(tenant, kind=TenantSettings), "same_as": ""}

        fields = {}
        for key, value in settings.items():
            default = self._defaults.get(key)
            if key not in left_out_keys and value != default:
                fields[key] = _without_defaults(value, default)
        return fields

    def only_by_key(self, fields: Mapping[str, Any]) -> list[str]:
        """Return the names of the given settings that the owner of an app may
        not change.

        These are settings that only API keys may change, and unknown settings.
        ``fields`` has the names with their new values. The value None resets a
        setting or a section as a whole.
        """
        return [*_only_by_key(fields, self.declared.app_hints)]

    def register(self, name: str, **fields: Any) -> bool:
        """Create and store an app. Returns False if the name exists.

        ``fields`` are settings as in the configuration file. May switch
        greenlets. Raises BadTenant if the app cannot have the name or the
        settings, and TooManyTenants. Raises StorageUnavailable, after which the
        app may or may not exist.
        """

        settings = self.check_new(name, fields)
        if self.find(name) is not None:
            return False
        # by_name has the configured apps, too. Configured apps do not count,
        # but the stored apps that they hide count.
        registered = len(self.by_name) - len(self._configured) + len(self._hidden)
        if registered >= self._limit:
            raise TooManyTenants(f"limits.registered_apps {self._limit} is reached")
        self._require_no_files(name)
        return self._store.add_app(name, stored_fields(settings))

    def _require_no_files(self, name: str) -> None:
        """Raise BadTenant if a deleted app of this name still has files.

        A new app of this name would delete the rows of the old app. Without the
        row of a file, nobody could find its bytes any more.
        """

        def finds_files(sql: PooledStatements) -> bool:
            return has_files(name, sql)

        if self._store.is_deleted(name) and self._store.read(finds_files):
            raise BadTenant(
                f"app {name}: was deleted, but some of its files are left; delete "
                "it again first"
            )

    def check_new(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a new app in the form in which they are
        stored.

        Raises BadTenant if the app cannot have these settings, or this name.
        """
        if not valid_name(name):
            raise BadTenant(f"an app cannot be called {name[:APP_CHARACTERS]!r}")
        return self._checked(name, before={}, fields=fields)

    def change(
        self, name: str, fields: Mapping[str, Any], unset: Collection[str] = ()
    ) -> Tenant:
        """Change settings of a registered app, and return the app afterwards.

        ``fields`` has the new settings. Settings whose names are in ``unset``
        return to their defaults. May switch greenlets. Raises UnknownTenant,
        and BadTenant if the app cannot have the settings. Raises
        StorageUnavailable, after which the change may or may not be in effect.
        """
        tenant = self._registered(name)
        dropped = tuple(self._canonical_name(each, name) for each in unset)
        remaining = self._remaining(tenant, dropped)
        changed = self._checked(name, before=remaining, fields=fields)
        columns = tuple(map(stored_name, dropped))
        # Another node may have deleted the app since it was found.
        if not self._store.change_app(name, stored_fields(changed), columns):
            raise UnknownTenant(name)
        return self.get(name) or tenant

    def _registered(self, name: str) -> Tenant:
        """Return a registered app, which may be changed by the API.

        Raises UnknownTenant, and BadTenant if the app is configured.
        """
        tenant = self.find(name)
        if tenant is None:
            raise UnknownTenant(name)
        if tenant.configured:
            raise BadTenant(
                f"app {name}: is defined in the configuration; change it there"
            )
        return tenant

    def _remaining(
        self, tenant: TenantSettings, dropped: Collection[str]
    ) -> dict[str, Any]:
        """Return the settings of an app that differ from their defaults,
        without the settings in ``dropped``."""
        current = plain(tenant, kind=TenantSettings)
        return {
            key: value
            for key, value in current.items()
            if key not in dropped and value != self._defaults[key]
        }

    def lock(self, name: str) -> bool:
        """Lock a registered app, so that nobody can log in, for example before
        it is deleted.

        The lock is in effect on all nodes within ``storage.look_seconds``.
        Returns False if no such app exists. May switch greenlets. Raises
        StorageUnavailable.
        """
        return self._store.change_app(name, {_LOCKED: True})

    def unlock(self, name: str) -> bool:
        """Let users log in to the app again, after :meth:`lock`. Returns False
        if no such app exists."""
        return self._store.change_app(name, {}, (_LOCKED,))

    def check_deletable(self, name: str) -> None:
        """Raise BadTenant if an app must not be deleted now.

        A configured app can only be removed from the configuration. An app with
        aliases must stay, because its aliases would have no target. Raises
        UnknownTenant if no such app exists. May switch greenlets.
        """
        tenant = self.find(name)
        if tenant is None:
            raise UnknownTenant(name)
        if tenant.configured:
            raise BadTenant(
                f"app {name}: is defined in the configuration; remove it there"
            )
        aliases = [each.name for each in self.all() if each.same_as == name]
        if aliases:
            raise BadTenant(f"app {name}: delete its alias {aliases[0]!r} first")

    # --- internal -------------------------------------------------------------

    def _checked(
        self, name: str, before: dict[str, Any], fields: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Check new settings of an app together with the settings that it
        keeps.

        ``before`` has the settings that the app keeps, and ``fields`` has the
        new settings. Returns the new settings in the form in which they are
        stored. Raises BadTenant if the app cannot have all these settings.
        """
        source = f"app {name}"
        try:
            given = self.declared.given_fields(fields, Locations(source))
            settings = self.declared.app_of({**before, **given})
            check_tenant(settings, Locations(source))
        except ConfigError as error:
            raise BadTenant(str(error)) from None
        self._require_no_objection(name, settings)
        _require_small(source, {**before, **given})
        return given

    def _require_no_objection(self, name: str, settings: TenantSettings) -> None:
        """Raise BadTenant if an app cannot have these settings."""
        problem = self._first_objection(name, settings)
        if problem:
            raise BadTenant(f"app {name}: {problem}")

    def _first_objection(self, name: str, settings: TenantSettings) -> str:
        """Return why the app ``name`` cannot have these settings, or ``""`` if
        it can."""
        return (
            _file_objection(settings)
            or self._objection(name, settings)
            or self._alias_objection(name, settings.same_as)
            or self._uniqueness_objection(name, settings)
        )

    def _alias_objection(self, name: str, same_as: str) -> str:
        """Return why ``name`` cannot be an alias of the app ``same_as``; ``""``
        if it can.

        An alias of an alias is refused, so that one lookup is enough to find
        the app.
        """
        if not same_as:
            return ""
        target = self.get(same_as)
        if target is None or target.same_as or target.locked or same_as == name:
            return (
                f"same_as: expected another app that is not an alias, got {same_as!r}"
            )
        # The app would become an alias, and its aliases would have no target.
        if any(each.same_as == name for each in self.all()):
            return "same_as: other apps are aliases of this one"
        return ""

    def _uniqueness_objection(self, name: str, settings: TenantSettings) -> str:
        """Return why the app ``name`` cannot have these settings beside the
        other apps.

        Features mark settings as unique, for example ``pusher.app_id``: no two apps
        may have the same value. Returns ``""`` if no other app has these values.
        """
        others = [tenant for tenant in self.all() if tenant.name != name]
        # The settings of each feature have the same index in all apps.
        for index, part in enumerate(settings.of_features):
            for setting, value in marked(part, "unique"):
                value_of = attrgetter(setting)
                if any(value_of(each.of_features[index]) == value for each in others):
                    return f"{setting}: another app has this {_last_word(setting)}"
        return ""

    def _canonical_name(self, written: str, name: str) -> str:
        """Return the name of a setting as it is declared, from the name that
        somebody wrote.

        Old names and other spellings are accepted. ``name`` is the app, for the
        error. Raises BadTenant if no such setting exists.
        """
        folded = fold(RENAMED_OF_APPS.get(written, written))
        for field in self._defaults:
            if fold(field) == folded:
                return field
        raise BadTenant(f"app {name}: unknown key {written!r}")

    def _settings(self, row: AppRow) -> TenantSettings:
        """Decode stored settings.

        Settings are ignored if no feature of this node knows them, for example
        because a newer release wrote them. If a value is invalid, the app gets
        the default settings.
        """
        try:
            return self.declared.app_of(row.settings)
        except msgspec.ValidationError as error:
            log.error(
                "app %s: its settings in the database are invalid and ignored: %s",
                row.name,
                error,
            )
            return self.declared.app_of({})

    def _apply_changes(self, changes: Changes) -> None:
        """Apply changes of apps that any node has stored, and that the store
        has read."""
        for row in changes.apps:
            # Another time of creation shows that the app was deleted and
            # created anew since the last changes.
            known_created = self._created.get(row.name, row.created)
            if row.deleted or known_created != row.created:
                self._forget_app(row.name)
            if not row.deleted:
                self._put_stored_app(row)

    def _put_stored_app(self, row: AppRow) -> None:
        """Add or replace a stored app. It stays hidden if the configuration has its
        name."""
        self._created[row.name] = row.created
        settings = self._settings(row)
        is_locked = _LOCKED in row.settings
        tenant = _tenant(row.name, settings, stored=True, locked=is_locked)
        # The stored app has an effect only when the configuration no longer has
        # this app.
        if row.name in self._configured:
            self._hidden[row.name] = tenant
        else:
            self.by_name[row.name] = tenant
            self._put_into_effect(tenant)

    def _forget_app(self, name: str) -> None:
        """Forget a deleted app, and tell the listeners of :meth:`report_to`.

        If the configuration has an app of this name, the configured app stays,
        and no listener is called.
        """
        self._created.pop(name, None)
        if name in self._configured:
            self._hidden.pop(name, None)
            return
        if self.by_name.pop(name, None) is None:
            return
        self.aliases.pop(name, None)
        self.history_apps.discard(name)
        # A listener that fails must not keep the other listeners from the news.
        for listener in self._on_delete:
            try:
                listener(name)
            except Exception:
                log.exception("app %s: deletion could not be applied", name)

    def _put_into_effect(self, tenant: Tenant) -> None:
        """Apply a new or changed app everywhere in this node.

        These are the table of aliases, the set of apps with a history, the hub, and
        the listeners of :meth:`report_to`.
        """
        name = tenant.name
        if tenant.same_as and not tenant.locked:
            self.aliases[name] = tenant.same_as
        else:
            self.aliases.pop(name, None)
        self._note_history(tenant)
        self._open_in_hub(tenant)
        for notify in self._on_change:
            try:
                notify(tenant)
            # A listener that fails must not keep the others from the change.
            except Exception:
                log.exception("app %s: change could not be applied", name)

    def _note_history(self, tenant: Tenant) -> None:
        """Note whether pushes to the users of an app are kept in a history."""
        # The user channel of an app is the channel of each of its users.
        row = tenant.channels.get("user")
        has_history = row is not None and row.has_history
        if has_history and not tenant.name.startswith(SYSTEM_PREFIX):
            self.history_apps.add(tenant.name)
        else:
            self.history_apps.discard(tenant.name)

    def _open_in_hub(self, tenant: Tenant) -> None:
        """Let users log in to an app by its own rules. An alias has no users of its
        own, and a locked app lets nobody in."""
        if self._hub is None or tenant.same_as or tenant.locked:
            return
        name = tenant.name
        self._hub.open(name, tenant.policy)
        self._hub.set_policy(name, tenant.policy, tenant.wants_accounts(name))


def _tenant(name: str, settings: TenantSettings, **facts: bool) -> Tenant:
    """Return the app ``name`` with these settings.

    ``facts`` has the other fields of :class:`Tenant`, for example
    ``stored=True``.
    """
    fields: dict[str, Any] = {
        field: getattr(settings, field) for field in TenantSettings.__struct_fields__
    }
    return Tenant(**fields | facts, name=name)


def _require_small(source: str, settings: Mapping[str, Any]) -> None:
    """Raise BadTenant if the settings of an app take too much space."""
    if len(msgspec.json.encode(settings)) > SETTINGS_BYTES:
        raise BadTenant(f"{source}: more than {SETTINGS_BYTES} bytes of settings")


def _without_defaults(value: Any, default: Any) -> Any:
    """Return a section without the settings that have their defaults; another
    value unchanged.

    Some settings of a section may be set only by API keys, even to their
    defaults. So a copy must not name such settings without need.
    """
    if not isinstance(value, dict) or not default:
        return value
    return {name: part for name, part in value.items() if part != default.get(name)}


def _file_objection(settings: TenantSettings) -> str:
    """Return why an app that is not configured cannot have these settings: they
    name a file. The result is ``""`` if they name no file.

    With such a setting, a person who may change apps could read any file. Also,
    other nodes may not have the file.
    """
    if any(marked(settings, "file")):
        return "only the configuration file may name files of keys and secrets"
    return ""


def _last_word(setting: str) -> str:
    """Return the last word of the name of a setting: ``id`` for
    ``pusher.app_id``."""
    return setting.rpartition(".")[2].rpartition("_")[2]


def _first_key(path: str) -> str:
    """Return the first part of the path of a setting.

    It is ``webhook`` for ``webhook.secret``, and ``jwt`` for ``jwt[0].key``.
    """
    return path.partition(".")[0].partition("[")[0]


def _only_by_key(given: Mapping[str, Any], hints: Mapping[str, Any]) -> Iterator[str]:
    """List the given settings that only API keys may change, and unknown ones.

    ``given`` has the new values of one section, and ``hints`` the declared type
    of each of its settings. The function calls itself for each section inside
    the section. Settings there get names such as ``webhook.secret``.
    """
    for written, value in given.items():
        name = RENAMED_OF_APPS.get(written, written)
        hint = hints.get(name)
        is_unknown = hint is None
        if is_unknown or marks_of(hint).get("by_key"):
            yield name
            continue

        section = _section_in(hint, value)
        if section is None:
            continue
        for inner in _only_by_key_within(section, value):
            yield f"{name}.{inner}"


def _section_in(hint: Any, value: Any) -> type[msgspec.Struct] | None:
    """Return the type of a section of settings, by the ``hint`` of its setting.

    The result is None if the setting is changed as a whole: it is not a
    section, or it is a table or list of rows.
    """
    is_table = get_origin(bare(hint)) is dict
    if is_table or isinstance(value, list):
        return None
    return struct_in(hint)


def _only_by_key_within(section: Any, value: Mapping[str, Any] | None) -> Iterator[str]:
    """List the given settings of a section that only API keys may change.

    ``value`` has the new values. None resets the whole section, which changes
    all its settings.
    """
    hints = hints_of(section)
    if value is None:
        value = dict.fromkeys(hints)
    return _only_by_key(value, hints)
