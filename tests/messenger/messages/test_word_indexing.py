"""What fills the index of words: a node, and the command that makes it anew."""

from pathlib import Path

import pytest

from imserver.messenger.messages.commands import Search
from imserver.messenger.messages.log.contract import Draft
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.messenger.messages.log.words import SEGMENT
from imserver.messenger.messages.message_search import WordIndexing
from tests.stores import OpenStore
from tests.support import run_cli


def send(log: MessageLog, count: int, text: str = "a needle") -> None:
    log.writer.append("gochat", [Draft(sender="ann", to_user="bob", body=text.encode())] * count)


def indexed(log: MessageLog) -> int:
    """How many segments are in the index."""
    return log.words.next_end("gochat")[0] // SEGMENT


def test_a_node_adds_what_others_stored_before_and_what_it_stores(
    tmp_path: Path, open_store: OpenStore
) -> None:
    other = open_store().part(MessageLog)
    send(other, SEGMENT)
    store = open_store()
    log, indexing = store.part(MessageLog), WordIndexing(store)
    indexing.look()
    assert indexed(log) == 1
    send(log, SEGMENT - 2)
    indexing.look()
    assert indexed(log) == 1, "the second one is not whole"
    send(log, 1)
    indexing.look()
    assert indexed(log) == 2


def test_a_node_merges_what_any_node_has_changed(tmp_path: Path, open_store: OpenStore) -> None:
    other = open_store().part(MessageLog)
    send(other, SEGMENT, "a secret")
    assert other.words.fill("gochat")
    other.writer.append("gochat", [Draft(sender="ann", kind="recall", about=1, conversation=1)])
    store = open_store()
    log, indexing = store.part(MessageLog), WordIndexing(store)
    assert log.words.changed() == ["gochat"]
    indexing.merge()
    assert log.words.changed() == []


@pytest.mark.parametrize("apps", [(), ("gochat",)])
def test_the_command_makes_the_index_anew(
    tmp_path: Path, open_store: OpenStore, apps: tuple[str, ...]
) -> None:
    store = open_store()
    log = store.part(MessageLog)
    send(log, SEGMENT)
    assert log.words.fill("gochat")
    store.write(lambda sql: sql.execute("UPDATE word SET terms = %s", (b"\x80",)))
    assert len(log.search.find("gochat", "bob", Search("needle", 0, 0, 5))[0]) == 1, "what is in no index"
    done = run_cli("search", "rebuild", "--data-dir", str(tmp_path), *apps)
    assert done.stdout == "gochat: 1 segments\n", done.stderr
    assert len(log.search.find("gochat", "bob", Search("needle", 0, 0, 5))[0]) == 5
    absent = run_cli("search", "rebuild", "--data-dir", str(tmp_path), "none")
    assert (absent.returncode, absent.stderr) == (1, "imserver: app none has no messages\n")
