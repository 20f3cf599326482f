"""House rules in the database, on each engine."""

from imserver.operate.safety.house_rules import CHARACTERS, HouseRules
from tests.stores import OpenStore


def test_rules_are_replaced_and_removed(url: str, open_store: OpenStore) -> None:
    store = open_store(url, seconds=10)
    rules = HouseRules(store, {"shop"}.__contains__)
    for text in ("Be kind.", "守" * CHARACTERS, ""):
        rules.set("shop", text)
        assert (
            rules.of("shop")
            == HouseRules(store, {"shop"}.__contains__).of("shop")
            == text
        )
    assert rules.of("other") == ""
