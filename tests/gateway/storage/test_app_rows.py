"""The rows of an app and of a user, and their deletion."""

from imserver.backends.webhooks.event_rows import EventStore, NewEvent
from imserver.media.uploads import upload_rows
from imserver.media.uploads.contract import FILE_BYTES, Upload, Usage
from imserver.messenger.messages.log.contract import Draft
from imserver.messenger.messages.log.message_log import MessageLog
from tests.stores import OpenStore


def test_an_app_is_deleted_and_created_again(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    assert store.add_app("shop", {"max_channels": 3})
    assert not store.delete_app("tea")
    assert store.delete_app("shop")
    assert not store.delete_app("shop")
    assert not store.change_app("shop", {"max_channels": 4})
    assert store.is_deleted("shop")
    assert store.add_app("shop", {})
    assert not store.is_deleted("shop")
    assert store.delete_app("shop")


def test_a_deletion_that_is_still_running_spares_the_app_that_was_created_anew(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    events = EventStore(store)
    note = NewEvent("shop", "ann", "absent", b"{}")
    store.add_app("shop", {})
    assert events.append([note]) == {"shop": 1}
    store.delete_app("shop")
    store.delete_rows("shop")
    store.add_app("shop", {})
    assert events.append([note]) == {"shop": 2}, "no id is given again"
    store.delete_rows("shop")
    assert [event.id for event in events.read("shop", 0, 10)] == [2]
    feed = events.claim({"shop": None}, "node", 10)["shop"]
    assert (feed.last_id, feed.event_id) == (2, 1), "the feed began anew behind the old events"


def test_rows_of_files_are_erased_unless_a_feature_erases_them(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    store.add_app("shop", {})
    for user in ("ann", "bob"):
        row = Upload(user, "shop", user, "file", "text/plain", "a", 5, "", 1)
        assert store.write(lambda sql, row=row: upload_rows.add(sql, row, 10_000, 10_000))
    store.delete_rows_of_user("shop", "ann", {"upload"})
    assert store.contents("shop").uploads == 2
    store.delete_rows_of_user("shop", "ann")
    assert store.contents("shop").uploads == 1
    assert store.read(lambda sql: upload_rows.usage(sql, "shop", "ann")) == Usage()
    again = Upload("new", "shop", "ann", "file", "text/plain", "a", 5, "", 1)
    quota = 2 * (5 + FILE_BYTES)
    assert store.write(lambda sql: upload_rows.add(sql, again, quota, quota)), "the total is counted anew"
    assert store.read(lambda sql: upload_rows.usage(sql, "shop", upload_rows.TOTAL)) == Usage(10, 2)
    store.delete_app("shop")
    store.delete_rows("shop", {"upload"})
    assert store.contents("shop").uploads == 2
    store.delete_rows("shop")
    assert store.contents("shop").uploads == 0


def test_the_messages_of_an_app_are_those_of_its_log(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    store.add_app("shop", {})
    assert store.contents("shop").messages == 0
    store.part(MessageLog).writer.append("shop", [Draft(sender="a", to_user="b")] * 5)
    assert store.contents("shop").messages == 5
    store.part(MessageLog).expire("shop", more_than=2)
    assert store.contents("shop").messages == 2
