"""A server for clients that wait ten seconds for an answer."""

import pytest

from imserver_client import Api
from tests.support import Server


@pytest.fixture(scope="module")
def server(server: Server) -> Server:
    """The server of the module. Its database exists: to make it may take longer than a client waits."""
    with Api(server.http_url, timeout_seconds=100) as api:
        api.create_app("first", {})
    return server
