"""Fixtures: a store and its log."""

from collections.abc import Callable, Iterator

import pytest

from imserver.gateway.storage.store import Store
from imserver.messenger.channels import stored_channels
from imserver.messenger.delivery import catch_up, deliverer
from imserver.messenger.log import groups, transaction, writer
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.search import message_search
from imserver.messenger.search.search import EntrySearch
from imserver.messenger.search.word_index import WordIndex
from tests.messenger.messaging_harness import Node


@pytest.fixture
def log(store: Store) -> MessageLog:
    """Its log."""
    return store.part(MessageLog)


@pytest.fixture
def search(store: Store) -> EntrySearch:
    """Its searches."""
    return store.part(EntrySearch)


@pytest.fixture
def words(store: Store) -> WordIndex:
    """Its index of words, which hears of what is stored from now on."""
    return store.part(WordIndex)


@pytest.fixture
def node() -> Iterator[Node]:
    """A node's inside with messaging."""
    with Node() as one:
        yield one


@pytest.fixture
def small(constants: Callable[..., None]) -> None:
    """What takes long or needs much in small, so that it happens often."""
    constants(
        deliverer,
        GAP_SECONDS=0.001,
        QUIET_SECONDS=0.01,
        RETRY_SECONDS=0.005,
        PAGE=4,
        MAX_WAITING=3,
    )
    constants(writer, BATCH_DRAFTS=4)
    constants(catch_up, RECOVERED=6, RESEND_LIMIT=6)
    constants(stored_channels, MAX_RECOVERED=2)
    constants(groups, MOST_LEAVING=2)
    constants(transaction, MOST_EDITS=3)
    constants(message_search, SEARCH_SECONDS=0.01)
