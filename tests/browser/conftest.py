"""Browsers that the tests share, and the check that no page complained."""

from collections.abc import Callable, Iterator

import pytest

from tests.browser.chromium import CHROMIUM, DRIVER, Browser, unexpected
from tests.conftest import StartServer
from tests.support import Server
from tests.tools import require


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Skip before any fixture has started something."""
    require(*CHROMIUM)
    require(DRIVER)


@pytest.fixture(scope="module")
def browsers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[int], Browser]]:
    """``browsers(0)``, ``browsers(1)`` …: each is started when first asked
    for."""
    started: dict[int, Browser] = {}

    def get(number: int) -> Browser:
        if number not in started:
            started[number] = Browser(tmp_path_factory.mktemp(f"chromium{number}"))
        return started[number]

    try:
        yield get
    finally:
        for browser in started.values():
            browser.quit()


LIMIT = 12_000_000
"""Bytes of a file."""


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    """Demo mode, and as many accounts and files as the tests of a module
    want."""
    limits = {"registrations_per_address": 0, "logins_per_address": 0}
    uploads = {"min_free_bytes": 0, "max_bytes": LIMIT}
    return start_shared_server(config={"accounts": limits, "uploads": uploads})


class Pair:
    """Two browsers; after the test their consoles must be empty, but for what
    it says it ``expects``."""

    def __init__(self, get: Callable[[int], Browser]) -> None:
        self._get = get
        self._used: set[int] = set()
        self._expected: tuple[str, ...] = ()

    def __getitem__(self, number: int) -> Browser:
        browser = self._get(number)
        if number not in self._used:
            self._used.add(number)
            browser.complaints()  # what came after the test before is not of this one
        return browser

    def expects(self, *words: str) -> None:
        """Console messages with any of these words are no fault of the page."""
        self._expected = words

    def check(self) -> None:
        for number in self._used:
            browser = self._get(number)
            complaints = unexpected(browser.complaints(), *self._expected)
            browser.open("about:blank")
            assert not complaints


@pytest.fixture
def pair(
    browsers: Callable[[int], Browser], start_server: StartServer
) -> Iterator[Pair]:
    """Named after ``start_server``, so that consoles are read before the
    servers go."""
    pair = Pair(browsers)
    yield pair
    pair.check()
