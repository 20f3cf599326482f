"""The shapes of apps in ``/api/v1``, made of the declarations of their settings.

A setting is declared once, in a struct of settings. Its type, limits, default and description hold for
requests and answers, too. What is different there, its marks say (:mod:`imserver.config.declared`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache, partial, reduce
from operator import or_
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.config.declared import bare, hints_of, marks_of

Shape = type[Struct]
Field = tuple[Any, ...]
"""Name and type, and a default unless it is required."""
Make = Callable[[Shape], Shape]


def given_fields(kind: Shape) -> list[Field]:
    """The fields of a request for a group of settings. All may be left out. None names a file."""
    return [
        (name, reduce(or_, (_type(hint, given_group, given_entry, True), UnsetType)), UNSET)
        for name, hint in hints_of(kind).items()
        if not marks_of(hint).get("file")
    ]


@cache
def given_group(kind: Shape) -> Shape:
    """The request for a group of settings."""
    return _define(kind, "", given_fields(kind), forbid_unknown_fields=True, omit_defaults=True)


@cache
def given_entry(kind: Shape) -> Shape:
    """The request for an entry of a list or mapping. What is left out has its default."""
    fields = [
        each
        for each in _with_defaults(kind, lambda hint: _type(hint, given_group, given_entry, True, True))
        if not marks_of(hints_of(kind)[each[0]]).get("file")
    ]
    return _define(kind, "", fields, forbid_unknown_fields=True)


def shown_fields(kind: Shape) -> list[Field]:
    """The fields of an answer with a group of settings: no secrets, no files."""
    fields = _shown(kind)
    if hasattr(kind, "signed"):
        fields.append(("signed", Annotated[bool, Meta(description="Whether a secret is set.")]))
    return fields


@cache
def shown_group(kind: Shape) -> Shape:
    """The answer with a group of settings."""
    return _define(kind, "Shown", shown_fields(kind))


@cache
def shown_entry(kind: Shape) -> Shape:
    """The answer with an entry of a list or mapping: the same as in requests, but for secrets."""
    hidden = [hint for hint in hints_of(kind).values() if _is_hidden(hint)]
    return _define(kind, "Shown", _shown(kind), omit_defaults=True) if hidden else given_entry(kind)


def _shown(kind: Shape) -> list[Field]:
    """The fields without secrets and files; a default has what is left out if it has it."""
    hints = hints_of(kind)
    found = [
        (hints[each[0]], each)
        for each in _with_defaults(kind, lambda hint: _type(hint, shown_group, shown_entry, empty=True))
    ]
    shown = [(marks_of(hint).get("omit", False), each) for hint, each in found if not _is_hidden(hint)]
    required: list[Field] = [each[:2] for omitted, each in shown if not omitted]
    return required + [each for omitted, each in shown if omitted]


def _is_hidden(hint: Any) -> bool:
    marks = marks_of(hint)
    return bool(marks.get("secret") or marks.get("file"))


def _define(kind: Shape, suffix: str, fields: Iterable[Field], **options: Any) -> Shape:
    text = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]
    name = "App" + kind.__name__.removesuffix("Settings").removeprefix("App") + suffix
    return msgspec.defstruct(name, fields, namespace={"__doc__": text}, module=__name__, **options)


def _with_defaults(kind: Shape, type_of: Callable[[Any], Any]) -> list[Field]:
    fields: list[Field] = []
    for field in msgspec.structs.fields(kind):
        hint = hints_of(kind).get(field.name)
        if hint is None:
            continue
        if field.required:
            fields.append((field.name, type_of(hint)))
        elif field.default_factory is not msgspec.NODEFAULT:
            fields.append((field.name, type_of(hint), msgspec.field(default_factory=field.default_factory)))
        else:
            default = field.default
            if isinstance(default, tuple):
                default = msgspec.field(default_factory=partial(list, default)) if default else []
            fields.append((field.name, type_of(hint), default))
    return fields


def _type(hint: Any, group: Make, entry: Make, limits: bool = False, empty: bool = False) -> Any:
    """A type of a setting as a type of JSON.

    ``group`` makes the shape of a struct, ``entry`` that of one in a list or mapping. ``limits``: with those
    of requests. ``empty``: a choice may be ``""``, which stands for the default.
    """
    inner, kind = bare(hint), get_origin(bare(hint))
    if kind in (tuple, dict):
        *names, item = (
            _type(each, entry, entry, limits, True) for each in get_args(inner) if each is not ...
        )
        inner = dict[names[0], item] if names else list[item]  # type: ignore[valid-type]
    elif kind is Literal and not empty:
        inner = Literal[tuple(each for each in get_args(inner) if each != "")]
    elif isinstance(inner, type) and issubclass(inner, Struct):
        inner = group(inner)
    meta = _merged(hint, limits)
    return Annotated[inner, Meta(**meta)] if meta else inner


def _merged(hint: Any, limits: bool) -> dict[str, Any]:
    """The annotations of a type; ``limits``: with those of requests, which may be closer."""
    merged: dict[str, Any] = {}
    for meta in getattr(hint, "__metadata__", ()):
        merged |= {name: value for name in _LIMITS if (value := getattr(meta, name, None)) is not None}
    return merged | (marks_of(hint).get("api", {}) if limits else {})


_LIMITS: Final = ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern", "description")
