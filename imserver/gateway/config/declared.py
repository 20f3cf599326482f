"""The marks of settings besides types, limits and defaults, and functions that
read values by them.

A setting is a field of a struct. A mark is an entry of ``extra`` in the
:class:`msgspec.Meta` of its type:

- ``secret``: the value is never shown. False means that the value may be shown,
  although the name of the setting sounds like a secret.
- ``file``: the setting names a file with a secret, so only the configuration
  file may have it.
- ``url``: the server sends requests to this address.
- ``host``: the server connects to this host.
- ``free_bytes``: this many bytes must stay free on the disk of the data folder.
- ``unique``: no two apps have the same value. Only a setting that a feature
  declares in a group has this mark.
- ``ends_demo``: an app with this setting ends demo mode, because its users or
  back end prove who they are.
- ``by_key``: only an API key may change the setting, not a user with a
  role. Such a setting decides who logs in as whom, or lets the app use more of
  the server.
- ``by_feature``: the core reads the setting, but apps have it only if a feature
  names it.
- ``omit``: an answer of ``/api/v1`` leaves out the default.
- ``number``, ``auto``: spellings, see :mod:`imserver.gateway.config.values`.
- ``api``: additional limits in requests of ``/api/v1``, as arguments of
  :class:`msgspec.Meta`.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

Secret = Annotated[str, Meta(extra={"secret": True})]
"""The type of a setting: a text that no log, dump or answer shows."""
SecretFile = Annotated[str, Meta(extra={"file": True})]
"""The type of a setting: the path of a file with a secret. Only the
configuration file may have it."""
Url = Annotated[str, Meta(extra={"url": True, "api": {"pattern": "^(https?://|$)"}})]
"""The type of a setting: an address to which the server sends requests. If it
is empty, the server sends no requests."""

_MARKS: Final = frozenset(
    {"api", "by_feature", "by_key", "ends_demo", "number", "omit", "unique", "url"}
)


def about(text: str, **rules: Any) -> Meta:
    """Describe a field of ``/api/v1``, or a setting of an app, with its rules.

    ``rules`` are limits as in :class:`msgspec.Meta` (``ge``, ``max_length``,
    ``pattern``, ``examples``). For a setting they may also be marks: ``api``
    (additional limits in requests), ``by_feature``, ``by_key``, ``ends_demo``,
    ``number``, ``omit``, ``unique`` and ``url``.
    """
    marks = {name: rules.pop(name) for name in _MARKS & rules.keys()}
    return Meta(description=text, extra=marks or None, **rules)


HIDDEN: Final = "(hidden)"
"""The text that is shown in place of a secret."""
OF_FEATURES: Final = "of_features"
"""The name of the field that has the settings of features in a struct of
settings."""
_SECRET_NAME: Final = re.compile("key|secret|password|token", re.IGNORECASE)

Settings = TypeVar("Settings", bound=Struct)


@cache
def hints_of(kind: type[Struct]) -> dict[str, Any]:
    """Return the settings that a struct declares: name → type.

    Fields that are no settings are left out: the settings of features, and the
    warnings.
    """
    return {
        name: hint
        for name, hint in get_type_hints(kind, include_extras=True).items()
        if name not in (OF_FEATURES, "warnings") and name in kind.__struct_fields__
    }


def marks_of(hint: Any) -> dict[str, Any]:
    """Return the marks of a type, for example ``{"secret": True}``."""
    marks: dict[str, Any] = {}
    if get_origin(hint) is not Annotated:
        return marks
    for annotation in hint.__metadata__:
        if isinstance(annotation, Meta) and annotation.extra:
            marks |= annotation.extra
    return marks


def bare(hint: Any) -> Any:
    """Return a type without its annotations: of ``Annotated[str, …]`` it is
    str."""
    if get_origin(hint) is Annotated:
        return hint.__origin__
    return hint


def struct_in(hint: Any) -> type[Struct] | None:
    """Return the struct in a type: the type itself, or the type of its items.

    For example, the result is ``KeySettings`` for ``tuple[KeySettings, ...]``.
    For a mapping, it is the type of the values. None means that the type
    contains no struct.
    """
    inner = bare(hint)
    if get_origin(inner) in (tuple, list):
        inner = bare(get_args(inner)[0])
    elif get_origin(inner) is dict:
        inner = bare(get_args(inner)[1])
    if isinstance(inner, type) and issubclass(inner, Struct):
        return inner
    return None


def marked(settings: Struct, mark: str, above: str = "") -> Iterator[tuple[str, Any]]:
    """List name and value of each setting that has a mark and is not empty.

    Settings of features are included. Examples of names are ``webhook.secret``
    and ``jwt[0].key``. ``above`` is the beginning of all names. It is empty or
    ends with a dot.
    """
    for name, has_mark in _fields_with(type(settings), mark):
        value = getattr(settings, name)
        path = f"{above}{name}"
        if not value:
            continue
        if has_mark:
            yield path, value
        else:
            yield from _marked_inside(value, mark, path)

    for section, values in _of_features(settings):
        prefix = above
        if section:
            # In the settings of an app, features have no sections of their own.
            prefix = f"{above}{section}."
        yield from marked(values, mark, prefix)


def _marked_inside(value: Any, mark: str, path: str) -> Iterator[tuple[str, Any]]:
    """List the marked settings in a struct, or in a dict or list of structs.

    ``path`` is the name of the value itself.
    """
    if isinstance(value, Struct):
        yield from marked(value, mark, f"{path}.")
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from marked(entry, mark, f"{path}.{key}.")
    else:
        for number, item in enumerate(value):
            yield from marked(item, mark, f"{path}[{number}].")


@cache
def _fields_with(kind: type[Struct], mark: str) -> tuple[tuple[str, bool], ...]:
    """List the fields of a struct that are, or may contain, a marked setting.

    Each field has a flag: True if the field itself has the mark, and False if
    settings inside it may have the mark.
    """
    fields = []
    for name, hint in hints_of(kind).items():
        if marks_of(hint).get(mark):
            fields.append((name, True))
            continue
        inner = struct_in(hint)
        if inner is None:
            continue
        # The type does not show the settings of features. A struct with such
        # settings may have marked settings.
        if OF_FEATURES in inner.__struct_fields__ or _fields_with(inner, mark):
            fields.append((name, False))
    return tuple(fields)


def plain(
    settings: Struct, hide: bool = False, kind: type[Struct] | None = None
) -> dict[str, Any]:
    """Return the settings as plain values, as the configuration file has them.

    If ``hide`` is set, secrets are replaced by :data:`HIDDEN`. ``kind`` is a
    base class of the struct. Then only the fields of this class are settings.
    None means that all fields of the struct are settings.
    """
    hints = hints_of(kind or type(settings))
    written = _plain_fields(settings, hints, hide, by_name=False)
    for section, values in _of_features(settings):
        fields = written
        if section:
            fields = written.setdefault(section, {})
        # A feature of another distribution may not have marked its secrets.
        by_name = bool(section)
        fields |= _plain_fields(values, hints_of(type(values)), hide, by_name)
    return written


def _plain_fields(
    settings: Struct, hints: Mapping[str, Any], hide: bool, by_name: bool
) -> dict[str, Any]:
    """Return the fields of a struct as plain values.

    ``hide`` and ``by_name`` are explained at :func:`_plain`.
    """
    return {
        name: _plain(getattr(settings, name), name, hint, hide, by_name)
        for name, hint in hints.items()
    }


def _plain(value: Any, name: str, hint: Any, hide: bool, by_name: bool) -> Any:
    """Return a value as the configuration file has it.

    ``name`` and ``hint`` are the name and the type of its setting. If ``hide``
    is set, a secret becomes :data:`HIDDEN`. A setting with the mark ``secret``
    is a secret. If ``by_name`` is set, a text is also a secret if its name
    sounds like a secret.
    """
    if hide and value and _is_secret(value, name, hint, by_name):
        return HIDDEN
    if isinstance(value, Struct):
        # plain() adds the settings of features. The other fields are written
        # with the arguments of this call.
        fields = _plain_fields(value, hints_of(type(value)), hide, by_name)
        return plain(value, hide) | fields
    if isinstance(value, dict):
        return {
            key: _plain(entry, str(key), type(entry), hide, by_name)
            for key, entry in value.items()
        }
    if struct_in(hint) is not None:
        # Items of a list have no names of their own.
        return [_plain(item, "", type(item), hide, by_name) for item in value]
    return msgspec.to_builtins(value, builtin_types=())


def _is_secret(value: Any, name: str, hint: Any, by_name: bool) -> bool:
    """Tell whether a value is a secret; :func:`_plain` explains the arguments.

    If the setting has the mark ``secret``, the mark decides, even if it is
    False.
    """
    sounds_secret = by_name and _sounds_secret(name, value)
    return bool(marks_of(hint).get("secret", sounds_secret))


def _sounds_secret(name: str, value: Any) -> bool:
    """Tell whether a value is not a number, and its name sounds like a
    secret."""
    return not isinstance(value, int | float) and _SECRET_NAME.search(name) is not None


def _of_features(settings: Struct) -> Iterator[tuple[str, Struct]]:
    """List the settings of features in a struct: section and struct.

    In the settings of an app the section is ``""``, because there the keys of
    features are beside the keys of the core.
    """
    for row in getattr(settings, OF_FEATURES, ()):
        if isinstance(row, tuple):
            yield row
        else:
            yield "", row
