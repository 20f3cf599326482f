"""A server for clients that wait ten seconds for an answer, and clients with
other limits."""

from collections.abc import Iterator

import pytest

from imserver_client import Api, aio, session, threads
from tests.support import Server


@pytest.fixture(scope="module")
def server(server: Server) -> Server:
    """The server of the module. Its database exists: to make it may take longer
    than a client waits."""
    with Api(server.http_url, timeout_seconds=100) as api:
        api.create_app("first", {})
    return server


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    with Api(server.http_url) as one:
        yield one


@pytest.fixture
def small_queue(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients keep two events, six while an answer is awaited, and ask for
    pages of two entries; a param has other limits."""
    limits = {"MAX_WAITING": 2, "MAX_WAITING_FOR_ANSWER": 6, "PAGE_ENTRIES": 2}
    for name, value in getattr(request, "param", limits).items():
        monkeypatch.setattr(session, name, value)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients wait half a second for answers."""
    for name, seconds in (("ANSWER_SECONDS", 0.5), ("SILENT_SECONDS", 0.25)):
        for module in (session, threads, aio):
            monkeypatch.setattr(module, name, seconds)
