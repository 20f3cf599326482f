"""The page that explains the HTTP interface: what it makes of the document, in
both languages."""

import re
import shlex
from collections.abc import Iterator
from html import unescape
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from flask.testing import FlaskClient

from imserver.gateway.api.v1.table import document_of
from imserver.gateway.config.settings import Config
from imserver.gateway.http.openapi import document
from imserver.pages.reference import (
    chinese,
    curl_of,
    fields_of,
    kind_of,
    marked,
    operations_of,
)
from imserver.pages.text import REFERENCE
from tests.pages.test_routes import POLICY, FakeNode, client_for
from tests.rows import DOCUMENTED
from tests.rows import document as write_document

DOCUMENT = document(DOCUMENTED, {"limits.batch_targets": 77})
OPERATIONS = list(operations_of(DOCUMENT))


def client_of(demo: bool) -> FlaskClient:
    node: Any = FakeNode(Config())
    node.keys = SimpleNamespace(demo=demo)
    return client_for(node, lambda: write_document(77, demo))


@pytest.fixture(scope="module")
def client() -> Iterator[FlaskClient]:
    with client_of(demo=False) as client:
        yield client


def page(client: FlaskClient, query: str = "", **headers: str) -> str:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = client.get(
        f"/api/v1/docs{query}", headers={"Host": "im.example.com", **names}
    )
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == POLICY.format("'self'")
    assert answer.headers["Vary"] == "Accept-Language"
    return answer.get_data(as_text=True)


def words_of(text: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", text))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_operation_is_shown_with_scope_fields_and_refusals(
    client: FlaskClient, language: str
) -> None:
    text = page(client, f"?lang={language}")
    articles = dict(
        re.findall(r'<article class="operation" id="(\w+)">(.*?)</article>', text, re.S)
    )
    assert sorted(articles) == sorted(
        operation["operationId"] for _, _, operation in OPERATIONS
    )
    other = chinese() if language == "zh" else {}
    for path, method, operation in OPERATIONS:
        article = words_of(articles[operation["operationId"]])
        assert path in article
        assert method.upper() in article
        summary = other.get(operation["summary"], operation["summary"])
        assert summary.replace("`", "") in article
        credentials = {
            name: scopes
            for need in operation["security"]
            for name, scopes in need.items()
        }
        for scope in credentials.get("key", ()):
            assert f"{REFERENCE[language]['scope']} {scope}" in article
        if "token" in credentials:
            assert (
                REFERENCE[language]["or_token" if credentials.get("key") else "token"]
                in article
            )
        for parameter in operation["parameters"]:
            assert parameter["name"] in article
        for response in operation["responses"].values():
            for name in (
                response.get("content", {})
                .get("application/json", {})
                .get("examples", {})
            ):
                assert name == "example" or name in article


def test_links_lead_to_something_on_the_page(client: FlaskClient) -> None:
    text = page(client)
    ids = set(re.findall(r'id="([\w-]+)"', text))
    links = set(re.findall(r'href="#([\w-]+)"', text))
    assert links
    assert links <= ids


def test_its_language_is_the_one_asked_for_or_accepted(client: FlaskClient) -> None:
    assert '<html lang="zh-Hans">' in page(client)
    assert '<html lang="en">' in page(client, Accept_Language="en-GB")
    assert '<html lang="zh-Hans">' in page(client, "?lang=zh", Accept_Language="en")
    assert '<html lang="en">' in page(client, "?LANG=en")
    assert "这些用户中谁在线" in page(client, "?lang=zh")
    assert "Show which of the given users are online" in page(client, "?lang=en")


def test_lines_for_the_shell_name_the_server_as_it_was_called(
    client: FlaskClient,
) -> None:
    assert "http://im.example.com/api/v1/push" in page(client)
    assert "https://im.example.com/api/v1/push" in page(
        client, X_Forwarded_Proto="https"
    )


def test_others_are_served_while_document_and_page_are_made() -> None:
    with client_of(demo=False) as client:
        for make in (
            lambda: document_of(DOCUMENTED)(77, False, ""),
            lambda: page(client),
        ):
            others: list[str] = []
            gevent.spawn(others.append, "served")
            make()
            assert others == ["served"]


def test_it_says_whether_a_key_is_needed(client: FlaskClient) -> None:
    assert "Send the API key in the header" in page(client, "?lang=en")
    with client_of(demo=True) as demo:
        assert "demo mode" in page(demo, "?lang=en")


PLAIN = {("get", False), ("post", True)}
"""What curl sends without being told: a method, and whether there is a body."""


@pytest.mark.parametrize(
    ("path", "method", "operation"), OPERATIONS, ids=[each[0] for each in OPERATIONS]
)
def test_every_line_for_the_shell_is_one(
    path: str, method: str, operation: Any
) -> None:
    words = shlex.split(curl_of("http://127.0.0.1:8080", method, path, operation))
    assert words[0] == "curl"
    plain = path
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            plain = plain.replace("{" + parameter["name"] + "}", parameter["example"])
    assert words[-1].startswith(f"http://127.0.0.1:8080{plain}")
    assert bool({"-d", "--data-binary"} & set(words)) == ("requestBody" in operation)
    assert ("-X" in words or "-I" in words) == (
        (method, "requestBody" in operation) not in PLAIN
    )
    for parameter in operation["parameters"]:
        if parameter["in"] == "header" and parameter["required"]:
            assert f"{parameter['name']}: {parameter['example']}" in words
        elif parameter["in"] == "query" and parameter["required"]:
            assert f"{parameter['name']}=" in words[-1]


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, "string"),
        ({"type": "array", "items": {"type": "integer"}}, "[integer]"),
        ({"enum": ["a", "b"]}, '"a" | "b"'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string"),
        (
            {"anyOf": [{"$ref": "#/components/schemas/Message"}, {"type": "string"}]},
            "Message | string",
        ),
        (
            {"type": "object", "additionalProperties": {"type": "string"}},
            "{… : string}",
        ),
        ({"$ref": "#/components/schemas/Problem"}, "Problem"),
        ({}, "any"),
    ],
)
def test_a_kind_is_described_in_a_few_words(schema: Any, kind: str) -> None:
    assert kind_of(schema) == kind


def test_fields_show_their_bounds_defaults_and_shapes() -> None:
    found = {
        field.name: field
        for field in fields_of({"$ref": "#/components/schemas/BanRequest"}, DOCUMENT)
    }
    assert (found["app"].required, found["app"].bounds) == (True, (("minLength", "1"),))
    assert found["users"].bounds == (("maxItems", "1000"),)
    assert found["seconds"].bounds == (("minimum", "0"), ("maximum", "31622400"))
    answer = fields_of({"$ref": "#/components/schemas/PresenceAnswer"}, DOCUMENT)
    assert [field.shape for field in answer] == ["", "UserPresence", ""]
    request = fields_of({"$ref": "#/components/schemas/PresenceRequest"}, DOCUMENT)
    assert request[-1].default == "false"
    assert fields_of({"type": "string"}, DOCUMENT) == ()


def test_texts_are_escaped_before_code_is_marked() -> None:
    assert marked(["a `b<c>` & d", "e"]) == "a <code>b&lt;c&gt;</code> &amp; d<br>e"


def test_every_chapter_has_a_name_of_its_own_in_both_languages() -> None:
    chapters = {tag["name"] for tag in DOCUMENT["tags"]}
    for words in REFERENCE.values():
        assert chapters <= set(words["chapters"])
        assert len({*words["chapters"].values()}) == len(words["chapters"]), (
            "screen readers tell them apart"
        )
