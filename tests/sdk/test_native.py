"""Runs the tests of the React Native package by node, with a stand-in for React Native."""

from pathlib import Path

import pytest

from tests.sdk.node import run_node
from tests.support import Server

pytestmark = pytest.mark.needs("node", "react-test-renderer")

HERE = Path(__file__).parent


def test_the_rules_of_push_notifications_on_phones() -> None:
    run_node(str(HERE / "native.test.mjs"))


def test_an_app_against_a_real_server(server: Server) -> None:
    run_node(str(HERE / "native_server.test.mjs"), IM_HTTP=server.http_url, IM_WS=server.ws_url)
