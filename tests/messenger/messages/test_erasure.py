"""The erasure of a user from the log and from the index of words."""

from collections.abc import Callable

import gevent
import pytest

from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.store import Store
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.messages import parts
from imserver.messenger.search.word_index import LEASE_SECONDS, WordIndex
from tests.messenger.log.test_log import APP, say, stored
from tests.messenger.search.test_word_index import indexed, pad


@pytest.fixture
def secret(store: Store, log: MessageLog, words: WordIndex) -> None:
    """The index has a word of Ann."""
    stored(log, say("ann", "bob", "secret tea"))
    pad(log)
    assert words.fill(APP)
    assert indexed(store, "secret")


def erase(store: Store, name: str = "deleted:1") -> None:
    """Erase Ann as a command does."""
    with parts.offline(Config(), store, None) as (erasure,):
        erasure.user(APP, "ann", name)


@pytest.mark.usefixtures("secret")
def test_an_erasure_leaves_no_word_of_the_user_in_the_index(store: Store) -> None:
    erase(store, name="")
    assert indexed(store, "secret"), "what they wrote stays with the others"
    erase(store)
    assert not indexed(store, "secret")


@pytest.mark.usefixtures("secret")
def test_an_erasure_waits_for_a_node_that_has_died_with_the_index(
    store: Store, constants: Callable[..., None]
) -> None:
    claim = f"UPDATE word_position SET leased = {{}} + {LEASE_SECONDS}"
    store.write(lambda sql: sql.execute(claim.format(sql.now)))
    patience = parts.ERASURE_PATIENCE_SECONDS
    constants(parts, ERASURE_PATIENCE_SECONDS=0.0)
    with pytest.raises(StorageUnavailable, match="works on the index of words"):
        erase(store)
    assert indexed(store, "secret")
    constants(parts, ERASURE_PATIENCE_SECONDS=patience)
    gevent.spawn_later(
        0.1, store.write, lambda sql: sql.execute("UPDATE word_position SET leased = 0")
    )
    erase(store)
    assert not indexed(store, "secret")
