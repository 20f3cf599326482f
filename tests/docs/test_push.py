"""docs/push.md shows every route by which a back end pushes or asks, and each in a line that is run."""

import re
import shlex

import pytest

from imserver.api.routes import ROUTES
from imserver.api.v1.operate import MOST_USERS
from imserver.api.v1.room import MOST_MEMBERS
from imserver.api.v1.table import DOCUMENTED
from tests.docs.markdown import blocks, prose
from tests.docs.play import exchanges
from tests.support import ROOT

PUSH = ROOT / "docs" / "push.md"
UNSHOWN = {
    ("GET", path) for path in ("/api/v1/openapi.json", "/health", "/ready", "/metrics", "/system/state")
}
"""What is for operators, and told elsewhere; and the document itself, which is named at the top."""
WANTED = sorted(
    {(row.method, row.path) for row in (*ROUTES, *DOCUMENTED) if row.path != "/api/register"} - UNSHOWN
    | {("POST", "/api/register")}  # it takes any method
)


def shown() -> set[tuple[str, str]]:
    """(method, path) of every request that a shell session of the page makes."""
    found = set()
    for block in blocks(PUSH, "console"):
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


def test_no_line_asks_for_what_there_is_not() -> None:
    known = {(row.method, row.path) for row in (*ROUTES, *DOCUMENTED)}
    assert shown() <= known


def test_the_limits_that_are_told_hold() -> None:
    assert MOST_USERS == MOST_MEMBERS == 1000
    assert "up to 1,000 at once" in prose(PUSH).replace("\n", " ")
