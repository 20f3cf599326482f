"""``make quick``: which tests belong to a changed file."""

import pytest

from tools.quick import FOLDERS, SMOKE, find_tests

from .support import ROOT


@pytest.mark.parametrize(
    ("path", "tests"),
    [
        ("imserver/gateway/hub/fanout.py", "tests/gateway/hub"),
        ("imserver/media/uploads/s3.py", "tests/media/uploads"),
        ("imserver/gateway/auth/login.py", "tests/gateway/auth"),
        ("imserver/cli.py", "tests/test_cli.py"),
        ("imserver/version.py", None),
        ("imserver_client/api.py", "tests/client"),
        ("tools/quick.py", "tests/test_quick.py"),
        ("sdk/js/errors.js", "tests/sdk"),
        ("plugins/ntfy/imserver_ntfy/wire.py", "plugins/ntfy/tests"),
        ("plugins/ntfy/tests/conftest.py", "plugins/ntfy/tests"),
        ("plugins/README.md", None),
        ("tests/gateway/hub/test_hub.py", "tests/gateway/hub/test_hub.py"),
        ("tests/gateway/hub/test_removed.py", "tests/gateway/hub"),
        ("tests/gateway/hub/harness.py", "tests/gateway/hub"),
        ("tests/support.py", None),
        ("README.md", None),
    ],
)
def test_the_tests_of_a_changed_file_are_those_of_its_folder(
    path: str, tests: str | None
) -> None:
    assert find_tests(path) == tests


def test_what_the_tables_name_exists() -> None:
    named = (*SMOKE, *(f"tests/{name}" for name in FOLDERS.values()))
    assert [path for path in named if not (ROOT / path).exists()] == []
