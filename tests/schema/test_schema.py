"""A tester that reads the OpenAPI document asks the running server whatever the
document allows, and what it does not: no answer may be one that the document
does not tell, and none a failure.

``make schema`` asks far more questions than the suite, which asks about 18,500
per HTTP server.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.integration.cmd import logged_in
from tests.support import HTTP_SERVERS, clean_environment

KEY = "a key of the schema-driven tester, which may do everything"
CONFIG = Path(__file__).with_name("schemathesis.toml")
HOOKS = Path(__file__).with_name("hooks.py")
EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "0"))
"""Questions that are made up for an operation, besides those at its limits. 0:
a few, always the same."""
GENERATED = (
    ["--max-examples", str(EXAMPLES)]
    if EXAMPLES
    else ["--max-examples", "5", "--seed", "1"]
)

pytestmark = [
    pytest.mark.full("load"),
    pytest.mark.slow,
    pytest.mark.timeout(1200 + 60 * EXAMPLES),
]


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_the_server_answers_as_its_document_says(
    http_server: str, start_server: StartServer, tmp_path: Path
) -> None:
    keys = [{"key": KEY, "scopes": ["push", "read", "admin"]}]
    settings = {"api": {"keys": keys}, "apps": {"101": {"open": True}}}
    server = start_server(http_server=http_server, config=settings)
    with logged_in(server.ws, "ann", 101), logged_in(server.ws, "bob", 101):
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "--config-file",
                str(CONFIG),
                "run",
                f"{server.http_url}/api/v1/openapi.json",
                "--header",
                f"Authorization: Bearer {KEY}",
                "--no-color",
                *GENERATED,
            ],
            cwd=tmp_path,
            env=clean_environment(
                NO_PROXY="*", no_proxy="*", SCHEMATHESIS_HOOKS=str(HOOKS)
            ),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated, done.stdout
    print(generated[0], "by", http_server)
    assert int(generated[1]) >= max(EXAMPLES * 15, 500)
