"""MessageSearch: few at a time, and a database that does not answer is said to be what it is."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import gevent
import pytest
from gevent.event import Event as Signal

from imserver.gateway.auth import rates
from imserver.gateway.auth.rates import TooManyRequests
from imserver.gateway.cluster.history import PAGE_BYTES
from imserver.gateway.errors import StorageUnavailable
from imserver.messenger.messages import message_search
from imserver.messenger.messages.commands import Search, SearchFilter
from imserver.messenger.messages.log.contract import Entry
from imserver.messenger.messages.message_search import SEARCHES_AT_ONCE, MessageSearch
from tests.gateway.transport.harness import until

TEA = Search("tea", 0, 0, 10)


def store_of(log: object) -> Any:
    return SimpleNamespace(part=lambda _make: log)


class SlowLog:
    """Answers when it may."""

    def __init__(self) -> None:
        self.search = self
        self.looking = self.most = 0
        self.may = Signal()

    def find(self, *_arguments: Any) -> tuple[list[Any], int]:
        self.looking += 1
        self.most = max(self.most, self.looking)
        self.may.wait()
        self.looking -= 1
        return [], 0


@pytest.mark.usefixtures("small")
def test_a_search_that_waits_too_long_is_refused_temporarily() -> None:
    log = SlowLog()
    found = MessageSearch(store_of(log))
    searches = [gevent.spawn(found.search, "a", "u", TEA) for _ in range(SEARCHES_AT_ONCE)]
    until(lambda: log.looking == SEARCHES_AT_ONCE)
    with pytest.raises(StorageUnavailable):
        found.search("a", "u", TEA)
    log.may.set()
    gevent.joinall(searches, raise_error=True)
    assert found.search("a", "u", TEA) == ([], 0)


def test_a_search_is_refused_at_once_while_many_wait(constants: Callable[..., None]) -> None:
    constants(message_search, SEARCHES_WAITING=1)
    log = SlowLog()
    found = MessageSearch(store_of(log))
    searches = [gevent.spawn(found.search, "a", "u", TEA) for _ in range(SEARCHES_AT_ONCE + 1)]
    until(lambda: log.looking == SEARCHES_AT_ONCE)
    with pytest.raises(StorageUnavailable):
        found.search("a", "u", TEA)
    assert not any(search.ready() for search in searches)
    log.may.set()
    gevent.joinall(searches, raise_error=True)
    assert log.most == SEARCHES_AT_ONCE


def test_a_user_pays_for_the_time_of_their_searches(constants: Callable[..., None]) -> None:
    now = 0.0

    def find(*_arguments: Any) -> tuple[list[Any], int]:
        nonlocal now
        now += 4.0
        return [], 0

    constants(message_search, monotonic=lambda: now)
    constants(rates, monotonic_ns=lambda: 1)
    log = Mock()
    log.search.find = find
    searches = MessageSearch(store_of(log))
    for _ in range(4):  # the last one may begin with little time left
        searches.search("a", "u", TEA)
    with pytest.raises(TooManyRequests):
        searches.search("a", "u", TEA)
    searches.search("a", "v", TEA)


def test_a_page_has_the_newest_results_that_fit_and_continues_behind_them() -> None:
    body = b"x" * (PAGE_BYTES // 3)
    entries = [Entry(id=number, conversation=1, seq=number, sender="a", body=body) for number in range(1, 9)]
    log = Mock()
    log.search.find = lambda _app, _user, search: (entries[: search.before - 1], 0)
    found, before, pages = MessageSearch(store_of(log)), len(entries) + 1, []
    files = SearchFilter(types=("file",))
    while before:
        page, before = found.search("a", "u", Search("", 1, before, 100, files))
        pages.append([entry.id for entry in page])
    assert pages == [[6, 7, 8], [3, 4, 5], [1, 2]]
