"""The shapes of apps have every setting of an app, also of features."""

from collections.abc import Iterator

from msgspec import Struct

from imserver.gateway.api.v1.apps import given_entry, given_group, shapes_of, shown_entry, shown_group
from imserver.gateway.config.declared import hints_of, marks_of, struct_in
from imserver.gateway.config.settings import TenantSettings
from imserver.gateway.config.values import CORE, RENAMED_OF_APPS
from tests.rows import DECLARED

KINDS = (TenantSettings, *DECLARED.app_kinds)


def groups(kinds: tuple[type[Struct], ...]) -> Iterator[type[Struct]]:
    """The structs within the settings of an app."""
    for kind in kinds:
        for hint in hints_of(kind).values():
            if inner := struct_in(hint):
                yield inner
                yield from groups((inner,))


def test_every_setting_of_an_app_can_be_given_and_is_shown() -> None:
    names = list(DECLARED.app_hints)
    shapes = shapes_of(DECLARED)
    names += [old for old, new in RENAMED_OF_APPS.items() if new in names]
    assert shapes.settings == set(names)
    assert set(shapes.shown.__struct_fields__) == {"app", "configured", *names}


def test_secrets_are_not_shown_and_files_not_given() -> None:
    found = set(groups(KINDS))
    assert len(found) >= 4
    for kind in found:
        marks = {name: marks_of(hint) for name, hint in hints_of(kind).items()}
        files = {name for name, each in marks.items() if each.get("file")}
        secrets = {name for name, each in marks.items() if each.get("secret")}
        assert {
            name for name in marks if name.endswith(("secret", "secret_file", "key_file"))
        } <= files | secrets
        for given in (given_group(kind), given_entry(kind)):
            assert set(given.__struct_fields__) == set(marks) - files
        for shown in (shown_group(kind), shown_entry(kind)):
            assert set(shown.__struct_fields__) - {"signed"} == set(marks) - files - secrets


def test_a_node_without_features_has_the_settings_of_the_core() -> None:
    names = hints_of(TenantSettings)
    old = {name for name, new in RENAMED_OF_APPS.items() if new in names}
    assert shapes_of(CORE).settings == {*names, *old}
