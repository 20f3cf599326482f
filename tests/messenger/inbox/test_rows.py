"""Arrangements, as each kind of database keeps them."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from imserver.gateway.auth.rates import Buckets, TooManyRequests
from imserver.messenger.inbox import FEATURE
from imserver.messenger.inbox.declared import INBOX_CHANGES, InboxSettings
from imserver.messenger.inbox.inbox import Inbox
from imserver.messenger.inbox.rows import (
    Arrangement,
    ArrangementPage,
    ArrangementRefused,
    ArrangementRows,
    FolderList,
)
from imserver.messenger.inbox.wire import (
    NO_DRAFT,
    Arrange,
    Folder,
    MentionShape,
    UnsentText,
)
from imserver.plugin.storage import Store
from imserver.plugin.testing import check_tables
from tests.stores import OpenStore

LIMITS = InboxSettings(pins=2, drafts=2)
DRAFT = UnsentText("tea with @Bob? 🍵\0", 7, (MentionShape("Bob", "2"),))


@pytest.fixture
def rows(url: str, open_store: OpenStore) -> ArrangementRows:
    return ArrangementRows(open_store(url))


def since(
    rows: ArrangementRows, version: int = 0, limit: int = 10, user: str = "ann"
) -> list[Arrangement]:
    return rows.since("shop", user, version, limit).arrangements


def test_without_a_database_there_are_none(open_store: OpenStore) -> None:
    store = open_store()
    assert ArrangementRows(store).since("shop", "ann", 0, 10) == ArrangementPage(
        [], 0, False
    )
    assert not store.has_database


def test_each_part_changes_alone(rows: ArrangementRows) -> None:
    def changed(change: Arrange) -> tuple[Arrangement, bool]:
        return rows.change("shop", "ann", change, LIMITS)

    assert changed(Arrange(1, pinned=5)) == (Arrangement(1, 1, 5, 0, 0), True)
    assert changed(Arrange(1, draft=DRAFT)) == (Arrangement(1, 2, 5, 0, 0, DRAFT), True)
    assert changed(Arrange(1, pinned=5))[1] is False
    assert changed(Arrange(1, archived=9)) == (Arrangement(1, 4, 0, 9, 0, DRAFT), True)
    assert changed(Arrange(1, pinned=6)) == (Arrangement(1, 5, 6, 0, 0, DRAFT), True)
    assert changed(Arrange(1, marked=9, pinned=0, draft=NO_DRAFT)) == (
        Arrangement(1, 6, 0, 0, 9),
        True,
    )
    assert changed(Arrange(1, marked=0)) == (Arrangement(1, 7, 0, 0, 0), True)
    assert since(rows) == [Arrangement(1, 7, 0, 0, 0)], (
        "what was removed is a change, too"
    )


def test_pages_are_in_the_order_of_the_changes(rows: ArrangementRows) -> None:
    for conversation in (3, 1, 2):
        rows.change("shop", "ann", Arrange(conversation, archived=9), LIMITS)
    rows.change("shop", "ann", Arrange(3, archived=0), LIMITS)
    rows.change("shop", "bob", Arrange(9, archived=9), LIMITS)
    rows.change("other", "ann", Arrange(9, archived=9), LIMITS)
    assert [each.conversation for each in since(rows)] == [1, 2, 3]
    page = rows.since("shop", "ann", 0, 2)
    assert ([each.conversation for each in page.arrangements], page.has_more) == (
        [1, 2],
        True,
    )
    assert [each.conversation for each in since(rows, page.version, 2)] == [3]
    assert since(rows, 4) == []


def test_folders_are_a_list_and_conversations_say_in_which_they_are(
    rows: ArrangementRows,
) -> None:
    team = Folder(7, "Team")
    friends = Folder(3, "Friends")
    rows.change("shop", "ann", Arrange(1, folders=(7, 3, 7)), LIMITS)
    assert rows.set_folders("shop", "ann", (team, friends)) == (
        FolderList(2, (team, friends)),
        True,
    )
    assert rows.set_folders("shop", "ann", (team, friends)) == (
        FolderList(2, (team, friends)),
        False,
    )
    assert rows.change("shop", "ann", Arrange(2, folders=(7,)), LIMITS)[0].version == 4
    page = rows.since("shop", "ann", 0, 1)
    first = Arrangement(1, 1, 0, 0, 0, folders=[3, 7])
    assert page == ArrangementPage([first], 1, True, FolderList(2, (team, friends)))
    page = rows.since("shop", "ann", 1, 2)
    assert (page.version, [each.folders for each in page.arrangements]) == (4, [[7]])
    assert page.folders is not None
    assert rows.since("shop", "ann", page.version, 2) == ArrangementPage([], 4, False)
    assert rows.set_folders("shop", "ann", (friends,))[0].version == 5
    assert rows.since("shop", "ann", 4, 2) == ArrangementPage(
        [], 5, False, FolderList(5, (friends,))
    )
    rows.change("shop", "ann", Arrange(1, folders=()), LIMITS)
    assert since(rows, 5)[0] == Arrangement(1, 6, 0, 0, 0)
    assert rows.since("shop", "bob", 0, 2).folders is None


def test_pins_and_drafts_have_limits(rows: ArrangementRows) -> None:
    for conversation in (1, 2):
        rows.change("shop", "ann", Arrange(conversation, pinned=1, draft=DRAFT), LIMITS)
    for name, value in (("pins", {"pinned": 1}), ("drafts", {"draft": DRAFT})):
        with pytest.raises(ArrangementRefused) as refused:
            rows.change("shop", "ann", Arrange(3, **value), LIMITS)
        assert refused.value.problem.code == f"too_many_{name}"
    rows.change("shop", "ann", Arrange(2, pinned=9, draft=UnsentText("more")), LIMITS)
    rows.change("shop", "bob", Arrange(3, pinned=1, draft=DRAFT), LIMITS)
    rows.change("shop", "ann", Arrange(1, archived=4, draft=NO_DRAFT), LIMITS)
    rows.change("shop", "ann", Arrange(3, pinned=1, draft=DRAFT), LIMITS)


def test_changes_at_the_same_time_have_different_versions(
    url: str, open_store: OpenStore
) -> None:
    nodes = [ArrangementRows(open_store(url)) for _ in range(4)]
    together = Barrier(len(nodes))

    def pin(conversation: int) -> bool:
        together.wait()
        try:
            nodes[conversation - 1].change(
                "shop", "ann", Arrange(conversation, pinned=1), LIMITS
            )
        except ArrangementRefused:
            return False
        return True

    with ThreadPoolExecutor(len(nodes)) as threads:
        assert sum(threads.map(pin, range(1, len(nodes) + 1))) == LIMITS.pins
    assert len({each.version for each in since(nodes[0])}) == LIMITS.pins


def test_those_of_a_user_and_of_an_app_are_erased_and_exported(url: str) -> None:
    def fill(store: Store, app: str, user: str) -> None:
        ArrangementRows(store).change(app, user, Arrange(1, pinned=1), LIMITS)
        ArrangementRows(store).set_folders(app, user, (Folder(7, "Team"),))

    check_tables(FEATURE, fill, url)


def test_a_user_pays_for_changes(open_store: OpenStore) -> None:
    store = open_store()
    send: Any = None  # there is nothing to send
    changes = Buckets(INBOX_CHANGES, number=1, seconds=60)
    inbox = Inbox(store, ArrangementRows(store), send, InboxSettings(), changes)
    change = Arrange(1, pinned=1)
    for by_user in (False, False, True):
        with pytest.raises(ArrangementRefused):
            inbox.arrange("shop", "ann", change, by_user=by_user)
    with pytest.raises(TooManyRequests):
        inbox.arrange("shop", "ann", change)
    with pytest.raises(TooManyRequests):
        inbox.set_folders("shop", "ann", ())
    with pytest.raises(ArrangementRefused):
        inbox.arrange("shop", "bob", change)
