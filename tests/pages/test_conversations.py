"""Runs the tests of static/conversations.js with node."""

from pathlib import Path

from tests.sdk.node import run_node


def test_the_conversation_store() -> None:
    run_node(str(Path(__file__).with_name("conversations.test.mjs")))
