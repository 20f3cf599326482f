"""Answers whose type or bytes a user has chosen: none of them ever runs as a
page of the chat."""

import ast
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import Request, urlopen

import pytest

from imserver.gateway.transport.http1 import HttpResponse, content_headers, header_block
from imserver.plugin.testing import NodeProcess, eventually
from tests.integration.test_uploads import picture
from tests.rows import DOCUMENTED
from tests.support import ROOT

KEY = "admin-key-of-the-tests"
POLICY = "default-src 'none'; sandbox"
PAGE = b"<!doctype html><script>alert(document.domain)</script>"
OURS = (
    "application/json; charset=utf-8",
    "application/json",
    "text/event-stream",
    "text/html",
)
"""Types of answers that we encode ourselves. Pages have policies of their
own."""


@pytest.mark.parametrize(
    ("given", "served", "is_shown"),
    [
        ("image/png", "image/png", True),
        ("Text/Plain; charset=utf-8", "Text/Plain; charset=utf-8", True),
        ("application/pdf", "application/pdf", False),
        ("text/html", "application/octet-stream", False),
        (" TEXT/HTML ;a=b", "application/octet-stream", False),
        ("image/svg+xml", "application/octet-stream", False),
        ("text/javascript", "application/octet-stream", False),
        ("application/xhtml+xml", "application/octet-stream", False),
        ("", "application/octet-stream", False),
    ],
)
def test_only_what_a_browser_shows_or_plays_keeps_its_type(
    given: str, served: str, is_shown: bool
) -> None:
    headers = dict(content_headers(given, "a b.html"))
    disposition = "inline" if is_shown else "attachment"
    assert headers == {
        "Content-Type": served,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": POLICY,
        "Content-Disposition": f"{disposition}; filename*=UTF-8''a%20b.html",
    }
    lines = header_block(HttpResponse(200, PAGE, given or "x/y")).decode()
    assert f"Content-Security-Policy: {POLICY}\r\n" in lines
    assert "X-Content-Type-Options: nosniff\r\n" in lines
    assert ("Content-Disposition: attachment\r\n" in lines) is not is_shown


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    features = ("messages", "accounts", "groups", "exports", "uploads")
    settings = {
        "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
        "uploads": {"min_free_bytes": 0},
    }
    with NodeProcess(features=features, settings=settings) as node:
        yield node


def url_of(node: NodeProcess, address: str) -> str:
    return f"http://{node.http.host}:{node.http.port}{address}"


def upload(node: NodeProcess, content: bytes, name: str) -> Any:
    address = url_of(node, f"/api/v1/uploads?app=gochat&user=ann&name={name}")
    given = {"Authorization": f"Bearer {KEY}"}
    with urlopen(Request(address, content, given), timeout=60) as answer:
        return json.load(answer)


def export(node: NodeProcess, path: str, key: str) -> str:
    """The address of an export that is done."""
    start = node.post(f"/api/v1/exports/start{path}", {"app": "gochat"}, key=key)
    query = f"app=gochat&id={start.json['id']}"
    eventually(
        lambda: (
            node.get(f"/api/v1/exports/show{path}?{query}", key=key).json["state"]
            == "done"
        )
    )
    return f"/api/v1/exports/file{path}?{query}"


def person(node: NodeProcess) -> str:
    fields = {"app": "gochat", "name": "ann_lee", "password": "correct horse"}
    token: str = node.post("/api/v1/accounts/register", fields, key=KEY).json["token"]
    return token


ADDRESS_OF: dict[str, Callable[[NodeProcess], tuple[str, str]]] = {
    "/api/v1/uploads/{id}": lambda node: (upload(node, PAGE, "a.html")["url"], ""),
    "/api/v1/uploads/{id}/thumbnail": lambda node: (
        upload(node, picture(), "a.png")["thumbnail"]["url"],
        "",
    ),
    "/api/v1/exports/file": lambda node: (export(node, "", KEY), KEY),
    "/api/v1/exports/file/self": lambda node: (
        export(node, "/self", token := person(node)),
        token,
    ),
}
"""Route → makes something that it serves; its address, and the key for it."""


def test_each_route_that_serves_what_users_gave_is_known() -> None:
    assert {
        row.path for row in DOCUMENTED if row.content_type not in OURS
    } == ADDRESS_OF.keys()


@pytest.mark.parametrize("route", ADDRESS_OF)
def test_what_users_gave_never_runs(node: NodeProcess, route: str) -> None:
    address, key = ADDRESS_OF[route](node)
    given = Request(
        url_of(node, address), headers={"Authorization": f"Bearer {key}"} if key else {}
    )
    with urlopen(given, timeout=60) as answer:
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        is_picture = answer.headers["Content-Type"] == "image/jpeg"
        assert answer.headers["Content-Disposition"].startswith(
            "inline" if is_picture else "attachment"
        )
        assert "html" not in answer.headers["Content-Type"]


WRITERS = ("imserver/gateway/http/views.py", "imserver/pages/")
"""Where responses are made of finished answers, and pages of ours."""


def test_whoever_makes_a_response_of_flask_takes_its_headers_from_the_one_function() -> (
    None
):
    """A view that streams bytes makes a Response itself, so nothing else would
    add them."""
    forgetting = []
    for path in (
        *ROOT.glob("imserver/**/*.py"),
        *ROOT.glob("plugins/*/imserver_*/**/*.py"),
    ):
        name = path.relative_to(ROOT).as_posix()
        nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        called = {
            each.func.id
            for each in nodes
            if isinstance(each, ast.Call) and isinstance(each.func, ast.Name)
        }
        called |= {each.attr for each in nodes if isinstance(each, ast.Attribute)}
        makes_response = "Response" in called and not name.startswith(WRITERS)
        if makes_response and "content_headers" not in called:
            forgetting.append(name)
    assert forgetting == []
