"""Runs the tests of what the page of kept messages knows, by node."""

from pathlib import Path

from tests.sdk.test_sdk import run_node


def test_the_rules_of_the_correspondence() -> None:
    run_node(str(Path(__file__).with_name("correspondence.test.mjs")))
