"""The OpenAPI document: valid, complete, and its examples are what it says they
are."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from msgspec import Struct
from openapi_spec_validator import OpenAPIV31SpecValidator

from imserver.gateway.api.v1.apps import (
    given_entry,
    given_group,
    shapes_of,
    shown_entry,
    shown_group,
)
from imserver.gateway.auth.principal import Needs
from imserver.gateway.config.declared import hints_of, marks_of, struct_in
from imserver.gateway.config.settings import TenantSettings
from imserver.gateway.config.values import CORE, RENAMED_OF_APPS
from imserver.gateway.http.openapi import (
    document,
    examples_of,
    operation_id,
    problems_of,
)
from imserver.gateway.http.operation import JSON, PREFIX, Operation
from imserver.gateway.http.reply import PROBLEM
from tests.rows import DECLARED, DOCUMENTED, OPERATIONS, PROBLEMS, ROUTES
from tests.support import ROOT

LIMITS = {"limits.batch_targets": 123}
DOCUMENT = document(DOCUMENTED, LIMITS)
IDS = [operation_id(row) for row in DOCUMENTED]


def described(row: Operation) -> Any:
    return DOCUMENT["paths"][row.path][row.method.lower()]


def check(schema: Any, value: Any) -> None:
    """Fail unless the value is what the schema says, whose references are those
    of the document."""
    whole = {**schema, "components": DOCUMENT["components"]}
    Draft202012Validator(whole).validate(value)


def texts_of(node: Any, key: str = "") -> set[str]:
    """Every text in the document that the page shows."""
    if isinstance(node, dict):
        return set().union(
            *(
                texts_of(value, name)
                for name, value in node.items()
                if name != "examples"
            )
        )
    if isinstance(node, list):
        return set().union(*(texts_of(value) for value in node))
    shown = key in ("description", "summary") and isinstance(node, str) and node
    return {node} if shown else set()


def test_it_is_a_valid_document_with_names_limits_and_texts() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(json.loads(json.dumps(DOCUMENT))).validate()
    assert len(set(IDS)) == len(IDS)
    chapters = [tag["name"] for tag in DOCUMENT["tags"]]
    assert {row.tag for row in DOCUMENTED} == set(chapters)
    users = DOCUMENT["components"]["schemas"]["PresenceRequest"]["properties"]["users"]
    assert users["maxItems"] == 123
    assert "limits.batch_targets" not in json.dumps(DOCUMENT["components"]["schemas"])
    assert not [
        text for text in texts_of(DOCUMENT) if "``" in text or ":class:" in text
    ]


def schemas_in(node: Any) -> Iterator[dict[str, Any]]:
    """All schemas in a part of the document, also nested ones; not the
    examples."""
    if isinstance(node, dict):
        if "type" in node or "enum" in node:
            yield node
        for name, value in node.items():
            if name not in ("example", "examples"):
                yield from schemas_in(value)
    elif isinstance(node, list):
        for each in node:
            yield from schemas_in(each)


def test_generators_of_clients_know_each_array_and_enumeration() -> None:
    """openapi-python-client leaves out a type with an array of nothing, or an
    enumeration of booleans."""
    schemas = [*schemas_in(DOCUMENT)]
    assert [
        each for each in schemas if each.get("type") == "array" and "items" not in each
    ] == []
    assert [
        each
        for each in schemas
        if any(isinstance(value, bool) for value in each.get("enum", ()))
    ] == []


def test_every_route_is_documented_with_its_scope_and_no_other() -> None:
    routed = {
        (row.method, row.path): row for row in ROUTES if row.path.startswith("/api/v1/")
    }
    assert all(row.style is PROBLEM for row in routed.values())
    received = {(row.method, row.path): row.need for row in OPERATIONS}
    assert received == {where: row.need for where, row in routed.items()}
    for row in DOCUMENTED:
        security = described(row)["security"]
        need = row.need
        assert (security == []) == ("nobody" in need.users), row.path
        keys = (
            [{"key": [] if need is Needs.ANY_KEY else [need.scope]}]
            if need.scope
            else []
        )
        if security:
            assert security == [*keys, *([{"token": []}] if need.users else [])], (
                row.path
            )


@pytest.mark.parametrize("row", DOCUMENTED, ids=IDS)
def test_every_example_is_what_its_schema_says(row: Operation) -> None:
    received = described(row)
    if row.body is not None:
        content = received["requestBody"]["content"][JSON]
        check(content["schema"], content["examples"]["example"]["value"])
    answered = received["responses"][str(row.status)]
    request, answer = examples_of(row)
    if row.scope:
        assert row.body is None or request is not None
        assert row.content_type != JSON or row.status != 200 or answer is not None
        assert all(
            "example" in each for each in received["parameters"] if each["required"]
        )
    if answer is not None:
        content = answered["content"][row.content_type]
        check(content["schema"], content["examples"]["example"]["value"])
    for parameter in received["parameters"]:
        if "example" in parameter:
            check(parameter["schema"], parameter["example"])


def test_every_example_and_link_is_of_an_operation() -> None:
    operations = {f"{row.method} {row.path.removeprefix(PREFIX)}" for row in DOCUMENTED}
    files = list((ROOT / "imserver").rglob("examples.json"))
    assert len(files) >= 2
    for file in files:
        assert json.loads(file.read_bytes()).keys() <= operations | {"answers"}, file
    known = {
        operation["operationId"]: {
            parameter["name"] for parameter in operation["parameters"]
        }
        for methods in DOCUMENT["paths"].values()
        for operation in methods.values()
    }
    links = [link for row in DOCUMENTED for link in row.links]
    assert links
    for link in links:
        assert set(link.parameters) <= known[link.operation]


@pytest.mark.parametrize("row", DOCUMENTED, ids=IDS)
def test_every_refusal_is_documented_under_its_status(row: Operation) -> None:
    responses = described(row)["responses"]
    for problem in problems_of(row):
        assert PROBLEMS[problem.code] is problem
        assert (
            row.content_type != "text/html"
            or "text/html" in responses[str(problem.status)]["content"]
        )
        content = responses[str(problem.status)]["content"][JSON]
        example = content["examples"][problem.code]["value"]
        check(content["schema"], example)
        assert (example["code"], example["temporary"]) == (
            problem.code,
            problem.temporary,
        )
    assert not row.scope or "401" in responses
    assert row.function is None or "429" in responses
    if row.shape is not None:
        shape = msgspec.json.schema_components([row.shape])[1][row.shape.__name__]
        assert (
            "app" not in shape.get("required", ())
            or shape["properties"]["app"]["minLength"] >= 1
        )


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
    assert set(shapes.shown.__struct_fields__) == {
        "app",
        "configured",
        "locked",
        *names,
    }
    names = hints_of(TenantSettings)
    old = {name for name, new in RENAMED_OF_APPS.items() if new in names}
    assert shapes_of(CORE).settings == {*names, *old}


def test_secrets_are_not_shown_and_files_not_given() -> None:
    found = set(groups(KINDS))
    assert len(found) >= 4
    for kind in found:
        marks = {name: marks_of(hint) for name, hint in hints_of(kind).items()}
        files = {name for name, each in marks.items() if each.get("file")}
        secrets = {name for name, each in marks.items() if each.get("secret")}
        assert {
            name
            for name in marks
            if name.endswith(("secret", "secret_file", "key_file"))
        } <= files | secrets
        for given in (given_group(kind), given_entry(kind)):
            assert set(given.__struct_fields__) == set(marks) - files
        for shown in (shown_group(kind), shown_entry(kind)):
            assert (
                set(shown.__struct_fields__) - {"signed"}
                == set(marks) - files - secrets
            )
