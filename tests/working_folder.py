"""Tests run in an empty folder and without settings in the environment.

A command of imserver takes its settings from the folder where it runs and from
the environment. So where somebody has run a server in the source tree, or
exports ``IMSERVER_…``, tests would find that server. This plug-in of pytest is
loaded before any test module.
"""

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

# not imported: nothing of imserver is loaded as early as this
ENVIRONMENT_PREFIX: Final = "IMSERVER_"

for _name in [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)]:
    del os.environ[_name]


def pytest_configure(config: pytest.Config) -> None:
    """Let hypothesis keep its files where it did before the folder was
    changed."""
    from hypothesis.configuration import set_hypothesis_home_dir

    set_hypothesis_home_dir(config.rootpath / ".hypothesis")


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    """Run the tests of this process in one folder, which stays empty."""
    before = Path.cwd()
    folder = tempfile.mkdtemp(prefix="tests-")
    os.chdir(folder)
    try:
        return (yield)
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Fail a test that leaves files in this folder: the next tests would depend
    on them."""
    result = yield
    left = sorted(Path.cwd().iterdir())
    for path in left:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    names = ", ".join(path.name for path in left)
    assert not left, f"the test has left in the working folder: {names}"
    return result
