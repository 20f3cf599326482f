"""A server with all features serves one user, one channel, one stored message
(``make quick``)."""

from tests.conftest import StartServer
from tests.test_removal import check_core


def test_a_server_with_all_features_serves(start_server: StartServer) -> None:
    check_core(start_server(config={"apps": {"7": {"open": True}}}))
