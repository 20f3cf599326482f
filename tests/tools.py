"""Programs from outside that some tests need: without one a test is skipped, but on CI it fails."""

import os
import shutil

import pytest


def require(*names: str) -> str:
    """The path of the first of these programs that exists.

    Without any the test is skipped; it fails where the environment says ``CI=true``, where nothing may be
    left out.
    """
    for name in names:
        path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")
        if path:
            return path
    missing = f"this test needs {' or '.join(names)}, which is not installed here"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(missing)
    pytest.skip(missing)
