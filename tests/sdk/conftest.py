"""The npm packages, installed as their users install them."""

from pathlib import Path

import pytest

from tests.sdk.node import install_packages


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the packages are installed from what npm packs."""
    return install_packages(tmp_path_factory.mktemp("npm"))
