"""Runs the tests of static/messages/qr.js with node."""

from pathlib import Path

import pytest

from tests.sdk.node import run_node


@pytest.mark.needs("qr")
def test_qr_codes() -> None:
    run_node(str(Path(__file__).with_name("qr.test.mjs")))
