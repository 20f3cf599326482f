"""Converts values to the types of their settings, and checks conditions beyond
the types. Errors name the location, the setting and the remedy."""

import ipaddress
import re
import unicodedata
from collections.abc import (
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple, get_args

import msgspec
from msgspec import field, inspect

from imserver.gateway.config.declared import (
    HIDDEN,
    bare,
    hints_of,
    marked,
    marks_of,
    plain,
)
from imserver.gateway.config.settings import (
    NO_PORT,
    PUBLIC_SIGN_KEY,
    AppName,
    BackEndSettings,
    ChannelSettings,
    Config,
    JwtSettings,
    ListenSettings,
    ServerSettings,
    TenantSettings,
)
from imserver.gateway.errors import StartError
from imserver.gateway.model import Service

_USER_INFO: Final = re.compile(r"(://[^:@/\s]*:)[^/\s]*@")
"""User and password of a URL, up to the last @ before the path."""
_QUERY: Final = re.compile(
    r"([?&][\w-]*(?:key|password|secret|token)=)[^&\s\"']*", re.IGNORECASE
)
"""A secret among the parameters of a URL."""


def hide_secrets(text: str) -> str:
    """Replace the passwords, keys and tokens of the URLs in a text.

    For example, ``redis://app:pa55@host/0?token=x`` becomes
    ``redis://app:(hidden)@host/0?token=(hidden)``.
    """
    return _QUERY.sub(rf"\1{HIDDEN}", _USER_INFO.sub(rf"\1{HIDDEN}@", text))


class ConfigError(StartError):
    """A setting is unknown, has a wrong type or is out of range.

    The text of the error is one line. It begins with the location of the
    setting, such as ``imserver.yaml, line 3``.
    """


RENAMED: Final = {
    "storage.keep_seconds": "storage.retention_seconds",
    "storage.keep_messages": "storage.retention_messages",
    "apps.*.keep_seconds": "apps.*.retention_seconds",
    "apps.*.keep_messages": "apps.*.retention_messages",
    "apps.*.keep_talks": "apps.*.store_conversations",
}
"""Old name of a setting → its name. ``*`` stands for the name of any app.

The old names are accepted with a warning. The next release rejects them.
"""
RENAMED_OF_APPS: Final = {
    old.rpartition(".")[2]: new.rpartition(".")[2]
    for old, new in RENAMED.items()
    if old.startswith("apps.*.")
}
"""Old name of a setting of an app → its name. Stored apps have the old names,
because the release before reads them, too."""
OLD_NAME: Final = "the old name of {}, which the next release does not know"
_STORED_NAMES: Final = {name: old for old, name in RENAMED_OF_APPS.items()}


def stored_name(name: str) -> str:
    """Return the name under which a setting of an app is in the database.

    A renamed setting is stored under its old name, because the release before
    this one must be able to read it after a downgrade.
    """
    return _STORED_NAMES.get(name, name)


def stored_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename settings of an app for the database, see :func:`stored_name`."""
    return {stored_name(name): value for name, value in fields.items()}


def fold(name: object) -> str:
    """Normalize a name, so that all its spellings are equal.

    For example, ``http_port``, ``httpPort`` and ``HTTP-PORT`` become
    ``httpport``.
    """
    return str(name).replace("_", "").replace("-", "").lower()


class WrittenMapping(dict[Any, Any]):
    """A YAML mapping that remembers the line of each key, for messages."""

    def __init__(self) -> None:
        """Begin without keys."""
        super().__init__()
        self.lines: dict[Any, int] = {}


class Locations(Service):
    """Remembers where settings were written, so that errors can name the place.

    ``source`` is a file, an environment variable or an app; each setting of a
    file also has its line. ``warnings`` gets one text for each setting that was
    given under its old name. ``fold`` makes all spellings of a name equal.
    """

    fold = staticmethod(fold)

    source: str
    warnings: list[str] = field(default_factory=list)
    _lines: dict[str, int] = field(default_factory=dict)

    def note(self, name: str, mapping: object, key: object) -> None:
        """Remember in which line of its file a setting was written.

        ``mapping`` is the section that was read, and ``key`` the key of the
        setting ``name`` in it. If the section does not come from YAML, it has
        no lines; then the method does nothing.
        """
        lines = getattr(mapping, "lines", {})
        if key in lines:
            self._lines[name] = lines[key]

    def note_item(self, name: str, item: object) -> None:
        """Remember the line of an item of a list.

        The line is the line of the item's first key. If the item is no mapping,
        it has no keys, and the method does nothing.
        """
        lines = getattr(item, "lines", None)
        if lines:
            self._lines[name] = min(lines.values())

    def note_old(self, name: str, written: object) -> None:
        """Warn if a setting was written under its old name.

        ``name`` is the canonical name. ``written`` is the text in the file,
        with or without its section. Another spelling of the canonical name is
        no old name.
        """
        key = name.rpartition(".")[2]
        written_key = str(written).rpartition(".")[2]
        if fold(written_key) != fold(key):
            # The canonical name is removed from the location, because the file
            # does not have it.
            location = self.of(name).removesuffix(name)
            self.warnings.append(f"{location}{written}: {OLD_NAME.format(key)}")

    def forget(self, name: str) -> None:
        """Forget the line of a setting that another source has overridden.

        The lines of everything inside the setting are forgotten, too.
        """
        self._lines = {
            setting: line
            for setting, line in self._lines.items()
            if not _is_within(setting, name)
        }

    def wrong(self, name: str, problem: str) -> ConfigError:
        """Make the error about a setting with a wrong value.

        Its text is as ``imserver.yaml, line 3: app.http_port: expected …``.
        """
        return ConfigError(f"{self.of(name)}: {problem}")

    def lacks(self, name: str, needs: str) -> ConfigError:
        """Make the error about a setting that needs another setting.

        Its text is as ``imserver.yaml, line 3: acme.domains needs storage``,
        where ``needs`` names the missing setting.
        """
        return ConfigError(f"{self.of(name)} needs {needs}")

    def of(self, name: str) -> str:
        """Describe where a setting was written, for the beginning of a message.

        For example, ``imserver.yaml, line 3: app.http_port``. A setting without
        a line of its own gets the line of the innermost section, list or
        setting around it.
        """
        with_line = [setting for setting in self._lines if _is_within(name, setting)]
        if not with_line:
            return f"{self.source}: {name}"
        innermost = max(with_line, key=len)
        return f"{self.source}, line {self._lines[innermost]}: {name}"


def _is_within(name: str, whole: str) -> bool:
    """Tell whether the setting ``name`` is ``whole``, or is inside it.

    For example, ``api.keys[0].key`` is within ``api``, ``api.keys`` and itself,
    but not within ``api.key``.
    """
    if not name.startswith(whole):
        return False
    # After ``whole``, the name must have a separator. "api.keys" begins with
    # "api.key", but is not within it.
    inner = name[len(whole) :]
    return inner[:1] in ("", ".", "[")


class Row(NamedTuple):
    """A setting: its canonical name (``section.key``), and its type.

    ``hint`` is the type as Python has it, and ``type`` is msgspec's description
    of the same type.
    """

    name: str
    hint: Any
    type: inspect.Type


NO_FEATURE: Final = "the setting features leaves this feature out"
"""The error text for a setting of a feature that the node leaves out."""


class Declarations:
    """All settings of a node: the settings of the core and of its features.

    - ``sections``: pairs of the name of a section and a struct with keys of it,
      in the order of the features. Several structs may have keys of one
      section.
    - ``app_kinds``: structs with keys of an app.
    - ``core_keys``: the keys of an app with the mark ``by_feature`` that
      features of this node name; None: all such keys.
    - ``absent``: returns the names of settings of features that this node does
      not have (``section``, ``section.key`` or ``apps.*.key``). It is called
      for a name that nothing declares.
    - ``dialects``: the names of the dialects of the node, which the setting
      ``dialects`` of an app may name; empty: any dialect.
    """

    def __init__(
        self,
        sections: Iterable[tuple[str, type[msgspec.Struct]]] = (),
        app_kinds: Iterable[type[msgspec.Struct]] = (),
        core_keys: Container[str] | None = None,
        absent: Callable[[], Iterable[str]] = tuple,
        dialects: Iterable[str] = (),
    ) -> None:
        """Collect the settings, and index them by their names.

        Raises StartError if two features declare the same setting. The
        arguments are described at the class.
        """
        self.dialects = tuple(dict.fromkeys(dialects))
        self.sections = tuple(sections)
        self.app_kinds = tuple(app_kinds)
        self._app_defaults = [(kind, kind()) for kind in self.app_kinds]
        """Each struct of ``app_kinds``, with the object that has its defaults.
        Most apps share these objects."""
        # What an app may have.
        self._absent = absent
        of_apps = list(self._declared_of_apps(core_keys))
        self.app_hints: Mapping[str, Any] = dict(of_apps)
        """Name of a setting of an app → its type."""
        self._app_keys = _folded((*self.app_hints, *RENAMED_OF_APPS))
        """The folded names of all settings of an app, also the old names."""

        # The rows are a list first, because a mapping would hide a setting that
        # is declared twice.
        rows = tuple(self._declared_rows())
        _require_unique(_names_in_manual(rows, of_apps))
        self.rows: Mapping[str, Row] = {row.name: row for row in rows}
        """Canonical name → setting, in the order of the manual."""
        self.by_folded: Mapping[str, Row] = self._rows_by_folded_name()
        """Folded ``section.key``, also of an old name → setting."""
        self.names: Mapping[str, str] = _sections_by_folded_name(self.rows)
        """Folded name of a section → its name."""

    def _rows_by_folded_name(self) -> dict[str, Row]:
        """Index the settings by their folded names, and by folded old names.

        If the old name of a setting is now the name of another setting, the
        name means the other setting.
        """
        by_folded: dict[str, Row] = {}
        for old, name in RENAMED.items():
            if name in self.rows:
                by_folded[fold(old)] = self.rows[name]
        # The names of today come last, so they win over old names.
        for name, row in self.rows.items():
            by_folded[fold(name)] = row
        return by_folded

    def _declared_of_apps(
        self, core_keys: Container[str] | None
    ) -> Iterator[tuple[str, Any]]:
        """List name and type of each setting of an app, also of features.

        The mark ``by_feature`` says that the core reads a setting which apps
        have only if a feature names it. A name comes twice if it is declared
        twice.
        """
        for kind in (TenantSettings, *self.app_kinds):
            for name, hint in hints_of(kind).items():
                is_named = core_keys is None or name in core_keys
                if is_named or not marks_of(hint).get("by_feature"):
                    yield name, hint

    def _declared_rows(self) -> Iterator[Row]:
        """List all settings of the node, in the order of the manual. Settings
        of apps are left out.

        In a section, the settings of features come after the settings of the
        core. Sections that only features have come last.
        """
        of_features = self._kinds_by_section()
        for name, hint in hints_of(Config).items():
            info = inspect.type_info(hint)
            if isinstance(info, inspect.StructType):
                for kind in (info.cls, *of_features.pop(name, ())):
                    yield from _rows_of(name, kind)
            else:
                # A setting without a section, such as "features".
                yield Row(name, hint, info)

        # pop() has left the sections that the core does not have.
        for name, kinds in of_features.items():
            for kind in kinds:
                yield from _rows_of(name, kind)

    def _kinds_by_section(self) -> dict[str, list[type[msgspec.Struct]]]:
        """Group the structs of features by the section that has their keys."""
        kinds: dict[str, list[type[msgspec.Struct]]] = {}
        for name, kind in self.sections:
            kinds.setdefault(name, []).append(kind)
        return kinds

    def nearest(self, written: object) -> str:
        """Find the known section or setting whose name is most similar.

        Errors about unknown keys propose it. ``written`` is the key as it was
        written, with or without its section.
        """
        folded = fold(written)
        names = {fold(name): name for name in (*self.rows, *self.names.values())}
        if "." not in folded:
            # A name without a section may mean a key in a section.
            for key, name in tuple(names.items()):
                _, dot, inner = key.partition(".")
                if dot:
                    names[inner] = name
        return names[_closest(folded, names)]

    def convert(self, row: Row, value: Any, locations: Locations) -> Any:
        """Convert a value from a file or a variable to the type of its setting.

        Keys of mappings are accepted in each of their spellings. Raises
        ConfigError, which names the location and the setting.
        """
        if row.name != "apps" or not isinstance(value, dict):
            shaped = _shape(row.hint, value, row.name, locations)
            return msgspec.convert(shaped, row.hint)

        # Only the names of the apps are converted here: features declare
        # settings of apps, too, so app_of() converts those.
        fields_by_name = _shape_dict(dict[AppName, Any], value, "apps", locations)
        return {
            name: self._convert_app(f"apps.{name}", fields, locations)
            for name, fields in fields_by_name.items()
        }

    def _convert_app(
        self, setting: str, fields: Any, locations: Locations
    ) -> TenantSettings:
        """Convert the settings of one app from a file. Raises ConfigError.

        ``setting`` is the name of the app in messages, such as ``apps.shop``.
        """
        if not isinstance(fields, dict):
            # This call raises, because the settings of an app are a mapping.
            _check_type(TenantSettings, fields, setting, locations)
        shaped = self._shape_app(fields, above=setting, locations=locations)
        return self.app_of(shaped)

    def _shape_app(
        self, fields: dict[Any, Any], above: str, locations: Locations
    ) -> dict[str, Any]:
        """Check the settings of an app, and return them by their canonical
        names.

        ``above`` is the name of the app in messages, such as ``apps.shop``. If
        it is ``""``, messages have the names of the settings alone. Raises
        ConfigError.
        """
        prefix = _prefix(above)
        # This comes first, because its text is better than "unknown key".
        for key in fields:
            if fold(key) not in self._app_keys and self.is_absent(f"apps.*.{key}"):
                setting = f"{prefix}{key}"
                locations.note(setting, fields, key)
                raise locations.wrong(setting, NO_FEATURE)

        shaped = _shape_fields(
            self.app_hints, fields, above, locations, renamed=RENAMED_OF_APPS
        )
        self._require_known_dialects(shaped.get("dialects", ()), prefix, locations)
        return shaped

    def _require_known_dialects(
        self, dialects: Iterable[str], prefix: str, locations: Locations
    ) -> None:
        """Raise ConfigError if an app names a dialect that the node does not
        speak.

        Declarations without dialects accept every name.
        """
        if not self.dialects:
            return
        for number, dialect in enumerate(dialects):
            if dialect not in self.dialects:
                expected = ", ".join(sorted(self.dialects))
                raise locations.wrong(
                    f"{prefix}dialects[{number}]",
                    f"expected one of {expected}; got {dialect!r}",
                )

    def app_of(self, fields: Mapping[str, Any]) -> TenantSettings:
        """Make the settings of an app from plain values, as the database has
        them.

        Stored (old) names are accepted. Undeclared settings are ignored: a
        feature that is absent now may have stored them. Raises
        :class:`msgspec.ValidationError`.
        """
        fields = {
            RENAMED_OF_APPS.get(name, name): value for name, value in fields.items()
        }
        settings = msgspec.convert(fields, TenantSettings)
        of_features = []
        for kind, default in self._app_defaults:
            # All apps without settings of this feature share one object.
            if fields.keys().isdisjoint(kind.__struct_fields__):
                of_features.append(default)
            else:
                of_features.append(msgspec.convert(fields, kind))
        return msgspec.structs.replace(settings, of_features=tuple(of_features))

    def given_fields(
        self, given: Mapping[str, Any], locations: Locations
    ) -> dict[str, Any]:
        """Check the given settings of an app, and return them as plain values.

        Their names are canonical in the result. It has no defaults: only
        settings that were given. Raises ConfigError, which names the location
        and the setting.
        """
        shaped = self._shape_app(dict(given), above="", locations=locations)
        written = plain(self.app_of(shaped))
        return {name: written[name] for name in shaped}

    def is_absent(self, written: str) -> bool:
        """Tell whether a section, or a key in it, is of an absent feature."""
        return fold(written) in map(fold, self._absent())

    def absent_variable(self, variable: str) -> str:
        """Find the section or key of an absent feature that a variable names.

        ``variable`` is the name of an environment variable without
        ``IMSERVER_``, for example ``ACME_DOMAINS``. Returns ``""`` if it names
        no section or key of an absent feature.
        """
        folded = fold(variable)
        for written in self._absent():
            # Variables have no dot between section and key. If a section is
            # listed without keys, all variables that begin with its name belong
            # to it.
            name = fold(written)
            is_named = folded == name.replace(".", "")
            is_in_section = "." not in name and folded.startswith(name)
            if is_named or is_in_section:
                return written
        return ""


def _folded(names: Iterable[str]) -> set[str]:
    """Fold names, so that all spellings of a name become one."""
    return {fold(name) for name in names}


def _sections_by_folded_name(settings: Iterable[str]) -> dict[str, str]:
    """Index the names of sections by their folded names.

    ``settings`` are canonical names, such as ``app.http_port``.
    """
    sections = [name.partition(".")[0] for name in settings]
    return {fold(name): name for name in sections}


def _names_in_manual(
    rows: Iterable[Row], of_apps: Iterable[tuple[str, Any]]
) -> list[str]:
    """List the names of all settings as the manual has them.

    ``of_apps`` is name and type of each setting of an app, which becomes
    ``apps.*.name``. A name that is declared twice comes twice.
    """
    names = [row.name for row in rows]
    return names + [f"apps.*.{name}" for name, _ in of_apps]


def _require_unique(names: Iterable[str]) -> None:
    """Raise StartError if a setting is declared twice, in any spelling."""
    folded_names: set[str] = set()
    for name in names:
        folded = fold(name)
        if folded in folded_names:
            raise StartError(f"the setting {name} is declared twice")
        folded_names.add(folded)


def _prefix(above: str) -> str:
    """Return the beginning of the names in a section or an app, with a dot.

    ``above`` is the name of the section or app in messages. If it is ``""``,
    the result is ``""``, too.
    """
    if above:
        return f"{above}."
    return ""


def _rows_of(section: str, kind: type[msgspec.Struct]) -> Iterator[Row]:
    """List the settings that a struct declares in a section."""
    for key, hint in hints_of(kind).items():
        yield Row(f"{section}.{key}", hint, inspect.type_info(hint))


def _closest(folded: str, known: Iterable[str]) -> str:
    """Return the known name that is most similar to a folded name."""
    import difflib  # only for messages

    def similarity(name: str) -> float:
        """Compare a known name with the folded name."""
        return difflib.SequenceMatcher(None, folded, name).ratio()

    return max(known, key=similarity)


AUTO: Final = "auto"
"""The word that stands for 0 in settings that the server may compute itself."""


@cache
def _kind(hint: Any) -> inspect.Type:
    """Return msgspec's description of a type."""
    return inspect.type_info(hint)


def _shape(hint: Any, value: Any, name: str, locations: Locations) -> Any:
    """Normalize a value before msgspec converts it to the type ``hint``.

    Keys get their canonical spelling, and numbers that name apps become text.
    The result is still made of plain lists, dicts and scalars. ``name`` is the
    name of the setting. Raises ConfigError, because errors of msgspec do not
    name the setting.
    """
    kind = _kind(hint)
    if isinstance(kind, inspect.Metadata):
        value = _spelled_out(value, kind.extra or {})
        # The type in ``Annotated[…]``, without its limits and marks.
        kind = kind.type
    if isinstance(kind, inspect.LiteralType):
        _check_choice(kind.values, value, name, locations)
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        return _shape_items(hint, value, name, locations)
    if isinstance(kind, inspect.DictType) and isinstance(value, dict):
        return _shape_dict(hint, value, name, locations)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        return _shape_struct(kind.cls, value, name, locations)
    _check_type(hint, value, name, locations)
    return value


def _check_choice(
    choices: Collection[Any], value: Any, name: str, locations: Locations
) -> None:
    """Raise ConfigError if a value is none of the choices of its setting."""
    if value not in choices:
        expected = ", ".join(str(choice) or "(empty)" for choice in choices)
        raise locations.wrong(name, f"expected one of {expected}; got {value!r}")


def _spelled_out(value: Any, extra: Mapping[str, Any]) -> Any:
    """Replace spellings that a setting accepts by its value.

    If its marks (``extra``) have ``number``, a number such as 5001 becomes
    text, because it names an app. If they have ``auto``, :data:`AUTO` becomes
    0.
    """
    if extra.get("number") and type(value) is int:
        return str(value)
    if extra.get("auto") and value == AUTO:
        return 0
    return value


def _shape_items(
    hint: Any, value: list[Any], name: str, locations: Locations
) -> list[Any]:
    """Normalize each item of a list.

    An item of ``apps.shop.jwt`` has the name ``apps.shop.jwt[0]`` in messages.
    Raises ConfigError.
    """
    item_hint = get_args(bare(hint))[0]
    names = [f"{name}[{index}]" for index in range(len(value))]
    # The lines of all items are noted before the first item is checked, because
    # an error about one item may name another.
    for item_name, item in zip(names, value, strict=True):
        locations.note_item(item_name, item)
    return [
        _shape(item_hint, item, item_name, locations)
        for item_name, item in zip(names, value, strict=True)
    ]


def _shape_struct(
    kind: type[msgspec.Struct], value: dict[Any, Any], name: str, locations: Locations
) -> dict[str, Any]:
    """Normalize the fields of a section, see :func:`_shape`.

    Raises ConfigError, also if a required field is missing.
    """
    shaped = _shape_fields(hints_of(kind), value, name, locations)
    for info in msgspec.structs.fields(kind):
        if info.required and info.name not in shaped:
            raise locations.wrong(name, f"{info.name} is missing")
    return shaped


def _shape_dict(
    hint: Any, value: dict[Any, Any], name: str, locations: Locations
) -> dict[Any, Any]:
    """Normalize the keys and values of a mapping, see :func:`_shape`.

    Raises ConfigError if a key is empty, or if two keys are equal as text: YAML
    reads ``5001`` and ``"5001"`` as two keys.
    """
    key_hint, value_hint = get_args(bare(hint))
    may_be_empty = _may_be_empty(key_hint)
    shaped: dict[Any, Any] = {}
    for key, item in value.items():
        inner = f"{name}.{key}"
        locations.note(inner, value, key)
        if key == "" and not may_be_empty:
            raise _empty_key(inner, locations)
        shaped_key = _shape(key_hint, key, inner, locations)
        if shaped_key in shaped:
            raise ConfigError(
                f"{locations.of(inner)} is given twice, as a number and as text"
            )
        shaped[shaped_key] = _shape(value_hint, item, inner, locations)
    return shaped


def _may_be_empty(key_hint: Any) -> bool:
    """Tell whether a mapping may have the key ``""``.

    The type of its keys then has the mark ``empty``.
    """
    marks = getattr(_kind(key_hint), "extra", None) or {}
    return bool(marks.get("empty"))


def _empty_key(setting: str, locations: Locations) -> ConfigError:
    """Make the error about an empty key.

    ``setting`` is the name of its value in messages, which ends with a dot.
    """
    location = locations.of(setting).removesuffix(".")
    return ConfigError(f"{location}: expected a name, got ''")


def _shape_fields(
    hints: Mapping[str, Any],
    value: dict[Any, Any],
    name: str,
    locations: Locations,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Normalize the values of a section, by the canonical names of its
    settings.

    ``hints`` is name of a setting → type. ``name`` is the name of the section
    in messages, or ``""``. ``renamed`` is old name of a setting → its name.
    Raises ConfigError if a key is unknown or is given twice.
    """
    field_by_folded = _fields_by_folded_name(hints, renamed)
    prefix = _prefix(name)
    shaped: dict[str, Any] = {}
    for key, item in value.items():
        field = field_by_folded.get(fold(key))
        # In messages an unknown key is named as it was written.
        inner = f"{prefix}{field or key}"
        locations.note(inner, value, key)
        if field is None:
            closest = field_by_folded[_closest(fold(key), field_by_folded)]
            raise _unknown_key(inner, f"{prefix}{closest}", locations)
        if field in shaped:
            raise ConfigError(f"{locations.of(inner)} is given twice, in two spellings")
        if renamed:
            locations.note_old(inner, key)
        shaped[field] = _shape(hints[field], item, inner, locations)
    return shaped


def _unknown_key(written: str, closest: str, locations: Locations) -> ConfigError:
    """Make the error about an unknown key, which proposes the closest one."""
    location = locations.of(written).removesuffix(written)
    return ConfigError(
        f"{location}unknown key '{written}'; the nearest known key is '{closest}'"
    )


def _fields_by_folded_name(
    hints: Mapping[str, Any], renamed: Mapping[str, str]
) -> dict[str, str]:
    """Return the folded names of settings, also the old ones, with the names of
    today."""
    # Old names come first, so a name of today wins if both are equal.
    field_by_folded = {
        fold(old): field for old, field in renamed.items() if field in hints
    }
    return field_by_folded | {fold(field): field for field in hints}


def _check_type(hint: Any, value: Any, name: str, locations: Locations) -> None:
    """Raise ConfigError, in words for people, if a value has a wrong type.

    ``hint`` is the type of the setting ``name``. A value that may be a secret
    is left out of the error.
    """
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        problem = _problem_in_words(str(error), hint, value, name)
        raise locations.wrong(name, problem) from None


def _problem_in_words(text: str, hint: Any, value: Any, name: str) -> str:
    """Make the message about a wrong value from the text of msgspec.

    Such a text is as "Expected `int`, got `str` - at `$.a`".
    """
    problem = text.replace("`", "").partition(" - at ")[0]
    expected = problem.partition(", got")[0]
    if "matching regex" in expected:
        # People understand "a host name", but not its regular expression.
        words = _pattern_in_words(hint)
        if words:
            problem = f"expected {words}"
            expected = problem

    is_scalar = isinstance(value, str | int | float)
    if is_scalar and not _may_be_secret(expected, name):
        problem = f"{expected}, got {value!r}"
    return f"{problem[:1].lower()}{problem[1:]}"


def _may_be_secret(expected: str, name: str) -> bool:
    """Tell whether the wrong value of the setting ``name`` may be a secret.

    ``expected`` says what the setting wants. A scalar in place of a whole
    object or list may be the secret in it.
    """
    return "object" in expected or "array" in expected or name.endswith(_SECRETS)


def _pattern_in_words(hint: Any) -> str:
    """Describe in words which values a type with a pattern accepts.

    Returns ``""`` if the type has no such description.
    """
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.pattern and meta.description:
            return meta.description
    return ""


_SECRETS: Final = ("key", "secret", "password")
"""The ends of the names of settings whose values are not shown."""

CORE: Final = Declarations()
"""The settings of a node without features."""

APP_CHARACTERS: Final = 191
"""The longest name of an app in characters."""
APP_BYTES: Final = 500
"""The longest name of an app in bytes of UTF-8."""


def valid_name(name: str) -> bool:
    """Tell whether an app may have this name.

    It has 1 to 191 characters and at most 500 bytes. No character is invisible,
    and no blank is at an end.
    """
    if not 0 < len(name) <= APP_CHARACTERS or name != name.strip():
        return False
    # control characters, and surrogates, which are no UTF-8
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return False
    return len(name.encode()) <= APP_BYTES


#: how ``redis.url`` may begin
REDIS_SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)

#: how ``storage.url`` may begin
STORAGE_SCHEMES: Final = ("sqlite", "postgresql", "postgres", "mysql", "mariadb")

MIN_KEY_CHARACTERS: Final = 20
"""Shortest accepted API key. Shorter keys can be guessed."""
MIN_SIGN_KEY_BYTES: Final = 32
"""The smallest length of the key that signs our tokens. The holder of one token
can guess a shorter key. GoChat accepts shorter keys, so the server only
warns."""
MAKE_SECRET: Final = "openssl rand -hex 32"
"""Shell command for a new secret, suggested in error texts."""

_MAKE_KEY: Final = f"make one with 'imserver key create push' or '{MAKE_SECRET}'"
_IS_PLACEHOLDER: Final = "this is a placeholder of the documentation"
_PLACEHOLDER: Final = re.compile(
    r"(replace|change)[-_ ]?me|openssl rand|long random text", re.IGNORECASE
)

ISSUER_URL: Final = re.compile(
    r"https://[^/]|http://(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])([:/]|$)"
)
"""Matches the address of an issuer: https, or http on this machine. Keys that
are fetched over a network without TLS could be forged."""

HTTP_URL: Final = re.compile(r"https?://[^/]")
"""Matches an address that begins with ``http://`` or ``https://`` and a
host."""

_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_OWN_HEADER: Final = re.compile(
    r"(content-|imserver-|sec-|host$|connection$|upgrade$|transfer-encoding$|te$|trailer$|user-agent$|expect$|"
    r"accept-encoding$|keep-alive$|proxy-)",
    re.IGNORECASE,
)
"""Headers that the server sets in a request to a back end, or that concern only
one connection."""

EITHER_SECRET: Final = (
    "expected either secret or secret_file: requests are signed with it"
)
_RESERVED_PATHS: Final = ("/acc", "/ws", "/connection/websocket", "/health", "/ready")


def is_placeholder(secret: str) -> bool:
    """Tell whether a secret is an example from the documentation.

    Everybody knows the examples, so the server does not start with one.
    """
    return _PLACEHOLDER.search(secret) is not None


def short_sign_key(config: Config) -> str:
    """Return the warning about a ``jwt.sign_key`` that is too short, or ``""``.

    No warning is needed without a key, or for the public default of GoChat,
    which is valid in demo mode only.
    """
    key = config.jwt.sign_key
    if key in ("", PUBLIC_SIGN_KEY) or len(key.encode()) >= MIN_SIGN_KEY_BYTES:
        return ""
    return (
        f"whoever has a token can guess a key of less than {MIN_SIGN_KEY_BYTES} "
        f"bytes; make one with '{MAKE_SECRET}' (users log in again)"
    )


def check_tenant(tenant: TenantSettings, locations: Locations, app: str = "") -> None:
    """Check the settings of an app beyond their types.

    ``app`` is the beginning of the names of its settings in messages, such as
    ``apps.shop.``. If it is ``""``, messages have the names of the settings
    alone. Raises ConfigError, which names the location.
    """
    _check_networks(tenant.api_allow_from, f"{app}api_allow_from", locations)
    _check_origins(tenant.origins, f"{app}origins", locations)
    _check_jwt(tenant, locations, f"{app}jwt")
    _check_channels(tenant, locations, app)
    _check_urls_of_app(tenant, locations, app)
    _check_headers(tenant, locations, app)


def _check_jwt(tenant: TenantSettings, locations: Locations, setting: str) -> None:
    """Check the list ``jwt`` of an app: the keys that may sign login tokens.

    An entry either names an *issuer*, from which the server fetches the keys,
    or has a key. ``setting`` is the name of the list in messages. Raises
    ConfigError.
    """
    for number, row in enumerate(tenant.jwt):
        entry = f"{setting}[{number}]"
        if row.issuer:
            _check_issuer(row, entry, locations)
        else:
            _check_own_key(row, entry, locations)

    # A token names its key by the kid, so two keys may not share one.
    kids = [row.kid for row in tenant.jwt if row.kid]
    if len(set(kids)) != len(kids):
        raise locations.wrong(setting, "two entries have the same kid")


def _check_own_key(row: JwtSettings, setting: str, locations: Locations) -> None:
    """Check an entry of ``jwt`` that has a key and no issuer.

    The key is given as text or as a file, and not as both. Raises ConfigError.
    """
    problem = ""
    if row.audience or row.jwks_url:
        problem = "audience and jwks_url need an issuer in the same entry"
    elif row.key and row.key_file:
        problem = "expected either key or key_file in an entry, not both"
    elif not (row.key or row.key_file or row.algorithm == "HS256"):
        # Without a key, HS256 uses a secret that the server derives itself.
        problem = f"{row.algorithm} needs a public key: key or key_file"
    if problem:
        raise locations.wrong(setting, problem)


def _check_issuer(row: JwtSettings, setting: str, locations: Locations) -> None:
    """Check an entry of ``jwt`` whose keys are fetched from an issuer.

    Raises ConfigError.
    """
    if row.key or row.key_file or row.kid:
        problem = "an entry with an issuer takes no key, key_file or kid: its keys are fetched"
        raise locations.wrong(setting, problem)
    if not row.audience:
        raise locations.wrong(
            setting,
            "an entry with an issuer needs the audience; without it tokens for other "
            "services would be accepted",
        )
    # With http, somebody between the issuer and this server could replace the
    # keys.
    for name, url in (("issuer", row.issuer), ("jwks_url", row.jwks_url)):
        if url and not ISSUER_URL.match(url):
            raise locations.wrong(
                f"{setting}.{name}",
                "expected an https:// address (http:// only to this machine), got "
                f"{url!r}",
            )


def _check_channels(tenant: TenantSettings, locations: Locations, app: str) -> None:
    """Check the channel namespaces of an app.

    A namespace is the part of a channel's name before the colon. ``app`` is the
    beginning of the names of settings in messages. Raises ConfigError.
    """
    for namespace, row in tenant.channels.items():
        setting = f"{app}channels.{namespace}"
        _check_namespace(namespace, setting, locations)
        # The channel "user:ann" belongs to ann.
        if namespace == "user" and row.subscribe not in ("", "members"):
            problem = "only the user of the channel may subscribe"
            raise locations.wrong(f"{setting}.subscribe", problem)
        _check_questions(row, tenant.back_ends, setting, locations)
        _check_history(row, setting, locations)


def _check_questions(
    row: ChannelSettings,
    back_ends: BackEndSettings,
    setting: str,
    locations: Locations,
) -> None:
    """Raise ConfigError if a namespace asks a back end without an address.

    ``subscribe`` and ``publish`` may have the value ``back_end``: then the back
    end decides.
    """
    for option in ("subscribe", "publish"):
        asks_back_end = getattr(row, option) == "back_end"
        if asks_back_end and not getattr(back_ends, option):
            problem = f"back_end needs the address back_ends.{option} of the app"
            raise locations.wrong(f"{setting}.{option}", problem)


def _check_namespace(namespace: str, setting: str, locations: Locations) -> None:
    """Raise ConfigError if a name could not be told from the rest of a
    channel's name."""
    if ":" in namespace or namespace.startswith("$") or namespace == "group":
        problem = "a namespace has no colon, does not begin with $, and is not group"
        raise locations.wrong(setting, problem)


def _check_history(row: ChannelSettings, setting: str, locations: Locations) -> None:
    """Check how a namespace keeps its publications. Raises ConfigError.

    ``history_size`` publications are kept in memory for ``history_seconds``;
    ``history`` keeps all publications in the log.
    """
    if bool(row.history_size) != bool(row.history_seconds):
        problem = "history_size and history_seconds go together"
        raise locations.wrong(setting, problem)
    if row.history and row.history_size:
        problem = (
            "expected either history or history_size: the log has all publications"
        )
        raise locations.wrong(setting, problem)


def _check_urls_of_app(tenant: TenantSettings, locations: Locations, app: str) -> None:
    """Check the addresses of an app's back ends and webhooks.

    If the app has an address, it must also have exactly one of
    ``webhook.secret`` and ``webhook.secret_file``. Raises ConfigError.
    """
    webhook = tenant.webhook
    urls = _urls_of_app(tenant)
    has_one_secret = bool(webhook.secret) != bool(webhook.secret_file)
    if urls and not has_one_secret:
        raise locations.wrong(f"{app}webhook", EITHER_SECRET)
    # An address of another scheme could read files of the server.
    for key, url in urls.items():
        if not HTTP_URL.match(url):
            problem = f"expected an http:// or https:// address, got {url!r}"
            raise locations.wrong(f"{app}{key}", problem)


def _urls_of_app(tenant: TenantSettings) -> dict[str, str]:
    """Return the addresses of an app's back ends and webhooks, by the names of
    their settings."""
    urls = {f"webhook.{key}": url for key, url in tenant.webhook.urls.items()}
    for key, url in tenant.back_ends.urls.items():
        urls[f"back_ends.{key}"] = url
    return urls


def _check_headers(tenant: TenantSettings, locations: Locations, app: str) -> None:
    """Check the headers of clients that requests to back ends repeat.

    Back ends trust ``headers``, which come from the client's HTTP request. A
    client may set ``emulated_headers`` in its login, so the two lists must not
    overlap. Raises ConfigError.
    """
    back_ends = tenant.back_ends
    for option in ("headers", "emulated_headers"):
        setting = f"{app}back_ends.{option}"
        _check_header_names(getattr(back_ends, option), setting, locations)
    trusted = {header.lower() for header in back_ends.headers}
    for header in back_ends.emulated_headers:
        if header.lower() in trusted:
            problem = f"{header} is in headers, so clients must not set it"
            raise locations.wrong(f"{app}back_ends.emulated_headers", problem)


def _check_header_names(
    headers: Iterable[str], setting: str, locations: Locations
) -> None:
    """Raise ConfigError for a header that no client may set.

    A client could otherwise set headers that the server itself sets.
    """
    for header in headers:
        if not _HEADER.fullmatch(header) or _OWN_HEADER.match(header):
            problem = f"expected headers of clients such as Cookie, got {header!r}"
            raise locations.wrong(setting, problem)


def check_config(config: Config, locations: Locations) -> None:
    """Check conditions between settings of a server.

    Raises ConfigError, which names the location.
    """
    _check_listening(config, locations)
    _check_apps(config, locations)
    _check_urls(config, locations)
    _check_cluster(config, locations)
    _check_secrets(config, locations)


def _check_cluster(config: Config, locations: Locations) -> None:
    """Check the time of leases, and that several processes share a Redis.

    Raises ConfigError.
    """
    cluster = config.cluster
    # A lease that is renewed late would end while its node lives.
    if cluster.renew_seconds * 2 > cluster.lease_seconds:
        raise ConfigError(
            f"{locations.of('cluster.lease_seconds')} {cluster.lease_seconds:g} "
            "must be at least twice cluster.renew_seconds "
            f"{cluster.renew_seconds:g}"
        )
    if config.server.processes > 1 and not config.clustered:
        raise ConfigError(
            f"{locations.of('server.processes')} {config.server.processes} needs a "
            "Redis that the processes share: set redis.url, for example "
            "redis://127.0.0.1:6379"
        )


def _check_secrets(config: Config, locations: Locations) -> None:
    """Check API keys and ``jwt.sign_key``. Raises ConfigError.

    The secrets of apps are checked where they are loaded.
    """
    keys = [row.key for row in config.api.keys]
    if len(set(keys)) != len(keys):
        raise locations.wrong("api.keys", "one key is given twice")
    for number, key in enumerate(keys):
        _check_api_key(key, f"api.keys[{number}].key", locations)

    _check_days_of_keys(config, locations)
    if is_placeholder(config.jwt.sign_key):
        problem = f"{_IS_PLACEHOLDER}; make one with '{MAKE_SECRET}'"
        raise locations.wrong("jwt.sign_key", problem)


def _check_days_of_keys(config: Config, locations: Locations) -> None:
    """Parse the days when keys expire, so that a wrong one is found at the
    start. Raises ConfigError."""
    for number, row in enumerate(config.api.keys):
        try:
            _ = row.expires_at  # it parses the day
        except ValueError:
            problem = f"expected a day such as 2027-01-31, got {row.expires!r}"
            raise locations.wrong(f"api.keys[{number}].expires", problem) from None


def _check_api_key(key: str, setting: str, locations: Locations) -> None:
    """Raise ConfigError if an API key is public or easy to guess."""
    if is_placeholder(key):
        raise locations.wrong(setting, f"{_IS_PLACEHOLDER}; {_MAKE_KEY}")
    if len(key) < MIN_KEY_CHARACTERS:
        raise locations.wrong(
            setting,
            f"expected at least {MIN_KEY_CHARACTERS} characters, got "
            f"{len(key)}; {_MAKE_KEY}",
        )


def _check_listening(config: Config, locations: Locations) -> None:
    """Check where the node listens, and whose requests it accepts.

    Raises ConfigError.
    """
    app = config.app
    if app.http_port and app.http_port == app.websocket_port:
        raise ConfigError(
            f"{locations.of('app.http_port')} and app.websocket_port are both "
            f"{app.http_port}"
        )
    _check_listeners(config, locations)
    _check_extra_hosts(config, locations)

    _check_echo_path(config.debug.echo_path, locations)
    _check_addresses(config.server, locations)
    _check_origins(config.server.origins, "server.origins", locations)
    _check_networks(config.server.trusted_proxies, "server.trusted_proxies", locations)


def _check_addresses(server: ServerSettings, locations: Locations) -> None:
    """Check the addresses at which the node listens. Raises ConfigError."""
    _check_address(server.host, "server.host", locations)
    for number, row in enumerate(server.extra_listen):
        _check_address(row.host, f"server.extra_listen[{number}].host", locations)


def _check_echo_path(path: str, locations: Locations) -> None:
    """Check the path at which a test suite may connect: it must not be one of
    ours. Raises ConfigError."""
    is_free = path.startswith("/") and path not in _RESERVED_PATHS
    if path and not is_free:
        problem = f"expected a free path such as /echo, got {path!r}"
        raise locations.wrong("debug.echo_path", problem)


def _check_extra_hosts(config: Config, locations: Locations) -> None:
    """Raise ConfigError if a host is given twice, also in capital letters."""
    hosts = [row.host.lower() for row in config.server.extra_hosts]
    for host in hosts:
        if hosts.count(host) > 1:
            problem = f"the host {host} is given twice"
            raise locations.wrong("server.extra_hosts", problem)


def _check_listeners(config: Config, locations: Locations) -> None:
    """Check each additional listener, and whether two listeners conflict.

    Raises ConfigError.
    """
    section = "server.extra_listen"
    rows = config.server.extra_listen
    ports = [row.port for row in rows]
    # The main listeners count, too: an additional one must not take their
    # ports.
    ports += [config.app.http_port, config.app.websocket_port]
    sockets = [row.socket for row in rows]
    for number, row in enumerate(rows):
        _check_listener(row, f"{section}[{number}]", config, locations)
        problem = _conflict_of(row, ports, sockets)
        if problem:
            raise locations.wrong(section, problem)


def _conflict_of(
    row: ListenSettings, ports: Sequence[int], sockets: Sequence[str]
) -> str:
    """Say what is wrong with a listener: it conflicts with another one, or with
    itself. ``""`` means that nothing is wrong.

    ``ports`` and ``sockets`` belong to all listeners.
    """
    # Port 0 is any free port, so several listeners may have it.
    if row.port > 0 and ports.count(row.port) > 1:
        return f"port {row.port} is given twice"
    if row.socket and sockets.count(row.socket) > 1:
        return f"the socket {row.socket} is given twice"
    if row.path and row.ws_dialect:
        return f"there is no /ws under {row.path}: no ws_dialect"
    return ""


def _check_listener(
    row: ListenSettings, setting: str, config: Config, locations: Locations
) -> None:
    """Check an additional listener: it has either a port or a Unix socket.

    ``setting`` is its name in messages. Raises ConfigError.
    """
    has_port = row.port != NO_PORT
    has_socket = bool(row.socket)
    if has_port == has_socket:
        raise locations.wrong(setting, "expected either a port or a socket")
    if has_socket and row.host:
        raise locations.wrong(setting, "a socket has no host")
    if row.proxy_protocol and config.server.http != "front":
        problem = "only server.http: front reads the PROXY protocol"
        raise locations.wrong(f"{setting}.proxy_protocol", problem)


def _check_address(host: str, name: str, locations: Locations) -> None:
    """Raise ConfigError if a host only looks like an IPv4 address.

    All other texts are names of hosts or IPv6 addresses, which are not checked.
    """
    if not re.fullmatch(r"[\d.]+", host):
        return
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise locations.wrong(name, f"expected an address, got {host!r}") from None


def _check_apps(config: Config, locations: Locations) -> None:
    """Check each app, and whether two apps conflict.

    Outside of demo mode, GoChat's public default key is refused, too. Raises
    ConfigError.
    """
    for name, tenant in config.apps.items():
        _check_app_name(name, locations)
        check_tenant(tenant, locations, app=f"apps.{name}.")
        _check_target_of_alias(config, name, locations)
    _require_no_conflict(config, locations)

    if config.jwt.sign_key == PUBLIC_SIGN_KEY and not config.demo:
        raise ConfigError(
            f"{locations.of('jwt.sign_key')} is the default of GoChat, which is "
            "public: choose another, or none"
        )


def _check_target_of_alias(config: Config, name: str, locations: Locations) -> None:
    """Raise ConfigError if an app is the alias of an unknown app, or of another
    alias."""
    same_as = config.apps[name].same_as
    target = config.apps.get(same_as)
    if same_as and (target is None or target.same_as):
        problem = f"expected a configured app that is not an alias, got {same_as!r}"
        raise locations.wrong(f"apps.{name}.same_as", problem)


def _check_app_name(name: str, locations: Locations) -> None:
    """Raise ConfigError if an app may not have this name."""
    if valid_name(name):
        return
    # The error shows the name cut and quoted, because it may be very long, or
    # invisible.
    location = locations.of(f"apps.{name}").removesuffix(name)
    raise ConfigError(
        f"{location}{name[:APP_CHARACTERS]!r}: an app's name has 1 to "
        f"{APP_CHARACTERS} characters, no control characters, and no blank "
        "at an end"
    )


def _require_no_conflict(config: Config, locations: Locations) -> None:
    """Raise ConfigError if two apps have one value that must be unique.

    Settings of features may have the mark ``unique``, which says so.
    """
    owners: dict[tuple[str, Any], str] = {}
    for name, tenant in config.apps.items():
        for setting, value in marked(tenant, "unique"):
            owner = owners.setdefault((setting, value), name)
            if owner != name:
                problem = f"{value!r} is already used by the app {owner}"
                raise locations.wrong(f"apps.{name}.{setting}", problem)


def _check_urls(config: Config, locations: Locations) -> None:
    """Check the addresses of the database and of Redis.

    Only their form is checked: nothing is connected. Raises ConfigError.
    """
    storage_url = config.storage.url
    if storage_url and not _is_storage_url(storage_url):
        others = ", ".join(STORAGE_SCHEMES[1:])
        problem = f"expected sqlite:///path, or a URL that begins with one of {others}"
        raise locations.wrong("storage.url", problem)

    redis_url = config.redis.url
    if redis_url and redis_url.partition("://")[0] not in REDIS_SCHEMES:
        problem = f"expected a URL that begins with one of {', '.join(REDIS_SCHEMES)}"
        raise locations.wrong("redis.url", problem)


def _is_storage_url(url: str) -> bool:
    """Tell whether a text has the form of the URL of a database."""
    separator = "://"
    if url.startswith("sqlite"):
        # A file has no host: sqlite:///path.
        separator = ":///"
    scheme, colon, rest = url.partition(separator)
    return scheme in STORAGE_SCHEMES and bool(colon and rest)


def _check_origins(origins: Iterable[str], setting: str, locations: Locations) -> None:
    """Raise ConfigError if an origin of web pages has no host.

    An origin is as ``example.org`` or ``https://example.org``.
    """
    for origin in origins:
        host = origin.rpartition("://")[2]
        if not re.match(r"[^\s/:?#]", host):
            raise locations.wrong(
                setting,
                "expected hosts such as example.org or https://example.org, got "
                f"{origin!r}",
            )


def _check_networks(
    networks: Iterable[str], setting: str, locations: Locations
) -> None:
    """Raise ConfigError if a text is no network of IP addresses.

    Examples of networks are ``10.0.0.0/8`` and ``fd00::/8``. A single address
    counts as a network, too.
    """
    for network in networks:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            problem = f"expected networks such as 10.0.0.0/8, got {network!r}"
            raise locations.wrong(setting, problem) from None
