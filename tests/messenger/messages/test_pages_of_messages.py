"""Pages of stored messages hold no more bytes than a slow line can do with, whatever the limit of entries."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imserver.gateway.cluster import history
from imserver.messenger.messages.log import contract
from imserver.messenger.messages.log.contract import Entry
from imserver.messenger.messages.log.message_log import MessageLog
from tests.messenger.messaging_harness import Node
from tests.security.node_harness import ADMIN, Harness, config
from tests.users import User

BOUND = 1000


@pytest.fixture(autouse=True)
def _low_bound(constants: Callable[..., None]) -> None:
    constants(history, PAGE_BYTES=BOUND)


def entries(*sizes: int) -> list[Entry]:
    return [
        Entry(id=number, conversation=1, seq=number, sender="ann", body=b"x" * size)
        for number, size in enumerate(sizes, 1)
    ]


@pytest.mark.parametrize(
    ("sizes", "oldest", "newest"),
    [
        ((), [], []),
        ((BOUND // 2, BOUND // 2), [1, 2], [1, 2]),
        ((5 * BOUND,), [1], [1]),
        ((BOUND // 2, BOUND // 2, 1), [1, 2], [2, 3]),
        ((BOUND, 1), [1], [2]),
        ((BOUND + 1, 1), [1], [2]),
        ((1, BOUND + 1), [1], [2]),
        ((BOUND + 1, BOUND + 1, BOUND + 1), [1], [3]),
        ((BOUND + 1, 0, 1), [1], [2, 3]),
    ],
)
def test_as_many_as_fit_and_one_at_least(
    sizes: tuple[int, ...], oldest: list[int], newest: list[int]
) -> None:
    for cut, expected in ((contract.oldest_page, oldest), (contract.newest_page, newest)):
        for more in (False, True):
            found, further = cut(entries(*sizes), more)
            assert [entry.id for entry in found] == expected
            assert further is (more or len(expected) < len(sizes))


def send_texts(node: Node, count: int) -> None:
    ann = node.speaker("ann", cursor=0)
    for number in range(count):
        assert ann.send("bob", f"{number}".ljust(BOUND // 3))[0] == 200


def ids(page: Any) -> list[int]:
    return [each["id"] for each in page["messages"]]


def test_a_sync_goes_on_behind_what_the_page_held_and_ends_live() -> None:
    with Node() as node:
        send_texts(node, 7)
        assert node.speaker("bob", cursor=0).login == (200, {"recovered": False}), "it missed too many bytes"
        assert node.speaker("bob", cursor=5).login == (200, {"recovered": True})
        bob = node.speaker("bob")
        seen: list[int] = []
        more = True
        while more:
            _, page = bob.ask("sync", {"cursor": seen[-1] if seen else 0, "limit": 200})
            assert 1 <= len(page["messages"]) <= 3
            seen += ids(page)
            more = page["hasMore"]
        assert seen == [1, 2, 3, 4, 5, 6, 7]
        node.speaker("ann", cursor=7).send("bob", "live")
        bob.settle()
        assert bob.texts() == ["live"]


def test_a_reader_of_the_api_must_begin_anew_if_entries_expire_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = Harness(config(tmp_path))
    try:
        log, admin = harness.node.core.store.part(MessageLog), User(harness, ADMIN.key, app="201")
        log.writer.append("201", [contract.Draft(sender="ann", to_user="bob")] * 3)
        sync = log.entries.sync

        def expiring(*arguments: Any) -> Any:
            log.expire("201", more_than=1)
            return sync(*arguments)

        monkeypatch.setattr(log.entries, "sync", expiring)
        page = admin.get("messages/sync", user="bob", after=1, limit=10)
        assert (page["messages"], page["begin_anew"]) == ([], True)
    finally:
        harness.close()
