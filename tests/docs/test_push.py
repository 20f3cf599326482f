"""The guides show every route for back ends in a line that is run."""

import re
import shlex

import pytest

from imserver.api.routes import ROUTES
from imserver.api.v1.operate import MOST_USERS
from imserver.api.v1.rooms import MOST_MEMBERS
from imserver.api.v1.table import DOCUMENTED
from tests.docs.markdown import blocks, prose
from tests.docs.play import exchanges
from tests.support import ROOT

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PUSH = ROOT / "docs" / "guides" / "send-a-push.md"
UNSHOWN = {
    ("GET", path) for path in ("/api/v1/openapi.json", "/health", "/ready", "/metrics", "/system/state")
}
"""Routes for operators, and the API description."""
WANTED = sorted(
    {(row.method, row.path) for row in (*ROUTES, *DOCUMENTED) if row.path != "/api/register"} - UNSHOWN
    | {("POST", "/api/register")}  # it takes any method
)


def shown() -> set[tuple[str, str]]:
    """(method, path) of every request that a shell session of the guides makes."""
    found = set()
    for block in (block for page in GUIDES for block in blocks(page, "console")):
        for command, _ in exchanges(block.text):
            words = shlex.split(command.replace("$(", " ").replace(")", " "))
            posts = bool({"-d", "--data-urlencode", "--data-binary"} & set(words))
            for word in words:
                if match := re.match(r"http://127\.0\.0\.1:8080(/[^?]*)", word):
                    found.add(("POST" if posts else "GET", match[1].replace("$ID", "{id}")))
    return found


@pytest.mark.parametrize(("method", "path"), WANTED, ids=lambda value: value.strip("/").replace("/", "_"))
def test_every_route_has_a_line(method: str, path: str) -> None:
    assert (method, path) in shown()


def test_every_shown_request_has_a_route() -> None:
    known = {(row.method, row.path) for row in (*ROUTES, *DOCUMENTED)}
    assert shown() <= known


def test_the_documented_limits_hold() -> None:
    assert MOST_USERS == MOST_MEMBERS == 1000
    assert "up to 1,000 at once" in prose(PUSH).replace("\n", " ")
